"""Answers to the exercises, right and wrong, as students write them, and the student they make."""
import functools
import importlib
import sys
import types

from exercises import make
from exercises.checks import run
from exercises.hunt import defects


source_of, compiled = functools.cache(make.source_of), functools.cache(compile)


def load(name, source, file):
    """Make a module of this source, as if it stood in that file."""
    module = sys.modules["student"] = types.ModuleType("student")
    module.__file__ = str(make.ROOT / file)
    exec(compiled(source, f"{name}.py", "exec"), module.__dict__)
    return module


def answer(bodies=(), variant=0, seed=0):
    """Build a student: the project's modules as a variant has them, some functions with new bodies.

    Args:
        bodies: {"ddpm.DDPM.q_sample": text of a body}; of a file of the bug hunt, as
            "exercises.hunt.forward", it is the whole source.
    """
    modules, given, bodies = {}, {}, dict(bodies)
    for short, place in run.PLACES.items():
        file = f"{place.replace('.', '/')}.py"
        source = source_of(file, variant)
        for key, text in bodies.items():
            if f"{make.locate(key)[0]}.py" == file:
                source = make.replace_body(source, make.locate(key)[1], text)
        modules[short] = importlib.import_module(place) if source == source_of(file, 0) \
            else load(short, source, file)
    for short in defects.DEFECTS:
        file, mended = f"exercises/hunt/{short}.py", hunted(short)
        name, given[short] = defects.plant(short, mended, variant)
        source = bodies.get(f"exercises.hunt.{short}", mended.replace(BLANK, f'DEFECT = "{name}"'))
        modules[short] = load(short, source, file)
    return run.Student(seed, variant, given, modules)


BLANK = 'DEFECT = ""'


@functools.cache
def hunted(short):
    """Return the source of a file of the bug hunt, without its defect."""
    return (make.ROOT / "exercises" / "hunt" / f"{short}.py").read_text(encoding="utf-8")


def failing(number, bodies=(), variant=0, seed=0):
    """Yield (check, what it says) of the checks that an answer fails, as they are run."""
    student = answer(bodies, variant, seed)
    for name in run.names(number, variant):
        text = run.run(number, name, student)
        if text:
            yield name, text


def failures(*args, **kwargs):
    """Return {check: what it says} of all checks that an answer fails."""
    return dict(failing(*args, **kwargs))


def missed(words, *args):
    """Return what the checks said of an answer, if none said these words, else nothing.

    It runs no more of them than it needs.
    """
    said = []
    for _, text in failing(*args):
        if words in text:
            return []
        said.append(text)
    return said or ["nothing"]


def swap(body, old, new):
    assert old in body
    return body.replace(old, new)


SCHEDULE = "schedules.linear_beta_schedule"
COSINE = "schedules.cosine_beta_schedule"
Q, MEAN = "ddpm.DDPM.q_sample", "ddpm.DDPM.posterior_mean"
TIMES, LOSS = "ddpm.DDPM.draw_t", "ddpm.DDPM.loss"
STEP, GUESS = "ddpm.DDPM.posterior_sample", "ddpm.DDPM.estimate_x_0"
SAMPLE = "ddpm.DDPM.sample"

NO_CHAIN = 'if T < 1:\n    raise ValueError("no chain")\n'
COSINE_BODY = NO_CHAIN + """t = torch.arange(T + 1, dtype=torch.float64)
f = torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2
alpha_bar = f / f[0]
return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max)"""
Q_BODY = """a, b = at(self.alpha_bar, t, x_0), at(self.one_minus_alpha_bar, t, x_0)
return a.sqrt() * x_0 + b.sqrt() * eps"""
MEAN_BODY = """before, now = at(self.alpha_bar, t - 1, x_0), at(self.one_minus_alpha_bar, t, x_0)
alpha, beta = at(self.alpha, t, x_0), at(self.beta, t, x_0)
rest = at(self.one_minus_alpha_bar, t - 1, x_0)
return before.sqrt() * beta / now * x_0 + alpha.sqrt() * rest / now * x_t"""
TIMES_BODY = "return torch.randint(self.T, (B,), device=self.beta.device) + 1"
DRAW = "torch.randint(1, self.T + 1, (len(x_0),), device=x_0.device)"
LOSS_BODY = """if t is None:
    t = torch.randint(1, self.T + 1, (len(x_0),), device=x_0.device)
if eps is None:
    eps = torch.randn_like(x_0)
error = model(self.q_sample(x_0, t, eps), t) - eps
return (error ** 2).mean() if reduction == "mean" else error ** 2"""
STEP_BODY = """mean = self.posterior_mean(x_0_hat, x_t, t)
if t == 1:
    return mean
return mean + self.sigma[t] * torch.randn(x_t.shape, generator=generator, device=x_t.device)"""
GUESS_BODY = """t = torch.full((len(x_t),), t, device=x_t.device)
x_0_hat = self.predict_x_0(x_t, t, model(x_t, t))
return x_0_hat.clip(-1, 1) if clip else x_0_hat"""
SAMPLE_BODY = """x = torch.randn(*shape, generator=generator, device=self.beta.device)
for t in reversed(range(1, self.T + 1)):
    x = self.p_sample(model, x, t, clip=clip, generator=generator)
return x"""

EMB, BLOCK = "unet.timestep_embedding", "unet.ResidualBlock.forward"
EMB_BODY = """if dim < 4:
    raise ValueError("too few")
n = dim // 2
w = torch.tensor([10000 ** (-i / (n - 1)) for i in range(n)], device=t.device)
emb = torch.cat([torch.sin(t.reshape(-1, 1) * w), torch.cos(t.reshape(-1, 1) * w)], dim=1)
return F.pad(emb, (0, dim - 2 * n))"""
BLOCK_BODY = """h = self.conv1(F.silu(self.norm1(x)))
h = h + self.emb(F.silu(emb)).unsqueeze(2).unsqueeze(3)
h = self.conv2(self.dropout(F.silu(self.norm2(h))))
return self.attention(h + self.shortcut(x))"""
EMA, RESTORE = "train.update_ema", "plumbing.run.Run.restore"
EMA_BODY = """for average, weight in zip(ema.parameters(), model.parameters()):
    average.mul_(decay).add_(weight, alpha=1 - decay)
for own, buffer in zip(ema.buffers(), model.buffers()):
    own.copy_(buffer)"""
