"""Training: each line of the loop against the same arithmetic done here, each promise of a run."""
import csv
import math
import os
import runpy
import shlex
import signal
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image

import data
import sample
import train
from ddpm import DDPM
from train import PRESETS, Config

ROOT = Path(__file__).parent.parent
PLOT = train.plot


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """The plot is most of the time of a run this small: only who looks at it puts PLOT back."""
    monkeypatch.setattr(train, "plot", lambda out, rows: None)


class Constant(torch.nn.Module):
    """A network of one weight w, which predicts w everywhere."""

    def __init__(self, w=5.0):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w))

    def forward(self, x_t, t):
        return self.w + 0 * x_t


def pull(ddpm, model, x_0, labels):
    """A loss whose gradient is known: (w - 3)^2 for each image."""
    return ((model.w - 3) ** 2).expand(len(x_0)), torch.ones(len(x_0), dtype=torch.int64)


def checkpoint(config):
    return torch.load(Path(config.out, "checkpoint.pt"), weights_only=True)


def rows(config):
    with open(Path(config.out, "log.csv"), newline="") as f:
        return list(csv.DictReader(f))


def same(one, two):
    """Are two nested structures of tensors, numbers and strings equal, bit for bit?

    For what was only moved, and for two runs that make the same operations in the same order, on
    tensors of the same shapes, with the same number of threads: what resume on a CPU promises.
    """
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


# ---- Algorithm 1 ----

def test_L_simple_is_the_loss_of_each_image_at_times_1_to_T():
    ddpm, seen = DDPM([0.5, 0.9, 0.9]), []

    def model(x_t, t):
        seen.append((x_t, t))
        return torch.zeros_like(x_t)

    x_0 = torch.zeros(3000, 2, 2, 2)
    losses, t = train.L_simple(ddpm, model, x_0, None)
    times, counts = t.unique(return_counts=True)
    assert times.tolist() == [1, 2, 3] and counts.min() > 850
    x_t, asked = seen[0]
    assert torch.equal(asked, t)
    one_minus_alpha_bar = torch.tensor([0.0, 0.5, 0.95, 0.995])[t].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(losses, (x_t ** 2 / one_minus_alpha_bar).mean((1, 2, 3)))


def test_a_step_is_warmed_up_clipped_adam_and_its_ema(config):
    """Adam written out: the bias-corrected moments of the clipped gradient."""
    ddpm, ema = train.train(config(lr=0.1, warmup=4, grad_clip=1.0, steps=6), Constant(), pull)
    w, m, v, average = 5.0, 0.0, 0.0, 5.0
    for step in range(1, 7):
        g = 2 * (w - 3)
        g = g / max(1.0, abs(g))                                # |g| > 1 is clipped to norm 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g ** 2
        w -= 0.1 * min(1, step / 4) * (m / (1 - 0.9 ** step)) / (
            math.sqrt(v / (1 - 0.999 ** step)) + 1e-8)
        decay = (1 + step) / (10 + step)
        average = decay * average + (1 - decay) * w
    assert checkpoint(config())["model"]["w"].item() == pytest.approx(w, rel=1e-5)
    assert ema.w.item() == pytest.approx(average, rel=1e-5)
    assert checkpoint(config())["ema"]["w"].item() == ema.w.item()
    assert ddpm.T == 5


def test_the_ema_decays_no_slower_than_asked(config):
    _, ema = train.train(config(lr=0.1, warmup=0, ema_decay=0.2, steps=2), Constant(), pull)
    average = 2 / 11 * 5.0 + 9 / 11 * 4.9                       # Adam's first steps have length lr
    average = 0.2 * average + 0.8 * 4.8                         # 3 / 12 is more than 0.2
    assert ema.w.item() == pytest.approx(average, abs=1e-3)
    ema, model = Constant(1.0), Constant(2.0)
    train.update_ema(ema, model, 0.9)
    assert ema.w.item() == pytest.approx(1.1)


def test_the_ema_is_frozen_and_in_eval_mode_from_birth(config):
    _, ema = train.train(config(dropout=0.5, steps=1))
    assert not any(module.training for module in ema.modules())
    assert not any(weight.requires_grad for weight in ema.parameters())


