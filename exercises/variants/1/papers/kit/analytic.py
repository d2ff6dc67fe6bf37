"""Variant 1 of exercise 4: what a network that predicts x_0 knows."""
from ddpm import at


def score_from_x_0(ddpm, x_t, t, x_0):
    """Return the score that a prediction of x_0 stands for.  Tweedie's formula, the other way.

        grad log q(x_t | x_0) = (sqrt(alpha_bar_t) x_0 - x_t) / (1 - alpha_bar_t)

    Args:
        ddpm: DDPM.
        x_t: (B, ...) noisy images.
        t: (B,) int64 times in 1..T, or one int for all.
        x_0: (B, ...) clean images, or an estimate of them.

    Returns:
        (B, ...).
    """
    return ((at(ddpm.alpha_bar, t, x_t).sqrt() * x_0 - x_t)
            / at(ddpm.one_minus_alpha_bar, t, x_t))


def mean_from_score(ddpm, x_t, t, score):
    """Return mu_theta(x_t, t), the mean of a step of Algorithm 2: Ho et al. 2020, Eq. 11, where

        eps_theta = -sqrt(1 - alpha_bar_t) score

    Args:
        ddpm: DDPM.
        x_t: (B, ...) noisy images.
        t: (B,) int64 times in 1..T, or one int for all.
        score: (B, ...) gradient of log q(x_t).

    Returns:
        (B, ...).
    """
    return (x_t + at(ddpm.beta, t, x_t) * score) / at(ddpm.alpha, t, x_t).sqrt()
