"""The classroom: handouts, and checks that tell right answers from wrong ones, by name."""
import importlib
import types
from pathlib import Path

import pytest
import torch
from answers import (LOSS, RIGHT, RIGHT_IN_VARIANT, TIMES, WRONG, WRONG_IN_VARIANT, answer,
                     failures, hunted, missed)
from torch.utils._python_dispatch import TorchDispatchMode

from exercises import make
from exercises.checks import ex09, run
from exercises.hunt import defects

QUICK = [*RIGHT, *WRONG, *WRONG_IN_VARIANT]
for tried in sorted(Path(__file__).parent.glob("tried_*.py")):     # written from the docstrings
    tried = importlib.import_module(tried.stem)
    RIGHT, WRONG = RIGHT + tried.RIGHT, WRONG + tried.WRONG
    RIGHT_IN_VARIANT = RIGHT_IN_VARIANT + tried.RIGHT_IN_VARIANT
    WRONG_IN_VARIANT = WRONG_IN_VARIANT + tried.WRONG_IN_VARIANT



def most_are_thorough(cases):
    return [case if case in QUICK else pytest.param(*case, marks=pytest.mark.thorough)
            for case in cases]


EXERCISES = make.exercises()
LONG = 9                                             # it trains a network
SHORT = [number for number in EXERCISES if number != LONG]
VARIED = 1, 4, 6, 7, 13                              # other functions are asked for in a variant
EVERY = [(number, 0) for number in SHORT] + [(number, variant) for variant in make.VARIANTS[1:]
                                             for number in VARIED]


