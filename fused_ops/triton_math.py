"""Elementary functions and activations for Triton kernels, the twin of ``csrc/common/activations.h``; the
order of programs.

Arithmetic is in float32. ``FAST`` takes the card's own tanh instruction: one operation of the special
function unit instead of two, with a relative error of 5e-4: an eighth of bfloat16's epsilon, half of
float16's. (Gates at C = 64 would otherwise be bound by that unit, not by memory.) The interpreter does not
know it. Numbers that come from the host are cast where they enter: Inductor passes them in float64.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.activations import ACTIVATIONS

RELU = tl.constexpr(ACTIVATIONS["relu"].index)
LEAKY_RELU = tl.constexpr(ACTIVATIONS["leaky_relu"].index)
SILU = tl.constexpr(ACTIVATIONS["silu"].index)
GELU = tl.constexpr(ACTIVATIONS["gelu"].index)
TANH = tl.constexpr(ACTIVATIONS["tanh"].index)
SIGMOID = tl.constexpr(ACTIVATIONS["sigmoid"].index)
ELU = tl.constexpr(ACTIVATIONS["elu"].index)
HARDSWISH = tl.constexpr(ACTIVATIONS["hardswish"].index)

SQRT_HALF = tl.constexpr(0.7071067811865476)
ROOT_OF_TWO_PI_INVERTED = tl.constexpr(0.3989422804014327)


@triton.jit
def last_first():
    """The program's number, from the end: what the launch before moved last may still be in the L2 cache."""
    return tl.num_programs(0) - 1 - tl.program_id(0)


@triton.jit
def _tanh_instruction(x):
    return tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def tanh(x, FAST: tl.constexpr = False):
    if FAST:
        return _tanh_instruction(x)
    else:
        size = tl.abs(x)
        e = tl.exp(-2 * size)
        far = 1 - 2 * e / (1 + e)
        square = x * x
        # (tanh(x) / x - 1) / x^2 as a polynomial, of least maximum error (4e-9 of tanh) up to 0.625, fitted
        # by reweighted least squares: far loses small digits there.
        bend = 0.1333144196 - square * (0.05373969448 - square * (0.02063901729 - square * 0.005704905856))
        near = x + x * square * (square * bend - 0.3333328193)
        return tl.where(size < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def sigmoid(x, FAST: tl.constexpr = False):
    if FAST:
        return 0.5 + 0.5 * _tanh_instruction(0.5 * x)
    else:
        return 1 / (1 + tl.exp(-x))


@triton.jit
def activate(z, slope, ACTIVATION: tl.constexpr):
    """y = f(z); NaN stays NaN."""
    if ACTIVATION == RELU:
        y = tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == LEAKY_RELU:
        y = tl.where(z <= 0, z * tl.cast(slope, tl.float32), z)
    elif ACTIVATION == SILU:
        y = z * sigmoid(z)
    elif ACTIVATION == GELU:
        y = 0.5 * z * (1 + tl.erf(z * SQRT_HALF))
    elif ACTIVATION == TANH:
        y = tanh(z)
    elif ACTIVATION == SIGMOID:
        y = sigmoid(z)
    elif ACTIVATION == ELU:
        y = tl.where(z <= 0, tl.where(z > -0.25, expm1_near_zero(z), tl.exp(z) - 1), z)
    elif ACTIVATION == HARDSWISH:
        y = z * tl.minimum(tl.maximum(z + 3, 0.0), 6.0) / 6
    else:
        y = z
    return y


@triton.jit
def expm1_near_zero(z):
    """e^z - 1 for -0.25 < z <= 0, without the cancellation."""
    return z * (1 + z * (1 / 2 + z * (1 / 6 + z * (1 / 24 + z * (1 / 120 + z * (1 / 720 + z * (1 / 5040)))))))


@triton.jit
def derivative_from_output(y, slope, ACTIVATION: tl.constexpr):
    """f'(z), told from y = f(z), for the activations whose table row says that this is possible."""
    if ACTIVATION == RELU:
        d = tl.where(y > 0, 1.0, 0.0)
    elif ACTIVATION == LEAKY_RELU:
        d = tl.where(y > 0, 1.0, tl.cast(slope, tl.float32))
    elif ACTIVATION == TANH:
        d = 1 - y * y
    elif ACTIVATION == SIGMOID:
        d = y * (1 - y)
    else:
        tl.static_assert(ACTIVATION == ELU)
        d = tl.where(y > 0, 1.0, y + 1)
    return d


@triton.jit
def derivative_from_input(z, slope, ACTIVATION: tl.constexpr):
    """f'(z) for any activation but identity."""
    if ACTIVATION == SILU:
        s = sigmoid(z)
        d = s * (1 + z * (1 - s))
    elif ACTIVATION == GELU:
        density = tl.exp(-0.5 * z * z) * ROOT_OF_TWO_PI_INVERTED
        d = 0.5 * (1 + tl.erf(z * SQRT_HALF)) + z * density
    elif ACTIVATION == HARDSWISH:
        d = tl.where(z <= -3, 0.0, tl.where(z < 3, z / 3 + 0.5, 1.0))
    elif ACTIVATION == RELU:
        d = derivative_from_output(z, slope, ACTIVATION)  # which asks for the sign alone
    elif ACTIVATION == LEAKY_RELU:
        d = derivative_from_output(z, slope, ACTIVATION)
    else:
        d = derivative_from_output(activate(z, slope, ACTIVATION), slope, ACTIVATION)
    return d
