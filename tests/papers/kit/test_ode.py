"""Dormand and Prince's method, and Heun's, against ODEs whose solution is known."""
import math

import pytest
import torch

from papers.kit.ode import dormand_prince, heun_method


def turn(y, c):
    return torch.stack([-y[:, 1], y[:, 0]], 1)


def turned(y, angle):
    return y @ torch.tensor([[math.cos(angle), math.sin(angle)],
                             [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def test_heuns_method_is_of_order_2_both_ways_in_time_and_asks_at_both_ends_of_each_step():
    y, asked = torch.tensor([[1.0, 0.0]], dtype=torch.float64), []
    for end in (3.0, -3.0):
        coarse, fine = ((heun_method(turn, y, 0.0, end, n) - turned(y, end)).norm()
                        for n in (40, 80))
        assert coarse / fine == pytest.approx(4, rel=0.1) and fine < 1e-2
    heun_method(lambda y, c: asked.append(c) or y, y, 2.0, 1.0, 2)
    assert asked == [2.0, 1.5, 1.5, 1.0]


def test_their_method_is_of_order_5():
    """Over intervals too short to split, the error falls with the sixth power of their length."""
    def f(y, c):
        return torch.stack([y[:, 1] * y[:, 0] + c, y[:, 1] ** 2 - y[:, 0]], 1)

    def solve(length, rtol):
        y = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
        return dormand_prince(f, y, 0.5, 0.5 + length, rtol, 1e-15)[0]

    errors = [(solve(length, 1e9) - solve(length, 1e-13)).norm() for length in (0.4, 0.2)]
    assert errors[0] / errors[1] > 60 and errors[1] < 1e-8      # order 4 would have 32


@pytest.mark.parametrize("rtol", [1e-4, 1e-7, 1e-10])
def test_the_error_stays_with_the_tolerance_both_ways_in_time(rtol):
    y = torch.tensor([[1.0, 0.0], [0.0, -2.0]], dtype=torch.float64)
    for end in (3.0, -3.0):
        got, evaluations = dormand_prince(turn, y, 0.0, end, rtol, rtol)
        assert (got - turned(y, end)).abs().max() < 30 * rtol
        assert evaluations < 30 * rtol ** -0.2                 # no more than order 5 needs


def test_the_error_estimate_is_that_of_an_embedded_method_of_order_4():
    """It vanishes for y' = c^3, which both integrate exactly, and does not for y' = c^4."""
    y = torch.zeros(1, 1, dtype=torch.float64)
    for power, few in ((3, True), (4, False)):
        got, evaluations = dormand_prince(
            lambda y, c, n=power: torch.full_like(y, (n + 1) * c ** n), y, 0.0, 8.0, 1e-9, 1e-9)
        assert got.item() == pytest.approx(8.0 ** (power + 1), rel=1e-12)
        assert (evaluations < 25) == few


def test_one_hard_image_is_not_hidden_by_many_easy_ones():
    rates = torch.tensor([[8.0], *[[0.01]] * 99], dtype=torch.float64)
    y = torch.ones(100, 3, dtype=torch.float64)
    alone = dormand_prince(lambda y, c: -rates[:1] * y, y[:1], 0.0, 1.0, 1e-6, 1e-9)
    together = dormand_prince(lambda y, c: -rates * y, y, 0.0, 1.0, 1e-6, 1e-9)
    assert together[1] == pytest.approx(alone[1], rel=0.1)      # the easy ones alone: far fewer
    torch.testing.assert_close(together[0][:1], alone[0], rtol=1e-5, atol=0)


def test_rtol_is_relative_and_atol_is_not():
    y = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    counts = [dormand_prince(lambda y, c: -3 * y, scale * y, 0.0, 2.0, rtol, atol)[1]
              for scale, rtol, atol in ((1, 1e-7, 1e-30), (2 ** 13, 1e-7, 1e-30),
                                        (2 ** 13, 0, 1e-7), (1, 0, 1e-7))]
    assert counts[0] == counts[1] and counts[2] > counts[3] != counts[0]


def test_a_relative_tolerance_alone_bears_a_zero_at_either_end_of_a_step():
    for c, end in ((0.0, 1.0), (1.0, 0.0)):
        y = torch.tensor([[math.sin(c)]], dtype=torch.float64)
        got, evaluations = dormand_prince(lambda y, c: torch.full_like(y, math.cos(c)), y, c, end,
                                          1e-6, 1e-30)
        assert got.item() == pytest.approx(math.sin(end), abs=1e-5) and evaluations < 50


def test_a_step_is_soon_as_long_as_the_error_allows():
    """Neither a first step 1000 times too long nor a steady pace costs many steps in vain."""
    y = torch.zeros(1, 1, dtype=torch.float64)
    got, evaluations = dormand_prince(
        lambda y, c: torch.full_like(y, 1e4 * math.exp(-1e4 * c)), y, 0.0, 1.0, 1e-6, 1e-6)
    assert got.item() == pytest.approx(1, abs=1e-5) and evaluations < 200
    times = []
    dormand_prince(lambda y, c: (times.append(c), torch.full_like(y, math.cos(c)))[1],
                   y, 0.0, 60.0, 1e-30, 1e-7)
    ends = times[6::6]                                          # of each step, taken or not
    back = sum(later <= earlier for earlier, later in zip(ends, ends[1:], strict=False))
    assert back < 0.2 * len(ends)
