"""Shorter chains, and chains with another step: what samplers in papers/ share."""
import torch

from ddpm import DDPM
from plumbing.cli import track
from sample import batch_size


def subsequence(T, steps):
    """Choose the times tau_1 < ... < tau_S to visit.  Song et al. 2020, appendix D.2.

        tau_i = floor(c i)   with c = T / S

    This is the paper's "linear" choice.  The paper asks for some c that makes tau_S close to T;
    here it is T itself.

    Args:
        T: length of the chain.
        steps: S, an int in 1..T; T takes every time.

    Returns:
        List of S increasing ints in 1..T, the last of them T.

    Raises:
        ValueError: steps is not in 1..T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"a chain of T = {T} can be walked in 1..{T} steps, not in {steps}")
    return [T * i // steps for i in range(1, steps + 1)]


def horizon(ddpm):
    """Return the last time with alpha_bar_t >= 0.005, from where an unclipped chain can start.

    Later x_t says next to nothing of x_0.
    """
    return max(1, int((ddpm.alpha_bar >= 0.005).nonzero().max()))


def respace(ddpm, model, steps):
    """Return a chain of fewer steps, and any model as its model.  Nichol & Dhariwal 2021, sec. 4.

        beta_{S_t} = 1 - alpha_bar_{S_t} / alpha_bar_{S_{t-1}}                             (Eq. 19)

    S_1, ..., S_K are K evenly spaced numbers from 1 to T, rounded (for K = 1 it is T).  Beta_tilde,
    and so Sigma_theta, follow from beta: v need not be learned again.

    Args:
        ddpm, model: the process and a model of it.
        steps: K, an int in 1..T.

    Raises:
        ValueError: steps is not in 1..T.
    """
    if not 1 <= steps <= ddpm.T:
        raise ValueError(f"of {ddpm.T} steps 1 to {ddpm.T} can be taken, not {steps}")
    S = torch.linspace(ddpm.T, 1, steps, dtype=torch.float64).round().long().flip(0)
    S = torch.cat([torch.zeros_like(S[:1]), S])                              # S_0 = 0
    alpha_bar = ddpm.exact.alpha_bar[S]
    chain = DDPM(1 - alpha_bar[1:] / alpha_bar[:-1], ddpm.variance).to(ddpm.beta.device)
    S = S.to(ddpm.beta.device)
    return chain, lambda x_t, t, **kwargs: model(x_t, S[t], **kwargs)


def noise_like(x, generator=None):
    """Draw z ~ N(0, I) in the shape, and the dtype, of x, from a generator on its device."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def first_noise(seed, shape, device):
    """Draw x_T ~ N(0, I) of this shape from a generator of this seed; return both, to go on."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device), generator


def ask(model, x_t, t, **how):
    """Return eps_theta(x_t, t), (B, ...), of x_t, (B, ...), that all are at one time t, an int."""
    return model(x_t, torch.full((len(x_t),), t, device=x_t.device), **how)


@torch.no_grad()
def walk(step, x_t, t, label="sampling"):
    """Run Algorithm 2 of Ho et al. 2020 with another step, from time t on.

        x_{s-1} = step(x_s, s),   s = t, ..., 1

    Args:
        step: called as step(x_s, s), s an int; returns x_{s-1}.  It runs without gradients, unless
            it asks for them.
        x_t: (B, ...) float, at time t.
        t: an int; from t = 0 nothing is left to do.
        label: what the line of progress says.

    Returns:
        (B, ...), x_0.
    """
    for s in track(range(t, 0, -1), f"{label}, times"):
        x_t = step(x_t, s)
    return x_t


def decode(ddpm, model, x_t, t, clip=True, generator=None):
    """Draw x_0 ~ p_theta(x_0 | x_t): Algorithm 2 from time t on, in batches of bounded size.

    Args:
        ddpm, model: the process and eps_theta.
        x_t: (B, C, H, W) float images at time t.
        t: an int in 0..T; from t = 0 nothing is left to do.
        clip, generator: as for `DDPM.p_sample`.

    Returns:
        (B, C, H, W) float images x_0.
    """
    def step(x_s, s):
        return ddpm.p_sample(model, x_s, s, clip, generator)

    return torch.cat([walk(step, part, t, f"decoding from t = {t}")
                      for part in x_t.split(batch_size(x_t.shape[-1]))])
