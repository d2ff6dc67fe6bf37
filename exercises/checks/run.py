"""Run the checks of an exercise on somebody's modules."""
import importlib
import inspect
import os
import traceback

import torch

from .kit import Raised, Wrong, plain

PLACES = {"schedules": "schedules", "ddpm": "ddpm", "unet": "unet", "train": "train",
          "run": "plumbing.run", "analytic": "papers.kit.analytic", "plane": "papers.kit.plane",
          "experiments": "papers.experiments", "variational_bound": "papers.variational_bound",
          "ddim": "papers.ddim", "guidance": "papers.classifier_free_guidance"}
UNWRITTEN = "not written yet"


class Student:
    """The modules under check, each imported when a check first asks for it.

    seed draws the numbers, variant says what was asked, given holds the files of the bug hunt as
    they were handed out, {name: source}; kept is for the checks.
    """

    def __init__(self, seed=0, variant=0, given=(), modules=()):
        self.seed, self.variant, self.given, self.kept = seed, variant, dict(given), {}
        vars(self).update(modules)

    def __getattr__(self, name):
        if name not in PLACES and name not in self.given:
            raise AttributeError(name)
        return importlib.import_module(PLACES.get(name, f"exercises.hunt.{name}"))

    def ask(self, probe, args):
        """Run the student's half of a check, see `kit.theirs`, in this process; return data.

        Raises:
            Wrong, Raised
        """
        before = [each.clone() if isinstance(each, torch.Tensor) else each for each in args]
        torch.manual_seed(self.seed)
        try:
            got = plain(probe(self, *args))
        except (Wrong, Raised):
            raise
        except (Exception, SystemExit) as error:     # of the student's code: anything
            kinds = [each.__name__ for each in type(error).__mro__]
            raise Raised(kinds, error, place(error)) from None
        for name, was, now in zip([*inspect.signature(probe).parameters][1:], before, args,
                                  strict=True):
            if isinstance(was, torch.Tensor) and not torch.equal(was, now):
                raise Wrong(f"{name} was changed in place. Compute a new tensor: what a function "
                            "is given belongs to whoever gave it.")
        return got


def names(number, variant=0):
    """List the checks of an exercise, in order; `kit.only` leaves some to one variant."""
    return [name for name, check in vars(checks(number)).items() if name.startswith("check_")
            and variant in getattr(check, "variants", (variant,))]


def checks(number):
    return importlib.import_module(f"{__package__}.ex{number:02}")


def run(number, name, student):
    """Run one check.

    Where an exercise is a LADDER and one of its checks fails, those above it have the first word:
    they say why.

    Returns:
        None if it passes, else what is wrong, in words for the student.
    """
    there, every = checks(number), names(number, student.variant)
    wrong = failure(getattr(there, name), student)
    above = every[:every.index(name)] if wrong and hasattr(there, "LADDER") else ()
    earlier = (failure(getattr(there, each), student) for each in above)
    return next((text for text in earlier if text and not text.startswith(UNWRITTEN)), wrong)


def failure(check, student):
    """Return what a check says of a student, if it fails."""
    try:
        check(student)
    except Wrong as error:
        return str(error)
    except Raised as error:
        return f"{UNWRITTEN}: {error.text}" if error.kinds[0] == "NotImplementedError" \
            else str(error)
    except Exception as error:                       # of the check, by what nobody thought of
        return f"what your code returned cannot be checked: {type(error).__name__}: {error}"
    return None


def score(minutes, passed, checks):
    """Return the points of an exercise: as many as its minutes, in the share of passed checks.

    If no check could be run it is "".
    """
    if not checks:
        return ""
    points = round(minutes * passed / checks, 1)
    return int(points) if points == int(points) else points


def place(error):
    """Say where in the student's code an error came up, or that it did in the check."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"in {os.path.basename(error.filename)}, line {error.lineno}"
    others = "site-packages", "<frozen", f"{os.sep}lib{os.sep}python", f"{os.sep}checks{os.sep}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__)
           if not any(part in frame.filename for part in others)]
    return (f"in your code, {os.path.basename(own[-1].filename)}, line {own[-1].lineno}" if own else
            "when the check called it")


def said(name):
    return name.removeprefix("check_").replace("_", " ")


def handed_out(folder):
    """Read what a handout's checks/ folder says of it: its variant, and the files of the hunt."""
    hunt = {path.stem: path.read_text(encoding="utf-8") for path in (folder / "hunt").glob("*.py")}
    return int((folder / "variant.txt").read_text()), hunt
