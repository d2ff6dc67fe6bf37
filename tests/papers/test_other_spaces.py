"""The torus against Fourier series and moments; matrices against the cone and closed forms."""
import math
import re

import pytest
import torch
from stand_ins import noise

from ddpm import DDPM
from papers import other_spaces
from papers.other_spaces import (ELLIPSES, PI, REGIONS, SPREAD, Regions, Torus, coordinates,
                                 fourier, matrices, matrix, near_the_cut, positive, spectral, wrap,
                                 wrapped_normal)
from schedules import cosine_beta_schedule


def one(x):
    return torch.tensor(x, dtype=torch.float64)


def line(n=200):
    return torch.linspace(-3 * PI, 3 * PI, n, dtype=torch.float64)


# ---- the torus ----

def test_angles_are_taken_modulo_two_pi_into_minus_pi_to_pi():
    x = line()
    assert wrap(x).min() >= -PI and wrap(x).max() < PI
    torch.testing.assert_close((wrap(x) - x) / (2 * PI), ((wrap(x) - x) / (2 * PI)).round())


@pytest.mark.parametrize("v", [0.1, 0.7, 3.0, 11.0])
def test_the_sum_over_images_is_the_fourier_series_and_a_density(v):
    p = wrapped_normal(line(), one(v))[0].exp()
    torch.testing.assert_close(p, fourier(line(), one(v)), rtol=0, atol=1e-14)
    torch.testing.assert_close(p, wrapped_normal(line() + 2 * PI, one(v))[0].exp())
    x = 2 * PI / 500 * torch.arange(500).double()
    assert (fourier(x, one(v)).mean() * 2 * PI).item() == pytest.approx(1, abs=1e-12)
    one_by_one = sum((-(x + 2 * PI * m) ** 2 / (2 * v)).exp() for m in range(-9, 9))
    torch.testing.assert_close(fourier(x, one(v)), one_by_one / math.sqrt(2 * PI * v))


@pytest.mark.parametrize("v", [1e-4, 0.1, 3.0, 11.0])
def test_the_slope_is_the_derivative_of_log_p_as_of_a_gaussian_or_of_nothing_at_the_ends(v):
    x = line().requires_grad_()
    log_p, slope = wrapped_normal(x, one(v))
    expected, = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(slope, expected)
    near = 0.1 * torch.randn(9).double()
    if v == 1e-4:
        torch.testing.assert_close(wrapped_normal(near, one(v))[1], -near / v)
    if v == 11:
        assert slope.abs().max() < 0.01


def log_density(x, c):
    """Of REGIONS after the time c: a sum over regions and images of both angles, written out."""
    m = 2 * PI * torch.cartesian_prod(*[torch.arange(-6.0, 7)] * 2)          # (169, 2)
    parts = []
    for phi, psi, degrees, w in REGIONS.tolist():
        v = (degrees * PI / 180) ** 2 + c
        d = x[:, None] - torch.tensor([phi, psi]) * PI / 180 + m             # (B, 169, 2)
        parts.append(math.log(w / (2 * PI * v)) - (d ** 2).sum(2) / (2 * v))
    return torch.cat(parts, 1).logsumexp(1)


