"""Latents of unit variance, whose Gaussian is sampled exactly; and what goes wrong otherwise."""
import contextlib
import copy
import math
import re

import pytest
import torch
from stand_ins import awake, noise, refused
from test_ddpm import STRONG, coefficients, gaussian, strong
from torch import nn
from torch.distributions import Normal, kl_divergence

import data
from ddpm import DDPM
from papers import latent_diffusion
from papers.kit import training
from papers.latent_diffusion import (KL_WEIGHT, Autoencoder, LatentDiffusion, autoencoder_loss,
                                     draw_latent, network, sample)
from plumbing.checkpoint import read_checkpoint
from schedules import cosine_beta_schedule

pytestmark = pytest.mark.filterwarnings("ignore:alpha_bar_T")            # of strong()
TINY = {"image_size": 8, "image_channels": 1, "latent_channels": 2, "width": 2, "channels": 4,
        "T": 5}


class Linear(nn.Module):
    """z = gain x + std e, x = z / gain: an autoencoder that loses nothing but e."""

    def __init__(self, gain, std=1e-6):
        super().__init__()
        self.gain, self.std = gain, std

    def encode(self, x):
        return self.gain * x, torch.full_like(x, 2 * math.log(self.std))

    def decoder(self, z):
        return z / self.gain


# ---- the autoencoder ----

def test_a_latent_is_drawn_with_its_own_mean_and_standard_deviation():
    mean = torch.tensor([-2.0, 0.5]).expand(40_000, 2)
    std = torch.tensor([0.3, 2.0])
    z = draw_latent(mean, 2 * std.log().expand(40_000, 2), noise())
    n = 40_000
    assert (z.mean(0) - mean[0]).abs().div(std).max() < 4 / math.sqrt(n)
    torch.testing.assert_close(z.std(0), std, rtol=4 / math.sqrt(2 * n), atol=0)
    assert torch.equal(draw_latent(mean, 0 * mean, noise()), draw_latent(mean, 0 * mean, noise()))
    assert not torch.equal(draw_latent(mean, 0 * mean), draw_latent(mean, 0 * mean))


