"""Activations of whole arrays, with gradients; softmax over rows.

The formulas are those of `gpuconv.kernels.formulas`, written without branches and with the functions of `elementary`,
so that loops over them become vector instructions.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from .blocks import BLOCK, FORMULA, MOVE, blocks, within
from .compiling import INNER, KERNEL
from .elementary import exp_of_negative, expm1, log1p, sigmoid, upper_tail
from .fetching import fetch
from .formulas import clip_relu, clip_relu_slope
from .local import local_array
from .rows import LANE_SUMS, ROWS_AT_ONCE, exponentials_of_rows, scale_rows
from .streaming import PIECE, PIECE_ROOM, finish_streaming, is_streamed, stream
from .threads import share
from .vectors import lanes_of
from .views import part
from .workspace import LINE_BYTES


@njit(**KERNEL)
def activate(x, activation, alpha, y):
    """y = activation(x)."""
    work = x.size * (FORMULA if activation > 2 else MOVE)
    share(_activate, (x.reshape(-1), activation, alpha, y.reshape(-1)), blocks(x.size), work)


@njit(**KERNEL)
def activate_gradient(x, dy, activation, alpha, dx):
    """dx = dy * activation'(x)."""
    work = x.size * (FORMULA if activation > 2 else MOVE)
    arguments = x.reshape(-1), dy.reshape(-1), activation, alpha, dx.reshape(-1)
    share(_activate_gradient, arguments, blocks(x.size), work)


@njit(**KERNEL)
def relu(x, negative_slope, max_value, threshold, y):
    """Keras's general ReLU; see `gpuconv.kernels.formulas.clip_relu`."""
    arguments = x.reshape(-1), negative_slope, max_value, threshold, y.reshape(-1)
    share(_relu, arguments, blocks(x.size), x.size * MOVE)


@njit(**KERNEL)
def relu_gradient(x, dy, negative_slope, max_value, threshold, dx):
    """dx = dy * relu'(x)."""
    arguments = x.reshape(-1), dy.reshape(-1), negative_slope, max_value, threshold, dx.reshape(-1)
    share(_relu_gradient, arguments, blocks(x.size), x.size * MOVE)


# ------------------------------------------------------------------ one number


@njit(**INNER)
def _tanh(z):
    decay = expm1(type(z)(-2) * abs(z))
    return (decay if z < 0 else -decay) / (type(z)(2) + decay)


@njit(**INNER)
def _elu(alpha, z):
    below = alpha * expm1(z)
    return below if z < 0 else z


@njit(**INNER)
def _softplus(z):
    tail = log1p(exp_of_negative(-abs(z)))
    return tail if z < 0 else z + tail


def _normal_distribution(z):
    """Phi(z)."""
    return 0.5 * (1.0 + math.erf(z * 0.7071067811865476))


@overload(_normal_distribution)
def _(z):
    if z == types.float64:
        return _normal_distribution

    def single(z):
        half = np.float32(0.5)
        tail = half * upper_tail(abs(z) * np.float32(0.7071067811865476)) * exp_of_negative(-half * z * z)
        return tail if z < 0 else np.float32(1) - tail

    return single


@njit(**INNER)
def _gelu(z):
    return z * _normal_distribution(z)


@njit(**INNER)
def _sigmoid_slope(z):
    decay = exp_of_negative(-abs(z))
    sum_of_both = type(z)(1) + decay
    return decay / (sum_of_both * sum_of_both)


@njit(**INNER)
def _tanh_slope(z):
    value = _tanh(z)
    return type(z)(1) - value * value


@njit(**INNER)
def _elu_slope(alpha, z):
    below = alpha * exp_of_negative(z)
    return below if z < 0 else type(z)(1)


@njit(**INNER)
def _gelu_slope(z):
    density = type(z)(0.3989422804014327) * exp_of_negative(type(z)(-0.5) * z * z)
    return _normal_distribution(z) + z * density


