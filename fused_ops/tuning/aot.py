"""Compiles every Triton kernel ahead of time, without a card, and reads what the assembler made of it.

The host code of the backends is rehearsed on tensors without data
(:func:`fused_ops.triton_support.rehearse`), so the kernels are compiled in the very launches that calls use.
For each one the report has

* registers per thread, and the bytes and instructions of local memory (spills),
* shared memory of a program against what the card has,
* how often the warps of a program compute the same product (``repeats``: 1, unless a tile is too small for
  them: a product whose result goes into another one gets 16 rows for each warp),
* tensor-core instructions (HGMMA is wgmma of sm_90, HMMA the warp's mma, UTC*MMA tcgen05 of sm_100),
* the width of global memory accesses.

``python -m fused_ops.tuning.aot TABLE`` brings a table of all cases and architectures up to date
(:mod:`.aot_table`); the one in ``benchmarks/results/triton_aot.csv`` is held against the kernels by a test.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fused_ops.triton_support import CARDS, LEAST_SHARED_BYTES, Card, Launch, rehearse
from fused_ops.tuning import aot_table
from fused_ops.tuning.aot_table import Row

_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
# One instruction of the disassembly: "  /*0120*/  @!P0 LDG.E.128 R4, ...".
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
# "#mma1 = #ttg.nvidia_mma<{..., warpsPerCTA = [4, 2], instrShape = [16, 32, 16]}>": warps along the rows and
# the columns of a result, and the columns of an instruction of a warp, which has 16 rows.
_MMA_LAYOUT = re.compile(
    r"^(#mma\d*) = #ttg\.nvidia_mma<.*warpsPerCTA = \[(\d+), (\d+)\].*instrShape = \[16, (\d+)", re.MULTILINE
)
_PRODUCT = re.compile(r"(?:tt\.dot|warp_group_dot) .*-> tensor<(\d+)x(\d+)xf32, (#mma\d*)>")


@dataclass(frozen=True)
class Report:
    """What the assembler says of one kernel in one configuration on one architecture."""

    case: str
    kernel: str
    architecture: str
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    shared_limit: int
    repeats: int
    instructions: dict[str, int]

    def count(self, *prefixes: str) -> int:
        return sum(n for name, n in self.instructions.items() if name.startswith(prefixes))

    @cached_property
    def spills(self) -> int:
        """Loads from and stores to local memory."""
        return self.count("LDL", "STL")

    @cached_property
    def tensor_core(self) -> str:
        """The tensor-core instructions, "HGMMA 48"; empty where there are none."""
        kinds = ("HGMMA", "HMMA", "UTCHMMA", "UTCQMMA", "UTCOMMA")
        return " ".join(f"{kind} {self.count(kind)}" for kind in kinds if self.count(kind))

    @cached_property
    def widths(self) -> dict[int, int]:
        """How many global loads and stores move how many bits per thread."""
        found: Counter[int] = Counter()
        for name, n in self.instructions.items():
            if name.startswith(("LDG", "STG")):
                width = re.search(r"\.(128|64|U16|U8|S16|S8)(?:\.|$)", name)
                found[int(width[1].lstrip("US")) if width else 32] += n
        return dict(sorted(found.items(), reverse=True))

    def row(self) -> dict[str, Any]:
        """Its row of the table, but for the fingerprint."""
        widths = " ".join(f"{n}x{bits}" for bits, n in self.widths.items())
        return {
            **asdict(self), "spills": self.spills, "tensor_core": self.tensor_core, "access_bits": widths,
        }  # fmt: skip


def compile_launch(case: str, launch: Launch, card: Card) -> Report:
    """Compile one rehearsed launch for a card and read the result."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = _specialize(launch)
    major, minor = card.capability
    compiled = triton.compile(
        ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", 10 * major + minor, 32),
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True},
    )
    usage, assembly = _disassemble(compiled.asm["cubin"])
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[-1]
    return Report(
        case=case,
        kernel=launch.kernel.__name__,
        architecture=card.architecture,
        constants=dict(launch.constants),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        registers=int(registers),
        stack_bytes=int(stack),
        shared_bytes=compiled.metadata.shared,
        shared_limit=card.shared_bytes,
        repeats=_repeats(compiled.asm["ttgir"]),
        instructions=dict(Counter(_INSTRUCTION.findall(assembly))),
    )


