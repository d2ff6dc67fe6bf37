"""The chain in continuous time: three SDEs, their reverse, their ODE, and the likelihood it gives.

Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations"
(arXiv:2011.13456), Eq. 3, 5 to 9, 11 to 13, 29, 38 to 40 and 46, Algorithms 1, 3 and 5.

    python -m papers.score_sde [--checkpoint F] [--data NAME] [--n 32]

It draws samples of four solvers and three SDEs from the same noise, and bits/dim of the ODE beside
the chain's, papers/variational_bound.py.  The paper's alpha_i is our alpha_bar_t, its t our t / T.

    B(t) = integral of beta(s) ds from 0 to t,   alpha_bar_t = exp(-B(t))                  (Eq. 29)

is that of our chain at t = 0, 1, ..., T, whatever its schedule, and linear in between.  The ODE is
solved on the clock c = log B, where it is smooth at both ends; its solution depends on no clock.

- Nothing is trained: L_simple is Eq. 7 with their lambda(t) = 1 - alpha_bar_t.
- A kernel N(m x_0, s^2 I) of Eq. 29 is that of m (x_0 + w), w Brownian motion with the variance
  (s / m)^2.  Where it is the same, x is k x_t, in each SDE with a k of its own: one network has the
  score of all, and only solvers tell them apart.  (p_T is N(0, k^2 I), for VE sigma_T^2 + 1.)
- All stop at t = 1, the last time the network was trained on, at T = 1000 the paper's epsilon of
  10^-3 (there its SDE has the variance 1.10e-4; x_1 has 1.00e-4 in the linear chain, 4.1e-5 in the
  cosine one), 10^-5 for likelihoods.  Samples then take one step of denoising (appendices C, G).
- The density of x_1 is exact but for the solver.  The bits/dim are a bound, of dequantised pixels
  that are taken for x_1; in the program, the mean of 4 draws.
- x_T is at B(t) = 10.2, if the schedule goes further (the paper's SDE ends at 10.05): the last 4 of
  1000 steps of the cosine chain, to 19.8, would only blow up what the network does wrong.
"""
import math

import numpy as np
import torch
from matplotlib.figure import Figure

import data
from papers import variational_bound
from papers.kit.chain import first_noise, noise_like
from papers.kit.judge import apart
from papers.kit.ode import dormand_prince, heun_method
from papers.kit.program import (chosen, finish, flags, held_out, program, show_rows, start,
                                with_error)
from plumbing.cli import track
from sample import batch_size

B_MAX, RUNS = 10.2, 4


class VPSDE:
    """The SDE that our chain, Eq. 10, discretises, with the score of a model.  Song et al. 2021.

        dx = f x dB + k dw,   f = d log k / dB - 1 / 2            forward, Eq. 5; if k = 1, Eq. 11
        dx = (f x - k^2 score) dB + k dw                          reverse, Eq. 6
        dx = (f x - k^2 score / 2) dB                             the ODE, Eq. 13

    `start` and `end` are the clock c = log B(t) at the times of x_T and of x_1, with k_T and k_1.
    """

    def __init__(self, ddpm, model):
        self.model = model
        self.t, self.B = np.arange(ddpm.T + 1), -ddpm.exact.alpha_bar.log().numpy()
        self.start, self.end = math.log(min(self.B[-1], B_MAX)), math.log(self.B[1])
        self.k_T, self.k_1 = (self.k(c)[0] for c in (self.start, self.end))

    def k(self, c):
        """Return k, f: x is k x_t, in Eq. 29 m = k exp(-B / 2) and s^2 = k^2 (1 - exp(-B))."""
        return 1.0, -0.5

    def score(self, x, c):
        """Return s_theta(x, t) of Eq. 3 and 7, the score: -eps_theta(x / k, t) / s."""
        B, (k, _) = math.exp(c), self.k(c)
        t = torch.full((len(x),), np.interp(B, self.B, self.t), dtype=x.dtype, device=x.device)
        return -self.model(x / k, t) / (k * math.sqrt(1 - math.exp(-B)))

    def flow(self, x, c):
        """Return dx/dc of the probability flow ODE, Eq. 13, where beta(t) dt = dB = B dc."""
        k, f = self.k(c)
        return math.exp(c) * (f * x - k * k / 2 * self.score(x, c))

    def steps(self, n):
        """Yield n steps (c_t, c_s, 1 - alpha_bar_t / alpha_bar_s), even in t; that is for dB."""
        start, end = np.interp(np.exp([self.start, self.end]), self.B, self.t)
        c = np.log(np.interp(np.linspace(start, end, n + 1), self.t, self.B)).tolist()
        for c_t, c_s in track(list(zip(c, c[1:], strict=False)), "solving the SDE, steps"):
            yield c_t, c_s, 1 - math.exp(math.exp(c_s) - math.exp(c_t))


class VESDE(VPSDE):
    """The SDE of NCSN's chain, Eq. 8, 9: dx = sqrt(d sigma^2 / dt) dw; m = 1 and s = sigma."""
    def k(self, c):
        return math.exp(math.exp(c) / 2), 0.0


