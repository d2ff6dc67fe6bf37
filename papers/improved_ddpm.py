"""Learned variances: fewer bits/dim, and shorter chains that still work.

Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models" (arXiv:2102.09672).

    python -m papers.improved_ddpm train                     as train.py, with its flags: L_hybrid
    python -m papers.improved_ddpm train --objective vlb     L_vlb, with importance-sampled t
    python -m papers.improved_ddpm [--checkpoint F] [--simple assets/digits.pt] [--n 64]

`train` fills runs/papers/improved_ddpm.  The last command scores held-out images with the learned
and with the fixed variances, the latter under the network of --simple if that is given, in chains
of several lengths; and it draws the terms of the bound, v, and samples.

The letters are the paper's, but its L_t is of t = 0..T-1 and ours, L_{t-1}, of 1..T.  Its cosine
schedule, Eq. 17, is in schedules.py.  These are from the authors' code: L_simple is a mean over
pixels and L_vlb in bits/dim, where lambda = 0.001 weighs the one against the other; the network
puts out 2v - 1, so that v starts at 1/2; beta_tilde_2 stands for beta_tilde_1 = 0, which has no
logarithm; p_t of sec. 3.3 has a uniform part of 0.001.
"""
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

import data
import train
from ddpm import DDPM, at
from papers.training import ASSETS, load_eps, train_eps
from papers.variational_bound import decoder_nll, kl, send
from sample import (NETWORK, arguments, batch_size, check_writable, file_name, grid,
                    integer, load, one_line_errors, pick_device, save_figure)
from unet import UNet

SHIPPED = ASSETS / "improved.pt"
LAMBDA = 0.001                                       # sec. 3.1
STEPS = 25, 50, 100                                  # of the shorter chains in the picture


class VarianceUNet(UNet):
    """eps_theta(x_t, t) and v(x_t, t): a U-Net with 2C output channels.  Sec. 3.1.

    Called as any model is, it returns eps_theta; with variance=True both, in float32.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        C_in, C_out = self.conv_out.in_channels, 2 * self.conv_out.out_channels
        self.conv_out = nn.Conv2d(C_in, C_out, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x_t, t, variance=False):
        eps_theta, output = super().forward(x_t, t).chunk(2, dim=1)
        return (eps_theta.float(), (1 + output.float()) / 2) if variance else eps_theta


def log_variance(ddpm, v, t):
    """Return log Sigma_theta(x_t, t), of each pixel its own.  Nichol & Dhariwal 2021, Eq. 15.

        Sigma_theta = exp(v log beta_t + (1 - v) log beta_tilde_t)

    Args:
        ddpm: DDPM.
        v: (B, C, H, W); nothing keeps it between 0 and 1.
        t: (B,) int64 times in 1..T, or one int for all.

    Returns:
        (B, C, H, W).
    """
    beta_tilde = ddpm.beta_tilde.clone()
    beta_tilde[1] = beta_tilde[2] if ddpm.T > 1 else ddpm.beta[1]
    return v * at(ddpm.beta, t, v).log() + (1 - v) * at(beta_tilde, t, v).log()


def term(ddpm, x_0, x_t, t, x_0_hat, v):
    """Return L_{t-1} of each image: Ho et al. 2020, Eq. 8, or Eq. 13 where t = 1.

    Args:
        ddpm: DDPM.
        x_0: (B, C, H, W) float images with the values of `decoder_nll`.
        x_t, x_0_hat, v: (B, C, H, W); gradients reach the last two.
        t: (B,) int64 times in 1..T.

    Returns:
        (B,) float32 bits/dim.
    """
    mean_q, mean_p = (ddpm.posterior_mean(x, x_t, t) for x in (x_0, x_0_hat))
    log_p = log_variance(ddpm, v, t)
    log_ratio = log_variance(ddpm, torch.zeros_like(v), t) - log_p           # of q's to p's
    nats = (log_ratio.expm1() - log_ratio + (mean_q - mean_p) ** 2 / log_p.exp()) / 2
    last = t == 1
    L_0 = decoder_nll(x_0[last], mean_p[last], (log_p[last] / 2).exp().cpu().double())
    return nats.index_put((last,), L_0.to(nats)).flatten(1).mean(1) / math.log(2)


# ---- two losses, as train.train takes them (see train.L_simple) ----

def L_hybrid(ddpm, model, x_0, labels):
    """Compute L_simple + lambda L_vlb.  Nichol & Dhariwal 2021, Eq. 16.

    No gradient of L_vlb reaches mu_theta, and x_0_hat is not clipped.  One of its terms, times T,
    stands for their sum.
    """
    t = torch.randint(1, ddpm.T + 1, (len(x_0),), device=x_0.device)         # high is exclusive
    eps = torch.randn_like(x_0)
    x_t = ddpm.q_sample(x_0, t, eps)
    eps_theta, v = model(x_t, t, variance=True)
    L_simple = ((eps - eps_theta) ** 2).flatten(1).mean(1)
    x_0_hat = ddpm.predict_x_0(x_t, t, eps_theta.detach())
    return L_simple + LAMBDA * ddpm.T * term(ddpm, x_0, x_t, t, x_0_hat, v), t


class L_vlb:
    """L_vlb, with importance-sampled t.  Nichol & Dhariwal 2021, sec. 3.3.

        L_vlb = E_{t ~ p_t} [L_{t-1} / p_t],   p_t proportional to sqrt(E[L_{t-1}^2])

    The mean square is of the last 10 values; until every t has 10, p_t is uniform.  They are in no
    checkpoint: a resumed run collects them anew.  Of several processes each has its own, and the
    mean is right for any p.
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
        losses = term(ddpm, x_0, x_t, t, ddpm.predict_x_0(x_t, t, eps_theta), v)
        for i, loss in zip(row.tolist(), losses.tolist(), strict=True):
            self.values[i, self.count[i] % self.values.shape[1]] = loss
            self.count[i] += 1
        return losses / p[row].to(losses), t


