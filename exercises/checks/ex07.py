"""7: Algorithm 2, ancestral sampling."""
import functools
import itertools

import torch

from .kit import (BAR, BETA, EQ_7, SAYS, Model, Process, coefficients, demand, expect,
                  expect_noise, formula, normal, on_meta, plain, refused, same, tensor, theirs,
                  walked)

LADDER = True                                        # see run.run
METHODS = ("p_sample", "estimate_x_0", "posterior_sample", "reverse_process", "sample")
X_0_HAT = ("(x_t - (1 - alpha_bar) ** 0.5 * eps_theta) / alpha_bar ** 0.5", "x_0_theta",
           "alpha_bar ** 0.5 * x_t - (1 - alpha_bar) ** 0.5 * v_theta")      # of each variant
LINE_4 = "(x_t - beta / (1 - alpha_bar) ** 0.5 * eps_theta) / alpha ** 0.5"


def lend(student, variance="beta", beta=BETA, device="cpu"):
    return Process.of(student.ddpm.DDPM, *METHODS, beta=beta, variance=variance).to(device)


def seeded(seed, other):
    """Return a generator of this seed, and give torch's own random numbers the other."""
    torch.manual_seed(other)
    return torch.Generator().manual_seed(seed)


@theirs
def step(student, name, x_t, says, t, clip=False, variance="beta", seeds=(0, 0)):
    """Return what a part of a step gives, where the model, or x_0_hat, is what `says` says."""
    process, model, g = lend(student, variance), Model(says), seeded(*seeds)
    return {"estimate_x_0": lambda: [process.estimate_x_0(model, x_t, t, clip=clip), model.asked],
            "posterior_sample": lambda: process.posterior_sample(says, x_t, t, g),
            "p_sample": lambda: process.p_sample(model, x_t, t, clip=clip, generator=g)}[name]()


@theirs
def reverse(student, x_T, says, clip=True, seeds=None):
    """Return what reverse_process yields, [as it was then, as it is in the end]."""
    model, then, now = Model(says, student.variant), [], []
    g = seeded(*seeds) if seeds else None
    steps = lend(student).reverse_process(model, x_T, clip=clip, generator=g)
    for each in itertools.islice(steps, 20) if hasattr(steps, "__iter__") else ():
        then.append(plain(each))
        now.append(each)
    return [then, now, model.asked]


@theirs
def sample(student, shape, says, clip=True, variance="beta", beta=BETA, seeds=None):
    model, x, raised = Model(says, student.variant, beta), None, ""
    g, process = seeded(*seeds) if seeds else None, lend(student, variance, beta)
    try:
        x = process.sample(model, tuple(shape), clip=clip, generator=g)
    except (ValueError, IndexError) as error:                    # of a t outside 1..T, say
        raised = f"{type(error).__name__}: {error}"
    return [x, model.asked, raised, getattr(x, "requires_grad", False)]


@theirs
def elsewhere(student, name):
    """Return what a method makes on torch's meta device: its t, its x_T or its x_{t-1}."""
    process, model, x_t = lend(student, device="meta"), Model(0.0), torch.zeros(2, 3, device="meta")
    process.predict_x_0 = process.posterior_mean = lambda *_, **__: torch.zeros_like(x_t)
    if name == "posterior_sample":
        return process.posterior_sample(x_t, x_t, 2)
    if name == "p_sample":
        return process.p_sample(model, x_t, 2)
    getattr(process, name)(model, *((2, 3),) if name == "sample" else (x_t, 2))
    return model.asked[0][name == "estimate_x_0"]


