"""The register tiles as machine code for processors that need not be here: vectors, and nothing spilled to memory."""

import itertools
import re

import pytest
from gpuconv.kernels.cpu import beside, builders, simd, sliding, sliding_filters, stored
from gpuconv.kernels.cpu import processor as this_processor
from gpuconv.kernels.cpu import vectors as vector_access
from llvmlite import binding
from numba import njit, types

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

# Kind of registers: triple, processor, a multiply-add of vectors of float32 and of float64, an access to the stack.
TARGETS = {
    "AVX-512": (X86, "skylake-avx512", {32: r"vfmadd\d+ps.*%zmm", 64: r"vfmadd\d+pd.*%zmm"}, r"\(%rsp\)"),
    "AVX2": (X86, "haswell", {32: r"vfmadd\d+ps.*%ymm", 64: r"vfmadd\d+pd.*%ymm"}, r"\(%rsp\)"),
    "SSE2": (X86, "x86-64", {32: r"addps", 64: r"addpd"}, r"\(%rsp\)"),
    "NEON": (ARM, "neoverse-n1", {32: r"fmla.*\.4s", 64: r"fmla.*\.2d"}, r"\[sp"),
}

# A vector register in a line of assembler code.
VECTOR = r"%[xyz]mm|\bq\d|\bv\d"


def one_tile(tile, number, fetching):
    """A function of one tile over the depth of a product, and the types of its arguments."""

    def function(a, rows, columns, b, b_rows, fours, bias, floor, c, c_rows, second, source, ahead):
        tile(
            a, 0, rows, 0, columns, b, 0, b_rows, fours, bias, 0, floor, c, 0, c_rows, second, second, second, False,
            source, 0, ahead,
        )  # fmt: skip

    numbers, offsets = number[::1], types.int64[::1]
    return function, (
        numbers, offsets, offsets, numbers, offsets, types.boolean, numbers, number, numbers, offsets, types.intp,
        numbers if fetching else types.none, types.intp,
    )  # fmt: skip


def one_sliding_tile(tile, number):
    """The same for a tile of `sliding`, over the lines of a filter."""

    def function(a, line_step, before, ring_size, step, lines, column, width, b, b_line_step, b_step, bias, floor, c):
        tile(
            a, 0, line_step, before, ring_size, step, lines, column, width, b, 0, b_line_step, b_step,
            bias, 0, floor, c, 0, a, 0, 0,
        )  # fmt: skip

    numbers, integer = number[::1], types.intp
    return function, (numbers, *[integer] * 7, numbers, integer, integer, numbers, number, numbers)


def one_tile_beside(tile, number):
    """The same for a tile of `beside`, over pixels."""

    def function(a, rows, columns, b, c, add, x, x_step, dz, dz_step):
        tile(a, 0, rows, 0, columns, b, 0, c, 0, add, x, 0, x_step, dz, 0, dz_step)

    numbers, offsets, integer = number[::1], types.int64[::1], types.intp
    return function, (
        numbers, offsets, offsets, numbers, numbers, types.boolean, numbers, integer, numbers, integer
    )  # fmt: skip


def one_gradient_tile(number):
    """The same for that of `sliding_filters`, over pixels of a line."""

    def function(x, top, height, dilation, line_size, step, none, left, middle, right, dz, sums):
        tile = sliding_filters._add_pixels
        tile(x, 0, top, height, dilation, line_size, step, none, left, middle, right, dz, 0, sums, 0)

    numbers, integer = number[::1], types.intp
    return function, (numbers, *[integer] * 5, numbers, *[integer] * 3, numbers, numbers)


def one_stored_tile(tile, number, column_step, fetching):
    """The same for a tile of `stored`, over the depth; `column_step` is a type."""

    def function(a, row_step, column_step, depth, b, bias, floor, c, c_step, second, add, source, ahead):
        tile(a, 0, row_step, column_step, depth, b, 0, bias, 0, floor, c, 0, c_step, second, add, source, 0, ahead)

    numbers, integer = number[::1], types.intp
    steps = integer, column_step, integer
    source = numbers if fetching else types.none
    return function, (
        numbers, *steps, numbers, numbers, number, numbers, integer, integer, types.boolean, source, integer
    )  # fmt: skip


def inner_loops(function, arguments, triple, processor):
    """The assembler lines of a function's innermost loops."""
    compiled = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    compiled.compile(arguments)
    (code,) = compiled.inspect_llvm().values()
    code = re.sub(r"target (triple|datalayout) = .*", "", code)
    code = re.sub(r'"target-(cpu|features)"="[^"]*"', "", code)
    module = binding.parse_assembly(code)
    module.triple = triple
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=processor, opt=3)
    blocks = re.split(r"\n(?=\.LBB\w+:)", machine.emit_assembly(module))
    loops = [block for block in blocks if re.search(rf"\s(j\w+|b\.\w+)\s+{re.escape(block.split(':')[0])}\b", block)]
    return [loop.splitlines() for loop in loops]


@pytest.fixture(autouse=True, scope="module")
def all_targets():
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()


