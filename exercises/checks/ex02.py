"""2: noising in one jump."""
import torch

from .kit import BETA, EQ_4, Process, expect, formula, normal, theirs


@theirs
def q_sample(student, x_0, t, eps):
    return Process.of(student.ddpm.DDPM, "q_sample").q_sample(x_0, t, eps)


def check_x_t_is_the_jump_of_eq_4(student):
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, each image at its own time."""
    x_0, eps = normal(student, 2, 4, 3, 2, 2)
    t = torch.tensor([1, 2, 3, 4])
    expect(q_sample(student, x_0, t, eps), formula(EQ_4, t, x_0=x_0, eps=eps),
           "q_sample at t = 1, 2, 3, 4, Eq. 4", [
        ("when the time of the first image is used for all",
         formula(EQ_4, 1, x_0=x_0, eps=eps).value)], dtype=torch.float32)


def check_t_0_returns_x_0(student):
    """alpha_bar_0 = 1: at t = 0 there is no noise yet.  An int serves all images."""
    x_0, eps = torch.linspace(-1, 1, 6).reshape(2, 3, 1, 1), torch.ones(2, 3, 1, 1)
    expect(q_sample(student, x_0, 2, eps), formula(EQ_4, 2, x_0=x_0, eps=eps),
           "q_sample at t = 2, an int for all images")
    expect(q_sample(student, x_0, torch.tensor([0, 0]), eps), x_0, "q_sample at t = 0")
    expect(q_sample(student, x_0, 0, eps), x_0, "q_sample at t = 0, an int for all images")


def check_it_equals_the_steps_of_eq_2(student):
    """Iterate x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z 100,000 times: the same mean, std."""
    g = torch.Generator().manual_seed(student.seed + 1)
    n = 100_000
    x = torch.full((n,), 0.7, dtype=torch.float64)
    for b in BETA:
        x = (1 - b) ** 0.5 * x + b ** 0.5 * torch.randn(n, generator=g, dtype=torch.float64)
    eps = torch.randn(n, 1, 1, 1, generator=g)
    few = [torch.full((3, 1, 1, 1), 0.7), torch.full((3,), 4), eps[:3]]
    expect(q_sample(student, *few), formula(EQ_4, 4, x_0=few[0], eps=few[2]),
           "q_sample of 3 images of one pixel, Eq. 4")           # or 100,000^2 numbers might come
    jump = q_sample(student, torch.full((n, 1, 1, 1), 0.7), torch.full((n,), 4), eps)
    ours = formula(EQ_4, 4, x_0=torch.full((n, 1, 1, 1), 0.7), eps=eps)
    expect(jump, ours, "q_sample of 100,000 images of one pixel, Eq. 4")
    error = 5 * x.std().item() / n ** 0.5                        # five standard errors
    expect(jump.double().mean(), x.mean(), "the mean of q(x_4 | x_0), Eq. 4 against Eq. 2", rtol=0,
           atol=2 * error)
    expect(jump.double().std(), x.std(), "the deviation of q(x_4 | x_0), Eq. 4 against Eq. 2",
           rtol=0, atol=2 * error)


def check_the_shape_of_t_does_not_broadcast_wrongly(student):
    """As many images as pixels in a row: a (B,) coefficient would be laid along the width."""
    x_0, eps = torch.linspace(0.5, 1, 54).reshape(2, 3, 1, 3, 3).unbind(0)
    t, along = torch.tensor([1, 2, 4]), {"x_0": x_0.transpose(0, 3), "eps": eps.transpose(0, 3)}
    expect(q_sample(student, x_0, t, eps), formula(EQ_4, t, x_0=x_0, eps=eps),
           "q_sample at t = 1, 2, 4, Eq. 4", [
        ("when the time of the first image is used for all",
         formula(EQ_4, 1, x_0=x_0, eps=eps).value),
        ("when a (B,) tensor of coefficients is laid along the last axis: reshape it to "
         "(B, 1, 1, 1), as `at` does", formula(EQ_4, t, **along).value.transpose(0, 3))])
