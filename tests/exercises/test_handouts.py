"""What is handed out: functions taken out, checks one at a time, a notebook, and no answers."""
import contextlib
import functools
import importlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile

import pytest
from answers import Q_BODY, hunted
from stand_ins import refused

from exercises import answer, hint, make

EXERCISES = make.exercises()
SHORT = [number for number in EXERCISES if number != 9]          # which trains a network
VARIED = 1, 4, 6, 7, 13                              # other functions are asked for in a variant

SLIP = "if not isinstance(t, int):\n    eps = at(self.one_minus_alpha_bar, t, x_0).sqrt() * eps\n" \
    + Q_BODY                                         # right only for an int: one check of four


def test_a_blank_keeps_signature_docstring_and_all_else():
    source = (make.ROOT / "ddpm.py").read_text()
    cut = make.blank(source, "DDPM.q_sample", EXERCISES[2])
    old, new = source.splitlines(), cut.splitlines()
    assert [line for line in new if line not in old] == [
        '        raise NotImplementedError("Exercise 2: Noising in one jump")']
    gone = [line for line in old if line not in new]
    assert gone and all("sqrt" in line for line in gone)
    assert make.replace_body("def f():\n    return 1\n", "f", "return 2\n") == \
        "def f():\n    return 2\n"
    with pytest.raises(ValueError, match="no DDPM.nothing"):
        make.blank(source, "DDPM.nothing", EXERCISES[2])


def test_a_variant_replaces_functions_with_their_decorators_and_adds_others():
    source = "import a\n\n\nclass C:\n    @b\n    def f(self):\n        return 1\n\n    x = 2\n"
    other = "class C:\n    @d\n    def f(self):\n        return 3\n\n\ndef g():\n    return 4\n"
    assert make.override(source, other) == (
        "import a\n\n\nclass C:\n    @d\n    def f(self):\n        return 3\n\n    x = 2\n"
        "\n\ndef g():\n    return 4\n")
    for variant in make.VARIANTS[1:]:
        for path in (make.ROOT / "exercises" / "variants" / str(variant)).rglob("*.py"):
            file = str(path.relative_to(make.ROOT / "exercises" / "variants" / str(variant)))
            assert make.source_of(file, variant) != make.source_of(file)


@contextlib.contextmanager
def without_the_project(folder):
    """Work in a folder as a new process would that has torch already, and nothing of the project.

    No module of the project may get in; those of the folder are gone in the end.
    """
    def below(file, folder):
        return "site-packages" not in file and \
            (resolved(file) + os.sep).startswith(f"{folder}{os.sep}")

    def modules_of(folder):
        return {name: module for name, module in sys.modules.items()
                if below(getattr(module, "__file__", None) or "/", folder)}

    resolved = functools.cache(os.path.realpath)     # there are thousands of modules
    ours, path, here = modules_of(make.ROOT), list(sys.path), os.getcwd()
    for name in ours:
        del sys.modules[name]
    sys.path[:] = [entry for entry in path if not below(entry or here, make.ROOT)]
    os.chdir(folder)
    try:
        yield
        assert not modules_of(make.ROOT)
    finally:
        os.chdir(here)
        sys.path[:] = path
        for name in modules_of(folder.resolve()):
            del sys.modules[name]
        sys.modules.update(ours)


def pytest_in(folder, *argv):
    """Run pytest in a handout.  Returns its exit status and what it said."""
    quick = [part for name in ("cacheprovider", "faulthandler", "threadexception",
                               "unraisableexception") for part in ("-p", f"no:{name}")]
    with without_the_project(folder), contextlib.redirect_stdout(io.StringIO()) as stdout:
        status = pytest.main([*argv, "--assert=plain", *quick])      # or each collects garbage
    return int(status), stdout.getvalue()


def write_answer(folder, name, body):
    """Write the body of a function into a handout, as a student would."""
    file, function = make.locate(name)
    path = folder / f"{file}.py"
    make.write(path, make.replace_body(path.read_text(encoding="utf-8"), function, body))


def points(said):
    """Return {number: points}, and the line of all, of what pytest said in a handout."""
    found = re.findall(r"^ ?(\d+)\. .*?([\d.]+) of \d+ points$", said, re.M)
    return {int(number): float(n) for number, n in found}, re.findall(r"^in all: .*$", said, re.M)


