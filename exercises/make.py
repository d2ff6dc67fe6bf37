"""Make a handout: this project's own functions, with their bodies taken out, and their checks.

    python -m exercises.make --out hw1                     all exercises
    python -m exercises.make --only 1 2 6 --out hw1 --zip
    python -m exercises.make --only 1 2 6 --out key --solutions

Every blank keeps its signature and its docstring, which say what is to be written; they are cut
from the source as it stands, so that an exercise cannot drift from the code.  With --variant 1 or 2
other functions take the place of some (see exercises/variants/), and other questions are asked.
"""
import ast
import shutil
import textwrap
from pathlib import Path

from exercises.hint import TEXTS, sections
from exercises.hunt import defects
from plumbing.cli import Parser, one_line_errors
from plumbing.files import nobodys

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("schedules.py", "ddpm.py", "unet.py", "data.py", "train.py", "sample.py",
           *sorted(f"plumbing/{path.name}" for path in (ROOT / "plumbing").glob("*.py")),
           "requirements.txt", "LICENSE")
VARIANTS = (0, 1, 2)
PYPROJECT = """[tool.pytest.ini_options]
testpaths = ["checks"]
pythonpath = ["."]
addopts = "-q --tb=short --no-header -rN"
"""
START = """# Exercises

Write the functions that raise NotImplementedError; their docstrings say what they do. Keep to the
files named here, and add no others: no other file of yours is graded.

    pip install -r requirements.txt
    pytest                              checks everything, and prints a score
    pytest -k {0:02}:                       checks exercise {0}
    python -m exercises.hint {0:<2}         a first hint; the next: python -m exercises.hint {0} 2

What a check says names the mistake where it can.
"""
OTHER = """
The `ddpm.py` of this handout is for a network that predicts something else than eps (exercises 6
and 7 say what).  `assets/digits.pt` predicts eps and does not fit it: what `sample.py` and the
programs in `papers/` make of it is wrong. Train one that fits with `python train.py`.
"""


class Exercise:
    """One exercise, as its Markdown file says: title, minutes, blanks, task, hints, rubric.

    Of a section or a fact "Task (variant 1)" stands instead of "Task" in that variant.
    """

    def __init__(self, path, variant=0):
        self.number, self.variant = int(path.stem), variant
        self.sections = sections(path.read_text(encoding="utf-8"))
        title, _, facts = self.sections.pop("").partition("\n")
        self.title = title.removeprefix("# ").strip()
        self.sections |= dict(line.split(": ", 1) for line in facts.strip().splitlines())
        self.minutes = int(self["minutes"])
        self.blanks = self["blanks"].split(", ")                 # as ddpm.DDPM.q_sample
        self.files = sorted({f"{locate(name)[0]}.py" for name in self.blanks})

    def __getitem__(self, name):
        return self.sections.get(f"{name} (variant {self.variant})", self.sections.get(name))


def exercises(variant=0):
    """Return {number: Exercise} of all there are."""
    return {int(path.stem): Exercise(path, variant) for path in sorted(TEXTS.glob("*.md"))}


def locate(name):
    """Split "papers.experiments.decode" into its module, "papers/experiments", and the rest."""
    parts = name.split(".")
    n = next((n for n in (1, 2, 3) if (ROOT / "/".join(parts[:n])).with_suffix(".py").is_file()), 0)
    if n == 0:
        raise ValueError(f"there is no module of {name}")
    return "/".join(parts[:n]), ".".join(parts[n:])


# ---- functions, by the syntax tree ----

def functions(source):
    """Return {name: node} of a module's functions and methods, as "at" and "DDPM.q_sample"."""
    found = {}
    for top in ast.parse(source).body:
        of_class = isinstance(top, ast.ClassDef)
        for node in top.body if of_class else [top]:
            if isinstance(node, ast.FunctionDef):
                found[f"{top.name}.{node.name}" if of_class else node.name] = node
    return found


def replace_body(source, name, text):
    """Return the source of a module with another body for one of its functions.

    Raises:
        ValueError: there is no such function.
    """
    node = functions(source).get(name)
    if node is None:
        raise ValueError(f"there is no {name} in this source")
    statement = node.body[0]
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    first = statement.end_lineno if docstring else statement.lineno - 1
    indent, lines = " " * statement.col_offset, source.splitlines(keepends=True)
    new = [(indent + line).rstrip() + "\n" for line in text.splitlines()]
    return "".join(lines[:first] + new + lines[node.end_lineno:])


