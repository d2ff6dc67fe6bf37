"""The training objective: L_simple, Ho et al. 2020, Eq. 14 and Algorithm 1."""
import torch
import torch.nn.functional as F

DEFECT = ""                                          # its name, from the list in README


def loss(model, x_0, alpha_bar):
    """Return L_simple of a batch.

    model: called as model(x_t, t), with t of shape (B,) in 1..T, predicts the noise in x_t.
    x_0: (B, C, H, W) images in [-1, 1].
    alpha_bar: (T + 1,) alpha_bar_0 = 1, alpha_bar_1, ..., alpha_bar_T.
    """
    T, B = len(alpha_bar) - 1, len(x_0)
    t = torch.randint(1, T + 1, (B,))
    eps = torch.randn_like(x_0)
    a = alpha_bar[t].reshape(B, 1, 1, 1)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    return F.mse_loss(model(x_t, t), eps)
