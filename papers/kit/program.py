"""The frame of the programs in papers/: what each of them opens, shows and says.

    def main(argv=None):
        parser = flags(__doc__, "ddim.png", n=32)
        program(parser, run, argv)

    def run(args):
        device, checkpoint, config, ddpm, model = start(args)
        ...
        finish(figure, args.out, "what was found")
"""
import inspect
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import data
import sample
from data import to_uint8
from plumbing.cli import arguments, check_writable, file_name, integer, one_line_errors, track
from plumbing.device import pick_device, recorded
from plumbing.pictures import grid, save_figure

NEWEST = "the newest runs/*/checkpoint.pt, or else the one that ships"


def flags(doc, out=None, n=None, least=1, help="number of samples", default=NEWEST, steps=None):
    """Return a parser with --checkpoint, --seed, --device, and what is given of the others.

    Args:
        doc: what --help shows above the flags.
        out: name of the picture, a PNG.
        n: default of --n; least: its least value; help: what it counts.
        default: what --checkpoint says of its default.
        steps: default of --steps, for `steps_of`.
    """
    parser = arguments(doc, default)
    if n is not None:
        parser.add_argument("--n", type=integer(least), default=n, help=f"{help} ({n})")
    if steps is not None:
        parser.add_argument("--steps", type=integer(1), default=steps,
                            help=f"steps of the chain, at most T ({steps})")
    if out is not None:
        parser.add_argument("--out", type=file_name(".png"), default=Path(out),
                            help=f"the picture, a PNG ({out})")
    return parser


def program(parser, run, argv=None, train=None):
    """Run a program: what goes wrong is one line.

    Args:
        parser: of `flags`, with whatever was added.
        run: called as run(args).
        argv: list of strings; None takes those that the program was started with.
        train: called as train(argv) with what follows, where the first of argv is "train".
    """
    argv = sys.argv[1:] if argv is None else argv
    parser.prog = Path(inspect.getsourcefile(run)).name
    with one_line_errors(parser.prog):
        if train and argv[:1] == ["train"]:
            train(argv[1:])
        else:
            args = parser.parse_args(argv)
            if getattr(args, "out", None):
                check_writable(args.out)
            run(args)


def start(args, shipped=None, load=sample.load, checkpoint=None):
    """Open a checkpoint.

    Args:
        args: of `flags`.
        shipped: path of the default; None takes the newest run, or the network that ships.
        load: as `sample.load`, or of another network.
        checkpoint: path of another one than --checkpoint.

    Returns:
        device, checkpoint, config, ddpm, model: torch.device, path, and what load returned; with
            --record the model is a function that replays it.
    """
    device = pick_device(args.device)
    checkpoint = checkpoint or args.checkpoint or shipped or sample.newest_checkpoint()
    *rest, model = load(checkpoint, device)
    print(f"{checkpoint}: {sample.progress(checkpoint)}", flush=True)
    if not isinstance(model, torch.nn.ModuleDict):   # of networks that are recorded one by one
        model = recorded(model, device, getattr(args, "record", False))
    return device, checkpoint, *rest, model


def held_out(config, name=None, least=1, split="test"):
    """Load the images that a network was not trained on (of a folder: those that it was).

    Args:
        config: dict, of a checkpoint.
        name: of another data set; None takes the one of the config.
        least: how many there must be.
        split: "train" takes those that it was trained on.

    Returns:
        x: (N, C, H, W) uint8, in the size of the config; labels: (N,) int64, or None.

    Raises:
        ValueError: there are fewer.
    """
    name = name or config["data"]
    x, labels = data.load(name, config["image_size"], config["image_channels"], split,
                          config["data_dir"])
    if len(x) < least:
        raise ValueError(f"{least} images are needed, and {name} has {len(x)}")
    return x, labels


def shuffled(N, seed):
    """Return 0, ..., N - 1 in an order that the seed fixes, (N,) int64."""
    return torch.randperm(N, generator=torch.Generator().manual_seed(seed))


def chosen(args, x, labels):
    """Return --n of the images x, in an order that --seed fixes, and their labels, or None."""
    i = shuffled(len(x), args.seed)[:args.n]
    return x[i], None if labels is None else labels[i]


def with_error(values, digits=4):
    """Write the mean of values, (N,), with its standard error."""
    return f"{values.mean():.{digits}f} +- {values.std() / len(values) ** 0.5:.{digits}f}"


def steps_of(args, T):
    """Return --steps, at most T, and say so where that is fewer than were asked for."""
    if args.steps > T:
        print(f"--steps {args.steps} is cut to T = {T}")
    return min(args.steps, T)


def counted(model, total):
    """Return the model, with a line of progress towards `total` evaluations."""
    ticks = track(range(total), "evaluations of the network")
    next(ticks)

    def ask(x_t, t):
        eps_theta = model(x_t, t)
        next(ticks, None)
        return eps_theta
    return ask


# ---- pictures ----

def show(axes, x, columns=None, title=None):
    """Show (N, C, H, W) float images in [-1, 1] on axes, as a grid; return the Pillow image."""
    picture = grid(to_uint8(x), columns)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    if title:
        axes.set_title(title, fontsize=9)
    return picture


def show_rows(axes, rows, title=None, most=None):
    """Show {label: (N, C, H, W) float images} on axes, a row each, of at most so many images."""
    n = min(len(x) for x in rows.values())
    n = min(n, most or n)
    picture = show(axes, torch.cat([x[:n].cpu() for x in rows.values()]), n, title)
    height = picture.height / len(rows)
    axes.set_yticks([height * (k + 0.5) for k in range(len(rows))], list(rows))


def show_lines(axes, lines, title="", xlabel="", ylabel=""):
    """Draw lines {label: {x: y}} on logarithmic axes, with ticks at the x of the first."""
    for label, points in lines.items():
        axes.loglog(list(points), list(points.values()), marker="o", markersize=4, label=label)
    ticks = list(next(iter(lines.values())))
    axes.set_xticks([], minor=True)
    axes.set_xticks(ticks, ticks)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_panels(panels, shape=None, size=(15, 5), most=8):
    """Draw {title: {label: (N, C, H, W)}}: a panel each, with a row of images for each label."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(*(shape or (1, len(panels))), squeeze=False).flat
    for each, (title, rows) in zip(axes, panels.items(), strict=True):
        show_rows(each, rows, title, most)
    return figure


def finish(figure, path, finding=None):
    """Save the picture, and say what was found, if not said yet, and where the picture is."""
    save_figure(figure, path)
    if finding:
        print(finding)
    print(f"wrote {path}")
