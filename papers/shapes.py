"""Shapes as sets of points: a DDPM whose network does not know which point comes first.

Zaheer et al. 2017, "Deep Sets" (arXiv:1703.06114); Lee et al. 2019, "Set Transformer"
(arXiv:1810.00825); Yang et al. 2019, "PointFlow" (arXiv:1906.12320), for how clouds are compared.

    python -m papers.shapes train [--steps 3000]                         minutes; writes shapes.pt
    python -m papers.shapes [--checkpoint F] [--n 50]

A cloud is a set: (N, 2) numbers, and any order of its rows is the same cloud.  Here its points are
drawn from the ink of a rendered digit, so that those of one digit are independent of each other,
and what they have in common is the digit.  DDPM is as ever; only the network has to be equivariant,
which attention is as long as nobody tells it positions in the row:

    eps_theta(P x_t, t) = P eps_theta(x_t, t)   for each permutation P of the points

Then L_simple is the same for every order of the points, and so, as N(0, I) is too, is the
likelihood of what Algorithm 2 draws.  Nor is the network told N: it can draw more than it saw.

The picture has held-out clouds; samples, each point in the colour of where it was at t = T; samples
of four times as many points; and the way of one.  How good they are is told by the Chamfer distance
to the nearest of n held-out clouds, beside that of n other held-out clouds, and by 1-NNA: among
held-out clouds and samples, the share whose nearest other is of the same kind.  It is 50% of two
kinds that cannot be told apart, and 100% of two that always can.
"""
import math

import torch
from matplotlib.figure import Figure
from torch import nn

import data
from ddpm import DDPM
from papers.kit.chain import decode, first_noise
from papers.kit.program import finish, flags, program, shuffled, start
from papers.kit.training import ASSETS, fit, load_fit, save_fit, start_fit
from plumbing.device import autocast
from schedules import cosine_beta_schedule
from unet import timestep_embedding

SHIPPED = ASSETS / "shapes.pt"
CONFIG = {"image_size": 32, "points": 96, "width": 64, "layers": 4, "heads": 4, "T": 200}
SEEDS = 3


