"""Answers to exercises 9, 10, 12, 13 and 14, written from the docstrings as students write them."""
from answers import (DROP, DROP_BODY, GUIDED, GUIDED_BODY, HUNT, IMITATE, IMITATE_BODY, KL, KL_BODY,
                     MIX, MIX_BODY, NAIVE, NLL, NLL_BODY, SHORT, found, swap)

RIGHT, WRONG, RIGHT_IN_VARIANT, WRONG_IN_VARIANT = [], [], [], []

# ---- 9: all of it, in the plane ----

OWN_LOOP = """import torch.nn.functional as F
model = torch.nn.Sequential(torch.nn.Linear(3, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128),
                            torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU(),
                            torch.nn.Linear(128, 2))
def eps_theta(x_t, t):
    return model(torch.cat([x_t, t[:, None] / ddpm.T], dim=1))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(3000):
    for group in optimizer.param_groups:
        group["lr"] = 3e-3 * (1 - step / 3000)
    x_0 = x[torch.randint(0, len(x), (512,))]
    t, eps = torch.randint(1, ddpm.T + 1, (512,)), torch.randn(512, 2)
    optimizer.zero_grad()
    F.mse_loss(eps_theta(ddpm.q_sample(x_0, t, eps), t), eps).backward()
    optimizer.step()
with torch.no_grad():
    x_t = torch.randn(n, 2)
    for t in range(ddpm.T, 0, -1):
        z = torch.randn(n, 2) if t > 1 else torch.zeros(n, 2)
        x_0_hat = ddpm.estimate_x_0(eps_theta, x_t, t)
        x_t = ddpm.posterior_mean(x_0_hat, x_t, t) + ddpm.sigma[t] * z
return x_t"""
RIGHT += [
    (9, {IMITATE: OWN_LOOP}),
    (9, {IMITATE: swap(IMITATE_BODY, "0.01)", "0.005)")}),
]
LAST = "return ddpm.sample(model, (n, 2))"
WRONG += [(9, IMITATE, body, words) for body, words in (
    (swap(SHORT, "return ddpm", "ddpm"), "Is there a `return`?"),
    (swap(SHORT, LAST, "return model"), "expected a torch.Tensor"),
    (swap(SHORT, LAST, LAST + ".numpy()"), "numpy.ndarray"),
    (swap(SHORT, LAST, LAST + ".double()"), "expected torch.float32, got torch.float64"),
    (swap(SHORT, LAST, LAST + ".tolist()"), "expected a torch.Tensor, got a tuple or a list"),
    (swap(SHORT, LAST, LAST + ", model"), "expected a torch.Tensor, got a tuple or a list"),
    (swap(SHORT, "(n, 2))", "(n, 2)).T"), "expected the shape (1000, 2), got (2, 1000)"),
    (swap(SHORT, "(n, 2))", "(len(x), 2))"), "expected the shape (1000, 2), got (5000, 2)"),
    (swap(SHORT, "(n, 2))", "n)"), "Error: "),
    (swap(SHORT, "    optimizer.step()\n", ""), "not trained long enough"),
    (swap(SHORT, "    loss.backward()\n", ""), "not trained long enough"),
    (swap(SHORT, "range(30)", "range(3)"), "hardly run"),
    (swap(SHORT, "x_0 = x[torch.randperm(len(x))[:512]]", "x_0 = x[:512] = x[:512].clamp(0, 1)"),
     "x was changed in place"),
    (swap(SHORT, "ddpm.draw_t(512)", "torch.full((512,), ddpm.T)"), "should be below"),
    (swap(SHORT, "lr=2e-3", "lr=5.0"), "should be below"),
    (swap(SHORT, LAST, "return torch.randn(n, 2)"), "closer to N(0, I)"),
    (swap(SHORT, LAST, "return x[torch.randint(len(x), (n,))]"), "points are copied"),
    (swap(SHORT, LAST, "return ddpm.q_sample(x[:n], 3, torch.randn(n, 2)) * 0"), "in a heap"),
    (swap(SHORT, LAST, "return model(torch.randn(n, 2), torch.full((n,), ddpm.T))"),
     "should be below"),
    (swap(SHORT, LAST, "g = torch.Generator().manual_seed(5)\nmodel.requires_grad_()\n"
          "near = x[torch.randint(len(x), (n,))] + 0.05 * torch.randn(n, 2)\n"
          "return near.clamp(-1, 1).float() + 0 * model(near, torch.ones(n))"), "need gradients"),
)]

