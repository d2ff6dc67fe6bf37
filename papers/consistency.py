"""Consistency models: from anywhere on a path of the ODE to its end, in one evaluation.

Song, Dhariwal, Chen & Sutskever 2023, "Consistency Models" (arXiv:2303.01469), Eq. 5 to 7 and 10,
Theorems 1 and 2, Algorithms 1 to 3.

    python -m papers.consistency train [--steps 1800]       minutes; writes consistency.pt
    python -m papers.consistency [--checkpoint F] [--n 64]

The ODE of DDIM takes each x_t to one x_0, f(x_t, t).  A network that knows x_0_hat, the mean of all
x_0 behind x_t, has to go there in many steps; a consistency model learns f.  Nobody tells it where
paths end: it has to say the same at two neighbours of one path, at tau_{n+1} and tau_n, and at
tau_0 = 0, where f(x_0, 0) = x_0, it has no choice.

Distilled, it has the neighbour from a trained network, by a jump of DDIM.  Trained alone, it has it
from the data: the same image with the same noise, less of it.  The jump is the mean of these, given
x_t.  So both learn the same where f is a line, as for Gaussian data; elsewhere training alone gives
a mean of f, not f of the mean.  More times bring both nearer to the ODE (Theorems 1 and 2).

The picture: both f in one dimension, without a network or chance, and how far they are from the
ODE's; digits, and their Frechet distance over five seeds, beside DDIM in as many steps.

Departures: their x is x_t / sqrt(alpha_bar_t); paths end at t = 0, not at an epsilon; times are
even in t; d is the squared distance, theta^- is theta (Song & Dhariwal 2023, arXiv:2310.14189), no
average, and jumps are Euler's, where they prefer LPIPS, an average and Heun's.
"""
from functools import partial
from itertools import pairwise, product

import numpy as np
import torch
from matplotlib.figure import Figure

import data
import sample as core
from ddpm import DDPM, at
from papers import ddim
from papers.kit.analytic import Mixture
from papers.kit.chain import first_noise, horizon, noise_like, subsequence
from papers.kit.judge import features, frechet, load_reader, read, rms
from papers.kit.program import finish, flags, held_out, program, show_rows, start
from papers.kit.training import ASSETS, build, fit, load_fit, save_fit, start_fit
from plumbing.cli import track
from plumbing.device import recorded
from schedules import cosine_beta_schedule
from unet import UNet

SHIPPED, SEEDS, BUDGETS = ASSETS / "consistency.pt", 5, (1, 2, 4)
SMALLER = {"channels": 24, "channel_mults": (1, 2), "attention_resolutions": (8,)}   # to a third
NUMBERS = 4, 8, 16, 32                               # N grows while it is trained


def consistent(ddpm, F):
    """Return f(x_t, t) of a network F(x_t, t).  Song et al. 2023, Eq. 5.

        f = c_skip x + c_out F = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) F

    It is EDM's with sigma_data = 1, and F is v (Salimans & Ho 2022).  Whatever the network,
    f(x_0, 0) = x_0.  x_t is (B, ...), t is (B,) int64 in 0..T or one int for all.
    """
    def f(x_t, t):
        t = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
        return (at(ddpm.alpha_bar, t, x_t).sqrt() * x_t
                - at(ddpm.one_minus_alpha_bar, t, x_t).sqrt() * F(x_t, t))
    return f


def neighbours(ddpm, x_0, t, s, eps, teacher=None):
    """Return x_t and, nearer to x_0 on its path, x_s.

    With a teacher, a model that returns eps_theta, x_s is a jump of DDIM (Eq. 6); without, it is
    x_0, (B, ...), with less of the same noise (Eq. 10).  t and s are (B,) int64, 0 <= s < t <= T.
    """
    x_t = ddpm.q_sample(x_0, t, eps)
    if teacher is not None:
        eps = teacher(x_t, t)
        x_0 = ddpm.predict_x_0(x_t, t, eps)
    return x_t, ddpm.q_sample(x_0, s, eps)


