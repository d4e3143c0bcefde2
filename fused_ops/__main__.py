"""`python -m fused_ops doctor`: what this machine has, what was built and loaded, if the ops are right;
`python -m fused_ops tune`: measure launch parameters on its card."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import fused_ops
from fused_ops import backends, native, triton_support
from fused_ops.tuning import tune

DISTRIBUTION = "selective-feature-sharing"
_CPU_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
# Relative to the largest value; two float32 summation orders differ by well below.
_TOLERANCE = 1e-4

_IMAGE = (2, 8, 127, 121)  # just too large to be left to torch's own kernels
# One small problem for each public module: its arguments and the shapes of its inputs.
_PROBLEMS: dict[str, tuple[tuple[int, ...], dict[str, str], tuple[tuple[int, ...], ...]]] = {
    "FusedSelectiveShare": ((8,), {}, (_IMAGE, _IMAGE)),
    "FusedConvFLU": ((8,), {}, (_IMAGE, _IMAGE)),
    "FusedBatchNormAct2d": ((8,), {"activation": "silu"}, (_IMAGE, _IMAGE)),
    "FusedInstanceNormAct2d": ((8,), {"activation": "relu"}, (_IMAGE, _IMAGE)),
    "FusedGroupNormAct": ((4, 8), {"activation": "gelu"}, (_IMAGE, _IMAGE)),
    "FusedAdaIN": ((8, 6), {"activation": "tanh"}, (_IMAGE, (2, 6), (2, 1, *_IMAGE[2:]))),
}


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, and gradients of inputs and parameters, all as one list."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    outputs = module(*leaves)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    loss = torch.stack([output.square().sum() for output in outputs]).sum()
    return [*outputs, *torch.autograd.grad(loss, [*leaves, *module.parameters()])]


def self_check() -> Iterator[tuple[str, str, bool]]:
    """Run every public module, forward and backward, as this machine serves it, against the reference.

    Yields (name, finding, whether it is right).
    """
    for name, (arguments, options, shapes) in _PROBLEMS.items():
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module: nn.Module = getattr(fused_ops, name)(*arguments, **options)
                inputs = [torch.randn(shape) for shape in shapes]
            served = sorted({decision.backend for decision in fused_ops.explain(module, *inputs)})
            ours = _run(module, inputs)
            with fused_ops.use("reference"):
                reference = _run(module, inputs)
        except Exception as error:  # a broken op is a finding to print, whatever it raises
            yield name, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", False
            continue
        largest = max(float(tensor.detach().abs().max()) for tensor in reference)
        difference = max(
            float((one - other).detach().abs().max()) / largest
            for one, other in zip(ours, reference, strict=True)
        )
        right = difference <= _TOLERANCE
        yield name, f"served by {' and '.join(served)}, differs from reference by {difference:.1e}", right


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        words = set()
    flags = " ".join(flag for flag in _CPU_FLAGS if flag in words) or "unknown"
    torch_uses = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}: {flags} (torch uses {torch_uses}, {torch.get_num_threads()} threads)"


def _tools() -> str:
    wish = shlex.split(os.environ.get("CXX", ""))[:1]
    found = {"C++": next(filter(None, map(shutil.which, wish or ["c++", "g++", "clang++"])), None)}
    cuda_home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found["nvcc"] = shutil.which("nvcc") or shutil.which("nvcc", path=f"{cuda_home}/bin")
    found["ninja"] = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    return ", ".join(f"{name} {path or 'none'}" for name, path in found.items())


def _built() -> str:
    record = native.build_record()
    if not record:
        return "never"
    torch_version = f"against torch {record['torch']}" if record["torch"] else "none"
    return f"{torch_version}, by FUSED_OPS_BUILD={record['requested']}"


def _library(status: native.Status) -> str:
    if not status.loaded:
        return status.reason
    what = " ".join(status.build.get("instruction_sets", []))
    what = what or " ".join(f"sm_{code}" for code in status.build["architectures"])
    ops = ", ".join(status.build["ops"])
    return f"loaded: {ops} for {what}, built by {status.build['compiler']}"


def _triton() -> str:
    if not importlib.util.find_spec("triton"):
        return "not installed"
    ops = " ".join(op for op in backends.ops("triton") if not op.endswith("_backward"))
    oldest = "".join(map(str, triton_support.OLDEST_CARD))
    where = (
        "in the interpreter, on request"
        if triton_support.interpreting()
        else f"for cards from sm_{oldest} on"
    )
    return f"{_version('triton')}: {ops} {where}"


def _cards() -> Iterator[tuple[str, str]]:
    if not torch.cuda.is_available():
        yield "cards", "none" if torch.version.cuda else "none (this torch is built without CUDA)"
        return
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        verdict = native.why_not_card(index) or "served by the CUDA library"
        yield f"card {index}", f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}: {verdict}"


def _stale() -> str | None:
    """In a source tree: the first C++ source newer than the libraries, which were built from an older one."""
    record = native.FOLDER / "build.json"
    if not record.is_file():
        return None
    built = record.stat().st_mtime
    tree = native.FOLDER.parent.parent
    sources = sorted(tree.glob("csrc/*/*"))
    return next((str(path.relative_to(tree)) for path in sources if path.stat().st_mtime > built), None)


def doctor(strict: bool = False) -> int:
    """Print the findings; 1 when an op is wrong or, with `strict`, a native library is missing, else 0."""
    libraries = {"CPU library": native.cpu_library(), "CUDA library": native.cuda_library()}
    wish = os.environ.get(backends.ENVIRONMENT_VARIABLE)
    rows = [
        (DISTRIBUTION, f"{_version(DISTRIBUTION)} in {native.FOLDER.parent}"),
        (
            "python, torch",
            f"{platform.python_version()}, {torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        ),
        ("triton", _triton()),
        ("processor", _processor()),
        *_cards(),
        ("build tools", _tools()),
        ("natives built", _built()),
        *((name, _library(status)) for name, status in libraries.items()),
        ("backend", wish or f"auto ({backends.ENVIRONMENT_VARIABLE} is not set)"),
    ]
    if stale := _stale():
        rows.append(("stale", f"{stale} is newer than the libraries: install again"))
    checks = list(self_check())
    rows += [(name, f"{finding}{'' if right else '  <-- WRONG'}") for name, finding, right in checks]
    width = max(len(title) for title, _ in rows)
    for title, text in rows:
        print(f"{title:<{width}}  {text}")

    wrong = [name for name, _, right in checks if not right]
    needed = ["CPU library", *(["CUDA library"] if torch.version.cuda else [])]
    missing = [name for name in needed if not libraries[name].loaded]
    if wrong:
        print(f"\nNot well: {', '.join(wrong)}.")
    elif missing:
        print(
            f"\nWell, without the {' and the '.join(missing)}: other backends serve instead, at lower speed."
        )
    else:
        print("\nWell.")
    return int(bool(wrong) or (strict and bool(missing)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fused_ops", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    doctor_parser = commands.add_parser(
        "doctor", help="what this machine has, and whether the ops compute right"
    )
    doctor_parser.add_argument("--strict", action="store_true", help="fail when a native library is missing")
    tune_parser = commands.add_parser(
        "tune", help="measure launch parameters and backends on this machine's card and write its table"
    )
    tune_parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: the card's table in fused_ops/tuning"
    )
    tune_parser.add_argument(
        "--seconds", type=float, default=600.0, help="stop after about so long (default: %(default)g)"
    )
    options = parser.parse_args(arguments)
    if options.command == "tune":
        if options.seconds <= 0:
            parser.error(f"--seconds must be above 0, got {options.seconds:g}")
        return tune.main(options.out, options.seconds)
    return doctor(strict=options.strict)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # let `| head` end it without a traceback
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main())
