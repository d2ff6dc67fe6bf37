"""How closely captions are followed: known ones, and new ones of known words, against s."""
import torch
from matplotlib.figure import Figure

from papers.kit.captions import STYLES, as_asked, held_out, tokenise, write
from papers.kit.program import show_rows, shuffled

SCALES = 0, 1, 2, 4                                  # s: without words, with them, and more so
SEEDS = 3
KINDS, WHAT = ("of training", "held out"), ("digit", "style", "both")
LEAST = 4                                            # captions of each kind that the picture shows


def choose(n, seed):
    """Return labels and styles, (2 n,) int64 each, of n captions of training, then n held out."""
    labels, styles = torch.arange(10).repeat_interleave(STYLES), torch.arange(STYLES).repeat(10)
    new = held_out(labels, styles)
    i = torch.cat([part[shuffled(len(part), seed)][torch.arange(n) % len(part)]
                   for part in ((~new).nonzero()[:, 0], new.nonzero()[:, 0])])
    return labels[i], styles[i]


def follow(draw, reader, n, seed):
    """Draw n captions of training and n held out at every s, three times; count what is as asked.

    Args:
        draw: called as draw(tokens, s, seed), returns images, (2 n, 1, H, W) in [-1, 1].
        reader: a trained `style_reader`.
        n, seed: ints.

    Returns:
        A figure, and what was found, a line.
    """
    labels, styles = choose(n, seed)
    texts, samples, shares = write(labels, styles), {}, {}
    for s in SCALES:
        samples[s] = torch.stack([draw(tokenise(texts), s, seed + k) for k in range(SEEDS)])
        shares[s] = torch.stack([as_asked(reader, *part) for x in samples[s] for part in zip(
            *(each.chunk(2) for each in (x, labels, styles)), strict=True)]).view(SEEDS, 2, 3)
        for kind, mean, std in zip(KINDS, shares[s].mean(0), shares[s].std(0), strict=True):
            say(f"s = {s}, {kind}", [f"{m:.1%} +- {d:.1%}" for m, d in zip(mean, std, strict=True)])
    best = max(SCALES, key=lambda s: shares[s][:, :, 2].mean())
    seen, new = shares[best][:, :, 2].mean(0)
    return draw_figure(texts, samples, shares), (
        f"finding: at s = {best} digit and style are those of the caption in {seen:.1%} of the "
        f"pictures if it was seen in training, and in {new:.1%} if its combination is new")


def say(name, values):
    """Print values for digit, style and both, strings, behind a name."""
    print(f"{name:22}" + "".join(f"{what} {value:17}" for what, value in
                                 zip(WHAT, values, strict=True)).rstrip(), flush=True)


def draw_figure(texts, samples, shares):
    """Draw samples {s: (SEEDS, N, 1, H, W)} of texts, N, and shares {s: (SEEDS, 2, 3)} against s.

    The first half of the captions is of training, the second held out.
    """
    figure = Figure(figsize=(15, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.1, 1))
    shown = [k * len(texts) // 2 + i for k in range(2) for i in range(LEAST)]
    for axes, (s, x) in zip(left.subplots(1, len(samples)), samples.items(), strict=True):
        show_rows(axes, {texts[i]: x[:, i] for i in shown}, f"s = {s}")
        axes.axhline(axes.get_ylim()[0] / 2, color="C1")
        if s != SCALES[0]:
            axes.set_yticks([])
    left.suptitle("above the line: captions of training; below it: held out", fontsize=9)
    axes = right.subplots()
    for part, (kind, line) in enumerate(zip(KINDS, ("-", ":"), strict=True)):
        for k, what in {0: "digit", 2: "digit and style"}.items():
            values = torch.stack([each[:, part, k] for each in shares.values()])     # (S, SEEDS)
            axes.errorbar(SCALES, values.mean(1), values.std(1), fmt=f".{line}", color=f"C{k}",
                          capsize=2, label=f"{what}, captions {kind}")
    axes.set(xlabel="s", xticks=SCALES, ylim=(0, 1.05))
    axes.set_title("share that is as the caption asks", fontsize=9)
    axes.legend(fontsize=8, loc="lower right")
    return figure
