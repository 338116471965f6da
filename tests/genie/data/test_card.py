from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from genie.core.tables import METADATA
from genie.data.augmented_set import AugmentedSet, Provenance, set_of
from genie.data.card import SetFacts, data_card
from genie.data.images import encode_png

EVIL = "a|b <img src=x>"
PICTURE = encode_png(Image.new("RGB", (8, 8)))
PROVENANCE = Provenance(
    method="genie",
    guidance_scale=7.5,
    scheduler="DPMSolver",
    generator="sd15",
    fingerprint="f" * 64,
)
FACTS = SetFacts(method="genie", rejected=7, short=2, generator_licence="OpenRAIL")


def row(key: str, target: str, source: str | None, *, predicted: bool, **changes: object) -> dict:
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
        "predicted_target": predicted,
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
        row("a", "coat", "bag", predicted=True),
        row("a", "coat", "bag", predicted=True, task=1),  # two tasks share an image
        row("b", "coat", EVIL, predicted=False, r=0.75, shift_ratio=1.05),
        row("c", "coat", EVIL, predicted=False, r=0.75),
        row("d", "coat", "bag", predicted=False, chosen=False),
        row("e", EVIL, None, predicted=True, shift_ratio=np.nan),
    ]
)


def made(table: pd.DataFrame = TABLE, facts: SetFacts = FACTS) -> AugmentedSet:
    classes = {"coat", "bag", EVIL}
    found = set_of(table, PROVENANCE, png_of=lambda key: PICTURE, classes=classes)
    return replace(found, facts=facts)


def card(
    table: pd.DataFrame = TABLE, facts: SetFacts = FACTS, *, sharded: bool = False
) -> DatasetCard:
    own = made(table, facts)
    return DatasetCard(
        data_card(own.metadata, own.members, own.trajectories, facts, sharded=sharded)
    )


def lines_with(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_card_has_the_metadata_that_the_hub_expects():
    found = card().data.to_dict()
    assert found["task_categories"] == ["image-classification"]
    assert found["size_categories"] == ["n<1K"]
    assert found["license"] == "other"
    assert found["configs"][0]["data_files"][0]["split"] == "train"


def test_classes_are_counted_with_the_share_that_the_baseline_predicts_as_the_label():
    text = card().text
    assert lines_with(text, "| coat |") == ["| coat | 3 | 33% | 0.67 |"]
    assert lines_with(text, "| all |") == ["| all | 4 | 50% | |"]
    assert "4 images of 2 classes for 2 support sets" in text


def test_failures_are_named_and_counted():
    text = card().text
    assert "2 images from a&#124;b &lt;img src=x&gt; to coat are not." in text
    assert "1 choices of r were unclear" in text
    assert "rejected 7 images; 2 requested images are missing" in text


def test_class_names_are_escaped_in_tables():
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


def test_card_of_an_empty_set_says_that_there_are_no_images():
    empty = card(TABLE.iloc[:0], SetFacts(method="cutmix"))
    assert "The method generates no images." in empty.text
    assert "configs" not in empty.data.to_dict()


@pytest.fixture
def folder(tmp_path):
    made().save(tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize("shards", [None, 3])
def test_saved_set_has_its_card(folder, shards):
    made().save(folder, shards=shards)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == card(sharded=shards is not None).content


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
    made().save(folder, shards=3)
    text = DatasetCard.load(folder / "README.md")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(loaded["label"]) == sorted(["coat"] * 3 + [EVIL])
    assert isinstance(loaded.features["image"], datasets.Image)
    assert "images-*.parquet" in text.text
    assert "imagefolder" not in text.text
