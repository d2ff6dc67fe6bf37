"""4: eps, x_0 and the score are one piece of knowledge."""
import re

import torch

from .kit import BAR, Process, expect, formula, normal, on_meta, only, theirs

TIMES, ALPHA_BAR = torch.arange(1, 5), BAR[1:].reshape(4, 1, 1, 1)
FORMULAS = {
    "eps_from_x_0": "(x_t - alpha_bar ** 0.5 * x_0) / (1 - alpha_bar) ** 0.5",
    "predict_x_0": "(x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar ** 0.5",
    "score_from_eps": "-eps / (1 - alpha_bar) ** 0.5",
    "score_from_x_0": "(alpha_bar ** 0.5 * x_0 - x_t) / (1 - alpha_bar)",
    "x_0_from_score": "(x_t + (1 - alpha_bar) * score) / alpha_bar ** 0.5",
    "mean_from_eps": "(x_t - beta / (1 - alpha_bar) ** 0.5 * eps) / alpha ** 0.5",
    "mean_from_score": "(x_t + beta * score) / alpha ** 0.5",
    "v_from_eps": "alpha_bar ** 0.5 * eps - (1 - alpha_bar) ** 0.5 * x_0",
    "x_0_from_v": "alpha_bar ** 0.5 * x_t - (1 - alpha_bar) ** 0.5 * v",
    "eps_from_v": "(1 - alpha_bar) ** 0.5 * x_t + alpha_bar ** 0.5 * v",
    "score_from_v": "-((1 - alpha_bar) ** 0.5 * x_t + alpha_bar ** 0.5 * v)"
                    " / (1 - alpha_bar) ** 0.5"}
OF_VARIANT = (("eps_from_x_0", "predict_x_0", "score_from_eps", "x_0_from_score", "mean_from_eps"),
              ("eps_from_x_0", "score_from_x_0", "x_0_from_score", "mean_from_score"),
              ("v_from_eps", "x_0_from_v", "eps_from_v", "score_from_v"))


@theirs
def convert(student, name, t, x_t=None, x_0=None, eps=None, v=None, score=None, device="cpu"):
    first, *second = (x.to(device) for x in (x_t, x_0, eps, v, score) if x is not None)
    owner = student.ddpm.DDPM if name == "predict_x_0" else student.analytic
    t = t.to(device) if isinstance(t, torch.Tensor) else t
    return getattr(owner, name)(Process().to(device), first, t, *second)


def case(student):
    """Return x_0, eps, x_t, v and the score of log q(x_t | x_0) by name, each (4, 3, 2, 2)."""
    bar, (x_0, eps) = ALPHA_BAR, normal(student, 2, 4, 3, 2, 2)
    x_t, v = bar ** 0.5 * x_0 + (1 - bar) ** 0.5 * eps, bar ** 0.5 * eps - (1 - bar) ** 0.5 * x_0
    x_t.requires_grad_(True)
    log_density = torch.distributions.Normal(bar ** 0.5 * x_0, (1 - bar) ** 0.5).log_prob(x_t)
    score = torch.autograd.grad(log_density.sum(), x_t)[0]
    return {"x_0": x_0, "eps": eps, "x_t": x_t.detach().float(), "v": v.float(),
            "score": score.float()}


def check(student, name, values, what, right=None, t=TIMES):
    """Expect what is right, or else what the formula gives; mistakes are its slips, and others."""
    def used(text):
        return set(re.findall(r"\w+", text)) & set(values)

    given = {each: value for each, value in values.items() if each in used(FORMULAS[name])}
    known = {"eps": list(given.values())[-1], **given}           # v and the score, taken for eps
    ours = formula(FORMULAS[name], t, **given)
    others = [(f"when the formula of {other} stands here" + f", with {list(given)[-1]} for eps" * (
        "eps" in used(text) - set(given)), formula(text, t, **known).value)
              for other, text in FORMULAS.items() if used(text) <= set(known)]
    expect(convert(student, name, t, **given), ours.value if right is None else right,
           f"{name} {what}", [*ours.slips(), *others], dtype=torch.float32)
    on_meta(lambda: convert(student, name, t, device="meta", **given), name)


def check_points_and_one_int_for_all_serve_too(student):
    """(B, 2) instead of (B, C, H, W), and t = 3."""
    values = case(student)
    few = {name: value[:, 0, 0] for name, value in values.items()}
    for name in OF_VARIANT[student.variant]:
        check(student, name, few, "of points (B, 2), with an int t = 3", t=3)


@only(0, 1)
def check_eps_is_what_makes_x_t_of_x_0(student):
    values = case(student)
    check(student, "eps_from_x_0", values, "against the eps of Eq. 4, as in Eq. 9", values["eps"])


@only(0)
def check_x_0_hat_undoes_eq_4(student):
    values = case(student)
    check(student, "predict_x_0", values, "with the true eps, Eq. 15", values["x_0"])


def check_the_score_is_the_gradient_of_the_log_density(student):
    """Of log q(x_t | x_0), by autograd."""
    values = case(student)
    name = ("score_from_eps", "score_from_x_0", "score_from_v")[student.variant]
    check(student, name, values, "against autograd of log q(x_t | x_0)", values["score"])


@only(0, 1)
def check_tweedies_formula(student):
    """E[x_0 | x_t] of the score of q(x_t), where x_0 ~ N(0.3, 0.5^2): Bayes' rule in float64."""
    bar, values = ALPHA_BAR, case(student)
    m, variance, x_t = 0.3, 0.25, values["x_t"]
    score = (bar ** 0.5 * m - x_t) / (bar * variance + 1 - bar)
    right = (m / variance + bar ** 0.5 / (1 - bar) * x_t) / (1 / variance + bar / (1 - bar))
    check(student, "x_0_from_score", {**values, "score": score.float()},
          "where x_0 ~ N(0.3, 0.5^2), Tweedie's formula against Bayes' rule", right)


@only(0, 1)
def check_the_mean_of_algorithm_2(student):
    """Eq. 11 against the product of two Gaussians."""
    values = case(student)
    right = Process().posterior_mean(values["x_0"], values["x_t"], TIMES)
    check(student, ("mean_from_eps", "mean_from_score")[student.variant], values,
          "at t = 1, 2, 3, 4, Eq. 11", right)


@only(2)
def check_v_is_the_velocity_along_the_circle(student):
    """The derivative of cos(phi) x_0 + sin(phi) eps by phi, as a quotient of differences."""
    bar, values = ALPHA_BAR, case(student)
    phi = torch.atan2((1 - bar) ** 0.5, bar ** 0.5)
    one, two = (angle.cos() * values["x_0"] + angle.sin() * values["eps"]
                for angle in (phi - 1e-6, phi + 1e-6))
    check(student, "v_from_eps", values, "against the velocity, Salimans & Ho", (two - one) / 2e-6)


@only(2)
def check_x_0_and_eps_come_back_from_v(student):
    values = case(student)
    for name, right in (("x_0_from_v", "x_0"), ("eps_from_v", "eps")):
        check(student, name, values, f"against the {right} of v", values[right])
