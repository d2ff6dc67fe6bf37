"""Which times a shorter chain visits, its coefficients, and chains that start on the way."""
import math

import numpy as np
import pytest
import torch
from stand_ins import Spy, noise
from test_ddpm import STRONG, coefficients, gaussian, strong

from ddpm import DDPM
from papers.kit import chain
from papers.kit.chain import ask, decode, horizon, noise_like, respace, subsequence
from schedules import cosine_beta_schedule, linear_beta_schedule

pytestmark = pytest.mark.filterwarnings("ignore:alpha_bar_T")            # of strong()


# ---- the times ----

def test_the_times_are_the_papers_linear_choice_and_end_in_T():
    assert subsequence(1000, 5) == [200, 400, 600, 800, 1000]
    assert subsequence(10, 4) == [2, 5, 7, 10]                     # floor(2.5 i)
    assert subsequence(7, 1) == [7]
    for T in (1, 2, 9, 100, 1000):
        assert subsequence(T, T) == list(range(1, T + 1))
        for steps in {1, 2, T // 3, T - 1, T} - {0}:
            if steps <= T:
                times = subsequence(T, steps)
                assert len(times) == steps and times[-1] == T and times[0] >= 1
                assert all(s < t for s, t in zip(times, times[1:], strict=False))
                gaps = np.diff([0, *times])
                assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_a_chain_has_no_more_steps_than_times_and_at_least_one(steps):
    with pytest.raises(ValueError, match=f"T = 10 can be walked in 1..10 steps, not in {steps}"):
        subsequence(10, steps)


@pytest.mark.parametrize("beta, last", [(linear_beta_schedule(), 727), (STRONG, 8)])
def test_the_horizon_is_the_last_time_with_enough_signal(beta, last):
    ddpm = strong() if beta is STRONG else DDPM(beta)
    alpha_bar = coefficients(beta)[1]
    expected = max(t for t, a in enumerate(alpha_bar) if a >= 0.005)
    assert horizon(ddpm) == expected and (beta is STRONG or abs(expected - last) < 10)
    assert horizon(DDPM([0.9999])) == 1                           # and never 0


@pytest.mark.parametrize("beta, last", [(linear_beta_schedule(), 157), (cosine_beta_schedule(),
                                                                         20_291)])
def test_up_to_the_horizon_an_error_in_eps_theta_grows_less_than_14_2_times_and_at_T_more(beta,
                                                                                          last):
    growth = [math.sqrt(1 / a - 1) for a in coefficients(beta)[1]]           # of x_0_hat, Eq. 15
    end = horizon(DDPM(beta))
    assert max(growth[:end + 1]) < 14.2 and growth[end + 1] > 14.1
    assert growth[-1] == pytest.approx(last, abs=0.5)


def test_noise_is_of_the_shape_and_dtype_of_x_and_of_the_generator():
    x = torch.zeros(2, 5, dtype=torch.float64)
    z = noise_like(x, torch.Generator().manual_seed(3))
    expected = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert z.dtype == torch.float64 and torch.equal(z, expected)


def test_a_model_is_asked_at_one_time_for_all():
    def model(x_t, t, y=0):
        assert t.dtype == torch.int64
        return x_t + t[:, None] + y

    assert ask(model, torch.zeros(2, 1), 3).tolist() == [[3], [3]]
    assert ask(model, torch.zeros(2, 1), 3, y=4).tolist() == [[7], [7]]


# ---- fewer steps ----

@pytest.mark.parametrize("beta", [linear_beta_schedule(), cosine_beta_schedule()])
@pytest.mark.parametrize("steps", [1, 2, 25, 300, 1000])
def test_a_shorter_chain_has_the_alpha_bar_of_the_times_it_keeps(beta, steps):
    asked, alpha_bar = [], torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])
    short, model = respace(DDPM(beta), lambda x_t, t, **how: asked.append((t.tolist(), how)), steps)
    model(None, torch.arange(1, steps + 1), variance=True)
    (times, how), = asked
    assert how == {"variance": True} and times[-1] == 1000 and len(times) == short.T == steps
    if steps > 1:
        spaced = [1 + 999 * k / (steps - 1) for k in range(steps)]
        assert all(abs(t - even) <= 0.5 + 1e-9 for t, even in zip(times, spaced, strict=True))
        assert len(set(times)) == steps
    kept = alpha_bar[[0, *times]]
    torch.testing.assert_close(short.exact.alpha_bar, kept, rtol=1e-6, atol=0)
    torch.testing.assert_close(short.exact.one_minus_alpha_bar, 1 - kept, rtol=1e-12, atol=0)
    ratio = 1 - kept[1:] / kept[:-1]                            # Nichol & Dhariwal 2021, Eq. 19
    torch.testing.assert_close(short.exact.beta[1:], ratio, rtol=1e-12, atol=0)


