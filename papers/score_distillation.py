"""Score distillation: a volume whose shadows are digits, by a network that has only seen pictures.

Poole et al. 2022, "DreamFusion: Text-to-3D using 2D Diffusion" (arXiv:2209.14988), Eq. 1 to 4.

    python -m papers.score_distillation [--checkpoint F] [--n 90]

theta is a volume of 16 x 16 x 16 densities, x = g(theta) its picture from some side.  Eq. 3 asks a
trained network how x should change to look like data, and the chain rule takes that to theta.  So a
volume becomes a 3 from the front and a 7 from the side; the picture shows some, turned between.

It is no sampling.  Eq. 3 is the gradient of one function of theta (Eq. 4), and descent ends in its
minima, always in the same: pictures of one digit are nearly alike, and of 2,000 particles that
follow a mixture in one dimension none ends in the smaller mode.

The paper's z_t is x_t here, its alpha_t is sqrt(alpha_bar_t), its sigma_t sqrt(1 - alpha_bar_t)
and its omega `W`.  As there w(t) = sigma_t^2, and t is drawn from 0.02 T to 0.98 T, but here the
latter falls to 0.02 T ("annealed").  Its volume is a NeRF, seen from all around; its omega is 100.
"""
import math

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

import data
from ddpm import DDPM, at
from papers.classifier_free_guidance import SHIPPED, LabelUNet, guided
from papers.kit.analytic import Mixture
from papers.kit.chain import first_noise, noise_like
from papers.kit.judge import check_readable, diversity, load_reader, read
from papers.kit.program import finish, flags, held_out, program, show_rows, shuffled, start
from papers.kit.training import load_eps
from plumbing.cli import track
from schedules import cosine_beta_schedule

W, STEPS, PARTICLES, LINE_STEPS, SHOWN, SIDE = 3, 100, 2000, 2000, 6, math.pi / 2


def direction(ddpm, model, x, t, eps):
    """Return what Eq. 3 sends back through g, for pictures x.  Poole et al. 2022, Eq. 3.

        grad_theta L_SDS = E_{t, eps}[w(t) (eps_theta(x_t, t) - eps) dx/dtheta]
        x_t = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) eps,   w(t) = 1 - alpha_bar_t

    The gradient of L_simple (their Eq. 1) has one more factor, the Jacobian of the network (Eq. 2).
    Left out, what remains needs no gradient of the network, and is that of Eq. 4, see `loss`.

    Args:
        ddpm, model: the process and eps_theta.
        x, eps: (B, ...) float; t: (B,) int64 times in 1..T.

    Returns:
        (B, ...): w(t) (eps_theta - eps), for x.backward.
    """
    with torch.no_grad():
        return at(ddpm.one_minus_alpha_bar, t, x) * (model(ddpm.q_sample(x, t, eps), t) - eps)


def loss(mixture, theta, times):
    """Return the function whose gradient Eq. 3 is, by a sum over eps.  Poole et al. 2022, Eq. 4.

        L_SDS = E_t[sigma_t / alpha_t w(t) KL(q(x_t | x = theta) || p(x_t))]

    Args:
        mixture: Mixture of one dimension, p.
        theta: (B,) float64, each its own picture.
        times: ints in 1..T, each as likely.

    Returns:
        (B,) float64.
    """
    z = torch.linspace(-8, 8, 321, dtype=torch.float64)
    weight, total = torch.exp(-z ** 2 / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0]), 0
    for t in times:
        a = mixture.ddpm.exact.alpha_bar[t]
        x_t = a.sqrt() * theta[:, None] + (1 - a).sqrt() * z                 # (B, 321)
        log_p = mixture.log_density(x_t.reshape(-1, 1), a, 1 - a).reshape(x_t.shape)
        KL = -(2 * math.pi * math.e * (1 - a)).log() / 2 - log_p @ weight
        total = total + ((1 - a) / a).sqrt() * (1 - a) * KL
    return total / len(times)


def distil(ddpm, model, g, theta, steps, rate, annealed=True, generator=None):
    """Follow Eq. 3 from theta on, by Adam.

    Args:
        ddpm, model: as for `direction`.
        g: called as g(theta), returns pictures (B, ...); gradients go through it.
        theta: tensor, on the device of the generator.
        steps, rate: an int, and Adam's rate, which falls to 0.
        annealed: whether the last time that is drawn falls from 0.98 T to 0.02 T.

    Returns:
        Another tensor in the shape of theta.
    """
    theta = theta.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], rate)
    for step in track(range(steps), "distilling, steps"):
        left = 1 - step / steps
        optimizer.param_groups[0]["lr"] = rate * left
        x = g(theta)
        u = torch.rand(len(x), generator=generator, device=x.device) * (left if annealed else 1)
        t = (ddpm.T * (0.02 + 0.96 * u)).round().long().clamp(min=1)
        optimizer.zero_grad()
        x.backward(direction(ddpm, model, x.detach(), t, noise_like(x, generator)))
        optimizer.step()
    return theta.detach()


