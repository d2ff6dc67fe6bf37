"""Networks of the papers: trained, kept, shipped and read again."""
import copy
from dataclasses import dataclass

import pytest
import torch
from stand_ins import refused
from torch import nn

import sample
import train
from papers import classifier_free_guidance, improved_ddpm, super_resolution
from papers.kit import training
from papers.kit.training import fit, load_eps, load_fit, save_fit
from plumbing.checkpoint import read_checkpoint, write_checkpoint
from plumbing.flags import arg
from unet import UNet


SMALL = ["--channel-mults", "1", "--attention-resolutions", ""]


class Wide(UNet):
    """A network with a weight that the core's has not."""

    def __init__(self, **network):
        super().__init__(**network)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x_t, t):
        return super().forward(x_t, t) + self.shift


@dataclass
class Config(train.Config):
    power: float = arg(2.0, "of the error", least=1)


def run(argv):
    """Run it, and return the power that its loss was made of."""
    powers = []

    def make(config):
        powers.append(config.power)
        return train.L_simple

    training.train_eps([str(arg) for arg in argv], Config, "doc", Wide, make)
    return powers


class Constant(nn.Module):
    def __init__(self, C=1):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(C))


# ---- by the core's loop ----

def test_another_network_trains_resumes_bit_for_bit_and_takes_new_flags(flags, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(flags("--out", whole, "--steps", "8", "--lr", "1e-3"))
    run(flags("--out", halves, "--steps", "4", "--lr", "1e-3"))
    run(["--resume", "--out", halves, "--steps", "8"])
    one, two = read_checkpoint(whole / "checkpoint.pt"), read_checkpoint(halves / "checkpoint.pt")
    assert one["step"] == two["step"] == 8 and two["config"]["out"] == str(halves)
    assert all(torch.equal(one["ema"][name], two["ema"][name]) for name in one["ema"])
    assert one["ema"]["shift"].abs() > 0
    assert two["config"]["lr"] == 1e-3
    halves.rename(tmp_path / "moved")                # and it goes on where it is now
    run(["--resume", "--out", tmp_path / "moved", "--steps=10", "--image-size", "8",
         "--channel-mults", "1,2", "--lr", "2e-3"])              # the default, but given
    three = read_checkpoint(tmp_path / "moved" / "checkpoint.pt")
    assert three["step"] == 10 and three["config"]["lr"] == 2e-3
    assert not halves.exists()


def test_what_would_make_another_run_of_it_cannot_change(flags, tmp_path):
    run(flags("--out", tmp_path / "a", "--steps", "2", *SMALL))
    for flag, value in (("--channels", 6), ("--T", 6), ("--seed", 1), ("--schedule", "linear")):
        with pytest.raises(ValueError, match=f"{flag} is .* cannot change"):
            run(["--resume", "--out", tmp_path / "a", flag, value])
    with pytest.raises(ValueError, match="--steps must be at least 2"):
        run(["--resume", "--out", tmp_path / "a", "--steps", 1])


def test_a_file_that_is_of_another_network_or_not_there_is_named_with_how_to_make_it(trained,
                                                                                     tmp_path):
    for path in (trained[0], tmp_path / "none.pt"):
        for loader in (load_eps, load_fit):
            with pytest.raises(ValueError, match=f"{path.name}.*papers.test_training train"):
                loader(path, "cpu", Wide)


def test_a_paper_s_own_flags_are_checked_kept_and_go_on_unless_given_anew(flags, tmp_path):
    assert run(flags("--out", tmp_path / "a", "--steps", "2", "--power", "3", *SMALL)) == [3]
    assert run(["--resume", "--out", tmp_path / "a", "--steps", "3"]) == [3]
    assert run(["--resume", "--out", tmp_path / "a", "--steps", "4", "--power", "2"]) == [2]
    assert read_checkpoint(tmp_path / "a" / "checkpoint.pt")["config"]["power"] == 2
    with pytest.raises(ValueError, match="--power must be at least 1"):
        run(["--power", "0.5"])


def test_a_run_goes_into_a_folder_of_its_paper_and_help_shows_all_flags(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(train, "train", lambda config, model, loss, resume: seen.append(config))
    run(["--T", "5"])
    run(["mnist", "--T", "5"])
    assert [config.out for config in seen] == ["runs/papers/test_training"] * 2
    assert [config.data for config in seen] == ["digits", "mnist"]
    with pytest.raises(SystemExit):
        run(["--help"])
    text = capsys.readouterr().out
    for part in ("doc", "--power float", "of the error (2.0)", "(runs/papers/test_training)",
                 "--lr", "mnist:"):
        assert part in text


@pytest.mark.parametrize("program", [classifier_free_guidance, improved_ddpm, super_resolution])
def test_each_paper_that_trains_has_a_folder_of_its_own_and_the_checks_of_train_py(
        program, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(train, "train", lambda config, model, loss, resume: seen.append(config))
    program.main(["train"])
    assert seen[0].out == "runs/papers/" + program.__name__.removeprefix("papers.")
    assert getattr(seen[0], "p_uncond", 0.1) == 0.1
    refused(capsys, ["train", "--steps", 0], "--steps must be at least 1", main=program.main)


# ---- fit ----

def test_fit_finds_the_minimum_from_pixels_in_minus_1_to_1_and_their_own_labels():
    x = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    seen = []

    def loss(model, x_0, labels):
        seen.append((x_0, labels))
        return (model.value - x_0.mean()) ** 2

    model = Constant()
    before = copy.deepcopy(model)
    ema = fit(model, loss, x, torch.arange(256), 400, batch_size=64, lr=0.05)
    assert len(seen) == 400 and all(len(x_0) == 64 for x_0, _ in seen)
    for x_0, labels in seen:
        torch.testing.assert_close((x_0.flatten() + 1) * 127.5, labels.float(), atol=1e-3, rtol=0)
    assert torch.cat([labels for _, labels in seen]).unique().numel() == 256
    assert abs(ema.value.item()) < 0.05              # the mean pixel, 127.5, is 0
    assert not ema.training and not ema.value.requires_grad and model.value.requires_grad
    assert not torch.equal(model.value, before.value)


def test_fit_raises_and_lowers_the_rate_clips_and_averages(monkeypatch):
    """A gradient of 1 always: Adam then moves each time by the rate itself."""
    values, decays = [], []
    update_ema = train.update_ema

    def spy(ema, model, decay):
        decays.append(decay)
        update_ema(ema, model, decay)

    def loss(model, x_0, labels):
        values.append(model.value.item())
        return 1000 * model.value.sum()

    monkeypatch.setattr(train, "update_ema", spy)
    clipped = []
    clip = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_",
                        lambda *args: clipped.append(args[1]) or clip(*args))
    model = Constant()
    ema = fit(model, loss, torch.zeros(4, 1, 1, 1, dtype=torch.uint8), torch.zeros(4), 100, lr=0.1)
    steps = [a - b for a, b in zip(values, values[1:], strict=False)]
    assert 0.08 < max(steps) < 0.11 and 5 <= steps.index(max(steps)) <= 25
    assert steps[0] < 0.01 and steps[-1] < 0.001 and min(steps) > 0
    assert set(clipped) == {1.0} and len(clipped) == 100
    assert decays[0] == 0.1 and decays == sorted(decays) and decays[-1] == pytest.approx(100 / 109)
    average, values = 0.0, [*values[1:], model.value.item()]
    for value, decay in zip(values, decays, strict=True):
        average = decay * average + (1 - decay) * value
    assert ema.value.item() == pytest.approx(average, rel=1e-4)


def test_fit_makes_as_few_steps_as_it_is_asked_for():
    for steps in (1, 2, 3, 5, 9, 10, 11, 19, 20):
        seen = []
        fit(Constant(), lambda model, x_0, labels, seen=seen: seen.append(0) or model.value.sum(),
            torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(2), steps, batch_size=2)
        assert len(seen) == steps


def test_fit_returns_no_weights_that_are_not_finite():
    with pytest.raises(FloatingPointError, match="reader: a weight was not finite"):
        fit(Constant(), lambda model, x_0, labels: model.value.sum() * torch.nan,
            torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(2), 3, label="reader")


def test_what_fit_returned_is_read_again(tmp_path):
    model = Constant(3)
    nn.init.normal_(model.value)
    save_fit(tmp_path / "c.pt", {"C": 3}, 7, model)
    config, again = load_fit(tmp_path / "c.pt", "cpu", lambda config: Constant(config["C"]))
    assert config == {"C": 3} and torch.equal(again.value, model.value)
    assert not again.training and not again.value.requires_grad
    assert read_checkpoint(tmp_path / "c.pt")["step"] == 7
    for config, value in (({"C": 4}, model.value.data), ({}, model.value.data),
                          ({"C": 3}, torch.full((3,), torch.nan))):
        write_checkpoint({"config": config, "step": 7, "ema": {"value": value}}, tmp_path / "d.pt")
        with pytest.raises(ValueError, match="d.pt"):
            load_fit(tmp_path / "d.pt", "cpu", lambda config: Constant(config["C"]))


# ---- shipping ----

def test_a_shipped_copy_is_small_and_has_the_weights_to_11_bits(trained, tmp_path, capsys):
    content = read_checkpoint(trained[0])
    content["config"]["data_dir"] = "/home/of/somebody"
    write_checkpoint(content, trained[0])
    training.main([str(trained[0]), str(tmp_path / "small.pt")])
    size = (tmp_path / "small.pt").stat().st_size
    assert f"{size:,} bytes" in capsys.readouterr().out and size < trained[0].stat().st_size / 3
    assert set(read_checkpoint(tmp_path / "small.pt")) == {"config", "step", "ema"}
    config, _, model = sample.load(tmp_path / "small.pt")
    assert config == {**sample.load(trained[0])[0], "out": "runs/papers/small",
                      "data_dir": "data"}
    for name, weight in trained[1].state_dict().items():
        assert model.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=2 ** -11, atol=6e-8)
    save_fit(tmp_path / "fit.pt", {"C": 1}, 7, Constant())
    training.main([str(tmp_path / "fit.pt"), str(tmp_path / "a.pt")])
    content = read_checkpoint(tmp_path / "a.pt")
    assert content["config"] == {"C": 1} and content["step"] == 7
    assert content["ema"]["value"].dtype == torch.float16
    refused(capsys, [tmp_path / "none.pt", tmp_path / "a.pt"], "none.pt", code=1,
            main=training.main)
    refused(capsys, [trained[0]], "out", main=training.main)
