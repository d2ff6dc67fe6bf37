"""Make a handout: this project's own functions, with their bodies taken out, and their checks.

    python -m exercises.make --out hw1                     all exercises
    python -m exercises.make --only 1 2 6 --out hw1 --zip

Every blank keeps its signature and its docstring, which say what is to be written; they are cut
from the source as it stands, so that an exercise cannot drift from the code.
"""
import ast
import re
import shutil
from pathlib import Path

from sample import Parser, one_line_errors

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("schedules.py", "ddpm.py", "unet.py", "data.py", "checkpoint.py", "parallel.py",
           "train.py", "sample.py", "requirements.txt", "LICENSE")
PYPROJECT = """[tool.pytest.ini_options]
testpaths = ["checks"]
pythonpath = ["."]
addopts = "-q --tb=short --no-header"
"""


def locate(name):
    """Split "papers.experiments.decode" into its module, "papers/experiments", and the rest."""
    parts = name.split(".")
    n = 2 if parts[0] == "papers" else 1
    return "/".join(parts[:n]), ".".join(parts[n:])


class Exercise:
    """One exercise, as its Markdown file says: title, minutes, blanks, task, hints, rubric."""

    def __init__(self, path):
        head, *sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M)
        title, facts = head.split("\n", 1)
        self.number = int(path.stem)
        self.title = title.removeprefix("# ").strip()
        facts = dict(line.split(": ", 1) for line in facts.strip().splitlines())
        self.minutes = int(facts["minutes"])
        self.blanks = facts["blanks"].split(", ")                # as ddpm.DDPM.q_sample
        self.sections = {}
        for section in sections:
            name, text = section.split("\n", 1)
            self.sections[name.strip()] = text.strip()

    @property
    def hints(self):
        return [self.sections[f"Hint {i}"] for i in (1, 2, 3)]


def exercises():
    """Return {number: Exercise} of all there are."""
    paths = sorted((ROOT / "exercises" / "texts").glob("[0-9][0-9].md"))
    return {exercise.number: exercise for exercise in map(Exercise, paths)}


def body(source, name):
    """Find a function, "q_sample" or "DDPM.q_sample", in a module's source.

    Returns:
        first, last, indent: the lines of its body, from 0, last excluded, docstring excluded.

    Raises:
        ValueError: there is no such function.
    """
    scope = ast.parse(source)
    for part in name.split("."):
        found = [node for node in scope.body
                 if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == part]
        if not found:
            raise ValueError(f"there is no {name} in this source")
        scope = found[0]
    statements = scope.body
    if isinstance(statements[0], ast.Expr) and isinstance(statements[0].value, ast.Constant):
        first = statements[0].end_lineno
    else:
        first = statements[0].lineno - 1
    return first, scope.end_lineno, " " * statements[0].col_offset


def replace_body(source, name, text):
    """Return the source of a module with another body for one of its functions."""
    first, last, indent = body(source, name)
    lines = source.splitlines(keepends=True)
    new = [(indent + line).rstrip() + "\n" for line in text.splitlines()]
    return "".join(lines[:first] + new + lines[last:])


def blank(source, name, exercise):
    """Take out the body of a function."""
    return replace_body(source, name,
                        f'raise NotImplementedError("Exercise {exercise.number}: '
                        f'{exercise.title}")')


def readme(chosen):
    lines = ["# Exercises", "",
             "Write the functions that raise NotImplementedError; their docstrings say what they",
             "do.  `pytest` checks them and prints a score, `pytest -k 'exercise and 7:'` one "
             "exercise,", "`python hint.py 7` gives a first hint, `python hint.py 7 2` the next.",
             ""]
    for exercise in chosen:
        lines += [f"## {exercise.number}. {exercise.title} ({exercise.minutes} minutes)", "",
                  "Write " + ", ".join(f"`{name}`" for name in exercise.blanks) + ".", "",
                  exercise.sections["Task"], ""]
    return "\n".join(lines)


def make(chosen, out, solutions=False):
    """Write a handout.

    Args:
        chosen: list of Exercise.
        out: Path of the new folder.
        solutions: leave the answers in, and add the rubric: the teacher's copy.

    Raises:
        ValueError: out exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already")
    out.mkdir(parents=True, exist_ok=True)
    papers = {f"{module}.py" for exercise in chosen for module, _ in map(locate, exercise.blanks)
              if "/" in module}
    if papers:
        papers.add("papers/__init__.py")
        shutil.copytree(ROOT / "assets", out / "assets", ignore=lambda _, names: [
            name for name in names if name != "digits.pt"])
    for name in (*MODULES, *papers):
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, out / name)
    for exercise in () if solutions else chosen:
        for module, function in map(locate, exercise.blanks):
            path = out / f"{module}.py"
            path.write_text(blank(path.read_text(encoding="utf-8"), function, exercise),
                            encoding="utf-8")
    (out / "checks").mkdir()
    own = {f"ex{exercise.number:02}.py" for exercise in chosen}
    for path in (ROOT / "exercises" / "checks").glob("*.py"):
        if not path.name.startswith("ex") or path.name in own:
            shutil.copy(path, out / "checks" / path.name)
    shutil.move(out / "checks" / "conftest.py", out)             # where pytest learns its options
    (out / "hints").mkdir()
    for exercise in chosen:
        for i, hint in enumerate(exercise.hints, 1):
            (out / "hints" / f"{exercise.number}-{i}.md").write_text(hint + "\n", encoding="utf-8")
    shutil.copy(ROOT / "exercises" / "hint.py", out / "hint.py")
    (out / "pyproject.toml").write_text(PYPROJECT)
    (out / "README.md").write_text(readme(chosen), encoding="utf-8")
    if solutions:
        rubric = "\n\n".join(f"## {exercise.number}. {exercise.title}\n\n"
                             f"{exercise.sections['Rubric']}" for exercise in chosen)
        (out / "RUBRIC.md").write_text(f"# Rubric, for the teacher\n\n{rubric}\n", encoding="utf-8")


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of exercises (all)")
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    parser.add_argument("--zip", action="store_true", help="pack it as well")
    parser.add_argument("--solutions", action="store_true", help="the teacher's copy")
    args = parser.parse_args(argv)
    with one_line_errors("exercises.make"):
        there = exercises()
        missing = sorted(set(args.only or there) - set(there))
        if missing:
            raise ValueError(f"there is no exercise {missing[0]}; there are "
                             + ", ".join(map(str, there)))
        make([there[number] for number in sorted(set(args.only or there))], args.out,
             args.solutions)
        if args.zip:
            shutil.make_archive(args.out, "zip", args.out.parent, args.out.name)
        print(f"wrote {args.out}{' and its zip' if args.zip else ''}")


if __name__ == "__main__":
    main()
