"""The comparison of samplers: equal noise, and counted evaluations."""
import pytest
import torch
from PIL import Image
from stand_ins import refused
from test_ddpm import STRONG, gaussian, strong

from papers import compare
from papers.compare import by_adaptive, measure
from papers.kit import judge


@pytest.mark.parametrize("name", compare.SAMPLERS)
def test_a_sampler_stays_within_its_budget_and_its_noise_is_that_of_the_seed(name):
    sampler, settings = compare.SAMPLERS[name]
    ddpm, model = strong(), gaussian(0.2, 0.4, STRONG)
    asked = []

    def whole(x_t, t):                               # an SDE asks about times in between, too
        asked.append(t)
        return model(x_t, t.round().long().clamp(1, 8))

    x_T = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    setting = 0.1 if sampler is by_adaptive else 8
    if "PNDM" in name or "Langevin" in name:
        setting = 21                                 # four times cost 13; ten levels a step each
    calls, x_0 = measure(sampler, setting, ddpm, whole, x_T, 7)
    assert x_0.shape == x_T.shape and x_0.abs().max() <= 1 and x_0.isfinite().all()
    assert 1 < calls == len(asked) and (sampler is by_adaptive or calls <= setting)
    assert torch.equal(measure(sampler, setting, ddpm, whole, x_T, 7)[1], x_0)
    random = "DDIM, eta = 0" != name and "ODE" not in name and name != "PNDM"
    other = measure(sampler, setting, ddpm, whole, x_T, 8)[1]
    assert torch.equal(other, x_0) != random


def test_it_draws_a_figure_and_prints_a_table(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "BUDGETS", (4,))
    monkeypatch.setattr(compare, "SAMPLERS", {
        "Algorithm 2": (compare.ancestral, [2, 4]), "DDIM, eta = 0": (compare.by_ddim(0.0), [4]),
        "ODE, adaptive": (by_adaptive, compare.TOLERANCES)})
    monkeypatch.setattr(compare, "TOLERANCES", compare.TOLERANCES)
    path, _ = trained
    compare.main(["--checkpoint", str(path), "--n", "8", "--out", str(tmp_path / "c.png"),
                  "--device", "cpu"])
    said = capsys.readouterr().out
    assert "as many real digits" in said and "the fewest evaluations within a tenth" in said
    assert said.count("Algorithm 2 ") >= 3 and "wrote" in said
    assert Image.open(tmp_path / "c.png").size[0] > 800


def test_only_grey_digits_can_be_read_and_what_is_learned_is_of_improved_ddpm(trained, tmp_path,
                                                                              capsys, monkeypatch):
    path, _ = trained
    refused(capsys, ["--checkpoint", path, "--learned", path, "--out", tmp_path / "c.png"],
            "papers.improved_ddpm train", main=compare.main)
    for name, channels in (("mnist", 1), ("digits", 3)):
        config = {"data": name, "image_size": 8, "image_channels": channels}
        for program in (compare, judge):
            monkeypatch.setattr(program, "start", lambda args, config=config: (
                "cpu", args.checkpoint, config, strong(), None))
            monkeypatch.setattr(program, "train_classifier", lambda *_: 1 / 0)
            refused(capsys, ["--checkpoint", "a.pt"], "a.pt", "no grey rendered digits",
                    main=program.main)
