"""A file of a picture: its pixels are what the file says, and metadata stops nobody.

The files are written here byte by byte, so that what they mean is known without Pillow.
"""
import io
import math
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from plumbing import folder
from plumbing.folder import read_picture

RAMP = np.arange(64).reshape(8, 8) / 63                         # from black to white
TYPES = {1: "B", 3: "H", 4: "I", 11: "f", 12: "d", 16: "Q"}     # of TIFF


def read(path, channels=1):
    """The pixels of a picture of 8 x 8, which are neither resized nor cropped."""
    return read_picture(path, 8, channels)[0].astype(int)


def grey(levels):
    """What values 0..1 are in 8 bits."""
    return np.floor(255 * np.asarray(levels) + 0.5).astype(int)


def packed(values, bits, order="<"):
    """Pack integers, a row at a time, each row to whole bytes, the first bit highest."""
    if bits in (16, 32):
        return values.astype(f"{order}u{bits // 8}").tobytes()
    rows = (row[:, None] >> np.arange(bits)[::-1] & 1 for row in values)
    return b"".join(np.packbits(row.astype(np.uint8)).tobytes() for row in rows)


def tiff(pixels, bits, order="<", big=False, white_is_zero=False, compression=1, size=(8, 8),
         **tags):
    """Write a TIFF of one strip; tags, t339=(3, 2) say, are of a type and values, or raw bytes."""
    if compression == 8:
        pixels = zlib.compress(pixels)
    head = 16 if big else 8
    entries = {256: (4, size[0]), 257: (4, size[1]), 258: (3, bits), 259: (3, compression),
               262: (3, 0 if white_is_zero else 1), 273: (4, head), 277: (3, 1), 278: (4, size[1]),
               279: (4, len(pixels)), **{int(name[1:]): value for name, value in tags.items()}}
    offset, after = head + len(pixels), b""
    directory = struct.pack(order + ("Q" if big else "H"), len(entries))
    where = offset + len(directory) + len(entries) * (20 if big else 12) + (8 if big else 4)
    for tag, entry in sorted(entries.items()):
        if isinstance(entry, bytes):                            # a whole entry, as broken as it is
            directory += struct.pack(order + "H", tag) + entry
            continue
        kind, *values = entry
        value = struct.pack(f"{order}{len(values)}{TYPES[kind]}", *values)
        room = 8 if big else 4
        if len(value) > room:
            after, value = after + value, struct.pack(order + ("Q" if big else "I"),
                                                      where + len(after))
        directory += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, len(values))
        directory += value.ljust(room, b"\0")
    first = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    first += struct.pack(order + ("HHQ" if big else "I"), *((8, 0) if big else ()), offset)
    return first + pixels + directory + bytes(8 if big else 4) + after


# ---- what the pixels mean ----

@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits, order, big", [
    (1, "<", False), (1, ">", False), (2, "<", False), (2, ">", True), (4, "<", False),
    (4, ">", False), (8, "<", True), (8, ">", False), (10, "<", False), (12, "<", False),
    (12, ">", False), (16, "<", False), (16, ">", False), (16, "<", True), (24, "<", False)])
def test_grey_tiff_of_any_depth_and_order_is_what_its_file_says_or_refused(
        tmp_path, bits, order, big, white_is_zero, compression):
    values = np.round(RAMP * (2 ** bits - 1)).astype(np.int64)
    shown = values / (2 ** bits - 1)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(packed(values, bits, order), bits, order, big, white_is_zero,
                          compression))
    try:
        x = read(path)
    except ValueError as error:                                 # Pillow does not know it
        assert (bits, order, white_is_zero) in {
            *((bits, order, white) for bits in (10, 24) for order in "<>" for white in (0, 1)),
            (12, "<", 1), (12, ">", 0), (12, ">", 1), (16, ">", 1)} or (order, big) == (">", True)
        assert "no kind that is read" in str(error)
    else:
        assert np.array_equal(x, grey(1 - shown if white_is_zero else shown))