def _specialize(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """Types, constants and hints as Triton's own launcher would find them for aligned tensors."""
    names = launch.kernel.arg_names
    values = {**dict(zip(names, launch.args, strict=False)), **launch.constants}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for index, name in enumerate(names):
        value = values[name]
        if isinstance(value, Tensor):
            signature[name] = _TYPES[value.dtype]
            aligned = True
        elif value is None or name in launch.constants or (value == 1 and isinstance(value, int)):
            signature[name], constants[name], aligned = "constexpr", value, False
        elif isinstance(value, int):
            signature[name], aligned = ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0
        else:
            signature[name], aligned = "fp32", False
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _repeats(code: str) -> int:
    """The most warps that compute the same part of a product, in Triton's code for GPUs (mma.sync, wgmma)."""
    layouts = {
        name: (int(of_rows) * 16, int(of_columns) * int(width))
        for name, of_rows, of_columns, width in _MMA_LAYOUT.findall(code)
    }
    most = 1
    for rows, columns, name in _PRODUCT.findall(code):
        covered = layouts[name]
        most = max(most, max(1, covered[0] // int(rows)) * max(1, covered[1] // int(columns)))
    return most


def _disassemble(binary: bytes) -> tuple[str, str]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage, assembly = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    return usage, assembly


def rehearsals(cases: Iterable[tuple[str, Callable[[], object]]], card: Card) -> Iterator[tuple[str, Launch]]:
    """Every different launch that the cases would make on a card."""
    seen = set()
    for name, call in cases:
        with rehearse(card) as launches:
            call()
        for launch in launches:
            key = repr((launch.kernel.__name__, _specialize(launch), launch.num_warps, launch.num_stages))
            if key not in seen:
                seen.add(key)
                yield name, launch


def wanted(card: Card, only: str = "") -> dict[str, tuple[str, Launch]]:
    """The launches of all cases on a card, or of those with ``only`` in their names, by fingerprint."""
    from fused_ops.tuning.cases import CASES

    cases = [(name, call) for name, call in CASES.items() if only in name]
    return {fingerprint(launch, card): (name, launch) for name, launch in rehearsals(cases, card)}


def fingerprint(launch: Launch, card: Card) -> str:
    """What the compiler's result depends on, its own version apart."""
    facts = (_specialize(launch), launch.num_warps, launch.num_stages, card.architecture)
    return aot_table.fingerprint(launch.kernel, *facts)


def update(path: Path, architectures: Sequence[str], only: str = "") -> list[Row]:
    """Compile what the table lacks, and return the rows of these architectures.

    Without ``only`` rows that no case asks for any more are dropped. The table is written after every kernel,
    so that an interrupted update goes on where it stopped.
    """
    rows = {row["fingerprint"]: row for row in aot_table.read(path)}
    for architecture in architectures:
        card = CARDS[architecture]
        launches = wanted(card, only)
        if not only:
            rows = {
                key: row
                for key, row in rows.items()
                if row["architecture"] != architecture or key in launches
            }
        for key, (name, launch) in launches.items():
            if key not in rows:
                row = {
                    **compile_launch(name, launch, card).row(),
                    "triton": version("triton"),
                    "fingerprint": key,
                }
                rows[key] = {column: str(row[column]) for column in aot_table.COLUMNS}
                aot_table.write(path, rows.values())
                print(*rows[key].values(), flush=True)
    aot_table.write(path, rows.values())
    return [row for row in rows.values() if row["architecture"] in architectures]


def main(arguments: list[str] | None = None) -> int:
    summary = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m fused_ops.tuning.aot", description=summary)
    parser.add_argument("table", type=Path, help="the table to bring up to date, a CSV file")
    parser.add_argument("--arch", nargs="+", choices=tuple(CARDS), default=tuple(CARDS))
    parser.add_argument("--only", default="", help="compile cases whose name has this in it")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set; the interpreter's kernels cannot be compiled")
    rows = update(options.table, options.arch, options.only)
    bad = [row for row in rows if row["spills"] != "0" or int(row["shared_bytes"]) > limit(row)]
    for row in bad:
        print("spills or asks for too much shared memory:", *row.values())
    print(f"{len(rows)} kernels in the table, {len(bad)} bad")
    return bool(bad)


def resident(row: Row) -> int:
    """How many programs of a kernel a processor of the architecture's card holds at once."""
    warps, shared = int(row["num_warps"]), int(row["shared_bytes"])
    of_warp = 32 * -(-int(row["registers"]) // 8) * 8  # registers are given out by the eight
    # Beside what it asks for, a program takes 1 KiB; the most that one may ask for leaves that.
    of_card = CARDS[row["architecture"]].shared_bytes + 1024
    return min(65536 // (of_warp * warps), 64 // warps, of_card // (shared + 1024))


def limit(row: Row) -> int:
    """Bytes of shared memory that a program may have on every card that gets the row's launch."""
    if row["architecture"] == "sm_80":  # RTX 30, RTX 40, L4 and L40 get its launches, too
        return LEAST_SHARED_BYTES
    return CARDS[row["architecture"]].shared_bytes


if __name__ == "__main__":
    sys.exit(main())
