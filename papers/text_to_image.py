"""Text to image: a U-Net that reads the caption, and guidance that makes it read more closely.

Nichol et al. 2021, "GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided
Diffusion Models" (arXiv:2112.10741), sec. 2.3, 4.1, 4.2.

    python -m papers.text_to_image train [--steps 2500]        minutes; writes text_to_image.pt
    python -m papers.text_to_image [--checkpoint F] [--n 60] [--steps 25]

Each digit has a caption (papers/kit/captions.py), "a bold seven, leaning right".  A transformer
makes vectors of its words.  The last of them is added to the embedding of the time, as a label's
would be, and says what the picture is of; and wherever pixels look at each other, they look at the
words too.  In a fifth of the batch the caption is the empty one, so that the network also knows
pictures without words, and what a caption changes can be amplified by s.  A tenth label for each of
12 styles would have done as much for 120 labels; words are worth it where a combination is new.  So
a sixth of the combinations of digit and style is not in the training data.

The picture shows, for captions of both kinds, what is drawn at several s; and how many have the
digit, and all of the style, that was asked for, as a network reads them that `train` makes too, on
other pictures, of all combinations.

GLIDE's transformer has 24 layers, ours two; its attention has several heads, ours is the core's,
with one.  The paper trains without empty captions first.  Its code fills short captions with
learned tokens that are looked at as words are; here nothing looks at padding.
"""
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import data
from ddpm import DDPM
from papers.classifier_free_guidance import sample
from papers.kit.captions import (PAD, STYLES, TextTransformer, as_asked, attributes, captions,
                                 held_out, style_loss, style_reader, tokenise, write)

from papers.kit.program import finish, flags, program, show_rows, shuffled, start, steps_of
from papers.kit.training import ASSETS, fit, load_fit, save_fit
from plumbing.cli import arguments, check_writable, integer
from plumbing.device import pick_device, recorded
from schedules import cosine_beta_schedule
from unet import Attention, ResidualBlock, UNet

SHIPPED = ASSETS / "text_to_image.pt"
CONFIG = {"T": 1000, "network": {
    "image_size": 16, "image_channels": 1, "channels": 24, "channel_mults": [1, 2],
    "num_res_blocks": 1, "attention_resolutions": [8], "dropout": 0.0}}
D = 64                                               # numbers that a word becomes
P_EMPTY = 0.2                                        # sec. 4.2
SCALES = 0, 1, 2, 4                                  # s: without words, with them, and more so
SEEDS = 3
KINDS, WHAT = ("of training", "held out"), ("digit", "style", "both")
ROWS = 4                                             # captions of each kind in the picture


# ---- a network that reads ----

class TextAttention(Attention):
    """Attention in which pixels look at pixels and at the words of a caption.  Sec. 4.1.

        [v', v] softmax(q^T [k', k] / sqrt(C))^T,   k' and v' of words, a word a column
    """

    def __init__(self, C):
        super().__init__(C)
        self.kv = nn.Linear(D, 2 * C)

    def forward(self, x, words, there):
        """Change x, (B, C, H, W), by words, (B, L, D), that are there, (B, L) bools."""
        B, C, H, W = x.shape
        q, *kv = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)           # each (B, C, HW)
        k, v = (torch.cat(pair, dim=2) for pair in zip(
            self.kv(words).transpose(1, 2).chunk(2, dim=1), kv, strict=True))      # (B, C, L + HW)
        scores = q.transpose(1, 2) @ k / math.sqrt(C)                        # (B, HW, L + HW)
        scores = scores.masked_fill(~F.pad(there, (0, H * W), value=True)[:, None], -torch.inf)
        h = v @ scores.softmax(dim=2).transpose(1, 2)                        # (B, C, HW)
        return x + self.proj(h.view(B, C, H, W))


