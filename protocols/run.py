"""Run every row of a protocol through the stages and write its table.

    python -m protocols.run protocols/fewshot

`protocols/specification.py` describes `protocol.yaml`. Out: `results.csv` (a row per setting and
method), `tasks.csv` (accuracy per task), `results.md`, `results.png`, and `check.json`, the result
of the reference row on few tasks (`protocols/check.py`).
"""

import json
import os
from pathlib import Path

import click

from genie.cli.messages import in_keys
from genie.core.errors import GenieError
from genie.core.tables import ROW_SCORES, write_table
from genie.figures.results import result_figure
from genie.settings import read_yaml
from protocols.check import few_tasks, outcome
from protocols.execution import run_rows
from protocols.specification import read_protocol, rows_of
from protocols.table import RESULTS, compare, markdown


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--params", "base", type=Path, default="params.yaml", show_default=True)
@click.option("--overlay", type=Path, help="YAML of parameters put on top, such as paper.yaml.")
@click.option("--out", type=Path, help="Folder of the tables.  [default: FOLDER]")
def main(folder: Path, base: Path, overlay: Path | None, out: Path | None) -> None:
    """Run every row of the protocol in FOLDER through the stages and write its table."""
    if overlay and not out:
        raise click.ClickException("--overlay makes another table; name its folder with --out")
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))  # all rows share one store
    out = out or folder
    place = Path(".genie/protocols") / folder.name
    try:
        protocol = read_protocol(folder / "protocol.yaml", overlay)
        scores, facts = run_rows(rows_of(protocol, read_yaml(base), place))
        few = outcome(few_tasks(protocol, read_yaml(base), place / "check"))
    except GenieError as error:
        raise click.ClickException(in_keys(error)) from error
    results = compare(protocol, scores, facts)
    text = markdown(protocol, results)
    write_table(scores, out / "tasks.csv", ROW_SCORES)
    write_table(results, out / "results.csv", RESULTS)
    (out / "results.md").write_text(text, encoding="utf-8")
    (out / "check.json").write_text(json.dumps(few, indent=1) + "\n", encoding="utf-8")
    result_figure(results, reference=protocol.reference, path=out / "results.png")
    click.echo(text)


if __name__ == "__main__":
    main()
