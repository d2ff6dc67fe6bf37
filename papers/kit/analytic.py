"""What is known exactly: three ways to write a prediction, and data whose best model is known.

Ho et al. 2020, Eq. 4, 9, 11 and 15; Vincent 2011, "A Connection Between Score Matching and
Denoising Autoencoders"; Efron 2011, "Tweedie's Formula and Selection Bias".

The noise eps, the image x_0 and the score grad log q(x_t) are one piece of knowledge: given x_t and
t, each gives the others.  And if the data are a mixture of Gaussians,

    x_0 ~ sum_k w_k N(mu_k, s_k^2 I),   so   x_t ~ sum_k w_k N(sqrt(alpha_bar_t) mu_k, v_k I)
    v_k = alpha_bar_t s_k^2 + 1 - alpha_bar_t                                        (by Eq. 4)

all of them are known in closed form.  A network that has learned L_simple perfectly would return
this eps*: whatever a sampler, a likelihood or a guidance does wrong then is its own doing.
"""
import math

import torch

from ddpm import at


def eps_from_x_0(ddpm, x_t, t, x_0):
    """Return the noise that makes x_t of x_0.  Ho et al. 2020, Eq. 4 solved for eps, as in Eq. 9.

        eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)

    Args:
        ddpm: DDPM.
        x_t: (B, ...) noisy images.
        t: (B,) int64 times in 1..T, or one int for all.
        x_0: (B, ...) clean images, or an estimate of them.

    Returns:
        (B, ...).  `DDPM.predict_x_0` (Eq. 15) is the way back.
    """
    return ((x_t - at(ddpm.alpha_bar, t, x_t).sqrt() * x_0)
            / at(ddpm.one_minus_alpha_bar, t, x_t).sqrt())


def score_from_eps(ddpm, eps, t):
    """Return the score that a prediction of eps stands for.  Vincent 2011; Ho et al., sec. 3.2.

        grad log q(x_t | x_0) = -eps / sqrt(1 - alpha_bar_t)

    Of the eps that minimises L_simple, E[eps | x_t], it is grad log q(x_t).

    Args:
        ddpm: DDPM.
        eps: (B, ...) noise, or a prediction of it.
        t: (B,) int64 times in 1..T, or one int for all.

    Returns:
        (B, ...).
    """
    return -eps / at(ddpm.one_minus_alpha_bar, t, eps).sqrt()


def x_0_from_score(ddpm, x_t, t, score):
    """Return E[x_0 | x_t].  Tweedie's formula (Efron 2011), for x_t of Eq. 4.

        x_0_hat = (x_t + (1 - alpha_bar_t) grad log q(x_t)) / sqrt(alpha_bar_t)

    Args:
        ddpm: DDPM.
        x_t: (B, ...) noisy images.
        t: (B,) int64 times in 0..T, or one int for all.
        score: (B, ...) gradient of log q(x_t).

    Returns:
        (B, ...).
    """
    return ((x_t + at(ddpm.one_minus_alpha_bar, t, x_t) * score)
            / at(ddpm.alpha_bar, t, x_t).sqrt())


def mean_from_eps(ddpm, x_t, t, eps_theta):
    """Return mu_theta(x_t, t), the mean of a step of Algorithm 2.  Ho et al. 2020, Eq. 11.

        mu_theta = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_t)

    Args:
        ddpm: DDPM.
        x_t: (B, ...) noisy images.
        t: (B,) int64 times in 1..T, or one int for all.
        eps_theta: (B, ...) predicted noise.

    Returns:
        (B, ...).  It is `DDPM.posterior_mean` (Eq. 7) of x_0_hat (Eq. 15) where nothing is clipped.
    """
    share = at(ddpm.beta, t, x_t) / at(ddpm.one_minus_alpha_bar, t, x_t).sqrt()
    return (x_t - share * eps_theta) / at(ddpm.alpha, t, x_t).sqrt()


