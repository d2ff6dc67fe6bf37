"""Ideal networks against sums over all sentences; masked diffusion against its whole chain."""
import math
import re
from fractions import Fraction
from functools import partial
from itertools import product

import pytest
import torch
from stand_ins import noise
from test_ddpm import STRONG, coefficients, strong

from ddpm import DDPM
from papers import bits
from papers.bits import (CODES, KINDS, WORDS, bit_loss, bit_network, closed_form, draw_figure, fit,
                         generate, ideal_bits, ideal_words, judge, mask_loss, reverse, unmask,
                         word_network)
from papers.kit.analytic import Mixture
from schedules import cosine_beta_schedule

_, ALPHA_BAR = coefficients(STRONG)
STEP = {t: (ALPHA_BAR[t] ** 0.5, (1 - ALPHA_BAR[t]) ** 0.5) for t in range(9)}


# ---- sentences ----

def test_a_code_is_the_three_words_in_binary():
    assert len({tuple(words) for words in WORDS.tolist()}) == 256
    for words, code in zip(WORDS.tolist(), CODES.tolist(), strict=True):
        a, b, c = words
        assert c == (a + b) % 16
        assert code == [2 * int(digit) - 1 for digit in f"{a:04b}{b:04b}{c:04b}"]


def test_the_judge_counts_valid_sentences_and_how_many_they_amount_to():
    assert judge(WORDS[7:8].expand(5, 3)) == (1, 1)
    wrong = WORDS[:64] + torch.tensor([0, 0, 1])                             # 15 + 1 is no word
    assert judge(torch.cat([WORDS[:64], WORDS[:64], wrong])) == (
        pytest.approx(2 / 3), pytest.approx(128 * 127 / 128))
    i = torch.multinomial(torch.tensor([4.0, 3, 2, 1] + [0] * 252), 4000, True, generator=noise())
    assert judge(WORDS[i])[1] == pytest.approx(1 / 0.3, rel=0.03)            # 0.16 + ... + 0.01
    for n in (500, 20_000):                                                  # whatever n is
        i = torch.randint(256, (n,), generator=noise(1))
        assert judge(WORDS[i])[1] == pytest.approx(256, rel=4 * 256 / n + 0.01)


# ---- analog bits ----

@pytest.mark.parametrize("p", [0.5, 0.1, 0.99])
def test_of_one_bit_the_ideal_network_is_a_tanh(p):
    f = partial(ideal_bits, Mixture(strong(), torch.tensor([[1.0], [-1.0]]), weights=[p, 1 - p]))
    for t, x in product((1, 4, 8), (-2.0, -0.1, 0.0, 1.5)):
        root, b = STEP[t][0], 1 - ALPHA_BAR[t]
        expected = math.tanh(root * x / b + math.log(p / (1 - p)) / 2)
        x_t = torch.tensor([[x]])
        assert f(x_t, 99 + x_t, torch.tensor([t])).item() == pytest.approx(expected, abs=1e-6)


def test_of_sentences_it_is_the_mean_of_their_codes_by_bayes():
    x_t, t = torch.randn(4, 12), torch.tensor([2, 8, 5, 3])
    found = ideal_bits(Mixture(strong(), CODES), x_t, None, t)
    for x, time, row in zip(x_t.tolist(), t.tolist(), found.tolist(), strict=True):
        root, std = STEP[time]
        weights = [math.exp(-sum((y - root * bit) ** 2 for y, bit in zip(x, code, strict=True))
                            / (2 * std ** 2)) for code in CODES.tolist()]
        mean = [sum(w * code[i] for w, code in zip(weights, CODES.tolist(), strict=True))
                / sum(weights) for i in range(12)]
        assert row == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("S", [1, 3, 8])
