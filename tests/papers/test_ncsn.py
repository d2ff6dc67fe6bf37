"""Score matching against the score it should find; Langevin dynamics against exact recursions."""
import math
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from stand_ins import noise
from test_ddpm import STRONG, coefficients, strong

import sample
from papers import ncsn
from papers.kit.analytic import Mixture, ve_score, ve_sigmas
from papers.ncsn import (annealed_langevin, dsm_loss, geometric, perturb, relative_error,
                         sliced_loss)

_, ALPHA_BAR = coefficients(STRONG)
SIGMA_T = [math.sqrt((1 - a) / a) for a in ALPHA_BAR]            # index t
LEVELS = torch.tensor([2.0, 0.7, 0.3])


def pixel(value):
    return torch.full((1, 1, 1, 1), float(value))


# ---- noise levels ----

def test_the_levels_are_geometric_from_sigma_1_to_sigma_L():
    sigmas = geometric(20, 1, 10)
    assert sigmas.shape == (10,) and sigmas.dtype == torch.float32
    assert (sigmas[0], sigmas[-1]) == (20, 1)
    assert (sigmas[:-1] / sigmas[1:]).tolist() == pytest.approx([20 ** (1 / 9)] * 9)
    assert geometric(3, 1, 1).tolist() == [3]


def test_each_point_gets_a_level_and_noise_of_its_own():
    x_0 = torch.randn(30_000, 2, 1)
    i, z, x = perturb(x_0, LEVELS, noise())
    torch.testing.assert_close((x - x_0) / LEVELS[i].reshape(-1, 1, 1), z, rtol=1e-3, atol=1e-5)
    assert i.bincount().tolist() == pytest.approx([10_000] * 3, abs=4 * math.sqrt(30_000 * 2 / 9))
    assert z.mean().item() == pytest.approx(0, abs=4 / math.sqrt(60_000))
    assert z.std().item() == pytest.approx(1, rel=4 / math.sqrt(120_000))
    assert torch.equal(perturb(x_0, LEVELS, noise())[2], x)
    assert not torch.equal(perturb(x_0, LEVELS, noise(1))[2], x)


# ---- the losses ----

@pytest.mark.parametrize("shape", [(5, 2), (5, 1, 3, 3)])
def test_if_all_data_is_one_point_the_loss_of_its_score_is_0_and_that_of_no_score_is_half_of_D(
        shape):
    def pull(x, sigma):
        return -(x - 0.3) / sigma.reshape(-1, *[1] * (x.dim() - 1)) ** 2

    x_0 = torch.full(shape, 0.3)
    assert dsm_loss(pull, x_0, LEVELS, noise()).item() == pytest.approx(0, abs=1e-9)
    _, z, _ = perturb(x_0, LEVELS, noise())
    nothing = dsm_loss(lambda x, sigma: 0 * x, x_0, LEVELS, noise())
    assert nothing.item() == pytest.approx(z.flatten(1).square().sum(1).mean().item() / 2)


@pytest.mark.parametrize("level", [0.01, 1.0, 30.0])
def test_with_lambda_sigma_squared_every_level_weighs_the_same(level):
    def model(x, sigma):
        return 0.5 / sigma[:, None] * torch.ones_like(x)

    for loss, expected in ((dsm_loss, 1 + 0.25), (sliced_loss, 0.25)):
        value = loss(lambda x, sigma: model(x, sigma) + 0 * x, torch.zeros(40_000, 2),
                     torch.tensor([level]), noise())
        assert value.item() == pytest.approx(expected, abs=4 * 0.6 / math.sqrt(40_000))


