"""The diffusion process: q, the training objective, and ancestral sampling.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (arXiv:2006.11239), sections 2 to 4.

Time is t = 1, ..., T as in the paper.  Every coefficient has T + 1 entries and index 0 is clean
data (beta_0 = 0, alpha_bar_0 = 1): `alpha_bar[t]` is the paper's alpha-bar_t, and none needs a
special case at t - 1.  `sigma` is always a standard deviation.

A `model` is anything called as `model(x_t, t)`, with x_t of shape (B, ...) and t of shape (B,),
that returns eps_theta in the shape of x_t.  It need not be a network, nor x an image: points in
the plane, of shape (B, 2), work as well.

One departure from the paper's text: a step of Algorithm 2 takes its mean from x_0_hat (Eq. 15) and
Eq. 7, so that x_0_hat can be clipped.  Where nothing is clipped this is the paper's Eq. 11.
"""
import warnings
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


def at(coefficient, t, x):
    """Return coefficient[t] in a shape that broadcasts against x.

    Args:
        coefficient: (T + 1,) tensor.
        t: an int, or (B,) int64, in 0..T.
        x: (B, ...) tensor; only its number of dimensions is used.

    Returns:
        (1, 1, ..., 1) for an int t, (B, 1, ..., 1) for a batch of times.
    """
    return coefficient[t].reshape(-1, *[1] * (x.dim() - 1))


