"""Algorithm 2 of Ho et al. 2020 into pictures, from a checkpoint and nothing else.

    python sample.py                                64 samples of the newest run, to samples.png
    python sample.py --checkpoint F --n 16          of that checkpoint
    python sample.py --gif denoising.gif            and x_t beside x_0_hat as t falls from T to 0
    python sample.py --n 50000 --folder samples     one lossless PNG each, as FID tools want them

The weights are always the EMA.  --seed fixes the pictures for a given --n on a given device.
"""
import argparse
import contextlib
import ctypes
import functools
import hashlib
import io
import math
import os
import reprlib
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import parallel
from checkpoint import check_weights, locked, read_checkpoint, replacing
from data import to_image, to_uint8, track
from ddpm import DDPM
from schedules import SCHEDULES
from unet import UNet

NETWORK = ("image_size", "image_channels", "channels", "channel_mults", "num_res_blocks",
           "attention_resolutions", "dropout")                # what a config says of the U-Net
SHIPPED = Path(__file__).resolve().parent / "assets" / "digits.pt"


def build(config):
    """Build (ddpm, model) as a config (a dict) describes them, with fresh weights."""
    return process(config), network(config)


def process(config):
    if config["schedule"] not in SCHEDULES:
        raise ValueError(f"there is no schedule {config['schedule']!r} in {list(SCHEDULES)}")
    return DDPM(SCHEDULES[config["schedule"]](config["T"]), config["variance"])


def network(config):
    return UNet(**{name: config[name] for name in NETWORK})


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
        if model is None and config["num_res_blocks"] * len(config["channel_mults"]) > len(ema):
            raise ValueError("there are fewer weights than blocks")      # to build them takes hours
        ddpm = process(config)
        with torch.device("meta"):                   # where a network takes no memory
            check_weights(ema, network(config) if model is None else model)
        model = network(config) if model is None else model
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
        process = ddpm.reverse_process(model, x_T, generator=generator)
        for t, x_t, x_0_hat in track(process, label, ddpm.T + 1):
            if frames is not None and (t == ddpm.T or t % math.ceil(ddpm.T / 50) == 0):
                frames.append((x_t[:64].cpu(), x_0_hat[:64].cpu()))
            if stop:
                return None
    return x_t


