"""Fine-tuning of whole networks on images, with one or several devices."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from PIL import Image

from genie.classify.backbone import (
    ImageModel,
    load_backbone,
    load_untrained,
    pixels,
    pooled,
    resized,
)
from genie.classify.clip import embed_texts, load_clip, load_image_tower
from genie.classify.examples import Examples, weights_of
from genie.classify.heads import Weights
from genie.classify.losses import LOSSES
from genie.classify.settings import TrainingSettings
from genie.classify.transforms import weak
from genie.core.seeding import step_seed
from genie.data.pictures import spooled

WEIGHT_DECAY = 0.05  # for AdamW, as in LiVT
_PREDICTED_AT_ONCE = 256  # images

STARTS: dict[str, Callable[[Path], ImageModel]] = {
    "backbone": load_backbone,
    "prompts": lambda folder: load_image_tower(folder, argument="embedder"),
    "scratch": load_untrained,
}
"""Loaders of the initial network: pretrained weights, CLIP's image tower, or random weights."""


class _Network(torch.nn.Module):
    """A backbone with a linear head."""

    def __init__(self, body: torch.nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = torch.nn.Linear(width, classes)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.head(pooled(self.body(batch)))


def train_network(
    examples: Examples, targets: np.ndarray, classes: Sequence[str], settings: TrainingSettings
) -> Weights:
    """Train a network with weak augmentation (AdamW, cosine schedule) and return its weights.

    `targets` (n,) are indices into `classes`. Under `torchrun` or `accelerate launch`, each process
    trains on its share of every batch, and all processes end with the same weights.
    """
    accelerator = Accelerator(  # before the model is loaded, because it selects this process's GPU
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model, network = _network(settings.start, settings.backbone, classes=len(classes))
        if settings.start == "prompts":
            _start_from_prompts(network, classes, settings)
        network = _train(accelerator, model, network, examples, targets, settings)
    trained = accelerator.unwrap_model(network).state_dict()
    return {k: v.detach().cpu().numpy() for k, v in trained.items()}


@torch.inference_mode()
def network_probabilities(
    weights: Weights, images: Sequence[Image.Image], *, start: str, backbone: Path, classes: int
) -> np.ndarray:
    """Return the (n, c) probabilities of a trained network."""
    with torch.random.fork_rng(devices=[]):  # random weights are drawn, then overwritten
        model, network = _network(start, backbone, classes=classes)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    network.eval()
    rows = [
        network(pixels(images[i : i + _PREDICTED_AT_ONCE], model=model).to(model.device))
        .softmax(1)
        .cpu()
        for i in range(0, len(images), _PREDICTED_AT_ONCE)
    ]
    return torch.cat(rows).numpy()


def _network(start: str, backbone: Path, *, classes: int) -> tuple[ImageModel, _Network]:
    model = STARTS[start](backbone)
    probe = torch.zeros(1, 3, *model.size, device=model.device)
    with torch.inference_mode():
        width = pooled(model.model(probe)).shape[1]
    return model, _Network(model.model, width, classes).to(model.device)


def _start_from_prompts(
    network: _Network, classes: Sequence[str], settings: TrainingSettings
) -> None:
    """Initialise the head as CLIP's zero-shot classifier."""
    assert settings.prompt_of is not None
    clip = load_clip(settings.backbone, argument="embedder")
    prompts = embed_texts([settings.prompt_of(name) for name in classes], clip)
    network.head.weight.data.copy_(torch.from_numpy(prompts))
    network.head.bias.data.zero_()


def _train(
    accelerator: Accelerator,
    model: ImageModel,
    network: torch.nn.Module,
    examples: Examples,
    targets: np.ndarray,
    settings: TrainingSettings,
) -> Any:
    """Train for `settings.steps` steps and return the network wrapped by accelerate."""
    images = spooled(resized(image, model=model) for image in examples.images)
    labels = torch.from_numpy(targets)
    weights = torch.from_numpy(weights_of(examples)).float()
    prior = torch.bincount(labels, weights).div(weights.sum()).float().to(model.device)
    loss_of = LOSSES[settings.loss]
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    if accelerator.num_processes > 1 and model.device == "cuda":
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network, optimiser = accelerator.prepare(network, optimiser)
    network.train()
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    for step, (rows, batch) in enumerate(_batches(images, model, settings)):
        rows = rows[share]
        batch_labels = labels[rows].to(model.device)
        losses = loss_of(network(batch[share].to(model.device)), batch_labels, prior)
        total = (losses * weights[rows].to(model.device)).sum()
        optimiser.zero_grad()
        # gradients are averaged over processes, but the loss is the mean over the whole batch
        loss = total * accelerator.num_processes / settings.batch_size
        accelerator.backward(loss)
        optimiser.step()
        schedule.step()
        settings.on_step(step, loss.item())
    return network


def _batches(
    images: Sequence[Image.Image], model: ImageModel, settings: TrainingSettings
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the rows (B,) and weakly augmented pixels (B, 3, H, W) of each step.

    Every process augments the whole batch, so pixels do not depend on the number of processes.
    """
    order = torch.Generator().manual_seed(settings.seed)
    for step in range(settings.steps):
        rows = torch.randint(len(images), (settings.batch_size,), generator=order)
        batch = pixels([images[i] for i in rows.tolist()], model=model)
        yield rows, weak(batch, seed=step_seed(settings.seed, step))
