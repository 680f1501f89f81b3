"""Calls that are made again and again, as one graph of launches.

To start a kernel takes Python and the driver tens of microseconds, and a small kernel is done in three.  A repetition's
launches are captured in a CUDA graph, which the driver starts as a whole; `counting` has what changes in between.
Where nothing captures, because there is no CuPy, the functions are called again.

A graph is kept for the next time that the same functions get the same arguments: addresses, not arrays, which
nothing here keeps alive.  The epochs of a training run share one.
"""

from collections import OrderedDict

from .. import precision
from .. import repetition as plain
from ..repetition import Counter, Lent, counters_of
from . import toolkit
from .counting import ROWS, Table, Tabled

# As many as the networks of a grid search have kinds of batches.
_MOST_GRAPHS = 16
graphs = OrderedDict()


def repetition(calls, lent=()):
    """Make calls again that have been made once: see `gpuconv.kernels.repetition.repetition`."""
    return _Repetition(calls, lent) if toolkit.captures() else plain.repetition(calls, lent)


class _Repetition:
    def __init__(self, calls, lent):
        self._lent, self._counters = Lent(calls, lent), counters_of(calls)
        self._graph = None
        self._count_on(self._counters, 1)

    def restart(self, lent=()):
        if not self._lent.has(lent):
            self._lent.take(lent)
            self._graph = None
        self._count_on([counter.again() for counter in self._counters], 0)

    def _count_on(self, values, times):
        """Let the next repetition's counters be these and so many steps."""
        self._next = [
            Counter(value + times * counter.step, counter.step)
            for value, counter in zip(values, self._counters, strict=True)
        ]

    def __call__(self, times):
        # Looked for once, which takes as long as many launches; the scratch memory that it uses is kept until the end.
        self._graph = self._graph or (*_graph(self._lent.calls(), len(self._counters)), toolkit.workspaces())
        launch, table, _ = self._graph
        while times:
            some = min(times, ROWS)
            if table:
                table.fill(self._next, some)
            for _ in range(some):
                launch()
            self._count_on(self._next, some)
            times -= some


def _graph(calls, columns):
    """What launches the graph of the calls, and its table."""
    key = _identity(calls)
    if key not in graphs:
        table = Table(columns) if columns else None
        graphs[key] = toolkit.capture(lambda: _make(calls, table)), table
        if len(graphs) > _MOST_GRAPHS:
            graphs.popitem(last=False)
    graphs.move_to_end(key)
    return graphs[key]


def _make(calls, table):
    """Call the functions, with counters that stand in the table."""
    if table:
        table.advance()
    column = 0
    for kernel, arguments in calls:
        placed = []
        for argument in arguments:
            if isinstance(argument, Counter):
                argument, column = Tabled(argument, table, column), column + 1
            placed.append(argument)
        kernel(*placed)


def _identity(calls):
    """What a graph of these calls depends on, the addresses of scratch memory included."""
    return (
        precision.get_precision(), *map(_argument, toolkit.workspaces()),
        *((kernel, *map(_argument, arguments)) for kernel, arguments in calls),
    )  # fmt: skip


def _argument(argument):
    """An argument, as far as a graph depends on it."""
    if isinstance(argument, Counter):
        return Counter, argument.step
    if hasattr(argument, "__cuda_array_interface__"):
        return argument.__cuda_array_interface__["data"][0], argument.shape, argument.dtype
    return argument
