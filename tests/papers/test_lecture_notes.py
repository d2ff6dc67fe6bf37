"""papers/lecture_notes.md: what it names is there, and each slip turns its test red."""
import importlib
import inspect
import itertools
import math
import re
import textwrap
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from stand_ins import noise
from test_ddpm import coefficients
from stand_ins import numbers

import papers
from ddpm import DDPM
from papers.kit.analytic import Mixture
from papers.ncsn import perturb, sliced_loss
from schedules import linear_beta_schedule

TESTS = Path(__file__).parents[1]
NOTES = (Path(papers.__file__).parent / "lecture_notes.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", NOTES, flags=re.M)[1:]
# Of each that the notes name: the section, the function, the test, and the slip, if it is a line.
NAMED = [(section, *found.groups()) for section in SECTIONS for found in re.finditer(
    r"^Code: `([\w.]+)`; test: `([\w.]+)`\n(?:\n```diff\n(.*?)```)?", section, re.M | re.S)]
IDS = [f"{section[0]}-{code}" for section, code, _, _ in NAMED]


def owner(name):
    """The module or class that a dotted name lies in, and what it is called there."""
    *path, last = name.split(".")
    depth = 1
    while TESTS.parent.joinpath(*path[:depth]).is_dir():
        depth += 1
    place = importlib.import_module(".".join(path[:depth]))
    for part in path[depth:]:
        place = getattr(place, part)
    return place, last


def load_test(name):
    """A test, from a file that is read anew, so that it imports what is there now."""
    *path, last = name.split(".")
    spec = spec_from_file_location("read_anew", TESTS.joinpath(*path).with_suffix(".py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, last)


def run(name):
    """Run a test with all its parameters."""
    test = load_test(name)
    marks = [mark.args for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    for values in itertools.product(*(values for _, values in marks)):
        torch.manual_seed(0)
        test(**{name: value for (name, _), value in zip(marks, values, strict=True)})


def lines(diff, sign):
    return "".join(line[1:] + "\n" for line in diff.splitlines() if line[0] == sign)


def slipped(code, diff):
    """The function with the right lines of the notes replaced by the wrong ones."""
    place, last = owner(code)
    function = getattr(place, last)
    source = inspect.getsource(function)
    assert source.count(lines(diff, "+")) == 1, f"{code} has other lines"
    names = dict(function.__globals__)
    exec(textwrap.dedent(source.replace(lines(diff, "+"), lines(diff, "-"))), names)
    return place, last, names[last]


def test_there_are_six_and_each_has_both_forms_a_function_and_a_test():
    assert [section[:3] for section in SECTIONS] == [f"{i}. " for i in range(1, 7)]
    for section in SECTIONS:
        wrong, right = section.split("Right", 1)
        assert wrong.endswith("\n```\n\n") and "\n```math\n" in right.split("Code: `")[0]
        formulas = re.findall(r"^```math\n(.+)\n```$", section, re.M)
        assert len(formulas) == section.count("```math") == 2 and formulas[0] != formulas[1]
        for each in formulas:
            assert each.count("{") == each.count("}") and each.count("left") == each.count("right")
        named = [inspect.getsource(getattr(*owner(code)))
                 for of, code, *_ in NAMED if of == section]
        assert len(named) == section.count("Code: `") == section.count("test: `") > 0
        assert numbers(section) and numbers(section) <= set().union(*map(numbers, named))


@pytest.mark.parametrize("section, code, test, diff", NAMED, ids=IDS)
def test_each_function_and_test_is_there_and_the_function_has_the_equation(section, code, test,
                                                                           diff):
    source = inspect.getsource(getattr(*owner(code)))
    assert numbers(section) & numbers(source), f"{code} has no equation of the notes"
    assert callable(load_test(test)) and test.split(".")[-1].startswith("test_")
    assert diff or test.startswith("papers.test_lecture_notes.")             # the slip is in it


@pytest.mark.parametrize("section, code, test, diff", NAMED, ids=IDS)
def test_the_test_is_green_and_the_slip_turns_it_red(section, code, test, diff, monkeypatch):
    run(test)
    if diff:
        monkeypatch.setattr(*slipped(code, diff))
        with pytest.raises(AssertionError):
            run(test)


def test_what_is_not_there_would_be_noticed():
    check = test_each_function_and_test_is_there_and_the_function_has_the_equation
    good = next(row for row in NAMED if row[1] == "ddpm.DDPM.loss")
    check(*good)
    for column, bad in ((1, "ddpm.DDPM.lose"), (1, "dppm.DDPM.loss"), (1, "ddpm.DDPM.__init__"),
                        (2, "test_ddpm.test_nothing"), (2, "test_dppm.test_it"), (3, None)):
        with pytest.raises((AssertionError, AttributeError, ImportError, OSError)):
            check(*(bad if i == column else part for i, part in enumerate(good)))
    with pytest.raises(AssertionError, match="other lines"):
        slipped("ddpm.DDPM.q_sample", good[3])


# ---- the first formula, which no other test tells apart, and the numbers of the notes ----

def test_score_matching_squares_the_gradient_and_no_constant_matters():
    """log p = c - lambda x^2 / 2: both objectives are parabolas in lambda, on the same x."""
    x_0, sigma = 0.5 * torch.randn(200_000, 1, generator=noise()).double(), torch.tensor([0.5])
    _, _, x = perturb(x_0, sigma, noise(1))
    for c in (0.0, 2.0):
        def log_p(x, precision):
            return c - precision * x ** 2 / 2                    # noqa: B023

        def right(precision):
            def score(x, sigma):
                return torch.autograd.grad(log_p(x, precision).sum(), x, create_graph=True)[0]
            return sliced_loss(score, x_0, sigma, noise(1)).item() / 0.25

        def slip(precision):
            return (log_p(x, precision) ** 2 / 2 - precision).mean().item()

        minima = []
        for f in (right, slip):
            one, two, three = f(0.0), f(1.0), f(2.0)
            minima.append((3 * one - 4 * two + three) / (2 * (one - 2 * two + three)))
        assert minima[0] == pytest.approx(1 / x.square().mean().item(), rel=1e-4)
        assert minima[0] == pytest.approx(2, rel=0.02)
        assert minima[1] == pytest.approx((4 + 2 * c * 0.5) / (3 * 0.25), rel=0.05)
    assert "is 5.33 and not 2" in NOTES


def test_the_numbers_of_the_notes_are_those_of_the_linear_schedule():
    beta, alpha_bar = coefficients(linear_beta_schedule())
    text = " ".join(NOTES.split())

    def times(t):
        return math.sqrt((1 - alpha_bar[t]) / (1 - (1 - beta[t]) * (1 - beta[t - 1])))

    assert times(1) == pytest.approx(1) and times(2) == pytest.approx(1) and times(3) > 1.1
    assert (f"{times(100):.1f} times too much noise at t = 100, {times(500):.1f} times at t = 500 "
            f"and {times(1000):.1f} times at t = 1000") in text
    assert (f"leaves {math.sqrt(1 - beta[1000]):.3f} of x_0 in x_T where "
            f"{math.sqrt(alpha_bar[1000]):.3f} belong") in text
    lost = math.sqrt((1 - alpha_bar[500]) / beta[500])
    assert f"takes away {lost:.1f} times too much noise at t = 500. (Some" in text
    tilde = {t: (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t] for t in (2, 500)}
    too_much = {t: math.exp(each) / each for t, each in tilde.items()}
    assert f"{too_much[500]:.0f} times too much at t = 500, and {too_much[2]:.0f} times at" in text


def test_the_mean_of_the_noise_is_a_third_where_its_median_is_1():
    ddpm = DDPM([0.5, 0.99])                                     # alpha_bar_1 = 1/2
    mixture = Mixture(ddpm, torch.tensor([[-1.0], [1.0]]), 0.0, [1, 2])
    assert mixture(torch.zeros(1, 1).double(), 1).item() == pytest.approx(-1 / 3)
    x_0 = torch.tensor([[-1.0], [1.0], [1.0]]).double()
    eps, guesses = -x_0, torch.linspace(-1.2, 1.2, 73).tolist()              # the eps that make 0
    assert ddpm.q_sample(x_0, 1, eps).abs().max() < 1e-7
    squared, plain = ([f(guess) for guess in guesses] for f in (
        lambda guess: ddpm.loss(lambda x_t, t: 0 * x_t + guess, x_0, 1, eps).item(),
        lambda guess: (eps - guess).abs().mean().item()))
    assert guesses[squared.index(min(squared))] == pytest.approx(-1 / 3, abs=1e-6)
    assert guesses[plain.index(min(plain))] == pytest.approx(-1, abs=1e-6)
    assert "its mean is -1/3, its median -1" in NOTES
