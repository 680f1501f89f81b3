"""The machine that executes PTX: each family of instructions, in hand-written PTX, against exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from simt import Counters, GlobalMemory, Kernel
from simt.errors import BarrierError, TrapError, UnknownPtxError
from simt.snippets import compute, kernel, place, pointers, reserve

RANDOM = np.random.default_rng(7)


def pairs(kind):
    """Every pair of some integers of a type: the limits, their neighbours, and random ones."""
    info = np.iinfo({"u": "u", "s": "i"}[kind[0]] + str(int(kind[1:]) // 8))
    some = [info.min, info.min + 1, 0, 1, 2, 7, info.max - 1, info.max]
    some += [int(n) for n in RANDOM.integers(info.min, info.max, 4, dtype=info.dtype)]
    if info.min < 0:
        some += [-1, -7]
    return np.array([(a, b) for a in some for b in some], info.dtype).T


def wrapped(number, kind):
    """A Python integer as the type holds it."""
    width = int(kind[1:])
    number &= (1 << width) - 1
    return number - (1 << width) if kind[0] == "s" and number >> (width - 1) else number


def toward_zero(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGERS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers_wrap_around(name, kind):
    a, b = pairs(kind)
    got = compute(f"{name}.{kind} %x, %a, %b;", kind, (kind, a), (kind, b))
    assert got.tolist() == [wrapped(INTEGERS[name](int(x), int(y)), kind) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_upper_halves_of_products(kind):
    a, b = pairs(kind)
    got = compute(f"mul.hi.{kind} %x, %a, %b;", kind, (kind, a), (kind, b))
    assert got.tolist() == [wrapped(int(x) * int(y) >> int(kind[1:]), kind) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_wide_products_and_sums(kind):
    a, b = pairs(kind)
    double = f"{kind[0]}{2 * int(kind[1:])}"
    got = compute(f"mul.wide.{kind} %x, %a, %b;", double, (kind, a), (kind, b))
    assert got.tolist() == [wrapped(int(x) * int(y), double) for x, y in zip(a, b, strict=True)]
    c = RANDOM.integers(0, 100, len(a))
    got = compute(f"mad.wide.{kind} %x, %a, %b, %c;", double, (kind, a), (kind, b), (double, c))
    assert got.tolist() == [wrapped(int(x) * int(y) + int(z), double) for x, y, z in zip(a, b, c, strict=True)]


def test_low_and_high_multiply_add():
    a, b = pairs("s32")
    c = a[::-1]
    for half, shift in (("lo", 0), ("hi", 32)):
        got = compute(f"mad.{half}.s32 %x, %a, %b, %c;", "s32", ("s32", a), ("s32", b), ("s32", c))
        assert got.tolist() == [
            wrapped((wrapped(int(x) * int(y) >> shift, "s32")) + int(z), "s32") for x, y, z in zip(a, b, c, strict=True)
        ]


def test_saturating_sums():
    a, b = pairs("s32")
    got = compute("add.sat.s32 %x, %a, %b;", "s32", ("s32", a), ("s32", b))
    assert got.tolist() == [min(max(int(x) + int(y), -(2**31)), 2**31 - 1) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_quotients_and_remainders(kind):
    a, b = pairs(kind)
    a, b = a[b != 0], b[b != 0]
    quotients = [toward_zero(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    got = compute(f"div.{kind} %x, %a, %b;", kind, (kind, a), (kind, b))
    assert got.tolist() == [wrapped(q, kind) for q in quotients]
    got = compute(f"rem.{kind} %x, %a, %b;", kind, (kind, a), (kind, b))
    assert got.tolist() == [wrapped(int(x) - q * int(y), kind) for x, y, q in zip(a, b, quotients, strict=True)]


@pytest.mark.parametrize("kind", ["b16", "b32", "b64", "u32", "s32", "s64"])
def test_shifts_clamp_their_count(kind):
    width = int(kind[1:])
    counts = [0, 1, 7, width - 1, width, width + 1, 2**31, 2**32 - 1] * 2
    signed = kind[0] == "s"
    numbers = [0x1234567 % 2**width] * 8 + [-5 if signed else 2**width - 5] * 8
    if kind[0] == "b":
        got = compute(f"shl.{kind} %x, %a, %b;", kind, (kind, numbers), ("u32", counts))
        assert got.tolist() == [(n << min(c, width)) % 2**width for n, c in zip(numbers, counts, strict=True)]
    got = compute(f"shr.{kind} %x, %a, %b;", kind, (kind, numbers), ("u32", counts))
    assert got.tolist() == [n >> min(c, width) for n, c in zip(numbers, counts, strict=True)]


def test_funnel_shifts():
    low, high, count = 0x89ABCDEF, 0x01234567, [0, 1, 4, 31, 32, 33, 40]
    both = high << 32 | low
    inputs = [("b32", [low] * 7), ("b32", [high] * 7), ("b32", count)]
    expected = {
        "l.wrap": [both << c % 32 >> 32 & 0xFFFFFFFF for c in count],
        "l.clamp": [both << min(c, 32) >> 32 & 0xFFFFFFFF for c in count],
        "r.wrap": [both >> c % 32 & 0xFFFFFFFF for c in count],
        "r.clamp": [both >> min(c, 32) & 0xFFFFFFFF for c in count],
    }
    for form, numbers in expected.items():
        assert compute(f"shf.{form}.b32 %x, %a, %b, %c;", "b32", *inputs).tolist() == numbers, form


def test_bit_fields():
    # Extracted: beyond the width lie zeros, or copies of the sign.
    starts, lengths = [0, 4, 28, 8, 31, 0, 40], [4, 8, 8, 0, 1, 32, 4]
    inputs = [("u32", [0xF0000ABC] * 7), ("u32", starts), ("u32", lengths)]
    got = compute("bfe.u32 %x, %a, %b, %c;", "u32", *inputs)
    assert got.tolist() == [0xC, 0xAB, 0xF, 0, 1, 0xF0000ABC, 0]
    inputs[0] = ("s32", [0xF0000ABC - 2**32] * 7)
    got = compute("bfe.s32 %x, %a, %b, %c;", "s32", *inputs)
    assert got.tolist() == [-4, -85, -1, 0, -1, 0xF0000ABC - 2**32, -1]
    got = compute("bfi.b32 %x, %a, 0xFFFFFFFF, %b, %c;", "b32", ("b32", [0xAB] * 4), ("u32", [0, 8, 28, 32]),
                  ("u32", [8, 8, 8, 8]))  # fmt: skip
    assert got.tolist() == [0xFFFFFFAB, 0xFFFFABFF, 0xBFFFFFFF, 0xFFFFFFFF]


def test_bytes_are_permuted():
    inputs = [("b32", [0x33221100] * 4), ("b32", [0xF7665544] * 4), ("b32", [0x3210, 0x7654, 0x0F07, 0xFFFF])]
    got = compute("prmt.b32 %x, %a, %b, %c;", "b32", *inputs)
    assert got.tolist() == [0x33221100, 0xF7665544, 0x00FF00F7, 0xFFFFFFFF]
    got = compute("prmt.b32.f4e %x, %a, %b, %c;", "b32", *inputs[:2], ("b32", [0, 1, 2, 3]))
    assert got.tolist() == [0x33221100, 0x44332211, 0x55443322, 0x66554433]
    got = compute("prmt.b32.rc8 %x, %a, %b, %c;", "b32", *inputs[:2], ("b32", [0, 1, 2, 3]))
    assert got.tolist() == [0, 0x11111111, 0x22222222, 0x33333333]


def test_bits_are_counted_and_turned():
    numbers = [0, 1, 0x80000000, 0xFFFFFFFF, 0x00F0A001]
    assert compute("popc.b32 %x, %a;", "u32", ("b32", numbers)).tolist() == [n.bit_count() for n in numbers]
    assert compute("clz.b32 %x, %a;", "u32", ("b32", numbers)).tolist() == [32 - n.bit_length() for n in numbers]
    turned = [int(f"{n:032b}"[::-1], 2) for n in numbers]
    assert compute("brev.b32 %x, %a;", "b32", ("b32", numbers)).tolist() == turned


def test_logic():
    a, b, c = (RANDOM.integers(0, 2**32, 20, dtype=np.uint32) for _ in range(3))
    for name, expected in (("and", a & b), ("or", a | b), ("xor", a ^ b)):
        assert (compute(f"{name}.b32 %x, %a, %b;", "b32", ("b32", a), ("b32", b)) == expected).all()
    assert (compute("not.b32 %x, %a;", "b32", ("b32", a)) == ~a).all()
    # The table is what the formula makes of 0xF0, 0xCC and 0xAA.
    table = (0xF0 & 0xCC | ~0xAA) & 0xFF
    got = compute(f"lop3.b32 %x, %a, %b, %c, {table};", "b32", ("b32", a), ("b32", b), ("b32", c))
    assert (got == (a & b | ~c)).all()
    predicates = """
    setp.lt.u32 %p1, %a, 10; setp.lt.u32 %p2, %b, 10;
    and.pred %p3, %p1, %p2; or.pred %p4, %p1, !%p2; xor.pred %p5, %p3, %p4; not.pred %p6, %p5;
    selp.u32 %x, 1, 0, %p6;"""
    a, b = np.array([5, 5, 50, 50]), np.array([5, 50, 5, 50])
    first, second = a < 10, b < 10
    expected = ~((first & second) ^ (first | ~second))
    assert (compute(predicates, "u32", ("u32", a), ("u32", b)) == expected).all()


COMPARISONS = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a < b or a > b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1.5, 1e-40, math.inf, -math.inf, math.nan, 3e38]


@pytest.mark.parametrize("kind", ["f32", "f64", "f16"])
def test_floats_are_compared_with_and_without_nan(kind):
    dtype = {"f32": np.float32, "f64": np.float64, "f16": np.float16}[kind]
    with np.errstate(over="ignore"):
        a, b = np.array([(x, y) for x in SPECIAL for y in SPECIAL]).astype(dtype).T
    unordered = np.isnan(a) | np.isnan(b)
    for name, compare in COMPARISONS.items():
        expected = np.array([compare(x, y) for x, y in zip(a, b, strict=True)])
        for suffix, wanted in (("", expected), ("u", expected | unordered)):
            text = f"setp.{name}{suffix}.{kind} %p1, %a, %b; selp.u32 %x, 1, 0, %p1;"
            assert (compute(text, "u32", (kind, a), (kind, b)) == wanted).all(), text
    for name, wanted in (("num", ~unordered), ("nan", unordered)):
        text = f"setp.{name}.{kind} %p1, %a, %b; selp.u32 %x, 1, 0, %p1;"
        assert (compute(text, "u32", (kind, a), (kind, b)) == wanted).all(), text


def test_integers_are_compared():
    a, b = pairs("s32")
    for name, compare in {**COMPARISONS, "ne": lambda x, y: x != y}.items():
        for kind in ("s32", "u32"):
            x, y = (a, b) if kind == "s32" else (a.view(np.uint32), b.view(np.uint32))
            got = compute(f"setp.{name}.{kind} %p1, %a, %b; selp.u32 %x, 1, 0, %p1;", "u32", (kind, x), (kind, y))
            assert (got == [compare(p, q) for p, q in zip(x, y, strict=True)]).all(), (name, kind)
    for name, other in (("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge")):
        x, y = a.view(np.uint32), b.view(np.uint32)
        got = compute(f"setp.{name}.u32 %p1, %a, %b; selp.u32 %x, 1, 0, %p1;", "u32", ("u32", x), ("u32", y))
        assert (got == [COMPARISONS[other](p, q) for p, q in zip(x, y, strict=True)]).all()


def test_comparisons_are_combined_and_give_two_results():
    a, b = [1, 1, 9, 9], [1, 9, 1, 9]
    text = """
    setp.lt.u32 %p1, %b, 5;
    setp.lt.{}.u32 %p2|%p3, %a, 5, {}%p1;
    selp.u32 %x, 1, 0, %p2; @%p3 add.u32 %x, %x, 2;"""
    first, second = np.array(a) < 5, np.array(b) < 5
    for word, combine in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        got = compute(text.format(word, ""), "u32", ("u32", a), ("u32", b))
        assert (got == combine(first, second) + 2 * combine(~first, second)).all(), word
        got = compute(text.format(word, "!"), "u32", ("u32", a), ("u32", b))
        assert (got == combine(first, ~second) + 2 * combine(~first, ~second)).all(), word


def test_choices():
    got = compute("slct.f32.s32 %x, %a, %b, %c;", "f32", ("f32", [1, 2]), ("f32", [3, 4]), ("s32", [0, -1]))
    assert got.tolist() == [1, 4]
    got = compute("set.lt.u32.f32 %x, %a, %b;", "u32", ("f32", [1, 2, np.nan]), ("f32", [2, 1, 1]))
    assert got.tolist() == [0xFFFFFFFF, 0, 0]
    got = compute("testp.subnormal.f32 %p1, %a; selp.u32 %x, 1, 0, %p1;", "u32", ("f32", [0, 1e-40, 1, np.nan]))
    assert got.tolist() == [0, 1, 0, 0]


# ---------------------------------------------------------------------------------------------------
# floating arithmetic: one rounding of the exact result

DTYPES = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


def exact(number):
    return Fraction(float(number))


def as_float(fraction):
    try:
        return float(fraction)
    except OverflowError:
        return math.inf if fraction > 0 else -math.inf


def rounded(fraction, dtype, mode="rn"):
    """An exact number, rounded by searching among the neighbours of a first guess."""
    with np.errstate(all="ignore"):
        guess = dtype(as_float(fraction))  # rounded twice: may be the wrong neighbour
        if not np.isfinite(guess):
            guess = dtype(np.copysign(np.finfo(dtype).max, guess))
        around = [np.nextafter(guess, dtype(-np.inf)), guess, np.nextafter(guess, dtype(np.inf))]
    finite = [one for one in around if np.isfinite(one)]
    below = max((one for one in finite if exact(one) <= fraction), default=dtype(-np.inf))
    above = min((one for one in finite if exact(one) >= fraction), default=dtype(np.inf))
    if mode == "rm":
        return below
    if mode == "rp":
        return above
    if mode == "rz":
        return below if fraction > 0 else above
    if below == above:
        return below
    # Infinity stands where the next number would.
    step = Fraction(2) ** (math.frexp(float(np.finfo(dtype).max))[1])
    down, up = (exact(one) if np.isfinite(one) else int(np.sign(one)) * step for one in (below, above))
    if fraction - down != up - fraction:
        return below if fraction - down < up - fraction else above
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    return below if np.isfinite(below) and np.array(below).view(bits) % 2 == 0 else above


def numbers(dtype, count):
    """Floats of all sizes, and some whose sums and products lie next to, or on, the middle of two others."""
    info = np.finfo(dtype)
    spread = RANDOM.uniform(-1, 1, count) * 2.0 ** RANDOM.integers(info.minexp // 2, info.maxexp // 2, count)
    near = 1 + RANDOM.integers(0, 4, count) * float(info.eps)
    tiny = RANDOM.integers(1, 9, count) * float(info.smallest_subnormal)
    kind = RANDOM.integers(0, 3, count)
    return np.select([kind == 0, kind == 1], [spread, near], tiny).astype(dtype)


def same(got, expected):
    """Equal bits, but for NaN."""
    got, expected = np.asarray(got), np.asarray(expected, np.asarray(got).dtype)
    bits = np.dtype(f"u{got.dtype.itemsize}")
    return ((got.view(bits) == expected.view(bits)) | (np.isnan(got) & np.isnan(expected))).all()


@pytest.mark.parametrize("kind", ["f32", "f64", "f16"])
def test_fused_multiply_add_rounds_once(kind):
    dtype = DTYPES[kind]
    a, b = numbers(dtype, 900), numbers(dtype, 900)
    with np.errstate(all="ignore"):
        # Sums that cancel, lie on a tie, or are a little off one.
        c = np.where(np.arange(900) % 3 == 0, -(a * b), numbers(dtype, 900)).astype(dtype)
        c[1::3] = (dtype(2) ** RANDOM.integers(-12, 13, 300)).astype(dtype)
    c[~np.isfinite(c)] = 1
    got = compute(f"fma.rn.{kind} %x, %a, %b, %c;", kind, (kind, a), (kind, b), (kind, c))
    results = [exact(x) * exact(y) + exact(z) for x, y, z in zip(a, b, c, strict=True)]
    assert (got == [rounded(result, dtype) for result in results]).all()


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
def test_directed_rounding(mode):
    a, b = numbers(np.float32, 600), numbers(np.float32, 600)
    c = numbers(np.float32, 600)
    operations = {
        "add": lambda x, y, z: x + y,
        "sub": lambda x, y, z: x - y,
        "mul": lambda x, y, z: x * y,
        "div": lambda x, y, z: x / y,
        "fma": lambda x, y, z: x * y + z,
    }
    for name, function in operations.items():
        third = ", %c" if name == "fma" else ""
        inputs = [("f32", part) for part in ((a, b, c) if third else (a, b))]
        got = compute(f"{name}.{mode}.f32 %x, %a, %b{third};", "f32", *inputs)
        for x, y, z, one in zip(a, b, c, got, strict=True):
            result = function(exact(x), exact(y), exact(z))
            assert not result or one == rounded(result, np.float32, mode), (name, x, y, z)


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_quotients_and_roots_round_to_nearest(kind):
    dtype = DTYPES[kind]
    a, b = np.abs(numbers(dtype, 300)), numbers(dtype, 300)
    got = compute(f"div.rn.{kind} %x, %a, %b;", kind, (kind, a), (kind, b))
    assert (got == [rounded(exact(x) / exact(y), dtype) for x, y in zip(a, b, strict=True)]).all()
    got = compute(f"rcp.rn.{kind} %x, %a;", kind, (kind, a))
    assert (got == [rounded(1 / exact(x), dtype) for x in a]).all()
    # The nearest root r: the halves to its neighbours, squared, lie on both sides.
    for x, r in zip(a, compute(f"sqrt.rn.{kind} %x, %a;", kind, (kind, a)), strict=True):
        below, above = (exact(r) + exact(np.nextafter(r, dtype(way))) for way in (-np.inf, np.inf))
        assert (below / 2) ** 2 <= exact(x) <= (above / 2) ** 2


def test_special_values_of_floats():
    nan, inf = np.nan, np.inf
    a = np.array([nan, 1, nan, -0.0, 0.0, inf, -inf], np.float32)
    b = np.array([1, nan, nan, 0.0, -0.0, 1, inf], np.float32)
    # A number wins over NaN, unless .NaN asks for it.
    assert same(compute("min.f32 %x, %a, %b;", "f32", ("f32", a), ("f32", b)), [1, 1, nan, -0.0, -0.0, 1, -inf])
    assert same(compute("max.f32 %x, %a, %b;", "f32", ("f32", a), ("f32", b)), [1, 1, nan, 0.0, 0.0, inf, inf])
    got = compute("max.NaN.f32 %x, %a, %b;", "f32", ("f32", a), ("f32", b))
    assert same(got, [nan, nan, nan, 0.0, 0.0, inf, inf])
    assert same(compute("add.f32 %x, %a, %b;", "f32", ("f32", a), ("f32", b)), [nan, nan, nan, 0.0, 0.0, inf, nan])
    small = np.array([1e-40, -1e-40, 1e-37, 1], np.float32)
    assert same(compute("add.ftz.f32 %x, %a, 0f00000000;", "f32", ("f32", small)), [0, 0, small[2], 1])
    assert same(compute("mul.ftz.f32 %x, %a, 0f3C23D70A;", "f32", ("f32", small))[2:], [0, np.float32(0.01)])
    got = compute("add.sat.f32 %x, %a, %b;", "f32", ("f32", [0.5, 2, -1, nan]), ("f32", [0.25, 0, 0, 0]))
    assert same(got, [0.75, 1, 0, 0])
    assert same(compute("neg.f32 %x, %a;", "f32", ("f32", [0, 1])), [-0.0, -1])
    assert same(compute("copysign.f32 %x, %a, %b;", "f32", ("f32", [-1, 1]), ("f32", [3, -0.0])), [-3, 0])


@pytest.mark.parametrize(
    ("name", "function", "low", "high", "error"),
    [
        ("ex2", np.exp2, -20, 20, 2**-21),
        ("lg2", np.log2, 0.1, 20, 2**-21),
        ("sin", np.sin, -np.pi, np.pi, 2**-20.9),
        ("cos", np.cos, -np.pi, np.pi, 2**-20.9),
        ("tanh", np.tanh, -4, 4, 2**-11),
        ("rcp", lambda x: 1 / x, 0.1, 20, 2**-23),
        ("rsqrt", lambda x: 1 / np.sqrt(x), 0.1, 20, 2**-22),
        ("sqrt", np.sqrt, 0.1, 20, 2**-22),
    ],
)
def test_approximations_lie_within_the_documented_bounds(name, function, low, high, error):
    x = RANDOM.uniform(low, high, 500).astype(np.float32)
    truth = function(x.astype(np.float64))
    got = compute(f"{name}.approx.f32 %x, %a;", "f32", ("f32", x))
    # Of sin, cos and of lg2 near 1 the manual bounds the absolute error.
    assert (np.abs(got - truth) <= error * np.maximum(np.abs(truth), 1 if name in ("sin", "cos", "lg2") else 0)).all()


def test_coarse_reciprocals_of_float64_have_only_their_upper_half():
    x = RANDOM.uniform(0.1, 20, 100)
    for name, function in (("rcp", lambda x: 1 / x), ("rsqrt", lambda x: 1 / np.sqrt(x))):
        got = compute(f"{name}.approx.ftz.f64 %x, %a;", "f64", ("f64", x))
        assert (got.view(np.uint64) & np.uint64(0xFFFFFFFF) == 0).all()
        assert np.abs(got / function(x) - 1).max() < 2**-18
        assert (got != function(x)).any()


# ---------------------------------------------------------------------------------------------------
# conversions and narrow formats


@pytest.mark.parametrize("kind", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("source", ["f32", "f64"])
def test_floats_become_integers(source, kind):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 300, -300, 3e9, -3e9, 1e19, -1e19, 1e30, np.inf, -np.inf, np.nan])
    x = x.astype(DTYPES[source])
    limits = np.iinfo(f"{'u' if kind[0] == 'u' else 'i'}{int(kind[1:]) // 8}")
    low, high = int(limits.min), int(limits.max)
    # What the manual says of NaN: 0, or the highest bit alone if 64 bits are involved.
    nan = 0 if source == "f32" and kind[1:] != "64" else (low or 2 ** (int(kind[1:]) - 1))
    result = kind if int(kind[1:]) > 8 else f"{kind[0]}32"
    for mode, function in (("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)):
        expected = [
            nan if np.isnan(v) else (low if v < 0 else high) if np.isinf(v) else min(max(function(float(v)), low), high)
            for v in x
        ]
        assert compute(f"cvt.{mode}.{kind}.{source} %x, %a;", result, (source, x)).tolist() == expected, mode


def test_integers_become_other_integers():
    x = [0x12345678, -0x12345678, 255, -1, 128]
    assert compute("cvt.s8.s32 %x, %a;", "s32", ("s32", x)).tolist() == [0x78, -0x78, -1, -1, -128]
    assert compute("cvt.u8.s32 %x, %a;", "u32", ("s32", x)).tolist() == [0x78, 0x88, 255, 255, 128]
    assert compute("cvt.sat.u8.s32 %x, %a;", "u32", ("s32", x)).tolist() == [255, 0, 255, 0, 128]
    assert compute("cvt.sat.s8.s32 %x, %a;", "s32", ("s32", x)).tolist() == [127, -128, 127, -1, 127]
    assert compute("cvt.s64.s32 %x, %a;", "s64", ("s32", x)).tolist() == x
    assert compute("cvt.u64.u32 %x, %a;", "u64", ("u32", [2**32 - 1])).tolist() == [2**32 - 1]
    assert compute("cvt.u32.u64 %x, %a;", "u32", ("u64", [2**40 + 7])).tolist() == [7]


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_numbers_become_narrower_floats(mode):
    x = np.array([1 / 3, -1 / 3, 1e300, -1e300, 1e-50, 1 + 2**-24, 1 + 3 * 2**-24, 65519.9, 65520, 1e-8])
    for source, result in (("f64", "f32"), ("f64", "f16"), ("f32", "f16")):
        with np.errstate(all="ignore"):
            values = x.astype(DTYPES[source])
        values = values[np.isfinite(values)]
        got = compute(f"cvt.{mode}.{result}.{source} %x, %a;", result, (source, values))
        assert same(got, [rounded(exact(v), DTYPES[result], mode) for v in values]), (source, result)
    integers = [2**31 - 1, -(2**31) + 1, 2**24 + 1, -(2**24) - 3]
    got = compute(f"cvt.{mode}.f32.s32 %x, %a;", "f32", ("s32", integers))
    assert same(got, [rounded(Fraction(n), np.float32, mode) for n in integers])


def test_rounding_to_integral_floats():
    x = np.array([0.5, 1.5, -0.5, -2.5, 1e30, np.inf], np.float32)
    assert same(compute("cvt.rni.f32.f32 %x, %a;", "f32", ("f32", x)), np.rint(x))
    assert same(compute("cvt.rzi.f32.f32 %x, %a;", "f32", ("f32", x)), np.trunc(x))
    got = compute("cvt.sat.f32.f32 %x, %a;", "f32", ("f32", [-1, 0.25, 7, np.nan]))
    assert same(got, [0, 0.25, 1, 0])


def bfloat(fraction):
    """The bits of the nearest bfloat16: the float32 numbers whose lower half is zero are those of bfloat16."""
    number = float(fraction)
    upper = np.array(number, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    around = [upper - np.uint32(0x10000), upper, upper + np.uint32(0x10000)]
    distance = [(abs(exact(bits.view(np.float32)) - fraction), int(bits >> 16) & 1, int(bits >> 16)) for bits in around]
    return min(distance)[2]


def test_bfloat16():
    x = np.concatenate([RANDOM.uniform(-3, 3, 200), [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20]]).astype(np.float32)
    bits = compute("cvt.rn.bf16.f32 %x, %a;", "bf16", ("f32", x))
    assert bits.tolist() == [bfloat(exact(v)) for v in x]
    back = compute("cvt.f32.bf16 %x, %a;", "f32", ("bf16", bits))
    assert same(back, (bits.astype(np.uint32) << 16).view(np.float32))
    assert compute("cvt.rn.bf16.f32 %x, %a;", "bf16", ("f32", [np.nan, np.inf])).tolist() == [0x7FFF, 0x7F80]
    packed = compute("cvt.rn.bf16x2.f32 %x, %a, %b;", "bf16x2", ("f32", x), ("f32", x[::-1]))
    assert (packed >> 16 == bits).all()
    assert (packed & 0xFFFF == bits[::-1]).all()
    a, b, c = bits[:200], bits[:200][::-1], np.roll(bits[:200], 3)
    fused = compute("fma.rn.bf16 %x, %a, %b, %c;", "bf16", ("bf16", a), ("bf16", b), ("bf16", c))
    numbers = [(part.astype(np.uint32) << 16).view(np.float32) for part in (a, b, c)]
    assert fused.tolist() == [bfloat(exact(x) * exact(y) + exact(z)) for x, y, z in zip(*numbers, strict=True)]
    # A product on a tie, and a sum far below it that decides.
    one = np.float32(1 + 2**-7).view(np.uint32) >> 16
    small = [0x0080, 0x8080]
    got = compute("fma.rn.bf16 %x, %a, %b, %c;", "bf16", ("bf16", [one] * 2), ("bf16", [0x3FC0] * 2), ("bf16", small))
    product = exact(1 + 2**-7) * exact(1.5)
    assert got.tolist() == [bfloat(product + sign * Fraction(2) ** -126) for sign in (1, -1)]
    doubled = compute("add.rn.bf16x2 %x, %a, %a;", "bf16x2", ("bf16x2", packed))
    parts = [(part.astype(np.uint32) << 16).view(np.float32) for part in (packed >> 16, packed & 0xFFFF)]
    assert doubled.tolist() == [bfloat(2 * exact(v)) << 16 | bfloat(2 * exact(w)) for v, w in zip(*parts, strict=True)]


def test_half_precision():
    a, b = (RANDOM.uniform(-60, 60, 300).astype(np.float16) for _ in range(2))
    for name, function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply)):
        expected = [rounded(exact(function(exact(x), exact(y))), np.float16) for x, y in zip(a, b, strict=True)]
        assert same(compute(f"{name}.rn.f16 %x, %a, %b;", "f16", ("f16", a), ("f16", b)), expected), name
    two_a, two_b = (np.stack([part, part[::-1]], axis=1).copy().view(np.uint32)[:, 0] for part in (a, b))
    got = compute("fma.rn.f16x2 %x, %a, %b, %b;", "f16x2", ("f16x2", two_a), ("f16x2", two_b))
    expected = [rounded(exact(x) * exact(y) + exact(y), np.float16) for x, y in zip(a, b, strict=True)]
    assert same(got.view(np.float16)[::2], expected)
    assert same(got.view(np.float16)[1::2], expected[::-1])
    assert same(compute("cvt.f32.f16 %x, %a;", "f32", ("f16", a)), a.astype(np.float32))
    packed = compute("cvt.rn.f16x2.f32 %x, %a, %b;", "f16x2", ("f32", [1, 2]), ("f32", [3, np.inf]))
    assert packed.view(np.float16).tolist() == [3, 1, np.inf, 2]


def test_pairs_of_float32():
    a, b = (RANDOM.uniform(-1, 1, 40).astype(np.float32) for _ in range(2))
    got = compute("fma.rn.f32x2 %x, %a, %b, %b;", "f32x2", ("f32x2", a.view(np.uint64)), ("f32x2", b.view(np.uint64)))
    expected = [rounded(exact(x) * exact(y) + exact(y), np.float32) for x, y in zip(a, b, strict=True)]
    assert same(got.view(np.float32), expected)


def test_tf32_is_rounded_away_from_ties():
    x = np.array([1 + 2**-11, 1 + 2**-11 - 2**-23, -1 - 2**-11, 1 / 3, np.inf], np.float32)
    got = compute("cvt.rna.tf32.f32 %x, %a;", "tf32", ("f32", x)).view(np.float32)
    assert got.tolist() == [1 + 2**-10, 1, -1 - 2**-10, 1365 / 4096, np.inf]


def test_parts_of_registers():
    numbers = np.array([0x1122334455667788, 2**63 + 5], np.uint64)
    got = compute("mov.b64 {%r1, %r2}, %a; mov.b64 %x, {%r2, %r1};", "b64", ("b64", numbers))
    assert got.tolist() == [0x5566778811223344, 0x580000000]
    got = compute("mov.b32 {%h1, %h2}, %a; mov.b32 %x, {%h2, %h1};", "b32", ("b32", [0x11223344]))
    assert got.tolist() == [0x33441122]
    assert compute("{ .reg .b32 %temp; mov.b64 {%temp, %x}, %a; }", "u32", ("f64", [1.0])).tolist() == [0x3FF00000]


def test_special_registers():
    body = f"""{pointers("out")}
    mov.u32 %r1, %tid.y; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r1, %r1, %r2, %r3;
    mov.u32 %r4, %ctaid.y; mov.u32 %r5, %nctaid.x; mov.u32 %r6, %ctaid.x; mad.lo.u32 %r4, %r4, %r5, %r6;
    mov.u32 %r7, %ntid.y; mul.lo.u32 %r7, %r7, %r2; mad.lo.u32 %r8, %r4, %r7, %r1;
    mul.wide.u32 %d1, %r8, 4; add.s64 %d1, %d60, %d1;
    mov.u32 %r9, %laneid; mad.lo.u32 %r9, %r4, 100, %r9;
    st.global.u32 [%d1], %r9;"""
    memory = GlobalMemory(1 << 16)
    address, cells = reserve(memory, 3 * 2 * 40, np.uint32)
    kernel(body, "out").run(memory, (3, 2), (20, 2), [address])
    assert cells.reshape(6, 40).tolist() == [[100 * block + thread % 32 for thread in range(40)] for block in range(6)]


# ---------------------------------------------------------------------------------------------------
# memory


def test_vector_accesses_and_narrow_ones():
    body = f"""{pointers("source target")}
    mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 16; add.s64 %d2, %d60, %d1; add.s64 %d3, %d61, %d1;
    ld.global.nc.v4.f32 {{%f1, %f2, %f3, %f4}}, [%d2];
    st.global.v2.f32 [%d3+8], {{%f1, %f2}}; st.global.v2.f32 [%d3], {{%f3, %f4}};"""
    memory = GlobalMemory(1 << 16)
    source, numbers = place(memory, np.arange(32, dtype=np.float32))
    target, cells = reserve(memory, 32, np.float32)
    kernel(body, "source target").run(memory, (1,), (8,), [source, target])
    assert (cells.reshape(8, 2, 2) == numbers.reshape(8, 2, 2)[:, ::-1]).all()
    body = f"""{pointers("source target")}
    ld.global.s8 %r1, [%d60]; st.global.s32 [%d61], %r1; ld.global.u8 %r2, [%d60]; st.global.u16 [%d61+4], %r2;
    ld.global.u8 %d1, [%d60+1]; st.global.u64 [%d61+8], %d1;"""
    source, _ = place(memory, np.array([0xF0, 7], np.uint8))
    target, cells = place(memory, np.zeros(16, np.uint8))
    kernel(body, "source target").run(memory, (1,), (1,), [source, target])
    assert cells.view(np.int32)[0] == -16
    assert cells.view(np.uint16)[2] == 0xF0
    assert cells.view(np.uint64)[1] == 7


DECLARATIONS = """
.const .align 4 .f32 table[3] = {0f3F800000, 0f40000000, 0f40400000};
.shared .align 16 .b8 fixed[256];
.extern .shared .align 16 .b8 dynamic[];
"""


def test_constant_shared_dynamic_and_local_memory_through_generic_addresses():
    body = f"""{pointers("out")}
    .local .align 8 .b8 stack[16];
    mov.u32 %r1, %tid.x;
    mov.u64 %d1, table; cvta.const.u64 %d1, %d1; ld.f32 %f1, [%d1+8]; ld.const.f32 %f2, [table+4];
    mov.u64 %d2, stack; cvta.local.u64 %d3, %d2; st.f32 [%d3+4], %f1; ld.local.f32 %f3, [%d2+4];
    mov.u32 %r10, %dynamic_smem_size; setp.ne.u32 %p1, %r10, 256; @%p1 trap;
    mov.u64 %d4, dynamic; cvta.shared.u64 %d4, %d4; cvt.u64.u32 %d5, %r1; shl.b64 %d6, %d5, 2; add.s64 %d7, %d4, %d6;
    cvt.rn.f32.u32 %f4, %r1; add.f32 %f4, %f4, %f3; st.f32 [%d7], %f4;
    mov.u32 %r2, fixed; shl.b32 %r3, %r1, 2; add.u32 %r2, %r2, %r3; st.shared.f32 [%r2], %f2;
    bar.sync 0;
    xor.b32 %r4, %r1, 63; mul.wide.u32 %d8, %r4, 4; add.s64 %d8, %d4, %d8;
    cvta.to.shared.u64 %d9, %d8; ld.shared.f32 %f5, [%d9]; ld.shared.f32 %f6, [%r2]; add.f32 %f5, %f5, %f6;
    add.s64 %d10, %d60, %d6; st.global.f32 [%d10], %f5;"""
    memory = GlobalMemory(1 << 16)
    address, cells = reserve(memory, 64, np.float32)
    kernel(body, "out", DECLARATIONS).run(memory, (1,), (64,), [address], dynamic_shared=256)
    assert cells.tolist() == [63 - thread + 3 + 2 for thread in range(64)]


def test_atomics_count_every_thread():
    body = f"""{pointers("sums")}
    mov.u32 %r1, %tid.x;
    atom.global.add.u32 %r2, [%d60], 2; red.global.add.f32 [%d60+4], 0f3F000000; atom.global.max.s32 %r3, [%d60+8], %r1;
    atom.global.cas.b32 %r4, [%d60+12], 0, %r1; atom.global.exch.b32 %r5, [%d60+16], %r1;
    atom.global.inc.u32 %r6, [%d60+20], 4; red.global.or.b32 [%d60+24], %r1;
    mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %d60, %d1; st.global.u32 [%d1+64], %r2;"""
    memory = GlobalMemory(1 << 16)
    address, cells = place(memory, np.zeros(16 + 33, np.int32))
    kernel(body, "sums").run(memory, (1,), (33,), [address])
    assert cells[0] == 66
    assert cells[1:2].view(np.float32)[0] == 16.5
    assert (cells[2], cells[3], cells[4], cells[5], cells[6]) == (32, 1, 32, 33 % 5, 63)
    assert sorted(cells[16:]) == list(range(0, 66, 2))


# ---------------------------------------------------------------------------------------------------
# control flow


def test_lanes_part_and_meet_again():
    # The Collatz sequence of every thread's number: loops of different lengths, with branches inside.
    body = f"""{pointers("out")}
    mov.u32 %r1, %tid.x; add.u32 %r2, %r1, 1; mov.u32 %r3, 0;
