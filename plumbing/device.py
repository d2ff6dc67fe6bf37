"""Where the arithmetic happens, in which precision, and how often Python has to ask for it."""
import contextlib
import ctypes
import functools
import itertools
import math
import pickle
import random
import textwrap
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from plumbing import parallel

GRAPHS = ("cuda",)                                   # kinds of device whose work can be recorded


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
    bf16 = pick_precision(precision, device)[0] == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def pick_precision(name, device, before=None):
    """Return the precision to work in, "bf16" or "float32", and words for the log: why.

    Args:
        name: "bf16" and "float32" are what they are; "auto" takes what is fast here.
        device: torch.device.
        before: what a run that goes on was in.  It stays so, unless that is much slower here.
    """
    if name != "auto":
        return name, ""
    gain = bf16_gain(device)
    least = {"bf16": 0.5, "float32": 2.0}.get(before, 1.1)       # of gain, to be in bf16
    picked = "bf16" if gain >= least else "float32"
    why = f" (bf16 is {gain:.2g} times as fast as float32)" if 0 < gain < math.inf else ""
    return picked, why + (f", no longer {before}" if before not in (None, picked) else "")


@functools.cache
def bf16_gain(device):
    """Return how many times as fast as in float32 the work of a U-Net is in bfloat16.

    Of a GPU its generation says that it is far faster, or not supported.  Of a CPU no flag says it:
    of two processors with AVX512-BF16 one may be faster in bfloat16 and the other twice as slow.
    So a CPU is measured, in a tenth of a second: a normalised convolution, forward and backward, on
    one core and by the time that the core worked for it, whatever else runs there.
    """
    if device.type != "cpu":
        new = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return math.inf if new else 0.0
    x = torch.linspace(-1, 1, 8 * 64 * 16 * 16).reshape(8, 64, 16, 16).requires_grad_()
    weight = torch.linspace(-1, 1, 64 * 64 * 9).reshape(64, 64, 3, 3).requires_grad_()
    seconds, threads = {True: 0.0, False: 0.0}, torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.perf_counter()
    for turn in itertools.count():
        for bf16 in seconds:
            start = time.thread_time()
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                y = F.conv2d(F.silu(F.group_norm(x, 32)), weight, padding=1)
                torch.autograd.grad(y.float().square().mean(), (x, weight))
            seconds[bf16] += (turn > 0) * (time.thread_time() - start)       # once to warm up
        if turn >= 3 and time.perf_counter() - began > 0.1:
            break
    torch.set_num_threads(threads)
    return seconds[False] / max(seconds[True], 1e-9)


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


# ---- what a GPU does again and again, recorded once and replayed ----

def recorded(function, device, on=True, changed=None):
    """Return what does the same as a function, on a GPU by replaying a recording of it.

    A step of a small network is a thousand kernels, each of which Python takes longer to launch
    than a GPU to run.  A CUDA graph launches them all at once.  What it replays is what the GPU
    did, and none of the Python that asked for it: whatever differs from call to call must be an
    argument, or a tensor on the GPU that is changed in place.

    The first call with arguments of some shapes rehearses and records, see `record`.  Where a
    recording would not do what the function does, one line says so and the function is called as
    it is.  On a CPU it always is; on a GPU, and without a line, for a gradient with respect to an
    argument, and with arguments of another kind.

    Args:
        function: called with tensors and numbers, which become tensors where it is recorded, and
            with options that stay what they are; returns a tensor, a tuple of tensors, or None.
        device: torch.device.
        on: False returns the function.
        changed: returns all tensors that a call changes, such as weights and moments; None where
            it changes nothing.
    """
    if not on or device.type not in GRAPHS:
        if on:
            say_once(f"nothing is recorded on {device.type}: --record is for CUDA")
        return function
    if changed and parallel.world > 1:
        print("the step is not recorded: several processes make it together")
        return function
    recordings, pool = {}, torch.cuda.graph_pool_handle()        # one memory: they take turns

    def replay(*args, **options):
        if any(isinstance(x, torch.Tensor) for x in options.values()) or not all(
                type(x) in (int, float) or isinstance(x, torch.Tensor) and not x.requires_grad
                and x.device.type == device.type for x in args):
            return function(*args, **options)
        kind = (torch.is_grad_enabled(), torch.is_autocast_enabled(device.type),
                torch.get_autocast_dtype(device.type), torch.is_inference_mode_enabled(),
                getattr(function, "training", None), repr(options),
                *((x.shape, x.dtype) if isinstance(x, torch.Tensor) else type(x) for x in args))
        if kind not in recordings:
            recordings[kind] = record(functools.partial(function, **options), device, args,
                                      changed or list, pool)
        if recordings[kind] is None:
            return function(*args, **options)
        graph, inputs, output = recordings[kind]
        for mine, x in zip(inputs, args, strict=True):
            mine.copy_(x) if isinstance(x, torch.Tensor) else mine.fill_(x)
        graph.replay()
        copies = [x.clone() for x in tensors(output)]            # the next replay writes over them
        return tuple(copies) if isinstance(output, tuple) else copies[0] if copies else None
    return replay


@functools.cache
def say_once(line):
    print(line)


def tensors(output):
    """Return what a function returned, a tensor, a tuple of them, or None, as a tuple."""
    several = output if isinstance(output, tuple) else () if output is None else (output,)
    if not all(isinstance(x, torch.Tensor) for x in several):
        raise RuntimeError("it returns something else than tensors")
    return several


