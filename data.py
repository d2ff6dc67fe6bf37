"""Data: every data set becomes one uint8 array (N, C, H, W), with labels where there are any.

    digits                  the ten digits, drawn from the fonts matplotlib ships: no download
    mnist, fashion-mnist,   read from data_dir if the files lie there, else downloaded to it
    cifar10
    a folder                pictures of any kind, cropped square, decoded once into a cache

Pixels stay uint8 until a batch is drawn; `to_model` and `to_uint8` are the only way to [-1, 1] and
back.
"""
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from plumbing.downloads import MIRRORS, cifar10, mnist
from plumbing.folder import fit, folder
from plumbing.pictures import to_image

FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif",
         "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "cmss10")


def load(name_or_path, image_size=None, image_channels=None, split="train", data_dir="data"):
    """Load a data set as one uint8 array.

    Args:
        name_or_path: "digits", "mnist", "fashion-mnist", "cifar10", or a folder of images.
        image_size: height and width; None keeps the data set's own (digits 16, a folder 32).
        image_channels: 1 or 3; None keeps the data set's own (a folder 3).
        split: "train" or "test"; a folder has one split only.
        data_dir: where the files of a data set, and the cache of a folder, are kept.

    Returns:
        x: (N, C, H, W) uint8; memory-mapped if it comes from a folder.
        labels: (N,) int64, or None for a folder without subfolders.

    Raises:
        ValueError: the name is unknown, a folder holds no images or more than 1% unreadable ones,
            or a file is not what it should be.
        OSError: a file is missing and cannot be downloaded, or cannot be written.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", not {split!r}')
    if image_channels not in (None, 1, 3):
        raise ValueError(f"image_channels must be 1 or 3, not {image_channels}")
    if name_or_path == "digits":
        x, labels = digits(image_size or 16, seed=int(split == "test"))
    elif name_or_path in ("mnist", "fashion-mnist"):
        x, labels = mnist(name_or_path, split, Path(data_dir))
    elif name_or_path == "cifar10":
        x, labels = cifar10(split, Path(data_dir))
    elif Path(name_or_path).is_dir():
        return folder(Path(name_or_path), image_size or 32, image_channels or 3, Path(data_dir))
    else:
        raise ValueError(f"{name_or_path!r} is neither a folder nor one of digits, "
                         + ", ".join(MIRRORS))
    C, H = image_channels or x.shape[1], image_size or min(x.shape[2:])
    if x.shape[1:] != (C, H, H):
        x = np.stack([fit(to_image(image), H, C) for image in x])
    return torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64))


def to_model(x):
    """Map uint8 pixels 0..255 to float32 in [-1, 1].  Ho et al. 2020, sec. 3.3.

    Raises:
        TypeError: x is of floats: they may lie in [0, 1] already, or anywhere.
    """
    if x.is_floating_point():
        raise TypeError(f"pixels must be uint8, 0..255, not {x.dtype}")
    return x.float() / 127.5 - 1


def to_uint8(x):
    """Map float pixels in [-1, 1] to uint8 0..255, rounded; what lies outside is clamped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def poses(n, seed=0):
    """Draw how each of n digits is drawn: in which face, and how it is turned, sheared and so on.

    Returns:
        faces: (n,) int64, indices of FACES.
        angle, shear, scale, dx, dy: (n,) float64: turned counterclockwise by up to 6 degrees, in
            radians, sheared to the right by up to 0.1, scaled by 0.92 to 1.08, shifted to the left
            and up by up to 4% of the picture.
    """
    rng = np.random.default_rng(seed)
    faces = rng.integers(len(FACES), size=n)
    angle, shear, scale, dx, dy = rng.uniform(-1, 1, (5, n))
    return faces, np.radians(6) * angle, 0.1 * shear, 1 + 0.08 * scale, 0.04 * dx, 0.04 * dy


def digits(image_size=16, n=10_000, seed=0):
    """Draw n pictures of the ten digits, white on black, each in a random face and pose.

    Each is drawn at four times the size, transformed as `poses` says, and averaged down.

    Returns:
        x: (n, 1, image_size, image_size) uint8.
        labels: (n,) int64, the digits 0..9 in turn.
    """
    size = 4 * image_size
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    glyphs = np.empty((len(FACES), 10), dtype=object)
    for i, face in enumerate(FACES):
        font = ImageFont.truetype(str(fonts / f"{face}.ttf"), size,
                                  layout_engine=ImageFont.Layout.BASIC)    # the same on all systems
        for digit in range(10):
            glyphs[i, digit] = Image.new("L", (size, size))
            left, top, right, bottom = font.getbbox(str(digit))
            where = (size - left - right) / 2, (size - top - bottom) / 2
            ImageDraw.Draw(glyphs[i, digit]).text(where, str(digit), fill=255, font=font)

    labels = np.arange(n) % 10
    faces, angle, shear, scale, dx, dy = poses(n, seed)
    x = np.empty((n, 1, image_size, image_size), np.uint8)
    for i in range(n):
        # Pillow asks where each pixel comes from: the inverse of turning, shearing and scaling.
        cos, sin = np.cos(angle[i]) / scale[i], np.sin(angle[i]) / scale[i]
        a, b, d, e = cos + shear[i] * sin, shear[i] * cos - sin, sin, cos
        c, f = size * (0.5 - np.array([a + b, d + e]) / 2 + np.array([dx[i], dy[i]]))
        glyph = glyphs[faces[i], labels[i]].transform((size, size), Image.Transform.AFFINE,
                                                      (a, b, c, d, e, f), Image.Resampling.BILINEAR)
        x[i, 0] = np.asarray(glyph.reduce(4))
    return x, labels
