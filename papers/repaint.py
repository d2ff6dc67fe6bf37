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
The paper takes 250 steps and j = 10.

In the paper x_{t-1}^known has the noise of alpha_bar_t, and Algorithm 1 goes up with beta_{t-1},
where sec. 4.2 has beta_t.  Here, as in the authors' code, what is to be x_{t-1} has the noise of
alpha_bar_{t-1}, and the step from t - 1 to t is Eq. 2 of Ho et al. 2020, with beta_t.  Their code
replaces pixels before it asks the network, and so not after the last step.  Ours replaces them
after each, as Algorithm 1 does: since alpha_bar_0 = 1, known pixels come back exactly.
"""
from itertools import pairwise, zip_longest

import torch

import data
from papers.kit.chain import noise_like, respace
from papers.kit.judge import check_readable, load_reader, rms, share_read_as
from papers.kit.program import draw_panels, finish, flags, held_out, program, start, steps_of
from plumbing.cli import integer, track
from sample import batch_size


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
        ValueError: the mask has another shape, or other values than 0 and 1; r or j is below 1.
    """
    axes = zip_longest(mask.shape[::-1], x_0.shape[::-1], fillvalue=1)
    if not all(m in (1, n) for m, n in axes) or not ((mask == 0) | (mask == 1)).all():
        raise ValueError("a mask is 1 where a pixel is known and 0 where it is hidden, and not of "
                         f"shape {tuple(mask.shape)} for images {tuple(x_0.shape)}")

    x_t = noise_like(x_0, generator)                 # x_T
    for t, s in track(list(pairwise(schedule(ddpm.T, r, j))), f"r = {r}, steps"):
        if s == t - 1:
            unknown = ddpm.p_sample(model, x_t, t, clip, generator)
            known = ddpm.q_sample(x_0, s, noise_like(x_0, generator))
            x_t = torch.where(mask == 1, known, unknown)         # in a product NaN would spread
        else:
            x_t = ddpm.alpha[s].sqrt() * x_t + ddpm.beta[s].sqrt() * noise_like(x_0, generator)
    return x_t


# ---- the program ----

def masks(H, generator):
    """Return {what is known: mask (H, H)}."""
    return {"upper half": (torch.arange(H) < H // 2).float()[:, None].expand(H, H),
            "10% of the pixels": (torch.rand(H, H, generator=generator) < 0.1).float()}


def main(argv=None):
    parser = flags(__doc__, "repaint.png", 32, help="number of images", steps=50)
    parser.add_argument("--r", type=integer(1), default=10, help="how often each is taken (10)")
    parser.add_argument("--j", type=integer(1), default=5, help="length of a jump (5)")
    program(parser, run, argv)


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    check_readable(config, checkpoint)
    print(f"{args.n} digits, by {checkpoint}, on {device}")
    (x, labels), H, short = held_out(config), config["image_size"], steps_of(args, ddpm.T)
    generator = torch.Generator().manual_seed(args.seed)
    chosen = torch.randperm(len(x), generator=generator)[:args.n]
    x_0, labels = data.to_model(x[chosen]).to(device), labels[chosen].to(device)
    net = load_reader(device)
    down = sum(s < t for t, s in pairwise(schedule(short, args.r, args.j)))    # evaluations
    panels = {}
    for name, mask in masks(H, generator).items():
        mask = mask.to(device)
        rows = panels[f"{name} known"] = {"digit": x_0, "known": mask * x_0}
        for steps, r in ((short, 1), (min(down, ddpm.T), 1), (short, args.r)):
            chain = respace(ddpm, model, steps)
            noise = torch.Generator(device).manual_seed(args.seed)
            y = rows[f"{steps} steps, r = {r}"] = torch.cat([
                inpaint(*chain, part, mask, r, args.j, generator=noise)
                for part in x_0.split(batch_size(H))])
            share, error = share_read_as(net, y, labels), rms((y - x_0)[(mask == 0).expand_as(y)])
            print(f"{name} known, {steps} steps, r = {r}: {share:.1%} are read as the digit they "
                  f"were, RMS error {error:.2f}")
    finish(draw_panels(panels), args.out)


if __name__ == "__main__":
    main()
