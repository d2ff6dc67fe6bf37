"""The transformer: patches come back, blocks start as the identity, and know where they are."""
import math
import re

import pytest
import torch
import torch.nn.functional as F
from stand_ins import awake, noise, refused
from test_ddpm import strong

import data
import sample as core
from papers import dit
from papers.dit import Block, DiT, patchify, positions, unpatchify
from papers.kit import judge, training
from papers.kit.chain import respace
from unet import timestep_embedding


def small(channels=8, blocks=2, image_channels=1):
    return DiT(image_channels=image_channels, channels=channels, num_res_blocks=blocks)


# ---- patches ----

@pytest.mark.parametrize("C, H, W, p", [(1, 4, 4, 2), (3, 8, 4, 2), (2, 4, 8, 4), (1, 3, 5, 1)])
def test_patches_put_together_are_the_image(C, H, W, p):
    x = torch.randn(3, C, H, W)
    tokens = patchify(x, p)
    assert tokens.shape == (3, H * W // p ** 2, C * p * p)
    assert torch.equal(unpatchify(tokens, p, H, W), x)


def test_a_token_is_one_patch_and_they_come_row_by_row():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    tokens = patchify(x, 2)
    assert torch.equal(tokens[0, 0], x[0, :, :2, :2].flatten())
    assert torch.equal(tokens[0, 1], x[0, :, :2, 2:4].flatten())
    assert torch.equal(tokens[0, 3], x[0, :, 2:, :2].flatten())


def test_positions_tell_row_and_column():
    found = positions(3, 5, 16)
    assert found.shape == (15, 16) and len(found.unique(dim=0)) == 15
    torch.testing.assert_close(found[7], torch.cat([
        timestep_embedding(torch.tensor([time]), 8)[0] for time in (1, 2)]))     # 7 = 5 * 1 + 2


# ---- blocks ----

def test_adaln_zero_starts_as_the_identity_and_the_network_as_0():
    net, x, c = small(), torch.randn(2, 5, 8), torch.randn(2, 8)
    for block in net.blocks:
        assert torch.equal(block(x, c), x)
    assert torch.equal(net(torch.randn(2, 1, 4, 6), torch.tensor([1, 9])), torch.zeros(2, 1, 4, 6))
    assert not torch.equal(awake(net).blocks[0](x, c), x)


def test_a_block_is_what_the_figure_says():
    """By hand, one head after the other: x + gate branch(norm(x) (1 + scale) + shift)."""
    block, x, c = awake(Block(8)), torch.randn(2, 5, 8), torch.randn(2, 8)
    modulation = F.linear(c / (1 + (-c).exp()), block.modulation.weight, block.modulation.bias)
    shift, scale, gate, shift_2, scale_2, gate_2 = modulation[:, None].split(8, dim=2)

    def norm(x):
        return (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 1e-6).sqrt()
    q, k, v = block.qkv(norm(x) * (1 + scale) + shift).split(8, dim=2)
    heads = [(q[..., h] @ k[..., h].mT / 2 ** 0.5).softmax(2) @ v[..., h]
             for h in (slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8))]
    h = x + gate * block.proj(torch.cat(heads, 2))
    wide = block.mlp[0](norm(h) * (1 + scale_2) + shift_2)
    gelu = wide / 2 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (wide + 0.044715 * wide ** 3)))
    expected = h + gate_2 * block.mlp[2](gelu)
    torch.testing.assert_close(block(x, c), expected, rtol=1e-5, atol=1e-5)
    assert [tuple(layer.weight.shape) for layer in block.mlp[::2]] == [(32, 8), (8, 32)]


def test_the_network_knows_where_a_patch_lies_and_what_time_it_is():
    net, x = awake(small()), torch.zeros(1, 1, 4, 4)
    one, other = net(x, torch.tensor([3])), net(x, torch.tensor([700]))
    patches = patchify(one, 2)[0]
    assert torch.pdist(patches).min() > 1e-3 and (one - other).abs().max() > 1e-3
    both = net(torch.cat([x, x]), torch.tensor([3, 700]))
    torch.testing.assert_close(both, torch.cat([one, other]), rtol=1e-4, atol=1e-4)


def test_what_a_patch_says_comes_out_where_it_lies():
    """Of blocks that still are the identity: no other patch hears of it."""
    net, x = small(), torch.zeros(1, 1, 4, 6)
    awake(net.embed), awake(net.out)
    other = x.clone()
    other[..., :2, 2:4] = 1
    changed = (net(other, torch.tensor([1])) - net(x, torch.tensor([1]))).abs() > 1e-6
    assert changed[..., :2, 2:4].all() and changed.sum() == 4


