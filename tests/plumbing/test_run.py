"""Each promise of a run: what it leaves, how it goes on, and how it stops."""
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image

import sample
import train
from plumbing import device
from plumbing import run as plumbing_run
from plumbing.checkpoint import write_checkpoint
from plumbing.device import rng_state
from plumbing.run import Run
from stand_ins import Constant, checkpoint, pull, refused, rows, same
from train import Config
from unet import UNet

ROOT = Path(train.__file__).parent
HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)              # Windows has none
SIGNALS = [name for name in plumbing_run.SOFT[1:] if hasattr(signal, name)]  # Windows has none
SMALL = {"channel_mults": (1,), "attention_resolutions": ()}
HARD = {"dropout": 0.3, "flip": True, "log_every": 4, "seed": 7, **SMALL}  # all that draws numbers


def test_a_run_leaves_checkpoint_log_plot_and_samples(config, flags, plot, capsys):
    train.main(flags("--save-every", "4", "--sample-every", "4"))
    out = Path(config().out)
    assert sorted(os.listdir(out)) == ["checkpoint.pt", "log.csv", "loss.png", "samples",
                                       "samples.png"]
    assert os.listdir(out / "samples") == ["000004.png"]
    assert Image.open(out / "samples.png").size == (8 * 50, 8 * 50)          # 64 of 6 x 8 + 2
    assert Image.open(out / "samples" / "000004.png").size == (4 * 50, 4 * 50)
    assert Image.open(out / "loss.png").size == (960, 480)
    assert [row["step"] for row in rows(config())] == ["2", "4", "6"]
    for row in rows(config()):
        assert 0 < float(row["loss"]) < 3 and float(row["images_per_second"]) > 0
    said = capsys.readouterr().out
    assert "step 4/6  loss " in said and "img/s" in said and "0:00:0" in said
    assert f"python sample.py --seed 1 --checkpoint {out / 'checkpoint.pt'}" in said
    assert "digits: 40 images of 1 x 8 x 8" in said


def test_the_log_is_the_mean_over_its_interval(config):
    losses = iter([1.0, 2, 3, 4, 5, 6])

    def loss(ddpm, model, x_0, labels):
        return (model.w * 0 + next(losses)).expand(3), torch.tensor([1, 3, 5])

    train.train(config(log_every=4, steps=6), Constant(), loss)
    first, last = rows(config())
    assert (first["step"], first["loss"], last["step"]) == ("4", "2.5", "6")
    assert float(last["loss"]) == 5.5
    quarters = [first[q] for q in ("q1", "q2", "q3", "q4")]     # t = 1, 3, 5 of T = 5
    assert quarters == ["2.5", "2.5", "", "2.5"]


@pytest.fixture
def run(config):
    """A run of 12 steps, that has made 4."""
    model = Constant()
    run = Run(vars(config(steps=12)), model, model, torch.optim.Adam(model.parameters()),
              torch.device("cpu"), (), False)
    run.out.mkdir()
    run.step = 4
    return run


def test_a_line_of_the_log_says_how_fast_and_how_long(run, monkeypatch, capsys):
    run.tally.copy_(torch.tensor([[3.0, 2, 1, 0], [2, 2, 2, 0]]))
    monkeypatch.setattr(plumbing_run.time, "monotonic", lambda: 100.5)
    run.since = 2, 100.0                             # 2 steps in 0.5 s
    run.log()
    assert capsys.readouterr().out == ("step  4/12  loss 1.0000  by quarter of t 1.5000 1.0000 "
                                       "0.5000 -  12 img/s  0:00:02 left\n")
    assert not run.tally.any()
    assert plumbing_run.read_log(run.out / "log.csv")[0][:3] == [4, 1.0, 1.5]


def test_the_plot_shows_the_loss_and_its_quarters(run, plot, monkeypatch):
    drawn, original = [], plumbing_run.Figure.savefig
    monkeypatch.setattr(plumbing_run.Figure, "savefig", lambda figure, *args, **options:
                        drawn.append(figure.axes[0]) or original(figure, *args, **options))
    for log in ([], [[10, 0.5, 0.5, *[math.nan] * 3, 77.0]],    # none yet; of one quarter alone
                 [[10, 0.5, 0.9, 0.4, 0.2, 0.1, 77.0], [20, 0.3, 0.6, 0.3, 0.2, 0.1, 77.0]]):
        monkeypatch.setattr(plumbing_run, "read_log", lambda path, log=log: log)
        run.plot()
    lines = {line.get_label(): line for line in drawn[2].get_lines()}
    assert [list(line.get_ydata()) for line in lines.values()] == [
        [0.5, 0.3], [0.9, 0.6], [0.4, 0.3], [0.2, 0.2], [0.1, 0.1]]
    assert list(lines["all t"].get_xdata()) == [10, 20] and lines["all t"].get_color() == "black"
    assert sum(line.get_color() == "black" for line in lines.values()) == 1
    assert drawn[2].get_yscale() == "log"


