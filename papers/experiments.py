"""What a trained chain does besides sampling: the pictures of Ho et al. 2020, sec. 4.3 and 4.4.

    python -m papers.experiments [--checkpoint F] [--data NAME] [--folder experiments]

    progressive.png       Fig. 6: x_0_hat along the chain, from left to right
    shared.png            Fig. 7: samples that share x_t, for large and for small t
    interpolation.png     Fig. 8 and 9: two images mixed at time t, for every t of Fig. 9

The times are those of the figures at T = 1000, and the same shares of any other T.
"""
from pathlib import Path

import torch
from matplotlib.figure import Figure

import data
from sample import (arguments, batch_size, check_writable, grid, load, newest_checkpoint,
                    one_line_errors, pick_device, save_figure)

LAMBDAS = [i / 10 for i in range(11)]                       # 0 and 1 are the reconstructions


def decode(ddpm, model, x_t, t, clip=True, generator=None):
    """Draw x_0 ~ p_theta(x_0 | x_t): Algorithm 2 from time t on.

    Args:
        ddpm, model: the process and eps_theta.
        x_t: (B, C, H, W) float images at time t.
        t: an int in 0..T; from t = 0 nothing is left to do.
        clip, generator: as for `DDPM.p_sample`.

    Returns:
        (B, C, H, W) float images x_0.
    """
    parts = []
    for part in x_t.split(batch_size(x_t.shape[-1])):
        for s in data.track(range(t, 0, -1), f"decoding from t = {t}, times"):
            part = ddpm.p_sample(model, part, s, clip, generator)
        parts.append(part)
    return torch.cat(parts)


def progressive(ddpm, model, x_T, times, clip=True, generator=None):
    """Show the result long before it is there.  Ho et al. 2020, sec. 4.3, Fig. 6.

    Args:
        ddpm, model, clip, generator: as for `decode`.
        x_T: (B, C, H, W) noise.
        times: ints in 0..T.

    Returns:
        (B, len(times), C, H, W): x_0_hat made from x_t, for each t of `times` in falling order; at
        t = 0 it is x_0.
    """
    steps = data.track(ddpm.reverse_process(model, x_T, clip, generator),
                       "progressive generation, times", ddpm.T + 1)
    return torch.stack([x_0_hat for t, _, x_0_hat in steps if t in times], dim=1)


def share(ddpm, model, x_T, times, n=3, clip=True, generator=None):
    """Split one chain in n at each of several times.  Ho et al. 2020, sec. 4.3, Fig. 7.

    Args:
        ddpm, model, clip, generator: as for `decode`.
        x_T: (1, C, H, W) noise, where the chain starts.
        times: ints in 0..T.
        n: samples of each x_t.

    Returns:
        {t: (n + 1, C, H, W)}: n draws of x_0 ~ p_theta(x_0 | x_t), and x_t itself.
    """
    shared = {t: x_t for t, x_t, _ in ddpm.reverse_process(model, x_T, clip, generator)
              if t in times}
    return {t: torch.cat([decode(ddpm, model, x_t.expand(n, *x_t.shape[1:]), t, clip, generator),
                          x_t]) for t, x_t in shared.items()}


def interpolate(ddpm, model, x_0, other, t, lambdas, clip=True, generator=None):
    """Mix two images at time t and decode the mixture.  Ho et al. 2020, sec. 4.4, Fig. 8.

        x_t ~ q(x_t | x_0),   x'_t ~ q(x_t | x'_0)
        result ~ p_theta(x_0 | (1 - lambda) x_t + lambda x'_t)

    Both are drawn once and serve for every lambda.  The paper's formula has x_0 and x'_0 in the
    mixture; its sentences and the authors' code say x_t and x'_t.

    Args:
        ddpm, model, clip, generator: as for `decode`.
        x_0, other: (C, H, W) float images in [-1, 1].
        t: an int in 0..T, of the noising and of the denoising; 0 mixes pixels.
        lambdas: floats in [0, 1]; 0 and 1 are reconstructions.

    Returns:
        (len(lambdas), C, H, W) float images.
    """
    x_0 = torch.stack([x_0, other])
    eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
    x_t, other_t = ddpm.q_sample(x_0, t, eps)
    mixed = torch.stack([(1 - weight) * x_t + weight * other_t for weight in lambdas])
    return decode(ddpm, model, mixed, t, clip, generator)