@pytest.mark.parametrize("H, W", [(8, 8), (16, 8), (32, 32)])
def test_four_times_smaller_and_back(H, W):
    net = awake(Autoencoder(3, 5, 4))
    x = torch.randn(2, 3, H, W)
    mean, log_variance = net.encode(x)
    assert mean.shape == log_variance.shape == (2, 5, H // 4, W // 4)
    assert mean.dtype == log_variance.dtype == torch.float32
    assert net.decoder(mean).shape == x.shape
    torch.testing.assert_close(net.encoder(x), torch.cat([mean, log_variance], 1))   # in this order
    net.encoder[-1].weight.data *= 1e6
    assert net.encode(x)[1].abs().max() == 30 or net.encode(x)[1].max() == 20
    assert net.encode(x)[1].max() <= 20 and net.encode(x)[0].abs().max() > 30


def test_the_autoencoder_starts_as_the_u_net_does_with_branches_that_are_0():
    net = Autoencoder(1, 2, 4)
    for name, weight in net.named_parameters():
        if name.endswith("conv2.weight") or name.endswith("bias"):
            assert (weight == 0).all()
        elif weight.dim() == 4:
            fans = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
            assert 0.8 * math.sqrt(6 / fans) < weight.abs().max() < 1.0001 * math.sqrt(6 / fans)


def test_every_weight_of_the_autoencoder_gets_a_gradient_and_images_do_not_mix():
    net = awake(Autoencoder(1, 2, 4))
    x = torch.randn(3, 1, 8, 8)
    out = net.decoder(net.encode(x)[0])
    other = x.clone()
    other[1] += 1
    changed = (net.decoder(net.encode(other)[0]) - out).flatten(1).abs().amax(1) > 1e-4
    assert changed.tolist() == [False, True, False]
    autoencoder_loss(net, x).backward()
    untouched = {name for name, weight in net.named_parameters() if not weight.grad.abs().sum() > 0}
    assert untouched == {name for name, _ in net.named_parameters() if name.endswith("emb.weight")}


def test_the_loss_is_the_squared_error_and_a_little_kl_per_pixel():
    """By hand, for an autoencoder that shrinks by g, adds noise, and comes back as h z."""
    class Poor(Linear):
        def decoder(self, z):
            return 0.7 * z

    x_0, std = torch.randn(5000, 1, 2, 2), 0.4
    error = ((0.7 * 0.5 - 1) ** 2 * x_0.square().sum((1, 2, 3)) + 4 * (0.7 * std) ** 2)
    divergence = kl_divergence(Normal(0.5 * x_0, std), Normal(0.0, 1.0)).sum((1, 2, 3))
    assert KL_WEIGHT == 1e-6
    for weight in (1e-6, 10.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(latent_diffusion, "KL_WEIGHT", weight)
            loss = autoencoder_loss(Poor(0.5, std), x_0, None)
        expected = (error + weight * divergence).mean() / 4
        assert loss.shape == () and loss.item() == pytest.approx(expected.item(), rel=0.03)


# ---- the scale ----

@pytest.mark.parametrize("gain", [0.01, 1.0, 30.0])
def test_rescaled_latents_have_unit_variance_whatever_the_encoder(gain):
    model = LatentDiffusion(Linear(gain, 0.2 * gain), None)
    x = 0.6 * torch.randn(500, 1, 4, 4, generator=noise(1))
    model.rescale(x[:250])
    std = math.hypot(0.6 * gain, 0.2 * gain)
    assert model.scale.item() == pytest.approx(1 / std, rel=4 / math.sqrt(2 * 4000))
    assert model.encode(x[250:], noise(2)).std().item() == pytest.approx(1, rel=0.05)


def test_encoding_and_decoding_undo_the_scale_of_each_other():
    model, x = LatentDiffusion(Linear(7.0), None), torch.randn(3, 1, 4, 4)
    assert model.scale == 1                                      # until rescale
    model.rescale(x)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.encode(x), x / x.std(), rtol=0, atol=1e-4)
    net = LatentDiffusion(awake(Autoencoder(1, 2, 4)), None)
    net.rescale(torch.randn(8, 1, 8, 8))
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(net.encode(x, noise()), net.encode(x, noise()))
    assert not net.encode(x).requires_grad and not net.decode(net.encode(x)).requires_grad


def test_the_trap_without_the_scale_every_signal_to_noise_ratio_is_off_by_s_squared():
    _, alpha_bar = coefficients(STRONG)
    for s in (0.2, 1.0, 5.49):
        for t in range(1, 9):
            z_0 = s * torch.randn(200_000, generator=noise(t))
            x_t = strong().q_sample(z_0, t, torch.randn(200_000, generator=noise(t + 9)))
            signal = math.sqrt(alpha_bar[t]) * z_0
            measured = signal.var() / (x_t - signal).var()
            assert measured.item() == pytest.approx(
                s ** 2 * alpha_bar[t] / (1 - alpha_bar[t]), rel=0.02)


def recursion(s, beta=STRONG):
    """The variance that Algorithm 2 gives with the perfect eps* of N(0, s^2), sigma^2 = beta."""
    beta, alpha_bar = coefficients(beta)
    variance = 1.0
    for t in range(len(beta) - 1, 0, -1):
        a, before = alpha_bar[t], alpha_bar[t - 1]
        x_0_hat = math.sqrt(a) * s ** 2 / (a * s ** 2 + 1 - a)
        step = (math.sqrt(before) * beta[t] * x_0_hat
                + math.sqrt(1 - beta[t]) * (1 - before)) / (1 - a)
        variance = step ** 2 * variance + (beta[t] if t > 1 else 0)
    return variance


def images(s, gain, scaled, n=60_000):
    """Sample Gaussian images of std s through a linear autoencoder with a perfect U-Net."""
    class UNet(nn.Module):
        def forward(self, z_t, t):
            return gaussian(0, 1 if scaled else s * gain, STRONG)(z_t, t)

    model = LatentDiffusion(Linear(gain), UNet())
    if scaled:
        x = torch.randn(1000, 1, 2, 2, generator=noise(3))
        model.rescale(s * x / x.std())
    z_0 = strong().sample(model, (n, 1, 2, 2), clip=False, generator=noise())
    return model.decode(z_0)


def test_gaussian_images_are_sampled_exactly_through_a_linear_autoencoder():
    """Of unit variance sigma^2 = beta is optimal (Ho et al., sec. 3.2): all that is lost is the
    noise that the last step leaves out, 8 steps or 1000."""
    for s, gain in ((0.5, 20.0), (2.0, 0.1)):
        x = images(s, gain, scaled=True)
        expected = s * math.sqrt(recursion(1.0))
        assert x.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * x.numel()))
        assert abs(x.mean().item()) < 4 * s / math.sqrt(x.numel())
    beta = STRONG[0].item()
    assert recursion(1.0) == pytest.approx(1 - beta)             # of x_0_hat, and 1 of x_1


