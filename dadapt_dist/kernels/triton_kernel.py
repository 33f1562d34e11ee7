"""One program of the GPU's step: some blocks of one tensor, each buffer read once and written once.

All tensors of a group are one launch. A program finds its tensor by its number, and the tensor's memory by distances from
base pointers: distance times a constant tells the compiler how far the addresses are aligned, so that loads are 128 bits
wide. Sums are float64, one row a program; there are no atomics, so that the same step gives the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def _read(p, i, inside, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    if MASKED:
        return tl.load(p + i, mask=inside, other=0.0).to(tl.float32)
    else:  # noqa: RET505 - triton decides at compile time, by the shape of the code
        return tl.load(p + i).to(tl.float32)


@triton.jit
def _coefficient(h, k):  # type: ignore[no-untyped-def]
    return _within(tl.load(h + k))


@triton.jit
def _within(value):  # type: ignore[no-untyped-def]  # float32: an infinite coefficient makes NaN of a gradient of 0
    return tl.minimum(tl.maximum(value, -3.4028234663852886e38), 3.4028234663852886e38).to(tl.float32)


@triton.jit
def _stay(value, before, largest):  # what a step carries out of memory even without a gradient stays where it was
    return tl.where(_beyond(value, largest), before, value)


@triton.jit
def _write(p, i, value, inside, element, seed, MASKED: tl.constexpr, STOCHASTIC: tl.constexpr):
    if STOCHASTIC:
        value = _stochastic(value, element, seed)
    if MASKED:
        tl.store(p + i, value, mask=inside)
    else:
        tl.store(p + i, value)


@triton.jit
def _stochastic(value, element, seed):
    """float32 rounded to bfloat16, up with the probability of the remainder: the hash of kernels/rounding.py."""
    bits = value.to(tl.uint32, bitcast=True)
    h = element ^ seed
    h ^= h >> 16
    h *= 0x7FEB352D
    h ^= h >> 15
    h *= 0x846CA68B
    h ^= h >> 16
    rounded = ((bits + (h & 0xFFFF)) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return tl.where((bits & 0x7F800000) == 0x7F800000, value.to(tl.bfloat16), rounded)


@triton.jit
def _update(METHOD: tl.constexpr, x, g, b0, b1, b2, b3, b4, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10):
    """One step of a method, numbered as in specs.py, with coefficients in the order given there.

    Returns x, the point towards which it goes (x itself, where it gets there), the buffers, and three sums.
    """
    zero = tl.zeros_like(g)
    s0, s1, s2 = zero.to(tl.float64), zero, zero
    z = zero
    if METHOD == 0:  # Prodigy: m, v, s, x0
        s0 = g.to(tl.float64) * (b3 - x).to(tl.float64)
        b0 = c0 * b0 + c1 * g
        b1 = c2 * b1 + c3 * (g * g)
        b2 = c4 * b2 + c5 * g
        s1 = tl.abs(b2)
        x = tl.where(c9 > 0, b3, x * c6 - tl.div_rn(c7 * b0, tl.sqrt_rn(b1) + c8))
    elif METHOD == 1:  # D-Adapt Adam: m, v, s
        s0 = tl.div_rn(g * b2, tl.sqrt_rn(b1) + c7).to(tl.float64)
        b0 = c0 * b0 + c1 * g
        b1 = c2 * b1 + c3 * (g * g)
        b2 = c4 * b2 + c5 * g
        s1 = tl.abs(b2)
        x = x * c6 - tl.div_rn(b0, tl.sqrt_rn(b1) + c7)
    elif METHOD == 2:  # D-Adapt SGD: s, x0
        s0 = (g * b0).to(tl.float64)
        b0 = b0 + c0 * g
        s1 = b0 * b0
        z = b1 - b0 * c1
        x = x + c2 * (z - x)
    elif METHOD == 3:  # D-Adapt AdaGrad: α, s, x0
        square = g * g
        b0 = b0 + square
        b1 = b1 + c0 * g
        denom = tl.sqrt_rn(b0) + c2
        z = b2 - tl.div_rn(b1 * c1, denom)
        s0 = tl.div_rn(square, denom).to(tl.float64)
        s1 = tl.div_rn(b1 * b1, denom)
        s2 = tl.abs(b1)
        x = tl.where(c3 == 1.0, z, x + c3 * (z - x))
    elif METHOD == 4:  # D-Adapt Adan: m, n, v, s, g_prev
        diff = tl.where(b4 != b4, 0.0, g - b4)
        ahead = g + c2 * diff
        b0 = c0 * b0 + c1 * g
        b1 = c2 * b1 + c3 * diff
        b2 = c4 * b2 + c5 * (ahead * ahead)
        b3 = c6 * b3 + c7 * g
        denom = tl.sqrt_rn(b2) + c10
        s0 = tl.div_rn(g * g, denom).to(tl.float64)
        s1 = tl.div_rn(b3 * b3, denom)
        s2 = tl.abs(b3)
        b4 = g
        x = tl.div_rn(x * c8 - tl.div_rn(b0 + c2 * b1, denom), c9 + zero)
    else:  # D-Adapt Lion: m, s
        a = c0 * b0 + c1 * g
        u = tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, 0.0))
        s0 = (u * b1).to(tl.float64)
        b0 = c2 * b0 + c3 * g
        b1 = c4 * b1 + c5 * u
        s1 = tl.abs(b1)
        x = x * c6 - c7 * u
    if METHOD != 2 and METHOD != 3:
        z = x
    return x, z, b0, b1, b2, b3, b4, s0, s1, s2


@triton.jit
def _beyond(value, largest):  # is it larger, or NaN?
    return (tl.abs(value) <= largest) == 0


@triton.jit
def _bound(SQUARED: tl.constexpr, ROUNDED: tl.constexpr):
    """The largest number that float32 can square, that bfloat16 holds, or that float32 holds."""
    if SQUARED:
        return 1.8446742974197924e19
    elif ROUNDED:  # noqa: RET505 - triton decides at compile time, by the shape of the code
        return 3.3895313892515355e38
    else:
        return 3.4028234663852886e38


@triton.jit
def _overflows(
    g, z, b0, b1, b2, b3, b4, s0, c0,
    METHOD: tl.constexpr, WRITTEN: tl.constexpr, ROUNDED: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """The elements that would leave what memory cannot hold, or a square that overflows, as `fits` of cpu_c_step.c."""
    over = _beyond(z, LARGEST)
    if WRITTEN & 1:
        over |= _beyond(b0, _bound(METHOD == 2, ROUNDED & 1))
    if WRITTEN & 2:
        over |= _beyond(b1, _bound(METHOD == 3, ROUNDED & 2))
    if WRITTEN & 4:
        over |= _beyond(b2, _bound(False, ROUNDED & 4))
    if WRITTEN & 8:
        over |= _beyond(b3, _bound(METHOD == 4, ROUNDED & 8))
    if WRITTEN & 16:
        over |= _beyond(b4, _bound(False, ROUNDED & 16))
    if METHOD == 2:  # products are summed up, and the square of a first gradient, while the first coefficient is 0
        over |= _beyond(s0, 3.4028234663852886e38) | _beyond(tl.where(c0 == 0.0, g, 0.0), 1.8446742974197924e19)
    return over


@triton.jit
def _block(  # noqa: C901 - a branch for each optional part, all decided when it is compiled
    x_at, g_at, p0, p1, p2, p3, p4, i, inside, element, seed, decay, scale,
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10,
    METHOD: tl.constexpr, HAS: tl.constexpr, ROUNDED: tl.constexpr, WRITTEN: tl.constexpr, SUMMED: tl.constexpr,
    SCALED: tl.constexpr, DECAYED: tl.constexpr, MAXIMIZE: tl.constexpr, DRY: tl.constexpr, LARGEST: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Advance one block; returns its sums' addends and which gradient elements were not finite, or would overflow.

    LARGEST: the largest number that the parameter's dtype holds.
    """
    x = _read(x_at, i, inside, MASKED)
    g = _read(g_at, i, inside, MASKED)
    if SCALED:
        g = tl.div_rn(g, scale + tl.zeros_like(g))
    wrong = _beyond(g, 3.4028234663852886e38)
    g = tl.where(wrong, 0.0, g)
    if MAXIMIZE:
        g = -g
    if DECAYED:
        g = g + decay * x
    b0, b1, b2, b3, b4 = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    if HAS & 1:
        b0 = _read(p0, i, inside, MASKED)
    if HAS & 2:
        b1 = _read(p1, i, inside, MASKED)
    if HAS & 4:
        b2 = _read(p2, i, inside, MASKED)
    if HAS & 8:
        b3 = _read(p3, i, inside, MASKED)
    if HAS & 16:
        b4 = _read(p4, i, inside, MASKED)
    x1, z, b01, b11, b21, b31, b41, s0, s1, s2 = _update(
        METHOD, x, g, b0, b1, b2, b3, b4, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10
    )
    over = _overflows(g, z, b01, b11, b21, b31, b41, s0, c0, METHOD, WRITTEN, ROUNDED, LARGEST)
    if tl.max(over.to(tl.int32), 0) > 0:  # next to never: such elements are taken as not finite
        if DECAYED:  # where the decay alone overflows, it is left out too
            g = tl.where(over, tl.where(wrong, 0.0, decay * x), g)
            wrong |= over
            x1, z, b01, b11, b21, b31, b41, s0, s1, s2 = _update(
                METHOD, x, g, b0, b1, b2, b3, b4, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10
            )
            over = _overflows(g, z, b01, b11, b21, b31, b41, s0, c0, METHOD, WRITTEN, ROUNDED, LARGEST)
        g = tl.where(over, 0.0, g)
        wrong |= over
        x1, z, b01, b11, b21, b31, b41, s0, s1, s2 = _update(
            METHOD, x, g, b0, b1, b2, b3, b4, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10
        )
        x1, b01 = _stay(x1, x, LARGEST), _stay(b01, b0, _bound(False, ROUNDED & 1))
        b11, b21 = _stay(b11, b1, _bound(False, ROUNDED & 2)), _stay(b21, b2, _bound(False, ROUNDED & 4))
        b31, b41 = _stay(b31, b3, _bound(False, ROUNDED & 8)), _stay(b41, b4, _bound(False, ROUNDED & 16))
    x, b0, b1, b2, b3, b4 = x1, b01, b11, b21, b31, b41
    if not DRY:
        _write(x_at, i, x, inside, element, seed, MASKED, False)
        if WRITTEN & 1:
            _write(p0, i, b0, inside, element, seed, MASKED, ROUNDED & 1)
        if WRITTEN & 2:
            _write(p1, i, b1, inside, element, seed, MASKED, ROUNDED & 2)
        if WRITTEN & 4:
            _write(p2, i, b2, inside, element, seed, MASKED, ROUNDED & 4)
        if WRITTEN & 8:
            _write(p3, i, b3, inside, element, seed, MASKED, ROUNDED & 8)
        if WRITTEN & 16:
            _write(p4, i, b4, inside, element, seed, MASKED, ROUNDED & 16)
    bad = tl.where(wrong & inside, 1.0, 0.0)
    if not SUMMED:  # frozen: there is no s to sum up
        s0, s1, s2 = tl.zeros_like(s0), tl.zeros_like(x), tl.zeros_like(x)
    if MASKED:  # what lies outside has g = 0 and x = 0, but not every buffer's sum is 0 there for every method
        s0, s1, s2 = tl.where(inside, s0, 0.0), tl.where(inside, s1, 0.0), tl.where(inside, s2, 0.0)
    stored = tl.where(inside, x.to(x_at.dtype.element_ty).to(tl.float64), 0.0)
    return s0, s1.to(tl.float64), s2.to(tl.float64), bad, stored * stored


