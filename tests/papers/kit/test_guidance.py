"""What guidance trades, counted by hand, and drawn."""
import pytest
import torch

from papers.kit.guidance import as_asked, trade


def test_guidance_is_judged_by_what_is_read_surely_and_as_asked_and_by_pairs_of_a_class(capsys):
    logits = torch.zeros(5, 10)
    logits[[0, 1, 2, 4], [0, 1, 0, 0]] = 9           # all right but the third
    logits[3, 1] = 1                                 # right, but unsure
    x = torch.tensor([0.0, 1.0, 3.0, 6.0, 7.0]).reshape(5, 1, 1, 1).expand(5, 1, 2, 2)
    y = torch.tensor([0, 1, 1, 1, 0])
    apart = pytest.approx((7 + 2 + 5 + 3) / 4)
    assert as_asked("w = 1", lambda x: logits, x, y) == (pytest.approx(3 / 5), apart)
    assert as_asked("w = 2", None, x, y) == (None, apart)
    assert capsys.readouterr().out.splitlines() == [
        "w = 1             60.0% read as what was asked for, diversity 4.250",
        "w = 2           diversity 4.250"]


def test_each_scale_is_a_row_of_ten_and_both_numbers_stand_beside_those_of_held_out_images(capsys):
    def draw(scale):                                 # at scale 1 the first of each four is wrong
        return y.float().reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8) / 10 + scale * (i % 4 == 0)

    def net(x):                                      # sure of the digit that the first pixel says
        return 99 * torch.nn.functional.one_hot((10 * x[:, 0, 0, 0]).round().long() % 10, 10)

    y, i = torch.arange(10).repeat(2), torch.arange(20).reshape(-1, 1, 1, 1)
    x, labels = torch.full((2000, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(2000) % 10
    left, right = trade(draw, (-0.5, 0), "w", y, lambda x: net(x).float(), x, labels).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["w = -0.5", "w = 0"]
    picture, size = left.images[0].get_array(), 8 * 6 + 2
    assert picture.shape == (2 * size, 10 * size)
    shares, at_10, distances, at_0 = (line.get_ydata() for line in right.lines)
    assert list(shares) == [0.75, 1] and list(distances) == [0.25, 0]
    assert list(at_10) == pytest.approx([0.1, 0.1]) and list(at_0) == [0, 0]
    assert right.get_xlabel() == "w" and list(right.lines[0].get_xdata()) == [-0.5, 0]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "held-out", "w", "w"]
    assert len(trade(draw, (0,), "w", y, None, x, labels).axes[1].lines) == 2   # nobody reads them
