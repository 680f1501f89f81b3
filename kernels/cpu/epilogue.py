"""What stands before and after a product: slopes of the incoming gradient, activation of the outgoing value.

Max pooling after a correlation joins both ends.  A *window* is its ``(height, width)`` in cells, or `NO_WINDOW`.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ..formulas import LINEAR, RELU
from .builders import constant, spread
from .compiling import INNER
from .formulas import activate, slope_from_value
from .processor import REGISTER_BYTES
from .vectors import vectors_of
from .views import part

NO_WINDOW = 0, 0


@njit(**INNER)
def finish(values, first, last, activation, alpha):
    """Apply an activation to ``values[first:last]``, which the product has just left in the cache."""
    finished = part(values, first, last - first)
    for place in range(finished.size):
        finished[place] = activate(activation, alpha, finished[place])


@njit(**INNER)
def multiply_by_slope(dy, y, start, count, activation, alpha, dz, place):
    """``dz = dy * activation'(z)`` for `count` numbers, from dy and y at `start` to dz at `place`."""
    incoming, values, outgoing = part(dy, start, count), part(y, start, count), part(dz, place, count)
    if activation == LINEAR:
        for i in range(count):
            outgoing[i] = incoming[i]
    elif activation == RELU:
        for i in range(count):
            outgoing[i] = incoming[i] * slope_from_value(RELU, alpha, values[i])
    else:
        for i in range(count):
            outgoing[i] = incoming[i] * slope_from_value(activation, alpha, values[i])


@njit(**INNER)
def make_dz(dy, y, winner, window, width, channels, pixel, count, activation, alpha, dz, place):
    """dz of `count` pixels from number `pixel` on, of pictures `width` wide, to `place`.

    With a window, dy, y and winner are those of max pooling after the activation: only the winner of each window has a
    gradient, and the activation's value there is the pooling's.
    """
    if not window[0]:
        multiply_by_slope(dy, y, pixel * channels, count * channels, activation, alpha, dz, place)
        return
    lanes = REGISTER_BYTES // dz.itemsize
    zero = dz.dtype.type(0)
    line, column = divmod(pixel, width)
    pooled_line, a = divmod(line, window[0])
    pooled_column, b = divmod(column, window[1])
    pooled_size = width // window[1] * channels
    pooled = pooled_line * pooled_size + pooled_column * channels
    # The last vector may overlap the one before.
    last = channels - lanes if activation == RELU else -1
    for _ in range(count):
        number = a * window[1] + b
        if last >= 0:
            for c in range(0, last, lanes):
                _relu_vector_to_winner(dy, y, winner, pooled + c, number, dz, place + c)
            _relu_vector_to_winner(dy, y, winner, pooled + last, number, dz, place + last)
        else:
            for c in range(channels):
                gradient = dy[pooled + c] * slope_from_value(activation, alpha, y[pooled + c])
                dz[place + c] = gradient if winner[pooled + c] == number else zero
        place += channels
        column += 1
        b += 1
        if b == window[1]:
            b = 0
            pooled += channels
        if column == width:
            column = 0
            a += 1
            if a == window[0]:
                a = 0
            else:  # the same windows again, for the next line of their cells
                pooled -= pooled_size


@intrinsic
def _relu_vector_to_winner(typing, dy, y, winner, pooled, number, dz, place):
    """dz of cell `number` of a window, whose channels start at `pooled`: as many as a vector holds, for ReLU."""

    def code(context, builder, signature, arguments):
        incoming, value, cell = (
            vectors_of(context, builder, kind, array, like=dy)[0](arguments[3])
            for kind, array in zip(signature.args[:3], arguments[:3], strict=True)
        )
        _, write = vectors_of(context, builder, dz, arguments[5])
        zero, one = constant(value.type, 0.0), constant(value.type, 1.0)
        gradient = builder.fmul(incoming, builder.select(builder.fcmp_ordered("<=", value, zero), zero, one))
        # Integers as wide as the numbers that they choose among.
        wide = ir.VectorType(ir.IntType(dy.dtype.bitwidth), value.type.count)
        numbers = spread(builder, _as_wide(builder, arguments[4], wide.element), wide.count)
        wins = builder.icmp_unsigned("==", builder.zext(cell, wide), numbers)
        write(builder.select(wins, gradient, zero), arguments[6])
        return context.get_dummy_value()

    integer = types.intp
    return types.void(dy, y, winner, integer, integer, dz, integer), code


def _as_wide(builder, number, kind):
    return builder.trunc(number, kind) if kind.width < number.type.width else number
