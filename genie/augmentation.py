"""From rendered images to an augmentation set: trajectories, the chosen level, files on disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from genie.adaptive import finalists, largest_shift, positions, settled, shift_ratio
from genie.backbones import ImageModel, embed
from genie.classifiers import Classifier, Examples, TrainingSettings, predict_proba
from genie.errors import GenieError
from genie.images import slug
from genie.records import (
    MEMBER_COLUMNS,
    METADATA_COLUMNS,
    Candidates,
    Request,
    decode_png,
    image_id,
    write_table,
)
from genie.report import ContactRow

TRAJECTORY_COLUMNS = (
    *("task", "target_label", "source_label", "source_id", "replicate", "level", "r", "key"),
    *("steps", "position", "shift_ratio", "chosen", "called_target", "embedding"),
)
_REQUEST_COLUMNS = tuple(field.name for field in fields(Request))

_PAIR = ["task", "target_label", "source_id", "replicate"]

Groups = Mapping[int, Sequence[Candidates]]
"""By task: the requests that compete to become one image, levels ascending."""


def trace(
    group: Sequence[Request],
    *,
    keys: Sequence[str],
    z_levels: np.ndarray,
    z_source: np.ndarray | None,
    z_target: np.ndarray,
) -> list[dict[str, Any]]:
    """A row per level of a (source, target, replicate): its position and whether it is chosen.

    `z_levels` (M, d), `z_source` (d,) or None without a source, `z_target` (d,). One level is
    chosen as it is; of several, the one after the largest shift (Algorithm 1). The position is NaN
    where there is no axis: without a source, with one of the target's own class, or, at one level,
    where the two embeddings coincide.
    Raises GenieError naming the pair where levels compete and source and target coincide.
    """
    along = np.full(len(group), np.nan)
    if z_source is not None and group[0].source_label != group[0].target_label:
        try:
            along = positions(z_levels, z_source, z_target)
        except GenieError as error:
            if len(group) > 1:
                pair = f"{group[0].source_label} ({group[0].source_id}) → {group[0].target_label}"
                raise GenieError(f"GeNIe-Ada cannot compare levels for {pair}: {error}") from None
    chosen = largest_shift(along) if len(group) > 1 else 0
    clear = shift_ratio(along) if len(group) > 1 else np.nan
    return [
        {
            **vars(request),
            "level": level,
            "key": keys[level],
            "position": along[level],
            "shift_ratio": clear,
            "chosen": level == chosen,
            "embedding": z_levels[level],
        }
        for level, request in enumerate(group)
    ]


def requested(groups: Groups) -> list[Request]:
    """All requests of all tasks, each once, in first-come order."""
    return list(dict.fromkeys(r for task in groups.values() for group in task for r in group))


@dataclass(frozen=True)
class RealImages:
    """The support images of all tasks, named by `ids`, with the backbone that embedded them."""

    ids: list[str]
    examples: Examples
    backbone: ImageModel


def trace_tasks(
    groups: Groups,
    *,
    support: pd.DataFrame,
    real: RealImages,
    key_of: Callable[[Request], str],
    picture_of: Callable[[str], Image.Image],
) -> pd.DataFrame:
    """Trajectories of all tasks; Z_T is the mean embedding of the target's support images.

    `support` holds the tasks' rows (task, image_id, label). Each image is embedded once, however
    many tasks use it.
    """
    key = {request: key_of(request) for request in requested(groups)}
    keys = sorted(set(key.values()))
    z = dict(zip(keys, embed([picture_of(k) for k in keys], model=real.backbone), strict=True))
    z_real = dict(zip(real.ids, real.examples.embeddings, strict=True))
    found: list[dict[str, Any]] = []
    for task, rows in support.groupby("task"):
        z_class = {
            c: np.mean([z_real[i] for i in own], 0) for c, own in rows.groupby("label")["image_id"]
        }
        for group in groups.get(task, []):
            levels = trace(
                group,
                keys=[key[r] for r in group],
                z_levels=np.stack([z[key[r]] for r in group]),
                z_source=None if group[0].source_id is None else z_real[group[0].source_id],
                z_target=z_class[group[0].target_label],
            )
            found += [{**level, "task": task} for level in levels]
    if not found:
        columns = dict.fromkeys([*TRAJECTORY_COLUMNS, *_REQUEST_COLUMNS])
        return pd.DataFrame(columns=list(columns)).astype({"chosen": bool, "r": float})
    return pd.DataFrame(found)


def as_examples(
    trajectories: pd.DataFrame, *, picture_of: Callable[[str], Image.Image]
) -> Examples:
    """The images of trajectory rows, labelled by their targets."""
    images = [picture_of(key) for key in trajectories["key"]]
    z = np.stack(list(trajectories["embedding"]))
    return Examples(images, z, list(trajectories["target_label"]))


def chosen_requests(trajectories: pd.DataFrame) -> list[Request]:
    """The request behind each chosen row, in table order."""
    chosen = trajectories.loc[trajectories["chosen"], list(_REQUEST_COLUMNS)]
    return [Request(**row) for row in chosen.to_dict("records")]  # type: ignore[misc]


def unclear(groups: Groups, previews: pd.DataFrame, *, below: float) -> dict[int, list[Candidates]]:
    """Of each unclear pair the requests at the levels that decide between its two largest jumps.

    `previews` are the trajectories of `groups`. Unclear is a largest jump less than `below` times
    the second largest.
    """
    found: dict[int, list[Candidates]] = {}
    for task, own in groups.items():
        rows = previews[previews["task"] == task]
        starts = np.cumsum([0, *map(len, own)])
        ratios, positions_ = rows["shift_ratio"].to_numpy(float), rows["position"].to_numpy(float)
        found[task] = [
            tuple(group[level] for level in finalists(positions_[start : start + len(group)]))
            for group, start in zip(own, starts, strict=False)
            if ratios[start] < below
        ]
    return {task: own for task, own in found.items() if own}


def settle(previews: pd.DataFrame, finals: pd.DataFrame) -> pd.DataFrame:
    """The previews' trajectories, with the choice of the unclear pairs made by full renderings.

    `finals` are the trajectories of `unclear`'s requests. Their rows take the place of the
    previews of the same levels.
    """
    if finals.empty:
        return previews
    table = previews.copy()
    full = finals.set_index([*_PAIR, "r"])
    rows = table.index[pd.MultiIndex.from_frame(table[[*_PAIR, "r"]]).isin(full.index)]
    matching = full.loc[list(table.loc[rows, [*_PAIR, "r"]].itertuples(index=False, name=None))]
    for column in ("key", "steps", "position"):
        table.loc[rows, column] = matching[column].to_numpy()
    table.loc[rows, "embedding"] = pd.Series(list(matching["embedding"]), index=rows, dtype=object)
    known = table["position"].where(table.index.isin(rows))
    for _, pair in table[table.set_index(_PAIR).index.isin(full.index.droplevel("r"))].groupby(
        _PAIR, sort=False
    ):
        chosen = settled(known[pair.index].to_numpy(float))
        table.loc[pair.index, "chosen"] = np.arange(len(pair)) == chosen
    return table


def exchange_chosen(
    trajectories: pd.DataFrame,
    keys: Sequence[str],
    embeddings: Sequence[np.ndarray],
    *,
    steps: int,
) -> pd.DataFrame:
    """The chosen rows of other steps, in table order, get another image: key, steps, embedding.

    Their positions stay those of the images that the levels were compared by.
    """
    table = trajectories.copy()
    rows = table.index[table["chosen"] & (table["steps"] != steps)]
    table.loc[rows, "key"] = list(keys)
    table.loc[rows, "steps"] = steps
    table.loc[rows, "embedding"] = pd.Series(list(embeddings), index=rows, dtype=object)
    return table


def called_target(
    trajectories: pd.DataFrame,
    classifiers: Mapping[int, Classifier],
    *,
    picture_of: Callable[[str], Image.Image],
    settings: TrainingSettings,
) -> pd.DataFrame:
    """Add column `called_target`: whether the task's baseline calls the image T."""
    verdicts = pd.Series(False, index=trajectories.index)
    for task, rows in trajectories.groupby("task"):
        classifier = classifiers[task]
        images = [picture_of(k) for k in rows["key"]] if classifier.head == "finetune" else []
        examples = Examples(images, np.stack(list(rows["embedding"])), list(rows["target_label"]))
        columns = predict_proba(classifier, examples, settings=settings).argmax(1)
        called = np.array(classifier.classes)[columns] == rows["target_label"].to_numpy()
        verdicts[rows.index] = called
    return trajectories.assign(called_target=verdicts)


