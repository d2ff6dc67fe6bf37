"""Flow matching: a velocity for every point and time, and reflow, which makes its paths straight.

Lipman et al. 2022, "Flow Matching for Generative Modeling" (arXiv:2210.02747), Eq. 5, 8, 9, 23; Liu
et al. 2022, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow"
(arXiv:2209.03003), Eq. 1, 2, sec. 2.2.

    python -m papers.flow_matching train [--steps 1400]     minutes; writes flow_matching.pt
    python -m papers.flow_matching [--checkpoint F] [--n 64]

From noise x_T to an image x_0 leads a straight line, x = (1 - t) x_0 + t x_T, walked with the
velocity x_T - x_0.  Many such lines cross at a point x.  v(x, t), the mean velocity of those that
do, takes noise to images by dx/dt = v, from t = 1 to 0 (in both papers t runs the other way).

A DDPM is such a flow: in another scale the mean of x_T - x_0 is eps_theta - x_0_hat, at the time
where alpha_bar is (1 - t)^2 / ((1 - t)^2 + t^2).  Euler's method on it is DDIM at times even in t,
and nothing is trained.  Or a network of its own learns v, from the lines themselves.

The lines are straight, and the paths of v are not: where lines cross, they turn.  Reflow trains v
once more, on the lines between both ends (x_T, x_0) of its own paths.  In one dimension these do
not cross, because paths of an ODE do not: one velocity for each point, and one step of Euler's is
exact.  In more they can.

The picture: paths in one dimension, before and after, and digits: of the DDPM that ships (from the
time `horizon`), of a flow, and of its reflow, which begins with the weights of the flow.  One step
of the flow is the mean of all digits; a reader may take it for an 8, the Frechet distance does not.
"""
import copy
from itertools import pairwise

import numpy as np
import torch
from matplotlib.figure import Figure

import data
import sample
from papers.edm import denoiser
from papers.kit.analytic import Mixture, ve_sigmas
from papers.kit.chain import first_noise, horizon
from papers.kit.judge import features, frechet, load_reader, read, rms
from papers.kit.ode import dormand_prince, heun_method
from papers.kit.program import finish, flags, held_out, program, show_rows, start
from papers.kit.training import ASSETS, fit, load_fit, save_fit, start_fit
from plumbing.cli import track
from plumbing.device import recorded
from unet import UNet

SHIPPED = ASSETS / "flow_matching.pt"
CONFIG = {"image_size": 16, "image_channels": 1, "channels": 24, "channel_mults": (1, 2),
          "num_res_blocks": 1, "attention_resolutions": (8,), "dropout": 0.0}
PAIRS, STEPS, SEEDS = 8192, (1, 2, 5, 10, 20), 5
MIXTURE = Mixture(None, torch.tensor([[-0.7], [0.5]]), torch.tensor([0.1, 0.2]), [0.4, 0.6])


def flow(D):
    """Make v(x, t), 0 < t < 1, of a denoiser D(x; sigma), as `edm.denoiser` makes one of a DDPM.

        v = eps - x_0_hat,   x_0_hat = D(x / (1 - t); t / (1 - t)),   x = (1 - t) x_0_hat + t eps
    """
    return lambda x, t: (x - D(x / (1 - t), t / (1 - t))) / t


def marginal(mixture):
    """Return the exact v(x, t) of a `Mixture` on the line, x (B, 1), t in 0..1.

    Eq. 8 of Lipman et al., Eq. 2 of Liu et al.: the mean velocity at x.  Of a part N(mu, s^2) it is

        (t - (1 - t) s^2) / ((1 - t)^2 s^2 + t^2) (x - (1 - t) mu) - mu
    """
    def v(x, t):
        log_parts, variances = mixture.log_parts(x, (1 - t) ** 2, t ** 2)    # (B, K)
        mu, s = mixture.means[:, 0], mixture.stds
        each = (t - (1 - t) * s ** 2) / variances * (x - (1 - t) * mu) - mu
        return (log_parts.softmax(1) * each).sum(1, keepdim=True)
    return v


