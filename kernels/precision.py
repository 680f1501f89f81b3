"""How exactly a GPU multiplies: a choice of the user, which kernels read at every call.

Tensor cores multiply faster, but numbers of fewer bits than float32 has.
"""

import os

CHOICES = ("float32", "tf32", "bf16")


def set_precision(choice):
    """Choose one of `CHOICES` for the products of float32 numbers on CUDA."""
    global _choice
    if choice not in CHOICES:
        raise ValueError(f"precision: expected {', '.join(map(repr, CHOICES[:-1]))} or 'bf16', received {choice!r}")
    _choice = choice


def get_precision():
    """What `set_precision` has set, or ``GPUCONV_PRECISION`` at the start."""
    return _choice


try:
    set_precision(os.environ.get("GPUCONV_PRECISION") or "float32")
except ValueError as error:
    raise ValueError(f"GPUCONV_PRECISION: {error}") from None
