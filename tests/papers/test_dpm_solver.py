"""DPM-Solver++ against DDIM, its Algorithm 2 in float64, ODEs that are known, and diffusers."""
import functools
import math
import re

import pytest
import torch
from stand_ins import Spy, refused
from test_ddim import carried, exact
from test_ddpm import STRONG, coefficients, point_mass, strong

import data
from ddpm import DDPM
from papers import ddim, dpm_solver, pndm
from papers.dpm_solver import converge, even, half_log_snr, sample
from papers.kit import judge
from papers.kit.chain import horizon, subsequence
from papers.kit.judge import rms
from papers.pndm import order
from schedules import cosine_beta_schedule, linear_beta_schedule

_, ALPHA_BAR = coefficients(STRONG)
LAMBDA = [math.inf, *(math.log(a / (1 - a)) / 2 for a in ALPHA_BAR[1:])]


def wavy(x_t, t):
    """A model that no method solves exactly."""
    return torch.tanh(x_t) + 0.1 * torch.sin(t / 7).reshape(-1, *[1] * (x_t.dim() - 1))


# ---- the clock and the times ----

@pytest.mark.parametrize("beta", [STRONG, linear_beta_schedule(), cosine_beta_schedule()])
@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_lambda_is_half_the_log_of_the_signal_to_noise_ratio(beta):
    _, alpha_bar = coefficients(beta)
    expected = [math.log(math.sqrt(a) / math.sqrt(1 - a)) for a in alpha_bar[1:]]
    found = half_log_snr(DDPM(beta))
    assert found.dtype == torch.float64 and found[0] == math.inf
    assert found[1:].tolist() == pytest.approx(expected, rel=1e-9)


def test_even_times_are_at_even_distances_of_lambda_as_far_as_there_are_any():
    ddpm = DDPM(cosine_beta_schedule())
    known, times = half_log_snr(ddpm), even(ddpm, 954, 10)
    assert len(times) == 10 and (times[0], times[-1]) == (1, 954)
    steps = [(known[s] - known[t]).item() for s, t in zip(times, times[1:], strict=False)]
    assert steps == pytest.approx([(known[1] - known[954]).item() / 9] * 9, abs=0.1)
    for end, steps in ((954, 1), (954, 2), (954, 60), (954, 900), (954, 954), (3, 3), (1, 1)):
        times = even(ddpm, end, steps)
        assert len(times) == steps and times[-1] == end and times[0] >= 1
        assert all(s < t for s, t in zip(times, times[1:], strict=False))


# ---- the sampler ----

@pytest.mark.parametrize("beta, times", [
    (STRONG, [8]), (STRONG, [1, 2, 5, 8]), (linear_beta_schedule(), [100, 300, 700]),
    (cosine_beta_schedule(), list(range(20, 960, 40)))], ids=["one", "short", "linear", "cosine"])
@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_order_1_is_ddim_to_rounding(beta, times):
    ddpm, x_T = DDPM(beta), torch.randn(2, 1, 4, 4)
    expected = ddim.sample(ddpm, wavy, x_T, times, clip=False)
    torch.testing.assert_close(sample(ddpm, wavy, x_T, times, order=1), expected, rtol=1e-5,
                               atol=2e-6 * expected.abs().max().item())
    assert (rms(sample(ddpm, wavy, x_T, times) - expected) < 1e-6) == (len(times) == 1)


@pytest.mark.parametrize("times", [[8], [2, 8], [2, 5, 8], [1, 2, 4, 7, 8], list(range(1, 9))])
def test_the_steps_are_algorithm_2_written_out(times):
    """With its exponentials, in float64; the last jump, where h is infinite, by the first order."""
    x_T = torch.randn(2, 1, 3, 3)
    x, path, known = x_T.double(), [0, *times], []
    for i in range(len(times), 0, -1):
        t, s = path[i], path[i - 1]
        alpha, sigma = (math.sqrt(a) for a in (ALPHA_BAR[t], 1 - ALPHA_BAR[t]))
        known.append((x - sigma * wavy(x, torch.full((2,), t))) / alpha)
        if s == 0:
            x = known[-1]
            break
        h, D = LAMBDA[s] - LAMBDA[t], known[-1]
        if len(known) > 1:
            r = (LAMBDA[t] - LAMBDA[path[i + 1]]) / h
            D = (1 + 1 / (2 * r)) * known[-1] - 1 / (2 * r) * known[-2]
        x = (math.sqrt(1 - ALPHA_BAR[s]) / sigma * x
             - math.sqrt(ALPHA_BAR[s]) * (math.exp(-h) - 1) * D)
    torch.testing.assert_close(sample(strong(), wavy, x_T, times), x.float(), rtol=1e-4, atol=1e-5)


