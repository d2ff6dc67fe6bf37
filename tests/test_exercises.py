"""The classroom: handouts, and checks that tell right answers from wrong ones, by name."""
import importlib
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
MODULES = ("schedules", "ddpm", "unet", "train", "papers/variational_bound", "papers/experiments")


def answer(bodies):
    """Build a student: the project's modules, some functions with other bodies.

    Args:
        bodies: {"ddpm.DDPM.q_sample": text of a body}.
    """
    modules = {}
    for name in MODULES:
        given = {function: text for (module, function), text in
                 ((make.locate(key), text) for key, text in bodies.items()) if module == name}
        short = name.split("/")[-1]
        if not given:
            modules[short] = importlib.import_module(name.replace("/", "."))
            continue
        source = (make.ROOT / f"{name}.py").read_text(encoding="utf-8")
        for function, text in given.items():
            source = make.replace_body(source, function, text)
        modules[short] = sys.modules["student"] = types.ModuleType("student")
        modules[short].__file__ = str(make.ROOT / f"{name}.py")
        exec(compile(source, f"{name}.py", "exec"), modules[short].__dict__)
    return run.student(modules)


def failures(number, bodies):
    """Return {check: what it says} of the checks that an answer fails."""
    student = answer(bodies)
    said = {name: run.run(number, name, student) for name in run.names(number)}
    return {name: text for name, text in said.items() if text}


@pytest.mark.parametrize("number", EXERCISES)
def test_the_projects_own_functions_pass_and_blanks_do_not(number):
    assert failures(number, {}) == {}
    blanks = {name: f'raise NotImplementedError("Exercise {number}")'
              for name in EXERCISES[number].blanks}
    said = failures(number, blanks)
    assert list(said) == run.names(number)
    assert all(f"Exercise {number}" in text for text in said.values())


SCHEDULE = "schedules.linear_beta_schedule"
COSINE = "schedules.cosine_beta_schedule"
Q, MEAN, LOSS = "ddpm.DDPM.q_sample", "ddpm.DDPM.posterior_mean", "ddpm.DDPM.loss"
STEP, GUESS = "ddpm.DDPM.posterior_sample", "ddpm.DDPM.estimate_x_0"
SAMPLE = "ddpm.DDPM.sample"

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

EMB, BLOCK = "unet.timestep_embedding", "unet.ResidualBlock.forward"
EMB_BODY = """n = dim // 2
w = torch.tensor([10000 ** (-i / (n - 1)) for i in range(n)])
emb = torch.cat([torch.sin(t.reshape(-1, 1) * w), torch.cos(t.reshape(-1, 1) * w)], dim=1)
return F.pad(emb, (0, dim - 2 * n))"""
BLOCK_BODY = """h = self.conv1(F.silu(self.norm1(x)))
h = h + self.emb(F.silu(emb)).unsqueeze(2).unsqueeze(3)
h = self.conv2(self.dropout(F.silu(self.norm2(h))))
return self.attention(h + self.shortcut(x))"""
EMA, RESTORE = "train.update_ema", "train.restore"
EMA_BODY = """for average, weight in zip(ema.parameters(), model.parameters()):
    average.mul_(decay).add_(weight, alpha=1 - decay)"""