@pytest.mark.parametrize("c", [0.0, 0.3, 5.0])
def test_the_score_of_the_regions_is_the_gradient_of_their_log_density(c):
    x = (2 * PI * torch.rand(40, 2) - PI).double().requires_grad_()
    expected, = torch.autograd.grad(log_density(x, c).sum(), x)
    torch.testing.assert_close(Regions().score(x, c).double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("c", [0.0, 0.4, 1.5])
def test_moments_of_draws_are_those_of_the_regions_times_what_brownian_motion_leaves(c):
    """E exp(i k psi) = exp(-k^2 c / 2) sum_j w_j exp(i k mu_j - k^2 s_j^2 / 2)."""
    torch.manual_seed(1)
    n = 40_000
    x = wrap(Regions().draw(n) + math.sqrt(c) * torch.randn(n, 2))
    assert REGIONS[:, 3].sum().item() == pytest.approx(1)
    for i in (0, 1):
        for k in (1, 2, 3):
            expected = math.exp(-k * k * c / 2) * sum(
                w * complex(math.cos(k * mu), math.sin(k * mu)) * math.exp(-k * k * s * s / 2)
                for *mus, s, w in (REGIONS * one([PI / 180] * 3 + [1])).tolist()
                for mu in mus[i:i + 1])
            assert abs((1j * k * x[:, i]).exp().mean().item() - expected) < 4 / math.sqrt(n)


def perfect(torus, x_0, seen=None):
    """sigma times the score of a single point x_0, as numbers that are angles over pi."""
    def model(x, t):
        sigma = torus.sigma[t][:, None]
        if seen is not None:
            seen.append((x, t))
        return sigma * wrapped_normal(PI * (x - x_0), sigma ** 2)[1]
    return model


def test_of_one_point_the_loss_of_its_score_is_0_at_every_time_and_image():
    torus, x_0, seen = Torus(7), torch.tensor([0.95, -0.4]), []
    loss = torus.loss(perfect(torus, x_0, seen), x_0.expand(4000, 2))
    assert loss.item() < 1e-6
    (x, t), = seen
    assert t.unique().tolist() == list(range(1, 8))
    image = ((x + 1) / 2).floor()
    for k in (-1, 0, 1):                                         # each third, in each coordinate
        assert ((image == k).float().mean(0) - 1 / 3).abs().max() < 0.04
    far = t == 7
    moved = (wrap(PI * (x - x_0)) ** 2)[t == 1].mean().item()
    assert moved == pytest.approx((0.01 * PI) ** 2, rel=0.2)
    assert abs((1j * PI * x[far]).exp().mean().item()) < 0.1     # sigma = pi: nearly uniform
    assert torus.loss(lambda x, t: 0 * x, x_0.expand(4000, 2)) > 0.1


def test_sigma_grows_evenly_in_its_logarithm_from_a_hundredth_of_pi_to_pi():
    sigma = Torus(5).sigma
    assert sigma.tolist() == pytest.approx([0, *(PI * 10 ** (-2 + k / 2) for k in range(5))])


def test_the_way_back_ends_at_the_point_if_the_data_are_one_wherever_the_cut_is():
    torus = Torus(30)
    for x_0 in ([0.2, -0.4], [0.999, -0.999]):
        x_0 = torch.tensor(x_0)
        x = torus.sample(perfect(torus, x_0), (50, 2))
        assert wrap(PI * (x - x_0)).abs().max() < 1e-4 and x.min() >= -1 and x.max() < 1


def test_the_way_back_with_the_score_of_the_regions_gives_their_moments():
    torch.manual_seed(0)
    torus, regions, n = Torus(60), Regions(), 2000
    x = PI * torus.sample(lambda x, t: torus.sigma[t][:, None] * regions.score(
        PI * x, torus.sigma[t[0]] ** 2), (n, 2))
    expected = regions.draw(100_000)
    for k in (1, 2):
        gap = (1j * k * x).exp().mean(0) - (1j * k * expected).exp().mean(0)
        assert gap.abs().max() < 4 / math.sqrt(n) + 0.01
    assert near_the_cut(x, 20) == pytest.approx(near_the_cut(expected, 20), abs=0.03)


def test_with_no_score_and_with_noise_alone_all_stays_uniform():
    torch.manual_seed(0)
    x = PI * Torus(20).sample(lambda x, t: 0 * x, (20_000, 2))
    assert (1j * x).exp().mean(0).abs().max() < 4 / math.sqrt(20_000)


def test_near_the_cut_are_points_with_an_angle_that_is():
    x = torch.tensor([[0, 179.5], [-179.2, 3], [178, 1], [2, -150], [0, 0]]) * PI / 180
    assert near_the_cut(x, 1) == pytest.approx(2 / 5)
    assert near_the_cut(x, 20) == pytest.approx(3 / 5)


# ---- positive definite matrices ----

def test_coordinates_come_back_and_their_length_is_that_of_the_matrix_however_it_is_turned():
    v, angle = torch.randn(9, 3).double(), one(0.7)
    R = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    S = matrix(v)
    assert torch.equal(S, S.mT)
    torch.testing.assert_close(coordinates(S), v)
    torch.testing.assert_close(v.norm(dim=1), S.flatten(1).norm(dim=1))
    torch.testing.assert_close(coordinates(R @ S @ R.T).norm(dim=1), v.norm(dim=1))


def test_exp_of_any_is_positive_is_undone_by_log_and_is_that_of_the_power_series():
    S = matrix(3 * torch.randn(500, 3).double())
    P = spectral(torch.exp, S)
    assert positive(P).all() and not positive(S).all()
    torch.testing.assert_close(spectral(torch.log, P), S, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(P, torch.matrix_exp(S), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.linalg.det(P).log(), S.diagonal(dim1=1, dim2=2).sum(1))


def test_positive_is_what_both_eigenvalues_are():
    S = one([[[1, 0], [0, 2]], [[1, 2], [2, 1]], [[-1, 0], [0, -2]], [[1, 1], [1, 1.01]]])
    assert positive(S).tolist() == [True, False, False, True]


def test_of_noise_on_the_entries_1_minus_1_over_sqrt_2_halves_are_positive():
    """A cone of 45 degrees about the identity has that share of a sphere."""
    n = 40_000
    share = positive(matrix(torch.randn(n, 3, generator=noise()))).double().mean().item()
    assert share == pytest.approx((1 - 1 / math.sqrt(2)) / 2, abs=4 * 0.36 / math.sqrt(n))


def test_the_middles_are_the_ellipses_and_ddpm_on_logarithms_gives_back_the_mixture():
    ddpm, n = DDPM(cosine_beta_schedule(100)), 4000
    mixture = matrices(ddpm)
    P = spectral(torch.exp, matrix(mixture.means))
    for each, (a, b, degrees, _) in zip(P, ELLIPSES.tolist(), strict=True):
        along, across = (one([math.cos(x), math.sin(x)]) for x in (
            math.radians(degrees), math.radians(degrees + 90)))
        torch.testing.assert_close(each @ along, a * along, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(each @ across, b * across, rtol=1e-5, atol=1e-6)
    v = ddpm.sample(mixture, (n, 3), clip=False, generator=noise(2)).double()
    part = torch.cdist(v, mixture.means).argmin(1)
    for k, w in enumerate(ELLIPSES[:, 3].tolist()):
        mine = v[part == k] - mixture.means[k]
        assert len(mine) / n == pytest.approx(w, abs=4 * 0.5 / math.sqrt(n))
        assert mine.mean(0).abs().max() < 4 * SPREAD / math.sqrt(len(mine)) + 0.01
        torch.testing.assert_close(mine.T.cov(), SPREAD ** 2 * torch.eye(3).double(), rtol=0.1,
                                   atol=0.01)


# ---- the program ----

@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_the_program_counts_at_the_cut_and_in_the_cone(trained, tmp_path, monkeypatch, capsys):
    for name, value in (("N", 50), ("STEPS", 2), ("SEEDS", 2)):
        monkeypatch.setattr(other_spaces, name, value)
    kept, asked = [], []
    draw, learn = other_spaces.draw_figure, other_spaces.imitate
    monkeypatch.setattr(other_spaces, "draw_figure", lambda *all: kept.append(all) or draw(*all))
    monkeypatch.setattr(other_spaces, "imitate", lambda process, x, n, steps: (
        asked.append((process, x, n, steps)), learn(process, x, n, steps))[1])
    out = tmp_path / "o.png"
    other_spaces.main(["--checkpoint", str(trained[0]), "--seed", "6", "--out", str(out)])
    said = capsys.readouterr().out
    assert out.read_bytes()[:4] == b"\x89PNG" and said.endswith(f"wrote {out}\n")
    (clouds, ellipses), = kept
    assert [type(each[0]) for each in asked] == [Torus, Torus, DDPM, DDPM]
    assert all(each[0].T == 5 and len(each[1]) == 100 and each[2:] == (50, 2) for each in asked)
    assert torch.equal(asked[0][1], asked[2][1])                 # the same data for both
    torch.manual_seed(6)
    torch.testing.assert_close(asked[0][1], Regions().draw(100) / PI)
    assert list(clouds) == ["data", "samples on the torus", "samples of DDPM"]
    assert all(x.shape == (50, 2) and x.abs().max() <= PI * 1.0001 for x in clouds.values())
    S, logs, fitted = ellipses.values()
    assert positive(S).all() and positive(logs).all()
    assert f"{positive(fitted).sum()} of 50 (a Gaussian fitted to the entries)\n" in said
    assert re.search(r"within 1 \(20\) degrees of a cut are of data \S+ \+- \S+% \(\S+ \+- \S+%\), "
                     r"of samples on the torus ", said)
    gap = re.search(r"by images and by Fourier series differ by at most (\S+)\n", said)
    assert float(gap[1]) < 2e-15
