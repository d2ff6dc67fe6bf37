"""SDEdit against the closed-form recursion of Gaussian data, and its drawings and pictures."""
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import noise, refused
from test_ddpm import STRONG, coefficients, gaussian, point_mass, strong

import data
import sample as core
from ddpm import DDPM
from papers import sdedit
from papers.kit.analytic import Mixture
from papers.kit.chain import respace
from papers.kit.judge import nearest
from papers.sdedit import draw_digits, edit
from plumbing.checkpoint import read_checkpoint, write_checkpoint
from schedules import cosine_beta_schedule

BETA, ALPHA_BAR = coefficients(STRONG)


def recursion(guide, m, s, t_0, variance):
    """Mean and variance of the edit of a constant guide where x_0 ~ N(m, s^2), by Eq. 4 and 7."""
    mean, var = math.sqrt(ALPHA_BAR[t_0]) * guide, 1 - ALPHA_BAR[t_0]
    for t in range(t_0, 0, -1):
        a, before, beta = ALPHA_BAR[t], ALPHA_BAR[t - 1], BETA[t]
        # E[x_0 | x_t] = m + k (x_t - sqrt(a) m); the step is Eq. 7 of it
        k = math.sqrt(a) * s ** 2 / (a * s ** 2 + 1 - a)
        of_x_0 = math.sqrt(before) * beta / (1 - a)
        of_x_t = math.sqrt(1 - beta) * (1 - before) / (1 - a)
        mean = of_x_0 * (m + k * (mean - math.sqrt(a) * m)) + of_x_t * mean
        var *= (of_x_0 * k + of_x_t) ** 2
        if t > 1:
            var += beta if variance == "beta" else (1 - before) / (1 - a) * beta
    return mean, var


# ---- edit ----

@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("t_0", [0, 1, 2, 5, 8])
def test_on_gaussian_data_an_edit_has_the_mean_and_variance_of_the_exact_recursion(t_0, variance):
    m, s, c, n = 0.2, 0.4, -0.7, 400
    x_0 = edit(strong(variance), gaussian(m, s, STRONG), torch.full((n, 1, 10, 10), c), t_0,
               clip=False, generator=noise())
    mean, var = recursion(c, m, s, t_0, variance)
    N = x_0.numel()
    assert x_0.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(var / N) + 1e-5)
    assert x_0.var().item() == pytest.approx(var, rel=5 * math.sqrt(2 / N) + 1e-4)


def test_each_guide_is_edited_towards_the_data_and_not_towards_the_others():
    guide = torch.tensor([-0.9, 0.0, 0.9]).reshape(3, 1, 1, 1).expand(3, 1, 60, 60)
    x_0 = edit(strong(), gaussian(0.1, 0.5, STRONG), guide, 3, False, noise())
    for x, c in zip(x_0, (-0.9, 0.0, 0.9), strict=True):
        mean, var = recursion(c, 0.1, 0.5, 3, "beta")
        assert x.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(var / 3600))


def test_from_t_0_of_0_the_guide_comes_back_bit_for_bit_and_the_network_is_not_asked():
    guide = 2 * torch.rand(2, 3, 4, 4) - 1
    assert torch.equal(edit(strong(), lambda x_t, t: 1 / 0, guide, 0), guide)


def test_from_T_the_guide_is_forgotten_and_the_edit_is_a_sample():
    ddpm = DDPM(cosine_beta_schedule(50))
    model = Mixture(ddpm, torch.tensor([[-0.5, 0.5], [0.5, 0.5]]), 0.05)
    guide = torch.tensor([[0.9, -0.9]]).expand(64, 2)
    x_0 = edit(ddpm, model, guide, 50, generator=noise())
    torch.testing.assert_close(x_0, ddpm.sample(model, (64, 2), generator=noise()), rtol=0,
                               atol=2e-3)


def test_one_step_before_T_it_is_not_forgotten_and_the_noise_is_that_of_eq_4():
    seen = []
    guide = torch.randn(2, 1, 3, 3)
    edit(strong(), lambda x_t, t: seen.append(x_t) or 0 * x_t, guide, 7, generator=noise(3))
    eps = torch.randn(guide.shape, generator=noise(3))
    torch.testing.assert_close(
        seen[0], math.sqrt(ALPHA_BAR[7]) * guide + math.sqrt(1 - ALPHA_BAR[7]) * eps)


@pytest.mark.parametrize("t_0", [1, 4, 8])
def test_the_times_asked_are_t_0_to_1_in_order(t_0):
    times = []

    def model(x_t, t):
        assert t.shape == (3,) and t.dtype == torch.int64 and len(t.unique()) == 1
        times.append(t[0].item())
        return 0 * x_t

    edit(strong(), model, torch.zeros(3, 1, 2, 2), t_0)
    assert times == list(range(t_0, 0, -1))


