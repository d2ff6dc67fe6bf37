"""DDIM: sampling that skips times, and that can be run backwards.

Song, Meng & Ermon 2020, "Denoising Diffusion Implicit Models" (arXiv:2010.02502), Eq. 12 to 14 and
16, sec. 4.2, 4.3 and 5, appendices D.2 and D.5.

    python -m papers.ddim [--checkpoint F] [--data NAME] [--n 32]
    python -m papers.ddim --grid samples.png --steps 20 --n 64       these samples and no more

DDIM's alpha_t is DDPM's alpha-bar_t, and so `alpha_bar[t]` here.  Nothing is trained again: a jump,
Eq. 12, goes from time t to any earlier s.  With eta = 1 it is noisy, a step of Algorithm 2 if
s = t - 1; with eta = 0 it follows an ODE.

The program draws samples of 5 to 1000 steps from the same x_T, their quality, how consistent they
are (sec. 5.2), how well images come back from being encoded (Table 2), and an interpolation.
"""
from itertools import pairwise

import torch
from matplotlib.figure import Figure

import data
from data import to_uint8
from papers.kit.analytic import eps_from_x_0
from papers.kit.chain import ask, first_noise, horizon, noise_like, subsequence
from papers.kit.judge import apart, nearest, rms
from papers.kit.program import (counted, finish, flags, held_out, program, show, show_lines,
                                show_rows, shuffled, start, steps_of)
from plumbing.cli import check_writable, file_name
from plumbing.device import autocast
from plumbing.pictures import save_grid
from sample import batch_size


@torch.no_grad()
def step(ddpm, model, x_t, t, s, eta=0.0, clip=True, generator=None):
    """Jump from x_t to x_s, s < t.  Song et al. 2020, Eq. 12 with the sigma of Eq. 16.

        x_s = sqrt(alpha_bar_s) x_0_hat + sqrt(1 - alpha_bar_s - sigma^2) eps + sigma z
        sigma = eta sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_s)
        z ~ N(0, I)

    x_0_hat is DDPM's Eq. 15, made from eps_theta(x_t, t), and eps the noise that x_t then holds:
    x_t = sqrt(alpha_bar_t) x_0_hat + sqrt(1 - alpha_bar_t) eps.  Where x_0_hat was not clipped, eps
    is eps_theta, as in the paper; where it was, eps here belongs to the clipped one.  A jump to
    s = 0 returns x_0_hat.

    Args:
        ddpm: DDPM.
        model: called as model(x_t, t), returns eps_theta.
        x_t: (B, C, H, W) noisy images.
        t: the time of x_t, an int in 1..T.
        s: the time to jump to, an int in 0..t - 1.
        eta: in [0, 1]; 0 is deterministic, and 1 with s = t - 1 a step of Algorithm 2 with
            sigma_t^2 = beta_tilde_t, clipped or not.
        clip: clip x_0_hat to [-1, 1].
        generator: torch.Generator on the device of x_t; z is one `noise_like(x_t, generator)`.

    Returns:
        (B, C, H, W) images x_s.

    Raises:
        ValueError: not 0 <= s < t <= T, or eta is not in [0, 1].
    """
    if not (0 <= s < t <= ddpm.T and 0 <= eta <= 1):
        raise ValueError(f"a jump goes from t in 1..{ddpm.T} to an earlier s >= 0 with eta in "
                         f"[0, 1], not from {t} to {s} with eta = {eta}")
    alpha_bar = ddpm.exact.alpha_bar
    x_0_hat = ddpm.estimate_x_0(model, x_t, t, clip)
    # Not eps_theta itself: only so is the mean, where eta = 1, DDPM's Eq. 7 of the clipped x_0_hat.
    eps = eps_from_x_0(ddpm, x_t, t, x_0_hat)
    sigma = (eta * ((1 - alpha_bar[s]) / (1 - alpha_bar[t])).sqrt()
             * (1 - alpha_bar[t] / alpha_bar[s]).sqrt())
    direction = (1 - alpha_bar[s] - sigma ** 2).clamp(min=0).sqrt() * eps          # -2e-16 is 0
    return alpha_bar[s].sqrt() * x_0_hat + direction + sigma * noise_like(x_t, generator)


