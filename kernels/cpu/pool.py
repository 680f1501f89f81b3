"""Max and average pooling with their gradients; windows may overlap.

Padding cells do not exist: a maximum never takes them and an average does not count them.
The gradients are gathers: every input cell sums over the windows that cover it, in order,
so that no two tasks write one cell.

Windows of two by two cells side by side without padding, which most networks have, get loops of their own over the
channels, without any test.  Arrays are flat there, and places in them unsigned: a place that might be negative would
mean to Numba the distance from the end, and keep the compiler from using vectors.

These loops do little to each number, so that memory bounds them.  While the maxima of a row of windows are found, what
the next row reads is asked for.  The gradients are all writing, a row of cells at a time: where they and dy are more
than caches hold, they go past them (`streaming`).
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .blocks import BLOCK, MOVE
from .builders import constant, spread
from .compiling import INNER, KERNEL
from .elementary import select
from .fetching import fetch
from .local import local_array
from .prepared import prepared
from .processor import REGISTER_BYTES
from .streaming import PAST_CACHES, finish_streaming, stream
from .threads import share
from .vectors import lanes_of, vectors_of
from .views import flat
from .workspace import LINE_BYTES

# Channels that are summed up at a time.
LINE = 1024

# Tasks there are at least, where there are as many rows: few rows are shared evenly.
TASKS = 16

# Numbers of a piece of results that go past the caches, and room for it behind those that wait for a line to be full;
# and how many times as many rows a task has then, since each task waits for its first rows.
PIECE = 1 << 9
PIECE_ROOM = PIECE + LINE_BYTES // 4
STREAMED_ROWS = 16


@njit(**INNER)
def rows_of_task(numbers, rows):
    """How many of so many rows of pictures make a task, of so many numbers each."""
    return max(min(BLOCK // max(numbers, 1), rows // TASKS), 1)


def _window(geometry):
    """What is not to be seen from the arrays; plain integers cost a third of what a named tuple does to hand over."""
    g = geometry
    return g.kernel_height, g.kernel_width, g.stride_height, g.stride_width, g.pad_top, g.pad_left


def _is_plain(geometry):
    """Whether windows of two by two cells stand side by side, and no row is cut by the picture's edges.

    Asked in Python, so that only the loops that are wanted are compiled.
    """
    g = geometry
    fits = 2 * g.out_height <= g.height and 2 * g.out_width <= g.width
    return fits and _window(g) == (2, 2, 2, 2, 0, 0)


@njit(**INNER)
def copy_numbers(source, start, destination, place, count):
    """Copy so many numbers from a place of one flat array to a place of another; both places are unsigned."""
    for c in range(count):
        destination[place + c] = source[start + c]


# ------------------------------------------------------------------ maximum


@njit(**INNER)
def beats(value, best):
    """Whether a later cell takes the maximum: "not <=", so that NaN does; best == best, so that nothing beats it."""
    return (not value <= best) & (best == best)


@prepared
def max_pool2d(x, geometry, y, winner):
    """The largest cell of each window, and its number within the window, row by row."""
    if _is_plain(geometry):
        return _max_pool2d_2x2, (x, y, winner)
    return _max_pool2d, (x, _window(geometry), y, winner)


@njit(**KERNEL)
def _max_pool2d_2x2(x, y, winner):
    rows = y.shape[0] * y.shape[1]
    step = rows_of_task(x[0, 0].size * 2, rows)
    share(_max_rows_2x2, (x, y, winner, step), (rows + step - 1) // step, x.size * MOVE)


@njit(**KERNEL)
def _max_pool2d(x, window, y, winner):
    rows = y.shape[0] * y.shape[1]
    step = rows_of_task(x[0, 0].size * window[2], rows)
    share(_max_rows, (x, window, y, winner, step), (rows + step - 1) // step, x.size * MOVE)


def largest_cell(builder, cells):
    """LLVM's code for the largest of some vectors, and for its number, in integers as wide as theirs."""
    best, *others = cells
    bits = {ir.FloatType: 32, ir.DoubleType: 64}[type(best.type.element)]
    kind = ir.VectorType(ir.IntType(bits), best.type.count)
    winner = constant(kind, 0)
    for number, value in enumerate(others, 1):
        # As in `beats`: "not <=", which NaN is, and nothing beats NaN.
        wins = builder.and_(builder.fcmp_unordered(">", value, best), builder.fcmp_ordered("ord", best, best))
        winner = builder.select(wins, constant(kind, number), winner)
        best = builder.select(wins, value, best)
    return best, winner


