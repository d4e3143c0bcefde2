"""What the assembler makes of the Triton kernels: no spills, shared memory, tensor cores, wide accesses."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fused_ops import tuning
from fused_ops.triton_support import CARDS
from fused_ops.tuning import aot, aot_table, cases
from fused_ops.tuning.cases import CASES
from tests.fused_ops.interpreter import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter's kernels cannot be compiled"
    ),
]


def reports(name: str, architecture: str) -> list[aot.Report]:
    card = CARDS[architecture]
    found = [
        aot.compile_launch(case, launch, card) for case, launch in aot.rehearsals([(name, CASES[name])], card)
    ]
    assert found
    for report in found:
        where = f"{report.kernel} of {name} on {architecture}"
        assert report.spills == 0, f"{where}: {report.spills} accesses to local memory"
        assert report.shared_bytes <= report.shared_limit, f"{where}: {report.shared_bytes} bytes shared"
    return found


@pytest.mark.parametrize("architecture", CARDS)
@pytest.mark.parametrize("layout", ["planes", "last"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_pooling_moves_16_bytes_at_a_time(dtype: str, layout: str, architecture: str) -> None:
    for report in reports(f"norm_act_pool stem {dtype} {layout}", architecture):
        if report.kernel in ("pool_apply", "unpool_kernel"):
            itemsize = 2 if dtype == "bfloat16" else 4
            pooled = report.constants["BLOCK_C"] * report.constants["BLOCK_K"]
            large = 4 * pooled * itemsize // (16 * 32 * report.num_warps)  # x, or the gradient of z
            assert report.widths.get(128, 0) >= large, report.kernel
            assert not {8, 16} & set(report.widths), report.kernel


# --- the table of all kernels -------------------------------------------------------------------------------

TABLE = Path(__file__).parents[3] / "benchmarks" / "results" / "triton_aot.csv"
UPDATE = f"run: python -m fused_ops.tuning.aot {TABLE.relative_to(TABLE.parents[2])}"


@pytest.fixture(scope="module")
def table() -> dict[str, aot_table.Row]:
    return {row["fingerprint"]: row for row in aot_table.read(TABLE)}


@pytest.mark.parametrize("architecture", CARDS)
def test_every_kernel_and_configuration_is_in_the_table_and_well(
    architecture: str, table: dict[str, aot_table.Row]
) -> None:
    """All of them as they are now, since a row's fingerprint tells a changed kernel or launch."""
    for key, (name, launch) in aot.wanted(CARDS[architecture]).items():
        where = f"{launch.kernel.__name__} of {name} on {architecture}"
        assert key in table, f"{where} is not in the table; {UPDATE}"
        row = table[key]
        assert row["architecture"] == architecture and row["kernel"] == launch.kernel.__name__
        assert row["spills"] == "0", f"{where} spills"
        assert int(row["shared_bytes"]) <= aot.limit(row), f"{where}: {row['shared_bytes']} bytes shared"
        if launch.constants.get("PRECISION") == "tf32":
            assert row["tensor_core"], f"{where}: no tensor cores"


def test_every_row_of_the_launch_tables_is_compiled() -> None:
    asked = set()
    for card in CARDS.values():
        with tuning.asked() as rows:
            aot.wanted(card)
        asked |= {row.place for _, _, row in rows}
    for name in (tuning.DEFAULTS, *CARDS):
        for family, rows_of_family in tuning.table(name).items():
            for index in range(1, len(rows_of_family) + 1):
                place = f"{family}: row {index} of {name}.json"
                assert family.endswith(".backend") or place in asked, f"no case of cases.py asks for {place}"


@pytest.mark.parametrize("architecture", CARDS)
def test_every_kernel_is_compiled_for_both_dtypes_of_16_bits(architecture: str) -> None:
    found: dict[str, set[torch.dtype]] = {}
    for _, launch in aot.wanted(CARDS[architecture]).values():
        dtypes = {arg.dtype for arg in launch.args if isinstance(arg, Tensor)}
        found.setdefault(launch.kernel.__name__, set()).update(dtypes)
    half = {torch.float16, torch.bfloat16}
    assert {name for name, dtypes in found.items() if not dtypes & half} == {
        "finish_statistics",
        "finish_sums",  # of float32 alone
    }
    assert not [name for name, dtypes in found.items() if dtypes & half and not dtypes >= half]


