"""Anomalies: what a network that denoises digits cannot give back is no digit.

Graham et al. 2022, "Denoising diffusion models for out-of-distribution detection"
(arXiv:2211.07740).

    python -m papers.anomaly [--checkpoint F] [--n 64]

Nothing is trained.  An image is noised to 19 levels and reconstructed from each; the error is
compared with that of held-out digits, as a z-score, and the mean of the z-scores says how unusual
the image is.  AUROC is the probability that an anomaly has the larger score than a digit: 1 if all
have, 0.5 by chance.  (A mirrored 0 or 8 is still one, so that not all can.)  The picture shows what
is reconstructed, AUROC by each level alone and by all, and the variational bound.  The bound takes
a blank image for the most usual of all: what is likely need not be typical.

Departures: the paper walks back to x_0 by PLMS, here x_0_hat (Ho et al. 2020, Eq. 15) is the
reconstruction, at one evaluation each; and its errors are MSE and LPIPS, here MSE alone.  The mean
of |z| is not in the paper: what is reconstructed too well is no digit either.
"""
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

import data
from papers import variational_bound
from papers.kit.chain import noise_like, respace
from papers.kit.program import finish, flags, held_out, program, show_rows, shuffled, start
from plumbing.cli import track
from sample import batch_size

LEVELS, SEEDS, BOUND_STEPS, BOUND_IMAGES = 20, 3, 100, 16
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"                  # O and I are digits in some faces


