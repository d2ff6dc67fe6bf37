"""Score distillation against closed forms: Gaussians, quadrature, cubes whose shadows are known."""
import math
import re

import pytest
import torch
import torch.nn.functional as F
from stand_ins import made_once, noise
from test_ddpm import STRONG, coefficients, gaussian, strong

from ddpm import DDPM
from papers import classifier_free_guidance
from papers import score_distillation as sd
from papers.kit.analytic import Mixture, kl
from papers.score_distillation import direction, distil, loss, render, views
from schedules import cosine_beta_schedule

_, ALPHA_BAR = coefficients(STRONG)
M, S = 0.3, 0.5


def same(x):
    return x


def expected(t, theta, m=M, s=S):
    """The mean of Eq. 3 over eps if the data are N(m, s^2): w sqrt(a b) (theta - m) / v, w = b."""
    a = ALPHA_BAR[t]
    return (1 - a) * math.sqrt(a * (1 - a)) * (theta - m) / (a * s ** 2 + 1 - a)


# ---- Eq. 3 and Eq. 4 ----

def test_on_gaussian_data_the_mean_of_eq_3_is_the_closed_form():
    """Eq. 3 is linear in eps, so that eps and -eps have exactly its mean between them."""
    eps, x = torch.randn(8, 1, 2, 2), torch.randn(8, 1, 2, 2)
    t = torch.arange(1, 9)
    both = [direction(strong(), gaussian(M, S, STRONG), x, t, e) for e in (eps, -eps)]
    by_hand = torch.stack([expected(k, x[k - 1]) for k in range(1, 9)])
    torch.testing.assert_close((both[0] + both[1]) / 2, by_hand, rtol=1e-4, atol=1e-6)
    slope = torch.tensor([(1 - a) * ((1 - a) / (a * S ** 2 + 1 - a) - 1)
                          for a in ALPHA_BAR[1:]]).reshape(-1, 1, 1, 1)
    torch.testing.assert_close((both[0] - both[1]) / 2, slope * eps, rtol=1e-3, atol=1e-6)


def test_no_gradient_goes_through_the_network():
    asked = []

    def model(x_t, t):
        asked.append(torch.is_grad_enabled())
        return x_t
    x = torch.randn(3, 2, requires_grad=True)
    assert not direction(strong(), model, x, torch.tensor([1, 4, 8]), torch.randn(3, 2)
                         ).requires_grad
    assert asked == [False]