def test_a_checkpoint_is_plain_and_complete(config):
    train.train(config(steps=3))
    content = checkpoint(config())
    assert set(content) == {"config", "precision", "step", "model", "ema", "optimizer", "tally",
                            "rng"}
    assert content["step"] == 3
    assert content["config"]["channel_mults"] == [1, 2]
    assert Config(**content["config"]) == config(steps=3)
    assert not list(Path(config().out).glob("*.tmp"))


def test_a_run_is_resumable_from_its_first_moment(config, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "draw_batch", lambda *args: exec("raise KeyboardInterrupt"))
        train.train(config())
    assert checkpoint(config())["step"] == 0
    train.train(config(), resume=True)
    assert checkpoint(config())["step"] == 6


def test_weights_that_are_not_finite_are_never_saved(config, capsys, flags):
    argv = flags("--lr", "1e300", "--warmup", "0", "--steps", "1")
    refused(capsys, argv, "was not finite", code=1)
    assert checkpoint(config())["step"] == 0


def test_a_run_that_another_program_makes_meanwhile_is_not_overwritten(config, monkeypatch):
    original = train.load_data

    def slow(*args):                                 # another program trains while this one reads
        monkeypatch.setattr(train, "load_data", original)
        train.train(config(steps=2), Constant(), pull)
        return original(*args)

    monkeypatch.setattr(train, "load_data", slow)
    with pytest.raises(ValueError, match="already holds a run"):
        train.train(config(steps=6), Constant(), pull)
    assert checkpoint(config())["step"] == 2


def test_a_run_that_never_made_a_step_may_be_started_anew(config, monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        train.train(config(), Constant(), fail)
    train.train(config(batch_size=2), Constant())
    assert checkpoint(config())["step"] == 6
    Path(config().out, "checkpoint.pt").unlink()                # its log is still worth keeping
    with pytest.raises(ValueError, match="already holds a run"):
        train.train(config(), Constant())


def test_a_failed_save_leaves_the_last_good_checkpoint(config, monkeypatch):
    train.train(config(steps=2), Constant(), pull)
    before = Path(config().out, "checkpoint.pt").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *args: exec("raise OSError('disk full')"))
    with pytest.raises(OSError, match="disk full"):
        train.train(config(steps=3), Constant(), pull, resume=True)
    assert Path(config().out, "checkpoint.pt").read_bytes() == before
    assert not list(Path(config().out).glob("*.tmp"))


@pytest.mark.parametrize("first, precision", [(4, "bf16"), (5, "float32")])
def test_N_resume_N_equals_2N_bit_for_bit(config, first, precision):
    options = {**HARD, "precision": precision}
    train.train(config(**options, steps=10, out=config().out + "-whole"))
    train.train(config(**options, steps=first))
    train.train(config(**options, steps=10), resume=True)
    whole, parts = checkpoint(config(out=config().out + "-whole")), checkpoint(config())
    for key in ("step", "model", "ema", "optimizer", "tally", "rng"):
        assert same(whole[key], parts[key]), key
    logs = [rows(config(out=config().out + "-whole")), rows(config())]
    for row in logs[0] + logs[1]:
        del row["images_per_second"]
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == ["4", "8", "10"]


