"""What the Triton backends of all ops share: who may be served, on which card, and how a kernel is launched.

Nothing here imports triton at module level, so ``import fused_ops`` works, and stays quick, without it.
:func:`rehearse` runs a backend's host code without a device and keeps the launches it would have made: so the
compiler sees every kernel in exactly the configurations that calls use (``fused_ops/tuning/aot.py``).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from fused_ops.tuning.notes import is_listening, note

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST_CARD = (8, 0)
LEAST_SHARED_BYTES = 99 << 10  # what default.json's tiles may ask for
ALIGNMENT = 16  # bytes: Triton compiles anew for a tensor that does not begin at a multiple
MOST_STARTS = 64  # kept with a plan


@dataclass(frozen=True)
class Card:
    """What the choice of a launch needs to know of a GPU."""

    name: str
    capability: tuple[int, int]
    processors: int  # streaming multiprocessors
    shared_bytes: int  # the most that one program may ask for

    @property
    def architecture(self) -> str:
        return f"sm_{self.capability[0]}{self.capability[1]}"


# Compiled for, and tuned on paper, where no such card is at hand. The interpreter counts as the second.
CARDS = {
    card.architecture: card
    for card in (
        Card("NVIDIA A100", (8, 0), 108, 166_912),
        Card("NVIDIA H100", (9, 0), 132, 232_448),
        Card("NVIDIA B200", (10, 0), 148, 232_448),
    )
}


@dataclass(frozen=True)
class Planned:
    """One kernel launch but for its tensors, which come before ``sizes``, and their steps, which follow."""

    kernel: Any
    grid: tuple[int, ...]
    sizes: tuple[int | float, ...]
    constants: dict[str, Any]  # num_warps and num_stages among them
    started: dict[Any, Start] = field(default_factory=dict, compare=False, repr=False)


class Start(NamedTuple):
    """What starts a compiled kernel on its grid, and the compile-time arguments, which it takes as well."""

    kernel: Callable[..., None]
    constants: tuple[Any, ...]


@dataclass(frozen=True)
class Launch:
    """One kernel launch as a backend's host code asks for it."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


_NOTHING = contextlib.nullcontext()
_visible = False
_rehearsed: list[Launch] | None = None
_rehearsed_card: Card | None = None


@functools.cache
def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter (the variable must be set before triton is imported)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _why_no_triton() -> str | None:
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


@functools.cache
def card_of(device: torch.device) -> Card:
    """The card of a CUDA device; H100's numbers for any other device."""
    if device.type != "cuda":
        return CARDS["sm_90"]
    properties = torch.cuda.get_device_properties(device)
    return Card(
        properties.name,
        (properties.major, properties.minor),
        properties.multi_processor_count,
        getattr(properties, "shared_memory_per_block_optin", CARDS["sm_80"].shared_bytes),
    )


def card_for(device: torch.device) -> Card:
    """The card that will compute on tensors of this device."""
    return _rehearsed_card or card_of(device)


def why_not(*tensors: Tensor | None) -> str | None:
    """Why Triton kernels cannot serve tensors of this device and dtype, or None when they can."""
    if reason := _why_no_triton():
        return reason
    first = next(tensor for tensor in tensors if tensor is not None)
    if first.device.type == "cuda":
        card = card_of(first.device)
        if card.capability < OLDEST_CARD:
            oldest = ".".join(map(str, OLDEST_CARD))
            return f"it serves cards of compute capability {oldest} and later, this is {card.architecture}"
        if card.shared_bytes < LEAST_SHARED_BYTES:
            return (
                f"its tiles need {LEAST_SHARED_BYTES >> 10} KiB of shared memory, this card has "
                f"{card.shared_bytes >> 10} KiB for a program"
            )
    elif first.device.type != "cpu" or not interpreting():
        return f"the tensors are on {first.device}"
    elif first.dtype == torch.bfloat16:
        return "the interpreter computes bfloat16 wrongly"
    if first.dtype not in DTYPES:
        return f"it has no kernel for {first.dtype}"
    if any(tensor is not None and tensor.numel() == 0 for tensor in tensors):
        return "the tensors are empty"
    return None


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the tensor's device the current one, where it is not: Triton launches on the current device."""
    if _visible or not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return _NOTHING
    return torch.cuda.device(tensor.device)


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int, num_stages: int = 1, **constants: Any
) -> Any:
    """Start a kernel; ``constants`` are its compile-time arguments. Return it compiled, if it is."""
    settle_key(kernel)
    if _rehearsed is not None:
        _rehearsed.append(Launch(kernel, grid, args, constants, num_warps, num_stages))
        return None
    if is_listening():
        note(f"kernel {kernel.__name__}")
    if _visible:  # the compiler's own launches fuse multiply-add by default, and know no such option
        torch.library.wrap_triton(kernel)[grid](
            *args, **constants, num_warps=num_warps, num_stages=num_stages
        )
        return None
    return kernel[grid](
        *args, **constants, num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True
    )  # fused multiply-add: said so, since Triton 3.10 changes the default


def settle_key(function: Any) -> None:
    """Have Triton hash a kernel after all that it calls.

    Before Triton 3.8 a hash lacks the constants of functions that are hashed later, so that a kernel's key in
    the cache on disk depends on what was compiled before it: other processes did not find what was there.
    """
    if getattr(function, "hash", "") is not None:  # made, or of the interpreter's functions, which have none
        return
    for name in function.fn.__code__.co_names:
        called = function.fn.__globals__.get(name)
        if isinstance(called, type(function)):
            settle_key(called)
    function.cache_key  # noqa: B018  # made when it is asked for


