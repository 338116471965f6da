"""Paired comparisons of pipeline runs, of the rows of a table, and of a family of row pairs.

`paired` compares two methods on the tasks that both have, and `with_holm` corrects the p-values of
a family. `compare_runs` (for `genie compare`), `compare_rows` (for the tables of protocols/) and
`compare_pairs` (for the comparisons of protocols/) use these two functions.

Runs are paired only on tasks with the same id (`data.tasks.task_id`), which have the same support
and query sets. Runs without common tasks are not paired, and a note names these runs.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from genie.core.errors import require_choice
from genie.core.tables import COMPARISON
from genie.measure.metrics import SHARE, Interval, holm, interval, paired_p

ROWS = (
    *("accuracy", "low", "high"),
    *("gain", "gain_low", "gain_high"),
    *("to_reference", "to_reference_low", "to_reference_high"),
    "n",
)
"""The columns of `compare_rows` after `row`."""

SEED = "seed"
"""The parameter that varies in intervals "over seeds"."""

TASKS, SEEDS = "tasks", "seeds"
"""Values of the comparison's column `over`: what the intervals of a row are taken over."""

Row = dict[str, object]


@dataclass(frozen=True)
class Paired:
    """The difference in [-1, 1] between two methods with its interval and the test's p-value."""

    difference: Interval
    p: float | None


@dataclass(frozen=True, eq=False)
class PipelineRun:
    """The record of one pipeline run.

    `names` contains all names of the run, such as a branch and a tag. `params` maps dotted keys to
    values. `scores` has the columns of SCORES; `task_id` is "" if an earlier version wrote the
    scores. Unknown numbers are None. `seconds` is the time spent on this machine.
    """

    names: tuple[str, ...]
    params: Mapping[str, object]
    scores: pd.DataFrame
    images: int | None = None
    guided_steps: int | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """The run's names, shortened if there are many."""
        first, *others = self.names
        return ", ".join(self.names) if len(others) < 3 else f"{first} and {len(others)} more"

    @property
    def seed(self) -> str:
        """The run's seed as text, or "" if the parameters have no seed."""
        return str(self.params.get(SEED, ""))

    @cached_property
    def accuracies(self) -> pd.DataFrame:
        """The accuracy and gain on each task.

        The index contains the task's id and a number among tasks with equal ids.
        """
        wide = self.scores.pivot(index=["task", "task_id"], columns="model", values="accuracy")
        wide = wide.reset_index().sort_values("task")
        index = pd.MultiIndex.from_arrays([wide["task_id"], wide.groupby("task_id").cumcount()])
        columns = {"accuracy": wide["augmented"], "gain": wide["augmented"] - wide["baseline"]}
        return pd.DataFrame(columns).set_axis(index)

    @cached_property
    def tasks(self) -> frozenset[tuple[str, int]]:
        """The keys of `accuracies`."""
        return frozenset(self.accuracies.index)

    @property
    def identified(self) -> bool:
        """Whether the run's tasks have ids."""
        return bool(self.scores["task_id"].all())


def compare_runs(runs: Sequence[PipelineRun], reference: int) -> tuple[pd.DataFrame, list[str]]:
    """Compare runs with the run number `reference`; return a table and notes.

    The table has the schema COMPARISON. In its first rows, `over` is "tasks". There is one row per
    run, with Student's t intervals (95%) over tasks; runs that differ only in `seed` are adjacent.
    If there are such runs, further rows follow, in which `over` is "seeds". There is one row per
    setting, with intervals over the means of its seeds. `to_reference` is the accuracy minus the
    reference's accuracy on the same tasks, over `pairs` tasks or seeds. A run is paired with the
    run of the reference's setting that has the same tasks. `p` is the p-value of the paired t-test,
    and `p_holm` is corrected over all rows with the same `over`.

    The notes name the runs that cannot be paired or averaged, and give the reason.
    """
    chosen = runs[reference]
    peers = [run for run in runs if _setting(run) == _setting(chosen)]
    shown = varying(runs)
    settings = _by_setting(runs)
    pairs = {run: _pairs(run, chosen, peers) for members in settings for run in members}
    rows = [_row(TASKS, [run], shown, run.accuracies, pairs[run]) for run in pairs]
    notes = _unpaired(chosen, peers, pairs)
    tables = [with_holm(pd.DataFrame(rows))]
    once = [members for members in settings if not _doubled(members)]
    if any(len(members) > 1 for members in once):
        notes += [note for members in settings if (note := _doubled(members))]
        means = [_over_seeds(members, shown, pairs) for members in once]
        tables.append(with_holm(pd.DataFrame(means)))
    table = pd.concat(tables, ignore_index=True)
    return table.loc[:, list(COMPARISON)].astype(dict(COMPARISON)), notes


def varying(runs: Sequence[PipelineRun]) -> list[str]:
    """Return the parameters other than `seed` whose values differ between runs, in file order."""
    keys = dict.fromkeys(key for run in runs for key in run.params if key != SEED)
    return [key for key in keys if len({_text(run.params, key) for run in runs}) > 1]


