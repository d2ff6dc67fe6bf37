"""The bound against torch.distributions, against closed forms, and against itself in float64."""
import math
import re
import statistics
from itertools import pairwise

import pytest
import torch
from PIL import Image
from test_ddpm import STRONG, coefficients, gaussian, strong
from stand_ins import Spy, refused
from torch.distributions import Normal, kl_divergence

import data
from ddpm import DDPM
from papers import variational_bound
from papers.kit import program
from papers.kit.analytic import kl
from papers.kit.chain import respace
from papers.variational_bound import bound, decoder_nll, rate_distortion, send, terms

LEVELS = data.to_model(torch.arange(256)).reshape(256, 1, 1, 1)


def normal(mean, variance):
    return Normal(torch.as_tensor(mean, dtype=torch.float64), math.sqrt(variance))


def pixels(n, s=0.2):
    """n images of one pixel, x_0 ~ N(0, s^2), rounded to the 256 levels."""
    return data.to_model(data.to_uint8(s * torch.randn(n, 1, 1, 1)))


# ---- each term ----

@pytest.mark.parametrize("variance_q, variance_p", [(0.3, 0.3), (0.01, 2), (2, 0.01), (1e-4, 1)])
def test_a_kl_divergence_is_that_of_torch_distributions(variance_q, variance_p):
    mean_q, mean_p = torch.randn(2, 5, dtype=torch.float64)
    expected = kl_divergence(normal(mean_q, variance_q), normal(mean_p, variance_p))
    torch.testing.assert_close(kl(mean_q, variance_q, mean_p, variance_p), expected)
    assert kl(mean_q, variance_q, mean_q, variance_q).abs().max() == 0
    each = variance_q * (1 + torch.arange(5.0, dtype=torch.float64))         # a variance for each
    expected = kl_divergence(Normal(mean_q, each.sqrt()), normal(mean_p, variance_p))
    torch.testing.assert_close(kl(mean_q, each, mean_p, variance_p), expected)


@pytest.mark.parametrize("sigma", [1e-3, 0.0074, 0.01, 0.3, 5.0, 1e3])
@pytest.mark.parametrize("mean", [-7.0, -1.0, -0.9961, 0.0, 0.123, 1.0, 30.0])
def test_the_256_bins_sum_to_1(mean, sigma):
    nll = decoder_nll(LEVELS, torch.full_like(LEVELS, mean), sigma)
    assert nll.isfinite().all() and nll.dtype == torch.float64
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-6 * min(1, sigma))


@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_the_decoder_is_the_gaussian_integrated_over_the_bin(sigma):
    mean = 0.1
    grid = torch.linspace(-1 / 255, 1 / 255, 20_001, dtype=torch.float64)[1::2]      # midpoints
    for level in (120, 139, 140, 141, 160):
        x = level / 127.5 - 1 + grid
        integral = normal(mean, sigma ** 2).log_prob(x).exp().mean() * 2 / 255
        nll = decoder_nll(LEVELS[level:level + 1], torch.full((1, 1, 1, 1), mean), sigma)
        assert nll.item() == pytest.approx(-math.log(integral), rel=1e-6)


def test_the_outer_bins_reach_to_infinity():
    for level, edge, sign in ((0, -1 + 1 / 255, 1), (255, 1 - 1 / 255, -1)):
        for mean in (-2.0, -1.0, 0.5, 1.0, 3.0):
            tail = 0.5 * math.erfc(-sign * (edge - mean) / 0.7 / math.sqrt(2))
            nll = decoder_nll(LEVELS[level:level + 1], torch.full((1, 1, 1, 1), mean), 0.7)
            assert nll.item() == pytest.approx(-math.log(tail), rel=1e-6)


