"""RePaint: hidden pixels filled in by a network that was trained for no such thing.

Lugmayr et al. 2022, "RePaint: Inpainting using Denoising Diffusion Probabilistic Models"
(arXiv:2201.09865), Eq. 8, Algorithm 1 and sec. 4.2, with the authors' schedule of jumps.

    python -m papers.repaint [--checkpoint F] [--n 32] [--steps 50] [--r 10] [--j 5]

In each step of Algorithm 2 of Ho et al. 2020 the known pixels are replaced by those of the image,
with the noise of that time.  The hidden ones have one step to follow them, and with this alone
(r = 1) the two do not match.  So RePaint adds the noise of j steps again, to all pixels, and walks
the j steps down again, r times in all.

The program shows the network the upper half of digits, and a tenth of their pixels, and lets a
classifier read what it made of them; beside it r = 1 on a longer chain, with as many evaluations.

In the paper x_{t-1}^known has the noise of alpha_bar_t, and Algorithm 1 goes up with beta_{t-1},
where sec. 4.2 has beta_t.  Here, as in the authors' code, what is to be x_{t-1} has the noise of
alpha_bar_{t-1}, and the step from t - 1 to t is Eq. 2 of Ho et al. 2020, with beta_t.  Their code
replaces pixels before it asks the network, and so not after the last step.  Ours replaces them
after each, as Algorithm 1 does: since alpha_bar_0 = 1, known pixels come back exactly.
"""
from itertools import pairwise

import torch
from matplotlib.figure import Figure

import data
from benchmarks.recognise import check_readable, share_read_as, train_classifier
from papers.improved_ddpm import respace
from sample import (arguments, batch_size, check_writable, file_name, grid, integer, load,
                    newest_checkpoint, one_line_errors, pick_device, save_figure)


def schedule(T, r=10, j=10):
    """List the times to visit.  Lugmayr et al. 2022, sec. 4.2; where to jump is from their code.

    From T down to 0, but from each of 1, 1 + j, 1 + 2j, ..., up to T - j, first r - 1 times j steps
    back up.  With j = 1 this is Algorithm 1, and r is its U.

    Args:
        T: length of the chain.
        r: how often a step is taken that a jump goes over, an int, at least 1.  With 1 there are no
            jumps.
        j: length of a jump, an int, at least 1.

    Returns:
        List of ints from T to 0, each 1 away from the one before.

    Raises:
        ValueError: r or j is less than 1.
    """
    if r < 1 or j < 1:
        raise ValueError(f"r and j must be at least 1, not {r} and {j}")
    times, left = [T], dict.fromkeys(range(1, T - j + 1, j), r - 1)
    while times[-1] > 0:
        t = times[-1] - 1
        times.append(t)
        if left.get(t):
            left[t] -= 1
            times += range(t + 1, t + j + 1)
    return times


@torch.no_grad()
def inpaint(ddpm, model, x_0, mask, r=10, j=10, clip=True, generator=None):
    """Draw the hidden pixels of x_0, given the others.  Lugmayr et al. 2022, Eq. 8, Algorithm 1.

        x_{t-1}^known = sqrt(alpha_bar_{t-1}) x_0 + sqrt(1 - alpha_bar_{t-1}) eps
        x_{t-1}^unknown ~ p_theta(x_{t-1} | x_t)                           a step of Algorithm 2
        x_{t-1} = m x_{t-1}^known + (1 - m) x_{t-1}^unknown

    and, where the schedule goes up, x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps.

    Args:
        ddpm: DDPM.
        model: called as model(x_t, t), returns eps_theta.
        x_0: (B, C, H, W) images.  Their hidden pixels do not matter, and can be NaN.
        mask: m, 1 where a pixel is known and 0 where it is hidden; broadcasts to x_0.
        r, j: as for `schedule`.
        clip, generator: as for `DDPM.p_sample`.

    Returns:
        (B, C, H, W) images; their known pixels are those of x_0.

    Raises:
        ValueError: the mask has other values than 0 and 1, or r or j is less than 1.
    """
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("a mask is 1 where a pixel is known and 0 where it is hidden")

    def noise():
        return torch.randn(x_0.shape, generator=generator, device=x_0.device, dtype=x_0.dtype)

    x_t = noise()                                    # x_T
    for t, s in data.track(list(pairwise(schedule(ddpm.T, r, j))), f"r = {r}, steps"):
        if s == t - 1:
            unknown = ddpm.p_sample(model, x_t, t, clip, generator)
            known = ddpm.q_sample(x_0, s, noise())
            x_t = torch.where(mask == 1, known, unknown)         # in a product NaN would spread
        else:
            x_t = ddpm.alpha[s].sqrt() * x_t + ddpm.beta[s].sqrt() * noise()
    return x_t


