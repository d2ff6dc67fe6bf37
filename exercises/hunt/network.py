"""A small network eps_theta(x_t, t) of three levels, all at one resolution."""
import torch
import torch.nn.functional as F
from torch import nn

DEFECT = ""                                          # its name, from the list in README


class Network(nn.Module):
    def __init__(self, channels=8, mults=(1, 2, 4)):
        """Level i has channels * mults[i] channels."""
        super().__init__()
        self.conv_in = nn.Conv2d(1, channels, 3, padding=1)
        self.convs, self.embs = nn.ModuleList(), nn.ModuleList()
        C = channels
        for mult in mults:
            C_out = channels * mult
            self.convs.append(nn.Conv2d(C, C_out, 3, padding=1))
            self.embs.append(nn.Linear(16, C_out))
            C = C_out
        self.conv_out = nn.Conv2d(C, 1, 3, padding=1)

    def forward(self, x_t, t):
        """x_t: (B, 1, H, W); t: (B,) times.  Returns (B, 1, H, W)."""
        angle = t[:, None] * torch.exp(-torch.arange(8))                     # (B, 8)
        emb = torch.cat([angle.sin(), angle.cos()], dim=1)
        h = self.conv_in(x_t)
        for conv, linear in zip(self.convs, self.embs, strict=True):
            h = conv(F.silu(h))
            h = h + linear(emb)[:, :, None, None]
        return self.conv_out(F.silu(h))
