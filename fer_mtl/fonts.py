"""Letters that the font of a picture lacks, such as Chinese ones, from the fonts that this machine has."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

log = logging.getLogger(__name__)

OWN = "DejaVu Sans"
"""It comes with matplotlib, whose own font it is: Latin, Greek, Cyrillic and more."""
_FANCY = ("black", "bold", "condensed", "italic", "light", "mono", "oblique", "serif", "thin")
_missed: set[str] = set()


def fallbacks(text: str) -> list[str]:
    """The files of fonts that have letters of ``text`` which matplotlib's own lacks, the fewest that have all
    of them; empty where it has all itself. What no font has, and is a box in the picture, is said once."""
    missing, found = _missing(text, _own()), []
    while missing:
        # A plain font with all that is missing is the rule; else the one with the most of it.
        best = min(_installed(), key=lambda path: len(_missing(missing, path)), default=_own())
        left = _missing(missing, best)
        if len(left) == len(missing):
            break
        found.append(best)
        missing = left
    if missing and not _missed:
        _missed.update(missing)
        log.warning(
            "no font of this machine has letters such as %s: pictures show boxes in their place; install one "
            "that has them, for Chinese, Japanese and Korean Noto Sans CJK (Debian: fonts-noto-cjk)",
            "".join(sorted(missing)),
        )
    return found


def families(text: str) -> list[str]:
    """The names of :func:`fallbacks`, known to matplotlib."""
    names = []
    for path in fallbacks(text):
        # matplotlib's own list of fonts may be older than the font.
        if all(Path(entry.fname) != Path(path) for entry in font_manager.fontManager.ttflist):
            font_manager.fontManager.addfont(path)
        names.append(font_manager.FontProperties(fname=path).get_name())
    return names


def pillow_font(text: str, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or one that has more of the letters of ``text``, ``size`` pixels high. Pillow takes
    all letters of a text from one font."""
    if text.isascii():
        return ImageFont.load_default(size)
    return ImageFont.truetype(
        min((_own(), *fallbacks(text)), key=lambda path: len(_missing(text, path))), size
    )


def _missing(text: Collection[str], path: str) -> set[str]:
    """Those letters, and other signs that leave ink, which a font has not."""
    signs = _signs(path)
    return {sign for sign in text if sign.isprintable() and not sign.isspace() and sign not in signs}


@cache
def _own() -> str:
    return font_manager.findfont(OWN)


@cache
def _installed() -> tuple[str, ...]:
    """The font files of this machine, plain ones first."""

    def fancy(path: str) -> tuple[bool, str]:
        name = Path(path).name.lower()
        return any(word in name for word in _FANCY), name

    return tuple(sorted(font_manager.findSystemFonts(), key=fancy))


@cache
def _signs(path: str) -> str:
    """All that a font has, in a string: a set would take twenty times the memory, of each of many fonts."""
    try:
        font = FT2Font(path)
        return "".join(map(chr, font.get_charmap())) if font.scalable else ""
    except (OSError, RuntimeError):  # a broken file, or of a kind that matplotlib does not draw
        return ""
