"""Looks up every decimal and percentage of README and docs in the records that its section names.

    python -m protocols.numbers

Prints each number that it does not find as FILE:LINE, with exit code 1. Code, links' targets and
integers are left out, and so is the level of a "95% interval".

A section names records by a link, a path in code, or the command that writes them, for itself and
for sections below it that name none; what stands above the first section holds for the page.
`results.md` and `results.png` of a protocol stand for its tables, and `README.md` of the models for
the records beside it. A key of params.yaml in code, such as `noise.min_position`, stands for its
value.

A number is found if a record holds a value that rounds to it, or a share (at most 1) that does so
times 100; a percentage has to be a share. "a ± b" has to be a value with half its interval (columns
`low` and `high` after the value's), a value with its standard error or deviation, or, in a
protocol's table, the mean of a row or of the paired difference of two, with the interval of the
table. After "r = " a number may be a noise ratio of params.yaml or of a protocol. Whether it is the
right value of its record is not checked.

`<!-- paper -->` and `<!-- machine -->` mark what no record can hold: alone on a line for the
paragraph, list or table after it (`<!-- paper: HEADING -->`: its columns whose heading begins so),
within a line for the next number.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np

from protocols.printed import Number, Section, sections_of
from protocols.recorded import Records, files_of, noise_ratios, parameters, read_records

PAGES = ("README.md", "docs/**/*.md", "zoo/**/README.md", "benchmarks/*.md")


def pages(root: Path) -> list[Path]:
    """The pages that are read."""
    return sorted({page for pattern in PAGES for page in root.glob(pattern)})


def missing(page: Path, root: Path) -> Iterator[tuple[Number, list[Path]]]:
    """The numbers of a page that are in no record that their section names, and those records."""
    ratios = noise_ratios(root)
    for section in sections_of(page.read_text(encoding="utf-8")):
        names = section.in_force()
        files = _named(section, page, root) if section.numbers else []
        given = np.array(parameters(names, root))
        for number in section.numbers:
            if number.ratio and number.mean in ratios:
                continue
            if number.half is None and _rounds(given, number).any():
                continue
            if not any(holds(read_records(file), number) for file in files):
                yield number, files


def _named(section: Section | None, page: Path, root: Path) -> list[Path]:
    """The records that a section names, or else those of the section above it."""
    if section is None:
        return []
    return files_of(section.names, page, root) or _named(section.above, page, root)


def holds(records: Records, number: Number) -> bool:
    """Whether one of the records' values rounds to the number."""
    if number.half is not None:
        return _holds_spread(np.concatenate([records.spreads, records.gaps]), number)
    own = np.concatenate([records.values, records.spreads[:, 0]])
    if number.signed and not number.percent:
        own = np.concatenate([own, records.gaps[:, 0]])
    shown = [100 * own[np.abs(own) <= 1]]
    if not number.percent:
        shown += [own, records.labels]
    return bool(_rounds(np.concatenate(shown), number).any())


def _holds_spread(spreads: np.ndarray, number: Number) -> bool:
    for scale in (100,) if number.percent else (1, 100):
        means, halves = scale * spreads.T
        fits = rounds_to(halves, number.half or 0.0, number.places[1])
        if number.mean is not None:
            fits &= _rounds(means, number)
        if fits.any():
            return True
    return False


def _rounds(values: np.ndarray, number: Number) -> np.ndarray:
    """Which values round to the mean; a number without a sign may be how far one is below."""
    shown = values if number.signed else np.abs(values)
    return rounds_to(shown, number.mean or 0.0, number.places[0])


def rounds_to(values: np.ndarray, printed: float, places: int) -> np.ndarray:
    """Which values are printed so; one that lies half-way may be rounded up or down."""
    return np.abs(values - printed) <= 0.5 * 10.0**-places + 1e-9


@click.command(help=__doc__)
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
def main(files: Sequence[Path]) -> None:
    root = Path.cwd()
    count = 0
    for page in [file.resolve() for file in files] or pages(root):
        for number, records in missing(page, root):
            count += 1
            known = ", ".join(str(file.relative_to(root)) for file in records) or "any record"
            place = f"{page.relative_to(root)}:{number.line}"
            click.echo(f"{place}: {number.text} is not in {known}")
    if count:
        raise click.ClickException(
            f"{count} numbers are in no record that their section names; correct them, name the "
            "record, or mark what is the paper's or a machine's (CONTRIBUTING.md)"
        )


if __name__ == "__main__":
    main()
