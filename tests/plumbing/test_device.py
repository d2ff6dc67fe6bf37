"""The device that is taken, the precision that is fast there, and memory that is kept."""
import platform

import pytest
import torch

from plumbing import device
from plumbing.device import autocast, fast_bf16, pick_device


def test_bf16_is_used_where_it_is_fast_and_float32_elsewhere(monkeypatch):
    cpu = torch.device("cpu")
    for flags, fast in (("sse avx512_bf16", True), ("amx_bf16", True), ("avx512f avx2", False)):
        monkeypatch.setattr(device.Path, "read_text", lambda self, flags=flags: flags)
        assert fast_bf16(cpu) is fast
        assert not fast_bf16(torch.device("mps"))
        with autocast(cpu):
            y = torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2))
        assert y.dtype == (torch.bfloat16 if fast else torch.float32)
    monkeypatch.setattr(device.Path, "read_text", lambda self: exec("raise OSError"))
    assert fast_bf16(cpu) is False
    for precision, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        with autocast(cpu, precision):
            assert (torch.ones(1, 2) @ torch.ones(2, 2)).dtype == dtype
    for capability in ((7, 5), (8, 0), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert fast_bf16(torch.device("cuda")) is (capability >= (8, 0))


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
