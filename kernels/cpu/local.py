"""Small arrays in a function's own frame: scratch memory that costs nothing to allocate.

Such an array lasts until the function returns that asked for it, which may meanwhile share it with its tasks.  LLVM
knows that nothing else overlaps it, and may keep it in registers.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

# Where vectors of any processor may start.
ALIGNMENT = 64


@intrinsic(prefer_literal=True)
def local_array(typing, size, kind):
    """An uninitialised one-dimensional array in the frame of the calling function.

    Parameters
    ----------
    size : int
        A constant of the module.
    kind : array or NumPy scalar type
        Gives the dtype.
    """
    if not isinstance(size, types.IntegerLiteral):
        return None
    dtype = kind.dtype
    array_type = types.Array(dtype, 1, "C")

    def code(context, builder, signature, arguments):
        count = ir.Constant(ir.IntType(64), size.literal_value)
        element = context.get_data_type(dtype)
        place = cgutils.alloca_once(builder, element, size=count)
        place.align = ALIGNMENT
        item_size = ir.Constant(ir.IntType(64), context.get_abi_sizeof(element))
        array = context.make_array(array_type)(context, builder)
        populate_array(array, place, [count], [item_size], item_size, meminfo=None)
        return array._getvalue()

    return array_type(size, kind), code
