from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from fer_mtl import fonts
from fer_mtl.data.overview import image_grid
from fer_mtl.evaluation.pictures import captioned
from fer_mtl.evaluation.plots import confusion_plot, to_png
from fer_mtl.faces import Face


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without fonts of its own, of which nothing has been said yet."""
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    monkeypatch.setattr(fonts, "_missed", set())
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))


def write_font(path: Path, letters: str) -> str:
    """A font in which every one of the letters is a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names, square = [".notdef", *(f"u{ord(letter):X}" for letter in letters)], pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    font.setupOS2(sTypoAscender=1000)
    font.setupPost()
    font.save(path)
    return str(path)


def install(monkeypatch: pytest.MonkeyPatch, paths: Sequence[str]) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: tuple(paths))


def test_the_fewest_fonts_that_have_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_text("no font")
    few, many, other = (
        write_font(tmp_path / f"{name}.ttf", letters)
        for name, letters in {"few": "愤", "many": "愤怒", "other": "乐"}.items()
    )
    install(monkeypatch, [str(broken), few, other, many])
    assert fonts.fallbacks("anger, colère, гнев, θυμός \n") == []
    assert fonts.fallbacks("愤怒 anger") == [many]
    assert fonts.fallbacks("愤怒 or 乐") == [many, other]
    assert fonts.families("乐") == ["other"]


def test_plots_and_captions_have_the_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [write_font(tmp_path / "squares.ttf", "愤怒 93.1%")])
    marked = captioned(Image.new("RGB", (200, 100)), [(Face((0, 0, 0, 0)), "愤怒")])
    white = np.asarray(marked).min(2) == 255
    assert white.any(0).sum() > 2 * 8 and white.sum() == white.any(0).sum() * white.any(1).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_letters = to_png(confusion_plot([[1, 0], [0, 1]], ["愤怒", "x"]))
    install(monkeypatch, [])
    assert to_png(confusion_plot([[1, 0], [0, 1]], ["愤怒", "x"])) != with_letters


def test_contact_sheets_have_the_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [write_font(tmp_path / "squares.ttf", "愤怒")])
    face = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    black = np.asarray(image_grid(face, [[0]], 60, columns=["愤怒"], labels=["愤怒"])).max(2) == 0
    left = black.shape[1] - 60  # of the picture
    for letters in (black[:22, left:], black[22:, :left]):
        assert letters.sum() == letters.any(0).sum() * letters.any(1).sum() > 26 * 8


def test_letters_that_no_font_has_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("愤怒", "愤怒", "快乐"):
            to_png(confusion_plot([[1]], [name]))
        fonts.pillow_font("快乐", 12)
    (record,) = caplog.records
    assert "letters such as 怒愤: pictures show boxes" in record.getMessage()
