from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from genie.augmentation import (
    RealImages,
    chosen_requests,
    exchange_chosen,
    members,
    read_set,
    settle,
    trace,
    trace_tasks,
    unclear,
    write_set,
)
from genie.backbones import load_backbone
from genie.classifiers import Examples
from genie.errors import GenieError
from genie.records import MEMBER_COLUMNS, Request, read_table


def traced_levels(*arguments, **named):
    return pd.DataFrame(trace(*arguments, **named))


def group(levels=(0.5, 0.7, 0.9), *, source="s"):
    return [Request(source, "bag", "coat", "a photo of a coat", "", r, 0, 0) for r in levels]


def walk(places):
    """Embeddings at the given places of the axis from (0, 0) to (1, 0), off it by 1."""
    return np.array([[p, 1.0] for p in places])


def test_level_after_the_largest_jump_is_chosen():
    table = traced_levels(
        group(),
        keys=["a", "b", "c"],
        z_levels=walk([0.1, 0.2, 0.8]),
        z_source=np.array([0.0, 0.0]),
        z_target=np.array([1.0, 0.0]),
    )
    assert list(table["chosen"]) == [False, False, True]
    assert list(table["position"]) == pytest.approx([0.1, 0.2, 0.8])
    assert table["shift_ratio"].iloc[0] == pytest.approx(6.0)


def test_a_single_level_is_taken_as_it_is():
    table = traced_levels(
        group((0.7,)),
        keys=["a"],
        z_levels=walk([0.4]),
        z_source=np.array([0.0, 0.0]),
        z_target=np.array([1.0, 0.0]),
    )
    assert list(table["chosen"]) == [True]


def test_without_a_source_there_is_no_position():
    table = traced_levels(
        group((1.0,), source=None),
        keys=["a"],
        z_levels=walk([0.4]),
        z_source=None,
        z_target=np.array([1.0, 0.0]),
    )
    assert np.isnan(table["position"].iloc[0])


def test_coinciding_source_and_target_name_the_pair():
    same = np.array([1.0, 0.0])
    with pytest.raises(GenieError, match=r"bag .s. → coat"):
        trace(group(), keys=["a", "b", "c"], z_levels=walk([0, 0, 0]), z_source=same, z_target=same)


@pytest.mark.parametrize("label", ["coat", "bag"])
def test_one_level_without_an_axis_goes_on_without_a_position(label):
    one = [replace(q, source_label=label) for q in group((0.7,))]
    same = np.array([1.0, 0.0])
    table = traced_levels(one, keys=["a"], z_levels=walk([0.4]), z_source=same, z_target=same)
    assert list(table["chosen"]) == [True]
    assert np.isnan(table["position"].iloc[0])


def test_members_are_the_chosen_images_under_their_class_folder():
    table = pd.DataFrame(
        {"target_label": ["T-shirt/top"] * 2, "key": ["k1", "k2"], "chosen": [False, True]}
    )
    assert list(members(table)["file_name"]) == ["T-shirt%2Ftop/k2.png"]


def traced():
    first = traced_levels(
        group(),
        keys=["a", "b", "c"],
        z_levels=walk([0.1, 0.7, 0.8]),
        z_source=np.array([0.0, 0.0]),
        z_target=np.array([1.0, 0.0]),
    )
    second = traced_levels(
        group(source="q"),
        keys=["d", "e", "f"],
        z_levels=walk([0.1, 0.2, 0.8]),
        z_source=np.array([0.0, 0.0]),
        z_target=np.array([1.0, 0.0]),
    )
    return pd.concat([first, second], ignore_index=True).assign(steps=10)


def test_chosen_rows_give_back_their_requests():
    assert chosen_requests(traced()) == [group()[1], group(source="q")[2]]


def test_chosen_previews_are_exchanged_and_the_rest_stays():
    before = traced()
    z = [np.array([5.0, 5.0]), np.array([6.0, 6.0])]
    after = exchange_chosen(before, ["B", "F"], z, steps=50)
    assert list(after["key"]) == ["a", "B", "c", "d", "e", "F"]
    assert list(after["steps"]) == [10, 50, 10, 10, 10, 50]
    assert [v.tolist() for v in after["embedding"][after["chosen"]]] == [[5.0, 5.0], [6.0, 6.0]]
    assert list(after["position"]) == list(before["position"])
    assert list(before["key"]) == ["a", "b", "c", "d", "e", "f"]


def positioned(places, *, source, steps):
    table = traced_levels(
        group(source=source),
        keys=[f"{source}{steps}{i}" for i in range(len(places))],
        z_levels=walk(places),
        z_source=np.array([0.0, 0.0]),
        z_target=np.array([1.0, 0.0]),
    )
    return table.assign(task=0, steps=steps)


def test_pairs_that_previews_leave_unclear_are_settled_in_full():
    # jumps 0.5 and 0.52 are too near each other, 0.1 and 0.8 are not
    previews = pd.concat(
        [positioned([0.0, 0.5, 1.02], source="s", steps=10),
         positioned([0.0, 0.1, 0.9], source="q", steps=10)],
        ignore_index=True,
    )  # fmt: skip
    groups = {0: [tuple(group(source="s")), tuple(group(source="q"))]}
    wanted = unclear(groups, previews, below=1.1)
    assert wanted == {0: [tuple(group(source="s"))]}
    finals = positioned([0.1, 0.7, 1.0], source="s", steps=50)
    after = settle(previews, finals)
    assert list(after["chosen"]) == [False, True, False, False, False, True]
    assert list(after["key"]) == ["s500", "s501", "s502", "q100", "q101", "q102"]
    assert list(after["position"]) == pytest.approx([0.1, 0.7, 1.0, 0.0, 0.1, 0.9])
    assert list(previews["chosen"]) == [False, False, True, False, False, True]
    # what is left to render in full is the clear pair's choice
    final = exchange_chosen(after, ["Q"], [np.array([7.0, 7.0])], steps=50)
    assert list(final["key"]) == ["s500", "s501", "s502", "q100", "q101", "Q"]


def test_clear_pairs_need_nothing_more():
    previews = positioned([0.0, 0.1, 0.9], source="q", steps=10)
    groups = {0: [tuple(group(source="q"))]}
    assert unclear(groups, previews, below=1.1) == {}
    assert settle(previews, previews.iloc[:0]).equals(previews)


def test_nothing_rendered_is_an_empty_set(tmp_path):
    support = pd.DataFrame({"task": [0], "image_id": ["i"], "label": ["coat"]})
    nothing = trace_tasks(
        {},
        support=support,
        real=RealImages(
            ["i"],
            Examples([], np.ones((1, 2)), ["coat"]),
            load_backbone(Path("zoo/backbone")),
        ),
        key_of=str,
        picture_of=Image.open,
    )
    assert chosen_requests(nothing) == []
    names = ("method", "guidance_scale", "scheduler", "generator", "fingerprint")
    table = write_set(nothing, tmp_path, provenance=dict.fromkeys(names, "none"), png_of=str.encode)
    assert table.empty
    assert read_table(tmp_path / "members.csv", columns=MEMBER_COLUMNS).empty
    assert read_set(tmp_path, table) == ([], [])