def test_any_width_of_8_or_more_works():
    for channels in (8, 9, 10, 11):
        assert awake(small(channels))(torch.randn(2, 1, 4, 6), torch.tensor([1, 9])).shape == (
            2, 1, 4, 6)


def test_every_weight_gets_a_gradient_once_it_is_awake():
    net = awake(small(image_channels=3))
    net(torch.randn(2, 3, 4, 4), torch.tensor([1, 5])).square().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad.abs().max() > 0, name


# ---- what is measured ----

def test_the_loss_by_quarter_of_t_is_that_of_the_noise():
    ddpm = strong()                                  # T = 8
    told = torch.tensor([0, 1, 1, 2, 2, 3, 3, 4, 4])

    def model(x_t, t):                               # of images that are 0: eps is known
        eps = x_t / ddpm.one_minus_alpha_bar[t].sqrt().view(-1, 1, 1, 1)
        return eps + told[t].view(-1, 1, 1, 1)
    found = dit.by_quarter(ddpm, model, torch.zeros(40, 1, 2, 2), 0)
    torch.testing.assert_close(found, torch.tensor([1.0, 4, 9, 16]), rtol=1e-4, atol=1e-4)


# ---- the program ----

def test_the_program_compares_both_and_prints_what_it_draws(flags, tmp_path, capsys, monkeypatch):
    path, kept, original = tmp_path / "made" / "checkpoint.pt", [], dit.draw_figure
    dit.main(["train", *flags("--out", str(path.parent), "--channels", "64", "--lr", "0.05")])
    capsys.readouterr()
    monkeypatch.setattr(dit, "draw_figure", lambda *args: kept.append(args) or original(*args))
    monkeypatch.setattr(dit, "STEPS", 2)
    dit.main(["--checkpoint", str(path), "--n", "3", "--seed", "1", "--device", "cpu", "--out",
              str(tmp_path / "d.png")])
    said, ((losses, rows),) = capsys.readouterr().out, kept
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG" and "seeds [1, 2, 3]" in said
    config, ddpm, net = training.load_eps(path, "cpu", DiT)
    chain, model = respace(ddpm, net, 2)
    H, reader = config["image_size"], judge.load_reader()
    x = [chain.sample(model, (3, 1, H, H), generator=noise(seed)) for seed in (1, 2, 3)]
    torch.testing.assert_close(rows["DiT"], x[0])
    x_0 = data.to_model(data.load("digits", H, split="test")[0])
    torch.testing.assert_close(losses["DiT"][1], dit.by_quarter(ddpm, net, x_0[:256], 2))
    share = torch.stack([100 * judge.read(reader, each)[0].float().mean() for each in x])
    far = torch.tensor([judge.frechet(judge.features(reader, each), judge.features(reader, x_0))
                        for each in x])
    assert f"{share.mean():.1f} +- {share.std():.1f}% (DiT)" in said.splitlines()[-2]
    line, = re.findall(r"^DiT: (.*)$", said, re.M)
    assert line.endswith(f"Frechet distance {far.mean():.1f} +- {far.std():.1f}")
    assert ", ".join(f"{value:.4f}" for value in losses["DiT"].mean(0)) in line
    assert line.startswith(f"{sum(weight.numel() for weight in net.parameters()):,} weights")
    shipped = sum(weight.numel() for weight in core.load(core.SHIPPED)[2].parameters())
    assert f"U-Net: {shipped:,} weights" in said
    D, N, blocks = 64, (H // 2) ** 2, config["num_res_blocks"]
    once = 2 * D * D + blocks * 6 * D * D + 2 * D * D            # time, modulations
    each = 4 * D + 4 * D + blocks * (12 * D * D + 2 * N * D)     # of a token: two a multiplication
    assert f"{2 * (once + N * each) / 1e6:.1f} million operations" in line


def test_wrong_values_end_in_one_line(trained, capsys):
    refused(capsys, ["train", "--channels", "7"], "--channels", "at least 8", main=dit.main)
    refused(capsys, ["--checkpoint", trained[0]], "papers.dit train", main=dit.main)


def test_the_shipped_network_is_small_and_has_learned():
    assert dit.SHIPPED.stat().st_size < 1e6
    config, ddpm, net = training.load_eps(dit.SHIPPED, "cpu", DiT)
    assert {name: config[name] for name in ("channels", "num_res_blocks", "steps")} == {
        name: dit.Config.__dataclass_fields__[name].default
        for name in ("channels", "num_res_blocks", "steps")}
    x_0 = data.to_model(data.load("digits", 16, split="test")[0][:64])
    first, *_, last = dit.by_quarter(ddpm, net, x_0, 0)
    assert first < 0.2 and last < 0.03               # of 1