@pytest.mark.parametrize("times", [[1], [8], range(1, 9)])
def test_eq_4_of_one_gaussian_is_its_kl(times):
    theta = torch.linspace(-2, 2, 5, dtype=torch.float64)
    found = loss(Mixture(strong(), torch.tensor([[M]], dtype=torch.float64), S), theta, times)
    by_hand = 0
    for a in (ALPHA_BAR[t] for t in times):
        weight = math.sqrt((1 - a) / a) * (1 - a)                # sigma_t / alpha_t w(t)
        by_hand = by_hand + weight * kl(math.sqrt(a) * theta, 1 - a, math.sqrt(a) * M,
                                        a * S ** 2 + 1 - a) / len(times)
    torch.testing.assert_close(found, by_hand, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t", [1, 2, 5, 8])
def test_eq_3_is_the_gradient_of_eq_4_on_a_mixture(t):
    mixture = Mixture(strong().double(), torch.tensor([[-1.0], [0.4], [1.5]]), [0.3, 0.2, 0.5],
                      [0.5, 0.2, 0.3])
    theta = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    gradient, = torch.autograd.grad(loss(mixture, theta, [t]).sum(), theta)
    z = torch.linspace(-9, 9, 700, dtype=torch.float64)
    weight = torch.exp(-z ** 2 / 2)
    a = ALPHA_BAR[t]
    for i, x in enumerate(theta.detach()):
        mean = (direction(mixture.ddpm, mixture, x.expand(700, 1), torch.full((700,), t),
                          z[:, None])[:, 0] * weight).sum() / weight.sum()
        assert mean.item() == pytest.approx(gradient[i].item(), abs=1e-6)    # float32 buffers
        # In float64 throughout, where eps itself has the mean 0:
        score = mixture.score((math.sqrt(a) * x + math.sqrt(1 - a) * z)[:, None], a, 1 - a)[:, 0]
        exact = -(1 - a) * math.sqrt(1 - a) * (score * weight).sum() / weight.sum()
        assert gradient[i].item() == pytest.approx(exact.item(), abs=1e-10)


# ---- descent ----

@pytest.mark.parametrize("annealed", [True, False])
def test_times_are_each_their_own_and_fall_where_they_are_annealed(annealed):
    asked, ddpm = [], DDPM(cosine_beta_schedule(100))

    def model(x_t, t):
        asked.append(t)
        return 0 * x_t
    distil(ddpm, model, same, torch.zeros(4000, 1), 5, 0.1, annealed, noise())
    for step, t in enumerate(asked):
        left = 1 - step / 5 if annealed else 1
        assert (t.min(), t.max()) == (2, round(2 + 96 * left))
        assert t.float().mean().item() == pytest.approx(2 + 48 * left, abs=1.5)


def test_a_step_takes_eq_3_through_the_picture_to_theta(monkeypatch):
    """Of SGD in Adam's place: theta - rate * g'(theta)^T (Eq. 3); three pictures of one theta."""
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    ddpm, seen = DDPM(cosine_beta_schedule(100)), []
    J = torch.randn(3, 2, dtype=torch.float64)
    original = sd.direction

    def spy(ddpm, model, x, t, eps):
        seen.append((x, original(ddpm, model, x, t, eps)))
        return seen[-1][1]
    monkeypatch.setattr(sd, "direction", spy)
    theta = torch.tensor([0.5, -0.25], dtype=torch.float64)
    data = Mixture(ddpm, torch.tensor([[M]]), S)
    end = distil(ddpm, data, lambda theta: (J @ theta)[:, None], theta, 2, 0.1, True, noise())
    assert torch.equal(theta, torch.tensor([0.5, -0.25]).double()) and not end.requires_grad
    (x, first), (x_1, second) = seen
    torch.testing.assert_close(x[:, 0], J @ theta)
    theta_1 = theta - 0.1 * J.T @ first[:, 0]
    torch.testing.assert_close(x_1[:, 0], J @ theta_1)
    torch.testing.assert_close(end, theta_1 - 0.05 * J.T @ second[:, 0])     # half the rate


def test_gaussian_data_lose_their_spread_and_keep_their_mean():
    ddpm = DDPM(cosine_beta_schedule(100))
    start = torch.randn(500, 1, generator=noise())
    end = distil(ddpm, Mixture(ddpm, torch.tensor([[M]]), S), same, start, 600, 0.05,
                 generator=noise(1))
    assert end.mean().item() == pytest.approx(M, abs=0.03) and end.std() < S / 5


def test_particles_end_where_eq_4_is_least_and_annealed_in_the_larger_mode(monkeypatch):
    for name, value in (("LINE_STEPS", 800), ("PARTICLES", 100)):
        monkeypatch.setattr(sd, name, value)
    mixture, ends = sd.line(0)
    assert mixture.log_weights.exp().tolist() == pytest.approx([0.7, 0.3])
    x = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)
    least = x[loss(mixture, x, range(20, 981, 20)).argmin()].item()
    all_times, annealed = ends.values()
    assert list(ends) == ["distilled, all times", "distilled, annealed"]
    assert -0.7 < least < -0.4                       # between the modes, where there is little data
    assert all_times.mean().item() == pytest.approx(least, abs=0.05)
    assert annealed.mean().item() == pytest.approx(-1, abs=0.1) and (annealed < 0).all()


# ---- pictures ----

def cube(values):
    """theta whose density is softplus(theta) = values."""
    return torch.log(torch.expm1(torch.as_tensor(values)))


