"""5: the time embedding and the residual block."""
import itertools
from unittest import mock

import torch
import torch.nn.functional as F

from .kit import expect, on_meta, refused, theirs

ORDER = "norm1 silu1 conv1 emb norm2 silu2 dropout conv2 shortcut attention".split()


@theirs
def embedding(student, t, dim, device="cpu"):
    return student.unet.timestep_embedding(t.to(device), dim)


def waves(t, n, steps, base=10_000):
    """Return (B, 2n) sines and cosines of t base^(-i / steps)."""
    angle = (t[:, None] * (base ** (-torch.arange(n).double() / steps)).float()).double()
    return torch.cat([angle.sin(), angle.cos()], 1)


def embeds(student, t, dim):
    """Expect an embedding of Vaswani et al., sec. 3.5, as in the DDPM authors' code."""
    n = dim // 2
    right = waves(t, n, n - 1)
    mistakes = {"the cosines come first": right.roll(n, 1),
                "t is off by one": waves(t - 1, n, n - 1),
                "sines and cosines alternate": right.reshape(-1, 2, n).mT.flatten(1),
                "the exponent is -i / n and not -i / (n - 1)": waves(t, n, n),
                "the exponent has the wrong sign": waves(t, n, 1 - n),
                "e stands where 10000 belongs": waves(t, n, n - 1, torch.e),
                "n is (dim + 1) // 2": waves(t, n + 1, n)[:, :2 * n]}
    expect(embedding(student, t, dim), F.pad(right, (0, dim % 2)),
           f"timestep_embedding of t = {t.tolist()}, {dim}", [
        *((f"when {words}", F.pad(value, (0, dim % 2))) for words, value in mistakes.items()),
        ("when the 0 comes first", F.pad(right, (dim % 2, 0)))], atol=2e-4, dtype=torch.float32)


def check_the_embedding_is_sines_then_cosines(student):
    t = torch.tensor([1, 17, 400])
    embeds(student, t, 10)
    on_meta(lambda: embedding(student, t, 10, "meta"), "timestep_embedding")


def check_an_odd_dimension_ends_in_0(student):
    """And has one frequency fewer; times may be floats."""
    embeds(student, torch.tensor([3.0, 50.0]), 7)


def check_too_few_dimensions_are_refused(student):
    for dim in (6, 4):
        embeds(student, torch.tensor([3]), dim)
    refused(lambda: embedding(student, torch.tensor([3]), 3), "timestep_embedding(t, 3)")


def shrink(x, p=0.5, training=True, inplace=False):
    """Stand in for dropout, without random numbers."""
    return F.softshrink(x, p) if training else x


@theirs
def block(student, x, emb, C_out, w, train, attention):
    made = student.unet.ResidualBlock(x.shape[1], C_out, emb.shape[1], dropout=0.25).train(train)
    made.load_state_dict(w)
    made.attention = torch.nn.Tanh() if attention else made.attention
    with torch.no_grad(), mock.patch.object(F, "dropout", shrink):
        return made(x, emb)


def ours(w, x, emb, train, attention, order=ORDER, act=F.silu, emb_act=F.silu):
    """Call the layers, of weights w, in an order."""
    def layer(name, h):
        own = w[f"{name}.weight"], w[f"{name}.bias"]
        return F.group_norm(h, 4, *own, 1e-6) if "norm" in name else F.conv2d(h, *own, 1, "same")

    time = F.linear(emb_act(emb), w["emb.weight"], w["emb.bias"])[:, :, None, None]
    straight, h = layer("shortcut", x) if "shortcut.weight" in w else x, x
    other = {"silu1": act, "silu2": act, "dropout": lambda h: shrink(h, 0.25, train),
             "emb": lambda h: h + time, "shortcut": lambda h: h + straight,
             "attention": torch.tanh if attention else lambda h: h}
    for name in order:
        h = other[name](h) if name in other else layer(name, h)
    return h


def slips(*given):
    """Yield what comes of layers that are left out, moved, or stand where others belong."""
    yield "when ReLU stands where SiLU belongs", ours(*given, act=F.relu)
    yield "when the embedding does not go through SiLU", ours(*given, emb_act=lambda emb: emb)
    yield "when there is dropout in eval mode, too", ours(*given[:3], True, given[4])
    for name in ORDER:
        yield f"when {name} is left out", ours(*given, [each for each in ORDER if each != name])
    for name, other in itertools.permutations(ORDER, 2):
        without = [each for each in ORDER if each != name]
        without.insert(without.index(other), name)
        yield f"when {name} comes right before {other}", ours(*given, without)
        yield f"when {name} stands where {other} belongs", ours(
            *given, [name if each == other else each for each in ORDER])


def check(student, what, C_out=8, train=False, attention=False):
    g = torch.Generator().manual_seed(student.seed + 1)
    x, emb = torch.randn(2, 8, 4, 6, generator=g), torch.randn(2, 6, generator=g)
    shapes = {"norm1": [8], "conv1": [C_out, 8, 3, 3], "emb": [C_out, 6], "norm2": [C_out],
              "conv2": [C_out, C_out, 3, 3], "shortcut": [C_out, 8, 1, 1]}
    w = {f"{name}.{kind}": 0.4 * torch.randn(shape[:end], generator=g)
         for name, shape in shapes.items() for kind, end in (("weight", 4), ("bias", 1))
         if name != "shortcut" or C_out != 8}
    got = block(student, x, emb, C_out, w, train, attention)
    given = w, x, emb, train, attention
    expect(got, ours(*given), what, slips(*given) if C_out == 8 else (), rtol=1e-3, atol=1e-3,
           dtype=torch.float32)


def check_a_block_is_two_convolutions_with_the_time_between(student):
    check(student, "ResidualBlock(8, 8)")
    check(student, "ResidualBlock(8, 12)", C_out=12)


def check_dropout_is_there_in_training_only(student):
    """Another function stands for it, without random numbers, so that its place shows."""
    check(student, "ResidualBlock with dropout, in training", train=True)
    check(student, "ResidualBlock with dropout, in eval mode")


def check_attention_comes_last_where_there_is_one(student):
    check(student, "ResidualBlock with another layer for attention", attention=True)