def loss(f, x_t, t, x_s, s):
    """Return the mean of (f(x_t, t) - f(x_s, s))^2, the latter held fixed: Eq. 7 and 10."""
    with torch.no_grad():
        target = f(x_s, s)                           # theta^- = theta, lambda = 1
    return (f(x_t, t) - target).square().mean()


@torch.no_grad()
def sample(ddpm, f, x_T, times, generator=None):
    """Go from the last time to the end, and back and forth, through falling times.  Algorithm 1."""
    x_0 = f(x_T, times[-1])
    for t in reversed(times[:-1]):
        x_0 = f(ddpm.q_sample(x_0, t, noise_like(x_0, generator)), t)
    return x_0


# ---- what is learned without a network ----

def learned_alone(mixture, x_T, times):
    """Return the f(x_T, tau_N), (B, 1) float64, that minimises Eq. 10 in one dimension.

        f(x_t, tau_{n+1}) = E[f(x_s, tau_n) | x_t],   f(x_0, 0) = x_0     with stds above 0
    """
    z, w = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(32))
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    f, mu, variance = grid[:, 0], mixture.means[:, 0], mixture.stds ** 2
    for s, t in pairwise([0, *times]):
        a, a_s = mixture.ddpm.exact.alpha_bar[[t, s]]
        log_parts, v = mixture.log_parts(grid, a, 1 - a)                     # each (G, K)
        mean = mu + a.sqrt() * variance / v * (grid - a.sqrt() * mu)         # of x_0, given x_t
        x_0 = mean[..., None] + (variance * (1 - a) / v).sqrt()[..., None] * z       # (G, K, 32)
        eps = (grid[..., None] - a.sqrt() * x_0) / (1 - a).sqrt()
        x_s = a_s.sqrt() * x_0 + (1 - a_s).sqrt() * eps
        each = torch.from_numpy(np.interp(x_s, grid[:, 0], f)) @ (w / w.sum())
        f = (log_parts.softmax(1) * each).sum(1)
    return torch.from_numpy(np.interp(x_T, grid[:, 0], f))


def line():
    """Return x_T, f of the ODE, and {how it is learned: {N: f}} for data of two modes, (61, 1)."""
    ddpm = DDPM(cosine_beta_schedule()).double()
    mixture, end = Mixture(ddpm, torch.tensor([[-0.8], [0.8]]), 0.1), horizon(ddpm)
    x_T = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    best = {"distilled": partial(ddim.sample, ddpm, mixture, x_T, clip=False),
            "alone": partial(learned_alone, mixture, x_T)}
    return x_T, best["distilled"](range(1, end + 1)), {
        how: {n: f(subsequence(end, n)) for n in (4, 8, 16, 32, 64)} for how, f in best.items()}


# ---- training ----

def network(config):
    """Build the two networks F that a file holds, untrained."""
    return torch.nn.ModuleDict({how: build(config, UNet) for how in ("distilled", "alone")})


