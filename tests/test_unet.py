"""The network: its size, its wiring, and each part against the same mathematics written out."""
import math

import pytest
import torch
import torch.nn.functional as F

from unet import Attention, Downsample, ResidualBlock, UNet, Upsample, timestep_embedding

SMALL = {"image_size": 8, "image_channels": 1, "channels": 8, "channel_mults": (1, 2),
         "num_res_blocks": 1, "attention_resolutions": (4,), "dropout": 0.0}


def randomise(module, seed=0):
    """Give every weight a value, so that nothing hides behind the zeros of the initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return module.eval()


def assert_near(actual, expected):
    """Equal to rounding, which is of other sizes on other processors; a mistake is of order 1."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def small(**changes):
    return randomise(UNet(**{**SMALL, **changes}))


def test_the_default_is_the_papers_cifar10_network():
    with torch.device("meta"):                       # where weights take no memory: 143 MB
        net = UNet()
    assert sum(weight.numel() for weight in net.parameters()) == 35_746_307
    assert sum(isinstance(module, Attention) for module in net.modules()) == 2 + 1 + 3
    norms = [module for module in net.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert all((norm.num_groups, norm.eps) == (32, 1e-6) for norm in norms)
    assert {module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)} == {0.1}


def test_attention_is_in_every_block_of_its_level_and_in_the_middle():
    seen = []
    net = small(image_size=16, channel_mults=(1, 2, 2), num_res_blocks=2,
                attention_resolutions=(8,))
    for module in net.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda module, x, y: seen.append(y.shape[2]))
    net(torch.zeros(1, 1, 16, 16), torch.tensor([1]))
    assert seen == [8, 8, 4, 8, 8, 8]                           # down, middle, up


def test_it_returns_0_before_training():
    x_t = torch.randn(2, 1, 8, 8)                    # to the bit: the last weights are 0
    assert torch.equal(UNet(**SMALL)(x_t, torch.tensor([1, 5])), torch.zeros_like(x_t))


def test_every_branch_starts_as_the_identity_or_its_shortcut():
    block = next(m for m in UNet(**SMALL).modules() if isinstance(m, ResidualBlock) and
                 not isinstance(m.shortcut, torch.nn.Identity))
    x = torch.randn(2, 8, 4, 4)
    assert_near(block(x, torch.randn(2, 32)), block.shortcut(x))
    attention = next(m for m in UNet(**SMALL).modules() if isinstance(m, Attention))
    x = torch.randn(2, 16, 4, 4)
    assert_near(attention(x), x)


def test_the_other_weights_start_uniform_with_the_variance_of_the_authors():
    net = UNet(channels=64)                          # a quarter of the default's weights
    named = dict(net.named_modules())
    layers = {name: module for name, module in named.items()
              if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))}
    zero = {name for name, module in layers.items() if not module.weight.any()}
    assert zero == {name for name in layers if name.endswith(("conv2", "proj", "conv_out"))}
    assert not any(module.bias.any() for module in layers.values())
    for name, module in layers.items():
        if name not in zero:
            parts = module.weight.chunk(3) if name.endswith("qkv") else [module.weight]
            for weight in parts:
                area = weight[0, 0].numel()
                bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * area))
                assert weight.abs().max().item() == pytest.approx(bound, rel=0.02)
                assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_every_weight_gets_a_gradient():
    net = small().train()
    net(torch.randn(2, 1, 8, 8), torch.tensor([1, 7])).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in net.parameters())


def test_the_time_and_each_image_matter_and_images_do_not_mix():
    net, x_t, t = small(), torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 900])
    eps = net(x_t, t)
    for i in range(3):
        assert_near(net(x_t[i:i + 1], t[i:i + 1]), eps[i:i + 1])
    assert not torch.allclose(net(x_t, t + 1), eps, atol=1e-3)


