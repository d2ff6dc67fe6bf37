"""Score matching at many noise levels, and Langevin dynamics from the largest to the smallest.

Song & Ermon 2019, "Generative Modeling by Estimating Gradients of the Data Distribution" (NCSN,
arXiv:1907.05600), Eq. 1 to 6, Algorithm 1, Fig. 2, 3; Hyvarinen 2005, "Estimation of Non-Normalized
Statistical Models by Score Matching"; Vincent 2011, "A Connection Between Score Matching and
Denoising Autoencoders"; Song et al. 2019, "Sliced Score Matching" (SSM, arXiv:1905.07088).

    python -m papers.ncsn [--checkpoint F] [--n 36] [--steps 20]

A score, grad log q(x), hardly knows how much of the data lies beyond an empty region (sec. 3.2.2),
so Langevin dynamics gives the modes wrong weights.  Noise fills the region.  Shown in the plane, by
a network trained here; and on images, by eps_theta of a DDPM, which is such a network: `ve_score`.

The paper's x and x-tilde are x_0 and x = x_0 + sigma z here, its epsilon is `step`, and its T is
`n_steps`; its alpha_i is a step size, and no alpha_t.
"""
import torch
from matplotlib.figure import Figure
from torch import nn

from ddpm import at
from papers.kit.analytic import Mixture, ve_score, ve_sigmas, ve_times
from papers.kit.chain import noise_like
from papers.kit.program import finish, flags, program, show, start
from plumbing.cli import integer, track
from sample import batch_size, batches

# The toy of sec. 3.2, its levels and its steps as in appendix B.1.  (Sec. 4.3 says sigma = 10 to
# 0.1, where B.1's step of 0.1 would be 10 sigma_L^2, and diverge.)
PLANE = Mixture(None, torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), 1.0, [1, 4])
PLANE_LEVELS = {"sigma_1": 20, "sigma_L": 1, "L": 10}
PLANE_STEPS, PLANE_STEP, FIT_STEPS = 100, 0.1, 4000
# The levels of sec. 5, with pixels twice as large.  Its step is 0.2 sigma_L^2, 100 times at each:
# in the authors' code, with alpha_i where Algorithm 1 has alpha_i / 2, it is 0.4 sigma_L^2.
IMAGE_LEVELS = {"sigma_1": 2, "sigma_L": 0.02, "L": 10}
IMAGE_STEP = 0.5


def geometric(sigma_1, sigma_L, L):
    """Return (L,) float32 noise levels, sigma_1 / sigma_2 = sigma_2 / sigma_3 = ...  Sec. 4.1."""
    return (sigma_1 * (sigma_L / sigma_1) ** torch.linspace(0, 1, L, dtype=torch.float64)).float()


# ---- learning a score ----

def perturb(x_0, sigmas, generator=None):
    """Draw i, (B,), z and x = x_0 + sigma_i z, (B, ...): a level and noise for each x_0."""
    i = torch.randint(len(sigmas), (len(x_0),), generator=generator, device=x_0.device)
    z = noise_like(x_0, generator)
    return i, z, x_0 + at(sigmas, i, x_0) * z


def dsm_loss(model, x_0, sigmas, generator=None):
    """Return the denoising score matching loss.  NCSN, Eq. 5 and 6; Vincent 2011.

        l(theta; sigma) = 1/2 E || s_theta(x, sigma) + (x - x_0) / sigma^2 ||^2
        L(theta) = 1/L sum_i lambda(sigma_i) l(theta; sigma_i),   lambda(sigma) = sigma^2 (sec. 4.2)
                 = 1/2 E || sigma_i s_theta(x, sigma_i) + z ||^2

    Its minimum is the score of the noisy data, grad log q_sigma(x), though what it asks for is that
    of q_sigma(x | x_0).  Of `ve_score` at all its levels it is D/2 L_simple (Ho et al., Eq. 14).

    Args:
        model: called as model(x, sigma), sigma (B,), returns s_theta in the shape of x.
        x_0: (B, ...) float, clean data.
        sigmas: (L,) noise levels, on the device of x_0.
        generator: torch.Generator on that device.

    Returns:
        A scalar; the squared norm is a sum over the D pixels.
    """
    i, z, x = perturb(x_0, sigmas, generator)
    s = model(x, sigmas[i])
    return ((at(sigmas, i, x) * s + z) ** 2).flatten(1).sum(1).mean() / 2


