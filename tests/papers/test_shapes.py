"""Sets: no order of the points changes anything; clouds against their ink, distances by hand."""
import math
import re

import pytest
import torch
import torch.nn.functional as F
from stand_ins import awake, noise, refused
from test_ddpm import strong

import data
from papers import shapes
from papers.kit.training import load_fit
from papers.shapes import Block, SetNetwork, chamfer, clouds, nearest_is_own, network, sample

pytestmark = pytest.mark.filterwarnings("ignore:alpha_bar_T")            # of strong()
TINY = {"image_size": 8, "points": 6, "width": 8, "layers": 2, "heads": 2, "T": 5}


def net():
    torch.manual_seed(0)
    return awake(SetNetwork(8, 2, 2))


def image(ink, H=4):
    """(1, 1, H, H) with {(row, column): ink in [0, 1]}, and else none."""
    x = torch.full((1, 1, H, H), -1.0)
    for (row, column), value in ink.items():
        x[0, 0, row, column] = 2 * value - 1
    return x


# ---- clouds ----

@pytest.mark.parametrize("row, column", [(0, 0), (0, 3), (2, 1)])
def test_points_are_anywhere_in_the_pixel_that_has_ink_to_the_right_and_up(row, column):
    x = clouds(image({(row, column): 0.3}), 4000, noise())[0]
    u = torch.stack([(x[:, 0] + 1) * 2 - column, (1 - x[:, 1]) * 2 - row], 1)        # in the pixel
    assert u.min() > -1e-5 and u.max() < 1 + 1e-5
    torch.testing.assert_close(u.mean(0), torch.full((2,), 0.5), rtol=0, atol=4 * 0.289 / 63)
    torch.testing.assert_close(u.T.cov(), torch.eye(2) / 12, rtol=0, atol=0.01)


def test_each_pixel_is_drawn_as_often_as_it_has_ink_and_each_image_has_its_own_points():
    n = 8000
    x = clouds(image({(0, 0): 0.25, (3, 3): 0.75}).expand(2, -1, -1, -1), n, noise())
    shares = (x[..., 0] < 0).float().mean(1)
    assert x.shape == (2, n, 2) and (shares - 0.25).abs().max() < 4 * math.sqrt(0.1875 / n)
    assert not torch.equal(x[0], x[1])
    again = clouds(image({(0, 0): 0.25, (3, 3): 0.75}).expand(2, -1, -1, -1), n, noise())
    assert torch.equal(x, again)
    pairs = (x[:, :-1, 0] < 0) & (x[:, 1:, 0] < 0)               # neighbours are independent
    assert pairs.float().mean().item() == pytest.approx(0.0625, abs=0.012)


# ---- the network ----

@pytest.mark.parametrize("N", [1, 7, 30])
def test_the_network_is_equivariant_and_takes_any_number_of_points(N):
    model, x, t = net(), torch.randn(3, N, 2), torch.tensor([1, 4, 5])
    P = torch.randperm(N, generator=noise(1))
    out = model(x, t)
    assert out.shape == x.shape and out.dtype == torch.float32
    torch.testing.assert_close(model(x[:, P], t), out[:, P], rtol=1e-4, atol=1e-5)


def test_points_of_a_cloud_see_each_other_and_clouds_do_not():
    model, x, t = net(), torch.randn(3, 5, 2), torch.tensor([1, 4, 5])
    other = x.clone()
    other[1, 2] += 1
    changed = (model(other, t) - model(x, t)).abs().amax(2) > 1e-5
    assert changed[1].all() and not changed[[0, 2]].any()
    later = (model(x, torch.tensor([1, 3, 5])) - model(x, t)).abs().amax((1, 2)) > 1e-5
    assert later.tolist() == [False, True, False]


def test_a_block_is_attention_in_heads_and_a_layer_for_each_point():
    block, h = awake(Block(8, 2)), torch.randn(3, 5, 8)
    q, k, v = block.qkv(F.layer_norm(h, (8,), block.norm1.weight, block.norm1.bias)).chunk(3, 2)
    heads = [F.scaled_dot_product_attention(q[..., i:i + 4], k[..., i:i + 4], v[..., i:i + 4])
             for i in (0, 4)]
    after = h + block.proj(torch.cat(heads, 2))
    expected = after + block.mlp(block.norm2(after))
    torch.testing.assert_close(block(h), expected, rtol=1e-4, atol=1e-5)


def test_it_starts_as_0_and_every_weight_gets_a_gradient():
    model, x = SetNetwork(8, 2, 2), torch.randn(64, 5, 2)
    t = torch.ones(64, dtype=torch.int64)
    assert (model(x, t) == model.out[1].bias).all()
    model = awake(model)
    strong().loss(model, x).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())


# ---- the loss, and the way back ----

def test_the_loss_is_the_same_for_every_order_of_the_points():
    model, x_0, eps = net(), torch.rand(4, 9, 2), torch.randn(4, 9, 2)
    t, P = torch.tensor([1, 3, 5, 8]), torch.randperm(9, generator=noise(2))
    loss, other = (strong().loss(model, x_0[:, order], t, eps[:, order], "none")
                   for order in (slice(None), P))
    torch.testing.assert_close(other, loss[:, P], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.mean(), loss.mean())


def test_another_order_of_the_noise_ends_in_the_same_set():
    ddpm, model, x_T = strong(), net(), torch.randn(2, 9, 2)
    ddpm.sigma.zero_()                                           # so that x_T is all noise there is
    P = torch.randperm(9, generator=noise(3))
    (*_, (_, x_0, _)), (*_, (_, other, _)) = (ddpm.reverse_process(model, x) for x in (
        x_T, x_T[:, P]))
    torch.testing.assert_close(other, x_0[:, P], rtol=1e-3, atol=1e-4)


