"""Learned variances on data whose true reverse variance is known, and short chains of them."""
import math
import re

import numpy as np
import pytest
import torch
from test_ddpm import STRONG, coefficients, gaussian, point_mass, strong
from stand_ins import made_once, noise, refused
from torch.distributions import Normal, kl_divergence

import data
import sample as core
import train
from ddpm import DDPM
from papers import improved_ddpm, variational_bound
from papers.improved_ddpm import (L_hybrid, L_vlb, Sigma_theta, VarianceUNet, bound, fixed,
                                  sample, term)
from papers.kit import program, training
from papers.kit.chain import respace
from plumbing.checkpoint import read_checkpoint, write_checkpoint
from plumbing.pictures import grid
from schedules import cosine_beta_schedule, linear_beta_schedule
from unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore:alpha_bar_T")            # of strong()
SMALL = dict(image_size=8, image_channels=2, channels=4, channel_mults=(1, 2), num_res_blocks=1,
             attention_resolutions=(), dropout=0.0)


def pixels(n, s=0.2):
    """n images of one pixel, x_0 ~ N(0, s^2), rounded to the 256 levels."""
    return data.to_model(data.to_uint8(s * torch.randn(n, 1, 1, 1)))


def pair(eps, v):
    """A model of both kinds from eps_theta(x_t, t) and v, a number or one for each t = 0..T."""
    def model(x_t, t, variance=False):
        each = torch.as_tensor(v, dtype=torch.float32).expand(9)[t].reshape(-1, 1, 1, 1)
        return (eps(x_t, t), each.expand(x_t.shape)) if variance else eps(x_t, t)
    return model


def bounds(t):
    """beta_tilde_t, that of t = 2 for t = 1, and beta_t, of the strong chain."""
    beta, alpha_bar = coefficients(STRONG)
    s = max(t, 2)
    return (1 - alpha_bar[s - 1]) / (1 - alpha_bar[s]) * beta[s], beta[t]


def true_variance(t, s):
    """The variance of q(x_{t-1} | x_t) if x_0 ~ N(0, s^2), by Gaussian conditioning."""
    beta, alpha_bar = coefficients(STRONG)
    before, after = (a * s ** 2 + 1 - a for a in (alpha_bar[t - 1], alpha_bar[t]))
    return before - (1 - beta[t]) * before ** 2 / after


def true_v(s):
    v = [math.nan]
    for t in range(1, 9):
        low, high = bounds(t)
        v.append(math.log(true_variance(t, s) / low) / math.log(high / low))
    return v


# ---- the network ----

def test_the_network_is_a_u_net_with_twice_the_outputs():
    torch.manual_seed(0)
    unet = UNet(**SMALL)
    torch.manual_seed(0)
    net = VarianceUNet(**SMALL)
    ours, theirs = net.state_dict(), unet.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert name.startswith("conv_out") or torch.equal(ours[name], theirs[name])
    assert ours["conv_out.weight"].shape[0] == 4


def test_the_network_is_an_eps_theta_unless_asked_for_v_too():
    net, x_t, t = VarianceUNet(**SMALL), torch.randn(3, 2, 8, 8), torch.tensor([1, 5, 8])
    eps_theta, v = net(x_t, t, variance=True)
    assert eps_theta.shape == v.shape == x_t.shape
    assert (eps_theta == 0).all() and (v == 0.5).all()          # before training
    torch.nn.init.normal_(net.conv_out.weight)
    eps_theta, v = net(x_t, t, variance=True)
    assert torch.equal(net(x_t, t), eps_theta)
    outputs = UNet.forward(net, x_t, t)
    assert torch.equal(outputs[:, :2], eps_theta)
    torch.testing.assert_close(2 * v - 1, outputs[:, 2:])


# ---- Eq. 15 ----

