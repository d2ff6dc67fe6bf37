"""The classroom: handouts, and checks that tell right answers from wrong ones, by name."""
import contextlib
import functools
import importlib
import io
import json
import os
import re
import subprocess
import sys
import types
import zipfile

import pytest
import torch
import tried_ca
from answers import (LOSS, Q_BODY, RIGHT, RIGHT_IN_VARIANT, TIMES, WRONG, WRONG_IN_VARIANT, answer,
                     failures, hunted, missed)
from stand_ins import refused
from torch.utils._python_dispatch import TorchDispatchMode

from exercises import hint, make
from exercises.checks import ex09, run
from exercises.hunt import defects

for tried in (tried_ca,):
    RIGHT, WRONG = RIGHT + tried.RIGHT, WRONG + tried.WRONG
    RIGHT_IN_VARIANT = RIGHT_IN_VARIANT + tried.RIGHT_IN_VARIANT
    WRONG_IN_VARIANT = WRONG_IN_VARIANT + tried.WRONG_IN_VARIANT
EXERCISES = make.exercises()
LONG = 9                                             # it trains a network
SHORT = [number for number in EXERCISES if number != LONG]
VARIED = 1, 4, 6, 7, 13                              # other functions are asked for in a variant
EVERY = [(number, 0) for number in SHORT] + [(number, variant) for variant in make.VARIANTS[1:]
                                             for number in VARIED]


