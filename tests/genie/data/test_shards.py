import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from genie.core.errors import InvalidValueError, MissingFileError
from genie.data.images import decode_image, encode_png
from genie.data.shards import GROUP, ShardRow, Shards, shard_files, write_shards


def rows(count: int, *, length: int = 10) -> list[ShardRow]:
    draw = np.random.default_rng(0)
    return [ShardRow(f"c/{i:02}.png", f"c{i % 2}", draw.bytes(length)) for i in range(count)]


@pytest.mark.parametrize(("size", "counts"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_images_come_back_from_shards_of_the_given_size(tmp_path, size, counts):
    write_shards(rows(5), tmp_path, size=size)
    files = shard_files(tmp_path)
    assert [path.name for path in files] == [f"images-{i:05}.parquet" for i in range(len(counts))]
    assert [pq.read_metadata(path).num_rows for path in files] == counts
    shards = Shards(files)
    assert {name: shards.png(name) for name in shards.places} == {r[0]: r.png for r in rows(5)}


def test_images_are_read_in_any_order(tmp_path):
    many = rows(9, length=GROUP // 2)  # a row group has two of them
    write_shards(iter(many), tmp_path, size=5)
    shards = Shards(shard_files(tmp_path))
    for place in np.random.default_rng(1).integers(0, 9, 40):
        assert shards.png(many[place].file_name) == many[place].png


def test_reading_an_image_reads_no_more_than_a_megabyte_beside_it(tmp_path):
    write_shards(rows(30, length=GROUP // 4), tmp_path, size=30)
    metadata = pq.read_metadata(shard_files(tmp_path)[0])
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert len(groups) == 8
    assert all(group.total_byte_size < 1.1 * GROUP for group in groups)


def test_same_rows_give_the_same_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_shards(rows(7), tmp_path / name, size=3)
    first, second = (shard_files(tmp_path / name) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_no_images_make_no_shard(tmp_path):
    write_shards([], tmp_path, size=3)
    assert shard_files(tmp_path) == []


def test_hugging_face_reads_the_images(tmp_path, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (8, 8), (40 * i, 9, 0)) for i in range(3)]
    given = [ShardRow(f"c/{i}.png", "c", encode_png(image)) for i, image in enumerate(images)]
    write_shards(given, tmp_path, size=2)
    found = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "images-*.parquet"),
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )["train"]
    assert isinstance(found.features["image"], datasets.Image)
    assert list(found["file_name"]) == ["c/0.png", "c/1.png", "c/2.png"]
    assert [row["image"].tobytes() for row in found] == [image.tobytes() for image in images]


def test_set_of_hugging_face_images_in_the_same_layout_has_the_same_columns(tmp_path):
    datasets = pytest.importorskip("datasets")
    png = encode_png(Image.new("RGB", (8, 8)))
    write_shards([ShardRow("c/0.png", "c", png)], tmp_path, size=1)
    features = datasets.Features(
        file_name=datasets.Value("string"), label=datasets.Value("string"), image=datasets.Image()
    )
    image = {"bytes": png, "path": "c/0.png"}
    columns = {"file_name": ["c/0.png"], "label": ["c"], "image": [image]}
    theirs = datasets.Dataset.from_dict(columns, features=features).data.table
    ours = pq.read_table(shard_files(tmp_path)[0])
    assert ours.equals(theirs.cast(ours.schema))
    assert decode_image(ours["image"][0].as_py()["bytes"]).size == (8, 8)


def test_damaged_shard_is_named_with_the_remedy(tmp_path):
    write_shards(rows(2), tmp_path, size=2)
    (path,) = shard_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InvalidValueError, match=r"images-00000.parquet must be .* `genie verify --repair"
    ):
        Shards([path])


def test_image_that_no_shard_has_is_missing(tmp_path):
    write_shards(rows(2), tmp_path, size=2)
    with pytest.raises(MissingFileError, match="no shard has it"):
        Shards(shard_files(tmp_path)).png("c/99.png")
