"""Answers to exercises 7, 8 and 11 that were written from the docstrings alone."""
from answers import EMA, GUESS, JUMP, RESTORE, SAMPLE, STEP, WALK, swap

P_SAMPLE, REVERSE = "ddpm.DDPM.p_sample", "ddpm.DDPM.reverse_process"
ASK = """if not 1 <= t <= self.T:
    raise ValueError("no such t")
return self.posterior_sample(self.estimate_x_0(model, x_t, t, clip), x_t, t, generator)"""
HAT = """t_batch = torch.full((x_t.shape[0],), t, dtype=torch.long, device=x_t.device)
eps = model(x_t, t_batch)
x_0 = (x_t - self.one_minus_alpha_bar[t] ** 0.5 * eps) / self.alpha_bar[t] ** 0.5
if clip:
    x_0 = torch.clamp(x_0, -1.0, 1.0)
return x_0"""
DRAW = """c_0 = self.alpha_bar[t - 1] ** 0.5 * self.beta[t] / self.one_minus_alpha_bar[t]
c_t = self.alpha[t] ** 0.5 * self.one_minus_alpha_bar[t - 1] / self.one_minus_alpha_bar[t]
mean = c_0 * x_0_hat + c_t * x_t
if t == 1:
    return mean
z = torch.randn(x_t.shape, generator=generator, device=x_t.device)
return mean + self.sigma[t] * z"""
DOWN = """x = x_T
for t in range(self.T, 0, -1):
    x_0_hat = self.estimate_x_0(model, x, t, clip=clip)
    yield t, x, x_0_hat
    x = self.posterior_sample(x_0_hat, x, t, generator=generator)
yield 0, x, x"""
ALL = """x = torch.randn(shape, generator=generator, device=self.beta.device)
for t in range(self.T, 0, -1):
    x = self.p_sample(model, x, t, clip, generator)
return x"""


REFUSE = """if not 0 <= s < t <= ddpm.T or eta < 0 or eta > 1:
    raise ValueError("no such jump")
"""
LEAP = REFUSE + """a_t, a_s = ddpm.alpha_bar[t], ddpm.alpha_bar[s]
x_0_hat = ddpm.estimate_x_0(model, x_t, t, clip)
eps = (x_t - a_t.sqrt() * x_0_hat) / (1 - a_t).sqrt()
sigma = eta * torch.sqrt((1 - a_s) / (1 - a_t)) * torch.sqrt(1 - a_t / a_s)
x_s = a_s.sqrt() * x_0_hat + torch.sqrt((1 - a_s - sigma ** 2).clamp(min=0)) * eps
if eta > 0:
    x_s = x_s + sigma * torch.randn(x_t.shape, generator=generator, device=x_t.device)
return x_s"""
TAUS = """pairs = jumps(ddpm, times)
x = x_T
for s, t in pairs[::-1]:
    x = step(ddpm, model, x, t, s, eta, clip, generator)
return x"""


MEAN = """for p_ema, p in zip(ema.parameters(), model.parameters()):
    p_ema.mul_(decay).add_((1 - decay) * p)
for b_ema, b in zip(ema.buffers(), model.buffers()):
    b_ema.copy_(b)"""
BACK = """checkpoint = read_checkpoint(self.out / "checkpoint.pt")
self.step = checkpoint["step"]
self.model.load_state_dict(checkpoint["model"])
self.ema.load_state_dict(checkpoint["ema"])
self.optimizer.load_state_dict(checkpoint["optimizer"])
self.tally.copy_(checkpoint["tally"])
self.keep_log(read_log(self.out / "log.csv"))
torch.set_rng_state(checkpoint["rng"][0][0])"""

