"""From bytes to what the network sees, and back."""
import torch

DEFECT = ""                                          # its name, from the list in README


def to_model(x):
    """uint8 0..255 -> float in [-1, 1]."""
    return x.float() / 127.5 - 1


def to_uint8(x):
    """float in [-1, 1] -> uint8 0..255, the nearest; what lies outside is clipped."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
