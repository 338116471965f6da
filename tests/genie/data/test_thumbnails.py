import io

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie.core.tables import THUMBNAILS, read_table
from genie.data import thumbnails
from genie.data.thumbnails import SIDE, thumbnail, write_thumbnails


def picture(key: str) -> Image.Image:
    return Image.new("RGB", (40, 40), (int(key) % 256, 100, 200))


def opened(webp: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(webp))
    assert image.format == "WEBP"
    return image


@given(width=st.integers(1, 400), height=st.integers(1, 400))
def test_large_images_are_shrunk_to_the_limit_and_small_ones_keep_their_size(width, height):
    found = opened(thumbnail(Image.new("RGB", (width, height), "red"))).size
    assert max(found) <= SIDE
    if max(width, height) <= SIDE:
        assert found == (width, height)
    else:
        assert max(found) == SIDE


def test_given_picture_is_not_changed():
    image = Image.new("RGB", (300, 200), "red")
    thumbnail(image)
    assert image.size == (300, 200)


def test_each_distinct_key_has_one_row_and_its_own_picture(tmp_path):
    path = tmp_path / "new" / "thumbnails.parquet"
    write_thumbnails(["30", "10", "30", "200"], path, picture_of=picture)
    table = read_table(path, THUMBNAILS)
    assert list(table["key"]) == ["10", "200", "30"]
    for key, webp in zip(table["key"], table["webp"], strict=True):
        red = opened(webp).convert("RGB").getpixel((20, 20))[0]
        assert red == pytest.approx(int(key), abs=4)


def test_same_keys_give_the_same_bytes_in_any_order(tmp_path):
    keys = [str(i) for i in range(30)]
    for name, some in (("a", keys), ("b", keys[::-1])):
        write_thumbnails(some, tmp_path / name, picture_of=picture)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_keys_give_an_empty_table(tmp_path):
    write_thumbnails([], tmp_path / "t.parquet", picture_of=picture)
    assert read_table(tmp_path / "t.parquet", THUMBNAILS).empty


def test_more_keys_than_are_drawn_at_once_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "_AT_ONCE", 7)
    write_thumbnails(map(str, range(20)), tmp_path / "t.parquet", picture_of=picture)
    parts = pq.ParquetFile(tmp_path / "t.parquet").metadata
    assert [parts.row_group(i).num_rows for i in range(parts.num_row_groups)] == [7, 7, 6]
    table = read_table(tmp_path / "t.parquet", THUMBNAILS)
    assert sorted(map(int, table["key"])) == list(range(20))
