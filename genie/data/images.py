"""Image ids, PNG encoding and decoding, and conversion to square RGB."""

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from typing import Literal

from PIL import Image, ImageOps, PngImagePlugin

from genie.core.errors import InvalidValueError
from genie.data.depth import PNG, opened, to_eight_bits

warnings.simplefilter("error", Image.DecompressionBombWarning)  # from 89 megapixels on
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # 64 MB; editors write above 1 MB

Crop = Literal["centre", "pad", "squash"]
"""How images become square: by cutting off their ends, adding white borders, or distortion."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP = ("XML:com.adobe.xmp", "xmp")
_KEPT = (b"tRNS", b"eXIf", b"sBIT")


def image_id(image: Image.Image) -> str:
    """Return the SHA-256 (hex) of an image's size and RGB bytes, regardless of its file format."""
    size = f"{image.width}x{image.height}".encode()
    return hashlib.sha256(size + image.convert("RGB").tobytes()).hexdigest()


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as RGB PNG; the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_image(data: bytes) -> Image.Image:
    """Decode the bytes of an image file to RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def decode_source(sources: Mapping[str, bytes], name: str) -> Image.Image:
    """Decode the source image with an image_id.

    Raise InvalidValueError if the hash of its pixels is not the image_id.
    """
    try:
        image = decode_image(sources[name])
    except (OSError, SyntaxError, ValueError):
        image = None
    if image is None or image_id(image) != name:
        raise InvalidValueError(
            f"source image {name} in data/prepared/support must match its image_id, the hash of "
            "its pixels, but it is damaged",
            remedy="run `dvc repro --force prepare`, then `dvc repro`",
        )
    return image


def is_blank(image: Image.Image) -> bool:
    """Return whether all pixels are black, as a numeric overflow or a safety checker makes them."""
    return image.convert("RGB").getbbox() is None


def square_of_file(
    data: bytes, *, size: int | None = None, crop: Crop = "centre", depth: int | None = None
) -> Image.Image:
    """Decode an image file and convert it with `to_square_rgb`.

    An image whose metadata cannot be read is still decoded. `depth` is the number of bits per
    sample in the data set, for files with more than 8 bits that do not state it.
    """
    try:
        with opened(data, depth) as image:
            return to_square_rgb(image, size=size, crop=crop)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, InvalidValueError):
        raise
    except Exception:  # decoders can raise anything
        bare = _without_metadata(data)
        if bare == data:
            raise
        with opened(bare, depth) as image:
            return to_square_rgb(image, size=size, crop=crop)


def to_square_rgb(
    image: Image.Image,
    *,
    size: int | None = None,
    crop: Crop = "centre",
    depth: int | None = None,
) -> Image.Image:
    """Convert an image to a square, upright RGB image.

    Transparent pixels are blended with white. Greyscale images of more than 8 bits are scaled from
    `depth` bits to 8 (see `to_eight_bits`). The square has `size` pixels per side (Lanczos). If
    `size` is None, the side of the square is the shorter side of the image, or the longer side if
    `crop` is "pad".
    """
    upright = _to_rgb(_upright(to_eight_bits(image, depth)))
    side = size or (max(upright.size) if crop == "pad" else min(upright.size))
    if crop == "centre" or upright.width == upright.height:
        return square(upright, side)
    if crop == "pad":
        return ImageOps.pad(upright, (side, side), method=Image.Resampling.LANCZOS, color="white")
    return upright.resize((side, side), Image.Resampling.LANCZOS)


def _upright(image: Image.Image) -> Image.Image:
    """Rotate an image by its EXIF data; unlike `ImageOps.exif_transpose`, write no EXIF data."""
    image.load()  # which turns TIFF
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that makes an image upright, from EXIF or XMP data, or None."""
    beside = Image.new("1", (1, 1))  # has XMP alone, which Pillow does not reach after an error
    beside.info = {name: image.info[name] for name in _XMP if name in image.info}
    for one in (image, beside):
        try:
            return _TURNS.get(one.getexif().get(_ORIENTATION, 1))
        except Exception:  # any error of damaged metadata
            continue
    return None


def square(image: Image.Image, size: int) -> Image.Image:
    """Crop the central square of an image and resize it to size x size pixels (Lanczos)."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.LANCZOS)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _without_metadata(data: bytes) -> bytes:
    """Remove metadata that affects neither pixels nor orientation from a PNG or JPEG file."""
    if data.startswith(PNG):
        return _bare_png(data)
    return _bare_jpeg(data) if data.startswith(b"\xff\xd8") else data


def _bare_png(data: bytes) -> bytes:
    kept, at = [PNG], len(PNG)
    while at + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at : at + 12 + length]
        whole = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if name[:1].isupper() or (name in _KEPT and whole):
            kept.append(chunk)
        at += 12 + length
    return b"".join(kept) + data[at:]


def _bare_jpeg(data: bytes) -> bytes:
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:  # start of scan
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        content = data[at + 4 : end]
        known = content.startswith(b"Exif") or (content.startswith(b"Adobe") and len(content) > 11)
        if known or not (0xE0 <= data[at + 1] <= 0xEF or data[at + 1] == 0xFE):
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + data[at:]