def test_the_sliced_loss_has_the_trace_of_the_jacobian_and_half_the_squared_norm():
    """+-1 in v make v^T J v the trace where J has nothing symmetric beside its diagonal."""
    J = torch.tensor([[0.5, 2.0], [-2.0, -0.8]])
    x_0 = torch.randn(6, 2)
    i, _, x = perturb(x_0, LEVELS, noise())
    expected = LEVELS[i] ** 2 * (J.trace() + ((x @ J.T + 1) ** 2).sum(1) / 2)
    loss = sliced_loss(lambda x, sigma: x @ J.T + 1, x_0, LEVELS, noise())
    torch.testing.assert_close(loss, expected.mean())

    curved = sliced_loss(lambda x, sigma: x ** 3 * sigma.reshape(-1, 1, 1, 1),
                         x_0.reshape(3, 1, 2, 2), LEVELS, noise())
    i, _, x = perturb(x_0.reshape(3, 1, 2, 2), LEVELS, noise())
    s = LEVELS[i].reshape(-1, 1, 1, 1)
    expected = (s ** 2 * (3 * x ** 2 * s + (x ** 3 * s) ** 2 / 2)).flatten(1).sum(1).mean()
    torch.testing.assert_close(curved, expected)


def test_the_slices_are_drawn_anew_for_every_point_and_coordinate():
    J = torch.tensor([[0.0, 1.0], [1.0, 0.0]])                   # v^T J v = 2 v_1 v_2, and J x = 0
    n = 10_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ncsn, "perturb", lambda x_0, *_: (torch.zeros(n, dtype=torch.int64), None,
                                                        0 * x_0))
        values = sliced_loss(lambda x, sigma: x @ J, torch.zeros(n, 2), torch.ones(1), noise())
    assert values.item() != 0 and abs(values.item()) < 4 * 2 / math.sqrt(n)


MIXTURE = Mixture(None, torch.tensor([[-1.0, 0.5], [0.8, 0.0], [0.3, -0.7]]), [0.2, 0.5, 0.3],
                  [1, 2, 5])


def test_three_ways_of_matching_scores_differ_by_constants_whatever_the_model():
    """Hyvarinen 2005, Vincent 2011: explicit = sliced + c = denoising + c', with known c and c'."""
    n, sigma = 300_000, torch.tensor([0.6])
    x_0, _ = MIXTURE.draw(n, noise(7))
    x = perturb(x_0, sigma, noise())[2]
    true = MIXTURE.score(x, 1, 0.36).float()
    best = dsm_loss(lambda x, sigma: MIXTURE.score(x, 1, 0.36).float(), x_0, sigma, noise()).item()
    for model in (lambda x, sigma: torch.tanh(x @ torch.tensor([[1.0, -2.0], [0.5, 1.0]])) * 2,
                  lambda x, sigma: torch.stack([x[:, 1] ** 2, x[:, 0] - x[:, 1]], 1)):
        explicit = 0.36 / 2 * ((model(x, sigma) - true) ** 2).sum(1).mean().item()
        denoising = dsm_loss(model, x_0, sigma, noise()).item()
        sliced = sliced_loss(model, x_0, sigma, noise()).item()
        size = 0.36 * true.square().sum(1).mean().item()
        assert denoising == pytest.approx(sliced + 2 / 2, abs=0.014)     # D/2
        assert denoising == pytest.approx(explicit + 2 / 2 - size / 2, abs=0.014)
        assert denoising > best + 0.1


def minimiser(loss, k):
    """The minimum of a quadratic function of k parameters: least squares in closed form."""
    zero = torch.zeros(k, dtype=torch.float64, requires_grad=True)
    gradient, = torch.autograd.grad(loss(zero), zero)
    return -torch.linalg.solve(torch.autograd.functional.hessian(loss, zero), gradient)