def run(planned: Planned, *tensors: Tensor | None, after: tuple[int | float, ...] = ()) -> None:
    """Start a planned launch on these tensors; ``after`` follows its sizes.

    To find the compiled kernel Triton looks at every argument, which takes longer than all that leads here.
    What it found is kept with the plan for calls that it could not tell from this one.
    """
    watched = _visible or _rehearsed is not None or is_listening()
    alike = None if watched else _what_is_compiled_for(tensors, after)
    if alike is not None and (start := planned.started.get(alike)) is not None:
        start.kernel(*tensors, *planned.sizes, *after, *start.constants)
        return
    args = (*tensors, *planned.sizes, *after)
    compiled = launch(planned.kernel, planned.grid, *args, **planned.constants)
    if alike is not None and compiled is not None:
        if len(planned.started) >= MOST_STARTS:
            planned.started.clear()
        constants = tuple(planned.constants[name] for name in planned.kernel.arg_names[len(args) :])
        planned.started[alike] = Start(_starter(compiled, (*planned.grid, 1, 1)[:3]), constants)


def _starter(compiled: Any, grid: tuple[int, ...]) -> Callable[..., None]:
    """``compiled[grid]`` on the current device, but nothing made for hooks while there are none.

    These are a profiler's; what Triton makes for them at every launch takes as long as the launch itself.
    """
    from triton import knobs
    from triton.runtime.driver import driver

    through_hooks, runtime = compiled[grid], knobs.runtime
    before, after = runtime.launch_enter_hook, runtime.launch_exit_hook
    if not (hasattr(before, "calls") and hasattr(after, "calls")):  # Triton 3.5 and older
        return cast(Callable[..., None], through_hooks)
    start, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    stream_of, device = driver.active.get_current_stream, driver.active.get_current_device()

    def run(*args: Any) -> None:
        if before.calls or after.calls:
            through_hooks(*args)
        else:
            start(*grid, stream_of(device), function, metadata, None, None, None, *args)

    return run


def _what_is_compiled_for(
    tensors: tuple[Tensor | None, ...], after: tuple[int | float, ...]
) -> tuple[Any, ...] | None:
    """All that differs between calls of a plan and that Triton compiles for; None for odd addresses."""
    found: list[Any] = [tensors[0].get_device(), after]  # type: ignore[union-attr]  # no kernel's first is None
    for tensor in tensors:
        if tensor is None:
            found.append(None)
        elif tensor.data_ptr() % ALIGNMENT:
            return None
        else:
            found.append(tensor.dtype)
    return tuple(found)


def visibly(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The same backend's function with launches that torch.compile sees; None where it can see none."""
    if interpreting():  # the interpreter's kernels are plain Python
        return None

    def traced(*args: Any) -> Any:
        global _visible
        before, _visible = _visible, True
        try:
            return function(*args)
        finally:
            _visible = before

    return traced


def host_call(module: str, function: str, *args: Any) -> Any:
    """Call a function of one of the modules that import triton, which are imported only where they serve."""
    return getattr(_host_code(module), function)(*args)


@functools.cache
def _host_code(module: str) -> ModuleType:
    return importlib.import_module(f"fused_ops.{module}")


@contextlib.contextmanager
def rehearse(card: Card) -> Iterator[list[Launch]]:
    """Within the context kernels are noted, not started, as for this card; use it with tensors on "meta"."""
    global _rehearsed, _rehearsed_card
    if _rehearsed is not None:
        raise RuntimeError("rehearse is already active; it does not nest")
    _rehearsed, _rehearsed_card = [], card
    try:
        yield _rehearsed
    finally:
        _rehearsed, _rehearsed_card = None, None


def next_power_of_two(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()


def ceil_div(value: int, by: int) -> int:
    return -(-value // by)


def resident_programs(tiles: int, resident: int, processors: int, parts: int = 1) -> int:
    """The grid of a kernel whose programs go through many tiles: ``resident`` programs a processor at most.

    One for each of the ``parts`` that a tile's work has, as often as all of them run at once: one program
    more would start when the others have ended, and take as long as they.
    """
    return parts * min(tiles, max(1, resident * processors // parts))


def lay_out(tensor: Tensor, channels_last: bool, layout: torch.memory_format) -> tuple[Tensor, int]:
    """The tensor [N, C, *spatial] as kernels can address it, and its step; a copy where it lies otherwise.

    With channels last the channels of a pixel are adjacent and the step leads to the next pixel; else pixels
    are adjacent, then channels, and the step leads to the next sample.
    """
    step = step_of(tensor.shape, tensor.stride(), channels_last)
    if step is None:
        tensor = tensor.contiguous(memory_format=layout)
        step = step_of(tensor.shape, tensor.stride(), channels_last)
        assert step is not None
    return tensor, step


@functools.lru_cache(maxsize=4096)
def step_of(sizes: tuple[int, ...], strides: tuple[int, ...], channels_last: bool) -> int | None:
    """The step of :func:`lay_out`, of a tensor's sizes and strides, or None where it lies otherwise."""
    if channels_last:
        if sizes[1] > 1 and strides[1] != 1:
            return None
        order = [*range(len(sizes) - 1, 1, -1), 0]  # from the innermost to the outermost
        step = expected = next((strides[dim] for dim in order if sizes[dim] > 1), sizes[1])
    else:
        order, expected = [*range(len(sizes) - 1, 0, -1)], 1
        step = strides[0] if sizes[0] > 1 else math.prod(sizes[1:])
    for dim in order:
        if sizes[dim] > 1 and strides[dim] != expected:
            return None
        expected *= sizes[dim]
    return step
