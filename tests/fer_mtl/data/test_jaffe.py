from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import load

NAMES = ("KA.AN1.39", "KA.DI2.43", "KA.FE3.47", "YM.HA1.52", "YM.NE3.51", "YM.SA2.56", "YM.SU1.58")


@pytest.mark.parametrize("place", ["", "jaffe/"])
def test_labels_and_subjects_are_in_the_names(
    write_tree: Callable[[dict[str, int]], Path], place: str
) -> None:
    root = write_tree({f"{place}{name}.tiff": i for i, name in enumerate(NAMES)})
    (root / place / "README").touch()
    loaded = load(f"jaffe:{root}", image_size=48, channels=1)
    assert loaded.classes[-1] == "neutral" and loaded.class_counts() == dict.fromkeys(loaded.classes, 1)
    assert loaded.sources == [f"{place}{name}.tiff" for name in NAMES]
    assert loaded.subjects == ["KA"] * 3 + ["YM"] * 4
    assert [loaded.classes[i] for i in loaded.labels] == [
        "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise",
    ]  # fmt: skip
    assert len(load(f"jaffe:{root}", image_size=48, classes=("neutral",))) == 1


@pytest.mark.parametrize("name", ["KA.XX1.39.tiff", "KAN.AN1.39.tiff", "KA.AN1.tiff", "KA.AN1.39.png"])
def test_a_picture_with_another_name(write_tree: Callable[[dict[str, int]], Path], name: str) -> None:
    root = write_tree({"KA.AN1.39.tiff": 0, name: 1})
    with pytest.raises(ValueError, match=f"{name}: the name is not like"):
        load(f"jaffe:{root}", image_size=48)
