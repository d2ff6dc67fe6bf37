"""What can be said of samples: how many of them can be read, and how far images are apart.

    python -m papers.kit.judge [--checkpoint F] [--n 256] [--seed 0] [--device D]

How many samples of a digits checkpoint can be read?  A small convolutional classifier is trained on
the rendered digits, then reads samples.  A sample is recognised if the classifier gives some digit
a probability of 0.9 or more.  The same share of held-out digits stands beside it: no generator can
be expected to do better.  The number says how much of what looks like digits is whole.  Of other
pictures it would say nothing, and they are refused: the classifier was never shown any, and takes
half of all white noise for a digit.
"""
import torch
import torch.nn.functional as F
from torch import nn

import data
from papers.kit.program import flags, held_out, program, start
from sample import batches


def train_classifier(image_size=16, device="cpu", epochs=6, seed=0):
    """Train on the rendered digits.

    Returns:
        The classifier, eval(), from (B, 1, H, W) in [-1, 1] to (B, 10) logits; and its held-out
        accuracy, in 0..1.
    """
    torch.manual_seed(seed)
    x, labels = (values.to(device) for values in data.load("digits", image_size))
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)).to(device)
    net(data.to_model(x[:1]))                        # the lazy layer learns its size
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * -(-len(x) // 64))
    for _ in range(epochs):
        for i in torch.randperm(len(x), device=device).split(64):
            loss = F.cross_entropy(net(data.to_model(x[i])), labels[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    net.eval()
    x, labels = (values.to(device) for values in data.load("digits", image_size, split="test"))
    _, digit = read(net, data.to_model(x))
    return net, (digit == labels).float().mean().item()


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


def diversity(x, y):
    """Return the RMS distance of two images of one class, the mean over all such pairs.

    Args:
        x: (N, ...) images.
        y: (N,) int64 classes; of each, or of one at least, there are two images.

    Returns:
        A float.
    """
    points = x.flatten(1) / x[0].numel() ** 0.5
    return torch.cat([torch.pdist(points[y == k]) for k in y.unique()]).mean().item()


def rms(x):
    """Return the root of the mean square over all that is in x, a float."""
    return x.square().mean().sqrt().item()


def apart(x, y):
    """Return the RMS distance of two images x and y, the mean over such pairs, a float."""
    return (x - y).square().flatten(1).mean(1).sqrt().mean().item()


def nearest(x, others):
    """Return the RMS distance of an image x to the nearest of others (uint8), the mean over x."""
    x = x.flatten(1)
    parts = [torch.cdist(x, data.to_model(part).flatten(1)).amin(1) for part in others.split(500)]
    return torch.stack(parts).amin(0).mean().item() / x.shape[1] ** 0.5


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
    net, accuracy = train_classifier(config["image_size"], device)
    real, _ = read(net, data.to_model(held_out(config)[0]).to(device))
    print(f"{args.n} samples of {checkpoint} on {device}")
    print(f"held-out digits: {accuracy:.2%} read right, {real.float().mean():.1%} recognised")
    x = torch.cat([x for _, x in batches(ddpm, model, config, args.n, args.seed)]).to(device)
    recognised, digit = read(net, x)
    print(f"{args.n} samples: {recognised.float().mean():.1%} recognised; of each digit "
          f"{digit[recognised].bincount(minlength=10).tolist()}")


def main(argv=None):
    program(flags(__doc__, n=256), run, argv)


if __name__ == "__main__":
    main()
