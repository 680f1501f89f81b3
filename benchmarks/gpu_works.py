"""What GPUs are asked to do in practice: layers of the networks of the examples, and operations that memory bounds.

Each `Work` names a function of `gpuconv.kernels.TABLE` and makes its arguments, whose arrays nothing has to read.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from gpuconv.kernels.formulas import LINEAR, RELU
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry


class Work(NamedTuple):
    """One call.

    Attributes
    ----------
    name : str
    function : str
        Of the table.
    arguments : callable
        Takes ``empty(shape, dtype=float32)``, which makes an array, and returns the arguments.
    flops : int
        A multiplication and an addition are two; those with padding are counted.
    """

    name: str
    function: str
    arguments: Callable
    flops: int


# input, filters, padding, whether there is a layer below that wants a gradient
LAYERS = [
    ((128, 32, 32, 3), 32, "same", False),
    ((128, 15, 15, 32), 64, "valid", True),
    ((128, 56, 56, 64), 64, "same", True),
    ((256, 28, 28, 1), 32, "valid", False),
]
DENSE = [(128, 1024, 64)]


def works():
    """All of them.

    Returns
    -------
    list of Work
    """
    return [*_correlations(), *_dense(), *_memory_bound()]


def _correlations():
    for shape, filters, padding, learns_below in LAYERS:
        g = correlation_geometry(shape, 3, filters, padding=padding)
        name = f"{'x'.join(map(str, shape))} -> {filters}, 3x3 {padding}"
        yield forward(f"{name}, forward", g)
        if learns_below:
            yield by_input(f"{name}, by input", g)
        yield by_filters(f"{name}, by filters", g)


def forward(name, g):
    """A correlation of geometry g, with ReLU."""
    return _layer(name, "correlate2d", g, (g.input_shape, g.filters_shape, g.out_channels), (g.output_shape,))


def by_input(name, g):
    """Its gradient by the input."""
    given = g.output_shape, g.output_shape, g.filters_shape
    return _layer(name, "correlate2d_gradient_input", g, given, (g.input_shape,))


def by_filters(name, g):
    """Its gradient by the filters."""
    given = g.input_shape, g.output_shape, g.output_shape
    return _layer(name, "correlate2d_gradient_filters", g, given, (g.filters_shape, g.out_channels))


def _layer(name, function, g, given, computed):
    """What makes arrays of some shapes of those of others."""
    return Work(
        name, function, lambda empty: (*map(empty, given), g, RELU, 0.0, *map(empty, computed)),
        2 * int(np.prod(g.output_shape)) * int(np.prod(g.filters_shape[:3])),
    )  # fmt: skip


def _dense():
    for rows, inputs, outputs in DENSE:
        name, flops = f"dense {rows}x{inputs} -> {outputs}", 2 * rows * inputs * outputs
        x, y, kernel = (rows, inputs), (rows, outputs), (inputs, outputs)
        yield Work(
            f"{name}, forward", "dense",
            lambda empty, x=x, y=y, kernel=kernel: (empty(x), empty(kernel), empty(y[1]), LINEAR, 0.0, empty(y)),
            flops,
        )  # fmt: skip
        yield Work(
            f"{name}, by input", "dense_gradient_input",
            lambda empty, x=x, y=y, kernel=kernel: (empty(y), empty(y), empty(kernel), LINEAR, 0.0, empty(x)),
            flops,
        )  # fmt: skip
        yield Work(
            f"{name}, by kernel", "dense_gradient_kernel",
            lambda empty, x=x, y=y, kernel=kernel: (
                empty(x), empty(y), empty(y), LINEAR, 0.0, empty(kernel), empty(y[1]),
            ),
            flops,
        )  # fmt: skip


def _memory_bound():
    count = 1 << 24
    pool = pooling_geometry((128, 30, 30, 32), 2)
    for name, function, arguments in (
        ("max pooling 128x30x30x32, 2x2", "max_pool2d",
         lambda empty: (empty(pool.input_shape), pool, empty(pool.output_shape), empty(pool.output_shape, np.uint8))),
        ("max pooling 128x30x30x32, 2x2, gradient", "max_pool2d_gradient",
         lambda empty: (empty(pool.output_shape), empty(pool.output_shape, np.uint8), pool, empty(pool.input_shape))),
        ("relu of 2**24", "activate", lambda empty: (empty(count), RELU, 0.0, empty(count))),
        ("softmax of 2**20 rows of 16", "softmax", lambda empty: (empty((count // 16, 16)), empty((count // 16, 16)))),
        ("dropout of 2**24", "dropout", lambda empty: (empty(count), 0.25, 7, 1, 2, empty(count))),
        ("Adam of 2**24", "adam",
         lambda empty: (empty(count), 1e-3, 0.9, 0.999, 1e-7, 2, 0.0, *(empty(count) for _ in range(3)))),
    ):  # fmt: skip
        yield Work(name, function, arguments, 0)
