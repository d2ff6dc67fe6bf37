"""The process in which a submission runs: it answers questions, and knows nothing of marks.

    python -m checks.worker NUMBER SEED GIGABYTES        in a handout, started by exercises.grade

Each line on stdin names the student's half of a check of that exercise and its arguments; the line
of JSON that answers it says what came of it.  What a submission prints goes nowhere.
"""
import base64
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from . import run
from .kit import DTYPES, Odd, Raised, Wrong


def encode(value):
    """Turn data (see `kit.plain`) into what JSON can hold."""
    if isinstance(value, torch.Tensor):
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {"tensor": base64.b64encode(raw).decode(), "dtype": str(value.dtype),
                "shape": list(value.shape)}
    if isinstance(value, Odd):
        return {"odd": str(value)}
    if isinstance(value, dict):
        return {"dict": {name: encode(each) for name, each in value.items()}}
    return [encode(each) for each in value] if isinstance(value, (list, tuple)) else value


def decode(value):
    """Turn it back.  It may be anybody's, so that all sorts of errors may come up."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "odd" in value:
        return Odd(value["odd"])
    if "dict" in value:
        return {name: decode(each) for name, each in value["dict"].items()}
    raw = bytearray(base64.b64decode(value["tensor"]))
    flat = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    return flat.view(DTYPES[value["dtype"]]).reshape(value["shape"])


def limit_memory(gigabytes):
    """Let this process take so much more memory than it has now; on Linux only."""
    try:
        import resource
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + gigabytes * 2 ** 30,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 30,) * 2)            # of a file
    except (ImportError, OSError):
        pass


def reply(student, module, question):
    """Return what comes of a question: {"got": data}, {"wrong": words} or {"raised": ...}."""
    name, args = json.loads(question)
    try:
        return {"got": encode(getattr(module, name)(student, *decode(args)))}
    except Wrong as error:
        return {"wrong": str(error)}
    except Raised as error:
        return {"raised": [error.kinds, error.text, error.place]}


def main():
    number, seed, gigabytes = map(int, sys.argv[1:])
    questions, answers = (os.fdopen(os.dup(fd), mode, encoding="utf-8") for fd, mode in (
        (0, "r"), (1, "w")))
    for fd in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    sys.argv[1:], sys.dont_write_bytecode = [], True
    here = Path(__file__).resolve().parent
    module, student = run.checks(number), run.Student(seed, *run.handed_out(here))
    torch.set_num_threads(1)
    os.chdir(tempfile.gettempdir())
    limit_memory(gigabytes)
    print("ready", file=answers, flush=True)
    for question in questions:
        print(json.dumps(reply(student, module, question)), file=answers, flush=True)
    os._exit(0)                                      # whatever threads there are


if __name__ == "__main__":
    main()
