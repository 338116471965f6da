from pathlib import Path

import numpy as np

from genie.render.model import load_generator
from genie.render.model_info import RenderSettings
from zoo.evaluate import pictures, text_requests


def test_pictures_are_in_the_order_of_their_requests(tiny_sd_folder: Path) -> None:
    settings = RenderSettings(compile=False, batch_size=2)
    generator = load_generator(tiny_sd_folder, settings, device="cpu")
    requests = text_requests(3, ["coat", "bag"])
    assert [request.target_label for request in requests] == ["coat", "bag", "coat"]
    drawn = pictures(requests, generator, sources={}, name="all")
    assert len({image.tobytes() for image in drawn}) == 3
    for request, image in zip(requests, drawn, strict=True):
        (alone,) = pictures([request], generator, sources={}, name="one")
        gap = np.abs(np.asarray(alone, int) - np.asarray(image, int)).max()
        assert gap <= 1  # up to rounding, an image does not depend on its batch
