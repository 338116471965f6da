import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genie.classify.classifier import FINETUNE, fit, predict, predict_proba
from genie.classify.files import load_classifiers, save_classifiers
from genie.classify.finetune import STARTS
from genie.classify.losses import LOSSES
from genie.classify.settings import TrainingSettings
from genie.data.prompts import prompt_for, read_names

CLIP = Path("zoo/clip")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def settings(settings: TrainingSettings) -> TrainingSettings:
    """Few steps of a whole network."""
    return replace(settings, head=FINETUNE)


def test_network_from_fresh_weights_learns_to_separate_classes(blobs, settings):
    examples = blobs(3)
    own = replace(settings, backbone=Path("zoo/backbone"), learning_rate=2e-3)
    model = fit(examples, own)
    assert list(predict(model, examples)) == examples.labels
    assert predict_proba(model, examples).sum(1) == pytest.approx(np.ones(18), abs=1e-5)


def test_network_does_not_learn_from_examples_without_weight(blobs, settings):
    weights = np.repeat([0.0, 1.0], 6)
    model = fit(replace(blobs(2), weights=weights), settings)
    assert set(predict(model, blobs(2))) == {"class 1"}
    assert predict_proba(model, blobs(2))[:, 1].min() > 0.9


def test_training_is_reproducible_and_depends_on_the_seed(blobs, settings):
    few = replace(settings, steps=3)
    model, again, other = (fit(blobs(3), replace(few, seed=seed)) for seed in (0, 0, 1))
    assert all((again.weights[k] == v).all() for k, v in model.weights.items())
    assert any((other.weights[k] != v).any() for k, v in model.weights.items())


def test_every_training_step_reports_its_loss(blobs, settings):
    seen: dict[int, float] = {}
    recorded = replace(settings, steps=30, on_step=seen.__setitem__)
    fit(blobs(3), recorded)
    assert list(seen) == list(range(30))
    assert seen[0] == pytest.approx(np.log(3), abs=0.7)  # classes are equally likely at first
    assert np.mean([seen[i] for i in range(25, 30)]) < seen[0]


def test_training_leaves_torchs_generator_as_it_was(blobs, settings):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(blobs(2), replace(settings, steps=2))
    assert (torch.rand(3) == expected).all()


def test_network_starts_from_the_weights_of_the_backbone(blobs, settings, tiny_vit_folder):
    still = replace(settings, start="backbone", steps=1, learning_rate=1e-12)
    own = STARTS["backbone"](tiny_vit_folder).model.state_dict()
    trained = fit(blobs(2), still).weights
    fresh = fit(blobs(2), replace(still, start="scratch")).weights
    for name, value in own.items():
        assert trained[f"body.{name}"] == pytest.approx(value.numpy(), abs=1e-6)
    assert any(np.abs(fresh[f"body.{n}"] - v.numpy()).max() > 0.01 for n, v in own.items())


@pytest.mark.parametrize("start", STARTS)
def test_saved_network_predicts_the_same_and_reads_no_prompts(start, blobs, settings, tmp_path):
    examples = blobs(2)
    names = tmp_path / "names.csv"
    names.write_text("class,name\nclass 0,bag\nclass 1,coat\n")
    own = replace(
        settings,
        start=start,
        backbone=CLIP if start == "prompts" else settings.backbone,
        steps=1,
        batch_size=2,
        prompt_of=(lambda name: prompt_for(read_names(names)[name]))
        if start == "prompts"
        else None,
    )
    model = fit(examples, own)
    expected = predict_proba(model, examples)
    save_classifiers({3: model}, tmp_path / "models")
    names.unlink()
    back = load_classifiers(tmp_path / "models")[3]
    assert (back.head, back.start) == (FINETUNE, start)
    assert (predict_proba(back, examples) == expected).all()


def test_head_initialised_with_prompts_is_clips_zero_shot_classifier(
    clip, pictures, blobs, settings
):
    start = replace(
        settings,
        backbone=CLIP,
        start="prompts",
        steps=1,
        batch_size=2,
        learning_rate=1e-12,
        prompt_of=prompt_for,
    )
    examples = replace(
        blobs(5, each=1), images=pictures, labels=["bag", "coat", "bag", "coat", "bag"]
    )
    model = fit(examples, start)
    tokens = clip.tokenizer(
        [prompt_for(c) for c in ("bag", "coat")], padding=True, return_tensors="pt"
    )
    stack = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        theirs = clip.vision.model(pixel_values=stack.float() / 127.5 - 1, **tokens)
    expected = theirs.logits_per_image.softmax(1).numpy()
    assert model.classes == ("bag", "coat")
    assert predict_proba(model, examples) == pytest.approx(expected, abs=1e-3)


def test_custom_loss_is_one_dictionary_entry(monkeypatch, blobs, settings):
    def first_class(logits, labels, prior):
        assert prior.tolist() == pytest.approx([1 / 3] * 3)
        return torch.nn.functional.cross_entropy(logits, labels * 0, reduction="none")

    monkeypatch.setitem(LOSSES, "first class", first_class)
    model = fit(blobs(3), replace(settings, loss="first class"))
    assert set(predict(model, blobs(3))) == {"class 0"}


TRAIN = """
import os, pickle, sys
from pathlib import Path
from genie.classify.classifier import fit
from genie.classify.files import save_classifiers
place = Path(sys.argv[1])
examples, settings = pickle.loads((place / "problem.pickle").read_bytes())
model = fit(examples, settings)
save_classifiers({0: model}, place / os.environ["RANK"])
"""

EMBED = """
import os, sys
from pathlib import Path
import numpy as np
from PIL import Image
from genie.classify.backbone import load_backbone, vectors
draw, batches = np.random.default_rng(0), []
images = [Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(100)]
def mean_colour(batch):
    batches.append(batch)
    return batch.mean((2, 3))
model = load_backbone(Path("zoo/backbone"))
rows = vectors([*images, images[0]], model, mean_colour, kind="mean colour")
name = f"vectors-{os.environ.get('RANK', 'alone')}.npz"
np.savez(Path(sys.argv[1]) / name, rows=rows, batches=len(batches))
"""


def launched(script: str, place: Path) -> None:
    """Run a script in two processes of a launcher, in a folder that is its argument."""
    file = place / "script.py"
    file.write_text(script)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [sys.executable, *launcher, file, place],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_processes_share_the_embedding_and_all_get_all_vectors(tmp_path, monkeypatch):
    launched(EMBED, tmp_path)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    exec(EMBED, {})  # noqa: S102
    alone, *shared = (np.load(tmp_path / f"vectors-{who}.npz") for who in ("alone", 0, 1))
    assert [int(found["batches"]) for found in (alone, *shared)] == [2, 1, 1]
    for found in shared:
        assert (found["rows"] == alone["rows"]).all()


@pytest.mark.slow
def test_processes_that_share_the_batches_learn_what_one_learns_alone(blobs, settings, tmp_path):
    # without batch normalisation, whose statistics are of a process's own share on a CPU
    problem = (blobs(3), replace(settings, batch_size=9, steps=5, learning_rate=2e-3))
    (tmp_path / "problem.pickle").write_bytes(pickle.dumps(problem))
    launched(TRAIN, tmp_path)
    examples, own = problem
    alone = fit(examples, own).weights
    for rank in ("0", "1"):
        shared = load_classifiers(tmp_path / rank)[0].weights
        for name, value in alone.items():
            np.testing.assert_allclose(shared[name], value, rtol=1e-3, atol=1e-5)
