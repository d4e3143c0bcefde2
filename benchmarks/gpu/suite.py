"""THE list of stages of ``make gpu``, in order. Together they may take less than ten minutes."""

from __future__ import annotations

from benchmarks.gpu.stages import Stage

TOTAL_SECONDS = 585.0

STAGES = (
    Stage("build", 95, "build:run", "native libraries built in place, and loaded"),
    Stage("checks", 120, "checks:run", "both backends against float64; compile, graphs, autocast, streams"),
    Stage("sanitizer", 55, "sanitizer:run", "a few calls under compute-sanitizer's memcheck"),
    Stage("tune", 75, "tuning:run", "launch parameters and backends measured"),
    Stage("ops", 125, "ops:run", "ceilings of the card; every op, provider and cache state"),
    Stage("steps", 100, "steps:run", "training steps of FERSNet, fused and stock"),
)
BY_NAME = {stage.name: stage for stage in STAGES}
