"""How fast, beside diffusers and beside what the machine can do at all?

    python -m benchmarks.speed [--rows digits cifar10] [--precision auto] [--no-compile] [--quick]

One table for each network: images per second of training, network evaluations of one image per
second of sampling, peak memory, and the share of the machine's own limit.  The limit is the rate of
a large matrix product in the same precision, measured in the same run; the operations of the
network are counted, not estimated.  Where diffusers is installed, its UNet2DModel of the same shape
is trained as its example train_unconditional.py does (AdamW, EMAModel, clipping) and sampled with
DDPMScheduler, in the same precision and in float32, its default.  Every figure is the median of
repeated, interleaved runs.  Each contestant has a process of its own, set up as its users run it;
they start side by side, and are then measured in turn.  On CUDA ours is recorded, too.

Last, the loop of train.py as a user runs it is timed beside the bare step, and the sampling loop
beside the network alone.
"""
import argparse
import contextlib
import copy
import functools
import io
import itertools
import multiprocessing
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from plumbing.cli import Parser, integer, one_line_errors
from plumbing.device import GRAPHS, autocast, pick_device, pick_precision, recorded
from plumbing.run import read_log
from sample import build
from train import PRESETS, Config, L_simple, train, update_ema


class Ours:
    """Our network and process: one step of training, one of sampling, the network alone."""

    def __init__(self, config, compiled, record=False):
        self.precision, device = config.precision, pick_device(config.device)
        self.ddpm, self.network = (part.to(device) for part in build(vars(config)))
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr, fused=True,
                                          capturable=True)
        if compiled:
            self.network.compile(dynamic=False)
        self.model = recorded(self.network, device, record)
        self.train_step = recorded(self.train_step, device, record, self.changed)

    def changed(self):
        moments = [x for state in self.optimizer.state.values() for x in state.values()]
        return [*self.network.parameters(), *self.ema.parameters(), *moments]

    def loss(self, x_0):
        with autocast(x_0.device, self.precision):
            losses, _ = L_simple(self.ddpm, self.network, x_0, None)
        return losses.mean()

    def train_step(self, x_0):
        self.network.train()
        self.optimizer.zero_grad()
        self.loss(x_0).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        update_ema(self.ema, self.network, 0.999)

    @torch.no_grad()
    def sample_step(self, x_t, t):
        self.network.eval()
        with autocast(x_t.device, self.precision):
            return self.ddpm.p_sample(self.model, x_t, t)

    @torch.no_grad()
    def evaluate(self, x_t, t):
        self.network.eval()
        with autocast(x_t.device, self.precision):
            return self.model(x_t, torch.full((len(x_t),), t, device=x_t.device))


class Diffusers(Ours):
    """UNet2DModel of the same shape with DDPMScheduler."""

    def __init__(self, config, compiled, record=False):
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        self.precision, size = config.precision, config.image_size
        on = [size // 2 ** i in config.attention_resolutions
              for i in range(len(config.channel_mults))]
        self.network = UNet2DModel(
            sample_size=size, in_channels=config.image_channels, out_channels=config.image_channels,
            block_out_channels=[config.channels * mult for mult in config.channel_mults],
            layers_per_block=config.num_res_blocks, dropout=config.dropout, norm_eps=1e-6,
            down_block_types=["AttnDownBlock2D" if x else "DownBlock2D" for x in on],
            up_block_types=["AttnUpBlock2D" if x else "UpBlock2D" for x in reversed(on)],
            norm_num_groups=min(32, config.channels // 2), attention_head_dim=None, freq_shift=1,
            flip_sin_to_cos=False, downsample_padding=0).to(config.device)
        self.scheduler = DDPMScheduler(variance_type="fixed_large")
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, betas=(0.95, 0.999),
                                           weight_decay=1e-6)
        self.ema = EMAModel(self.network.parameters(), decay=0.9999, use_ema_warmup=True,
                            inv_gamma=1.0, power=0.75)
        model = torch.compile(self.network, dynamic=False) if compiled else self.network
        self.model = lambda x_t, t: model(x_t, t).sample

    def loss(self, x_0):
        eps = torch.randn_like(x_0)
        t = torch.randint(0, 1000, (len(x_0),), device=x_0.device)
        x_t = self.scheduler.add_noise(x_0, eps, t)
        with autocast(x_0.device, self.precision):
            eps_theta = self.model(x_t, t)
        return F.mse_loss(eps_theta.float(), eps)

    def train_step(self, x_0):
        self.network.train()
        self.loss(x_0).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.network.parameters())

    @torch.no_grad()
    def sample_step(self, x_t, t):
        self.network.eval()
        return self.scheduler.step(self.evaluate(x_t, t - 1), t - 1, x_t).prev_sample