def test_auto_stays_auto_and_a_run_goes_on_as_it_began_unless_that_is_slow_here(
        config, monkeypatch, capsys):
    """So that a run that was begun where bfloat16 is fast is not slow for ever elsewhere."""
    def on_a_machine(gain, steps, resume=True):
        monkeypatch.setattr(device, "bf16_gain", lambda device: gain)
        train.train(config(precision="auto", steps=steps), resume=resume)
        content, (line,) = checkpoint(config()), [
            line for line in capsys.readouterr().out.splitlines() if " weights, " in line]
        assert content["config"]["precision"] == "auto" and f"bf16 is {gain} times" in line
        assert f"weights, {content['precision']} on cpu (" in line
        return content["precision"], line.partition("no longer ")[2].partition(",")[0]

    assert on_a_machine(1.5, 1, resume=False) == ("bf16", "")
    assert on_a_machine(0.7, 2) == ("bf16", "")                  # not what would be picked here
    assert on_a_machine(0.1, 3) == ("float32", "bf16")
    assert on_a_machine(1.5, 4) == ("float32", "")
    assert on_a_machine(2.5, 5) == ("bf16", "float32")
    content = checkpoint(config())
    for precision in (None, 3, ["bf16"]):            # an older version, and a stranger's file
        write_checkpoint({**content, "precision": precision}, Path(config().out, "checkpoint.pt"))
        assert on_a_machine(0.9, 6) == ("float32", "")


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_steps_and_samples_are_made_in_the_precision_that_the_run_says(config, monkeypatch,
                                                                       precision, dtype):
    monkeypatch.setattr(device, "bf16_gain", lambda device: 9.0 if precision == "bf16" else 0.1)
    seen = set()

    class Spied(UNet):
        def forward(self, x_t, t):
            eps_theta = super().forward(x_t, t)
            seen.add((self.training, self.conv_out(torch.zeros(1, 4, 8, 8)).dtype))
            return eps_theta

    c = config(precision="auto", steps=1)
    train.train(c, Spied(**{name: getattr(c, name) for name in sample.NETWORK}))
    assert seen == {(True, dtype), (False, dtype)}


@pytest.mark.parametrize("name", SIGNALS)
def test_what_batch_systems_send_before_they_kill_saves_too(config, name):
    """SLURM's --signal=USR1, Grid Engine's USR1, USR2 and XCPU; where nobody else handles them."""
    signum = getattr(signal, name)
    steps = []

    def loss(ddpm, model, x_0, labels):
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signum)
        return pull(ddpm, model, x_0, labels)

    train.train(config(steps=9), Constant(), loss)
    assert checkpoint(config())["step"] == 2 and plumbing_run.received == [signum]
    assert signal.getsignal(signum) == signal.SIG_DFL


