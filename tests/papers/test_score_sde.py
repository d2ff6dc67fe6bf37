"""The SDEs, their solvers and likelihood against closed forms, at times that are not whole too."""
import math
import warnings

import numpy as np
import pytest
import torch
from stand_ins import noise
from test_ddpm import STRONG, coefficients, strong

import data
from ddpm import DDPM
from papers import score_sde, variational_bound
from papers.kit.analytic import Mixture, score_from_eps
from papers.score_sde import (SubVPSDE, VESDE, VPSDE, adaptive, bits_per_dim, euler_maruyama, heun,
                              log_likelihood, predictor_corrector)
from schedules import cosine_beta_schedule, linear_beta_schedule
from train import L_simple

BETA, ALPHA_BAR = coefficients(STRONG)


def quiet(beta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DDPM(beta)


def perfect(means, stds, weights=None, beta=STRONG):
    """The perfect model of a mixture, whatever t: log alpha_bar is linear between whole times."""
    log = np.log(coefficients(beta)[1])
    mixture = Mixture(None, torch.as_tensor(means), stds, weights)

    def model(x, t):
        a = torch.tensor(np.exp(np.interp(t.numpy(), range(len(log)), log)))
        sigma = (1 - a).sqrt().reshape(-1, *[1] * (x.dim() - 1))
        return (-sigma * mixture.score(x, a, 1 - a)).to(x.dtype)
    return model


def gaussian(m, s, beta=STRONG, D=1):
    return perfect([[m] * D], s, beta=beta)


def spy(times, factor=0.3):
    def model(x, t):
        times.append(t)
        return factor * x
    return model


SAMPLERS = [lambda *args: euler_maruyama(*args, 7, noise()), lambda *args: heun(*args, 7),
            lambda *args: predictor_corrector(*args, 7, generator=noise()),
            lambda *args: adaptive(*args)[0]]


SDES = [VPSDE, VESDE, SubVPSDE]
every_sde = pytest.mark.parametrize("sde", SDES)


def kernel(sde, a):
    """m and s of N(m x_0, s^2 I), Eq. 29, where s / m is that of alpha_bar = a in our chain."""
    sigma = math.sqrt((1 - a) / a)
    m = {VPSDE: math.sqrt(a), VESDE: 1.0,
         SubVPSDE: (math.sqrt(sigma ** 2 + 4) - sigma) / 2}[sde]            # (1 - m^2) / m = sigma
    return m, {VPSDE: math.sqrt(1 - m ** 2), VESDE: sigma, SubVPSDE: 1 - m ** 2}[sde]


def clock(t):
    return math.log(-math.log(ALPHA_BAR[t]))


# ---- the SDEs ----

@every_sde
@pytest.mark.parametrize("t", [1, 4, 8])
def test_k_makes_the_kernels_of_eq_29_of_the_kernel_of_the_chain(sde, t):
    k, _ = sde(strong(), None).k(clock(t))
    expected = kernel(sde, ALPHA_BAR[t])
    assert k * math.sqrt(ALPHA_BAR[t]) == pytest.approx(expected[0], rel=1e-12)
    assert k * math.sqrt(1 - ALPHA_BAR[t]) == pytest.approx(expected[1], rel=1e-12)


@pytest.mark.parametrize("B", [1e-3, 0.3, 2.0, 10.1])
def test_drift_and_diffusion_are_those_of_eq_9_11_and_12(B):
    """In the clocks of the paper: sigma^2 of the VE SDE, the integral of beta of the others."""
    (k, f), (k_ve, f_ve), (k_sub, f_sub) = (sde(strong(), None).k(math.log(B)) for sde in SDES)
    assert (k, f) == (1, -0.5)
    assert f_ve == 0 and k_ve ** 2 == pytest.approx(math.exp(B))           # d sigma^2 / dB
    h = 1e-4 * B
    S = [-2 * math.log(kernel(SubVPSDE, math.exp(-b))[0]) for b in (B - h, B, B + h)]
    dS = (S[2] - S[0]) / (2 * h)
    assert f_sub == pytest.approx(-dS / 2, rel=1e-6)
    assert k_sub ** 2 == pytest.approx(dS * -math.expm1(-2 * S[1]), rel=1e-6)


@every_sde
def test_forward_in_small_steps_the_marginals_are_those_of_eq_29(sde):
    """The recursion of mean and variance of x + f x h + k sqrt(h) z, from t = 1 to 8, converges."""
    def gap(n):
        (m, s), expected = (kernel(sde, ALPHA_BAR[t]) for t in (1, 8))
        B, h = -math.log(ALPHA_BAR[1]), math.log(ALPHA_BAR[1] / ALPHA_BAR[8]) / n
        v = s ** 2
        for i in range(n):
            k, f = sde(strong(), None).k(math.log(B + (i + 0.5) * h))
            m, v = m * (1 + h * f), (1 + h * f) ** 2 * v + h * k ** 2
        return abs(m / expected[0] - 1) + abs(math.sqrt(v) / expected[1] - 1)

    assert gap(500) < 0.01 and gap(1000) < 0.55 * gap(500)


@every_sde
def test_the_score_is_that_of_the_kernel_at_whole_times_and_in_between(sde):
    parts = [[0.5, -1.0], [0.2, 1.0]], [0.2, 0.4], [1, 3]
    mixture, x = Mixture(None, torch.tensor(parts[0]), *parts[1:]), torch.randn(5, 2).double()
    for a in (ALPHA_BAR[1], ALPHA_BAR[8], math.sqrt(ALPHA_BAR[2] * ALPHA_BAR[3])):
        m, s = kernel(sde, a)
        got = sde(strong(), perfect(*parts)).score(m * x, math.log(-math.log(a)))
        torch.testing.assert_close(got, mixture.score(m * x, m * m, s * s), rtol=1e-6, atol=1e-6)

@pytest.mark.parametrize("beta", [STRONG, linear_beta_schedule(), cosine_beta_schedule(),
                                  cosine_beta_schedule(7), [0.995]])
def test_alpha_bar_is_that_of_the_chain_at_whole_times(beta):
    sde = VPSDE(quiet(beta), None)
    expected = coefficients(torch.as_tensor(beta, dtype=torch.float64))[1]
    assert sde.B[0] == 0 and len(sde.B) == len(expected)
    np.testing.assert_allclose(np.exp(-sde.B), expected, rtol=1e-12)
    np.testing.assert_allclose(-np.expm1(-sde.B), 1 - np.array(expected), rtol=1e-12, atol=0)


def test_the_score_is_that_of_analytic_at_whole_times_and_the_perfect_one_in_between():
    mixture = Mixture(strong(), torch.tensor([[0.5, -1.0], [0.2, 1.0]]), [0.2, 0.4], [1, 3])
    sde = VPSDE(strong(), perfect([[0.5, -1.0], [0.2, 1.0]], [0.2, 0.4], [1, 3]))
    x = torch.randn(5, 2, dtype=torch.float64)
    for t in (1, 4, 8):
        expected = score_from_eps(strong(), mixture(x, t), t)
        torch.testing.assert_close(sde.score(x, math.log(-math.log(ALPHA_BAR[t]))), expected,
                                   rtol=1e-5, atol=1e-6)
    a = math.sqrt(ALPHA_BAR[2] * ALPHA_BAR[3])                  # t = 2.5
    score = sde.score(x, math.log(-math.log(a)))
    torch.testing.assert_close(score, mixture.score(x, a, 1 - a), rtol=1e-6, atol=1e-6)
    times = []
    VPSDE(strong(), spy(times)).score(x.float(), math.log(-math.log(a)))
    assert times[0].tolist() == pytest.approx([2.5] * 5) and times[0].dtype == torch.float32


@every_sde
@pytest.mark.parametrize("t", [1.5, 4.2, 7.9])
def test_the_flow_moves_the_density_as_the_fokker_planck_equation_says(sde, t):
    """d/dB log p along the flow is minus its divergence, here for one dimension by differences."""
    def log_p(x, B):
        m, s = kernel(kind, math.exp(-B))
        return mixture.log_density(x, m * m, s * s)

    mixture, h = Mixture(None, torch.tensor([[-1.0], [0.7]]), [0.3, 0.2], [1, 2]), 1e-4
    kind, sde = sde, sde(strong(), perfect([[-1.0], [0.7]], [0.3, 0.2], [1, 2]))
    B = np.interp(t, range(9), -np.log(ALPHA_BAR))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    slope = sde.flow(x, math.log(B)) / B                        # dx/dB
    total = (log_p(x + h * slope, B + h) - log_p(x - h * slope, B - h)) / (2 * h)
    divergence = (sde.flow(x + h, math.log(B)) - sde.flow(x - h, math.log(B))) / (2 * h * B)
    torch.testing.assert_close(total, -divergence.flatten(), rtol=1e-5, atol=1e-5)


# ---- samplers ----

def test_euler_maruyama_at_whole_times_takes_the_steps_of_eq_6_with_the_beta_of_the_chain():
    times, x_T = [], torch.randn(3, 2, dtype=torch.float64)
    x_0 = euler_maruyama(strong(), spy(times), x_T, 7, noise(4))
    x, generator = x_T, noise(4)
    for t in range(8, 1, -1):
        score = -0.3 * x / math.sqrt(1 - ALPHA_BAR[t])
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + BETA[t] * (x / 2 + score) + math.sqrt(BETA[t]) * z
    expected = x * (1 - 0.3 * math.sqrt(1 - ALPHA_BAR[1])) / math.sqrt(ALPHA_BAR[1])      # Tweedie
    torch.testing.assert_close(x_0, expected, rtol=1e-5, atol=1e-5)
    assert torch.stack(times)[:, 0].tolist() == pytest.approx([8, 7, 6, 5, 4, 3, 2, 1], abs=1e-5)


def test_of_the_ve_sde_the_steps_are_those_of_eq_8_backwards():
    """x_s = x_t + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) z: Algorithm 2's."""
    sigma = [math.sqrt((1 - a) / a) for a in ALPHA_BAR]
    x_T = torch.randn(3, 2, dtype=torch.float64)
    x_0 = euler_maruyama(strong(), spy([]), x_T, 7, noise(4), VESDE)
    x, generator = math.sqrt(1 + sigma[8] ** 2) * x_T, noise(4)
    for t in range(8, 1, -1):
        v = sigma[t] ** 2 - sigma[t - 1] ** 2
        score = -0.3 * x / math.sqrt(1 + sigma[t] ** 2) / sigma[t]
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + v * score + math.sqrt(v) * z
    expected = x - sigma[1] * 0.3 * x / math.sqrt(1 + sigma[1] ** 2)       # Tweedie
    torch.testing.assert_close(x_0, expected, rtol=1e-5, atol=1e-5)


def test_predictor_and_corrector_at_whole_times_are_those_of_algorithms_3_and_5():
    times, x_T = [], torch.randn(3, 2, 2, dtype=torch.float64)
    x_0 = predictor_corrector(strong(), spy(times), x_T, 7, 0.4, noise(4))
    x, generator = x_T, noise(4)
    for t in range(8, 1, -1):
        z, other = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(2))
        score = -0.3 * x / math.sqrt(1 - ALPHA_BAR[t])
        x = (2 - math.sqrt(1 - BETA[t])) * x + BETA[t] * score + math.sqrt(BETA[t]) * z
        g = -0.3 * x / math.sqrt(1 - ALPHA_BAR[t - 1])
        norm = sum(image.square().sum().sqrt() for image in g) / 3
        epsilon = 2 * (1 - BETA[t]) * (0.4 * math.sqrt(4) / norm) ** 2
        x = x + epsilon * g + torch.sqrt(2 * epsilon) * other
    expected = x * (1 - 0.3 * math.sqrt(1 - ALPHA_BAR[1])) / math.sqrt(ALPHA_BAR[1])
    torch.testing.assert_close(x_0, expected, rtol=1e-5, atol=1e-5)
    expected = [8, *[t for t in range(7, 1, -1) for _ in range(2)], 1, 1]
    assert torch.stack(times)[:, 0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sampler", [
    *(lambda *args, sde=sde: euler_maruyama(*args, 200, noise(), sde) for sde in SDES),
    lambda *args: predictor_corrector(*args, 100, generator=noise()),
    lambda *args: heun(*args, 40), lambda *args: adaptive(*args, 1e-4, 1e-4)[0]])
def test_from_x_T_of_q_every_sampler_draws_the_data(sampler):
    n, means, stds = 10_000, [[-0.8], [0.5]], [0.3, 0.2]
    x_0, _ = Mixture(None, torch.tensor(means), stds, [1, 3]).draw(n, noise(1))
    a, b = ALPHA_BAR[8], 1 - ALPHA_BAR[8]
    x_T = math.sqrt(a) * x_0 + math.sqrt(b) * torch.randn(n, 1, generator=noise(2))
    drawn = sampler(strong(), perfect(means, stds, [1, 3]), x_T)
    # What E[x_0 | x_1] of the data itself would be.
    a = ALPHA_BAR[1]
    x_1 = math.sqrt(a) * x_0 + math.sqrt(1 - a) * torch.randn(n, 1, generator=noise(3))
    score = Mixture(None, torch.tensor(means), stds, [1, 3]).score(x_1, a, 1 - a)
    expected = (x_1 + (1 - a) * score) / math.sqrt(a)
    difference = (drawn.sort(0).values - expected.sort(0).values).abs().mean().item()
    assert difference < 0.03                                    # of Wasserstein, at std 0.6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_if_all_data_is_one_point_samples_are_that_point(sampler):
    x_0 = sampler(strong(), perfect([[[[0.3]]]], 0.0), torch.randn(4, 1, 1, 1))
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=2e-6)


