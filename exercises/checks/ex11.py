"""11: DDIM."""
import contextlib
import inspect
import itertools
from unittest import mock

import torch

from .kit import (BAR, BETA, Formula, Model, Process, coefficients, demand, expect, expect_noise,
                  formula, normal, on_meta, refused, same, tensor, theirs, walked)

LADDER = True                                        # see run.run
EQ_15 = "(x_t - (1 - alpha_bar) ** 0.5 * eps_theta) / alpha_bar ** 0.5"      # of Ho et al.
EQ_12 = "alpha_bar_s ** 0.5 * x_0_hat + (1 - alpha_bar_s - sigma ** 2) ** 0.5 * eps"
EQ_16 = "eta * ((1 - alpha_bar_s) / (1 - alpha_bar)) ** 0.5 * (1 - alpha_bar / alpha_bar_s) ** 0.5"


def eps_from_x_0(ddpm, x_t, t, x_0):
    return (x_t - BAR[t] ** 0.5 * x_0) / (1 - BAR[t]) ** 0.5


@contextlib.contextmanager
def lent(student, step=None):
    """Lend the module a right eps_from_x_0, that of exercise 4; and put something around step."""
    module = student.ddim
    with mock.patch.object(module, "eps_from_x_0", eps_from_x_0, create=True), \
            mock.patch.object(module, "step", step or module.step):
        yield module


@theirs
def jump(student, x_t, says, t, s, eta=None, clip=False, seed=0, other=0):
    """Return x_s and what the model was asked; other: the seed of torch's own random numbers."""
    model, g = Model(says), torch.Generator().manual_seed(seed)
    torch.manual_seed(other)
    with lent(student) as module:
        return [module.step(Process(), model, x_t, t, s, clip=clip, generator=g,
                            **({} if eta is None else {"eta": eta})), model.asked]


@theirs
def sample(student, x_T, says, times, eta=0.0, clip=True, seed=0, other=0):
    """Return x_0 and what was done on the way; jumps are pairs (t, s)."""
    model, step, jumps, before = Model(says), student.ddim.step, [], list(times)
    x, raised, g = None, "", torch.Generator().manual_seed(seed)
    torch.manual_seed(other)

    def kept(*args, **how):
        given = inspect.signature(step).bind(*args, **how).arguments
        jumps.append([given["t"], given["s"]])
        return step(*args, **how)

    with lent(student, kept) as module:
        try:
            x = module.sample(Process(), model, x_T, times, eta, clip, g)
        except (ValueError, IndexError) as error:
            raised = f"{'Value' if isinstance(error, ValueError) else 'Index'}Error: {error}"
    return {"x": x, "asked": model.asked, "raised": raised, "jumps": jumps,
            "graph": getattr(x, "requires_grad", False), "changed": times != before}


@theirs
def elsewhere(student, name):
    """Return what step makes on torch's meta device: x_s, or the t that it gives the model."""
    process, model, x_t = Process().to("meta"), Model(0.0), torch.zeros(2, 3, device="meta")
    process.predict_x_0 = process.estimate_x_0 = lambda *given, **how: torch.zeros_like(x_t)
    with lent(student) as module:
        x_s = module.step(process, model, x_t, 4, 2, 1.0)
    return x_s if name == "z" else model.asked[0][1]


def at(t, s):
    """Return what `Formula` asks for: coefficients of t and s, or of neighbours."""
    def shifted(shift):
        there = {name: values[min(max(t + shift, 0), 4)]
                 for name, values in coefficients().items() if name in ("beta", "alpha_bar")}
        return {**there, "alpha_bar_s": coefficients()["alpha_bar"][min(max(s + shift, 0), 4)]}
    return shifted


def sigma(t, s, eta):
    """Return Eq. 16, and what goes wrong with it."""
    right, beta = Formula(EQ_16, at(t, s), eta=eta), BETA[t - 1]
    alpha = [torch.tensor(1 - b).double() for b in (BETA[s - 1], beta)]
    return right.value, itertools.chain([
        ("when alpha stands where alpha_bar belongs", Formula(
            EQ_16, None, eta=eta, alpha_bar_s=alpha[0], alpha_bar=alpha[1]).value),
        ("when eta is squared", eta * right.value),
        ("when the factor sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t)) is missing",
         eta * (1 - BAR[t] / BAR[s]) ** 0.5),
        ("when beta_t stands where 1 - alpha_bar_t / alpha_bar_s belongs",
         eta * ((1 - BAR[s]) / (1 - BAR[t]) * beta) ** 0.5)], right.slips())


def check_a_jump_has_the_deviation_of_eq_16(student):
    """All that is left where x_t and eps_theta are 0."""
    zero = torch.zeros(500, 3, 4, 4)
    for t, s, eta in ((4, 2, 0.5), (4, 1, 0.3), (3, 2, 0.8)):
        what = f"a jump from t = {t} to s = {s} with eta = {eta}, Eq. 16"
        got = tensor(jump(student, zero, zero, t, s, eta)[0], what, zero.shape, torch.float32)
        demand(got.isfinite().all(), f"{what}: the result is not finite. This is what you get when "
               "s and t are exchanged: 1 - alpha_bar_t / alpha_bar_s is not below 0.")
        right, wrong = sigma(t, s, eta)
        expect_noise(got, right.item(), 0, what, wrong)


