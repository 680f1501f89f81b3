"""Flat arrays cut into blocks, which are the tasks of the kernels that treat every element alike."""

from numba import njit

from .compiling import INNER
from .views import part

# Elements of a task: several pages of memory, so that a core that runs through them reads ahead.
BLOCK = 1 << 14

# What an element costs in multiply-adds, as `threads.share` counts: one that is fetched, changed a little and stored,
# and one that takes an exponential or a logarithm.
MOVE = 4
FORMULA = 32


@njit(**INNER)
def blocks(size):
    """The number of blocks of so many elements."""
    return (size + BLOCK - 1) // BLOCK


@njit(inline="always")
def within(array, first, last):
    """The blocks ``first .. last - 1`` of a flat array, as `part`.

    A loop over such a part counts from zero, so that the compiler need not expect negative indices.
    """
    return part(array, first * BLOCK, min(last * BLOCK, array.size) - first * BLOCK)
