"""Short rows of numbers by vectors: maximum, where it is, and sum, and what softmax does to each of their numbers.

LLVM makes loops of several vectors a turn, and leaves rows shorter than that, which ten classes are, to single numbers.
Here a turn is one vector, and what is left beyond whole vectors goes number by number.

All are intrinsics that take a flat array, the place where the row starts, and its length.  A view of a row, or the
array handed to a function, would cost more than the row: Numba counts references to arrays, and all threads to the same
one in the same place.
"""

import contextlib

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import spread
from .compiling import INNER
from .local import local_array
from .simd import REGISTER_BYTES, lanes_of, turn_square, vectors_of

# Columns of a matrix whose rows `argmax_of_rows` takes by vectors, at most; lanes of any processor; both together.
FEW_COLUMNS, MOST_LANES = 32, 16
BLOCK_SIZE = FEW_COLUMNS * MOST_LANES

_I64 = ir.IntType(64)


def _lanes(kind):
    """Numbers of a vector, and what rounds a count down to whole vectors."""
    lanes = REGISTER_BYTES // (kind.dtype.bitwidth // 8)
    return lanes, _I64(-lanes)


@contextlib.contextmanager
def _loop(builder, first, stop, step):
    """The places ``first, first + step, ...`` below `stop`."""
    with cgutils.for_range_slice(builder, first, stop, _I64(step), intp=_I64) as (place, _):
        yield place


def _reduction(combine, begin):
    """The intrinsic that makes one number of a row: of its vectors lane by lane, of the lanes by halves, of the rest.

    Parameters
    ----------
    combine : callable
        ``combine(builder, first, second)``, of two vectors or numbers.
    begin : callable
        ``begin(number)`` of the row's first number: what combines with the row without effect.
    """

    @intrinsic
    def reduce(typing, numbers, start, count):
        def code(context, builder, signature, arguments):
            numbers, start, count = arguments
            read, _ = vectors_of(context, builder, signature.args[0], numbers)
            data = context.make_array(signature.args[0])(context, builder, numbers).data
            lanes, mask = _lanes(signature.args[0])
            whole = builder.add(start, builder.and_(count, mask))
            neutral = begin(builder.load(builder.gep(data, [start])))
            vectors = cgutils.alloca_once_value(builder, spread(builder, neutral, lanes))
            with _loop(builder, start, whole, lanes) as place:
                builder.store(combine(builder, builder.load(vectors), read(place)), vectors)
            vector = builder.load(vectors)
            while lanes > 1:
                lanes //= 2
                halves = [list(range(first, first + lanes)) for first in (0, lanes)]
                masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), half) for half in halves]
                vector = combine(builder, *(builder.shuffle_vector(vector, vector, mask) for mask in masks))
            total = cgutils.alloca_once_value(builder, builder.extract_element(vector, ir.IntType(32)(0)))
            with _loop(builder, whole, builder.add(start, count), 1) as place:
                number = builder.load(builder.gep(data, [place]))
                builder.store(combine(builder, builder.load(total), number), total)
            return builder.load(total)

        return numbers.dtype(numbers, types.intp, types.intp), code

    return reduce


def _larger(builder, first, second):
    """The larger one; the first where one is NaN."""
    return builder.select(builder.fcmp_ordered(">", second, first), second, first)


def _largest(builder, first, second):
    """The larger one, or NaN if one is NaN."""
    stays = builder.or_(builder.fcmp_ordered("<=", second, first), builder.fcmp_unordered("uno", first, first))
    return builder.select(stays, first, second)


def _sum(builder, first, second):
    return builder.fadd(first, second)


# The largest of ``numbers[start : start + count]``, NaN apart: its exponential is NaN whatever is subtracted from it.
row_maximum = _reduction(_larger, lambda number: number)

# The same with NaN larger than any number.
_row_largest = _reduction(_largest, lambda number: number)

# The sum of ``numbers[start : start + count]``.
row_sum = _reduction(_sum, lambda number: number.type(0.0))


