"""Vectors of numbers, read from arrays and written to them."""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import constant, spread
from .processor import REGISTER_BYTES

_I64 = ir.IntType(64)


@intrinsic
def lanes_of(typing, array):
    """Numbers of the array's type in a vector: a constant, which ``REGISTER_BYTES // array.itemsize`` is not."""

    def code(context, builder, signature, arguments):
        return ir.Constant(_I64, REGISTER_BYTES // (array.dtype.bitwidth // 8))

    return types.intp(array), code


def vectors_of(context, builder, kind, value, like=None, parts=1):
    """Functions that read a vector from a place of an array, and write one.

    Parameters
    ----------
    kind, value : Numba type and LLVM value of the array
    like : Numba type of an array, optional
        The vector has as many numbers as one of this array; default: `kind`.
    parts : int, default 1
        How many of the vectors fill a register.
    """
    lanes = REGISTER_BYTES // ((like or kind).dtype.bitwidth // 8) // parts
    vector = ir.VectorType(context.get_value_type(kind.dtype), lanes)
    data = context.make_array(kind)(context, builder, value).data

    def pointer(place):
        return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

    def read(place):
        return builder.load(pointer(place), align=kind.dtype.bitwidth // 8)

    def write(numbers, place):
        builder.store(numbers, pointer(place), align=kind.dtype.bitwidth // 8)

    return read, write


def first_lanes(builder, count, lanes):
    """Which lanes of a vector are its first `count`."""
    numbers = ir.Constant(ir.VectorType(_I64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, spread(builder, count, lanes))


def masked_vectors_of(context, builder, kind, value, chosen):
    """As `vectors_of`, of the chosen lanes only: nothing beside them is touched.

    ``read(place, beside)`` gives a vector that holds the number `beside` in the other lanes.
    """
    vector = ir.VectorType(context.get_value_type(kind.dtype), chosen.type.count)
    data, size = context.make_array(kind)(context, builder, value).data, kind.dtype.bitwidth // 8

    def masked(name, result, before, place, *after):
        pointer = builder.bitcast(builder.gep(data, [place]), vector.as_pointer())
        arguments = [*before, pointer, ir.IntType(32)(size), chosen, *after]
        function = ir.FunctionType(result, [argument.type for argument in arguments])
        name = f"llvm.masked.{name}.v{vector.count}{vector.element.intrinsic_name}.p0"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

    def read(place, beside):
        return masked("load", vector, (), place, constant(vector, beside))

    def write(numbers, place):
        masked("store", ir.VoidType(), (numbers,), place)

    return read, write


@intrinsic
def copy_vector(typing, source, place, target, into):
    """``target[into : into + LANES] = source[place : place + LANES]``."""

    def code(context, builder, signature, arguments):
        read, _ = vectors_of(context, builder, source, arguments[0])
        _, write = vectors_of(context, builder, target, arguments[2])
        write(read(arguments[1]), arguments[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), code


@intrinsic
def add_vector(typing, source, place, target, into):
    """``target[into : into + LANES] += source[place : place + LANES]``."""

    def code(context, builder, signature, arguments):
        read, _ = vectors_of(context, builder, source, arguments[0])
        read_target, write = vectors_of(context, builder, target, arguments[2])
        write(builder.fadd(read_target(arguments[3]), read(arguments[1])), arguments[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), code


@intrinsic
def copy_part(typing, source, place, count, target, into):
    """As `copy_vector` with fewer numbers than a vector has, and zeros behind them."""

    def code(context, builder, signature, arguments):
        _, place, count, _, into = arguments
        _, write = vectors_of(context, builder, target, arguments[3])
        chosen = first_lanes(builder, count, REGISTER_BYTES // (source.dtype.bitwidth // 8))
        read, _ = masked_vectors_of(context, builder, source, arguments[0], chosen)
        write(read(place, 0.0), into)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp), code


@intrinsic
def add_part(typing, source, place, count, target, into):
    """As `add_vector` with fewer numbers than a vector has, and zeros behind them."""

    def code(context, builder, signature, arguments):
        _, place, count, _, into = arguments
        read_target, write = vectors_of(context, builder, target, arguments[3])
        chosen = first_lanes(builder, count, REGISTER_BYTES // (source.dtype.bitwidth // 8))
        read, _ = masked_vectors_of(context, builder, source, arguments[0], chosen)
        write(builder.fadd(read_target(into), read(place, 0.0)), into)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp), code


# Sums that take turns at rows, since an addition waits for the one before.
SUMS = 4


def _emit_sum_of_rows(builder, rows, read_row, read, write, place, add):
    """Write the sum of so many vectors to a place or, where `add` says so, add it to what is there."""
    zero = constant(read(place).type, 0.0)
    totals = [cgutils.alloca_once_value(builder, zero) for _ in range(SUMS)]
    even = builder.and_(rows, _I64(-SUMS))
    for first, last, used in ((_I64(0), even, totals), (even, rows, totals[:1])):
        with cgutils.for_range_slice(builder, first, last, _I64(len(used)), intp=_I64) as (row, _):
            for number, total in enumerate(used):
                vector = read_row(builder.add(row, _I64(number)))
                builder.store(builder.fadd(builder.load(total), vector), total)
    pairs = [builder.fadd(*map(builder.load, totals[number : number + 2])) for number in range(0, SUMS, 2)]
    write(builder.fadd(builder.fadd(*pairs), builder.select(add, read(place), zero)), place)


def _add_rows(narrow):
    @intrinsic
    def add_rows(typing, source, place, step, rows, width, target, into, add):
        """Sum up vectors: the first of so many rows is at `place`, and each of the others `step` behind the last.

        ``target[into : into + LANES]`` becomes the sum or, with `add`, grows by it.  Where rows have a `width` of fewer
        numbers than a vector, the sum has zeros beside it.
        """

        def code(context, builder, signature, arguments):
            _, place, step, rows, width, _, into, add = arguments
            read, _ = vectors_of(context, builder, source, arguments[0])
            if narrow:
                chosen = first_lanes(builder, width, REGISTER_BYTES // (source.dtype.bitwidth // 8))
                masked, _ = masked_vectors_of(context, builder, source, arguments[0], chosen)
                read = functools.partial(masked, beside=0.0)

            def read_row(row):
                return read(builder.add(place, builder.mul(row, step)))

            of_target = vectors_of(context, builder, target, arguments[5])
            _emit_sum_of_rows(builder, rows, read_row, *of_target, into, add)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(source, integer, integer, integer, integer, target, integer, types.boolean), code

    return add_rows


add_rows, add_narrow_rows = _add_rows(False), _add_rows(True)


@intrinsic
def copy_and_add_rows(typing, source, place, step, rows, copies, first_copy, copy_step, target, into, add):
    """As `add_rows`, and copy the rows: the first one to `first_copy`, each other one `copy_step` behind the last."""

    def code(context, builder, signature, arguments):
        _, place, step, rows, _, first_copy, copy_step, _, into, add = arguments
        read, _ = vectors_of(context, builder, source, arguments[0])
        _, write = vectors_of(context, builder, copies, arguments[4])

        def copy_row(row):
            vector = read(builder.add(place, builder.mul(row, step)))
            write(vector, builder.add(first_copy, builder.mul(row, copy_step)))
            return vector

        _emit_sum_of_rows(builder, rows, copy_row, *vectors_of(context, builder, target, arguments[7]), into, add)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(
        source, integer, integer, integer, copies, integer, integer, target, integer, types.boolean
    ), code  # fmt: skip


def turned(builder, rows):
    """As many vectors as they have lanes, turned over: lane i of vector j becomes lane j of vector i.

    Eklundh's way: exchange the off-diagonal blocks of halves, then within them, down to single numbers.
    """
    count = len(rows)
    half, rows = count // 2, list(rows)
    while half:
        upper = [i if not i & half else i - half + count for i in range(count)]
        lower = [i + half if not i & half else i + count for i in range(count)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), count), mask) for mask in (upper, lower)]
        for i in range(count):
            if not i & half:
                pair = rows[i], rows[i + half]
                rows[i], rows[i + half] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        half //= 2
    return rows


@intrinsic
def turn_square(typing, source, place, step, target, into, target_step):
    """A square of LANES x LANES numbers, turned over.

    ``target[into + i target_step + j] = source[place + j step + i]``
    """

    def code(context, builder, signature, arguments):
        _, place, step, _, into, target_step = arguments
        read, _ = vectors_of(context, builder, source, arguments[0])
        _, write = vectors_of(context, builder, target, arguments[3])
        count = REGISTER_BYTES // (source.dtype.bitwidth // 8)
        rows = [read(builder.add(place, builder.mul(step, ir.Constant(_I64, i)))) for i in range(count)]
        for i, row in enumerate(turned(builder, rows)):
            write(row, builder.add(into, builder.mul(target_step, ir.Constant(_I64, i))))
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), code
