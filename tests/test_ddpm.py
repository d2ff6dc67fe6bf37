"""The process against the paper: oracles compute alpha_bar here, in float64, never from DDPM.

Two data sets have a perfect eps_theta in closed form, and with it an exact answer for every
sampler: a single point c, and a Gaussian N(m, s^2).
"""
import copy
import math
import warnings

import pytest
import torch

from ddpm import DDPM, at
from schedules import cosine_beta_schedule, linear_beta_schedule

STRONG = torch.linspace(0.05, 0.6, 8, dtype=torch.float64)     # few steps, so that mistakes show


def coefficients(beta):
    """beta_t, alpha_bar_t as lists of floats with index t, and index 0 for clean data."""
    alpha_bar = [1.0]
    for b in beta.tolist():
        alpha_bar.append(alpha_bar[-1] * (1 - b))
    return [0.0, *beta.tolist()], alpha_bar


def strong(variance="beta"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DDPM(STRONG, variance)


def point_mass(c, beta):
    """The perfect eps_theta if all data equals c."""
    _, alpha_bar = coefficients(beta)
    alpha_bar = torch.tensor(alpha_bar, dtype=torch.float64)

    def model(x_t, t):
        a = alpha_bar[t].reshape(-1, 1, 1, 1)
        return ((x_t.double() - a.sqrt() * c) / (1 - a).sqrt()).float()
    return model


def gaussian(m, s, beta):
    """The perfect eps_theta if x_0 ~ N(m, s^2)."""
    _, alpha_bar = coefficients(beta)
    alpha_bar = torch.tensor(alpha_bar, dtype=torch.float64)

    def model(x_t, t):
        a = alpha_bar[t].reshape(-1, 1, 1, 1)
        return ((1 - a).sqrt() * (x_t.double() - a.sqrt() * m) / (a * s ** 2 + 1 - a)).float()
    return model


# ---- the forward process ----

def test_the_coefficients_are_the_papers_with_index_0_for_clean_data():
    ddpm = strong()
    beta, alpha_bar = coefficients(STRONG)
    assert ddpm.T == 8
    assert ddpm.beta.tolist() == pytest.approx(beta)
    assert ddpm.alpha.tolist() == pytest.approx([1 - b for b in beta])
    assert ddpm.alpha_bar.tolist() == pytest.approx(alpha_bar)
    assert ddpm.one_minus_alpha_bar.tolist() == pytest.approx([1 - a for a in alpha_bar])
    assert (ddpm.beta[0], ddpm.alpha_bar[0], ddpm.one_minus_alpha_bar[0]) == (0, 1, 0)


def test_the_coefficients_are_float32_buffers_that_no_checkpoint_holds():
    ddpm = strong()
    buffers = dict(ddpm.named_buffers())
    assert set(buffers) == {"beta", "alpha", "alpha_bar", "one_minus_alpha_bar", "beta_tilde",
                            "sigma"}
    assert all(b.dtype == torch.float32 and b.shape == (9,) for b in buffers.values())
    assert not ddpm.state_dict() and not list(ddpm.parameters())


@pytest.mark.parametrize("move", [lambda ddpm: ddpm, copy.deepcopy, lambda ddpm: ddpm.half(),
                                  lambda ddpm: ddpm.to("meta", torch.bfloat16)])
def test_beside_the_buffers_the_coefficients_stay_in_float64_on_the_cpu(move):
    beta = cosine_beta_schedule()
    kept, expected = vars(move(DDPM(beta)).exact), [torch.tensor(c, dtype=torch.float64)
                                                    for c in coefficients(beta)]
    assert all(c.dtype == torch.float64 and c.device.type == "cpu" for c in kept.values())
    for name, each in zip(("beta", "alpha_bar"), expected, strict=True):
        torch.testing.assert_close(kept[name], each, rtol=1e-12, atol=0)
    ddpm = DDPM(beta)
    assert kept.keys() == dict(ddpm.named_buffers()).keys()
    assert all(getattr(ddpm, name).equal(kept[name].float()) for name in kept)


def test_one_minus_alpha_bar_is_exact_where_float32_subtraction_is_not():
    ddpm = DDPM(linear_beta_schedule())
    assert ddpm.one_minus_alpha_bar[1].item() == pytest.approx(1e-4, rel=1e-7)
    assert (1 - ddpm.alpha_bar[1]).item() == pytest.approx(1e-4 * (1 + 1.7e-4), rel=1e-5)


def test_iterating_eq_2_gives_eq_4():
    ddpm = strong()
    x, variance = 1.0, 0.0
    for t, beta in enumerate(STRONG.tolist(), 1):
        x = math.sqrt(1 - beta) * x                             # Eq. 2 without its noise
        variance = (1 - beta) * variance + beta                 # and the variance of its noise
        zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
        assert ddpm.q_sample(one, t, zero).item() == pytest.approx(x, rel=1e-6)
        assert ddpm.q_sample(zero, t, one).item() == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_each_image_gets_the_noise_of_its_own_time():
    ddpm, t = strong(), torch.tensor([0, 3, 8])
    x_0, eps = torch.randn(2, 3, 2, 4, 4)
    x_t = ddpm.q_sample(x_0, t, eps)
    for i in range(3):
        alone = ddpm.q_sample(x_0[i:i + 1], t[i].item(), eps[i:i + 1])
        torch.testing.assert_close(x_t[i:i + 1], alone)
    assert torch.equal(x_t[0], x_0[0])         # t = 0 is clean data: 1 x_0 + 0 eps, exactly


def test_at_broadcasts_over_any_number_of_dimensions():
    coefficient = torch.arange(5.0)
    assert at(coefficient, torch.tensor([4, 1]), torch.zeros(2, 3)).tolist() == [[4], [1]]
    assert at(coefficient, torch.tensor([4, 1]), torch.zeros(2, 3, 1, 1)).shape == (2, 1, 1, 1)
    assert at(coefficient, 3, torch.zeros(2, 3, 1, 1)).tolist() == [[[[3]]]]


# ---- the posterior ----

def test_the_posterior_is_the_product_of_two_gaussians():
    """q(x_{t-1} | x_t, x_0) by precision weighting of q(x_t | x_{t-1}) and q(x_{t-1} | x_0)."""
    ddpm = strong()
    beta, alpha_bar = coefficients(STRONG)
    x_0, x_t = 0.7, -1.3
    for t in range(2, 9):
        precision = (1 - beta[t]) / beta[t] + 1 / (1 - alpha_bar[t - 1])
        mean = (math.sqrt(1 - beta[t]) * x_t / beta[t]
                + math.sqrt(alpha_bar[t - 1]) * x_0 / (1 - alpha_bar[t - 1])) / precision
        one = torch.ones(1, 1, 1, 1)
        assert ddpm.posterior_mean(x_0 * one, x_t * one, t).item() == pytest.approx(mean, rel=1e-5)
        assert ddpm.beta_tilde[t].item() == pytest.approx(1 / precision, rel=1e-6)
    assert ddpm.posterior_mean(x_0 * one, x_t * one, 1).item() == pytest.approx(x_0, rel=1e-6)
    assert ddpm.beta_tilde[1] == ddpm.beta_tilde[0] == 0


def test_the_posterior_mean_takes_a_time_for_each_image():
    ddpm, t = strong(), torch.tensor([1, 5])
    x_0, x_t = torch.randn(2, 2, 1, 4, 4)
    both = ddpm.posterior_mean(x_0, x_t, t)
    for i in range(2):
        alone = ddpm.posterior_mean(x_0[i:i + 1], x_t[i:i + 1], t[i].item())
        torch.testing.assert_close(both[i:i + 1], alone)


def test_eq_15_undoes_eq_4():
    ddpm, t = strong(), torch.tensor([0, 1, 8])
    x_0, eps = torch.randn(2, 3, 1, 4, 4)
    torch.testing.assert_close(ddpm.predict_x_0(ddpm.q_sample(x_0, t, eps), t, eps), x_0)


def test_eq_7_of_eq_15_is_eq_11():
    ddpm = strong()
    beta, alpha_bar = coefficients(STRONG)
    x_t, eps = torch.randn(2, 2, 1, 4, 4)
    for t in range(1, 9):
        mu = (x_t - beta[t] / math.sqrt(1 - alpha_bar[t]) * eps) / math.sqrt(1 - beta[t])
        via_x_0 = ddpm.posterior_mean(ddpm.predict_x_0(x_t, t, eps), x_t, t)
        torch.testing.assert_close(via_x_0, mu, rtol=1e-4, atol=1e-5)


# ---- Algorithm 1 ----

def test_training_times_cover_exactly_1_to_T_and_differ_within_a_batch():
    ddpm, seen = strong(), []

    def spy(x_t, t):
        seen.append(t)
        return torch.zeros_like(x_t)

    torch.manual_seed(0)
    for _ in range(20):
        ddpm.loss(spy, torch.zeros(64, 1, 2, 2))
    assert all(t.shape == (64,) and t.dtype == torch.int64 and len(t.unique()) > 1 for t in seen)
    times, counts = torch.cat(seen).unique(return_counts=True)
    assert times.tolist() == list(range(1, 9))
    assert counts.min() > 100                                   # 160 expected of each


def test_the_loss_is_the_mean_squared_error_of_the_noise_in_x_t():
    ddpm, t = strong(), torch.tensor([2, 7])
    x_0, eps = torch.randn(2, 2, 1, 3, 3)
    asked = []

    def model(x_t, t):
        asked.append((x_t, t))
        return 0.5 * x_t

    loss = ddpm.loss(model, x_0, t, eps)
    _, alpha_bar = coefficients(STRONG)
    a = torch.tensor([alpha_bar[2], alpha_bar[7]]).reshape(2, 1, 1, 1)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    torch.testing.assert_close(asked[0][0], x_t)
    assert torch.equal(asked[0][1], t)
    torch.testing.assert_close(loss, ((0.5 * x_t - eps) ** 2).mean())
    each = ddpm.loss(model, x_0, t, eps, reduction="none")
    torch.testing.assert_close(each, (0.5 * x_t - eps) ** 2)
    with pytest.raises(ValueError):
        ddpm.loss(model, x_0, t, eps, reduction="median")


def test_predicting_0_costs_1_and_the_perfect_network_costs_what_the_closed_form_says():
    torch.manual_seed(0)
    ddpm, x_0 = strong(), 0.2 + 0.5 * torch.randn(20_000, 1, 1, 1)
    assert ddpm.loss(lambda x_t, t: torch.zeros_like(x_t), x_0).item() == pytest.approx(1, abs=0.04)
    _, alpha_bar = coefficients(STRONG)
    best = sum(a * 0.25 / (a * 0.25 + 1 - a) for a in alpha_bar[1:]) / 8
    loss = ddpm.loss(gaussian(0.2, 0.5, STRONG), x_0).item()
    assert loss == pytest.approx(best, rel=0.05)


@pytest.mark.parametrize("s2, floor", [(1, 0.276), (0.01, 0.041), (0.001, 0.011)])
def test_the_floor_of_the_loss_is_what_the_readme_says(s2, floor):
    _, alpha_bar = coefficients(linear_beta_schedule())
    best = sum(a * s2 / (a * s2 + 1 - a) for a in alpha_bar[1:]) / 1000
    assert best == pytest.approx(floor, abs=5e-4)


# ---- Algorithm 2 ----

@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("beta", [linear_beta_schedule(), cosine_beta_schedule(50), STRONG])
def test_if_all_data_is_one_point_samples_are_that_point(beta, variance):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ddpm = DDPM(beta, variance)
    x_0 = ddpm.sample(point_mass(0.3, beta), (4, 3, 2, 2))
    assert x_0.shape == (4, 3, 2, 2)
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=2e-6)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_on_gaussian_data_samples_have_the_mean_and_std_of_the_exact_recursion(variance):
    m, s, n = 0.3, 0.5, 40_000
    beta, alpha_bar = coefficients(STRONG)
    mean, var = 0.0, 1.0                                        # of x_T
    for t in range(8, 0, -1):
        a, before = alpha_bar[t], alpha_bar[t - 1]
        k = s ** 2 * math.sqrt(a) / (a * s ** 2 + 1 - a)        # E[x_0 | x_t] = m + k (x_t - ...)
        c_0 = math.sqrt(before) * beta[t] / (1 - a)
        c_t = math.sqrt(1 - beta[t]) * (1 - before) / (1 - a)
        mean = c_0 * (m + k * (mean - math.sqrt(a) * m)) + c_t * mean
        var = (c_0 * k + c_t) ** 2 * var
        if t > 1:
            var += beta[t] if variance == "beta" else (1 - before) / (1 - a) * beta[t]
    generator = torch.Generator().manual_seed(1)
    x_0 = strong(variance).sample(gaussian(m, s, STRONG), (n, 1, 1, 1), clip=False,
                                  generator=generator)
    assert x_0.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(var / n))
    assert x_0.std().item() == pytest.approx(math.sqrt(var), rel=4 / math.sqrt(2 * n))


