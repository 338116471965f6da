"""The loop that renders the images missing from a store, and counts their cost."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from genie.core.errors import InvalidValueError
from genie.core.progress import Progress, silent
from genie.plan.forecast import forecast
from genie.plan.requests import Request
from genie.render.batches import batches
from genie.render.engine import Engine, Rendered, Sources
from genie.render.keys import request_key
from genie.render.speed import forecast_line
from genie.render.store import Filling, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """The cost of all images that are needed, and of the images rendered in this run.

    Distinct images and guided denoising steps are counted. `batch_size` is the smallest batch size
    used, because it is halved when memory runs out. `in_float32` counts images that came out black
    in half precision and were rendered again.
    """

    needed: int
    found: int
    rendered: int
    guided_steps_needed: int
    guided_steps_rendered: int
    seconds: float
    batch_size: int
    in_float32: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            needed=self.needed + other.needed,
            found=self.found + other.found,
            rendered=self.rendered + other.rendered,
            guided_steps_needed=self.guided_steps_needed + other.guided_steps_needed,
            guided_steps_rendered=self.guided_steps_rendered + other.guided_steps_rendered,
            seconds=self.seconds + other.seconds,
            batch_size=min(self.batch_size, other.batch_size),
            in_float32=self.in_float32 + other.in_float32,
        )

    def of_this_run(self) -> dict[str, float]:
        """Return the numbers that differ from run to run."""
        return {
            "found": self.found,
            "rendered": self.rendered,
            "guided_steps_rendered": self.guided_steps_rendered,
            "seconds": round(self.seconds, 2),
            "batch_size": self.batch_size,
            "in_float32": self.in_float32,
        }

    def summary(self) -> str:
        """Return a one-line summary of what was rendered."""
        seconds = f"{self.seconds:.0f} s"
        return f"{self.rendered} rendered in {seconds}, {self.found} taken from the store"


@dataclass(frozen=True)
class Renderer:
    """An engine and the store for its images.

    `sources` maps image ids to PNG bytes. `progress` shows how many images a call has rendered.
    """

    engine: Engine
    store: Store
    sources: Sources = field(default_factory=dict)
    progress: Progress = silent

    def key(self, request: Request, steps: int) -> str:
        """Return the request's key in the store for this number of steps."""
        return request_key(request, self.engine.info, steps=steps)

    def ensure(
        self, requests: Sequence[Request], *, steps: int, extra_steps: int | None = 0
    ) -> Cost:
        """Render the images that the store lacks, store them, and return the cost.

        `steps` is the number of steps N for a full rendering or a preview. First, a forecast is
        logged, which includes the `extra_steps` guided steps of a later call. If `extra_steps` is
        None, nothing is logged, because an earlier forecast included this call. Raise
        InvalidValueError if a request's source is not in `sources`.
        """
        started = time.perf_counter()
        info, keys = self.engine.info, {q: self.key(q, steps) for q in requests}
        distinct = {key: q for q, key in keys.items()}
        rendered: list[Rendered] = []
        announced = extra_steps is None
        with self.store.filling(keys, at_once=self.engine.at_once) as filling:
            while missing := filling.missing():
                if not announced:
                    needed, extra = len(distinct), extra_steps or 0
                    log.info(forecast_line(self.engine, missing, needed, steps, extra))
                    announced = True
                require_sources(missing, self.sources)
                _warn_of_negative_prompts(missing, self.engine)
                shown = self.progress(
                    self._fill(filling, missing, steps),
                    "generate",
                    total=len(missing),
                    unit="image",
                    weight=len,
                    whole=True,
                )
                for results in shown:  # without their bytes, to bound the memory
                    rendered += [replace(result, png=b"") for result in results]
        return Cost(
            needed=len(distinct),
            found=len(distinct) - len(rendered),
            rendered=len(rendered),
            guided_steps_needed=forecast(list(distinct.values()), steps).guided_steps,
            guided_steps_rendered=sum(result.guided_steps for result in rendered),
            seconds=time.perf_counter() - started,
            batch_size=min([info.batch_size, *(result.batch_size for result in rendered)]),
            in_float32=sum(result.in_float32 for result in rendered),
        )

    def _fill(
        self, filling: Filling, missing: Sequence[Request], steps: int
    ) -> Iterator[list[Rendered]]:
        info = self.engine.info
        grouped = batches(missing, steps, info.batch_size, mixed=info.starts_anywhere)
        for group in _at_once(grouped, self.engine.at_once):
            claimed = [filling.claim(batch) for batch in group]
            for results in self.engine.render(claimed, self.sources, steps):
                filling.put(results)
                yield results


def _at_once(grouped: Iterable[list[Request]], count: int) -> Iterator[list[list[Request]]]:
    """Yield groups of batches, each with at least `count` requests if enough are left."""
    group: list[list[Request]] = []
    for batch in grouped:
        group.append(batch)
        if sum(map(len, group)) >= count:
            yield group
            group = []
    if group:
        yield group


def require_sources(requests: Sequence[Request], sources: Sources) -> None:
    """Raise InvalidValueError if a request's source is not in `sources`."""
    for request in requests:
        if request.source_id is not None and request.source_id not in sources:
            raise InvalidValueError(
                f"every source image must be in the support set, but {request.source_id} "
                f"({request.source_label}) is not",
                remedy="run `dvc repro` from prepare",
            )


def _warn_of_negative_prompts(requests: Sequence[Request], engine: Engine) -> None:
    """Log a warning if there are negative prompts that have no effect."""
    info = engine.info
    if any(q.negative_prompt for q in requests) and not info.heeds_negative:
        log.warning(
            "negative prompts have no effect with %s at `guidance_scale` %g: it must exceed 1 and "
            "the pipeline must take negative_prompt; leave them empty or choose another model",
            info.name,
            info.guidance_scale,
        )
