"""Instructions of the GPU that Python has no words for, as functions that kernels call.

Numba's arrays cost a fast kernel three things: each one is unpacked at every launch, each index is computed in 64 bits
with its strides, and a number is loaded where the hardware can load four.  Here a kernel works on *addresses* instead:

- of global memory, 64 bits wide: what `toolkit.address` makes of an array is passed to the kernel as one number;
- of shared memory, 32 bits wide: what `shared_address` makes of a shared array.

`move` makes one address of another, `load`, `load4`, `store` and `store4` access what lies there; which memory it is
they see by the width.  An address counts in float32 numbers, and everything here works on these alone.  An access to
four at once must lie at a multiple of 16 bytes.

A register tile is a `cuda.local.array` whose places are all known when the kernel is compiled.  `multiply_rows` and
`multiply_steps` add a product of two strips in shared memory to one.

Each function has a twin of the same name for Numba's simulator, which stands first, and says what both do.  There
an address is a `toolkit.Address`, which knows its array: accesses beyond its ends, or to four numbers at a wrong
place, raise.  Asynchronous copies arrive at once.

How they are made: each function is an `intrinsic` that writes LLVM code.  Offsets that are known when compiling
end in the instruction, where they cost nothing.  Kernels must use these functions as globals of a module: Numba's
disk cache does not find a kernel again that holds one in a closure.
"""

import numpy as np

from .toolkit import SIMULATED, Address

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

        def right_row(self, offset, step):
            quads = range(self.columns // 4)
            return [number for quad in quads for number in self._four(self.strips[1], offset + quad * step)]

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

    def _zigzag(rows, columns):
        """The places of a tile in squares of 2 x 2, down and up: neighbours share a factor.

        The assembler roughly keeps this order, in which it can hold a factor in the operand cache.
        """
        for column in range(0, columns, 2):
            down = range(0, rows, 2)
            for row in reversed(down) if column % 4 else down:
                yield from ((row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1))
