"""The exact denoisers against autograd, integration and Bayes' rule; the converters by cycles."""
import math

import pytest
import torch
from stand_ins import correlated
from test_ddpm import STRONG, coefficients, gaussian, point_mass, strong

from papers.kit.analytic import (Gaussian, Mixture, eps_from_x_0, follow_gaussian, mean_from_eps,
                                 score_from_eps, ve_score, ve_sigmas, ve_times, x_0_from_score)

_, ALPHA_BAR = coefficients(STRONG)
SIGMA_T = [math.sqrt((1 - a) / a) for a in ALPHA_BAR]            # index t
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


# ---- the ODE of Gaussian data ----

def test_the_ode_of_gaussian_data_carries_q_x_t_to_q_x_0_and_quantiles_to_quantiles():
    a, v = ALPHA_BAR[6], ALPHA_BAR[6] * 0.25 + 1 - ALPHA_BAR[6]
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    x_t = math.sqrt(a) * 0.3 + math.sqrt(v) * z
    x_0 = follow_gaussian(strong().double(), x_t, 6, 0, 0.3, 0.5)
    torch.testing.assert_close(x_0, 0.3 + 0.5 * z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(follow_gaussian(strong().double(), x_0, 0, 6, 0.3, 0.5), x_t,
                               rtol=1e-6, atol=1e-6)


# ---- a DDPM as a score network ----

def test_sigma_t_is_the_noise_beside_an_image_that_is_not_shrunk():
    ddpm = strong()
    assert ve_sigmas(ddpm).tolist() == pytest.approx(SIGMA_T)
    x_0, eps = torch.randn(2, 3, 1, 2, 2)
    for t in range(9):
        x = ddpm.q_sample(x_0, t, eps) / math.sqrt(ALPHA_BAR[t])
        torch.testing.assert_close(x, x_0 + SIGMA_T[t] * eps)


def test_a_level_is_given_the_nearest_time_from_1_to_T():
    ddpm = strong()
    assert ve_times(ddpm, torch.tensor(SIGMA_T[1:]).float()).tolist() == list(range(1, 9))
    middle = (SIGMA_T[4] + SIGMA_T[5]) / 2
    sigma = torch.tensor([0.0, 1e3, middle - 1e-3, middle + 1e-3])
    assert ve_times(ddpm, sigma).tolist() == [1, 8, 4, 5]


@pytest.mark.parametrize("t", [1, 4, 8])
def test_on_gaussian_data_the_score_of_a_chain_is_that_of_data_plus_noise(t):
    score = ve_score(strong(), gaussian(0.3, 0.5, STRONG))
    x, sigma = torch.randn(5, 1, 2, 2), SIGMA_T[t]
    expected = -(x - 0.3) / (0.25 + sigma ** 2)
    torch.testing.assert_close(score(x, torch.full((5,), sigma)), expected, rtol=1e-4, atol=1e-5)


def test_on_a_mixture_each_image_has_the_score_of_its_own_level():
    ddpm = strong()
    means = torch.randn(3, 1, 2, 2)
    mixture, x = Mixture(ddpm, means, [0.2, 0.5, 0.1], [1, 2, 5]), torch.randn(3, 1, 2, 2)
    sigma = torch.tensor([SIGMA_T[t] for t in (8, 1, 5)])
    expected = mixture.score(x, 1, sigma.double() ** 2).float()
    torch.testing.assert_close(ve_score(ddpm, mixture)(x, sigma), expected, rtol=1e-3, atol=1e-4)


# ---- correlated pixels ----

def test_the_perfect_network_is_the_best_linear_prediction_of_the_noise():
    """E[eps | x_t] = Cov(eps, x_t) Var(x_t)^-1 (x_t - E x_t), with a time for each image."""
    prior = correlated(3, strong().double())
    x_t, t = torch.randn(8, 3).double(), torch.arange(1, 9)
    eps = prior(x_t, t)
    for i in range(8):
        a = ALPHA_BAR[i + 1]
        variance = a * prior.C + (1 - a) * torch.eye(3)
        expected = math.sqrt(1 - a) * torch.linalg.solve(variance, x_t[i] - math.sqrt(a) * prior.m)
        torch.testing.assert_close(eps[i], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prior(x_t, 3), prior(x_t, torch.full((8,), 3)))


def test_the_posterior_of_one_pixel_is_that_of_numerical_integration():
    prior = Gaussian(None, torch.tensor([0.3]).double(), torch.tensor([[0.4]]).double())
    y, s, slope = 1.1, 0.6, 2.0
    x = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    density = torch.exp(-(x - 0.3) ** 2 / (2 * 0.4) - (y - slope * x) ** 2 / (2 * s ** 2))
    density /= density.sum()
    mean = (density * x).sum()
    variance = (density * (x - mean) ** 2).sum()
    found = prior.posterior(torch.tensor([[slope]]).double(), torch.tensor([y]).double(), s)
    assert found[0].item() == pytest.approx(mean.item(), rel=1e-6)
    assert found[1].item() == pytest.approx(variance.item(), rel=1e-6)


def test_the_posterior_of_several_pixels_has_the_density_of_bayes_rule():
    """log p(x_0) + log p(y | x_0) - log p(x_0 | y) is the same for all x_0."""
    prior, s = correlated(4, strong().double()), 0.3
    A, y = torch.randn(2, 4).double(), torch.randn(2).double()
    mean, cov = prior.posterior(A, y, s)
    normal = torch.distributions.MultivariateNormal
    x = torch.randn(50, 4).double()
    evidence = (normal(prior.m, prior.C).log_prob(x)
                + torch.distributions.Normal(x @ A.T, s).log_prob(y).sum(1)
                - normal(mean, (cov + cov.T) / 2).log_prob(x))
    torch.testing.assert_close(evidence, evidence[:1].expand(50), rtol=1e-6, atol=1e-6)
    expected = normal(A @ prior.m, A @ prior.C @ A.T + s ** 2 * torch.eye(2)).log_prob(y)
    torch.testing.assert_close(evidence[0], expected)


def test_without_noise_the_posterior_is_the_conditional_and_many_y_have_many_means():
    prior = correlated(4, strong().double())
    A, y = torch.eye(4, dtype=torch.float64)[:2], torch.randn(5, 2).double()
    mean, cov = prior.posterior(A, y, 0)
    P = torch.linalg.inv(prior.C)[2:, 2:]                          # precision: another formula
    torch.testing.assert_close(cov[2:, 2:], torch.linalg.inv(P))
    assert cov[:2].abs().max() < 1e-12 and mean.shape == (5, 4)
    torch.testing.assert_close(mean[:, :2], y)
    for i in range(5):
        torch.testing.assert_close(mean[i], prior.posterior(A, y[i], 0)[0])
        shift = torch.linalg.inv(prior.C)[2:, :2] @ (y[i] - prior.m[:2])
        torch.testing.assert_close(mean[i, 2:], prior.m[2:] - torch.linalg.solve(P, shift))