def straightened(x_T, x_0):
    """Return the v(x, t) that reflow finds on the line, of pairs (N, 1), both in rising order.

    The only pair whose line goes through (x, t) says it; between two of them it is interpolated.
    """
    x_T, x_0 = x_T[:, 0].numpy(), x_0[:, 0].numpy()
    return lambda x, t: torch.from_numpy(np.interp(x, (1 - t) * x_0 + t * x_T, x_T - x_0))


@torch.no_grad()
def euler(v, x, times):
    """Return x at the last of the times, by Euler's method, and all v(x, t), (steps, B, ...)."""
    velocities = []
    for t, s in pairwise(times):
        velocities.append(v(x, t))
        x = x + (s - t) * velocities[-1]
    return x, torch.stack(velocities)


def straightness(velocities):
    """Return S = E ||(x_T - x_0) - v||^2 of paths in steps that are even in t, 0 if straight."""
    return velocities.var(0, correction=0).mean().item()


def loss(v, x_0, x_T):
    """Return E ||v(x, t) - (x_T - x_0)||^2, a mean over pixels, t ~ U(0, 1) for each image.

    Eq. 9, 23 of Lipman et al. (sigma_min = 0), Eq. 1 of Liu et al.; the gradient is that of Eq. 5.
    """
    t = torch.rand(len(x_0), *[1] * (x_0.dim() - 1), device=x_0.device)
    return (v((1 - t) * x_0 + t * x_T, t) - (x_T - x_0)).square().mean()


def velocity(model):
    """Return v(x, t), t a float or (B, 1, 1, 1), of a network that is told 1000 t."""
    return lambda x, t: model(x, (1000 * t * torch.ones_like(x[:, :1, :1, :1])).flatten()).float()


def network(config):
    return torch.nn.ModuleDict({"flow": UNet(**config), "reflow": UNet(**config)})


def run_train(argv):
    args, path, device = start_fit(argv, __doc__, "flow_matching.pt", 1400, "of both trainings")
    x, labels = data.load("digits", CONFIG["image_size"])
    nets = network(CONFIG).to(device)
    nets["flow"] = fit(nets["flow"], lambda model, x_0, _: loss(
        velocity(model), x_0, torch.randn_like(x_0)), x, labels, args.steps, label="flow")
    x_T = torch.randn(PAIRS, *x.shape[1:], device=device)
    x_0 = torch.cat([heun_method(velocity(nets["flow"]), part, 1, 0, 10)
                     for part in track(x_T.split(256), "pairs, batches")])
    nets["reflow"] = fit(                            # of 8 bits; the label says of which noise
        copy.deepcopy(nets["flow"]).requires_grad_(True),
        lambda model, x_0, i: loss(velocity(model), x_0, x_T[i]),
        data.to_uint8(x_0).cpu(), torch.arange(PAIRS), args.steps, label="reflow")
    save_fit(path, CONFIG, args.steps, nets)
    print(f"wrote {path}")


# ---- the picture ----

def on_the_line():
    """Return x_T, x_0 of the exact flow, (41, 1), and {name: v} of it and of its reflow."""
    x_T = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    x_0, _ = dormand_prince(marginal(MIXTURE), x_T, 1.0, 0.0, 1e-10, 1e-10)
    return x_T, x_0, {"flow": marginal(MIXTURE), "reflow": straightened(x_T, x_0)}


