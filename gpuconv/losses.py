"""Losses, with Keras's names and defaults: a mean over the batch, ``from_logits=False``.

A loss is called as ``loss(y_true, y_pred)`` and returns a float.  In training, a softmax or
sigmoid at the end of the network is absorbed into the loss that belongs to it: loss and
gradient are then computed from the logits in one kernel, which is exact where the
probabilities have already been rounded to 0 or 1.
"""

import numpy as np

from . import checks
from . import device as devices


class Loss:
    """Base class.  `kernel` names the kernel for predictions, `logits_kernel` the one for logits."""

    kernel = None
    logits_kernel = None
    # The activation that the loss absorbs from the last layer.
    absorbs = None
    # Whether targets are class numbers rather than rows of numbers.
    sparse = False

    def __init__(self, from_logits=False, name=None):
        self.from_logits = checks.boolean("from_logits", from_logits)
        self.name = name or _snake_case(type(self).__name__)

    def prepare(self, name, targets, count, output_shape, dtype):
        """Check targets for `count` samples of `output_shape`; return them as the kernels want them.

        Class numbers become int32 of shape ``(count, ...)``, other targets `dtype` of shape
        ``(count, *output_shape)``.
        """
        targets = checks.numeric_array(name, targets)
        if targets.ndim == 0 or len(targets) != count:
            given = len(targets) if targets.ndim else "a number"
            raise ValueError(f"{name}: expected as many samples as x has ({count}), received {given}")
        if self.sparse:
            return sparse_targets(name, targets, output_shape)
        return dense_targets(name, targets, output_shape, dtype)

    # As for layers.
    repeatable = True

    def compute(self, device, predictions, targets, from_logits, scale, losses, gradient):
        """Fill ``losses`` (one a row) and ``gradient`` (scaled); all but `losses` are matrices."""
        name = self.logits_kernel if from_logits else self.kernel
        getattr(device, name)(predictions, targets, scale, losses, gradient)

    def rows(self, y_true, y_pred):
        """The loss of each row of predictions `y_pred` against targets `y_true`, shape ``y_pred.shape[:-1]``."""
        predictions = checks.numeric_array("y_pred", y_pred)
        if predictions.ndim < 2:
            raise ValueError(f"y_pred: expected shape (samples, outputs), received {predictions.shape}")
        dtype = np.dtype("float64" if predictions.dtype == np.float64 else "float32")
        targets = self.prepare("y_true", y_true, len(predictions), predictions.shape[1:], dtype)
        device = devices.current()
        rows = predictions.size // predictions.shape[-1]
        matrix = device.from_host(predictions.astype(dtype).reshape(rows, -1))
        targets = device.from_host(targets.reshape(-1) if self.sparse else targets.reshape(rows, -1))
        values, gradient = device.empty((rows,), dtype), device.empty(matrix.shape, dtype)
        self.compute(device, matrix, targets, self.from_logits, 1.0, values, gradient)
        return device.to_host(values).reshape(predictions.shape[:-1])

    def __call__(self, y_true, y_pred):
        """The mean loss of predictions `y_pred` against targets `y_true`."""
        return float(self.rows(y_true, y_pred).mean(dtype=np.float64))

    def __repr__(self):
        return f"<loss {self.name!r}>"


def dense_targets(name, targets, output_shape, dtype):
    """Targets that have the shape of the output."""
    targets = np.asarray(targets)
    if targets.ndim == 1 and tuple(output_shape) == (1,):
        targets = targets[:, np.newaxis]
    if targets.shape[1:] != tuple(output_shape):
        raise ValueError(
            f"{name}: expected shape (samples, {', '.join(map(str, output_shape))}), as the output of the model, "
            f"received {targets.shape}; class numbers need utils.to_categorical or a sparse loss"
        )
    return checks.floats(name, targets, dtype)


def sparse_targets(name, targets, output_shape):
    """Class numbers, one for each row of the output."""
    targets = np.asarray(targets)
    classes = output_shape[-1]
    expected = tuple(output_shape[:-1])
    if targets.shape[1:] == (*expected, 1):
        targets = targets[..., 0]
    if targets.shape[1:] != expected:
        raise ValueError(
            f"{name}: expected class numbers of shape {('samples', *expected)} or {('samples', *expected, 1)}, "
            f"received {targets.shape}; one-hot rows need the categorical loss"
        )
    if targets.min() < 0 or targets.max() >= classes:
        wrong = targets.max() if targets.max() >= classes else targets.min()
        raise ValueError(
            f"{name}: expected class numbers in [0, {classes}), one for each output of the model, received {wrong}"
        )
    labels = targets.astype(np.int32)
    if not np.array_equal(labels, targets):
        raise ValueError(f"{name}: expected whole class numbers, received fractions")
    return labels


