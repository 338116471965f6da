import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.data.images import encode_png
from genie.figures.contact_sheet import ContactRow, contact_rows, contact_sheet

FRAME = (214, 39, 40)  # matplotlib's tab:red


def flat(grey: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (grey,) * 3)


def row(levels: int, *, chosen: int = 0, source: bool = True) -> ContactRow:
    found = [(0.1 * (i + 1), 0.2 * i if source else np.nan, flat(40 * i)) for i in range(levels)]
    return ContactRow("coat", "bag", flat(90) if source else None, found, chosen, flat(220))


def pixels(axis) -> np.ndarray:
    """What stands on an axis, or nothing."""
    return np.asarray(axis.images[0].get_array()) if axis.images else np.zeros(0)


def framed(axes) -> list[int]:
    return [i for i, axis in enumerate(axes) if axis.axison and axis.spines["left"].get_visible()]


def test_row_shows_the_source_every_level_and_a_real_target(shown):
    axes = shown(lambda path: contact_sheet([row(3)], path)).figure.axes
    assert [pixels(axis).mean() for axis in axes] == [90, 0, 40, 80, 220]
    assert [axis.get_title() for axis in axes] == [
        *("source\ncoat", "r = 0.1\nd = 0.00", "r = 0.2\nd = 0.20"),
        *("r = 0.3\nd = 0.40", "target\nbag"),
    ]


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_chosen_level_and_no_other_is_framed(shown, chosen):
    drawn = shown(lambda path: contact_sheet([row(3, chosen=chosen)], path))
    assert framed(drawn.figure.axes) == [1 + chosen]
    red = (np.asarray(Image.open(drawn.path).convert("RGB")) == FRAME).all(2)
    width = red.shape[1] / 5  # source, three levels, target
    columns = np.flatnonzero(red.sum(0) > 20)
    assert (columns >= width * (1 + chosen) - 4).all()
    assert (columns <= width * (2 + chosen) + 4).all()
    assert len(columns)


def test_shorter_row_leaves_its_last_places_empty(shown):
    figure = shown(lambda path: contact_sheet([row(3), row(1)], path)).figure
    axes = np.array(figure.axes).reshape(2, 5)
    assert [axis.axison for axis in axes[1]] == [True, True, False, False, True]
    assert pixels(axes[1, -1]).mean() == 220


def test_text_to_image_has_neither_a_source_nor_positions(shown):
    axes = shown(lambda path: contact_sheet([row(1, source=False)], path)).figure.axes
    assert [pixels(axis).size > 0 for axis in axes] == [False, True, True]
    assert [axis.get_title() for axis in axes] == ["", "r = 0.1", "target\nbag"]


def test_sheet_without_images_has_a_text_for_it(shown):
    drawn = shown(lambda path: contact_sheet([], path))
    assert drawn.texts == ["no images were generated"]


def test_same_rows_are_the_same_bytes_and_another_choice_is_another_picture(tmp_path):
    for name, chosen in (("a", 0), ("b", 0), ("c", 1)):
        contact_sheet([row(2, chosen=chosen)], tmp_path / f"{name}.png")
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again
    assert first != other


IMAGES = pd.DataFrame(
    [(f"image of {label}", label, encode_png(flat(grey)))
     for grey, label in ((10, "bag"), (20, "coat"), (30, "shirt"))],
    columns=["image_id", "label", "png"],
)  # fmt: skip
SUPPORT = IMAGES.assign(task=0).drop(columns="png")


def trajectories() -> pd.DataFrame:
    """Every ordered pair of three classes in two tasks, two levels, the second one chosen."""
    names = list(IMAGES["label"])
    return pd.DataFrame(
        [
            {
                "task": task,
                "target_label": target,
                "source_label": source,
                "source_id": f"image of {source}",
                "replicate": 0,
                "level": level,
                "r": 0.5 + 0.2 * level,
                "position": 0.4 * level,
                "key": f"{source} {target} {level}",
                "chosen": level == 1,
            }
            for task in (0, 1)
            for target in names
            for source in names
            if source != target
            for level in (0, 1)
        ]
    )


def rows_of(table: pd.DataFrame) -> list[ContactRow]:
    return contact_rows(table, IMAGES, SUPPORT, picture_of=lambda key: flat(100 + len(key)))


def test_sheet_has_a_trajectory_of_each_target_of_the_first_task():
    rows = rows_of(trajectories())
    assert [r.target_label for r in rows] == ["bag", "coat", "shirt"]
    assert len({r.source_label for r in rows}) > 1
    for r in rows:
        assert [(noise, position) for noise, position, _ in r.levels] == [(0.5, 0.0), (0.7, 0.4)]
        assert r.chosen == 1
        grey = dict(zip(IMAGES["label"], (10, 20, 30), strict=True))
        assert r.source.getpixel((0, 0))[0] == grey[r.source_label]
        assert r.target.getpixel((0, 0))[0] == grey[r.target_label]
        key = f"{r.source_label} {r.target_label} 0"
        assert r.levels[0][2].getpixel((0, 0))[0] == 100 + len(key)


def test_target_whose_images_were_all_rejected_has_no_row():
    table = trajectories()
    table["chosen"] &= table["target_label"] != "coat"
    assert [r.target_label for r in rows_of(table)] == ["bag", "shirt"]
    assert rows_of(table.iloc[:0]) == []


def test_level_without_a_source_has_no_source_picture():
    text = trajectories().assign(source_id=None, source_label=None, position=np.nan)
    first = rows_of(text[text["source_label"].isna() & (text["level"] == 1)])[0]
    assert first.source is None
    assert first.source_label == ""