@pytest.mark.parametrize("low, high, bits, kind, tags", [
    (0, 4095, 16, "u2", {"t281": (3, 4095)}),                   # 12 bits in 16
    (0, 1023, 16, "u2", {"t280": (3, 0), "t281": (3, 1023)}),
    (100, 1100, 16, "u2", {"t340": (3, 100), "t341": (3, 1100)}),
    (-1000, 1000, 16, "i2", {"t340": (11, -1000.0), "t341": (11, 1000.0)}),
    (0, 255, 32, "i4", {"t340": (12, 0.0), "t341": (12, 255.0)}),
    (0, 255, 32, "u4", {"t281": (4, 255)}),
    (0, 2 ** 32 - 1, 32, "u4", {"t341": (4, 2 ** 32 - 1)})])
def test_a_range_that_a_tiff_says_is_that_of_its_pixels(tmp_path, low, high, bits, kind, tags):
    values = np.round(low + RAMP * (high - low)).astype(kind)
    if kind[0] == "i":
        tags["t339"] = 3, 2
    (tmp_path / "a.tif").write_bytes(tiff(values.astype(f"<{kind}").tobytes(), bits, **tags))
    assert np.abs(read(tmp_path / "a.tif") - 255 * RAMP).max() <= 0.5 + 127.5 / min(high - low, 999)


@pytest.mark.parametrize("bits, words, tags", [
    (32, "unsigned 32-bit pixels whose range", {}), (32, "signed 32-bit", {"t339": (3, 2)}),
    (16, "signed 16-bit pixels whose range", {"t339": (3, 2)}), (8, "signed 8", {"t339": (3, 2)}),
    (16, "signed 16-bit", {"t339": (3, 2), "t341": (3, 99)}),   # from where to 99?
    (8, "are not read", {"t339": (3, 2), "t340": (11, -128.0), "t341": (11, 127.0)}),
    (16, "cannot range", {"t280": (3, 5), "t281": (3, 5)}),
    (16, "cannot range", {"t341": (12, math.nan)}), (16, "cannot range", {"t341": (12, math.inf)}),
    (32, "floating-point", {"t339": (3, 3)})])
def test_a_tiff_whose_range_cannot_be_known_is_refused(tmp_path, bits, words, tags):
    (tmp_path / "a.tif").write_bytes(tiff(bytes(8 * bits), bits, **tags))
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("most, channels", [(4095, 3), (65535, 3)])
def test_colour_of_16_bits_is_full_range_or_refused(tmp_path, most, channels):
    values = np.repeat(np.round(RAMP * most), 3).astype("<u2")
    (tmp_path / "a.tif").write_bytes(tiff(values.tobytes(), 16, t258=(3, 16, 16, 16), t262=(3, 2),
                                          t277=(3, 3), t281=(3, most, most, most)))
    if most == 4095:
        with pytest.raises(ValueError, match="RGB pixels from 0 to 4095 are not read"):
            read(tmp_path / "a.tif", 3)
    else:
        assert np.abs(read(tmp_path / "a.tif", 3) - 255 * RAMP).max() <= 1


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("most", [1, 3, 15, 100, 255, 256, 1023, 4095, 65535])
def test_pgm_is_scaled_by_its_maxval(tmp_path, most, binary):
    values = np.round(RAMP * most).astype(int)
    pixels = values.astype("u1" if most < 256 else ">u2").tobytes() if binary else \
        " ".join(map(str, values.ravel())).encode() + b"\n"
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P%d\n# by hand\n8 8\n%d\n" % (5 if binary else 2, most) + pixels)
    assert np.abs(read(path) - 255 * values / most).max() <= 0.51


