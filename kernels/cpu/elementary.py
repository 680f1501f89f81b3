"""Exponential and logarithm without branches, tables or calls, so that LLVM turns loops over them into vectors.

::

    x = n ln 2 + r,  |r| <= ln 2 / 2        e^x = 2^n e^r,  with a polynomial for e^r
    s = t / (2 + t)                         log(1 + t) = 2 (s + s^3 / 3 + s^5 / 5 + ...)
    x = 2^n m,  sqrt(1/2) <= m < sqrt(2)    log x = n ln 2 + log m

n is taken by adding a number so large that its last digit counts ones; 2^n by moving n to where a floating-point number
keeps its exponent, and taken from there for the logarithm.  ``n ln 2`` is subtracted in two parts, the first of which
has so few digits that its product is exact: Cody and Waite, "Software Manual for the Elementary Functions" (1980).
Results are within 1.2 units of the last place (two for `expm1` and the logarithms): 1.11 for all float32 numbers from
-104 to 0.  Overflow, denormal numbers, infinities and NaN are as in `math`.
"""

import math
from fractions import Fraction

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from .builders import constant, multiply_add

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


@intrinsic
def _multiply_add(typing, factor, other, addend):
    """``factor * other + addend`` of three numbers of one type."""

    def code(context, builder, signature, arguments):
        return multiply_add(builder, *arguments)

    return factor(factor, factor, factor), code


def _emit_polynomial(builder, x, coefficients):
    """LLVM's code for ``c0 + c1 x + c2 x^2 + ...``, by Estrin's rule.

    ``(c0 + c1 x) + x^2 (c2 + c3 x)``, and so on with pairs of pairs: a multiplication or two more than Horner's rule,
    but half as long a way from x to the result, which is what a loop over numbers waits for.  Of an odd number of
    terms, the last two are made one first.
    """
    power, terms = x, [constant(x.type, coefficient) for coefficient in coefficients]
    while True:
        if len(terms) % 2:
            highest = terms.pop()
            terms[-1] = multiply_add(builder, highest, power, terms[-1])
        terms = [multiply_add(builder, high, power, low) for low, high in zip(terms[::2], terms[1::2], strict=True)]
        if len(terms) == 1:
            return terms[0]
        power = builder.fmul(power, power)


def _polynomial(*coefficients):
    """The function ``c0 + c1 x + c2 x^2 + ...``."""

    @intrinsic
    def polynomial(typing, x):
        def code(context, builder, signature, arguments):
            return _emit_polynomial(builder, arguments[0], coefficients)

        return x(x), code

    return polynomial


def _exponential_tail(count):
    """Coefficients of ``(e^r - 1 - r) / r^2`` for ``|r| <= ln 2 / 2``: `count` of them, of an error nearly the least.

    Taylor's series is cut late; then each highest power is replaced by what is left of it after the Chebyshev
    polynomial of its degree, whose largest value is the least there is: Lanczos, "Applied Analysis" (1956), VII.
    """
    coefficients = [Fraction(1, math.factorial(k + 2)) for k in range(2 * count)]
    chebyshev = [[1], [0, 1]]
    for _ in coefficients[2:]:
        before, last = chebyshev[-2:]
        chebyshev.append([2 * up - down for up, down in zip([0, *last], [*before, 0, 0], strict=True)])
    while len(coefficients) > count:
        highest = coefficients.pop()
        degree = len(coefficients)
        *lower, leading = chebyshev[degree]
        for k, number in enumerate(lower):
            coefficients[k] -= highest * number / leading * (LN_2 / 2) ** (degree - k)
    return [float(coefficient) for coefficient in coefficients]


