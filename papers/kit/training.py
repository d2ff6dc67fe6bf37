"""What papers that need a network of their own share: training it, and loading it again.

A network that predicts eps, whatever else it is told, trains by the core's own loop: `train_eps`
gives `python -m papers.NAME train` the flags, files and --resume of train.py.  `fit` is a loop for
the other networks: classifiers, autoencoders, what lives in their latents.

    python -m papers.kit.training runs/papers/NAME/checkpoint.pt assets/NAME.pt

copies of a checkpoint what sampling needs, with 11 bits of each weight (float16): an eighth of what
train.py writes.  So the files of papers in assets/ were made; read again, weights are float32.
"""
import copy
import inspect
import shlex
from pathlib import Path

import torch
from torch import nn

import data
import train
from papers.kit.program import program
from plumbing.checkpoint import check_weights, read_checkpoint, write_checkpoint
from plumbing.cli import Parser, arguments, check_writable, integer, track
from plumbing.device import autocast, pick_device
from plumbing.flags import parse
from plumbing.run import leave
from sample import NETWORK, SHIPPED, load

ASSETS = SHIPPED.parent                              # where the networks lie that ship


def train_eps(argv, kind, doc, network, loss):
    """Run train.py's loop with another network and loss, from the command line.

    Args:
        argv: what follows "train".
        kind: train.Config, or a dataclass made from it: each field is a flag, and kept in the
            checkpoint.
        doc: what --help shows.
        network: a class made from UNet, with the same arguments.
        loss: called as loss(config) with the Config, returns a loss as `train.train` takes it.
    """
    def stored(path):
        return load_eps(path, "cpu", network)

    out = f"runs/papers/{paper_of(network)}"         # sample.py takes runs/NAME for train.py's
    presets = {name: {**preset, "out": out} for name, preset in train.PRESETS.items()}
    config, resume = parse(argv, kind, presets, train.FIXED, doc, stored)
    torch.manual_seed(config.seed)                   # the weights that train.py starts from
    train.train(config, build(vars(config), network), loss(config), resume)
    leave()
    print(f"wrote {shlex.quote(config.out)}/samples.png")


def build(config, network):
    """Return an untrained network, of a class made from UNet, as a config, a dict, describes it."""
    return network(**{name: config[name] for name in NETWORK})


def load_eps(path, device, network):
    """Do what `sample.load` does, for a network that `train_eps` trained.

    Raises:
        ValueError: the file is not there, or is of another network.
    """
    try:
        return load(path, device, build(read_checkpoint(path)["config"], network))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise wrong_file(path, network, error) from error


def paper_of(network):
    """Return the name of the paper whose file this class or function is from."""
    return Path(inspect.getsourcefile(network)).stem


def wrong_file(path, network, error):
    """Return what to raise where a file is not of a paper's network."""
    return ValueError(f"{path} is not there, or has no network as python -m "
                      f"papers.{paper_of(network)} train makes it ({error})")


def start_fit(argv, doc, name, steps, help):
    """Open `python -m papers.NAME train`, for networks that `fit` trains; and seed it.

    Args:
        argv: what follows "train"; doc: what --help shows above the flags.
        name: of the file that is written by default, which ends in .pt.
        steps: default of --steps; help: what these are steps of.

    Returns:
        args, with seed and steps; path, of the file; device.

    Raises:
        ValueError: the file has no name that ends in .pt.
        OSError: it cannot be written.
    """
    parser = arguments(doc, f"{name}; it is written", record=False)
    parser.add_argument("--steps", type=integer(1), default=steps, help=f"{help} ({steps})")
    args = parser.parse_args(argv)
    path = args.checkpoint or Path(name)
    if path.suffix != ".pt":
        raise ValueError(f"{path} must be a file name that ends in .pt")
    check_writable(path)
    torch.manual_seed(args.seed)
    return args, path, pick_device(args.device)


def fit(model, loss, x, labels, steps, batch_size=64, lr=2e-3, label="training"):
    """Minimise a loss by Adam, with the rate raised and lowered again over the run.

    Args:
        model: network, on the device where it is to be trained.
        loss: called as loss(model, x_0, labels), x_0 (B, C, H, W) in [-1, 1]; returns a scalar.
        x: (N, C, H, W) uint8; labels: (N, ...) int64, what is known of each.
        steps, batch_size, lr: an int, an int, the highest rate.
        label: what the line of progress says.

    Returns:
        The averaged network (EMA, decay 0.999), in eval mode, without gradients.

    Raises:
        FloatingPointError: it ended in weights that are not finite.
    """
    device = next(model.parameters()).device
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    rise = min(0.6, max(0.1, 2 / steps))             # a tenth of the run; at least two steps
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=rise)
    for step in track(range(steps), f"{label}, steps"):
        i = torch.randint(len(x), (batch_size,))
        optimizer.zero_grad()
        with autocast(device):
            value = loss(model, data.to_model(x[i]).to(device), labels[i].to(device))
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        train.update_ema(ema, model, min(0.999, (1 + step) / (10 + step)))
    if not all(weight.isfinite().all() for weight in ema.parameters()):
        raise FloatingPointError(f"{label}: a weight was not finite; nothing was saved")
    return ema


def save_fit(path, config, step, model):
    """Write what `fit` returned; config is a dict of what `load_fit` needs to build it again."""
    write_checkpoint({"config": config, "step": step, "ema": model.state_dict()}, path)


def load_fit(path, device, network):
    """Return (config, model) of a file of `save_fit`; network(config) is the untrained model.

    Raises:
        ValueError: the file is not there, not whole, or of another network.
    """
    try:
        content = read_checkpoint(path)
        model = network(content["config"])
        check_weights(content["ema"], model)
        model.load_state_dict(content["ema"])
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise wrong_file(path, network, error) from error
    return content["config"], model.to(device).eval().requires_grad_(False)


def run(args):
    content = read_checkpoint(args.checkpoint)
    ema = {name: weight.half() if weight.is_floating_point() else weight
           for name, weight in content["ema"].items()}
    config = content["config"]
    if "out" in config:                              # nobody else has the folders it was made in
        usual = Path(config["out"]).parts[:1] == ("runs",)
        config |= {"out": config["out"] if usual else f"runs/papers/{args.out.stem}",
                   "data_dir": "data"}
    write_checkpoint({"config": config, "step": content["step"], "ema": ema}, args.out)
    print(f"wrote {args.out}, {args.out.stat().st_size:,} bytes")


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="of a run")
    parser.add_argument("out", type=Path, help="the copy")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