def kl(mean_q, variance_q, mean_p, variance_p):
    """Return KL(N(mean_q, variance_q) || N(mean_p, variance_p)), each entry its own, in nats.

    This is Eq. 8 with its C written out.  With mu_theta of Eq. 11 the last summand is Eq. 12.

        KL = 1/2 (log(variance_p / variance_q) + variance_q / variance_p - 1)          this is C
           + (mean_q - mean_p)^2 / (2 variance_p)

    Args:
        mean_q, mean_p: tensors of one shape, or that broadcast.
        variance_q, variance_p: positive floats, or a tensor of that shape among them.

    Returns:
        A tensor of their shape.
    """
    ratio = variance_q / variance_p
    log_ratio = ratio.log() if isinstance(ratio, torch.Tensor) else math.log(ratio)
    return (ratio - 1 - log_ratio) / 2 + (mean_q - mean_p) ** 2 / (2 * variance_p)


def ve_sigmas(ddpm):
    """Return sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t), (T + 1,): those of `ve_score`."""
    return (ddpm.one_minus_alpha_bar / ddpm.alpha_bar).sqrt()


def ve_times(ddpm, sigma):
    """Return the t in 1..T whose sigma_t is nearest, (B,) int64, to each sigma, (B,)."""
    return (ve_sigmas(ddpm)[1:] - sigma[:, None]).abs().argmin(1) + 1


def ve_score(ddpm, model):
    """Make a noise conditional score of eps_theta, with nothing to train.

    Eq. 4 of Ho et al. 2020 shrinks the image as it adds noise.  Undo that, and

        x = x_t / sqrt(alpha_bar_t) = x_0 + sigma_t eps,   sigma_t^2 = 1 / alpha_bar_t - 1

    has the noise of NCSN.  Then log q_sigma(x) = log q(x_t) + a constant, and by the chain rule

        grad log q_sigma(x) = sqrt(alpha_bar_t) grad log q(x_t) = -eps_theta(x_t, t) / sigma_t

    Returns:
        score(x, sigma) for sigma among the sigma_t, as `annealed_langevin` takes it.
    """
    def score(x, sigma):
        t = ve_times(ddpm, sigma)
        root = at(ddpm.alpha_bar, t, x).sqrt()
        return root * score_from_eps(ddpm, model(root * x, t), t)
    return score


def follow_gaussian(ddpm, x_t, t, s, mean, std):
    """Return x_s of the probability flow ODE (DDIM's Eq. 14) through x_t, if x_0 ~ N(mean, std^2).

    Both q(x_t) and q(x_s) are Gaussian, and the ODE keeps how far from the mean, in deviations, a
    point is:

        (x_t - sqrt(alpha_bar_t) mean) / sqrt(v_t),   v_t = alpha_bar_t std^2 + 1 - alpha_bar_t

    Args:
        ddpm: DDPM.
        x_t: (B, ...) float.
        t, s: ints in 0..T, the time of x_t and another, earlier or later.
        mean, std: floats.

    Returns:
        (B, ...).
    """
    (a, v), (a_s, v_s) = ((ddpm.alpha_bar[i],
                           ddpm.alpha_bar[i] * std ** 2 + ddpm.one_minus_alpha_bar[i])
                          for i in (t, s))
    return a_s.sqrt() * mean + (v_s / v).sqrt() * (x_t - a.sqrt() * mean)


def column(value):
    """Return a number, or B numbers, as a (1, 1) or (B, 1) float64 tensor on the CPU."""
    value = value.cpu() if isinstance(value, torch.Tensor) else value
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1)


