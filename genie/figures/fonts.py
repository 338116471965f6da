"""Fonts for class names in any script."""

import logging
from collections.abc import Iterable
from pathlib import Path

from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

log = logging.getLogger(__name__)


def use_fonts_for_all_texts(figure: Figure) -> None:
    """Add installed fonts as fallbacks for characters that the default font of a figure lacks.

    A warning names the characters that no installed font has.
    """
    texts = figure.findobj(Text)
    needed = {c for text in texts for c in text.get_text() if c.isprintable() and not c.isspace()}
    default = font_manager.findfont(font_manager.FontProperties())
    families, left = families_for(needed - _characters(default))
    if families:
        for text in texts:
            text.set_fontfamily([*rcParams["font.family"], *families])
    if left:
        log.warning(
            "no installed font has the characters %s, so figures show boxes for them; install one, "
            "for example Debian's fonts-noto",
            " ".join(sorted(left)),
        )


def families_for(needed: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return font families that cover the needed characters, and the characters that none covers.

    The family that covers the most characters comes first; ties are broken by name.
    """
    left = set(needed)
    if not left:
        return [], left
    have = {family: left & _characters(file) for family, file in _installed().items()}
    families = []
    while left and (best := max(have, key=lambda family: len(have[family] & left))):
        if not have[best] & left:
            break
        families.append(best)
        left -= have[best]
    return families, left


def _installed() -> dict[str, str]:
    """Return a font file per family, sorted by name, preferring upright fonts of regular weight."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for file in sorted(set(font_manager.findSystemFonts()) - known):
        try:
            font_manager.fontManager.addfont(file)
        except (OSError, RuntimeError):  # a font that matplotlib cannot read
            log.debug("%s is skipped", file)
    fonts = sorted(
        font_manager.fontManager.ttflist,
        key=lambda font: (font.name, font.style != "normal", font.weight != 400, font.fname),
    )
    first: dict[str, str] = {}
    for font in fonts:
        placeholder = font.name.startswith("Last Resort")  # a box for every character
        if not placeholder and Path(font.fname).is_file():
            first.setdefault(font.name, font.fname)
    return first


def _characters(file: str) -> set[str]:
    return {chr(code) for code in FT2Font(file).get_charmap()}
