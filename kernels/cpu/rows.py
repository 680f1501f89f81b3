"""Short rows of numbers by vectors: where the maximum is, the sum, what softmax does to each number, and its loss.

LLVM makes loops of several vectors a turn, and leaves rows shorter than that, which ten classes are, to single numbers.
Here a turn is one vector.  What is left beyond whole vectors goes number by number, or in softmax's functions with a
vector that ends with the row and overlaps the one before.

All are intrinsics that take a flat array, the place where the row starts, and its length.  A view of a row, or the
array handed to a function, would cost more than the row: Numba counts references to arrays, and all threads to the same
one in the same place.

Softmax of float32 rows takes 22 instructions for each vector's exponentials; maxima, sums and factors of eight rows are
one vector, so that they cost few instructions and one division for all eight.  In rows of 16 numbers, whose two vectors
need no loop, exponentials are 45 instructions a row, factors 9, and all of it some eighty: about as long as one thread
takes to read and write the row past the caches.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import constant, keep_loop, spread
from .compiling import INNER
from .elementary import emit_scaled_exp_of_negative
from .fetching import emit_fetch
from .local import local_array
from .processor import REGISTER_BYTES
from .vectors import first_lanes, lanes_of, masked_vectors_of, turn_square, vectors_of

# Columns of a matrix whose rows `argmax_of_rows` takes by vectors, at most; lanes of any processor; both together.
FEW_COLUMNS, MOST_LANES = 32, 16
BLOCK_SIZE = FEW_COLUMNS * MOST_LANES

# Rows that `exponentials_of_rows` takes, a multiple of the numbers in a vector, and the lanes of a vector for each.
ROWS_AT_ONCE = 64
LANE_SUMS = ROWS_AT_ONCE * REGISTER_BYTES // 4

# Rows that are masked: those that have fewer numbers than a vector, or no more.
_SHORT = "<=" if REGISTER_BYTES == 64 else "<"

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


def _over_lanes(builder, combine, vector):
    """The lanes of a vector combined, by halves."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        halves = [list(range(first, first + lanes)) for first in (0, lanes)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), half) for half in halves]
        vector = combine(builder, *(builder.shuffle_vector(vector, vector, mask) for mask in masks))
    return builder.extract_element(vector, ir.IntType(32)(0))


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
            total = cgutils.alloca_once_value(builder, _over_lanes(builder, combine, builder.load(vectors)))
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


# The largest of ``numbers[start : start + count]``; NaN is larger than any number.
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


@intrinsic
def _first_largest(typing, numbers, start, count):
    """`row_argmax` of fewer numbers than a vector has."""

    def code(context, builder, signature, arguments):
        numbers, start, count = arguments
        lanes, _ = _lanes(signature.args[0])
        read, _ = masked_vectors_of(
            context, builder, signature.args[0], numbers, first_lanes(builder, count, lanes)
        )  # fmt: skip
        row = read(start, float("-inf"))
        largest = spread(builder, _over_lanes(builder, _larger, row), lanes)
        not_numbers, equal = (
            builder.bitcast(lane_bits, ir.IntType(lanes))
            for lane_bits in (builder.fcmp_unordered("uno", row, row), builder.fcmp_ordered("==", row, largest))
        )
        none = builder.icmp_unsigned("==", not_numbers, not_numbers.type(0))
        place = builder.cttz(builder.select(none, equal, not_numbers), ir.IntType(1)(0))
        return builder.zext(place, _I64)

    return types.intp(numbers, types.intp, types.intp), code


@njit(**INNER)
def row_argmax(numbers, start, count):
    """Place in ``numbers[start : start + count]`` of the first largest one; NaN is larger than any number."""
    if count < lanes_of(numbers):
        return _first_largest(numbers, start, count)
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


def _combined(builder, combine, vectors):
    """A vector that holds in lane i all lanes of ``vectors[i]`` combined, of as many vectors as they have lanes.

    The lower half of each vector of the first half comes together with its upper half, and in the lanes beside it those
    of its partner in the second half; so on with half as many vectors, to the last: three instructions for two vectors.
    """
    lanes = len(vectors)
    half = lanes // 2
    while half:
        masks = [
            ir.Constant(
                ir.VectorType(ir.IntType(32), lanes),
                [(lane & ~half) + side + (lanes if lane & half else 0) for lane in range(lanes)],
            )
            for side in (0, half)
        ]
        pairs = zip(vectors[:half], vectors[half:], strict=True)
        vectors = [combine(builder, *(builder.shuffle_vector(*pair, mask) for mask in masks)) for pair in pairs]
        half //= 2
    return vectors[0]


