"""Choices of what to build, and the commands that follow from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from build_support import native_build, toolchain
from build_support.runner import BuildFailure

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        (None, {"auto"}),
        ("", {"auto"}),
        ("none", {"none"}),
        ("CPU", {"cpu"}),
        ("cpu, cuda", {"cpu", "cuda"}),
    ],
)
def test_wanted(monkeypatch: pytest.MonkeyPatch, text: str | None, choice: set[str]) -> None:
    monkeypatch.delenv("FUSED_OPS_BUILD", raising=False)
    if text is not None:
        monkeypatch.setenv("FUSED_OPS_BUILD", text)
    assert native_build.wanted() == choice


@pytest.mark.parametrize("text", ["gpu", "cpu;cuda", "auto,cpu", "none,cuda", ","])
def test_wanted_refuses_the_rest(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FUSED_OPS_BUILD", text)
    with pytest.raises(BuildFailure, match="allowed: auto, none, cpu, cuda or cpu,cuda together"):
        native_build.wanted()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "csrc/toy").mkdir(parents=True)
    for name in ("cpu.cpp", "cpu_kernels.cpp", "cuda.cu"):
        (tmp_path / "csrc/toy" / name).touch()
    return tmp_path


class TestBuildRequirements:
    """torch is asked for only where natives are wanted and possible and none is installed."""

    @pytest.fixture(autouse=True)
    def _machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FUSED_OPS_BUILD", raising=False)
        monkeypatch.setattr(toolchain, "find_cxx", lambda: toolchain.Compiler(("g++",), "g++ 12"))

    def no_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(toolchain, "_site_folders", lambda: iter(()))

    def test_torch_is_here(self, sources: Path) -> None:
        assert native_build.build_requirements(sources) == []

    def test_no_torch(self, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.no_torch(monkeypatch)
        assert native_build.build_requirements(sources) == ["torch>=2.10"]

    def test_no_natives_wanted(self, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.no_torch(monkeypatch)
        monkeypatch.setenv("FUSED_OPS_BUILD", "none")
        assert native_build.build_requirements(sources) == []

    def test_no_sources(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.no_torch(monkeypatch)
        assert native_build.build_requirements(tmp_path) == []

    def test_no_compiler(self, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing() -> toolchain.Compiler:
            raise toolchain.Missing("no compiler here")

        self.no_torch(monkeypatch)
        monkeypatch.setattr(toolchain, "find_cxx", nothing)
        assert native_build.build_requirements(sources) == []
        monkeypatch.setenv("FUSED_OPS_BUILD", "cpu")
        with pytest.raises(BuildFailure, match="FUSED_OPS_BUILD=cpu: no compiler here"):
            native_build.build_requirements(sources)


@pytest.fixture
def torch_install(tmp_path: Path) -> toolchain.Torch:
    return toolchain.Torch(tmp_path / "torch", "2.13.0")


def test_cpu_objects_are_linked_plainest_first(
    sources: Path, torch_install: toolchain.Torch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order decides which copy of a shared inline function the library gets."""
    monkeypatch.setattr(toolchain, "find_cxx", lambda: toolchain.Compiler(("g++",), "g++ 12"))
    monkeypatch.setattr(native_build, "instruction_sets", lambda _: native_build.INSTRUCTION_SETS["x86_64"])
    glue = sources / "csrc/toy/cpu.cpp"
    *compiles, link = native_build._cpu_library(sources, sources / "build", torch_install, [glue])[0]
    names = [step.output.name for step in compiles]
    assert names == [
        *("toy.cpu.o", "toy.cpu_kernels.baseline.o", "toy.cpu_kernels.avx2.o", "toy.cpu_kernels.avx512.o")
    ]
    assert [Path(word).name for word in link.command if word.endswith(".o")] == names
    assert "-DFUSED_OPS_ISAS_avx512=1" in compiles[0].command and "-mavx512f" not in compiles[0].command
    assert "-DFUSED_OPS_ISA=avx512" in compiles[-1].command and "-mavx512f" in compiles[-1].command
    assert not any(word.endswith("torch/include") for word in compiles[-1].command)


@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++")
def test_clang_takes_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows other builtins than g++, which builds what the other tests run."""
    monkeypatch.setenv("CXX", "clang++")
    glue = sorted(ROOT.glob("csrc/*/cpu.cpp"))
    *compiles, _ = native_build._cpu_library(ROOT, tmp_path, toolchain.find_torch(), glue)[0]
    (tmp_path / "cpu").mkdir()
    for step in compiles:
        found = toolchain.run_quietly([*step.command, "-fsyntax-only"], cwd=ROOT)
        assert found.returncode == 0, found.stdout


def test_cuda_commands(
    sources: Path, torch_install: toolchain.Torch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Machine code for every listed card the compiler knows, PTX of the newest, libtorch_cuda named."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho sm_75; echo sm_80; echo sm_90\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: toolchain.Compiler((str(nvcc),), "release 12.4"))
    monkeypatch.setattr(toolchain, "find_cxx", lambda: toolchain.Compiler(("g++",), "g++ 12"))
    source = sources / "csrc/toy/cuda.cu"
    steps, facts = native_build._cuda_library(sources, sources / "build", torch_install, [source])
    assert facts == {"compiler": "release 12.4", "architectures": [80, 90], "ptx": 90}
    targets = [word for word in steps[0].command if word.startswith("-gencode")]
    assert targets == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert "-ltorch_cuda" in steps[-1].command
    nvcc.write_text("#!/bin/sh\necho sm_70\n")
    with pytest.raises(toolchain.Missing, match="knows none of sm_80, sm_90, sm_100"):
        native_build._cuda_library(sources, sources / "build", torch_install, [source])


# Later headers define these for older targets, too, so that nothing but an older torch tells.
NAMES_OF_LATER_TORCH = ("STABLE_TORCH_ERROR_CODE_CHECK",)  # 2.13


@pytest.mark.parametrize("name", NAMES_OF_LATER_TORCH)
def test_the_oldest_torch_has_every_name(name: str) -> None:
    files = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    assert len(files) > 40
    assert not [path for path in files if name in path.read_text()]