# ---- sampling and scoring, by a model that returns eps_theta and v ----

def fixed(model, v):
    """Give an ordinary model a fixed variance, which is a constant v: 1 is beta, 0 beta_tilde."""
    return lambda x_t, t, variance: (model(x_t, t), torch.full_like(x_t, v))


def respace(ddpm, model, steps):
    """Return a chain of fewer steps, and any model as its model.  Nichol & Dhariwal 2021, sec. 4.

        beta_{S_t} = 1 - alpha_bar_{S_t} / alpha_bar_{S_{t-1}}

    S_1, ..., S_K are K evenly spaced numbers from 1 to T, rounded (for K = 1 it is T).  Beta_tilde,
    and so Sigma_theta, follow from beta: v need not be learned again.

    Args:
        ddpm, model: the process and a model of it.
        steps: K, an int in 1..T.

    Raises:
        ValueError: steps is not in 1..T.
    """
    if not 1 <= steps <= ddpm.T:
        raise ValueError(f"of {ddpm.T} steps 1 to {ddpm.T} can be taken, not {steps}")
    S = torch.linspace(ddpm.T, 1, steps, dtype=torch.float64).round().long().flip(0)
    S = torch.cat([torch.zeros_like(S[:1]), S])                              # S_0 = 0
    log_alpha_bar = torch.log1p(-ddpm.beta.cpu().double()).cumsum(0)
    beta = -torch.expm1(log_alpha_bar[S].diff())     # the formula, without its cancellation
    S = S.to(ddpm.beta.device)
    chain = DDPM(beta, ddpm.variance).to(S.device)
    return chain, lambda x_t, t, **kwargs: model(x_t, S[t], **kwargs)


def estimate(ddpm, model, x_t, t, clip):
    """Return x_0_hat, as DDPM.estimate_x_0 does, and v."""
    eps_theta, v = model(x_t, torch.full((len(x_t),), t, device=x_t.device), variance=True)
    return ddpm.estimate_x_0(lambda *_: eps_theta, x_t, t, clip), v


@torch.no_grad()
def sample(ddpm, model, x_T, steps, clip=True, generator=None):
    """Draw x_0 by `steps` steps of Algorithm 2 with sigma_t^2 = Sigma_theta(x_t, t).

    Args:
        ddpm: DDPM, the whole chain.
        model: called as model(x_t, t, variance=True), returns eps_theta and v.
        x_T: (B, C, H, W) noise.
        steps: an int in 1..T.
        clip, generator: as for `DDPM.p_sample`.

    Returns:
        (B, C, H, W) float images x_0.
    """
    ddpm, model = respace(ddpm, model, steps)
    x_t = x_T
    for t in data.track(range(ddpm.T, 0, -1), f"sampling in {steps} steps, times"):
        x_0_hat, v = estimate(ddpm, model, x_t, t, clip)
        z = torch.randn(x_t.shape, generator=generator, device=x_t.device) if t > 1 else 0
        x_t = ddpm.posterior_mean(x_0_hat, x_t, t) + (log_variance(ddpm, v, t) / 2).exp() * z
    return x_t


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
    B, T = len(x_0), ddpm.T
    L, v = torch.full((2, B, T + 1), math.nan, dtype=torch.float64)
    steps = send(ddpm, lambda x_t, t: x_t, x_0, generator=generator)         # for its x_t alone
    for t, x_t, _ in data.track(steps, f"scoring {B} images, times", T + 1):
        if t > 0:
            x_0_hat, each = estimate(ddpm, model, x_t, t, clip)
            v[:, t] = each.flatten(1).mean(1)
            times = torch.full((B,), t, device=x_0.device)
            L[:, t - 1] = term(ddpm, x_0, x_t, times, x_0_hat, each)
    L_T = kl(ddpm.alpha_bar[T].sqrt() * x_0, ddpm.one_minus_alpha_bar[T].item(), 0, 1)
    L[:, T] = L_T.flatten(1).mean(1) / math.log(2)
    return L, v


# ---- the program ----

def network(config):
    return VarianceUNet(**{name: config[name] for name in NETWORK})