def test_a_run_says_after_some_seconds_how_long_it_will_take_and_what_would_be_faster(
        run, monkeypatch, capsys):
    now, worked = [100.0], [7.0]
    monkeypatch.setattr(plumbing_run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(plumbing_run.time, "process_time", lambda: worked[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    run.config["steps"], run.first = 1004, 5
    run.restart_clock()
    assert run.goes_on() and capsys.readouterr().out == ""
    run.step, now[0], worked[0] = 5, 104.0, 9.0
    assert run.goes_on() and capsys.readouterr().out == ""       # too early to say
    run.step, now[0], worked[0] = 6, 120.0, 42.0     # 10 s a step of 3 images, on 1.75 cores
    assert run.goes_on()
    assert capsys.readouterr().out == ("0.3 img/s: 998 steps more take 2:46:20\n"
        "this wants a GPU; what a CPU does in minutes: python train.py, the digits, or fewer "
        "--steps with a smaller --image-size, --channels and --batch-size\n")
    run.step, now[0] = 7, 160.0
    assert run.goes_on() and capsys.readouterr().out == ""       # it was said
    run.step = 1004
    assert not run.goes_on()


def test_a_run_that_waits_for_cores_names_the_setting(run, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(plumbing_run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(plumbing_run.time, "process_time", lambda: now[0] / 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    run.first = 5
    run.restart_clock()
    run.step, now[0] = 6, 110.0
    run.goes_on()
    assert "it gets 0.5 of the 2 cores" in capsys.readouterr().out.splitlines()[1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)     # who has followed it is not told
    run.tell_of_the_cpu(10, 0.1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("config_says", ["compile", "record"])
def test_a_first_step_that_compiles_or_records_is_not_taken_for_the_others(run, monkeypatch,
                                                                           config_says):
    now = [100.0]
    monkeypatch.setattr(plumbing_run.time, "monotonic", lambda: now[0])
    run.config[config_says], run.first = True, 5
    run.restart_clock()
    run.step, now[0] = 5, 160.0
    run.goes_on()
    run.step, now[0] = 6, 162.0
    assert run.images_per_second() == 1.5


def test_on_a_terminal_there_is_progress_between_the_lines_of_the_log(run, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run.first = 5
    run.restart_clock()
    run.step = 6
    run.goes_on()
    run.goes_on()                                    # not twice within half a second
    said = capsys.readouterr().err
    assert said.startswith("step 6/12, ") and said.endswith("\r") and said.count("step") == 1
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    run.next = 0
    run.goes_on()
    assert capsys.readouterr().err == ""


def test_slow_and_fast_runs_say_their_speed(run, monkeypatch, capsys):
    for seconds, says in ((100.0, "0.06 img/s"), (0.5, "12 img/s"), (0.002, "3000 img/s")):
        monkeypatch.setattr(plumbing_run.time, "monotonic", lambda s=seconds: 100.0 + s)
        run.since = 2, 100.0
        run.tally.fill_(1)
        run.log()
        assert f"  {says}  " in capsys.readouterr().out
    assert [row[-1] for row in plumbing_run.read_log(run.out / "log.csv")] == [0.06, 12.0, 3000.0]


@pytest.mark.parametrize("rate, says", [(0.0612, "0.061"), (12.4, "12"), (1530.0, "1530")])
def test_a_speed_is_written_without_exponents_in_the_first_word_and_on_a_terminal(
        run, monkeypatch, capsys, rate, says):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(run, "images_per_second", lambda: rate)
    run.restart_clock()
    run.first, run.since = 2, (2, time.monotonic() - 9)
    run.tell()
    run.tell()
    said = capsys.readouterr()
    assert said.out.startswith(f"{says} img/s: 8 steps more take ")
    assert said.err.startswith(f"step 4/12, {says} img/s ")


def test_a_finished_run_that_is_resumed_draws_nothing_again(config, capsys):
    train.train(config(steps=2))
    path = Path(config().out, "samples.png")
    path.write_bytes(b"as it was")
    train.train(config(steps=2), resume=True)
    assert path.read_bytes() == b"as it was"
    os.utime(path, (1, 1))                           # of the end that was, before it went on
    train.train(config(steps=2), resume=True)
    assert path.read_bytes() != b"as it was"


def test_another_seed_is_another_run(config):
    train.train(config(steps=1, **SMALL))
    train.train(config(steps=1, **SMALL, seed=1, out=config().out + "-2"))
    one, two = checkpoint(config()), checkpoint(config(out=config().out + "-2"))
    assert not same(one["model"], two["model"]) and not same(one["rng"], two["rng"])


def test_the_random_state_of_a_gpu_is_kept_too(monkeypatch):
    gpu, state, kept = torch.device("cuda:1"), torch.ones(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state * device.index)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *args: kept.append(args))
    assert torch.equal(rng_state(gpu), state)
    rng_state(gpu, state)
    assert kept == [(state, gpu)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state)
    assert rng_state(torch.device("mps")) is state
    assert len(rng_state(torch.device("cpu"))) == 0


def test_rows_logged_after_the_checkpoint_are_written_again(config):
    train.train(config(steps=4, log_every=1), Constant(), pull)
    with open(Path(config().out, "log.csv"), "a") as f:
        f.write("5,9,9,9,9,9,9\n6,9,")                          # as if killed before the next save
    train.train(config(steps=6, log_every=1), Constant(), pull, resume=True)
    assert [row["step"] for row in rows(config())] == list("123456")
    assert all(float(row["loss"]) < 9 for row in rows(config()))


@pytest.fixture
def not_under_nohup():
    """Under nohup a closed terminal is ignored: there are tests of both."""
    before = signal.signal(HANGUP, signal.SIG_DFL)
    yield
    signal.signal(HANGUP, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, HANGUP])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(config, capsys, signum,
                                                                not_under_nohup):
    steps = []

    def loss(ddpm, model, x_0, labels):
        steps.append(1)
        if len(steps) == 3:
            assert callable(signal.getsignal(signum))           # or pytest would be killed
            os.kill(os.getpid(), signum)
        return pull(ddpm, model, x_0, labels)

    before = signal.getsignal(signum)
    _, ema = train.train(config(steps=100), Constant(), loss)
    assert checkpoint(config())["step"] == len(steps) == 3
    assert torch.equal(checkpoint(config())["ema"]["w"], ema.w)  # in a notebook: what there is
    assert f"to go on: --resume --out {config().out}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:                   # a program says what stopped it
        plumbing_run.leave()
    assert caught.value.code == 128 + signum
    assert signal.getsignal(signum) is before
    train.train(config(steps=5), Constant(), loss, resume=True)
    assert checkpoint(config())["step"] == 5
    plumbing_run.leave()                             # nothing stopped this one


@pytest.mark.skipif(HANGUP == signal.SIGTERM, reason="no SIGHUP")
def test_under_nohup_a_closed_terminal_stops_no_run(config, not_under_nohup):
    def loss(ddpm, model, x_0, labels):
        os.kill(os.getpid(), HANGUP)
        return pull(ddpm, model, x_0, labels)

    signal.signal(HANGUP, signal.SIG_IGN)            # as nohup starts a program
    train.train(config(), Constant(), loss)
    assert checkpoint(config())["step"] == 6 and signal.getsignal(HANGUP) == signal.SIG_IGN


def test_a_second_signal_does_not_wait(config):
    def loss(ddpm, model, x_0, labels):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return pull(ddpm, model, x_0, labels)

    with pytest.raises(KeyboardInterrupt):
        train.train(config(), Constant(), loss)
    assert checkpoint(config())["step"] == 0


def test_a_signal_while_sampling_stops_the_sampling(config, monkeypatch, capsys):
    original = sample.track

    def track(items, *args):
        for i, item in enumerate(original(items, *args)):
            if i == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    monkeypatch.setattr(sample, "track", track)
    train.train(config(steps=6, sample_every=3))
    assert checkpoint(config())["step"] == 3
    assert f"to go on: --resume --out {config().out}" in capsys.readouterr().out
    assert not Path(config().out, "samples").exists()
    train.train(config(steps=6), resume=True)                   # and in the last grid
    assert checkpoint(config())["step"] == 6
    line, = [line for line in capsys.readouterr().out.splitlines() if "--resume" in line]
    path = shlex.quote(str(Path(config().out, "checkpoint.pt")))
    assert line.startswith("training is done and saved at step 6 of 6; to draw samples: "
                           f"python sample.py --checkpoint {path}, or ")
    assert f"--resume --out {config().out}" in line
    assert not Path(config().out, "samples.png").exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(config, bad):
    steps = []

    def loss(ddpm, model, x_0, labels):
        steps.append(1)
        losses, t = pull(ddpm, model, x_0, labels)
        return losses * (bad if len(steps) == 4 else 1), t

    with pytest.raises(FloatingPointError, match="checkpoint.pt is from before.*--lr"):
        train.train(config(steps=100, log_every=50, save_every=3), Constant(), loss)
    assert len(steps) == 6                                      # noticed at the next save
    assert checkpoint(config())["step"] == 3
    assert torch.isfinite(checkpoint(config())["model"]["w"])


def test_a_non_finite_loss_is_noticed_at_the_next_log_and_not_saved_by_a_signal(config):
    def loss(ddpm, model, x_0, labels):
        os.kill(os.getpid(), signal.SIGINT)
        return model.w.expand(3) * math.nan, torch.ones(3, dtype=torch.int64)

    with pytest.raises(FloatingPointError, match="step 1;"):
        train.train(config(log_every=1), Constant(), loss)
    with pytest.raises(FloatingPointError):
        train.train(config(log_every=50, out=config().out + "-2"), Constant(), loss)
    assert checkpoint(config(out=config().out + "-2"))["step"] == 0


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_run_needs_no_terminal(config, flags, closed, monkeypatch):
    monkeypatch.setattr(sys, closed, None)           # what Python makes of a closed one
    train.main(flags())
    assert checkpoint(config())["step"] == 6


def test_who_reads_the_output_may_leave(config, flags, monkeypatch, capsys):
    """As in `python train.py | head -1`: the run ends without a word, and can be resumed."""
    class Pipe:
        lines = 0

        def write(self, text):
            self.lines += text.count("\n")
            if self.lines > 3:
                raise BrokenPipeError

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Pipe())
    with pytest.raises(SystemExit) as caught:
        train.main(flags())
    assert caught.value.code == 141 and capsys.readouterr().err == ""
    assert checkpoint(config())["step"] == 0


@pytest.fixture
def program(flags, tmp_path):
    """The command of a run of 100,000 steps, on a picture: to draw the digits takes a second."""
    (tmp_path / "in").mkdir()
    Image.linear_gradient("L").save(tmp_path / "in" / "a.png")
    return [sys.executable, "-u", str(ROOT / "train.py"), *flags(
        "--data", tmp_path / "in", "--data-dir", tmp_path / "cache", "--steps", "100000",
        "--save-every", "100000", "--log-every", "1")]


@pytest.mark.thorough
def test_a_killed_program_goes_on_and_under_nohup_through_a_closed_terminal(config, program,
                                                                            capsys):
    """In a process of its own, as a user would: SIGHUP; --resume under nohup; SIGTERM."""
    def start(command, hangup):
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True,
                                preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup))

    def steps(run):
        return (int(line.split("/")[0].split()[1]) for line in run.stdout
                if line.startswith("step "))

    with start(program, signal.SIG_DFL) as run:
        next(steps(run))
        run.send_signal(signal.SIGHUP)
        said = run.stdout.read()
    stopped = checkpoint(config())["step"]
    assert run.returncode == 128 + signal.SIGHUP and stopped > 0
    assert "to go on: --resume" in said
    with start([*program[:3], "--resume", "--out", config().out], signal.SIG_IGN) as run:
        made = steps(run)
        assert next(made) == stopped + 1
        run.send_signal(signal.SIGHUP)
        for _ in range(20):
            step = next(made)
        run.send_signal(signal.SIGTERM)
        run.stdout.read()
    assert run.returncode == 128 + signal.SIGTERM and checkpoint(config())["step"] >= step
    assert step == stopped + 21


def shell(command, **options):
    return subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True,
                          timeout=300, **options)


@pytest.mark.thorough
def test_head_may_leave(config, program):
    line = shlex.join(map(str, program))
    done = shell(f"{{ {line}; echo code $? >&2; }} | head -1")
    assert done.stdout.count("\n") == 1 and done.stderr == "code 141\n"


@pytest.mark.thorough
@pytest.mark.parametrize("closed", ["<&- >&-", "<&- >&- 2>&-"])
def test_a_program_needs_no_terminal_no_home_and_no_display(config, program, closed):
    env = {name: value for name, value in os.environ.items()
           if name not in ("HOME", "DISPLAY", "WAYLAND_DISPLAY", "PATH", "XDG_CACHE_HOME",
                           "XDG_CONFIG_HOME")}
    env["MPLCONFIGDIR"] = matplotlib.get_cachedir()             # else its first start takes longer
    env |= {"MPLBACKEND": "module://of_a.notebook", "LC_ALL": "xx_YY.none", "OMP_NUM_THREADS": "1",
            "COLUMNS": "0", "TERM": "none"}
    done = shell(f"{shlex.join(map(str, program))} --steps 6 {closed}", env=env)
    assert done.returncode == 0 and done.stderr == ""
    assert checkpoint(config())["step"] == 6 and Path(config().out, "loss.png").exists()


def test_a_folder_that_cannot_be_written_can_be_trained_on(config, tmp_path):
    """The cache goes to --data-dir; what was there is as it was."""
    (tmp_path / "in").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "in" / "a.png")
    os.chmod(tmp_path / "in", 0o555)
    train.train(config(data=str(tmp_path / "in"), data_dir=str(tmp_path / "cache")), Constant())
    assert os.listdir(tmp_path / "in") == ["a.png"]


def test_a_run_may_lie_under_a_long_name_in_any_letters(config, tmp_path):
    out = tmp_path / "ж 子 'quoted' $x" / ("n" * 200) / ("m" * 200)
    train.train(config(out=str(out), steps=2), Constant())
    train.train(config(out=str(out)), Constant(), resume=True)
    assert checkpoint(config(out=str(out)))["step"] == 6


def test_a_damaged_log_costs_its_damaged_lines_only(tmp_path):
    path = tmp_path / "log.csv"
    assert plumbing_run.read_log(path) == []
    path.write_bytes(b'step,loss,q1,q2,q3,q4,images_per_second\n1,2,3,4,5,6,7\n\xff\n"open\n'
                     b"2,2,3,4,5,6,7\n3,2")
    assert [row[0] for row in plumbing_run.read_log(path)] == [1, 2]


def test_a_gradient_whose_norm_is_infinite_stops_the_run_though_all_else_is_finite(config):
    """Clipped by an infinite norm it is 0: the weights would stay, and the run do nothing."""
    def loss(ddpm, model, x_0, labels):
        return (model.w * 3e38).sum().expand(3), torch.ones(3, dtype=torch.int64)

    with pytest.raises(FloatingPointError):          # sqrt(2) 3e38 is more than float32 knows
        train.train(config(log_every=1), Constant([0.0, 0.0]), loss)
