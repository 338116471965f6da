"""Write the parameters and megabytes of the bundled models to `sizes.csv`."""

from math import prod
from pathlib import Path

import click
import pandas as pd
from safetensors import safe_open

from genie.core.tables import Schema, write_table
from zoo.recipes import RECIPES

SIZES: Schema = {"model": str, "million_parameters": float, "megabytes": float}
MODELS = ("generator", "oracle", "backbone", "clip")


def sizes(folder: Path) -> pd.DataFrame:
    """Return one row per part, one for the generator and one for all models (schema SIZES)."""
    files = [file for name in MODELS for file in sorted((folder / name).rglob("*.safetensors"))]
    parts = pd.DataFrame(
        {
            "model": [file.parent.relative_to(folder).as_posix() for file in files],
            "million_parameters": [parameters(file) / 1e6 for file in files],
            "megabytes": [file.stat().st_size / 1e6 for file in files],
        }
    )
    generator = parts[parts["model"].str.startswith("generator/")]
    wholes = [
        {"model": name, **rows.sum(numeric_only=True)}
        for name, rows in (("generator", generator), ("all", parts))
    ]
    return pd.concat([parts, pd.DataFrame(wholes)], ignore_index=True).round(3)


def parameters(file: Path) -> int:
    """Return the number of weights in a safetensors file."""
    with safe_open(file, framework="numpy") as weights:
        return sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


@click.command(help=__doc__)
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="fashion")
def main(name: str) -> None:
    out = RECIPES[name].out
    table = sizes(out)
    write_table(table, out / "sizes.csv", SIZES)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
