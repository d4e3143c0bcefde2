"""What is compiled, and how: csrc/*/{cpu.cpp,cpu_kernels.cpp} and csrc/*/cuda.cu into two shared libraries.

`cpu.cpp` is an op's torch glue, compiled once. `cpu_kernels.cpp` holds raw-pointer kernels without
torch headers, compiled once per instruction set with FUSED_OPS_ISA set to its name; the glue learns which
sets exist from FUSED_OPS_ISAS_<name>=1 and picks one at run time. `cuda.cu` goes into a library of its own,
since it loads only where torch has CUDA.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from . import toolchain
from .runner import BuildFailure, Step, jobs, run_steps
from .toolchain import Compiler, Missing, Torch

# Instruction sets of the CPU kernels, plainest first: name -> compiler flags.
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "baseline": (),
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "avx512": (
            *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
            "-mprefer-vector-width=512",
        ),
    },
}
ANY_MACHINE: dict[str, tuple[str, ...]] = {"baseline": ()}

# Compute capabilities with machine code in the CUDA library, oldest first; the newest is kept as PTX as well,
# from which the driver makes code for later cards.
CUDA_ARCHITECTURES = (80, 90, 100)

CHOICES = ("auto", "none", "cpu", "cuda")

# 0x020a: torch 2.10, see toolchain.TORCH_TARGET.
_TARGET = (
    f"-DTORCH_TARGET_VERSION=0x{toolchain.TORCH_TARGET[0]:02x}{toolchain.TORCH_TARGET[1]:02x}000000000000"
)
_CXX = (
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "-Wall",
    "-fPIC",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
)
# Lets loops vectorise without giving up infinities, NaNs or the order of additions, as -ffast-math would.
_KERNELS = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_NVCC = (
    "-std=c++20",
    "-O3",
    "-DNDEBUG",
    "--expt-relaxed-constexpr",
    "-DUSE_CUDA",
    "-Xcompiler",
    "-fPIC,-fvisibility=hidden",
)


def wanted() -> set[str]:
    """What FUSED_OPS_BUILD asks for: {"auto"}, {"none"}, or some of {"cpu", "cuda"}.

    Raises BuildFailure for anything else.
    """
    text = os.environ.get("FUSED_OPS_BUILD", "") or "auto"
    choice = {word.strip().lower() for word in text.split(",")}
    if not choice <= set(CHOICES) or (len(choice) > 1 and choice & {"auto", "none"}):
        raise BuildFailure(
            f"FUSED_OPS_BUILD={text} is not understood; allowed: {', '.join(CHOICES)} or cpu,cuda together"
        )
    return choice


def _check_platform() -> None:
    if not sys.platform.startswith("linux"):
        raise Missing(f"native libraries are built on Linux only; this is {platform.system()}")


def build_requirements(root: Path) -> list[str]:
    """torch, when natives are wanted and could be compiled but no torch is installed; else nothing."""
    choice = wanted()
    if choice == {"none"} or not any(root.glob("csrc/*/c*.c*")):
        return []
    try:
        _check_platform()
        toolchain.find_cxx()
    except Missing as reason:
        if choice != {"auto"}:
            raise BuildFailure(f"FUSED_OPS_BUILD={','.join(sorted(choice))}: {reason}") from None
        return []
    try:
        toolchain.find_torch()
    except Missing:
        return [f"torch>={toolchain.TORCH_TARGET_TEXT}"]
    return []


def build(root: Path, destination: Path, version: str) -> list[Path]:
    """Build the libraries that FUSED_OPS_BUILD asks for into `destination`, which they replace.

    Returns the files written, build.json (what was built, and why the rest was not) among them. Raises
    BuildFailure when an explicit wish cannot be met; with "auto" that is said once and recorded instead.
    """
    choice = wanted()
    build_folder = root / "build" / "native"
    report: dict[str, Any] = {
        "version": version,
        "requested": ",".join(sorted(choice)),
        "platform": f"{sys.platform}-{platform.machine()}",
        "torch_target": toolchain.TORCH_TARGET_TEXT,
        "torch": None,
    }
    built: list[Path] = []
    for name, recipe in (("cpu", _cpu_library), ("cuda", _cuda_library)):
        report[name] = {"built": False, "failed": False, "reason": ""}
        if name not in choice and choice != {"auto"}:
            report[name]["reason"] = f"left out by FUSED_OPS_BUILD={report['requested']}"
            continue
        try:
            _check_platform()
            if not (sources := sorted(root.glob(f"csrc/*/{name}.c*"))):
                raise Missing(f"no {name.upper()} sources in csrc")
            torch = toolchain.find_torch()
            steps, facts = recipe(root, build_folder, torch, sources)
            run_steps(steps, root, build_folder / name)
        except (Missing, BuildFailure) as reason:
            if choice != {"auto"}:
                raise BuildFailure(f"FUSED_OPS_BUILD={report['requested']}: {reason}") from None
            report[name].update(failed=isinstance(reason, BuildFailure), reason=str(reason))
            print(f"fused_ops: {name} library left out: {reason}", file=sys.stderr)
            continue
        built.append(steps[-1].output)
        report["torch"] = torch.version
        ops = [source.parent.name for source in sources]
        report[name].update(built=True, library=steps[-1].output.name, ops=ops, **facts)
    return _install(built, report, destination)


def _install(built: list[Path], report: dict[str, Any], destination: Path) -> list[Path]:
    """Put libraries and report in place, each in one step: a running process may have the old ones mapped."""
    destination.mkdir(parents=True, exist_ok=True)
    for old in destination.glob("*.so"):
        if old.name not in {library.name for library in built}:
            old.unlink()
    written = []
    for library in built:
        shutil.copy2(library, destination / f"{library.name}.tmp")
        written.append(destination / library.name)
    build_json = destination / "build.json"
    (destination / "build.json.tmp").write_text(json.dumps(report, indent=2) + "\n")
    written.append(build_json)
    for path in written:
        os.replace(f"{path}.tmp", path)
    return written


def _torch_flags(torch: Torch) -> tuple[str, ...]:
    return _TARGET, "-Icsrc", "-isystem", str(torch.root / "include")


def _environment_flags(name: str) -> list[str]:
    return shlex.split(os.environ.get(name, ""))


def instruction_sets(cxx: Compiler) -> dict[str, tuple[str, ...]]:
    """The instruction sets of this machine's kind that the compiler knows, plainest first."""
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    table = INSTRUCTION_SETS.get(machine, ANY_MACHINE)
    return {name: flags for name, flags in table.items() if not toolchain.accepts(cxx.command, flags)}


