"""The experiments of sec. 4.3 and 4.4: the right times, and the same x_t wherever it is shared."""
import math

import numpy as np
import pytest
import torch
from stand_ins import Spy, noise
from test_ddpm import STRONG, coefficients, gaussian, point_mass, strong

import data
import sample
from papers import experiments
from papers.experiments import interpolate, pick_two, progressive, share
from papers.kit import program
from plumbing.pictures import grid


def noise_after(shape, seed=0):
    """The generator of this seed, once x_T of this shape has been drawn."""
    generator = noise(seed)
    torch.randn(shape, generator=generator)
    return generator


# ---- Fig. 6 ----

def test_progressive_generation_shows_x_0_hat_at_the_times_asked_for():
    ddpm, model, x_T = strong(), gaussian(0, 0.3, STRONG), torch.randn(2, 1, 3, 3)
    steps = {t: x_0_hat for t, _, x_0_hat in ddpm.reverse_process(model, x_T, generator=noise())}
    shown = progressive(ddpm, model, x_T, [0, 8, 3], generator=noise())
    assert shown.shape == (2, 3, 1, 3, 3)
    assert torch.equal(shown, torch.stack([steps[8], steps[3], steps[0]], dim=1))
    wild = progressive(ddpm, lambda x_t, t: 0 * x_t, 9 * x_T, [8], clip=False)
    assert wild.abs().max() > 1


# ---- Fig. 7 ----

def test_samples_share_x_t_and_nothing_after_it():
    ddpm, model, x_T = strong(), gaussian(0, 0.3, STRONG), torch.randn(1, 1, 3, 3)
    shared = share(ddpm, model, x_T, [8, 4, 1, 0], n=5, generator=noise())
    assert list(shared) == [8, 4, 1, 0] and torch.equal(shared[8][-1:], x_T)
    assert all(images.shape == (6, 1, 3, 3) for images in shared.values())
    for t in (8, 4):
        assert len(shared[t].flatten(1).unique(dim=0)) == 6
    for t in (1, 0):                                 # the last step adds no noise
        assert (shared[t][:-1] - shared[t][:1]).abs().max() < 1e-5
    *_, (_, x_0, _) = ddpm.reverse_process(model, x_T, generator=noise())
    assert torch.equal(shared[0][-1:], x_0)          # one chain, not disturbed by the splits


def test_the_smaller_the_shared_t_the_more_alike_the_samples():
    x_T = torch.randn(1, 1, 40, 40)
    shared = share(strong(), gaussian(0, 1, STRONG), x_T, [8, 4, 2], n=4, clip=False)
    spread = [images[:-1].var(0).mean().item() for images in shared.values()]
    beta, alpha_bar = coefficients(STRONG)           # var(x_0 | x_t) = 1 - alpha_bar_t
    exact = [1 - alpha_bar[t] - beta[1] for t in (8, 4, 2)]     # less the noise of the last step
    assert spread == pytest.approx(exact, rel=0.1)


# ---- Fig. 8 and 9 ----

@pytest.mark.parametrize("t", [1, 5, 8])
def test_images_are_mixed_and_decoded_at_the_time_they_were_noised_to(t):
    spy, x_0, other = Spy(), torch.full((1, 50, 50), 0.5), torch.full((1, 50, 50), -0.8)
    lambdas = [0, 0.25, 1]
    interpolate(strong(), spy, x_0, other, t, lambdas, generator=noise())
    assert spy.times == list(range(t, 0, -1))
    x_t, mixed, other_t = spy.asked[0][1]
    torch.testing.assert_close(mixed, 0.75 * x_t + 0.25 * other_t)        # the same x_t for each
    _, alpha_bar = coefficients(STRONG)
    for image, c in ((x_t, 0.5), (other_t, -0.8)):
        spread = math.sqrt(1 - alpha_bar[t])
        assert image.mean().item() == pytest.approx(math.sqrt(alpha_bar[t]) * c, abs=0.1 * spread)
        assert image.std().item() == pytest.approx(spread, rel=0.1)
    correlation = np.corrcoef(x_t.flatten(), other_t.flatten())[0, 1]
    assert abs(correlation) < 0.1                                         # each its own noise


def test_at_t_0_pixels_are_mixed():
    x_0, other = torch.randn(2, 1, 3, 3)
    spy = Spy()
    mixed = interpolate(strong(), spy, x_0, other, 0, [0, 0.3, 1])
    torch.testing.assert_close(mixed, torch.stack([x_0, 0.7 * x_0 + 0.3 * other, other]))
    assert spy.times == []


def test_if_all_data_is_one_point_every_mixture_decodes_to_it():
    x_0 = torch.full((1, 3, 3), 0.3)
    for t in (1, 4, 8):
        x = interpolate(strong(), point_mass(0.3, STRONG), x_0, x_0, t, [0, 0.5, 1])
        torch.testing.assert_close(x, x_0.expand(3, 1, 3, 3), rtol=0, atol=2e-6)


