"""The setuptools commands that put the native libraries into a wheel or, if editable, the source tree."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from setuptools import Command
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

from . import native_build

ROOT = Path(__file__).resolve().parent.parent
_LIB = "fused_ops/lib"


class BuildNative(Command):
    """Build the native libraries: a sub-command of `build`."""

    description = "build the native libraries of csrc/"
    user_options: ClassVar[list[tuple[str, str, str]]] = []
    editable_mode = False  # set by setuptools
    build_lib: str | None

    def initialize_options(self) -> None:
        self.build_lib = None
        self.outputs: list[str] = []

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        base = ROOT if self.editable_mode else Path(self.build_lib or "")
        files = native_build.build(ROOT, base / _LIB, self.distribution.get_version())
        self.outputs = [str(path) for path in files]

    def get_source_files(self) -> list[str]:
        return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*") if path.is_file())

    def get_outputs(self) -> list[str]:
        return self.outputs

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """The stock build, with the native libraries and without leftovers of earlier builds."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_native", None)]

    def run(self) -> None:
        for package in self.distribution.packages or []:
            shutil.rmtree(Path(self.build_lib, package), ignore_errors=True)
        super().run()


class BdistWheel(bdist_wheel):
    """A wheel with native libraries fits any Python 3 of its platform: they use no Python symbol."""

    def run(self) -> None:
        self.run_command("build")  # first: whether natives were built decides the tag
        self.root_is_pure = not self._has_natives()
        self.distribution.has_ext_modules = self._has_natives
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return (
            ("py3", "none", platform if self._has_natives() else "any") if python else (python, abi, platform)
        )

    def _has_natives(self) -> bool:
        outputs = self.get_finalized_command("build_native").get_outputs()
        return any(path.endswith(".so") for path in outputs)


COMMANDS: dict[str, type[Command]] = {"bdist_wheel": BdistWheel, "build": Build, "build_native": BuildNative}
