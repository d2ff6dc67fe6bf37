"""Training: each line of the loop against the same arithmetic done here."""
import math
import os
import runpy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import data
import sample
import train
from ddpm import DDPM
from stand_ins import Constant, checkpoint, pull, refused, rows, same
from train import PRESETS, Config

SMALL = {"channel_mults": (1,), "attention_resolutions": ()}
HARD = {"dropout": 0.3, "flip": True, "log_every": 4, "seed": 7, **SMALL}  # all that draws numbers


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


class Whatever(torch.nn.Module):
    """What an ordinary module may have besides weights of its own."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1, momentum=0.5)
        self.spectral = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Conv2d(1, 2, 1))
        self.weight = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(2, 1, 1))
        self.tied = torch.nn.Conv2d(1, 1, 1)
        self.tied_again = self.tied
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.precise = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.register_buffer("none", None)

    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        assert state == {"a": 1}

    def forward(self, x_t, t):
        if self.training:
            self.hidden += 1
        h = self.weight(self.spectral(self.norm(x_t + self.frozen[0])))
        return self.tied_again(self.tied(h)) * self.precise.float()


def test_whatever_a_module_has_is_trained_averaged_saved_resumed_and_drawn_from(config):
    c = config(steps=6, lr=0.1, warmup=0)
    torch.manual_seed(1)
    model = Whatever()
    _, ema = train.train(c, model)
    average, own = dict(ema.named_buffers()), dict(model.named_buffers())
    assert {"norm.running_mean", "norm.num_batches_tracked", "hidden"} <= set(own)
    assert all(map(torch.equal, average.values(), own.values()))         # copied, not averaged
    assert own["norm.num_batches_tracked"] == 6 and own["norm.running_mean"] != 0
    assert ema.tied is ema.tied_again and torch.equal(ema.frozen, torch.ones(2))
    _, _, loaded = sample.load(Path(c.out, "checkpoint.pt"), model=Whatever())
    for name, value in ema.state_dict().items():
        assert name.endswith("extra_state") or torch.equal(loaded.state_dict()[name], value)
    x_t, t = torch.randn(2, 1, 8, 8), torch.ones(2, dtype=torch.int64)
    torch.testing.assert_close(loaded(x_t, t), ema(x_t, t))

    torch.manual_seed(1)
    part = config(steps=3, lr=0.1, warmup=0, out=c.out + "-2")
    train.train(part, Whatever())
    _, again = train.train(replace(part, steps=6), Whatever(), resume=True)
    for name, value in ema.state_dict().items():
        assert name.endswith("extra_state") or torch.equal(again.state_dict()[name], value), name


def test_a_buffer_that_is_not_finite_is_not_saved(config):
    model = torch.nn.BatchNorm2d(1)
    model.forward = lambda x_t, t: torch.nn.BatchNorm2d.forward(model, x_t)

    def loss(ddpm, net, x_0, labels):
        net.running_mean.fill_(torch.inf)
        return train.L_simple(ddpm, net, x_0, labels)

    with pytest.raises(FloatingPointError):
        train.train(config(steps=2), model, loss)
    assert checkpoint(config())["step"] == 0


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


def test_the_grids_come_from_the_ema_and_the_same_noise(config, monkeypatch):
    drawn = []
    monkeypatch.setattr(train, "save_grid", lambda x, path: drawn.append(x))
    _, ema = train.train(config(steps=2, sample_every=1, lr=0.1, warmup=0))
    assert [len(x) for x in drawn] == [16, 64]
    ddpm = DDPM(sample.SCHEDULES["cosine"](5))
    again = sample.draw(ddpm, ema, (64, 1, 8, 8), torch.Generator().manual_seed(0), "float32")
    off = drawn[1].int() - data.to_uint8(again).int()
    assert off.abs().max() <= 1                      # of 255: a value may round the other way


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


def test_the_samples_and_the_logs_do_not_change_the_run(config):
    train.train(config(**HARD))
    train.train(config(**{**HARD, "log_every": 1}, sample_every=1, save_every=1,
                       out=config().out + "-2"))
    one, two = checkpoint(config()), checkpoint(config(out=config().out + "-2"))
    assert all(same(one[key], two[key]) for key in ("model", "ema", "optimizer", "rng"))


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
    assert "no step is left of --steps 8" in capsys.readouterr().out
    assert (Path(config().out) / "samples.png").exists()
    assert [row["step"] for row in rows(config())] == ["2", "4", "6", "7", "8"]
    assert checkpoint(config())["config"]["channels"] == 4
    refused(capsys, ["--resume", "--out", config().out, "--seed", "1"], "--seed is 0 in this run")
    refused(capsys, ["--resume", "--out", config().out, "--steps", "7"], "at least 8, where this")
    train.main(["--resume", "--out", config().out, "--steps", "9", "--lr", "0.1"])
    assert checkpoint(config())["config"]["lr"] == 0.1          # this does not make it another run
    assert checkpoint(config())["optimizer"]["param_groups"][0]["lr"] == 0.1
    refused(capsys, ["--resume", "--out", config().out, "--channel-mults", "1,4"], "is 1,2 in")
    refused(capsys, ["--resume", "--out", config().out + "-2"], "nothing to resume")
    refused(capsys, ["mnist", "--resume", "--out", config().out], "run on 'digits', not on 'mnist'")
    for argv in (["--data", "."], ["folder", "--data", "."]):
        refused(capsys, [*argv, "--resume", "--out", config().out], "run on 'digits', not on '.'")


def test_a_chain_that_is_too_short_is_warned_of_once_also_when_the_run_goes_on(config, flags):
    for argv in (flags("--schedule", "linear", "--steps", "1"),
                 ["--resume", "--out", config().out, "--steps", "2"]):
        with pytest.warns(UserWarning, match="alpha_bar_T") as caught:
            train.main(argv)
        assert len(caught) == 1


def test_an_out_that_cannot_be_written_is_one_line(tmp_path, flags, capsys):
    (tmp_path / "file").write_text("")
    refused(capsys, flags("--out", tmp_path / "file" / "run"), "file", code=1)


def test_values_at_their_limits_work(config):
    config(warmup=0, ema_decay=0, dropout=0.99, seed=2 ** 32 - 1, attention_resolutions=())
    train.train(config(warmup=0, ema_decay=0.0, batch_size=1, T=1, steps=1))


def test_a_batch_may_be_larger_than_the_data(config):
    train.train(config(batch_size=41, steps=1))
    assert checkpoint(config())["step"] == 1


def test_pictures_in_the_size_of_digits_are_told_of_the_preset_for_pictures(config, tmp_path,
                                                                            capsys):
    (tmp_path / "pics").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "pics" / "a.png")
    train.train(config(data=str(tmp_path / "pics"), steps=1))
    assert "python train.py folder --data DIR" in capsys.readouterr().out
    train.train(config(steps=1, out=config().out + "-2"))
    assert "folder" not in capsys.readouterr().out


def test_the_cifar10_preset_is_appendix_B():
    c = Config(**PRESETS["cifar10"])
    assert (c.T, c.schedule, c.lr, c.warmup, c.batch_size) == (1000, "linear", 2e-4, 5000, 128)
    assert (c.ema_decay, c.grad_clip, c.dropout, c.flip, c.steps) == (0.9999, 1, 0.1, True, 800_000)
    with torch.device("meta"):                       # where weights take no memory
        net = sample.UNet(**{name: getattr(c, name) for name in sample.NETWORK})
    assert sum(weight.numel() for weight in net.parameters()) == 35_746_307


@pytest.mark.parametrize("cuda, triton, compiled", [(True, "a spec", True), (True, None, False),
                                                    (False, "a spec", False)])
def test_the_papers_run_is_compiled_where_that_is_possible(monkeypatch, cuda, triton, compiled):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: triton)
    presets = runpy.run_path(train.__file__)["PRESETS"]
    assert [name for name in presets if presets[name].get("compile")] == ["cifar10"] * compiled


def test_the_digits_preset_is_small_enough_for_a_laptop():
    net = sample.build(vars(train.preset()))[1]
    assert sum(weight.numel() for weight in net.parameters()) == pytest.approx(1.16e6, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_its_network(preset):
    config = Config(**{**PRESETS[preset], "data": PRESETS[preset].get("data") or "digits"})
    with torch.device("meta"):
        net = sample.UNet(**{name: getattr(config, name) for name in sample.NETWORK})
    assert net.divisor == 2 ** (len(config.channel_mults) - 1)


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


# ---- from Python ----

def test_config_and_presets_are_what_the_command_line_has():
    assert train.preset() == Config() and Config().schedule == "cosine"
    c = train.preset("cifar10", steps=7)
    assert (c.steps, c.channels, c.out, c.schedule) == (7, 128, "runs/cifar10", "linear")


def test_a_preset_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="no preset 'cifar'; there are digits, mnist, .*cifar10"):
        train.preset("cifar")


def test_a_second_call_says_in_python_s_terms_what_to_do(config):
    train.train(config(), Constant(), pull)
    with pytest.raises(ValueError, match=r"train\(config, resume=True\).*Config\(out=DIR\)"):
        train.train(config(), Constant(), pull)


@pytest.mark.parametrize("changes", [{"T": 6}, {"schedule": "linear"}, {"seed": 1},
                                     {"channel_mults": (1, 4)}, {"steps": 5}, {"data": "mnist"}])
def test_no_run_goes_on_as_another_one(config, changes):
    train.train(config(), Constant(), pull)
    with pytest.raises(ValueError, match="in this run|where this run is|is a run on 'digits'"):
        train.train(config(**changes), Constant(), pull, resume=True)
    with pytest.raises(ValueError, match="nothing to resume"):
        train.train(config(out=config().out + "-2"), Constant(), pull, resume=True)
