"""bfloat16 on matrix tiles where the processor has AVX-512 but no AMX: built with the tiles emulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from build_support import native_build, toolchain

ROOT = Path(__file__).resolve().parents[3]
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def why_not() -> str | None:
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
        toolchain.find_cxx()
    except (OSError, toolchain.Missing) as reason:
        return str(reason)
    if not flags >= AVX512:
        return "the processor has no AVX-512, in which the kernels on matrix tiles do the rest"
    return "the other tests of bfloat16 run on the processor's own tiles" if "amx_bf16" in flags else None


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_the_kernels_on_matrix_tiles_with_the_tiles_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXXFLAGS", "-DFUSED_OPS_EMULATE_AMX")
    monkeypatch.setenv("FUSED_OPS_BUILD", "cpu")
    (tmp_path / "csrc").mkdir()
    for name in ("common", "selective_share"):
        (tmp_path / "csrc" / name).symlink_to(ROOT / "csrc" / name)
    native_build.build(tmp_path, tmp_path / "lib", "0")
    code = f"""if True:
        import pathlib, pytest
        from fused_ops import native
        native.FOLDER = pathlib.Path({str(tmp_path / "lib")!r})
        names = "bfloat16 and (accurate or whole_lines) and not reference"
        tests = "tests/fused_ops/selective_share/test_op.py"
        raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", names, tests]))
    """
    environment = {name: value for name, value in os.environ.items() if name != "FUSED_OPS_CPU_ISA"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout
