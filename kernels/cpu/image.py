"""Cross-correlation of one picture, without batch and channels, in any dtype.

::

    y[i, j] = sum_{a, b} X[i + a, j + b] kernel[a, b]

X is the picture x continued beyond its edges: ``X[p, q] = x[rows[p], columns[q]]``, and `fillvalue` where
rows[p] or columns[q] is -1.  So two vectors of indices hold every boundary: zeros, wrapped, mirrored.

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

Kernels of up to `SHORT` rows have tiles of four rows instead of six, which leaves registers for a whole column of the
kernel: its weights are spread once for all rows of pixels.

A task is a block of outputs.  Where a kernel is short and the block's pixels lie in the picture as they do in X, they
are read where they are: for 3 x 3 cells there is so little to compute that reading and writing the picture is the
bound, and pixels come from memory while others are multiplied.  Everything else (edges, tall kernels, other dtypes)
is first copied into scratch memory of the task's worker, which stays in the second-level cache: X is never made as a
whole, and the many lines that a tall kernel sees do not compete for the same places of the cache where pictures' lines
are a power of two apart.

Where picture and sums have `streaming.PAST_CACHES` bytes together, the sums of small kernels go past the caches.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import views
from .builders import keep_loop, multiply_add, spread
from .compiling import INNER, KERNEL
from .processor import REGISTER_BYTES, WIDE_ROWS
from .streaming import PAST_CACHES, finish_streaming
from .threads import WORKERS, share
from .vectors import lanes_of
from .workspace import LINE_BYTES, workspace

# Shape of a tile.  Processors with 32 vector registers, which are those whose tiles of products are taller, hold four
# vectors in a row; 16 registers hold two.
ROWS = 6
VECTORS = 4 if WIDE_ROWS > ROWS else 2

# Rows of the largest kernel that has tiles of its own, whose shape leaves registers for a column of it.
SHORT = 7
SHORT_ROWS = 4

# Cells of the largest kernel whose sums go past the caches: computing those of larger ones takes longer than memory.
MOST_STREAMED_CELLS = REGISTER_BYTES // 2

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
    size = scratch_size(height, kernel.shape[0], step, lanes)
    scratch = workspace(WORKERS * size, y.dtype)
    # A column of the kernel is what tiles read together.
    weights = np.ascontiguousarray(kernel.T)
    _correlate(
        x, rows, columns, y.dtype.type(fillvalue), weights, y, height, width, step, size, scratch, tiled, by_line
    )


def scratch_size(height, kernel_height, step, lanes):
    """Numbers of a worker's scratch memory: lines of a block's part of X, `step` apart, and a tile beside them."""
    # The last tile reads lines below the block, too; more of them where tiles of four rows follow each other.
    lines = max(_whole(height, rows) for rows in (ROWS, SHORT_ROWS)) + kernel_height - 1
    return lines * step + ROWS * lanes


def _whole(count, step):
    """The next multiple of the step."""
    return -(-count // step) * step


@njit(**KERNEL)
def _correlate(x, rows, columns, fillvalue, weights, y, height, width, step, size, scratch, tiled, by_line):
    run = _longest_run(columns)
    # Where lines of memory start in every row of y: so many columns from one to the next, from this column on.  Tiles
    # that start there store whole lines.
    grain = LINE_BYTES // y.itemsize if y.shape[1] * y.itemsize % LINE_BYTES == 0 else 1
    line_start = -y.ctypes.data % LINE_BYTES // y.itemsize
    streamed = grain > 1 and (x.size + y.size) * y.itemsize >= PAST_CACHES and weights.size <= MOST_STREAMED_CELLS
    tasks = -(-y.shape[0] // height) * -(-y.shape[1] // width)
    arguments = (
        x, rows, columns, run, fillvalue, weights, y, height, width, step, size, scratch, grain, line_start, streamed,
        tiled, by_line,
    )  # fmt: skip
    share(_correlate_blocks, arguments, tasks, y.size * weights.size)


@njit(**INNER)
def _correlate_blocks(
    first, last, worker, x, rows, columns, run, fillvalue, weights, y, height, width, step, size, scratch,
    grain, line_start, streamed, tiled, by_line,
):  # fmt: skip
    # Flat arrays, once for all tasks: `views` says what others would cost.
    source, target, cells = x.reshape(-1), y.reshape(-1), weights.reshape(-1)
    own = views.part(scratch, worker * size, size)
    kernel_width, kernel_height = weights.shape
    beside = -(-y.shape[1] // width)
    for task in range(first, last):
        i, j = task // beside * height, task % beside * width
        bottom, end = min(i + height, y.shape[0]), min(j + width, y.shape[1])
        part_rows = views.part(rows, i, bottom - i + kernel_height - 1)
        # Columns `begin .. stop - 1` are summed where their pixels lie, the others beside them from a copy.
        begin = stop = end
        if tiled is not None:
            begin, stop = _sum_in_place(
                source, x.shape[1], part_rows, columns, run, cells, kernel_width, kernel_height, target, y.shape[1],
                i, j, bottom, end, grain, line_start, streamed,
            )  # fmt: skip
        for left, right in ((j, begin), (stop, end)):
            if left < right:
                part_columns = views.part(columns, left, right - left + kernel_width - 1)
                copy_part(source, x.shape[1], part_rows, part_columns, fillvalue, own, step)
                place, height_left = i * y.shape[1] + left, bottom - i
                if tiled is not None:
                    _sum_tiles(
                        own, step, cells, kernel_width, kernel_height,
                        target, place, y.shape[1], height_left, right - left,
                    )  # fmt: skip
                if by_line is not None:
                    _sum_lines(
                        own, step, cells, kernel_width, kernel_height,
                        target, place, y.shape[1], height_left, right - left,
                    )  # fmt: skip
    if streamed:
        finish_streaming()


@njit(**INNER)
def _longest_run(places):
    """Where the longest run of places begins and stops that lie next to each other in the picture, one by one."""
    begin = stop = start = 0
    for k in range(places.size):
        if places[k] < 0:
            start = k + 1
        elif k > start and places[k] != places[k - 1] + 1:
            start = k
        if k + 1 - start > stop - begin:
            begin, stop = start, k + 1
    return begin, stop


@njit(**INNER)
def copy_part(source, source_width, rows, columns, fillvalue, part, step):
    """Copy a part of the continued picture, by runs of columns that lie next to each other in the picture too."""
    start = 0
    while start < columns.size:
        column, end = columns[start], start + 1
        follows = 1 if column >= 0 else 0
        while end < columns.size and columns[end] == columns[end - 1] + follows:
            end += 1
        for p in range(rows.size):
            target = views.part(part, p * step + start, end - start)
            if rows[p] < 0 or column < 0:
                for k in range(target.size):
                    target[k] = fillvalue
            else:
                pixels = views.part(source, np.int64(rows[p]) * source_width + column, target.size)
                for k in range(target.size):
                    target[k] = pixels[k]
        start = end


@njit(**INNER)
def _sum_lines(part, step, weights, kernel_width, kernel_height, y, y_place, y_step, height, width):
    """Sums of any dtype: the innermost loop runs along a line of X and of y, and becomes vector instructions."""
    for line in range(height):
        total = views.part(y, y_place + line * y_step, width)
        total[:] = 0
        for a in range(kernel_height):
            for b in range(kernel_width):
                weight = weights[b * kernel_height + a]
                shifted = views.part(part, (line + a) * step + b, width)
                for k in range(width):
                    total[k] += weight * shifted[k]


@njit(**INNER)
def _sum_in_place(
    x, x_step, rows, columns, run, weights, kernel_width, kernel_height, y, y_step,
    top, left, bottom, right, grain, line_start, streamed,
):  # fmt: skip
    """The columns of a block that can be summed without a copy, and are: the first, and the one after the last.

    They are whole tiles, and start with a line of memory where one starts every `grain` columns.  The last tiles of the
    block end with it, and so may overlap those above: sums of several bands must not be computed twice.
    """
    first, stop = _longest_run(rows)
    lanes = VECTORS * lanes_of(y)
    begin = max(left, run[0])
    begin += (line_start - begin) % grain
    tiles = (min(right, run[1] - kernel_width + 1) - begin) // lanes
    if tiles <= 0 or stop - first < rows.size or bottom - top < SHORT_ROWS:
        return right, right
    if kernel_height > SHORT or weights.size > CHAIN:
        return right, right
    for line in range(top, bottom, SHORT_ROWS):
        row = min(line, bottom - SHORT_ROWS)
        place, into = np.int64(rows[row - top]) * x_step + columns[begin], row * y_step + begin
        _sum_bands(weights, kernel_width, kernel_height, x, place, x_step, y, into, y_step, tiles, streamed)
    return begin, begin + tiles * lanes


@njit(**INNER)
def _sum_tiles(part, step, weights, kernel_width, kernel_height, y, y_place, y_step, height, width):
    """Sums of float32 or float64 from a copy; tiles that would reach beyond the block go through scratch."""
    lanes = VECTORS * lanes_of(y)
    beside = part.size - ROWS * lanes
    rows = SHORT_ROWS if _is_short(weights, kernel_height) else ROWS
    for line in range(0, height, rows):
        tiles = width // lanes if line + rows <= height else 0
        place = y_place + line * y_step
        _sum_bands(weights, kernel_width, kernel_height, part, line * step, step, y, place, y_step, tiles, False)
        for column in range(tiles * lanes, width, lanes):
            left = line * step + column
            _sum_bands(weights, kernel_width, kernel_height, part, left, step, part, beside, lanes, 1, False)
            for p in range(min(rows, height - line)):
                for k in range(min(lanes, width - column)):
                    y[place + column + p * y_step + k] = part[beside + p * lanes + k]


@njit(**INNER)
def _bands(weights, kernel_height):
    """Into how many bands of rows a kernel is cut: one, unless it has more than `CHAIN` cells."""
    return min((weights.size + CHAIN - 1) // CHAIN, kernel_height)


@njit(**INNER)
def _is_short(weights, kernel_height):
    """Whether all bands of the kernel are short."""
    return kernel_height <= SHORT * _bands(weights, kernel_height)


@njit(**INNER)
def _sum_bands(weights, width, height, x, x_place, x_step, y, y_place, y_step, tiles, streamed):
    """So many tiles beside each other, for a kernel of `width` and `height`; `streamed` ones are whole lines."""
    bands = _bands(weights, height)
    short = _is_short(weights, height)
    for band in range(bands):
        first = height * band // bands
        count = height * (band + 1) // bands - first
        strip = (weights, first, height, count, width, x, x_place + first * x_step, x_step)
        into = (y, y_place, y_step, tiles, band > 0, streamed)
        if not short:
            _tall_tiles(*strip, *into)
        elif count == 1:
            _tiles_1(*strip, *into)
        elif count == 2:
            _tiles_2(*strip, *into)
        elif count == 3:
            _tiles_3(*strip, *into)
        elif count == 4:
            _tiles_4(*strip, *into)
        elif count == 5:
            _tiles_5(*strip, *into)
        elif count == 6:
            _tiles_6(*strip, *into)
        else:
            _tiles_7(*strip, *into)


def _tiles(short):
    """The intrinsic for tiles of kernels with `short` rows; None: for kernels, or their bands, that are not short."""
    tile_rows = SHORT_ROWS if short else ROWS

    @intrinsic
    def tiles(
        typing, weights, start, column_step, height, width, x, x_place, x_step, y, y_place, y_step, count, add, streamed
    ):  # fmt: skip
        """``y[p, lane] = sum_{a, b} x[p + a, lane + b] weights[b, a]`` for the rows and lanes of tiles in a line.

        Parameters
        ----------
        weights, x, y : contiguous one-dimensional arrays of float32 or float64
        start, x_place, y_place : int
            Where the kernel, the first tile's pixels and its sums start.
        column_step : int
            From column to column of the kernel; its rows are next to each other.
        height, width : int
            Rows and columns of the kernel; no fewer than ``ROWS - 1`` rows for tall kernels.
        x_step, y_step : int
            From row to row.
        count : int
            Number of tiles.
        add : bool
            Add to y instead of writing it.
        streamed : bool
            Write past the caches, without adding: the tiles are whole lines, and the kernel is short.
        """
        place = types.intp
        signature = types.void(
            weights, place, place, place, place, x, place, place, y, place, place, place, types.boolean, types.boolean
        )  # fmt: skip

        def code(context, builder, signature, arguments):
            weights, x, y = (
                context.make_array(signature.args[n])(context, builder, arguments[n]).data for n in (0, 5, 8)
            )
            _, start, column_step, height, width, _, x_place, x_step, _, y_place, y_step, count, add, streamed = (
                arguments
            )
            dtype = signature.args[0].dtype
            vectors = _Vectors(builder, context.get_value_type(dtype), dtype.bitwidth // 8)
            # Sums live in memory as far as this code is concerned; LLVM moves them into registers.
            zero = ir.Constant(vectors.kind, [0.0] * vectors.kind.count)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)] for _ in range(tile_rows)]
            top = ir.Constant(_I64, 0)

            def rows(pointer, place, step, base, numbers):
                """Where rows start, by their numbers, which count from `base`."""
                found = {}
                for number in sorted(set(numbers)):
                    row = builder.add(base, ir.Constant(_I64, number))
                    found[number] = builder.gep(pointer, [builder.add(place, builder.mul(row, step))])
                return found

            def sweep(meetings, base, column):
                """Along the rows, from a column on: add what they give where they meet.

                Row r of the pixels and row a of the kernel, both counted from `base`, meet in row p of the sums:
                ``(r, p, a)`` for each meeting.
                """
                pixels = rows(x, x_place, x_step, base, (r for r, _, _ in meetings))
                kernel = builder.gep(weights, [builder.add(start, base)])
                with cgutils.for_range(builder, width, intp=_I64) as loop:
                    cells = builder.gep(kernel, [builder.mul(loop.index, column_step)])
                    spread_weights = {
                        a: spread(builder, builder.load(builder.gep(cells, [ir.Constant(_I64, a)])), vectors.kind.count)
                        for a in sorted({a for _, _, a in meetings})
                    }
                    for r, pixel in pixels.items():
                        values = [vectors.load(pixel, builder.add(column, loop.index), n) for n in range(VECTORS)]
                        for p, a in [(p, a) for row, p, a in meetings if row == r]:
                            for value, total in zip(values, sums[p], strict=True):
                                added = multiply_add(builder, spread_weights[a], value, builder.load(total))
                                builder.store(added, total)
                    keep_loop(builder)

            with cgutils.for_range(builder, count, intp=_I64) as tile:
                column = builder.mul(tile.index, ir.Constant(_I64, VECTORS * vectors.kind.count))
                for total in [total for line in sums for total in line]:
                    builder.store(zero, total)
                if short:
                    sweep([(a + p, p, a) for a in range(short) for p in range(tile_rows)], top, column)
                else:
                    below = ROWS - 1
                    sweep([(a + p, p, a) for p in range(below) for a in range(below - p)], top, column)
                    step = ir.Constant(_I64, 1)
                    with cgutils.for_range_slice(builder, ir.Constant(_I64, below), height, step, _I64) as (row, _):
                        sweep([(0, p, -p) for p in range(ROWS)], row, column)
                    sweep([(r, p, r - p) for r in range(below) for p in range(r + 1, ROWS)], height, column)
                into = [
                    (total, target, n)
                    for p, target in rows(y, y_place, y_step, top, range(tile_rows)).items()
                    for n, total in enumerate(sums[p])
                ]
                with builder.if_then(add):
                    for total, target, n in into:
                        builder.store(builder.fadd(vectors.load(target, column, n), builder.load(total)), total)
                with builder.if_else(builder.and_(streamed, cgutils.bool_t(bool(short)))) as (past, cached):
                    for branch, write in ((past, vectors.stream), (cached, vectors.store)):
                        with branch:
                            for total, target, n in into:
                                write(builder.load(total), target, column, n)
                keep_loop(builder)
            return context.get_dummy_value()

        return signature, code

    return tiles


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

    def store(self, value, row, column, n):
        """Write the n-th vector from a column on."""
        self.builder.store(value, self._place(row, column, n), align=self.size)

    def stream(self, value, row, column, n):
        """`store` past the caches, where a line or a half of one begins."""
        written = self.builder.store(value, self._place(row, column, n), align=REGISTER_BYTES)
        written.set_metadata("nontemporal", self.builder.module.add_metadata([ir.IntType(32)(1)]))


_tiles_1, _tiles_2, _tiles_3, _tiles_4, _tiles_5, _tiles_6, _tiles_7 = map(_tiles, range(1, SHORT + 1))
_tall_tiles = _tiles(None)
