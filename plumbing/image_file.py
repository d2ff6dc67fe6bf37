"""A file of a picture, of any kind, becomes a Pillow image and the values of its black and white.

Pillow stops at metadata that it cannot read, and misreads pixels that are not of 8 or 16 bits.  So
it gets no metadata but what may say which way is up, and here is read what the pixels mean.
"""
import contextlib
import io
import os
import struct
import threading
import zlib

from PIL import ExifTags, Image, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

HEAVIEST = 2 ** 30                                   # bytes of a file
# What a folder may hold, by its suffix.  EPS and the like are left out: Pillow runs another program
# to read them; so are raw photos and icons, which are several pictures in one.
FORMATS = {suffix: kind for kind, suffixes in {
    "PNG": ".png .apng", "JPEG": ".jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .mpo",
    "BMP": ".bmp .dib", "GIF": ".gif", "WEBP": ".webp", "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm", "TGA": ".tga", "QOI": ".qoi",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx", "AVIF": ".avif"}.items()
    for suffix in suffixes.split()
    if kind != "AVIF" or "avif" in features.modules and features.check("avif")}
TURNS = dict(zip(range(2, 9), (Image.Transpose[name] for name in (
    "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE",
    "ROTATE_90")), strict=True))                     # by the value of the tag Orientation
LARGE = threading.Lock()                             # held for what takes far more memory
# In TIFF: size, depth, meaning, strips or tiles, compression, range, the way up, palette.
TIFF_TAGS = {*range(256, 260), 262, 266, 273, 274, *range(277, 282), 284, 292, 293, 317, 320,
             *range(322, 326), 332, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533)}


def open_picture(path, largest):
    """Decode the file of a picture, the first one if it has several.

    Args:
        largest: number of pixels; a JPEG of more is decoded at 1/2, 1/4 or 1/8 of its size.

    Returns:
        image: a Pillow image.
        levels: the values (black, white) of its pixels, or None for those of its mode.

    Raises:
        Exception: nearly any, for a file that is damaged, too large, or of no kind in FORMATS.
    """
    if not os.path.isfile(path):
        raise OSError("this is no file")             # to open a pipe would be to wait
    if os.path.getsize(path) > HEAVIEST:
        raise ValueError(f"{os.path.getsize(path)} bytes are too many")
    with open(path, "rb") as f:
        content = f.read()
    alone = contextlib.nullcontext()
    if content.startswith(b"\xff\xd8\xff"):
        image, alone = open_jpeg(content, largest)
    else:
        kinds = {*FORMATS.values()} - {"TGA"}        # which anything might be
        kinds |= {"TGA"} if str(path).lower().endswith(".tga") else set()
        try:
            image = Image.open(io.BytesIO(bare(content)), formats=sorted(kinds))
        except UnidentifiedImageError:               # whose text names no file
            raise ValueError("damaged, or of no kind that is read") from None
    if image.width * image.height > largest:
        raise ValueError(f"{image.width} x {image.height} pixels are too many")
    levels = black_and_white(image, content)
    with alone:
        image.load()
    return image, levels


