"""The variational bound: how many bits a trained chain needs for an image, and where they go.

Ho et al. 2020, sec. 2, 3.2, 3.3 and 4.3: Eq. 3, 5, 8, 12, 13 and 16, Algorithms 3 and 4, Fig. 5,
Tables 1 and 4.

    python -m papers.variational_bound [--checkpoint F] [--data NAME] [--n 64]

It prints bits/dim term by term (the NLL of Table 1), rate and distortion along t (Table 4), and the
bound of shorter chains of the same network, and draws Fig. 5 and that.  Eq. 3 as Eq. 5 writes it,
for one image x_0 of D pixel values:

    L = L_T + L_{T-1} + ... + L_1 + L_0
    L_T     = KL(q(x_T | x_0) || N(0, I))
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)),   t = T, ..., 2
    L_0     = -log p_theta(x_0 | x_1)

all taken over x_1, ..., x_T ~ q.  Divided by D log 2 they are bits/dim.

With T = 1 this is the bound of a variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114)
with a fixed encoder, q(x_1 | x_0): L_1 for its code, L_0 for its decoder.  A chain is T encoders,
each of the code before; its further terms say how badly p_theta, Gaussians of a fixed variance,
fits the way back.  Of data N(0, s^2) and the perfect network, with r = v_{t-1} / v_t, v_t the
variance of x_t, and sigma_t^2 = beta_t, this is (r - 1 - log r) / 2 nats, and a step split in two
saves (1 - r_1) (1 - r_2) / 2: many steps are nearly exact, and if s = 1, so is one.  Digits are
mostly -1 and 1, whose bins are infinite: a decoder that knows nothing, T = 1, does well there.

A chain is scored as it samples: with x_0_hat clipped, as in the authors' code, and always in
float32.  For variance "beta_tilde" Eq. 13 would divide by sigma_1 = 0; as in the authors' code its
decoder has the variance beta_tilde_2 (for T = 1, beta_1).  They use that one for "beta" too; a row
of its own shows it.  What their code approximates is exact here: for the normal distribution
function it has (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, which is off by up to 1.8e-4, and it
takes the probability of a bin for at least 1e-12.
"""
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

import data
from ddpm import at
from papers.kit.analytic import kl
from papers.kit.chain import noise_like, respace
from papers.kit.program import (chosen, finish, flags, held_out, program, show_lines, start,
                                with_error)
from plumbing.cli import track
from sample import batch_size

LENGTHS, FEW = (1, 2, 5, 10, 20, 50, 100, 200, 500), 16          # shorter chains; images for them


def decoder_nll(x_0, mean, sigma):
    """Return -log p_theta(x_0 | x_1) of each pixel value, in nats.  Ho et al. 2020, Eq. 13.

        p(x_0 | x_1) = integral of N(x; mean, sigma^2) over the bin of x_0, 2/255 wide;
                       the bins of -1 and 1 reach to -infinity and infinity

    The probability is a difference of two values of the normal distribution function.  Both are
    kept as logarithms, of the tail on their own side, so that it is accurate however small it is.

    Args:
        x_0: (B, C, H, W) float images whose values are k / 127.5 - 1 for k in 0..255.
        mean: (B, C, H, W) float, mu_theta(x_1, 1).
        sigma: positive float, the standard deviation.

    Returns:
        (B, C, H, W) float64, on the CPU.
    """
    k, mean = data.to_uint8(x_0.cpu()).double(), mean.cpu().double()
    upper = ((k + 0.5) / 127.5 - 1 - mean) / sigma
    lower = ((k - 0.5) / 127.5 - 1 - mean) / sigma
    upper[k == 255], lower[k == 0] = math.inf, -math.inf
    mirror = lower + upper > 0                       # to the left, where the tail is small
    lower, upper = torch.where(mirror, -upper, lower), torch.where(mirror, -lower, upper)
    log_lower, log_upper = torch.special.log_ndtr(lower), torch.special.log_ndtr(upper)
    return -log_upper - torch.log(-torch.expm1(log_lower - log_upper))


@torch.no_grad()
def send(ddpm, model, x_0, clip=True, generator=None):
    """Send x_0 bit by bit.  Ho et al. 2020, Algorithm 3, with the receiver's view, Algorithm 4.

        x_T ~ q(x_T | x_0), then x_{t-1} ~ q(x_{t-1} | x_t, x_0) for t = T, ..., 2, then x_0

    Only the sender knows x_0.  Both know p_theta(x_{t-1} | x_t), and with it minimal random coding
    would send x_{t-1} in about L_{t-1} bits, and x_0 in L_0.  The receiver has x_t and shows
    x_0_hat, Eq. 15.  No bits are made here: that coding is not tractable for images.

    Args:
        ddpm, model: the process and eps_theta.
        x_0: (B, C, H, W) float images in [-1, 1].
        clip: clip x_0_hat to [-1, 1].
        generator: torch.Generator on the device of x_0.

    Yields:
        t = T, ..., 0; x_t, as received; and x_0_hat, the estimate made from it (at t = 0, x_0).
    """
    x_t = ddpm.q_sample(x_0, ddpm.T, noise_like(x_0, generator))                # Eq. 4
    for t in range(ddpm.T, 0, -1):
        yield t, x_t, ddpm.estimate_x_0(model, x_t, t, clip)
        if t > 1:                                                               # Eq. 6, 7
            z = noise_like(x_0, generator)
            x_t = ddpm.posterior_mean(x_0, x_t, t) + ddpm.beta_tilde[t].sqrt() * z
    yield 0, x_0, x_0