@pytest.mark.parametrize("sigma, error", [(0.3, 0.1), (2.0, 0.01)])          # 4 standard errors
@pytest.mark.parametrize("loss", [dsm_loss, sliced_loss])
def test_on_gaussian_data_the_best_linear_score_is_the_closed_form(loss, sigma, error):
    """-(S + sigma^2 I)^-1 (x - m), for x_0 ~ N(m, S)."""
    m, root = torch.tensor([1.0, -0.5]).double(), torch.tensor([[0.9, 0.0], [0.6, 0.5]]).double()
    x_0 = m + torch.randn(100_000, 2, generator=noise(3), dtype=torch.float64) @ root.T
    levels = torch.tensor([sigma])

    def of(theta):
        return loss(lambda x, sigma: x @ theta[:4].reshape(2, 2).T + theta[4:], x_0, levels,
                    noise(4))

    best = minimiser(of, 6)
    W = -torch.linalg.inv(root @ root.T + sigma ** 2 * torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(best[:4].reshape(2, 2), W, rtol=0, atol=error)
    torch.testing.assert_close(best[4:], -W @ m, rtol=0, atol=error)


# ---- Langevin dynamics ----

def test_a_step_is_algorithm_1_and_every_level_has_its_steps_and_step_size():
    asked, x = [], torch.randn(4, 1, 2, 2)

    def score(x, sigma):
        asked.append((x, sigma))
        return 0.1 * x ** 2

    start, expected, z = x.clone(), x, noise(3)
    result = annealed_langevin(score, x, LEVELS, 2, 0.05, noise(3))
    for k, sigma in enumerate([2.0, 2.0, 0.7, 0.7, 0.3, 0.3]):
        torch.testing.assert_close(asked[k][0], expected)
        torch.testing.assert_close(asked[k][1], torch.full((4,), sigma))
        alpha_i = 0.05 * sigma ** 2 / 0.3 ** 2
        expected = (expected + alpha_i / 2 * 0.1 * expected ** 2
                    + math.sqrt(alpha_i) * torch.randn(x.shape, generator=z))
    torch.testing.assert_close(result, expected)
    assert len(asked) == 6 and torch.equal(x, start)
    double = annealed_langevin(score, x.double(), LEVELS, 1, 0.05)
    assert double.dtype == torch.float64 and asked[-1][1].dtype == torch.float64


@pytest.mark.parametrize("v, alpha", [(1.0, 0.1), (1.0, 2.0), (0.3, 1.0), (2.0, 7.0)])
def test_a_single_level_settles_at_a_variance_that_is_too_large_by_the_closed_form(v, alpha):
    """V = (1 - alpha / 2v)^2 V + alpha, so V = v / (1 - alpha / 4v)."""
    x = annealed_langevin(lambda x, sigma: -x / v, torch.zeros(40_000, 1), torch.ones(1),
                          int(20 * v / alpha) + 20, alpha, noise(2))
    expected = v / (1 - alpha / (4 * v))
    assert expected == pytest.approx((1 - alpha / (2 * v)) ** 2 * expected + alpha)
    assert x.var().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / 40_000))


def test_a_step_size_of_4_variances_diverges_as_sec_4_3_with_the_step_of_b_1_would():
    def largest(sigma_1, sigma_L, step):
        x = annealed_langevin(ncsn.exact, torch.randn(10, 2, dtype=torch.float64),
                              geometric(sigma_1, sigma_L, 10), 100, step, noise())
        return x.abs().max().item()

    assert largest(20, 1, 0.1) < 20
    assert not largest(10, 0.1, 0.1) < 1e6
    x = annealed_langevin(lambda x, sigma: -x / 0.5, torch.ones(10, 1), torch.ones(1), 200, 2.1,
                          noise())
    assert x.abs().max() > 1e3


def share_of_the_smaller_mode(sigmas, n_steps, step):
    """Exactly: the density along the diagonal, moved by each step's Gaussian kernel on a grid."""
    h = 0.2
    u = (np.arange(1000) - 499.5) * h
    p = np.maximum(0, 8 * math.sqrt(2) - np.abs(u))              # of a uniform square, diagonally
    means, weights = np.array([-1, 1]) * math.sqrt(50), np.array([0.2, 0.8])
    for sigma in sigmas:
        v, alpha_i = 1 + sigma ** 2, step * sigma ** 2 / sigmas[-1] ** 2
        near = np.abs(u) < 12 + 6 * sigma                        # nothing is left further out
        u, p = u[near], p[near]
        logs = np.log(weights) - (u[:, None] - means) ** 2 / (2 * v)
        parts = np.exp(logs - logs.max(1, keepdims=True))
        score = ((means - u[:, None]) / v * parts / parts.sum(1, keepdims=True)).sum(1)
        kernel = np.exp(-(u[:, None] - u - alpha_i / 2 * score) ** 2 / (2 * alpha_i))
        for _ in range(n_steps):
            p = kernel @ p
            p /= p.sum()
    return p[u < 0].sum()


