"""The checks as pytest sees them in a handout: one test for each, and a score for each exercise."""
import importlib
from pathlib import Path

import pytest

from . import run

EXERCISES = sorted(int(path.stem[2:]) for path in Path(__file__).parent.glob("ex[0-9][0-9].py"))
MODULES = ("schedules", "ddpm", "unet", "train", "papers.variational_bound", "papers.experiments")


@pytest.fixture(scope="session")
def student(request):
    modules = {name.split(".")[-1]: importlib.import_module(name) for name in MODULES
               if Path(request.config.rootpath, *name.split(".")).with_suffix(".py").exists()}
    return run.student(modules, request.config.getoption("seed"))


@pytest.mark.parametrize("number, name", [
    pytest.param(number, name, id=f"{number}: {run.said(name)}")
    for number in EXERCISES for name in run.names(number)])
def test_exercise(number, name, student):
    wrong = run.run(number, name, student)
    if wrong:
        pytest.fail(wrong, pytrace=False)
