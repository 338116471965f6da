"""GeNIe: hard negatives by text-to-image diffusion (arXiv 2312.02548).

An image of a source class is noised part of the way and denoised under the prompt of a target
class. The result takes the target's label and keeps the source's background. GeNIe-Ada chooses the
noise ratio r for each image.

>>> from pathlib import Path
>>> from PIL import Image
>>> from genie import GeNIe
>>> image = Image.open("examples/clothes/dress/4.png")
>>> coats = [Image.open(path) for path in sorted(Path("examples/clothes/coat").iterdir())]

>>> pipe = GeNIe.from_pretrained("zoo/generator", embedder="zoo/backbone")
>>> out = pipe(image, target="coat", examples=coats)  # GeNIe-Ada; r=0.7 fixes the ratio
>>> out.image, out.r, out.positions, out.levels  # PIL image, float, (M,), [(r, image), ...]
(<PIL.Image.Image ...>, 0..., array([...]), [(0.5, <PIL.Image.Image ...>), ...])

>>> augmented = pipe.augment("examples/clothes", per_class=2, sources="confusion")
>>> augmented.save("augmented")  # an imagefolder with provenance and a data card
>>> for image, label in augmented:  # a map-style data set for any training loop
...     pass

The models are loaded from local folders: a diffusers model with an image-to-image pipeline, and a
transformers image model. `help(GeNIe)` explains every argument. The stages of the DVC pipeline call
the same functions.

The parts of the library, in the order of the data flow (each imports only from parts above it):

- `core`: errors, seeding, schemas of tables, the device.
- `data`: labelled images, tasks, prompts, and the augmentation set.
- `plan`: the requests for images that a method makes; this part does not import torch.
- `classify`: frozen models, classifiers, their training examples, and confusion between classes.
- `render`: rendering of requests into an image store; this part does not depend on methods.
- `choose`: the choice of a noise ratio for each image, and the filter.
- `measure`: accuracies with intervals, comparisons of runs, and the analysis.
- `figures`: all figures, and the report.
- `settings`: the schema of params.yaml, and its conversion to library settings.
- `pipeline`: the class `GeNIe`, which joins all of these parts.
- `cli`: the command-line tool `genie`.
"""

import os
from typing import TYPE_CHECKING, Any

# these libraries warn about optional packages that are not needed here
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

if TYPE_CHECKING:
    from genie.choose.hard_negative import HardNegative
    from genie.data.augmented_set import AugmentedSet
    from genie.data.prompts import Prompts
    from genie.pipeline import GeNIe
    from genie.plan.augmentation import FilterSettings
    from genie.plan.levels import Levels
    from genie.render.model_info import RenderSettings

__all__ = [
    "AugmentedSet",
    "FilterSettings",
    "GeNIe",
    "HardNegative",
    "Levels",
    "Prompts",
    "RenderSettings",
]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first used, because importing torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from genie import pipeline

    return getattr(pipeline, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
