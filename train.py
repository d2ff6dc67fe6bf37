"""Algorithm 1 of Ho et al. 2020: train eps_theta on a data set.

    python train.py                                 digits, minutes on the CPU of a laptop
    python train.py mnist --steps 5000              a preset; every field of Config is a flag
    python train.py cifar10                         the paper's run (appendix B)
    python train.py folder --data my/images         your own pictures
    python train.py --resume                        go on with the run in runs/digits

A run fills runs/<preset>/: checkpoint.pt, log.csv, loss.png, samples/, and at the end samples.png.

What to expect: the loss starts at 1.0 (the network starts as 0), falls within a few hundred steps,
and then hardly moves while the samples go on improving: most of what is left is noise that no
network could predict.  Watch the loss of the first quarter of t, and the samples.
"""
import argparse
import contextlib
import copy
import csv
import importlib.util
import math
import reprlib
import shlex
import signal
import textwrap
import threading
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import data
import parallel
from checkpoint import (check_finite, check_weights, locked, read_checkpoint, replacing, sweep,
                        write_checkpoint)
from sample import (Parser, autocast, build, draw, fast_bf16, load, one_line_errors, pick_device,
                    save_figure, save_grid)
from schedules import SCHEDULES

COLUMNS = ("step", "loss", "q1", "q2", "q3", "q4", "images_per_second")

def arg(default, help, least=None, choices=None):
    return field(default=default, metadata={"help": help, "least": least, "choices": choices})


KINDS = {float: (float, int), tuple: (tuple, list)}              # what may stand for a type


