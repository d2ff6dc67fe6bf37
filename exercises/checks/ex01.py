"""1: the noise schedules."""
import functools
import math

import torch

from .kit import demand, expect, only, refused, tensor, theirs

LINEAR, COSINE = "linear_beta_schedule", "cosine_beta_schedule"
evenly = functools.partial(torch.linspace, dtype=torch.float64)


@theirs
def schedule(student, name, arguments):
    return getattr(student.schedules, name)(*arguments)


def linear(variant, T=1000, first=1e-4, last=0.02):
    """Return what linear_beta_schedule asks for, and [(slip, what comes of it)]."""
    factor, power = 1000 / T if variant == 2 else 1, 2 if variant == 1 else 1
    beta, more = (factor * evenly(first ** (1 / power), last ** (1 / power), n) ** power
                  for n in (T, T + 1))
    values, roots = evenly(first, last, T), evenly(first ** 0.5, last ** 0.5, T)
    return beta, [
        ("beta_T itself is left out: there are T - 1 intervals, not T", more[:-1]),
        ("beta_1 itself is left out: there are T - 1 intervals, not T", more[1:]),
        ("the square roots are evenly spaced, as in latent diffusion", roots ** 2),
        ("the values themselves are evenly spaced, and not their square roots" if variant == 1
         else "the factor 1000 / T is left out", values),
        ("the square roots are not squared again", roots)]


def cosine(T=1000, s=0.008, beta_max=0.999):
    """Do so for cosine_beta_schedule: Nichol & Dhariwal 2021, Eq. 17."""
    def f(s=s, stretch=1 + s, angle=math.pi / 2, power=2):
        t = torch.arange(T + 1, dtype=torch.float64)
        return torch.cos((t / T + s) / stretch * angle) ** power

    def beta(alpha_bar, beta_max=beta_max):
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max)

    alpha_bar = f() / f()[0]
    return beta(alpha_bar), [
        ("pi stands where pi / 2 belongs", beta(f(angle=math.pi))),
        ("the factor pi / 2 is missing", beta(f(angle=1))),
        ("the cosine is not squared", beta(f(power=1))),
        ("the offset s is left out", beta(f(s=0, stretch=1))),
        ("the division by 1 + s is missing", beta(f(stretch=1))),
        ("s is always 0.008", beta(f(s=0.008, stretch=1.008))),
        ("alpha_bar_t is not divided by f(0)", beta(torch.cat([torch.ones(1), f()[1:]]))),
        ("nothing is clipped: beta_T is 1, and alpha_bar_T is 0", beta(alpha_bar, 1.0)),
        ("beta_max is always 0.999", beta(alpha_bar, 0.999)),
        ("alpha_bar is returned for beta", alpha_bar[1:]),
        ("alpha_bar is clipped instead of beta", beta(alpha_bar.clamp(min=1 - beta_max), 1.0)),
        ("alpha_bar_{t-1} - alpha_bar_t is not divided", alpha_bar[:-1] - alpha_bar[1:]),
        ("1 - beta is returned: that is alpha", (1 - beta(alpha_bar, 1.0)).clamp(max=beta_max))]


def check(student, name, *arguments, end=None):
    """Expect the values of a schedule, up to an end; return what came, and what is right."""
    right, slips = linear(student.variant, *arguments) if name == LINEAR else cosine(*arguments)
    slips += [("1 - beta is returned: that is alpha", 1 - right), ("beta_T comes first",
              right.flip(0)), ("alpha_bar is returned for beta", (1 - right).cumprod(0))]
    T, what = len(right), f"{name}({', '.join(map(str, arguments))})"
    got = schedule(student, name, arguments)
    demand(getattr(got, "shape", None) != (T + 1,), f"{what}: expected the shape {(T,)}, got T + 1 "
           "values. beta_0 = 0 is DDPM's to put in front; T + 1 of alpha_bar make T of beta.")
    expect(tensor(got, what, (T,))[:end], right[:end], what,
           [(f"when {words}", slip[:end]) for words, slip in slips], atol=1e-6)
    return got, right


def check_the_first_schedule_is_evenly_spaced(student):
    """Ho et al., sec. 4: beta_1 = 1e-4 to beta_T = 0.02, T values, both ends included."""
    check(student, LINEAR, *((5, 0.1, 0.5) if student.variant < 2 else (50, 2e-4, 0.04)))
    check(student, LINEAR, 1000, 1e-4, 0.02)


def check_it_leaves_almost_nothing_of_x_0(student):
    """With the defaults, alpha_bar_T is 4.0e-5 (7.3e-4 where the roots are even): x_T is noise."""
    got, right = check(student, LINEAR)
    expect((1 - got.double()).prod(), (1 - right).prod(), "alpha_bar_1000 with the defaults, "
           "sec. 4", rtol=1e-3)


@only(2)
def check_a_chain_too_short_is_refused(student):
    """At T = 20 the last value would be 1."""
    check(student, LINEAR, 21)
    for T in (20, 7):
        refused(lambda T=T: schedule(student, LINEAR, [T]), f"{LINEAR}({T}), whose last value would"
                f" be {20 / T:.3g}, which is no variance below 1")


def check_a_chain_has_one_step_or_more(student):
    """T = 1 is beta_1 alone, and none below is a chain."""
    for name, ends in ((LINEAR, (1e-5, 5e-4)), (COSINE, ())):
        for T in (10, 1):                            # at 1 most mistakes look the same
            check(student, name, T, *ends)
        for T in (0, -1):
            refused(lambda call=(name, [T, *ends]): schedule(student, *call), f"{name}({T})")


def check_cosine_gives_the_alpha_bar_of_its_formula(student):
    """Nichol & Dhariwal, Eq. 17: the product of 1 - beta_t is f(t) / f(0)."""
    for T in (10, 1000):
        check(student, COSINE, T, end=-1)


def check_cosine_clips_the_last_beta_only(student):
    """f(T) = 0 would make beta_T = 1; Eq. 17 clips it at beta_max, 0.999 by default."""
    check(student, COSINE, 10, 0.1, 0.5)
    check(student, COSINE)


def check_they_are_float64(student):
    """At t = 1, 1 - alpha_bar_t in float32 is off by 1.7e-4."""
    for name in (LINEAR, COSINE):
        got, right = check(student, name, 100)
        expect(tensor(got, name, dtype=torch.float64)[3], right[3], f"beta_4 of {name}(100), to 10 "
               "digits: is it computed in float64 all the way?", rtol=1e-10, atol=1e-14)
