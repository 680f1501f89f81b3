"""Cross-correlation of one picture by Fourier transforms, for kernels so large that direct sums cost more.

::

    y[i, j] = sum_{a, b} X[i + a, j + b] kernel[a, b]   <=>   Y = F(X) conj(F(kernel)),   entry by entry,

where F is the two-dimensional discrete Fourier transform of a periodic picture.  X, the picture continued beyond its
edges as `image` says, is cut into blocks of one period.  What the period spoils in a block are its last rows and
columns, as many as the kernel has but one; the blocks overlap by those (overlap-save).

A transform of complex numbers serves two blocks, one as the real part and one as the imaginary part: the kernel's
numbers are real, so the results stay apart, as they would if the complex picture were summed directly.

Each transform of a line is a series of passes over it, each of which splits it into four lines of a quarter of the
length (Gentleman and Sande, "Fast Fourier transforms: for fun and profit", 1966).  Its result comes in the order of
reversed digits; since the product needs no order but the same in both factors, and the passes back undo the passes
there one by one, nothing is ever sorted.  As many lines as a vector has lanes are transformed at once::

    part  [rows][columns]        both blocks, real and imaginary
      |   a strip of columns, one in each lane: along the rows, in the first-level cache
      v
    turned squares of lanes x lanes
      |
      v
    tile  [strips of rows][columns][real, imaginary][lanes]
          a strip of rows, one in each lane: along the columns, times the kernel's transform, and back along the columns
      |
      v
    turned squares again, a strip of columns: back along the rows, into part, and from there into y

For a period of 128, part, tile and the kernel's transform take 400 KB in float32: the second-level cache.  A pass loads
and stores each complex number once, for seven additions and multiplications.

Rounding errors are relative to the largest sums of the two blocks, not to each sum; NaN and infinities spread over
both blocks.  The last blocks, filled up with the picture's beginning, have a part in what happens there.
"""

import functools
import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import views
from .builders import keep_loop, multiply_add, spread
from .compiling import INNER, KERNEL
from .image import copy_part
from .processor import REGISTER_BYTES
from .product import lanes
from .threads import WORKERS, share
from .vectors import copy_vector, lanes_of, turn_square, vectors_of
from .workspace import LINE_BYTES, workspace

# Numbers of the largest block, whose scratch memory every worker keeps: 4 MB in float32.
LARGEST = 1 << 18

# What it costs to begin, and a step, in multiply-adds of the direct sum.  Along each axis, a number of a block takes a
# step for each binary digit of the period, `MOVES` more to be copied and turned over, and `FAR` more for each digit
# beyond `NEAR`: those blocks leave the second-level cache.  Measured with periods of 16 to 512.
START, STEP = 2_000_000, 4
MOVES, NEAR, FAR = 6, 7, 6

_I64 = ir.IntType(64)


def usable(outputs, cells, dtype):
    """Whether pictures of so many outputs (height, width) and kernels of so many cells are computed here."""
    return dtype.kind == "f" and block_size(outputs, cells, dtype) <= LARGEST


def block_size(outputs, cells, dtype):
    """Numbers of a block."""
    return math.prod(_periods(outputs, cells, dtype))


def cost(outputs, cells, dtype):
    """An estimate of the time, in multiply-adds of the direct sum."""
    periods = _periods(outputs, cells, dtype)
    blocks = math.prod(_blocks(*axis) for axis in zip(outputs, cells, periods, strict=True))
    # Blocks come in pairs, and the kernel is half as much work as one of those.
    return START + STEP * (blocks + blocks % 2 + 1) * math.prod(periods) * sum(map(_steps, periods))


@functools.lru_cache(maxsize=256)
def _periods(outputs, cells, dtype):
    """Rows and columns of a block."""
    return [_period(count, reach, lanes(dtype)) for count, reach in zip(outputs, cells, strict=True)]


