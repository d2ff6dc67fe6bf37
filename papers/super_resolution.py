"""Super-resolution by a network that sees the low-resolution image beside x_t.

Saharia et al. 2021, "Image Super-Resolution via Iterative Refinement" (SR3, arXiv:2104.07636),
sec. 2, Algorithms 1 and 2.

    python -m papers.super_resolution train --channels 24        as train.py, with its flags
    python -m papers.super_resolution [--checkpoint F] [--n 12] [--samples 3]

`train` fills runs/papers/super_resolution.  The last command shrinks held-out images four times and
enlarges them again: by bicubic interpolation; by DPS (papers/dps.py), which asks a network that
knows nothing of the task; and by SR3.

Of many images with one low-resolution version, each sample is one; their mean has the smallest
squared error, and is none of them.  If the samples are right, the truth is as far from each of them
as they are from each other.  Then the mean of K has (1 + 1/K) / 2 of the error of one: for many,
3 dB more PSNR.

The paper's x is `low`, its y_0 is x_0, and its gamma alpha_bar.  Its network is told gamma, drawn
from between two steps of the chain (sec. 2.4), and ours t; its low is bicubic, and ours the mean of
each square of pixels, as for DPS; there is no cascade.
"""
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import data
import train
from papers import dps
from papers.dps import pool
from papers.kit.judge import apart, load_reader, psnr, readable, rms, share_read_as
from papers.kit.program import (chosen, draw_panels, finish, flags, held_out, program, start,
                                with_error)
from papers.kit.training import ASSETS, load_eps, train_eps
from plumbing.cli import integer
from sample import SHIPPED as UNCONDITIONAL, batch_size, draw, load
from unet import UNet, initialise

SHIPPED = ASSETS / "super_resolution.pt"
FACTOR = 4


def enlarge(low, size):
    """Return (B, C, *size): low, (B, C, h, w), enlarged by bicubic interpolation, as in sec. 2."""
    return F.interpolate(low, size=tuple(size), mode="bicubic", align_corners=False)


class LowUNet(UNet):
    """eps_theta(x_t, t, low): a U-Net with the enlarged low as C more input channels.  Sec. 2.4."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        C, channels = self.conv_in.in_channels, self.conv_in.out_channels
        self.conv_in = nn.Conv2d(2 * C, channels, 3, padding=1)
        initialise(self.conv_in)

    def forward(self, x_t, t, low=None):
        """Predict the noise in x_t.

        Args:
            x_t, t: as for UNet.
            low: (B, C, h, w) in [-1, 1].  None is a grey image: so train.py, which knows of no low,
                draws its grids, which therefore show what the network makes of grey.
        """
        low = torch.zeros_like(x_t) if low is None else low
        if low.dim() != 4 or low.shape[:2] != x_t.shape[:2]:
            raise ValueError(f"low, {tuple(low.shape)}, must be (B, C, h, w) with the B and C of "
                             f"x_t, {tuple(x_t.shape)}")
        low = enlarge(low, x_t.shape[2:]).to(x_t)
        return super().forward(torch.cat([x_t, low], dim=1), t)


def conditional_loss(ddpm, model, x_0, labels):
    """Compute L_simple given low, as `train.train` takes it.  SR3, Algorithm 1; Eq. 6, p = 2.

        E || eps - eps_theta(x_t, t, low) ||^2,   low = pool(x_0)
    """
    return train.L_simple(ddpm, around(model, pool(x_0, FACTOR)), x_0, labels)


def around(model, low):
    """Return the model(x_t, t) of images with this low, (B, C, h, w), for any sampler of DDPMs."""
    return lambda x_t, t: model(x_t, t, low)


def sample(ddpm, model, low, K, generator, precision="auto"):
    """Draw K images for each low: SR3, Algorithm 2, which is that of DDPM with low.

    Args:
        ddpm, model: the process and a LowUNet.
        low: (B, C, h, w).
        K: an int, at least 1.
        generator: torch.Generator on the device of ddpm.

    Returns:
        (K, B, C, H, W), H = FACTOR h.
    """
    B, C, h, w = low.shape
    shape = C, FACTOR * h, FACTOR * w
    parts = [draw(ddpm, around(model, part), (len(part), *shape), generator, precision, "SR3")
             for part in low.repeat(K, 1, 1, 1).split(batch_size(shape[1]))]
    return torch.cat(parts).reshape(K, B, *shape)


def distances(samples, x_0):
    """Return the RMS distance of a sample to the truth, and of two of one image: means, floats.

    Were the samples exact, both would be the same: then x_0 is one more of them.

    Args:
        samples: (K, B, C, H, W), K of each image; x_0: (B, C, H, W).
    """
    pairs = [apart(x, y) for x, y in combinations(samples, 2)]
    return sum(apart(x, x_0) for x in samples) / len(samples), sum(pairs) / len(pairs)


# ---- the program ----

def main(argv=None):
    parser = flags(__doc__, "super_resolution.png", 12, 2, "number of images", "the one that ships")
    parser.add_argument("--unconditional", type=Path, default=UNCONDITIONAL,
                        help="checkpoint of train.py for DPS (the one that ships)")
    parser.add_argument("--samples", type=integer(2), default=3, help="of SR3, per image (3)")
    program(parser, run, argv, lambda argv: train_eps(
        argv, train.Config, __doc__, LowUNet, lambda config: conditional_loss))


def run(args):
    device, checkpoint, config, ddpm, model = start(
        args, SHIPPED, lambda path, device: load_eps(path, device, LowUNet))
    other, process, unconditional = load(args.unconditional, device)
    if any(other[name] != config[name] for name in ("image_channels", "image_size")):
        raise ValueError(f"{args.unconditional} and {checkpoint} are not of the same kind of image")
    (x, labels), H = chosen(args, *held_out(config)), config["image_size"]
    x_0 = data.to_model(x).to(device)
    low = pool(x_0, FACTOR)
    print(f"{len(x_0)} images of {config['data']} from {H // FACTOR} x {H // FACTOR}, on {device}")

    generator = torch.Generator(device).manual_seed(args.seed)
    samples = sample(ddpm, model, low, args.samples, generator)
    x_T = torch.randn(x_0.shape, generator=generator, device=device)
    size = max(1, batch_size(H) // 4)                # there are gradients
    by_dps = torch.cat([dps.sample(process, unconditional, part, lambda x: pool(x, FACTOR), noise,
                                   generator=generator).clamp(-1, 1)
                        for part, noise in zip(low.split(size), x_T.split(size), strict=True)])
    rows = {"low": low.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3),
            "bicubic": enlarge(low, x_0.shape[2:]).clamp(-1, 1), "DPS": by_dps, "SR3": samples[0],
            "SR3, another": samples[1], f"mean of {args.samples}": samples.mean(0), "truth": x_0}
    net = load_reader(device) if readable(config) else None
    for name, image in rows.items():
        quality = "" if image is x_0 else f"{with_error(psnr(image, x_0), 2)} dB"
        share = net and share_read_as(net, image, labels.to(device))
        print(f"{name:14} {quality:17} its low is off by {rms(pool(image, FACTOR) - low):.3f}"
              + (f", {share:6.1%} read as the true digit" if net else ""))
    truth, other = distances(samples, x_0)
    finish(draw_panels({"": rows}, size=(0.6 * min(16, args.n) + 2, 4.4), most=16), args.out,
           f"SR3 samples are at an RMS distance of {truth:.3f} from the truth and of {other:.3f} "
           "from each other; exact ones would be as far from either")


if __name__ == "__main__":
    main()
