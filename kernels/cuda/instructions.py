"""Instructions of the GPU that Python has no words for, as functions that kernels call.

Numba's arrays cost a fast kernel three things: each one is unpacked at every launch, each index is computed in 64 bits
with its strides, and a number is loaded where the hardware can load four.  Here a kernel works on *addresses* instead:

- of global memory, 64 bits wide: what `toolkit.address` makes of an array is passed to the kernel as one number;
- of shared memory, 32 bits wide: what `shared_address` makes of a shared array.

`move` makes one address of another, `load`, `load4`, `store` and `store4` access what lies there; which memory it is
they see by the width.  An address counts in float32 numbers, and everything here works on these alone.  An access to
four at once must lie at a multiple of 16 bytes.

A register tile is a `cuda.local.array` whose places are all known when the kernel is compiled.  `multiply_rows` and
`multiply_steps` add a product of two strips in shared memory to one; `multiply_fragments` and
`multiply_fragment_steps` do so on tensor cores.
`multiply_patches` and `multiply_column` add what a part of a window makes of the pixels under it.

Each function has a twin of the same name for Numba's simulator, which stands first, and says what both do.  There
an address is a `toolkit.Address`, which knows its array: accesses beyond its ends, or to four numbers at a wrong
place, raise.  Asynchronous copies arrive at once.

How they are made: each function is an `intrinsic` that writes LLVM code.  Offsets that are known when compiling
end in the instruction, where they cost nothing.  Kernels must use these functions as globals of a module: Numba's
disk cache does not find a kernel again that holds one in a closure.
"""

import numpy as np

from .toolkit import SIMULATED, Address

# How `multiply_fragments` multiplies float32 numbers on tensor cores, whose factors have fewer bits: as the sum of
# three products of TF32 numbers, with nearly all bits; cut to TF32, 10 bits of fraction; rounded to bfloat16, 7 bits.
THREE_TF32, TF32, BFLOAT16 = range(3)

