"""Features of time against closed forms; errors against networks whose error is known."""
import math
import re

import pytest
import torch
from stand_ins import noise, refused
from test_ddpm import STRONG, coefficients, strong

from ddpm import DDPM
from papers import time_features
from papers.kit.analytic import Mixture
from papers.time_features import (FourierFeatures, Network, alike, compare, draw_figure, errors,
                                  summary, ways)
from unet import timestep_embedding

_, ALPHA_BAR = coefficients(STRONG)
NAMES = ["none", "t / T", "sinusoids", "Fourier, s = 1", "Fourier, s = 16",
         "Fourier of log sigma, s = 16"]


# ---- the features ----

def test_the_features_are_cosines_and_sines_of_2_pi_b_v():
    features, v = FourierFeatures(6, 3.0, noise()), torch.tensor([0.0, 0.25, 1.5])
    b = 3 * torch.randn(3, generator=noise())
    for k in range(3):
        for j in range(3):
            angle = 2 * math.pi * b[j].item() * v[k].item()
            assert features(v)[k, j].item() == pytest.approx(math.cos(angle), abs=1e-5)
            assert features(v)[k, 3 + j].item() == pytest.approx(math.sin(angle), abs=1e-5)


@pytest.mark.parametrize("s", [0.3, 1.0, 16.0])
def test_their_product_is_a_gaussian_of_the_difference_in_the_mean_over_the_frequencies(s):
    """E cos(2 pi b d) = exp(-2 pi^2 s^2 d^2) for b ~ N(0, s^2): the characteristic function."""
    m = 100_000
    features = FourierFeatures(2 * m, s, noise(1))
    for d in (0.0, 0.1 / s, 0.3 / s, 1 / s):
        v = torch.tensor([0.7, 0.7 + d])
        a, b = features(v)
        mean, expected = (a * b).sum().item() / m, math.exp(-2 * (math.pi * s * d) ** 2)
        assert mean == pytest.approx(expected, abs=4 * math.sqrt(0.5 / m) + 1e-4)


def test_the_frequencies_are_a_saved_buffer_that_training_leaves_alone():
    model = Network(FourierFeatures(8, 2.0, noise()), 8)
    b = model.features.b.clone()
    assert "features.b" in model.state_dict() and "features.b" not in dict(model.named_parameters())
    ddpm = strong()
    time_features.fit(ddpm, model, Mixture(ddpm, time_features.MEANS, 0.2), 3, "")
    assert torch.equal(model.features.b, b)
    other = Network(FourierFeatures(8, 2.0, noise(1)), 8)
    assert not torch.equal(other.features.b, b)
    other.load_state_dict(model.state_dict())
    x_t, t = torch.randn(4, 2), torch.rand(4)
    assert torch.equal(other(x_t, t), model(x_t, t))


def test_every_way_sees_of_t_what_its_name_says():
    ddpm, t = strong(), torch.tensor([1, 4, 8])
    found = {name: features(t) for name, (features, _) in ways(ddpm, noise(3)).items()}
    assert list(found) == NAMES
    assert all(found[name].shape == (3, dim) for name, (_, dim) in ways(ddpm).items())
    generator = noise(3)
    one, many, log = (s * torch.randn(16, generator=generator) for s in (1, 16, 16))
    assert found["none"].shape == (3, 0)
    assert found["t / T"].flatten().tolist() == [1 / 8, 4 / 8, 1]
    assert torch.equal(found["sinusoids"], timestep_embedding(t, 32))
    sigma = torch.tensor([math.sqrt((1 - ALPHA_BAR[k]) / ALPHA_BAR[k]) for k in t.tolist()])
    for name, b, v in (("Fourier, s = 1", one, t / 8), ("Fourier, s = 16", many, t / 8),
                       ("Fourier of log sigma, s = 16", log, sigma.log())):
        angle = 2 * math.pi * v[:, None] * b
        torch.testing.assert_close(found[name], torch.cat([angle.cos(), angle.sin()], 1),
                                   rtol=0, atol=2e-3)            # angles of 100 in float32


def test_how_alike_two_times_look_is_1_for_the_same_and_the_cosine_of_the_angle_else():
    t, other = torch.tensor([3, 3, 3]), torch.tensor([3, 5, 7])
    assert alike(lambda t: torch.stack([t.float().cos(), t.float().sin()], 1), t, other).tolist() \
        == pytest.approx([1, math.cos(2), math.cos(4)], abs=1e-6)


def test_a_network_has_the_features_beside_the_point_and_nothing_else_of_t():
    torch.manual_seed(0)
    model, x_t, t = Network(lambda t: t[:, None].float(), 1), torch.randn(5, 2), torch.arange(5)
    assert torch.equal(model(x_t, t), model.layers(torch.cat([x_t, t[:, None]], 1)))
    blind = Network(ways(strong())["none"][0], 0)
    assert torch.equal(blind(x_t, t), blind(x_t, t + 3))


# ---- the errors ----

