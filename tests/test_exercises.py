"""The classroom: handouts, and checks that tell right answers from wrong ones, by name."""
import json
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
from test_train import refused

from exercises import make
from exercises.checks import run

EXERCISES = make.exercises()
MODULES = ("schedules", "ddpm", "train")


def answer(**bodies):
    """Build a student: the project's modules, some functions with other bodies.

    Args:
        bodies: {"ddpm__DDPM__q_sample": text of a body}.
    """
    modules = {}
    for name in MODULES:
        source = (make.ROOT / f"{name}.py").read_text(encoding="utf-8")
        for key, text in bodies.items():
            module, function = key.replace("__", ".").split(".", 1)
            if module == name:
                source = make.replace_body(source, function, text)
        modules[name] = types.ModuleType(name)
        if name != "train" or any(key.startswith("train") for key in bodies):
            sys.modules[f"student_{name}"] = modules[name]      # as dataclasses want it
            modules[name].__name__ = f"student_{name}"
            exec(compile(source, f"{name}.py", "exec"), modules[name].__dict__)
    return run.student(modules)


def failures(number, **bodies):
    """Return {check: what it says} of the checks that an answer fails."""
    student = answer(**bodies)
    said = {name: run.run(number, name, student) for name in run.names(number)}
    return {name: text for name, text in said.items() if text}


@pytest.mark.parametrize("number", EXERCISES)
def test_the_projects_own_functions_pass_and_blanks_do_not(number):
    assert failures(number) == {}
    blanks = {name.replace(".", "__"): f'raise NotImplementedError("Exercise {number}")'
              for name in EXERCISES[number].blanks}
    said = failures(number, **blanks)
    assert list(said) == run.names(number)
    assert all(f"Exercise {number}" in text for text in said.values())


SCHEDULE = "schedules__linear_beta_schedule"
COSINE = "schedules__cosine_beta_schedule"
Q, MEAN, LOSS = "ddpm__DDPM__q_sample", "ddpm__DDPM__posterior_mean", "ddpm__DDPM__loss"
STEP, GUESS = "ddpm__DDPM__posterior_sample", "ddpm__DDPM__estimate_x_0"
SAMPLE = "ddpm__DDPM__sample"

COSINE_BODY = """t = torch.arange(T + 1, dtype=torch.float64)
f = torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2
alpha_bar = f / f[0]
return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max)"""
Q_BODY = """a, b = at(self.alpha_bar, t, x_0), at(self.one_minus_alpha_bar, t, x_0)
return a.sqrt() * x_0 + b.sqrt() * eps"""
MEAN_BODY = """before, now = at(self.alpha_bar, t - 1, x_0), at(self.one_minus_alpha_bar, t, x_0)
alpha, beta = at(self.alpha, t, x_0), at(self.beta, t, x_0)
rest = at(self.one_minus_alpha_bar, t - 1, x_0)
return before.sqrt() * beta / now * x_0 + alpha.sqrt() * rest / now * x_t"""
LOSS_BODY = """if t is None:
    t = torch.randint(1, self.T + 1, (len(x_0),))
if eps is None:
    eps = torch.randn_like(x_0)
error = model(self.q_sample(x_0, t, eps), t) - eps
return (error ** 2).mean() if reduction == "mean" else error ** 2"""
STEP_BODY = """mean = self.posterior_mean(x_0_hat, x_t, t)
if t == 1:
    return mean
return mean + self.sigma[t] * torch.randn(x_t.shape, generator=generator)"""
GUESS_BODY = """t = torch.full((len(x_t),), t)
x_0_hat = self.predict_x_0(x_t, t, model(x_t, t))
return x_0_hat.clip(-1, 1) if clip else x_0_hat"""
SAMPLE_BODY = """x = torch.randn(*shape, generator=generator)
for t in reversed(range(1, self.T + 1)):
    x = self.p_sample(model, x, t, clip=clip, generator=generator)
return x"""

