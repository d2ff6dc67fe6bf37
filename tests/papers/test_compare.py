"""The comparison of samplers: equal noise, and counted evaluations."""
import math
import re
import statistics
from itertools import pairwise

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
    random = name.startswith(("Algorithm", "Euler", "predictor", "annealed"))
    other = measure(sampler, setting, ddpm, whole, x_T, 8)[1]
    assert torch.equal(other, x_0) != random


def test_networks_of_their_own_are_asked_as_often_as_is_said():
    x_T = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    tasks = compare.with_networks_of_their_own("cpu")
    assert [name for name, *_ in tasks] == ["Euler, flow", "Euler, reflow",
                                            "consistency, distilled", "consistency, alone"]
    ends = []
    for _, sampler, model, settings in tasks:
        assert {1, 2} <= set(settings)
        calls, x_0 = measure(sampler, 2, None, model, x_T, 7)    # whatever the checkpoint's chain
        assert calls == 2 and x_0.shape == x_T.shape and x_0.isfinite().all()
        ends.append(x_0)
    assert all((a - b).abs().max() > 0.1 for a, b in pairwise(ends))


def test_it_draws_a_figure_and_prints_a_table(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "BUDGETS", (2, 4))
    monkeypatch.setattr(compare, "SAMPLERS", {
        "Algorithm 2, beta": (compare.by_chain("beta"), [4, 5]),
        "DDIM, clipped": (compare.by_ddim, [2, 4]),
        "ODE, adaptive": (by_adaptive, compare.TOLERANCES)})
    monkeypatch.setattr(compare, "TOLERANCES", compare.TOLERANCES)
    path, _ = trained
    judged = []
    original = compare.judge
    monkeypatch.setattr(compare, "judge", lambda *args: judged.append(
        original(*args)) or judged[-1])
    compare.main(["--checkpoint", str(path), "--n", "8", "--seeds", "3", "--seed", "2", "--out",
                  str(tmp_path / "c.png"), "--device", "cpu"])
    said = capsys.readouterr().out
    assert "seeds [2, 3, 4]" in said and "wrote" in said
    rows = re.findall(r"^(.*?)  +(\d*) +(\S+)% \+- +(\S+)% +(\S+) \+- +(\S+)$", said, re.M)
    assert [row[0] for row in rows] == ["as many real digits", *2 * ["Algorithm 2, beta"],
                                        *2 * ["DDIM, clipped"], *4 * ["ODE, adaptive"]]
    assert len(judged) == 3 * len(rows)
    for k, row in enumerate(rows):                   # means and spread over the three seeds
        shares, distances = (list(each) for each in zip(*judged[3 * k:3 * k + 3], strict=True))
        expected = [100 * statistics.mean(shares), 100 * statistics.stdev(shares),
                    statistics.mean(distances), statistics.stdev(distances)]
        assert [float(text) for text in row[2:]] == pytest.approx(expected, abs=0.06)
    ours = {rows[k][0]: [d for _, d in judged[3 * k:3 * k + 3]] for k in (1, 4)}
    best, other = sorted(ours, key=lambda name: sum(ours[name]))
    assert f"least distance is that of {best}; within" in said
    gap = [a - b for a, b in zip(ours[other], ours[best], strict=True)]
    alike = statistics.mean(gap) <= 3 * statistics.stdev(gap) / 3 ** 0.5
    assert re.search("errors of it: (.*)", said)[1] == (other if alike else "none")
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
            for name in ("load_reader", "load_readers"):
                monkeypatch.setattr(program, name, lambda *_: 1 / 0, raising=False)
            refused(capsys, ["--checkpoint", "a.pt"], "a.pt", "no grey rendered digits",
                    main=program.main)


def test_only_what_all_seeds_say_tells_samplers_apart():
    assert compare.told_apart([2.0, 3.0, 4.1], [1.0, 2.0, 3.0])            # always 1 above
    assert not compare.told_apart([2.0, 3.0, 4.0], [3.0, 1.0, 4.0])
    assert not compare.told_apart([1.0, 2.0, 3.0], [2.0, 3.0, 4.1])        # better


def test_a_short_chain_has_the_variance_that_it_is_named_for():
    ddpm, asked = strong(), []

    def model(x_t, t):
        asked.append(t[0].item())
        return torch.zeros_like(x_t)

    x_T = torch.zeros(20_000, 1, 1, 1)
    alpha_bar = ddpm.exact.alpha_bar
    for variance in ("beta", "beta_tilde"):
        asked.clear()
        x_0 = compare.by_chain(variance)(ddpm, model, x_T, 2, torch.Generator().manual_seed(0))
        assert asked == [8, 1]
        beta = 1 - alpha_bar[8] / alpha_bar[1]
        beta_tilde = (1 - alpha_bar[1]) / (1 - alpha_bar[8]) * beta
        sigma = (beta if variance == "beta" else beta_tilde).sqrt()
        noisy = x_0 * alpha_bar[1].sqrt()            # the last step divides by this, and clips
        inside = noisy[x_0.abs() < 1]
        bound = (alpha_bar[1].sqrt() / sigma).item()
        assert (len(inside) / len(x_0)) == pytest.approx(math.erf(bound / 2 ** 0.5), abs=0.015)


def test_ddim_like_pndm_starts_where_pndm_does_and_clips_nothing(monkeypatch):
    ddpm, seen = strong(), []
    monkeypatch.setattr(compare.pndm, "sample", lambda d, m, x, times: seen.append(times[-1]) or x)
    monkeypatch.setattr(compare.ddim, "sample", lambda d, m, x, times, clip: seen.append(
        (times[-1], clip)) or x)
    compare.by_pndm(ddpm, None, torch.zeros(1), 13, None)
    compare.by_ddim_like_pndm(ddpm, None, torch.zeros(1), 4, None)
    assert seen[1] == (seen[0], False)
