"""PNDM's order of convergence against ODEs whose answer is known, and its formulas in float64."""
import functools
import math
import re

import pytest
import torch
from stand_ins import refused
from test_ddim import carried, exact, multiple
from test_ddpm import STRONG, coefficients, point_mass, strong

from ddpm import DDPM
from papers import ddim, pndm
from papers.kit.analytic import Mixture
from papers.kit.chain import horizon, subsequence
from papers.kit.judge import rms
from papers.pndm import converge, even, order, sample, transfer
from schedules import cosine_beta_schedule, linear_beta_schedule

_, ALPHA_BAR = coefficients(STRONG)


class Spy:
    """A model that keeps what it is asked and what it answers."""

    def __init__(self):
        self.asked = []

    def __call__(self, x_t, t):
        assert t.shape == (len(x_t),) and t.dtype == torch.int64 and len(t.unique()) == 1
        eps = torch.tanh(x_t) + 0.05 * t[0]
        self.asked.append((t[0].item(), x_t, eps))
        return eps


# ---- the transfer part ----

@pytest.mark.parametrize("t, s", [(8, 7), (8, 3), (2, 1), (5, 0), (1, 0), (3, 6)])
def test_the_transfer_part_is_eq_11_as_the_paper_writes_it(t, s):
    x_t, eps = torch.randn(2, 3, 1, 4, 4)
    a, b, x, e = ALPHA_BAR[t], ALPHA_BAR[s], x_t.double(), eps.double()
    root_a, root_b = math.sqrt(a), math.sqrt(b)
    expected = x + (b - a) * (
        x / (root_a * (root_a + root_b))
        - e / (root_a * (math.sqrt((1 - b) * a) + math.sqrt((1 - a) * b))))
    torch.testing.assert_close(transfer(strong(), x_t, eps, t, s), expected.float(),
                               rtol=1e-5, atol=1e-5)


def test_the_transfer_part_is_a_jump_of_ddim_and_exact_if_eps_is_the_noise():
    x_0, eps = torch.randn(2, 3, 1, 4, 4)
    x_8, x_2 = (math.sqrt(ALPHA_BAR[t]) * x_0 + math.sqrt(1 - ALPHA_BAR[t]) * eps for t in (8, 2))
    torch.testing.assert_close(transfer(strong(), x_8, eps, 8, 2), x_2, rtol=1e-5, atol=2e-6)
    jump = ddim.step(strong(), lambda x, t: 0.3 * x, x_8, 8, 2, clip=False)
    torch.testing.assert_close(transfer(strong(), x_8, 0.3 * x_8, 8, 2), jump,
                               rtol=1e-5, atol=2e-6)


# ---- the sampler ----