RIGHT = [
    (8, {EMA: MEAN, RESTORE: BACK}),
    (8, {EMA: """new = model.state_dict()
weights = {name for name, _ in model.named_parameters()}
old = ema.state_dict()
ema.load_state_dict({name: decay * old[name] + (1 - decay) * new[name] if name in weights
                     else new[name] for name in old})""",
         RESTORE: """path = self.out / "checkpoint.pt"
content = torch.load(path, map_location=self.device, weights_only=True)
self.step, self.tally = content["step"], content["tally"]
for name in ("optimizer", "ema", "model"):
    getattr(self, name).load_state_dict(content[name])
self.keep_log([row for row in read_log(self.out / "log.csv")])
state, other = content["rng"][0]
torch.random.set_rng_state(state)
rng_state(self.device, other)"""}),
    (8, {EMA: """named = dict(model.named_parameters())
for name, weight in ema.named_parameters():
    weight.data.sub_((1 - decay) * (weight.data - named[name].data))
for one, two in zip(ema.modules(), model.modules()):
    for name, buffer in two.named_buffers(recurse=False):
        getattr(one, name).data.copy_(buffer)""",
         RESTORE: swap(BACK, "self.model.load_state_dict(checkpoint[\"model\"])\n", "").replace(
             "self.ema.load", "for own, name in ((self.model, 'model'), ):\n"
             "    for key, value in own.state_dict().items():\n"
             "        value.copy_(checkpoint[name][key])\nself.ema.load")}),
    (8, {EMA: """torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
for a, b in zip(ema.buffers(), model.buffers()):
    a[...] = b"""}),
    (11, {JUMP: LEAP, WALK: TAUS}),
    (11, {JUMP: swap(LEAP, "if eta > 0", "if s > 0")}),
    (11, {JUMP: REFUSE + """import math
a, b = ddpm.exact.alpha_bar[t].item(), ddpm.exact.alpha_bar[s].item()
x_0 = ddpm.estimate_x_0(model, x_t, t, clip=clip)
if s == 0:
    return x_0
eps = eps_from_x_0(ddpm, x_t, t, x_0)
variance = eta ** 2 * (1 - b) / (1 - a) * (1 - a / b)
mean = math.sqrt(b) * x_0 + math.sqrt(max(0.0, 1 - b - variance)) * eps
return mean + math.sqrt(variance) * noise_like(x_t, generator)""",
          WALK: """times = [0] + [int(t) for t in times]
if len(times) == 1 or times[-1] > ddpm.T or any(b <= a for a, b in zip(times, times[1:])):
    raise ValueError(f"{times}")
for i in range(len(times) - 1, 0, -1):
    x_T = step(ddpm, model, x_T, times[i], times[i - 1], eta=eta, clip=clip, generator=generator)
return x_T"""}),
    (11, {JUMP: REFUSE + """at_t, at_s = (at(ddpm.alpha_bar, i, x_t) for i in (t, s))
batch = torch.full_like(x_t.flatten(1)[:, 0], t, dtype=torch.int64)
x_0 = ddpm.predict_x_0(x_t, batch, model(x_t, batch))
x_0 = torch.clamp(x_0, min=-1, max=1) if clip else x_0
eps = (x_t - at_t ** 0.5 * x_0) / (1 - at_t) ** 0.5
sigma = eta * ((1 - at_s) / (1 - at_t)) ** 0.5 * (1 - at_t / at_s) ** 0.5
z = torch.empty(x_t.shape, device=x_t.device).normal_(generator=generator)
return at_s ** 0.5 * x_0 + (1 - at_s - sigma ** 2).clip(min=0) ** 0.5 * eps + sigma * z""".replace(
    "(at(ddpm.alpha_bar, i, x_t) for i in (t, s))",
    "(ddpm.alpha_bar[i].reshape([1] * x_t.dim()) for i in (t, s))"),
          WALK: """if eta < 0 or eta > 1 or len(times) == 0:
    raise ValueError
previous, todo = 0, []
for t in times:
    if t <= previous or t > ddpm.T:
        raise ValueError
    todo.insert(0, (t, previous))
    previous = t
x = x_T.clone()
for t, s in todo:
    x = step(ddpm=ddpm, model=model, x_t=x, t=t, s=s, eta=eta, clip=clip, generator=generator)
return x"""}),
    (11, {WALK: """if not len(times):
    raise ValueError("empty")
*rest, t = times
x = step(ddpm, model, x_T, t, rest[-1] if rest else 0, eta, clip, generator)
return sample(ddpm, model, x, rest, eta, clip, generator) if rest else x"""}),
    (7, {GUESS: HAT, STEP: DRAW, P_SAMPLE: ASK, REVERSE: DOWN, SAMPLE: ALL}),
    (7, {STEP: """mean = self.posterior_mean(x_0_hat, x_t, torch.full((len(x_t),), t))
noise = torch.empty_like(x_t).normal_(generator=generator) if t > 1 else 0.0
return torch.add(mean, noise, alpha=float(self.sigma[t]))""".replace(
    "torch.full((len(x_t),), t)", "t"),
         P_SAMPLE: """if t < 1 or t > self.T:
    raise ValueError(f"t = {t}")
x_0_hat = self.estimate_x_0(model=model, x_t=x_t, t=t, clip=clip)
return self.posterior_sample(x_0_hat=x_0_hat, x_t=x_t, t=t, generator=generator)""",
         SAMPLE: """x_T = torch.randn(*shape, generator=generator).to(self.beta.device)
return list(self.reverse_process(model, x_T, clip=clip, generator=generator))[-1][1]"""}),
    (7, {GUESS: """times = torch.tensor([t] * len(x_t), device=x_t.device)
a, b = (at(c.double(), times, x_t) for c in (self.alpha_bar, self.one_minus_alpha_bar))
x_0_hat = (x_t.double() - b.sqrt() * model(x_t, times).double()) / a.sqrt()
x_0_hat = x_0_hat.float()
return x_0_hat.minimum(torch.ones_like(x_t)).maximum(-torch.ones_like(x_t)) if clip else x_0_hat""",
         STEP: """last = 0.0 if t == 1 else 1.0
z = torch.randn(x_t.shape, generator=generator, device=x_t.device, dtype=torch.float64).float()
return self.posterior_mean(x_0_hat, x_t, t) + last * at(self.sigma, t, x_t) * z""",
         SAMPLE: """with torch.no_grad():
    x = torch.empty(shape, device=self.alpha_bar.device).normal_(generator=generator)
    for t in range(1, self.T + 1)[::-1]:
        guess = self.estimate_x_0(model, x, t, clip)
        x = self.posterior_sample(guess, x, t, generator)
    return x"""}),
    (7, {P_SAMPLE: """if t not in range(1, self.T + 1):
    raise ValueError
x_0_hat = self.estimate_x_0(model, x_t, t, clip)
mean = self.posterior_mean(x_0_hat, x_t, t)
if t > 1:
    mean = mean + self.sigma[t] * torch.randn(x_t.size(), generator=generator, device=x_t.device)
return mean""",
         REVERSE: """t, x_t = self.T, x_T
while t > 0:
    x_0_hat = self.estimate_x_0(model, x_t, t, clip)
    yield (t, x_t, x_0_hat)
    t, x_t = t - 1, self.posterior_sample(x_0_hat, x_t, t, generator)
yield (0, x_t, x_t.clone())"""}),
]

