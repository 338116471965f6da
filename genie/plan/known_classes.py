"""A check that a generator knows the classes to be rendered."""

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from genie.core.errors import InvalidValueError
from genie.data.prompts import readable_name
from genie.plan.methods import METHODS
from genie.plan.model_card import known_classes

log = logging.getLogger(__name__)


def check_classes(
    labels: Callable[[], Iterable[str]], *, method: str, model: Path, names: Mapping[str, str]
) -> None:
    """Raise InvalidValueError if a method renders a class that the generator does not know.

    `labels` is a function that returns the classes. It is called only if the method renders images
    and the generator's card lists the classes that it knows. `names` maps classes to readable
    names. Log a warning if a method has to learn classes that the generator does not know.
    """
    known = known_classes(model) if METHODS[method].renders else None
    if known is None:
        return
    if needs_known_classes(method):
        require_known(labels(), known, names, model=model)
    elif unknown := unknown_classes(labels(), known, names):
        log.warning(
            "%s was trained on %s alone, so the tokens that %s learns for %s may give images of "
            "these classes with your labels; a generator that was trained on many classes, such "
            "as Stable Diffusion, is needed, and `inversion_steps` of a few hundred or more",
            model,
            ", ".join(known),
            method,
            ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else ""),
        )


def needs_known_classes(method: str) -> bool:
    """Return whether a method renders classes by name, without learning them from images."""
    chosen = METHODS[method]
    return chosen.renders and not chosen.learns


def unknown_classes(
    labels: Iterable[str], known: Iterable[str], names: Mapping[str, str]
) -> list[str]:
    """Return the sorted labels that a generator does not know by the names used in prompts.

    `names` maps labels to readable names (names.csv). Names are compared as words, ignoring case.
    """
    words = {_words(name) for name in known}
    return sorted(c for c in set(labels) if _words(names.get(c, c)) not in words)


def require_known(
    labels: Iterable[str], known: Iterable[str], names: Mapping[str, str], *, model: Path
) -> None:
    """Raise InvalidValueError with the possible remedies if a generator does not know a label."""
    unknown = unknown_classes(labels, known, names)
    if not unknown:
        return
    shown = ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
    others = [name for name, method in METHODS.items() if not method.renders]
    raise InvalidValueError(
        f"{model} does not know {len(unknown)} of the classes: {shown} (it knows "
        f"{', '.join(known)}){_other_word(unknown, known)}",
        argument="model",
        remedy="go on in one of three ways: fetch one that knows them, such as `genie fetch "
        "stable-diffusion-v1-5/stable-diffusion-v1-5 models/sd15` (5.5 GB, licence CreativeML "
        "OpenRAIL-M), and set `model` to models/sd15; set `method` to one that needs none "
        f'({", ".join(others)}); or insist by setting `unknown_classes` to "allow"',
    )


def _words(name: str) -> str:
    return readable_name(name).casefold()


def _other_word(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Return a hint if an unknown class may be another word for a known class."""
    words = {_words(name): name for name in known}
    for label in unknown:
        if near := difflib.get_close_matches(_words(label), words, n=1, cutoff=0.75):
            return (
                f"; if {label!r} means {words[near[0]]!r}, give it that name in names.csv of "
                "prompt.folder or in `Prompts(names=...)`"
            )
    return ""