def contact_rows(
    trajectories: pd.DataFrame,
    images: pd.DataFrame,
    support: pd.DataFrame,
    *,
    picture_of: Callable[[str], Image.Image],
) -> list[ContactRow]:
    """One pair per target class of the first task, for the contact sheet."""
    png = dict(zip(images["image_id"], images["png"], strict=True))
    if trajectories.empty:
        return []
    first = trajectories[trajectories["task"] == trajectories["task"].min()]
    real = support[support["task"] == first["task"].iloc[0]]
    example = real.drop_duplicates("label").set_index("label")["image_id"]
    rows = []
    for number, (target, own) in enumerate(first.groupby("target_label")):
        # another pair for each target, so that the sheet shows different sources
        top = own["level"].max()
        starts = [s for s in own.index[own["level"] == 0] if own.loc[s : s + top, "chosen"].any()]
        if not starts:  # all of them were rejected
            continue
        start = starts[number % len(starts)]
        pair = own.loc[start : start + top]
        source = pair["source_id"].iloc[0]
        levels = zip(pair["r"], pair["position"], map(picture_of, pair["key"]), strict=True)
        rows.append(
            ContactRow(
                source_label=str(pair["source_label"].iloc[0] or ""),
                target_label=str(target),
                source=decode_png(png[source]) if source in png else None,
                levels=list(levels),
                chosen=int(pair["chosen"].to_numpy().argmax()),
                target=decode_png(png[example[target]]),
            )
        )
    return rows


