"""DPS against gradients by hand; measurements against numpy; posteriors against torch and sums."""
import math
import re

import numpy as np
import pytest
import torch
from stand_ins import correlated, noise
from test_ddpm import STRONG, coefficients, gaussian, point_mass, strong

import data
import sample as core
from ddpm import DDPM
from papers import dps
from papers.dps import (back_project, blur, compare, conditioned, guide, pool, random_map, sample,
                        solve)
from papers.kit.analytic import Gaussian
from papers.kit.judge import psnr
from schedules import cosine_beta_schedule

BETA, ALPHA_BAR = coefficients(STRONG)


def same(x):
    return x


def tanh(x_t, t):
    """Any model that depends on both of its arguments."""
    return torch.tanh(x_t) * t.reshape(-1, *[1] * (x_t.dim() - 1)) / 8


# ---- the guidance ----

@pytest.mark.parametrize("t", [1, 4, 8])
def test_on_one_gaussian_pixel_the_gradient_is_that_of_the_closed_form(t):
    """x_0_hat = m + sqrt(a) s^2 (x_t - sqrt(a) m) / v is linear: its slope is sqrt(a) s^2 / v."""
    m, s, a = 0.3, 0.5, ALPHA_BAR[t]
    slope = math.sqrt(a) * s ** 2 / (a * s ** 2 + 1 - a)
    x_t, y = torch.randn(5, 1, 1, 1), torch.randn(5, 1, 1, 1)
    x_0_hat, gradient = guide(strong(), gaussian(m, s, STRONG), y, lambda x: 3 * x, x_t, t, False)
    expected = m + slope * (x_t - math.sqrt(a) * m)
    torch.testing.assert_close(x_0_hat, expected, rtol=1e-4, atol=1e-5)
    # d/dx_t of (y - 3 x_0_hat)^2, over |y - 3 x_0_hat|
    residual = y - 3 * expected
    torch.testing.assert_close(gradient, -2 * residual * 3 * slope / residual.abs(), rtol=1e-3,
                               atol=1e-5)


@pytest.mark.parametrize("t", [1, 5, 8])
def test_on_correlated_pixels_the_gradient_is_that_of_the_closed_form(t):
    """grad || y - A x_0_hat ||^2 / || . || = -2 J^T A^T (y - A x_0_hat) / || . ||, each its own."""
    prior, a = correlated(3, strong().double()), ALPHA_BAR[t]
    J = math.sqrt(a) * prior.C @ torch.linalg.inv(a * prior.C + (1 - a) * torch.eye(3))
    A = torch.randn(2, 3, dtype=torch.float64)
    x_t, y = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    x_0_hat, gradient = guide(prior.ddpm, prior, y, lambda x: x @ A.T, x_t, t, False)
    expected = prior.m + (x_t - math.sqrt(a) * prior.m) @ J.T
    torch.testing.assert_close(x_0_hat, expected, rtol=1e-4, atol=1e-5)
    for i in range(4):
        residual = y[i] - A @ expected[i]
        by_hand = -2 * J.T @ A.T @ residual / residual.norm()
        torch.testing.assert_close(gradient[i], by_hand, rtol=1e-4, atol=1e-5)


def test_x_0_hat_is_clipped_before_it_is_measured_and_no_gradient_passes_there():
    ddpm, x_t = strong(), torch.tensor([[5.0, 0.1]])
    x_0_hat, gradient = guide(ddpm, lambda x, t: 0 * x, torch.full((1, 2), -2.0), same, x_t, 3)
    inside = 0.1 / math.sqrt(ALPHA_BAR[3])
    assert x_0_hat.tolist() == [[1, pytest.approx(inside)]]
    slope = 1 / math.sqrt(ALPHA_BAR[3])
    assert gradient.tolist() == [[0, pytest.approx(2 * slope * (inside + 2)
                                                   / math.hypot(3, inside + 2))]]
    _, gradient = guide(ddpm, lambda x, t: 0 * x, torch.full((1, 2), -2.0), same, x_t, 3, False)
    assert (gradient != 0).all()


