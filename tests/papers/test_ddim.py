"""DDIM against Algorithm 2, against Eq. 12 and 16 in float64, and against the exact ODE."""
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import Spy, noise
from test_ddpm import STRONG, coefficients, gaussian, point_mass, strong

import data
import sample as core
from ddpm import DDPM
from papers import ddim
from papers.ddim import encode, sample, slerp, step
from papers.kit.chain import horizon, subsequence
from papers.kit.judge import nearest, rms
from plumbing.device import autocast
from plumbing.pictures import grid
from schedules import cosine_beta_schedule, linear_beta_schedule

_, ALPHA_BAR = coefficients(STRONG)


def sigma(alpha_bar, t, s, eta):
    """Eq. 16, in Python's floats."""
    return (eta * math.sqrt((1 - alpha_bar[s]) / (1 - alpha_bar[t]))
            * math.sqrt(1 - alpha_bar[t] / alpha_bar[s]))


def multiple(k):
    """A model that returns k x_t."""
    return lambda x_t, t: k * x_t


# ---- one jump ----

@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("beta", [STRONG, linear_beta_schedule(), cosine_beta_schedule()])
@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_with_eta_1_a_step_to_t_minus_1_is_a_step_of_algorithm_2_with_beta_tilde(beta, clip):
    ddpm = DDPM(beta, "beta_tilde")
    x_t = torch.randn(3, 1, 6, 6)
    model = multiple(0.9)
    T, clipped = ddpm.T, 0
    for t in sorted({1, 2, 3, 5, T // 8, T // 4, T // 2, T - 1} - {0}):
        jump = step(ddpm, model, x_t, t, t - 1, 1.0, clip, noise(t))
        torch.testing.assert_close(jump, ddpm.p_sample(model, x_t, t, clip, noise(t)),
                                   rtol=1e-5, atol=2e-6)
        clipped += (ddpm.estimate_x_0(model, x_t, t, False).abs() > 1).any()
    assert clipped > 0                                 # where it differs, it is the same too
    if clip or T == 8:                                 # unclipped, x_0_hat is 10^4 at T
        torch.testing.assert_close(step(ddpm, model, x_t, T, T - 1, 1, clip, noise()),
                                   ddpm.p_sample(model, x_t, T, clip, noise()),
                                   rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0, 0.4, 1])
@pytest.mark.parametrize("t, s", [(8, 7), (8, 3), (5, 1), (2, 1), (7, 0), (1, 0)])
def test_a_jump_is_eq_12_with_the_sigma_of_eq_16(t, s, eta, clip):
    x_t, eps = torch.randn(2, 3, 1, 5, 5, generator=noise(1))
    z = torch.randn(x_t.shape, generator=noise(2)).double()
    x, a, spread = x_t.double(), ALPHA_BAR, sigma(ALPHA_BAR, t, s, eta)
    x_0_hat, direction = (x - math.sqrt(1 - a[t]) * eps) / math.sqrt(a[t]), eps.double()
    if clip:
        assert x_0_hat.abs().max() > 1
        x_0_hat = x_0_hat.clamp(-1, 1)
        direction = (x - math.sqrt(a[t]) * x_0_hat) / math.sqrt(1 - a[t])
    expected = (math.sqrt(a[s]) * x_0_hat + spread * z
                + math.sqrt(max(0, 1 - a[s] - spread ** 2)) * direction)
    jump = step(strong(), lambda x, t: eps, x_t, t, s, eta, clip, noise(2))
    torch.testing.assert_close(jump, expected.float(), rtol=1e-5, atol=2e-6)
    assert step(strong("beta_tilde"), lambda x, t: eps, x_t, t, s, eta, clip,
                noise(2)).equal(jump)                  # the variance of ddpm plays no part


def test_eta_is_0_and_clip_is_on_unless_told():
    x_t, model = 3 * torch.randn(2, 1, 4, 4), multiple(0.1)
    default = step(strong(), model, x_t, 8, 4)
    assert default.equal(step(strong(), model, x_t, 8, 4, 0.0, True))
    assert not default.equal(step(strong(), model, x_t, 8, 4, 0.0, False))
    assert not default.equal(step(strong(), model, x_t, 8, 4, 0.5, True))
    assert sample(strong(), model, x_t, [4, 8]).equal(sample(strong(), model, x_t, [4, 8], 0, True))
    assert sample(strong(), model, 99 * x_t, [4, 8]).abs().max() == 1


@pytest.mark.parametrize("t", [1, 2, 8])
def test_a_jump_to_0_returns_x_0_hat_and_adds_no_noise(t):
    x_t = torch.randn(2, 1, 4, 4)
    for clip in (True, False):
        x_0_hat = strong().estimate_x_0(lambda x, t: 0.2 * x, x_t, t, clip)
        assert step(strong(), lambda x, t: 0.2 * x, x_t, t, 0, 1.0, clip).equal(x_0_hat)


@pytest.mark.parametrize("t, s", [(2, 1), (3, 1), (10, 2), (500, 499), (1000, 1)])
def test_sigma_is_that_of_eq_16_to_the_digits_of_float64(t, s):
    ddpm = DDPM(linear_beta_schedule())
    alpha_bar = [1.0, *(1 - linear_beta_schedule()).cumprod(0).tolist()]
    x_t, eps = torch.zeros(2, 1000, 1, dtype=torch.float64)
    one, two = (step(ddpm, lambda x, t: eps, x_t, t, s, 1.0, generator=noise(n)) for n in (1, 2))
    z = [torch.randn(x_t.shape, generator=noise(n), dtype=torch.float64) for n in (1, 2)]
    measured = (one - two).norm() / (z[0] - z[1]).norm()
    assert measured.item() == pytest.approx(sigma(alpha_bar, t, s, 1), rel=1e-10)


@pytest.mark.parametrize("beta", [linear_beta_schedule(), cosine_beta_schedule()])
def test_no_jump_of_any_length_gives_nan(beta):
    ddpm, x_t = DDPM(beta), torch.randn(1, 2)
    jumps = [(999, 1), (2, 1), (1, 0), (500, 3)] + [(1000, s) for s in range(1000)]
    assert all(step(ddpm, multiple(1), x_t, t, s, 1).isfinite().all() for t, s in jumps)


@pytest.mark.parametrize("eta", [0, 0.6, 1])
def test_a_jump_keeps_the_marginals_whatever_eta(eta):
    """From q(x_t | x_0) to q(x_s | x_0)."""
    c, t, s, n = 0.4, 7, 3, 100_000
    x_t = math.sqrt(ALPHA_BAR[t]) * c + math.sqrt(1 - ALPHA_BAR[t]) * torch.randn(n, 1, 1, 1)
    x_s = step(strong(), point_mass(c, STRONG), x_t, t, s, eta)
    spread = math.sqrt(1 - ALPHA_BAR[s])
    assert x_s.mean().item() == pytest.approx(math.sqrt(ALPHA_BAR[s]) * c, abs=4 * spread / 316)
    assert x_s.std().item() == pytest.approx(spread, rel=0.01)


@pytest.mark.parametrize("t, s, eta", [(9, 3, 0), (3, 3, 0), (3, 5, 0), (0, 0, 0), (3, -1, 0),
                                       (3, 1, -0.1), (3, 1, 1.1), (3, 1, math.nan)])
def test_a_jump_goes_to_an_earlier_time_with_eta_from_0_to_1(t, s, eta):
    with pytest.raises(ValueError, match=r"t in 1..8 to an earlier s >= 0 with eta in \[0, 1\]"):
        step(strong(), lambda x, t: x, torch.zeros(1, 1, 2, 2), t, s, eta)


# ---- all jumps ----

@pytest.mark.parametrize("clip", [True, False])
def test_with_eta_1_and_every_time_ddim_is_algorithm_2_with_beta_tilde(clip):
    ddpm, model, x_T = strong("beta_tilde"), multiple(0.5), torch.randn(5, 1, 4, 4)
    *_, (_, x_0, _) = ddpm.reverse_process(model, x_T, clip, noise(1))
    drawn = sample(ddpm, model, x_T, subsequence(8, 8), 1.0, clip, noise(1))
    torch.testing.assert_close(drawn, x_0, rtol=1e-5, atol=1e-5)
    *_, (_, other, _) = strong("beta").reverse_process(model, x_T, clip, noise(1))
    assert (other - drawn).abs().max() > 0.01


@pytest.mark.parametrize("times", [[8], [3, 8], [1, 2, 3, 8], [2, 5]])
def test_sampling_asks_about_the_times_once_each_from_the_last_to_the_first(times):
    spy = Spy()
    sample(strong(), spy, torch.randn(2, 1, 3, 3), times, eta=0.5)
    assert spy.times == times[::-1]


@pytest.mark.parametrize("eta", [0, 0.5, 1])
@pytest.mark.parametrize("times", [[8], [2, 5, 8], [1, 8], list(range(1, 9))])
def test_if_all_data_is_one_point_samples_are_that_point(times, eta):
    x_0 = sample(strong(), point_mass(0.3, STRONG), torch.randn(3, 1, 2, 2), times, eta)
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=2e-6)