def exact_x_0(x_T, m, s):
    """The ODE keeps each quantile of a Gaussian; then Tweedie."""
    v_1, v_T = (ALPHA_BAR[t] * s ** 2 + 1 - ALPHA_BAR[t] for t in (1, 8))
    centred = (x_T - math.sqrt(ALPHA_BAR[8]) * m) * math.sqrt(v_1 / v_T)
    return m + math.sqrt(ALPHA_BAR[1]) * s ** 2 / v_1 * centred


def test_the_ode_keeps_the_quantiles_of_a_gaussian_and_heun_is_of_order_2():
    def model(x, t):
        calls.append(t)
        assert len(calls) < 1000                                # a lower order would need more
        return exact(x, t)

    calls, x_T, exact = [], torch.randn(6, 1, dtype=torch.float64), gaussian(0.3, 0.5)
    expected = exact_x_0(x_T, 0.3, 0.5)
    x_0, evaluations = adaptive(strong(), model, x_T, 1e-9, 1e-9)
    torch.testing.assert_close(x_0, expected, rtol=1e-6, atol=1e-6)
    coarse, fine = (((heun(strong(), model, x_T, n) - x_0) ** 2).mean().sqrt() for n in (20, 40))
    assert fine < 1e-3 and coarse / fine == pytest.approx(4, rel=0.15)
    for tolerance in (1e-1, 1e-3, 1e-5):
        x, fewer = adaptive(strong(), model, x_T, tolerance, tolerance)
        assert (x - expected).abs().max() < tolerance and fewer < evaluations


