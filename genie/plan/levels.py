"""The noise ratio r, its number of denoising steps, and the levels that GeNIe-Ada compares.

| code | paper | meaning |
|---|---|---|
| r | r | fraction of the diffusion process applied to the source, in (0, 1] |
| steps | N | `num_inference_steps` of a full run |
| k | floor(rN) | number of denoising steps that are run |
| M | M | number of levels |
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Literal

from genie.core.errors import InvalidValueError, require_choice

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Levels:
    """The M evenly spaced noise ratios in [low, high] that GeNIe-Ada compares.

    `min_position` is the minimum position of the chosen level between source (0) and target (1);
    None selects the paper's rule (Algorithm 1). `search` is "exact", or "preview" to compare
    previews rendered in few steps. Raise InvalidValueError unless M >= 2 and 0 < low < high <= 1,
    or if `search` is unknown.
    """

    low: float = 0.5
    high: float = 0.9
    M: int = 5
    min_position: float | None = 0.8
    search: Literal["exact", "preview"] = "exact"

    def __post_init__(self) -> None:
        if self.M < 2:
            raise InvalidValueError(
                "must be at least 2 to compare levels", argument="M", value=self.M, remedy="use 5"
            )
        for name, ratio, usual in (("low", self.low, 0.5), ("high", self.high, 0.9)):
            require_ratio(ratio, argument=name, usual=usual)
        if self.low >= self.high:
            raise InvalidValueError(
                f"must be below `high` ({self.high})",
                argument="low",
                value=self.low,
                remedy="swap them",
            )
        require_choice("search", self.search, ("exact", "preview"))

    @property
    def ratios(self) -> tuple[float, ...]:
        """The noise ratios in ascending order (GeNIe-Ada, Algorithm 1)."""
        step = (self.high - self.low) / (self.M - 1)
        return tuple(round(self.low + i * step, 12) for i in range(self.M))


def require_ratio(r: float, *, argument: str = "r", usual: float = 0.7) -> None:
    """Raise InvalidValueError unless r is a noise ratio, in (0, 1]."""
    if not 0 < r <= 1:
        raise InvalidValueError(
            "must be in (0, 1]", argument=argument, value=r, remedy=f"{usual} is a usual value"
        )


def require_ratio_or_ada(r: object) -> None:
    """Raise InvalidValueError unless r is "ada" or a noise ratio, in (0, 1]."""
    if isinstance(r, Real) and not isinstance(r, bool) and 0 < float(r) <= 1:
        return
    if r != "ada":
        raise InvalidValueError('must be "ada" or in (0, 1]', argument="r", value=r)


def denoising_steps(r: float, steps: int) -> int:
    """Compute k = max(1, floor(r * steps + 1/2)) in exact arithmetic.

    The paper uses floor(rN), which differs only if rN is not an integer. r is rounded to 12
    decimals, so that 0.7 and 0.7000000000000001 are the same ratio and 0.58 * 50 is 29. Raise
    InvalidValueError unless r is in (0, 1] and steps is at least 1.
    """
    require_ratio(r)
    if steps < 1:
        raise InvalidValueError(
            "must be at least 1", argument="steps", value=steps, remedy="50 is a usual value"
        )
    exact = Fraction(f"{r:.12f}") * steps
    return max(1, math.floor(exact + Fraction(1, 2)))


def coincides(r: float, steps: int) -> bool:
    """Return whether r * steps is an integer, so that one of the steps starts exactly at r.

    For r = 0.7, this is true with 10 steps, but not with 4.
    """
    return (Fraction(f"{r:.12f}") * steps).denominator == 1


def strength(r: float, steps: int) -> float:
    """Return the diffusers `strength` in (0, 1] that denoises `denoising_steps(r, steps)` steps.

    diffusers takes int(steps * strength) steps, which loses a step to rounding for some r (50 *
    0.58 gives 28). The strength is therefore half a step above k, which is safe in both directions.
    """
    return min(1.0, (denoising_steps(r, steps) + 0.5) / steps)


def warn_of_equal_levels(ratios: Sequence[float], steps: int) -> None:
    """Log a warning if there are too few steps to distinguish the ratios, as in distilled models.

    This concerns generators that can only start at one of their steps, but not Stable Diffusion,
    which starts at r exactly.
    """
    different = len({denoising_steps(r, steps) for r in ratios})
    if different < len(ratios):
        log.warning(
            "the %d levels from `low` to `high` give only %d different numbers of steps with %d "
            "`steps`, so some levels render the same image; use fewer levels (`M`) or more `steps`",
            len(ratios),
            different,
            steps,
        )
