from pathlib import Path

import pytest
import yaml

from genie.core.errors import GenieError
from genie.plan.methods import METHODS
from genie.settings import read_yaml
from protocols.specification import BASELINE, Protocol, Setting, override, read_protocol, rows_of

ROOT = Path(__file__).parents[2]
BASE = read_yaml(ROOT / "params.yaml")
FOLDERS = sorted(path.parent for path in ROOT.glob("protocols/*/protocol.yaml"))
WITH_OVERLAYS = [
    (folder, overlay) for folder in FOLDERS for overlay in (None, *folder.glob("paper*.yaml"))
]
SMALL = {
    "title": "t",
    "params": {"seed": 1},
    "settings": {"one": {"params": {"data.tasks": 5}}},
    "rows": {"A": {"noise.r": 0.7}, "B": {}},
    "reference": "A",
}


def written(folder: Path, **changes: object) -> Path:
    """A protocol's file: SMALL with some keys changed."""
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False))
    return path


def test_there_are_protocols_and_overlays_to_check():
    assert {"fewshot", "longtail", "finegrained"} <= {folder.name for folder in FOLDERS}
    assert sum(overlay is not None for _, overlay in WITH_OVERLAYS) >= 3


@pytest.mark.parametrize(
    ("folder", "overlay"), WITH_OVERLAYS, ids=lambda p: p.name if p else "alone"
)
def test_every_row_of_every_protocol_is_a_valid_set_of_parameters(folder, overlay):
    protocol = read_protocol(folder / "protocol.yaml", overlay)
    rows = rows_of(protocol, BASE, Path("work"))
    assert {row.setting for row in rows} == set(protocol.settings)
    assert {row.name for row in rows} == set(protocol.rows)
    for row in rows:
        for key, value in protocol.overlay.items():
            if key not in protocol.rows[row.name]:
                section, name = key.split(".")
                assert row.params.model_dump(mode="json")[section][name] == value


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_rows_of_methods_that_compare_no_levels_say_their_ratio(folder):
    for row in rows_of(read_protocol(folder / "protocol.yaml"), BASE, Path("work")):
        if METHODS[row.params.method].ratio is not None:
            assert row.params.noise.r != "ada", row.name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_published_accuracies_belong_to_rows_of_the_table(folder):
    protocol = read_protocol(folder / "protocol.yaml")
    for setting, published in protocol.paper.items():
        assert set(published) <= {BASELINE, *protocol.rows_in(setting)}


def test_overlay_goes_over_settings_and_under_rows(tmp_path):
    overlay = tmp_path / "paper.yaml"
    overlay.write_text(yaml.safe_dump({"seed": 2, "data.tasks": 600, "noise.r": 0.9}))
    protocol = read_protocol(written(tmp_path), overlay)
    first, second = rows_of(protocol, BASE, tmp_path)
    assert (first.params.seed, first.params.data.tasks, first.params.noise.r) == (2, 600, 0.7)
    assert second.params.noise.r == 0.9


def test_settings_and_rows_change_what_they_name_and_nothing_else(tmp_path):
    row, plain = rows_of(read_protocol(written(tmp_path)), BASE, tmp_path)
    expected = override(BASE, {"seed": 1, "data.tasks": 5, "noise.r": 0.7})
    assert row.params.model_dump(mode="json") == expected
    assert plain.params.noise.r == BASE["noise"]["r"]


def test_rows_of_a_setting_share_a_folder_of_their_own(tmp_path):
    settings = {"1-shot": {}, "5 shots": {"params": {"data.shots": 5}}}
    rows = rows_of(read_protocol(written(tmp_path, settings=settings)), BASE, Path("work"))
    places = {row.setting: row.place for row in rows}
    assert places == {"1-shot": Path("work/1-shot"), "5 shots": Path("work/5 shots")}


def test_setting_may_name_some_of_the_rows(tmp_path):
    path = written(tmp_path, settings={"one": {}, "two": {"params": {"seed": 1}, "rows": ["A"]}})
    protocol = read_protocol(path)
    assert (protocol.rows_in("one"), protocol.rows_in("two")) == (["A", "B"], ["A"])
    assert [row.params.seed for row in rows_of(protocol, BASE, tmp_path)] == [1, 1, 1]


def test_override_sets_dotted_keys_of_a_copy():
    params = {"seed": 0, "noise": {"r": "ada", "M": 5}}
    changed = override(params, {"noise.r": 0.7, "seed": 3})
    assert changed == {"seed": 3, "noise": {"r": 0.7, "M": 5}}
    assert params == {"seed": 0, "noise": {"r": "ada", "M": 5}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "titel: Extra inputs are not permitted"),
        ({"rows": {}}, "rows: .*at least 1 item"),
        ({"rows": {"A": 0.7}}, r"rows\.A: .*valid dictionary"),
        ({"reference": "C"}, "protocol: .*'C' is not one of the rows of one"),
        ({"settings": {"two": {"rows": ["C"]}}}, "protocol: .*'C' is not one of the rows of two"),
        ({"comparisons": {"one": [["A"]]}}, r"comparisons\.one\.0: .*at least 2 items"),
        ({"comparisons": {"one": [["A", "D"]]}}, "protocol: .*'D' is not one of the rows of one"),
        ({"comparisons": {"two": []}}, "protocol: .*'two' is not one of the settings"),
    ],
)
def test_mistake_in_a_protocol_is_named(tmp_path, changes, message):
    with pytest.raises(GenieError, match=rf"protocol\.yaml: {message}"):
        read_protocol(written(tmp_path, **changes))


def test_missing_key_is_named(tmp_path):
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in SMALL.items() if k != "reference"}))
    with pytest.raises(GenieError, match="reference: Field required"):
        read_protocol(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise.rr": 0.7}, r"noise\.rr is not a known key; did you mean noise\.r\?"),
        ({"nois.r": 0.7}, r"nois is not a known key; did you mean noise\?"),
        ({"sead": 1}, r"sead is not a known key; did you mean seed\?"),
        ({"noise.r": 7}, r'noise\.r must be "ada" or in \(0, 1\], got 7'),
        ({"data.episodes": 600}, r"data\.episodes is no longer a key; use data\.tasks"),
        ({"seed.x": 1}, r"seed: .*got \{'x': 1\}"),
    ],
)
def test_mistake_in_a_row_names_setting_row_and_key_on_one_line(changes, message):
    settings = {"one": Setting()}
    protocol = Protocol(title="t", params={}, settings=settings, rows={"A": changes}, reference="A")
    with pytest.raises(GenieError, match=f"^one: A: {message}") as caught:
        rows_of(protocol, BASE, Path("work"))
    assert "\n" not in str(caught.value)


def test_mistake_in_an_overlay_is_named(tmp_path):
    overlay = tmp_path / "paper.yaml"
    overlay.write_text(yaml.safe_dump({"data.n_shot": 1}))
    with pytest.raises(GenieError, match=r"data\.n_shot is no longer a key; use data\.shots"):
        rows_of(read_protocol(written(tmp_path), overlay), BASE, tmp_path)
