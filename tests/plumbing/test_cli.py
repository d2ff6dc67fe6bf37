"""What a program says: errors of one line, progress, and nothing at Ctrl-C."""
import itertools
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import train
from ddpm import DDPM
from plumbing import cli
from plumbing.cli import clock, one_line_errors, track

ROOT = Path(train.__file__).parent


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_is_one_line_and_other_errors_are_not_hidden(capsys, error):
    with pytest.raises(SystemExit, match="out of memory; smaller images"):
        with one_line_errors("sample.py"):
            raise error
    with pytest.raises(RuntimeError, match="size mismatch"), one_line_errors("sample.py"):
        raise RuntimeError("size mismatch")


def test_warnings_are_one_line(capsys):
    with one_line_errors("sample.py"), pytest.warns(UserWarning) as caught:
        DDPM([0.1])
    import warnings
    assert warnings.formatwarning(caught[0].message, UserWarning, "f", 1).startswith(
        "sample.py: warning: alpha_bar_T")


def test_a_compiler_that_fails_is_one_line_that_says_what_to_do():
    def broken(graph, inputs):
        raise RuntimeError("no triton")

    said = "train.py: torch.compile fails here, --no-compile does without: .*no triton"
    with pytest.raises(SystemExit, match=said), one_line_errors("train.py"):
        torch.compile(torch.nn.Linear(1, 1), backend=broken)(torch.ones(1, 1))


def test_track_reports_rate_and_time_left(monkeypatch, capsys):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(cli, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    assert list(track(iter("abcd"), "reading", 4)) == list("abcd")
    lines = capsys.readouterr().err.splitlines()                # not a terminal: a line each 15 s
    assert lines == ["reading: 2/4, 0.1/s, 0:00:20 left  ", "reading: 4/4, 0.1/s, 0:00:00 left  "]


def test_track_writes_a_high_rate_without_an_exponent(monkeypatch, capsys):
    now = itertools.chain([0.0], itertools.repeat(1.0, 30_599), itertools.repeat(20.0))
    monkeypatch.setattr(cli, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    assert list(track(range(30_600), "drawing"))[-1] == 30_599
    assert capsys.readouterr().err == "drawing: 30600/30600, 1530/s, 0:00:00 left  \n"


def test_track_rewrites_one_line_on_a_terminal(monkeypatch, capsys):
    now = iter([0.0, 0.1, 0.3, 0.35])
    monkeypatch.setattr(cli, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track([1, 2, 3], "reading")) == [1, 2, 3]
    shown = capsys.readouterr().err
    assert shown.count("\r") == 1 and shown.count("\n") == 1
    assert "3/3" in shown and "1/3" not in shown


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3600 * 27 + 62)] == ["0:00:00", "0:01:00", "27:01:02"]


@pytest.mark.thorough
@pytest.mark.parametrize("program", [["train.py"], ["sample.py"], ["-m", "papers.ddim"]])
@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.4, 0.8, 1.2])
def test_ctrl_c_while_modules_are_imported_prints_no_traceback(program, seconds, tmp_path):
    process = subprocess.Popen([sys.executable, *program, "--help"], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert said == "" and process.returncode in (0, 130, -signal.SIGINT)
