import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from genie.core.progress import silent
from genie.data import checks
from genie.data.checks import check_images
from genie.data.readers import read_pools


def encoded(kind: str, mode: str = "RGB", *, seed: int = 0, **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format=kind, **options)
    return buffer.getvalue()


def sixteen_bits(kind: str, values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=kind)
    return buffer.getvalue()


JPEG, PNG = encoded("JPEG"), encoded("PNG")
RAMP = np.arange(64).reshape(8, 8)
FILES: dict[str, bytes] = {
    "whole.jpg": JPEG,
    "grey.jpg": encoded("JPEG", "L"),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "zeros after the end.jpg": JPEG + bytes(100),
    "video after the end.jpg": JPEG + b"video" * 1000,
    "without the mark of the end.jpg": JPEG[:-2],
    "half.jpg": JPEG[: len(JPEG) // 2],
    "head.jpg": JPEG[:300],
    "half.png": PNG[: len(PNG) // 2],
    "without its last chunk.png": PNG[:-12],
    "transparent.png": encoded("PNG", "RGBA"),
    "palette.png": encoded("PNG", "P"),
    "sixteen.png": sixteen_bits("PNG", (RAMP * 1000).astype(np.uint16)),
    "beyond sixteen.tif": sixteen_bits("TIFF", (RAMP * 2000).astype(np.int32)),
    "half.webp": encoded("WEBP")[:500],
    "whole.webp": encoded("WEBP"),
    "whole.bmp": encoded("BMP"),
    "half.bmp": encoded("BMP")[:500],
    "empty.jpg": b"",
    "page.jpg": b"<html>not found</html>",
    "png by content.jpg": PNG,
}


def two_classes(folder: Path, files: dict[str, bytes], *, seed: int = 1) -> Path:
    for number, label in enumerate("ab"):
        (folder / label).mkdir(parents=True)
        (folder / label / "base.png").write_bytes(encoded("PNG", seed=seed + number))
    for name, content in files.items():
        (folder / "a" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_an_image_is_reported_where_a_run_could_not_read_it(tmp_path, name):
    path = two_classes(tmp_path, {name: FILES[name]})
    skipped: list[pd.DataFrame] = []
    read_pools(path, broken=skipped.append)
    expected = [(row.file, row.reason) for table in skipped for row in table.itertuples()]
    found = check_images(path)
    assert found.broken == expected
    assert (found.count, found.step) == (3, 1)


def test_half_of_the_kinds_of_files_can_be_read(tmp_path):
    broken = check_images(two_classes(tmp_path, FILES)).broken
    assert len(FILES) / 4 < len(broken) < len(FILES) / 1.5


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    decoded: list[str] = []
    load: Callable[..., object] = JpegImageFile.load

    def counted(image: Image.Image, *args: object) -> object:
        decoded.append(str(image.format))
        return load(image, *args)

    monkeypatch.setattr(JpegImageFile, "load", counted)
    return decoded


def test_of_many_images_a_sample_is_decoded_but_every_end_is_checked(tmp_path, monkeypatch):
    files = {f"{i:02}.jpg": JPEG for i in range(40)} | {
        "13.jpg": JPEG[: len(JPEG) // 2],
        "14.png": PNG[:-500],
    }
    path = two_classes(tmp_path, files)
    decoded = counting(monkeypatch)
    monkeypatch.setattr(checks, "DECODED_BYTES", 42 * len(JPEG) / 10)
    monkeypatch.setattr(checks, "LOOKED_AT", 0)
    found = check_images(path)
    assert {Path(place).name for place, _ in found.broken} == {"13.jpg", "14.png"}
    assert found.step >= 10
    assert len(decoded) <= 40 / 8 + 1  # the broken one, once more without its metadata


def test_progress_counts_the_images_of_both_splits(tmp_path):
    for seed, part in ((1, "train"), (5, "test")):
        two_classes(tmp_path / part, {}, seed=seed)
    seen: list[tuple[str, int]] = []

    def progress(items, label, *, total, unit="", weight=None, whole=False):
        seen.append((label, total))
        return silent(items, label, total=total)

    assert check_images(tmp_path, progress=progress).count == 4
    assert seen == [("checking images", 4)]
