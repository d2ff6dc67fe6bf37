"""README, and those of the rooms, against the code: what they name is there."""
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READMES = {path: path.read_text(encoding="utf-8") for path in (
    ROOT / "README.md", *(ROOT / room / "README.md" for room in (
        "papers", "plumbing", "exercises", "benchmarks", "reading")))}
README = READMES[ROOT / "README.md"]


@pytest.mark.parametrize("path", READMES, ids=[path.parent.name for path in READMES])
def test_pictures_files_and_programs_that_a_readme_names_are_there(path):
    text = READMES[path]
    for link in re.findall(r"]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", text):
        assert (ROOT / name).is_file() or (path.parent / name).is_file(), name
    for module in re.findall(r"python -m ((?:papers|benchmarks|exercises|reading)[\w.]+)", text):
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
