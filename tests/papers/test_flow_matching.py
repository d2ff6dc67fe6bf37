"""Flows whose velocity is known: a DDPM is one, its paths are quantiles, and reflow makes lines."""
import math
import re

import numpy as np
import pytest
import torch
from stand_ins import awake, noise
from test_ddpm import point_mass

import data
import sample as core
from ddpm import DDPM
from papers import ddim, flow_matching
from papers.edm import denoiser
from papers.flow_matching import (MIXTURE, STEPS, euler, flow, loss, marginal, on_the_line,
                                  straightened, straightness, velocity)
from papers.kit import judge
from papers.kit.analytic import Mixture, ve_sigmas
from papers.kit.chain import ask, horizon
from papers.kit.judge import rms
from papers.kit.ode import heun_method
from papers.kit.program import held_out
from papers.kit.training import load_fit
from schedules import cosine_beta_schedule, linear_beta_schedule

MEANS, STDS, PARTS = (t.double() for t in (
    torch.tensor([-0.7, 0.5]), torch.tensor([0.1, 0.2]), torch.tensor([0.4, 0.6])))
TINY = {"image_size": 8, "image_channels": 1, "channels": 4, "channel_mults": (1,),
        "num_res_blocks": 1, "attention_resolutions": (), "dropout": 0.0}


def wavy(x_t, t):
    return torch.tanh(x_t) + 0.1 * torch.sin(t / 7).reshape(-1, *[1] * (x_t.dim() - 1))


def time_of(ddpm, t):
    """The flow's time of a time of the chain: sigma = t / (1 - t)."""
    sigma = ve_sigmas(ddpm.exact)[t].item()
    return sigma / (1 + sigma)


# ---- a DDPM is a flow ----

@pytest.mark.parametrize("beta", [cosine_beta_schedule(64), linear_beta_schedule()])
@pytest.mark.filterwarnings("ignore:alpha_bar_T")
def test_the_ddpm_of_a_mixture_is_its_flow(beta):
    ddpm = DDPM(beta).double()
    mixture = Mixture(ddpm, MEANS[:, None], STDS, PARTS)
    v = flow(denoiser(ddpm, lambda x_t, t: mixture(x_t, t.round().long())))
    x = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    for t in (1, 2, ddpm.T // 4, ddpm.T // 2, ddpm.T - 4):
        s = time_of(ddpm, t)
        assert ddpm.exact.alpha_bar[t].item() == pytest.approx(
            (1 - s) ** 2 / ((1 - s) ** 2 + s ** 2))
        torch.testing.assert_close(v(x, s), marginal(mixture)(x, s), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0.02, 0.4, 0.9, 1.0])
def test_its_velocity_is_the_mean_of_all_lines_through_a_point(t):
    x_0 = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    prior = (PARTS / STDS * torch.exp(-((x_0[:, None] - MEANS) / STDS) ** 2 / 2)).sum(1)
    for x in (-1.3, -0.2, 0.1, 0.8):
        x_T = (x - (1 - t) * x_0) / t                # the end of the line through x
        weight = prior * torch.exp(-x_T ** 2 / 2)
        expected = (weight * (x_T - x_0)).sum() / weight.sum()
        found = marginal(MIXTURE)(torch.tensor([[x]]).double(), t)
        torch.testing.assert_close(found[0, 0], expected, rtol=1e-6, atol=1e-6)


def test_euler_on_it_is_ddim_at_the_same_times():
    ddpm, times = DDPM(cosine_beta_schedule(64)), [3, 9, 20, 50]
    ts = [*(time_of(ddpm, t) for t in reversed(times)), 0.0]
    x_T = torch.randn(2, 1, 3, 3)
    x_0, _ = euler(flow(denoiser(ddpm, wavy)), x_T * math.hypot(ts[0], 1 - ts[0]), ts)
    expected = ddim.sample(ddpm, lambda x, t: wavy(x, t.float()), x_T, times, clip=False)
    torch.testing.assert_close(x_0, expected, rtol=1e-4, atol=1e-4)


