"""Star-shaped diffusion: noise that is not Gaussian, and all that was made noisy at once.

Okhotin et al. 2023, "Star-Shaped Denoising Diffusion Probabilistic Models" (arXiv:2302.05259),
Eq. 7, 11 to 24, Theorems 1 and 2, Algorithm 2.

    python -m papers.star_shaped [--checkpoint F] [--seed 0]

DDPM needs q(x_{t-1} | x_t, x_0), Eq. 7 of Ho et al., and beside Gaussians and categories hardly any
noise has it in closed form.  Here x_1, ..., x_T are no chain: each is drawn from x_0 by itself.

    q(x_t | x_0) = h(x_t) exp(a_t f(x_0)^T T(x_t) - Omega_t(x_0))                      (Eq. 13, 14)

Then x_{t+1}, ..., x_T know of x_0 what x_t does not, and the way back has to remember them.  Of all
it needs one sum, whose size does not grow (Theorem 1):

    G_t = a_t T(x_t) + ... + a_T T(x_T),   q(x_0 | x_t, ..., x_T) = q(x_0 | G_t)       (Eq. 15, 16)

The G_t are a Markov chain.  Of Gaussians it is that of DDPM, step by step (Theorem 2).  Of Beta
distributions, for data in [0, 1], and von Mises', for angles, DDPM has no form.  Each a_t makes x_t
tell as much of x_0 as a Gaussian does by Eq. 24; J is Fisher's information, which adds up:

    J(a_t) = SNR_t - SNR_{t+1},   SNR_t = alpha_bar_t / (1 - alpha_bar_t)

Of the checkpoint only the schedule is taken, in 100 steps.  The paper matches mutual information
instead, by estimates (appendix G); for Gaussians both are Eq. 24.  J of Beta is that at x_0 = 1/2.
No network is trained: x_0 is on a grid, and what x_theta would learn is a sum.  In the picture are,
for each noise, the star of one x_0; what x_t and G_t tell of it; and samples, black the data, by
x_theta(G_t, t), Eq. 20, and by x_theta(x_t, t).  The last are too narrow, as in the paper's Fig. 3.
That is for x_theta being a point: with x_0 ~ q(x_0 | x_t) they are as good as by Eq. 19.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import distributions
from torch.special import i0e, i1e, polygamma

from papers.kit.chain import respace
from papers.kit.program import finish, flags, program, start

T, GRID, N, BINS, SEEDS = 100, 200, 5000, 25, 3
WAYS = {"x_theta(G_t, t)": {}, "x_theta(x_t, t)": {"tail": False}, "q(x_0 | G_t)": {"exact": True},
        "q(x_0 | x_t)": {"tail": False, "exact": True}, "the data": None}


# ---- three kinds of noise: f, its inverse, T, J(a), Omega(x_0) up to a constant, a draw ----

class Gaussian:
    """N(sqrt(abar) x_0, 1 - abar) of Eq. 22, a = sqrt(abar) / (1 - abar), J = abar / (1 - abar)."""
    low, high, scale = -1.5, 1.5, 1.0                # of the grid; 2 over the width of [-1, 1]
    data = (0.35, -0.6, 0.15), (0.65, 0.45, 0.2)     # bumps: weight, middle, width

    def f(x):
        return x[..., None]

    def back(f):
        return f[..., 0]

    T = f

    def J(a):
        return 2 * a ** 2 / (1 + (1 + 4 * a ** 2).sqrt())

    def omega(x_0, a):
        return Gaussian.J(a) * x_0 ** 2 / 2

    def draw(x_0, a):
        J = Gaussian.J(a)
        return (J / (1 + J)).sqrt() * x_0 + torch.randn_like(x_0) / (1 + J).sqrt()


class Beta(Gaussian):
    """Beta(1 + a x_0, 1 + a (1 - x_0)) of Eq. 17, 18: x_0 in [0, 1] is the mode, T the logit."""
    low, high, scale = 0.0, 1.0, 2.0
    data = (0.4, 0.0, 0.06), (0.6, 0.7, 0.12)

    def T(x):
        return x.logit()[..., None]

    def J(a):
        return 2 * a ** 2 * polygamma(1, 1 + a / 2)

    def omega(x_0, a):
        return torch.lgamma(1 + a * x_0) + torch.lgamma(1 + a * (1 - x_0))

    def draw(x_0, a):
        return distributions.Beta(1 + a * x_0, 1 + a * (1 - x_0)).sample()


class VonMises:
    """exp(a cos(x_t - x_0)) / (2 pi I_0(a)), of angles in [-pi, pi); appendix F."""
    low, high, scale = -math.pi, math.pi, 1.0
    data = (0.5, math.pi, 0.3), (0.5, 0.5, 0.4)

    def f(x):
        return torch.stack([x.cos(), x.sin()], dim=-1)

    def back(f):
        return torch.atan2(f[..., 1], f[..., 0])

    T = f

    def J(a):
        return a * i1e(a) / i0e(a)

    def omega(x_0, a):
        return 0 * (x_0 + a)                         # the same for every x_0

    def draw(x_0, a):
        return distributions.VonMises(x_0, a).sample()


class Star:
    """Data on a grid, and what x_1, ..., x_T tell of x_0; alpha_bar, (T + 1,), is a DDPM's."""

    def __init__(self, noise, alpha_bar):
        self.noise, self.T = noise, len(alpha_bar) - 1
        snr = F.pad(alpha_bar[1:] / (1 - alpha_bar[1:]), (0, 1))             # SNR_{T+1} = 0
        a = torch.logspace(-6, 6, 200_001, dtype=torch.float64)
        a = np.interp(noise.scale ** 2 * (snr[:-1] - snr[1:]), noise.J(a), a)
        self.a = F.pad(torch.from_numpy(a), (1, 0))                          # a_0 = 0: not used
        self.x = noise.low + (noise.high - noise.low) / GRID * (torch.arange(GRID).double() + 0.5)
        self.f = noise.f(self.x)                                             # (GRID, d)
        p = sum(w / s * (-(self.f - noise.f(torch.tensor(m))).square().sum(1) / (2 * s * s)).exp()
                for w, m, s in noise.data)
        self.p = p / p.sum()                                                 # (GRID,)
        self.omega = noise.omega(self.x, self.a[:, None])                    # (T + 1, GRID)
        self.tail = self.omega.flip(0).cumsum(0).flip(0)                     # of t, ..., T

    def posterior(self, G, omega):
        """Return q(x_0 | G_t), (n, GRID), of G, (n, d), with omega = tail[t].  Theorem 1."""
        return (self.p.log() + G @ self.f.T - omega).softmax(1)

    def x_theta(self, q):
        """Return the x_0, (n,), where Eq. 11 is least (of Beta, nearly), for q, (n, GRID)."""
        return self.noise.back(q @ self.f)

    def draw(self, q):
        """Draw x_0 ~ q, (n,), of q, (n, GRID)."""
        i = (q.cumsum(1) < torch.rand(len(q), 1)).sum(1)
        return self.x[i.clamp(max=GRID - 1)]         # a sum may round to less than 1

    def walk(self, n, tail=True, exact=False):
        """Go back from t = T to 1, Algorithm 2: yield t, G_t, (n, d), and q(x_0 | G_t).

            x_{t-1} ~ q(x_{t-1} | x_0 = x_theta(G_t, t))                                   (Eq. 20)

        Without the tail x_t is in place of G_t; exact takes x_0 ~ q(x_0 | G_t), as Eq. 19 has it.
        """
        G, q = torch.zeros(n, self.f.shape[1]).double(), self.p.expand(n, -1)    # nothing is known
        for t in range(self.T, 0, -1):
            x_t = self.noise.draw(self.draw(q) if exact else self.x_theta(q), self.a[t])
            new = self.a[t] * self.noise.T(x_t)
            G = G + new                                                      # Eq. 21
            q = self.posterior(*((G, self.tail[t]) if tail else (new, self.omega[t])))
            yield t, G, q


