"""Variant 2 of exercise 1: the betas grow where the chain is shorter."""
import torch


def linear_beta_schedule(T=1000, beta_1=1e-4, beta_T=0.02):
    """Return T values evenly spaced from 1000 / T beta_1 to 1000 / T beta_T.

    The factor is of the code of Nichol & Dhariwal 2021.

    Args:
        T: number of steps, an int >= 1.
        beta_1: variance of the first of 1000 steps, in (0, 1).
        beta_T: variance of the last of 1000 steps, in (0, 1).

    Returns:
        (T,) float64, that of the first step first.

    Raises:
        ValueError: T is below 1, or so small that the last value is not below 1.
    """
    if T < 1:
        raise ValueError(f"T, the steps of the chain, must be at least 1, not {T}")
    if beta_T * 1000 / T >= 1:
        raise ValueError(f"in {T} steps the last would have a variance of {beta_T * 1000 / T}")
    return torch.linspace(beta_1, beta_T, T, dtype=torch.float64) * 1000 / T