RIGHT = [
    (1, {SCHEDULE: "i = torch.arange(T, dtype=torch.float64)\n"
                   "return beta_1 + (beta_T - beta_1) * i / max(T - 1, 1)"}),
    (1, {COSINE: COSINE_BODY}),
    (1, {COSINE: """def bar(t):
    return math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2
return torch.tensor([min(1 - bar(t) / bar(t - 1), beta_max) for t in range(1, T + 1)],
                    dtype=torch.float64)"""}),
    (2, {Q: Q_BODY}),
    (2, {Q: """if isinstance(t, int):
    t = torch.full((len(x_0),), t)
shape = [-1] + [1] * (x_0.dim() - 1)
mean = self.alpha_bar[t].sqrt().reshape(shape) * x_0
return mean + (1 - self.alpha_bar[t]).sqrt().reshape(shape) * eps"""}),
    (3, {MEAN: MEAN_BODY}),
    (3, {MEAN: """eps = (x_t - at(self.alpha_bar, t, x_0).sqrt() * x_0)
eps = eps / at(self.one_minus_alpha_bar, t, x_0).sqrt()
share = at(self.beta, t, x_0) / at(self.one_minus_alpha_bar, t, x_0).sqrt()
return (x_t - share * eps) / at(self.alpha, t, x_0).sqrt()"""}),
    (6, {LOSS: LOSS_BODY}),
    (6, {LOSS: """B = x_0.shape[0]
t = torch.randint(self.T, (B,)) + 1 if t is None else t
eps = torch.randn(x_0.shape) if eps is None else eps
eps_theta = model(self.q_sample(x_0, t, eps), t)
return F.mse_loss(eps, eps_theta, reduction=reduction)"""}),
    (7, {STEP: STEP_BODY, GUESS: GUESS_BODY, SAMPLE: SAMPLE_BODY}),
    (7, {SAMPLE: """x_T = torch.randn(shape, generator=generator)
for t, x_t, _ in self.reverse_process(model, x_T, clip, generator):
    pass
return x_t"""}),
]


@pytest.mark.parametrize("number, bodies", RIGHT)
def test_right_answers_written_otherwise_are_accepted(number, bodies):
    assert failures(number, **bodies) == {}


def swap(body, old, new):
    assert old in body
    return body.replace(old, new)


