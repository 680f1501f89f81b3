"""Exponential and logarithm without branches, tables or calls, so that LLVM turns loops over them into vectors.

::

    x = n ln 2 + r,  |r| <= ln 2 / 2        e^x = 2^n e^r,  with Taylor's series for e^r
    s = t / (2 + t)                         log(1 + t) = 2 (s + s^3 / 3 + s^5 / 5 + ...)
    x = 2^n m,  sqrt(1/2) <= m < sqrt(2)    log x = n ln 2 + log m

n is taken by adding a number so large that its last digit counts ones; 2^n by moving n to where a floating-point number
keeps its exponent, and taken from there for the logarithm.  ``n ln 2`` is subtracted in two parts, the first of which
has so few digits that its product is exact: Cody and Waite, "Software Manual for the Elementary Functions" (1980).
Results are within one and a half units of the last place (two for the logarithms); overflow, denormal numbers,
infinities and NaN are as in `math`.
"""

import math
from fractions import Fraction

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .simd import FUSED

LN_2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680")


def exp_of_negative(x):
    """e^x for x <= 0, and anything for others.

    Exponentials that cannot overflow are what activations and losses are made of: ``e^-|z|``, or ``e^(z - max z)``.
    """
    return math.exp(x)


def expm1(x):
    """e^x - 1, with all digits near zero."""
    return math.expm1(x)


def log(x):
    """The natural logarithm of a positive number that is neither denormal nor infinite; of NaN it is NaN."""
    return math.log(x)


def log1p(t):
    """log(1 + t) for t from 0 to 1."""
    return math.log1p(t)


def upper_tail(x):
    """``1 - erf(x)`` of ``x >= 0``, divided by ``e^(-x^2)``; in float32 only, to 1.5e-7 / e^(-x^2).

    Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 7.1.26.
    """
    return math.erfc(x) * math.exp(x * x)


@intrinsic
def select(typing, condition, chosen, other):
    """``chosen if condition else other`` of two numbers of one type, both at hand, as one instruction.

    Numba makes branches of a conditional expression.  LLVM mostly turns them into this; but if the number is stored
    where `other` came from, it rather leaves the store out, which for vectors costs more than it saves.
    """

    def code(context, builder, signature, arguments):
        return builder.select(*arguments)

    return chosen(types.boolean, chosen, chosen), code


def _fused(builder, factor, other, addend):
    """LLVM's ``factor * other + addend``, as one instruction where the processor has it."""
    if not FUSED:
        return builder.fadd(builder.fmul(factor, other), addend)
    number = factor.type
    function = ir.FunctionType(number, [number] * 3)
    fused = cgutils.get_or_insert_function(builder.module, function, f"llvm.fma.{number.intrinsic_name}")
    return builder.call(fused, [factor, other, addend])


@intrinsic
def _multiply_add(typing, factor, other, addend):
    """``factor * other + addend`` of three numbers of one type."""

    def code(context, builder, signature, arguments):
        return _fused(builder, *arguments)

    return factor(factor, factor, factor), code