class SubVPSDE(VPSDE):
    """Eq. 12: m = exp(-S / 2), s = 1 - exp(-S), S its integral of beta; s / m = 2 sinh(S / 2)."""
    def k(self, c):
        S = 2 * math.asinh(math.sqrt(math.expm1(math.exp(c))) / 2)
        k = math.hypot(math.exp(-S / 2), math.expm1(-S))
        return k, k * k / 2 / math.expm1(-2 * S)                 # Eq. 12: k^2 dB is (1 - e^-2S) dS


# ---- samplers ----

@torch.no_grad()
def euler_maruyama(ddpm, model, x_T, steps, generator=None, sde=VPSDE):
    """Draw x_0 by the Euler-Maruyama method on the reverse SDE.  Song et al. 2021, Eq. 6.

        x_s = x_t + beta (-f x_t + k^2 score(x_t, t)) + k sqrt(beta) z

    Args:
        ddpm, model: DDPM; eps_theta, called as model(x_t, t), t (B,) float, once a step and at 1.
        x_T: (B, ...) noise, N(0, I) for each SDE.
        steps, generator, sde: an int, at least 1; one on the device of x_T; a class of the above.

    Returns:
        (B, ...) x_0, not clipped.
    """
    sde = sde(ddpm, model)
    x = sde.k_T * x_T
    for c, _, beta in sde.steps(steps):
        k, f = sde.k(c)
        x = (x + beta * (-f * x + k * k * sde.score(x, c))
             + k * math.sqrt(beta) * noise_like(x, generator))
    return ddpm.estimate_x_0(model, x / sde.k_1, 1, clip=False)


@torch.no_grad()
def predictor_corrector(ddpm, model, x_T, steps, snr=0.16, generator=None):
    """Draw x_0 by predictor-corrector sampling, VP.  Song et al. 2021, Algorithms 1, 3 and 5.

        x_s = (2 - sqrt(1 - beta)) x_t + beta score(x_t, t) + sqrt(beta) z       predictor, Eq. 46
        x_s = x_s + step score(x_s, s) + sqrt(2 step) z                          corrector, Langevin
        step = 2 (1 - beta) (snr ||z|| / ||score||)^2

    The predictor is Eq. 46 for the chain of Eq. 10.  ||z|| is sqrt(D), as the paper has it for
    small batches, and ||score|| a mean over the batch.  Here alpha_i is 1 - beta of the
    step just taken, in the authors' code 1 - beta_i; by sec. 2.2 it would be alpha_bar.  They
    correct first.  snr is the paper's r; 0.16 is theirs for CIFAR-10, by Table 5 the best for the
    VE SDE (for VP in 1000 steps, 0.01).  Else as `euler_maruyama`, with two calls in a step.
    """
    sde, x = VPSDE(ddpm, model), x_T
    for c_t, c_s, beta in sde.steps(steps):
        x = ((2 - math.sqrt(1 - beta)) * x + beta * sde.score(x, c_t)
             + math.sqrt(beta) * noise_like(x, generator))
        score = sde.score(x, c_s)
        ratio = snr * math.sqrt(x[0].numel()) / score.flatten(1).norm(dim=1).mean()
        step = 2 * (1 - beta) * ratio ** 2
        x = x + step * score + (2 * step).sqrt() * noise_like(x, generator)
    return ddpm.estimate_x_0(model, x, 1, clip=False)


@torch.no_grad()
def heun(ddpm, model, x_T, steps):
    """Solve the ODE of VP, Eq. 13, by Heun's method, in even steps of c, with two calls in each."""
    sde = VPSDE(ddpm, model)
    x_1 = heun_method(sde.flow, x_T, sde.start, sde.end, steps)
    return ddpm.estimate_x_0(model, x_1, 1, clip=False)


@torch.no_grad()
def adaptive(ddpm, model, x_T, rtol=1e-2, atol=1e-2, sde=VPSDE):
    """Solve the ODE, Eq. 13, with steps of adapted size.  Song et al. 2021, appendix D.4.

    Takes what `euler_maruyama` and `dormand_prince` do; returns x_0 and the count of evaluations.
    """
    sde = sde(ddpm, model)
    x_1, calls = dormand_prince(sde.flow, sde.k_T * x_T, sde.start, sde.end, rtol, atol)
    return ddpm.estimate_x_0(model, x_1 / sde.k_1, 1, clip=False), calls + 1


# ---- likelihood ----

