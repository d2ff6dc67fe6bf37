"""Parameterisations: eps, x_0, v and the score say the same, until alpha_bar_T is 0.

Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models"
(arXiv:2202.00512), sec. 4, appendix D; Hang et al. 2023, "Efficient Diffusion Training via Min-SNR
Weighting Strategy" (arXiv:2303.09556), sec. 3.4; Lin et al. 2023, "Common Diffusion Noise Schedules
and Sample Steps are Flawed" (arXiv:2305.08891), sec. 3.1 and 3.2, Algorithm 1.

    python -m papers.parameterisations [--checkpoint F] [--n 64]

Given x_t and t, each of the four gives the others.  What tells them apart is what an error of one
costs in the others, and so how its square has to be weighted to be the same loss.  With SNR_t =
alpha_bar_t / (1 - alpha_bar_t), min-SNR weights that of x_0_hat by min(SNR, 5), that of eps_theta
by min(SNR, 5) / SNR, that of v_theta by min(SNR, 5) / (SNR + 1).  Programs have had max for min.

Most chains end at alpha_bar_T > 0 and are sampled from pure noise.  Pictures of 64 x 64 pixels of
one grey level show what that costs: their mean is still seen where no pixel is.  The perfect
network is known, and yet its samples are too grey.  Lin et al. end the chain at alpha_bar_T = 0.
There eps_theta = x_T is perfect and says nothing, x_0_hat of Eq. 15 is 0 / 0; and v is -x_0.

`DDPM` refuses such a chain, as Eq. 15 divides by alpha_bar_T, and none is needed.  As beta_T is 1,
x_T has forgotten x_{T-1}: the first step back draws x_{T-1} from q(x_{T-1} | x_0), x_0 = -v_theta,
and the chain of the other T - 1 steps, which is a `DDPM`, does the rest.  (At T min-SNR weights v
by 0: who takes both never trains this step.)
"""
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

import data
from ddpm import DDPM, at
from papers.kit.analytic import eps_from_x_0, score_from_eps
from papers.kit.chain import ask, first_noise, noise_like, respace, subsequence
from papers.kit.program import finish, flags, held_out, program, show_rows, shuffled, start
from plumbing.cli import track

GAMMA, SEEDS, OFF = 5, 3, 0.01                       # gamma is the paper's
SIZE, LEVELS = 64, torch.linspace(-1, 1, 21)         # of the grey pictures
# Stable Diffusion's, which end at alpha_bar_T = 0.0047.
BETA = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2


def v_of(ddpm, x_0, t, eps):
    """Return v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0.  Salimans & Ho 2022, sec. 4.

    (x_t, v) is (x_0, eps) turned by the angle whose cosine is sqrt(alpha_bar_t), and v is dx_t by
    that angle.  All are (B, ...), t is (B,) int64 in 0..T or one int for all.
    """
    return (at(ddpm.alpha_bar, t, x_0).sqrt() * eps
            - at(ddpm.one_minus_alpha_bar, t, x_0).sqrt() * x_0)


def eps_from_v(ddpm, x_t, t, v):
    """Turn back: eps = sqrt(1 - alpha_bar_t) x_t + sqrt(alpha_bar_t) v; nothing is divided."""
    return (at(ddpm.one_minus_alpha_bar, t, x_t).sqrt() * x_t
            + at(ddpm.alpha_bar, t, x_t).sqrt() * v)


def ways(ddpm, x_t, t, eps):
    """Return {name: (B, ...)}: what eps, in x_t at the times t, says in each of the four ways."""
    x_0 = ddpm.predict_x_0(x_t, t, eps)
    return {"eps": eps, "x_0": x_0, "v": v_of(ddpm, x_0, t, eps),
            "score": score_from_eps(ddpm, eps, t)}


def min_snr(ddpm, clamp=torch.clamp_max):
    """Return weights of squared errors, {name: (T + 1,)}; that of index 0 is of no use.

    Hang et al. 2023, sec. 3.4.  torch.clamp_min for `clamp` is the mistake.
    """
    SNR = ddpm.alpha_bar / ddpm.one_minus_alpha_bar
    clamped = clamp(SNR, GAMMA)
    return {"eps": clamped / SNR, "x_0": clamped, "v": clamped / (SNR + 1)}


