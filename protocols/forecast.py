"""What a protocol will cost: the images and guided steps of each row, before any is rendered.

    python -m protocols.forecast protocols/photographs-fewshot

Runs the stages before `generate` and plans every row. `new` images and steps are those that no
earlier row of the table has asked for; the store shares the others. Images that a filter rejects
are drawn again, which is not known beforehand and adds to these numbers. Training of tokens
(DA-Fusion) is not counted either; `tokens` is their number.
"""

import os
from functools import partial
from pathlib import Path

import click
import pandas as pd

from genie.data.wording import read_contexts, read_names, wording_in_turn
from genie.errors import GenieError
from genie.generate.methods import METHODS, plan_tasks
from genie.generate.noise import denoising_steps
from genie.generate.request import Request, distinct
from genie.tables import SOURCES, TASKS, read_table
from protocols.execution import run_upstream
from protocols.specification import Run, read_protocol, runs_of
from stages import select_sources
from stages.shared.generation import ratios_of
from stages.shared.params import read_yaml
from stages.shared.settings import images_per_class


def requests_of(run: Run) -> tuple[list[Request], int]:
    """Return the distinct requests of a row, and its number of learned tokens.

    Captions and tokens are not read: prompts differ from those that are rendered, but not their
    number.
    """
    params, method = run.params, METHODS[run.params.method]
    select_sources.main.main(run_upstream(run), standalone_mode=False)
    tasks = read_table(run.place / "data/prepared/tasks.csv", TASKS)
    support = tasks[tasks["role"] == "support"]
    wording = partial(
        wording_in_turn,
        templates=method.templates or params.prompt.templates,
        superclass=params.prompt.superclass,
        negative=params.prompt.negative,
        names=read_names(params.prompt.names),
        contexts=read_contexts(params.prompt.contexts) if method.contexts else None,
    )
    wanted = plan_tasks(
        params.method,
        support,
        read_table(run.place / "data/sources/sources.csv", SOURCES),
        ratios=ratios_of(params),
        per_class=partial(images_per_class, params),
        every_source=params.sources.strategy == "all",
        wording_of=lambda task: wording,
        seed=params.seed,
    )
    sets = support.groupby(["task", "label"])["image_id"].agg(lambda ids: tuple(sorted(ids)))
    return distinct(wanted), len(set(sets)) if method.learns else 0


def forecast(runs: list[Run]) -> pd.DataFrame:
    """Return a row per run: images and guided steps, in all and new to the table."""
    seen: set[tuple[str, Request]] = set()
    rows = []
    for run in runs:
        steps = run.params.generator.steps
        if steps is None:
            raise GenieError(
                f"{run.setting}: {run.row}: generator.steps must be a number to count steps, got "
                "null; set it in the protocol"
            )
        requests, tokens = requests_of(run)
        method = METHODS[run.params.method]
        own = run.params.method if method.captions or method.learns else ""
        new = [request for request in requests if (own, request) not in seen]
        seen |= {(own, request) for request in new}
        rows.append(
            {
                "setting": run.setting,
                "row": run.row,
                "images": len(requests),
                "steps": sum(denoising_steps(request.r, steps) for request in requests),
                "new_images": len(new),
                "new_steps": sum(denoising_steps(request.r, steps) for request in new),
                "tokens": tokens,
            }
        )
    return pd.DataFrame(rows)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--params", "base", type=Path, default="params.yaml", show_default=True)
@click.option("--overlay", type=Path, help="YAML of parameters put on top.")
@click.option("--place", type=Path, default=".genie/forecast", show_default=True)
def main(folder: Path, base: Path, overlay: Path | None, place: Path) -> None:
    os.environ.setdefault("DVC_ROOT", str(Path.cwd()))
    try:
        protocol = read_protocol(folder / "protocol.yaml", overlay)
        table = forecast(runs_of(protocol, read_yaml(base), place / folder.name))
    except GenieError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table.to_string(index=False))
    click.echo(
        f"in all: {table['new_images'].sum():,} images in {table['new_steps'].sum():,} guided "
        f"steps, {table['tokens'].sum():,} tokens"
    )


if __name__ == "__main__":
    main()
