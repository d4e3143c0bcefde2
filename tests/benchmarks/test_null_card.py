"""The card that computes nothing: what it refuses, as a real one does, asked without torch."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import null_card
from benchmarks.null_card import __main__ as command
from build_support import toolchain

UNSUPPORTED, INVALIDATED, IMPLICIT, BAD_LAUNCH = 900, 901, 906, 9  # CUDA's numbers
GLOBAL, RELAXED, NON_BLOCKING = 0, 2, 1


class Dim(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in "xyz"]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    try:
        nvcc, cxx = toolchain.find_nvcc().command, toolchain.find_cxx().command
    except toolchain.Missing as error:
        pytest.skip(str(error))
    library = tmp_path_factory.mktemp("card") / "card.so"
    source = Path(null_card.__file__).parent / "card.cpp"
    flags = ["-ccbin", cxx[0], "-cudart=none", "-std=c++20", "-shared", "-Xcompiler", "-fPIC,-w"]
    flags += ["-Xlinker", "-Bsymbolic"]  # a torch for CUDA has the real runtime in this process
    subprocess.run([*nvcc, *flags, str(source), "-o", str(library)], check=True)
    found = ctypes.CDLL(str(library))
    found.cudaLaunchKernel.argtypes = [
        ctypes.c_void_p, Dim, Dim, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
    ]  # fmt: skip
    return found


@pytest.fixture
def stream(card: ctypes.CDLL) -> Iterator[ctypes.c_void_p]:
    made = ctypes.c_void_p()
    assert card.cudaStreamCreateWithFlags(ctypes.byref(made), NON_BLOCKING) == 0
    yield made
    card.cudaStreamEndCapture(made, ctypes.byref(ctypes.c_void_p()))


def launch(card: ctypes.CDLL, grid: int, threads: int, shared: int, stream: ctypes.c_void_p | None) -> int:
    return int(card.cudaLaunchKernel(None, Dim(grid, 1, 1), Dim(threads, 1, 1), None, shared, stream))


def end(card: ctypes.CDLL, stream: ctypes.c_void_p) -> tuple[int, int]:
    """The capture's end: its status, and the nodes of the graph."""
    graph, count = ctypes.c_void_p(), ctypes.c_size_t()
    status = card.cudaStreamEndCapture(stream, ctypes.byref(graph))
    if not status:
        card.cudaGraphGetNodes(graph, None, ctypes.byref(count))
    return int(status), count.value


def test_launches_keep_the_limits(card: ctypes.CDLL) -> None:
    assert launch(card, 1, 1024, 232_448, None) == 0
    for grid, threads, shared in ((0, 32, 0), (1, 1025, 0), (1, 32, 232_449)):
        assert launch(card, grid, threads, shared, None) == BAD_LAUNCH


def test_a_capture_holds_launches(card: ctypes.CDLL, stream: ctypes.c_void_p) -> None:
    assert card.cudaStreamBeginCapture(stream, GLOBAL) == 0
    for _ in range(3):
        assert launch(card, 1, 32, 0, stream) == 0
    launch(card, 1, 32, 0, None)  # on another stream
    assert end(card, stream) == (0, 3)


@pytest.mark.parametrize("name", ["cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaMalloc", "pageable"])
def test_what_waits_or_allocates_breaks_a_capture(
    name: str, card: ctypes.CDLL, stream: ctypes.c_void_p
) -> None:
    assert card.cudaStreamBeginCapture(stream, GLOBAL) == 0
    place, room = ctypes.c_void_p(), ctypes.create_string_buffer(8)
    status = {
        "cudaDeviceSynchronize": lambda: card.cudaDeviceSynchronize(),
        "cudaStreamSynchronize": lambda: card.cudaStreamSynchronize(stream),
        "cudaMalloc": lambda: card.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(64)),
        "pageable": lambda: card.cudaMemcpyAsync(room, room, ctypes.c_size_t(8), 4, stream),
    }[name]()
    assert status == UNSUPPORTED
    assert end(card, stream)[0] == INVALIDATED


def test_a_thread_may_say_that_its_memory_is_none_of_the_capture(
    card: ctypes.CDLL, stream: ctypes.c_void_p
) -> None:
    assert card.cudaStreamBeginCapture(stream, GLOBAL) == 0
    mode, place = ctypes.c_int(RELAXED), ctypes.c_void_p()
    card.cudaThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    assert card.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(64)) == 0
    card.cudaThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    assert end(card, stream) == (0, 0)
    assert card.cudaFree(place) == 0


def test_streams_join_a_capture_by_its_events_but_not_the_legacy_one(
    card: ctypes.CDLL, stream: ctypes.c_void_p
) -> None:
    other, event = ctypes.c_void_p(), ctypes.c_void_p()
    card.cudaStreamCreateWithFlags(ctypes.byref(other), NON_BLOCKING)
    card.cudaEventCreate(ctypes.byref(event))
    for legacy in (False, True):
        assert card.cudaStreamBeginCapture(stream, GLOBAL) == 0
        card.cudaEventRecord(event, stream)
        joined = card.cudaStreamWaitEvent(None if legacy else other, event, 0)
        assert joined == (IMPLICIT if legacy else 0)
        launch(card, 1, 32, 0, other)
        assert end(card, stream) == ((INVALIDATED, 0) if legacy else (0, 1))


def test_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    if (torch.version.cuda or "").startswith("13"):
        pytest.skip("torch is built for CUDA 13")
    assert command.main(["true"]) == 2
    assert "null_card: it needs torch built for CUDA 13; " in capsys.readouterr().err
    assert command.main([]) == 2
