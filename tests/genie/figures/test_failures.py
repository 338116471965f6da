import numpy as np
import pandas as pd
from PIL import Image

from genie.data.images import encode_png
from genie.figures.failures import SHOWN, Failure, failure_rows, failure_sheet


def flat(grey: int) -> Image.Image:
    return Image.new("RGB", (16, 16), (grey,) * 3)


def failure(title: str, *, source: int | None = 90, generated: int = 200) -> Failure:
    return Failure(title, None if source is None else flat(source), flat(generated))


def test_source_is_above_the_generated_image_and_below_the_title(shown):
    rows = [failure("one", generated=150), failure("two", source=None)]
    figure = shown(lambda path: failure_sheet(rows, path, judged=5)).figure
    above, below = np.array(figure.axes).reshape(2, 2)
    assert [axis.get_title() for axis in above] == ["one", "two"]
    assert [bool(axis.images) for axis in above] == [True, False]
    assert np.asarray(above[0].images[0].get_array()).mean() == 90
    assert [np.asarray(axis.images[0].get_array()).mean() for axis in below] == [150, 200]


def test_without_failures_the_sheet_has_the_number_of_judged_images(shown):
    assert shown(lambda path: failure_sheet([], path, judged=7)).texts == [
        "the oracle confirms all 7 labels"
    ]
    assert shown(lambda path: failure_sheet([], path, judged=0)).texts == ["not judged"]


def test_failures_are_read_from_the_set_the_surest_first(tmp_path):
    count = SHOWN + 3
    members = pd.DataFrame(
        {
            "key": [f"k{i}" for i in range(count)],
            "label": "coat",
            "source_label": ["bag", ""] + ["bag"] * (count - 2),
            "source_id": ["b", ""] + ["elsewhere"] * (count - 2),
            "r": 0.7,
            "file_name": [f"coat/k{i}.png" for i in range(count)],
        }
    )
    verdicts = members[["key", "label"]].assign(
        verdict="shirt",
        probability=[0.99 - 0.01 * i for i in range(count)],
        consistent=[False] * (count - 1) + [True],
    )
    (tmp_path / "coat").mkdir()
    for i in range(count):
        (tmp_path / f"coat/k{i}.png").write_bytes(encode_png(flat(i)))
    rows = failure_rows(members, verdicts, {"b": encode_png(flat(90))}, folder=tmp_path)
    assert len(rows) == SHOWN
    assert [row.generated.getpixel((0, 0))[0] for row in rows] == list(range(SHOWN))
    assert rows[0].title == "bag → coat\nr = 0.7, verdict shirt"
    assert rows[1].title.startswith("noise → coat")
    assert rows[0].source.getpixel((0, 0))[0] == 90
    assert [row.source for row in rows[1:]] == [None] * (SHOWN - 1)
