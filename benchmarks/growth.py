"""How time and memory grow: requests, entries of the store, files that DVC tracks, near-duplicates.

    dvc repro && python -m benchmarks.growth

Requests are GeNIe-Ada's on the embedded default, in as many steps as it asks for. Out:
benchmarks/growth-render.csv, growth-store.csv, growth-dvc.csv, growth-repro.csv: `dvc repro` with
nothing to do, with sets of augmented images of several sizes in place, and growth-stages.csv: peak
memory of every stage with sets of 512x512 images, made by a small network of Stable Diffusion's
layout. growth-near-duplicates.csv: the search for near-duplicates among hashes of images.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
import yaml
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from genie.core.tables import read_images
from genie.data.images import encode_png
from genie.data.near_duplicates import cluster_hashes, perceptual_hashes
from genie.data.prompts import prompt_for
from genie.data.shards import ShardRow, write_shards
from genie.plan.forecast import guided_steps
from genie.plan.levels import Levels
from genie.plan.requests import Request
from genie.render.batches import batches
from genie.render.engine import LocalEngine
from genie.render.model import Generator, load_generator
from genie.render.store import load_image, save_image

REQUESTS = (100, 1_000, 10_000)
ENTRIES = (1_000, 10_000, 100_000)
FILES = (1_000, 10_000)
LINKS = ("copy", "hardlink", "symlink", "reflink,copy")
MANY, FAST = 100_000, ("hardlink", "copy")  # the links that are worth a try with many files
SHARD = 1_000  # images
RATIOS = Levels(0.5, 0.9, 5).ratios
IN_PLACE = (500, 5_000, 20_000)
HASHES = (1_000, 10_000, 100_000)
LARGE = (200, 2_000)  # images of 512x512 pixels
CLASSES = ("bag", "coat", "dress", "sandal")
STAGES = (
    "prepare", "train_baseline", "select_sources", "generate", "retrain", "evaluate", "analyse",
)  # fmt: skip
GENERATOR = Path("zoo/generator")

Row = Mapping[str, object]


def bundled_requests(count: int) -> tuple[list[Request], dict[str, bytes]]:
    """`count` requests, all levels of one pair after another, and the source images."""
    table = read_images(Path("data/bundled/train"))
    sources = [(str(row.image_id), str(row.label)) for row in table.itertuples()]
    prompt = prompt_for("bag")
    requests = []
    for i in range(count):
        pair, level = divmod(i, len(RATIOS))
        replicate, place = divmod(pair, len(sources))
        source, label = sources[place]
        r = RATIOS[level]
        requests.append(Request(source, label, "bag", prompt, "", r, replicate, 0, ""))
    return requests, dict(zip(table["image_id"], table["png"], strict=True))


def render_many(count: int, folder: Path = GENERATOR) -> Row:
    """Seconds and peak memory of `count` requests, all levels of as many pairs, in this process."""
    requests, sources = bundled_requests(count)
    generator = load_generator(folder)
    rendered(requests[:64], sources, generator)  # warm up
    start = time.perf_counter()
    drawn = rendered(requests, sources, generator)
    seconds = time.perf_counter() - start
    guided = guided_steps(requests, generator.info.steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "requests": drawn,
        "seconds": round(seconds, 2),
        "images_per_second": round(drawn / seconds, 2),
        "guided_steps_per_second": round(guided / seconds, 1),
        "peak_mebibytes": round(peak),
    }


def rendered(
    requests: Sequence[Request], sources: Mapping[str, bytes], generator: Generator
) -> int:
    """Render the requests with an engine of their own, and return the number of images."""
    engine, info = LocalEngine(generator), generator.info
    grouped = list(batches(requests, info.steps, info.batch_size, mixed=info.starts_anywhere))
    return sum(map(len, engine.render(grouped, sources, info.steps)))


def fill_store(count: int, root: Path, *, start: int) -> None:
    """Entries `start` to `count` of a store, all of one picture."""
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    png = encode_png(Image.fromarray(picture))
    for i in range(start, count):
        save_image(root, _key(i), png)


def look_up(count: int, root: Path, *, tries: int = 2_000) -> Row:
    """Milliseconds to find and read an entry, and to miss one, of a store with `count` entries."""
    chosen = np.random.default_rng(0).integers(0, count, tries)
    start = time.perf_counter()
    found = [load_image(root, _key(int(i))) for i in chosen]
    hit = time.perf_counter() - start
    assert all(png is not None for png in found)
    start = time.perf_counter()
    assert not any(load_image(root, _key(count + i)) for i in range(tries))
    miss = time.perf_counter() - start
    per = 1000 / tries
    return {"entries": count, "hit_ms": round(hit * per, 4), "miss_ms": round(miss * per, 4)}


def _key(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


def seconds_of(place: Path, *command: str) -> float:
    """Seconds that a command takes in a folder; it must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start = time.perf_counter()
    subprocess.run(
        command,
        cwd=place,
        check=True,
        capture_output=True,
        env=os.environ | {"DVC_NO_ANALYTICS": "1", "PATH": path},
    )
    return round(time.perf_counter() - start, 2)