def test_a_jump_costs_one_evaluation_at_its_start():
    spy = Spy()
    sample(strong(), spy, torch.randn(2, 1, 3, 3), [1, 3, 4, 8])
    assert spy.times == [8, 4, 3, 1]


@pytest.mark.parametrize("times", [[8], [2, 4, 6, 8], list(range(1, 9))])
def test_if_all_data_is_one_point_samples_are_that_point(times):
    x_0 = sample(strong(), point_mass(0.3, STRONG), torch.randn(3, 1, 2, 2), times)
    torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=2e-6)


def test_nothing_is_clipped_drawn_or_kept():
    net, x_T = torch.nn.Conv2d(1, 1, 1), 9 * torch.randn(2, 1, 3, 3)
    state = torch.get_rng_state()
    one, two = (sample(strong(), lambda x, t: net(x), x_T, [2, 4, 6, 8]) for _ in range(2))
    assert one.equal(two) and not one.requires_grad and torch.get_rng_state().equal(state)
    assert sample(strong(), wavy, x_T, [2, 4, 6, 8]).abs().max() > 1
    assert sample(strong(), wavy, torch.randn(5, 2).double(), [4, 8]).dtype == torch.float64
    with pytest.raises(ValueError, match="increasing"):
        sample(strong(), wavy, x_T, [4, 4, 8])


# ---- the order of convergence ----

@pytest.mark.parametrize("m, s", [(0.3, 0.5), (-0.4, 0.2)])
def test_order_2_is_of_second_order_and_order_1_of_first(m, s):
    beta, end = cosine_beta_schedule(2 ** 15, s=0), 7 * 2 ** 12
    ddpm, found = DDPM(beta).double(), {}
    x_0 = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    x_T = carried(coefficients(beta)[1], x_0, end, m, s)
    for each in (1, 2):
        errors = [rms(sample(ddpm, exact(m, s, beta), x_T, even(ddpm, end, S), each) - x_0)
                  for S in (64, 128, 256)]
        found[each] = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert found == {1: pytest.approx([1, 1], abs=0.05), 2: pytest.approx([2, 2], abs=0.12)}


known_orders = functools.cache(converge)                                      # the same every time


def test_the_picture_measures_these_orders():
    known = known_orders()
    orders = {name: order(line) for name, line in known.items()}
    assert list(orders) == ["DDIM", "PNDM", "2M, even in t", "2M, even in lambda", "Heun"]
    for name, expected in (("DDIM", 1), ("PNDM", 2), ("2M, even in lambda", 2), ("Heun", 2)):
        assert orders[name] == pytest.approx(expected, abs=0.06)
    assert 1.3 < orders["2M, even in t"] < 1.8                 # the last steps of lambda stay log 2
    assert known["2M, even in lambda"][256] < known["Heun"][128] < known["DDIM"][256] / 50


# ---- the program ----

