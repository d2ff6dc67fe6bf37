"""Data that are no pixels: angles, which go round, and matrices, which have to stay positive.

De Bortoli et al. 2022, "Riemannian Score-Based Generative Modelling" (arXiv:2202.02763), and Jing
et al. 2022, "Torsional Diffusion for Molecular Conformer Generation" (arXiv:2206.01729); Arsigny et
al. 2006, "Log-Euclidean Metrics for Fast and Simple Calculus on Diffusion Tensors".

    python -m papers.other_spaces [--checkpoint F] [--seed 0]

Where the backbone of a protein bends there are two angles, phi and psi: a point of a torus.  Noise
is Brownian motion there, an angle plus N(0, c) modulo 2 pi.  What is known of it:

    p(x) = sum over m of N(x + 2 pi m; 0, c)                                the images of a point
         = (1 + 2 sum over k >= 1 of exp(-k^2 c / 2) cos k x) / (2 pi)      the same
    E exp(i k x_c) = exp(-k^2 c / 2) E exp(i k x_0)                         what is left is uniform

So the score of a mixture is known, and a network learns it from that of p, of points and their
noise.  The way back adds score and noise, modulo 2 pi.  Beside it the same network learns DDPM (the
schedule of the checkpoint, in 100 steps) on x / pi, numbers in [-1, 1].  It has to learn a cliff
where the circle was cut, and piles up too much at the cliff, and too little before it.

Positive definite matrices are a cone.  Noise on their entries leads out of it: 85% of N(0, I) are
outside.  But logarithms of them are all symmetric matrices, so DDPM on these, in coordinates in
which noise has no direction, ends in the cone; eps* is that of a mixture (papers/kit/analytic.py).
Li et al. 2024, "SPD-DDPM" (arXiv:2312.08200), noise the cone itself, by a Gaussian of their own.

The picture: angles in degrees (a Ramachandran plot), and all of them about the cut at psi = 180;
matrices as ellipses, and a red cross where there is none.
"""
import math

import torch
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from papers.kit.analytic import Mixture
from papers.kit.chain import respace
from papers.kit.plane import imitate
from papers.kit.program import finish, flags, program, start

PI, IMAGES, T, N, STEPS, SEEDS = math.pi, 6, 100, 10_000, 1000, 3
# About where the angles of proteins are, in degrees: phi, psi, deviation, and how many.
REGIONS = torch.tensor([[-63, -43, 10, 0.40], [-120, 135, 20, 0.20], [-68, 150, 12, 0.20],
                        [57, 45, 10, 0.06], [-155, 172, 18, 0.14]])
# Ellipses: the squares of the half axes, their angle in degrees, and how many.
ELLIPSES, SPREAD = torch.tensor([[4, 0.1, 30, 0.4], [4, 0.1, 120, 0.4], [0.8, 0.8, 0, 0.2]]), 0.3


# ---- the torus ----

def wrap(x):
    """Return angles x modulo 2 pi, in [-pi, pi)."""
    return (x + PI) % (2 * PI) - PI


def wrapped_normal(x, v):
    """Return log p and d log p / dx at x of N(0, v) modulo 2 pi, for v to 12, by images."""
    turns = torch.arange(-IMAGES, IMAGES + 1).to(v)
    image, v = wrap(x)[..., None] + 2 * PI * turns, v[..., None]
    part = -image ** 2 / (2 * v) - (2 * PI * v).log() / 2
    return part.logsumexp(-1), -(part.softmax(-1) * image / v).sum(-1)


def fourier(x, v, terms=60):
    """Return p itself, by its Fourier series, for v that are not below 0.05 or so."""
    k = torch.arange(1, terms + 1)
    waves = (-k ** 2 * v[..., None] / 2).exp() * (k * x[..., None]).cos()
    return (1 + 2 * waves.sum(-1)) / (2 * PI)


