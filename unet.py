"""The network eps_theta(x_t, t): a U-Net with self-attention, told the time t.

Ho et al. 2020, appendix B.  The defaults are the paper's CIFAR-10 network, 35,746,307 parameters,
with GroupNorm, SiLU ("swish") and single-head self-attention where the authors' code has them.

It is fully convolutional: any H x W works that can be halved once per level.  `image_size` only
says at which levels `attention_resolutions` lie.

Where it departs from the authors' code: t counts from 1 instead of 0; GroupNorm takes gcd(32, C)
groups instead of 32, and of at least two channels, so that any C works; and the projections to q, k
and v are one layer of 3C outputs instead of three of C.
"""
import functools
import math

import torch
import torch.nn.functional as F
from torch import nn


def timestep_embedding(t, dim):
    """Write each time as `dim` sines and cosines of it, from fast to slow.

        emb = (sin(t w_0), ..., sin(t w_{n-1}), cos(t w_0), ..., cos(t w_{n-1})),   n = dim // 2
        w_i = 10000^(-i / (n - 1))

    Vaswani et al. 2017, sec. 3.5, here as in the DDPM authors' code: first all sines, then
    all cosines, and n - 1 in the exponent instead of n.

    Args:
        t: (B,) times.
        dim: size of the embedding, at least 4; an odd one ends in a 0.

    Returns:
        (B, dim) float32.

    Raises:
        ValueError: dim is below 4.
    """
    if dim < 4:
        raise ValueError(f"a time embedding needs at least 4 dimensions, not {dim}")
    n = dim // 2
    w = torch.exp(-math.log(10000) / (n - 1) * torch.arange(n, device=t.device))         # (n,)
    angle = t[:, None].float() * w                                                       # (B, n)
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, dim % 2))