def batch_size(H):
    """Return how many images of height H the network gets at once where no gradients are kept."""
    return max(1, min(256, 2 ** 18 // H ** 2))


def noise(seed, start, device):
    """Return the generator of the batch that begins with image `start`, for each batch its own."""
    if start > 0:                                    # a hash: seed + start would repeat batches
        seed = int(np.random.SeedSequence((seed, start)).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def batches(ddpm, model, config, n, seed, frames=None, done=frozenset()):
    """Yield (start, x): n images in batches x (B, C, H, W) of bounded size, on the CPU.

    Where torchrun started several processes, each makes every so many-th batch.  frames are of the
    first.  A batch whose images are all in `done` is left out.
    """
    C, H = config["image_channels"], config["image_size"]
    size, device = batch_size(H), ddpm.beta.device
    precision = "float32" if config.get("precision") == "float32" else "auto"
    for start in range(parallel.rank() * size, n, parallel.world() * size):
        label = f"sampling {start + 1}..{min(start + size, n)} of {n}, times"
        shape = min(size, n - start), C, H, H
        if done.issuperset(range(start, start + shape[0])) and not (frames == [] and start == 0):
            continue
        yield start, draw(ddpm, model, shape, noise(seed, start, device), precision, label,
                          frames if start == 0 else None).cpu()


def grid(x, columns=None):
    """Arrange (N, C, H, W) images in [-1, 1] in one picture, near-square unless `columns` is given.

    Small images are enlarged.
    """
    N, C, H, W = x.shape
    columns = columns or math.ceil(math.sqrt(N))
    rows = math.ceil(N / columns)
    scale = max(1, round(48 / max(H, W)))
    x = to_uint8(x.cpu()).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    picture = np.full((C, rows, scale * H + 2, columns, scale * W + 2), 127, np.uint8)
    for i, image in enumerate(x):
        picture[:, i // columns, 1:-1, i % columns, 1:-1] = image.numpy()
    return to_image(picture.reshape(C, rows * (scale * H + 2), columns * (scale * W + 2)))


def save_grid(x, path):
    """Write (N, C, H, W) images in [-1, 1] as one near-square PNG."""
    with replacing(path) as tmp:
        grid(x).save(tmp, format="PNG")


def save_gif(frames, path):
    """Write pairs (x_t, x_0_hat) as an animation, x_t on the left."""
    pictures = []
    for pair in frames:
        left, right = (grid(x) for x in pair)
        picture = Image.new(left.mode, (2 * left.width + 8, left.height), "white")
        picture.paste(left, (0, 0))
        picture.paste(right, (left.width + 8, 0))
        pictures.append(picture)
    with replacing(path) as tmp:
        pictures[0].save(tmp, format="GIF", save_all=True, append_images=pictures[1:], loop=0,
                         duration=[80] * (len(pictures) - 1) + [3000])


def save_figure(figure, path):
    """Write a matplotlib figure as a PNG."""
    with replacing(path) as tmp:
        figure.savefig(tmp, format="png", dpi=120)


# ---- what train.py and the papers need too ----

def pick_device(name="auto"):
    """Return the torch device of that name; "auto" takes cuda, then mps, then cpu."""
    if name == "auto":
        name = ("cuda" if torch.cuda.is_available() else
                "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        if device.type in ("cuda", "mps", "cpu"):
            if device.type == "cpu":
                keep_freed_memory()
            return device
    except Exception:                                # each backend has an error of its own
        pass
    raise ValueError(f"there is no device {name!r} here; --device auto finds one")


def keep_freed_memory():
    """Keep the memory that one step frees for the next.

    GNU's malloc gives large blocks back to the system, which hands them out again page by page:
    a seventh of the time of a step of training on a CPU.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):        # another C library
        mallopt, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = ctypes.CDLL(None).mallopt, -1, -3
        if mallopt(M_MMAP_THRESHOLD, 2 ** 30):
            mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)


def autocast(device, precision="auto"):
    """Run the network in bfloat16 where asked; "auto" asks where the hardware is fast at it.

    Never float16: its range is too small for the gradients of L_simple, and losses turn NaN.
    """
    if precision == "auto":
        precision = "bf16" if fast_bf16(torch.device(device)) else "float32"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def fast_bf16(device):
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text()                # Linux; elsewhere we cannot know
    except OSError:
        return False
    return device.type == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags)


class Parser(argparse.ArgumentParser):
    """An argparse parser that shows a docstring as it stands, and whose errors are one line."""

    def __init__(self, doc, epilog=None):
        super().__init__(description=doc, epilog=epilog, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def integer(minimum, maximum=2 ** 32 - 1):
    """Return an argparse type: an int in minimum..maximum."""
    def parse(text):
        if not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"must be in {minimum}..{maximum}, not {text}")
        return int(text)
    parse.__name__ = "integer"
    return parse


def file_name(suffix):
    """Return an argparse type: the path of a file that ends in suffix."""
    def parse(text):
        if Path(text).suffix.lower() != suffix or Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"{text} must be a file name that ends in {suffix}")
        return Path(text)
    return parse


def check_writable(path):
    """Raise an OSError now, and not when there is something to write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path.parent).close()


def arguments(doc, default="the newest runs/*/checkpoint.pt, or else the one that ships"):
    """Return a Parser with the flags of every program that starts from a checkpoint."""
    parser = Parser(doc)
    parser.add_argument("--checkpoint", type=Path, help=f"default: {default}")
    parser.add_argument("--seed", type=integer(0), default=0, help="fixes the noise (0)")
    parser.add_argument("--device", default="auto", help="cuda, mps, cpu, or auto: the first found")
    return parser


@contextlib.contextmanager
def one_line_errors(prog):
    """Say what went wrong in one line on stderr; exit with 2 for a wrong value, else with 1."""
    warnings.formatwarning = lambda message, *_: f"{prog}: warning: {message}\n"
    if isinstance(sys.stdout, io.TextIOWrapper):     # a pipe on Windows may not know every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:                          # who reads what is printed has seen enough
        with contextlib.suppress(OSError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            sys.exit(f"{prog}: torch.compile fails here, --no-compile does without: "
                     f"{textwrap.shorten(str(error), 200)}")
        if not any(sign in repr(error) for sign in ("MemoryError", "out of memory", "t allocate")):
            raise
        sys.exit(f"{prog}: out of memory; smaller images, a smaller network or batch would fit")
    except KeyboardInterrupt:
        sys.exit(130)


def newest_checkpoint():
    """Return the newest checkpoint under runs/, or the one that comes with this project."""
    return max(Path("runs").glob("*/checkpoint.pt"), key=os.path.getmtime, default=SHIPPED)


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
    if parallel.world() > 1 and (args.gif or not args.folder):
        raise ValueError("several processes sample to --folder, and make no grid or --gif")
    device = pick_device(args.device)
    checkpoint = args.checkpoint or newest_checkpoint()
    config, ddpm, model = load(checkpoint, device)
    for path in (args.gif, None if args.folder else args.out):
        if path is not None:
            check_writable(path)
    print(f"{args.n} samples of {checkpoint} on {device}")

    frames = [] if args.gif else None
    make = functools.partial(batches, ddpm, model, config, args.n, args.seed, frames)
    if args.folder:
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        kept = fill(args.folder, f"checkpoint {digest}, seed {args.seed}, n {args.n}", args.n, make)
        print(f"{args.folder} holds all {args.n} images, {kept} of them from before")
    else:
        save_grid(torch.cat([x for _, x in make()]), args.out)
        print(f"wrote {args.out}")
    if args.gif:
        save_gif(frames, args.gif)
        print(f"wrote {args.gif}")


def fill(folder, origin, n, make):
    """Write each sample as a PNG that says where it comes from; return how many were there."""
    with parallel.first(locked(folder)):
        done = parallel.gather(finished(folder, origin, n) if parallel.rank() == 0 else None)[0]
        text = PngInfo()
        text.add_text("origin", origin)
        for start, x in make(done=done):
            for i, image in enumerate(x, start):
                if i not in done:
                    with replacing(folder / f"{i:06}.png") as tmp:
                        to_image(to_uint8(image).numpy()).save(tmp, format="PNG", pnginfo=text)
        parallel.wait()
    return len(done)


def finished(folder, origin, n):
    """Return which of n samples of this origin a folder has; refuse one that has anything else."""
    done = set()
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        try:
            with Image.open(path, formats=["PNG"]) as image:
                ours = image.info["origin"] == origin and path.name == f"{int(path.stem):06}.png"
                image.verify()                       # the checksums of a PNG
        except Exception:                            # whatever a strange file provokes
            ours = False
        if not ours or int(path.stem) >= n:
            raise ValueError(f"{folder} is not empty: {path.name} is not, or not whole, one of "
                             "these samples (another checkpoint, --seed or --n?), and others would "
                             "mix with them")
        done.add(int(path.stem))
    return done


if __name__ == "__main__":
    main()
