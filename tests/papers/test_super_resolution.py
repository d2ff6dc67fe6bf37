"""The low-resolution image reaches the network, and a perfect one gives the exact posterior."""
import math
import re

import pytest
import torch
import torch.nn.functional as F
from stand_ins import awake, made_once, noise, refused
from test_ddpm import STRONG, coefficients, strong

import data
import sample as core
from papers import dps, super_resolution
from papers.dps import pool
from papers.kit import training
from papers.super_resolution import LowUNet, around, conditional_loss, distances, enlarge, sample
from plumbing.checkpoint import read_checkpoint
from train import L_simple
from unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore:alpha_bar_T")            # of strong()
SMALL = dict(image_size=8, image_channels=2, channels=4, channel_mults=(1, 2), num_res_blocks=1,
             attention_resolutions=(), dropout=0.0)


# ---- smaller and larger ----

def cubic(d, a=-0.75):
    """Keys 1981, the weight of a pixel at distance d; a = -0.75 as in OpenCV and PyTorch."""
    d = abs(d)
    if d <= 1:
        return (a + 2) * d ** 3 - (a + 3) * d ** 2 + 1
    return a * d ** 3 - 5 * a * d ** 2 + 8 * a * d - 4 * a if d < 2 else 0.0


def bicubic(row, size):
    """Enlarge one row by the formula, pixel centres at (i + 1/2) / size, edges repeated."""
    n, out = len(row), []
    for i in range(size):
        x = (i + 0.5) * n / size - 0.5
        left = math.floor(x)
        out.append(sum(cubic(x - k) * row[min(max(k, 0), n - 1)]
                       for k in range(left - 1, left + 3)))
    return out


def test_enlarging_is_bicubic_interpolation_about_the_centres_of_pixels():
    row, column = torch.randn(5).double(), torch.randn(3).double()
    low = (column[:, None] * row).reshape(1, 1, 3, 5)
    expected = torch.outer(torch.tensor(bicubic(column.tolist(), 12)),
                           torch.tensor(bicubic(row.tolist(), 20)))
    torch.testing.assert_close(enlarge(low, (12, 20))[0, 0], expected.double(), rtol=1e-5,
                               atol=1e-6)
    torch.testing.assert_close(enlarge(low, (3, 5)), low)