def compile_for(kind, module, monkeypatch):
    """Have a module's tiles made for a kind of registers, and return the shape that goes with it."""
    for user in (module, builders, vector_access):
        for name, figure in (("REGISTER_BYTES", this_processor.SHAPES[kind][0]), ("FUSED", kind != "SSE2")):
            if hasattr(user, name):
                monkeypatch.setattr(user, name, figure)
    return this_processor.SHAPES[kind]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("kind", "form"), [("AVX-512", "double"), *itertools.product(TARGETS, ("wide", "widest", "narrow", "lanewise"))]
)
def test_sums_stay_in_registers(kind, form, bits, monkeypatch):
    triple, processor, multiply_add, stack = TARGETS[kind]
    _, wide_rows, widest_rows, narrow_rows, lanewise_rows = compile_for(kind, simd, monkeypatch)
    rows, vectors = {
        "double": (6, 4),
        "wide": (wide_rows, 2),
        "widest": (widest_rows, 3),
        "narrow": (narrow_rows, 1),
        "lanewise": (lanewise_rows, 1),
    }[form]
    unrolled = form in ("double", "wide")
    tile = simd._tile(rows, vectors, lanewise=form == "lanewise", unrolled=unrolled)
    number = types.float32 if bits == 32 else types.float64
    loops = inner_loops(*one_tile(tile, number, form == "double"), triple, processor)
    counts = [sum(bool(re.search(multiply_add[bits], line)) for line in lines) for lines in loops]
    # One column at a time; the wide tiles also take two, and four.
    columns = (1, 2, 4) if unrolled and kind != "SSE2" else (1,)
    assert sorted(counts) == [count * rows * vectors for count in columns]
    assert not [line for lines in loops for line in lines if re.search(stack, line) and re.search(VECTOR, line)]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("rows", [8, 12])
def test_sums_of_tiles_beside_stay_in_registers(rows, bits, monkeypatch):
    triple, processor, multiply_add, stack = TARGETS["AVX-512"]
    compile_for("AVX-512", beside, monkeypatch)
    number = types.float32 if bits == 32 else types.float64
    (loop,) = inner_loops(*one_tile_beside(beside._tile(rows), number), triple, processor)
    assert sum(bool(re.search(multiply_add[bits], line)) for line in loop) == rows * beside.VECTORS
    assert not [line for line in loop if re.search(stack, line)]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("pixels", [sliding.WIDE, sliding.NARROW])
@pytest.mark.parametrize("kind", TARGETS)
def test_sums_of_sliding_tiles_stay_in_registers(kind, pixels, bits, monkeypatch):
    triple, processor, multiply_add, stack = TARGETS[kind]
    compile_for(kind, sliding, monkeypatch)
    number = types.float32 if bits == 32 else types.float64
    loops = inner_loops(*one_sliding_tile(sliding._tile(pixels), number), triple, processor)
    counts = [sum(bool(re.search(multiply_add[bits], line)) for line in lines) for lines in loops]
    # One loop for pixels that see cells of the line alone, and one at its ends.
    assert counts == [pixels * sliding.TAPS] * 2
    # The latter chooses addresses first, and so may keep a few cells on the stack where there are 16 registers.
    on_stack = [[line for line in lines if re.search(stack, line) and re.search(VECTOR, line)] for lines in loops]
    assert [] in on_stack
    assert max(map(len, on_stack)) <= 2 * sliding.TAPS


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("kind", TARGETS)
def test_sums_of_sliding_filters_stay_in_registers(kind, bits, monkeypatch):
    triple, processor, multiply_add, stack = TARGETS[kind]
    compile_for(kind, sliding_filters, monkeypatch)
    number = types.float32 if bits == 32 else types.float64
    loops = inner_loops(*one_gradient_tile(number), triple, processor)
    taps, pixels = sliding_filters.TAPS, sliding_filters.PIXELS
    counts = [sum(bool(re.search(multiply_add[bits], line)) for line in lines) for lines in loops]
    # Where a multiply-add is two instructions, additions are counted, and those of the bias are among them.
    bias = kind == "SSE2"
    ends = taps * (taps - 1) + bias
    assert sorted(counts) == [ends, ends, taps**2 + bias, pixels * (taps**2 + bias)]
    if kind == "SSE2":  # whose products take one more register than there is
        return
    assert not [line for lines in loops for line in lines if re.search(stack, line) and re.search(VECTOR, line)]


@pytest.mark.parametrize(("column_step", "fetching"), [(types.intp, False), (types.none, False), (types.none, True)])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("kind", "form"), [("AVX-512", "double"), *itertools.product(TARGETS, ("wide", "narrow"))])
def test_sums_of_stored_tiles_stay_in_registers(kind, form, bits, column_step, fetching, monkeypatch):
    triple, processor, multiply_add, stack = TARGETS[kind]
    _, wide_rows, _, narrow_rows, _ = compile_for(kind, stored, monkeypatch)
    rows, vectors = {
        "double": (4, 2 * stored.PANEL_VECTORS),
        "wide": (wide_rows, stored.PANEL_VECTORS),
        "narrow": (narrow_rows, 1),
    }[form]
    monkeypatch.setattr(stored, "FETCHING", True)
    number = types.float32 if bits == 32 else types.float64
    # One column at a time; the wider tiles also take two.
    columns = (1, 2) if form != "narrow" and kind != "SSE2" else (1,)
    tile = stored._tile(rows, vectors, columns[-1])
    loops = inner_loops(*one_stored_tile(tile, number, column_step, fetching), triple, processor)
    counts = [sum(bool(re.search(multiply_add[bits], line)) for line in lines) for lines in loops]
    assert sorted(counts) == [count * rows * vectors for count in columns]
    # Besides the addresses of twelve rows, NEON has no register left for the step of what is asked for.
    on_stack = [line for lines in loops for line in lines if re.search(stack, line)]
    assert len(on_stack) <= (kind == "NEON" and form == "wide" and fetching)
    assert not any(re.search(VECTOR, line) for line in on_stack)


def test_the_shape_is_that_of_this_processor():
    shape = [
        getattr(this_processor, name)
        for name in ("REGISTER_BYTES", "WIDE_ROWS", "WIDEST_ROWS", "NARROW_ROWS", "LANEWISE_ROWS")
    ]
    assert tuple(shape) in this_processor.SHAPES.values()