def test_v_moves_the_variance_from_beta_tilde_to_beta_on_a_log_scale():
    ddpm, one = strong(), torch.ones(1, 1, 1, 1)
    for t in range(1, 9):
        low, high = bounds(t)
        for v, expected in ((0, low), (1, high), (0.5, math.sqrt(low * high)),
                            (2, high ** 2 / low)):
            assert Sigma_theta(ddpm, v * one, t).item() == pytest.approx(expected, rel=1e-5)
    both = Sigma_theta(ddpm, 0.3 * torch.ones(2, 1, 1, 1), torch.tensor([1, 6]))
    assert both.flatten().tolist() == pytest.approx(
        [Sigma_theta(ddpm, 0.3 * one, t).item() for t in (1, 6)])
    assert torch.equal(ddpm.beta_tilde, strong().beta_tilde)    # and no coefficient has changed
    assert Sigma_theta(DDPM([0.995]), 0.3 * one, 1).item() == pytest.approx(0.995)
    second = Sigma_theta(DDPM([0.9, 0.98]), 0 * one, 1).item()
    assert second == pytest.approx(0.9 / (1 - 0.1 * 0.02) * 0.98)


# ---- the terms of the bound ----

def nats(x_0, x_t, t, x_0_hat, v):
    """L_{t-1} of one pixel, by torch.distributions in float64."""
    beta, alpha_bar = coefficients(STRONG)
    a, before, (low, high) = alpha_bar[t], alpha_bar[t - 1], bounds(t)

    def mean(x):
        return (math.sqrt(before) * beta[t] * x
                + math.sqrt(1 - beta[t]) * (1 - before) * x_t) / (1 - a)

    p = Normal(mean(x_0_hat), math.sqrt(high ** v * low ** (1 - v)))
    if t > 1:
        return kl_divergence(Normal(mean(x_0), math.sqrt(low)), p).item()
    upper = p.cdf(x_0 + 1 / 255).item() if x_0 < 1 else 1.0
    return -math.log(upper - (p.cdf(x_0 - 1 / 255).item() if x_0 > -1 else 0.0))


def test_each_term_is_that_of_torch_distributions_in_bits_per_dim():
    t = torch.arange(1, 9).repeat(2)
    x_0 = data.to_model(torch.randint(256, (16, 1, 2, 2)))
    x_0[0, 0, 0], x_0[8, 0, 0] = 1, -1                          # the open bins
    x_t, v = torch.randn(16, 1, 2, 2), torch.rand(16, 1, 2, 2) * 1.4 - 0.2
    x_0_hat = x_0 + 0.1 * torch.randn(16, 1, 2, 2)
    L = term(strong(), x_0, x_t, t, x_0_hat, Sigma_theta(strong(), v, t))
    assert L.shape == (16,) and L.dtype == torch.float32
    for i in range(16):
        each = [nats(*values) for values in zip(
            *(x[i].double().flatten() for x in (x_0, x_t)), [t[i].item()] * 4,
            *(x[i].double().flatten() for x in (x_0_hat, v)), strict=True)]
        assert L[i].item() == pytest.approx(sum(each) / 4 / math.log(2), rel=1e-4)


def test_a_term_is_accurate_where_both_variances_are_nearly_the_same():
    """At t = T = 1000 they differ by 2e-6 (cosine), and 1e-5 (linear): float32 would see noise."""
    for beta in (linear_beta_schedule(), cosine_beta_schedule()):
        alpha_bar = (1 - beta).cumprod(0)
        for t in (100, 900):
            log_ratio = ((1 - alpha_bar[t - 1]) / (1 - alpha_bar[t - 2])).log()    # beta : tilde
            v, x = 0.7, torch.zeros(1, 1, 1, 1)
            exact = (torch.expm1(-v * log_ratio) + v * log_ratio) / 2 / math.log(2)
            variance = Sigma_theta(DDPM(beta), torch.full_like(x, v), t)
            L = term(DDPM(beta), x, x, torch.tensor([t]), x, variance)
            assert L.item() == pytest.approx(exact.item(), rel=0.02)
            assert exact < 1e-4


def test_fixed_variances_are_values_of_v():
    x_0, eps = pixels(50), gaussian(0, 0.3, STRONG)
    for clip in (True, False):
        L, _ = variational_bound.bound(strong(), eps, x_0, clip, noise(1))
        for name, v in (("beta", 1.0), ("beta_tilde", 0.0)):
            learned, mean_v = bound(strong(), fixed(eps, v), x_0, clip, noise(1))
            torch.testing.assert_close(learned, L[name], rtol=1e-4, atol=1e-6)
            assert (mean_v[:, 1:] == v).all() and mean_v[:, 0].isnan().all()
    default, _ = bound(strong(), pair(lambda x_t, t: -9 * x_t, 0.5), x_0, generator=noise(1))
    free, _ = bound(strong(), pair(lambda x_t, t: -9 * x_t, 0.5), x_0, False, noise(1))
    assert (free.sum(1) > default.sum(1)).all()