def shares(ddpm, model, x_0, generator):
    """Return {loss: (4,)}, the share of each quarter of t in five losses of eps_theta.

    On the CPU, the DDPM in float64.  x_0, (B, C, H, W) float32, is seen at 100 times, or at all.
    """
    times, squares = torch.tensor(subsequence(ddpm.T, min(100, ddpm.T))), {}
    for t in times.tolist():
        eps = noise_like(x_0, generator).double()
        x_t = ddpm.q_sample(x_0.double(), t, eps)
        said = ways(ddpm, x_t, t, ask(model, x_t.float(), t).cpu().double())
        true = {"eps": eps, "x_0": x_0, "v": v_of(ddpm, x_0, t, eps)}
        for name in true:
            squares.setdefault(name, []).append((said[name] - true[name]).square().mean())
    squares = {name: torch.stack(each) for name, each in squares.items()}
    losses = {"L_simple": squares["eps"]} | {
        f"min-SNR, {name}": weight[times] * squares[name]
        for name, weight in min_snr(ddpm).items()} | {
        "max for min": min_snr(ddpm, torch.clamp_min)["eps"][times] * squares["eps"]}
    return {name: torch.stack([part.sum() for part in each.tensor_split(4)]) / each.sum()
            for name, each in losses.items()}


# ---- alpha_bar_T = 0 ----

def rescale(beta):
    """Return beta, (T,), with alpha_bar_T = 0: the last one is 1.  Lin et al., Algorithm 1.

    sqrt(alpha_bar_t) is moved down by its last value, and stretched so that its first stays.
    """
    root = (1 - beta).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = torch.cat([root.new_ones(1), root ** 2])
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def walk_back(ddpm, model, x_T, generator=None):
    """Run Algorithm 2 of Ho et al. 2020 from x_T, in at most 300 steps; return x_0."""
    chain, eps_theta = respace(ddpm, model, min(300, ddpm.T))
    *_, (_, x_0, _) = chain.reverse_process(eps_theta, x_T, generator=generator)
    return x_0


def zero_terminal(chain, model, x_T, generator=None):
    """Draw x_0 where alpha_bar_T = 0.  Lin et al. 2023, sec. 3.2 and 3.3.

        x_{T-1} ~ N(sqrt(alpha_bar_{T-1}) x_0_hat, (1 - alpha_bar_{T-1}) I),   x_0_hat = -v_theta

    and from there on Algorithm 2, with eps_theta made of v_theta.

    The chain is that of the first T - 1 beta of `rescale`.  The model is called as model(x_t, t),
    t (B,) int64 in 1..T, and returns v_theta.
    """
    x_0_hat = -ask(model, x_T, chain.T + 1).clamp(-1, 1)
    x_t = chain.q_sample(x_0_hat, chain.T, noise_like(x_T, generator))
    return walk_back(chain, lambda x_t, t: eps_from_v(chain, x_t, t, model(x_t, t)), x_t, generator)


def grey(ddpm, x_t, t):
    """Return the perfect x_0_hat, E[x_0 | x_t], of pictures of one level, each of LEVELS as likely.

    All that x_t says of the level is its mean, N(sqrt(alpha_bar_t) level, (1 - alpha_bar_t) / D).
    """
    mean = x_t.flatten(1).mean(1, keepdim=True)                              # (B, 1)
    a, b = (at(c, t, mean) for c in (ddpm.alpha_bar, ddpm.one_minus_alpha_bar))
    log_p = -x_t[0].numel() * (mean - a.sqrt() * LEVELS) ** 2 / (2 * b)      # (B, levels)
    return (log_p.softmax(1) @ LEVELS).reshape(-1, *[1] * (x_t.dim() - 1)).expand_as(x_t)


