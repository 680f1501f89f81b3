"""Filters of one cell: the product of two stored matrices, of all pixels with the filters.

::

    forward                  x[pixel, channel]   filters[channel, filter]            y[pixel, filter]
    gradient by input        dz[pixel, filter]   filters[channel, filter], turned    dx[pixel, channel]

A row of A is as long as there are channels, which are few: tiles with tables (`simd`) would spend as much time on them
as on sums, so these are tiles of stored matrices (`stored`); and reading A and writing C may take longer than either.
The product goes through the pixels in blocks::

    B, in panels       p0    p1    p2
    A, C: block 0      1     2     3        in this order, with all tiles of a block and a panel at once: the block's
          block 1      4     5     6        part of A, that of C and the panel stay in the caches near the core

and while one block is computed, the next part of A is fetched, with AVX-512 a line with every turn of a tile's loop:
lines that are asked for all at once before a tile keep what it reads itself waiting.  All of A is read once and all of
C written once.  Where sums have few terms, C is what there is to wait for, and its next block is fetched, too; without
AVX-512 it always is.  Memory is the bound with few channels, and the multipliers are with many.

AVX-512 has registers for tiles of two panels, where there are as many: four vectors in each of four rows.  They read
half as much of A for a multiply-add, and write C in lines side by side.

Where sums have one term, writing C is nearly all there is to do, and a panel at a time would write every other line of
memory.  So pixel after pixel is written then, with up to four vectors of filters and of the bias in registers.

Pixels narrower than a vector, as the gradient of pictures of three colours has them, are written as whole vectors one
after the other, the next over what the one before wrote too much.
"""

import functools
import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import LINEAR, RELU
from .builders import keep_loop, spread
from .compiling import INNER, KERNEL
from .epilogue import finish, multiply_by_slope
from .fetching import emit_fetch, fetch, fetch_to_write
from .prepared import both_directions
from .processor import NARROW_ROWS, REGISTER_BYTES, STORED_DOUBLE_ROWS, WIDE_ROWS
from .product import lanes, pack_panel, panel_start, panels
from .stored import (
    FETCHING,
    MOST_ROWS,
    PANEL_VECTORS,
    WIDE_COLUMNS,
    stored_double_tile,
    stored_narrow_tile,
    stored_wide_tile,
)
from .threads import WORKERS, share
from .vectors import lanes_of, vectors_of
from .views import part
from .workspace import LINE_BYTES

# Vectors of C that are computed side by side where sums have one term: filters, bias and one pixel fill the registers.
MANY_VECTORS = 4

# Bytes of A and C of a block: for half of the first-level cache, or, where a tile takes two panels of it and what it
# reads next was asked for in time, for the second.  Multiply-adds and fewest blocks of a task.
NEAR_BLOCK, WIDE_BLOCK = 1 << 14, 1 << 16 if FETCHING else 1 << 14
TASK_WORK, TASK_BLOCKS = 1 << 19, 2 if FETCHING else 4

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "pixels depth width turned short "  # rows of A, and its columns; columns of C; whether sums have few terms
            "block tasks panels packed_size dz_size scratch_of_worker work"
        ).split()
    ]
)


def usable(geometry):
    """Whether a correlation and its gradient by input are computed here: of single cells, at least a tile of them."""
    g = geometry
    return (
        g.filters_shape[:2] == (1, 1)
        and (g.stride_height, g.stride_width, g.groups) == (1, 1, 1)
        and (g.pad_top, g.pad_bottom, g.pad_left, g.pad_right) == (0, 0, 0, 0)
        and g.batch * g.height * g.width >= MOST_ROWS
    )