@intrinsic
def _largest_of_four(typing, cells, corner, right, below, tops, places, out):
    """A vector of channels of one window: the largest of four cells, and which one it is."""

    def code(context, builder, signature, arguments):
        _, corner, right, below, _, _, out = arguments
        read, _ = vectors_of(context, builder, signature.args[0], arguments[0])
        _, write_top = vectors_of(context, builder, signature.args[4], arguments[4])
        _, write_place = vectors_of(context, builder, signature.args[5], arguments[5], like=signature.args[0])
        lower = builder.add(corner, below)
        places = [corner, builder.add(corner, right), lower, builder.add(lower, right)]
        best, winner = largest_cell(builder, [read(place) for place in places])
        write_top(best, out)
        numbers = ir.VectorType(context.get_value_type(signature.args[5].dtype), best.type.count)
        write_place(builder.trunc(winner, numbers), out)
        return context.get_dummy_value()

    place = types.intp
    return types.void(cells, place, place, place, tops, places, place), code


@njit(**INNER)
def _largest_of_window(cells, corner, right, below, channels, tops, places, out):
    """All channels of one window of two by two cells, at least a vector of them."""
    lanes = lanes_of(cells)
    for c in range(0, channels, lanes):
        shift = min(c, channels - lanes)  # the last vector may overlap the one before
        _largest_of_four(cells, corner + shift, right, below, tops, places, out + shift)


@njit(**INNER)
def _max_rows_2x2(first, last, worker, x, y, winner, step):
    batch, out_height, out_width, channels = y.shape
    height, below = x.shape[1], x[0, 0].size
    cells, tops, places = x.reshape(-1), y.reshape(-1), winner.reshape(-1)
    lanes = lanes_of(x)
    for row in range(first * step, min(last * step, batch * out_height)):
        picture, i = divmod(row, out_height)
        corner, out = (picture * height + 2 * i) * below, row * out_width * channels
        if channels < lanes:
            largest_of_windows(
                cells, corner, below, channels, (2, 2), out_width, channels, tops, places, out, channels
            )  # fmt: skip
            continue
        ahead = corner + 2 * below
        for _ in range(out_width):
            fetch(cells, ahead, 4 * channels)
            _largest_of_window(cells, corner, channels, below, channels, tops, places, out)
            corner += 2 * channels
            out += channels
            ahead += 4 * channels


@njit(**INNER)
def largest_of_windows(cells, corner, below, right, window, count, channels, tops, places, out, next_out):
    """The largest cells of `count` windows side by side, and their numbers.

    Parameters
    ----------
    cells, corner, below, right : array, int, int, int
        The first window starts at `corner`; from there it is so far to the cell below, and to that on the right.
    window : pair of int
        Cells of a window, `NO_WINDOW` excluded.
    count, channels : int
    tops, places, out, next_out : array, array, int, int
        The first window's results go to `out`, the next one's so far behind it.
    """
    lanes = REGISTER_BYTES // cells.itemsize
    number = places.dtype.type
    for _ in range(count):
        if window == (2, 2) and channels >= lanes:
            _largest_of_window(cells, corner, right, below, channels, tops, places, out)
        else:
            for c in range(channels):
                best, place = cells[corner + c], number(0)
                for a in range(window[0]):
                    for b in range(window[1]):
                        value = cells[corner + c + a * below + b * right]
                        if beats(value, best):
                            best, place = value, number(a * window[1] + b)
                tops[out + c] = best
                places[out + c] = place
        corner += window[1] * right
        out += next_out


