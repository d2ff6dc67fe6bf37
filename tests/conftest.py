"""Small, fast stand-ins that several test files share; and no GPU, for all of them.

A test computes on the CPU what a program that it runs must have computed, and only on one kind of
device are the two the same.  So a GPU is hidden, from this process and from those that it starts;
tests/test_gpu.py asks for it back.
"""
import contextlib
import ctypes
import functools
import gc
import os
import shutil
import types
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)                             # two that wait for a busy core lose far more
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("MPLBACKEND", None)                   # a notebook's, which may have another Python
GPU = torch.cuda.is_available()                      # the last time that somebody is told the truth
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.cuda.is_available = torch.backends.mps.is_available = lambda: False

import data  # noqa: E402                            train.py asks for a GPU when it is imported
from plumbing import device  # noqa: E402
from plumbing.run import Run  # noqa: E402
from stand_ins import Tape  # noqa: E402
from train import Config, train  # noqa: E402

DRAW = data.digits
TINY = {"image_size": 8, "channels": 4, "channel_mults": (1, 2), "attention_resolutions": (4,),
        "T": 5, "schedule": "cosine", "steps": 6, "batch_size": 3, "warmup": 2, "log_every": 2,
        "save_every": 100, "sample_every": 0, "device": "cpu", "precision": "float32"}


def pytest_make_parametrize_id(val, argname):
    """Refuse bytes in the names of tests: gzip's hold the time, and workers have to agree."""
    if isinstance(val, bytes):
        raise ValueError(f"{argname} has bytes for values: give them ids")


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    """Give back what the tests of a file leave behind: networks in cycles, and freed pages."""
    yield
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):           # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def config(tmp_path):
    """Make the Config of a run of a second, in a folder of its own, with some values changed."""
    here = {"out": str(tmp_path / "run"), "data_dir": str(tmp_path / "data")}
    return lambda **changes: Config(**{**TINY, **here, **changes})


@pytest.fixture
def flags(tmp_path):
    """The same run as a command line."""
    def make(*extra):
        values = {**TINY, "out": tmp_path / "run", "data_dir": tmp_path / "data"}
        return [part for name, value in values.items() for part in (
            f"--{name.replace('_', '-')}",
            ",".join(map(str, value)) if isinstance(value, tuple) else str(value))] + list(extra)
    return make


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    c = Config(**{**TINY, "steps": 3, "lr": 0.05, "variance": "beta_tilde", "dropout": 0.5,
                  "out": str(out), "data_dir": str(out.with_name("data"))})
    with pytest.MonkeyPatch.context() as patch:
        original = data.digits
        patch.setattr(data, "digits", lambda size, seed: original(size, 40, seed))
        _, ema = train(c)
    return Path(c.out), ema


@pytest.fixture
def trained(trained_once, config):
    """(path of a checkpoint, its EMA as train returned it); the file is the test's own."""
    shutil.copytree(trained_once[0], config().out)
    return Path(config().out, "checkpoint.pt"), trained_once[1]


@functools.cache
def drawn(image_size=16, n=40, seed=0):
    return DRAW(image_size, n, seed)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """Draw 40 digits instead of 10,000, once for all tests; and seed what a test draws itself."""
    monkeypatch.setattr(data, "digits", lambda *args, **options: tuple(
        part.copy() for part in drawn(*args, **options)))
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_plot(request, monkeypatch):
    """The plot is most of the time of a run this small: only who asks for `plot` gets one."""
    if "plot" not in request.fixturenames:
        monkeypatch.setattr(Run, "plot", lambda run: None)


@pytest.fixture
def plot():
    """Runs draw their loss.png."""


@pytest.fixture
def tapes(monkeypatch):
    """Record on the CPU, with tapes for CUDA graphs; they are put on the list that this is."""
    made, stream = [], types.SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(device, "GRAPHS", ("cpu",))
    for name, stand_in in {
            "CUDAGraph": lambda: made.append(Tape()) or made[-1],
            "graph": lambda graph, pool: graph, "graph_pool_handle": lambda: None,
            "Stream": lambda index: stream, "current_stream": lambda: stream,
            "stream": contextlib.nullcontext, "device": contextlib.nullcontext,
            "current_device": lambda: "tape", "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": lambda mode: None}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return made


@pytest.fixture
def gpu(monkeypatch):
    """The GPU, no longer hidden; the test is skipped where there is none."""
    if not GPU:
        pytest.skip("there is no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if VISIBLE is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)
    torch.cuda.init()
    torch.cuda.device_count()        # kept from now on: asked while it is hidden, it would be 0
    return torch.device("cuda")