class Regions:
    """A mixture of wrapped normals on the torus: of each region both angles are independent."""
    def __init__(self, regions=REGIONS):
        (self.mu, self.s), self.w = (regions[:, :3] * PI / 180).split((2, 1), 1), regions[:, 3]

    def draw(self, n):
        """Draw x_0, (n, 2) angles."""
        k = self.w.multinomial(n, True)
        return wrap(self.mu[k] + self.s[k] * torch.randn(n, 2))

    def score(self, x, c):
        """Return grad log q(x_c), (B, 2), at x, (B, 2), after Brownian motion of the time c."""
        log_p, slope = wrapped_normal(x[:, None] - self.mu, self.s ** 2 + c)             # (B, K, 2)
        return ((self.w.log() + log_p.sum(2)).softmax(1)[..., None] * slope).sum(1)


class Torus:
    """What `imitate` asks of a DDPM, of points x / pi in [-1, 1): the model gives sigma_t score.

    sigma_t^2 is the time of Brownian motion; sigma_t goes from 0.01 pi to pi, as in Jing et al.
    """

    def __init__(self, T):
        self.T, self.sigma = T, torch.cat([torch.zeros(1), PI * torch.logspace(-2, 0, T)])

    def loss(self, model, x_0):
        """Return the error of the score of the noise of x_0, (B, 2), shown at a random image."""
        t = torch.randint(1, self.T + 1, (len(x_0),))
        sigma = self.sigma[t][:, None]
        dx = sigma * torch.randn_like(x_0)
        image = 2 * torch.randint(-1, 2, x_0.shape)
        slope = wrapped_normal(dx, sigma ** 2)[1]
        return ((model(wrap(PI * x_0 + dx) / PI + image, t) - sigma * slope) ** 2).mean()

    @torch.no_grad()
    def sample(self, model, shape):
        """Walk back from the uniform distribution, modulo 2 pi; the last step is without noise."""
        x = PI * (2 * torch.rand(shape) - 1)
        for t in range(self.T, 0, -1):
            s, less = self.sigma[t], self.sigma[t - 1]
            step = s ** 2 - less ** 2
            score = model(x / PI, torch.full((len(x),), t)) / s
            x = wrap(x + step * score + less / s * step.sqrt() * torch.randn_like(x))
        return x / PI


def near_the_cut(x, degrees):
    """Return the share of angles x, (n, 2), that have one that is so near to 180 degrees."""
    return (x.abs().amax(1) > PI * (1 - degrees / 180)).float().mean().item()


# ---- positive definite matrices ----

def matrix(v):
    """Return the symmetric matrices (a, c; c, b), (n, 2, 2), of v = (a, b, sqrt(2) c), (n, 3).

    The length of v is the Frobenius norm: N(0, I) of v is the same for each rotation R S R^T.
    """
    a, b, c = v[:, 0], v[:, 1], v[:, 2] / 2 ** 0.5
    return torch.stack([a, c, c, b], 1).reshape(-1, 2, 2)


def coordinates(S):
    """Return v, (n, 3), of S, (n, 2, 2)."""
    return torch.stack([S[:, 0, 0], S[:, 1, 1], 2 ** 0.5 * S[:, 0, 1]], 1)


def spectral(f, S):
    """Apply f to the eigenvalues of symmetric matrices, (n, 2, 2): their exp, or their log."""
    values, axes = torch.linalg.eigh(S)
    return axes @ (f(values)[..., None] * axes.mT)


def positive(S):
    """Which of (n, 2, 2) are positive definite?  (n,) bool."""
    return torch.linalg.eigvalsh(S)[:, 0] > 0


def matrices(ddpm):
    """Return the mixture of logarithms, as coordinates, that has ELLIPSES as middles."""
    (a, b), twice = ELLIPSES[:, :2].log().T, ELLIPSES[:, 2] * PI / 90
    across, along = (a - b) / 2 * twice.cos(), (a - b) / 2 * twice.sin()
    means = torch.stack([(a + b) / 2 + across, (a + b) / 2 - across, 2 ** 0.5 * along], 1)
    return Mixture(ddpm, means, SPREAD, ELLIPSES[:, 3])