RESTORE_BODY = """checkpoint = read_checkpoint(self.out / "checkpoint.pt")
self.model.load_state_dict(checkpoint["model"])
self.ema.load_state_dict(checkpoint["ema"])
self.optimizer.load_state_dict(checkpoint["optimizer"])
self.tally.copy_(checkpoint["tally"])
torch.set_rng_state(checkpoint["rng"][0][0])
self.step = checkpoint["step"]
self.keep_log(read_log(self.out / "log.csv"))"""
KL, NLL = "papers.kit.analytic.kl", "papers.variational_bound.decoder_nll"
KL_BODY = """v, w = variance_q, variance_p
return 0.5 * (torch.as_tensor(w / v).log() - 1 + v / w + (mean_q - mean_p) ** 2 / w)"""
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
    (8, {RESTORE: """checkpoint = torch.load(self.out / "checkpoint.pt", weights_only=True)
for name in "model", "ema", "optimizer":
    getattr(self, name).load_state_dict(checkpoint[name])
self.tally[:], self.step = checkpoint["tally"], checkpoint["step"]
rows = [row for row in read_log(self.out / "log.csv") if row[0] <= self.step]
self.keep_log(rows)
torch.random.set_rng_state(checkpoint["rng"][0][0])"""}),
    (8, {EMA: """with torch.no_grad():
    for average, weight in zip(ema.parameters(), model.parameters()):
        average.copy_(decay * average + (1 - decay) * weight)
    for name, buffer in ema.named_buffers():
        buffer[...] = model.get_buffer(name)"""}),
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
    (1, {SCHEDULE: NO_CHAIN + "i = torch.arange(T, dtype=torch.float64)\n"
                   "return beta_1 + (beta_T - beta_1) * i / max(T - 1, 1)"}),
    (1, {COSINE: COSINE_BODY}),
    (1, {COSINE: NO_CHAIN + """def bar(t):
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
    (6, {LOSS: LOSS_BODY}),                          # draws t itself
    (6, {TIMES: TIMES_BODY, LOSS: swap(LOSS_BODY, DRAW,
                                       "self.draw_t(len(x_0))")}),
    (6, {TIMES: "return 1 + (self.T * torch.rand(B)).long().to(self.beta.device)"}),
    (6, {TIMES: """p = torch.ones(self.T, device=self.alpha_bar.device)
return p.multinomial(B, replacement=True) + 1"""}),
    (6, {TIMES: "return self.beta.new_empty(B, dtype=torch.int64).random_(1, self.T + 1)"}),
    (6, {LOSS: """B = x_0.shape[0]
t = torch.randint(self.T, (B,)).to(x_0.device) + 1 if t is None else t
eps = torch.randn(x_0.shape, device=x_0.device) if eps is None else eps
eps_theta = model(self.q_sample(x_0, t, eps), t)
return F.mse_loss(eps, eps_theta, reduction=reduction)"""}),
    (7, {STEP: STEP_BODY, GUESS: GUESS_BODY, SAMPLE: SAMPLE_BODY}),
    (7, {SAMPLE: """x_T = torch.randn(shape, generator=generator, device=self.beta.device)
for t, x_t, _ in self.reverse_process(model, x_T, clip, generator):
    pass
return x_t"""}),
]

WRONG = [
    (5, EMB, swap(EMB_BODY, "sin", "cos").replace("cos(t.reshape(-1, 1) * w)], dim", "sin("
     "t.reshape(-1, 1) * w)], dim"), "cosines come first"),
    (5, EMB, swap(EMB_BODY, "/ (n - 1)", "/ n"), "not -i / (n - 1)"),
    (5, EMB, swap(EMB_BODY, "-i /", "i /"), "wrong sign"),
    (5, EMB, swap(EMB_BODY, "torch.cat([", "torch.stack([").replace("dim=1)\n",
     "dim=2).flatten(1)\n"), "sines and cosines alternate"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(emb)", "emb"), "embedding does not go through SiLU"),
    (5, BLOCK, swap(BLOCK_BODY, " + self.emb(F.silu(emb)).unsqueeze(2).unsqueeze(3)", ""),
     "emb is left out"),
    (5, BLOCK, swap(BLOCK_BODY, "h + self.shortcut(x)", "h"), "shortcut is left out"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(self.norm2(h))", "F.silu(h)"), "norm2 is left out"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(self.norm", "F.relu(self.norm"), "ReLU stands where"),
    (5, BLOCK, swap(BLOCK_BODY, "self.dropout", ""), "dropout is left out"),
    (5, BLOCK, swap(BLOCK_BODY, "self.attention", ""), "attention is left out"),
    (8, EMA, swap(EMA_BODY, "mul_(decay).add_(weight, alpha=1 - decay)",
     "mul_(1 - decay).add_(weight, alpha=decay)"), "exchanged"),
    (8, EMA, swap(EMA_BODY, "mul_(decay).add_(weight, alpha=1 - decay)", "copy_(weight)"),
     "weights are copied"),
    (8, EMA, swap(EMA_BODY, ", alpha=1 - decay", ""), "factor 1 - decay is missing"),
    (8, EMA, swap(EMA_BODY, "average.mul_", "average = average.mul"), "nothing happens"),
    (8, EMA, "for average, weight in zip(model.parameters(), ema.parameters()):\n"
     "    average.mul_(decay).add_(weight, alpha=1 - decay)", "model is changed and ema is not"),
    *((8, RESTORE, swap(RESTORE_BODY, line, "pass"), words) for line, words in (
        ('self.model.load_state_dict(checkpoint["model"])', "weights (model)"),
        ('self.optimizer.load_state_dict(checkpoint["optimizer"])', "no moments"),
        ('self.ema.load_state_dict(checkpoint["ema"])', "averaged weights (ema)"),
        ('torch.set_rng_state(checkpoint["rng"][0][0])', "random numbers"),
        ('self.step = checkpoint["step"]', "expected step 2, got 0"),
        ('self.tally.copy_(checkpoint["tally"])', "the losses since the last"),
        ('self.keep_log(read_log(self.out / "log.csv"))', "a line of step 3"))),
    (8, RESTORE, swap(RESTORE_BODY, 'checkpoint["ema"]', 'checkpoint["model"]'), "(ema)"),
    (10, KL, swap(KL_BODY, "variance_q, variance_p", "variance_p, variance_q"), "KL"),
    (10, KL, "mean_q, variance_q, mean_p, variance_p = mean_p, variance_p, mean_q, variance_q\n"
     + KL_BODY, "two Gaussians are exchanged"),
    (10, KL, swap(KL_BODY, "variance_q, variance_p", "variance_q ** 2, variance_p ** 2"),
     "variances are taken for deviations"),
    (10, KL, swap(KL_BODY, "torch.as_tensor(w / v).log()", "math.log(w / v)"),
     "Error: "),
    (10, KL, swap(KL_BODY, "torch.as_tensor(w / v).log()", "torch.log(w / v)"), "not float"),
    (10, KL, KL_BODY + ".mean()", "shape"),
    (10, KL, swap(KL_BODY, "0.5 * ", ""), "factor 0.5 is missing"),
    (10, KL, swap(KL_BODY, "torch.as_tensor(w / v).log() - 1 + v / w + ", ""),
     "variance_q / variance_p - 1 is left out"),
    (10, NLL, NAIVE, "log_ndtr"),
    (10, NLL, swap(NLL_BODY, "return -(", "return ("), "sign is wrong"),
    (10, NLL, swap(NLL_BODY, "/ sigma", "/ sigma ** 2"), "variance is taken for the deviation"),
    (10, NLL, swap(NLL_BODY, "1 / 255", "2 / 255"), "bin of twice the width"),
    (10, NLL, swap(NLL_BODY, "torch.where(k == 255, torch.inf, above)", "above").replace(
     "torch.where(k == 0, -torch.inf, below)", "below"), "reach to infinity?"),
    (10, NLL, "return -torch.distributions.Normal(mean, sigma).log_prob(x_0)", "density"),
    (14, MIX, swap(MIX_BODY, "torch.stack(mixed), t", "torch.stack(mixed), t - 1"), "t - 1"),
    (14, MIX, swap(MIX_BODY, "q_sample(pair, t", "q_sample(pair, max(t - 1, 0)"), "were noised to"),
    (14, MIX, swap(MIX_BODY, "pair[0] * (1 - weight) + pair[1] * weight",
     "pair[1] * (1 - weight) + pair[0] * weight"), "other_t and x_t are exchanged"),
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
     "self.beta"), "alpha_t stands where alpha_bar_t belongs"),
    (2, Q, swap(Q_BODY, "self.alpha_bar,", "self.alpha,").replace("a.sqrt()", "a"),
     "alpha_t stands where sqrt(alpha_bar_t) belongs"),
    (2, Q, swap(Q_BODY, " t, ", " t - 1, "), "off by one"),
    (2, Q, swap(Q_BODY, "a.sqrt()", "a"), "square root of alpha_bar_t is missing"),
    (2, Q, swap(Q_BODY, "b.sqrt()", "b"), "square root of 1 - alpha_bar_t is missing"),
    (2, Q, "return self.alpha_bar[t].sqrt() * x_0 + (1 - self.alpha_bar[t]).sqrt() * eps",
     "size of tensor"),
    (2, Q, swap(Q_BODY, "t, x_0", "t if isinstance(t, int) else int(t[0]), x_0"),
     "time of the first image is used for all"),
    (3, MEAN, swap(MEAN_BODY, "self.alpha_bar, t - 1", "self.alpha_bar, t"),
     "alpha_bar_t stands where alpha_bar_{t-1}"),
    (3, MEAN, swap(MEAN_BODY, "self.one_minus_alpha_bar, t - 1", "self.one_minus_alpha_bar, t"),
     "alpha_bar_t stands where alpha_bar_{t-1} belongs, in 1 - alpha_bar_{t-1}"),
    (3, MEAN, swap(MEAN_BODY, ".sqrt()", ""), "square roots are missing"),
    (3, MEAN, swap(MEAN_BODY, "self.alpha, t", "self.alpha_bar, t"),
     "alpha_bar_t stands where alpha_t belongs"),
    (3, MEAN, swap(MEAN_BODY, " / now", ""), "division by 1 - alpha_bar_t is missing"),
    (3, MEAN, "x_0, x_t = x_t, x_0\n" + MEAN_BODY, "x_0 and x_t are exchanged"),
    (6, TIMES, swap(TIMES_BODY, " + 1", ""), "draw_t: t = 0 was drawn"),
    (6, TIMES, swap(TIMES_BODY, "self.T, (B,)", "self.T - 1, (B,)"), "upper end is exclusive"),
    (6, TIMES, swap(TIMES_BODY, "self.T, (B,)", "1000, (B,)"), "and T is 4"),
    (6, TIMES, swap(TIMES_BODY, "+ 1", "% 3 + 1").replace("self.T, ", "self.T + 1, "),
     "no t above 3"),
    (6, TIMES, "return torch.randint(0, self.T + 1, (B,)).clamp(min=1)", "not uniform"),
    (6, TIMES, swap(TIMES_BODY, "(B,)", "(1,)"), "expected the shape (4000,)"),
    (6, TIMES, swap(TIMES_BODY, "(B,)", "(B, 1)"), "expected the shape (4000,)"),
    (6, TIMES, "t = " + TIMES_BODY.split(" ", 1)[1].replace("(B,)", "(1,)")
     + "\nreturn t.expand(B)", "one t is drawn for the whole batch"),
    (6, TIMES, swap(TIMES_BODY, "self.T, (B,)", "self.T, (B,), dtype=torch.int32"), "int64"),
    (6, TIMES, "return 1 + self.T * torch.rand(B)", "expected torch.int64, got torch.float32"),
    (6, TIMES, swap(TIMES_BODY, ", device=self.beta.device", ""), "device=self.beta.device"),
    (6, TIMES, swap(TIMES_BODY, "return ", ""), "Is there a `return`"),
    (6, TIMES, "g = torch.Generator().manual_seed(0)\n"
     + swap(TIMES_BODY, "(B,),", "(B,), generator=g,"), "drew the same times"),
    (6, TIMES, "return (torch.randperm(B) % self.T + 1).to(self.beta.device)", "shuffled"),
    (6, TIMES, swap(TIMES_BODY, "(B,)", "(B // 2 + 1,)").replace("return", "t =")
     + "\nreturn torch.cat([t, self.T + 1 - t])[:B]", "second half of a batch"),
    (6, LOSS, swap(LOSS_BODY, "randint(1, self.T + 1", "randint(0, self.T"), "randint(0, ...)"),
    (6, LOSS, swap(LOSS_BODY, DRAW,
                   "self.draw_t(1).expand(len(x_0))"), "one t is drawn for the"),
    (6, LOSS, swap(LOSS_BODY, DRAW,
                   "self.draw_t(len(x_0)) - 1"), "told t - 1"),
    (6, LOSS, swap(LOSS_BODY, "randint(1, self.T + 1", "randint(1, self.T"), "end is exclusive"),
    (6, LOSS, swap(LOSS_BODY, "(len(x_0),), device=x_0.device)", "(1,)).expand(len(x_0))"),
     "one t is drawn for the"),
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
    (7, STEP, swap(STEP_BODY, "self.sigma[t]", "self.beta[t].sqrt()"), "beta_t is the variance"),
    (7, STEP, swap(STEP_BODY, "self.sigma[t] * ", ""), "noise is not scaled"),
    (7, STEP, "return self.posterior_mean(x_0_hat, x_t, t)", "no noise is added"),
    (7, STEP, swap(STEP_BODY, ", generator=generator", ""), "Pass generator"),
    (7, GUESS, swap(GUESS_BODY, "x_0_hat.clip(-1, 1) if clip else x_0_hat", "x_0_hat"),
     "nothing is clipped"),
    (7, GUESS, swap(GUESS_BODY, " if clip else x_0_hat", ""), "although clip is False"),
    (7, GUESS, swap(GUESS_BODY, "t = torch.full((len(x_t),), t, device=x_t.device)\n", ""),
     "(B,) tensor"),
    (7, SAMPLE, swap(SAMPLE_BODY, "range(1, self.T + 1)", "range(self.T)"), "range(T - 1, -1, -1)"),
    (7, SAMPLE, swap(SAMPLE_BODY, "range(1, self.T + 1)", "range(2, self.T + 1)"), "the last step"),
    (7, SAMPLE, swap(SAMPLE_BODY, "reversed(range(1, self.T + 1))", "range(1, self.T + 1)"),
     "time run forwards"),
    (7, SAMPLE, swap(SAMPLE_BODY, "randn(*shape, generator=generator, ", "zeros(shape, "),
     "x_T is not drawn"),
]


# ---- 4: eps, x_0 and the score ----

EPS, X_0, SCORE = (f"papers.kit.analytic.{name}" for name in (
    "eps_from_x_0", "x_0_from_score", "score_from_eps"))
MEAN_EPS, PREDICT = "papers.kit.analytic.mean_from_eps", "ddpm.DDPM.predict_x_0"
EPS_BODY = """a, b = at(ddpm.alpha_bar, t, x_t), at(ddpm.one_minus_alpha_bar, t, x_t)
return (x_t - a ** 0.5 * x_0) / b ** 0.5"""
PREDICT_BODY = """a, b = at(self.alpha_bar, t, x_t), at(self.one_minus_alpha_bar, t, x_t)
return (x_t - b.sqrt() * eps_theta) / a.sqrt()"""
SCORE_BODY = "return -eps / at(ddpm.one_minus_alpha_bar, t, eps).sqrt()"
X_0_BODY = """a, b = at(ddpm.alpha_bar, t, x_t), at(ddpm.one_minus_alpha_bar, t, x_t)
return (x_t + b * score) / a.sqrt()"""
MEAN_EPS_BODY = """beta, b = at(ddpm.beta, t, x_t), at(ddpm.one_minus_alpha_bar, t, x_t)
return (x_t - beta / b.sqrt() * eps_theta) / at(ddpm.alpha, t, x_t).sqrt()"""
OWN_SHAPE = """if isinstance(t, int):
    t = torch.full((len(x_t),), t)
a = (1 - ddpm.beta).cumprod(0)[t].view(-1, *[1] * (x_t.dim() - 1))
"""
RIGHT += [
    (4, {EPS: EPS_BODY, PREDICT: PREDICT_BODY, SCORE: SCORE_BODY, X_0: X_0_BODY,
         MEAN_EPS: MEAN_EPS_BODY}),
    (4, {EPS: OWN_SHAPE + "return (x_t - a.sqrt() * x_0) / (1 - a).sqrt()",
         SCORE: "x_t = eps\n" + OWN_SHAPE + "return eps * -(1 - a) ** -0.5",
         PREDICT: "ddpm = self\n" + OWN_SHAPE
         + "return x_t / a ** .5 - (1 / a - 1) ** .5 * eps_theta",
         MEAN_EPS: "return ddpm.posterior_mean(ddpm.predict_x_0(x_t, t, eps_theta), x_t, t)",
         X_0: OWN_SHAPE + "eps = -(1 - a).sqrt() * score\nreturn ddpm.predict_x_0(x_t, t, eps)"})]
WRONG += [
    (4, EPS, swap(EPS_BODY, "/ b ** 0.5", "/ b"), "square root of 1 - alpha_bar_t is missing"),
    (4, EPS, swap(EPS_BODY, "a ** 0.5", "a"), "square root of alpha_bar_t is missing"),
    (4, EPS, swap(EPS_BODY, "alpha_bar, t, x_t), at(ddpm.one_minus_alpha_bar",
                  "alpha, t, x_t), at(ddpm.beta"), "alpha_t stands where alpha_bar_t"),
    (4, EPS, swap(EPS_BODY, " / b ** 0.5", ""), "division by sqrt(1 - alpha_bar_t) is missing"),
    (4, EPS, swap(EPS_BODY, "x_t - a ** 0.5 * x_0", "a ** 0.5 * x_0 - x_t"), "sign is wrong"),
    (4, PREDICT, swap(PREDICT_BODY, " / a.sqrt()", ""), "division by sqrt(alpha_bar_t) is missing"),
    (4, PREDICT, swap(PREDICT_BODY, "/ a.sqrt()", "/ a"), "square root of alpha_bar_t is missing"),
    (4, PREDICT, swap(PREDICT_BODY, "x_t - b", "x_t + b"), "* eps is added and not subtracted"),
    (4, SCORE, swap(SCORE_BODY, "-eps", "eps"), "sign is wrong"),
    (4, SCORE, swap(SCORE_BODY, ".sqrt()", ""), "square root of 1 - alpha_bar_t is missing"),
    (4, SCORE, "return -eps", "division by sqrt(1 - alpha_bar_t) is missing"),
    (4, SCORE, swap(SCORE_BODY, "one_minus_alpha_bar", "alpha_bar"),
     "alpha_bar_t stands where 1 - alpha_bar_t belongs"),
    (4, X_0, swap(X_0_BODY, "b * score", "b.sqrt() * score"), "sqrt(1 - alpha_bar_t) stands where"),
    (4, X_0, swap(X_0_BODY, "x_t + b", "x_t - b"), "score is subtracted and not added"),
    (4, X_0, swap(X_0_BODY, " / a.sqrt()", ""), "division by sqrt(alpha_bar_t) is missing"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "beta / b", "beta.sqrt() / b"), "sqrt(beta_t) stands where"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, " / at(ddpm.alpha, t, x_t).sqrt()", ""),
     "division by sqrt(alpha_t) is missing"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "ddpm.alpha, t", "ddpm.alpha_bar, t"),
     "alpha_bar_t stands where alpha_t"),
    (4, MEAN_EPS, "return ddpm.predict_x_0(x_t, t, eps_theta)", "formula of predict_x_0"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "t, x_t), at", "int(t[0]), x_t), at"), "Eq. 11"),
]

# ---- 9: all of it, in the plane ----

IMITATE = "papers.kit.plane.imitate"
IMITATE_BODY = """import copy
model = Network(ddpm.T)
ema = copy.deepcopy(model)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for step in range(2500):
    x_0 = x[torch.randperm(len(x))[:512]]
    t, eps = ddpm.draw_t(512), torch.randn(512, 2)
    loss = torch.nn.functional.mse_loss(model(ddpm.q_sample(x_0, t, eps), t), eps)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for average, weight in zip(ema.parameters(), model.parameters()):
        average.data.lerp_(weight.data, 0.01)
return ddpm.sample(ema, (n, 2))"""
SHORT = swap(swap(IMITATE_BODY, "(2500)", "(30)"), "sample(ema", "sample(model")
LONGER = swap(SHORT, "(30)", "(80)")
RIGHT += [
    (9, {IMITATE: IMITATE_BODY}),
    (9, {IMITATE: """model = Network(ddpm.T, width=96)
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
while schedule.last_epoch < 2000:
    for batch in x[torch.randperm(len(x))].split(500):
        optimizer.zero_grad()
        ddpm.loss(model, batch).backward()
        optimizer.step()
        schedule.step()
return ddpm.sample(model, (n, 2), clip=False)"""})]
WRONG += [
    (9, IMITATE, "return torch.randn(n, 2)", "was hardly run"),
    (9, IMITATE, "return x[torch.randint(len(x), (n,))]", "points are copied"),
    (9, IMITATE, "return x[torch.randint(len(x), (n,))] + 0.03 * torch.randn(n, 2)",
     "was hardly run"),
    (9, IMITATE, "for _ in range(20):\n    ddpm.loss(Network(ddpm.T), x[:9])\n"
                 "return ddpm.sample(Network(ddpm.T), (n, 2))", "not trained long enough"),
    (9, IMITATE, swap(SHORT, "return ddpm.sample(model, (n, 2))", "t = torch.full((n,), ddpm.T)\n"
                      "x_T = torch.randn(n, 2)\n"
                      "return ddpm.predict_x_0(x_T, t, model(x_T, t)).clamp(-1, 1)"),
     "x_0_hat at t = T"),
    (9, IMITATE, swap(SHORT, "return ddpm.sample(model, (n, 2))",
                      "return x.mean(0) + 0.02 * torch.randn(n, 2)"), "mean of the data"),
    (9, IMITATE, swap(LONGER, ", t), eps)", ", t), x_0)"), "to predict the noise"),
    (9, IMITATE, swap(SHORT, "lr=2e-3", "lr=1e-5"), "not trained long enough"),
    (9, IMITATE, swap(LONGER, "x[torch.randperm(len(x))[:512]]", "x[:512] * 0 + x.mean(0)"),
     "mean of the data"),
    (9, IMITATE, SHORT, "below 0.25"),
    (9, IMITATE, "return ddpm.sample(Network(ddpm.T), (1, 2))", "2), got (1, 2)"),
    (9, IMITATE, swap(SHORT, "(n, 2))", "(n, 2)) / 0"), "not finite"),
]

# ---- 13: the bug hunt ----

HUNT = "exercises.hunt."


def found(file, name, *changes):
    """Write an answer: the file with this DEFECT, mended but for some (old, new)."""
    source = hunted(file)
    for old, new in ((BLANK, f'DEFECT = "{name}"'), *changes):
        source = swap(source, old, new)
    return source


RIGHT += [
    (13, {HUNT + "forward": found("forward", "variance-for-deviation", (
        "alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps",
        "alpha_bar ** 0.5 * x_0 + (1 - alpha_bar) ** 0.5 * eps")),
          HUNT + "ancestral": found("ancestral", "noise-at-the-last-step", (
              "        z = torch.randn(shape) if t > 1 else torch.zeros(shape)\n", ""), (
              "x = mean + variance[t].sqrt() * z", "x = mean\n        if t > 1:\n            "
              "x = x + variance[t].sqrt() * torch.randn(shape)"))}),
    (13, {HUNT + "objective": found("objective", "one-t-for-the-batch", (
        "torch.randint(1, T + 1, (B,))", "1 + torch.randint(T, [len(x_0)])")),
          HUNT + "attention": found("attention", "norm-not-called", (
              "h = self.norm(x)\n", "normed = self.norm(x)\n"), ("f(h)", "f(normed)")),
          HUNT + "pictures": found("pictures", "values-truncated", (
              "((x + 1) * 127.5).round().clamp(0, 255)",
              "((x + 1) * 127.5 + 0.5).clamp(0, 255.5).floor()"))}),
]
WRONG += [
    (13, HUNT + "forward", found("forward", "variance-for-deviation", (
        "(1 - alpha_bar).sqrt()", "(1 - alpha_bar)")), "still has the defect"),
    (13, HUNT + "forward", hunted("forward"), "DEFECT is empty"),
    (13, HUNT + "forward", found("forward", "alpha-bar-off-by-one"), "is not what was wrong"),
    (13, HUNT + "forward", found("forward", "variance-for-deviation", (
        "[0.0, *beta]", "[beta[0], *beta]")), "way: alpha-bar-off-by-one"),
    (13, HUNT + "ancestral", found("ancestral", "noise-at-the-last-step", (
        "range(len(beta) - 1, 0, -1)", "range(len(beta) - 1, 1, -1)")), "way: last-step-skipped"),
    (13, HUNT + "ancestral", found("ancestral", "noise-at-the-last-step", (
        "variance[t].sqrt()", "variance[t]")), "x_3 has the deviation"),
    (13, HUNT + "objective", found("objective", "one-t-for-the-batch", (
        "1, T + 1", "1, T")), "way: t-never-T"),
    (13, HUNT + "objective", found("objective", "t-never-T"), "is not what was wrong"),
    (13, HUNT + "clipping", found("clipping", "dead-clipping", (
        "alpha_bar[t - 1].sqrt()", "alpha_bar[t].sqrt()")), "way: wrong-time-in-the-posterior"),
    (13, HUNT + "clipping", found("clipping", "dead-clipping", (
        "    x_0_hat = x_0_hat.clamp(-1, 1)\n", ""), (
        "return (of_x_0 * x_0_hat + of_x_t * x_t) / (1 - alpha_bar[t])",
        "return ((of_x_0 * x_0_hat + of_x_t * x_t) / (1 - alpha_bar[t])).clamp(-1, 1)")),
     "still has the defect"),
    (13, HUNT + "network", found("network", "time-ignored", (
        "h = h + linear(emb)[:, :, None, None]", "h = h + linear(emb[:1])[:, :, None, None]")),
     "its own time"),
    (13, HUNT + "attention", found("attention", "norm-not-called", ("dim=2)", "dim=1)")),
     "softmax is over the queries"),
    (13, HUNT + "averaging", found("averaging", "errors-swallowed", (
        "mul_(decay).add_(weight, alpha=1 - decay)", "mul_(1 - decay).add_(weight, alpha=decay)")),
     "way: average-swapped"),
    (13, HUNT + "averaging", found("averaging", "errors-swallowed", (
        "    optimizer.zero_grad()\n", "")), "expected [0.3, 0.4]"),
    (13, HUNT + "averaging", found("averaging", "errors-swallowed", (
        "return ema.eval()", "model.eval()\n    return ema")), "way: dropout-left-on"),
    (13, HUNT + "pictures", found("pictures", "values-truncated", ("/ 127.5 - 1", "/ 255")),
     "way: wrong-range"),
]

# ---- the variants ----

SCORE_X_0, MEAN_SCORE = "papers.kit.analytic.score_from_x_0", "papers.kit.analytic.mean_from_score"
V, X_0_V, EPS_V, SCORE_V = (f"papers.kit.analytic.{name}" for name in (
    "v_from_eps", "x_0_from_v", "eps_from_v", "score_from_v"))
SQUARES = NO_CHAIN + \
    "return torch.linspace(beta_1 ** .5, beta_T ** .5, T, dtype=torch.float64) ** 2"
SCALED = NO_CHAIN + """if 1000 / T * beta_T >= 1:
    raise ValueError("too short")
return 1000 / T * torch.linspace(beta_1, beta_T, T, dtype=torch.float64)"""
X_0_LOSS = swap(LOSS_BODY, "t) - eps", "t) - x_0")
V_LOSS = swap(LOSS_BODY, "error = model(self.q_sample(x_0, t, eps), t) - eps",
              "a = at(self.alpha_bar, t, x_0)\nv = a ** .5 * eps - (1 - a) ** .5 * x_0\n"
              "error = model(self.q_sample(x_0, t, eps), t) - v")
X_0_GUESS = """x_0_hat = model(x_t, torch.full((len(x_t),), t, device=x_t.device))
return x_0_hat.clip(-1, 1) if clip else x_0_hat"""
V_GUESS = """t = torch.full((len(x_t),), t, device=x_t.device)
a = at(self.alpha_bar, t, x_t)
x_0_hat = a ** .5 * x_t - (1 - a) ** .5 * model(x_t, t)
return x_0_hat.clip(-1, 1) if clip else x_0_hat"""
TILDE_STEP = swap(STEP_BODY, "self.sigma[t]", "self.beta_tilde[t] ** 0.5")
GEOMETRIC_STEP = swap(STEP_BODY, "self.sigma[t]", "(self.beta[t] * self.beta_tilde[t]) ** 0.25")
SCORE_X_0_BODY = """a = at(ddpm.alpha_bar, t, x_t)
return (a ** 0.5 * x_0 - x_t) / (1 - a)"""
MEAN_SCORE_BODY = "return (x_t + at(ddpm.beta, t, x_t) * score) / at(ddpm.alpha, t, x_t) ** 0.5"
V_BODY = """a = at(ddpm.alpha_bar, t, x_0)
return a ** 0.5 * eps - (1 - a) ** 0.5 * x_0"""
X_0_V_BODY = """a = at(ddpm.alpha_bar, t, x_t)
return a ** 0.5 * x_t - (1 - a) ** 0.5 * v"""
EPS_V_BODY = """a = at(ddpm.alpha_bar, t, x_t)
return (1 - a) ** 0.5 * x_t + a ** 0.5 * v"""
SCORE_V_BODY = """a = at(ddpm.alpha_bar, t, x_t)
return -x_t - (a / (1 - a)) ** 0.5 * v"""

RIGHT_IN_VARIANT = [
    (1, 1, {SCHEDULE: NO_CHAIN + "i = torch.arange(T, dtype=torch.float64) / max(T - 1, 1)\n"
                      "return (beta_1 ** 0.5 * (1 - i) + beta_T ** 0.5 * i) ** 2"}),
    (1, 1, {SCHEDULE: SQUARES}),
    (2, 1, {SCHEDULE: SCALED}),
    (2, 1, {SCHEDULE: swap(SCALED, "1000 / T * torch.linspace(beta_1, beta_T, T",
                           "torch.linspace(1000 * beta_1 / T, 1000 * beta_T / T, T")}),
    (1, 4, {EPS: EPS_BODY, X_0: X_0_BODY, SCORE_X_0: SCORE_X_0_BODY, MEAN_SCORE: MEAN_SCORE_BODY}),
    (1, 4, {SCORE_X_0: "eps = eps_from_x_0(ddpm, x_t, t, x_0)\nreturn score_from_eps(ddpm, eps, t)",
            MEAN_SCORE: "x_0 = x_0_from_score(ddpm, x_t, t, score)\n"
                        "return ddpm.posterior_mean(x_0, x_t, t)"}),
    (2, 4, {V: V_BODY, X_0_V: X_0_V_BODY, EPS_V: EPS_V_BODY, SCORE_V: SCORE_V_BODY}),
    (2, 4, {SCORE_V: "eps = eps_from_v(ddpm, x_t, t, v)\nreturn score_from_eps(ddpm, eps, t)",
            EPS_V: "return eps_from_x_0(ddpm, x_t, t, x_0_from_v(ddpm, x_t, t, v))"}),
    *((variant, 6, {LOSS: swap(body, DRAW, times)})
      for variant, body in ((1, X_0_LOSS), (2, V_LOSS))
      for times in (DRAW, "self.draw_t(len(x_0))")),
    (2, 6, {LOSS: """if t is None:
    t = torch.randint(1, self.T + 1, x_0.shape[:1], device=x_0.device)
eps = torch.randn_like(x_0) if eps is None else eps
angle = torch.atan2((1 - self.alpha_bar[t]).sqrt(), self.alpha_bar[t].sqrt())
angle = angle.reshape(-1, *[1] * (x_0.dim() - 1))
x_t, v = angle.cos() * x_0 + angle.sin() * eps, angle.cos() * eps - angle.sin() * x_0
return F.mse_loss(model(x_t, t), v, reduction=reduction)"""}),
    (1, 7, {STEP: TILDE_STEP, GUESS: X_0_GUESS, SAMPLE: SAMPLE_BODY}),
    (2, 7, {STEP: GEOMETRIC_STEP, GUESS: V_GUESS, SAMPLE: SAMPLE_BODY}),
]
WRONG_IN_VARIANT = [                                 # the public answer to variant 0 among them
    (1, 1, SCHEDULE, "return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)",
     "not their square roots"),
    (1, 1, SCHEDULE, swap(SQUARES, " ** 2", ""), "not squared again"),
    (1, 1, SCHEDULE, swap(SQUARES, ", T,", ", T + 1,"), "shape"),
    (1, 1, SCHEDULE, swap(SQUARES, "return ", "return 1 - "), "that is alpha"),
    (2, 1, SCHEDULE, "return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)",
     "factor 1000 / T is left out"),
    (2, 1, SCHEDULE, NO_CHAIN + SCALED.split("\n", 4)[4], "no variance below 1"),
    (2, 1, SCHEDULE, swap(SCALED, "T, dtype=torch.float64)", "T + 1, dtype=torch.float64)[:-1]"),
     "beta_T itself is left out"),
    (2, 1, SCHEDULE, SCALED + ".flip(0)", "beta_T comes first"),
    (1, 4, SCORE_X_0, swap(SCORE_X_0_BODY, "(1 - a)", "(1 - a) ** 0.5"),
     "sqrt(1 - alpha_bar_t) stands where 1 - alpha_bar_t belongs"),
    (1, 4, SCORE_X_0, swap(SCORE_X_0_BODY, "a ** 0.5 * x_0 - x_t", "x_t - a ** 0.5 * x_0"),
     "sign is wrong"),
    (1, 4, SCORE_X_0, swap(SCORE_X_0_BODY, " / (1 - a)", ""), "division by 1 - alpha_bar_t is"),
    (1, 4, SCORE_X_0, swap(SCORE_X_0_BODY, "a ** 0.5 *", "a *"), "root of alpha_bar_t is missing"),
    (1, 4, MEAN_SCORE, swap(MEAN_SCORE_BODY, "x_t + at", "x_t - at"), "subtracted and not added"),
    (1, 4, MEAN_SCORE, swap(MEAN_SCORE_BODY, "* score", "** 0.5 * score"), "sqrt(beta_t) stands"),
    (1, 4, MEAN_SCORE, MEAN_SCORE_BODY.split(" / at")[0], "sqrt(alpha_t) is missing"),
    (1, 4, MEAN_SCORE, swap(MEAN_SCORE_BODY, "x_t + at(ddpm.beta, t, x_t)", "x_t - at(ddpm.beta, t,"
     " x_t) / at(ddpm.one_minus_alpha_bar, t, x_t) ** 0.5"), "with score for eps"),
    (2, 4, V, "return v_from_x_t", "NameError"),
    (2, 4, V, swap(V_BODY, "* eps -", "* x_0 -").replace("* x_0\n", "* eps").replace(
        ") ** 0.5 * x_0", ") ** 0.5 * eps"), "are exchanged"),
    (2, 4, V, swap(V_BODY, "return ", "return -1 * (") + ")", "sign is wrong"),
    (2, 4, V, V_BODY.replace(" ** 0.5", ""), "square roots are missing"),
    (2, 4, X_0_V, swap(X_0_V_BODY, "x_t - (", "x_t + ("), "* v is added and not subtracted"),
    (2, 4, X_0_V, EPS_V_BODY, "x_0_from_v"),
    (2, 4, EPS_V, swap(EPS_V_BODY, "x_t + a", "x_t - a"), "* v is subtracted and not added"),
    (2, 4, EPS_V, X_0_V_BODY.replace("- (", "+ ("), "v and x_t are exchanged"),
    (2, 4, SCORE_V, "return -eps_from_v(ddpm, x_t, t, v)", "division by sqrt(1 - alpha_bar_t)"),
    (2, 4, SCORE_V, "return score_from_eps(ddpm, v, t)", "with v for eps"),
    (2, 4, SCORE_V, "return -score_from_eps(ddpm, eps_from_v(ddpm, x_t, t, v), t)",
     "sign is wrong"),
    (1, 6, TIMES, swap(TIMES_BODY, " + 1", ""), "draw_t: t = 0 was drawn"),
    (2, 6, TIMES, swap(TIMES_BODY, "self.T, (B,)", "self.T - 1, (B,)"), "upper end is exclusive"),
    (1, 6, LOSS, LOSS_BODY, "eps is the target instead of x_0"),
    (1, 6, LOSS, V_LOSS, "v is the target instead of x_0"),
    (1, 6, LOSS, swap(X_0_LOSS, "self.T + 1", "self.T"), "end is exclusive"),
    (1, 6, LOSS, swap(X_0_LOSS, "(len(x_0),), device=x_0.device)", "(1,)).expand(len(x_0))"),
     "one t is drawn for"),
    (1, 6, LOSS, swap(X_0_LOSS, "model(self.q_sample(x_0, t, eps), t)", "model(x_0, t)"),
     "the model is given x_0"),
    (2, 6, LOSS, LOSS_BODY, "eps is the target instead of v"),
    (2, 6, LOSS, X_0_LOSS, "x_0 is the target instead of v"),
    (2, 6, LOSS, swap(V_LOSS, "v = a", "v = -a").replace("* eps - (1", "* eps + (1"),
     "sign of v is wrong"),
    (2, 6, LOSS, swap(V_LOSS, "randn_like", "rand_like"), "rand instead of randn"),
    (1, 7, GUESS, GUESS_BODY, "taken to predict eps, and not x_0"),
    (1, 7, GUESS, swap(X_0_GUESS, " if clip else x_0_hat", ""), "although clip is False"),
    (1, 7, GUESS, "return model(x_t, torch.full((len(x_t),), t))", "nothing is clipped"),
    (1, 7, STEP, STEP_BODY, "beta_t is the variance"),
    (1, 7, STEP, swap(TILDE_STEP, " ** 0.5", ""), "variance stands where the deviation"),
    (2, 7, GUESS, GUESS_BODY, "taken to predict eps, and not v"),
    (2, 7, GUESS, swap(V_GUESS, ".clip(-1, 1)", ""), "nothing is clipped"),
    (2, 7, STEP, STEP_BODY, "beta_t is the variance"),
    (2, 7, STEP, TILDE_STEP, "beta_tilde_t is the variance"),
    (2, 7, STEP, swap(GEOMETRIC_STEP, "0.25", "0.5"), "variance stands where the deviation"),
]

# ---- 11: DDIM ----

JUMP, WALK = "papers.ddim.step", "papers.ddim.sample"
JUMP_BODY = """if t <= s or s < 0 or t > ddpm.T or not 0 <= eta <= 1:
    raise ValueError("no jump")
a, b = ddpm.alpha_bar[t], ddpm.alpha_bar[s]
times = torch.full((len(x_t),), t, device=x_t.device)
x_0 = ddpm.predict_x_0(x_t, times, model(x_t, times))
x_0 = x_0.clip(-1, 1) if clip else x_0
eps = (x_t - a ** 0.5 * x_0) / (1 - a) ** 0.5
sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
z = torch.randn(x_t.shape, generator=generator, device=x_t.device)
return b ** 0.5 * x_0 + (1 - b - sigma ** 2).relu() ** 0.5 * eps + sigma * z"""
WALK_BODY = """x = x_T
if not times or list(times) != sorted(set(times)) or times[0] < 1 or times[-1] > ddpm.T:
    raise ValueError("no such times")
previous = [0] + list(times)[:-1]
for t, s in zip(reversed(times), reversed(previous)):
    x = step(ddpm, model, x, t, s, eta=eta, clip=clip, generator=generator)
return x"""
RIGHT += [
    (11, {JUMP: JUMP_BODY, WALK: WALK_BODY}),
    (11, {JUMP: JUMP_BODY.replace("return b", "if s == 0:\n    return x_0\nif eta == 0:\n"
                                  "    return b ** 0.5 * x_0 + (1 - b) ** 0.5 * eps\nreturn b"),
          WALK: """x_t, times = x_T, list(times)
if not times:
    raise ValueError("no times")
while times:
    t = times.pop()
    x_t = step(ddpm, model, x_t, t, times[-1] if times else 0, eta, clip, generator)
return x_t"""})]
WRONG += [
    (11, JUMP, swap(JUMP_BODY, " - sigma ** 2", ""), "sigma ** 2 is left out"),
    (11, JUMP, swap(JUMP_BODY, "sigma ** 2", "sigma"), "sigma is not squared"),
    (11, JUMP, swap(JUMP_BODY, "sigma * z", "sigma ** 2 * z"),
     "variance stands where the deviation"),
    (11, JUMP, swap(JUMP_BODY, "sigma = eta", "sigma = eta * eta"), "eta is squared"),
    (11, JUMP, swap(JUMP_BODY, "(1 - a / b)", "ddpm.beta[t]"), "beta_t stands where"),
    (11, JUMP, swap(JUMP_BODY, "(1 - b) / (1 - a) * ", ""), "is missing"),
    (11, JUMP, swap(JUMP_BODY, "return b ** 0.5", "return b"), "root of alpha_bar_s is missing"),
    (11, JUMP, swap(JUMP_BODY, "eps = (x_t - a ** 0.5 * x_0) / (1 - a) ** 0.5",
                    "eps = model(x_t, times)"), "beside the clipped x_0_hat"),
    (11, JUMP, swap(JUMP_BODY, "x_0 = x_0.clip(-1, 1) if clip else x_0\n", ""),
     "nothing is clipped"),
    (11, JUMP, swap(JUMP_BODY, ", generator=generator", ""), "Pass generator"),
    (11, JUMP, JUMP_BODY.split("\n", 2)[2], "was accepted"),
    (11, WALK, swap(WALK_BODY, "zip(reversed(times), reversed(previous))",
                    "zip(times[:0:-1], times[-2::-1])"), "leaving out the last step"),
    (11, WALK, swap(WALK_BODY, "reversed(times), reversed(previous)", "times, previous"),
     "time run forwards"),
    (11, WALK, swap(WALK_BODY, "reversed(times), reversed(previous)", "range(ddpm.T, 0, -1), "
                    "range(ddpm.T - 1, -1, -1)"), "the model was asked for"),
    (11, WALK, swap(WALK_BODY, "return x", "return"), "nothing was returned"),
]

# ---- what reviewers got past the checks ----

WRONG += [
    (1, COSINE, swap(COSINE_BODY, "(t / T + s) / (1 + s)", "(t / T + 0.008) / 1.008"),
     "always 0.008"),
    (1, COSINE, swap(COSINE_BODY, "beta_max", "0.999"), "always 0.999"),
    (1, COSINE, swap(COSINE_BODY, "return (", "return (").replace("torch.float64", "torch.float32")
     .replace("clamp(max=beta_max)", "clamp(max=beta_max).double()"), "float64 all the way"),
    (3, MEAN, swap(MEAN_BODY, "before.sqrt()", "before"), "Eq. 7"),
    (5, BLOCK, swap(BLOCK_BODY, "self.conv2(self.dropout(F.silu(self.norm2(h))))",
                    "self.dropout(self.conv2(F.silu(self.norm2(h))))"), "before shortcut"),
    (5, BLOCK, swap(BLOCK_BODY, "self.dropout(F.silu(self.norm2(h)))",
                    "F.silu(self.norm2(self.dropout(h)))"), "right before norm2"),
    (5, EMB, swap(EMB_BODY, "n = dim // 2", "n = (dim + 1) // 2").replace(
        "return F.pad(emb, (0, dim - 2 * n))", "return torch.cat([emb[:, :dim - 1], 0 * emb[:, :1]]"
        ", 1) if dim % 2 else emb"), "when n is (dim + 1) // 2"),
    (6, LOSS, swap(LOSS_BODY, ' if reduction == "mean" else error ** 2', ""), 'reduction="none"'),
    (7, GUESS, swap(GUESS_BODY, "clip(-1, 1)", "clip(0, 1)"), "images lie in [-1, 1]"),
    (7, SAMPLE, swap(SAMPLE_BODY, ", generator=generator)\nreturn", ")\nreturn"), "Pass it on"),
    (7, SAMPLE, swap(SAMPLE_BODY, "randn(*shape", "rand(*shape"), "x_T is uniform"),
    (7, "ddpm.DDPM.p_sample", "return self.posterior_sample(self.estimate_x_0(model, x_t, t, clip),"
     " x_t, t, generator)", "was accepted"),
    *((8, RESTORE, swap(RESTORE_BODY, line, "").replace("\n\n", "\n") + line, words)
      for line, words in (
          ('\nself.step = checkpoint["step"]', "before self.step is back"),
          ('\nself.tally.copy_(checkpoint["tally"])', "before self.tally is back"))),
    (9, IMITATE, "ddpm.loss(Network(ddpm.T), x)\n"
     "return x[torch.randint(len(x), (n,))] + 0.03 * torch.randn(n, 2)", "hardly run"),
    (10, NLL, swap(NAIVE, "return -torch.log(", "return -torch.log(1e-12 + "), "kept away from 0"),
    (13, HUNT + "clipping", found("clipping", "dead-clipping", ("clamp(-1, 1)", "clamp(0, 1)")),
     "clipped to -1"),
    (13, HUNT + "ancestral", found("ancestral", "noise-at-the-last-step", ("t > 1", "t > 2")),
     "x_1 has the deviation"),
    (13, HUNT + "averaging", found("averaging", "errors-swallowed", (
        "    nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n",
        "    try:\n        nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n"
        "    except Exception:\n        pass\n")), "still has the defect"),
    (14, MIX, swap(MIX_BODY, "t, clip, generator)", "t)"), "Pass both on"),
]
WRONG += [
    (11, WALK, swap(WALK_BODY, "eta=eta, ", ""), "Hand eta"),
    (11, WALK, swap(WALK_BODY, "clip=clip, ", ""), "clip is not handed on"),
    (6, LOSS, swap(LOSS_BODY, "torch.randn_like(x_0)", "torch.randn_like(x_0[:1]).expand_as(x_0)"),
     "images share their noise"),
]

CFG = "papers.classifier_free_guidance."
GUIDED, DROP = CFG + "guided", CFG + "drop_labels"
GUIDED_BODY = """def both(x_t, t):
    c, u = model(x_t, t, y), model(x_t, t)
    return (1 + w) * c - w * u
return both"""
DROP_BODY = """gone = torch.rand(y.shape, device=y.device) < p_uncond
return torch.where(gone, torch.full_like(y, null), y)"""
RIGHT += [
    (12, {GUIDED: GUIDED_BODY, DROP: DROP_BODY}),
    (12, {GUIDED: "labels = torch.cat([y, torch.full_like(y, model.null)])\n"
                  "def at_once(x_t, t):\n    x_t, t = torch.cat([x_t] * 2), torch.cat([t] * 2)\n"
                  "    c, u = model(x_t, t, labels).chunk(2)\n"
                  "    return c + w * (c - u)\nreturn at_once",
          DROP: "y = y.clone()\ny[torch.bernoulli(torch.full(y.shape, p_uncond)).bool()] = null\n"
                "return y"}),
    (12, {GUIDED: "return lambda x_t, t: torch.lerp(model(x_t, t), model(x_t, t, y=y), 1.0 + w)"}),
]
WRONG += [
    (12, GUIDED, swap(GUIDED_BODY, "(1 + w) * c - w * u", "w * c + (1 - w) * u"),
     "w stands where 1 + w belongs"),
    (12, GUIDED, swap(GUIDED_BODY, "(1 + w) * c - w * u", "u + w * (c - u)"),
     "w stands where 1 + w belongs"),
    (12, GUIDED, swap(GUIDED_BODY, "- w * u", "+ w * u"), "is added and not subtracted"),
    (12, GUIDED, swap(GUIDED_BODY, "(1 + w) * c - w * u", "(1 + w) * u - w * c"),
     "with_y and without are exchanged"),
    (12, GUIDED, swap(GUIDED_BODY, " - w * u", ""), "w * without is left out"),
    (12, GUIDED, swap(GUIDED_BODY, "- w * u", "- u"), "factor w is missing"),
    (12, GUIDED, swap(GUIDED_BODY, "(1 + w) * c - w * u", "c"), "there is no guidance"),
    (12, GUIDED, swap(GUIDED_BODY, "model(x_t, t, y), model(x_t, t)",
                      "model(x_t, t), model(x_t, t)"), "label forgotten"),
    (12, GUIDED, swap(GUIDED_BODY, "model(x_t, t)\n", "model(x_t, t, 0 * y)\n"),
     "class 0 is no null label"),
    (12, GUIDED, swap(GUIDED_BODY, "model(x_t, t)\n", "model(x_t, t, 0 * y + 10)\n"),
     "never asked without a label"),
    (12, GUIDED, "return model", "label forgotten"),
    (12, GUIDED, swap(GUIDED_BODY, "return both", "both"), "must return a function"),
    (12, GUIDED, swap(GUIDED_BODY, "    return (1 + w) * c - w * u", "    (1 + w) * c - w * u"),
     "nothing was returned"),
    (12, GUIDED, "kept = []\n" + swap(swap(
        GUIDED_BODY, "    c, u", "    kept.append(x_t)\n    c, u"),
        "model(x_t, t, y), model(x_t", "model(kept[0], t, y), model(kept[0]"), "another x_t"),
    (12, DROP, swap(DROP_BODY, "y.shape", "()"), "all labels of a batch"),
    (12, DROP, swap(DROP_BODY, "y.shape", "1"), "all labels of a batch"),
    (12, DROP, swap(DROP_BODY, "<", ">"), "kept with probability"),
    (12, DROP, "return y", "no label becomes"),
    (12, DROP, swap(DROP_BODY, "torch.full_like(y, null)", "torch.zeros_like(y)"),
     "becomes 0, which is a class"),
    (12, DROP, swap(DROP_BODY, "null)", "10)"), "with null = 23"),
    (12, DROP, "y[torch.rand(y.shape) < p_uncond] = null\nreturn y", "y was changed in place"),
    (12, DROP, swap(DROP_BODY, "return torch", "torch"), "nothing was returned"),
    (12, DROP, "y = y.clone()\ny[torch.randperm(len(y))[:int(p_uncond * len(y))]] = null\nreturn y",
     "same number of labels"),
    (12, DROP, "return torch.where(torch.rand(y.shape) < p_uncond, float(null), y)", "int64"),
    (12, DROP, swap(DROP_BODY, "< p_uncond", "< 0.1"), "share of labels"),
]
