import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from genie.core.tables import SKIPPED, TASKS, read_images, read_table, write_images
from genie.data.depth import read_depth
from stages.prepare import main

REPOSITORY = Path(__file__).parents[2]
LABELS = ("T-shirt%2Ftop", "coat, long", "Mütze")


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for label in LABELS:
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(10):
            image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            image.save(tmp_path / "images" / label / f"{i}.png")
    return tmp_path


def run(folder: Path, **data) -> Result:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    defaults = {"path": str(folder / "images"), "shots": 2, "tasks": 3}
    params["data"] = {**params["data"], **defaults, **data}
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    return CliRunner().invoke(main, ["--params", str(file), "--root", str(folder)])


def outputs(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    prepared = folder / "data" / "prepared"
    return (
        read_images(prepared / "support"),
        read_images(prepared / "query"),
        read_table(prepared / "tasks.csv", TASKS),
    )


def test_tasks_refer_to_the_images_beside_them_and_no_others_are_kept(folder):
    result = run(folder)
    assert result.exit_code == 0, result.stderr
    support, query, tasks = outputs(folder)
    for role, images in (("support", support), ("query", query)):
        assert set(tasks.loc[tasks["role"] == role, "image_id"]) == set(images["image_id"])
    assert set(tasks["label"]) == {"T-shirt/top", "coat, long", "Mütze"}
    assert len(query) == 9
    assert result.stdout.startswith("prepare: 3 tasks of 3 classes")


def test_outputs_are_the_same_bytes_every_time(folder):
    prepared = folder / "data" / "prepared"
    contents = []
    for _ in range(2):
        assert run(folder, size=8).exit_code == 0
        contents.append([f.read_bytes() for f in sorted(prepared.rglob("*")) if f.is_file()])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


def test_depth_of_deep_images_is_kept_for_images_to_come(folder, caplog):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(folder / "images/Mütze/deep.png")
    result = run(folder, regime="all")
    assert result.exit_code == 0, result.stderr
    assert "are read as 12-bit values" in caplog.text
    assert read_depth(folder / "data/prepared/support") == 12
    (folder / "images/Mütze/deep.png").unlink()
    run(folder, regime="all")
    assert read_depth(folder / "data/prepared/support") is None


def test_licence_of_the_images_goes_with_them(folder):
    licence = folder / "data/prepared/LICENSE.txt"
    assert run(folder).exit_code == 0
    assert licence.read_text() == "not stated with the data"  # DVC warns of empty files
    (folder / "images/LICENSE").write_text("CC BY 4.0, by somebody\n")
    assert run(folder).exit_code == 0
    assert licence.read_text() == "CC BY 4.0, by somebody"


def test_images_of_train_that_nearly_equal_one_of_test_are_left_out(tmp_path, caplog):
    for part, first, quality in (("train", 0, 95), ("test", 3, 80)):
        for label in ("a", "b"):
            place = tmp_path / "images" / part / label
            place.mkdir(parents=True)
            for seed in range(first, first + 4):  # the fourth of train is the first of test
                key = [seed, ord(label)]
                pixels = np.random.default_rng(key).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).resize((64, 64))
                image.save(place / f"{seed}.jpg", quality=quality)
    result = run(tmp_path, regime="all")
    assert result.exit_code == 0, result.stderr
    support, query, _ = outputs(tmp_path)
    assert (len(support), len(query)) == (6, 8)
    assert "dropped 2 support candidates that nearly duplicate query images" in caplog.text


def test_bundled_images_make_the_default_tasks(folder):
    bundled = {}
    for pool in ("train", "test"):
        table = read_images(REPOSITORY / "data/bundled" / pool)
        bundled[pool] = table.groupby("label").head(20)  # all of them take seconds to read
        write_images(bundled[pool], folder / "bundled" / pool)
    result = run(folder, path=str(folder / "bundled"), shots=5)
    assert result.exit_code == 0, result.stderr
    support, query, tasks = outputs(folder)
    assert not set(support["image_id"]) & set(query["image_id"])
    assert set(support["image_id"]) < set(bundled["train"]["image_id"])
    assert set(query["image_id"]) == set(bundled["test"]["image_id"])
    assert tasks["label"].nunique() == 10


def test_mistake_is_one_line_on_stderr(folder):
    result = run(folder, shots=9)
    assert result.exit_code == 1
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("Error: ")]
    assert "data.shots" in line


def spoil_jpeg(folder: Path) -> None:
    path = folder / "images" / LABELS[2] / "cut.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:400])


def spoil_png(folder: Path) -> None:
    (folder / "images" / LABELS[2] / "text.png").write_text("no picture")


def spoil_class(folder: Path) -> None:
    (folder / "images" / "hat").mkdir()


def leave_one_class(folder: Path) -> None:
    for label in LABELS[1:]:
        shutil.rmtree(folder / "images" / label)


def add_bomb(folder: Path) -> None:
    """A PNG of a few kilobytes that would unpack to 20,000 x 20,000 pixels."""
    Image.new("1", (20_000, 20_000)).save(folder / "images" / LABELS[2] / "bomb.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_jpeg, ["cut.jpg"]),
        (spoil_png, ["text.png"]),
        (spoil_class, ["hat"]),
        (leave_one_class, ["at least 2 classes"]),
        (add_bomb, ["bomb.png"]),
    ],
)
def test_bad_images_are_named_in_one_line_and_earlier_outputs_stay(folder, spoil, words):
    assert run(folder).exit_code == 0
    before = (folder / "data/prepared/tasks.csv").read_bytes()
    spoil(folder)
    result = run(folder)
    assert result.exit_code == 1
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("Error: ")]
    assert [word for word in words if word not in line] == []
    assert (folder / "data/prepared/tasks.csv").read_bytes() == before


def test_images_that_cannot_be_read_are_skipped_on_request_and_listed(folder):
    broken = folder / "images" / LABELS[0] / "broken.png"
    broken.write_text("not a picture")
    stopped = run(folder)
    assert stopped.exit_code == 1
    assert "broken.png (not an image); repair or remove them, or set `data.broken` to skip" in (
        stopped.stderr
    )
    result = run(folder, broken="skip")
    assert result.exit_code == 0, result.stderr
    listed = read_table(folder / "data/prepared/skipped.csv", SKIPPED)
    assert listed.values.tolist() == [[str(broken), "T-shirt/top", "not an image"]]


def test_list_of_skipped_images_is_empty_where_all_can_be_read(folder):
    assert run(folder, broken="skip").exit_code == 0
    assert read_table(folder / "data/prepared/skipped.csv", SKIPPED).empty