def draw_grey(n, seed):
    """Draw n pictures of one level, in five ways from the same x_T; return {label: x_0}."""
    usual, chain = DDPM(BETA), DDPM(rescale(BETA)[:-1])
    whole = SimpleNamespace(                                     # what no DDPM is, up to T
        alpha_bar=F.pad(chain.alpha_bar, (0, 1)),
        one_minus_alpha_bar=F.pad(chain.one_minus_alpha_bar, (0, 1), value=1.0))

    def eps(ddpm, off=0):                            # of the perfect network, or one a little off
        return lambda x_t, t: eps_from_x_0(ddpm, x_t, t, grey(ddpm, x_t, t)) + off

    def v(off=0):
        return lambda x_t, t: v_of(whole, grey(whole, x_t, t), t, eps(whole)(x_t, t)) + off

    x_T, g = first_noise(seed, (n, 1, SIZE, SIZE), "cpu")
    x_0 = LEVELS[torch.randint(len(LEVELS), (n, 1, 1, 1), generator=g)]
    return {"usual chain": walk_back(usual, eps(usual), x_T, g),
            "from q(x_T)": walk_back(usual, eps(usual), usual.q_sample(x_0, usual.T, x_T), g),
            "zero, v": zero_terminal(chain, v(), x_T, g),
            f"zero, v + {OFF}": zero_terminal(chain, v(OFF), x_T, g),
            f"zero, eps + {OFF}": walk_back(chain, eps(chain, OFF), x_T, g)}     # from T - 1


# ---- the picture ----

def draw_figure(found, drawn):
    """Draw what errors cost, the shares of `shares`, the means of {label: images}, and some."""
    figure = Figure(figsize=(17, 4.4), layout="constrained")
    cost, bars, levels, right = figure.subplots(1, 4, width_ratios=(1, 1.1, 1.1, 1.2))
    for name, beta, style in ("usual", BETA, "-"), ("zero", rescale(BETA)[:-1], "--"):
        a, b = (c[1:].sqrt() for c in (DDPM(beta).alpha_bar, DDPM(beta).one_minus_alpha_bar))
        cost.semilogy(b / a, f"C0{style}", label=f"of eps, {name} chain")
        cost.semilogy(b, f"C1{style}", label=f"of v, {name} chain")
    cost.set(xlabel="t", title="error of x_0_hat for an error of 1")
    for k, name in enumerate(name for name in found if name not in drawn):
        bars.bar([q + 0.16 * (k - 2) for q in range(4)], found[name].mean(0), 0.15, label=name)
    bars.set(xticks=range(4), xticklabels=["first", "second", "third", "last"],
             xlabel="quarter of t", title="share of the loss, digits")
    levels.plot([-1, 1], [0, 1], "k:", label="data")
    for name, x in drawn.items():
        levels.plot(x.mean((1, 2, 3)).sort()[0], torch.linspace(0, 1, len(x)), label=name)
    levels.set(xlabel="mean of a picture", ylabel="share of pictures that are darker",
               title="pictures of one grey level, one seed")
    for axes in (cost, bars, levels):
        axes.legend(fontsize=8)
    show_rows(right, drawn, "some of them", most=8)
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    x, seeds, found = held_out(config)[0], range(args.seed, args.seed + SEEDS), {}
    print(f"losses of {checkpoint}, {args.n} grey pictures each, seeds {list(seeds)}")
    for seed in track(seeds, "seeds"):
        x_0, drawn = data.to_model(x[shuffled(len(x), seed)[:8]]), draw_grey(args.n, seed)
        means = {name: x.mean((1, 2, 3)) for name, x in drawn.items()}
        for name, each in {
                **shares(ddpm.cpu().double(), lambda x_t, t: model(x_t.to(device), t.to(device)),
                         x_0, torch.Generator().manual_seed(seed)),
                **{name: torch.stack([x.mean(), x.std()]) for name, x in means.items()}}.items():
            found.setdefault(name, []).append(each)
    found = {name: torch.stack(each) for name, each in found.items()}        # (seeds, 4 or 2)
    print("of losses the share of each quarter of t; of grey pictures mean and deviation")
    for name, each in found.items():
        print(f"{name:18}" + "  ".join(map("{:6.3f} +- {:.3f}".format, each.mean(0), each.std(0))))
    finish(draw_figure(found, drawn), args.out,
           f"grey pictures have a deviation of {LEVELS.std(correction=0):.3f} in the data, of "
           + ", ".join(f"{found[name][:, 1].mean():.3f} ({name})" for name in drawn))


def main(argv=None):
    program(flags(__doc__, "parameterisations.png", 64, least=2,
                  help="grey pictures of each kind, for each seed"), run, argv)


if __name__ == "__main__":
    main()