def blank(source, name, exercise):
    """Take out the body of a function."""
    return replace_body(source, name,
                        f'raise NotImplementedError("Exercise {exercise.number}: '
                        f'{exercise.title}")')


def span(node):
    """Return the lines of a function, from 0, last excluded, with its decorators."""
    return min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1, node.end_lineno


def override(source, other):
    """Put every function of one module's source in the place of its namesake in another's.

    What has none there is added at the end.
    """
    for name, node in functions(other).items():
        text, lines = other.splitlines(keepends=True)[slice(*span(node))], source.splitlines(True)
        there = functions(source)
        first, last = span(there[name]) if name in there else (len(lines), len(lines))
        gap = [] if name in there else ["\n", "\n"]
        source = "".join(lines[:first] + gap + text + lines[last:])
    return source


def put(source, name, text):
    """Return the source of a module with a function, as a student wrote it, in its place.

    name: as "DDPM.q_sample"; "" where the text is the whole module.

    Raises:
        ValueError: the text is not that function.
    """
    of, _, own = name.rpartition(".")
    defined = functions(text := textwrap.dedent(text))
    if not name:
        return text
    if own not in defined or name not in functions(source):
        raise ValueError(f"there is no {own} in it")
    return override(source, f"class {of}:\n{textwrap.indent(text, '    ')}" if of else text)


def variant_of(file, variant):
    """Return the source of what a variant puts into a file; for most it is nothing."""
    path = ROOT / "exercises" / "variants" / str(variant) / file
    return path.read_text(encoding="utf-8") if path.exists() else ""


def overridden(file, variant):
    """Return the names, as "ddpm.DDPM.loss", of what a variant puts into a file."""
    module = file.removesuffix(".py").replace("/", ".")
    return {f"{module}.{name}" for name in functions(variant_of(file, variant))}


def source_of(file, variant=0):
    """Return the source of a file of this project, as a variant has it."""
    return override((ROOT / file).read_text(encoding="utf-8"), variant_of(file, variant))


# ---- handouts ----

def papers_behind(files):
    """Return these files and those of papers/ that they import, directly or not."""
    found, todo = [], list(files)
    while todo:
        file = todo.pop()
        if file not in found:
            found.append(file)
            names = [f"{node.module}.{alias.name}" for node in ast.walk(ast.parse(source_of(file)))
                     if isinstance(node, ast.ImportFrom) for alias in node.names]
            todo += [f"{locate(name)[0]}.py" for name in names if name.startswith("papers.")]
    return found


def readme(chosen, other_ddpm=False):
    """Write the README of a handout; other_ddpm: its ddpm.py is not for the shipped network."""
    parts = [START.format(chosen[0].number) + (OTHER if other_ddpm else "")]
    for exercise in chosen:
        parts.append(f"## {exercise.number}. {exercise.title} ({exercise.minutes} minutes)\n")
        names = exercise.files if exercise["edit"] else exercise.blanks
        parts.append(f"{exercise['edit'] or 'Write'} "
                     + ", ".join(f"`{name}`" for name in names) + f".\n\n{exercise['Task']}\n")
        if exercise.number == 13:
            parts.append("\n".join(f"- `{name}`: {text}" for name, text in defects.NAMES.items())
                         + "\n")
        parts.append(f"**To answer in writing.** {exercise['Question']}\n")
    return "\n".join(parts)


def rubric(chosen):
    """Write what the teacher's copy has besides: answers, and what they count."""
    return "# Answers and rubric, for the teacher\n\n" + "\n".join(
        f"## {exercise.number}. {exercise.title}\n\n**Question.** {exercise['Question']}\n\n"
        f"**Answer.** {exercise['Answer']}\n\n**Rubric.** {exercise['Rubric']}\n"
        for exercise in chosen)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")          # with the ends of lines it has


