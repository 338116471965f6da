"""A set of augmented images as the pipeline leaves it, with two pairs, for what searches on it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genie.core.tables import TASKS, TRAJECTORIES, write_images, write_table

LABELS = ("bag", "coat", "sandal")


@pytest.fixture
def augmented(source_images: dict[str, bytes], tmp_path: Path) -> Path:
    """A folder with data/prepared and data/augmented: one task, four images per class."""
    images = pd.DataFrame(
        [
            {"image_id": name, "label": LABELS[i % 3], "png": png}
            for i, (name, png) in enumerate(source_images.items())
        ]
    )
    support = images.assign(task=0, role="support")
    level = {
        "task": 0, "target_label": "coat", "source_label": "bag", "replicate": 0, "level": 0,
        "r": 0.5, "key": "k", "steps": 20, "position": 0.0, "shift_ratio": 2.0, "chosen": False,
        "predicted_target": False, "embedding": np.zeros(4),
    }  # fmt: skip
    bags = images.loc[images["label"] == "bag", "image_id"]
    pairs = [level | {"source_id": name} for name in bags[:2]]
    write_images(images, tmp_path / "data/prepared/support")
    write_table(support, tmp_path / "data/prepared/tasks.csv", TASKS)
    trajectories = pd.DataFrame([*pairs, level | {"source_id": bags.iloc[0], "level": 1}])
    write_table(trajectories, tmp_path / "data/augmented/trajectories.parquet", TRAJECTORIES)
    return tmp_path