LOOP = "range(self.T, 0, -1)"
NO_T = "return model(x_t, {})"
WRONG = [
    (8, EMA, swap(MEAN, "mul_(decay).add_((1 - decay) * p)", "mul_(1 - decay).add_(decay * p)"),
     "exchanged"),
    (8, EMA, swap(MEAN, "(1 - decay) * p", "p"), "factor 1 - decay is missing"),
    (8, EMA, swap(MEAN, "mul_(decay).add_", "add_"), "factor decay is missing"),
    (8, EMA, swap(MEAN, "mul_(decay).add_((1 - decay) * p)", "mul_(decay)"), "is left out"),
    (8, EMA, swap(MEAN, "p_ema.mul_(decay).add_((1 - decay) * p)",
                  "p_ema = decay * p_ema + (1 - decay) * p"), "nothing happens"),
    (8, EMA, swap(MEAN, "p_ema.mul_(decay).add_((1 - decay) * p)",
                  "p_ema.data = decay * p_ema.data + (1 - decay) * p.data"), "changed in place"),
    (8, EMA, swap(MEAN, "add_((1 - decay)", "sub_((1 - decay)"), "subtracted and not added"),
    (8, EMA, swap(MEAN, "1 - decay", "1 + decay"), "decay is added and not subtracted"),
    (8, EMA, swap(MEAN, "p_ema.mul_(decay).add_((1 - decay) * p)", "p_ema.lerp_(p, decay)"),
     "exchanged"),
    (8, EMA, swap(MEAN, "p_ema.mul_(decay).add_((1 - decay) * p)",
                  "p.mul_(1 - decay).add_(decay * p_ema)"), "model is changed and ema is not"),
    (8, EMA, swap(MEAN, "p_ema.mul_(decay).add_((1 - decay) * p)",
                  "p_ema.copy_(p.mul_(1 - decay).add_(decay * p_ema))"), "a number of model"),
    (8, EMA, swap(MEAN, "p_ema.mul_(decay).add_((1 - decay) * p)", "p_ema.copy_((p_ema + p) / 2)"),
     "just averaged"),
    (8, EMA, swap(MEAN, "p_ema.mul_(decay).add_((1 - decay) * p)", "p_ema.copy_(p)"), "are copied"),
    (8, EMA, swap(MEAN, "mul_(decay).add_((1 - decay) * p)", "mul_(decay).add_((1 - decay) * p)\n"
                  "    break"), "only the first weight"),
    (8, EMA, MEAN.split("\nfor b_ema")[0], "left as they are"),
    (8, EMA, swap(MEAN, "b_ema.copy_(b)", "b_ema.data = b.data"), "must not share"),
    (8, EMA, swap(MEAN, "b_ema.copy_(b)", "if b.is_floating_point():\n        b_ema.copy_(b)"),
     "a buffer of integers"),
    (8, EMA, swap(MEAN, "b_ema.copy_(b)", "b_ema.copy_(decay * b_ema + (1 - decay) * b)"),
     "averaged as weights are"),
    (8, EMA, swap(MEAN, "b_ema.copy_(b)", "b_ema = b"), "left as they are"),
    (8, EMA, "for name, value in ema.state_dict().items():\n    if value.is_floating_point():\n"
     "        value.lerp_(model.state_dict()[name], 1 - decay)", "averaged as weights"),
    (8, EMA, "for name, value in ema.state_dict().items():\n"
     "    value.mul_(decay).add_((1 - decay) * model.state_dict()[name])", "RuntimeError"),
    (8, EMA, swap(MEAN, "for p_ema, p in", "ema.requires_grad_(True)\nfor p_ema, p in"),
     "must not need gradients"),
    (8, EMA, "ema.load_state_dict(model.state_dict())", "are copied"),
    (8, EMA, "import copy\nema = copy.deepcopy(model)", "nothing happens"),
    (8, EMA, "for w in ema.parameters():\n    w.mul_(decay)", "is left out"),
    (8, RESTORE, swap(BACK, 'self.step = checkpoint["step"]\n', ""), "expected step 2, got 0"),
    (8, RESTORE, swap(BACK, 'checkpoint["step"]', 'checkpoint["step"] + 1'),
     "expected step 2, got 3"),
    (8, RESTORE, swap(BACK, 'checkpoint["step"]', 'torch.tensor(checkpoint["step"])'), "step 2"),
    (8, RESTORE, swap(BACK, "self.step =", "step ="), "expected step 2, got 0"),
    (8, RESTORE, swap(BACK, 'self.model.load_state_dict(checkpoint["model"])\n', ""),
     "the weights (model)"),
    (8, RESTORE, swap(BACK, 'self.ema.load_state_dict(checkpoint["ema"])\n', ""),
     "the averaged weights (ema)"),
    (8, RESTORE, swap(BACK, 'self.model.load_state_dict(checkpoint["model"])',
                      'self.model.load_state_dict(checkpoint["ema"])'), "the weights (model)"),
    (8, RESTORE, swap(BACK, 'self.ema.load_state_dict(checkpoint["ema"])',
                      'self.ema = self.model'), "stay the objects"),
    (8, RESTORE, swap(BACK, 'self.optimizer.load_state_dict(checkpoint["optimizer"])\n', ""),
     "no moments"),
    (8, RESTORE, swap(BACK, "self.optimizer.load_state_dict(", "self.optimizer = torch.optim.Adam("
                      "self.model.parameters())\nself.optimizer.load_state_dict("),
     "stay the objects"),
    (8, RESTORE, swap(BACK, "self.optimizer.load_state_dict(", "import copy\nself.model = "
                      "copy.deepcopy(self.model)\nself.optimizer.load_state_dict("),
     "stay the objects"),
    (8, RESTORE, swap(BACK, 'self.tally.copy_(checkpoint["tally"])\n', ""), "the losses since"),
    (8, RESTORE, swap(BACK, 'self.tally.copy_(checkpoint["tally"])', "self.tally.zero_()"),
     "the losses since"),
    (8, RESTORE, swap(BACK, 'self.tally.copy_(checkpoint["tally"])',
                      'self.tally += checkpoint["tally"].sum()'), "the losses since"),
    (8, RESTORE, swap(BACK, 'self.tally.copy_(checkpoint["tally"])',
                      'self.tally = checkpoint["tally"].numpy()'), "the losses since"),
    (8, RESTORE, swap(BACK, '\ntorch.set_rng_state(checkpoint["rng"][0][0])', ""),
     "the state of the random numbers"),
    (8, RESTORE, swap(BACK, 'set_rng_state(checkpoint["rng"][0][0])',
                      'manual_seed(self.config["seed"])'), "the state of the random numbers"),
    (8, RESTORE, swap(BACK, 'set_rng_state(checkpoint["rng"][0][0])',
                      'set_rng_state(checkpoint["rng"][0][0])\ntorch.randn(3)'), "random numbers"),
    (8, RESTORE, swap(BACK, '["rng"][0][0]', '["rng"][0]'), "TypeError"),
    (8, RESTORE, swap(BACK, '\nself.keep_log(read_log(self.out / "log.csv"))', ""),
     "a line of step 3"),
    (8, RESTORE, swap(BACK, 'self.keep_log(read_log(self.out / "log.csv"))', "self.keep_log([])"),
     "no line of log.csv"),
    (8, RESTORE, swap(BACK, 'self.keep_log(read_log(self.out / "log.csv"))\n', "").replace(
        "self.step =", 'self.keep_log(read_log(self.out / "log.csv"))\nself.step ='),
     "before self.step is back"),
    (8, RESTORE, swap(BACK, 'self.tally.copy_(checkpoint["tally"])\n', "")
     + '\nself.tally.copy_(checkpoint["tally"])', "before self.tally is back"),
    (8, RESTORE, swap(BACK, "checkpoint.pt", "checkpoints.pt"), "FileNotFoundError"),
    (8, RESTORE, "return read_checkpoint(self.out / 'checkpoint.pt')", "expected step 2, got 0"),
    (11, JUMP, LEAP.removeprefix(REFUSE), "was accepted"),
    (11, JUMP, swap(LEAP, "eta < 0 or eta > 1", "eta > 1"), "eta = -0.5, was accepted"),
    (11, JUMP, swap(LEAP, "eta < 0 or eta > 1", "eta < 0"), "eta = 1.5, was accepted"),
    (11, JUMP, swap(LEAP, "s < t <= ddpm.T", "s <= t <= ddpm.T"), "t = 2 to s = 2"),
    (11, JUMP, swap(LEAP, "s < t <= ddpm.T", "s < t"), "expected a ValueError, got IndexError"),
    (11, JUMP, swap(LEAP, "raise ValueError", "raise IndexError"), "got IndexError"),
    (11, JUMP, REFUSE.replace("< t", "> t") + LEAP.removeprefix(REFUSE), "no such jump"),
    (11, JUMP, swap(LEAP, "ddpm.alpha_bar[t], ddpm.alpha_bar[s]",
                    "ddpm.alpha_bar[s], ddpm.alpha_bar[t]"), "s and t are exchanged"),
    (11, JUMP, swap(LEAP, "return x_s", "x_s"), "Is there a `return`?"),
    (11, JUMP, swap(LEAP, "return x_s", "return x_s, x_0_hat"), "got a tuple or a list"),
    (11, JUMP, swap(LEAP, "return x_s", "return x_s.double()"), "got torch.float64"),
    (11, JUMP, swap(LEAP, "ddpm.alpha_bar[t], ddpm", "ddpm.exact.alpha_bar.to(x_t)[t], ddpm")
     .replace("return x_s", "return x_s.numpy()"), "numpy.ndarray"),
    (11, JUMP, swap(LEAP, "return x_s", "return x_s.mean(0)"), "expected the shape"),
    (11, JUMP, swap(LEAP, "a_s.sqrt() * x_0_hat", "a_t.sqrt() * x_0_hat"),
     "alpha_bar_t stands where alpha_bar_s"),
    (11, JUMP, swap(LEAP, "torch.sqrt((1 - a_s - sigma ** 2).clamp(min=0))",
                    "(1 - a_s - sigma ** 2).clamp(min=0)"), "root of 1 - alpha_bar_s - sigma ** 2"),
    (11, JUMP, swap(LEAP, "1 - a_s - sigma ** 2", "1 - a_s + sigma ** 2"), "sigma ** 2 is added"),
    (11, JUMP, swap(LEAP, ".clamp(min=0)) * eps", ".clamp(min=0)) * -eps"),
     "is subtracted and not added"),
    (11, JUMP, swap(LEAP, "torch.sqrt((1 - a_s) / (1 - a_t))", "(1 - a_s) / (1 - a_t)"),
     "square root of (1 - alpha_bar_s) / (1 - alpha_bar_t)"),
    (11, JUMP, swap(LEAP, "torch.sqrt(1 - a_t / a_s)", "(1 - a_t / a_s)"),
     "square root of 1 - alpha"),
    (11, JUMP, swap(LEAP, " * torch.sqrt(1 - a_t / a_s)", ""), "is missing"),
    (11, JUMP, swap(LEAP, "sigma = eta * torch.sqrt", "sigma = torch.sqrt"),
     "factor eta is missing"),
    (11, JUMP, swap(LEAP, "sigma * torch.randn(x_t.shape, generator=generator, device=x_t.device)",
                    "sigma * torch.randn(1, generator=generator)"), "all images share"),
    (11, JUMP, swap(LEAP, "sigma * torch.randn(x_t.shape, generator=generator, device=x_t.device)",
                    "sigma * torch.rand(x_t.shape, generator=generator)"), "noise of a jump"),
    (11, JUMP, swap(LEAP, "generator=generator, device", "device"), "same generator gave other"),
    (11, JUMP, swap(LEAP, ", device=x_t.device", ""), "is on the CPU"),
    (11, JUMP, swap(LEAP, "if eta > 0", "if eta == 1"), "no noise is added"),
    (11, JUMP, swap(LEAP, "if eta > 0:", "if True:").replace("sigma * torch", "0.1 * torch"),
     "deviation of a jump"),
    (11, JUMP, swap(LEAP, "model, x_t, t, clip)", "model, x_t, t)"), "although clip is False"),
    (11, JUMP, swap(LEAP, "model, x_t, t, clip)", "model, x_t, t, False)"), "nothing is clipped"),
    (11, JUMP, swap(LEAP, "return x_s", "return x_s.clamp(-1, 1) if clip else x_s"),
     "x_s is clipped, which is noisy"),
    (11, JUMP, swap(LEAP, "x_0_hat = ddpm.estimate_x_0(model, x_t, t, clip)",
                    "x_0_hat = model(x_t, torch.full((len(x_t),), t))"), "mean of a jump"),
    (11, JUMP, swap(LEAP, "x_0_hat = ddpm", "x_t *= 1.01\nx_0_hat = ddpm"),
     "x_t was changed in place"),
    (11, JUMP, "return ddpm.posterior_mean(ddpm.estimate_x_0(model, x_t, t, clip), x_t, t)",
     "no noise is added"),
    (11, JUMP, REFUSE + "return ddpm.estimate_x_0(model, x_t, t, clip)", "no noise is added"),
    (11, JUMP, swap(LEAP, "a_t, a_s = ddpm.alpha_bar[t], ddpm.alpha_bar[s]",
                    "a_t, a_s = ddpm.alpha[t], ddpm.alpha[s]"), "alpha stands where alpha_bar"),
    (11, JUMP, swap(LEAP, "ddpm.alpha_bar[t], ddpm.alpha_bar[s]",
                    "ddpm.alpha_bar[t - 1], ddpm.alpha_bar[s - 1]"), "t is off by one"),
    (11, WALK, swap(TAUS, "jumps(ddpm, times)", "list(zip([0] + times[:-1], times))"),
     "times = [] and eta = 0.0, where T = 4: expected a ValueError, got none"),
    (11, WALK, swap(TAUS, "pairs[::-1]", "pairs"), "time run forwards"),
    (11, WALK, swap(TAUS, "for s, t", "for t, s"), "s and t are exchanged"),
    (11, WALK, swap(TAUS, "pairs[::-1]", "pairs[:0:-1]"), "leaving out the last step"),
    (11, WALK, swap(TAUS, "pairs[::-1]", "pairs[-2::-1]"), "leaving out the first step"),
    (11, WALK, swap(TAUS, "x = step", "step"), "starts from x_T again"),
    (11, WALK, swap(TAUS, "model, x, t", "model, x_T, t"), "starts from x_T again"),
    (11, WALK, swap(TAUS, "t, s, eta", "t, t - 1, eta"), "the pairs (t, s) of its jumps"),
    (11, WALK, swap(TAUS, "t, s, eta", "t, 0, eta"), "the pairs (t, s) of its jumps"),
    (11, WALK, swap(TAUS, "x = x_T\n", "times.reverse()\nx = x_T\n"), "times was changed in place"),
    (11, WALK, swap(TAUS, ", eta, clip, generator)", ", clip=clip, generator=generator)"),
     "Hand eta"),
    (11, WALK, swap(TAUS, ", eta, clip, generator)", ", eta, True, generator)"),
     "clip is not handed"),
    (11, WALK, swap(TAUS, ", eta, clip, generator)", ", eta, clip)"), "same generator gave other"),
    (11, WALK, swap(TAUS, "return x", "return x_T"), "when x_T is returned"),
    (11, WALK, swap(TAUS, "return x", "print(x)"), "Is there a `return`?"),
    (11, WALK, swap(TAUS, "    x = step(ddpm, model, x, t, s, eta, clip, generator)\nreturn x",
                    "    x = step(ddpm, model, x, t, s, eta, clip, generator)\n    return x"),
     "asked for t = [4], not"),
    (11, WALK, swap(TAUS, "return x", "return x.numpy()"), "numpy.ndarray"),
    (11, WALK, swap(TAUS, "x = x_T", "x = x_T * 1.0\nx_T += 1"), "x_T was changed in place"),
    (11, WALK, "x = torch.randn_like(x_T)\n" + swap(TAUS, "x = x_T\n", ""),
     "it must start from x_T"),
    (11, WALK, swap(TAUS, "    x = step(", "    ddpm.estimate_x_0(model, x, t)\n    x = step("),
     "twice at each time"),
    (7, GUESS, swap(HAT, "eps = model(x_t, t_batch)", "eps = model(x_t, t)"), "it got one int"),
    (7, GUESS, swap(HAT, "t_batch)\n", "t_batch[:1])\n"), "of the shape (1,)"),
    (7, GUESS, swap(HAT, "torch.long", "torch.float32"), "float32 tensor of the shape (4,)"),
    (7, GUESS, swap(HAT, "t, dtype", "t - 1, dtype"),
     "estimate_x_0: the model was asked for t = [2], not [3]"),
    (7, GUESS, swap(HAT, ", device=x_t.device", ""), "is on the CPU"),
    (7, GUESS, swap(HAT, "bar[t] ** 0.5 * eps", "bar[t] * eps"), "root of 1 - alpha_bar_t is"),
    (7, GUESS, swap(HAT, "/ self.alpha_bar[t] ** 0.5", "/ self.alpha_bar[t]"),
     "root of alpha_bar_t is missing"),
    (7, GUESS, swap(HAT, "self.alpha_bar", "self.alpha"), "alpha_t stands where alpha_bar_t"),
    (7, GUESS, swap(HAT, "x_t - self", "x_t + self"), "added and not subtracted"),
    (7, GUESS, swap(HAT, " / self.alpha_bar[t] ** 0.5", ""), "division by sqrt(alpha_bar_t)"),
    (7, GUESS, swap(HAT, "return x_0", "return eps"), "taken to predict x_0, and not eps"),
    (7, GUESS, swap(HAT, "return x_0", "x_0"), "Is there a `return`?"),
    (7, GUESS, swap(HAT, "return x_0", "return x_0, eps"), "got a tuple or a list"),
    (7, GUESS, swap(HAT, "return x_0", "return x_0.double()"), "got torch.float64"),
    (7, GUESS, swap(HAT, "return x_0", "return x_0.detach().numpy()"), "numpy.ndarray"),
    (7, GUESS, swap(HAT, "x_0 = torch.clamp(x_0", "eps = torch.clamp(eps"), "nothing is clipped"),
    (7, GUESS, "x_t.clamp_(-1, 1)\n" + HAT, "x_t was changed in place"),
    (7, STEP, swap(DRAW, "if t == 1:\n    return mean\n", ""), "noise is added at the last step"),
    (7, STEP, swap(DRAW, "if t == 1", "if t <= 2"), "no noise is added"),
    (7, STEP, swap(DRAW, "c_t = self.alpha[t]", "c_t = self.alpha_bar[t]"),
     "alpha_bar_t stands where alpha_t"),
    (7, STEP, swap(DRAW, "c_0 = self.alpha_bar[t - 1]", "c_0 = self.alpha_bar[t]"),
     "alpha_bar_t stands where alpha_bar_{t-1}"),
    (7, STEP, swap(DRAW, "torch.randn(x_t.shape", "torch.rand(x_t.shape"), "noise of posterior"),
    (7, STEP, swap(DRAW, "x_t.shape, generator=generator, device=x_t.device)",
                   "(len(x_t), 1, *x_t.shape[2:]), generator=generator)"), "all channels share"),
    (7, STEP, swap(DRAW, "x_t.shape, generator=generator, device=x_t.device)",
                   "x_t.shape[1:], generator=generator)"), "all images share"),
    (7, STEP, swap(DRAW, "torch.randn(x_t.shape, generator=generator, device=x_t.device)",
                   "torch.randn(1, generator=generator)"), "all images share"),
    (7, STEP, swap(DRAW, ", device=x_t.device", ""), "is on the CPU"),
    (7, STEP, swap(DRAW, "generator=generator, ", ""), "Pass generator"),
    (7, STEP, swap(DRAW, "z = ", "generator = torch.Generator().manual_seed(0)\nz = "),
     "another generator gave the same"),
    (7, STEP, swap(DRAW, "self.sigma[t]", "self.sigma[t - 1]"), "deviation of posterior_sample"),
    (7, STEP, swap(DRAW, "self.sigma[t] * z", "self.sigma[t] * z * t"), "expected 0.44721"),
    (7, STEP, swap(DRAW, "+ self.sigma[t] * z", "+ self.sigma[t]"), "all images share their noise"),
    (7, STEP, "x_t *= 1\nx_t += 1e-3\n" + DRAW, "x_t was changed in place"),
    (7, STEP, swap(DRAW, "return mean +", "return x_t +"), "x_t is returned as it is"),
    (7, STEP, swap(DRAW, "return mean +", "return x_0_hat +"), "x_0_hat is returned as it is"),
    (7, P_SAMPLE, swap(ASK, "1 <= t", "0 <= t"), "at t = 0, T = 4, was accepted"),
    (7, P_SAMPLE, swap(ASK, "t <= self.T", "t < self.T"), "no such t"),
    (7, P_SAMPLE, swap(ASK, "ValueError", "IndexError"), "expected a ValueError, got IndexError"),
    (7, P_SAMPLE, ASK.split("\n", 2)[2], "was accepted"),
    (7, P_SAMPLE, "assert 1 <= t <= self.T\n" + ASK.split("\n", 2)[2], "AssertionError"),
    (7, P_SAMPLE, swap(ASK, "t, clip)", "t)"), "although clip is False"),
    (7, P_SAMPLE, swap(ASK, ", t, generator)", ", t)"), "Pass generator"),
    (7, P_SAMPLE, swap(ASK, "return ", "x = ") + "\nreturn x.clamp(-1, 1) if clip else x",
     "x_{t-1} is clipped, which is noisy"),
    (7, P_SAMPLE, swap(ASK, "return self.posterior_sample(", "return (").replace(
        ", x_t, t, generator)", ")"), "x_0_hat is returned as it is"),
    (7, P_SAMPLE, "if not 1 <= t <= self.T:\n    raise ValueError\nreturn self.posterior_sample("
     "model(x_t, torch.full((len(x_t),), t)), x_t, t, generator)", "p_sample"),
    (7, REVERSE, swap(DOWN, "yield t, x, x_0_hat", "yield t, x.clone(), x_0_hat").replace(
        "x = self.post", "x[:] = self.post"), "x_T was changed in place"),
    (7, REVERSE, swap(DOWN, "x = x_T", "x = x_T.clone()").replace("x = self.post",
                                                                  "x[:] = self.post"),
     "was overwritten"),
    (7, REVERSE, swap(DOWN, LOOP, "range(self.T, -1, -1)"), "range(T, -1, -1)"),
    (7, REVERSE, swap(DOWN, LOOP, "range(self.T - 1, -1, -1)"), "range(T - 1, -1, -1)"),
    (7, REVERSE, swap(DOWN, LOOP, "range(1, self.T + 1)"), "time run forwards"),
    (7, REVERSE, swap(DOWN, "\nyield 0, x, x", ""), "expected t = 4, 3, 2, 1, 0, got [4, 3, 2, 1]"),
    (7, REVERSE, swap(DOWN, "    yield t, x, x_0_hat\n", "") .replace(
        "generator=generator)\n", "generator=generator)\n    yield t, x, x_0_hat\n"),
     "x_{t-1} is yielded with t"),
    (7, REVERSE, swap(DOWN, "yield 0, x, x", "yield 0, x, x_0_hat * 2"), "x_0_hat of reverse"),
    (7, REVERSE, swap(DOWN, "yield t, x, x_0_hat", "yield t, x"), "three at a time"),
    (7, REVERSE, swap(DOWN, "yield t, x, x_0_hat", "return t, x, x_0_hat"), "three at a time"),
    (7, REVERSE, swap(DOWN, "yield t, x, x_0_hat", "yield x, t, x_0_hat"),
     "4, 3, 2, 1, 0, got ['Tensor'"),
    (7, REVERSE, swap(DOWN, "x = self.posterior_sample(x_0_hat, x, t, generator=generator)",
                      "x = self.p_sample(model, x, t, clip, generator)"), "twice at each time"),
    (7, REVERSE, swap(DOWN, ", clip=clip", ""), "clip is not handed on"),
    (7, REVERSE, swap(DOWN, ", generator=generator", ""), "Pass it on"),
    (7, REVERSE, "yield from ()", "three at a time"),
    (7, REVERSE, "return 3", "three at a time"),
    (7, REVERSE, "return x_T", "three at a time"),
    (7, REVERSE, swap(DOWN, "x = self.posterior_sample(x_0_hat, x, t, generator=generator)",
                      "x = x_0_hat"), "reverse_process"),
    (7, SAMPLE, swap(ALL, LOOP, "range(self.T, -1, -1)"), "range(T, -1, -1)"),
    (7, SAMPLE, swap(ALL, LOOP, "range(self.T)"), "asked for t"),
    (7, SAMPLE, swap(ALL, LOOP, "range(self.T - 1, 0, -1)"), "leaving out the first step"),
    (7, SAMPLE, swap(ALL, ", device=self.beta.device", ""), "x_T: what it makes is on the CPU"),
    (7, SAMPLE, swap(ALL, "torch.randn(shape,", "torch.randn(shape[0], 1,"), "expected the shape"),
    (7, SAMPLE, swap(ALL, "x = self.p", "x_0 = self.p"), "x_T is returned"),
    (7, SAMPLE, swap(ALL, "    x = self.p", "    y = self.p"), "x_T is returned"),
    (7, SAMPLE, swap(ALL, "return x", "print(x.shape)"), "Is there a `return`?"),
    (7, SAMPLE, swap(ALL, "    x = self.p_sample(model, x, t, clip, generator)\nreturn x",
                     "    x = self.p_sample(model, x, t, clip, generator)\n    return x"),
     "asked for t = [4], not [4, 3, 2, 1]"),
    (7, SAMPLE, swap(ALL, "x, t, clip, generator)", "x, t, generator=generator)"),
     "clip is not handed on"),
    (7, SAMPLE, swap(ALL, "return x", "return x.clamp(-1, 1)"), "clip is not handed on"),
    (7, SAMPLE, swap(ALL, "return x", "return [x]"), "sample: expected a torch.Tensor, got a t"),
    (7, SAMPLE, swap(ALL, "x = self.p_sample(model, x, t, clip, generator)",
                     "x = self.posterior_sample(self.estimate_x_0(model, x, t, clip), x, t, "
                     "generator)"), "needs gradients"),
    (7, SAMPLE, swap(ALL, "x = self.p_sample(model, x, t, clip, generator)",
                     "x_0 = self.estimate_x_0(model, x, t, clip)\n    z = torch.randn(shape, "
                     "generator=generator, device=x.device) if t == self.T else z\n"
                     "    x = self.posterior_mean(x_0, x, t) + self.sigma[t] * z * (t > 1)\n"
                     "    x = x.detach()"), "same noise"),
    (7, SAMPLE, "for t, x_t, _ in self.reverse_process(model, torch.randn(shape, generator="
     "generator), clip, generator):\n    return x_t", "asked for t = [4], not [4, 3, 2, 1]"),
]

