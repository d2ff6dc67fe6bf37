"""The folder of a run: begun, saved, resumed, logged, plotted, and left in order at a signal.

    checkpoint.pt   all that the run needs to go on as if nothing had happened
    log.csv         a line for every interval, to which lines are added
    loss.png        the same, drawn
    samples/        whatever the program draws on its way
"""
import contextlib
import csv
import hashlib
import math
import shlex
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from plumbing import parallel
from plumbing.checkpoint import check_weights, read_checkpoint, write_checkpoint
from plumbing.cli import clock, per_second
from plumbing.device import pick_precision, rng_state
from plumbing.downloads import MIRRORS
from plumbing.files import locked, replacing, sweep
from plumbing.flags import check_fixed, refuse
from plumbing.pictures import save_figure

COLUMNS = ("step", "loss", "q1", "q2", "q3", "q4", "images_per_second")
# A closed terminal; and what batch systems send some time before they kill.  None is on Windows.
SOFT = "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"
received = []                                        # the signals that stopped the last run


class Run:
    """What changes as a run goes on, and the folder that keeps it.

    Attributes:
        step: how many steps were made.
        precision: "bf16" or "float32", as the config says or as is fast here; a run keeps it.
        tally: (2, 4), on the device: sums of losses, and how many, in each quarter of t, since the
            last line of the log.
        finite: on the device: was every gradient finite?
        signals: a list that signals to stop are put on.
    """

    def __init__(self, config, model, ema, optimizer, device, fixed, resume):
        """Look at the folder, before anything else is done in vain.

        Args:
            config: dict, kept in the checkpoint; the run itself reads out, steps, batch_size,
                log_every, precision, seed and data.
            model, ema: networks; optimizer: Adam, of the model.
            device: torch.device on which they are.
            fixed: names in config that cannot change on the way.
            resume: go on with what is there, instead of refusing to write over it.

        Raises:
            ValueError: the folder already holds a run; or, with resume, none that could go on as
                this one.
        """
        if config["batch_size"] % parallel.world:
            refuse("batch_size", f"is of all processes, and not divisible by {parallel.world}")
        self.config = {name: list(value) if isinstance(value, tuple) else value
                       for name, value in config.items()}        # as a checkpoint has it
        self.out = Path(config["out"])
        self.model, self.ema, self.optimizer, self.device = model, ema, optimizer, device
        self.fixed, self.resume = fixed, resume
        self.step, self.signals, self.told, self.next = 0, [], False, 0.0
        self.tally = torch.zeros(2, 4, device=device)
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        before = self.check_same() if resume else self.check_new()
        picked = pick_precision(config["precision"], device, before)
        self.precision, self.why = parallel.gather(picked)[0]    # the same in all processes

    def check_new(self):
        """Refuse a folder that holds a run of at least one step."""
        path, log = self.out / "checkpoint.pt", self.out / "log.csv"
        if read_checkpoint(path)["step"] > 0 if path.exists() else log.exists():
            raise ValueError(f"{self.out} already holds a run. To go on with it: --resume, or "
                             "train(config, resume=True); to start another: --out DIR, or "
                             "Config(out=DIR)")

    def check_same(self):
        """Refuse to go on with a run as what would make another of it; return its precision."""
        path, steps = self.out / "checkpoint.pt", self.config["steps"]
        if not path.exists():
            raise ValueError(f"nothing to resume: there is no {path}")
        checkpoint = read_checkpoint(path)
        stored, step = checkpoint["config"], checkpoint["step"]
        check_fixed(self.fixed, stored, self.config)
        was, now = stored.get("data"), self.config["data"]
        if was != now and {was, now} & {"digits", *MIRRORS}:     # a folder may have moved
            raise ValueError(f"{path} is a run on {was!r}, not on {now!r}")
        if steps < step:
            refuse("steps", f"must be at least {step}, where this run is, not {steps}")
        if steps == step:
            print(f"no step is left of --steps {steps}: a larger number goes on")
        precision = checkpoint.get("precision")      # older versions do not say it
        return precision if isinstance(precision, str) else None

    @contextlib.contextmanager
    def begin(self):
        """Hold the folder, from the first step, or the last that was saved, until the block ends.

        Raises:
            ValueError: another program writes to it; or with resume, it has no run that fits.
        """
        hold = locked(self.out) if parallel.rank == 0 else contextlib.nullcontext()
        with hold, until_signal() as self.signals:
            if self.resume:
                sweep(self.out / "samples")
                self.restore()
            else:
                self.check_new()                     # another program may have been faster
                if parallel.rank > 0:
                    torch.manual_seed(self.own_seed())           # each process its own noise
                self.write()         # so that it can be resumed from now; and a full disk shows
                (self.out / "log.csv").unlink(missing_ok=True)   # of one that never made a step
            print(f"{sum(weight.numel() for weight in self.model.parameters()):,} weights, "
                  f"{self.precision} on {self.device}{self.why}, to {self.out}", flush=True)
            if self.config.get("compile") and self.step < self.config["steps"]:
                print("compiling the network, about a minute", flush=True)
            self.first = self.step + 1
            self.restart_clock()
            yield
            if self.stopped():
                self.save()
                received[:] = self.signals or [signal.SIGTERM]
                self.say_stopped()

    def say_stopped(self):
        """Say that a signal was heard, and what can be done now."""
        said = f"saved at step {self.step} of {self.config['steps']}; to"
        resume = f"--resume --out {shlex.quote(str(self.out))}"
        if self.step < self.config["steps"]:
            said = f"stopped and {said} go on: {resume}"
        else:                                        # the last pictures were being drawn
            path = shlex.quote(str(self.out / "checkpoint.pt"))
            said = (f"training is done and {said} draw samples: python sample.py --checkpoint "
                    f"{path}, or those of its end: {resume}")
        print(f"{said}, or in Python train(config, resume=True)", flush=True)

    def goes_on(self):
        """Is there another step to make?  Meanwhile, say how it goes."""
        self.tell()
        return self.step < self.config["steps"] and not self.stopped()

    def tell(self):
        """Say how long it will take, once after some seconds; on a terminal, how far it is."""
        step, (first, since) = self.step, self.since
        if step == self.first and (self.config.get("compile") or self.config.get("record")):
            self.restart_clock()                     # no other step takes as long
        elif step > first and not self.told and time.monotonic() - since > 5:
            if self.device.type == "cuda":           # it is behind
                torch.cuda.synchronize(self.device)
            self.told, seconds = True, time.monotonic() - since
            left = (self.config["steps"] - step) * seconds / (step - first)
            print(f"{per_second(self.images_per_second())} img/s: {self.config['steps'] - step} "
                  f"steps more take {clock(left)}", flush=True)
            if self.device.type == "cpu":
                self.tell_of_the_cpu(left, (time.process_time() - self.worked) / seconds)
        elif step > first and parallel.rank == 0 and time.monotonic() > self.next \
                and sys.stderr and sys.stderr.isatty():
            self.next = time.monotonic() + 0.5
            print(f"step {step}/{self.config['steps']}, {per_second(self.images_per_second())} "
                  "img/s", end="  \r", file=sys.stderr, flush=True)

    def tell_of_the_cpu(self, left, cores):
        """Say what would be faster, for a run of so many seconds, at work on so many cores."""
        if left > 3600:
            print("this wants a GPU; what a CPU does in minutes: python train.py, the digits, or "
                  "fewer --steps with a smaller --image-size, --channels and --batch-size")
        threads = torch.get_num_threads()
        if threads > 1 and cores < 0.6 * threads:
            print(f"it gets {cores:.1f} of the {threads} cores that it has threads for: where "
                  "others compute too, OMP_NUM_THREADS=1 may be far faster")

    def images_per_second(self):
        """Return the speed of all processes together, since `restart_clock`."""
        step, since = self.since
        return (self.step - step) * self.config["batch_size"] / max(
            time.monotonic() - since, 1e-9)

    def stopped(self):
        """Has any process got a signal?  All hear the same, so that they stop at the same step."""
        return parallel.total(torch.tensor(len(self.signals))).item() > 0

    def due(self, every):
        """Is this the step for what is done every so many, 0 for never, and after the last?"""
        last = self.step == self.config["steps"]
        return self.step > 0 and every > 0 and (self.step % every == 0 or last)

    def lacks(self, path):
        """Is this picture not there, or older than the checkpoint?"""
        checkpoint = self.out / "checkpoint.pt"
        return not path.exists() or path.stat().st_mtime < checkpoint.stat().st_mtime

    def own_seed(self):
        """Return a seed for the noise of this process: 32 bits, of which a CPU takes no more."""
        words = np.random.SeedSequence((self.config["seed"], parallel.rank, self.step))
        return int(words.generate_state(1)[0])

    def changed(self):
        """Return all tensors that a step changes."""
        moments = [x for state in self.optimizer.state.values() for x in state.values()]
        return [*self.model.parameters(), *self.model.buffers(), *self.ema.parameters(),
                *self.ema.buffers(), *moments, self.tally, self.finite]

    # ---- the checkpoint ----

    def check(self):
        """Stop before weights or moments that are not finite get into a checkpoint."""
        numbers = *self.model.parameters(), *self.model.buffers()
        if not self.finite or not all(x.isfinite().all() for x in numbers):
            raise FloatingPointError(
                f"a gradient or a weight was not finite at or shortly before step {self.step}; "
                f"{self.out / 'checkpoint.pt'} is from before. Try --resume with a lower --lr or "
                "with --precision float32")

    def save(self):
        """Replace the checkpoint with one of this moment, if it is one to go on from."""
        self.check()
        self.write()

    def write(self):
        rng = parallel.gather([torch.get_rng_state(), rng_state(self.device)])
        content = {"config": self.config, "precision": self.precision, "step": self.step,
                   "model": self.model.state_dict(), "ema": self.ema.state_dict(),
                   "optimizer": self.optimizer.state_dict(),
                   "tally": parallel.total(self.tally), "rng": rng}
        if parallel.rank == 0:
            write_checkpoint(content, self.out / "checkpoint.pt")

    def restore(self):
        """Put everything back to where the checkpoint left it: all that `save` wrote.

        Raises:
            ValueError: the file does not fit.
            OSError: it cannot be read.
        """
        path = self.out / "checkpoint.pt"
        checkpoint = read_checkpoint(path)
        if not parallel.same(hashlib.sha256(path.read_bytes()).hexdigest()):
            raise ValueError(f"{path} is another file for some of the processes: on each machine "
                             "it has to be the one that the first process wrote")
        try:
            check_weights(checkpoint["model"], self.model)
            check_weights(checkpoint["ema"], self.ema)
            self.model.load_state_dict(checkpoint["model"])
            self.ema.load_state_dict(checkpoint["ema"])
            state, self.step = checkpoint["optimizer"]["state"], checkpoint["step"]
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self.tally.copy_(checkpoint["tally"] if parallel.rank == 0 else torch.zeros(2, 4))
            self.check_moments(checkpoint["tally"])
            if not checkpoint["rng"]:
                raise ValueError("random numbers are missing")
            torch.manual_seed(self.own_seed())       # if there were fewer processes
            for rng, on_device in checkpoint["rng"][parallel.rank:][:1]:
                torch.set_rng_state(rng)
                if len(on_device) == len(rng_state(self.device)):
                    rng_state(self.device, on_device)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is for sampling only, of another network or version of "
                             "train.py, or damaged: "
                             f"{textwrap.shorten(str(error), 200)}") from error
        self.keep_log(read_log(self.out / "log.csv"))

    def check_moments(self, tally):
        """Raise a ValueError for what neither Adam nor this class ever wrote."""
        if self.step < 0 or bool(self.optimizer.state) != (self.step > 0):
            raise ValueError("moments are missing")
        for weight, state in self.optimizer.state.items():
            moments = state["exp_avg"], state["exp_avg_sq"]
            if not (0 < state["step"] <= self.step and (state["exp_avg_sq"] >= 0).all()
                    and all(moment.shape == weight.shape and moment.isfinite().all()
                            for moment in moments)):
                raise ValueError("moments that Adam never has")
        if tally.shape != (2, 4) or not tally.isfinite().all():
            raise ValueError("a tally of another shape")

    # ---- the log ----

    def restart_clock(self):
        """Measure from here: what took time before is no step."""
        self.since, self.worked = (self.step, time.monotonic()), time.process_time()

    def log(self):
        """Print a line, add it to log.csv, and clear the tally when its interval is over."""
        self.check()
        steps = self.config["steps"]
        sums, counts = parallel.total(self.tally).double()
        loss, quarters = (sums.sum() / counts.sum()).item(), (sums / counts).tolist()
        rate = self.images_per_second()
        left = (steps - self.step) * self.config["batch_size"] / rate
        row = [self.step, *(round(value, 6) for value in (loss, *quarters)), float(f"{rate:.4g}")]
        if parallel.rank == 0:
            with open(self.out / "log.csv", "a", newline="") as f:
                rows = [row] if f.tell() else [COLUMNS, row]
                csv.writer(f).writerows(["" if x != x else x for x in row] for row in rows)
        print(f"step {self.step:>{len(str(steps))}}/{steps}  loss {loss:.4f}  by quarter of t "
              f"{' '.join(f'{x:.4f}' if x == x else '-' for x in quarters)}  "
              f"{per_second(rate)} img/s  {clock(left)} left", flush=True)
        if self.step % self.config["log_every"] == 0:
            self.tally.zero_()
        self.restart_clock()

    def keep_log(self, rows):
        """Keep of log.csv what lies before the checkpoint, but no interval that goes on now."""
        cut = self.step < self.config["steps"] and bool(self.tally.any())
        if parallel.rank == 0:
            with replacing(self.out / "log.csv") as tmp, open(tmp, "w", newline="") as f:
                csv.writer(f).writerows([COLUMNS, *(
                    ["" if value != value else value for value in row] for row in rows
                    if row[0] + cut <= self.step)])

    def plot(self):
        """Draw loss.png: the loss, and the loss of each quarter of t."""
        rows = read_log(self.out / "log.csv")
        axes = Figure(figsize=(8, 4), layout="constrained").subplots()
        steps, *losses, _ = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
        for column, values in zip(COLUMNS[1:], losses, strict=False):
            label = {"loss": "all t", "q1": "first quarter of t, least noise", "q2": "second",
                     "q3": "third", "q4": "last, nearly all noise"}[column]
            axes.plot(steps, values, ".-", markersize=3, label=label,
                      color="black" if column == "loss" else None)
        axes.set(xlabel="step", ylabel="loss (L_simple: 1 is to predict 0)", yscale="log")
        axes.figure.legend(loc="outside right upper")
        save_figure(axes.figure, self.out / "loss.png")


def read_log(path):
    """Return the rows of a log.csv, [int, 6 floats] each, without lines that are cut short."""
    rows = []
    with contextlib.suppress(FileNotFoundError), open(path, errors="replace") as f:
        for line in f:
            with contextlib.suppress(ValueError):    # the names of the columns; half a line
                step, *values = [float(value or math.nan) for value in line.strip().split(",")]
                if len(values) == len(COLUMNS) - 1:
                    rows.append([int(step), *values])
    return rows


@contextlib.contextmanager
def until_signal():
    """Give a list that signals to stop are put on, so that the step under way is finished."""
    stop, before = [], {}
    received.clear()

    def handler(signum, frame):
        if stop:
            raise KeyboardInterrupt                  # the second time at once
        stop.append(signum)

    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM, *(
                getattr(signal, name) for name in SOFT if hasattr(signal, name))):
            if signum in (signal.SIGINT, signal.SIGTERM) \
                    or signal.getsignal(signum) == signal.SIG_DFL:               # else: nohup
                before[signum] = signal.signal(signum, handler)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def leave():
    """End a program that trained: part from the other processes; say what signal stopped it."""
    parallel.leave()
    if received:
        sys.exit(128 + received[0])