def test_what_is_enlarged_comes_back_where_it_is_smooth():
    """Of a plane, bicubic interpolation and means of squares are both exact, but for the edges."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    low = (0.03 * x - 0.05 * y + 0.1)[None, None]
    back = pool(enlarge(low, (32, 32)), 4)
    torch.testing.assert_close(back[..., 2:-2, 2:-2], low[..., 2:-2, 2:-2])
    torch.testing.assert_close(pool(enlarge(0 * low + 0.3, (32, 32)), 4), 0 * low + 0.3)


# ---- the network ----

def test_the_network_is_a_u_net_that_takes_twice_the_channels():
    torch.manual_seed(0)
    unet = UNet(**SMALL)
    torch.manual_seed(0)
    net = LowUNet(**SMALL)
    ours, theirs = net.state_dict(), unet.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert name.startswith("conv_in") or torch.equal(ours[name], theirs[name])
    weight = ours["conv_in.weight"]
    assert weight.shape == (4, 4, 3, 3) and (ours["conv_in.bias"] == 0).all()
    bound = math.sqrt(6 / ((4 + 4) * 9))                         # Glorot & Bengio 2010
    assert 0.8 * bound < weight.abs().max() < 1.0001 * bound


def test_x_t_comes_first_and_the_enlarged_low_beside_it():
    net, x_t, t = awake(LowUNet(**SMALL)), torch.randn(3, 2, 8, 8), torch.tensor([1, 5, 8])
    low = torch.randn(3, 2, 2, 2)
    seen = []
    net.conv_in.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    out = net(x_t, t, low)
    assert out.shape == x_t.shape and torch.equal(seen[0][:, :2], x_t)
    expected = F.interpolate(low, scale_factor=4, mode="bicubic")
    torch.testing.assert_close(seen[0][:, 2:], expected)
    for i in range(3):                                           # each image hears of its own alone
        other = low.clone()
        other[i] += 1
        changed = (net(x_t, t, other) - out).flatten(1).abs().amax(1) > 1e-4
        assert changed.tolist() == [k == i for k in range(3)]
    assert not torch.equal(net(x_t, t + 1, low), out)


def test_no_low_is_a_grey_one():
    net, x_t, t = awake(LowUNet(**SMALL)), torch.randn(3, 2, 8, 8), torch.tensor([1, 5, 8])
    grey = net(x_t, t, torch.zeros(3, 2, 2, 2))
    assert torch.equal(net(x_t, t), grey)
    assert not torch.allclose(net(x_t, t, torch.ones(3, 2, 2, 2)), grey)


def test_a_low_of_other_images_is_refused():
    net, x_t, t = LowUNet(**SMALL), torch.randn(3, 2, 8, 8), torch.tensor([1, 5, 8])
    for shape in ((1, 2, 2, 2), (3, 1, 2, 2), (2, 2, 2)):
        with pytest.raises(ValueError, match=r"with the B and C of x_t, \(3, 2, 8, 8\)"):
            net(x_t, t, torch.zeros(shape))


def test_before_training_it_predicts_no_noise_and_every_weight_gets_a_gradient():
    net = LowUNet(**SMALL)
    x_t, t, low = torch.randn(2, 2, 8, 8), torch.tensor([3, 4]), torch.randn(2, 2, 2, 2)
    assert (net(x_t, t, low) == 0).all()
    awake(net)(x_t, t, low).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in net.parameters())


# ---- the loss ----

def test_every_image_is_trained_with_its_own_low_at_its_own_time():
    calls = []

    def spy(x_t, t, low):
        calls.append((x_t, t, low))
        return torch.zeros_like(x_t)

    x_0 = torch.rand(400, 1, 8, 8) * 2 - 1
    losses, t = conditional_loss(strong(), spy, x_0, None)
    (x_t, times, low), = calls
    expected = x_0.reshape(400, 1, 2, 4, 2, 4).mean((3, 5))
    torch.testing.assert_close(low, expected)
    assert torch.equal(times, t) and t.unique().tolist() == list(range(1, 9))
    assert losses.shape == (400,)
    _, alpha_bar = coefficients(STRONG)
    a = torch.tensor(alpha_bar)[t].reshape(-1, 1, 1, 1)
    eps = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
    torch.testing.assert_close(losses, eps.square().flatten(1).mean(1).float(), rtol=1e-3,
                               atol=1e-4)


def test_the_loss_is_l_simple_if_low_is_not_looked_at():
    x_0 = torch.randn(6, 1, 8, 8)

    def model(x_t, t, low=None):
        return x_t / t.reshape(-1, 1, 1, 1)

    torch.manual_seed(3)
    losses, t = conditional_loss(strong(), model, x_0, None)
    torch.manual_seed(3)
    others, times = L_simple(strong(), model, x_0, None)
    assert torch.equal(losses, others) and torch.equal(t, times)


# ---- sampling ----

S, V = 0.8, 0.3                  # x_0 = m + S u + V v: one value for a square, and one per pixel


def perfect(ddpm):
    """eps* of x_0 given its low, where x_0 = 0.1 + S u + V v, u one value for each 4 x 4 square.

    Given low, x_0 is low plus V (v - mean of v): a Gaussian whose mean is low, and whose variance
    is V^2 in all directions but that of the mean of a square, where it is 0.
    """
    _, alpha_bar = coefficients(STRONG)

    def model(x_t, t, low):
        a = torch.tensor(alpha_bar)[t].reshape(-1, 1, 1, 1)
        mean = low.double().repeat_interleave(4, 2).repeat_interleave(4, 3)
        d = x_t.double() - a.sqrt() * mean
        along = pool(d, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
        score = -along / (1 - a) - (d - along) / (a * V ** 2 + 1 - a)
        return (-(1 - a).sqrt() * score).to(x_t)

    return model


def recursion(v):
    """The variance of x_0 by Algorithm 2 with sigma^2 = beta, if q(x_0) has variance v, exactly."""
    beta, alpha_bar = coefficients(STRONG)
    variance = 1.0
    for t in range(len(STRONG), 0, -1):
        a, before = alpha_bar[t], alpha_bar[t - 1]
        x_0_hat = math.sqrt(a) * v / (a * v + 1 - a)             # E[x_0 | x_t] = x_0_hat x_t
        step = (math.sqrt(before) * beta[t] * x_0_hat
                + math.sqrt(1 - beta[t]) * (1 - before)) / (1 - a)
        variance = step ** 2 * variance + (beta[t] if t > 1 else 0)
    return variance


def test_with_a_perfect_network_the_samples_have_the_exact_posterior():
    """The mean is low, the pixels vary as Algorithm 2 makes them, and every sample's low is low."""
    low = torch.tensor([-0.2, 0.1, 0.5, 0.0]).reshape(2, 1, 1, 2)
    ddpm = strong()
    x = ddpm.sample(around(perfect(ddpm), low.repeat(3000, 1, 1, 1)), (6000, 1, 4, 8), clip=False,
                    generator=noise()).reshape(3000, 2, 1, 4, 8)
    torch.testing.assert_close(pool(x.flatten(0, 1), 4), low.repeat(3000, 1, 1, 1), atol=1e-4,
                               rtol=0)
    variance = recursion(V ** 2) * 15 / 16                       # of v less its mean over a square
    inside = x - x.mean(0)
    n = 3000 * 32
    assert inside.square().mean().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / n) + 2e-3)
    wanted = low.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert (x.mean(0) - wanted).abs().max() < 4.5 * math.sqrt(variance / 3000)


