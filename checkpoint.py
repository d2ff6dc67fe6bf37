"""Files that are there whole or not at all, and that are not trusted when they are read.

A checkpoint is one dict of tensors, numbers, strings, lists and dicts, as torch.save writes it and
`torch.load(..., weights_only=True)` reads it: a zip file.  The comment that a zip file may end with
is here the SHA-256 of all that stands before it, so that no changed byte goes unnoticed.
"""
import contextlib
import errno
import hashlib
import io
import os
import re
import time
import warnings
import zipfile
from pathlib import Path

import torch

try:
    import fcntl
except ImportError:                                  # Windows
    import msvcrt
    fcntl = None

MARK = b"sha256:"
SEAL = len(MARK) + 64                                # bytes of the mark and the digest, in hex
OURS = re.compile(r"\.(pt|csv|png|gif|npy|gz)\.\d+\.tmp$")         # what `replacing` leaves behind


def write_checkpoint(content, path):
    """Replace a checkpoint.  Whatever kills the program, the old or the new one is there, whole."""
    buffer = io.BytesIO()                            # so that a full disk fails in a plain write
    torch.save(content, buffer)
    body = buffer.getbuffer()
    body[-2:] = SEAL.to_bytes(2, "little")           # a zip file ends in the length of its comment
    with replacing(path) as tmp, open(tmp, "wb") as f:
        f.write(body)
        f.write(seal(body))


def read_checkpoint(path):
    """Read a checkpoint, onto the CPU, without running any code that may be in it.

    A file without a checksum, as torch.save alone makes it, is read by the CRCs of the zip format.

    Returns:
        The dict that train.py wrote; at least "config", "step" and "ema" are there.

    Raises:
        ValueError: the file is not a whole checkpoint of this project.
        OSError: there is no such file, or it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")          # torch warns of odd pickles before it refuses
            check_zip(content)
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        kinds = {"config": dict, "step": int, "ema": dict}
        if not all(isinstance(checkpoint[name], kind) for name, kind in kinds.items()) \
                or checkpoint["step"] is True:
            raise ValueError("entries are of another kind")
        return checkpoint
    except Exception as error:                       # a damaged or hostile file raises anything
        raise ValueError(f"{path} is not a whole checkpoint made by train.py") from error


def seal(body):
    return MARK + hashlib.sha256(body).hexdigest().encode()


def check_zip(content):
    """Raise a ValueError if a byte has changed, or if what is read would be more than the file."""
    with zipfile.ZipFile(io.BytesIO(content)) as z:
        if z.comment:
            whole = content[-SEAL:] == seal(memoryview(content)[:-SEAL])
        else:
            end = content[-22:-18], content[-2:]     # its mark, and the length of a comment
            whole = end == (b"PK\5\6", b"\0\0") and z.testzip() is None
        end = len(content) - 22 - len(z.comment)     # the same directory for all who read this file
        start = int.from_bytes(content[end + 16:end + 20], "little")
        sizes = [record.file_size for record in z.infolist()]
        packed = any(record.compress_type != zipfile.ZIP_STORED for record in z.infolist())
    if not whole or packed or sum(sizes) > len(content) or start not in (z.start_dir, 2 ** 32 - 1):
        raise ValueError("a byte has changed, or this is a zip file of another kind")


def check_weights(weights, model):
    """Raise a ValueError unless weights, a dict from a file, fit a model, and all are finite."""
    mine = model.state_dict()
    if weights.keys() != mine.keys() or any(
            weight.shape != mine[name].shape or weight.is_complex()
            or weight.numel() * weight.element_size() > weight.untyped_storage().nbytes()
            or weight.is_floating_point() != mine[name].is_floating_point()
            for name, weight in weights.items()):
        raise ValueError("the weights do not fit the network")
    check_finite(weight.to(mine[name].dtype) for name, weight in weights.items())


def check_finite(tensors):
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError("there are weights that are not finite")


# ---- any file ----

@contextlib.contextmanager
def replacing(path):
    """Give a temporary name beside `path`, and move it there only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f"{path.name}.{os.getpid()}.tmp")     # two programs may write one file
    try:
        yield tmp
        with open(tmp, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)                       # a full disk does not say where
        raise
    finally:
        with contextlib.suppress(OSError):                   # the folder may be gone
            tmp.unlink()


def sweep(folder, age=0):
    """Remove what killed programs left half written: `replacing`'s, of `age` seconds at least."""
    for path in Path(folder).glob("*.tmp"):
        with contextlib.suppress(OSError):
            if OURS.search(path.name) and time.time() - path.stat().st_mtime >= age:
                path.unlink()


@contextlib.contextmanager
def locked(folder):
    """Keep other programs from writing to a folder, and clean up what dead ones left there.

    The lock is the operating system's, on a file, so that the end of this program frees it however
    it ends.  Where the file system knows no locks, there is none.

    Raises:
        ValueError: another program holds the lock.
    """
    path = Path(folder, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    f = lock(path)
    try:
        sweep(folder)
        yield
    finally:
        with contextlib.suppress(OSError):           # Windows keeps what is open
            path.unlink()
        f.close()


def lock(path):
    while True:
        f = open(path, "ab")
        try:
            if fcntl:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(f.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                f.close()
                raise ValueError(f"another program is writing to {path.parent}") from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(f.fileno())):
                return f
        f.close()                                    # its last owner removed it just now
