"""Algorithm 2 of Ho et al. 2020 into pictures, from a checkpoint and nothing else.

    python sample.py                                64 samples of the newest run, to samples.png
    python sample.py --checkpoint F --n 16          of that checkpoint
    python sample.py --gif denoising.gif            and x_t beside x_0_hat as t falls from T to 0
    python sample.py --n 50000 --folder samples     one lossless PNG each, as FID tools want them
    python -m papers.ddim --grid F --steps 20       in fewer steps than the T of Algorithm 2

The weights are always the EMA.  --seed fixes the pictures for a given --n on a given device.
"""
import plumbing  # noqa: F401, I001            first: Ctrl-C while torch is imported is quiet
import functools
import hashlib
import math
import os
import reprlib
import textwrap
from pathlib import Path

import numpy as np
import torch

from data import to_uint8
from ddpm import DDPM
from plumbing import parallel
from plumbing.checkpoint import check_weights, read_checkpoint
from plumbing.cli import arguments, check_writable, file_name, integer, one_line_errors, track
from plumbing.device import autocast, pick_device, recorded
from plumbing.pictures import fill, save_gif, save_grid
from schedules import SCHEDULES
from unet import UNet

NETWORK = ("image_size", "image_channels", "channels", "channel_mults", "num_res_blocks",
           "attention_resolutions", "dropout")                # what a config says of the U-Net
YOUNG = 200                                          # steps after which there is something to see
SHIPPED = Path(__file__).resolve().parent / "assets" / "digits.pt"


def build(config):
    """Build (ddpm, model) as a config (a dict) describes them, the model with fresh weights."""
    return process(config), UNet(**{name: config[name] for name in NETWORK})


def process(config):
    if config["schedule"] not in SCHEDULES:
        raise ValueError(f"there is no schedule {config['schedule']!r} in {list(SCHEDULES)}")
    return DDPM(SCHEDULES[config["schedule"]](config["T"]), config["variance"])


def load(checkpoint, device="cpu", model=None):
    """Rebuild a trained process and network from a checkpoint file alone.

    Args:
        checkpoint: path of the file.
        device: where to put both.
        model: network to fill; None builds the U-Net of the config.

    Returns:
        config: dict, as train.py's Config.
        ddpm: DDPM.
        model: the network with the EMA weights, in eval mode, without gradients.

    Raises:
        ValueError: the file is not a whole checkpoint, does not fit the network, or holds weights
            that are not finite.
        OSError: the file cannot be read.
    """
    content = read_checkpoint(checkpoint)
    config, ema = content["config"], content["ema"]
    try:
        counts = [config[name] for name in ("T", "image_size", "image_channels", "num_res_blocks")]
        if not all(type(count) is int and count > 0 for count in counts) or config["T"] > 10 ** 6:
            raise ValueError("T (of at most 10^6), image_size, image_channels and num_res_blocks "
                             f"must be integers, at least 1, not {reprlib.repr(counts)}")
        if not isinstance(config["schedule"], str):
            raise TypeError("a schedule is a name")
        ddpm, fresh = process(config), model is None
        if fresh:
            if config["num_res_blocks"] * len(config["channel_mults"]) > len(ema):
                raise ValueError("there are fewer weights than blocks")  # to build them takes hours
            with torch.device("meta"):               # where a network takes no memory
                model = UNet(**{name: config[name] for name in NETWORK})
        check_weights(ema, model)
        if fresh:
            model.to_empty(device="cpu")
        model.load_state_dict(ema)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    except Exception as error:                       # a config can hold anything
        raise ValueError(f"the weights in {checkpoint} do not fit its network: "
                         f"{textwrap.shorten(f'{type(error).__name__}: {error}', 200)}") from error
    return config, ddpm.to(device), model.to(device).eval().requires_grad_(False)


def draw(ddpm, model, shape, generator, precision="auto", label="sampling", frames=None, stop=()):
    """Run Algorithm 2 with progress.

    Args:
        shape: (B, C, H, W).
        generator: torch.Generator on the device of ddpm; all noise comes from it.
        frames: a list that some 50 pairs (x_t, x_0_hat) of at most 64 images are put on, or None.
        stop: looked at after each step; once it is true (a list that is filled) the run ends.

    Returns:
        (B, C, H, W) float images x_0, or None if stopped.
    """
    x_T = torch.randn(shape, generator=generator, device=generator.device)
    with autocast(generator.device, precision):
        chain = ddpm.reverse_process(model, x_T, generator=generator)
        for t, x_t, x_0_hat in track(chain, label, ddpm.T):
            if frames is not None and (t == ddpm.T or t % math.ceil(ddpm.T / 50) == 0):
                frames.append((to_uint8(x_t[:64]), to_uint8(x_0_hat[:64])))
            if stop:
                return None
    return x_t


