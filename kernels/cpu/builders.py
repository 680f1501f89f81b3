"""Pieces of LLVM's vector language that several intrinsics are made of."""

from llvmlite import ir
from numba.core import cgutils

from .simd import FUSED

_I32 = ir.IntType(32)


def spread(builder, number, lanes):
    """A vector of one number."""
    empty = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(empty, number, _I32(0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def constant(kind, number):
    """A constant vector of one number."""
    return ir.Constant(kind, [number] * kind.count)


def multiply_add(builder, factor, other, addend):
    """``factor * other + addend`` of vectors, as one instruction where the processor has it."""
    if not FUSED:
        return builder.fadd(builder.fmul(factor, other), addend)
    vector = factor.type
    name = f"llvm.fma.v{vector.count}{vector.element.intrinsic_name}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(function, [factor, other, addend])


def keep_loop(builder):
    """Keep LLVM from unrolling the loop around this: it would run out of registers.

    This is an instruction that may not be doubled, and takes no time.
    """
    stay = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.sideeffect")
    builder.call(stay, [], attrs=("convergent",))