class TextBlock(ResidualBlock):
    """A residual block whose attention, where it has any, is to words too."""

    def __init__(self, C_in, C_out, emb_dim, dropout=0.0, attention=False):
        super().__init__(C_in, C_out, emb_dim, dropout)
        self.text_attention = TextAttention(C_out) if attention else None

    def forward(self, x, emb):
        emb, words, there = emb
        x = super().forward(x, emb)
        return x if self.text_attention is None else self.text_attention(x, words, there)


class TextUNet(UNet):
    """eps_theta(x_t, t, c): a U-Net that is told the time and a caption.  Sec. 4.1.

    Args:
        network: the arguments of UNet.
    """

    Block = TextBlock

    def __init__(self, **network):
        super().__init__(**network)
        self.text, self.last = TextTransformer(D), nn.Linear(D, 4 * self.channels)
        self.register_buffer("empty", tokenise([""]), persistent=False)

    def embed(self, t, tokens=None):
        """Embed times, (B,), and captions, (B, L) int64 tokens; None are empty ones.

        Returns:
            What each block is told: (B, 4 * channels) of the time and of the last token, (B, L, D)
            of all tokens, and which of them are there, (B, L) bools.
        """
        tokens = self.empty.expand(len(t), -1) if tokens is None else tokens
        every, last = self.text(tokens)
        return super().embed(t) + self.last(last), every, tokens != PAD


def draw(ddpm, model, tokens, s, shape, steps, seed):
    """Draw an image of this shape for each caption, guided by s.  Sec. 2.3.

        eps = eps_theta(x_t, t) + s (eps_theta(x_t, t, c) - eps_theta(x_t, t))

    Of perfect networks it has the score of p(x_t) p(c | x_t)^s: the caption counts s times.  What
    Ho & Salimans call w is s - 1.
    """
    return sample(ddpm, model, tokens, s - 1, shape, steps, seed)


def drop_captions(tokens, empty, p):
    """Replace each caption of (B, L) tokens by the empty one, (1, L), with probability p."""
    return torch.where(torch.rand(len(tokens), 1, device=tokens.device) < p, empty, tokens)


# ---- training ----

def network(config):
    """Build what a file holds: a TextUNet, a style reader, and the process."""
    return nn.ModuleDict({"unet": TextUNet(**config["network"]), "reader": style_reader(),
                          "ddpm": DDPM(cosine_beta_schedule(config["T"]))})


def loss(ddpm):
    """Return L_simple with captions, a fifth of them empty, as `fit` takes it.  Sec. 4.2."""
    def loss(model, x_0, tokens):
        tokens = drop_captions(tokens, model.empty, P_EMPTY)
        return ddpm.loss(lambda x_t, t: model(x_t, t, tokens), x_0)
    return loss


def run_train(argv):
    parser = arguments(__doc__, "text_to_image.pt; it is written", record=False)
    parser.add_argument("--steps", type=integer(1), default=2000, help="of the U-Net (2000)")
    args = parser.parse_args(argv)
    path, device = args.checkpoint or Path("text_to_image.pt"), pick_device(args.device)
    check_writable(path)
    torch.manual_seed(args.seed)
    networks = network(CONFIG).to(device)
    x, labels, styles = map(torch.cat, zip(*(captions(seed=k) for k in (2, 3, 4)), strict=True))
    networks["reader"] = fit(networks["reader"], style_loss, x, attributes(labels, styles), 2000,
                             label="reader")
    x, labels, styles = captions()
    tokens, seen = tokenise(write(labels, styles)), ~held_out(labels, styles)
    networks["unet"] = fit(networks["unet"], loss(networks["ddpm"]), x[seen], tokens[seen],
                           args.steps, label="text to image")
    save_fit(path, CONFIG, args.steps, networks)
    print(f"wrote {path}")


# ---- the program ----