class Mixture:
    """A mixture of Gaussians, and the perfect network for it: `model(x_t, t)` returns eps*.

    One mean is Gaussian data.  All images of a data set as means, with stds = 0, make the ideal
    denoiser of that data set: what a network learns that does nothing but remember.
    """

    def __init__(self, ddpm, means, stds=0.0, weights=None):
        """Describe q(x_0).

        Args:
            ddpm: DDPM.
            means: (K, ...) mu_k; the further axes are those of an image.
            stds: s_k, a number or (K,).
            weights: w_k, (K,) positive numbers that need not sum to 1; None makes them equal.
        """
        self.ddpm, self.shape = ddpm, means.shape[1:]
        self.means = means.cpu().double().flatten(1)                         # (K, D)
        ones = self.means.new_ones(len(means))
        self.stds = torch.as_tensor(stds, dtype=torch.float64) * ones
        weights = ones if weights is None else torch.as_tensor(weights).to(ones)
        self.log_weights = (weights / weights.sum()).log()

    def __call__(self, x_t, t):
        """Return eps* = E[eps | x_t], (B, ...) in the dtype of x_t, for t as `at` takes it."""
        t = t.cpu() if isinstance(t, torch.Tensor) else t
        a = at(self.ddpm.exact.alpha_bar, t, x_t)
        return (-(1 - a).sqrt() * self.score(x_t, a, 1 - a)).to(x_t)

    def log_parts(self, x, a, b):
        """Return log (w_k N(x; sqrt(a) mu_k, v_k I)), (B, K), and the variances v_k, (B, K)."""
        x, a, b = x.cpu().double().flatten(1), column(a), column(b)
        v = a * self.stds ** 2 + b
        squares = ((x ** 2).sum(1, keepdim=True) - 2 * a.sqrt() * (x @ self.means.T)
                   + a * (self.means ** 2).sum(1))
        D = x.shape[1]
        return self.log_weights - squares / (2 * v) - D / 2 * (2 * math.pi * v).log(), v

    def log_density(self, x, a, b):
        """Return log q(x) at noise level a = alpha_bar, b = 1 - alpha_bar, in nats.

        Args:
            x: (B, ...) float.
            a, b: floats, or tensors of B values; a = 1, b = 0 is the data, if no s_k is 0.

        Returns:
            (B,) float64, on the CPU, where all of this is computed: not every GPU has float64.
        """
        return self.log_parts(x, a, b)[0].logsumexp(1)

    def score(self, x, a, b):
        """Return grad log q(x), (B, ...) float64 on the CPU; arguments as for log_density."""
        log_parts, v = self.log_parts(x, a, b)
        pull = log_parts.softmax(1) / v                                      # (B, K)
        score = (column(a).sqrt() * (pull @ self.means)
                 - pull.sum(1, keepdim=True) * x.cpu().double().flatten(1))
        return score.reshape(x.shape)

    def draw(self, n, generator=None):
        """Draw x_0 ~ q(x_0): (n, ...) float32, and k, (n,) int64, the parts they come from."""
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator)
        x_0 = self.means[k] + self.stds[k, None] * z
        return x_0.float().reshape(n, *self.shape), k


class Gaussian:
    """Data x_0 ~ N(m, C) with correlated pixels, and the perfect network for it.

        eps* = sqrt(1 - alpha_bar_t) V^-1 (x_t - sqrt(alpha_bar_t) m)
        V = alpha_bar_t C + (1 - alpha_bar_t) I
    """

    def __init__(self, ddpm, m, C):
        """Take m, (D,), and C, (D, D), in the dtype of all that comes."""
        self.ddpm, self.m, self.C = ddpm, m, C
        self.variances, self.axes = torch.linalg.eigh(C)

    def __call__(self, x_t, t):
        """Return eps*, (B, D)."""
        a, b = (at(c, t, x_t) for c in (self.ddpm.alpha_bar, self.ddpm.one_minus_alpha_bar))
        along = (x_t - a.sqrt() * self.m) @ self.axes
        return b.sqrt() * along / (a * self.variances + b) @ self.axes.T

    def posterior(self, A, y, s):
        """Return mean (..., D) and covariance of x_0, given y = A x_0 + N(0, s^2 I), (..., M).

            m + G (y - A m)  and  C - G A C,   G = C A^T (A C A^T + s^2 I)^-1
        """
        noise = s ** 2 * torch.eye(len(A), dtype=A.dtype)
        G = torch.linalg.solve(A @ self.C @ A.T + noise, A @ self.C).T
        return self.m + (y - A @ self.m) @ G.T, self.C - G @ A @ self.C
