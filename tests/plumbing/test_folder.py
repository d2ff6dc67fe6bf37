"""A folder of pictures: every kind that Pillow reads, converted knowingly, decoded once."""
import contextlib
import os
import pickle
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import data
from plumbing import folder as plumbing_folder
from plumbing.folder import fit
from plumbing.pictures import save_figure, save_gif, save_grid
from train import train

RNG = np.random.default_rng(0)


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
        fit(Image.new("F", (4, 4)), 4, 1)


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
    monkeypatch.setattr(plumbing_folder, "decode_all", None)               # would fail if called
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
    files = plumbing_folder.image_files(tmp_path / "pictures")
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
        orders.append(plumbing_folder.image_files(tmp_path / "pictures"))
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
    listed = plumbing_folder.image_files(tmp_path / "pictures")
    (tmp_path / "pictures" / "050.png").unlink()
    monkeypatch.setattr(plumbing_folder, "image_files", lambda root: listed)
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
    listed = plumbing_folder.image_files(tmp_path / "pictures") * 10
    monkeypatch.setattr(plumbing_folder, "image_files", lambda root: listed)
    x, _ = folder(tmp_path, image_size=1, image_channels=1)
    assert x.flatten().tolist() == [*range(103)] * 10


def test_a_run_below_its_own_data_does_not_train_on_what_it_drew(tmp_path, config, capsys):
    root = tmp_path / "pictures"
    for i in range(5):
        paint(root / f"{i}.png", (40 * i, 0, 0))
    below = config(data=str(root), out=str(root / "run"), image_channels=3, steps=1,
                   data_dir=str(root / "cache"), sample_every=1)
    train(below)
    (root / "run").rename(root / "elsewhere")                   # as another run's folder
    caches = sorted((root / "cache" / "cache").iterdir())
    train(replace(below, out=str(root / "elsewhere"), steps=2), resume=True)
    assert len(list(root.rglob("*.png"))) >= 7 and len(caches) == 2
    said = capsys.readouterr()
    assert said.out.count("pictures: 5 images") == 2 and "wrote" in said.err
    assert sorted((root / "cache" / "cache").iterdir()) == caches           # and none is read again


def test_what_our_programs_draw_is_no_data_and_is_counted(tmp_path, capsys):
    root, x = tmp_path / "pictures", torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    root.mkdir()
    save_grid(x, root / "a.png")
    save_grid(x[:, :1], root / "no suffix")
    save_gif([(x, x), (255 - x, x)], root / "b.gif")
    save_figure(Figure(), root / "c.PNG")
    with pytest.raises(ValueError, match="no images .* left out: 4 that a program of this project"):
        folder(tmp_path)
    paint(root / "d.png", (1, 1, 1))
    x, labels = folder(tmp_path)
    assert len(x) == 1 and labels is None
    assert "4 that a program of this project wrote" in capsys.readouterr().err


def test_every_suffix_and_none_is_taken_and_what_is_not_is_counted_in_a_line(tmp_path, capsys):
    root, taken = tmp_path / "pictures", []
    for suffix, kind in plumbing_folder.FORMATS.items():
        if kind in Image.SAVE:                                  # an old Pillow only reads QOI
            names = [f"a{suffix}", f"b{suffix.upper()}", f"no {suffix[1:]}", f"{suffix[1:]}.30"]
            for name in names[:2] if kind == "TGA" else names:  # a TGA begins in no known way
                paint(root / name, (9, 9, 9), format=kind, quality=100)
                taken.append(name)
    for name in ("a.heic", "b.HEIC", "c.txt", "d.eps", "no picture", "P5 is no.2", "x.cr2",
                 ".e.png"):
        (root / name).write_bytes(b"P5 is not what this is")
    for i, content in enumerate([b"", b"BM is text", b"II is text", b"RIFFabcdWAVE"]):
        (root / f"{i}").write_bytes(content)
    assert plumbing_folder.image_files(root) == sorted(taken)
    said = capsys.readouterr().err
    for words in ("2 .heic (", "1 .txt (", "1 .eps (", "1 .cr2 (", "6 without", "1 hidden"):
        assert words in said
    assert said.count("\n") == 1
    x, _ = folder(tmp_path, image_size=4)
    assert len(x) == len(taken) and (x == 9).all()
    assert "skipped" not in capsys.readouterr().err


def test_a_folder_of_photos_under_another_suffix_is_all_taken(tmp_path, capsys):
    for i in range(9):
        paint(tmp_path / "pictures" / f"{i}.jfif", (i, i, i), format="JPEG")
    paint(tmp_path / "pictures" / "9.png", (9, 9, 9))
    assert len(folder(tmp_path, image_size=4)[0]) == 10
    assert "left out" not in capsys.readouterr().err


LITTER = [".DS_Store", "._a.png", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r", "a.png~",
          "#a.png#", ".#a.png", "~$a.doc", ".a.png.swp", ".nfs0001", ".directory",
          ".gitignore", "__MACOSX/a.png", "__MACOSX/._a.png", ".git/a.png", "@eaDir/a.jpg",
          ".ipynb_checkpoints/a-checkpoint.png", "lost+found/a.png", "$RECYCLE.BIN/a.png",
          "System Volume Information/a.png", ".Trash-1000/a.png", ".thumbnails/a.png",
          "#recycle/a.png", ".AppleDouble/a.png"]


def test_what_a_system_or_an_editor_left_is_neither_read_nor_spoken_of(tmp_path, capsys):
    paint(tmp_path / "pictures" / "cat" / "a.png", (1, 1, 1))
    for name in LITTER:
        for where in (tmp_path / "pictures", tmp_path / "pictures" / "cat"):
            (where / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4)).save(where / name, "PNG")
    assert plumbing_folder.image_files(tmp_path / "pictures") == [os.path.join("cat", "a.png")]
    assert capsys.readouterr() == ("", "")
    assert folder(tmp_path)[1].tolist() == [0]


def test_many_kinds_that_are_left_out_are_still_one_line(tmp_path, capsys):
    paint(tmp_path / "pictures" / "a.png", (1, 1, 1))
    for i in range(30):
        (tmp_path / "pictures" / f"a.x{i}").write_bytes(b"")
    folder(tmp_path)
    said = capsys.readouterr().err
    assert "21 of other kinds" in said and said.count("\n") == 1


def test_a_picture_with_broken_metadata_does_not_stop_a_run(tmp_path, capsys):
    for i in range(21):
        paint(tmp_path / "pictures" / f"{i:02}.png", (i, i, i))
    content = (tmp_path / "pictures" / "20.png").read_bytes()
    exif = b"eXIf" + b"this is no EXIF"
    chunk = struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))
    (tmp_path / "pictures" / "20.png").write_bytes(content[:33] + chunk + content[33:])
    assert folder(tmp_path, image_size=4)[0][:, 0, 0, 0].tolist() == [*range(21)]
    assert "skipped" not in capsys.readouterr().err
