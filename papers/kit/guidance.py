"""What guidance trades: more images are what was asked for, and those of one class more alike."""
from matplotlib.figure import Figure

import data
from papers.kit.judge import diversity, share_read_as
from papers.kit.program import show_rows


def as_asked(name, net, x, y):
    """Say, and return, what guidance trades: how many are what was asked for, and how different.

    Args:
        name: of the images, in the line that is printed.
        net: the classifier, or None where there is none.
        x: (N, ...) images; y: (N,) int64, the classes that were asked for.

    Returns:
        share_read_as(net, x, y), or None without net; diversity(x, y).
    """
    share, distance = share_read_as(net, x, y) if net else None, diversity(x, y)
    read = f"{share:7.1%} read as what was asked for, " if net else ""
    print(f"{name:16}{read}diversity {distance:.3f}", flush=True)
    return share, distance


def trade(draw, scales, symbol, y, net, x, labels):
    """Judge what is drawn at several scales of guidance, and held-out images; say it and draw it.

    Args:
        draw: called as draw(scale), returns images of the classes y, (N, C, H, W) in [-1, 1].
        scales: floats; symbol: what the paper calls them.
        y: (N,) int64, 0, ..., 9 again and again.
        net: as for `as_asked`.
        x, labels: held-out images, uint8, and their classes; the first thousand are taken.

    Returns:
        A figure: the first ten images at each scale, a row each, and both numbers against it.
    """
    real = as_asked("held-out images", net, data.to_model(x[:1000]).to(y.device),
                    labels[:1000].to(y.device))
    rows, values = {}, {}
    for scale in scales:
        x_0, name = draw(scale), f"{symbol} = {scale:g}"
        rows[name], values[scale] = x_0[:10], as_asked(name, net, x_0, y)
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    show_rows(left, rows, "asked for: 0, 1, ..., 9")
    for i, label in enumerate(("share that is what was asked for",
                               "diversity: RMS distance in a class")):
        if real[i] is not None:
            right.plot(list(values), [pair[i] for pair in values.values()], ".-", color=f"C{i}",
                       label=label)
            right.axhline(real[i], color=f"C{i}", linestyle=":", label="  of held-out images")
    right.set(xlabel=symbol, ylim=(0, 1.05))
    right.legend(fontsize=8, loc="lower right")
    return figure
