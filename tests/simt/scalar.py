"""Instructions in which every thread computes on registers of its own: arithmetic, comparisons, conversions."""

import numpy as np

from . import arithmetic
from .arithmetic import bfloat_to_float, float_to_bfloat, flush, saturate
from .decoding import decodes
from .errors import OutOfBoundsError
from .memory import WINDOW, WINDOW_SIZE
from .program import Pair, Vector
from .types import DTYPES, FLOATS, UNSIGNED, wide

ROUNDING = ("rn", "rz", "rm", "rp")
INTEGRAL = ("rni", "rzi", "rmi", "rpi")
PACKED = {"f16x2": "f16", "bf16x2": "bf16", "f32x2": "f32"}
APPROXIMATE = ("approx", "full")


# ---------------------------------------------------------------------------------------------------
# floating arithmetic, in every format

FLOAT_FUNCTIONS = {
    "add": arithmetic.add,
    "sub": lambda x, y, mode: arithmetic.add(x, -y, mode),
    "mul": arithmetic.multiply,
    "fma": arithmetic.multiply_add,
    "div": arithmetic.divide,
    "min": lambda x, y, mode: arithmetic.minimum(x, y),
    "max": lambda x, y, mode: arithmetic.maximum(x, y),
    "min.NaN": lambda x, y, mode: arithmetic.minimum(x, y, keep_nan=True),
    "max.NaN": lambda x, y, mode: arithmetic.maximum(x, y, keep_nan=True),
    "neg": lambda x, mode: -x,
    "abs": lambda x, mode: np.abs(x),
}


def float_function(name, kind, mode="rn", ftz=False, sat=False, relu=False):
    """A function of numbers (or, for the formats that NumPy lacks, of bits) of the type `kind`."""
    function = FLOAT_FUNCTIONS[name]
    if mode != "rn" and (kind not in ("f32", "f64") or (kind == "f64" and name not in ("add", "sub", "mul"))):
        raise ValueError(f"{name}.{mode}.{kind}")
    if kind in PACKED:
        return _packed(float_function(name, PACKED[kind], mode, ftz, sat, relu), DTYPES[PACKED[kind]])
    if kind == "bf16":
        return _on_bfloats(name, function)

    def compute(*numbers):
        if ftz:
            numbers = [flush(number) for number in numbers]
        result = function(*numbers, mode)
        if ftz:
            result = flush(result)
        if relu:
            result = arithmetic.maximum(result, np.asarray(result).dtype.type(0), keep_nan=True)
        return saturate(result) if sat else result

    return compute


def _packed(function, dtype):
    """Apply a function to both parts of a register."""

    def compute(*numbers):
        parts = [np.atleast_1d(number)[:, np.newaxis].view(dtype) for number in numbers]
        result = np.ascontiguousarray(np.asarray(function(*parts), dtype))
        return result.view(np.dtype(f"u{2 * dtype.itemsize}"))[:, 0]

    return compute


def _on_bfloats(name, function):
    """A function of bfloat16 bits: computed in float64, its last bit odd where digits are lost, then rounded."""
    if name == "neg":
        return lambda bits: bits ^ np.uint16(0x8000)
    if name == "abs":
        return lambda bits: bits & np.uint16(0x7FFF)

    def compute(*bits):
        numbers = [bfloat_to_float(part).astype(np.float64) for part in bits]
        if name != "fma":
            return float_to_bfloat(function(*numbers, "rn"))
        total, rest = arithmetic.two_sum(numbers[0] * numbers[1], numbers[2])
        rest = np.where(np.isfinite(total), rest, 0)
        odd = arithmetic.directed(total, rest, "rz").view(np.uint64) | (rest != 0).astype(np.uint64)
        return float_to_bfloat(odd.view(np.float64))

    return compute


# ---------------------------------------------------------------------------------------------------
# arithmetic


def _is_float(kind):
    return kind in FLOATS or kind in PACKED


@decodes("add", "sub", "min", "max")
def _two_operands(d):
    name, kind = d.instruction.opcode, d.type()
    if _is_float(kind):
        mode, ftz, sat = d.one_of(ROUNDING, "rn"), d.flag("ftz"), d.flag("sat")
        if name in ("min", "max") and d.flag("NaN"):
            name += ".NaN"
        return d.elementwise(float_function(name, kind, mode, ftz, sat), kind, [kind] * 2)
    dtype = DTYPES[kind]
    if d.flag("sat"):
        limits, sign = np.iinfo(np.int32), 1 if name == "add" else -1
        return d.elementwise(
            lambda x, y: np.clip(np.int64(x) + sign * np.int64(y), limits.min, limits.max).astype(dtype),
            kind, [kind] * 2,
        )  # fmt: skip
    function = {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}[name]
    return d.elementwise(function, kind, [kind] * 2)


