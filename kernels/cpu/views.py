"""Parts of flat arrays, for compiled code that takes many of them.

A slice counts a reference to its array, one indivisible step to begin and one to end.  Threads that slice the same
array wait for each other there, for longer than it takes to copy a line of a small picture.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


@intrinsic
def part(typing, array, start, count):
    """``array[start : start + count]`` without a reference: for as long as somebody else holds the array.

    Nothing is checked: the part must lie in the array, which is contiguous and has one dimension.
    """
    array_type = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def code(context, builder, signature, arguments):
        whole, start, count = arguments
        data = context.make_array(array)(context, builder, whole).data
        item_size = ir.Constant(ir.IntType(64), context.get_abi_sizeof(context.get_data_type(array.dtype)))
        view = context.make_array(array_type)(context, builder)
        populate_array(view, builder.gep(data, [start]), [count], [item_size], item_size, meminfo=None)
        return view._getvalue()

    return array_type(array, types.intp, types.intp), code