# name: kind, compiled, recorded, precision if not that of the run
CONTESTANTS = {"ours": (Ours, False, False, None), "diffusers": (Diffusers, False, False, None),
               "diffusers, float32": (Diffusers, False, False, "float32"),        # its default
               "ours, recorded": (Ours, False, True, None),
               "ours, compiled": (Ours, True, False, None),
               "diffusers, compiled": (Diffusers, True, False, None),
               "ours, compiled, recorded": (Ours, True, True, None)}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function, device, least=0.5):
    """Return the seconds that one call takes, the mean of as many as fill `least` seconds."""
    synchronize(device)
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < least:
        function()
        calls += 1
    synchronize(device)
    return (time.perf_counter() - start) / calls


def interleaved(timers, repeats):
    """Return {name: median} of {name: function that returns seconds}, after a turn not counted."""
    times = [{name: timer() for name, timer in timers.items()} for _ in range(1 + repeats)]
    return {name: statistics.median(turn[name] for turn in times[1:]) for name in timers}


class Contestant:
    """An entry of CONTESTANTS in a process of its own.  Call it for the seconds of a step."""

    def __init__(self, name, config, batch, n):
        spawn = multiprocessing.get_context("spawn")
        self.name, (self.pipe, other) = name, spawn.Pipe()
        self.process = spawn.Process(target=serve, daemon=True, args=(
            other, *CONTESTANTS[name], config, batch, n))
        self.process.start()
        other.close()

    def __call__(self, what, least=0.5):
        try:
            self.pipe.send((what, least))
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            raise OSError(f"the process of {self.name!r} has ended") from error

    def end(self):
        self.pipe.send(None)
        self.process.join()


def serve(pipe, kind, compiled, record, precision, config, batch, n):
    """Be the process of a Contestant: make a few steps of each kind, then answer."""
    contestant = kind(replace(config, precision=precision or config.precision), compiled, record)
    C, H, t, device = config.image_channels, config.image_size, config.T // 2, config.device
    x_0 = (torch.rand(batch, C, H, H) * 2 - 1).to(device)
    x_t = torch.randn(n, C, H, H).to(device)
    steps = {"training": lambda: contestant.train_step(x_0),
             "sampling": lambda: contestant.sample_step(x_t, t),
             "network": lambda: contestant.evaluate(x_t, t)}
    steps["training"]()                              # which may rehearse and record
    if x_0.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(x_0.device)
    for _ in range(2):
        steps["training"]()
    memory = peak_memory(x_0.device)
    for step in steps.values():                      # what is compiled, is compiled now
        step()
    for what, least in iter(pipe.recv, None):
        pipe.send(memory if what == "memory" else seconds(steps[what], x_0.device, least))


