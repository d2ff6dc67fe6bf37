"""RePaint against its schedule, a chain that is linear, and conditionals that are known."""
import math
import re

import pytest
import torch
from stand_ins import noise, refused
from test_ddpm import STRONG, coefficients, strong

import data
import sample
from ddpm import DDPM
from papers import repaint
from papers.repaint import inpaint, schedule
from schedules import cosine_beta_schedule

BETA, ALPHA_BAR = coefficients(STRONG)


def tanh(x_t, t):
    """Any model that depends on both of its arguments."""
    return torch.tanh(x_t) * t.reshape(-1, *[1] * (x_t.dim() - 1)) / 8


class Prior:
    """Four pixels of covariance C around m, and the perfect eps_theta for a chain of betas."""

    def __init__(self, beta, m, C):
        _, alpha_bar = coefficients(beta)
        self.alpha_bar, self.m, self.C = torch.tensor(alpha_bar, dtype=torch.float64), m, C

    def __call__(self, x_t, t):
        a = self.alpha_bar[t[0]]
        v = a * self.C + (1 - a) * torch.eye(len(self.C), dtype=torch.float64)
        return ((1 - a).sqrt() * torch.linalg.solve(v, (x_t - a.sqrt() * self.m).T).T).to(x_t)

    def given(self, k, y):
        """The mean and covariance of the other pixels, given the first k."""
        m, C = self.m, self.C
        G = C[k:, :k] @ torch.linalg.inv(C[:k, :k])
        return m[k:] + G @ (y - m[:k]), C[k:, k:] - G @ C[:k, k:]


# ---- the times ----

def visits(T, r, j):
    """The times by recursion on what is left to do, and not by counting down jumps."""
    jumps = {t: r - 1 for t in range(T + 1) if t % j == 1 % j and 1 <= t <= T - j}
    path = [T]

    def down_to(goal):
        while path[-1] > goal:
            path.append(path[-1] - 1)
            for _ in range(jumps.pop(path[-1], 0)):
                low = path[-1]
                path.extend(range(low + 1, low + j + 1))
                down_to(low)
    down_to(0)
    return path


@pytest.mark.parametrize("T, r, j", [(6, 2, 2), (6, 3, 1), (7, 2, 3), (5, 4, 4), (5, 2, 5),
                                     (1, 9, 1), (30, 10, 10), (250, 10, 10), (12, 2, 20)])
def test_the_schedule_goes_back_up_from_1_1_plus_j_and_so_on(T, r, j):
    assert schedule(T, r, j) == visits(T, r, j)


def test_the_schedule_of_a_short_chain_by_hand():
    assert schedule(6, 2, 2) == [6, 5, 4, 3, 4, 5, 4, 3, 2, 1, 2, 3, 2, 1, 0]
    assert schedule(3, 3, 1) == [3, 2, 3, 2, 3, 2, 1, 2, 1, 2, 1, 0]
    assert schedule(4, 2, 3) == [4, 3, 2, 1, 2, 3, 4, 3, 2, 1, 0]
    assert schedule(3, 5, 3) == [3, 2, 1, 0]             # a jump would lead beyond T


def test_with_jumps_of_one_step_the_schedule_is_the_two_loops_of_algorithm_1():
    T, U, times = 5, 4, [5]
    for t in range(T, 0, -1):
        for u in range(1, U + 1):
            if times[-1] == t:                           # at t = 1 nothing is done U times
                times.append(t - 1)
            if u < U and t > 1:
                times.append(t)
    assert schedule(T, U, 1) == times


def test_each_step_is_taken_r_times_where_jumps_cover_it_and_never_up_from_0():
    T, r, j = 31, 5, 10
    times = schedule(T, r, j)
    steps = list(zip(times, times[1:], strict=False))
    assert all(abs(t - s) == 1 for t, s in steps) and times[0] == T and times[-1] == 0
    assert [steps.count((t, t - 1)) for t in range(1, T + 1)] == [1] + 30 * [r]
    assert [steps.count((t, t + 1)) for t in range(T)] == [0] + 30 * [r - 1]
    assert times.count(0) == 1