def _period(outputs, cells, least):
    """The power of two for which the blocks of all outputs cost least."""
    one_block = 1 << (outputs + cells - 2).bit_length()
    smallest = max(1 << (cells - 1).bit_length(), least, 4)
    periods = [smallest << more for more in range(max(one_block // smallest, 1).bit_length())]
    return min(periods, key=lambda period: _blocks(outputs, cells, period) * period * _steps(period))


def _steps(period):
    digits = period.bit_length() - 1
    return digits + MOVES + FAR * max(digits - NEAR, 0)


def _blocks(outputs, cells, period):
    return -(-outputs // (period - cells + 1))


@functools.lru_cache(maxsize=64)
def _turns(period, dtype):
    """``exp(-2 pi i n / period)`` for all n: real part, imaginary part, and so on.  Not to be changed."""
    angles = -2 * np.pi * np.arange(period) / period
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).reshape(-1).astype(dtype)


def correlate_image(x, rows, columns, fillvalue, kernel, y):
    """`image.correlate_image` by transforms, where `usable`; pairs of blocks are independent tasks."""
    height, width = _periods(y.shape, kernel.shape, y.dtype)
    # Blocks are all of one size: where the last ones reach beyond the places, these begin again, for outputs that do
    # not exist.  So places still follow each other, and are copied many at a time.
    rows, columns = (
        places[np.arange(_blocks(outputs, cells, period) * (period - cells + 1) + cells - 1) % places.size]
        for places, outputs, cells, period in zip((rows, columns), y.shape, kernel.shape, (height, width), strict=True)
    )
    line = LINE_BYTES // y.itemsize
    step = width + line  # lines that are a power of two apart would compete for the same places of the cache
    part, tile, strip = height * step, 2 * height * width, 2 * height * lanes(y.dtype)
    size = 2 * part + tile + strip
    pairs = (math.prod(map(_blocks, y.shape, kernel.shape, (height, width))) + 1) // 2
    scratch = workspace(tile + min(pairs, WORKERS) * size, y.dtype)
    _correlate(
        x, rows, columns, y.dtype.type(fillvalue), kernel, y, height, width, step, size, scratch,
        _turns(height, y.dtype), _turns(width, y.dtype),
    )  # fmt: skip


@njit(**KERNEL)
def _correlate(x, rows, columns, fillvalue, kernel, y, height, width, step, size, scratch, down, across):
    spectrum, scratch = scratch[: 2 * height * width], scratch[2 * height * width :]
    _transform_kernel(kernel, height, width, step, scratch, spectrum, down, across)
    block_height, block_width = height - kernel.shape[0] + 1, width - kernel.shape[1] + 1
    blocks = -(-y.shape[0] // block_height) * -(-y.shape[1] // block_width)
    arguments = (
        x, rows, columns, fillvalue, spectrum, y, height, width, block_height, block_width, step, size, scratch,
        down, across,
    )  # fmt: skip
    # Some twenty multiply-adds for each number of a block.
    share(_correlate_pairs, arguments, (blocks + 1) // 2, 20 * blocks * height * width)


@njit(**INNER)
def _transform_kernel(kernel, height, width, step, scratch, spectrum, down, across):
    """The conjugate of the kernel's transform, divided by the cells of a period."""
    real, imaginary = scratch[: height * step], scratch[height * step : 2 * height * step]
    strip = scratch[2 * height * step :]
    real[:] = 0
    imaginary[:] = 0
    for a in range(kernel.shape[0]):
        for b in range(kernel.shape[1]):
            real[a * step + b] = kernel[a, b]
    _columns_to_tile(real, imaginary, step, strip, spectrum, height, width, down)
    numbers = lanes_of(spectrum)
    for row in range(0, height, numbers):
        _transform(spectrum, 2 * row * width, width, across)
    factor = spectrum.dtype.type(1 / (height * width))
    for place in range(0, spectrum.size, 2 * numbers):
        for lane in range(numbers):
            spectrum[place + lane] *= factor
            spectrum[place + numbers + lane] *= -factor


@njit(**INNER)
def _correlate_pairs(
    first, last, worker, x, rows, columns, fillvalue, spectrum, y, height, width, block_height, block_width, step, size,
    scratch, down, across,
):  # fmt: skip
    # Flat arrays, once for all tasks: `views` says what others would cost.
    source, target = x.reshape(-1), y.reshape(-1)
    own, part_size, tile_size = worker * size, height * step, 2 * height * width
    real, imaginary = views.part(scratch, own, part_size), views.part(scratch, own + part_size, part_size)
    tile = views.part(scratch, own + 2 * part_size, tile_size)
    strip = views.part(scratch, own + 2 * part_size + tile_size, size - 2 * part_size - tile_size)
    beside = -(-y.shape[1] // block_width)
    blocks = -(-y.shape[0] // block_height) * beside
    for pair in range(first, last):
        # Of an odd number of blocks, the last one is its own partner.
        for block, part in ((2 * pair, real), (min(2 * pair + 1, blocks - 1), imaginary)):
            i, j = block // beside * block_height, block % beside * block_width
            block_rows, block_columns = views.part(rows, i, height), views.part(columns, j, width)
            copy_part(source, x.shape[1], block_rows, block_columns, fillvalue, part, step)
        _columns_to_tile(real, imaginary, step, strip, tile, height, width, down)
        for row in range(0, height, lanes_of(tile)):
            place = 2 * row * width
            _transform(tile, place, width, across)
            _multiply(tile, spectrum, place, width)
            _transform_back(tile, place, width, across)
        _tile_to_columns(tile, strip, real, imaginary, step, height, width, block_width, down)
        for block, part in ((2 * pair, real), (min(2 * pair + 1, blocks - 1), imaginary)):
            i, j = block // beside * block_height, block % beside * block_width
            count = min(block_width, y.shape[1] - j)
            for row in range(min(block_height, y.shape[0] - i)):
                line = views.part(target, (i + row) * y.shape[1] + j, count)
                sums = views.part(part, row * step, count)
                for k in range(count):
                    line[k] = sums[k]


@njit(**INNER)
def _columns_to_tile(real, imaginary, step, strip, tile, height, width, turns):
    """Transform the columns, a strip after the other, and turn each strip over into the tile."""
    numbers = lanes_of(tile)
    for column in range(0, width, numbers):
        for row in range(height):
            copy_vector(real, row * step + column, strip, 2 * numbers * row)
            copy_vector(imaginary, row * step + column, strip, 2 * numbers * row + numbers)
        _transform(strip, 0, height, turns)
        for row in range(0, height, numbers):
            source, target = 2 * numbers * row, 2 * (row * width + numbers * column)
            for half in (0, numbers):
                turn_square(strip, source + half, 2 * numbers, tile, target + half, 2 * numbers)


@njit(**INNER)
def _tile_to_columns(tile, strip, real, imaginary, step, height, width, wanted, turns):
    """The way back, for as many columns as are wanted."""
    numbers = lanes_of(tile)
    for column in range(0, wanted, numbers):
        for row in range(0, height, numbers):
            source, target = 2 * (row * width + numbers * column), 2 * numbers * row
            for half in (0, numbers):
                turn_square(tile, source + half, 2 * numbers, strip, target + half, 2 * numbers)
        _transform_back(strip, 0, height, turns)
        for row in range(height):
            copy_vector(strip, 2 * numbers * row, real, row * step + column)
            copy_vector(strip, 2 * numbers * row + numbers, imaginary, row * step + column)


@njit(**INNER)
def _transform(lines, place, length, turns):
    """Transform lines, one in each lane, into the order of reversed digits."""
    part = length
    while part > 2:
        _split(lines, place, length, part // 4, turns)
        part //= 4
    if part == 2:
        _pairs(lines, place, length)


@njit(**INNER)
def _transform_back(lines, place, length, turns):
    """Undo `_transform`, pass by pass, but for a factor of `length`."""
    part = 4
    if (length & 0x5555555555555555) == 0:  # an odd power of two
        _pairs(lines, place, length)
        part = 8
    while part <= length:
        _join(lines, place, length, part // 4, turns)
        part *= 4


class _Complex:
    """LLVM's instructions for vectors of complex numbers: pairs of vectors, of the real parts and the imaginary parts.

    Number n of a line starts at ``place + 2 n LANES`` of its array.
    """

    def __init__(self, context, builder, kind, array):
        self.builder = builder
        self._read, self._write = vectors_of(context, builder, kind, array)
        self.lanes = REGISTER_BYTES // (kind.dtype.bitwidth // 8)

    def _places(self, place, n):
        first = self.builder.add(place, self.builder.mul(n, _I64(2 * self.lanes)))
        return first, self.builder.add(first, _I64(self.lanes))

    def read(self, place, n):
        return tuple(self._read(part) for part in self._places(place, n))

    def write(self, z, place, n):
        for numbers, part in zip(z, self._places(place, n), strict=True):
            self._write(numbers, part)

    def add(self, z, w):
        return tuple(self.builder.fadd(*parts) for parts in zip(z, w, strict=True))

    def subtract(self, z, w):
        return tuple(self.builder.fsub(*parts) for parts in zip(z, w, strict=True))

    def rotate(self, z):
        """i z"""
        return self.builder.fneg(z[1]), z[0]

    def multiply(self, z, w, conjugate=False):
        """z w, or z times the conjugate of w."""
        builder = self.builder
        by_real, by_imaginary = builder.fmul(z[1], w[1]), builder.fmul(z[0], w[1])
        if conjugate:
            by_imaginary = builder.fneg(by_imaginary)
        else:
            by_real = builder.fneg(by_real)
        return multiply_add(builder, z[0], w[0], by_real), multiply_add(builder, z[1], w[0], by_imaginary)


def _pass(back):
    """The intrinsic for a pass there, or back."""

    @intrinsic
    def one_pass(typing, lines, place, length, quarter, turns):
        """Split each line of four quarters into four lines; or join those again.

        Line p of the four gets, as its number j, the sum of ``(-i)**(p q) z[j + q quarter]`` over the quarters q,
        times ``exp(-2 pi i p j / (4 quarter))``.
        """
        integer = types.intp
        signature = types.void(lines, integer, integer, integer, turns)

        def code(context, builder, signature, arguments):
            _, place, length, quarter, _ = arguments
            vectors = _Complex(context, builder, signature.args[0], arguments[0])
            turns = context.make_array(signature.args[4])(context, builder, arguments[4]).data
            whole = builder.mul(quarter, _I64(4))
            turn_step = builder.mul(builder.sdiv(length, whole), _I64(2))

            def turn(number):
                """A factor, in all lanes."""
                real = builder.gep(turns, [builder.mul(number, turn_step)])
                parts = real, builder.gep(real, [_I64(1)])
                return tuple(spread(builder, builder.load(part), vectors.lanes) for part in parts)

            def butterfly(z0, z1, z2, z3):
                """The four sums; on the way back, with i in place of -i."""
                even, odd = vectors.add(z0, z2), vectors.add(z1, z3)
                difference, turned = vectors.subtract(z0, z2), vectors.rotate(vectors.subtract(z1, z3))
                first, third = vectors.subtract(difference, turned), vectors.add(difference, turned)
                if back:
                    first, third = third, first
                return vectors.add(even, odd), first, vectors.subtract(even, odd), third

            with cgutils.for_range(builder, quarter, intp=_I64) as number:
                factors = [turn(builder.mul(number.index, _I64(p))) for p in (1, 2, 3)]
                with cgutils.for_range_slice(builder, number.index, length, whole, _I64) as (first, _):
                    places = [builder.add(first, builder.mul(quarter, _I64(q))) for q in range(4)]
                    values = [vectors.read(place, n) for n in places]
                    if back:
                        turned = (vectors.multiply(*pair, True) for pair in zip(values[1:], factors, strict=True))
                        values = butterfly(values[0], *turned)
                    else:
                        sums = butterfly(*values)
                        turned = (vectors.multiply(*pair) for pair in zip(sums[1:], factors, strict=True))
                        values = [sums[0], *turned]
                    for value, n in zip(values, places, strict=True):
                        vectors.write(value, place, n)
                    keep_loop(builder)
            return context.get_dummy_value()

        return signature, code

    return one_pass


_split, _join = _pass(back=False), _pass(back=True)


@intrinsic
def _pairs(typing, lines, place, length):
    """The pass over lines of two numbers, there or back: their sum and their difference."""

    def code(context, builder, signature, arguments):
        _, place, length = arguments
        vectors = _Complex(context, builder, signature.args[0], arguments[0])
        with cgutils.for_range_slice(builder, _I64(0), length, _I64(2), _I64) as (first, _):
            second = builder.add(first, _I64(1))
            z, w = vectors.read(place, first), vectors.read(place, second)
            vectors.write(vectors.add(z, w), place, first)
            vectors.write(vectors.subtract(z, w), place, second)
        return context.get_dummy_value()

    return types.void(lines, types.intp, types.intp), code


@intrinsic
def _multiply(typing, lines, factors, place, length):
    """Multiply the numbers of a line by those at the same place of the factors."""

    def code(context, builder, signature, arguments):
        _, _, place, length = arguments
        vectors, others = (_Complex(context, builder, signature.args[n], arguments[n]) for n in (0, 1))
        with cgutils.for_range(builder, length, intp=_I64) as number:
            product = vectors.multiply(vectors.read(place, number.index), others.read(place, number.index))
            vectors.write(product, place, number.index)
        return context.get_dummy_value()

    return types.void(lines, factors, types.intp, types.intp), code