def test_samples_of_clouds_that_are_all_one_point_are_that_point():
    ddpm, c = strong(), torch.tensor([0.3, -0.5])
    asked = []

    def model(x_t, t):                                           # eps* of a point mass
        asked.append(x_t.shape)
        a = ddpm.alpha_bar[t][:, None, None]
        return (x_t - a.sqrt() * c) / (1 - a).sqrt()

    x_T, x_0 = sample(ddpm, model, 3, 7, 5)
    torch.testing.assert_close(x_0, c.expand(3, 7, 2), rtol=0, atol=1e-3)
    assert torch.equal(x_T, torch.randn(3, 7, 2, generator=noise(5))) and len(asked) == ddpm.T


# ---- distances ----

def test_the_chamfer_distance_is_that_of_the_loops_whatever_the_order():
    x, y = torch.randn(3, 4, 2), torch.randn(2, 6, 2)
    d = chamfer(x, y)
    assert d.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            square = [[sum((a - b) ** 2).item() for b in y[j]] for a in x[i]]
            there = sum(min(row) for row in square) / 4
            back = sum(min(column) for column in zip(*square, strict=True)) / 6
            assert d[i, j].item() == pytest.approx(there + back, rel=1e-4)
    torch.testing.assert_close(chamfer(x.flip(1), y), d)
    assert chamfer(x, x.flip(1)).diagonal().abs().max() < 1e-5
    one, two = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    assert chamfer(one, two).item() == pytest.approx(9 + 12.5)


def test_1_nna_is_1_of_two_kinds_half_of_one_and_0_where_each_is_beside_the_other_kind():
    def at(*places):
        return torch.tensor(places)[:, None, None].expand(-1, 3, 2).float()

    assert nearest_is_own(at(0, 1, 2), at(100, 101)) == 1
    assert nearest_is_own(at(0, 10, 20), at(1, 11, 21)) == 0
    assert nearest_is_own(at(0, 1, 20), at(21, 50)) == pytest.approx(3 / 5)
    x = torch.randn(400, 1, 2, generator=noise(1))
    assert nearest_is_own(x[:200], x[200:]) == pytest.approx(0.5, abs=0.1)


# ---- the programs ----

@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shapes, "CONFIG", TINY)
    path = tmp_path / "s.pt"
    shapes.main(["train", "--steps", "2", "--checkpoint", str(path), "--device", "cpu"])
    assert f"wrote {path}" in capsys.readouterr().out
    return path


def test_training_draws_points_of_the_training_images_and_writes_what_sampling_needs(
        made, tmp_path, monkeypatch, capsys):
    config, networks = load_fit(made, "cpu", network)
    assert config == TINY and networks["ddpm"].T == 5
    seen, original = [], shapes.clouds
    monkeypatch.setattr(shapes, "clouds", lambda x_0, N: seen.append(x_0) or original(x_0, N))
    shapes.main(["train", "--steps", "3", "--checkpoint", str(made), "--device", "cpu"])
    x, _ = data.load("digits", 8)
    known = {tuple(each.flatten().tolist()) for each in data.to_model(x)}
    assert [len(each) for each in seen] == [64] * 3
    assert {tuple(each.flatten().tolist()) for each in torch.cat(seen)} <= known
    refused(capsys, ["train", "--steps", "0"], "--steps", main=shapes.main)
    refused(capsys, ["train", "--checkpoint", tmp_path], "ends in .pt", main=shapes.main)


def test_the_program_compares_samples_with_held_out_clouds(made, tmp_path, monkeypatch, capsys):
    kept, original = [], shapes.draw_figure
    monkeypatch.setattr(shapes, "draw_figure", lambda rows: kept.append(rows) or original(rows))
    out = tmp_path / "shapes.png"
    shapes.main(["--checkpoint", str(made), "--n", "10", "--seed", "4", "--device", "cpu",
                 "--out", str(out)])
    said = capsys.readouterr().out
    assert out.read_bytes()[:4] == b"\x89PNG" and said.endswith(f"wrote {out}\n")
    rows, = kept
    networks = load_fit(made, "cpu", network)[1]
    test, _ = data.load("digits", 8, 1, "test")
    found = []
    for seed in (4, 5, 6):
        x = data.to_model(test[torch.randperm(40, generator=noise(seed))[:20]])
        held, other = clouds(x, 6, noise(seed)).split(10)
        _, drawn = sample(networks["ddpm"], networks["net"], 10, 6, seed)
        found.append([chamfer(drawn, held).amin(1).mean(), chamfer(other, held).amin(1).mean()])
        if seed == 4:
            assert torch.equal(rows["held-out"][0], held)
            assert torch.equal(rows["samples, N = 6"][0], drawn)
    mean, std = torch.tensor(found).mean(0), torch.tensor(found).std(0)
    assert (f"distance of {mean[0]:.4f} +- {std[0]:.4f} from samples, of {mean[1]:.4f} +- "
            f"{std[1]:.4f} from other held-out clouds\n") in said
    assert re.search(r"1-NNA of samples and held-out clouds \d+% \+- \d+%, of two lots", said)
    assert rows["N = 24"][0].shape == (10, 24, 2)
    way = rows["one, from t = T to 0"][0]
    assert torch.equal(way[0], torch.randn(1, 6, 2, generator=noise(4))[0]) and len(way) == 10