@pytest.fixture(scope="module", autouse=True)        # the module's: before every test is seeded
def only_the_cpu_is_seeded():
    """For each of three devices that are not there, torch.manual_seed writes down who called it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        yield


@pytest.mark.parametrize("number, variant", EVERY)
def test_the_projects_own_functions_pass_and_blanks_do_not(number, variant):
    assert failures(number, (), variant) == {}
    exercise = make.exercises(variant)[number]
    if exercise["edit"]:
        return
    blanks = {name: f'raise NotImplementedError("Exercise {number}")' for name in exercise.blanks}
    said = failures(number, blanks, variant)
    assert list(said) == run.names(number, variant)
    assert all(f"Exercise {number}" in text for text in said.values())


@pytest.mark.parametrize("number, bodies", most_are_thorough(
    [right for right in RIGHT if right[0] != LONG]))
def test_right_answers_written_otherwise_are_accepted(number, bodies):
    assert failures(number, bodies) == {}


@pytest.mark.parametrize("variant, number, bodies", RIGHT_IN_VARIANT)
def test_right_answers_to_a_variant_are_accepted(variant, number, bodies):
    assert failures(number, bodies, variant) == {}


@pytest.mark.parametrize("number, function, body, words", most_are_thorough(WRONG))
def test_mistakes_are_rejected_and_named(number, function, body, words, monkeypatch):
    monkeypatch.setattr(ex09, "N", 1000)             # a quarter of the points shows them as well
    assert missed(words, number, {function: body}) == []


NOTHING = ("pass", 'raise ValueError("no")', "return {first}", "return {last}",
           "return torch.zeros(4, 2)")


@pytest.mark.parametrize("number, variant", [(number, variant) for number, variant in EVERY
                                             if not EXERCISES[number]["edit"]])
@pytest.mark.parametrize("body", NOTHING)
def test_nothing_earns_nothing(number, variant, body):
    bodies = {}
    for name in make.exercises(variant)[number].blanks:
        file, function = make.locate(name)
        node = make.functions(make.source_of(f"{file}.py", variant))[function]
        names = [arg.arg for arg in node.args.args if arg.arg != "self"] or ["self"]
        bodies[name] = body.format(first=names[0], last=names[-1])
        if "torch" in body:
            bodies[name] = f"import torch\n{bodies[name]}"
    passed = set(run.names(number, variant)) - set(failures(number, bodies, variant))
    assert not passed


@pytest.mark.parametrize("variant", make.VARIANTS)
def test_a_loss_is_not_blamed_for_its_draw_t_nor_a_draw_t_for_its_loss(variant):
    first, *others = run.names(6, variant)
    for name, blamed in ((TIMES, [first]), (LOSS, others)):
        assert list(failures(6, {name: "return torch.zeros(0)"}, variant)) == blamed


@pytest.mark.parametrize("variant, number, function, body, words", most_are_thorough(
    WRONG_IN_VARIANT))
def test_mistakes_in_a_variant_are_rejected_and_named(variant, number, function, body, words):
    assert missed(words, number, {function: body}, variant) == []


@pytest.mark.parametrize("file", defects.DEFECTS)
def test_every_defect_of_the_hunt_is_found_by_its_name_and_by_no_other(file):
    mended, named = f"check_{file}_is_mended", f"check_{file}_is_named"
    for variant, (name, _, _) in enumerate(defects.DEFECTS[file]):
        planted, source = defects.plant(file, hunted(file), variant)
        assert planted == name and name in defects.NAMES
        student = answer({f"exercises.hunt.{file}": source}, variant)
        assert run.run(13, mended, student) == (f"{file}.py still has the defect that it was given "
                                                "with")
        assert "DEFECT is empty" in run.run(13, named, student)
        for other in defects.NAMES:
            getattr(student, file).DEFECT = other
            assert (run.run(13, named, student) is None) == (other == name)


@pytest.mark.parametrize("number, variant", EVERY)
def test_right_answers_pass_whatever_the_seed(number, variant):
    for seed in (1, 123456):
        assert failures(number, (), variant, seed) == {}


@pytest.mark.parametrize("seed", range(3))           # of each of its three shapes
def test_exercise_9_accepts_new_draws_of_the_data_and_not_the_best_gaussians(seed, monkeypatch):
    monkeypatch.setattr(ex09, "N", 1000)
    for draw, accepted in ((lambda x, g: ex09.points(len(x), seed, g), True),
                           (ex09.gaussian_like, False)):
        def imitate(ddpm, x, n, draw=draw):
            for _ in range(20):
                ddpm.loss(lambda x_t, t: 0 * x_t, x[:2])
            return draw(x[:n], torch.Generator().manual_seed(200 + seed))

        student = run.Student(seed, modules={"plane": types.SimpleNamespace(imitate=imitate)})
        said = [run.run(LONG, name, student) for name in run.names(LONG)]
        assert said == [None, None] or not accepted and all("A single Gaussian" in text
                                                            for text in said)


@pytest.mark.thorough
@pytest.mark.parametrize("bodies", [{}, *(bodies for number, bodies in RIGHT if number == LONG)])
def test_networks_that_are_trained_in_the_plane_pass_exercise_9(bodies):
    assert failures(LONG, bodies) == {}


@pytest.mark.thorough
def test_right_answers_written_otherwise_pass_whatever_the_seed():
    every = [(0, *right) for right in RIGHT if right[0] != LONG] + RIGHT_IN_VARIANT
    for variant, number, bodies in every + [(variant, number, ()) for number, variant in EVERY]:
        student = answer(bodies, variant)
        for student.seed in range(100, 110):
            student.kept.clear()
            assert not any(run.run(number, name, student) for name in run.names(number, variant))


class OtherProcessor(TorchDispatchMode):
    """Compute as another processor may: sums in another order, and functions by other formulas.

    Every other number that comes of one is a unit in the last place larger; and the deviation of
    equal numbers is not 0, for their mean is rounded.  What IEEE 754 fixes is left as it is.
    """
    DIFFER = {"sum", "mean", "std", "var", "mm", "addmm", "bmm", "convolution", "native_group_norm",
              "exp", "expm1", "log", "log1p", "logsumexp", "sin", "cos", "pow", "sigmoid", "silu",
              "_softmax", "_log_softmax", "special_log_ndtr"}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        got = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        if name not in self.DIFFER:
            return got
        return tuple(self.off(each, name) for each in got) if isinstance(got, tuple) \
            else self.off(got, name)

    def off(self, x, name):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        units = (torch.arange(x.numel(), device=x.device) % 2).reshape(x.shape)
        return x * (1 + units * torch.finfo(x.dtype).eps) + (5e-7 if name in ("std", "var") else 0)


@pytest.mark.thorough
def test_right_answers_pass_on_a_processor_that_rounds_otherwise():
    every = [(0, *right) for right in RIGHT if right[0] != LONG] + RIGHT_IN_VARIANT
    for variant, number, bodies in every + [(variant, number, ()) for number, variant in EVERY]:
        with OtherProcessor():
            assert failures(number, bodies, variant) == {}


def test_every_exercise_has_its_mistakes_right_answers_and_texts():
    for number in EXERCISES:
        assert sum(wrong[0] == number for wrong in WRONG) >= 4
        assert sum(right[0] == number for right in RIGHT) >= 2
        for variant in make.VARIANTS:
            exercise = make.exercises(variant)[number]
            assert exercise.minutes and all(
                exercise[name] for name in ("Task", "Question", "Answer", "Rubric", "Hint 1",
                                            "Hint 2", "Hint 3"))
            assert (exercise["Question"] == EXERCISES[number]["Question"]) == (
                exercise["Answer"] == EXERCISES[number]["Answer"])


def test_what_else_a_student_puts_into_the_class_is_there():
    class DDPM:
        half = 0.5

        def mix(self, a, x_0, eps):
            return a ** self.half * x_0 + (1 - a) ** self.half * eps

        def q_sample(self, x_0, t, eps):
            return self.mix(self.column(self.alpha_bar, t, x_0), x_0, eps)

        def draw_t(self, B):
            raise AssertionError("nobody asked for it")

    student = run.Student(modules={"ddpm": types.SimpleNamespace(DDPM=DDPM)})
    assert [run.run(2, name, student) for name in run.names(2)] == [None] * 4
