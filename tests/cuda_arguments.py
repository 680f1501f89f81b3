"""Small representative arguments for every function of `gpuconv.kernels.TABLE`.

`cases(name, dtype)` gives host arrays and scalars in the order of the table.  The shapes cross the edges
of tiles, and with them every kernel variant that a host function may choose is chosen at least once.
Outputs are filled with NaN (or the largest integer), so that a place left out is seen.
"""

import numpy as np
from gpuconv.kernels import TABLE, formulas
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry

# Not launches, but calls of the driver that need a device.
MEMORY = ("empty", "zeros", "from_host", "to_host", "copy", "synchronize", "repetition")


def cases(name, dtype):
    """Arguments for the function `name`, as a dictionary from a description to a tuple in the table's order."""
    return _BUILDERS[name](_Maker(dtype))


class _Maker:
    """Makes arrays of one floating type, always the same ones."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)
        self.random = np.random.default_rng(20240229)

    def normal(self, *shape):
        return self.random.standard_normal(shape).astype(self.dtype)

    def probabilities(self, *shape):
        # Some lie where the clip is active.
        p = self.random.uniform(0.05, 0.95, shape)
        p.ravel()[::7] = 0
        p.ravel()[3::11] = 1
        return p.astype(self.dtype)

    def positive(self, *shape):
        return self.random.uniform(0.1, 2, shape).astype(self.dtype)

    def one_hot(self, rows, columns):
        return np.eye(columns, dtype=self.dtype)[self.labels(rows, columns)]

    def labels(self, rows, columns):
        return self.random.integers(0, columns, rows).astype(np.int32)

    def values_of(self, activation, *shape):
        """Values that the activation can have."""
        z = self.random.standard_normal(shape)
        return np.vectorize(lambda one: float(formulas.activate(activation, 0.3, one)))(z).astype(self.dtype)

    def output(self, *shape):
        return np.full(shape, np.nan, self.dtype)


# In a wide tile and a narrow one, with every kind of padding, stride, dilation and grouping.  Kernels are compiled
# for each activation that they fuse, so that few are taken here.
_CORRELATIONS = {
    "same, 3 channels": (correlation_geometry((2, 6, 5, 3), 3, 5, padding="same"), formulas.RELU),
    "strides and dilation": (
        correlation_geometry((2, 9, 8, 9), (3, 2), 6, (2, 3), ((1, 2), (0, 3)), dilation=(2, 1)),
        formulas.RELU,
    ),
    "many channels": (correlation_geometry((1, 5, 4, 18), (2, 3), 19), formulas.TANH),
    "groups, full": (correlation_geometry((2, 4, 3, 6), 2, 9, padding="full", groups=3), formulas.SOFTPLUS),
    "depthwise": (correlation_geometry((1, 6, 6, 7), 3, 7, 2, ((1, 2), (1, 2)), 2, groups=7), formulas.RELU),
    "one pixel": (correlation_geometry((1, 1, 1, 1), 1, 1), formulas.LINEAR),
    "few channels, strides": (
        correlation_geometry((2, 9, 8, 5), (3, 2), 20, (2, 3), ((1, 2), (0, 3))),
        formulas.RELU,
    ),
    "depthwise, vectors": (correlation_geometry((2, 5, 11, 8), 3, 8, padding="same", groups=8), formulas.TANH),
    "depthwise, strides": (correlation_geometry((1, 8, 13, 4), 5, 4, 2, groups=4), formulas.RELU),
    "long sums": (correlation_geometry((2, 8, 7, 2), 1, 3), formulas.LINEAR),
}


def _correlate2d(make):
    return {
        label: (
            make.normal(*g.input_shape), make.normal(*g.filters_shape), make.normal(g.out_channels),
            g, activation, 0.3, make.output(*g.output_shape),
        )
        for label, (g, activation) in _CORRELATIONS.items()
    }  # fmt: skip


def _correlate2d_gradient_input(make):
    return {
        label: (
            make.normal(*g.output_shape), make.values_of(activation, *g.output_shape), make.normal(*g.filters_shape),
            g, activation, 0.3, make.output(*g.input_shape),
        )
        for label, (g, activation) in _CORRELATIONS.items()
    }  # fmt: skip


# Of the gradient by filters, kernels that fetch numbers one by one in each of their tiles, one that fetches four at a
# time, and the one with a thread for each weight: these take longest to compile.
_FILTER_GRADIENTS = {
    "one by one": _CORRELATIONS["same, 3 channels"],
    "first layer, 7 x 7": (correlation_geometry((1, 9, 9, 3), 7, 64), formulas.RELU),
    "first layer, 62 filters": (correlation_geometry((1, 9, 9, 3), 7, 62), formulas.RELU),
    "first layer, 11 x 11": (correlation_geometry((1, 13, 13, 3), 11, 98), formulas.RELU),
    "four at a time": (correlation_geometry((2, 6, 5, 4), 3, 8, padding="same"), formulas.RELU),
    "depthwise": _CORRELATIONS["depthwise"],
    "depthwise, strides": _CORRELATIONS["depthwise, strides"],
    "groups of few": _CORRELATIONS["groups, full"],
}


def _correlate2d_gradient_filters(make):
    return {
        label: (
            make.normal(*g.input_shape), make.normal(*g.output_shape), make.values_of(activation, *g.output_shape),
            g, activation, 0.3, make.output(*g.filters_shape), make.output(g.out_channels),
        )
        for label, (g, activation) in _FILTER_GRADIENTS.items()
    }  # fmt: skip


def _pooled_correlations():
    """Correlations whose output has room for windows."""
    for label, (g, activation) in _CORRELATIONS.items():
        if label not in ("one pixel", "many channels") and not label.startswith(("depthwise", "few channels")):
            yield label, g, activation, pooling_geometry(g.output_shape, (2, 1) if label == "long sums" else 2)


def _correlate2d_max_pool2d(make):
    return {
        label: (
            make.normal(*g.input_shape), make.normal(*g.filters_shape), make.normal(g.out_channels),
            g, activation, 0.3, pool, make.output(*pool.output_shape), np.full(pool.output_shape, 255, np.uint8),
        )
        for label, g, activation, pool in _pooled_correlations()
    }  # fmt: skip


def _pooled_gradient(make, activation, pool):
    winner = make.random.integers(0, pool.kernel_height * pool.kernel_width, pool.output_shape).astype(np.uint8)
    return make.normal(*pool.output_shape), make.values_of(activation, *pool.output_shape), winner


def _correlate2d_max_pool2d_gradient_input(make):
    return {
        label: (
            *_pooled_gradient(make, activation, pool), make.normal(*g.filters_shape),
            g, activation, 0.3, pool, make.output(*g.input_shape),
        )
        for label, g, activation, pool in _pooled_correlations()
    }  # fmt: skip


def _correlate2d_max_pool2d_gradient_filters(make):
    return {
        label: (
            make.normal(*g.input_shape), *_pooled_gradient(make, activation, pool),
            g, activation, 0.3, pool, make.output(*g.filters_shape), make.output(g.out_channels),
        )
        for label, g, activation, pool in _pooled_correlations()
    }  # fmt: skip


_POOLS = {
    "2 x 2": pooling_geometry((2, 5, 4, 3), 2),
    "overlapping": pooling_geometry((2, 7, 6, 3), (3, 2), (2, 1)),
    "same": pooling_geometry((1, 5, 7, 2), 3, 2, "same"),
    "gaps": pooling_geometry((1, 8, 9, 2), 2, 3),
    "more than 256 cells": pooling_geometry((1, 18, 19, 1), (18, 17), 1),
    "2 x 2, vectors": pooling_geometry((1, 5, 4, 8), 2),
    "overlapping, vectors": pooling_geometry((1, 5, 4, 4), 3, 2, "same"),
}


def _winner_type(geometry):
    return np.uint8 if geometry.kernel_height * geometry.kernel_width <= 256 else np.uint16


def _max_pool2d(make):
    arguments = {}
    for label, g in _POOLS.items():
        x = np.round(make.normal(*g.input_shape), 1)  # with equal cells
        if label == "overlapping":
            x[0, 2, 2, 0] = x[0, 3, 3, 0] = np.nan
        dtype = _winner_type(g)
        winner = np.full(g.output_shape, np.iinfo(dtype).max, dtype)
        arguments[label] = x, g, make.output(*g.output_shape), winner
    return arguments


def _max_pool2d_gradient(make):
    arguments = {}
    for label, g in _POOLS.items():
        # Winners that are real cells: the last of each window's first real row and column.
        i, j = np.arange(g.out_height), np.arange(g.out_width)
        a = np.minimum(g.kernel_height - 1, g.height - 1 - (i * g.stride_height - g.pad_top))
        b = np.minimum(g.kernel_width - 1, g.width - 1 - (j * g.stride_width - g.pad_left))
        cells = (a[:, None] * g.kernel_width + b)[None, :, :, None]
        winner = np.broadcast_to(cells, g.output_shape).astype(_winner_type(g))
        arguments[label] = make.normal(*g.output_shape), winner, g, make.output(*g.input_shape)
    return arguments


def _average_pool2d(make):
    return {label: (make.normal(*g.input_shape), g, make.output(*g.output_shape)) for label, g in _POOLS.items()}


def _average_pool2d_gradient(make):
    return {label: (make.normal(*g.output_shape), g, make.output(*g.input_shape)) for label, g in _POOLS.items()}


def _correlate_image(make):
    rows = np.array([-1, 0, 1, 2, 2], np.int32)
    columns = np.array([3, 0, 1, 2, 3, 4, -1, 0], np.int32)
    picture, kernel = make.normal(3, 5), make.normal(2, 3)
    return {"continued": (picture, rows, columns, 0.5, kernel, make.output(4, 6))}


def _zero_pad2d(make):
    return {
        "uneven": (make.normal(2, 3, 4, 3), 1, 2, make.output(2, 6, 7, 3)),
        "vectors": (make.normal(1, 2, 2, 4), 1, 0, make.output(1, 3, 3, 4)),
    }


def _crop2d(make):
    return {"uneven": (make.normal(2, 6, 7, 3), 1, 2, make.output(2, 3, 4, 3))}


def _activate(make):
    return {
        f"activation {code}": (make.normal(3, 5, 2), code, 0.3, make.output(3, 5, 2))
        for code in range(formulas.GELU + 1)
    }


def _activate_gradient(make):
    return {
        f"activation {code}": (make.normal(3, 5, 2), make.normal(3, 5, 2), code, 0.3, make.output(3, 5, 2))
        for code in range(formulas.GELU + 1)
    }


def _relu(make):
    return {"all options": (make.normal(7, 9), 0.1, 1.25, 0.5, make.output(7, 9))}


def _relu_gradient(make):
    return {"all options": (make.normal(7, 9), make.normal(7, 9), 0.1, 1.25, 0.5, make.output(7, 9))}


def _softmax(make):
    return {
        "many columns": (10 * make.normal(3, 41), make.output(3, 41)),
        "vectors": (make.normal(3, 500), make.output(3, 500)),
        "several chunks": (make.normal(2, 513), make.output(2, 513)),
        "many rows": (make.normal(19, 3), make.output(19, 3)),
    }


def _softmax_gradient(make):
    arguments = {}
    for rows, columns in ((19, 5), (3, 500), (2, 513)):
        y = np.exp(make.normal(rows, columns))
        y /= y.sum(axis=1, keepdims=True)
        arguments[f"{rows} x {columns}"] = y, make.normal(rows, columns), make.output(rows, columns)
    return arguments


_LAYERS = {  # rows, inputs, outputs, activation
    "narrow": (9, 7, 3, formulas.RELU),
    "wide": (5, 19, 35, formulas.TANH),
    "many rows": (37, 5, 2, formulas.LINEAR),
}


def _dense(make):
    return {
        label: (make.normal(m, k), make.normal(k, n), make.normal(n), activation, 0.3, make.output(m, n))
        for label, (m, k, n, activation) in _LAYERS.items()
    }


def _dense_gradient_input(make):
    return {
        label: (
            make.normal(m, n), make.values_of(activation, m, n), make.normal(k, n), activation, 0.3, make.output(m, k),
        )
        for label, (m, k, n, activation) in _LAYERS.items()
    }  # fmt: skip


def _dense_gradient_kernel(make):
    return {
        label: (
            make.normal(m, k), make.normal(m, n), make.values_of(activation, m, n), activation, 0.3,
            make.output(k, n), make.output(n),
        )
        for label, (m, k, n, activation) in _LAYERS.items()
    }  # fmt: skip


# One chunk of rows and several, of numbers and of vectors.
_COLUMNS = ((23, 7), (300, 8))


def _batch_moments(make):
    return {
        f"{rows} x {columns}": (make.normal(rows, columns) + 3, make.output(columns), make.output(columns))
        for rows, columns in _COLUMNS
    }


def _normalize(make):
    arguments = {}
    for rows, columns in _COLUMNS:
        vectors = make.normal(columns), make.positive(columns), make.normal(columns), make.normal(columns)
        arguments[f"{rows} x {columns}"] = make.normal(rows, columns), *vectors, 1e-3, make.output(rows, columns)
    return arguments


def _batch_normalization_gradient(make):
    arguments = {}
    for rows, columns in _COLUMNS:
        x = make.normal(rows, columns) + 3
        arguments[f"{rows} x {columns}"] = (
            x, x.mean(axis=0), x.var(axis=0), make.normal(columns), make.normal(rows, columns), 1e-3,
            make.output(rows, columns), make.output(columns), make.output(columns),
        )  # fmt: skip
    return arguments


def _moving_average(make):
    return {"channels": (make.normal(29), 0.99, make.normal(29))}


def _loss(first, truth):
    def build(make):
        arguments = {}
        for rows, columns in ((11, 10), (2, 37), (1, 1), (1, 500), (1, 513)):
            predictions = getattr(make, first)(rows, columns)
            if first == "probabilities":
                predictions[:, 0] = 0.5  # no row sums to zero
            targets = getattr(make, truth)(rows, columns)
            outputs = make.output(rows), make.output(rows, columns)
            arguments[f"{rows} x {columns}"] = predictions, targets, 0.125, *outputs
        return arguments

    return build


def _sparse_accuracy(make):
    return {
        f"{columns} columns": (np.round(make.normal(33, columns)), make.labels(33, columns), make.output(33))
        for columns in (4, 513)
    }


def _categorical_accuracy(make):
    return {"rows": (np.round(make.normal(33, 4)), make.one_hot(33, 4), make.output(33))}


def _binary_accuracy(make):
    return {"rows": (make.normal(33, 3), np.round(make.positive(33, 3) / 2), 0.25, make.output(33))}


def _dropout(make):
    return {
        "ragged end": (make.normal(3, 6, 3), 0.4, 2**63 + 12345, 2**31 + 1, 77, make.output(3, 6, 3)),
        "nothing dropped": (make.normal(8), 0.0, 1, 2, 3, make.output(8)),
    }


def _regularize(make):
    ends = np.array([9, 9, 40, 61], np.int32)
    l1, l2 = make.positive(4), make.positive(4)
    parameters = make.normal(70)
    parameters[5] = 0
    several_blocks = make.normal(17_000), np.array([17_000], np.int32), make.positive(1), make.positive(1)
    return {
        "regions": (parameters, ends, l1, l2, make.normal(70), make.output(1)),
        "several blocks": (*several_blocks, make.normal(17_000), make.output(1)),
    }


def _sgd(make):
    return {
        "plain": (make.normal(61), 0.1, 0.0, False, 0.0, make.normal(61), make.output(1)),
        "momentum": (make.normal(61), 0.1, 0.9, False, 0.0, make.normal(61), make.normal(61)),
        "Nesterov, decay": (make.normal(61), 0.1, 0.9, True, 0.01, make.normal(61), make.normal(61)),
    }


def _adam(make):
    moments = make.normal(61), make.positive(61)
    return {
        "first step": (
            make.normal(61),
            1e-3,
            0.9,
            0.999,
            1e-7,
            1,
            0.0,
            make.normal(61),
            0 * moments[0],
            0 * moments[1],
        ),
        "later, decay": (make.normal(61), 1e-3, 0.9, 0.999, 1e-7, 1000, 0.01, make.normal(61), *moments),
    }


def _rmsprop(make):
    plain = make.output(1), make.positive(61), make.output(1)
    # A mean whose square is below the mean square, as it is for moments of the same gradients.
    full = 0.1 * make.normal(61), 1 + make.positive(61), make.normal(61)
    return {
        "plain": (make.normal(61), 1e-2, 0.9, 0.0, 1e-7, False, 0.0, make.normal(61), *plain),
        "centred, momentum, decay": (make.normal(61), 1e-2, 0.9, 0.5, 1e-7, True, 0.01, make.normal(61), *full),
    }


def _gather(make):
    order = make.random.permutation(13).astype(np.int32)
    pixels = make.random.integers(0, 256, (13, 6)).astype(np.uint8)
    labels = make.random.integers(0, 10, (13, 1)).astype(np.int32)
    return {
        "floats": (make.normal(13, 5), order, 3, make.output(4, 5)),
        "vectors": (make.normal(13, 8), order, 3, make.output(4, 8)),
        "bytes": (pixels, order, 0, np.full((13, 6), 255, np.uint8)),
        "labels": (labels, order, 9, np.full((4, 1), -1, np.int32)),
    }


def _put(make):
    return {
        "floats": (make.normal(4, 5), 3, make.output(13, 5)),
        "vectors": (make.normal(4, 8), 3, make.output(13, 8)),
    }


def _sum_into(make):
    return {
        "several blocks": (make.normal(17_003), 2, make.output(4)),
        "one block": (make.normal(3), 0, make.output(2)),
    }


_BUILDERS = {
    "correlate2d": _correlate2d,
    "correlate2d_gradient_input": _correlate2d_gradient_input,
    "correlate2d_gradient_filters": _correlate2d_gradient_filters,
    "correlate2d_max_pool2d": _correlate2d_max_pool2d,
    "correlate2d_max_pool2d_gradient_input": _correlate2d_max_pool2d_gradient_input,
    "correlate2d_max_pool2d_gradient_filters": _correlate2d_max_pool2d_gradient_filters,
    "correlate_image": _correlate_image,
    "max_pool2d": _max_pool2d,
    "max_pool2d_gradient": _max_pool2d_gradient,
    "average_pool2d": _average_pool2d,
    "average_pool2d_gradient": _average_pool2d_gradient,
    "zero_pad2d": _zero_pad2d,
    "crop2d": _crop2d,
    "activate": _activate,
    "activate_gradient": _activate_gradient,
    "relu": _relu,
    "relu_gradient": _relu_gradient,
    "softmax": _softmax,
    "softmax_gradient": _softmax_gradient,
    "dense": _dense,
    "dense_gradient_input": _dense_gradient_input,
    "dense_gradient_kernel": _dense_gradient_kernel,
    "batch_moments": _batch_moments,
    "normalize": _normalize,
    "batch_normalization_gradient": _batch_normalization_gradient,
    "moving_average": _moving_average,
    "softmax_cross_entropy": _loss("normal", "one_hot"),
    "sparse_softmax_cross_entropy": _loss("normal", "labels"),
    "cross_entropy": _loss("probabilities", "one_hot"),
    "sparse_cross_entropy": _loss("probabilities", "labels"),
    "mean_squared_error": _loss("normal", "normal"),
    "binary_cross_entropy": _loss("probabilities", "positive"),
    "sigmoid_binary_cross_entropy": _loss("normal", "positive"),
    "sparse_accuracy": _sparse_accuracy,
    "categorical_accuracy": _categorical_accuracy,
    "binary_accuracy": _binary_accuracy,
    "dropout": _dropout,
    "regularize": _regularize,
    "sgd": _sgd,
    "adam": _adam,
    "rmsprop": _rmsprop,
    "gather": _gather,
    "put": _put,
    "sum_into": _sum_into,
}

assert set(_BUILDERS) | set(MEMORY) == set(TABLE), "arguments are wanted for every function of the table"