def sliced_loss(model, x_0, sigmas, generator=None):
    """Return the sliced score matching loss of the noisy data.  NCSN, Eq. 3; SSM, as "SSM-VR".

        L(theta) = E sigma_i^2 (v^T grad s_theta v + 1/2 || s_theta ||^2),   v of +1s and -1s

    E[v v^T] = I, so that v^T grad s v stands for the trace in Eq. 1, Hyvarinen's.  Arguments are
    those of `dsm_loss`, whose mean is L(theta) + D/2, whatever the model.
    """
    i, _, x = perturb(x_0, sigmas, generator)
    s = model(x.requires_grad_(), sigmas[i])
    v = 2 * torch.randint(2, x.shape, generator=generator, device=x.device) - 1
    v_grad_s, = torch.autograd.grad((v * s).sum(), x, create_graph=True)
    return (sigmas[i] ** 2 * (v_grad_s * v + s ** 2 / 2).flatten(1).sum(1)).mean()


# ---- sampling with it ----

@torch.no_grad()
def annealed_langevin(score, x, sigmas, n_steps, step, generator=None):
    """Run Langevin dynamics at one noise level after the other.  NCSN, Algorithm 1.

        x <- x + alpha_i / 2 s(x, sigma_i) + sqrt(alpha_i) z,   alpha_i = step sigma_i^2 / sigma_L^2

    A single level is Eq. 4.  Where q_sigma is Gaussian with variance v, x settles at the variance
    v / (1 - alpha_i / (4 v)), and at none if alpha_i >= 4 v: keep step well below 4 sigma_L^2.

    Args:
        score: called as score(x, sigma), sigma (B,), returns grad log q_sigma(x).
        x: (B, ...) float, anywhere to start from.
        sigmas: (L,) noise levels, the largest first.
        n_steps: steps at each level, an int.
        step: step size at the last level, the paper's epsilon.
        generator: torch.Generator on the device of x.

    Returns:
        (B, ...), data with noise of about sigma_L.
    """
    sigmas = sigmas.tolist()
    for sigma in track([s for s in sigmas for _ in range(n_steps)], "Langevin, steps"):
        alpha_i = step * (sigma / sigmas[-1]) ** 2
        slope = score(x, x.new_full((len(x),), sigma))
        x = x + alpha_i / 2 * slope + alpha_i ** 0.5 * noise_like(x, generator)
    return x


# ---- the plane, where the score is known ----

def fit(loss, sigmas, generator):
    """Train s_theta(x, sigma) on the plane by `dsm_loss` or `sliced_loss`, and return it.

    It has the layers of appendix B.1's network, but is told sigma, and scaled as scores are (sec.
    4.2).  The authors' has softplus for SiLU and is not told sigma: it learns the score of the data
    without noise, by SSM-VR with normal v, and Fig. 3 samples by exact scores.
    """
    f = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(),
                      nn.Linear(128, 2))

    def model(x, sigma):
        sigma = sigma[:, None]
        return f(torch.cat([x / sigma, sigma.log()], dim=1)) / sigma

    optimizer = torch.optim.Adam(f.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)
    for _ in track(range(FIT_STEPS), f"{loss.__name__}, steps"):
        optimizer.zero_grad()
        loss(model, PLANE.draw(128, generator)[0], sigmas, generator).backward()
        optimizer.step()
        scheduler.step()
    f.requires_grad_(False)
    return model


def exact(x, sigma):
    """Return grad log q_sigma(x) of the plane: that of the chain with a = 1, b = sigma^2."""
    return PLANE.score(x, 1, sigma ** 2).to(x.dtype)


def relative_error(model, sigmas, generator):
    """Return E || s_theta - s ||^2 / E || s ||^2 over x ~ q_sigma, sigma one of sigmas: a float."""
    i, _, x = perturb(PLANE.draw(20_000, generator)[0], sigmas, generator)
    s = exact(x, sigmas[i])
    return (((model(x, sigmas[i]) - s) ** 2).sum() / (s ** 2).sum()).item()