def levels(T):
    """Return the times to reconstruct from: T / 20, 2 T / 20, ..., 19 T / 20; each once."""
    return sorted({max(1, T * i // LEVELS) for i in range(1, LEVELS)})


@torch.no_grad()
def reconstruct(ddpm, model, x_0, t, generator=None, clip=True):
    """Return x_0_hat, (B, ...), of x_0 noised to time t, an int.  Ho et al. 2020, Eq. 4, 15."""
    x_t = ddpm.q_sample(x_0, t, noise_like(x_0, generator))
    return ddpm.estimate_x_0(model, x_t, t, clip)


def errors(ddpm, model, x_0, times, clip=True, generator=None):
    """Return the mean squared error of x_0_hat from each time.  Graham et al. 2022.

        e_t = || x_0 - x_0_hat ||^2 / D,   x_0_hat of one x_t ~ q(x_t | x_0)

    Of x_0 ~ N(m, s^2 I), an image m + d and the perfect network, with a = alpha_bar_t, b = 1 - a,

        E[e_t] = (1 - k sqrt(a))^2 |d|^2 / D + k^2 b,   k = sqrt(a) s^2 / (a s^2 + b)

    Args:
        ddpm, model: the process and eps_theta.
        x_0: (B, C, H, W) images in [-1, 1].
        times: L ints in 1..T.
        clip: whether x_0_hat is clipped; generator: on the device of x_0.

    Returns:
        (B, L).
    """
    parts = x_0.split(batch_size(x_0.shape[-1]))
    return torch.cat([torch.stack(
        [(reconstruct(ddpm, model, part, t, generator, clip) - part).square().flatten(1).mean(1)
         for t in times], 1) for part in parts])


def z_scores(e, reference):
    """Return errors e, (B, L), in standard deviations from the mean of a reference, (N, L)."""
    return (e - reference.mean(0)) / reference.std(0)


def auroc(usual, unusual):
    """Return P(unusual > usual) + P(unusual = usual) / 2, a float, of scores (M,) and (N,)."""
    gap = unusual[:, None] - usual
    return ((gap > 0).double() + (gap == 0).double() / 2).mean().item()


def letters(n, H, seed):
    """Draw n letters as data.digits draws digits, but without shear, (n, 1, H, H) uint8."""
    rng, size, x = np.random.default_rng(seed), 4 * H, np.empty((n, 1, H, H), np.uint8)
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    for i in range(n):
        face, letter = rng.choice(data.FACES), str(rng.choice(list(LETTERS)))
        angle, dx, dy = rng.uniform(-1, 1, 3)
        font = ImageFont.truetype(str(fonts / f"{face}.ttf"), size,
                                  layout_engine=ImageFont.Layout.BASIC)
        left, top, right, bottom = font.getbbox(letter)
        where = ((1 + 0.08 * dx) * size - left - right) / 2, (
            (1 + 0.08 * dy) * size - top - bottom) / 2
        picture = Image.new("L", (size, size))
        ImageDraw.Draw(picture).text(where, letter, fill=255, font=font)
        x[i, 0] = np.asarray(picture.rotate(6 * angle, Image.Resampling.BILINEAR).reduce(4))
    return torch.from_numpy(x)


def kinds(x, n, seed):
    """Return {kind: (n, C, H, W) uint8}: three parts of x, of 3 n images, and anomalies."""
    reference, digits, others = x[:3 * n].split(n)
    noise = torch.randint(0, 256, others.shape, generator=torch.Generator().manual_seed(seed))
    return {"reference": reference, "digits": digits, "other digits": others,
            "mirrored": others.flip(3), "upside down": others.flip(2),
            "letters": letters(n, x.shape[-1], seed).expand_as(others), "inverted": 255 - others,
            "noise": noise.to(torch.uint8), "blank": torch.zeros_like(others)}


def judge(e):
    """Judge each kind of image by its errors.

    Args:
        e: {kind: (N, L)} errors; "reference" is what z is measured by, "digits" what is usual.

    Returns:
        {other kind: (2 + L,)}: AUROC by the mean of z, by that of |z|, and by each level.
    """
    z = {kind: z_scores(each, e["reference"]) for kind, each in e.items()}
    scores = {kind: [each.mean(1), each.abs().mean(1), *each.T] for kind, each in z.items()}
    return {kind: torch.tensor([auroc(*pair) for pair in zip(scores["digits"], each, strict=True)])
            for kind, each in scores.items() if kind not in ("reference", "digits")}


def draw_figure(times, rows, found, bits):
    """Draw reconstructions, AUROC by each level and by all, and bits/dim of each image."""
    figure = Figure(figsize=(16, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(0.9, 1.2, 0.9))
    show_rows(left, rows, "x_0, then x_0_hat from T/20, 5T/20, ...")
    for i, (kind, values) in enumerate(found.items()):
        middle.plot(times, values[2:], ".-", color=f"C{i}", label=kind)
        middle.plot([times[-1] * 1.1], values[:1], "o", color=f"C{i}")
        middle.plot([times[-1] * 1.2], values[1:2], "s", color=f"C{i}")
        right.plot(bits[kind], [-i] * len(bits[kind]), "|", color=f"C{i}", markersize=12)
    ticks = [*times[1::6], times[-1] * 1.1, times[-1] * 1.2]
    middle.set_xticks(ticks, [*times[1::6], "mean\nof z", "mean\nof |z|"])
    middle.set(xlabel="reconstructed from t", ylabel="AUROC, against digits", ylim=(-0.02, 1.02))
    middle.legend(fontsize=8, loc="lower center")
    right.plot(bits["digits"], [1] * len(bits["digits"]), "|", color="black", markersize=12)
    right.set_yticks([1, *(-i for i in range(len(found)))], ["digits", *found])
    right.set(xscale="log", xlabel=f"bound in {BOUND_STEPS} steps (bits/dim)")
    right.set_xticks([4, 8, 16], [4, 8, 16])
    right.set_xticks([], minor=True)
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    x, times = held_out(config, least=3 * args.n)[0], levels(ddpm.T)
    seeds = range(args.seed, args.seed + SEEDS)
    print(f"{args.n} images of each kind for the seeds {list(seeds)}, by {checkpoint}, on {device}")
    each = []
    for seed in track(seeds, "reconstructing, seeds"):
        images = kinds(x[shuffled(len(x), seed)], args.n, seed)
        x_0 = {kind: data.to_model(part).to(device) for kind, part in images.items()}
        generator = torch.Generator(device).manual_seed(seed)
        each.append(judge({kind: errors(ddpm, model, part, times, generator=generator).cpu()
                           for kind, part in x_0.items()}))
    found = {kind: torch.stack([one[kind] for one in each]) for kind in each[0]}    # (SEEDS, 2 + L)
    chain = respace(ddpm, model, min(BOUND_STEPS, ddpm.T))
    bits = {kind: variational_bound.score(*chain, part[:BOUND_IMAGES], generator)[0][
        config["variance"]].sum(1) for kind, part in images.items() if kind != "reference"}
    print(f"{'AUROC, +- std over seeds':26}{'mean of z':>15}{'mean of |z|':>15}{'bound':>8}"
          f"{'bits/dim':>10}")
    for kind, value in found.items():
        print(f"{kind:26}" + "".join(f"{v.mean():8.3f} +-{v.std():5.3f}" for v in value.T[:2])
              + f"{auroc(bits['digits'], bits[kind]):8.3f}{bits[kind].mean():10.2f}")
    odd = torch.stack([value for kind, value in found.items() if kind != "other digits"])
    worst = odd.amin(0).mean(0)                      # of the kinds, for each way
    one = worst[2:].argmax().item()
    rows = {kind: torch.cat([part[:1], *(reconstruct(ddpm, model, part[:1], t, generator)
                                         for t in times[::4])])
            for kind, part in x_0.items() if kind != "reference"}
    values = {kind: value.mean(0) for kind, value in found.items()}
    finish(draw_figure(times, rows, values, bits), args.out,
           f"finding: of the worst kind AUROC is {worst[0]:.3f} by the mean of z, {worst[1]:.3f} "
           f"by that of |z|, {worst[2 + one]:.3f} by t = {times[one]} alone, the best one level")


def main(argv=None):
    program(flags(__doc__, "anomaly.png", 64, 2, "images of each kind"), run, argv)


if __name__ == "__main__":
    main()
