"""Run the table rows whose parameters or files have changed, and render the pages.

    python -m protocols.run              # all tables
    python -m protocols.run fewshot      # one table

A row is recorded as soon as it is finished (`protocols/record.py`), so the same command resumes a
stopped run. `--out FOLDER` runs a whole table into a separate folder, and `--overlay FILE` changes
the table's parameters, for example to those of the paper.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from genie.cli.messages import in_keys
from genie.core.errors import GenieError
from genie.progress import bar
from genie.settings import read_yaml, require_paths
from protocols.pages import page_of, write_pages
from protocols.record import in_order, read_record, up_to_date, with_row, write_record
from protocols.specification import Row, read_protocol, rows_of

TABLES = Path("protocols")


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--params", "base", type=Path, default="params.yaml", show_default=True)
@click.option("--overlay", type=Path, help="YAML of parameters put on top, such as paper.yaml.")
@click.option("--out", type=Path, help="Folder of the record.  [default: the table's]")
def main(names: tuple[str, ...], base: Path, overlay: Path | None, out: Path | None) -> None:
    if (overlay and not out) or (out and len(names) != 1):
        raise click.ClickException("--overlay needs --out, and --out the name of one table")
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))  # all rows share one store
    try:
        for name in names or sorted(path.parent.name for path in TABLES.glob("*/protocol.yaml")):
            protocol = read_protocol(TABLES / name / "protocol.yaml", overlay)
            place = Path(".genie/protocols") / (out or TABLES / name).name
            update(rows_of(protocol, read_yaml(base), place), out or TABLES / name)
        if out:
            (out / "results.md").write_text(page_of(protocol, read_record(out)), encoding="utf-8")
        else:
            write_pages(Path())
    except GenieError as error:
        raise click.ClickException(in_keys(error)) from error


def update(rows: Sequence[Row], out: Path) -> None:
    """Run the rows whose record in `out` is missing or was made from other parameters or files.

    Raise MissingFileError before anything runs if a path does not exist.
    """
    for row in rows:
        require_paths(row.params)
    before = read_record(out)
    record, names = up_to_date(before, rows), [(row.setting, row.name) for row in rows]
    missing = [row for row in rows if (row.setting, row.name) not in record.digests()]
    if missing:
        from protocols.execution import run_row  # imports torch
    for row in bar(missing, out.name, total=len(missing), unit="row"):
        click.echo(f"{out.name}: {row.setting}: {row.name}")
        record = in_order(with_row(record, row, *run_row(row)), names)
        write_record(record, out)
    if not record.facts.equals(before.facts):  # fewer rows, or another order
        write_record(record, out)
    click.echo(f"{out.name}: {len(missing)} of {len(rows)} rows ran")


if __name__ == "__main__":
    main()
