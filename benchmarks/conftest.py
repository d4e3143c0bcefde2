"""The options of the suites, their tests (one per case and provider), and what feeds pytest-benchmark."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.cases import Case, Selection, check_names
from benchmarks.measure import Effort, ReplayTimer
from benchmarks.results import FOLDER
from benchmarks.session import Session, default_device

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the memory profiler announces each of its runs
EFFORTS = {"quick": Effort(seconds=4.0), "full": Effort(seconds=6.0, max_rounds=301)}
_LISTS = ("ops", "modes", "shapes", "dtypes", "layouts", "providers")
_timer = ReplayTimer()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks", "what the benchmark suites measure")
    group.addoption(
        "--quick", dest="tier", action="store_const", const="quick", default="quick", help="default"
    )
    group.addoption("--full", dest="tier", action="store_const", const="full", help="every case, more rounds")
    for name in _LISTS:
        aliases = ("--op",) if name == "ops" else ()
        group.addoption(f"--{name}", *aliases, help="comma-separated; an unknown name lists the known ones")
    group.addoption("--device", default=None, help="cpu or cuda; default cuda where there is one")
    group.addoption("--seconds", type=float, help="about how long to measure a case")
    group.addoption("--rounds", type=int, help="exactly this many rounds")
    group.addoption("--resume", action="store_true", help="leave out what this environment has measured")
    group.addoption("--results", type=Path, default=FOLDER, help="folder of the results")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("benchmarks share one machine and cannot run side by side; leave out -n")
    try:
        _selection(config)
        for name, least in (("seconds", 0), ("rounds", 1)):
            value = config.getoption(name)
            if value is not None and value < least:
                raise ValueError(f"--{name} must be {least} or more, got {value}")
        check_names("device", (config.getoption("device") or default_device(),), ("cpu", "cuda"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def _selection(config: pytest.Config) -> Selection:
    chosen = {}
    for name in _LISTS:
        text = config.getoption(name)
        chosen[name] = None if text is None else tuple(word.strip() for word in text.split(","))
    return Selection(config.getoption("tier"), **chosen)


def pytest_report_header() -> list[str]:
    lines = ["benchmarks: the machine should be idle; nothing else may run until they are done"]
    if warning := machine.load_warning():
        lines.append(f"WARNING: {warning}")
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "provider" not in metafunc.fixturenames:
        return
    cases = _selection(metafunc.config).cases(metafunc.module.SUITE)
    pairs = [(case, provider) for case in cases for provider in case.providers]
    metafunc.parametrize("case, provider", pairs, ids=[f"{case.name}-{provider}" for case, provider in pairs])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=_timer, disable_gc=False, warmup=False))


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Session:
    options = pytestconfig.getoption
    effort = EFFORTS[options("tier")]
    if options("seconds") is not None:
        effort = Effort(options("seconds"), effort.min_rounds, effort.max_rounds)
    if options("rounds") is not None:
        effort = Effort(effort.seconds, options("rounds"), options("rounds"))
    return Session(options("device") or default_device(), options("results"), effort, options("resume"))


@pytest.fixture
def replay(benchmark, session: Session) -> Callable[[Case, str], None]:
    """Hands the samples of one provider to pytest-benchmark, measuring its case if that is still to do."""

    def run(case: Case, provider: str) -> None:
        measured = session.measured(case)
        if provider in measured.skipped:
            pytest.skip(f"{provider}: {measured.skipped[provider]}")  # equal reasons are counted in one line
        if provider in measured.failures:
            raise measured.failures[provider]
        samples = measured.samples[provider]
        benchmark.group, benchmark.name = case.name, provider
        benchmark.extra_info |= {**measured.records[provider], "environment": session.environment}
        _timer.load(samples)
        benchmark.pedantic(lambda: None, rounds=len(samples))

    return run