# ---- 10: bits per dimension ----

RIGHT += [(10, {name: body}) for name, body in (
    (KL, """q, p = (torch.as_tensor(each, dtype=torch.float64) for each in (variance_q, variance_p))
m, n = mean_q.double(), mean_p.double()
result = torch.log(p.sqrt() / q.sqrt()) + (q + (m - n) ** 2) / (2 * p) - 0.5
return result.to(mean_q.dtype)"""),
    (KL, """import numpy as np
v, w = np.asarray(variance_q), np.asarray(variance_p)
constant = torch.as_tensor((np.log(w) - np.log(v) + v / w - 1) / 2).to(mean_q)
return constant + (mean_q - mean_p).square() / (2 * variance_p)"""),
    (KL, """one = torch.ones_like(mean_q - mean_p)
v, w = variance_q * one, variance_p * one
return (w.log() - v.log() - 1 + v.div(w) + torch.pow(mean_p - mean_q, 2).div(w)).mul(0.5)"""),
    (NLL, """import numpy
k = (x_0.double() + 1) * 127.5
out = torch.zeros(x_0.shape, dtype=torch.float64)
for place in numpy.ndindex(*x_0.shape):
    value, m = round(float(k[place])), float(mean[place])
    low = torch.tensor(-math.inf if value == 0 else ((value - 0.5) / 127.5 - 1 - m) / sigma,
                       dtype=torch.float64)
    high = torch.tensor(math.inf if value == 255 else ((value + 0.5) / 127.5 - 1 - m) / sigma,
                        dtype=torch.float64)
    if low + high > 0:
        low, high = -high, -low
    a, b = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    out[place] = -(a + torch.log(-torch.expm1(b - a)))
return out"""),
    (NLL, """d = (x_0.double() - mean.double()).abs() * torch.where(mean > x_0, -1, 1)
inside = x_0.abs() < 1 - 1e-3
towards = (x_0 > 0) == (d > 0)
near, far = (d.abs() - 1 / 255) / sigma, (d.abs() + 1 / 255) / sigma
near = torch.where(~inside & ~towards, -torch.inf, near)
far = torch.where(~inside & towards, torch.inf, far)
a, b = torch.special.log_ndtr(-near), torch.special.log_ndtr(-far)
return -a - (-(b - a).exp()).log1p()"""),
)]
WRONG += [(10, KL, body, words) for body, words in (
    ("pass", "Is there a `return`?"),
    (swap(KL_BODY, "(w / v)", "(v / w)"), "upside down"),
    (swap(KL_BODY, "- 1 +", "+ 1 +"), "1 is added and not subtracted"),
    (swap(KL_BODY, " - 1", ""), "1 is left out"),
    (swap(KL_BODY, "v / w +", "w / v +"), "KL(q || p)"),
    (swap(KL_BODY, " ** 2", ""), "KL(q || p)"),
    (swap(KL_BODY, " ** 2 / w", " ** 2 / v"), "KL(q || p)"),
    (swap(KL_BODY, " ** 2 / w", " ** 2"), "the division by variance_p is missing"),
    (swap(KL_BODY, " ** 2 / w", " ** 2 / w ** 2"), "KL(q || p)"),
    (swap(KL_BODY, "v, w = variance_q, variance_p", "v, w = variance_q ** 0.5, variance_p ** 0.5"),
     "deviations are taken for variances"),
    (swap(KL_BODY, "0.5 * (torch.as_tensor(w / v).log()", "-0.5 * (torch.as_tensor(w / v).log()"),
     "sign is wrong"),
    (swap(KL_BODY, ".log()", ".log2()"), "KL(q || p)"),
    ("import math\n" + swap(KL_BODY, "return 0.5", "return 0.5 / math.log(2)"), "in bits"),
    (swap(KL_BODY, "torch.as_tensor(w / v).log() - 1", "-1"), "is left out"),
    (KL_BODY + ".sum()", "expected the shape"),
    (KL_BODY + ".double()", "expected torch.float32, got torch.float64"),
    (KL_BODY + ".numpy()", "torch.as_tensor makes one of it"),
    (KL_BODY + ", 0", "got a tuple or a list"),
    ("mean_q -= mean_p\n" + swap(KL_BODY, "(mean_q - mean_p)", "mean_q"),
     "mean_q was changed in place"),
    ("variance_q = torch.as_tensor(variance_q)\nvariance_q /= variance_p\n"
     + swap(swap(KL_BODY, "w / v", "1 / v"), "v / w", "v"), "variance_q was changed in place"),
    ("return torch.zeros_like(mean_q)", "KL(q || p)"),
    ("return mean_q", "KL(q || p)"),
    ("return (mean_q - mean_p) ** 2", "KL(q || p)"),
    (swap(KL_BODY, "torch.as_tensor(w / v).log()", "torch.tensor(w / v).log().item()"),
     "Error: "),
)]
WRONG += [(10, NLL, body, words) for body, words in (
    ("pass", "Is there a `return`?"),
    (NLL_BODY + ".float()", "expected torch.float64, got torch.float32"),
    (NLL_BODY + ".mean()", "expected the shape (2, 3, 1, 1), got ()"),
    (NLL_BODY + ".sum((1, 2, 3))", "expected the shape (2, 3, 1, 1), got (2,)"),
    (NLL_BODY + ".numpy()", "numpy.ndarray"),
    ("import math\n" + NLL_BODY + " / math.log(2)", "in bits and not in nats"),
    (swap(NLL_BODY, "1 / 255", "0.5 / 255"), "decoder_nll"),
    (swap(NLL_BODY, "1 / 255", "1 / 256"), "decoder_nll"),
    (swap(NLL_BODY, "/ sigma", "/ sigma ** 0.5"), "deviation is taken for the variance"),
    (swap(NLL_BODY, "/ sigma", ""), "the division by sigma is missing"),
    (swap(NLL_BODY, "/ sigma", "* sigma"), "decoder_nll"),
    (swap(NLL_BODY, "255 - mean", "255 + mean"), "decoder_nll"),
    (swap(NLL_BODY, "return -(a + torch.log1p(-torch.exp(b - a)))", "return torch.exp(a) - "
          "torch.exp(b)"), "it is the probability"),
    (swap(NAIVE, "ndtr(above) - torch.special.ndtr(below)",
          "ndtr(below) - torch.special.ndtr(above)"), "ends of the bin are exchanged"),
    (swap(NAIVE, "return -torch.log(", "return -torch.log(1e-6 + "), "kept away from 0"),
    (swap(NAIVE, "return -torch.log(torch.special.ndtr(above) - torch.special.ndtr(below))",
          "return -(torch.special.ndtr(above) - torch.special.ndtr(below)).clamp(1e-30).log()"),
     "kept away from 0"),
    (swap(NLL_BODY, "k == 255", "k == 256"), "reach to infinity?"),
    (swap(NLL_BODY, "flip = above + below > 0", "flip = above > 1e9"), "log_ndtr"),
    ("x_0 += 1 / 255\n" + swap(NLL_BODY, "above, below = (x + 1 / 255 - mean) / sigma, (x - 1 / "
     "255 - mean) / sigma", "above, below = (x - mean) / sigma, (x - 2 / 255 - mean) / sigma"),
     "x_0 was changed in place"),
    ("return torch.zeros_like(x_0)", "decoder_nll"),
    ("import math\nreturn torch.full(x_0.shape, math.log(256), dtype=torch.float64)",
     "decoder_nll"),
    ("return 0.5 * ((x_0.double() - mean.double()) / sigma) ** 2", "decoder_nll"),
    ("return -torch.distributions.Normal(mean.double(), sigma).log_prob(x_0.double()) "
     "- torch.tensor(2 / 255).log()", "decoder_nll"),
)]