@pytest.mark.parametrize(
    ("architecture", "instruction"), [("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA")]
)
def test_products_of_many_channels_use_each_cards_own_instructions(
    architecture: str, instruction: str, table: dict[str, aot_table.Row]
) -> None:
    rows = [
        row
        for row in table.values()
        if row["architecture"] == architecture
        and re.match(r"selective_share (64|128|256|512) b?float16", row["case"])
    ]
    products = [row for row in rows if row["kernel"] not in ("gate_gradients", "add_weight_parts")]
    assert {row["kernel"] for row in products} >= {
        "update_gates",
        "input_gradients_fused",
        "weight_gradients",
    }
    for row in products:
        assert instruction in row["tensor_core"].split(), row
        if architecture == "sm_90":
            assert row["repeats"] == "1", f"its warps do products {row['repeats']} times: {row}"


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_two_programs_of_every_product_fit_on_a_processor(mode: str, table: dict[str, aot_table.Row]) -> None:
    """So that one computes while the other waits, in tiles of 128 x 128; of 65,536 registers and 228 KiB."""
    case = f"selective_share 256 batch 16 bfloat16 last {mode}"
    seen = set()
    for key, (_, launch) in aot.wanted(CARDS["sm_90"], case).items():
        if "BLOCK_K" in launch.constants:
            registers = -(-int(table[key]["registers"]) // 8) * 8  # as they are handed out
            assert 2 * registers * 32 * launch.num_warps <= 65536, table[key]
            assert 2 * (int(table[key]["shared_bytes"]) + 1024) <= 228 << 10, table[key]
            seen.add(launch.kernel.__name__)
    backward = {"reset_gradients", "input_gradients"} if mode == "train" else set()
    assert seen == {"update_gates", "candidate_and_mix", *backward}


@pytest.mark.parametrize("mode", ["train", "outside"])
@pytest.mark.parametrize("layout", ["planes", "last"])
def test_two_programs_of_the_backward_of_128_channels_fit_on_a_processor(
    layout: str, mode: str, table: dict[str, aot_table.Row]
) -> None:
    """Each waits for its own barriers."""
    launches = aot.wanted(CARDS["sm_90"], f"selective_share 128 bfloat16 {layout} {mode}")
    (row,) = (
        table[key]
        for key, (name, launch) in launches.items()
        if launch.kernel.__name__ == "input_gradients_fused" and "slice" not in name
    )
    assert aot.resident(row) == 2, row


@pytest.mark.parametrize("architecture", CARDS)
def test_programs_that_go_through_many_tiles_run_all_at_once(
    architecture: str, table: dict[str, aot_table.Row]
) -> None:
    """By the compiled kernel's registers and shared memory; one that waits would double the time."""
    seen = set()
    for key, (name, launch) in aot.wanted(CARDS[architecture], "selective_share").items():
        kernel = launch.kernel.__name__
        if kernel in (
            "forward_resident",
            "input_gradients_pair",
            "weight_gradients_unit",
            "weight_gradients",
        ):
            at_once = aot.resident(table[key]) * CARDS[architecture].processors
            parts = [arg.size(0) for arg in launch.args if isinstance(arg, Tensor) and arg.dim() == 2]
            if parts != [1]:  # not cut at all: there are more products than that
                where = f"{kernel} of {name}: {launch.grid}, {at_once} at once"
                assert math.prod(launch.grid) <= at_once, where
            seen.add(kernel)
    assert len(seen) >= 3


@pytest.mark.parametrize("architecture", CARDS)
def test_norm_act_moves_16_bytes_at_a_time(architecture: str, table: dict[str, aot_table.Row]) -> None:
    """All kernels that see large tensors, wherever channels are adjacent or whole planes are so wide."""
    seen = set()
    for key, (name, launch) in aot.wanted(CARDS[architecture], "norm_act ").items():
        large = [arg for arg in launch.args if isinstance(arg, Tensor) and arg.dim() == 4 and arg.size(1) > 1]
        if not large or "frozen" in name:  # with given statistics the backward does not read its x
            continue
        size, plane = large[0].element_size(), large[0].size(2) * large[0].size(3)
        if launch.constants["CHANNELS_LAST"] or plane * size % 16 == 0:
            elements = math.prod(launch.constants.get(of, 1) for of in ("BLOCK_C", "BLOCK_K", "TILES"))
            of_each = elements * size // (16 * 32 * launch.num_warps)
            wide = re.search(r"(\d+)x128", table[key]["access_bits"])
            where = f"{launch.kernel.__name__} of {name}: {table[key]['access_bits']}"
            assert wide is not None and int(wide[1]) >= len(large) * of_each > 0, where
            seen.add(launch.kernel.__name__)
    assert seen == {
        *("forward_row", "backward_row"),
        *("partial_statistics", "forward_apply", "partial_sums", "backward_apply"),
    }


def test_selective_share_moves_16_bytes_at_a_time(table: dict[str, aot_table.Row]) -> None:
    """The element-wise kernel, where channels are adjacent or a plane's size is a multiple of 8."""
    rows = [
        row
        for row in table.values()
        if row["kernel"] == "gate_gradients" and re.match(r"selective_share (256|512) bf.* last", row["case"])
    ]
    assert len(rows) >= 2 * len(CARDS)
    for row in rows:
        assert re.fullmatch(r"\d+x128", row["access_bits"]), row


@pytest.mark.parametrize("architecture", CARDS)
def test_the_table_says_what_the_compiler_does(architecture: str, table: dict[str, aot_table.Row]) -> None:
    case = "selective_share 64 bfloat16 last train"
    card = CARDS[architecture]
    of_table, here = {row["triton"] for row in table.values()}, version("triton")
    if of_table != {here}:
        pytest.skip(f"the table was made with Triton {', '.join(of_table)}, and this is {here}")
    for report, (_, launch) in zip(
        reports(case, architecture), aot.rehearsals([(case, CASES[case])], card), strict=True
    ):
        row = table[aot.fingerprint(launch, card)]
        assert report.tensor_core.split()[:1] == row["tensor_core"].split()[:1]
        assert report.kernel == row["kernel"]


def test_only_what_is_missing_is_compiled_and_what_is_unused_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    case = "norm_act small bfloat16 last"
    aot.update(path, ["sm_90"], case)
    rows = aot_table.read(path)
    assert [row["kernel"] for row in rows] == ["backward_row", "finish_sums", "forward_row"]
    assert all(row["architecture"] == "sm_90" and int(row["registers"]) > 0 for row in rows)
    monkeypatch.setattr(aot, "compile_launch", None)  # not called again
    monkeypatch.setattr(cases, "CASES", {case: CASES[case]})
    aot_table.write(path, [*rows, {**rows[0], "fingerprint": "of a kernel that is gone"}])
    aot.update(path, ["sm_90"])
    assert aot_table.read(path) == rows
    assert [found.name for found in tmp_path.iterdir()] == ["table.csv"]


def test_a_fingerprint_follows_the_code_and_the_launch() -> None:
    card = CARDS["sm_90"]
    case = "norm_act small bfloat16 last"
    launch = next(launch for _, launch in aot.rehearsals([(case, CASES[case])], card))
    first = aot.fingerprint(launch, card)
    assert first == aot.fingerprint(launch, card)
    assert first != aot.fingerprint(dataclasses.replace(launch, num_warps=2 * launch.num_warps), card)
    assert first != aot.fingerprint(launch, CARDS["sm_80"])


class Function:
    """What a fingerprint looks at of a compiled function."""

    def __init__(self, name: str, source: str, **known: object) -> None:
        self.__name__, self.src = name, source
        self.fn = types.SimpleNamespace(__globals__=known)


def test_a_fingerprint_sees_what_a_kernel_calls_and_no_comment() -> None:
    def fingerprint(body: str, callee: str, half: float = 0.5) -> str:
        helper = Function("helper", f"def helper(x):\n    {callee}\n", HALF=types.SimpleNamespace(value=half))
        return aot_table.fingerprint(Function("kernel", f"def kernel(x):\n    {body}\n", helper=helper))

    first = fingerprint("return helper(x)", "return x * HALF")
    assert first == fingerprint('"""Text."""\n    return helper( x )  # why', "return x * HALF")
    assert first != fingerprint("return helper(x)", "return x + HALF")
    assert first != fingerprint("return helper(x)", "return x * HALF", half=0.25)
    assert first != fingerprint("return -helper(x)", "return x * HALF")
