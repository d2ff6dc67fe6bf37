"""Grade a folder of submissions, each a folder or a zip of a handout that was worked on.

    python -m exercises.grade submissions/ --only 1 2 6 --csv grades.csv --seed 17

Of a submission only the files are taken that its exercises name; they are laid into a fresh
handout, so that checks and all else are this project's own.  Each submission is checked in a
process of its own, which may not use the network, start others, write but to temporary files, or
look at other submissions, and has a limit of memory, and of time for each check.  --seed gives the
checks numbers that no student has seen.

This keeps mistakes and simple tricks away, not somebody who is determined: the checks run in the
same process as the code that they check, and machine code is not watched.
"""
import ast
import contextlib
import csv
import json
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from exercises import make
from exercises.checks import run
from plumbing.cli import Parser, check_writable, file_name, integer, one_line_errors
from plumbing.files import replacing

LARGEST = 2 ** 20                                    # bytes of a file that is taken
LONGEST = 2000                                       # characters of a remark
START = 300                                          # seconds that importing torch may take


def contents(path):
    """Return {path within a submission: function that reads its bytes}, of a folder or a zip."""
    if path.is_dir():
        found = {file.relative_to(path).as_posix(): lambda file=file: read(open(file, "rb"))
                 for file in path.rglob("*.py") if file.is_file() and not file.is_symlink()}
        for inner in sorted(path.glob("*.zip")):     # as some course systems pack them
            found |= {f"{inner.stem}/{name}": file for name, file in contents(inner).items()}
        return found
    archive = zipfile.ZipFile(path)
    return {name.replace("\\", "/").removeprefix("./"): lambda name=name: read(archive.open(name))
            for name in archive.namelist() if name.endswith(".py")}


def read(file):
    """Return what is in a file, closing it; at most LARGEST bytes."""
    with file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError("it is larger than a megabyte")
    return content


def take(path, wanted):
    """Find the files of a submission, wherever in it the handout's folder is.

    Args:
        path: of the folder or zip.
        wanted: names of the files, as "papers/kit/analytic.py".

    Returns:
        {name: source}, and a list of remarks on what is missing or cannot be read.
    """
    try:
        there = contents(path)
    except Exception as error:                       # a damaged zip or a strange folder: anything
        return {}, [f"{path.name} cannot be read: {error}"]
    roots = {PurePosixPath(name).parts[:-len(PurePosixPath(file).parts)]
             for name in there for file in wanted if f"/{name}".endswith(f"/{file}")}
    roots = {root for root in roots if not any(part.startswith(("__MACOSX", ".")) for part in root)}

    def has(root):
        return [file for file in wanted if "/".join((*root, file)) in there]

    root = min(roots, key=lambda root: (-len(has(root)), len(root), root), default=())
    found, remarks = {}, [f"there is no {file}" for file in wanted if file not in has(root)]
    others = sorted("/".join(other) or "." for other in roots - {root})
    if others:
        remarks.append(f"taken from {'/'.join(root) or '.'}, and not from {', '.join(others)}")
    for file in has(root):
        try:
            source = there["/".join((*root, file))]().decode("utf-8-sig")
            ast.parse(source, file)
            found[file] = source
        except Exception as error:                   # of a damaged zip, or of what is no Python
            remarks.append(f"{file} cannot be read: {error}")
    return found, remarks


def check(staged, todo, seed, gigabytes, seconds, hidden):
    """Run checks in processes that may hang or die.

    Args:
        staged: Path of the handout with somebody's files.
        todo: list of (number, name of a check), in order.
        seed, gigabytes: of the worker.
        seconds: that a check may take, unless its exercise says otherwise.
        hidden: Path of what others handed in, which the worker may not read.

    Returns:
        {(number, name): None if it passes, else what is wrong}.
    """
    said, todo = {}, list(todo)
    while todo:
        limit, started, why = START, False, "the process was ended while it ran"
        with worker(staged, todo, seed, gigabytes, hidden) as lines:
            try:
                while todo:
                    result = lines.get(timeout=limit)
                    if result is None:
                        break
                    if started:
                        said[todo.pop(0)] = result[2] and result[2][:LONGEST]
                    started = True
                    if todo:
                        limit = getattr(run.checks(todo[0][0]), "SECONDS", seconds)
            except queue.Empty:
                why = f"it took longer than {limit} seconds"
        if not started:
            last = (staged / "stderr.txt").read_text().strip().rpartition("\n")[2]
            raise OSError(f"the process that checks could not be started: {last or why}")
        number = todo[0][0] if todo else None
        while todo and todo[0][0] == number:         # or each of them would take as long
            said[todo.pop(0)] = why
    return said