def test_a_bin_far_from_the_mean_costs_what_the_gaussian_says_and_not_the_floor_of_a_clamp():
    nll = decoder_nll(LEVELS[:1], torch.ones(1, 1, 1, 1), 0.01)                 # 199.6 sigma away
    z = (2 - 1 / 255) / 0.01
    assert nll.item() == pytest.approx(z ** 2 / 2 + math.log(z * math.sqrt(2 * math.pi)), rel=1e-6)


# ---- Algorithms 3 and 4 ----

def test_the_receiver_gets_x_T_to_x_1_with_the_marginals_of_eq_4():
    x_0 = torch.full((100_000, 1, 1, 1), 0.4)
    _, alpha_bar = coefficients(STRONG)
    seen = []
    for t, x_t, _ in send(strong(), lambda x_t, t: x_t, x_0):
        seen.append(t)
        if t > 0:
            mean, spread = 0.4 * math.sqrt(alpha_bar[t]), math.sqrt(1 - alpha_bar[t])
            assert x_t.mean().item() == pytest.approx(mean, abs=0.013 * spread)
            assert x_t.std().item() == pytest.approx(spread, rel=0.01)
    assert seen == list(range(8, -1, -1))


def test_in_the_end_the_receiver_has_x_0():
    x_0 = torch.randn(3, 1, 4, 4)
    *_, (t, received, shown) = send(strong(), lambda x_t, t: x_t, x_0)
    assert t == 0 and torch.equal(received, x_0) and torch.equal(shown, x_0)


def test_neighbours_in_the_chain_are_correlated_as_eq_2_says():
    x_0 = torch.zeros(100_000, 1, 1, 1)
    _, alpha_bar = coefficients(STRONG)
    chain = {t: x_t.flatten() for t, x_t, _ in send(strong(), lambda x_t, t: x_t, x_0)}
    for t in range(2, 9):                            # x_t = sqrt(alpha_t) x_{t-1} + noise
        covariance = (chain[t] * chain[t - 1]).mean().item()
        expected = math.sqrt(1 - STRONG[t - 1].item()) * (1 - alpha_bar[t - 1])
        assert covariance == pytest.approx(expected, abs=0.013)


def test_the_receiver_shows_eq_15_clipped_unless_told():
    ddpm, x_0 = strong(), 0.9 * torch.ones(4, 1, 2, 2)
    _, alpha_bar = coefficients(STRONG)
    for clip in (True, False):
        for t, x_t, x_0_hat in list(send(ddpm, lambda x_t, t: 0.5 * x_t, x_0, clip))[:-1]:
            expected = (x_t - math.sqrt(1 - alpha_bar[t]) * 0.5 * x_t) / math.sqrt(alpha_bar[t])
            torch.testing.assert_close(x_0_hat, expected.clamp(-1, 1) if clip else expected)
            assert clip or t < 8 or x_0_hat.abs().max() > 1
    x_t, x_0_hat = next(send(ddpm, lambda x_t, t: 0 * x_t, 99 * x_0))[1:]
    assert x_0_hat.max() == 1                                   # clipped is the default


def test_sending_keeps_no_gradients_and_follows_its_generator():
    net, x_0 = torch.nn.Conv2d(1, 1, 1), torch.zeros(2, 1, 3, 3)
    one, two = (list(send(strong(), lambda x_t, t: net(x_t), x_0,
                          generator=torch.Generator().manual_seed(3))) for _ in range(2))
    assert all(torch.equal(a[1], b[1]) and not a[2].requires_grad
               for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0][1], next(send(strong(), lambda x_t, t: x_t, x_0))[1])


# ---- the bound ----

