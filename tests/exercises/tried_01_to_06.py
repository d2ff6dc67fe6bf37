"""Answers to exercises 1 to 6, right and wrong, as they were tried: see answers.py."""
from answers import (BLOCK, BLOCK_BODY, COSINE, COSINE_BODY, DRAW, EMB, EMB_BODY, EPS, EPS_BODY,
                     EPS_V, LOSS, LOSS_BODY, MEAN, MEAN_BODY, MEAN_EPS, MEAN_EPS_BODY, MEAN_SCORE,
                     NO_CHAIN, PREDICT, PREDICT_BODY, Q, Q_BODY, SCHEDULE, SCORE, SCORE_BODY,
                     SCORE_V, SCORE_X_0, TIMES, TIMES_BODY, V, V_BODY, V_LOSS, X_0, X_0_BODY,
                     X_0_LOSS, X_0_V, X_0_V_BODY, swap)

ROOT = "beta_1 ** 0.5, beta_T ** 0.5"
SPACED = NO_CHAIN + "return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)"
SQUARE = "(error ** 2).mean()"
ERROR = "error = model(self.q_sample(x_0, t, eps), t) - "
X_T_TARGET = "x_t = self.q_sample(x_0, t, eps)\nerror = model(x_t, t) - x_t"
COLUMN = "t = torch.as_tensor(t).expand(len({x}))\nc = lambda values: values[t].view(-1, 1, 1, 1)\n"
POINTS = COLUMN.replace("view(-1, 1, 1, 1)", "view(-1, *[1] * ({x}.dim() - 1))")