def test_the_wiring_is_a_u():
    net, x_t, t = small(), torch.randn(2, 1, 8, 8), torch.tensor([3, 500])
    emb = net.emb[2](F.silu(net.emb[0](timestep_embedding(t, 8))))
    assert [type(block) for block in net.down] == [ResidualBlock, Downsample, ResidualBlock]
    assert [type(block) for block in net.up] == [ResidualBlock, ResidualBlock, Upsample,
                                                 ResidualBlock, ResidualBlock]
    h_0 = net.conv_in(x_t)
    h_1 = net.down[0](h_0, emb)
    h_2 = net.down[1](h_1, emb)
    h_3 = net.down[2](h_2, emb)
    h = net.mid[1](net.mid[0](h_3, emb), emb)
    h = net.up[0](torch.cat([h, h_3], 1), emb)
    h = net.up[2](net.up[1](torch.cat([h, h_2], 1), emb), emb)
    h = net.up[3](torch.cat([h, h_1], 1), emb)
    h = net.up[4](torch.cat([h, h_0], 1), emb)
    h = net.conv_out(F.silu(F.group_norm(h, 4, net.norm_out.weight, net.norm_out.bias, 1e-6)))
    assert_near(net(x_t, t), h)
    # and the middle: a block with attention, then one without
    assert isinstance(net.mid[0].attention, Attention) and len(net.mid) == 2
    assert isinstance(net.mid[1].attention, torch.nn.Identity)


def test_the_time_survives_the_normalisation_after_it_however_few_the_channels():
    """In a group of one channel GroupNorm would subtract the time, the same for all pixels."""
    for channels in (4, 8, 16, 32):
        net = small(channels=channels, channel_mults=(1,), attention_resolutions=())
        x_t = torch.randn(1, 1, 8, 8)
        early, late = (net(x_t, torch.tensor([t])) for t in (1, 900))
        assert (early - late).abs().max() > 0.01


@pytest.mark.parametrize("C, groups", [(64, 32), (48, 16), (32, 16), (6, 2), (5, 1), (4, 2)])
def test_a_block_is_norm_silu_conv_plus_time_norm_silu_conv(C, groups):
    block = randomise(ResidualBlock(C, 32, 12, dropout=0.5, attention=False))
    x, emb = torch.randn(2, C, 4, 4), torch.randn(2, 12)

    def norm(h, layer, groups):
        h = h.reshape(2, groups, -1)
        h = (h - h.mean(2, keepdim=True)) / (h.var(2, keepdim=True, correction=0) + 1e-6).sqrt()
        return h.reshape(2, -1, 4, 4) * layer.weight[:, None, None] + layer.bias[:, None, None]

    h = norm(x, block.norm1, groups)
    h = F.conv2d(h * h.sigmoid(), block.conv1.weight, block.conv1.bias, padding=1)
    h = h + ((emb * emb.sigmoid()) @ block.emb.weight.T + block.emb.bias)[:, :, None, None]
    h = norm(h, block.norm2, 16)                                # of 32 channels
    h = F.conv2d(h * h.sigmoid(), block.conv2.weight, block.conv2.bias, padding=1)
    assert_near(block(x, emb), block.shortcut(x) + h)


def test_dropout_is_on_in_training_and_off_in_eval():
    net, x_t, t = small(dropout=0.5), torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    assert_near(net(x_t, t), net(x_t, t))
    net.train()
    assert (net(x_t, t) - net(x_t, t)).abs().max() > 0.1


def test_attention_is_softmax_q_k_v_over_the_pixels():
    attention = randomise(Attention(8))
    x = torch.randn(2, 8, 3, 5)
    h = F.group_norm(x, 4, attention.norm.weight, attention.norm.bias, 1e-6).reshape(2, 8, 15)
    q, k, v = (torch.einsum("dc,bcn->bdn", w[:, :, 0, 0], h) + b[:, None]
               for w, b in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3),
                               strict=True))
    weights = (torch.einsum("bci,bcj->bij", q, k) / math.sqrt(8)).softmax(2)
    h = torch.einsum("bij,bcj->bci", weights, v)
    h = torch.einsum("dc,bcn->bdn", attention.proj.weight[:, :, 0, 0], h)
    h = h + attention.proj.bias[:, None]
    assert_near(attention(x), x + h.reshape(2, 8, 3, 5))


def test_the_network_compiles_in_one_piece():
    net, x_t, t = randomise(small()), torch.randn(2, 1, 8, 8), torch.tensor([1, 5])
    whole = torch.compile(net, backend="eager", fullgraph=True)
    assert_near(whole(x_t, t), net(x_t, t))