def test_if_all_data_is_one_point_samples_are_that_point_in_one_step():
    beta = cosine_beta_schedule(8)
    model = point_mass(0.3, beta)
    v = flow(denoiser(DDPM(beta), lambda x_t, t: model(x_t, t.round().long())))
    for steps in (1, 4):
        t = [time_of(DDPM(beta), k) for k in (6, 4, 3, 2)][:steps]
        x_0, _ = euler(v, torch.randn(2, 1, 3, 3), [*t, 0.0])
        torch.testing.assert_close(x_0, torch.full_like(x_0, 0.3), rtol=0, atol=1e-5)


# ---- Euler's method, reflow on the line ----

def test_euler_asks_once_a_step_at_its_beginning_and_says_the_velocities():
    asked = []

    def v(x, t):
        asked.append(t)
        return x + t
    x, velocities = euler(v, torch.tensor([[2.0]]), [1.0, 0.25, 0.0])
    assert asked == [1, 0.25]                        # by hand: 2 - 0.75 * 3, then - 0.25 * 0
    assert velocities.flatten().tolist() == [3, 0] and x.item() == -0.25


def test_straightness_is_the_mean_square_of_what_velocities_are_off_the_line():
    v, x_T, times = (lambda x, t: torch.sin(3 * x) + t), torch.randn(5, 1, 2, 2), [1, 0.75, 0.5]
    x, velocities = euler(v, x_T, [*times, 0.25, 0.0])
    expected = sum(rms(each - (x_T - x)) ** 2 for each in velocities) / 4
    assert straightness(velocities) == pytest.approx(expected, rel=1e-5) and expected > 0.1
    assert straightness(velocities[:1].repeat(4, 1, 1, 1, 1)) == 0


def test_paths_take_noise_to_the_same_quantiles_of_the_data():
    x_T, x_0, _ = on_the_line()
    Phi = torch.distributions.Normal(0, 1).cdf
    torch.testing.assert_close((PARTS * Phi((x_0 - MEANS) / STDS)).sum(1, keepdim=True), Phi(x_T),
                               rtol=0, atol=1e-7)


def test_reflow_gives_each_point_the_velocity_of_the_pair_whose_line_goes_through_it():
    x_T, x_0, flows = on_the_line()
    for t in (1.0, 0.6, 0.1):
        torch.testing.assert_close(flows["reflow"]((1 - t) * x_0 + t * x_T, t), x_T - x_0)
    middle = (x_T[1:] + x_T[:-1]) / 2, (x_0[1:] + x_0[:-1]) / 2
    torch.testing.assert_close(straightened(x_T, x_0)(middle[0], 1.0), middle[0] - middle[1])


@pytest.mark.parametrize("times", [[1, 0], [1, 0.3, 0], np.linspace(1, 0, 8).tolist()])
def test_on_the_line_one_step_is_exact_after_reflow_and_far_off_before(times):
    x_T, x_0, flows = on_the_line()
    ends, velocities = euler(flows["reflow"], x_T, times)
    torch.testing.assert_close(ends, x_0, rtol=0, atol=1e-13)
    assert straightness(velocities) < 1e-26
    before, velocities = euler(flows["flow"], x_T, np.linspace(1, 0, len(times)).tolist())
    assert rms(before - x_0) > 0.05
    if len(times) > 2:
        assert straightness(velocities) > 0.05
    else:                                            # from one time all go to the mean of the data
        torch.testing.assert_close(before, torch.full_like(before, (PARTS * MEANS).sum()))


# ---- the loss ----