def test_an_image_that_agrees_with_y_is_left_alone():
    ddpm, x_t = strong(), torch.randn(3, 1, 2, 2)
    x_0_hat = ddpm.estimate_x_0(tanh, x_t, 4, False)             # what guide finds, bit for bit
    y = x_0_hat.clone()
    y[1] += 1
    _, gradient = guide(ddpm, tanh, y, same, x_t, 4, False)
    assert (gradient[[0, 2]] == 0).all() and (gradient[1] != 0).all()


def test_no_gradient_is_kept_and_frozen_networks_serve_even_under_no_grad():
    net = torch.nn.Linear(2, 2).requires_grad_(False)
    x_T = torch.randn(3, 2)
    with torch.no_grad():
        x_0 = sample(strong(), lambda x, t: net(x), torch.zeros(3, 2), same, x_T, generator=noise())
    assert not x_0.requires_grad and not x_T.requires_grad
    again, other = (sample(strong(), lambda x, t: net(x), torch.zeros(3, 2), same, x_T, zeta,
                           generator=noise()) for zeta in (1.0, 0.0))
    assert torch.equal(x_0, again) and not again.requires_grad and not torch.equal(x_0, other)


def test_a_measurement_of_another_shape_is_refused_even_if_it_broadcasts():
    for shape in ((3, 1, 1, 1), (2, 1, 2, 2), (3, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"that A makes, \(3, 1, 2, 2\), not"):
            guide(strong(), tanh, torch.zeros(shape), lambda x: pool(x, 2), torch.zeros(3, 1, 4, 4),
                  4)


# ---- sampling ----

@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("shape", [(3, 2), (2, 1, 4, 4)])
def test_zeta_0_is_algorithm_2_bit_for_bit(shape, clip, variance):
    ddpm, generator = strong(variance), noise()
    x_T = torch.randn(shape, generator=generator)
    *_, (_, x_0, _) = ddpm.reverse_process(tanh, x_T, clip, generator)
    generator = noise()
    x_T = torch.randn(shape, generator=generator)
    assert torch.equal(sample(ddpm, tanh, torch.ones(shape), same, x_T, 0, clip, generator), x_0)


def test_a_sample_is_algorithm_1_written_out():
    prior, zeta = correlated(3, strong().double()), 0.3
    A = torch.randn(2, 3, dtype=torch.float64)
    y, x_T = torch.randn(4, 2).double(), torch.randn(4, 3).double()
    x_0 = sample(prior.ddpm, prior, y, lambda x: x @ A.T, x_T, zeta, False, noise())
    x, generator = x_T, noise()
    for t in range(8, 0, -1):
        a, s = ALPHA_BAR[t], ALPHA_BAR[t - 1]
        J = math.sqrt(a) * prior.C @ torch.linalg.inv(a * prior.C + (1 - a) * torch.eye(3))
        x_0_hat = prior.m + (x - math.sqrt(a) * prior.m) @ J.T
        residual = y - x_0_hat @ A.T
        gradient = -2 * residual @ A @ J                          # of the squared norm
        zeta_t = zeta / residual.norm(dim=1, keepdim=True)
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype) if t > 1 else 0
        x = (math.sqrt(s) * BETA[t] / (1 - a) * x_0_hat
             + math.sqrt(1 - BETA[t]) * (1 - s) / (1 - a) * x
             + math.sqrt(BETA[t]) * z - zeta_t * gradient)
    torch.testing.assert_close(x_0, x, rtol=1e-3, atol=1e-4)


def test_each_image_follows_its_own_measurement():
    """What the others measure does not matter: the norm is not one of the whole batch."""
    x_T, y = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 1, 1)
    ddpm = strong("beta_tilde")
    other = y.clone()
    other[1:] += 5
    A = lambda x: x.mean((2, 3), keepdim=True)                                   # noqa: E731
    one, two = (sample(ddpm, tanh, each, A, x_T, generator=noise()) for each in (y, other))
    torch.testing.assert_close(one[0], two[0])
    assert not torch.allclose(one[1:], two[1:], atol=0.1)