def members(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Which task uses which image: the chosen rows, with the file each image has in the set."""
    chosen = trajectories[trajectories["chosen"]].rename(columns={"target_label": "label"})
    names = [
        f"{slug(label)}/{key}.png" for label, key in zip(chosen.label, chosen.key, strict=True)
    ]
    return chosen.assign(file_name=names)


def write_set(
    trajectories: pd.DataFrame,
    folder: Path,
    *,
    provenance: Mapping[str, object],
    png_of: Callable[[str], bytes],
) -> pd.DataFrame:
    """Write the set (an imagefolder data set with provenance) and return its members table.

    `provenance` holds what all images share: method, guidance_scale, scheduler, generator,
    fingerprint. `png_of` gives an image's bytes by key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = members(trajectories)
    images = table.drop_duplicates("file_name").sort_values("file_name").assign(**provenance)
    contents = []
    for row in images.itertuples():
        path = folder / str(row.file_name)
        path.parent.mkdir(exist_ok=True)
        png = png_of(str(row.key))
        path.write_bytes(png)
        contents.append(image_id(decode_png(png)))
    # what the images hold, so that later stages see a change without looking at every file
    images["image_id"] = contents
    write_table(images, folder / "metadata.csv", columns=METADATA_COLUMNS)
    write_table(table, folder / "members.csv", columns=MEMBER_COLUMNS)
    full = trajectories.loc[:, list(TRAJECTORY_COLUMNS)].reset_index(drop=True)
    full.to_parquet(folder / "trajectories.parquet", index=False)
    return table


def read_set(folder: Path, members: pd.DataFrame) -> tuple[list[str], list[Image.Image]]:
    """The set's distinct file names, sorted, and their images."""
    files = sorted(set(members["file_name"]))
    return files, [decode_png((folder / name).read_bytes()) for name in files]
