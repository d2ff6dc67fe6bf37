"""EDM: noise levels instead of times, a network around which all is scaled, and Heun's method.

Karras, Aittala, Aila & Laine 2022, "Elucidating the Design Space of Diffusion-Based Generative
Models" (arXiv:2206.00364), Eq. 1, 3, 5, 7, 8, Table 1, Algorithm 1, appendix B.6.

    python -m papers.edm [--checkpoint F] [--n 64]

Their x is y + sigma n, an image and noise, and D(x; sigma) our x_0_hat.  x_t / sqrt(alpha_bar_t)
is such an x, with sigma^2 = 1 / alpha_bar_t - 1: a change of variables makes the network that ships
a D, and nothing is trained.

Preconditioning is three demands.  D = c_skip x + c_out F(c_in x): what F is shown has variance 1,
what it should say has variance 1, and its errors count as little as possible in D.  Then c_skip x
is the best guess of images that are themselves noise, N(0, sigma_data^2 I); F = 0, with which
networks begin, says just that; and the loss begins at 1 at every sigma.  Here sigma_data is the
root mean square of the pixels, whose mean is not 0, so that this holds of digits too.  What it is
for can be seen of a network that learned eps: the error of D is sigma times that of eps_theta, and
for large sigma it is above 1.

The sampler goes from sigma_max to 0 through levels that are even in sigma^(1 / rho): short steps
where sigma is small.  Departures: sigma_max is that of the time `horizon`, 14, and not 80, and
sigma_min that of t = 1; x begins as that of the other methods, N(0, (1 + sigma_max^2) I); their
Algorithm 2, with noise, is left out.

The picture: the loss by sigma, the levels, and quality against evaluations over five seeds.
"""
import math
from itertools import pairwise

import numpy as np
import torch
from matplotlib.figure import Figure

import data
from papers import dpm_solver
from papers.kit.analytic import ve_sigmas
from papers.kit.chain import first_noise, horizon, subsequence
from papers.kit.judge import check_readable, features, frechet, load_reader, read, rms
from papers.kit.program import finish, flags, held_out, program, show_rows, start
from plumbing.cli import track

BUDGETS, SEEDS = (5, 9, 19), 5                       # evaluations, odd for Heun's method
P_MEAN, P_STD = -1.2, 1.2                            # of log sigma, as they train


def coefficients(sigma, sigma_data):
    """Return c_skip, c_out and c_in.  Karras et al. 2022, Table 1, derived in appendix B.6.

        c_in = 1 / sqrt(sigma^2 + sigma_data^2)              c_in x has variance 1
        c_out^2 = (1 - c_skip)^2 sigma_data^2 + c_skip^2 sigma^2
                                                             (y - c_skip x) / c_out has variance 1
        c_skip = sigma_data^2 / (sigma^2 + sigma_data^2)     makes this c_out least

    With it c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2).  The weight lambda(sigma) of a
    squared error of D is 1 / c_out^2, so that every sigma counts alike.
    """
    total = sigma ** 2 + sigma_data ** 2
    return sigma_data ** 2 / total, sigma * sigma_data / total ** 0.5, 1 / total ** 0.5


def preconditioned(F, sigma_data):
    """Return D = c_skip x + c_out F(c_in x, c_noise), c_noise = log(sigma) / 4: Eq. 7."""
    def D(x, sigma):
        c_skip, c_out, c_in = coefficients(sigma, sigma_data)
        return c_skip * x + c_out * F(c_in * x, math.log(sigma) / 4)
    return D


def loss(D, y, n, sigma, sigma_data):
    """Return lambda(sigma) ||D(y + sigma n; sigma) - y||^2, a mean over pixels.  Eq. 8.

    It is the squared error of F, whose target is (y - c_skip x) / c_out.
    """
    _, c_out, _ = coefficients(sigma, sigma_data)
    return ((D(y + sigma * n, sigma) - y) / c_out).square().mean()


def denoiser(ddpm, model):
    """Make D(x; sigma) of eps_theta: D = x - sigma eps_theta(x / sqrt(1 + sigma^2), t).

    t is where log sigma_t is log sigma, a float between two times.
    """
    known = ve_sigmas(ddpm.exact)[1:].log().numpy()

    def D(x, sigma):
        t = np.interp(np.log(sigma), known, np.arange(1, ddpm.T + 1))
        t = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        return x - sigma * model(x / (1 + sigma ** 2) ** 0.5, t)
    return D


def levels(steps, sigma_min, sigma_max, rho=7):
    """Return sigma_0 = sigma_max, ..., sigma_{N-1} = sigma_min, sigma_N = 0, N steps.  Eq. 5.

        sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
    """
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps)
    return [*(roots ** rho).tolist(), 0.0]


@torch.no_grad()
def sample(D, x, sigmas, order=2):
    """Solve dx / dsigma = (x - D(x; sigma)) / sigma, Eq. 1 and 3, from the first level to 0.

    Algorithm 1 with sigma(t) = t: Heun's method, the last step Euler's; two evaluations a step, in
    all 2 N - 1.  With order 1 all are Euler's, and each is a jump of DDIM.

    Args:
        D: called as D(x, sigma), sigma a float.
        x: (B, ...), at the first of the levels, floats that fall to 0.
    """
    for sigma, to in pairwise(sigmas):
        d = (x - D(x, sigma)) / sigma
        ahead = x + (to - sigma) * d
        if order == 2 and to > 0:
            d = (d + (ahead - D(ahead, to)) / to) / 2
        x = x + (to - sigma) * d
    return x