def positive_beta_tilde(ddpm):
    """Return beta_tilde, (T + 1,), with beta_tilde_2 (for T = 1, beta_1) for beta_tilde_1 = 0."""
    beta_tilde = ddpm.beta_tilde.clone()
    beta_tilde[1] = beta_tilde[2] if ddpm.T > 1 else ddpm.beta[1]
    return beta_tilde


def term(ddpm, x_0, x_t, t, x_0_hat, variance):
    """Return L_{t-1} of each image at one x_t: Ho et al. 2020, Eq. 8, or Eq. 13 where t = 1.

    Args:
        ddpm: DDPM.
        x_0: (B, C, H, W) float images with the values of `decoder_nll`.
        x_t, x_0_hat: (B, C, H, W); gradients reach x_0_hat, and variance.
        t: (B,) int64 times in 1..T, or one int for all.
        variance: of p_theta(x_{t-1} | x_t), a tensor that broadcasts against x_t.

    Returns:
        (B,) float32 bits/dim.
    """
    mu_tilde, mu_theta = (ddpm.posterior_mean(x, x_t, t) for x in (x_0, x_0_hat))
    variance = variance.expand_as(x_t)
    nats = kl(mu_tilde, at(positive_beta_tilde(ddpm), t, x_t), mu_theta, variance)
    last = torch.as_tensor(t, device=x_t.device).expand(len(x_t)) == 1
    L_0 = decoder_nll(x_0[last], mu_theta[last], variance[last].sqrt().cpu().double())
    return nats.index_put((last,), L_0.to(nats)).flatten(1).mean(1) / math.log(2)


def prior_term(ddpm, x_0):
    """Return L_T of each image, (B,) bits/dim: it is exact, and no network changes it."""
    mean, variance = ddpm.alpha_bar[ddpm.T].sqrt() * x_0, ddpm.one_minus_alpha_bar[ddpm.T].item()
    return kl(mean, variance, 0, 1).flatten(1).mean(1) / math.log(2)


def bound(ddpm, model, x_0, clip=True, generator=None):
    """Estimate every term of the bound for each image.  Ho et al. 2020, Eq. 3, written as Eq. 5.

    L_T is exact.  The others are exact at one x_1, ..., x_T drawn from q, and so unbiased.  (The
    paper derives Eq. 5 in Eq. 17 to 22.  The mean over the data is also Eq. 16, derived in Eq. 23
    to 26; but that needs q(x_{t-1} | x_t), which is known for such data as a Gaussian only.)

    Args:
        ddpm, model, x_0, clip, generator: as for `send`; x_0 with the values of `decoder_nll`.

    Returns:
        L: {"beta": (B, T + 1), "beta_tilde": (B, T + 1)} float64 bits/dim for the two variances of
            sec. 3.2, whichever ddpm has; [:, t] is L_t.
        mse: (B, T + 1) float64, the mean squared error of x_0_hat made from x_t; 0 at t = 0.
    """
    shape = len(x_0), ddpm.T + 1
    variances = {"beta": ddpm.beta, "beta_tilde": positive_beta_tilde(ddpm)}
    L = {name: torch.empty(shape, dtype=torch.float64) for name in variances}
    mse = torch.empty(shape, dtype=torch.float64)
    steps = send(ddpm, model, x_0, clip, generator)
    for t, x_t, x_0_hat in track(steps, f"scoring {len(x_0)} images, times", ddpm.T):
        mse[:, t] = ((x_0_hat - x_0) ** 2).flatten(1).mean(1)
        for name, variance in variances.items():
            L[name][:, t - 1] = (term(ddpm, x_0, x_t, t, x_0_hat, variance[t]) if t > 0
                                 else prior_term(ddpm, x_0))                 # [:, -1] is L_T
    return L, mse


def rate_distortion(L, mse):
    """Return what a receiver has got, and sees, at each time.  Ho et al. 2020, sec. 4.3.

    Args:
        L, mse: (N, T + 1), of `bound`, for one variance.

    Returns:
        rate: (T + 1,) bits/dim received once x_t is known: L_T + ... + L_t; [0] is the whole bound.
        distortion: (T + 1,) root mean squared error of x_0_hat on the scale 0..255; 0 at t = 0.
    """
    return L.mean(0).flip(0).cumsum(0).flip(0), 127.5 * mse.mean(0).sqrt()


