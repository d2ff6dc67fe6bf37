"""How a program speaks: flags that are read strictly, errors of one line, and progress."""
import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

from plumbing import quit_at_once


class Parser(argparse.ArgumentParser):
    """An argparse parser that shows a docstring as it stands, and whose errors are one line."""

    def __init__(self, doc, epilog=None):
        super().__init__(description=doc, epilog=epilog, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def arguments(doc, default="the newest runs/*/checkpoint.pt, or else the one that ships",
              record=True):
    """Return a Parser with the flags of every program that starts from a checkpoint.

    record: does it draw samples, and so ask its network often enough for a recording to pay?
    """
    parser = Parser(doc)
    parser.add_argument("--checkpoint", type=Path, help=f"default: {default}")
    parser.add_argument("--seed", type=integer(0), default=0, help="fixes the noise (0)")
    parser.add_argument("--device", default="auto", help="cuda, mps, or cpu (the first there is)")
    if record:
        parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=False,
                            help="on CUDA, record the network once and replay it, but where a "
                                 "gradient goes through it (no)")
    return parser


def integer(least, most=2 ** 32 - 1):
    """Return an argparse type: an int in least..most."""
    def integer(text):
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be in {least}..{most}, not {text}")
        return int(text)
    return integer


def file_name(suffix):
    """Return an argparse type: the path of a file that ends in suffix."""
    def file_name(text):
        if Path(text).suffix.lower() != suffix or Path(text).is_dir():
            raise argparse.ArgumentTypeError(f"{text} must be a file name that ends in {suffix}")
        return Path(text)
    return file_name


def check_writable(path):
    """Raise an OSError now, and not when there is something to write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path.parent).close()


@contextlib.contextmanager
def one_line_errors(prog):
    """Say what went wrong in one line on stderr; exit with 2 for a wrong value, else with 1."""
    if signal.getsignal(signal.SIGINT) is quit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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


def track(items, label, total=None):
    """Yield the items; say on stderr how many are done, how fast, and how much time is left."""
    total = total or len(items)
    terminal = sys.stderr and sys.stderr.isatty()            # there is none where it was closed
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        due = now - shown > (0.2 if terminal else 15) or (terminal and done == total)
        if due and done <= total:                    # a chain has one image more than steps
            rate, shown = done / max(now - start, 1e-9), now
            print(f"{label}: {done}/{total}, {per_second(rate)}/s, "
                  f"{clock((total - done) / rate)} left  ",
                  end="\r" if terminal and done < total else "\n", file=sys.stderr, flush=True)


def per_second(rate):
    """Write how many there are in a second, as 2255, 12 or 0.061."""
    return f"{rate:{'.0f' if rate >= 10 else '.2g'}}"


def clock(seconds):
    """Write a duration as h:mm:ss, or in days."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 2 * 24 * 60:
        return f"{round(minutes / 24 / 60)} days"
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