def test_generate_walks_by_ddim_and_tells_f_its_last_estimate(S):
    asked, ddpm = [], strong()

    def f(x_t, x_0_hat, t):
        assert t.shape == (5,) and t.dtype == torch.int64 and len(t.unique()) == 1
        asked.append((x_t, x_0_hat, t[0].item()))
        return torch.tanh(3 * x_t)

    words, x_t, last = generate(ddpm, f, 5, S, noise()), torch.randn(5, 12, generator=noise()), 0
    times = [8 * i // S for i in range(S, -1, -1)]
    assert [t for *_, t in asked] == times[:-1]
    for (seen, estimate, t), s in zip(asked, times[1:], strict=True):
        torch.testing.assert_close(seen, x_t, rtol=1e-4, atol=1e-4)
        assert torch.equal(estimate, last + torch.zeros(5, 12))
        last = torch.tanh(3 * seen)
        eps = (seen - STEP[t][0] * last) / STEP[t][1]
        x_t = STEP[s][0] * last + STEP[s][1] * eps
    for sentence, x_0 in zip(words.tolist(), x_t.tolist(), strict=True):
        digits = "".join("01"[x > 0] for x in x_0)
        assert sentence == [int(digits[i:i + 4], 2) for i in (0, 4, 8)]


def test_the_ideal_network_is_right_by_chance_in_one_step_and_draws_the_data_in_ten():
    ddpm = DDPM(cosine_beta_schedule())
    f = partial(ideal_bits, Mixture(ddpm, CODES))
    one, ten = (judge(generate(ddpm, f, 2000, S, noise(S))) for S in (1, 10))
    assert one[0] == pytest.approx(1 / 16, abs=4 * (1 / 16 * 15 / 16 / 2000) ** 0.5)
    assert ten[0] > 0.999 and ten[1] == pytest.approx(256, rel=0.05)


def test_training_shows_half_of_the_batch_an_estimate_with_no_gradient_through_it():
    ddpm, seen, x_0 = strong(), [], CODES[:6]
    w = torch.tensor(0.7, requires_grad=True)

    def f(x_t, x_0_hat, t):
        seen.append((x_t, x_0_hat.clone(), t))
        return w * (x_t + 2 * x_0_hat)

    torch.manual_seed(5)
    loss = bit_loss(ddpm, f, x_0)
    loss.backward()
    (first, zeros, _), (x_t, x_0_hat, t) = seen
    torch.manual_seed(5)
    times = torch.randint(1, 9, (6,))
    assert torch.equal(t, times) and torch.equal(first, x_t[:3]) and not zeros.any()
    eps, (root, std) = torch.randn(6, 12), torch.tensor([STEP[i] for i in t.tolist()]).T[:, :, None]
    torch.testing.assert_close(x_t, root * x_0 + std * eps)
    assert torch.equal(x_0_hat, torch.cat([0.7 * x_t[:3], torch.zeros(3, 12)]))
    off, part = w.item() * (x_t + 2 * x_0_hat) - x_0, x_t + 2 * x_0_hat
    assert loss.item() == pytest.approx((off ** 2).mean().item(), rel=1e-5)
    assert w.grad.item() == pytest.approx((2 * off * part).mean().item(), rel=1e-4)


def test_the_network_sees_its_estimate_only_where_it_is_self_conditioned():
    x_t, t = torch.randn(4, 12), torch.tensor([1, 3, 5, 8])
    for on in (0, 1):
        net, f = bit_network(on)
        a, b = f(x_t, torch.zeros(4, 12), t), f(x_t, torch.ones(4, 12), t)
        assert a.shape == (4, 12) and torch.equal(a, b) == (not on)
        assert not torch.equal(a, f(x_t, torch.zeros(4, 12), t.flip(0)))
        assert len(list(net.parameters())) == 8


# ---- masked diffusion ----

@pytest.mark.parametrize("S", [1, 2, 3, 7, 20])
def test_u_is_how_often_the_last_of_three_is_alone(S):
    alone = sum(steps.count(max(steps)) == 1 for steps in product(range(S), repeat=3))
    u = Fraction(alone, S ** 3)
    for K in (2, 5, 16):
        assert closed_form(S, K) == pytest.approx(float(u + (1 - u) / K), rel=1e-12)


@pytest.mark.parametrize("K", [2, 3, 4])
def test_the_closed_form_is_that_of_the_whole_chain(K):
    """All (K + 1)^3 states, and the probability of each after every step."""
    z = torch.tensor(list(product(range(K + 1), repeat=3)))
    valid = [a + b - c in (0, K) and K not in (a, b, c) for a, b, c in z.tolist()]
    for S in (1, 2, 3, 6):
        p = torch.zeros(len(z), dtype=torch.float64)
        p[-1] = 1                                                            # all are masked
        for t in range(S, 0, -1):
            a, b, c = reverse(ideal_words(z, K).exp(), z, t).unbind(1)
            p = p @ (a[:, z[:, 0]] * b[:, z[:, 1]] * c[:, z[:, 2]])
        assert p.sum().item() == pytest.approx(1) and p[(z == K).any(1)].sum() == 0
        assert p[valid].sum().item() == pytest.approx(closed_form(S, K), rel=1e-12)
        assert p[valid].tolist() == pytest.approx([p[valid].mean().item()] * K ** 2)


def test_a_step_is_bayes_with_the_absorbing_matrices_of_austin_et_al():
    S, K = 5, 3

    def Q(t):                                                                # rows: z_{t-1}
        beta = 1 / (S - t + 1)
        matrix = (1 - beta) * torch.eye(K + 1, dtype=torch.float64)
        matrix[:, K] += beta
        return matrix

    bar = [torch.eye(K + 1, dtype=torch.float64)]
    for t in range(1, S + 1):
        bar.append(bar[-1] @ Q(t))
        for x_0, z_t in product(range(K), range(K + 1)):
            joint = bar[t - 1][x_0] * Q(t)[:, z_t]
            if joint.sum() > 0:
                p = torch.eye(K, dtype=torch.float64)[x_0].expand(1, 3, K)
                found = reverse(p, torch.full((1, 3), z_t), t)
                for row in found[0]:
                    torch.testing.assert_close(row, joint / joint.sum())


def test_a_word_follows_from_two_others_and_is_free_else():
    for words in WORDS[::5].tolist():
        for hidden in range(3):
            z = torch.tensor([words])
            z[0, hidden] = 16
            p = ideal_words(z)[0, hidden].exp()
            assert p[words[hidden]] == 1 and p.sum() == 1
            z[0, hidden - 1] = 16
            torch.testing.assert_close(ideal_words(z)[0, [hidden, hidden - 1]].exp(),
                                       torch.full((2, 16), 1 / 16).double())


@pytest.mark.parametrize("S", [1, 2, 4, 10])
def test_simulated_sentences_are_valid_as_often_as_the_closed_form_says(S):
    share, many = judge(unmask(ideal_words, 10_000, S, noise(S)))
    expected = closed_form(S)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 10_000) ** 0.5)
    assert many == pytest.approx(256, rel=0.15 if S == 1 else 0.05)