def objective(ddpm, steps, teacher=None):
    """Return a loss for so many steps of `fit`: Algorithm 2 or, without a teacher, 3."""
    end, N = horizon(ddpm), iter(n for n in NUMBERS for _ in range(steps // len(NUMBERS) + 1))

    def of(F, x_0, labels):
        tau = torch.tensor([0, *subsequence(end, next(N))], device=x_0.device)
        n = torch.randint(len(tau) - 1, (len(x_0),), device=x_0.device)
        x_t, x_s = neighbours(ddpm, x_0, tau[n + 1], tau[n], noise_like(x_0), teacher)
        return loss(consistent(ddpm, F), x_t, tau[n + 1], x_s, tau[n])
    return of


def run_train(argv):
    args, path, device = start_fit(argv, __doc__, "consistency.pt", 1800, "of each network")
    config, ddpm, teacher = core.load(core.SHIPPED, device)
    config |= {**SMALLER, "steps": args.steps}
    digits, networks = data.load("digits", config["image_size"]), network(config)
    for how, guide in (("distilled", teacher), ("alone", None)):
        torch.manual_seed(args.seed)                 # both from the same weights and numbers
        networks[how] = fit(build(config, UNet).to(device), objective(ddpm, args.steps, guide),
                            *digits, args.steps, 32, label=how)
    save_fit(path, config, args.steps, networks)
    print(f"wrote {path}")


# ---- the program ----

def draw_figure(x_T, exact, learned, found, rows):
    """Draw f on a line, its distance from the ODE's, Frechet distances, and digits."""
    figure = Figure(figsize=(17, 4.4), layout="constrained")
    left, middle, far, right = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.5))
    left.plot(x_T, exact, "k", label="the end of the path")
    for how, color in (("distilled", "C1"), ("alone", "C2")):
        left.plot(x_T, learned[how][4], color, label=f"{how}, N = 4")
        errors = {str(n): rms(f - exact) for n, f in learned[how].items()}
        middle.semilogy(list(errors), list(errors.values()), f"{color}o-", label=how)
    left.set(xlabel="x_T", title="f(x_T, T) for data at -0.8 and 0.8")
    middle.set(xlabel="N", title="its RMS distance from the ODE's")
    for name, each in found.items():
        far.errorbar(BUDGETS, each[..., 1].mean(1), each[..., 1].std(1), capsize=2, label=name)
    far.set(xlabel="evaluations", xticks=BUDGETS, ylim=0,
            title=f"digits: Frechet distance, {SEEDS} seeds")
    for axes in (left, middle, far):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    show_rows(right, rows, "from the same noise: method, evaluations", most=8)
    return figure


def run(args):
    device, checkpoint, config, networks = start(
        args, SHIPPED, lambda path, device: load_fit(path, device, network))
    _, ddpm, teacher = core.load(core.SHIPPED, device)
    seeds, net, H = range(args.seed, args.seed + SEEDS), load_reader(device), config["image_size"]
    print(f"{args.n} samples each of {checkpoint}, on {device}, seeds {list(seeds)}")
    reference = features(net, data.to_model(held_out(config)[0]).to(device))
    methods = {"DDIM": lambda x_T, times, _: ddim.sample(ddpm, teacher, x_T, times, clip=False)}
    methods |= {how: partial(sample, ddpm, consistent(ddpm, recorded(F, device, args.record)))
                for how, F in networks.items()}
    found, rows = {name: [] for name in methods}, {}
    for (name, method), calls, seed in track([*product(methods.items(), BUDGETS, seeds)], "draws"):
        x_T, generator = first_noise(seed, (args.n, 1, H, H), device)
        x = method(x_T, subsequence(horizon(ddpm), calls), generator).clamp(-1, 1)
        rows.setdefault(f"{name}, {calls}", x)
        found[name].append((read(net, x)[0].float().mean(), frechet(features(net, x), reference)))
    found = {name: torch.tensor(each).reshape(-1, SEEDS, 2) for name, each in found.items()}
    for name, each in found.items():
        for calls, (share, far) in zip(BUDGETS, each.transpose(1, 2), strict=True):
            print(f"{name:10}{calls:3} evaluations: {share.mean():6.1%} +- {share.std():.1%} "
                  f"recognised, Frechet distance {far.mean():.0f} +- {far.std():.0f}")
    x_T, exact, learned = line()
    finish(draw_figure(x_T, exact, learned, found, rows), args.out,
           "RMS distance from the ODE's f in one dimension, N = 64: " + ", ".join(
               f"{rms(each[64] - exact):.3f} ({how})" for how, each in learned.items()))


def main(argv=None):
    program(flags(__doc__, "consistency.png", 64, 2, default="the file that ships"), run, argv,
            run_train)


if __name__ == "__main__":
    main()
