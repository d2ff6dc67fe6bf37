"""Variant 2 of exercises 6 and 7: the network predicts v, and sigma_t^2 is between the two."""
import torch
import torch.nn.functional as F
from ddpm import at


class DDPM:
    def loss(self, model, x_0, t=None, eps=None, reduction="mean"):
        """Return the error of a network that predicts v.  Salimans & Ho 2022; Algorithm 1.

            L = E_{t, x_0, eps} || v - v_theta(x_t, t) ||^2
            v   = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0
            x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps

        The squared norm is a mean over the pixels, not a sum.

        Args:
            model: called as model(x_t, t), returns v_theta.
            x_0: (B, C, H, W) float images, pixels in [-1, 1].
            t: (B,) int64 times in 1..T; drawn uniformly if None.
            eps: (B, C, H, W) noise; drawn from N(0, I) if None.
            reduction: "mean" for the scalar; "none" for every pixel's own, as train.py's log needs.

        Returns:
            A scalar, or (B, C, H, W).
        """
        if t is None:
            t = self.draw_t(len(x_0))
        if eps is None:
            eps = torch.randn_like(x_0)
        v = (at(self.alpha_bar, t, x_0).sqrt() * eps
             - at(self.one_minus_alpha_bar, t, x_0).sqrt() * x_0)
        return F.mse_loss(model(self.q_sample(x_0, t, eps), t), v, reduction=reduction)

    def estimate_x_0(self, model, x_t, t, clip=True):
        """Ask the model for v_theta(x_t, t) and return x_0_hat: the first half of p_sample.

            x_0_hat = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v_theta

        Clipping to [-1, 1] is not in the paper's Algorithm 2; it belongs here, before the
        posterior mean.
        """
        v = model(x_t, torch.full((len(x_t),), t, device=x_t.device))
        x_0_hat = self.alpha_bar[t].sqrt() * x_t - self.one_minus_alpha_bar[t].sqrt() * v
        return x_0_hat.clamp(-1, 1) if clip else x_0_hat

    def posterior_sample(self, x_0_hat, x_t, t, generator=None):
        """Draw x_{t-1} given x_t and x_0_hat; the second half of p_sample.

        The mean is mu_tilde_t(x_t, x_0_hat), Eq. 7.  The variance is half way between the two of
        sec. 3.2, as logarithms (Nichol & Dhariwal 2021, Eq. 15 with v = 1/2), whatever the
        variance that this DDPM was made with:

            sigma_t^2 = sqrt(beta_t beta_tilde_t)
        """
        z = torch.zeros_like(x_t)
        if t > 1:
            z = torch.randn(x_t.shape, generator=generator, device=x_t.device, dtype=x_t.dtype)
        sigma = (self.beta[t] * self.beta_tilde[t]) ** 0.25
        return self.posterior_mean(x_0_hat, x_t, t) + sigma * z
