import pandas as pd
import pytest
from diffusers import StableDiffusionPipeline

from benchmarks.bundled import RATIOS, bundled_requests, random_model
from benchmarks.growth import (
    SMALL_UNET,
    SMALL_VAE,
    grow_near_duplicates,
    grow_store,
    render_many,
    track,
)
from genie.data.images import decode_image


def columns(name: str) -> list[str]:
    """Return the columns of a recorded table."""
    return list(pd.read_csv(f"benchmarks/growth-{name}.csv").columns)


def test_requests_are_all_levels_of_one_pair_after_another():
    requests, sources = bundled_requests(12, size=64)
    assert tuple(request.r for request in requests[5:10]) == RATIOS
    assert len({request.source_id for request in requests}) == 3
    assert {request.source_id for request in requests} == set(sources)
    assert {decode_image(png).size for png in sources.values()} == {(64, 64)}
    assert all(request.source_label != request.target_label for request in requests)
    more, _ = bundled_requests(30_000)
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


def test_the_large_model_draws_512_pixels(tmp_path):
    folder = random_model(tmp_path, vae=SMALL_VAE, unet=SMALL_UNET)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 512
