"""Every sampler of papers/, from the same noise: quality against evaluations of the network.

    python -m papers.compare [--checkpoint F] [--learned F] [--n 128]

On a checkpoint of rendered digits.  Two numbers say how good samples are.  One is the share that a
small classifier, trained on the fly, can read (benchmarks/recognise.py).  The other is the Frechet
distance (Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium", sec. 3) between samples and held-out digits in the 128 activations of that classifier:
it also sees what is missing or too alike.  It grows as n falls, for all alike; the same n of real
digits stands beside it.

With --learned, a checkpoint of papers/improved_ddpm.py, there are chains with a learned variance.
"""
from pathlib import Path

import torch
from matplotlib.figure import Figure

import data
from benchmarks.recognise import check_readable, read, train_classifier
from papers import ddim, improved_ddpm, ncsn, pndm, score_sde
from sample import (arguments, batch_size, check_writable, file_name, integer, load,
                    newest_checkpoint, one_line_errors, pick_device, save_figure)

BUDGETS = 10, 20, 50, 100                            # evaluations of the network
TOLERANCES = 0.3, 0.1, 0.03, 0.01                    # of the adaptive method, which has no budget
LEVELS = 10                                          # of noise, for annealed Langevin dynamics


def ancestral(ddpm, model, x_T, steps, generator):
    """Algorithm 2 of Ho et al. 2020 on a chain of fewer steps."""
    chain, model = improved_ddpm.respace(ddpm, model, steps)
    *_, (_, x_0, _) = chain.reverse_process(model, x_T, generator=generator)
    return x_0


def by_ddim(eta):
    """Song, Meng & Ermon 2020."""
    def sample(ddpm, model, x_T, steps, generator):
        return ddim.sample(ddpm, model, x_T, ddim.subsequence(ddpm.T, steps), eta,
                           generator=generator)
    return sample


