"""Anomalies: errors against the closed form of Gaussian data, ranks against counting by hand."""
import math
import re

import pytest
import torch
from stand_ins import Spy, noise
from test_ddpm import STRONG, coefficients, gaussian, strong

import data
from papers import anomaly
from papers.anomaly import auroc, errors, judge, kinds, letters, levels, reconstruct, z_scores

_, ALPHA_BAR = coefficients(STRONG)
M, S = 0.3, 0.5


def expected(t, d):
    """E[e_t] of an image m + d, each pixel of it, if the data are N(m, s^2)."""
    a = ALPHA_BAR[t]
    k = math.sqrt(a) * S ** 2 / (a * S ** 2 + 1 - a)
    return (1 - k * math.sqrt(a)) ** 2 * d ** 2 + k ** 2 * (1 - a)


# ---- errors ----

@pytest.mark.parametrize("d", [0.0, 0.4, -3.0])
def test_on_gaussian_data_the_error_is_that_of_the_closed_form(d):
    x_0, times = torch.full((40, 1, 32, 32), M + d), [1, 4, 8]
    e = errors(strong(), gaussian(M, S, STRONG), x_0, times, clip=False, generator=noise())
    assert e.shape == (40, 3)
    assert e.mean(0).tolist() == pytest.approx([expected(t, d) for t in times], rel=0.03)


def test_of_data_itself_the_error_is_the_posterior_variance():
    """d ~ N(0, s^2): (1 - k sqrt(a))^2 s^2 + k^2 b is s^2 b / (a s^2 + b)."""
    x_0 = M + S * torch.randn(40, 1, 32, 32)
    e = errors(strong(), gaussian(M, S, STRONG), x_0, [2, 6], clip=False, generator=noise(1))
    by_hand = [S ** 2 * (1 - a) / (a * S ** 2 + 1 - a) for a in (ALPHA_BAR[2], ALPHA_BAR[6])]
    assert e.mean(0).tolist() == pytest.approx(by_hand, rel=0.03)


def test_each_image_is_noised_to_each_time_and_has_its_own_error(monkeypatch):
    monkeypatch.setattr(anomaly, "batch_size", lambda H: 2)
    model, x_0 = Spy(), torch.rand(3, 1, 4, 4)
    e = errors(strong(), model, x_0, [2, 5], generator=noise())
    assert model.times == [2, 5, 2, 5] and [len(x) for _, x in model.asked] == [2, 2, 1, 1]
    for i, (t, x_t) in enumerate(model.asked):
        part = x_0[:2] if i < 2 else x_0[2:]
        x_0_hat = strong().estimate_x_0(lambda x, t: 0.5 * x, x_t, t)
        mine = e[:2, i % 2] if i < 2 else e[2:, i % 2]
        torch.testing.assert_close(mine, (x_0_hat - part).square().mean((1, 2, 3)))
    assert reconstruct(strong(), lambda x, t: 0 * x, 9 * x_0, 8).abs().max() == 1    # clipped


@pytest.mark.parametrize("T, times", [(1000, [50 * i for i in range(1, 20)]), (5, [1, 2, 3, 4]),
                                      (1, [1])])
def test_levels_are_even_and_each_is_there_once(T, times):
    assert levels(T) == times


# ---- scores ----

def test_z_scores_of_the_reference_have_mean_0_and_deviation_1_at_each_level():
    reference = torch.randn(50, 3) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([1.0, 2.0, 3.0])
    z = z_scores(reference, reference)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std(0), torch.ones(3))
    two = reference.mean(0) + 2 * reference.std(0)
    torch.testing.assert_close(z_scores(two[None], reference), torch.full((1, 3), 2.0), rtol=1e-3,
                               atol=1e-3)


def test_auroc_is_the_share_of_pairs_in_order():
    usual, unusual = torch.tensor([1.0, 2, 3, 3]), torch.tensor([0.0, 3, 4])
    # 0 beats none; 3 beats two, and is equal to two; 4 beats four: 7 of 12
    assert auroc(usual, unusual) == pytest.approx(7 / 12)
    assert auroc(unusual, usual) == pytest.approx(5 / 12)
    assert auroc(usual, usual) == 0.5 and auroc(usual, usual + 10) == 1
    normal = torch.randn(1500, generator=noise())
    shifted = 1 + torch.randn(1000, generator=noise(1))           # Phi(1 / sqrt(2))
    assert auroc(normal, shifted) == pytest.approx(0.7602, abs=0.03)


