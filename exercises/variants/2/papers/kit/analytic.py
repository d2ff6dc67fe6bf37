"""Variant 2 of exercise 4: v, a fourth way to write it."""
from ddpm import at


def v_from_eps(ddpm, x_0, t, eps):
    """Return v, the velocity of x_t along its quarter circle from x_0 to eps.  Salimans & Ho 2022.

        v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0

    Args:
        ddpm: DDPM.
        x_0: (B, ...) clean images.
        t: (B,) int64 times in 0..T, or one int for all.
        eps: (B, ...) noise.

    Returns:
        (B, ...).
    """
    return (at(ddpm.alpha_bar, t, x_0).sqrt() * eps
            - at(ddpm.one_minus_alpha_bar, t, x_0).sqrt() * x_0)


def x_0_from_v(ddpm, x_t, t, v):
    """Return the x_0 of which v and x_t (Ho et al. 2020, Eq. 4) were made.

    It needs no division, at no t.

    Args:
        ddpm: DDPM.
        x_t: (B, ...) noisy images.
        t: (B,) int64 times in 0..T, or one int for all.
        v: (B, ...), as v_from_eps makes it.

    Returns:
        (B, ...).
    """
    return (at(ddpm.alpha_bar, t, x_t).sqrt() * x_t
            - at(ddpm.one_minus_alpha_bar, t, x_t).sqrt() * v)


def eps_from_v(ddpm, x_t, t, v):
    """Return the eps of which v and x_t (Ho et al. 2020, Eq. 4) were made.

    Its arguments are those of x_0_from_v.
    """
    return (at(ddpm.one_minus_alpha_bar, t, x_t).sqrt() * x_t
            + at(ddpm.alpha_bar, t, x_t).sqrt() * v)


def score_from_v(ddpm, x_t, t, v):
    """Return the score grad log q(x_t | x_0) that a prediction of v stands for, for t in 1..T.

    Its arguments are those of x_0_from_v.
    """
    return -eps_from_v(ddpm, x_t, t, v) / at(ddpm.one_minus_alpha_bar, t, x_t).sqrt()