@pytest.mark.parametrize("eta", [0, 0.5, 1])
def test_on_gaussian_data_samples_have_the_mean_and_std_of_the_exact_recursion(eta):
    m, s, n, times = 0.3, 0.5, 40_000, [2, 5, 8]
    mean, var = 0.0, 1.0
    for before, t in ((5, 8), (2, 5), (0, 2)):
        a, spread = ALPHA_BAR[t], sigma(ALPHA_BAR, t, before, eta)
        of_x = math.sqrt(1 - a) / (a * s ** 2 + 1 - a)             # eps* = of_x (x - sqrt(a) m)
        along = math.sqrt(max(0, 1 - ALPHA_BAR[before] - spread ** 2))
        scale = math.sqrt(ALPHA_BAR[before] / a)
        k = scale * (1 - math.sqrt(1 - a) * of_x) + along * of_x
        mean = k * mean + (scale * math.sqrt(1 - a) - along) * of_x * math.sqrt(a) * m
        var = k ** 2 * var + spread ** 2
    x_T = torch.randn(n, 1, 1, 1, generator=noise(1))
    x_0 = sample(strong(), gaussian(m, s, STRONG), x_T, times, eta, False, noise(2))
    assert x_0.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(var / n))
    assert x_0.std().item() == pytest.approx(math.sqrt(var), rel=4 / math.sqrt(2 * n))