RESTORE_BODY = """checkpoint = read_checkpoint(out / "checkpoint.pt")
if checkpoint["step"] > config.steps:
    raise ValueError("too late")
run.model.load_state_dict(checkpoint["model"])
run.ema.load_state_dict(checkpoint["ema"])
run.optimizer.load_state_dict(checkpoint["optimizer"])
run.tally.copy_(checkpoint["tally"])
torch.set_rng_state(checkpoint["rng"][0][0])
run.rows = checkpoint["rows"]
run.step = checkpoint["step"]"""
KL, NLL = "papers.variational_bound.kl", "papers.variational_bound.decoder_nll"
KL_BODY = """v, w = variance_q, variance_p
return 0.5 * (math.log(w / v) - 1 + v / w + (mean_q - mean_p) ** 2 / w)"""
NLL_BODY = """x, mean = x_0.double(), mean.double()
k = ((x + 1) * 127.5).round()
above, below = (x + 1 / 255 - mean) / sigma, (x - 1 / 255 - mean) / sigma
above = torch.where(k == 255, torch.inf, above)
below = torch.where(k == 0, -torch.inf, below)
flip = above + below > 0
a, b = torch.where(flip, -below, above), torch.where(flip, -above, below)
a, b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
return -(a + torch.log1p(-torch.exp(b - a)))"""
NAIVE = """normal = torch.distributions.Normal(0.0, 1.0)
x, mean = x_0.double(), mean.double()
above, below = (x + 1 / 255 - mean) / sigma, (x - 1 / 255 - mean) / sigma
above = torch.where(x > 0.999, torch.inf, above)
below = torch.where(x < -0.999, -torch.inf, below)
return -torch.log(torch.special.ndtr(above) - torch.special.ndtr(below))"""
MIX = "papers.experiments.interpolate"
MIX_BODY = """pair = torch.stack([x_0, other])
pair = ddpm.q_sample(pair, t, torch.randn(pair.shape, generator=generator))
mixed = [pair[0] * (1 - weight) + pair[1] * weight for weight in lambdas]
return decode(ddpm, model, torch.stack(mixed), t, clip, generator)"""

