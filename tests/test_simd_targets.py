"""The register tiles as machine code for processors that need not be here: vectors, and nothing spilled to memory."""

import re

import pytest
from gpuconv.kernels.cpu import simd
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


def inner_loop(tile, number, triple, processor):
    """The assembler lines of the tile's loop over the depth."""

    def one_tile(a, rows, columns, b, b_rows, bias, floor, c, c_rows, second):
        tile(a, 0, rows, 0, columns, b, 0, b_rows, bias, 0, floor, c, 0, c_rows, second, False)

    numbers, offsets = number[::1], types.int64[::1]
    compiled = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(one_tile)
    compiled.compile((numbers, offsets, offsets, numbers, offsets, numbers, number, numbers, offsets, types.intp))
    (code,) = compiled.inspect_llvm().values()
    code = re.sub(r"target (triple|datalayout) = .*", "", code)
    code = re.sub(r'"target-(cpu|features)"="[^"]*"', "", code)
    module = binding.parse_assembly(code)
    module.triple = triple
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=processor, opt=3)
    blocks = re.split(r"\n(?=\.LBB\w+:)", machine.emit_assembly(module))
    loops = [block for block in blocks if re.search(rf"\s(j\w+|b\.\w+)\s+{re.escape(block.split(':')[0])}\b", block)]
    assert len(loops) == 1, "the tile's loop was copied or lost"
    return loops[0].splitlines()


@pytest.fixture(autouse=True, scope="module")
def all_targets():
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("form", ["wide", "narrow", "lanewise"])
@pytest.mark.parametrize("kind", TARGETS)
def test_sums_stay_in_registers(kind, form, bits, monkeypatch):
    triple, processor, multiply_add, stack = TARGETS[kind]
    bytes_, wide_rows, narrow_rows, lanewise_rows = simd.SHAPES[kind]
    monkeypatch.setattr(simd, "REGISTER_BYTES", bytes_)
    monkeypatch.setattr(simd, "FUSED", kind != "SSE2")
    rows, vectors = {"wide": (wide_rows, 2), "narrow": (narrow_rows, 1), "lanewise": (lanewise_rows, 1)}[form]
    tile = simd._tile(rows, vectors, lanewise=form == "lanewise")
    lines = inner_loop(tile, types.float32 if bits == 32 else types.float64, triple, processor)
    assert sum(bool(re.search(multiply_add[bits], line)) for line in lines) == rows * vectors
    assert not [line for line in lines if re.search(stack, line)]


def test_the_shape_is_that_of_this_processor():
    shape = simd.REGISTER_BYTES, simd.WIDE_ROWS, simd.NARROW_ROWS, simd.LANEWISE_ROWS
    assert shape in simd.SHAPES.values()