def test_without_the_scale_eight_steps_miss_the_variance_as_the_recursion_says():
    for s, gain in ((0.5, 20.0), (2.0, 0.1)):
        x = images(s, gain, scaled=False)
        expected = math.sqrt(recursion(s * gain)) / gain
        assert x.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * x.numel()))
        assert abs(expected / s - 1) > 2 * abs(math.sqrt(recursion(1.0)) - 1)


def test_the_loss_in_the_latents_is_l_simple_of_the_scaled_latents():
    calls = []

    class UNet(nn.Module):
        def forward(self, z_t, t):
            calls.append((z_t, t))
            return 0 * z_t

    model, ddpm = LatentDiffusion(Linear(5.0), UNet()), strong()
    x_0 = torch.randn(4000, 1, 2, 2)
    model.rescale(x_0)
    assert model.loss(ddpm, x_0).item() == pytest.approx(1, abs=0.05)        # predicting 0
    (z_t, t), = calls
    assert t.unique().tolist() == list(range(1, 9))
    a = ddpm.alpha_bar[t].reshape(-1, 1, 1, 1)
    eps = (z_t - a.sqrt() * x_0 / x_0.std()) / (1 - a).sqrt()
    assert eps.std().item() == pytest.approx(1, abs=0.03)
    assert (eps * x_0).mean().item() == pytest.approx(0, abs=0.03)


def test_training_in_the_latents_leaves_the_autoencoder_as_it_is():
    latent = awake(network(TINY)["latent"])
    latent.autoencoder.requires_grad_(False)
    x = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
    ema = training.fit(latent, lambda model, x_0, labels: model.loss(strong(), x_0), x,
                       torch.zeros(20).long(), steps=3, batch_size=4)
    before = latent.autoencoder.state_dict()
    assert all(torch.equal(weight, before[name])
               for name, weight in ema.autoencoder.state_dict().items())
    assert any((weight.grad != 0).any() for weight in latent.unet.parameters())


# ---- sampling ----

def test_the_trap_what_nothing_clips_grows_beyond_bounds_where_the_cosine_schedule_ends():
    """All data is 0, and eps_theta is off by 0.05."""
    def reach(ddpm):
        def model(z_t, t):
            return z_t / ddpm.one_minus_alpha_bar[t].sqrt().reshape(-1, 1, 1, 1) + 0.05
        steps = ddpm.reverse_process(model, torch.zeros(1, 1, 1, 1), clip=False, generator=noise())
        return max(abs(x_0_hat.item()) for _, _, x_0_hat in steps)

    whole = DDPM(cosine_beta_schedule(250))
    ours = network({**TINY, "T": 250})["ddpm"]
    assert 1 / whole.alpha[-1].sqrt() > 30 and 1 / ours.alpha[-1].sqrt() < 1.15
    assert ours.T == 240 and torch.equal(ours.beta, whole.beta[:241])
    assert ours.alpha_bar[-1] < 0.005                            # next to nothing is left of z_0
    _, alpha_bar = coefficients(cosine_beta_schedule(250))
    for ddpm, T in ((whole, 250), (ours, 240)):                  # at t = T by Eq. 15, then less
        expected = 0.05 * math.sqrt(1 / alpha_bar[T] - 1)
        assert reach(ddpm) == pytest.approx(expected, rel=1e-3)
    assert 0.05 * math.sqrt(1 / alpha_bar[250] - 1) > 200 > 1 > 0.05 * math.sqrt(
        1 / alpha_bar[240] - 1)


