"""Check one submission, in a process of its own that `exercises.grade` starts in a fresh handout.

    python -m checks.worker SEED GIGABYTES SUBMISSIONS PROJECT NUMBER:CHECK ...

It imports the checks first, then gives up what a submission has no use for, and only then lets it
run.  Each result is a line of JSON on the stdout that this process was started with, marked with
the token that it read from stdin; what a submission prints goes nowhere.
"""
import json
import os
import sys
import tempfile
from pathlib import Path

import matplotlib.figure  # noqa: F401                 what may write caches when it is first used
import torch
from PIL import Image  # noqa: F401

from . import run

HERE = Path(__file__).resolve().parent
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn",
             "os.spawn", "os.startfile", "os.kill", "ctypes.", "http.", "urllib.", "webbrowser.",
             "sys.addaudithook")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
           "os.chmod", "os.chown", "os.utime", "shutil.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(scratch, hidden):
    """From now on refuse the network, other processes, and files that are none of its business.

    It may write below the folder scratch only, and not look below those of hidden: what others
    handed in, and the project with its answers.  Python code cannot remove an audit hook; machine
    code could go around it.
    """
    def below(path, folder):
        if isinstance(path, (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(path))
            return path == folder or path.startswith(folder + os.sep)

    allowed = os.path.dirname(scratch), *map(os.path.realpath, (sys.prefix, sys.base_prefix))
    hidden = {*hidden} - {*allowed}

    def hook(event, args):
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"not while it is graded: {event}")
        if event in ("open", "os.listdir", "os.scandir"):
            around = [folder for folder in (*allowed, *hidden) if below(args[0], folder)]
            if max(around, key=len, default=None) in hidden:     # the innermost decides
                raise PermissionError(f"not while it is graded: reading {args[0]}")
        writes = event == "open" and args[2] & WRITING and not isinstance(args[0], int)
        for path in args[:1 if writes else 2] if writes or event.startswith(CHANGES) else ():
            if below(path, scratch) is False and path != os.devnull:
                raise PermissionError(f"not while it is graded: writing to {path}")
    sys.addaudithook(hook)
    sys.modules["_posixsubprocess"] = None           # multiprocessing starts processes by it


def limit_memory(gigabytes):
    """Let this process take so much more memory than it has now; on Linux only."""
    try:
        import resource
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes) * 2 ** 30,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 30,) * 2)            # of a file
    except (ImportError, OSError):
        pass


def warm_up(trains):
    """Use what torch imports late, before the guard is there; an optimizer takes a second."""
    layer = torch.nn.Linear(1, 1)
    layer(torch.ones(1, 1)).sum().backward()
    if trains:
        torch.optim.Adam(layer.parameters()).step()


def main():
    seed, gigabytes, submissions, project, *todo = sys.argv[1:]
    token = sys.stdin.readline().strip()
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for fd in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)

    def tell(*result):
        print(json.dumps([token, *result]), file=channel, flush=True)

    sys.dont_write_bytecode = True
    todo = [(int(number), name) for number, name in (each.split(":", 1) for each in todo)]
    for number, _ in todo:
        run.checks(number)
    student = run.Student(int(seed), *run.handed_out(HERE))
    torch.set_num_threads(1)
    warm_up(any(hasattr(run.checks(number), "TRAINS") for number, _ in todo))
    scratch = tempfile.tempdir = os.path.realpath(HERE.parent / "scratch")
    os.mkdir(scratch)
    os.chdir(scratch)
    limit_memory(gigabytes)
    guard(scratch, (submissions, project))
    tell("ready")
    for number, name in todo:
        tell(number, name, run.run(number, name, student))
    os._exit(0)                                      # whatever threads there are


if __name__ == "__main__":
    main()