class _RowEnd(NamedTuple):
    """What whole vectors leave of a row: a vector that overlaps the last of them."""

    whole: ir.Value  # whole vectors start at 0, LANES, ... below this place of the row
    start: ir.Value  # where in the row it starts
    is_some: ir.Value  # whether there is anything left
    counted: ir.Value  # lanes that belong to no other vector


class _Rows(NamedTuple):
    """How the rows of an array are read and written."""

    read: Callable  # a vector, of its place
    write: Callable  # of a vector and its place
    read_end: Callable  # the row's last vector, of the place where the row starts; any lanes beside a short row
    write_end: Callable  # of that vector and the place where the row starts


def _by_length(context, builder, columns, emit, *arrays):
    """Write code for rows of at least one vector, and for shorter ones, whose only vector is masked.

    With AVX-512, rows of one vector are masked too: that costs nothing there, and they do without a loop.

    Rows of more than one vector and at most two, which ten or sixteen classes are, have code of their own: there the
    loop over whole vectors has one turn, and LLVM makes none of it.

    Parameters
    ----------
    columns : LLVM value
    emit : callable
        ``emit(row_end, *rows)``, with the `_Rows` of each array.
    *arrays : tuple of Numba type and LLVM value
        Of one type of numbers.
    """
    lanes, mask = _lanes(arrays[0][0])
    numbers = ir.Constant(ir.VectorType(_I64, lanes), list(range(lanes)))

    def short_rows(kind, array, counted):
        read, write = masked_vectors_of(context, builder, kind, array, counted)
        return _Rows(*vectors_of(context, builder, kind, array), lambda row: read(row, float("-inf")), write)

    def long_rows(kind, array, last):
        read, write = vectors_of(context, builder, kind, array)
        return _Rows(
            read,
            write,
            lambda row: read(builder.add(row, last)),
            lambda numbers, row: write(numbers, builder.add(row, last)),
        )

    with builder.if_else(builder.icmp_signed(_SHORT, columns, _I64(lanes))) as (short, long):
        with short:
            counted = first_lanes(builder, columns, lanes)
            row_end = _RowEnd(_I64(0), _I64(0), ir.IntType(1)(1), counted)
            emit(row_end, *(short_rows(*array, counted) for array in arrays))
        with long:
            last = builder.sub(columns, _I64(lanes))
            are_two = builder.and_(
                builder.icmp_signed(">", last, _I64(0)), builder.icmp_signed("<=", last, _I64(lanes))
            )

            def emit_long(whole, is_some):
                counted = builder.icmp_signed(">=", numbers, spread(builder, builder.sub(whole, last), lanes))
                emit(_RowEnd(whole, last, is_some, counted), *(long_rows(*array, last) for array in arrays))

            with builder.if_else(are_two) as (two, others):
                with two:
                    emit_long(_I64(lanes), ir.IntType(1)(1))
                with others:
                    whole = builder.and_(columns, mask)
                    emit_long(whole, builder.icmp_signed("!=", whole, columns))


def _row_starts(builder, number, start, columns, count):
    """Where so many rows start; those beyond the last of `count` are the last again."""
    last = builder.sub(count, _I64(1))
    places = []
    for i in range(number):
        row = builder.select(builder.icmp_signed(">", _I64(i), last), last, _I64(i))
        places.append(builder.add(start, builder.mul(row, columns)))
    return places


@intrinsic
def _maxima_of_rows(typing, source, start, columns, count, minus_largest, place):
    """``minus_largest[place + i]`` is minus the largest number of row i, of as many rows as a vector has lanes.

    Rows beyond the last of `count` are the last again.  Of a row that holds NaN it is any of its numbers.
    """

    def code(context, builder, signature, arguments):
        source, start, columns, count, minus_largest, place = arguments
        _, write = vectors_of(context, builder, signature.args[4], minus_largest, like=signature.args[0])
        lanes, _ = _lanes(signature.args[0])
        rows = _row_starts(builder, lanes, start, columns, count)

        def emit(row_end, numbers):
            tops = [cgutils.alloca_once_value(builder, numbers.read_end(row)) for row in rows]
            with _loop(builder, _I64(0), row_end.whole, lanes) as j:
                for row, top in zip(rows, tops, strict=True):
                    builder.store(_larger(builder, builder.load(top), numbers.read(builder.add(row, j))), top)
                keep_loop(builder)
            write(builder.fneg(_combined(builder, _larger, [builder.load(top) for top in tops])), place)

        _by_length(context, builder, columns, emit, (signature.args[0], source))
        return context.get_dummy_value()

    number = types.intp
    return types.void(source, number, number, number, minus_largest, number), code


