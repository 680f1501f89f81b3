"""How the calls of a small network's step are shared among threads: in strands, and side by side.

A kernel that shares its own work has all threads wait for each other at its end, and one too small to be shared has
the others wait for one: in a step of the digits network, a dozen kernels of a few microseconds each, that took a sixth
of two threads' time.  But most kernels treat every sample by itself.  So a thread can go through all of them with some
of the batch's samples, a *strand*, and only then wait for the others.  Gradients by weights, which are sums over all
samples, are made of the sums of two parts (`parts`).  Two strands are these parts, and each adds up its own::

    phase 1   samples 0 .. 47     gather   correlate   dense   loss   gradient by input   sums  |
              samples 48 .. 99    gather   correlate   dense   loss   gradient by input   sums  |  both wait here
    phase 2   both parts' sums added, and all other calls, one after the other, as they are

With more strands, the parts' sums are a phase between these, each computed by one thread.

What a strand's thread writes stays in its core's cache until it reads it again; to fetch what another core has written
would take longer than to compute it.  Results are the same, bit by bit: the kernels of BY_SAMPLES compute a sample's
numbers in the same order in every strand.
"""

import contextlib
import itertools
from typing import NamedTuple

import numpy as np

from .. import TABLE
from ..repetition import Counter
from .correlate_pool import is_by_windows
from .parts import part_of, ranges
from .threads import get_num_threads
from .workspace import other_scratch

# Kernels of the table that treat samples one by one, with the arguments that have a row or a picture for each of them,
# know their number, or say which is the first; and how many outputs there are, which come last.
BY_SAMPLES = {
    "gather": ("start batch", 1),
    "put": ("batch start", 1),
    "correlate2d_max_pool2d": ("x geometry pool y winner", 2),
    "dense": ("x y", 1),
    "dense_gradient_input": ("dy y dx", 1),
    "softmax_cross_entropy": ("logits targets losses gradient", 2),
    "sparse_softmax_cross_entropy": ("logits labels losses gradient", 2),
    "categorical_accuracy": ("predictions targets hits", 1),
    "sparse_accuracy": ("predictions labels hits", 1),
}

# Bytes of all arrays of the strands' calls.  Where there are more, a kernel by itself is worth all threads, and what
# every strand prepares for itself, such as weights in panels, would take long.
MOST_BYTES = 1 << 20


class _Call(NamedTuple):
    """A call and what is known of it.  Of a kernel that is not listed, nothing is: it may write all of its arrays."""

    kernel: object
    arguments: list
    places: list  # of the arguments that a strand has a part of; none if nothing is known of it
    is_sum: bool  # whether it is one over all samples
    outputs: int  # how many of the arrays it writes, the last ones

    @property
    def arrays(self):
        """Those of the arguments that are arrays."""
        return [argument for argument in self.arguments if isinstance(argument, np.ndarray)]

    @property
    def written(self):
        """The arrays that it writes, or may write."""
        return self.arrays[-self.outputs :]

    @property
    def cut(self):
        """The arrays that a strand has a part of."""
        return [self.arguments[place] for place in self.places if isinstance(self.arguments[place], np.ndarray)]

    @property
    def whole(self):
        """The other arrays."""
        return [
            argument
            for place, argument in enumerate(self.arguments)
            if isinstance(argument, np.ndarray) and place not in self.places
        ]

    def must_follow(self, other):
        """Whether one writes what the other reads or writes."""
        return _overlap(self.written, other.arrays) or _overlap(self.arrays, other.written)

    def strand(self, first, end):
        """The same for the samples ``first .. end - 1``."""
        arguments = list(self.arguments)
        for place in self.places:
            arguments[place] = _part(arguments[place], first, end)
        return self.kernel, arguments


