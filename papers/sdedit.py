"""SDEdit: a rough drawing becomes a picture, by noise and its removal.

Meng et al. 2021, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential
Equations" (arXiv:2108.01073), sec. 3, Fig. 3, and of appendix C Algorithm 4, for the VP-SDE.

    python -m papers.sdedit [--checkpoint F] [--guide picture.png] [--n 6]

Noise hides first what is fine and then what is coarse.  At some t_0 it has hidden how a drawing
differs from a picture, but what it shows is left, and of that DDPM's Algorithm 2 makes a picture.
Nothing is trained.  A small t_0 is faithful to the drawing and a large one realistic; the paper
recommends 0.3 T to 0.6 T.

The program edits ten digits drawn in straight strokes, n times each, or a picture of your own, from
several t_0, with 250 of the T steps in the chain.  Faithfulness is the distance to the drawing,
realism the distance to the nearest held-out image, and of digits there is the share that a
classifier reads as the digit drawn.

The paper's x^(g) is `guide`, and its t_0 in [0, 1] is t_0 / T here.
"""
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

import data
from papers.kit.chain import decode, noise_like, respace
from papers.kit.judge import apart, load_reader, nearest, readable, share_read_as
from papers.kit.program import finish, flags, held_out, program, show_rows, start
from plumbing.cli import track
from plumbing.folder import fit, read_picture

SHARES = 0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1                      # t_0 / T
SHOWN, STEPS = 0.3, 250
# Each digit as one line through points 0 1, 2 3, 4 5 from top to bottom, and 6, 7 in the middle.
POINTS = (30, 15), (70, 15), (30, 50), (70, 50), (30, 85), (70, 85), (50, 15), (50, 85)
STROKES = ("01540", "67", "013245", "0132354", "02315",
           "102354", "104532", "017", "0154023", "320154")


def edit(ddpm, model, guide, t_0, clip=True, generator=None):
    """Make a picture of a rough one.  Meng et al. 2021, Algorithm 4, in one pass (K = 1).

        x_{t_0} = sqrt(alpha_bar_{t_0}) guide + sqrt(1 - alpha_bar_{t_0}) z,   z ~ N(0, I)
        x_{t-1} ~ p_theta(x_{t-1} | x_t),   t = t_0, ..., 1

    A step is DDPM's, and with clip=False that of the authors' code, which clips nothing.  The last
    one adds no noise, here and in their code; in the listing it does.

    Args:
        ddpm, model, clip, generator: as for `DDPM.p_sample`.
        guide: (B, C, H, W) drawings, pixels in [-1, 1].
        t_0: an int in 0..T; 0 returns the guide, and T all but forgets it.

    Returns:
        (B, C, H, W) float images.

    Raises:
        ValueError: t_0 is not in 0..T.
    """
    if not 0 <= t_0 <= ddpm.T:
        raise ValueError(f"t_0 must be in 0..{ddpm.T}, not {t_0}")
    z = noise_like(guide, generator)
    return decode(ddpm, model, ddpm.q_sample(guide, t_0, z), t_0, clip, generator)


# ---- drawings, and what becomes of them ----

def draw_digits(size, channels):
    """Draw the ten digits in straight thick strokes, white on black: (10, C, H, W) uint8."""
    drawings = []
    for stroke in STROKES:
        image = Image.new("L", (100, 100))
        line = [POINTS[int(k)] for k in stroke]
        ImageDraw.Draw(image).line(line, fill=255, width=14, joint="curve")
        drawings.append(torch.tensor(fit(image, size, channels)))
    return torch.stack(drawings)


def open_guide(path, size, channels):
    """Return a picture as (1, C, H, W) uint8, cropped square."""
    try:
        return torch.tensor(read_picture(path, size, channels))[None]
    except Exception as error:                       # Pillow's readers raise nearly everything
        raise OSError(f"{path}: {error}") from error


def main(argv=None):
    parser = flags(__doc__, "sdedit.png", 6, help="edits of each drawing, or tens of a --guide")
    parser.add_argument("--guide", type=Path, help="a picture to edit, instead of drawn digits; as "
                        "light and dark as the data, of digits white on black")
    program(parser, run, argv)


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    C, H, T = config["image_channels"], config["image_size"], ddpm.T
    guide = open_guide(args.guide, H, C).expand(10, -1, -1, -1) if args.guide else draw_digits(H, C)
    x, _ = held_out(config, least=2)                 # there must be others to compare with
    known, others = x[:min(100, len(x) // 2)], x[min(100, len(x) // 2):10_000]
    print(f"{args.guide or 'ten drawings'}, edited by {checkpoint}, T = {T}, on {device}")

    ddpm, model = respace(ddpm, model, min(STEPS, T))
    generator = torch.Generator(device).manual_seed(args.seed)
    guide = data.to_model(guide).repeat(args.n, 1, 1, 1).to(device)
    edits = {t_0: edit(ddpm, model, guide, t_0, generator=generator) for t_0 in track(
        sorted({round(share * ddpm.T) for share in SHARES}), "editing, t_0")}
    points = {t_0: (apart(x_0, guide), nearest(x_0.cpu(), others)) for t_0, x_0 in edits.items()}
    usual, shares, t_0 = nearest(data.to_model(known), others), {}, round(SHOWN * ddpm.T)
    finding = (f"From t_0 = {SHOWN} T the edits are at an RMS distance of {points[t_0][0]:.3f} "
               f"from the drawings, and of {points[t_0][1]:.3f} from the nearest held-out image, "
               f"from which the drawings are {points[0][1]:.3f} and held-out images {usual:.3f}")
    if readable(config) and not args.guide:
        net, drawn = load_reader(device), torch.arange(10, device=device).repeat(args.n)
        shares = {each: share_read_as(net, x_0, drawn) for each, x_0 in edits.items()}
        finding += (f"; {shares[t_0]:.1%} are read as the digit drawn, of the drawings "
                    f"{shares[0]:.1%}")
    finish(draw_figure(ddpm.T, edits, points, usual, shares), args.out, finding)


def draw_figure(T, edits, points, usual, shares):
    """Draw edits {t_0: images}, points {t_0: (distance to the drawing, to the nearest)}, shares."""
    figure = Figure(figsize=(14, 6.5), layout="constrained")
    mosaic = [["rows", "plane"], ["rows", "read"]] if shares else [["rows", "plane"]]
    axes = figure.subplot_mosaic(mosaic, width_ratios=(1.3, 1))
    show_rows(axes["rows"], {f"{t_0 / T:.2g}" if t_0 else "drawing": x_0
                             for t_0, x_0 in edits.items()},
              "what becomes of a drawing, by $t_0 / T$", most=10)
    axes["plane"].plot(*zip(*points.values(), strict=True), ".-")
    for t_0, point in points.items():
        axes["plane"].annotate(f"{t_0 / T:.2g}", point, (3, 4), textcoords="offset points")
    axes["plane"].axhline(usual, color="grey", linestyle=":", label="held-out images")
    axes["plane"].set(xlabel="RMS distance to the drawing", ylabel="to the nearest held-out image",
                      ylim=(0, 1.2 * max(usual, *(y for _, y in points.values()))),
                      title="faithful on the left, realistic below")
    axes["plane"].legend(loc="lower left")
    if shares:
        axes["read"].plot([t_0 / T for t_0 in shares], list(shares.values()), ".-")
        axes["read"].set(xlabel="$t_0 / T$", ylim=(0, 1.05), title="share read as the digit drawn")
    return figure


if __name__ == "__main__":
    main()