# ---- 12: classifier-free guidance ----

EPS = "    return (1 + w) * c - w * u\n"
RIGHT += [(12, {name: body}) for name, body in (
    (GUIDED, """class Guided(torch.nn.Module):
    def forward(self, x_t, t):
        with_y = model(x_t, t, y=y).double()
        without = model(x_t, t, None).double()
        return (with_y + w * (with_y - without)).to(x_t.dtype)
return Guided()"""),
    (GUIDED, """import functools
def eps(x_t, t, y, w):
    weights = x_t.new_tensor([1 + w, -w])
    return torch.einsum("k,kbd->bd", weights, torch.stack([model(x_t, t, y), model(x_t, t)]))
return functools.partial(eps, y=y, w=w)"""),
    (GUIDED, """def one_by_one(x_t, t):
    rows = []
    for i in range(len(x_t)):
        c, u = model(x_t[i:i + 1], t[i:i + 1], y[i:i + 1]), model(x_t[i:i + 1], t[i:i + 1])
        rows.append(u + (1 + w) * (c - u))
    return torch.cat(rows)
return one_by_one"""),
    (DROP, """out = y.clone()
for i in range(len(y)):
    if torch.rand(()) < p_uncond:
        out[i] = null
return out"""),
    (DROP, "return y.masked_fill(torch.rand_like(y, dtype=torch.float64) < p_uncond, null)"),
    (DROP, "keep = (torch.rand(y.size(0), device=y.device) >= p_uncond).long()\n"
           "return keep * y + (1 - keep) * null"),
    (DROP, "gone = torch.empty(y.shape, device=y.device).uniform_() < p_uncond\n"
           "return torch.where(gone, torch.tensor(null, device=y.device), y)"),
)]
WRONG += [(12, GUIDED, body, words) for body, words in (
    ("pass", "must return a function"),
    ("return y", "must return a function"),
    ("return 3 * torch.ones(4)", "must return a function"),
    (swap(GUIDED_BODY, "def both(x_t, t):", "def both(x_t):"), "Error: "),
    (swap(GUIDED_BODY, "return both", "return both(y, y)"), "Error: "),
    (swap(GUIDED_BODY, EPS, "    return c, u\n"), "got a tuple or a list"),
    (swap(GUIDED_BODY, EPS, "    return ((1 + w) * c - w * u).numpy()\n"), "numpy.ndarray"),
    (swap(GUIDED_BODY, EPS, "    return ((1 + w) * c - w * u).double()\n"), "got torch.float64"),
    (swap(GUIDED_BODY, EPS, "    return ((1 + w) * c - w * u).mean(0)\n"), "expected the shape"),
    (swap(GUIDED_BODY, EPS, "    return c + u\n"), "the guided eps"),
    (swap(GUIDED_BODY, EPS, "    return (1 - w) * c + w * u\n"), "the guided eps"),
    (swap(GUIDED_BODY, EPS, "    return w * c - (1 + w) * u\n"), "weights have changed places"),
    (swap(GUIDED_BODY, EPS, "    return (1 + w) * u - w * c\n"), "exchanged"),
    (swap(GUIDED_BODY, EPS, "    return u\n"), "label is forgotten"),
    (swap(GUIDED_BODY, EPS, "    return w * (c - u)\n"), "1 is left out"),
    (swap(GUIDED_BODY, EPS, "    return -((1 + w) * c - w * u)\n"), "sign is wrong"),
    (swap(GUIDED_BODY, EPS, "    return ((1 + w) * c - w * u) / 2\n"), "half as much"),
    (swap(GUIDED_BODY, EPS, "    return c - w * u\n"), "the factor 1 + w is missing"),
    (swap(GUIDED_BODY, "model(x_t, t, y)", "model(x_t, t.float(), y)"), "Error: "),
    (swap(GUIDED_BODY, "model(x_t, t, y)", "model(x_t, t[0], y)"), "t as it came"),
    (swap(GUIDED_BODY, "model(x_t, t, y)", "model(x_t, int(t[0]), y)"), "t as it came"),
    (swap(GUIDED_BODY, "model(x_t, t, y)", "model(x_t, t - 1, y)"), "with x_t, t and"),
    (swap(GUIDED_BODY, "model(x_t, t, y)", "model(x_t, t, y[:1])"), "y as it came"),
    (swap(GUIDED_BODY, "model(x_t, t, y)", "model(x_t, t, y[:1].expand(len(y)))"), "labels y"),
    (swap(GUIDED_BODY, "model(x_t, t)\n", "model(x_t, t, y * 0)\n"), "class 0 is no null label"),
    (swap(GUIDED_BODY, "model(x_t, t)\n", "model(torch.zeros_like(x_t), t)\n"), "without a label"),
    (swap(GUIDED_BODY, "    c, u", "    x_t += 0.5\n    c, u"), "x_t was changed in place"),
    ("kept = []\n" + swap(swap(GUIDED_BODY, "    c, u = model(x_t, t, y), model(x_t, t)\n",
     "    if not kept:\n        kept.append((model(x_t, t, y), model(x_t, t)))\n"
     "    c, u = kept[0]\n"), "", ""), "what the first call saw is kept"),
)]
WRONG += [(12, DROP, body, words) for body, words in (
    ("pass", "Is there a `return`?"),
    ("return torch.full_like(y, null)", "all labels become"),
    ("return torch.where(torch.rand(len(y)) < p_uncond, null, y)", "on the device of y"),
    (DROP_BODY + ".float()", "got torch.float32"),
    (DROP_BODY + ".to(torch.int32)", "got torch.int32"),
    (DROP_BODY + "[:, None]", "expected the shape"),
    (DROP_BODY + ".numpy()", "numpy.ndarray"),
    (DROP_BODY + ".tolist()", "got a tuple or a list"),
    ("return y[torch.rand(y.shape) >= p_uncond]", "expected the shape"),
    ("return torch.rand(y.shape, device=y.device) < p_uncond", "drop_labels"),
    (swap(DROP_BODY, "torch.full_like(y, null), y", "y, torch.full_like(y, null)"),
     "kept with probability"),
    (swap(DROP_BODY, "torch.full_like(y, null)", "-1"), "must become"),
    (swap(DROP_BODY, "torch.full_like(y, null)", "y.max() + 1"), "must become"),
    (swap(DROP_BODY, "torch.rand", "torch.randn"), "share of labels"),
    (swap(DROP_BODY, "< p_uncond", "< p_uncond ** 2"), "share of labels"),
    (swap(DROP_BODY, "< p_uncond", "< 0.2"), "p_uncond"),
    (swap(DROP_BODY, "torch.rand(y.shape, device=y.device)",
          "torch.arange(len(y), device=y.device) / len(y)"), "same number of labels"),
    ("gone = torch.rand(y.shape, device=y.device) < p_uncond\ngone[0] = False\n"
     "return torch.where(gone, null, y)", "lose their label"),
    ("import random\nreturn torch.full_like(y, null) if random.random() < p_uncond else y",
     "all labels of a batch"),
    ("gone = torch.rand(len(y) // 2, device=y.device).repeat_interleave(2) < p_uncond\n"
     "return torch.where(gone.logical_and(y > 0), null, y)", "share of labels"),
    ("return y * (torch.rand(y.shape, device=y.device) >= p_uncond)", "which is a class"),
    ("y = y.clone()\ny[torch.rand(len(y)).argsort()[:int(len(y) * p_uncond)]] = null\nreturn y",
     "same number of labels"),
)]