@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_every_term_equals_an_independent_evaluation_in_float64(variance, clip):
    """The same noise, and then Eq. 2 to 13 once more, with torch.distributions."""
    x_0 = data.to_model(data.to_uint8(torch.rand(3, 2, 4, 4) * 2 - 1))
    generator = torch.Generator().manual_seed(5)
    L, mse = bound(strong(), lambda x_t, t: 0.3 * x_t + 0.01 * t.reshape(-1, 1, 1, 1), x_0, clip,
                   torch.Generator().manual_seed(5))
    (beta, alpha_bar), x_0 = coefficients(STRONG), x_0.double()
    tilde = [0, 0] + [(1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t] for t in range(2, 9)]

    def posterior(x_t, x_0, t):
        return (math.sqrt(alpha_bar[t - 1]) * beta[t] * x_0
                + math.sqrt(1 - beta[t]) * (1 - alpha_bar[t - 1]) * x_t) / (1 - alpha_bar[t])

    q = normal(math.sqrt(alpha_bar[8]) * x_0, 1 - alpha_bar[8])
    expected = torch.empty(3, 9, dtype=torch.float64)
    expected[:, 8] = kl_divergence(q, Normal(0, 1)).mean((1, 2, 3))
    for t in range(8, 0, -1):
        z = torch.randn(x_0.shape, generator=generator).double()
        x_t = q.mean + q.stddev * z
        x_0_hat = (x_t - math.sqrt(1 - alpha_bar[t]) * (0.3 * x_t + 0.01 * t)) \
            / math.sqrt(alpha_bar[t])
        x_0_hat = x_0_hat.clamp(-1, 1) if clip else x_0_hat
        torch.testing.assert_close(mse[:, t], ((x_0_hat - x_0) ** 2).mean((1, 2, 3)),
                                   rtol=1e-5, atol=1e-9)
        mean = posterior(x_t, x_0_hat, t)
        if t > 1:
            q = normal(posterior(x_t, x_0, t), tilde[t])
            p = normal(mean, beta[t] if variance == "beta" else tilde[t])
            expected[:, t - 1] = kl_divergence(q, p).mean((1, 2, 3))
        else:
            p = normal(mean, beta[1] if variance == "beta" else tilde[2])
            upper = torch.where(x_0 > 0.999, 1, p.cdf(x_0 + 1 / 255))
            lower = torch.where(x_0 < -0.999, 0, p.cdf(x_0 - 1 / 255))
            expected[:, 0] = -(upper - lower).log().mean((1, 2, 3))
    torch.testing.assert_close(L[variance], expected / math.log(2), rtol=2e-5, atol=1e-7)
    assert L[variance].dtype == mse.dtype == torch.float64 and mse[:, 0].abs().max() == 0


def test_on_gaussian_data_with_sigma_2_beta_the_terms_sum_to_the_exact_likelihood():
    """For x_0 ~ N(0, 1) the reverse process is Gaussian with variance beta: nothing is lost."""
    for level in (30, 128, 200):
        x_0 = LEVELS[level:level + 1].expand(200_000, 1, 1, 1)
        L, _ = bound(strong(), gaussian(0, 1, STRONG), x_0, clip=False)
        total = L["beta"].sum(1)
        exact = -(normal(0, 1).log_prob(x_0[0].double()) + math.log(2 / 255)).item() / math.log(2)
        assert total.mean().item() == pytest.approx(exact, abs=4 * total.std().item() / 447)
        assert total.std().item() / 447 < 0.005                 # bits: the test is a sharp one
        assert L["beta_tilde"].sum(1).mean().item() > exact + 0.1


def test_eq_3_is_eq_5():
    """Both in the mean over x_1..x_T ~ q; Eq. 3 with every density, as it stands."""
    n, x_0 = 200_000, LEVELS[90]
    eps = 0.5
    beta, alpha_bar = coefficients(STRONG)
    L, _ = bound(strong(), lambda x_t, t: eps * x_t, x_0.expand(n, 1, 1, 1), clip=False)
    x_0 = x_0.double().expand(n, 1, 1)
    nats, previous = torch.zeros(n, 1, 1, dtype=torch.float64), x_0
    for t in range(1, 9):
        q = normal(math.sqrt(1 - beta[t]) * previous, beta[t])                     # Eq. 2
        x_t = q.sample()
        mu = (x_t - beta[t] / math.sqrt(1 - alpha_bar[t]) * eps * x_t) / math.sqrt(1 - beta[t])
        p = normal(mu, beta[t])
        if t > 1:
            log_p = p.log_prob(previous)
        else:
            log_p = (p.cdf(x_0 + 1 / 255) - p.cdf(x_0 - 1 / 255)).log()            # Eq. 13
        nats -= log_p - q.log_prob(x_t)
        previous = x_t
    nats -= Normal(0, 1).log_prob(previous)
    error = (nats.std().item() + L["beta"].sum(1).std().item()) / math.sqrt(n)
    assert L["beta"].sum(1).mean().item() * math.log(2) == pytest.approx(nats.mean().item(),
                                                                         abs=4 * error)
    assert error < 0.008