def test_clipping_and_the_seed_reach_the_decoder():
    x_0, other = torch.randn(2, 1, 3, 3)
    make = [interpolate(strong(), lambda x_t, t: 0 * x_t, 9 * x_0, other, 8, [0, 1], clip, noise(n))
            for clip, n in ((True, 0), (False, 0), (True, 1), (True, 0))]
    assert make[0].abs().max() <= 1 < make[1].abs().max()
    assert torch.equal(make[0], make[3]) and not torch.equal(make[0], make[2])


# ---- the program ----

def test_the_pair_is_of_two_classes_if_there_are_two():
    x = torch.arange(6)
    for seed in range(20):
        one, two = pick_two(x, torch.tensor([0, 0, 0, 0, 0, 1]), seed).tolist()
        assert 5 in (one, two) and one != two
        one, two = pick_two(x, None, seed).tolist()
        assert one != two
    assert len({tuple(pick_two(x, None, seed).tolist()) for seed in range(20)}) > 5
    assert pick_two(x[:1], None, 0).tolist() == [0, 0]
    assert sorted(pick_two(x[:2], torch.tensor([3, 3]), 0).tolist()) == [0, 1]


def test_the_program_draws_the_three_figures(trained, tmp_path, capsys, monkeypatch):
    path, _ = trained
    drawn, save = {}, program.save_figure

    def keep(figure, path):
        drawn[path.name] = figure
        save(figure, path)

    monkeypatch.setattr(program, "save_figure", keep)
    experiments.main(["--checkpoint", str(path), "--folder", str(tmp_path / "new"), "--seed", "1",
                      "--device", "cpu"])
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == sorted(drawn)
    size = 8 * 6 + 2                                 # of an 8 x 8 image in the grid
    shapes = {name: [axes.images[0].get_array().shape for axes in figure.axes]
              for name, figure in drawn.items()}
    assert shapes == {"progressive.png": [(8 * size, 6 * size)],              # t = 5, ..., 0
                      "shared.png": [(2 * size, 2 * size)] * 4,
                      "interpolation.png": [(9 * size, 13 * size)]}
    assert [axes.get_title() for axes in drawn["shared.png"].axes] == [
        "share x_5", "share x_4", "share x_2", "share x_1"]
    columns = [label.get_text() for label in drawn["progressive.png"].axes[0].get_xticklabels()]
    assert columns == [f"t = {t}" for t in (5, 4, 3, 2, 1, 0)]
    picture = np.asarray(drawn["progressive.png"].axes[0].images[0].get_array())
    config, ddpm, model = sample.load(path)
    x_T = torch.randn(8, 1, 8, 8, generator=noise(1))
    x_0_hat = progressive(ddpm, model, x_T, range(6), generator=noise_after(x_T.shape, 1))
    for row, column in ((0, 0), (0, 5), (7, 2)):     # samples below, times beside each other
        cell = picture[row * size:(row + 1) * size, column * size:(column + 1) * size]
        assert (cell == np.asarray(grid(data.to_uint8(x_0_hat[row, column][None])))).all()
    ticks = drawn["interpolation.png"].axes[0].get_xticks()
    assert ticks == pytest.approx([size * (i + 0.5) for i in range(13)])
    columns, rows = ([label.get_text() for label in labels] for labels in (
        drawn["interpolation.png"].axes[0].get_xticklabels(),
        drawn["interpolation.png"].axes[0].get_yticklabels()))
    assert columns == ["source", "rec.", *[f"λ=0.{i}" for i in range(1, 10)], "rec.", "source"]
    assert rows == [f"{t} steps" for t in (5, 4, 4, 3, 2, 2, 1, 1, 0)]
    picture = np.asarray(drawn["interpolation.png"].axes[0].images[0].get_array())
    last = picture[8 * size:]                        # 0 steps: reconstructions are the sources
    assert (last[:, :size] == last[:, size:2 * size]).all()
    assert (last[:, -size:] == last[:, -2 * size:-size]).all()
    assert (picture[:size, :size] == last[:, :size]).all()
    assert "experiments with" in capsys.readouterr().out


def test_the_two_images_are_held_out_ones_and_follow_the_seed(trained, tmp_path, monkeypatch):
    asked, mixed = [], []
    x = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 1, 8, 8)
    monkeypatch.setattr(data, "load", lambda *args: (asked.append(args), (x, None))[1])
    monkeypatch.setattr(program, "save_figure", lambda figure, path: None)
    monkeypatch.setattr(experiments, "interpolate",
                        lambda ddpm, model, x_0, other, *_, **__: (mixed.append(x_0), 1 / 0))
    for seed in ("0", "0", "1"):
        with pytest.raises(ZeroDivisionError):
            experiments.main(["--checkpoint", str(trained[0]), "--folder", str(tmp_path / "new"),
                              "--seed", seed])
    assert [args[:4] for args in asked] == [("digits", 8, 1, "test")] * 3
    assert torch.equal(mixed[0], mixed[1]) and not torch.equal(mixed[0], mixed[2])
