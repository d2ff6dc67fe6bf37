"""Stars against densities of torch, Fisher's information, Bayes' rule, and, of Gaussians, DDPM."""
import math
import re

import pytest
import torch
from test_ddpm import STRONG, coefficients
from torch.distributions import Beta as BetaOf
from torch.distributions import Normal
from torch.distributions import VonMises as VonMisesOf

from ddpm import DDPM
from papers import star_shaped
from papers.kit.chain import respace
from papers.star_shaped import WAYS, Beta, Gaussian, Star, VonMises, off, sample
from schedules import cosine_beta_schedule

ALPHA_BAR = torch.tensor(coefficients(STRONG)[1], dtype=torch.float64)
SNR = [*(a / (1 - a) for a in ALPHA_BAR.tolist()[1:]), 0.0]
every = pytest.mark.parametrize("kind", [Gaussian, Beta, VonMises])


def one(x):
    return torch.tensor(x, dtype=torch.float64)


def density(kind, x_0, a):
    """q(x_t | x_0), as torch has it; abar of a Gaussian solves a (1 - abar) = sqrt(abar)."""
    x_0, a = one(x_0), one(a)
    if kind is Gaussian:
        abar = ((torch.sqrt(1 + 4 * a ** 2) - 1) / (2 * a)) ** 2
        return Normal(abar.sqrt() * x_0, (1 - abar).sqrt())
    return BetaOf(1 + a * x_0, 1 + a * (1 - x_0)) if kind is Beta else VonMisesOf(x_0, a)


def line(kind, n=40_000):
    """Points x_t all over the space, and how far apart."""
    low, high = {Gaussian: (-9, 9), Beta: (0, 1), VonMises: (-math.pi, math.pi)}[kind]
    return low + (high - low) / n * (torch.arange(n).double() + 0.5), (high - low) / n


def middle(kind):
    return 0.5 if kind is Beta else 0.3


@every
@pytest.mark.parametrize("a", [0.05, 2.0, 60.0])
def test_each_noise_is_an_exponential_family_with_f_of_x_0_times_a(kind, a):
    """Eq. 13: what depends on x_0 in log q(x_t | x_0) is a f(x_0) T(x_t) - Omega(x_0)."""
    x_t = line(kind, 17)[0]
    for x_0, other in ((0.2, 0.9), (0.5, 0.55)):
        expected = density(kind, x_0, a).log_prob(x_t) - density(kind, other, a).log_prob(x_t)
        eta = a * (kind.f(one(x_0)) - kind.f(one(other)))
        omega = kind.omega(one(x_0), one(a)) - kind.omega(one(other), one(a))
        torch.testing.assert_close(kind.T(x_t) @ eta - omega, expected, rtol=1e-8, atol=1e-8)


@every
@pytest.mark.parametrize("a", [0.05, 2.0, 60.0])
def test_j_is_fishers_information(kind, a):
    """E (d log q / d x_0)^2, by differences and a sum over all x_t; of Beta at x_0 = 1/2."""
    (x_t, dx), x_0, h = line(kind), middle(kind), 1e-5
    score = (density(kind, x_0 + h, a).log_prob(x_t)
             - density(kind, x_0 - h, a).log_prob(x_t)) / (2 * h)
    q = density(kind, x_0, a).log_prob(x_t).exp() * dx
    assert q.sum().item() == pytest.approx(1, abs=1e-6)
    assert kind.J(one(a)).item() == pytest.approx((q * score ** 2).sum().item(), rel=1e-3)


