"""PNDM: the ODE of DDIM, solved by methods of higher order.

Liu, Ren, Lin & Zhao 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds"
(arXiv:2202.09778), Eq. 9, 11, 12 and 13, Algorithm 2.

    python -m papers.pndm [--checkpoint F]

Its alpha-bar is ours, and its t and t - delta are our t and s.  A classical method for an ODE
averages gradients and goes straight ahead.  A pseudo one averages eps_theta and then jumps as DDIM
does: Runge-Kutta for the first three jumps (PRK, four evaluations each), and then, with four eps
known, Adams and Bashforth's weights (PLMS, one evaluation each).

How fast does that converge?  With sigma = sqrt(1 / alpha_bar - 1), a jump is eps' times the change
of sigma, and eps' a mean of eps that is even in t.  The two are a product of means, not the mean of
a product: each jump of length h errs by h^3 / 12 sigma'' eps' (derivatives by t), so that PNDM is
of second order, and of fourth where sigma is linear in t; tests/papers/test_pndm.py measures both.
"""
import numpy as np
import torch
from matplotlib.figure import Figure

from ddpm import DDPM
from papers import ddim
from papers.kit.analytic import Mixture, follow_gaussian
from papers.kit.chain import ask, first_noise, horizon, subsequence
from papers.kit.judge import apart, rms
from papers.kit.program import counted, finish, flags, program, show_lines, show_rows, start
from sample import batch_size
from schedules import cosine_beta_schedule

EVALUATIONS = (13, 16, 20, 25, 35, 50, 100)


def transfer(ddpm, x_t, eps, t, s):
    """Jump from x_t to x_s along a given eps: the transfer part phi.  Liu et al. 2022, Eq. 11.

        x_s = sqrt(alpha_bar_s) x_0_hat + sqrt(1 - alpha_bar_s) eps
        x_0_hat = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)

    This is Eq. 9, x_t + (alpha_bar_s - alpha_bar_t) (...), without its differences, and DDIM's
    Eq. 12 with eta = 0.  If eps is the noise in x_t, x_s is exact, however far the jump.

    Args:
        ddpm: DDPM.
        x_t, eps: (B, C, H, W).
        t, s: ints in 0..T; s may also be the later one.

    Returns:
        (B, C, H, W).
    """
    return ddpm.q_sample(ddpm.predict_x_0(x_t, t, eps), s, eps)