def test_eq_16_is_eq_5_in_the_mean_over_the_data():
    """On Gaussian data q(x_{t-1} | x_t) is Gaussian too, so that Eq. 16 has a closed form."""
    s = 0.2
    beta, alpha_bar = coefficients(STRONG)
    spread = [a * s ** 2 + 1 - a for a in alpha_bar]            # the variance of q(x_t)
    nats = kl_divergence(normal(0, spread[8]), Normal(0, 1))
    for t in range(2, 9):                                       # the means agree: eps* is exact
        variance = spread[t - 1] - (1 - beta[t]) * spread[t - 1] ** 2 / spread[t]
        nats += kl_divergence(normal(0, variance), normal(0, beta[t]))
    variance = spread[0] - (1 - beta[1]) * spread[0] ** 2 / spread[1]
    nats += kl_divergence(normal(0, variance), normal(0, beta[1]))
    nats += 0.5 * math.log(2 * math.pi * math.e * s ** 2) - math.log(2 / 255)      # H(x_0), by bins
    L, _ = bound(strong(), gaussian(0, s, STRONG), pixels(200_000, s), clip=False)
    total = L["beta"].sum(1)
    assert total.mean().item() * math.log(2) == pytest.approx(nats.item(), abs=0.005)
    assert total.std().item() / math.sqrt(200_000) < 0.002


@pytest.mark.filterwarnings("ignore:alpha_bar_T")
@pytest.mark.parametrize("s", [0.2, 0.05])
def test_a_step_split_in_two_lowers_the_bound_as_the_closed_form_says(s):
    """T = 1, 2, 4, 8 steps of one perfect network, each at times that the next has too."""
    _, alpha_bar = coefficients(STRONG)
    v = [a * s ** 2 + 1 - a for a in alpha_bar]                 # the variance of q(x_t)
    fixed = (kl_divergence(normal(0, v[8]), Normal(0, 1)).item()             # KL(q(x_T) || p(x_T))
             + 0.5 * math.log(2 * math.pi * math.e * s ** 2) - math.log(2 / 255))      # H(x_0)
    x_0, expected, found = pixels(100_000, s), [], []
    for times in [0, 8], [0, 1, 8], [0, 1, 3, 6, 8], range(9):
        nats = fixed
        for before, t in pairwise(times):                       # Eq. 16, as if t = 1 had no bins
            a = alpha_bar[t] / alpha_bar[before]
            back = v[before] - a * v[before] ** 2 / v[t]
            nats += kl_divergence(normal(0, back), normal(0, 1 - a)).item()
        chain, model = respace(strong(), gaussian(0, s, STRONG), len(times) - 1)
        asked = [model(x_0[:1], torch.tensor([t + 1])) for t in range(chain.T)]
        assert asked == [gaussian(0, s, STRONG)(x_0[:1], torch.tensor([t])) for t in times[1:]]
        L = bound(chain, model, x_0, clip=False)[0]["beta"].sum(1) * math.log(2)
        error = L.std().item() / math.sqrt(len(L))
        assert error < 0.003 and L.mean().item() == pytest.approx(nats, abs=4 * error + 0.002)
        expected.append(nats)
        found.append(L.mean().item())
    assert found == sorted(found, reverse=True) and found[0] - found[3] > 0.5
    r_1, r_2 = v[0] / v[1], v[1] / v[8]
    assert expected[0] - expected[1] == pytest.approx((1 - r_1) * (1 - r_2) / 2)


