"""Image ids, PNG encoding and decoding, and conversion to square RGB."""

import hashlib
import io
import warnings
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps

from genie.core.errors import InvalidValueError

warnings.simplefilter("error", Image.DecompressionBombWarning)  # from 89 megapixels on


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
    """Return whether all pixels are black, as after a numeric overflow or a safety checker."""
    return image.convert("RGB").getbbox() is None


def to_square_rgb(image: Image.Image, *, size: int | None = None) -> Image.Image:
    """Convert an image to upright RGB and crop the central square.

    Transparent pixels are blended with white and 16-bit values scaled to 8 bits. The shorter side
    is resized to `size` (Lanczos), or kept if `size` is None.
    """
    upright = _to_rgb(ImageOps.exif_transpose(image))
    return square(upright, size or min(upright.size))


def square(image: Image.Image, size: int) -> Image.Image:
    """Crop the central square of an image and resize it to size x size pixels (Lanczos)."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.LANCZOS)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _sixteen_bit(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit(image: Image.Image) -> Image.Image:
    """Convert 16-bit greyscale to 8 bits, mapping 65535 to 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise InvalidValueError(
            f"pixels of mode {image.mode} exceed 16 bits", remedy="save the image with 8 bits"
        )
    return Image.fromarray(np.round(values / 257).astype(np.uint8))
