"""Run every method of a protocol through the stages and write its table.

A protocol is a folder with `protocol.yaml`:

    title: a line for the table
    params: {data.tasks: 10}            # on top of params.yaml, in every row
    settings:                           # groups of rows, each with parameters of its own
      logistic regression: {}
      from scratch: {classifier.pretrained: false, rows: [GeNIe-Ada]}   # only some of the rows
    rows:                               # methods to compare
      GeNIe-Ada: {noise.r: ada}
    reference: GeNIe-Ada                # the row that all others are compared with
    paper: {logistic regression: {GeNIe-Ada: 0.5}}   # optional: published accuracies

Out: `results.csv` (a row per setting and method), `tasks.csv` (accuracy per task), `results.md`
and `results.png`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import yaml

from genie.errors import GenieError
from genie.images import slug
from genie.metrics import holm, interval, paired_p
from genie.records import write_table
from genie.report import result_figure
from stages import (
    evaluate,
    generate,
    prepare,
    retrain,
    select_sources,
    train_baseline,
)
from stages.params import Params, read_yaml
from stages.validate import check_paths

BASELINE = "Weak"
GROUPS = ("many", "medium", "few")
SHARES = ("boundary", *GROUPS)
TASK_COLUMNS = ("setting", "row", "task", "accuracy", *SHARES)
RESULT_COLUMNS = (
    *("setting", "row", "accuracy", "low", "high", "gain", "gain_low", "gain_high"),
    *("to_reference", "to_reference_low", "to_reference_high", "p_holm", "n"),
    *SHARES,
    *("label_consistency", "mean_r", "images", "rejected", "guided_steps", "paper"),
)
UPSTREAM = ("seed", "data", "augment", "prompt", "classifier")


@dataclass(frozen=True)
class Protocol:
    """What `protocol.yaml` says; parameters are keyed as on the command line ("noise.r").

    `chosen` names the rows of each setting, all of `rows` unless the setting says otherwise.
    `overlay` goes on top of the settings; a row's own parameters stay.
    """

    title: str
    params: Mapping[str, object]
    settings: Mapping[str, Mapping[str, object]]
    rows: Mapping[str, Mapping[str, object]]
    chosen: Mapping[str, Sequence[str]]
    overlay: Mapping[str, object]
    reference: str
    paper: Mapping[str, Mapping[str, float]]


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--params", "base", type=Path, default="params.yaml", show_default=True)
@click.option("--overlay", type=Path, help="YAML of parameters put on top, such as paper.yaml.")
@click.option("--out", type=Path, help="Folder of the tables.  [default: FOLDER]")
def main(folder: Path, base: Path, overlay: Path | None, out: Path | None) -> None:
    """Run every method of the protocol in FOLDER and write its table."""
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))  # all rows share one store
    out = out or folder
    try:
        protocol = read_protocol(folder / "protocol.yaml", overlay)
        tasks, facts = run_rows(protocol, read_yaml(base), Path(".genie/protocols") / folder.name)
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    results = compare(protocol, tasks, facts)
    write_table(tasks, out / "tasks.csv", columns=TASK_COLUMNS)
    write_table(results, out / "results.csv", columns=RESULT_COLUMNS)
    result_figure(results, reference=protocol.reference, path=out / "results.png")
    text = markdown(protocol, results)
    (out / "results.md").write_text(text, encoding="utf-8")
    click.echo(text)


def read_protocol(path: Path, overlay: Path | None = None) -> Protocol:
    """The protocol of a YAML file, with the parameters of `overlay` on top of its settings.

    Raises GenieError for a missing or unknown key, or a reference that is no row.
    """
    raw = read_yaml(path)
    known = ("title", "params", "settings", "rows", "reference", "paper")
    if odd := sorted(set(raw) - set(known)):
        raise GenieError(f"{path}: {odd[0]} is not a known key; there are {', '.join(known)}")
    if missing := [key for key in known[:5] if key not in raw]:
        raise GenieError(f"{path}: {missing[0]} is missing")
    reference, rows = raw["reference"], raw["rows"]
    chosen = {name: list(own.get("rows", rows)) for name, own in raw["settings"].items()}
    for setting, names in chosen.items():
        if unknown := [name for name in names if name not in rows]:
            raise GenieError(f"{path}: settings.{setting}: {unknown[0]!r} is not one of the rows")
        if reference not in names:
            raise GenieError(
                f"{path}: reference must be one of the rows of {setting}, got {reference!r}"
            )
    return Protocol(
        title=raw["title"],
        params=raw["params"],
        settings={
            name: {key: value for key, value in own.items() if key != "rows"}
            for name, own in raw["settings"].items()
        },
        rows=rows,
        chosen=chosen,
        overlay=read_yaml(overlay) if overlay else {},
        reference=reference,
        paper=raw.get("paper", {}),
    )


def override(params: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """A copy of the parameters with dotted keys set; the stages check them."""
    result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    for key, value in changes.items():
        *sections, name = key.split(".")
        at: Any = result
        for section in sections:
            if not isinstance(at.get(section), dict):
                raise GenieError(f"{key} is not a parameter: params.yaml has no section {section}")
            at = at[section]
        at[name] = value
    return result


def run_rows(
    protocol: Protocol, base: Mapping[str, Any], root: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracies by setting, row and task; and facts by setting and row. Work is under `root`."""
    tasks: list[pd.DataFrame] = []
    facts: list[dict[str, Any]] = []
    total = sum(map(len, protocol.chosen.values()))
    for *_, params, _ in _runs(protocol, base, root):
        check_paths(Params.model_validate(params))
    for setting, row, params, place in _runs(protocol, base, root):
        click.echo(f"[{len(facts) + 1} of {total}] {setting}: {row}")
        scores, found = run_row(params, place)
        names = {"augmented": row}
        if not any(fact["setting"] == setting for fact in facts):
            names["baseline"] = BASELINE
        own = scores[scores["model"].isin(names)]
        tasks.append(own.assign(setting=setting, row=own["model"].map(names)))
        facts.append({"setting": setting, "row": row, **found})
    return pd.concat(tasks, ignore_index=True), pd.DataFrame(facts)