# ---- 13: the bug hunt ----

NAMED = {"forward": "variance-for-deviation", "objective": "one-t-for-the-batch",
         "ancestral": "noise-at-the-last-step", "clipping": "dead-clipping",
         "network": "time-ignored", "attention": "norm-not-called",
         "averaging": "errors-swallowed", "pictures": "values-truncated"}


def mended(file, *changes):
    return {HUNT + file: found(file, NAMED[file], *changes)}


RIGHT += [(13, mended(*each)) for each in (
    ("objective", ("F.mse_loss(model(x_t, t), eps)", "((eps - model(x_t, t)) ** 2).mean()")),
    ("ancestral", ("torch.randn(shape) if t > 1 else torch.zeros(shape)",
                   "torch.randn(shape) * (t > 1)")),
    ("clipping", ("x_0_hat.clamp(-1, 1)", "torch.minimum(torch.maximum(x_0_hat, torch.tensor(-1.0))"
                                          ", torch.tensor(1.0))")),
    ("network", ("h = h + linear(emb)[:, :, None, None]",
                 "h += linear(emb).unsqueeze(-1).unsqueeze(-1)")),
    ("attention", ("self.norm(x)", "nn.functional.group_norm(x, 2, self.norm.weight, "
                                   "self.norm.bias)")),
    ("averaging", ("average.mul_(decay).add_(weight, alpha=1 - decay)",
                   "average.copy_(decay * average + (1 - decay) * weight)")),
    ("averaging", ("return ema.eval()", "ema.train(False)\n    return ema")),
    ("pictures", ("return x.float()", "return x")),
    ("pictures", ("((x + 1) * 127.5).round()", "torch.round(127.5 * x + 127.5)")),
)]
WRONG += [(13, HUNT + file, found(file, NAMED[file], change), words) for file, change, words in (
    ("forward", ("alpha_bar.sqrt() * x_0", "alpha_bar * x_0"), "square root of alpha_bar_t"),
    ("forward", (" + (1 - alpha_bar)", " - (1 - alpha_bar)"), "subtracted and not added"),
    ("forward", ("(1 - alpha_bar).sqrt() * eps", "eps"), "the factor sqrt(1 - alpha_bar_t)"),
    ("forward", ("self.alpha_bar[t].reshape(-1, 1, 1, 1)", "self.alpha_bar[t[0]]"), "Eq. 4"),
    ("forward", (".cumprod(0)", ""), "Eq. 4"),
    ("forward", (".cumprod(0)       #", ".cumprod(0)[1:]   #"), "Error: "),
    ("forward", ("return alpha_bar", "alpha_bar"), "Is there a `return`?"),
    ("objective", ("F.mse_loss(model(x_t, t), eps)", "F.mse_loss(model(x_t, t), x_0)"),
     "way: wrong-target"),
    ("objective", ("F.mse_loss(model(x_t, t), eps)", "F.mse_loss(model(x_t, t), eps, "
                   "reduction='none')"), "expected the shape ()"),
    ("objective", ("F.mse_loss(model(x_t, t), eps)", "F.mse_loss(model(x_t, t), eps) / 2"),
     "the loss of a model"),
    ("objective", ("torch.randint(1, T + 1", "torch.randint(0, T + 1"), "not from 1 to 4"),
    ("objective", ("torch.randint(1, T + 1", "torch.randint(0, T"), "not from 1 to 4"),
    ("objective", ("torch.randn_like", "torch.rand_like"), "not that of Eq. 4"),
    ("objective", ("model(x_t, t)", "model(x_t, t[0])"), "one for each image"),
    ("ancestral", ("/ (1 - beta[t]).sqrt()", "* (1 - beta[t]).sqrt()"), "all data are 0.3"),
    ("ancestral", ("variance[t].sqrt() * z", "z"), "has the deviation"),
    ("ancestral", ('raise ValueError(f"there is no variance {kind!r}")', "return beta"),
     "way: unknown-option-accepted"),
    ("clipping", ("alpha_bar[t].sqrt()\n    x", "alpha_bar[t]\n    x"), "the mean"),
    ("clipping", ("(1 - beta[t]).sqrt()", "(1 - beta[t])"), "square root of alpha_t"),
    ("clipping", ("    return (of", "    (of"), "Is there a `return`?"),
    ("network", ("channels * mult\n", "C * mult\n"), "way: multipliers-accumulated"),
    ("network", ("linear(emb)[:, :, None, None]", "linear(emb).mean() * 0"), "still has"),
    ("attention", ("/ C ** 0.5", ""), "attention over"),
    ("attention", ("return x + ", "return "), "x itself is not added"),
    ("attention", ("C, H * W)", "C, 64)"), "way: size-hard-coded"),
    ("averaging", ("return ema.eval()", "return ema"), "way: dropout-left-on"),
    ("averaging", ("return ema.eval()", "return model.eval()"), "training mode"),
    ("averaging", (".requires_grad_(False)", ""), "needs no gradients"),
    ("averaging", ("    optimizer.step()\n", ""), "a step of 0.5"),
    ("pictures", ("/ 127.5 - 1", "/ 128 - 1"), "0..255 to -1..1"),
    ("pictures", (".clamp(0, 255)", ""), "what lies outside"),
    ("pictures", (".to(torch.uint8)", ""), "expected torch.uint8"),
)]
WRONG += [
    (13, HUNT + "pictures", found("pictures", "values_truncated"), "is not what was wrong"),
    (13, HUNT + "pictures", found("pictures", "x").replace('DEFECT = "x"', "DEFECT = None"),
     "DEFECT is empty"),
    (13, HUNT + "pictures", "import torch\n", "AttributeError"),
]