class DDPM(nn.Module):
    """The forward process q and the reverse process p_theta for a given beta_1..beta_T.

    It holds no weights, only the coefficients beta, alpha, alpha_bar, one_minus_alpha_bar,
    beta_tilde and sigma: float32 buffers of shape (T + 1,) that follow `.to(device)`.  `exact` has
    them as they were computed, in float64, and keeps them on the CPU: `exact.alpha_bar[t]` is for
    what takes differences and quotients of them.
    """

    def __init__(self, beta, variance="beta"):
        """Compute the coefficients.  Ho et al. 2020, sec. 2 and 3.2.

        Args:
            beta: (T,) tensor or sequence of floats in (0, 1); see schedules.py.
            variance: sigma_t^2 of Algorithm 2, one of the two fixed choices of sec. 3.2: "beta" or
                "beta_tilde".

        Raises:
            ValueError: beta has another shape, leaves (0, 1), or makes alpha_bar_T too small for
                float32; or variance is neither of the two.
        """
        super().__init__()
        beta = torch.as_tensor(beta, dtype=torch.float64, device="cpu")
        if beta.dim() != 1 or len(beta) == 0:
            raise ValueError(f"beta must be beta_1..beta_T in shape (T,), not {tuple(beta.shape)}")
        if not ((beta > 0) & (beta < 1)).all():                   # so written, it refuses NaN too
            raise ValueError("every beta_t must lie strictly between 0 and 1")
        if variance not in ("beta", "beta_tilde"):
            raise ValueError(f'variance must be "beta" or "beta_tilde", not {variance!r}')

        self.T, self.variance = len(beta), variance
        beta = torch.cat([beta.new_zeros(1), beta])                  # (T + 1,): beta_0 = 0
        alpha = 1 - beta
        alpha_bar = alpha.cumprod(0)                                 # alpha_bar_0 = 1
        # Stored as well: taken in float32 it would be off by a factor of 1 + 1.7e-4 at t = 1.
        one_minus_alpha_bar = 1 - alpha_bar
        beta_tilde = torch.zeros_like(beta)
        beta_tilde[1:] = one_minus_alpha_bar[:-1] / one_minus_alpha_bar[1:] * beta[1:]    # Eq. 7
        sigma = (beta if variance == "beta" else beta_tilde).sqrt()

        if alpha_bar[-1] < torch.finfo(torch.float32).tiny:
            raise ValueError(f"alpha_bar_T = {alpha_bar[-1]:.1e} is too small for float32: "
                             "take fewer steps or smaller beta_t")
        if alpha_bar[-1] > 0.01:
            warnings.warn(f"alpha_bar_T = {alpha_bar[-1]:.2g} > 0.01: x_T still shows x_0, but "
                          "sampling starts from pure noise. Take more steps, larger beta_t or the "
                          "cosine schedule.", stacklevel=2)

        coefficients = {"beta": beta, "alpha": alpha, "alpha_bar": alpha_bar,
                        "one_minus_alpha_bar": one_minus_alpha_bar, "beta_tilde": beta_tilde,
                        "sigma": sigma}
        self.exact = SimpleNamespace(**coefficients)                 # float64, on the CPU
        for name, coefficient in coefficients.items():
            self.register_buffer(name, coefficient.float(), persistent=False)

    # ---- the forward process and its posterior ----

    def q_sample(self, x_0, t, eps):
        """Draw x_t ~ q(x_t | x_0) in one jump: t steps of Eq. 2 at once.  Ho et al. 2020, Eq. 4.

            x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps

        Args:
            x_0: (B, C, H, W) float images, pixels in [-1, 1].
            t: (B,) int64 times in 0..T, one per image (0 returns x_0), or one int for all.
            eps: (B, C, H, W) standard normal noise.

        Returns:
            (B, C, H, W) noisy images x_t.
        """
        return (at(self.alpha_bar, t, x_0).sqrt() * x_0
                + at(self.one_minus_alpha_bar, t, x_0).sqrt() * eps)

    def posterior_mean(self, x_0, x_t, t):
        """Return mu-tilde_t(x_t, x_0), the mean of q(x_{t-1} | x_t, x_0).  Ho et al. 2020, Eq. 6-7.

            mu_tilde = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) x_0
                     + sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) x_t

        Its variance is beta_tilde[t].

        Args:
            x_0: (B, C, H, W) clean images, or an estimate of them.
            x_t: (B, C, H, W) noisy images.
            t: (B,) int64 times in 1..T, or one int for all.

        Returns:
            (B, C, H, W).  At t = 1 it is x_0.
        """
        of_x_0 = at(self.alpha_bar, t - 1, x_0).sqrt() * at(self.beta, t, x_0)
        of_x_t = at(self.alpha, t, x_0).sqrt() * at(self.one_minus_alpha_bar, t - 1, x_0)
        return (of_x_0 * x_0 + of_x_t * x_t) / at(self.one_minus_alpha_bar, t, x_0)

    def predict_x_0(self, x_t, t, eps_theta):
        """Return x_0_hat, what x_0 was if eps_theta is the noise.  Ho et al. 2020, Eq. 15.

            x_0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_bar_t)

        Args:
            x_t: (B, C, H, W) noisy images.
            t: (B,) int64 times in 0..T, or one int for all.
            eps_theta: (B, C, H, W) predicted noise.

        Returns:
            (B, C, H, W), not clipped.
        """
        return ((x_t - at(self.one_minus_alpha_bar, t, x_t).sqrt() * eps_theta)
                / at(self.alpha_bar, t, x_t).sqrt())

    # ---- Algorithm 1: training ----

    def draw_t(self, B):
        """Draw t ~ Uniform({1, ..., T}), (B,) int64, each its own.  Algorithm 1, line 3."""
        return torch.randint(1, self.T + 1, (B,), device=self.beta.device)   # high is exclusive

    def loss(self, model, x_0, t=None, eps=None, reduction="mean"):
        """Return L_simple on one batch.  Ho et al. 2020, Eq. 14 and Algorithm 1, lines 3 to 5.

            L_simple = E_{t, x_0, eps} || eps - eps_theta(x_t, t) ||^2
            x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps

        The paper's squared norm is a mean over pixels here: predicting 0 costs 1.0 at any size.

        Args:
            model: called as model(x_t, t), returns eps_theta.
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
        x_t = self.q_sample(x_0, t, eps)
        return F.mse_loss(model(x_t, t), eps, reduction=reduction)

    # ---- Algorithm 2: sampling ----

    @torch.no_grad()
    def p_sample(self, model, x_t, t, clip=True, generator=None):
        """Draw x_{t-1} ~ p_theta(x_{t-1} | x_t): one step of Algorithm 2, Ho et al. 2020.

            x_{t-1} = mu_tilde_t(x_t, x_0_hat) + sigma_t z,   z ~ N(0, I) if t > 1, else z = 0

        Here the mean is made from x_0_hat, which can be clipped, and in the paper from eps_theta.

        Args:
            model: called as model(x_t, t), returns eps_theta.
            x_t: (B, C, H, W) noisy images.
            t: the time of x_t, an int in 1..T.
            clip: clip x_0_hat to [-1, 1].
            generator: torch.Generator on the device of x_t, for reproducible noise.

        Returns:
            (B, C, H, W) images x_{t-1}.

        Raises:
            ValueError: t is not in 1..T.
        """
        if not 1 <= t <= self.T:
            raise ValueError(f"t runs from T = {self.T} down to 1; there is no step from t = {t}")
        return self.posterior_sample(self.estimate_x_0(model, x_t, t, clip), x_t, t, generator)

    def estimate_x_0(self, model, x_t, t, clip=True):
        """Ask the model for eps_theta(x_t, t) and return x_0_hat: the first half of p_sample.

        Clipping is not in the paper's Algorithm 2, but in the authors' code, and it belongs here,
        before the posterior mean.
        """
        eps_theta = model(x_t, torch.full((len(x_t),), t, device=x_t.device))
        x_0_hat = self.predict_x_0(x_t, t, eps_theta)
        return x_0_hat.clamp(-1, 1) if clip else x_0_hat

    def posterior_sample(self, x_0_hat, x_t, t, generator=None):
        """Draw x_{t-1} given x_t and x_0_hat; the second half of p_sample.

        Where x_0_hat was not clipped, its mean is the paper's mu_theta(x_t, t): Eq. 9 with
        eps_theta for eps, and so Eq. 10 and Eq. 11.
        """
        z = torch.zeros_like(x_t)
        if t > 1:
            z = torch.randn(x_t.shape, generator=generator, device=x_t.device, dtype=x_t.dtype)
        return self.posterior_mean(x_0_hat, x_t, t) + self.sigma[t] * z

    @torch.no_grad()
    def reverse_process(self, model, x_T, clip=True, generator=None):
        """Run Algorithm 2 from x_T, (B, C, H, W) noise; its other arguments are p_sample's.

        Here a step is made from x_0_hat, which can be clipped, and in the paper from eps_theta.

        Yields:
            t = T, T - 1, ..., 0; x_t; and x_0_hat, the estimate made from x_t (at t = 0, x_0).
        """
        x_t = x_T
        for t in range(self.T, 0, -1):
            x_0_hat = self.estimate_x_0(model, x_t, t, clip)
            yield t, x_t, x_0_hat
            x_t = self.posterior_sample(x_0_hat, x_t, t, generator)
        yield 0, x_t, x_t

    def sample(self, model, shape, clip=True, generator=None):
        """Draw x_0 ~ p_theta(x_0), Eq. 1: all of Algorithm 2.

        Args:
            shape: (B, C, H, W) of the images.
            model, clip, generator: as for p_sample.

        Returns:
            (B, C, H, W) float images x_0.
        """
        x_T = torch.randn(shape, generator=generator, device=self.beta.device)
        for t, x_t, _ in self.reverse_process(model, x_T, clip, generator):
            if t == 0:
                return x_t