def test_what_is_measured_completely_comes_back():
    """A = the identity, no noise, and data wide enough to hold y."""
    ddpm = DDPM(cosine_beta_schedule(300)).double()
    prior = correlated(3, ddpm)
    y = torch.tensor([[0.9, -0.7, 0.2], [-0.5, 0.5, 0.1]]).double()
    x_T = torch.randn(2, 3, generator=noise(3)).double()
    x_0 = sample(ddpm, prior, y, same, x_T, 0.05, False, noise())
    torch.testing.assert_close(x_0, y, rtol=0, atol=0.1)
    unguided = sample(ddpm, prior, y, same, x_T, 0, False, noise())
    assert (unguided - y).norm() > 5 * (x_0 - y).norm()


def test_a_point_mass_stays_what_it_is():
    """p(x_0 | y) is p(x_0) whatever is measured, since x_0_hat does not depend on x_t."""
    x_0 = sample(strong(), point_mass(0.3, STRONG), torch.full((4, 1, 2, 2), -0.5), same,
                 torch.randn(4, 1, 2, 2), 0.01, generator=noise())
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=1e-3)


def test_measuring_brings_samples_nearer_to_the_exact_posterior():
    ddpm = DDPM(cosine_beta_schedule(100)).double()
    prior, n = correlated(3, ddpm), 2000
    A, y = torch.tensor([[1.0, 0, 0]]).double(), torch.tensor([0.9]).double()
    mean, cov = prior.posterior(A, y, 0.1)
    off = {}
    for zeta in (0, 0.03, 0.1):
        x = sample(ddpm, prior, y.expand(n, 1), lambda x: x @ A.T,
                   torch.randn(n, 3, generator=noise(1)).double(), zeta, False, noise())
        off[zeta] = ((x.mean(0) - mean).norm() / cov.trace().sqrt()).item()
    assert off[0] > 0.8 and off[0.1] < 0.2 and off[0.1] < off[0.03] < off[0]


def test_the_generator_fixes_the_noise_and_zeta_is_that_of_appendix_d_1():
    x_T = torch.randn(2, 1, 4, 4)

    def run(seed, **zeta):
        return sample(strong(), tanh, torch.zeros(2, 1, 2, 2), lambda x: pool(x, 2), x_T,
                      generator=noise(seed), **zeta)

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))
    assert torch.equal(run(0), run(0, zeta=1.0)) and dps.NOISE == 0.05


# ---- the likelihood with what x_t leaves open ----

def test_conjugate_gradients_solve_each_system_of_a_batch_in_as_many_products_as_it_has_numbers():
    L = torch.randn(3, 4, 4, dtype=torch.float64)
    M, b = L @ L.mT + torch.eye(4), torch.randn(3, 4, dtype=torch.float64)
    exact = torch.linalg.solve(M, b)
    off = [(solve(lambda v: (M @ v[:, :, None])[:, :, 0], b, k) - exact).norm(dim=1)
           for k in (0, 2, 4, 7)]
    assert torch.equal(off[0], exact.norm(dim=1)) and (off[1] < off[0]).all()
    assert off[2].max() < 1e-9 and off[3].max() < 1e-9
    b[1] = 0                                                     # solved before it begins
    images = solve(lambda v: 2 * v, b.reshape(3, 1, 2, 2), 3)
    assert torch.equal(images, b.reshape(3, 1, 2, 2) / 2)
    for k in (1, 9, 99):                                         # and left alone from there on
        torch.testing.assert_close(solve(lambda v: 0.3 * v, b.float(), k), b.float() / 0.3)


@pytest.mark.parametrize("s", [0, 0.3])
@pytest.mark.parametrize("t", [1, 4, 8])
def test_on_gaussian_data_the_eps_is_that_of_the_posterior(t, s):
    ddpm = strong().double()
    prior, A = correlated(5, ddpm), torch.randn(3, 5, dtype=torch.float64)
    x_t, y = torch.randn(4, 5).double(), torch.randn(4, 3).double()
    expected = Gaussian(ddpm, *prior.posterior(A, y, s))(x_t, torch.full((4,), t))
    for k, tolerance in ((3, 1e-5), (1, None)):
        eps = conditioned(ddpm, prior, y, lambda x: x @ A.T, s, k)(x_t, torch.full((4,), t))
        if tolerance:
            torch.testing.assert_close(eps, expected, rtol=tolerance, atol=tolerance)
        else:
            assert (eps - expected).norm() > 1e-3


