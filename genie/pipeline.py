"""The class `GeNIe`, which the stages, the command line, notebooks and protocols use.

`GeNIe` joins an engine, a store and an embedder. `pipe(image, target=...)` makes one hard negative
from an image. `pipe.augment(dataset)` makes the augmentation set for one support set.
`pipe.augment_tasks` augments several support sets at once and renders their images in shared
batches.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, Self

import pandas as pd
from diffusers.utils import logging as diffusers
from PIL import Image
from transformers.utils import logging as transformers

from genie.choose.filters import NEED_CLIP, Drawn, Judge, apply_rule, draw_until_kept
from genie.choose.hard_negative import (
    HardNegative,
    Landmark,
    hard_negative,
    without_positions,
)
from genie.choose.search import (
    Landmarks,
    as_table,
    landmarks_of,
    predicted_target,
    search,
)
from genie.classify.backbone import ImageModel, embed, load_backbone
from genie.classify.classifier import Classifier
from genie.classify.clip import load_clip
from genie.classify.confusion import STRATEGIES, rank_sources
from genie.classify.examples import Examples, load_examples, picker
from genie.classify.files import load_classifiers
from genie.classify.settings import TrainingSettings
from genie.classify.tasks import train_baseline
from genie.core.device import require_device
from genie.core.errors import InvalidValueError, require_choice
from genie.core.progress import Progress
from genie.core.tables import SOURCES, read_support, read_table
from genie.data.augmented_set import AugmentedSet, Provenance, set_of
from genie.data.card import SetFacts
from genie.data.datasets import labelled_images
from genie.data.depth import common_depth
from genie.data.images import encode_png, image_id, to_square_rgb
from genie.data.prompts import Prompts
from genie.plan.augmentation import Augmentation, FilterSettings, require_seed, task_spec
from genie.plan.known_classes import check_classes
from genie.plan.levels import Levels, require_ratio_or_ada, warn_of_equal_levels
from genie.plan.methods import levels_of, plan_slots, target_weights
from genie.plan.model_card import model_licence
from genie.plan.requests import Request, Slot, distinct
from genie.plan.tasks import TaskSpec
from genie.progress import bar
from genie.render.adapters import InversionSettings, learn_token
from genie.render.engine import Engine, LocalEngine
from genie.render.loop import Renderer
from genie.render.model import load_generator
from genie.render.model_info import RenderSettings
from genie.render.ray_engine import Cluster, RayEngine
from genie.render.remote_store import open_remote
from genie.render.speed import fastest_batch_size
from genie.render.store import DiskStore, MemoryStore, Store
from genie.settings import Params, render_settings

log = logging.getLogger(__name__)

_SETTINGS, _AUGMENTATION, _TRAINING = RenderSettings(), Augmentation(), TrainingSettings()

TXT2IMG_EXAMPLES = 8
"""Number of Txt2Img images whose mean embedding is the landmark of a target without examples."""


@dataclass(frozen=True)
class Task:
    """A support set, with its source classes and its baseline.

    `support` has the columns image_id and label. `sources` are the ranked source classes of each
    target (columns target, source, rank). `baseline` was trained on the support images alone.
    """

    number: int
    support: pd.DataFrame
    sources: pd.DataFrame
    baseline: Classifier


@dataclass(frozen=True)
class Augmented:
    """The augmentation set for several tasks, with all trajectories and the cost of rendering."""

    images: AugmentedSet
    drawn: Drawn

    def write_cost(self, path: Path) -> None:
        """Write the counts that do not differ between runs to a JSON file (metrics/cost.json)."""
        cost, facts = self.drawn.cost, self.images.facts
        same = {
            "needed": cost.needed,
            "guided_steps_needed": cost.guided_steps_needed,
            "rejected": facts.rejected,
            "short": facts.short,
            "images": len(self.images),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(same, indent=1) + "\n")


@dataclass(frozen=True)
class GeNIe:
    """Makes hard negatives with a text-to-image model (GeNIe, arXiv 2312.02548).

    - `engine`: renders images
    - `store`: stores every rendered image
    - `embedder`: the frozen image model that GeNIe-Ada and the classifiers use, if any
    - `model`, `embedder_folder`: the folders of the generator and the embedder
    - `work`: a folder for learned tokens and cached embeddings
    - `progress`: shows the progress of long loops
    """

    engine: Engine
    store: Store
    embedder: ImageModel | None
    model: Path
    embedder_folder: Path | None = None
    work: Path | None = None
    progress: Progress = bar

    def __repr__(self) -> str:
        kept = "memory" if self.work is None else str(self.work)
        return f"GeNIe({self.engine.info}, embedder={self.embedder_folder}, store={kept})"

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        embedder: str | Path | None = None,
        device: str | None = None,
        dtype: Any = None,
        store: str | Path | None = None,
        settings: RenderSettings = _SETTINGS,
        cluster: Cluster | None = None,
        remote_store: str | None = None,
        progress: Progress = bar,
    ) -> Self:
        """Load a generator and an embedder from local folders.

        - `model`: the folder of a diffusers model with an image-to-image pipeline
        - `embedder`: the folder of a transformers image model; without an embedder, r must be a
          number
        - `device`: "cuda", "mps" or "cpu"; None selects an accelerator if there is one
        - `dtype`: the precision of the denoiser, such as "bfloat16" or torch.bfloat16; None selects
          float32 on a CPU and half precision on a GPU
        - `store`: a folder for rendered images, so that no image is rendered twice; None keeps the
          images in memory
        - `settings`: steps, guidance scale and batch size; by default, the model's own
        - `cluster`, `remote_store`: the Ray cluster to render on, and the URL of a second store

        Raise MissingFileError if a folder does not exist, InvalidValueError if a value is out of
        range, and FailedError if a model does not load.
        """
        folder, work = Path(model), None if store is None else Path(store)
        require_device(device)
        if not callable(progress):
            raise InvalidValueError(
                "must be a progress bar",
                argument="progress",
                value=progress,
                remedy="pass genie.core.progress.silent to show none",
            )
        if work is not None and work.exists() and not work.is_dir():
            raise InvalidValueError(
                "must be a folder",
                argument="store",
                value=str(work),
                remedy="give another path; a new folder is made",
            )
        if dtype is not None:
            name: Any = str(dtype).removeprefix("torch.")
            settings = replace(settings, dtype=name)
        backbone = None
        with _without_loading_bars():
            if embedder is not None:
                cache = work and work / "features.sqlite"
                backbone = load_backbone(Path(embedder), device=device, cache=cache)
            engine = _engine(folder, settings, cluster, device)
        remote = None if remote_store is None else open_remote(remote_store)
        return cls(
            engine=engine,
            store=MemoryStore() if work is None else DiskStore(work / "store", remote),
            embedder=backbone,
            model=folder,
            embedder_folder=None if embedder is None else Path(embedder),
            work=work,
            progress=progress,
        )

    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image],
        target: str,
        *,
        source: str | Sequence[str] | None = None,
        examples: Sequence[Image.Image] = (),
        r: float | Literal["ada"] = "ada",
        levels: Levels = _AUGMENTATION.levels,
        prompts: Prompts = _AUGMENTATION.prompts,
        seed: int = _AUGMENTATION.seed,
        unknown_classes: Literal["stop", "allow"] = "stop",
    ) -> Any:
        """Edit an image, or each image in a list, towards a target class.

        - `image`: a PIL image of any size, or a list of PIL images; the central square is scaled to
          the model's size (`pipe.engine.info.size`), which is also the size of the result
        - `target`: the class in the prompt
        - `source`: a name for the source, or a list with one name per image, recorded as
          provenance. The name replaces the image's id in the key of the noise, so images with the
          same name get the same noise
        - `examples`: real images of the target, whose mean embedding is its landmark (section 3.2);
          without examples, eight Txt2Img images are used (see `HardNegative.landmark`)
        - `r`: the noise ratio in (0, 1], or "ada" to choose it among `levels` (Algorithm 1). With
          "ada", the level after the largest shift is chosen. If its position is below
          `levels.min_position`, the first later level that reaches this bound is chosen instead, or
          else the highest level. The `positions` in the result show how near each level is to the
          target; a fixed ratio has a position only if `examples` are given
        - `unknown_classes`: "allow" also renders a class that the model's card does not list

        Return a `HardNegative`, or a list of `HardNegative` objects for a list of images. Raise
        InvalidValueError if a value is out of range, or if r is "ada" and there is no embedder.
        """
        require_ratio_or_ada(r)
        if r == "ada" and self.embedder is None:
            raise InvalidValueError(
                "must be a number if there is no embedder, because GeNIe-Ada compares embeddings",
                argument="r",
                value=r,
                remedy="give an `embedder` to `from_pretrained`, or r=0.7",
            )
        require_choice("unknown_classes", unknown_classes, ("stop", "allow"))
        require_seed(seed)
        if not isinstance(target, str) or not target.strip():
            raise InvalidValueError("must be the name of a class", argument="target", value=target)
        if unknown_classes == "stop":
            self._require_known([target], "genie", prompts)
        squares = _squares([image] if isinstance(image, Image.Image) else image, "image")
        names = _names(source, len(squares))
        if r == "ada" and target in names:
            raise InvalidValueError(
                "must differ from `target`, because levels are compared between two classes",
                argument="source",
                value=target,
                remedy="fix the ratio, for example r=0.7",
            )
        real = _squares([examples] if isinstance(examples, Image.Image) else examples, "examples")
        task = TaskSpec(
            support=pd.DataFrame({"image_id": map(image_id, real), "label": target}),
            sources=pd.DataFrame(),
            per_class={},
            ratios=levels.ratios if r == "ada" else (float(r),),
            prompts=prompts,
            seed=seed,
        )
        slots = [
            _slot(task, target, name, image_id(square))
            for name, square in zip(names, squares, strict=True)
        ]
        made = self._edit(squares, slots, real, levels) if slots else []
        return made[0] if isinstance(image, Image.Image) else made

    def augment(
        self,
        dataset: Any,
        *,
        per_class: int = _AUGMENTATION.per_class,
        sources: str = "confusion",
        method: str = _AUGMENTATION.method,
        r: float | Literal["ada"] = _AUGMENTATION.r,
        levels: Levels = _AUGMENTATION.levels,
        top_k: int = 4,
        classes: Literal["all", "few"] = _AUGMENTATION.classes,
        prompts: Prompts = _AUGMENTATION.prompts,
        filter: FilterSettings = _AUGMENTATION.filter,
        training: TrainingSettings = _TRAINING,
        seed: int = _AUGMENTATION.seed,
        class_names: Sequence[str] | None = None,
        inversion_steps: int = _AUGMENTATION.inversion_steps,
        unknown_classes: Literal["stop", "allow"] = _AUGMENTATION.unknown_classes,
    ) -> AugmentedSet:
        """Make the augmentation set for one support set.

        A classifier is trained on the images, and classes that it confuses become sources for each
        other's hard negatives.

        - `dataset`: the images, as the path of an image folder, a list of (PIL image, label) pairs,
          a torchvision-style data set, or a Hugging Face `Dataset` (see
          `data.datasets.labelled_images`); `class_names` names the integer labels
        - `per_class`: the number of images per class; `classes` "few" leaves out classes with 20 or
          more real images
        - `r`, `levels`: the noise ratio, or "ada" to choose it among the levels for each image
        - `prompts`, `filter`, `seed`: the prompts, the filter, and the seed of all random draws
        - `inversion_steps`: the number of training steps for each learned token
        - `unknown_classes`: "allow" also renders classes that the model's card does not list
        - `method`: a method that `genie methods` lists, such as "genie", "img2img" or "txt2img".
          Methods that only copy real images, such as "strong", produce an empty set
        - `sources`: how source classes are chosen: "confusion" (the classes most confused with the
          target), "distant", "random" or "all"; `top_k` is the number of source classes per target
        - `training`: settings for training the classifier, except the seed, which is `seed`

        Raise InvalidValueError if a value is out of range, the data set cannot be read, the
        generator does not know a class, or there is no embedder.
        """
        require_choice("sources", sources, STRATEGIES)
        if top_k < 1:
            raise InvalidValueError("must be at least 1", argument="top_k", value=top_k)
        settings = Augmentation(
            method=method,
            r=r,
            levels=levels,
            per_class=per_class,
            classes=classes,
            every_source=sources == "all",
            prompts=prompts,
            filter=filter,
            seed=seed,
            inversion_steps=inversion_steps,
            unknown_classes=unknown_classes,
        )
        if not settings.chosen_method.renders:
            log.warning(
                "%s renders no images; it only augments real images during training", method
            )
        images = labelled_images(dataset, class_names)
        training = replace(training, seed=seed, backbone=self.embedder_folder or training.backbone)
        task = self._task(images.table, settings, training, sources=(sources, top_k))
        made = self.augment_tasks(images.table, [task], settings, source_licence=images.licence)
        return replace(made.images, label_of=images.label_of)

    def augment_tasks(
        self,
        images: pd.DataFrame,
        tasks: Sequence[Task],
        settings: Augmentation,
        *,
        source_licence: str = "",
    ) -> Augmented:
        """Make one augmentation set for several tasks, rendered in shared batches.

        `images` has the columns of IMAGES and contains every support image. An image that several
        tasks need is rendered only once. Each task gets the same images as if it were augmented
        alone.
        """
        embedder = self._require_embedder()
        method = settings.chosen_method
        support = pd.concat([task.support.assign(task=task.number) for task in tasks])
        if settings.unknown_classes == "stop":
            self._require_known(support["label"].unique(), settings.method, settings.prompts)
        real = load_examples(images, backbone=embedder)
        baselines = {task.number: task.baseline for task in tasks}
        judges = self._judges(tasks, picker(real, images["image_id"]), settings)
        renderer = self._renderer(dict(zip(images["image_id"], images["png"], strict=True)))
        names, tokens = self._learned(support, renderer, settings) if method.learns else ({}, [])
        if method.searches and not self.engine.info.starts_anywhere:
            warn_of_equal_levels(settings.ratios, self.engine.info.steps)
        slots = planned_slots(tasks, settings, names)
        embeddings = dict(zip(images["image_id"], real.embeddings, strict=True))
        landmarks = landmarks_of(support, embeddings, embedder)
        drawn = draw_until_kept(
            slots,
            search=lambda some: search(some, renderer, landmarks, settings.levels),
            keeps=lambda some: apply_rule(some, settings.rule, judges, renderer),
            attempts=settings.filter.attempts,
        )
        found = drawn.trajectories
        table = as_table(found, predicted_target(found, baselines, renderer))
        table["target_weight"] = target_weights(method, table["r"].to_numpy())
        kept = int(table["chosen"].sum())
        facts = SetFacts(
            method=settings.method,
            rejected=len(found) - kept,
            short=len(slots) - kept,
            generator_licence=model_licence(self.model),
            source_licence=source_licence,
        )
        _warn_of_shortfall(facts.short, len(slots), settings)
        made = set_of(
            table,
            self._provenance(settings),
            png_of=self.store.png,
            classes=support["label"].unique(),
        )
        return Augmented(replace(made, facts=facts, copied=tokens), drawn)

    def _edit(
        self,
        squares: Sequence[Image.Image],
        slots: Sequence[Slot],
        examples: Sequence[Image.Image],
        levels: Levels,
    ) -> list[HardNegative]:
        """Render the levels of each image, and choose one level if there are several."""
        ids = [image_id(square) for square in squares]
        renderer = self._renderer(dict(zip(ids, map(encode_png, squares), strict=True)))
        if self.embedder is None or (len(slots[0].levels) == 1 and not examples):
            renderer.ensure(distinct(slots), steps=self.engine.info.steps)
            return [without_positions(slot, renderer) for slot in slots]
        first = slots[0].levels[0]
        drawn = examples or self._txt2img(first, renderer)
        landmarks = Landmarks(
            self.embedder,
            dict(zip(ids, embed(squares, model=self.embedder), strict=True)),
            {(0, first.target_label): embed(drawn, model=self.embedder).mean(0)},
        )
        found, _ = search(slots, renderer, landmarks, levels)
        kind: Landmark = "examples" if examples else "txt2img"
        return [
            hard_negative(trajectory, renderer, landmark=kind, examples=drawn)
            for trajectory in found
        ]

    def _task(
        self,
        images: pd.DataFrame,
        settings: Augmentation,
        training: TrainingSettings,
        *,
        sources: tuple[str, int],
    ) -> Task:
        """Train a baseline on all images, and rank source classes by the baseline's predictions."""
        embedder = self._require_embedder()
        examples = load_examples(images, backbone=embedder)
        extra = settings.images_per_class(list(images["label"]))
        baseline, predictions = train_baseline(images, examples, extra, training, embedder)
        strategy, top_k = sources
        _, ranked = rank_sources(predictions, strategy=strategy, top_k=top_k, seed=settings.seed)
        return Task(0, images, ranked, baseline)

    def _renderer(self, sources: Mapping[str, bytes]) -> Renderer:
        return Renderer(self.engine, self.store, sources, self.progress)

    def _require_embedder(self) -> ImageModel:
        if self.embedder is None:
            raise InvalidValueError(
                "is required to train classifiers and to compare images",
                argument="embedder",
                remedy="pass a folder of a transformers image model to `from_pretrained`",
            )
        return self.embedder

    def _require_known(self, labels: Sequence[str], method: str, prompts: Prompts) -> None:
        check_classes(lambda: labels, method=method, model=self.model, names=prompts.names)

    def _txt2img(self, like: Request, renderer: Renderer) -> list[Image.Image]:
        """Render Txt2Img images of a request's target class with the request's prompt."""
        drawn = replace(like, source_id=None, source_label=None, noise_id=None, r=1.0)
        requests = [replace(drawn, replicate=i) for i in range(TXT2IMG_EXAMPLES)]
        steps = self.engine.info.steps
        renderer.ensure(requests, steps=steps)
        return [self.store.image(renderer.key(request, steps)) for request in requests]

    def _judges(
        self,
        tasks: Sequence[Task],
        example_of: Callable[[Sequence[str]], Examples],
        settings: Augmentation,
    ) -> dict[int, Judge]:
        """Return a judge for each task, which applies the filter; load CLIP only if needed."""
        clip, chosen = None, settings.filter
        if settings.rule in NEED_CLIP:
            if chosen.clip is None:
                raise InvalidValueError(
                    f'must be the folder of a CLIP model for the filter rule "{settings.rule}"',
                    argument="clip",
                    value=None,
                    remedy='give one in `FilterSettings(clip=...)`, or use the `rule` "none"',
                )
            cache = self.work and self.work / "features.sqlite"
            clip = load_clip(chosen.clip, argument="clip", cache=cache)
        words = replace(settings.prompts, captions=None, contexts=None)
        return {
            task.number: Judge(
                classifier=task.baseline,
                support=example_of(list(task.support["image_id"])),
                prompts={c: words.wording(c).prompt for c in sorted(set(task.support["label"]))},
                clip=clip,
                min_text=chosen.min_text,
                min_image=chosen.min_image,
            )
            for task in tasks
        }

    def _learned(
        self, support: pd.DataFrame, renderer: Renderer, settings: Augmentation
    ) -> tuple[dict[int, dict[str, str]], list[Path]]:
        """Learn a token for each class of each task from the class's images in the task.

        Return the tokens by task, and the token files.
        """
        generator = self.engine.generator()
        training = InversionSettings(
            settings.inversion_steps, template=settings.prompts.templates[0], seed=settings.seed
        )
        folder = (self.work or Path(mkdtemp(prefix="genie-"))) / "tokens"
        names: dict[int, dict[str, str]] = {}
        files = []
        pairs = list(support.groupby(["task", "label"])["image_id"])
        for (task, label), ids in self.progress(
            pairs, "learn tokens", total=len(pairs), unit="class"
        ):
            token, path = learn_token(
                {i: renderer.sources[i] for i in ids},
                settings.prompts.names.get(label, label),
                generator=generator,
                settings=training,
                folder=folder,
            )
            self.engine.add_tokens({token: path})
            names.setdefault(int(task), {})[label] = token
            files.append(path)
        return names, files

    def _provenance(self, settings: Augmentation) -> Provenance:
        info = self.engine.info
        return Provenance(
            method=settings.method,
            guidance_scale=info.guidance_scale,
            scheduler=info.scheduler,
            generator=info.name,
            fingerprint=info.fingerprint,
        )