def guess(student, x_t, says, t, clip):
    """Return x_0_hat as it should be, and an iterator of pairs (mistake, what it gives)."""
    each = [formula(text, t, x_t=x_t, **{f"{name}_theta": says})
            for text, name in zip(X_0_HAT, SAYS, strict=True)]
    right, mine = each[student.variant], SAYS[student.variant]
    far = right.value

    def wrong():
        yield "when x_0_hat is clipped although clip is False", far.clamp(-1, 1)
        yield "when nothing is clipped", far
        yield "when x_0_hat is clipped to [0, 1]: images lie in [-1, 1]", far.clamp(0, 1)
        for words, value in (*((f"when the model is taken to predict {name}, and not {mine}",
                                other.value) for name, other in zip(SAYS, each, strict=True)),
                             *right.slips()):
            yield words, value.clamp(-1, 1) if clip else value
    return far.clamp(-1, 1) if clip else far, wrong()


def check_x_0_hat_is_what_the_prediction_stands_for(student, clip=False):
    """Eq. 15, or what takes its place in a variant."""
    x_t, says = 1.5 * normal(student, 2, 4, 3, 2, 2)
    for t in (3, 2, 1, 4):
        got, asked = step(student, "estimate_x_0", x_t, says, t, clip)
        walked("estimate_x_0", asked, [t], x_t.shape)
        demand(same(asked[0][0], x_t), "estimate_x_0: the model must be given x_t as it is")
        right, wrong = guess(student, x_t, says, t, clip)
        expect(got, right, f"estimate_x_0 at t = {t} with clip={clip}", wrong, dtype=torch.float32)


def check_x_0_hat_is_clipped_if_clip_is_true(student):
    """To [-1, 1], in which images lie."""
    check_x_0_hat_is_what_the_prediction_stands_for(student, True)


def check_one_step_has_the_mean_of_algorithm_2(student, cases=((3, False), (2, True), (4, True))):
    """mu_tilde_t(x_t, x_0_hat), Eq. 7, which is line 4 where nothing is clipped.

    The same generator draws the same z, so that a difference of two steps is without it.
    """
    x_t, says = 1.5 * normal(student, 2, 4, 3, 2, 2)
    for t, clip in cases:
        (x_0_hat, wrong), (far, _) = (guess(student, x_t, says, t, each) for each in (clip, False))
        mean = functools.partial(formula, EQ_7.replace("x_0", "x_0_hat"), t, x_t=x_t)
        for name, given in (("posterior_sample", x_0_hat.float()), ("p_sample", says)):
            what = f"{name} at t = {t}" + f" with clip={clip}" * (name == "p_sample")
            z, got = (tensor(step(student, name, *each), what, x_t.shape, torch.float32)
                      for each in ((0 * x_t, 0 * x_t, t), (x_t, given, t, clip)))
            clipped = [(f"when x_{{t-1}} is clipped{words}", (
                mean(x_0_hat=value).value + z).clamp(-1, 1) - z) for words, value in (
                (" instead of x_0_hat", far), (", which is noisy and no image yet", x_0_hat))]
            expect(got - z, mean(x_0_hat=x_0_hat), f"the mean of {what}, Algorithm 2, line 4",
                   clipped if name == "posterior_sample" else itertools.chain(
                clipped, ((words, mean(x_0_hat=value).value) for words, value in wrong),
                formula(LINE_4, t, x_t=x_t, eps_theta=says).slips()
                if student.variant == 0 and not clip else ()))


def sigma(student, variance, t):
    """Return sigma_t, its choices by name, of a process made with this variance."""
    beta, tilde = (coefficients()[name][t].item() for name in ("beta", "beta_tilde"))
    named = beta if variance == "beta" else tilde
    right = (named, tilde, (beta * tilde) ** 0.5)[student.variant] ** 0.5
    return right, [("when beta_t is the variance", beta ** 0.5),
                   ("when beta_tilde_t is the variance", tilde ** 0.5)]


def check_one_step_has_the_deviation_sigma_t(student):
    """All that is left where x_t and the prediction are 0; of both of the variances of sec. 3.2."""
    zero = torch.zeros(500, 3, 4, 4)
    for variance, t, name in itertools.product(("beta", "beta_tilde"), (3, 2, 4), (
            "posterior_sample", "p_sample")):
        what = f"{name} at t = {t}, of a process made with variance={variance!r}"
        got = tensor(step(student, name, zero, zero, t, variance=variance), what, zero.shape,
                     torch.float32)
        right, wrong = sigma(student, variance, t)
        expect_noise(got, right, 0, what, wrong)