def png(values, bits, before=b"", after=b"", colour=0):
    head = struct.pack(">2I5B", 8, 8, bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" + packed(row[None], bits, ">") for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(
        b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND", b"")


def chunk(kind, body, checksum=None):
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_any_depth_goes_from_black_to_white(tmp_path, bits):
    values = np.round(RAMP * (2 ** bits - 1)).astype(int)
    (tmp_path / "a.png").write_bytes(png(values, bits))
    assert np.array_equal(read(tmp_path / "a.png"), grey(values / (2 ** bits - 1)))


def test_the_transparent_value_of_16_bit_grey_is_laid_on_white(tmp_path):
    values = np.round(RAMP * 65535).astype(int)
    (tmp_path / "a.png").write_bytes(png(values, 16, chunk(b"tRNS", struct.pack(">H", 0))))
    expected = grey(values / 65535)
    expected[0, 0] = 255
    assert np.array_equal(read(tmp_path / "a.png"), expected)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no OpenJPEG")
@pytest.mark.parametrize("bits", [1, 4, 7, 8, 9, 10, 12, 16])
@pytest.mark.parametrize("suffix", [".jp2", ".j2k"])
def test_jpeg_2000_of_any_depth_goes_from_black_to_white(tmp_path, bits, suffix):
    """A lossless file keeps value - 2^(bits - 1): another depth in its head shifts all values."""
    values = np.round(RAMP * (2 ** bits - 1)).astype(int)
    whole = 16 if bits > 8 else 8
    shifted = (values - 2 ** (bits - 1) + 2 ** (whole - 1)).astype(f"u{whole // 8}")
    for channels in (1, 3) if bits <= 8 else (1,):
        image, buffer = Image.fromarray(shifted), io.BytesIO()
        image = Image.merge("RGB", [image] * 3) if channels == 3 else image
        image.save(buffer, "JPEG2000", no_jp2=suffix == ".j2k", mct=0)
        content = bytearray(buffer.getvalue())
        for i in range(channels):
            content[content.find(b"\xff\x4f\xff\x51") + 42 + 3 * i] = bits - 1
        (tmp_path / f"a{suffix}").write_bytes(content)
        x = read(tmp_path / f"a{suffix}", channels)
        assert np.array_equal(x, grey(values / (2 ** bits - 1)))
    content[content.find(b"\xff\x4f\xff\x51") + 42] = 4        # no longer as the others
    (tmp_path / f"a{suffix}").write_bytes(content)
    if channels == 3:
        with pytest.raises(ValueError, match="channels of .* bits are not read"):
            read(tmp_path / f"a{suffix}")


# ---- metadata ----

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
GARBAGE = np.random.default_rng(1).bytes(60)
BROKEN = {"garbage": GARBAGE, "empty": b"", "no head": b"MM\0\x2a", "beyond": b"II*\0\xff\xff\0\0",
          "endless": b"II*\0\x08\0\0\0\xff\xff" + GARBAGE,
          "offset": b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 270, 2, 99, 2 ** 31) + bytes(4),
          "text for a number": b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHI4s", 274, 2, 4, b"abc")
          + bytes(4), "subfolder": b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 34665, 4, 1, 9999)
          + bytes(4)}
TURNED = b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHIHH", 274, 3, 1, 3, 0) + struct.pack(
    "<HHII", 34665, 4, 1, 2 ** 31) + bytes(4)                  # upside down; and a folder nowhere


def colour_png(before=b"", after=b""):
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 8, 8, 8, 2, 0, 0, 0)) \
        + before + chunk(b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND", b"")


def colour_webp(*chunks, cut=0):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "WEBP", lossless=True)
    extended = struct.pack("<4sIB3x3s3s", b"VP8X", 10, 0x2c, b"\7\0\0", b"\7\0\0")
    body = b"WEBP" + extended + buffer.getvalue()[12:] + b"".join(
        struct.pack("<4sI", kind, len(value)) + value + bytes(len(value) % 2)
        for kind, value in chunks)
    return (b"RIFF" + struct.pack("<I", len(body)) + body)[:-cut or None]


def colour_tiff(order="<", **tags):
    return tiff(PIXELS.tobytes(), 8, order, t258=(3, 8, 8, 8), t262=(3, 2), t277=(3, 3), **tags)


def jpeg(*segments, size=(8, 8), **options):
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(grey(RAMP)[..., None], 3, 2).astype(np.uint8)).resize(size).save(
        buffer, "JPEG", quality=95, **options)
    content = buffer.getvalue()
    return content[:2] + b"".join(struct.pack(">BBH", 255, marker, len(body) + 2) + body
                                  for marker, body in segments) + content[2:]


