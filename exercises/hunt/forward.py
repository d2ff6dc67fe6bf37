"""The forward process: x_0 in, x_t out.  Ho et al. 2020, Eq. 4.  Index t of alpha_bar is time t."""
import torch

DEFECT = ""                                          # its name, from the list in README


class Forward:
    def __init__(self, beta):
        """beta: beta_1..beta_T, a list of floats."""
        beta = torch.tensor([0.0, *beta])
        self.T = len(beta) - 1
        self.alpha_bar = (1 - beta).cumprod(0)       # alpha_bar_0..alpha_bar_T

    def q_sample(self, x_0, t, eps):
        """Return x_t, (B, C, H, W), for images x_0, their times t, (B,) in 0..T, and noise eps."""
        alpha_bar = self.alpha_bar[t].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
