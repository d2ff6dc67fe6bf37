"""Diffusion posterior sampling: x_0 from a measurement of it, masked, small, blurred or mixed.

Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems" (DPS,
arXiv:2209.14687), Eq. 10, 11 and 16, Algorithm 1, appendices C.2 and D.1; Song et al. 2023,
"Pseudoinverse-Guided Diffusion Models for Inverse Problems" (PiGDM, ICLR); Boys et al. 2023,
"Tweedie Moment Projected Diffusions for Inverse Problems" (arXiv:2310.06721).

    python -m papers.dps [--checkpoint F] [--n 8] [--steps 250]          DPS takes 1000 steps

Given y = A(x_0) + noise and a network that knows p(x_0), we want x_0 ~ p(x_0 | y).  The score of
p(x_t | y) is that of p(x_t), which the network has, plus grad log p(y | x_t), which nobody has.
DPS takes log p(y | x_0_hat), as if x_t left no doubt about x_0.  If it leaves a Gaussian, of mean
x_0_hat and covariance V_t, p(y | x_t) is one too: see `conditioned`, with PiGDM's V_t = r_t^2 I, or
with what the slope of x_0_hat says of V_t (Boys et al.), which is exact for Gaussian data.

What each costs is measured there, where the posterior is known, beside the replacement method and
papers/repaint.py.  With the exact V_t what is left is the chain's: its 100 steps keep the mean and
miss 0.8% of the covariance, with sigma_t^2 = beta_t (5.5% with beta_tilde_t).

The paper's zeta' is `zeta`.  Its code steps along the gradient of the norm and not of its square:
the same, if its `scale` is 2 zeta.  From its code: x_0_hat is clipped before A sees it, so that no
gradient passes where it was, and x_0 is returned, after the last step, where Algorithm 1 has
x_0_hat.
"""
import functools
import math

import torch
import torch.nn.functional as F

import data
from ddpm import DDPM, at
from papers.kit.analytic import Gaussian
from papers.kit.chain import respace, walk
from papers.kit.judge import psnr, rms
from papers.kit.program import draw_panels, finish, flags, held_out, program, start, steps_of
from papers.repaint import inpaint
from sample import batch_size
from schedules import cosine_beta_schedule

NOISE = 0.05                                         # sigma of the paper's measurements, sec. 4


def residual(y, measured):
    """Return y - A(x_0_hat); what broadcasts would be silently wrong, and raises a ValueError."""
    if y.shape != measured.shape:
        raise ValueError(f"y must be of the shape that A makes, {tuple(measured.shape)}, not "
                         f"{tuple(y.shape)}")
    return y - measured