def sample(ddpm, model, x_T, times, eta=0.0, clip=True, generator=None):
    """Go from noise to images in one jump per time.  Song et al. 2020, sec. 4.2.

        x_{tau_{i-1}} = step(x_{tau_i}),   i = S, ..., 1,   tau_0 = 0

    Args:
        ddpm, model, eta, clip, generator: as for `step`.
        x_T: (B, C, H, W) noise at the last of the times, which need not be T.
        times: tau_1 < ... < tau_S in 1..T, ints; see `subsequence`.

    Returns:
        (B, C, H, W) images x_0.

    Raises:
        ValueError: the times are none, do not increase or leave 1..T, or eta is not in [0, 1].
    """
    x_t = x_T
    for s, t in reversed(jumps(ddpm, times)):
        x_t = step(ddpm, model, x_t, t, s, eta, clip, generator)
    return x_t


def jumps(ddpm, times):
    """Return the list of pairs (tau_{i-1}, tau_i), i = 1, ..., S, of valid times."""
    pairs = list(pairwise([0, *times]))
    if not pairs or pairs[-1][1] > ddpm.T or any(s >= t for s, t in pairs):
        raise ValueError(f"times must be increasing, from 1..{ddpm.T}, and not {list(times)}")
    return pairs


@torch.no_grad()
def encode(ddpm, model, x_0, times):
    """Find the noise that an image comes from.  Song et al. 2020, sec. 4.3 and 5.4.

        x_t / sqrt(alpha_bar_t) = x_s / sqrt(alpha_bar_s) + (sigma_t - sigma_s) eps_theta(x_s, s)
        sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t)

    This is Eq. 13, a step with eta = 0, run upwards, from tau_0 = 0 to tau_S.  `sample` with the
    same times, eta = 0 and clip = False leads back, the better the more steps.

    Args:
        ddpm, model: as for `step`.
        x_0: (B, C, H, W) images.
        times: as for `sample`.

    Returns:
        (B, C, H, W): x_t at the last of the times.

    Raises:
        ValueError: the times are none, do not increase or leave 1..T.
    """
    x_t = x_0
    for s, t in jumps(ddpm, times):
        eps_theta = ask(model, x_t, max(s, 1))       # the network was never asked about t = 0
        x_t = ddpm.q_sample(ddpm.predict_x_0(x_t, s, eps_theta), t, eps_theta)
    return x_t


def slerp(x, y, weight):
    """Interpolate between noises along the sphere they lie near.  Song et al. 2020, appendix D.5.

        sin((1 - weight) theta) / sin(theta) x + sin(weight theta) / sin(theta) y
        theta = arccos(<x, y> / (|x| |y|))

    Args:
        x, y: (B, ...) noise; each pair has an angle of its own.
        weight: float in [0, 1]; 0 is x, 1 is y.

    Returns:
        (B, ...).
    """
    cosine = torch.cosine_similarity(x.flatten(1), y.flatten(1)).clamp(-1, 1)
    theta = cosine.arccos().clamp(min=1e-4).reshape(-1, *[1] * (x.dim() - 1))     # no 0 / 0
    return (((1 - weight) * theta).sin() * x + (weight * theta).sin() * y) / theta.sin()


# ---- the picture ----

def reconstruct(ddpm, model, x_0, times):
    """Encode and decode; return the mean squared error of pixels in 0..1, as in Table 2."""
    back = sample(ddpm, model, encode(ddpm, model, x_0, times), times, clip=False)
    return rms((back - x_0) / 2) ** 2