def by_pndm(ddpm, model, x_T, budget, generator):
    """Liu et al. 2022; of the steps three cost four evaluations each."""
    end = ddim.horizon(ddpm) // 2 * 2                # nothing is clipped: it starts a little later
    return pndm.sample(ddpm, model, x_T, pndm.even(end, min(budget - 9, end // 2)))


def by_sde(sampler, each, **options):
    """Song et al. 2021; `each` evaluations a step, and one at the end."""
    def sample(ddpm, model, x_T, budget, generator):
        random = {} if sampler is score_sde.heun else {"generator": generator}
        return sampler(ddpm, model, x_T, (budget - 1) // each, **options, **random)
    return sample


def by_adaptive(ddpm, model, x_T, tolerance, generator):
    """Song et al. 2021, the ODE."""
    return score_sde.adaptive(ddpm, model, x_T, tolerance, tolerance)[0]


def by_langevin(ddpm, model, x_T, budget, generator):
    """Song & Ermon 2019, with the network of a DDPM, and one step of denoising at the end."""
    sigmas = ncsn.geometric(**{**ncsn.IMAGE_LEVELS, "L": LEVELS}).to(x_T.device)
    times = ncsn.ve_times(ddpm, sigmas).unique().flip(0)
    sigmas = ncsn.ve_sigmas(ddpm)[times]
    x = ncsn.annealed_langevin(ncsn.ve_score(ddpm, model), sigmas[0] * x_T, sigmas,
                               max(1, (budget - 1) // len(sigmas)),
                               ncsn.IMAGE_STEP * sigmas[-1].item() ** 2, generator)
    t = times[-1].item()
    return ddpm.estimate_x_0(model, ddpm.alpha_bar[t].sqrt() * x, t)


SAMPLERS = {                                         # name: (sampler, its settings)
    "Algorithm 2": (ancestral, BUDGETS),
    "DDIM, eta = 1": (by_ddim(1.0), BUDGETS),
    "DDIM, eta = 0": (by_ddim(0.0), BUDGETS),
    "PNDM": (by_pndm, (13, *BUDGETS[1:])),
    "Euler-Maruyama": (by_sde(score_sde.euler_maruyama, 1), BUDGETS),
    "predictor-corrector": (by_sde(score_sde.predictor_corrector, 2), BUDGETS),
    "ODE, Heun": (by_sde(score_sde.heun, 2), BUDGETS),
    "ODE, adaptive": (by_adaptive, TOLERANCES),
    "annealed Langevin": (by_langevin, BUDGETS),
}


class Counted:
    """A model that counts how often it is called."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.model(*args, **kwargs)


def frechet(x, y):
    """Return the Frechet distance of the Gaussians with the means and covariances of x and y.

        |m_x - m_y|^2 + trace(C_x + C_y - 2 (C_x C_y)^(1/2))

    Args:
        x, y: (N, D) and (M, D) features.
    """
    x, y = x.double(), y.double()
    C_x, C_y = x.T.cov(), y.T.cov()
    root = torch.linalg.eigvals(C_x @ C_y).real.clamp(min=0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + C_x.trace() + C_y.trace() - 2 * root).item()


@torch.no_grad()
def judge(net, x, reference):
    """Return (share recognised, Frechet distance to the reference features) of images x."""
    return read(net, x)[0].float().mean().item(), frechet(net[:-2](x), reference)


def measure(name, sampler, setting, ddpm, model, x_T, seed):
    """Return evaluations per image, and x_0 clipped to [-1, 1], of one sampler at one setting."""
    generator = torch.Generator(x_T.device).manual_seed(seed)
    counted, parts, calls = Counted(model), [], []
    for part in x_T.split(batch_size(x_T.shape[-1])):
        before = counted.calls
        parts.append(sampler(ddpm, counted, part, setting, generator))
        calls.append(counted.calls - before)
    return max(calls), torch.cat(parts).clamp(-1, 1)


def draw_figure(rows, real):
    """Draw both numbers against evaluations; rows: {name: [(evaluations, recognised, distance)]}"""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, points) in enumerate(rows.items()):
        evaluations, recognised, distance = zip(*points, strict=True)
        style = {"marker": "osv^D"[i % 5], "markersize": 4, "label": name}
        left.semilogx(evaluations, recognised, **style)
        right.loglog(evaluations, distance, **style)
    for axes, value, label in ((left, real[0], "share recognised"),
                               (right, real[1], "Frechet distance")):
        axes.axhline(value, color="grey", linestyle=":", label="as many real digits")
        axes.set(xlabel="evaluations of the network", ylabel=label)
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def main(argv=None):
    parser = arguments(__doc__)
    parser.add_argument("--learned", type=Path, help="a checkpoint of papers/improved_ddpm.py")
    parser.add_argument("--n", type=integer(2), default=128, help="samples of each (128)")
    parser.add_argument("--out", type=file_name(".png"), default=Path("compare.png"),
                        help="the figure, a PNG (compare.png)")
    args = parser.parse_args(argv)
    with one_line_errors("compare.py"):
        run(args)


def run(args):
    device, checkpoint = pick_device(args.device), args.checkpoint or newest_checkpoint()
    config, ddpm, model = load(checkpoint, device)
    check_readable(config, checkpoint)
    H, T = config["image_size"], ddpm.T
    models = dict.fromkeys(SAMPLERS, model)
    samplers = {name: (sampler, sorted({min(setting, T) for setting in settings}))
                if settings is not TOLERANCES else (sampler, settings)
                for name, (sampler, settings) in SAMPLERS.items()}
    samplers["Algorithm 2"][1].append(T)               # the paper's own
    if args.learned:
        _, other, models["learned variance"] = improved_ddpm.load_learned(args.learned, device)
        if not torch.equal(other.beta, ddpm.beta):
            raise ValueError(f"{args.learned} and {checkpoint} have other chains")
        samplers["learned variance"] = improved_ddpm.sample, list(BUDGETS)
    check_writable(args.out)
    print(f"{args.n} samples each of {checkpoint}, T = {T}, on {device}, seed {args.seed}")
    net, _ = train_classifier(H, device)
    held_out = data.to_model(data.load("digits", H, split="test")[0]).to(device)
    reference = net[:-2](held_out[args.n:]).detach()
    real = judge(net, held_out[:args.n], reference)
    print(f"{'':24}{'evaluations':>12}{'recognised':>12}{'Frechet':>10}\n"
          f"{'as many real digits':24}{'':12}{real[0]:12.1%}{real[1]:10.2f}")
    x_T = torch.randn(args.n, 1, H, H, generator=torch.Generator(device).manual_seed(args.seed),
                      device=device)
    rows = {name: [] for name in samplers}
    for name, (sampler, settings) in samplers.items():
        for setting in settings:
            evaluations, x = measure(name, sampler, setting, ddpm, models[name], x_T, args.seed)
            rows[name].append((evaluations, *judge(net, x, reference)))
            print(f"{name:24}{evaluations:12}{rows[name][-1][1]:12.1%}{rows[name][-1][2]:10.2f}",
                  flush=True)
    save_figure(draw_figure(rows, real), args.out)
    full = rows["Algorithm 2"][-1][2]
    evaluations, best, name = min((n, distance, name) for name, points in rows.items()
                                  for n, _, distance in points if distance <= 1.1 * full)
    print(f"\nthe fewest evaluations within a tenth of the {full:.2f} that all {T} steps of "
          f"Algorithm 2 have: {evaluations}, by {name}, at a distance of {best:.2f}\n"
          f"wrote {args.out}")


if __name__ == "__main__":
    main()