def guide(ddpm, model, y, A, x_t, t, clip=True):
    """Return x_0_hat, Eq. 10, and what zeta weighs, Eq. 11: 2 grad_{x_t} || y - A(x_0_hat) ||."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x_0_hat = ddpm.estimate_x_0(model, x_t, t, clip)
        norm = residual(y, A(x_0_hat)).flatten(1).norm(dim=1)    # of each image its own
        gradient, = torch.autograd.grad(norm.sum(), x_t)
    return x_0_hat.detach(), 2 * gradient


def sample(ddpm, model, y, A, x_T, zeta=1.0, clip=True, generator=None):
    """Draw x_0, given y = A(x_0) + noise.  Chung et al. 2023, Eq. 16, Algorithm 1 and C.2.

        x'_{t-1} = mu_tilde_t(x_t, x_0_hat) + sigma_t z                    a step of Algorithm 2
        x_{t-1} = x'_{t-1} - zeta_t grad_{x_t} || y - A(x_0_hat) ||^2
        zeta_t = zeta / || y - A(x_0_hat) ||

    Args:
        ddpm, model: DDPM; eps_theta, called as model(x_t, t).  Gradients go through it, and A.
        y: (B, ...) measurements; A: called as A(x_0), returns measurements in the shape of y.
        x_T: (B, C, H, W) noise.
        zeta: float; 0 is Algorithm 2.  The paper lists 0.3 to 1 (D.1), but the settings in its
            code, a `scale` of 0.3 or 0.5 (phase retrieval: 1), are 0.15 or 0.25 (0.5) here.
        clip, generator: as for `DDPM.p_sample`.

    Returns (B, C, H, W) float images x_0; raises a ValueError if y has not the shape that A makes.
    """
    def step(x_t, t):
        x_0_hat, gradient = guide(ddpm, model, y, A, x_t, t, clip)
        return ddpm.posterior_sample(x_0_hat, x_t, t, generator) - zeta * gradient

    return walk(step, x_T, ddpm.T, "posterior sampling")


# ---- the likelihood with what x_t leaves open ----

def solve(M, b, iterations):
    """Solve M(u) = b, both (B, ...), by conjugate gradients; M is linear, symmetric, positive."""
    def dot(v, w):                                   # of each image its own
        return (v * w).flatten(1).sum(1).reshape(-1, *[1] * (b.dim() - 1))

    u, r, p = torch.zeros_like(b), b, b
    for _ in range(iterations):
        Mp, before = M(p), dot(r, r)
        step = (before / dot(p, Mp)).nan_to_num(0, 0, 0)         # / 0: it is solved
        u, r = u + step * p, r - step * Mp
        p = r + (dot(r, r) / before).nan_to_num(0, 0, 0) * p
    return u


def conditioned(ddpm, model, y, A, s, iterations=1, V=None):
    """Return a model(x_t, t): the eps of p(x_t | y), for any sampler.  Song et al., Boys et al.

        eps = eps_theta - sqrt(1 - alpha_bar_t) grad log p(y | x_t)
        p(y | x_t) = N(y; A x_0_hat, s^2 I + A V_t A^T)          its gradient takes V_t as constant
        V_t = (1 - alpha_bar_t) / sqrt(alpha_bar_t) d x_0_hat / d x_t

    V_t is the covariance of x_0 given x_t, by the derivative of Tweedie's formula; that of a
    network need not be symmetric and positive, and is taken for it.

    Args:
        ddpm, model, y, A: as for `sample`, with a linear A.  x_0_hat is not clipped.
        s: standard deviation of the noise in y, a float.
        iterations: of `solve`, each a pass back through the network, as in Rozet et al. 2024
            (arXiv:2405.13712); as many as y has numbers are exact.
        V: (T + 1,) tensor, for V_t = V[t] I.  PiGDM's r_t^2 is 1 - alpha_bar_t, right for N(0, I).
            Rozet & Louppe 2023 (arXiv:2306.10574) have gamma (1 - alpha_bar_t) / alpha_bar_t.
    """
    def eps(x_t, t):
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            eps_theta = model(x_t, t)
            x_0_hat = ddpm.predict_x_0(x_t, t, eps_theta)
            measured = A(x_0_hat)
        a, b = (at(c, t, x_t) for c in (ddpm.alpha_bar, ddpm.one_minus_alpha_bar))
        x, V_t = (x_t, b / a.sqrt()) if V is None else (x_0_hat, at(V, t, x_t))

        def back(v, x):                              # A^T v for x_0_hat; with the slope for x_t
            return torch.autograd.grad(measured, x, v, retain_graph=True)[0]

        off = residual(y, measured).detach()
        u = solve(lambda v: s ** 2 * v + A(V_t * back(v, x)), off, iterations)
        return (eps_theta - b.sqrt() * back(u, x_t)).detach()
    return eps


# ---- measurements ----

def pool(x, factor):
    """Make (B, C, H, W) images smaller: (B, C, H / factor, W / factor) means of squares."""
    H, W = x.shape[2:]
    if factor < 1 or H % factor or W % factor:
        raise ValueError(f"{H} x {W} pixels do not part into squares of {factor} x {factor}")
    return F.avg_pool2d(x, factor)


def blur(x, s):
    """Blur (B, C, H, W) images by a Gaussian of s pixels (a standard deviation), cut at 3 s."""
    reach = min(math.ceil(3 * s), x.shape[2] - 1, x.shape[3] - 1)            # what can be reflected
    k = torch.exp(-torch.arange(-reach, reach + 1, device=x.device) ** 2 / (2 * s ** 2)).to(x)
    k = (k / k.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, [reach] * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, k, groups=len(k)), k.transpose(2, 3), groups=len(k))


def random_map(shape, M, generator=None):
    """Return A, which measures (B, *shape) images along M random directions at right angles."""
    Q = torch.linalg.qr(torch.randn(math.prod(shape), M, generator=generator)).Q
    return lambda x: x.flatten(1) @ Q.to(x)


def back_project(A, y, shape):
    """Return what y alone says: c A^T y, (B, *shape), with the c that brings A of it nearest to y.

    A is linear.  Where A A^T is a multiple of I, as of `pool` and `random_map`, or A a mask, it is
    the least image that explains y.
    """
    x = y.new_zeros(len(y), *shape, requires_grad=True)
    back, = torch.autograd.grad(A(x), x, y)
    again = A(back).flatten(1)
    c = (again * y.flatten(1)).sum(1) / again.square().sum(1)
    return c.reshape(-1, *[1] * len(shape)) * back


# ---- where the posterior is known ----

def compare(n, seed):
    """Draw n times for each of 8 images of 8 correlated pixels, of which 4 are measured exactly.

    Returns {way: three floats}: the RMS error of the mean of the others, in posterior standard
    deviations; the relative error of their covariance; the RMS error of the measured pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    ddpm = DDPM(cosine_beta_schedule(100)).double()
    place, eye = torch.arange(8.0, dtype=torch.float64), torch.eye(8, dtype=torch.float64)
    C = torch.exp(-(place[:, None] - place) ** 2 / 8) / 4 + eye / 100
    prior, A = Gaussian(ddpm, torch.zeros_like(place), C), eye[:4]
    x_0 = (noise(8, 8) @ torch.linalg.cholesky(C).T).repeat_interleave(n, 0)
    y = x_0 @ A.T
    mean, cov = prior.posterior(A, y, 0)
    mean, cov = mean[:, 4:], cov[4:, 4:]
    exact = mean + noise(8 * n, 4) @ torch.linalg.cholesky(cov).T
    draws = {"as many exact draws": torch.cat([y, exact], 1)}
    for r in (1, 10):
        draws[f"replacement, r = {r}"] = inpaint(ddpm, prior, x_0, A.sum(0), r, clip=False,
                                                 generator=generator)

    def measure(x):
        return x @ A.T

    for zeta in (0.02, 0.1, 1.0):
        draws[f"DPS, zeta = {zeta}"] = sample(ddpm, prior, y, measure, noise(8 * n, 8), zeta, False,
                                              generator)
    for way, *how in (("PiGDM, V_t = r_t^2 I", 4, ddpm.one_minus_alpha_bar),
                      ("V_t by the slope, 1 product", 1), ("V_t by the slope, exact", 4)):
        step = functools.partial(ddpm.p_sample, conditioned(ddpm, prior, y, measure, 0, *how),
                                 clip=False, generator=generator)
        draws[way] = walk(step, noise(8 * n, 8), ddpm.T, way)
    errors = {}
    for way, x in draws.items():
        off = (x[:, 4:] - mean).reshape(8, n, 4)
        bias = off.mean(1, keepdim=True)
        spread = (off - bias).flatten(0, 1).T.cov()
        errors[way] = (rms(bias) / cov.diag().mean().sqrt().item(),
                       ((spread - cov).norm() / cov.norm()).item(), rms(x[:, :4] - y))
    return errors


