"""A checkpoint: one file, read whole or refused, and never trusted.

It is one dict of tensors, numbers, strings, lists and dicts, as torch.save writes it and
`torch.load(..., weights_only=True)` reads it: a zip file.  The comment that a zip file may end with
is here the SHA-256 of all that stands before it, so that no changed byte goes unnoticed.
"""
import hashlib
import io
import warnings
import zipfile
from pathlib import Path

import torch

from plumbing.files import replacing

MARK = b"sha256:"
SEAL = len(MARK) + 64                                # bytes of the mark and the digest, in hex


def write_checkpoint(content, path):
    """Replace a checkpoint.  Whatever kills the program, the old or the new one is there, whole."""
    buffer = io.BytesIO()                            # so that a full disk fails in a plain write
    torch.save(content, buffer)
    body = buffer.getbuffer()
    body[-2:] = SEAL.to_bytes(2, "little")           # a zip file ends in the length of its comment
    with replacing(path) as tmp, open(tmp, "wb") as f:
        f.write(body)
        f.write(MARK + hashlib.sha256(body).hexdigest().encode())


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


def check_zip(content):
    """Raise a ValueError if a byte has changed, or if what is read would be more than the file."""
    with zipfile.ZipFile(io.BytesIO(content)) as z:
        if z.comment:
            digest = hashlib.sha256(memoryview(content)[:-SEAL]).hexdigest()
            whole = content[-SEAL:] == MARK + digest.encode()
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
    """Raise a ValueError unless weights, a dict from a file, fit a model, and all are finite.

    What a module keeps beside its tensors (torch's `get_extra_state`) is for the module to check.
    """
    mine = model.state_dict()
    plain = {name for name, weight in mine.items() if not isinstance(weight, torch.Tensor)}
    if weights.keys() != mine.keys() or any(
            weight.shape != mine[name].shape or weight.is_complex() != mine[name].is_complex()
            or weight.numel() * weight.element_size() > weight.untyped_storage().nbytes()
            or weight.is_floating_point() != mine[name].is_floating_point()
            for name, weight in weights.items() if name not in plain):
        raise ValueError("the weights do not fit the network")
    if not all(weight.to(mine[name].dtype).isfinite().all()
               for name, weight in weights.items() if name not in plain):
        raise ValueError("there are weights that are not finite")
