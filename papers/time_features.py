"""How a network is told the time: not at all, by a number, by sinusoids, by random frequencies.

Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
Domains" (arXiv:2006.10739), Eq. 5 to 7; Song et al. 2021, "Score-Based Generative Modeling through
Stochastic Differential Equations" (arXiv:2011.13456), appendix H.2.

    python -m papers.time_features [--checkpoint F] [--steps 2500]

DDPM writes t as sinusoids, from fast to slow.  NCSN++ of Song et al. draws its frequencies, once:
cos(2 pi b v) and sin(2 pi b v) with b ~ N(0, s^2), s = 16, v = log sigma (the logarithm is in the
authors' code).  It follows how alike two times look: the mean of cos(2 pi b d) over b is
exp(-2 pi^2 s^2 d^2), so that v much further apart than 1 / (2 pi s) have nothing in common, and
what is learned of one says nothing of the other.

Does it matter?  In the plane eps* is known.  In each way five networks are trained by L_simple that
differ in nothing but what they see of t.  The error E ||eps_theta - eps*||^2 / E ||eps*||^2 of each
quarter of t is 1 for a network that returns 0.  The chain is that of the checkpoint; its network
is not asked.  The picture: how alike two times look, the errors, eps_theta at one point against t.
"""
import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from papers.kit.analytic import Mixture, ve_sigmas
from papers.kit.program import finish, flags, program, start
from plumbing.cli import integer, track
from unet import timestep_embedding

SEEDS, DIM, WIDTH, BATCH, RATE = 5, 32, 64, 256, 4e-3
ANGLES = torch.arange(5) * 2 * math.pi / 5
MEANS, STD = torch.stack([ANGLES.sin(), ANGLES.cos()], dim=1), 0.2           # the data
POINT = torch.tensor([0.0, 1.3])                                 # where eps is drawn against t


