"""What any program needs and no paper mentions.  Nobody has to read it to understand DDPM.

It imports nothing of the modules above it: what it needs of them is handed to it.
"""
import os
import signal
import sys
from pathlib import Path


def quit_at_once(signum, frame):
    os._exit(128 + signum)


# To import torch takes seconds, and who presses Ctrl-C meanwhile has not found an error.  This is
# for the programs of this project, which import it first, and not for others that import them; from
# `cli.one_line_errors` on, Ctrl-C is Python's again.  (While Python looks for the module of
# `python -m`, the program has the name "-m"; "-c", and the "" of a terminal, are no files.)
PROGRAM = Path(sys.argv[0])
OURS = sys.argv[0] == "-m" or (
    PROGRAM.is_file() and Path(__file__).parent.parent in PROGRAM.resolve().parents)
if OURS:                                             # a notebook's, say: matplotlib might stop at
    os.environ.pop("MPLBACKEND", None)               # it, and no program here opens a window
if OURS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, quit_at_once)