def paired(own: pd.Series, other: pd.Series, *, shared: float = 0.0) -> Paired:
    """Compare two methods on their common tasks: return own minus other, and the p-value.

    Both series contain accuracies in [0, 1] by task. `shared` is the share of support images that
    two tasks have in common (`metrics.interval`).
    """
    both = pd.DataFrame({"own": own, "other": other}).dropna()
    gap = interval(both["own"] - both["other"], shared=shared)
    return Paired(gap, paired_p(both["own"], both["other"], shared=shared))


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column `p_holm`: the column `p` corrected over all rows that have a p-value."""
    p = table["p"].astype(float)
    tested = p.notna()
    corrected = pd.Series(np.nan, index=table.index)
    corrected[tested] = holm(p[tested].tolist())
    return table.assign(p=p, p_holm=corrected)


def compare_rows(
    scores: pd.DataFrame, rows: Sequence[str], *, baseline: str, reference: str, shared: float
) -> pd.DataFrame:
    """Return a line per row: mean accuracy, gain over `baseline`, difference from `reference`.

    `scores` has the columns row, task and accuracy in [0, 1], and any number of other shares, which
    are averaged over tasks. Intervals (95%) are over tasks; `shared` widens them
    (`metrics.interval`). The result has the columns of `ROWS` and the other shares.
    """
    wide = scores.pivot(index="task", columns="row", values="accuracy")
    shares = scores.columns.drop(["row", "task", "accuracy"])
    means = scores.groupby("row")[list(shares)].mean().round(6)
    lines = []
    for row in rows:
        accuracy = interval(wide[row].dropna(), bounds=SHARE, shared=shared)
        gain = paired(wide[row], wide[baseline], shared=shared).difference
        gap = paired(wide[row], wide[reference], shared=shared).difference
        values = (*_values(accuracy), *_values(gain), *_values(gap), accuracy.n)
        lines.append({"row": row, **dict(zip(ROWS, values, strict=True)), **means.loc[row]})
    return pd.DataFrame(lines)


def compare_pairs(
    scores: pd.DataFrame, pairs: Sequence[Sequence[str]], *, shared: float
) -> list[Row]:
    """Return a line per pair (row, other) or (row, other, share): difference, interval, n, p.

    `scores` is as in `compare_rows`. The accuracy is compared unless the pair names another share.
    Raise InvalidValueError if the scores lack a row or share.
    """
    lines: list[Row] = []
    for row, other, *rest in pairs:
        (share,) = rest or ["accuracy"]
        for name in (row, other):
            require_choice("row", name, scores["row"].unique())
        require_choice("share", share, scores.columns.drop(["row", "task"]))
        wide = scores.pivot(index="task", columns="row", values=share)
        found = paired(wide[row], wide[other], shared=shared)
        values = dict(zip(("difference", "low", "high"), _values(found.difference), strict=True))
        line: Row = {"row": row, "other": other, "share": share}
        lines.append({**line, **values, "n": found.difference.n, "p": found.p})
    return lines


# Pairs


def _is_compared(run: PipelineRun, chosen: PipelineRun, peers: Sequence[PipelineRun]) -> bool:
    """Return whether a run is neither the reference nor another seed of the reference's setting."""
    return run is not chosen and (run not in peers or run.seed == chosen.seed)


def _pairs(run: PipelineRun, chosen: PipelineRun, peers: Sequence[PipelineRun]) -> pd.DataFrame:
    """Return the accuracies of a run and its partner, without rows if the run is not compared."""
    common = _common(run, _partner(run, chosen, peers))
    return common if _is_compared(run, chosen, peers) else common.iloc[:0]


def _common(run: PipelineRun, other: PipelineRun) -> pd.DataFrame:
    """Return the accuracies of two runs on their common tasks (columns own, other)."""
    own, theirs = run.accuracies["accuracy"], other.accuracies["accuracy"]
    both = pd.DataFrame({"own": own, "other": theirs}).dropna()
    return both if run.identified and other.identified else both.iloc[:0]


def _partner(run: PipelineRun, chosen: PipelineRun, peers: Sequence[PipelineRun]) -> PipelineRun:
    """Return the run of the reference's setting with the most common tasks, then the same seed."""
    if run in peers:  # of the same parameters, but other code or data
        return chosen
    return max([chosen, *peers], key=lambda p: (len(run.tasks & p.tasks), p.seed == run.seed))


def _unpaired(
    chosen: PipelineRun, peers: Sequence[PipelineRun], pairs: Mapping[PipelineRun, pd.DataFrame]
) -> list[str]:
    """Return a note for each reason why runs are not paired, or are paired on some tasks only."""
    names: dict[str, list[str]] = {}
    for run, common in pairs.items():
        if _is_compared(run, chosen, peers) and len(common) < len(run.accuracies):
            why = _why_unpaired(run, _partner(run, chosen, peers), len(common))
            names.setdefault(why, []).append(run.name)
    return [f"{why}: {'; '.join(runs)}" for why, runs in names.items()]


