"""The command line `genie`. This is the only module of the library that prints."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from genie.cli.dvc_cache import SET, tracked_folder
from genie.cli.fetch import fetch_dataset, fetch_model
from genie.cli.garbage import collect
from genie.cli.integrity import faults
from genie.cli.log import show_log
from genie.cli.messages import in_keys
from genie.cli.new import VERSION_FILE, new_project
from genie.cli.origin import is_on_this_machine, requirement
from genie.cli.places import require_writable, store_folder
from genie.cli.reproduction import TOLERANCE, disagreements
from genie.cli.revisions import Selection, other_parameters, position, read_runs, require_result
from genie.cli.run_notes import seconds_by_stage
from genie.cli.styles import ENDINGS, STYLES, style_of
from genie.cli.summary import summary_lines
from genie.core.errors import (
    FailedError,
    GenieError,
    InvalidValueError,
    MissingFileError,
    one_line,
)
from genie.core.progress import Progress, silent
from genie.core.tables import read_images
from genie.measure.comparison import compare_runs
from genie.progress import bar
from genie.settings import read_params

FILE = click.Path(path_type=Path)


class Commands(click.Group):
    """A group whose commands report a GenieError as click does, and exit with code 1.

    Messages name keys of params.yaml instead of the library's arguments.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except GenieError as error:
            raise click.ClickException(in_keys(error)) from error


@click.group(cls=Commands)
def main() -> None:
    """Tools for the GeNIe pipeline; `dvc repro` runs the pipeline itself."""


@main.command()
@click.argument("repo_id", metavar="ID")
@click.argument("folder", type=FILE)
@click.option("--revision", default="main", show_default=True, help="branch, tag or commit")
@click.option("--kind", type=click.Choice(["model", "dataset"]), default="model", show_default=True)
@click.option("--config", help="configuration of the data set, if it has several")
def fetch(repo_id: str, folder: Path, revision: str, kind: str, config: str | None) -> None:
    """Download the model or data set ID from the Hugging Face hub to FOLDER.

    Weights are downloaded as safetensors only, and FOLDER records the commit. A gated model needs a
    token in the environment (HF_TOKEN). A data set may also be a local folder.
    """
    endpoint = os.environ.get("HF_ENDPOINT")
    if kind == "model":
        commit: str | None = fetch_model(repo_id, folder, revision=revision, endpoint=endpoint)
    else:
        commit = fetch_dataset(repo_id, folder, revision=revision, config=config, endpoint=endpoint)
    click.echo(f"{kind} {repo_id} ({commit or 'local'}) saved to {folder}")


@main.command()
@click.argument("folder", type=FILE)
@click.option("--data", "images", type=FILE, help="image folder or Parquet file, which is copied")
def new(folder: Path, images: Path | None) -> None:
    """Create a project for your own images in FOLDER, with its pipeline and CI workflows.

    FOLDER must be new or empty. It becomes a git and DVC repository, unless it is inside one.
    """
    classes = new_project(folder, images, progress=_progress())
    if images:
        click.echo(
            f"{folder} is a project with {len(classes)} classes; run `git commit` and `dvc repro` "
            "there"
        )
    else:
        click.echo(
            f"{folder} is a project without images; put one sub-folder per class into "
            f"{folder}/photos, then run `dvc add photos`, `git commit` and `dvc repro` there"
        )
    click.echo(
        "params.yaml sets `method: strong`, because the bundled generator was trained only on the "
        f"classes of Fashion-MNIST; {folder}/README.md explains how to use one for your classes"
    )
    if is_on_this_machine(address := requirement()):
        click.echo(
            f"Note: {folder}/{VERSION_FILE} installs `{address}`, which only this machine can "
            "reach; before you share the project, write the address of a repository or wheel there",
            err=True,
        )


@main.command("convert-resnet")
@click.argument("checkpoint", type=FILE)
@click.argument("folder", type=FILE)
@click.option(
    "--size", default=224, show_default=True, help="pixels per side of the training images"
)
def convert(checkpoint: Path, folder: Path, size: int) -> None:
    """Convert CHECKPOINT, a ResNet with torchvision's names such as UniSiam's, to FOLDER.

    FOLDER can then be used as classifier.backbone.
    """
    from genie.cli.convert import convert_resnet  # slow to import, as torch is

    config = convert_resnet(checkpoint, folder, size=size)
    click.echo(f"{config.layer_type} ResNet with depths {config.depths} saved to {folder}")


@main.command()
@click.argument("model", type=FILE)
@click.argument("images", type=FILE)
@click.argument("captions", type=FILE)
def caption(model: Path, images: Path, captions: Path) -> None:
    """Caption IMAGES with MODEL and write CAPTIONS, a CSV file that you may edit.

    MODEL is the folder of an image-to-text model such as BLIP. IMAGES is data/prepared/support.
    Existing captions are kept.
    """
    from genie.cli.captioning import write_captions  # slow to import, as transformers is

    count = write_captions(read_images(images), model=model, path=captions)
    click.echo(f"{count} captions added to {captions}")


