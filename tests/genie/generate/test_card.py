from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from genie.data.augmented_set import write_set
from genie.data.images import encode_png
from genie.generate.card import data_card
from genie.tables import METADATA

EVIL = "a|b <img src=x>"
RENDERER = SimpleNamespace(
    generator=SimpleNamespace(name="sd15", fingerprint="f" * 64, scheduler="DPMSolver"),
    steps=50,
    guidance_scale=7.5,
)


def row(key: str, target: str, source: str | None, *, called: bool, **changes: object) -> dict:
    return {
        "task": 0,
        "target_label": target,
        "source_label": source,
        "source_id": source,
        "replicate": 0,
        "level": 0,
        "r": 0.5,
        "key": key,
        "steps": 50,
        "position": 0.5,
        "shift_ratio": 2.0,
        "chosen": True,
        "called_target": called,
        "embedding": np.zeros(3),
        "prompt": f"a photo of a {target}",
        "negative_prompt": "",
        "seed": 3,
        "support_id": "",
        "target_weight": 1.0,
        **changes,
    }


TABLE = pd.DataFrame(
    [
        row("a", "coat", "bag", called=True),
        row("a", "coat", "bag", called=True, task=1),  # two tasks share an image
        row("b", "coat", EVIL, called=False, r=0.75, shift_ratio=1.05),
        row("c", "coat", EVIL, called=False, r=0.75),
        row("d", "coat", "bag", called=False, chosen=False),
        row("e", EVIL, None, called=True, shift_ratio=np.nan),
    ]
)


def card(table: pd.DataFrame = TABLE, **changes: object) -> DatasetCard:
    values = {"method": "genie", "rejected": 7, "short": 2, "sharded": False} | changes
    licences = {"generator_licence": "OpenRAIL", "source_licence": ""}
    return DatasetCard(data_card(table, RENDERER, **(licences | values)))


def lines_with(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_metadata_are_those_of_the_hub():
    found = card().data.to_dict()
    assert found["task_categories"] == ["image-classification"]
    assert found["size_categories"] == ["n<1K"]
    assert found["license"] == "other"
    assert found["configs"][0]["data_files"][0]["split"] == "train"


def test_classes_are_counted_with_the_share_that_the_baseline_calls_by_the_label():
    text = card().text
    assert lines_with(text, "| coat |") == ["| coat | 3 | 33% | 0.67 |"]
    assert lines_with(text, "| all |") == ["| all | 4 | 50% | |"]
    assert "4 images of 2 classes for 2 support sets" in text


def test_failures_are_named_and_counted():
    text = card().text
    assert "2 images from a&#124;b &lt;img src=x&gt; to coat are not." in text
    assert "1 choices of r were unclear" in text
    assert "rejected 7 images; 2 wanted images are missing" in text


def test_class_names_are_neither_markup_nor_new_cells():
    assert "<img" not in card().text
    assert lines_with(card().text, "| a&#124;b &lt;img") == [
        "| a&#124;b &lt;img src=x&gt; | 1 | 100% | 0.50 |"
    ]


def test_generator_and_licences_are_named_as_far_as_they_are_known():
    text = card().text
    assert "sd15, fingerprint ffffffffffffffff" in text
    assert "DPMSolver, 50 steps, guidance 7.5" in text
    assert "    OpenRAIL" in text
    assert "    not stated with the data" in text


def test_set_without_images_says_so():
    empty = card(TABLE.iloc[:0], method="cutmix")
    assert "The method generates no images." in empty.text
    assert "configs" not in empty.data.to_dict()


@pytest.fixture
def folder(tmp_path):
    picture = encode_png(Image.new("RGB", (8, 8)))
    shared = {**dict.fromkeys(("method", "scheduler", "generator", "fingerprint"), "x")}
    provenance = shared | {"guidance_scale": 7.5}
    write_set(TABLE, tmp_path / "set", provenance=provenance, png_of=lambda key: picture)
    (tmp_path / "set/README.md").write_text(card().content, encoding="utf-8")
    return tmp_path / "set"


@pytest.mark.parametrize("as_imagefolder", [True, False])
def test_datasets_reads_the_set_beside_its_card(folder, tmp_path, as_imagefolder):
    datasets = pytest.importorskip("datasets")
    what = (
        {"path": "imagefolder", "data_dir": str(folder)}
        if as_imagefolder
        else {"path": str(folder)}
    )
    loaded = datasets.load_dataset(**what, cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(loaded["label"]) == sorted(["coat"] * 3 + [EVIL])
    assert set(loaded.column_names) == {"image", *METADATA} - {"file_name"}


def test_datasets_reads_shards_beside_their_card(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    picture = encode_png(Image.new("RGB", (8, 8)))
    provenance = {**dict.fromkeys(("method", "scheduler", "generator", "fingerprint"), "x")}
    provenance |= {"guidance_scale": "7.5"}
    write_set(TABLE, folder, provenance=provenance, png_of=lambda key: picture, shard=3)
    text = card(sharded=True)
    (folder / "README.md").write_text(text.content, encoding="utf-8")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(loaded["label"]) == sorted(["coat"] * 3 + [EVIL])
    assert isinstance(loaded.features["image"], datasets.Image)
    assert "images-*.parquet" in text.text
    assert "imagefolder" not in text.text