def test_if_samples_are_exact_they_are_as_far_from_the_truth_as_from_each_other():
    """And the mean of K has (1 + 1/K) / 2 of the squared error of one."""
    K, B = 5, 4000
    centre = torch.randn(B, 1, 4, 4, generator=noise(1))
    truth, samples = (centre + 0.4 * torch.randn(n, B, 1, 4, 4, generator=noise(n))
                      for n in (1, K))
    error = ((samples - truth) ** 2).mean().item()
    assert error == pytest.approx(2 * 0.16, rel=0.02)
    to_truth, apart = distances(samples, truth[0])
    assert to_truth == pytest.approx(apart, rel=0.02)
    assert ((samples.mean(0) - truth[0]) ** 2).mean().item() == pytest.approx(
        error * (1 + 1 / K) / 2, rel=0.02)


def test_distances_are_means_over_all_pairs_of_images():
    x, x_0 = torch.randn(4, 3, 2, 2, 2), torch.randn(3, 2, 2, 2)
    x[0] *= 5                                        # a root of the mean would be another number
    pairs = [(x[i, k] - x[j, k]).square().mean().sqrt() for k in range(3)
             for i in range(4) for j in range(i)]
    to_truth = [(x[i, k] - x_0[k]).square().mean().sqrt() for k in range(3) for i in range(4)]
    assert distances(x, x_0) == (pytest.approx(torch.stack(to_truth).mean().item()),
                                 pytest.approx(torch.stack(pairs).mean().item()))


