"""What the tables say about each claim of README and docs, as one family of tests.

    python -m protocols.claims

A claim compares two rows of a recorded table, or of the groups of queries in
`benchmarks/unusual.csv` (`protocols/claims.yaml`). Its interval is that of the tables: Student's t
over tasks, wider by what their support images have in common. p values are of paired t-tests, by
Holm's correction over all claims that are recorded: one family, so that a difference which is one
of many must be clearer than one that stands alone.
Out: protocols/claims.csv, a row per claim, and claims.png.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pandas as pd
import yaml
from scipy import stats

from genie.errors import GenieError
from genie.figures.claims import claims_figure
from genie.measure.metrics import Interval, holm, interval, paired_p, percent
from genie.tables import Schema, write_table
from genie.tools.protocol import read_scores, read_shared

CLAIMS: Schema = {
    "table": str,
    "setting": str,
    "row": str,
    "other": str,
    "share": str,
    "difference": float,
    "low": float,
    "high": float,
    "n": int,
    "p": float,
    "p_holm": float,
    "verdict": str,
}
LEVEL = 0.05
VERDICTS = ("above", "below", "not clearly different from")
PROTOCOLS = Path("protocols")
UNUSUAL = "unusual"
"""The table of benchmarks/unusual.csv, whose shares are groups of queries, and its columns."""
UNUSUAL_COLUMNS = {"Txt2Img": "to_txt2img", "Img2Img H (r = 0.7)": "to_img2img"}


@dataclass(frozen=True)
class Claim:
    """Two rows of a table under one setting.

    `share` is "accuracy", one of metrics.SHARES, or a group of `benchmarks/unusual.csv`.
    """

    table: str
    setting: str
    row: str
    other: str
    share: str = "accuracy"


@click.command()
@click.option("--protocols", "root", type=Path, default=PROTOCOLS, show_default=True)
def main(root: Path) -> None:
    """Compare the rows of all claims, and write claims.csv and claims.png."""
    try:
        table, missing = judged(read_claims(root / "claims.yaml"), root)
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    write_table(table, root / "claims.csv", CLAIMS)
    claims_figure(_drawn(table), path=root / "claims.png")
    for row in table.to_dict("records"):
        click.echo(
            f"{row['table']}, {row['setting']}: {row['row']} is {row['verdict']} {compared(row)}"
        )
    click.echo(f"{len(table)} claims in one family")
    if missing:
        names = ", ".join(dict.fromkeys(f"{claim.table} ({claim.setting})" for claim in missing))
        click.echo(f"{len(missing)} claims are not recorded yet, of {names}")


def read_claims(path: Path) -> list[Claim]:
    """The claims of a file: table, setting, and pairs [row, other] or [row, other, share].

    GenieError for an entry of another form.
    """
    claims = []
    for table, settings in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for setting, pairs in settings.items():
            for pair in pairs:
                if not isinstance(pair, list) or len(pair) not in (2, 3):
                    raise GenieError(
                        f"{path}: {table}, {setting}: a claim must be [row, other] or "
                        f"[row, other, share], got {pair!r}"
                    )
                claims.append(Claim(table, setting, *pair))
    return claims


def judged(claims: Sequence[Claim], root: Path) -> tuple[pd.DataFrame, list[Claim]]:
    """The table of the recorded claims (schema CLAIMS), and the claims that no table holds."""
    rows, missing = [], []
    for claim in claims:
        try:
            rows.append(_compared(claim, root))
        except GenieError:
            missing.append(claim)
    table = pd.DataFrame(rows, columns=list(CLAIMS))
    table["p_holm"] = holm(table["p"].to_list())
    table["verdict"] = list(_verdicts(table))
    return table.astype(dict(CLAIMS)), missing


def compared(claim: dict) -> str:
    """What a row is compared with, such as "B (+5.8 ± 1.4, p = 0.001)"; p where it is clear."""
    on = "" if claim["share"] == "accuracy" else f" on `{claim['share']}`"
    size = percent(claim["difference"], claim["low"], claim["high"], signed=True)
    p = "p < 0.001" if claim["p_holm"] < 0.001 else f"p = {claim['p_holm']:.3f}"
    found = size if claim["verdict"] == VERDICTS[-1] else f"{size}, {p}"
    return f"{claim['other']}{on} ({found})"


def images_of(table: str) -> str:
    """The data set of a table."""
    of_photographs = table == UNUSUAL or table.startswith("photographs")
    return "Photographs" if of_photographs else "Fashion-MNIST"


def _drawn(table: pd.DataFrame) -> pd.DataFrame:
    """The claims as `claims_figure` takes them; a table's only setting is not repeated."""
    settings = table.groupby("table")["setting"].transform("nunique")
    place = table["table"].str.removeprefix("photographs-")
    place = place.where(settings == 1, place + ", " + table["setting"])
    on = (" on " + table["share"]).where(table["share"] != "accuracy", "")
    label = place + ": " + table["row"] + " minus " + table["other"] + on
    return table.assign(panel=table["table"].map(images_of), label=label)


def _compared(claim: Claim, root: Path) -> dict:
    """One claim without Holm's p; GenieError if no table holds it."""
    gap, p = (
        _in_group(claim, pd.read_csv(root.parent / "benchmarks/unusual.csv"))
        if claim.table == UNUSUAL
        else _over_tasks(claim, root / claim.table)
    )
    return {
        **{name: getattr(claim, name) for name in ("table", "setting", "row", "other", "share")},
        "difference": gap.mean,
        "low": gap.low,
        "high": gap.high,
        "n": gap.n,
        "p": 1.0 if p is None else p,
    }


def _over_tasks(claim: Claim, folder: Path) -> tuple[Interval, float | None]:
    """The difference of two rows over the tasks of a table, and its p."""
    scores = read_scores(folder, claim.setting, (claim.row, claim.other))
    shared = read_shared(folder, claim.setting)
    own = scores[scores["setting"] == claim.setting]
    wide = own.pivot(index="task", columns="row", values=claim.share)[[claim.row, claim.other]]
    wide = wide.dropna()
    if wide.empty:
        raise GenieError(f"{folder} has no {claim.share} of {claim.row}")
    gap = interval(wide[claim.row] - wide[claim.other], shared=shared)
    return gap, paired_p(wide[claim.row], wide[claim.other], shared=shared)


def _in_group(claim: Claim, table: pd.DataFrame) -> tuple[Interval, float | None]:
    """The difference that a table of groups holds, and the p that its interval implies."""
    group = "all" if claim.share == "accuracy" else claim.share
    wanted = {"setting": claim.setting, "method": claim.row, "group": group}
    own = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    if own.empty or claim.other not in UNUSUAL_COLUMNS:
        raise GenieError(f"benchmarks/unusual.csv has no {claim}")
    column = UNUSUAL_COLUMNS[claim.other]
    mean, low, high = (float(own[f"{column}{end}"].iloc[0]) for end in ("", "_low", "_high"))
    freedom = int(own["n"].iloc[0]) - 1
    t = mean / ((high - low) / 2 / stats.t.ppf(0.975, freedom))
    return Interval(mean, low, high, freedom + 1), float(2 * stats.t.sf(abs(t), freedom))


def _verdicts(table: pd.DataFrame) -> Iterator[str]:
    for difference, p in zip(table["difference"], table["p_holm"], strict=True):
        above, below, unclear = VERDICTS
        yield unclear if p >= LEVEL else above if difference > 0 else below


if __name__ == "__main__":
    main()
