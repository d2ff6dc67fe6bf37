"""Classifier guidance: images of a class on demand, from a network that knows no classes.

Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis" (arXiv:2105.05233), sec. 4,
Algorithms 1 and 2.

    python -m papers.classifier_guidance [--checkpoint F] [--classifier F] [--n 6]
    python -m papers.classifier_guidance train [--checkpoint F] [--steps 1000] [--out F]

By Bayes' rule, grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t).  A network has learned
the first; the second takes a classifier that reads noisy images.  s times the second is that of
p(y | x_t)^s, which is sharper: more images are of class y, and they are more alike (sec. 4.3).

The program draws ten digits at several scales s, by Algorithm 1 in 250 steps, as the paper draws
ImageNet.  It prints the share that another classifier reads as the digit asked for, and how far
apart two images of one digit are.

The paper's mu and Sigma = sigma_t^2 I are those of `DDPM.p_sample`, and its s is `scale`.
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import data
from ddpm import at
from papers.kit.chain import first_noise, respace, walk
from papers.kit.guidance import trade
from papers.kit.judge import check_readable, load_reader
from papers.kit.program import finish, flags, held_out, program, start
from papers.kit.training import ASSETS, fit, load_fit, save_fit
from plumbing.cli import arguments, check_writable, file_name, integer
from unet import Downsample, ResidualBlock, group_norm, initialise, timestep_embedding

SAME = "data", "image_size", "image_channels", "T", "schedule"   # what a classifier is trained for
SCALES, STEPS = (0, 1, 3, 10), 250


class Classifier(nn.Module):
    """p_phi(y | x_t, t): the way down of the U-Net, and a mean over what it ends in.

    The authors' ends in attention pooling at 8 x 8 instead (sec. 4.3).
    """

    def __init__(self, image_channels, classes, channels=16):
        super().__init__()
        self.channels, emb_dim = channels, 4 * channels
        self.emb = nn.Sequential(nn.Linear(channels, emb_dim), nn.SiLU(),
                                 nn.Linear(emb_dim, emb_dim))
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1)
        C, D, E = channels, 2 * channels, 4 * channels
        self.down = nn.ModuleList([
            ResidualBlock(C, C, emb_dim), Downsample(C, C, 3, stride=2),
            ResidualBlock(C, D, emb_dim), Downsample(D, D, 3, stride=2),
            ResidualBlock(D, E, emb_dim, attention=True)])
        self.norm, self.out = group_norm(E), nn.Linear(E, classes)
        self.apply(initialise)

    def logits(self, x_t, t):
        """Return what the last layer does, (B, K), for x_t, (B, C, H, W), and t, (B,) in 0..T."""
        emb = self.emb(timestep_embedding(t, self.channels))
        h = self.conv_in(x_t)
        for block in self.down:
            h = block(h, emb)
        return self.out(F.silu(self.norm(h)).mean((2, 3))).float()

    def forward(self, x_t, t):
        """Return log p_phi(y | x_t, t), (B, K); the arguments are those of `logits`."""
        return self.logits(x_t, t).log_softmax(1)


def cross_entropy(ddpm):
    """Return a loss for `training.fit`: E -log p_phi(y | x_t, t), x_t by Eq. 4, t uniform."""
    def loss(log_p, x_0, y):
        t = ddpm.draw_t(len(x_0))
        return F.nll_loss(log_p(ddpm.q_sample(x_0, t, torch.randn_like(x_0)), t), y)
    return loss


# ---- guidance ----

def gradient(log_p, x_t, t, y):
    """Return grad_{x_t} log p(y | x_t, t), for each image that of its own y.

    Args:
        log_p: called as log_p(x_t, t), returns (B, K) log probabilities.
        x_t: (B, ...) noisy images.
        t: (B,) int64 times in 1..T.
        y: (B,) int64 classes in 0..K - 1.

    Returns:
        (B, ...).

    Raises:
        ValueError: y is not one class for each image.
    """
    if y.shape != (len(x_t),):                       # gather would leave images unguided
        raise ValueError(f"{len(x_t)} images need as many classes y, not {tuple(y.shape)}")
    with torch.enable_grad():                        # a sampler runs without
        x_t = x_t.detach().requires_grad_()
        return torch.autograd.grad(log_p(x_t, t).gather(1, y[:, None]).sum(), x_t)[0]


@torch.no_grad()
def step(ddpm, model, log_p, y, x_t, t, scale=1.0, clip=True, generator=None):
    """Draw x_{t-1}: one step of Algorithm 1, Dhariwal & Nichol 2021.

        x_{t-1} ~ N(mu + s Sigma grad_{x_t} log p(y | x_t), Sigma)

    At t = 1 the listing adds noise, but the authors' code does not, nor is it done here; all shift.
    With clip=True it is x_0_hat that is clipped, before the shift.

    Args:
        ddpm, model, x_t, t, clip, generator: as for `DDPM.p_sample`.
        log_p, y: as for `gradient`.
        scale: s; 0 is no guidance.

    Returns:
        (B, ...) images x_{t-1}.
    """
    g = gradient(log_p, x_t, torch.full((len(x_t),), t, device=x_t.device), y)
    return ddpm.p_sample(model, x_t, t, clip, generator) + scale * ddpm.sigma[t] ** 2 * g


def sample(ddpm, model, log_p, y, x_T, scale=1.0, clip=True, generator=None):
    """Go from noise x_T, (B, ...), to images x_0 of classes y: Algorithm 1; the rest as `step`."""
    def guided_step(x_t, t):
        return step(ddpm, model, log_p, y, x_t, t, scale, clip, generator)
    return walk(guided_step, x_T, ddpm.T, f"Algorithm 1, s = {scale}")


def guided(ddpm, model, log_p, y, scale=1.0):
    """Return a model with the score of p(x_t) p(y | x_t)^s.  Algorithm 2, Dhariwal & Nichol 2021.

        eps_hat = eps_theta(x_t, t) - s sqrt(1 - alpha_bar_t) grad_{x_t} log p(y | x_t)

    The listing forgets s, the authors' code does not.  `ddim.sample` of this model is Algorithm 2.
    `DDPM.sample` of it has the mean of Algorithm 1 but for beta_t / sqrt(alpha_t) in the place of
    sigma_t^2: the same where beta_t is small, 32 times as much at T of the cosine schedule.  And
    what is clipped is the guided x_0_hat; in the authors' code it is the one before guidance.

    Args:
        ddpm, model: DDPM, and a model called as model(x_t, t).
        log_p, y, scale: as for `step`.

    Returns:
        A model for batches of len(y) images.
    """
    def eps_hat(x_t, t):
        shift = at(ddpm.one_minus_alpha_bar, t, x_t).sqrt() * gradient(log_p, x_t, t, y)
        return model(x_t, t) - scale * shift
    return eps_hat


# ---- the program ----

def network(config):
    return Classifier(config["image_channels"], config["classes"])


def load_guide(path, device, network, config, checkpoint):
    """Return the network of a file; a ValueError, unless it is for a checkpoint of this config."""
    own, guide = load_fit(path, device, network)
    if any(own.get(name) != config[name] for name in SAME):
        raise ValueError(f"{path} and {checkpoint} differ in one of {', '.join(SAME)}")
    return guide


def run_train(argv):
    parser = arguments(__doc__, record=False)
    parser.add_argument("--steps", type=integer(2), default=1000, help="of the optimizer (1000)")
    parser.add_argument("--out", type=file_name(".pt"), default=Path("runs", "classifier.pt"),
                        help="where to write it (runs/classifier.pt)")
    args = parser.parse_args(argv)
    device, _, config, ddpm, _ = start(args)
    x, y = data.load(*(config[name] for name in SAME[:3]), data_dir=config["data_dir"])
    if y is None:
        raise ValueError(f"the images of {config['data']} have no classes")
    own = {**{name: config[name] for name in SAME}, "classes": y.max().item() + 1}
    check_writable(args.out)
    torch.manual_seed(args.seed)
    log_p = fit(network(own).to(device), cross_entropy(ddpm), x, y, args.steps)
    save_fit(args.out, own, args.steps, log_p)
    x, y = (part[:1000].to(device) for part in held_out(config))
    x_0 = data.to_model(x)
    for t in [1, *(max(1, ddpm.T * k // 5) for k in range(1, 6))]:
        x_t = ddpm.q_sample(x_0, t, torch.randn_like(x_0))
        right = log_p(x_t, torch.full_like(y, t)).argmax(1) == y
        print(f"held-out images read right at t = {t}: {right.float().mean():.1%}")
    print(f"wrote {args.out}, {args.out.stat().st_size:,} bytes")


def main(argv=None):
    parser = flags(__doc__, "classifier_guidance.png", 6, least=2, help="images of each digit")
    parser.add_argument("--classifier", type=Path, default=ASSETS / "classifier.pt",
                        help="what train wrote (default: the one that ships)")
    program(parser, run, argv, run_train)


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    check_readable(config, checkpoint)
    log_p = load_guide(args.classifier, device, network, config, checkpoint)
    print(f"{args.n} images of each digit at each scale by {checkpoint}, on {device}")
    H, y = config["image_size"], torch.arange(10, device=device).repeat(args.n)
    net = load_reader(device)
    chain, model = respace(ddpm, model, min(STEPS, ddpm.T))
    log_p = respace(ddpm, log_p, chain.T)[1]         # it too is told a time of the whole chain

    def draw(s):
        x_T, generator = first_noise(args.seed, (len(y), 1, H, H), device)
        return sample(chain, model, log_p, y, x_T, s, generator=generator).clamp(-1, 1)
    finish(trade(draw, SCALES, "s", y, net, *held_out(config)), args.out)


if __name__ == "__main__":
    main()
