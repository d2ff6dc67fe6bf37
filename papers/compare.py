"""Every sampler of papers/, from the same noise: quality against evaluations of the network.

    python -m papers.compare [--checkpoint F] [--learned F] [--n 128]

On a checkpoint of rendered digits.  Two numbers say how good samples are.  One is the share that a
small classifier, trained on the fly, can read (papers/kit/judge.py).  The other is the Frechet
distance (Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium", sec. 3) between samples and held-out digits in the 128 activations of that classifier:
it also sees what is missing or too alike.  It grows as n falls, for all alike; the same n of real
digits stands beside it.

With --learned, a checkpoint of papers/improved_ddpm.py, there are chains with a learned variance.
"""
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

import data
from papers import ddim, improved_ddpm, ncsn, pndm, score_sde
from papers.kit.analytic import ve_sigmas
from papers.kit.chain import first_noise, horizon, respace, subsequence
from papers.kit.judge import check_readable, frechet, read, train_classifier
from papers.kit.program import finish, flags, program, start
from sample import batch_size

BUDGETS = 10, 20, 50, 100                            # evaluations of the network
TOLERANCES = 0.3, 0.1, 0.03, 0.01                    # of the adaptive method, which has no budget


def ancestral(ddpm, model, x_T, steps, generator):
    """Algorithm 2 of Ho et al. 2020 on a chain of fewer steps."""
    chain, model = respace(ddpm, model, steps)
    *_, (_, x_0, _) = chain.reverse_process(model, x_T, generator=generator)
    return x_0


def by_ddim(eta):
    """Song, Meng & Ermon 2020."""
    def sample(ddpm, model, x_T, steps, generator):
        return ddim.sample(ddpm, model, x_T, subsequence(ddpm.T, steps), eta, generator=generator)
    return sample


def by_pndm(ddpm, model, x_T, budget, generator):
    """Liu et al. 2022; of the steps three cost four evaluations each."""
    end = horizon(ddpm) // 2 * 2                     # nothing is clipped: it starts a little later
    return pndm.sample(ddpm, model, x_T, pndm.even(end, min(budget - 9, end // 2)))


def by_sde(sampler, each):
    """Song et al. 2021; `each` evaluations a step, and one at the end."""
    def sample(ddpm, model, x_T, budget, generator):
        random = {} if sampler is score_sde.heun else {"generator": generator}
        return sampler(ddpm, model, x_T, (budget - 1) // each, **random)
    return sample


def by_adaptive(ddpm, model, x_T, tolerance, generator):
    """Song et al. 2021, the ODE."""
    return score_sde.adaptive(ddpm, model, x_T, tolerance, tolerance)[0]


def by_langevin(ddpm, model, x_T, budget, generator):
    """Song & Ermon 2019, with the network of a DDPM, and one step of denoising at the end."""
    times = ncsn.image_times(ddpm)
    sigmas, t = ve_sigmas(ddpm)[times], times[-1].item()
    n_steps = max(1, (budget - 1) // len(sigmas))
    x = ncsn.langevin(ddpm, model, sigmas[0] * x_T, sigmas, n_steps, generator)
    return ddpm.estimate_x_0(model, ddpm.alpha_bar[t].sqrt() * x, t)


SAMPLERS = {                                         # name: (sampler, its settings)
    "Algorithm 2": (ancestral, (*BUDGETS, math.inf)),          # all T steps: the paper's own
    "DDIM, eta = 1": (by_ddim(1.0), BUDGETS),
    "DDIM, eta = 0": (by_ddim(0.0), BUDGETS),
    "PNDM": (by_pndm, (13, *BUDGETS[1:])),
    "Euler-Maruyama": (by_sde(score_sde.euler_maruyama, 1), BUDGETS),
    "predictor-corrector": (by_sde(score_sde.predictor_corrector, 2), BUDGETS),
    "ODE, Heun": (by_sde(score_sde.heun, 2), BUDGETS),
    "ODE, adaptive": (by_adaptive, TOLERANCES),
    "annealed Langevin": (by_langevin, BUDGETS),
}


def measure(sampler, setting, ddpm, model, x_T, seed):
    """Return how often a sampler asks the model for each image, and its x_0, within [-1, 1]."""
    generator, calls, parts = torch.Generator(x_T.device).manual_seed(seed), [], []

    def asked(*args, **kwargs):
        calls[-1] += 1
        return model(*args, **kwargs)

    for part in x_T.split(batch_size(x_T.shape[-1])):
        calls.append(0)
        parts.append(sampler(ddpm, asked, part, setting, generator))
    return max(calls), torch.cat(parts).clamp(-1, 1)


@torch.no_grad()
def judge(net, x, reference):
    """Return (share recognised, Frechet distance to the reference features) of images x."""
    return read(net, x)[0].float().mean().item(), frechet(net[:-2](x), reference)


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


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    check_readable(config, checkpoint)
    H, T = config["image_size"], ddpm.T
    tasks = [(name, sampler, model, settings) for name, (sampler, settings) in SAMPLERS.items()]
    if args.learned:
        *_, other, learned = start(args, load=improved_ddpm.load_learned, checkpoint=args.learned)
        if not torch.equal(other.beta, ddpm.beta):
            raise ValueError(f"{args.learned} and {checkpoint} have other chains")
        tasks.append(("learned variance", improved_ddpm.sample, learned, BUDGETS))
    print(f"{args.n} samples each of {checkpoint}, T = {T}, on {device}, seed {args.seed}")
    net, _ = train_classifier(H, device)
    held_out = data.to_model(data.load("digits", H, split="test")[0]).to(device)
    reference = net[:-2](held_out[args.n:]).detach()
    real = judge(net, held_out[:args.n], reference)
    print(f"{'':24}{'evaluations':>12}{'recognised':>12}{'Frechet':>10}\n"
          f"{'as many real digits':24}{'':12}{real[0]:12.1%}{real[1]:10.2f}")
    (x_T, _), rows = first_noise(args.seed, (args.n, 1, H, H), device), {}
    for name, sampler, model, settings in tasks:
        for setting in dict.fromkeys(min(setting, T) for setting in settings):
            evaluations, x = measure(sampler, setting, ddpm, model, x_T, args.seed)
            recognised, distance = judge(net, x, reference)
            rows.setdefault(name, []).append((evaluations, recognised, distance))
            print(f"{name:24}{evaluations:12}{recognised:12.1%}{distance:10.2f}", flush=True)
    full = rows["Algorithm 2"][-1][2]
    evaluations, best, name = min((n, distance, name) for name, points in rows.items()
                                  for n, _, distance in points if distance <= 1.1 * full)
    finish(draw_figure(rows, real), args.out,
           f"\nthe fewest evaluations within a tenth of the {full:.2f} that all {T} steps of "
           f"Algorithm 2 have: {evaluations}, by {name}, at a distance of {best:.2f}")


def main(argv=None):
    parser = flags(__doc__, "compare.png", 128, least=2, help="samples of each")
    parser.add_argument("--learned", type=Path, help="a checkpoint of papers/improved_ddpm.py")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