# ---- 14: interpolation ----

RIGHT += [(14, {MIX: body}) for body in (
    """from papers.kit.chain import noise_like
x_t = ddpm.q_sample(x_0[None], t, eps=noise_like(x_0[None], generator))
other_t = ddpm.q_sample(other[None], t, eps=noise_like(other[None], generator))
w = x_0.new_tensor(lambdas)[:, None, None, None]
return decode(ddpm, model, (1 - w) * x_t + w * other_t, t, clip=clip, generator=generator)""",
    """both = torch.stack((other, x_0))
eps = torch.randn(both.shape, generator=generator, dtype=both.dtype)
times = torch.full((2,), t, dtype=torch.int64)
b, a = ddpm.q_sample(both, times, eps).unbind(0)
out = torch.empty(len(lambdas), *x_0.shape)
for i, weight in enumerate(lambdas):
    out[i] = a + weight * (b - a)
return decode(ddpm, model, out, t, clip, generator)""",
    """if t == 0:
    return torch.stack([(1 - w) * x_0 + w * other for w in lambdas])
shape = (1, *x_0.shape)
one, two = (ddpm.q_sample(x.unsqueeze(0), t, torch.randn(shape, generator=generator))
            for x in (x_0, other))
parts = [decode(ddpm, model, one * (1 - w) + two * w, t, clip, generator) for w in lambdas]
return torch.cat(parts, dim=0)""",
    """noise = torch.zeros(2, *x_0.shape).normal_(generator=generator)
x_t = ddpm.q_sample(torch.stack([x_0, other]), t, noise)
w = torch.tensor(lambdas, dtype=x_0.dtype)
weights = torch.stack([1 - w, w], dim=1)
return decode(ddpm, model, torch.einsum("nk,kchw->nchw", weights, x_t), t, clip, generator)""",
)]
NOISED, DECODED = ("ddpm.q_sample(pair, t, torch.randn(pair.shape, generator=generator))",
                   "decode(ddpm, model, torch.stack(mixed), t, clip, generator)")
