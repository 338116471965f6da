"""The check that the generator knows the classes of the data."""

from collections.abc import Callable, Iterable

from genie.data.wording import read_names
from genie.generate.known import known_classes, needs_known_classes, require_known

from .params import Params


def check_classes(params: Params, labels: Callable[[], Iterable[str]]) -> None:
    """Raise GenieError if images are to be rendered of a class that the generator does not know.

    Nothing is checked, and `labels` not called, where `generator.unknown_classes` is "allow", the
    method needs no known classes, or the generator does not say which it knows.
    """
    model = params.generator.model
    if params.generator.unknown_classes == "allow" or not needs_known_classes(params.method):
        return
    known = known_classes(model)
    if known is not None:
        require_known(labels(), known, read_names(params.prompt.names), model=model)
