"""10: bits per dimension."""
import math

import torch

from .formula import Formula
from .kit import demand, expect, tensor, theirs

EQ_8 = ("0.5 * (torch.log(variance_p / variance_q) + variance_q / variance_p - 1"
        " + (mean_q - mean_p) ** 2 / variance_p)")
EQ_13 = ("-torch.log(torch.special.ndtr((x_0 + half - mean) / sigma)"
         " - torch.special.ndtr((x_0 - half - mean) / sigma))")


@theirs
def kl(student, mean_q, variance_q, mean_p, variance_p):
    return student.analytic.kl(mean_q, variance_q, mean_p, variance_p)


def expect_kl(student, m, v, n, w, what):
    """Ask for KL(N(m, v) || N(n, w)), where v and w may be floats, and judge it."""
    def eq_8(*values):
        names = "mean_q", "variance_q", "mean_p", "variance_p"
        return Formula(EQ_8, **{name: torch.as_tensor(value, dtype=torch.float64)
                                for name, value in zip(names, values, strict=True)})
    right = eq_8(m, v, n, w)
    expect(kl(student, m, v, n, w), right, f"KL(q || p), Eq. 8, {what}", [
        ("when the two Gaussians are exchanged", eq_8(n, w, m, v).value),
        ("when variances are taken for deviations", eq_8(m, v ** 2, n, w ** 2).value),
        ("when deviations are taken for variances", eq_8(m, v ** 0.5, n, w ** 0.5).value),
        ("when the mean of all is returned", right.value.mean().expand(right.value.shape)),
        ("when it is given in bits and not in nats", right.value / math.log(2))], dtype=m.dtype)


def check_the_kl_divergence_of_two_gaussians(student):
    """Eq. 8, the variances floats; of equal Gaussians it is 0."""
    m, n = torch.tensor([[0.3, -1.0, 0.5]]), torch.tensor([[-0.4, 0.2, 0.5]])
    for v, w in (0.5, 0.8), (2.0, 0.3):
        expect_kl(student, m, v, n, w, f"of variances {v} and {w}")
    expect_kl(student, m, 0.7, m.clone(), 0.7, "of a Gaussian from itself")
    expect_kl(student, m.double(), 0.5, n.double().T, 0.8, "of float64 means that broadcast")


def check_variances_may_be_tensors(student):
    """One for each entry, as a network that learns its variance has them, and floats among them."""
    g = torch.Generator().manual_seed(student.seed)
    m, n = torch.randn(2, 2, 3, generator=g)
    v, w = 0.2 + 2 * torch.rand(2, 2, 3, generator=g)
    for q, p, what in (v, w, "tensors"), (0.7, w, "a float and a tensor"), (
            v, 0.7, "a tensor and a float"):
        expect_kl(student, m, q, n, p, f"of (2, 3) means, each its own; the variances are {what}")


@theirs
def decoder_nll(student, x_0, mean, sigma):
    return student.variational_bound.decoder_nll(x_0, mean, sigma)


def pixels(values, *shape):
    return (torch.tensor(values).double() / 127.5 - 1).float().reshape(shape)


def eq_13(x_0, mean, sigma, half=1 / 255):
    return Formula(EQ_13, x_0=x_0.double(), half=half, mean=mean.double(), sigma=sigma)


def check_the_decoder_integrates_over_a_bin(student):
    """Eq. 13: of a pixel value k, from k - 1/2 to k + 1/2, in steps of 2/255."""
    x_0, sigma = pixels([130, 140, 145, 100, 90, 110], 2, 3, 1, 1), 0.02
    mean = torch.tensor([0.1, 0.1, 0.1, -0.2, -0.25, -0.2]).reshape(2, 3, 1, 1)
    normal = torch.distributions.Normal(mean.double(), sigma)
    got, what = decoder_nll(student, x_0, mean, sigma), "decoder_nll at sigma = 0.02, Eq. 13"
    demand(not tensor(got, what, x_0.shape).isnan().any(), f"{what}: got nan. This is the logarithm"
           " of a negative number, as when the two ends of the bin are exchanged.")
    right = eq_13(x_0, mean, sigma)
    expect(got, right, what, [
        ("from the density, which is not a probability", -normal.log_prob(x_0)),
        ("from a bin of twice the width", eq_13(x_0, mean, sigma, 2 / 255).value),
        ("when it is given in bits and not in nats", right.value / math.log(2)),
        ("when it is the probability and not -log of it", torch.exp(-right.value)),
        ("when the division by sigma is missing", eq_13(x_0, mean, 1.0).value),
        ("when the deviation is taken for the variance", eq_13(x_0, mean, sigma ** 0.5).value),
        ("when the variance is taken for the deviation", far_out(x_0, mean, sigma ** 2))],
        dtype=torch.float64)


def check_the_probabilities_of_all_256_values_sum_to_1(student):
    """The bins of 0 and 255 reach to infinity."""
    check_the_decoder_integrates_over_a_bin(student)             # or one mistake has two names
    x_0 = pixels(list(range(256)), 1, 1, 1, 256)
    for m in 0.1, -1.0, 1.2:
        mean = torch.full(x_0.shape, m)
        got = tensor(decoder_nll(student, x_0, mean, 0.3), "decoder_nll", x_0.shape).double()
        p, right = (torch.exp(-each).flatten() for each in (got, eq_13(x_0, mean, 0.3).value))
        expect(p[1:-1], right[1:-1], f"the probabilities of 1..254 at mean {m}, Eq. 13")
        expect(p.sum(), 1.0, "the sum of the probabilities of 0..255, of which those of 1..254 are "
               "right: do the bins of 0 and 255 reach to infinity?", rtol=1e-5)


def far_out(x_0, mean, sigma):
    """Eq. 13 by the tail in which the bin lies, as its logarithm."""
    near, far = (torch.special.log_ndtr(-((x_0 - mean).double().abs() + end / 255) / sigma)
                 for end in (-1, 1))
    return -near - torch.log(-torch.expm1(far - near))


def check_it_is_accurate_far_out(student):
    """A value 40 deviations away has a probability of about e^-800, and not 0."""
    x_0, mean = pixels([255, 0, 200, 55], 1, 1, 2, 2), torch.tensor([[[[-1.0, 1.0], [-1.0, 1.0]]]])
    what = "decoder_nll of values 31 to 40 deviations from the mean"
    got = tensor(decoder_nll(student, x_0, mean, 0.05), what, x_0.shape).double()
    demand(not 6 < got.min() > got.max() - 1, f"{what} is always {got.max():.4g}. This is what you "
           "get when probabilities are kept away from 0 by a small number.")
    check_the_decoder_integrates_over_a_bin(student)             # or one mistake has two names
    demand(got.isfinite().all(), f"{what} is not finite. This is what you get from the logarithm "
           "of a difference that has become 0: use torch.special.log_ndtr, on the side where the "
           "tail is small.")
    expect(got, far_out(x_0, mean, 0.05), what)
