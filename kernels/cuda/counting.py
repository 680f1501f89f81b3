"""Numbers that grow from one repetition of a graph of launches to the next.

A graph keeps the arguments of its launches.  What changes from one repetition to the next, where a batch starts or how
many steps have been taken, its kernels read from memory instead: `counted` makes two arguments of such a number, and
`current`, in the kernel, one number again.  The host puts the numbers of many repetitions into a table, of which the
graph's first launch takes the next row::

    row 0    how many rows have been taken
    row 1    the numbers of this repetition, where the kernels find them
    row 2    those of the next, row 3 those after it, ...
"""

import numpy as np

from ..repetition import Counter
from . import toolkit
from .formulas import inline
from .toolkit import cuda
from .vectors import read, write

# Repetitions that the table has rows for.
ROWS = 256
_THREADS = 32
_NOWHERE = np.uint64(0)


class Tabled(Counter):
    """A counter whose numbers stand in column `column` of a `Table`."""

    def __new__(cls, counter, table, column):
        tabled = super().__new__(cls, counter, counter.step)
        tabled.table, tabled.column = table, column
        return tabled


def counted(counter, number):
    """A number that follows from a counter, as two arguments of a kernel, for `current`.

    Parameters
    ----------
    counter : int
    number : callable
        Makes of a counter a NumPy scalar of the type that the kernel wants.

    Returns
    -------
    number : NumPy scalar
    place : uint64
        Address of the number to take instead, or 0.
    """
    place = counter.table.placed(counter.column, number) if isinstance(counter, Tabled) else _NOWHERE
    return number(int(counter)), place


@inline
def current(number, place, kind):
    """What `counted` stands for, of type `kind`."""
    if place != np.uint64(0):
        number = read(place, 0, kind)
    return number


class Table:
    """The numbers of a graph.

    Parameters
    ----------
    columns : int
    """

    def __init__(self, columns):
        self._numbers = [None] * columns
        self._words = toolkit.allocate((2 + ROWS, columns), np.uint64)

    def placed(self, column, number):
        """The address of a column's number, which `number` makes of its counter."""
        self._numbers[column] = number
        return toolkit.address(self._words, len(self._numbers) + column)

    def fill(self, counters, times):
        """Write the rows of so many repetitions, at most `ROWS`; `counters` are those of the first."""
        words = np.zeros((2 + times, len(self._numbers)), np.uint64)
        for column, (counter, number) in enumerate(zip(counters, self._numbers, strict=True)):
            numbers = np.array([number(int(counter) + k * counter.step) for k in range(times)])
            # In the first bytes of a word.
            padded = np.zeros((times, words.itemsize // numbers.itemsize), numbers.dtype)
            padded[:, 0] = numbers
            words[2:, column] = padded.view(np.uint64)[:, 0]
        self._words[: 2 + times].copy_to_device(words, stream=toolkit.stream())

    def advance(self):
        """Launch the kernel that takes the next row: one block, since nobody waits for a row of few numbers."""
        toolkit.launch(_advance, (1,), (_THREADS,), toolkit.address(self._words), np.int32(len(self._numbers)))


@cuda.jit(cache=True)
def _advance(words, columns):
    row = np.int32(read(words, 0, np.uint64))
    column = cuda.threadIdx.x
    while column < columns:
        write(words, columns + column, np.uint64, read(words, (2 + row) * columns + column, np.uint64))
        column += cuda.blockDim.x
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        write(words, 0, np.uint64, np.uint64(row + 1))