RIGHT = [
    (1, {SCHEDULE: NO_CHAIN + "step = (beta_T - beta_1) / (T - 1) if T > 1 else 0.0\n"
         "return torch.tensor([beta_1 + step * i for i in range(T)], dtype=torch.float64)"}),
    (1, {SCHEDULE: NO_CHAIN + "import numpy\nreturn torch.from_numpy(numpy.linspace(beta_1, beta_T,"
         " T))"}),
    (1, {SCHEDULE: NO_CHAIN + "w = torch.arange(T).double() / max(T - 1, 1)\n"
         "return torch.lerp(torch.full_like(w, beta_1), torch.full_like(w, beta_T), w)"}),
    (1, {COSINE: NO_CHAIN + """def f(t):
    angle = (t / T + s) / (1 + s) * torch.pi / 2
    return (1 + torch.cos(2 * angle)) / 2
t = torch.arange(1, T + 1).double()
return torch.minimum(1 - f(t) / f(t - 1), torch.tensor(beta_max, dtype=torch.float64))"""}),
    (1, {COSINE: NO_CHAIN + """alpha_bar, beta = [1.0], []
f_0 = math.cos(s / (1 + s) * math.pi / 2) ** 2
for t in range(1, T + 1):
    alpha_bar.append(math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 / f_0)
    beta.append(min(1 - alpha_bar[t] / alpha_bar[t - 1], beta_max))
return torch.tensor(beta, dtype=torch.float64)"""}),
    (2, {Q: """a = self.alpha_bar[t].double()
if a.dim() == 0:
    a = a.expand(x_0.shape[0])
kept, added = torch.sqrt(a).float(), torch.sqrt(1 - a).float()
return torch.einsum("b,b...->b...", kept, x_0) + torch.einsum("b,b...->b...", added, eps)"""}),
    (2, {Q: COLUMN.format(x="x_0") + "return c(self.alpha_bar) ** 0.5 * x_0 + c("
         "self.one_minus_alpha_bar) ** 0.5 * eps"}),
    (2, {Q: """if isinstance(t, int):
    t = [t] * len(x_0)
rows = []
for x, e, time in zip(x_0, eps, t):
    rows.append(self.alpha_bar[time].sqrt() * x + self.one_minus_alpha_bar[time].sqrt() * e)
return torch.stack(rows)"""}),
    (2, {Q: "mean, std = at(self.alpha_bar, t, x_0).sqrt() * x_0, at(self.one_minus_alpha_bar, t, "
         "x_0).sqrt()\nreturn torch.addcmul(mean, std.expand_as(eps), eps)"}),
    (3, {MEAN: COLUMN.format(x="x_0") + """a, b = c(self.alpha), c(self.beta)
bar, before = c(self.alpha_bar), self.alpha_bar[t - 1].view(-1, 1, 1, 1)
out = before.sqrt() * b * x_0 + a.sqrt() * (1 - before) * x_t
return out / (1 - bar)"""}),
    (3, {MEAN: """t = torch.full((len(x_0),), t) if isinstance(t, int) else t
a, b = self.alpha[t].double(), self.beta[t].double()
before, now = self.one_minus_alpha_bar[t - 1].double(), self.one_minus_alpha_bar[t].double()
one, two = (1 - before).sqrt() * b / now, a.sqrt() * before / now
return (torch.einsum("b,bchw->bchw", one, x_0.double())
        + torch.einsum("b,bchw->bchw", two, x_t.double())).to(x_0.dtype)"""}),
    (3, {MEAN: """share = at(self.beta_tilde, t, x_0) / at(self.beta, t, x_0)
mean_x_0 = at(self.alpha_bar, t - 1, x_0).sqrt() * (at(self.beta, t, x_0)
                                                      / at(self.one_minus_alpha_bar, t, x_0))
return mean_x_0 * x_0 + share * at(self.alpha, t, x_0).sqrt() * x_t"""}),
    (3, {MEAN: """times = [t] * len(x_0) if isinstance(t, int) else t
out = torch.empty_like(x_0)
for i, time in enumerate(times):
    now, before = self.one_minus_alpha_bar[time], self.one_minus_alpha_bar[time - 1]
    out[i] = self.alpha_bar[time - 1].sqrt() * self.beta[time] / now * x_0[i]
    out[i] += self.alpha[time].sqrt() * before / now * x_t[i]
return out"""}),
    (4, {EPS: POINTS.replace("{x}", "x_t") + "return torch.sub(x_t, c(ddpm.alpha_bar).sqrt() * x_0)"
         ".div(c(ddpm.one_minus_alpha_bar).sqrt())"}),
    (4, {PREDICT: "a = at(self.alpha_bar, t, x_t).double()\nx = x_t.double() - (1 - a).sqrt() * "
         "eps_theta.double()\nreturn (x * a.rsqrt()).float()",
         SCORE: "return eps.neg() * at(ddpm.one_minus_alpha_bar, t, eps).rsqrt()"}),
    (4, {X_0: "a, b = at(ddpm.alpha_bar, t, x_t), at(ddpm.one_minus_alpha_bar, t, x_t)\n"
         "return x_t / a.sqrt() + b / a.sqrt() * score"}),
    (4, {MEAN_EPS: "a = at(ddpm.alpha, t, x_t)\nreturn a ** -0.5 * (x_t - (1 - a) / (1 - at("
         "ddpm.alpha_bar, t, x_t)).sqrt() * eps_theta)"}),
    (4, {MEAN_EPS: "score = score_from_eps(ddpm, eps_theta, t)\nb = at(ddpm.beta, t, x_t)\n"
         "return (x_t + b * score) / (1 - b).sqrt()",
         SCORE: "return torch.div(-eps, at(ddpm.one_minus_alpha_bar, t, eps) ** .5)"}),
    (5, {EMB: """if dim <= 3:
    raise ValueError("dim")
n = dim // 2
w = torch.logspace(0, -4, n, device=t.device)
emb = torch.zeros(len(t), dim, device=t.device)
emb[:, :n] = torch.sin(torch.outer(t.float(), w))
emb[:, n:2 * n] = torch.cos(torch.outer(t.float(), w))
return emb"""}),
    (5, {EMB: """if dim < 4:
    raise ValueError("dim")
half = dim // 2
w = (-math.log(10000.0) * torch.arange(half).to(t.device).double() / (half - 1)).exp()
arg = torch.einsum("b,i->bi", t.double(), w)
emb = torch.cat((arg.sin(), arg.cos()), -1)
if dim % 2 == 1:
    emb = torch.cat((emb, torch.zeros_like(emb[:, :1])), -1)
return emb.float()"""}),
    (5, {BLOCK: """h = F.silu(self.norm1(x))
h = self.conv1(h)
B, C = h.shape[:2]
h = h + self.emb(F.silu(emb)).view(B, C, 1, 1).expand_as(h)
h = F.dropout(F.silu(self.norm2(h)), self.dropout.p, self.training)
out = self.shortcut(x)
return self.attention(torch.add(out, self.conv2(h)))"""}),
    (5, {BLOCK: """swish = lambda y: y * torch.sigmoid(y)
time = torch.einsum("bi,oi->bo", swish(emb), self.emb.weight) + self.emb.bias
h = torch.einsum("bchw->hwbc", self.conv1(swish(self.norm1(x)))) + time
h = h.permute(2, 3, 0, 1)
h = self.conv2(self.dropout(swish(self.norm2(h))))
return self.attention(h + self.shortcut(x))"""}),
    (6, {LOSS: """t = self.draw_t(x_0.size(0)) if t is None else t
eps = torch.empty_like(x_0).normal_() if eps is None else eps
x_t = at(self.alpha_bar, t, x_0).sqrt() * x_0 + at(self.one_minus_alpha_bar, t, x_0).sqrt() * eps
squares = (eps - model(x_t, t)).pow(2)
return {"mean": squares.mean(), "none": squares}[reduction]"""}),
    (6, {LOSS: """t = t if t is not None else self.draw_t(len(x_0))
eps = eps if eps is not None else torch.randn(*x_0.shape).to(x_0)
error = torch.nn.MSELoss(reduction=reduction)
return error(input=model(self.q_sample(x_0=x_0, t=t, eps=eps), t), target=eps)"""}),
    (6, {LOSS: swap(LOSS_BODY, "torch.randn_like(x_0)", "torch.normal(torch.zeros_like(x_0), "
                    "torch.ones_like(x_0))")}),
    (6, {TIMES: "return torch.randint(low=1, high=self.T + 1, size=[B]).to(self.beta.device)"}),
    (6, {TIMES: "times = [int(torch.randint(1, self.T + 1, ())) for _ in range(B)]\n"
         "return torch.tensor(times, device=self.beta.device)"}),
]