def batch_size(H):
    """Return how many images of height H the network gets at once where no gradients are kept."""
    return max(1, min(256, 2 ** 18 // H ** 2))


def batches(ddpm, model, config, n, seed, frames=None, done=frozenset()):
    """Yield (start, x): n images in batches x (B, C, H, W) of bounded size, each of its own noise.

    Where torchrun started several processes, each makes every so many-th batch.  frames are of the
    first.  A batch whose images are all in `done` is left out.
    """
    C, H = config["image_channels"], config["image_size"]
    size, device = batch_size(H), ddpm.beta.device
    precision = "float32" if config.get("precision") == "float32" else "auto"
    for start in range(parallel.rank * size, n, parallel.world * size):
        end = min(start + size, n)
        if done.issuperset(range(start, end)) and not (frames == [] and start == 0):
            continue
        # Each batch has noise of its own; a hash, since seed + start would repeat batches.
        own = int(np.random.SeedSequence((seed, start)).generate_state(1, np.uint64)[0])
        generator = torch.Generator(device).manual_seed(own if start > 0 else seed)
        yield start, draw(ddpm, model, (end - start, C, H, H), generator, precision,
                          f"sampling {start + 1}..{end} of {n}, times",
                          frames if start == 0 else None)


def newest_checkpoint():
    """Return the newest checkpoint under runs/ that is trained, or the one that ships."""
    younger = []
    for path in sorted(Path("runs").glob("*/checkpoint.pt"), key=os.path.getmtime, reverse=True):
        if read_checkpoint(path)["step"] >= YOUNG:
            break
        younger.append(str(path))
    else:
        path = SHIPPED
    if younger:
        print(f"{', '.join(younger)}: not {YOUNG} steps yet, so {path}; --checkpoint takes another")
    return path


def progress(checkpoint):
    """Say how far a checkpoint is trained, and on what."""
    content = read_checkpoint(checkpoint)
    step, config = content["step"], content["config"]
    young = step < YOUNG and " (a network of so few steps draws hardly more than noise)"
    steps, data = (textwrap.shorten(str(config.get(name, "?")), 60) for name in ("steps", "data"))
    return f"step {step} of {steps}, {data}{young or ''}"


def main(argv=None):
    parser = arguments(__doc__)
    parser.add_argument("--n", type=integer(1), default=64, help="number of samples (64)")
    parser.add_argument("--out", type=file_name(".png"), default="samples.png",
                        help="the grid, a PNG (samples.png)")
    parser.add_argument("--gif", type=file_name(".gif"), help="animation of the first 64 samples")
    parser.add_argument("--folder", type=Path, help="one PNG for each sample, instead of the grid")
    args = parser.parse_args(argv)
    with one_line_errors("sample.py"):
        run(args)
        parallel.leave()


def run(args):
    parallel.join(args.device)
    if parallel.world > 1 and (args.gif or not args.folder):
        raise ValueError("several processes sample to --folder, and make no grid or --gif")
    device = pick_device(args.device)
    checkpoint = args.checkpoint or newest_checkpoint()
    config, ddpm, model = load(checkpoint, device)
    for path in (args.gif, None if args.folder else args.out):
        if path is not None:
            check_writable(path)
    print(f"{args.n} samples of {checkpoint}, {progress(checkpoint)}, on {device}")

    frames = [] if args.gif else None
    model = recorded(model, device, args.record)
    make = functools.partial(batches, ddpm, model, config, args.n, args.seed, frames)
    if args.folder:
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        origin = f"checkpoint {digest}, seed {args.seed}, n {args.n}"
        kept = fill(args.folder, origin, args.n, lambda done: (
            (start, to_uint8(x)) for start, x in make(done=done)))
        print(f"{args.folder} holds all {args.n} images, {kept} of them from before")
    else:
        save_grid(to_uint8(torch.cat([x.cpu() for _, x in make()])), args.out)
        print(f"wrote {args.out}")
    if args.gif:
        save_gif(frames, args.gif)
        print(f"wrote {args.gif}")


if __name__ == "__main__":
    main()
