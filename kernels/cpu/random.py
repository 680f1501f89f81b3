"""Dropout, with a mask that is computed rather than stored.

Random numbers bound it: the ten rounds of Philox are some seventy instructions for a vector of blocks, of four words
each, and they take one thread about as long as memory does to read and write as many float32 numbers.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import constant, keep_loop, spread
from .compiling import INNER, KERNEL
from .elementary import select
from .fetching import fetch
from .local import local_array
from .prepared import prepared
from .simd import REGISTER_BYTES
from .streaming import PIECE, PIECE_ROOM, finish_streaming, is_streamed, stream
from .threads import share
from .views import part

# Multiply-adds that a word costs, roughly.
WORK = 32

# Words that are drawn before they are used, and elements of a task.
WORDS = PIECE
TASK = 1 << 14

# Vectors of blocks that are drawn side by side: each round waits for the one before.
VECTORS = 2

_I64 = ir.IntType(64)


@prepared
def dropout(x, rate, seed, stream, step, y):
    """Each element is zero with probability `rate`, else multiplied by 1 / (1 - rate).

    Element i takes word ``i % 4`` of Philox with counter ``(i // 4, stream, step)`` and key
    `seed`: the same mask on every device and for any number of threads, and again in the
    backward pass, where `x` is the gradient.
    """
    # 64 bits, with a sign, as all whole numbers of repeated calls.
    return _dropout, (x, rate, int(np.uint64(seed).view(np.int64)), stream, step, y)


@njit(**KERNEL)
def _dropout(x, rate, seed, number, step, y):
    arguments = x.reshape(-1), rate, np.uint64(seed), np.uint32(number), np.uint32(step), y.reshape(-1)
    share(_dropout_part, arguments, (x.size + TASK - 1) // TASK, x.size * WORK)


@intrinsic
def _draw(typing, first_block, stream, step, key0, key1, words):
    """The `WORDS` words of consecutive blocks: `gpuconv.kernels.formulas.philox4x32`, by vectors.

    A word has 64 bits for itself, of which only the lower half counts: so a product's two halves are where the next
    round wants them, one after a shift, the other as it is.
    """

    def code(context, builder, signature, arguments):
        first_block, *rest, words = arguments
        data = context.make_array(signature.args[5])(context, builder, words).data
        lanes = REGISTER_BYTES // 8
        vector = ir.VectorType(_I64, lanes)
        half, lower = constant(vector, 32), constant(vector, 0xFFFFFFFF)
        stream, step, *key = (builder.zext(word, _I64) for word in rest)
        # All block numbers here have the upper half in common: WORDS is a power of two.
        constants = [spread(builder, word, lanes) for word in (builder.lshr(first_block, _I64(32)), stream, step)]
        # Even lanes hold the first blocks of a vector, odd lanes the others: so they come together at the end.
        order = ir.Constant(vector, [lane // 2 + lane % 2 * lanes // 2 for lane in range(lanes)])
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

        with cgutils.for_range_slice(builder, _I64(0), _I64(WORDS // 4), _I64(VECTORS * lanes), intp=_I64) as (j, _):
            states = []
            for number in range(VECTORS):
                block = builder.add(builder.add(first_block, j), _I64(number * lanes))
                states.append((builder.add(spread(builder, block, lanes), order), *constants))
            for pair in keys:
                states = [round_of(*state, *pair) for state in states]
            for number, (c0, c1, c2, c3) in enumerate(states):
                pairs = [
                    builder.or_(builder.and_(low, lower), builder.shl(high, half)) for low, high in ((c0, c1), (c2, c3))
                ]
                for side in range(2):
                    places = [lane - lane % 2 + side + lane % 2 * lanes for lane in range(lanes)]
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), places)
                    place = builder.mul(builder.add(j, _I64(number * lanes + side * lanes // 2)), _I64(4))
                    pointer = builder.bitcast(builder.gep(data, [place]), vector.as_pointer())
                    builder.store(builder.shuffle_vector(*pairs, mask), pointer, align=4)
            keep_loop(builder)
        return context.get_dummy_value()

    word = types.uint32
    return types.void(types.intp, word, word, word, word, words), code


@njit(**INNER)
def _dropout_part(first, last, worker, x, rate, seed, number, step, y):
    threshold = np.uint32(rate * 4294967296.0)
    scale, zero = x.dtype.type(1.0 / (1.0 - rate)), x.dtype.type(0)
    key0 = np.uint32(seed & np.uint64(0xFFFFFFFF))
    key1 = np.uint32(seed >> np.uint64(32))
    words, piece = local_array(WORDS, np.uint32), local_array(PIECE_ROOM, y)
    streamed, waiting = is_streamed(y), 0
    target = piece if streamed else y
    end = min(last * TASK, x.size)
    for start in range(first * TASK, end, WORDS):
        count = min(WORDS, end - start)
        into = waiting if streamed else start
        if streamed:
            fetch(x, start + count, count)
        _draw(start // 4, number, step, key0, key1, words)
        given, kept = part(x, start, count), part(target, into, count)
        for i in range(count):
            # A product with zero would keep NaN; a dropped element is gone.
            kept[i] = select(words[i] >= threshold, given[i] * scale, zero)
        if streamed:
            waiting = stream(piece, into + count, y, start - into, start + count == end)
    if streamed:
        finish_streaming()