def clouds(x_0, N, generator=None):
    """Draw N points from the ink of each image.

    Args:
        x_0: (B, 1, H, H) float images in [-1, 1]; -1 is no ink.
        N: an int.

    Returns:
        (B, N, 2) points (to the right, up) in [-1, 1], anywhere in the pixel that was drawn.
    """
    B, _, H, _ = x_0.shape
    pixel = torch.multinomial(x_0.flatten(1) + 1, N, True, generator=generator)          # (B, N)
    corner = torch.stack([pixel % H, H - 1 - pixel // H], dim=2)
    return (corner + torch.rand(B, N, 2, generator=generator, device=x_0.device)) * 2 / H - 1


class Block(nn.Module):
    """Each point looks at all, and then is changed by itself: attention and two layers, added."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(),
                                 nn.Linear(2 * width, width))

    def forward(self, h):
        B, N, C = h.shape
        q, k, v = self.qkv(self.norm1(h)).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])                   # (B, heads, N, N)
        h = h + self.proj((scores.softmax(dim=3) @ v).transpose(1, 2).reshape(B, N, C))
        return h + self.mlp(self.norm2(h))


class SetNetwork(nn.Module):
    """eps_theta(x_t, t) of clouds x_t, (B, N, 2), of any N: equivariant."""

    def __init__(self, width, layers, heads):
        super().__init__()
        self.width = width
        self.embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.point = nn.Linear(18, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))
        nn.init.zeros_(self.out[1].weight)

    def forward(self, x_t, t):
        waves = torch.cat([math.pi * 2 ** k * x_t for k in range(4)], dim=2)     # (B, N, 8)
        h = self.point(torch.cat([x_t, waves.sin(), waves.cos()], dim=2))
        h = h + self.embed(timestep_embedding(t, self.width))[:, None]
        return self.out(self.blocks(h)).float()


def chamfer(x, y):
    """Return the Chamfer distance of each cloud to each: d(x, y), (B, M).

        d = mean_i min_j |x_i - y_j|^2 + mean_j min_i |x_i - y_j|^2

    x is (B, N, 2), y (M, K, 2); the numbers of points may differ.
    """
    return torch.stack([(square := torch.cdist(each[None], y) ** 2).amin(2).mean(1)
                        + square.amin(1).mean(1) for each in x])


def nearest_is_own(x, y):
    """Return 1-NNA of clouds x, (B, N, 2), and y, (M, N, 2), a float: 0.5 if they are alike."""
    d = chamfer(torch.cat([x, y]), torch.cat([x, y])).fill_diagonal_(math.inf)
    own = torch.arange(len(d)) < len(x)
    return (own[d.argmin(1)] == own).float().mean().item()


def network(config):
    """Build what a file holds: eps_theta, untrained, and the process of its config."""
    net = SetNetwork(*(config[name] for name in ("width", "layers", "heads")))
    return nn.ModuleDict({"net": net, "ddpm": DDPM(cosine_beta_schedule(config["T"]))})


def run_train(argv):
    args, path, device = start_fit(argv, __doc__, "shapes.pt", 3000, "of the optimizer")
    x, labels = data.load("digits", CONFIG["image_size"])
    networks = network(CONFIG).to(device)

    def loss(net, x_0, labels):
        return networks["ddpm"].loss(net, clouds(x_0, CONFIG["points"]))

    networks["net"] = fit(networks["net"], loss, x, labels, args.steps, 64)
    save_fit(path, CONFIG, args.steps, networks)
    print(f"wrote {path}")


# ---- the program ----

def sample(ddpm, net, n, N, seed):
    """Draw n clouds of N points by Algorithm 2; return x_T and x_0, (n, N, 2) each."""
    x_T, generator = first_noise(seed, (n, N, 2), ddpm.beta.device)
    with autocast(ddpm.beta.device):
        return x_T.cpu(), decode(ddpm, net, x_T, ddpm.T, True, generator).cpu()


def draw_figure(rows):
    """Draw {label: (clouds, colours)}, ten of each; a colour is a number for each point, or one."""
    figure = Figure(figsize=(15, 6.4), layout="constrained")
    axes = figure.subplots(len(rows), 10)
    for line, (label, (x, colours)) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(label, fontsize=9)
        for k, (each, cloud) in enumerate(zip(line, x, strict=False)):
            colour = {"c": colours[k], "cmap": "hsv"} if len(colours) > 1 else {"color": colours[0]}
            each.scatter(*cloud.T, s=400 / len(cloud), linewidths=0, **colour)
        for each in line:
            each.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal", xticks=[], yticks=[])
    return figure


def main(argv=None):
    parser = flags(__doc__, "shapes.png", 50, 10, "clouds of each kind", "the one that ships")
    program(parser, run, argv, run_train)


def run(args):
    device, checkpoint, config, networks = start(
        args, SHIPPED, lambda path, device: load_fit(path, device, network))
    net, ddpm, N = networks["net"], networks["ddpm"], config["points"]
    x, _ = data.load("digits", config["image_size"], 1, "test")
    found = []
    for seed in range(args.seed, args.seed + SEEDS):
        x_0 = data.to_model(x[shuffled(len(x), seed)[:2 * args.n]])
        held, other = clouds(x_0, N, torch.Generator().manual_seed(seed)).split(args.n)
        x_T, drawn = sample(ddpm, net, args.n, N, seed)
        found.append([chamfer(drawn, held).amin(1).mean(), chamfer(other, held).amin(1).mean(),
                      chamfer(other, held).mean(), nearest_is_own(drawn, held),
                      nearest_is_own(other, held)])
        if seed == args.seed:
            rows = {"held-out": (held, ["black"]),
                    f"samples, N = {N}": (drawn, torch.atan2(x_T[..., 1], x_T[..., 0]))}
    rows[f"N = {4 * N}"] = sample(ddpm, net, 10, 4 * N, args.seed)[1], ["tab:blue"]
    x_T, generator = first_noise(args.seed, (1, N, 2), device)
    way = [x_t[0].cpu() for _, x_t, _ in ddpm.reverse_process(net, x_T, generator=generator)]
    times = [round(ddpm.T * (k / 9) ** 2) for k in range(9, -1, -1)]
    rows["one, from t = T to 0"] = [way[ddpm.T - t] for t in times], ["tab:orange"]
    mean, std = torch.tensor(found).mean(0), torch.tensor(found).std(0)
    d = [f"{m:.4f} +- {s:.4f}" for m, s in zip(mean[:3], std, strict=False)]
    own = [f"{m:.0%} +- {s:.0%}" for m, s in zip(mean[3:], std[3:], strict=True)]
    print(f"1-NNA of samples and held-out clouds {own[0]}, of two lots of held-out ones {own[1]}; "
          f"any two of these are {d[2]} apart")
    finish(draw_figure(rows), args.out,
           f"finding: the nearest of {args.n} held-out clouds is at a Chamfer distance of {d[0]} "
           f"from samples, of {d[1]} from other held-out clouds")


if __name__ == "__main__":
    main()
