"""What is known of the processor: how wide its vector registers are, and how many rows of sums they hold."""

from numba.core.registry import cpu_target

_triple, _, _features = cpu_target.target_context.codegen().magic_tuple()
_features = set(_features.split(","))
_ARM = _triple.startswith(("aarch64", "arm64"))

# Bytes of a vector register, and rows of the wide, the widest, the narrow and the lanewise tile: as many as leave all
# sums, and the addresses of all rows, in registers.  The gradient of depthwise 3 x 3 filters has nine rows.
SHAPES = {
    "AVX-512": (64, 6, 4, 8, 9),
    "AVX2": (32, 6, 4, 8, 9),
    "NEON": (16, 12, 8, 12, 9),
    "SSE2": (16, 6, 3, 8, 9),
}

_KIND = "NEON" if _ARM else "AVX-512" if "+avx512f" in _features else "AVX2" if "+avx2" in _features else "SSE2"
REGISTER_BYTES, WIDE_ROWS, WIDEST_ROWS, NARROW_ROWS, LANEWISE_ROWS = SHAPES[_KIND]

# Rows of the tiles of two vectors whose rows of A lie side by side by fours, so that an address serves four: a tall one
# and, for what is left, a lower one.  Sixteen registers do not hold as many, and NEON's wide tile has twelve as it is.
BESIDE_ROWS = (12, 8) if _KIND == "AVX-512" else ()

# Rows of the tile of two whole panels, of four vectors in a row; 0: there are too few registers.
DOUBLE_ROWS = 4 if _KIND == "AVX-512" else 0

# Whether a multiply-add is one instruction; where it is not, LLVM's fma would be a call of the C library.
FUSED = _ARM or "+fma" in _features

# LLVM's name for the instruction that picks float32 numbers of a register by their places, where it is known.
PERMUTE = {"AVX-512": "llvm.x86.avx512.permvar.sf.512", "AVX2": "llvm.x86.avx2.permps"}.get(_KIND)
