"""Consistency functions that are known: of Gaussian data, of one point, and of two modes."""
import math
import re

import pytest
import torch
from stand_ins import noise, refused
from test_ddpm import strong

import data
import sample as core
from ddpm import DDPM
from papers import consistency, ddim
from papers.consistency import consistent, learned_alone, loss, neighbours, sample
from papers.kit import judge, training
from papers.kit.analytic import Mixture, follow_gaussian
from papers.kit.chain import first_noise, horizon, subsequence
from papers.kit.judge import rms
from schedules import cosine_beta_schedule

M, STD = 0.3, 0.5


def chain(T=64):
    return DDPM(cosine_beta_schedule(T)).double()


def gaussian(ddpm):
    """The perfect network for data N(M, STD^2), and its consistency function."""
    def f(x_t, t):
        t = torch.as_tensor(t).expand(len(x_t)).tolist()
        return torch.stack([follow_gaussian(ddpm, x, time, 0, M, STD)
                            for x, time in zip(x_t, t, strict=True)])
    return Mixture(ddpm, torch.full((1, 1), M), STD), f


# ---- what a consistency function is ----

def test_at_time_0_it_is_the_identity_whatever_the_network():
    f, x = consistent(strong(), lambda x_t, t: 1e6 * torch.ones_like(x_t)), torch.randn(3, 1, 2, 2)
    assert torch.equal(f(x, 0), x)
    assert torch.equal(f(x, torch.tensor([0, 5, 0]))[[0, 2]], x[[0, 2]])
    assert f(x, torch.tensor([0, 5, 0]))[1].abs().min() > 1e5


def test_the_network_says_v():
    """Salimans & Ho 2022: v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 gives x_0 back."""
    ddpm, (x_0, eps) = chain(), torch.randn(2, 5, 1, 3, 3).double()
    t = torch.tensor([0, 1, 9, 40, 64])
    a = ddpm.alpha_bar[t].reshape(-1, 1, 1, 1)

    def F(x_t, time):
        assert torch.equal(time, t) and time.dtype == torch.int64
        return a.sqrt() * eps - (1 - a).sqrt() * x_0
    torch.testing.assert_close(consistent(ddpm, F)(ddpm.q_sample(x_0, t, eps), t), x_0)


# ---- the losses ----

def test_on_gaussian_data_the_loss_is_0_at_the_ends_of_the_paths_and_nowhere_else():
    ddpm, (eps, x_0) = chain(), torch.randn(2, 40, 1, generator=noise()).double()
    f, t, s = gaussian(ddpm)[1], 40, 30
    x_t = ddpm.q_sample(M + STD * x_0, t, eps)
    x_s = follow_gaussian(ddpm, x_t, t, s, M, STD)
    assert loss(f, x_t, t, x_s, s).item() == pytest.approx(0, abs=1e-25)
    for other in (lambda x_t, t: f(x_t, t) + t / 1000, lambda x_t, t: (1 + t / 1000) * f(x_t, t)):
        assert loss(other, x_t, t, x_s, s) > 1e-6


def test_the_loss_is_a_mean_square_and_moves_only_the_noisier_end():
    at_t, at_s = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    value = loss(lambda x, t: {5: 3, 4: 2}[t] * x, at_t, 5, at_s, 4)
    assert value.item() == pytest.approx((1 + 4) / 2)
    value.backward()
    assert at_s.grad is None and at_t.grad.tolist() == pytest.approx([3, 6])


def test_the_jump_of_a_perfect_network_is_the_mean_of_the_neighbours_without_one():
    """Of three points: E[x_s | x_t], by Bayes' rule."""
    ddpm, points = chain(), torch.tensor([[-1.0], [0.2], [0.9]]).double()
    model, t, s, x = Mixture(ddpm, points), torch.tensor([20]), torch.tensor([12]), 0.1
    a = ddpm.alpha_bar[20]
    eps = (x - a.sqrt() * points) / (1 - a).sqrt()
    parts = [neighbours(ddpm, point[None], t, s, e[None])
             for point, e in zip(points, eps, strict=True)]
    share = (-eps[:, 0] ** 2 / 2).softmax(0)
    for point, e in zip(points, eps, strict=True):
        x_t, x_s = neighbours(ddpm, point[None], t, s, e[None], model)
        torch.testing.assert_close(x_t, torch.full_like(x_t, x))
        torch.testing.assert_close(x_s, sum(p * w for (_, p), w in zip(parts, share, strict=True)))
        torch.testing.assert_close(x_s, ddim.step(ddpm, model, x_t, 20, 12, clip=False))


