"""11: DDIM."""
import functools
from unittest import mock

import torch

from .kit import Process, Wrong, demand, expect, same

BETA = [0.1, 0.3, 0.2, 0.5]
BAR = [1.0, 0.9, 0.63, 0.504, 0.252]                 # alpha_bar_0..alpha_bar_4


def eps_from_x_0(ddpm, x_t, t, x_0):
    return (x_t - BAR[t] ** 0.5 * x_0) / (1 - BAR[t]) ** 0.5


def lent(check):
    """Let a check have the module and a process; with a right eps_from_x_0, that of exercise 4."""
    @functools.wraps(check)
    def run(student):
        with mock.patch.object(student.ddim, "eps_from_x_0", eps_from_x_0):
            check(student, student.ddim, Process(BETA))
    return run


def point(c):
    """The perfect model where all data are c."""
    def model(x_t, t):
        bar = torch.tensor(BAR)[t].reshape(-1, *[1] * (x_t.dim() - 1))
        return (x_t - bar ** 0.5 * c) / (1 - bar) ** 0.5
    return model


def sigma(t, s, eta):
    """Eq. 16."""
    return eta * ((1 - BAR[s]) / (1 - BAR[t]) * (1 - BAR[t] / BAR[s])) ** 0.5


@lent
def check_a_jump_has_the_mean_and_deviation_of_eq_12(student, module, process):
    """From a fixed x_t, with eps_theta = 0.4 everywhere and nothing clipped."""
    n, x, eps = 100_000, 0.8, 0.4
    torch.manual_seed(student.seed)
    for t, s, eta in ((4, 2, 0.0), (4, 2, 0.5), (4, 2, 1.0), (3, 2, 1.0), (4, 1, 0.8)):
        got = module.step(process, lambda x_t, t: torch.full_like(x_t, eps), torch.full((n, 1), x),
                          t, s, eta, clip=False)
        demand(got is not None, "step: nothing was returned")
        demand(got.shape == (n, 1), f"step: expected the shape ({n}, 1), got {tuple(got.shape)}")
        x_0 = (x - (1 - BAR[t]) ** 0.5 * eps) / BAR[t] ** 0.5
        root, v = BAR[s] ** 0.5, sigma(t, s, eta) ** 2
        mean = root * x_0 + (1 - BAR[s] - v) ** 0.5 * eps
        what = f"of a jump from t = {t} to s = {s} with eta = {eta}, Eq. 12"
        expect(got.std(), v ** 0.5, f"the deviation {what} and 16", [
            ("when the variance stands where the deviation belongs", v),
            ("when eta is squared", eta * v ** 0.5), ("when eta is left out", sigma(t, s, 1.0)),
            ("when beta_t stands where 1 - alpha_bar_t / alpha_bar_s belongs",
             eta * ((1 - BAR[s]) / (1 - BAR[t]) * BETA[t - 1]) ** 0.5),
            ("when the factor (1 - alpha_bar_s) / (1 - alpha_bar_t) is missing",
             eta * (1 - BAR[t] / BAR[s]) ** 0.5),
            ("when no noise is added", 0.0), ("when the noise is not scaled", 1.0)],
            rtol=0.015, atol=0.003)
        expect(got.mean(), mean, f"the mean {what}", [
            ("when sigma^2 is not taken from 1 - alpha_bar_s",
             root * x_0 + (1 - BAR[s]) ** 0.5 * eps),
            ("when sigma is taken and not its square",
             root * x_0 + max(1 - BAR[s] - v ** 0.5, 0) ** 0.5 * eps),
            ("when the square root of alpha_bar_s is missing",
             BAR[s] * x_0 + (1 - BAR[s] - v) ** 0.5 * eps),
            ("when alpha_bar_t stands where alpha_bar_s belongs",
             BAR[t] ** 0.5 * x_0 + (1 - BAR[t] - v) ** 0.5 * eps),
            ("when the noise that stays is left out", root * x_0),
            ("when x_0_hat is returned", x_0)], rtol=0, atol=0.012)


@lent
def check_eta_1_and_one_step_is_algorithm_2(student, module, process):
    """With sigma_t^2 = beta_tilde_t, also where x_0_hat is clipped."""
    torch.manual_seed(student.seed)
    for t in (4, 3, 2):
        for eps, clip in ((0.4, True), (-3.0, True), (-3.0, False)):
            x_t = torch.full((100_000, 1), 2.5)
            got = module.step(process, lambda x_t, t, eps=eps: torch.full_like(x_t, eps), x_t, t,
                              t - 1, 1.0, clip)
            far = (2.5 - (1 - BAR[t]) ** 0.5 * eps) / BAR[t] ** 0.5
            x_0_hat = max(-1.0, min(far, 1.0)) if clip else far
            mean = process.posterior_mean(torch.tensor([[x_0_hat]]), x_t[:1], t).item()
            tilde = process.beta_tilde[t].item()
            direction = (1 - BAR[t - 1] - tilde) ** 0.5 * eps
            expect(got.mean(), mean, f"the mean of a jump from t = {t} to {t - 1} with eta = 1 and "
                   f"clip={clip}: mu_tilde_t(x_t, x_0_hat) of DDPM, Eq. 7", [
                ("when eps_theta is used, and not the noise beside the clipped x_0_hat",
                 BAR[t - 1] ** 0.5 * x_0_hat + direction),
                ("when nothing is clipped", BAR[t - 1] ** 0.5 * far + direction)],
                rtol=0, atol=0.015)
            expect(got.std(), tilde ** 0.5, f"the deviation of a jump from t = {t} to {t - 1} with "
                   "eta = 1: the root of beta_tilde_t", rtol=0.015)


