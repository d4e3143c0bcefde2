from __future__ import annotations

import re
import shutil
from pathlib import Path

import matplotlib.image
import pytest

from benchmarks import report, sweep
from benchmarks.results import FOLDER, Store, load_all
from benchmarks.tables import groups, size, suite_tables, summary

ENVIRONMENT = {
    "device": "cpu",
    "processor": "A processor",
    "isa": "AVX2",
    "threads": 2,
    "python": "3.11",
    "versions": {"torch": "2.13"},
    "commit": "abc",
}


def record(provider: str, time: float, shape: str = "b8-c64-s96", **changes) -> dict:
    """``time`` is in multiples of eager's 1 ms and of the bound's 0.25 ms."""
    found = {"op": "adain", "mode": "full", "shape": shape, "dtype": "float32", "layout": "contiguous"}
    ratios = {f"to_{base}": time / of for base, of in (("eager", 1), ("bound", 0.25)) if provider != base}
    spreads = {f"{name}_{p}": value for name, value in ratios.items() for p in ("p20", "p80")}
    elements = 8 * 64 * 96 * 96
    return {
        **found,
        "provider": provider,
        "median_ms": time,
        "p20_ms": time,
        "p80_ms": time,
        **ratios,
        **spreads,
        "bound_share": 0.25 / time,
        "saved_bytes": 4 * elements * (2 if provider == "eager" else 1),
        "peak_bytes": 4 * elements,
        **changes,
    }


RECORDS = [
    record("eager", 1.0),
    record("compile", 0.5),
    record("cpu", 0.25),
    {**record("cuda", 1.0), "skipped": "no card"},
]
RECORDS[-1].pop("median_ms")


@pytest.fixture
def results(tmp_path):
    store = Store(tmp_path / "results" / "a-machine" / "norm_act.json")
    store.put(RECORDS, ENVIRONMENT)
    (tmp_path / "README.md").write_text(f"Above\n\n{report.BEGIN}\nold\n{report.END}\n\nBelow\n")
    return tmp_path


def cells(table, row: int = 0) -> dict[str, str]:
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_means_are_geometric_and_against_each_base() -> None:
    other = [record(name, time, "b8-c128-s48") for name, time in (("eager", 1), ("compile", 0.5), ("cpu", 1))]
    found = cells(summary("norm_act", groups([*RECORDS, *other])))
    assert found["cases"] == "2"
    assert found["speed to eager"] == "2.00x"  # of 4 and 1
    assert found["speed to compile"] == "1.00x"  # of 2 and 1/2
    assert (found["time / bound"], found["worst"]) == ("2", "4")


def test_every_case_shows_time_memory_and_bound() -> None:
    _, details, skipped = suite_tables("norm_act", RECORDS)
    found = cells(details)
    assert details.title == "adain, full"
    assert (found["shape"], found["backend"], found["x eager"]) == ("b8-c64-s96", "cpu", "4.00x")
    assert (found["kept"], found["eager kept"]) == ("1.00", "2.00")
    assert found["/ bound (p20-p80)"] == "1.00 (1.00-1.00)"
    assert "copies" not in found  # nothing to show
    assert skipped.rows == [("cuda", "1", "no card")]


def test_steps_show_images_per_second_and_whole_peaks() -> None:
    step = {"op": "fersnet_step", "mode": "train", "resident_bytes": 1 << 20}
    records = [
        record("eager", 10.0, "small-b8", **step, **{"peak_bytes": 3 << 20}),
        record("cpu", 5.0, "small-b8", **step, **{"peak_bytes": 1 << 20, "to_eager": 0.5}),
    ]
    (table,) = suite_tables("fersnet_step", records)
    found = next(cells(table, row) for row in range(2) if cells(table, row)["provider"] == "cpu")
    assert found["images/s"] == "1.6e+03"
    assert found["speed to eager"] == "2.00x"
    assert found["peak / eager's"] == "0.5"  # 2 of 4 MiB


def test_figures_go_between_the_markers_with_pictures(results, capsys) -> None:
    arguments = ["--results", str(results / "results"), "--readme", str(results / "README.md")]
    assert report.main(arguments) == 0
    text = (results / "README.md").read_text()
    assert text.startswith(f"Above\n\n{report.BEGIN}\n") and text.endswith(f"{report.END}\n\nBelow\n")
    assert "old" not in text
    assert "A processor, AVX2, 2 threads, Python 3.11, torch 2.13, commit abc" in text
    for name in ("speed", "bound", "kept", "peak"):
        path = f"results/a-machine/norm_act-{name}.png"
        assert path in text
        assert matplotlib.image.imread(results / path).std() > 0.05  # something is drawn
    assert "4.00x" in capsys.readouterr().out
    assert report.main(arguments) == 0
    assert (results / "README.md").read_text() == text