CASES = [(4, 2, 0.5, False), (4, 2, 0.0, False), (4, 1, 0.8, False), (4, 2, 0.5, True)]


def check_a_jump_has_the_mean_of_eq_12(student, cases=CASES):
    """The same generator draws the same z, so that a difference of two jumps is without it."""
    x_t, says = 1.5 * normal(student, 2, 4, 3, 2, 2)
    for t, s, eta, clip in cases:
        far = formula(EQ_15, t, x_t=x_t, eps_theta=says)
        x_0_hat = far.value.clamp(-1, 1) if clip else far.value
        what = f"a jump from t = {t} to s = {s} with eta = {eta} and clip={clip}"
        z, got = (tensor(jump(student, *each)[0], what, x_t.shape, torch.float32) for each in (
            (0 * x_t, 0 * x_t, t, s, eta), (x_t, says, t, s, eta, clip)))

        def mean(x_0_hat, eps=None, t=t, s=s, eta=eta):
            eps = eps_from_x_0(None, x_t, t, x_0_hat) if eps is None else eps
            return Formula(EQ_12, at(t, s), sigma=sigma(t, s, eta)[0], x_0_hat=x_0_hat.double(),
                           eps=eps.double())

        expect(got - z, mean(x_0_hat), f"the mean of {what}, Eq. 12", itertools.chain([
            ("when eps_theta is used, and not the noise beside the clipped x_0_hat",
             mean(x_0_hat, says).value), ("when nothing is clipped", mean(far.value).value),
            ("when x_0_hat is clipped although clip is False", mean(far.value.clamp(-1, 1)).value),
            ("when x_s is clipped, which is noisy and no image yet",
             (mean(x_0_hat).value + z).clamp(-1, 1) - z)],
            ((words, mean(value).value) for words, value in far.slips() if not clip)))
        if eta == 1 and s == t - 1:
            expect(got - z, Process().posterior_mean(x_0_hat, x_t, t), f"the mean of {what}, "
                   "which is that of Algorithm 2, Eq. 7 of Ho et al.")


def check_eta_1_and_one_step_is_algorithm_2(student):
    """With sigma_t^2 = beta_tilde_t, also where x_0_hat is clipped."""
    zero = torch.zeros(500, 3, 4, 4)
    for t in (4, 3, 2):
        check_a_jump_has_the_mean_of_eq_12(student, [(t, t - 1, 1.0, True), (t, t - 1, 1.0, False)])
        expect_noise(jump(student, zero, zero, t, t - 1, 1.0)[0], coefficients()["beta_tilde"][
            t].item() ** 0.5, 0, f"a jump from t = {t} to {t - 1} with eta = 1")


def check_a_jump_to_0_is_x_0_hat(student):
    """1 - alpha_bar_0 = 0: no noise is left, and sigma is 0 for every eta."""
    x_t = torch.linspace(-2, 2, 48).reshape(4, 3, 2, 2)
    for t, eta in ((4, 0.0), (4, 1.0), (1, 1.0)):
        got = tensor(jump(student, x_t, [0.3, 0.0], t, 0, eta)[0], "step to 0", x_t.shape)
        demand(got.isfinite().all(), f"step from t = {t} to 0: the result is not finite. 1 - "
               "alpha_bar_0 - sigma^2 can be a rounding error below 0, which has no square root.")
        expect(got, torch.full_like(x_t, 0.3), f"a jump from t = {t} to 0 with eta = {eta}, where "
               "all data are 0.3", atol=1e-4, dtype=torch.float32)


def check_eta_0_draws_nothing_and_can_be_undone(student):
    """The default; x_t is found again from x_s, since both hold the same x_0_hat and eps."""
    x_t, says = 1.5 * normal(student, 2, 4, 3, 2, 2)
    one, two = (tensor(jump(student, x_t, says, 4, 2, seed=n, other=n)[0], "step", x_t.shape)
                for n in range(2))
    demand(same(one, two), "step: two jumps with eta = 0 differ; they must be deterministic")
    x_0 = (one - (1 - BAR[2]) ** 0.5 * says) / BAR[2] ** 0.5
    expect(BAR[4] ** 0.5 * x_0 + (1 - BAR[4]) ** 0.5 * says, x_t, "x_4 found again from x_2, by "
           "Eq. 12 with eta = 0 run backwards", atol=1e-4)