def test_k_samples_of_each_low_in_order_from_one_generator():
    low, seen = torch.randn(2, 1, 1, 2), []

    def model(x_t, t, low):
        seen.append((t, low))
        return torch.zeros_like(x_t)

    x = sample(strong(), model, low, 3, noise())
    assert x.shape == (3, 2, 1, 4, 8)
    assert [t[0].item() for t, _ in seen] == list(range(8, 0, -1))
    assert all(torch.equal(each, torch.cat([low] * 3)) for _, each in seen)
    again, other = (sample(strong(), model, low, 3, noise(seed)) for seed in (0, 1))
    assert torch.equal(x, again) and not torch.equal(x, other)
    assert not torch.equal(x[0], x[1])

    def tells(x_t, t, low):                          # x_0_hat is low, whatever x_t
        a = strong().alpha_bar[t].reshape(-1, 1, 1, 1)
        b = strong().one_minus_alpha_bar[t].reshape(-1, 1, 1, 1)
        return (x_t - a.sqrt() * enlarge(low, x_t.shape[2:])) / b.sqrt()

    low = torch.tensor([0.3, -0.4]).reshape(2, 1, 1, 1)
    x = sample(strong(), tells, low, 3, noise())
    torch.testing.assert_close(x, low.expand(3, 2, 1, 1, 1).expand(3, 2, 1, 4, 4), atol=1e-5,
                               rtol=0)


def test_around_is_a_model_of_x_t_and_t_for_any_sampler():
    low = torch.randn(2, 1, 1, 1)
    model = around(lambda x_t, t, low: (x_t, t, low), low)
    assert model(1, 2) == (1, 2, low)


# ---- training and the program ----

@pytest.fixture
def checkpoint(flags, tmp_path_factory):
    """A checkpoint of a tiny LowUNet."""
    return made_once(super_resolution, flags, tmp_path_factory)


def test_train_makes_a_network_that_load_eps_rebuilds(checkpoint):
    whole = checkpoint.parent.with_name("whole")
    content = read_checkpoint(whole / "checkpoint.pt")
    assert content["step"] == 6 and content["ema"]["conv_in.weight"].shape[1] == 2
    _, ddpm, net = training.load_eps(checkpoint, "cpu", LowUNet)
    assert isinstance(net, LowUNet) and not net.training and ddpm.T == 5
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, content["ema"][name])
    assert any(not torch.equal(content["ema"][name], content["model"][name])
               for name in content["ema"])
    assert (whole / "samples.png").exists()


def test_a_resumed_run_is_the_same_run(checkpoint, flags, tmp_path):
    """Bit for bit: both take the same steps, on the same shapes, with as many threads."""
    super_resolution.main(["train", *flags("--out", str(tmp_path / "half"), "--steps", "4",
                                          "--lr", "0.05")])
    super_resolution.main(["train", "--resume", "--steps", "6", "--out", str(tmp_path / "half")])
    whole, half = (read_checkpoint(path)["ema"] for path in (
        checkpoint, tmp_path / "half" / "checkpoint.pt"))
    assert whole.keys() == half.keys() and all(torch.equal(whole[k], half[k]) for k in whole)


def test_what_is_trained_is_the_conditional_loss(flags, monkeypatch):
    seen = []

    def loss(ddpm, model, x_0, labels):
        assert isinstance(model, LowUNet)
        seen.append(x_0.shape)
        return conditional_loss(ddpm, model, x_0, labels)

    monkeypatch.setattr(super_resolution, "conditional_loss", loss)
    super_resolution.main(["train", *flags()])
    assert seen == [(3, 1, 8, 8)] * 6