def test_neighbours_have_times_of_their_own():
    ddpm, (x_0, eps) = strong(), torch.randn(2, 3, 1, 2, 2)
    t, s = torch.tensor([1, 8, 4]), torch.tensor([0, 5, 1])
    x_t, x_s = neighbours(ddpm, x_0, t, s, eps)
    for i in range(3):
        for found, time in ((x_t, t[i]), (x_s, s[i])):
            torch.testing.assert_close(found[i], ddpm.q_sample(x_0[i:i + 1], time.item(),
                                                               eps[i:i + 1])[0])
    torch.testing.assert_close(x_s[0], x_0[0])


# ---- what is learned ----

@pytest.mark.parametrize("n", [1, 3, 16])
def test_on_gaussian_data_both_learn_a_line_with_the_correlations_as_slope(n):
    """f_{n+1} = E[f_n(x_s) | x_t]: each step multiplies the slope by cov(x_s, x_t) / var(x_t)."""
    ddpm, x, slope = chain(), torch.linspace(-2, 2, 9).double()[:, None], 1
    times = subsequence(horizon(ddpm), n)
    for s, t in zip([0, *times], times, strict=False):
        a_t, a_s = ddpm.exact.alpha_bar[[t, s]].tolist()
        slope *= ((math.sqrt(a_t * a_s) * STD ** 2 + math.sqrt((1 - a_t) * (1 - a_s)))
                  / (a_t * STD ** 2 + 1 - a_t))
    line = M + slope * (x - math.sqrt(ddpm.exact.alpha_bar[times[-1]]) * M)
    model, f = gaussian(ddpm)
    torch.testing.assert_close(learned_alone(model, x, times), line)
    torch.testing.assert_close(ddim.sample(ddpm, model, x, times, clip=False), line)
    if n == 16:                                      # and the more times, the nearer to the ODE
        last = rms(line - f(x, times[-1]))
        fewer = learned_alone(model, x, subsequence(horizon(ddpm), 8))
        assert 1.8 < rms(fewer - f(x, times[-1])) / last < 2.4


def test_alone_it_learns_with_one_time_the_mean_of_the_data_and_with_more_the_mean_of_f():
    """The mean over x_0, given x_t, by a sum over a grid: the density times that of the noise."""
    ddpm, t, s = chain(), 40, 25
    mixture = Mixture(ddpm, torch.tensor([[-0.8], [0.8]]), 0.3, [0.3, 0.7])
    x_t = torch.linspace(-3, 3, 13).double()[:, None]
    torch.testing.assert_close(learned_alone(mixture, x_t, [t]),
                               ddpm.predict_x_0(x_t, t, mixture(x_t, t)), rtol=1e-4, atol=1e-4)
    x_0 = torch.linspace(-3, 3, 3001).double()[:, None]
    a, a_s = ddpm.exact.alpha_bar[[t, s]]
    eps = (x_t.T - a.sqrt() * x_0) / (1 - a).sqrt()                          # (3001, 13)
    share = (mixture.log_density(x_0, 1, 0)[:, None] - eps ** 2 / 2).softmax(0)
    x_s = (a_s.sqrt() * x_0 + (1 - a_s).sqrt() * eps).reshape(-1, 1)
    f = ddpm.predict_x_0(x_s, s, mixture(x_s, s)).reshape(eps.shape)
    torch.testing.assert_close(learned_alone(mixture, x_t, [s, t])[:, 0], (share * f).sum(0),
                               rtol=1e-4, atol=1e-4)


def test_the_line_has_the_ends_of_the_ode_to_which_both_come_nearer_as_n_grows():
    """The flow of one dimension keeps the share of the data that is below."""
    x_T, exact, learned = consistency.line()
    a = DDPM(cosine_beta_schedule()).exact.alpha_bar
    a = a[horizon(DDPM(cosine_beta_schedule()))]

    def below(x, a):
        std = (a * 0.1 ** 2 + 1 - a).sqrt()
        return sum(torch.special.ndtr((x - a.sqrt() * mu) / std) for mu in (-0.8, 0.8)) / 2
    torch.testing.assert_close(below(exact, torch.ones_like(a)), below(x_T, a), rtol=0, atol=0.01)
    errors = {how: [rms(f - exact) for f in each.values()] for how, each in learned.items()}
    assert list(learned["alone"]) == list(learned["distilled"]) == [4, 8, 16, 32, 64]
    for line in errors.values():
        assert all(later < earlier / 1.3 for earlier, later in zip(line, line[1:], strict=False))
    assert all(near < far for near, far in zip(*errors.values(), strict=True))
    assert math.log2(errors["distilled"][-2] / errors["distilled"][-1]) == pytest.approx(1, abs=0.1)