@decodes("mul")
def _multiply(d):
    kind = d.type()
    if _is_float(kind):
        mode, ftz, sat = d.one_of(ROUNDING, "rn"), d.flag("ftz"), d.flag("sat")
        return d.elementwise(float_function("mul", kind, mode, ftz, sat), kind, [kind] * 2)
    half = d.one_of(("lo", "hi", "wide"))
    return d.elementwise(_product(half, kind), wide(kind) if half == "wide" else kind, [kind] * 2)


def _product(half, kind):
    dtype = DTYPES[kind]
    if half == "lo":
        return np.multiply
    if half == "hi":
        return lambda x, y: arithmetic.high_product(x, y, dtype)
    double = DTYPES[wide(kind)]
    return lambda x, y: np.multiply(x, y, dtype=double)


@decodes("mul24", "mad24")
def _multiply_24(d):
    kind, half = d.type(), d.one_of(("lo",))
    if half is None or kind != "u32":
        d.refuse("this form")
    low = np.uint32(0xFFFFFF)
    if d.instruction.opcode == "mul24":
        return d.elementwise(lambda x, y: (x & low) * (y & low), kind, [kind] * 2)
    return d.elementwise(lambda x, y, z: (x & low) * (y & low) + z, kind, [kind] * 3)


@decodes("mad", "fma")
def _multiply_add(d):
    kind = d.type()
    if _is_float(kind):
        mode, ftz, sat, relu = d.one_of(ROUNDING, "rn"), d.flag("ftz"), d.flag("sat"), d.flag("relu")
        return d.elementwise(float_function("fma", kind, mode, ftz, sat, relu), kind, [kind] * 3)
    half = d.one_of(("lo", "hi", "wide"))
    result = wide(kind) if half == "wide" else kind
    product = _product(half, kind)
    return d.elementwise(lambda x, y, z: product(x, y) + z, result, [kind, kind, result])


@decodes("div", "rem")
def _divide(d):
    name, kind = d.instruction.opcode, d.type()
    if _is_float(kind):
        approximate = d.flag(*APPROXIMATE)
        mode = d.one_of(ROUNDING, "rn")
        if name == "rem" or (approximate and kind != "f32"):
            d.refuse("this form")
        return d.elementwise(float_function("div", kind, mode, d.flag("ftz")), kind, [kind] * 2)
    function = arithmetic.quotient if name == "div" else arithmetic.remainder
    return d.elementwise(function, kind, [kind] * 2)


@decodes("neg", "abs")
def _sign(d):
    name, kind = d.instruction.opcode, d.type()
    if _is_float(kind):
        return d.elementwise(float_function(name, kind, ftz=d.flag("ftz")), kind, [kind])
    return d.elementwise({"neg": np.negative, "abs": np.abs}[name], kind, [kind])


@decodes("copysign")
def _copy_sign(d):
    kind = d.type()
    return d.elementwise(lambda sign, x: np.copysign(x, sign), kind, [kind] * 2)