def planned_slots(
    tasks: Sequence[Task],
    settings: Augmentation,
    tokens: Mapping[int, Mapping[str, str]] | None = None,
) -> list[Slot]:
    """Plan the images for tasks without rendering any; `tokens` are the learned tokens by task."""
    specs = [
        task_spec(
            settings,
            task.support,
            task.sources,
            number=task.number,
            tokens=(tokens or {}).get(task.number),
        )
        for task in tasks
    ]
    return plan_slots(settings.chosen_method, specs)


@contextmanager
def _without_loading_bars() -> Iterator[None]:
    """Hide the progress bars that libraries show while they load a model."""
    shown = [library for library in (transformers, diffusers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _engine(
    folder: Path, settings: RenderSettings, cluster: Cluster | None, device: str | None
) -> Engine:
    """Load the model in this process, or connect to the workers that load it."""
    if cluster is not None:
        return RayEngine(cluster, folder, settings)
    generator = load_generator(folder, settings, device=device)
    if settings.batch_size == "probe":
        size = fastest_batch_size(generator)
        log.info("batch size %d is the fastest on this machine", size)
        generator = replace(generator, info=replace(generator.info, batch_size=size))
    return LocalEngine(generator)


def _squares(images: Iterable[Any], argument: str) -> list[Image.Image]:
    """Return images as RGB squares; raise InvalidValueError for anything other than PIL images."""
    listed = list(images)
    for one in listed:
        if not isinstance(one, Image.Image):
            raise InvalidValueError(
                "must contain only PIL images",
                argument=argument,
                value=type(one).__name__,
                remedy="convert it, for example with PIL.Image.fromarray or PIL.Image.open",
            )
    depth = common_depth(listed, argument)
    return [to_square_rgb(one, depth=depth) for one in listed]


def _names(source: str | Sequence[str] | None, count: int) -> Sequence[str | None]:
    """Return a name for each source, or None for each if the image ids are to be used."""
    if source is None or isinstance(source, str):
        return [source] * count
    if not isinstance(source, Sequence) or len(source) != count:
        raise InvalidValueError(
            f"must name each of the {count} images, or be one name for all of them",
            argument="source",
            value=source,
        )
    return source


def _slot(task: TaskSpec, target: str, source: str | None, source_id: str) -> Slot:
    """Return the slot for one image; the noise is keyed by the name of the source, if given."""
    levels = levels_of(task, target, source or source_id, source_id, 0)
    return Slot(0, tuple(replace(request, noise_id=source) for request in levels))


def _warn_of_shortfall(short: int, wanted: int, settings: Augmentation) -> None:
    """Log a warning if requested images were rejected in all attempts."""
    if short:
        log.warning(
            "%d of %d images were rejected in all %d attempts and are replaced by copies of real "
            "images; increase `attempts`, or relax `rule` (%s; the thresholds of cosine are "
            "`min_text` and `min_image`)",
            short,
            wanted,
            settings.filter.attempts,
            settings.rule,
        )


def from_params(
    params: Params,
    work: Path,
    cluster: Cluster | None = None,
    remote_store: str | None = None,
    progress: Progress = bar,
) -> GeNIe:
    """Load the models that params.yaml names; `work` is the folder of the store."""
    return GeNIe.from_pretrained(
        params.generator.model,
        embedder=params.classifier.backbone,
        store=work,
        settings=render_settings(params),
        cluster=cluster,
        remote_store=remote_store,
        progress=progress,
    )


def read_tasks(root: Path) -> list[Task]:
    """Read the tasks that the stages before `generate` wrote to a project's folder."""
    support = read_support(root / "data/prepared/tasks.csv")
    sources = read_table(root / "data/sources/sources.csv", SOURCES)
    baselines = load_classifiers(root / "models/baseline")
    return [
        Task(int(task), rows, sources[sources["task"] == task], baselines[int(task)])
        for task, rows in support.groupby("task")
    ]
