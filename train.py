"""Algorithm 1 of Ho et al. 2020: train eps_theta on a data set.

    python train.py                                 digits, minutes on the CPU of a laptop
    python train.py mnist --steps 2500              a preset and a flag: 15 minutes; all, 2 hours
    python train.py cifar10                         the paper's run (appendix B): wants a GPU
    python train.py folder --data my/images         your own pictures: wants a GPU, or see README
    python train.py --resume                        go on with the run in runs/digits

A run fills runs/<preset>/: checkpoint.pt, log.csv, loss.png, samples/, and at the end samples.png.

What to expect: the loss starts at 1.0 (the network starts as 0).  That of the digits falls to 0.1
in 200 steps, and takes the other 3,000 to halve while the samples go on improving.  Watch the first
quarter of t, and the samples.
"""
import plumbing  # noqa: F401, I001            first: Ctrl-C while torch is imported is quiet
import copy
import importlib.util
import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

import data
from plumbing import parallel
from plumbing.cli import one_line_errors
from plumbing.device import autocast, pick_device, recorded, room
from plumbing.flags import arg, check, choose, parse, refuse, show
from plumbing.pictures import save_grid
from plumbing.run import Run, leave
from sample import build, draw, load


@dataclass
class Config:
    """Everything a run depends on.  The defaults are the preset `digits`."""

    data: str = arg("digits", "digits, mnist, fashion-mnist, cifar10, or a folder", least=1)
    data_dir: str = arg("data", "where data sets are looked for, downloaded to and cached")
    image_size: int = arg(16, "height and width of the images", least=1)
    image_channels: int = arg(1, "grey or colour", choices=(1, 3))
    flip: bool = arg(False, "mirror half of the images (never digits)")

    T: int = arg(1000, "steps of the chain (sec. 4)", least=1)
    schedule: str = arg("cosine", "of Ho et al. or Nichol & Dhariwal", choices=("linear", "cosine"))
    variance: str = arg("beta", "sigma_t^2 of sampling (sec. 3.2)", choices=("beta", "beta_tilde"))

    channels: int = arg(32, "channels of the first level", least=4)
    channel_mults: tuple = arg((1, 2, 2), "channels of each level, as multiples of --channels")
    num_res_blocks: int = arg(1, "residual blocks per level", least=1)
    attention_resolutions: tuple = arg((8, 4), "heights of the levels with self-attention")
    dropout: float = arg(0.0, "in the residual blocks; for long runs", least=0, below=1)

    steps: int = arg(3200, "optimizer steps", least=1)
    batch_size: int = arg(32, "images per step, drawn with replacement", least=1)
    lr: float = arg(2e-3, "learning rate of Adam", above=0, below=math.inf)
    warmup: int = arg(100, "steps over which the learning rate rises from 0", least=0)
    grad_clip: float = arg(1.0, "largest norm of the gradient", above=0)
    ema_decay: float = arg(0.9999, "of the averaged weights, lower at first", least=0, below=1)
    precision: str = arg("auto", "auto is what is fast", choices=("auto", "bf16", "float32"))
    compile: bool = arg(False, "torch.compile the network, in a minute: for long runs on a GPU")
    record: bool = arg(False, "on CUDA, record a step and a sampling network once, and replay them")
    seed: int = arg(0, "fixes initial weights, data order and noise", least=0, below=2 ** 32)

    out: str = arg("runs/digits", "folder of the run; by default runs/<preset>", least=1)
    device: str = arg("auto", "cuda, mps, cpu, or auto: the first there is")
    log_every: int = arg(100, "steps between lines of the log", least=1)
    sample_every: int = arg(1600, "steps between grids of 16 samples; 0 for none", least=0)
    save_every: int = arg(500, "steps between checkpoints", least=1)

    def __post_init__(self):
        """Raise a ValueError, in terms of the flag, for a value that cannot work."""
        check(self)
        levels = len(self.channel_mults)
        if not levels or min(self.channel_mults) < 1:
            refuse("channel_mults", "must be one positive integer per level")
        if self.image_size % 2 ** (levels - 1):
            refuse("image_size", f"must be divisible by {2 ** (levels - 1)}, for {levels} levels")
        heights = tuple(self.image_size // 2 ** level for level in range(levels))
        if not set(self.attention_resolutions) <= set(heights):
            refuse("attention_resolutions", f"must be heights of levels, {show(heights)}")


MNIST = dict(schedule="linear", image_size=28, channel_mults=(1, 2, 2), attention_resolutions=(7,),
             steps=20_000, batch_size=128, lr=1e-3, sample_every=2000, save_every=1000)
PRESETS = {
    "digits": {},         # the cosine schedule: README says what linear gives
    "mnist": dict(data="mnist", out="runs/mnist", **MNIST),
    "fashion-mnist": dict(data="fashion-mnist", out="runs/fashion-mnist", **MNIST),
    "cifar10": dict(      # Ho et al. 2020, appendix B; warm-up and clipping from the authors' code
        data="cifar10", out="runs/cifar10", image_size=32, image_channels=3, flip=True,
        schedule="linear", channels=128, channel_mults=(1, 2, 2, 2), num_res_blocks=2,
        attention_resolutions=(16,), dropout=0.1, steps=800_000, batch_size=128, lr=2e-4,
        warmup=5000, sample_every=10_000, save_every=5000,
        compile=torch.cuda.is_available() and importlib.util.find_spec("triton") is not None),
    "folder": dict(       # half as wide as the paper's network
        data="", out="runs/folder", image_size=64, image_channels=3, flip=True, schedule="linear",
        channels=64, channel_mults=(1, 2, 2, 4), num_res_blocks=2, attention_resolutions=(16,),
        dropout=0.1, steps=100_000, batch_size=64, lr=2e-4, warmup=1000, sample_every=5000,
        save_every=1000),
}
# What would make another run of it; anything else may change when a run goes on.
FIXED = ("image_size", "image_channels", "T", "schedule", "channels", "channel_mults",
         "num_res_blocks", "attention_resolutions", "seed")


def preset(name="digits", **changes):
    """Return the Config of `python train.py NAME`, with some fields changed."""
    return Config(**{**choose(PRESETS, name), **changes})


def L_simple(ddpm, model, x_0, labels):
    """Compute what is minimised: Algorithm 1, lines 3 to 5, with the images still apart.

    A paper with another objective hands `train` a function like this one.

    Args:
        ddpm, model: the process, and what is called as model(x_t, t) and returns eps_theta.
        x_0: (B, C, H, W) float images in [-1, 1].
        labels: (B,) int64, or None; not used here.

    Returns:
        losses: (B,), or of any length, whose mean is minimised.
        t: the int64 times they belong to, for the log: it has their mean in each quarter of t.
    """
    t = ddpm.draw_t(len(x_0))
    return ddpm.loss(model, x_0, t, reduction="none").flatten(1).mean(1), t


def train(config, model=None, loss=L_simple, resume=False):
    """Run Algorithm 1, and keep the run in the folder config.out.

    Args:
        config: Config.
        model: network to train; None builds the U-Net of the config.
        loss: called as loss(ddpm, model, x_0, labels), see L_simple.  Where there are several
            processes, it may do no more with the model than call it; where the step is recorded,
            its Python and that of the model run at the beginning only.
        resume: go on from config.out/checkpoint.pt.

    Returns:
        ddpm, ema: the process and the averaged network, also where a signal (SIGINT, SIGTERM,
            SIGUSR1 and others) ended the run early: the step was finished and saved.

    Raises:
        ValueError: config.out already holds a run; or, with resume, none of this config.
        FloatingPointError: a gradient was not finite; the checkpoint is from before.
    """
    parallel.join(config.device)
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    ddpm, unet = build(asdict(config))
    ddpm, model = ddpm.to(device), (unet if model is None else model).to(device)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True, capturable=True)
    if config.compile:
        model.compile(dynamic=False)
    net = model if parallel.world == 1 else parallel.replicate(model)        # averages gradients
    run = Run(asdict(config), model, ema, optimizer, device, FIXED, resume)
    x, labels = load_data(config, device)

    def step(lr, decay):
        """Algorithm 1, lines 2 to 5, and the EMA; warm-up and clip are of the authors' code."""
        x_0, y = draw_batch(x, labels, config, device)                       # x_0 ~ q(x_0)
        optimizer.zero_grad()                    # now, so that no old gradients take memory
        with autocast(device, run.precision):
            losses, t = loss(ddpm, net, x_0, y)                              # t, eps, L_simple
        losses.mean().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        update_ema(ema, model, decay)
        run.tally += by_quarter(losses.detach(), t, ddpm.T)                  # for the log
        run.finite &= norm.isfinite()            # stays on the device: to look would be to wait

    # A replay repeats the numbers it was recorded with, but for arguments: lr and decay change.
    step = recorded(step, device, config.record, run.changed)
    eps_theta = recorded(ema, device, config.record)
    with run.begin():
        if resume:
            draw_samples(ddpm, eps_theta, config, run, again=False)      # if it was stopped at it
        while run.goes_on():
            run.step += 1
            step(config.lr * min(1.0, run.step / max(1, config.warmup)),
                 min(config.ema_decay, (1 + run.step) / (10 + run.step)))
            if run.due(config.log_every):
                run.log()
            if run.due(config.save_every):
                run.save()
            draw_samples(ddpm, eps_theta, config, run)
    return ddpm, ema


