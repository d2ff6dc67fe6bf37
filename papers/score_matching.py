"""Three losses of one minimum, what each costs; and whether what is learned is a score at all.

Hyvarinen 2005, "Estimation of Non-Normalized Statistical Models by Score Matching", Theorem 1;
Vincent 2011, "A Connection Between Score Matching and Denoising Autoencoders"; Song et al. 2019,
"Sliced Score Matching" (arXiv:1905.07088): in Song & Ermon 2019 (NCSN, see ncsn.py) Eq. 1, 2 and 3.

    python -m papers.score_matching [--checkpoint F]

What is meant is E || s_theta(x) - s(x) ||^2 / 2, s = grad log q, x = x_0 + sigma z.  Nobody has s.
These differ from it by numbers that theta is not in, and cost D gradients by x, one, and none:

    Hyvarinen   E[ tr(grad s_theta) + || s_theta ||^2 / 2 ]              - E || s ||^2 / 2
    sliced      E[ v^T grad s_theta v + || s_theta ||^2 / 2 ]            the same; v of +-1
    denoising   E || s_theta + z / sigma ||^2 / 2                        + D / (2 sigma^2), and that

What a draw of each is worth is another matter: the first panel has how many tell to a tenth how
much worse than s a model is.  And a score is a gradient, its Jacobian symmetric; a network with D
outputs need not be one (Salimans & Ho 2021, "Should EBMs model the energy or the score?").  Then
come the curl of such a network, in the plane, and of one that is the gradient of an energy; and how
much of the Jacobian of the checkpoint's eps_theta is antisymmetric.
"""
from functools import partial
from itertools import product

import torch
from matplotlib.figure import Figure
from torch import nn

from data import to_model
from papers.kit.analytic import Mixture
from papers.kit.chain import ask, noise_like
from papers.kit.program import chosen, finish, flags, held_out, program, start, with_error
from plumbing.cli import track

SEEDS, STEPS, BATCH, RATE = 5, 1500, 256, 5e-3
PLANE, SIGMA = Mixture(None, torch.tensor([[-1.0, -1.0], [1.0, -0.6], [0.0, 1.2]]), 0.4), 0.3
DIMS, SIGMAS, DRAWS, PERCENT = (2, 8, 32, 128), (0.1, 1.0), 4000, (1, 5, 10, 25, 50, 100)
COST = {"Hyvarinen": "D gradients", "sliced": "1 gradient", "denoising": "none"}


# ---- three losses ----

def hyvarinen(s, x, sigma):
    """Return sigma^2 (tr(grad s) + ||s||^2 / 2), (B,), of s, a function of x, (B, D).  Eq. 1."""
    x = x.detach().requires_grad_()
    value = s(x)
    trace = sum(torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)[0][:, i]
                for i in range(x.shape[1]))                      # D gradients
    return sigma ** 2 * (trace + (value ** 2).sum(1) / 2).detach()


def sliced(s, x, sigma, v):
    """Return sigma^2 (v^T (grad s) v + ||s||^2 / 2), (B,), with v, (B, D) of +-1.  NCSN, Eq. 3."""
    x = x.detach().requires_grad_()
    value = s(x)
    product, = torch.autograd.grad(value, x, v)
    return sigma ** 2 * ((product * v).sum(1) + (value ** 2).sum(1) / 2).detach()


def denoising(s, x, sigma, z):
    """Return || sigma s + z ||^2 / 2, (B,), for x = x_0 + sigma z: sigma^2 times NCSN's Eq. 2."""
    return ((sigma * s(x) + z) ** 2).sum(1) / 2


def worse(D, sigma, n=DRAWS, seed=0):
    """Return how much larger each loss, by sigma^2, is for a model than for s: {loss: (n,)}.

    The data are two Gaussians, the model is s + tanh(A x) / 4.  All have the mean of "meant".
    """
    generator = torch.Generator().manual_seed(seed)
    mixture = Mixture(None, torch.stack([torch.ones(D), -torch.ones(D)]) / 2, 0.5)
    A, z, v = (torch.randn(k, D, generator=generator).double() for k in (D, n, n))
    x, s = mixture.draw(n, generator)[0] + sigma * z, partial(mixture.score, a=1, b=sigma ** 2)

    def model(x):
        return s(x) + torch.tanh(x @ A.T / D ** 0.5) / 4

    more = {"Hyvarinen": hyvarinen(model, x, sigma) - hyvarinen(s, x, sigma),
            "sliced": sliced(model, x, sigma, v.sign()) - sliced(s, x, sigma, v.sign()),
            "denoising": denoising(model, x, sigma, z) - denoising(s, x, sigma, z)}
    return {"meant": sigma ** 2 * ((model(x) - s(x)) ** 2).sum(1) / 2, **more}


# ---- a score, or the gradient of an energy ----