def test_the_program_draws_the_picture_and_prints_the_finding(tmp_path, capsys, monkeypatch):
    kept, ddpm, original = [], DDPM(cosine_beta_schedule(64)), dpm_solver.draw_figure
    config = {"image_channels": 1, "image_size": 8, "data": "digits", "data_dir": str(tmp_path)}
    monkeypatch.setattr(dpm_solver, "start", lambda args: ("cpu", "any.pt", config, ddpm, wavy))
    monkeypatch.setattr(dpm_solver, "draw_figure",
                        lambda *args: kept.append(args) or original(*args))
    monkeypatch.setattr(dpm_solver, "converge", known_orders)
    monkeypatch.setattr(dpm_solver, "SEEDS", 2)
    monkeypatch.setattr(dpm_solver, "FINE", 30)
    dpm_solver.main(["--seed", "1", "--n", "3", "--out", str(tmp_path / "d.png")])
    said = capsys.readouterr().out
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG" and "seeds [1, 2]" in said

    (known, found, rows), = kept
    end, net = horizon(ddpm) // 2 * 2, judge.load_reader()
    x_T = [torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
           for seed in (1, 2)]
    solutions = [sample(ddpm, wavy, x, even(ddpm, end, 30)) for x in x_T]
    torch.testing.assert_close(rows["solution, 30"], solutions[0])
    reference = judge.features(net, data.to_model(data.load("digits", 8, split="test")[0]))

    def expected(times, calls, how=sample, **order):
        for x, solution in zip(x_T, solutions, strict=True):
            one, other = (way.clamp(-1, 1) for way in (
                how(ddpm, wavy, x, times, **order),
                ddim.sample(ddpm, wavy, x, subsequence(end, calls), clip=False)))
            away = sorted(judge.apart(a[None], b[None]) for a, b in zip(
                how(ddpm, wavy, x, times, **order), solution, strict=True))
            far, base = (judge.frechet(judge.features(net, way), reference) for way in (one, other))
            yield [away[1], judge.read(net, one)[0].float().mean().item(), far, far - base]

    for name, calls, values in (
            ("DDIM", 10, expected(subsequence(end, 10), 10, order=1)),
            ("PNDM", 20, expected(pndm.even(end, 11), 20, pndm.sample)),
            ("2M, even in t", 5, expected(subsequence(end, 5), 5)),
            ("2M, even in lambda", 20, expected(even(ddpm, end, 20), 20))):
        values = torch.tensor(list(values))
        torch.testing.assert_close(found[name][calls], values, rtol=1e-3, atol=0.01)
        torch.testing.assert_close(found[name][calls][:, :2], values[:, :2], rtol=1e-4, atol=1e-6)
    lines = re.findall(r"^(\S.*?)  +(\d+)" + 4 * r" +(\S+?)%? \+- (\S+?)%?" + "$", said, re.M)
    assert [(name, int(calls)) for name, calls, *_ in lines] == [
        (name, calls) for name, line in found.items() for calls in line]
    for name, calls, *numbers in lines:
        each = found[name][int(calls)].double() * torch.tensor([1, 100, 1, 1])
        spread = torch.stack([each.mean(0), each.std(0)], 1).flatten().tolist()
        assert [float(text) for text in numbers] == pytest.approx(spread, abs=0.06)
    left = original(known, found, rows).axes[0]
    assert [list(line.get_xdata()) for line in left.lines] == [
        [cost(S) for S in (16, 32, 64, 128, 256)] for cost in (
            lambda S: S, lambda S: S + 9, lambda S: S, lambda S: S, lambda S: 2 * S)]
    last = said.splitlines()[-2]
    assert [float(text) for text in re.findall(r"\d+\.\d+", last)] == pytest.approx(
        [*map(order, known.values()), *(line[20][:, 0].mean().item()
                                        for line in found.values())], abs=0.006)


def test_a_chain_that_is_too_short_is_refused(trained, capsys, tmp_path):
    refused(capsys, ["--checkpoint", trained[0], "--out", tmp_path / "d.png"],
            "T = 5 is too short", main=dpm_solver.main)


# ---- with diffusers ----

@pytest.mark.thorough
@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("beta, times", [
    (linear_beta_schedule(), list(range(50, 1001, 50))),
    (linear_beta_schedule(), [1, 30, 100, 300, 600, 950]),
    (cosine_beta_schedule(), [1, 4, 15, 50, 150, 400, 700, 954])],
    ids=["linear", "uneven", "cosine"])
def test_it_agrees_with_the_scheduler_of_diffusers(beta, times, each):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=beta.numpy(), solver_order=each, algorithm_type="dpmsolver++",
        solver_type="midpoint", lower_order_final=False, final_sigmas_type="zero")
    scheduler.set_timesteps(timesteps=[t - 1 for t in reversed(times)])
    x_T = theirs = torch.randn(2, 1, 4, 4)
    for t in scheduler.timesteps:
        theirs = scheduler.step(wavy(theirs, t.expand(2) + 1), t, theirs).prev_sample
    ours = sample(DDPM(beta), wavy, x_T, times, each)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