def make(chosen, out, solutions=False, variant=0, grader=False):
    """Write a handout.

    Args:
        chosen: list of Exercise, all of that variant.
        out: Path of the new folder.
        solutions: leave the answers in, and add RUBRIC.md: the teacher's copy.
        variant: 0, 1 or 2.
        grader: add what only exercises.grade needs.

    Raises:
        ValueError: out exists and is not empty.
    """
    if out.exists() and not (out.is_dir() and all(nobodys(path.name) for path in out.iterdir())):
        raise ValueError(f"{out} exists already")
    edited = {file for exercise in chosen for file in exercise.files}
    files, asked = papers_behind(edited), {name for each in chosen for name in each.blanks}
    for file in {*MODULES, *files}:
        theirs = asked & overridden(file, variant)
        write(out / file, source_of(file, variant if theirs else 0))
    for room in {room for file in files for room in Path(file).parents} - {Path(".")}:
        write(out / room / "__init__.py", source_of(str(room / "__init__.py")))
    (out / "assets").mkdir()
    shutil.copy(ROOT / "assets" / "digits.pt", out / "assets")   # for sample.py and papers/
    if "papers/classifier_free_guidance.py" in files:
        shutil.copy(ROOT / "assets" / "guidance.pt", out / "assets")
    for exercise in chosen:
        for module, function in map(locate, exercise.blanks):
            path = out / f"{module}.py"
            if exercise["edit"]:
                name, source = defects.plant(path.stem, path.read_text(encoding="utf-8"), variant)
                write(out / "checks" / "hunt" / path.name, source)           # what was handed out
                write(path, path.read_text(encoding="utf-8").replace(
                    'DEFECT = ""', f'DEFECT = "{name}"') if solutions else source)
            elif not solutions:
                write(path, blank(path.read_text(encoding="utf-8"), function, exercise))
    copy_checks(chosen, out, variant)
    if grader:
        shutil.copy(ROOT / "exercises" / "checks" / "worker.py", out / "checks")
    write(out / "pyproject.toml", PYPROJECT)
    write(out / "README.md", readme(chosen, asked & overridden("ddpm.py", variant)))
    if solutions:
        write(out / "RUBRIC.md", rubric(chosen))


def copy_checks(chosen, out, variant):
    """Copy the checks of these exercises, and their hints."""
    here, own = ROOT / "exercises", {f"ex{exercise.number:02}.py" for exercise in chosen}
    for path in (here / "checks").glob("*.py"):
        if not path.name.startswith("ex") or path.name in own:
            write(out / "checks" / path.name, path.read_text(encoding="utf-8"))
    shutil.move(out / "checks" / "conftest.py", out)             # where pytest learns its options
    write(out / "checks" / "variant.txt", f"{variant}\n")
    write(out / "exercises" / "__init__.py", "")
    if any(exercise["edit"] for exercise in chosen):
        write(out / "exercises" / "hunt" / "__init__.py", "")
    shutil.copy(here / "hint.py", out / "exercises")
    for exercise in chosen:
        hints = "\n\n".join(f"## Hint {i}\n{exercise[f'Hint {i}']}" for i in (1, 2, 3))
        write(out / "exercises" / "texts" / f"{exercise.number:02}.md", f"{hints}\n")


def choose(numbers, variant):
    """Return the exercises of these numbers, all if there are none.

    Raises:
        ValueError: there is no such exercise.
    """
    there = exercises(variant)
    missing = sorted(set(numbers or ()) - set(there))
    if missing:
        raise ValueError(f"there is no exercise {missing[0]}; there are "
                         + ", ".join(map(str, there)))
    return [there[number] for number in sorted(set(numbers or there))]


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of exercises (all)")
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    parser.add_argument("--zip", action="store_true", help="pack it as well")
    parser.add_argument("--solutions", action="store_true", help="the teacher's copy")
    parser.add_argument("--variant", type=int, choices=VARIANTS, default=0,
                        help="what is asked: 0 as the paper has it (0), 1 or 2 otherwise")
    args = parser.parse_args(argv)
    with one_line_errors("exercises.make"):
        packed = Path(f"{args.out}.zip")
        if args.zip and packed.exists():
            raise ValueError(f"{packed} exists already")
        make(choose(args.only, args.variant), args.out, args.solutions, args.variant)
        if args.zip:
            shutil.make_archive(args.out, "zip", args.out.parent, args.out.name)
        print(f"wrote {args.out}{' and its zip' if args.zip else ''}")


if __name__ == "__main__":
    main()
