"""A plain PyTorch training loop over real and generated images, in under a minute on two cores.

Five classes of clothes have five real images each. A small network is trained on these alone, and
on these with the hard negatives that GeNIe makes from them. The training loop does not depend on
this library: an `AugmentedSet` is a data set like any other.

    python examples/train_your_own_loop.py
"""

import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler

from genie import GeNIe

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ["T-shirt/top", "pullover", "dress", "coat", "shirt"]  # easily confused
SHOTS, QUERIES, PER_CLASS = 5, 200, 6  # real, held-out and generated images of each class
STEPS, BATCH, SEEDS = 200, 32, (0, 1, 2)

Pairs = list[tuple[Image.Image, int]]


def read(split: str, count: int) -> Pairs:
    """Draw images of each class from a split; a label is the index of its class."""
    table = pd.read_parquet(ROOT / "data/bundled" / split)
    return [
        (Image.open(io.BytesIO(png)).convert("RGB"), label)
        for label, name in enumerate(CLASSES)
        for png in table.loc[table["label"] == name, "png"].sample(count, random_state=0)
    ]


def collate(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn pairs into images (n, 3, 32, 32) in [-1, 1] and labels (n,)."""
    pixels = np.stack([np.asarray(image) for image, _ in pairs])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, torch.tensor([label for _, label in pairs])


def train(dataset: ConcatDataset, seed: int) -> nn.Module:
    """Train a small network for a number of steps that does not depend on the number of images."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for channels, wider in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    drawn = RandomSampler(dataset, replacement=True, num_samples=STEPS * BATCH)
    for images, labels in DataLoader(dataset, BATCH, sampler=drawn, collate_fn=collate):
        if torch.rand(()) < 0.5:
            images = images.flip(3)  # random horizontal flip
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def main() -> None:
    """Print the accuracy without and with generated images, as a mean over three seeds."""
    torch.set_num_threads(1)  # more threads slow down such a small network
    start = time.perf_counter()
    real = read("train", SHOTS)
    images, labels = collate(read("test", QUERIES))  # held out from training and generation
    pipe = GeNIe.from_pretrained(ROOT / "zoo/generator", embedder=ROOT / "zoo/backbone")
    # labels are integers, in the input and in the set; `class_names` are used in the prompts
    generated = pipe.augment(real, class_names=CLASSES, per_class=PER_CLASS)
    print(f"{len(generated)} images generated in {time.perf_counter() - start:.0f} s")
    for name, parts in (("real", [real]), ("real and generated", [real, generated])):
        models = [train(ConcatDataset(parts), seed) for seed in SEEDS]
        with torch.no_grad():
            scores = [(model(images).argmax(1) == labels).float().mean() for model in models]
        print(f"{name}: accuracy {np.mean(scores):.1%}, {min(scores):.1%} to {max(scores):.1%}")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
