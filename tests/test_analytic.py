"""The exact denoisers against autograd, integration and Bayes' rule; the converters by cycles."""
import math

import pytest
import torch
from test_ddpm import STRONG, coefficients, gaussian, point_mass, strong

from papers.analytic import (Mixture, eps_from_x_0, mean_from_eps, score_from_eps, x_0_from_score)

_, ALPHA_BAR = coefficients(STRONG)
MEANS = torch.tensor([[-1.0, 0.5], [0.8, 0.0], [0.3, -0.7]])
STDS, WEIGHTS = [0.2, 0.5, 0.1], [1, 2, 5]


def mixture(stds=STDS):
    return Mixture(strong(), MEANS, stds, WEIGHTS)


def log_q(x_t, t):
    """log q(x_t) written out with torch.distributions."""
    a = ALPHA_BAR[t]
    parts = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor(WEIGHTS, dtype=torch.float64)),
        torch.distributions.Independent(torch.distributions.Normal(
            math.sqrt(a) * MEANS.double(),
            (a * torch.tensor(STDS, dtype=torch.float64)[:, None] ** 2 + 1 - a).sqrt()), 1))
    return parts.log_prob(x_t.double())


# ---- the converters ----

def test_eps_x_0_and_score_are_one_piece_of_knowledge():
    ddpm, t = strong(), torch.tensor([1, 4, 8])
    x_0, eps = torch.randn(2, 3, 1, 2, 2)
    a = torch.tensor([ALPHA_BAR[i] for i in (1, 4, 8)]).reshape(3, 1, 1, 1)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    torch.testing.assert_close(eps_from_x_0(ddpm, x_t, t, x_0), eps)
    score = score_from_eps(ddpm, eps, t)
    torch.testing.assert_close(score, -(x_t - a.sqrt() * x_0) / (1 - a))     # of log q(x_t | x_0)
    torch.testing.assert_close(x_0_from_score(ddpm, x_t, t, score), x_0)
    torch.testing.assert_close(x_0_from_score(ddpm, x_t[:1], 1, score[:1]), x_0[:1])


def test_eq_11_is_eq_7_of_eq_15_and_ends_at_x_0():
    ddpm, t = strong(), torch.tensor([2, 5, 8])
    x_t, eps_theta = torch.randn(2, 3, 1, 2, 2)
    expected = ddpm.posterior_mean(ddpm.predict_x_0(x_t, t, eps_theta), x_t, t)
    torch.testing.assert_close(mean_from_eps(ddpm, x_t, t, eps_theta), expected)
    model = point_mass(0.3, STRONG)
    x_1 = torch.randn(3, 1, 2, 2)
    x_0 = mean_from_eps(ddpm, x_1, 1, model(x_1, torch.ones(3, dtype=torch.int64)))
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3))


# ---- the mixture ----

@pytest.mark.parametrize("t", [1, 4, 8])
def test_the_density_and_its_gradient_are_those_of_torch_distributions(t):
    x_t = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    expected = log_q(x_t, t)
    score, = torch.autograd.grad(expected.sum(), x_t)
    a, b = ALPHA_BAR[t], 1 - ALPHA_BAR[t]
    torch.testing.assert_close(mixture().log_density(x_t, a, b), expected)
    torch.testing.assert_close(mixture().score(x_t, a, b), score)
    eps = mixture()(x_t.detach().float(), torch.full((50,), t))
    torch.testing.assert_close(eps, (-math.sqrt(b) * score).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixture()(x_t.detach().float(), t), eps)


def test_each_image_has_its_own_time():
    x_t, t = torch.randn(3, 2), torch.tensor([1, 5, 8])
    each = torch.cat([mixture()(x[None], s) for x, s in zip(x_t, t.tolist(), strict=True)])
    torch.testing.assert_close(mixture()(x_t, t), each)
    a = torch.tensor(ALPHA_BAR)[t]
    torch.testing.assert_close(mixture().log_density(x_t, a, 1 - a), torch.stack(
        [log_q(x[None], s)[0] for x, s in zip(x_t, t.tolist(), strict=True)]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("m, s", [(0.3, 0.5), (0.0, 1.0)])
def test_one_part_is_gaussian_data_and_with_std_0_a_point(m, s):
    x_t, t = torch.randn(4, 1, 2, 2), torch.tensor([1, 2, 5, 8])
    mean = torch.full((1, 1, 2, 2), m)
    torch.testing.assert_close(Mixture(strong(), mean, s)(x_t, t), gaussian(m, s, STRONG)(x_t, t),
                               rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Mixture(strong(), mean)(x_t, t), point_mass(m, STRONG)(x_t, t),
                               rtol=1e-4, atol=1e-5)


def test_the_ideal_denoiser_of_a_data_set_gives_back_its_images():
    x = torch.randn(20, 1, 4, 4).sign()
    ddpm = strong("beta_tilde")
    x_0 = ddpm.sample(Mixture(ddpm, x), (50, 1, 4, 4))
    distance = torch.cdist(x_0.flatten(1), x.flatten(1)).min(1).values
    assert distance.max() < 1e-3


def test_draws_have_the_shares_means_and_deviations_of_the_parts():
    x_0, k = Mixture(strong(), MEANS.reshape(3, 2, 1), STDS, WEIGHTS).draw(
        40_000, torch.Generator().manual_seed(0))
    assert x_0.shape == (40_000, 2, 1) and x_0.dtype == torch.float32
    for i in range(3):
        assert (k == i).float().mean() == pytest.approx(WEIGHTS[i] / 8, abs=0.01)
        assert x_0[k == i].std(0).flatten().tolist() == pytest.approx([STDS[i]] * 2, rel=0.03)
        assert x_0[k == i].mean(0).flatten().tolist() == pytest.approx(MEANS[i].tolist(), abs=0.03)