def processor_seconds() -> float:
    """Processor time of all commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def repeat_nothing(counts: Sequence[int], place: Path) -> Iterator[Row]:
    """Seconds of `dvc repro` with nothing to do, the median of five, by images in the set.

    In a clone of this repository with this workspace's outputs, whose set is filled up.
    """
    subprocess.run(["git", "clone", "--quiet", ".", str(place)], check=True)
    shutil.copytree(".dvc/cache", place / ".dvc/cache")
    call = partial(seconds_of, place)
    call("dvc", "checkout", "--quiet")
    folder, draw = place / "data/augmented", np.random.default_rng(0)
    for count in counts:
        for i in range(len(list(folder.glob("*/*.png"))), count):
            (folder / "bag" / f"more-{i}.png").write_bytes(draw.bytes(1_500))
        call("dvc", "commit", "--force", "--quiet", "dvc.yaml")
        again = sorted(call("dvc", "repro") for _ in range(5))
        assert "up to date" in subprocess.check_output(["dvc", "repro"], cwd=place, text=True)
        yield {"images": count, "seconds": again[2], "most": again[-1]}


def track(count: int, link: str, place: Path, *, shard: int | None = None) -> Row:
    """Seconds for DVC to add, look over, push to a folder and check out `count` images.

    They are files, or Parquet shards of `shard` images each. `cpu` are the seconds of processor
    time of the four commands together, which hardly depend on what else the machine does.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    call = partial(seconds_of, place)
    call("dvc", "init", "--no-scm", "--quiet")
    call("dvc", "config", "cache.type", link)
    call("dvc", "remote", "add", "--quiet", "--default", "team", "remote")
    images = place / "images"
    draw = np.random.default_rng(0)
    rows = (ShardRow(f"{i % 10}/{i}.png", str(i % 10), draw.bytes(1_500)) for i in range(count))
    if shard:
        images.mkdir()
        write_shards(rows, images, size=shard)
    else:
        for row in rows:
            path = images / row.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row.png)
    files = sum(path.is_file() for path in images.rglob("*"))
    before = processor_seconds()
    seconds = {
        "add": call("dvc", "add", "--quiet", "images"),
        "status": call("dvc", "status"),
        "push": call("dvc", "push", "--quiet"),
    }
    shutil.rmtree(images)
    seconds["checkout"] = call("dvc", "checkout", "--quiet")
    seconds["cpu"] = round(processor_seconds() - before, 2)
    assert sum(path.is_file() for path in images.rglob("*")) == files
    return {"images": count, "files": files, "link": link, **seconds}


def grow_renders() -> Iterator[Row]:
    """`render_many` of each count, in a process each: freed memory still counts in one's peak."""
    command = [sys.executable, "-m", "benchmarks.growth", "--count"]
    for count in REQUESTS:
        yield json.loads(subprocess.check_output([*command, str(count)], stderr=subprocess.DEVNULL))


def grow_store(root: Path, counts: Sequence[int] = ENTRIES) -> Iterator[Row]:
    """`look_up` in a store that is filled up from count to count."""
    for before, count in zip((0, *counts), counts, strict=False):
        fill_store(count, root, start=before)
        yield look_up(count, root)


def grow_tracked(place: Path) -> Iterator[Row]:
    """`track` of many images as shards and as files, then of fewer by each kind of link."""
    for link in FAST:
        for shard in (SHARD, None):
            yield track(MANY, link, place, shard=shard)
    for count in FILES:
        for link in LINKS:
            yield track(count, link, place)


