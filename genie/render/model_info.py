"""The description of a model without its weights, for planning, keying and forecasting images."""

from dataclasses import dataclass
from typing import Literal

from genie.core.errors import InvalidValueError, require_choice

Family = Literal["stable-diffusion", "generic"]

STABLE_DIFFUSION: Family = "stable-diffusion"
GENERIC: Family = "generic"


@dataclass(frozen=True)
class ModelInfo:
    """The description of a generator, in this process or on a worker.

    - `name`: the name of its folder
    - `fingerprint`: a hash of the files in its folder
    - `family`: "stable-diffusion" if `stable_diffusion` renders with it, or "generic"
    - `size`: the side length of its square images in pixels
    - `steps`: the number of denoising steps N in a full rendering
    - `guidance_scale`: the scale of classifier-free guidance, which is off at 1 or less
    - `batch_size`: the number of images per denoiser call
    - `precision`: the dtype in which the denoiser computes, and the dtype of its weights if it
      differs
    - `scheduler`: the class name of its scheduler
    - `device`: the device on which it renders, such as "cpu" or "cuda"
    - `heeds_negative`: whether a negative prompt has any effect
    """

    name: str
    fingerprint: str
    family: Family
    size: int
    steps: int
    guidance_scale: float
    batch_size: int
    precision: str
    scheduler: str
    device: str
    heeds_negative: bool

    @property
    def starts_anywhere(self) -> bool:
        """Whether rendering starts at r exactly, even if r lies between two steps."""
        return self.family == STABLE_DIFFUSION


@dataclass(frozen=True)
class RenderSettings:
    """Settings for rendering; None selects the default of the model or the device.

    See `denoiser.load_denoiser` for `compile`. With `batch_size` "probe", the fastest batch size is
    measured. `dtype` is the precision in which the denoiser computes. Raise InvalidValueError if a
    value is out of range.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int | Literal["probe"] | None = None
    compile: bool | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    def __post_init__(self) -> None:
        for argument, bound in (("steps", 1), ("guidance_scale", 0), ("batch_size", 1)):
            value = getattr(self, argument)
            if isinstance(value, int | float) and value < bound:
                raise InvalidValueError(
                    f"must be at least {bound}",
                    argument=argument,
                    value=value,
                    remedy="leave it out for the default",
                )
        if self.dtype is not None:
            require_choice("dtype", self.dtype, ("float32", "bfloat16", "float16"))
