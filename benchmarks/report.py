"""How large a report of 5,000 images is, and how fast a browser opens and filters it.

    python -m benchmarks.report
    dvc repro && python -m benchmarks.report --pictures plots/report.html

Needs Chromium (Debian's package `chromium`), which it drives without a window.
Out: benchmarks/report.csv, a row of measurements. With --pictures: docs/report-light.png,
report-dark.png and report-phone.png, which show the given report.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import click
import numpy as np
import pandas as pd
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from genie.core.errors import GenieError
from genie.core.tables import Schema, write_table
from genie.data.thumbnails import thumbnail
from genie.figures.curves import curves
from genie.figures.gallery import gallery_of
from genie.figures.report import Measured, write_report
from genie.measure.analysis import confusion_change
from genie.plan.levels import Levels

MEASURED: Schema = {
    "cards": int,
    "pictures": int,
    "megabytes": float,
    "write_seconds": float,
    "open_seconds": float,
    "filter_milliseconds": float,
    "console_messages": int,
}
CLASSES = (
    "ankle boot",
    "bag",
    "coat",
    "dress",
    "pullover",
    "sandal",
    "shirt",
    "sneaker",
    "猫",
    "<img src=x onerror=alert(1)>",
)
RATIOS = Levels(0.5, 0.9, 5).ratios
TEXTURES = 500  # distinct pictures of 96 x 96 pixels, as detailed as photographs
TRIALS = 3
FILTERS = ("target", "source", "ratio", "outcome", "choice", "task")


def large_report(path: Path, count: int) -> int:
    """Write a report of `count` cards with five levels each; return its number of pictures."""
    table, verdicts, support = large_tables(count)
    rng = np.random.default_rng(0)
    textures = [thumbnail(texture(rng)) for _ in range(TEXTURES)]
    keys = [*table["key"], *support["image_id"]]
    webp = dict(zip(keys, islice(cycle(textures), len(keys)), strict=True))
    gallery = gallery_of(table, verdicts, support, png=webp, webp=webp)
    predictions = support.assign(predicted=np.roll(support["label"], 1))
    interval = {"mean": 0.05, "low": 0.02, "high": 0.08, "n": 5}
    summary = dict.fromkeys(("gain", "gain_boundary", "baseline", "augmented"), interval)
    measured = Measured(
        summary=summary | {"label_consistency": 0.9, "mean_r": 0.7},
        cost=dict.fromkeys(("needed", "guided_steps_needed", "rejected", "short", "images"), count),
        metadata=pd.DataFrame(),
        confusion=confusion_change(predictions, predictions),
        curves=curves(table),
    )
    write_report(path, gallery, measured)
    return len(gallery.images)


def large_tables(count: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return trajectories, verdicts and support of `count` slots in five tasks."""
    support = pd.DataFrame(
        [
            {"task": task, "label": name, "image_id": f"real {task} {name}"}
            for task in range(5)
            for name in CLASSES
        ]
    )
    rng = np.random.default_rng(0)
    rows, verdicts = [], []
    for number in range(count):
        task, target, source = number % 5, *rng.permutation(len(CLASSES))[:2]
        chosen, failed = int(rng.integers(1, 5)), rng.random() < 0.1
        rows += [
            {
                "task": task,
                "target_label": CLASSES[target],
                "source_label": CLASSES[source],
                "source_id": f"real {task} {CLASSES[source]}",
                "replicate": number,
                "level": level,
                "r": r,
                "key": f"{number} {level}",
                "position": level / 4,
                "shift_ratio": float(1 + rng.exponential(0.5)),
                "chosen": level == chosen,
                "predicted_target": level > 2,
            }
            for level, r in enumerate(RATIOS)
        ]
        verdicts.append(
            {
                "key": f"{number} {chosen}",
                "label": CLASSES[target],
                "verdict": CLASSES[source if failed else target],
                "probability": float(rng.uniform(0.3, 1)),
                "consistent": not failed,
            }
        )
    return pd.DataFrame(rows), pd.DataFrame(verdicts), support


def texture(rng: np.random.Generator) -> Image.Image:
    """Draw a picture of coarse colours under fine noise."""
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((96, 96), Image.Resampling.BICUBIC), float)
    return Image.fromarray((smooth + rng.normal(0, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium without a window; raise GenieError if it is not installed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise GenieError("chromium is not installed; install it, on Debian with apt-get")
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox does not run as root
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=alone)
        try:
            yield running
        finally:
            running.close()


def opened(page: Page, path: Path) -> tuple[float, list[str]]:
    """Open a report; return the seconds until its first pictures are shown, and all messages."""
    messages: list[str] = []

    def noted(dialog: Dialog) -> None:
        messages.append(dialog.message)
        dialog.dismiss()

    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", noted)
    page.on("requestfailed", lambda request: messages.append(request.url[:80]))
    start = time.perf_counter()
    page.goto(path.resolve().as_uri(), wait_until="load")
    page.locator("#cards li").first.scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#cards img').decode()")
    return time.perf_counter() - start, messages


FILTER = """async ([id, index]) => {
  const select = document.getElementById(id);
  const start = performance.now();
  select.selectedIndex = index;
  select.dispatchEvent(new Event("change", { bubbles: true }));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""


def slowest_filter(page: Page) -> float:
    """Return the milliseconds until the next frame is drawn, of the slowest of all filters.

    The best of three trials counts, as other programs share the processor.
    """
    spent = []
    for name in FILTERS:
        for index in [*range(1, page.locator(f"#{name} option").count()), 0]:
            spent.append(min(page.evaluate(FILTER, [name, index]) for _ in range(TRIALS)))
    return max(spent)


def take_pictures(path: Path, folder: Path) -> None:
    """Take pictures of a report: its head in light, its images in dark mode and on a phone."""
    with browser() as running:
        for name, width, height, scheme, place in (
            ("light", 1100, 1500, "light", ""),
            ("dark", 1100, 760, "dark", "#gallery"),
            ("phone", 390, 844, "light", "#gallery"),
        ):
            page = running.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page.goto(path.resolve().as_uri() + place, wait_until="load")
            page.wait_for_timeout(500)  # pictures in view decode
            page.screenshot(path=folder / f"report-{name}.png")
            click.echo(f"{folder}/report-{name}.png")


@click.command(help=__doc__)
@click.option("--count", default=5000, show_default=True, help="number of cards")
@click.option("--out", type=Path, default=Path("benchmarks/report.csv"), show_default=True)
@click.option("--pictures", type=Path, help="report to take pictures of, instead of measuring")
@click.option("--docs", type=Path, default=Path("docs"), show_default=True)
def main(count: int, out: Path, pictures: Path | None, docs: Path) -> None:
    if pictures is not None:
        take_pictures(pictures, docs)
        return
    with tempfile.TemporaryDirectory() as folder, browser() as running:
        path = Path(folder) / "report.html"
        start = time.perf_counter()
        count_of_pictures = large_report(path, count)
        written = time.perf_counter() - start
        page = running.new_page(viewport={"width": 1280, "height": 900})
        seconds, messages = opened(page, path)
        row = {
            "cards": count,
            "pictures": count_of_pictures,
            "megabytes": round(path.stat().st_size / 1e6, 1),
            "write_seconds": round(written, 1),
            "open_seconds": round(seconds, 2),
            "filter_milliseconds": round(slowest_filter(page)),
            "console_messages": len(messages),
        }
    write_table(pd.DataFrame([row]), out, MEASURED)
    for name, value in row.items():
        click.echo(f"  {name:<28}{value}")


if __name__ == "__main__":
    main()
