"""3: the posterior q(x_{t-1} | x_t, x_0)."""
import torch

from .kit import Process, coefficients, expect

BETA = [0.1, 0.3, 0.2, 0.5]


def by_bayes(x_0, x_t, t):
    """Multiply q(x_t | x_{t-1}) and q(x_{t-1} | x_0) as functions of x_{t-1}, in float64.

    Precisions add; the mean is the average weighted by them.
    """
    c = {name: values.tolist() for name, values in coefficients(BETA).items()}
    prior, precision = c["alpha_bar"][t - 1] ** 0.5 * x_0, 1 / c["one_minus_alpha_bar"][t - 1]
    seen, weight = x_t / c["alpha"][t] ** 0.5, c["alpha"][t] / c["beta"][t]
    return (precision * prior + weight * seen) / (precision + weight)


def mistakes(x_0, x_t, t):
    c = {name: values.tolist() for name, values in coefficients(BETA).items()}

    def mean(bar, beta, alpha, before, now, root=0.5):
        return (bar ** root * beta * x_0 + alpha ** root * before * x_t) / now

    bar, beta, alpha = c["alpha_bar"], c["beta"][t], c["alpha"][t]
    rest = c["one_minus_alpha_bar"]
    return [
        ("when alpha_bar_t stands where alpha_bar_{t-1} belongs, in the factor of x_0",
         mean(bar[t], beta, alpha, rest[t - 1], rest[t])),
        ("when 1 - alpha_bar_t stands where 1 - alpha_bar_{t-1} belongs, in the factor of x_t",
         mean(bar[t - 1], beta, alpha, rest[t], rest[t])),
        ("when the square roots are missing",
         mean(bar[t - 1], beta, alpha, rest[t - 1], rest[t], 1)),
        ("when alpha_bar_t stands where alpha_t belongs, in the factor of x_t",
         mean(bar[t - 1], beta, bar[t], rest[t - 1], rest[t])),
        ("when x_0 and x_t are exchanged",
         (bar[t - 1] ** 0.5 * beta * x_t + alpha ** 0.5 * rest[t - 1] * x_0) / rest[t]),
        ("when the division by 1 - alpha_bar_t is missing",
         mean(bar[t - 1], beta, alpha, rest[t - 1], 1.0)),
        ("when it is divided by 1 - alpha_bar_{t-1}",
         mean(bar[t - 1], beta, alpha, rest[t - 1], rest[t - 1]))]


def check_the_mean_is_that_of_the_product_of_two_gaussians(student):
    """Bayes' rule, by precision weighting, at every t above 1."""
    process = Process.of(BETA, student.ddpm.DDPM, "posterior_mean")
    g = torch.Generator().manual_seed(student.seed)
    x_0, x_t = torch.randn(2, 2, 1, 2, 2, generator=g).unbind(0)
    for t in (2, 3, 4):
        expect(process.posterior_mean(x_0, x_t, t), by_bayes(x_0.double(), x_t.double(), t).float(),
               f"posterior_mean at t = {t}, Eq. 7", mistakes(x_0, x_t, t))


def check_each_image_has_its_own_time(student):
    process = Process.of(BETA, student.ddpm.DDPM, "posterior_mean")
    x_0, x_t = torch.full((3, 1, 3, 3), 0.5), torch.full((3, 1, 3, 3), -2.0)
    times = torch.tensor([4, 2, 3])
    each = torch.stack([by_bayes(x_0[0].double(), x_t[0].double(), t) for t in (4, 2, 3)]).float()
    first = by_bayes(x_0.double(), x_t.double(), 4).float()
    expect(process.posterior_mean(x_0, x_t, times), each, "posterior_mean for t = 4, 2, 3, Eq. 7",
           [("when the time of the first image is used for all", first)])


def check_at_t_1_it_is_x_0(student):
    """q(x_0 | x_1, x_0) is certain: alpha_bar_0 = 1 and 1 - alpha_bar_0 = 0."""
    process = Process.of(BETA, student.ddpm.DDPM, "posterior_mean")
    x_0, x_t = torch.full((2, 1, 1, 1), 0.3), torch.full((2, 1, 1, 1), 2.0)
    expect(process.posterior_mean(x_0, x_t, 1), x_0, "posterior_mean at t = 1, Eq. 7",
           mistakes(x_0, x_t, 1)[:6])
