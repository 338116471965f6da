"""The table that `make repro` closes with. Reads metrics/ and the stages' times; writes nothing."""

import json
from pathlib import Path
from typing import Any

import click

from stages.common import times_folder

STAGES = (
    *("validate", "prepare", "train_baseline", "select_sources"),
    *("generate", "retrain", "evaluate", "analyse"),
)


@click.command()
@click.option("--root", type=Path, default=".", show_default=True)
def main(root: Path) -> None:
    """Show what the pipeline found."""
    path = root / "metrics/evaluate.json"
    if not path.is_file():
        raise click.ClickException(f"{path} does not exist; run `dvc repro` to make it")
    for name, value in rows(json.loads(path.read_text()), seconds(root)):
        click.echo(f"  {name:<28}{value}")


def rows(summary: dict[str, Any], times: dict[str, float]) -> list[tuple[str, str]]:
    """Lines of the table: a name and a value each."""
    lines = [
        ("accuracy without", share(summary["baseline"])),
        ("accuracy with generated", share(summary["augmented"])),
        ("gain, paired by task", share(summary["gain"], signed=True)),
    ]
    groups = [key for key in ("gain_many", "gain_medium", "gain_few") if key in summary]
    if len(groups) > 1:  # one group alone says the same as the gain
        lines += [(key.replace("_", ", "), share(summary[key], signed=True)) for key in groups]
    lines += [
        ("images generated", str(summary["images"])),
        ("mean r of the kept images", number(summary["mean_r"])),
        ("label consistency", number(summary["label_consistency"])),
    ]
    spent = ", ".join(f"{name} {times[name]:.0f}" for name in STAGES if name in times)
    return [*lines, ("seconds per stage, last run", spent)]


def share(value: dict[str, Any], *, signed: bool = False) -> str:
    """Mean with its 95% interval and n."""
    if value["mean"] is None:
        return "not measured"
    sign = "+" if signed else ""
    text = f"{value['mean']:{sign}.3f}"
    if value["low"] is not None:
        text += f"  (95% interval {value['low']:{sign}.3f} to {value['high']:{sign}.3f}"
        return f"{text}, n = {value['n']} tasks)"
    return f"{text}  (one task, no interval)"


def number(value: float | None) -> str:
    """Three decimals, or a word for None."""
    return "not measured" if value is None else f"{value:.3f}"


def seconds(root: Path) -> dict[str, float]:
    """Seconds by stage, of its last run on this machine."""
    found = sorted(times_folder(root).glob("*.json"))
    return {path.stem: json.loads(path.read_text())["seconds"] for path in found}


if __name__ == "__main__":
    main()
