"""Sums over the samples of a small batch, each made of the sums of two parts of it.

What a gradient by weights is a sum of, two threads have computed, each for its samples (`strands`).  One that computed
the sum of all samples would have to fetch the other's half out of the other core's cache, which for a small network
takes as long as the arithmetic.  So each adds up its own samples, and then their sums are added.

Whether a sum is made so follows from its shapes, and where the batch is cut from the number of samples, so that one
thread makes the same sums, bit by bit.
"""

import functools
import itertools

import numpy as np
from numba import njit

from .compiling import KERNEL
from .processor import REGISTER_BYTES
from .workspace import other_scratch, workspace

PARTS = 2

# A part has at least about so many samples, and begins where a vector of samples does.
FEWEST_SAMPLES, VECTOR = 16, REGISTER_BYTES // 4

# Bytes of the samples and of their sum.  Where there are more, threads share a sum in other ways, and adding one more
# takes long.
MOST_BYTES = 1 << 17


def ranges(count, parts):
    """First sample of each of so many parts, or of as many as are large enough, and the one behind its last."""
    parts = max(min(parts, count // FEWEST_SAMPLES), 1)
    starts = [round(count * number / parts / VECTOR) * VECTOR for number in range(parts)]
    return list(itertools.pairwise([*starts, count]))


def part_of(argument, first, end):
    """What the samples ``first .. end - 1`` have of an array or a geometry; anything else is theirs as it is."""
    if isinstance(argument, np.ndarray):
        return argument[first:end]
    return argument.for_batch(end - first) if hasattr(argument, "for_batch") else argument


def over_samples(function):
    """Make a kernel of a function that returns a compiled function and its arguments, as `prepared`.

    Its first argument is x; it adds up what all samples give to the outputs, which are its last two arguments.

    ``kernel.prepare(...)`` is the function, for all samples at once; ``kernel.split(...)`` tells what the kernel really
    does.
    """

    def split(*arguments, empty=np.empty):
        """The arguments of ``prepare`` for each part, and what follows: calls that add its sums to the first part's."""
        *given, one, other = arguments
        x = given[0]
        small = x.nbytes + one.nbytes + other.nbytes <= MOST_BYTES
        first, *others = ranges(len(x), PARTS) if small else [(0, len(x))]
        if not others:
            return [arguments], []
        parts, additions = [[*(part_of(argument, *first) for argument in given), one, other]], []
        for ends in others:
            memory = empty(one.size + other.size, one.dtype)
            sums = memory[: one.size].reshape(one.shape), memory[one.size : one.size + other.size]
            parts.append([*(part_of(argument, *ends) for argument in given), *sums])
            for array, total in zip(sums, (one, other), strict=True):
                additions.append((_add, (array.reshape(-1), total.reshape(-1))))
        return parts, additions

    @functools.wraps(function)
    def kernel(*arguments):
        with other_scratch("sums"):
            parts, additions = split(*arguments, empty=workspace)
        for compiled, given in [*itertools.starmap(function, parts), *additions]:
            compiled(*given)

    kernel.prepare, kernel.split = function, split
    return kernel


@njit(**KERNEL)
def _add(numbers, sums):
    for i in range(sums.size):
        sums[i] += numbers[i]