class _Format:
    """What the functions must know of a type of number.

    Parameters
    ----------
    real : dtype
    digits, bias : int
        Binary digits after the point, and what is added to exponents.
    lowest, highest : float
        Beyond these the exponential is 0, and `expm1` infinite.  At `highest`, 2^(n - 1) is the largest power of 2.
    exact : int
        Binary digits of the first part of ln 2.
    exp_terms, log_terms : int
        Terms of the polynomials.
    """

    def __init__(self, real, digits, bias, lowest, highest, exact, exp_terms, log_terms):
        self.real, self.digits, self.bias, self.lowest, self.highest = real, digits, bias, lowest, highest
        first_part = Fraction(round(LN_2 * 2**exact), 2**exact)
        self.ln_2 = float(first_part), float(LN_2 - first_part)
        self.exponential_tail = _exponential_tail(exp_terms)
        self.logarithm_tail = [2 / (2 * k + 1) for k in range(1, log_terms)]


def _whole(kind):
    """The integers as wide as floating-point numbers, or as their vectors."""
    if isinstance(kind, ir.VectorType):
        return ir.VectorType(_whole(kind.element), kind.count)
    return ir.IntType({ir.FloatType: 32, ir.DoubleType: 64}[type(kind)])


def _format_of(kind):
    number = kind.element if isinstance(kind, ir.VectorType) else kind
    return _FORMATS[{ir.FloatType: types.float32, ir.DoubleType: types.float64}[type(number)]]


def _emit_at_least(builder, least, x):
    """The larger of a constant and x: one instruction, since a comparison that NaN fails leaves it in place."""
    least = constant(x.type, least)
    return builder.select(builder.fcmp_ordered("<", x, least), least, x)


def _emit_reduced(builder, x, scale):
    """``2^(n + scale)`` and ``e^r - 1``."""
    form, kind = _format_of(x.type), x.type
    # The last digits of the sum are n + scale + bias, which is an exponent when what stands above is moved out.
    rounder = constant(kind, 1.5 * 2**form.digits + scale + form.bias)
    shifted = multiply_add(builder, x, constant(kind, float(1 / LN_2)), rounder)
    bits = builder.shl(builder.bitcast(shifted, _whole(kind)), constant(_whole(kind), form.digits))
    n = builder.fsub(shifted, rounder)
    r = x
    for part in form.ln_2:
        r = multiply_add(builder, n, constant(kind, -part), r)
    # Horner's rule, which leaves a loop's constants in 16 registers; other vectors' exponentials fill its waits.
    *lower, tail = (constant(kind, coefficient) for coefficient in form.exponential_tail)
    for coefficient in reversed(lower):
        tail = multiply_add(builder, tail, r, coefficient)
    return builder.bitcast(bits, kind), multiply_add(builder, builder.fmul(r, r), tail, r)


