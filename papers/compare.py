"""Every sampler of papers/, from the same noise: quality against evaluations of the network.

    python -m papers.compare [--checkpoint F] [--learned F] [--n 64] [--seeds 5]

On a checkpoint of rendered digits.  Two numbers say how good samples are.  One is the share that
the reader recognises (papers/kit/judge.py).  The other is the Frechet distance (Heusel et al. 2017,
"GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", sec. 3) between
samples and held-out digits in the 64 activations of that reader: it also sees what is missing or
too alike.  It grows as n falls, for all alike; the same n of real digits stands beside it.

Each number is a mean over seeds of the noise, +- the standard deviation over them; all samplers
have the same seeds, so that what two of them have in common drops out of their difference.

Compare like with like.  "clipped" is x_0_hat, to [-1, 1]; the others start at the time `horizon`
(954 of 1000, cosine) or take steps that need no x_0_hat.  A short chain has room for two variances,
and PNDM stands beside DDIM with the same start and nothing clipped.

Flow matching and consistency models have smaller networks of their own, trained for less time.
With --learned, a checkpoint of papers/improved_ddpm.py, there are chains with a learned variance.
"""
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import data
from ddpm import DDPM
from papers import (consistency, ddim, dpm_solver, edm, flow_matching, improved_ddpm, ncsn, pndm,
                    score_sde)
from papers.kit.analytic import ve_sigmas
from papers.kit.chain import first_noise, horizon, respace, subsequence
from papers.kit.judge import check_readable, features, frechet, load_reader, read
from papers.kit.program import finish, flags, program, start
from papers.kit.training import load_fit
from plumbing.cli import integer
from sample import SHIPPED, batch_size, load

FEW, BUDGETS = (1, 2, 5), (10, 20, 50)               # evaluations of the network
TOLERANCES = 0.3, 0.1, 0.03, 0.01                    # of the adaptive method, which has no budget


def by_chain(variance):
    """Algorithm 2 of Ho et al. 2020 on a chain of fewer steps, sigma^2 = beta or beta_tilde."""
    def sample(ddpm, model, x_T, steps, generator):
        process = DDPM(ddpm.exact.beta[1:], variance).to(x_T.device)
        chain, model = respace(process, model, steps)
        *_, (_, x_0, _) = chain.reverse_process(model, x_T, generator=generator)
        return x_0
    return sample


def by_ddim(ddpm, model, x_T, steps, generator):
    """Song, Meng & Ermon 2020, eta = 0; eta = 1 would be the chain with beta_tilde."""
    return ddim.sample(ddpm, model, x_T, subsequence(ddpm.T, steps))


def by_ddim_like_pndm(ddpm, model, x_T, steps, generator):
    """Its ODE from where PNDM starts, and as PNDM solves it: nothing is clipped."""
    end = horizon(ddpm) // 2 * 2
    return ddim.sample(ddpm, model, x_T, subsequence(end, min(steps, end)), clip=False)