def draw_ellipses(axes, S, title):
    """Draw the first 36 of symmetric matrices, (n, 2, 2), where they are positive definite."""
    values, V = torch.linalg.eigh(S[:36])
    at, good = torch.cartesian_prod(*[torch.arange(6.0)] * 2), values[:, 0] > 0
    short, long = (0.5 * values[good].sqrt()).T.numpy()
    degrees = torch.atan2(V[good, 1, 1], V[good, 0, 1]).rad2deg().numpy()    # of the longer axis
    axes.add_collection(EllipseCollection(long, short, degrees, units="xy", alpha=0.6,
                                          offsets=at[good], offset_transform=axes.transData))
    axes.plot(*at[~good].T, "x", color="tab:red", markersize=10, mew=2)
    axes.set(xlim=(-0.7, 5.7), ylim=(-0.7, 5.7), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def draw_figure(clouds, ellipses):
    """Draw {title: (n, 2) angles} and {title: (n, 2, 2) matrices}."""
    figure = Figure(figsize=(16, 9), layout="constrained")
    axes = figure.subplot_mosaic("aaabbbcccsss;ddddeeeeffff")
    for key, (title, x), colour in zip("abc", clouds.items(), ("k", "C0", "C1"), strict=True):
        degrees = x * 180 / PI
        axes[key].plot(*degrees[:4000].T, ".", color=colour, markersize=2)
        axes[key].set(title=title, xlabel="phi", ylabel="psi", aspect="equal", xlim=(-180, 180),
                      ylim=(-180, 180), xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
        axes["s"].hist(degrees[:, 1] % 360, 60, range=(120, 240), color=colour, histtype="step",
                       label=title)
    axes["s"].set(title=f"how many of {N:,} have which psi", xlabel="psi, modulo 360")
    axes["s"].legend(fontsize=8)
    for key, (title, S) in zip("def", ellipses.items(), strict=True):
        draw_ellipses(axes[key], S, f"{title}: {positive(S).double().mean():.0%} positive definite")
    return figure


def run(args):
    *_, ddpm, model = start(args)
    ddpm, regions = respace(ddpm, model, min(T, ddpm.T))[0].cpu(), Regions()
    x, v = torch.linspace(-PI, PI, 361).double(), torch.logspace(-1, 1, 9).double()[:, None]
    print("wrapped normals by images and by Fourier series differ by at most "
          f"{(wrapped_normal(x, v)[0].exp() - fourier(x, v)).abs().max():.1e}", flush=True)
    clouds, said = {}, []
    for title, process in {"data": None, "samples on the torus": Torus(ddpm.T),
                           "samples of DDPM": ddpm}.items():
        shares = []
        for seed in range(args.seed, args.seed + SEEDS):
            torch.manual_seed(seed)
            x = regions.draw(2 * N) / PI
            x = PI * imitate(process, x, N, STEPS) if process else regions.draw(N)
            clouds.setdefault(title, x)
            shares.append([100 * near_the_cut(x, degrees) for degrees in (1, 20)])
        (at, near), (std, more) = torch.tensor(shares).mean(0), torch.tensor(shares).std(0)
        said.append(f"{title} {at:.2f} +- {std:.2f}% ({near:.1f} +- {more:.1f}%)")
    S = spectral(torch.exp, matrix(matrices(ddpm).draw(N)[0].double()))
    v, logs = coordinates(S), ddpm.sample(matrices(ddpm), (N, 3), clip=False).double()
    fitted = torch.distributions.MultivariateNormal(v.mean(0), v.T.cov()).sample((N,))
    ellipses = {"data": S, "DDPM on logarithms": spectral(torch.exp, matrix(logs)),
                "a Gaussian fitted to the entries": matrix(fitted)}
    good = [f"{positive(S).sum()} of {N} ({title})" for title, S in ellipses.items()]
    finish(draw_figure(clouds, ellipses), args.out, f"positive definite: {', '.join(good)}\n"
           f"finding: within 1 (20) degrees of a cut are of {', of '.join(said)}")


def main(argv=None):
    program(flags(__doc__, "other_spaces.png"), run, argv)


if __name__ == "__main__":
    main()
