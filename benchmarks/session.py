"""One run of the suites: measures case by case, keeps the figures, and hands each test its samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.cases import OPS, Case
from benchmarks.measure import Effort, Runner, Samples, interleave, ratio, spread
from benchmarks.memory import peak_bytes
from benchmarks.problems import make_problem
from benchmarks.providers import OpProviders, Unavailable
from benchmarks.results import Record, Store


@dataclass
class Measured:
    """What is known of a case after it was measured (or found in the store): per provider, one of three."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)


class Session:
    """Measures cases on ``device`` into stores under ``folder``.

    With ``resume``, a case whose figures this very environment (machine, versions, commit with its changes)
    left in the store is not measured again.
    """

    def __init__(self, device: str, folder: Path, effort: Effort, resume: bool = False) -> None:
        self.device, self.effort, self.resume = device, effort, resume
        self.environment = machine.describe(device)
        self.folder = folder / machine.slug(self.environment)
        self._stores: dict[str, Store] = {}
        self._case: Case | None = None
        self._measured = Measured()
        self._setup: Any = None
        self._providers: Any = None

    def store(self, suite: str) -> Store:
        if suite not in self._stores:
            self._stores[suite] = Store(self.folder / f"{suite}.json")
        return self._stores[suite]

    def measured(self, case: Case) -> Measured:
        """Measure the case with all its providers at once, unless that was done last."""
        if case != self._case:
            self._case = case
            self._measured = self._known(case) or self._measure(case)
        return self._measured

    def _known(self, case: Case) -> Measured | None:
        if not self.resume:
            return None
        known = {
            r["provider"]: r for r in self.store(OPS[case.op].suite).find(_fields(case), self.environment)
        }
        if not set(case.providers) <= set(known):
            return None
        return Measured(
            skipped=dict.fromkeys(case.providers, "measured before in this environment (--resume)")
        )

    def _measure(self, case: Case) -> Measured:
        if case.setup != self._setup:
            self._providers = None  # free the previous tensors first
            self._setup, self._providers = case.setup, make_providers(case, self.device)
        found = Measured()
        runners: dict[str, Runner] = {}
        for provider in case.providers:
            try:
                runners[provider] = self._providers.runner(provider, case.mode)
            except Unavailable as reason:
                found.skipped[provider] = str(reason)
        samples = interleave(runners, self.effort, self.device)
        found.samples, found.failures = samples.times, samples.failures
        for provider in samples.times:
            try:
                facts = self._providers.facts(provider, case.mode)
                if provider not in ("bound", "copy"):
                    facts["peak_bytes"] = peak_bytes(_alone(runners[provider]), self.device)
            except Exception as error:  # wrong results or a crash: this provider fails, the others stand
                found.failures[provider] = error
                continue
            found.records[provider] = make_record(case, provider, samples, facts)
        for provider, reason in found.skipped.items():
            found.records[provider] = {**_fields(case), "provider": provider, "skipped": reason}
        self.store(OPS[case.op].suite).put(list(found.records.values()), self.environment)
        return found


def make_providers(case: Case, device: str) -> Any:
    if OPS[case.op].suite == "fersnet_step":
        from benchmarks.steps import StepProviders

        return StepProviders(case, device)
    return OpProviders(make_problem(case, device), device)


def _alone(runner: Runner) -> Any:
    """The timed part of a call, for twice at most, with what each needs alive before: a graph serves once."""
    with runner.around():
        prepared = [runner.prepare() if runner.prepare else None for _ in range(2)]

    def call() -> object:
        with runner.around():
            return runner.run(prepared.pop())

    return call


def _fields(case: Case) -> Record:
    return {
        "op": case.op,
        "mode": case.mode,
        "shape": case.shape.name,
        "dtype": case.dtype,
        "layout": case.layout,
    }


def make_record(case: Case, provider: str, samples: Samples, facts: dict[str, Any]) -> Record:
    """The statistics of one provider; times in ms, ratios to others from the same rounds."""
    times = samples.times[provider]
    record = {
        **_fields(case),
        "provider": provider,
        **{f"{name}_ms": _short(1e3 * value) for name, value in spread(times).items()},
        "rounds": len(times),
        "loops": samples.loops[provider],
    }
    for base in ("eager", "bound", "copy"):
        if base in samples.times and provider != base:
            for name, value in ratio(times, samples.times[base]).items():
                record[f"to_{base}" if name == "median" else f"to_{base}_{name}"] = _short(value)
    cost = case.cost()
    record |= {"flops": cost.flops, "bytes": cost.bytes}
    if "bound" in samples.times:
        record["bound_ms"] = _short(1e3 * spread(samples.times["bound"])["median"])
        record["bound_share"] = _short(1 / record["to_bound"]) if provider != "bound" else 1.0
    record |= {name: _short(value) for name, value in facts.items()}
    return {name: value for name, value in record.items() if value is not None}


def _short(value: Any) -> Any:
    """Four significant digits: more is noise, and a file that people compare stays readable."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