def flat(path):
    return read_picture(path, 8, 3).transpose(1, 2, 0)


@pytest.mark.parametrize("exif", BROKEN)
def test_broken_exif_is_ignored_in_every_format(tmp_path, exif):
    body = BROKEN[exif]
    files = {"a.png": colour_png(chunk(b"eXIf", body)), "b.png": colour_png(b"", chunk(
        b"eXIf", body)), "c.webp": colour_webp((b"EXIF", body))}
    files |= {f"{order}.tif": colour_tiff({"l": "<", "b": ">"}[order], **{
        "t34665": (4, 2 ** 31), "t34853": (1, *body.ljust(5))}) for order in "lb"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(flat(tmp_path / name), PIXELS), name
    (tmp_path / "whole.jpg").write_bytes(jpeg())
    (tmp_path / "d.jpg").write_bytes(jpeg((0xe1, b"Exif\0\0" + body)))
    assert np.array_equal(flat(tmp_path / "d.jpg"), flat(tmp_path / "whole.jpg"))


def test_the_way_up_is_read_even_if_the_rest_of_the_exif_is_broken(tmp_path):
    xmp = b'<x tiff:Orientation="3"/>'
    for i, content in enumerate([
            colour_png(chunk(b"eXIf", TURNED)), colour_png(b"", chunk(b"eXIf", TURNED)),
            colour_png(chunk(b"eXIf", TURNED, 7) + chunk(b"tEXt", b"a\0b", 7)),
            colour_png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
            colour_webp((b"EXIF", TURNED)), colour_tiff(t274=(3, 3), t34665=(4, 2 ** 31))]):
        path = tmp_path / (f"{i}" + (".png" if i < 4 else ".webp" if i == 4 else ".tif"))
        path.write_bytes(content)
        assert np.array_equal(flat(path), PIXELS[::-1, ::-1]), i


@pytest.mark.parametrize("orientation", range(10))
def test_every_way_up_is_turned_the_same_in_every_format(tmp_path, orientation):
    """As EXIF 2.3 says where the 0th row and the 0th column of what is stored belong."""
    exif = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIHH", 274, 3, 1, orientation, 0) + bytes(4)
    expected = {2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1],
                5: PIXELS.transpose(1, 0, 2), 6: PIXELS[::-1].transpose(1, 0, 2),
                7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
                8: PIXELS[:, ::-1].transpose(1, 0, 2)}.get(orientation, PIXELS)
    for name, content in {"a.png": colour_png(chunk(b"eXIf", exif)),
                          "b.webp": colour_webp((b"EXIF", exif)),
                          "c.tif": colour_tiff(t274=(3, orientation))}.items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(flat(tmp_path / name), expected), name


CHUNKS = {
    "checksum": (chunk(b"tEXt", b"a\0b", 7), b""), "exif's checksum": (chunk(b"eXIf", b"", 7), b""),
    "no profile": (chunk(b"iCCP", b""), b""), "profile": (chunk(b"iCCP", b"x\0\5" + GARBAGE), b""),
    "large profile": (chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2 ** 21))), b""),
    "large text": (chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2 ** 21))), b""),
    "large text after": (b"", chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2 ** 21)))),
    "short numbers": (b"".join(chunk(kind, b"\1") for kind in (b"gAMA", b"cHRM", b"pHYs")), b""),
    "animation": (chunk(b"acTL", b"") + chunk(b"fcTL", GARBAGE), chunk(b"fdAT", b"")),
    "hex": (chunk(b"tEXt", b"Raw profile type exif\0\nexif\n9\nzz\n"), b""),
    "unknown": (chunk(b"abCd", GARBAGE, 7), b""), "cut": (b"", chunk(b"tEXt", GARBAGE)[:20])}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_is_read_whatever_its_other_chunks_hold(tmp_path, name):
    content = colour_png(*CHUNKS[name])
    (tmp_path / "a.png").write_bytes(content[:-12] if name == "cut" else content)
    assert np.array_equal(flat(tmp_path / "a.png"), PIXELS)