def render(theta, angle):
    """Take pictures of volumes, all from one side: what is dense is white.

        x = 2 (1 - exp(-sum of softplus(theta) along the ray)) - 1

    Args:
        theta: (B, H, H, H) float: height, depth, width.
        angle: float, how far the volume is turned about its height; what leaves the cube is cut.

    Returns:
        (B, 1, H, H) pictures in [-1, 1].
    """
    H, cos, sin = theta.shape[1], math.cos(angle), math.sin(angle)
    centers = (2 * torch.arange(H, device=theta.device) + 1) / H - 1
    depth, width = torch.meshgrid(centers, centers, indexing="ij")
    where = torch.stack([cos * width + sin * depth, cos * depth - sin * width], -1)
    turned = F.grid_sample(F.softplus(theta), where.expand(len(theta), -1, -1, -1),
                           align_corners=False)
    return 1 - 2 * torch.exp(-turned.sum(2))[:, None]


def views(theta):
    """Return pictures of B volumes from the front, then from the side, (2 B, 1, H, H)."""
    return torch.cat([render(theta, 0), render(theta, SIDE)])


def line(seed):
    """Return a mixture of two modes, and {name: where particles end, (N,)}."""
    ddpm, generator = DDPM(cosine_beta_schedule()), torch.Generator().manual_seed(seed)
    mixture = Mixture(ddpm, torch.tensor([[-1.0], [1.0]]), 0.3, [0.7, 0.3])
    theta = torch.randn(PARTICLES, 1, generator=generator)
    ends = {name: distil(ddpm, mixture, lambda x: x, theta, LINE_STEPS, 0.03, annealed, generator)
            for name, annealed in (("distilled, all times", False), ("distilled, annealed", True))}
    return mixture, {name: theta[:, 0] for name, theta in ends.items()}


def draw_figure(rows, alike, mixture, ends):
    """Draw turned volumes, pictures of one digit, and where the particles of a line end."""
    figure = Figure(figsize=(14, 5.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    above, below = right.subplots(2, 1, height_ratios=(0.8, 1))
    show_rows(left.subplots(), rows, "each row one volume, turned by 90 degrees")
    show_rows(above, alike, "asked to be one digit, and data", 8)
    x = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
    below.fill_between(x, mixture.log_density(x[:, None], 1, 0).exp(), color="0.85", label="data")
    for name, theta in ends.items():
        below.hist(theta.numpy(), x[::2].numpy(), density=True, alpha=0.7, label=name)
    below.set(xlabel="theta", ylabel="density", xlim=(-2.5, 2.5), yscale="symlog", ylim=(0, 40))
    curve = below.twinx()
    curve.plot(x, loss(mixture, x, range(20, 981, 20)), "k", lw=1, label="Eq. 4, all t (right)")
    lines = [each.get_legend_handles_labels()[0] for each in (below, curve)]
    curve.legend(handles=sum(lines, []), fontsize=8)
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(
        args, SHIPPED, lambda path, device: load_eps(path, device, LabelUNet))
    check_readable(config, checkpoint)
    pairs = torch.tensor([(i, j) for i in range(10) for j in range(10) if i != j])
    pairs = pairs[shuffled(len(pairs), args.seed)[:args.n]].to(device)
    y, shape = pairs.T.flatten(), (len(pairs), *[config["image_size"]] * 3)
    print(f"{len(pairs)} volumes by {checkpoint}, {STEPS} steps each, w = {W}, on {device}")
    z, generator = first_noise(args.seed, shape, device)
    theta = distil(ddpm, guided(model, y, W), views, z / 10 - 3, STEPS, 0.1, generator=generator)
    x = views(theta)
    recognised, digit = read(load_reader(device), x)
    right = (recognised & (digit == y)).reshape(2, -1).float()
    (real, labels), often = held_out(config), y.mode().values.item()
    real, labels = data.to_model(real[:1000]), labels[:1000]
    rows = {f"{i}, {j}": torch.cat([render(each[None], SIDE * k / 8) for k in range(9)])
            for (i, j), each in zip(pairs[:SHOWN].tolist(), theta, strict=False)}
    mixture, ends = line(args.seed)
    print(f"two pictures of one digit are {diversity(x, y):.3f} apart, two held-out ones "
          f"{diversity(real, labels):.3f}")
    for name, end in ends.items():
        print(f"{name}: {(end > 0).float().mean():.1%} of the particles end in the mode that has "
              f"30% of the data; all of them at {end.mean():.3f} +- {end.std():.3f}")
    alike = {"distilled": x[y == often], "held out": real[labels == often]}
    finish(draw_figure(rows, alike, mixture, ends), args.out,
           f"finding: {right.amin(0).mean():.1%} of {len(pairs)} volumes are read as what was "
           "asked for from both sides")


def main(argv=None):
    program(flags(__doc__, "score_distillation.png", 90, SHOWN, "ordered pairs of two digits",
                  "the one that ships"), run, argv)


if __name__ == "__main__":
    main()