def draw_figure(samples, mixed, panels):
    """Draw samples {label: {steps: images}}, mixed images, panels {title: {label: {steps: y}}}."""
    figure = Figure(figsize=(15, 7), layout="constrained")
    axes = figure.subplot_mosaic([[*samples, "a"], [*samples, "b"], ["line", "line", "c"]],
                                 width_ratios=(1, 1, 0.9), height_ratios=(1, 1, 0.8))
    for label, rows in samples.items():
        show_rows(axes[label], rows, f"{label}, from the same x_T: steps", most=8)
    show(axes["line"], mixed, len(mixed), "eta = 0, between the x_T of the first and last column")
    for name, (title, lines) in zip("abc", panels.items(), strict=True):
        show_lines(axes[name], lines, title, "steps")
    return figure


def run(args):
    if args.grid:
        check_writable(args.grid)
        return draw_grid(args)
    device, checkpoint, config, ddpm, model = start(args)
    x, _ = held_out(config, args.data, least=2)
    C, H, T = config["image_channels"], config["image_size"], ddpm.T
    n, end = min(args.n, batch_size(H)), horizon(ddpm)
    steps = sorted({max(1, T // share) for share in (200, 100, 50, 20, 10, 5, 1)})   # 5..1000
    few, middle = steps[len(steps) // 3], steps[len(steps) // 2]                     # 20, 50
    model = counted(model, 2 * sum(steps) + 2 * sum(min(S, end) for S in steps) + middle)
    print(f"{n} samples of {checkpoint}, T = {T}, on {device}")
    x_T, generator = first_noise(args.seed, (n, C, H, H), device)
    samples = {f"eta = {eta}": {
        S: sample(ddpm, model, x_T, subsequence(T, S), eta, generator=generator).cpu()
        for S in steps} for eta in (0, 1)}
    weights = torch.linspace(0, 1, min(11, batch_size(H))).tolist()
    mixed = torch.cat([slerp(x_T[:1], x_T[:8][-1:], weight) for weight in weights])
    mixed = sample(ddpm, model, mixed, subsequence(T, middle))
    order, known = shuffled(len(x), args.seed), min(n, 16, len(x) // 2)
    x_0, others = data.to_model(x[order[:known]]), x[order[known:10_000]]
    errors = {S: reconstruct(ddpm, model, x_0.to(device), subsequence(end, min(S, end)))
              for S in steps}

    quality = {eta: {S: nearest(x, others) for S, x in row.items()} for eta, row in samples.items()}
    quality["held-out images"] = dict.fromkeys(steps, nearest(x_0, others))
    distance = {eta: {S: apart(x, row[T]) for S, x in row.items() if S < T}
                for eta, row in samples.items()}
    eta_0, eta_1 = (line.get(few, 0) for line in distance.values())
    finish(draw_figure(samples, mixed, {
        "quality: RMS distance to the nearest held-out image": quality,
        f"consistency: RMS distance to the sample of {T} steps": distance,
        "reconstruction: mean squared error of pixels in 0..1": {
            f"encoded up to t = {end} and decoded": errors}}), args.out,
        f"{few} and {T} steps from one x_T end at an RMS distance of {eta_0:.3f} with eta = 0, "
        f"{eta_1:.3f} with eta = 1; held-out images encoded and decoded in {few} steps come back "
        f"with a mean squared error of {errors[few]:.1e}, in {min(T, end)} of {errors[T]:.1e}")


def draw_grid(args):
    """Draw --n samples in --steps steps, in batches, as a plain grid."""
    device, _, config, ddpm, model = start(args)
    C, H, steps = config["image_channels"], config["image_size"], steps_of(args, ddpm.T)
    x_T, _ = first_noise(args.seed, (args.n, C, H, H), device)
    with autocast(device):
        x_0 = [sample(ddpm, model, part, subsequence(ddpm.T, steps))
               for part in x_T.split(batch_size(H))]
    save_grid(to_uint8(torch.cat(x_0)), args.grid)
    print(f"wrote {args.grid}")


def main(argv=None):
    parser = flags(__doc__, "ddim.png", 32, help="number of samples, at most one batch", steps=20)
    parser.add_argument("--grid", type=file_name(".png"),
                        help="draw --n samples in --steps steps to this PNG, and nothing else")
    parser.add_argument("--data", help="held-out images (default: of what it was trained on)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
