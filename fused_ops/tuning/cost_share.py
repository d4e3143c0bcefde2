"""The launches of ``selective_share`` (a 1x1 pair) on a GPU, in each of its ways; see :mod:`.cost_model`.

Triton's ways are named as in the launch tables ("resident" or "pair", "unit" or "fused", "products"), the
CUDA C++ library's is "cuda". What a kernel reads and writes is told in elements per pixel; B = Cx + Cy, the
gates have 3 B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fused_ops.triton_support import ceil_div, resident_programs
from fused_ops.tuning.cost_model import Kernel

# Instructions of a thread per pixel and channel of x and y in the kernels of few channels, as made for sm_90
# from calls of 64 channels ("unit", "fused": 128) in bfloat16 and channels_last: those of the loops, by how
# often they go round. Kernels of more channels are bound by their products.
INSTRUCTIONS = {
    "forward_resident": 26, "forward_unit": 46, "input_gradients_pair": 40, "weight_gradients_unit": 48,
    "input_gradients_fused": 78,
}  # fmt: skip
FORWARD_WAYS = ("resident", "unit", "products", "cuda")
BACKWARD_WAYS = ("pair", "fused", "products", "cuda")


@dataclass(frozen=True)
class ShareCall:
    """What the cost of a call depends on.

    Args:
        cx, cy: channels of x and y.
        pixels: of all images, N x H x W.
        itemsize: bytes of an element.
        channels_last: the memory format; the CUDA C++ library copies what comes otherwise.
        gates: whether the forward also writes the gates (training, unless recomputed) and the backward
            reads them.
        outside: whether a gradient reaches the gates from outside.
        chunks: parts of the weights' gradients, that is programs side by side.
    """

    cx: int
    cy: int
    pixels: int
    itemsize: int
    channels_last: bool = True
    gates: bool = True
    outside: bool = False
    chunks: int = 1

    @property
    def both(self) -> int:
        return self.cx + self.cy

    @property
    def weights(self) -> int:
        """Elements of all eight: as many multiplications has a pixel in the forward."""
        return 3 * self.both**2

    def kernel(
        self, name: str, elements: int, products: int = 0, weights: int = 0, *, parts: int = 0,
        library: bool = False,
    ) -> Kernel:  # fmt: skip
        """``elements`` and ``products`` (multiplications) are per pixel; ``parts`` are weights in float32."""
        moved = (elements * self.pixels + weights) * self.itemsize + 4 * parts
        counted = INSTRUCTIONS.get(name, 0) if self.itemsize == 2 else 0
        return Kernel(
            name, moved, 2 * products * self.pixels, library, counted * self.both * self.pixels
        )  # fmt: skip


def forward(call: ShareCall, way: str) -> list[Kernel]:
    """The launches of a forward."""
    if way == "cuda":
        return _cuda_forward(call)
    both = call.both
    if way in ("resident", "unit"):
        elements = 2 * both + (3 * both if call.gates else 0)
        return [call.kernel(f"forward_{way}", elements, call.weights, call.weights)]
    update = 2 * both * both
    return [
        call.kernel("update_gates", (4 if call.gates else 3) * both, update, update),
        # x, y, r.s and z in; x', y' and, if they are kept, h out
        call.kernel(
            "candidate_and_mix", 4 * both + (both if call.gates else 0),
            call.weights - update, call.weights - update,
        ),
    ]  # fmt: skip


def backward(call: ShareCall, way: str) -> list[Kernel]:
    """The launches of a backward; without ``call.gates`` "pair" makes them again on chip, twice."""
    if way == "cuda":
        return _cuda_backward(call)
    both, cx, cy, parts = call.both, call.cx, call.cy, call.chunks * call.weights
    outside = 1 if call.outside else 0
    if way == "pair" and not call.gates:
        again = 2 * call.weights + 2 * cx * cy
        return [
            call.kernel("input_gradients_pair", (3 + 3 * outside) * both, 2 * call.weights, call.weights),
            call.kernel("weight_gradients_unit", (2 + 3 * outside) * both, again, call.weights, parts=parts),
            _sum_of_parts(call),
        ]
    if way == "pair":
        return [
            call.kernel("input_gradients_pair", (7 + 3 * outside) * both, call.weights, call.weights),
            call.kernel("weight_gradients_unit", (6 + 2 * outside) * both, call.weights, parts=parts),
            _sum_of_parts(call),
        ]
    if way == "fused":
        launches = [
            call.kernel("input_gradients_fused", (10 + 3 * outside) * both, call.weights, call.weights)
        ]
    else:
        launches = [
            call.kernel("gate_gradients", (6 + 2 * outside) * both),
            call.kernel("reset_gradients", (6 + outside) * both, 2 * cx * cy, 2 * cx * cy),
            call.kernel(
                "input_gradients", 7 * both, call.weights - 2 * cx * cy, call.weights - 2 * cx * cy
            ),
        ]  # fmt: skip
    products = call.kernel("weight_gradients", 5 * both, call.weights, parts=parts)
    return [*launches, products, _sum_of_parts(call)]


def _sum_of_parts(call: ShareCall) -> Kernel:
    return call.kernel("add_weight_parts", 0, 0, call.weights, parts=call.chunks * call.weights)


def chunks(call: ShareCall, choice: Mapping[str, int | str], processors: int) -> int:
    """Into how many parts ``triton_launch`` cuts the pixels for the gradients of the weights.

    ``choice`` is the row of the backward's "pair", or that of the weights' products.
    """
    parts, prefix = 2, "weight_"
    if choice["kernel"] == "products":
        x, y = (ceil_div(channels, int(choice["block"])) for channels in (call.cx, call.cy))
        parts, prefix = 3 * (x + y) ** 2, ""
    tiles = ceil_div(call.pixels, int(choice[f"{prefix}pixels"]))
    return resident_programs(tiles, int(choice[f"{prefix}programs"]), processors, parts) // parts


# --- CUDA C++: kernels around the library's products; csrc/selective_share/cuda.cu --------------------------


def _copies(call: ShareCall, elements: int, count: int) -> list[Kernel]:
    """``count`` copies between memory formats, of ``elements`` per pixel in all, read and written."""
    if call.channels_last:
        return []
    return [call.kernel("copy", 2 * elements if index == 0 else 0) for index in range(count)]


def _product(call: ShareCall, elements: int, products: int, weights: int, name: str) -> Kernel:
    return call.kernel(name, elements, products, weights, library=True)


def _candidates(call: ShareCall, name: str, together: bool) -> list[Kernel]:
    """The products of the units' candidates; in one launch if they may and are of one size."""
    units = [(t + call.both, t * call.both) for t in (call.cx, call.cy)]
    if together and call.cx == call.cy:
        units = [(sum(elements for elements, _ in units), sum(products for _, products in units))]
    return [_product(call, elements, products, products, name) for elements, products in units]