@pytest.mark.parametrize("iterations", [3, 5])
def test_a_scalar_covariance_is_that_of_independent_pixels_of_variance_1(iterations):
    """PiGDM: exact where x_0 ~ N(0, I), and by matrices where it is not."""
    ddpm, t = strong().double(), torch.tensor([1, 3, 6, 8])
    A, s = torch.randn(3, 5, dtype=torch.float64), 0.2
    x_t, y = torch.randn(4, 5).double(), torch.randn(4, 3).double()
    V = ddpm.one_minus_alpha_bar
    white = Gaussian(ddpm, torch.zeros(5).double(), torch.eye(5).double())
    eps = conditioned(ddpm, white, y, lambda x: x @ A.T, s, iterations, V)(x_t, t)
    expected = Gaussian(ddpm, *white.posterior(A, y, s))(x_t, t)
    torch.testing.assert_close(eps, expected, rtol=1e-5, atol=1e-5)

    prior = correlated(5, ddpm)
    eps = conditioned(ddpm, prior, y, lambda x: x @ A.T, s, iterations, V)(x_t, t)
    for i in range(4):
        a = ALPHA_BAR[t[i]]
        J = math.sqrt(a) * prior.C @ torch.linalg.inv(a * prior.C + (1 - a) * torch.eye(5))
        x_0_hat = prior.m + J @ (x_t[i] - math.sqrt(a) * prior.m)
        S = s ** 2 * torch.eye(3) + (1 - a) * A @ A.T
        score = J.T @ A.T @ torch.linalg.solve(S, y[i] - A @ x_0_hat)
        expected = prior(x_t[i:i + 1], t[i:i + 1])[0] - math.sqrt(1 - a) * score
        torch.testing.assert_close(eps[i], expected, rtol=1e-5, atol=1e-5)


def test_of_images_and_a_network_that_is_not_linear_the_covariance_is_its_slope():
    ddpm, t, s, ones = strong().double(), 4, 0.2, torch.full((2,), 4)
    x_t, y = torch.randn(2, 1, 4, 4).double(), torch.randn(2, 1, 2, 2).double()
    eps = conditioned(ddpm, tanh, y, lambda x: pool(x, 2), s, 4)(x_t, ones)
    a, A = ALPHA_BAR[t], matrix(lambda x: pool(x, 2), (1, 4, 4))
    predicted = torch.tanh(x_t) * t / 8
    for i in range(2):
        slope = (1 - math.sqrt(1 - a) * (1 - torch.tanh(x_t[i]) ** 2) * t / 8) / math.sqrt(a)
        J = torch.diag(slope.flatten())
        x_0_hat = ((x_t[i] - math.sqrt(1 - a) * predicted[i]) / math.sqrt(a)).flatten()
        S = s ** 2 * torch.eye(4) + (1 - a) / math.sqrt(a) * A @ J @ A.T
        score = J @ A.T @ torch.linalg.solve(S, y[i].flatten() - A @ x_0_hat)
        expected = predicted[i].flatten() - math.sqrt(1 - a) * score
        torch.testing.assert_close(eps[i].flatten(), expected, rtol=1e-5, atol=1e-5)


def test_a_measurement_that_agrees_or_has_another_shape_and_gradients_of_the_conditioned_model():
    net, ddpm, x_t, t = torch.nn.Linear(2, 2), strong(), torch.randn(3, 2), torch.full((3,), 4)
    model = lambda x, t: net(x)                                                  # noqa: E731
    y = ddpm.estimate_x_0(model, x_t, 4, False).detach()
    eps = conditioned(ddpm, model, y, same, 0.1, 2)(x_t, t)
    torch.testing.assert_close(eps, net(x_t).detach())
    assert not eps.requires_grad and not x_t.requires_grad
    with torch.no_grad():                                        # as samplers ask
        assert not torch.equal(conditioned(ddpm, model, y + 1, same, 0.1)(x_t, t), eps)
    with pytest.raises(ValueError, match=r"that A makes, \(3, 2\), not \(3, 1\)"):
        conditioned(ddpm, model, y[:, :1], same, 0.1)(x_t, t)


