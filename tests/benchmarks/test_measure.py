from __future__ import annotations

import contextlib
import gc

import pytest

from benchmarks.measure import Effort, ReplayTimer, Runner, interleave, percentile, ratio, spread


class Clock:
    """Time that passes by sleeping, and a little by looking at it, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-8
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


time = Clock()


@pytest.fixture(autouse=True)
def _measured_by_that_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measure.time", time)


FEW = Effort(seconds=0.0, min_rounds=12, max_rounds=12)


def sleeper(seconds: float) -> Runner:
    return Runner(lambda _: time.sleep(seconds))


def test_every_provider_runs_once_in_every_round_in_a_changing_order() -> None:
    log: list[str] = []
    runners = {name: Runner(lambda _, name=name: (log.append(name), time.sleep(0.001))) for name in "abc"}
    samples = interleave(runners, FEW)
    last = log[-3 * 12 :]
    rounds = [tuple(last[start : start + 3]) for start in range(0, len(last), 3)]
    assert all(set(each) == set("abc") for each in rounds)
    assert len(set(rounds)) > 2
    assert {name: len(times) for name, times in samples.times.items()} == dict.fromkeys("abc", 12)


def test_times_and_ratios_are_right() -> None:
    samples = interleave({"short": sleeper(0.002), "long": sleeper(0.006)}, FEW)
    assert spread(samples.times["short"])["median"] == pytest.approx(0.002, rel=1e-3)
    assert ratio(samples.times["long"], samples.times["short"])["median"] == pytest.approx(3, rel=1e-3)


def test_ratios_are_taken_within_a_round() -> None:
    slow_from_the_third_on = [1.0, 1.0, 10.0, 10.0]
    assert ratio([2 * t for t in slow_from_the_third_on], slow_from_the_third_on) == {
        "median": 2,
        "p20": 2,
        "p80": 2,
    }


def test_preparation_is_not_timed() -> None:
    runner = Runner(lambda argument: argument, lambda: time.sleep(0.01))
    samples = interleave({"a": runner}, Effort(0.0, 5, 5))
    assert spread(samples.times["a"])["median"] < 0.002


def test_short_calls_are_repeated_and_those_with_a_preparation_are_not() -> None:
    runners = {"short": Runner(lambda _: None), "prepared": Runner(lambda _: None, lambda: None)}
    samples = interleave(runners, FEW)
    assert samples.loops["short"] > 10
    assert samples.loops["prepared"] == 1
    assert spread(samples.times["short"])["median"] < 1e-5  # per call


def test_the_effort_bounds_the_rounds() -> None:
    runners = {"a": sleeper(0.001)}
    assert len(interleave(runners, Effort(0.0, 3, 9)).times["a"]) == 3
    assert len(interleave(runners, Effort(60.0, 3, 9)).times["a"]) == 9


def test_a_failing_provider_is_kept_apart() -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("no result")

    samples = interleave({"good": sleeper(0.001), "bad": Runner(fail)}, FEW)
    assert len(samples.times["good"]) == 12
    assert "bad" not in samples.times
    assert isinstance(samples.failures["bad"], ZeroDivisionError)


def test_runs_happen_in_their_context_with_the_collector_off() -> None:
    inside: list[bool] = []
    entered = [False]

    @contextlib.contextmanager
    def around():
        entered[0] = True
        yield
        entered[0] = False

    def run(_: object) -> None:
        inside.append(entered[0] and not gc.isenabled())
        time.sleep(0.001)

    interleave({"a": Runner(run, around=around)}, Effort(0.0, 4, 4))
    assert inside[-4:] == [True] * 4
    assert gc.isenabled()


def test_percentiles() -> None:
    values = [4.0, 1.0, 3.0, 2.0, 5.0]
    assert percentile(values, 0.5) == 3
    assert percentile(values, 0.2) == pytest.approx(1.8)
    assert spread([7.0]) == {"median": 7, "p20": 7, "p80": 7}


def test_the_replayed_clock_shows_what_was_measured() -> None:
    timer = ReplayTimer()
    timer.load([0.25, 0.5, 0.125])
    shown = []
    for _ in range(3):
        start = timer()
        shown.append(timer() - start)
    assert shown == [0.25, 0.5, 0.125]