@main.command()
@click.argument("image", type=FILE)
@click.argument("target")
@click.option("--params", "params_file", type=FILE, default="params.yaml", show_default=True)
@click.option("--generator", type=FILE, help="diffusers folder instead of generator.model")
@click.option(
    "--root", type=FILE, default=".", show_default=True, help="folder of data/ and .genie/"
)
@click.option("--out", type=FILE, default="preview.png", show_default=True)
def preview(
    image: Path, target: str, params_file: Path, generator: Path | None, root: Path, out: Path
) -> None:
    """Edit IMAGE towards the class TARGET at every noise level, and draw the results.

    The output lists the position of each level between source (0) and target (1), and marks the
    level that GeNIe-Ada chooses. The target's landmark is the mean embedding of the class's support
    images if `dvc repro` has drawn any, or else of eight Txt2Img images.
    """
    params = read_params(params_file)
    if generator is not None:
        section = params.generator.model_copy(update={"model": generator})
        params = params.model_copy(update={"generator": section})
    show_log()
    from genie.cli.preview import preview_image  # slow to import, as torch is

    for line in preview_image(image, target, params, root, out):
        click.echo(line)


@main.command()
@click.option("--names", is_flag=True, help="Show only the names, separated by commas.")
def methods(names: bool) -> None:
    """List the augmentation methods, with their costs at 50 steps per image."""
    from genie.plan.methods import METHODS, methods_table

    click.echo(",".join(METHODS) if names else methods_table())


@main.command()
@click.option("--root", type=FILE, default=".", show_default=True)
def summary(root: Path) -> None:
    """Show the results of the pipeline.

    Run times are shown for the stages whose results were made on this machine. Fail if the metrics
    were computed with parameters other than those in params.yaml.
    """
    found = _metrics(root / "metrics")
    require_result(root)
    for name, value in summary_lines(found, seconds_by_stage(root)):
        click.echo(f"  {name:<28}{value}")
    if (report := root / "plots/report.html").is_file():
        click.echo(f"  {'report, for a browser':<28}{report}")


@main.command()
@click.argument("revisions", nargs=-1)
@click.option("-a", "--all-branches", "branches", is_flag=True, help="all branches")
@click.option("-T", "--all-tags", "tags", is_flag=True, help="all tags")
@click.option("-A", "--all-commits", "commits", is_flag=True, help="all commits of all branches")
@click.option("--all-experiments", "experiments", is_flag=True, help="experiments of any commit")
@click.option("--reference", help="run that others are compared with  [default: the first]")
@click.option("--format", "style", type=click.Choice(list(STYLES)), help="[default: terminal]")
@click.option("--out", type=FILE, help=f"file to write; it ends in {', '.join(ENDINGS)}")
@click.option("--root", type=FILE, default=".", show_default=True)
def compare(
    revisions: tuple[str, ...],
    reference: str | None,
    style: str | None,
    out: Path | None,
    root: Path,
    **swept: bool,
) -> None:
    """Compare REVISIONS: branches, tags, commits, experiments, or "workspace".

    By default, HEAD, its experiments and the workspace are compared. Accuracies and gains have 95%
    intervals over tasks and, where runs differ only in seed, over seeds. Differences from the
    reference are paired between tasks with equal support and query sets.
    """
    style = style or (style_of(out) if out else "terminal")
    if out:
        require_writable(out)
    selection = Selection(revisions, **swept)
    if reference and revisions and reference not in revisions:
        selection = replace(selection, revisions=(reference, *revisions))
    runs, skipped = read_runs(root, selection, progress=_progress())
    chosen = position(runs, reference)
    table, notes = compare_runs(runs, chosen)
    text = STYLES[style](table, runs[chosen].names[0])
    if out:
        out.write_text(text + "\n", encoding="utf-8")
        click.echo(f"{len(runs)} runs compared in {out}")
    else:
        click.echo(text)
    for note in (*skipped, *notes):
        click.echo(f"Note: {note}", err=True)


@main.command()
@click.argument("images", type=FILE, nargs=-1, required=True)
@click.option("--task", type=int, help="support set or split  [default: the first]")
@click.option("--out", type=FILE, help="CSV file to write  [default: standard output]")
@click.option("--root", type=FILE, default=".", show_default=True)
def predict(images: tuple[Path, ...], task: int | None, out: Path | None, root: Path) -> None:
    """Classify IMAGES, files or folders, with the models in models/augmented, and write CSV.

    The columns are file, predicted, probability, and P(CLASS) for each class.
    """
    from transformers.utils.logging import disable_progress_bar

    from genie.cli.prediction import find_images, load_predictor, predict_files  # imports torch

    if out:
        require_writable(out)
    disable_progress_bar()  # of loading the model, which takes a second
    files = find_images(images)
    predictor = load_predictor(root, task)
    click.echo(f"{root / 'models/augmented'}: task {predictor.task}", err=True)
    if reason := other_parameters(root, ["models/augmented"]):
        click.echo(f"Warning: it is of other parameters than params.yaml: {reason}", err=True)
    broken: dict[Path, str] = {}
    first = True
    unfinished = out.with_name(f"{out.name}.part") if out else None
    with click.open_file(str(unfinished or "-"), "w", encoding="utf-8") as file:
        for part in predict_files(predictor, files, progress=_progress()):
            if len(part.table):
                part.table.to_csv(file, index=False, header=first, lineterminator="\n")
                first = False
            broken |= part.broken
    for path, why in broken.items():
        click.echo(f"Warning: {path} cannot be read ({why})", err=True)
    if len(broken) == len(files):
        if unfinished:
            unfinished.unlink()
        raise InvalidValueError(f"none of the {len(files)} images can be read")
    if out and unfinished:
        unfinished.replace(out)
        click.echo(f"{len(files) - len(broken)} of {len(files)} images classified in {out}")


