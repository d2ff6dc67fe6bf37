"""Variant 1 of exercise 1: the square roots are evenly spaced."""
import torch


def linear_beta_schedule(T=1000, beta_1=1e-4, beta_T=0.02):
    """Return T values whose square roots are evenly spaced from that of beta_1 to that of beta_T.

    This is what the code of latent diffusion (Rombach et al. 2022) calls linear.

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
    return torch.linspace(beta_1 ** 0.5, beta_T ** 0.5, T, dtype=torch.float64) ** 2
