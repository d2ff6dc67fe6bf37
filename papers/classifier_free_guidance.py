"""Classifier-free guidance: a network with a label, less the same network without it.

Ho & Salimans 2022, "Classifier-Free Diffusion Guidance" (arXiv:2207.12598), Eq. 6, Algorithms 1, 2.

    python -m papers.classifier_free_guidance train           as train.py, with its flags
    python -m papers.classifier_free_guidance [--checkpoint F] [--n 10] [--steps 100]

`train` fills runs/papers/classifier_free_guidance.  The last command draws every class n times for
several w, from the same noise, in a chain of fewer steps (papers/kit/chain.py); of rendered
digits a classifier says how many are what was asked for.

The paper's z_lambda is x_t here, its c the label y, and its "null token" a label of its own, one
beyond the classes.  Its w is what guidance adds: 0 is the conditional network alone, -1 the
unconditional.  Elsewhere (Imagen, diffusers) a guidance scale of s means w = s - 1.
"""
from dataclasses import dataclass

import torch
from torch import nn

import train
from papers.kit.chain import respace
from papers.kit.guidance import trade
from papers.kit.judge import load_reader, readable
from papers.kit.program import finish, flags, held_out, program, start, steps_of
from papers.kit.training import ASSETS, load_eps, train_eps
from plumbing.cli import track
from plumbing.downloads import MIRRORS
from plumbing.flags import arg, refuse
from sample import batch_size
from unet import UNet

SHIPPED = ASSETS / "guidance.pt"
CLASSES = 10                                         # of all data sets that have a name here
WEIGHTS = -1, -0.5, 0, 1, 3, 7                       # w


class LabelUNet(UNet):
    """eps_theta(x_t, t, y): a U-Net that is told the class, as it is told the time.

    The label's embedding, 0 before training, is added to that of the time.

    Args:
        classes: labels are 0..classes - 1; the null label is `classes`.
        network: the arguments of UNet.
    """

    def __init__(self, classes=CLASSES, **network):
        super().__init__(**network)
        self.null = classes
        self.label = nn.Embedding(classes + 1, 4 * self.channels)
        nn.init.zeros_(self.label.weight)

    def embed(self, t, y=None):
        """Embed times and labels, (B,) int64 each; no labels, or null ones, are all the same."""
        y = torch.full_like(t, self.null) if y is None else y
        if y.shape != t.shape:
            raise ValueError(f"{len(t)} images need as many labels y, not {tuple(y.shape)}")
        return super().embed(t) + self.label(y)


def drop_labels(y, null, p_uncond):
    """Replace each label by the null label with probability p_uncond.  Algorithm 1, line 3.

    Args:
        y: (B,) int64 labels.
        null: the null label, an int.
        p_uncond: float in [0, 1].

    Returns:
        (B,) int64.
    """
    return torch.where(torch.rand(len(y), device=y.device) < p_uncond, null, y)


def joint_loss(p_uncond):
    """Return the loss of Algorithm 1, L_simple with labels, as `train.train` takes it."""
    def loss(ddpm, model, x_0, labels):
        y = drop_labels(labels, CLASSES, p_uncond)
        return train.L_simple(ddpm, lambda x_t, t: model(x_t, t, y), x_0, labels)
    return loss


def guided(model, y, w):
    """Put guidance around a model.  Ho & Salimans 2022, Eq. 6; Algorithm 2, line 3.

        eps = (1 + w) eps_theta(x_t, t, y) - w eps_theta(x_t, t)

    Of perfect networks it is -sqrt(1 - alpha_bar_t) times the score of p(x_t | y) p(y | x_t)^w, or
    p(x_t) p(y | x_t)^(1 + w), at each t.  In general these are not the q(x_t) of any data, unless w
    is 0 or -1.

    Args:
        model: called as model(x_t, t, y), and as model(x_t, t) without a label.
        y: (B,) int64 labels.
        w: float.

    Returns:
        A model(x_t, t), as `DDPM.sample` and other samplers take it.
    """
    def model_of_y(x_t, t):
        with_y, without = model(x_t, t, y).to(x_t), model(x_t, t).to(x_t)  # to float32, if bfloat16
        return (1 + w) * with_y - w * without
    return model_of_y


# ---- the program ----

@dataclass
class Config(train.Config):
    p_uncond: float = arg(0.1, "share of the labels that are dropped, between 0 and 1")

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.p_uncond < 1:
            refuse("p_uncond", f"must be between 0 and 1, not {self.p_uncond}")
        if self.data not in ("digits", *MIRRORS):
            refuse("data", f"must be digits, {', '.join(MIRRORS)}, which have ten classes, not "
                           f"{self.data}")


def sample(ddpm, model, y, w, shape, steps, seed, clip=True):
    """Draw an image of this shape for each label in y, from noise that is the same for every w."""
    generator, parts = torch.Generator(ddpm.beta.device).manual_seed(seed), []
    for part in track(y.split(batch_size(shape[-1])), f"w = {w:g}, batches"):
        chain, each = respace(ddpm, guided(model, part, w), steps)
        parts.append(chain.sample(each, (len(part), *shape), clip, generator))
    return torch.cat(parts)


def main(argv=None):
    parser = flags(__doc__, "guidance.png", 10, 2, "samples of each class", "the one that ships",
                   steps=100)
    program(parser, run, argv, lambda argv: train_eps(
        argv, Config, __doc__, LabelUNet, lambda config: joint_loss(config.p_uncond)))


def run(args):
    device, checkpoint, config, ddpm, model = start(
        args, SHIPPED, lambda path, device: load_eps(path, device, LabelUNet))
    C, H, steps = config["image_channels"], config["image_size"], steps_of(args, ddpm.T)
    net = load_reader(device) if readable(config) else None
    y = torch.arange(CLASSES, device=device).repeat(args.n)
    print(f"{len(y)} samples each of {checkpoint}, {steps} steps, on {device}")

    def draw(w):
        return sample(ddpm, model, y, w, (C, H, H), steps, args.seed)
    finish(trade(draw, WEIGHTS, "w", y, net, *held_out(config)), args.out)


if __name__ == "__main__":
    main()
