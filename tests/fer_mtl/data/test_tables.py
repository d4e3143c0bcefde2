from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.data.tables import code, number, read_table


def write(path: Path, content: str | bytes) -> Path:
    table = path / "t.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return table


def test_rows_come_with_their_lines_and_without_spaces(tmp_path: Path) -> None:
    table = write(tmp_path, '\ufeffa, b,c\r\n1,2,x\r\n\r\n"3\n3",4,ü\r\n')
    assert list(read_table(table, ("a", "b"))) == [
        (f"{table}, line 2", {"a": "1", "b": "2", "c": "x"}),
        (f"{table}, line 5", {"a": "3\n3", "b": "4", "c": "ü"}),
    ]


def test_columns_that_nobody_needs_may_be_called_alike(tmp_path: Path) -> None:
    assert [row["a"] for _, row in read_table(write(tmp_path, "a,,\n1,,\n"), ("a",))] == ["1"]


def test_a_missing_header_may_be_allowed(tmp_path: Path) -> None:
    table = write(tmp_path, "1,2\n3,4\n")
    assert [row for _, row in read_table(table, ("a", "b"), optional_header=True)] == [
        {"a": "1", "b": "2"}, {"a": "3", "b": "4"},
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"first line must name the columns a, b, got 1, 2"):
        list(read_table(table, ("a", "b")))
    with pytest.raises(ValueError, match=r"got 1, 2"):
        list(read_table(table, ("a", "b", "c"), optional_header=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "got nothing"),
        ("a,b,c,a \n1,2,3,4\n", "must name a once$"),
        ("a,c\n1,2\n", "must name the columns a, b, got a, c"),
        ("a,b\n1,2\n1\n", r"t\.csv, line 3: 1 values, expected 2"),
        (b"a,b\n\xff\xfe,1\n", "not UTF-8"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_table(write(tmp_path, content), ("a", "b")))


def test_numbers_and_codes() -> None:
    assert number(" 2.5", "here", "x") == 2.5
    assert code("3.0000000e+00", "here", "label", {3: "disgust"}) == 3
    for text in ("two", "nan", "inf"):
        for read in (number, lambda *told: code(*told, [1, 2])):
            with pytest.raises(ValueError, match=f"here: x must be a number, got '{text}'"):
                read(text, "here", "x")
    for text in ("2.5", "9"):
        with pytest.raises(ValueError, match=f"here: label must be one of 1, 2, got '{text}'"):
            code(text, "here", "label", [1, 2])
