"""CLIP: which caption belongs to which picture, and pictures drawn by the gradient of the answer.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv:2103.00020), Fig. 3; Nichol et al. 2021, "GLIDE" (arXiv:2112.10741), sec. 2.4 and 4.4; van
den Oord et al. 2018, "Contrastive Predictive Coding" (arXiv:1807.03748), Eq. 2 and 4.

    python -m papers.clip [--checkpoint F] [--clip F] [--n 60] [--steps 50]
    python -m papers.clip train [--checkpoint F] [--steps 2500] [--out F]

Two encoders, f of pictures and g of captions, end in one space.  Of a batch of pairs they learn to
say which caption is each picture's, and which picture each caption's.  The best answer to both is

    f(x) . g(c) = log p(x, c) / (p(x) p(c)) + a constant

and with x_t in the place of x its gradient is that of log p(c | x_t).  So f . g can stand for the
classifier of papers/classifier_guidance.py, and draws what words ask for by a network that knows
none, if f has seen noise: GLIDE calls it "noised".  (Who answers the first question alone may add
any function of x, whose gradient leads anywhere.)

The picture shows what the classifier, which can be asked for a digit only, a noised CLIP, and one
that saw clean pictures only make of the same captions and noise; how much of that is as asked; in
what noise held-out pictures still find their caption; and which captions some of them find.

Captions, and those that nobody trains on, are of papers/kit/captions.py.  Fig. 3's t is `log_scale`
here, and exp(t) belongs to f . g, as in GLIDE's code.  Not the paper's: f is the classifier but for
its end, and that scale has no limit (100).
"""
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import data
from papers import classifier_guidance, text_to_image
from papers.classifier_guidance import SAME, Classifier, load_guide, sample
from papers.kit.captions import (STYLES, TextTransformer, as_asked, captions, held_out, tokenise,
                                 training_set, write)
from papers.kit.chain import ask, first_noise, noise_like, respace
from papers.kit.judge import check_readable
from papers.kit.program import finish, flags, program, show_rows, shuffled, start, steps_of
from papers.kit.training import ASSETS, fit, load_fit, save_fit
from plumbing.cli import arguments, check_writable, file_name, integer

SCALES, SHOWN, D = (0, 1, 3, 10), 3, 32
EVERY = torch.arange(10).repeat_interleave(STYLES), torch.arange(STYLES).repeat(10)  # captions


class Clip(nn.Module):
    """f(x_t, t), which is told t = 0 unless it is `noised`, g(c), and their scale.  Fig. 3."""

    def __init__(self, image_channels, noised):
        super().__init__()
        self.noised = noised
        self.picture, self.text = Classifier(image_channels, D), TextTransformer(D)
        self.project = nn.Linear(D, D)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())  # theirs begins there

    def f(self, x_t, t):
        """Return (B, D), of unit length, of pictures x_t, (B, C, H, W), and t, (B,) in 0..T."""
        return F.normalize(self.picture.logits(x_t, t * self.noised), dim=1)

    def ask(self, tokens):
        """Return f . g of captions, (K, LENGTH) tokens, as log_p(x_t, t), (B, K), to guide by."""
        g = F.normalize(self.project(self.text(tokens)[1]).float(), dim=1)   # (K, D)
        return lambda x_t, t: self.log_scale.exp() * self.f(x_t, t) @ g.T


def info_nce(logits):
    """Return the loss of Radford et al. 2021, Fig. 3; each half is van den Oord's Eq. 4.

        -1 / (2 N) sum_i (log(exp l_ii / sum_j exp l_ij) + log(exp l_ii / sum_j exp l_ji))

    l_ij is of picture i and caption j, (N, N); those of one i are a pair.
    """
    i = torch.arange(len(logits), device=logits.device)
    which_caption, which_picture = F.cross_entropy(logits, i), F.cross_entropy(logits.T, i)
    return (which_caption + which_picture) / 2


