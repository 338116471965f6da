"""Large reports, and pictures of a report, by Chromium (Debian: `chromium`) without a window.

    python -m tests.acceptance.large_report plots/report.html

Writes docs/report-light.png, report-dark.png and report-phone.png, which show the given report.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from genie.data.thumbnails import thumbnail
from genie.figures.curves import curves
from genie.figures.gallery import gallery_of
from genie.figures.report import Measured, write_report
from genie.measure.analysis import confusion_change
from genie.plan.levels import Levels

EVIL = "<img src=x onerror=alert(1)>"
CLASSES = ("ankle boot", "bag", "coat", "dress", "pullover", "sandal", "shirt", "猫", EVIL)
RATIOS = Levels().ratios
TEXTURES = 500  # distinct pictures of 96 x 96 pixels, as detailed as photographs


def large_report(path: Path, count: int) -> None:
    """Write a report of `count` cards with five levels each."""
    table, verdicts, support = _tables(count)
    rng = np.random.default_rng(0)
    textures = [thumbnail(_texture(rng)) for _ in range(TEXTURES)]
    keys = [*table["key"], *support["image_id"]]
    webp = dict(zip(keys, islice(cycle(textures), len(keys)), strict=True))
    predictions = support.assign(predicted=np.roll(support["label"], 1))
    interval = {"mean": 0.05, "low": 0.02, "high": 0.08, "n": 5}
    summary = dict.fromkeys(("gain", "gain_boundary", "baseline", "augmented"), interval)
    measured = Measured(
        summary=summary | {"label_consistency": 0.9, "mean_r": 0.7, "images": 1},
        cost=dict.fromkeys(("needed", "guided_steps_needed", "rejected", "short", "images"), count),
        metadata=pd.DataFrame(),
        confusion=confusion_change(predictions, predictions),
        curves=curves(table),
        method="genie",
    )
    write_report(path, gallery_of(table, verdicts, support, png=webp, webp=webp), measured)


def _tables(count: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return trajectories, verdicts and support of `count` slots in five tasks."""
    support = [(t, name, f"real {t} {name}") for t in range(5) for name in CLASSES]
    rng = np.random.default_rng(0)
    rows, verdicts = [], []
    for number in range(count):
        task, (target, source) = number % 5, rng.permutation(CLASSES)[:2]
        chosen, failed = int(rng.integers(1, 5)), rng.random() < 0.1
        slot = {
            "task": task,
            "target_label": target,
            "source_label": source,
            "source_id": f"real {task} {source}",
            "replicate": number,
            "shift_ratio": float(1 + rng.exponential(0.5)),
        }
        for level, r in enumerate(RATIOS):
            place = {"level": level, "r": r, "key": f"{number} {level}", "position": level / 4}
            rows.append(slot | place | {"chosen": level == chosen, "predicted_target": level > 2})
        verdict = source if failed else target
        verdicts.append((f"{number} {chosen}", target, verdict, rng.uniform(0.3, 1), not failed))
    return (
        pd.DataFrame(rows),
        pd.DataFrame(verdicts, columns=["key", "label", "verdict", "probability", "consistent"]),
        pd.DataFrame(support, columns=["task", "label", "image_id"]),
    )


def _texture(rng: np.random.Generator) -> Image.Image:
    """Draw a picture of coarse colours under fine noise."""
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((96, 96), Image.Resampling.BICUBIC), float)
    return Image.fromarray((smooth + rng.normal(0, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium without a window."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program is not None, "chromium is not installed; install it, on Debian with apt-get"
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox does not run as root
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=alone)
        try:
            yield running
        finally:
            running.close()


def opened(page: Page, path: Path) -> list[str]:
    """Open a report until its first pictures are shown; return all messages."""
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
    page.on("requestfailed", lambda request: messages.append(request.url[:80]))
    page.goto(path.resolve().as_uri(), wait_until="load")
    page.locator("#cards li").first.scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#cards img').decode()")
    return messages


def take_pictures(path: Path, folder: Path) -> None:
    """Take pictures of a report: its head in light, its images in dark mode and on a phone."""
    with browser() as running:
        for name, width, height, scheme, place in (
            ("light", 1100, 1500, "light", ""),
            ("dark", 1100, 760, "dark", "#gallery"),
            ("phone", 390, 844, "light", "#gallery"),
        ):
            size = {"width": width, "height": height}
            page = running.new_page(viewport=size, color_scheme=scheme)
            page.goto(path.resolve().as_uri() + place, wait_until="load")
            page.wait_for_timeout(500)  # pictures in view decode
            page.screenshot(path=folder / f"report-{name}.png")


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path("docs"))
