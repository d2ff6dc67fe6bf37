"""EDM's coefficients against the demands they come from, and its sampler on ODEs that are known."""
import math
import re

import numpy as np
import pytest
import torch
from stand_ins import noise, refused
from test_ddpm import STRONG, coefficients, point_mass, strong

import data
from ddpm import DDPM
from papers import ddim, edm
from papers.edm import denoiser, levels, loss, sample
from papers.kit import judge
from papers.kit.analytic import ve_sigmas
from papers.kit.chain import horizon, subsequence
from papers.kit.judge import rms
from schedules import cosine_beta_schedule

SIGMAS = [0.01, 0.3, 1.0, 7.0, 80.0]


def gaussian(m, s):
    """D of data N(m, s^2): the posterior mean."""
    return lambda x, sigma: (sigma ** 2 * m + s ** 2 * x) / (s ** 2 + sigma ** 2)


def wavy(x_t, t):
    return torch.tanh(x_t) + 0.1 * torch.sin(t / 7).reshape(-1, *[1] * (x_t.dim() - 1))


# ---- preconditioning ----

@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("s", [0.5, 0.9])
def test_input_and_target_have_variance_1_and_errors_count_as_little_as_possible(sigma, s):
    c_skip, c_out, c_in = edm.coefficients(sigma, s)
    assert c_in ** 2 * (s ** 2 + sigma ** 2) == pytest.approx(1)

    def spread(c):                                   # of y - c x, for y with the variance s^2
        return (1 - c) ** 2 * s ** 2 + c ** 2 * sigma ** 2
    assert spread(c_skip) / c_out ** 2 == pytest.approx(1)
    for other in (c_skip - 0.01, c_skip + 0.01):
        assert spread(other) > c_out ** 2