def load_data(config, device):
    """Load the images as uint8, onto the device if they fill at most half of what is free there."""
    with parallel.one_first():
        x, labels = data.load(config.data, config.image_size, config.image_channels,
                              data_dir=config.data_dir)
    print(f"{config.data}: {len(x)} images of {' x '.join(map(str, x.shape[1:]))}")
    if Path(config.data).is_dir() and config.image_size < 32:
        print("pictures as small as digits; python train.py folder --data DIR makes them larger")
    x = x.to(device) if x.nbytes <= room(device) // 2 else x
    return x, None if labels is None else labels.to(x.device)


def draw_batch(x, labels, config, device):
    """Draw x_0 ~ q(x_0): images in [-1, 1], with replacement, and their labels."""
    i = torch.randint(len(x), (config.batch_size // parallel.world,), device=x.device)
    x_0 = data.to_model(x[i].to(device))
    if config.flip:
        mirrored = torch.rand(len(x_0), 1, 1, 1, device=device) < 0.5
        x_0 = torch.where(mirrored, x_0.flip(3), x_0)
    return x_0, None if labels is None else labels[i].to(device)


@torch.no_grad()
def update_ema(ema, model, decay):
    """ema <- decay ema + (1 - decay) model, for every weight; buffers are copied."""
    for average, weight in zip(ema.parameters(), model.parameters(), strict=True):
        average.lerp_(weight, 1 - decay)
    for own, buffer in zip(ema.buffers(), model.buffers(), strict=True):
        own.copy_(buffer)


def by_quarter(losses, t, T):
    """Return (2, 4): the sum of the losses, and their number, in each quarter of 1..T."""
    tally = losses.new_zeros(2, 4)
    return tally.index_add_(1, (t - 1) * 4 // T, torch.stack([losses, torch.ones_like(losses)]))


def draw_samples(ddpm, model, config, run, again=True):
    """Draw samples, 16 every so many steps and 64 at the end, always from the same noise."""
    last = run.step == config.steps
    path = run.out / ("samples.png" if last else f"samples/{run.step:06}.png")
    if parallel.rank == 0 and (last or run.due(config.sample_every)) and (again or run.lacks(path)):
        run.plot()
        shape = 64 if last else 16, config.image_channels, config.image_size, config.image_size
        generator = torch.Generator(run.device).manual_seed(config.seed)
        x_0 = draw(ddpm, model, shape, generator, run.precision, f"sampling {path.name}, times",
                   stop=run.signals)
        if x_0 is not None:
            save_grid(data.to_uint8(x_0), path)
        run.restart_clock()


def main(argv=None):
    with one_line_errors("train.py"):
        parallel.join()                              # now: from here on all hear if one ends
        config, resume = parse(argv, Config, PRESETS, FIXED, __doc__, load)
        train(config, resume=resume)
        leave()
        out = shlex.quote(config.out)
        print(f"samples are in {out}/samples.png; for more: python sample.py --seed 1 "
              f"--checkpoint {out}/checkpoint.pt")


if __name__ == "__main__":
    main()
