"""Numbers as the GPU computes them: rounding modes, wraparound, NaN rules, narrow formats.

Every function takes and returns NumPy arrays (or scalars) and rounds once.  In float64, modes other than to
nearest are there for sums and products alone.  Where the hardware is only
specified within a bound (`ex2.approx` and its like, documented in the PTX manual), the exact result is
rounded to nearest, which lies within every such bound.
"""

import numpy as np
from numba import vectorize
from numba.extending import intrinsic

SMALLEST_NORMAL = {np.dtype(t): np.finfo(t).tiny for t in (np.float16, np.float32, np.float64)}


@intrinsic
def _fused(context, x, y, z):
    def emit(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return x(x, x, x), emit


@vectorize(["float32(float32,float32,float32)", "float64(float64,float64,float64)"])
def fma(x, y, z):
    """``x y + z``, rounded once, to nearest."""
    return _fused(x, y, z)


def flush(x):
    """Subnormal numbers become zero, as `.ftz` says."""
    x = np.asarray(x)
    return np.where(np.abs(x) < SMALLEST_NORMAL[x.dtype], np.copysign(x.dtype.type(0), x), x)


def saturate(x):
    """Clamped to [0, 1]; NaN becomes 0, as `.sat` says."""
    x = np.asarray(x)
    return np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))


def two_sum(x, y):
    """The rounded sum, and what rounding took from it (Knuth)."""
    s = x + y
    t = s - x
    return s, (x - (s - t)) + (y - t)


def directed(nearest, error, mode):
    """A result rounded to nearest, moved to where another mode rounds it.

    Parameters
    ----------
    nearest : array
        The exact result, rounded to nearest.
    error : array
        A number with the sign of exact result minus `nearest`.
    mode : {'rn', 'rz', 'rm', 'rp'}
        To nearest, toward zero, down, up.
    """
    if mode == "rn":
        return nearest
    below = error < 0
    above = error > 0
    kind = nearest.dtype.type
    down = below & ((mode == "rm") | ((mode == "rz") & (nearest > 0)))
    up = above & ((mode == "rp") | ((mode == "rz") & (nearest < 0)))
    result = np.where(down, np.nextafter(nearest, kind(-np.inf)), nearest)
    return np.where(up, np.nextafter(nearest, kind(np.inf)), result)


def add(x, y, mode="rn"):
    nearest = x + y
    if mode == "rn":
        return nearest
    if nearest.dtype == np.float64:
        return directed(nearest, two_sum(x, y)[1], mode)
    return _directed_float32(nearest, *two_sum(np.float64(x), np.float64(y)), mode)


def multiply(x, y, mode="rn"):
    nearest = x * y
    if mode == "rn":
        return nearest
    return directed(nearest, _exact_products(x, y, nearest), mode)


def multiply_add(x, y, z, mode="rn"):
    if np.asarray(x).dtype == np.float16:
        # A product of 22 bits and a sum over 40 binary places: exact in float64.
        return (np.float64(x) * np.float64(y) + np.float64(z)).astype(np.float16)
    nearest = fma(x, y, z)
    if mode == "rn":
        return nearest
    return _directed_float32(nearest, *two_sum(np.float64(x) * np.float64(y), np.float64(z)), mode)


def divide(x, y, mode="rn"):
    nearest = x / y
    if mode == "rn":
        return nearest
    # The exact remainder x - q y has the sign of the error times that of y.
    x, y = np.float64(x), np.float64(y)
    return directed(nearest, (x - np.float64(nearest) * y) * np.copysign(1, y), mode)


def square_root(x, mode="rn"):
    nearest = np.sqrt(x)
    return nearest if mode == "rn" else directed(nearest, np.float64(x) - np.float64(nearest) ** 2, mode)


def _exact_products(x, y, nearest):
    if nearest.dtype == np.float64:
        return fma(x, y, -nearest)
    return np.float64(x) * np.float64(y) - np.float64(nearest)