WRONG = [
    (1, SCHEDULE, "return torch.linspace(beta_1, beta_T, T + 1, dtype=torch.float64)[:-1]",
     "beta_T itself is left out"),
    (1, SCHEDULE, "return torch.linspace(beta_1 ** .5, beta_T ** .5, T, dtype=torch.float64) ** 2",
     "square roots are evenly spaced"),
    (1, SCHEDULE, "return 1 - torch.linspace(beta_1, beta_T, T, dtype=torch.float64)",
     "that is alpha"),
    (1, SCHEDULE, "return torch.linspace(beta_1, beta_T, T + 1, dtype=torch.float64)", "shape"),
    (1, SCHEDULE, "return torch.linspace(beta_1, beta_T, T)", "float64"),
    (1, SCHEDULE, "torch.linspace(beta_1, beta_T, T)", "Is there a `return`"),
    (1, COSINE, swap(COSINE_BODY, " ** 2", ""), "cosine is not squared"),
    (1, COSINE, swap(COSINE_BODY, "(t / T + s) / (1 + s)", "t / T"), "offset s is left out"),
    (1, COSINE, swap(COSINE_BODY, ".clamp(max=beta_max)", ""), "beta_T is 1"),
    (1, COSINE, "f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + s) / (1 + s)"
     " * math.pi / 2) ** 2\nreturn f / f[0]", "T + 1"),
    (2, Q, swap(Q_BODY, "self.alpha_bar,", "self.alpha,").replace("self.one_minus_alpha_bar",
     "self.beta"), "alpha stands where alpha_bar belongs"),
    (2, Q, swap(Q_BODY, " t, ", " t - 1, "), "off by one"),
    (2, Q, swap(Q_BODY, "a.sqrt()", "a"), "square root of alpha_bar is missing"),
    (2, Q, swap(Q_BODY, "b.sqrt()", "b"), "variance 1 - alpha_bar stands where the deviation"),
    (2, Q, "return self.alpha_bar[t].sqrt() * x_0 + (1 - self.alpha_bar[t]).sqrt() * eps",
     "size of tensor"),
    (2, Q, swap(Q_BODY, "t, x_0", "t if isinstance(t, int) else int(t[0]), x_0"),
     "time of the first image is used for all"),
    (3, MEAN, swap(MEAN_BODY, "self.alpha_bar, t - 1", "self.alpha_bar, t"),
     "alpha_bar_t stands where alpha_bar_{t-1}"),
    (3, MEAN, swap(MEAN_BODY, "self.one_minus_alpha_bar, t - 1", "self.one_minus_alpha_bar, t"),
     "1 - alpha_bar_t stands where 1 - alpha_bar_{t-1}"),
    (3, MEAN, swap(MEAN_BODY, ".sqrt()", ""), "square roots are missing"),
    (3, MEAN, swap(MEAN_BODY, "self.alpha, t", "self.alpha_bar, t"),
     "alpha_bar_t stands where alpha_t belongs"),
    (3, MEAN, swap(MEAN_BODY, " / now", ""), "division by 1 - alpha_bar_t is missing"),
    (3, MEAN, "x_0, x_t = x_t, x_0\n" + MEAN_BODY, "x_0 and x_t are exchanged"),
    (6, LOSS, swap(LOSS_BODY, "randint(1, self.T + 1", "randint(0, self.T"), "randint(0, ...)"),
    (6, LOSS, swap(LOSS_BODY, "randint(1, self.T + 1", "randint(1, self.T"), "end is exclusive"),
    (6, LOSS, swap(LOSS_BODY, "(len(x_0),))", "(1,)).expand(len(x_0))"), "one t is drawn for the"),
    (6, LOSS, swap(LOSS_BODY, "randn_like", "rand_like"), "rand instead of randn"),
    (6, LOSS, swap(LOSS_BODY, ".mean() if", ".sum() if"), "summed and not averaged"),
    (6, LOSS, swap(LOSS_BODY, ", t) - eps", ", t) - x_0"), "x_0 is the target"),
    (6, LOSS, swap(LOSS_BODY, "(error ** 2).mean()", "error.abs().mean()"), "L1"),
    (6, LOSS, swap(LOSS_BODY, "model(self.q_sample(x_0, t, eps), t)", "model(x_0, t)"),
     "the model is given x_0"),
    (6, LOSS, swap(LOSS_BODY, ", t) - eps", ", t).detach() - eps"), "no gradient"),
    (7, STEP, swap(STEP_BODY, "if t == 1:\n    return mean\n", ""), "noise is added at the last"),
    (7, STEP, swap(STEP_BODY, "self.sigma[t]", "self.sigma[t] ** 2"),
     "variance stands where the deviation"),
    (7, STEP, swap(STEP_BODY, "self.sigma[t]", "self.beta[t].sqrt()"), "of the other variance"),
    (7, STEP, swap(STEP_BODY, "self.sigma[t] * ", ""), "noise is not scaled"),
    (7, STEP, "return self.posterior_mean(x_0_hat, x_t, t)", "no noise is added"),
    (7, STEP, swap(STEP_BODY, ", generator=generator", ""), "Pass generator"),
    (7, GUESS, swap(GUESS_BODY, "x_0_hat.clip(-1, 1) if clip else x_0_hat", "x_0_hat"),
     "nothing is clipped"),
    (7, GUESS, swap(GUESS_BODY, " if clip else x_0_hat", ""), "although clip is False"),
    (7, GUESS, swap(GUESS_BODY, "t = torch.full((len(x_t),), t)\n", ""), "(B,) tensor"),
    (7, SAMPLE, swap(SAMPLE_BODY, "range(1, self.T + 1)", "range(self.T)"), "range(T - 1, -1, -1)"),
    (7, SAMPLE, swap(SAMPLE_BODY, "range(1, self.T + 1)", "range(2, self.T + 1)"), "last step is"),
    (7, SAMPLE, swap(SAMPLE_BODY, "reversed(range(1, self.T + 1))", "range(1, self.T + 1)"),
     "time runs forwards"),
    (7, SAMPLE, swap(SAMPLE_BODY, "torch.randn(*shape, generator=generator)", "torch.zeros(shape)"),
     "x_T is not drawn"),
]


