"""The depth of images with more than 8 bits per sample, and their conversion to 8 bits.

Cameras, scanners and microscopes store samples of 10, 12 or 14 bits in files with 16 or 32 bits,
and most files do not state this depth. If these images were scaled as 16 bits, they would be nearly
black. If each image were scaled by itself, a dark image would become as bright as the others. So
all images of a data set are scaled by the smallest depth that holds all of them. If a file states
its depth, the stated depth is used.
"""

import io
import logging
import struct
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genie.core.errors import InvalidValueError

log = logging.getLogger(__name__)

DEPTHS = (8, 10, 12, 14, 16)
PNG = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT = (b"\xff\xd8", b"GIF8", b"BM", b"RIFF")  # JPEG, GIF, BMP, WebP
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_ORDERS = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_OTHER_ORDER = {
    f"{kind};16{order}": f"{kind};16{other}"
    for kind in ("RGB", "RGBA", "RGBX")
    for order, other in _ORDERS.items()
}


Source = bytes | Path | Image.Image
"""The content of an image file, the path of an image file, or an image."""


def common_depth(sources: Iterable[Source], origin: object) -> int | None:
    """Return the smallest of DEPTHS that holds all images whose files do not state a depth.

    Return None if no such image has more than 8 bits. Images that cannot be read are left out. If
    the depth is less than 16 bits, log a warning that begins with `origin`.
    """
    maybe = [s for s in sources if not isinstance(s, bytes) or _may_be_deep(s)]
    with ThreadPoolExecutor() as threads:
        depth = max((n for n in threads.map(undeclared_depth, maybe) if n), default=None)
    if depth is not None and depth < 16:
        log.warning(
            "%s: images of 16 or 32 bits are read as %d-bit values, the fewest bits that hold all "
            "of them; if they have another depth, save them with 8 bits",
            origin,
            depth,
        )
    return depth


def undeclared_depth(source: Source) -> int | None:
    """Return the depth that an image needs, or None for 8 bits, a stated depth or a broken file."""
    try:
        if isinstance(source, Image.Image):
            return _undeclared(source, b"") if source.mode.startswith("I") else None
        if isinstance(source, Path):
            with source.open("rb") as start:
                if not _may_be_deep(start.read(32)):
                    return None
            source = source.read_bytes()
        if not _may_be_deep(source):
            return None
        with Image.open(io.BytesIO(source)) as image:
            return _undeclared(image, source)
    except Exception:  # decoders can raise anything on damaged bytes; decoding reports it
        return None


def opened(data: bytes, depth: int | None = None) -> Image.Image:
    """Open an image file, and convert samples of more than 8 bits to 8 bits.

    `depth` is the depth of the data set, for files that do not state theirs; if it is None, the
    smallest depth that holds the image is used. Raise InvalidValueError for values beyond the
    depth.
    """
    image = Image.open(io.BytesIO(data))
    if not isinstance(image.info.get("xmp", b""), bytes):
        del image.info["xmp"]  # of another type in TIFF, on which Pillow fails
    return to_eight_bits(image, depth, data=data)


def to_eight_bits(
    image: Image.Image, depth: int | None = None, *, data: bytes = b""
) -> Image.Image:
    """Scale an image of more than 8 bits, so that the largest possible value becomes 255.

    See `opened` for `depth`. `data` is the content of the image file; without it, only greyscale
    images are scaled. Other images are returned unchanged. Raise InvalidValueError for values that
    are negative, not integers, or beyond 16 bits or `depth`.
    """
    raw = _raw_mode(image)
    samples = _samples(image, data)
    if samples is None:
        return image
    colours = samples[..., :3]  # without alpha
    depth = _stated(image, data, colours) or depth or _needed(colours)
    if depth == 16 and image.mode in ("RGB", "RGBA"):
        return image  # of the high bytes
    if ";16" in raw and raw not in _OTHER_ORDER:
        raise InvalidValueError(
            f"Pillow cannot read {depth}-bit values in 16-bit colour of the kind {raw}",
            remedy="save the image with 8 bits",
        )
    eight = _scaled(colours, depth)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        eight = 255 - eight  # 0 is white, which Pillow leaves to us above 8 bits
    if image.mode == "RGBA":  # many writers make samples opaque with 65535 at any depth
        alpha = samples[..., 3:]
        eight = np.dstack([eight, _scaled(alpha, depth if alpha.max() < 2**depth else 16)])
    shallow = Image.fromarray(eight[..., 0] if eight.shape[-1] == 1 else eight)
    shallow.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return shallow


