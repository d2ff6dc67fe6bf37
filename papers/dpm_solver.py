"""DPM-Solver++: of the ODE of DDIM, what is known is solved exactly, and the rest is a line.

Lu, Zhou, Bao, Chen, Li & Zhu 2022, "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model
Sampling in Around 10 Steps" (arXiv:2206.00927), sec. 3 and 4.1, and "DPM-Solver++: Fast Solver for
Guided Sampling of Diffusion Probabilistic Models" (arXiv:2211.01095), Proposition 4.1, Algorithm 2.

    python -m papers.dpm_solver [--checkpoint F] [--n 64]

Their alpha_t and sigma_t are our sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), their s and t our t
and s.  On the clock lambda_t = log(alpha_t / sigma_t) only the network is left under the integral:

    x_s / sigma_s = x_t / sigma_t + integral of exp(lambda) x_0_hat from lambda_t to lambda_s

With x_0_hat held fixed this is a jump of DDIM: the method of first order.  2M, of second order and
still one evaluation a jump, draws a line through the last two x_0_hat, and jumps as DDIM does to
the point of the line in the middle.  Where PNDM (papers/pndm.py) averages eps_theta with weights
for even steps of t, these weights know how far apart in lambda the times are.

The second order is proved for steps of lambda that all become short.  Where times are even in t
the last do not: from a small 2 t to t lambda changes by log 2.  With few evaluations such times can
be the better ones nevertheless.  Nothing is clipped or thresholded here.

The picture: the error on Gaussian data, whose ODE is known, beside PNDM's and Heun's, and on digits
the distance to the solution and the Frechet distance, against evaluations, over five seeds.
"""
import math

import torch
from matplotlib.figure import Figure

import data
from ddpm import DDPM
from papers import ddim, pndm
from papers.kit.analytic import Mixture, eps_from_x_0, follow_gaussian, ve_sigmas
from papers.kit.chain import first_noise, horizon, subsequence
from papers.kit.judge import check_readable, features, frechet, load_reader, read, rms
from papers.kit.ode import heun_method
from papers.kit.program import finish, flags, held_out, program, show_lines, show_rows, start
from plumbing.cli import track
from schedules import cosine_beta_schedule

BUDGETS, FINE, SEEDS = (5, 10, 20), 100, 5           # evaluations, those of the solution


def half_log_snr(ddpm):
    """Return lambda_t = log(alpha_t / sigma_t), (T + 1,) float64; at t = 0 it is infinite."""
    return -ve_sigmas(ddpm.exact).log()


def even(ddpm, end, steps):
    """Choose as many times, a list of increasing ints, at even distances of lambda from 1 to `end`.

    They are the nearest there are or, where lambda changes faster than there are times, the next.
    `end` is in 1..T, steps in 1..end.
    """
    known, times = half_log_snr(ddpm)[1:end + 1], [end]
    wanted = torch.linspace(known[-1], known[0], steps, dtype=known.dtype)[1:]
    for left, each in zip(range(steps - 1, 0, -1), wanted, strict=True):
        nearest = (known - each).abs().argmin().item() + 1
        times.append(max(left, min(nearest, times[-1] - 1)))
    return times[::-1]


@torch.no_grad()
def sample(ddpm, model, x_T, times, order=2):
    """Solve the ODE of DDIM with one evaluation a jump.  DPM-Solver++, Algorithm 2 (2M).

        x_s = sigma_s / sigma_t x_t - alpha_s (exp(-h) - 1) D,   h = lambda_s - lambda_t
        D = (1 + 1 / (2 r)) x_0_hat - 1 / (2 r) x_0_hat',   r = (lambda_t - lambda_t') / h

    x_0_hat' and t' are those of the jump before.  In the first jump, which has none before it, and
    in the last, to s = 0, where h is infinite, D is x_0_hat, as always where the order is 1.

    exp(-h) is (sigma_s / alpha_s) / (sigma_t / alpha_t).  So x_s is

        alpha_s D + sigma_s (x_t - alpha_t D) / sigma_t

    the jump of DDIM that takes D for x_0, and is so computed.

    Args:
        ddpm, model: as for `ddim.step`.
        x_T: (B, ...) noise at the last of the times.
        times: increasing ints in 1..T, an evaluation each; see `even`, `subsequence`, `horizon`.
        order: 2, or 1 for DDIM with eta = 0.

    Returns:
        (B, ...) images x_0, not clipped.

    Raises:
        ValueError: the times are none, do not increase or leave 1..T.
    """
    known, x_t, before = half_log_snr(ddpm), x_T, None
    for s, t in reversed(ddim.jumps(ddpm, times)):
        D = x_0_hat = ddpm.estimate_x_0(model, x_t, t, clip=False)
        if order == 2 and before and s > 0:
            x_0_before, t_before = before
            r = (known[t] - known[t_before]) / (known[s] - known[t])
            D = x_0_hat + (x_0_hat - x_0_before) / (2 * r)
        x_t = ddpm.q_sample(D, s, eps_from_x_0(ddpm, x_t, t, D))
        before = x_0_hat, t
    return x_t


# ---- the picture ----

METHODS = {                                          # called with ddpm, model, x_T, end, steps
    "DDIM": lambda *what: sample(*what[:3], subsequence(*what[3:]), order=1),
    "PNDM": lambda *what: pndm.sample(*what[:3], pndm.even(*what[3:])),
    "2M, even in t": lambda *what: sample(*what[:3], subsequence(*what[3:])),
    "2M, even in lambda": lambda *what: sample(*what[:3], even(what[0], *what[3:])),
}


