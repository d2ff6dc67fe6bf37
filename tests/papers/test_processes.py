"""The process against closed forms: increments, kernels, densities, and where ways back end."""
import math
import re
from functools import reduce

import pytest
import torch
from stand_ins import noise
from test_ddpm import STRONG, coefficients

import data
import sample
from papers import processes
from papers.kit.analytic import Mixture
from papers.processes import compose, density, drift, fokker_planck, kernel, paths, three_ways
from schedules import cosine_beta_schedule, linear_beta_schedule

MEANS, STDS, WEIGHTS = (-1.0, 1.0), (0.2, 0.25), (1 / 3, 2 / 3)


def line(start, end, n):
    return torch.linspace(start, end, n, dtype=torch.float64)


def time(c):
    return torch.tensor(c, dtype=torch.float64)


def clock_of(beta):
    return -torch.tensor(coefficients(beta)[1], dtype=torch.float64).log()


def ends(*args):
    return torch.stack(list(paths(*args)))


def parts(x, c):
    """w_k N(x; k mu, v) and its distribution function, (N, 2) each, written out, at time c."""
    a = math.exp(-c)
    normal = torch.distributions.Normal(*(torch.tensor(v, dtype=torch.float64) for v in (
        [math.sqrt(a) * m for m in MEANS], [math.sqrt(a * s * s + 1 - a) for s in STDS])))
    w = torch.tensor(WEIGHTS, dtype=torch.float64)
    return w * normal.log_prob(x[:, None]).exp(), w * normal.cdf(x[:, None])


# ---- paths ----

@pytest.mark.parametrize("clock", [[0, 0.5, 2, 2.7], [3, 2.5, 1, 0.3]])
def test_increments_of_brownian_motion_are_independent_and_normal_with_the_variance_of_their_time(
        clock):
    n, clock = 40_000, time(clock)
    w = ends(lambda x, c: 0, torch.full((n,), 0.7).double(), clock, noise())
    assert w.shape == (4, n) and (w[0] == w[0, 0]).all()
    unit = w.diff(dim=0) / clock.diff().abs().sqrt()[:, None]
    torch.testing.assert_close(unit @ unit.T / n, torch.eye(3).double(), rtol=0,
                               atol=4 * math.sqrt(2 / n))
    assert unit.mean(1).abs().max() < 4 / math.sqrt(n)
    assert (unit ** 4).mean(1).tolist() == pytest.approx([3] * 3, abs=4 * math.sqrt(96 / n))
    assert torch.equal(w, ends(lambda x, c: 0, w[0], clock, noise()))        # of the generator


def test_a_step_is_the_drift_of_where_it_starts_and_noise_of_the_generator_or_none():
    x, asked, z = torch.randn(5).double(), [], noise(3)

    def f(x, c):
        asked.append(c)
        return c * x ** 2

    one, two, three = paths(f, x, time([2.0, 1.5, 0.0]), noise(3))
    assert torch.equal(one, x) and asked == [2, 1.5]
    for start, c, h, end in ((one, 2, 0.5, two), (two, 1.5, 1.5, three)):
        expected = start - h * c * start ** 2
        dw = math.sqrt(h) * torch.randn(5, generator=z, dtype=x.dtype)
        torch.testing.assert_close(end, expected + dw)
    torch.testing.assert_close(ends(f, x, time([2.0, 1.5]))[1], x - 0.5 * 2 * x ** 2)


def test_the_variance_of_euler_maruyama_is_that_of_its_recursion_and_not_of_the_sde():
    """v <- (1 - h beta / 2)^2 v + h beta, with steps long enough for the two to differ."""
    n, h, mean, v = 40_000, 0.8, 1.5, 0.0
    clock, joined = h * torch.arange(6).double(), (1, 0)
    for _ in range(5):
        mean, v = (1 - h / 2) * mean, (1 - h / 2) ** 2 * v + h
        joined = compose(joined, (1 - h / 2, h))
    assert joined == pytest.approx((mean / 1.5, v))
    x = ends(drift(0), torch.full((n,), 1.5).double(), clock, noise(1))[-1]
    assert x.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(v / n))
    assert x.var().item() == pytest.approx(v, rel=4 * math.sqrt(2 / n))
    assert v > 1.1 > 1 - math.exp(-4)
    assert reduce(compose, [(1 - h / 2, h)] * 200) == pytest.approx((0, 1 / (1 - h / 4)))


