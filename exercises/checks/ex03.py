"""3: the posterior q(x_{t-1} | x_t, x_0)."""
import torch

from .kit import EQ_7, Process, expect, formula, normal, on_meta, theirs


@theirs
def posterior_mean(student, x_0, x_t, t, device="cpu"):
    process = Process.of(student.ddpm.DDPM, "posterior_mean").to(device)
    t = t.to(device) if isinstance(t, torch.Tensor) else t
    return process.posterior_mean(x_0.to(device), x_t.to(device), t)


def check(student, x_0, x_t, t, mistakes=()):
    """Expect Bayes' rule, by precision weighting, in float64; the slips are those of Eq. 7."""
    right = Process().posterior_mean(x_0.double(), x_t.double(), t)
    what = f"posterior_mean at t = {torch.as_tensor(t).tolist()}, Eq. 7"
    expect(posterior_mean(student, x_0, x_t, t), right, what, (
        *mistakes, *formula(EQ_7, t, x_0=x_0, x_t=x_t).slips()), dtype=torch.float32)


def check_the_mean_is_that_of_the_product_of_two_gaussians(student):
    """Of q(x_t | x_{t-1}) and q(x_{t-1} | x_0), as functions of x_{t-1}."""
    for t in (3, 2, 4):                              # at 2, alpha_bar_{t-1} is alpha_{t-1}
        check(student, *normal(student, 2, 2, 3, 2, 2), t)


def check_each_image_has_its_own_time(student):
    """As many images as pixels in a row, so that a (B,) coefficient is seen along the width."""
    x_0, x_t = normal(student, 2, 3, 3, 3, 3)
    t, turned = torch.tensor([4, 2, 3]), {"x_0": x_0.transpose(0, 3), "x_t": x_t.transpose(0, 3)}
    check(student, x_0, x_t, t, [
        ("when the time of the first image is used for all",
         formula(EQ_7, 4, x_0=x_0, x_t=x_t).value),
        ("when a (B,) tensor of coefficients is laid along the last axis: reshape it to "
         "(B, 1, 1, 1), as `at` does", formula(EQ_7, t, **turned).value.transpose(0, 3))])
    on_meta(lambda: posterior_mean(student, x_0, x_t, t, "meta"), "posterior_mean")


def check_at_t_1_it_is_x_0(student):
    """q(x_0 | x_1, x_0) is certain: alpha_bar_0 = 1 and 1 - alpha_bar_0 = 0."""
    for t in (3, 1):                                 # at 3, x_0 is not right
        check(student, *normal(student, 2, 2, 1, 1, 1), t)
