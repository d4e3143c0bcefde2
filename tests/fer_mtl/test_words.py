from __future__ import annotations

from fer_mtl.words import counted


def test_counting_words() -> None:
    assert [counted(1, "row"), counted(2, "row"), counted(0, "class", "classes")] == [
        "1 row", "2 rows", "0 classes",
    ]  # fmt: skip