def phases_of(calls, lent=()):
    """Arrange calls for as many threads as there are now.

    Parameters
    ----------
    calls : list of tuple ``(kernel, arguments)``
        Kernels of the table, or compiled functions.
    lent : sequence of array
        Those of the arguments in whose places others may come.

    Returns
    -------
    list of list of list of tuple ``(kernel, arguments)``
        Phases, which come one after the other; the branches of each, which may run at the same time; the calls of
        each branch, in order, whose kernels are compiled functions.
    """
    ahead, others = [], []
    for call in itertools.starmap(_known, calls):
        moves = call.places and not call.is_sum and not any(call.must_follow(other) for other in others)
        (ahead if moves else others).append(call)
    strands = _strands(ahead, lent)
    if len(strands) < 2:
        return [[_compiled(_as_split(calls))]]
    sums = []
    for call in others:
        if not call.is_sum or any(call.must_follow(other) for other in sums):
            break
        sums.append(call)
    first, second, additions = [[call.strand(*ends) for call in ahead] for ends in strands], [], []
    # Each strand can add up what it has made, unless one writes what another still reads.
    joining = _strands([*ahead, *sums], lent) == strands and not any(
        _overlap(total.written, call.arrays) for total in sums for call in ahead
    )
    for call in sums:
        parts, after = call.kernel.split(*call.arguments)
        parts = [(call.kernel, arguments) for arguments in parts]
        if joining and len(parts) == len(strands):
            for strand, one in zip(first, parts, strict=True):
                strand.append(one)
        else:
            second += [[one] for one in parts]
        additions += after
    rest = [*additions, *((call.kernel, call.arguments) for call in others[len(sums) :])]
    phases = [[_compiled(branch, number) for number, branch in enumerate(phase)] for phase in (first, second)]
    return [*phases, [_compiled(_as_split(rest))]]


def _known(kernel, arguments):
    """The call, with what is known of its kernel."""
    name = getattr(kernel, "__name__", None)
    if hasattr(kernel, "split"):
        # Activations and their constants are whole.
        places = [place for place, one in enumerate(arguments[:-2]) if part_of(one, 0, 0) is not one]
        return _Call(kernel, arguments, places, True, outputs=2)
    if name in BY_SAMPLES:
        names = TABLE[name].split()
        samples, outputs = BY_SAMPLES[name]
        given = dict(zip(names, arguments, strict=True))
        # The other ways to correlate are chosen by the size of the batch.
        if name != "correlate2d_max_pool2d" or is_by_windows(**given):
            return _Call(kernel, arguments, [names.index(one) for one in samples.split()], False, outputs)
    return _Call(kernel, arguments, [], False, outputs=len(arguments))


def _strands(calls, lent):
    """First sample of each strand, and the one behind its last: of as many as there are threads, or of fewer."""
    counts = {len(array) for call in calls for array in call.cut}
    lent = {id(array) for array in lent}
    cut = {_span(array) for call in calls for array in call.cut}
    whole = {_span(array) for call in calls for array in call.whole if id(array) not in lent}
    # A strand's part of an array is its own only if no array of other rows lies in the same memory.
    spans = sorted([*cut, *whole])
    apart = all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    if len(counts) != 1 or not apart or sum(end - start for start, end in spans) > MOST_BYTES:
        return []
    return ranges(counts.pop(), get_num_threads())


def _span(array):
    """Where a contiguous array's memory begins and ends."""
    start = array.ctypes.data
    return start, start + array.nbytes


def _overlap(some, others):
    """Whether any of some arrays shares memory with any of others."""
    return any(np.may_share_memory(one, other) for one in some for other in others)


def _part(argument, first, end):
    """What a strand has of an argument: an array, a geometry, or the number of the first sample."""
    if isinstance(argument, Counter):
        return argument.ahead(first)
    own = part_of(argument, first, end)
    return argument + first if own is argument else own


def _as_split(calls):
    """The same calls, each sum as what it is made of."""
    made = []
    for kernel, arguments in calls:
        parts, additions = kernel.split(*arguments) if hasattr(kernel, "split") else ([arguments], [])
        made += [*((kernel, part) for part in parts), *additions]
    return made


def _compiled(calls, branch=None):
    """The same calls of compiled functions, with the scratch memory of a branch, if it is one of several."""
    with contextlib.nullcontext() if branch is None else other_scratch(branch):
        return [
            kernel.prepare(*arguments) if hasattr(kernel, "prepare") else (kernel, arguments)
            for kernel, arguments in calls
        ]
