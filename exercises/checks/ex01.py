"""1: the noise schedules."""
import functools
import math

import torch

from . import kit
from .kit import Wrong, close, demand, only, show

expect = functools.partial(kit.expect, atol=1e-6)    # for betas are as small as 1e-4


def formula(T, s=0.008):
    """alpha_bar_0..alpha_bar_T of Nichol & Dhariwal 2021, Eq. 17."""
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    return [value / f[0] for value in f]


def evenly(T, first, last):
    return [first + (last - first) / max(T - 1, 1) * i for i in range(T)]


def ours(variant, T, first, last):
    """Return what linear_beta_schedule asks for: evenly spaced values, roots, or values scaled."""
    if variant == 1:
        return [root ** 2 for root in evenly(T, first ** 0.5, last ** 0.5)]
    return [b * (1000 / T if variant == 2 else 1) for b in evenly(T, first, last)]


def check_the_first_schedule_is_evenly_spaced(student):
    """Ho et al., sec. 4: beta_1 = 1e-4 to beta_T = 0.02, T values, both ends included."""
    v = student.variant
    cases = ((1000, 1e-4, 0.02), (5, 0.1, 0.5)) if v < 2 else ((1000, 1e-4, 0.02), (50, 2e-4, 0.04))
    for T, first, last in cases:
        expected = torch.tensor(ours(v, T, first, last), dtype=torch.float64)
        beta = student.schedules.linear_beta_schedule(T, first, last)
        step = (last - first) / T
        expect(beta, expected, f"linear_beta_schedule({T}, {first}, {last})", [
            ("when beta_T itself is left out: there are T - 1 intervals, not T",
             torch.tensor([first + step * i for i in range(T)]) * (1000 / T if v == 2 else 1)),
            ("when the square roots are evenly spaced, as in latent diffusion",
             torch.tensor(ours(1, T, first, last))),
            ("when the values themselves are evenly spaced, and not their square roots" if v == 1
             else "when the factor 1000 / T is left out", torch.tensor(ours(0, T, first, last))),
            ("when the square roots are not squared again",
             torch.tensor(evenly(T, first ** 0.5, last ** 0.5))),
            ("when 1 - beta is returned: that is alpha", 1 - expected),
            ("when beta_T comes first", expected.flip(0))])


def check_it_leaves_almost_nothing_of_x_0(student):
    """With the defaults, alpha_bar_T is 4.0e-5 (7.3e-4 where the roots are even): x_T is noise."""
    beta = student.schedules.linear_beta_schedule()
    expected = math.prod(1 - b for b in ours(student.variant, 1000, 1e-4, 0.02))
    expect((1 - beta.double()).prod(), expected, "alpha_bar_1000 with the defaults, sec. 4",
           rtol=1e-3)


@only(2)
def check_a_chain_too_short_is_refused(student):
    """At T = 20 the last value would be 1."""
    for T in (20, 7):
        try:
            beta = student.schedules.linear_beta_schedule(T)
        except ValueError:
            continue
        raise Wrong(f"linear_beta_schedule({T}): the last value would be {20 / T:.3g}, which is no "
                    f"variance below 1. Expected a ValueError, got {show(beta[-1])}")
    expect(student.schedules.linear_beta_schedule(21)[-1], 20 / 21, "the last of 21 values")


def check_cosine_gives_the_alpha_bar_of_its_formula(student):
    """Nichol & Dhariwal, Eq. 17: the product of 1 - beta_t is f(t) / f(0)."""
    for T in (10, 1000):
        beta = student.schedules.cosine_beta_schedule(T)
        expected = torch.tensor(formula(T)[1:T], dtype=torch.float64)
        f_0 = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        without_s = [math.cos(t / T * math.pi / 2) ** 2 for t in range(1, T)]
        unsquared = torch.tensor(formula(T)[1:T], dtype=torch.float64).sqrt()
        demand(beta.shape == (T,), f"cosine_beta_schedule({T}): expected beta_1..beta_{T}, {T} "
               f"values, got the shape {tuple(beta.shape)}. alpha_bar_0..alpha_bar_T are T + 1 "
               "values, and beta_t needs two of them.")
        alpha_bar = (1 - beta.double()).cumprod(0)[:-1]
        expect(alpha_bar, expected, f"alpha_bar of cosine_beta_schedule({T}), Eq. 17", [
            ("when the cosine is not squared", unsquared),
            ("when the offset s is left out", torch.tensor(without_s)),
            ("when alpha_bar is not divided by f(0): alpha_bar_0 must be 1", expected * f_0)],
            rtol=1e-6)


def check_cosine_clips_the_last_beta_only(student):
    """f(T) = 0 would make beta_T = 1; Eq. 17 clips it at 0.999."""
    beta = student.schedules.cosine_beta_schedule(1000).double()
    demand(beta.max() < 1, "cosine_beta_schedule: beta_T is 1, and Eq. 15 would divide by "
           "alpha_bar_T = 0. Clip beta_t at beta_max, 0.999.")
    expect(beta[-1], 0.999, "beta_1000 of the cosine schedule, Eq. 17", [
        ("when alpha_bar is clipped instead of beta", 1 - 0.001 / formula(1000)[-2])])
    expect(student.schedules.cosine_beta_schedule(10, 0.1, 0.5)[-1], 0.5, "the last of "
           "cosine_beta_schedule(10, s=0.1, beta_max=0.5)", [
        ("when beta_max is always 0.999", 0.999)], rtol=1e-6)
    expect(student.schedules.cosine_beta_schedule(10, 0.1, 0.5)[0], 1 - formula(10, 0.1)[1],
           "beta_1 of cosine_beta_schedule(10, s=0.1, beta_max=0.5)", [
        ("when s is always 0.008", 1 - formula(10)[1])], rtol=1e-6)
    ratio = 1 - formula(1000)[999] / formula(1000)[998]
    expect(beta[-2], ratio, "beta_999 of the cosine schedule, which needs no clipping")


def check_they_are_float64(student):
    """At t = 1, 1 - alpha_bar_t in float32 is off by 1.7e-4."""
    f = formula(100)
    for name, right in (("linear_beta_schedule", ours(student.variant, 100, 1e-4, 0.02)[3]),
                        ("cosine_beta_schedule", 1 - f[4] / f[3])):
        beta = getattr(student.schedules, name)(100)
        demand(beta.dtype == torch.float64, f"{name}: expected float64, got {beta.dtype}. The "
               "coefficients are products of up to 1000 numbers close to 1.")
        if close(beta[3], right, 1e-4, 0):           # else another check says what is wrong
            expect(beta[3], right, f"beta_4 of {name}(100), to 10 digits: is it computed in "
                   "float64 all the way?", rtol=1e-10, atol=1e-14)