def test_a_compiled_network_learns_the_same(config, monkeypatch):
    """Of one weight: that all of the U-Net compiles in one piece is for test_unet.py to show."""
    train.train(config(), Constant())
    compiled, original = [], torch.nn.Module.compile

    def backend(graph, inputs):                      # needs no C++ compiler
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **options:
                        original(net, backend=backend, **options))
    _, ema = train.train(config(compile=True, out=config().out + "-2"), Constant())
    assert len(compiled) == 1
    one, two = checkpoint(config()), checkpoint(config(out=config().out + "-2"))
    for part in ("model", "ema"):
        assert list(one[part]) == list(two[part])
        torch.testing.assert_close(two[part]["w"], one[part]["w"], rtol=1e-5, atol=0)


def test_training_lowers_the_loss_of_a_network(config):
    train.train(config(steps=40, log_every=5, lr=1e-2, batch_size=16))
    first, *_, last = (float(row["loss"]) for row in rows(config()))
    assert 0.7 < first < 1.2 and last < 0.5 * first


def test_batches_are_drawn_from_all_images_with_their_labels_and_mirrored_if_asked(config):
    x = torch.arange(12, dtype=torch.uint8).reshape(6, 1, 1, 2).repeat(1, 3, 1, 1)
    labels = torch.arange(6)
    x_0, y = train.draw_batch(x, labels, config(batch_size=4000), torch.device("cpu"))
    assert x_0.shape == (4000, 3, 1, 2) and x_0.dtype == torch.float32
    assert torch.equal(data.to_uint8(x_0), x[y])
    assert x_0.min() < -0.9
    assert y.bincount(minlength=6).min() > 550                  # 667 expected of each
    x_0, y = train.draw_batch(x, labels, config(batch_size=4000, flip=True), torch.device("cpu"))
    plain = (data.to_uint8(x_0) == x[y]).all((1, 2, 3))
    turned = (data.to_uint8(x_0) == x[y].flip(3)).all((1, 2, 3))
    assert (plain ^ turned).all() and 0.45 < plain.float().mean() < 0.55
    assert train.draw_batch(x, None, config(), torch.device("cpu"))[1] is None


def test_a_paper_can_hand_over_its_network_and_its_loss_with_labels(config):
    seen = []

    def loss(ddpm, model, x_0, labels):
        seen.append(labels)
        assert x_0.abs().max() <= 1 and x_0.shape == (3, 1, 8, 8)
        return pull(ddpm, model, x_0, labels)

    train.train(config(), Constant(), loss)
    assert len(seen) == 6 and all(labels.shape == (3,) for labels in seen)


def test_losses_are_sorted_by_quarter_of_t():
    t = torch.arange(1, 13)
    tally = train.by_quarter(t.float(), t, 12)
    assert tally.tolist() == [[6, 15, 24, 33], [3, 3, 3, 3]]
    assert train.by_quarter(torch.ones(2), torch.tensor([1, 2]), 2)[1].tolist() == [1, 0, 1, 0]


# ---- what a run leaves ----

def test_a_run_leaves_checkpoint_log_plot_and_samples(config, capsys, monkeypatch):
    monkeypatch.setattr(train, "plot", PLOT)
    train.train(config(steps=6, log_every=2, save_every=4, sample_every=4))
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


def test_a_line_of_the_log_says_how_fast_and_how_long(config, monkeypatch, capsys):
    tally = torch.tensor([[3.0, 2, 1, 0], [2, 2, 2, 0]])
    run = train.Run(None, None, None, tally, step=4)
    Path(config().out).mkdir()
    monkeypatch.setattr(train.time, "monotonic", lambda: 100.5)
    train.log(Path(config().out), config(steps=12), run, since=(2, 100.0))   # 2 steps in 0.5 s
    assert capsys.readouterr().out == ("step  4/12  loss 1.0000  by quarter of t 1.5000 1.0000 "
                                       "0.5000 -  12 img/s  0:00:02 left\n")
    assert not run.tally.any() and run.rows[0][:3] == [4, 1.0, 1.5]


