"""What the planning of images needs to know of a model, wherever it is loaded."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from genie.generate.model import Generator


@dataclass(frozen=True)
class Described:
    """A model without its weights: the fields of `Generator` of the same names.

    `batch_size` is the default of the device that it renders on.
    """

    name: str
    fingerprint: str
    guidance_scale: float
    steps: int
    size: int
    device: str
    fast: bool
    precision: str
    scheduler: str
    batch_size: int

    @classmethod
    def of(cls, generator: "Generator", *, batch_size: int) -> Self:
        """Describe a loaded model."""
        return cls(
            name=generator.name,
            fingerprint=generator.fingerprint,
            guidance_scale=generator.guidance_scale,
            steps=generator.steps,
            size=generator.size,
            device=generator.device,
            fast=generator.fast,
            precision=generator.precision,
            scheduler=generator.scheduler,
            batch_size=batch_size,
        )