def load_learned(path, device):
    """Do what sample.load does, for a VarianceUNet."""
    return load_eps(path, device, network)


@dataclass
class Config(train.Config):
    objective: str = train.arg("hybrid", "hybrid (L_hybrid) or vlb (L_vlb)",
                               choices=("hybrid", "vlb"))
    out: str = train.arg("runs/papers/improved_ddpm", "folder of the run")


def run_train(argv):
    train_eps(argv, Config, __doc__, network,
              lambda config: L_hybrid if config.objective == "hybrid" else L_vlb(config.T))


def draw_figure(L, v, samples):
    """Draw what run has of {(steps, variance)}: L, (N, T + 1); v, likewise; and samples."""
    figure = Figure(figsize=(16, 5), layout="constrained")
    terms, share, bits, picture = figure.subplots(1, 4)
    T, rows = max(L)[0], sorted(samples)
    for name in ("learned", "beta", "beta_tilde"):
        terms.semilogx(range(1, T + 1), L[T, name].mean(0)[:-1].cumsum(0), label=name)
        steps = sorted(steps for steps, each in L if each == name)
        bits.loglog(steps, [L[K, name].sum(1).mean() for K in steps], ".-")
    terms.set(title="$L_0 + ... + L_{t-1}$ (bits/dim)", xlabel="t", ylim=(0, None))
    terms.legend(title="variance")
    share.semilogx(range(1, T + 1), v[T, "learned"].mean(0)[1:])
    share.hlines([0, 1], 1, T, color="grey", linewidth=0.5)
    share.set(title=r"mean of v: 0 is $\tilde\beta_t$, 1 is $\beta_t$", xlabel="t")
    bits.set(title="all terms (bits/dim)", xlabel="steps of the chain")
    image = grid(torch.cat([samples[row] for row in rows]), len(samples[rows[0]]))
    picture.imshow(image, cmap="gray", vmin=0, vmax=255)
    picture.set(title="samples from the same noise", xticks=[])
    picture.set_yticks([image.height / len(rows) * (k + 0.5) for k in range(len(rows))],
                       [f"{steps} steps, {name}" for steps, name in rows])
    return figure


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = arguments(__doc__, "the one that ships")
    parser.add_argument("--simple", type=Path, help="a checkpoint of train.py to compare with")
    parser.add_argument("--n", type=integer(2), default=64, help="number of images scored (64)")
    parser.add_argument("--out", type=file_name(".png"), default="improved_ddpm.png",
                        help="the picture, a PNG (improved_ddpm.png)")
    with one_line_errors("improved_ddpm.py"):
        if argv[:1] == ["train"]:
            run_train(argv[1:])
        else:
            run(parser.parse_args(argv))


def run(args):
    device, checkpoint = pick_device(args.device), args.checkpoint or SHIPPED
    config, ddpm, model = load_learned(checkpoint, device)
    other, _, simple = load(args.simple, device) if args.simple else (config, ddpm, model)
    same = "image_channels", "image_size", "T", "schedule"
    if any(other[name] != config[name] for name in same):
        raise ValueError(f"{args.simple} and {checkpoint} differ in one of {', '.join(same)}")
    C, H = config["image_channels"], config["image_size"]
    x, _ = data.load(config["data"], H, C, "test", config["data_dir"])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed))[:args.n]]
    check_writable(args.out)
    print(f"bits/dim of {len(x)} images of {config['data']}, T = {ddpm.T}, on {device}")

    def noise():
        return torch.Generator(device).manual_seed(args.seed)

    L, v, samples = {}, {}, {}
    chains = [*(steps for steps in STEPS if steps < ddpm.T), ddpm.T]
    x_T = torch.randn(min(8, batch_size(H)), C, H, H, generator=noise(), device=device)
    for name, each in {"learned": model, "beta": fixed(simple, 1.0),
                       "beta_tilde": fixed(simple, 0.0)}.items():
        print(f"{name}, {checkpoint if each is model else args.simple or checkpoint}:")
        for steps in chains:
            generator, chain = noise(), respace(ddpm, each, steps)     # for each the same x_t
            parts = [bound(*chain, data.to_model(part).to(device), generator=generator)
                     for part in x.split(batch_size(H))]
            row = steps, name
            L[row], v[row] = (torch.cat(part) for part in zip(*parts, strict=True))
            samples[row] = sample(ddpm, each, x_T, steps, generator=noise())
            print(f"{steps:8} steps {mean(L[row].sum(1))}")
    save_figure(draw_figure(L, v, samples), args.out)
    gain = {steps: min(L[steps, "beta"], L[steps, "beta_tilde"], key=torch.sum)
            - L[steps, "learned"] for steps in chains}
    print("the learned variance saves " + ", ".join(
        f"{mean(gain[steps].sum(1))} bits/dim in {steps} steps" for steps in chains))
    print(f"wrote {args.out}")


def mean(bits):
    return f"{bits.mean():.4f} +- {bits.std() / math.sqrt(len(bits)):.4f}"


if __name__ == "__main__":
    main()
