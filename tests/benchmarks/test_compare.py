from __future__ import annotations

import subprocess

import pytest

from benchmarks import compare
from benchmarks.compare import differences, one_sided

CASE = {"op": "adain", "mode": "full", "shape": "b2-c8-s5", "dtype": "float32", "layout": "contiguous"}


def turn(to_bound: float, saved: int = 100, provider: str = "cpu", **changes) -> list[dict]:
    return [
        {
            **CASE,
            "provider": provider,
            "median_ms": 1.0,
            "to_bound": to_bound,
            "saved_bytes": saved,
            **changes,
        }
    ]


def test_a_slower_case_is_worse_and_noise_is_not() -> None:
    (found,) = differences([turn(2.0)] * 3, [turn(2.3)] * 3)
    assert found.is_worse and found.slower == pytest.approx(1.15)
    (found,) = differences([turn(2.0)] * 3, [turn(2.1)] * 3)
    assert not found.is_worse
    (found,) = differences([turn(2.0), turn(2.0), turn(9.0)], [turn(2.1), turn(7.0), turn(2.0)])
    assert found.slower == pytest.approx(1.05)  # medians


def test_more_kept_bytes_are_worse_at_any_speed() -> None:
    (found,) = differences([turn(2.0, saved=100)], [turn(1.0, saved=101)])
    assert found.is_worse and found.keeps_more
    (found,) = differences([turn(2.0, saved=100)], [turn(2.0, saved=50)])
    assert not found.is_worse


def test_without_a_bound_eager_is_the_measure() -> None:
    (found,) = differences([turn(None, to_eager=0.5)], [turn(None, to_eager=0.25)])
    assert found.slower == 0.5


def test_other_providers_are_no_subject_and_one_sided_cases_are_named() -> None:
    assert differences([turn(1.0, provider="eager")], [turn(2.0, provider="eager")]) == []
    base, now = [turn(1.0)], [turn(1.0, mode="forward")]
    assert differences(base, now) == []
    assert {side: keys[0][1] for side, keys in one_sided(base, now).items()} == {
        "the base": "full",
        "the working tree": "forward",
    }


@pytest.mark.parametrize(("now", "status"), [(2.0, 0), (3.0, 1)])
def test_exit_status(monkeypatch, capsys, now: float, status: int) -> None:
    asked = {}

    def measure_both(options, others, folder, console):
        asked.update(base=options.base, others=others)
        return [turn(2.0)], [turn(now)]

    monkeypatch.setattr(compare, "measure_both", measure_both)
    assert compare.main(["HEAD~1", "--op", "adain"]) == status
    assert asked == {"base": "HEAD~1", "others": ["--op", "adain"]}
    out = capsys.readouterr().out
    assert f"{status} of 1 cases are worse than in HEAD~1" in out
    assert ("worse" in out.split("now / base")[1].split("cases are")[0]) == bool(status)


def test_nothing_measured_is_no_success(monkeypatch) -> None:
    monkeypatch.setattr(compare, "measure_both", lambda *_: ([], []))
    assert compare.main(["HEAD"]) == 2


def test_an_unknown_revision_is_said(capsys) -> None:
    assert compare.main(["no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().out


def test_both_trees_are_measured_in_turn_and_cleaned_up(monkeypatch, tmp_path) -> None:
    """With the measuring itself left out: which trees, in which order, with which suites."""
    commands, measured = [], []
    monkeypatch.setattr(compare, "run", lambda *command, cwd=None: commands.append(command) or "")
    monkeypatch.setattr(compare, "prepare", lambda tree: None)
    monkeypatch.setattr(
        compare, "measure", lambda tree, place, suites, others: measured.append((tree.name, suites)) or []
    )
    options = compare.argparse.Namespace(base="v1", turns=2, suite=["norm_act"])
    compare.measure_both(options, [], tmp_path, compare.wide_console())
    assert [name for name, _ in measured] == ["base", compare.ROOT.name, compare.ROOT.name, "base"]
    assert all(suites == ["norm_act"] for _, suites in measured)
    assert commands[0][3:5] == ("worktree", "add") and commands[-1][3:5] == ("worktree", "remove")


def test_a_failed_measurement_still_cleans_up(monkeypatch, tmp_path) -> None:
    commands = []
    monkeypatch.setattr(compare, "run", lambda *command, cwd=None: commands.append(command) or "")

    def fail(tree):
        raise subprocess.CalledProcessError(1, ["build"])

    monkeypatch.setattr(compare, "prepare", fail)
    options = compare.argparse.Namespace(base="v1", turns=1, suite=None)
    with pytest.raises(subprocess.CalledProcessError):
        compare.measure_both(options, [], tmp_path, compare.wide_console())
    assert commands[-1][3:5] == ("worktree", "remove")
