"""Views of arrays, for compiled code that takes many of them.

A slice counts a reference to its array, one indivisible step to begin and one to end.  Threads that slice the same
array wait for each other there, for longer than it takes to copy a line of a small picture.  These views count none,
and are compiled in a fraction of the time.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from .compiling import INNER


@intrinsic
def part(typing, array, start, count):
    """``array[start : start + count]`` without a reference: for as long as somebody else holds the array.

    Nothing is checked: the part must lie in the array, which is contiguous and has one dimension.
    """

    def code(context, builder, signature, arguments):
        whole, start, count = arguments
        data = context.make_array(array)(context, builder, whole).data
        return _view(context, builder, signature.return_type, builder.gep(data, [start]), count)

    return _flat_type(array)(array, types.intp, types.intp), code


@njit(**INNER)
def behind(array, place):
    """``array[place:]``, as `part`."""
    return part(array, place, array.size - place)


@intrinsic
def flat(typing, array):
    """``array.reshape(-1)`` of a contiguous array, without a reference, as `part`."""

    def code(context, builder, signature, arguments):
        whole = context.make_array(array)(context, builder, arguments[0])
        return _view(context, builder, signature.return_type, whole.data, whole.nitems)

    return _flat_type(array)(array), code


@intrinsic
def record(typing, array, kind):
    """The structure of type `kind` that an array of numbers begins with, without a reference, as `part`."""

    def code(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        return builder.bitcast(data, context.get_value_type(signature.return_type))

    return kind.dtype(array, kind), code


def _flat_type(array):
    return types.Array(array.dtype, 1, "C", readonly=not array.mutable)


def _view(context, builder, kind, data, count):
    item_size = ir.Constant(ir.IntType(64), context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    view = context.make_array(kind)(context, builder)
    populate_array(view, data, [count], [item_size], item_size, meminfo=None)
    return view._getvalue()