def network(energy):
    """Return layers, and s_theta(x): their two outputs, or minus the gradient of the one."""
    layers = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(),
                           nn.Linear(64, 1 if energy else 2))

    def gradient(x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        return -torch.autograd.grad(layers(x).sum(), x, create_graph=True)[0]

    return layers, gradient if energy else layers


def fit(energy, seed):
    """Train a network on the plane by `denoising`; return s_theta, frozen."""
    torch.manual_seed(seed)
    (layers, model), generator = network(energy), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(layers.parameters())
    for step in track(range(STEPS), f"{'energy' if energy else 'free'}, seed {seed}, steps"):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        x_0, z = PLANE.draw(BATCH, generator)[0], torch.randn(BATCH, 2, generator=generator)
        optimizer.zero_grad()
        denoising(model, x_0 + SIGMA * z, SIGMA, z).mean().backward()
        optimizer.step()
    layers.requires_grad_(False)
    return model


def error(model, x):
    """Return E || s_theta - s ||^2 / E || s ||^2 over points x of the plane, (B, 2), a float."""
    s = PLANE.score(x, 1, SIGMA ** 2).to(x)
    return (((model(x) - s) ** 2).sum() / (s ** 2).sum()).item()


def curl(model, x):
    """Return ds_2/dx_1 - ds_1/dx_2, (B,), of a model of the score in the plane; x is (B, 2)."""
    x = x.detach().requires_grad_()
    s = model(x)
    of_1, of_2 = (torch.autograd.grad(s[:, i].sum(), x, retain_graph=True)[0] for i in (0, 1))
    return of_2[:, 0] - of_1[:, 1]


def share(s, x, generator=None):
    """Return how much of the Jacobian J of s is antisymmetric: 0 of a gradient, 1 of a rotation.

        sqrt(E || (J - J^T) v / 2 ||^2 / E || J v ||^2),   v of +-1, one for each x

    Means over v are squared Frobenius norms.  s is a function of x, (B, ...), of each by itself.
    """
    v = (2.0 * torch.randint(2, x.shape, generator=generator) - 1).to(x)
    x, u = x.detach().requires_grad_(), torch.zeros_like(x, requires_grad=True)
    value = s(x)
    J_T_u, = torch.autograd.grad(value, x, u, create_graph=True)             # linear in u
    J_v, = torch.autograd.grad(J_T_u, u, v, retain_graph=True)
    J_T_v, = torch.autograd.grad(value, x, v)
    return ((J_v - J_T_v).norm() / 2 / J_v.norm()).item()


# ---- the picture ----

def draw_figure(draws, models, shares):
    """Draw {(sigma, D): {loss: draws}}, the curl of {title: model}, and {t: share} of images."""
    figure = Figure(figsize=(17, 4.4), layout="constrained")
    first, *maps, last = figure.subplots(1, 4)
    for sigma, (k, loss) in product(SIGMAS, enumerate(COST)):
        first.loglog(DIMS, [draws[sigma, D][loss] for D in DIMS], "o-" if sigma < 1 else "s--",
                     color=f"C{k}", label=f"{loss}, sigma = {sigma:g}")
    first.set(xlabel="D", title="draws for an error of a tenth", xticks=DIMS, xticklabels=DIMS)
    figure.legend(*first.get_legend_handles_labels(), fontsize=8, ncols=6, loc="outside lower left")
    line = torch.linspace(-2.5, 2.5, 101)
    x = torch.cartesian_prod(line, line)                         # the first coordinate varies last
    density = PLANE.log_density(x, 1, SIGMA ** 2).exp().reshape(101, 101).T
    for axes, (title, model) in zip(maps, models.items(), strict=True):
        values = curl(model, x).reshape(101, 101).T.numpy()
        image = axes.pcolormesh(*[line.numpy()] * 2, values, cmap="RdBu_r", vmin=-2, vmax=2)
        axes.contour(line, line, density, levels=5, colors="black", linewidths=0.6)
        axes.set(aspect="equal", title=f"curl, {title}")
    figure.colorbar(image, ax=maps, shrink=0.8)
    last.semilogx(*zip(*shares.items(), strict=True), "o-")
    last.set(xlabel="t", ylim=(0, None), title="antisymmetric share, eps_theta")
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    x_0 = to_model(chosen(args, *held_out(config))[0])
    generator, draws, shares = torch.Generator().manual_seed(args.seed), {}, {}
    for sigma, D in product(SIGMAS, DIMS):
        each = worse(D, sigma, seed=args.seed)
        mean = each["meant"].mean()
        print(f"sigma = {sigma:g}, D = {D}: worse than s by {mean:.4f}; " + ", ".join(
            f"{loss} {with_error(each[loss])} ({cost})" for loss, cost in COST.items()))
        draws[sigma, D] = {loss: 100 * each[loss].var() / mean ** 2 for loss in COST}
    for t in sorted({max(1, ddpm.T * k // 100) for k in PERCENT}):
        x_t = ddpm.q_sample(x_0.to(device), t, noise_like(x_0, generator).to(device))
        shares[t] = share(partial(ask, model, t=t), x_t, generator)
    print(f"antisymmetric in eps_theta of {checkpoint}:",
          ", ".join(f"{100 * each:.1f}% at t = {t}" for t, each in shares.items()))
    models, said, test = {}, [], PLANE.draw(4000, generator)[0]
    test += SIGMA * noise_like(test, generator)
    for title in "two outputs", "gradient of an energy":
        nets = [fit("energy" in title, args.seed + k) for k in range(SEEDS)]
        off = torch.tensor([100 * error(net, test) for net in nets])
        odd = torch.tensor([100 * share(net, test, generator) for net in nets])
        models[title] = nets[0]
        said.append(f"{title}: {odd.mean():.2g} +- {odd.std():.1g}% of the Jacobian is "
                    f"antisymmetric, squared error {off.mean():.2f} +- {off.std():.2f}%")
    finish(draw_figure(draws, models, shares), args.out, f"finding: {'; '.join(said)}")


def main(argv=None):
    program(flags(__doc__, "score_matching.png", 16, help="images to noise"), run, argv)


if __name__ == "__main__":
    main()
