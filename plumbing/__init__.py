"""What any program needs and no paper mentions.  Nobody has to read it to understand DDPM.

It imports nothing of the modules above it: what it needs of them is handed to it.
"""
import sys
from pathlib import Path


def quiet(kind, error, traceback):
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, traceback)


# To import torch takes seconds, and who presses Ctrl-C meanwhile has not found an error.  This is
# for the programs of this project, which import it first, and not for others that import them.
# (While Python looks for the module of `python -m`, the program has the name "-m".)
if sys.argv[0] == "-m" or Path(__file__).parent.parent in Path(sys.argv[0]).resolve().parents:
    sys.excepthook = quiet