# ------------------------------------------------------------------ whole arrays: a loop for each formula


@njit(**INNER)
def _activate(first, last, worker, x, activation, alpha, y):
    begin, end = first * BLOCK, min(last * BLOCK, x.size)
    streamed, piece, waiting = is_streamed(y), local_array(PIECE_ROOM, y), 0
    target, step = (piece, PIECE) if streamed else (y, BLOCK)
    for start in range(begin, end, step):
        count = min(step, end - start)
        into = waiting if streamed else start
        if streamed:
            fetch(x, start + count, count)
        _activate_part(part(x, start, count), activation, alpha, part(target, into, count))
        if streamed:
            waiting = stream(piece, into + count, y, start - into, start + count == end)
    if streamed:
        finish_streaming()


@njit(**INNER)
def _activate_part(x, activation, alpha, y):
    zero, alpha = x.dtype.type(0), x.dtype.type(alpha)
    if activation == 1:
        for i in range(x.size):
            y[i] = zero if x[i] < zero else x[i]
    elif activation == 2:
        for i in range(x.size):
            y[i] = alpha * x[i] if x[i] < zero else x[i]
    elif activation == 3:
        for i in range(x.size):
            y[i] = sigmoid(x[i])
    elif activation == 4:
        for i in range(x.size):
            y[i] = _tanh(x[i])
    elif activation == 5:
        for i in range(x.size):
            y[i] = _elu(alpha, x[i])
    elif activation == 6:
        for i in range(x.size):
            y[i] = _softplus(x[i])
    elif activation == 7:
        for i in range(x.size):
            y[i] = _gelu(x[i])
    else:
        for i in range(x.size):
            y[i] = x[i]


@njit(**INNER)
def _activate_gradient(first, last, worker, x, dy, activation, alpha, dx):
    begin, end = first * BLOCK, min(last * BLOCK, x.size)
    streamed, piece, waiting = is_streamed(dx), local_array(PIECE_ROOM, dx), 0
    target, step = (piece, PIECE) if streamed else (dx, BLOCK)
    for start in range(begin, end, step):
        count = min(step, end - start)
        into = waiting if streamed else start
        if streamed:
            fetch(x, start + count, count)
            fetch(dy, start + count, count)
        some_dx = part(target, into, count)
        _activate_gradient_part(part(x, start, count), part(dy, start, count), activation, alpha, some_dx)
        if streamed:
            waiting = stream(piece, into + count, dx, start - into, start + count == end)
    if streamed:
        finish_streaming()


@njit(**INNER)
def _activate_gradient_part(x, dy, activation, alpha, dx):
    zero, one, alpha = x.dtype.type(0), x.dtype.type(1), x.dtype.type(alpha)
    if activation == 1 or activation == 2:
        below = zero if activation == 1 else alpha
        for i in range(x.size):
            dx[i] = dy[i] * (below if x[i] <= zero else one)
    elif activation == 3:
        for i in range(x.size):
            dx[i] = dy[i] * _sigmoid_slope(x[i])
    elif activation == 4:
        for i in range(x.size):
            dx[i] = dy[i] * _tanh_slope(x[i])
    elif activation == 5:
        for i in range(x.size):
            dx[i] = dy[i] * _elu_slope(alpha, x[i])
    elif activation == 6:
        for i in range(x.size):
            dx[i] = dy[i] * sigmoid(x[i])
    elif activation == 7:
        for i in range(x.size):
            dx[i] = dy[i] * _gelu_slope(x[i])
    else:
        for i in range(x.size):
            dx[i] = dy[i]


@njit(**INNER)
def _relu(first, last, worker, x, negative_slope, max_value, threshold, y):
    x, y = within(x, first, last), within(y, first, last)
    for i in range(x.size):
        y[i] = clip_relu(negative_slope, max_value, threshold, x[i])