# ---- kernels ----

@pytest.mark.parametrize("beta", [STRONG, linear_beta_schedule(), cosine_beta_schedule()])
def test_the_steps_of_eq_2_are_joined_to_eq_4_and_are_those_of_the_sde(beta):
    joined, c = (1.0, 0.0), clock_of(beta)
    beta, alpha_bar = coefficients(beta)
    for t in range(1, len(beta)):
        joined = compose(joined, (math.sqrt(1 - beta[t]), beta[t]))
        assert joined == pytest.approx((math.sqrt(alpha_bar[t]), 1 - alpha_bar[t]), rel=1e-9)
        assert [v.item() for v in kernel(c[t])] == pytest.approx(joined, rel=1e-9)
        assert [v.item() for v in kernel(c[t] - c[t - 1])] == pytest.approx(
            (math.sqrt(1 - beta[t]), beta[t]), rel=1e-9)


def test_two_kernels_are_one_by_the_chapman_kolmogorov_integral():
    def q(to, start, k, v):
        return (-(to - k * start) ** 2 / (2 * v)).exp() / math.sqrt(2 * math.pi * v)

    first, then = (0.9, 0.4), (0.6, 0.1)
    between = line(-8, 8, 1601)
    to = line(-2, 2, 9)
    integral = (q(to[:, None], between, *then) * q(between, 1.3, *first)).sum(1) * 0.01
    torch.testing.assert_close(integral, q(to, 1.3, *compose(first, then)), rtol=1e-10, atol=0)


@pytest.mark.parametrize("c", [0.0, 0.3, 4.0])
def test_the_density_is_that_of_two_gaussians_and_its_kernel(c):
    x = line(-3, 3, 31)
    p = density(x, *kernel(time(c)))
    torch.testing.assert_close(p, parts(x, c)[0].sum(1), rtol=1e-9, atol=1e-300)


# ---- the Fokker-Planck equation ----

def solve(N, c, width=16):
    """The largest error of N cells at time c from the density of time 0.1, and the mass."""
    edges = line(-width / 2, width / 2, N + 1)
    x = (edges[1:] + edges[:-1]) / 2
    before, after = (density(x, *kernel(time(t))) for t in (0.1, c))
    p = torch.linalg.matrix_exp((c - 0.1) * fokker_planck(edges)) @ before
    assert p.sum().item() / before.sum().item() == pytest.approx(1, abs=1e-12)
    return (p - after).abs().max().item()


@pytest.mark.parametrize("c", [0.2, 1.0])
def test_finite_volumes_keep_all_mass_and_are_of_second_order(c):
    coarse, middle, fine = (solve(N, c) for N in (100, 200, 400))
    assert math.log2(coarse / middle) == pytest.approx(2, abs=0.2)
    assert math.log2(middle / fine) == pytest.approx(2, abs=0.06)
    assert fine < 4e-4


def test_nothing_flows_out_of_the_ends_and_each_cell_gives_to_its_neighbours_alone():
    A = fokker_planck(line(-3, 3, 31))
    torch.testing.assert_close(A.sum(0), torch.zeros(30).double(), rtol=0, atol=1e-12)
    near = (torch.arange(30)[:, None] - torch.arange(30)).abs() <= 1
    assert (A[~near] == 0).all() and (A[near & ~torch.eye(30, dtype=bool)] > 0).all()
    p = torch.linalg.matrix_exp(50 * A)[:, 3] / 0.2              # one cell, long after
    x = line(-2.9, 2.9, 30)
    normal = (-x ** 2 / 2).exp()
    torch.testing.assert_close(p, normal / normal.sum() / 0.2, rtol=0.06, atol=0)


def slope(f, c, h=1e-4):
    return (f(c + h) - f(c - h)) / (2 * h)


@pytest.mark.parametrize("share, diffusion", [(0, 0.5), (0.5, 0), (1, -0.5)])
def test_each_drift_moves_the_density_as_its_fokker_planck_equation_says(share, diffusion):
    """dp/dc = d/dx (-drift p) + D d^2p/dx^2, D = 1/2 forward, 0 of the ODE, and -1/2 back."""
    x, c, h = line(-2, 2, 9), 0.4, 1e-3

    def p(x, c=c):
        return parts(x, c)[0].sum(1)

    def flux(x):
        return drift(share)(x, c) * p(x)

    rate = diffusion * (p(x + h) - 2 * p(x) + p(x - h)) / h ** 2 - slope(
        lambda d: flux(x + d), 0.0, h)
    torch.testing.assert_close(rate, slope(lambda c: p(x, c), c), rtol=0, atol=1e-4)


