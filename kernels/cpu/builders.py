"""Pieces of LLVM's vector language that several intrinsics are made of."""

from llvmlite import ir
from numba.core import cgutils

from .processor import FUSED

_I32 = ir.IntType(32)


def spread(builder, number, lanes):
    """A vector of one number."""
    empty = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(empty, number, _I32(0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def constant(kind, number):
    """A constant number, or vector of one number."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def multiply_add(builder, factor, other, addend):
    """``factor * other + addend`` of numbers or vectors, as one instruction where the processor has it."""
    if not FUSED:
        return builder.fadd(builder.fmul(factor, other), addend)
    kind = factor.type
    suffix = f"v{kind.count}{kind.element.intrinsic_name}" if isinstance(kind, ir.VectorType) else kind.intrinsic_name
    function = ir.FunctionType(kind, [kind] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.fma.{suffix}"), [factor, other, addend]
    )


def keep_loop(builder):
    """Keep LLVM from unrolling the loop around this: it would run out of registers.

    This is an instruction that may not be doubled, and takes no time.
    """
    stay = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.sideeffect")
    builder.call(stay, [], attrs=("convergent",))


def pin(builder, number):
    """A pointer or an integer, as it is: LLVM does not see what it is made of, and so will not make it anew."""
    kind = ir.FunctionType(number.type, [number.type])
    return builder.asm(kind, "", "=r,0", [number], False)
