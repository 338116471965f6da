"""How time and memory grow with the number of requests, stored images, tracked files and hashes.

    dvc repro && python -m benchmarks.growth

The requests are those of GeNIe-Ada with the default parameters. The measurement NAME is written to
benchmarks/growth-NAME.csv. `render`, `store` and `dvc` measure rendering, the image store and DVC.
`repro` measures `dvc repro` with nothing to do. `stages` measures the peak memory of every stage
with 512x512 images from a small network with Stable Diffusion's layout. `near-duplicates` measures
the search among image hashes.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import yaml
from PIL import Image

from benchmarks.bundled import GENERATOR, Row, bundled_requests, in_own_process, random_model
from genie.core.seeding import digest
from genie.core.tables import read_images
from genie.data.near_duplicates import cluster_hashes, perceptual_hashes
from genie.data.shards import ShardRow, write_shards
from genie.plan.forecast import guided_steps
from genie.render.batches import batches
from genie.render.engine import LocalEngine
from genie.render.model import load_generator
from genie.render.store import load_image, save_image

CLASSES = ("bag", "coat", "dress", "sandal")
STAGES = (
    "prepare", "train_baseline", "select_sources", "generate", "retrain", "evaluate", "analyse",
)  # fmt: skip

SMALL_VAE = {
    "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    "mid_block_add_attention": False,
}  # fmt: skip
SMALL_UNET = {
    "block_out_channels": (16, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 128, "attention_head_dim": 4,
}  # fmt: skip


def render_many(count: int, folder: Path = GENERATOR) -> Row:
    """Render `count` requests in this process; return the seconds and the peak memory."""
    requests, sources = bundled_requests(count)
    engine = LocalEngine(load_generator(folder))
    steps, size, mixed = engine.info.steps, engine.info.batch_size, engine.info.starts_anywhere

    def rendered(count: int) -> int:
        grouped = list(batches(requests[:count], steps, size, mixed=mixed))
        return sum(map(len, engine.render(grouped, sources, steps)))

    rendered(64)  # warm up
    start = time.perf_counter()
    drawn = rendered(count)
    seconds = time.perf_counter() - start
    return {
        "requests": drawn,
        "seconds": round(seconds, 2),
        "images_per_second": round(drawn / seconds, 2),
        "guided_steps_per_second": round(guided_steps(requests, steps) / seconds, 1),
        "peak_mebibytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def grow_store(
    root: Path, counts: Sequence[int] = (1_000, 10_000, 100_000), *, tries: int = 2_000
) -> Iterator[Row]:
    """Measure the milliseconds to read an entry, and to look up a missing one, as a store grows."""
    (png, *_) = bundled_requests(1)[1].values()
    for before, count in zip((0, *counts), counts, strict=False):
        for i in range(before, count):
            save_image(root, digest(str(i)).hex(), png)
        row: dict[str, object] = {"entries": count}
        chosen = np.random.default_rng(0).integers(0, count, tries)
        for name, keys in (("hit_ms", chosen), ("miss_ms", count + np.arange(tries))):
            start = time.perf_counter()
            found = [load_image(root, digest(str(i)).hex()) for i in keys]
            row[name] = round((time.perf_counter() - start) * 1000 / tries, 4)
            assert all((png is not None) == (name == "hit_ms") for png in found)
        yield row


def dvc(place: Path, *arguments: str) -> float:
    """Run a DVC command in a folder and return the seconds; the command must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"DVC_NO_ANALYTICS": "1", "PATH": path}
    start = time.perf_counter()
    subprocess.run(["dvc", *arguments], cwd=place, check=True, capture_output=True, env=env)
    return round(time.perf_counter() - start, 2)


def grow_repro(place: Path) -> Iterator[Row]:
    """Measure the median of five `dvc repro` runs with nothing to do, by images in the set.

    The commands run in a clone of this repository with the outputs of this workspace. Images are
    added to the clone's set.
    """
    subprocess.run(["git", "clone", "--quiet", ".", str(place)], check=True)
    shutil.copytree(".dvc/cache", place / ".dvc/cache")
    dvc(place, "checkout", "--quiet")
    folder, draw = place / "data/augmented", np.random.default_rng(0)
    for count in (500, 5_000, 20_000):
        for i in range(len(list(folder.glob("*/*.png"))), count):
            (folder / "bag" / f"more-{i}.png").write_bytes(draw.bytes(1_500))
        dvc(place, "commit", "--force", "--quiet", "dvc.yaml")
        again = sorted(dvc(place, "repro") for _ in range(5))
        assert "up to date" in subprocess.check_output(["dvc", "repro"], cwd=place, text=True)
        yield {"images": count, "seconds": again[2], "most": again[-1]}


def grow_tracked(place: Path) -> Iterator[Row]:
    """Run `track` on many images as shards and as files, then on fewer images per kind of link."""
    for link in ("hardlink", "copy"):
        for shard in (1_000, None):
            yield track(100_000, link, place, shard=shard)
    for count in (1_000, 10_000):
        for link in ("copy", "hardlink", "symlink", "reflink,copy"):
            yield track(count, link, place)


