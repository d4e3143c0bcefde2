"""What the Triton kernels of ``selective_share`` share: where tensors, weights and gates lie, and the mix.

Names: t is the target of a unit and s its source, T and S their channels: the unit that updates x has t = x.
Tiles are [P, C], P pixels. Large tensors lie as planes or with channels last, as C of the ``OF`` channels
that the memory has, so slices along the channels need no copy. Gates lie side by side in GATE_ORDER of
reference.py.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def offsets(place, channel, OF, LAST: tl.constexpr):
    """Where the sample of a tile begins (64 bits) and the offsets [P, C] from there (32: fewer registers)."""
    first, lane, plane = place
    sample = first // plane
    pixel = first + lane
    start = sample.to(tl.int64) * plane * OF
    if LAST:
        return start, ((pixel - sample * plane) * OF)[:, None] + channel[None, :]
    else:
        within = (pixel // plane - sample) * plane * OF + pixel % plane
        return start, within[:, None] + (channel * plane)[None, :]


@triton.jit
def load_part(
    pointer, place, inside, channel,
    OF, C, EVEN: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """The channels ``channel`` of a tile of pixels, [P, len(channel)]; 0 beyond C unless EVEN.

    ``place`` is the tile's first pixel, 0 .. P - 1, and the size of a plane.
    """
    start, within = offsets(place, channel, OF, LAST)
    mask = inside[:, None] if EVEN else inside[:, None] & (channel < C)[None, :]
    return tl.load(pointer + start + within, mask=mask, other=0.0)


@triton.jit
def store_part(
    pointer, value, place, inside, first_channel, channel,
    OF, C, EVEN: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Store [P, len(channel)] as channels ``first_channel + channel``, as far as channel is below C."""
    start, within = offsets(place, first_channel + channel, OF, LAST)
    mask = inside[:, None] if EVEN else inside[:, None] & (channel < C)[None, :]
    tl.store(pointer + start + within, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_tile(
    pointer, place, inside, first_channel,
    OF: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """C channels from ``first_channel`` on of a tile of pixels, [P, BLOCK], 0 beyond them."""
    channel = first_channel + tl.arange(0, BLOCK)
    return load_part(pointer, place, inside, channel, OF, first_channel + C, BLOCK == C, LAST)


@triton.jit
def store_tile(
    pointer, value, place, inside, first_channel,
    OF: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    store_part(pointer, value, place, inside, first_channel, tl.arange(0, BLOCK), OF, C, BLOCK == C, LAST)


@triton.jit
def load_weight(
    pointer, row_length, out, into,
    OUT: tl.constexpr, IN: tl.constexpr, EVEN: tl.constexpr, FORWARD: tl.constexpr,
):  # fmt: skip
    """Rows ``out`` and columns ``into`` of a weight [OUT, row_length], 0 beyond OUT and IN unless EVEN.

    As the right factor of a product: [in, out] for FORWARD, else [out, in].
    """
    if FORWARD:
        at = out[None, :] * row_length + into[:, None]
        mask = (out < OUT)[None, :] & (into < IN)[:, None]
    else:
        at = out[:, None] * row_length + into[None, :]
        mask = (out < OUT)[:, None] & (into < IN)[None, :]
    if EVEN:
        return tl.load(pointer + at)
    else:
        return tl.load(pointer + at, mask=mask, other=0.0)


@triton.jit
def unit_weights(
    W_r, W, U, W_z, T: tl.constexpr, S: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    FORWARD: tl.constexpr,
):  # fmt: skip
    """The weights of a unit as right factors, W_r and W_z cut into the parts for t and for s."""
    EVEN: tl.constexpr = BLOCK_T == T and BLOCK_S == S
    t = tl.arange(0, BLOCK_T)
    s = tl.arange(0, BLOCK_S)
    return (
        load_weight(W_r, T + S, s, t, S, T, EVEN, FORWARD),
        load_weight(W_r + T, T + S, s, s, S, S, EVEN, FORWARD),
        load_weight(W, S, t, s, T, S, EVEN, FORWARD),
        load_weight(U, T, t, t, T, T, EVEN, FORWARD),
        load_weight(W_z, T + S, t, t, T, T, EVEN, FORWARD),
        load_weight(W_z + T, T + S, t, s, T, S, EVEN, FORWARD),
    )


@triton.constexpr_function
def tiles_of(channels, block):
    """How many tiles so many channels are. (Triton 3.6 cannot compute with what tl.cdiv gives.)"""
    return -(-channels // block)


@triton.constexpr_function
def gate_channels(cx, cy, pair, kept=True):
    """Channels of all gates; where they are not kept, of the update gates."""
    of_x = 2 * cx + cy if kept else cx
    return of_x + (2 * cy + cx if kept else cy) if pair else of_x


@triton.constexpr_function
def reset_channels(cx, cy, pair):
    """Channels of the gradients before the reset gates of both units, x's first; as of r.s."""
    return cy + (cx if pair else 0)


@triton.constexpr_function
def passed_slot(cx, cy, pair, of_x):
    """The first channel of r.s of a unit in the tensor of the gradients before the gates."""
    return gate_channels(cx, cy, pair) + (0 if of_x else cy)


@triton.constexpr_function
def pre_channels(cx, cy, pair):
    """Channels of the tensor of the gradients before the gates: as the gates, then r.s of both units."""
    return gate_channels(cx, cy, pair) + reset_channels(cx, cy, pair)


@triton.jit
def slots_of_x(CX: tl.constexpr, CY: tl.constexpr, KEPT: tl.constexpr = True):
    """The first channels of h, r and z of x's unit; where gates are not KEPT there are only z."""
    if KEPT:
        return 0, CX, CX + CY
    else:
        return 0, 0, 0


@triton.jit
def slots_of_y(CX: tl.constexpr, CY: tl.constexpr, KEPT: tl.constexpr = True):
    """As slots_of_x, of y's unit. GATE_ORDER is h, r, z of x's unit, then r, z, h of y's."""
    if KEPT:
        return 3 * CX + 2 * CY, 2 * CX + CY, 3 * CX + CY
    else:
        return 0, 0, CX


@triton.jit
def halves(value, P: tl.constexpr, N: tl.constexpr):
    """The left and the right columns of [P, N]."""
    return tl.split(tl.permute(tl.reshape(value, (P, 2, N // 2)), (0, 2, 1)))


@triton.constexpr_function
def strips_of(columns):
    """Into how many strips a tile of so many columns is cut."""
    return 4 if columns > 128 else 2


@triton.jit
def strips(value, P: tl.constexpr, N: tl.constexpr):
    """[P, N] cut along the columns: a kernel's end needs fewer registers for one after the other."""
    left, right = halves(value, P, N)
    if strips_of(N) == 2:
        return left, right
    else:
        first, second = halves(left, P, N // 2)
        third, fourth = halves(right, P, N // 2)
        return first, second, third, fourth


@triton.jit
def let_through(r, s, channel, S: tl.constexpr, EVEN: tl.constexpr):
    """r.s in s's dtype, 0 beyond S unless EVEN: there r of an infinite value is NaN (weights are 0)."""
    passed = r * s.to(tl.float32)
    if not EVEN:
        passed = tl.where((channel < S)[None, :], passed, 0.0)
    return passed.to(s.dtype)


@triton.jit
def mix(t, h, z, KEEP: tl.constexpr):
    t = t.to(tl.float32)
    if KEEP:
        return h + z * (t - h)
    else:
        return t + z * (h - t)


@triton.jit
def pre_gate_gradients(g, t, h, z, grad_h, grad_z, KEEP: tl.constexpr):
    """a_h, a_z and the part of the gradient g of t' that goes to h, in float32; the rest of g goes to t.

    grad_h and grad_z come from outside, or are None.
    """
    g = g.to(tl.float32)
    t = t.to(tl.float32)
    h = h.to(tl.float32)
    z = z.to(tl.float32)
    if KEEP:
        to_h = g * (1 - z)
        a_h = to_h
        a_z = g * (t - h)
    else:
        to_h = g * z
        a_h = to_h
        a_z = g * (h - t)
    if grad_h is not None:
        a_h += grad_h.to(tl.float32)
        a_z += grad_z.to(tl.float32)
    return a_h * (1 - h * h), a_z * z * (1 - z), to_h
