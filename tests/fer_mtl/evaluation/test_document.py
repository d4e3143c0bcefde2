from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.figure import Figure

from fer_mtl.evaluation.document import Part, Table, as_csv, markdown, write_document


def test_one_source_gives_three_formats(tmp_path: Path) -> None:
    table = Table(["method", "accuracy"], [["a|b <c>", "97.5 %"]], (1,))
    figures = {"one": Figure(), "two": Figure()}
    parts = [
        Part("first", "First & last", "A lead.", table=table, figures=figures),
        Part("second", "Second", lines=["x"]),
    ]
    write_document(tmp_path, "Title", "Words", parts)
    page = (tmp_path / "report.html").read_text()
    assert "First &amp; last" in page and "a|b &lt;c&gt;" in page and page.count("data:image/png") == 2
    text = (tmp_path / "report.md").read_text()
    assert "| a\\|b <c> | 97.5 % |" in text and "- x" in text and "(pictures/first-1.png)" in text
    assert (tmp_path / "pictures" / "first.png").is_file()
    with open(tmp_path / "tables" / "first.csv", newline="") as file:
        assert list(csv.reader(file)) == [["method", "accuracy"], ["a|b <c>", "97.5 %"]]
    assert not (tmp_path / "tables" / "second.csv").exists()


def test_numbers_are_set_to_the_right() -> None:
    table = Table(["a", "b"], [["x", "1"]], range(1, 2))
    assert markdown(table).splitlines()[1] == "| --- | ---: |"
    assert as_csv(table) == "a,b\nx,1\n"