def test_with_eta_0_the_noise_of_x_T_decides_and_with_eta_1_the_generator_too():
    x_T, model = torch.randn(2, 1, 4, 4), gaussian(0.1, 0.3, STRONG)
    for eta in (0, 0.3, 1):
        one, same, other = (sample(strong(), model, x_T, [2, 4, 8], eta, True, noise(n))
                            for n in (1, 1, 2))
        assert one.equal(same) and one.equal(other) == (eta == 0)


@pytest.mark.parametrize("times", [[], [0, 4], [4, 4], [5, 2], [3, 9], [-1, 2]])
def test_times_increase_and_lie_in_the_chain(times):
    x = torch.zeros(1, 1, 2, 2)
    for walk in (sample, encode):
        with pytest.raises(ValueError, match="increasing, from 1..8"):
            walk(strong(), lambda x, t: x, x, times)


def test_points_in_the_plane_and_float64_work_as_well_and_no_gradients_are_kept():
    net = torch.nn.Linear(2, 2).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    for result in (step(strong(), lambda x, t: net(x), x, 8, 2, 1),
                   sample(strong(), lambda x, t: net(x), x, [2, 8], 1),
                   encode(strong(), lambda x, t: net(x), x, [2, 8])):
        assert result.shape == (5, 2) and result.dtype == torch.float64
        assert not result.requires_grad


# ---- the ODE, both ways ----

def carried(alpha_bar, x, t, m, s):
    """Where the ODE takes x_0 by time t, if x_0 ~ N(m, s^2): from quantile to quantile."""
    return math.sqrt(alpha_bar[t]) * m + (x - m) * math.sqrt(
        alpha_bar[t] * s ** 2 + 1 - alpha_bar[t]) / s


def smooth(T=512):
    """sigma = tan(pi / 2 t / T), in float64 but for the rounding of alpha_bar to float32."""
    beta = cosine_beta_schedule(T, s=0)
    return DDPM(beta).double(), beta, coefficients(beta)[1]


def exact(m, s, beta):
    """The perfect eps_theta for x_0 ~ N(m, s^2), in float64."""
    a = torch.tensor(coefficients(beta)[1], dtype=torch.float64)

    def model(x_t, t):
        a_t = a[t].reshape(-1, 1)
        return (1 - a_t).sqrt() * (x_t - a_t.sqrt() * m) / (a_t * s ** 2 + 1 - a_t)
    return model


