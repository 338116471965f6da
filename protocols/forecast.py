"""What a protocol will cost: the images and guided steps of each row, before any is rendered.

    python -m protocols.forecast protocols/photographs-fewshot

Runs the stages before `generate` and plans every row. `new` images and steps are those that no
earlier row of the table has; the store shares the others. Images that a filter rejects are drawn
again, which is not known beforehand and adds to these numbers. Training of tokens (DA-Fusion) is
not counted either; `tokens` is their number.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd

from genie.cli.messages import in_keys
from genie.core.errors import GenieError, InvalidValueError
from genie.core.seeding import identity
from genie.pipeline import planned_slots, read_tasks
from genie.plan.forecast import forecast
from genie.plan.requests import Request, distinct
from genie.settings import augmentation, read_yaml
from protocols.execution import run_upstream
from protocols.specification import Row, read_protocol, rows_of
from stages import select_sources


def requests_of(row: Row) -> tuple[list[Request], int]:
    """Return the distinct requests of a row, and its number of learned tokens.

    Tokens are not learned: prompts with tokens differ from those that are rendered, but not their
    number.
    """
    select_sources.main.main(run_upstream(row), standalone_mode=False)
    tasks, settings = read_tasks(row.place), augmentation(row.params)
    slots = planned_slots(tasks, settings)
    if not settings.chosen_method.learns:
        return distinct(slots), 0
    classes = [ids for task in tasks for _, ids in task.support.groupby("label")["image_id"]]
    return distinct(slots), len(set(map(identity, classes)))


def costs(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the images and guided steps of each row, in all and new to the table."""
    seen: set[tuple[str, Request]] = set()
    counted = []
    for row in rows:
        steps = row.params.generator.steps
        if steps is None:
            raise InvalidValueError(
                f"{row.setting}: {row.name}: generator.steps must be a number to count steps, got "
                "null",
                remedy="set it in the protocol",
            )
        requests, tokens = requests_of(row)
        own = row.params.method if tokens else ""
        new = [request for request in requests if (own, request) not in seen]
        seen |= {(own, request) for request in new}
        every, added = forecast(requests, steps), forecast(new, steps)
        counted.append(
            {
                "setting": row.setting,
                "row": row.name,
                "images": every.images,
                "steps": every.guided_steps,
                "new_images": added.images,
                "new_steps": added.guided_steps,
                "tokens": tokens,
            }
        )
    return pd.DataFrame(counted)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--params", "base", type=Path, default="params.yaml", show_default=True)
@click.option("--overlay", type=Path, help="YAML of parameters put on top.")
@click.option("--place", type=Path, default=".genie/forecast", show_default=True)
def main(folder: Path, base: Path, overlay: Path | None, place: Path) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    try:
        protocol = read_protocol(folder / "protocol.yaml", overlay)
        table = costs(rows_of(protocol, read_yaml(base), place / folder.name))
    except GenieError as error:
        raise click.ClickException(in_keys(error)) from error
    click.echo(table.to_string(index=False))
    click.echo(
        f"in all: {table['new_images'].sum():,} images in {table['new_steps'].sum():,} guided "
        f"steps, {table['tokens'].sum():,} tokens"
    )


if __name__ == "__main__":
    main()