MIXED = "pair[0] * (1 - weight) + pair[1] * weight"
WRONG += [(14, MIX, body, words) for body, words in (
    ("pass", "Is there a `return`?"),
    ("return x_0", "expected the shape"),
    (swap(MIX_BODY, "return decode", "decode"), "Is there a `return`?"),
    (swap(MIX_BODY, f"return {DECODED}", "return torch.stack(mixed)"), "got []"),
    (MIX_BODY + ".numpy()", "numpy.ndarray"),
    (MIX_BODY + ".double()", "got torch.float64"),
    (MIX_BODY + "[0]", "expected the shape"),
    (swap(MIX_BODY, f"return {DECODED}", "return [decode(ddpm, model, m[None], t, clip, generator)"
                                         " for m in mixed]"), "got a tuple or a list"),
    (swap(MIX_BODY, "torch.stack(mixed), t,", "torch.stack(mixed), ddpm.T,"), "expected the steps"),
    (swap(MIX_BODY, "torch.stack(mixed), t,", "torch.stack(mixed), min(t + 1, ddpm.T),"), "t + 1"),
    (swap(MIX_BODY, "q_sample(pair, t", "q_sample(pair, ddpm.T"), "were noised to"),
    (swap(MIX_BODY, NOISED, "pair"), "were noised to t = []"),
    (swap(MIX_BODY, NOISED, "ddpm.q_sample(pair, t, torch.zeros_like(pair))"), "the same noise"),
    (swap(MIX_BODY, NOISED, "ddpm.q_sample(pair, t, torch.rand(pair.shape, generator=generator))"),
     "rand instead of randn"),
    (swap(MIX_BODY, NOISED, "ddpm.q_sample(pair, t, torch.randn(pair[:, :1].shape, "
                            "generator=generator))"), "all channels got the same noise"),
    (swap(MIX_BODY, NOISED, "ddpm.q_sample(pair, t, torch.randn(pair.shape, generator=torch."
                            "Generator().manual_seed(0)))"), "other random numbers"),
    (swap(MIX_BODY, MIXED, "pair[0] + pair[1] * weight"), "mixtures"),
    (swap(MIX_BODY, MIXED, "pair[0] * weight + pair[1] * (1 - weight)"), "exchanged"),
    (swap(MIX_BODY, MIXED, "pair[0] * (1 - weight) - pair[1] * weight"), "subtracted and not"),
    (swap(MIX_BODY, MIXED, "pair[0] * (1 - weight)"), "weight * other_t is left out"),
    (swap(MIX_BODY, MIXED, "(pair[0] + pair[1]) / 2"), "mixtures"),
    (swap(MIX_BODY, MIXED, "pair[0] * (1 - weight) ** .5 + pair[1] * weight ** .5"),
     "weights are square roots"),
    (swap(MIX_BODY, "[x_0, other]", "[x_0, x_0]"), "mixtures"),
    (swap(MIX_BODY, "pair = torch.stack([x_0, other])", "x_0 *= 0.9\npair = torch.stack([x_0, "
          "other])"), "x_0 was changed in place"),
    ("x = torch.stack([(1 - w) * x_0 + w * other for w in lambdas])\n"
     "x = ddpm.q_sample(x, t, torch.randn(x.shape, generator=generator))\n"
     "return decode(ddpm, model, x, t, clip, generator)", "were noised, not 2"),
    ("out = []\nfor w in lambdas:\n    pair = torch.stack([x_0, other])\n"
     "    a, b = ddpm.q_sample(pair, t, torch.randn(pair.shape, generator=generator))\n"
     "    out.append(a + w * (b - a))\n"
     "return decode(ddpm, model, torch.stack(out), t, clip, generator)", "were noised, not 2"),
    (swap(MIX_BODY, "clip, generator)", "generator=generator)"), "Pass both on"),
    (swap(MIX_BODY, "clip, generator)", "clip)"), "Pass both on"),
    (swap(MIX_BODY, "decode(ddpm, model,", "decode(ddpm, None,"), "and model"),
    (swap(MIX_BODY, f"return {DECODED}", "return ddpm.sample(model, torch.stack(mixed).shape)"),
     "at time t"),
)]
