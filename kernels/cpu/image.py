"""Cross-correlation of one picture, without batch and channels, in any dtype.

::

    y[i, j] = sum_{a, b} X[i + a, j + b] kernel[a, b]

X is the picture x continued beyond its edges: ``X[p, q] = x[rows[p], columns[q]]``, and `fillvalue` where
rows[p] or columns[q] is -1.  So two vectors of indices hold every boundary: zeros, wrapped, mirrored.

A task is a block of outputs.  It first copies the part of X that its sums read into scratch memory of its worker, which
stays in the second-level cache: X is never made as a whole, edges cost nothing where there are none, and pictures whose
lines are a power of two apart do not compete for the same places of the cache.

float32 and float64 are computed in tiles of sums in registers, as `simd` describes, with the parts exchanged: the
matrix that is read from end to end is the picture, and the Toeplitz matrix is that of the kernel.  A row of pixels
serves all rows of the tile, each with another row of the kernel::

                        pixels X[i + r, j + b ...]  [ 0 ..  7 ][ 8 .. 15 ]     two loads
                                                         |          |
    row i      kernel[r,     b] -> spread over 8 lanes -> fma        fma
    row i + 1  kernel[r - 1, b] -> spread ------------->  fma        fma       12 sums of 8 numbers
      ...                                                                      in registers
    row i + 5  kernel[r - 5, b] -> spread ------------->  fma        fma

The first and the last five rows of pixels meet only some rows of the tile, where r - p is a row of the kernel.  Nothing
is multiplied by the zeros that fill up that matrix: besides the time, zero times infinity would be NaN.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import keep_loop, multiply_add, spread
from .compiling import INNER, KERNEL
from .simd import REGISTER_BYTES, WIDE_ROWS
from .threads import WORKERS, share
from .workspace import workspace

# Shape of a tile.  Processors with 32 vector registers, which are those whose tiles of products are taller, hold four
# vectors in a row; 16 registers hold two.
ROWS = 6
VECTORS = 4 if WIDE_ROWS > ROWS else 2

# Least rows of a block of outputs, and the bytes of its part of X, which fits in the second-level cache.  Within that,
# blocks are as wide as may be: long lines are copied fast.
BLOCK_ROWS = 4 * ROWS
PART_BYTES = 1 << 18

# Terms that are added one after the other before their sum joins that of the rest of a large kernel: rounding errors
# grow with the number of additions in a chain.
CHAIN = 1024

_I64 = ir.IntType(64)


def correlate_image(x, rows, columns, fillvalue, kernel, y):
    """Blocks of outputs are independent tasks."""
    tiled, by_line = (True, None) if y.dtype.kind == "f" else (None, True)  # None: Numba leaves out the code for it
    lanes = VECTORS * REGISTER_BYTES // y.itemsize
    # No smaller than the kernel, so that a block's part of X is at most four times as large as the block.
    height = _whole(min(y.shape[0], max(BLOCK_ROWS, kernel.shape[0])), ROWS)
    widest = PART_BYTES // (y.itemsize * (height + kernel.shape[0] - 1)) - kernel.shape[1]
    beside = -(-y.shape[1] // max(widest, kernel.shape[1], lanes))
    width = _whole(-(-y.shape[1] // beside), lanes)
    line = REGISTER_BYTES // y.itemsize
    # An odd number of registers from line to line spreads the lines over the cache.
    step = _whole(width + kernel.shape[1] - 1, 2 * line) + line
    size = (height + kernel.shape[0] - 1) * step + ROWS * lanes
    scratch = workspace(WORKERS * size, y.dtype)
    _correlate(x, rows, columns, y.dtype.type(fillvalue), kernel, y, height, width, step, size, scratch, tiled, by_line)


def _whole(count, step):
    """The next multiple of the step."""
    return -(-count // step) * step


@njit(**KERNEL)
def _correlate(x, rows, columns, fillvalue, kernel, y, height, width, step, size, scratch, tiled, by_line):
    tasks = -(-y.shape[0] // height) * -(-y.shape[1] // width)
    arguments = (x, rows, columns, fillvalue, kernel, y, height, width, step, size, scratch, tiled, by_line)
    share(_correlate_blocks, arguments, tasks, y.size * kernel.size)


@njit(**INNER)
def _correlate_blocks(
    first, last, worker, x, rows, columns, fillvalue, kernel, y, height, width, step, size, scratch, tiled, by_line
):
    own = scratch[worker * size : (worker + 1) * size]
    beside = -(-y.shape[1] // width)
    for task in range(first, last):
        i, j = task // beside * height, task % beside * width
        block_height, block_width = min(height, y.shape[0] - i), min(width, y.shape[1] - j)
        _copy_part(
            x, rows[i : i + block_height + kernel.shape[0] - 1], columns[j : j + block_width + kernel.shape[1] - 1],
            fillvalue, own, step,
        )  # fmt: skip
        if tiled is not None:
            _sum_tiles(own, step, kernel, y, i, j, block_height, block_width)
        if by_line is not None:
            _sum_lines(own, step, kernel, y, i, j, block_height, block_width)


@njit(**INNER)
def _copy_part(x, rows, columns, fillvalue, part, step):
    """Copy a part of the continued picture, by runs of columns that lie next to each other in x too."""
    source = x.reshape(-1)
    start = 0
    while start < columns.size:
        column, end = columns[start], start + 1
        follows = 1 if column >= 0 else 0
        while end < columns.size and columns[end] == columns[end - 1] + follows:
            end += 1
        for p in range(rows.size):
            target = part[p * step + start : p * step + end]
            if rows[p] < 0 or column < 0:
                for k in range(target.size):
                    target[k] = fillvalue
            else:
                place = np.int64(rows[p]) * x.shape[1] + column
                pixels = source[place : place + target.size]
                for k in range(target.size):
                    target[k] = pixels[k]
        start = end


@njit(**INNER)
def _sum_lines(part, step, kernel, y, i, j, height, width):
    """Sums of any dtype: the innermost loop runs along a line of X and of y, and becomes vector instructions."""
    for line in range(height):
        total = y[i + line, j : j + width]
        total[:] = 0
        for a in range(kernel.shape[0]):
            for b in range(kernel.shape[1]):
                weight = kernel[a, b]
                place = (line + a) * step + b
                shifted = part[place : place + width]
                for k in range(width):
                    total[k] += weight * shifted[k]


@njit(**INNER)
def _sum_tiles(part, step, kernel, y, i, j, height, width):
    """Sums of float32 or float64, tile by tile; a tile that would reach beyond the block goes through scratch."""
    lanes = VECTORS * REGISTER_BYTES // y.itemsize
    weights, target = kernel.reshape(-1), y.reshape(-1)
    beside = part.size - ROWS * lanes
    for line in range(0, height, ROWS):
        for column in range(0, width, lanes):
            x_place, y_place = line * step + column, (i + line) * y.shape[1] + j + column
            if line + ROWS <= height and column + lanes <= width:
                _sum_tile(weights, kernel.shape[0], kernel.shape[1], part, x_place, step, target, y_place, y.shape[1])
            else:
                _sum_tile(weights, kernel.shape[0], kernel.shape[1], part, x_place, step, part, beside, lanes)
                for p in range(min(ROWS, height - line)):
                    for k in range(min(lanes, width - column)):
                        target[y_place + p * y.shape[1] + k] = part[beside + p * lanes + k]


@njit(**INNER)
def _sum_tile(weights, height, width, x, x_place, x_step, y, y_place, y_step):
    """One tile; kernels of more cells than `CHAIN` are cut into bands of rows."""
    bands = min((height * width + CHAIN - 1) // CHAIN, height)
    for band in range(bands):
        first = height * band // bands
        count = height * (band + 1) // bands - first
        start, place = first * width, x_place + first * x_step
        if count == 1:
            _tile_1(weights, start, count, width, x, place, x_step, y, y_place, y_step, band > 0)
        elif count == 2:
            _tile_2(weights, start, count, width, x, place, x_step, y, y_place, y_step, band > 0)
        elif count == 3:
            _tile_3(weights, start, count, width, x, place, x_step, y, y_place, y_step, band > 0)
        elif count == 4:
            _tile_4(weights, start, count, width, x, place, x_step, y, y_place, y_step, band > 0)
        else:
            _tall_tile(weights, start, count, width, x, place, x_step, y, y_place, y_step, band > 0)


def _tile(low):
    """The intrinsic for the tile of kernels with `low` rows; None: for all with ROWS - 1 or more."""

    @intrinsic
    def tile(typing, weights, start, height, width, x, x_place, x_step, y, y_place, y_step, add):
        """``y[p, lane] = sum_{a, b} x[p + a, lane + b] weights[a, b]`` for the rows and lanes of a tile.

        Parameters
        ----------
        weights, x, y : contiguous one-dimensional arrays of float32 or float64
        start, x_place, y_place : int
            Where the kernel, the tile's pixels and its sums start.
        height, width : int
            Rows and columns of the kernel.
        x_step, y_step : int
            From row to row.
        add : bool
            Add to y instead of writing it.
        """
        place = types.intp
        signature = types.void(weights, place, place, place, x, place, place, y, place, place, types.boolean)

        def code(context, builder, signature, arguments):
            weights, x, y = (
                context.make_array(signature.args[n])(context, builder, arguments[n]).data for n in (0, 4, 7)
            )
            _, start, height, width, _, x_place, x_step, _, y_place, y_step, add = arguments
            dtype = signature.args[0].dtype
            vectors = _Vectors(builder, context.get_value_type(dtype), dtype.bitwidth // 8)
            # Sums live in memory as far as this code is concerned; LLVM moves them into registers.
            zero = ir.Constant(vectors.kind, [0.0] * vectors.kind.count)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)] for _ in range(ROWS)]

            def rows(pointer, place, step, base, numbers):
                """Where rows start, by their numbers, which count from `base`."""
                found = {}
                for number in sorted(set(numbers)):
                    row = builder.add(base, ir.Constant(_I64, number))
                    found[number] = builder.gep(pointer, [builder.add(place, builder.mul(row, step))])
                return found

            def sweep(meetings, base):
                """Along the rows: add what they give where they meet, ``(r, p, a)`` for each meeting.

                Row r of the pixels and row a of the kernel, both counted from `base`, meet in row p of the sums.
                """
                pixels = rows(x, x_place, x_step, base, (r for r, _, _ in meetings))
                kernel = rows(weights, start, width, base, (a for _, _, a in meetings))
                with cgutils.for_range(builder, width, intp=_I64) as loop:
                    for r, pixel in pixels.items():
                        values = [vectors.load(pixel, loop.index, n) for n in range(VECTORS)]
                        for p, a in [(p, a) for row, p, a in meetings if row == r]:
                            weight = spread(
                                builder, builder.load(builder.gep(kernel[a], [loop.index])), vectors.kind.count
                            )
                            for value, total in zip(values, sums[p], strict=True):
                                builder.store(multiply_add(builder, weight, value, builder.load(total)), total)
                    keep_loop(builder)

            below = ROWS - 1
            top = ir.Constant(_I64, 0)
            if low is None:
                sweep([(a + p, p, a) for p in range(below) for a in range(below - p)], top)
                step = ir.Constant(_I64, 1)
                with cgutils.for_range_slice(builder, ir.Constant(_I64, below), height, step, _I64) as (row, _):
                    sweep([(0, p, -p) for p in range(ROWS)], row)
                sweep([(r, p, r - p) for r in range(below) for p in range(r + 1, ROWS)], height)
            else:
                meetings = [(a + p, p, a) for a in range(low) for p in range(ROWS)]
                # From three rows on, one loop for all of them has more values than registers.
                half = (ROWS + low) // 2 if low > 2 else ROWS + low
                for part in ([m for m in meetings if m[0] < half], [m for m in meetings if m[0] >= half]):
                    if part:
                        sweep(part, top)

            for p, target in rows(y, y_place, y_step, top, range(ROWS)).items():
                for n, total in enumerate(sums[p]):
                    with builder.if_then(add):
                        builder.store(builder.fadd(vectors.load(target, top, n), builder.load(total)), total)
                    vectors.store(builder.load(total), target, n)
            return context.get_dummy_value()

        return signature, code

    return tile


class _Vectors:
    """LLVM's instructions for vector registers of numbers of `size` bytes."""

    def __init__(self, builder, number, size):
        self.builder, self.size = builder, size
        self.kind = ir.VectorType(number, REGISTER_BYTES // size)

    def _place(self, row, column, n):
        column = self.builder.add(column, ir.Constant(_I64, n * self.kind.count))
        return self.builder.bitcast(self.builder.gep(row, [column]), self.kind.as_pointer())

    def load(self, row, column, n):
        """The n-th vector from a column on."""
        return self.builder.load(self._place(row, column, n), align=self.size)

    def store(self, value, row, n):
        """Write the n-th vector of a row."""
        self.builder.store(value, self._place(row, ir.Constant(_I64, 0), n), align=self.size)


_tile_1, _tile_2, _tile_3, _tile_4 = (_tile(low) for low in range(1, ROWS - 1))
_tall_tile = _tile(None)