@pytest.mark.parametrize("times", [[2, 4, 6, 8], [1, 2, 4, 6, 8], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_the_steps_are_algorithm_2_written_out(times):
    """Three jumps by Eq. 13, the others by Eq. 12, in float64 and in x / sqrt(alpha_bar)."""
    x_T = torch.randn(2, 1, 3, 3)
    spread = [math.sqrt(1 / a - 1) for a in ALPHA_BAR]
    bar, path, known = x_T.double() / math.sqrt(ALPHA_BAR[times[-1]]), [0, *times], []

    def eps(bar, t):
        return torch.tanh(bar * math.sqrt(ALPHA_BAR[t])) + 0.05 * t

    for i in range(len(times), 0, -1):
        t, s = path[i], path[i - 1]
        known.append(eps(bar, t))
        if len(known) <= 3:
            m = (t + s) // 2
            k_2 = eps(bar + (spread[m] - spread[t]) * known[-1], m)
            k_3 = eps(bar + (spread[m] - spread[t]) * k_2, m)
            k_4 = eps(bar + (spread[s] - spread[t]) * k_3, s)
            mean = known[-1] / 6 + k_2 / 3 + k_3 / 3 + k_4 / 6
        else:
            mean = (55 * known[-1] - 59 * known[-2] + 37 * known[-3] - 9 * known[-4]) / 24
        bar = bar + (spread[s] - spread[t]) * mean
    spy = Spy()
    torch.testing.assert_close(sample(strong(), spy, x_T, times), bar.float(), rtol=1e-4, atol=1e-4)
    assert len(spy.asked) == len(times) + 9


def test_the_network_is_asked_at_the_ends_and_twice_in_the_middle_of_the_first_three_jumps():
    spy = Spy()
    sample(strong(), spy, torch.randn(2, 1, 3, 3), [1, 3, 4, 6, 8])
    assert [t for t, _, _ in spy.asked] == [8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 3, 3, 1]


@pytest.mark.parametrize("times", [[2, 4, 6, 8], [1, 2, 4, 6, 8], list(range(1, 9))])
def test_if_all_data_is_one_point_samples_are_that_point(times):
    x_0 = sample(strong(), point_mass(0.3, STRONG), torch.randn(3, 1, 2, 2), times)
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=2e-6)


def test_nothing_is_clipped_drawn_or_kept():
    net, x_T = torch.nn.Conv2d(1, 1, 1), 9 * torch.randn(2, 1, 3, 3)
    state = torch.get_rng_state()
    one, two = (sample(strong(), lambda x, t: net(x), x_T, [2, 4, 6, 8]) for _ in range(2))
    assert one.equal(two) and not one.requires_grad and torch.get_rng_state().equal(state)
    assert sample(strong(), multiple(0), x_T, [2, 4, 6, 8]).abs().max() > 1
    assert sample(strong(), multiple(0), x_T.double(), [2, 4, 6, 8]).dtype == torch.float64
    assert sample(strong(), multiple(0), torch.randn(5, 2), [2, 4, 6, 8]).shape == (5, 2)


@pytest.mark.parametrize("times, message", [
    ([2, 5, 8], "at least four times, not 3"), ([], "at least four"), ([2, 3, 3, 8], "increasing"),
    ([2, 3, 5, 9], "increasing, from 1..8"), ([0, 3, 5, 8], "increasing")])
def test_the_times_are_four_at_least_and_increase(times, message):
    with pytest.raises(ValueError, match=message):
        sample(strong(), Spy(), torch.zeros(1, 1, 2, 2), times)


def test_even_times_have_a_middle():
    assert even(954, 4) == [238, 476, 714, 954]
    assert even(9, 4) == [2, 4, 6, 8]
    for end, steps in ((954, 13), (726, 30), (20, 10)):
        times = [0, *even(end, steps)]
        assert len(times) == steps + 1 and times[-1] == end
        assert all((t - s) % 2 == 0 and t > s for s, t in zip(times, times[1:], strict=False))


# ---- the order of convergence ----

def errors(solve, beta, end, steps=(64, 128, 256), m=0.3, s=0.5):
    """The errors of a sampler on x_0 ~ N(m, s^2), in float64, against the exact ODE."""
    ddpm = DDPM(beta).double()
    x_0 = torch.linspace(-1, 2, 9, dtype=torch.float64)[:, None]
    x_T = carried(coefficients(beta)[1], x_0, end, m, s)
    return {S: rms(solve(ddpm, exact(m, s, beta), x_T, subsequence(end, S)) - x_0)
            for S in steps}


def orders(errors):
    values = list(errors.values())
    return [math.log2(a / b) for a, b in zip(values, values[1:], strict=False)]


def euler(ddpm, model, x_T, times):
    return ddim.sample(ddpm, model, x_T, times, clip=False)


def smooth(sigma):
    """The betas whose sqrt(1 / alpha_bar - 1) is sigma(t / T), for T = 4096."""
    alpha_bar = 1 / (1 + sigma(torch.arange(4097, dtype=torch.float64) / 4096) ** 2)
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


@pytest.mark.parametrize("sigma", [lambda u: torch.tan(1.4 * u),
                                   lambda u: (5 * u ** 2).expm1().sqrt()], ids=["tan", "exp"])
@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_pndm_is_of_second_order_where_ddim_is_of_first(sigma):
    first, second = (errors(solve, smooth(sigma), 4096) for solve in (euler, sample))
    assert orders(first) == pytest.approx([1, 1], abs=0.06)
    assert orders(second) == pytest.approx([2, 2], abs=0.25)
    assert orders(second)[-1] == pytest.approx(2, abs=0.08)
    assert second[256] < first[256] / 500


@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_it_is_of_fourth_order_where_sigma_is_linear_in_t():
    """So the weights of Eq. 12 and 13 are right, and the transfer part is what costs two orders."""
    known = errors(sample, smooth(lambda u: 3 * u), 4096)
    assert orders(known) == pytest.approx([4, 4], abs=0.4)
    assert known[256] < 1e-6


@pytest.mark.parametrize("beta", [linear_beta_schedule(), cosine_beta_schedule()])
def test_the_leap_of_the_usual_schedules_at_t_1_leaves_a_small_error_of_first_order(beta):
    first, second = (errors(solve, beta, 512) for solve in (euler, sample))
    assert orders(second) == pytest.approx([1, 1], abs=0.15)
    assert 20 < first[256] / second[256] < 60


def test_it_is_of_second_order_on_a_mixture_too():
    """In one dimension the ODE carries quantiles of q(x_T) to quantiles of q(x_0)."""
    T, end, weights, means, stds = 4096, 3584, (0.3, 0.7), (-0.8, 0.6), (0.25, 0.4)
    beta = cosine_beta_schedule(T, s=0)
    ddpm, a = DDPM(beta).double(), coefficients(beta)[1][end]
    model = Mixture(ddpm, torch.tensor(means)[:, None], list(stds), list(weights))

    def quantile_of(x, a):
        return sum(w * 0.5 * torch.erfc((math.sqrt(a) * m - x) / math.sqrt(
            2 * (a * s ** 2 + 1 - a))) for w, m, s in zip(weights, means, stds, strict=True))

    x_T = torch.linspace(-2, 2, 21, dtype=torch.float64)
    low, high = torch.full_like(x_T, -9), torch.full_like(x_T, 9)
    for _ in range(60):                                            # bisection
        x_0 = (low + high) / 2
        above = quantile_of(x_0, 1) > quantile_of(x_T, a)
        low, high = torch.where(above, low, x_0), torch.where(above, x_0, high)
    found = {}
    for name, solve in (("DDIM", euler), ("PNDM", sample)):
        found[name] = {S: rms(solve(ddpm, model, x_T[:, None], subsequence(end, S))
                                   - x_0[:, None]) for S in (64, 128, 256)}
    assert orders(found["DDIM"]) == pytest.approx([1, 1], abs=0.1)
    assert orders(found["PNDM"]) == pytest.approx([2, 2], abs=0.3)
    assert found["PNDM"][256] < 1e-4 < found["DDIM"][256] / 10


known_orders = functools.cache(converge)                                      # the same every time


def test_the_picture_measures_these_orders():
    known = known_orders()
    assert list(known) == ["DDIM", "PNDM"] and list(known["PNDM"]) == [16, 32, 64, 128, 256]
    assert order(known["DDIM"]) == pytest.approx(1, abs=0.02)
    assert order(known["PNDM"]) == pytest.approx(2, abs=0.06)
    assert known["PNDM"][16] < known["DDIM"][256]


def test_the_order_is_a_slope_in_log_log_of_the_last_points():
    assert order({1: 99.0, 10: 5.0, 100: 0.05, 1000: 5e-4}) == pytest.approx(2)
    assert order({2: 1.0, 4: 1 / 8}, last=2) == pytest.approx(3)


# ---- the program ----

def test_the_program_draws_the_picture_and_prints_the_finding(tmp_path, capsys, monkeypatch):
    """Of any model: T = 64, since PNDM takes 13 evaluations at least."""
    kept, ticks, ddpm, original = [], [], DDPM(cosine_beta_schedule(64)), pndm.draw_figure

    def model(x_t, t):
        return torch.tanh(x_t) + 0.01 * t.reshape(-1, 1, 1, 1)

    config = {"image_channels": 1, "image_size": 8}
    monkeypatch.setattr(pndm, "start", lambda args: ("cpu", "any.pt", config, ddpm, model))
    monkeypatch.setattr(pndm, "counted", lambda model, total: ticks.append(total) or (
        lambda x_t, t: ticks.append(t[0].item()) or model(x_t, t)))
    monkeypatch.setattr(pndm, "draw_figure", lambda *args: kept.append(args) or original(*args))
    monkeypatch.setattr(pndm, "converge", known_orders)
    monkeypatch.setattr(pndm, "batch_size", lambda H: 8)
    pndm.main(["--seed", "1", "--out", str(tmp_path / "p.png")])
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"wrote {tmp_path / 'p.png'}" and len(ticks) - 1 == ticks[0]
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"

    (known, measured, samples, best, end), = kept
    x_T = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert end % 2 == 0 and 0 <= horizon(ddpm) - end <= 1
    torch.testing.assert_close(best, euler(ddpm, model, x_T, list(range(1, end + 1))))
    assert list(samples["DDIM"]) == list(samples["PNDM"]) == [13, 16, 20, 25, 35]
    for n in (13, 20):
        torch.testing.assert_close(samples["DDIM"][n],
                                   euler(ddpm, model, x_T, subsequence(end, n)))
        torch.testing.assert_close(samples["PNDM"][n],
                                   sample(ddpm, model, x_T, even(end, n - 9)))
        for name in samples:
            each = [rms(a - b) for a, b in zip(samples[name][n], best, strict=True)]
            assert measured[name][n] == pytest.approx(sum(each) / 8)
    numbers = [float(text) for text in re.findall(r"\d+\.\d+", out[-2])]
    assert numbers == pytest.approx([order(known["DDIM"]), order(known["PNDM"]),
                                     measured["DDIM"][16], measured["PNDM"][16]], abs=0.006)
    assert "16 evaluations" in out[-2] and f"{end} steps" in out[-2]
    left = original(known, measured, samples, best, end).axes[0]
    assert [line.get_label() for line in left.lines] == ["DDIM, order 0.99", "PNDM, order 2.03"]
    assert [list(line.get_xdata()) for line in left.lines] == [
        [S + cost for S in known["DDIM"]] for cost in (0, 9)]


def test_a_chain_that_is_too_short_is_refused(trained, capsys, tmp_path):
    refused(capsys, ["--checkpoint", trained[0], "--out", tmp_path / "p.png"],
            "T = 5 is too short to save 13 steps", main=pndm.main)