@njit(**INNER)
def _relu_gradient(first, last, worker, x, dy, negative_slope, max_value, threshold, dx):
    x, dy, dx = within(x, first, last), within(dy, first, last), within(dx, first, last)
    for i in range(x.size):
        dx[i] = dy[i] * clip_relu_slope(negative_slope, max_value, threshold, x[i])


# ------------------------------------------------------------------ softmax


# Elements of a task, and how many times as many when results go past the caches: each task waits for its first rows.
ROWS_BLOCK, STREAMED_BLOCKS = 1 << 12, 16

# Elements of a piece of a task that goes through all of softmax's loops before the next is read: at least as many rows
# as a vector has lanes, even if they have more elements; and how many there may be for the piece to be streamed.
SOFTMAX_PIECE, LARGEST_SOFTMAX_PIECE = 1 << 9, 1 << 12
SOFTMAX_ROOM = LARGEST_SOFTMAX_PIECE + LINE_BYTES // 4


@njit(**INNER)
def rows_of_task(columns):
    """How many rows of a matrix make a task, at least one."""
    return max(ROWS_BLOCK // max(columns, 1), 1)


@njit(**KERNEL)
def softmax(x, y):
    """y[i] = exp(x[i] - max x[i]) / sum: rows that add up to one, without overflow."""
    rows = rows_of_task(x.shape[1]) * (STREAMED_BLOCKS if is_streamed(y) else 1)
    share(_softmax, (x, y, rows), (x.shape[0] + rows - 1) // rows, x.size * FORMULA)


@njit(**INNER)
def _softmax(first, last, worker, x, y, rows):
    columns, group, one = x.shape[1], lanes_of(y), y.dtype.type(1)
    logits, shares = x.reshape(-1), y.reshape(-1)
    minus_largest, totals = local_array(ROWS_AT_ONCE, y), local_array(ROWS_AT_ONCE, y)
    sums = local_array(LANE_SUMS, y)
    begin, end = first * rows, min(last * rows, x.shape[0])
    some = min(max(SOFTMAX_PIECE // max(group * columns, 1), 1) * group, ROWS_AT_ONCE)
    streamed = is_streamed(y) and some * columns <= LARGEST_SOFTMAX_PIECE
    local, piece = local_array(SOFTMAX_ROOM, y), local_array(SOFTMAX_ROOM, y)
    # Rows that are masked are not scaled where they stand: a row's load waits for a masked store that might reach into
    # it, the one before.
    is_local = streamed or columns <= group
    powers, target, waiting = local if is_local else shares, piece if streamed else shares, 0
    for start in range(begin, end, some):
        count, source = min(some, end - start), start * columns
        into = waiting if streamed else source
        place = 0 if is_local else source
        exponentials_of_rows(logits, source, columns, count, powers, place, minus_largest, totals, sums)
        for row in range(count):
            totals[row] = one / totals[row]
        scale_rows(powers, place, columns, count, totals, target, into)
        if streamed:
            waiting = stream(piece, into + count * columns, shares, source - into, start + count == end)
    if streamed:
        finish_streaming()


@njit(**KERNEL)
def softmax_gradient(y, dy, dx):
    """dx[i] = y[i] * (dy[i] - dy[i] . y[i]), from the softmax `y` itself."""
    rows = rows_of_task(y.shape[1])
    share(_softmax_gradient, (y, dy, dx, rows), (y.shape[0] + rows - 1) // rows, y.size * MOVE)


@njit(fastmath={"reassoc", "contract"}, **INNER)
def _dot(a, b):
    total = a.dtype.type(0)
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@njit(**INNER)
def _softmax_gradient(first, last, worker, y, dy, dx, rows):
    for i in range(first * rows, min(last * rows, y.shape[0])):
        y_row, dy_row, dx_row = y[i], dy[i], dx[i]
        dot = _dot(y_row, dy_row)
        for j in range(y_row.size):
            dx_row[j] = y_row[j] * (dy_row[j] - dot)
