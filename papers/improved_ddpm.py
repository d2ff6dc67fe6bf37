"""Learned variances: fewer bits/dim, and shorter chains that still work.

Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models" (arXiv:2102.09672).

    python -m papers.improved_ddpm train                     as train.py, with its flags: L_hybrid
    python -m papers.improved_ddpm train --objective vlb     L_vlb, with importance-sampled t
    python -m papers.improved_ddpm [--checkpoint F] [--simple F] [--n 64]

`train` fills runs/papers/improved_ddpm.  The last command scores held-out images with the learned
and with the fixed variances, the latter under the network of --simple if that is given, in chains
of several lengths; and it draws the terms of the bound, v, and samples.

The letters are the paper's, but its L_t is of t = 0..T-1 and ours, L_{t-1}, of 1..T.  Its cosine
schedule, Eq. 17, is in schedules.py.  From the authors' code: L_simple is a mean over pixels and
L_vlb in bits/dim, where lambda = 0.001 weighs the one against the other; the network puts out
2v - 1, so that v starts at 1/2; beta_tilde_2 stands for beta_tilde_1 = 0; p_t has a uniform part.
"""
import functools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

import data
import train
from ddpm import at
from papers.kit.chain import ask, noise_like, respace, walk
from papers.kit.program import (chosen, finish, flags, held_out, program, show_lines,
                                show_rows, start, with_error)
from papers.kit.training import ASSETS, load_eps, train_eps
from papers.variational_bound import positive_beta_tilde, prior_term, send, term
from plumbing.cli import track
from plumbing.flags import arg
from sample import batch_size
from unet import UNet

STEPS = 25, 50, 100                                  # of the shorter chains in the picture


