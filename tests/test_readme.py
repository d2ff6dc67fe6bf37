"""README, and those of the rooms, against the code: what they name is there."""
import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READMES = {path: path.read_text(encoding="utf-8") for path in (
    ROOT / "README.md", *(ROOT / room / "README.md" for room in (
        "papers", "plumbing", "exercises", "benchmarks", "reading")))}
README, MAP = READMES[ROOT / "README.md"], READMES[ROOT / "reading" / "README.md"]
ROWS = [re.split(r"(?<!\\)\|", line)[1:-1]                        # at each | that is not \\|
        for line in MAP.splitlines() if line.startswith("| ")][1:]


def numbers(text):
    """Every equation that a text names: "Eq. 6, 7" and "Eq. 17 to 22" as well as "Eq. 4"."""
    found = set()
    for group in re.findall(r"Eq\.\s+(\d+(?:(?:,\s+|\s+and\s+|-|\s+to\s+)\d+)*)", text):
        for first, last in re.findall(r"(\d+)(?:(?:-|\s+to\s+)(\d+))?", group):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def test_the_map_has_every_equation_and_algorithm_of_the_paper_once():
    listed = [n for row in ROWS for n in sorted(numbers(row[0]))]
    assert listed == list(range(1, 27))
    assert [row[0].strip() for row in ROWS if "Algorithm" in row[0]] == [
        f"Algorithm {i}" for i in range(1, 5)]


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip() for row in ROWS])
def test_a_row_names_code_that_is_there_and_says_so_and_a_test_that_is_there(row):
    paper, _, code, tests = row
    names = re.findall(r"`([\w.]+)`", code)
    assert names and re.findall(r"`([\w.]+)`", tests)
    source = ""
    for name in names:
        parts = name.split(".")
        depth = 1
        while (ROOT / "/".join(parts[:depth])).is_dir():
            depth += 1
        value = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            value = getattr(value, part)
        source += inspect.getsource(value)
    assert numbers(paper) <= numbers(source), f"{code} does not say so"
    if "Algorithm" in paper:
        assert paper.strip() in source, f"{code} does not say so"
    for name in re.findall(r"`([\w.]+)`", tests):
        *file, function = name.split(".")
        path = (ROOT / "tests").joinpath(*file).with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_a_row_that_names_something_that_is_not_there_would_be_noticed():
    good = ["Eq. 4", "", "`ddpm.DDPM.q_sample`", "`test_ddpm.test_iterating_eq_2_gives_eq_4`"]
    check = test_a_row_names_code_that_is_there_and_says_so_and_a_test_that_is_there
    check(good)
    for column, bad in ((2, "`ddpm.DDPM.q_simple`"), (2, "`dppm.DDPM`"), (2, "q"), (0, "Eq. 15"),
                        (3, "`test_ddpm.test_nothing`"), (3, "`test_dppm.test_it`"), (3, ""),
                        (0, "Algorithm 3")):
        with pytest.raises((AssertionError, AttributeError, ImportError, OSError)):
            check([bad if i == column else cell for i, cell in enumerate(good)])


@pytest.mark.parametrize("path", READMES, ids=[path.parent.name for path in READMES])
def test_pictures_files_and_programs_that_a_readme_names_are_there(path):
    text = READMES[path]
    for link in re.findall(r"]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", text):
        assert (ROOT / name).is_file() or (path.parent / name).is_file(), name
    for module in re.findall(r"python -m ((?:papers|benchmarks|exercises)[\w.]+)", text):
        module = module.rstrip(".").removesuffix(".NAME")
        if module != "papers":
            assert callable(importlib.import_module(module).main), module


def test_the_readme_is_one_page_that_is_read():
    lines = README.splitlines()
    assert len(lines) <= 220 and max(map(len, lines)) <= 120


def test_the_four_lines_that_the_readme_quotes_are_those_of_the_code():
    quoted = README.split("```python\n")[1].split("```")[0].splitlines()
    first, *others = quoted
    train, ddpm = ([line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
                   for name in ("train.py", "ddpm.py"))
    start = ddpm.index(others[0])
    assert len(quoted) == 4 and first in train and ddpm[start:start + 3] == others
