"""The smallest whole DDPM: Algorithms 1 and 2 of Ho et al. 2020 in the plane.

    python -m papers.kit.plane                        trains on two moons and draws plane.png

Points instead of images, seconds instead of minutes, and every mistake can be seen.
"""
import math

import torch
from matplotlib.figure import Figure
from torch import nn

from ddpm import DDPM
from papers.kit.program import finish, program
from plumbing.cli import Parser, file_name, integer
from schedules import cosine_beta_schedule


def moons(n, generator=None):
    """Draw n points of two half circles that reach into each other, (n, 2) in [-1, 1]."""
    angle = math.pi * torch.rand(n, generator=generator)
    side = 2.0 * torch.randint(2, (n,), generator=generator) - 1             # -1 or 1
    x = torch.stack([0.6 * angle.cos() + 0.3 * side, side * (0.8 * angle.sin() - 0.2)], dim=1)
    return (x + 0.03 * torch.randn(n, 2, generator=generator)).clamp(-1, 1)


class Network(nn.Module):
    """eps_theta(x_t, t) for points: three hidden layers that see x_t, and waves of x_t and of t.

    Without the waves of x_t it learns too, but takes far longer to draw anything sharp.
    """

    def __init__(self, T, width=128):
        super().__init__()
        self.T = T
        self.layers = nn.Sequential(nn.Linear(18, width), nn.SiLU(), nn.Linear(width, width),
                                    nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, 2))

    def forward(self, x_t, t):
        """Predict eps, (B, 2), in x_t, (B, 2), at the times t, (B,)."""
        of_t = math.pi / 2 * t[:, None] / self.T * torch.tensor([1.0, 2.0, 4.0, 8.0])    # (B, 4)
        waves = torch.cat([of_t, math.pi * x_t, 2 * math.pi * x_t], dim=1)               # (B, 8)
        return self.layers(torch.cat([x_t, waves.sin(), waves.cos()], dim=1))


def imitate(ddpm, x, n, steps=2000):
    """Learn the distribution of some points, and draw new ones from it.

    A `Network` is trained on x by Algorithm 1, from the start, in `steps` steps of Adam on batches
    drawn from x; then n points are drawn with it by Algorithm 2.

    Args:
        ddpm: DDPM; `ddpm.loss(model, x_0)` and `ddpm.sample(model, shape)` are the algorithms.
        x: (N, 2) float points in [-1, 1].
        n: number of new points.
        steps: of the optimizer.

    Returns:
        (n, 2) float points, distributed as x and none of them a copy.
    """
    model = Network(ddpm.T)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)          # ends at 0: no EMA
        loss = ddpm.loss(model, x[torch.randint(len(x), (512,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ddpm.sample(model, (n, 2))


def run(args):
    torch.manual_seed(args.seed)
    x = moons(5000)
    x_0 = imitate(DDPM(cosine_beta_schedule(T=100)), x, 2000, args.steps)
    figure = Figure(figsize=(8, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, points, title in (left, x[:2000], "data"), (right, x_0, "samples"):
        axes.plot(*points.T, ".", markersize=2)
        axes.set(title=title, xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    finish(figure, args.out)


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--steps", type=integer(1), default=2000, help="of training (2000)")
    parser.add_argument("--seed", type=integer(0), default=0, help="of everything drawn (0)")
    parser.add_argument("--out", type=file_name(".png"), default="plane.png", help="(plane.png)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
