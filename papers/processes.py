"""The process itself: Brownian motion, the density that spreads, and the two ways back.

Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations"
(arXiv:2011.13456), Eq. 5, 6, 11, 13 and 35; Anderson 1982, "Reverse-Time Diffusion Equation
Models"; Ho et al. 2020, Eq. 2 and 4.

    python -m papers.processes [--checkpoint F] [--seed 0]

No network is asked for anything: of the checkpoint only the data is taken, for a held-out image to
dissolve.  All else is one pixel, whose x_0 is drawn from two Gaussians.  On the clock

    c = -log alpha_bar_t,   which ticks beta(t) dt

the chain of any schedule is one process, Brownian motion w that is pulled back to 0:

    dx = -x / 2 dc + dw                          Ornstein & Uhlenbeck's; forward, Eq. 5 and 11
    dx = -(x / 2 + score) dc + dw,   dc < 0      the SDE back, Eq. 6 (Anderson 1982)
    dx = -(x + score) / 2 dc                     the ODE, both ways, Eq. 13
    dp/dc = d/dx (x p / 2 + dp/dx / 2)           Fokker & Planck's, of the density p, Eq. 35

The picture: an image, and what the two schedules leave of it; 100 Brownian paths, and the same
pulled back; the density of the pixel at four times, known in three ways; and over (t, x), with the
ways back on it.  ODE paths never cross, and from one x_T lead to one x_0; the SDE leads to many.
"""
from itertools import accumulate, pairwise

import torch
from matplotlib.figure import Figure

from data import to_model
from ddpm import DDPM
from papers.kit.analytic import Mixture
from papers.kit.chain import first_noise, noise_like
from papers.kit.program import finish, flags, held_out, program, show_rows, shuffled, start
from schedules import SCHEDULES, linear_beta_schedule

DATA = Mixture(None, torch.tensor([[-1.0], [1.0]]), [0.2, 0.25], [1, 2])     # x_0 of the one pixel
T, SHOWN, TIMES = 1000, (0, 50, 100, 200, 400, 600, 800, 1000), (50, 150, 300, 1000)
SEEDS, PATHS, BACK, X_T = 5, 100_000, 4000, 0.3      # BACK paths of the SDE start at X_T
WIDTH, CELLS, PER_BIN = 12.0, 600, 5                 # the grid is -6 to 6; so many cells in a bin


def paths(drift, x, clock, generator=None):
    """Solve dx = drift dc + dw by the Euler-Maruyama method; without dw it is Euler's.

        x' = x + drift(x, c) (c' - c) + sqrt(|c' - c|) z,   z ~ N(0, 1) of the generator, if any

    Where nothing drifts x is Brownian motion: what it gains from c to c' is N(0, c' - c), and
    independent of all before.  Yields x, (n,) float, at each time of the clock, (K,), which may
    also fall, for a way back.
    """
    yield x
    for c, to in pairwise(clock.tolist()):
        dw = abs(to - c) ** 0.5 * noise_like(x, generator) if generator else 0
        x = x + drift(x, c) * (to - c) + dw
        yield x


def drift(share):
    """Return f - share g^2 score: 0 is Eq. 11, forward; 1 is Eq. 6, back; 1/2 the ODE, Eq. 13."""
    def field(x, c):
        k, v = kernel(torch.tensor(c, dtype=torch.float64))
        return -x / 2 - (share * DATA.score(x[:, None], k ** 2, v)[:, 0].to(x) if share else 0)
    return field


def kernel(c):
    """Return (k, v) of q(x_t | x_0) = N(k x_0, v), Eq. 4 of Ho et al., at the time c, a tensor."""
    return (-c / 2).exp(), -torch.expm1(-c)


def compose(first, then):
    """Join two steps x -> N(k x, v) to one.  The Chapman-Kolmogorov equation, of Gaussians.

        integral of q(x_t | x_s) q(x_s | x_r) dx_s = q(x_t | x_r):
        (k_1, v_1), (k_2, v_2) -> (k_2 k_1, k_2^2 v_1 + v_2)

    The steps (sqrt(alpha_t), beta_t), Eq. 2 of Ho et al., are joined to Eq. 4.  Such a step is the
    SDE's over a time h, (exp(-h / 2), 1 - exp(-h)).  Euler and Maruyama's is (1 - h / 2, h).
    """
    (k_1, v_1), (k_2, v_2) = first, then
    return k_2 * k_1, k_2 ** 2 * v_1 + v_2


