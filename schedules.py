"""The noise schedules: how much noise each step of the forward process adds.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models", sec. 4, and Nichol & Dhariwal 2021,
"Improved Denoising Diffusion Probabilistic Models", Eq. 17.

A schedule returns beta_1, ..., beta_T and nothing more: a float64 tensor of shape (T,).
`ddpm.DDPM` puts beta_0 = 0 in front of it, and from there on index t is time t.
"""
import math

import torch


def linear_beta_schedule(T=1000, beta_1=1e-4, beta_T=0.02):
    """Return T values evenly spaced from beta_1 to beta_T.  Ho et al. 2020, sec. 4.

    The ends were chosen for T = 1000, and are the same for other T.

    Args:
        T: number of steps, an int >= 1.
        beta_1: variance of the first step, in (0, 1).
        beta_T: variance of the last step, in (0, 1).

    Returns:
        (T,) float64, beta_1 first.

    Raises:
        ValueError: T is below 1.
    """
    if T < 1:
        raise ValueError(f"T, the steps of the chain, must be at least 1, not {T}")
    return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)


def cosine_beta_schedule(T=1000, s=0.008, beta_max=0.999):
    """Return beta_t such that alpha_bar_t falls as cos^2.  Nichol & Dhariwal 2021, Eq. 17.

        alpha_bar_t = f(t) / f(0),   f(t) = cos((t/T + s) / (1 + s) * pi/2)^2
        beta_t = min(1 - alpha_bar_t / alpha_bar_{t-1}, beta_max)

    f(T) = 0 would make beta_T = 1, and Eq. 15 of Ho et al. divide by alpha_bar_T = 0; at T = 1000
    beta_max changes this one value and no other.

    Args:
        T: number of steps, an int >= 1.
        s: offset that keeps the first steps from being too small.
        beta_max: upper limit of beta_t, in (0, 1).

    Returns:
        (T,) float64, beta_1 first.

    Raises:
        ValueError: T is below 1.
    """
    if T < 1:
        raise ValueError(f"T, the steps of the chain, must be at least 1, not {T}")
    t = torch.arange(T + 1, dtype=torch.float64)                # 0, 1, ..., T
    f = torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2
    alpha_bar = f / f[0]
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return beta.clamp(max=beta_max)


SCHEDULES = {"linear": linear_beta_schedule, "cosine": cosine_beta_schedule}