def test_the_loss_is_of_the_lines_between_pairs_at_all_times():
    x_0, x_T, seen = torch.randn(4000, 1, 2, 2), torch.randn(4000, 1, 2, 2), []

    def v(x, t):
        seen.append((x, t))
        return torch.full_like(x, 0.5)
    found = loss(v, x_0, x_T)
    torch.testing.assert_close(found, (x_T - x_0 - 0.5).square().mean())
    (x, t), = seen
    assert t.shape == (4000, 1, 1, 1)
    torch.testing.assert_close(x, x_0 + t * (x_T - x_0))
    counts = torch.histc(t, 4, 0, 1)
    assert counts.sum() == 4000 and (counts - 1000).abs().max() < 5 * 28


def test_what_is_off_the_mean_velocity_costs_its_square_more():
    """Theorem 2 of Lipman et al.: the lines can stand for their mean."""
    n, v = 100_000, marginal(MIXTURE)
    x_0, x_T = MIXTURE.draw(n, noise(5))[0].double(), torch.randn(n, 1).double()
    for off in (lambda x, t: torch.sin(4 * x), lambda x, t: 0.3 + x * t):
        torch.manual_seed(1)
        least = loss(v, x_0, x_T)
        torch.manual_seed(1)
        more = loss(lambda x, t: v(x, t) + off(x, t), x_0, x_T)              # noqa: B023
        torch.manual_seed(1)
        square = loss(lambda x, t: x_T - x_0 + off(x, t), x_0, x_T)          # noqa: B023
        assert (more - least).item() == pytest.approx(square.item(), abs=0.015)


def test_a_network_is_told_1000_t_for_each_image():
    asked = []
    v = velocity(lambda x, t: asked.append(t) or x.bfloat16())
    x, t = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1, 1)
    assert v(x, 0.25).dtype == torch.float32
    v(x, t)
    assert asked[0].tolist() == [250, 250, 250] and asked[1].tolist() == [100, 500, 900]


# ---- training and the program ----

def test_training_goes_on_from_the_flow_with_pairs_of_its_own_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(flow_matching, "CONFIG", TINY)
    monkeypatch.setattr(flow_matching, "PAIRS", 6)
    calls, original = [], flow_matching.fit

    def spy(model, loss, x, labels, steps, label):
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        ema = original(model, loss, x, labels, steps, batch_size=4, label=label)
        awake(ema)                                   # so that its paths lead somewhere
        calls.append((before, loss, x, labels, steps, ema))
        return ema
    monkeypatch.setattr(flow_matching, "fit", spy)
    path = tmp_path / "f.pt"
    flow_matching.main(["train", "--steps", "3", "--checkpoint", str(path), "--device", "cpu"])
    (_, on_data, x, _, _, ema), (before, on_pairs, x_0, i, steps, again) = calls
    assert steps == 3 and x.equal(data.load("digits", 8)[0]) and i.tolist() == list(range(6))
    for name, weight in ema.state_dict().items():
        assert before[name].equal(weight)
    config, nets = load_fit(path, "cpu", flow_matching.network)
    for net, kept in (nets["flow"], ema), (nets["reflow"], again):
        for one, two in zip(net.parameters(), kept.parameters(), strict=True):
            assert one.equal(two)
    assert not nets["flow"].conv_out.weight.equal(nets["reflow"].conv_out.weight)

    lines = []                                       # of which noise does it say an image came?

    class Spy(torch.nn.Module):
        def forward(self, x, t):
            lines.append((x, t))
            return torch.zeros_like(x)
    images = data.to_model(x_0)
    for which in (on_pairs, lambda model, x_0, i: on_data(model, x_0, i)):
        lines.clear()
        which(Spy(), images, i)
        (x, t), = lines
        s = (t / 1000).reshape(-1, 1, 1, 1)
        x_T = (x - (1 - s) * images) / s
        ends = heun_method(velocity(nets["flow"]), x_T, 1, 0, 10).clamp(-1, 1)
        near = rms(ends - images) < 0.02
        assert near == (which is on_pairs)           # images are of 8 bits, and s may be small