def test_a_handout_stands_alone(tmp_path, capsys):
    hw = tmp_path / "hw1"
    make.main(["--only", "2", "6", "--out", str(hw), "--zip"])
    assert "wrote" in capsys.readouterr().out
    assert {path.name for path in (hw / "checks").iterdir()} == {
        "ex02.py", "ex06.py", "__init__.py", "formula.py", "kit.py", "run.py", "test_checks.py",
        "variant.txt"}                               # and nothing of the grader's
    texts = "\n".join(path.read_text(encoding="utf-8") for path in hw.rglob("*.*")
                      if path.suffix in (".md", ".py"))
    assert "Rubric" not in texts and "their variances add" not in texts
    assert str(make.ROOT) not in texts
    names = zipfile.ZipFile(tmp_path / "hw1.zip").namelist()
    assert "hw1/ddpm.py" in names and "hw1/checks/kit.py" in names
    said = subprocess.run([sys.executable, "-m", "exercises.hint", "2", "2"], cwd=hw,
                          capture_output=True, encoding="utf-8").stdout
    assert "standard deviation" in said and "python -m exercises.hint 2 3" in said
    make.make(make.choose([2], 0), tmp_path / "graded", grader=True)
    assert (tmp_path / "graded" / "checks" / "worker.py").exists()


def test_its_readme_says_how_to_begin_and_what_to_hand_in(tmp_path):
    make.main(["--only", "2", "3", "--out", str(tmp_path / "hw")])
    said = (tmp_path / "hw" / "README.md").read_text(encoding="utf-8")
    install, = re.findall(r"pip install 'torch.*pytorch.org/whl/cpu", said)
    assert install in (make.ROOT / "README.md").read_text(encoding="utf-8")
    assert install.split("'")[1] in (make.ROOT / "requirements.txt").read_text()
    for words in ("https://arxiv.org/abs/2006.11239", "pytest -k 02:", "exercises.hint 2 2\n",
                  "Hand in `ddpm.py` and, with your answers in writing, `ANSWERS.md`.",
                  "two steps of Eq. 2 are one step", "\n\n$$q(x_t \\mid x_0)"):
        assert words in said
    picture, = re.findall(r"!\[.*\]\((.*)\)", said)
    assert (tmp_path / "hw" / picture).read_bytes()[1:4] == b"PNG"


def test_each_question_has_a_place_for_its_answer_which_the_teachers_copy_fills(tmp_path):
    chosen = make.choose([3, 13], 1)
    make.make(chosen, tmp_path / "hw", variant=1)
    make.make(chosen, tmp_path / "key", variant=1, solutions=True)
    for folder, answers in (("hw", ["", ""]), ("key", [each["Answer"] for each in chosen])):
        head, *places = hint.sections((tmp_path / folder / "ANSWERS.md").read_text()).items()
        assert [title for title, _ in places] == ["3. The posterior", "13. The bug hunt"]
        for (_, text), exercise, written in zip(places, chosen, answers, strict=True):
            quoted, _, below = text.partition("Your answer:")
            assert quoted.replace("> ", "").strip() == exercise["Question"]
            assert below.strip() == written


def test_every_exercise_but_the_hunt_has_its_equations_typeset():
    for variant in make.VARIANTS:
        for number, exercise in make.exercises(variant).items():
            text = exercise["Equation"] or ""
            assert (number != 13) == bool(text)
            for line in filter(None, text.replace("$$\n$$", "$$\0$$").split("\0")):
                assert line.startswith("$$") and line.endswith("$$") and line.count("$") == 4
                assert line.count("{") == line.count("}")
                assert len(re.findall(r"\\left\b", line)) == len(re.findall(r"\\right\b", line))
            assert f"\n\n{text.partition(chr(10))[0]}" in make.statement(exercise)
    assert "\\tag{4}" in EXERCISES[2]["Equation"] and "\\tag{14}" in EXERCISES[6]["Equation"]


# What docstrings said that answers a question, until these were moved into the texts.
ANSWERS = ("157", "20,291", "14.2", "optimal for", "subtract the time", "could predict",
           "Euler's method", "have these\nmarginals", "image is gone", "is tiny for every")


@pytest.mark.parametrize("variant", make.VARIANTS)
def test_no_docstring_that_is_handed_out_answers_a_question(tmp_path, variant):
    make.make(make.choose(None, variant), tmp_path / "hw", variant=variant)
    for path in tmp_path.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.parent.name != "checks":             # which hold what is right, in numbers
            assert [words for words in ANSWERS if words in text] == [], path


# ---- pytest in a handout ----