def hashes_like_images(count: int) -> np.ndarray:
    """Return hashes (count, 32), a tenth of them of near-duplicates.

    They are those of the bundled images, over and over. Each bit is flipped with a probability of
    0.15, or 0.02 for a near-duplicate.
    """
    table = pd.concat([read_images(Path("data/bundled") / part) for part in ("train", "test")])
    known = np.unpackbits(perceptual_hashes(table["png"].iloc[:count]), axis=1)
    draw = np.random.default_rng(0)
    rate = np.where(np.arange(count) % 10 == 0, 0.02, 0.15)[:, None]
    flipped = draw.random((count, 256), np.float32) < rate
    return np.packbits(np.resize(known, (count, 256)) ^ flipped, axis=1)


def grow_near_duplicates(counts: Sequence[int] = HASHES) -> Iterator[Row]:
    """Seconds of processor time to find the clusters of near-duplicates among some hashes."""
    for count in counts:
        hashes = hashes_like_images(count)
        start = time.process_time()
        clusters = len(set(cluster_hashes(hashes).tolist()))
        seconds = round(time.process_time() - start, 2)
        yield {"hashes": count, "clusters": clusters, "seconds": seconds}


def large_images(folder: Path, *, each: int = 8) -> None:
    """Write an image folder with 512x512 images of four classes, for training and for queries."""
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in CLASSES:
            place = folder / part / label
            place.mkdir(parents=True)
            for i in range(each):
                coarse = Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8))
                coarse.resize((512, 512)).save(place / f"{i}.png")


def large_generator(folder: Path) -> None:
    """Save a model of Stable Diffusion's layout for 512x512 images, with few random weights."""
    torch.manual_seed(0)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(GENERATOR)
    pipeline.vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=512,
        mid_block_add_attention=False,
    )
    pipeline.unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=pipeline.text_encoder.config.hidden_size,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    pipeline.save_pretrained(folder)


def peak_mebibytes(place: Path, stage: str) -> int:
    """Peak memory of a stage that runs in a process of its own; it must succeed."""
    command = [sys.executable, "-m", f"stages.{stage}", "--params", f"{place}/params.yaml"]
    with (place / "log").open("w+") as log:
        process = subprocess.Popen([*command, "--root", str(place)], stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        log.seek(0)
        if status:
            raise click.ClickException(f"{stage} ended with status {status}: {log.read()[-500:]}")
    return round(usage.ru_maxrss / 1024)


def grow_stages(place: Path, counts: Sequence[int] = LARGE) -> Iterator[Row]:
    """Peak memory of every stage, by the number of generated images, all at one r."""
    large_images(place / "images")
    large_generator(place / "generator")
    for count in counts:
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        params["data"] |= {"path": f"{place}/images", "tasks": 1}
        params["noise"]["r"] = 0.7
        params["augment"]["per_class"] = count // len(CLASSES)
        params["generator"] |= {"model": f"{place}/generator", "steps": 2, "guidance_scale": 1.0}
        params["generator"]["unknown_classes"] = "allow"
        (place / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        row: Row = {"images": count} | {stage: peak_mebibytes(place, stage) for stage in STAGES}
        made = len(list((place / "data/augmented").glob("*/*.png")))
        assert made == count, f"{made} of {count} images"
        yield row


@click.command(help=__doc__)
@click.option(
    "--only",
    type=click.Choice(["render", "store", "dvc", "repro", "stages", "near-duplicates"]),
    help="Default: all.",
)
@click.option("--count", type=int, hidden=True, help="Render this many here and print the row.")
def main(only: str | None, count: int | None) -> None:
    if count is not None:
        click.echo(json.dumps(render_many(count)))
        return
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder).resolve()
        measurements: dict[str, Callable[[], Iterator[Row]]] = {
            "render": grow_renders,
            "store": lambda: grow_store(place / "store"),
            "dvc": lambda: grow_tracked(place / "dvc"),
            "repro": lambda: repeat_nothing(IN_PLACE, place / "clone"),
            "stages": lambda: grow_stages(place),
            "near-duplicates": grow_near_duplicates,
        }
        for name in [only] if only else measurements:
            rows = []
            for row in measurements[name]():  # what is measured is kept if the rest is interrupted
                rows.append(row)
                table = pd.DataFrame(rows)
                table.to_csv(f"benchmarks/growth-{name}.csv", index=False, lineterminator="\n")
            click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
