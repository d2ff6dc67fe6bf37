"""4: eps, x_0 and the score are one piece of knowledge."""
import torch

from .kit import Process, coefficients, expect, only

BETA = [0.1, 0.3, 0.2, 0.5]
C = coefficients(BETA)


def case(student, dtype=torch.float32):
    """Return a process of our own, x_0, eps, x_t at t = 1, 2, 3, 4, t, and alpha_bar_t."""
    g = torch.Generator().manual_seed(student.seed)
    x_0, eps = torch.randn(2, 4, 1, 2, 2, generator=g, dtype=torch.float64).to(dtype).unbind(0)
    t = torch.arange(1, 5)
    bar = C["alpha_bar"][1:].to(dtype).reshape(4, 1, 1, 1)
    return Process(BETA), x_0, eps, bar ** 0.5 * x_0 + (1 - bar) ** 0.5 * eps, t, bar


def of(name):
    """Return one of the coefficients at t = 1, 2, 3, 4."""
    return C[name][1:].float().reshape(4, 1, 1, 1)


def log_density_gradient(x_0, x_t, bar):
    """Differentiate log N(x_t; sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) by autograd."""
    x_t = x_t.double().requires_grad_(True)
    normal = torch.distributions.Normal(bar.double() ** 0.5 * x_0.double(),
                                        (1 - bar.double()) ** 0.5)
    return torch.autograd.grad(normal.log_prob(x_t).sum(), x_t)[0].float()


@only(0, 1)
def check_eps_is_what_makes_x_t_of_x_0(student):
    """Eq. 4 solved for eps."""
    process, x_0, eps, x_t, t, bar = case(student)
    expect(student.analytic.eps_from_x_0(process, x_t, t, x_0), eps, "eps_from_x_0, Eq. 4, 9", [
        ("when the variance 1 - alpha_bar stands where the deviation belongs",
         (x_t - bar ** 0.5 * x_0) / (1 - bar)),
        ("when the square root of alpha_bar is missing", (x_t - bar * x_0) / (1 - bar) ** 0.5),
        ("when alpha stands where alpha_bar belongs",
         (x_t - of("alpha") ** 0.5 * x_0) / of("beta") ** 0.5),
        ("when the division is missing", x_t - bar ** 0.5 * x_0),
        ("when the sign is wrong", -eps)], rtol=1e-3, atol=1e-4)


@only(0)
def check_x_0_hat_undoes_eq_4(student):
    """Eq. 15."""
    process, x_0, eps, x_t, t, bar = case(student)
    process = Process.of(BETA, student.ddpm.DDPM, "predict_x_0")
    expect(process.predict_x_0(x_t, t, eps), x_0, "predict_x_0 with the true eps, Eq. 15", [
        ("when the division by sqrt(alpha_bar_t) is missing", bar ** 0.5 * x_0),
        ("when it is divided by alpha_bar_t and not by its square root", x_0 / bar ** 0.5),
        ("when the variance 1 - alpha_bar stands where the deviation belongs",
         (x_t - (1 - bar) * eps) / bar ** 0.5),
        ("when the noise is added and not subtracted",
         (x_t + (1 - bar) ** 0.5 * eps) / bar ** 0.5),
        ("when alpha stands where alpha_bar belongs",
         (x_t - of("beta") ** 0.5 * eps) / of("alpha") ** 0.5)], rtol=1e-3, atol=1e-4)


@only(0)
def check_the_score_is_the_gradient_of_the_log_density(student):
    """Of log q(x_t | x_0), by autograd."""
    process, x_0, eps, x_t, t, bar = case(student)
    expect(student.analytic.score_from_eps(process, eps, t), log_density_gradient(x_0, x_t, bar),
           "score_from_eps against autograd of log q(x_t | x_0)", [
        ("when the sign is wrong: the score points back to where density is high",
         eps / (1 - bar) ** 0.5),
        ("when it is divided by the variance and not by the deviation", -eps / (1 - bar)),
        ("when it is multiplied by the deviation and not divided", -eps * (1 - bar) ** 0.5),
        ("when the division is missing", -eps),
        ("when it is divided by sqrt(alpha_bar_t)", -eps / bar ** 0.5)], rtol=1e-3, atol=1e-4)