def peak_memory(device):
    """Return the most bytes that this process has held: on a GPU there, else in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:                                             # ru_maxrss may be that of the parent
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def count_flops(config):
    """Count the floating-point operations of one image: (forward, forward and backward)."""
    _, network = build(vars(config))
    H, t = config.image_size, torch.ones(1)
    x = torch.zeros(1, config.image_channels, H, H)
    counts = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            out = network(x, t)
            if backward:
                out.sum().backward()
        counts.append(counter.get_total_flops())
    return counts


def matrix_product(config, device):
    """Return a function that multiplies two large matrices, and its floating-point operations."""
    n = 8192 if device.type == "cuda" else 2048
    if device.type == "cuda":                        # convolutions take TF32 for float32 as it is
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    return lambda: a @ b, 2 * n ** 3


def loop_seconds(config, steps=200):
    """Return the mean seconds of a step of train.py, by the second of the two lines of its log.

    T is 2, which is nothing to a step but all to the samples that are drawn at the end.
    """
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        train(replace(config, T=2, steps=steps, log_every=steps // 2, sample_every=0, out=out))
        rate = read_log(Path(out, "log.csv"))[1][-1]
    return config.batch_size / rate


def print_overhead(config, ours, repeats):
    """Compare the loop of train.py with the bare step of a contestant of the same config."""
    bare, loop = [], []
    for _ in range(repeats):
        bare.append(ours("training", least=5))
        loop.append(loop_seconds(config))
    print(f"the loop of train.py, with data, log and EMA, takes "
          f"{statistics.median(loop) / statistics.median(bare) - 1:+.1%} beside the bare step")


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--rows", nargs="+", choices=("digits", "cifar10"),
                        default=["digits", "cifar10"], help="the networks of these presets (both)")
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto",
                        help="of both networks (auto, as in train.py)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True,
                        help="with torch.compile as well (yes)")
    parser.add_argument("--repeats", type=integer(1), default=5, help="of each measurement (5)")
    parser.add_argument("--quick", action="store_true",
                        help="two short repeats, and without the loop of train.py")
    parser.add_argument("--device", default="auto", help="cuda, mps, cpu, or auto: the first found")
    args = parser.parse_args(argv)
    with one_line_errors("speed.py"):
        device = pick_device(args.device)
        if args.precision == "auto":
            args.precision = pick_precision("auto", device)[0]
        if not has_diffusers():
            print("diffusers is not installed: ours alone")
        for row in args.rows:
            run(row, args, device)


def run(row, args, device):
    config = Config(**{**PRESETS[row], "precision": args.precision, "device": str(device)})
    batch = {"digits": 32, "cifar10": 128 if device.type == "cuda" else 8}[row]
    n = {"digits": 64, "cifar10": 256 if device.type == "cuda" else 8}[row]      # sampled at once
    present = {name: Contestant(name, config, batch, n)
               for name, (kind, compiled, record, precision) in CONTESTANTS.items()
               if (args.compile or not compiled) and (kind is Ours or has_diffusers())
               and precision != config.precision and (device.type in GRAPHS or not record)}
    memory = {name: ask("memory") for name, ask in present.items()}         # when it is ready
    product, product_flops = matrix_product(config, device)
    repeats, least = (2, 0.3) if args.quick else (args.repeats, 0.5)
    product_seconds = functools.partial(seconds, product, device, least)

    def measure(step, **more):
        steps = {name: functools.partial(ask, step, least) for name, ask in present.items()}
        return interleaved({"limit": product_seconds, **steps, **more}, repeats)

    training = measure("training")
    sampling = measure("sampling", network=lambda: present["ours"]("network", least))
    limit = product_flops / statistics.median([training["limit"], sampling["limit"]])
    forward, both = count_flops(config)
    C, H = config.image_channels, config.image_size
    print(f"\n{row}: {C} x {H} x {H}, {forward / 1e9:.4g} GFLOP forward, {both / 1e9:.4g} in "
          f"training, per image; {args.precision} on {device}, limit {limit / 1e12:.3g} TFLOP/s")
    print(f"{'':26}{'training':>12}{'of':>7}{'sampling':>15}{'of':>7}{'peak':>9}")
    print(f"{'':26}{f'img/s, B={batch}':>12}{'limit':>7}{f'evals/s, n={n}':>15}{'limit':>7}"
          f"{'memory':>9}")
    for name in present:
        trained, sampled = batch / training[name], n / sampling[name]
        print(f"{name:26}{trained:12.1f}{both * trained / limit:7.0%}{sampled:15.1f}"
              f"{forward * sampled / limit:7.0%}{memory[name] / 2 ** 30:7.2f}GB")
    theirs = [name for name in present if "diffusers" in name]
    for name, other in itertools.product([name for name in present if name not in theirs], theirs):
        print(f"{name} to {other}: training {training[other] / training[name]:.2f}, sampling "
              f"{sampling[other] / sampling[name]:.2f}")
    print(f"of a step of sampling {1 - sampling['network'] / sampling['ours']:.1%} is outside the "
          "network")
    if row == "digits" and not args.quick:
        config = replace(config, record=device.type in GRAPHS)
        print_overhead(config, present["ours, recorded" if config.record else "ours"], repeats)
    for contestant in present.values():
        contestant.end()


def has_diffusers():
    with contextlib.suppress(ImportError):
        import diffusers                                                           # noqa: F401
        return True
    return False


if __name__ == "__main__":
    main()
