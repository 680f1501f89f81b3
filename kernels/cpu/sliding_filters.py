"""Gradient by filters of 3 x 3 cells whose channels do not mix: a tile that slides over a line and keeps all sums.

A tile which loads a number of x and one of dz for every product (`product.product_lanewise`) is bound by its loads.
But each number of dz meets nine of x, and neighbours on a line see the same pixels of x, shifted by a cell, as in
`sliding`::

    x under a line of the filter     x0        x1        x2        x3        x4       each loaded once
    sum of its first cell         += x0 dz0 + x1 dz1 + x2 dz2
    sum of its second cell        +=          x1 dz0 + x2 dz1 + x3 dz2
    sum of its third cell         +=                   x2 dz0 + x3 dz1 + x4 dz2

The sums of a vector of channels, nine for the filter and one for the bias, and dz of three neighbours are in registers:
27 multiply-adds and three additions for 18 loads.  So the multipliers are the bound while x and dz are near.

They come from farther away: reading them is the bound of all but the smallest layers.  Lines are cut into pieces, and a
piece is a run of pixels with all of their channels; of the next line the piece under it follows, for which two of its
three lines of x are still in the first-level cache.  Where x and dz are more than caches hold, what the next line reads
is fetched meanwhile.

Nothing is copied but dz, where it is yet to be multiplied by slopes.  A line beyond the picture is a line of zeros
elsewhere; pixels beyond the ends of a line, of which there is one at most, are left out.

The lines of all pictures are cut into *slots* with sums of their own, which are then added in order.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import LINEAR
from .builders import constant, keep_loop, multiply_add, pin
from .compiling import INNER, KERNEL
from .epilogue import make_dz
from .fetching import fetch
from .plan import MOST_SLOTS, SLOT_PIXELS, SLOT_WORK
from .processor import REGISTER_BYTES
from .product import lanes
from .sliding import TAPS
from .streaming import PAST_CACHES
from .threads import WORKERS, share
from .vectors import add_vector, lanes_of, vectors_of
from .views import part
from .workspace import workspace, zeros

# Vectors of sums: those of the filter's cells, and that of the bias.
SUMS = TAPS * TAPS + 1

# Neighbours whose dz is in registers.
PIXELS = 3

# Pixels of a piece, and up to twice as many less one; lines whose dz is made at a time.
PIECE_PIXELS, BLOCK_LINES = 14, 8

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "height channels vectors line_size "  # of x
            "target_height target_width lines pieces "  # lines of all pictures, and pieces of a line
            "first_line dilation "  # line of x under the filter's first one for target line 0; from there to the next
            "left right "  # pixels of a target line whose filter reaches beyond the start and the end of a line of x
            "unpool_height unpool_width "
            "slots slot_size scratch_of_worker work is_far"  # is_far: whether x and dz come from beyond the caches
        ).split()
    ]
)

_I64 = ir.IntType(64)


def usable(geometry, dtype):
    """Whether the gradient by filters of a correlation is computed here."""
    g = geometry
    if not g.groups == g.channels == g.out_channels >= lanes(dtype):
        return False
    steps = g.dilation_width, g.stride_height, g.stride_width
    if (g.kernel_height, g.kernel_width) != (TAPS, TAPS) or steps != (1, 1, 1):
        return False
    return g.width >= 2 and g.pad_left <= 1 and _pad_right(g) <= 1


def _pad_right(g):
    return g.out_width - g.pad_left + TAPS - 1 - g.width


@functools.lru_cache(maxsize=256)
def _plan(geometry, dtype, window):
    """The numbers of one gradient, and how much scratch memory it takes."""
    g = geometry
    plan = np.zeros(1, PLAN)
    n = plan[0]
    n["height"], n["channels"], n["vectors"] = g.height, g.channels, -(-g.channels // lanes(dtype))
    n["line_size"] = g.width * g.channels
    n["target_height"], n["target_width"], n["lines"] = g.out_height, g.out_width, g.batch * g.out_height
    n["pieces"] = max(g.out_width // PIECE_PIXELS, 1)
    n["first_line"], n["dilation"] = -g.pad_top, g.dilation_height
    n["left"], n["right"] = g.pad_left, _pad_right(g)
    n["unpool_height"], n["unpool_width"] = window
    n["slot_size"] = SUMS * n["vectors"] * lanes(dtype)
    pixels = int(n["lines"]) * g.out_width
    n["work"] = pixels * n["slot_size"]
    n["slots"] = max(1, min(MOST_SLOTS, pixels // SLOT_PIXELS, n["work"] // SLOT_WORK, n["lines"]))
    n["scratch_of_worker"] = BLOCK_LINES * g.out_width * g.channels
    n["is_far"] = (
        g.height * g.width + g.out_height * g.out_width
    ) * g.batch * g.channels * dtype.itemsize >= PAST_CACHES
    return plan, int(n["slots"] * n["slot_size"] + WORKERS * n["scratch_of_worker"])


def filters_gradient(x, dy, y, winner, geometry, activation, alpha, window, dfilters, dbias):
    """The compiled function and its arguments, as `prepared` wants them."""
    plan, scratch_size = _plan(geometry, x.dtype, window)
    return _gradient, (
        x, dy, y, winner, activation, alpha, dfilters, dbias, plan, workspace(scratch_size, x.dtype),
        zeros(x.dtype, (geometry.width + TAPS) * geometry.channels),
    )  # fmt: skip


@njit(**KERNEL)
def _gradient(x, dy, y, winner, activation, alpha, dfilters, dbias, numbers, scratch, none):
    plan = numbers[0]
    size = plan.slots * plan.slot_size
    sums, rest = scratch[:size], scratch[size:]
    share(
        _add_slots,
        (
            x.reshape(-1), dy.reshape(-1), y.reshape(-1), winner.reshape(-1), activation, alpha, sums, numbers, rest,
            none,
        ),
        plan.slots,
        plan.work,
    )  # fmt: skip
    share(_add_up, (sums, dfilters.reshape(-1), dbias, numbers), SUMS, size)


@njit(**INNER)
def _add_slots(first, last, worker, x, dy, y, winner, activation, alpha, sums, numbers, scratch, none):
    """Each slot's sums over its lines: of a vector of channels those of the filter's cells, then that of the bias."""
    plan = numbers[0]
    lanes = lanes_of(x)
    window = plan.unpool_height, plan.unpool_width
    channels, width = plan.channels, plan.target_width
    below = ((TAPS - 1) * plan.dilation + 1) * plan.line_size
    for slot in range(first, last):
        into = slot * plan.slot_size
        part(sums, into, plan.slot_size)[:] = 0
        end = (slot + 1) * plan.lines // plan.slots
        for begin in range(slot * plan.lines // plan.slots, end, BLOCK_LINES):
            lines = min(BLOCK_LINES, end - begin)
            dz, dz_origin = dy, begin * width * channels
            if activation != LINEAR or window[0]:
                dz, dz_origin = scratch, worker * plan.scratch_of_worker
                make_dz(
                    dy, y, winner, window, width, channels, begin * width, lines * width, activation, alpha,
                    dz, dz_origin,
                )  # fmt: skip
            for piece in range(plan.pieces):
                start, stop = piece * width // plan.pieces, (piece + 1) * width // plan.pieces
                left = plan.left if start == 0 else 0
                right = plan.right if stop == width else 0
                for line in range(lines):
                    picture, target_line = divmod(begin + line, plan.target_height)
                    top = target_line + plan.first_line
                    place = (picture * plan.height + top) * plan.line_size + (start - plan.left) * channels
                    dz_place = dz_origin + (line * width + start) * channels
                    fetched = (stop - start) * lanes
                    for vector in range(plan.vectors):
                        channel = min(vector * lanes, channels - lanes)
                        if plan.is_far:
                            fetch(x, place + below + vector * fetched, fetched)
                            fetch(dz, dz_place + width * channels + vector * fetched, fetched)
                        _add_pixels(
                            x, place + channel, top, plan.height, plan.dilation, plan.line_size, channels, none,
                            left, stop - start - left - right, right, dz, dz_place + channel,
                            sums, into + vector * SUMS * lanes,
                        )  # fmt: skip


@intrinsic
def _add_pixels(
    typing, x, place, top, height, dilation, line_size, step, none, left, middle, right, dz, dz_place, sums, into
):
    """Add to the sums of a vector of channels what some pixels of a target line have of them.

    Parameters
    ----------
    x, place : array, int
        Where the first filter's first cell is, which may lie beyond the picture.
    top, height, dilation : int
        Its line, how many there are, and from a line of the filter to the next.
    line_size, step : int
        From a line of x to the next, and from a pixel to the next.
    none : array
        At least a line of zeros.
    left, middle, right : int
        Pixels of which the filter's first cells lie beyond the line, none, and its last cells.
    dz, dz_place : array, int
    sums, into : array, int
    """
    integer = types.intp
    signature = types.void(x, *[integer] * 6, none, integer, integer, integer, dz, integer, sums, integer)

    def code(context, builder, signature, arguments):
        _, place, top, height, dilation, line_size, step, _, left, middle, right, _, dz_place, _, into = arguments
        pixels, zeros = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 7))
        (read_dz, _), (read_sums, write_sums) = (
            vectors_of(context, builder, signature.args[i], arguments[i]) for i in (11, 13)
        )
        size = x.dtype.bitwidth // 8
        vector = ir.VectorType(pixels.type.pointee, REGISTER_BYTES // size)
        *totals, total_of_bias = (cgutils.alloca_once_value(builder, constant(vector, 0.0)) for _ in range(SUMS))
        dz_now = cgutils.alloca_once_value(builder, dz_place)
        lines_now = []
        for tap in range(TAPS):
            line = builder.mul(dilation, _I64(tap))
            inside = builder.icmp_unsigned("<", builder.add(top, line), height)
            pointer = builder.gep(pixels, [builder.add(place, builder.mul(line, line_size))])
            lines_now.append(cgutils.alloca_once_value(builder, builder.select(inside, pointer, zeros)))

        def add(count, cells):
            """What so many neighbours have of the sums of these cells of each line of the filter."""
            gradients = []
            for _ in range(count):
                gradient = read_dz(builder.load(dz_now))
                gradients.append(gradient)
                builder.store(builder.fadd(builder.load(total_of_bias), gradient), total_of_bias)
                builder.store(builder.add(builder.load(dz_now), step), dz_now)
            # LLVM would keep what the next turn loads again, and run out of registers.
            pointers = [pin(builder, builder.load(line)) for line in lines_now]
            for column in range(count + TAPS - 1):
                if column == count:
                    for line, pointer in zip(lines_now, pointers, strict=True):
                        builder.store(pointer, line)
                seen_by = [(cell, gradients[column - cell]) for cell in cells if 0 <= column - cell < count]
                # A column of all lines before the next one, lest a sum waits for itself.
                for tap, pointer in enumerate(pointers if seen_by else ()):
                    value = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size)
                    for cell, gradient in seen_by:
                        total = totals[tap * TAPS + cell]
                        builder.store(multiply_add(builder, value, gradient, builder.load(total)), total)
                pointers = [builder.gep(pointer, [step]) for pointer in pointers]
            keep_loop(builder)

        for times, count, cells in (
            (left, 1, range(1, TAPS)),
            (builder.udiv(middle, _I64(PIXELS)), PIXELS, range(TAPS)),
            (builder.urem(middle, _I64(PIXELS)), 1, range(TAPS)),
            (right, 1, range(TAPS - 1)),
        ):
            with cgutils.for_range(builder, times, intp=_I64):
                add(count, cells)
        for number, total in enumerate([*totals, total_of_bias]):
            where = builder.add(into, _I64(number * vector.count))
            write_sums(builder.fadd(read_sums(where), builder.load(total)), where)
        return context.get_dummy_value()

    return signature, code


@njit(**INNER)
def _add_up(first, last, worker, sums, dfilters, dbias, numbers):
    """Add the slots in order: a task is one cell of the filters, or the bias."""
    plan = numbers[0]
    lanes = lanes_of(sums)
    for row in range(first, last):
        for vector in range(plan.vectors):
            channel = min(vector * lanes, plan.channels - lanes)
            gradient = part(dbias, channel, lanes)
            if row < SUMS - 1:
                gradient = part(dfilters, row * plan.channels + channel, lanes)
            gradient[:] = 0
            for slot in range(plan.slots):
                add_vector(sums, slot * plan.slot_size + (vector * SUMS + row) * lanes, gradient, np.intp(0))