def test_pytest_stops_at_the_first_exercise_that_is_not_done_and_says_what_is_next(tmp_path):
    make.main(["--only", "2", "6", "7", "--out", str(tmp_path / "hw")])
    status, said = pytest_in(tmp_path / "hw")
    assert status == 1 and len(said.strip().splitlines()) < 10
    assert points(said) == ({2: 0}, ["in all: 0 of 90 points; not looked at: 6, 7 (pytest --all)"])
    line = 1 + (tmp_path / "hw" / "ddpm.py").read_text().splitlines().index(
        "    def q_sample(self, x_0, t, eps):")
    assert f"Next: write DDPM.q_sample (ddpm.py, line {line})\n" in said
    assert "python -m exercises.hint 2." in said and "pytest -k 02:" in said
    write_answer(tmp_path / "hw", "ddpm.DDPM.q_sample", SLIP)
    status, said = pytest_in(tmp_path / "hw")
    assert points(said)[0] == {2: 5} and "t 0 returns x 0" not in said    # the only one it passes
    assert "Next: mend ddpm.py" in said and re.search(r"- x t is the jump.*\n.*This is what", said)
    write_answer(tmp_path / "hw", "ddpm.DDPM.q_sample", Q_BODY)
    status, said = pytest_in(tmp_path / "hw", "--seed", "5")
    assert status == 1 and said.startswith(" 2. Noising in one jump: done, 20 of 20 points\n 6. ")
    assert "Next: write DDPM.draw_t" in said and ", then DDPM.loss" in said and "\n 7. " not in said
    _, said = pytest_in(tmp_path / "hw", "-k", "02:")
    assert points(said) == ({2: 20}, ["in all: 20 of 90 points; not looked at: 6, 7 (pytest "
                                      "--all)"]) and "Next" not in said
    _, said = pytest_in(tmp_path / "hw", "--all")
    assert points(said) == ({2: 20, 6: 0, 7: 0}, ["in all: 20 of 90 points"])


def test_when_all_is_done_it_says_what_to_hand_in(tmp_path):
    make.main(["--only", "1", "2", "--out", str(tmp_path / "hw"), "--solutions"])
    status, said = pytest_in(tmp_path / "hw")
    assert status == 0 and points(said) == ({1: 20, 2: 20}, ["in all: 40 of 40 points"])
    assert "All is done. Hand in ddpm.py, schedules.py, and your answers in writing" in said


def test_a_handout_has_the_modules_that_its_exercises_need_and_no_others(tmp_path):
    plumbing = {f"plumbing/{path.name}" for path in (make.ROOT / "plumbing").glob("*.py")}
    core = {"schedules.py", "ddpm.py", "unet.py", "data.py", "train.py", "sample.py"}
    kit = {"papers/__init__.py", "papers/kit/__init__.py", "papers/kit/analytic.py"}
    for only, papers in (([8], set()), ([4], kit), ([8, 10], kit | {
            "papers/variational_bound.py", "papers/kit/chain.py", "papers/kit/program.py"})):
        folder = tmp_path / str(len(only) + only[0])
        make.make(make.choose(only, 0), folder)
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
        assert {file for file in there if not file.startswith(("checks/", "exercises/"))} == {
            *core, *plumbing, *papers, "conftest.py"}
        assert {file for file in there if "/ex" in file and file.startswith("checks")} == {
            f"checks/ex{number:02}.py" for number in only}
    with without_the_project(folder):                # that of the last, the largest
        sys.path.insert(0, str(folder))
        for file in core | plumbing | papers:
            importlib.import_module(file.removesuffix(".py").replace("/", "."))


@pytest.mark.thorough
def test_pytest_in_a_process_of_its_own_says_the_same_of_a_handout(tmp_path):
    make.main(["--only", "1", "2", "3", "--out", str(tmp_path / "hw")])
    done = subprocess.run([sys.executable, "-m", "pytest", "--all"], cwd=tmp_path / "hw",
                          capture_output=True, encoding="utf-8", timeout=600)
    status, said = pytest_in(tmp_path / "hw", "--all")
    assert done.returncode == status == 1 and points(said)[0] == {1: 0, 2: 0, 3: 0}
    assert done.stdout.strip() == said.strip()


@pytest.mark.parametrize("variant", make.VARIANTS)
def test_the_teachers_copy_passes_and_has_answers_and_rubric(tmp_path, variant):
    numbers = [str(number) for number in SHORT]
    make.main(["--only", *numbers, "--out", str(tmp_path / "t"), "--solutions", "--variant",
               str(variant)])
    varied = [f"{number:02}:" for number in (VARIED if variant else SHORT)]
    status, said = pytest_in(tmp_path / "t", "-k", " or ".join(varied))
    assert status == 0, said
    assert said.count(": done, ") == len(varied)
    rubric = (tmp_path / "t" / "RUBRIC.md").read_text(encoding="utf-8")
    assert all(make.exercises(variant)[int(number)]["Answer"] in rubric for number in numbers)