class VarianceUNet(UNet):
    """eps_theta(x_t, t) and v(x_t, t): a U-Net with 2C output channels.  Sec. 3.1.

    Called as any model is, it returns eps_theta; with variance=True both, in float32.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        C_in, C_out = self.conv_out.in_channels, 2 * self.conv_out.out_channels
        self.conv_out = nn.Conv2d(C_in, C_out, 3, padding=1)
        for weight in self.conv_out.parameters():
            nn.init.zeros_(weight)

    def forward(self, x_t, t, variance=False):
        eps_theta, output = super().forward(x_t, t).chunk(2, dim=1)
        return (eps_theta.float(), (1 + output.float()) / 2) if variance else eps_theta


def Sigma_theta(ddpm, v, t):
    """Return the variance Sigma_theta(x_t, t), of each pixel its own.  Eq. 15.

        Sigma_theta = exp(v log beta_t + (1 - v) log beta_tilde_t)

    Args:
        ddpm: DDPM.
        v: (B, C, H, W); nothing keeps it between 0 and 1.
        t: (B,) int64 times in 1..T, or one int for all.

    Returns:
        (B, C, H, W).
    """
    beta_tilde = positive_beta_tilde(ddpm)
    return (v * at(ddpm.beta, t, v).log() + (1 - v) * at(beta_tilde, t, v).log()).exp()


# ---- two losses, as train.train takes them (see train.L_simple) ----

def L_hybrid(ddpm, model, x_0, labels):
    """Compute L_simple + lambda L_vlb.  Nichol & Dhariwal 2021, Eq. 16.

    No gradient of L_vlb reaches mu_theta, and x_0_hat is not clipped.  One of its terms, times T,
    stands for their sum.
    """
    t = ddpm.draw_t(len(x_0))
    eps = torch.randn_like(x_0)
    x_t = ddpm.q_sample(x_0, t, eps)
    eps_theta, v = model(x_t, t, variance=True)
    L_simple = ((eps - eps_theta) ** 2).flatten(1).mean(1)
    x_0_hat = ddpm.predict_x_0(x_t, t, eps_theta.detach())
    L_t = term(ddpm, x_0, x_t, t, x_0_hat, Sigma_theta(ddpm, v, t))
    return L_simple + 0.001 * ddpm.T * L_t, t                                # lambda of sec. 3.1


class L_vlb:
    """L_vlb, with importance-sampled t.  Nichol & Dhariwal 2021, Eq. 18.

        L_vlb = E_{t ~ p_t} [L_{t-1} / p_t],   p_t proportional to sqrt(E[L_{t-1}^2])

    The mean square is of the last 10 values; until every t has 10, p_t is uniform.  They are in no
    checkpoint: a resumed run collects them anew.  Of several processes each has its own, and the
    mean is right for any p.

    Each image has a loss at every t, T L_{t-1} / p_t at the one that was drawn and 0 at the others.
    So their mean is that of L_{t-1} / p_t, and the mean at any one t, or in a quarter of them, that
    of T L_{t-1}, whatever p: the log can be compared with that of a loss whose t are uniform.
    """

    def __init__(self, T, keep=10):
        self.values = torch.zeros(T, keep, dtype=torch.float64)              # row t - 1
        self.count = [0] * T

    def p(self):
        """Return p_1, ..., p_T, (T,) float64."""
        T, keep = self.values.shape
        root = self.values.square().mean(1).sqrt()
        root = root if min(self.count) >= keep else torch.ones_like(root)
        return 0.999 * root / root.sum() + 0.001 / T

    def __call__(self, ddpm, model, x_0, labels):
        p = self.p()
        row = torch.multinomial(p, len(x_0), replacement=True)
        t = (row + 1).to(x_0.device)
        x_t = ddpm.q_sample(x_0, t, torch.randn_like(x_0))
        eps_theta, v = model(x_t, t, variance=True)
        x_0_hat = ddpm.predict_x_0(x_t, t, eps_theta)
        L = term(ddpm, x_0, x_t, t, x_0_hat, Sigma_theta(ddpm, v, t))
        for i, loss in zip(row.tolist(), L.tolist(), strict=True):
            self.values[i, self.count[i] % self.values.shape[1]] = loss
            self.count[i] += 1
        every = torch.arange(1, ddpm.T + 1, device=t.device).expand(len(t), -1)           # (B, T)
        losses = torch.where(every == t[:, None], (ddpm.T * L / p[row].to(L))[:, None], 0)
        return losses.flatten(), every.flatten()


# ---- sampling and scoring, by a model that returns eps_theta and v ----

def fixed(model, v):
    """Give an ordinary model a fixed variance, which is a constant v: 1 is beta, 0 beta_tilde."""
    return lambda x_t, t, variance: (model(x_t, t), torch.full_like(x_t, v))


def estimate(ddpm, model, x_t, t, clip):
    """Return x_0_hat, as DDPM.estimate_x_0 does, and v."""
    eps_theta, v = ask(model, x_t, t, variance=True)
    return ddpm.estimate_x_0(lambda *_: eps_theta, x_t, t, clip), v


def sample(ddpm, model, x_T, steps, clip=True, generator=None):
    """Draw x_0 by `steps` steps of Algorithm 2 with sigma_t^2 = Sigma_theta(x_t, t).

    Args:
        ddpm: DDPM, the whole chain; steps: an int in 1..T.
        model: called as model(x_t, t, variance=True), returns eps_theta and v.
        x_T: (B, C, H, W) noise.
        clip, generator: as for `DDPM.p_sample`.

    Returns:
        (B, C, H, W) float images x_0.
    """
    chain, model = respace(ddpm, model, steps)

    def step(x_t, t):
        x_0_hat, v = estimate(chain, model, x_t, t, clip)
        z = noise_like(x_t, generator) if t > 1 else 0
        return chain.posterior_mean(x_0_hat, x_t, t) + Sigma_theta(chain, v, t).sqrt() * z

    return walk(step, x_T, steps, f"sampling in {steps} steps")


@torch.no_grad()
def bound(ddpm, model, x_0, clip=True, generator=None):
    """Estimate every term of the bound, Ho et al. 2020, Eq. 5, at one x_1, ..., x_T from q.

    Args:
        ddpm, x_0, clip, generator: as for `variational_bound.bound`.
        model: as for `sample`.

    Returns:
        L: (B, T + 1) float64 bits/dim; [:, t] is L_t.
        v: (B, T + 1) float64, its mean over the pixels; NaN at t = 0.
    """
    L, v = torch.full((2, len(x_0), ddpm.T + 1), math.nan, dtype=torch.float64)
    steps = send(ddpm, lambda x_t, t: x_t, x_0, generator=generator)         # for its x_t alone
    for t, x_t, _ in track(steps, f"scoring {len(x_0)} images, times", ddpm.T):
        if t > 0:
            x_0_hat, each = estimate(ddpm, model, x_t, t, clip)
            v[:, t] = each.flatten(1).mean(1)
            L[:, t - 1] = term(ddpm, x_0, x_t, t, x_0_hat, Sigma_theta(ddpm, each, t))
    L[:, -1] = prior_term(ddpm, x_0)
    return L, v


load_learned = functools.partial(load_eps, network=VarianceUNet)       # as sample.load


@dataclass
class Config(train.Config):
    objective: str = arg("hybrid", "hybrid (L_hybrid) or vlb (L_vlb)", choices=("hybrid", "vlb"))


def draw_figure(L, v, samples):
    """Draw L, {variance: {K: (N, K + 1)}}; v, (N, T + 1); and samples {(K, variance): images}."""
    figure = Figure(figsize=(16, 5), layout="constrained")
    terms, share, bits, picture = figure.subplots(1, 4)
    t = range(1, v.shape[1])
    for name, each in L.items():
        terms.semilogx(t, each[t[-1]].mean(0)[:-1].cumsum(0), label=name)
    terms.set(title="$L_0 + ... + L_{t-1}$ (bits/dim)", xlabel="t", ylim=(0, None))
    terms.legend(fontsize=8)
    share.semilogx(t, v.mean(0)[1:])
    share.set(title=r"mean of v: 0 is $\tilde\beta_t$, 1 is $\beta_t$", xlabel="t")
    show_lines(bits, {name: {K: x.sum(1).mean() for K, x in each.items()}
                      for name, each in L.items()}, "all terms (bits/dim)", "steps of the chain")
    show_rows(picture, {f"{K} steps, {name}": samples[K, name] for K, name in sorted(samples)},
              "samples from the same noise")
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args, ASSETS / "improved.pt", load_learned)
    other, _, simple = (start(args, checkpoint=args.simple)[2:] if args.simple
                        else (config, ddpm, model))
    for name in ("image_channels", "image_size", "T", "schedule"):
        if other[name] != config[name]:
            raise ValueError(f"{args.simple} and {checkpoint} differ in {name}")
    x_0 = data.to_model(chosen(args, *held_out(config, least=2))[0]).to(device)
    print(f"bits/dim of {len(x_0)} images of {config['data']}, T = {ddpm.T}, on {device}")
    noise, size = torch.Generator(device), batch_size(config["image_size"])
    x_T = noise_like(x_0[:1].expand(min(8, size), -1, -1, -1), noise.manual_seed(args.seed))
    chains = [*(K for K in STEPS if K < ddpm.T), ddpm.T]                    # the whole comes last
    models = {"learned": model, "beta": fixed(simple, 1.0), "beta_tilde": fixed(simple, 0.0)}
    L, v, samples = {name: {} for name in models}, {}, {}
    for name, each in models.items():
        print(f"{name}, {checkpoint if each is model else args.simple or checkpoint}:")
        for K in chains:
            chain = respace(ddpm, each, K)
            noise.manual_seed(args.seed)             # the same x_1, ..., x_T for each variance
            parts = [bound(*chain, part, generator=noise) for part in x_0.split(size)]
            L[name][K], v[name] = (torch.cat(part) for part in zip(*parts, strict=True))
            samples[K, name] = sample(ddpm, each, x_T, K, True, noise.manual_seed(args.seed))
            print(f"{K:8} steps {with_error(L[name][K].sum(1))}")
    saved = {K: min(L["beta"][K], L["beta_tilde"][K], key=torch.sum).sum(1) - learned.sum(1)
             for K, learned in L["learned"].items()}
    finish(draw_figure(L, v["learned"], samples), args.out, "the learned variance saves "
           + ", ".join(f"{with_error(bits)} bits/dim in {K} steps" for K, bits in saved.items()))


def main(argv=None):
    parser = flags(__doc__, "improved_ddpm.png", 64, 2, "images scored", "the one that ships")
    parser.add_argument("--simple", type=Path, help="a checkpoint of train.py to compare with")
    program(parser, run, argv, lambda argv: train_eps(
        argv, Config, __doc__, VarianceUNet,
        lambda config: L_hybrid if config.objective == "hybrid" else L_vlb(config.T)))


if __name__ == "__main__":
    main()
