"""The checks as pytest sees them in a handout: one test for each."""
from pathlib import Path

import pytest

from . import run

HERE = Path(__file__).parent
EXERCISES = sorted(int(path.stem[2:]) for path in HERE.glob("ex[0-9][0-9].py"))
VARIANT, HUNT = run.handed_out(HERE)


@pytest.fixture(scope="session")
def student(request):
    return run.Student(request.config.getoption("seed"), VARIANT, HUNT)


@pytest.mark.parametrize("number, name", [
    pytest.param(number, name, id=f"{number:02}: {run.said(name)}")
    for number in EXERCISES for name in run.names(number, VARIANT)])
def test_exercise(number, name, student):
    wrong = run.run(number, name, student)
    if wrong:
        pytest.fail(wrong, pytrace=False)