def open_jpeg(content, largest):
    """Return a JPEG of which at most largest pixels will be decoded, and a context to do it in.

    A larger one will be decoded at 1/2, 1/4 or 1/8 of its size, and need no more memory.  But if it
    is progressive, libjpeg keeps all of it: not above 4 largest, and one at a time.
    """
    image = JpegImageFile(io.BytesIO(bare(content)))         # Image.open refuses 200 megapixels
    W, H = image.size
    by = next((by for by in (1, 2, 4) if -(-W // by) * -(-H // by) <= largest), 8)
    progressive = image.info.get("progressive")
    if by > 1 and not (progressive and by > 2):
        image.draft(None, (W // by, H // by))
    return image, LARGE if by > 1 and progressive else contextlib.nullcontext()


def upright(image):
    """Turn an image the way its camera says, if that can be read."""
    with contextlib.suppress(Exception):
        image = image.transpose(TURNS[image.getexif()[ExifTags.Base.Orientation]])
    return image


# ---- without metadata ----

def bare(content):
    """Return the bytes of a picture file without metadata: a JPEG's, PNG's, WebP's or TIFF's."""
    with contextlib.suppress(IndexError, struct.error):      # cut short: Pillow will say so
        if content.startswith(b"\xff\xd8\xff"):
            return bare_jpeg(content)
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return bare_png(content)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return bare_webp(content)
        if content[:2] in (b"II", b"MM"):
            return bare_tiff(content)
    return content


def bare_jpeg(content):
    """Drop comments and the segments APP2 to APP15, but APP14, by which colours are known."""
    parts, at = [content[:2]], 2
    while content[at] == 0xff and content[at + 1] != 0xda:       # the scans follow
        end = at + 2 + struct.unpack_from(">H", content, at + 2)[0]
        if content[at + 1] not in {*range(0xe2, 0xf0), 0xfe} - {0xee}:
            parts.append(content[at:end])
        at = end
    return b"".join(parts) + content[at:]


def bare_png(content):
    parts, at = [content[:8]], 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body, end = content[at + 8:at + 8 + length], at + 12 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            parts.append(content[at:end])
        elif len(body) == length and (kind == b"eXIf" or body.startswith((
                b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"))):       # maybe the way up
            parts += content[at:at + 8], body, struct.pack(">I", zlib.crc32(kind + body))
        at = end
    return b"".join(parts)


def bare_webp(content):
    parts, at = [], 12
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        end = at + 8 + length + length % 2
        if kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF") or (
                kind in (b"EXIF", b"XMP ") and end <= len(content)):         # maybe the way up
            parts.append(content[at:end])
        at = end
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bare_tiff(content):
    """Keep of the directory of the first picture the entries that tell of pixels, and no other."""
    order, big = "<" if content[:2] == b"II" else ">", 43 in content[2:4]
    number, size, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    at, = struct.unpack_from(order + pointer, content, 8 if big else 4)
    n, = struct.unpack_from(order + number, content, at)
    start, entries = at + struct.calcsize(number), []
    for i in range(start, start + n * size, size):
        tag, = struct.unpack_from(order + "H", content, i)
        if tag in TIFF_TAGS:
            entries.append(content[i:i + size])
    new = struct.pack(order + number, len(entries)) + b"".join(entries) + bytes(8 if big else 4)
    return content[:at] + new + content[at + len(new):]


# ---- what the pixels mean ----

def black_and_white(image, content):
    """Return the values (black, white) of a picture, or None if they are those of its mode.

    Raises:
        ValueError: the file does not say them, or Pillow cannot tell the pixels apart.
    """
    if image.format == "TIFF" and image.mode != "F":
        levels, scaled = levels_of_tiff(image.tag_v2), image.mode.startswith("I")
    elif image.format == "JPEG2000":
        levels, scaled = levels_of_jpeg2000(content), image.mode not in ("P", "PA", "CMYK")
    else:
        return None                                  # those of 16 bits if there are more than 8
    if levels and not scaled:
        raise ValueError(f"{image.mode} pixels from {min(levels):g} to {max(levels):g} "
                         "are not read")
    return levels


def levels_of_tiff(tags):
    """TIFF 6.0, sections 8 and 19.  Unsigned pixels of up to 8 bits are scaled by Pillow."""
    bits, signed = max(tags.get(258, (1,))), 2 in tags.get(339, (1,))
    if bits <= 8 and not signed:
        return None
    low, high = (tags.get(name, tags.get(older)) for name, older in ((340, 280), (341, 281)))
    if high is None and bits <= 16 and not signed:
        high = 2 ** bits - 1,
    if high is None or low is None and signed:
        raise ValueError(f"{'' if signed else 'un'}signed {bits}-bit pixels whose range the file "
                         "does not say")
    low, high = float(min(low or (0,))), float(max(high))
    if not -2 ** 31 <= low < high < 2 ** 32:
        raise ValueError(f"pixels cannot range from {low:g} to {high:g}")
    if tags.get(262, 0) == 0:                        # white is zero
        return high, low
    return None if (low, high) == (0, 2 ** 16 - 1) else (low, high)


def levels_of_jpeg2000(content):
    """ISO 15444-1, A.5.1.  Pillow shifts pixels of fewer bits up, to 8, or to 16 in mode I;16."""
    at = content.find(b"\xff\x4f\xff\x51")             # where the codestream says its size
    channels, = struct.unpack_from(">H", content, at + 40)
    depths = {min(16, (content[at + 42 + 3 * i] & 127) + 1) for i in range(channels)}
    if channels > 1 and min(depths) >= 8 or depths <= {8, 16}:
        return None
    if len(depths) > 1:
        raise ValueError(f"channels of {sorted(depths)} bits are not read")
    bits = depths.pop()
    return 0, (2 ** bits - 1) << ((8 if bits < 8 else 16) - bits)
