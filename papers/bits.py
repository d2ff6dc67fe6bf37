"""Words instead of pixels: analog bits, which stay Gaussian, and masked diffusion, which does not.

Chen, Zhang & Hinton 2022, "Analog Bits: Generating Discrete Data using Diffusion Models with
Self-Conditioning" (arXiv:2208.04202), Algorithms 1, 2; Austin et al. 2021, "Structured Denoising
Diffusion Models in Discrete State-Spaces" (arXiv:2107.03006), sec. 3.1; Sahoo et al. 2024, "Simple
and Effective Masked Diffusion Language Models" (arXiv:2406.07524), sec. 3.

    python -m papers.bits [--checkpoint F] [--steps 3000]

A sentence has three words, a, b and (a + b) mod 16: two are free, one follows.  Analog bits write a
word as four numbers of -1 and 1, add Gaussian noise, and end in signs.  Masked diffusion hides
words and shows them again, those of one step independently.  The picture: how many sentences are
valid after S steps.  Both ideal networks are known, and the masked one, of K words, has a formula:
if the last word shown is alone in its step (probability u) it follows, else it is chance.

    valid = u + (1 - u) / K,   u = 3 sum_k (1 / S) ((k - 1) / S)^2 = (S - 1)(2 S - 1) / (2 S^2)

Shown one by one, three steps would do.  Beside them stand trained networks, of bits also with
self-conditioning: f sees its last x_0_hat.  An ideal f learns nothing from that, x_t has it all.
gamma(t) of Chen et al. is alpha_bar_t of the checkpoint, whose network is not asked; asymmetric
time intervals are left out.
"""
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from papers.ddim import jumps
from papers.kit.analytic import Mixture, eps_from_x_0
from papers.kit.chain import subsequence
from papers.kit.program import finish, flags, program, start
from plumbing.cli import integer, track
from unet import timestep_embedding

K, N, SEEDS, STEPS = 16, 4096, 3, (1, 2, 3, 5, 10, 20, 50)
WIDTH, BATCH, RATE, GAIN = 128, 256, 4e-3, 4.0       # without GAIN words stay at chance for long
SIGN, PLACES = torch.tensor([1, 1, -1]), torch.tensor([8, 4, 2, 1])
WORDS = torch.tensor([[a, b, (a + b) % K] for a in range(K) for b in range(K)])          # (256, 3)
CODES = 2.0 * (WORDS[:, :, None] & PLACES).bool().flatten(1) - 1             # (256, 12): -1 or 1
KINDS = {"bits, ideal": "C0o-", "bits, self-conditioned network": "C2s--",
         "bits, network": "C3^--", "masked, ideal": "C1o", "masked, network": "kx"}


def judge(words):
    """Return the valid share of sentences, (N, 3) int64, and how many the valid ones amount to.

    The latter is 1 / P(two of them are the same), whatever N is: 256 for the data.
    """
    valid = (SIGN * words).sum(1) % K == 0
    count = (K * words[valid, 0] + words[valid, 1]).bincount(minlength=K ** 2).double()
    n = count.sum()
    return valid.double().mean().item(), (n * (n - 1) / (count * (count - 1)).sum()).item()


def layers(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(),
                         nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs))


def fit(loss, x, net, model, steps, label):
    """Train net, the layers of model, by loss(model, x_0) on batches of x; return the model."""
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    for step in track(range(steps), f"{label}, steps"):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)          # ends at 0: no EMA
        optimizer.zero_grad()
        loss(model, x[torch.randint(len(x), (BATCH,))]).backward()
        optimizer.step()
    return model


# ---- analog bits ----

def ideal_bits(mixture, x_t, x_0_hat, t):
    """Return f(x_t, x_0_hat, t) = E[x_0 | x_t], (B, D), of a Mixture of codes, with stds = 0.

    It is their weighted mean, and does not look at x_0_hat.  Of one bit, 1 with probability p, it
    is tanh(sqrt(a) x_t / b + log(p / (1 - p)) / 2), where a = alpha_bar_t, b = 1 - a.
    """
    a = mixture.ddpm.exact.alpha_bar[t]
    return (mixture.log_parts(x_t, a, 1 - a)[0].softmax(1) @ mixture.means).to(x_t)


def bit_network(self_conditioned):
    """Return layers, and f(x_t, x_0_hat, t), which predicts x_0, (B, 12); 0 hides x_0_hat."""
    net = layers(24 + 32, 12)
    return net, lambda x_t, x_0_hat, t: net(torch.cat(
        [GAIN * x_t, GAIN * self_conditioned * x_0_hat, timestep_embedding(t, 32)], dim=1))


def bit_loss(ddpm, f, x_0):
    """Return E || f(x_t, x_0_hat, t) - x_0 ||^2, a mean over bits.  Chen et al. 2022, Algorithm 1.

    x_0_hat is 0; in half of the batch it is f(x_t, 0, t), with no gradient through it.
    """
    t, half, x_0_hat = ddpm.draw_t(len(x_0)), len(x_0) // 2, torch.zeros_like(x_0)
    x_t = ddpm.q_sample(x_0, t, torch.randn_like(x_0))
    with torch.no_grad():
        x_0_hat[:half] = f(x_t[:half], x_0_hat[:half], t[:half])
    return F.mse_loss(f(x_t, x_0_hat, t), x_0)


@torch.no_grad()
def generate(ddpm, f, n, steps, generator=None):
    """Draw n sentences by f(x_t, its last x_0_hat, t).  Chen et al. 2022, Algorithm 2, by DDIM."""
    x_t, x_0_hat = torch.randn(n, 12, generator=generator), torch.zeros(n, 12)
    for s, t in reversed(jumps(ddpm, subsequence(ddpm.T, steps))):
        x_0_hat = f(x_t, x_0_hat, torch.full((n,), t))
        x_t = ddpm.q_sample(x_0_hat, s, eps_from_x_0(ddpm, x_t, t, x_0_hat))     # eta = 0
    return ((x_t.reshape(n, 3, 4) > 0) * PLACES).sum(2)