def density(x, k, v):
    """Return the density in x, (N,), of what a step x_0 -> N(k x_0, v) makes of the pixel."""
    return DATA.log_density(x[:, None], k ** 2, v).exp()


def fokker_planck(edges):
    """Return A of dp/dc = A p, Eq. 35, (N, N), by finite volumes between N + 1 even edges.

        dp_i/dc = (J_i - J_{i+1}) / dx,   J = -x p / 2 - dp/dx / 2 where two cells meet

    There p is the mean of both, and dp/dx their difference over dx: of second order.  No J leads
    out, so that columns of A sum to 0 and all mass is kept.  exp(c A) is the kernel of a time c.
    """
    dx, one = (edges[1] - edges[0]).item(), torch.eye(len(edges) - 1, dtype=torch.float64)
    left, right = one[:-1], one[1:]
    J = -edges[1:-1, None] / 2 * (left + right) / 2 - (right - left) / (2 * dx)      # (N - 1, N)
    return (right - left).T @ J / dx


def three_ways(clock, seed):
    """Find the density of the pixel at TIMES in three ways, and what the third tends to.

    Returns x, (M,), the middles of bins, and {name: (len(TIMES), M)}, the mean density in them; by
    Euler-Maruyama paths that of each of the SEEDS from `seed` on, (SEEDS, len(TIMES), M).
    """
    edges = torch.linspace(-WIDTH / 2, WIDTH / 2, CELLS + 1, dtype=torch.float64)
    x, A, M = (edges[1:] + edges[:-1]) / 2, fokker_planck(edges), CELLS // PER_BIN
    steps = list(accumulate(((1 - h / 2, h) for h in clock.diff()), compose, initial=(1, 0)))
    ways = {"closed form": lambda t: density(x, *kernel(clock[t])),
            "finite volumes": lambda t: torch.linalg.matrix_exp(clock[t] * A) @ density(x, 1, 0),
            "infinitely many": lambda t: density(x, *steps[t])}
    found, counts = {name: torch.stack([way(t).reshape(M, -1).mean(1) for t in TIMES])
                     for name, way in ways.items()}, []
    for generator in [torch.Generator().manual_seed(seed + i) for i in range(SEEDS)]:
        walk = paths(drift(0), DATA.draw(PATHS, generator)[0][:, 0], clock, generator)
        counts += [x_t.histc(M, *edges[[0, -1]]) for t, x_t in enumerate(walk) if t in TIMES]
    found["paths"] = torch.stack(counts).double().reshape(SEEDS, -1, M) * M / WIDTH / PATHS
    return x.reshape(M, -1).mean(1), found