@dataclass
class Config:
    """Everything a run depends on.  The defaults, but for the schedule, are the preset `digits`."""

    data: str = arg("digits", "digits, mnist, fashion-mnist, cifar10, or a folder of images")
    data_dir: str = arg("data", "where data sets are looked for, downloaded to and cached")
    image_size: int = arg(16, "height and width of the images", least=1)
    image_channels: int = arg(1, "1 for grey, 3 for colour", choices=(1, 3))
    flip: bool = arg(False, "mirror half of the images (never digits)")

    T: int = arg(1000, "steps of the chain (sec. 4)", least=1)
    schedule: str = arg("linear", "linear (Ho et al.) or cosine (Nichol & Dhariwal)",
                        choices=tuple(SCHEDULES))
    variance: str = arg("beta", "sigma_t^2 of sampling (sec. 3.2): beta or beta_tilde",
                        choices=("beta", "beta_tilde"))

    channels: int = arg(32, "channels of the first level", least=4)
    channel_mults: tuple = arg((1, 2), "channels of each level, as multiples of --channels")
    num_res_blocks: int = arg(1, "residual blocks per level", least=1)
    attention_resolutions: tuple = arg((8,), "heights of the levels with self-attention")
    dropout: float = arg(0.0, "in the residual blocks; for long runs on little data", least=0)

    steps: int = arg(2500, "optimizer steps", least=1)
    batch_size: int = arg(32, "images per step, drawn with replacement", least=1)
    lr: float = arg(2e-3, "learning rate of Adam")
    warmup: int = arg(100, "steps over which the learning rate rises from 0", least=0)
    grad_clip: float = arg(1.0, "largest norm of the gradient")
    ema_decay: float = arg(0.9999, "of the averaged weights; lower while the run is young", least=0)
    precision: str = arg("auto", "bf16, float32, or auto: bf16 where the hardware is fast at it",
                         choices=("auto", "bf16", "float32"))
    compile: bool = arg(False, "torch.compile the network, in a minute: for long runs on a GPU")
    seed: int = arg(0, "fixes initial weights, order of the data, and noise", least=0)

    out: str = arg("runs/digits", "folder of the run; by default runs/<preset>")
    device: str = arg("auto", "cuda, mps, cpu, or auto: the first there is")
    log_every: int = arg(100, "steps between lines of the log", least=1)
    sample_every: int = arg(1250, "steps between grids of 16 samples; 0 for none", least=0)
    save_every: int = arg(500, "steps between checkpoints", least=1)

    def __post_init__(self):
        """Raise a ValueError, in terms of the flag, for a value that cannot work."""
        for f in fields(self):
            value, choices = getattr(self, f.name), f.metadata["choices"]
            least, kind = f.metadata["least"], KINDS.get(f.type, (f.type,))
            whole = f.type is not tuple or type(value) in kind and {*map(type, value)} <= {int}
            if type(value) not in kind or not whole:
                refuse(f.name, f"must be of type {f.type.__name__}, not {reprlib.repr(value)}")
            if least is not None and not least <= value:
                refuse(f.name, f"must be at least {least}, not {value}")
            if choices and value not in choices:
                refuse(f.name, f"must be {' or '.join(map(str, choices))}, not {value}")
        self.channel_mults = tuple(self.channel_mults)
        self.attention_resolutions = tuple(self.attention_resolutions)
        if not self.channel_mults or min(self.channel_mults) < 1:
            refuse("channel_mults", "must be one positive integer per level, not "
                                    f"{list(self.channel_mults)}")
        heights = [self.image_size // 2 ** i for i in range(len(self.channel_mults))]
        for name, good, right in (
                ("data", self.data, "DIR must name a data set or a folder of images"),
                ("out", self.out, "must name a folder"),
                ("lr", 0 < self.lr < math.inf, "must be positive"),
                ("grad_clip", self.grad_clip > 0, "must be positive"),
                ("ema_decay", self.ema_decay < 1, "must be below 1"),
                ("dropout", self.dropout < 1, "must be below 1"),
                ("seed", self.seed < 2 ** 32, "must be below 2^32"),
                ("image_size", self.image_size == heights[-1] * 2 ** (len(heights) - 1),
                 f"must be divisible by {2 ** (len(heights) - 1)}, for {len(heights)} levels"),
                ("attention_resolutions", set(self.attention_resolutions) <= set(heights),
                 f"must be among the heights of the levels, {show(tuple(heights))}")):
            if not good:
                refuse(name, f"{right}, not {show(getattr(self, name))!r}")

    def plain(self):
        """Return the dict that a checkpoint holds, of plain values."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self).items()}


MNIST = dict(image_size=28, channel_mults=(1, 2, 2), attention_resolutions=(7,), steps=20_000,
             batch_size=128, lr=1e-3, sample_every=2000, save_every=1000)
PRESETS = {
    "digits": {"schedule": "cosine"},     # README says what linear gives
    "mnist": dict(data="mnist", **MNIST),
    "fashion-mnist": dict(data="fashion-mnist", **MNIST),
    "cifar10": dict(      # Ho et al. 2020, appendix B; warm-up and clipping from the authors' code
        data="cifar10", image_size=32, image_channels=3, flip=True, channels=128,
        channel_mults=(1, 2, 2, 2), num_res_blocks=2, attention_resolutions=(16,), dropout=0.1,
        steps=800_000, batch_size=128, lr=2e-4, warmup=5000, sample_every=10_000, save_every=5000,
        compile=torch.cuda.is_available() and importlib.util.find_spec("triton") is not None),
    "folder": dict(       # half as wide as the paper's network
        data="", image_size=64, image_channels=3, flip=True, channels=64,
        channel_mults=(1, 2, 2, 4), num_res_blocks=2, attention_resolutions=(16,), dropout=0.1,
        steps=100_000, batch_size=64, lr=2e-4, warmup=1000, sample_every=5000, save_every=1000),
}
# What would make another run of it; anything else may change when a run goes on.
FIXED = ("image_size", "image_channels", "T", "schedule", "channels", "channel_mults",
         "num_res_blocks", "attention_resolutions", "seed")


def refuse(name, why):
    raise ValueError(f"--{name.replace('_', '-')} {why}")


# ---- Algorithm 1 ----

def L_simple(ddpm, model, x_0, labels):
    """Compute what is minimised: Algorithm 1, lines 3 to 5, with the images still apart.

    A paper with another objective hands `train` a function like this one.

    Args:
        ddpm: DDPM.
        model: called as model(x_t, t), returns eps_theta.
        x_0: (B, C, H, W) float images in [-1, 1].
        labels: (B,) int64, or None; not used here.

    Returns:
        losses: (B,), whose mean is minimised.
        t: (B,) int64, the times they belong to, for the log.
    """
    t = torch.randint(1, ddpm.T + 1, (len(x_0),), device=x_0.device)         # high is exclusive
    return ddpm.loss(model, x_0, t, reduction="none").flatten(1).mean(1), t


def train(config, model=None, loss=L_simple, resume=False):
    """Run Algorithm 1 and write the run to config.out.

    Args:
        config: Config.
        model: network to train; None builds the U-Net of the config.
        loss: called as loss(ddpm, model, x_0, labels), see L_simple.  Where there are several
            processes, it may do no more with the model than call it.
        resume: go on from config.out/checkpoint.pt.

    Returns:
        ddpm, ema: the process and the averaged network.

    Raises:
        ValueError: config.out already holds a run; or, with resume, none that fits.
        FloatingPointError: a gradient was not finite; the checkpoint is from before.
        SystemExit: SIGINT or SIGTERM came; the step was finished and saved.
    """
    parallel.join(config.device)
    out, device = Path(config.out), pick_device(config.device)
    if config.batch_size % parallel.world():
        refuse("batch_size", f"is of all processes, and not divisible by {parallel.world()}")
    if config.precision == "auto":
        config = replace(config, precision="bf16" if fast_bf16(device) else "float32")
    torch.manual_seed(config.seed)
    core = model is None                             # else another program goes on, and samples
    ddpm, unet = build(asdict(config))
    ddpm, model = ddpm.to(device), (unet if model is None else model).to(device)
    run = Run(model, copy.deepcopy(model).eval().requires_grad_(False),
              torch.optim.Adam(model.parameters(), lr=config.lr, fused=True),
              torch.zeros(2, 4, device=device))
    if not resume:
        check_new(out)                               # before data are downloaded in vain
    with parallel.one_first():
        x, labels = load_data(config, device)
    with parallel.first(locked(out)), until_signal() as stop:
        start(out, config, run, resume)
        if config.compile:
            model.compile(dynamic=False)
        model = parallel.replicate(model)
        finite = torch.ones((), dtype=torch.bool, device=device)
        if not (out / "samples" / f"{run.step:06}.png").exists():        # stopped while it drew it
            sample_if_due(out, ddpm, config, run, stop)
        if run.step == config.steps:
            print(f"nothing is left of --steps {config.steps}: a larger number goes on")
        since = run.step, time.monotonic()
        while run.step < config.steps and not agree(stop):
            run.step += 1
            x_0, y = draw_batch(x, labels, config, device)                   # x_0 ~ q(x_0)
            run.optimizer.zero_grad()                # now, so that no old gradients take memory
            with autocast(device, config.precision):
                losses, t = loss(ddpm, model, x_0, y)
            losses.mean().backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            for group in run.optimizer.param_groups:
                group["lr"] = config.lr * min(1, run.step / max(1, config.warmup))
            run.optimizer.step()
            update_ema(run.ema, run.model, min(config.ema_decay, (1 + run.step) / (10 + run.step)))
            run.tally += by_quarter(losses.detach(), t, ddpm.T)
            finite &= norm.isfinite()                # stays on the device: to look would be to wait

            last = run.step == config.steps
            if last or run.step % config.log_every == 0:
                check(finite, run, out)
                log(out, config, run, since)
                since = run.step, time.monotonic()
            if last or run.step % config.save_every == 0:
                check(finite, run, out)
                save(out, config, run)
            if sample_if_due(out, ddpm, config, run, stop):
                since = run.step, time.monotonic()
        if run.step == config.steps and not stop:
            sample_grid(out / "samples.png", 64, ddpm, config, run, stop)
        if agree(stop):
            check(finite, run, out)
            save(out, config, run)
            print(f"stopped and saved at step {run.step} of {config.steps}; to go on: "
                  f"{'python train.py' if core else 'the same with'} --resume --out "
                  f"{shlex.quote(str(out))}", flush=True)
            raise SystemExit(128 + (stop or [signal.SIGTERM])[0])
    more = "; for more: python sample.py --seed 1 --checkpoint " + shlex.quote(str(
        out / "checkpoint.pt"))
    print(f"wrote {out / 'samples.png'}{more if core else ''}", flush=True)
    return ddpm, run.ema


@dataclass
class Run:
    """What changes as a run goes on, and what its checkpoint holds."""

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    tally: torch.Tensor                              # (2, 4): by_quarter, since the last log
    step: int = 0
    rows: list = field(default_factory=list)         # of log.csv


def load_data(config, device):
    """Load the images as uint8, onto the device if they fill at most half of what is free there."""
    x, labels = data.load(config.data, config.image_size, config.image_channels,
                          data_dir=config.data_dir)
    print(f"{config.data}: {len(x)} images of {' x '.join(map(str, x.shape[1:]))}")
    if config.batch_size > len(x):
        print(f"a batch of {config.batch_size} drawn from {len(x)} images repeats some of them")
    room = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2 ** 30
    x = x.to(device) if x.nbytes <= room else x
    return x, None if labels is None else labels.to(x.device)


def draw_batch(x, labels, config, device):
    """Draw x_0 ~ q(x_0): images in [-1, 1], with replacement, and their labels."""
    i = torch.randint(len(x), (config.batch_size // parallel.world(),), device=x.device)
    x_0 = data.to_model(x[i].to(device))
    if config.flip:
        mirrored = torch.rand(len(x_0), 1, 1, 1, device=device) < 0.5
        x_0 = torch.where(mirrored, x_0.flip(3), x_0)
    return x_0, None if labels is None else labels[i].to(device)


@torch.no_grad()
def update_ema(ema, model, decay):
    """ema <- decay ema + (1 - decay) model, for every weight."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


def by_quarter(losses, t, T):
    """Return (2, 4): the sum of the losses, and their number, in each quarter of 1..T."""
    tally = losses.new_zeros(2, 4)
    return tally.index_add_(1, (t - 1) * 4 // T, torch.stack([losses, torch.ones_like(losses)]))


def check(finite, run, out):
    """Stop before weights or moments that are not finite get into a checkpoint."""
    if not finite or not all(weight.isfinite().all() for weight in run.model.parameters()):
        raise FloatingPointError(
            f"a gradient or a weight was not finite at or shortly before step {run.step}; "
            f"{out / 'checkpoint.pt'} is from before. Try --resume with a lower --lr or with "
            "--precision float32")


@contextlib.contextmanager
def until_signal():
    """Give a list that signals to stop are put on, so that the step under way is finished."""
    stop, before = [], {}

    def handler(signum, frame):
        if stop:
            raise KeyboardInterrupt                  # the second time at once
        stop.append(signum)

    if threading.current_thread() is threading.main_thread():
        signums = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)     # the terminal was closed; not on Windows
        if hangup and signal.getsignal(hangup) == signal.SIG_DFL:                # else: nohup
            signums.append(hangup)
        for signum in signums:
            before[signum] = signal.signal(signum, handler)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def agree(stop):
    """Has any process got a signal?  All hear the same, so that they stop at the same step."""
    return parallel.total(torch.tensor(len(stop))).item() > 0


def own_seed(seed, step=0):
    """Return a seed for the noise of this process: 32 bits, of which a CPU takes no more."""
    return int(np.random.SeedSequence((seed, parallel.rank(), step)).generate_state(1)[0])


# ---- the files of a run ----

def check_new(out):
    """Refuse a folder that holds a run of at least one step."""
    path = out / "checkpoint.pt"
    if read_checkpoint(path)["step"] > 0 if path.exists() else (out / "log.csv").exists():
        raise ValueError(f"{out} already holds a run: --resume goes on with it, --out DIR starts "
                         "another")


def start(out, config, run, resume):
    """Begin a run, or go on with one."""
    sweep(out / "samples")
    if resume:
        restore(out, config, run)
    else:
        check_new(out)
        if parallel.rank() > 0:
            torch.manual_seed(own_seed(config.seed))             # each process its own noise
        save(out, config, run)       # from here on it can be resumed; and a full disk shows itself
    print(f"{sum(weight.numel() for weight in run.model.parameters()):,} weights, "
          f"{config.precision} on {run.tally.device}, to {out}", flush=True)


def save(out, config, run):
    """Replace the checkpoint with one of this moment."""
    rng = parallel.gather([torch.get_rng_state(), device_rng(run.tally.device)])
    content = {"config": config.plain(), "step": run.step, "model": run.model.state_dict(),
               "ema": run.ema.state_dict(), "optimizer": run.optimizer.state_dict(),
               "tally": parallel.total(run.tally), "rows": run.rows, "rng": rng}
    if parallel.rank() == 0:
        write_checkpoint(content, out / "checkpoint.pt")


def restore(out, config, run):
    """Put everything back to where the checkpoint left it: all that `save` wrote.

    Raises:
        ValueError: config.steps lies before the checkpoint; or the file does not fit.
        OSError: it cannot be read.
    """
    path = out / "checkpoint.pt"
    checkpoint = read_checkpoint(path)
    try:
        check_weights(checkpoint["model"], run.model)
        check_weights(checkpoint["ema"], run.ema)
        run.model.load_state_dict(checkpoint["model"])
        run.ema.load_state_dict(checkpoint["ema"])
        run.optimizer.load_state_dict({**run.optimizer.state_dict(),
                                       "state": checkpoint["optimizer"]["state"]})
        moments = [(weight, state[name]) for weight, state in run.optimizer.state.items()
                   for name in ("exp_avg", "exp_avg_sq")]
        run.tally.copy_(checkpoint["tally"] if parallel.rank() == 0 else torch.zeros(2, 4))
        run.step, run.rows = checkpoint["step"], checkpoint["rows"]
        if any(weight.shape != moment.shape for weight, moment in moments) or run.step < 0 \
                or type(run.rows) is not list or checkpoint["tally"].shape != (2, 4) \
                or any([*map(type, row)] != [int] + [float] * 6 for row in run.rows):
            raise ValueError("moments or log of another shape")
        check_finite([run.tally, *(moment for _, moment in moments)])
        torch.manual_seed(own_seed(config.seed, run.step))       # if there were fewer processes
        for state in run.optimizer.state.values():
            if not 0 < state["step"] <= run.step or (state["exp_avg_sq"] < 0).any():
                raise ValueError("moments that Adam never has")
        if not checkpoint["rng"] or bool(run.optimizer.state) != (run.step > 0):
            raise ValueError("random numbers or moments are missing")
        for rng, on_device in checkpoint["rng"][parallel.rank():][:1]:
            torch.set_rng_state(rng)
            if len(on_device) == len(device_rng(run.tally.device)):
                device_rng(run.tally.device, on_device)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is for sampling only, of another network or version of train.py, "
                         f"or damaged: {textwrap.shorten(str(error), 200)}") from error
    if run.tally.any() and run.rows and run.rows[-1][0] == run.step:
        run.rows.pop()                               # of an interval cut short: it goes on now
    if config.steps < run.step:
        refuse("steps", f"must be at least {run.step}, where this run is, not {config.steps}")