@intrinsic
def _first_place(typing, numbers, start, count, value):
    """The first place in a row of a number that is `value`, or NaN; without branches, which would be guesses."""

    def code(context, builder, signature, arguments):
        numbers, start, count, value = arguments
        read, _ = vectors_of(context, builder, signature.args[0], numbers)
        data = context.make_array(signature.args[0])(context, builder, numbers).data
        lanes, mask = _lanes(signature.args[0])

        def found(number, value):
            equal = builder.fcmp_ordered("==", number, value)
            return builder.or_(equal, builder.fcmp_unordered("uno", number, number))

        # From the end to the start, so that the first is what remains.
        place = cgutils.alloca_once_value(builder, _I64(0))
        whole = builder.and_(count, mask)
        last = builder.sub(count, _I64(1))
        with _loop(builder, _I64(0), builder.sub(count, whole), 1) as number:
            j = builder.sub(last, number)
            here = found(builder.load(builder.gep(data, [builder.add(start, j)])), value)
            builder.store(builder.select(here, j, builder.load(place)), place)
        everywhere = spread(builder, value, lanes)
        with _loop(builder, _I64(0), whole, lanes) as number:
            j = builder.sub(builder.sub(whole, number), _I64(lanes))
            bits = builder.bitcast(found(read(builder.add(start, j)), everywhere), ir.IntType(lanes))
            first = builder.add(j, builder.zext(builder.cttz(bits, ir.IntType(1)(0)), _I64))
            none = builder.icmp_unsigned("==", bits, ir.IntType(lanes)(0))
            builder.store(builder.select(none, builder.load(place), first), place)
        return builder.load(place)

    return types.intp(numbers, types.intp, types.intp, numbers.dtype), code


@njit(**INNER)
def row_argmax(numbers, start, count):
    """Place in ``numbers[start : start + count]`` of the first largest one; NaN is larger than any number."""
    return _first_place(numbers, start, count, _row_largest(numbers, start, count))


@intrinsic
def _places_of_largest(typing, block, columns, places):
    """Of as many rows as a vector has lanes, column after column in `block`: where the first largest number stands."""

    def code(context, builder, signature, arguments):
        _, columns, into = arguments
        read, _ = vectors_of(context, builder, signature.args[0], arguments[0])
        _, write = vectors_of(context, builder, signature.args[2], into, like=block)
        lanes, _ = _lanes(block)
        integers = ir.VectorType(ir.IntType(32), lanes)
        found = cgutils.alloca_once_value(builder, read(_I64(0)))
        place = cgutils.alloca_once_value(builder, ir.Constant(integers, None))
        with _loop(builder, _I64(1), columns, 1) as column:
            number, best = read(builder.mul(column, _I64(lanes))), builder.load(found)
            larger = builder.fcmp_unordered(">", number, best)
            larger = builder.and_(larger, builder.fcmp_ordered("ord", best, best))
            here = spread(builder, builder.trunc(column, ir.IntType(32)), lanes)
            builder.store(builder.select(larger, number, best), found)
            builder.store(builder.select(larger, here, builder.load(place)), place)
        write(builder.load(place), _I64(0))
        return context.get_dummy_value()

    return types.void(block, types.intp, places), code


@njit(**INNER)
def argmax_of_rows(matrix, row, columns, places):
    """`row_argmax` of as many rows as a vector has lanes, from `row` on, with rows as lanes.

    For rows of a vector to FEW_COLUMNS numbers, which squares turn over, of which the last may overlap the one before:
    within a row, a chain of steps would lead to one number.
    """
    lanes, block = lanes_of(matrix), local_array(BLOCK_SIZE, matrix)
    for j in range(0, columns, lanes):
        column = min(j, columns - lanes)
        turn_square(matrix, row * columns + column, columns, block, column * lanes, lanes)
    _places_of_largest(block, columns, places)


def _with_number(instruction):
    """The intrinsic ``target[into + j] = instruction(source[start + j], number)`` for ``0 <= j < count``."""

    @intrinsic
    def operate(typing, source, start, count, number, target, into):
        def code(context, builder, signature, arguments):
            source, start, count, number, target, into = arguments
            read, _ = vectors_of(context, builder, signature.args[0], source)
            _, write = vectors_of(context, builder, signature.args[4], target)
            datas = [
                context.make_array(signature.args[place])(context, builder, arguments[place]).data for place in (0, 4)
            ]
            apply = getattr(builder, instruction)
            lanes, mask = _lanes(signature.args[0])
            everywhere = spread(builder, number, lanes)
            whole = builder.and_(count, mask)
            with _loop(builder, _I64(0), whole, lanes) as j:
                write(apply(read(builder.add(start, j)), everywhere), builder.add(into, j))
            with _loop(builder, whole, count, 1) as j:
                given, taken = (
                    builder.gep(data, [builder.add(first, j)]) for data, first in zip(datas, (start, into), strict=True)
                )
                builder.store(apply(builder.load(given), number), taken)
            return context.get_dummy_value()

        place = types.intp
        return types.void(source, place, place, source.dtype, target, place), code

    return operate


subtract_from_row = _with_number("fsub")
scale_row = _with_number("fmul")
