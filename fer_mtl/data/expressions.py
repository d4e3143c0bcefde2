"""Names of expressions: the canonical ones, and what else folders call them."""

from __future__ import annotations

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
    lower = name.strip().lower()
    return _ALIASES.get(lower, lower)


def expression_of(name: str, known: Sequence[str], where: str) -> str:
    """The one of `known` that a folder or label called `name` means; ValueError naming `where` if none."""
    by_canonical = {canonical(k): k for k in known}
    try:
        return by_canonical[canonical(name)]
    except KeyError:
        raise ValueError(f"unknown expression {name!r} in {where}; known: {', '.join(known)}") from None
