"""Views of arrays, for compiled code that takes many of them.

Slices also ask whether their ends are negative or lie beyond the array's.  These views do not, and are compiled in a
fraction of the time.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


@intrinsic
def part(typing, array, start, count):
    """``array[start : start + count]``, unchecked: the part must lie in the array.

    The array is contiguous and has one dimension.
    """

    def code(context, builder, signature, arguments):
        whole, start, count = arguments
        data = context.make_array(array)(context, builder, whole).data
        return _view(context, builder, signature.return_type, builder.gep(data, [start]), count)

    return _flat_type(array)(array, types.intp, types.intp), code


@intrinsic
def behind(typing, array, place):
    """``array[place:]``, as `part`."""

    def code(context, builder, signature, arguments):
        whole, place = arguments
        whole = context.make_array(array)(context, builder, whole)
        count = builder.sub(whole.nitems, place)
        return _view(context, builder, signature.return_type, builder.gep(whole.data, [place]), count)

    return _flat_type(array)(array, types.intp), code


@intrinsic
def flat(typing, array):
    """``array.reshape(-1)`` of a contiguous array."""

    def code(context, builder, signature, arguments):
        whole = context.make_array(array)(context, builder, arguments[0])
        return _view(context, builder, signature.return_type, whole.data, whole.nitems)

    return _flat_type(array)(array), code


@intrinsic
def record(typing, array, kind):
    """The structure of type `kind` that an array of numbers begins with."""

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