@torch.no_grad()
def log_likelihood(ddpm, model, x_1, rtol=1e-4, atol=1e-4, generator=None, sde=VPSDE):
    """Return log p_1(x_1) of the density that the ODE makes of p_T.  Song et al. 2021, Eq. 39.

        log p_1(x_1) = log N(x_T; 0, k^2 I) + integral of div f(x_t, t) dt from 1 to T
        div f = E[v^T (df/dx) v],   v = +-1 in each pixel, the same for all t              (Eq. 40)

    f is the right side of Eq. 13 with the model's score (Eq. 38), by which it must be possible to
    differentiate; x_T is where it takes x_1, (B, ...) in the scale of the SDE.  The rest is as for
    `euler_maruyama` and `dormand_prince`.  Returns (B,) float64 nats, on the CPU, unbiased but for
    the error of the solver.
    """
    sde = sde(ddpm, model)
    v = torch.randint(0, 2, x_1.shape, generator=generator, device=x_1.device).to(x_1) * 2 - 1

    def flow(y, c):                                              # of x_t beside the integral
        with torch.enable_grad():
            x_t = y[:, :-1].reshape(x_1.shape).requires_grad_()
            slope = sde.flow(x_t, c)
            product, = torch.autograd.grad(slope, x_t, v)        # v^T df/dx
        return torch.cat([slope.detach().flatten(1), (product * v).flatten(1).sum(1)[:, None]], 1)

    y = torch.cat([x_1.flatten(1), x_1.new_zeros(len(x_1), 1)], 1)           # (B, D + 1)
    y, _ = dormand_prince(flow, y, sde.end, sde.start, rtol, atol)
    x_T, integral = y[:, :-1].cpu().double(), y[:, -1].cpu().double()
    return integral - ((x_T / sde.k_T) ** 2 + math.log(2 * math.pi * sde.k_T ** 2)).sum(1) / 2


def bits_per_dim(ddpm, model, x, rtol=1e-4, atol=1e-4, generator=None):
    """Return the bits/dim of images by uniform dequantisation.  Song et al. 2021, sec. 4.3.

        -log2 P(k) / D <= E[-log2 p_1((k + u - 1/2) / 127.5 - 1)] / D + log2 127.5,   u ~ U[0, 1)

    P(k) is the integral of p_1 over bins 1/127.5 wide, around the values that pixels have.  Of x,
    (B, C, H, W) uint8 pixels k, it returns (B,) float64, for one u and one v drawn for each image.
    """
    u = torch.rand(x.shape, generator=generator, device=x.device)
    x_1 = data.to_model(x) + (u - 0.5) / 127.5
    nats = -log_likelihood(ddpm, model, x_1, rtol, atol, generator)
    return nats / (x[0].numel() * math.log(2)) + math.log2(127.5)


# ---- the picture ----

def draw_figure(drawn, ode, chain):
    """Draw samples {name: (x_0, evaluations)}, of one x_T in each column, and bits/dim."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    show_rows(left, {f"{name}\n{count} evaluations": x_0 for name, (x_0, count) in drawn.items()},
              "one score, four solvers, three SDEs; each column from one x_T")
    right.plot(chain, ode, "o", alpha=0.6)
    right.axline((chain[0], chain[0]), slope=1, color="black", lw=0.8)
    right.set(xlabel="bound by the chain (bits/dim)", ylabel="bound by the ODE (bits/dim)",
              title="each image; on the line both agree", aspect="equal")
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    x, _ = chosen(args, *held_out(config, args.data, least=2))
    C, H, name = config["image_channels"], config["image_size"], args.data or config["data"]
    print(f"{len(x)} images of {name} under {checkpoint}, T = {ddpm.T}, on {device}")
    x_T, generator = first_noise(args.seed, (min(8, batch_size(H)), C, H, H), device)
    each = ddpm, model, x_T
    drawn = {"Euler-Maruyama": (euler_maruyama(*each, 100, generator), 101),
             "predictor-corrector": (predictor_corrector(*each, 50, generator=generator), 101),
             "ODE, Heun": (heun(*each, 50), 101), "ODE, adaptive": adaptive(*each)}
    for sde in VPSDE, VESDE, SubVPSDE:
        x_0, calls = drawn[f"ODE to 1e-3, {sde.__name__}"] = adaptive(*each, 1e-3, 1e-3, sde)
        print(f"ODE to 1e-3, {sde.__name__}: {calls} evaluations, at an RMS distance from VPSDE of "
              f"{apart(x_0, drawn['ODE to 1e-3, VPSDE'][0]):.4f}")
    parts = x.to(device).split(max(1, batch_size(H) // 4 // RUNS))           # gradients take memory
    ode = torch.cat([bits_per_dim(ddpm, model, part.repeat(RUNS, 1, 1, 1), generator=generator)
                     .reshape(RUNS, -1).mean(0) for part in track(parts, "likelihood, parts")])
    L, _ = variational_bound.score(ddpm, model, x, generator)
    chain = L[config["variance"]].sum(1)
    for variance, bits in L.items():
        print(f"bound of the chain, sigma_t^2 = {variance}: {with_error(bits.sum(1), 3)} bits/dim")
    finish(draw_figure(drawn, ode, chain), args.out, "finding: "
           f"by the ODE at most {with_error(ode, 3)} bits/dim, {with_error(chain - ode, 3)} less "
           f"than by its chain, and less for {(ode < chain).sum()} of {len(x)} images")


def main(argv=None):
    parser = flags(__doc__, "score_sde.png", 32, least=2, help="images to find bits/dim of")
    parser.add_argument("--data", help="data set or folder (default: what it was trained on)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
