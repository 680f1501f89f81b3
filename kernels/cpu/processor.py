"""What is known of the processor: how wide its vector registers are, how many rows of sums they hold, and its cache."""

from pathlib import Path

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

# Rows of the tiles of two whole panels, of four vectors in a row: with tables, and of stored matrices, whose blocks of
# pixels are better shared out by fewer.  0: there are too few registers.
DOUBLE_ROWS, STORED_DOUBLE_ROWS = (6, 4) if _KIND == "AVX-512" else (0, 0)

# Whether a multiply-add is one instruction; where it is not, LLVM's fma would be a call of the C library.
FUSED = _ARM or "+fma" in _features

# LLVM's name for the instruction that picks float32 numbers of a register by their places, where it is known.
PERMUTE = {"AVX-512": "llvm.x86.avx512.permvar.sf.512", "AVX2": "llvm.x86.avx2.permps"}.get(_KIND)


def _last_cache_bytes():
    """The size of the largest cache, where the system tells it in files, as Linux does; else 0."""
    files = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    kibibytes = (file.read_text().strip().removesuffix("K") for file in files)
    return max((int(size) << 10 for size in kibibytes if size.isdigit()), default=0)


LAST_CACHE_BYTES = _last_cache_bytes()
