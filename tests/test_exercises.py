"""The classroom: handouts, and checks that tell right answers from wrong ones, by name."""
import json
import re
import subprocess
import sys
import zipfile

import pytest
import torch
from answers import (Q_BODY, RIGHT, RIGHT_IN_VARIANT, WRONG, WRONG_IN_VARIANT, answer, failures,
                     hunted)
from PIL import Image
from test_train import refused

from exercises import hint, make, plane
from exercises.checks import run
from exercises.hunt import defects

EXERCISES = make.exercises()
LONG = 9                                             # it trains a network
EVERY = [(number, variant) for variant in make.VARIANTS for number in EXERCISES if number != LONG]


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


@pytest.mark.parametrize("number, bodies", RIGHT)
def test_right_answers_written_otherwise_are_accepted(number, bodies):
    assert failures(number, bodies) == {}


@pytest.mark.parametrize("variant, number, bodies", RIGHT_IN_VARIANT)
def test_right_answers_to_a_variant_are_accepted(variant, number, bodies):
    assert failures(number, bodies, variant) == {}


@pytest.mark.parametrize("number, function, body, words", WRONG)
def test_mistakes_are_rejected_and_named(number, function, body, words):
    said = failures(number, {function: body})
    assert any(words in text for text in said.values()), said


@pytest.mark.parametrize("variant, number, function, body, words", WRONG_IN_VARIANT)
def test_mistakes_in_a_variant_are_rejected_and_named(variant, number, function, body, words):
    said = failures(number, {function: body}, variant)
    assert any(words in text for text in said.values()), said


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
    for seed in (1, 2, 17, 123456):
        assert failures(number, (), variant, seed) == {}


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


def pytest_in(folder, *argv):
    return subprocess.run([sys.executable, "-m", "pytest", *argv], cwd=folder, capture_output=True,
                          text=True, timeout=240)


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
    done = pytest_in(hw, "--json", "results.json")
    assert done.returncode == 1 and "in all: 0 of 9" in done.stdout
    assert "NotImplementedError" not in done.stdout and "Exercise 2: Noising in" in done.stdout
    source = (hw / "ddpm.py").read_text()
    (hw / "ddpm.py").write_text(make.replace_body(source, "DDPM.q_sample", Q_BODY))
    done = pytest_in(hw, "--json", "results.json", "--seed", "5")
    assert "exercise  2: 4 of 4 checks pass" in done.stdout and "in all: 4 of 9" in done.stdout
    results = json.loads((hw / "results.json").read_text())
    assert results["score"] == 4 and len(results["tests"]) == 9
    assert results["tests"][0]["max_score"] == 1 and "Exercise 6" in results["tests"][8]["output"]
    said = subprocess.run([sys.executable, "-m", "exercises.hint", "2", "2"], cwd=hw,
                          capture_output=True, text=True).stdout
    assert "standard deviation" in said and "python -m exercises.hint 2 3" in said


@pytest.mark.parametrize("variant", make.VARIANTS)
def test_the_teachers_copy_passes_and_has_answers_and_rubric(tmp_path, variant):
    numbers = [str(number) for number in EXERCISES if number != LONG]
    make.main(["--only", *numbers, "--out", str(tmp_path / "t"), "--solutions", "--variant",
               str(variant)])
    done = pytest_in(tmp_path / "t")
    assert done.returncode == 0, done.stdout
    rubric = (tmp_path / "t" / "RUBRIC.md").read_text(encoding="utf-8")
    assert all(make.exercises(variant)[int(number)]["Answer"] in rubric for number in numbers)


@pytest.mark.parametrize("variant", make.VARIANTS)
def test_a_handout_of_all_exercises_scores_nothing_yet_and_ends_without_a_traceback(tmp_path,
                                                                                    variant):
    make.main(["--out", str(tmp_path / "all"), "--variant", str(variant)])
    done = pytest_in(tmp_path / "all")
    assert re.search(r"^in all: 0 of \d+$", done.stdout, re.M), done.stdout
    assert "Traceback" not in done.stdout and "(in your code" not in done.stdout
    for path in (tmp_path / "all" / "checks" / "hunt").glob("*.py"):
        assert path.read_text() == (tmp_path / "all" / "exercises" / "hunt" / path.name).read_text()
        assert path.read_text() != hunted(path.stem)


def test_a_program_that_ends_or_cannot_be_read_fails_its_own_checks_only(tmp_path):
    make.main(["--only", "1", "2", "3", "--out", str(tmp_path / "hw"), "--solutions"])
    (tmp_path / "hw" / "schedules.py").write_text("def linear_beta_schedule(:\n")
    path = tmp_path / "hw" / "ddpm.py"
    path.write_text(make.replace_body(path.read_text(), "DDPM.q_sample", "raise SystemExit(0)"))
    done = pytest_in(tmp_path / "hw")
    assert "exercise  1: 0 of 5" in done.stdout and "SyntaxError" in done.stdout
    assert "exercise  2: 0 of 4" in done.stdout and "exercise  3: 3 of 3" in done.stdout


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


def test_the_plane_draws_its_picture(tmp_path, capsys):
    plane.main(["--steps", "2", "--out", str(tmp_path / "plane.png")])
    assert "wrote" in capsys.readouterr().out
    assert Image.open(tmp_path / "plane.png").size[0] > 500
    refused(capsys, ["--out", tmp_path / "plane.txt"], ".png", main=plane.main)
    x = plane.moons(2000, torch.Generator().manual_seed(0))
    assert x.shape == (2000, 2) and x.abs().max() <= 1


def test_wrong_arguments_end_in_one_line(tmp_path, capsys):
    refused(capsys, ["--only", "99", "--out", tmp_path / "x"], "no exercise 99", main=make.main)
    refused(capsys, ["--variant", "3", "--out", tmp_path / "x"], "variant", main=make.main)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.py").write_text("")
    refused(capsys, ["--out", tmp_path / "full"], "exists already", main=make.main)
    assert (tmp_path / "full" / "mine.py").exists()
