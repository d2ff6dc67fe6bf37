"""The device that is taken, the precision that is fast there, and memory that is kept."""
import itertools
import math
import platform
from unittest.mock import Mock, call

import pytest
import torch

from plumbing import device
from plumbing.device import autocast, bf16_gain, pick_device, pick_precision


CPU = torch.device("cpu")


@pytest.mark.parametrize("bf16, float32", [(1.0, 4.0), (4.0, 1.0)])
def test_a_cpu_is_measured_by_the_time_it_worked_and_not_while_it_warms_up(monkeypatch, bf16,
                                                                           float32):
    """By a clock that only convolutions move; and all else that takes time is others' work."""
    now, calls, convolution = [0.0], itertools.count(), torch.nn.functional.conv2d

    def conv2d(*args, **options):
        assert torch.get_num_threads() == 1
        warm = 1 if next(calls) > 1 else 50
        now[0] += warm * (bf16 if torch.is_autocast_enabled("cpu") else float32) / 100
        return convolution(*args, **options)

    monkeypatch.setattr(device.F, "conv2d", conv2d)
    monkeypatch.setattr(device.time, "thread_time", lambda: now[0])
    assert bf16_gain.__wrapped__(CPU) == pytest.approx(float32 / bf16)
    assert next(calls) >= 8


def test_to_measure_changes_nothing_else(monkeypatch):
    noise = torch.get_rng_state()
    monkeypatch.setattr(torch, "set_num_threads", threads := Mock())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert 0 < bf16_gain.__wrapped__(CPU) < 1000
        assert not torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), noise)
    assert threads.call_args_list == [call(1), call(torch.get_num_threads())]


def test_of_a_gpu_its_generation_says_it(monkeypatch):
    for capability in ((7, 5), (8, 0), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        gain = bf16_gain.__wrapped__(torch.device("cuda"))
        assert gain == (math.inf if capability >= (8, 0) else 0)
        monkeypatch.setattr(device, "bf16_gain", lambda device, gain=gain: gain)
        assert pick_precision("auto", torch.device("cuda")) == ("bf16" if gain else "float32", "")
    assert bf16_gain.__wrapped__(torch.device("mps")) == 0


@pytest.mark.parametrize("gain, before, picked, says", [
    (1.6, None, "bf16", "bf16 is 1.6 times as fast as float32"), (1.05, None, "float32", "1.1"),
    (0.5, None, "float32", "0.5"), (0.08, None, "float32", "0.08"),
    (0.6, "bf16", "bf16", "0.6"), (0.08, "bf16", "float32", "0.08 times as fast as float32), no"),
    (1.6, "float32", "float32", "1.6"), (3.0, "float32", "bf16", "no longer float32"),
    (1.6, "bf16", "bf16", "1.6"), (0.5, "float32", "float32", "0.5")])
def test_bf16_is_taken_where_it_clearly_wins_and_a_run_keeps_what_it_was_in_unless_that_is_slow(
        monkeypatch, gain, before, picked, says):
    monkeypatch.setattr(device, "bf16_gain", lambda device: gain)
    precision, why = pick_precision("auto", CPU, before)
    assert precision == picked and says in why
    assert ("no longer" in why) == (before not in (None, picked))
    for name in ("bf16", "float32"):                 # who names one gets it
        assert pick_precision(name, CPU, before) == (name, "")


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_what_is_picked_is_what_a_network_runs_in(monkeypatch, gain):
    monkeypatch.setattr(device, "bf16_gain", lambda device: gain)
    for name, bf16 in (("auto", gain > 1), ("bf16", True), ("float32", False)):
        with autocast(CPU, name):
            dtype = torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype
        assert dtype == (torch.bfloat16 if bf16 else torch.float32)


@pytest.mark.parametrize("cuda, mps, name", [(True, True, "cuda"), (False, True, "mps"),
                                              (False, False, "cpu")])
def test_the_first_device_there_is_is_taken(monkeypatch, cuda, mps, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "zeros", lambda *args, **kwargs: None)
    assert pick_device() == torch.device(name)
    assert pick_device("cpu") == torch.device("cpu")
    for other in ("meta", "xpu"):
        with pytest.raises(ValueError, match="no device"):
            pick_device(other)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_on_a_cpu_freed_memory_is_kept_for_the_next_step():
    import resource
    pick_device("cpu")
    faults = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(9_000_000)                        # 8,800 pages, and more than 32 MB
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults[5:]) < 1000                    # other threads may have some of their own


def test_where_the_c_library_has_no_mallopt_nothing_happens(monkeypatch):
    for error in (AttributeError, OSError, TypeError):          # musl and macOS, none, Windows
        def broken(name, error=error):
            raise error
        monkeypatch.setattr(device.ctypes, "CDLL", broken)
        assert pick_device("cpu") == torch.device("cpu")
