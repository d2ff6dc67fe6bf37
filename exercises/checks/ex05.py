"""5: the time embedding and the residual block."""
import math

import torch
import torch.nn.functional as F

from .kit import Wrong, demand, expect, same


def angles(t, dim):
    n = dim // 2
    return [t * 10_000 ** (-i / (n - 1)) for i in range(n)]


def check_the_embedding_is_sines_then_cosines(student):
    """Vaswani et al., sec. 3.5, as in the DDPM authors' code."""
    times, dim = [1, 17, 400], 8
    sines = torch.tensor([[math.sin(a) for a in angles(t, dim)] for t in times])
    cosines = torch.tensor([[math.cos(a) for a in angles(t, dim)] for t in times])
    other = torch.tensor([[t * 10_000 ** (-i / 4) for i in range(4)] for t in times])
    grow = torch.tensor(times)[:, None] * torch.tensor([10_000 ** (i / 3) for i in range(4)])
    expect(student.unet.timestep_embedding(torch.tensor(times), dim),
           torch.cat([sines, cosines], 1), "timestep_embedding of t = 1, 17, 400", [
        ("when the cosines come first", torch.cat([cosines, sines], 1)),
        ("when sines and cosines alternate", torch.stack([sines, cosines], 2).flatten(1)),
        ("when the exponent is -i / n, as in the first paper, and not -i / (n - 1)",
         torch.cat([other.sin(), other.cos()], 1)),
        ("when the exponent has the wrong sign", torch.cat([grow.sin(), grow.cos()], 1))],
        atol=2e-4)


def check_an_odd_dimension_ends_in_0(student):
    """And has one frequency fewer; all in float32."""
    emb = student.unet.timestep_embedding(torch.tensor([3]), 7)
    values = angles(3, 7)
    expect(emb, torch.tensor([[*map(math.sin, values), *map(math.cos, values), 0.0]]),
           "timestep_embedding(3, 7)", atol=1e-5)
    demand(emb.dtype == torch.float32, f"timestep_embedding: expected float32, got {emb.dtype}")


def check_too_few_dimensions_are_refused(student):
    try:
        student.unet.timestep_embedding(torch.tensor([3]), 3)
    except ValueError:
        return
    raise Wrong("timestep_embedding(t, 3): its docstring asks for a ValueError below 4 dimensions")


class Triple(torch.nn.Module):
    def forward(self, x):
        return 3 * x


def make(student, C_in, C_out, **options):
    """A block whose weights are all in play, with our own reading of them."""
    torch.manual_seed(student.seed)
    settings = {"dropout": 0.0, "attention": False, **options}
    block = student.unet.ResidualBlock(C_in, C_out, 6, **settings)
    with torch.no_grad():
        for weight in block.parameters():
            weight.copy_(0.4 * torch.randn_like(weight))
    x, emb = torch.randn(2, C_in, 4, 4), torch.randn(2, 6)

    def forward(time=True, silu=True, skip=True, late=False, second=True, act=F.silu, drop=1.0):
        def norm(layer, h):
            return F.group_norm(h, layer.num_groups, layer.weight, layer.bias, layer.eps)

        added = F.linear(F.silu(emb) if silu else emb, block.emb.weight, block.emb.bias)
        h = F.conv2d(act(norm(block.norm1, x)), block.conv1.weight, block.conv1.bias, padding=1)
        if time and not late:
            h = h + added[:, :, None, None]
        h = act(norm(block.norm2, h) if second else h)
        if late:
            h = h + added[:, :, None, None]
        h = F.conv2d(drop * h, block.conv2.weight, block.conv2.bias, padding=1)
        straight = x
        if C_in != C_out:
            straight = F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
        return h + straight if skip else h

    return block, x, emb, forward


def check_a_block_is_two_convolutions_with_the_time_between(student):
    for C_in, C_out in ((8, 8), (8, 12)):
        block, x, emb, forward = make(student, C_in, C_out)
        with torch.no_grad():
            expect(block(x, emb), forward(), f"ResidualBlock({C_in}, {C_out})", [
                ("when the time is not added", forward(time=False)),
                ("when the embedding does not go through SiLU", forward(silu=False)),
                ("when the input is not added to the output", forward(skip=False)),
                ("when the time is added after the second norm and not before it",
                 forward(late=True)),
                ("when the second norm is left out", forward(second=False)),
                ("when ReLU stands where SiLU belongs", forward(act=F.relu))], rtol=1e-3, atol=1e-3)


def check_dropout_is_there_in_training_only(student):
    block, x, emb, forward = make(student, 8, 8, dropout=0.5)
    with torch.no_grad():
        one, two = block.train()(x, emb), block(x, emb)
        demand(not same(one, two), "ResidualBlock: with dropout 0.5, in training, two calls "
               "gave the same. Dropout belongs before the second convolution.")
        dropout, block.dropout = block.dropout, Triple()
        expect(block(x, emb), forward(drop=3.0), "ResidualBlock, with a layer that triples in place"
               " of its dropout, which belongs right before the second convolution", rtol=1e-3,
               atol=1e-3)
        block.dropout = dropout
        expect(block.eval()(x, emb), forward(), "ResidualBlock with dropout, in eval mode",
               rtol=1e-3, atol=1e-3)


def check_attention_comes_last_where_there_is_one(student):
    block, x, emb, forward = make(student, 8, 8, attention=True)
    with torch.no_grad():
        expect(block(x, emb), block.attention(forward()), "ResidualBlock with attention", [
            ("when the attention is left out", forward())], rtol=1e-3, atol=1e-3)