def track(count: int, link: str, place: Path, *, shard: int | None = None) -> Row:
    """Return the seconds for DVC to add, check, push to a folder and check out `count` images.

    The images are single files, or Parquet shards of `shard` images each. `cpu` is the processor
    time of the four commands together, which hardly depends on the load of the machine.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    dvc(place, "init", "--no-scm", "--quiet")
    dvc(place, "config", "cache.type", link)
    dvc(place, "remote", "add", "--quiet", "--default", "team", "remote")
    images, draw = place / "images", np.random.default_rng(0)
    images.mkdir()
    rows = (ShardRow(f"{i % 10}/{i}.png", str(i % 10), draw.bytes(1_500)) for i in range(count))
    if shard:
        write_shards(rows, images, size=shard)
    else:
        for row in rows:
            (images / row.label).mkdir(exist_ok=True)
            (images / row.file_name).write_bytes(row.png)
    files = sorted(images.rglob("*.*"))
    before = os.times()
    seconds = {"add": dvc(place, "add", "--quiet", "images"), "status": dvc(place, "status")}
    seconds["push"] = dvc(place, "push", "--quiet")
    shutil.rmtree(images)
    seconds["checkout"] = dvc(place, "checkout", "--quiet")
    spent = sum(os.times()[2:4]) - sum(before[2:4])  # of processes that have ended
    assert sorted(images.rglob("*.*")) == files
    return {"images": count, "files": len(files), "link": link, **seconds, "cpu": round(spent, 2)}


def grow_near_duplicates(counts: Sequence[int] = (1_000, 10_000, 100_000)) -> Iterator[Row]:
    """Measure the processor time to cluster near-duplicates among hashes.

    The hashes of the bundled images are repeated. In a tenth of the hashes, the near-duplicates,
    each bit is flipped with probability 0.02; in all other hashes, with probability 0.15.
    """
    table = pd.concat([read_images(Path("data/bundled") / part) for part in ("train", "test")])
    known = np.unpackbits(perceptual_hashes(table["png"].iloc[: max(counts)]), axis=1)
    for count in counts:
        rate = np.where(np.arange(count) % 10 == 0, 0.02, 0.15)[:, None]
        flipped = np.random.default_rng(0).random((count, 256), np.float32) < rate
        hashes = np.packbits(np.resize(known[:count], (count, 256)) ^ flipped, axis=1)
        start = time.process_time()
        clusters = len(set(cluster_hashes(hashes).tolist()))
        seconds = round(time.process_time() - start, 2)
        yield {"hashes": count, "clusters": clusters, "seconds": seconds}


def grow_stages(place: Path) -> Iterator[Row]:
    """Measure the peak memory of every stage by the number of images, generated with a fixed r."""
    large_images(place / "images")
    random_model(place / "generator", vae=SMALL_VAE, unet=SMALL_UNET)
    for count in (200, 2_000):
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        params["data"] |= {"path": f"{place}/images", "tasks": 1}
        params["noise"]["r"] = 0.7
        params["augment"]["per_class"] = count // len(CLASSES)
        params["generator"] |= {"model": f"{place}/generator", "steps": 2, "guidance_scale": 1.0}
        params["generator"]["unknown_classes"] = "allow"
        (place / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        yield {"images": count} | {stage: peak_mebibytes(place, stage) for stage in STAGES}
        made = len(list((place / "data/augmented").glob("*/*.png")))
        assert made == count, f"{made} of {count} images"


def large_images(folder: Path) -> None:
    """Write an image folder with 512x512 images of four classes, for training and testing."""
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in CLASSES:
            (folder / part / label).mkdir(parents=True)
            for i in range(8):
                coarse = Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8))
                coarse.resize((512, 512)).save(folder / part / label / f"{i}.png")


def peak_mebibytes(place: Path, stage: str) -> int:
    """Run a stage in its own process and return its peak memory; the stage must succeed."""
    command = [sys.executable, "-m", f"stages.{stage}", "--params", f"{place}/params.yaml"]
    process = subprocess.Popen([*command, "--root", str(place)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"{stage} ended with status {status}")
    return round(usage.ru_maxrss / 1024)


@click.command(help=__doc__)
@click.option("--only", help="The NAME of one measurement. Default: all.")
@click.option("--count", type=int, hidden=True, help="Render this many here and print the row.")
def main(only: str | None, count: int | None) -> None:
    if count is not None:
        click.echo(json.dumps(render_many(count)))
        return
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder).resolve()
        counts = (100, 1_000, 10_000)
        measurements: dict[str, Iterator[Row]] = {
            "render": (in_own_process("growth", "--count", str(count)) for count in counts),
            "store": grow_store(place / "store"),
            "dvc": grow_tracked(place / "dvc"),
            "repro": grow_repro(place / "clone"),
            "stages": grow_stages(place),
            "near-duplicates": grow_near_duplicates(),
        }
        for name in [only] if only else measurements:
            rows = []
            for row in measurements[name]:  # an interruption keeps the finished rows
                rows.append(row)
                table = pd.DataFrame(rows)
                table.to_csv(f"benchmarks/growth-{name}.csv", index=False, lineterminator="\n")
            click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
