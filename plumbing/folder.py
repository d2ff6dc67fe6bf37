"""A folder of pictures of any kind, decoded once into one array that later runs map into memory."""
import contextlib
import hashlib
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageOps

from plumbing.cli import track
from plumbing.files import replacing, sweep

LARGEST = 2 ** 26                                         # pixels; 4 bytes each, in each thread
STALE = 3600                                              # what is half written and so old is dead
# What a folder may hold. EPS and the like are left out: Pillow runs another program to read them.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF",
           ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM"}


def folder(root, image_size, image_channels, data_dir):
    """Decode a folder once, in threads, into a cache that later runs map into memory.

    The cache is named by everything that was in the folder (names, sizes, times of change), so that
    it is never stale, and replaces what the same folder had before.  A file that cannot be read is
    named and skipped.
    """
    files = image_files(root)
    if not files:
        raise ValueError(f"no images in {root} (looked for {', '.join(FORMATS)})")
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
    """List the pictures under root, linked folders included, in the order of their names."""
    def fail(error):                             # os.walk would pass over what it cannot open
        raise error

    files, seen = [], {str(folder) for folder in (root.resolve(), *root.resolve().parents)}
    for where, folders, names in os.walk(root, onerror=fail, followlinks=True):
        folders[:] = [name for name in sorted(folders)           # each once: links may loop
                      if (real := os.path.realpath(os.path.join(where, name))) not in seen
                      and not seen.add(real)]
        files += [os.path.normpath(os.path.join(os.path.relpath(where, root), name))
                  for name in names
                  if os.path.splitext(name)[1].lower() in FORMATS and not name.startswith(".")]
    return sorted(files)


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
    version = 1                                      # to be raised when `fit` changes
    folder = digest((version, str(root.resolve()), image_size, image_channels))
    return data_dir / "cache" / f"{folder}-{digest(content)}.npy"


def decode_all(root, files, shape, cache):
    """Write the readable images to cache, in order, and beside it their indices into files."""
    def attempt(file):
        try:
            if not os.path.isfile(root / file):
                raise OSError("this is no file")                 # to open a pipe would be to wait
            with Image.open(root / file, formats=sorted(set(FORMATS.values()))) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                return fit(ImageOps.exif_transpose(image), shape[3], shape[1])
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


def fit(image, size, channels):
    """Return a Pillow image of any mode as uint8 (channels, size, size).

    16-bit grey keeps its upper 8 bits; transparency is laid on white; the short side is resized to
    `size` and the centre kept.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
