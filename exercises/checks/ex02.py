"""2: noising in one jump."""
import torch

from .kit import Process, demand, expect

BETA = [0.1, 0.2, 0.3, 0.4]


def check_x_t_is_the_jump_of_eq_4(student):
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, each image at its own time."""
    process = Process.of(BETA, student.ddpm.DDPM, "q_sample")
    g = torch.Generator().manual_seed(student.seed)
    x_0, eps = torch.randn(2, 4, 3, 2, 2, generator=g).unbind(0)
    t = torch.tensor([1, 2, 3, 4])
    b = torch.tensor([0.0, *BETA])[t].reshape(4, 1, 1, 1)
    bar = torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7, 0.9 * 0.8 * 0.7 * 0.6]).reshape(4, 1, 1, 1)
    late = torch.cat([torch.ones(1, 1, 1, 1), bar[:-1]])
    first = bar[:1]
    expect(process.q_sample(x_0, t, eps), bar ** 0.5 * x_0 + (1 - bar) ** 0.5 * eps,
           "q_sample at t = 1, 2, 3, 4, Eq. 4", [
        ("when alpha stands where alpha_bar belongs", (1 - b) ** 0.5 * x_0 + b ** 0.5 * eps),
        ("when t is off by one: index t of every coefficient is time t, index 0 is clean data",
         late ** 0.5 * x_0 + (1 - late) ** 0.5 * eps),
        ("when the square root of alpha_bar is missing", bar * x_0 + (1 - bar) ** 0.5 * eps),
        ("when the variance 1 - alpha_bar stands where the deviation belongs",
         bar ** 0.5 * x_0 + (1 - bar) * eps),
        ("when both square roots are missing", bar * x_0 + (1 - bar) * eps),
        ("when the time of the first image is used for all", first ** 0.5 * x_0
         + (1 - first) ** 0.5 * eps)])


def check_t_0_returns_x_0(student):
    """alpha_bar_0 = 1: at t = 0 there is no noise yet."""
    process = Process.of(BETA, student.ddpm.DDPM, "q_sample")
    x_0, eps = torch.linspace(-1, 1, 6).reshape(2, 3, 1, 1), torch.ones(2, 3, 1, 1)
    expect(process.q_sample(x_0, torch.tensor([0, 0]), eps), x_0, "q_sample at t = 0")
    expect(process.q_sample(x_0, 0, eps), x_0, "q_sample at t = 0, an int for all images")


def check_it_equals_the_steps_of_eq_2(student):
    """Iterate x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z 100,000 times: the same mean, std."""
    process = Process.of(BETA, student.ddpm.DDPM, "q_sample")
    g = torch.Generator().manual_seed(student.seed + 1)
    n = 100_000
    x = torch.full((n,), 0.7, dtype=torch.float64)
    for b in BETA:
        x = (1 - b) ** 0.5 * x + b ** 0.5 * torch.randn(n, generator=g, dtype=torch.float64)
    few = process.q_sample(torch.ones(3, 1, 1, 1), torch.full((3,), 4), torch.ones(3, 1, 1, 1))
    demand(few.shape == (3, 1, 1, 1), f"q_sample: expected the shape (3, 1, 1, 1), got "
           f"{tuple(few.shape)}")
    eps = torch.randn(n, 1, 1, 1, generator=g)
    jump = process.q_sample(torch.full((n, 1, 1, 1), 0.7), torch.full((n,), 4), eps).double()
    error = 5 * x.std().item() / n ** 0.5                        # five standard errors
    expect(jump.mean(), x.mean(), "the mean of q(x_4 | x_0), Eq. 4 against Eq. 2", rtol=0,
           atol=2 * error)
    expect(jump.std(), x.std(), "the deviation of q(x_4 | x_0), Eq. 4 against Eq. 2", rtol=0,
           atol=2 * error)


def check_the_shape_of_t_does_not_broadcast_wrongly(student):
    """As many images as pixels in a row: a (B,) coefficient would be laid along the width."""
    process = Process.of(BETA, student.ddpm.DDPM, "q_sample")
    x_0 = torch.ones(3, 1, 3, 3)
    x_t = process.q_sample(x_0, torch.tensor([1, 2, 4]), torch.zeros_like(x_0))
    demand(x_t.shape == x_0.shape, f"q_sample: expected the shape {tuple(x_0.shape)}, got "
           f"{tuple(x_t.shape)}")
    expect(x_t[:, 0, 0, 0], torch.tensor([0.9, 0.72, 0.3024]) ** 0.5,
           "sqrt(alpha_bar_t) of each image, t = 1, 2, 4", [
        ("when a (B,) tensor of coefficients is laid along the last axis: reshape it to "
         "(B, 1, 1, 1), as `at` does", torch.full((3,), 0.9 ** 0.5)),
        ("when alpha stands where alpha_bar belongs", torch.tensor([0.9, 0.8, 0.6]) ** 0.5),
        ("when the square root of alpha_bar is missing", torch.tensor([0.9, 0.72, 0.3024])),
        ("when alpha stands where alpha_bar belongs and its square root is missing",
         torch.tensor([0.9, 0.8, 0.6]))])
