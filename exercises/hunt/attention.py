"""Self-attention over the pixels of an image, for any height and width."""
from torch import nn

DEFECT = ""                                          # its name, from the list in README


class Attention(nn.Module):
    """x + proj(softmax(q k^T / sqrt(C)) v), where q, k and v are made of the normed x."""

    def __init__(self, C):
        super().__init__()
        self.norm = nn.GroupNorm(2, C)
        self.q, self.k, self.v, self.proj = (nn.Conv2d(C, C, 1) for _ in range(4))

    def forward(self, x):
        """x: (B, C, H, W).  Returns the same shape."""
        B, C, H, W = x.shape
        h = self.norm(x)
        q, k, v = (f(h).reshape(B, C, H * W) for f in (self.q, self.k, self.v))
        weights = (q.transpose(1, 2) @ k / C ** 0.5).softmax(dim=2)          # (B, HW, HW)
        h = v @ weights.transpose(1, 2)                                      # (B, C, HW)
        return x + self.proj(h.reshape(B, C, H, W))