def sample(star, how, seed):
    """Draw N samples, (N,), in a way `how` of WAYS; None draws from the data."""
    torch.manual_seed(seed)
    q = star.p.expand(N, -1)
    for _, _, known in star.walk(N, **how) if how is not None else ():
        q = known
    return star.draw(q)


def off(star, x_0):
    """Return the total variation distance of samples x_0, (n,), from the data, in BINS bins."""
    found = x_0.histc(BINS, star.noise.low, star.noise.high) / len(x_0)
    return ((found - star.p.reshape(BINS, -1).sum(1)).abs().sum() / 2).item()


def draw_figure(drawn):
    """Draw {star: {way: samples}}."""
    figure = Figure(figsize=(16, 9), layout="constrained")
    for row, (star, ways) in zip(figure.subplots(3, 4), drawn.items(), strict=True):
        noise, t = star.noise, torch.arange(1, star.T + 1)
        x_0 = torch.full((star.T,), noise.data[1][1]).double()
        x_t = noise.draw(x_0, star.a[1:])
        new = star.a[1:, None] * noise.T(x_t)
        tail = star.posterior(new.flip(0).cumsum(0).flip(0), star.tail[1:])
        row[0].plot(t, x_t, ".", color="grey", label="x_t")
        row[1].plot(t, star.x_theta(star.posterior(new, star.omega[1:])), ".", color="tab:orange",
                    label="x_theta(x_t, t)")
        row[1].plot(t, star.x_theta(tail), color="tab:blue", lw=2, label="x_theta(G_t, t)")
        for axes, title in zip(row, ("the star of one x_0", "what it tells"), strict=False):
            axes.axhline(x_0[0], color="black", lw=0.8, ls="--", label="x_0")
            axes.set(xlabel="t", title=f"{noise.__name__}: {title}", ylim=(noise.low, noise.high))
            axes.legend(fontsize=8, loc="lower right", framealpha=1)
        for axes, way, colour in zip(row[2:], WAYS, ("tab:blue", "tab:orange"), strict=False):
            axes.hist(ways[way], BINS, color=colour, alpha=0.6, range=(noise.low, noise.high))
            axes.plot(star.x, star.p * N * GRID / BINS, color="black", lw=1)
            axes.set(title=f"samples by {way}, off by {off(star, ways[way]):.3f}", xlabel="x_0")
    return figure


def run(args):
    *_, ddpm, model = start(args)
    alpha_bar = respace(ddpm, model, min(T, ddpm.T))[0].exact.alpha_bar
    drawn, said = {}, {way: [] for way in WAYS}
    for star in [Star(noise, alpha_bar) for noise in (Gaussian, Beta, VonMises)]:
        drawn[star] = {}
        for way, how in WAYS.items():
            drawn[star][way], *more = (sample(star, how, args.seed + i) for i in range(SEEDS))
            d = torch.tensor([off(star, x_0) for x_0 in (drawn[star][way], *more)])
            said[way].append(f"{star.noise.__name__} {d.mean():.3f} +- {d.std():.3f}")
    print(*(f"by {way} off by {', '.join(each)}" for way, each in said.items()), sep="\n")
    tail, alone = (", ".join(said[way]) for way in list(WAYS)[:2])
    finish(draw_figure(drawn), args.out,
           f"finding: by G_t samples are off (total variation) by {tail}; by x_t alone by {alone}")


def main(argv=None):
    program(flags(__doc__, "star_shaped.png"), run, argv)


if __name__ == "__main__":
    main()