def terms(L):
    """Sum the L of `bound` into the rows of a table.

    Returns:
        {title: (N, 4)}: L_T, L_1 + ... + L_{T-1}, L_0 and L of each image, in bits/dim.
    """
    rows = {f"sigma^2 = {name}": each for name, each in L.items()}
    rows["beta, L_0 as in the authors' code"] = torch.cat(
        [L["beta_tilde"][:, :1], L["beta"][:, 1:]], 1)
    return {name: torch.stack([x[:, -1], x[:, 1:-1].sum(1), x[:, 0], x.sum(1)], 1)
            for name, x in rows.items()}


def shorter(ddpm, model, x, generator):
    """Return {T: L of `bound`} of images x, uint8, under shorter chains of the same network."""
    return {T: score(*respace(ddpm, model, T), x, generator)[0] for T in LENGTHS if T < ddpm.T}


def draw_figure(rate, distortion, lengths):
    """Draw Fig. 5: distortion and rate along the chain, one against the other; and L against T."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    steps = torch.arange(len(rate) - 1).flip(0), "reverse process steps (T - t)"
    d, r = (distortion[1:], "distortion (RMSE, 0..255)"), (rate[1:], "rate (bits/dim)")
    *three, last = figure.subplots(2, 2).flat
    for axes, (x, xlabel), (y, ylabel) in zip(three, (steps, steps, r), (d, r, d), strict=True):
        axes.plot(x, y)
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        axes.grid(alpha=0.3)
    lines = {f"L, sigma^2 = {name}": {T: L[name].sum(1).mean().item() for T, L in lengths.items()}
             for name in lengths[1]}
    lines["L_0, sigma^2 = beta"] = {T: L["beta"][:, 0].mean().item() for T, L in lengths.items()}
    show_lines(last, lines, xlabel="T, steps of the same network", ylabel="bits/dim")
    return figure


def score(ddpm, model, x, generator):
    """Return `bound` of a data set, x (N, C, H, W) uint8, in batches of bounded size."""
    results = [bound(ddpm, model, data.to_model(part).to(generator.device), generator=generator)
               for part in x.split(batch_size(x.shape[2]))]
    L = {name: torch.cat([L[name] for L, _ in results]) for name in results[0][0]}
    return L, torch.cat([mse for _, mse in results])


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    name, variance = args.data or config["data"], config["variance"]
    x, _ = chosen(args, *held_out(config, name, 2, args.split))              # 2: standard errors
    split = "" if Path(name).is_dir() else f" ({args.split})"
    print(f"{len(x)} images of {name}{split} under {checkpoint}, T = {ddpm.T}, on {device}")
    generator = torch.Generator(device).manual_seed(args.seed)
    L, mse = score(ddpm, model, x, generator)
    rate, distortion = rate_distortion(L[variance], mse)
    print(f"\n{'bits/dim +- standard error':33}" + "".join(
        f"{title:>20}" for title in ("L_T", "L_1 + ... + L_T-1", "L_0", "L")))
    for title, values in terms(L).items():
        print(f"{title:33}" + "".join(f"{with_error(x, 5):>20}" for x in values.T))
    print(f"\n{'T - t + 1':>9} {'t':>5} {'rate (bits/dim)':>17} {'distortion (RMSE, 0..255)':>27}"
          f"      (with x_t received; sigma^2 = {variance})")
    for t in sorted({ddpm.T + 1 - max(1, ddpm.T * i // 10) for i in range(1, 11)}):
        print(f"{ddpm.T + 1 - t:9} {t:5} {rate[t]:17.5f} {distortion[t]:27.5f}")
    few = {name: each[:FEW] for name, each in L.items()}
    lengths = {**shorter(ddpm, model, x[:FEW], generator), ddpm.T: few}
    print(f"\nchains of T steps of the same network, {len(x[:FEW])} images, bits/dim")
    print("    T    L_T" + "".join(f"{f'L_1.. ({name})':>20}{'L_0':>7}{'L':>24}" for name in L))
    for T, each in lengths.items():
        rows = list(terms(each).values())[:len(L)]
        print(f"{T:5}{rows[0][:, 0].mean():7.3f}" + "".join(
            f"{row[:, 1].mean():20.3f}{row[:, 2].mean():7.3f}{with_error(row[:, 3], 3):>24}"
            for row in rows))
    finish(draw_figure(rate, distortion, lengths), args.out)


def main(argv=None):
    parser = flags(__doc__, "variational_bound.png", 64, least=2, help="number of images")
    parser.add_argument("--data", help="data set or folder (default: what it was trained on)")
    parser.add_argument("--split", choices=("test", "train"), default="test",
                        help="of a data set; a folder is all of it (test)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