def emit_scaled_exp_of_negative(builder, x):
    """LLVM's code for e^x, x <= 0, of a number or a vector, times a power of 2 that keeps it a normal number.

    13 instructions where a multiply-add is one.  `without_scale` takes the scale off.
    """
    form = _format_of(x.type)
    power, power_minus_1 = _emit_reduced(builder, _emit_at_least(builder, form.lowest, x), form.bias // 2)
    return multiply_add(builder, power_minus_1, power, power)


def _emit_without_scale(builder, x):
    return builder.fmul(x, constant(x.type, 2.0 ** -(_format_of(x.type).bias // 2)))


def _emit_exp_of_negative(builder, x):
    # Two steps, since 2^n itself may be too small a number.
    return _emit_without_scale(builder, emit_scaled_exp_of_negative(builder, x))


def _emit_sigmoid(builder, z):
    """``1 / (1 + e^-|z|)``, or ``e^-|z| / (1 + e^-|z|)`` for z < 0; both sides of the fraction keep the scale.

    Whether z < 0 is its sign bit's to say, which is what a vector's selection looks at: -0 is among them, to no effect.
    """
    whole, one = _whole(z.type), constant(z.type, 2.0 ** (_format_of(z.type).bias // 2))
    bits = builder.bitcast(z, whole)
    minus_size = builder.bitcast(builder.or_(bits, constant(whole, -(1 << (whole.width - 1)))), z.type)
    power = emit_scaled_exp_of_negative(builder, minus_size)
    is_below = builder.icmp_signed("<", bits, constant(whole, 0))
    return builder.fdiv(builder.select(is_below, power, one), builder.fadd(one, power))


def _emit_expm1(builder, x):
    form, kind = _format_of(x.type), x.type
    # Below -40 it is -1.
    x = _emit_at_least(builder, -40.0, x)
    highest = constant(kind, form.highest)
    x = builder.select(builder.fcmp_ordered(">", x, highest), highest, x)
    # Two steps, since 2^n itself may be too large a number.
    scale, power_minus_1 = _emit_reduced(builder, x, -1)
    rest = builder.fsub(scale, constant(kind, 0.5))
    return builder.fmul(builder.fadd(builder.fmul(power_minus_1, scale), rest), constant(kind, 2.0))


def _of_one_number(emit):
    """The intrinsic that computes a function of a number by LLVM's code for it."""

    @intrinsic
    def function(typing, x):
        def code(context, builder, signature, arguments):
            return emit(builder, arguments[0])

        return x(x), code

    return function


_exp_of_negative_of, _expm1_of = _of_one_number(_emit_exp_of_negative), _of_one_number(_emit_expm1)

# 1 / (1 + e^-z), which neither overflows nor loses digits on either side.
sigmoid = _of_one_number(_emit_sigmoid)

# What `emit_scaled_exp_of_negative` gave, or a sum of it, without the scale.
without_scale = _of_one_number(_emit_without_scale)


def _logarithms(form):
    """log and log1p for one type of number."""
    real, digits = form.real, form.digits
    one, two = real(1), real(2)
    high, low = (real(part) for part in form.ln_2)
    view = {np.float32: np.int32, np.float64: np.int64}[real]
    # A whole number becomes a floating one by standing where the last digits of a large one are.
    rounder = int(real(1.5 * 2**digits).view(view))
    tail = _polynomial(*form.logarithm_tail)

    @intrinsic
    def power_of_2(typing, n):
        def code(context, builder, signature, arguments):
            number, whole = arguments[0].type, ir.IntType(n.bitwidth)
            shifted = builder.fadd(arguments[0], number(1.5 * 2**digits + form.bias))
            exponent = builder.shl(builder.bitcast(shifted, whole), whole(digits))
            return builder.bitcast(exponent, number)

        return n(n), code

    @intrinsic
    def exponent(typing, x):
        def code(context, builder, signature, arguments):
            number, whole = arguments[0].type, ir.IntType(x.bitwidth)
            bits = builder.sub(builder.bitcast(arguments[0], whole), whole(int(real(0.5**0.5).view(view))))
            n = builder.add(builder.ashr(bits, whole(digits)), whole(rounder))
            return builder.fsub(builder.bitcast(n, number), number(1.5 * 2**digits))

        return x(x), code

    @njit
    def log1p(t):
        s = t / (two + t)
        square = s * s
        return _multiply_add(s * square, tail(square), two * s)

    @njit
    def log(x):
        n = exponent(x)
        return n * high + (n * low + log1p(x * power_of_2(-n) - one))

    return {"log": log, "log1p": log1p}


_FORMATS = {
    types.float32: _Format(np.float32, 23, 127, -105.0, 89.0, 15, 5, 8),
    types.float64: _Format(np.float64, 52, 1023, -746.0, 710.0, 41, 11, 17),
}
_LOGARITHMS = {kind: _logarithms(form) for kind, form in _FORMATS.items()}


@overload(exp_of_negative)
def _exp_of_negative(x):
    return lambda x: _exp_of_negative_of(x)


@overload(expm1)
def _expm1(x):
    return lambda x: _expm1_of(x)


@overload(log)
def _log(x):
    function = _LOGARITHMS[x]["log"]
    return lambda x: function(x)


@overload(log1p)
def _log1p(t):
    function = _LOGARITHMS[t]["log1p"]
    return lambda t: function(t)


_tail_series = _polynomial(0.0, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


@overload(upper_tail)
def _upper_tail(x):
    if x == types.float32:
        return lambda x: _tail_series(np.float32(1) / (np.float32(1) + np.float32(0.3275911) * x))
    return None