WRONG = [
    # 1
    (1, SCHEDULE, swap(SPACED, NO_CHAIN, ""), "linear_beta_schedule(0), was accepted"),
    (1, COSINE, swap(COSINE_BODY, NO_CHAIN, ""), "cosine_beta_schedule(0), was accepted"),
    (1, SCHEDULE, swap(SPACED, "ValueError", "TypeError"), "expected a ValueError, got TypeError"),
    (1, SCHEDULE, swap(SPACED, "T < 1", "T < 2"), "no chain"),
    (1, SCHEDULE, NO_CHAIN + "step = (beta_T - beta_1) / (T - 1)\nreturn torch.tensor([beta_1 + i *"
     " step for i in range(T)], dtype=torch.float64)", "ZeroDivisionError"),
    (1, COSINE, NO_CHAIN + """t = [i / (T - 1) for i in range(T + 1)]
f = [math.cos((each + s) / (1 + s) * math.pi / 2) ** 2 for each in t]
return torch.tensor([min(1 - f[i + 1] / f[i], beta_max) for i in range(T)], dtype=torch.float64)""",
     "cosine_beta_schedule(10)"),
    (1, SCHEDULE, swap(SPACED, "return ", "return torch.cat([torch.zeros(1), ") + "])",
     "beta_0 = 0 is DDPM's"),
    (1, COSINE, swap(COSINE_BODY, "return (", "return torch.cat([torch.zeros(1), (") + "])",
     "beta_0 = 0 is DDPM's"),
    (1, COSINE, swap(COSINE_BODY, "math.pi / 2", "math.pi"), "pi stands where pi / 2"),
    (1, COSINE, swap(COSINE_BODY, " * math.pi / 2", ""), "factor pi / 2 is missing"),
    (1, COSINE, swap(COSINE_BODY, "return (1 - alpha_bar", "return (alpha_bar"), "that is alpha"),
    (1, COSINE, COSINE_BODY.split("return (1")[0] + "return alpha_bar[1:]", "alpha_bar is ret"),
    (1, SCHEDULE, SPACED.replace("return ", "return (1 - ") + ").cumprod(0)", "alpha_bar is ret"),
    (1, SCHEDULE, NO_CHAIN + "i = torch.arange(T, dtype=torch.float64)\n"
     "return beta_1 + (beta_T - beta_1) * i / T", "beta_T itself is left out"),
    (1, SCHEDULE, NO_CHAIN + "i = torch.arange(1, T + 1, dtype=torch.float64)\n"
     "return beta_1 + (beta_T - beta_1) * i / T", "beta_1 itself is left out"),
    (1, SCHEDULE, swap(SPACED, "beta_1, beta_T", "beta_T, beta_1"), "beta_T comes first"),
    (1, SCHEDULE, SPACED + ".float()", "expected torch.float64, got torch.float32"),
    (1, SCHEDULE, SPACED + ".float().double()", "float64 all the way"),
    (1, SCHEDULE, SPACED + ".numpy()", "torch.as_tensor makes one"),
    (1, SCHEDULE, SPACED + ".tolist()", "a tuple or a list"),
    (1, SCHEDULE, SPACED + "[:, None]", "expected the shape (5,), got (5, 1)"),
    (1, SCHEDULE, swap(SPACED, "beta_1, beta_T", "1e-4, 0.02"), "linear_beta_schedule(5, 0.1"),
    (1, SCHEDULE, swap(SPACED, "linspace(beta_1, beta_T, T", "linspace(beta_1, beta_T, 1000"),
     "expected the shape (5,), got (1000,)"),
    (1, COSINE, swap(COSINE_BODY, " / (1 + s)", ""), "division by 1 + s is missing"),
    (1, COSINE, swap(COSINE_BODY, "f / f[0]", "torch.cat([torch.ones(1), f[1:]])"), "by f(0)"),
    (1, COSINE, swap(COSINE_BODY, "1 - alpha_bar[1:] / alpha_bar[:-1]", "alpha_bar[:-1] - "
                     "alpha_bar[1:]"), "is not divided"),
    (1, COSINE, swap(COSINE_BODY, ".clamp(max=beta_max)", ".clamp(max=0.99)"), "expected"),
    (1, COSINE, swap(COSINE_BODY, "alpha_bar = f / f[0]", "alpha_bar = (f / f[0]).clamp(min=1 - "
                     "beta_max)"), "alpha_bar is clipped instead"),
    (1, COSINE, swap(COSINE_BODY, "torch.arange(T + 1", "torch.arange(T"), "expected the shape"),
    (1, SCHEDULE, "return torch.zeros(T, dtype=torch.float64)", "expected"),
    # 2
    (2, Q, Q_BODY.replace("x_0 +", "eps +").replace("* eps", "* x_0").replace(
        "a.sqrt() * x_0 +", "a.sqrt() * eps +"), "eps and x_0 are exchanged"),
    (2, Q, swap(Q_BODY, "x_0 + b", "x_0 - b"), "is subtracted and not added"),
    (2, Q, swap(Q_BODY, "a.sqrt() * x_0 + ", "x_0 + "), "factor sqrt(alpha_bar_t) is missing"),
    (2, Q, swap(Q_BODY, "b.sqrt() * eps", "eps"), "factor sqrt(1 - alpha_bar_t) is missing"),
    (2, Q, swap(Q_BODY, "a.sqrt() * x_0 + ", ""), "is left out"),
    (2, Q, "return at(self.alpha_bar, t, x_0).sqrt() * x_0", "is left out"),
    (2, Q, swap(Q_BODY, ".sqrt()", ""), "square roots are missing"),
    (2, Q, "a = at(self.alpha_bar, t, x_0).sqrt()\nreturn a * x_0 + (1 - a).sqrt() * eps",
     "sqrt(alpha_bar_t) stands where alpha_bar_t belongs"),
    (2, Q, swap(Q_BODY, "self.one_minus_alpha_bar", "self.beta"),
     "alpha_t stands where alpha_bar_t belongs, in 1 - alpha_bar_t"),
    (2, Q, swap(Q_BODY, "t, x_0", "(torch.as_tensor(t) + 1).clamp(max=self.T), x_0"),
     "t + 1 stands where t belongs"),
    (2, Q, swap(Q_BODY, "return a.sqrt()", "return a.double().sqrt()"), "got torch.float64"),
    (2, Q, swap(Q_BODY, "return ", "x_0 *= 1\nx_0 += 1\nreturn "),
     "x_0 was changed in place"),
    (2, Q, Q_BODY.replace("return a.sqrt() * x_0 + b.sqrt() * eps",
                          "eps *= b.sqrt()\nreturn a.sqrt() * x_0 + eps"), "eps was changed in"),
    (2, Q, swap(Q_BODY, "return ", ""), "Is there a `return`"),
    (2, Q, swap(Q_BODY, "* eps", "* torch.randn_like(x_0)"), "q_sample"),
    (2, Q, swap(Q_BODY, "* eps", "* eps, eps"), "a tuple or a list"),
    (2, Q, Q_BODY + ".clamp(-1, 1)", "q_sample"),
    (2, Q, "return x_0", "x_0 is returned as it is"),
    (2, Q, "return x_0 + at(self.one_minus_alpha_bar, t, x_0).sqrt() * eps", "factor sqrt(alpha"),
    (2, Q, Q_BODY + ".mean(1, keepdim=True)", "q_sample"),
    (2, Q, swap(Q_BODY, "t, x_0", "t.reshape(-1), x_0"), "AttributeError"),
    (2, Q, swap(Q_BODY, "a, b", "t = t.long()\na, b"), "AttributeError"),
    (2, Q, Q_BODY.replace("a.sqrt() * x_0 + b.sqrt() * eps", "(a.sqrt() * x_0 + b.sqrt() * eps)"
                          ".numpy()"), "torch.as_tensor makes one"),
    # 3
    (3, MEAN, swap(MEAN_BODY, "alpha.sqrt()", "alpha"), "square root of alpha_t is missing"),
    (3, MEAN, swap(MEAN_BODY, "* beta", "* beta.sqrt()"), "sqrt(beta_t) stands where beta_t"),
    (3, MEAN, swap(MEAN_BODY, "self.alpha, t", "self.alpha, t - 1"), "alpha_{t-1} stands where al"),
    (3, MEAN, swap(MEAN_BODY, "self.beta, t", "self.beta, t - 1"), "beta_{t-1} stands where be"),
    (3, MEAN, "t = t - 1\n" + MEAN_BODY, "t - 1 stands where t belongs"),
    (3, MEAN, MEAN_BODY.replace("t, x_0", "t + 1, x_0").replace("t - 1, x_0", "t, x_0").replace(
        "t + 1", "(torch.as_tensor(t) + 1).clamp(max=self.T)"), "t + 1 stands where t belongs"),
    (3, MEAN, swap(MEAN_BODY, "one_minus_alpha_bar, t - 1", "alpha_bar, t - 1"),
     "alpha_bar_{t-1} stands where 1 - alpha_bar_{t-1}"),
    (3, MEAN, swap(MEAN_BODY, "one_minus_alpha_bar, t, ", "alpha_bar, t, "),
     "alpha_bar_t stands where 1 - alpha_bar_t"),
    (3, MEAN, swap(MEAN_BODY, "one_minus_alpha_bar, t, ", "one_minus_alpha_bar, t - 1, "),
     "alpha_bar_{t-1} stands where alpha_bar_t belongs"),
    (3, MEAN, MEAN_BODY.replace("t - 1, x_0", "T, x_0").replace("t, x_0", "t - 1, x_0").replace(
        "T, x_0", "t, x_0").replace("self.alpha, t - 1", "self.alpha, t").replace(
        "self.beta, t - 1", "self.beta, t"), "alpha_bar_t and alpha_bar_{t-1} are exchanged"),
    (3, MEAN, swap(MEAN_BODY, "x_0 + alpha", "x_0 - alpha"), "is subtracted and not added"),
    (3, MEAN, swap(MEAN_BODY, "before.sqrt() * beta", "before.sqrt()"), "factor beta_t is missing"),
    (3, MEAN, swap(MEAN_BODY, "alpha.sqrt() * rest", "rest"), "factor sqrt(alpha_t) is missing"),
    (3, MEAN, swap(MEAN_BODY, "alpha.sqrt() * rest", "alpha.sqrt()"), "factor 1 - alpha_bar_{t-1}"),
    (3, MEAN, "return x_0", "x_0 is returned as it is"),
    (3, MEAN, "return x_t", "x_t is returned as it is"),
    (3, MEAN, MEAN_BODY.split(" + alpha")[0], "is left out"),
    (3, MEAN, MEAN_BODY + ", at(self.beta_tilde, t, x_0)", "a tuple or a list"),
    (3, MEAN, swap(MEAN_BODY, "return ", ""), "Is there a `return`"),
    (3, MEAN, MEAN_BODY.replace("return ", "return 2 * (") + ")", "twice as much"),
    (3, MEAN, swap(MEAN_BODY, "x_0 + alpha", "x_0.double() + alpha"), "got torch.float64"),
    (3, MEAN, "x_t *= 1.0001\n" + MEAN_BODY, "x_t was changed in place"),
    (3, MEAN, "at = lambda c, t, x: c[t]\n" + MEAN_BODY, "laid along the last axis"),
    (3, MEAN, "t = t if isinstance(t, int) else int(t[0])\n" + MEAN_BODY, "time of the first"),
    (3, MEAN, MEAN_BODY.replace("at(self.one_minus_alpha_bar, t, x_0)",
                                "at(self.one_minus_alpha_bar, t, x_0).sqrt()"),
     "sqrt(1 - alpha_bar_t) stands where 1 - alpha_bar_t belongs"),
    (3, MEAN, "import math\nif t == 1:\n    return x_0\n" + MEAN_BODY, "RuntimeError"),
    # 4
    (4, EPS, swap(EPS_BODY, "x_t - a", "x_t + a"), "* x_0 is added and not subtracted"),
    (4, EPS, swap(EPS_BODY, "/ b", "* b"), "is multiplied by sqrt(1 - alpha_bar_t)"),
    (4, EPS, swap(EPS_BODY, "a ** 0.5 * x_0", "x_0"), "factor sqrt(alpha_bar_t) is missing"),
    (4, EPS, "x_t, x_0 = x_0, x_t\n" + EPS_BODY, "x_0 and x_t are exchanged"),
    (4, EPS, EPS_BODY.replace(", t, x_t)", ", t - 1, x_t)"), "off by one"),
    (4, EPS, EPS_BODY.replace(" ** 0.5", ""), "square roots are missing"),
    (4, EPS, swap(EPS_BODY, "return (x_t", "return (x_t.double()"), "got torch.float64"),
    (4, EPS, "x_t -= at(ddpm.alpha_bar, t, x_t).sqrt() * x_0\n"
     "return x_t / at(ddpm.one_minus_alpha_bar, t, x_t).sqrt()", "x_t was changed in place"),
    (4, EPS, "return torch.randn_like(x_t)", "eps_from_x_0"),
    (4, EPS, swap(EPS_BODY, "return ", ""), "Is there a `return`"),
    (4, PREDICT, swap(PREDICT_BODY, "b.sqrt()", "b"), "square root of 1 - alpha_bar_t is missing"),
    (4, PREDICT, swap(PREDICT_BODY, "self.alpha_bar", "self.alpha"), "alpha_t stands where alp"),
    (4, PREDICT, PREDICT_BODY.replace("return ", "return torch.clamp(") + ", -1, 1)", "Eq. 15"),
    (4, PREDICT, swap(PREDICT_BODY, "/ a", "* a"), "is multiplied by sqrt(alpha_bar_t)"),
    (4, PREDICT, "return at(self.alpha_bar, t, x_t).sqrt() * x_t", "predict_x_0"),
    (4, PREDICT, swap(PREDICT_BODY, "b.sqrt() * eps", "eps"), "factor sqrt(1 - alpha_bar_t) is"),
    (4, SCORE, swap(SCORE_BODY, "-eps", "eps"), "the sign is wrong"),
    (4, SCORE, swap(SCORE_BODY, "/ at", "* at"), "is multiplied by sqrt(1 - alpha_bar_t) and not"),
    (4, SCORE, swap(SCORE_BODY, "one_minus_alpha_bar", "beta"), "alpha_t stands where alpha_bar_t"),
    (4, SCORE, "return eps", "eps is returned as it is"),
    (4, X_0, swap(X_0_BODY, "/ a.sqrt()", "/ a"), "square root of alpha_bar_t is missing"),
    (4, X_0, swap(X_0_BODY, "b * score", "score"), "factor 1 - alpha_bar_t is missing"),
    (4, X_0, "return x_t + score", "x_0_from_score"),
    (4, X_0, swap(X_0_BODY, "one_minus_alpha_bar", "beta"), "alpha_t stands where alpha_bar_t"),
    (4, X_0, "return ddpm.predict_x_0(x_t, t, score)", "predict_x_0 stands here, with score for e"),
    (4, X_0, "return x_t", "x_t is returned as it is"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "x_t - beta", "x_t + beta"), "is added and not subtracted"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "b.sqrt()", "b"), "root of 1 - alpha_bar_t is missing"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "ddpm.alpha, t", "ddpm.alpha, t - 1"), "alpha_{t-1} stands"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "x_t).sqrt()", "x_t)"), "square root of alpha_t is missing"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "beta / b.sqrt() * ", ""), "is missing"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "beta / b.sqrt()", "beta"), "division by sqrt(1 - alpha_bar"),
    (4, MEAN_EPS, swap(MEAN_EPS_BODY, "t, x_t), at", "t.reshape(-1), x_t), at"), "AttributeError"),
    # 5
    (5, EMB, swap(EMB_BODY, ", device=t.device", ""), "on the CPU"),
    (5, EMB, swap(EMB_BODY, "10000", "1000"), "timestep_embedding"),
    (5, EMB, swap(EMB_BODY, "10000 **", "math.e **"), "e stands where 10000 belongs"),
    (5, EMB, swap(EMB_BODY, "return F.pad(emb, (0, dim - 2 * n))", "return emb"), "shape"),
    (5, EMB, swap(EMB_BODY, "(0, dim - 2 * n)", "(dim - 2 * n, 0)"), "the 0 comes first"),
    (5, EMB, EMB_BODY.split("\n", 2)[2], "expected a ValueError, got ZeroDivision"),
    (5, EMB, swap(EMB_BODY, "ValueError", "AssertionError"), "a ValueError, got AssertionError"),
    (5, EMB, swap(EMB_BODY, "dim < 4", "dim < 8"), "too few"),
    (5, EMB, swap(EMB_BODY, "dim < 4", "dim % 2"), "too few"),
    (5, EMB, "t = t - 1\n" + EMB_BODY, "t is off by one"),
    (5, EMB, swap(EMB_BODY, "cos", "sin"), "timestep_embedding"),
    (5, EMB, EMB_BODY + ".double()", "got torch.float64"),
    (5, EMB, EMB_BODY + ".long()", "timestep_embedding"),
    (5, EMB, "t += 1\n" + EMB_BODY, "t was changed in place"),
    (5, EMB, swap(EMB_BODY, "return ", ""), "Is there a `return`"),
    (5, EMB, swap(EMB_BODY, "dim=1)", "dim=0)"), "shape"),
    (5, EMB, "t = t / 1000\n" + EMB_BODY, "timestep_embedding"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(self.norm1(x))", "self.norm1(x)"), "silu1 is left out"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(self.norm2(h))", "self.norm2(h)"), "silu2 is left out"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(self.norm1(x))", "F.silu(x)"), "norm1 is left out"),
    (5, BLOCK, swap(BLOCK_BODY, "self.norm2", "self.norm1"), "norm1 stands where norm2 belongs"),
    (5, BLOCK, swap(BLOCK_BODY, "self.conv2", "self.conv1"), "conv1 stands where conv2 belongs"),
    (5, BLOCK, swap(BLOCK_BODY, "self.shortcut(x)", "x"), "size of tensor"),
    (5, BLOCK, swap(BLOCK_BODY, "h + self.shortcut(x)", "h) + self.shortcut(x"), "before shortcut"),
    (5, BLOCK, swap(BLOCK_BODY, "self.norm2(h)", "self.norm2(self.dropout(h))").replace(
        "self.dropout(F.silu", "(F.silu"), "dropout comes right before norm2"),
    (5, BLOCK, BLOCK_BODY.replace("self.dropout(F.silu(self.norm2(h)))",
                                  "F.silu(self.dropout(self.norm2(h)))"),
     "silu2 comes right before conv2"),
    (5, BLOCK, swap(BLOCK_BODY, "self.dropout(", "F.dropout("), "ResidualBlock"),
    (5, BLOCK, swap(BLOCK_BODY, "self.dropout(F.silu(self.norm2(h)))", "F.dropout(F.silu(self.norm2"
                    "(h)), self.dropout.p)"), "dropout in eval mode, too"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu", "F.gelu"), "ResidualBlock"),
    (5, BLOCK, "x = F.silu(x, inplace=True)\n" + BLOCK_BODY, "x was changed in place"),
    (5, BLOCK, "x += 1\n" + BLOCK_BODY, "x was changed in place"),
    (5, BLOCK, swap(BLOCK_BODY, "F.silu(emb)", "F.silu(emb, inplace=True)"), "emb was changed in"),
    (5, BLOCK, swap(BLOCK_BODY, ".unsqueeze(2).unsqueeze(3)", ""), "size of tensor"),
    (5, BLOCK, swap(BLOCK_BODY, "h = h + self.emb", "h = h * self.emb"), "ResidualBlock"),
    (5, BLOCK, swap(BLOCK_BODY, "return ", ""), "Is there a `return`"),
    (5, BLOCK, "return self.attention(self.shortcut(x))", "ResidualBlock"),
    (5, BLOCK, BLOCK_BODY + " / 2 ** 0.5", "ResidualBlock"),
    # 6
    (6, LOSS, swap(LOSS_BODY, ", device=x_0.device", ""), "on the CPU"),
    (6, LOSS, swap(LOSS_BODY, "torch.randn_like(x_0)", "torch.randn(x_0.shape)"), "on the CPU"),
    (6, LOSS, swap(LOSS_BODY, "torch.randn_like(x_0)", "torch.randn_like(x_0[:, :1]).expand_as(x_0)"
                   ), "channels share their noise"),
    (6, LOSS, swap(LOSS_BODY, "torch.randn_like(x_0)", "torch.randn_like(x_0[..., :1]).expand_as("
                   "x_0)"), "columns of pixels share"),
    (6, LOSS, swap(LOSS_BODY, SQUARE, "(error ** 2).mean() / 2"), "half as much"),
    (6, LOSS, LOSS_BODY.replace("error ** 2", "error ** 2 / 2"), "half as much"),
    (6, LOSS, swap(LOSS_BODY, SQUARE, "F.smooth_l1_loss(error, 0 * error)"), "Huber"),
    (6, LOSS, swap(LOSS_BODY, ERROR + "eps", X_T_TARGET), "x_t is the target"),
    (6, LOSS, swap(LOSS_BODY, SQUARE, "(error ** 2).sum() / len(x_0)"),
     "averaged over the batch"),
    (6, LOSS, swap(LOSS_BODY, SQUARE, "(error ** 2).mean().sqrt()"), "root of the m"),
    (6, LOSS, swap(LOSS_BODY, SQUARE, "error.mean()"), "are not squared"),
    (6, LOSS, swap(LOSS_BODY, "t) - eps", "t) + eps"), "sign of the target is wrong"),
    (6, LOSS, swap(LOSS_BODY, "return (error ** 2).mean()", "return (error ** 2).mean().item()"),
     "no gradient"),
    (6, LOSS, swap(LOSS_BODY, "if eps is None:\n    ", ""), "x_t as the model sees it"),
    (6, LOSS, swap(LOSS_BODY, "if t is None:\n    ", ""), "the times the model is asked for"),
    (6, LOSS, swap(LOSS_BODY, "eps), t) - eps", "torch.randn_like(x_0)), t) - eps"), "x_t as the"),
    (6, LOSS, swap(LOSS_BODY, "self.q_sample(x_0, t, eps)", "self.q_sample(x_0, t - 1, eps)"),
     "t - 1 stands where t belongs"),
    (6, LOSS, swap(LOSS_BODY, "eps), t) -", "eps), t / self.T) -"), "the times the model is asked"),
    (6, LOSS, swap(LOSS_BODY, "eps), t) -", "eps), t - 1) -"), "the times the model is asked for"),
    (6, LOSS, swap(LOSS_BODY, "model(self.q_sample(x_0, t, eps), t)", "model(t, self.q_sample(x_0, "
                   "t, eps))"), "x_t in model(x_t, t)"),
    (6, LOSS, swap(LOSS_BODY, "self.q_sample(x_0, t, eps)", "self.q_sample(eps, t, x_0)"),
     "eps and x_0 are exchanged"),
    (6, LOSS, swap(LOSS_BODY, "self.q_sample(x_0, t, eps)", "x_0 + eps"), "x_t as the model sees"),
    (6, LOSS, swap(LOSS_BODY, "return (", "("), "Is there a `return`"),
    (6, LOSS, swap(LOSS_BODY, SQUARE, "(error ** 2).double().mean()"), "float64"),
    (6, LOSS, "x_0 *= 2\n" + LOSS_BODY, "x_0 was changed in place"),
    (6, LOSS, "torch.manual_seed(0)\n" + LOSS_BODY, "drew the same noise"),
    (6, LOSS, swap(LOSS_BODY, "error = ", "model(x_0, t)\nerror = "), "called 2 times"),
    (6, LOSS, "import numpy\nx_t = x_0\n" + swap(LOSS_BODY, ", t) - eps", ", t).numpy() - eps"),
     "RuntimeError"),
    (6, LOSS, swap(LOSS_BODY, "error = ", "with torch.no_grad():\n    error = "), "no gradient"),
    (6, TIMES, swap(TIMES_BODY, ", device=self.beta.device", ""), "device=self.beta.device"),
    (6, TIMES, "return int(torch.randint(1, self.T + 1, ()))", "expected a torch.Tensor, got int"),
    (6, TIMES, "return torch.arange(B) % self.T + 1", "drew the same times"),
    (6, TIMES, "return torch.randint(1, 1001, (B,), device=self.beta.device)", "and T is 4"),
    (6, TIMES, "import numpy\nreturn numpy.random.randint(1, self.T + 1, B)", "numpy.ndarray"),
    (6, TIMES, swap(TIMES_BODY, "(B,)", "()"), "expected the shape"),
    (6, TIMES, "return (torch.rand(B, device=self.beta.device) * self.T).round().long().clamp(1)",
     "not uniform"),
]

