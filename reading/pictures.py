"""Pictures beside the code: computed from it, or drawn by it and kept in assets/."""
import base64
import io
from pathlib import Path

import torch
from PIL import Image

import data
import sample
from ddpm import DDPM
from schedules import SCHEDULES
from unet import Attention, Upsample

ASSETS = Path(sample.SHIPPED).parent


def figure(picture, caption):
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def image(png, alt, kind):
    """Return a picture, or the name of one in assets/, as HTML, in 64 colours.

    kind: "pixels" stay squares when enlarged; "curves" are dark on white, and the other way round
        at night; a "sheet" has digits, too, and stays as it is.
    """
    png = Image.open(ASSETS / png) if isinstance(png, str) else png
    small = io.BytesIO()
    png.convert("RGB").quantize(64).save(small, "PNG", optimize=True)
    return (f'<img class="{kind}" alt="{alt}" src="data:image/png;base64,'
            f'{base64.b64encode(small.getvalue()).decode()}">')


def schedules(page):
    """Draw alpha_bar_t of each schedule against t."""
    lines, colours = [], ("var(--accent)", "var(--note)")
    for colour, (name, schedule) in zip(colours, SCHEDULES.items(), strict=True):
        alpha_bar = DDPM(schedule()).exact.alpha_bar
        points = " ".join(f"{40 + 0.4 * t:.0f},{180 - 165 * alpha_bar[t]:.1f}"
                          for t in range(0, 1001, 10))
        t = 300 if name == "linear" else 500
        x, y = 50 + 0.4 * t, 178 - 165 * alpha_bar[t]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{x:.0f}" y="{y:.0f}" style="fill:{colour}">{name}</text>')
    ticks = "".join(f'<text x="{40 + 0.4 * t}" y="196" text-anchor="middle">{t}</text>'
                    for t in range(0, 1001, 250))
    ticks += "".join(f'<text x="32" y="{184 - 165 * y}" text-anchor="end">{y}</text>'
                     for y in (0, 0.5, 1))
    return figure(f'<svg viewBox="0 0 460 202" role="img" aria-label="alpha_bar_t against t">'
                  f'<path d="M40 12V180H442" fill="none" stroke="var(--soft)"/>{ticks}'
                  f'{"".join(lines)}</svg>', page.text(
                      "alpha_bar_t, the share of $x_0$ in the variance of $x_t$, against t. Linear"
                      " has nearly arrived at 0 by t = 700; cosine spends its steps evenly."))


def dissolving(page):
    """Show one digit at eleven times, under each schedule, with the same noise."""
    x_0 = data.to_model(torch.from_numpy(data.digits(32, n=4)[0][3:]))
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    rows = [torch.cat([ddpm.q_sample(x_0, t, eps)[0, 0] for t in range(0, 1001, 100)], 1)
            for ddpm in (DDPM(schedule()) for schedule in SCHEDULES.values())]
    png = Image.fromarray(data.to_uint8(torch.cat(rows)).numpy())
    return figure(image(png, "a 3 that becomes noise", "pixels"), page.text(
        "$x_t$ at t = 0, 100, ..., 1000 with one and the same $\\epsilon$; above the linear"
        " schedule, below the cosine."))


def u(page):
    """Draw the U of the network that ships, with the shapes of one forward pass, seen by hooks."""
    config, _, model = sample.load(sample.SHIPPED)
    shapes = {}

    def see(block, given, result):
        shapes[block] = [" x ".join(map(str, x.shape[1:])) for x in (given[0], result)]
    for block in model.modules():
        block.register_forward_hook(see)
    H = config["image_size"]
    model(torch.zeros(1, config["image_channels"], H, H), torch.tensor([1]))

    def box(x, y, block):
        name, stroke = type(block).__name__, "var(--soft)"
        if isinstance(getattr(block, "attention", None), Attention):
            name, stroke = name + ", attention", "var(--accent)"
        name = {model.conv_in: "conv_in", model.conv_out: "conv_out"}.get(block, name)
        return (f'<rect x="{x}" y="{y}" width="180" height="34" rx="4" fill="var(--code)" '
                f'stroke="{stroke}"/><text x="{x + 90}" y="{y + 14}" text-anchor="middle" '
                f'font-weight="600">{name}</text><text x="{x + 90}" y="{y + 28}" '
                'text-anchor="middle">'
                f'{" &rarr; ".join(shapes[block])}</text>')

    def arrow(path):
        return f'<path d="{path}" stroke="var(--soft)" fill="none" marker-end="url(#tip)"/>'
    left, right, y, above = [model.conv_in, *model.down], 306, 6, -8
    out = [box(right, y, model.conv_out)]
    for block in reversed(model.up):                 # from the top: the last to run is the first
        y += 48
        out += [box(right, y, block), arrow(f"M396 {y}v-13")]
        if not isinstance(block, Upsample):
            skip = left.pop(0)
            out += [box(4, y, skip), arrow(f"M94 {above + 34}V{y - 1}"),
                    arrow(f"M184 {y + 17}h121"), f'<text x="245" y="{y + 12}" '
                    f'text-anchor="middle">{shapes[skip][1]}</text>']
            above = y
    y += 48
    out += [box(4, y, model.mid[0]), arrow(f"M94 {above + 34}V{y - 1}"),
            arrow(f"M184 {y + 17}h121"), box(right, y, model.mid[1]), arrow(f"M396 {y}v-13")]
    return figure(
        f'<svg viewBox="0 0 490 {y + 40}" role="img" aria-label="the U-Net"><defs><marker id="tip" '
        'viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0L6 3L0 6z" fill="var(--soft)"/></marker></defs>{"".join(out)}</svg>',
        page.text("The network that ships, C x H x W of one forward pass as hooks see it: down on"
                  " the left, up on the right; what comes across is concatenated. The time is no"
                  f" part of the U: `embed` makes a vector of {shapes[model.emb][1]} numbers of it,"
                  " which every ResidualBlock adds between its convolutions, through a layer of its"
                  " own."))


COMPUTED = {"schedules": schedules, "ddpm.DDPM.q_sample": dissolving, "unet.UNet.forward": u}
KEPT = {
    "data.digits": ("data.png", "64 digits", "pixels", "The first 64 of them."),
    "train.train": ("loss.png", "loss against step", "curves", "The run that made the network that "
                    "ships: the first quarter of t costs the most, and goes on falling."),
    "sample.draw": ("samples.png", "64 samples", "pixels", "64 samples of the network that ships."),
    "papers.experiments.progressive": ("progressive.png", "rows of digits that get sharper",
                                       "sheet", "$\\hat x_0$ as t falls."),
    "papers.experiments.share": ("shared.png", "four samples a group", "pixels",
                                 "In each four, the lower right picture is the $x_t$ they share."),
    "papers.experiments.interpolate": ("interpolation.png", "a 4 becomes a 0", "sheet",
                                       "Two held-out digits, mixed at time t."),
    "papers.variational_bound.rate_distortion": (
        "variational_bound.png", "rate and distortion", "curves", "Distortion and rate against"
        " T - t, the steps made so far, and one against the other."),
    "papers.classifier_free_guidance.guided": (
        "guidance.png", "ten digits for each w", "sheet", "Ten digits on demand for each w, and"
        " what guidance trades."),
}


def beside(name, page):
    """Return the picture that belongs to a function or a module, if there is one."""
    if name in COMPUTED:
        return [COMPUTED[name](page)]
    return [figure(image(*KEPT[name][:3]), page.text(KEPT[name][3]))] if name in KEPT else []