def test_a_picture_is_what_the_densities_along_the_ray_let_through():
    density = 0.05 + torch.rand(2, 4, 4, 4)
    front, side = views(cube(density)).chunk(2)
    torch.testing.assert_close(front[:, 0], 1 - 2 * torch.exp(-density.sum(2)))
    torch.testing.assert_close(side[:, 0], 1 - 2 * torch.exp(-density.sum(3).flip(2)))
    assert front.shape == (2, 1, 4, 4)


def test_turned_by_half_a_turn_the_picture_is_mirrored_and_the_height_stays():
    theta = torch.randn(2, 5, 5, 5)
    front = render(theta, 0)
    torch.testing.assert_close(render(theta, math.pi), front.flip(3), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(render(theta, 2 * math.pi), front, rtol=1e-4, atol=1e-5)
    layers = torch.full((1, 8, 8, 8), -30.0)
    layers[:, 2] = 1.0
    for angle in (0.0, 0.4, 1.1):
        lit = render(layers, angle)[0, 0].amax(1) > -0.99
        assert lit.nonzero().flatten().tolist() == [2]


def test_a_point_moves_across_as_it_is_turned():
    """A point at distance r in front of the axis is seen at -r sin(angle), to the left."""
    theta = torch.full((1, 15, 15, 15), -30.0)
    theta[0, 7, 12, 7] = 2.0                         # five voxels from the axis, in depth
    where = torch.arange(15) - 7.0
    for angle in (0, math.pi / 6, math.pi / 2, -math.pi / 2):
        light = -torch.log((1 - render(theta, angle)[0, 0, 7]) / 2)          # sums of densities
        middle = (light * where).sum() / light.sum()
        assert middle.item() == pytest.approx(-5 * math.sin(angle), abs=0.15)
        assert light.sum().item() == pytest.approx(F.softplus(torch.tensor(2.0)).item(), rel=0.2)


# ---- the program ----

def test_the_program_draws_the_picture_and_says_what_it_found(flags, tmp_path_factory, tmp_path,
                                                              capsys, monkeypatch):
    checkpoint = made_once(classifier_free_guidance, flags, tmp_path_factory)
    asked, drawn, out = [], [], tmp_path / "new" / "a.png"
    for name, value in (("STEPS", 2), ("LINE_STEPS", 2), ("PARTICLES", 20)):
        monkeypatch.setattr(sd, name, value)
    guide, draw = sd.guided, sd.draw_figure
    monkeypatch.setattr(sd, "guided", lambda model, y, w: asked.append((y, w)) or guide(
        model, y, w))
    monkeypatch.setattr(sd, "draw_figure", lambda *args: drawn.append(args) or draw(*args))
    monkeypatch.setattr(sd, "read", lambda net, x: (torch.arange(len(x)) != 0, asked[0][0].where(
        torch.arange(len(x)) != 8, -1)))             # one picture is not read, one read as another
    sd.main(["--checkpoint", str(checkpoint), "--n", "7", "--device", "cpu", "--out", str(out)])
    said = capsys.readouterr().out
    (y, w), = asked
    front, side = y.chunk(2)
    assert w == 3 and len(y) == 14 and (front != side).all()
    assert len(set(zip(front.tolist(), side.tolist(), strict=True))) == 7
    rows, alike, _, ends = drawn[0]
    assert list(rows) == [f"{i}, {j}" for i, j in zip(front.tolist(), side.tolist(), strict=True)
                          ][:6]
    assert all(row.shape == (9, 1, 8, 8) for row in rows.values())
    assert len(alike["distilled"]) == y.bincount().max() and len(ends) == 2
    assert "7 volumes by" in said and re.search(r"are \d\.\d{3} apart, two held-out ones \d", said)
    assert "finding: 71.4% of 7 volumes are read" in said and f"wrote {out}" in said
    assert out.stat().st_size > 10_000
