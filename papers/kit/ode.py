"""Two methods that solve an ODE, dy/dc = f(y, c), c a clock: in even steps, in adapted ones."""
from itertools import pairwise

import torch

from plumbing.cli import track

STAGES = ((1 / 5, (1 / 5,)),                                     # when, and weights of the slopes
          (3 / 10, (3 / 40, 9 / 40)),
          (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
          (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
          (1, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
          (1, (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)))    # the result
ERROR = 71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40


def heun_method(f, y, c, end, steps):
    """Solve dy/dc = f(y, c) by Heun's method, of order 2, in even steps.

        y' = y + h / 2 (k + f(y + h k, c + h)),   k = f(y, c),   h = (end - c) / steps

    The arguments are those of `dormand_prince`; steps is an int.  Returns y at `end`.
    """
    clock = torch.linspace(c, end, steps + 1, dtype=torch.float64).tolist()
    for c, to in track(list(pairwise(clock)), "solving the ODE, steps"):
        slope = f(y, c)
        y = y + (to - c) / 2 * (slope + f(y + (to - c) * slope, to))
    return y


def dormand_prince(f, y, c, end, rtol, atol):
    """Solve dy/dc = f(y, c).  Dormand & Prince 1980, "RK45": order 5 with an estimate of the error.

    Args:
        f: called as f(y, c), with y (B, ...) and a float c.
        y, c, end: y at c; and where to stop, above or below c.
        rtol, atol: a step is taken if in no y[i] the root mean square of its estimated errors, in
            units of atol + rtol |y|, exceeds 1.

    Returns:
        y at `end`, and how often f was called.

    Raises:
        FloatingPointError: no step is small enough.
    """
    slope, h, evaluations = f(y, c), (end - c) / 20, 1
    while c != end:
        to = end if abs(h) >= abs(end - c) else c + h
        h, slopes = to - c, [slope]
        for when, weights in STAGES:
            new = y + h * sum(w * k for w, k in zip(weights, slopes, strict=True))
            slopes.append(f(new, c + when * h))
        evaluations += len(STAGES)
        error = h * sum(w * k for w, k in zip(ERROR, slopes, strict=True))
        error = error / (atol + rtol * torch.maximum(y.abs(), new.abs()))
        error = error.flatten(1).square().mean(1).max().sqrt().item()
        if error <= 1:                                           # so written, it refuses NaN too
            y, c, slope = new, to, slopes[-1]                    # where the next step begins
        elif abs(h) < 1e-6:
            raise FloatingPointError(f"the ODE cannot be solved to rtol {rtol:g}, atol {atol:g}")
        h *= min(5, max(0.2, 0.9 * max(error, 1e-9) ** -0.2))
    return y, evaluations
