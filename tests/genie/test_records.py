import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.errors import GenieError
from genie.records import (
    MEMBER_COLUMNS,
    TASK_COLUMNS,
    decode_png,
    encode_png,
    image_id,
    read_images,
    read_table,
    write_table,
)


def picture(seed: int = 0, size: tuple[int, int] = (4, 6)) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def test_identity_survives_encoding_and_differs_by_content():
    assert image_id(decode_png(encode_png(picture()))) == image_id(picture())
    assert image_id(picture(1)) != image_id(picture())


def test_identity_depends_on_shape_beside_bytes():
    assert image_id(Image.new("RGB", (4, 6))) != image_id(Image.new("RGB", (6, 4)))


def test_class_names_come_back_as_they_were(tmp_path):
    names = ["007", "None", "a, b", "T-shirt/top", "Äpfel"]
    table = pd.DataFrame({"task": 0, "role": "support", "image_id": list("abcde"), "label": names})
    write_table(table, tmp_path / "tasks.csv", columns=TASK_COLUMNS)
    assert list(read_table(tmp_path / "tasks.csv", columns=TASK_COLUMNS)["label"]) == names


def test_wrong_column_is_named_with_its_file(tmp_path):
    (tmp_path / "members.csv").write_text("task,label\n")
    with pytest.raises(GenieError, match=r"members\.csv must have the column 'key'"):
        read_table(tmp_path / "members.csv", columns=MEMBER_COLUMNS)


def test_missing_table_says_how_to_make_it(tmp_path):
    with pytest.raises(GenieError, match=r"images\.parquet does not exist; run `dvc repro`"):
        read_images(tmp_path)


@pytest.mark.parametrize("text", [b"", b"a,b\n1,2,3,4\n5,6,7,8,9,10\n", b"a,b\n\xff\xfe,1\n"])
def test_malformed_csv_is_named(tmp_path, text):
    path = tmp_path / "names.csv"
    path.write_bytes(text)
    with pytest.raises(GenieError, match=r"names\.csv must"):
        read_table(path, columns=("a", "b"))