def test_ddim_converges_to_the_exact_ode_with_order_1_in_both_directions():
    ddpm, beta, alpha_bar = smooth()
    m, s, end = 0.3, 0.5, 448
    x_0 = torch.linspace(-1, 2, 9, dtype=torch.float64)[:, None]
    x_end, model = carried(alpha_bar, x_0, end, m, s), exact(m, s, beta)
    down, up, back = [], [], []
    for S in (28, 56, 112, 224):
        times = subsequence(end, S)
        down.append(rms(sample(ddpm, model, x_end, times, clip=False) - x_0))
        encoded = encode(ddpm, model, x_0, times)
        up.append(rms(encoded - x_end))
        back.append(rms(sample(ddpm, model, encoded, times, clip=False) - x_0))
    for errors in (down, up, back):
        orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
        assert orders == pytest.approx([1, 1, 1], abs=0.12)
    assert max(down[-1], up[-1], back[-1]) < 0.02


def test_what_was_encoded_is_decoded_and_the_better_the_more_steps():
    x_0 = 0.3 + 0.5 * torch.randn(50, 1, 1, 1)
    ddpm, model = DDPM(linear_beta_schedule()), gaussian(0.3, 0.5, linear_beta_schedule())
    errors = []
    for S in (10, 100, 1000):
        x_T = encode(ddpm, model, x_0, subsequence(1000, S))
        errors.append(rms(sample(ddpm, model, x_T, subsequence(1000, S), clip=False) - x_0))
    assert errors[0] > 4 * errors[1] and errors[1] > 8 * errors[2] and errors[2] < 5e-3
    assert x_T.std().item() == pytest.approx(x_0.std().item() / 0.5, rel=0.01)     # it is noise now
    assert abs(x_T.mean().item()) < 4 / math.sqrt(50)


def test_encoding_is_eulers_method_for_eq_14_and_never_asks_about_t_0():
    asked, x_0 = [], torch.randn(3, 1, 4, 4)

    def model(x_t, t):
        assert t.shape == (3,) and t.dtype == torch.int64
        asked.append(t[0].item())
        return torch.tanh(x_t) + 0.01 * t.reshape(-1, 1, 1, 1)

    encoded = encode(strong(), model, x_0, [2, 3, 7])
    assert asked == [1, 2, 3]
    spread = [math.sqrt((1 - a) / a) for a in ALPHA_BAR]
    bar = x_0.double()                                            # x-bar = x / sqrt(alpha_bar)
    for s, t in ((0, 2), (2, 3), (3, 7)):
        eps = torch.tanh(bar * math.sqrt(ALPHA_BAR[s])) + 0.01 * max(s, 1)
        bar = bar + (spread[t] - spread[s]) * eps
    torch.testing.assert_close(encoded, (bar * math.sqrt(ALPHA_BAR[7])).float(),
                               rtol=1e-5, atol=1e-5)


# ---- interpolation ----

def test_slerp_is_the_papers_formula_for_each_pair_on_its_own():
    x, y = torch.randn(2, 4, 1, 5, 5)
    y[1] *= 3
    mixed = slerp(x, y, 0.3)
    for i in range(4):
        u, v = x[i].double().flatten(), y[i].double().flatten()
        theta = torch.arccos(u @ v / (u.norm() * v.norm()))
        expected = (torch.sin(0.7 * theta) * u + torch.sin(0.3 * theta) * v) / torch.sin(theta)
        torch.testing.assert_close(mixed[i].flatten(), expected.float())
    torch.testing.assert_close(slerp(x, y, 0), x)
    torch.testing.assert_close(slerp(x, y, 1), y)


def test_between_a_noise_and_itself_is_that_noise():
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(slerp(x, x, 0.4), x)


def test_a_mixture_of_noises_is_noise():
    x, y = torch.randn(2, 1, 1, 200, 200)
    assert slerp(x, y, 0.5).std().item() == pytest.approx(1, abs=0.02)     # a mean of both has 0.7


# ---- the program ----

def test_the_reconstruction_error_is_on_the_scale_of_table_2():
    x_0 = torch.randn(3, 1, 4, 4)
    back = sample(strong(), Spy(), encode(strong(), Spy(), x_0, [3, 8]), [3, 8], 0, False)
    expected = ((back - x_0) ** 2).mean().item() / 4               # of pixels in 0..1
    assert ddim.reconstruct(strong(), Spy(), x_0, [3, 8]) == pytest.approx(expected)