class CategoricalCrossentropy(Loss):
    """``-sum_j t_j log p_j`` for one-hot (or soft) targets.

    Parameters
    ----------
    from_logits : bool, default False
        Whether the model's output is ``z`` with ``p = softmax(z)`` rather than ``p``.  Rows of
        ``p`` are divided by their sum and clipped to [1e-7, 1 - 1e-7].

    Examples
    --------
    >>> round(CategoricalCrossentropy()([[0, 1]], [[0.5, 0.5]]), 6)
    0.693147
    """

    kernel = "cross_entropy"
    logits_kernel = "softmax_cross_entropy"
    absorbs = "softmax"

    def __init__(self, from_logits=False, name="categorical_crossentropy"):
        super().__init__(from_logits, name)


class SparseCategoricalCrossentropy(Loss):
    """`CategoricalCrossentropy` for targets given as class numbers, shape (samples,) or (samples, 1).

    Examples
    --------
    >>> round(SparseCategoricalCrossentropy(from_logits=True)([1], [[0.0, 0.0]]), 6)
    0.693147
    """

    kernel = "sparse_cross_entropy"
    logits_kernel = "sparse_softmax_cross_entropy"
    absorbs = "softmax"
    sparse = True

    def __init__(self, from_logits=False, name="sparse_categorical_crossentropy"):
        super().__init__(from_logits, name)


class MeanSquaredError(Loss):
    """``mean_j (p_j - t_j)^2``.

    Examples
    --------
    >>> MeanSquaredError()([[0.0, 0.0]], [[1.0, 3.0]])
    5.0
    """

    kernel = "mean_squared_error"

    def __init__(self, name="mean_squared_error"):
        super().__init__(False, name)


class BinaryCrossentropy(Loss):
    """``-mean_j (t_j log p_j + (1 - t_j) log(1 - p_j))`` for targets in [0, 1].

    Parameters
    ----------
    from_logits : bool, default False
        Whether the model's output is ``z`` with ``p = sigmoid(z)`` rather than ``p``, which is
        clipped to [1e-7, 1 - 1e-7].
    """

    kernel = "binary_cross_entropy"
    logits_kernel = "sigmoid_binary_cross_entropy"
    absorbs = "sigmoid"

    def __init__(self, from_logits=False, name="binary_crossentropy"):
        super().__init__(from_logits, name)

    def prepare(self, name, targets, count, output_shape, dtype):
        """As in `Loss.prepare`; targets must lie in [0, 1]."""
        targets = super().prepare(name, targets, count, output_shape, dtype)
        if targets.min() < 0 or targets.max() > 1:
            wrong = targets.max() if targets.max() > 1 else targets.min()
            raise ValueError(f"{name}: expected targets in [0, 1] for {self.name}, received {wrong}")
        return targets


def categorical_crossentropy(y_true, y_pred, from_logits=False):
    """`CategoricalCrossentropy` of each sample.

    Examples
    --------
    >>> categorical_crossentropy([[0, 1], [1, 0]], [[0.5, 0.5], [1.0, 1.0]]).round(6)
    array([0.693147, 0.693147])
    """
    return CategoricalCrossentropy(from_logits).rows(y_true, y_pred)


def sparse_categorical_crossentropy(y_true, y_pred, from_logits=False):
    """`SparseCategoricalCrossentropy` of each sample."""
    return SparseCategoricalCrossentropy(from_logits).rows(y_true, y_pred)


def binary_crossentropy(y_true, y_pred, from_logits=False):
    """`BinaryCrossentropy` of each sample."""
    return BinaryCrossentropy(from_logits).rows(y_true, y_pred)


def mean_squared_error(y_true, y_pred):
    """`MeanSquaredError` of each sample.

    Examples
    --------
    >>> mean_squared_error([[0.0, 0.0], [1.0, 1.0]], [[1.0, 3.0], [1.0, 1.0]])
    array([5., 0.])
    """
    return MeanSquaredError().rows(y_true, y_pred)


mse = mean_squared_error

_FUNCTIONS = {
    categorical_crossentropy: CategoricalCrossentropy,
    sparse_categorical_crossentropy: SparseCategoricalCrossentropy,
    binary_crossentropy: BinaryCrossentropy,
    mean_squared_error: MeanSquaredError,
}


def _snake_case(name):
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


_REGISTRY = {
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "binary_crossentropy": BinaryCrossentropy,
}


def get(identifier):
    """Read a Keras identifier: a name such as ``'mse'``, a function of this module, a class or an instance."""
    if callable(identifier) and identifier in _FUNCTIONS:
        return _FUNCTIONS[identifier]()
    if identifier is Loss:
        raise TypeError("loss: expected a loss of gpuconv.losses, received their base class")
    return checks.lookup("loss", identifier, _REGISTRY, Loss)
