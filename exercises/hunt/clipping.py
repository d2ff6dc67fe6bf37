"""One step of ancestral sampling by way of x_0_hat, which is clipped.  Ho et al. 2020, Eq. 15, 7.

Index t of every coefficient is time t, and index 0 is clean data.
"""
import torch

DEFECT = ""                                          # its name, from the list in README


def mean(model, x_t, t, beta):
    """Return the mean of x_{t-1}, with the estimate of x_0 clipped to [-1, 1].

    model: called as model(x_t, t), predicts the noise.
    t: an int in 1..T.
    beta: beta_1..beta_T, a list of floats.
    """
    beta = torch.tensor([0.0, *beta])
    alpha_bar = (1 - beta).cumprod(0)
    eps = model(x_t, torch.full((len(x_t),), t))
    x_0_hat = (x_t - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()
    x_0_hat = x_0_hat.clamp(-1, 1)
    of_x_0 = alpha_bar[t - 1].sqrt() * beta[t]
    of_x_t = (1 - beta[t]).sqrt() * (1 - alpha_bar[t - 1])
    return (of_x_0 * x_0_hat + of_x_t * x_t) / (1 - alpha_bar[t])
