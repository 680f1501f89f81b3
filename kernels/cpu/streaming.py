"""Results that no cache could hold, written to memory past the caches.

A core that stores into a line of memory first reads the line, since the store might leave some of it as it was.  An
operation that reads as much as it writes therefore moves three bytes for two.  A store that is not to be cached does
without, provided that whole lines are written.  It would be slower for results that somebody reads while they are in
the cache, which for arrays of `PAST_CACHES` bytes they are not.

So a task computes its results piece by piece into a local array, from which `stream` copies all whole lines::

    numbers:   | waiting | results of a piece ........ |
    lines:     | whole line | whole line | whole line |  waiting for the next piece |

What is left of a line moves to the array's beginning, and waits for the next piece: written to memory in the usual way,
each such line would hold up the lines behind it.  The input of the next piece is asked for meanwhile.
"""

import platform

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import keep_loop
from .compiling import INNER
from .processor import REGISTER_BYTES
from .workspace import LINE_BYTES

# Results of so many bytes go past the caches: as much as the last-level caches of large processors hold.
PAST_CACHES = 1 << 25

# Numbers of a piece, and room for them behind what waits of a line.
PIECE = 256
PIECE_ROOM = PIECE + LINE_BYTES // 4

_I64 = ir.IntType(64)
_X86 = platform.machine().lower() in ("x86_64", "amd64")


@njit(**INNER)
def is_streamed(y):
    """Whether a result goes past the caches."""
    return y.size * y.itemsize >= PAST_CACHES


@intrinsic
def stream(typing, numbers, count, target, place, is_end):
    """``target[place : place + count] = numbers[:count]``, in lines that go past the caches.

    Parameters
    ----------
    numbers : local array
    count : int
    target, place : flat array, int
        Where the first number belongs: where a line starts, or within one until a call reaches the first line's start.
    is_end : bool
        Whether the task ends here: then all numbers are written.

    Returns
    -------
    waiting : int
        How many numbers belong to a line that is not full yet: these stand at the beginning of `numbers` now.
    """

    def code(context, builder, signature, arguments):
        size = numbers.dtype.bitwidth // 8
        _, count, _, place, is_end = arguments
        given, taken = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        into = builder.gep(taken, [place])
        vector = ir.VectorType(given.type.pointee, REGISTER_BYTES // size)
        not_again = builder.module.add_metadata([ir.IntType(32)(1)])

        before = builder.and_(builder.neg(builder.ptrtoint(into, _I64)), _I64(LINE_BYTES - 1))
        before = builder.udiv(before, _I64(size))
        before = builder.select(builder.icmp_signed("<", before, count), before, count)
        lines = builder.and_(builder.sub(count, before), _I64(-(LINE_BYTES // size)))
        after = builder.add(before, lines)

        def copy_numbers(first, stop, destination):
            with cgutils.for_range_slice(builder, first, stop, _I64(1), intp=_I64) as (j, _):
                number = builder.load(builder.gep(given, [j]))
                builder.store(number, builder.gep(destination, [builder.sub(j, first)]))
                keep_loop(builder)

        copy_numbers(_I64(0), before, into)
        with cgutils.for_range_slice(builder, before, after, _I64(LINE_BYTES // size), intp=_I64) as (line, _):
            for shift in range(0, LINE_BYTES // size, vector.count):
                j = builder.add(line, _I64(shift))
                source, goal = (builder.bitcast(builder.gep(data, [j]), vector.as_pointer()) for data in (given, into))
                written = builder.store(builder.load(source, align=size), goal, align=REGISTER_BYTES)
                written.set_metadata("nontemporal", not_again)
        copy_numbers(after, count, builder.select(is_end, builder.gep(into, [after]), given))
        return builder.select(is_end, _I64(0), builder.sub(count, after))

    return types.intp(numbers, types.intp, target, types.intp, types.boolean), code


@intrinsic
def finish_streaming(typing):
    """What this thread has streamed stands before what it writes from now on, for other threads to see."""

    def code(context, builder, signature, arguments):
        if _X86:
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse.sfence"), [])
        return context.get_dummy_value()

    return types.void(), code