def draw_figure(x_T, flows, found, rows):
    """Draw paths on the line, {name: {steps: (seeds, 3)}}, and {label: digits}."""
    figure = Figure(figsize=(18, 4.6), layout="constrained")
    *line, share, far, right = figure.subplots(1, 5, width_ratios=(1, 1, 1, 1, 1.9))
    times = np.linspace(1, 0, 51).tolist()
    for axes, (name, v) in zip(line, flows.items(), strict=True):
        paths = x_T.T - euler(v, x_T, times)[1][..., 0].cumsum(0) / 50       # (50, 41)
        axes.plot(times, torch.cat([x_T.T, paths]), color="C0", lw=0.8)
        axes.plot([0] * len(x_T), euler(v, x_T, [1.0, 0.0])[0], "C3.")
        axes.set(xlabel="t, noise at 1", title=f"{name}; in red one step", ylim=(-2.6, 2.6))
    for axes, k, title, scale in ((share, 1, f"recognised, {SEEDS} seeds", "linear"),
                                  (far, 2, f"Frechet distance, {SEEDS} seeds", "log")):
        for i, (name, points) in enumerate(found.items()):
            each = torch.stack(list(points.values()))[..., k]                # (steps, seeds)
            axes.errorbar([n * 1.04 ** i for n in points], each.mean(1), each.std(1), marker="o",
                          markersize=4, capsize=2, label=name)
        axes.set(title=title, xlabel="steps of Euler's method", xscale="log", yscale=scale)
        axes.set_xticks(STEPS, STEPS)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    show_rows(right, rows, "from the same noise: flow, steps", most=8)
    return figure


def run(args):
    device, checkpoint, config, nets = start(
        args, SHIPPED, lambda path, device: load_fit(path, device, network))
    *_, core, ddpm, model = start(args, checkpoint=sample.SHIPPED)
    seeds, net = range(args.seed, args.seed + SEEDS), load_reader(device)
    print(f"{args.n} samples each of {checkpoint}, on {device}, seeds {list(seeds)}")
    reference = features(net, data.to_model(held_out(core)[0]).to(device))
    sigma = ve_sigmas(ddpm.exact)[horizon(ddpm)].item()
    t = sigma / (1 + sigma)                          # where the DDPM begins: v, t, scale of x
    flows = {"DDPM": (flow(denoiser(ddpm, model)), t, (t ** 2 + (1 - t) ** 2) ** 0.5),
             **{name: (velocity(recorded(each, device, args.record)), 1, 1)
                for name, each in nets.items()}}
    shape, found, rows, said = (args.n, 1, *[config["image_size"]] * 2), {}, {}, []
    x_T = torch.cat([first_noise(seed, shape, device)[0] for seed in seeds])
    for n in track(STEPS, "steps of Euler's method"):
        for name, (v, t, scale) in flows.items():
            x, velocities = euler(v, scale * x_T, np.linspace(t, 0, n + 1).tolist())
            x = x.clamp(-1, 1)
            found.setdefault(name, {})[n] = torch.tensor([                   # (seeds, 3)
                (straightness(path), read(net, each)[0].float().mean().item(),
                 frechet(features(net, each), reference))
                for each, path in zip(x.split(args.n), velocities.split(args.n, 1), strict=True)])
            if n in (*STEPS[:2], STEPS[-1]):
                rows[f"{name}, {n}"] = x[:args.n]
    x_T, x_0, line = on_the_line()
    for name, v in line.items():
        print(f"on the line, {name}: RMS error by steps " + ", ".join(
            f"{n}: {rms(euler(v, x_T, np.linspace(1, 0, n + 1).tolist())[0] - x_0):.1e}"
            for n in STEPS))
    print(f"{'':8}steps  recognised  Frechet distance")
    for name, points in found.items():
        for n, each in points.items():
            (S, share, far), (off, *both) = each.mean(0), each.std(0)
            print(f"{name:8}{n:5}  {share:.1%} +- {both[0]:.1%}  {far:.1f} +- {both[1]:.1f}")
        said.append(f"{S:.4f} +- {off:.4f} ({name})")
    finish(draw_figure(x_T, line, found, rows), args.out,
           f"S in {STEPS[-1]} steps, 0 if paths are straight: {', '.join(said)}")


def main(argv=None):
    program(flags(__doc__, "flow_matching.png", 64, 2, "samples of each, for each seed",
                  "the networks that ship"), run, argv, run_train)


if __name__ == "__main__":
    main()
