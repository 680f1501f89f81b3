"""Filters three cells wide whose channels do not mix: a tile that slides over a line of pixels.

Without channels to sum up, a number of the source meets one number of each tap only, so that a tile which loads both
for every product (`product.product_lanewise`) is bound by its loads, and by those twice that lie across two lines of
the cache.  But neighbours on a line see the same source pixels, shifted by a tap::

    source    x0    x1    x2    x3    x4   ...      each loaded once for each line of the filter,
              w0    w1    w2                        and so are w0, w1 and w2
    y0     =  x0 w0 + x1 w1 + x2 w2
    y1     =          x1 w0 + x2 w1 + x3 w2
    y2     =                  x2 w0 + x3 w1 + x4 w2
      ...

For eight pixels, of which a vector of channels each is in registers, that are 13 loads for 24 multiply-adds, and the
multipliers are the bound again, if the source comes from a near cache.

Larger pictures come from farther away, and there is little to compute for each of their numbers: reading and writing
them is the bound then.  So each is read and written once, all channels of some pixels before the next pixels; and while
one line is computed, the next lines of both source and target are fetched, without which a core would wait for memory
first and compute then.  Where the picture has padding or is yet to be multiplied
by slopes, its lines are copied with zeros around them into a ring of as many lines as the filter sees, as one line
of the target after the other wants them::

    ring       line 3 | line 4 | line 2         of lines 2, 3 and 4 line 3 of the target is made;
                                 line 5         line 5 takes the place of line 2

Where source and target together are more than caches hold, results go past them (`streaming`), a few pixels at a time:
in the caches they would only take the source's place.

Lines beyond the picture are not multiplied at all.  The gradient by input is the same with the filters turned over.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import LINEAR, RELU
from .builders import keep_loop, multiply_add, spread
from .compiling import INNER, KERNEL
from .epilogue import finish, multiply_by_slope
from .fetching import emit_fetch
from .prepared import both_directions
from .processor import REGISTER_BYTES
from .product import lanes
from .streaming import PAST_CACHES, finish_streaming, stream
from .threads import WORKERS, share
from .vectors import lanes_of, vectors_of
from .views import part
from .workspace import LINE_BYTES

# Cells of a filter's line.
TAPS = 3

# Pixels of the tiles.  The last tile of a line ends with it, and so may overlap the one before.
WIDE, NARROW = 8, 4

# Numbers of the target that a task makes at least, if its picture has as many.
TASK_NUMBERS = 1 << 15

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "height width channels target_height target_width "
            "first_line first_column dilation "  # source cells of the filter's first cell for target 0, 0
            "taps b_first b_line_step b_step "  # lines of the filter, and where its cells are, first to last or turned
            "lines bands tasks "  # target lines of a task
            "ring line_size "  # lines that are kept with zeros around them, and their size
            "streamed pieces made "  # whether the target goes past the caches; pieces of its lines, and where they are
            "scratch_of_worker work"
        ).split()
    ]
)


def usable(geometry, dtype):
    """Whether a correlation and its gradient by input are computed here."""
    g = geometry
    if not g.groups == g.channels == g.out_channels >= lanes(dtype):
        return False
    return (g.kernel_width, g.dilation_width, g.stride_height, g.stride_width) == (TAPS, 1, 1, 1)


@functools.lru_cache(maxsize=256)
def _plan(geometry, dtype, backward):
    """The numbers of one correlation, and how much scratch memory it takes."""
    g = geometry
    reach = (g.kernel_height - 1) * g.dilation_height
    numbers = np.zeros(1, PLAN)
    n = numbers[0]
    source, target = (g.output_shape, g.input_shape) if backward else (g.input_shape, g.output_shape)
    _, n["height"], n["width"], n["channels"] = source
    _, n["target_height"], n["target_width"], _ = target
    n["first_line"] = g.pad_top - reach if backward else -g.pad_top
    n["first_column"] = g.pad_left - (TAPS - 1) if backward else -g.pad_left
    n["dilation"], n["taps"] = g.dilation_height, g.kernel_height
    turn = -1 if backward else 1
    n["b_first"] = (g.kernel_height * TAPS - 1) * g.channels if backward else 0
    n["b_step"], n["b_line_step"] = turn * g.channels, turn * TAPS * g.channels
    lines = max(TASK_NUMBERS // (target[2] * g.channels), 1)
    n["bands"] = -(-target[1] // lines)
    n["lines"] = -(-target[1] // n["bands"])
    n["tasks"] = g.batch * n["bands"]
    n["ring"] = reach + 1
    n["line_size"] = (target[2] + TAPS - 1) * g.channels
    # Scratch memory of each worker in cache lines of its own.
    cache_line = LINE_BYTES // dtype.itemsize
    n["made"] = -(-n["ring"] * n["line_size"] // cache_line) * cache_line
    n["scratch_of_worker"] = n["made"]
    moved = (g.batch * g.channels) * (source[1] * source[2] + target[1] * target[2]) * dtype.itemsize
    n["streamed"] = moved >= PAST_CACHES
    n["pieces"] = 1
    if n["streamed"]:
        n["pieces"] = max(target[2] // WIDE, 1)
        # A piece, behind what waits of the one before: less than a line of the cache.
        pixels = -(-target[2] // n["pieces"])
        n["scratch_of_worker"] += (-(-pixels * g.channels // cache_line) + 1) * cache_line
    n["work"] = g.batch * target[1] * target[2] * g.channels * g.kernel_height * TAPS
    return numbers, int(WORKERS * n["scratch_of_worker"])


def _tile(pixels):
    """The intrinsic for so many neighbours on a line, and as many channels as a vector holds."""

    @intrinsic
    def tile(
        typing, a, place, line_step, ring_end, ring_size, step, lines, b, b_place, b_line_step, b_step,
        bias, channel, floor, c, c_place, source, ahead, after,
    ):  # fmt: skip
        """``c[c_place + r step] = bias + sum_{i, k} a[place + i line_step + (r + k) step] b[...]``, vectors all.

        A place of `a` from `ring_end` on is `ring_size` numbers before.  As much as the tile writes is fetched from
        `source`, from `ahead` on, to be read, and from `c`, from `after` on, to be written.
        """
        integer = types.intp
        signature = types.void(
            a, integer, integer, integer, integer, integer, integer, b, integer, integer, integer,
            bias, integer, a.dtype, c, integer, source, integer, integer,
        )  # fmt: skip

        def code(context, builder, signature, arguments):
            arrays = arguments[0], arguments[14], arguments[16]
            (
                _, place, line_step, ring_end, ring_size, step, lines, _, b_place, b_line_step, b_step,
                _, channel, floor, _, c_place, _, ahead, after,
            ) = arguments  # fmt: skip
            (read_b, _), (read_bias, _), (_, write) = (
                vectors_of(context, builder, signature.args[index], arguments[index]) for index in (7, 11, 14)
            )

            def at(first, distance, count):
                return builder.add(first, builder.mul(distance, ir.Constant(distance.type, count)))

            numbers_of = {
                name: context.make_array(kind)(context, builder, array).data
                for name, kind, array in zip(("a", "c", "source"), (a, c, source), arrays, strict=True)
            }
            size = a.dtype.bitwidth // 8
            for number in range(0, pixels * REGISTER_BYTES // size, LINE_BYTES // size):
                for name, first, writing in (("source", ahead, 0), ("c", after, 1)):
                    place_of_line = builder.add(first, ir.Constant(first.type, number))
                    emit_fetch(builder, builder.gep(numbers_of[name], [place_of_line]), writing)

            addend = read_bias(channel)
            vector = addend.type
            sums = [cgutils.alloca_once_value(builder, ir.Constant(addend.type, None)) for _ in range(pixels)]
            # One pointer goes from pixel to pixel: addresses of all pixels would take more registers than there are.
            end = builder.gep(numbers_of["a"], [ring_end])
            line = cgutils.alloca_once_value(builder, builder.gep(numbers_of["a"], [place]))
            back = builder.neg(ring_size)
            with cgutils.for_range(builder, lines, intp=lines.type) as loop:
                first = builder.load(line)
                b_first = builder.add(b_place, builder.mul(b_line_step, loop.index))
                weights = [read_b(at(b_first, b_step, k)) for k in range(TAPS)]
                pointer = first
                for pixel in range(pixels + TAPS - 1):
                    value = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size)
                    for k, weight in enumerate(weights):
                        if 0 <= pixel - k < pixels:
                            total = sums[pixel - k]
                            builder.store(multiply_add(builder, value, weight, builder.load(total)), total)
                    pointer = builder.gep(pointer, [step])
                following = builder.gep(first, [line_step])
                beyond = builder.icmp_unsigned(">=", following, end)
                builder.store(builder.select(beyond, builder.gep(following, [back]), following), line)
                keep_loop(builder)
            lowest = spread(builder, floor, addend.type.count)
            for pixel, total in enumerate(sums):
                result = builder.fadd(builder.load(total), addend)
                below = builder.fcmp_ordered("<", result, lowest)
                write(builder.select(below, lowest, result), at(c_place, step, pixel))
            return context.get_dummy_value()

        return signature, code

    return tile


_wide_tile, _narrow_tile, _single_tile = _tile(WIDE), _tile(NARROW), _tile(1)


@njit(**KERNEL)
def _slide(source, values, slope, slope_alpha, filters, bias, activation, alpha, target, numbers, scratch):
    plan = numbers[0]
    share(
        _slide_tasks,
        (
            source.reshape(-1), values.reshape(-1), slope, slope_alpha, filters.reshape(-1), bias,
            activation, alpha, target.reshape(-1), numbers, scratch,
        ),
        plan.tasks,
        plan.work,
    )  # fmt: skip


correlate2d, correlate2d_gradient_input = both_directions(_slide, _plan)


@njit(**INNER)
def _slide_tasks(
    first, last, worker, source, values, slope, slope_alpha, filters, bias, activation, alpha, target, numbers, scratch
):
    """A task is a band of lines of one picture."""
    plan = numbers[0]
    own = worker * plan.scratch_of_worker
    floor = source.dtype.type(0 if activation == RELU else -np.inf)
    reach = plan.ring - 1
    line_size = plan.target_width * plan.channels
    inside = plan.first_column >= 0 and plan.first_column + plan.target_width + TAPS - 1 <= plan.width
    made = own + plan.made
    results = scratch if plan.streamed else target
    for task in range(first, last):
        waiting = 0
        picture, band = divmod(task, plan.bands)
        begin = band * plan.lines
        end = min(begin + plan.lines, plan.target_height)
        copied = max(begin + plan.first_line, 0)
        for line in range(begin, end):
            # Of the filter's lines those that see the picture.
            top = line + plan.first_line
            tap = max(-(top // plan.dilation), 0)
            taps = min((plan.height - 1 - top) // plan.dilation + 1, plan.taps) - tap
            top += tap * plan.dilation
            weights = plan.b_first + tap * plan.b_line_step
            into = (picture * plan.target_height + line) * line_size
            bottom = min(line + plan.first_line + reach, plan.height - 1)
            ahead = ((picture * plan.height + bottom + 1) * plan.width + plan.first_column) * plan.channels
            if slope != LINEAR or not inside:
                while copied <= bottom:
                    _copy_line(source, values, slope, slope_alpha, picture, copied, scratch, own, plan)
                    copied += 1
            for piece in range(plan.pieces):
                first_pixel = piece * plan.target_width // plan.pieces
                pixels = (piece + 1) * plan.target_width // plan.pieces - first_pixel
                shift = first_pixel * plan.channels
                result, after = into + shift, into + shift + line_size
                if plan.streamed:
                    # Nothing is fetched for the target then, for these lines are at hand.
                    result, after = made + waiting, made
                if inside and slope == LINEAR:
                    place = ((picture * plan.height + top) * plan.width + plan.first_column) * plan.channels
                    _slide_line(
                        source, place + shift, plan.dilation * plan.width * plan.channels, source.size, np.intp(0),
                        taps, filters, weights, bias, floor, results, result, pixels,
                        source, ahead + shift, after, plan,
                    )  # fmt: skip
                else:
                    place, ring_size = own + top % plan.ring * plan.line_size, plan.ring * plan.line_size
                    _slide_line(
                        scratch, place + shift, plan.dilation * plan.line_size, own + ring_size, ring_size,
                        taps, filters, weights, bias, floor, results, result, pixels,
                        source, ahead + shift, after, plan,
                    )  # fmt: skip
                count = pixels * plan.channels
                if activation > RELU:
                    finish(results, result, result + count, activation, alpha)
                if plan.streamed:
                    is_last = line + 1 == end and piece + 1 == plan.pieces
                    count += waiting
                    waiting = stream(part(scratch, made, count), count, target, into + shift - waiting, is_last)
    if plan.streamed:
        finish_streaming()


@njit(**INNER)
def _copy_line(source, values, slope, alpha, picture, line, scratch, own, plan):
    """A line of the source, times the slopes of an activation, into its place of the ring, with zeros around it."""
    channels = plan.channels
    cells = plan.target_width + TAPS - 1
    left = min(max(-plan.first_column, 0), cells)
    column = max(plan.first_column, 0)
    count = max(min(plan.width - column, cells - left), 0)
    place = own + line % plan.ring * plan.line_size
    for number in range(left * channels):
        scratch[np.uintp(place + number)] = 0
    place += left * channels
    start = ((picture * plan.height + line) * plan.width + column) * channels
    multiply_by_slope(source, values, start, count * channels, slope, alpha, scratch, place)
    place += count * channels
    for number in range((cells - left - count) * channels):
        scratch[np.uintp(place + number)] = 0


@njit(**INNER)
def _slide_line(
    a, place, line_step, ring_end, ring_size, taps, b, b_place, bias, floor, c, c_place, pixels,
    source, ahead, after, plan,
):  # fmt: skip
    """Pixels of a line of the target; meanwhile `source` is fetched from `ahead` on, and C from `after` on."""
    lanes, step = lanes_of(a), plan.channels
    b_line_step, b_step = plan.b_line_step, plan.b_step
    done = 0
    while done < pixels:
        count = 1
        if pixels >= NARROW:
            count = WIDE if pixels >= WIDE and pixels - done > NARROW else NARROW
        pixel = min(done, pixels - count)
        done = pixel + count
        first, into = place + pixel * step, c_place + pixel * step
        for vector in range((step + lanes - 1) // lanes):
            channel = min(vector * lanes, step - lanes)
            if count == WIDE:
                _wide_tile(
                    a, first + channel, line_step, ring_end, ring_size, step, taps, b, b_place + channel,
                    b_line_step, b_step, bias, channel, floor, c, into + channel, source, ahead, after,
                )  # fmt: skip
            elif count == NARROW:
                _narrow_tile(
                    a, first + channel, line_step, ring_end, ring_size, step, taps, b, b_place + channel,
                    b_line_step, b_step, bias, channel, floor, c, into + channel, source, ahead, after,
                )  # fmt: skip
            else:
                _single_tile(
                    a, first + channel, line_step, ring_end, ring_size, step, taps, b, b_place + channel,
                    b_line_step, b_step, bias, channel, floor, c, into + channel, source, ahead, after,
                )  # fmt: skip
            ahead += count * lanes
            after += count * lanes