def _why_unpaired(run: PipelineRun, partner: PipelineRun, common: int) -> str:
    """Return why a run is not paired with its partner, or is paired on `common` tasks only."""
    beginning = f"not paired with {partner.names[0]}"
    if not partner.identified:
        return f"{beginning}, whose metrics/tasks.csv does not identify its tasks"
    if not run.identified:
        return (
            f"{beginning}, because metrics/tasks.csv of an earlier version does not identify tasks"
        )
    if common:
        beginning = f"paired with {partner.names[0]} on {common} of {len(run.accuracies)} tasks"
    keys = [key for key in varying([run, partner]) if key.startswith("data.")]
    keys = [SEED, *keys] if run.seed != partner.seed else keys
    values = (
        f"{key} is {_text(run.params, key)}, not {_text(partner.params, key)}" for key in keys
    )
    return f"{beginning}, because tasks differ ({'; '.join(values) or 'other images or code'})"


# Several seeds


def _setting(run: PipelineRun) -> str:
    """Return a text that is the same for runs that differ only in their seed."""
    return json.dumps({k: v for k, v in run.params.items() if k != SEED}, sort_keys=True)


def _by_setting(runs: Sequence[PipelineRun]) -> list[list[PipelineRun]]:
    """Group runs that differ only in their seed; sort each group by seed."""
    groups: dict[str, list[PipelineRun]] = {}
    for run in runs:
        groups.setdefault(_setting(run), []).append(run)
    return [sorted(g, key=lambda run: (len(run.seed), run.seed)) for g in groups.values()]


def _doubled(members: Sequence[PipelineRun]) -> str | None:
    """Return a note if a setting has a seed twice.

    Such runs differ in something other than parameters, such as code, so they must not be averaged.
    """
    seed, times = Counter(run.seed for run in members).most_common(1)[0]
    if times == 1:
        return None
    names = " and ".join(run.name for run in members if run.seed == seed)
    return (
        "not averaged over seeds, because runs with the same parameters and seed have other "
        f"results (other code or data): {names}"
    )


def _over_seeds(
    members: Sequence[PipelineRun], shown: Sequence[str], pairs: Mapping[PipelineRun, pd.DataFrame]
) -> Row:
    """Return the row of one setting, whose values are the means of its seeds."""
    means = pd.DataFrame([run.accuracies.mean() for run in members])
    paired = [pairs[run].mean() for run in members if len(pairs[run])]
    return _row(SEEDS, members, shown, means, pd.DataFrame(paired, columns=["own", "other"]))


# Rows


def _row(
    over: str,
    members: Sequence[PipelineRun],
    shown: Sequence[str],
    values: pd.DataFrame,
    pairs: pd.DataFrame,
) -> Row:
    """Return a row of the comparison, without the corrected p-value.

    `values` (accuracy, gain) and `pairs` (own, other) have a row per task or seed.
    """
    shared = _shared(over, members)
    accuracy = interval(values["accuracy"], bounds=SHARE, shared=shared)
    gain = interval(values["gain"], shared=shared)
    test = paired(pairs["own"], pairs["other"], shared=shared)
    gap = test.difference
    first = members[0].params
    return {
        "over": over,
        "row": ", ".join(run.name for run in members),
        "parameters": ", ".join(f"{key}={_text(first, key)}" for key in shown if key in first),
        "seed": ", ".join(run.seed for run in members),
        "n": accuracy.n,
        **dict(zip(("accuracy", "low", "high"), _values(accuracy), strict=True)),
        **dict(zip(("gain", "gain_low", "gain_high"), _values(gain), strict=True)),
        "pairs": gap.n,
        **{f"to_reference{end}": value for end, value in zip(_ENDS, _values(gap), strict=True)},
        "p": test.p,
        "images": _mean([run.images for run in members]),
        "guided_steps": _mean([run.guided_steps for run in members]),
        "seconds": _mean([run.seconds for run in members]),
    }


def _shared(over: str, members: Sequence[PipelineRun]) -> float:
    """Return the correlation of tasks or seeds that are splits of the same images, else 0.

    That of two splits is the share of query images (`metrics.spread_of_mean`), and that of means
    over the splits of two seeds is larger.
    """
    params, ids = members[0].params, {name for run in members for name, _ in run.tasks}
    if params.get("data.regime") != "all" or len(ids) < 2:
        return 0.0
    share = float(str(params.get("data.query_fraction", 0)))
    splits = 1 if over == TASKS else len(members[0].tasks)
    return share / (share + (1 - share) / splits) if share else 0.0


_ENDS = ("", "_low", "_high")


def _values(found: Interval) -> tuple[float | None, float | None, float | None]:
    return found.mean, found.low, found.high


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values, or None if a value is unknown."""
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 2) if len(known) == len(values) else None


def _text(params: Mapping[str, object], key: str) -> str:
    """Return a parameter's value as in params.yaml, or "not set" if it is missing."""
    value = params.get(key, "not set")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
