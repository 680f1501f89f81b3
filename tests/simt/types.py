"""The types of PTX as NumPy types.

Registers hold bits, as unsigned integers; an instruction reads them in the type that it names.  Types
that NumPy lacks are read as the bits that they are.
"""

import numpy as np

from .errors import UnknownPtxError

DTYPES = {
    "b8": np.uint8, "u8": np.uint8, "s8": np.int8,
    "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "f16": np.float16, "bf16": np.uint16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32, "tf32": np.uint32,
    "f16x2": np.uint32, "bf16x2": np.uint32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64, "f32x2": np.uint64,
    "pred": np.bool_,
}  # fmt: skip
DTYPES = {name: np.dtype(dtype) for name, dtype in DTYPES.items()}
UNSIGNED = {width: np.dtype(f"u{width}") for width in (1, 2, 4, 8)}
FLOATS = {"f16", "bf16", "f32", "f64"}


def bits_of(name):
    """The type of a register declared with this type."""
    dtype = DTYPES[name]
    return dtype if dtype == np.bool_ else UNSIGNED[dtype.itemsize]


def wide(name):
    """The type of twice the width: of the product of two numbers."""
    return f"{name[0]}{2 * int(name[1:])}"


def immediate(text, name):
    """A literal as a number of the type `name`.

    Raises
    ------
    UnknownPtxError
        If it is none.
    """
    dtype = DTYPES[name]
    try:
        if dtype == np.bool_:
            return np.bool_(int(text, 0))
        if text[:2] in ("0f", "0F"):
            number = np.array(int(text[2:], 16), np.uint32)
            return number.view(np.float32).astype(dtype)[()] if name == "f64" else number.view(dtype)[()]
        if text[:2] in ("0d", "0D"):
            number = np.array(int(text[2:], 16), np.uint64)
            return number.view(np.float64).astype(dtype)[()] if name == "f32" else number.view(dtype)[()]
        if dtype.kind == "f":
            if name == "f16" and text.startswith("0x"):
                return np.array(int(text, 16), np.uint16).view(dtype)[()]
            return dtype.type(float(text))
        width = 8 * dtype.itemsize
        value = int(text.rstrip("U"), 0) & ((1 << width) - 1)
        return np.array(value, UNSIGNED[dtype.itemsize]).view(dtype)[()]
    except ValueError as error:
        raise UnknownPtxError(f"{text!r} is not a number of type .{name}") from error
