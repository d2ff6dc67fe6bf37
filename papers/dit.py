"""DiT: the U-Net replaced by a transformer on patches, told the time by its normalisations.

Peebles & Xie 2022, "Scalable Diffusion Models with Transformers" (arXiv:2212.09748), sec. 3.2.

    python -m papers.dit train                              as train.py, with its flags
    python -m papers.dit [--checkpoint F] [--n 64]

An image is cut into patches of 2 x 2 pixels, each a vector, a "token".  Blocks of self-attention
and a perceptron change the tokens, and a linear layer makes pixels of them again: no levels, no
convolutions, no skips.  Where a patch lies is told by sines and cosines of its row and column.  The
time enters by adaLN-Zero: of its embedding c each block makes a shift, a scale and a gate for each
of its two branches.  All of them start as 0, so that a block starts as the identity.

It is compared with the U-Net that ships after equal compute, by the clock of one core: 4900 steps
of `train` take it as long as the U-Net's 3200 of as many images.  (Counted in operations, as the
paper counts, that is half as much: convolutions are what processors are good at.)  The picture: the
loss of both on held-out digits by quarter of t, and samples of both.

Departures: pixels and not latents, no classes, no learned variance; the time embedding is the
core's.  Of the U-Net's flags --channels is the width and --num-res-blocks the number of blocks;
the others mean nothing.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import data
import sample as core
import train
from papers.kit.chain import ask, noise_like, respace
from papers.kit.judge import check_readable, features, frechet, load_reader, read
from papers.kit.program import finish, flags, held_out, program, show_rows, start
from papers.kit.training import ASSETS, load_eps, train_eps
from plumbing.cli import track
from plumbing.device import recorded
from plumbing.flags import arg
from unet import timestep_embedding

SHIPPED, SEEDS, STEPS, PATCH = ASSETS / "dit.pt", 3, 50, 2


def patchify(x, p):
    """Cut images (B, C, H, W) into tokens (B, H/p W/p, C p p), row by row."""
    B, C, H, W = x.shape
    x = x.view(B, C, H // p, p, W // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, H * W // p ** 2, C * p * p)


def unpatchify(tokens, p, H, W):
    """Put tokens (B, H/p W/p, C p p) together to images (B, C, H, W)."""
    B, C = len(tokens), tokens.shape[2] // p ** 2
    x = tokens.view(B, H // p, W // p, C, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(B, C, H, W)


def positions(rows, columns, dim):
    """Return where patches lie, (rows columns, dim): one half tells the row, one the column."""
    i, j = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).T
    return torch.cat([timestep_embedding(i, dim // 2), timestep_embedding(j, dim - dim // 2)], 1)


def modulate(x, shift, scale):
    """Return x normalised over its width, scaled and shifted: adaptive layer norm."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def perceptron(dim, hidden, activation):
    return nn.Sequential(nn.Linear(dim, hidden), activation, nn.Linear(hidden, dim))


class Block(nn.Module):
    """A transformer block with adaLN-Zero.  Peebles & Xie 2022, Fig. 3."""

    def __init__(self, dim):
        super().__init__()
        self.heads = math.gcd(4, dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = perceptron(dim, 4 * dim, nn.GELU(approximate="tanh"))
        self.modulation = nn.Linear(dim, 6 * dim)

    def attention(self, x):
        """Mix the tokens (B, N, D) by softmax(q k^T / sqrt(D / heads)) v, in each head."""
        B, N, D = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / math.sqrt(D / self.heads)).softmax(3)          # (B, heads, N, N)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, D))

    def forward(self, x, c):
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(F.silu(c)).chunk(6, 1)
        x = x + gate[:, None] * self.attention(modulate(x, shift, scale))
        return x + gate_mlp[:, None] * self.mlp(modulate(x, shift_mlp, scale_mlp))


