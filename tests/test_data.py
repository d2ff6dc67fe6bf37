"""Data: exact pixels in, exact pixels out, from files that the tests make themselves."""
import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import socket
import struct
import tarfile
import threading
import time
import tracemalloc
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data

RNG = np.random.default_rng(0)


# ---- pixels ----

def test_every_pixel_value_survives_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    x = data.to_model(pixels)
    assert x.dtype == torch.float32
    assert (x[0], x[255]) == (-1, 1)                            # IEEE rounds 255 / 127.5 to 2
    assert torch.equal(data.to_uint8(x), pixels)
    with pytest.raises(TypeError, match="uint8, 0..255, not torch.float32"):
        data.to_model(pixels / 255)


def test_to_uint8_rounds_and_clamps():
    x = torch.tensor([-3, -1, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 1, 3])
    assert data.to_uint8(x).tolist() == [0, 0, 1, 2, 255, 255]
    assert data.to_uint8(x.bfloat16())[[0, -1]].tolist() == [0, 255]


# ---- digits ----

DRAW = data.digits                                              # before conftest.py replaces it


@functools.cache
def digits(n=2000, image_size=16, seed=0):
    return DRAW(image_size, n, seed)


def test_digits_are_the_same_every_time_and_others_for_another_seed():
    x, labels = digits()
    assert x.shape == (2000, 1, 16, 16) and x.dtype == np.uint8
    assert np.array_equal(DRAW(16, 100, 0)[0], DRAW(16, 100, 0)[0])         # Pillow draws
    assert not np.array_equal(digits(2000, 16, 1)[0], x)
    assert np.bincount(labels).tolist() == [200] * 10


def test_digits_show_what_their_labels_say():
    """The mean picture of each digit of one seed tells most digits of another."""
    (x, labels), (other, truth) = digits(), digits(2000, 16, 1)
    means = np.stack([x[labels == k].mean(0).ravel() for k in range(10)])
    distance = ((other.reshape(2000, 1, -1).astype(float) - means) ** 2).sum(2)
    assert (distance.argmin(1) == truth).mean() > 0.8           # 0.1 by chance


def test_digits_are_bright_on_black_whole_and_varied():
    x, labels = digits()
    assert x.max(axis=(1, 2, 3)).min() > 150                    # no face draws nothing
    assert 20 < x.mean() < 60
    edge = np.concatenate([x[:, 0, 0], x[:, 0, -1], x[:, 0, :, 0], x[:, 0, :, -1]], axis=1)
    assert (edge.max(1) < 128).mean() > 0.99                    # nothing is cut off
    ones = x[labels == 1].reshape(200, -1).astype(float)
    assert len(np.unique(ones, axis=0)) == 200
    centre = (x * np.arange(16)).sum(axis=(1, 2, 3)) / x.sum(axis=(1, 2, 3))
    assert abs(centre.mean() - 7.5) < 0.3 and 0.3 < centre.std() < 1.2


def test_digits_turn_shear_scale_and_shift_within_their_limits():
    """The covariance of a bar-like 1 tells its slant; its extent the scale."""
    x, labels = digits()
    tall = [(image[0] > 60).any(1).sum() for image in x[labels == 0]]
    assert 8 <= min(tall) and max(tall) <= 15 and max(tall) - min(tall) >= 3
    slants = []
    for image in x[labels == 1].astype(float):
        rows, columns = np.mgrid[:16, :16]
        weight = image[0] / image.sum()
        dr, dc = rows - (weight * rows).sum(), columns - (weight * columns).sum()
        slants.append((weight * dr * dc).sum() / (weight * dr * dr).sum())
    assert np.std(slants) > 0.06 and np.abs(slants).max() < 0.6


@pytest.mark.parametrize("image_size", [8, 28])
def test_digits_come_in_any_size(image_size):
    x, _ = data.digits(image_size, 20)
    assert x.shape == (20, 1, image_size, image_size) and x.max() > 150