def test_exact_samples_are_as_far_from_y_as_the_noise_and_the_truth_is_one_of_them():
    """x_0 and x ~ p(x_0 | y) have one distribution, so that y - A x has that of the noise."""
    ddpm, n, s = DDPM(cosine_beta_schedule(50)).double(), 4000, 0.3
    prior, A = correlated(3, ddpm), torch.randn(2, 3, generator=noise(2)).double()
    z = torch.randn(n, 8, generator=noise(1)).double()
    x_0 = prior.m + z[:, :3] @ torch.linalg.cholesky(prior.C).T
    y = x_0 @ A.T + s * z[:, 3:5]
    posterior = conditioned(ddpm, prior, y, lambda x: x @ A.T, s, 2)
    *_, (_, x, _) = ddpm.reverse_process(posterior, z[:, 5:], False, noise(3))
    error = s ** 2 / math.sqrt(n)
    torch.testing.assert_close((y - x @ A.T).T.cov(), s ** 2 * torch.eye(2).double(), rtol=0,
                               atol=6 * error)
    torch.testing.assert_close(x.T.cov(), prior.C, rtol=0, atol=6 * prior.C.max() / math.sqrt(n))


def test_what_a_chain_of_100_steps_loses_when_its_eps_is_that_of_the_posterior():
    """The covariance by the recursion of Algorithm 2; the mean is kept, as all is linear."""
    ddpm, place = DDPM(cosine_beta_schedule(100)), torch.arange(8.0, dtype=torch.float64)
    C = torch.exp(-(place[:, None] - place) ** 2 / 8) / 4 + torch.eye(8) / 100
    zero, A = torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64)[:4]
    _, cov = Gaussian(ddpm, zero, C).posterior(A, zero[:4], 0)
    lost, a, beta = {}, ddpm.exact.alpha_bar, ddpm.exact.beta
    for variance, sigma_2 in (("beta", beta), ("beta_tilde", ddpm.exact.beta_tilde)):
        S = torch.eye(8, dtype=torch.float64)
        for t in range(100, 0, -1):
            J = a[t].sqrt() * cov @ torch.linalg.inv(a[t] * cov + (1 - a[t]) * torch.eye(8))
            step = (a[t - 1].sqrt() * beta[t] * J + (1 - beta[t]).sqrt() * (1 - a[t - 1])
                    * torch.eye(8)) / (1 - a[t])
            S = step @ S @ step.T + (sigma_2[t] if t > 1 else 0) * torch.eye(8)
        lost[variance] = ((S - cov)[4:, 4:].norm() / cov[4:, 4:].norm()).item()
    assert lost == {"beta": pytest.approx(0.008, abs=5e-4),
                    "beta_tilde": pytest.approx(0.055, abs=5e-4)}


# ---- measurements ----

def matrix(A, shape):
    """The matrix of a linear A, column by column."""
    D = math.prod(shape)
    return A(torch.eye(D, dtype=torch.float64).reshape(D, *shape)).flatten(1).T


OPERATORS = {"pool": (lambda x: pool(x, 2), (2, 4, 6)), "blur": (lambda x: blur(x, 0.8), (2, 5, 7)),
             "random": (random_map((1, 3, 4), 5, noise()), (1, 3, 4))}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_linear_and_its_gradient_the_transpose(name):
    A, shape = OPERATORS[name]
    M = matrix(A, shape)
    x = torch.randn(3, *shape, dtype=torch.float64, requires_grad=True)
    y = A(x)
    torch.testing.assert_close(y.flatten(1), x.flatten(1) @ M.T)
    v = torch.randn_like(y)
    back, = torch.autograd.grad(y, x, v)
    torch.testing.assert_close(back.flatten(1), v.flatten(1) @ M)


