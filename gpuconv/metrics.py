"""Metrics, with Keras's names: one value a row, averaged over the samples seen."""

from . import checks


class Metric:
    """Base class.  `kernel` names the kernel that fills one value a row."""

    kernel = None
    sparse = False

    # Whether the order of each row's predictions is all that counts: logits tell it too, up to rounding, of finite
    # numbers, and need no softmax.
    by_order = False

    def __init__(self, name):
        self.name = name

    # As for layers.
    repeatable = True

    def compute(self, device, predictions, targets, values):
        """Fill ``values`` (one a row) for matrices of predictions and targets (or class numbers)."""
        getattr(device, self.kernel)(predictions, targets, values)

    def __repr__(self):
        return f"<metric {self.name!r}>"


class CategoricalAccuracy(Metric):
    """The share of samples whose largest prediction stands at the largest target (one-hot)."""

    kernel = "categorical_accuracy"
    by_order = True

    def __init__(self, name="categorical_accuracy"):
        super().__init__(name)


class SparseCategoricalAccuracy(Metric):
    """The share of samples whose largest prediction stands at the class number."""

    kernel = "sparse_accuracy"
    sparse = True
    by_order = True

    def __init__(self, name="sparse_categorical_accuracy"):
        super().__init__(name)


class BinaryAccuracy(Metric):
    """The share of outputs on the same side of `threshold` as their target."""

    def __init__(self, name="binary_accuracy", threshold=0.5):
        super().__init__(name)
        self.threshold = checks.real("threshold", threshold)

    def compute(self, device, predictions, targets, values):
        device.binary_accuracy(predictions, targets, self.threshold, values)


class MeanSquaredError(Metric):
    """``mean_j (p_j - t_j)^2``."""

    def __init__(self, name="mean_squared_error"):
        super().__init__(name)
        self._gradient = self._kind = None

    def compute(self, device, predictions, targets, values):
        # The kernel is the loss's, which also writes a gradient; nobody reads this one.
        kind = type(predictions), predictions.shape[1], predictions.dtype
        if self._gradient is None or self._kind != kind or self._gradient.shape[0] < predictions.shape[0]:
            self._gradient, self._kind = device.empty(predictions.shape, predictions.dtype), kind
        device.mean_squared_error(predictions, targets, 1.0, values, self._gradient[: predictions.shape[0]])


class Accuracy(Metric):
    """What the strings ``'accuracy'`` and ``'acc'`` stand for until loss and output are known."""

    def __init__(self, name="accuracy"):
        super().__init__(name)

    def resolve(self, loss, output_shape):
        """The accuracy that fits: sparse by the loss, binary for one output, else categorical."""
        if loss.sparse:
            return SparseCategoricalAccuracy(self.name)
        if output_shape[-1] == 1:
            return BinaryAccuracy(self.name)
        return CategoricalAccuracy(self.name)


_REGISTRY = {
    "accuracy": Accuracy,
    "acc": lambda: Accuracy("acc"),
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "binary_accuracy": BinaryAccuracy,
    "mean_squared_error": MeanSquaredError,
    "mse": lambda: MeanSquaredError("mse"),
}


def get(identifier):
    """Read a Keras identifier: a name such as ``'accuracy'``, a class or an instance."""
    return checks.lookup("metrics", identifier, _REGISTRY, Metric)


def resolve(metric, loss, output_shape):
    """The metric that fits loss and output, refused where the targets would not."""
    if isinstance(metric, Accuracy):
        return metric.resolve(loss, output_shape)
    if metric.sparse != loss.sparse:
        form = "class numbers" if metric.sparse else "one row of targets a sample"
        given = "class numbers" if loss.sparse else "rows of targets"
        raise ValueError(
            f"metrics: expected a metric for {given}, as {loss.name} takes, received {metric.name}, which takes {form}"
        )
    return metric