# ---- the ways back ----

def test_the_ode_keeps_quantiles_and_order_and_its_error_is_of_first_order():
    x_T, error = line(-2, 2, 9), []
    for steps in (100, 200, 400):
        x = ends(drift(0.5), x_T, line(2, 0, steps + 1))
        assert (x.diff(dim=1) > 0).all()                        # at no time do two paths cross
        error.append((parts(x[-1], 0)[1].sum(1) - parts(x_T, 2)[1].sum(1)).abs().max().item())
    assert error[0] / error[1] == pytest.approx(2, abs=0.2)
    assert error[1] / error[2] == pytest.approx(2, abs=0.1)
    assert error[2] < 4e-3


def test_from_one_x_T_the_sde_ends_as_bayes_rule_says():
    n, c, x_T = 10_000, 0.7, 0.2
    x = ends(drift(1), torch.full((n,), x_T).double(), line(c, 0, 401), noise(2))
    a, b = math.exp(-c), 1 - math.exp(-c)
    weights = parts(time([x_T]), c)[0][0]
    weights = (weights / weights.sum()).tolist()
    assert 0.2 < weights[0] < 0.6
    share = (x[-1] < 0).double().mean().item()
    assert share == pytest.approx(weights[0], abs=4 * 0.5 / math.sqrt(n))
    for each, m, s in zip((x[-1][x[-1] < 0], x[-1][x[-1] > 0]), MEANS, STDS, strict=True):
        k = math.sqrt(a) * s * s / (a * s * s + b)
        std = math.sqrt(s * s * b / (a * s * s + b))
        assert each.mean().item() == pytest.approx(
            m + k * (x_T - math.sqrt(a) * m), abs=4 * std / math.sqrt(len(each)) + 0.01)
        assert each.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * len(each)) + 0.01)


# ---- three ways, and the program ----

def few(monkeypatch, n):
    for name, value in (("PATHS", n), ("SEEDS", 2), ("BACK", 50), ("CELLS", 240),
                        ("PER_BIN", 2), ("TIMES", (2, 5, 8))):
        monkeypatch.setattr(processes, name, value)


def test_the_three_ways_agree_as_far_as_the_grid_the_steps_and_chance_allow(monkeypatch):
    few(monkeypatch, 20_000)
    clock = clock_of(STRONG)
    x, found = three_ways(clock, 3)
    torch.testing.assert_close(x, line(-5.95, 5.95, 120))
    y = line(-5.975, 5.975, 240)
    pairs = [parts(y, c.item())[0].sum(1).reshape(120, 2).mean(1) for c in clock[[2, 5, 8]]]
    torch.testing.assert_close(found["closed form"], torch.stack(pairs), rtol=1e-9, atol=1e-300)
    assert 0 < (found["finite volumes"] - found["closed form"]).abs().max() < 3e-3
    for row, t in enumerate((2, 5, 8)):
        k, v = 1.0, 0.0
        for h in clock.diff()[:t].tolist():
            k, v = (1 - h / 2) * k, (1 - h / 2) ** 2 * v + h
        many = Mixture(None, torch.tensor([[-1.0], [1.0]]), STDS, WEIGHTS)
        expected = many.log_density(y[:, None], k * k, v).exp().reshape(120, 2).mean(1)
        torch.testing.assert_close(found["infinitely many"][row], expected)
        deviation = (expected * (1 - 0.1 * expected) / (0.1 * 20_000)).sqrt()
        z = ((found["paths"][:, row] - expected) / deviation)[:, expected > 0.02]
        assert z.abs().max() < 4.5 and z.square().mean().item() == pytest.approx(1, abs=0.5)
    assert (found["infinitely many"] - found["closed form"]).abs().max() > 0.02   # steps so long
    assert found["paths"].sum(2).flatten().tolist() == pytest.approx([10] * 6, rel=1e-3)
    again = three_ways(clock, 4)[1]["paths"]
    assert torch.equal(again[0], found["paths"][1]) and not torch.equal(again[1], again[0])


