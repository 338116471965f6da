from pathlib import Path

import pandas as pd

from benchmarks.engine import measure

RECORDED = Path(__file__).parents[2] / "benchmarks/engine.csv"


def test_every_image_is_timed_and_counted(tmp_path):
    row = measure("local", 40, 2, tmp_path)
    assert list(row) == list(pd.read_csv(RECORDED).columns)
    assert (row["requests"], row["images"]) == (40, 40)
    assert row["images_per_second"] > 0
    assert len(list(tmp_path.rglob("*.png"))) == 40