@pytest.mark.parametrize("variant", [0, *(pytest.param(variant, marks=pytest.mark.thorough)
                                         for variant in make.VARIANTS[1:])])
def test_a_handout_of_all_exercises_scores_nothing_yet_and_ends_without_a_traceback(tmp_path,
                                                                                    variant):
    make.main(["--out", str(tmp_path / "all"), "--variant", str(variant)])
    _, said = pytest_in(tmp_path / "all", "--all")
    total = sum(exercise.minutes for exercise in EXERCISES.values())
    assert points(said) == (dict.fromkeys(EXERCISES, 0), [f"in all: 0 of {total} points"])
    assert "Traceback" not in said and "(in your code" not in said
    for path in (tmp_path / "all" / "checks" / "hunt").glob("*.py"):
        assert path.read_text() == (tmp_path / "all" / "exercises" / "hunt" / path.name).read_text()
        assert path.read_text() != hunted(path.stem)


def test_a_program_that_ends_or_cannot_be_read_fails_its_own_checks_only(tmp_path):
    make.main(["--only", "1", "2", "3", "--out", str(tmp_path / "hw"), "--solutions"])
    (tmp_path / "hw" / "schedules.py").write_text("def linear_beta_schedule(:\n")
    path = tmp_path / "hw" / "ddpm.py"
    path.write_text(make.replace_body(path.read_text(), "DDPM.q_sample", "raise SystemExit(0)"))
    _, said = pytest_in(tmp_path / "hw", "--all")
    assert points(said)[0] == {1: 0, 2: 0, 3: 25} and "SyntaxError" in said
    assert "Next: mend line 1 of schedules.py: " in said


def test_hints_come_one_at_a_time(capsys):
    hint.main(["7"])
    first = capsys.readouterr().out
    assert EXERCISES[7]["Hint 1"] in first and EXERCISES[7]["Hint 2"] not in first
    assert "python -m exercises.hint 7 2" in first
    hint.main(["7", "3"])
    assert "More" not in capsys.readouterr().out
    for argv in ([], ["99"], ["7", "4"], ["7", "0"], ["x"], ["7", "1", "1"], ["7", "x"]):
        with pytest.raises(SystemExit, match="hints for the exercises 1, 2"):
            hint.main(argv)


def test_wrong_arguments_end_in_one_line(tmp_path, capsys):
    refused(capsys, ["--only", "99", "--out", tmp_path / "x"], "no exercise 99", main=make.main)
    refused(capsys, ["--variant", "3", "--out", tmp_path / "x"], "variant", main=make.main)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.py").write_text("")
    refused(capsys, ["--out", tmp_path / "full"], "exists already", main=make.main)
    (tmp_path / "nobodys").mkdir()
    (tmp_path / "nobodys" / ".DS_Store").write_text("")
    make.main(["--only", "1", "--out", str(tmp_path / "nobodys")])
    assert (tmp_path / "nobodys" / "schedules.py").exists()
    assert (tmp_path / "full" / "mine.py").exists()


# ---- the notebook ----

def test_a_cell_takes_the_place_of_a_body_and_leaves_decorators_signature_and_docstring():
    source = ("class C:\n    @d\n    def f(self, a, *, b=1):\n        \"\"\"Do.\"\"\"\n"
              "        raise NotImplementedError\n\n    x = 2\n\n\ndef g():\n    return 1\n")
    cell = 'def f(self, a, *, b=7):\n    """Do."""\n    # why\n\n    if a:\n        return b\n'
    new = source.replace("raise NotImplementedError",
                         "# why\n\n        if a:\n            return b")
    assert answer.put(source, "C.f", cell) == new
    assert answer.put(source, "C.f", f"@d\n{cell}") == new
    assert answer.put(source, "C.f", cell.replace("    # why", "# why")) == new
    assert answer.put(source, "g", "def g(): return 'é' * 2") == source.replace(
        "    return 1", "    return 'é' * 2")
    assert answer.put(source, "", "DEFECT = 1\n") == "DEFECT = 1\n"
    for name, cell, words in (
            ("C.f", "def f(self, a, b):\n  return a +", "line 2 of this cell: invalid syntax"),
            ("C.f", "def h(self, a, b):\n  return a", "must hold the function f and nothing else"),
            ("C.f", "import os\ndef f(self, a, b):\n  return a", "and nothing else"),
            ("C.f", "f = 1", "and nothing else"), ("g", "async def g():\n  pass", "nothing else"),
            ("C.f", "def f(self, b):\n  return b", r"f takes \(self, a, b\)"),
            ("C.h", "def h(self):\n  pass", "there is no C.h"), ("", "x = (", "line 1")):
        with pytest.raises(ValueError, match=words):
            answer.put(source, name, cell)