def test_the_program_draws_the_picture_and_says_what_it_found(trained, tmp_path, capsys,
                                                              monkeypatch):
    few(monkeypatch, 1000)
    kept, original, out = [], processes.draw_figure, tmp_path / "p.png"
    monkeypatch.setattr(processes, "draw_figure",
                        lambda *args: kept.append((args, original(*args))) or kept[-1][1])
    asked = []
    monkeypatch.setattr(processes, "three_ways",
                        lambda *args: asked.append(args) or three_ways(*args))
    processes.main(["--checkpoint", str(trained[0]), "--seed", "3", "--out", str(out)])
    said = capsys.readouterr().out
    assert said.endswith(f"wrote {out}\n") and out.stat().st_size > 50_000
    ((images, c, walks, clock, x, found, back), figure), = kept

    config = sample.load(trained[0])[0]
    test, _ = data.load("digits", config["image_size"], 1, "test")
    x_0 = test[torch.randperm(40, generator=noise(3))[0]] / 127.5 - 1
    eps = torch.randn(1, 1, 8, 8, generator=noise(3))[0]
    for name, schedule in (("linear", linear_beta_schedule), ("cosine", cosine_beta_schedule)):
        _, alpha_bar = coefficients(schedule())
        for x_t, t in zip(images[name], (0, 50, 100, 200, 400, 600, 800, 1000), strict=True):
            torch.testing.assert_close(x_t, math.sqrt(alpha_bar[t]) * x_0
                                       + math.sqrt(1 - alpha_bar[t]) * eps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clock, clock_of(linear_beta_schedule()))
    assert asked == [(clock, 3)]

    (brownian, two), (pulled, other) = walks
    torch.testing.assert_close(two, 2 * c.sqrt())
    torch.testing.assert_close(other, 2 * (1 - (-c).exp()).sqrt())
    assert brownian.shape == pulled.shape == (501, 100) and (brownian[0] == pulled[0]).all()
    h = c[1].item()                                              # the same noise, pulled
    torch.testing.assert_close(pulled.diff(dim=0) + h / 2 * pulled[:-1], brownian.diff(dim=0),
                               rtol=1e-3, atol=1e-5)
    ((ode, *_),), ((sde, *_), (same, *_)) = back
    assert len(ode) == len(sde) == 1001 and torch.equal(same, ode[:, :1])
    quantiles = [parts(x.double(), c.item())[1].sum(1) for x, c in (
        (ode[0], clock[-1]), (ode[-1], clock[0]))]
    torch.testing.assert_close(*quantiles, rtol=0, atol=3e-3)
    generator = noise(3)
    torch.randn(1, 1, 8, 8, generator=generator)                 # eps
    expected = ends(drift(1), torch.full((50,), 0.3), clock.flip(0), generator)
    torch.testing.assert_close(sde, expected[:, :8], rtol=1e-3, atol=1e-3)
    assert f"from x_T = 0.3 the ODE ends at {same[-1].item():.3f}; of 50 paths of the SDE " in said
    assert re.search(r"\d+\.0% end above 0, where 66\.7% of all x_0 are\n", said)
    gap = {name: (p - found["closed form"]).abs() for name, p in found.items()}
    each = gap["paths"].amax((1, 2))
    assert (f"the largest gap to the closed form is {gap['finite volumes'].max():.1e} by finite "
            f"volumes, {each.mean():.4f} +- {each.std():.4f} by 1,000 Euler-Maruyama paths "
            f"(standard deviation over 2 seeds), {gap['infinitely many'].max():.1e} by "
            "infinitely many\n") in said

    axes = figure.axes
    assert [each.get_text() for each in axes[0].get_xticklabels()] == [
        "0", "50", "100", "200", "400", "600", "800", "1000"]
    linear, cosine = (each.get_ydata() for each in axes[2].lines)
    _, alpha_bar = coefficients(linear_beta_schedule())
    assert linear[299] == pytest.approx(alpha_bar[300] / (1 - alpha_bar[300]), rel=1e-6)
    assert cosine[299] > linear[299] and "signal to noise" in axes[2].get_title()
    mesh = axes[6].collections[0].get_array().reshape(281, 201)
    t = 100 // 5
    expected = parts(line(-2.8, 2.8, 281), clock[100].item())[0].sum(1)
    assert mesh[:, t].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert list(axes[6].lines[0].get_xdata()[:2]) == [1000, 999]             # from T to 0