def test_r_1_is_one_pass():
    for j in (1, 3, 100):
        assert schedule(7, 1, j) == [7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("r, j", [(0, 1), (1, 0), (-1, 2)])
def test_r_and_j_are_at_least_1(r, j):
    with pytest.raises(ValueError, match="at least 1"):
        schedule(5, r, j)


# ---- limits ----

@pytest.mark.parametrize("r, j", [(1, 1), (3, 2)])
def test_known_pixels_come_back_exactly_and_hidden_ones_do_not_matter(r, j):
    x_0 = 2 * torch.rand(3, 2, 4, 4) - 1
    mask = (torch.rand(4, 4) < 0.5).float()
    y = inpaint(strong(), tanh, x_0, mask, r, j, generator=noise())
    known = mask.expand_as(x_0) == 1
    assert torch.equal(y[known], x_0[known]) and not (y[~known] == x_0[~known]).any()
    for secret in (0.0, math.nan):
        again = inpaint(strong(), tanh, torch.where(known, x_0, secret), mask, r, j,
                        generator=noise())
        assert torch.equal(again, y)


@pytest.mark.parametrize("shape", [(3, 2), (2, 1, 4, 4)])
def test_where_all_is_known_x_0_comes_back(shape):
    x_0 = torch.randn(shape)
    assert torch.equal(inpaint(strong(), tanh, x_0, torch.ones(shape[1:]), 2, 3), x_0)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("shape, dtype", [((3, 2), torch.float64), ((2, 1, 4, 4), torch.float32)])
def test_where_nothing_is_known_one_pass_is_algorithm_2(shape, dtype, clip, variance):
    """Bit for bit, if the noise for known pixels is drawn and dropped as well."""
    ddpm, generator = strong(variance), noise()
    x_t = torch.randn(shape, generator=generator, dtype=dtype)
    for t in range(8, 0, -1):
        x_t = ddpm.p_sample(tanh, x_t, t, clip, generator)
        torch.randn(shape, generator=generator, dtype=dtype)
    y = inpaint(ddpm, tanh, torch.full(shape, math.nan, dtype=dtype), torch.zeros(shape[1:]), 1, 5,
                clip, noise())
    assert torch.equal(x_t, y)


def test_a_mask_can_be_one_for_all_or_one_for_each_image_and_of_any_type():
    x_0 = torch.randn(2, 3, 4, 4)
    mask = torch.randint(2, (4, 4))
    expected = inpaint(strong(), tanh, x_0, mask.float(), 2, 2, generator=noise())
    for same in (mask, mask.bool(), mask.expand(2, 1, 4, 4), mask.expand(2, 3, 4, 4).double()):
        assert torch.equal(inpaint(strong(), tanh, x_0, same, 2, 2, generator=noise()), expected)
    each = torch.zeros(2, 1, 1, 1)
    each[1] = 1
    y = inpaint(strong(), tanh, x_0, each, generator=noise())
    assert torch.equal(y[1], x_0[1]) and not torch.equal(y[0], x_0[0])


@pytest.mark.parametrize("value", [0.5, 2, -1, math.nan])
def test_a_mask_of_other_values_is_refused(value):
    with pytest.raises(ValueError, match="1 where a pixel is known"):
        inpaint(strong(), tanh, torch.zeros(1, 1, 2, 2), torch.tensor([1, value]))


def test_the_generator_fixes_the_result_in_the_dtype_of_x_0_and_no_gradient_is_kept():
    net, mask = torch.nn.Linear(2, 2), torch.tensor([1, 0])
    x_0 = torch.randn(4, 2, requires_grad=True)

    def run(seed):
        return inpaint(strong(), lambda x_t, t: net(x_t), x_0, mask, 2, 2, generator=noise(seed))

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))
    assert not run(0).requires_grad
    ddpm = strong().double()
    assert inpaint(ddpm, tanh, x_0.double(), mask, 2, 2).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 4, 4), (1, 1, 2, 4, 4)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"not of shape \(.*\) for images \(2, 1, 4, 4\)"):
        inpaint(strong(), tanh, torch.zeros(2, 1, 4, 4), torch.ones(shape))


# ---- each step, by what the model sees ----

def test_the_model_sees_known_pixels_with_the_noise_of_the_time_it_is_told():
    """With r = 1: what is x_{t-1} has alpha_bar_{t-1}, the first is pure noise."""
    seen, n = [], 40_000

    def spy(x_t, t):
        assert len(t.unique()) == 1
        seen.append((t[0].item(), x_t[:, 0].mean().item(), x_t[:, 0].var().item()))
        return torch.zeros_like(x_t)

    inpaint(strong(), spy, torch.full((n, 2), 0.8), torch.tensor([1, 0]), 1, generator=noise())
    assert [t for t, _, _ in seen] == list(range(8, 0, -1))
    for t, mean, variance in seen:
        a = ALPHA_BAR[t] if t < 8 else 0
        assert mean == pytest.approx(0.8 * math.sqrt(a), abs=4 * math.sqrt((1 - a) / n))
        assert variance == pytest.approx(1 - a, rel=4 * math.sqrt(2 / n))