def test_the_program_draws_the_picture_and_prints_the_finding(trained, tmp_path, capsys,
                                                             monkeypatch):
    path, kept, original, ticks = trained[0], [], ddim.draw_figure, []
    monkeypatch.setattr(ddim, "counted", lambda model, total: ticks.append(total) or (
        lambda x_t, t: ticks.append(t[0].item()) or model(x_t, t)))
    monkeypatch.setattr(ddim, "draw_figure", lambda *args: kept.append(args) or original(*args))
    ddim.main(["--checkpoint", str(path), "--n", "3", "--seed", "1", "--device", "cpu",
               "--out", str(tmp_path / "d.png")])
    out = capsys.readouterr().out.splitlines()
    assert len(ticks) - 1 == ticks[0]                              # the progress is of all there is
    assert out[-1] == f"wrote {tmp_path / 'd.png'}"
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"

    (samples, mixed, panels), = kept
    _, ddpm, model = core.load(path)
    generator, labels = noise(1), {"eta = 0": 0, "eta = 1": 1}
    x_T = torch.randn(3, 1, 8, 8, generator=generator)
    assert list(samples) == list(labels)
    for label, eta in labels.items():
        assert list(samples[label]) == [1, 5]
        for S, x_0 in samples[label].items():
            assert x_0.equal(sample(ddpm, model, x_T, subsequence(5, S), eta, True, generator))
    assert mixed.shape == (11, 1, 8, 8)
    for k, last in ((0, 0), (10, 2)):
        torch.testing.assert_close(mixed[k], samples["eta = 0"][5][last], rtol=1e-3, atol=1e-3)

    quality, distance, (errors,) = (panel if i < 2 else panel.values()
                                 for i, panel in enumerate(panels.values()))
    held_out, _ = data.load("digits", 8, 1, "test")
    order = torch.randperm(40, generator=noise(1))
    x_0, others = data.to_model(held_out[order[:3]]), held_out[order[3:]]
    assert quality["held-out images"] == dict.fromkeys([1, 5], nearest(x_0, others))
    for label, row in samples.items():
        assert quality[label][5] == pytest.approx(nearest(row[5], others))
        each = [rms(a - b) for a, b in zip(row[1], row[5], strict=True)]
        assert distance[label] == {1: pytest.approx(sum(each) / 3)}
    end = horizon(ddpm)
    assert errors == {S: pytest.approx(ddim.reconstruct(
        ddpm, model, x_0, subsequence(end, min(S, end))), rel=1e-4) for S in (1, 5)}
    numbers = [float(text) for text in re.findall(r"\d+\.\d+(?:e[-+]\d+)?", out[-2])]
    expected = [distance["eta = 0"][1], distance["eta = 1"][1], errors[1], errors[5]]
    assert numbers == pytest.approx(expected, rel=0.06, abs=6e-4)
    assert "1 and 5 steps" in out[-2] and f"in {end} of" in out[-2]


def test_a_plain_grid_of_few_steps_is_drawn_and_nothing_else(trained, tmp_path, capsys,
                                                            monkeypatch):
    monkeypatch.setattr(ddim, "batch_size", lambda H: 3)
    out = tmp_path / "new" / "grid.png"
    ddim.main(["--checkpoint", str(trained[0]), "--device", "cpu", "--grid", str(out),
               "--steps", "2", "--n", "5"])
    said = capsys.readouterr().out
    assert "step 3 of 3, digits" in said and said.endswith(f"wrote {out}\n")
    assert [path.name for path in out.parent.iterdir()] == ["grid.png"]
    _, ddpm, model = core.load(trained[0])
    x_T = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with autocast(torch.device("cpu")):              # as the program, in the same batches
        x_0 = torch.cat([ddim.sample(ddpm, model, x, [2, 5]) for x in x_T.split(3)])
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(grid(data.to_uint8(x_0))))


def test_samples_are_no_more_than_one_batch_and_images_come_from_where_they_were_asked(
        trained, tmp_path, monkeypatch):
    asked, drawn = [], []
    x = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 1, 8, 8)
    monkeypatch.setattr(data, "load", lambda *args: (asked.append(args), (x, None))[1])
    monkeypatch.setattr(ddim, "batch_size", lambda H: 2)
    monkeypatch.setattr(ddim, "draw_figure", lambda *args: (drawn.append(args), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        ddim.main(["--checkpoint", str(trained[0]), "--out", str(tmp_path / "d.png"),
                   "--data", "elsewhere"])
    assert [args[:4] for args in asked] == [("elsewhere", 8, 1, "test")]
    (samples, mixed, _), = drawn
    assert len(samples["eta = 0"][5]) == 2 and len(mixed) == 2