def device_rng(device, state=None):
    """Return the state of the device's own random numbers, empty on a CPU; or set it."""
    if device.type == "cpu":
        return torch.empty(0)
    module = {"cuda": torch.cuda, "mps": torch.mps}[device.type]
    place = (device,) if device.type == "cuda" else ()
    return module.get_rng_state(*place) if state is None else module.set_rng_state(state, *place)


def log(out, config, run, since):
    """Print a line, rewrite log.csv, and clear the tally when its interval is over."""
    sums, counts = parallel.total(run.tally).double()
    values = [round(x, 6) for x in (sums.sum() / counts.sum()).reshape(1).tolist()
              + (sums / counts).tolist()]
    steps_per_second = (run.step - since[0]) / max(time.monotonic() - since[1], 1e-9)
    images_per_second = round(steps_per_second * config.batch_size, 1)
    run.rows.append([run.step, *values, images_per_second])
    if parallel.rank() == 0:
        with replacing(out / "log.csv") as tmp, open(tmp, "w", newline="") as f:
            csv.writer(f).writerows([COLUMNS, *([show(x) for x in row] for row in run.rows)])
    print(f"step {run.step:>{len(str(config.steps))}}/{config.steps}  loss {values[0]:.4f}  "
          f"by quarter of t {' '.join(f'{x:.4f}' if x == x else '-' for x in values[1:])}  "
          f"{images_per_second:.0f} "
          f"img/s  {data.clock((config.steps - run.step) / steps_per_second)} left", flush=True)
    if run.step % config.log_every == 0:
        run.tally.zero_()