def contrast(ddpm):
    """Return a loss for `training.fit`: InfoNCE of x_t by Eq. 4, t uniform, or 0 if not noised."""
    def loss(clip, x_0, tokens):
        t = ddpm.draw_t(len(x_0)) * clip.noised
        return info_nce(clip.ask(tokens)(ddpm.q_sample(x_0, t, torch.randn_like(x_0)), t))
    return loss


@torch.no_grad()
def rank(ddpm, clip, x_0, t, generator=None):
    """Return f . g, (N, 120), of x_0, (N, C, H, W), with the noise of t, and EVERY caption."""
    log_p = clip.ask(tokenise(write(*EVERY)).to(x_0.device))
    x_t = ddpm.q_sample(x_0, t, noise_like(x_0, generator))
    return torch.cat([ask(log_p, part, t) for part in x_t.split(500)]).cpu()


def retrieve(logits, digits, styles):
    """Return which pictures find their caption, (N,), and which of EVERY caption one, (120,)."""
    y = STYLES * digits + styles                     # the place in EVERY
    return logits.argmax(1) == y, y[logits.argmax(0)] == torch.arange(logits.shape[1])


# ---- the program ----

def network(config):
    return nn.ModuleDict({name: Clip(config["image_channels"], name == "noised CLIP")
                          for name in ("noised CLIP", "clean CLIP")})


def report(ddpm, clips, x_0, *of):
    """Say how many held-out pictures and captions find each other where there is no noise."""
    for name, clip in clips.items():
        found, finds = retrieve(rank(ddpm, clip, x_0, 0), *of)
        for what, right, new in (("pictures", found, held_out(*of)),
                                 ("captions", finds, held_out(*EVERY))):
            print(f"{name}: {right[~new].float().mean():.1%} of {(~new).sum()} {what} find theirs, "
                  f"{right[new].float().mean():.1%} of {new.sum()} that nobody trained on")


def run_train(argv):
    parser = arguments(__doc__, record=False)
    parser.add_argument("--steps", type=integer(2), default=2500, help="of the optimizer (2500)")
    parser.add_argument("--out", type=file_name(".pt"), default=Path("runs", "clip.pt"),
                        help="where to write it (runs/clip.pt)")
    args = parser.parse_args(argv)
    device, checkpoint, config, ddpm, _ = start(args)
    check_readable(config, checkpoint)
    check_writable(args.out)
    x, tokens = training_set(config["image_size"])
    own = {key: config[key] for key in SAME}
    torch.manual_seed(args.seed)
    clips = network(own).to(device)
    for name, clip in clips.items():
        clips[name] = fit(clip, contrast(ddpm), x, tokens, args.steps, 128, label=name)
        print(f"{name}: the scale is {clips[name].log_scale.exp():.1f}")
    save_fit(args.out, own, args.steps, clips)
    x, *of = captions(config["image_size"], seed=1)
    report(ddpm, clips, data.to_model(x).to(device), *of)
    print(f"wrote {args.out}, {args.out.stat().st_size:,} bytes")


def ranked(logits, own):
    """Write the best three captions of N pictures, as if all were as frequent, and mark the own."""
    texts = write(*EVERY)
    return ["\n".join(f"{p:.0%} {texts[k]}{' *' * (texts[k] == text)}" for p, k in zip(
        *(part.tolist() for part in row.softmax(0).topk(3)), strict=True))
        for row, text in zip(logits, own, strict=True)]


