"""10: bits per dimension."""
import math

import torch

from .kit import demand, expect


def kl(m, v, n, w):
    return 0.5 * (math.log(w / v) + v / w - 1 + (m - n) ** 2 / w)


def check_the_kl_divergence_of_two_gaussians(student):
    """Against torch.distributions, and by integration."""
    for m, v, n, w in ((0.3, 0.5, -0.4, 0.8), (0.0, 2.0, 1.0, 0.3)):
        normal = torch.distributions.Normal
        expected = torch.distributions.kl_divergence(normal(m, v ** 0.5), normal(n, w ** 0.5))
        got = student.analytic.kl(torch.tensor([m]), v, torch.tensor([n]), w)
        expect(got, expected[None], f"KL(N({m}, {v}) || N({n}, {w})), Eq. 8", [
            ("when the two Gaussians are exchanged", torch.tensor([kl(n, w, m, v)])),
            ("when variances are taken for deviations", torch.tensor([kl(m, v ** 2, n, w ** 2)])),
            ("when the factor 1/2 is missing", 2 * expected[None]),
            ("when only the means are compared", torch.tensor([(m - n) ** 2 / (2 * w)])),
            ("when it is given in bits and not in nats", expected[None] / math.log(2))])


def check_equal_gaussians_have_no_divergence(student):
    mean = torch.tensor([0.2, -1.0])
    got = student.analytic.kl(mean, 0.7, mean.clone(), 0.7)
    expect(got, torch.zeros(2), "the KL divergence of a Gaussian from itself")


def check_variances_may_be_tensors(student):
    """One for each entry, as a network that learns its variance has them, and floats among them."""
    g = torch.Generator().manual_seed(student.seed)
    m, n = torch.randn(2, 2, 3, generator=g)
    v, w = 0.2 + 2 * torch.rand(2, 2, 3, generator=g)
    for q, p, what in ((v, w, "tensors, as the means"), (0.7, w, "a float and a tensor"),
                       (v, 0.7, "a tensor and a float")):
        got, ratio = student.analytic.kl(m, q, n, p), (q / p).double()
        expected = 0.5 * (ratio - 1 - ratio.log() + (m - n) ** 2 / p)
        expect(got, expected, f"KL, Eq. 8, of (2, 3) means, each its own; the variances are {what}",
               [("when the mean of all is returned", expected.mean().expand(2, 3)),
                ("when it is given in bits and not in nats", expected / math.log(2))])


def pixels(values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1) / 127.5 - 1


def phi(x):
    return 0.5 * math.erfc(-x / 2 ** 0.5)


def check_the_decoder_integrates_over_a_bin(student):
    """Eq. 13: of a pixel value k, from k - 1/2 to k + 1/2, in steps of 2/255."""
    mean, sigma = 0.1, 0.02
    for k in (130, 140, 145):
        x = k / 127.5 - 1
        probability = phi((x + 1 / 255 - mean) / sigma) - phi((x - 1 / 255 - mean) / sigma)
        density = math.exp(-((x - mean) / sigma) ** 2 / 2) / (sigma * (2 * math.pi) ** 0.5)
        wide = phi((x + 2 / 255 - mean) / sigma) - phi((x - 2 / 255 - mean) / sigma)
        ends = -abs(x - mean) + torch.tensor([-1 / 255, 1 / 255], dtype=torch.float64)
        far, near = torch.special.log_ndtr(ends / sigma ** 2).tolist()       # on the left
        squared = near + math.log(-math.expm1(far - near))
        got = student.variational_bound.decoder_nll(pixels([k]), torch.full((1, 1, 1, 1), mean),
                                                    sigma)
        expect(torch.as_tensor(got).double().flatten()[0], -math.log(probability),
               f"decoder_nll of the value {k} at mean 0.1, sigma 0.02, Eq. 13", [
            ("from the density, which is not a probability", -math.log(density)),
            ("from a bin of twice the width", -math.log(wide)),
            ("when it is given in bits and not in nats", -math.log2(probability)),
            ("when the sign is missing", math.log(probability)),
            ("when the variance is taken for the deviation", -squared)],
            rtol=1e-4)


def check_the_probabilities_of_all_256_values_sum_to_1(student):
    """The bins of 0 and 255 reach to infinity."""
    for mean, sigma in ((0.1, 0.3), (-1.0, 0.5), (1.2, 0.1)):
        got = student.variational_bound.decoder_nll(
            pixels(range(256)), torch.full((1, 1, 1, 256), mean), sigma)
        total = torch.exp(-torch.as_tensor(got).double()).sum()
        inside = phi((1 + 1 / 255 - mean) / sigma) - phi((-1 - 1 / 255 - mean) / sigma)
        expect(total, 1.0, f"the sum of the probabilities of 0..255 at mean {mean}, Eq. 13", [
            ("when the bins of 0 and 255 do not reach to infinity", inside)], rtol=1e-5)


def log_tail(z):
    """Return log P(X > z), z large: Mills' ratio times the density."""
    ratio = (1 - z ** -2 + 3 * z ** -4) / z
    return -z ** 2 / 2 - math.log(2 * math.pi) / 2 + math.log(ratio)


def check_it_is_accurate_far_out(student):
    """A value 40 deviations away has a probability of about e^-800, and not 0."""
    mean = torch.tensor([[[[-1.0, 1.0]]]])
    got = student.variational_bound.decoder_nll(pixels([255, 0]), mean, 0.05)
    got = torch.as_tensor(got).double()
    demand(got.isfinite().all(), "decoder_nll of a value 40 deviations from the mean is not "
           "finite. This is what you get from the logarithm of a difference that has become 0: use "
           "torch.special.log_ndtr, on the side where the tail is small.")
    floor = ("when probabilities are kept away from 0 by a small number",
             torch.full((2,), -math.log(1e-12), dtype=torch.float64))
    expect(got.flatten(), torch.full((2,), -log_tail((2 - 1 / 255) / 0.05), dtype=torch.float64),
           "decoder_nll of a value 40 deviations from the mean", [floor], rtol=1e-5)
    got = student.variational_bound.decoder_nll(pixels([200, 55]), mean, 0.05)
    got = torch.as_tensor(got).double()
    near, far = (log_tail(((200 + half) / 127.5) / 0.05) for half in (-0.5, 0.5))
    inner = near + math.log(-math.expm1(far - near))
    expect(got.flatten(), torch.full((2,), -inner, dtype=torch.float64), "decoder_nll of the values"
           " 200 and 55 at the means -1 and 1, 31 deviations away", [
        floor], rtol=1e-4)