def plot(out, rows):
    """Draw loss.png: the loss, and the loss of each quarter of t."""
    axes = Figure(figsize=(8, 4), layout="constrained").subplots()
    steps, *losses, _ = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    for column, values in zip(COLUMNS[1:], losses, strict=False):
        label = {"loss": "all t", "q1": "first quarter of t, least noise", "q2": "second",
                 "q3": "third", "q4": "last, nearly all noise"}[column]
        axes.plot(steps, values, ".-", markersize=3, label=label,
                  color="black" if column == "loss" else None)
    axes.set(xlabel="step", ylabel="L_simple (1: predicting 0)", yscale="log")
    axes.figure.legend(loc="outside right upper")
    save_figure(axes.figure, out / "loss.png")


def sample_if_due(out, ddpm, config, run, stop):
    """Draw 16 samples every so many steps; return whether it did."""
    due = config.sample_every and run.step % config.sample_every == 0
    if due and 0 < run.step < config.steps:
        path = out / "samples" / f"{run.step:06}.png"
        sample_grid(path, 16, ddpm, config, run, stop)
        return True


def sample_grid(path, n, ddpm, config, run, stop):
    """Draw n samples of the EMA, always from the same noise, as a grid; and the loss beside it."""
    if parallel.rank() > 0:
        return
    plot(Path(config.out), run.rows)
    shape = (n, config.image_channels, config.image_size, config.image_size)
    generator = torch.Generator(run.tally.device).manual_seed(config.seed)
    x_0 = draw(ddpm, run.ema, shape, generator, config.precision, f"sampling {path.name}, times",
               stop=stop)
    if x_0 is not None:
        save_grid(x_0, path)