def draw_figure(rows, texts, shares, ranks):
    """Draw {label: samples} below their captions, {title: lines}, and {`ranked`: a picture}."""
    figure = Figure(figsize=(16, 8), layout="constrained")
    axes = figure.subplot_mosaic([["rows"] * 4 + ["ranks"], [*shares, "ranks"]],
                                 width_ratios=(1, 1, 1, 1, 1.9), height_ratios=(1.4, 1))
    show_rows(axes["rows"], rows, most=len(texts))
    axes["rows"].xaxis.tick_top()
    axes["rows"].set_xticks(torch.linspace(*axes["rows"].get_xlim(), 2 * len(texts) + 1)[1::2],
                            [text.replace(" ", "\n") for text in texts], fontsize=8)
    for title, lines in shares.items():
        for i, (name, values) in enumerate(lines.items(), 3 - len(lines)):   # CLIP has two colours
            axes[title].plot(list(values), list(values.values()), ".-", color=f"C{i}", label=name)
        axes[title].set(title=title, ylim=(0, 1.02), xticks=list(values)[::len(values) // 4],
                        xlabel="s" if len(lines) == 3 else "t")
    axes["digit as asked"].legend(fontsize=8, loc="lower right")
    show_rows(axes["ranks"], ranks,
              "ranked by the noised CLIP (*: its own);\nnobody trained on the lower two")
    axes["ranks"].yaxis.tick_right()
    return figure


def run(args):
    device, checkpoint, config, ddpm, model = start(args)
    log_p, clips = (load_guide(path, device, kind, config, checkpoint) for path, kind in (
        (ASSETS / "classifier.pt", classifier_guidance.network), (args.clip, network)))
    reader = load_fit(text_to_image.SHIPPED, device, text_to_image.network)[1]["reader"]
    x, digits, styles = captions(config["image_size"], seed=1)
    x = data.to_model(x).to(device)
    report(ddpm, clips, x, digits, styles)
    i = shuffled(len(x), args.seed)[:args.n]
    texts, steps = write(digits[i], styles[i]), steps_of(args, ddpm.T)
    print(f"{len(texts)} captions at each s, {steps} steps, on {device}")
    guides = {"classifier": (log_p, digits[i].to(device))} | {
        name: (clip.ask(tokenise(texts).to(device)), torch.arange(len(texts), device=device))
        for name, clip in clips.items()}
    (chain, model), rows = respace(ddpm, model, steps), {}
    shares = {f"{k} as asked": {name: {} for name in guides} for k in ("digit", "style", "both")}
    for s, (name, (log_p, k)) in product(SCALES, guides.items()):
        if s or not rows:                            # where s = 0 all draw the same
            x_T, generator = first_noise(args.seed, (len(texts), *x.shape[1:]), device)
            x_0 = sample(chain, model, respace(ddpm, log_p, steps)[1], k, x_T, s,
                         generator=generator).clamp(-1, 1)
        if s in (0, SHOWN):
            rows[f"{name}\ns = {s}" if s else "s = 0"] = x_0
        for of, share in zip(shares.values(), as_asked(reader, x_0, digits[i], styles[i]).tolist(),
                             strict=True):
            of[name][s] = share
        print(f"{name}, s = {s}: " + ", ".join(f"{part} {of[name][s]:.1%}"
                                               for part, of in shares.items()), flush=True)
    finding = ", ".join(f"{share[SHOWN]:.0%} by the {name}"
                        for name, share in shares["both as asked"].items())
    noise = torch.Generator(device)                  # the same at each t, for both
    shares["caption found"] = {name: {
        t: retrieve(rank(ddpm, clip, x[:1000], t, noise.manual_seed(args.seed)), digits[:1000],
                    styles[:1000])[0].float().mean()
        for t in range(0, ddpm.T + 1, max(1, ddpm.T // 10))} for name, clip in clips.items()}
    i = torch.cat([(held_out(digits, styles) == new).nonzero()[:2, 0] for new in (False, True)])
    ranks = ranked(rank(ddpm, clips["noised CLIP"], x[i], 0), write(digits[i], styles[i]))
    finish(draw_figure(rows, texts[:10], shares, dict(zip(ranks, x[i, None], strict=True))),
           args.out, f"finding: at s = {SHOWN} digit and style are as asked in {finding}")


def main(argv=None):
    parser = flags(__doc__, "clip.png", 60, help="captions to draw", steps=50)
    parser.add_argument("--clip", type=Path, default=ASSETS / "clip.pt",
                        help="what train wrote (default: the one that ships)")
    program(parser, run, argv, run_train)


if __name__ == "__main__":
    main()
