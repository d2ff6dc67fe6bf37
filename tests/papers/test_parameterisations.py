"""The four ways against their definitions, min-SNR against one loss, and alpha_bar_T = 0."""
import math
import re
from types import SimpleNamespace

import pytest
import torch
from stand_ins import noise
from test_ddpm import STRONG, coefficients, strong

import data
from ddpm import DDPM
from papers import parameterisations
from papers.kit.analytic import Mixture, eps_from_x_0, x_0_from_score
from papers.parameterisations import (BETA, LEVELS, eps_from_v, grey, min_snr, rescale, shares,
                                      v_of, ways, zero_terminal)
from schedules import cosine_beta_schedule, linear_beta_schedule

_, ALPHA_BAR = coefficients(STRONG)


# ---- four ways to say the same ----

@pytest.mark.parametrize("t", [1, 4, 8])
def test_v_is_the_derivative_of_x_t_by_the_angle_and_turns_back(t):
    x_0, eps = torch.randn(2, 3, 1, 4, 4)
    angle, h = math.acos(math.sqrt(ALPHA_BAR[t])), 1e-5
    before, x_t, after = (math.cos(a) * x_0.double() + math.sin(a) * eps.double()
                          for a in (angle - h, angle, angle + h))
    v = (after - before) / (2 * h)
    torch.testing.assert_close(v_of(strong(), x_0, t, eps), v.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(eps_from_v(strong(), x_t.float(), t, v.float()), eps, rtol=1e-5,
                               atol=2e-6)
    batch = torch.full((3,), t)
    assert v_of(strong(), x_0, batch, eps).equal(v_of(strong(), x_0, t, eps))


@pytest.mark.parametrize("beta", [STRONG, linear_beta_schedule(), cosine_beta_schedule()])
@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_each_of_the_four_gives_the_others(beta):
    ddpm = DDPM(beta).double()
    x_t, eps = torch.randn(2, 5, 1, 3, 3, dtype=torch.float64)
    for t in (1, 2, ddpm.T // 2, ddpm.T - 1):
        said = ways(ddpm, x_t, t, eps)
        for back in (said["eps"], eps_from_x_0(ddpm, x_t, t, said["x_0"]),
                     eps_from_v(ddpm, x_t, t, said["v"]),
                     -(1 - ddpm.exact.alpha_bar[t]).sqrt() * said["score"]):
            torch.testing.assert_close(back, eps, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(x_0_from_score(ddpm, x_t, t, said["score"]), said["x_0"],
                                   rtol=1e-5, atol=1e-5)


# ---- weights ----

@pytest.mark.parametrize("beta", [linear_beta_schedule(), cosine_beta_schedule()])
def test_the_three_weights_of_min_snr_are_one_loss(beta):
    ddpm, times = DDPM(beta).double(), torch.arange(1, 1001)
    x_0, eps, wrong = torch.randn(3, 1000, 2, dtype=torch.float64)
    x_t = ddpm.q_sample(x_0, times, eps)
    said, weights = ways(ddpm, x_t, times, eps + 0.1 * wrong), min_snr(ddpm)
    true = {"eps": eps, "x_0": x_0, "v": v_of(ddpm, x_0, times, eps)}
    losses = {name: weights[name][1:] * (said[name] - true[name]).square().sum(1) for name in true}
    for name in ("x_0", "v"):
        torch.testing.assert_close(losses[name], losses["eps"], rtol=1e-6, atol=1e-12)


def test_the_weights_are_those_of_the_paper_and_the_wrong_clamp_is_far_from_them():
    ddpm = DDPM(cosine_beta_schedule())
    alpha_bar = torch.tensor(coefficients(cosine_beta_schedule())[1][1:], dtype=torch.float64)
    SNR = alpha_bar / (1 - alpha_bar)
    right, wrong = min_snr(ddpm), min_snr(ddpm, torch.clamp_min)
    small = SNR.minimum(torch.tensor(5.0))
    for name, expected in (("x_0", small), ("eps", small / SNR), ("v", small / (SNR + 1))):
        torch.testing.assert_close(right[name][1:].double(), expected, rtol=1e-5, atol=0)
        ratio = wrong[name][1:].double() / expected
        assert ratio.max() > 1e9 and ratio.min() == pytest.approx(1, abs=0.02)


def test_the_shares_are_those_of_the_losses_of_a_network_whose_errors_are_known():
    """With an error of eps that is the same at all t, L_simple is even; the others follow SNR."""
    ddpm = DDPM(cosine_beta_schedule(20)).double()
    x_0 = torch.zeros(4, 1, 8, 8)

    def model(x_t, t):                               # x_0 is 0, so that x_t / sigma_t is the noise
        return x_t / ddpm.one_minus_alpha_bar[t].sqrt().reshape(-1, 1, 1, 1) + 0.3

    SNR = (ddpm.exact.alpha_bar / (1 - ddpm.exact.alpha_bar))[1:]
    found = shares(ddpm, model, x_0, noise())
    assert list(found) == ["L_simple", "min-SNR, eps", "min-SNR, x_0", "min-SNR, v", "max for min"]
    for name, share in found.items():
        weight = {"L_simple": torch.ones(20), "max for min": SNR.clamp(min=5) / SNR}.get(
            name, SNR.clamp(max=5) / SNR)
        expected = weight.double().reshape(4, 5).sum(1) / weight.sum()
        torch.testing.assert_close(share, expected, rtol=1e-3, atol=1e-6)


# ---- alpha_bar_T = 0 ----

@pytest.mark.parametrize("beta", [BETA, linear_beta_schedule(), STRONG])
def test_the_rescaled_chain_ends_at_0_begins_as_before_and_keeps_its_proportions(beta):
    old, new = (torch.tensor(coefficients(b)[1][1:]).sqrt() for b in (beta, rescale(beta)))
    assert new[-1] == 0 and rescale(beta)[-1] == 1 and new[0] == pytest.approx(old[0].item())
    shift, stretch = old[-1], old[0] / (old[0] - old[-1])
    torch.testing.assert_close(new, (old - shift) * stretch, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        DDPM(rescale(beta))


def test_at_the_end_eps_says_nothing_and_v_says_x_0():
    whole = SimpleNamespace(alpha_bar=torch.tensor([1, 0.5, 0]),
                            one_minus_alpha_bar=torch.tensor([0, 0.5, 1]))
    x_0, eps = torch.randn(2, 3, 1, 2, 2)
    x_T = DDPM.q_sample(whole, x_0, 2, eps)
    assert x_T.equal(eps) and DDPM.predict_x_0(whole, x_T, 2, eps).isnan().all()
    assert v_of(whole, x_0, 2, eps).equal(-x_0)


@pytest.mark.parametrize("beta", [STRONG, torch.tensor([0.3, 0.4]).double()], ids=["8", "2"])
@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_on_gaussian_data_mean_and_deviation_are_those_of_the_closed_recursion(beta):
    m, s, n, T = 0.2, 0.15, 40_000, len(beta)
    chain = DDPM(rescale(beta)[:-1])
    beta, alpha_bar = coefficients(rescale(beta))
    exact = torch.tensor(alpha_bar)
    asked = []

    def model(x_t, t):                               # the perfect v, with an x_0_hat at T too
        asked.append(t[0].item())
        a = exact[t].reshape(-1, 1)
        x_0 = m + a.sqrt() * s ** 2 * (x_t - a.sqrt() * m) / (a * s ** 2 + 1 - a)
        eps = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
        return a.sqrt() * eps - (1 - a).sqrt() * x_0

    x_0 = zero_terminal(chain, model, torch.randn(n, 1), noise(1))
    assert asked == list(range(T, 0, -1))
    mean, var = math.sqrt(alpha_bar[T - 1]) * m, 1 - alpha_bar[T - 1]
    for t in range(T - 1, 0, -1):
        a, before = alpha_bar[t], alpha_bar[t - 1]
        gain = math.sqrt(a) * s ** 2 / (a * s ** 2 + 1 - a)
        of_x_0 = math.sqrt(before) * beta[t] / (1 - a)
        of_x_t = math.sqrt(1 - beta[t]) * (1 - before) / (1 - a)
        mean = of_x_0 * (m + gain * (mean - math.sqrt(a) * m)) + of_x_t * mean
        var = (of_x_0 * gain + of_x_t) ** 2 * var + (beta[t] if t > 1 else 0)
    assert x_0.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(var / n))
    assert x_0.std().item() == pytest.approx(math.sqrt(var), rel=0.02)


def test_if_all_data_is_one_point_samples_are_that_point():
    chain = DDPM(rescale(BETA)[:-1])
    x_0 = zero_terminal(chain, lambda x_t, t: v_of(
        chain, torch.full_like(x_t, 0.3), t, eps_from_x_0(chain, x_t, t, 0.3))
        if t[0] <= chain.T else torch.full_like(x_t, -0.3), torch.randn(2, 1, 4, 4), noise())
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=1e-5)


def test_the_perfect_network_of_grey_pictures_is_that_of_their_mixture():
    ddpm = DDPM(BETA)
    mixture = Mixture(ddpm, LEVELS.reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8))
    x_0 = LEVELS[torch.randint(21, (5, 1, 1, 1))].expand(5, 1, 8, 8)
    for t in (300, 800, 1000):
        x_t = ddpm.q_sample(x_0, t, torch.randn(5, 1, 8, 8))
        torch.testing.assert_close(grey(ddpm, x_t, t), ddpm.predict_x_0(x_t, t, mixture(x_t, t)),
                                   rtol=0, atol=1e-4)


@pytest.mark.thorough
def test_too_grey_from_noise_and_right_from_q_or_where_alpha_bar_is_0():
    means = {name: x.mean((1, 2, 3)) for name, x in parameterisations.draw_grey(40, 0).items()}
    assert list(means) == ["usual chain", "from q(x_T)", "zero, v", "zero, v + 0.01",
                           "zero, eps + 0.01"]
    usual, true, v, v_off, eps_off = means.values()
    assert usual.std() < 0.42 and all(0.5 < each.std() < 0.71 for each in (true, v, v_off))
    assert abs(v_off.mean()) < 0.25 and eps_off.mean() < -0.6


# ---- the program ----

@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_the_program_draws_the_picture_and_prints_the_finding(trained, tmp_path, capsys,
                                                              monkeypatch):
    monkeypatch.setattr(parameterisations, "SIZE", 4)
    monkeypatch.setattr(parameterisations, "BETA", linear_beta_schedule(20))
    kept, original = [], parameterisations.draw_figure
    monkeypatch.setattr(parameterisations, "draw_figure",
                        lambda *args: kept.append(args) or original(*args))
    parameterisations.main(["--checkpoint", str(trained[0]), "--seed", "1", "--n", "3", "--device",
                            "cpu", "--out", str(tmp_path / "p.png")])
    said = capsys.readouterr().out
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG" and "seeds [1, 2, 3]" in said
    (found, drawn), = kept
    again = [parameterisations.draw_grey(3, seed) for seed in (1, 2, 3)]
    x = data.load("digits", 8, 1, "test", tmp_path)[0]
    for name, each in found.items():
        if name in drawn:
            levels = [x[name].mean((1, 2, 3)) for x in again]
            assert drawn[name].equal(again[-1][name])
            torch.testing.assert_close(each, torch.tensor([[x.mean(), x.std()] for x in levels]))
        else:
            torch.testing.assert_close(each.sum(1).float(), torch.ones(3))
        line, = re.findall(f"^{re.escape(f'{name:18}')}(.*)$", said, re.M)
        numbers = [float(text) for text in re.findall(r"-?\d+\.\d+", line)]
        spread = torch.stack([each.mean(0), each.std(0)], 1).flatten().tolist()
        assert numbers == pytest.approx(spread, abs=6e-4)
    assert len(x) > 8
    last = said.splitlines()[-2]
    assert [float(text) for text in re.findall(r"0\.\d{3}", last)] == pytest.approx(
        [0.606, *(found[name][:, 1].mean().item() for name in drawn)], abs=6e-4)