def write_depth(folder: Path, depth: int | None) -> None:
    """Write the depth of a data set to the folder of its images; None removes the file."""
    (folder / "depth.txt").unlink(missing_ok=True)
    if depth is not None:
        (folder / "depth.txt").write_text(f"{depth}\n")


def read_depth(folder: Path) -> int | None:
    """Return the depth that `write_depth` wrote to a folder, or None."""
    file = folder / "depth.txt"
    return int(file.read_text()) if file.is_file() else None


def _undeclared(image: Image.Image, data: bytes) -> int | None:
    samples = _samples(image, data)
    if samples is None or _stated(image, data, samples[..., :3]):
        return None
    return _needed(samples[..., :3])


def _may_be_deep(head: bytes) -> bool:
    if not head or head.startswith(PNG):
        return head[24:25] == b"\x10"  # the bit depth in IHDR
    return not head.startswith(_EIGHT_BIT)


def _samples(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Return the samples (height, width, bands) of an image file, or None if they have 8 bits."""
    if image.mode.startswith(("I", "F")):
        return _values(image)[..., None]
    if not _may_be_deep(data):
        return None
    raw = _raw_mode(image)
    return _wide(image, data, raw) if ";16" in raw else None


def _stated(image: Image.Image, data: bytes, values: np.ndarray) -> int | None:
    """Return the depth that a file states, or None.

    A TIFF file states its depth as BitsPerSample, unless this is only the size of the container.
    Pillow itself scales JPEG 2000 and PNM to 16 bits. In PNG, sBIT is the original depth of samples
    that should be scaled to 16 bits. The low bits show whether the writer has scaled them; many do
    not.
    """
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (16,)))  # type: ignore[attr-defined]
        return bits if bits < 16 else None
    if image.format in ("JPEG2000", "PPM"):
        return 16
    bits = _significant_bits(data)
    if bits is None:
        return None
    unscaled = values.max() < 2**bits and (values % 2 ** (16 - bits)).any()
    return bits if unscaled else 16


def _significant_bits(data: bytes) -> int | None:
    """Return the largest number of bits per colour in the sBIT chunk of a PNG file, or None."""
    at = len(PNG)
    while data.startswith(PNG) and at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"IDAT":
            break
        if name == b"sBIT":
            colours = 3 if length >= 3 else 1  # the others are alpha
            bits = max(data[at + 8 : at + 8 + colours])
            return bits if 1 <= bits <= 16 else None
        at += length + 12
    return None


def _values(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise InvalidValueError(
            f"pixels of mode {image.mode} exceed 16 bits", remedy="save the image with 8 bits"
        )
    return values


def _needed(values: np.ndarray) -> int:
    return next(depth for depth in DEPTHS if values.max() < 2**depth)


def _scaled(values: np.ndarray, depth: int) -> np.ndarray:
    if values.max() >= 2**depth:
        raise InvalidValueError(
            f"its values need {_needed(values)} bits, but those of the data set have {depth}",
            remedy="save the image with 8 bits",
        )
    return np.round(values / ((2**depth - 1) / 255)).astype(np.uint8)


# Colour of 16 bits, of which Pillow decodes only one byte at a time


def _raw_mode(image: Image.Image) -> str:
    arguments = image.tile[0].args if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    if image.mode not in ("RGB", "RGBA"):
        return ""
    return arguments if isinstance(arguments, str) else str(arguments[0])


def _wide(image: Image.Image, data: bytes, raw: str) -> np.ndarray:
    """Return the 16-bit samples of a colour image, of which Pillow decodes only the high bytes.

    For the low bytes, Pillow decodes the image in the other byte order. The low bytes are left at 0
    if Pillow does not support the other order, or if the samples need more than 14 bits.
    """
    high = np.asarray(image).astype(np.uint16) << 8
    other = _OTHER_ORDER.get(raw)
    if other is None or high[..., :3].max() >= 2**14:
        return high
    low = Image.open(io.BytesIO(data))
    low.tile = [part._replace(args=_with_raw_mode(part.args, other)) for part in low.tile]  # type: ignore[attr-defined]
    return high + np.asarray(low)


def _with_raw_mode(arguments: Any, raw: str) -> Any:
    return raw if isinstance(arguments, str) else (raw, *arguments[1:])
