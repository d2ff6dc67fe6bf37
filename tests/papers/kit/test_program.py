"""The frame of the programs: what is counted, chosen, shown and said."""
import types

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import data
from papers.kit import program
from plumbing.pictures import grid


def test_progress_counts_every_evaluation(monkeypatch):
    shown = []
    monkeypatch.setattr(program, "track", lambda items, label: (
        shown.append((len(items), i)) or i for i in items))
    model = program.counted(lambda x_t, t: 2 * x_t, 3)
    for _ in range(4):                                             # one more does no harm
        assert model(torch.ones(1), None) == 2
    assert shown == [(3, 0), (3, 1), (3, 2)]


def test_steps_are_cut_to_T_and_it_says_so(capsys):
    args = types.SimpleNamespace(steps=7)
    assert program.steps_of(args, 9) == program.steps_of(args, 7) == 7
    assert capsys.readouterr().out == ""
    assert program.steps_of(args, 5) == 5 and "--steps 7 is cut to T = 5" in capsys.readouterr().out


@pytest.mark.parametrize("name", [None, "mnist"])
def test_images_are_held_out_ones_from_the_place_of_the_checkpoint(name, monkeypatch):
    asked, x = [], torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(data, "load", lambda *args: (asked.append(args), (x, None))[1])
    config = {"data": "digits", "image_size": 8, "image_channels": 1, "data_dir": "elsewhere"}
    assert program.held_out(config, name, 3)[0] is x
    assert asked == [(name or "digits", 8, 1, "test", "elsewhere")]
    with pytest.raises(ValueError, match="4 images are needed, and .* has 3"):
        program.held_out(config, name, 4)


def test_the_order_is_one_of_the_seed():
    order = program.shuffled(100, 3)
    assert order.sort().values.tolist() == list(range(100)) != order.tolist()
    assert torch.equal(order, program.shuffled(100, 3))
    assert not torch.equal(order, program.shuffled(100, 4))
    args, x = types.SimpleNamespace(n=7, seed=3), torch.arange(100)
    one, two = program.chosen(args, x, 10 * x)
    assert torch.equal(one, order[:7]) and torch.equal(two, 10 * one)
    assert program.chosen(args, x, None)[1] is None


def test_rows_are_labelled_in_their_middle_and_no_longer_than_asked():
    axes, rows = Figure().subplots(), {name: torch.randn(5, 1, 8, 8) for name in "abc"}
    program.show_rows(axes, rows, "title", most=4)
    picture, size = np.asarray(axes.images[0].get_array()), 8 * 6 + 2
    assert picture.shape == (3 * size, 4 * size) and axes.get_title() == "title"
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abc")
    assert list(axes.get_yticks()) == [size / 2, 3 * size / 2, 5 * size / 2]
    assert (picture[size:2 * size] == np.asarray(grid(data.to_uint8(rows["b"][:4]), 4))).all()


def test_lines_have_their_points_and_labels_and_the_ticks_of_the_first():
    axes, lines = Figure().subplots(), {"a": {2: 0.5, 8: 0.1}, "b": {3: 0.4}}
    program.show_lines(axes, lines, "title", "steps")
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    for line, points in zip(axes.lines, lines.values(), strict=True):
        assert dict(line.get_xydata().tolist()) == points
    assert list(axes.get_xticks()) == [2, 8] and axes.get_xscale() == axes.get_yscale() == "log"


def test_a_mean_stands_with_its_standard_error():
    assert program.with_error(torch.tensor([1.0, 2.0, 3.0]), 2) == "2.00 +- 0.58"
