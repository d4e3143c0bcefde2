"""Loading the native libraries, and the reasons when that fails."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fused_ops import backends, native

Record = Callable[..., None]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """Pretends that the folder of libraries holds a given build.json."""
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.delenv("FUSED_OPS_NATIVE", raising=False)
    caches = (native._load, native.build_record, native.why_not_card)

    def clear() -> None:
        for cache in caches:
            cache.cache_clear()

    def write(**changes: Any) -> None:
        content = {
            "platform": f"{sys.platform}-{platform.machine()}",
            "torch_target": "2.10",
            "cpu": {"built": True, "library": "libfused_ops_cpu.so", "reason": ""},
            "cuda": {"built": True, "library": "libfused_ops_cuda.so", "reason": ""},
        }
        (tmp_path / "build.json").write_text(json.dumps({**content, **changes}))
        clear()

    clear()
    yield write
    clear()


def test_not_installed(record: Record) -> None:
    assert native.cpu_library() == native.Status(
        False,
        "the native CPU library was never built: the package runs from a source tree that was not installed",
    )


def test_not_built(record: Record) -> None:
    record(cpu={"built": False, "reason": "no working C++20 compiler (looked for g++)\nmore lines"})
    assert native.cpu_library().reason == (
        "the native CPU library was not built: no working C++20 compiler (looked for g++)"
    )


def test_switched_off(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    record()
    monkeypatch.setenv("FUSED_OPS_NATIVE", "0")
    assert native.cpu_library().reason == "the native CPU library is switched off by FUSED_OPS_NATIVE=0"


def test_a_switch_that_is_not_understood(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    record()
    unset = native.cpu_library().reason
    monkeypatch.setenv("FUSED_OPS_NATIVE", "1")
    record()
    assert native.cpu_library().reason == unset
    record()
    monkeypatch.setenv("FUSED_OPS_NATIVE", "off")
    assert native.cpu_library().reason == (
        "the native CPU library is not loaded: FUSED_OPS_NATIVE=off is not understood; allowed are 0 and 1"
    )


def test_other_platform(record: Record) -> None:
    record(platform="linux-m68k")
    assert "was built for linux-m68k; this is " in native.cpu_library().reason


def test_older_torch(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    record()
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1+cpu"))
    reason = native.cpu_library().reason
    assert reason.endswith("was built for torch 2.10 and later; this is torch 2.9.1+cpu")


def test_library_that_does_not_load(record: Record, tmp_path: Path) -> None:
    record()
    (tmp_path / "libfused_ops_cpu.so").write_text("no library")
    status = native.cpu_library()
    assert not status.loaded
    assert status.reason.startswith("the native CPU library failed to load: ")
    assert "file too short" in status.reason or "invalid ELF header" in status.reason
    assert "\n" not in status.reason


def test_cuda_library_is_not_tried_without_cuda(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    record()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "needs a torch with CUDA; this is torch " in native.cuda_library().reason
    assert native.why_not_card(0) == native.cuda_library().reason


@pytest.mark.parametrize(
    ("capability", "served"),
    [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 3), True), ((12, 0), True)],
)
def test_cards(capability: tuple[int, int], served: bool) -> None:
    reason = native.why_not_capability(capability, {"architectures": [80, 90, 100], "ptx": 100})
    if served:
        assert reason is None
    else:
        assert reason == "the CUDA library was built for sm_80, sm_90, sm_100; this card is sm_75"


BY_CUDA_13 = {
    "architectures": [80, 90, 100], "ptx": 100, "compiler": "Cuda compilation tools, release 13.1, V13.1.9",
}  # fmt: skip


@pytest.mark.parametrize(
    ("capability", "driver", "served"),
    [
        ((9, 0), (13, 1), True),
        ((9, 0), (14, 0), True),
        ((9, 0), (13, 0), True),  # machine code of the same major version
        ((9, 0), (12, 8), False),
        ((12, 0), (13, 1), True),
        ((12, 0), (13, 0), False),  # PTX that is newer than the driver
        ((9, 0), None, True),
    ],
)
def test_drivers(capability: tuple[int, int], driver: tuple[int, int] | None, served: bool) -> None:
    reason = native.why_not_driver(capability, BY_CUDA_13, driver)
    if served:
        assert reason is None
    else:
        assert driver is not None and reason == (
            f"the CUDA library was built by CUDA 13.1; this driver serves CUDA up to {driver[0]}.{driver[1]}"
        )
    assert native.why_not_driver(capability, {**BY_CUDA_13, "compiler": "unknown version"}, driver) is None


@pytest.mark.parametrize(("answer", "found"), [(12080, (12, 8)), (13000, (13, 0)), (None, None)])
def test_the_driver_is_asked(
    answer: int | None, found: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_version(to: Any) -> int:
        to._obj.value = answer
        return 0

    def load(name: str) -> Any:
        if answer is None:
            raise OSError(f"{name}: cannot open shared object file")
        return SimpleNamespace(cuDriverGetVersion=get_version)

    monkeypatch.setattr(native.ctypes, "CDLL", load)
    native.driver_cuda.cache_clear()
    assert native.driver_cuda() == found
    native.driver_cuda.cache_clear()


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (
            native.Status(False, "the native CUDA library was not built: there is no nvcc"),
            "the native CUDA library was not built: there is no nvcc",
        ),
        (
            native.Status(True, build={"architectures": [80, 90, 100], "ptx": 100}),
            "the CUDA library was built for sm_80, sm_90, sm_100; this card is sm_75",
        ),
        (
            native.Status(True, build={**BY_CUDA_13, "architectures": [75]}),
            "the CUDA library was built by CUDA 13.1; this driver serves CUDA up to 12.8",
        ),
    ],
    ids=["no library", "older card", "older driver"],
)
def test_a_wish_for_cuda_that_cannot_be_met_raises_one_line(
    library: native.Status, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "cuda_library", lambda: library)
    monkeypatch.setattr(native, "driver_cuda", lambda: (12, 8))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(backends, "_implementations", {})
    native.why_not_card.cache_clear()
    backends.register("toy", "cuda", lambda x: "cuda", native.why_not_cuda)
    backends.register("toy", "reference", lambda x: "reference")
    on_card = SimpleNamespace(
        is_cuda=True, device=torch.device("cuda", 0), dtype=torch.float32, numel=lambda: 1
    )
    with backends.use("cuda"), pytest.raises(RuntimeError) as caught:
        backends.compute("toy", on_card)
    assert str(caught.value) == (
        f"fused_ops.toy: the backend 'cuda' was asked for and cannot serve this call: {reason}"
    )
    assert backends.compute("toy", on_card) == "reference"
    native.why_not_card.cache_clear()