def test_the_plot_shows_the_loss_and_its_quarters(config, monkeypatch):
    drawn, original = [], train.Figure.savefig
    monkeypatch.setattr(train.Figure, "savefig", lambda figure, *args, **options:
                        drawn.append(figure.axes[0]) or original(figure, *args, **options))
    for rows in ([], [[10, 0.5, 0.5, *[math.nan] * 3, 77.0]],    # none yet; of one quarter alone
                 [[10, 0.5, 0.9, 0.4, 0.2, 0.1, 77.0], [20, 0.3, 0.6, 0.3, 0.2, 0.1, 77.0]]):
        PLOT(Path(config().out), rows)
    lines = {line.get_label(): line for line in drawn[2].get_lines()}
    assert [list(line.get_ydata()) for line in lines.values()] == [
        [0.5, 0.3], [0.9, 0.6], [0.4, 0.3], [0.2, 0.2], [0.1, 0.1]]
    assert list(lines["all t"].get_xdata()) == [10, 20] and lines["all t"].get_color() == "black"
    assert sum(line.get_color() == "black" for line in lines.values()) == 1
    assert drawn[2].get_yscale() == "log"


def test_the_grids_come_from_the_ema_and_the_same_noise(config, monkeypatch):
    drawn = []
    monkeypatch.setattr(train, "save_grid", lambda x, path: drawn.append(x))
    _, ema = train.train(config(steps=2, sample_every=1, lr=0.1, warmup=0))
    assert [len(x) for x in drawn] == [16, 64]
    ddpm = DDPM(sample.SCHEDULES["cosine"](5))
    again = sample.draw(ddpm, ema, (64, 1, 8, 8), torch.Generator().manual_seed(0), "float32")
    torch.testing.assert_close(drawn[1], again, rtol=0, atol=1e-4)