def _directed_float32(nearest, total, rest, mode):
    """`total` + `rest` is the exact result, in float64."""
    return directed(nearest, (total - np.float64(nearest)) + rest, mode)


# ---------------------------------------------------------------------------------------------------
# minimum, maximum


def minimum(x, y, keep_nan=False):
    """The smaller number; NaN only if both are (or, with ``.NaN``, if either is); -0 is below +0."""
    return _extreme(x, y, keep_nan, np.fmin, np.signbit)


def maximum(x, y, keep_nan=False):
    """The larger number; NaN only if both are (or, with ``.NaN``, if either is); +0 is above -0."""
    return _extreme(x, y, keep_nan, np.fmax, lambda zero: ~np.signbit(zero))


def _extreme(x, y, keep_nan, choose, preferred):
    best = choose(x, y)
    zeros = (x == 0) & (y == 0)
    best = np.where(zeros, np.where(preferred(x), x, y), best)
    return np.where(np.isnan(x) | np.isnan(y), best.dtype.type(np.nan), best) if keep_nan else best


# ---------------------------------------------------------------------------------------------------
# integers


def high_product(x, y, dtype):
    """The upper half of the product of two integers."""
    if dtype.itemsize < 8:
        double = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        return (np.asarray(x).astype(double) * np.asarray(y).astype(double) >> (8 * dtype.itemsize)).astype(dtype)
    x, y = np.asarray(x), np.asarray(y)
    low, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a, b = x.view(np.uint64), y.view(np.uint64)
    a1, a0, b1, b0 = a >> low, a & mask, b >> low, b & mask
    middle = a1 * b0 + (a0 * b0 >> low)
    upper = a1 * b1 + (middle >> low) + ((a0 * b1 + (middle & mask)) >> low)
    if dtype.kind == "i":
        # Of two's complement: a negative factor counts 2**64 too much.
        upper = upper - np.where(x < 0, b, np.uint64(0)) - np.where(y < 0, a, np.uint64(0))
    return upper.view(dtype)