def group_norm(C):
    groups = math.gcd(32, C)
    if groups == C:                                  # never one channel a group
        groups = max(1, C // 2)
    return nn.GroupNorm(groups, C, eps=1e-6)


class Attention(nn.Module):
    """Self-attention over the H * W pixels, one head, added to its input.

        v softmax(q^T k / sqrt(C))^T,   a pixel a column

    Vaswani et al. 2017, "scaled dot-product attention".
    """

    def __init__(self, C):
        super().__init__()
        self.norm = group_norm(C)
        self.qkv = nn.Conv2d(C, 3 * C, 1)
        self.proj = nn.Conv2d(C, C, 1)

    def forward(self, x):
        B, C, H, W = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)          # each (B, C, HW)
        scores = q.transpose(1, 2) @ k / math.sqrt(C)                        # (B, HW, HW)
        h = v @ scores.softmax(dim=2).transpose(1, 2)                        # (B, C, HW)
        return x + self.proj(h.view(B, C, H, W))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with the time added between; attention where the level has it."""

    def __init__(self, C_in, C_out, emb_dim, dropout=0.0, attention=False):
        super().__init__()
        self.norm1 = group_norm(C_in)
        self.conv1 = nn.Conv2d(C_in, C_out, 3, padding=1)
        self.emb = nn.Linear(emb_dim, C_out)
        self.norm2 = group_norm(C_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(C_out, C_out, 3, padding=1)
        self.shortcut = nn.Identity() if C_in == C_out else nn.Conv2d(C_in, C_out, 1)
        self.attention = Attention(C_out) if attention else nn.Identity()

    def forward(self, x, emb):
        """Return attention(shortcut(x) + h), where

            h = conv2(dropout(silu(norm2(conv1(silu(norm1(x))) + emb(silu(emb))))))
        """
        h = self.conv1(F.silu(self.norm1(x)))                                # (B, C_out, H, W)
        h = h + self.emb(F.silu(emb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.attention(self.shortcut(x) + h)


class Downsample(nn.Conv2d):
    """H x W -> H/2 x W/2 by a convolution of stride 2."""

    def forward(self, x, emb):
        return super().forward(F.pad(x, (0, 1, 0, 1)))      # right and bottom, as TensorFlow's SAME


class Upsample(nn.Conv2d):
    """H x W -> 2H x 2W by nearest neighbour, then a convolution."""

    def forward(self, x, emb):
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """eps_theta(x_t, t).  Ho et al. 2020, appendix B.

    Args:
        image_size: height of the images it is meant for; places `attention_resolutions`.
        image_channels: 1 for grey, 3 for colour.
        channels: channels of the first level, at least 4.
        channel_mults: channels of each level as multiples of `channels`; each further level halves
            the resolution.
        num_res_blocks: residual blocks per level on the way down (one more on the way up).
        attention_resolutions: heights of the levels whose blocks have self-attention; the middle,
            at the lowest resolution, always has.
        dropout: probability of zeroing a value before the second convolution of a block.

    Raises:
        ValueError: image_size cannot be halved once per further level.
    """

    Block = ResidualBlock                            # a subclass may put its own here

    def __init__(self, image_size=32, image_channels=3, channels=128, channel_mults=(1, 2, 2, 2),
                 num_res_blocks=2, attention_resolutions=(16,), dropout=0.1):
        super().__init__()
        self.channels = channels
        self.divisor = 2 ** (len(channel_mults) - 1)
        self.check_size(image_size, image_size)
        emb_dim = 4 * channels
        block = functools.partial(self.Block, emb_dim=emb_dim, dropout=dropout)
        self.emb = nn.Sequential(nn.Linear(channels, emb_dim), nn.SiLU(),
                                 nn.Linear(emb_dim, emb_dim))
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.down, self.mid, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        C, skips = channels, [channels]                      # channels of h, and of each skip
        for level, mult in enumerate(channel_mults):
            if level > 0:
                self.down.append(Downsample(C, C, 3, stride=2))
                skips.append(C)
            for _ in range(num_res_blocks):
                attention = image_size // 2 ** level in attention_resolutions
                self.down.append(block(C, channels * mult, attention=attention))
                C = channels * mult
                skips.append(C)

        self.mid.append(block(C, C, attention=True))
        self.mid.append(block(C, C, attention=False))

        for level, mult in reversed(list(enumerate(channel_mults))):
            for _ in range(num_res_blocks + 1):
                attention = image_size // 2 ** level in attention_resolutions
                self.up.append(block(C + skips.pop(), channels * mult, attention=attention))
                C = channels * mult
            if level > 0:
                self.up.append(Upsample(C, C, 3, padding=1))

        self.norm_out = group_norm(C)
        self.conv_out = nn.Conv2d(C, image_channels, 3, padding=1)
        self.apply(initialise)

    def embed(self, t):
        """Embed the times, (B, 4 * channels); overridden by a network that is told more than t."""
        return self.emb(timestep_embedding(t, self.channels))

    def forward(self, x_t, t, *condition):
        """Predict the noise in x_t.

        Args:
            x_t: (B, C, H, W) noisy images; H and W divisible by 2^(levels - 1).
            t: (B,) int64 times in 1..T.
            condition: what `embed` of a subclass takes besides; here nothing.

        Returns:
            (B, C, H, W) eps_theta, zero before training.

        Raises:
            ValueError: x_t has another shape, or H or W is not divisible by 2^(levels - 1).
        """
        if x_t.dim() != 4:
            raise ValueError(f"x_t must be of shape (B, C, H, W), not {tuple(x_t.shape)}")
        self.check_size(*x_t.shape[2:])
        emb = self.embed(t, *condition)                                      # (B, 4 * channels)
        h = self.conv_in(x_t)
        skips = [h]
        for block in self.down:
            h = block(h, emb)
            skips.append(h)
        for block in self.mid:
            h = block(h, emb)
        for block in self.up:
            if not isinstance(block, Upsample):
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, emb)
        assert not skips
        return self.conv_out(F.silu(self.norm_out(h)))

    def check_size(self, H, W):
        if H % self.divisor or W % self.divisor:
            raise ValueError(f"a network of this depth takes heights and widths divisible by "
                             f"{self.divisor}, not {H} x {W}")


@torch.no_grad()
def initialise(module):
    """Set the weights as the authors do, so that every branch, and the network, starts as 0."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)               # their "variance scaling", fan_avg
        nn.init.zeros_(module.bias)
    if isinstance(module, Attention):
        for weight in module.qkv.weight.chunk(3):            # q, k and v each with its own fan
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(module.proj.weight)
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.weight)
    if isinstance(module, UNet):
        nn.init.zeros_(module.conv_out.weight)
