from pathlib import Path

import pandas as pd
import pytest

from benchmarks.growth import (
    bundled_requests,
    grow_near_duplicates,
    grow_store,
    render_many,
    track,
)
from genie.plan.levels import Levels

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def columns(name: str) -> list[str]:
    """Those of a recorded table."""
    return list(pd.read_csv(BENCHMARKS / f"growth-{name}.csv").columns)


def test_requests_are_all_levels_of_one_pair_after_another():
    requests, sources = bundled_requests(12)
    assert tuple(request.r for request in requests[5:10]) == Levels(0.5, 0.9, 5).ratios
    assert len({request.source_id for request in requests}) == 3
    assert {request.source_id for request in requests} <= set(sources)
    more, _ = bundled_requests(5 * (len(sources) + 1))
    assert len(set(more)) == len(more)  # a second round has other noise


def test_rendering_reports_what_the_recorded_table_has(tiny_sd_folder):
    row = render_many(3, tiny_sd_folder)
    assert list(row) == columns("render")
    assert row["requests"] == 3


def test_store_is_filled_up_and_looked_up(tmp_path):
    rows = list(grow_store(tmp_path, (3, 5)))
    assert [row["entries"] for row in rows] == [3, 5]
    assert [list(row) for row in rows] == [columns("store")] * 2
    assert len(list(tmp_path.rglob("*.png"))) == 5


@pytest.mark.parametrize(("shard", "files"), [(None, 3), (2, 2)])
def test_tracking_brings_the_files_back(tmp_path, shard, files):
    row = track(3, "copy", tmp_path / "dvc", shard=shard)
    assert list(row) == columns("dvc")
    assert (row["images"], row["files"]) == (3, files)
    pushed = [path for path in (tmp_path / "dvc/remote").rglob("*") if path.is_file()]
    assert len(pushed) == files + 1  # and the list of them


def test_near_duplicates_are_searched_among_hashes_like_those_of_images():
    (row,) = grow_near_duplicates((200,))
    assert list(row) == columns("near-duplicates")
    assert 100 < row["clusters"] <= 200
