"""Make a handout: this project's own functions, with their bodies taken out, and their checks.

    python -m exercises.make --out hw1                     all exercises
    python -m exercises.make --only 1 2 6 --out hw1 --notebook --zip
    python -m exercises.make --only 1 2 6 --out key --solutions

Every blank keeps its signature and its docstring, which say what is to be written; they are cut
from the source as it stands, so that an exercise cannot drift from the code.  With --variant 1 or 2
other functions take the place of some (see exercises/variants/), and other questions are asked.
"""
import ast
import shutil
from pathlib import Path

from exercises.answer import ROOT, functions, locate, replace_body, span
from exercises.hint import exercises
from exercises.hunt import defects
from exercises.notebook import hand_in, notebook, statement, to_answer
from plumbing.cli import Parser, one_line_errors
from plumbing.files import nobodys

MODULES = ("schedules.py", "ddpm.py", "unet.py", "data.py", "train.py", "sample.py",
           *sorted(f"plumbing/{path.name}" for path in (ROOT / "plumbing").glob("*.py")),
           "requirements.txt", "LICENSE")
VARIANTS = (0, 1, 2)
PYPROJECT = """[tool.pytest.ini_options]
testpaths = ["checks"]
pythonpath = ["."]
addopts = "-qq --tb=no --no-header -rN"
"""
START = """# Exercises: denoising diffusion

Equations and algorithms are numbered as in Ho, Jain & Abbeel 2020, *Denoising Diffusion
Probabilistic Models*, https://arxiv.org/abs/2006.11239: have it beside you. In the end
your own Algorithm 2 draws digits like these:

![64 digits](assets/samples.png)

## Begin

In this folder, with Python 3.10 or later (the first line is PyTorch for a machine without an
NVIDIA GPU, a far smaller download):

    pip install 'torch>=2.6,<2.14' --index-url https://download.pytorch.org/whl/cpu
    pip install -r requirements.txt
    pytest                              where you are, and what to do next
{1}
`pytest` stops at the first exercise that is not done, and says which function in which file is
next. Write the functions that raise NotImplementedError; their docstrings say what they do. What
a check says names the mistake where it can. And:

    pytest -k {0:02}:                       exercise {0} alone; -s shows what your code prints
    pytest --all                        all exercises, whatever is done
    python -m exercises.hint {0:<2}         a first hint; the next: python -m exercises.hint {0} 2

Hand in {2}. Keep to these files: no other of yours is graded.

"""
JUPYTER = """    jupyter lab exercises.ipynb         the same in a notebook (pip install jupyterlab)
"""
OTHER = """The `ddpm.py` of this handout is for a network that predicts something else than eps
(exercises 6 and 7 say what).  `assets/digits.pt` predicts eps and does not fit it: what
`sample.py` and the programs in `papers/` make of it is wrong. Train one that fits with
`python train.py`.

"""


# ---- functions, by the syntax tree ----

def blank(source, name, exercise):
    """Take out the body of a function."""
    return replace_body(source, name,
                        f'raise NotImplementedError("Exercise {exercise.number}: '
                        f'{exercise.title}")')


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


def readme(chosen, with_notebook=False, other_ddpm=False):
    """Write the README of a handout; other_ddpm: its ddpm.py is not for the shipped network."""
    return (START.format(chosen[0].number, JUPYTER * with_notebook, hand_in(chosen, with_notebook))
            + OTHER * other_ddpm + "\n".join(
                f"## {exercise.number}. {exercise.title} ({exercise.minutes} minutes)\n\n"
                f"{statement(exercise)}\n\n**To answer in writing**, in `ANSWERS.md`. "
                f"{exercise['Question']}\n"
                for exercise in chosen))


def rubric(chosen):
    """Write what the teacher's copy has besides: answers, and what they count."""
    return "# Answers and rubric, for the teacher\n\n" + "\n".join(
        f"## {exercise.number}. {exercise.title}\n\n**Question.** {exercise['Question']}\n\n"
        f"**Answer.** {exercise['Answer']}\n\n**Rubric.** {exercise['Rubric']}\n"
        for exercise in chosen)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")          # with the ends of lines it has


def make(chosen, out, solutions=False, variant=0, with_notebook=False, grader=False):
    """Write a handout.

    Args:
        chosen: list of Exercise, all of that variant.
        out: Path of the new folder.
        solutions: leave the answers in, and add RUBRIC.md: the teacher's copy.
        variant: 0, 1 or 2.
        with_notebook: add exercises.ipynb.
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
    shown = "samples.png", "digits.pt", *(     # sample.py and papers/ need the networks
        ["guidance.pt"] if "papers/classifier_free_guidance.py" in files else [])
    for name in shown:
        shutil.copy(ROOT / "assets" / name, out / "assets")
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
    copy_checks(chosen, out, variant, grader)
    other = bool(asked & overridden("ddpm.py", variant))
    write(out / "pyproject.toml", PYPROJECT)
    write(out / "README.md", readme(chosen, with_notebook, other))
    write(out / "ANSWERS.md", "# Answers in writing\n" + "".join(
        f"\n## {exercise.number}. {exercise.title}\n\n{to_answer(exercise, solutions)}"
        for exercise in chosen))
    if with_notebook:
        write(out / "exercises.ipynb", notebook(chosen, out, solutions, variant if other else 0))
    if solutions:
        write(out / "RUBRIC.md", rubric(chosen))


def copy_checks(chosen, out, variant, grader):
    """Copy the checks of these exercises, their hints, and for the grader its worker."""
    here, numbers = ROOT / "exercises", {exercise.number for exercise in chosen}
    others = {f"ex{number:02}.py" for number in exercises().keys() - numbers}
    for path in (here / "checks").glob("*.py"):
        if path.name not in others and (grader or path.name != "worker.py"):
            write(out / "checks" / path.name, path.read_text(encoding="utf-8"))
    shutil.move(out / "checks" / "conftest.py", out)             # where pytest learns its options
    write(out / "checks" / "variant.txt", f"{variant}\n")
    for room in ["exercises", "exercises/hunt"][:1 + any(bool(each["edit"]) for each in chosen)]:
        write(out / room / "__init__.py", "")
    for file in ("answer.py", "hint.py"):
        shutil.copy(here / file, out / "exercises")
    for exercise in chosen:
        facts = "".join(f"{name}: {exercise[name]}\n" for name in ("minutes", "blanks", "edit")
                        if exercise[name])
        hints = "\n".join(f"## Hint {i}\n{exercise[f'Hint {i}']}\n" for i in (1, 2, 3))
        write(out / "exercises" / "texts" / f"{exercise.number:02}.md",
              f"# {exercise.title}\n{facts}\n{hints}")


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
    parser.add_argument("--notebook", action="store_true", help="add exercises.ipynb")
    parser.add_argument("--zip", action="store_true", help="pack it as well")
    parser.add_argument("--solutions", action="store_true", help="the teacher's copy")
    parser.add_argument("--variant", type=int, choices=VARIANTS, default=0,
                        help="what is asked: 0 as the paper has it (0), 1 or 2 otherwise")
    args = parser.parse_args(argv)
    with one_line_errors("exercises.make"):
        packed = Path(f"{args.out}.zip")
        if args.zip and packed.exists():
            raise ValueError(f"{packed} exists already")
        make(choose(args.only, args.variant), args.out, args.solutions, args.variant,
             args.notebook)
        if args.zip:
            shutil.make_archive(args.out, "zip", args.out.parent, args.out.name)
        print(f"wrote {args.out}{' and its zip' if args.zip else ''}")


if __name__ == "__main__":
    main()