@every
@pytest.mark.parametrize("a", [0.3, 20.0])
def test_draws_have_the_mean_and_the_variance_of_their_density(kind, a):
    torch.manual_seed(1)
    n, x_0, (x_t, dx) = 40_000, middle(kind) + 0.1, line(kind)
    found = kind.T(kind.draw(torch.full((n,), x_0).double(), one(a)))
    q = density(kind, x_0, a).log_prob(x_t).exp()[:, None] * dx
    mean = (q * kind.T(x_t)).sum(0)
    variance = (q * (kind.T(x_t) - mean) ** 2).sum(0)
    assert ((found.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    torch.testing.assert_close(found.var(0), variance, rtol=0.06, atol=0)


@every
def test_f_comes_back_and_points_at_what_it_is_a_mean_of(kind):
    x = line(kind, 9)[0]
    torch.testing.assert_close(kind.back(kind.f(x)), x)
    torch.testing.assert_close(kind.back(3 * kind.f(x)), x if kind is VonMises else 3 * x)


# ---- the star ----

@every
def test_each_x_t_tells_what_eq_24_gives_it_and_all_from_t_on_as_much_as_ddpms_x_t(kind):
    star = Star(kind, ALPHA_BAR)
    J = kind.J(star.a[1:])
    unit = {Gaussian: 1, Beta: 4, VonMises: 1}[kind]             # [0, 1] is half of [-1, 1]
    for t in range(1, 9):
        assert J[t - 1].item() == pytest.approx(unit * (SNR[t - 1] - SNR[t]), rel=1e-7)
        assert J[t - 1:].sum().item() == pytest.approx(unit * SNR[t - 1], rel=1e-7)


@every
def test_the_data_are_the_bumps_that_the_noise_names(kind):
    star = Star(kind, ALPHA_BAR)
    assert star.p.sum().item() == pytest.approx(1) and len(star.x) == len(star.p)
    expected = torch.zeros_like(star.p)
    for w, m, s in kind.data:
        d = star.x - m
        square = 2 - 2 * d.cos() if kind is VonMises else d ** 2             # of the chord
        expected += w / s * (-square / (2 * s * s)).exp()
    torch.testing.assert_close(star.p, expected / expected.sum())


@every
@pytest.mark.parametrize("t", [1, 5, 8])
def test_of_all_from_t_on_the_tail_statistic_says_what_bayes_rule_does(kind, t):
    """Theorem 1, with densities of torch: q(x_0 | x_t, ..., x_T), and q(x_0 | x_t) beside it."""
    star, x_0 = Star(kind, ALPHA_BAR), middle(kind)
    torch.manual_seed(t)
    x = {s: kind.draw(torch.full((3,), x_0).double(), star.a[s]) for s in range(t, 9)}
    each = {s: density(kind, star.x.tolist(), star.a[s].item()).log_prob(x[s][:, None])
            for s in x}
    G = sum(star.a[s] * kind.T(x[s]) for s in x)
    expected = (star.p.log() + sum(each.values())).softmax(1)
    torch.testing.assert_close(star.posterior(G, star.tail[t]), expected, rtol=1e-6, atol=1e-9)
    alone = star.posterior(star.a[t] * kind.T(x[t]), star.omega[t])
    torch.testing.assert_close(alone, (star.p.log() + each[t]).softmax(1), rtol=1e-6, atol=1e-9)


@every
def test_x_theta_is_where_the_divergence_of_eq_11_is_least(kind):
    """sum_x_0 q(x_0) KL(q(x_t | x_0) || q(x_t | x)), which of Beta is least nearby."""
    star, (x_t, dx), a = Star(kind, ALPHA_BAR), line(kind, 4000), 8.0
    q = star.posterior(kind.f(one([0.4])), star.tail[8])
    mixed = q @ density(kind, star.x[:, None].tolist(), a).log_prob(x_t).exp() * dx
    cost = [-(mixed * density(kind, x, a).log_prob(x_t)).sum().item() for x in star.x.tolist()]
    best, width = star.x[torch.tensor(cost).argmin()], (star.x[1] - star.x[0]).item()
    found = star.x_theta(q)[0]
    assert abs(found - best) <= (0.1 if kind is Beta else width)
    draws = star.draw(q.expand(20_000, -1))
    counts = torch.bincount(((draws - kind.low) / width).long(), minlength=len(star.x)) / 20_000
    assert (counts - q[0]).abs().max() < 4 * math.sqrt(q.max() / 20_000)


# ---- Gaussians: DDPM ----

def test_the_tail_statistics_of_gaussians_are_the_chain_of_ddpm():
    """Theorem 2: given x_0, G_s and G_t, scaled, have the mean and covariance of Eq. 2's chain."""
    star = Star(Gaussian, ALPHA_BAR)
    abar = ALPHA_BAR.tolist()
    for s in range(1, 9):
        for t in range(s, 9):
            scale_s, scale_t = ((1 - abar[u]) / math.sqrt(abar[u]) for u in (s, t))
            parts = [one(SNR[u - 1] - SNR[u]) for u in range(t, 9)]          # abar / (1 - abar)
            variance = sum(J * (1 + J) * (1 / (1 + J)) for J in parts)       # a^2 (1 - abar)
            a = star.a[t:] ** 2 / torch.stack([1 + J for J in parts])
            assert a.sum().item() == pytest.approx(variance.item(), rel=1e-7)
            chain = math.sqrt(abar[t] / abar[s]) * (1 - abar[s])
            assert (scale_s * scale_t * variance).item() == pytest.approx(chain, rel=1e-7)


@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_the_way_back_of_gaussians_is_algorithm_2_from_the_same_noise():
    star, ddpm = Star(Gaussian, ALPHA_BAR), DDPM(STRONG, "beta_tilde")
    scale = (1 - ALPHA_BAR) / ALPHA_BAR.sqrt()
    torch.manual_seed(0)
    (_, G, _), *path = list(star.walk(50))
    torch.manual_seed(0)
    x_t = scale[8] * G[:, 0]
    torch.randn_like(x_t)                                        # what x_T was drawn with
    for t, (s, G, _) in zip(range(8, 1, -1), path, strict=True):
        x_0_hat = star.x_theta(star.posterior(x_t[:, None] / scale[t], star.tail[t]))
        x_t = ddpm.posterior_sample(x_0_hat, x_t, t)
        assert s == t - 1
        torch.testing.assert_close(x_t, scale[s] * G[:, 0], rtol=1e-5, atol=1e-5)


# ---- samples ----

@every
def test_a_walk_adds_up_what_it_draws_and_asks_the_tail_or_x_t_alone(kind):
    star = Star(kind, ALPHA_BAR)
    for tail in (True, False):
        before = 0
        for k, (t, G, q) in enumerate(star.walk(4, tail)):
            x_t = G - before
            expected = (star.posterior(G, star.tail[t]) if tail
                        else star.posterior(x_t, star.omega[t]))
            assert t == 8 - k and G.shape == (4, kind.f(one([0.0])).shape[1])
            torch.testing.assert_close(q, expected, rtol=1e-6, atol=1e-9)
            before = G


@every
def test_nothing_is_lost_where_x_0_is_drawn_and_much_where_it_is_a_point_and_the_tail_is_not_seen(
        kind, monkeypatch):
    monkeypatch.setattr(star_shaped, "N", 2000)
    star = Star(kind, DDPM(cosine_beta_schedule(30)).exact.alpha_bar)
    d = {way: off(star, sample(star, how, 0)) for way, how in WAYS.items()}
    assert max(d[way] for way in ("q(x_0 | G_t)", "q(x_0 | x_t)", "the data")) < 0.06
    assert d["x_theta(x_t, t)"] > 1.5 * d["x_theta(G_t, t)"]
    assert torch.equal(sample(star, {}, 3), sample(star, {}, 3))
    assert not torch.equal(sample(star, {}, 3), sample(star, {}, 4))


def test_off_is_the_total_variation_distance():
    star = Star(Gaussian, ALPHA_BAR)
    star.p = torch.zeros(200).double()
    star.p[[0, 100]] = torch.tensor([0.25, 0.75]).double()
    x_0 = star.x[torch.tensor([0, 1, 100, 199])]                 # 1 is in the bin of 0
    assert off(star, x_0) == pytest.approx((0.25 + 0.5 + 0.25) / 2)


def test_the_program_says_how_far_off_each_way_is(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(star_shaped, "N", 60)
    monkeypatch.setattr(star_shaped, "T", 3)
    kept, original = [], star_shaped.draw_figure
    monkeypatch.setattr(star_shaped, "draw_figure", lambda d: kept.append(d) or original(d))
    out = tmp_path / "star.png"
    star_shaped.main(["--checkpoint", str(trained[0]), "--seed", "5", "--out", str(out)])
    said = capsys.readouterr().out
    assert out.read_bytes()[:4] == b"\x89PNG" and said.endswith(f"wrote {out}\n")
    drawn, = kept
    ddpm, model = star_shaped.start(type("", (), {"device": "cpu", "checkpoint": trained[0]})())[3:]
    expected = Star(Gaussian, respace(ddpm, model, 3)[0].exact.alpha_bar)
    star = next(iter(drawn))
    assert [each.noise for each in drawn] == [Gaussian, Beta, VonMises]
    torch.testing.assert_close(star.a, expected.a)
    for way, how in WAYS.items():
        assert torch.equal(drawn[star][way], sample(star, how, 5))
        d = torch.tensor([off(star, sample(star, how, seed)) for seed in (5, 6, 7)])
        assert f"by {way} off by Gaussian {d.mean():.3f} +- {d.std():.3f}, Beta " in said
    assert re.search(r"finding: by G_t samples are off \(total variation\) by Gaussian \S+ \+- "
                     r"\S+, Beta .*; by x_t alone by Gaussian ", said)