def _polynomial(*coefficients):
    """The function ``c0 + c1 x + c2 x^2 + ...``, by Estrin's rule.

    ``(c0 + c1 x) + x^2 (c2 + c3 x)``, and so on with pairs of pairs: a multiplication or two more than Horner's rule,
    but half as long a way from x to the result, which is what a loop over numbers waits for.
    """

    @intrinsic
    def polynomial(typing, x):
        def code(context, builder, signature, arguments):
            power = arguments[0]
            terms = [power.type(coefficient) for coefficient in coefficients]
            while True:
                pairs = [_fused(builder, high, power, low) for low, high in zip(terms[::2], terms[1::2], strict=False)]
                terms = pairs + terms[len(terms) // 2 * 2 :]
                if len(terms) == 1:
                    return terms[0]
                power = builder.fmul(power, power)

        return x(x), code

    return polynomial


def _functions(real, digits, bias, lowest, highest, exact, exp_terms, log_terms):
    """The functions for one type of number.

    Parameters
    ----------
    real : dtype
    digits, bias : int
        Binary digits after the point, and what is added to exponents.
    lowest, highest : float
        Beyond these the exponential is 0, and `expm1` infinite.
    exact : int
        Binary digits of the first part of ln 2.
    exp_terms, log_terms : int
        Terms of the series.
    """
    one, two, half = real(1), real(2), real(0.5)
    lowest, highest, lowest_minus_1 = real(lowest), real(highest), real(-40)
    first_part = Fraction(round(LN_2 * 2**exact), 2**exact)
    inverse, high, low = real(float(1 / LN_2)), real(float(first_part)), real(float(LN_2 - first_part))
    rounder = real(1.5 * 2**digits)
    half_bias, small = real(bias // 2), real(2.0 ** -(bias // 2))
    exponential_tail = _polynomial(*[1 / math.factorial(k) for k in range(2, exp_terms)])
    logarithm_tail = _polynomial(*[2 / (2 * k + 1) for k in range(1, log_terms)])

    @intrinsic
    def power_of_2(typing, n):
        def code(context, builder, signature, arguments):
            number, whole = arguments[0].type, ir.IntType(n.bitwidth)
            # The last digits of the sum are n + bias; what stands above them is moved out.
            shifted = builder.fadd(arguments[0], number(1.5 * 2**digits + bias))
            exponent = builder.shl(builder.bitcast(shifted, whole), whole(digits))
            return builder.bitcast(exponent, number)

        return n(n), code

    @intrinsic
    def exponent(typing, x):
        def code(context, builder, signature, arguments):
            number, whole = arguments[0].type, ir.IntType(x.bitwidth)
            view = {32: np.int32, 64: np.int64}[x.bitwidth]
            bits = builder.sub(builder.bitcast(arguments[0], whole), whole(int(real(0.5**0.5).view(view))))
            # A whole number becomes a floating one by standing where the last digits of a large one are.
            n = builder.add(builder.ashr(bits, whole(digits)), whole(int(rounder.view(view))))
            return builder.fsub(builder.bitcast(n, number), number(1.5 * 2**digits))

        return x(x), code

    @njit
    def reduce(x):
        n = _multiply_add(x, inverse, rounder) - rounder
        r = _multiply_add(n, -low, _multiply_add(n, -high, x))
        return n, _multiply_add(r * r, exponential_tail(r), r)

    @njit
    def exp_of_negative(x):
        # A comparison that NaN fails leaves it in place.
        n, power_minus_1 = reduce(lowest if x < lowest else x)
        # Two steps, since 2^n itself may be too small a number.
        power = power_of_2(n + half_bias)
        return _multiply_add(power_minus_1, power, power) * small

    @njit
    def expm1(x):
        x = lowest_minus_1 if x < lowest_minus_1 else x
        x = highest if x > highest else x
        n, power_minus_1 = reduce(x)
        scale = power_of_2(n - one)
        return (power_minus_1 * scale + (scale - half)) * two

    @njit
    def log1p(t):
        s = t / (two + t)
        square = s * s
        return _multiply_add(s * square, logarithm_tail(square), two * s)

    @njit
    def log(x):
        n = exponent(x)
        return n * high + (n * low + log1p(x * power_of_2(-n) - one))

    return {"exp_of_negative": exp_of_negative, "expm1": expm1, "log": log, "log1p": log1p}


_FUNCTIONS = {
    types.float32: _functions(np.float32, 23, 127, -105, 89.5, 15, 8, 8),
    types.float64: _functions(np.float64, 52, 1023, -746, 710.5, 41, 14, 17),
}


@overload(exp_of_negative)
def _exp_of_negative(x):
    function = _FUNCTIONS[x]["exp_of_negative"]
    return lambda x: function(x)


@overload(expm1)
def _expm1(x):
    function = _FUNCTIONS[x]["expm1"]
    return lambda x: function(x)


@overload(log)
def _log(x):
    function = _FUNCTIONS[x]["log"]
    return lambda x: function(x)


@overload(log1p)
def _log1p(t):
    function = _FUNCTIONS[t]["log1p"]
    return lambda t: function(t)


_tail_series = _polynomial(0.0, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


@overload(upper_tail)
def _upper_tail(x):
    if x == types.float32:
        return lambda x: _tail_series(np.float32(1) / (np.float32(1) + np.float32(0.3275911) * x))
    return None