def draw_figure(images, c, walks, clock, x, found, back):
    """Draw images {schedule: (len(SHOWN), C, H, W)}; walks, paths over c and twice their deviation;
    what `three_ways` found; and on the density lists of ways back, with colour and width."""
    figure = Figure(figsize=(15, 11), layout="constrained")
    axes = figure.subplot_mosaic("iiiiiiaaasss;bbbbuuuudddd;ooooooeeeeee")
    show_rows(axes["i"], images)
    side = axes["i"].get_images()[0].get_array().shape[1] / len(SHOWN)
    axes["i"].set_xticks([side * (i + 0.5) for i in range(len(SHOWN))], SHOWN)
    for name, schedule in SCHEDULES.items():
        a = DDPM(schedule(T)).exact.alpha_bar[1:]
        axes["a"].plot(range(1, T + 1), a, label=name)
        axes["s"].semilogy(range(1, T + 1), a / (1 - a))
    for key, (walk, twice) in zip("bu", walks, strict=True):
        axes[key].plot(c, walk, color="tab:blue", lw=0.5, alpha=0.4)
        axes[key].plot(c, twice, "k", c, -twice, "k")
        axes[key].set(xlim=(0, c[-1].item()), ylim=(-9, 9))
    for i, t in enumerate(TIMES):
        axes["d"].fill_between(x, found["paths"][0, i], step="mid", color=f"C{i}", alpha=0.25)
        axes["d"].plot(x, found["closed form"][i], f"C{i}", lw=1, label=f"t = {t}")
        axes["d"].plot(x, found["finite volumes"][i], f"C{i}.", markersize=5)
    y, every = torch.linspace(-2.8, 2.8, 281), range(0, T + 1, 5)
    p = torch.stack([density(y, *kernel(clock[t])) for t in every], 1)
    for key, lines in zip("oe", back, strict=True):
        axes[key].pcolormesh(every, y.numpy(), p.numpy(), cmap="Greys", vmax=0.9)
        for each, colour, width in lines:
            axes[key].plot(range(T, -1, -1), each, colour, lw=width)
        axes[key].set(ylim=(-2.8, 2.8), ylabel="x")
    for key, xlabel, title in (
            ("i", "t", "Ho et al., Eq. 4: an image, by both schedules with one noise"),
            ("a", "t", "alpha_bar_t"), ("s", "t", "signal to noise, alpha_bar / (1 - alpha_bar)"),
            ("b", "c", "100 Brownian paths over c = -log alpha_bar_t, and +-2 sqrt(c)"),
            ("u", "c", "the same, pulled back (Ornstein-Uhlenbeck), and +-2 sqrt(1 - exp(-c))"),
            ("d", "x", "the density of one pixel: closed form (lines), finite\nvolumes (dots), "
                       f"{PATHS:,} Euler-Maruyama paths (filled)"),
            ("o", "t", "the ODE, from the right to the left: its paths never cross"),
            ("e", "t", f"the SDE, all from x_T = {X_T} on the right, and the ODE (blue)")):
        axes[key].set_title(title, fontsize=9)
        axes[key].set_xlabel(xlabel)
    axes["d"].set_xlim(-3, 3)
    for key in "ad":
        axes[key].legend(fontsize=8)
    return figure


def run(args):
    x, _ = held_out(start(args)[2])
    x_0 = to_model(x[shuffled(len(x), args.seed)[:1]])
    eps, generator = first_noise(args.seed, x_0.shape, "cpu")
    images = {name: torch.cat([DDPM(schedule(T)).q_sample(x_0, t, eps) for t in SHOWN])
              for name, schedule in SCHEDULES.items()}
    clock, c = -DDPM(linear_beta_schedule(T)).exact.alpha_bar.log(), torch.linspace(0, 10, 501)
    zero, x_T = torch.zeros(100), torch.cat([torch.tensor([X_T]), torch.linspace(-2.4, 2.4, 13)])
    one, two = (torch.Generator().manual_seed(args.seed) for _ in range(2))      # the same noise
    brownian, pulled, ode, sde = (torch.stack(list(paths(*each))) for each in (
        (lambda x, c: 0, zero, c, one), (drift(0), zero, c, two), (drift(0.5), x_T, clock.flip(0)),
        (drift(1), x_T[:1].expand(BACK), clock.flip(0), generator)))
    print(f"from x_T = {X_T} the ODE ends at {ode[-1, 0]:.3f}; of {BACK} paths of the SDE "
          f"{sde[-1].gt(0).double().mean():.1%} end above 0, where "
          f"{DATA.log_weights[1].exp():.1%} of all x_0 are")
    x, found = three_ways(clock, args.seed)
    gap = {name: (p - found["closed form"]).abs().amax((-2, -1)) for name, p in found.items()}
    walks = (brownian, 2 * c.sqrt()), (pulled, 2 * kernel(c)[1].sqrt())
    back = [(ode, "tab:blue", 0.9)], [(sde[:, :8], "tab:orange", 0.6), (ode[:, :1], "tab:blue", 2)]
    finish(draw_figure(images, c, walks, clock, x, found, back), args.out,
           f"finding: the largest gap to the closed form is {gap['finite volumes']:.1e} by finite "
           f"volumes, {gap['paths'].mean():.4f} +- {gap['paths'].std():.4f} by {PATHS:,} "
           f"Euler-Maruyama paths (standard deviation over {SEEDS} seeds), "
           f"{gap['infinitely many']:.1e} by infinitely many")


def main(argv=None):
    program(flags(__doc__, "processes.png"), run, argv)


if __name__ == "__main__":
    main()