def test_langevin_dynamics_forgets_the_weights_of_the_modes_and_annealing_finds_them():
    """Fig. 3, with the exact scores and the settings of appendix B.1."""
    n, sigmas = 1000, geometric(20, 1, 10)
    x = 16 * torch.rand(n, 2, generator=noise(1)) - 8
    for levels, n_steps, claim in ((sigmas[-1:], 1000, 0.5), (sigmas, 100, 0.2)):
        exact = share_of_the_smaller_mode(levels.tolist(), n_steps, 0.1)
        assert exact == pytest.approx(claim, abs=0.025)          # annealing is not perfect: 22%
        samples = annealed_langevin(ncsn.exact, x, levels, n_steps, 0.1, noise(2))
        share = (samples.sum(1) < 0).float().mean().item()
        assert share == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / n))


def test_no_gradient_is_kept():
    net = torch.nn.Linear(2, 2)
    assert not annealed_langevin(lambda x, sigma: net(x), torch.zeros(3, 2), LEVELS, 1,
                                 0.01).requires_grad


# ---- a DDPM as a score network ----

def test_denoising_score_matching_is_L_simple():
    """Ho et al. 2020, sec. 3.2: with lambda = sigma^2, up to the factor D/2."""
    ddpm, x_0 = strong(), torch.randn(50, 1, 2, 2)

    def model(x_t, t):
        return torch.tanh(x_t) * t.reshape(-1, 1, 1, 1) / 4

    loss = dsm_loss(ve_score(ddpm, model), x_0, ve_sigmas(ddpm)[1:], noise(2))
    i, z, _ = perturb(x_0, ve_sigmas(ddpm)[1:], noise(2))
    torch.testing.assert_close(loss, 4 / 2 * ddpm.loss(model, x_0, i + 1, z))


def test_annealed_langevin_of_a_chain_gives_the_images_of_the_data():
    """The ideal denoiser of two images: every sample is one of them, plus sigma_1 noise."""
    ddpm, images = strong(), torch.stack([pixel(-0.5), pixel(0.5)])[:, 0].expand(2, 1, 2, 2)
    sigmas = ve_sigmas(ddpm)[[8, 6, 4, 2, 1]]
    x = annealed_langevin(ve_score(ddpm, Mixture(ddpm, images)), torch.zeros(500, 1, 2, 2), sigmas,
                          50, 0.2 * SIGMA_T[1] ** 2, noise())
    nearest = x.mean((1, 2, 3)).sign() / 2
    spread = SIGMA_T[1] / math.sqrt(1 - 0.2 / 4)
    assert (x - nearest.reshape(-1, 1, 1, 1)).std().item() == pytest.approx(spread, rel=0.1)
    assert (nearest > 0).float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(500))


# ---- the program ----

def test_the_toy_is_that_of_appendix_b_1_and_the_levels_of_images_are_twice_those_of_sec_5():
    assert ncsn.PLANE.means.tolist() == [[-5, -5], [5, 5]] and ncsn.PLANE.stds.tolist() == [1, 1]
    assert ncsn.PLANE.log_weights.exp().tolist() == pytest.approx([1 / 5, 4 / 5])
    assert ncsn.PLANE_LEVELS == {"sigma_1": 20, "sigma_L": 1, "L": 10}
    assert ncsn.IMAGE_LEVELS == {"sigma_1": 2 * 1, "sigma_L": 2 * 0.01, "L": 10}
    assert ncsn.IMAGE_STEP < 4                       # or Langevin dynamics diverges


def test_the_relative_error_is_0_for_the_truth_1_for_nothing_and_quadratic_between():
    for sigma in (1.0, 5.0):
        level = torch.tensor([sigma])
        for scale, expected in ((1, 0), (0, 1), (1.1, 0.01), (3, 4)):
            error = relative_error(lambda x, sigma, scale=scale: scale * ncsn.exact(x, sigma),
                                   level, noise())
            assert error == pytest.approx(expected, rel=1e-3, abs=1e-9)

    def shifted(x, sigma):
        assert len(x) == 20_000
        return ncsn.exact(x, sigma) + 1

    # E ||s||^2 is nearly that of two Gaussians far apart: D / v.
    assert relative_error(shifted, torch.ones(1), noise()) == pytest.approx(2 / (2 / 2), rel=0.05)


