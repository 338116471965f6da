"""Figure of generated images that the oracle assigns to a class other than their label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from genie.data.augmented_set import image_reader
from genie.data.images import decode_image
from genie.figures.canvas import picture, save_figure
from genie.measure.analysis import failures

SHOWN = 10


@dataclass(frozen=True)
class Failure:
    """A generated image, and its source image if there is one."""

    title: str
    source: Image.Image | None
    generated: Image.Image


def failure_rows(
    members: pd.DataFrame, verdicts: pd.DataFrame, png: Mapping[str, bytes], *, folder: Path
) -> list[Failure]:
    """Return the images in `folder` that the oracle assigns to a class other than their label.

    The most confident verdicts come first. `png` maps ids of support images to PNG bytes.
    """
    read_image = image_reader(folder)
    return [
        Failure(
            f"{row.source_label or 'noise'} → {row.label}\nr = {row.r:g}, verdict {row.verdict}",
            decode_image(png[row.source_id]) if row.source_id in png else None,
            read_image(row.file_name),
        )
        for row in failures(members, verdicts, SHOWN).itertuples()
    ]


def failure_sheet(rows: Sequence[Failure], path: Path, *, judged: int) -> None:
    """Write a PNG with one column per failure: the source above the generated image.

    `judged` is the number of images that the oracle judged, which is shown if none failed.
    """
    columns = max(1, len(rows))
    figure = Figure(figsize=(1.5 * columns, 3.4 if rows else 1), dpi=110)
    if not rows:
        text = f"the oracle confirms all {judged} labels" if judged else "not judged"
        figure.text(0.5, 0.5, text, ha="center", va="center")
    else:
        grid = figure.subplots(2, columns, squeeze=False)
        for row, above, below in zip(rows, *grid, strict=True):
            picture(above, row.source, row.title)
            picture(below, row.generated, "")
    save_figure(figure, path)