@pytest.mark.parametrize("number, function, body, words", WRONG)
def test_mistakes_are_rejected_and_named(number, function, body, words):
    said = failures(number, **{function: body})
    assert any(words in text for text in said.values()), said


def test_every_exercise_has_its_mistakes_and_right_answers():
    for number in EXERCISES:
        assert sum(wrong[0] == number for wrong in WRONG) >= 4
        assert sum(right[0] == number for right in RIGHT) >= 2
        assert len(EXERCISES[number].hints) == 3
        assert EXERCISES[number].sections["Task"] and EXERCISES[number].sections["Rubric"]


# ---- handouts ----

def test_a_blank_keeps_signature_docstring_and_all_else():
    source = (make.ROOT / "ddpm.py").read_text()
    cut = make.blank(source, "DDPM.q_sample", EXERCISES[2])
    old, new = source.splitlines(), cut.splitlines()
    assert [line for line in new if line not in old] == [
        '        raise NotImplementedError("Exercise 2: Noising in one jump")']
    gone = [line for line in old if line not in new]
    assert gone and all("sqrt" in line for line in gone)
    assert make.replace_body("def f():\n    return 1\n", "f", "return 2\n") == \
        "def f():\n    return 2\n"
    with pytest.raises(ValueError, match="no DDPM.nothing"):
        make.blank(source, "DDPM.nothing", EXERCISES[2])


def pytest_in(folder, *argv):
    return subprocess.run([sys.executable, "-m", "pytest", *argv], cwd=folder, capture_output=True,
                          text=True, timeout=120)


def test_a_handout_stands_alone_and_is_scored(tmp_path, capsys):
    hw = tmp_path / "hw1"
    make.main(["--only", "2", "6", "--out", str(hw), "--zip"])
    assert "wrote" in capsys.readouterr().out
    assert sorted(path.name for path in (hw / "checks").glob("ex*.py")) == ["ex02.py", "ex06.py"]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in hw.rglob("*.*")
                      if path.suffix in (".md", ".py"))
    assert "Rubric" not in texts and "their variances add" not in texts
    assert str(make.ROOT) not in texts
    names = zipfile.ZipFile(tmp_path / "hw1.zip").namelist()
    assert "hw1/ddpm.py" in names and "hw1/checks/kit.py" in names
    done = pytest_in(hw, "--json", "results.json")
    assert done.returncode == 1 and "in all: 0 of 8" in done.stdout
    assert "NotImplementedError" not in done.stdout and "Exercise 2: Noising in" in done.stdout
    source = (hw / "ddpm.py").read_text()
    (hw / "ddpm.py").write_text(make.replace_body(source, "DDPM.q_sample", Q_BODY))
    done = pytest_in(hw, "--json", "results.json", "--seed", "5")
    assert "exercise  2: 4 of 4 checks pass" in done.stdout and "in all: 4 of 8" in done.stdout
    results = json.loads((hw / "results.json").read_text())
    assert results["score"] == 4 and len(results["tests"]) == 8
    assert results["tests"][0]["max_score"] == 1 and "Exercise 6" in results["tests"][7]["output"]
    hint = subprocess.run([sys.executable, "hint.py", "2", "2"], cwd=hw, capture_output=True,
                          text=True)
    assert "standard deviation" in hint.stdout and "python hint.py 2 3" in hint.stdout


def test_the_teachers_copy_passes_and_has_the_rubric(tmp_path):
    make.main(["--only", "2", "--out", str(tmp_path / "t"), "--solutions"])
    assert pytest_in(tmp_path / "t").returncode == 0
    assert "their variances add" in (tmp_path / "t" / "RUBRIC.md").read_text()


def test_wrong_arguments_end_in_one_line(tmp_path, capsys):
    refused(capsys, ["--only", "99", "--out", tmp_path / "x"], "no exercise 99", main=make.main)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.py").write_text("")
    refused(capsys, ["--out", tmp_path / "full"], "exists already", main=make.main)
    assert Path(tmp_path / "full" / "mine.py").exists()