@decodes("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def _function(d):
    name, kind = d.instruction.opcode, d.type()
    approximate, mode, ftz = d.flag("approx"), d.one_of(ROUNDING), d.flag("ftz")
    if kind == "f64" and approximate:
        if name not in ("rcp", "rsqrt") or not ftz:
            d.refuse("this form")
        return d.elementwise(lambda x: arithmetic.coarse(name, x), kind, [kind])
    exact = mode is not None
    if kind not in ("f32", "f64") or approximate == exact or (exact and name not in ("rcp", "sqrt")):
        d.refuse("this form")
    if kind == "f64" and mode != "rn":
        d.refuse("this form")

    def compute(x):
        if ftz:
            x = flush(x)
        if approximate:
            result = arithmetic.approximate(name, x)
        elif name == "rcp":
            result = arithmetic.divide(np.asarray(x).dtype.type(1), x, mode)
        else:
            result = arithmetic.square_root(x, mode)
        return flush(result) if ftz else result

    return d.elementwise(compute, kind, [kind])


# ---------------------------------------------------------------------------------------------------
# bits


@decodes("and", "or", "xor")
def _bitwise(d):
    kind = d.type()
    function = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[d.instruction.opcode]
    return d.elementwise(function, kind, [kind] * 2)


@decodes("not")
def _not(d):
    kind = d.type()
    return d.elementwise(np.invert, kind, [kind])


@decodes("cnot")
def _logical_not(d):
    kind = d.type()
    return d.elementwise(lambda x: x == 0, kind, [kind])


@decodes("shl")
def _shift_left(d):
    kind = d.type()
    return d.elementwise(arithmetic.shift_left, kind, [kind, "u32"])


@decodes("shr")
def _shift_right(d):
    kind = d.type()
    return d.elementwise(arithmetic.shift_right, kind, [kind, "u32"])


@decodes("shf")
def _funnel_shift(d):
    left, clamp = d.one_of(("l", "r")) == "l", d.one_of(("clamp", "wrap")) == "clamp"
    d.type()
    return d.elementwise(
        lambda low, high, count: arithmetic.funnel_shift(low, high, count, left, clamp), "b32", ["b32"] * 3
    )


@decodes("bfe")
def _field_extract(d):
    kind = d.type()
    return d.elementwise(
        lambda x, start, length: arithmetic.field_extract(x, start, length, DTYPES[kind]), kind, [kind, "u32", "u32"]
    )


@decodes("bfi")
def _field_insert(d):
    kind = d.type()
    return d.elementwise(
        lambda x, into, start, length: arithmetic.field_insert(x, into, start, length, DTYPES[kind]),
        kind, [kind, kind, "u32", "u32"],
    )  # fmt: skip


@decodes("prmt")
def _permute(d):
    d.type()
    mode = d.one_of(("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"))
    return d.elementwise(lambda a, b, c: arithmetic.permute_bytes(a, b, c, mode), "b32", ["b32"] * 3)


@decodes("popc", "clz")
def _count(d):
    kind = d.type()
    function = {"popc": arithmetic.count_bits, "clz": arithmetic.leading_zeros}[d.instruction.opcode]
    return d.elementwise(function, "u32", [kind])


@decodes("brev")
def _reverse(d):
    kind = d.type()
    return d.elementwise(arithmetic.reverse_bits, kind, [kind])


@decodes("lop3")
def _logic(d):
    d.type()
    *_, table = d.operands
    d.operands = d.operands[:-1]
    table = int(table.text, 0)
    return d.elementwise(lambda a, b, c: arithmetic.three_input_logic(a, b, c, table), "b32", ["b32"] * 3)


# ---------------------------------------------------------------------------------------------------
# comparisons and choices

ORDERED = {"eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
UNSIGNED_ORDER = {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(word, kind):
    """The function that a comparison's name stands for."""
    if kind not in FLOATS:
        if word in UNSIGNED_ORDER and kind[0] == "u":
            return UNSIGNED_ORDER[word]
        return {**ORDERED, "ne": np.not_equal}[word]
    if word in ORDERED:
        return ORDERED[word]
    if word == "ne":  # ordered, as all without a u: false of NaN
        return lambda x, y: (x < y) | (x > y)
    if word in ("num", "nan"):
        return lambda x, y: (np.isnan(x) | np.isnan(y)) == (word == "nan")
    ordered = comparison(word[:-1], kind)
    return lambda x, y: ordered(x, y) | np.isnan(x) | np.isnan(y)


@decodes("setp", "set")
def _compare(d):
    types = d.types()
    kind = types[-1]
    ftz = d.flag("ftz")
    compare = comparison(d.words.pop(0), kind)
    combine = d.one_of(COMBINE)
    a, b = d.read(1, kind), d.read(2, kind)
    third = d.read(3, "pred") if combine else None
    if len(d.operands) != 3 + bool(combine):
        d.refuse(f"{len(d.operands)} operands")

    def outcome(state, where):
        x, y = a(state, where), b(state, where)
        holds = compare(flush(x), flush(y)) if ftz else compare(x, y)
        if combine is None:
            return holds, ~holds
        other = third(state, where)
        return COMBINE[combine](holds, other), COMBINE[combine](~holds, other)

    if d.instruction.opcode == "set":
        # All bits, or 1.0, where the comparison holds.
        result = types[0]
        true = np.float32(1) if result == "f32" else np.array(~np.uint32(0)).view(DTYPES[result])[()]
        write = d.write(0, result)
        return lambda state, where: write(
            state, where, np.where(outcome(state, where)[0], true, DTYPES[result].type(0))
        )
    first, second = (d.operands[0], None) if not isinstance(d.operands[0], Pair) else d.operands[0]
    write, write_second = d.write(first, "pred"), second and d.write(second, "pred")

    def execute(state, where):
        holds, fails = outcome(state, where)
        write(state, where, holds)
        if write_second:
            write_second(state, where, fails)

    return execute


@decodes("selp")
def _select(d):
    kind = d.type()
    return d.elementwise(lambda x, y, chosen: np.where(chosen, x, y), kind, [kind, kind, "pred"])


@decodes("slct")
def _select_by_sign(d):
    kind, condition = d.types()
    d.flag("ftz")
    return d.elementwise(lambda x, y, sign: np.where(sign >= 0, x, y), kind, [kind, kind, condition])


@decodes("testp")
def _test(d):
    kind = d.type()
    tiny = arithmetic.SMALLEST_NORMAL[DTYPES[kind]]
    function = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= tiny),
        "subnormal": lambda x: (x != 0) & (np.abs(x) < tiny),
    }[d.words.pop(0)]
    return d.elementwise(function, "pred", [kind])


# ---------------------------------------------------------------------------------------------------
# moves and conversions


@decodes("mov")
def _move(d):
    kind = d.type()
    target, source = d.operands
    if isinstance(target, Vector) or isinstance(source, Vector):
        parts = target.parts if isinstance(target, Vector) else source.parts
        width = DTYPES[kind].itemsize // len(parts)
        part_kind, dtype = f"b{8 * width}", UNSIGNED[width]
        if isinstance(target, Vector):
            read, writes = d.read(source, kind), [d.write(part, part_kind) for part in parts]

            def execute(state, where):
                bits = np.atleast_1d(read(state, where)).view(UNSIGNED[width * len(parts)])
                for number, write in enumerate(writes):
                    write(state, where, (bits >> bits.dtype.type(8 * width * number)).astype(dtype))

            return execute
        reads, write, whole = [d.read(part, part_kind) for part in parts], d.write(target, kind), DTYPES[kind]

        def execute(state, where):
            bits = UNSIGNED[whole.itemsize].type(0)
            for number, read in enumerate(reads):
                bits = bits | read(state, where).astype(UNSIGNED[whole.itemsize]) << np.uint8(8 * width * number)
            write(state, where, np.asarray(bits, UNSIGNED[whole.itemsize]).view(whole))

        return execute
    return d.elementwise(lambda x: x, kind, [kind])


@decodes("cvta")
def _convert_address(d):
    kind, to = d.type(), d.flag("to")
    space = d.one_of(WINDOW)
    window = DTYPES[kind].type(WINDOW[space])

    def compute(address):
        if not to:
            return address + window
        outside = (address < window) | (address - window >= WINDOW_SIZE) if space != "global" else address < 0
        if np.any(outside):
            raise OutOfBoundsError(f"a generic address that is none of {space} memory")
        return address - window

    return d.elementwise(compute, kind, [kind])


@decodes("cvt")
def _convert(d):
    types = d.types()
    to, source = types
    ftz, sat, relu = d.flag("ftz"), d.flag("sat"), d.flag("relu")
    integral, mode = d.one_of(INTEGRAL), d.one_of((*ROUNDING, "rna"))
    if to in ("f16x2", "bf16x2"):
        return _convert_two(d, to, source, mode, relu)
    if relu:
        d.refuse("modifier .relu")
    if to == "tf32":
        if source != "f32" or mode != "rna":
            d.refuse("this form")
        return d.elementwise(arithmetic.float_to_tf32, to, [source])
    if mode not in (None, "rn") and (DTYPES[source] in (np.int64, np.uint64) or (to == "bf16" and mode != "rz")):
        d.refuse(f"mode .{mode}")
    target = DTYPES[to]

    def compute(x):
        if source == "bf16":
            x = bfloat_to_float(x)
        x = np.asarray(x)
        if ftz and x.dtype == np.float32:
            x = flush(x)
        if to == "bf16":
            return float_to_bfloat(x, mode or "rn")
        if target.kind == "f":
            if integral:
                x = arithmetic.to_integral(x, integral)
            result = arithmetic.to_float(x, target, mode or "rn")
            if ftz and to == "f32":
                result = flush(result)
            return saturate(result) if sat else result
        if x.dtype.kind == "f":
            return arithmetic.to_integer(x, target, integral)
        if sat:
            limits = np.iinfo(target)
            # Python's integers compare across signs and widths.
            low, high = max(limits.min, np.iinfo(x.dtype).min), min(limits.max, np.iinfo(x.dtype).max)
            x = np.clip(x, x.dtype.type(low), x.dtype.type(high))
        return x.astype(target)

    if source in FLOATS and to not in FLOATS and integral is None:
        d.refuse("a conversion to integers without rounding")
    if to in FLOATS and source in FLOATS and DTYPES[to].itemsize < DTYPES[source].itemsize and mode is None:
        d.refuse("a narrowing conversion without rounding")
    return d.elementwise(compute, to, [source])


def _convert_two(d, to, source, mode, relu):
    """Two float32 as one word: the first operand becomes the upper half."""

    def narrow(x):
        if relu:
            x = arithmetic.maximum(x, np.float32(0), keep_nan=True)
        if to == "bf16x2":
            return float_to_bfloat(x, mode)
        return arithmetic.to_float(x, np.dtype(np.float16), mode).view(np.uint16)

    if source != "f32" or mode not in ("rn", "rz"):
        d.refuse("this form")
    return d.elementwise(lambda high, low: arithmetic.pack(narrow(low), narrow(high)), to, [source] * 2)