def test_too_large_is_seen_by_the_mean_of_z_and_too_small_by_that_of_its_size():
    e = {kind: torch.randn(300, 4, generator=noise(i)) for i, kind in enumerate(
        ("reference", "digits", "alike", "worse", "better", "both"))}
    e["worse"] += 5
    e["better"] -= 5
    e["both"] += torch.tensor([5.0, -5, 5, -5])
    e["one"] = e["alike"].clone()
    e["one"][:, 2] += 9
    found = judge(e)
    assert list(found) == ["alike", "worse", "better", "both", "one"]
    assert all(values.shape == (6,) for values in found.values())
    torch.testing.assert_close(found["alike"], torch.full((6,), 0.5), rtol=0, atol=0.1)
    assert found["worse"].min() > 0.99 and found["better"][1] > 0.99
    assert found["better"][0] < 0.01 and found["better"][2:].max() < 0.01
    assert found["both"][1] > 0.99 and abs(found["both"][0] - 0.5) < 0.1
    assert (found["one"][2:] > 0.9).tolist() == [False, False, True, False]


# ---- images ----

def test_kinds_are_parts_of_the_data_and_what_is_made_of_the_last():
    x = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    made = kinds(x, 3, 0)
    assert torch.equal(torch.cat([made[kind] for kind in ("reference", "digits", "other digits")]),
                       x[:9])
    assert torch.equal(made["mirrored"][1, 2, 4], x[7, 2, 4].flip(0))
    assert torch.equal(made["upside down"][1, 2, :, 4], x[7, 2, :, 4].flip(0))
    assert torch.equal(made["inverted"].int() + made["other digits"], torch.full_like(
        made["inverted"], 255).int())
    assert not made["blank"].any() and 100 < made["noise"].float().mean() < 155
    assert all(each.shape == (3, 3, 8, 8) and each.dtype == torch.uint8 for each in made.values())


def test_letters_are_drawn_like_digits_and_differ_by_the_seed():
    x, digits = letters(60, 16, 0), torch.from_numpy(data.digits(16)[0])
    assert x.shape == (60, 1, 16, 16) and x.dtype == torch.uint8
    assert torch.equal(x, letters(60, 16, 0)) and not torch.equal(x, letters(60, 16, 1))
    share, share_of_digits = ((each > 127).float().mean().item() for each in (x, digits))
    assert 0.8 * share_of_digits < share < 2 * share_of_digits
    assert len(x.flatten(1).unique(dim=0)) == 60
    middle = (x.float() * torch.arange(16.0)).sum((1, 2, 3)) / x.float().sum((1, 2, 3))
    assert (middle - 7.5).abs().max() < 2


# ---- the program ----

def test_the_program_draws_the_picture_and_says_what_it_found(trained, tmp_path, capsys,
                                                              monkeypatch):
    drawn, out, draw = [], tmp_path / "new" / "a.png", anomaly.draw_figure
    monkeypatch.setattr(anomaly, "draw_figure", lambda *args: drawn.append(args) or draw(*args))

    def judged(e):
        assert all(each.shape == (4, 4) for each in e.values()) and len(e) == 9
        values = {kind: torch.full((6,), 0.9) for kind in e if kind not in ("reference", "digits")}
        values["other digits"] -= 0.4                # no anomaly, and so not the worst kind
        values["blank"] = torch.tensor([0.2, 0.3, 0.4, 0.7, 0.6, 0.5])
        return values
    monkeypatch.setattr(anomaly, "judge", judged)
    anomaly.main(["--checkpoint", str(trained[0]), "--n", "4", "--device", "cpu", "--seed", "3",
                  "--out", str(out)])
    said = capsys.readouterr().out
    (times, rows, found, bits), = drawn
    assert times == [1, 2, 3, 4] and set(rows) == set(bits) == {"digits", *found}
    assert all(row.shape == (2, 1, 8, 8) for row in rows.values())
    assert all(each.shape == (4,) for each in bits.values())
    assert "4 images of each kind for the seeds [3, 4, 5]" in said
    assert re.search(r"blank +0.200 \+-0.000 +0.300 \+-0.000 +\d\.\d{3} +\d+\.\d\d\n", said)
    assert "AUROC is 0.200 by the mean of z, 0.300 by that of |z|, 0.700 by t = 2 alone" in said
    assert out.stat().st_size > 10_000 and said.count(f"wrote {out}") == 1