@only(0, 1)
def check_tweedies_formula(student):
    """E[x_0 | x_t] of the score of q(x_t), where x_0 ~ N(0.3, 0.5^2): Bayes' rule in float64."""
    process, x_0, eps, x_t, t, bar = case(student)
    m, variance = 0.3, 0.25
    total = bar * variance + 1 - bar                             # of x_t
    score = -(x_t - bar ** 0.5 * m) / total
    precision = 1 / variance + bar / (1 - bar)
    expected = (m / variance + bar ** 0.5 / (1 - bar) * x_t) / precision
    expect(student.analytic.x_0_from_score(process, x_t, t, score), expected,
           "x_0_from_score where x_0 ~ N(0.3, 0.5^2), Tweedie's formula against Bayes' rule", [
        ("when the deviation stands where the variance 1 - alpha_bar belongs",
         (x_t + (1 - bar) ** 0.5 * score) / bar ** 0.5),
        ("when the score is subtracted and not added", (x_t - (1 - bar) * score) / bar ** 0.5),
        ("when the division by sqrt(alpha_bar_t) is missing", x_t + (1 - bar) * score),
        ("when beta stands where 1 - alpha_bar belongs",
         (x_t + of("beta") * score) / bar ** 0.5)], rtol=1e-3, atol=1e-4)


@only(0)
def check_the_mean_of_algorithm_2(student):
    """Eq. 11 against the product of two Gaussians, for t = 2, 3, 4."""
    process, x_0, eps, x_t, t, bar = case(student)
    expected = process.posterior_mean(x_0[1:], x_t[1:], t[1:])
    x_t, eps, t, bar = x_t[1:], eps[1:], t[1:], bar[1:]
    alpha, beta = of("alpha")[1:], of("beta")[1:]
    expect(student.analytic.mean_from_eps(process, x_t, t, eps), expected,
           "mean_from_eps at t = 2, 3, 4, Eq. 11", [
        ("when sqrt(beta_t) stands where beta_t belongs",
         (x_t - beta ** 0.5 / (1 - bar) ** 0.5 * eps) / alpha ** 0.5),
        ("when the division by sqrt(alpha_t) is missing", x_t - beta / (1 - bar) ** 0.5 * eps),
        ("when alpha_bar_t stands where alpha_t belongs",
         (x_t - beta / (1 - bar) ** 0.5 * eps) / bar ** 0.5),
        ("when the root of 1 - alpha_bar_t is missing",
         (x_t - beta / (1 - bar) * eps) / alpha ** 0.5),
        ("when x_0_hat is returned: that is a guess of x_0, not of x_{t-1}",
         (x_t - (1 - bar) ** 0.5 * eps) / bar ** 0.5)], rtol=1e-3, atol=1e-4)


CONVERTERS = {                                       # of each variant, with their arguments
    0: {"eps_from_x_0": "x_t t x_0", "score_from_eps": "eps t", "x_0_from_score": "x_t t score",
        "mean_from_eps": "x_t t eps"},
    1: {"eps_from_x_0": "x_t t x_0", "score_from_x_0": "x_t t x_0", "x_0_from_score": "x_t t score",
        "mean_from_score": "x_t t score"},
    2: {"v_from_eps": "x_0 t eps", "x_0_from_v": "x_t t v", "eps_from_v": "x_t t v",
        "score_from_v": "x_t t v"}}


def check_points_and_one_int_for_all_serve_too(student):
    """(B, 2) instead of (B, C, H, W), and t = 2: the same as (B, 1, 2, 1) with four times 2."""
    process, x_0, eps, x_t, _, _ = case(student)
    values = {"x_0": x_0, "eps": eps, "x_t": x_t, "score": -eps, "v": eps - x_0}
    for name, arguments in CONVERTERS[student.variant].items():
        convert = getattr(student.analytic, name)
        wide, flat = ([process, *(t if each == "t" else values[each].reshape(4, *shape) for each in
                                  arguments.split())]
                      for t, shape in ((torch.full((4,), 2), (1, 2, 2)), (2, (4,))))
        expect(convert(*flat).reshape(4, 1, 2, 2), convert(*wide), f"{name} of points, with an int "
               "t = 2, beside the same numbers as images")


@only(1)
def check_the_score_of_x_0_is_the_gradient_of_the_log_density(student):
    """Of log q(x_t | x_0), by autograd."""
    process, x_0, eps, x_t, t, bar = case(student)
    expect(student.analytic.score_from_x_0(process, x_t, t, x_0),
           log_density_gradient(x_0, x_t, bar),
           "score_from_x_0 against autograd of log q(x_t | x_0)", [
        ("when the sign is wrong: the score points back to where density is high",
         (x_t - bar ** 0.5 * x_0) / (1 - bar)),
        ("when it is divided by the deviation and not by the variance",
         (bar ** 0.5 * x_0 - x_t) / (1 - bar) ** 0.5),
        ("when the square root of alpha_bar is missing", (bar * x_0 - x_t) / (1 - bar)),
        ("when the division is missing", bar ** 0.5 * x_0 - x_t)], rtol=1e-3, atol=1e-4)


