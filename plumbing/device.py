"""Where the arithmetic happens, and in which precision."""
import contextlib
import ctypes
from pathlib import Path

import torch


def pick_device(name="auto"):
    """Return the torch device of that name; "auto" takes cuda, then mps, then cpu.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        name = ("cuda" if torch.cuda.is_available() else
                "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except Exception:                                # each backend has an error of its own
        device = None
    if device is None or device.type not in ("cuda", "mps", "cpu"):
        raise ValueError(f"there is no device {name!r} here; --device auto finds one")
    if device.type == "cpu":
        # Keep the memory that one step frees for the next.  GNU's malloc gives large blocks back to
        # the system, which hands them out again page by page: a seventh of the time of a step.
        with contextlib.suppress(AttributeError, OSError, TypeError):    # another C library
            mallopt, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = ctypes.CDLL(None).mallopt, -1, -3
            if mallopt(M_MMAP_THRESHOLD, 2 ** 30):
                mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)
    return device


def autocast(device, precision="auto"):
    """Return a context in which a network runs in bfloat16, where that is asked for.

    Never float16: its range is too small for the gradients of L_simple, and losses turn NaN.

    Args:
        device: torch.device.
        precision: "bf16", "float32", or "auto": bf16 where the hardware is fast at it.
    """
    bf16 = precision == "bf16" or precision == "auto" and fast_bf16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def fast_bf16(device):
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text()                # Linux; elsewhere we cannot know
    except OSError:
        return False
    return device.type == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags)


def room(device):
    """Return how many bytes are free on a GPU; of the memory of the machine itself, 2 GB."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2 ** 31


def rng_state(device, state=None):
    """Return the state of the device's own random numbers, empty on a CPU; or set it."""
    if device.type == "cpu":
        return torch.empty(0)
    module = {"cuda": torch.cuda, "mps": torch.mps}[device.type]
    place = (device,) if device.type == "cuda" else ()
    return module.get_rng_state(*place) if state is None else module.set_rng_state(state, *place)