def test_what_a_sweep_found_is_counted_under_its_machine(results) -> None:
    row = dict.fromkeys(sweep.FIELDS, "1.2")
    for machine in ("a-machine", "b-machine"):
        sweep.store(results / "results" / machine / "sweep.csv", [row])
    assert report.main(["--results", str(results / "results"), "--readme", str(results / "README.md")]) == 0
    text = (results / "README.md").read_text()
    assert text.count("| 0.1 ms and more | 1 | 1 (100 %) |") == 2
    assert text.index("### a-machine") < text.index("sweep:") < text.index("### b-machine")


def test_gpu_figures_stand_beside_what_the_cost_model_predicts() -> None:
    shape = "b16-c64-s48"
    records = [
        record(name, 1.0, shape, op="selective_share", mode="forward") for name in ("eager", "cpu", "triton")
    ]
    _, details = suite_tables("selective_share", records)
    shown = [cells(details, row) for row in range(2)]
    # 4 C of float32 at 0.9 of 3.35 TB/s are 13 us; 24 C^2 FLOP at 0.55 of 67 TFLOP/s take 98 us.
    assert {row["backend"]: row["predicted ms (H100)"] for row in shown} == {"cpu": "", "triton": "0.1"}


def test_predictions_need_neither_figures_nor_a_card(capsys) -> None:
    assert report.main(["--predict"]) == 0
    text = capsys.readouterr().out
    for word in ("Predicted times", "H100", "B200", "selective_share", "adain", "triton", "cuda", "launches"):
        assert word in text
    assert text.count("b32-c512-s6") >= 4  # both backends, two dtypes


def test_printing_writes_nothing(results) -> None:
    before = (results / "README.md").read_text()
    arguments = ["--results", str(results / "results"), "--readme", str(results / "README.md")]
    report.main([*arguments, "--print-only"])
    assert (results / "README.md").read_text() == before
    assert not list(results.rglob("*.png"))


def test_without_figures_it_says_what_to_do(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        report.main(["--results", str(tmp_path)])
    assert "make bench" in capsys.readouterr().err


def test_missing_markers_are_named(tmp_path) -> None:
    path = tmp_path / "README.md"
    path.write_text("nothing here")
    with pytest.raises(ValueError, match="figures: begin"):
        report.write_between_markers(path, "text")
    assert path.read_text() == "nothing here"


# --- what is published --------------------------------------------------------------------------------------

# The columns of the table in the project's README.
MACHINES = (
    "cpu-intel-xeon-processor-avx512-amx-2-threads", "cpu-amd-epyc-avx2-2-threads",
    "cpu-amd-epyc-avx512-bf16-2-threads",
)  # fmt: skip
SHARES = [("selective_share", f"b{batch}-c{c}-s{side}") for batch, c, side in
          ((16, 64, 48), (32, 128, 24), (32, 256, 12), (32, 512, 6))]  # fmt: skip
NORMS = {"batch norm": "batch_norm_act", "instance norm": "instance_norm_act", "group norm": "group_norm_act",
         "AdaIN": "adain"}  # fmt: skip


def published(row: str) -> list[tuple[str, str, str, str, str]]:
    """The cases that a row of the project's README is about: op, shape, mode, dtype, layout."""
    if "FERSNet" in row:
        return [("fersnet_step", "small-b8", "train", "float32", "channels_last")]
    for name, op in NORMS.items():
        if row.startswith(name):
            return [
                (op, "b8-c64-s96", "full", "float32", layout) for layout in ("contiguous", "channels_last")
            ]
    dtype = "bfloat16" if "bfloat16" in row else "float32"
    return [(op, shape, "full", dtype, "channels_last") for op, shape in SHARES]


def test_the_readme_gives_the_stored_ratios() -> None:
    text = (FOLDER.parents[1] / "README.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d. /]+) \| ([\d. /]+) \| ([\d. /]+) \|$", text, re.MULTILINE)
    assert len(rows) == 7
    stores = load_all()
    for title, *columns in rows:
        for machine, column in zip(MACHINES, columns, strict=True):
            records = [record for store in stores[machine].values() for record in store.records]
            for case, given in zip(published(title), column.split(" / "), strict=True):
                keys = ("op", "shape", "mode", "dtype", "layout")
                (found,) = (
                    record["to_eager"] for record in records
                    if tuple(record[key] for key in keys) == case and record["provider"] == "cpu"
                )  # fmt: skip
                assert float(given) == pytest.approx(found, abs=0.0051), (title, machine, case)


def test_the_readme_of_the_benchmarks_shows_the_stored_figures(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / FOLDER.name)
    shutil.copy(report.README, tmp_path)
    readme = tmp_path / report.README.name
    report.main(["--results", str(tmp_path / FOLDER.name), "--readme", str(readme), "--no-plots"])
    assert readme.read_text() == report.README.read_text(), "run: python -m benchmarks.report"


@pytest.mark.parametrize(
    ("count", "text"), [(None, ""), (0, "0 B"), (1536, "1.5 KiB"), (3 << 20, "3 MiB"), (5 << 30, "5 GiB")]
)
def test_sizes(count, text: str) -> None:
    assert size(count) == text
