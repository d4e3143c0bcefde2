"""FERSNet as programs that run without this package: for PyTorch (pt2) and as ONNX.

A program does one thing: ``recognition`` takes images float32 ``[batch, C, H, W]`` in [0, 1] to logits
``[batch, E]``; ``synthesis`` takes images and expression codes float32 ``[batch, E]`` (one-hot, or between
two expressions) to redrawn images, which are not bounded. Any batch size; the images' size is fixed.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fer_mtl.models.fersnet import FERSNet
from fused_ops import decompositions

TOLERANCE = 1e-4
"""How far a program's results may lie from the network's, next to the largest of these: float32 sums in
another order, layer upon layer, and no more."""


class Part(nn.Module):
    """One of the things that a network does."""

    name: str
    inputs: tuple[str, ...]
    output: str

    def __init__(self, model: FERSNet) -> None:
        super().__init__()
        self.model = model

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Random inputs, the same for the same ``batch``."""
        random, config = torch.Generator().manual_seed(batch), self.model.config
        image = torch.rand(batch, config["in_channels"], *[config["image_size"]] * 2, generator=random)
        code = torch.rand(batch, config["num_expressions"], generator=random)
        return tuple({"image": image, "expression": code}[name] for name in self.inputs)


class Recognition(Part):
    name, inputs, output = "recognition", ("image",), "logits"

    def __init__(self, model: FERSNet) -> None:
        recogniser = copy.deepcopy(model)
        if model.decoder is not None:  # an exported program would carry its weights, which it never reads
            recogniser.register_module("decoder", nn.Identity())
        super().__init__(recogniser)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image)["logits"]
        return logits


class Synthesis(Part):
    name, inputs, output = "synthesis", ("image", "expression"), "redrawn"

    def forward(self, image: Tensor, expression: Tensor) -> Tensor:
        return self.model.synthesize(image, expression)


@dataclass(frozen=True)
class Program:
    """A part of a network in plain PyTorch, as a graph."""

    part: Part
    exported: ExportedProgram


def programs(model: FERSNet) -> list[Program]:
    """What a network in evaluation mode on the CPU can do."""
    parts = [Recognition(model), Synthesis(model)] if model.config["synthesis"] else [Recognition(model)]
    return [Program(part, _exported(part)) for part in parts]


def write_pt2(program: Program, path: Path, facts: Mapping[str, str]) -> None:
    """For ``torch.export.load(path).module()``, wherever PyTorch is. Raises RuntimeError where the program
    does not compute what the network does."""
    check(program.part, program.exported.module())
    buffer = io.BytesIO()  # where torch writes files itself, a full disk ends the whole process (2.13)
    torch.export.save(
        program.exported, buffer, extra_files={f"{key}.txt": text for key, text in facts.items()}
    )
    path.write_bytes(buffer.getvalue())


def write_onnx(program: Program, path: Path, facts: Mapping[str, str]) -> None:
    """As ONNX, opset 18. Raises ModuleNotFoundError without onnx, onnxscript and onnxruntime, RuntimeError
    where the program does not compute what the network does."""
    import onnxruntime

    with _quiet():
        made = torch.onnx.export(
            program.exported,
            input_names=list(program.part.inputs),
            output_names=[program.part.output],
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    assert made is not None  # for type checkers: only the old exporter returns nothing
    made.model.metadata_props.update(facts)
    made.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        named = {name: value.numpy() for name, value in zip(program.part.inputs, inputs, strict=True)}
        return torch.from_numpy(session.run([program.part.output], named)[0])

    check(program.part, run)


def check(part: Part, run: Callable[..., Tensor]) -> None:
    """RuntimeError where ``run`` gives other results than the network, for one image and for several."""
    for batch in (1, 3):
        inputs = part.example(batch)
        with torch.no_grad():
            expected, found = part(*inputs), run(*inputs)
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error <= TOLERANCE:
            raise RuntimeError(
                f"{part.name}: the exported program differs from the network by {error:.1e} of its "
                f"largest result; at most {TOLERANCE:.0e} is rounding"
            )


def _exported(part: Part) -> ExportedProgram:
    batch = torch.export.Dim("batch")
    dynamic = tuple({0: batch} for _ in part.inputs)
    with torch.no_grad(), _quiet():
        exported = torch.export.export(part, part.example(2), dynamic_shapes=dynamic)
        exported = exported.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source files, with the folders of whoever exports
    return exported


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of packages we do not use and of their own code."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)