# ---- the pictures ----

def draw_rows(panels, titles=(), columns=(), rows=()):
    """Draw panels of images side by side.

    Args:
        panels: list of (number of columns, (N, C, H, W) images).
        titles: one for each panel, or none.
        columns, rows: labels of the columns and rows of every panel, or none.

    Returns:
        A matplotlib Figure.
    """
    pictures = [grid(x, n) for n, x in panels]
    height = max(picture.height for picture in pictures) / 90              # inches
    width = sum(p.width / p.height for p in pictures) * height + (1 if rows else 0.5)
    figure = Figure(figsize=(width, height + 0.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for i, ((n, x), picture) in enumerate(zip(panels, pictures, strict=True)):
        axes[i].imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes[i].set_title(titles[i] if titles else "", fontsize=9)
        for axis, labels, size, count in ((axes[i].xaxis, columns, picture.width, n),
                                          (axes[i].yaxis, rows, picture.height, len(x) // n)):
            axis.set_ticks([size / count * (k + 0.5) for k in range(len(labels))], labels,
                           fontsize=7)
            axis.set_tick_params(length=0)
        axes[i].xaxis.tick_top()
        axes[i].set_frame_on(False)
    return figure


def eighths(T, *parts):
    """Return these eighths of T, rounded: 1000 of 1000 is 8."""
    return [round(T * part / 8) for part in parts]


def main(argv=None):
    parser = arguments(__doc__)
    parser.add_argument("--data", help="where the two images of interpolation.png come from "
                        "(default: what the network was trained on)")
    parser.add_argument("--folder", type=Path, default="experiments",
                        help="for the pictures (experiments)")
    args = parser.parse_args(argv)
    with one_line_errors("experiments.py"):
        run(args)


def run(args):
    device, checkpoint = pick_device(args.device), args.checkpoint or newest_checkpoint()
    config, ddpm, model = load(checkpoint, device)
    name = args.data or config["data"]
    C, H, T = config["image_channels"], config["image_size"], ddpm.T
    x, labels = data.load(name, H, C, "test", config["data_dir"])
    check_writable(args.folder / "progressive.png")
    print(f"experiments with {checkpoint}, T = {T}, on {device}")
    generator = torch.Generator(device).manual_seed(args.seed)

    def noise(n):
        return torch.randn(n, C, H, H, generator=generator, device=device)

    times = sorted({round(T * i / 12) for i in range(13)}, reverse=True)
    x_0_hat = progressive(ddpm, model, noise(min(8, batch_size(H))), times, generator=generator)
    save(draw_rows([(len(times), x_0_hat.flatten(0, 1))], columns=[f"t = {t}" for t in times]),
         args.folder / "progressive.png")

    shared = share(ddpm, model, noise(1), eighths(T, 8, 6, 4, 2), generator=generator)
    save(draw_rows([(2, images) for images in shared.values()],
                   titles=[f"share x_{t}" for t in shared]), args.folder / "shared.png")

    x_0, other = data.to_model(pick_two(x, labels, args.seed)).to(device)
    times = eighths(T, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    rows = [torch.stack([x_0, *interpolate(ddpm, model, x_0, other, t, LAMBDAS,
                                           generator=generator), other])
            for t in times]
    save(draw_rows([(len(LAMBDAS) + 2, torch.cat(rows))], rows=[f"{t} steps" for t in times],
                   columns=["source", "rec.", *[f"λ={weight}" for weight in LAMBDAS[1:-1]], "rec.",
                            "source"]), args.folder / "interpolation.png")


def pick_two(x, labels, seed):
    """Pick two of the images x, (2, C, H, W), of two classes if labels (N,) has two."""
    first, *others = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).tolist()
    differ = [i for i in others if labels is not None and labels[i] != labels[first]]
    return x[[first, (differ or others or [first])[0]]]


def save(figure, path):
    save_figure(figure, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