def test_pooling_is_the_mean_of_squares():
    x = torch.randn(2, 3, 8, 12)
    for factor in (1, 2, 4):
        expected = x.numpy().reshape(2, 3, 8 // factor, factor, 12 // factor, factor).mean((3, 5))
        y = pool(x, factor)
        assert y.shape == (2, 3, 8 // factor, 12 // factor) and np.allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize("factor", [0, 3, 8, -2])
def test_images_that_do_not_part_into_squares_are_refused(factor):
    with pytest.raises(ValueError, match="8 x 12 pixels do not part"):
        pool(torch.zeros(1, 1, 8, 12), factor)


def test_a_blur_spreads_a_point_over_a_symmetric_gaussian_of_its_width():
    s, x = 1.3, torch.zeros(1, 2, 31, 31, dtype=torch.float64)
    x[:, 0, 15, 15], x[:, 1, 15, 15] = 1, 2
    y = blur(x, s)
    assert y.shape == x.shape and torch.allclose(2 * y[:, 0], y[:, 1])
    spot = y[0, 0].numpy()
    assert spot.sum() == pytest.approx(1)
    for turned in (spot.T, spot[::-1], spot[:, ::-1]):
        assert np.allclose(spot, turned)
    k = np.arange(-4, 5)                                           # ceil(3 s) = 4
    expected = np.exp(-k ** 2 / (2 * s ** 2))
    expected = np.outer(expected, expected) / expected.sum() ** 2
    assert np.allclose(spot[11:20, 11:20], expected)
    assert spot.sum() - spot[11:20, 11:20].sum() == pytest.approx(0)
    variance = (spot.sum(0) * np.arange(-15, 16) ** 2).sum()
    assert variance == pytest.approx(s ** 2, rel=0.03)             # cut at 3 s


def test_a_blur_leaves_constants_alone_reflects_at_the_border_and_fits_any_image():
    constant = torch.full((1, 3, 6, 4), 0.7)
    for s in (0.5, 2.0, 10.0):
        torch.testing.assert_close(blur(constant, s), constant)
    x = torch.zeros(1, 1, 1, 5)
    assert blur(x, 1.0).shape == x.shape
    line = torch.randn(9)
    x = line.expand(1, 1, 9, 9)
    padded = np.pad(line.numpy(), 3, mode="reflect")
    k = np.exp(-np.arange(-3, 4) ** 2 / 2)
    expected = np.convolve(padded, k / k.sum(), mode="valid")
    assert np.allclose(blur(x, 1.0)[0, 0, 4], expected, atol=1e-6)


def test_a_random_map_has_rows_of_length_1_at_right_angles_fixed_by_the_generator():
    M = matrix(random_map((1, 4, 4), 6, noise()), (1, 4, 4))
    assert M.shape == (6, 16)
    torch.testing.assert_close(M @ M.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-5)
    assert torch.equal(M, matrix(random_map((1, 4, 4), 6, noise()), (1, 4, 4)))
    assert not torch.equal(M, matrix(random_map((1, 4, 4), 6, noise(1)), (1, 4, 4)))


def test_y_alone_is_the_pseudoinverse_where_rows_are_at_right_angles():
    mask = (torch.rand(4, 4, dtype=torch.float64) < 0.5).double()
    for A, shape in ((lambda x: mask * x, (2, 4, 4)), OPERATORS["pool"], OPERATORS["random"]):
        y = A(torch.randn(3, *shape, dtype=torch.float64))
        back = back_project(A, y, shape)
        expected = y.flatten(1) @ torch.linalg.pinv(matrix(A, shape)).T
        torch.testing.assert_close(back.flatten(1), expected, rtol=1e-4, atol=1e-5)
        assert not back.requires_grad


def test_y_alone_is_the_best_multiple_of_the_transpose():
    A, shape = OPERATORS["blur"]
    M, y = matrix(A, shape), torch.randn(3, *shape, dtype=torch.float64)
    back = back_project(A, y, shape)
    transpose = y.flatten(1) @ M
    share = back.flatten(1) / transpose
    torch.testing.assert_close(share, share[:, :1].expand_as(share))

    def off(c):
        return (y.flatten(1) - c * transpose @ M.T).norm(dim=1)

    c = share[:, :1]
    assert (off(c) < off(c + 0.01)).all() and (off(c) < off(c - 0.01)).all()


# ---- the comparison ----

def test_the_table_has_the_monte_carlo_error_and_the_bias_of_each_method():
    n = 100
    table = compare(n, 0)
    assert list(table) == ["as many exact draws", "replacement, r = 1", "replacement, r = 10",
                           "DPS, zeta = 0.02", "DPS, zeta = 0.1", "DPS, zeta = 1.0",
                           "PiGDM, V_t = r_t^2 I", "V_t by the slope, 1 product",
                           "V_t by the slope, exact"]
    exact, one, ten, weak, dps_error, strong_error, scalar, rough, best = table.values()
    # RMS over 32 numbers of variance 1 / n; a covariance of 8 n draws of rank 4
    assert exact[0] == pytest.approx(1 / math.sqrt(n), rel=0.7)
    assert exact[1] < 4 * math.sqrt(2 / (8 * n)) and exact[2] < 1e-12
    assert max(one[2], ten[2]) < 1e-12 and one[0] > 1.5 * ten[0] > 1.5 ** 2 * exact[0]
    assert one[1] > 1.3 * ten[1]
    assert dps_error[0] < min(weak[0], strong_error[0]) and dps_error[1] < weak[1]
    assert 0 < dps_error[2] < strong_error[2]
    assert best[0] == pytest.approx(1 / math.sqrt(n), rel=0.7) and best[2] < 1e-6
    assert best[1] < 0.009 + 4 * math.sqrt(2 / (8 * n))          # the chain's own 0.8%, and chance
    assert best[0] < rough[0] < scalar[0] and best[1] < rough[1] < scalar[1]


def test_the_table_measures_a_known_mean_covariance_and_pixel_error(monkeypatch):
    """A method that is off by one posterior standard deviation, twice as wide, and off by 0.3."""
    def wrong(ddpm, prior, x_0, mask, r, clip, generator):
        assert mask.tolist() == [1] * 4 + [0] * 4 and not clip and ddpm is prior.ddpm
        A = torch.eye(8, dtype=torch.float64)[:4]
        mean, cov = prior.posterior(A, x_0[:, :4], 0)
        cov = cov[4:, 4:]
        z = torch.randn(len(x_0), 4, generator=generator, dtype=torch.float64)
        hidden = mean[:, 4:] + cov.diag().mean().sqrt() + z @ torch.linalg.cholesky(4 * cov).T
        return torch.cat([x_0[:, :4] + 0.3, hidden], 1)

    monkeypatch.setattr(dps, "inpaint", wrong)
    monkeypatch.setattr(dps, "walk", lambda step, x_T, T, label: x_T)
    asked = []
    monkeypatch.setattr(dps, "sample", lambda ddpm, prior, y, A, x_T, zeta, clip, generator: (
        asked.append((zeta, clip)), torch.cat([A(x_T) - A(x_T) + y, x_T[:, 4:]], 1))[1])
    table = compare(3000, 0)
    for r in (1, 10):
        found = table[f"replacement, r = {r}"]
        assert found[0] == pytest.approx(1, rel=0.05) and found[1] == pytest.approx(3, rel=0.1)
        assert found[2] == pytest.approx(0.3)
    assert table["DPS, zeta = 0.1"][2] < 1e-12
    assert asked == [(zeta, False) for zeta in (0.02, 0.1, 1.0)]
    assert compare(3000, 0) == table and compare(3000, 1) != table


def test_the_table_compares_several_images_of_correlated_pixels(monkeypatch):
    seen = {}
    monkeypatch.setattr(dps, "inpaint", lambda ddpm, prior, x_0, *args, **kwargs: (
        seen.update(x_0=x_0, prior=prior), x_0)[1])
    monkeypatch.setattr(dps, "sample", lambda ddpm, prior, y, A, x_T, *args: x_T)
    monkeypatch.setattr(dps, "walk", lambda step, x_T, T, label: x_T)
    compare(5, 0)
    assert seen["x_0"].shape == (40, 8) and len(seen["x_0"].unique(dim=0)) == 8
    assert torch.equal(seen["x_0"][:5], seen["x_0"][:1].expand(5, 8))
    C = seen["prior"].C
    assert C[0, 0].item() == pytest.approx(0.26) and C[2, 4].item() == pytest.approx(
        math.exp(-0.5) / 4)


# ---- the program ----

def test_the_program_draws_four_measurements_and_says_what_they_gave(trained, tmp_path, capsys,
                                                                     monkeypatch):
    drawn, seeds, out = [], [], tmp_path / "new" / "dps.png"
    original = dps.draw_panels
    monkeypatch.setattr(dps, "draw_panels", lambda panels, *how, **more: (
        drawn.append(panels), original(panels, *how, **more))[1])
    monkeypatch.setattr(dps, "compare", lambda n, seed: {"some way": (n, seed, 0.25)})
    monkeypatch.setattr(dps, "sample", lambda *args, generator: seeds.append(
        generator.initial_seed()) or sample(*args, generator=generator))
    dps.main(["--checkpoint", str(trained[0]), "--n", "3", "--steps", "4", "--seed", "1",
              "--device", "cpu", "--out", str(out)])
    said = capsys.readouterr().out
    assert f"3 images, by {trained[0]} in 4 steps, on " in said
    assert said.count(f"wrote {out}") == 1 and out.stat().st_size > 5000
    assert re.findall(r"some way +(\S+) +(\S+) +(\S+)", said) == [
        ("1000.000", "1.000", "0.250")]
    panels, = drawn
    assert seeds == 4 * [1]
    assert [list(rows) for rows in panels.values()] == [
        ["x_0", "y alone", *extra, "DPS", "with V_t"] for extra in ([], ["bicubic"], [], [])]
    x, _ = data.load("digits", 8, 1, "test")
    generator = noise(1)
    x_0 = data.to_model(x[torch.randperm(40, generator=generator)[:3]])
    _, ddpm, model = core.load(trained[0])
    chain = dps.respace(ddpm, model, 4)
    for (name, rows), A in zip(panels.items(), dps.operators((1, 8, 8), generator).values(),
                               strict=True):
        assert torch.equal(rows["x_0"], x_0)
        y = A(x_0)
        y = y + 0.05 * torch.randn(y.shape, generator=generator)
        x_T = torch.randn(3, 1, 8, 8, generator=generator)
        assert torch.equal(rows["y alone"], back_project(A, y, (1, 8, 8)))
        assert torch.equal(rows["DPS"], sample(*chain, y, A, x_T, generator=noise(1)))
        *_, (_, with_V, _) = chain[0].reverse_process(conditioned(*chain, y, A, 0.05), x_T,
                                                      generator=noise(1))
        assert torch.equal(rows["with V_t"], with_V)
        if "bicubic" in rows:
            assert y.shape == (3, 1, 2, 2) and torch.equal(
                rows["bicubic"], torch.nn.functional.interpolate(y, scale_factor=4, mode="bicubic"))
        numbers = {label: (psnr(row.clamp(-1, 1), x_0).mean(), (y - A(row)).square().mean().sqrt())
                   for label, row in rows.items() if label != "x_0"}
        finding = ", ".join(f"{label} {dB:.1f} ({off:.3f})" for label, (dB, off) in numbers.items())
        assert f"of {name}: {finding}" in said


def test_the_measurements_of_the_program_are_four_of_different_kinds():
    mask, small, blurred, mixed = dps.operators((3, 40, 40), noise()).values()
    x = torch.randn(2, 3, 40, 40)
    kept = mask(x)
    assert torch.equal(kept[kept != 0], x[kept != 0])
    assert ((kept != 0).all(1) | (kept == 0).all(1)).all()        # all channels, or none
    assert torch.equal(kept[0, 0] == 0, kept[1, 0] == 0)
    assert (kept != 0).float().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 1600))
    assert torch.equal(small(x), pool(x, 4)) and torch.equal(blurred(x), blur(x, 4))
    assert mixed(x).shape == (2, 400)


def test_images_are_no_more_than_one_batch_and_steps_no_more_than_T(trained, tmp_path, capsys,
                                                                    monkeypatch):
    monkeypatch.setattr(dps, "batch_size", lambda H: 8)          # a quarter: there are gradients
    monkeypatch.setattr(dps, "compare", lambda n, seed: {})
    dps.main(["--checkpoint", str(trained[0]), "--out", str(tmp_path / "d.png")])
    assert f"2 images, by {trained[0]} in 5 steps" in capsys.readouterr().out