@intrinsic
def _exponentials(typing, source, start, columns, count, minus_largest, target, into, sums):
    """Scaled e^(x - largest x) of some rows, and the sum of each lane by lane into a vector of `sums`.

    With each vector it asks for that of as many rows further on.  All at once these would keep the core's few buffers
    for lines on their way from those that it needs at once, or that it writes.
    """

    def code(context, builder, signature, arguments):
        source, start, columns, count, minus_largest, target, into, sums = arguments
        _, write_sum = vectors_of(context, builder, signature.args[7], sums, like=signature.args[0])
        shifts = context.make_array(signature.args[4])(context, builder, minus_largest).data
        data = context.make_array(signature.args[0])(context, builder, source).data
        next_rows = builder.gep(data, [builder.mul(count, columns)])
        lanes, _ = _lanes(signature.args[0])

        def emit(row_end, given, powers):
            zero = constant(ir.VectorType(context.get_value_type(signature.args[0].dtype), lanes), 0.0)
            total, last = cgutils.alloca_once(builder, zero.type), cgutils.alloca_once(builder, zero.type)
            with _loop(builder, _I64(0), count, 1) as row:
                shift = builder.mul(row, columns)
                place, out = builder.add(start, shift), builder.add(into, shift)
                minus_top = spread(builder, builder.load(builder.gep(shifts, [row])), lanes)
                builder.store(zero, total)
                with builder.if_then(row_end.is_some):
                    # Read before anything is written, since source and target may be one.
                    emit_fetch(builder, builder.gep(next_rows, [builder.add(place, row_end.start)]), 0)
                    power = emit_scaled_exp_of_negative(builder, builder.fadd(given.read_end(place), minus_top))
                    builder.store(power, last)
                    builder.store(builder.select(row_end.counted, power, zero), total)
                with _loop(builder, _I64(0), row_end.whole, lanes) as j:
                    emit_fetch(builder, builder.gep(next_rows, [builder.add(place, j)]), 0)
                    number = given.read(builder.add(place, j))
                    power = emit_scaled_exp_of_negative(builder, builder.fadd(number, minus_top))
                    powers.write(power, builder.add(out, j))
                    builder.store(builder.fadd(builder.load(total), power), total)
                    keep_loop(builder)
                with builder.if_then(row_end.is_some):
                    powers.write_end(builder.load(last), out)
                write_sum(builder.load(total), builder.mul(row, _I64(lanes)))

        _by_length(context, builder, columns, emit, (signature.args[0], source), (signature.args[5], target))
        return context.get_dummy_value()

    place = types.intp
    return types.void(source, place, place, place, minus_largest, target, place, sums), code


@intrinsic
def _add_lanes(typing, sums, first, totals, place):
    """``totals[place + i]`` is the sum of vector i of `sums`, for as many vectors as they have lanes."""

    def code(context, builder, signature, arguments):
        sums, first, totals, place = arguments
        read, _ = vectors_of(context, builder, signature.args[0], sums)
        _, write = vectors_of(context, builder, signature.args[2], totals)
        lanes, _ = _lanes(signature.args[0])
        write(_combined(builder, _sum, [read(builder.add(first, _I64(i * lanes))) for i in range(lanes)]), place)
        return context.get_dummy_value()

    return types.void(sums, types.intp, totals, types.intp), code


@njit(**INNER)
def exponentials_of_rows(source, start, columns, count, target, into, minus_largest, totals, sums):
    """``e^(x - largest x)`` of up to `ROWS_AT_ONCE` rows, scaled as by `emit_scaled_exp_of_negative`.

    Three loops over the rows rather than one: their steps wait for nothing but themselves, and the processor works at
    several of them at a time.

    Parameters
    ----------
    source, start, columns, count : flat array, int, int, int
        So many rows of so many columns start here.
    target, into : flat array, int
        Gets the exponentials.
    minus_largest, totals : local arrays of ROWS_AT_ONCE numbers
        Get minus each row's largest number, and the sum of its exponentials.  Where a row holds NaN, its sum is NaN.
    sums : local array of LANE_SUMS numbers
        Scratch memory.
    """
    group = lanes_of(source)
    for row in range(0, count, group):
        _maxima_of_rows(source, start + row * columns, columns, min(group, count - row), minus_largest, row)
    _exponentials(source, start, columns, count, minus_largest, target, into, sums)
    for row in range(0, count, group):
        _add_lanes(sums, row * group, totals, row)