def test_load_digits_gives_tensors_and_a_test_split_of_its_own(monkeypatch):
    monkeypatch.setattr(data, "digits", lambda image_size, seed: DRAW(image_size, 30, seed))
    x, labels = data.load("digits")
    assert x.dtype == torch.uint8 and x.shape == (30, 1, 16, 16)
    assert labels.dtype == torch.int64 and labels.tolist() == [*range(10)] * 3
    held_out, _ = data.load("digits", split="test")
    assert not torch.equal(held_out, x)
    colour, _ = data.load("digits", 8, 3)
    assert colour.shape == (30, 3, 8, 8)
    assert torch.equal(colour[:, 0], colour[:, 2])


# ---- MNIST and CIFAR-10 ----

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
    for file, array in zip(data.MNIST_FILES["test"], (IMAGES, LABELS), strict=True):
        (folder / (file + suffix)).write_bytes(pack(idx(array)))
    x, labels = data.load(name, split="test", data_dir=tmp_path)
    assert np.array_equal(x[:, 0].numpy(), IMAGES) and x.shape == (5, 1, 28, 28)
    assert labels.tolist() == LABELS.tolist()


def test_mnist_is_not_taken_for_fashion_mnist(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    digest = hashlib.md5(idx(LABELS)).hexdigest()
    monkeypatch.setattr(data, "KEYS", {digest: "mnist/train-labels-idx1-ubyte.gz"})
    assert len(data.load("mnist", data_dir=tmp_path)[0]) == 5
    with pytest.raises(ValueError, match="is the file mnist/train-labels.*not one of fashion"):
        data.load("fashion-mnist", data_dir=tmp_path)


def write_mnist(folder, images=None, labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in zip(data.MNIST_FILES["train"],
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
    for file in data.CIFAR10_FILES["train"]:
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
    with tarfile.open(tmp_path / data.CIFAR10_ARCHIVE, "w:gz") as tar:
        for file in data.CIFAR10_FILES["test"]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            info.size = RECORDS.nbytes
            tar.addfile(info, io.BytesIO(RECORDS.tobytes()))
    x, labels = data.load("cifar10", split="test", data_dir=tmp_path)
    assert labels.tolist() == RECORDS[:, 0].tolist()
    assert np.array_equal(x.numpy().reshape(4, -1), RECORDS[:, 1:])
    assert os.listdir(tmp_path) == [data.CIFAR10_ARCHIVE]
    with pytest.raises(ValueError, match="not CIFAR-10's binary version"):
        data.load("cifar10", data_dir=tmp_path)                 # the train files are not in it


@pytest.mark.parametrize("kind, words", [
    (tarfile.SYMTYPE, "links"), (tarfile.LNKTYPE, "links"), (tarfile.DIRTYPE, "links"),
    (None, "larger, unpacked")], ids=["link", "hard link", "folder", "large"])
def test_a_hostile_archive_is_refused_and_writes_nothing(tmp_path, monkeypatch, kind, words):
    monkeypatch.setattr(data, "LARGEST", 9 * 10 ** 4)
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / data.CIFAR10_ARCHIVE, "w:gz") as tar:
        evil = tarfile.TarInfo("../evil")
        evil.size = 4
        tar.addfile(evil, io.BytesIO(b"evil"))
        for file in data.CIFAR10_FILES["train"]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            if kind:                                            # a link to itself, or a folder
                info.type, info.linkname = kind, info.name
            else:
                info.size = 2 * 10 ** 4
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"{data.CIFAR10_ARCHIVE} is .*{words}"):
        data.load("cifar10", data_dir=folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_gzip_bomb_is_refused_before_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "LARGEST", 10 ** 6)
    bomb = packed(bytes(10 ** 6)) * 100                         # members one after another: 100 MB
    (tmp_path / (data.MNIST_FILES["train"][0] + ".gz")).write_bytes(bomb)
    (tmp_path / (data.MNIST_FILES["train"][1] + ".gz")).write_bytes(packed(idx(LABELS)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="larger, unpacked"):
        data.load("mnist", data_dir=tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 ** 7


def test_images_without_pixels_are_refused_and_long_ones_cut_square(tmp_path):
    for shape, size in (((2, 0, 3), None), ((2, 3, 0), None), ((2, 1, 50), 1), ((2, 50, 2), 2)):
        images = np.zeros(shape, np.uint8)
        (tmp_path / data.MNIST_FILES["train"][0]).write_bytes(idx(images))
        (tmp_path / data.MNIST_FILES["train"][1]).write_bytes(idx(np.array([1, 2], np.uint8)))
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


# ---- downloads, from a server of our own ----

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
        monkeypatch.setattr(data, "MIRRORS", {"mnist": (url + "not-there/", url)})
        yield root


def serve(root, monkeypatch, published=None):
    md5 = {}
    for file, array in zip(data.MNIST_FILES["train"], (IMAGES, LABELS), strict=True):
        content = packed(idx(array))
        (root / f"{file}.gz").write_bytes(content)
        md5[f"mnist/{file}.gz"] = hashlib.md5(published or content).hexdigest()
    monkeypatch.setattr(data, "MD5", md5)


def test_a_missing_file_is_downloaded_once_from_the_first_mirror_that_has_it(tmp_path, server,
                                                                             monkeypatch):
    serve(server, monkeypatch)
    x, labels = data.load("mnist", data_dir=tmp_path / "data")
    assert np.array_equal(x[:, 0].numpy(), IMAGES) and labels.tolist() == LABELS.tolist()
    files = sorted(os.listdir(tmp_path / "data" / "mnist"))
    assert files == sorted(f"{file}.gz" for file in data.MNIST_FILES["train"])
    monkeypatch.setattr(data, "download", None)                 # not needed a second time
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
        monkeypatch.setattr(data, "MIRRORS", {"mnist": (url,)})
        with pytest.raises(OSError) as caught:
            data.load("mnist", data_dir=tmp_path / "data")
    assert str(tmp_path / "data" / "mnist") in str(caught.value)
    assert all(file in str(caught.value) for file in data.MNIST_FILES["train"])


def test_a_download_never_grows_beyond_the_largest_file(tmp_path, server, monkeypatch):
    serve(server, monkeypatch)
    monkeypatch.setattr(data, "LARGEST", 100)
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
            monkeypatch.setattr(data, "TIMEOUT", 0.05 if slow and mirror == "bad" else 30)
            yield f"{url}{mirror}/"

    monkeypatch.setattr(data, "LARGEST", 2 ** 22)
    monkeypatch.setattr(data, "MD5", {"mnist/x.gz": hashlib.md5(content).hexdigest()})
    with listening(Handler, monkeypatch) as url:
        (tmp_path / "mnist").mkdir()
        (tmp_path / "mnist" / "x.gz.77.tmp").write_bytes(content[:5])       # of an earlier try
        os.utime(tmp_path / "mnist" / "x.gz.77.tmp", (0, 0))
        monkeypatch.setattr(data, "MIRRORS", {"mnist": mirrors("bad")})
        why = ".*(timed out|less than a MB)" if slow else ""    # left before the server ended
        with pytest.raises(OSError, match="cannot download x.gz" + why):
            data.download("mnist", "x.gz", tmp_path)
        assert os.listdir(tmp_path / "mnist") == []
        monkeypatch.setattr(data, "MIRRORS", {"mnist": mirrors("bad", "good")})
        assert data.download("mnist", "x.gz", tmp_path).read_bytes() == content


def test_every_published_file_has_a_hash_and_every_set_two_mirrors():
    assert set(data.MIRRORS) == {key.split("/")[0] for key in data.MD5}
    for name in ("mnist", "fashion-mnist"):
        for files in data.MNIST_FILES.values():
            assert all(len(data.MD5[f"{name}/{file}.gz"]) == 32 for file in files)
    assert all(len(mirrors) == 2 for mirrors in data.MIRRORS.values())
    assert "python" not in data.CIFAR10_ARCHIVE                 # that version is a pickle


# ---- a folder ----

def paint(path, colour, mode="RGB", size=(8, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def folder(tmp_path, **options):
    return data.load(str(tmp_path / "pictures"), data_dir=tmp_path / "data", **options)


def test_every_mode_is_converted_knowingly(tmp_path):
    root = tmp_path / "pictures"
    paint(root / "a.png", (255, 0, 0))
    paint(root / "b.png", (255, 0, 0, 0), "RGBA")               # transparent: white, not red
    paint(root / "c.png", (0, 0, 0, 128), "RGBA")               # half of black on white
    paint(root / "d.png", 200, "L")
    paint(root / "e.png", (200, 0), "LA")
    paint(root / "f.png", 1, "1")
    paint(root / "g.tif", (0, 255, 255, 0), "CMYK")             # red in inks
    Image.fromarray(np.full((8, 8), 51 * 257, np.uint16)).save(root / "h.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.save(root / "i.png")
    palette.save(root / "j.gif", transparency=1)
    x, labels = folder(tmp_path, image_size=4)
    red, white, grey = [255, 0, 0], [255] * 3, [200] * 3
    assert x[:, :, 0, 0].tolist() == [red, white, [127] * 3, grey, white, white, red, [51] * 3,
                                      [0, 0, 255], white]
    assert labels is None and x.shape == (10, 3, 4, 4) and x.dtype == torch.uint8
    x, _ = folder(tmp_path, image_size=4, image_channels=1)
    assert x.shape == (10, 1, 4, 4) and x[3, 0, 0, 0] == 200 and x[0, 0, 0, 0] == 76


def test_floating_point_pixels_are_not_guessed_at():
    with pytest.raises(ValueError, match="no known range"):
        data.fit(Image.new("F", (4, 4)), 4, 1)


def test_the_short_side_is_resized_and_the_centre_kept(tmp_path):
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, 6:26] = 255                                         # and a little around the centre
    (tmp_path / "pictures").mkdir()
    Image.fromarray(wide).save(tmp_path / "pictures" / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "pictures" / "tall.png")
    x, _ = folder(tmp_path, image_size=4)
    assert (x == 255).all()
    assert folder(tmp_path)[0].shape == (2, 3, 32, 32)          # 32 unless told


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    upside = np.zeros((8, 8, 3), np.uint8)
    upside[4:] = 255                                            # stored white below
    exif = Image.Exif()
    exif[0x0112] = 3                                            # turn by 180 degrees
    (tmp_path / "pictures").mkdir()
    Image.fromarray(upside).save(tmp_path / "pictures" / "a.png", exif=exif)
    x, _ = folder(tmp_path, image_size=8)
    assert x[0, 0, 0, 0] == 255 and x[0, 0, 7, 0] == 0


def test_nested_folders_give_labels_by_name(tmp_path):
    root = tmp_path / "pictures"
    for i, name in enumerate(["x/dog/1.png", "x/cat/2.png", "y/cat/3.PNG", "y/ant/4.png"]):
        paint(root / name, (i, i, i))
    (root / "y" / "notes.txt").write_text("not an image")
    (root / "y" / "._3.png").write_text("left by a Mac, not an image")
    x, labels = folder(tmp_path, image_size=4)
    assert x[:, 0, 0, 0].tolist() == [1, 0, 3, 2]               # sorted by path
    assert labels.tolist() == [1, 2, 0, 1]                      # of ant, cat, dog
    assert labels.dtype == torch.int64


def test_an_unreadable_file_is_named_and_skipped(tmp_path, capsys):
    root = tmp_path / "pictures"
    for i in range(120):
        paint(root / f"{'ab'[i % 2]}" / f"{i:03}.png", (i, i, i), size=(4, 4))
    (root / "a" / "050.png").write_text("this is text")
    x, labels = folder(tmp_path, image_size=4)
    assert "050.png" in capsys.readouterr().err
    kept = [*range(0, 50, 2), *range(52, 120, 2), *range(1, 120, 2)]
    assert x[:, 0, 0, 0].tolist() == kept
    assert labels.tolist() == [0] * 59 + [1] * 60
    (root / "a" / "052.png").write_bytes(b"")
    with pytest.raises(ValueError, match="2 of the 120 images .* more than 1%"):
        folder(tmp_path, image_size=4)


def test_one_percent_exactly_is_still_skipped(tmp_path):
    for i in range(100):
        paint(tmp_path / "pictures" / f"{i:03}.png", 0, "L", (2, 2))
    (tmp_path / "pictures" / "099.png").write_text("this is text")
    assert len(folder(tmp_path, image_size=2)[0]) == 99


@pytest.mark.parametrize("content", [None, "text"])
def test_a_folder_without_images_is_refused(tmp_path, content):
    (tmp_path / "pictures").mkdir()
    if content:
        (tmp_path / "pictures" / "a.png").write_text(content)
    with pytest.raises(ValueError, match="no images in" if content is None else "more than 1%"):
        folder(tmp_path)
    assert not list((tmp_path / "data").glob("cache/*"))


def test_a_folder_is_decoded_once_and_mapped_into_memory_after(tmp_path, monkeypatch):
    modes, original = [], np.load
    monkeypatch.setattr(np, "load", lambda path, mmap_mode=None: modes.append(mmap_mode)
                        or original(path, mmap_mode))
    paint(tmp_path / "pictures" / "a.png", (9, 9, 9))
    paint(tmp_path / "pictures" / "b" / "b.png", (8, 8, 8))
    first, labels = folder(tmp_path, image_size=4)
    monkeypatch.setattr(data, "decode_all", None)               # would fail if called
    second, again = folder(tmp_path, image_size=4)
    assert torch.equal(first, second) and torch.equal(labels, again)
    assert set(modes) == {"c", None} and modes.count("c") >= 2  # the images mapped, the rest read


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed", "size", "channels"])
def test_the_cache_is_never_stale(tmp_path, change):
    root, options = tmp_path / "pictures", {"image_size": 4, "image_channels": 3}
    paint(root / "a.png", (9, 9, 9))
    paint(root / "b.png", (5, 5, 5))
    folder(tmp_path, **options)
    if change == "content":                                     # same size, same time of change
        stat = os.stat(root / "a.png")
        while os.stat(root / "a.png").st_ctime_ns == stat.st_ctime_ns:       # its clock is coarse
            paint(root / "a.png", (7, 7, 7))
            os.utime(root / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "added":
        paint(root / "c.png", (3, 3, 3))
    elif change == "removed":
        (root / "b.png").unlink()
    elif change == "renamed":
        (root / "a.png").rename(root / "z.png")
    options.update({"size": {"image_size": 8}, "channels": {"image_channels": 1}}.get(change, {}))
    x, _ = folder(tmp_path, **options)
    expected = {"content": [7, 5], "added": [9, 5, 3], "removed": [9], "renamed": [5, 9]}
    assert x[:, 0, 0, 0].tolist() == expected.get(change, [9, 5])
    assert x.shape[1:] == (options["image_channels"], *[options["image_size"]] * 2)
    caches = [path for path in (tmp_path / "data" / "cache").iterdir() if "kept" not in path.name]
    assert len(caches) == (2 if change in ("size", "channels") else 1)      # the old one is gone


def test_linked_folders_are_read_once_and_loops_are_cut(tmp_path):
    paint(tmp_path / "pictures" / "a" / "1.png", (1, 1, 1))
    paint(tmp_path / "elsewhere" / "2.png", (2, 2, 2))
    paint(tmp_path / "3.png", (3, 3, 3))                        # above the folder: not part of it
    for link, target in (("b", "../elsewhere"), ("c", "."), ("a/d", "../a"), ("e", ".."),
                         ("f", "f"), ("g", "/"), ("h", "../elsewhere"), ("z.png", "z.png")):
        (tmp_path / "pictures" / link).symlink_to(target)
    files = data.image_files(tmp_path / "pictures")
    assert files == [os.path.join("a", "1.png"), os.path.join("b", "2.png"), "z.png"]


def test_the_order_of_the_files_is_not_that_of_the_disk(tmp_path, monkeypatch):
    for name in ("b/2.png", "a/9.png", "a/10.png", "c.png"):
        paint(tmp_path / "pictures" / name, 0, "L")
    walk, orders = os.walk, []

    def in_some_order(root, **options):
        for where, folders, names in walk(root, **options):
            folders.sort(reverse=len(orders) == 1)
            yield where, folders, sorted(names, reverse=len(orders) == 1)

    monkeypatch.setattr(os, "walk", in_some_order)
    for _ in range(2):
        orders.append(data.image_files(tmp_path / "pictures"))
    assert orders == [[os.path.join("a", "10.png"), os.path.join("a", "9.png"),
                       os.path.join("b", "2.png"), "c.png"]] * 2


def header_of_a_png(width, height):
    """Say that so many pixels follow, and let none follow."""
    content = b"\x89PNG\r\n\x1a\n"
    one_bit_grey = struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", one_bit_grey), (b"IDAT", b""), (b"IEND", b"")):
        checksum = zlib.crc32(kind + body)
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
    return content


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path, capsys):
    for i in range(200):
        paint(tmp_path / "pictures" / f"{i:03}.bmp", 0, "L", (1, 1))
    (tmp_path / "pictures" / "b.png").write_bytes(header_of_a_png(30_000, 30_000))
    (tmp_path / "pictures" / "c.png").write_bytes(header_of_a_png(8200, 8200))      # above 2^26
    x, _ = folder(tmp_path, image_size=1)
    said = capsys.readouterr().err
    assert len(x) == 200 and "b.png" in said and "8200 x 8200 pixels are too many" in said


def test_of_an_animation_the_first_picture_counts(tmp_path):
    (tmp_path / "pictures").mkdir()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "b.webp", "c.tif"):
        lossless = {"lossless": True} if name == "b.webp" else {}
        frames[0].save(tmp_path / "pictures" / name, save_all=True, append_images=frames[1:],
                       **lossless)
    x, _ = folder(tmp_path, image_size=4)
    assert x[:, :, 0, 0].tolist() == [[255, 0, 0]] * 3


def test_a_file_that_disappears_is_skipped(tmp_path, monkeypatch, capsys):
    for i in range(101):
        paint(tmp_path / "pictures" / f"{i:03}.png", (i, i, i), size=(2, 2))
    listed = data.image_files(tmp_path / "pictures")
    (tmp_path / "pictures" / "050.png").unlink()
    monkeypatch.setattr(data, "image_files", lambda root: listed)
    x, _ = folder(tmp_path, image_size=2)
    assert x[:, 0, 0, 0].tolist() == [*range(50), *range(51, 101)]
    assert "skipped" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["cut", "text", "empty", "pickle", "zip", "kept cut",
                                  "kept too large", "kept twice", "kept gone", "kept empty",
                                  "another shape", "another order"])
def test_a_damaged_cache_is_made_again(tmp_path, harm):
    for i in range(3):
        paint(tmp_path / "pictures" / f"{i}.png", (i, i, i))
    expected, _ = folder(tmp_path, image_size=4)
    cache, kept = sorted((tmp_path / "data" / "cache").iterdir(), key=lambda path: len(path.name))
    del expected                                                # as a mapped file it may change
    if harm == "cut":
        cache.write_bytes(cache.read_bytes()[:-50])
    elif harm in ("text", "empty"):
        cache.write_bytes(harm.encode() * (harm == "text"))
    elif harm == "pickle":
        cache.write_bytes(pickle.dumps([1, 2]))
    elif harm == "zip":
        cache.write_bytes(b"PK\3\4" + bytes(100))
    elif harm == "another order":
        np.save(cache, np.asfortranarray(np.zeros((3, 3, 4, 4), np.uint8)))
    elif harm == "another shape":
        np.save(cache, np.zeros((3, 3, 2, 2), np.uint8))
    elif harm == "kept cut":
        kept.write_bytes(kept.read_bytes()[:-3])
    elif harm == "kept gone":
        kept.unlink()
    else:
        np.save(kept, np.array({"kept too large": [0, 1, 3], "kept twice": [0, 0, 1]}.get(harm, []),
                               np.int64))
    x, _ = folder(tmp_path, image_size=4)
    assert x[:, 0, 0, 0].tolist() == [0, 1, 2] and x.shape == (3, 3, 4, 4)


def test_half_written_caches_of_dead_programs_are_removed(tmp_path):
    paint(tmp_path / "pictures" / "a.png", (1, 1, 1))
    old, new = (tmp_path / "data" / "cache" / f"{name}.npy.{i}.tmp" for i, name in enumerate("ab"))
    old.parent.mkdir(parents=True)
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    folder(tmp_path, image_size=4)
    assert new.exists() and not old.exists()                    # which may still be written to


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has none")
def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    for i in range(100):
        paint(tmp_path / "pictures" / f"{i:03}.png", (i, i, i), size=(2, 2))
    os.mkfifo(tmp_path / "pictures" / "a.png")
    assert len(folder(tmp_path, image_size=2)[0]) == 100
    assert "a.png: this is no file" in capsys.readouterr().err


def test_a_file_larger_than_any_is_not_read(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(data, "LARGEST", len(idx(IMAGES)))
    assert len(data.load("mnist", data_dir=tmp_path)[0]) == 5   # as large as any
    monkeypatch.setattr(data, "LARGEST", len(idx(IMAGES)) - 1)
    monkeypatch.setattr(Path, "read_bytes", None)               # would fail if called
    with pytest.raises(ValueError, match="larger than any file"):
        data.load("mnist", data_dir=tmp_path)


def test_names_may_be_long_or_in_any_letters(tmp_path):
    names = ["ж.png", "子/犬.png", "a" * 200 + ".png", " .png", "-n.png"]
    for name in names:
        paint(tmp_path / "pictures" / name, (5, 5, 5))
    deep = tmp_path / "pictures" / Path(*["d" * 200] * 3) / "x.png"
    paint(deep, (5, 5, 5))
    x, labels = folder(tmp_path, image_size=2)
    assert len(x) == 6 and (x == 5).all() and labels.max() == 2
    with contextlib.suppress(OSError):                          # not on every file system
        os.rename(deep, os.fsencode(tmp_path / "pictures") + b"/\xff.png")
        assert len(folder(tmp_path, image_size=2)[0]) == 6


def test_one_file_in_a_class_and_one_in_all_are_enough(tmp_path):
    paint(tmp_path / "pictures" / "cat" / "1.png", (1, 1, 1))
    x, labels = folder(tmp_path, image_size=2)
    assert len(x) == 1 and labels.tolist() == [0]
    paint(tmp_path / "pictures" / "dog" / "1.png", (1, 1, 1))
    assert folder(tmp_path, image_size=2)[1].tolist() == [0, 1]


def test_a_folder_of_more_than_one_chunk_keeps_its_order(tmp_path, monkeypatch):
    for i in range(103):                                        # and each of them ten times
        paint(tmp_path / "pictures" / f"{i:03}.bmp", i, "L", (1, 1))
    listed = data.image_files(tmp_path / "pictures") * 10
    monkeypatch.setattr(data, "image_files", lambda root: listed)
    x, _ = folder(tmp_path, image_size=1, image_channels=1)
    assert x.flatten().tolist() == [*range(103)] * 10


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a folder nor one of digits, mnist"):
        data.load("imagenet", data_dir=tmp_path)
    with pytest.raises(ValueError, match="split"):
        data.load("digits", split="validation")
    with pytest.raises(ValueError, match="1 or 3, not 2"):
        data.load("digits", image_channels=2)


# ---- progress ----

def test_track_reports_rate_and_time_left(monkeypatch, capsys):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(data, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    assert list(data.track(iter("abcd"), "reading", 4)) == list("abcd")
    lines = capsys.readouterr().err.splitlines()                # not a terminal: a line each 15 s
    assert lines == ["reading: 2/4, 0.1/s, 0:00:20 left  ", "reading: 4/4, 0.1/s, 0:00:00 left  "]


def test_track_rewrites_one_line_on_a_terminal(monkeypatch, capsys):
    now = iter([0.0, 0.1, 0.3, 0.35])
    monkeypatch.setattr(data, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(data.sys.stderr, "isatty", lambda: True)
    assert list(data.track([1, 2, 3], "reading")) == [1, 2, 3]
    shown = capsys.readouterr().err
    assert shown.count("\r") == 1 and shown.count("\n") == 1
    assert "3/3" in shown and "1/3" not in shown


def test_clock():
    assert [data.clock(s) for s in (0, 59.6, 3600 * 27 + 62)] == ["0:00:00", "0:01:00", "27:01:02"]