def test_a_webp_is_read_whatever_comes_after_its_pixels(tmp_path):
    for i, content in enumerate([
            colour_webp((b"ICCP", GARBAGE), (b"XMP ", GARBAGE)),
            colour_webp((b"EXIF", TURNED), cut=9), colour_webp((b"EXIF", TURNED), cut=40),
            colour_webp() + GARBAGE,
            colour_webp((b"XMP ", b"<x/>"))[:-12] + b"XMP \xff\xff\xff\x7f<x/>"]):
        (tmp_path / f"{i}.webp").write_bytes(content)
        assert np.array_equal(flat(tmp_path / f"{i}.webp"), PIXELS), i


@pytest.mark.parametrize("tag", [269, 270, 271, 282, 296, 305, 306, 315, 330, 700, 33432, 33723,
                                 34377, 34675, 50838])
@pytest.mark.parametrize("kind", [1, 2, 3, 5, 7, 12, 99])
def test_a_tiff_is_read_whatever_its_other_tags_say(tmp_path, tag, kind):
    for big in (False, True):
        entry = struct.pack("<HQQ" if big else "<HII", kind, 20, 2 ** 31 - 1)
        (tmp_path / "a.tif").write_bytes(colour_tiff(big=big, **{f"t{tag}": entry}))
        assert np.array_equal(flat(tmp_path / "a.tif"), PIXELS)


@pytest.mark.parametrize("marker", [0xe1, 0xe2, 0xed, 0xfe])
@pytest.mark.parametrize("body", [
    b"", GARBAGE, b"Exif\0\0" + GARBAGE, b"ICC_PROFILE\0" + GARBAGE, b"ICC_PROFILE\0", b"MPF\0",
    b"MPF\0" + GARBAGE, b"Photoshop 3.0\0" + b"8BIM" + GARBAGE, b"Photoshop 3.0\0" + b"8BIM\3\xed",
    b"http://ns.adobe.com/xap/1.0/\0" + GARBAGE, b"http://ns.adobe.com/xap/1.0/"], ids=range(11))
def test_a_jpeg_is_read_whatever_its_other_segments_hold(tmp_path, marker, body):
    (tmp_path / "whole.jpg").write_bytes(jpeg())
    (tmp_path / "a.jpg").write_bytes(jpeg((marker, body)))
    assert np.array_equal(flat(tmp_path / "a.jpg"), flat(tmp_path / "whole.jpg"))


@pytest.mark.parametrize("content", [
    colour_png()[:90], colour_png()[:40], colour_webp()[:80], colour_webp()[:40], jpeg()[:-200],
colour_tiff()[:100], colour_tiff(t273=(4, 999)), b"", GARBAGE,
    colour_png().replace(b"IHDR", b"IHDX"), colour_png().replace(b"IDAT", b"IDAX")], ids=range(11))
def test_pixels_that_are_not_whole_are_not_read(tmp_path, content):
    for name in ("a.png", "a.tif", "a.webp", "a.jpg", "a"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises((ValueError, OSError, SyntaxError)):
            read_picture(tmp_path / name, 8, 3)


# ---- large ones ----

@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.filterwarnings("error")
def test_a_photo_above_the_limit_is_decoded_at_half_its_size_or_less(tmp_path, monkeypatch,
                                                                     progressive):
    monkeypatch.setattr(folder, "LARGEST", 64 * 64)
    sizes, original = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: (
        image.tile and sizes.append(image.size), original(image))[1])
    for size in ((64, 64), (100, 100), (128, 128), (129, 128), (500, 500), (512, 512)):
        (tmp_path / "a.jpg").write_bytes(jpeg(size=size, progressive=progressive))
        if progressive and size[0] > 128:                       # libjpeg would keep all of it
            with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels are too many"):
                read(tmp_path / "a.jpg")
            sizes.append(None)
        else:
            assert np.abs(read(tmp_path / "a.jpg") - grey(RAMP)).mean() < 8
    assert sizes == [(64, 64), (50, 50), (64, 64), *([None] * 3 if progressive else [
        (33, 32), (63, 63), (64, 64)])]
    Image.new("L", (65, 64)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="65 x 64 pixels are too many"):
        read(tmp_path / "b.png")