def test_the_networks_that_ship_draw_in_one_step_only_after_reflow():
    _, nets = load_fit(flow_matching.SHIPPED, "cpu", flow_matching.network)
    x_T, apart, S = torch.randn(16, 1, 16, 16, generator=noise()), {}, {}
    for name, net in nets.items():
        once, _ = euler(velocity(net), x_T, [1.0, 0.0])
        often, velocities = euler(velocity(net), x_T, np.linspace(1, 0, 11).tolist())
        apart[name], S[name] = judge.apart(once, often), straightness(velocities)
    assert apart["reflow"] < apart["flow"] / 2 and S["reflow"] < S["flow"] / 4


def test_the_program_draws_the_picture_and_prints_the_finding(tmp_path, capsys, monkeypatch):
    kept, original = [], flow_matching.draw_figure
    monkeypatch.setattr(flow_matching, "draw_figure",
                        lambda *args: kept.append(args) or original(*args))
    monkeypatch.setattr(flow_matching, "SEEDS", 2)
    monkeypatch.setattr(flow_matching, "STEPS", (1, 2, 5))
    flow_matching.main(["--seed", "1", "--n", "3", "--device", "cpu", "--out",
                        str(tmp_path / "f.png")])
    said = capsys.readouterr().out
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG" and "seeds [1, 2]" in said
    (_, _, found, rows), = kept
    assert list(found) == ["DDPM", "flow", "reflow"] and STEPS == (1, 2, 5, 10, 20)
    _, nets = load_fit(flow_matching.SHIPPED, "cpu", flow_matching.network)
    net = judge.load_reader()
    config = {"data": "digits", "image_size": 16, "image_channels": 1, "data_dir": tmp_path}
    reference = judge.features(net, data.to_model(held_out(config)[0]))
    for k in (0, 1):
        x_T = torch.randn(3, 1, 16, 16, generator=noise(1 + k))
        for name in nets:
            for n in (1, 5):
                x, velocities = euler(velocity(nets[name]), x_T, np.linspace(1, 0, n + 1).tolist())
                x = x.clamp(-1, 1)
                S, share, far = found[name][n][k].tolist()
                assert S == pytest.approx(straightness(velocities), rel=1e-3, abs=1e-9)
                assert share == pytest.approx(judge.read(net, x)[0].float().mean().item())
                assert far == pytest.approx(judge.frechet(judge.features(net, x), reference),
                                            rel=0.01)
                if k == 0:
                    torch.testing.assert_close(rows[f"{name}, {n}"], x, rtol=1e-4, atol=1e-4)
    _, ddpm, model = core.load(core.SHIPPED)          # whose first step is x_0_hat
    x_T = torch.randn(3, 1, 16, 16, generator=noise(1))
    t = horizon(ddpm)
    x_0_hat = ddpm.predict_x_0(x_T, t, ask(model, x_T, t)).clamp(-1, 1)
    torch.testing.assert_close(rows["DDPM, 1"], x_0_hat, rtol=1e-3, atol=1e-3)
    lines = re.findall(r"^(\w+) +(\d+)" + 2 * r" +(\S+?)%? \+- (\S+?)%?" + "$", said, re.M)
    assert [(name, int(n)) for name, n, *_ in lines] == [
        (name, n) for name in found for n in (1, 2, 5)]
    for name, n, *numbers in lines:
        each = found[name][int(n)][:, 1:].double() * torch.tensor([100, 1])
        spread = torch.stack([each.mean(0), each.std(0)], 1).flatten().tolist()
        assert [float(text) for text in numbers] == pytest.approx(spread, abs=0.06)
    last = re.findall(r"(\S+) \+- (\S+) \(", said.splitlines()[-2])
    assert [tuple(map(float, pair)) for pair in last] == [pytest.approx(
        (each[5][:, 0].mean().item(), each[5][:, 0].std().item()), abs=6e-5)
        for each in found.values()]