@intrinsic
def scale_rows(typing, source, start, columns, count, factors, target, into):
    """Each of the rows that start here times its factor; source and target may be one."""

    def code(context, builder, signature, arguments):
        source, start, columns, count, factors, target, into = arguments
        lanes, _ = _lanes(signature.args[0])
        scales = context.make_array(signature.args[4])(context, builder, factors).data

        def emit(row_end, given, rows):
            last = cgutils.alloca_once(builder, ir.VectorType(scales.type.pointee, lanes))
            with _loop(builder, _I64(0), count, 1) as row:
                shift = builder.mul(row, columns)
                place, out = builder.add(start, shift), builder.add(into, shift)
                scale = spread(builder, builder.load(builder.gep(scales, [row])), lanes)
                with builder.if_then(row_end.is_some):
                    builder.store(builder.fmul(given.read_end(place), scale), last)
                with _loop(builder, _I64(0), row_end.whole, lanes) as j:
                    rows.write(builder.fmul(given.read(builder.add(place, j)), scale), builder.add(out, j))
                    keep_loop(builder)
                with builder.if_then(row_end.is_some):
                    rows.write_end(builder.load(last), out)

        _by_length(context, builder, columns, emit, (signature.args[0], source), (signature.args[5], target))
        return context.get_dummy_value()

    place = types.intp
    return types.void(source, place, place, place, factors, target, place), code


@intrinsic
def cross_entropy_of_rows(typing, logits, targets, powers, start, columns, count, scale, totals, losses):
    """Loss and gradient of rows whose exponentials are known: see `loss.softmax_cross_entropy`.

    Parameters
    ----------
    logits, targets, powers : flat arrays
        `powers` has the exponentials of `logits`, up to one factor a row, and gets the gradient.
    start, columns, count : int
        So many rows of so many columns start here.
    scale : number
        Of the gradient.
    totals : local array
        Sums of the rows' exponentials.
    losses : array
        Of these rows: has the logarithms of the sums of e^z, and gets the losses.
    """

    def code(context, builder, signature, arguments):
        logits, targets, powers, start, columns, count, scale, totals, losses = arguments
        kinds = signature.args
        lanes, _ = _lanes(kinds[0])
        total_data, loss_data = (
            context.make_array(kind)(context, builder, array).data
            for kind, array in ((kinds[7], totals), (kinds[8], losses))
        )
        zero = constant(ir.VectorType(scale.type, lanes), 0.0)
        scales = spread(builder, scale, lanes)

        def emit(row_end, logits, targets, powers):
            weights, sums, last = (cgutils.alloca_once(builder, zero.type) for _ in range(3))

            def add(target, logit, normalizer):
                """Where there is no target, a logit of -infinity does no harm."""
                term = builder.fmul(target, builder.fsub(normalizer, logit))
                term = builder.select(builder.fcmp_unordered("!=", target, zero), term, zero)
                builder.store(builder.fadd(builder.load(weights), target), weights)
                builder.store(builder.fadd(builder.load(sums), term), sums)

            def gradient(target, power, factor):
                return builder.fsub(builder.fmul(factor, power), builder.fmul(scales, target))

            with _loop(builder, _I64(0), count, 1) as row:
                place = builder.add(start, builder.mul(row, columns))
                loss_place = builder.gep(loss_data, [row])
                normalizer = spread(builder, builder.load(loss_place), lanes)
                builder.store(zero, weights)
                builder.store(zero, sums)
                with builder.if_then(row_end.is_some):
                    target = builder.select(row_end.counted, targets.read_end(place), zero)
                    add(target, logits.read_end(place), normalizer)
                with _loop(builder, _I64(0), row_end.whole, lanes) as j:
                    here = builder.add(place, j)
                    add(targets.read(here), logits.read(here), normalizer)
                    keep_loop(builder)
                weight, loss = (_over_lanes(builder, _sum, builder.load(place)) for place in (weights, sums))
                builder.store(loss, loss_place)
                total = builder.load(builder.gep(total_data, [row]))
                factor = spread(builder, builder.fdiv(builder.fmul(scale, weight), total), lanes)
                with builder.if_then(row_end.is_some):
                    # Read before anything is written: it overlaps.
                    builder.store(gradient(targets.read_end(place), powers.read_end(place), factor), last)
                with _loop(builder, _I64(0), row_end.whole, lanes) as j:
                    here = builder.add(place, j)
                    powers.write(gradient(targets.read(here), powers.read(here), factor), here)
                    keep_loop(builder)
                with builder.if_then(row_end.is_some):
                    powers.write_end(builder.load(last), place)

        arrays = zip(kinds[:3], (logits, targets, powers), strict=True)
        _by_length(context, builder, columns, emit, *arrays)
        return context.get_dummy_value()

    place = types.intp
    return types.void(logits, targets, powers, place, place, place, logits.dtype, totals, losses), code