@njit(**INNER)
def _max_rows(first, last, worker, x, window, y, winner, step):
    kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left = window
    batch, out_height, out_width, channels = y.shape
    height, width = x.shape[1], x.shape[2]
    cells, tops, places = x.reshape(-1), y.reshape(-1), winner.reshape(-1)
    best, place = local_array(LINE, x), local_array(LINE, winner)
    for row in range(first * step, min(last * step, batch * out_height)):
        picture, i = divmod(row, out_height)
        top, bottom = i * stride_height - pad_top, i * stride_height - pad_top + kernel_height
        for j in range(out_width):
            left, right = j * stride_width - pad_left, j * stride_width - pad_left + kernel_width
            for start in range(0, channels, LINE):
                some = np.uintp(min(LINE, channels - start))
                for u in range(max(top, 0), min(bottom, height)):
                    for v in range(max(left, 0), min(right, width)):
                        cell = np.uintp(((picture * height + u) * width + v) * channels + start)
                        number = winner.dtype.type((u - top) * kernel_width + v - left)
                        if u == max(top, 0) and v == max(left, 0):
                            for c in range(some):
                                best[c] = cells[cell + c]
                                place[c] = number
                        else:
                            for c in range(some):
                                value = cells[cell + c]
                                place[c] = select(beats(value, best[c]), number, place[c])
                                # This is `beats` in two steps, of which each is one instruction.
                                larger = select(value > best[c], value, best[c])
                                best[c] = select(value != value, value, larger)
                out = np.uintp((row * out_width + j) * channels + start)
                copy_numbers(best, np.uintp(0), tops, out, some)
                copy_numbers(place, np.uintp(0), places, out, some)


@prepared
def max_pool2d_gradient(dy, winner, geometry, dx):
    """dx[cell] = sum of dy over the windows whose winner is the cell."""
    return _gradient_of(dy, winner.reshape(-1), geometry, dx)


# ------------------------------------------------------------------ mean


@njit(**INNER)
def _real_cells(first, kernel, extent):
    """How many of the cells first .. first + kernel - 1 lie within 0 .. extent - 1."""
    return min(first + kernel, extent) - max(first, 0)


@prepared
def average_pool2d(x, geometry, y):
    """The mean of the real cells of each window."""
    if _is_plain(geometry):
        return _average_pool2d_2x2, (x, y)
    return _average_pool2d, (x, _window(geometry), y)