# ---- Algorithm 1 ----

def test_sampling_goes_to_the_end_and_adds_noise_of_the_next_time():
    ddpm, asked = strong(), []

    def f(x_t, t):
        asked.append((t, x_t))
        return 0.1 * x_t
    x_T = torch.randn(2, 1, 3, 3)
    x_0 = sample(ddpm, f, x_T, [2, 5, 8], noise(4))
    generator = noise(4)
    z = [torch.randn(x_T.shape, generator=generator) for _ in range(2)]
    at_5 = ddpm.q_sample(0.1 * x_T, 5, z[0])
    at_2 = ddpm.q_sample(0.1 * at_5, 2, z[1])
    assert [t for t, _ in asked] == [8, 5, 2]
    for (_, found), expected in zip(asked, (x_T, at_5, at_2), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(x_0, 0.1 * at_2)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_samples_of_gaussian_data_have_its_mean_and_spread_with_any_number_of_steps(steps):
    ddpm = chain()
    x_T = torch.randn(1500, 1, generator=noise()).double()
    x_T = x_T - x_T.mean()
    times = subsequence(horizon(ddpm), steps)
    x_0 = sample(ddpm, gaussian(ddpm)[1], x_T / x_T.std(), times, noise(1))
    assert x_0.mean().item() == pytest.approx(M, abs=0.06)
    assert x_0.std().item() == pytest.approx(STD, abs=0.04)


# ---- training and the program ----

@pytest.mark.parametrize("guided", [True, False])
def test_a_step_of_training_takes_neighbours_from_a_grid_that_grows(guided, monkeypatch):
    ddpm, asked, pairs, original = DDPM(cosine_beta_schedule(64)), [], [], neighbours

    def keep(*args):
        pairs.append((*args[2:4], args[5]))
        return original(*args)
    monkeypatch.setattr(consistency, "NUMBERS", (2, 5))
    monkeypatch.setattr(consistency, "neighbours", keep)

    def F(x_t, t):
        asked.append((x_t, t))
        return 0.3 * x_t
    teacher = (lambda x_t, t: 0.1 * x_t) if guided else None
    of, x_0 = consistency.objective(ddpm, 6, teacher), torch.ones(200, 1, 1, 1)
    for step in range(6):
        value = of(F, x_0, None)
        (t, s, told), tau = pairs[-1], [0, *subsequence(horizon(ddpm), 2 if step < 4 else 5)]
        assert told is teacher
        assert set(zip(s.tolist(), t.tolist(), strict=True)) == set(zip(tau, tau[1:], strict=False))
        (x_s, at_s), (x_t, at_t) = asked[-2:]
        assert torch.equal(at_s, s) and torch.equal(at_t, t)
        f = consistent(ddpm, lambda x_t, t: 0.3 * x_t)
        torch.testing.assert_close(value, (f(x_t, t) - f(x_s, s)).square().mean())


TINY = {"channels": 4, "channel_mults": (1,), "attention_resolutions": ()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of `train`, of 40 digits, and the teachers and numbers of steps it was made with."""
    path, asked, objective = tmp_path_factory.mktemp("c") / "c.pt", [], consistency.objective
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "digits", lambda size, seed, digits=data.digits: digits(size, 40, seed))
        patch.setattr(consistency, "SMALLER", TINY)
        patch.setattr(consistency, "objective",
                      lambda *args: (asked.append(args), objective(*args))[1])
        consistency.main(["train", "--steps", "3", "--checkpoint", str(path), "--device", "cpu"])
    return path, asked


def test_train_writes_two_networks_one_of_them_distilled_from_the_digits_that_ship(made):
    path, asked = made
    config, networks = training.load_fit(path, "cpu", consistency.network)
    assert {name: config[name] for name in TINY} == TINY
    assert list(networks) == ["distilled", "alone"]
    assert [(steps, teacher is None) for _, steps, teacher in asked] == [(3, False), (3, True)]
    shipped = core.load(core.SHIPPED)[2].state_dict()
    assert all(torch.equal(weight, shipped[name])
               for name, weight in asked[0][2].state_dict().items())
    for F in networks.values():
        assert F.conv_out.bias.abs().max() > 0       # each was trained


def test_the_program_draws_by_all_methods_from_one_noise_and_prints_what_it_draws(
        made, tmp_path, capsys, monkeypatch):
    kept, original = [], consistency.draw_figure
    monkeypatch.setattr(consistency, "draw_figure",
                        lambda *args: kept.append(args) or original(*args))
    monkeypatch.setattr(consistency, "SEEDS", 2)
    monkeypatch.setattr(consistency, "BUDGETS", (1, 2))
    out = tmp_path / "c.png"
    consistency.main(["--checkpoint", str(made[0]), "--n", "3", "--seed", "1", "--device", "cpu",
                      "--out", str(out)])
    said, (*_, found, rows) = capsys.readouterr().out, kept[0]
    assert out.read_bytes()[:4] == b"\x89PNG" and "seeds [1, 2]" in said
    networks, (_, ddpm, teacher) = (training.load_fit(made[0], "cpu", consistency.network)[1],
                                    core.load(core.SHIPPED))
    net, end = judge.load_reader(), horizon(ddpm)
    reference = judge.features(net, data.to_model(data.load("digits", 16, split="test")[0]))
    for seed in (1, 2):
        x_T, generator = first_noise(seed, (3, 1, 16, 16), "cpu")
        z = torch.randn(x_T.shape, generator=generator)
        f = consistent(ddpm, networks["alone"])
        first = f(x_T, end)
        drawn = {("DDIM", 2): ddim.sample(ddpm, teacher, x_T, subsequence(end, 2), clip=False),
                 ("alone", 1): first,
                 ("alone", 2): f(ddpm.q_sample(first, end // 2, z), end // 2),
                 ("distilled", 1): consistent(ddpm, networks["distilled"])(x_T, end)}
        for (name, calls), x in drawn.items():
            x = x.clamp(-1, 1)
            expected = [judge.read(net, x)[0].float().mean().item(),
                        judge.frechet(judge.features(net, x), reference)]
            assert found[name][calls - 1, seed - 1].tolist() == pytest.approx(expected, rel=1e-3)
            if seed == 1:
                torch.testing.assert_close(rows[f"{name}, {calls}"], x, rtol=1e-4, atol=1e-4)
    lines = re.findall(r"^(\w+) +(\d) evaluations: +(\S+)% \+- (\S+)% recognised, Frechet "
                       r"distance (\S+) \+- (\S+)$", said, re.M)
    assert [line[:2] for line in lines] == [(name, k) for name in found for k in "12"]
    for name, calls, *numbers in lines:
        each = found[name][int(calls) - 1] * torch.tensor([100, 1])
        spread = torch.stack([each.mean(0), each.std(0)], 1).flatten().tolist()
        assert [float(number) for number in numbers] == pytest.approx(spread, abs=0.51)
    last, (_, exact, learned, *_) = said.splitlines()[-2], kept[0]
    assert [(name, float(far)) for far, name in re.findall(r"(\S+) \((\w+)\)", last)] == [
        (how, pytest.approx(rms(each[64] - exact), abs=6e-4)) for how, each in learned.items()]


def test_wrong_arguments_end_in_one_line(trained, capsys):
    refused(capsys, ["train", "--steps", "0"], "must be in 1..", main=consistency.main)
    refused(capsys, ["--checkpoint", trained[0]], "consistency train", main=consistency.main)


def test_the_shipped_networks_draw_in_one_evaluation_what_ddim_does_not():
    assert consistency.SHIPPED.stat().st_size < 1.7e6
    config, networks = training.load_fit(consistency.SHIPPED, "cpu", consistency.network)
    assert {name: config[name] for name in consistency.SMALLER} == consistency.SMALLER
    _, ddpm, teacher = core.load(core.SHIPPED)
    net, end = judge.load_reader(), horizon(ddpm)
    reference = judge.features(net, data.to_model(data.load("digits", 16, split="test")[0]))
    x_T, _ = first_noise(7, (64, 1, 16, 16), "cpu")

    def far(x):
        return judge.frechet(judge.features(net, x.clamp(-1, 1)), reference)
    by_ddim = ddim.sample(ddpm, teacher, x_T, [end], clip=False)
    for F in networks.values():
        x = sample(ddpm, consistent(ddpm, F), x_T, [end])
        assert far(x) < far(by_ddim) / 2
        assert judge.read(net, x.clamp(-1, 1))[0].float().mean() > 0.55