@contextlib.contextmanager
def worker(staged, todo, seed, gigabytes, hidden):
    """Start checks/worker.py; give a queue of its results, with None where they end."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(staged / "scratch", ignore_errors=True)
    keep = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with open(staged / "stderr.txt", "w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "checks.worker", str(seed), str(gigabytes), hidden, make.ROOT,
             *(f"{number}:{name}" for number, name in todo)], cwd=staged, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=stderr, env={**keep, "OMP_NUM_THREADS": "1"},
            encoding="utf-8", errors="replace", start_new_session=True)
    token, lines = secrets.token_hex(), queue.Queue()

    def listen():
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                result = json.loads(line)
                if isinstance(result, list) and result[:1] == [token]:   # else it is not the worker
                    lines.put(result[1:])
        lines.put(None)

    with process.stdin:
        process.stdin.write(f"{token}\n")
    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield lines
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        thread.join()
        process.stdout.close()
        process.wait()


def grade(path, chosen, args):
    """Grade one submission.

    Returns:
        {number: checks passed, or "" if they could not be run}, and remarks: what is wrong.
    """
    wanted = sorted({file for exercise in chosen for file in exercise.files})
    found, remarks = take(path, wanted)
    todo = [(exercise.number, name) for exercise in chosen
            for name in run.names(exercise.number, args.variant)]
    folder = Path(tempfile.mkdtemp()).resolve()
    try:
        make.make(chosen, folder / "handout", variant=args.variant)
        for file, source in found.items():
            make.write(folder / "handout" / file, source)
        said = check(folder / "handout", todo, args.seed, args.memory, args.time_limit,
                     args.submissions.resolve())
    except Exception as error:                       # one submission must not end all others
        return dict.fromkeys(most(chosen, args.variant), ""), [
            f"not graded: {type(error).__name__}: {error}", *remarks]
    finally:
        with contextlib.suppress(RecursionError):    # whatever folders it has made there
            shutil.rmtree(folder, ignore_errors=True)
    scores = {}
    for exercise in chosen:
        own = [wrong for (number, _), wrong in said.items() if number == exercise.number]
        scores[exercise.number] = own.count(None)
        remarks += [f"{exercise.number}: {text}" for text in dict.fromkeys(own) if text]
    return scores, remarks


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("submissions", type=Path, help="folder of folders and zips")
    parser.add_argument("--csv", type=file_name(".csv"), default="grades.csv",
                        help="where the grades go (grades.csv)")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the exercises (all)")
    parser.add_argument("--variant", type=int, choices=make.VARIANTS, default=0,
                        help="of the handout (0)")
    parser.add_argument("--seed", type=integer(0), default=0, help="of the checks' numbers (0)")
    parser.add_argument("--time-limit", type=integer(1), default=60,
                        help="seconds for a check; exercise 9 has a limit of its own (60)")
    parser.add_argument("--memory", type=integer(1), default=4, help="gigabytes, on Linux (4)")
    parser.add_argument("--jobs", type=integer(1), default=1, help="graded at the same time (1)")
    args = parser.parse_args(argv)
    with one_line_errors("exercises.grade"):
        grade_all(args)


def grade_all(args):
    chosen = make.choose(args.only, args.variant)
    paths = sorted(path for path in args.submissions.iterdir() if not path.name.startswith(".")
                   and (path.is_dir() or path.suffix.lower() == ".zip"))
    if not paths:
        raise ValueError(f"there are no folders and no zips in {args.submissions}")
    check_writable(args.csv)
    for path in args.submissions.iterdir():
        if path not in paths and not path.name.startswith("."):
            print(f"{ascii(path.name)[1:-1]} is neither a folder nor a zip, and left out")
    counts = most(chosen, args.variant)
    total = sum(counts.values())
    rows = [["submission", *(f"exercise {number} (of {n})" for number, n in counts.items()),
             f"total (of {total})", "remarks"]]
    with ThreadPoolExecutor(args.jobs) as pool:
        for path, (scores, remarks) in zip(paths, pool.map(
                lambda path: grade(path, chosen, args), paths), strict=True):
            points = [*scores.values()]
            own = "" if "" in points else sum(points)
            rows.append([path.stem if path.is_file() else path.name, *points, own,
                         "\n".join(remarks)])
            print(f"{ascii(rows[-1][0])[1:-1]}: "
                  f"{f'{own} of {total}' if own != '' else remarks[0]}", flush=True)
    with replacing(args.csv) as tmp, \
            open(tmp, "w", newline="", encoding="utf-8", errors="backslashreplace") as f:
        csv.writer(f).writerows([[safe(cell) for cell in row] for row in rows])
    print(f"wrote {args.csv}")


def most(chosen, variant):
    """Return {number: how many checks there are}."""
    return {exercise.number: len(run.names(exercise.number, variant)) for exercise in chosen}


def safe(cell):
    """Keep a spreadsheet from taking what a student wrote for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


if __name__ == "__main__":
    main()
