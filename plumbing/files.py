"""Files that are there whole or not at all, and folders that one program writes to at a time."""
import contextlib
import errno
import os
import re
import time
from pathlib import Path

try:
    import fcntl
except ImportError:                                  # Windows
    import msvcrt
    fcntl = None

OURS = re.compile(r"\.(pt|csv|png|gif|npy|gz)\.\d+\.tmp$")         # what `replacing` leaves behind

# What a system, a file server or an editor puts beside what it is given.
NOBODYS = re.compile(r"\..*|.*~|~\$.*|#.*#|.*\.sw[a-p]|(eh)?thumbs(_\w+)?\.db|desktop\.ini|icon\r|"
                     r"__macosx|__pycache__|[@#]eadir|[@#]recycle|@recently-snapshot|"
                     r"\$recycle\.bin|lost\+found|system volume information", re.IGNORECASE)


def nobodys(name):
    """Is this the name of a file or folder that is hidden, or that no person made?"""
    return NOBODYS.fullmatch(name) is not None


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
