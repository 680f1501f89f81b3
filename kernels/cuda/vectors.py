"""Numbers of any type in global memory, by address, up to 128 bits at once.

A kernel that is bounded by memory wants two things of it: few arguments, so that it starts soon, and wide accesses, so
that few instructions keep the memory busy.  So it takes addresses (`toolkit.address`), and moves *vectors*: runs of
numbers that lie at a multiple of their size, 16 bytes long where the arrays allow (`tiles.vector_width`), between
memory and a `cuda.local.array`, which becomes registers.  `read_part` and `write_part` are what kernels use for the
ends of arrays: a vector that lies in the array as a whole is moved at once, what is left number by number.

Here places count in numbers of the type that is accessed.  Each instruction has a twin of the same name for Numba's
simulator, which stands first, says what both do, and checks bounds and alignment.
"""

import numpy as np

from .formulas import inline
from .toolkit import SIMULATED

if SIMULATED:

    def read(address, place, kind):
        """Number `place` from an address on, of type `kind`."""
        return _cells(address, place, kind, 1)[0]

    def write(address, place, kind, value):
        """Let number `place` from an address on, of type `kind`, be `value`."""
        _cells(address, place, kind, 1)[0] = value

    def read_vector(values, first, address, place, count):
        """Fill `count` (a constant) numbers of a local array from its place `first` on."""
        values[first : first + count] = _cells(address, place, values.dtype, count)

    def write_vector(values, first, address, place, count):
        """Put `count` (a constant) numbers of a local array, from its place `first` on, into memory."""
        _cells(address, place, values.dtype, count)[:] = values[first : first + count]

    def _cells(address, place, kind, count):
        """Numbers in memory, as an array."""
        array, size = address.array, np.dtype(kind).itemsize
        begin = address.place * array.itemsize + int(place) * size
        if not 0 <= begin <= array.nbytes - count * size:
            raise IndexError(f"place: expected numbers within {array.nbytes} bytes, received byte {begin}")
        alignment = min(count * size, 16)
        if (array.ctypes.data + begin) % alignment:
            raise ValueError(f"place: expected a multiple of {alignment} bytes, received byte {begin}")
        return array.view(np.uint8)[begin : begin + count * size].view(kind)

else:
    from llvmlite import ir
    from numba.cuda import cgutils, types
    from numba.cuda.core.errors import RequireLiteralValue
    from numba.cuda.extending import intrinsic

    _i32, _i64 = ir.IntType(32), ir.IntType(64)
    _GLOBAL = 1

    def _pointer(builder, address, place, signed, element):
        """A pointer to number `place`."""
        if place.type.width < 64:
            place = builder.sext(place, _i64) if signed else builder.zext(place, _i64)
        return builder.gep(builder.inttoptr(address, ir.PointerType(element, _GLOBAL)), [place])

    @intrinsic
    def read(typing, address, place, kind):
        def generate(context, builder, signature, arguments):
            element = context.get_data_type(kind.dtype)
            return builder.load(_pointer(builder, arguments[0], arguments[1], place.signed, element))

        return kind.dtype(types.uint64, place, kind), generate

    @intrinsic
    def write(typing, address, place, kind, value):
        def generate(context, builder, signature, arguments):
            element = context.get_data_type(kind.dtype)
            builder.store(arguments[3], _pointer(builder, arguments[0], arguments[1], place.signed, element))
            return context.get_dummy_value()

        return types.void(types.uint64, place, kind, kind.dtype), generate

    @intrinsic
    def read_vector(typing, values, first, address, place, count):
        signature = _signature(values, first, place, count)

        def generate(context, builder, signature, arguments):
            registers = _registers(context, builder, signature, arguments)
            pointer, vector, alignment = _vector(context, builder, signature, arguments)
            numbers = builder.load(pointer, align=alignment)
            for k in range(vector.count):
                builder.store(builder.extract_element(numbers, _i32(k)), registers[k])
            return context.get_dummy_value()

        return signature, generate

    @intrinsic
    def write_vector(typing, values, first, address, place, count):
        signature = _signature(values, first, place, count)

        def generate(context, builder, signature, arguments):
            registers = _registers(context, builder, signature, arguments)
            pointer, vector, alignment = _vector(context, builder, signature, arguments)
            numbers = ir.Constant(vector, ir.Undefined)
            for k in range(vector.count):
                numbers = builder.insert_element(numbers, builder.load(registers[k]), _i32(k))
            builder.store(numbers, pointer, align=alignment)
            return context.get_dummy_value()

        return signature, generate

    def _signature(values, first, place, count):
        if not isinstance(count, types.IntegerLiteral):
            raise RequireLiteralValue(f"expected a constant integer, received {count}")
        return types.void(values, first, types.uint64, place, count)

    def _registers(context, builder, signature, arguments):
        """Pointers to the numbers of the local array."""
        values, _, _, _, count = signature.args
        array, first = arguments[:2]
        data = cgutils.create_struct_proxy(values)(context, builder, value=array).data
        places = [builder.add(first, ir.Constant(first.type, k)) for k in range(count.literal_value)]
        return [builder.gep(data, [place], inbounds=True) for place in places]

    def _vector(context, builder, signature, arguments):
        """The vector in memory: a pointer, its type, the bytes that it is aligned to."""
        values, _, _, place, count = signature.args
        element = context.get_data_type(values.dtype)
        vector = ir.VectorType(element, count.literal_value)
        pointer = _pointer(builder, *arguments[2:4], place.signed, element)
        alignment = min(context.get_abi_sizeof(element) * vector.count, 16)
        return builder.bitcast(pointer, ir.PointerType(vector, _GLOBAL)), vector, alignment


@inline
def read_part(values, first, address, place, end, filler, count):
    """`read_vector` of what lies before the place `end`; the rest is filled up."""
    if place + count <= end:
        read_vector(values, first, address, place, count)
    else:
        for k in range(count):
            values[first + k] = filler
        # The last one cannot be inside.
        for k in range(count - 1):
            if place + k < end:
                values[first + k] = read(address, place + k, values.dtype.type)


@inline
def write_part(values, first, address, place, end, count):
    """`write_vector` of what lies before the place `end`."""
    if place + count <= end:
        write_vector(values, first, address, place, count)
    else:
        for k in range(count - 1):
            if place + k < end:
                write(address, place + k, values.dtype.type, values[first + k])