def plane(seed):
    """Learn the score in two ways and sample in two; return {title: panel} and the finding."""
    torch.manual_seed(seed)                                      # the initial weights
    generator = torch.Generator().manual_seed(seed)
    sigmas = geometric(**PLANE_LEVELS)
    last = sigmas[-1:]
    learned, sliced = (fit(loss, sigmas, generator) for loss in (dsm_loss, sliced_loss))
    error, other = (relative_error(model, last, generator) for model in (learned, sliced))
    x = 16 * torch.rand(4000, 2, generator=generator) - 8        # appendix B.1
    alone = annealed_langevin(exact, x, last, len(sigmas) * PLANE_STEPS, PLANE_STEP, generator)
    annealed = annealed_langevin(learned, x, sigmas, PLANE_STEPS, PLANE_STEP, generator)
    shares = [(points.sum(1) < 0).float().mean().item() for points in (alone, annealed)]
    return {f"the score at sigma = {last.item():g}": exact,
            f"learned by denoising, squared error {error:.1%}": learned,
            f"Langevin, exact score\n{shares[0]:.0%} in the mode of 20%": alone,
            f"annealed, learned score\n{shares[1]:.0%} in the mode of 20%": annealed}, (
        f"the score at sigma = {last.item():g} is learned to a relative squared error of "
        f"{error:.2%} by denoising, {other:.2%} by slices; Langevin dynamics puts {shares[0]:.1%} "
        f"of its points into the mode that has 20.0% of the data, annealed {shares[1]:.1%}")


# ---- images ----

def image_times(ddpm):
    """Return the times whose sigma_t are IMAGE_LEVELS, as near as the chain has them, T first."""
    return ve_times(ddpm, geometric(**IMAGE_LEVELS).to(ddpm.beta)).unique().flip(0)


def langevin(ddpm, model, x, sigmas, n_steps, generator):
    """Run Algorithm 1 on images, with the network of a DDPM, in batches of bounded size."""
    score, step = ve_score(ddpm, model), IMAGE_STEP * sigmas[-1].item() ** 2
    return torch.cat([annealed_langevin(score, part, sigmas, n_steps, step, generator)
                      for part in x.split(batch_size(x.shape[-1]))])


def images(config, ddpm, model, n, n_steps, seed):
    """Sample from one network in three ways; return {title: (n, C, H, W)}."""
    device, C, H = ddpm.beta.device, config["image_channels"], config["image_size"]
    generator = torch.Generator(device).manual_seed(seed)
    x = 2 * torch.rand(n, C, H, H, generator=generator, device=device) - 1
    sigmas, float32 = ve_sigmas(ddpm)[image_times(ddpm)], {**config, "precision": "float32"}
    total = len(sigmas) * n_steps
    return {f"Langevin at sigma = {sigmas[-1]:.2g}, {total} steps":
                langevin(ddpm, model, x, sigmas[-1:], total, generator),
            f"annealed from {sigmas[0]:.2g}, {total} steps":
                langevin(ddpm, model, x, sigmas, n_steps, generator),
            f"Algorithm 2 of DDPM, {ddpm.T} steps":
                torch.cat([x_0 for _, x_0 in batches(ddpm, model, float32, n, seed)])}


# ---- the picture ----

def draw_figure(panels, grids):
    """Draw the panels of `plane`, over the density of the data with the smallest noise; images."""
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    above, below = figure.subfigures(2, 1)
    line, sigma = torch.linspace(-9, 9, 91), float(PLANE_LEVELS["sigma_L"])
    x = torch.cartesian_prod(line, line)                         # the first coordinate varies last
    density = PLANE.log_density(x, 1, sigma ** 2).exp().reshape(91, 91).T
    x = x.reshape(91, 91, 2)[3::7, 3::7].flatten(0, 1)
    for axes, (title, what) in zip(above.subplots(1, len(panels)), panels.items(), strict=True):
        axes.contourf(line, line, density, cmap="Oranges")
        if callable(what):                                       # a score; or points
            axes.quiver(*x.T, *what(x, torch.full((len(x),), sigma)).T, scale=100, width=0.006)
        else:
            axes.plot(*what[:1000].T, ".", markersize=2)
        axes.set(xlim=(-9, 9), ylim=(-9, 9), aspect="equal", xticks=(-5, 5), yticks=(-5, 5))
        axes.set_title(title, fontsize=9)
    for axes, (title, x_0) in zip(below.subplots(1, len(grids)), grids.items(), strict=True):
        show(axes, x_0, title=title)
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    print(f"{args.n} images of {checkpoint}, T = {ddpm.T}, on {device}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                         # layers so small lose time with more
    panels, finding = plane(args.seed)
    torch.set_num_threads(threads)
    grids = images(config, ddpm, model, args.n, args.steps, args.seed)
    finish(draw_figure(panels, grids), args.out, finding)


def main(argv=None):
    parser = flags(__doc__, "ncsn.png", 36, help="number of images")
    parser.add_argument("--steps", type=integer(1), default=20,
                        help="Langevin steps at each noise level of images (20; the paper's: 100)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
