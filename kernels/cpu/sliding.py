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
one line is computed, the next line of the source is fetched, and the next pixels of the target, without which a core
would wait for memory first and compute then.

Nothing is copied for padding: lines beyond the picture are not multiplied at all, and for cells beyond the ends of a
line, which only tiles at these ends see, zeros elsewhere are read.  But a picture that is yet to be multiplied by
slopes is, line by line, in a ring of as many lines as the filter sees, as one line of the target after the other wants
them::

    ring       line 3 | line 4 | line 2         of lines 2, 3 and 4 line 3 of the target is made;
                                 line 5         line 5 takes the place of line 2

Where source and target together are more than caches hold, results go past them (`streaming`), a few pixels at a time:
in the caches they would only take the source's place.

The gradient by input is the same with the filters turned over.
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
from .processor import LAST_CACHE_BYTES, REGISTER_BYTES
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

# Source and target of so many bytes: a cache that is larger by far mostly holds the target from the call before.
STREAMED_BYTES = max(PAST_CACHES, LAST_CACHE_BYTES // 2)

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "height width channels target_height target_width "
            "first_line first_column dilation "  # source cells of the filter's first cell for target 0, 0
            "taps b_first b_line_step b_step "  # lines of the filter, and where its cells are, first to last or turned
            "lines bands tasks "  # target lines of a task
            "ring "  # lines that are kept times slopes
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
    if (g.kernel_width, g.dilation_width, g.stride_height, g.stride_width) != (TAPS, 1, 1, 1):
        return False
    # Then of a tile's cells only the outermost may lie beyond the line.
    pad_right = g.out_width - g.pad_left + TAPS - 1 - g.width
    return max(g.pad_left, pad_right) < TAPS


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
    # Scratch memory of each worker in cache lines of its own.
    cache_line = LINE_BYTES // dtype.itemsize
    n["made"] = -(-n["ring"] * source[2] * g.channels // cache_line) * cache_line
    n["scratch_of_worker"] = n["made"]
    moved = (g.batch * g.channels) * (source[1] * source[2] + target[1] * target[2]) * dtype.itemsize
    n["streamed"] = moved >= STREAMED_BYTES
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
        typing, a, place, line_step, before, ring_size, step, lines, column, width,
        b, b_place, b_line_step, b_step, bias, channel, floor, c, c_place, source, ahead, after,
    ):  # fmt: skip
        """``c[c_place + r step] = bias + sum_{i, k} a[place + i line_step + (r + k) step] b[...]``, vectors all.

        The lines from number `before` on are `ring_size` numbers before.  `place` is that of cell `column` of a line of
        `width` cells; cells beyond it are zeros.  As much as the tile writes is fetched from `source`, from
        `ahead` on, to be read, and from `c`, from `after` on, to be written.
        """
        integer = types.intp
        signature = types.void(
            a, *[integer] * 8, b, integer, integer, integer, bias, integer, a.dtype, c, integer,
            source, integer, integer,
        )  # fmt: skip

        def code(context, builder, signature, arguments):
            (
                _, place, line_step, before, ring_size, step, lines, column, width,
                _, b_place, b_line_step, b_step, _, channel, floor, _, c_place, _, ahead, after,
            ) = arguments  # fmt: skip
            (read_b, _), (read_bias, _), (_, write) = (
                vectors_of(context, builder, signature.args[index], arguments[index]) for index in (9, 13, 16)
            )

            number_of = lines.type

            def at(first, distance, count):
                return builder.add(first, builder.mul(distance, number_of(count)))

            numbers_of = {
                name: context.make_array(signature.args[index])(context, builder, arguments[index]).data
                for name, index in (("a", 0), ("c", 16), ("source", 18))
            }
            size = a.dtype.bitwidth // 8
            for number in range(0, pixels * REGISTER_BYTES // size, LINE_BYTES // size):
                for name, first, writing in (("source", ahead, 0), ("c", after, 1)):
                    place_of_line = builder.add(first, number_of(number))
                    emit_fetch(builder, builder.gep(numbers_of[name], [place_of_line]), writing)

            addend = read_bias(channel)
            vector = addend.type
            zeros = cgutils.global_constant(builder, "zeros", ir.Constant(vector, None))
            sums = [cgutils.alloca_once_value(builder, ir.Constant(addend.type, None)) for _ in range(pixels)]
            # One pointer goes from pixel to pixel: addresses of all pixels would take more registers than there are.
            line = cgutils.alloca_once_value(builder, builder.gep(numbers_of["a"], [place]))
            back = builder.neg(ring_size)

            def add_lines(at_end):
                """The filter's lines, for pixels of which some may see cells beyond the line, or none does."""
                with cgutils.for_range(builder, lines, intp=lines.type) as loop:
                    first = builder.load(line)
                    b_first = builder.add(b_place, builder.mul(b_line_step, loop.index))
                    weights = [read_b(at(b_first, b_step, k)) for k in range(TAPS)]
                    pointer = first
                    for pixel in range(pixels + TAPS - 1):
                        cell = builder.bitcast(pointer, vector.as_pointer())
                        if at_end and not TAPS - 1 <= pixel < pixels:
                            is_inside = builder.icmp_unsigned("<", builder.add(column, number_of(pixel)), width)
                            cell = builder.select(is_inside, cell, zeros)
                        value = builder.load(cell, align=size)
                        for k, weight in enumerate(weights):
                            if 0 <= pixel - k < pixels:
                                total = sums[pixel - k]
                                builder.store(multiply_add(builder, value, weight, builder.load(total)), total)
                        pointer = builder.gep(pointer, [step])
                    following = builder.gep(first, [line_step])
                    is_turn = builder.icmp_signed("==", builder.add(loop.index, number_of(1)), before)
                    builder.store(builder.select(is_turn, builder.gep(following, [back]), following), line)
                    keep_loop(builder)

            # A place before the line's first cell is a large unsigned number.
            last = builder.sub(width, number_of(pixels + TAPS - 1))
            fits = builder.icmp_signed(">=", last, number_of(0))
            fits = builder.and_(fits, builder.icmp_unsigned("<=", column, last))
            with builder.if_else(fits) as (inside, at_end):
                with inside:
                    add_lines(at_end=False)
                with at_end:
                    add_lines(at_end=True)
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
    line_size, target_line_size = plan.width * plan.channels, plan.target_width * plan.channels
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
            into = (picture * plan.target_height + line) * target_line_size
            bottom = min(line + plan.first_line + reach, plan.height - 1)
            ahead = (picture * plan.height + bottom + 1) * line_size
            a, place, before = source, (picture * plan.height + top) * line_size, 0
            if slope != LINEAR:
                while copied <= bottom:
                    start = (picture * plan.height + copied) * line_size
                    multiply_by_slope(
                        source, values, start, line_size, slope, slope_alpha,
                        scratch, own + copied % plan.ring * line_size,
                    )  # fmt: skip
                    copied += 1
                slot = top % plan.ring
                a, place, before = scratch, own + slot * line_size, -((slot - plan.ring) // plan.dilation)
            for piece in range(plan.pieces):
                first_pixel = piece * plan.target_width // plan.pieces
                pixels = (piece + 1) * plan.target_width // plan.pieces - first_pixel
                shift = first_pixel * plan.channels
                # What the next pixels are written to is fetched; further ahead it would leave the cache again.
                result, after = into + shift, into + shift + WIDE * plan.channels
                if plan.streamed:
                    # Nothing is fetched for the target then, for these lines are at hand.
                    result, after = made + waiting, made
                _slide_line(
                    a, place, before, first_pixel + plan.first_column, taps, filters, weights, bias, floor,
                    results, result, pixels, source, ahead, after, plan,
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
def _slide_line(
    a, place, before, column, taps, b, b_place, bias, floor, c, c_place, pixels, source, ahead, after, plan
):
    """Pixels of a line of the target; meanwhile `source` is fetched from `ahead` on, and C from `after` on.

    The filter's first cell for the first pixel is cell `column` of the line at `place`.
    """
    lanes, step = lanes_of(a), plan.channels
    line_size = plan.width * step
    line_step, ring_size = plan.dilation * line_size, plan.ring * line_size
    b_line_step, b_step = plan.b_line_step, plan.b_step
    ahead += column * step
    done = 0
    while done < pixels:
        count = 1
        if pixels >= NARROW:
            count = WIDE if pixels >= WIDE and pixels - done > NARROW else NARROW
        pixel = min(done, pixels - count)
        done = pixel + count
        cell, into = column + pixel, c_place + pixel * step
        first = place + cell * step
        for vector in range((step + lanes - 1) // lanes):
            channel = min(vector * lanes, step - lanes)
            if count == WIDE:
                _wide_tile(
                    a, first + channel, line_step, before, ring_size, step, taps, cell, plan.width,
                    b, b_place + channel, b_line_step, b_step, bias, channel, floor, c, into + channel,
                    source, ahead, after,
                )  # fmt: skip
            elif count == NARROW:
                _narrow_tile(
                    a, first + channel, line_step, before, ring_size, step, taps, cell, plan.width,
                    b, b_place + channel, b_line_step, b_step, bias, channel, floor, c, into + channel,
                    source, ahead, after,
                )  # fmt: skip
            else:
                _single_tile(
                    a, first + channel, line_step, before, ring_size, step, taps, cell, plan.width,
                    b, b_place + channel, b_line_step, b_step, bias, channel, floor, c, into + channel,
                    source, ahead, after,
                )  # fmt: skip
            ahead += count * lanes
            after += count * lanes