def test_algorithm_2_runs_from_t_to_0_and_does_not_clip_latents():
    def model(x_t, t):
        times.append(t[0].item())
        a = strong().alpha_bar[t].reshape(-1, 1, 1, 1)
        b = strong().one_minus_alpha_bar[t].reshape(-1, 1, 1, 1)
        return (x_t - a.sqrt() * 3) / b.sqrt()                   # all data equals 3

    for clip, value in ((False, 3), (True, 1)):
        times = []
        x, seconds = sample(strong(), model, (5, 2, 4, 4), clip, 0)
        assert times == list(range(8, 0, -1)) and seconds >= 0   # of a clock that may be coarse
        torch.testing.assert_close(x, torch.full((5, 2, 4, 4), float(value)), atol=1e-4, rtol=0)
    runs = [sample(strong(), lambda x_t, t: 0 * x_t, (5, 2, 4, 4), True, seed)[0]
            for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


# ---- the file and the program ----

@pytest.fixture(scope="module")
def trained_latent(tmp_path_factory):
    """A file of `train`, of 40 digits; tests do not write to it."""
    path = tmp_path_factory.mktemp("latent") / "latent.pt"
    with pytest.MonkeyPatch.context() as patch:
        original = data.digits
        patch.setattr(data, "digits", lambda size, seed: original(size, 40, seed))
        patch.setattr(latent_diffusion, "CONFIG", TINY)
        patch.setattr(training, "autocast", contextlib.nullcontext)      # on every machine alike
        patch.setattr(latent_diffusion, "fit", lambda model, loss, x, labels, steps, *args, **how:
                      training.fit(model, loss, x, labels, min(steps, 5), *args, **how))
        latent_diffusion.main(["train", "--steps", "10", "--checkpoint", str(path), "--device",
                               "cpu"])
    return path


def test_train_writes_networks_that_load_fit_rebuilds_scale_and_all(trained_latent):
    content = read_checkpoint(trained_latent)
    assert content["config"] == TINY and content["step"] == 10
    config, networks = training.load_fit(trained_latent, "cpu", network)
    ddpm, latent, pixel = (networks[name] for name in ("ddpm", "latent", "pixel"))
    assert latent.scale == content["ema"]["latent.scale"] and latent.scale != 1
    expected = cosine_beta_schedule(5).float()
    torch.testing.assert_close(ddpm.beta[1:], expected)
    assert not any(weight.requires_grad for weight in networks.parameters())
    for name, weight in networks.state_dict().items():
        assert torch.equal(weight, content["ema"][name])
    assert pixel(torch.randn(2, 1, 8, 8), torch.tensor([1, 5])).shape == (2, 1, 8, 8)
    assert latent(torch.randn(2, 2, 2, 2), torch.tensor([1, 5])).shape == (2, 2, 2, 2)
    for last in ("latent.autoencoder.encoder.8", "latent.autoencoder.decoder.8",
                 "latent.unet.conv_out", "pixel.conv_out"):      # all of them were trained
        assert (content["ema"][f"{last}.bias"] != 0).any()


def test_the_scale_is_that_of_the_trained_autoencoder(trained_latent):
    _, networks = training.load_fit(trained_latent, "cpu", network)
    x, _ = data.load("digits", 8)
    z_0 = networks["latent"].encode(data.to_model(x), noise())
    assert z_0.std().item() == pytest.approx(1, rel=0.2)


def test_pixels_get_as_much_time_as_autoencoder_and_latents_together(tmp_path, monkeypatch):
    clock, calls, saved = [0.0], [], []

    def fit(model, loss, x, labels, steps, batch_size=64, **kwargs):
        seconds = {64: 0.5, 32: 2.0}[batch_size] * steps         # of pixels, 2 s a step
        calls.append((type(model).__name__, steps, batch_size, loss(model, data.to_model(x[:2]),
                                                                    labels[:2]).shape))
        clock[0] += seconds
        averaged = copy.deepcopy(model)
        averaged.is_averaged = True
        return averaged

    monkeypatch.setattr(latent_diffusion, "CONFIG", TINY)
    monkeypatch.setattr(latent_diffusion, "save_fit", lambda *args: saved.append(args[-1]))
    monkeypatch.setattr(latent_diffusion, "fit", fit)
    monkeypatch.setattr(latent_diffusion.time, "process_time", lambda: clock[0])
    latent_diffusion.main(["train", "--steps", "100", "--device", "cpu", "--checkpoint",
                           str(tmp_path / "x.pt")])
    assert calls == [("Autoencoder", 20, 64, ()), ("LatentDiffusion", 100, 64, ()),
                     ("UNet", 20, 32, ()), ("UNet", 30, 32, ())]           # 60 s
    networks, = saved
    assert all(hasattr(part, "is_averaged") for part in (
        networks["latent"], networks["latent"].autoencoder, networks["pixel"]))


def test_the_program_compares_latents_with_pixels(trained_latent, tmp_path, capsys, monkeypatch):
    drawn = []
    show = latent_diffusion.show
    monkeypatch.setattr(latent_diffusion, "show", lambda axes, x, title: (
        drawn.append((title, x)), show(axes, x, title=title))[1])
    monkeypatch.setattr(latent_diffusion, "read", lambda net, x: (x.mean((1, 2, 3)) > 0, None))
    monkeypatch.setattr(latent_diffusion, "autocast", contextlib.nullcontext)        # of bfloat16
    out = tmp_path / "x.png"
    latent_diffusion.main(["--checkpoint", str(trained_latent), "--n", "5", "--device", "cpu",
                           "--seed", "1", "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
    titles, (held_out, decoded, ours, theirs) = zip(*drawn, strict=True)
    assert ours.shape == theirs.shape == (5, 1, 8, 8)
    assert decoded.shape == held_out.shape == (36, 1, 8, 8)
    x, _ = data.load("digits", 8, split="test")
    order = torch.randperm(len(x), generator=noise(1))
    assert torch.equal(data.to_uint8(held_out), x[order[:36]])
    held_out = data.to_model(x[order])

    _, networks = training.load_fit(trained_latent, "cpu", network)
    latent = networks["latent"]
    z_0 = latent.encode(held_out, noise(1))
    torch.testing.assert_close(decoded, latent.decode(z_0)[:36])
    decoded = latent.decode(z_0)
    torch.testing.assert_close(ours, latent.decode(networks["ddpm"].sample(
        latent, (5, 2, 2, 2), clip=False, generator=noise(1))), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(theirs, networks["ddpm"].sample(
        networks["pixel"], (5, 1, 8, 8), generator=noise(1)), rtol=1e-3, atol=1e-3)
    said = capsys.readouterr().out.split("latent.pt, T = 5")[1]
    s = 1 / latent.scale.item()
    dB = 10 * torch.log10(4 / ((decoded - held_out) ** 2).flatten(1).mean(1)).mean().item()
    numbers = re.search(r"at ([-\d.]+) dB; standard deviation of latents ([\d.]+), "
                        r"scaled ([\d.]+); .* is off by ([\d.]+)", said).groups()
    assert [float(n) for n in numbers] == pytest.approx(
        [dB, s * z_0.std().item(), z_0.std().item(), s ** 2], abs=0.051)
    shares = [f"{(image.mean((1, 2, 3)) > 0).float().mean().item():.1%}"
              for image in (held_out, decoded, ours, theirs)]
    assert all(title.endswith(f"\n{share} recognised")
               for title, share in zip(titles, shares, strict=True))
    found = re.search(r"long: (\S+) of 5 .* and (\S+) of those .*held-out (\S+), "
                      r"decoded (\S+)\)", said)
    assert list(found.groups()) == [shares[2], shares[3], shares[0], shares[1]]


def test_wrong_arguments_end_in_one_line(trained, capsys):
    for argv, message in (
            (["train", "--steps", "0"], "must be in 1.."), (["sample"], "sample"),
            (["train", "--checkpoint", "x.png"], "ends in .pt"),
            (["--checkpoint", trained[0]], "latent_diffusion train")):
        refused(capsys, argv, message, main=latent_diffusion.main)


def test_the_shipped_file_is_small_and_its_latents_have_unit_variance():
    path = latent_diffusion.SHIPPED
    assert path.stat().st_size <= 2.5 * 10 ** 6
    config, networks = training.load_fit(path, "cpu", network)
    assert config == latent_diffusion.CONFIG
    x, _ = data.load("digits", config["image_size"], split="test")
    latent, x = networks["latent"], data.to_model(x)
    z_0 = latent.encode(x, noise())
    assert z_0.std().item() == pytest.approx(1, rel=0.05)
    mse = ((latent.decode(z_0) - x) ** 2).mean().item()
    assert 10 * math.log10(4 / mse) > 25