@pytest.mark.parametrize("loss", [dsm_loss, sliced_loss])
def test_a_network_learns_the_score_at_every_level_by_either_loss(loss, monkeypatch):
    monkeypatch.setattr(ncsn, "FIT_STEPS", 300)
    torch.manual_seed(0)
    sigmas = geometric(20, 1, 4)
    model = ncsn.fit(loss, sigmas, noise())
    assert all(relative_error(model, sigma, noise(1)) < 0.1 for sigma in sigmas.split(1))
    assert not model(torch.zeros(3, 2), torch.ones(3)).requires_grad


def test_the_plane_is_learned_by_both_losses_and_sampled_alone_and_annealed(monkeypatch):
    fits, runs = [], []

    def fit(loss, sigmas, generator):
        fits.append((loss, sigmas))
        factor = 1.1 if loss is dsm_loss else 1.2
        return lambda x, sigma: factor * ncsn.exact(x, sigma)

    def langevin(score, x, sigmas, n_steps, step, generator):
        runs.append((score, x, sigmas.tolist(), n_steps, step))
        k = 1000 if len(sigmas) == 1 else 3000                   # of 4000, in the larger mode
        return torch.cat([torch.full((4000 - k, 2), -5.0), torch.full((k, 2), 5.0)])

    monkeypatch.setattr(ncsn, "fit", fit)
    monkeypatch.setattr(ncsn, "annealed_langevin", langevin)
    panels, finding = ncsn.plane(0)
    assert [loss for loss, _ in fits] == [dsm_loss, sliced_loss]
    levels = geometric(20, 1, 10)
    assert all(torch.equal(sigmas, levels) for _, sigmas in fits)
    (score, x, *alone), (learned, start, *annealed) = runs
    assert score is ncsn.exact and alone == [[1.0], 1000, 0.1]
    assert learned is list(panels.values())[1] and annealed == [levels.tolist(), 100, 0.1]
    assert torch.equal(x, start) and -8 <= x.min() < -7.9 and 7.9 < x.max() <= 8
    assert "a relative squared error of 1.00% by denoising, 4.00% by slices" in finding
    assert "Langevin dynamics puts 75.0% of its points into" in finding
    assert finding.endswith("annealed 25.0%")
    assert list(panels) == ["the score at sigma = 1", "learned by denoising, squared error 1.0%",
                            "Langevin, exact score\n75% in the mode of 20%",
                            "annealed, learned score\n25% in the mode of 20%"]


def test_images_start_from_the_same_noise_and_ask_the_network_equally_often(trained, monkeypatch):
    config, ddpm, model = sample.load(trained[0])
    runs, asked = [], []

    def langevin(score, x, sigmas, n_steps, step, generator):
        runs.append((x, sigmas.tolist(), n_steps, step, generator))
        score(x, x.new_full((len(x),), sigmas[0].item()))
        return x

    def spy(x_t, t):
        asked.append(len(x_t))
        return model(x_t, t)

    monkeypatch.setattr(ncsn, "annealed_langevin", langevin)
    monkeypatch.setattr(ncsn, "batch_size", lambda H: 2)
    grids = ncsn.images(config, ddpm, spy, 3, 7, 0)
    sigmas = [s for s in ve_sigmas(ddpm).flip(0).tolist() if s in runs[-1][1]]
    last = sigmas[-1]
    assert sigmas == runs[-1][1] and len(sigmas) > 1 and last == ve_sigmas(ddpm)[1].item()
    assert [run[1:4] for run in runs] == [
        ([last], 7 * len(sigmas), pytest.approx(0.5 * last ** 2))] * 2 + [
        (sigmas, 7, pytest.approx(0.5 * last ** 2))] * 2
    assert asked[:4] == [2, 1, 2, 1] and len(asked) == 4 + ddpm.T
    assert all(x.shape == (3, 1, 8, 8) for x in grids.values())
    one, two, three = grids.values()
    assert torch.equal(one, two) and one.abs().max() <= 1 and one.std() == pytest.approx(
        1 / math.sqrt(3), rel=0.15)
    x_0, = (x for _, x in sample.batches(ddpm, model, {**config, "precision": "float32"}, 3, 0))
    assert torch.equal(three, x_0)
    assert list(grids) == [f"Langevin at sigma = {last:.2g}, {7 * len(sigmas)} steps",
                           f"annealed from {sigmas[0]:.2g}, {7 * len(sigmas)} steps",
                           "Algorithm 2 of DDPM, 5 steps"]