@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_of_data_n_0_1_one_step_has_the_exact_likelihood():
    x_0 = LEVELS[90:91].expand(100_000, 1, 1, 1)
    exact = -(normal(0, 1).log_prob(x_0[0].double()) + math.log(2 / 255)).item() / math.log(2)
    for T in 1, 3:
        L, _ = bound(*respace(strong(), gaussian(0, 1, STRONG), T), x_0, clip=False)
        total = L["beta"].sum(1)
        error = total.std().item() / math.sqrt(len(total))
        assert error < 0.005 and total.mean().item() == pytest.approx(exact, abs=4 * error + 1e-4)


@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_shorter_chains_are_scored_on_the_same_images():
    x = torch.arange(0, 210, 30, dtype=torch.uint8).reshape(7, 1, 1, 1)
    spy = Spy()
    lengths = variational_bound.shorter(strong(), spy, x, torch.Generator().manual_seed(0))
    assert list(lengths) == [1, 2, 5]                           # below 8
    assert spy.times == [8, 8, 1, *respace(strong(), lambda x_t, t: t, 5)[1](
        None, torch.arange(5, 0, -1)).tolist()]
    x_0, (_, alpha_bar) = data.to_model(x).double(), coefficients(STRONG)
    L_T = kl_divergence(normal(math.sqrt(alpha_bar[8]) * x_0, 1 - alpha_bar[8]), Normal(0, 1))
    for T, L in lengths.items():                                # all end at the same x_T
        assert L["beta"].shape == L["beta_tilde"].shape == (7, T + 1)
        torch.testing.assert_close(L["beta"][:, T], L_T.flatten() / math.log(2), rtol=1e-4, atol=0)


def test_eq_8_without_its_constant_is_the_weighted_loss_of_eq_12():
    ddpm, x_0 = strong(), data.to_model(data.to_uint8(torch.rand(1, 1, 4, 4) * 2 - 1))
    beta, alpha_bar = coefficients(STRONG)
    for t, x_t, x_0_hat in send(ddpm, lambda x_t, t: 0.4 * x_t, x_0, clip=False):
        if t > 1:
            eps = (x_t - math.sqrt(alpha_bar[t]) * x_0) / math.sqrt(1 - alpha_bar[t])
            weight = beta[t] ** 2 / (2 * beta[t] * (1 - beta[t]) * (1 - alpha_bar[t]))
            means = (ddpm.posterior_mean(x, x_t, t) for x in (x_0, x_0_hat))
            mu_tilde, mu_theta = means
            tilde = ddpm.beta_tilde[t].item()
            constant = kl(torch.zeros(1), tilde, torch.zeros(1), beta[t])
            torch.testing.assert_close(kl(mu_tilde, tilde, mu_theta, beta[t]) - constant,
                                       weight * (eps - 0.4 * x_t) ** 2, rtol=1e-4, atol=1e-6)


def test_a_chain_is_scored_with_x_0_hat_clipped_unless_told():
    x_0 = pixels(4)
    default, clipped, free = (bound(strong(), lambda x_t, t: -9 * x_t, x_0, *clip,
                                    generator=torch.Generator().manual_seed(1))[0]["beta"]
                              for clip in ((), (True,), (False,)))
    assert torch.equal(default, clipped) and (free.sum(1) > clipped.sum(1)).all()