@every_sde
def test_from_one_x_T_the_odes_of_all_sdes_end_at_one_x_0(sde):
    model = perfect([[-0.8], [0.5]], [0.3, 0.2], [1, 3])
    x_T = torch.randn(6, 1, dtype=torch.float64)
    expected, _ = adaptive(strong(), model, x_T, 1e-9, 1e-9)
    x_0, evaluations = adaptive(strong(), model, x_T, 1e-9, 1e-9, sde)
    torch.testing.assert_close(x_0, expected, rtol=1e-6, atol=1e-6)
    assert 100 < evaluations < 3000


def test_heun_and_the_adaptive_solver_ask_from_T_to_1_and_say_how_often():
    times = []
    heun(strong(), spy(times), torch.randn(3, 2, dtype=torch.float64), 5)
    asked = torch.stack([t.double() for t in times])
    assert asked.shape == (11, 3) and asked[0].tolist() == pytest.approx([8] * 3)
    assert asked[-2:].flatten().tolist() == pytest.approx([1] * 6)
    log_B = np.log(np.interp(asked[:-1:2, 0], range(9), -np.log(ALPHA_BAR)))
    np.testing.assert_allclose(np.diff(log_B), np.diff(log_B)[0], rtol=1e-5)       # an even clock
    times.clear()
    x_T = torch.randn(3, 2)
    _, evaluations = adaptive(strong(), spy(times), x_T)
    assert evaluations == len(times) and all(t.shape == (3,) for t in times)
    asked = torch.stack([t.double() for t in times])
    assert asked.max() == pytest.approx(8) and asked.min() == pytest.approx(1)
    assert torch.equal(adaptive(strong(), spy([]), x_T)[0],     # the defaults
                       adaptive(strong(), spy([]), x_T, 1e-2, 1e-2)[0])


