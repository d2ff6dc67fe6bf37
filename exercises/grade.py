"""Grade submissions: folders, zips, loose files or notebooks, of many students or of one.

    python -m exercises.grade submissions/ --only 1 2 6 --csv grades.csv --seed 17
    python -m exercises.grade submission/ --only 1 2 6 --json results.json      one, for Gradescope

Of a submission only the files are taken that its exercises name; they are laid into a fresh
handout, so that checks and all else are this project's own.  All are read before any of them runs.
The student's functions run in a process for each exercise, which is asked for what they compute;
what is right and what it counts is known in this process only, which never runs them.  --seed gives
the checks numbers that no student has seen.

What such a process does besides is for a container to keep in bounds: bubblewrap if it is there,
or, for root, another user; a line says if there is neither.
"""
import csv
import itertools
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from exercises import collect, make
from exercises.checks import run
from exercises.checks.kit import Raised, Wrong
from exercises.checks.worker import decode, encode
from plumbing.cli import Parser, check_writable, file_name, integer, one_line_errors
from plumbing.files import replacing

LONGEST, CELL = 2000, 30_000                         # characters of a remark, and of a cell
USERS = itertools.count(70_000)                      # of whom there is none
START = 300                                          # seconds that importing torch may take
KEPT = "PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT"      # of the surroundings
ANSWER = 2 ** 28                                     # characters of an answer


class Remote(run.Student):
    """A student whose code runs in a process of its own, in the folder of a handout.

    Raises:
        OSError: the process could not be started.
    """

    def __init__(self, folder, number, args):
        super().__init__(args.seed, *run.handed_out(folder / "checks"))
        self.seconds, self.gone = START, ""
        scratch = folder / "scratch"
        scratch.mkdir()
        scratch.chmod(0o777)
        keep = {name: value for name, value in os.environ.items() if name in KEPT}
        with open(folder / "stderr.txt", "w") as stderr:
            self.process = subprocess.Popen(
                [*within(args.inside, folder), sys.executable, "-m", "checks.worker",
                 *map(str, (number, args.seed, args.memory))],
                cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                env={**keep, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}, encoding="utf-8",
                errors="replace", start_new_session=True)
        if self.talk("") != "ready\n":
            self.end()
            last = (folder / "stderr.txt").read_text().strip().rpartition("\n")[2]
            raise OSError(f"the process that runs them could not be started: {last or self.gone}")
        self.seconds = getattr(run.checks(number), "SECONDS", args.time_limit)

    def __getattr__(self, name):
        raise AttributeError(f"{name} is in another process")    # and not the project's own

    def talk(self, question):
        """Ask, and return a line of answer; "" and `gone` say why if there is none."""
        def wait():
            try:
                self.process.stdin.write(question)
                self.process.stdin.flush()
                heard.put(self.process.stdout.readline(ANSWER))
            except (OSError, ValueError):
                heard.put("")

        heard = queue.Queue()
        threading.Thread(target=wait, daemon=True).start()       # whoever holds the pipes' ends
        try:
            line = heard.get(timeout=self.seconds)
            self.gone = "" if line else "the process was ended while it ran"
        except queue.Empty:
            line, self.gone = "", f"it took longer than {self.seconds} seconds"
        if self.gone:
            self.end()
        return line

    def ask(self, probe, args):
        if self.gone:
            raise Wrong(self.gone)
        line = self.talk(json.dumps([probe.__name__, encode(args)]) + "\n")
        try:
            said = json.loads(line)
            if "got" in said:
                return decode(said["got"])
            error = Raised(*said["raised"]) if "raised" in said else Wrong(said["wrong"])
        except Exception:                            # somebody else than worker.py wrote it
            error = Wrong(self.gone or "the process gave an answer that cannot be read")
        raise error

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL) if hasattr(os, "killpg") \
                else self.process.kill()
        except OSError:
            pass
        self.process.wait()


def isolated(args):
    """Return what to put before a command, as a list in which {} is the folder that it runs in."""
    if args.inside is not None:
        return shlex.split(args.inside)
    there = args.submissions.resolve()
    hidden = make.ROOT, there if there.is_dir() else there.parent, "/tmp"
    bubblewrap = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/",
                  *(str(part) for path in hidden for part in ("--tmpfs", path)),
                  *(part for path in (sys.prefix, sys.base_prefix)
                    for part in ("--ro-bind", path, path)),
                  "--bind", "{}", "{}", "--dev", "/dev", "--proc", "/proc", "--"]
    nobody = ["setpriv", "--reuid={user}", "--regid={user}", "--clear-groups", "--"]
    with tempfile.TemporaryDirectory() as folder:
        for way in bubblewrap, nobody, []:
            try:
                command = [*within(way, folder), sys.executable, "-c", "import torch"]
                if not subprocess.run(command, capture_output=True).returncode:
                    break
            except OSError:                          # there is no such program
                pass
    if way is not bubblewrap:
        print("what is graded can read here what " + (
            "everybody can: " if way else "you can, and write it: ")
            + "install bubblewrap, or see README")
    return way


def within(way, folder):
    user = str(next(USERS))                          # each has one of its own, who has no files
    return [part.replace("{}", str(folder)).replace("{user}", user) for part in way]