@pytest.mark.parametrize("t_0", [1, 3, 8])
def test_of_data_that_is_one_image_every_edit_is_that_image(t_0):
    x_0 = edit(strong(), point_mass(0.3, STRONG), torch.randn(3, 1, 2, 2), t_0)
    torch.testing.assert_close(x_0, torch.full((3, 1, 2, 2), 0.3), rtol=0, atol=1e-5)


def test_x_0_hat_is_clipped_unless_told_and_the_generator_fixes_all_noise():
    guide = torch.zeros(2, 1, 4, 4)

    def model(x_t, t):
        return -9 * torch.ones_like(x_t)

    assert edit(strong(), model, guide, 5).eq(1).all()
    assert edit(strong(), model, guide, 5, clip=False).max() > 1
    x, y, z = (edit(strong(), gaussian(0, 0.3, STRONG), guide, 5, generator=noise(seed))
               for seed in (1, 1, 2))
    assert torch.equal(x, y) and not torch.equal(x, z)


def test_points_and_double_precision_are_edited_and_no_gradient_is_kept():
    net, seen = torch.nn.Linear(2, 2).double(), []
    x_0 = edit(strong(), lambda x_t, t: seen.append(x_t) or net(x_t),
               torch.zeros(3, 2, dtype=torch.float64), 4, generator=noise())
    assert x_0.shape == (3, 2) and x_0.dtype == torch.float64 and not x_0.requires_grad
    eps = torch.randn(3, 2, generator=noise(), dtype=torch.float64)
    assert torch.equal(seen[0], strong().one_minus_alpha_bar[4].sqrt() * eps)    # all of its bits


@pytest.mark.parametrize("t_0", [-1, 9])
def test_a_t_0_that_is_no_time_is_refused(t_0):
    with pytest.raises(ValueError, match=f"0..8, not {t_0}"):
        edit(strong(), lambda x_t, t: x_t, torch.zeros(1, 1, 2, 2), t_0)


# ---- drawings ----

def test_a_drawing_lights_the_segments_of_its_digit():
    """Looked at on a to g, as the segments of a display are named, and on what 1 and 7 have."""
    where = {"a": (15, 40), "b": (32, 70), "c": (68, 70), "d": (85, 40), "e": (68, 30),
             "f": (32, 30), "g": (50, 45), "1": (32, 50), "7": (60, 61)}
    lit = ["abcdef", "g1", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "ab7", "abcdefg", "abcdfg"]
    x = draw_digits(100, 1)
    assert x.shape == (10, 1, 100, 100) and x.dtype == torch.uint8
    for image, segments in zip(x, lit, strict=True):
        assert {name for name, at in where.items() if image[0][at] > 200} == set(segments)
        assert image[0][:5].max() == 0 and image[0, 50, 5] == 0
    colour = draw_digits(16, 3)
    assert colour.shape == (10, 3, 16, 16) and torch.equal(colour[:, 0], colour[:, 2])


def test_a_guide_is_a_picture_of_any_size_cropped_square(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255
    Image.fromarray(pixels).save(tmp_path / "g.png")
    for C in (1, 3):
        x = sdedit.open_guide(tmp_path / "g.png", 8, C)
        assert x.shape == (1, C, 8, 8) and x.dtype == torch.uint8 and x.min() > 230
    turned = Image.Exif()
    turned[0x0112] = 3                               # by half a turn, as a camera notes it
    pixels[:10] = 0
    Image.fromarray(pixels).save(tmp_path / "g.png", exif=turned)
    x = sdedit.open_guide(tmp_path / "g.png", 8, 1)[0, 0].float()
    assert x[:4].mean() > 200 and x[4:].mean() < 50


# ---- the program ----

def test_the_program_edits_ten_drawings_and_says_what_they_became(trained, tmp_path, capsys,
                                                                  monkeypatch):
    figures, out = [], tmp_path / "new" / "s.png"
    original = sdedit.draw_figure
    monkeypatch.setattr(sdedit, "draw_figure",
                        lambda *args: figures.append((args, original(*args))) or figures[-1][1])

    monkeypatch.setattr(sdedit, "load_reader", lambda device: (
        lambda x: 9 * torch.eye(10)[(torch.arange(len(x)) % 10)]))
    sdedit.main(["--checkpoint", str(trained[0]), "--n", "2", "--seed", "1", "--device", "cpu",
                 "--out", str(out)])
    said = capsys.readouterr().out
    assert f"ten drawings, edited by {trained[0]}, T = 5, on " in said
    assert out.stat().st_size > 10_000 and said.count(f"wrote {out}") == 1

    (T, rows, points, usual, shares), figure = figures[0]
    held_out, _ = data.load("digits", 8, 1, "test")
    assert T == 5 and list(rows) == list(points) == list(shares) == [0, 1, 2, 3, 4, 5]
    guide, generator = data.to_model(draw_digits(8, 1)).repeat(2, 1, 1, 1), noise(1)
    chain, model = respace(*core.load(trained[0])[1:], 5)
    for t_0, images in rows.items():
        expected = edit(chain, model, guide, t_0, generator=generator)
        assert torch.equal(images, expected) and shares[t_0] == pytest.approx(1)
        root = (expected - guide).square().mean((1, 2, 3)).sqrt().mean().item()
        assert points[t_0] == (pytest.approx(root),
                               pytest.approx(nearest(expected, held_out[20:])))
    assert usual == pytest.approx(nearest(data.to_model(held_out[:20]), held_out[20:]))
    assert points[0][0] == 0
    numbers = [float(text) for text in re.findall(r"\d+\.\d+", said.splitlines()[2])]
    assert numbers == pytest.approx([0.3, *points[2], points[0][1], usual, 100, 100], abs=6e-4)
    axes = {axes.get_title(): axes for axes in figure.axes}
    assert len(axes) == 3
    panel = axes["what becomes of a drawing, by $t_0 / T$"]
    assert panel.images[0].get_array().shape == (6 * 50, 10 * 50)
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "drawing", "0.2", "0.4", "0.6", "0.8", "1"]
    assert panel.get_yticks().tolist() == [25 + 50 * i for i in range(6)]
    plane = axes["faithful on the left, realistic below"]
    assert np.allclose(plane.lines[0].get_xydata(), list(points.values()))
    assert {float(text.get_text()) * 5: text.xy for text in plane.texts} == points
    assert np.allclose(plane.lines[1].get_ydata(), usual)
    assert np.allclose(axes["share read as the digit drawn"].lines[0].get_xydata(),
                       [[t_0 / 5, 1] for t_0 in rows])