RIGHT_IN_VARIANT = [
    (1, 1, {SCHEDULE: NO_CHAIN + f"first, last = {ROOT}\nstep = (last - first) / max(T - 1, 1)\n"
            "return torch.tensor([(first + step * i) ** 2 for i in range(T)], "
            "dtype=torch.float64)"}),
    (2, 1, {SCHEDULE: NO_CHAIN + "scale = 1000 / T\nif scale * beta_T >= 1:\n    raise ValueError('"
            "T')\nreturn torch.linspace(scale * beta_1, scale * beta_T, steps=T, "
            "dtype=torch.float64)"}),
    (1, 4, {MEAN_SCORE: "a = at(ddpm.alpha, t, x_t)\nreturn x_t / a.sqrt() + (1 - a) / a.sqrt() * "
            "score", SCORE_X_0: "a = at(ddpm.alpha_bar, t, x_t)\nnormal = x_t - a.sqrt() * x_0\n"
            "return -normal / at(ddpm.one_minus_alpha_bar, t, x_t)"}),
    (2, 4, {V: POINTS.replace("{x}", "x_0") + "a = c(ddpm.alpha_bar)\n"
            "return torch.addcmul(a.sqrt() * eps, (1 - a).sqrt().expand_as(x_0), x_0, value=-1)",
            X_0_V: "phi = torch.acos(at(ddpm.alpha_bar, t, x_t).sqrt())\n"
            "return phi.cos() * x_t - phi.sin() * v"}),
    (1, 6, {LOSS: "t = self.draw_t(len(x_0)) if t is None else t\neps = torch.randn_like(x_0) if "
            "eps is None else eps\nguess = model(self.q_sample(x_0, t, eps), t)\n"
            "return F.mse_loss(x_0, guess, reduction=reduction)"}),
]