@triton.jit
def step(
    x_base, g_base, base0, base1, base2, base3, base4, distances, numels, origins, tensors, chunks, h, factors, partial,
    METHOD: tl.constexpr, HAS: tl.constexpr, ROUNDED: tl.constexpr, WRITTEN: tl.constexpr, SUMS: tl.constexpr,
    APART: tl.constexpr, SUMMED: tl.constexpr,
    SCALED: tl.constexpr, DECAYED: tl.constexpr, MAXIMIZE: tl.constexpr, DRY: tl.constexpr, LARGEST: tl.constexpr,
    UNIT_X: tl.constexpr, UNIT_G: tl.constexpr, UNIT0: tl.constexpr, UNIT1: tl.constexpr, UNIT2: tl.constexpr,
    UNIT3: tl.constexpr, UNIT4: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Take BLOCKS blocks of one tensor.

    distances: seven a tensor, in units of UNIT elements. h: coefficients, then decay, scale, seed, and 1 to do nothing or 0,
    float64. APART: which coefficient has a factor for each tensor, float64 in `factors`; -1: none. partial: gets SUMS + 1
    float64 a program, and with APART one more, the sum of x squared after the step.
    """
    program = tl.program_id(0)
    t = tl.load(tensors + program).to(tl.int64)
    start = tl.load(chunks + program).to(tl.int64) * (BLOCK * BLOCKS)
    n = tl.where(tl.load(h + 14) > 0, 0, tl.load(numels + t))
    origin = tl.load(origins + t)
    row = distances + t * 7
    x_at, g_at = x_base + tl.load(row) * UNIT_X, g_base + tl.load(row + 1) * UNIT_G
    p0, p1 = base0 + tl.load(row + 2) * UNIT0, base1 + tl.load(row + 3) * UNIT1
    p2, p3 = base2 + tl.load(row + 4) * UNIT2, base3 + tl.load(row + 5) * UNIT3
    p4 = base4 + tl.load(row + 6) * UNIT4
    c0, c1, c2, c3 = _coefficient(h, 0), _coefficient(h, 1), _coefficient(h, 2), _coefficient(h, 3)
    c4, c5, c6, c7 = _coefficient(h, 4), _coefficient(h, 5), _coefficient(h, 6), _coefficient(h, 7)
    c8, c9, c10, decay = _coefficient(h, 8), _coefficient(h, 9), _coefficient(h, 10), _coefficient(h, 11)
    if APART == 7:
        c7 = _within(tl.load(h + 7) * tl.load(factors + t))
    scale, seed = tl.load(h + 12).to(tl.float32), (tl.load(h + 13).to(tl.int64) * 0x9E3779B9).to(tl.uint32)
    a0, a1, a2 = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    bad, squares = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float64)
    for at in range(0, BLOCK * BLOCKS, BLOCK):
        i = start + at + tl.arange(0, BLOCK)
        inside = i < n
        element = (origin + i).to(tl.uint32)
        if start + at + BLOCK <= n:
            s0, s1, s2, wrong, square = _block(
                x_at, g_at, p0, p1, p2, p3, p4, i, inside, element, seed, decay, scale,
                c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10,
                METHOD, HAS, ROUNDED, WRITTEN, SUMMED, SCALED, DECAYED, MAXIMIZE, DRY, LARGEST, False,
            )  # fmt: skip
            a0 += s0
            a1 += s1
            a2 += s2
            bad += wrong
            if APART >= 0:
                squares += square
        elif start + at < n:
            s0, s1, s2, wrong, square = _block(
                x_at, g_at, p0, p1, p2, p3, p4, i, inside, element, seed, decay, scale,
                c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10,
                METHOD, HAS, ROUNDED, WRITTEN, SUMMED, SCALED, DECAYED, MAXIMIZE, DRY, LARGEST, True,
            )  # fmt: skip
            a0 += s0
            a1 += s1
            a2 += s2
            bad += wrong
            if APART >= 0:
                squares += square
    out = partial + program.to(tl.int64) * (SUMS + 1 + (APART >= 0))
    tl.store(out, tl.sum(a0, 0))
    tl.store(out + 1, tl.sum(a1, 0))
    if SUMS == 3:
        tl.store(out + 2, tl.sum(a2, 0))
    tl.store(out + SUMS, tl.sum(bad.to(tl.float64), 0))
    if APART >= 0:
        tl.store(out + SUMS + 1, tl.sum(squares, 0))
