"""uint8 images become files: a grid, an animation, a figure, a folder of PNGs."""
import contextlib
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from plumbing import parallel
from plumbing.files import locked, nobodys, replacing

MARK = "drawn by a model or a program of this project, and no data for it"   # in all files of ours


def to_image(pixels):
    """Make a Pillow image of a uint8 array (C, H, W), C = 1 or 3."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def grid(x, columns=None):
    """Arrange (N, C, H, W) uint8 images in one picture, near-square unless `columns` is given.

    Small images are enlarged.

    Raises:
        TypeError: x is not uint8.
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"a picture is made of uint8 pixels, not {x.dtype}: data.to_uint8(x)")
    N, C, H, W = x.shape
    columns = columns or math.ceil(math.sqrt(N))
    rows = math.ceil(N / columns)
    scale = max(1, round(48 / max(H, W)))
    x = x.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    picture = np.full((C, rows, scale * H + 2, columns, scale * W + 2), 127, np.uint8)
    for i, image in enumerate(x):
        picture[:, i // columns, 1:-1, i % columns, 1:-1] = image.numpy()
    return to_image(picture.reshape(C, rows * (scale * H + 2), columns * (scale * W + 2)))


def marked():
    """Return texts for a PNG that tell `folder.py` not to take it for data."""
    text = PngInfo()
    text.add_text("Comment", MARK)
    return text


def save_grid(x, path):
    """Write (N, C, H, W) uint8 images as one near-square PNG."""
    with replacing(path) as tmp:
        grid(x).save(tmp, format="PNG", pnginfo=marked())


def save_gif(frames, path):
    """Write pairs of images (N, C, H, W), uint8, as an animation, the first of each on the left."""
    pictures = []
    for pair in frames:
        left, right = (grid(x) for x in pair)
        picture = Image.new(left.mode, (2 * left.width + 8, left.height), "white")
        picture.paste(left, (0, 0))
        picture.paste(right, (left.width + 8, 0))
        pictures.append(picture)
    with replacing(path) as tmp:
        pictures[0].save(tmp, format="GIF", save_all=True, append_images=pictures[1:], loop=0,
                         comment=MARK, duration=[80] * (len(pictures) - 1) + [3000])


def save_figure(figure, path):
    """Write a matplotlib figure as a PNG."""
    with replacing(path) as tmp:
        figure.savefig(tmp, format="png", dpi=120, metadata={"Comment": MARK})


# ---- a folder of samples ----

def fill(folder, origin, n, make):
    """Write n images as PNGs that say where they come from, those that are not there yet.

    Args:
        folder: path; several processes may fill one folder together, several programs not.
        origin: text that names what the images are of; others in the folder are refused.
        n: number of images.
        make: called as make(done), with the set of those that are there; yields (start, x), x
            (B, C, H, W) uint8, the images from number start on.

    Returns:
        How many were there before.

    Raises:
        ValueError: the folder holds anything else, or another program is writing to it.
    """
    folder = Path(folder)
    if not parallel.same(origin):
        raise ValueError("some processes have another checkpoint, --seed or --n than the first")
    with locked(folder) if parallel.rank == 0 else contextlib.nullcontext():
        done = parallel.gather(finished(folder, origin, n) if parallel.rank == 0 else None)[0]
        text = marked()
        text.add_text("origin", origin)
        for start, x in make(done):
            for i, image in enumerate(x.cpu(), start):
                if i not in done:
                    with replacing(folder / f"{i:06}.png") as tmp:
                        to_image(image.numpy()).save(tmp, format="PNG", pnginfo=text)
        parallel.gather(None)                        # when all are done the lock may go
    return len(done)


def finished(folder, origin, n):
    """Return which of n samples of this origin a folder has; refuse one that has anything else."""
    done = set()
    for path in folder.iterdir():
        if nobodys(path.name):                       # the lock, too
            continue
        try:
            with Image.open(path, formats=["PNG"]) as image:
                ours = image.info["origin"] == origin and path.name == f"{int(path.stem):06}.png"
                image.verify()                       # the checksums of a PNG
        except Exception:                            # whatever a strange file provokes
            ours = False
        if not ours or int(path.stem) >= n:
            raise ValueError(f"{folder} is not empty: {path.name} is not, or not whole, one of "
                             "these samples (another checkpoint, --seed or --n?), and others would "
                             "mix with them")
        done.add(int(path.stem))
    return done
