"""Is it right? Every op, dtype and layout of both GPU backends against float64; then see behaviour.py.

Cases run side by side in several processes, since most of their time goes into compiling kernels.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.accuracy import error_in_roundings
from benchmarks.cases import OPS, Case, Shape
from benchmarks.gpu import behaviour
from benchmarks.gpu.found import Found, card_answers
from benchmarks.gpu.stages import Context, Failed
from benchmarks.problems import make_problem
from fer_mtl.processors import available_processors
from fused_ops import use

WORKERS = 12
DTYPES = ("bfloat16", "float32", "float16")
LAYOUTS = ("channels_last", "contiguous")
# Channels that fill no tile, and those that do; for pairs also each further way of the launch tables.
SHAPES = (Shape(3, 24, 17), Shape(4, 64, 24))
SHARE_SHAPES = (Shape(4, 128, 16), Shape(4, 256, 12))
TINY = (Shape(2, 8, 5),)
# Roundings beyond twice eager's own; sums of few terms, of which some cancel, are a matter of luck.
SLACK, SLACK_OF_FEW, FEW = 4.0, 64.0, 256


@dataclass(frozen=True)
class Spec:
    """One case for one backend."""

    op: str
    shape: Shape
    dtype: str
    layout: str
    backend: str

    @property
    def name(self) -> str:
        return f"{self.op} {self.shape.name} {self.dtype} {self.layout} {self.backend}"


def specs(dry: bool, backends: tuple[str, ...]) -> Iterator[Spec]:
    """What matters most comes first."""
    for dtype in DTYPES[:2] if dry else DTYPES:
        for op in OPS.values():
            if op.suite == "fersnet_step":
                continue
            more = SHARE_SHAPES if op.name == "selective_share" else ()
            for shape in TINY if dry else (*SHAPES, *more):
                for layout in LAYOUTS:
                    for backend in backends:
                        yield Spec(op.name, shape, dtype, layout, backend)


def check(spec: Spec, device: str) -> Found:
    """Outputs and gradients of a case: at most twice eager's error, and some roundings."""
    gradients = "full" in OPS[spec.op].modes
    case = Case(spec.op, "full", spec.shape, spec.dtype, spec.layout, ())
    if device != "cpu":  # or eager's convolutions, against which ours are judged, would use TF32
        torch.backends.cudnn.allow_tf32 = False
    try:
        problem = make_problem(case, device)
        with use(spec.backend):
            ours = problem.results(problem.fused, gradients)
    except RuntimeError as error:
        _, refused, reason = str(error).partition("cannot serve this call: ")
        if not refused:
            return Found(spec.name, "wrong", f"{type(error).__name__}: {error}"[:500])
        return Found(spec.name, "refused", reason)
    except Exception as error:  # a compiler's error, say: wrong, whatever it is
        return Found(spec.name, "wrong", f"{type(error).__name__}: {error}"[:500])
    eager = problem.results(problem.stock, gradients)
    exact = problem.exact.results(problem.exact.stock, gradients)
    worst, complaints = 0.0, []
    for index, (our, their, true) in enumerate(zip(ours, eager, exact, strict=True)):
        error, allowed = error_in_roundings(our, true), 2 * error_in_roundings(their, true)
        allowed += SLACK if our.numel() >= FEW else SLACK_OF_FEW
        worst = max(worst, error)
        if not error <= allowed:  # NaN is not
            complaints.append(
                f"result {index} {list(our.shape)}: {error:.3g} roundings, {allowed:.3g} allowed"
            )
    return Found(spec.name, "wrong" if complaints else "right", "; ".join(complaints), worst)


