import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from genie.core.errors import InvalidValueError
from genie.data.images import (
    decode_image,
    decode_source,
    encode_png,
    image_id,
    is_blank,
    square,
    square_of_file,
    to_square_rgb,
)


def picture(seed: int = 0, width: int = 16, height: int = 16) -> Image.Image:
    """A smooth random picture, which survives JPEG well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_identity_survives_encoding_and_differs_by_content():
    assert image_id(decode_image(encode_png(picture()))) == image_id(picture())
    assert image_id(picture(1)) != image_id(picture())


def test_identity_depends_on_shape_beside_bytes():
    assert image_id(Image.new("RGB", (4, 6))) != image_id(Image.new("RGB", (6, 4)))


def test_transparency_is_composited_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_square_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert to_square_rgb(half).getpixel((0, 0)) == (255, 127, 127)


def test_transparent_palette_colour_is_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30] * 256)
    image.save(tmp_path / "x.png", transparency=0)
    assert to_square_rgb(Image.open(tmp_path / "x.png")).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257], [257 * 128, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    grey = np.asarray(to_square_rgb(Image.open(tmp_path / "x.png")))[:, :, 0]
    assert grey.tolist() == [[0, 1], [128, 255]]


def test_exif_orientation_is_honoured(tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    image.save(tmp_path / "x.png", exif=exif)
    upright = to_square_rgb(Image.open(tmp_path / "x.png"))
    assert upright.getpixel((4, 7)) == (255, 255, 255)
    assert upright.getpixel((4, 0)) == (0, 0, 0)


@pytest.mark.parametrize(("shape", "size", "side"), [((40, 20), 10, 10), ((40, 20), None, 20)])
def test_wide_picture_is_cropped_at_its_centre(shape, size, side):
    image = Image.new("RGB", shape, "black")
    image.paste("white", (10, 0, 30, 20))
    centre = np.asarray(to_square_rgb(image, size=size))
    assert centre.shape == (side, side, 3)
    assert centre[:, 2:-2].min() >= 254


def test_small_picture_is_enlarged_to_size():
    assert to_square_rgb(picture(0), size=64).size == (64, 64)


def test_square_picture_of_the_size_stays_as_it_is():
    own = picture(0, 16, 16)
    assert square(own, 16) is own
    assert square(picture(0, 24, 16), 8).size == (8, 8)


def test_pixels_beyond_16_bits_are_refused():
    with pytest.raises(InvalidValueError, match="exceed 16 bits; save the image with 8 bits"):
        to_square_rgb(Image.fromarray(np.full((4, 4), 70_000, np.int32)))


def test_source_is_decoded_by_the_id_of_its_pixels():
    own = picture(3)
    found = decode_source({image_id(own): encode_png(own)}, image_id(own))
    assert found.tobytes() == own.tobytes()


@pytest.mark.parametrize(
    "png", [b"", b"text", encode_png(picture(3))[:-40], encode_png(picture(4))]
)
def test_source_with_other_pixels_than_its_id_names_is_an_error_with_a_remedy(png):
    name = image_id(picture(3))
    with pytest.raises(InvalidValueError, match=f"source image {name} .* is damaged; run `dvc"):
        decode_source({name: png}, name)


def test_blank_image_is_black_in_all_pixels():
    assert is_blank(Image.new("RGB", (4, 4)))
    assert not is_blank(picture())


def test_png_of_a_picture_is_the_same_bytes_every_time():
    assert encode_png(picture(3)) == encode_png(picture(3))
    assert (np.asarray(decode_image(encode_png(picture(3)))) == np.asarray(picture(3))).all()


# Metadata


def half_white() -> Image.Image:
    """A picture whose upper half is white."""
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))
    return image


def chunk(name: bytes, data: bytes, *, check: int = 0) -> bytes:
    """A chunk of PNG; `check` is added to its checksum."""
    total = (zlib.crc32(name + data) + check) % 2**32
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", total)


def entry(tag: int, kind: int, value: bytes, *, count: int = 1) -> bytes:
    return struct.pack("<HHL", tag, kind, count) + value


def exif(*entries: bytes) -> bytes:
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return head + b"".join(entries) + b"\0\0\0\0"


TURNED = entry(0x112, 3, b"\x03\0\0\0")  # by 180 degrees
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="3"/>'
LONG = b"a" * (3 << 20)


def png_with(*chunks: bytes) -> bytes:
    data = encode_png(half_white())
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    buffer = io.BytesIO()
    half_white().save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    extra = [bytes((0xFF, n)) + struct.pack(">H", len(s) + 2) + s for n, s in segments]
    return data[:2] + b"".join(extra) + data[2:]


def saved(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    half_white().save(buffer, kind, **options)
    return buffer.getvalue()


def is_turned(data: bytes) -> bool:
    found = np.asarray(square_of_file(data)).astype(int)
    rows = found[:4].mean() > 128, found[4:].mean() > 128
    assert rows in ((True, False), (False, True))
    return rows == (False, True)


@pytest.mark.parametrize(
    ("data", "turned"),
    [
        (png_with(chunk(b"eXIf", exif(TURNED))), True),
        (png_with(chunk(b"eXIf", exif(TURNED)[8:])), False),  # no header
        (png_with(chunk(b"eXIf", b"a text")), False),
        (png_with(chunk(b"eXIf", b"a text"), chunk(b"iTXt", XMP)), True),
        (png_with(chunk(b"eXIf", exif(TURNED), check=1)), False),
        (png_with(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 10\nzz\n")), False),
        (png_with(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 10\nabc\n")), False),
        (png_with(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG))), False),
        (png_with(chunk(b"iTXt", XMP[:18] + b"\1\0\0\0" + zlib.compress(LONG + XMP[22:]))), True),
        (encode_png(half_white())[:-12] + chunk(b"tEXt", b"a\0b", check=1), False),  # at the end
        (png_with(chunk(b"tEXt", b"a\0b", check=1), chunk(b"eXIf", exif(TURNED))), True),
        (png_with(chunk(b"iCCP", b"name\0\0" + zlib.compress(LONG))), False),
        (png_with(chunk(b"pHYs", b"")), False),
        (saved("WEBP", exif=b"no header at all", lossless=True), False),
    ],
)
def test_metadata_that_cannot_be_read_does_not_matter(data, turned):
    assert is_turned(data) is turned


def test_text_beyond_64_megabytes_is_left_out():
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (65 << 20), 1))
    assert is_turned(png_with(text, chunk(b"eXIf", exif(TURNED))))


@pytest.mark.parametrize(
    "odd",
    [
        entry(0x102, 9, b"\xff\xff\xff\xff"),  # a negative number of bits
        entry(0x11A, 2, b"abc\0", count=4),  # a resolution as text
        entry(0x128, 11, b"\0\0\x80\x3f"),  # a unit as float
        entry(0x10F, 99, b"abcd"),  # a type that does not exist
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_odd_tags_leave_the_orientation(odd, place):
    tags = [TURNED, odd] if place else [odd, TURNED]
    assert is_turned(jpeg_with((0xE1, b"Exif\0\0" + exif(*tags))))
    assert is_turned(saved("WEBP", exif=exif(*tags), lossless=True))


@pytest.mark.parametrize(
    "segment", [(0xED, b"Photoshop 3.0\x008BIMxx"), (0xE0, b"JFIF\0"), (0xEE, b"Adobe")]
)
def test_broken_segments_of_jpeg_do_not_matter(segment):
    assert is_turned(jpeg_with((0xE1, b"Exif\0\0" + exif(TURNED)), segment))


def test_damaged_pixels_are_an_error_as_before():
    data = png_with(chunk(b"tEXt", b"a\0b", check=1))
    with pytest.raises(Exception, match="truncated"):
        square_of_file(data[: len(data) - 30])


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60)])
def test_wide_and_tall_photographs_become_square_as_asked(width, height):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(noise)
    centre = to_square_rgb(image)
    left, top = (width - 40) // 2, (height - 40) // 2
    assert np.array_equal(centre, noise[top : top + 40, left : left + 40])
    padded = np.asarray(to_square_rgb(image, crop="pad"))
    assert padded.shape == (60, 60, 3)
    rows, columns = (60 - height) // 2, (60 - width) // 2
    assert np.array_equal(padded[rows : rows + height, columns : columns + width], noise)
    assert padded.sum() == noise.sum(dtype=int) + 255 * 3 * (60 * 60 - width * height)
    squashed = to_square_rgb(image, crop="squash", size=20)
    assert np.array_equal(squashed, image.resize((20, 20), Image.Resampling.LANCZOS))