def times_of(model, steps):
    """The times of the whole chain that the model of a shorter one asks about; it returns t."""
    return model(None, torch.arange(1, steps + 1)).tolist()


@pytest.mark.parametrize("schedule", [linear_beta_schedule, cosine_beta_schedule])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("between", [1000, 250, 37])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_chain_made_shorter_twice_is_the_one_made_shorter_once(schedule, variance, between,
                                                                 steps):
    ddpm = DDPM(schedule(), variance)
    short, model = respace(*respace(ddpm, lambda x_t, t: t, between), steps)
    times, alpha_bar = times_of(model, steps), torch.cat(
        [torch.ones(1, dtype=torch.float64), (1 - schedule()).cumprod(0)])
    kept = alpha_bar[[0, *times]]
    assert times[-1] == 1000 and short.T == steps and short.variance == variance
    once = DDPM(1 - kept[1:] / kept[:-1], variance)
    for name, buffer in once.named_buffers():
        torch.testing.assert_close(getattr(short, name), buffer, rtol=1e-6, atol=0)
    torch.testing.assert_close(short.exact.alpha_bar, kept, rtol=1e-6, atol=0)
    torch.testing.assert_close(short.exact.one_minus_alpha_bar, 1 - kept, rtol=1e-11, atol=0)
    if between == 1000:                                         # of all times: nothing was left out
        assert times == times_of(respace(ddpm, lambda x_t, t: t, steps)[1], steps)


@pytest.mark.parametrize("steps", [0, 9, -1])
def test_a_chain_is_not_cut_to_more_steps_than_it_has(steps):
    with pytest.raises(ValueError, match="1 to 8"):
        respace(strong(), None, steps)


def test_a_shorter_chain_has_the_variance_of_the_whole():
    for name in ("beta", "beta_tilde"):
        short, _ = respace(strong(name), None, 4)
        expected = getattr(short, name).sqrt()
        torch.testing.assert_close(short.sigma, expected)


# ---- decoding from x_t ----

@pytest.mark.parametrize("t", [0, 1, 5, 8])
def test_decoding_starts_at_t_and_takes_every_step_down_to_1(t):
    spy, x_t = Spy(), torch.randn(2, 1, 3, 3)
    x_0 = decode(strong(), spy, x_t, t)
    assert spy.times == list(range(t, 0, -1))
    assert torch.equal(x_0, x_t) == (t == 0)


def test_decoding_from_T_is_algorithm_2():
    ddpm, x_T = strong(), torch.randn(2, 1, 3, 3, generator=noise())
    for clip in (True, False):
        *_, (_, x_0, _) = ddpm.reverse_process(gaussian(0, 1, STRONG), x_T, clip, noise(1))
        decoded = decode(ddpm, gaussian(0, 1, STRONG), x_T, 8, clip, noise(1))
        assert torch.equal(decoded, x_0)
    assert decode(ddpm, lambda x_t, t: 0 * x_t, 9 * x_T, 8).abs().max() <= 1      # clip by default


def test_decoding_takes_no_more_images_at_once_than_the_network_bears(monkeypatch):
    monkeypatch.setattr(chain, "batch_size", lambda H: 2)
    spy, x_t = Spy(), torch.randn(5, 1, 3, 3)
    x_0 = decode(strong(), spy, x_t, 3)
    assert [(t, len(x)) for t, x in spy.asked] == [(t, n) for n in (2, 2, 1) for t in (3, 2, 1)]
    assert x_0.shape == x_t.shape and torch.equal(torch.cat([x for t, x in spy.asked if t == 3]),
                                                  x_t)
