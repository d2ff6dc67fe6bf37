"""1: the noise schedules."""
import math

import torch

from .kit import demand, expect


def formula(T, s=0.008):
    """alpha_bar_0..alpha_bar_T of Nichol & Dhariwal 2021, Eq. 17."""
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    return [value / f[0] for value in f]


def check_linear_is_evenly_spaced(student):
    """Ho et al., sec. 4: beta_1 = 1e-4 to beta_T = 0.02, T values, both ends included."""
    for T, first, last in ((1000, 1e-4, 0.02), (5, 0.1, 0.5)):
        beta = student.schedules.linear_beta_schedule(T, first, last)
        step = (last - first) / (T - 1)
        open_end = torch.tensor([first + (last - first) / T * i for i in range(T)])
        roots = torch.linspace(first ** 0.5, last ** 0.5, T, dtype=torch.float64) ** 2
        expect(beta, torch.tensor([first + step * i for i in range(T)], dtype=torch.float64),
               f"linear_beta_schedule({T}, {first}, {last}), sec. 4", [
                   ("when beta_T itself is left out: there are T - 1 intervals, not T", open_end),
                   ("when the square roots are evenly spaced, as in latent diffusion", roots),
                   ("when 1 - beta is returned: that is alpha",
                    torch.tensor([1 - first - step * i for i in range(T)])),
                   ("when beta_T comes first", torch.tensor([last - step * i for i in range(T)]))])


def check_linear_leaves_almost_nothing_of_x_0(student):
    """With the defaults alpha_bar_T is 4.0e-5: x_T is noise."""
    beta = student.schedules.linear_beta_schedule()
    expect((1 - beta.double()).prod(), 4.0358e-5, "alpha_bar_1000 with the defaults, sec. 4",
           rtol=1e-3)


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
    ratio = 1 - formula(1000)[999] / formula(1000)[998]
    expect(beta[-2], ratio, "beta_999 of the cosine schedule, which needs no clipping")


def check_they_are_float64(student):
    """At t = 1, 1 - alpha_bar_t in float32 is off by 1.7e-4."""
    for name in ("linear_beta_schedule", "cosine_beta_schedule"):
        beta = getattr(student.schedules, name)(10)
        demand(beta.dtype == torch.float64, f"{name}: expected float64, got {beta.dtype}. The "
               "coefficients are products of up to 1000 numbers close to 1.")
