"""Digits with captions; what reads a caption, and what reads its digit and style in a picture.

    x, labels, styles = captions()                   the pictures of data.digits, seed 0
    texts = write(labels, styles)                    "a bold serif seven, leaning right"
    tokens = tokenise(texts)                         (N, LENGTH) int64
    every, last = TextTransformer(64)(tokens)        (N, LENGTH, 64), and (N, 64) of the last token
    as_asked(reader, x, labels, styles)              how many pictures are what captions say

A caption says what data.poses knows of a picture and what 16 x 16 pixels show: the digit, and a
style of three words that are there or not, "bold", "serif", and "leaning left" or "leaning right".
Some combinations of digit and style, `held_out`, are for nobody's training: whoever draws a bold
serif seven that leans, and saw neither it nor any but its parts, has understood the words.
"""
import math
import re

import torch
import torch.nn.functional as F
from torch import nn

import data

DIGITS = "zero one two three four five six seven eight nine".split()
LEANING = "", ", leaning left", ", leaning right"
BOLD, SERIF, OBLIQUE = (torch.tensor([any(part in face for part in parts) for face in data.FACES])
                        for parts in (("Bol",), ("Serif", "STIX"), ("Oblique", "Italic")))
STYLES = 2 * 2 * len(LEANING)
WORDS = "", ".", "a", "bold", "serif", *DIGITS, "leaning", "left", "right"
PAD, END = 0, 1                                      # tokens: of no word, and after the last word
LENGTH = 7                                           # tokens of the longest caption
UPRIGHT, LEAN = 0.04, 0.08                           # up to here nothing, from here on it is said


def captions(image_size=16, seed=0):
    """Draw the pictures of data.digits and what a caption says of them.

    Seed 0 is the training split of data.load, 1 the test split.  A digit leans to the right by its
    shear, and the slant of its face, less what it is turned by.  Pictures that lean by so little
    that one could call it either way, about a quarter, are left out.

    Returns:
        x: (N, 1, image_size, image_size) uint8.
        labels: (N,) int64, the digits.
        styles: (N,) int64 in 0..STYLES - 1: bold + 2 serif + 4 (0 upright, 1 left, 2 right).
    """
    x, labels = (torch.from_numpy(part) for part in data.digits(image_size, seed=seed))
    faces, angle, shear, *_ = (torch.from_numpy(part) for part in data.poses(len(x), seed))
    lean = shear - angle + math.tan(math.radians(11)) * OBLIQUE[faces]
    side = torch.where(lean.abs() < LEAN, 0, torch.where(lean < 0, 1, 2))
    styles = BOLD[faces] + 2 * SERIF[faces] + 4 * side
    clear = (lean.abs() < UPRIGHT) | (lean.abs() >= LEAN)
    return x[clear], labels[clear], styles[clear]


def held_out(labels, styles):
    """Return which are left out of training: two styles of each digit, by a rule; bools, (N,)."""
    return (labels + styles) % 6 == 0


def training_set(image_size):
    """Return pictures, (N, 1, H, H) uint8, and tokens, (N, L), without what is held out."""
    x, labels, styles = captions(image_size)
    seen = ~held_out(labels, styles)
    return x[seen], tokenise(write(labels[seen], styles[seen]))


def write(labels, styles):
    """Return the captions, N strings, of digits and styles as `captions` returns them."""
    return [f"a{'n' * (digit == 8 and style % 4 == 0)} {'bold ' * (style % 2)}"
            f"{'serif ' * (style // 2 % 2)}{DIGITS[digit]}{LEANING[style // 4]}"
            for digit, style in zip(labels.tolist(), styles.tolist(), strict=True)]


def tokenise(texts):
    """Return the places of words in WORDS, then END, then PAD: (N, LENGTH) int64.

    The empty caption is END alone; "an" is read as "a".

    Raises:
        ValueError: a word is not in WORDS, or a caption is longer than LENGTH - 1 words.
    """
    tokens = torch.full((len(texts), LENGTH), PAD)
    for row, text in zip(tokens, texts, strict=True):
        words = re.findall(r"\w+", re.sub(r"\ban\b", "a", text))
        places = [WORDS.index(word) for word in words] + [END]
        if len(places) > LENGTH:
            raise ValueError(f"{text!r} has more than {LENGTH - 1} words")
        row[:len(places)] = torch.tensor(places)
    return tokens


class Layer(nn.Module):
    """One layer of a transformer, one head, with the norms before: Vaswani et al. 2017, sec. 3.

        h = x + proj(softmax(q k^T / sqrt(D)) v),   x' = h + perceptron(norm2(h))
    """

    def __init__(self, D):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.perceptron = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))

    def forward(self, x, there):
        """Change tokens x, (N, L, D), that look only where (N, L) bools say that a word is."""
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=2)                    # each (N, L, D)
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])               # (N, L, L)
        scores = scores.masked_fill(~there[:, None], -torch.inf)
        h = x + self.proj(scores.softmax(dim=2) @ v)
        return h + self.perceptron(self.norm2(h))


class TextTransformer(nn.Module):
    """What the tokens of a caption mean together: two layers, in which all see all but padding.

    Args:
        D: numbers a token becomes.
        layers: an int.
    """

    def __init__(self, D, layers=2):
        super().__init__()
        self.word, self.place = nn.Embedding(len(WORDS), D), nn.Embedding(LENGTH, D)
        self.layers = nn.ModuleList(Layer(D) for _ in range(layers))
        self.norm = nn.LayerNorm(D)

    def forward(self, tokens):
        """Return (every, last): (N, L, D), of which padding says nothing, and (N, D), of END.

        Args:
            tokens: (N, L) int64 of `tokenise`; L at most LENGTH.
        """
        there = tokens != PAD                                                # (N, L)
        x = self.word(tokens) + self.place.weight[:tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, there)
        x = self.norm(x)
        return x, x[torch.arange(len(x), device=x.device), there.sum(1) - 1]


# ---- what is read in a picture ----

def attributes(labels, styles):
    """Return what a reader tells apart, (N, 4) int64: digit, bold, serif, leaning."""
    return torch.stack([labels, styles % 2, styles // 2 % 2, styles // 4], dim=1)


def style_reader():
    """Build an untrained reader: (B, 1, H, W) images to 10 + 2 + 2 + 3 logits of `attributes`.

    Larger images than 16 x 16 are averaged first.
    """
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(16), nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 17))


def style_loss(reader, x, truth):
    """Return the cross-entropy of what is read in images x and attributes, (B, 4), a scalar."""
    logits = reader(x).float().split((10, 2, 2, 3), dim=1)
    return sum(map(F.cross_entropy, logits, truth.T))


@torch.no_grad()
def as_asked(reader, x, labels, styles):
    """Return the shares, (3,), of images x whose digit, whose style, and whose both are as asked.

    Args:
        reader: trained; x: (N, 1, H, W) images in [-1, 1]; labels, styles: (N,) int64.
    """
    logits = torch.cat([reader(part) for part in x.split(1000)]).cpu().split((10, 2, 2, 3), dim=1)
    read = torch.stack([part.argmax(1) for part in logits], dim=1)           # (N, 4)
    right = read == attributes(labels, styles)
    return torch.stack([right[:, 0], right[:, 1:].all(1), right.all(1)]).float().mean(1)
