import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from genie.data.images import decode_image
from genie.figures.canvas import save_figure
from genie.figures.fonts import families_for

CAT, NOBODY = "\U0001f9ec", "\U00012031"  # what we make a font for; a cuneiform sign


@pytest.fixture
def boxes(tmp_path, monkeypatch) -> str:
    """An installed font in which CAT is a black box, and all others are missing."""
    pen = TTGlyphPen(None)
    for move, point in zip("mlll", [(0, 0), (0, 1000), (1000, 1000), (1000, 0)], strict=True):
        {"m": pen.moveTo, "l": pen.lineTo}[move](point)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "box"])
    font.setupCharacterMap({ord(CAT): "box"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "box": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "box": (1000, 0)})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": "Boxes of Cats", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "boxes.ttf")
    fonts = font_manager.fontManager
    monkeypatch.setattr(fonts, "ttflist", list(fonts.ttflist))
    fonts.addfont(tmp_path / "boxes.ttf")
    return "Boxes of Cats"


def ink(title: str, path) -> int:
    """Dark pixels of a figure that shows a title alone."""
    figure = Figure(figsize=(3, 1))
    figure.text(0.2, 0.2, title, fontsize=30)
    save_figure(figure, path)
    return int((np.asarray(decode_image(path.read_bytes())) < 100).all(2).sum())


def test_name_is_drawn_in_an_installed_font_that_has_its_characters(boxes, tmp_path, caplog):
    assert families_for({CAT}) == ([boxes], set())
    side = 30 * 100 / 72  # points to pixels
    drawn = ink(f"coat {CAT}", tmp_path / "a.png") - ink("coat", tmp_path / "b.png")
    assert drawn == pytest.approx(side**2, rel=0.1)
    assert not caplog.records


def test_character_without_any_font_is_named_with_a_remedy(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        ink(f"a {NOBODY} b", tmp_path / "a.png")
    (record,) = caplog.records
    assert NOBODY in record.getMessage()
    assert "install one" in record.getMessage()


def test_names_that_the_default_font_has_need_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("asked for fonts"))
    assert ink("Größe Ελλάδα кот", tmp_path / "a.png") > 0
    assert families_for(set()) == ([], set())
