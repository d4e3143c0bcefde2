"""The card's ceilings, then every op: both backends, eager, torch.compile and the roofline's work alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks import predictions
from benchmarks.cases import DTYPES, Case, Mode, Shape
from benchmarks.gpu.stages import Context, Failed, in_a_line
from benchmarks.gpu.timing import time_all
from benchmarks.gpu.tuning import tuned
from benchmarks.measure import Runner
from benchmarks.problems import make_problem
from benchmarks.providers import WRONG, OpProviders, Unavailable
from fused_ops import use
from fused_ops.triton_support import card_of
from fused_ops.tuning.ahead import MOST, Compilers, compilers_for
from fused_ops.tuning.cost_model import ceilings_of

# In FERSNet's shapes, batch 64; what the targets are about comes first.
SHARES = (Shape(64, 64, 48), Shape(64, 128, 24), Shape(64, 256, 12), Shape(64, 512, 6))
NORMS = (Shape(64, 64, 96), Shape(64, 128, 48), Shape(64, 256, 12))
SMALL = Shape(1, 16, 4)  # the host's cost and little else
NORM_OPS = (
    "batch_norm_act", "instance_norm_act", "batch_norm_act_residual", "batch_norm_act_pool", "group_norm_act",
    "adain",
)  # fmt: skip
PROVIDERS = ("eager", "compile", "triton", "cuda", "bound", "copy")
COPY_BYTES, GEMM_SIZE = 1 << 31, 8192
TF32_ROUNDING = 1 << 13  # in roundings of float32


def cases(dry: bool) -> Iterator[Case]:
    """In the order of their weight, since time may run out."""
    if dry:
        for op in ("selective_share", "batch_norm_act"):
            for mode in ("forward", "full"):
                yield _case(op, mode, Shape(2, 8, 5), "float32")
        return
    for shape in SHARES:
        for mode in ("full", "forward"):
            yield _case("selective_share", mode, shape, "bfloat16")
    for op in NORM_OPS[:2]:
        for mode in ("forward", "full"):
            yield _case(op, mode, NORMS[0], "bfloat16")
    yield _case("selective_share", "forward", SMALL, "bfloat16")
    yield _case("batch_norm_act", "forward", SMALL, "bfloat16")
    for shape in NORMS[1:]:
        for op in NORM_OPS:
            yield _case(op, "full", shape, "bfloat16")
    for shape in SHARES:
        yield _case("selective_share", "full", shape, "float32")
    for op in NORM_OPS:
        yield _case(op, "full", NORMS[0], "bfloat16", "contiguous")
    for shape in SHARES[:2]:
        yield _case("selective_share", "full", shape, "bfloat16", "contiguous")


def _case(op: str, mode: Mode, shape: Shape, dtype: str, layout: str = "channels_last") -> Case:
    """torch.compile takes many seconds for a case: only where there is a target, or a call is small."""
    compiled = shape in (*SHARES[:3], NORMS[0], SMALL) and dtype == "bfloat16" and layout == "channels_last"
    names = PROVIDERS if compiled else tuple(name for name in PROVIDERS if name != "compile")
    return Case(op, mode, shape, dtype, layout, names)


def run(context: Context) -> dict[str, Any]:
    """Measure as far as time goes. float32 is measured with TF32 allowed, for all providers alike."""
    # By torch's older name: where the newer one was set, Inductor of torch 2.9 to 2.11 raises.
    setting = torch.backends.cuda.matmul
    before, setting.allow_tf32 = setting.allow_tf32, True
    try:
        with tuned(context) as with_table:
            return _run(context, with_table)
    finally:
        setting.allow_tf32 = before


def _run(context: Context, with_table: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tuned": with_table,
        "ceilings": ceilings(context),
        "records": [],
        "left_out": [],
    }
    print("ceilings:", found["ceilings"])
    card = card_of(torch.device(context.device, 0))
    with compilers_for(card, 0 if context.dry else MOST) as compilers:
        measure_all(context, found, compilers)
    ours = [r for r in found["records"] if r["provider"] in context.backends() and "warm_us" in r]
    if not ours:
        raise Failed("no backend of ours was measured", found)
    failed = [record for record in found["records"] if "error" in record]
    if failed:
        raise Failed(f"{len(failed)} measurements failed, first {failed[0]}", found)
    return found


def measure_all(context: Context, found: dict[str, Any], compilers: Compilers) -> None:
    """Every case, as far as time goes, into the records that are found; what there is no time for, too."""
    setup: tuple[Any, ...] = ()
    providers: Any = None
    for case in cases(context.dry):
        if context.left <= 0:
            found["left_out"].append(case.name)
            continue
        if setup != case.setup:  # cases that differ in mode alone share tensors and compiled modules
            providers = None  # free the tensors of the last ones first
            setup, providers = case.setup, OpProviders(make_problem(case, context.device), context.device)
        compilers.compile([partial(by_triton, case, providers)], context.left)
        records = measure(case, providers, context, found["ceilings"])
        found["records"] += records
        context.keep(found)
        for record in records:
            print(" ".join(f"{key}={value}" for key, value in record.items()))


def by_triton(case: Case, providers: OpProviders) -> None:
    """What a case launches, by a module of its own: in a rehearsal running statistics become anything."""
    problem = providers.problem
    module = copy.deepcopy(problem.fused)
    with use("triton"):
        if case.mode == "forward":
            with torch.no_grad():
                problem.call(module)
        else:
            problem.gradients(module, problem.call(module))


def measure(
    case: Case, providers: OpProviders, context: Context, ceilings: dict[str, float]
) -> list[dict[str, Any]]:
    """A record for each provider of a case."""
    names = ("eager", *context.backends(), "bound", "copy") if context.dry else case.providers
    runners: dict[str, Runner] = {}
    records: dict[str, dict[str, Any]] = {}
    wrong = WRONG * (TF32_ROUNDING if case.dtype == "float32" else 1)
    for name in names:
        records[name] = {
            "op": case.op, "mode": case.mode, "shape": case.shape.name, "dtype": case.dtype,
            "layout": case.layout, "provider": name, "dry": context.dry,
        }  # fmt: skip
        try:
            if name in context.backends():  # a wrong answer's time is none; other launches serve the checks
                records[name] |= providers.facts(name, case.mode, wrong)
            runners[name] = providers.runner(name, case.mode)
        except Unavailable as reason:
            records[name]["skipped"] = str(reason)
        except Exception as error:  # a kernel that does not compile, say: the others are still measured
            records[name]["error"] = in_a_line(error)
    timed, errors = time_all(runners, context.device, context.dry)
    cost = case.cost()
    precision = "half" if DTYPES[case.dtype].itemsize == 2 else "tf32"
    card = card_of(torch.device(context.device, 0))
    launches = predictions.kernels(case, card, precision)
    for name, record in records.items():
        if name in errors:
            record["error"] = errors[name]
        if name not in timed:
            continue
        record |= timed[name].record()
        cold = record.get("cold_us")
        if name in launches:
            predicted = ceilings_of(card).seconds(launches[name], precision)
            record["predicted_us"] = float(f"{1e6 * predicted:.4g}")
        # The larger of the fewest bytes over the copy's rate and the FLOPs over the product's.
        least = (cost.bytes or 0) / ceilings["copy"]
        if cost.flops:
            least = max(least, cost.flops / ceilings[case.dtype])
        record["roofline_us"] = float(f"{1e6 * least:.4g}")
        if not cold or context.dry:  # no ratios of times that mean nothing
            continue
        record["roofline_share"] = float(f"{record['roofline_us'] / cold:.4g}")
        if "eager" in timed:
            eager = timed["eager"].record()["cold_us"]
            record["x_eager"] = float(f"{eager / cold:.4g}")
    return list(records.values())


def ceilings(context: Context) -> dict[str, float]:
    """Bytes per second of a large copy (read and written), FLOP per second of a large product by dtype."""
    size = 1 << 16 if context.dry else COPY_BYTES
    edge = 64 if context.dry else GEMM_SIZE
    source = torch.empty(size // 4, device=context.device).normal_()
    target = torch.empty_like(source)
    runners = {"copy": Runner(lambda _: target.copy_(source), around=torch.no_grad)}
    for dtype in ("bfloat16", "float16", "float32"):
        left, right = (torch.randn(edge, edge, device=context.device).to(DTYPES[dtype]) for _ in range(2))
        out = torch.empty_like(left)
        runners[dtype] = Runner(
            lambda _, left=left, right=right, out=out: torch.mm(left, right, out=out), around=torch.no_grad
        )
    timed, errors = time_all(runners, context.device, dry=True)  # two samples of eight calls are enough
    if errors:
        raise RuntimeError(f"the ceilings cannot be measured: {errors}")
    work = {"copy": 2 * size, **dict.fromkeys(DTYPES, 2 * edge**3)}
    return {name: float(f"{work[name] / min(each.warm):.4g}") for name, each in timed.items()}