def run(context: Context) -> dict[str, Any]:
    """All of them as far as time goes, then the behaviours."""
    wanted = list(specs(context.dry, context.backends()))
    end = time.monotonic() + 0.6 * context.left
    found = _alone(wanted, context, end) if context.dry else _side_by_side(wanted, context, end)
    found += behaviour.run(context, found)
    counts = {state: sum(each.state == state for each in found) for state in ("right", "wrong", "refused")}
    for each in found:
        if each.state != "right":
            print(each.state, each.name, each.detail, sep=": ")
    left_out = len(wanted) - sum(each.name in {spec.name for spec in wanted} for each in found)
    print(f"{counts}, {left_out} left out for want of time")
    result = {"counts": counts, "left_out": left_out, "checks": [asdict(each) for each in found]}
    if counts["wrong"]:
        raise Failed(f"{counts['wrong']} of {len(found)} checks are wrong", result)
    if not counts["right"]:
        raise Failed("nothing was checked: every call was refused", result)
    return result


def _alone(wanted: list[Spec], context: Context, end: float) -> list[Found]:
    found = []
    for spec in wanted:
        if time.monotonic() < end:
            found.append(check(spec, context.device))
    return found


def _side_by_side(wanted: list[Spec], context: Context, end: float) -> list[Found]:
    """In a few processes. One that a case took down, or cut off from the card, makes way for another."""

    def fresh() -> ProcessPoolExecutor:
        one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}  # not one for each processor
        pools.append(ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **one_thread))
        return pools[-1]

    found: list[Found] = []
    pools: list[ProcessPoolExecutor] = []
    idle = [fresh() for _ in range(max(1, min(WORKERS, available_processors() - 2)))]
    waiting, running = list(reversed(wanted)), {}
    try:
        while waiting or running:
            while waiting and idle:
                pool, spec = idle.pop(), waiting.pop()
                running[pool.submit(_check_apart, spec, context.device)] = pool, spec
            done, _ = wait(running, max(0.0, end - time.monotonic()), FIRST_COMPLETED)
            if not done:
                print("time is up for the comparison with float64; not done:")
                print(*(f"  {spec.name}" for _, spec in running.values()), sep="\n")  # one may hang
                break
            for future in done:
                pool, spec = running.pop(future)
                try:
                    result, usable = future.result()
                except BrokenProcessPool:
                    result, usable = Found(spec.name, "wrong", "it took its process down"), False
                found.append(result)
                idle.append(pool if usable else fresh())
            context.keep({"checks": [asdict(each) for each in found]})
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()
    return found


def _check_apart(spec: Spec, device: str) -> tuple[Found, bool]:
    """:func:`check`, and whether this process can go on, to which a bad access to memory costs the card."""
    try:
        found = check(spec, device)
    except Exception as error:  # of a kernel that failed unnoticed until its results were looked at, say
        found = Found(spec.name, "wrong", f"{type(error).__name__}: {error}"[:500])
    return found, device == "cpu" or card_answers()


def small(device: str, until: float) -> None:
    """A few calls of every kernel, for tools under which each takes long; what is right is not looked at.

    They are calls of :func:`specs`, so that most kernels are in Triton's cache when these checks went before.
    None is begun after ``until`` on the monotonic clock.
    """
    backends = ("reference", "cpu") if device == "cpu" else ("triton", "cuda")
    shapes = TINY if device == "cpu" else SHAPES
    ops = ("selective_share", "batch_norm_act_residual", "batch_norm_act_pool", "group_norm_act", "adain")
    served = refused = left_out = 0
    for op, shape, layout, backend in itertools.product(ops, shapes, LAYOUTS, backends):
        if time.monotonic() >= until:
            left_out += 1
            continue
        dtype = "bfloat16" if op == "selective_share" else "float32"
        problem = make_problem(Case(op, "full", shape, dtype, layout, ()), device)
        try:
            with use(backend):
                problem.results(problem.fused, True)
            served += 1
        except RuntimeError as error:
            if "cannot serve this call: " not in str(error):
                raise
            refused += 1
    if device != "cpu":
        torch.cuda.synchronize()
    late = f", {left_out} left out for want of time" if left_out else ""
    print(f"{served} calls, {refused} refused{late}")
    if not served:
        raise SystemExit("no call was served")