def test_the_program_compares_enlargements(checkpoint, trained_once, tmp_path, capsys, monkeypatch):
    drawn = []
    draw = super_resolution.draw_panels
    monkeypatch.setattr(super_resolution, "draw_panels", lambda panels, **how: (
        drawn.extend(panels.values()), draw(panels, **how))[1])
    x, labels = data.load("digits", 8, split="test")
    i = torch.randperm(len(x), generator=noise(1))[:3]
    digit = torch.tensor([labels[i[0]], 9 - labels[i[1]], labels[i[2]]])         # two of three
    monkeypatch.setattr(super_resolution, "share_read_as",
                        lambda net, x, y: (digit == y).float().mean().item())
    monkeypatch.setattr(super_resolution, "load_reader", lambda device: True)
    capsys.readouterr()
    super_resolution.main(["--checkpoint", str(checkpoint), "--unconditional",
                           str(trained_once[0] / "checkpoint.pt"), "--n", "3", "--samples", "2",
                           "--device", "cpu", "--seed", "1", "--out", str(tmp_path / "x.png")])
    rows, out = drawn[0], capsys.readouterr().out
    x_0 = data.to_model(x[i])
    assert torch.equal(rows["truth"], x_0)
    low = x_0.reshape(3, 1, 2, 4, 2, 4).mean((3, 5))
    torch.testing.assert_close(rows["low"], low.repeat_interleave(4, 2).repeat_interleave(4, 3))
    torch.testing.assert_close(rows["bicubic"], F.interpolate(
        low, scale_factor=4, mode="bicubic").clamp(-1, 1))
    torch.testing.assert_close(rows["mean of 2"], (rows["SR3"] + rows["SR3, another"]) / 2)
    assert not torch.equal(rows["SR3"], rows["SR3, another"])
    assert all(image.shape == x_0.shape for image in rows.values())

    process, unconditional = core.load(trained_once[0] / "checkpoint.pt")[1:]
    _, ddpm, net = training.load_eps(checkpoint, "cpu", LowUNet)
    generator = noise(1)
    samples = sample(ddpm, net, low, 2, generator)
    x_T = torch.randn(x_0.shape, generator=generator)
    by_dps = dps.sample(process, unconditional, low, lambda x: pool(x, 4), x_T, generator=generator)
    by_dps = by_dps.clamp(-1, 1)                     # as all others are
    for name, expected in (("SR3", samples[0]), ("SR3, another", samples[1]), ("DPS", by_dps)):
        torch.testing.assert_close(rows[name], expected, rtol=0, atol=1e-4)

    lines = {line[:14].strip(): line for line in out.splitlines() if "is off by" in line}
    assert list(lines) == list(rows)
    for name, line in lines.items():
        error = (rows[name] - x_0).flatten(1).double()
        if name != "truth":
            dB = 10 * torch.log10(4 / error.square().mean(1))
            found = [float(n) for n in re.search(r"([\d.]+) \+- ([\d.]+) dB", line).groups()]
            assert found == pytest.approx([dB.mean().item(), dB.std().item() / math.sqrt(3)],
                                          abs=0.006)
        squares = error.reshape(3, 1, 2, 4, 2, 4).mean((3, 5))
        off = float(re.search(r"off by ([\d.]+)", line)[1])
        assert off == pytest.approx(squares.square().mean().sqrt().item(), abs=6e-4)
        assert "66.7% read as the true digit" in line

    found = [float(n) for n in re.search(r"of ([\d.]+) from the truth and of ([\d.]+) from",
                                         out).groups()]
    both = torch.stack([rows["SR3"], rows["SR3, another"]])
    assert found == pytest.approx([
        each.square().mean((-3, -2, -1)).sqrt().mean().item()
        for each in (both - x_0, both[0] - both[1])], abs=6e-4)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_arguments_end_in_one_line(checkpoint, trained_once, flags, tmp_path, capsys):
    capsys.readouterr()
    unconditional = trained_once[0] / "checkpoint.pt"
    for argv, message in (
            (["--checkpoint", str(unconditional)], "super_resolution train"),
            (["--checkpoint", checkpoint, "--unconditional", checkpoint], "do not fit"),
            (["--checkpoint", checkpoint, "--unconditional", core.SHIPPED], "not of the same kind"),
            (["train", "--steps", "0"], "--steps"),
            (["train", "--out", str(checkpoint.parent)], "already holds a run"),
            (["train", *flags("--image-size", "6", "--attention-resolutions", "3",
                               "--out", str(tmp_path / "six"))], "squares")):
        refused(capsys, argv, message, main=super_resolution.main)


def test_the_shipped_file_is_small_and_of_digits():
    content = read_checkpoint(super_resolution.SHIPPED)
    assert super_resolution.SHIPPED.stat().st_size <= 2 * 10 ** 6
    assert set(content) == {"config", "step", "ema"} and content["config"]["data"] == "digits"
    training.load_eps(super_resolution.SHIPPED, "cpu", LowUNet)
