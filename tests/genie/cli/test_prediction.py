import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from genie.classify.backbone import load_backbone
from genie.classify.classifier import Classifier, fit, predict_proba
from genie.classify.examples import load_examples, take
from genie.classify.files import load_classifiers, save_classifiers
from genie.classify.settings import TrainingSettings
from genie.cli.main import main
from genie.cli.prediction import find_images, load_predictor, predict_files
from genie.core.errors import GenieError
from genie.core.progress import one
from genie.data.readers import read_pools
from tests.scratch import ROOT, call

CLASSES = ["ankle boot", "bag", "coat"]


def settings(head: str) -> TrainingSettings:
    return TrainingSettings(
        head=head,
        backbone=Path("zoo/backbone"),
        start="backbone",
        steps=1,
        batch_size=4,
        learning_rate=0.001,
        loss="cross-entropy",
        seed=0,
    )


@pytest.fixture(scope="module")
def project(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two logistic classifiers, each trained on half of the pictures."""
    place = tmp_path_factory.mktemp("project")
    (place / "zoo").symlink_to(ROOT / "zoo")
    (place / "params.yaml").write_text(yaml.safe_dump({"data": {"size": 24}}))
    train, _ = read_pools(photos, size=24)
    examples = load_examples(train, backbone=load_backbone(ROOT / "zoo/backbone"))
    halves = {task: list(range(task, len(train), 2)) for task in (0, 1)}
    classifiers = {
        task: fit(take(examples, rows), settings("logistic")) for task, rows in halves.items()
    }
    save_classifiers(classifiers, place / "models/augmented")
    return place


def run(project: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", "--root", str(project), *map(str, arguments)])


def expected(project: Path, photos: Path, task: int) -> dict[str, np.ndarray]:
    """Probabilities of each test picture, from the classifier and the pipeline's reading."""
    _, test = read_pools(photos, size=24)
    examples = load_examples(test, backbone=load_backbone(ROOT / "zoo/backbone"))
    model = load_classifiers(project / "models/augmented")[task]
    own = replace(model, backbone=project / model.backbone)
    shares = predict_proba(own, examples)
    return {image: row for image, row in zip(test["image_id"], shares, strict=True)}


@pytest.mark.parametrize("task", [None, 0, 1])
def test_probabilities_are_those_of_the_first_or_the_named_classifier_on_the_pipelines_images(
    project, photos, task
):
    result = run(project, photos / "test", *([] if task is None else ["--task", task]))
    assert result.exit_code == 0, result.output
    table = pd.read_csv(io.StringIO(result.stdout))
    assert list(table.columns) == [
        "file", "predicted", "probability", *(f"P({name})" for name in CLASSES)
    ]  # fmt: skip
    shares = table[[f"P({name})" for name in CLASSES]].to_numpy()
    known = np.stack(list(expected(project, photos, task or 0).values()))
    assert np.sort(shares, axis=0) == pytest.approx(np.sort(known, axis=0), abs=1e-5)
    assert shares.sum(1) == pytest.approx(1, abs=1e-5)
    assert table["predicted"].tolist() == [CLASSES[i] for i in shares.argmax(1)]
    assert table["probability"].to_numpy() == pytest.approx(shares.max(1))
    assert f"models/augmented: task {task or 0}" in result.stderr


def test_images_have_the_size_of_the_run_that_trained_the_classifiers(project, photos, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(project, edited, symlinks=True)
    lock = {
        "prepare": {
            "params": {"params.yaml": {"data": {"size": 24}}},
            "outs": [{"path": "data/prepared/support", "md5": "1"}],
        },
        "retrain": {
            "deps": [{"path": "data/prepared/support", "md5": "1"}],
            "outs": [{"path": "models/augmented", "md5": "2"}],
        },
    }
    (edited / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    (edited / "params.yaml").write_text(yaml.safe_dump({"data": {"size": 12}}))
    call(edited, "git", "init", "--quiet")
    call(edited, "dvc", "init", "--quiet")
    result = run(edited, photos / "test")
    assert result.stdout == run(project, photos / "test").stdout
    assert "Warning: it is of other parameters than params.yaml: stage prepare ran with " in (
        result.stderr
    )


def test_files_come_in_the_order_given_and_once(photos):
    one = photos / "test/bag/1.png"
    found = find_images([one, photos / "test"])
    assert found[0] == one
    assert len(found) == 12
    assert found[1:] == sorted(found[1:])


def test_a_path_without_images_is_named(tmp_path):
    with pytest.raises(GenieError, match=r"IMAGES must exist, got .*no/where"):
        find_images([tmp_path / "no/where"])
    with pytest.raises(GenieError, match=r"must contain images \(files ending in .bmp"):
        find_images([tmp_path])


def test_links_are_followed_and_other_files_counted(photos, tmp_path, caplog):
    for name in ("bag", "coat"):
        (tmp_path / name).symlink_to(photos / "test" / name)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.txt").touch()
    (tmp_path / "x/gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "x/@eaDir").symlink_to(photos / "test/bag")
    found = find_images([tmp_path])
    assert [f.relative_to(tmp_path).parts[0] for f in found] == ["bag"] * 4 + ["coat"] * 4 + ["x"]
    assert "left out files that do not end as images do: 1 .txt" in caplog.text
    (tmp_path / "x/loop").symlink_to("..")
    with pytest.raises(GenieError, match=r"^IMAGES must have no link to a folder that contains"):
        find_images([tmp_path])


def test_link_without_a_target_is_an_image_that_cannot_be_read(project, photos, tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "bag").symlink_to(photos / "test/bag")
    result = run(project, tmp_path, "--out", tmp_path / "predicted.csv")
    assert "gone.jpg cannot be read (links to nowhere.jpg, which does not exist)" in result.stderr
    assert result.stdout.startswith("4 of 5 images classified")


def test_images_that_cannot_be_read_are_named_and_the_others_classified(project, photos, tmp_path):
    broken, out = tmp_path / "broken.png", tmp_path / "predictions.csv"
    broken.write_text("not a picture")
    result = run(project, broken, photos / "test/bag/1.png", "--out", out)
    assert result.exit_code == 0
    assert f"Warning: {broken} cannot be read (not an image)" in result.stderr
    assert result.stdout == f"1 of 2 images classified in {out}\n"
    assert pd.read_csv(out)["file"].tolist() == [str(photos / "test/bag/1.png")]
    assert list(tmp_path.glob("*.part")) == []


def test_chunk_without_a_readable_image_adds_no_row(project, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("genie.cli.prediction.CHUNK", 1)
    broken = tmp_path / "broken.png"
    broken.write_text("not a picture")
    result = run(project, broken, photos / "test/bag/1.png", photos / "test/bag/2.png")
    table = pd.read_csv(io.StringIO(result.stdout))
    assert table["file"].tolist() == [str(photos / f"test/bag/{i}.png") for i in (1, 2)]


def test_no_readable_image_is_an_error_that_leaves_an_earlier_file(project, tmp_path):
    broken, out = tmp_path / "broken.png", tmp_path / "predictions.csv"
    broken.write_text("not a picture")
    out.write_text("earlier")
    result = run(project, broken, "--out", out)
    assert result.exit_code == 1
    assert "none of the 1 images can be read" in result.stderr
    assert out.read_text() == "earlier"


def test_task_that_does_not_exist_names_those_that_do(project, photos):
    result = run(project, photos, "--task", 7)
    assert result.exit_code == 1
    assert "--task must be one of the tasks 0, 1 of models/augmented, got 7" in result.stderr


def test_of_tasks_with_different_classes_one_must_be_named(project, tmp_path):
    found = load_classifiers(project / "models/augmented")
    found = {task: replace(own, backbone=project / own.backbone) for task, own in found.items()}
    other = Classifier("logistic", "backbone", found[0].backbone, ("x", "y"), found[0].weights)
    save_classifiers({0: found[0], 1: other}, tmp_path / "models/augmented")
    with pytest.raises(GenieError, match="choose one with --task, from 0 to 1"):
        load_predictor(tmp_path)
    assert load_predictor(tmp_path, 1).classes == ("x", "y")


def test_many_images_are_classified_a_chunk_at_a_time(project, photos, monkeypatch):
    (whole,) = predict_files(load_predictor(project), find_images([photos]))
    monkeypatch.setattr("genie.cli.prediction.CHUNK", 7)
    shown: list[int] = []

    def progress(chunks, label, *, total, unit="", weight=one, whole=False):
        assert (label, total, unit) == ("predict", 30, "image")
        for chunk in chunks:
            yield chunk
            shown.append(weight(chunk))

    parts = predict_files(load_predictor(project), find_images([photos]), progress=progress)
    tables = [part.table for part in parts]
    assert [len(table) for table in tables] == shown == [7, 7, 7, 7, 2]
    joined = pd.concat(tables, ignore_index=True)
    pd.testing.assert_frame_equal(joined, whole.table, atol=1e-5)


def test_fine_tuned_networks_predict_too(project, photos, tmp_path):
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    train, _ = read_pools(photos)
    backbone = load_backbone(ROOT / "zoo/backbone")
    examples = load_examples(train, backbone=backbone)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        network = fit(examples, settings("finetune"))
    save_classifiers({0: network}, tmp_path / "models/augmented")
    (part,) = predict_files(load_predictor(tmp_path), find_images([photos / "test"]))
    assert len(part.table) == 12
    assert part.table["probability"].between(1 / 3, 1).all()


def test_images_of_16_bits_have_the_depth_of_the_data_set(project, photos, tmp_path):
    grey = np.asarray(Image.open(photos / "test/bag/1.png").convert("L")).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "eight.png")
    Image.fromarray(grey * 4).save(tmp_path / "ten.png")
    predictor = load_predictor(project)
    tables = [
        next(predict_files(replace(predictor, depth=depth), [tmp_path / name])).table
        for name, depth in (("eight.png", 8), ("ten.png", 10), ("ten.png", None))
    ]
    shares = [table.drop(columns="file") for table in tables]
    assert shares[0]["probability"].tolist() == pytest.approx(shares[1]["probability"], abs=0.01)
    assert shares[1].equals(shares[2])
    (part,) = predict_files(replace(predictor, depth=8), [tmp_path / "ten.png"])
    assert "need 10 bits, but those of the data set have 8" in part.broken[tmp_path / "ten.png"]