# ---- the command line ----

def parse(argv=None, kind=Config, doc=__doc__, load=load):
    """Turn the command line into (Config, resume).

    A paper with another network or loss gives its own kind of Config, whose further fields are
    flags like the others, its own text for --help, and what reads its checkpoints.
    """
    presets = [textwrap.fill(f"{name}: " + " ".join(
        f"--{k.replace('_', '-')} {'' if v is True else show(v) or 'DIR'}".strip()
        for k, v in preset.items() if v is not False), width=78, subsequent_indent="    ",
        break_on_hyphens=False) for name, preset in PRESETS.items()]
    parser = Parser(doc, "A preset stands for these flags:\n\n" + "\n".join(presets))
    parser.add_argument("preset", nargs="?", help=f"{', '.join(PRESETS)} (digits)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    for f in fields(kind):
        typed = {bool: {"action": argparse.BooleanOptionalAction},
                 tuple: {"type": integers, "metavar": "N,N,..."}}
        default = show(PRESETS["digits"].get(f.name, f.default))
        parser.add_argument(f"--{f.name.replace('_', '-')}", default=argparse.SUPPRESS,
                            help=f"{f.metadata['help']} ({default})",
                            **typed.get(f.type, {"type": f.type, "metavar": f.type.__name__}))
    flags, unknown = parser.parse_known_args(argv)
    flags = vars(flags)
    preset, resume = flags.pop("preset"), flags.pop("resume")
    if unknown:                                      # before their values are taken for the preset
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if preset and preset not in PRESETS:
        parser.error(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    flags.setdefault("out", f"runs/{preset}" if preset and kind is Config else kind.out)
    if not resume:
        return kind(**{**PRESETS[preset or "digits"], **flags}), False
    path = Path(flags["out"], "checkpoint.pt")
    if not path.exists():
        raise ValueError(f"nothing to resume: there is no {path}")
    try:
        stored = kind(**load(path)[0])               # which refuses a network of monstrous size
    except TypeError as error:
        raise ValueError(f"{path} was made by another version of train.py: {error}") from error
    asked = flags.get("data") or preset and PRESETS[preset].get("data", "digits")
    named = {"digits", *data.MIRRORS}                # a folder may have moved, these cannot
    if asked not in (None, "", stored.data) and {asked, stored.data} & named:
        raise ValueError(f"{path} is a run on {stored.data!r}, not on {asked!r}")
    for name, value in flags.items():
        if name in FIXED and value != getattr(stored, name):
            refuse(name, f"is {getattr(stored, name)} in this run; it cannot change on the way")
    return replace(stored, **flags), True


def integers(text):
    """Parse "1,2,2" into (1, 2, 2), and "" into ()."""
    return tuple(int(part) for part in text.split(",") if part)


def show(value):
    """Write a tuple as its flag takes it, and NaN, a quarter without images, as nothing."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value != value else value


def main(argv=None):
    with one_line_errors("train.py"):
        config, resume = parse(argv)
        train(config, resume=resume)
        parallel.leave()


if __name__ == "__main__":
    main()