SAYS_X_0 = """batch = torch.full((len(x_t),), t, dtype=torch.int64, device=x_t.device)
guess = model(x_t, batch)
if clip:
    guess = guess.clamp(min=-1.0, max=1.0)
return guess"""
SAYS_V = """v = model(x_t, torch.tensor([t] * x_t.shape[0], device=x_t.device))
x_0 = torch.sqrt(self.alpha_bar[t]) * x_t - torch.sqrt(1 - self.alpha_bar[t]) * v
return torch.clip(x_0, -1, 1) if clip else x_0"""
TILDE = swap(DRAW, "self.sigma[t] * z", "self.beta_tilde[t].sqrt() * z")
BETWEEN = swap(DRAW, "self.sigma[t] * z",
               "torch.exp(0.25 * (self.beta[t].log() + self.beta_tilde[t].log())) * z")
RIGHT_IN_VARIANT = [
    (1, 7, {GUESS: SAYS_X_0, STEP: TILDE, P_SAMPLE: ASK, REVERSE: DOWN, SAMPLE: ALL}),
    (2, 7, {GUESS: SAYS_V, STEP: BETWEEN, P_SAMPLE: ASK, REVERSE: DOWN, SAMPLE: ALL}),
]
WRONG_IN_VARIANT = [
    (1, 7, GUESS, swap(SAYS_X_0, "int64", "float32"), "float32 tensor of the shape (4,)"),
    (1, 7, GUESS, swap(SAYS_X_0, "min=-1.0", "min=0.0"), "images lie in [-1, 1]"),
    (1, 7, GUESS, swap(SAYS_X_0, "return guess", "guess"), "Is there a `return`?"),
    (1, 7, STEP, swap(TILDE, "beta_tilde[t].sqrt()", "beta[t].sqrt()"), "beta_t is the variance"),
    (2, 7, GUESS, swap(SAYS_V, "x_t - torch", "x_t + torch"), "v_theta is added and not"),
    (2, 7, GUESS, swap(SAYS_V, "torch.sqrt(self.alpha_bar[t]) * x_t", "self.alpha_bar[t] * x_t"),
     "root of alpha_bar_t is missing"),
    (2, 7, GUESS, swap(SAYS_V, "torch.sqrt(1 - self.alpha_bar[t])", "self.beta[t].sqrt()"),
     "estimate_x_0 at t = 3"),
    (2, 7, GUESS, swap(SAYS_V, "x_0 = ", "v = v.clamp(-1, 1)\nx_0 = "), "estimate_x_0 at t = 3"),
    (2, 7, STEP, swap(BETWEEN, "0.25", "0.5"), "variance stands where the deviation"),
    (2, 7, STEP, swap(BETWEEN, "torch.exp(0.25 * (self.beta[t].log() + self.beta_tilde[t].log()))",
                      "((self.beta[t] + self.beta_tilde[t]) / 2).sqrt()"), "expected 0.41"),
]
