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
