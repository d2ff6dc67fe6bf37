"""Classifier-free guidance: a network with a label, less the same network without it.

Ho & Salimans 2022, "Classifier-Free Diffusion Guidance" (arXiv:2207.12598), Eq. 6, Algorithms 1, 2.

    python -m papers.classifier_free_guidance train           as train.py, with its flags
    python -m papers.classifier_free_guidance [--checkpoint F] [--n 10] [--steps 100]

`train` fills runs/papers/classifier_free_guidance.  The last command draws every class n times for
several w, from the same noise, in a chain of fewer steps (papers/improved_ddpm.py); of rendered
digits a classifier says how many are what was asked for.

The paper's z_lambda is x_t here, its c the label y, and its "null token" a label of its own, one
beyond the classes.  Its w is what guidance adds: 0 is the conditional network alone, -1 the
unconditional.  Elsewhere (Imagen, diffusers) a guidance scale of s means w = s - 1.
"""
import sys
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import nn

import data
import train
from benchmarks.recognise import diversity, readable, share_read_as, train_classifier
from papers.improved_ddpm import respace
from papers.training import ASSETS, load_eps, train_eps
from sample import (NETWORK, arguments, batch_size, check_writable, file_name, grid,
                    integer, one_line_errors, pick_device, save_figure)
from unet import UNet

SHIPPED = ASSETS / "guidance.pt"
CLASSES = 10                                         # of all data sets that have a name here
WEIGHTS = -1, -0.5, 0, 1, 3, 7                       # w
DRAWN = 0, 1, 3


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

    def forward(self, x_t, t, y=None):
        """Predict the noise in x_t; y: (B,) int64 labels, or None for the null label."""
        y = torch.full_like(t, self.null) if y is None else y
        hook = self.emb.register_forward_hook(lambda module, args, emb: emb + self.label(y))
        try:
            return super().forward(x_t, t)
        finally:
            hook.remove()


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

def network(config):
    return LabelUNet(**{name: config[name] for name in NETWORK})


@dataclass
class Config(train.Config):
    p_uncond: float = train.arg(0.1, "share of the labels that are dropped, between 0 and 1")
    out: str = train.arg("runs/papers/classifier_free_guidance", "folder of the run")

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.p_uncond < 1:
            train.refuse("p_uncond", f"must be between 0 and 1, not {self.p_uncond}")
        if self.data not in ("digits", *data.MIRRORS):
            train.refuse("data", f"must be digits, {', '.join(data.MIRRORS)}, which have ten "
                                 f"classes, not {self.data}")


def run_train(argv):
    train_eps(argv, Config, __doc__, network, lambda config: joint_loss(config.p_uncond))


def sample(ddpm, model, y, w, shape, steps, seed):
    """Draw an image of this shape for each label in y, from noise that is the same for every w."""
    generator, parts = torch.Generator(ddpm.beta.device).manual_seed(seed), []
    for part in data.track(y.split(batch_size(shape[-1])), f"w = {w:g}, batches"):
        chain, each = respace(ddpm, guided(model, part, w), steps)
        parts.append(chain.sample(each, (len(part), *shape), generator=generator))
    return torch.cat(parts)


def draw_figure(pictures, rows, real):
    """Draw the samples of some w, and both numbers against w.

    Args:
        pictures: {w: (N, C, H, W)}, of each class in turn.
        rows: {w: (share as asked or None, diversity)}; real: the same of held-out images.
    """
    figure = Figure(figsize=(4.2 * len(pictures) + 4, 4.4), layout="constrained")
    *grids, axes = figure.subplots(1, len(pictures) + 1)
    for panel, (w, x) in zip(grids, pictures.items(), strict=True):
        panel.imshow(grid(x, CLASSES), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        panel.set(title=f"w = {w:g}", xticks=[], yticks=[])
    for i, (label, color) in enumerate((("share that is what was asked for", "C0"),
                                        ("diversity: RMS distance in a class", "C1"))):
        if real[i] is not None:
            axes.plot(list(rows), [row[i] for row in rows.values()], ".-", color=color, label=label)
            axes.axhline(real[i], color=color, linestyle=":", label="  of held-out images")
    axes.set(xlabel="w", ylim=(0, 1.05))
    axes.legend(fontsize=8, loc="lower right")
    return figure


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = arguments(__doc__, "the one that ships")
    parser.add_argument("--n", type=integer(2), default=10, help="samples of each class (10)")
    parser.add_argument("--steps", type=integer(1), default=100, help="of the chain (100)")
    parser.add_argument("--out", type=file_name(".png"), default="guidance.png",
                        help="the figure, a PNG (guidance.png)")
    with one_line_errors("classifier_free_guidance.py"):
        if argv[:1] == ["train"]:
            run_train(argv[1:])
        else:
            run(parser.parse_args(argv))


def run(args):
    device, checkpoint = pick_device(args.device), args.checkpoint or SHIPPED
    config, ddpm, model = load_eps(checkpoint, device, network)
    C, H = config["image_channels"], config["image_size"]
    if args.steps > ddpm.T:
        raise ValueError(f"--steps must be in 1..{ddpm.T}, not {args.steps}")
    check_writable(args.out)
    y = torch.arange(CLASSES, device=device).repeat(args.n)
    x, labels = data.load(config["data"], H, C, "test", config["data_dir"])
    known = torch.cat([(labels == k).nonzero()[:args.n, 0] for k in range(CLASSES)])
    net = train_classifier(H, device)[0] if readable(config) else None

    def judge(x, y):
        return share_read_as(net, x, y) if net else None, diversity(x, y)

    def show(what, row):
        share = "" if row[0] is None else f"{row[0]:7.1%} read as what was asked for, "
        print(f"{what:16}{share}diversity {row[1]:.3f}", flush=True)

    print(f"{len(y)} samples each of {checkpoint}, {args.steps} steps, on {device}")
    real = judge(data.to_model(x[known]).to(device), labels[known].to(device))
    show("held-out images", real)
    pictures, rows = {}, {}
    for w in WEIGHTS:
        samples = sample(ddpm, model, y, w, (C, H, H), args.steps, args.seed)
        rows[w] = judge(samples, y)
        show(f"w = {w:g}", rows[w])
        if w in DRAWN:
            pictures[w] = samples[:10 * CLASSES]
    save_figure(draw_figure(pictures, rows, real), args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
