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
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import data
import train
from benchmarks.recognise import readable, share_read_as, train_classifier
from papers import dps
from papers.dps import pool, psnr
from papers.training import ASSETS, load_eps, train_eps
from sample import NETWORK, SHIPPED as UNCONDITIONAL
from sample import (arguments, batch_size, check_writable, draw, file_name, grid, integer,
                    load, one_line_errors, pick_device, save_figure)
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
        low = torch.zeros_like(x_t) if low is None else enlarge(low, x_t.shape[2:]).to(x_t)
        return super().forward(torch.cat([x_t, low], dim=1), t)


def conditional_loss(ddpm, model, x_0, labels):
    """Compute L_simple given low, as `train.train` takes it.  SR3, Algorithm 1; Eq. 6, p = 2.

        E || eps - eps_theta(x_t, t, low) ||^2,   low = pool(x_0)
    """
    low = pool(x_0, FACTOR)
    return train.L_simple(ddpm, lambda x_t, t: model(x_t, t, low), x_0, labels)


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


def spread(x):
    """Return the mean squared distance of two of K samples, (B,), per pixel; x (K, B, C, H, W).

    Were the samples exact, E || x - x_0 ||^2 would be the same for the truth x_0.
    """
    return 2 * x.var(0).flatten(1).mean(1)


# ---- the program ----

def network(config):
    return LowUNet(**{name: config[name] for name in NETWORK})


@dataclass
class Config(train.Config):
    out: str = train.arg("runs/papers/super_resolution", "folder of the run")


def run_train(argv):
    train_eps(argv, Config, __doc__, network, lambda config: conditional_loss)


def draw_figure(rows):
    """Draw {title: (N, C, H, W)} as one row each."""
    N = min(16, *(len(x) for x in rows.values()))
    figure = Figure(figsize=(0.62 * N + 2, 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = grid(torch.cat([x[:N] for x in rows.values()]), N)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([image.height / len(rows) * (k + 0.5) for k in range(len(rows))], rows)
    return figure


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = arguments(__doc__, "the one that ships")
    parser.add_argument("--unconditional", type=Path, default=UNCONDITIONAL,
                        help="checkpoint of train.py for DPS (the one that ships)")
    parser.add_argument("--n", type=integer(2), default=12, help="number of images (12)")
    parser.add_argument("--samples", type=integer(2), default=3, help="of SR3, per image (3)")
    parser.add_argument("--out", type=file_name(".png"), default="super_resolution.png",
                        help="the figure, a PNG (super_resolution.png)")
    with one_line_errors("super_resolution.py"):
        if argv[:1] == ["train"]:
            run_train(argv[1:])
        else:
            run(parser.parse_args(argv))


def run(args):
    device, checkpoint = pick_device(args.device), args.checkpoint or SHIPPED
    config, ddpm, model = load_eps(checkpoint, device, network)
    other, process, unconditional = load(args.unconditional, device)
    C, H = config["image_channels"], config["image_size"]
    if (other["image_channels"], other["image_size"]) != (C, H):
        raise ValueError(f"{args.unconditional} and {checkpoint} are not of the same kind of image")
    x, labels = data.load(config["data"], H, C, "test", config["data_dir"])
    i = torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed))[:args.n]
    x_0 = data.to_model(x[i]).to(device)
    low = pool(x_0, FACTOR)
    check_writable(args.out)
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
    net = train_classifier(H, device)[0] if readable(config) else None
    for name, image in rows.items():
        off = (pool(image, FACTOR) - low).square().mean().sqrt()
        quality = "" if image is x_0 else f"{mean(psnr(image, x_0))} dB"
        digit = ""
        if net:
            right = share_read_as(net, image, labels[i].to(device))
            digit = f", {right:6.1%} read as the true digit"
        print(f"{name:14} {quality:18} its low is off by {off:.3f}{digit}")
    save_figure(draw_figure(rows), args.out)
    error = ((samples - x_0) ** 2).flatten(2).mean((0, 2))
    print(f"SR3 samples are {error.mean().sqrt():.3f} from the truth (RMS) and "
          f"{spread(samples).mean().sqrt():.3f} from each other; exact ones would be as far from "
          f"either\nwrote {args.out}")


def mean(values):
    return f"{values.mean():6.2f} +- {values.std() / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