def test_on_gaussian_data_the_true_variance_lies_between_and_makes_the_bound_the_entropy():
    s, n = 0.2, 200_000
    x_0, v = pixels(n, s), torch.tensor(true_v(s))
    assert all(0 < each < 1 for each in v[2:])                    # beta_tilde_1 is not the true one
    _, alpha_bar = coefficients(STRONG)
    spread = math.sqrt(alpha_bar[8] * s ** 2 + 1 - alpha_bar[8])
    nats = 0.5 * math.log(2 * math.pi * math.e * s ** 2) - math.log(2 / 255)       # H(x_0), by bins
    nats += kl_divergence(Normal(0.0, spread), Normal(0.0, 1.0)).item()
    L = {shift: bound(strong(), pair(gaussian(0, s, STRONG), v + shift), x_0, False,
                      noise(1))[0].sum(1) for shift in (0, -0.3, 0.3)}
    error = L[0].std().item() / math.sqrt(n)
    assert L[0].mean().item() == pytest.approx(nats / math.log(2), abs=3 * error) and error < 0.0035
    assert min(L[-0.3].mean(), L[0.3].mean()) > L[0].mean() + 0.005


# ---- the losses ----

def drawn(found, T=8):
    """Of what L_vlb returns, a loss at every t for each image: those that are not 0, and t."""
    losses, t = (each.reshape(-1, T) for each in found)
    assert t.dtype == torch.int64 and torch.equal(t, torch.arange(1, T + 1).expand(t.shape))
    assert ((losses != 0).sum(1) == 1).all()
    return losses.sum(1), 1 + (losses != 0).long().argmax(1)


class Free(torch.nn.Module):
    """A network with the perfect eps_theta (times `scale`) whose v is a weight for each t."""

    def __init__(self, s):
        super().__init__()
        self.eps = gaussian(0, s, STRONG)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.v = torch.nn.Parameter(torch.full((9,), 0.5))

    def forward(self, x_t, t, variance=False):
        v = self.v[t].reshape(-1, 1, 1, 1).expand(x_t.shape)
        return (self.scale * self.eps(x_t, t), v) if variance else self.scale * self.eps(x_t, t)


@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
def test_training_finds_the_true_reverse_variance(objective):
    s, net, ddpm = 0.2, Free(0.2), strong()
    loss = L_hybrid if objective == "hybrid" else L_vlb(8)
    optimizer = torch.optim.Adam([net.v], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, 80)
    for _ in range(80):
        optimizer.zero_grad()
        loss(ddpm, net, pixels(2000, s), None)[0].mean().backward()
        optimizer.step()
        scheduler.step()
    for t in range(1, 9):
        v = net.v[t].reshape(1, 1, 1, 1)
        assert Sigma_theta(ddpm, v, t).item() == pytest.approx(true_variance(t, s), rel=0.04)


@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
def test_l_hybrid_is_l_simple_plus_lambda_times_all_of_l_vlb_and_l_vlb_a_term_over_p(objective):
    ddpm, x_0 = strong(), pixels(64)
    model = pair(lambda x_t, t: 0.4 * x_t, 0.3)
    torch.manual_seed(3)
    losses, t = (L_hybrid(ddpm, model, x_0, None) if objective == "hybrid" else
                 drawn(L_vlb(8)(ddpm, model, x_0, None)))
    torch.manual_seed(3)
    if objective == "hybrid":                                   # the draws are train.L_simple's
        assert torch.equal(t, torch.randint(1, 9, (64,)))
    else:
        torch.multinomial(torch.full((8,), 1 / 8, dtype=torch.float64), 64, replacement=True)
    eps, clipped = torch.randn_like(x_0), 0
    assert t.unique().tolist() == list(range(1, 9))
    _, alpha_bar = coefficients(STRONG)
    for i, time in enumerate(t.tolist()):
        a = alpha_bar[time]
        x_t = math.sqrt(a) * x_0[i].item() + math.sqrt(1 - a) * eps[i].item()
        x_0_hat = (x_t - math.sqrt(1 - a) * 0.4 * x_t) / math.sqrt(a)
        L_simple = (eps[i].item() - 0.4 * x_t) ** 2
        L = nats(x_0[i].double(), x_t, time, torch.tensor(x_0_hat).double(), 0.3) / math.log(2)
        expected = L_simple + 0.001 * 8 * L if objective == "hybrid" else 8 * 8 * L
        assert losses[i].item() == pytest.approx(expected, rel=1e-4)
        clipped += abs(x_0_hat) > 1
    assert clipped > 5                                          # or rather, it is not


