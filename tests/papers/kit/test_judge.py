"""What is measured, against its formula."""
import math

import pytest
import torch

import data
from papers.kit import judge
from papers.kit.judge import (READERS, apart, diversity, features, frechet, load_reader,
                              load_readers, nearest, psnr, read, rms)


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


def test_three_readers_of_different_shape_ship_and_read_held_out_digits_of_any_size():
    nets = load_readers()
    assert len(nets) == 3 and READERS.stat().st_size < 300_000
    assert len({sum(weight.numel() for weight in net.parameters()) for net in nets.values()}) == 3
    for H, least in ((16, 0.995), (32, 0.99), (24, 0.98)):
        x, y = data.digits(H, 500, seed=9)           # neither of the two splits
        for net in nets.values():
            assert not net.training
            recognised, digit = read(net, data.to_model(torch.from_numpy(x)))
            assert (digit == torch.from_numpy(y)).float().mean() >= least
            assert recognised.float().mean() >= least
    reader = load_reader()
    assert all(a.equal(b) for a, b in zip(reader.state_dict().values(),
                                          nets["pooled"].state_dict().values(), strict=True))


def test_features_are_what_the_last_layer_reads():
    net, x = load_reader(), torch.randn(1003, 1, 16, 16)
    f, last = features(net, x), net[-1]
    assert f.shape == (1003, 64)
    torch.testing.assert_close(f @ last.weight.T + last.bias, net(x))


def test_the_worst_of_all_readers_and_seeds_is_quoted(trained, monkeypatch, capsys):
    def sure_of(share):                              # of so many of the images
        return lambda x: 9.0 * (torch.arange(len(x)) < share * len(x))[:, None] * torch.eye(10)[0]

    asked = []

    def batches(ddpm, model, config, n, seed):       # what the seed is shows in how many there are
        asked.append(seed)
        yield 0, torch.zeros(4, 1, 8, 8)
        yield 4, torch.zeros(n - 4 + 2 * (seed == 6), 1, 8, 8)

    monkeypatch.setattr(judge, "batches", batches)
    monkeypatch.setattr(judge, "load_readers", lambda device: {
        "pooled": sure_of(1), "b": lambda x: sure_of(1)(x) if len(x) != 10 else sure_of(0.3)(x),
        "c": sure_of(0.5)})
    judge.main(["--checkpoint", str(trained[0]), "--n", "8", "--seed", "5", "--device", "cpu"])
    said = capsys.readouterr().out
    assert asked == [5, 6, 7]
    assert "b          recognises 100.0%, 30.0%, 100.0%" in said
    assert said.endswith("recognised: at least 30.0% (b, seed 6)\n")


def test_readers_are_trained_by_the_command_and_kept_in_half_precision(tmp_path, monkeypatch):
    fit = judge.fit
    monkeypatch.setattr(judge, "fit", lambda *args, label: fit(*args[:4], 3, label=label))
    path = tmp_path / "r.pt"
    judge.main(["train", "--checkpoint", str(path), "--device", "cpu", "--seed", "1"])
    _, nets = judge.load_fit(path, "cpu", judge.network)
    assert list(nets) == list(load_readers())
    half = [weight.half().float() for weight in load_reader().parameters()]
    assert all(a.equal(b) for a, b in zip(half, load_reader().parameters(), strict=True))