def grade(files, chosen, args):
    """Grade one submission.

    Args:
        files: {name: bytes}, see `collect.submissions`.
        chosen: list of Exercise.

    Returns:
        {number: [(check, None or what is wrong)]}, where the list is empty if the checks could not
        be run; {number: answer in writing}; and a list of remarks.
    """
    said, folder = {}, Path(tempfile.mkdtemp()).resolve()
    try:
        make.make(chosen, folder / "hw", variant=args.variant, grader=True)
        folder.chmod(0o755)                          # for another user, see --inside
        taken = collect.Taken(files, chosen, lambda file: (folder / "hw" / file).read_text("utf-8"))
        for file, source in taken.sources.items():
            make.write(folder / "hw" / file, source)
        for exercise in chosen:
            said[exercise.number] = checked(exercise, taken.sources, folder / "hw", args)
            taken.remarks += [f"{exercise.number}: {text}" for text in dict.fromkeys(
                text for _, text in said[exercise.number]) if text]
        return said, taken.answers, taken.remarks
    except Exception as error:                       # one submission must not end all others
        return {exercise.number: [] for exercise in chosen}, {}, [
            f"not graded: {type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def checked(exercise, sources, folder, args):
    """Return [(check, None or what is wrong)] of an exercise, whose files lie in a handout."""
    names = run.names(exercise.number, args.variant)
    if not set(exercise.files) & set(sources):
        return [(name, "no file of it was handed in") for name in names]
    own = folder.with_name(str(exercise.number))     # whatever another exercise does to its files
    shutil.copytree(folder, own)
    student = Remote(own, exercise.number, args)
    try:
        said = [(name, run.run(exercise.number, name, student)) for name in names]
        return [(name, wrong and wrong[:LONGEST]) for name, wrong in said]
    finally:
        student.end()


def grade_all(args):
    chosen = make.choose(args.only, args.variant)
    wanted = sorted({file for exercise in chosen for file in exercise.files})
    there = collect.submissions(args.submissions, wanted, one=args.json is not None)
    if args.csv.resolve().parent == args.submissions.resolve():
        there.pop(args.csv.stem, None)               # the grades of an earlier time
    if not there:
        raise ValueError(f"nothing was handed in in {args.submissions}")
    check_writable(args.json or args.csv)
    args.inside = isolated(args)
    total, rows, results = sum(exercise.minutes for exercise in chosen), [], {}
    with ThreadPoolExecutor(args.jobs) as pool:
        for who, result in zip(there, pool.map(lambda files: grade(files, chosen, args),
                                               there.values()), strict=True):
            said, answers, remarks = result
            marks = {}
            for exercise in chosen:
                wrong = [text for _, text in said[exercise.number]]
                marks[f"exercise {exercise.number} (of {exercise.minutes})"] = run.score(
                    exercise.minutes, wrong.count(None), len(wrong))
            own = "" if "" in marks.values() else round(sum(marks.values()), 1)
            rows.append({"submission": who, **marks, f"total (of {total})": own,
                         "remarks": "\n".join(remarks)})
            for exercise in chosen:                  # for whoever reads them to fill in
                rows[-1] |= {f"answer {exercise.number}": answers.get(exercise.number, ""),
                             f"points of answer {exercise.number}": ""}
            results = {"score": own or 0, "tests": [
                {"name": f"{exercise.number}: {run.said(name)}", "output": wrong or "",
                 "score": 0 if wrong else round(exercise.minutes / len(said[exercise.number]), 2),
                 "max_score": round(exercise.minutes / len(said[exercise.number]), 2)}
                for exercise in chosen for name, wrong in said[exercise.number]], "output":
                "\n".join([*remarks, *(f"answer {n}: {text}" for n, text in answers.items())])}
            print(f"{ascii(who)[1:-1]}: {f'{own:g} of {total}' if own != '' else remarks[0]}",
                  flush=True)
    with replacing(args.json or args.csv) as tmp, \
            open(tmp, "w", newline="", encoding="utf-8", errors="backslashreplace") as f:
        if args.json:
            json.dump(results, f, indent=1)
        else:
            writer = csv.DictWriter(f, rows[0])
            writer.writeheader()
            writer.writerows([{name: safe(cell) for name, cell in row.items()} for row in rows])
    lost = sum(row[f"total (of {total})"] == "" for row in rows)
    print(f"wrote {args.json or args.csv}"
          + f"; {lost} could not be graded, see the remarks: try again" * (lost > 0))


def safe(cell):
    """Keep a spreadsheet from taking what a student wrote for a formula, or for too much."""
    if not isinstance(cell, str):
        return cell
    text = re.sub(r"[\x00-\x08\x0b-\x1f]", " ", cell)[:CELL]
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("submissions", type=Path, help="folder or zip, of many or of one")
    parser.add_argument("--csv", type=file_name(".csv"), default=Path("grades.csv"),
                        help="where the grades go (grades.csv)")
    parser.add_argument("--json", type=file_name(".json"),
                        help="it is one submission; write this, as Gradescope reads it, not a CSV")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the exercises (all)")
    parser.add_argument("--variant", type=int, choices=make.VARIANTS, default=0,
                        help="of the handout (0)")
    parser.add_argument("--seed", type=integer(0), default=0, help="of the checks' numbers (0)")
    parser.add_argument("--time-limit", type=integer(1), default=60,
                        help="seconds for an answer; exercise 9 has a limit of its own (60)")
    parser.add_argument("--memory", type=integer(1), default=4, help="gigabytes, on Linux (4)")
    parser.add_argument("--jobs", type=integer(1), default=1, help="graded at the same time (1)")
    parser.add_argument("--inside", metavar="COMMAND", help="of a container of your own: it is put "
                        "before the command that runs what was handed in; {} is the folder")
    args = parser.parse_args(argv)
    with one_line_errors("exercises.grade"):
        grade_all(args)


if __name__ == "__main__":
    main()
