import numpy as np
import pytest
from PIL import Image

from genie.figures.contact_sheet import ContactRow
from genie.tools.preview import Preview, Target, preview_lines

GREY = Image.new("RGB", (8, 8))
ROW = ContactRow("photo.jpg", "coat", GREY, [(0.5, 0.1, GREY), (0.75, 0.9, GREY)], 1, GREY)


def test_table_has_a_line_per_level_with_its_shift_and_the_choice():
    lines = preview_lines(Preview(ROW, 1.5, Target([GREY] * 3, drawn=False)))
    assert [line.split() for line in lines[1:3]] == [
        ["0.5", "0.10"],
        ["0.75", "0.90", "+0.80", "<-", "r*"],
    ]
    assert lines[-1] == "Z_T is the mean of 3 support images of coat"


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.09, "unclear"), (1.1, "choice is clear"), (np.nan, "nothing to compare")],
)
def test_choice_is_said_to_be_clear_or_not(ratio, words):
    lines = preview_lines(Preview(ROW, ratio, Target([GREY] * 8, drawn=True)))
    assert words in lines[-2]
    assert "8 Txt2Img images" in lines[-1]
