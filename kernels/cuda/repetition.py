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
from ..repetition import Counter
from . import toolkit
from .counting import ROWS, Table, Tabled

# As many as the networks of a grid search have kinds of batches.
_MOST_GRAPHS = 16
graphs = OrderedDict()


def repetition(calls):
    """Make calls again that have been made once: see `gpuconv.kernels.repetition.repetition`."""
    if not toolkit.captures():
        return plain.repetition(calls)
    counters = [argument for _, arguments in calls for argument in arguments if isinstance(argument, Counter)]
    made, graph = 1, None

    def repeat(times):
        nonlocal made, graph
        # Looked for once, which takes as long as many launches; the scratch memory that it uses is kept until the end.
        graph = graph or (*_graph(calls, len(counters)), toolkit.workspaces())
        launch, table, _ = graph
        while times:
            some = min(times, ROWS)
            if counters:
                table.fill([Counter(counter + made * counter.step, counter.step) for counter in counters], some)
            for _ in range(some):
                launch()
            made, times = made + some, times - some

    return repeat


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