@torch.no_grad()
def sample(ddpm, model, x_T, times):
    """Solve the ODE of DDIM with fewer evaluations.  Liu et al. 2022, Algorithm 2 (F-PNDM).

        x_s = phi(x_t, eps', t, s)                                                     Eq. 11
        eps' = (e_1 + 2 e_2 + 2 e_3 + e_4) / 6                 the first three jumps   Eq. 13
        eps' = (55 e_t - 59 e_{t+} + 37 e_{t++} - 9 e_{t+++}) / 24         all others  Eq. 12

    where e_t = e_1 = eps_theta(x_t, t), and t+, t++, t+++ are the three times before t;

        e_2 = eps_theta(phi(x_t, e_1, t, m), m)
        e_3 = eps_theta(phi(x_t, e_2, t, m), m),   m = floor((t + s) / 2)
        e_4 = eps_theta(phi(x_t, e_3, t, s), s)

    Nothing is clipped.  The weights are for times at even distances, and m is the middle where
    t - s is even.

    Args:
        ddpm, model: as for `ddim.step`.
        x_T: (B, C, H, W) noise at the last of the times.
        times: at least four increasing ints in 1..T; see `subsequence`.  S of them cost S + 9
            evaluations.  They should end before x_0_hat magnifies every error, see `horizon`.

    Returns:
        (B, C, H, W) images x_0.

    Raises:
        ValueError: the times are fewer than four, do not increase or leave 1..T.
    """
    if len(times) < 4:
        raise ValueError(f"PNDM takes at least four times, not {len(times)}")

    x_t, eps = x_T, []
    for s, t in reversed(ddim.jumps(ddpm, times)):
        eps = [ask(model, x_t, t), *eps[:3]]                              # the newest first
        if len(eps) < 4:
            m, e_1 = (t + s) // 2, eps[0]
            e_2 = ask(model, transfer(ddpm, x_t, e_1, t, m), m)
            e_3 = ask(model, transfer(ddpm, x_t, e_2, t, m), m)
            e_4 = ask(model, transfer(ddpm, x_t, e_3, t, s), s)
            mean = (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6
        else:
            mean = (55 * eps[0] - 59 * eps[1] + 37 * eps[2] - 9 * eps[3]) / 24
        x_t = transfer(ddpm, x_t, mean, t, s)
    return x_t


def even(end, steps):
    """Choose times as `subsequence` does, all even, so that there are times in the middle."""
    return [2 * t for t in subsequence(end // 2, steps)]


# ---- the picture ----

def solve(ddpm, model, x_T, end, steps, fewer=0):
    """Run both samplers from x_T at time `end`; return {sampler: {steps: x_0}}.

    PNDM takes `fewer` steps: 9 for as many evaluations as DDIM.
    """
    return {"DDIM": {S: ddim.sample(ddpm, model, x_T, subsequence(end, S), clip=False)
                     for S in steps},
            "PNDM": {S: sample(ddpm, model, x_T, even(end, S - fewer)) for S in steps}}


def converge():
    """Return {sampler: {steps: RMS error}} on data whose ODE is known, N(0.3, 0.5^2), in float64.

    The schedule is the cosine one without its offset, so that sigma = tan(t / T pi / 2) is smooth
    at 0 too.  In the usual ones sigma leaps from 0 at t = 0 to sqrt(beta_1) at t = 1, and in the
    end PNDM falls back to first order, with an error some 30 times smaller than DDIM's.
    """
    T, m, s = 4096, 0.3, 0.5
    ddpm = DDPM(cosine_beta_schedule(T, s=0)).double()
    model, end = Mixture(ddpm, torch.full((1, 1), m), s), T * 7 // 8
    x_T = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    x_0 = follow_gaussian(ddpm, x_T, end, 0, m, s)
    return {name: {S: rms(x - x_0) for S, x in line.items()}
            for name, line in solve(ddpm, model, x_T, end, (16, 32, 64, 128, 256)).items()}


def order(errors, last=3):
    """Fit log error = const - order log steps to the last points of {steps: error}."""
    steps, errors = (np.log(list(values))[-last:] for values in (errors, errors.values()))
    return -np.polyfit(steps, errors, 1)[0]


def draw_figure(known, errors, samples, best, end):
    """Draw the errors {sampler: {steps: error}} and the samples {sampler: {steps: x_0}}."""
    figure = Figure(figsize=(14, 5.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    cost = {f"{name}, order {order(line):.2f}": {
        S + (9 if name == "PNDM" else 0): error for S, error in line.items()}
        for name, line in known.items()}
    show_lines(left, cost, "Gaussian data, whose ODE is known: RMS error", "evaluations")
    show_lines(middle, errors, f"the network: RMS distance to DDIM in {end} steps",
               "evaluations")
    counts = list(samples["DDIM"])[::3][:3]
    rows = {f"{name}, {n}": samples[name][n] for n in counts for name in samples}
    show_rows(right, {**rows, f"DDIM, {end}": best},
              "from the same noise, by sampler and evaluations", most=8)
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    C, H, end = config["image_channels"], config["image_size"], horizon(ddpm) // 2 * 2
    print(f"PNDM with {checkpoint}, T = {ddpm.T}, on {device}")
    counts = [n for n in EVALUATIONS if n <= end and n - 9 <= end // 2]
    if not counts:
        raise ValueError(f"a chain of T = {ddpm.T} is too short to save {EVALUATIONS[0]} steps")
    model = counted(model, end + 2 * sum(counts))
    x_T, _ = first_noise(args.seed, (min(16, batch_size(H)), C, H, H), device)
    best = ddim.sample(ddpm, model, x_T, range(1, end + 1), clip=False)
    samples = solve(ddpm, model, x_T, end, counts, fewer=9)
    errors = {name: {n: apart(x, best) for n, x in line.items()} for name, line in samples.items()}
    known, n = converge(), counts[-4:][0]
    finish(draw_figure(known, errors, samples, best, end), args.out,
           f"On Gaussian data DDIM converges with order {order(known['DDIM']):.2f} and PNDM with "
           f"{order(known['PNDM']):.2f}; with this network and {n} evaluations they end at an "
           f"RMS distance of {errors['DDIM'][n]:.4f} and {errors['PNDM'][n]:.4f} from DDIM "
           f"in {end} steps")


def main(argv=None):
    program(flags(__doc__, "pndm.png"), run, argv)


if __name__ == "__main__":
    main()