$next:
    setp.eq.u32 %p1, %r2, 1; @%p1 bra $done;
    and.b32 %r4, %r2, 1; setp.eq.u32 %p2, %r4, 0; @%p2 bra $even;
    mad.lo.u32 %r2, %r2, 3, 1; bra.uni $count;
$even:
    shr.u32 %r2, %r2, 1;
$count:
    add.u32 %r3, %r3, 1; bra.uni $next;
$done:
    mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %d60, %d1;
    setp.gt.u32 %p3, %r1, 90; @%p3 exit;
    st.global.u32 [%d1], %r3;"""

    def steps(n):
        count = 0
        while n != 1:
            n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
        return count

    for order in ("together", "warps"):
        memory = GlobalMemory(1 << 16)
        address, cells = place(memory, np.full(97, -1, np.int32))
        kernel(body, "out").run(memory, (1,), (97,), [address], order=order)
        assert cells.tolist() == [steps(n + 1) if n <= 90 else -1 for n in range(97)]


def test_barriers_of_a_block_order_its_threads():
    # Every thread passes its number around the block, one place in each round.
    body = f"""{pointers("out")}
    mov.u32 %r1, %tid.x; mov.u32 %r9, 0; mov.u32 %r2, %r1; mov.u32 %r10, buffer;
    shl.b32 %r3, %r1, 2; add.u32 %r4, %r10, %r3;
    add.u32 %r5, %r1, 1; rem.u32 %r5, %r5, 96; shl.b32 %r5, %r5, 2; add.u32 %r5, %r10, %r5;