def choose(n, seed):
    """Return labels and styles, (2 n,) int64 each, of n captions of training, then n held out."""
    labels, styles = torch.arange(10).repeat_interleave(STYLES), torch.arange(STYLES).repeat(10)
    new = held_out(labels, styles)
    i = torch.cat([part[shuffled(len(part), seed)][torch.arange(n) % len(part)]
                   for part in ((~new).nonzero()[:, 0], new.nonzero()[:, 0])])
    return labels[i], styles[i]


def draw_figure(texts, samples, shares):
    """Draw samples {s: (SEEDS, N, 1, H, W)} of texts, N, and shares {s: (SEEDS, 2, 3)} against s.

    The first half of the captions is of training, the second held out.
    """
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.2, 1))
    shown = [k * len(texts) // 2 + i for k in range(2) for i in range(ROWS)]
    for axes, (s, x) in zip(left.subplots(1, len(samples)), samples.items(), strict=True):
        show_rows(axes, {texts[i]: x[:, i] for i in shown}, f"s = {s:g}")
        axes.axhline(axes.get_ylim()[0] / 2, color="C1")
        if s != SCALES[0]:
            axes.set_yticks([])
    axes = right.subplots()
    for part, (kind, line) in enumerate(zip(KINDS, ("-", ":"), strict=True)):
        for k, what in enumerate(WHAT):
            values = torch.stack([each[:, part, k] for each in shares.values()])     # (S, SEEDS)
            axes.errorbar(SCALES, values.mean(1), values.std(1), fmt=f".{line}", color=f"C{k}",
                          capsize=2, label=f"{what}, captions {kind}")
    axes.set(xlabel="s", ylim=(0, 1.03), title="share that is as asked for, three seeds")
    axes.legend(fontsize=8)
    return figure


def main(argv=None):
    parser = flags(__doc__, "text_to_image.png", 60, ROWS, "captions of training, and held out",
                   "the file that ships", steps=25)
    program(parser, run, argv, run_train)


def run(args):
    device, checkpoint, config, networks = start(
        args, SHIPPED, lambda path, device: load_fit(path, device, network))
    unet, reader, ddpm = networks.values()
    steps, model = steps_of(args, ddpm.T), recorded(unet, device, args.record)
    print(f"{args.n} captions of each kind, {steps} steps, by {checkpoint}, on {device}")
    x, labels, styles = captions(seed=1)
    new = held_out(labels, styles)
    for kind, part in zip(KINDS, (~new, new), strict=True):
        share = as_asked(reader, data.to_model(x[part]).to(device), labels[part], styles[part])
        print(f"{'real':8} {kind:12} " + ", ".join(
            f"{what} {value:6.1%}" for what, value in zip(WHAT, share, strict=True)))

    labels, styles = choose(args.n, args.seed)
    texts, samples, shares = write(labels, styles), {}, {}
    tokens = tokenise(texts).to(device)
    shape = [config["network"][name] for name in ("image_channels", "image_size", "image_size")]
    for s in SCALES:
        samples[s] = torch.stack([draw(ddpm, model, tokens, s, shape, steps, seed)
                                  for seed in range(args.seed, args.seed + SEEDS)])
        shares[s] = torch.stack([torch.stack([as_asked(reader, *part) for part in zip(
            *(each.chunk(2) for each in (x, labels, styles)), strict=True)]) for x in samples[s]])
        for kind, mean, std in zip(KINDS, shares[s].mean(0), shares[s].std(0), strict=True):
            print(f"s = {s:<4g} {kind:12} " + ", ".join(
                f"{what} {m:6.1%} +- {d:.1%}" for what, m, d in zip(WHAT, mean, std, strict=True)),
                flush=True)
    best = max(SCALES, key=lambda s: shares[s][:, :, 2].mean())
    seen, new = shares[best][:, :, 2].mean(0)
    finish(draw_figure(texts, samples, shares), args.out,
           f"finding: at s = {best} digit and style are those of the caption in {seen:.1%} of the "
           f"pictures where it is of training, and in {new:.1%} where its combination is new")


if __name__ == "__main__":
    main()