def walk(student, x_T, says, times, *how):
    """Return x_0 and the x_t of which the model was asked."""
    got, down = sample(student, x_T, says, [*times], *how), times[::-1]
    jumps = [[t, s] for t, s in itertools.pairwise([*down, 0])]
    demand(got["jumps"][:1] != [jumps[0][::-1]], "sample: s and t are exchanged: step(ddpm, model, "
           "x_t, t, s) goes from t down to s")
    walked(f"sample with times = {times}", got["asked"], down, x_T.shape, got["raised"])
    demand(got["jumps"] in ([], jumps), f"sample with times = {times}: the pairs (t, s) of its "
           f"jumps are {got['jumps']}, not {jumps}")
    demand(same(got["asked"][0][0], x_T), "sample: it must start from x_T")
    demand(len(down) == 1 or not same(got["asked"][1][0], x_T), "sample: the second step starts "
           "from x_T again. It goes on from what the first returned.")
    demand(not got["changed"], "sample: times was changed in place. It belongs to the caller.")
    x_0 = tensor(got["x"], "sample", x_T.shape, torch.float32)
    demand(not got["graph"], "sample: x_0 needs gradients, and nothing is trained here")
    return x_0, [x_t for x_t, _ in got["asked"]]


def check_sample_walks_down_the_times(student):
    """tau_S, ..., tau_1, each asked for once, and then 0."""
    x_T = torch.full((2, 3, 2, 2), 0.9)
    for times in ([1, 2, 3, 4], [2, 4], [1, 3], [4], [1]):
        x_0, _ = walk(student, x_T, [0.3, 0.0], times)
        expect(x_0, torch.full_like(x_T, 0.3), f"samples with times = {times}, where all data are "
               "0.3", [("when x_T is returned", x_T)], atol=1e-4)


def check_sample_hands_eta_and_clip_to_every_step(student):
    x_T = torch.linspace(-1, 1, 48).reshape(4, 3, 2, 2)
    for clip, eta in itertools.product((True, False), (0.0, 1.0)):
        x_0, x = walk(student, x_T, -3.0, [1, 4], eta, clip)
        far, end = ((x_t + 3 * (1 - BAR[t]) ** 0.5) / BAR[t] ** 0.5 for t, x_t in ((4, x[0]),
                                                                                 (1, x[1])))
        expect(x_0, end.clamp(-1, 1) if clip else end, f"x_0 of sample with clip={clip}", [
            ("when clip is not handed on to every step", end if clip else end.clamp(-1, 1))])
        x_0_hat = far.clamp(-1, 1) if clip else far
        still = BAR[1] ** 0.5 * x_0_hat + (1 - BAR[1]) ** 0.5 * eps_from_x_0(None, x_T, 4, x_0_hat)
        demand(same(x[1], still) == (eta == 0), f"sample with eta = {eta}: the noise of x_1 is "
               "that of another eta. Hand eta to every step.")


def check_the_generator_fixes_the_noise(student):
    x = torch.zeros(50, 1)
    for name, draw in (("step", lambda *seeds: jump(student, x, [0.3, 0.0], 4, 2, 1.0, True,
                                                    *seeds)[0]),
                       ("sample", lambda *seeds: walk(student, x, [0.0, 1.0], [1, 2, 4], 1.0, True,
                                                      *seeds)[0])):
        one, two, three = (tensor(draw(*each), name, x.shape) for each in ((0, 0), (0, 1), (1, 2)))
        demand(same(one, two), f"{name}: the same generator gave other noise. Pass generator to "
               "torch.randn, and to every step.")
        demand(not same(one, three), f"{name}: another generator gave the same noise, or none")


def check_all_is_on_the_device_of_x_t(student):
    check_a_jump_has_the_mean_of_eq_12(student)
    for name, hint in (("z", "noise_like(x_t, generator) draws it where x_t is."),
                       ("t", "torch.full((len(x_t),), t, device=x_t.device)")):
        on_meta(lambda name=name: elsewhere(student, name), f"step, {name}", hint)


def check_jumps_that_are_none_are_refused(student):
    check_a_jump_has_the_mean_of_eq_12(student)
    x = torch.zeros(1, 1)
    for t, s, eta in ((2, 2, 0.0), (2, 3, 0.0), (5, 1, 0.0), (2, -1, 0.0), (2, 1, 1.5),
                      (2, 1, -0.5)):
        refused(lambda t=t, s=s, eta=eta: jump(student, x, 0.0, t, s, eta),
                f"step: a jump from t = {t} to s = {s} with eta = {eta}")


def check_times_that_do_not_increase_are_refused(student):
    """None, too, and what leaves 1..T; and eta outside [0, 1]."""
    x_T = torch.full((2, 1), 0.9)
    expect(walk(student, x_T, [0.3, 0.0], [2, 4])[0], torch.full((2, 1), 0.3), "samples", atol=1e-4)
    for times, eta in (([], 0.0), ([2, 1], 0.0), ([2, 2], 0.0), ([0, 2], 0.0), ([1, 5], 0.0),
                       ([1, 2], 1.5), ([1, 2], -0.5)):
        raised = sample(student, x_T, 0.0, times, eta)["raised"]
        demand(raised.startswith("ValueError"), f"sample with times = {times} and eta = {eta}, "
               f"where T = 4: expected a ValueError, got {raised or 'none: it was accepted'}")
