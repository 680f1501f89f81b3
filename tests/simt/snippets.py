"""Hand-written PTX for tests of the machine: a few instructions between loads and stores."""

import numpy as np

from .machine import Kernel
from .memory import GlobalMemory

REGISTERS = """
    .reg .pred %p<16>;
    .reg .b16 %h<64>;
    .reg .b32 %r<64>;
    .reg .b64 %d<64>;
    .reg .f32 %f<64>;
    .reg .f64 %g<64>;
"""
# What a number of each type is held in and loaded as; bfloat16 and its like as the bits that they are.
STORAGE = {
    "f16": ("b16", np.float16), "bf16": ("b16", np.uint16), "f16x2": ("b32", np.uint32), "bf16x2": ("b32", np.uint32),
    "tf32": ("b32", np.uint32), "f32x2": ("b64", np.uint64), "f32": ("f32", np.float32), "f64": ("f64", np.float64),
    **{f"b{8 * width}": (f"b{8 * width}", np.dtype(f"u{width}")) for width in (2, 4, 8)},
    **{f"u{8 * width}": (f"u{8 * width}", np.dtype(f"u{width}")) for width in (2, 4, 8)},
    **{f"s{8 * width}": (f"s{8 * width}", np.dtype(f"i{width}")) for width in (2, 4, 8)},
}  # fmt: skip


def kernel(body, parameters="", declarations="", target="sm_90"):
    """A kernel with plenty of registers: %p, %h, %r, %d, %f, %g, for predicates and 16, 32, 64 bits and floats."""
    listed = ", ".join(f".param .u64 {name}" for name in parameters.split())
    return Kernel(f""".version 8.6
.target {target}
.address_size 64
{declarations}
.visible .entry snippet({listed})
{{{REGISTERS}
{body}
    ret;
}}
""")


def pointers(names):
    """Instructions that load the parameters into %d60, %d61, ..., as addresses in global memory."""
    return "\n".join(
        f"    ld.param.u64 %d{60 + n}, [{name}]; cvta.to.global.u64 %d{60 + n}, %d{60 + n};"
        for n, name in enumerate(names.split())
    )


def compute(instructions, result, *inputs, target="sm_90"):
    """Execute instructions once for each element of arrays.

    Parameters
    ----------
    instructions : str
        In terms of %a, %b, %c (the inputs' elements), %x (the result) and the registers of `kernel`.
    result : str
        The PTX type of %x.
    *inputs : (str, array_like)
        The PTX type and the elements, as numbers or as bits where NumPy has no such type.

    Returns
    -------
    ndarray
    """
    names = "abc"[: len(inputs)]
    arrays = [np.asarray(elements, STORAGE[kind][1]) for kind, elements in inputs]
    count = arrays[0].size
    lines = [f"    .reg .{_register(kind)} %{name};" for name, (kind, _) in zip(names, inputs, strict=True)]
    lines += [f"    .reg .{_register(result)} %x;", "    mov.u32 %r60, %tid.x;"]
    for name, (kind, _) in zip([*names, "x"], [*inputs, (result, None)], strict=True):
        storage, dtype = STORAGE[kind]
        size = np.dtype(dtype).itemsize
        # Worked out anew each time: the instructions may use any register.
        address = [
            f"    ld.param.u64 %d60, [{name}]; cvta.to.global.u64 %d60, %d60;",
            f"    mul.wide.u32 %d61, %r60, {size}; add.s64 %d61, %d60, %d61;",
        ]
        if name == "x":
            lines += [instructions, *address, f"    st.global.{storage} [%d61], %x;"]
        else:
            lines += [*address, f"    ld.global.{storage} %{name}, [%d61];"]
    memory = GlobalMemory(1 << 20)
    places = [place(memory, array) for array in arrays]
    out, outcome = reserve(memory, count, STORAGE[result][1])
    ready = kernel("\n".join(lines), " ".join([*names, "x"]), target=target)
    ready.run(memory, (1,), (count,), [*(address for address, _ in places), out])
    return outcome.copy()


def _register(kind):
    storage = STORAGE[kind][0]
    return storage if storage[0] == "f" else f"b{storage[1:]}"


def place(memory, array):
    """Address and cells of a copy of an array in the machine's memory."""
    address, cells = reserve(memory, array.size, array.dtype)
    memory.fill(address - memory.start, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return address, cells.reshape(array.shape)


def reserve(memory, count, dtype):
    """Address and cells of an array that nothing has written."""
    size = count * np.dtype(dtype).itemsize
    offset = memory.allocate(size)
    return memory.address(offset), memory.bytes[offset : offset + size].view(dtype)
