"""Dropout, with a mask that is computed rather than stored.

A word of Philox decides about two elements: ten rounds for two vectors of blocks are 185 instructions for 64 elements,
which take one thread less time than memory does to read and write as many float32 numbers.  With a word for each
element they would take more.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import DROPOUT_TILE
from .builders import constant, keep_loop, spread
from .compiling import INNER, KERNEL
from .elementary import select
from .fetching import fetch
from .local import local_array
from .prepared import prepared
from .processor import REGISTER_BYTES
from .streaming import finish_streaming, is_streamed, stream
from .threads import share
from .views import part
from .workspace import LINE_BYTES

# Multiply-adds that an element costs, roughly.
WORK = 16

# Elements of a task, in whole tiles; room for a tile's results behind what waits of a line of memory.
TASK = 1 << 14
ROOM = DROPOUT_TILE + LINE_BYTES // 4

# Vectors of blocks that are drawn side by side: each round waits for the one before.
VECTORS = 2

_I64 = ir.IntType(64)


@prepared
def dropout(x, rate, seed, stream, step, y):
    """Each element is zero with probability `rate`, else multiplied by 1 / (1 - rate).

    The mask is that of `gpuconv.kernels.formulas.DROPOUT_TILE`, the same on every device and for any number of threads,
    and again in the backward pass, where `x` is the gradient.
    """
    # 64 bits, with a sign, as all whole numbers of repeated calls.
    key = int(np.uint64(seed).view(np.int64))
    return _dropout, (x, round(rate * 2**16), 1 / (1 - rate), key, stream, step, y)


@njit(**KERNEL)
def _dropout(x, threshold, scale, seed, number, step, y):
    key = np.uint64(seed)
    words = np.uint32(number), np.uint32(step), np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    arguments = x.reshape(-1), np.int32(threshold), y.dtype.type(scale), words, y.reshape(-1)
    share(_dropout_part, arguments, (x.size + TASK - 1) // TASK, x.size * WORK)


@intrinsic
def _draw(typing, first_block, words, numbers):
    """The numbers of a tile from its first block on: `gpuconv.kernels.formulas.philox4x32`, by vectors.

    `words` are what else goes into the counter, and the key.

    A word has 64 bits for itself, of which only the lower half counts: so a product's two halves are where the next
    round wants them, one after a shift, the other as it is.  In the end two words come together, which are four numbers
    of one block, beside those of the next block: as the tile wants them.
    """

    def code(context, builder, signature, arguments):
        first_block, words, numbers = arguments
        data = context.make_array(signature.args[2])(context, builder, numbers).data
        lanes = REGISTER_BYTES // 8
        vector = ir.VectorType(_I64, lanes)
        half, lower = constant(vector, 32), constant(vector, 0xFFFFFFFF)
        stream, step, *key = (builder.zext(word, _I64) for word in cgutils.unpack_tuple(builder, words))
        # All block numbers of a tile have the upper half in common: tiles have a power of two of them.
        constants = [spread(builder, word, lanes) for word in (builder.lshr(first_block, _I64(32)), stream, step)]
        order = ir.Constant(vector, list(range(lanes)))
        keys = []
        for number in range(10):
            shifts = (0x9E3779B9 * number, 0xBB67AE85 * number)
            keys.append([spread(builder, builder.add(k, _I64(s)), lanes) for k, s in zip(key, shifts, strict=True)])

        def round_of(c0, c1, c2, c3, key0, key1):
            first = builder.mul(builder.and_(c0, lower), constant(vector, 0xD2511F53))
            second = builder.mul(builder.and_(c2, lower), constant(vector, 0xCD9E8D57))
            c0 = builder.xor(builder.lshr(second, half), builder.xor(c1, key0))
            c2 = builder.xor(builder.lshr(first, half), builder.xor(c3, key1))
            return c0, second, c2, first

        blocks = _I64(DROPOUT_TILE // 8)
        with cgutils.for_range_slice(builder, _I64(0), blocks, _I64(VECTORS * lanes), intp=_I64) as (j, _):
            states = []
            for number in range(VECTORS):
                block = builder.add(builder.add(first_block, j), _I64(number * lanes))
                states.append((builder.add(spread(builder, block, lanes), order), *constants))
            for pair in keys:
                states = [round_of(*state, *pair) for state in states]
            for number, (c0, c1, c2, c3) in enumerate(states):
                for first, low, high in ((0, c0, c1), (DROPOUT_TILE // 2, c2, c3)):
                    four = builder.or_(builder.and_(low, lower), builder.shl(high, half))
                    place = builder.add(builder.mul(j, _I64(4)), _I64(first + 4 * number * lanes))
                    pointer = builder.bitcast(builder.gep(data, [place]), vector.as_pointer())
                    builder.store(four, pointer, align=REGISTER_BYTES)
            keep_loop(builder)
        return context.get_dummy_value()

    return types.void(types.intp, words, numbers), code


@njit(**INNER)
def _dropout_part(first, last, worker, x, threshold, scale, words, y):
    zero = y.dtype.type(0)
    numbers, piece = local_array(DROPOUT_TILE, np.uint16), local_array(ROOM, y)
    streamed, waiting = is_streamed(y), 0
    target = piece if streamed else y
    end = min(last * TASK, x.size)
    for start in range(first * TASK, end, DROPOUT_TILE):
        count = min(DROPOUT_TILE, end - start)
        into = waiting if streamed else start
        if streamed:
            fetch(x, start + count, count)
        _draw(start // 8, words, numbers)
        given, kept = part(x, start, count), part(target, into, count)
        for i in range(count):
            # A product with zero would keep NaN; a dropped element is gone.
            kept[i] = select(np.int32(numbers[i]) >= threshold, given[i] * scale, zero)
        if streamed:
            waiting = stream(piece, into + count, y, start - into, start + count == end)
    if streamed:
        finish_streaming()
