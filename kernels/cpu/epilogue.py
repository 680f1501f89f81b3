"""What stands before and after a product: slopes of the incoming gradient, activation of the outgoing value.

Max pooling after a correlation joins both ends.  A *window* is its ``(height, width)`` in cells, or `NO_WINDOW`.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ..formulas import LINEAR, RELU
from .formulas import activate, slope_from_value
from .simd import REGISTER_BYTES, vectors_of

NO_WINDOW = 0, 0


@njit(cache=True, nogil=True, error_model="numpy")
def finish(values, first, last, activation, alpha):
    """Apply an activation to ``values[first:last]``, which the product has just left in the cache."""
    part = values[first:last]
    for place in range(part.size):
        part[place] = activate(activation, alpha, part[place])


@njit(cache=True, nogil=True, error_model="numpy")
def multiply_by_slope(dy, y, start, count, activation, alpha, dz, place):
    """``dz = dy * activation'(z)`` for `count` numbers, from dy and y at `start` to dz at `place`."""
    incoming, values, outgoing = dy[start : start + count], y[start : start + count], dz[place : place + count]
    if activation == LINEAR:
        for i in range(count):
            outgoing[i] = incoming[i]
    elif activation == RELU:
        for i in range(count):
            outgoing[i] = incoming[i] * slope_from_value(RELU, alpha, values[i])
    else:
        for i in range(count):
            outgoing[i] = incoming[i] * slope_from_value(activation, alpha, values[i])


@njit(cache=True, nogil=True, error_model="numpy")
def make_dz(dy, y, winner, window, width, channels, pixel, count, activation, alpha, dz, place):
    """dz of `count` pixels from number `pixel` on, of pictures `width` wide, to `place`.

    With a window, dy, y and winner are those of max pooling after the activation: only the winner of each window has a
    gradient, and the activation's value there is the pooling's.
    """
    if not window[0]:
        multiply_by_slope(dy, y, pixel * channels, count * channels, activation, alpha, dz, place)
        return
    line, column = divmod(pixel, width)
    pooled_line, a = divmod(line, window[0])
    pooled_column, b = divmod(column, window[1])
    pooled_size = width // window[1] * channels
    pooled = pooled_line * pooled_size + pooled_column * channels
    for _ in range(count):
        number = a * window[1] + b
        _give_to_winner(dy, y, winner, pooled, number, channels, activation, alpha, dz, place)
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


@njit(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _give_to_winner(dy, y, winner, pooled, number, channels, activation, alpha, dz, place):
    """dz of cell `number` of the window whose channels start at `pooled`."""
    lanes = REGISTER_BYTES // dz.itemsize
    if activation <= RELU and channels >= lanes:
        for c in range(0, channels, lanes):
            shift = min(c, channels - lanes)  # the last vector may overlap the one before
            _vector_to_winner(dy, y, winner, pooled + shift, number, activation == RELU, dz, place + shift)
        return
    zero = dz.dtype.type(0)
    for c in range(channels):
        gradient = dy[pooled + c] * slope_from_value(activation, alpha, y[pooled + c])
        dz[place + c] = gradient if winner[pooled + c] == number else zero


@intrinsic
def _vector_to_winner(typing, dy, y, winner, pooled, number, relu, dz, place):
    """The same for as many channels as a vector holds, where the slope is 1, or that of ReLU."""

    def code(context, builder, signature, arguments):
        incoming, value, cell = (
            vectors_of(context, builder, kind, array, like=dy)[0](arguments[3])
            for kind, array in zip(signature.args[:3], arguments[:3], strict=True)
        )
        _, write = vectors_of(context, builder, dz, arguments[6])
        count = cell.type.count
        zero, one = (ir.Constant(value.type, [number] * count) for number in (0.0, 1.0))
        flat = builder.fcmp_ordered("<=", value, zero)
        flat = builder.and_(flat, _everywhere(builder, arguments[5], count))
        gradient = builder.fmul(incoming, builder.select(flat, zero, one))
        wins = builder.icmp_unsigned(
            "==", cell, _everywhere(builder, builder.trunc(arguments[4], cell.type.element), count)
        )
        write(builder.select(wins, gradient, zero), arguments[7])
        return context.get_dummy_value()

    integer = types.intp
    return types.void(dy, y, winner, integer, integer, types.boolean, dz, integer), code


def _everywhere(builder, value, count):
    """A vector of so many equal values."""
    empty = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))