def test_a_checkpoint_is_plain_and_complete(config):
    train.train(config(steps=3))
    content = checkpoint(config())
    assert set(content) == {"config", "step", "model", "ema", "optimizer", "tally", "rows",
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


def test_a_grid_that_was_interrupted_is_drawn_at_the_next_start(config, monkeypatch):
    c = config(sample_every=2, save_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(train, "draw", lambda *args, **options: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            train.train(c, Constant())
    samples = Path(c.out, "samples")
    assert checkpoint(c)["step"] == 2 and not list(samples.glob("*"))
    samples.mkdir()
    (samples / "000002.png.7.tmp").write_bytes(b"half")         # had it been killed a bit later
    train.train(c, Constant(), resume=True)
    assert sorted(os.listdir(samples)) == ["000002.png", "000004.png"]


def test_old_grids_are_not_taken_for_new_ones(config):
    samples = Path(config().out, "samples")
    samples.mkdir(parents=True)
    (samples / "000002.png").write_text("of an earlier run")
    train.train(config(sample_every=2), Constant(), pull)
    assert Image.open(samples / "000002.png").size == (4 * 50, 4 * 50)


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


# ---- going on ----

SMALL = {"channel_mults": (1,), "attention_resolutions": ()}
HARD = {"dropout": 0.3, "flip": True, "log_every": 4, "seed": 7, **SMALL}  # all that draws numbers


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


def test_the_samples_and_the_logs_do_not_change_the_run(config):
    train.train(config(**HARD))
    train.train(config(**{**HARD, "log_every": 1}, sample_every=1, save_every=1,
                       out=config().out + "-2"))
    one, two = checkpoint(config()), checkpoint(config(out=config().out + "-2"))
    assert all(same(one[key], two[key]) for key in ("model", "ema", "optimizer", "rng"))


def test_another_seed_is_another_run(config):
    train.train(config(steps=1, **SMALL))
    train.train(config(steps=1, **SMALL, seed=1, out=config().out + "-2"))
    one, two = checkpoint(config()), checkpoint(config(out=config().out + "-2"))
    assert not same(one["model"], two["model"]) and not same(one["rng"], two["rng"])


def test_the_random_state_of_a_gpu_is_kept_too(monkeypatch):
    gpu, state, kept = torch.device("cuda:1"), torch.ones(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state * device.index)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *args: kept.append(args))
    assert torch.equal(train.device_rng(gpu), state)
    train.device_rng(gpu, state)
    assert kept == [(state, gpu)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state)
    assert train.device_rng(torch.device("mps")) is state
    assert len(train.device_rng(torch.device("cpu"))) == 0


def test_rows_logged_after_the_checkpoint_are_written_again(config):
    train.train(config(steps=4, log_every=1), Constant(), pull)
    with open(Path(config().out, "log.csv"), "a") as f:
        f.write("5,9,9,9,9,9,9\n6,9,")                          # as if killed before the next save
    train.train(config(steps=6, log_every=1), Constant(), pull, resume=True)
    assert [row["step"] for row in rows(config())] == list("123456")
    assert all(float(row["loss"]) < 9 for row in rows(config()))


HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)              # Windows has none


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
    with pytest.raises(SystemExit) as caught:
        train.train(config(steps=100), Constant(), loss)
    assert caught.value.code == 128 + signum
    assert checkpoint(config())["step"] == len(steps) == 3
    # Not "python train.py": that is of a run with the core's own network.
    assert f"to go on: the same with --resume --out {config().out}" in capsys.readouterr().out
    assert signal.getsignal(signum) is before
    train.train(config(steps=5), Constant(), loss, resume=True)
    assert checkpoint(config())["step"] == 5


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
    with pytest.raises(SystemExit):
        train.train(config(steps=6, sample_every=3))
    assert checkpoint(config())["step"] == 3
    assert f"to go on: python train.py --resume --out {config().out}" in capsys.readouterr().out
    assert not Path(config().out, "samples").exists()
    with pytest.raises(SystemExit):                             # and in the last grid
        train.train(config(steps=6), resume=True)
    assert checkpoint(config())["step"] == 6
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


# ---- the command line ----

def refused(capsys, argv, *words, code=2, main=train.main):
    """Run main: it must exit with `code` and one line on stderr that has these words."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in argv])
    said = capsys.readouterr().err
    assert caught.value.code == code
    assert said.count("\n") == 1 and "Traceback" not in said, said
    assert all(word in said for word in words), said


def test_the_command_line_trains_resumes_and_refuses_to_overwrite(config, flags, capsys):
    train.main(flags())
    content = Path(config().out, "checkpoint.pt").read_bytes()
    refused(capsys, flags(), "already holds a run", "--resume", "--out")
    assert Path(config().out, "checkpoint.pt").read_bytes() == content
    train.main(["--resume", "--out", config().out, "--steps", "8", "--log-every", "1"])
    assert checkpoint(config())["step"] == 8
    assert [row["step"] for row in rows(config())] == ["2", "4", "6", "7", "8"]
    (Path(config().out) / "samples.png").unlink()
    train.main(["--resume", "--out", config().out])             # nothing left but the samples
    assert "nothing is left of --steps 8" in capsys.readouterr().out
    assert (Path(config().out) / "samples.png").exists()
    assert [row["step"] for row in rows(config())] == ["2", "4", "6", "7", "8"]
    assert checkpoint(config())["config"]["channels"] == 4
    refused(capsys, ["--resume", "--out", config().out, "--seed", "1"], "--seed is 0 in this run")
    refused(capsys, ["--resume", "--out", config().out, "--steps", "7"], "at least 8, where this")
    train.main(["--resume", "--out", config().out, "--steps", "9", "--lr", "0.1"])
    assert checkpoint(config())["config"]["lr"] == 0.1          # this does not make it another run
    assert checkpoint(config())["optimizer"]["param_groups"][0]["lr"] == 0.1
    refused(capsys, ["--resume", "--out", config().out, "--channel-mults", "1,4"], "(1, 2)")
    refused(capsys, ["--resume", "--out", config().out + "-2"], "nothing to resume")
    refused(capsys, ["mnist", "--resume", "--out", config().out], "run on 'digits', not on 'mnist'")
    for argv in (["--data", "."], ["folder", "--data", "."]):
        refused(capsys, [*argv, "--resume", "--out", config().out], "run on 'digits', not on '.'")


@pytest.mark.parametrize("argv, words", [
    (["imagenet"], ["there is no preset 'imagenet'", "cifar10"]),
    (["--stepz", "5"], ["unrecognized arguments: --stepz"]),
    (["--step", "5"], ["unrecognized arguments: --step"]),
    (["--steps", "many"], ["--steps", "'many'"]),
    (["--steps", "0"], ["--steps must be at least 1, not 0"]),
    (["--T", "0"], ["--T must be at least 1, not 0"]),
    (["--seed", "-1"], ["--seed must be at least 0, not -1"]),
    (["--seed", str(2 ** 32)], ["--seed must be below 2^32"]),
    (["--channels", "2"], ["--channels must be at least 4"]),
    (["--batch-size", "0"], ["--batch-size must be at least 1"]),
    (["--num-res-blocks", "0"], ["--num-res-blocks"]),
    (["--sample-every", "-1"], ["--sample-every must be at least 0"]),
    (["--warmup", "-1"], ["--warmup must be at least 0"]),
    (["--schedule", "sigmoid"], ["--schedule must be linear or cosine, not sigmoid"]),
    (["--variance", "learned"], ["--variance must be beta or beta_tilde"]),
    (["--precision", "fp16"], ["--precision must be auto or bf16 or float32, not fp16"]),
    (["--image-channels", "4"], ["--image-channels must be 1 or 3, not 4"]),
    (["--image-size", "9"], ["--image-size must be divisible by 2, for 2 levels, not 9"]),
    (["--attention-resolutions", "3"], ["--attention-resolutions", "8,4, not '3'"]),
    (["--channel-mults", "1,0"], ["--channel-mults must be one positive integer per level"]),
    (["--channel-mults", ""], ["--channel-mults must be one positive integer per level"]),
    (["--channel-mults", "1,x"], ["--channel-mults"]),
    (["--lr", "0"], ["--lr must be positive"]), (["--lr", "nan"], ["--lr must be positive"]),
    (["--lr", "inf"], ["--lr must be positive"]),
    (["--grad-clip", "0"], ["--grad-clip must be positive"]),
    (["--ema-decay", "1"], ["--ema-decay must be below 1"]),
    (["--ema-decay", "-0.1"], ["--ema-decay must be at least 0"]),
    (["--dropout", "1"], ["--dropout must be below 1"]),
    (["--dropout", "-0.1"], ["--dropout"]),
    (["--device", "tpu9"], ["there is no device 'tpu9' here"]),
    (["--out", ""], ["--out must name a folder"]),
    (["--data", "no/such/folder"], ["'no/such/folder' is neither a folder nor one of digits"]),
])
def test_a_wrong_value_is_one_line_and_writes_nothing(config, flags, capsys, argv, words):
    refused(capsys, flags(*argv), *words)
    assert not Path(config().out).exists()


def test_the_folder_preset_asks_for_its_folder(capsys):
    refused(capsys, ["folder"], "--data DIR must name a data set or a folder of images")


def test_an_out_that_cannot_be_written_is_one_line(tmp_path, flags, capsys):
    (tmp_path / "file").write_text("")
    refused(capsys, flags("--out", tmp_path / "file" / "run"), "file", code=1)


def test_values_at_their_limits_work(config):
    config(warmup=0, ema_decay=0, dropout=0.99, seed=2 ** 32 - 1, attention_resolutions=())
    train.train(config(warmup=0, ema_decay=0.0, batch_size=1, T=1, steps=1))


def test_a_batch_larger_than_the_data_says_so_and_trains(config, capsys):
    train.train(config(batch_size=41, steps=1), Constant())
    assert "a batch of 41 drawn from 40 images repeats some" in capsys.readouterr().out
    train.train(config(batch_size=40, steps=1, out=config().out + "-2"), Constant())
    assert "repeats" not in capsys.readouterr().out


def test_every_field_is_a_flag_and_help_explains_it(capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    for f in fields(Config):
        assert f"--{f.name.replace('_', '-')}" in said and f.metadata["help"] in said
    assert said.count("DIR") == 1                    # the folder's; what is off needs no mention
    assert "cifar10: --data cifar10 --image-size 32 --image-channels 3 --flip --channels" in said
    assert "--channel-mults 1,2,2,2" in said and "(cosine)" in said and "folder: --data DIR" in said


def test_flags_are_parsed_by_the_type_of_their_field():
    config, resume = train.parse(["mnist", "--lr", "3e-4", "--channel-mults", "1,2,4", "--flip",
                                  "--attention-resolutions", "", "--T", "7", "--out", "x"])
    assert not resume and config.data == "mnist" and config.image_size == 28
    assert (config.lr, config.channel_mults, config.attention_resolutions) == (3e-4, (1, 2, 4), ())
    assert (config.T, config.flip, config.out) == (7, True, "x")
    assert train.parse([])[0] == Config(schedule="cosine", out="runs/digits")
    assert train.parse(["mnist"])[0].schedule == "linear"
    assert train.parse(["cifar10", "--no-flip"])[0].out == "runs/cifar10"


def test_the_cifar10_preset_is_appendix_B():
    c = Config(**PRESETS["cifar10"])
    assert (c.T, c.schedule, c.lr, c.warmup, c.batch_size) == (1000, "linear", 2e-4, 5000, 128)
    assert (c.ema_decay, c.grad_clip, c.dropout, c.flip, c.steps) == (0.9999, 1, 0.1, True, 800_000)
    with torch.device("meta"):                       # where weights take no memory
        net = sample.network(vars(c))
    assert sum(weight.numel() for weight in net.parameters()) == 35_746_307


@pytest.mark.parametrize("cuda, triton, compiled", [(True, "a spec", True), (True, None, False),
                                                    (False, "a spec", False)])
def test_the_papers_run_is_compiled_where_that_is_possible(monkeypatch, cuda, triton, compiled):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: triton)
    presets = runpy.run_path(train.__file__)["PRESETS"]
    assert [name for name in presets if presets[name].get("compile")] == ["cifar10"] * compiled


def test_the_digits_preset_is_small_enough_for_a_laptop():
    net = sample.network(vars(train.parse([])[0]))
    assert sum(weight.numel() for weight in net.parameters()) == pytest.approx(0.70e6, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_its_network(preset):
    config = Config(**{**PRESETS[preset], "data": PRESETS[preset].get("data") or "digits"})
    with torch.device("meta"):
        net = sample.UNet(**{name: getattr(config, name) for name in sample.NETWORK})
    assert net.divisor == 2 ** (len(config.channel_mults) - 1)


# ---- strange circumstances ----

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
    assert "to go on: python train.py --resume" in said
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
    assert checkpoint(config())["step"] == 0


@pytest.mark.thorough
@pytest.mark.parametrize("closed", ["<&- >&-", "<&- >&- 2>&-"])
def test_a_program_needs_no_terminal_no_home_and_no_display(config, program, closed):
    env = {name: value for name, value in os.environ.items()
           if name not in ("HOME", "DISPLAY", "WAYLAND_DISPLAY", "PATH", "TERM", "XDG_CACHE_HOME",
                           "XDG_CONFIG_HOME")}
    env["MPLCONFIGDIR"] = matplotlib.get_cachedir()             # else its first start takes longer
    done = shell(f"{shlex.join(map(str, program))} --steps 6 {closed}", env=env)
    assert done.returncode == 0 and done.stderr == ""
    assert checkpoint(config())["step"] == 6 and Path(config().out, "loss.png").exists()


@pytest.mark.parametrize("pictures, changes", [
    ("one", {"image_size": 4, "attention_resolutions": (1,), "channel_mults": (1, 1, 1)}),  # 1 x 1
    ("two", {"batch_size": 1}), ("constant", {"T": 1}),
    ("wide", {"channel_mults": (1,), "attention_resolutions": ()})])
def test_the_least_that_can_be_trained_on(config, tmp_path, pictures, changes):
    images = {"one": [Image.new("L", (5, 5), 9)], "two": [Image.new("RGB", (9, 9), "red")] * 2,
              "constant": [Image.new("L", (8, 8), 127)] * 12,
              "wide": [Image.linear_gradient("L").resize((30, 10))]}[pictures]
    for i, image in enumerate(images):
        (tmp_path / "in").mkdir(exist_ok=True)
        image.save(tmp_path / "in" / f"{i}.png")
    c = config(data=str(tmp_path / "in"), data_dir=str(tmp_path / "cache"), **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")              # of alpha_bar_T, at T = 1
        train.train(c)
    assert checkpoint(c)["step"] == 6 and Path(c.out, "samples.png").exists()


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
