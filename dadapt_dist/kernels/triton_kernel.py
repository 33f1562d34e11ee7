"""What the Triton kernels of all methods share: reading, writing and rounding, and what is done to a gradient first.

The rest of a kernel, which triton_source.py prints for each method, is one launch for all tensors of a group. A program finds its
tensor by its number, and the tensor's memory by distances from base pointers: distance times a constant tells the compiler how
far the addresses are aligned, so that loads are 128 bits wide. Each buffer is read once and written once. Sums are float64, one
row a program; there are no atomics, so that the same step gives the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def read(p, i, inside, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """One block as float32, 0 outside."""
    if MASKED:
        return tl.load(p + i, mask=inside, other=0.0).to(tl.float32)
    else:  # noqa: RET505 - triton decides at compile time, by the shape of the code
        return tl.load(p + i).to(tl.float32)


@triton.jit
def bounded(value):  # type: ignore[no-untyped-def]  # float32: an infinite coefficient makes NaN of a gradient of 0
    """float64, as large as float32 can be at most; NaN stays NaN."""
    low = tl.where(value < -3.4028234663852886e38, -3.4028234663852886e38, value)
    return tl.where(low > 3.4028234663852886e38, 3.4028234663852886e38, low)


@triton.jit
def within(value):  # type: ignore[no-untyped-def]
    """The same as float32."""
    return bounded(value).to(tl.float32)


@triton.jit
def beyond(value, largest):  # type: ignore[no-untyped-def]
    """Is it larger, or NaN?"""
    return (tl.abs(value) <= largest) == 0


@triton.jit
def bound(ROUNDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest number that bfloat16 holds, or that float32 holds."""
    if ROUNDED:
        return 3.3895313892515355e38
    else:  # noqa: RET505 - triton decides at compile time, by the shape of the code
        return 3.4028234663852886e38


@triton.jit
def stay(value, before, largest):  # type: ignore[no-untyped-def]
    """What a step carries out of memory even without a gradient stays where it was."""
    return tl.where(beyond(value, largest), before, value)


@triton.jit
def gradient(g, x, decay, scale, SCALED: tl.constexpr, DECAYED: tl.constexpr, MAXIMIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gradient that the method sees, and which elements were not finite: they are 0 before the decay."""
    if SCALED:
        g = tl.div_rn(g, scale + tl.zeros_like(g))
    wrong = beyond(g, 3.4028234663852886e38)
    g = tl.where(wrong, 0.0, g)
    if MAXIMIZE:
        g = -g
    if DECAYED:
        g = g + decay * x
    return g, wrong


@triton.jit
def measured_gradient(g, x, decay, scale, SCALED: tl.constexpr, DECAYED: tl.constexpr, MAXIMIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The same for the sums before a step, in float64: elements whose square float32 does not hold are 0."""
    g = g.to(tl.float64)
    if SCALED:
        g = g / scale
    if MAXIMIZE:
        g = g * -1.0
    if DECAYED:
        g = g + decay * x
    wrong = beyond(g, 1.844674352395373e19)
    return tl.where(wrong, 0.0, g), wrong


@triton.jit
def write(p, i, value, inside, element, seed, MASKED: tl.constexpr, STOCHASTIC: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store one block."""
    if STOCHASTIC:
        value = round_up_or_down(value, element, seed)
    if MASKED:
        tl.store(p + i, value, mask=inside)
    else:
        tl.store(p + i, value)


@triton.jit
def round_up_or_down(value, element, seed):  # type: ignore[no-untyped-def]
    """float32 rounded to bfloat16, up with the probability of the remainder: the hash of stochastic_rounding.py."""
    bits = value.to(tl.uint32, bitcast=True)
    h = element ^ seed
    h ^= h >> 16
    h *= 0x7FEB352D
    h ^= h >> 15
    h *= 0x846CA68B
    h ^= h >> 16
    rounded = ((bits + (h & 0xFFFF)) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return tl.where((bits & 0x7F800000) == 0x7F800000, value.to(tl.bfloat16), rounded)
