"""The tiny models, loaded once for all tests of the room."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from genie.render.model import Generator, load_generator


@pytest.fixture(scope="session")
def sd(tiny_sd_folder) -> Generator:
    """The tiny Stable Diffusion model; no test changes it."""
    return load_generator(tiny_sd_folder, device="cpu")


@pytest.fixture(
    scope="session",
    params=["tiny_sdxl_folder", "tiny_sd3_folder", "tiny_lcm_folder", "tiny_turbo_folder"],
)
def other(request) -> Generator:
    """Each model that the generic renderer calls as it is."""
    return load_generator(request.getfixturevalue(request.param), device="cpu")


@pytest.fixture(scope="session")
def inputs_of() -> Callable[[torch.nn.Module], Any]:
    """A context in which the first input of each call of a network is recorded."""

    @contextmanager
    def recorded(network: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
        seen: list[torch.Tensor] = []

        def record(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            first = arguments[0] if arguments else next(iter(named.values()))
            seen.append(first.detach().clone())

        handle = network.register_forward_pre_hook(record, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()

    return recorded
