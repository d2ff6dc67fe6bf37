"""Ancestral sampling: Algorithm 2 of Ho et al. 2020, in the letters of its line 4."""
import torch

DEFECT = ""                                          # its name, from the list in README


def variances(beta, alpha_bar, kind):
    """Return sigma_0^2..sigma_T^2: kind is "beta" or "beta_tilde", the two choices of sec. 3.2."""
    if kind == "beta":
        return beta
    if kind == "beta_tilde":
        before = torch.cat([alpha_bar[:1], alpha_bar[:-1]])
        return (1 - before) / (1 - alpha_bar).clamp(min=1e-12) * beta
    raise ValueError(f"there is no variance {kind!r}")


def sample(model, shape, beta, kind="beta"):
    """Draw x_0 of the given shape with model(x_t, t), which predicts the noise.

    beta: beta_1..beta_T, a list of floats.
    """
    beta = torch.tensor([0.0, *beta])
    alpha_bar = (1 - beta).cumprod(0)
    variance = variances(beta, alpha_bar, kind)
    x = torch.randn(shape)
    for t in range(len(beta) - 1, 0, -1):
        eps = model(x, torch.full((shape[0],), t))
        mean = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * eps) / (1 - beta[t]).sqrt()
        z = torch.randn(shape) if t > 1 else torch.zeros(shape)
        x = mean + variance[t].sqrt() * z
    return x