def test_a_data_set_is_scored_in_batches_each_image_once(monkeypatch):
    monkeypatch.setattr(variational_bound, "batch_size", lambda H: 3)
    x = torch.arange(0, 210, 30, dtype=torch.uint8).reshape(7, 1, 1, 1)
    L, mse = variational_bound.score(strong(), lambda x_t, t: 0.3 * x_t, x,
                                     torch.Generator().manual_seed(0))
    assert mse.shape == L["beta"].shape == L["beta_tilde"].shape == (7, 9)
    x_0, (_, alpha_bar) = data.to_model(x).double(), coefficients(STRONG)
    L_T = kl_divergence(normal(math.sqrt(alpha_bar[8]) * x_0, 1 - alpha_bar[8]), Normal(0, 1))
    torch.testing.assert_close(L["beta"][:, 8], L_T.flatten() / math.log(2), rtol=1e-5, atol=0)
    assert len(mse[:, 4].unique()) == 7


def test_the_variance_of_ddpm_changes_nothing_and_the_generator_everything():
    x_0 = pixels(4)
    results = [bound(strong(variance), lambda x_t, t: 0.3 * x_t, x_0,
                     generator=torch.Generator().manual_seed(seed))[0]["beta"]
               for variance, seed in (("beta", 1), ("beta_tilde", 1), ("beta", 2))]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_a_chain_of_one_step_has_two_terms():
    L, mse = bound(DDPM([0.995]), lambda x_t, t: x_t, pixels(5))
    assert L["beta"].shape == mse.shape == (5, 2)
    assert torch.equal(L["beta"], L["beta_tilde"]) and L["beta"].isfinite().all()


# ---- rate and distortion ----

def test_the_rate_at_t_is_what_was_sent_so_far_and_the_distortion_is_an_rmse_on_0_to_255():
    L = torch.tensor([[4.0, 2, 1, 0.5], [6, 2, 1, 0.5]])
    mse = torch.tensor([[0, 0.01, 0.02, 0.03], [0, 0.03, 0.02, 0.01]])
    rate, distortion = rate_distortion(L, mse)
    assert rate.tolist() == pytest.approx([8.5, 3.5, 1.5, 0.5])
    assert distortion.tolist() == pytest.approx([0, *[127.5 * math.sqrt(0.02)] * 3])


def test_the_table_has_a_row_for_each_variance_and_one_for_the_authors_decoder():
    L = {"beta": torch.tensor([[4.0, 2, 1, 0.5]]), "beta_tilde": torch.tensor([[3.0, 7, 8, 0.5]])}
    assert [row[0].tolist() for row in terms(L).values()] == [
        pytest.approx(row) for row in ([0.5, 3, 4, 7.5], [0.5, 15, 3, 18.5], [0.5, 3, 3, 6.5])]


# ---- the program ----