RIGHT = [
    (5, {EMB: EMB_BODY, BLOCK: BLOCK_BODY}),
    (5, {BLOCK: """first = torch.nn.Sequential(self.norm1, torch.nn.SiLU(), self.conv1)
last = torch.nn.Sequential(self.norm2, torch.nn.SiLU(), self.dropout, self.conv2)
time = self.emb(emb * emb.sigmoid())
return self.attention(self.shortcut(x) + last(first(x) + time[..., None, None]))"""}),
    (8, {EMA: EMA_BODY, RESTORE: RESTORE_BODY}),
    (8, {EMA: """with torch.no_grad():
    for average, weight in zip(ema.parameters(), model.parameters()):
        average.copy_(decay * average + (1 - decay) * weight)"""}),
    (10, {KL: KL_BODY, NLL: NLL_BODY}),
    (10, {KL: """normal = torch.distributions.Normal
q, p = normal(mean_q, variance_q ** 0.5), normal(mean_p, variance_p ** 0.5)
return torch.distributions.kl_divergence(q, p)"""}),
    (14, {MIX: MIX_BODY}),
    (14, {MIX: """g = generator
a = ddpm.q_sample(x_0[None], t, torch.randn(1, *x_0.shape, generator=g))
b = ddpm.q_sample(other[None], t, torch.randn(1, *x_0.shape, generator=g))
weights = torch.tensor(lambdas).reshape(-1, 1, 1, 1)
x = torch.lerp(a, b, weights)
for s in range(t, 0, -1):
    x = ddpm.p_sample(model, x, s, clip=clip, generator=g)
return x"""}),
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
    assert failures(number, bodies) == {}


def swap(body, old, new):
    assert old in body
    return body.replace(old, new)


WRONG = [
    (5, EMB, swap(EMB_BODY, "sin", "cos").replace("cos(t.reshape(-1, 1) * w)], dim", "sin("
     "t.reshape(-1, 1) * w)], dim"), "cosines come first"),
    (5, EMB, swap(EMB_BODY, "/ (n - 1)", "/ n"), "not -i / (n - 1)"),
    (5, EMB, swap(EMB_BODY, "-i /", "i /"), "wrong sign"),
    (5, EMB, swap(EMB_BODY, "torch.cat([", "torch.stack([").replace("dim=1)\n",
     "dim=2).flatten(1)\n"), "sines and cosines alternate"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(emb)", "emb"), "embedding does not go through SiLU"),
    (5, BLOCK, swap(BLOCK_BODY, " + self.emb(F.silu(emb)).unsqueeze(2).unsqueeze(3)", ""),
     "time is not added"),
    (5, BLOCK, swap(BLOCK_BODY, "h + self.shortcut(x)", "h"), "input is not added"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(self.norm2(h))", "F.silu(h)"), "second norm is left out"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(self.norm", "F.relu(self.norm"), "ReLU stands where"),
    (5, BLOCK, swap(BLOCK_BODY, "self.dropout", ""), "Dropout belongs"),
    (5, BLOCK, swap(BLOCK_BODY, "self.attention", ""), "attention is left out"),
    (8, EMA, swap(EMA_BODY, "mul_(decay).add_(weight, alpha=1 - decay)",
     "mul_(1 - decay).add_(weight, alpha=decay)"), "exchanged"),
    (8, EMA, swap(EMA_BODY, "mul_(decay).add_(weight, alpha=1 - decay)", "copy_(weight)"),
     "weights are copied"),
    (8, EMA, swap(EMA_BODY, ", alpha=1 - decay", ""), "1 - decay is forgotten"),
    (8, EMA, swap(EMA_BODY, "average.mul_", "average = average.mul"), "nothing happens"),
    (8, EMA, "for average, weight in zip(model.parameters(), ema.parameters()):\n"
     "    average.mul_(decay).add_(weight, alpha=1 - decay)", "model is changed and ema is not"),
    *((8, RESTORE, swap(RESTORE_BODY, line, "pass"), words) for line, words in (
        ('run.optimizer.load_state_dict(checkpoint["optimizer"])', "no moments"),
        ('run.ema.load_state_dict(checkpoint["ema"])', "averaged weights (ema)"),
        ('torch.set_rng_state(checkpoint["rng"][0][0])', "random numbers"),
        ('run.step = checkpoint["step"]', "expected step 2, got 0"),
        ('run.tally.copy_(checkpoint["tally"])', "tally"),
        ('raise ValueError("too late")', "was accepted"))),
    (8, RESTORE, swap(RESTORE_BODY, 'checkpoint["ema"]', 'checkpoint["model"]'), "(ema)"),
    (10, KL, swap(KL_BODY, "variance_q, variance_p", "variance_p, variance_q"), "KL"),
    (10, KL, "mean_q, variance_q, mean_p, variance_p = mean_p, variance_p, mean_q, variance_q\n"
     + KL_BODY, "two Gaussians are exchanged"),
    (10, KL, swap(KL_BODY, "variance_q, variance_p", "variance_q ** 2, variance_p ** 2"),
     "variances are taken for deviations"),
    (10, KL, swap(KL_BODY, "0.5 * ", ""), "factor 1/2 is missing"),
    (10, KL, swap(KL_BODY, "math.log(w / v) - 1 + v / w + ", ""), "only the means are compared"),
    (10, NLL, NAIVE, "log_ndtr"),
    (10, NLL, swap(NLL_BODY, "return -(", "return ("), "sign is missing"),
    (10, NLL, swap(NLL_BODY, "/ sigma", "/ sigma ** 2"), "variance is taken for the deviation"),
    (10, NLL, swap(NLL_BODY, "1 / 255", "2 / 255"), "bin of twice the width"),
    (10, NLL, swap(NLL_BODY, "torch.where(k == 255, torch.inf, above)", "above").replace(
     "torch.where(k == 0, -torch.inf, below)", "below"), "do not reach to infinity"),
    (10, NLL, "return -torch.distributions.Normal(mean, sigma).log_prob(x_0)", "density"),
    (14, MIX, swap(MIX_BODY, "torch.stack(mixed), t", "torch.stack(mixed), t - 1"), "t - 1"),
    (14, MIX, swap(MIX_BODY, "q_sample(pair, t", "q_sample(pair, max(t - 1, 0)"), "were noised to"),
    (14, MIX, swap(MIX_BODY, "pair[0] * (1 - weight) + pair[1] * weight",
     "pair[1] * (1 - weight) + pair[0] * weight"), "two images are exchanged"),
    (14, MIX, swap(MIX_BODY, "(1 - weight) + pair[1] * weight",
     "(1 - weight) ** .5 + pair[1] * weight ** .5"), "lambda"),
    (14, MIX, swap(MIX_BODY, "torch.randn(pair.shape, generator=generator)",
     "torch.randn(pair[:1].shape, generator=generator).expand(pair.shape)"), "the same noise"),
    (14, MIX, swap(MIX_BODY, ", generator=generator", ""), "Pass generator"),
    (14, MIX, swap(MIX_BODY, "decode(ddpm, model, torch.stack(mixed), t, clip, generator)",
     "[x for _, x, _ in ddpm.reverse_process(model, torch.stack(mixed), clip)][-1]"), "at time t"),
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
    said = failures(number, {function: body})
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