# ---- masked diffusion ----

def closed_form(S, K=K):
    """Return the share of valid sentences after S steps of ideal masked diffusion, K values."""
    u = (S - 1) * (2 * S - 1) / (2 * S ** 2)
    return u + (1 - u) / K


def ideal_words(z, K=K):
    """Return log p of what each hidden word may be, (B, 3, K), for z, (B, 3) in 0..K, the mask."""
    rest = (SIGN * z * (z < K)).sum(1, keepdim=True)
    follows = F.one_hot(-SIGN * rest % K, K).double()
    return torch.where((z < K).sum(1)[:, None, None] == 2, follows, 1 / K).log()


def word_network():
    """Return layers, and log_p(z), as `ideal_words`, which is not told the time either."""
    net = layers(3 * (K + 1), 3 * K)
    return net, lambda z: net(GAIN * F.one_hot(z, K + 1).flatten(1)).view(-1, 3, K).log_softmax(2)


def mask_loss(log_p, words):
    """Return E_t[1 / t sum_{hidden words} -log p(word | z_t)], a bound on -log p(words), in nats.

    Sahoo et al. 2024, sec. 3, with alpha_t = 1 - t; the t of a batch are spread over (0, 1).
    """
    t = ((torch.arange(len(words)) + torch.rand(1)) / len(words))[:, None]
    hidden = torch.rand(words.shape) < t
    right = log_p(torch.where(hidden, K, words)).gather(2, words[:, :, None])[:, :, 0]
    return -torch.where(hidden, right / t, 0).sum(1).mean()


def reverse(p, z, t):
    """Return p(z_{t-1} | z_t), (B, 3, K + 1), for p, (B, 3, K); t in 1..S.  Sahoo et al., sec. 3.

        ((1 - alpha_{t-1}) mask + (alpha_{t-1} - alpha_t) p) / (1 - alpha_t),   z_t if that is shown

    alpha_t = 1 - t / S (beta_t = 1 / (S - t + 1) of Austin et al.): a hidden word is shown with
    probability 1 / t.
    """
    mask = p.shape[2]
    hidden = torch.cat([p / t, torch.full_like(p[:, :, :1], 1 - 1 / t)], dim=2)
    return torch.where(z[:, :, None] == mask, hidden, F.one_hot(z, mask + 1))


@torch.no_grad()
def unmask(log_p, n, steps, generator=None):
    """Draw n sentences, (n, 3) int64, by log_p(z) in S steps, from none of their words."""
    z = torch.full((n, 3), K)
    for t in range(steps, 0, -1):
        p = reverse(log_p(z).exp(), z, t).flatten(0, 1)
        z = torch.multinomial(p, 1, generator=generator).view(n, 3)
    return z


# ---- the picture ----

def compare(ddpm, tried, steps, seed):
    """Train the networks, draw N of each of KINDS; return `judge`, (KINDS, tried, 2, SEEDS)."""
    found = torch.zeros(len(KINDS), len(tried), 2, SEEDS)
    for k, s in enumerate(range(seed, seed + SEEDS)):
        torch.manual_seed(s)
        bits = [partial(ideal_bits, Mixture(ddpm, CODES)), *(
            fit(partial(bit_loss, ddpm), CODES, *bit_network(on), steps, f"seed {s}, bits")
            for on in (1, 0))]
        words = ideal_words, fit(mask_loss, WORDS, *word_network(), steps, f"seed {s}, masked")
        draws = [partial(generate, ddpm, f) for f in bits] + [partial(unmask, p) for p in words]
        for (j, draw), (i, S) in product(enumerate(draws), enumerate(tried)):
            found[j, i, :, k] = torch.tensor(judge(draw(N, S, torch.Generator().manual_seed(s))))
    return found


def draw_figure(found, tried):
    """Draw the valid shares that `compare` found, and the closed form."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes, S = figure.subplots(), torch.arange(1, tried[-1] + 1)
    axes.plot(S, 100 * closed_form(S), "C1", lw=1, label="masked, closed form")
    for (kind, style), valid in zip(KINDS.items(), 100 * found[:, :, 0], strict=True):
        axes.errorbar(tried, valid.mean(1), valid.std(1), fmt=style, label=kind)
    axes.set(xscale="log", xlabel="steps S", ylabel=f"valid of {N} sentences, %; {SEEDS} seeds")
    axes.set_xticks(tried, tried)
    axes.legend()
    return figure


def run(args):
    ddpm, threads = start(args)[3].cpu(), torch.get_num_threads()
    torch.set_num_threads(1)                         # layers so small lose time with more
    tried = [S for S in STEPS if S <= ddpm.T]
    try:
        found = compare(ddpm, tried, args.steps, args.seed)
    finally:
        torch.set_num_threads(threads)
    rows = [f"after {S} steps: {100 * closed_form(S):.1f}% (closed form), " + ", ".join(
        f"{100 * valid.mean():.1f} +- {100 * valid.std():.1f}% ({kind}: {many.mean():.0f})"
        for kind, (valid, many) in zip(KINDS, each, strict=True))
        for S, each in zip(tried, found.transpose(0, 1), strict=True)]
    print("valid, and how many sentences these amount to, of 256:", *rows, sep="\n")
    finish(draw_figure(found, tried), args.out, f"finding: valid {rows[len(rows) // 2]}")


def main(argv=None):
    parser = flags(__doc__, "bits.png")
    parser.add_argument("--steps", type=integer(1), default=3000, help="of training (3000)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