@njit(**KERNEL)
def _average_pool2d_2x2(x, y):
    rows = y.shape[0] * y.shape[1]
    step = rows_of_task(x[0, 0].size * 2, rows)
    share(_average_rows_2x2, (x, y, step), (rows + step - 1) // step, x.size * MOVE)


@njit(**KERNEL)
def _average_pool2d(x, window, y):
    rows = y.shape[0] * y.shape[1]
    step = rows_of_task(x[0, 0].size * window[2], rows)
    share(_average_rows, (x, window, y, step), (rows + step - 1) // step, x.size * MOVE)


@intrinsic
def _mean_of_four(typing, cells, corner, right, below, means, out):
    """A vector of channels of one window: the mean of four cells."""

    def code(context, builder, signature, arguments):
        _, corner, right, below, _, out = arguments
        read, _ = vectors_of(context, builder, signature.args[0], arguments[0])
        _, write = vectors_of(context, builder, signature.args[4], arguments[4])
        lower = builder.add(corner, below)
        upper_sum, lower_sum = (builder.fadd(read(place), read(builder.add(place, right))) for place in (corner, lower))
        total = builder.fadd(upper_sum, lower_sum)
        write(builder.fmul(total, constant(total.type, 0.25)), out)
        return context.get_dummy_value()

    place = types.intp
    return types.void(cells, place, place, place, means, place), code


@njit(**INNER)
def _average_rows_2x2(first, last, worker, x, y, step):
    batch, out_height, out_width, channels = y.shape
    height, below = x.shape[1], x.shape[2] * channels
    cells, means = x.reshape(-1), y.reshape(-1)
    lanes, quarter = lanes_of(x), x.dtype.type(0.25)
    for row in range(first * step, min(last * step, batch * out_height)):
        picture, i = divmod(row, out_height)
        corner, out = (picture * height + 2 * i) * below, row * out_width * channels
        for _ in range(out_width):
            if channels >= lanes:
                for c in range(0, channels, lanes):
                    shift = min(c, channels - lanes)  # the last vector may overlap the one before
                    _mean_of_four(cells, corner + shift, channels, below, means, out + shift)
            else:
                for c in range(channels):
                    upper = cells[corner + c] + cells[corner + channels + c]
                    lower = cells[corner + below + c] + cells[corner + below + channels + c]
                    means[out + c] = (upper + lower) * quarter
            corner += 2 * channels
            out += channels


@njit(**INNER)
def _average_rows(first, last, worker, x, window, y, step):
    kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left = window
    batch, out_height, out_width, channels = y.shape
    height, width = x.shape[1], x.shape[2]
    cells, means = x.reshape(-1), y.reshape(-1)
    line, total = local_array(LINE, x), local_array(LINE, x)
    zero = x.dtype.type(0)
    for row in range(first * step, min(last * step, batch * out_height)):
        picture, i = divmod(row, out_height)
        top = i * stride_height - pad_top
        for j in range(out_width):
            left = j * stride_width - pad_left
            count = _real_cells(top, kernel_height, height) * _real_cells(left, kernel_width, width)
            factor = x.dtype.type(1) / x.dtype.type(count)
            for start in range(0, channels, LINE):
                some = np.uintp(min(LINE, channels - start))
                for c in range(some):
                    total[c] = zero
                for u in range(max(top, 0), min(top + kernel_height, height)):
                    # Line by line, so that the mean of a large window keeps its digits.
                    for c in range(some):
                        line[c] = zero
                    for v in range(max(left, 0), min(left + kernel_width, width)):
                        cell = np.uintp(((picture * height + u) * width + v) * channels + start)
                        for c in range(some):
                            line[c] += cells[cell + c]
                    for c in range(some):
                        total[c] += line[c]
                out = np.uintp((row * out_width + j) * channels + start)
                for c in range(some):
                    means[out + c] = total[c] * factor


@prepared
def average_pool2d_gradient(dy, geometry, dx):
    """dx[cell] = sum over the windows that hold the cell of dy / (real cells of the window)."""
    return _gradient_of(dy, None, geometry, dx)


# ------------------------------------------------------------------ gradients


def _gradient_of(dy, winner, geometry, dx):
    """What computes the gradient of a maximum, or of an average, whose `winner` is None."""
    if _is_plain(geometry):
        # A piece must have room for two cells.
        streamed = dx.nbytes + dy.nbytes >= PAST_CACHES and 2 * geometry.channels <= PIECE
        return _gradient_2x2, (dy, winner, dx, streamed)
    return _gradient, (dy, winner, _window(geometry), dx)


@njit(**KERNEL)
def _gradient(dy, winner, window, dx):
    rows = dx.shape[0] * dx.shape[1]
    step = rows_of_task(dx[0, 0].size, rows)
    share(_gradient_rows, (dy, winner, window, dx, step), (rows + step - 1) // step, dx.size * MOVE)


@njit(**INNER)
def _windows_over(place, pad, kernel, stride, count):
    """First and last + 1 of the windows that cover a cell, on one axis."""
    first = max((place + pad - kernel + stride) // stride, 0)
    return first, min((place + pad) // stride + 1, count)


@njit(**INNER)
def _gradient_rows(first, last, worker, dy, winner, window, dx, step):
    kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left = window
    out_height, out_width, channels = dy.shape[1:]
    batch, height, width, _ = dx.shape
    cells, given = dx.reshape(-1), dy.reshape(-1)
    zero, one = dx.dtype.type(0), dx.dtype.type(1)
    for row in range(first * step, min(last * step, batch * height)):
        picture, u = divmod(row, height)
        first_i, last_i = _windows_over(u, pad_top, kernel_height, stride_height, out_height)
        for v in range(width):
            first_j, last_j = _windows_over(v, pad_left, kernel_width, stride_width, out_width)
            cell = np.uintp((row * width + v) * channels)
            for c in range(np.uintp(channels)):
                cells[cell + c] = zero
            for i in range(first_i, last_i):
                top = i * stride_height - pad_top
                for j in range(first_j, last_j):
                    left = j * stride_width - pad_left
                    out = np.uintp(((picture * out_height + i) * out_width + j) * channels)
                    if winner is None:
                        count = _real_cells(top, kernel_height, height) * _real_cells(left, kernel_width, width)
                        factor = one / dx.dtype.type(count)
                        for c in range(np.uintp(channels)):
                            cells[cell + c] += given[out + c] * factor
                    else:
                        number = winner.dtype.type((u - top) * kernel_width + v - left)
                        for c in range(np.uintp(channels)):
                            cells[cell + c] += given[out + c] if winner[out + c] == number else zero


# ------------------------------------------------------------------ gradients of windows of two by two cells


@njit(**KERNEL)
def _gradient_2x2(dy, winner, dx, streamed):
    rows = dx.shape[0] * dx.shape[1]
    step = rows_of_task(dx[0, 0].size, rows) * (STREAMED_ROWS if streamed else 1)
    share(_gradient_rows_2x2, (dy, winner, dx, step, streamed), (rows + step - 1) // step, dx.size * MOVE)


@intrinsic
def _give_to_winner(typing, dy, winner, out, number, cells, left, right):
    """A vector of channels of `_give_to_two`, of a maximum."""

    def code(context, builder, signature, arguments):
        _, _, out, number, _, left, right = arguments
        read, _ = vectors_of(context, builder, dy, arguments[0])
        read_number, _ = vectors_of(context, builder, winner, arguments[1], like=dy)
        _, write = vectors_of(context, builder, cells, arguments[4])
        gradient, winners = read(out), read_number(out)
        for place, here in ((left, number), (right, builder.add(number, number.type(1)))):
            wins = builder.icmp_unsigned("==", winners, spread(builder, here, winners.type.count))
            write(builder.select(wins, gradient, constant(gradient.type, 0.0)), place)
        return context.get_dummy_value()

    place = types.intp
    return types.void(dy, winner, place, winner.dtype, cells, place, place), code


@njit(**INNER)
def _give_to_two(dy, winner, out, channels, number, cells, left):
    """Gradients of two cells side by side, which are the window's cells `number` and `number + 1`.

    The one that won gets dy, the other zero; where `winner` is None, both get a quarter of dy.
    """
    lanes, zero, quarter = lanes_of(cells), cells.dtype.type(0), cells.dtype.type(0.25)
    if winner is not None and channels >= lanes:
        right = left + channels
        for c in range(0, channels - lanes + 1, lanes):
            _give_to_winner(dy, winner, out + c, number, cells, left + c, right + c)
        if channels % lanes:  # the last vector overlaps the one before
            rest = channels - lanes
            _give_to_winner(dy, winner, out + rest, number, cells, left + rest, right + rest)
        return
    some, given, cell = np.uintp(channels), np.uintp(out), np.uintp(left)
    for c in range(some):
        if winner is None:
            cells[cell + c] = cells[cell + some + c] = dy[given + c] * quarter
        else:
            cells[cell + c] = select(winner[given + c] == number, dy[given + c], zero)
            cells[cell + some + c] = select(winner[given + c] == number + np.uint8(1), dy[given + c], zero)


@njit(**INNER)
def _gradient_rows_2x2(first, last, worker, dy, winner, dx, step, streamed):
    out_height, out_width, channels = dy.shape[1:]
    batch, height, width, _ = dx.shape
    cells, given = flat(dx), flat(dy)
    piece, waiting = local_array(PIECE_ROOM, dx), 0
    some = PIECE // (2 * channels) if streamed else width
    end = min(last * step, batch * height)
    for row in range(first * step, end):
        picture, u = divmod(row, height)
        number = np.uint8(u % 2 * 2)
        # What no window covers, at the right and below, is zero.
        covered = 2 * out_width if u < 2 * out_height else 0
        start = 0
        while start < width:  # the length of a range would be a division for every row
            stop = min(start + 2 * some, width)
            windows, count = max(min(stop, covered) - start, 0) // 2, (stop - start) * channels
            place = (row * width + start) * channels
            out = ((picture * out_height + u // 2) * out_width + start // 2) * channels
            target, into = (piece, waiting) if streamed else (cells, place)
            for j in range(windows):
                _give_to_two(given, winner, out + j * channels, channels, number, target, into + 2 * j * channels)
            for c in range(np.uintp(into + 2 * windows * channels), np.uintp(into + count)):
                target[c] = 0
            if streamed:
                waiting = stream(piece, waiting + count, cells, place - waiting, row + 1 == end and stop == width)
            start = stop
    if streamed:
        finish_streaming()