# ---- the program ----

def operators(shape, generator):
    """Return {name: A}, four measurements of (B, *shape) images."""
    C, H, W = shape
    mask = (torch.rand(H, W, generator=generator) < 0.3).float()
    return {"30% of the pixels": lambda x: mask.to(x) * x,
            f"means of 4 x 4 pixels, {H // 4} x {W // 4} of them": lambda x: pool(x, 4),
            "blurred": lambda x: blur(x, H / 10),
            "random directions": random_map(shape, min(H * W // 4, 1024), generator)}


def main(argv=None):
    program(flags(__doc__, "dps.png", 8, help="number of images", steps=250), run, argv)


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    H, steps = config["image_size"], steps_of(args, ddpm.T)
    x, _ = held_out(config)
    if H % 4:
        raise ValueError(f"images of {H} x {H} pixels do not part into squares of 4 x 4")
    generator = torch.Generator().manual_seed(args.seed)
    chosen = torch.randperm(len(x), generator=generator)[:min(args.n, max(1, batch_size(H) // 4))]
    x_0, panels, found = data.to_model(x[chosen]), {}, []
    chain = respace(ddpm, model, steps)
    print(f"{len(x_0)} images, by {checkpoint} in {steps} steps, on {device}")
    for name, A in operators(x_0.shape[1:], generator).items():
        y = A(x_0)
        y = y + NOISE * torch.randn(y.shape, generator=generator)
        x_T = torch.randn(x_0.shape, generator=generator).to(device)
        noise = torch.Generator(device).manual_seed(args.seed)
        rows = {"y alone": back_project(A, y, x_0.shape[1:])}
        if y.shape[2:] == (H // 4, H // 4):
            rows["bicubic"] = F.interpolate(y, (H, H), mode="bicubic")
        rows["DPS"] = sample(*chain, y.to(device), A, x_T, generator=noise).cpu()
        step = functools.partial(chain[0].p_sample, conditioned(*chain, y.to(device), A, NOISE),
                                 generator=noise.manual_seed(args.seed))
        rows["with V_t"] = walk(step, x_T, steps, name).cpu()
        panels[name] = {"x_0": x_0, **rows}
        found.append(f"{name}: " + ", ".join(
            f"{label} {psnr(row.clamp(-1, 1), x_0).mean():.1f} ({rms(y - A(row)):.3f})"
            for label, row in rows.items()))
    print(f"PSNR in dB (RMS of y - A(x), of exact samples {NOISE}), of " + "; of ".join(found))
    print(f"\n{'a posterior that is known':28}{'mean':>8}{'covariance':>12}{'measured':>10}")
    for way, errors in compare(1000, args.seed).items():
        print(f"{way:28}{errors[0]:8.3f}{errors[1]:12.3f}{errors[2]:10.3f}")
    finish(draw_panels(panels, (2, 2), (14, 7), most=None), args.out)


if __name__ == "__main__":
    main()