def run_row(params: Mapping[str, Any], place: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The accuracy table of one row and its facts; a row that ran before is read, not run."""
    key = hashlib.sha256(row_inputs(params).encode()).hexdigest()[:24]
    kept = place / "rows" / f"{key}.json"
    if kept.is_file():
        found = json.loads(kept.read_text())
        scores = pd.DataFrame(found["scores"]).astype(dict.fromkeys(SHARES, float))
        return scores, found["facts"]
    run_stages(params, place)
    scores = pd.read_csv(place / "metrics/tasks.csv")
    summary = json.loads((place / "metrics/evaluate.json").read_text())
    cost = json.loads((place / "metrics/cost.json").read_text())
    facts = {name: summary[name] for name in ("label_consistency", "mean_r", "images")}
    facts |= {"guided_steps": cost["guided_steps_needed"], "rejected": cost["rejected"]}
    kept.parent.mkdir(exist_ok=True)
    records = json.loads(scores.to_json(orient="records"))
    kept.write_text(json.dumps({"scores": records, "facts": facts}))
    return scores, facts


def _runs(
    protocol: Protocol, base: Mapping[str, Any], root: Path
) -> Iterator[tuple[str, str, dict[str, Any], Path]]:
    for setting, own in protocol.settings.items():
        for row in protocol.chosen[setting]:
            changes = {**protocol.params, **own, **protocol.overlay, **protocol.rows[row]}
            params = override(base, changes)
            yield setting, row, params, root / slug(setting)


def run_stages(params: Mapping[str, Any], root: Path) -> None:
    """All stages in `root`; `prepare` and `train_baseline` only where their inputs changed."""
    root.mkdir(parents=True, exist_ok=True)
    done = root / "upstream.json"
    upstream = upstream_of(params)
    file = root / "params.yaml"
    file.write_text(yaml.safe_dump(dict(params), sort_keys=False))
    arguments = ["--params", str(file), "--root", str(root)]
    if not done.is_file() or done.read_text() != upstream:
        done.unlink(missing_ok=True)
        for stage in (prepare, train_baseline):
            stage.main.main(arguments, standalone_mode=False)
        done.write_text(upstream)
    shutil.rmtree(root / "data/augmented", ignore_errors=True)
    for stage in (select_sources, generate, retrain, evaluate):
        stage.main.main(arguments, standalone_mode=False)


def upstream_of(params: Mapping[str, Any]) -> str:
    """All that `prepare` and `train_baseline` depend on, as text: parameters, files and code."""
    every_source = params["sources"]["strategy"] == "all"  # sets how many copies there are
    paths = (params["data"]["path"], params["classifier"]["backbone"], params["prompt"]["names"])
    files = [_files(Path(path)) for path in paths]
    code = hashlib.sha256()
    for path in sorted(p for folder in ("genie", "stages") for p in Path(folder).glob("*.py")):
        code.update(path.read_bytes())
    known = [{key: params[key] for key in UPSTREAM}, every_source, files, code.hexdigest()]
    return json.dumps(known, sort_keys=True)


def row_inputs(params: Mapping[str, Any]) -> str:
    """All that a row depends on, as text."""
    models = [Path(params["generator"]["model"]), Path(params["oracle"]["model"])]
    prompt = [Path(params["prompt"][name]) for name in ("captions", "contexts")]
    files = [_files(path) for path in (*models, *prompt, Path(params["filter"]["clip"]))]
    return json.dumps([upstream_of(params), dict(params), files], sort_keys=True)


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the files under a path, which tell whether it changed."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in found]


def compare(protocol: Protocol, tasks: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """The table of results: means over tasks, and differences paired by task.

    Intervals are Student's t over tasks (95%); p values are of paired t-tests against the
    reference row, by Holm's correction over the rows of one setting.
    """
    tables = []
    for setting in protocol.settings:
        wide = tasks[tasks["setting"] == setting].pivot(
            index="task", columns="row", values="accuracy"
        )
        names = [BASELINE, *(row for row in protocol.chosen[setting] if row != BASELINE)]
        reference = wide[protocol.reference]
        others = [row for row in names if row != protocol.reference]
        p_values = [paired_p(wide[row], reference) for row in others]
        known = [1.0 if p is None else p for p in p_values]
        corrected = dict(zip(others, holm(known), strict=True))
        for row in names:
            own = tasks[(tasks["setting"] == setting) & (tasks["row"] == row)]
            accuracy = interval(wide[row])
            gain = interval(wide[row] - wide[BASELINE])
            gap = interval(wide[row] - reference)
            tables.append(
                {
                    "setting": setting,
                    "row": row,
                    "accuracy": accuracy["mean"],
                    "low": accuracy["low"],
                    "high": accuracy["high"],
                    "gain": gain["mean"],
                    "gain_low": gain["low"],
                    "gain_high": gain["high"],
                    "to_reference": gap["mean"],
                    "to_reference_low": gap["low"],
                    "to_reference_high": gap["high"],
                    "p_holm": _rounded(corrected.get(row)),
                    "n": accuracy["n"],
                    **{g: _rounded(own[g].mean()) for g in SHARES},
                    "paper": protocol.paper.get(setting, {}).get(row),
                }
            )
    table = pd.DataFrame(tables)
    return table.merge(facts, on=["setting", "row"], how="left").loc[:, list(RESULT_COLUMNS)]


def markdown(protocol: Protocol, results: pd.DataFrame) -> str:
    """The table for people: percentages with their interval, our figure beside the paper's."""
    lines = [f"# {protocol.title}", ""]
    for setting, own in results.groupby("setting", sort=False):
        shown = [g for g in SHARES if own[g].notna().any()]
        if sum(g in shown for g in GROUPS) == 1:  # one group alone says the same as the accuracy
            shown = [g for g in shown if g not in GROUPS]
        published = bool(own["paper"].notna().any())
        head = ["method", "accuracy", *shown, "gain over weak", f"minus {protocol.reference}"]
        head += ["label consistency", "mean r", "images", "rejected", "guided steps"]
        head += ["paper"] * published
        lines += [f"## {setting} (n = {own['n'].iloc[0]} tasks)", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for row in own.to_dict("records"):
            cells = [
                str(row["row"]),
                _percent(row["accuracy"], row["low"], row["high"]),
                *(_percent(row[g]) for g in shown),
                _percent(row["gain"], row["gain_low"], row["gain_high"], signed=True),
                _percent(
                    row["to_reference"],
                    row["to_reference_low"],
                    row["to_reference_high"],
                    signed=True,
                ),
                _percent(row["label_consistency"]),
                "" if _empty(row["mean_r"]) else f"{row['mean_r']:.2f}",
                "" if _empty(row["images"]) else f"{row['images']:.0f}",
                "" if _empty(row["rejected"]) else f"{row['rejected']:,.0f}",
                "" if _empty(row["guided_steps"]) else f"{row['guided_steps']:,.0f}",
            ]
            cells += [_percent(row["paper"])] * published
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "Accuracy in percent, mean over tasks ± 95% interval (Student's t). Differences are paired "
        "by task. `Weak` is the baseline: support images and weak copies, as many samples as every "
        "other row trains on. `boundary`: accuracy between the classes that are most often taken "
        "for one another on the support images, two at a time (chance is about 50).",
        "",
    ]
    return "\n".join(lines)


def _percent(
    mean: float | None, low: float | None = None, high: float | None = None, *, signed: bool = False
) -> str:
    if _empty(mean):
        return ""
    text = f"{100 * mean:+.1f}" if signed else f"{100 * mean:.1f}"  # type: ignore[operator]
    return text if _empty(low) else f"{text} ± {50 * (high - low):.1f}"  # type: ignore[operator]


def _empty(value: float | None) -> bool:
    return value is None or bool(np.isnan(value))


def _rounded(value: float | None) -> float | None:
    return None if _empty(value) else round(float(value), 6)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