if SIMULATED:
    # What local arrays of addresses hold, and how shared arrays are aligned that are accessed four numbers at once.
    ADDRESS = SHARED_ADDRESS = object
    ALIGNMENT = None

    def shared_address(array):
        """The address where a shared array of float32 begins."""
        return Address(array)

    def move(address, count):
        """The address `count` numbers further on; `count` may be negative."""
        return address.moved(int(count))

    def load(address):
        """The number at an address, of global memory or shared."""
        return address.cells(1)[0]

    def load4(address):
        """The four numbers from an address on, of global memory or shared, as a tuple."""
        return tuple(address.cells(4))

    def load_if(wanted, address):
        """The number at an address of global memory, or zero, without looking there, if not `wanted`."""
        return load(address) if wanted else np.float32(0)

    def load4_if(wanted, address):
        """The four numbers from an address of global memory on, or zeros, without looking there, if not `wanted`."""
        return load4(address) if wanted else (np.float32(0),) * 4

    def store(address, a):
        """Put a number at an address, of global memory or shared."""
        address.cells(1)[:] = a

    def store4(address, a, b, c, d):
        """Put four numbers from an address on, of global memory or shared."""
        address.cells(4)[:] = a, b, c, d

    def store_byte(address, place, a):
        """Put a number from 0 to 255 into byte number `place` of an array of bytes in global memory."""
        address.moved(int(place)).cells(1)[:] = a

    def store4_bytes(address, place, a, b, c, d):
        """Put four of them into the bytes from `place` on, which is a multiple of 4."""
        address.moved(int(place)).cells(4)[:] = a, b, c, d

    def copy_if(wanted, source, target):
        """Begin to copy a number of global memory to shared memory; a zero, without looking there, if not `wanted`."""
        store(target, load_if(wanted, source))

    def copy4_if(wanted, source, target):
        """Begin to copy four numbers of global memory to shared memory; zeros if not `wanted`."""
        store4(target, *load4_if(wanted, source))

    def close_copies():
        """Make a group of the copies that this thread has begun since the last group."""

    def await_copies(groups):
        """Wait until all groups of this thread's copies but the last `groups` (a constant) have arrived."""

    def pin(address):
        """The same address, computed here and kept: the compiler cannot move its arithmetic into a loop."""
        return address

    def same_thread(thread):
        """``cuda.threadIdx.x``, which is `thread`, asked for anew: what depends on it need not be kept until here."""
        return thread

    def add_if(wanted, a, b):
        """``a + b`` of 32-bit numbers, or a if not `wanted`: one instruction, where a choice and a sum take two."""
        return np.int32(int(a) + int(b)) if wanted else a

    def divide(a, b):
        """``a // b`` of numbers from 0 to 2**31 - 1, by 32-bit division."""
        return np.int32(int(a) // int(b))

    def bit(mask, place):
        """Bit number `place`, from 0 to 31, of a 32-bit mask: 0 or 1."""
        return int(mask) >> int(place) & 1

    def power_of_two(place):
        """The 32-bit mask in which bit number `place`, from 0 to 31, alone is set."""
        return np.uint32(1 << int(place))

    def shift_left(mask, count):
        """A 32-bit mask, shifted by fewer than 32 bits."""
        return np.uint32(int(mask) << int(count) & 0xFFFFFFFF)

    def shift_right(mask, count):
        """A 32-bit mask, shifted by fewer than 32 bits."""
        return np.uint32(int(mask) >> int(count))

    def multiply_rows(sums, left, right, rows, columns, depth, left_stride, right_stride, row_step, column_step):
        """Add the product of a left strip stored by rows, ``(row, k)``, and a right strip ``(k, column)``.

        The register tile `sums` has `rows` x `columns` numbers.  Of its row `r` the left factors lie, one beside
        another, from ``left + r * row_step * left_stride`` on; of columns ``4 q .. 4 q + 3`` the right factors lie at
        ``right + k * right_stride + q * column_step``.  `depth` terms are added to each sum, one after another, each
        with one rounding.  All numbers but the addresses are constants.  `columns`, `depth` and both strides are
        multiples of 4.
        """
        a = [
            np.concatenate([move(left, r * row_step * left_stride + k).cells(4) for k in range(0, depth, 4)])
            for r in range(rows)
        ]
        _add_product(sums, np.array(a), _right_strip(right, columns, depth, right_stride, column_step))

    def multiply_steps(sums, left, right, rows, columns, depth, left_stride, right_stride, row_step, column_step):
        """Add the product of a left strip stored by steps, ``(k, row)``, and a right strip ``(k, column)``.

        As `multiply_rows`, but of rows ``4 q .. 4 q + 3`` the left factors lie at
        ``left + k * left_stride + q * row_step``; `rows` is a multiple of 4, and `depth` need not be one.
        """
        a = _right_strip(left, rows, depth, left_stride, row_step).T
        _add_product(sums, a, _right_strip(right, columns, depth, right_stride, column_step))

    def multiply_patches(sums, patches, weights, kernel_width, channels, stride, row_step, columns, filter_step):
        """Add to the sums of 2 x 4 pixels and 8 filters what one kernel row makes of the row of x under it.

        The four patches of a row of pixels begin at ``patches + r * row_step``, `stride` cells of `channels` numbers
        apart, at a multiple of 16 bytes.  Weights of filters ``4 q .. 4 q + 3`` lie at ``weights + k * columns + q *
        filter_step``, where `k` counts cells and channels.  The register tile `sums` is ``(row, pixel, filter)``.  All
        numbers but the addresses are constants.
        """
        terms, apart = kernel_width * channels, stride * channels
        b = _right_strip(weights, 8, terms, columns, filter_step)
        quads = range(0, 3 * apart + terms, 4)
        lines = [np.concatenate([move(patches, r * row_step + q).cells(4) for q in quads]) for r in range(2)]
        a = np.array([line[n * apart : n * apart + terms] for line in lines for n in range(4)])
        _add_product(sums, a, b)

    def multiply_column(sums, dz, weights, rows, kernel_height, channels, line):
        """Add to the sums of `rows` pixels, one below another, what one column of their windows makes of four filters.

        Numbers of four filters lie side by side: those of the pixels under the windows' column from `dz` on, `line`
        numbers apart, and those of the weights, which are ``(row, channel, filter)``, from `weights` on.  The register
        tile `sums` is ``(pixel, channel)``.  All numbers but the addresses are constants.
        """
        a = np.array([move(dz, r * line).cells(4) for r in range(rows + kernel_height - 1)])
        b = np.array([move(weights, 4 * entry).cells(4) for entry in range(kernel_height * channels)])
        b = b.reshape(kernel_height, channels, 4).transpose(1, 0, 2).reshape(channels, -1)
        a = np.array([a[row : row + kernel_height].ravel() for row in range(rows)])
        _add_product(sums, a, b.T)

    def multiply_fragments(sums, left, right, lane, rows, columns, depth, left_stride, right_stride, precision):
        """Add the product of a left strip stored by rows and a right strip ``(k, column)``, a whole warp together.

        The warp's tile has ``8 rows`` rows and ``4 columns`` columns.  The register tile `sums` of lane
        ``4 i + j`` has `rows` x `columns` of them: rows ``i, i + 8, ...``, and columns ``4 j .. 4 j + 3``, the same
        16 further on, and so forth.  `left` and `right` are `fragment_corners` of the lane, in the strips of the
        warp; `precision` is `THREE_TF32`, `TF32` or `BFLOAT16`.  All but the addresses and the lane are constants:
        `rows` is even, `columns` a multiple of 8, `depth` of 16, and both strides are 4 more than a multiple of 8.

        What tensor cores add they cut, toward zero.  With `THREE_TF32` they add 16 terms at a time, and these sums are
        added to `sums` with rounding to nearest, which keeps the accuracy of float32: Ootomo and Yokota, "Recovering
        single precision accuracy from tensor cores while surpassing the FP32 theoretical peak performance" (2022).

        The left factor is cut to TF32, the right one rounded, and what that leaves of them are the factors of the small
        products.  A cut number leaves up to 13 bits, of which tensor cores see 11 from the first that is set on: if all
        bits are equally likely, they lose 7/8 of a unit of its last place in the mean.  The product of what both leave
        is missing; it has either sign, since one is rounded.  Were both cut, sums of positive terms would be too small
        by nearly two units more.  Numbers of up to 11 bits leave nothing, so that their products are exact, as those
        with zero are.  An infinity leaves NaN, and so its products are NaN.  A right factor beyond 3.4018e38 becomes
        infinite.
        """
        down, along = fragment_corners(lane, left_stride, right_stride)
        left, right = move(left, -int(down)), move(right, -int(along))
        group, place = int(lane) // 4, int(lane) % 4
        a = np.array(
            [
                np.concatenate([move(left, (group + 8 * row) * left_stride + k).cells(4) for k in range(0, depth, 4)])
                for row in range(rows)
            ]
        )
        b = _right_strip(move(right, 4 * place), columns, depth, right_stride, 16)
        _add_product(sums, _narrowed(a, precision), _narrowed(b, precision))

    def multiply_fragment_steps(sums, left, right, lane, rows, columns, depth, left_stride, right_stride, precision):
        """Add the product of a left strip stored by steps, ``(k, row)``, and a right strip ``(k, column)``.

        As `multiply_fragments`, but the sums of lane ``4 i + j`` are of rows ``c .. c + 3`` with ``c = i // 2 * 4 + i %
        2 * 16``, the same 32 further on, and so forth; `left` and `right` are `fragment_corner_steps` of the lane in
        the strips of the warp, `rows` is a multiple of 4, and both strides are 4 more than a multiple of 8.
        """
        group, place = int(lane) // 4, int(lane) % 4
        left = move(left, -int(fragment_corner_steps(lane, left_stride)))
        right = move(right, -int(fragment_corner_steps(lane, right_stride)))
        a = _right_strip(move(left, group // 2 * 4 + group % 2 * 16), rows, depth, left_stride, 32).T
        b = _right_strip(move(right, 4 * place), columns, depth, right_stride, 16)
        _add_product(sums, _narrowed(a, precision), _narrowed(b, precision))

    def fragment_corner_steps(lane, stride):
        """How far from the beginning of a strip stored by steps the address lies that a lane gives for it."""
        lane = int(lane)
        slot = lane // 4
        return lane % 4 * stride + slot // 2 * 4 + slot % 2 * 16

    def fragment_corners(lane, left_stride, right_stride):
        """How far from the beginning of its warp's strips the addresses lie that a lane gives `multiply_fragments`."""
        lane = int(lane)
        return lane % 16 * left_stride + lane // 16 * 4, fragment_corner_steps(lane, right_stride)

    def _narrowed(numbers, precision):
        bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
        if precision == TF32:
            bits = bits & np.uint32(0xFFFFE000)
        if precision == BFLOAT16:
            bits = np.where(np.isnan(numbers), bits, bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(
                0xFFFF0000
            )
        return bits.astype(np.uint32).view(np.float32)

    def _right_strip(right, columns, depth, stride, step):
        quads = range(columns // 4)
        return np.array(
            [np.concatenate([move(right, k * stride + q * step).cells(4) for q in quads]) for k in range(depth)]
        )

    def _add_product(sums, a, b):
        with np.errstate(all="ignore"):
            sums[:] = sums + (a @ b).ravel()

else:
    from llvmlite import ir
    from numba.cuda import cgutils, types
    from numba.cuda.core.errors import RequireLiteralValue, TypingError
    from numba.cuda.extending import intrinsic

    ADDRESS, SHARED_ADDRESS = np.uint64, np.uint32
    ALIGNMENT = 16

    _float, _i32, _i64, _nothing = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()
    _four = ir.VectorType(_float, 4)
    # The bits of a number that tensor cores see as TF32.
    _SEEN = _i32(0xFFFFE000)
    _four_floats = types.UniTuple(types.float32, 4)
    _GLOBAL, _SHARED = 1, 3

    def _space(address):
        if address == types.uint64:
            return _GLOBAL
        if address == types.uint32:
            return _SHARED
        raise TypingError(f"address: expected uint64 (global memory) or uint32 (shared memory), received {address}")

    def _pointer(builder, address, space, kind):
        return builder.inttoptr(address, ir.PointerType(kind, space))

    def _constants(*numbers):
        for number in numbers:
            if not isinstance(number, types.IntegerLiteral):
                raise RequireLiteralValue(f"expected a constant integer, received {number}")
        return tuple(number.literal_value for number in numbers)

    def _assembly(builder, text, constraints, result, arguments):
        kinds = [argument.type for argument in arguments]
        code = ir.InlineAsm(ir.FunctionType(result, kinds), text, constraints, side_effect=True)
        return builder.call(code, arguments)

    def _flag(builder, wanted):
        """A truth value, or an integer that is zero or not, in 32 bits."""
        if wanted.type.width < 32:
            return builder.zext(wanted, _i32)
        return builder.trunc(wanted, _i32) if wanted.type.width > 32 else wanted

    @intrinsic
    def shared_address(typing, array):
        signature = types.uint32(array)

        def generate(context, builder, signature, arguments):
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0]).data
            return builder.ptrtoint(builder.addrspacecast(data, ir.PointerType(_float, _SHARED)), _i32)

        return signature, generate

    @intrinsic
    def move(typing, address, count):
        wide = _space(address) == _GLOBAL
        signature = address(address, types.int32)

        def generate(context, builder, signature, arguments):
            address, count = arguments
            if wide:
                count = builder.sext(count, _i64)
            return builder.add(address, builder.shl(count, count.type(2)))

        return signature, generate

    @intrinsic
    def load(typing, address):
        space = _space(address)

        def generate(context, builder, signature, arguments):
            return builder.load(_pointer(builder, arguments[0], space, _float))

        return types.float32(address), generate

    @intrinsic
    def load4(typing, address):
        space = _space(address)

        def generate(context, builder, signature, arguments):
            return cgutils.pack_array(builder, _load4(builder, _pointer(builder, arguments[0], space, _four)))

        return _four_floats(address), generate

    def _load4(builder, pointer):
        numbers = builder.load(pointer, align=16)
        return [builder.extract_element(numbers, _i32(place)) for place in range(4)]

    @intrinsic
    def load_if(typing, wanted, address):
        text = "{ .reg .pred p; setp.ne.u32 p, $1, 0; mov.b32 $0, 0; @p ld.global.nc.f32 $0, [$2]; }"

        def generate(context, builder, signature, arguments):
            return _assembly(builder, text, "=&f,r,l", _float, [_flag(builder, arguments[0]), arguments[1]])

        return types.float32(wanted, types.uint64), generate

    @intrinsic
    def load4_if(typing, wanted, address):
        text = (
            "{ .reg .pred p; setp.ne.u32 p, $4, 0; mov.b32 $0, 0; mov.b32 $1, 0; mov.b32 $2, 0; mov.b32 $3, 0; "
            "@p ld.global.nc.v4.f32 {$0, $1, $2, $3}, [$5]; }"
        )
        result = ir.LiteralStructType([_float] * 4)

        def generate(context, builder, signature, arguments):
            arguments = [_flag(builder, arguments[0]), arguments[1]]
            numbers = _assembly(builder, text, "=&f,=&f,=&f,=&f,r,l", result, arguments)
            return cgutils.pack_array(builder, [builder.extract_value(numbers, place) for place in range(4)])

        return _four_floats(wanted, types.uint64), generate

    @intrinsic
    def store(typing, address, a):
        space = _space(address)

        def generate(context, builder, signature, arguments):
            builder.store(arguments[1], _pointer(builder, arguments[0], space, _float))
            return context.get_dummy_value()

        return types.void(address, types.float32), generate

    @intrinsic
    def store4(typing, address, a, b, c, d):
        space = _space(address)

        def generate(context, builder, signature, arguments):
            numbers = ir.Constant(_four, ir.Undefined)
            for place in range(4):
                numbers = builder.insert_element(numbers, arguments[1 + place], _i32(place))
            builder.store(numbers, _pointer(builder, arguments[0], space, _four), align=16)
            return context.get_dummy_value()

        return types.void(address, *[types.float32] * 4), generate

    @intrinsic
    def store_byte(typing, address, place, a):
        def generate(context, builder, signature, arguments):
            address, place, number = arguments
            _store_at(builder, address, place, builder.trunc(number, ir.IntType(8)))
            return context.get_dummy_value()

        return types.void(types.uint64, types.int32, types.int32), generate

    @intrinsic
    def store4_bytes(typing, address, place, a, b, c, d):
        def generate(context, builder, signature, arguments):
            address, place, *numbers = arguments
            word = numbers[0]
            for byte in range(1, 4):
                word = builder.or_(word, builder.shl(numbers[byte], _i32(8 * byte)))
            _store_at(builder, address, place, word)
            return context.get_dummy_value()

        return types.void(types.uint64, types.int32, *[types.int32] * 4), generate

    def _store_at(builder, address, place, number):
        place = _pointer(builder, builder.add(address, builder.sext(place, _i64)), _GLOBAL, number.type)
        builder.store(number, place)

    def _copy(wanted, size, how):
        # The last operand is how many bytes are read: what is missing of `size` is filled with zeros.
        text = (
            "{ .reg .pred p; .reg .b32 n; setp.ne.b32 p, $0, 0; "
            f"selp.b32 n, {size}, 0, p; cp.async.{how} [$2], [$1], {size}, n; }}"
        )

        def generate(context, builder, signature, arguments):
            arguments = [_flag(builder, arguments[0]), *arguments[1:]]
            _assembly(builder, text, "r,l,r,~{memory}", _nothing, arguments)
            return context.get_dummy_value()

        return types.void(wanted, types.uint64, types.uint32), generate

    @intrinsic
    def copy_if(typing, wanted, source, target):
        return _copy(wanted, 4, "ca.shared.global")

    @intrinsic
    def copy4_if(typing, wanted, source, target):
        return _copy(wanted, 16, "cg.shared.global.L2::128B")

    def _order(signature, text):
        def generate(context, builder, signature, arguments):
            _assembly(builder, text, "~{memory}", _nothing, [])
            return context.get_dummy_value()

        return signature, generate

    @intrinsic
    def close_copies(typing):
        return _order(types.void(), "cp.async.commit_group;")

    @intrinsic
    def await_copies(typing, groups):
        return _order(types.void(groups), f"cp.async.wait_group {_constants(groups)[0]};")

    @intrinsic
    def pin(typing, address):
        text, constraints = ("mov.b64 $0, $1;", "=l,l") if _space(address) == _GLOBAL else ("mov.b32 $0, $1;", "=r,r")

        def generate(context, builder, signature, arguments):
            return _assembly(builder, text, constraints, arguments[0].type, arguments)

        return address(address), generate

    @intrinsic
    def same_thread(typing, thread):
        def generate(context, builder, signature, arguments):
            return _assembly(builder, "mov.u32 $0, %tid.x;", "=r", _i32, [])

        return types.int32(types.int32), generate

    @intrinsic
    def add_if(typing, wanted, a, b):
        text = "{ .reg .pred p; setp.ne.u32 p, $1, 0; mov.b32 $0, $2; @p add.s32 $0, $0, $3; }"

        def generate(context, builder, signature, arguments):
            return _assembly(builder, text, "=&r,r,r,r", _i32, [_flag(builder, arguments[0]), *arguments[1:]])

        return types.int32(wanted, types.int32, types.int32), generate

    @intrinsic
    def divide(typing, a, b):
        def generate(context, builder, signature, arguments):
            return builder.udiv(*arguments)

        return types.int32(types.int32, types.int32), generate

    @intrinsic
    def bit(typing, mask, place):
        def generate(context, builder, signature, arguments):
            return builder.and_(builder.lshr(*arguments), _i32(1))

        return types.uint32(types.uint32, types.uint32), generate

    @intrinsic
    def power_of_two(typing, place):
        def generate(context, builder, signature, arguments):
            return builder.shl(_i32(1), arguments[0])

        return types.uint32(types.uint32), generate

    @intrinsic
    def shift_left(typing, mask, count):
        def generate(context, builder, signature, arguments):
            return builder.shl(*arguments)

        return types.uint32(types.uint32, types.uint32), generate

    @intrinsic
    def shift_right(typing, mask, count):
        def generate(context, builder, signature, arguments):
            return builder.lshr(*arguments)

        return types.uint32(types.uint32, types.uint32), generate

    @intrinsic
    def multiply_rows(
        typing, sums, left, right, rows, columns, depth, left_stride, right_stride, row_step, column_step
    ):
        constants = rows, columns, depth, left_stride, right_stride, row_step, column_step
        rows, columns, depth, left_stride, right_stride, row_step, column_step = _constants(*constants)

        def generate(context, builder, signature, arguments):
            tile = _RegisterTile(context, builder, signature, arguments, rows, columns)
            for first in range(0, depth, 4):
                quads = [tile.left(row * row_step * left_stride + first) for row in range(rows)]
                for k in range(4):
                    b = tile.right_row((first + k) * right_stride, column_step)
                    tile.add_outer_product([quad[k] for quad in quads], b)
            tile.keep()
            return context.get_dummy_value()

        return types.void(sums, types.uint32, types.uint32, *constants), generate

    @intrinsic
    def multiply_steps(
        typing, sums, left, right, rows, columns, depth, left_stride, right_stride, row_step, column_step
    ):
        constants = rows, columns, depth, left_stride, right_stride, row_step, column_step
        rows, columns, depth, left_stride, right_stride, row_step, column_step = _constants(*constants)

        def generate(context, builder, signature, arguments):
            tile = _RegisterTile(context, builder, signature, arguments, rows, columns)
            for k in range(depth):
                quads = [tile.left(k * left_stride + first // 4 * row_step) for first in range(0, rows, 4)]
                b = tile.right_row(k * right_stride, column_step)
                tile.add_outer_product([number for quad in quads for number in quad], b)
            tile.keep()
            return context.get_dummy_value()

        return types.void(sums, types.uint32, types.uint32, *constants), generate

    @intrinsic
    def multiply_patches(
        typing, sums, patches, weights, kernel_width, channels, stride, row_step, columns, filter_step
    ):
        constants = kernel_width, channels, stride, row_step, columns, filter_step
        kernel_width, channels, stride, row_step, columns, filter_step = _constants(*constants)
        terms, apart = kernel_width * channels, stride * channels

        def generate(context, builder, signature, arguments):
            tile = _RegisterTile(context, builder, signature, arguments, 8, 8)
            quads = range(0, 3 * apart + terms, 4)
            lines = [[number for q in quads for number in tile.left(r * row_step + q)] for r in range(2)]
            for k in range(terms):
                a = [line[n * apart + k] for line in lines for n in range(4)]
                tile.add_outer_product(a, tile.right_row(k * columns, filter_step))
            tile.keep()
            return context.get_dummy_value()

        return types.void(sums, types.uint32, types.uint32, *constants), generate

    @intrinsic
    def multiply_column(typing, sums, dz, weights, rows, kernel_height, channels, line):
        constants = rows, kernel_height, channels, line
        rows, kernel_height, channels, line = _constants(*constants)

        def generate(context, builder, signature, arguments):
            tile = _RegisterTile(context, builder, signature, arguments, rows, channels)
            quads = [tile.left(place * line) for place in range(rows + kernel_height - 1)]
            for a in range(kernel_height):
                weights = [tile.right(4 * (a * channels + channel)) for channel in range(channels)]
                for k in range(4):
                    numbers = [quads[row + a][k] for row in range(rows)]
                    tile.add_outer_product(numbers, [quad[k] for quad in weights])
            tile.keep()
            return context.get_dummy_value()

        return types.void(sums, types.uint32, types.uint32, *constants), generate

    class _RegisterTile:
        """Writes the code that adds outer products to a register tile."""

        def __init__(self, context, builder, signature, arguments, rows, columns):
            self.builder, self.rows, self.columns = builder, rows, columns
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0]).data
            self.places = [builder.gep(data, [_i32(place)], inbounds=True) for place in range(rows * columns)]
            self.sums = [builder.load(place) for place in self.places]
            self.strips = [_pointer(builder, address, _SHARED, _float) for address in arguments[1:3]]
            self.fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_float, [_float] * 3), "llvm.fma.f32"
            )

        def left(self, offset):
            return self._four(self.strips[0], offset)

        def right(self, offset):
            return self._four(self.strips[1], offset)

        def right_row(self, offset, step):
            return [number for quad in range(self.columns // 4) for number in self.right(offset + quad * step)]

        def _four(self, strip, offset):
            place = self.builder.gep(strip, [_i32(offset)], inbounds=True)
            return _load4(self.builder, self.builder.bitcast(place, ir.PointerType(_four, _SHARED)))

        def add_outer_product(self, a, b):
            for row, column in _zigzag(self.rows, self.columns):
                place = row * self.columns + column
                self.sums[place] = self.builder.call(self.fma, [a[row], b[column], self.sums[place]])

        def keep(self):
            for number, place in zip(self.sums, self.places, strict=True):
                self.builder.store(number, place)

    @intrinsic
    def fragment_corners(typing, lane, left_stride, right_stride):
        constants = _constants(left_stride, right_stride)
        result = types.UniTuple(types.int32, 2)

        def generate(context, builder, signature, arguments):
            lane = arguments[0]
            down = builder.add(_digit(builder, lane, 1, 16, constants[0]), _digit(builder, lane, 16, 2, 4))
            return cgutils.pack_array(builder, [down, _corner_steps(builder, lane, constants[1])])

        return result(types.int32, left_stride, right_stride), generate

    @intrinsic
    def fragment_corner_steps(typing, lane, stride):
        (constant,) = _constants(stride)

        def generate(context, builder, signature, arguments):
            return _corner_steps(builder, arguments[0], constant)

        return types.int32(types.int32, stride), generate

    def _digit(builder, number, divisor, modulus, factor):
        digit = builder.urem(builder.udiv(number, _i32(divisor)), _i32(modulus))
        return builder.mul(digit, _i32(factor))

    def _corner_steps(builder, lane, stride):
        slots = builder.add(_digit(builder, lane, 8, 4, 4), _digit(builder, lane, 4, 2, 16))
        return builder.add(_digit(builder, lane, 1, 4, stride), slots)

    @intrinsic
    def multiply_fragments(typing, sums, left, right, lane, rows, columns, depth, left_stride, right_stride, precision):
        constants = rows, columns, depth, left_stride, right_stride, precision
        rows, columns, depth, left_stride, right_stride, precision = _constants(*constants)

        def generate(context, builder, signature, arguments):
            tile = _FragmentTile(context, builder, signature, arguments, rows, columns)

            # `ldmatrix` puts numbers where tensor cores take them from: here it is good that the mask is left out.
            def left(steps):
                return [[tile.left(block * 16 * left_stride + k) for k in steps] for block in range(rows // 2)]

            tile.add_strips(left, tile.cut, depth, right_stride, precision)
            return context.get_dummy_value()

        return types.void(sums, types.uint32, types.uint32, types.int32, *constants), generate

    @intrinsic
    def multiply_fragment_steps(
        typing, sums, left, right, lane, rows, columns, depth, left_stride, right_stride, precision
    ):
        constants = rows, columns, depth, left_stride, right_stride, precision
        rows, columns, depth, left_stride, right_stride, precision = _constants(*constants)

        def generate(context, builder, signature, arguments):
            tile = _FragmentTile(context, builder, signature, arguments, rows, columns)

            def left(steps):
                fragments = []
                for four in range(rows // 4):
                    pairs = [tile.left_pair(k * left_stride + four * 32, 4 * left_stride) for k in steps]
                    fragments += zip(*pairs, strict=True)
                return fragments

            # The assembler leaves out a mask of bits that tensor cores do not look at anyway, and then moves every
            # number to where they take it from.  It does not know that shared memory lies below 2**31, and so not what
            # this mask is.
            seen = builder.or_(builder.lshr(arguments[1], _i32(31)), _SEEN)
            tile.add_strips(left, lambda numbers: tile.cut(numbers, seen), depth, right_stride, precision)
            return context.get_dummy_value()

        return types.void(sums, types.uint32, types.uint32, types.int32, *constants), generate

    class _FragmentTile:
        """Writes the code that adds products of fragments to a register tile.

        A fragment of the left strip has 16 rows and 8 columns, one of the right strip 8 rows and 8 columns, of which
        every lane holds 4 and 2 numbers.  Which column of the strip is which of the fragment is ours to choose: a
        lane reads four columns side by side, one for each of four fragments, so that its sums lie side by side too.
        """

        def __init__(self, context, builder, signature, arguments, rows, columns):
            self.builder, self.columns = builder, columns
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0]).data
            self.places = [builder.gep(data, [_i32(place)], inbounds=True) for place in range(rows * columns)]
            self.sums = [builder.load(place) for place in self.places]
            self.left_address = arguments[1]
            self.left_strip, self.right_strip = (
                _pointer(builder, address, _SHARED, _float) for address in arguments[1:3]
            )

        def add_strips(self, left, split, depth, right_stride, precision):
            """Add the product of two strips.

            ``left(steps)`` reads the left one's fragments for two steps, of which `split` makes big and small parts.
            """
            for first in range(0, depth, 16):
                steps = first, first + 8
                a = left(steps)
                for four in range(self.columns // 8):
                    b = [self.right(k * right_stride + four * 32, 4 * right_stride) for k in steps]
                    self.add_products(four, a, split, list(zip(*b, strict=True)), precision)
            self.keep()

        def left(self, offset):
            """A fragment's 4 numbers of this lane, as 32 bits each."""
            text = f"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{$0, $1, $2, $3}}, [$4+{4 * offset}];"
            kind = ir.LiteralStructType([_i32] * 4)
            four = _assembly(self.builder, text, "=r,=r,=r,=r,r,~{memory}", kind, [self.left_address])
            return [self.builder.extract_value(four, place) for place in range(4)]

        def left_pair(self, offset, half):
            """Of each of two fragments of a strip stored by steps, this lane's 4 numbers."""
            a, b, c, d = zip(*self._quads(self.left_strip, offset, half), strict=True)
            pairs = (a, b), (c, d)
            return [[number[k] for k in range(2) for number in pair] for pair in pairs]

        def right(self, offset, half):
            """Of each of four fragments, this lane's 2 numbers."""
            return list(zip(*self._quads(self.right_strip, offset, half), strict=True))

        def _quads(self, strip, offset, half):
            for place in (offset, offset + half):
                pointer = self.builder.gep(strip, [_i32(place)], inbounds=True)
                numbers = _load4(self.builder, self.builder.bitcast(pointer, ir.PointerType(_four, _SHARED)))
                yield [self.builder.bitcast(number, _i32) for number in numbers]

        def add_products(self, four, a, split, b, precision):
            """Add the products of left fragments and the right ones number `four`, 16 terms each, in two steps."""
            if precision == THREE_TF32:
                a = [[split(step) for step in steps] for steps in a]
                b = [[self.rounded(step) for step in steps] for steps in b]
            elif precision == TF32:
                b = [[self._anew(step) for step in steps] for steps in b]
            else:
                a = [self._packed([step[k::2] for step in steps for k in range(2)]) for steps in a]
                b = [self._packed(steps) for steps in b]
            for block, left in enumerate(a):
                for column, right in enumerate(b):
                    places = [
                        (2 * block + down) * self.columns + (2 * four + across) * 4 + column
                        for down in range(2)
                        for across in range(2)
                    ]
                    sums = [self.sums[place] for place in places]
                    if precision == THREE_TF32:
                        sums = self._add_three(left, right, sums)
                    elif precision == TF32:
                        for step in range(2):
                            sums = self._multiply("m16n8k8", "tf32", left[step], right[step], sums)
                    else:
                        sums = self._multiply("m16n8k16", "bf16", left, right, sums)
                    for place, number in zip(places, sums, strict=True):
                        self.sums[place] = number

        def _add_three(self, left, right, sums):
            """The small products first; those of two small parts are below what float32 holds."""
            part = [ir.Constant(_float, 0.0)] * 4
            for left_part, right_part in ((1, 0), (0, 1), (0, 0)):
                for a, b in zip(left, right, strict=True):
                    part = self._multiply("m16n8k8", "tf32", a[left_part], b[right_part], part)
            return [self.builder.fadd(*pair) for pair in zip(sums, part, strict=True)]

        def cut(self, numbers, seen=_SEEN):
            """Numbers cut to the bits that tensor cores see, and what that leaves of them."""
            return self._with_rest(numbers, [self.builder.and_(bits, seen) for bits in numbers])

        def rounded(self, numbers):
            """Numbers rounded to TF32, and what that leaves of them: one instruction more."""
            more = [self.builder.add(bits, _i32(0x1000)) for bits in numbers]
            return self._with_rest(numbers, [self.builder.and_(bits, _SEEN) for bits in more])

        def _with_rest(self, numbers, big):
            builder = self.builder
            pairs = [[builder.bitcast(bits, _float) for bits in pair] for pair in zip(numbers, big, strict=True)]
            return big, [builder.bitcast(builder.fsub(*pair), _i32) for pair in pairs]

        def _anew(self, numbers):
            """The same numbers, as results of an addition of -0.

            Tensor cores take a factor from registers side by side, where a load of four numbers does not put it, but
            `ldmatrix` does.  The assembler moves loaded numbers there for every use, but computes these in their place.
            """
            code = ir.InlineAsm(ir.FunctionType(_i32, [_float]), "add.rn.f32 $0, $1, 0f80000000;", "=r,f")
            return [self.builder.call(code, [self.builder.bitcast(number, _float)]) for number in numbers]

        def _packed(self, pairs):
            """Each pair as two bfloat16 numbers in 32 bits, the first below."""
            text = "cvt.rn.bf16x2.f32 $0, $1, $2;"
            code = ir.InlineAsm(ir.FunctionType(_i32, [_float, _float]), text, "=r,f,f")
            floats = [[self.builder.bitcast(number, _float) for number in pair] for pair in pairs]
            return [self.builder.call(code, [second, first]) for first, second in floats]

        def _multiply(self, shape, kind, left, right, addends):
            count = len(left) + len(right)
            names = [f"${place}" for place in range(8 + count)]
            parts = names[:4], names[4 : 4 + len(left)], names[4 + len(left) : 4 + count], names[4 + count :]
            operands = ", ".join("{" + ", ".join(part) + "}" for part in parts)
            text = f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {operands};"
            constraints = ",".join(["=f"] * 4 + ["r"] * count + ["f"] * 4)
            arguments = [*left, *right, *addends]
            function = ir.FunctionType(ir.LiteralStructType([_float] * 4), [argument.type for argument in arguments])
            four = self.builder.call(ir.InlineAsm(function, text, constraints), arguments)
            return [self.builder.extract_value(four, place) for place in range(4)]

        def keep(self):
            for number, place in zip(self.sums, self.places, strict=True):
                self.builder.store(number, place)

    def _zigzag(rows, columns):
        """The places of a tile in squares of 2 x 2, down and up: neighbours share a factor.

        The assembler roughly keeps this order, in which it can hold a factor in the operand cache.
        """
        for column in range(0, columns, 2):
            down = range(0, rows, 2)
            for row in reversed(down) if column % 4 else down:
                square = (row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1)
                yield from (place for place in square if place[1] < columns)
