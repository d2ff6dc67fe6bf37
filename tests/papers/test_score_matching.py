"""Three losses against each other and their constants; curl against fields whose curl is known."""
import math
import re

import pytest
import torch
from stand_ins import noise

import sample
from papers import ncsn, score_matching
from papers.kit.analytic import Mixture
from papers.score_matching import (curl, denoising, draw_figure, error, fit, hyvarinen, network,
                                   share, sliced, worse)

J = torch.tensor([[0.5, 2.0, 0.3], [-1.0, -0.8, 0.1], [0.7, 0.0, 1.4]])
ROTATION = torch.tensor([[0.0, -1.0], [1.0, 0.0]])


def signs(n, D):
    return 2.0 * torch.randint(2, (n, D), generator=noise(5)) - 1


# ---- three losses ----

def test_hyvarinens_has_the_trace_of_the_jacobian_and_takes_d_gradients(monkeypatch):
    x, calls, original = torch.randn(6, 3), [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (calls.append(1),
                                                                 original(*a, **k))[1])
    expected = 0.49 * (J.trace() + ((x @ J.T + 1) ** 2).sum(1) / 2)
    torch.testing.assert_close(hyvarinen(lambda x: x @ J.T + 1, x, 0.7), expected)
    assert len(calls) == 3
    curved = 0.49 * (3 * x ** 2 + x ** 6 / 2).sum(1)
    torch.testing.assert_close(hyvarinen(lambda x: x ** 3, x, 0.7), curved)


def test_a_slice_is_v_j_v_and_takes_one_gradient(monkeypatch):
    x, v, calls, original = torch.randn(6, 3), signs(6, 3), [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (calls.append(1),
                                                                 original(*a, **k))[1])
    expected = 0.49 * ((v @ J * v).sum(1) + ((x @ J.T + 1) ** 2).sum(1) / 2)
    torch.testing.assert_close(sliced(lambda x: x @ J.T + 1, x, 0.7, v), expected)
    assert len(calls) == 1
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)           # the mean over all v
    one = x[:1].expand(8, 3)
    torch.testing.assert_close(sliced(lambda x: x @ J.T, one, 0.7, every).mean(),
                               hyvarinen(lambda x: x @ J.T, x[:1], 0.7)[0])


def test_denoising_and_slices_are_those_of_ncsn():
    x_0, sigmas = torch.randn(50, 2), torch.tensor([0.7])
    _, z, x = ncsn.perturb(x_0, sigmas, noise())

    def s(x):
        return torch.tanh(x @ J[:2, :2])

    expected = ncsn.dsm_loss(lambda x, sigma: s(x), x_0, sigmas, noise())
    torch.testing.assert_close(denoising(s, x, 0.7, z).mean(), expected)
    generator = noise()
    ncsn.perturb(x_0, sigmas, generator)
    v = 2.0 * torch.randint(2, x.shape, generator=generator) - 1
    expected = ncsn.sliced_loss(lambda x, sigma: s(x), x_0, sigmas, noise())
    torch.testing.assert_close(sliced(s, x, 0.7, v).mean(), expected)


def within(found, expected, errors=4):
    return (found.mean() - expected).abs() < errors * found.std() / math.sqrt(len(found))


@pytest.mark.parametrize("D, sigma", [(2, 0.3), (2, 1.0), (9, 0.5)])
def test_the_three_differ_from_what_is_meant_by_the_constants_of_the_docstring(D, sigma):
    n = 20_000
    mixture = Mixture(None, torch.stack([torch.ones(D), -torch.ones(D)]) / 2, 0.5)
    x_0, _ = mixture.draw(n, noise(1))
    z = torch.randn(n, D, generator=noise(2))
    x = (x_0 + sigma * z).double()
    s = mixture.score(x, 1, sigma ** 2)
    size = sigma ** 2 * (s ** 2).sum(1) / 2                      # sigma^2 || s ||^2 / 2

    def model(x):
        return torch.sin(x.flip(1)) - x

    meant = sigma ** 2 * ((model(x) - s) ** 2).sum(1) / 2
    assert within(hyvarinen(model, x, sigma) - meant + size, 0)
    assert within(sliced(model, x, sigma, signs(n, D).double()) - meant + size, 0)
    assert within(denoising(model, x, sigma, z) - meant + size, D / 2)


@pytest.mark.parametrize("D, sigma", [(2, 0.1), (2, 1.0), (8, 1.0)])
def test_all_say_that_the_model_is_as_much_worse_and_differ_in_how_much_they_vary(D, sigma):
    each = worse(D, sigma, 20_000)
    assert list(each) == ["meant", *score_matching.COST] and each["meant"].min() >= 0
    for loss in score_matching.COST:
        assert within(each[loss] - each["meant"], 0)
    spread = {loss: values.var() for loss, values in each.items()}
    assert spread["meant"] < spread["Hyvarinen"] < spread["sliced"]
    assert (spread["denoising"] > spread["sliced"]) == (sigma < 1)