def test_the_gradient_of_l_vlb_in_l_hybrid_stops_at_the_mean():
    net, x_0 = Free(0.2), pixels(64)
    torch.manual_seed(3)
    losses, t = L_hybrid(strong(), net, x_0, None)
    losses.sum().backward()
    torch.manual_seed(3)
    torch.randint(1, 9, (64,))
    eps = torch.randn_like(x_0)
    alone = Free(0.2)
    strong().loss(alone, x_0, t, eps, reduction="none").sum().backward()
    torch.testing.assert_close(net.scale.grad, alone.scale.grad)
    assert (net.v.grad[1:] != 0).all() and alone.v.grad is None
    free = Free(0.2)
    L_vlb(8)(strong(), free, x_0, None)[0].sum().backward()
    assert free.scale.grad.abs() > 1e-3                         # there it does not stop


def test_losses_are_float32_where_the_network_is_bfloat16():
    net, x_0 = VarianceUNet(**SMALL), data.to_model(torch.randint(256, (32, 2, 8, 8)))
    torch.nn.init.normal_(net.conv_out.weight, std=0.1)
    for make in (lambda: L_hybrid, lambda: L_vlb(8)):
        found = []
        for enabled in (True, False):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses, t = make()(strong(), net, x_0, None)
            losses.mean().backward()
            assert losses.dtype == torch.float32 and (t == 1).any()
            found.append(losses)
        torch.testing.assert_close(*found, rtol=0.05, atol=0.02)
    assert all(weight.grad.isfinite().all() for weight in net.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        both = net(torch.randn(1, 2, 8, 8), torch.tensor([3]), variance=True)
    assert [each.dtype for each in both] == [torch.float32] * 2


# ---- importance sampling ----

def constant(monkeypatch, values):
    """Make L_{t-1} = values[t] whatever the network says."""
    values = torch.tensor(values, dtype=torch.float32)
    monkeypatch.setattr(improved_ddpm, "term", lambda ddpm, x_0, x_t, t, *_: values[t])


def test_times_are_uniform_until_every_one_has_10_values_and_then_follow_the_loss(monkeypatch):
    loss, model, counts = L_vlb(8), pair(lambda x_t, t: x_t, 0.5), torch.zeros(9)
    constant(monkeypatch, list(range(9)))
    uniform = [1 / 8] * 8
    while True:
        before, p = counts.clone(), loss.p().tolist()
        assert p == pytest.approx(uniform if before[1:].min() < 10 else
                                  [0.999 * t / 36 + 0.001 / 8 for t in range(1, 9)])
        if before[1:].min() >= 10:
            break
        losses, t = drawn(loss(strong(), model, torch.zeros(4, 1, 1, 1), None))
        torch.testing.assert_close(losses, 8 * 8.0 * t)         # T L_{t-1} / p_t
        counts += torch.bincount(t, minlength=9)
    assert 90 < counts.sum() < 400


def test_importance_sampling_estimates_the_sum_of_the_terms_and_with_less_noise(monkeypatch):
    loss, model = L_vlb(8), pair(lambda x_t, t: x_t, 0.5)
    constant(monkeypatch, [0, 9, 1, 1, 1, 1, 1, 1, 0.1])
    x_0 = torch.zeros(2000, 1, 1, 1)
    uniform, t = drawn(loss(strong(), model, x_0, None))
    assert t.unique().tolist() == list(range(1, 9))
    losses, every = loss(strong(), model, x_0, None)
    by_importance, t = drawn((losses, every))
    assert losses.mean().item() == pytest.approx(15.1, rel=0.001)           # what is minimised
    uniform, by_importance = uniform / 8, by_importance / 8
    assert (t == 1).float().mean().item() == pytest.approx(9 / 15.1, abs=0.05)
    assert t.unique().tolist() == list(range(1, 9))
    assert uniform.mean().item() == pytest.approx(15.1, abs=4 * uniform.std().item() / 2000 ** 0.5)
    assert by_importance.mean().item() == pytest.approx(15.1, rel=0.001)
    assert by_importance.std() < 0.01 * uniform.std()
    few = torch.cat([drawn(loss(strong(), model, x_0[:4], None))[1] for _ in range(300)])
    assert (few == 1).float().mean().item() == pytest.approx(9 / 15.1, abs=0.06)     # independent


@pytest.mark.parametrize("T", [8, 6, 5, 1000])
def test_quarters_of_t_in_the_log_are_those_of_uniform_times_and_the_loss_is_the_sum(monkeypatch,
                                                                                     T):
    """L / p is 15 for every t that is drawn, yet the first quarter alone has at least 9 of it."""
    def model(x_t, t, variance):
        return x_t, x_t

    values = [0, 9, *[6 / (T - 1)] * (T - 1)]
    ddpm, loss = DDPM(linear_beta_schedule(T)), L_vlb(T)
    constant(monkeypatch, values)
    loss.values[:], loss.count = torch.tensor(values[1:])[:, None], [10] * T
    x_0 = torch.zeros(1000, 1, 1, 1)                 # 8000 at once would be 8000 T losses
    sums, counts = sum(train.by_quarter(*loss(ddpm, model, x_0, None), T).double()
                       for _ in range(8))
    quarters = [[each for each in range(1, T + 1) if (each - 1) * 4 // T == q] for q in range(4)]
    expected = [T * sum(values[each] for each in quarter) / len(quarter) for quarter in quarters]
    assert (sums / counts).tolist() == pytest.approx(expected, rel=0.15)
    assert (sums.sum() / counts.sum()).item() == pytest.approx(15, rel=0.002)


def test_only_the_last_10_values_count_and_as_a_mean_square(monkeypatch):
    loss, model, x_0 = L_vlb(2), pair(lambda x_t, t: x_t, 0.5), torch.zeros(200, 1, 1, 1)
    ddpm = DDPM([0.9, 0.99])
    constant(monkeypatch, [0, 100, 1])
    loss(ddpm, model, x_0, None)
    assert loss.p()[0].item() == pytest.approx(0.999 * 100 / 101 + 0.0005)
    loss.values[:] = torch.tensor([[3.0] * 5 + [4.0] * 5, [1.0] * 10])
    assert loss.p()[0].item() == pytest.approx(0.999 / (1 + 12.5 ** -0.5) + 0.0005)
    constant(monkeypatch, [0, 1, 1])
    for _ in range(5):
        loss(ddpm, model, x_0, None)
    assert loss.p().tolist() == pytest.approx([0.5, 0.5])


# ---- shorter chains ----

@pytest.mark.parametrize("steps, times", [(4, [1, 3, 6, 8]), (8, range(1, 9))])
def test_on_gaussian_data_short_chains_have_the_mean_and_std_of_the_exact_recursion(steps, times):
    m, s, n, v = 0.3, 0.5, 40_000, [0, 0.1, 0.9, 0.2, 0.7, 0.4, 0.6, 0.3, 1.2]
    _, alpha_bar = coefficients(STRONG)
    mean, var, kept = 0.0, 1.0, [0, *times]
    for t, before in zip(kept[:0:-1], kept[-2::-1], strict=True):
        a, b = alpha_bar[t], alpha_bar[before]
        beta = 1 - a / b
        k = s ** 2 * math.sqrt(a) / (a * s ** 2 + 1 - a)        # E[x_0 | x_t] = m + k (x_t - ...)
        c_0, c_t = math.sqrt(b) * beta / (1 - a), math.sqrt(a / b) * (1 - b) / (1 - a)
        mean = c_0 * (m + k * (mean - math.sqrt(a) * m)) + c_t * mean
        var = (c_0 * k + c_t) ** 2 * var
        if before > 0:
            var += beta ** v[t] * ((1 - b) / (1 - a) * beta) ** (1 - v[t])
    x_T = torch.randn(n, 1, 1, 1, generator=noise(1))
    x_0 = sample(strong(), pair(gaussian(m, s, STRONG), v), x_T, steps, False, noise(2))
    assert x_0.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(var / n))
    assert x_0.std().item() == pytest.approx(math.sqrt(var), rel=4 / math.sqrt(2 * n))


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_if_all_data_is_one_point_samples_are_that_point(steps):
    for v in (0.0, 0.6, 1.0):
        x_0 = sample(strong(), pair(point_mass(0.3, STRONG), v), torch.randn(4, 3, 2, 2), steps)
        torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=2e-6)


@pytest.mark.parametrize("v, variance", [(1.0, "beta"), (0.0, "beta_tilde")])
def test_with_v_0_or_1_sampling_is_algorithm_2_with_a_fixed_variance(v, variance):
    x_T = 2 * torch.randn(3, 1, 4, 4, generator=noise())
    for clip in (True, False):
        *_, (_, _, x_0) = strong(variance).reverse_process(gaussian(0, 1, STRONG), x_T, clip,
                                                           noise(1))
        learned = sample(strong(), pair(gaussian(0, 1, STRONG), v), x_T, 8, clip, noise(1))
        torch.testing.assert_close(learned, x_0, rtol=1e-4, atol=1e-5)


def test_samples_are_clipped_unless_told_keep_no_gradient_and_leave_other_noise_alone():
    def zero(x_t, t):
        return 0 * x_t
    x_T, state = 9 * torch.randn(2, 1, 4, 4), torch.get_rng_state()
    x_0 = sample(strong(), pair(zero, 0.5), x_T, 5, generator=noise())
    assert x_0.abs().max() <= 1 and torch.equal(torch.get_rng_state(), state)
    assert sample(strong(), pair(zero, 0.5), x_T, 5, False, noise()).abs().max() > 1
    assert not sample(strong(), Free(0.2), x_T, 5).requires_grad
    assert not bound(strong(), Free(0.2), pixels(2))[0].requires_grad


# ---- the program ----

@pytest.fixture
def learned(flags, tmp_path_factory):
    """A checkpoint of a tiny VarianceUNet."""
    return made_once(improved_ddpm, flags, tmp_path_factory)


@pytest.mark.parametrize("beside", [True, False])
def test_the_program_scores_samples_and_draws(learned, trained, tmp_path, capsys, monkeypatch,
                                              beside):
    capsys.readouterr()
    drawn, save = [], program.save_figure if beside else lambda figure, path: None
    monkeypatch.setattr(program, "save_figure",
                        lambda figure, path: drawn.append(figure) or save(figure, path))
    monkeypatch.setattr(improved_ddpm, "batch_size", lambda H: 4)
    monkeypatch.setattr(improved_ddpm, "STEPS", (2, 5, 50))
    other = ["--simple", str(trained[0])] if beside else []
    improved_ddpm.main(["--checkpoint", str(learned), "--n", "7", "--seed", "3", "--out",
                        str(tmp_path / "i.png"), "--device", "cpu", *other])
    out = capsys.readouterr().out
    _, ddpm, model = improved_ddpm.load_learned(learned, "cpu")
    simple = core.load(trained[0])[2] if beside else model
    x, _ = data.load("digits", 8, 1, "test")
    x = data.to_model(x[torch.randperm(len(x), generator=noise(3))[:7]])
    models = {"learned": model, "beta": fixed(simple, 1.0), "beta_tilde": fixed(simple, 0.0)}
    L, v, expected = {}, {}, []
    for name, each in models.items():
        for steps in (2, 5):
            generator = noise(3)
            parts = [bound(*respace(ddpm, each, steps), part, generator=generator)
                     for part in (x[:4], x[4:])]
            L[steps, name], v[steps, name] = (torch.cat(part) for part in zip(*parts, strict=True))
            expected.append(L[steps, name].sum(1))
    for steps in (2, 5):
        best = min(L[steps, "beta"], L[steps, "beta_tilde"], key=torch.sum)
        expected.append((best - L[steps, "learned"]).sum(1))
    assert re.findall(r"(\d+) steps \S+ \+-", out) == ["2", "5"] * 3
    assert re.findall(r"saves .* in (\d+) steps, .* in (\d+) steps", out) == [("2", "5")]
    printed = re.findall(r"(\S+) \+- (\S+)", out)
    for (value, error), bits in zip(printed, expected, strict=True):
        assert float(value) == pytest.approx(bits.mean().item(), abs=1e-4)
        assert float(error) == pytest.approx(bits.std().item() / math.sqrt(7), abs=1e-4)
    files = [learned, trained[0], trained[0]] if beside else [learned] * 3
    assert re.findall("^(.*), (.*):$", out, re.MULTILINE) == [
        (name, str(file)) for name, file in zip(models, files, strict=True)]
    assert "7 images of digits, T = 5" in out and f"wrote {tmp_path / 'i.png'}" in out
    assert not beside or (tmp_path / "i.png").read_bytes()[:4] == b"\x89PNG"

    terms, share, bits, picture = drawn[0].axes
    for terms_line, bits_line, name in zip(terms.lines, bits.lines, models, strict=True):
        assert list(terms_line.get_xdata()) == [1, 2, 3, 4, 5] and terms_line.get_label() == name
        torch.testing.assert_close(torch.tensor(terms_line.get_ydata()),
                                   L[5, name].mean(0)[:-1].cumsum(0))
        assert list(bits_line.get_xdata()) == [2, 5]
        assert list(bits_line.get_ydata()) == pytest.approx(
            [L[steps, name].sum(1).mean().item() for steps in (2, 5)])
    torch.testing.assert_close(torch.tensor(share.lines[0].get_ydata()),
                               v[5, "learned"].mean(0)[1:])
    rows = [(steps, name) for steps in (2, 5) for name in ("beta", "beta_tilde", "learned")]
    assert [label.get_text() for label in picture.get_yticklabels()] == [
        f"{steps} steps, {name}" for steps, name in rows]
    x_T = torch.randn(4, 1, 8, 8, generator=noise(3))
    x_0 = torch.cat([sample(ddpm, models[name], x_T, steps, generator=noise(3))
                     for steps, name in rows])
    assert (picture.images[0].get_array() == np.asarray(grid(data.to_uint8(x_0), 4))).all()


@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
def test_training_starts_from_the_weights_and_the_data_of_train_py(flags, objective, monkeypatch,
                                                                   tmp_path):
    seen = []

    def spy(config, model, loss, resume):
        seen.append((config, model, loss, resume))
    monkeypatch.setattr(training.train, "train", spy)
    improved_ddpm.main(["train", *flags(), "--objective", objective])
    (config, model, loss, resume), = seen
    torch.manual_seed(config.seed)
    _, unet = core.build(vars(config))
    assert torch.equal(model.conv_in.weight, unet.conv_in.weight) and not resume
    assert loss is L_hybrid if objective == "hybrid" else len(loss.count) == 5
    improved_ddpm.main(["train"])
    assert seen[1][0].out == "runs/papers/improved_ddpm" and seen[1][0].schedule == "cosine"
    assert seen[1][2] is L_hybrid


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(learned, flags, tmp_path, monkeypatch,
                                                          capsys):
    """Bit for bit: both take the same steps, on the same shapes, with as many threads."""
    calls = []

    def stops(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return L_hybrid(*args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(improved_ddpm, "L_hybrid", stops)
        improved_ddpm.main(["train", *flags("--lr", "0.05", "--save-every", "3", "--out",
                                            str(tmp_path / "b"))])
    capsys.readouterr()
    improved_ddpm.main(["train", "--resume", "--out", str(tmp_path / "b")])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"wrote {tmp_path / 'b' / 'samples.png'}"    # sample.py cannot read this network
    a, b = map(read_checkpoint, (learned, tmp_path / "b" / "checkpoint.pt"))
    assert b["step"] == 6
    assert all(torch.equal(a["ema"][name], b["ema"][name]) for name in a["ema"])


def test_wrong_arguments_end_in_one_line(learned, trained, flags, tmp_path, capsys):
    capsys.readouterr()

    def no(argv, *words, **how):
        refused(capsys, argv, *words, main=improved_ddpm.main, **how)
    how = "papers.improved_ddpm train"
    no(["--checkpoint", trained[0]], how)                       # no v in it
    no(["--checkpoint", learned, "--simple", learned], "do not fit")
    no(["train", "--objective", "simple"], "--objective")
    no(["train", "--steps", "0"], "--steps")
    no(["train", "--resume", "--out", tmp_path / "none"], "nothing to resume")
    no(["train", "--resume", "--out", trained[0].parent], how)
    no(["train", *flags("--out", str(learned.parent))], "already holds a run")
    content = read_checkpoint(trained[0])
    for name, value in (("T", 4), ("schedule", "linear")):
        other = {"step": 1, "ema": content["ema"], "config": {**content["config"], name: value}}
        write_checkpoint(other, tmp_path / f"{name}.pt")
        no(["--checkpoint", learned, "--simple", tmp_path / f"{name}.pt"], "differ", name)