@main.command()
@click.option("--root", type=FILE, default=".", show_default=True)
def doctor(root: Path) -> None:
    """Check this machine and project before a run; exit with code 1 if the run would fail."""
    from genie.cli.doctor import STOP, findings

    show_log()
    stops = []
    for finding in findings(root, progress=_progress()):
        click.echo(f"  {finding.about:<12}{finding.state:<9}{finding.text}")
        stops += [finding.about] if finding.state == STOP else []
    if stops:
        raise FailedError("`dvc repro` would fail", remedy=f"see {', '.join(stops)} above")


@main.command()
@click.argument("committed", type=FILE)
@click.argument("made", type=FILE)
def reproduced(committed: Path, made: Path) -> None:
    """Check that the metrics in MADE and COMMITTED agree; exit with code 1 if they do not."""
    if wrong := disagreements(_metrics(committed), _metrics(made)):
        raise InvalidValueError(f"metrics do not reproduce: {'; '.join(wrong)}")
    click.echo(f"metrics reproduce: all values of {made}/evaluate.json within {TOLERANCE}")


@main.command()
@click.argument("folder", type=FILE, metavar="[SET]", default=SET)
@click.option("--repair", is_flag=True, help="Repair faults; run `dvc repro` afterwards.")
@click.option("--root", type=FILE, default=".", show_default=True)
def verify(folder: Path, repair: bool, root: Path) -> None:
    """Check every image in SET (data/augmented) and in the store; exit with code 1 if any fails.

    Each image must exist, decode, and match the hash and name in its row of the tables. The tables,
    DVC's hashes and the store must agree. Files are read in full, so corruption that preserves the
    modification time is detected. --repair restores the set that dvc.lock records.
    """
    folder = root / folder
    if not folder.is_dir():
        raise MissingFileError(
            "must be the folder of a set",
            argument="SET",
            value=str(folder),
            remedy="run `dvc repro` to make it",
        )
    tracked, store = tracked_folder(root, folder), store_folder(root)
    found = list(faults(folder, store, tracked, repair=repair, progress=_progress()))
    for fault in found:
        click.echo(f"{fault.path}: {fault.what}" + (f" ({fault.done})" if fault.done else ""))
    if left := sum(not fault.done for fault in found):
        remedy = "correct them by hand" if repair else "`genie verify --repair` repairs most faults"
        raise InvalidValueError(
            f"{left} faults in {folder} and the store", remedy=f"{remedy}, then run `dvc repro`"
        )
    hashes = "DVC's hashes" if tracked else "no hashes, because DVC does not track it"
    click.echo(
        f"{len(found)} files repaired; run `dvc repro`"
        if found
        else f"{folder}: files, tables, {hashes} and the store agree"
    )


@main.command()
@click.option("--delete", is_flag=True, help="Delete the images; by default they are only counted.")
@click.option("--days", default=1.0, show_default=True, help="Keep images younger than this.")
@click.option("--root", type=FILE, default=".", show_default=True)
def gc(delete: bool, days: float, root: Path) -> None:
    """Delete images from the store that no set refers to.

    Sets in the workspace, branches, tags, experiments and protocols are considered. Nothing is
    deleted if the tables of a set are not on this machine, or while a run uses the store. Recent
    images are kept, because an interrupted run may still need them.
    """
    found = collect(root, store_folder(root), days=days, delete=delete)
    size = f"{found.images} images ({found.bytes / 1e6:.1f} MB)"
    if delete:
        click.echo(f"{size} deleted from the store, {found.kept} kept")
    else:
        click.echo(f"{size} in the store can be deleted with --delete, {found.kept} are kept")


def _progress() -> Progress:
    """Return the progress bar, or `silent` if stderr is not a terminal."""
    return bar if sys.stderr.isatty() else silent


def _metrics(folder: Path) -> dict[str, Any]:
    """Read `evaluate.json` in a folder; raise GenieError if it is missing or malformed."""
    path, remedy = folder / "evaluate.json", "run `dvc repro` to make it"
    if not path.is_file():
        raise MissingFileError("does not exist", argument=str(path), remedy=remedy)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValueError(
            f"is not valid JSON: {one_line(error)}", argument=str(path), remedy=remedy
        ) from None
    if not isinstance(values, dict):
        raise InvalidValueError(
            "must be a JSON object", argument=str(path), value=values, remedy=remedy
        )
    return values