@only(1)
def check_the_mean_of_algorithm_2_from_the_score(student):
    """Eq. 11 against the product of two Gaussians, for t = 2, 3, 4."""
    process, x_0, eps, x_t, t, bar = case(student)
    expected = process.posterior_mean(x_0[1:], x_t[1:], t[1:])
    score, x_t, t, bar = log_density_gradient(x_0, x_t, bar)[1:], x_t[1:], t[1:], bar[1:]
    alpha, beta = of("alpha")[1:], of("beta")[1:]
    expect(student.analytic.mean_from_score(process, x_t, t, score), expected,
           "mean_from_score at t = 2, 3, 4, Eq. 11", [
        ("when the score is subtracted and not added", (x_t - beta * score) / alpha ** 0.5),
        ("when the score is taken for eps",
         (x_t - beta / (1 - bar) ** 0.5 * score) / alpha ** 0.5),
        ("when sqrt(beta_t) stands where beta_t belongs",
         (x_t + beta ** 0.5 * score) / alpha ** 0.5),
        ("when the division by sqrt(alpha_t) is missing", x_t + beta * score),
        ("when 1 - alpha_bar_t stands where beta_t belongs",
         (x_t + (1 - bar) * score) / alpha ** 0.5)], rtol=1e-3, atol=1e-4)


@only(2)
def check_v_is_the_velocity_along_the_circle(student):
    """The derivative of cos(phi) x_0 + sin(phi) eps by phi, as a quotient of differences."""
    process, x_0, eps, x_t, t, bar = case(student)
    phi = torch.atan2((1 - bar.double()) ** 0.5, bar.double() ** 0.5)
    one, two = (angle.cos() * x_0 + angle.sin() * eps for angle in (phi - 1e-6, phi + 1e-6))
    v = ((two - one) / 2e-6).float()
    expect(student.analytic.v_from_eps(process, x_0, t, eps), v, "v_from_eps", [
        ("when x_0 and eps are exchanged", bar ** 0.5 * x_0 - (1 - bar) ** 0.5 * eps),
        ("when the sign is wrong", -v), ("when x_t is returned", x_t),
        ("when the square roots are missing", bar * eps - (1 - bar) * x_0)], rtol=1e-3, atol=1e-4)


@only(2)
def check_x_0_and_eps_come_back_from_v(student):
    process, x_0, eps, x_t, t, bar = case(student)
    v = bar ** 0.5 * eps - (1 - bar) ** 0.5 * x_0
    expect(student.analytic.x_0_from_v(process, x_t, t, v), x_0, "x_0_from_v", [
        ("when the sign of v is wrong", bar ** 0.5 * x_t + (1 - bar) ** 0.5 * v),
        ("when the two factors are exchanged", (1 - bar) ** 0.5 * x_t - bar ** 0.5 * v),
        ("when the square roots are missing", bar * x_t - (1 - bar) * v)], rtol=1e-3, atol=1e-4)
    expect(student.analytic.eps_from_v(process, x_t, t, v), eps, "eps_from_v", [
        ("when the sign of v is wrong", (1 - bar) ** 0.5 * x_t - bar ** 0.5 * v),
        ("when the two factors are exchanged", bar ** 0.5 * x_t + (1 - bar) ** 0.5 * v),
        ("when the square roots are missing", (1 - bar) * x_t + bar * v)], rtol=1e-3, atol=1e-4)


@only(2)
def check_the_score_of_v_is_the_gradient_of_the_log_density(student):
    """Of log q(x_t | x_0), by autograd."""
    process, x_0, eps, x_t, t, bar = case(student)
    v = bar ** 0.5 * eps - (1 - bar) ** 0.5 * x_0
    expect(student.analytic.score_from_v(process, x_t, t, v), log_density_gradient(x_0, x_t, bar),
           "score_from_v against autograd of log q(x_t | x_0)", [
        ("when the sign is wrong: the score points back to where density is high",
         eps / (1 - bar) ** 0.5),
        ("when the division is missing", -eps),
        ("when it is divided by the variance and not by the deviation", -eps / (1 - bar)),
        ("when v is taken for eps", -v / (1 - bar) ** 0.5)], rtol=1e-3, atol=1e-4)
