import numpy as np
from PIL import Image

from genie.report import (
    ContactRow,
    TrajectoryPanel,
    boundary_figure,
    contact_sheet,
    ratio_figure,
    trajectory_figure,
)


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


def test_figures_are_drawn_with_and_without_images(tmp_path):
    panel = TrajectoryPanel(
        "a → b", np.zeros(2), np.ones(2), np.array([[0.2, 0.1], [0.8, 0.9]]), [0.5, 0.9], 1
    )
    values = np.linspace(0, 1, 9)
    for name, levels, panels, curves in (
        ("full", [("r = 0.5", values, values)], [panel], np.array([[0.1, 0.9]])),
        ("empty", [], [], np.zeros((0, 0))),
    ):
        boundary_figure(levels, tmp_path / f"{name}1.png")
        trajectory_figure(panels, tmp_path / f"{name}2.png")
        ratio_figure(
            [0.9] * len(curves), [0.5, 0.9][: curves.shape[1]], curves, tmp_path / f"{name}3.png"
        )
        for k in (1, 2, 3):
            assert Image.open(tmp_path / f"{name}{k}.png").width > 100
