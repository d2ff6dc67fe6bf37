"""A folder of pictures of any kind, decoded once into one array that later runs map into memory."""
import contextlib
import hashlib
import math
import os
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageOps

from plumbing import parallel
from plumbing.cli import track
from plumbing.files import nobodys, replacing, sweep
from plumbing.image_file import FORMATS, open_picture, upright
from plumbing.pictures import MARK

LARGEST = 2 ** 26                                         # pixels; 4 bytes each, in each thread
STALE = 3600                                              # what is half written and so old is dead
# A name may have dots ("9.30 in Rome"); this is a suffix.  What has none is known by how it begins.
SUFFIX = re.compile(r"\.(?=\w*[a-z])\w{1,10}$", re.IGNORECASE)
BEGINS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|"
    rb"P[1-6]\s+(#.*?\n\s*)*\d+\s|qoif|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|.{4}ftypavi[fs]",
    re.DOTALL)


def folder(root, image_size, image_channels, data_dir):
    """Decode a folder once, in threads, into a cache that later runs map into memory.

    The cache is named by everything that was in the folder (names, sizes, times of change), so that
    it is never stale, and replaces what the same folder had before.  A file that cannot be read is
    named and skipped.
    """
    files = image_files(root)
    names = [os.path.basename(os.path.dirname(file)) for file in files]      # "" in root itself
    classes = {name: label for label, name in enumerate(sorted(set(names)))}
    cache = cache_path(root, files, image_size, image_channels, data_dir)
    shape = len(files), image_channels, image_size, image_size
    try:
        x, kept = map_cache(cache, shape)
    except Exception:                            # not there yet, or so damaged that anything comes
        decode_all(root, files, shape, cache)
        x, kept = map_cache(cache, shape)
    labels = torch.tensor([classes[names[i]] for i in kept])
    return x[:len(kept)], None if list(classes) == [""] else labels


def image_files(root):
    """List the pictures under root, linked folders included, in the order of their names.

    What else is there is counted, and said in a line; but not what no person put there.

    Raises:
        ValueError: there is none.
    """
    def fail(error):                             # os.walk would pass over what it cannot open
        raise error

    files, others = [], Counter()
    seen = {str(folder) for folder in (root.resolve(), *root.resolve().parents)}
    for where, folders, names in os.walk(root, onerror=fail, followlinks=True):
        folders[:] = [name for name in sorted(folders)           # each once: links may loop
                      if not nobodys(name)
                      and (real := os.path.realpath(os.path.join(where, name))) not in seen
                      and not seen.add(real)]
        for name in names:
            why = left_out(where, name)
            if why is None:
                files.append(os.path.normpath(os.path.join(os.path.relpath(where, root), name)))
            elif why:
                others[why] += 1
    some, rest = others.most_common(9), others.total() - sum(n for _, n in others.most_common(9))
    said = ", ".join([f"{n} {why}" for why, n in some] + [f"{rest} of other kinds"] * (rest > 0))
    if not files:
        raise ValueError(f"no images in {root}, of {', '.join(sorted(set(FORMATS.values())))}"
                         + f"; left out: {said}" * bool(said))
    if said and parallel.rank == 0:
        print(f"left out of {root}: {said}", file=sys.stderr)
    return sorted(files)


def left_out(where, name):
    """Return why a file is no picture to be read, "" if it is nobody's, or None if it is one."""
    path, found = os.path.join(where, name), SUFFIX.search(name)
    kind = FORMATS.get(found.group().lower()) if found else None
    if nobodys(name):
        return "hidden" if kind and not name.startswith(("._", ".#")) else ""
    if found and kind not in ("PNG", "GIF"):
        return None if kind else f"{found.group().lower()} (of a kind that is not read)"
    begin = b""
    with contextlib.suppress(OSError):           # decoding will name it
        if os.path.isfile(path):                 # to open a pipe would be to wait
            with open(path, "rb", buffering=0) as f:
                begin = f.read(4096)
    if MARK.encode() in begin:
        return "that a program of this project wrote"
    return None if kind or BEGINS.match(begin) else "without a suffix (of no known kind)"


def map_cache(cache, shape):
    x, kept = np.load(cache, mmap_mode="c"), np.load(cache.with_suffix(".kept.npy"))
    if (x.shape, x.dtype, kept.dtype) != (shape, np.uint8, np.int64) or kept.ndim != 1 \
            or not x.flags.c_contiguous or len(kept) == 0 \
            or not (np.diff(kept, prepend=-1, append=len(x)) > 0).all():
        raise ValueError(f"{cache} is damaged")
    return torch.from_numpy(x), kept                            # copy on write: torch wants that


def cache_path(root, files, image_size, image_channels, data_dir):
    def digest(value):
        return hashlib.sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    content = []
    for file in files:
        with contextlib.suppress(OSError):           # a broken link; decoding will name it
            stat = os.stat(root / file)
            content.append((file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    version = 2                                      # to be raised when `fit` changes
    folder = digest((version, str(root.resolve()), image_size, image_channels))
    return data_dir / "cache" / f"{folder}-{digest(content)}.npy"


def decode_all(root, files, shape, cache):
    """Write the readable images to cache, in order, and beside it their indices into files."""
    def attempt(file):
        try:
            return read_picture(root / file, shape[3], shape[1])
        except Exception as error:                # Pillow's readers raise nearly everything
            return error

    kept = []
    sweep(cache.parent, STALE)
    with replacing(cache) as tmp, ThreadPoolExecutor() as pool, open(tmp, "wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False,
                                                 "shape": shape})
        size = f.tell() + math.prod(shape)
        chunks = (files[i:i + 1024] for i in range(0, len(files), 1024))     # bounds the memory
        images = (image for chunk in chunks for image in pool.map(attempt, chunk))
        for i, image in enumerate(track(images, f"reading {root}", len(files))):
            if isinstance(image, Exception):
                print(f"skipped {root / files[i]}: {image}", file=sys.stderr)
            else:
                f.write(image.tobytes())
                kept.append(i)
        if len(files) - len(kept) > 0.01 * len(files):
            raise ValueError(f"{len(files) - len(kept)} of the {len(files)} images in {root}, more "
                             "than 1%, cannot be read: remove or repair them")
        f.truncate(size)                         # as the header says; the last rows may be void
        with replacing(cache.with_suffix(".kept.npy")) as tmp, open(tmp, "wb") as f_kept:
            np.save(f_kept, np.array(kept, np.int64))
    for old in cache.parent.glob(cache.name.split("-")[0] + "-*.npy"):
        if not old.name.startswith(cache.stem):
            with contextlib.suppress(OSError):   # another program may be using it
                old.unlink()


def read_picture(path, size, channels):
    """Return the picture in a file as uint8 (channels, size, size), turned as its camera says."""
    image, levels = open_picture(path, LARGEST)
    return fit(upright(image), size, channels, levels)


def fit(image, size, channels, levels=None):
    """Return a Pillow image of any mode as uint8 (channels, size, size).

    Transparency is laid on white; the short side is resized to `size` and the centre kept.

    Args:
        levels: the values of black and white; None for 0 and 65535 in grey of more than 8 bits.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if levels or image.mode.startswith("I"):
        black, white = levels or (0, 65535)
        pixels = np.asarray(image)
        pixels = pixels.view(np.uint32) if max(black, white) >= 2 ** 31 else pixels
        grey = (pixels.astype(np.float32) - black) * (255 / (white - black))
        grey[pixels == image.info.get("transparency")] = 255     # of PNG: one value, all of it
        image = Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