def by_pndm(ddpm, model, x_T, budget, generator):
    """Liu et al. 2022; of the steps three cost four evaluations each."""
    end = horizon(ddpm) // 2 * 2                     # nothing is clipped: it starts a little later
    return pndm.sample(ddpm, model, x_T, pndm.even(end, min(budget - 9, end // 2)))


def by_dpm_solver(choose):
    """Lu et al. 2022, 2M, at the times that choose(ddpm, end, steps) returns."""
    def sample(ddpm, model, x_T, budget, generator):
        end = horizon(ddpm)
        return dpm_solver.sample(ddpm, model, x_T, choose(ddpm, end, min(budget, end)))
    return sample


def by_edm(ddpm, model, x_T, budget, generator):
    """Karras et al. 2022: Heun's method, two evaluations a step, and one in the last."""
    return edm.METHODS["Heun, rho = 7"](ddpm, model, x_T, horizon(ddpm), (budget - 1) // 2 * 2 + 1)


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
    "Algorithm 2, beta": (by_chain("beta"), (*BUDGETS, math.inf)),             # all T steps
    "Algorithm 2, beta_tilde": (by_chain("beta_tilde"), BUDGETS),
    "DDIM, clipped": (by_ddim, BUDGETS),
    "DDIM, like PNDM": (by_ddim_like_pndm, FEW + BUDGETS),
    "PNDM": (by_pndm, (13, *BUDGETS[1:])),
    "DPM-Solver++, even in t": (by_dpm_solver(lambda _, *what: subsequence(*what)), FEW + BUDGETS),
    "DPM-Solver++, in lambda": (by_dpm_solver(dpm_solver.even), BUDGETS),
    "EDM, Heun": (by_edm, BUDGETS),
    "Euler-Maruyama": (by_sde(score_sde.euler_maruyama, 1), BUDGETS),
    "predictor-corrector": (by_sde(score_sde.predictor_corrector, 2), BUDGETS),
    "ODE, Heun": (by_sde(score_sde.heun, 2), BUDGETS),
    "ODE, adaptive": (by_adaptive, TOLERANCES),
    "annealed Langevin": (by_langevin, BUDGETS[1:]),           # ten levels, and one to end
}


def with_networks_of_their_own(device):
    """Return tasks as `run` has them, for what shipped networks beside the checkpoint do in few."""
    def by_flow(ddpm, model, x_T, steps, generator):
        """Lipman et al. 2022; Liu et al. 2022: Euler's method from t = 1 to 0."""
        times = np.linspace(1, 0, steps + 1).tolist()
        return flow_matching.euler(flow_matching.velocity(model), x_T, times)[0]

    def by_consistency(ddpm, model, x_T, steps, generator):
        """Song et al. 2023, Algorithm 1, on the chain of the network it was distilled from."""
        f, times = consistency.consistent(chain, model), subsequence(horizon(chain), steps)
        return consistency.sample(chain, f, x_T, times, generator)

    _, chain, _ = load(SHIPPED, device)
    flows, models = (load_fit(paper.SHIPPED, device, paper.network)[1]
                     for paper in (flow_matching, consistency))
    return [*(("Euler, " + name, by_flow, each, FEW + BUDGETS) for name, each in flows.items()),
            *(("consistency, " + name, by_consistency, each, FEW) for name, each in models.items())]


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


def judge(net, x, reference):
    """Return (share recognised, Frechet distance to the reference features) of images x."""
    return read(net, x)[0].float().mean().item(), frechet(features(net, x), reference)


def told_apart(values, best):
    """Is the mean of values, one for each seed, above that of best by 3 of its standard errors?"""
    difference = torch.tensor(values) - torch.tensor(best)
    return (difference.mean() > 3 * difference.std() / len(values) ** 0.5).item()


def write(label, evaluations, pairs):
    """Write a line of the table; pairs: (share recognised, distance) of each seed."""
    pairs = torch.tensor(pairs)
    (share, distance), (s, d) = pairs.mean(0), pairs.std(0)
    print(f"{label:24}{evaluations:>12}{share:12.1%} +- {s:5.1%}{distance:10.1f} +- {d:4.1f}",
          flush=True)


def draw_figure(rows, real):
    """Draw both numbers against evaluations; rows: {name: [(evaluations, pairs)]}, see `write`."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    labels = "share recognised", "Frechet distance"
    for k, (axes, label) in enumerate(zip(figure.subplots(1, 2), labels, strict=True)):
        for i, (name, points) in enumerate(rows.items()):
            spread = torch.tensor([[pair[k] for pair in pairs] for _, pairs in points])
            axes.errorbar([n for n, _ in points], spread.mean(1), spread.std(1), label=name,
                          marker="osv^D"[i % 5], linestyle=("-", "--")[i // 10], markersize=4,
                          fillstyle=("full", "none")[i // 10], capsize=2, linewidth=1)
        axes.axhline(torch.tensor(real).mean(0)[k], color="grey", linestyle=":",
                     label="as many real digits")
        axes.set(xlabel="evaluations of the network", ylabel=label, xscale="log",
                 yscale=("linear", "log")[k])
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    check_readable(config, checkpoint)
    H, T, seeds = config["image_size"], ddpm.T, range(args.seed, args.seed + args.seeds)
    tasks = [(name, sampler, model, settings) for name, (sampler, settings) in SAMPLERS.items()]
    if H == flow_matching.CONFIG["image_size"]:
        tasks += with_networks_of_their_own(device)
    if args.learned:
        *_, other, learned = start(args, load=improved_ddpm.load_learned, checkpoint=args.learned)
        if not torch.equal(other.beta, ddpm.beta):
            raise ValueError(f"{args.learned} and {checkpoint} have other chains")
        tasks.append(("learned variance", improved_ddpm.sample, learned, BUDGETS))
    print(f"{args.n} samples each of {checkpoint}, T = {T}, on {device}, seeds {list(seeds)}")
    net = load_reader(device)
    held_out = data.to_model(data.load("digits", H, split="test")[0]).to(device)
    parts = held_out[:args.n * args.seeds].split(args.n)
    reference = features(net, held_out[args.n * args.seeds:])
    real = [judge(net, part, reference) for part in parts]
    print(f"{'':24}{'evaluations':>12}{'recognised':>21}{'Frechet':>18}")
    write("as many real digits", "", real)
    rows, middle = {}, {}
    for name, sampler, model, settings in tasks:
        for setting in dict.fromkeys(min(setting, T) for setting in settings):
            found = []
            for seed in seeds:
                x_T, _ = first_noise(seed, (args.n, 1, H, H), device)
                evaluations, x = measure(sampler, setting, ddpm, model, x_T, seed)
                found.append(judge(net, x, reference))
            rows.setdefault(name, []).append((evaluations, found))
            if setting == BUDGETS[1]:
                middle[name] = [distance for _, distance in found]
            write(name, evaluations, found)
    best = min(middle, key=lambda name: sum(middle[name]))
    alike = [name for name in middle if name != best and not told_apart(middle[name], middle[best])]
    finish(draw_figure(rows, real), args.out,
           f"\nwith {BUDGETS[1]} evaluations at most the least distance is that of {best}; within "
           f"3 standard errors of it: {'; '.join(alike) or 'none'}")


def main(argv=None):
    parser = flags(__doc__, "compare.png", 64, least=2, help="samples of each, for each seed")
    parser.add_argument("--seeds", type=integer(2), default=5, help="of the noise, from --seed on")
    parser.add_argument("--learned", type=Path, help="a checkpoint of papers/improved_ddpm.py")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
