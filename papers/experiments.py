"""What a trained chain does besides sampling: the pictures of Ho et al. 2020, sec. 4.3 and 4.4.

    python -m papers.experiments [--checkpoint F] [--data NAME] [--folder experiments]

    progressive.png       Fig. 6: x_0_hat along the chain, from left to right
    shared.png            Fig. 7: samples that share x_t, for large and for small t
    interpolation.png     Fig. 8 and 9: two images mixed at time t, for every t of Fig. 9

At T = 1000 the times of Fig. 7 to 9 are the paper's (Fig. 6 names none); of any other T they are
the same shares.
"""
from pathlib import Path

import torch
from matplotlib.figure import Figure

import data
from papers.kit.chain import decode, noise_like
from papers.kit.program import finish, flags, held_out, program, show, shuffled, start
from plumbing.cli import check_writable, track
from sample import batch_size

LAMBDAS = [i / 10 for i in range(11)]                       # 0 and 1 are the reconstructions


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
    steps = track(ddpm.reverse_process(model, x_T, clip, generator),
                  "progressive generation, times", ddpm.T)
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
    mixture; its sentences and the authors' code say x_t and x'_t, as here.

    Args:
        ddpm, model, clip, generator: as for `decode`.
        x_0, other: (C, H, W) float images in [-1, 1].
        t: an int in 0..T, of the noising and of the denoising.
        lambdas: floats in [0, 1]; 0 and 1 are reconstructions.

    Returns:
        (len(lambdas), C, H, W) float images.
    """
    x_0 = torch.stack([x_0, other])
    x_t, other_t = ddpm.q_sample(x_0, t, noise_like(x_0, generator))
    mixed = torch.stack([(1 - weight) * x_t + weight * other_t for weight in lambdas])
    return decode(ddpm, model, mixed, t, clip, generator)


# ---- the pictures ----

def draw(path, panels, columns=(), rows=()):
    """Draw {title: (n, (N, C, H, W) images)} side by side, in n columns; label those, and rows."""
    figure = Figure(layout="constrained")
    for axes, (title, (n, x)) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                     panels.items(), strict=True):
        picture = show(axes, x, n, title)
        width, height = picture.width / n, picture.height / (len(x) // n)    # of a cell
        axes.set_xticks([width * (k + 0.5) for k in range(len(columns))], columns, fontsize=7)
        axes.set_yticks([height * (k + 0.5) for k in range(len(rows))], rows, fontsize=7)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.set_frame_on(False)
    figure.set_size_inches(len(panels) * picture.width / 90 + (1 if rows else 0.5),
                           picture.height / 90 + 0.4)
    finish(figure, path)


def pick_two(x, labels, seed):
    """Pick two of the images x, (2, C, H, W), of two classes if labels (N,) has two."""
    first, *others = shuffled(len(x), seed).tolist()
    differ = [i for i in others if labels is not None and labels[i] != labels[first]]
    return x[[first, (differ or others or [first])[0]]]


def run(args):
    check_writable(args.folder / "progressive.png")
    device, checkpoint, config, ddpm, model = start(args)
    C, H, T = config["image_channels"], config["image_size"], ddpm.T
    x, labels = held_out(config, args.data)
    print(f"experiments with {checkpoint}, T = {T}, on {device}")
    generator = torch.Generator(device).manual_seed(args.seed)

    def noise(n):
        return torch.randn(n, C, H, H, generator=generator, device=device)

    eighths = [round(T * part / 8) for part in range(8, -1, -1)]             # 1000, 875, ..., 0
    times = sorted({round(T * i / 12) for i in range(13)}, reverse=True)
    x_0_hat = progressive(ddpm, model, noise(min(8, batch_size(H))), times, generator=generator)
    draw(args.folder / "progressive.png", {"": (len(times), x_0_hat.flatten(0, 1))},
         [f"t = {t}" for t in times])

    shared = share(ddpm, model, noise(1), eighths[:8:2], generator=generator)
    draw(args.folder / "shared.png", {f"share x_{t}": (2, x) for t, x in shared.items()})

    x_0, other = data.to_model(pick_two(x, labels, args.seed)).to(device)
    rows = [torch.stack([x_0, *interpolate(ddpm, model, x_0, other, t, LAMBDAS,
                                           generator=generator), other]) for t in eighths]
    columns = ["source", "rec.", *[f"λ={weight}" for weight in LAMBDAS[1:-1]], "rec.", "source"]
    draw(args.folder / "interpolation.png", {"": (len(columns), torch.cat(rows))}, columns,
         [f"{t} steps" for t in eighths])


def main(argv=None):
    parser = flags(__doc__)
    parser.add_argument("--data", help="of the two images that are mixed (default: the network's)")
    parser.add_argument("--folder", type=Path, default=Path("experiments"), help="(experiments)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