class DiT(nn.Module):
    """eps_theta(x_t, t) by a transformer; of UNet's arguments it uses these."""

    def __init__(self, image_channels, channels, num_res_blocks, **unused):
        super().__init__()
        self.dim = channels
        self.embed = nn.Linear(image_channels * PATCH ** 2, channels)
        self.time = perceptron(channels, channels, nn.SiLU())
        self.blocks = nn.ModuleList(Block(channels) for _ in range(num_res_blocks))
        self.modulation = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, image_channels * PATCH ** 2)
        for layer in (*(block.modulation for block in self.blocks), self.modulation, self.out):
            nn.init.zeros_(layer.weight)             # adaLN-Zero, and eps_theta = 0
            nn.init.zeros_(layer.bias)

    def forward(self, x_t, t):
        """Predict the noise in x_t, (B, C, H, W), H and W divisible by PATCH; t is (B,)."""
        H, W = x_t.shape[2:]
        x = self.embed(patchify(x_t, PATCH))                                 # (B, N, D)
        x = x + positions(H // PATCH, W // PATCH, self.dim).to(x)
        c = self.time(timestep_embedding(t, self.dim))                       # (B, D)
        for block in self.blocks:
            x = block(x, c)
        x = modulate(x, *self.modulation(F.silu(c)).chunk(2, 1))
        return unpatchify(self.out(x), PATCH, H, W)


# ---- the program ----

@dataclass
class Config(train.Config):
    channels: int = arg(64, "width of the blocks", least=8)
    num_res_blocks: int = arg(6, "number of blocks", least=1)
    steps: int = arg(4900, "optimizer steps", least=1)
    lr: float = arg(1e-3, "learning rate of Adam", above=0, below=1)


@torch.no_grad()
def by_quarter(ddpm, model, x_0, seed):
    """Return the mean of L_simple in each quarter of t, (4,), of images x_0 at 8 times each."""
    generator, tally = torch.Generator(x_0.device).manual_seed(seed), 0
    for part in x_0.repeat(8, 1, 1, 1).split(256):
        t = torch.randint(1, ddpm.T + 1, (len(part),), generator=generator, device=x_0.device)
        eps = noise_like(part, generator)
        losses = (model(ddpm.q_sample(part, t, eps), t) - eps).square().flatten(1).mean(1)
        tally = tally + train.by_quarter(losses, t, ddpm.T)
    return tally[0] / tally[1]


def draw_figure(losses, rows):
    """Draw the losses, {name: (seeds, 4)}, by quarter of t, and samples."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    for name, each in losses.items():
        left.errorbar(("first", "second", "third", "last"), each.mean(0), each.std(0), marker="o",
                      capsize=2, label=name)
    left.set(yscale="log", xlabel="quarter of t", title=f"loss of held-out digits, {SEEDS} seeds")
    left.legend(fontsize=8)
    show_rows(right, rows, f"from the same noise, {STEPS} steps", most=12)
    return figure


def load_shipped(path, device):
    config, ddpm, dit = load_eps(path, device, DiT)
    return config, ddpm, nn.ModuleDict({"DiT": dit})             # which `run` records, not `start`


def run(args):
    device, checkpoint, config, ddpm, networks = start(args, SHIPPED, load_shipped)
    check_readable(config, checkpoint)
    seeds, net = range(args.seed, args.seed + SEEDS), load_reader(device)
    x_0, losses, rows, shares = data.to_model(held_out(config)[0]).to(device), {}, {}, []
    print(f"{args.n} samples each of {checkpoint}, on {device}, seeds {list(seeds)}")
    unet = core.load(core.SHIPPED, device)[1:]
    for name, process, model in (("U-Net", *unet), ("DiT", ddpm, networks["DiT"])):
        losses[name] = torch.stack([by_quarter(process, model, x_0[:256], seed) for seed in seeds])
        found, asked = [], recorded(model, device, args.record)
        chain, each = respace(process, asked, STEPS)
        for seed in track(seeds, f"{name}, seeds"):
            x = chain.sample(each, (args.n, *x_0.shape[1:]),
                             generator=torch.Generator(device).manual_seed(seed))
            rows.setdefault(name, x)
            found.append((read(net, x)[0].float().mean() * 100,
                          frechet(features(net, x), features(net, x_0))))
        share, far = (f"{each.mean():.1f} +- {each.std():.1f}" for each in torch.tensor(found).T)
        with FlopCounterMode(display=False) as counter:
            ask(model, x_0[:1], 1)
        print(f"{name}: {sum(weight.numel() for weight in model.parameters()):,} weights, "
              f"{counter.get_total_flops() / 1e6:.1f} million operations; loss by quarter of t "
              + ", ".join(f"{mean:.4f}" for mean in losses[name].mean(0))
              + f"; Frechet distance {far}")
        shares.append(f"{share}% ({name})")
    finish(draw_figure(losses, rows), args.out, "recognised: " + ", ".join(shares))


def main(argv=None):
    program(flags(__doc__, "dit.png", 64, 2, default="the one that ships"), run, argv,
            lambda argv: train_eps(argv, Config, __doc__, DiT, lambda config: train.L_simple))


if __name__ == "__main__":
    main()