@pytest.mark.parametrize("sigma", SIGMAS)
def test_f_of_0_is_the_best_guess_of_noise_and_costs_1_at_every_sigma_whatever_the_data(sigma):
    s = 0.7
    c_skip = edm.coefficients(sigma, s)[0]
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(c_skip * x, gaussian(0, s)(x, sigma))
    y, n = s * torch.tensor([1.0, -1, 1, 1]), torch.tensor([1.0, 1, -1, -1])     # y and n: no part
    n = n - (n * y).sum() / (y * y).sum() * y                                    # of the other
    n = n / rms(n)
    assert loss(lambda x, sigma: c_skip * x, y, n, sigma, s).item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_loss_is_the_squared_error_of_f(sigma):
    y, n, said = torch.randn(3, 2, 1, 3, 3)
    x, c_skip, c_out, asked = y + sigma * n, *edm.coefficients(sigma, 0.5)[:2], []
    target = (y - c_skip * x) / c_out
    D = edm.preconditioned(lambda x, c_noise: asked.extend([x, c_noise]) or said, 0.5)
    found = loss(D, y, n, sigma, 0.5)
    torch.testing.assert_close(found, (said - target).square().mean(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(asked[0], x / math.sqrt(0.25 + sigma ** 2))
    assert asked[1] == math.log(sigma) / 4


# ---- the change of variables ----

def test_a_network_of_ddpm_is_a_denoiser_at_its_levels_and_between_them():
    ddpm, asked = strong(), []
    _, alpha_bar = coefficients(STRONG)

    def model(x_t, t):
        asked.append((x_t, t))
        return 0.5 * x_t
    D, x = denoiser(ddpm, model), torch.randn(2, 1, 3, 3)
    for t in (1, 4, 8):
        x_0_hat = D(x, math.sqrt(1 / alpha_bar[t] - 1))
        x_t, told = asked[-1]
        torch.testing.assert_close(x_t, math.sqrt(alpha_bar[t]) * x)
        assert told.shape == (2,) and told.dtype == x.dtype
        assert told.tolist() == pytest.approx([t, t], abs=1e-5)
        torch.testing.assert_close(x_0_hat, ddpm.predict_x_0(x_t, t, 0.5 * x_t),
                                   rtol=1e-5, atol=1e-5)
    four, five = ve_sigmas(ddpm.exact)[4:6].tolist()
    D(x, math.sqrt(four * five))
    assert asked[-1][1].tolist() == pytest.approx([4.5, 4.5])
    D(x, 1e-9), D(x, 1e9)
    assert asked[-2][1].tolist() == [1, 1] and asked[-1][1].tolist() == [8, 8]


# ---- the levels and the sampler ----

@pytest.mark.parametrize("rho", [1, 3, 7])
def test_the_levels_are_even_in_their_root_and_end_at_0(rho):
    found = levels(6, 0.002, 80, rho)
    assert len(found) == 7 and found[-1] == 0
    assert (found[0], found[5]) == pytest.approx((80, 0.002))
    steps = np.diff(np.array(found[:-1]) ** (1 / rho))
    assert steps.tolist() == pytest.approx([(0.002 ** (1 / rho) - 80 ** (1 / rho)) / 5] * 5)
    assert levels(1, 0.002, 80) == pytest.approx([80, 0])
    assert levels(18, 0.002, 80)[1] == pytest.approx(57.586, abs=1e-3)      # of Eq. 5 by hand


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("rho", [1, 7])
def test_the_order_is_that_of_euler_and_heun(order, rho):
    """Data N(m, s^2): the ODE keeps (x - m) / sqrt(s^2 + sigma^2)."""
    m, s, top = 0.3, 0.5, 10
    x = torch.linspace(-20, 20, 11, dtype=torch.float64)[:, None]
    exact = m + (x - m) * s / math.sqrt(s ** 2 + top ** 2)
    errors = [rms(sample(gaussian(m, s), x, levels(n, 1e-3, top, rho), order) - exact)
              for n in (64, 128, 256)]
    found = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert found == pytest.approx([order, order], abs=0.2)


def test_heun_asks_twice_a_step_but_for_the_last_and_ends_at_d():
    asked = []

    def D(x, sigma):
        asked.append(sigma)
        return 0.1 * x
    x = torch.ones(1, 1)
    found = sample(D, x, [4.0, 1.0, 0.0])
    assert asked == [4, 1, 1]
    d = 0.9 / 4                                      # by hand: 1 -> 1 - 3 d, slope 0.9 there
    x_1 = 1 - 3 * (d + 0.9 * (1 - 3 * d)) / 2
    torch.testing.assert_close(found, torch.full_like(x, 0.1 * x_1))
    asked.clear()
    sample(D, x, [4.0, 1.0, 0.0], order=1)
    assert asked == [4, 1]


def test_with_order_1_it_is_ddim_at_the_same_times():
    ddpm, times = DDPM(cosine_beta_schedule(64)), [3, 9, 20, 50]
    sigmas = [*ve_sigmas(ddpm.exact)[times].flip(0).tolist(), 0]
    x_T = torch.randn(2, 1, 3, 3)
    found = sample(denoiser(ddpm, wavy), x_T * math.sqrt(1 + sigmas[0] ** 2), sigmas, order=1)
    expected = ddim.sample(ddpm, lambda x, t: wavy(x, t.float()), x_T, times, clip=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_if_all_data_is_one_point_samples_are_that_point():
    model = point_mass(0.3, STRONG)
    D = denoiser(strong(), lambda x_t, t: model(x_t, t.round().long()))
    sigmas = [*ve_sigmas(strong().exact)[1:].flip(0).tolist(), 0]
    for order in (1, 2):
        x_0 = sample(D, 5 * torch.randn(2, 1, 3, 3), sigmas, order)
        torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=1e-5)


# ---- the program ----

def test_the_program_draws_the_picture_and_prints_the_finding(tmp_path, capsys, monkeypatch):
    kept, ddpm, original = [], DDPM(cosine_beta_schedule(64)), edm.draw_figure
    config = {"image_channels": 1, "image_size": 8, "data": "digits", "data_dir": str(tmp_path)}
    monkeypatch.setattr(edm, "start", lambda args: ("cpu", "any.pt", config, ddpm, wavy))
    monkeypatch.setattr(edm, "draw_figure", lambda *args: kept.append(args) or original(*args))
    monkeypatch.setattr(edm, "SEEDS", 2)
    edm.main(["--seed", "1", "--n", "3", "--out", str(tmp_path / "e.png")])
    said = capsys.readouterr().out
    assert (tmp_path / "e.png").read_bytes()[:4] == b"\x89PNG" and "seeds [1, 2]" in said

    (losses, _, end, found, rows), = kept
    assert end == horizon(ddpm) and (min(losses), max(losses)) == pytest.approx((0.01, 80))
    y, net = data.to_model(data.load("digits", 8, split="test")[0]), judge.load_reader()
    s, n, D = rms(y), torch.randn(y.shape, generator=noise(1)), denoiser(ddpm, wavy)
    for sigma, (one, other) in losses.items():
        weight = (s ** 2 + sigma ** 2) / (s * sigma) ** 2
        x = y + sigma * n
        assert one == pytest.approx(weight * rms(D(x, sigma) - y) ** 2, rel=1e-3)
        assert other == pytest.approx(weight * rms(s ** 2 / (s ** 2 + sigma ** 2) * x - y) ** 2,
                                      rel=1e-3)
    known, reference = ve_sigmas(ddpm.exact), judge.features(net, y)
    for k in (0, 1):
        x_T = torch.randn(3, 1, 8, 8, generator=noise(1 + k))
        base = ddim.sample(ddpm, wavy, x_T, subsequence(end, 9), clip=False)
        for name, steps, order in (("Euler, rho = 7", 9, 1), ("Heun, rho = 7", 5, 2)):
            x = sample(D, x_T / ddpm.alpha_bar[end].sqrt(), levels(
                steps, known[1].item(), known[end].item()), order)
            share, far, less = found[name][9][k].tolist()
            far_of, at_first = (judge.frechet(judge.features(net, each.clamp(-1, 1)), reference)
                                for each in (x, base))
            assert share == pytest.approx(judge.read(net, x.clamp(-1, 1))[0].float().mean().item())
            assert (far, less) == pytest.approx((far_of, far_of - at_first), rel=0.01, abs=0.05)
            if k == 0:
                torch.testing.assert_close(rows[f"{name}, 9"], x.clamp(-1, 1), rtol=1e-4, atol=1e-4)
    lines = re.findall(r"^(\S.*?)  +(\d+)" + 3 * r" +(\S+?)%? \+- (\S+?)%?" + "$", said, re.M)
    assert [(name, int(calls)) for name, calls, *_ in lines] == [
        (name, calls) for name, line in found.items() for calls in line]
    for name, calls, *numbers in lines:
        each = found[name][int(calls)].double() * torch.tensor([100, 1, 1])
        spread = torch.stack([each.mean(0), each.std(0)], 1).flatten().tolist()
        assert [float(text) for text in numbers] == pytest.approx(spread, abs=0.06)
    last = re.findall(r"(\S+) \+- (\S+) \(", said.splitlines()[-2])
    assert [tuple(map(float, pair)) for pair in last] == [pytest.approx(
        (line[9][:, 2].mean().item(), line[9][:, 2].std().item()), abs=0.06)
        for line in list(found.values())[1:]]


def test_a_chain_that_is_too_short_is_refused(trained, capsys, tmp_path):
    refused(capsys, ["--checkpoint", trained[0], "--out", tmp_path / "e.png"], "can be walked in",
            main=edm.main)
