"""Run the checks of an exercise on somebody's modules."""
import importlib
import types

from .kit import Wrong


def names(number):
    """List the checks of an exercise, in order."""
    module = importlib.import_module(f"{__package__}.ex{number:02}")
    return [name for name in vars(module) if name.startswith("check_")]


def student(modules, seed=0):
    """Bundle the modules under check: a dict {name: module}; seed draws the numbers."""
    return types.SimpleNamespace(**modules, seed=seed)


def run(number, name, student):
    """Run one check.

    Returns:
        None if it passes, else what is wrong, in words for the student.
    """
    module = importlib.import_module(f"{__package__}.ex{number:02}")
    try:
        getattr(module, name)(student)
    except (Wrong, NotImplementedError) as error:
        return str(error)
    except Exception as error:                       # of the student's code: anything
        return f"{type(error).__name__}: {error} (in your code, while {said(name)})"
    return None


def said(name):
    return name.removeprefix("check_").replace("_", " ")