@lent
def check_the_marginals_are_kept_whatever_eta(student, module, process):
    """Where all data are 0.3, x_t ~ q(x_t) becomes x_s ~ q(x_s)."""
    torch.manual_seed(student.seed)
    for eta in (0.0, 0.6, 1.0):
        x_t = BAR[4] ** 0.5 * 0.3 + (1 - BAR[4]) ** 0.5 * torch.randn(100_000, 1)
        got = module.step(process, point(0.3), x_t, 4, 2, eta)
        expect(got.mean(), BAR[2] ** 0.5 * 0.3, f"the mean of x_2 with eta = {eta}, where all data "
               "are 0.3", rtol=0, atol=0.02)
        expect(got.std(), (1 - BAR[2]) ** 0.5, f"the deviation of x_2 with eta = {eta}, where all "
               "data are 0.3", rtol=0.015)


@lent
def check_a_jump_to_0_is_x_0_hat(student, module, process):
    """1 - alpha_bar_0 = 0: no noise is left, and sigma is 0 for every eta."""
    x_t = torch.linspace(-2, 2, 50)[:, None]
    for t, eta in ((4, 0.0), (4, 1.0), (1, 1.0)):
        got = module.step(process, point(0.3), x_t, t, 0, eta)
        demand(got.isfinite().all(), f"step from t = {t} to 0: the result is not finite. 1 - "
               "alpha_bar_0 - sigma^2 can be a rounding error below 0, which has no square root.")
        expect(got, torch.full((50, 1), 0.3), f"a jump from t = {t} to 0 with eta = {eta}, where "
               "all data are 0.3", atol=1e-4)


@lent
def check_sample_walks_down_the_times(student, module, process):
    """tau_S, ..., tau_1, each asked for once, and then 0."""
    for times in ([1, 2, 3, 4], [2, 4], [1, 3], [4]):
        asked = []

        def model(x_t, t, asked=asked):
            demand(isinstance(t, torch.Tensor) and t.shape == (len(x_t),),
                   "the model must get t as a (B,) tensor, one time for each image")
            asked.append(int(t[0]))
            return point(0.3)(x_t, t)

        got = module.sample(process, model, torch.full((2, 1), 0.9), times)
        demand(asked == times[::-1], f"sample: with times = {times} the model was asked for t = "
               f"{asked}, not {times[::-1]}" + (": time runs forwards" if asked == times else
               ": the jump to 0 is missing" if asked == times[:0:-1] else ""))
        demand(got is not None, "sample: nothing was returned")
        expect(got, torch.full((2, 1), 0.3), f"samples with times = {times}, where all data are "
               "0.3", atol=1e-4)


@lent
def check_eta_0_draws_nothing_and_can_be_undone(student, module, process):
    """The default; x_t is found again from x_s, since both hold the same x_0_hat and eps."""
    x_t = torch.linspace(-1, 1, 20)[:, None]

    def model(x_t, t):
        return torch.full_like(x_t, 0.4)

    torch.manual_seed(student.seed)
    one = module.step(process, model, x_t, 4, 2, clip=False)
    two = module.step(process, model, x_t, 4, 2, clip=False)
    demand(same(one, two), "step: two jumps with eta = 0 differ; they must be deterministic")
    x_0 = (one - 0.37 ** 0.5 * 0.4) / 0.63 ** 0.5
    expect(BAR[4] ** 0.5 * x_0 + (1 - BAR[4]) ** 0.5 * 0.4, x_t, "x_4 found again from x_2, by Eq. "
           "12 with eta = 0 run backwards", atol=1e-4)


@lent
def check_the_generator_fixes_the_noise(student, module, process):
    draws = [module.sample(process, point(0.3), torch.zeros(50, 1), [1, 2, 4], 1.0, True,
                           torch.Generator().manual_seed(seed)) for seed in (0, 0)]
    steps = [module.step(process, point(0.3), torch.zeros(50, 1), 4, 2, 1.0,
                         generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    demand(same(steps[0], steps[1]) and same(*draws), "step: the same generator gave "
           "other noise. Pass generator to torch.randn.")
    demand(not same(steps[0], steps[2]), "step: another generator gave the same noise")
    demand(steps[0].unique().numel() > 40, "step: all images share their noise")


@lent
def check_jumps_that_are_none_are_refused(student, module, process):
    for t, s, eta in ((2, 2, 0.0), (2, 3, 0.0), (5, 1, 0.0), (2, -1, 0.0), (2, 1, 1.5)):
        try:
            module.step(process, point(0.3), torch.zeros(1, 1), t, s, eta)
        except (ValueError, IndexError):
            continue
        raise Wrong(f"step: a jump from t = {t} to s = {s} with eta = {eta} was accepted. Raise a "
                    "ValueError.")


@lent
def check_sample_hands_eta_and_clip_to_every_step(student, module, process):
    seen = []

    def model(x_t, t):
        seen.append(x_t)
        return torch.full_like(x_t, -3.0)

    for clip in (True, False):
        for eta in (0.0, 1.0):
            seen.clear()
            got = module.sample(process, model, torch.ones(50, 1), [1, 4], eta, clip,
                                torch.Generator().manual_seed(0))
            # sigma is 0.31 for eta = 1; the deviation of 50 equal floats need not be 0
            demand((seen[1].std() > 0.1) == (eta > 0), f"sample with eta = {eta}: the noise of x_1 "
                   "is that of another eta. Hand eta to every step.")
            demand((got.max() < 1.01) == clip, f"sample with clip={clip}: x_0 is {got.max():.3g}. "
                   "Hand clip to every step.")
