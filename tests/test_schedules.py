"""The schedules against the formulas of the papers, evaluated one t at a time."""
import math

import pytest
import torch

from schedules import SCHEDULES, cosine_beta_schedule, linear_beta_schedule


@pytest.mark.parametrize("T, beta_1, beta_T", [(1000, 1e-4, 0.02), (7, 0.1, 0.5), (2, 0.3, 0.2)])
def test_linear_betas_are_evenly_spaced_between_their_ends(T, beta_1, beta_T):
    beta = linear_beta_schedule(T, beta_1, beta_T)
    expected = [beta_1 + (beta_T - beta_1) * (t - 1) / (T - 1) for t in range(1, T + 1)]
    assert beta.dtype == torch.float64
    assert beta.tolist() == pytest.approx(expected, rel=1e-13)


def test_the_defaults_are_the_papers():
    beta = linear_beta_schedule()
    assert (len(beta), beta[0].item(), beta[-1].item()) == (1000, 1e-4, 0.02)
    beta = cosine_beta_schedule()
    assert (len(beta), beta[-1].item()) == (1000, 0.999)
    assert beta.tolist() == cosine_beta_schedule(1000, s=0.008, beta_max=0.999).tolist()


@pytest.mark.parametrize("T, s", [(1000, 0.008), (50, 0.008), (10, 0.1)])
def test_cosine_alpha_bar_is_the_squared_cosine_of_eq_17(T, s):
    beta = cosine_beta_schedule(T, s)

    def f(t):
        return math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2

    assert beta.dtype == torch.float64 and beta.shape == (T,)
    alpha_bar = 1.0
    for t in range(1, T):                                       # beta_T is clipped
        alpha_bar *= 1 - beta[t - 1].item()
        assert alpha_bar == pytest.approx(f(t) / f(0), rel=1e-9)


def test_cosine_clips_beta_T_and_no_other():
    beta = cosine_beta_schedule(1000)
    assert (beta == 0.999).nonzero().tolist() == [[999]]
    assert cosine_beta_schedule(1000, beta_max=0.5).max() == 0.5


def test_a_short_linear_chain_leaves_as_much_of_the_image_as_the_docstring_says():
    for T, left in ((50, "0.60"), (100, "0.36"), (200, "0.13"), (1000, "0.00004")):
        alpha_bar_T = math.prod(1 - b for b in linear_beta_schedule(T).tolist())
        assert f"{alpha_bar_T:.{len(left) - 2}f}" == left


@pytest.mark.parametrize("schedule", SCHEDULES.values())
def test_one_step_is_the_shortest_chain(schedule):
    beta = schedule(1)
    assert beta.shape == (1,) and 0 < beta.item() < 1
    with pytest.raises(ValueError, match="at least 1, not 0"):
        schedule(0)


def test_the_names_of_the_schedules():
    assert SCHEDULES == {"linear": linear_beta_schedule, "cosine": cosine_beta_schedule}
