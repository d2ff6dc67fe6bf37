"""Text to image: a U-Net that reads the caption, and guidance that makes it read more closely.

Nichol et al. 2021, "GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided
Diffusion Models" (arXiv:2112.10741), sec. 2.3, 4.1, 4.2.

    python -m papers.text_to_image train [--steps 2000]        minutes; writes text_to_image.pt
    python -m papers.text_to_image [--checkpoint F] [--n 60] [--steps 25]

Each digit has a caption (papers/kit/captions.py), "a bold seven, leaning right".  A transformer
makes a vector of each of its words, in the light of the others.  The last one is added to the
embedding of the time, where the label of papers/classifier_free_guidance.py is added; and wherever
pixels look at each other, they look at the words too.  In training a fifth of the captions is
empty, so that the network also knows pictures without words, and what a caption changes can be
taken s times.

A number for each of 120 combinations of digit and style would do as much, but for combinations that
nobody has seen.  So a sixth of them ("a bold serif seven, leaning right" is one) is held out of
training, and drawn all the same.  The picture shows captions of both kinds at several s, and the
share that has the digit, and all of the style, that was asked for.  They are read by a network that
`train` makes as well, from other pictures of all combinations.

GLIDE's transformer has 24 layers of width 2048, ours 2 of 64; its attention has several heads,
where ours has one, as the core's.  The paper trains with all captions first, and empties a fifth in
a second training.  The authors' code fills captions up with vectors that are learned and looked at;
here nobody looks at padding, and the last token is the one that ends the words.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

import data
from ddpm import DDPM
from papers.classifier_free_guidance import sample
from papers.kit.captions import (PAD, TextTransformer, as_asked, attributes, captions, held_out,
                                 style_loss, style_reader, tokenise, training_set)
from papers.kit.followed import KINDS, LEAST, follow, say
from papers.kit.program import finish, flags, program, start, steps_of
from papers.kit.training import ASSETS, fit, load_fit, save_fit, start_fit
from plumbing.device import recorded
from schedules import cosine_beta_schedule
from unet import Attention, ResidualBlock, UNet

SHIPPED = ASSETS / "text_to_image.pt"
CONFIG = {"T": 1000, "network": {
    "image_size": 16, "image_channels": 1, "channels": 24, "channel_mults": [1, 2],
    "num_res_blocks": 1, "attention_resolutions": [8], "dropout": 0.0}}
D = 64                                               # numbers that a word becomes
P_EMPTY = 0.2                                        # sec. 4.2


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


def draw(ddpm, model, tokens, s, shape, steps, seed, clip=True):
    """Draw an image of this shape for each caption, guided by s.  Sec. 2.3.

        eps = eps_theta(x_t, t) + s (eps_theta(x_t, t, c) - eps_theta(x_t, t))

    Of perfect networks it has the score of p(x_t) p(c | x_t)^s: the caption counts s times.  What
    Ho & Salimans call w is s - 1.
    """
    return sample(ddpm, model, tokens, s - 1, shape, steps, seed, clip)


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
    args, path, device = start_fit(argv, __doc__, "text_to_image.pt", 2000, "of the U-Net")
    networks = network(CONFIG).to(device)
    x, labels, styles = map(torch.cat, zip(*(captions(seed=k) for k in (2, 3, 4)), strict=True))
    networks["reader"] = fit(networks["reader"], style_loss, x, attributes(labels, styles), 2000,
                             label="reader")
    networks["unet"] = fit(networks["unet"], loss(networks["ddpm"]), *training_set(16), args.steps,
                           label="text to image")
    save_fit(path, CONFIG, args.steps, networks)
    print(f"wrote {path}")


# ---- the program ----

def main(argv=None):
    parser = flags(__doc__, "text_to_image.png", 60, LEAST, "captions of training, and held out",
                   "the file that ships", steps=25)
    program(parser, run, argv, run_train)


def run(args):
    device, checkpoint, config, networks = start(
        args, SHIPPED, lambda path, device: load_fit(path, device, network))
    unet, reader, ddpm = networks.values()
    steps, model = steps_of(args, ddpm.T), recorded(unet, device, args.record)
    shape = [config["network"][name] for name in ("image_channels", "image_size", "image_size")]
    print(f"{args.n} captions of each kind, {steps} steps, by {checkpoint}, on {device}")
    x, labels, styles = captions(seed=1)
    new = held_out(labels, styles)
    for kind, part in zip(KINDS, (~new, new), strict=True):
        share = as_asked(reader, data.to_model(x[part]).to(device), labels[part], styles[part])
        say(f"real, {kind}", [f"{value:.1%}" for value in share])
    figure, found = follow(lambda tokens, s, seed: draw(ddpm, model, tokens.to(device), s, shape,
                                                        steps, seed), reader, args.n, args.seed)
    finish(figure, args.out, found)


if __name__ == "__main__":
    main()
