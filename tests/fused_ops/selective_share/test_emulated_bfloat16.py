"""bfloat16 products that the processor lacks, next to AVX-512 that it has: built with them emulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from build_support import native_build, toolchain

ROOT = Path(__file__).resolve().parents[3]
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


# Instruction set: what the processor calls it.
PRODUCTS = {"avx512_bf16": "avx512_bf16", "amx": "amx_bf16"}


def why_not(isa: str) -> str | None:
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
        toolchain.find_cxx()
    except (OSError, toolchain.Missing) as reason:
        return str(reason)
    if not flags >= AVX512:
        return "the processor has no AVX-512, in which these kernels do the rest"
    return f"the other tests of bfloat16 run on the processor's own {isa}" if PRODUCTS[isa] in flags else None


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library whose products are emulated."""
    folder = tmp_path_factory.mktemp("emulated")
    (folder / "csrc").mkdir()
    for name in ("common", "selective_share"):
        (folder / "csrc" / name).symlink_to(ROOT / "csrc" / name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("CXXFLAGS", "-DFUSED_OPS_EMULATE_BF16")
        monkeypatch.setenv("FUSED_OPS_BUILD", "cpu")
        native_build.build(folder, folder / "lib", "0")
    return folder / "lib"


@pytest.mark.parametrize("isa", PRODUCTS)
def test_bfloat16_with_the_products_emulated(isa: str, request: pytest.FixtureRequest) -> None:
    if reason := why_not(isa):
        pytest.skip(reason)
    folder = request.getfixturevalue("library")
    code = f"""if True:
        import pathlib, pytest
        from fused_ops import native
        native.FOLDER = pathlib.Path({str(folder)!r})
        names = "bfloat16 and (accurate or whole_lines or infinite) and not reference"
        tests = ["tests/fused_ops/selective_share/" + name for name in ("test_op.py", "test_channels.py")]
        raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", names, *tests]))
    """
    environment = {**os.environ, "FUSED_OPS_CPU_ISA": isa}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout
