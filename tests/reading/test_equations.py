"""The table of equations: every name is there, every number in the code, every line typeset."""
import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from stand_ins import numbers

from reading.equations import EQUATIONS, Equation
from reading.make import test_path as path_of
from reading.typeset import plain

ROOT = Path(__file__).parents[2]
ROWS = [(paper, number, equation) for paper, about in EQUATIONS.items()
        for number, equation in about.equations.items()]
IDS = [f"{paper}, {number}" for paper, number, _ in ROWS]


def lines_of(equation):
    return [equation.latex] if isinstance(equation.latex, str) else equation.latex


def test_all_that_is_numbered_in_the_first_paper_is_there_once():
    ours = EQUATIONS["Ho et al. 2020"].equations
    assert [n for number in ours for n in sorted(numbers(number))] == list(range(1, 27))
    assert [number for number in ours if "Alg" in number] == [f"Algorithm {i}" for i in range(1, 5)]
    assert len(ROWS) > 80


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_an_equation_names_code_that_is_there_and_says_so_and_tests_that_are_there(row):
    _, number, equation = row
    source = ""
    for name in equation.code.split():
        parts, depth = name.split("."), 1
        while not (ROOT / "/".join(parts[:depth])).with_suffix(".py").is_file():
            depth += 1
            assert depth <= len(parts), f"{name} is in no file"
        value = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            value = getattr(value, part)
        source += inspect.getsource(value)
    assert source and numbers(number) <= numbers(source), f"{equation.code} does not say so"
    if number.startswith("Algorithm "):
        assert number in source or re.search(rf"Algorithms [\d, and]*{number.split()[1]}", source)
    assert equation.tests
    for test in equation.tests.split():
        file, name = path_of(test, equation.code)
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_an_equation_that_names_something_that_is_not_there_would_be_noticed():
    check = test_an_equation_names_code_that_is_there_and_says_so_and_tests_that_are_there
    good = Equation("", "", "ddpm.DDPM.q_sample", "iterating_eq_2_gives_eq_4")
    check(("", "Eq. 4", good))
    for number, change in (
            ("Eq. 4", {"code": "ddpm.DDPM.q_simple"}), ("Eq. 4", {"code": ""}), ("Eq. 15", {}),
            ("Eq. 4", {"code": "papers.nowhere.at_all"}),
            ("Eq. 4", {"tests": "nothing"}), ("Eq. 4", {"tests": "dppm.iterating_eq_2_gives_eq_4"}),
            ("Eq. 4", {"tests": ""}), ("Algorithm 3", {})):
        with pytest.raises((AssertionError, AttributeError, OSError, IndexError)):
            check(("", number, good._replace(**change)))


@pytest.mark.parametrize("latex, said", [
    (r"q(x_t \mid x_0) = \mathcal{N}(x_t; \sqrt{\bar\alpha_t} x_0, (1 - \bar\alpha_t) I)",
     "q(x_t | x_0) = N(x_t; sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)"),
    (r"\frac{\sqrt{\bar\alpha_{t-1}} \beta_t}{1 - \bar\alpha_t} \hat x_0",
     "((sqrt(alpha_bar_[t-1]) beta_t) / (1 - alpha_bar_t)) x_0_hat"),
    (r"\left(\frac{x_t - \sqrt{1 - \bar\alpha_t} \hat\epsilon}{\sqrt{\bar\alpha_t}}\right)",
     "(((x_t - sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_bar_t)))"),
    (r"\nabla_{\tilde x} \log \frac{p}{q}", "grad_[x_tilde] log (p / q)"),
    (r"t \sim \mathrm{Uniform}(\{1, \ldots, T\})", "t ~ Uniform({1, ..., T})"),
    (r"\nabla_\theta \| \epsilon - \epsilon_\theta(x_t, t) \|^2",
     "grad_theta || eps - eps_theta(x_t, t) ||^2"),
    (r"\langle z_s, x \rangle \neq -\dot\sigma(t) \sigma(t)",
     "< z_s, x > != -sigma_dot(t) sigma(t)"),
])
def test_an_equation_is_said_as_docstrings_write_it(latex, said):
    assert plain(latex) == said


@pytest.mark.parametrize("number, exercise", [(4, 2), (6, 3), (7, 3), (15, 4), (14, 6), (15, 7),
                                              (8, 10), (13, 10)])
def test_the_exercises_have_the_same_equations(number, exercise):
    def bare(latex):
        return re.sub(r"\\(left|right|,)|\\ |\s", "", latex)
    text = (ROOT / "exercises" / "texts" / f"{exercise:02}.md").read_text(encoding="utf-8")
    tagged, = set(re.findall(rf"\$\$([^$]*?)\s*\\tag\{{{number}\}}\$\$", text))
    equation = EQUATIONS["Ho et al. 2020"].equations[f"Eq. {number}"]
    assert bare(tagged) in bare("".join(lines_of(equation)))