def _cuda_gather(call: ShareCall) -> Kernel:
    # What is not channels_last was copied to where this kernel would lay it.
    return call.kernel("gather", 2 * call.both if call.channels_last else 0, 0, 2 * call.weights)


def _cuda_gates(call: ShareCall) -> list[Kernel]:
    """All gates but for the activation of h and z."""
    both, update = call.both, 2 * call.both**2
    return [
        _cuda_gather(call),
        _product(call, 3 * both, update, update, "gates"),
        call.kernel("reset_forward", (4 if call.gates else 3) * both),
        *_candidates(call, "candidate", together=True),
    ]


def _cuda_forward(call: ShareCall) -> list[Kernel]:
    both, gates = call.both, 1 if call.gates else 0
    return [
        *_copies(call, both, 2),
        *_cuda_gates(call),
        call.kernel("mix_forward", (4 + 2 * gates) * both),
        *_copies(call, (1 + 3 * gates) * both, 2 + gates),
    ]


def _cuda_backward(call: ShareCall) -> list[Kernel]:
    """Without ``call.gates`` they are made again, as far as the forward makes them before its last kernel."""
    both, update, outside = call.both, 2 * call.both**2, 1 if call.outside else 0
    gates = 1 if call.gates else 0
    parts = 2 if call.itemsize == 4 else 1  # in float32 a unit at a time
    gradient = _product(call, (2 // parts + 2) * both, update // parts, update // parts, "grad of x and y")
    return [
        *_copies(call, (2 + 3 * gates + 3 * outside) * both, 4 + gates + outside),
        *([_cuda_gather(call)] if gates else _cuda_gates(call)),
        call.kernel("mix_backward", (6 + 2 * outside) * both),
        *_candidates(call, "grad of r . source and of x and y", together=True),
        call.kernel("reset_backward", (8 + gates + outside) * both),
        *[gradient] * parts,
        _product(call, 3 * both, update, update, "grad of W_r and W_z"),
        *_candidates(call, "grad of W and U", together=False),
        call.kernel("scatter", 2 * both, 0, 2 * call.weights),
        *_copies(call, both, 2),
    ]