@pytest.fixture(scope="module", autouse=True)        # the module's: before every test is seeded
def only_the_cpu_is_seeded():
    """For each of three devices that are not there, torch.manual_seed writes down who called it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        yield


@pytest.mark.parametrize("number, variant", EVERY)
def test_the_projects_own_functions_pass_and_blanks_do_not(number, variant):
    assert failures(number, (), variant) == {}
    exercise = make.exercises(variant)[number]
    if exercise["edit"]:
        return
    blanks = {name: f'raise NotImplementedError("Exercise {number}")' for name in exercise.blanks}
    said = failures(number, blanks, variant)
    assert list(said) == run.names(number, variant)
    assert all(f"Exercise {number}" in text for text in said.values())


@pytest.mark.parametrize("number, bodies", [right for right in RIGHT if right[0] != LONG])
def test_right_answers_written_otherwise_are_accepted(number, bodies):
    assert failures(number, bodies) == {}


@pytest.mark.parametrize("variant, number, bodies", RIGHT_IN_VARIANT)
def test_right_answers_to_a_variant_are_accepted(variant, number, bodies):
    assert failures(number, bodies, variant) == {}


@pytest.mark.parametrize("number, function, body, words", WRONG)
def test_mistakes_are_rejected_and_named(number, function, body, words, monkeypatch):
    monkeypatch.setattr(ex09, "N", 1000)             # a quarter of the points shows them as well
    assert missed(words, number, {function: body}) == []


NOTHING = ("pass", 'raise ValueError("no")', "return {first}", "return {last}",
           "return torch.zeros(4, 2)")


@pytest.mark.parametrize("number, variant", [(number, variant) for number, variant in EVERY
                                             if not EXERCISES[number]["edit"]])
@pytest.mark.parametrize("body", NOTHING)
def test_nothing_earns_nothing(number, variant, body):
    bodies = {}
    for name in make.exercises(variant)[number].blanks:
        file, function = make.locate(name)
        node = make.functions(make.source_of(f"{file}.py", variant))[function]
        names = [arg.arg for arg in node.args.args if arg.arg != "self"] or ["self"]
        bodies[name] = body.format(first=names[0], last=names[-1])
        if "torch" in body:
            bodies[name] = f"import torch\n{bodies[name]}"
    passed = set(run.names(number, variant)) - set(failures(number, bodies, variant))
    assert not passed


@pytest.mark.parametrize("variant", make.VARIANTS)
def test_a_loss_is_not_blamed_for_its_draw_t_nor_a_draw_t_for_its_loss(variant):
    first, *others = run.names(6, variant)
    for name, blamed in ((TIMES, [first]), (LOSS, others)):
        assert list(failures(6, {name: "return torch.zeros(0)"}, variant)) == blamed


@pytest.mark.parametrize("variant, number, function, body, words", WRONG_IN_VARIANT)
def test_mistakes_in_a_variant_are_rejected_and_named(variant, number, function, body, words):
    assert missed(words, number, {function: body}, variant) == []


@pytest.mark.parametrize("file", defects.DEFECTS)
def test_every_defect_of_the_hunt_is_found_by_its_name_and_by_no_other(file):
    mended, named = f"check_{file}_is_mended", f"check_{file}_is_named"
    for variant, (name, _, _) in enumerate(defects.DEFECTS[file]):
        planted, source = defects.plant(file, hunted(file), variant)
        assert planted == name and name in defects.NAMES
        student = answer({f"exercises.hunt.{file}": source}, variant)
        assert run.run(13, mended, student) == (f"{file}.py still has the defect that it was given "
                                                "with")
        assert "DEFECT is empty" in run.run(13, named, student)
        for other in defects.NAMES:
            getattr(student, file).DEFECT = other
            assert (run.run(13, named, student) is None) == (other == name)


@pytest.mark.parametrize("number, variant", EVERY)
def test_right_answers_pass_whatever_the_seed(number, variant):
    for seed in (1, 123456):
        assert failures(number, (), variant, seed) == {}


@pytest.mark.parametrize("seed", range(3))           # of each of its three shapes
def test_exercise_9_accepts_new_draws_of_the_data_and_not_the_best_gaussians(seed, monkeypatch):
    monkeypatch.setattr(ex09, "N", 1000)
    for draw, accepted in ((lambda x, g: ex09.points(len(x), seed, g), True),
                           (ex09.gaussian_like, False)):
        def imitate(ddpm, x, n, draw=draw):
            for _ in range(20):
                ddpm.loss(lambda x_t, t: 0 * x_t, x[:2])
            return draw(x[:n], torch.Generator().manual_seed(200 + seed))

        student = run.Student(seed, modules={"plane": types.SimpleNamespace(imitate=imitate)})
        said = [run.run(LONG, name, student) for name in run.names(LONG)]
        assert said == [None, None] or not accepted and all("A single Gaussian" in text
                                                            for text in said)


@pytest.mark.thorough
@pytest.mark.parametrize("bodies", [{}, *(bodies for number, bodies in RIGHT if number == LONG)])
def test_networks_that_are_trained_in_the_plane_pass_exercise_9(bodies):
    assert failures(LONG, bodies) == {}


@pytest.mark.thorough
def test_right_answers_written_otherwise_pass_whatever_the_seed():
    every = [(0, *right) for right in RIGHT if right[0] != LONG] + RIGHT_IN_VARIANT
    for variant, number, bodies in every + [(variant, number, ()) for number, variant in EVERY]:
        student = answer(bodies, variant)
        for student.seed in range(100, 110):
            student.kept.clear()
            assert not any(run.run(number, name, student) for name in run.names(number, variant))


class OtherProcessor(TorchDispatchMode):
    """Compute as another processor may: sums in another order, and functions by other formulas.

    Every other number that comes of one is a unit in the last place larger; and the deviation of
    equal numbers is not 0, for their mean is rounded.  What IEEE 754 fixes is left as it is.
    """
    DIFFER = {"sum", "mean", "std", "var", "mm", "addmm", "bmm", "convolution", "native_group_norm",
              "exp", "expm1", "log", "log1p", "logsumexp", "sin", "cos", "pow", "sigmoid", "silu",
              "_softmax", "_log_softmax", "special_log_ndtr"}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        got = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        if name not in self.DIFFER:
            return got
        return tuple(self.off(each, name) for each in got) if isinstance(got, tuple) \
            else self.off(got, name)

    def off(self, x, name):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        units = (torch.arange(x.numel(), device=x.device) % 2).reshape(x.shape)
        return x * (1 + units * torch.finfo(x.dtype).eps) + (5e-7 if name in ("std", "var") else 0)


@pytest.mark.thorough
def test_right_answers_pass_on_a_processor_that_rounds_otherwise():
    every = [(0, *right) for right in RIGHT if right[0] != LONG] + RIGHT_IN_VARIANT
    for variant, number, bodies in every + [(variant, number, ()) for number, variant in EVERY]:
        with OtherProcessor():
            assert failures(number, bodies, variant) == {}


def test_every_exercise_has_its_mistakes_right_answers_and_texts():
    for number in EXERCISES:
        assert sum(wrong[0] == number for wrong in WRONG) >= 4
        assert sum(right[0] == number for right in RIGHT) >= 2
        for variant in make.VARIANTS:
            exercise = make.exercises(variant)[number]
            assert exercise.minutes and all(
                exercise[name] for name in ("Task", "Question", "Answer", "Rubric", "Hint 1",
                                            "Hint 2", "Hint 3"))
            assert (exercise["Question"] == EXERCISES[number]["Question"]) == (
                exercise["Answer"] == EXERCISES[number]["Answer"])


# ---- handouts ----

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


def test_a_handout_stands_alone_and_is_scored(tmp_path, capsys):
    hw = tmp_path / "hw1"
    make.main(["--only", "2", "6", "--out", str(hw), "--zip"])
    assert "wrote" in capsys.readouterr().out
    assert sorted(path.name for path in (hw / "checks").glob("ex*.py")) == ["ex02.py", "ex06.py"]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in hw.rglob("*.*")
                      if path.suffix in (".md", ".py"))
    assert "pytest -k 02:" in texts and "exercises.hint 2 2\n" in texts
    assert "Rubric" not in texts and "their variances add" not in texts
    assert str(make.ROOT) not in texts
    assert "two steps of Eq. 2 are one step" in texts           # the written question
    names = zipfile.ZipFile(tmp_path / "hw1.zip").namelist()
    assert "hw1/ddpm.py" in names and "hw1/checks/kit.py" in names
    status, said = pytest_in(hw, "--json", "results.json")
    assert status == 1 and "in all: 0 of 10" in said
    assert "NotImplementedError" not in said and "Exercise 2: Noising in" in said
    source = (hw / "ddpm.py").read_text(encoding="utf-8")
    make.write(hw / "ddpm.py", make.replace_body(source, "DDPM.q_sample", Q_BODY))
    status, said = pytest_in(hw, "--json", "results.json", "--seed", "5")
    assert "exercise  2: 4 of 4 checks pass" in said and "in all: 4 of 10" in said
    results = json.loads((hw / "results.json").read_text())
    assert results["score"] == 4 and len(results["tests"]) == 10
    assert results["tests"][0]["max_score"] == 1 and "Exercise 6" in results["tests"][9]["output"]
    said = subprocess.run([sys.executable, "-m", "exercises.hint", "2", "2"], cwd=hw,
                          capture_output=True, encoding="utf-8").stdout
    assert "standard deviation" in said and "python -m exercises.hint 2 3" in said


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
    done = subprocess.run([sys.executable, "-m", "pytest"], cwd=tmp_path / "hw",
                          capture_output=True, encoding="utf-8", timeout=600)
    status, said = pytest_in(tmp_path / "hw")
    scores = [line for line in done.stdout.splitlines() if line.startswith(("exercise", "in all"))]
    assert done.returncode == status == 1 and len(scores) == 4
    assert scores == [line for line in said.splitlines() if line.startswith(("exercise", "in all"))]


@pytest.mark.parametrize("variant", make.VARIANTS)
def test_the_teachers_copy_passes_and_has_answers_and_rubric(tmp_path, variant):
    numbers = [str(number) for number in SHORT]
    make.main(["--only", *numbers, "--out", str(tmp_path / "t"), "--solutions", "--variant",
               str(variant)])
    varied = [f"{number:02}:" for number in (VARIED if variant else SHORT)]
    status, said = pytest_in(tmp_path / "t", "-k", " or ".join(varied))
    assert status == 0, said
    assert said.count("checks pass") == len(varied)
    rubric = (tmp_path / "t" / "RUBRIC.md").read_text(encoding="utf-8")
    assert all(make.exercises(variant)[int(number)]["Answer"] in rubric for number in numbers)


@pytest.mark.parametrize("variant", [0, *(pytest.param(variant, marks=pytest.mark.thorough)
                                         for variant in make.VARIANTS[1:])])
def test_a_handout_of_all_exercises_scores_nothing_yet_and_ends_without_a_traceback(tmp_path,
                                                                                    variant):
    make.main(["--out", str(tmp_path / "all"), "--variant", str(variant)])
    _, said = pytest_in(tmp_path / "all")
    assert re.search(r"^in all: 0 of \d+$", said, re.M), said
    assert "Traceback" not in said and "(in your code" not in said
    for path in (tmp_path / "all" / "checks" / "hunt").glob("*.py"):
        assert path.read_text() == (tmp_path / "all" / "exercises" / "hunt" / path.name).read_text()
        assert path.read_text() != hunted(path.stem)


def test_a_program_that_ends_or_cannot_be_read_fails_its_own_checks_only(tmp_path):
    make.main(["--only", "1", "2", "3", "--out", str(tmp_path / "hw"), "--solutions"])
    (tmp_path / "hw" / "schedules.py").write_text("def linear_beta_schedule(:\n")
    path = tmp_path / "hw" / "ddpm.py"
    path.write_text(make.replace_body(path.read_text(), "DDPM.q_sample", "raise SystemExit(0)"))
    _, said = pytest_in(tmp_path / "hw")
    assert "exercise  1: 0 of 6" in said and "SyntaxError" in said
    assert "exercise  2: 0 of 4" in said and "exercise  3: 3 of 3" in said


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