def quotient(x, y):
    """Integer division, rounded toward zero."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind == "u":
        return x // y
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    magnitude = np.abs(x).view(unsigned) // np.abs(y).view(unsigned)
    return np.where((x < 0) != (y < 0), -magnitude, magnitude).view(x.dtype)


def remainder(x, y):
    """What `quotient` leaves: it has the sign of the dividend."""
    return x - quotient(x, y) * y


def shift_left(x, count):
    """Shifts by the width or more leave zero."""
    width = 8 * np.asarray(x).dtype.itemsize
    kind = np.asarray(x).dtype.type
    return np.where(count < width, x << np.minimum(count, width - 1).astype(kind), kind(0))


def shift_right(x, count):
    """Shifts by the width or more leave zero, or the sign everywhere."""
    x = np.asarray(x)
    width = 8 * x.dtype.itemsize
    shifted = x >> np.minimum(count, width - 1).astype(x.dtype)
    return shifted if x.dtype.kind == "i" else np.where(count < width, shifted, x.dtype.type(0))


def funnel_shift(low, high, count, left, clamp):
    """32 bits of the 64 of ``high:low``, shifted."""
    count = np.minimum(count, 32) if clamp else count & 31
    both = np.uint64(high) << np.uint64(32) | np.uint64(low)
    shifted = (both << np.uint64(count)) >> np.uint64(32) if left else both >> np.uint64(count)
    return shifted.astype(np.uint32)


def field_extract(x, start, length, dtype):
    """`length` bits from bit `start` on; signed fields are extended by their last bit."""
    width = 8 * dtype.itemsize
    start, length = np.int64(start & 0xFF), np.int64(length & 0xFF)
    bits = np.asarray(x).view(np.dtype(f"u{dtype.itemsize}")).astype(np.uint64)
    one, full = np.uint64(1), ~np.uint64(0)
    kept = np.where(length >= 64, full, (one << np.minimum(length, 63).astype(np.uint64)) - one)
    field = np.where(start < width, bits >> np.minimum(start, 63).astype(np.uint64), np.uint64(0)) & kept
    if dtype.kind == "i":
        last = np.minimum(start + length - 1, width - 1)
        sign = (bits >> np.maximum(last, 0).astype(np.uint64)) & np.uint64(1)
        present = np.clip(width - start, 0, length)
        ones = np.where(present >= 64, np.uint64(0), ~np.uint64(0) << np.minimum(present, 63).astype(np.uint64))
        field = np.where((sign == 1) & (length > 0), field | ones, field)
    return field.astype(np.dtype(f"u{dtype.itemsize}")).view(dtype)


def field_insert(x, into, start, length, dtype):
    """`length` bits of `x`, put into `into` from bit `start` on."""
    start, length = np.int64(start & 0xFF), np.int64(length & 0xFF)
    one, full = np.uint64(1), ~np.uint64(0)
    mask = np.where(length >= 64, full, (one << np.minimum(length, 63).astype(np.uint64)) - one)
    place = np.minimum(start, 63).astype(np.uint64)
    mask = np.where(start < 64, mask << place, np.uint64(0))
    return ((np.uint64(into) & ~mask) | ((np.uint64(x) << place) & mask)).astype(dtype)


def permute_bytes(a, b, selector, mode):
    """`prmt`: four bytes chosen among the eight of a and b; the choice's highest bit repeats a byte's sign."""
    a, b, selector = np.broadcast_arrays(*(np.asarray(part, np.uint32) for part in (a, b, selector)))
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    if mode is None:
        choices = [(selector >> np.uint32(4 * byte)) & np.uint32(15) for byte in range(4)]
    else:
        table = {
            "f4e": ((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 6)),
            "b4e": ((0, 7, 6, 5), (1, 0, 7, 6), (2, 1, 0, 7), (3, 2, 1, 0)),
            "rc8": tuple((byte,) * 4 for byte in range(4)),
            "ecl": tuple(tuple(max(byte, low) for byte in range(4)) for low in range(4)),
            "ecr": tuple(tuple(min(byte, high) for byte in range(4)) for high in range(4)),
            "rc16": ((0, 1, 0, 1), (2, 3, 2, 3), (0, 1, 0, 1), (2, 3, 2, 3)),
        }[mode]
        chosen = np.asarray(table, np.uint32)[selector & 3]
        choices = [chosen[..., byte] for byte in range(4)]
    result = np.zeros(both.shape, np.uint32)
    for byte, choice in enumerate(choices):
        value = (both >> (np.uint64(8) * (choice & np.uint32(7)).astype(np.uint64))) & np.uint64(0xFF)
        value = np.where(choice & 8, np.where(value & np.uint64(0x80), np.uint64(0xFF), np.uint64(0)), value)
        result |= value.astype(np.uint32) << np.uint32(8 * byte)
    return result


def count_bits(x):
    x = np.asarray(x)
    return sum(((x >> x.dtype.type(bit)) & x.dtype.type(1)).astype(np.uint32) for bit in range(8 * x.dtype.itemsize))


def leading_zeros(x):
    x = np.array(x)
    zeros = np.full(x.shape, 8 * x.dtype.itemsize, np.uint32)
    while (rest := x != 0).any():
        zeros[rest] -= np.uint32(1)
        x = x >> x.dtype.type(1)
    return zeros


def reverse_bits(x):
    x = np.asarray(x)
    width = 8 * x.dtype.itemsize
    kind = x.dtype.type
    return sum(((x >> kind(bit)) & kind(1)) << kind(width - 1 - bit) for bit in range(width))


def three_input_logic(a, b, c, table):
    """`lop3`: bit n of the table is the result for the inputs that spell n, a first."""
    result = np.zeros(np.broadcast(a, b, c).shape, np.uint32)
    for number in range(8):
        if table >> number & 1:
            parts = [value if number & place else ~value for value, place in ((a, 4), (b, 2), (c, 1))]
            result = result | (parts[0] & parts[1] & parts[2])
    return result


# ---------------------------------------------------------------------------------------------------
# conversions


def to_integer(x, dtype, mode):
    """A float as an integer: rounded, clamped to what the type holds; NaN as the manual says."""
    x = np.asarray(x)
    rounded = to_integral(x, mode)
    limits = np.iinfo(dtype)
    # As floats: the upper one is a power of two, just out of range.
    low, past = float(limits.min), float(limits.max) + 1 if dtype.itemsize < 8 else float(limits.max)
    inside = (rounded >= low) & (rounded < past)
    result = np.where(inside, rounded, 0).astype(dtype)
    result = np.where(rounded >= past, dtype.type(limits.max), result)
    result = np.where(rounded < low, dtype.type(limits.min), result)
    of_nan = 0
    if x.dtype == np.float64 or dtype.itemsize == 8:
        of_nan = limits.min if dtype.kind == "i" else 1 << (8 * dtype.itemsize - 1)
    return np.where(np.isnan(x), dtype.type(of_nan), result)


def to_integral(x, mode):
    """Rounded to an integral number, of the same type."""
    return {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[mode](x)


def to_float(x, dtype, mode="rn"):
    """A number in another floating type, rounded."""
    x = np.asarray(x)
    nearest = x.astype(dtype)
    if mode == "rn" or dtype.itemsize > x.dtype.itemsize:
        return nearest
    if x.dtype.kind in "iu":
        x = x.astype(np.float64)
    finite = np.isfinite(x)
    error = np.where(finite, x - np.where(finite, nearest, 0).astype(x.dtype), 0)
    return directed(nearest, error, mode)


def bfloat_to_float(bits):
    """bfloat16, given as bits, as float32."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def float_to_bfloat(x, mode="rn"):
    """float32 or float64 as the bits of a bfloat16, rounded by 'rn' or 'rz'."""
    x = np.asarray(x)
    if x.dtype == np.float64:
        # To float32 with the last bit odd where digits are lost: the next rounding sees that there were some.
        nearest = x.astype(np.float32)
        zero = directed(nearest, np.where(np.isfinite(x), x - nearest, 0), "rz")
        inexact = (zero != x) & np.isfinite(x)
        x = (zero.view(np.uint32) | inexact.astype(np.uint32)).view(np.float32)
    bits = x.astype(np.float32).view(np.uint32)
    if mode == "rn":
        bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(x), np.uint16(0x7FFF), (bits >> np.uint32(16)).astype(np.uint16))


