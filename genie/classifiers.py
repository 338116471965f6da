"""Heads on frozen embeddings, and fine-tuning of the whole backbone: one `fit`, one `predict`.

Constants from the paper's few-shot protocol: logistic regression with l2, C = 1, lbfgs and 1000
iterations on L2-normalised features (section 4.1); a linear SVM for fine-grained sets (A.1).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from genie.backbones import ImageModel, load_backbone, load_untrained, pixels, pooled
from genie.clip import embed_texts, load_clip, load_image_tower
from genie.errors import GenieError
from genie.transforms import weak


@dataclass(frozen=True)
class Examples:
    """Images with their backbone embeddings (n, d) and, for training, their labels.

    `weights` (n,) in [0, 1] is how much each label counts; None counts each as 1. A mixture of two
    images is two examples with one label each.
    """

    images: Sequence[Image.Image]
    embeddings: np.ndarray
    labels: Sequence[str]
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class TrainingSettings:
    """What fine-tuning needs; the heads on frozen embeddings use only `seed`.

    `loss` is a key of LOSSES. With `prompt_of`, from class name to prompt, `backbone` is a CLIP
    whose image tower is tuned under a head that starts from the prompts' embeddings.
    """

    backbone: Path
    pretrained: bool
    steps: int
    batch_size: int
    learning_rate: float
    loss: str
    seed: int
    prompt_of: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Classifier:
    """A trained classifier: class names in column order, and its weights by name."""

    head: str
    classes: tuple[str, ...]
    weights: dict[str, np.ndarray]


def fit(head: str, examples: Examples, *, settings: TrainingSettings) -> Classifier:
    """Train a classifier on the examples; `head` is a key of HEADS."""
    classes = tuple(sorted(set(examples.labels)))
    if len(classes) < 2:
        raise GenieError(f"a classifier needs at least two classes, got {list(classes)}")
    targets = np.array([classes.index(label) for label in examples.labels])
    return Classifier(head, classes, HEADS[head](examples, targets, settings, classes))


def predict_proba(
    classifier: Classifier, examples: Examples, *, settings: TrainingSettings
) -> np.ndarray:
    """(n, c) probabilities in the order of `classifier.classes`."""
    if classifier.head == "finetune":
        return _predict_network(classifier, examples.images, settings)
    logits = examples.embeddings @ classifier.weights["weight"].T + classifier.weights["bias"]
    return _softmax(logits)


def out_of_fold(
    head: str, examples: Examples, *, settings: TrainingSettings, folds: int = 5
) -> np.ndarray:
    """(n, c) probabilities of each example by a classifier that has not seen it.

    Columns are the sorted class names. For "finetune" logistic regression on the frozen embeddings
    stands in: five networks more per task would cost more than all other training. Each class is
    dealt to the folds in turn, so a class with fewer images than folds is absent from some; a class
    absent from training gets 0.
    """
    labels = np.array(examples.labels)
    classes = sorted(set(labels))
    order = np.concatenate([np.arange((labels == c).sum()) for c in classes])
    fold = np.empty(len(labels), int)
    fold[np.concatenate([np.flatnonzero(labels == c) for c in classes])] = order % folds
    probabilities = np.zeros((len(labels), len(classes)))
    for k in np.unique(fold):
        kept = take(examples, np.flatnonzero(fold != k).tolist())
        if len(set(kept.labels)) < 2:
            continue
        model = fit("logistic" if head == "finetune" else head, kept, settings=settings)
        columns = np.array([classes.index(c) for c in model.classes])
        rows = np.flatnonzero(fold == k)
        held_out = take(examples, rows.tolist())
        probabilities[np.ix_(rows, columns)] = predict_proba(model, held_out, settings=settings)
    return probabilities


def take(examples: Examples, rows: Sequence[int]) -> Examples:
    """The examples of the given rows, in that order."""
    chosen = list(rows)
    return Examples(
        [examples.images[i] for i in chosen],
        examples.embeddings[chosen],
        [examples.labels[i] for i in chosen],
        None if examples.weights is None else examples.weights[chosen],
    )


def join(*parts: Examples) -> Examples:
    """All examples of the parts, in order; empty parts are fine."""
    full = [p for p in parts if len(p.labels)]
    return Examples(
        [image for p in full for image in p.images],
        np.concatenate([p.embeddings for p in full]),
        [label for p in full for label in p.labels],
        np.concatenate([_weights(p) for p in full]),
    )


def _weights(examples: Examples) -> np.ndarray:
    return np.ones(len(examples.labels)) if examples.weights is None else examples.weights


def save(classifiers: Mapping[int, Classifier], folder: Path) -> None:
    """Write one safetensors file per task and `classes.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {t: {"head": c.head, "classes": list(c.classes)} for t, c in classifiers.items()}
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (folder / "classes.json").write_text(text + "\n", encoding="utf-8")
    for task, classifier in classifiers.items():
        # safetensors writes the buffer as it lies, so a transposed view would come back wrong
        weights = {k: np.ascontiguousarray(v) for k, v in sorted(classifier.weights.items())}
        save_file(weights, folder / f"task{task}.safetensors")


def load(folder: Path) -> dict[int, Classifier]:
    """What `save` wrote, by task."""
    path = folder / "classes.json"
    if not path.is_file():
        raise GenieError(f"{path} does not exist; run `dvc repro` to make it")
    summary = json.loads(path.read_text(encoding="utf-8"))
    return {
        int(task): Classifier(
            c["head"], tuple(c["classes"]), load_file(folder / f"task{task}.safetensors")
        )
        for task, c in summary.items()
    }


def _fit_logistic(
    examples: Examples, targets: np.ndarray, settings: TrainingSettings, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    model = LogisticRegression(C=1.0, solver="lbfgs", max_iter=1000)
    model.fit(examples.embeddings, targets, sample_weight=_weights(examples))
    return _linear(model.coef_, model.intercept_, two_sided=False)


def _fit_svm(
    examples: Examples, targets: np.ndarray, settings: TrainingSettings, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    model = LinearSVC(C=1.0, random_state=settings.seed, max_iter=10_000)
    model.fit(examples.embeddings, targets, sample_weight=_weights(examples))
    return _linear(model.coef_, model.intercept_, two_sided=True)


def _fit_prototype(
    examples: Examples, targets: np.ndarray, settings: TrainingSettings, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Nearest class mean by Euclidean distance: -|z - m|^2 / 2 = z.m - |m|^2 / 2 up to |z|^2."""
    weights = _weights(examples)
    means = np.stack(
        [
            np.average(examples.embeddings[targets == k], axis=0, weights=weights[targets == k])
            for k in range(targets.max() + 1)
        ]
    )
    return _linear(means, -(means**2).sum(1) / 2, two_sided=False)


def _linear(weight: np.ndarray, bias: np.ndarray, *, two_sided: bool) -> dict[str, np.ndarray]:
    """Weights (c, d) and biases (c,); scikit-learn gives one row where c = 2."""
    if len(weight) == 1:
        other = -weight if two_sided else np.zeros_like(weight)
        weight = np.concatenate([other, weight])
        bias = np.concatenate([-bias if two_sided else np.zeros_like(bias), bias])
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


def _fit_network(
    examples: Examples, targets: np.ndarray, settings: TrainingSettings, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Fine-tune the whole backbone with the chosen loss and weak augmentation (AdamW, cosine).

    Of several processes, as a launcher of PyTorch or accelerate starts them, each takes its share
    of every batch; all end with the same weights.
    """
    accelerator = Accelerator(  # before the model is loaded: it chooses this process's GPU
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    own = slice(accelerator.process_index, None, accelerator.num_processes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model, network = _network(settings, classes=len(classes))
        if settings.prompt_of is not None:
            clip = load_clip(settings.backbone, parameter="classifier.backbone")
            start = embed_texts([settings.prompt_of(name) for name in classes], clip)
            network.head.weight.data.copy_(torch.from_numpy(start))
            network.head.bias.data.zero_()
        data = pixels(examples.images, model=model)
        labels = torch.from_numpy(targets)
        weights = torch.from_numpy(_weights(examples)).float()
        prior = torch.bincount(labels, weights).div(weights.sum()).float().to(model.device)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=0.05
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
        if accelerator.num_processes > 1 and model.device == "cuda":
            network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
        network, optimiser = accelerator.prepare(network, optimiser)
        network.train()
        order = torch.Generator().manual_seed(settings.seed)
        for step in range(settings.steps):
            rows = torch.randint(len(data), (settings.batch_size,), generator=order)
            # the whole batch is augmented, so that its pictures do not depend on the shares
            batch = weak(data[rows], seed=settings.seed * 1_000_003 + step)[own].to(model.device)
            rows = rows[own]
            each = LOSSES[settings.loss](network(batch), labels[rows].to(model.device), prior)
            total = (each * weights[rows].to(model.device)).sum()
            optimiser.zero_grad()
            # gradients are averaged over the processes, the loss is a mean over the whole batch
            accelerator.backward(total * accelerator.num_processes / settings.batch_size)
            optimiser.step()
            schedule.step()
    trained = accelerator.unwrap_model(network).state_dict()
    return {k: v.detach().cpu().numpy() for k, v in trained.items()}


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """(B,) losses from logits (B, c), labels (B,) and class priors (c,) that are not used."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def _logit_adjusted(
    logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of z + log π (Menon et al. 2021, eq. 10, τ = 1)."""
    return torch.nn.functional.cross_entropy(logits + prior.log(), labels, reduction="none")


def _balanced_bce(logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Bal-BCE: binary cross-entropy of z + log π - log(1 - π), summed over classes (LiVT, eq. 13).

    Without the shift when predicting, so the rare classes are not held back.
    """
    shifted = logits + prior.log() - (-prior).log1p()
    wanted = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(
        shifted, wanted, reduction="none"
    ).sum(1)


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "bal-bce": _balanced_bce,
    "cross-entropy": _cross_entropy,
    "logit-adjustment": _logit_adjusted,
}


class _Network(torch.nn.Module):
    """A transformers backbone with a linear head."""

    def __init__(self, body: torch.nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = torch.nn.Linear(width, classes)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.head(pooled(self.body(batch)))


def _network(settings: TrainingSettings, *, classes: int) -> tuple[ImageModel, _Network]:
    if settings.prompt_of is not None:
        model = load_image_tower(settings.backbone, parameter="classifier.backbone")
    else:
        model = (load_backbone if settings.pretrained else load_untrained)(settings.backbone)
    probe = torch.zeros(1, 3, *model.size, device=model.device)
    with torch.inference_mode():
        width = pooled(model.model(probe)).shape[1]
    return model, _Network(model.model, width, classes).to(model.device)


@torch.inference_mode()
def _predict_network(
    classifier: Classifier, images: Sequence[Image.Image], settings: TrainingSettings
) -> np.ndarray:
    model, network = _network(settings, classes=len(classifier.classes))
    network.load_state_dict({k: torch.from_numpy(v) for k, v in classifier.weights.items()})
    network.eval()
    rows = [
        network(pixels(images[i : i + 256], model=model).to(model.device)).softmax(1).cpu()
        for i in range(0, len(images), 256)
    ]
    return torch.cat(rows).numpy()


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


Fit = Callable[[Examples, np.ndarray, TrainingSettings, Sequence[str]], dict[str, np.ndarray]]
HEADS: dict[str, Fit] = {
    "logistic": _fit_logistic,
    "svm": _fit_svm,
    "prototype": _fit_prototype,
    "finetune": _fit_network,
}