def _cpu_library(
    root: Path, folder: Path, torch: Torch, sources: list[Path]
) -> tuple[list[Step], dict[str, Any]]:
    cxx = toolchain.find_cxx()
    sets = instruction_sets(cxx)
    extra = _environment_flags("CXXFLAGS")
    available = [f"-DFUSED_OPS_ISAS_{name}=1" for name in sets]
    kernels = [source for glue in sources if (source := glue.with_name("cpu_kernels.cpp")).is_file()]
    # Objects are linked plainest instruction set first. The linker keeps the first copy of an inline function
    # that several objects carry, and that must be one which every machine can run.
    units = [(source, "", (*_CXX, *available, *_torch_flags(torch))) for source in sources]
    units += [
        (source, f".{name}", (*_CXX, *_KERNELS, f"-DFUSED_OPS_ISA={name}", *flags, "-Icsrc"))
        for name, flags in sets.items()
        for source in kernels
    ]
    steps = []
    for source, suffix, flags in units:
        output = folder / "cpu" / f"{source.parent.name}.{source.stem}{suffix}.o"
        relative = source.relative_to(root)
        command = (*cxx.command, *flags, *extra, "-MMD", "-MF", f"{output}.d", "-c", str(relative))
        steps.append(Step(output, (relative,), (*command, "-o", str(output)), depfile=True))
    objects = tuple(step.output for step in steps)
    library = folder / "cpu" / "libfused_ops_cpu.so"
    # torch is linked, without a run path, although the process has loaded it: it loads its libraries
    # privately, so that without these entries their symbols would not be found. --no-undefined: fail now, not
    # at load time.
    link = (*cxx.command, "-shared", *map(str, objects), f"-L{torch.root / 'lib'}", "-Wl,--no-as-needed")
    link += ("-ltorch_cpu", "-lc10", "-Wl,--no-undefined", *_environment_flags("LDFLAGS"), "-o", str(library))
    steps.append(Step(library, objects, link))
    return steps, {"compiler": cxx.version, "instruction_sets": list(sets)}


def _cuda_library(
    root: Path, folder: Path, torch: Torch, sources: list[Path]
) -> tuple[list[Step], dict[str, Any]]:
    nvcc = toolchain.find_nvcc()
    cxx = toolchain.find_cxx()
    known = toolchain.run_quietly([*nvcc.command, "--list-gpu-code"]).stdout.split()
    codes = [arch for arch in CUDA_ARCHITECTURES if f"sm_{arch}" in known]
    if not codes:
        raise Missing(
            f"{nvcc.version} knows none of {', '.join(f'sm_{arch}' for arch in CUDA_ARCHITECTURES)}"
        )
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in codes]
    targets += [f"-gencode=arch=compute_{codes[-1]},code=compute_{codes[-1]}"]
    host = ("-ccbin", cxx.command[0])
    steps = []
    for source in sources:
        output = folder / "cuda" / f"{source.parent.name}.cuda.o"
        relative = source.relative_to(root)
        command = (
            *nvcc.command,
            *host,
            *_NVCC,
            *targets,
            f"--threads={jobs()}",  # the architectures beside each other
            *_torch_flags(torch),
            *_environment_flags("NVCCFLAGS"),
        )
        command += ("-MD", "-MF", f"{output}.d", "-c", str(relative), "-o", str(output))
        steps.append(Step(output, (relative,), command, depfile=True))
    objects = tuple(step.output for step in steps)
    # The library must name libtorch_cuda.so, where the current stream comes from. A CPU torch has no such
    # file; an empty one of that name stands in for it at link time, so that a build box needs no CUDA torch.
    stub = folder / "cuda" / "stub" / "libtorch_cuda.so"
    if not (torch.root / "lib" / stub.name).is_file():
        command = (
            *cxx.command,
            "-shared",
            f"-Wl,-soname,{stub.name}",
            "-x",
            "c++",
            os.devnull,
            "-o",
            str(stub),
        )
        steps.append(Step(stub, (), command))
    library = folder / "cuda" / "libfused_ops_cuda.so"
    link = (
        *nvcc.command,
        *host,
        *targets,
        "-shared",
        *map(str, objects),
        f"-L{torch.root / 'lib'}",
        f"-L{stub.parent}",
    )
    link += ("-Xlinker", "--no-as-needed", "-ltorch_cpu", "-ltorch_cuda", "-lc10", "-o", str(library))
    steps.append(Step(library, tuple(step.output for step in steps), link))
    facts = {"compiler": nvcc.version, "architectures": codes, "ptx": codes[-1]}
    return steps, facts