@pytest.mark.parametrize("beta, first", [(linear_beta_schedule(), 1000), (STRONG, 8),
                                         (cosine_beta_schedule(), None)])
def test_x_T_is_taken_for_time_T_or_where_alpha_bar_is_exp_minus_10_2(beta, first):
    if first is None:                                           # alpha_bar falls to 2e-9 in the end
        B = -np.log(coefficients(beta)[1])
        first = np.interp(10.2, B, range(1001))
        assert 996 < first < 997
    for sampler in SAMPLERS:
        times = []
        sampler(quiet(beta), spy(times), torch.randn(2, 1))
        assert times[0].tolist() == pytest.approx([first] * 2, rel=1e-6)
        assert max(t.max() for t in times) <= first * (1 + 1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_chain_of_one_step_has_nothing_to_solve(sampler):
    x_T = torch.randn(2, 3)
    expected = DDPM([0.995]).predict_x_0(x_T, 1, 0.3 * x_T)
    ddpm = DDPM([0.995])
    if sampler is not SAMPLERS[2]:                              # the corrector still moves x_1
        torch.testing.assert_close(sampler(ddpm, spy([]), x_T), expected)
    assert sampler(ddpm, spy([]), x_T).isfinite().all()


@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_however_long_cannot_blow_up(steps):
    """The beta of a step is below 1, whatever the schedule: with it, Euler-Maruyama is stable."""
    for beta in (cosine_beta_schedule(), linear_beta_schedule()):
        x_0 = euler_maruyama(DDPM(beta), gaussian(0.0, 1.0, beta), torch.randn(2000, 1), steps,
                             noise())
        assert 0.5 < x_0.std() < 2


def test_the_noise_is_the_generators_and_no_gradients_are_kept():
    net, x_T = torch.nn.Linear(2, 2), torch.randn(3, 2)
    state = torch.get_rng_state()
    for sampler in (euler_maruyama, predictor_corrector):
        one, two, other = (sampler(strong(), lambda x, t: net(x), x_T, 5, generator=noise(seed))
                           for seed in (0, 0, 1))
        assert torch.equal(one, two) and not torch.equal(one, other) and not one.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    for x in (heun(strong(), lambda x, t: net(x), x_T, 3),
              adaptive(strong(), lambda x, t: net(x), x_T)[0],
              log_likelihood(strong(), lambda x, t: net(x), x_T)):
        assert not x.requires_grad
    snrs = [predictor_corrector(strong(), spy([]), x_T, 5, *snr, generator=noise())
            for snr in ((), (0.16,), (0.3,))]
    assert torch.equal(snrs[0], snrs[1]) and not torch.equal(snrs[0], snrs[2])


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_what_cannot_be_solved_is_said(factor):
    with pytest.raises(FloatingPointError, match="rtol 0.01"):
        adaptive(strong(), spy([], factor), torch.randn(2, 1))


# ---- likelihood ----

@every_sde
@pytest.mark.parametrize("D", [1, 3])
def test_on_gaussian_data_the_likelihood_of_every_sde_is_the_closed_form(sde, D):
    """The ODE keeps each quantile of N(m mu, v): dx_T / dx_1 = sqrt(v_T / v_1)."""
    mu, std, x_1 = 0.3, 0.5, torch.randn(5, D, dtype=torch.float64)
    (m_1, s_1), (m_T, s_T) = (kernel(sde, ALPHA_BAR[t]) for t in (1, 8))
    root = math.sqrt((m_T ** 2 * std ** 2 + s_T ** 2) / (m_1 ** 2 * std ** 2 + s_1 ** 2))
    x_T = m_T * mu + root * (x_1 - m_1 * mu)
    log_N = torch.distributions.Normal(0, math.hypot(m_T, s_T)).log_prob(x_T).sum(1)
    got = log_likelihood(strong(), gaussian(mu, std, D=D), x_1, 1e-9, 1e-9, sde=sde)
    torch.testing.assert_close(got, log_N + D * math.log(root), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("D", [1, 3])
def test_on_gaussian_data_the_likelihood_is_the_closed_form(D):
    m, s, x_1 = 0.3, 0.5, torch.randn(5, D, dtype=torch.float64)
    v_1, v_T = (ALPHA_BAR[t] * s ** 2 + 1 - ALPHA_BAR[t] for t in (1, 8))
    root = math.sqrt(v_T / v_1)                                 # dx_T/dx_1
    x_T = math.sqrt(ALPHA_BAR[8]) * m + root * (x_1 - math.sqrt(ALPHA_BAR[1]) * m)
    log_N = torch.distributions.Normal(0, 1).log_prob(x_T).sum(1)
    got = log_likelihood(strong(), gaussian(m, s, D=D), x_1, 1e-9, 1e-9)
    torch.testing.assert_close(got, log_N + D * math.log(root), rtol=1e-6, atol=1e-6)
    shaped = log_likelihood(strong(), perfect([[[[m] * D]]], s), x_1[:, None, None].float())
    torch.testing.assert_close(shaped, got, rtol=1e-3, atol=1e-3)
    standard = log_likelihood(strong(), gaussian(0.0, 1.0, D=D), x_1)      # then p_1 is N(0, I) too
    torch.testing.assert_close(standard, torch.distributions.Normal(0, 1).log_prob(x_1).sum(1))


def test_hutchinsons_estimate_is_unbiased_and_its_probe_is_drawn_once_for_all_t():
    """Data along a diagonal, so that the trace is not what one probe sees."""
    means, stds, runs = [[-0.9, -0.9], [0.0, 0.1], [0.8, 0.9]], 0.3, 400
    points = torch.tensor([[0.1, 0.2], [-1.0, 0.3], [0.6, 0.7]], dtype=torch.float64)
    mixture = Mixture(None, torch.tensor(means), stds)

    def slope(x, B):
        return -(x + mixture.score(x, math.exp(-B), -math.expm1(-B))) / 2

    x, (B, end), n = points, (-math.log(ALPHA_BAR[t]) for t in (1, 8)), 300       # Runge-Kutta in B
    h = (end - B) / n
    for i in range(n):
        k1 = slope(x, B + i * h)
        k2 = slope(x + h / 2 * k1, B + (i + 0.5) * h)
        k3 = slope(x + h / 2 * k2, B + (i + 0.5) * h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(x + h * k3, B + (i + 1) * h))
    # Probability is carried along: p_1(x_1) / N(x_T) = q_1(x_1) / q_T(x_T).
    q_1, q_T = (mixture.log_density(y, ALPHA_BAR[t], 1 - ALPHA_BAR[t])
                for y, t in ((points, 1), (x, 8)))
    expected = q_1 - q_T + torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    calls = []

    def model(x, t):
        calls.append(t)
        assert len(calls) < 600                                 # the integrand is smooth in t
        return perfect(means, stds)(x, t)

    got = log_likelihood(strong(), model, points.repeat_interleave(runs, 0), 1e-5, 1e-5, noise(1))
    got = got.reshape(3, runs)
    error = got.std(1) / math.sqrt(runs)
    assert (got.std(1) > 0.01).all() and ((got.mean(1) - expected).abs() < 4 * error).all()
    one, two, other = (log_likelihood(strong(), model, points, generator=noise(seed))
                       for seed in (3, 3, 4))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.dtype == torch.float64


@pytest.mark.parametrize("beta_1, k", [(1e-4, [139, 141, 142, 140]), (1e-2, [191, 89, 170, 110])])
def test_bits_per_dim_of_dequantised_gaussian_data_are_the_closed_form(beta_1, k):
    """Bins are 0.0078 wide.  At sigma_1 = 0.01 their width shows, at 0.1 what x_1 is taken for."""
    beta, m, s, n = linear_beta_schedule(100, beta_1, 0.08), 0.1, 0.01, 2000
    alpha_bar = coefficients(beta)[1]
    k = torch.tensor(k, dtype=torch.uint8).reshape(1, 1, 2, 2)
    levels = k.double().flatten() / 127.5 - 1
    v_1, v_T = (alpha_bar[t] * s ** 2 + 1 - alpha_bar[t] for t in (1, 100))
    root = math.sqrt(v_T / v_1)
    x_T = math.sqrt(alpha_bar[100]) * m + root * (levels - math.sqrt(alpha_bar[1]) * m)
    square = x_T ** 2 + root ** 2 * (2 / 255) ** 2 / 12         # the mean over u
    nats = (square + math.log(2 * math.pi)) / 2 - math.log(root) - math.log(2 / 255)
    model = perfect(torch.full((1, 1, 2, 2), m), s, beta=beta)
    got = bits_per_dim(quiet(beta), model, k.expand(n, 1, 2, 2), generator=noise())
    expected, error = nats.mean().item() / math.log(2), got.std().item() / math.sqrt(n)
    assert error < 0.01 and got.mean().item() == pytest.approx(expected, abs=4 * error)
    half = root / 255                                           # Jensen: above that of the bins
    cdf = torch.distributions.Normal(0, 1).cdf
    discrete = -(cdf(x_T + half) - cdf(x_T - half)).log2().mean().item()
    assert discrete < expected < discrete + 0.1


def test_each_image_has_noise_of_its_own_from_the_generator_and_tolerances_count():
    model, x = perfect(torch.full((1, 1, 2, 2), 0.1), 0.3), torch.full((3, 1, 2, 2), 7).byte()
    one, two, other = (bits_per_dim(strong(), model, x, generator=noise(i)) for i in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other) and len(one.unique()) == 3
    for f, y in ((bits_per_dim, x), (log_likelihood, torch.randn(3, 1, 2, 2))):
        default, same, rough = (f(strong(), model, y, *tolerance, generator=noise())
                                for tolerance in ((), (1e-4, 1e-4), (10.0, 10.0)))
        assert torch.equal(default, same) and not torch.equal(default, rough)


def test_the_two_tolerances_reach_the_solver_as_they_are_called(monkeypatch):
    asked = []
    monkeypatch.setattr(score_sde, "dormand_prince",
                        lambda f, y, c, end, *tolerances: (asked.append(tolerances), (y, 0))[1])
    adaptive(strong(), spy([]), torch.randn(2, 1), rtol=0.1, atol=0.2)
    log_likelihood(strong(), spy([]), torch.randn(2, 1), rtol=0.1, atol=0.2)
    bits_per_dim(strong(), spy([]), torch.zeros(2, 1, 1, 1).byte(), rtol=0.1, atol=0.2)
    assert asked == [(0.1, 0.2)] * 3


def test_likelihood_keeps_the_model_as_it_is():
    net = torch.nn.Linear(2, 2)
    x_1 = torch.randn(3, 2, requires_grad=True)
    assert not log_likelihood(strong(), lambda x, t: net(x), x_1).requires_grad
    assert all(p.grad is None for p in net.parameters())


# ---- the loss ----

def test_L_simple_is_eq_7_with_lambda_1_minus_alpha_bar():
    """lambda(t) times the squared difference of scores, a mean over pixels, written out."""
    def model(x_t, t):
        return 0.5 * x_t

    x_0 = torch.randn(50, 2, 3, 3)
    torch.manual_seed(4)
    losses, t = L_simple(strong(), model, x_0, None)
    torch.manual_seed(4)
    assert torch.equal(t, torch.randint(1, 9, (50,)))
    eps, a = torch.randn_like(x_0), torch.tensor(ALPHA_BAR)[t].reshape(-1, 1, 1, 1)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    score = -model(x_t, t) / (1 - a).sqrt()
    target = -(x_t - a.sqrt() * x_0) / (1 - a)                  # grad log q(x_t | x_0)
    expected = ((1 - a) * (score - target) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(losses, expected.float(), rtol=1e-4, atol=1e-5)


# ---- the program ----

def test_the_program_draws_samples_and_counts_bits(trained, tmp_path, capsys, monkeypatch):
    path, kept, original, noise_left, asked = trained[0], [], score_sde.draw_figure, noise(3), []
    x_T = torch.randn(8, 1, 8, 8, generator=noise_left)

    def sampler(name):                               # made up: the next test runs the true ones
        def call(ddpm, model, x, *args, **kwargs):
            args = [*args, *kwargs.values()]
            generators = [each for each in args if isinstance(each, torch.Generator)]
            assert all(torch.equal(each.get_state(), noise_left.get_state()) for each in generators)
            asked.append((name, *args[:len(args) - len(generators)], len(generators)))
            assert torch.equal(x, x_T)
            return (x + len(asked), 17) if name == "adaptive" else x + len(asked)
        return call

    for name in ("euler_maruyama", "predictor_corrector", "heun", "adaptive"):
        monkeypatch.setattr(score_sde, name, sampler(name))
    parts = []
    monkeypatch.setattr(score_sde, "bits_per_dim", lambda *args, **kwargs: (
        parts.append((args[2], bits_per_dim(*args, **kwargs))), parts[-1][1])[1])
    scored, score = [], variational_bound.score
    monkeypatch.setattr(variational_bound, "score", lambda ddpm, model, x, generator: (
        scored.append((x, score(ddpm, model, x, generator))), scored[-1][1])[1])
    monkeypatch.setattr(score_sde, "draw_figure", lambda *all: kept.append(all) or original(*all))
    monkeypatch.setattr(score_sde, "batch_size", lambda H: 48)              # 3 images, 4 times each
    score_sde.main(["--checkpoint", str(path), "--n", "5", "--seed", "3", "--device", "cpu",
                    "--out", str(tmp_path / "s.png")])
    out = capsys.readouterr().out
    assert "5 images of digits" in out and f"wrote {tmp_path / 's.png'}" in out
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"

    (drawn, ode, chain), = kept
    assert asked == [("euler_maruyama", 100, 1), ("predictor_corrector", 50, 1), ("heun", 50, 0),
                     ("adaptive", 0), *(("adaptive", 1e-3, 1e-3, sde, 0) for sde in SDES)]
    assert [count for _, count in drawn.values()] == [101, 101, 101, 17, 17, 17, 17]
    for k, sde in enumerate(SDES):
        assert (f"ODE to 1e-3, {sde.__name__}: 17 evaluations, at an RMS distance from VPSDE of "
                f"{k:.4f}") in out
    assert all(torch.equal(x_0, x_T + k) for k, (x_0, _) in enumerate(drawn.values(), 1))
    (x, (L, _)), = scored
    test, _ = data.load("digits", 8, 1, "test")
    assert torch.equal(x, test[torch.randperm(40, generator=noise(3))[:5]])
    (first, bits), (rest, more) = parts
    for part, batch in ((x[:3], first), (x[3:], rest)):
        assert torch.equal(batch, part.repeat(4, 1, 1, 1))
    assert ode.tolist() == pytest.approx([*(bits[i::3].mean().item() for i in range(3)),
                                          *(more[i::2].mean().item() for i in range(2))])
    assert torch.equal(chain, L["beta_tilde"].sum(1))           # the variance of this checkpoint

    def printed(bits):
        return f"{bits.mean():.3f} +- {bits.std() / math.sqrt(5):.3f}"

    assert (f"finding: by the ODE at most {printed(ode)} bits/dim, {printed(chain - ode)} less "
            f"than by its chain, and less for {sum(ode < chain)} of 5 images") in out
    for variance in ("beta", "beta_tilde"):
        assert f"sigma_t^2 = {variance}: {printed(L[variance].sum(1))} bits/dim" in out


def test_large_images_are_taken_one_by_one(trained, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(score_sde, "batch_size", lambda H: 1)
    monkeypatch.setattr(score_sde, "bits_per_dim",
                        lambda ddpm, model, x, **_: (sizes.append(len(x)), torch.ones(len(x)))[1])
    score_sde.main(["--checkpoint", str(trained[0]), "--n", "3", "--out", str(tmp_path / "s.png")])
    assert sizes == [4] * 3


def test_the_labels_of_the_samplers_count_their_evaluations():
    for sampler, steps in ((euler_maruyama, 100), (predictor_corrector, 50), (heun, 50)):
        times = []
        sampler(strong(), spy(times), torch.randn(2, 1), steps)
        assert len(times) == 101