WRONG_IN_VARIANT = [
    (1, 1, SCHEDULE, f"return torch.linspace({ROOT}, T, dtype=torch.float64) ** 2", "was accepted"),
    (1, 1, SCHEDULE, NO_CHAIN + f"return torch.linspace({ROOT}, T + 1, dtype=torch.float64)[1:] "
     "** 2", "linear_beta_schedule"),
    (2, 1, SCHEDULE, "if beta_T * 1000 / max(T, 1) >= 1:\n    raise ValueError('T')\nreturn torch."
     "linspace(beta_1, beta_T, T, dtype=torch.float64) * 1000 / T", "was accepted"),
    (2, 1, SCHEDULE, swap(SPACED, "return ", "if T < 21:\n    raise ValueError('T')\nreturn 1000 / "
                          "T * "), "ValueError: T"),
    (1, 4, SCORE_X_0, "return eps_from_x_0(ddpm, x_t, t, x_0)", "formula of eps_from_x_0"),
    (1, 4, SCORE_X_0, "return x_0 - x_t", "score_from_x_0"),
    (1, 4, MEAN_SCORE, "return x_0_from_score(ddpm, x_t, t, score)", "formula of x_0_from_score"),
    (1, 4, MEAN_SCORE, "return x_t + score", "mean_from_score"),
    (2, 4, V, swap(V_BODY, "* eps - (", "* eps + ("), "is added and not subtracted"),
    (2, 4, V, "return eps - x_0", "v_from_eps"),
    (2, 4, X_0_V, "return x_t - v", "x_0_from_v"),
    (2, 4, X_0_V, swap(X_0_V_BODY, "alpha_bar", "alpha"), "alpha_t stands where alpha_bar_t"),
    (2, 4, EPS_V, "return v", "v is returned as it is"),
    (2, 4, SCORE_V, "return eps_from_v(ddpm, x_t, t, v) / at(ddpm.one_minus_alpha_bar, t, x_t)"
     ".sqrt()", "the sign is wrong"),
    (1, 6, LOSS, swap(X_0_LOSS, ERROR + "x_0", X_T_TARGET), "x_t is the target"),
    (1, 6, LOSS, X_0_LOSS.replace("error ** 2", "error ** 2 / 2"), "half as much"),
    (2, 6, LOSS, swap(V_LOSS, ", t) - v", ", t) + v"), "sign of v is wrong"),
    (2, 6, LOSS, swap(V_LOSS, DRAW, "torch.randint(1, self.T + 1, (len(x_0),))"), "on the CPU"),
]

WRONG += [
    (3, MEAN, swap(MEAN_BODY, "at(self.beta, t, x_0)\n", "at(self.beta_tilde, t, x_0)\n"),
     "beta_tilde_t stands where beta_t belongs"),
]
RIGHT += [
    (2, {Q: """def mix(a, b):
    return a.sqrt() * x_0 + b.sqrt() * eps
return mix(at(self.alpha_bar, t, x_0), at(self.one_minus_alpha_bar, t, x_0))"""}),
]