$round:
    st.shared.u32 [%r4], %r2; bar.sync 0; ld.shared.u32 %r2, [%r5]; bar.sync 0;
    add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 5; @%p1 bra $round;
    mov.u32 %r6, %ctaid.x; mad.lo.u32 %r6, %r6, 96, %r1; mul.wide.u32 %d1, %r6, 4; add.s64 %d1, %d60, %d1;
    st.global.u32 [%d1], %r2;"""
    for order in ("together", "warps"):
        memory = GlobalMemory(1 << 16)
        address, cells = reserve(memory, 4 * 96, np.uint32)
        kernel(body, "out", ".shared .align 4 .b8 buffer[384];").run(memory, (4,), (96,), [address], order=order)
        assert cells.reshape(4, 96).tolist() == [[(thread + 5) % 96 for thread in range(96)]] * 4


def test_trap_is_reported_with_its_thread():
    body = "mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 5; @%p1 trap;"
    with pytest.raises(TrapError, match=r"(?s)kernel snippet: @%p1 trap.*block \(0, 0, 0\), thread \(5, 0, 0\)"):
        kernel(body).run(GlobalMemory(4096), (1,), (32,), [])


# ---------------------------------------------------------------------------------------------------
# warps


def warp_values(instructions, result="u32", threads=32, source=None):
    """What instructions make of %a, which is the lane's number unless `source` says otherwise."""
    source = np.arange(threads) if source is None else source
    return compute(instructions, result, ("u32" if result == "u32" else result, source))


