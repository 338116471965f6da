"""Every keyed draw, compared with values that published results were made with."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from genie.classify.confusion import source_classes
from genie.core import seeding
from genie.data.near_duplicates import repeated_splits
from genie.data.prompts import Prompts, Wording
from genie.data.tasks import Draws, make_tasks
from genie.plan.methods import METHODS
from genie.plan.requests import Request, noise_seed
from genie.plan.tasks import TaskSpec
from genie.render.keys import request_key
from genie.render.model_info import STABLE_DIFFUSION, ModelInfo

CLASSES = ("bag", "coat", "shirt")
REQUEST = Request("a", "shirt", "coat", "a photo of a coat", "", 0.7, 0, 0, "")


def test_noise_seed_of_an_image_is_the_published_one():
    assert noise_seed(REQUEST) == 5015364946437819453
    drawn = Request(None, None, "T-shirt/top", "", "", 1.0, 3, 7, "support")
    assert noise_seed(drawn) == 4749104997208021193


def test_order_of_source_images_and_prompts_is_the_published_one():
    rows = [(f"{c}-{i}", c) for c in CLASSES for i in range(4)]
    ranked = [("coat", "shirt", 1), ("coat", "bag", 2)]
    turns = []

    class Recording(Prompts):
        def wording(self, class_name, source_id=None, turn=0) -> Wording:
            turns.append(turn % 1000)
            return Wording("", "")

    task = TaskSpec(
        support=pd.DataFrame(rows, columns=["image_id", "label"]),
        sources=pd.DataFrame(ranked, columns=["target", "source", "rank"]),
        per_class={"coat": 8},
        ratios=(0.7,),
        prompts=Recording(),
        seed=3,
    )
    order = " ".join(q.source_id for (q,) in METHODS["genie"].plan(task))
    assert order == "shirt-3 bag-2 shirt-2 bag-1 shirt-1 bag-3 shirt-0 bag-0"
    assert turns == [868, 911, 518, 134, 316, 101, 179, 628]


@pytest.mark.parametrize(
    ("regime", "options", "expected"),
    [
        (
            "shots",
            {"shots": 2, "tasks": 2},
            [
                "sbag0 sbag1 scoat1 scoat3 sshirt2 sshirt3",
                "sbag2 sbag4 scoat1 scoat2 sshirt0 sshirt3",
            ],
        ),
        (
            "longtail",
            {"imbalance": 5, "tasks": 1},
            ["sbag0 sbag1 scoat0 scoat1 scoat2 scoat3 scoat4 sshirt3"],
        ),
        (
            "episodes",
            {"n_way": 2, "shots": 1, "n_query": 1, "tasks": 3, "pool": 3},
            ["sbag2 scoat3", "sbag4 scoat4", "sbag2 scoat3"],
        ),
    ],
)
def test_support_sets_are_the_published_ones(regime, options, expected):
    pools = [
        pd.DataFrame(
            [(f"{pool}{c}{i}", c) for c in CLASSES for i in range(5)], columns=["image_id", "label"]
        )
        for pool in "sq"
    ]
    table = make_tasks(*pools, Draws(regime, seed=5, **options))
    support = table[table["role"] == "support"].groupby("task")["image_id"]
    assert [" ".join(ids) for _, ids in support] == expected


def test_random_source_classes_are_the_published_ones():
    even = pd.DataFrame(0.25, index=list("abcde"), columns=list("abcde"))
    drawn = source_classes(even, strategy="random", top_k=4, seed=2)
    assert drawn.groupby("target")["source"].agg("".join).to_dict() == {
        "a": "dbec",
        "b": "cdea",
        "c": "deab",
        "d": "aebc",
        "e": "dbac",
    }


def test_query_split_is_the_published_one(source_images):
    table = pd.DataFrame(
        {"image_id": list("abcdefghij"), "label": "coat", "png": list(source_images.values())[:10]}
    )
    _, query = repeated_splits(table, 1, fraction=0.5, seed=1)[0]
    assert list(query["image_id"]) == ["a", "b", "c", "g", "j"]


def test_store_key_of_an_image_is_the_published_one():
    info = ModelInfo(
        name="any",
        fingerprint="f" * 64,
        family=STABLE_DIFFUSION,
        size=32,
        steps=50,
        guidance_scale=3.0,
        batch_size=32,
        precision="torch.float32",
        scheduler="DPMSolverMultistepScheduler",
        device="cpu",
        heeds_negative=True,
    )
    key = request_key(REQUEST, info, steps=50)
    assert key == "88925812951680769ef57f773ab4d6ef27217482c2fc064c2d535b6c16edf508"
    drawn = Request(None, None, "coat", "a photo of a coat", "blurry", 0.66, 2, 1, "")
    key = request_key(drawn, info, steps=5)
    assert key == "1e08db6ab2b03fb9df3c81b1d14d404da7b9af5debcd730404e927d021affc20"
    assert request_key(replace(drawn, seed=2), info, steps=5) != key


def test_fingerprint_of_a_folder_is_the_published_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    flat = seeding.fingerprint(tmp_path, reversed(sorted(tmp_path.iterdir())))
    assert flat == "86457829bc176a62781079475e4a02ce4030df4b5dc664cfe8f9aafaeadd119a"
    nested = tmp_path / "nested"
    (nested / "unet").mkdir(parents=True)
    (nested / "model_index.json").write_text("{}")
    (nested / "unet" / "w.safetensors").write_bytes(b"weights")
    files = [nested / "unet" / "w.safetensors", nested / "model_index.json"]
    found = seeding.fingerprint(nested, files)
    assert found == "26184e16c4221e968c8c858d7d3110cdbe60dd7e7f4a1f22365bcd6031925076"


def test_seed_of_a_training_step_is_the_published_one():
    assert seeding.step_seed(0, 7) == 7
    assert seeding.step_seed(3, 41) == 3_000_050


def test_seed_of_a_task_and_a_purpose_is_the_published_one():
    assert seeding.task_seed(0, "task", "copies") == 1521616707
    seeds = {
        seeding.task_seed(s, t, p) for s in (0, 1) for t in "ab" for p in ("copies", "training")
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_identity_of_a_set_does_not_depend_on_its_order():
    assert seeding.identity(["b", "a"]) == seeding.identity(["a", "b"])
    assert len({seeding.identity(names) for names in ([], ["a"], ["a", "b"], ["ab"])}) == 4


def test_generators_depend_on_their_key_alone():
    first = seeding.numbered_rng(1, 2, label="coat").random(3)
    assert np.array_equal(first, seeding.numbered_rng(1, 2, label="coat").random(3))
    others = [
        seeding.numbered_rng(1, 2, label="bag").random(3),
        seeding.numbered_rng(1, 3, label="coat").random(3),
    ]
    assert not any(np.array_equal(first, other) for other in others)