# ---- the program ----

def masks(H, generator):
    """Return {what is known: mask (H, H)}."""
    return {"upper half": (torch.arange(H) < H // 2).float()[:, None].expand(H, H),
            "10% of the pixels": (torch.rand(H, H, generator=generator) < 0.1).float()}


def draw_figure(panels):
    """Draw {title: {label: (n, C, H, W)}}: a panel each, with a row of 8 images for each label."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        x = torch.stack([row[:8] for row in rows.values()])
        picture = grid(x.flatten(0, 1), x.shape[1])
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_yticks([picture.height / len(x) * (k + 0.5) for k in range(len(x))], list(rows))
        axes.set(title=f"{title} known", xticks=[])
    return figure


def main(argv=None):
    parser = arguments(__doc__)
    parser.add_argument("--n", type=integer(1), default=32, help="number of images (32)")
    parser.add_argument("--steps", type=integer(1), default=50,
                        help="steps of the chain, at most T (50; the paper: 250)")
    parser.add_argument("--r", type=integer(1), default=10, help="how often each is taken (10)")
    parser.add_argument("--j", type=integer(1), default=5,
                        help="length of a jump (5; the paper: 10)")
    parser.add_argument("--out", type=file_name(".png"), default="repaint.png",
                        help="the picture, a PNG (repaint.png)")
    args = parser.parse_args(argv)
    with one_line_errors("repaint.py"):
        run(args)


def run(args):
    device, checkpoint = pick_device(args.device), args.checkpoint or newest_checkpoint()
    config, ddpm, model = load(checkpoint, device)
    H = config["image_size"]
    check_readable(config, checkpoint)
    check_writable(args.out)
    print(f"{args.n} digits, by {checkpoint}, on {device}")
    x, labels = data.load("digits", H, split="test")
    generator = torch.Generator().manual_seed(args.seed)
    chosen = torch.randperm(len(x), generator=generator)[:args.n]
    x_0, labels = data.to_model(x[chosen]).to(device), labels[chosen].to(device)
    classifier, _ = train_classifier(H, device)

    short = min(args.steps, ddpm.T)
    down = sum(s < t for t, s in pairwise(schedule(short, args.r, args.j)))    # evaluations
    panels = {}
    for name, mask in masks(H, generator).items():
        mask = mask.to(device)
        panels[name] = {"digit": x_0.cpu(), "known": (mask * x_0).cpu()}
        for steps, r in ((short, 1), (min(down, ddpm.T), 1), (short, args.r)):
            chain = respace(ddpm, model, steps)
            noise = torch.Generator(device).manual_seed(args.seed)
            y = torch.cat([inpaint(*chain, part, mask, r, args.j, generator=noise)
                           for part in x_0.split(batch_size(H))])
            share = share_read_as(classifier, y, labels)
            rms = ((y - x_0).square().mean() / (1 - mask).mean()).sqrt()
            label = f"{steps} steps, r = {r}"
            panels[name][label] = y.cpu()
            print(f"{name} known, {label}: {share:.1%} are read as the digit they were, RMS error "
                  f"{rms:.2f}")
    save_figure(draw_figure(panels), args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
