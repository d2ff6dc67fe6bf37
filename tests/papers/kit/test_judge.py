"""What is measured, against its formula."""
import math

import pytest
import torch

import data
from papers.kit.judge import apart, diversity, frechet, nearest, psnr, rms


def test_apart_is_a_mean_over_images_and_rms_one_over_all_pixels():
    x, y = torch.tensor([[3.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert apart(x, y) == pytest.approx((3 + 1) / 2)
    assert rms(x - y) == pytest.approx(((9 + 1) / 2) ** 0.5)


def test_nearest_is_the_mean_rms_distance_to_the_closest_image():
    others = torch.randint(256, (1203, 1, 3, 3), dtype=torch.uint8)
    x = torch.randn(4, 1, 3, 3)
    closest = [min(rms(image - other) for other in data.to_model(others)) for image in x]
    assert nearest(x, others) == pytest.approx(sum(closest) / 4, rel=1e-4)
    assert nearest(data.to_model(others[600:602]), others) == pytest.approx(0, abs=1e-3)


def test_the_frechet_distance_of_gaussians_is_that_of_the_formula():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(50_000, 3, generator=g, dtype=torch.float64)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov())).T   # exactly N(0, I)
    scale, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 3.0, -1.0])
    expected = shift.square().sum().item() + (scale - 1).square().sum().item()
    assert frechet(z, z * scale + shift) == pytest.approx(expected)
    assert frechet(z * scale + shift, z) == pytest.approx(expected)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))[0]
    assert frechet(z * scale @ turn, (z * scale + shift) @ turn) == pytest.approx(10.0)
    assert frechet(z, z) == pytest.approx(0, abs=1e-6)


def test_psnr_is_on_the_scale_of_pixels_from_minus_1_to_1_and_each_image_has_its_own():
    x = torch.rand(3, 2, 4, 4) * 2 - 1
    y = x.clone()
    y[0] += 0.2
    y[1] += 2
    result = psnr(x, y)
    assert result.shape == (3,)
    assert result[:2].tolist() == pytest.approx([20, 0], abs=1e-4) and result[2] == math.inf
    y = torch.rand(3, 2, 4, 4) * 2 - 1
    for i in range(3):                                             # as of pixels in 0..255
        mse = ((127.5 * (x[i] - y[i])) ** 2).mean().item()
        assert psnr(x, y)[i].item() == pytest.approx(10 * math.log10(255 ** 2 / mse), rel=1e-5)


def test_diversity_is_the_mean_distance_of_pairs_within_a_class():
    x = torch.randn(7, 2, 3, 3)
    y = torch.tensor([0, 1, 0, 1, 1, 2, 0])
    pairs = [(x[i] - x[j]).square().mean().sqrt().item()
             for i in range(7) for j in range(i) if y[i] == y[j]]
    assert len(pairs) == 6
    assert diversity(x, y) == pytest.approx(sum(pairs) / 6, rel=1e-5)
