"""Images of more than 8 bits, whose right values are those of numpy."""

import io
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genie.core.errors import InvalidValueError
from genie.data.datasets import labelled_images
from genie.data.depth import common_depth, read_depth, write_depth
from genie.data.images import decode_image
from genie.data.readers import open_square, read_pools


def samples(bits: int, bands: int = 1, seed: int = 0) -> np.ndarray:
    """Random samples (8, 8, bands) of that many bits, from 0 to the largest."""
    made = np.random.default_rng(seed).integers(0, 2**bits, (8, 8, bands), dtype=np.uint16)
    made[0, 0], made[0, 1] = 0, 2**bits - 1
    return made


def eight(values: np.ndarray, bits: int) -> np.ndarray:
    """The RGB pixels that samples of that many bits stand for."""
    return np.broadcast_to(
        np.round(values.astype(float) * 255 / (2**bits - 1)), (*values.shape[:2], 3)
    )


def chunk(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


def png(values: np.ndarray, *extra: bytes) -> bytes:
    """A PNG of 16 bits: grey, grey with alpha, RGB or RGBA, depending on the number of bands."""
    height, width, bands = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body


def tiff(payload: bytes, *, bits: int, bands: int = 1, end: str = "<", white: int = 1) -> bytes:
    """An uncompressed TIFF of 8 x 8 pixels."""
    at = 8 + 2 + 9 * 12 + 4  # of the bits of each band, then of the pixels
    tags = [(256, 8), (257, 8), (258, at if bands > 2 else bits), (259, 1)]
    tags += [(262, 2 if bands > 2 else white), (273, at + 6), (277, bands), (278, 8)]
    tags += [(279, len(payload))]
    out = b"II*\0" if end == "<" else b"MM\0*"
    out += struct.pack(f"{end}LH", 8, len(tags))
    for tag, value in tags:
        short = tag in (258, 259, 262, 277) and value < at
        number = struct.pack(f"{end}HH", value, 0) if short else struct.pack(f"{end}L", value)
        count = bands if tag == 258 and bands > 2 else 1
        kind = 3 if tag in (258, 259, 262, 277) else 4
        out += struct.pack(f"{end}HHL", tag, kind, count) + number
    return out + struct.pack(f"{end}LHHH", 0, *[bits] * 3) + payload


def pixels(data: bytes, depth: int | None = None) -> np.ndarray:
    return np.asarray(open_square(data, size=None, depth=depth))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_depth_is_the_smallest_that_holds_the_values(bits):
    values = samples(bits)
    assert common_depth([png(values)], "x") == bits
    assert pixels(png(values)).tolist() == eight(values, bits).tolist()


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("opaque", [4095, 65535])
def test_colour_of_16_bits_keeps_the_bits_that_pillow_leaves_out(bands, opaque):
    values = samples(12, bands)
    values[..., 3:] = opaque
    assert pixels(png(values)).tolist() == eight(values[..., :3], 12).tolist()


def test_colour_of_full_depth_is_that_of_pillow():
    data = png(samples(16, 3))
    assert pixels(data).tolist() == np.asarray(Image.open(io.BytesIO(data))).tolist()


def test_grey_with_alpha_of_less_depth_is_refused():
    data = png(samples(12, 2))
    with pytest.raises(
        InvalidValueError, match=r"12-bit values in 16-bit colour .*; save the image"
    ):
        pixels(data)


@pytest.mark.parametrize("end", ["<", ">"])
@pytest.mark.parametrize("bands", [1, 3])
def test_tiff_of_both_byte_orders_is_scaled(end, bands):
    values = samples(12, bands)
    data = tiff(values.astype(f"{end}u2").tobytes(), bits=16, bands=bands, end=end)
    assert common_depth([data], "x") == 12
    assert pixels(data).tolist() == eight(values, 12).tolist()


def test_tiff_whose_white_is_0_is_inverted():
    values = samples(12)
    data = tiff(values.astype("<u2").tobytes(), bits=16, white=0)
    assert pixels(data).tolist() == (255 - eight(values, 12)).tolist()


def test_bits_per_sample_of_tiff_state_the_depth():
    values = samples(10)
    packed = "".join(f"{value:012b}" for value in values.ravel())
    data = tiff(int(packed, 2).to_bytes(len(packed) // 8, "big"), bits=12)
    assert common_depth([data], "x") is None
    assert pixels(data, depth=16).tolist() == eight(values, 12).tolist()


@pytest.mark.parametrize("bands", [1, 3])
def test_significant_bits_of_png_state_the_depth(bands):
    values = samples(10, bands)
    data = png(values, chunk(b"sBIT", bytes([12] * bands)))
    assert common_depth([data], "x") is None
    assert pixels(data, depth=16).tolist() == eight(values, 12).tolist()


@pytest.mark.parametrize("bits", [12, 8])  # the second is dark
def test_samples_that_png_scaled_to_16_bits_are_not_scaled_again(bits):
    values = samples(bits) << 4
    data = png(values, chunk(b"sBIT", bytes([12])))
    assert pixels(data) == pytest.approx(eight(values, 16), abs=1)


def test_integers_of_32_bits_may_be_small(tmp_path):
    values = samples(8)[..., 0].astype(np.int32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    data = (tmp_path / "x.tif").read_bytes()
    assert common_depth([data], "x") == 8
    assert pixels(data).tolist() == eight(values[..., None], 8).tolist()


def test_values_that_pillow_scales_itself_are_not_scaled_again():
    values = samples(12)
    data = b"P5 8 8 4095\n" + values.astype(">u2").tobytes()
    assert common_depth([data], "x") is None
    assert pixels(data).tolist() == eight(values, 12).tolist()


def test_values_beyond_the_depth_of_the_data_set_are_refused():
    with pytest.raises(InvalidValueError, match="need 12 bits, but those of the data set have 10"):
        pixels(png(samples(12)), depth=10)


# Data sets


def deep_folder(root: Path) -> Path:
    """Two classes and a test split, of which one image alone needs 12 bits."""
    for part, label, seed, bits in (
        ("train", "a", 0, 10),
        ("train", "b", 1, 8),
        ("test", "a", 2, 12),
        ("test", "b", 3, 10),
    ):
        file = root / part / label / "0.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(png(samples(bits, seed=seed)))
    return root


def test_data_set_has_one_depth_with_a_warning(tmp_path, caplog):
    depths: list[int] = []
    train, test = read_pools(deep_folder(tmp_path), deep=depths.append)
    assert depths == [12]
    assert [r.message for r in caplog.records if "12-bit values" in r.message]
    brightest = [np.asarray(decode_image(data)).max() for data in (*train["png"], *test["png"])]
    assert brightest == [64, 16, 255, 64]


def test_data_set_of_16_or_8_bits_has_no_warning(tmp_path, caplog):
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 8), "red" if label == "a" else "blue").save(tmp_path / label / "0.png")
    depths: list[int] = []
    read_pools(tmp_path, deep=depths.append)
    assert depths == []
    (tmp_path / "a/1.png").write_bytes(png(samples(16)))
    (tmp_path / "a/2.png").write_bytes(png(samples(8)))
    read_pools(tmp_path, deep=depths.append)
    assert depths == [16]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_list_of_images_has_one_depth(caplog):
    images = [Image.fromarray(samples(bits)[..., 0]) for bits in (8, 12)]
    found = labelled_images(list(zip(images, "ab", strict=True)))
    assert [np.asarray(decode_image(data)).max() for data in found.table["png"]] == [16, 255]
    assert "dataset: images of 16 or 32 bits are read as 12-bit values" in caplog.text


@pytest.mark.parametrize("depth", [12, None])
def test_depth_is_kept_beside_the_images(tmp_path, depth):
    write_depth(tmp_path, 14)
    write_depth(tmp_path, depth)
    assert read_depth(tmp_path) == depth
    assert len(list(tmp_path.iterdir())) == (depth is not None)
