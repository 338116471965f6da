"""What a figure shows, read from matplotlib while it is saved."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from matplotlib.figure import Figure


@dataclass
class Shown:
    """A saved figure and the texts on it."""

    figure: Figure
    path: Path

    @property
    def texts(self) -> list[str]:
        found = [*self.figure.texts]
        for axis in self.figure.axes:
            found += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        return [text.get_text() for text in found if text.get_text()]

    @property
    def titles(self) -> list[str]:
        return [axis.get_title() for axis in self.figure.axes]


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """From a function that draws to a path to what it drew there."""

    def of(draw) -> Shown:
        saved = []
        save = Figure.savefig

        def keep(figure, path, **options):
            saved.append(figure)
            save(figure, path, **options)

        path = tmp_path / f"deep/{len(list(tmp_path.rglob('*.png')))}.png"
        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", keep)
            draw(path)
        assert path.read_bytes().startswith(b"\x89PNG")
        (figure,) = saved
        return Shown(figure, path)

    return of
