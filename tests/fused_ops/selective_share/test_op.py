"""The op on every backend: values, gradients, layouts, what it keeps, and its manners within torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fused_ops
from fer_mtl.evaluation.stock import to_stock
from fused_ops import FusedSelectiveShare, native, use
from fused_ops.selective_share import reference
from tests.numerics import assert_as_accurate_as_eager, error_in_roundings, saved_bytes

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = [  # x channels, y channels, images, height, width
    (16, 16, 2, 9, 7),
    (1, 1, 1, 1, 1),
    (3, 2, 3, 1, 1),
    (7, 31, 2, 5, 3),
    (64, 32, 2, 24, 23),
    (33, 17, 1, 12, 12), (20, 12, 1, 14, 14), (9, 24, 1, 7, 7),  # tiles of 5, 7 and 2 vectors on AVX-512
    (160, 192, 2, 9, 5),  # weights so large that their gradients are made at the end
    (161, 163, 1, 7, 9),
    (160, 192, 1, 41, 79),  # and so many pixels that they are made in several passes
]  # fmt: skip
WHOLE_LINES = [  # or nearly so
    (32, 96, 1, 1, 1), (64, 32, 3, 11, 7), (192, 160, 2, 7, 5), (16, 48, 2, 31, 37), (256, 32, 1, 9, 29),
    (90, 61, 3, 11, 7), (30, 250, 2, 1, 1),  # in bfloat16 filled up to multiples of 32
]  # fmt: skip


def unit(target: int, source: int, kernel: int = 1) -> list[Tensor]:
    shapes = ((source, target + source), (target, source), (target, target), (target, target + source))
    scale = (target + source) ** -0.5 / kernel
    return [torch.randn(*shape, kernel, kernel) * scale for shape in shapes]


def pair(cx: int, cy: int, images: int, height: int, width: int, kernel: int = 1) -> list[Tensor]:
    """x, y and the eight weights."""
    features = [torch.randn(images, c, height, width) for c in (cx, cy)]
    return [*features, *unit(cx, cy, kernel), *unit(cy, cx, kernel)]


def detached(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach() for tensor in tensors]


def everything(tensors: Sequence[Tensor], backend: str, convention: str, recompute: bool) -> list[Tensor]:
    """Outputs, gates, and all gradients of a loss that depends on each of them."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with use(backend):
        x_out, y_out, gates = fused_ops.selective_share(
            *leaves[:2],
            leaves[2:6],
            leaves[6:],
            convention=convention,
            recompute=recompute,
            return_gates=True,
        )
        outputs = [x_out, y_out, *gates.x_from_y, *gates.y_from_x]
        generator = torch.Generator().manual_seed(1)
        grads = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
        return detached([*outputs, *torch.autograd.grad(outputs, leaves, grads)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_as_accurate_as_eagers(
    shape: tuple[int, ...], memory_format: str, dtype: torch.dtype, backend: str
) -> None:
    convention, recompute = ("keep", True) if shape[0] % 2 else ("accept", False)
    tensors = [tensor.to(dtype) for tensor in pair(*shape)]
    tensors[:2] = [tensor.contiguous(memory_format=FORMATS[memory_format]) for tensor in tensors[:2]]
    exact = everything([tensor.double() for tensor in tensors], "reference", convention, recompute)
    eager = eager_everything(tensors, convention)
    ours = everything(tensors, backend, convention, recompute)
    if dtype == torch.float64:
        torch.testing.assert_close(ours, exact)
    else:
        assert_as_accurate_as_eager(ours, eager, exact)
    assert ours[0].is_contiguous(memory_format=FORMATS[memory_format])
    assert ours[1].is_contiguous(memory_format=FORMATS[memory_format])


def eager_everything(tensors: Sequence[Tensor], convention: str) -> list[Tensor]:
    """What autograd makes of the plain formula."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    x, y, *weights = leaves
    x_out, h_x, r_x, z_x = reference.conv_flu(x, y, weights[:4], convention == "keep")
    y_out, h_y, r_y, z_y = reference.conv_flu(y, x, weights[4:], convention == "keep")
    outputs = [x_out, y_out, r_x, h_x, z_x, r_y, h_y, z_y]
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
    return detached([*outputs, *torch.autograd.grad(outputs, leaves, grads)])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("convention", ["accept", "keep"])
def test_first_and_second_derivatives(convention: str, recompute: bool, backend: str) -> None:
    tensors = [tensor.double().requires_grad_() for tensor in pair(3, 2, 1, 2, 2)]

    def call(x: Tensor, y: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        x_out, y_out, gates = fused_ops.selective_share(
            x, y, weights[:4], weights[4:], convention=convention, recompute=recompute, return_gates=True
        )
        return x_out, y_out, *gates.x_from_y, *gates.y_from_x

    with use(backend):
        assert torch.autograd.gradcheck(call, tensors)
        if not recompute:
            assert torch.autograd.gradgradcheck(call, tensors)


def test_a_single_unit_is_one_direction_of_the_pair(backend: str) -> None:
    x, y, *weights = pair(5, 3, 2, 4, 4)
    leaves = [tensor.requires_grad_() for tensor in (x, y, *weights[:4])]
    with use(backend):
        both, _, gates = fused_ops.selective_share(x, y, weights[:4], weights[4:], return_gates=True)
        one, one_gates = fused_ops.conv_flu(x, y, weights[:4], return_gates=True)
        grad = torch.randn_like(x)
        expected = torch.autograd.grad(both, leaves, grad)
        found = torch.autograd.grad(one, leaves, grad)
    torch.testing.assert_close(one, both)
    for our, their in zip(one_gates, gates.x_from_y, strict=True):
        torch.testing.assert_close(our, their)
    for our, their in zip(found, expected, strict=True):
        torch.testing.assert_close(our, their)


def test_the_conventions_are_one_function_under_a_flipped_update_gate(backend: str) -> None:
    x, y, *weights = pair(4, 4, 2, 3, 3)
    flipped = [-w if index % 4 == 3 else w for index, w in enumerate(weights)]
    with use(backend):
        accept = fused_ops.selective_share(x, y, weights[:4], weights[4:], convention="accept")
        keep = fused_ops.selective_share(x, y, flipped[:4], flipped[4:], convention="keep")
    torch.testing.assert_close(accept, keep)


@pytest.mark.parametrize("kernel", [3, (1, 5)])
def test_larger_kernels_go_through_the_reference(kernel: int | tuple[int, int]) -> None:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    x, y, *_ = pair(3, 2, 2, 6, 5)

    def weights(t: int, s: int) -> list[Tensor]:
        return [torch.randn(o, i, height, width) for o, i in ((s, t + s), (t, s), (t, t), (t, t + s))]

    x_weights, y_weights = weights(3, 2), weights(2, 3)
    result = fused_ops.selective_share(x, y, x_weights, y_weights)
    torch.testing.assert_close(result, reference.forward(x, y, *x_weights, *y_weights, False)[:2])
    decision = fused_ops.explain(fused_ops.selective_share, x, y, x_weights, y_weights)[0]
    assert decision.backend == "reference"


def strided(tensor: Tensor) -> Tensor:
    """The same values, every second element of a larger memory that starts at an offset."""
    room = torch.full((*tensor.shape[:-1], tensor.shape[-1] * 2 + 1), float("nan"))
    room[..., 1::2] = tensor
    return room[..., 1::2]


def test_views_mixed_layouts_and_strided_weights(backend: str) -> None:
    tensors = pair(6, 4, 2, 5, 3)
    expected = everything(tensors, "reference", "accept", False)
    permuted = [tensor.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) for tensor in tensors]
    mixed = [tensors[0], tensors[1].contiguous(memory_format=torch.channels_last), *tensors[2:]]
    for variant in (permuted, mixed, [strided(tensor) for tensor in tensors]):
        for our, their in zip(everything(variant, backend, "accept", False), expected, strict=True):
            torch.testing.assert_close(our, their)


def test_an_empty_batch_gives_an_empty_result_and_zero_gradients() -> None:
    for result in everything(pair(4, 4, 0, 3, 3), "auto", "accept", False):
        assert result.numel() == 0 or not result.any()


@pytest.mark.parametrize("used", [0, 1])
def test_unused_outputs_and_frozen_inputs(used: int, backend: str) -> None:
    """A unit of which nothing comes gets no gradient, as if it were not there: zeros would let it decay."""
    x, y, *weights = pair(4, 3, 2, 3, 3)
    for weight in weights:
        weight.requires_grad_()
    with use(backend):
        output = fused_ops.selective_share(x, y, weights[:4], weights[4:])[used]
        grads = torch.autograd.grad(output.sum(), weights, allow_unused=True)
    expected = reference.forward(x, y, *weights, False)[used]
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), weights, allow_unused=True))
    assert [grad is None for grad in grads] == [used == 1] * 4 + [used == 0] * 4


@pytest.mark.parametrize(("recompute", "elements"), [(False, 8), (True, 2)])
def test_what_is_kept_for_the_backward(recompute: bool, elements: int, backend: str) -> None:
    c, pixels = 8, 2 * 6 * 6
    tensors = [tensor.requires_grad_() for tensor in pair(c, c, 2, 6, 6)]
    with use(backend):
        kept = saved_bytes(
            lambda: fused_ops.selective_share(*tensors[:2], tensors[2:6], tensors[6:], recompute=recompute),
            ignore=tensors[2:],
        )
    assert kept == elements * c * pixels * 4


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    tensors = pair(16, 16, 3, 33, 31)
    expected = everything(tensors, "auto", "accept", False)
    torch.set_num_threads(1)
    for our, their in zip(everything(tensors, "auto", "accept", False), expected, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-4)


def test_what_lies_in_memory_beforehand_does_not_matter(backend: str) -> None:
    """On one thread, where torch's bfloat16 products were seen to read beyond the rows of a view."""
    torch.set_num_threads(1)
    for recompute in (False, True):
        for memory_format in FORMATS.values():
            tensors = [tensor.bfloat16() for tensor in pair(7, 31, 2, 5, 3)]
            tensors[:2] = [tensor.contiguous(memory_format=memory_format) for tensor in tensors[:2]]
            for size in (1000, 3000, 5000, 10000):  # freed at once: what the next call finds
                torch.full((size,), float("nan"), dtype=torch.bfloat16)
            assert all(result.isfinite().all() for result in everything(tensors, backend, "keep", recompute))


def test_the_same_call_gives_the_same_bits(backend: str) -> None:
    tensors = pair(16, 24, 2, 40, 40)
    first, second = (everything(tensors, backend, "accept", False) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@settings(max_examples=25, deadline=None)
@given(
    cx=st.integers(1, 40), cy=st.integers(1, 40), images=st.integers(1, 3), height=st.integers(1, 9),
    width=st.integers(1, 9), channels_last=st.booleans(), recompute=st.booleans(),
    convention=st.sampled_from(["accept", "keep"]),
)  # fmt: skip
def test_any_shape_agrees_with_the_reference(
    cx: int,
    cy: int,
    images: int,
    height: int,
    width: int,
    channels_last: bool,
    recompute: bool,
    convention: str,
) -> None:
    tensors = [tensor.double() for tensor in pair(cx, cy, images, height, width)]
    if channels_last:
        tensors[:2] = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors[:2]]
    ours = everything(tensors, "auto", convention, recompute)
    for our, their in zip(ours, everything(tensors, "reference", convention, recompute), strict=True):
        torch.testing.assert_close(our, their)


# --- manners within torch -----------------------------------------------------------------------------------


def test_opcheck(backend: str) -> None:
    op = torch.ops.fused_ops.selective_share.default
    tensors = [tensor.requires_grad_() for tensor in pair(3, 2, 2, 4, 5)]
    last = [tensor.detach().contiguous(memory_format=torch.channels_last) for tensor in tensors[:2]]
    with use(backend):
        torch.library.opcheck(op, (*tensors, False, True, True))
        torch.library.opcheck(op, (*last, *tensors[2:], True, False, False))
        torch.library.opcheck(op, (*tensors[:6], None, None, None, None, False, True, True))
        x, y, *weights = (tensor.detach() for tensor in tensors)
        gates = reference.forward(x, y, *weights, False)[2]
        torch.library.opcheck(
            torch.ops.fused_ops.selective_share_backward.default,
            (torch.randn_like(x), torch.randn_like(y), None, x, y, gates, *weights, False),
        )


def share(x: Tensor, y: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    return fused_ops.selective_share(x, y, weights[:4], weights[4:])  # type: ignore[return-value]


def test_compile_without_graph_breaks(backend: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in pair(4, 3, 2, 5, 5)]
    torch._dynamo.reset()
    compiled = torch.compile(share, fullgraph=True)
    with use(backend):
        expected = share(*tensors)
        found = compiled(*tensors)
        torch.testing.assert_close(found, expected)
        grads = torch.autograd.grad(sum(o.sum() for o in found), tensors)
        for our, their in zip(
            grads, torch.autograd.grad(sum(o.sum() for o in expected), tensors), strict=True
        ):
            torch.testing.assert_close(our, their)


def test_vmap_over_the_backward(backend: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in pair(4, 3, 2, 3, 3)]
    with use(backend):
        both = torch.cat(share(*tensors), dim=1)
        grads = torch.randn(3, *both.shape)
        batched = torch.autograd.grad(both, tensors, grads, is_grads_batched=True, retain_graph=True)
        for index, grad in enumerate(grads):
            for all_of_them, one in zip(
                batched, torch.autograd.grad(both, tensors, grad, retain_graph=True), strict=True
            ):
                torch.testing.assert_close(all_of_them[index], one)


def test_float16_is_served_by_the_reference() -> None:
    tensors = [tensor.half() for tensor in pair(4, 4, 1, 3, 3)]
    assert share(*tensors)[0].dtype == torch.float16


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16"])
def test_the_plainer_instruction_sets_agree(isa: str) -> None:
    """In a process of its own, since the choice is made once; the best set is tested above."""
    if not native.cpu_library().loaded:
        pytest.skip(native.cpu_library().reason)
    code = """if True:
        import torch
        from tests.fused_ops.selective_share import test_op
        torch.manual_seed(0)
        dtypes = (torch.float32, torch.bfloat16, torch.float64)
        shapes = [(shape, dtype) for shape in test_op.SHAPES for dtype in dtypes]
        shapes += [(shape, torch.bfloat16) for shape in test_op.WHOLE_LINES]
        for shape, dtype in shapes:
            for layout in test_op.FORMATS.values():
                tensors = [tensor.to(dtype) for tensor in test_op.pair(*shape)]
                tensors[:2] = [tensor.contiguous(memory_format=layout) for tensor in tensors[:2]]
                ours = test_op.everything(tensors, "cpu", "accept", True)
                exact = test_op.everything([t.double() for t in tensors], "reference", "accept", True)
                eager = test_op.eager_everything(tensors, "accept")
                if dtype == torch.float64:
                    torch.testing.assert_close(ours, exact)
                else:
                    test_op.assert_as_accurate_as_eager(ours, eager, exact)
    """
    environment = {**os.environ, "FUSED_OPS_CPU_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not native.cpu_library().loaded, reason=native.cpu_library().reason or "not loaded")
def test_gradients_of_weights_are_on_average_as_accurate_as_eagers() -> None:
    """Sums over pixels are taken in short parts; one long one would be off by 1.4 times as much."""

    def gradients(module: torch.nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sum((y * y).sum() for y in module(*inputs)), list(module.parameters()))

    ours, eager = 0.0, 0.0
    for seed in range(12):
        torch.manual_seed(seed)
        share, inputs = FusedSelectiveShare(32, 24), [torch.randn(2, channels, 8, 5) for channels in (32, 24)]
        stock = to_stock(share)
        with use("cpu"):
            found = gradients(share, inputs)
        theirs = gradients(stock, inputs)
        exact = gradients(stock.double(), [x.double() for x in inputs])
        ours += sum(error_in_roundings(one, true) for one, true in zip(found, exact, strict=True))
        eager += sum(error_in_roundings(one, true) for one, true in zip(theirs, exact, strict=True))
    assert ours < 1.25 * eager


def test_the_decomposed_op_takes_all_sizes_that_it_was_exported_for() -> None:
    """Few pixels are computed in another way, which a graph of open sizes may not ask for."""
    layer, x = FusedSelectiveShare(4), torch.randn(2, 4, 12, 12)
    open_sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h")}
    exported = torch.export.export(layer, (x, x), dynamic_shapes=(open_sizes, open_sizes))
    table = {**torch.export.default_decompositions(), **fused_ops.decompositions()}
    plain = exported.run_decompositions(table).module()
    for images, height in ((1, 1), (3, 40)):
        x = torch.randn(images, 4, height, 12)
        torch.testing.assert_close(plain(x, x), layer(x, x))


def check_operands_are_checked(library: object) -> None:
    """Called without the functional twin, each operand in turn of a wrong dtype and size; without pixels."""
    x, y, *weights = pair(4, 3, 2, 4, 5)
    gates = reference.forward(x, y, *weights, False)[2]
    names = ["W_r_x", "W_x", "U_x", "W_z_x", "W_r_y", "W_y", "U_y", "W_z_y"]
    forward = {"x": x, "y": y, **dict(zip(names, weights, strict=True))}
    backward = {"grad_x_out": x, "grad_y_out": y, "grad_gates": gates, "x": x, "y": y, "gates": gates}
    calls = (
        (library.selective_share, forward, (False, True)),  # type: ignore[attr-defined]
        (library.selective_share_backward, {**backward, **forward}, (False,)),  # type: ignore[attr-defined]
    )
    for op, tensors, rest in calls:
        op(*tensors.values(), *rest)
        for name in set(tensors) - {"x"}:
            for wrong, message in ((tensors[name].bfloat16(), "x's dtype"), (tensors[name][:1], "shape")):
                with pytest.raises(RuntimeError, match=rf"selective_share: {name} must have {message}"):
                    op(*{**tensors, name: wrong}.values(), *rest)
        with pytest.raises(RuntimeError, match="x and y must not be empty"):  # they divided by nothing
            op(*{**tensors, "x": x[:0], "y": y[:0]}.values(), *rest)
        with pytest.raises(RuntimeError, match="W_y is missing"):
            op(*{**tensors, "W_y": None}.values(), *rest)
    with pytest.raises(RuntimeError, match="grad_y_out is missing"):
        calls[1][0](*{**calls[1][1], "grad_y_out": None}.values(), False)


@pytest.mark.skipif(not native.cpu_library().loaded, reason=native.cpu_library().reason or "not loaded")
def test_the_library_checks_its_operands() -> None:
    check_operands_are_checked(torch.ops.fused_ops_cpu)
