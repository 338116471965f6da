"""The tiny generator, loaded once for all tests of the room."""

import pytest

from genie.render.model import Generator, load_generator


@pytest.fixture(scope="session")
def sd(tiny_sd_folder) -> Generator:
    """The tiny Stable Diffusion model; no test changes it."""
    return load_generator(tiny_sd_folder, device="cpu")