def float_to_tf32(x):
    """`cvt.rna.tf32.f32`: ten bits of fraction, to nearest, ties away from zero."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded, np.where(np.isnan(x), np.uint32(0x7FFFFFFF), bits))


def truncate_to_tf32(bits):
    """What the tensor cores read of a 32-bit operand: the lowest 13 bits are not looked at."""
    return (np.asarray(bits, np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def halves(bits):
    """The low and the high 16 bits."""
    bits = np.asarray(bits, np.uint32)
    return bits.astype(np.uint16), (bits >> np.uint32(16)).astype(np.uint16)


def pack(low, high):
    """Two times 16 bits as one word."""
    return np.asarray(low, np.uint16).astype(np.uint32) | np.asarray(high, np.uint16).astype(np.uint32) << np.uint32(16)


# ---------------------------------------------------------------------------------------------------
# functions of which the hardware gives approximations

APPROXIMATIONS = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "rcp": lambda x: 1 / x,
}


def approximate(name, x):
    """The function, computed in float64 and rounded."""
    x = np.asarray(x)
    return APPROXIMATIONS[name](x.astype(np.float64)).astype(x.dtype)


def coarse(name, x):
    """`rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: only the upper 32 bits are read and written."""
    upper = np.uint64(0xFFFFFFFF00000000)
    x = flush((np.asarray(x, np.float64).view(np.uint64) & upper).view(np.float64))
    result = flush(APPROXIMATIONS[name](x))
    bits = result.view(np.uint64)
    rounded = np.where(np.isfinite(result), bits + np.uint64(0x80000000), bits) & upper
    return np.where(np.isnan(result), result, rounded.view(np.float64))
