from __future__ import annotations

import signal

import pytest

from fused_ops import native
from tests.fused_ops import fenced

# "amx" is the best that there is.
SIDES = [("behind", isa) for isa in ("baseline", "avx2", "avx512", "amx")] + [("before", "amx")]


@pytest.mark.skipif(not native.cpu_library().loaded, reason=native.cpu_library().reason or "not loaded")
@pytest.mark.parametrize(("side", "isa"), SIDES)
def test_no_cpu_kernel_touches_anything_beyond_its_tensors(side: str, isa: str) -> None:
    code = "from tests.fused_ops import fenced; fenced.call_everything()"
    done = fenced.run(code, side, FUSED_OPS_CPU_ISA=isa)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(("side", "beyond"), [("behind", 64), ("before", -1)])
def test_the_fence_stops_who_reads_beyond(side: str, beyond: int) -> None:
    code = f"import ctypes, torch; x = torch.zeros(15); ctypes.string_at(x.data_ptr() + {beyond}, 1)"
    assert fenced.run(code, side).returncode == -signal.SIGSEGV


@pytest.mark.parametrize(("side", "beyond"), [("behind", 60), ("behind", -1), ("before", 4095)])
def test_the_fence_sees_what_was_written_short_of_it(side: str, beyond: int) -> None:
    code = f"import ctypes, torch; x = torch.zeros(15); ctypes.memset(x.data_ptr() + {beyond}, 0, 1); del x"
    done = fenced.run(code, side)
    assert done.returncode == -signal.SIGABRT
    assert f"fence: byte {beyond} of a block of 60 was written" in done.stderr


def test_the_fence_ends_the_life_of_what_is_freed() -> None:
    code = "import ctypes, torch; at = torch.zeros(15).data_ptr(); ctypes.string_at(at, 1)"
    assert fenced.run(code, "behind").returncode == -signal.SIGSEGV
