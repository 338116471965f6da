from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click import ClickException
from click.testing import CliRunner
from PIL import Image

from benchmarks.backgrounds import (
    CHANCE,
    METHODS,
    at_equal_consistency,
    first_reached,
    main,
    measures,
    pairs_of,
    requests_of,
    summary,
)
from genie.core.tables import write_images
from genie.data.readers import read_pools

ROOT = Path(__file__).parents[2]


def test_sources_have_targets_of_other_classes_and_equal_numbers_of_each_class():
    images = pd.DataFrame({"image_id": list("abcdefghi"), "label": ["x", "y", "z"] * 3})
    pairs = pairs_of(images, 6)
    label = dict(zip(images["image_id"], images["label"], strict=True))
    assert pairs["label"].value_counts().tolist() == [2, 2, 2]
    assert (pairs["label"] != pairs["target"]).all()
    assert list(pairs["other"].map(label)) == list(pairs["target"])
    assert pairs_of(images, 3).equals(pairs[:3])
    with pytest.raises(ClickException, match="--sources must be at most 9"):
        pairs_of(images, 10)
    genie, own, text = (requests_of(pairs, m, 1.0)[0] for m in ("GeNIe", "Img2Img", "Txt2Img"))
    assert (genie.source_id, own.source_id, text.source_id) == (*pairs["image_id"][[0, 0]], None)
    assert (own.target_label, text.target_label) == (pairs["label"][0], genie.target_label)


def test_kept_is_interpolated_to_where_a_rising_curve_reaches_the_level():
    consistency, kept = np.array([0.2, 0.5, 0.9]), np.array([0.9, 0.6, 0.1])
    for level in (0.2, 0.3, 0.5, 0.8):
        expected = np.interp(level, consistency, kept)
        assert first_reached(consistency, kept, level) == pytest.approx(expected)
    assert first_reached(consistency, kept, 0.1) == 0.9
    assert np.isnan(first_reached(consistency, kept, 0.95))


def test_levels_that_a_method_does_not_reach_are_left_out_and_sources_give_the_interval():
    random, rows = np.random.default_rng(0), []
    for r, share in ((0.5, 0.4), (1.0, 0.8)):
        for source in range(100):
            rows.append(("GeNIe", r, source, source < 100 * share, 1 - r + random.normal(0, 0.1)))
    columns = ["method", "r", "source", "consistent", "border"]
    scores = pd.DataFrame(rows, columns=columns).astype({"consistent": float})
    scores["centre"] = scores["border"]
    table = at_equal_consistency(scores, (0.3, 0.6, 0.99), resamples=200)
    recorded = pd.read_csv(ROOT / "benchmarks/backgrounds-equal.csv")
    assert list(table.columns) == list(recorded.columns)
    assert table["measure"].tolist() == ["border"] * 2 + ["centre"] * 2
    assert list(table["label_consistency"]) == [0.3, 0.6] * 2
    assert table["r"].tolist() == pytest.approx([0.5, 0.75] * 2)
    assert (table["low"] < table["kept"]).all()
    assert (table["high"] > table["kept"]).all()
    chance = scores.assign(method=CHANCE, r=np.nan, consistent=np.nan)
    whole = summary(pd.concat([scores, chance]))
    assert whole["n"].tolist() == [100] * 4 + [200] * 2
    assert whole["label_consistency"].tolist()[:4] == pytest.approx([0.4, 0.4, 0.8, 0.8])


def test_correlations_are_those_of_the_frame_and_of_the_central_square():
    a, b = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    changed = a.copy()
    changed[4:-4, 4:-4] = b[4:-4, 4:-4]
    found = measures([Image.fromarray(a)] * 2, [Image.fromarray(changed), Image.fromarray(b)])
    edge = np.ones((32, 32), bool)
    edge[4:-4, 4:-4] = False
    assert found["border"] == pytest.approx(
        [1, np.corrcoef(a[edge].ravel(), b[edge].ravel())[0, 1]]
    )
    centre = np.corrcoef(a[5:-5, 5:-5].ravel(), b[5:-5, 5:-5].ravel())[0, 1]
    assert found["centre"] == pytest.approx([centre, centre])
    plain = Image.new("RGB", (32, 32))
    assert np.isnan(measures([plain], [Image.fromarray(a)])["border"][0])


@pytest.mark.slow
def test_trial_writes_what_is_recorded(photos, tiny_sd_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    pool, _ = read_pools(photos)
    write_images(pool, tmp_path / "data/train")
    models = tmp_path / "models"
    models.mkdir()
    (models / "generator").symlink_to(tiny_sd_folder)
    (models / "oracle").symlink_to(ROOT / "zoo/oracle")
    options = {"--data": tmp_path / "data", "--models": models, "--out": tmp_path}
    arguments = [str(part) for pair in options.items() for part in pair]
    result = CliRunner().invoke(
        main, [*arguments, "--sources", "3", "--steps", "2"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    kept = pd.read_csv(tmp_path / "backgrounds.csv")
    assert list(kept.columns) == list(pd.read_csv(ROOT / "benchmarks/backgrounds.csv").columns)
    assert set(kept["method"]) == {*METHODS, CHANCE}
    assert (kept["n"] <= 3).all()
    assert (tmp_path / "backgrounds-equal.csv").is_file()
    assert (tmp_path / "backgrounds.png").is_file()