def test_the_program_prints_the_tables_and_draws_the_figure(trained, tmp_path, capsys, monkeypatch):
    path, _ = trained
    drawn, scored = [], []

    def keep(*args):
        assert args[3].initial_seed() == 1
        scored.append((args[2], original(*args)))
        return scored[-1][1]

    original, save = variational_bound.score, program.save_figure
    monkeypatch.setattr(variational_bound, "score", keep)
    monkeypatch.setattr(variational_bound, "FEW", 4)
    monkeypatch.setattr(program, "save_figure",
                        lambda figure, path: drawn.append(figure) or save(figure, path))
    variational_bound.main(["--checkpoint", str(path), "--n", "7", "--seed", "1",
                            "--device", "cpu", "--out", str(tmp_path / "b.png")])
    out = capsys.readouterr().out
    assert "7 images of digits (test)" in out
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"
    (x, (L, mse)), (few, (one, _)), (_, (two, _)) = scored
    assert torch.equal(few, x[:4])
    table, below = out.split("chains of T steps of the same network")
    rows = [line[33:].replace("+-", "").split() for line in table.splitlines()
            if line.count("+-") == 4]
    for row, values in zip(rows, terms(L).values(), strict=True):
        assert list(map(float, row[::2])) == pytest.approx(values.mean(0).tolist(), abs=1e-5)
        errors = [statistics.stdev(column) / math.sqrt(7) for column in values.T.tolist()]
        assert list(map(float, row[1::2])) == pytest.approx(errors, abs=6e-5)
    table = [list(map(float, line.split())) for line in table.splitlines()
             if re.fullmatch(r"[ \d.]+", line)]
    rate, distortion = (x.tolist() for x in rate_distortion(L["beta_tilde"], mse))  # of this run
    for row, t in zip(table, range(1, 6), strict=True):          # T = 5
        assert row == pytest.approx([6 - t, t, rate[t], distortion[t]], abs=1e-5)
    chains = {1: one, 2: two, 5: {name: each[:4] for name, each in L.items()}}
    assert "4 images" in below.splitlines()[0]
    for (T, each), line in zip(chains.items(), below.splitlines()[2:5], strict=True):
        (L_T, *first), (_, *second) = (x.mean(0).tolist() for x in list(terms(each).values())[:2])
        numbers = list(map(float, line.replace("+-", "").split()))
        assert numbers[:2] == [T, pytest.approx(L_T, abs=6e-4)]
        assert numbers[2:5] + numbers[6:9] == pytest.approx(first + second, abs=6e-4)
    *three, last = drawn[0].axes
    assert {line.get_label(): line.get_ydata().tolist() for line in last.lines} == {
        **{f"L, sigma^2 = {name}": [each[name].sum(1).mean().item() for each in chains.values()]
           for name in L},
        "L_0, sigma^2 = beta": [each["beta"][:, 0].mean().item() for each in chains.values()]}
    assert all(line.get_xdata().tolist() == [1, 2, 5] for line in last.lines)
    lines = [axes.lines[0].get_xydata() for axes in three]
    assert [line.shape for line in lines] == [(5, 2)] * 3
    assert lines[0][:, 0].tolist() == lines[1][:, 0].tolist() == [4, 3, 2, 1, 0]   # T - t
    assert lines[0][:, 1].tolist() == lines[2][:, 1].tolist() == distortion[1:]
    assert lines[1][:, 1].tolist() == lines[2][:, 0].tolist() == rate[1:]


def test_the_images_are_drawn_from_the_split_and_the_place_that_were_asked_for(trained, tmp_path,
                                                                              monkeypatch):
    asked, scored = [], []
    x = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 1, 8, 8)
    monkeypatch.setattr(data, "load", lambda *args: (asked.append(args), (x, None))[1])
    monkeypatch.setattr(variational_bound, "score",
                        lambda ddpm, model, x, generator: (scored.append(x), 1 / 0))
    content = torch.load(trained[0], weights_only=True)
    content["config"]["data_dir"] = "elsewhere"
    torch.save(content, trained[0])
    for extra in ([], ["--seed", "1"], ["--split", "train"]):
        with pytest.raises(ZeroDivisionError):
            variational_bound.main(["--checkpoint", str(trained[0]), "--n", "9",
                                    "--out", str(tmp_path / "b.png"), *extra])
    assert asked == [("digits", 8, 1, split, "elsewhere") for split in ("test", "test", "train")]
    levels = [part[:, 0, 0, 0].tolist() for part in scored]
    assert levels[0] == levels[2] != levels[1]
    assert all(len(set(part)) == 9 and part != sorted(part) for part in levels)


def test_a_folder_has_no_split_and_takes_two_images(trained, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    path = str(tmp_path / "one")
    for i, words in enumerate(["2 images are needed", None]):
        Image.new("L", (8, 8)).save(tmp_path / "one" / f"{i}.png")
        argv = ["--checkpoint", str(trained[0]), "--data", path, "--out", str(tmp_path / "b.png")]
        if words:
            refused(capsys, argv, words, main=variational_bound.main)
            refused(capsys, [*argv, "--split", "all"], "--split", main=variational_bound.main)
        else:
            variational_bound.main(argv)
            assert f"2 images of {path} under" in capsys.readouterr().out
