"""What `pip wheel .` makes with a compiler, without one, and on request."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

LIBRARY = "fused_ops/lib/libfused_ops_cpu.so"
RECORD = "fused_ops/lib/build.json"


def read_record(wheel: Path) -> dict:
    with zipfile.ZipFile(wheel) as archive:
        return json.loads(archive.read(RECORD))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.usefixtures("needs_compiler")
def test_wheel_with_natives(build_wheel, tree: Path, tmp_path: Path) -> None:
    (tree / "fused_ops/lib").mkdir()
    (tree / "fused_ops/lib/libold.so").write_text("left by an editable install")
    wheel, said = build_wheel(FUSED_OPS_BUILD="cpu")
    assert wheel is not None, said
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")

    found = names(wheel)
    sources = {
        str(path.relative_to(tree))
        for top in ("fused_ops", "fer_mtl")
        for path in tree.glob(f"{top}/**/*.py")
    }
    assert sources == {name for name in found if name.endswith(".py")}, (
        "a package without __init__.py is left out"
    )
    assert {name for name in found if name.startswith("fused_ops/lib/")} == {LIBRARY, RECORD}
    assert {"fused_ops/py.typed", "fer_mtl/py.typed"} <= found
    assert not any(name.startswith(("csrc", "build_support", "tests")) for name in found)

    record = read_record(wheel)
    assert record["cpu"]["built"] and record["cpu"]["ops"] == ["toy"]
    assert record["cpu"]["instruction_sets"][0] == "baseline"
    assert record["cuda"]["reason"] == "left out by FUSED_OPS_BUILD=cpu"
    assert str(tree) not in json.dumps(record)

    # The library loads into this torch, and what it allocates is poisoned as the tests rely on.
    with zipfile.ZipFile(wheel) as archive:
        library = archive.extract(LIBRARY, tmp_path)
    script = f"""
import torch
torch.ops.load_library({str(library)!r})
x = torch.randn(9)
assert torch.equal(torch.ops.fused_ops_toy.twice(x), 2 * x)
torch.use_deterministic_algorithms(True)
assert torch.ops.fused_ops_toy.blank(x).isnan().all()
pixels = torch.ops.fused_ops_toy.blank(torch.randn(2, 3, 4, 5))
assert pixels.isnan().all() and pixels.is_contiguous(memory_format=torch.channels_last)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.usefixtures("needs_compiler")
def test_changed_header_reaches_the_next_wheel(build_wheel, tree: Path) -> None:
    contents = []
    module = tree / "fused_ops/short_lived.py"
    module.touch()
    for scale in ("2.0f", "3.0f"):
        (tree / "csrc/common/scale.h").write_text(f"#define SCALE {scale}\n")
        wheel, said = build_wheel(FUSED_OPS_BUILD="cpu")
        assert wheel is not None, said
        with zipfile.ZipFile(wheel) as archive:
            contents.append(archive.read(LIBRARY))
    assert contents[0] != contents[1]

    module.unlink()
    wheel, said = build_wheel(FUSED_OPS_BUILD="none")
    assert wheel is not None, said
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "fused_ops/short_lived.py" not in names(wheel)
    assert LIBRARY not in names(wheel), "an earlier build's library must not slip in"
    assert read_record(wheel)["cpu"]["reason"] == "left out by FUSED_OPS_BUILD=none"


def test_auto_without_compiler_leaves_natives_out(build_wheel, no_compiler) -> None:
    wheel, said = build_wheel(**no_compiler)
    assert wheel is not None, said
    assert wheel.name.endswith("-py3-none-any.whl")
    reason = read_record(wheel)["cpu"]["reason"]
    assert reason.startswith("no working C++20 compiler")
    assert said.count(f"cpu library left out: {reason}") == 1


def test_explicit_wish_without_compiler_fails(build_wheel, no_compiler) -> None:
    wheel, said = build_wheel(FUSED_OPS_BUILD="cpu", **no_compiler)
    assert wheel is None
    assert "error: FUSED_OPS_BUILD=cpu: no working C++20 compiler (looked for c++ g++ clang++)" in said
    assert "Traceback" not in said


def test_explicit_cuda_without_sources_fails(build_wheel) -> None:
    wheel, said = build_wheel(FUSED_OPS_BUILD="cuda")
    assert wheel is None
    assert "error: FUSED_OPS_BUILD=cuda: no CUDA sources in csrc" in said


def test_unknown_choice_lists_the_allowed(build_wheel) -> None:
    wheel, said = build_wheel(FUSED_OPS_BUILD="gpu")
    assert wheel is None
    assert "error: FUSED_OPS_BUILD=gpu is not understood; allowed: auto, none, cpu, cuda" in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("choice", ["auto", "cpu"])
def test_compile_error(build_wheel, tree: Path, choice: str) -> None:
    with open(tree / "csrc/toy/cpu_kernels.cpp", "a") as source:
        source.write('#error "broken on purpose"\n')
    wheel, said = build_wheel(FUSED_OPS_BUILD=choice)
    if choice == "cpu":
        assert wheel is None
        assert "error: FUSED_OPS_BUILD=cpu: compilation failed: csrc/toy/cpu_kernels.cpp" in said
    else:
        assert wheel is not None, said
        assert wheel.name.endswith("-py3-none-any.whl")
        report = read_record(wheel)["cpu"]
        assert report["failed"] and not report["built"]
        assert report["reason"].startswith("compilation failed: csrc/toy/cpu_kernels.cpp")
    assert "broken on purpose" in said