@functools.lru_cache(maxsize=256)
def _plan(geometry, dtype, turned):
    """The numbers of one product, and how much scratch memory it takes."""
    g = geometry
    numbers = np.zeros(1, PLAN)
    n = numbers[0]
    n["pixels"] = pixels = g.batch * g.height * g.width
    depth, width = (g.out_channels, g.channels) if turned else (g.channels, g.out_channels)
    n["depth"], n["width"], n["turned"] = depth, width, turned
    rows = math.lcm(WIDE_ROWS, STORED_DOUBLE_ROWS or 1) if width > lanes(dtype) else NARROW_ROWS
    n["short"] = short = depth <= lanes(dtype)
    size = NEAR_BLOCK if short else WIDE_BLOCK
    n["block"] = block = max(size // ((depth + width) * dtype.itemsize) // rows, 2) * rows
    n["tasks"] = max(pixels // max(TASK_WORK // (depth * width), TASK_BLOCKS * block), 1)
    n["panels"] = panels(width, dtype)
    is_scaled = depth == 1 and width >= lanes(dtype)
    n["packed_size"] = 0 if is_scaled else n["panels"] * 2 * lanes(dtype) * depth
    n["dz_size"] = (block + MOST_ROWS) * depth
    cache_line = LINE_BYTES // dtype.itemsize
    # dz of a block; the bias and a tile of pixels narrower than a vector.
    size = n["dz_size"] + (NARROW_ROWS + 1) * lanes(dtype)
    n["scratch_of_worker"] = -(-size // cache_line) * cache_line
    n["work"] = pixels * depth * width
    return numbers, int(n["packed_size"] + WORKERS * n["scratch_of_worker"])


@njit(**KERNEL)
def _multiply(source, values, slope, slope_alpha, filters, bias, activation, alpha, target, numbers, scratch):
    plan = numbers[0]
    packed, rest = scratch[: plan.packed_size], scratch[plan.packed_size :]
    if packed.size:
        share(_pack, (filters.reshape(-1), packed, numbers), plan.panels, packed.size)
    else:
        packed = filters.reshape(-1)
    share(
        _multiply_tasks,
        (
            source.reshape(-1), values.reshape(-1), slope, slope_alpha, packed, bias, activation, alpha,
            target.reshape(-1), numbers, rest,
        ),
        plan.tasks,
        plan.work,
    )  # fmt: skip


correlate2d, correlate2d_gradient_input = both_directions(_multiply, _plan)


@njit(**INNER)
def _pack(first, last, worker, filters, packed, numbers):
    """A task is a panel."""
    plan = numbers[0]
    lanes = lanes_of(packed)
    for panel in range(first, last):
        start = panel_start(panel, max(plan.width, lanes), lanes)
        width = min(2 * lanes, plan.width - start)
        place, step = (start * plan.depth, plan.depth) if plan.turned else (start, plan.width)
        pack_panel(
            filters, place, step, plan.depth, width, plan.turned != 0, packed, panel * plan.depth * 2 * lanes
        )  # fmt: skip


@njit(**INNER)
def _multiply_tasks(
    first, last, worker, source, values, slope, slope_alpha, packed, bias, activation, alpha, target, numbers, scratch
):
    """A task is some blocks of pixels."""
    plan = numbers[0]
    lanes = lanes_of(source)
    floor = source.dtype.type(0 if activation == RELU else -np.inf)
    own = worker * plan.scratch_of_worker
    dz, wide = own, own + plan.dz_size
    depth, width = plan.depth, plan.width
    if width < lanes:
        for f in range(lanes):
            scratch[wide + f] = bias[f] if f < width else bias.dtype.type(0)
    for task in range(first, last):
        begin, end = task * plan.pixels // plan.tasks, (task + 1) * plan.pixels // plan.tasks
        while begin < end:
            # The last block takes what is left, lest there be one smaller than a tile.
            count = end - begin if end - begin < plan.block + MOST_ROWS else plan.block
            place, into = begin * depth, begin * width
            ahead, after = place + count * depth, into + count * width
            a = part(source, place, count * depth)
            if slope != LINEAR:
                multiply_by_slope(source, values, place, count * depth, slope, slope_alpha, scratch, dz)
                a = part(scratch, dz, count * depth)
            if not plan.packed_size:
                _scale_block(a, count, packed, bias, floor, target, into, after, plan)
            elif width >= lanes:
                _multiply_block(a, count, packed, bias, floor, target, into, source, ahead, after, plan)
            else:
                ends = begin + count == end
                _multiply_narrow_block(a, count, ends, packed, scratch, wide, floor, target, into, source, ahead, plan)
            if activation > RELU:
                finish(target, into, into + count * width, activation, alpha)
            begin += count


@njit(**INNER)
def _multiply_block(a, count, packed, bias, floor, c, into, source, ahead, after, plan):
    """A block of pixels; meanwhile the next is fetched, from `ahead` on in the source, from `after` on in C."""
    lanes = lanes_of(a)
    depth, width = plan.depth, plan.width
    line = LINE_BYTES // a.itemsize
    doubles = width // (2 * PANEL_VECTORS * lanes) if STORED_DOUBLE_ROWS else 0
    # The block's part of A is read so many times, and meanwhile the next one is asked for once.
    passes = plan.panels - doubles
    panel = 0
    while panel < plan.panels:
        start = panel_start(panel, width, lanes)
        b_place = panel * depth * PANEL_VECTORS * lanes
        wide = width - PANEL_VECTORS * lanes * panel > lanes
        double = panel < 2 * doubles
        rows = STORED_DOUBLE_ROWS if double else WIDE_ROWS if wide else NARROW_ROWS
        step = rows * (WIDE_COLUMNS if wide else 1) // passes
        read = 0 if FETCHING else rows * depth // passes
        written = (rows * width + passes * line - 1) // (passes * line) if plan.short or not FETCHING else 0
        for first in range(0, count, rows):
            fetch(source, ahead, read)
            for _ in range(written):
                fetch_to_write(c, after)
                after += line
            row = min(first, count - rows)
            if double:
                stored_double_tile(
                    a, row * depth, depth, None, depth, packed, b_place, bias, start, floor,
                    c, into + row * width + start, width, lanes, bool(0), source, ahead, step,
                )  # fmt: skip
            elif wide:
                stored_wide_tile(
                    a, row * depth, depth, None, depth, packed, b_place, bias, start, floor,
                    c, into + row * width + start, width, min(lanes, width - lanes), bool(0), source, ahead, step,
                )  # fmt: skip
            else:
                stored_narrow_tile(
                    a, row * depth, depth, None, depth, packed, b_place, bias, start, floor,
                    c, into + row * width + start, width, 0, bool(0), source, ahead, step,
                )  # fmt: skip
            ahead += rows * depth // passes
        panel += 2 if double else 1


def _scaled(vectors):
    """The intrinsic that writes so many vectors of pixels that see one channel."""

    @intrinsic
    def scaled(typing, a, count, b, start, bias, floor, c, into, step, last, after):
        """``c[into + m step + n] = a[m] b[start + n] + bias[start + n]``; results below the floor become it.

        The filters and the bias stay in registers.  The last of several vectors may overlap the one before: `last` is
        where it starts, counted from the first.  As much as is written is fetched from `after` on in C.
        """

        def code(context, builder, signature, arguments):
            _, count, _, start, _, floor, _, into, step, last, after = arguments
            kinds = signature.args
            pixels = context.make_array(kinds[0])(context, builder, arguments[0]).data
            cells = context.make_array(kinds[6])(context, builder, arguments[6]).data
            (read_b, _), (read_bias, _), (_, write) = (
                vectors_of(context, builder, kinds[index], arguments[index]) for index in (2, 4, 6)
            )
            lanes = REGISTER_BYTES // (a.dtype.bitwidth // 8)
            shifts = [ir.Constant(start.type, number * lanes) for number in range(max(vectors - 1, 1))]
            shifts = [*shifts, last][:vectors]
            weights = [read_b(builder.add(start, shift)) for shift in shifts]
            addends = [read_bias(builder.add(start, shift)) for shift in shifts]
            lowest = spread(builder, floor, lanes)
            with cgutils.for_range(builder, count, intp=count.type) as loop:
                pixel = spread(builder, builder.load(builder.gep(pixels, [loop.index])), lanes)
                shift = builder.mul(step, loop.index)
                place, ahead = builder.add(into, shift), builder.add(after, shift)
                for number in range(0, vectors * lanes, LINE_BYTES // (a.dtype.bitwidth // 8)):
                    line = builder.add(ahead, ir.Constant(ahead.type, number))
                    emit_fetch(builder, builder.gep(cells, [line]), 1)
                for weight, addend, lane in zip(weights, addends, shifts, strict=True):
                    result = builder.fadd(builder.fmul(pixel, weight), addend)
                    below = builder.fcmp_ordered("<", result, lowest)
                    write(builder.select(below, lowest, result), builder.add(place, lane))
                keep_loop(builder)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(a, integer, b, integer, bias, a.dtype, c, integer, integer, integer, integer), code

    return scaled


_scaled_1, _scaled_2, _scaled_3, _scaled_4 = map(_scaled, range(1, MANY_VECTORS + 1))


@njit(**INNER)
def _scale_block(a, count, b, bias, floor, c, into, after, plan):
    """A block of pixels of one channel; meanwhile the next block of C is fetched."""
    lanes, width, zero = lanes_of(a), plan.width, np.intp(0)
    last = min(width, MANY_VECTORS * lanes) - lanes
    if width <= lanes:
        _scaled_1(a, count, b, zero, bias, floor, c, into, width, last, after)
    elif width <= 2 * lanes:
        _scaled_2(a, count, b, zero, bias, floor, c, into, width, last, after)
    elif width <= 3 * lanes:
        _scaled_3(a, count, b, zero, bias, floor, c, into, width, last, after)
    else:
        for start in range(0, width, MANY_VECTORS * lanes):
            f = max(min(start, width - MANY_VECTORS * lanes), 0)
            _scaled_4(a, count, b, f, bias, floor, c, into + f, width, last, after + f)


@njit(**INNER)
def _multiply_narrow_block(a, count, ends, packed, scratch, wide, floor, c, into, source, ahead, plan):
    """The same for pixels narrower than a vector, with the bias at `wide` in scratch memory.

    Where the block ends a task, what reaches beyond it goes through scratch memory: the next pixels are another's.
    """
    lanes, rows = lanes_of(a), NARROW_ROWS
    depth, width = plan.depth, plan.width
    last = wide + lanes
    for first in range(0, count, rows):
        fetch(source, ahead, 0 if FETCHING else rows * depth)
        row = min(first, count - rows)
        if ends and (row + rows - 1) * width + lanes > count * width:
            stored_narrow_tile(
                a, row * depth, depth, None, depth, packed, 0, scratch, wide, floor,
                scratch, last, lanes, 0, bool(0), source, ahead, rows,
            )  # fmt: skip
            for pixel in range(rows):
                for f in range(width):
                    c[into + (row + pixel) * width + f] = scratch[last + pixel * lanes + f]
        else:
            stored_narrow_tile(
                a, row * depth, depth, None, depth, packed, 0, scratch, wide, floor,
                c, into + row * width, width, 0, bool(0), source, ahead, rows,
            )  # fmt: skip
        ahead += rows * depth