def test_down_starts_at_the_first_pixel_and_pads_right_and_bottom():
    down, x = Downsample(1, 1, 3, stride=2), torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    with torch.no_grad():
        down.bias.zero_()
        down.weight.zero_()[0, 0, 0, 0] = 1
        assert_near(down(x, None)[0, 0], torch.tensor([[1.0, 3], [9, 11]]))
        down.weight.zero_()[0, 0, 2, 2] = 1
        assert_near(down(x, None)[0, 0], torch.tensor([[11.0, 0], [0, 0]]))


def test_up_repeats_each_pixel_and_convolves():
    up, x = Upsample(1, 1, 3, padding=1), torch.tensor([[[[1.0, 2], [3, 4]]]])
    with torch.no_grad():
        up.bias.zero_()
        up.weight.zero_()[0, 0, 1, 1] = 1
        expected = [[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
        assert_near(up(x, None)[0, 0], torch.tensor(expected))


@pytest.mark.parametrize("dim", [4, 7, 128])
def test_the_time_embedding_is_sines_then_cosines(dim):
    n = dim // 2
    w = [10_000 ** (-i / (n - 1)) for i in range(n)]
    emb = timestep_embedding(torch.tensor([1, 17, 1000]), dim)
    for row, t in zip(emb, (1, 17, 1000), strict=True):
        expected = [math.sin(t * w_i) for w_i in w] + [math.cos(t * w_i) for w_i in w]
        assert row.tolist() == pytest.approx(expected + [0] * (dim % 2), abs=2e-4)
    assert emb.dtype == torch.float32


def test_a_time_embedding_of_fewer_than_4_dimensions_is_refused():
    with pytest.raises(ValueError, match="at least 4 dimensions, not 3"):
        timestep_embedding(torch.tensor([1]), 3)


@pytest.mark.parametrize("H, W", [(8, 8), (2, 2), (6, 10), (16, 4)])
def test_any_size_works_that_the_levels_can_halve(H, W):
    assert small()(torch.randn(1, 1, H, W), torch.tensor([1])).shape == (1, 1, H, W)


@pytest.mark.parametrize("channels, image_channels", [(4, 1), (6, 3), (5, 2), (33, 4)])
def test_few_and_odd_channels_work(channels, image_channels):
    net = small(channels=channels, image_channels=image_channels, dropout=0.2)
    x_t = torch.randn(1, image_channels, 8, 8)
    assert net(x_t, torch.tensor([1])).shape == x_t.shape


def test_one_level_and_two_blocks_work():
    net = small(channel_mults=(1,), attention_resolutions=())
    assert net(torch.randn(1, 1, 5, 7), torch.tensor([1])).shape == (1, 1, 5, 7)
    net = small(channel_mults=(1, 2, 2), num_res_blocks=2)
    assert net(torch.randn(1, 1, 4, 4), torch.tensor([1])).shape == (1, 1, 4, 4)
    assert len(net.down) == 2 * 3 + 2 and len(net.up) == 3 * 3 + 2


def test_other_sizes_are_refused_with_the_divisor():
    for H, W in ((9, 8), (8, 9)):
        with pytest.raises(ValueError, match=f"divisible by 2, not {H} x {W}"):
            small()(torch.randn(1, 1, H, W), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), not \(1, 8, 8\)"):
        small()(torch.randn(1, 8, 8), torch.tensor([1]))
    with pytest.raises(ValueError, match="divisible by 8, not 28 x 28"):
        UNet(image_size=28)


def test_a_subclass_may_be_made_of_blocks_of_its_own():
    class Own(ResidualBlock):
        pass

    class Net(UNet):
        Block = Own

    networks = []
    for kind in (UNet, Net):
        torch.manual_seed(0)
        networks.append(kind(**SMALL))
    blocks = [{type(part) for part in net.modules() if isinstance(part, ResidualBlock)}
              for net in networks]
    assert blocks == [{ResidualBlock}, {Own}]
    for (name, weight), (same, other) in zip(*(net.state_dict().items() for net in networks),
                                             strict=True):
        assert name == same and torch.equal(weight, other)
