"""A dataclass that is a command line: every field a flag, checked, kept and resumed.

    @dataclass
    class Config:
        steps: int = arg(3200, "optimizer steps", least=1)

        def __post_init__(self):
            check(self)
"""
import argparse
import reprlib
import textwrap
import warnings
from dataclasses import field, fields, replace
from pathlib import Path

from plumbing.cli import Parser

KINDS = {float: (float, int), tuple: (tuple, list)}              # what may stand for a type


def arg(default, help, least=None, above=None, below=None, choices=()):
    """Return a field of such a dataclass: its default, its line of --help, and what it may be."""
    return field(default=default, metadata={"help": help, "least": least, "above": above,
                                            "below": below, "choices": choices})


def refuse(name, why):
    raise ValueError(f"--{name.replace('_', '-')} {why}")


def check(config):
    """Check every field by its type and bounds; a tuple is one of integers, and may be a list.

    Raises:
        ValueError: in terms of the flag, for a value that cannot work.
    """
    for f in fields(config):
        value, kind, may = getattr(config, f.name), KINDS.get(f.type, (f.type,)), f.metadata
        whole = f.type is not tuple or type(value) in kind and {*map(type, value)} <= {int}
        if type(value) not in kind or not whole:
            refuse(f.name, f"must be of type {f.type.__name__}, not {reprlib.repr(value)}")
        for right, good in (
                (f"must be given: {may['help']}", value != "" or not may["least"]),
                (f"must be at least {may['least']}",
                 may["least"] is None or f.type is str or value >= may["least"]),
                (f"must be above {may['above']}", may["above"] is None or value > may["above"]),
                (f"must be below {may['below']}", may["below"] is None or value < may["below"]),
                (f"must be {' or '.join(map(str, may['choices']))}",
                 not may["choices"] or value in may["choices"])):
            if not good:
                refuse(f.name, f"{right}, not {value!r}")
        if f.type is tuple:
            setattr(config, f.name, tuple(value))


def check_fixed(names, stored, asked):
    """Refuse to change what would make another run of it; stored and asked are dicts of values.

    Raises:
        ValueError: a name has another value in asked than in stored.
    """
    for name in names:
        if name in stored and name in asked and show(stored[name]) != show(asked[name]):
            refuse(name, f"is {show(stored[name])} in this run; it cannot change on the way")


def choose(presets, name):
    """Return the preset of this name; raise a ValueError that names those there are."""
    if name not in presets:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(presets)}")
    return presets[name]


def parse(argv, kind, presets, fixed, doc, load):
    """Turn a command line into (config, resume).

    Args:
        argv: list of strings; None takes those that the program was started with.
        kind: a dataclass as above; its field `out` names the folder of the run.
        presets: {name: {field: value}}; the first is the default.
        fixed: names of fields that cannot change when a run goes on.
        doc: what --help shows above the flags.
        load: called as load(path), returns the config of a checkpoint, a dict, and more.

    Returns:
        kind of the flags, or with --resume of the run that goes on, with what the flags change; and
        whether it was --resume.

    Raises:
        ValueError: there is no such preset, a value cannot work, or there is nothing to resume.
    """
    lines = [textwrap.fill(f"{name}: " + " ".join(["the defaults"] * (not preset) + [
        f"--{k.replace('_', '-')} {'' if v is True else show(v) or 'DIR'}".strip()
        for k, v in preset.items() if v is not False]), width=78, subsequent_indent="    ",
        break_on_hyphens=False) for name, preset in presets.items()]
    parser = Parser(doc, "A preset stands for these flags:\n\n" + "\n".join(lines))
    first = next(iter(presets))
    parser.add_argument("preset", nargs="?", help=f"{', '.join(presets)} ({first})")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    for f in fields(kind):
        typed = {bool: {"action": argparse.BooleanOptionalAction},
                 tuple: {"type": integers, "metavar": "N,N,..."}}
        default, choices = show(presets[first].get(f.name, f.default)), f.metadata["choices"]
        says = f.metadata["help"] + (choices and ": " + " or ".join(map(str, choices)) or "")
        parser.add_argument(f"--{f.name.replace('_', '-')}", default=argparse.SUPPRESS,
                            help=f"{says} ({default})",
                            **typed.get(f.type, {"type": f.type, "metavar": f.type.__name__}))
    flags, unknown = parser.parse_known_args(argv)
    flags = vars(flags)
    preset, resume = flags.pop("preset"), flags.pop("resume")
    if unknown:                                      # before their values are taken for the preset
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    chosen = choose(presets, preset or first)
    if not resume:
        return kind(**{**chosen, **flags}), False
    path = Path(flags.get("out", chosen.get("out", kind.out)), "checkpoint.pt")
    if not path.exists():
        raise ValueError(f"nothing to resume: there is no {path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")              # whoever trains it builds it, and is warned
        config = load(path)[0]
    check_fixed(fixed, config, flags)                # before what else it would be wrong for
    try:
        stored = kind(**config)
    except TypeError as error:
        raise ValueError(f"{path} was made by another version of train.py: {error}") from error
    if preset and chosen.get("data", kind.data):
        flags.setdefault("data", chosen.get("data", kind.data))
    return replace(stored, **{"out": str(path.parent), **flags}), True


def integers(text):
    """Parse "1,2,2" into (1, 2, 2), and "" into ()."""
    return tuple(int(part) for part in text.split(",") if part)


def show(value):
    """Write a value as its flag takes it."""
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else value