def check_the_last_step_is_deterministic(student):
    """Algorithm 2, line 3: z = 0 at t = 1.  The mean is x_0_hat."""
    x_t, says = 1.5 * normal(student, 2, 4, 3, 2, 2)
    right, _ = guess(student, x_t, says, 1, True)
    for variance, (name, given) in itertools.product(("beta", "beta_tilde"), (
            ("posterior_sample", right.float()), ("p_sample", says))):
        z, got = (tensor(step(student, name, *each, True, variance), f"{name} at t = 1", x_t.shape)
                  for each in ((0 * x_t, 0 * x_t, 1), (x_t, given, 1)))
        expect(got, right, f"{name} at t = 1, which is x_0_hat", [
            ("when noise is added at the last step", right + z)], dtype=torch.float32)


def threes(steps):
    demand(steps and all(isinstance(each, list) and len(each) == 3 for each in steps),
           "reverse_process: expected that t, x_t and x_0_hat are yielded, three at a time")
    return steps


def check_reverse_process_shows_every_step(student):
    """Yields t = T, ..., 0 with x_t and x_0_hat; at t = 0 both are x_0."""
    x_T = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)
    then, now, asked = reverse(student, x_T, [0.3, 0.0])
    threes(then)
    walked("reverse_process", asked, [4, 3, 2, 1], x_T.shape)
    t = [t.item() if isinstance(t, torch.Tensor) and t.numel() == 1 else
         t if isinstance(t, int) else type(t).__name__ for t, _, _ in then]
    demand(t == [4, 3, 2, 1, 0], f"reverse_process: expected t = 4, 3, 2, 1, 0, got {t}")
    for n, ((_, *was), (_, *still)) in enumerate(zip(then, now, strict=True)):
        there, next_x = f"of reverse_process at t = {4 - n}", asked[min(n + 1, 3)][0]
        expect(was[1], torch.full_like(x_T, 0.3), f"x_0_hat {there}, where all data are 0.3",
               [("when x_t stands where x_0_hat belongs", was[0])], atol=1e-4, dtype=torch.float32)
        expect(was[0], asked[n][0] if n < 4 else was[1], f"x_t {there}, that of which the model is "
               "asked", [("when x_{t-1} is yielded with t", next_x)], dtype=torch.float32)
        for name, one, two in zip(("x_t", "x_0_hat"), was, still, strict=True):
            demand(torch.equal(one, two), f"{name} {there} was overwritten by a later step: one "
                   "tensor is changed in place. Compute a new one at each step.")
    expect(then[0][1], x_T, "x_T, the first that reverse_process yields")
    x_T, says = torch.full((3, 1), 2.5), torch.full((3, 1), 9.0)
    for clip in (True, False):
        right, other = (guess(student, x_T, says, 4, each)[0] for each in (clip, not clip))
        expect(threes(reverse(student, x_T, 9.0, clip)[0])[0][2], right, "x_0_hat of "
               f"reverse_process with clip={clip}", [("when clip is not handed on", other)])


def sampled(student, shape, says, clip=True, variance="beta", beta=BETA):
    """Return x_0, the x_t of which the model was asked, and whether x_0 needs gradients."""
    x, asked, raised, graph = sample(student, shape, says, clip, variance, beta)
    walked("sample", asked, list(range(len(beta), 0, -1)), tuple(shape), raised)
    return tensor(x, "sample", shape, torch.float32), [x_t for x_t, _ in asked], graph


def check_sample_asks_for_T_to_1_in_order(student):
    """Algorithm 2, line 2: for t = T, ..., 1.  What it returns is x_0_hat of x_1."""
    for clip in (True, False):
        x_0, x, _ = sampled(student, [2, 3, 2, 2], 9.0, clip)
        right, other = (guess(student, x[3], torch.full_like(x_0, 9.0), 1, each)[0]
                        for each in (clip, not clip))
        expect(x_0, right, f"x_0 of sample with clip={clip}, which is x_0_hat of x_1", [
            ("when clip is not handed on", other), ("when x_T is returned", x[0]),
            ("when x_1 is returned", x[3])])
    sampled(student, [2, 2], 0.0, beta=[0.5])