def test_the_field_is_drawn_where_it_was_asked_for_and_the_density_lies_below(monkeypatch):
    monkeypatch.setattr(ncsn, "PLANE", Mixture(None, torch.tensor([[-6.0, 3.0]]), 1.0))
    drawn = {}
    monkeypatch.setattr("matplotlib.axes.Axes.contourf",
                        lambda self, *args, **kwargs: drawn.update(density=args))

    def field(x, sigma):
        assert sigma.tolist() == [1.0] * len(x)
        return torch.stack([x[:, 0] + 100, x[:, 1] - 100], 1)

    points = torch.randn(1500, 2)
    figure = ncsn.draw_figure({"a": field, "b": points},
                              dict.fromkeys("cd", torch.zeros(4, 1, 8, 8)))
    across, up, density = drawn["density"]
    row, column = divmod(density.argmax().item(), density.shape[1])
    assert (across[column].item(), up[row].item()) == pytest.approx((-6, 3), abs=0.11)
    assert density.max().item() == pytest.approx(1 / (2 * math.pi * 2), rel=0.01)
    first, second, *_ = [axes for part in figure.subfigs for axes in part.axes]
    quiver, = (child for child in first.get_children() if isinstance(child, Quiver))
    assert len(quiver.X) == 169 and np.allclose(quiver.U, quiver.X + 100) \
        and np.allclose(quiver.V, quiver.Y - 100)
    assert np.allclose(second.lines[0].get_xydata(), points[:1000])


def test_the_program_draws_the_picture_and_says_what_it_found(trained, tmp_path, capsys,
                                                              monkeypatch):
    for name, value in (("FIT_STEPS", 2), ("PLANE_STEPS", 2)):
        monkeypatch.setattr(ncsn, name, value)
    drawn, out = [], tmp_path / "new" / "ncsn.png"
    original = ncsn.draw_figure
    monkeypatch.setattr(ncsn, "draw_figure",
                        lambda panels, grids: drawn.append((panels, grids)) or original(panels,
                                                                                        grids))
    ncsn.main(["--checkpoint", str(trained[0]), "--n", "2", "--steps", "1", "--seed", "1",
               "--device", "cpu", "--out", str(out)])
    said = capsys.readouterr().out
    assert f"2 images of {trained[0]}, T = 5, on " in said
    assert out.stat().st_size > 10_000 and said.count(f"wrote {out}") == 1
    assert re.search(r"error of \d+\.\d\d% by denoising, \d+\.\d\d% by slices; .* puts "
                     r"\d+\.\d% of .* 20.0% of the data, annealed \d+\.\d%", said)
    config, ddpm, model = sample.load(trained[0])
    made = [[*list(ncsn.plane(seed)[0].values())[2:],
             *ncsn.images(config, ddpm, model, 2, 1, seed).values()] for seed in (1, 0)]
    (panels, grids), = drawn
    one = [*list(panels.values())[2:], *grids.values()]
    assert len(one) == 5
    for mine, same, other in zip(one, *made, strict=True):
        torch.testing.assert_close(mine, same, rtol=1e-3, atol=1e-3)        # by any threads
        assert not torch.allclose(mine, other, atol=0.1)


def test_the_plane_takes_one_thread_and_the_images_all(trained, tmp_path, monkeypatch):
    seen = []
    for name, value in (("plane", ({}, "")), ("images", {})):
        monkeypatch.setattr(ncsn, name, lambda *args, value=value: (
            seen.append(torch.get_num_threads()), value)[1])
    monkeypatch.setattr(ncsn, "draw_figure", lambda *args: Figure())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ncsn.main(["--checkpoint", str(trained[0]), "--out", str(tmp_path / "n.png")])
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]
