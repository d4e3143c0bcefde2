"""Names of expressions: the canonical ones, and what else folders call them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

EXPRESSIONS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
"""The seven expressions in their canonical order."""

NEUTRAL = "neutral"

_ALIASES = {
    "angry": "anger", "contemptuous": "contempt", "disgusted": "disgust", "afraid": "fear", "fearful": "fear",
    "happy": "happiness", "joy": "happiness", "sad": "sadness", "surprised": "surprise", "calm": NEUTRAL,
}  # fmt: skip


def canonical(name: str) -> str:
    """The canonical name ("Happy" -> "happiness"); a name that is not known comes back in lower case."""
    lower = _plain(name)
    return _ALIASES.get(lower, lower)


def _plain(name: str) -> str:
    """In lower case, without spaces around it, letters with accents as one character: archives made on a Mac
    have them in two, which look the same."""
    return unicodedata.normalize("NFC", name).strip().lower()


def expression_of(name: str, known: Sequence[str], where: str) -> str:
    """The one of `known` that a folder or label called `name` means: the one of that name, or else the one
    that is another spelling of it. ValueError naming `where` if there is none, or several."""
    lower = _plain(name)
    # `known` may hold two spellings of one expression, e.g. neutral and calm, to keep them apart.
    found = [k for k in known if _plain(k) == lower]
    found = found or [k for k in known if canonical(k) == canonical(name)]
    if not found:
        raise ValueError(f"unknown expression {name!r} in {where}; known: {', '.join(known)}")
    if len(found) > 1:
        raise ValueError(f"{name!r} in {where} could be {' or '.join(found)}: name one of them like that")
    return found[0]