def test_the_bound_of_the_ideal_words_is_the_entropy_and_that_of_chance_three_words():
    words = WORDS.repeat(80, 1)[torch.randperm(256 * 80, generator=noise())]
    assert mask_loss(ideal_words, words).item() == pytest.approx(math.log(256), rel=0.03)
    chance = mask_loss(lambda z: torch.full((len(z), 3, 16), -math.log(16)), words).item()
    assert chance == pytest.approx(3 * math.log(16), rel=0.03)


def test_the_bound_is_of_hidden_words_alone_and_its_times_are_spread():
    seen = []

    def log_p(z):
        seen.append(z)
        return -torch.ones(len(z), 3, 16)

    torch.manual_seed(3)
    value, z = mask_loss(log_p, WORDS), seen[0]
    torch.manual_seed(3)
    t = (torch.arange(256) + torch.rand(1)) / 256
    assert ((z == WORDS) | (z == 16)).all()
    assert value.item() == pytest.approx(((z == 16).sum(1) / t).mean().item(), rel=1e-5)
    assert (z[:64] == 16).float().mean() < 0.3 and (z[-64:] == 16).float().mean() > 0.7


@pytest.mark.thorough
def test_a_trained_network_of_words_comes_near_the_closed_form():
    torch.manual_seed(0)
    log_p = fit(mask_loss, WORDS, *word_network(), 800, "")
    for S in (2, 10):
        assert judge(unmask(log_p, 2000, S, noise()))[0] == pytest.approx(closed_form(S), abs=0.06)


@pytest.mark.thorough
def test_trained_networks_of_bits_draw_valid_sentences_more_often_if_self_conditioned():
    ddpm, shares = DDPM(cosine_beta_schedule()), []
    for on in (0, 1):
        torch.manual_seed(0)
        f = fit(partial(bit_loss, ddpm), CODES, *bit_network(on), 1500, "")
        shares.append(judge(generate(ddpm, f, 2000, 20, noise()))[0])
    assert 0.6 < shares[0] < shares[1] - 0.02


# ---- the program ----

def test_the_picture_has_the_shares_of_every_kind_and_the_closed_form():
    found = torch.rand(len(KINDS), 3, 2, 4)
    axes, = draw_figure(found, [1, 2, 5]).axes
    curve = axes.lines[0]
    assert curve.get_ydata().tolist() == pytest.approx([100 * closed_form(S) for S in range(1, 6)])
    assert [text.get_text() for text in axes.get_legend().texts][1:] == list(KINDS)
    for bars, valid in zip(axes.containers, found[:, :, 0], strict=True):
        assert bars[0].get_xdata().tolist() == [1, 2, 5]
        assert bars[0].get_ydata().tolist() == pytest.approx((100 * valid.mean(1)).tolist())


def test_the_program_draws_every_kind_for_every_seed(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bits, "N", 100)
    kept, threads = [], []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(bits, "draw_figure", lambda *args: kept.append(args) or draw_figure(*args))
    bits.main(["--checkpoint", str(trained[0]), "--steps", "1", "--seed", "4", "--device", "cpu",
               "--out", str(tmp_path / "b.png")])
    out, ((found, tried),) = capsys.readouterr().out.splitlines(), kept
    assert threads == [1, 7] and tried == [1, 2, 3, 5]                       # T is 5
    assert found.shape == (5, 4, 2, 3)
    for k, seed in enumerate((4, 5, 6)):
        masked = [judge(unmask(ideal_words, 100, S, noise(seed))) for S in tried]
        assert found[3, :, 0, k].tolist() == pytest.approx([share for share, _ in masked])
    assert out[-1] == f"wrote {tmp_path / 'b.png'}" and (tmp_path / "b.png").stat().st_size > 9000
    assert out[-2].startswith(f"finding: valid after 3 steps: {100 * closed_form(3):.1f}% (closed")
    means = [float(text) for text in re.findall(r"([\d.]+) \+- [\d.]+% \(", out[-2])]
    assert means == pytest.approx((100 * found[:, 2, 0].mean(1)).tolist(), abs=0.051)
    assert out[-2].removeprefix("finding: valid ") in out[:-2]