def record(function, device, args, changed, pool):
    """Rehearse a call, record it, and see that three replays come to the same as three calls.

    None of this counts: what `changed` names, and random numbers, are put back.  What else the
    function keeps for itself is not, and three calls show it only if it matters at once.

    Returns:
        The graph, the tensors that are its arguments, and its result; or None, with a line why.
    """
    inputs = [x.clone() if isinstance(x, torch.Tensor) else torch.tensor(x, device=device)
              for x in args]
    noise = torch.get_rng_state(), rng_state(device), random.getstate(), np.random.get_state()
    start = {id(x): (x, x.detach().clone()) for x in changed()}

    @torch.no_grad()
    def put_back():
        for x in changed():                          # Adam makes its moments, zeros, as it begins
            x.copy_(start[id(x)][1]) if id(x) in start else x.zero_()
        for put, state in zip((torch.set_rng_state, functools.partial(rng_state, device),
                               random.setstate, np.random.set_state), noise, strict=True):
            put(state)

    cached = torch.is_autocast_cache_enabled()
    if torch.is_autocast_enabled(device.type):       # each replay is to cast the weights anew
        torch.set_autocast_cache_enabled(False)
    try:
        with torch.cuda.device(device):
            check_recordable(function, device, inputs)
            put_back()
            began = [start[id(x)][1] if id(x) in start else torch.zeros_like(x) for x in changed()]
            with aside("error"):
                for _ in range(3):
                    output = function(*inputs)
            called = [x.detach().clone() for x in (*changed(), *tensors(output))]
            began += map(torch.zeros_like, tensors(output))
            put_back()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, pool=pool):
                output = function(*inputs)
            for _ in range(3):
                graph.replay()
            if not apart(called, [*changed(), *tensors(output)], began) < 0.1:
                raise RuntimeError("its replays do not come to what its calls come to")
        put_back()
        return graph, inputs, output
    except RuntimeError as error:
        name = getattr(function.func, "__name__", type(function.func).__name__)
        print(f"{name} is not recorded, and slower than it could be: "
              f"{textwrap.shorten(str(error.__context__ or error), 150)}", flush=True)
        free_generator(device)
        put_back()
        return None
    finally:
        torch.set_autocast_cache_enabled(cached)


def free_generator(device):
    """Give a GPU another state of random numbers, if a recording that broke off still holds it."""
    try:
        torch.rand(1, device=device)
    except RuntimeError:
        generator = torch.cuda.default_generators[torch.empty(0, device=device).device.index]
        generator.graphsafe_set_state(torch.Generator(device).graphsafe_get_state())


def check_recordable(function, device, inputs):
    """Call a function three times, to see what a recording of it would silently get wrong.

    Raises:
        RuntimeError: it waits for the GPU, and so may look at what it computed; it draws random
            numbers on the host; it asks the GPU for other things, or with other numbers, at each
            call; or its result has a gradient.
    """
    with aside("default"):
        function(*inputs)                            # libraries are loaded, and it may be compiled
    drawn, asked = host_noise(device), []
    # What is compiled would not be so any more, if it met a TorchDispatchMode.
    with aside("error"), torch.compiler.set_stance("force_eager"):
        for _ in range(2):
            with Asked(device) as mode:
                output = function(*inputs)
            asked.append(mode.asked)
    for wrong, why in (
            (host_noise(device) != drawn, "it draws random numbers on the host"),
            (asked[0] != asked[1], "it asks the GPU for something else at each call"),
            (any(x.requires_grad for x in tensors(output)), "its result has a gradient")):
        if wrong:
            raise RuntimeError(why)


@functools.cache                                     # libraries keep memory for each stream
def side_stream(index):
    return torch.cuda.Stream(index)


@contextlib.contextmanager
def aside(waiting):
    """Run a block beside the stream in use, as a recording is; to wait may be an "error"."""
    stream, before = side_stream(torch.cuda.current_device()), torch.cuda.get_sync_debug_mode()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode(waiting)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(stream)


def host_noise(device):
    """Return the states of all random numbers but those of the device."""
    own = b"" if device.type == "cpu" else torch.get_rng_state().numpy().tobytes()
    return pickle.dumps((random.getstate(), np.random.get_state(), own))


class Asked(TorchDispatchMode):
    """Lists the operations of a block, each with the numbers that the host gave it."""

    def __init__(self, device):
        super().__init__()
        self.device, self.asked = device, []

    def __torch_dispatch__(self, operation, types, args=(), options=None):
        self.asked.append(repr((operation, self.numbers((args, options)))))
        return operation(*args, **options or {})

    def numbers(self, value):
        """Return nested tuples, lists and dicts with nothing left but numbers and strings."""
        if isinstance(value, (tuple, list)):
            return [self.numbers(x) for x in value]
        if isinstance(value, dict):
            return {name: self.numbers(x) for name, x in value.items()}
        if isinstance(value, torch.Tensor) and value.device.type != self.device.type:
            return value.tolist()                    # a number of the host, in a tensor
        return value if isinstance(value, (int, float, complex, str)) else None


def apart(called, replayed, began):
    """Return how far apart two ends are, as a share of the way: the mean over what moved at all."""
    shares = []
    for one, two, start in zip(called, replayed, began, strict=True):
        gap, way = ((one.double() - x.double()).norm().item() for x in (two, start))
        if gap != 0 or way != 0:
            shares.append(gap / max(gap, way))
    return sum(shares) / max(1, len(shares))
