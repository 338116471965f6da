from pathlib import Path

import yaml

from protocols.forecast import forecast
from protocols.run import read_protocol
from protocols.specification import runs_of
from stages.shared.params import read_yaml

ROOT = Path(__file__).parents[2]


def test_levels_that_an_earlier_row_has_are_not_counted_again(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    protocol = {
        "title": "t",
        "params": {
            "data.path": str(photos),
            "data.tasks": 2,
            "data.shots": 2,
            "augment.per_class": 2,
            "generator.steps": 10,
        },
        "settings": {"one": {}},
        "rows": {"fixed": {"noise.r": 0.5}, "all": {}, "DA": {"method": "da-fusion", "noise.r": 1}},
        "reference": "all",
    }
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    read = read_protocol(tmp_path / "protocol.yaml")
    table = forecast(runs_of(read, read_yaml(ROOT / "params.yaml"), tmp_path / "work"))
    fixed, every, learned = table.to_dict("records")
    assert (fixed["images"], fixed["new_images"]) == (12, 12)  # 2 tasks, 3 classes, 2 images
    assert fixed["steps"] == 12 * 5
    assert (every["images"], every["new_images"]) == (5 * 12, 4 * 12)
    assert every["new_steps"] == 12 * (6 + 7 + 8 + 9)
    assert (learned["images"], learned["tokens"]) == (12, 6)