def cells(folder):
    """Return {id: cell} of a handout's notebook."""
    return {cell["id"]: cell for cell in json.loads(
        (folder / "exercises.ipynb").read_text(encoding="utf-8"))["cells"]}


@pytest.mark.parametrize("variant", make.VARIANTS)
def test_the_cells_of_a_notebook_are_the_files_and_those_of_the_key_their_answers(tmp_path, variant,
                                                                                  monkeypatch):
    chosen = make.choose(None, variant)
    for name in ("hw", "key"):
        make.make(chosen, tmp_path / name, name == "key", variant, with_notebook=True)
    monkeypatch.setattr(answer, "ROOT", tmp_path / "hw")
    sources = {(name, file): (tmp_path / name / file).read_bytes() for name in ("hw", "key")
               for exercise in chosen for file in exercise.files}
    for name in ("hw", "key"):                       # those of the key make a key of the handout
        for cell in cells(tmp_path / name).values():
            first, _, rest = "".join(cell["source"]).partition("\n")
            if first.startswith("%%answer "):
                answer.answer(first.removeprefix("%%answer "), rest)
        for _, file in sources:
            assert (tmp_path / "hw" / file).read_bytes() == sources[name, file]
    there = cells(tmp_path / "key")
    for exercise in chosen:
        n = exercise.number
        assert there[f"question-{n}"]["metadata"] == {"question": n}
        assert "".join(there[f"question-{n}"]["source"]).endswith(
            f"\n\nYour answer:\n\n{exercise['Answer']}\n")
        assert make.statement(exercise) in "".join(there[f"exercise-{n}"]["source"])
        assert there[f"check-{n}"]["source"] == [f"%check {n}"]


def test_a_refused_cell_changes_nothing_and_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    make.main(["--only", "2", "--out", str(tmp_path / "hw")])
    monkeypatch.setattr(answer, "ROOT", tmp_path / "hw")
    before = (tmp_path / "hw" / "ddpm.py").read_bytes()
    capsys.readouterr()
    for name in ("ddpm.DDPM.q_sample", "ddpm.DDPM.q_simple", "nothing.q_sample"):
        answer.answer(name, "def q_sample(self, x_0, t, eps:\n    return x_0\n")
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and "was NOT written" in said.err
    assert (tmp_path / "hw" / "ddpm.py").read_bytes() == before


@pytest.mark.thorough
@pytest.mark.parametrize("variant, right", [(0, True), (0, False), (1, True), (2, True)])
def test_a_notebook_runs_whole_in_jupyter_and_draws_digits(tmp_path, variant, right):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    chosen = make.choose([1, 2, 6, 7] if variant else [1, 2, 3], variant)
    make.make(chosen, tmp_path / "hw", variant=variant, with_notebook=True)
    make.make(chosen, tmp_path / "key", True, variant, with_notebook=True)
    book = nbformat.read(tmp_path / ("key" if right else "hw") / "exercises.ipynb", 4)
    nbformat.validate(book)
    book.cells[-1].source = book.cells[-1].source.replace("(16, 1, 16", "(4, 1, 16")     # seconds
    if not right:                                    # a cell that is no Python, a slip, a blank
        by_id = {cell.id: cell for cell in book.cells}
        by_id["answer-schedules-linear_beta_schedule"].source += " +"
        cell = by_id["answer-ddpm-DDPM-q_sample"]
        first, _, rest = cell.source.partition("\n")
        cell.source = f"{first}\n" + make.replace_body(rest, "q_sample", SLIP)
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {
        "path": str(tmp_path / "hw")}}).execute()    # raises where a cell ends in a traceback
    out = {cell.id: cell.outputs for cell in book.cells if cell.cell_type == "code"}
    said = {name: "".join(each.get("text", "") for each in outputs)
            for name, outputs in out.items()}
    assert "Traceback" not in str(said)
    minutes = sum(exercise.minutes for exercise in chosen)
    shown = [each.data["image/png"] for each in out["draw"] if "data" in each]
    if right:
        assert f"in all: {minutes} of {minutes} points" in said["check"] and len(shown[0]) > 1000
    else:
        assert "was NOT written: line" in said["answer-schedules-linear_beta_schedule"]
        assert "This is what you get" in " ".join(said["check-2"].split())
        assert "1 of 4 checks, 5 of 20 points" in said["check-2"]
        assert "Next: write DDPM.posterior_mean" in said["check-3"]
        assert not shown and "no picture yet: NotImplementedError: Exercise 1" in said["draw"]