# ---- the picture ----

def solver(order):
    """Return a sampler as those of `dpm_solver.METHODS`, but for its count of evaluations."""
    def solve(ddpm, model, x_T, end, calls):
        known = ve_sigmas(ddpm.exact)
        sigma_min, sigma_max = known[1].item(), known[end].item()
        sigmas = levels((calls + 1) // 2 if order == 2 else calls, sigma_min, sigma_max)
        return sample(denoiser(ddpm, model), (1 + sigma_max ** 2) ** 0.5 * x_T, sigmas, order)
    return solve


METHODS = {"DDIM": dpm_solver.METHODS["DDIM"], "2M, even in t": dpm_solver.METHODS["2M, even in t"],
           "Euler, rho = 7": solver(1), "Heun, rho = 7": solver(2)}


def draw_figure(losses, ddpm, end, found, rows):
    """Draw {sigma: (loss of D, of F = 0)}, levels, Frechet distances, and digits."""
    figure = Figure(figsize=(17, 4.4), layout="constrained")
    left, middle, far, right = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.5))
    sigma = np.array(list(losses))
    for k, label in enumerate(("the network", "F = 0")):
        left.semilogx(sigma, [pair[k] for pair in losses.values()], marker="o", markersize=3,
                      label=label)
    left.fill_between(sigma, np.exp(-((np.log(sigma) - P_MEAN) / P_STD) ** 2 / 2) / 2, color="C7",
                      alpha=0.3, label="how often they train it")
    left.set(xlabel="sigma", ylim=(0, 2), title="loss of Eq. 8 on held-out digits")
    known, n = ve_sigmas(ddpm.exact), 10
    for rho in (1, 3, 7):
        middle.semilogy(levels(n, known[1], known[end], rho)[:-1], marker="o", markersize=3,
                        label=f"rho = {rho}")
    middle.semilogy(known[subsequence(end, n)].flip(0), "k.:", label="times even in t")
    middle.set(xlabel="step", title=f"sigma of {n} steps")
    for i, (name, line) in enumerate(found.items()):
        each = torch.stack(list(line.values()))[:, :, 2]                     # (budgets, seeds)
        far.errorbar([calls + 0.2 * i for calls in line], each.mean(1), each.std(1), marker="o",
                     markersize=4, capsize=2, label=name)
    far.set(xlabel="evaluations", xticks=BUDGETS,
            title=f"Frechet distance, less DDIM's, {SEEDS} seeds")
    for axes in (left, middle, far):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    show_rows(right, rows, "from the same noise: method, evaluations", most=8)
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    check_readable(config, checkpoint)
    H, end, seeds = config["image_size"], horizon(ddpm), range(args.seed, args.seed + SEEDS)
    print(f"{args.n} samples each of {checkpoint}, T = {ddpm.T}, on {device}, seeds {list(seeds)}")
    y, net = data.to_model(held_out(config)[0]).to(device), load_reader(device)
    reference, sigma_data = features(net, y), rms(y)
    D, (n, _) = denoiser(ddpm, model), first_noise(args.seed, y[:64].shape, device)
    losses = {sigma: [loss(guess, y[:64], n, sigma, sigma_data).item() for guess in (
        D, preconditioned(lambda x, c_noise: 0 * x, sigma_data))]
        for sigma in np.geomspace(0.01, 80, 14).tolist()}
    found, rows = {}, {}
    for seed in track(seeds, "seeds"):
        x_T, base = first_noise(seed, (args.n, 1, H, H), device)[0], {}
        for name, method in METHODS.items():
            for calls in BUDGETS:
                x = method(ddpm, model, x_T, end, calls).clamp(-1, 1)
                if calls < BUDGETS[-1]:
                    rows.setdefault(f"{name}, {calls}", x[:8])
                far = frechet(features(net, x), reference)
                found.setdefault(name, {}).setdefault(calls, []).append(
                    (read(net, x)[0].float().mean().item(), far, far - base.setdefault(calls, far)))
    found = {name: {calls: torch.tensor(each) for calls, each in line.items()}
             for name, line in found.items()}
    print(f"sigma_data {sigma_data:.3f}; loss at sigma " + ", ".join(
        f"{sigma:.3g}: {one:.3f} (F = 0: {other:.3f})" for sigma, (one, other) in losses.items()))
    print(f"{'':16}evaluations  recognised  Frechet distance, less DDIM's")
    for name, line in found.items():
        for calls, each in line.items():
            print(f"{name:16}{calls:11}  {{:.1%}} +- {{:.1%}}  {{:.1f}} +- {{:.1f}}  {{:.1f}} +- "
                  "{:.1f}".format(*torch.stack([each.mean(0), each.std(0)], 1).flatten().tolist()))
    each = {name: line[BUDGETS[1]][:, 2] for name, line in found.items() if name != "DDIM"}
    finish(draw_figure(losses, ddpm, end, found, rows), args.out,
           f"Frechet distance, less DDIM's, with {BUDGETS[1]} evaluations: " + ", ".join(
               f"{less.mean():.1f} +- {less.std():.1f} ({name})" for name, less in each.items()))


def main(argv=None):
    program(flags(__doc__, "edm.png", 64, least=2, help="samples of each, for each seed"), run,
            argv)


if __name__ == "__main__":
    main()