def test_a_jump_is_j_steps_of_eq_2_for_all_pixels():
    """A model that makes x_0_hat = 0 and beta_tilde leave a variance that can be followed."""
    seen, n, c = [], 40_000, 0.8

    def spy(x_t, t):
        seen.append((t[0].item(), x_t.mean(0).tolist(), x_t.var(0).tolist()))
        return x_t / math.sqrt(1 - ALPHA_BAR[t[0]])

    inpaint(strong("beta_tilde"), spy, torch.full((n, 2), c), torch.tensor([1, 0]), 2, 3,
            clip=False, generator=noise())
    times = schedule(8, 2, 3)
    known, hidden, index = (0.0, 1.0), 1.0, 0
    for t, s in zip(times, times[1:], strict=False):
        if s < t:
            assert seen[index][0] == t
            assert seen[index][1][0] == pytest.approx(known[0], abs=4 * math.sqrt(known[1] / n))
            assert seen[index][2] == pytest.approx([known[1], hidden], rel=4 * math.sqrt(2 / n))
            share = math.sqrt(1 - BETA[t]) * (1 - ALPHA_BAR[s]) / (1 - ALPHA_BAR[t])
            tilde = BETA[t] * (1 - ALPHA_BAR[s]) / (1 - ALPHA_BAR[t])
            known = c * math.sqrt(ALPHA_BAR[s]), 1 - ALPHA_BAR[s]
            hidden, index = share ** 2 * hidden + tilde, index + 1
        else:
            known = math.sqrt(1 - BETA[s]) * known[0], (1 - BETA[s]) * known[1] + BETA[s]
            hidden = (1 - BETA[s]) * hidden + BETA[s]
    assert index == len(seen) == times[0] + 2 * 3


def test_the_hidden_pixels_follow_the_exact_mean_and_covariance_of_the_linear_chain():
    """On Gaussian data every step is linear: its moments are a recursion of matrices."""
    m = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
    C = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.4, 0.1], [0.2, 0.1, 0.3]], dtype=torch.float64)
    prior, I3 = Prior(STRONG, m, C), torch.eye(3, dtype=torch.float64)
    x_0 = torch.tensor([0.9, 0.0, 0.0], dtype=torch.float64)
    for r, j in ((1, 1), (2, 1), (3, 2)):
        mean, cov = torch.zeros(3, dtype=torch.float64), I3
        times = schedule(8, r, j)
        for t, s in zip(times, times[1:], strict=False):
            if s > t:
                mean, cov = math.sqrt(1 - BETA[s]) * mean, (1 - BETA[s]) * cov + BETA[s] * I3
                continue
            a = ALPHA_BAR[t]
            G = math.sqrt(a) * C @ torch.linalg.inv(a * C + (1 - a) * I3)       # of x_0 on x_t
            of_x_0 = math.sqrt(ALPHA_BAR[s]) * BETA[t] / (1 - a)
            of_x_t = math.sqrt(1 - BETA[t]) * (1 - ALPHA_BAR[s]) / (1 - a)
            step = of_x_0 * G + of_x_t * I3
            mean = of_x_0 * (m - math.sqrt(a) * G @ m) + step @ mean
            cov = step @ cov @ step.T + (BETA[t] if t > 1 else 0) * I3
            mean[0] = math.sqrt(ALPHA_BAR[s]) * x_0[0]
            cov[0] = cov[:, 0] = 0
            cov[0, 0] = 1 - ALPHA_BAR[s]
        n = 40_000
        y = inpaint(strong().double(), prior, x_0.expand(n, 3), torch.tensor([1, 0, 0]), r, j,
                    clip=False, generator=noise())
        sd = cov.diag()[1:].sqrt()
        assert ((y.mean(0) - mean)[1:].abs() < 4 * sd / math.sqrt(n)).all()
        torch.testing.assert_close(y[:, 1:].T.cov(), cov[1:, 1:], rtol=0,
                                   atol=5 * cov.max().item() / math.sqrt(n))


# ---- what it is for ----

def test_one_pass_misses_the_conditional_and_resampling_brings_it_nearer():
    beta, n = cosine_beta_schedule(60), 1000
    place = torch.arange(4, dtype=torch.float64)
    C = torch.exp(-(place[:, None] - place) ** 2 / 8) / 4 + torch.eye(4) / 100
    prior = Prior(beta, torch.zeros(4, dtype=torch.float64), C)
    x_0 = torch.tensor([0.5, -0.3, 0, 0], dtype=torch.float64)
    mean, cov = prior.given(2, x_0[:2])
    ddpm, off, spread = DDPM(beta).double(), {}, {}
    for r in (1, 3, 9):
        y = inpaint(ddpm, prior, x_0.expand(n, 4), torch.tensor([1, 1, 0, 0]), r, 5, clip=False,
                    generator=noise())[:, 2:]
        off[r] = ((y.mean(0) - mean).norm() / cov.trace().sqrt()).item()
        spread[r] = ((y.T.cov() - cov).norm() / cov.norm()).item()
    monte_carlo = 1 / math.sqrt(n)                       # of the mean in these units, RMS
    assert off[1] > 1.15 * off[3] > 1.15 ** 2 * off[9] and off[1] - off[3] > 5 * monte_carlo
    assert spread[1] > 1.5 * spread[9] and spread[1] - spread[9] > 5 * math.sqrt(2) * monte_carlo


