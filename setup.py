"""The only part of the package that pyproject.toml cannot say: how the native libraries are built."""

from setuptools import setup

from build_support.commands import COMMANDS

setup(cmdclass=COMMANDS)
