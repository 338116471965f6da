from PIL import Image

from genie.figures.contact_sheet import ContactRow
from genie.figures.preview import preview_figure


def flat(grey: int) -> Image.Image:
    return Image.new("RGB", (16, 16), (grey,) * 3)


ROW = ContactRow(
    source_label="photo.jpg",
    target_label="coat",
    source=flat(50),
    levels=[(0.5, 0.1, flat(60)), (0.7, 0.8, flat(70)), (0.9, 0.9, flat(80))],
    chosen=1,
    target=flat(200),
)


def test_each_level_is_labelled_with_ratio_and_position_and_the_choice_is_framed(shown):
    axes = shown(lambda path: preview_figure(ROW, path, example="real")).figure.axes
    assert [axis.get_xlabel() for axis in axes[:5]] == [
        "source\nphoto.jpg",
        "r = 0.5\nd = 0.10",
        "r* = 0.7\nd = 0.80",
        "r = 0.9\nd = 0.90",
        "real\ncoat",
    ]
    framed = [axis.spines["left"].get_visible() for axis in axes[:5]]
    assert framed == [False, False, True, False, False]


def test_curve_shows_positions_by_ratio_and_marks_the_choice(shown):
    curve = shown(lambda path: preview_figure(ROW, path, example="real")).figure.axes[-1]
    line, mark, *_ = curve.lines
    assert line.get_xydata().tolist() == [[0.5, 0.1], [0.7, 0.8], [0.9, 0.9]]
    assert mark.get_xydata().tolist() == [[0.7, 0.8]]
    assert [text.get_text() for text in curve.texts] == ["source", "target"]