def test_independent_pixels_are_not_disturbed_by_what_is_known():
    n, C = 20_000, torch.diag(torch.tensor([0.3, 0.1], dtype=torch.float64))
    beta = cosine_beta_schedule(60)
    y = inpaint(DDPM(beta).double(), Prior(beta, torch.tensor([0.1, -0.4]).double(), C),
                torch.full((n, 2), 5.0, dtype=torch.float64), torch.tensor([1, 0]), 2, 5, False,
                noise())[:, 1]
    assert y.mean().item() == pytest.approx(-0.4, abs=4 * math.sqrt(0.1 / n))
    assert y.var().item() == pytest.approx(0.1, rel=0.08)          # 60 steps: 3% too much


# ---- the program ----

@pytest.fixture
def fast(monkeypatch):
    """Read a digit by the brightness of the image."""
    made = []

    def load_reader(device):
        made.append(device)
        return lambda x: 100 * torch.nn.functional.one_hot(
            (x.mean((1, 2, 3)) > 0).long(), 10).float()

    monkeypatch.setattr(repaint, "load_reader", load_reader)
    return made


def test_the_program_draws_what_it_says(trained, tmp_path, capsys, monkeypatch, fast):
    drawn, asked, out = [], [], tmp_path / "new" / "repaint.png"
    original, inpaint = repaint.draw_panels, repaint.inpaint
    monkeypatch.setattr(repaint, "draw_panels", lambda rows: drawn.append(rows) or original(rows))
    monkeypatch.setattr(repaint, "inpaint", lambda ddpm, *args, generator: asked.append(
        (ddpm.T, *args[3:], generator.initial_seed())) or inpaint(ddpm, *args, generator=generator))
    monkeypatch.setattr(repaint, "batch_size", lambda H: 2)
    repaint.main(["--checkpoint", str(trained[0]), "--n", "3", "--steps", "4", "--r", "2", "--j",
                  "1", "--seed", "1", "--device", "cpu", "--out", str(out)])
    said = capsys.readouterr().out
    assert len(fast) == 1 and out.stat().st_size > 5000
    assert f"3 digits, by {trained[0]}, on " in said and said.count(f"wrote {out}") == 1
    one = [(4, 1, 1)] * 2 + [(5, 1, 1)] * 2 + [(4, 2, 1)] * 2      # 7 evaluations, but T = 5
    assert asked == [(*each, 1) for each in 2 * one]

    x, labels = data.load("digits", 8, split="test")
    generator = noise(1)
    chosen = torch.randperm(40, generator=generator)[:3]
    x_0, labels = data.to_model(x[chosen]), labels[chosen]
    _, ddpm, model = sample.load(trained[0])
    found = re.findall(r"(.+) known, (\d steps, r = \d): (\d+\.\d)% .* error (\d+\.\d\d)", said)
    assert len(found) == 6
    panels, = drawn
    for name, mask in repaint.masks(8, generator).items():
        rows = panels[f"{name} known"]
        assert list(rows) == ["digit", "known", "4 steps, r = 1", "5 steps, r = 1",
                              "4 steps, r = 2"]
        assert torch.equal(rows["digit"], x_0) and torch.equal(rows["known"], mask * x_0)
        chain = repaint.respace(ddpm, model, 4)
        drawn_from = noise(1)
        expected = torch.cat([inpaint(*chain, part, mask, 2, 1, generator=drawn_from)
                              for part in x_0.split(2)])
        assert torch.equal(rows["4 steps, r = 2"], expected)
        for label, y in list(rows.items())[2:]:
            (_, _, share, rms), = (each for each in found if each[:2] == (name, label))
            right = ((y.mean((1, 2, 3)) > 0).long() == labels).float().mean().item()
            assert float(share) == pytest.approx(100 * right, abs=0.06)
            error = (y - x_0)[(mask == 0).expand_as(x_0)].square().mean().sqrt().item()
            assert float(rms) == pytest.approx(error, abs=0.006)


def test_known_are_the_upper_half_or_a_tenth_at_random():
    half, tenth = repaint.masks(40, noise()).values()
    assert (half[:20] == 1).all() and (half[20:] == 0).all() and half.shape == (40, 40)
    assert tenth.mean().item() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 1600))
    assert set(tenth.flatten().tolist()) == {0, 1}


def test_what_the_classifier_cannot_read_ends_in_one_line(trained, capsys):
    content = torch.load(trained[0], weights_only=True)
    content["config"]["data"] = "mnist"
    torch.save(content, trained[0])
    refused(capsys, ["--checkpoint", trained[0]], "no grey rendered digits", main=repaint.main)
