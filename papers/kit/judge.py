"""What can be said of samples: how many of them can be read, and how far images are apart.

    python -m papers.kit.judge [--checkpoint F] [--n 256] [--seed 0] [--device D]
    python -m papers.kit.judge train                     the readers: writes readers.pt

How many samples of a digits checkpoint can be read?  A network that was trained on the rendered
digits reads them.  A sample is recognised if the reader gives some digit a probability of 0.9 or
more.  The same share of held-out digits stands beside it: no generator can be expected to do
better.  The number says how much of what looks like digits is whole.  Of other pictures it would
say nothing, and they are refused: the reader was never shown any, and takes half of all white noise
for a digit.

Readers agree on digits, and much less on what is nearly one.  So three ship, of different shape.
Every program in papers/ reads with the first, "pooled"; this one asks all three about three seeds,
and the worst of them is what can be said of a checkpoint.

Distances have one definition each.  The RMS distance of two images is the root of the mean square
over their pixels, and of many pairs the mean of theirs: `apart`, `diversity`, `nearest`.  What is
called an error is one root over all pixels of all images, `rms`.
"""
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import data
from papers.kit.program import flags, held_out, program, start
from papers.kit.training import ASSETS, fit, load_fit, save_fit
from plumbing.cli import arguments, check_writable
from plumbing.device import pick_device
from sample import batches

READERS = ASSETS / "readers.pt"
CONFIG = {"image_size": 16}
SEEDS = 3


def network(config):
    """Build three readers, untrained: (B, 1, H, W) images in [-1, 1], of any size, to logits.

    Larger images are averaged, and the pixels of smaller ones repeated, to the size of the config.
    The last layer is linear, so that what enters it are features: see `features`.
    """
    H, conv = config["image_size"], nn.Conv2d
    layers = {
        "pooled": (conv(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                   conv(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                   nn.Linear(2 * H * H, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)),
        "strided": (conv(1, 16, 5, 2, padding=2), nn.SiLU(), conv(16, 32, 3, 2, padding=1),
                    nn.SiLU(), conv(32, 64, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(2),
                    nn.Flatten(), nn.Linear(256, 10)),
        "perceptron": (nn.Flatten(), nn.Linear(H * H, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(),
                       nn.Linear(64, 10))}
    return nn.ModuleDict({name: nn.Sequential(nn.AdaptiveAvgPool2d(H), *each)
                          for name, each in layers.items()})


def load_readers(device="cpu"):
    """Return {name: network} of all readers that ship, eval(), without gradients."""
    return load_fit(READERS, device, network)[1]


def load_reader(device="cpu"):
    """Return the reader that every program reads with."""
    return load_readers(device)["pooled"]


@torch.no_grad()
def features(net, x):
    """Return what enters the last layer of a reader, (N, D), for images x."""
    return torch.cat([net[:-1](part) for part in x.split(1000)])


def readable(config):
    """Does a network of this config, a dict, draw what the classifier reads: grey digits?"""
    return config["data"] == "digits" and config["image_channels"] == 1


def check_readable(config, checkpoint):
    """Raise a ValueError that names the checkpoint, unless its config is `readable`."""
    if not readable(config):
        raise ValueError(f"{checkpoint} draws no grey rendered digits, which alone can be read; "
                         "--checkpoint assets/digits.pt does")


@torch.no_grad()
def read(net, x, confidence=0.9):
    """Return (recognised, digit), each (N,): is some digit that probable, and which is the most."""
    probability, digit = torch.cat([net(part).softmax(1) for part in x.split(1000)]).max(1)
    return probability >= confidence, digit


def share_read_as(net, x, y):
    """Return the share, a float, of images x that are recognised, and as the digits y, (N,)."""
    recognised, digit = read(net, x)
    return (recognised & (digit == y)).float().mean().item()


def apart(x, y):
    """Return the RMS distance of two images, x and y, the mean over such pairs, a float."""
    return (x - y).square().flatten(1).mean(1).sqrt().mean().item()


def diversity(x, y):
    """Return the RMS distance of two images of one class, the mean over all such pairs.

    Args:
        x: (N, ...) images; y: (N,) int64 classes; of one at least there are two images.
    """
    points = x.flatten(1) / x[0].numel() ** 0.5
    return torch.cat([torch.pdist(points[y == k]) for k in y.unique()]).mean().item()


def nearest(x, others):
    """Return the RMS distance of an image x to the nearest of others (uint8), the mean over x."""
    x = x.flatten(1)
    parts = [torch.cdist(x, data.to_model(part).flatten(1)).amin(1) for part in others.split(500)]
    return torch.stack(parts).amin(0).mean().item() / x.shape[1] ** 0.5


def rms(x):
    """Return the root of the mean square over all that is in an error x, a float."""
    return x.square().mean().sqrt().item()


def psnr(x, y):
    """Return the peak signal-to-noise ratio of images in [-1, 1], (B,) dB: 10 log10(2^2 / MSE)."""
    return 10 * torch.log10(4 / ((x - y) ** 2).flatten(1).mean(1))


def frechet(x, y):
    """Return the Frechet distance of the Gaussians with the means and covariances of x and y.

        |m_x - m_y|^2 + trace(C_x + C_y - 2 (C_x C_y)^(1/2))

    Args:
        x, y: (N, D) and (M, D) features.
    """
    x, y = x.double(), y.double()
    C_x, C_y = x.T.cov(), y.T.cov()
    root = torch.linalg.eigvals(C_x @ C_y).real.clamp(min=0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + C_x.trace() + C_y.trace() - 2 * root).item()


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    check_readable(config, checkpoint)
    nets, seeds = load_readers(device), range(args.seed, args.seed + SEEDS)
    x, labels = (each.to(device) for each in held_out(config))
    for name, net in nets.items():
        recognised, digit = read(net, data.to_model(x))
        print(f"held-out digits, {name}: {(digit == labels).float().mean():.2%} read right, "
              f"{recognised.float().mean():.2%} recognised")
    print(f"{args.n} samples of {checkpoint} each with the seeds {list(seeds)}, on {device}")
    samples = {seed: torch.cat([x for _, x in batches(ddpm, model, config, args.n, seed)])
               for seed in seeds}
    shares = {(name, seed): read(nets[name], samples[seed])[0].float().mean().item()
              for name, seed in product(nets, seeds)}
    for name in nets:
        print(f"{name:10} recognises " + ", ".join(f"{shares[name, seed]:.1%}" for seed in seeds))
    (name, seed), worst = min(shares.items(), key=lambda pair: pair[1])
    _, digit = read(nets["pooled"], torch.cat(list(samples.values())))
    print(f"of each digit {digit.bincount(minlength=10).tolist()}\n"
          f"recognised: at least {worst:.1%} ({name}, seed {seed})")


def run_train(argv):
    args = arguments(__doc__, "readers.pt; it is written", record=False).parse_args(argv)
    path = args.checkpoint or Path("readers.pt")
    check_writable(path)
    device = pick_device(args.device)
    torch.manual_seed(args.seed)
    x, labels = data.load("digits", CONFIG["image_size"])
    nets, trained = network(CONFIG).to(device), nn.ModuleDict()
    for name, net in nets.items():
        trained[name] = fit(net, lambda net, x, y: F.cross_entropy(net(x).float(), y), x, labels,
                            2000, label=name)
    save_fit(path, CONFIG, 2000, trained)
    print(f"wrote {path}")


def main(argv=None):
    program(flags(__doc__, n=256), run, argv, run_train)


if __name__ == "__main__":
    main()