def test_the_error_is_0_for_eps_itself_1_for_nothing_and_quadratic_between():
    ddpm = strong()
    mixture = Mixture(ddpm, time_features.MEANS, time_features.STD)
    for scale, expected in ((1, 0), (0, 1), (1.1, 0.01), (3, 4)):
        found = errors(ddpm, lambda x_t, t, scale=scale: scale * mixture(x_t, t), mixture, 100)
        assert found == pytest.approx([expected] * 4, rel=1e-3, abs=1e-9)


def test_each_quarter_has_its_times_and_no_others():
    ddpm, seen = strong(), []
    mixture = Mixture(ddpm, time_features.MEANS, time_features.STD)
    errors(ddpm, lambda x_t, t: (seen.append(t), x_t)[1], mixture, 200, noise())
    assert [sorted(set(t.tolist())) for t in seen] == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_fit_learns_a_known_eps_and_freezes_the_network():
    """Of one Gaussian eps* is linear in x_t: a network of t learns it at every t."""
    ddpm = strong()
    mixture = Mixture(ddpm, torch.tensor([[0.5, -0.5]]), 0.7)
    torch.manual_seed(0)
    model = time_features.fit(ddpm, Network(*ways(ddpm, noise())["sinusoids"]), mixture, 300, "")
    assert max(errors(ddpm, model, mixture, generator=noise())) < 0.05
    assert not model(torch.zeros(3, 2), torch.ones(3, dtype=torch.int64)).requires_grad


def test_the_networks_of_a_seed_differ_in_nothing_but_what_they_see_of_t(monkeypatch):
    ddpm, seen = strong(), []

    def fit(ddpm, model, mixture, steps, label):
        seen.append((label, steps, model.layers[2].weight.shape, torch.rand(1).item()))
        return model.requires_grad_(False)

    monkeypatch.setattr(time_features, "fit", fit)
    monkeypatch.setattr(time_features, "errors", lambda *args, generator: errors(*args, 50,
                                                                                 generator))
    found, first = compare(ddpm, 7, 3)
    assert list(found) == list(first) == NAMES
    assert all(each.shape == (5, 4) for each in found.values())
    assert [label for label, *_ in seen] == [f"seed {s}, {name}" for s in range(3, 8)
                                             for name in NAMES]
    draws = [[draw for label, _, _, draw in seen if label.startswith(f"seed {s},")]
             for s in range(3, 8)]
    assert all(len(set(each)) == 1 for each in draws) and len({each[0] for each in draws}) == 5
    same = compare(ddpm, 7, 3)[0]
    assert all(torch.equal(found[name], same[name]) for name in NAMES)


def test_the_summary_names_the_least_and_the_most_of_those_that_are_told():
    found = {name: torch.tensor([[a, 9, 9, b]] * 2) for name, a, b in (
        ("none", 0.5, 0.4), ("x", 0.3, 0.1), ("y", 0.2, 0.15), ("z", 0.09, 0.35))}
    assert summary(found) == (
        "finding: the relative error is in the first quarter of t 50.00% (none), 9.00% (z) to "
        "30.00% (x); in the last quarter of t 40.00% (none), 10.00% (x) to 35.00% (z)")


# ---- the program ----

def test_the_picture_has_the_closed_form_beside_the_features_and_eps_itself():
    ddpm = strong()
    kinds = ways(ddpm, noise())
    found = {name: torch.rand(5, 4) for name in kinds}
    figure = draw_figure(ddpm, found, {name: Network(*each).requires_grad_(False)
                                       for name, each in kinds.items()})
    left, middle, right = figure.axes
    dotted = [line for line in left.lines if line.get_linestyle() == ":"]
    for line, s in zip(dotted, (1, 16), strict=True):
        d, y = line.get_xdata()[3], line.get_ydata()[3]
        assert y == pytest.approx(math.exp(-2 * (math.pi * s * d) ** 2), rel=1e-4)
    assert left.lines[1].get_ydata()[0] == pytest.approx(1)
    drawn = {line.get_label(): line.get_ydata().tolist() for line in middle.lines}
    assert all(drawn[name] == pytest.approx(found[name].mean(0).tolist()) for name in NAMES)
    best = Mixture(ddpm, time_features.MEANS, time_features.STD)(
        time_features.POINT.expand(8, 2), torch.arange(1, 9))
    assert right.lines[-1].get_ydata().tolist() == pytest.approx(best[:, 1].tolist())


def test_the_program_trains_on_the_chain_of_the_checkpoint(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(time_features, "SEEDS", 2)
    before = torch.get_num_threads()
    time_features.main(["--checkpoint", str(trained[0]), "--steps", "2", "--device", "cpu",
                        "--out", str(tmp_path / "t.png")])
    out = capsys.readouterr().out
    assert torch.get_num_threads() == before
    assert (tmp_path / "t.png").stat().st_size > 10_000 and f"wrote {tmp_path / 't.png'}" in out
    for name in NAMES:
        assert re.search(rf"^{re.escape(name)}\s+(\d+\.\d\d \+- \d+\.\d\d%\s*){{4}}$", out, re.M)
    assert "finding: the relative error is in the first quarter of t" in out


@pytest.mark.filterwarnings("ignore")
def test_a_chain_that_has_no_quarters_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time_features, "start", lambda args: (DDPM(STRONG[:3]), None))
    refused(capsys, ["--out", tmp_path / "t.png"], "T = 3", "quarters", main=time_features.main)
