from PIL import Image

from genie.report import ContactRow, contact_sheet


def row(levels: int, *, source: bool = True) -> ContactRow:
    picture = Image.effect_noise((32, 32), 40).convert("RGB")
    found = [(0.1 * (i + 1), 0.2 * i if source else float("nan"), picture) for i in range(levels)]
    return ContactRow("coat", "bag", picture if source else None, found, levels - 1, picture)


def test_sheet_grows_with_rows_and_levels_and_is_the_same_every_time(tmp_path):
    rows = [row(5), row(3)]
    contact_sheet(rows, tmp_path / "deep/a.png")
    contact_sheet(rows, tmp_path / "b.png")
    contact_sheet(rows[1:], tmp_path / "c.png")
    assert (tmp_path / "deep/a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    wide, small = Image.open(tmp_path / "b.png"), Image.open(tmp_path / "c.png")
    assert wide.width > small.width
    assert wide.height > small.height


def test_text_to_image_has_no_source(tmp_path):
    contact_sheet([row(1, source=False)], tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width > 100


def test_no_images_are_said_so(tmp_path):
    contact_sheet([], tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").getextrema()[0][0] < 128
