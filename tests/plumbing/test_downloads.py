"""MNIST, Fashion-MNIST and CIFAR-10: files that the tests make, and servers that misbehave."""
import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import socket
import tarfile
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import data
from plumbing import downloads

RNG = np.random.default_rng(0)
packed = functools.partial(gzip.compress, mtime=0)             # the same at any second of the day
def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


IMAGES = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 9], np.uint8)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("place", [".", "{name}"])
@pytest.mark.parametrize("pack, suffix", [(bytes, ""), (packed, ".gz")], ids=["plain", "gzipped"])
def test_mnist_is_read_where_it_lies_gzipped_or_not(tmp_path, name, place, pack, suffix):
    folder = tmp_path / place.format(name=name)
    folder.mkdir(exist_ok=True)
    for file, array in zip(downloads.MNIST_FILES["test"], (IMAGES, LABELS), strict=True):
        (folder / (file + suffix)).write_bytes(pack(idx(array)))
    x, labels = data.load(name, split="test", data_dir=tmp_path)
    assert np.array_equal(x[:, 0].numpy(), IMAGES) and x.shape == (5, 1, 28, 28)
    assert labels.tolist() == LABELS.tolist()


def test_mnist_is_not_taken_for_fashion_mnist(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    digest = hashlib.md5(idx(LABELS)).hexdigest()
    monkeypatch.setattr(downloads, "KEYS", {digest: "mnist/train-labels-idx1-ubyte.gz"})
    assert len(data.load("mnist", data_dir=tmp_path)[0]) == 5
    with pytest.raises(ValueError, match="is the file mnist/train-labels.*not one of fashion"):
        data.load("fashion-mnist", data_dir=tmp_path)


def write_mnist(folder, images=None, labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in zip(downloads.MNIST_FILES["train"],
                             (idx(IMAGES) if images is None else images,
                              idx(LABELS) if labels is None else labels), strict=True):
        (folder / file).write_bytes(content)


DAMAGED = {                                                     # images, labels, what is said
    "a byte too few": (idx(IMAGES)[:-1], None, "cut short"),
    "a byte too many": (idx(IMAGES) + b"\0", None, "cut short"),
    "half a header": (idx(IMAGES)[:9], None, "cut short"),
    "empty": (b"", None, "cut short"),
    "labels as images": (idx(LABELS), None, "3-dimensional"),
    "signed bytes": (b"\0\0\x09\x03" + idx(IMAGES)[4:], None, "3-dimensional"),
    "the mark of gzip": (b"\x1f\x8b" + bytes(40), None, "damaged gzip"),
    "half a gzip file": (packed(idx(IMAGES))[:-20], None, "damaged gzip"),
    "a label too few": (None, idx(LABELS[:4]), "5 images, 4 labels"),
    "a label of 10": (None, idx(LABELS + 1), "should be 0..9"),
    "no images": (idx(IMAGES[:0]), idx(LABELS[:0]), "0 images"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_mnist_files_are_refused_by_name(tmp_path, damage):
    images, labels, message = DAMAGED[damage]
    write_mnist(tmp_path, images, labels)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("mnist", data_dir=tmp_path)
    assert "ubyte" in str(caught.value)


RECORDS = RNG.integers(0, 10, (4, 3073), dtype=np.uint8)


def write_cifar10(folder, records=RECORDS):
    folder.mkdir(parents=True, exist_ok=True)
    for file in downloads.CIFAR10_FILES["train"]:
        (folder / file).write_bytes(records.tobytes())


@pytest.mark.parametrize("place", [".", "cifar10", "cifar-10-batches-bin",
                                   "cifar10/cifar-10-batches-bin"])
def test_cifar10_is_read_where_it_lies(tmp_path, place):
    write_cifar10(tmp_path / place)
    x, labels = data.load("cifar10", data_dir=tmp_path)
    assert x.shape == (20, 3, 32, 32)
    assert labels.tolist() == RECORDS[:, 0].tolist() * 5
    assert x[1, 0, 0, :3].tolist() == RECORDS[1, 1:4].tolist()              # red first, row by row
    assert x[1, 2, 31, 31].item() == RECORDS[1, 3072]
    grey, _ = data.load("cifar10", 16, 1, data_dir=tmp_path)
    assert grey.shape == (20, 1, 16, 16)


def test_cifar10_is_read_from_its_archive_without_unpacking(tmp_path):
    with tarfile.open(tmp_path / downloads.CIFAR10_ARCHIVE, "w:gz") as tar:
        for file in downloads.CIFAR10_FILES["test"]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            info.size = RECORDS.nbytes
            tar.addfile(info, io.BytesIO(RECORDS.tobytes()))
    x, labels = data.load("cifar10", split="test", data_dir=tmp_path)
    assert labels.tolist() == RECORDS[:, 0].tolist()
    assert np.array_equal(x.numpy().reshape(4, -1), RECORDS[:, 1:])
    assert os.listdir(tmp_path) == [downloads.CIFAR10_ARCHIVE]
    with pytest.raises(ValueError, match="not CIFAR-10's binary version"):
        data.load("cifar10", data_dir=tmp_path)                 # the train files are not in it


@pytest.mark.parametrize("kind, words", [
    (tarfile.SYMTYPE, "links"), (tarfile.LNKTYPE, "links"), (tarfile.DIRTYPE, "links"),
    (None, "larger, unpacked")], ids=["link", "hard link", "folder", "large"])
def test_a_hostile_archive_is_refused_and_writes_nothing(tmp_path, monkeypatch, kind, words):
    monkeypatch.setattr(downloads, "LARGEST", 9 * 10 ** 4)
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / downloads.CIFAR10_ARCHIVE, "w:gz") as tar:
        evil = tarfile.TarInfo("../evil")
        evil.size = 4
        tar.addfile(evil, io.BytesIO(b"evil"))
        for file in downloads.CIFAR10_FILES["train"]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            if kind:                                            # a link to itself, or a folder
                info.type, info.linkname = kind, info.name
            else:
                info.size = 2 * 10 ** 4
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"{downloads.CIFAR10_ARCHIVE} is .*{words}"):
        data.load("cifar10", data_dir=folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_gzip_bomb_is_refused_before_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "LARGEST", 10 ** 6)
    bomb = packed(bytes(10 ** 6)) * 100                         # members one after another: 100 MB
    (tmp_path / (downloads.MNIST_FILES["train"][0] + ".gz")).write_bytes(bomb)
    (tmp_path / (downloads.MNIST_FILES["train"][1] + ".gz")).write_bytes(packed(idx(LABELS)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="larger, unpacked"):
        data.load("mnist", data_dir=tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 ** 7


def test_images_without_pixels_are_refused_and_long_ones_cut_square(tmp_path):
    for shape, size in (((2, 0, 3), None), ((2, 3, 0), None), ((2, 1, 50), 1), ((2, 50, 2), 2)):
        images = np.zeros(shape, np.uint8)
        (tmp_path / downloads.MNIST_FILES["train"][0]).write_bytes(idx(images))
        (tmp_path / downloads.MNIST_FILES["train"][1]).write_bytes(idx(np.array([1, 2], np.uint8)))
        if size is None:
            with pytest.raises(ValueError):
                data.load("mnist", data_dir=tmp_path)
        else:
            assert data.load("mnist", data_dir=tmp_path)[0].shape == (2, 1, size, size)


def test_damaged_cifar10_is_refused(tmp_path):
    write_cifar10(tmp_path, RECORDS[:, :-1])
    with pytest.raises(ValueError, match="1 \\+ 3072"):
        data.load("cifar10", data_dir=tmp_path)
    write_cifar10(tmp_path, RECORDS + 10)
    with pytest.raises(ValueError, match="0..9"):
        data.load("cifar10", data_dir=tmp_path)
    write_cifar10(tmp_path, RECORDS[:0])
    with pytest.raises(ValueError, match="0 bytes"):
        data.load("cifar10", data_dir=tmp_path)


@contextlib.contextmanager
def listening(handler, monkeypatch):
    """Give the address of a server on loopback, which no proxy or name server is asked about."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getfqdn", str)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        httpd.daemon_threads, httpd.block_on_close = True, False
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/"
        finally:
            httpd.shutdown()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on loopback as the second mirror; the first is a folder it does not have."""
    root = tmp_path / "server"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with listening(functools.partial(Quiet, directory=root), monkeypatch) as url:
        monkeypatch.setattr(downloads, "MIRRORS", {"mnist": (url + "not-there/", url)})
        yield root


def serve(root, monkeypatch, published=None):
    md5 = {}
    for file, array in zip(downloads.MNIST_FILES["train"], (IMAGES, LABELS), strict=True):
        content = packed(idx(array))
        (root / f"{file}.gz").write_bytes(content)
        md5[f"mnist/{file}.gz"] = hashlib.md5(published or content).hexdigest()
    monkeypatch.setattr(downloads, "MD5", md5)


def test_a_missing_file_is_downloaded_once_from_the_first_mirror_that_has_it(tmp_path, server,
                                                                             monkeypatch):
    serve(server, monkeypatch)
    x, labels = data.load("mnist", data_dir=tmp_path / "data")
    assert np.array_equal(x[:, 0].numpy(), IMAGES) and labels.tolist() == LABELS.tolist()
    files = sorted(os.listdir(tmp_path / "data" / "mnist"))
    assert files == sorted(f"{file}.gz" for file in downloads.MNIST_FILES["train"])
    monkeypatch.setattr(downloads, "download", None)                 # not needed a second time
    data.load("mnist", data_dir=tmp_path / "data")


def test_a_download_with_the_wrong_hash_leaves_nothing(tmp_path, server, monkeypatch):
    serve(server, monkeypatch, published=b"something else")
    with pytest.raises(OSError, match="MD5 is not that of the published file"):
        data.load("mnist", data_dir=tmp_path / "data")
    assert os.listdir(tmp_path / "data" / "mnist") == []


def test_without_a_network_the_error_says_which_files_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))                           # a port that nobody listens to
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(downloads, "MIRRORS", {"mnist": (url,)})
        with pytest.raises(OSError) as caught:
            data.load("mnist", data_dir=tmp_path / "data")
    assert str(tmp_path / "data" / "mnist") in str(caught.value)
    assert all(file in str(caught.value) for file in downloads.MNIST_FILES["train"])


def test_a_download_never_grows_beyond_the_largest_file(tmp_path, server, monkeypatch):
    serve(server, monkeypatch)
    monkeypatch.setattr(downloads, "LARGEST", 100)
    with pytest.raises(OSError, match="MD5"):
        data.load("mnist", data_dir=tmp_path / "data")


BEHAVIOURS = {}


def behaviour(function):
    BEHAVIOURS[function.__name__] = function


@behaviour
def redirects_to_a_file(handler, content):
    handler.send_response(302)
    handler.send_header("Location", "file:///etc/passwd")
    handler.end_headers()


@behaviour
def stalls(handler, content):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    time.sleep(3)


@behaviour
def dribbles(handler, content):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b"x")
        time.sleep(0.005)


@behaviour
def stops_half_way(handler, content):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[:len(content) // 2])


@behaviour
def never_ends(handler, content):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(2 ** 20))


@behaviour
def lies_about_its_length(handler, content):
    handler.send_response(200)
    handler.send_header("Content-Length", "-5")
    handler.end_headers()
    handler.wfile.write(content)


@behaviour
def talks_nonsense(handler, content):
    handler.wfile.write(b"\0\1\2 nonsense\r\n\r\n")


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_bad_server_is_given_up_for_the_next(tmp_path, monkeypatch, name):
    """The first mirror behaves badly, in its own way; the second has the file."""
    content = packed(idx(LABELS))
    slow = name in ("stalls", "dribbles")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/good/"):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)
            else:
                with contextlib.suppress(OSError):              # the client leaves
                    BEHAVIOURS[name](self, content)

        def log_message(self, *args):
            pass

    def mirrors(*names):
        """The good one has all the time that a busy machine may need."""
        for mirror in names:
            monkeypatch.setattr(downloads, "TIMEOUT", 0.05 if slow and mirror == "bad" else 30)
            yield f"{url}{mirror}/"

    monkeypatch.setattr(downloads, "LARGEST", 2 ** 22)
    monkeypatch.setattr(downloads, "MD5", {"mnist/x.gz": hashlib.md5(content).hexdigest()})
    with listening(Handler, monkeypatch) as url:
        (tmp_path / "mnist").mkdir()
        (tmp_path / "mnist" / "x.gz.77.tmp").write_bytes(content[:5])       # of an earlier try
        os.utime(tmp_path / "mnist" / "x.gz.77.tmp", (0, 0))
        monkeypatch.setattr(downloads, "MIRRORS", {"mnist": mirrors("bad")})
        why = ".*(timed out|less than a MB)" if slow else ""    # left before the server ended
        with pytest.raises(OSError, match="cannot download x.gz" + why):
            downloads.download("mnist", "x.gz", tmp_path)
        assert os.listdir(tmp_path / "mnist") == []
        monkeypatch.setattr(downloads, "MIRRORS", {"mnist": mirrors("bad", "good")})
        assert downloads.download("mnist", "x.gz", tmp_path).read_bytes() == content


def test_every_published_file_has_a_hash_and_every_set_two_mirrors():
    assert set(downloads.MIRRORS) == {key.split("/")[0] for key in downloads.MD5}
    for name in ("mnist", "fashion-mnist"):
        for files in downloads.MNIST_FILES.values():
            assert all(len(downloads.MD5[f"{name}/{file}.gz"]) == 32 for file in files)
    assert all(len(mirrors) == 2 for mirrors in downloads.MIRRORS.values())
    assert "python" not in downloads.CIFAR10_ARCHIVE                 # that version is a pickle


def test_a_file_larger_than_any_is_not_read(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(downloads, "LARGEST", len(idx(IMAGES)))
    assert len(data.load("mnist", data_dir=tmp_path)[0]) == 5   # as large as any
    monkeypatch.setattr(downloads, "LARGEST", len(idx(IMAGES)) - 1)
    monkeypatch.setattr(Path, "read_bytes", None)               # would fail if called
    with pytest.raises(ValueError, match="larger than any file"):
        data.load("mnist", data_dir=tmp_path)