def test_another_seed_is_another_model_and_other_draws():
    one, same, other = (worse(2, 0.5, 10, seed)["denoising"] for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


# ---- a score, or the gradient of an energy ----

def test_the_curl_of_a_rotation_is_2_and_that_of_a_gradient_0():
    x = torch.randn(7, 2)
    assert curl(lambda x: x @ ROTATION.T, x).tolist() == pytest.approx([2] * 7)
    assert curl(lambda x: torch.stack([x[:, 1] ** 2, x[:, 0] * x[:, 1]], 1), x).tolist() \
        == pytest.approx((-x[:, 1]).tolist(), abs=1e-6)
    assert curl(lambda x: torch.stack([x[:, 1], x[:, 0]], 1), x).tolist() == [0] * 7


@pytest.mark.parametrize("shape", [(4000, 3), (4000, 3, 1)])
def test_the_share_is_0_of_a_gradient_1_of_a_rotation_and_that_of_the_norms_between(shape):
    x = torch.randn(shape)

    def linear(A):
        return lambda x: (x.reshape(len(x), 3) @ A.T).reshape(x.shape)

    assert share(linear(J + J.T), x, noise()) == pytest.approx(0, abs=1e-6)
    assert share(linear(J - J.T), x, noise()) == pytest.approx(1)
    expected = ((J - J.T) / 2).norm() / J.norm()
    assert share(linear(J), x, noise()) == pytest.approx(expected.item(), rel=0.05)
    assert share(lambda x: x ** 3 + 3 * x, x, noise()) == pytest.approx(0, abs=1e-6)


def test_a_network_has_two_outputs_or_is_minus_the_gradient_of_one():
    for energy in (False, True):
        torch.manual_seed(0)
        layers, model = network(energy)
        x = torch.randn(5, 2)
        if energy:
            y = x.clone().requires_grad_()
            layers(y).sum().backward()
            torch.testing.assert_close(model(x), -y.grad)
        else:
            assert torch.equal(model(x), layers(x))
        assert (share(model, x, noise()) < 1e-6) == energy       # untrained, already
        assert layers[-1].out_features == (1 if energy else 2)
        assert model(x).shape == (5, 2) and model(x).requires_grad          # so that it can learn


def test_the_error_is_0_for_the_score_1_for_nothing_and_quadratic_between():
    x = torch.randn(200, 2)
    for scale, expected in ((1, 0), (0, 1), (1.1, 0.01), (3, 4)):
        found = error(lambda x, scale=scale: scale * score_matching.PLANE.score(
            x, 1, score_matching.SIGMA ** 2).float(), x)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("energy", [False, True])
def test_both_learn_the_score_and_only_the_energy_has_no_curl(energy, monkeypatch):
    monkeypatch.setattr(score_matching, "STEPS", 250)
    model = fit(energy, 0)
    x = score_matching.PLANE.draw(1000, noise())[0]
    assert error(model, x) < 0.2
    assert (share(model, x, noise()) < 1e-5) == energy
    assert (curl(model, x).abs().max() < 1e-4) == energy
    torch.testing.assert_close(fit(energy, 0)(x), model(x), rtol=1e-3, atol=1e-3)


# ---- the program ----

def test_the_program_draws_the_picture_and_says_what_it_found(trained, tmp_path, capsys,
                                                              monkeypatch):
    for name, value in (("STEPS", 2), ("SEEDS", 2), ("DIMS", (2, 3)), ("DRAWS", 50)):
        monkeypatch.setattr(score_matching, name, value)
    monkeypatch.setattr(score_matching, "worse", lambda D, sigma, seed: worse(D, sigma, 50, seed))
    kept, original = [], draw_figure
    monkeypatch.setattr(score_matching, "draw_figure",
                        lambda *all: (kept.append(all), original(*all))[1])
    out = tmp_path / "s.png"
    score_matching.main(["--checkpoint", str(trained[0]), "--n", "3", "--seed", "1", "--device",
                         "cpu", "--out", str(out)])
    said = capsys.readouterr().out
    assert out.stat().st_size > 10_000 and f"wrote {out}" in said
    (draws, models, shares), = kept
    assert list(draws) == [(sigma, D) for sigma in (0.1, 1.0) for D in (2, 3)]
    each = worse(3, 1.0, 50, 1)
    assert draws[1.0, 3]["sliced"].item() == pytest.approx(
        100 * each["sliced"].var().item() / each["meant"].mean().item() ** 2)
    assert f"sigma = 1, D = 3: worse than s by {each['meant'].mean():.4f}; Hyvarinen " in said
    assert list(models) == ["two outputs", "gradient of an energy"]
    assert sorted(shares) == [1, 2, 5] and all(0 <= each < 1 for each in shares.values())
    _, ddpm, _ = sample.load(trained[0])
    assert ddpm.T == 5 and re.search(r"antisymmetric in eps_theta of .*: \d+\.\d% at t = 1, ", said)
    assert re.search(r"finding: two outputs: \S+ \+- \S+% of the Jacobian is antisymmetric, "
                     r"squared error \S+ \+- \S+%; gradient of an energy: \S+ \+- \S+%", said)


def test_the_picture_has_a_line_for_each_loss_and_noise_and_the_curl_of_each_model():
    draws = {(sigma, D): {loss: torch.tensor(k + 10 * sigma + D) for k, loss in
                          enumerate(score_matching.COST)}
             for sigma in score_matching.SIGMAS for D in score_matching.DIMS}
    models = {"a": lambda x: x @ ROTATION.T,
              "b": lambda x: torch.stack([x[:, 1] * x[:, 0], 0 * x[:, 0]], 1)}
    figure = draw_figure(draws, models, {1: 0.1, 5: 0.3})
    first, one, other, last, _ = figure.axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in first.lines}
    assert lines["sliced, sigma = 0.1"] == [1 + 1 + D for D in score_matching.DIMS]
    assert lines["denoising, sigma = 1"] == [2 + 10 + D for D in score_matching.DIMS]
    assert torch.as_tensor(one.collections[0].get_array()).unique().tolist() == [2]
    field = torch.as_tensor(other.collections[0].get_array())    # -x_1: it falls to the right
    assert field.shape == (101, 101) and field[:, 0].tolist() == pytest.approx([2.5] * 101)
    assert field[0, -1].item() == pytest.approx(-2.5)
    assert last.lines[0].get_xydata().tolist() == [[1, 0.1], [5, 0.3]]