def test_shuffles():
    lane = np.arange(64)
    within = lane % 32
    base = lane - within
    forms = {
        "down": ("4, 31", np.where(within < 28, lane + 4, lane)),
        "up": ("3, 0", np.where(within >= 3, lane - 3, lane)),
        "bfly": ("5, 31", lane ^ 5),
        "idx": ("7, 31", base + 7),
    }
    for mode, (operands, expected) in forms.items():
        got = warp_values(f"shfl.sync.{mode}.b32 %x, %a, {operands}, 0xffffffff;", threads=64)
        assert got.tolist() == expected.tolist(), mode
    # Segments of eight lanes, as Numba makes them for a width of 8.
    got = warp_values(f"shfl.sync.idx.b32 %x, %a, 2, {(32 - 8) << 8 | 31}, 0xffffffff;")
    assert got.tolist() == [n // 8 * 8 + 2 for n in range(32)]
    got = warp_values("shfl.sync.down.b32 %r1|%p1, %a, 16, 31, 0xffffffff; selp.u32 %x, %r1, 99, %p1;")
    assert got.tolist() == [n + 16 if n < 16 else 99 for n in range(32)]


def test_votes_and_reductions():
    text = "setp.lt.u32 %p1, %a, 5; vote.sync.ballot.b32 %x, %p1, 0xffffffff;"
    assert warp_values(text, threads=64).tolist() == [31] * 32 + [0] * 32
    for mode, expected in (("any", [1] * 32 + [0] * 32), ("all", [0] * 64), ("uni", [0] * 32 + [1] * 32)):
        text = f"setp.lt.u32 %p1, %a, 5; vote.sync.{mode}.pred %p2, %p1, 0xffffffff; selp.u32 %x, 1, 0, %p2;"
        assert warp_values(text, threads=64).tolist() == expected, mode
    assert set(warp_values("redux.sync.add.u32 %x, %a, 0xffffffff;")) == {496}
    assert set(warp_values("redux.sync.max.s32 %x, %a, 0xffffffff;")) == {31}
    got = warp_values("and.b32 %r1, %a, 3; match.any.sync.b32 %x, %r1, 0xffffffff;")
    assert got.tolist() == [0x11111111 << n % 4 for n in range(32)]
    text = "mov.u32 %x, 0; setp.lt.u32 %p1, %a, 7; @%p1 activemask.b32 %x;"
    assert warp_values(text).tolist() == [127] * 7 + [0] * 25


def test_lanes_wait_for_the_lanes_that_a_mask_names():
    # The lanes reach the one shuffle after ways of different lengths.
    body = """
    setp.lt.u32 %p1, %a, 9; mov.u32 %r2, %a; @!%p1 bra $meet;
$turn:
    add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 50; @%p2 bra $turn;
$meet:
    shfl.sync.idx.b32 %x, %r2, 3, 31, 0xffffffff;"""
    assert set(warp_values(body)) == {50}
    with pytest.raises(BarrierError, match="never arrive"):
        warp_values("setp.lt.u32 %p1, %a, 9; mov.u32 %x, 0; @%p1 shfl.sync.idx.b32 %x, %a, 3, 31, 0xffffffff;")
    with pytest.raises(BarrierError, match="lane 20, which takes no part"):
        warp_values("setp.lt.u32 %p1, %a, 9; mov.u32 %x, 0; @%p1 shfl.sync.idx.b32 %x, %a, 20, 31, 0x1ff;")
    with pytest.raises(BarrierError, match="does not name"):
        warp_values("shfl.sync.idx.b32 %x, %a, 3, 31, 0x1ff;")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count, transposed):
    matrices = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8)
    registers = ", ".join(f"%r{number + 1}" for number in range(count))
    body = f"""{pointers("source out")}
    mov.u32 %r20, %tid.x; mov.u32 %r22, tile;
    mul.wide.u32 %d1, %r20, 16; add.s64 %d2, %d60, %d1; shl.b32 %r21, %r20, 4; add.u32 %r21, %r22, %r21;
    setp.ge.u32 %p1, %r20, {8 * count}; @%p1 bra $loaded;
    ld.global.v4.u32 {{%r10, %r11, %r12, %r13}}, [%d2]; st.shared.v4.u32 [%r21], {{%r10, %r11, %r12, %r13}};
$loaded:
    bar.sync 0;
    and.b32 %r23, %r20, {8 * count - 1}; shl.b32 %r23, %r23, 4; add.u32 %r21, %r22, %r23;
    ldmatrix.sync.aligned.m8n8.x{count}{".trans" if transposed else ""}.shared.b16 {{{registers}}}, [%r21];
    mul.wide.u32 %d3, %r20, {4 * count}; add.s64 %d4, %d61, %d3;
    {" ".join(f"st.global.u32 [%d4+{4 * number}], %r{number + 1};" for number in range(count))}"""
    memory = GlobalMemory(1 << 16)
    source, _ = place(memory, matrices)
    out, cells = reserve(memory, 32 * count, np.uint32)
    kernel(body, "source out", f".shared .align 16 .b8 tile[{128 * count}];").run(memory, (1,), (32,), [source, out])
    got = cells.reshape(32, count)
    for matrix in range(count):
        rows = matrices[matrix].T if transposed else matrices[matrix]
        for lane in range(32):
            low, high = rows[lane // 4, 2 * (lane % 4) : 2 * (lane % 4) + 2]
            assert got[lane, matrix] == int(low) | int(high) << 16


def matrix_product(shape, kind, a, b, c, result="f32"):
    """``a @ b + c`` by one `mma` of a warp; the fragments as the manual draws them."""
    depth = a.shape[1]
    lane = np.arange(32)
    group, place_in = lane // 4, lane % 4
    packed = 1 if kind == "tf32" else 2

    def words(array):
        return array.view(np.uint32) if packed == 1 else np.ascontiguousarray(array).view(np.uint32)

    left, right = [], []
    for k in range(0, depth, 4 * packed):
        columns = k + packed * place_in[:, None] + np.arange(packed)
        left += [words(a[(group + 8 * half)[:, None], columns])[:, 0] for half in (0, 1)]
        right.append(words(b[columns, group[:, None]])[:, 0])
    places = [(group + 8 * half, 2 * place_in) for half in (0, 1)]
    if result == "f32":
        addend = [c[row, column + side] for row, column in places for side in (0, 1)]
    else:
        addend = [words(c[row[:, None], column[:, None] + [0, 1]])[:, 0] for row, column in places]
    inputs = np.stack([part.view(np.uint32) for part in (*left, *right, *addend)], axis=1)
    count, outs = inputs.shape[1], len(addend)
    names = [f"%r{number}" for number in range(count)]
    cut = [len(left), len(left) + len(right)]
    registers = [", ".join(part) for part in (names[: cut[0]], names[cut[0] : cut[1]], names[cut[1] :])]
    results = [f"%f{number}" if result == "f32" else f"%r{50 + number}" for number in range(outs)]
    if result == "f32":
        registers[2] = ", ".join(f"%f{10 + number}" for number in range(outs))
    body = f"""{pointers("source out")}
    mov.u32 %r40, %tid.x; mul.wide.u32 %d1, %r40, {4 * count}; add.s64 %d1, %d60, %d1;
    {" ".join(f"ld.global.u32 {name}, [%d1+{4 * number}];" for number, name in enumerate(names))}
    {" ".join(f"mov.b32 %f{10 + n}, {name};" for n, name in enumerate(names[cut[1] :])) if result == "f32" else ""}
    mma.sync.aligned.{shape}.row.col.{result}.{kind}.{kind}.{result}
        {{{", ".join(results)}}}, {{{registers[0]}}}, {{{registers[1]}}}, {{{registers[2]}}};
    mul.wide.u32 %d2, %r40, {4 * outs}; add.s64 %d2, %d61, %d2;
    {" ".join(f"st.global.b32 [%d2+{4 * number}], {name};" for number, name in enumerate(results))}"""
    memory = GlobalMemory(1 << 16)
    source, _ = place(memory, inputs)
    out, cells = reserve(memory, 32 * outs, np.uint32)
    kernel(body, "source out").run(memory, (1,), (32,), [source, out])
    product = np.zeros((16, 8), np.float32)
    for number, (row, column) in enumerate(places):
        got = cells.reshape(32, outs)
        if result == "f32":
            for side in (0, 1):
                product[row, column + side] = got[:, 2 * number + side].view(np.float32)
        else:
            pair = np.ascontiguousarray(got[:, number]).view(np.float16).reshape(32, 2)
            product[row, column], product[row, column + 1] = pair.T
    return product


@pytest.mark.parametrize(
    ("shape", "kind"),
    [("m16n8k4", "tf32"), ("m16n8k8", "tf32"), ("m16n8k8", "bf16"), ("m16n8k16", "bf16"), ("m16n8k8", "f16"),
     ("m16n8k16", "f16")],
)  # fmt: skip
def test_matrix_products(shape, kind):
    depth = int(shape.split("k")[1])
    # Small integers: every sum is exact, so that only the places of the numbers matter.
    a, b = RANDOM.integers(-8, 9, (16, depth)), RANDOM.integers(-8, 9, (depth, 8))
    c = RANDOM.integers(-99, 99, (16, 8)).astype(np.float32)

    def narrow(x):
        x = x.astype(np.float32)
        if kind == "tf32":
            return x
        return x.astype(np.float16).view(np.uint16) if kind == "f16" else (x.view(np.uint32) >> 16).astype(np.uint16)

    assert (matrix_product(shape, kind, narrow(a), narrow(b), c) == a @ b + c).all()


def test_matrix_products_with_half_sums():
    a, b = RANDOM.integers(-8, 9, (16, 16)).astype(np.float16), RANDOM.integers(-8, 9, (16, 8)).astype(np.float16)
    c = RANDOM.integers(-99, 99, (16, 8)).astype(np.float16)
    got = matrix_product("m16n8k16", "f16", a.view(np.uint16), b.view(np.uint16), c, "f16")
    assert (got == a.astype(float) @ b.astype(float) + c).all()


def test_matrix_products_look_at_nineteen_bits_and_cut_their_sums():
    a, b, c = np.zeros((16, 8), np.float32), np.zeros((8, 8), np.float32), np.zeros((16, 8), np.float32)
    a[0, 0] = 1 + 2**-11  # of which the last bit is not looked at
    a[1, :2] = 1, 2**-12
    b[:, 0] = 1
    b[1, 0] = 2**-12 + 2**-13  # adds less than the last place of 1, but more than half of it
    got = matrix_product("m16n8k8", "tf32", a, b, c)
    assert got[0, 0] == 1
    assert got[1, 0] == 1


# ---------------------------------------------------------------------------------------------------
# asynchronous copies


def copied(body, source, threads=32, out=None, declarations=".shared .align 16 .b8 buffer[1024];", counters=None):
    """Run instructions that copy from %d60 to the buffer at %r50 and write to %d61; %r1 is the thread's number."""
    text = f"""{pointers("source out")}
    mov.u32 %r1, %tid.x; mov.u32 %r50, buffer; shl.b32 %r2, %r1, 4; add.u32 %r3, %r50, %r2;
    cvt.u64.u32 %d1, %r2; add.s64 %d2, %d60, %d1; add.s64 %d3, %d61, %d1;
    {body}"""
    memory = GlobalMemory(1 << 16)
    address, _ = place(memory, np.asarray(source))
    target, cells = reserve(memory, 4 * threads, np.float32)
    kernel(text, "source out", declarations).run(memory, (1,), (threads,), [address, target], counters=counters)
    return cells


FETCH = "ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r3]; st.global.v4.f32 [%d3], {%f1, %f2, %f3, %f4};"


def test_asynchronous_copies_arrive_at_the_wait():
    source = RANDOM.uniform(-1, 1, 256).astype(np.float32)
    body = """cp.async.cg.shared.global.L2::128B [%r3], [%d2], 16; cp.async.commit_group;
    cp.async.wait_group 0;"""
    assert (copied(body + FETCH, source) == source[:128]).all()
    body = "cp.async.ca.shared.global [%r3], [%d2], 16; cp.async.wait_all;"
    assert (copied(body + FETCH, source) == source[:128]).all()


def test_asynchronous_copies_fill_with_zeros():
    source = RANDOM.uniform(1, 2, 128).astype(np.float32)
    body = """setp.lt.u32 %p1, %r1, 5; selp.b32 %r4, 16, 0, %p1; setp.eq.u32 %p2, %r1, 7; selp.b32 %r4, 8, %r4, %p2;
    @!%p1 add.s64 %d2, %d2, 0; setp.gt.u32 %p3, %r1, 20; @%p3 add.s64 %d2, %d2, 1048576;
    cp.async.cg.shared.global [%r3], [%d2], 16, %r4; cp.async.commit_group; cp.async.wait_group 0;"""
    expected = source.reshape(32, 4).copy()
    expected[5:] = 0
    expected[7, :2] = source[28:30]
    assert (copied(body + FETCH, source).reshape(32, 4) == expected).all()


def test_groups_of_asynchronous_copies_arrive_in_order():
    source = RANDOM.uniform(-1, 1, 256).astype(np.float32)
    body = """cp.async.cg.shared.global [%r3], [%d2], 16; cp.async.commit_group;
    cp.async.cg.shared.global [%r3+512], [%d2+512], 16; cp.async.commit_group;
    cp.async.wait_group 1;"""
    assert (copied(body + FETCH, source) == source[:128]).all()
    later = FETCH.replace("[%r3]", "[%r3+512]")
    assert (copied(body + "cp.async.wait_group 0;" + later, source) == source[128:]).all()


# ---------------------------------------------------------------------------------------------------
# counters


def test_sectors_of_global_requests():
    body = f"""{pointers("source")}
    mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, {{stride}}; add.s64 %d2, %d60, %d1; ld.global.f32 %f1, [%d2];"""
    for stride, sectors in ((4, 4), (8, 8), (32, 32), (0, 1), (128, 32)):
        memory, counters = GlobalMemory(1 << 16), Counters()
        address, _ = place(memory, np.zeros(2048, np.float32))
        kernel(body.format(stride=stride), "source").run(memory, (1,), (32,), [address], counters=counters)
        (entry,) = counters.transfers.values()
        assert (entry.requests, entry.parts, entry.bytes) == (1, sectors, 128), stride
        assert entry.fewest == (1 if stride == 0 else 4)


def test_bank_conflicts():
    body = """mov.u32 %r1, %tid.x; mov.u32 %r2, buffer; mad.lo.u32 %r2, %r1, {stride}, %r2; {access}"""
    scalar, vector = "st.shared.f32 [%r2], 0f00000000;", "st.shared.v4.f32 [%r2], {%f1, %f1, %f1, %f1};"
    cases = ((scalar, 4, 0), (scalar, 8, 1), (scalar, 128, 31), (scalar, 132, 0), (vector, 16, 0))
    for access, stride, conflicts in cases:
        counters = Counters()
        text = body.format(stride=stride, access="mov.f32 %f1, 0f00000000; " + access)
        kernel(text, "", ".shared .align 16 .b8 buffer[8192];").run(
            GlobalMemory(4096), (1,), (32,), [], counters=counters
        )
        assert counters.bank_conflicts() == conflicts, (access, stride)


def test_instructions_are_counted_by_kind():
    counters = Counters()
    body = "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 40; @%p1 add.u32 %r1, %r1, 1;"
    kernel(body).run(GlobalMemory(4096), (2,), (96,), [], counters=counters)
    assert counters.lanes == {"mov.u32": 192, "setp.lt.u32": 192, "add.u32": 80, "ret": 192}
    assert counters.warps == {"mov.u32": 6, "setp.lt.u32": 6, "add.u32": 4, "ret": 6}


# ---------------------------------------------------------------------------------------------------
# what is not known is refused, with its line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("frobnicate.u32 %r1, %r2;", "does not know 'frobnicate'"),
        ("add.u32.wrong %r1, %r2, %r3;", "modifier .wrong"),
        ("add.u32 %r1, %r2;", "2 operands"),
        ("add.u32 %r1, %r2, %unknown;", "%unknown"),
        ("add.u64 %r1, %r2, %r3;", "register of type .b32 written as .u64"),
        ("bra $nowhere;", "no such label"),
        ("call.uni (), function, ();", "does not know"),
        (".reg .b99 %z;", "b99"),
        ("cvt.u32.f32 %r1, %f1;", "without rounding"),
        ("bar.sync 0, 64;", "does not know this barrier"),
        ("cp.async.bulk.wait_group 0;", "does not know"),
        ("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%g1, %g2}, {%g3}, {%g4}, {%g1, %g2};", "does not know"),
        ("ld.global.v4.f32 {%f1, %f2}, [%d1];", "2 registers"),
    ],
)
def test_what_is_not_known_is_refused_with_its_line(line, message):
    with pytest.raises(UnknownPtxError, match=message) as raised:
        kernel(line)
    assert "line 14" in str(raised.value)


def test_ptx_that_is_no_single_kernel_is_refused():
    for text, message in [
        ("", "no kernel"),
        (".visible .func f() { ret; }", "does not know"),
        (".visible .entry a() { ret; } .visible .entry b() { ret; }", "another"),
        (".tex .u32 t;", "does not know"),
        (".visible .entry a(.param .b8 p[12) { ret; }", "does not know"),
    ]:
        with pytest.raises(UnknownPtxError, match=message):
            Kernel(text)