def test_the_share_counts_only_what_is_read_surely_and_as_drawn(trained, tmp_path, monkeypatch):
    logits = torch.zeros(10, 10)
    logits[range(5), range(5)] = 9                               # 0 to 4 are read right
    logits[range(5, 8), range(2, 5)] = 9                         # 5 to 7 as others
    logits[range(8, 10), range(8, 10)] = 1                       # 8 and 9 right, but not surely
    seen = []
    monkeypatch.setattr(sdedit, "load_reader", lambda _: lambda x: logits.repeat(2, 1))
    monkeypatch.setattr(sdedit, "draw_figure", lambda *args: seen.append(args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sdedit.main(["--checkpoint", str(trained[0]), "--n", "2", "--out", str(tmp_path / "s.png")])
    assert list(seen[0][-1].values()) == pytest.approx([0.5] * 6)


def test_a_picture_of_ones_own_is_edited_n_times_ten_and_nobody_reads_it(trained, tmp_path, capsys,
                                                                         monkeypatch):
    figures = []
    original = sdedit.draw_figure
    monkeypatch.setattr(sdedit, "draw_figure",
                        lambda *args: figures.append((args, original(*args))) or figures[-1][1])
    monkeypatch.setattr(sdedit, "load_reader", lambda _: 1 / 0)
    Image.new("RGB", (30, 20), "white").save(tmp_path / "g.png")
    sdedit.main(["--checkpoint", str(trained[0]), "--guide", str(tmp_path / "g.png"), "--n", "1",
                 "--out", str(tmp_path / "s.png")])
    (_, rows, points, _, shares), figure = figures[0]
    assert (rows[0] == 1).all() and len(rows[5]) == 10 and shares == {} and len(figure.axes) == 2
    assert not torch.equal(rows[5][0], rows[5][1])
    assert re.search(r"held-out images \d\.\d{3}$", capsys.readouterr().out, re.M)


def test_the_chain_is_shortened_and_each_drawing_edited_n_times(trained, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(sdedit, "STEPS", 4)
    monkeypatch.setattr(sdedit, "edit", lambda ddpm, model, guide, t_0, generator: (
        seen.append((ddpm.T, len(guide), t_0)), guide)[1])
    monkeypatch.setattr(sdedit, "load_reader", lambda _: lambda x: x.flatten(1)[:, :10])
    sdedit.main(["--checkpoint", str(trained[0]), "--n", "3", "--out",
                 str(tmp_path / "s.png")])
    assert seen == [(4, 30, t_0) for t_0 in range(5)]


def test_a_guide_that_is_no_picture_and_data_of_one_image_end_in_one_line(
        trained, capsys, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name in ("none.png", "text.png"):
        refused(capsys, ["--checkpoint", trained[0], "--guide", tmp_path / name], name, code=1,
                main=sdedit.main)
    content = read_checkpoint(trained[0])
    content["config"]["data"] = str(tmp_path / "one")
    write_checkpoint(content, trained[0])
    (tmp_path / "one").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "one" / "0.png")
    refused(capsys, ["--checkpoint", trained[0]], "one has 1", main=sdedit.main)