def test_sigma_is_the_standard_deviation_of_the_named_variance():
    beta, alpha_bar = coefficients(STRONG)
    assert strong("beta").sigma.tolist() == pytest.approx([math.sqrt(b) for b in beta])
    tilde = [0.0] + [math.sqrt((1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t])
                     for t in range(1, 9)]
    assert strong("beta_tilde").sigma.tolist() == pytest.approx(tilde)
    assert strong().sigma.tolist() == strong("beta").sigma.tolist()


def test_sampling_asks_the_model_T_times_in_order_for_the_whole_batch():
    seen = []

    def spy(x_t, t):
        seen.append(t)
        return torch.zeros_like(x_t)

    strong().sample(spy, (3, 1, 2, 2))
    assert [t.tolist() for t in seen] == [[t] * 3 for t in range(8, 0, -1)]
    assert all(t.dtype == torch.int64 for t in seen)


def test_only_the_last_step_adds_no_noise():
    ddpm, x_t = strong(), torch.randn(2, 1, 4, 4)
    for t in range(8, 0, -1):
        one, two = (ddpm.p_sample(lambda x_t, t: 0.1 * x_t, x_t, t) for _ in range(2))
        assert torch.equal(one, two) == (t == 1)


def test_a_step_is_the_posterior_mean_of_the_clipped_estimate_plus_sigma_z():
    ddpm, t = strong(), 5
    beta, alpha_bar = coefficients(STRONG)
    x_t, eps = torch.randn(2, 2, 1, 4, 4)
    z = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3))
    x_0_hat = (x_t - math.sqrt(1 - alpha_bar[t]) * eps) / math.sqrt(alpha_bar[t])
    assert x_0_hat.abs().max() > 1
    for clip in (True, False):
        estimate = x_0_hat.clamp(-1, 1) if clip else x_0_hat
        expected = (math.sqrt(alpha_bar[t - 1]) * beta[t] * estimate
                    + math.sqrt(1 - beta[t]) * (1 - alpha_bar[t - 1]) * x_t) / (1 - alpha_bar[t])
        expected += math.sqrt(beta[t]) * z
        step = ddpm.p_sample(lambda x_t, t: eps, x_t, t, clip,  # noqa: B023
                             generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(step, expected)
    default = ddpm.p_sample(lambda x_t, t: eps, x_t, t, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(default, step)                       # clipping is on unless told


def test_clipping_changes_nothing_where_nothing_is_clipped():
    ddpm = strong()
    samples = [ddpm.sample(point_mass(0.3, STRONG), (2, 1, 2, 2), clip,
                           torch.Generator().manual_seed(0)) for clip in (True, False)]
    torch.testing.assert_close(*samples)


@pytest.mark.parametrize("beta", [linear_beta_schedule(), cosine_beta_schedule()])
def test_a_model_that_has_learned_nothing_still_gives_pixels_in_range(beta):
    x_0 = DDPM(beta).sample(lambda x_t, t: torch.zeros_like(x_t), (2, 1, 4, 4))
    assert x_0.abs().max() <= 1
    x_0 = DDPM(beta).sample(lambda x_t, t: torch.zeros_like(x_t), (2, 1, 4, 4), clip=False)
    assert x_0.abs().max() > 1


def test_clipping_is_on_unless_told():
    ddpm, x = strong(), 3 * torch.ones(1, 1, 2, 2)
    assert ddpm.estimate_x_0(lambda x_t, t: 0 * x_t, x, 8).max() == 1
    steps = ddpm.reverse_process(lambda x_t, t: 0 * x_t, x)
    assert all(x_0_hat.max() <= 1 for _, _, x_0_hat in steps)


def test_the_reverse_process_shows_every_step_of_the_same_chain():
    ddpm, model = strong(), gaussian(0, 0.3, STRONG)
    x_T = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = list(ddpm.reverse_process(model, x_T, generator=torch.Generator().manual_seed(1)))
    assert [t for t, _, _ in steps] == list(range(8, -1, -1))

    _, alpha_bar = coefficients(STRONG)
    generator, x_t = torch.Generator().manual_seed(1), x_T
    for t, seen, x_0_hat in steps[:-1]:
        assert torch.equal(seen, x_t)
        eps = model(x_t, torch.full((2,), t))
        expected = (x_t - math.sqrt(1 - alpha_bar[t]) * eps) / math.sqrt(alpha_bar[t])
        torch.testing.assert_close(x_0_hat, expected.clamp(-1, 1))
        x_t = ddpm.p_sample(model, x_t, t, generator=generator)
    assert torch.equal(steps[-1][1], x_t) and torch.equal(steps[-1][2], x_t)


def test_sample_starts_from_noise_of_the_generator_and_walks_the_reverse_process():
    ddpm, model, shape = strong(), gaussian(0, 0.3, STRONG), (2, 1, 4, 4)
    for clip in (True, False):
        x_0 = ddpm.sample(model, shape, clip, torch.Generator().manual_seed(5))
        generator = torch.Generator().manual_seed(5)
        x_T = torch.randn(shape, generator=generator)
        *_, (_, last, _) = ddpm.reverse_process(model, x_T, clip, generator)
        assert torch.equal(x_0, last)
    state = torch.get_rng_state()
    other = ddpm.sample(model, shape, generator=torch.Generator().manual_seed(6))
    assert torch.equal(torch.get_rng_state(), state)            # the global one is not touched
    assert not torch.equal(other, x_0)


def test_sampling_keeps_no_gradients_and_training_does():
    ddpm, net, x = strong(), torch.nn.Conv2d(1, 1, 1), torch.randn(2, 1, 4, 4)

    def model(x_t, t):
        return net(x_t)

    assert not ddpm.p_sample(model, x, 3).requires_grad
    assert not any(x_t.requires_grad or x_0_hat.requires_grad
                   for _, x_t, x_0_hat in ddpm.reverse_process(model, x))
    assert not ddpm.sample(model, (2, 1, 4, 4)).requires_grad
    ddpm.loss(model, x).backward()
    assert net.weight.grad.abs().sum() > 0
    assert ddpm.estimate_x_0(model, x, 3).requires_grad         # papers guide through it


def test_points_in_the_plane_and_float64_work_as_well():
    ddpm, x = strong(), torch.randn(5, 2, dtype=torch.float64)
    assert ddpm.sample(lambda x_t, t: 0 * x_t, (5, 2)).shape == (5, 2)
    assert ddpm.loss(lambda x_t, t: 0 * x_t, x).dtype == torch.float64
    assert ddpm.p_sample(lambda x_t, t: 0 * x_t, x, 8).dtype == torch.float64


# ---- what is refused ----

@pytest.mark.parametrize("beta, message", [
    ([0.1, 1.0], "between 0 and 1"), ([0.0, 0.1], "between 0 and 1"), ([-0.1], "between 0 and 1"),
    ([0.1, math.nan], "between 0 and 1"), ([[0.1, 0.2]], r"not \(1, 2\)"), ([], r"not \(0,\)"),
    (0.1, r"not \(\)"), ([0.999] * 13, "too small for float32")])
def test_betas_that_are_no_schedule_are_refused(beta, message):
    with pytest.raises(ValueError, match=message):
        DDPM(beta)


@pytest.mark.parametrize("variance", ["fixed_large", "", None])
def test_an_unknown_variance_is_refused(variance):
    with pytest.raises(ValueError, match="beta_tilde"):
        DDPM(linear_beta_schedule(), variance)


def test_a_chain_too_short_for_its_betas_warns_and_says_what_to_do():
    with pytest.warns(UserWarning, match=r"alpha_bar_T = 0.36 > 0.01.*cosine") as caught:
        DDPM(linear_beta_schedule(100))
    assert caught[0].filename == __file__                       # it points at the caller
    with pytest.warns(UserWarning):
        DDPM([0.9, 0.895])                                      # .0105
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDPM(linear_beta_schedule())
        DDPM([0.9, 0.9])                                        # .01 itself, to rounding
        DDPM(cosine_beta_schedule(20))


@pytest.mark.parametrize("t", [0, 9, -1])
def test_there_is_no_step_from_outside_1_to_T(t):
    with pytest.raises(ValueError, match=f"T = 8 down to 1; there is no step from t = {t}"):
        strong().p_sample(lambda x_t, t: x_t, torch.zeros(1, 1, 2, 2), t)