def converge():
    """Return {method: {steps: RMS error}} on Gaussian data, where `pndm.converge` has its own.

    Heun's method goes in even steps of t along d(x_t / alpha_t) / dt = eps* d(sigma / alpha) / dt.
    """
    T, m, std = 4096, 0.3, 0.5
    ddpm = DDPM(cosine_beta_schedule(T, s=0)).double()
    model, end, alpha_bar = Mixture(ddpm, torch.full((1, 1), m), std), T * 7 // 8, ddpm.alpha_bar
    x_T = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    x_0 = follow_gaussian(ddpm, x_T, end, 0, m, std)

    def slope(y, t):
        a = alpha_bar[round(t)]                      # sigma / alpha is tan(pi t / 2 T)
        return math.pi / (2 * T * a) * model(a.sqrt() * y, round(t))

    def heun(ddpm, model, x_T, end, steps):
        return heun_method(slope, x_T / alpha_bar[end].sqrt(), end, 0, steps)

    return {name: {S: rms(method(ddpm, model, x_T, end, S) - x_0) for S in (16, 32, 64, 128, 256)}
            for name, method in {**METHODS, "Heun": heun}.items()}


def measure(ddpm, model, size, seeds, n, net, reference):
    """Draw n digits with each seed, from one x_T by all methods, at the time `horizon`.

    Returns {method: {evaluations: (seeds, 4)}}: the RMS distance to 2M with FINE evaluations, the
    median of 8 images, for one that ends as another digit outweighs the rest; the share recognised;
    the Frechet distance to `reference`, and less DDIM's.  And {label: images} of the first seed.
    """
    end, found, rows = horizon(ddpm) // 2 * 2, {}, {}
    for seed in track(seeds, "seeds"):
        x_T, _ = first_noise(seed, (n, 1, size, size), ddpm.beta.device)
        best, of_ddim = METHODS["2M, even in lambda"](ddpm, model, x_T[:8], end, FINE), {}
        for name, method in METHODS.items():
            for calls in BUDGETS[-1:] if name == "PNDM" else BUDGETS:
                x = method(ddpm, model, x_T, end, calls - 9 * (name == "PNDM"))
                if (seed, calls) == (seeds[0], BUDGETS[0]):
                    rows[f"{name}, {calls}"] = x[:8]
                away = (x[:8] - best).square().flatten(1).mean(1).sqrt().median().item()
                x = x.clamp(-1, 1)
                far = frechet(features(net, x), reference)
                found.setdefault(name, {}).setdefault(calls, []).append((
                    away, read(net, x)[0].float().mean().item(), far,
                    far - of_ddim.setdefault(calls, far)))
        rows.setdefault(f"solution, {FINE}", best)
    return {name: {calls: torch.tensor(each) for calls, each in line.items()}
            for name, line in found.items()}, rows


def draw_figure(known, found, rows):
    """Draw errors on Gaussian data, distances and quality on digits, and digits."""
    figure = Figure(figsize=(17, 4.4), layout="constrained")
    left, *middle, right = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.5))
    cost = {"PNDM": lambda S: S + 9, "Heun": lambda S: 2 * S}
    show_lines(left, {f"{name}, order {pndm.order(line):.2f}": {
        cost.get(name, int)(S): error for S, error in line.items()}
        for name, line in known.items()}, "Gaussian data: RMS error", "evaluations")
    left.set_ylim(bottom=1e-7)                       # room for the legend
    for axes, k, title in zip(middle, (0, 3), (
            "digits: RMS distance to the solution", "digits: Frechet distance, less DDIM's"),
            strict=True):
        for i, (name, line) in enumerate(found.items()):
            each = torch.stack(list(line.values()))[:, :, k]                 # (budgets, seeds)
            axes.errorbar([calls * 1.03 ** i for calls in line], each.mean(1), each.std(1),
                          marker="o", markersize=4, capsize=2, label=name)
        axes.set(xlabel="evaluations", xscale="log", yscale=("linear", "log")[k == 0])
        axes.set_xticks([], minor=True)
        axes.set_xticks(BUDGETS, BUDGETS)
        axes.set_title(f"{title}, {SEEDS} seeds", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    show_rows(right, rows, "from the same noise: method, evaluations")
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    check_readable(config, checkpoint)
    if horizon(ddpm) < FINE:
        raise ValueError(f"a chain of T = {ddpm.T} is too short for {FINE} evaluations")
    seeds, net = range(args.seed, args.seed + SEEDS), load_reader(device)
    print(f"{args.n} samples each of {checkpoint}, T = {ddpm.T}, on {device}, seeds {list(seeds)}")
    reference = features(net, data.to_model(held_out(config)[0]).to(device))
    found, rows = measure(ddpm, model, config["image_size"], seeds, args.n, net, reference)
    print(f"{'':20}evaluations  distance to solution  recognised  Frechet distance, less DDIM's")
    for name, line in found.items():
        for calls, each in line.items():
            print(f"{name:20}{calls:11}  {{:.4f}} +- {{:.4f}}  {{:.1%}} +- {{:.1%}}  {{:.1f}} +- "
                  "{:.1f}  {:.1f} +- {:.1f}".format(*torch.stack([each.mean(0), each.std(0)], 1)
                                                    .flatten().tolist()))
    known, n = converge(), BUDGETS[-1]
    orders = ", ".join(f"{pndm.order(line):.2f} ({name})" for name, line in known.items())
    close = ", ".join(f"{line[n][:, 0].mean():.4f} ({name})" for name, line in found.items())
    finish(draw_figure(known, found, rows), args.out,
           f"order on Gaussian data: {orders}; RMS distance of digits to the solution, with {n} "
           f"evaluations: {close}")


def main(argv=None):
    program(flags(__doc__, "dpm_solver.png", 64, least=2, help="samples of each, for each seed"),
            run, argv)


if __name__ == "__main__":
    main()