class FourierFeatures(nn.Module):
    """Random Fourier features.  Tancik et al. 2020, Eq. 5, with all a_j = 1.

        gamma(v) = (cos(2 pi b_1 v), ..., cos(2 pi b_m v), sin(2 pi b_1 v), ..., sin(2 pi b_m v))
        gamma(v) . gamma(v') = sum_j cos(2 pi b_j (v - v')),   b_j ~ N(0, s^2)       Eq. 6, 7

    The mean of a summand is exp(-2 pi^2 s^2 (v - v')^2).  `dim` is 2 m, and s the paper's sigma.
    The b_j are drawn once and never learned: they are a buffer, so that a checkpoint has them.
    """

    def __init__(self, dim, s, generator=None):
        super().__init__()
        self.register_buffer("b", s * torch.randn(dim // 2, generator=generator))

    def forward(self, v):
        """Return (B, dim) for v, (B,) float."""
        angle = 2 * math.pi * v[:, None] * self.b
        return torch.cat([angle.cos(), angle.sin()], dim=1)


def ways(ddpm, generator=None):
    """Return {name: (features, how many)}, features called with (B,) int64 t; s times t / T."""
    def fourier(s):
        return FourierFeatures(DIM, s, generator).to(ddpm.beta.device)

    one, many, log = fourier(1), fourier(16), fourier(16)
    log_sigma = ve_sigmas(ddpm).log()                            # at t = 0, where none is, -inf
    return {"none": (lambda t: t[:, None][:, :0].float(), 0),
            "t / T": (lambda t: t[:, None] / ddpm.T, 1),
            "sinusoids": (lambda t: timestep_embedding(t, DIM), DIM),
            "Fourier, s = 1": (lambda t: one(t / ddpm.T), DIM),
            "Fourier, s = 16": (lambda t: many(t / ddpm.T), DIM),
            "Fourier of log sigma, s = 16": (lambda t: log(log_sigma[t]), DIM)}


class Network(nn.Module):
    """eps_theta(x_t, t) for points: three hidden layers that see x_t and some features of t."""

    def __init__(self, features, dim):
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(
            nn.Linear(2 + dim, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 2))

    def forward(self, x_t, t):
        """Predict eps, (B, 2), in x_t, (B, 2), at the times t, (B,) int64."""
        return self.layers(torch.cat([x_t, self.features(t)], dim=1))


def fit(ddpm, model, mixture, steps, label):
    """Train a network by Algorithm 1 of Ho et al. 2020 on endless data; return it, frozen."""
    optimizer = torch.optim.Adam(model.parameters())
    for step in track(range(steps), f"{label}, steps"):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)          # ends at 0: no EMA
        optimizer.zero_grad()
        ddpm.loss(model, mixture.draw(BATCH)[0].to(ddpm.beta.device)).backward()
        optimizer.step()
    return model.requires_grad_(False)


def errors(ddpm, model, mixture, n=4000, generator=None):
    """Return E ||eps_theta - eps*||^2 / E ||eps*||^2 for t in each quarter of 1..T, 4 floats."""
    found, starts = [], [q * ddpm.T // 4 + 1 for q in range(5)]
    for low, high in pairwise(starts):                           # high is exclusive
        x_0, eps = mixture.draw(n, generator)[0], torch.randn(n, 2, generator=generator)
        t = torch.randint(low, high, (n,), generator=generator)
        x_0, eps, t = (each.to(ddpm.beta.device) for each in (x_0, eps, t))
        x_t = ddpm.q_sample(x_0, t, eps)
        best = mixture(x_t, t)
        found.append((F.mse_loss(model(x_t, t), best) / best.square().mean()).item())
    return found


def compare(ddpm, steps, seed):
    """Train SEEDS networks each way; return {name: (SEEDS, 4) errors} and {name: the first one}."""
    mixture, found, first = Mixture(ddpm, MEANS, STD), {}, {}
    for s in range(seed, seed + SEEDS):
        for name, (features, dim) in ways(ddpm, torch.Generator().manual_seed(s)).items():
            torch.manual_seed(s)
            model = Network(features, dim).to(ddpm.beta.device)
            torch.manual_seed(s)                                 # the same data, times and noise
            fit(ddpm, model, mixture, steps, f"seed {s}, {name}")
            first.setdefault(name, model)
            found.setdefault(name, []).append(
                errors(ddpm, model, mixture, generator=torch.Generator().manual_seed(s)))
    return {name: torch.tensor(each) for name, each in found.items()}, first


def summary(found):
    """Say what {name: (SEEDS, 4) errors} have in the first and in the last quarter, the means."""
    said = []
    for q, quarter in (0, "first"), (3, "last"):
        none, *told = (f"{100 * each[:, q].mean():.2f}% ({name})" for name, each in found.items())
        told.sort(key=lambda text: float(text.split("%")[0]))
        said.append(f"in the {quarter} quarter of t {none}, {told[0]} to {told[-1]}")
    return f"finding: the relative error is {'; '.join(said)}"


# ---- the picture ----

def alike(features, t, other):
    """Return the product of the features of two times, over that of t with itself, (B,)."""
    a, b = features(t), features(other)
    return ((a * b).sum(1) / a.square().sum(1)).cpu()


def draw_figure(ddpm, found, first):
    """Draw how alike times look, the errors, and eps_theta of one point against t."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    t = torch.arange(1, ddpm.T + 1, device=ddpm.beta.device)
    colors = {name: f"C{k}" for k, name in enumerate(found)}
    for name in ("sinusoids", "Fourier, s = 1", "Fourier, s = 16"):
        left.plot((t - 1).cpu() / ddpm.T, alike(first[name].features, t, t[:1].expand_as(t)),
                  color=colors[name], label=name)
    d = torch.linspace(0, 1, 400)
    for s in (1, 16):
        left.plot(d, torch.exp(-2 * (math.pi * s * d) ** 2), "k:", lw=1)
    left.set(xlabel="(t - t') / T", title="how alike two times look (dots: mean over b)")
    for k, (name, each) in enumerate(found.items()):
        x = torch.arange(4) + 0.12 * (k - 2.5)
        middle.semilogy(x, each.mean(0), "_", markersize=9, color=colors[name], label=name)
        middle.semilogy(x, each.T, ".", markersize=3, color=colors[name])
    middle.set(xticks=range(4), xticklabels=["first", "second", "third", "last"],
               xlabel="quarter of t", title=f"relative error of eps*, {SEEDS} seeds (-: mean)")
    x = POINT.to(t.device).expand(ddpm.T, 2)
    for name in ("t / T", "sinusoids", "Fourier, s = 16", "Fourier of log sigma, s = 16"):
        right.plot(t.cpu(), first[name](x, t)[:, 1].cpu(), color=colors[name], lw=1, label=name)
    right.plot(t.cpu(), Mixture(ddpm, MEANS, STD)(x, t)[:, 1].cpu(), "k--", lw=1.5, label="eps*")
    right.set(xlabel="t", title="eps_theta at ({:g}, {:g}), second coordinate".format(*POINT))
    for axes in (left, middle, right):
        axes.legend(fontsize=8)
    return figure


def run(args):
    *_, ddpm, _ = start(args)
    if ddpm.T < 4:
        raise ValueError(f"a chain of T = {ddpm.T} has no quarters")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                         # layers so small lose time with more
    found, first = compare(ddpm, args.steps, args.seed)
    torch.set_num_threads(threads)
    for name, each in found.items():
        print(f"{name:30}" + "  ".join(f"{100 * m:6.2f} +- {100 * s:.2f}%" for m, s in
                                       zip(each.mean(0), each.std(0), strict=True)))
    finish(draw_figure(ddpm, found, first), args.out, summary(found))


def main(argv=None):
    parser = flags(__doc__, "time_features.png")
    parser.add_argument("--steps", type=integer(1), default=2500, help="of training (2500)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
