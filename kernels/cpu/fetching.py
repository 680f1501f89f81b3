"""Asking for lines of the cache before they are needed, where the processor cannot guess which they will be.

What is asked for may be any address, also one beyond an array's end: nothing happens then.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiling import INNER
from .workspace import LINE_BYTES

# Into which cache a line is fetched: that of the first level, or no nearer than that of the second.
NEAR, FAR = 3, 2


def emit_fetch(builder, pointer, writing, level=NEAR):
    """Ask for the line that holds an address; `writing`: 1 if it is to be written, 0 if to be read."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    function_type = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0i8")
    data = 1
    builder.call(function, [builder.bitcast(pointer, byte), *map(number, (writing, level, data))])


def _fetch(writing):
    @intrinsic
    def fetch(typing, array, place):
        def code(context, builder, signature, arguments):
            data = context.make_array(array)(context, builder, arguments[0]).data
            emit_fetch(builder, builder.gep(data, [arguments[1]]), writing)
            return context.get_dummy_value()

        return types.void(array, types.intp), code

    return fetch


# Ask for the line of ``array[place]``, to be read or to be written.
fetch_to_read, fetch_to_write = _fetch(0), _fetch(1)


@njit(**INNER)
def fetch(x, start, count):
    """Ask for the lines of ``x[start : start + count]``, to be read."""
    for place in range(start, start + count, LINE_BYTES // x.itemsize):
        fetch_to_read(x, place)