def check_the_generator_fixes_the_noise(student):
    """The same generator, the same x_{t-1}; no noise from anywhere else."""
    x_t = torch.zeros(50, 1)
    for name, draw in (
            *((name, lambda at, name=name: step(student, name, x_t, x_t, 3, seeds=at))
              for name in ("posterior_sample", "p_sample")),
            ("reverse_process", lambda at: threes(
                reverse(student, x_t, [0.0, 1.0], seeds=at)[0])[-1][1]),
            ("sample", lambda at: sample(student, [50, 1], [0.0, 1.0], seeds=at)[0])):
        one, two, three = (tensor(draw(at), name, x_t.shape) for at in ((0, 0), (0, 1), (1, 2)))
        demand(same(one, two), f"{name}: the same generator gave other noise. Pass generator to "
               "torch.randn. Pass it on, to the first draw and to every step.")
        demand(not same(one, three), f"{name}: another generator gave the same noise, or none")


def check_all_of_sampling_gives_the_data(student):
    """One point comes back exactly.  Where x_0 ~ N(0, 1), x_T and every step are drawn anew."""
    x_0, _, graph = sampled(student, [100, 2], [0.3, 0.0], variance="beta_tilde")
    expect(x_0, torch.full((100, 2), 0.3), "samples where all data are 0.3", atol=1e-4)
    demand(not graph, "sample: x_0 needs gradients: the graph of all T steps was kept. Nothing is "
           "trained here: torch.no_grad(), as p_sample and reverse_process have it.")
    _, x, _ = sampled(student, [500, 3, 4, 4], [0.0, 1.0], clip=False)
    demand(x[0].any(), "sample: x_T is not drawn but is 0; it is drawn from N(0, I)")
    demand((x[0] < 0).any(), "sample: no number of x_T is below 0. This is what you get when x_T "
           "is uniform, of torch.rand; it is drawn from N(0, I)")
    expect_noise(x[0], 1.0, student.seed, "x_T, which is drawn from N(0, I)")
    z = torch.zeros_like(x[0])
    for t, x_t, after in zip((4, 3, 2), x, x[1:], strict=False):
        x_0_hat, before = BAR[t] ** 0.5 * x_t, z
        mean = formula(EQ_7, t, x_0=x_0_hat, x_t=x_t).value
        z = (after - mean).float() / sigma(student, "beta", t)[0]
        demand(not same(z, before), "sample: every step adds the same noise. Draw z anew.")
        expect_noise(z, 1.0, student.seed, f"z in the step of sample from t = {t}")


def check_all_is_on_the_device_of_x_t(student):
    check_one_step_has_the_mean_of_algorithm_2(student, ((2, True),))
    check_sample_asks_for_T_to_1_in_order(student)
    for name, what, hint in (
            ("estimate_x_0", "t", "torch.full((len(x_t),), t, device=x_t.device)"),
            ("posterior_sample", "z", "torch.randn(x_t.shape, ..., device=x_t.device)"),
            ("p_sample", "z", "torch.randn(x_t.shape, ..., device=x_t.device)"),
            ("sample", "x_T", "torch.randn(shape, ..., device=self.beta.device)")):
        on_meta(lambda name=name: elsewhere(student, name), f"{name}, {what}", hint)


def check_there_is_no_step_from_a_time_outside_1_to_T(student):
    check_one_step_has_the_mean_of_algorithm_2(student, ((1, True), (4, True)))
    zero = torch.zeros(4, 3, 2, 2)
    for t in (0, 5, -1):
        refused(lambda t=t: step(student, "p_sample", zero, zero, t), f"p_sample at t = {t}, T = 4")
