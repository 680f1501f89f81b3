"""Every gradient against differences of the function itself, in float64, for single layers and whole networks.

For a layer the function is ``L = sum(y * upstream)`` with random numbers `upstream`, which arrive at the layer as
``dL/dy``; for a network it is the loss that training reports, penalties included.  Its slope is compared with central
differences along directions of random signs, in which a wrong gradient anywhere shows, and along single elements,
which tell where.
"""

import contextlib
import inspect
import zlib

import numpy as np
import pytest
from single_layer import SingleLayer
from support import tolerance

from gpuconv import layers, losses, models, optimizers, regularizers

EPS = np.finfo(np.float64).eps

# The step at which the errors of a central difference meet: truncation, STEP^2 / 6 times the third derivative, and
# rounding, EPS / STEP times the size of L.
STEP = EPS ** (1 / 3)

# A kink between the points of a difference would make it a mean of two slopes.  So what decides between slopes, the
# signs at ReLUs and the winners of pools, has to be the same this many steps away on both sides.
MARGIN = 10

DIRECTIONS = 3
ELEMENTS = 5


class KinkError(Exception):
    """There is a kink too near, whatever the direction: other numbers are needed."""


def allowed_error(size, terms):
    """How far a `slope_along` may be off, where L sums up `terms` numbers whose absolute values sum up to `size`.

    Every value of L is off by ``error = support.tolerance * size`` at most, so the difference over 2 STEP by
    ``error / STEP``, that over 4 STEP by half of it, and the slope by (4 + 1/2) / 3 of it.  The truncation that is
    left, of the order of STEP^4 = 1e-21, is nothing beside it.
    """
    return 1.5 * tolerance(np.float64, terms) * size / STEP


def slope_along(function, point, direction):
    """The derivative along a direction, from four values.

    Truncation changes a central difference by c STEP^2, and one over twice the distance by 4 c STEP^2: in a third of
    four times the one less the other it cancels (Richardson, 1911).
    """
    near, far = (
        (function(point + distance * direction) - function(point - distance * direction)) / (2 * distance)
        for distance in (STEP, 2 * STEP)
    )
    return (4 * near - far) / 3


def random_stream(name):
    """Random numbers of a case, whatever other cases there are."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def away_from_kinks(check, name):
    """Run ``check(name, random)`` with numbers that have no kink near: draw until there are some."""
    for attempt in range(10):
        with contextlib.suppress(KinkError):
            return check(name, random_stream(f"{name} {attempt}"))
    raise AssertionError(f"{name}: always a kink")


def random_signs(random, shape):
    """A direction in which every element moves."""
    return random.choice([-1.0, 1.0], shape)


def one_element(random, shape):
    """A direction in which one element moves."""
    direction = np.zeros(shape)
    direction.flat[random.integers(direction.size)] = 1.0
    return direction


def check_slopes(function, decisions, point, gradient, random, error, what):
    """Compare the gradient of a function at a point with its differences.

    Parameters
    ----------
    function : callable
        Of an array like `point`.
    decisions : callable
        What the last call of `function` decided where it has kinks, as a list of new arrays.
    point, gradient : ndarray
    random : numpy.random.Generator
    error : float
        What the slope from differences may be off.
    what : str

    Raises
    ------
    KinkError
        If there is no direction without a kink.
    """
    assert gradient.shape == point.shape
    function(point)
    decided = decisions()

    def meets_kink(direction):
        for distance in (-MARGIN * STEP, MARGIN * STEP):
            function(point + distance * direction)
            if any(not np.array_equal(before, after) for before, after in zip(decided, decisions(), strict=True)):
                return True
        return False

    for draw in [random_signs] * DIRECTIONS + [one_element] * ELEMENTS:
        drawn = (draw(random, point.shape) for _ in range(30))
        direction = next((direction for direction in drawn if not meets_kink(direction)), None)
        if direction is None:
            raise KinkError(what)
        expected = slope_along(function, point, direction)
        slope = (gradient * direction).sum()
        assert abs(slope - expected) <= error, (
            f"{what}: the gradient says {slope}, differences {expected}; "
            f"off by {abs(slope - expected):.2g}, allowed {error:.2g}"
        )


def decisions_of(layer, state, device):
    """What a layer decided in its last call: arrays that are constant where it has no kink."""
    winners = [device.to_host(state.winner)] if hasattr(state, "winner") else []
    activation = getattr(layer, "activation", None)
    if activation is None:
        return winners
    if hasattr(activation, "threshold"):
        z = device.to_host(state.z)
        return [z > activation.threshold, z >= activation.max_value]
    if activation.name in ("relu", "leaky_relu", "elu"):
        return [*winners, device.to_host(state.y) > 0]
    return winners


# ---------------------------------------------------------------------------------------------------
# single layers

PICTURES = (2, 6, 7, 3)
ROWS = (5, 7)
ACTIVATIONS = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "elu", "softplus", "gelu", "softmax")

# Class, settings, shape of the input.
CASES = {
    "conv": (layers.Conv2D, {"filters": 4, "kernel_size": 3}, PICTURES),
    "conv one by one": (layers.Conv2D, {"filters": 4, "kernel_size": 1}, PICTURES),
    "conv strides": (layers.Conv2D, {"filters": 4, "kernel_size": (3, 2), "strides": (2, 3)}, PICTURES),
    "conv strides beyond the kernel": (layers.Conv2D, {"filters": 2, "kernel_size": 2, "strides": 3}, PICTURES),
    "conv dilation": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "dilation_rate": (2, 1)}, PICTURES),
    "conv same": (layers.Conv2D, {"filters": 4, "kernel_size": (3, 4), "padding": "same"}, PICTURES),
    "conv same strides": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, PICTURES),
    "conv full": (layers.Conv2D, {"filters": 2, "kernel_size": (2, 3), "padding": "full"}, PICTURES),
    "conv uneven padding": (layers.Conv2D, {"filters": 2, "kernel_size": 3, "padding": ((0, 2), (1, 0))}, PICTURES),
    "conv uneven padding dilation strides": (
        layers.Conv2D,
        {"filters": 2, "kernel_size": 2, "padding": ((2, 1), (0, 3)), "dilation_rate": 2, "strides": (1, 2)},
        PICTURES,
    ),
    "conv groups": (layers.Conv2D, {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same"}, (2, 5, 4, 4)),
    "conv groups of one": (layers.Conv2D, {"filters": 6, "kernel_size": 2, "groups": 3, "strides": 2}, PICTURES),
    "conv no bias": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "use_bias": False}, PICTURES),
    "depthwise": (layers.DepthwiseConv2D, {"kernel_size": 3}, PICTURES),
    "depthwise multiplier": (
        layers.DepthwiseConv2D,
        {"kernel_size": (3, 2), "depth_multiplier": 2, "strides": 2, "padding": "same", "activation": "tanh"},
        PICTURES,
    ),
    "depthwise dilation no bias": (
        layers.DepthwiseConv2D,
        {"kernel_size": 2, "dilation_rate": (1, 2), "use_bias": False, "depth_multiplier": 3, "activation": "gelu"},
        PICTURES,
    ),
    "dense": (layers.Dense, {"units": 4}, ROWS),
    "dense no bias": (layers.Dense, {"units": 4, "use_bias": False}, ROWS),
    "max pool": (layers.MaxPooling2D, {}, PICTURES),
    "max pool overlapping": (layers.MaxPooling2D, {"pool_size": 3, "strides": (1, 2)}, PICTURES),
    "max pool same": (layers.MaxPooling2D, {"pool_size": (2, 3), "strides": 2, "padding": "same"}, PICTURES),
    "max pool apart": (layers.MaxPooling2D, {"pool_size": 2, "strides": 3}, PICTURES),
    "average pool": (layers.AveragePooling2D, {}, PICTURES),
    "average pool overlapping": (layers.AveragePooling2D, {"pool_size": 3, "strides": (1, 2)}, PICTURES),
    "average pool same": (layers.AveragePooling2D, {"pool_size": (2, 3), "strides": 2, "padding": "same"}, PICTURES),
    "global average pool": (layers.GlobalAveragePooling2D, {}, PICTURES),
    "global average pool keepdims": (layers.GlobalAveragePooling2D, {"keepdims": True}, PICTURES),
    "zero padding": (layers.ZeroPadding2D, {}, PICTURES),
    "zero padding uneven": (layers.ZeroPadding2D, {"padding": ((1, 2), (0, 3))}, PICTURES),
    "flatten": (layers.Flatten, {}, PICTURES),
    "dropout": (layers.Dropout, {"rate": 0.4, "seed": 1}, ROWS),
    "dropout pictures": (layers.Dropout, {"rate": 0.7, "seed": 2**63}, PICTURES),
    "dropout of nothing": (layers.Dropout, {"rate": 0.0}, ROWS),
    "relu": (layers.ReLU, {}, ROWS),
    "relu all": (layers.ReLU, {"max_value": 1.0, "negative_slope": 0.125, "threshold": 0.5}, PICTURES),
    "leaky relu": (layers.LeakyReLU, {"negative_slope": 0.25}, PICTURES),
    "softmax": (layers.Softmax, {}, ROWS),
    "softmax pictures": (layers.Softmax, {}, PICTURES),
    "batch normalization": (layers.BatchNormalization, {}, ROWS),
    "batch normalization pictures": (layers.BatchNormalization, {"momentum": 0.5, "epsilon": 1e-5}, PICTURES),
    "batch normalization no scale": (layers.BatchNormalization, {"scale": False}, PICTURES),
    "batch normalization no center": (layers.BatchNormalization, {"center": False}, ROWS),
    "batch normalization neither": (layers.BatchNormalization, {"center": False, "scale": False}, PICTURES),
}
for _name in ACTIVATIONS:
    CASES[f"conv {_name}"] = (layers.Conv2D, {"filters": 4, "kernel_size": 3, "activation": _name}, PICTURES)
    CASES[f"dense {_name}"] = (layers.Dense, {"units": 4, "activation": _name}, ROWS)
    CASES[f"activation {_name}"] = (layers.Activation, {"activation": _name}, PICTURES)


def test_every_layer_has_its_cases():
    public = {
        kind
        for name, kind in inspect.getmembers(layers, inspect.isclass)
        if issubclass(kind, layers.Layer) and not name.startswith("_")
    }
    bases = {layers.Layer, layers.ActivatedLayer, layers.Input}
    assert {kind for kind, _, _ in CASES.values()} == public - bases


@pytest.mark.parametrize("name", CASES)
def test_layer(name):
    away_from_kinks(check_layer, name)


def check_layer(name, random):
    """Compare all gradients of a layer with differences."""
    kind, settings, shape = CASES[name]
    layer = kind(**settings)
    single = SingleLayer(layer, shape)
    weights = {variable.name: random.uniform(-1, 1, variable.shape) for variable in layer.variables}
    layer.set_weights(list(weights.values()))
    x = random.uniform(-2, 2, shape)
    y = single.forward(x)
    upstream = random.uniform(-1, 1, y.shape)
    gradients = single.backward(upstream)
    assert gradients.keys() == {"input"} | {v.name for v in layer.variables if v.trainable}

    by_name = {variable.name: variable for variable in layer.variables}
    terms = x[0].size + y.size  # an output sums up part of a sample, L all outputs
    error = allowed_error(np.abs(y * upstream).sum(), terms)
    for part, gradient in gradients.items():

        def function(point, part=part):
            if part == "input":
                return float((single.forward(point) * upstream).sum())
            by_name[part].assign(point)
            return float((single.forward(x) * upstream).sum())

        point = x if part == "input" else weights[part]
        check_slopes(
            function,
            lambda: decisions_of(layer, single.state, single.device),
            point,
            gradient,
            random,
            error,
            f"{name} {part}",
        )
        if part != "input":
            by_name[part].assign(point)


def test_dropout_repeats_the_mask_of_a_step():
    layer = layers.Dropout(0.4, seed=3)
    single = SingleLayer(layer, (50, 20))
    x = np.ones((50, 20))
    first, again = single.forward(x), single.forward(x)  # `forward` starts anew each time
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(single.backward(x)["input"], first)
    second = single.device.to_host(layer.forward(single.device.from_host(x), single.state, True))
    assert layer.calls == 2
    assert (second != first).any()


# ---------------------------------------------------------------------------------------------------
# whole networks


def digits_network():
    """The digits network of the lecture: its penalty is part of loss and gradient."""
    penalty = regularizers.L2(0.01)
    return [
        layers.Conv2D(10, (3, 3), activation="relu", kernel_regularizer=penalty),
        layers.MaxPooling2D((2, 2)),
        layers.Flatten(),
        layers.Dense(50, activation="relu", kernel_regularizer=penalty),
        layers.Dense(10, activation="softmax", kernel_regularizer=penalty),
    ]


def deep_network():
    """Padding first, which has nothing to learn; two correlations, batch normalization and two dropouts."""
    return [
        layers.ZeroPadding2D(1),
        layers.Conv2D(4, 3, activation="relu", use_bias=False, kernel_regularizer=regularizers.L1L2(0.01, 0.02)),
        layers.BatchNormalization(gamma_regularizer=regularizers.L1(0.03)),
        layers.Dropout(0.3, seed=1),
        layers.Conv2D(5, 3, strides=2, activation="elu", bias_regularizer=regularizers.L2(0.05)),
        layers.BatchNormalization(),
        layers.Activation("gelu"),
        layers.AveragePooling2D(2, strides=1),
        layers.Flatten(),
        layers.Dropout(0.5, seed=1),
        layers.Dense(3, activation="softmax"),
    ]


def separable_network():
    """Batch normalization first, depthwise and pointwise correlations, no dense layer."""
    return [
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="tanh"),
        layers.Conv2D(4, 1),
        layers.LeakyReLU(0.1),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.Conv2D(3, 2, groups=1, activation="softplus"),
        layers.GlobalAveragePooling2D(),
        layers.Softmax(),
    ]


def dense_network(activation, units=4):
    """Two dense layers, the second with the activation that meets the loss."""

    def build():
        return [layers.Dense(6, activation="tanh"), layers.Dense(units, activation=activation)]

    return build


def pictures_network():
    """The output is a picture: every place is a row of the loss."""
    return [layers.Conv2D(3, 3, padding="same", activation="tanh"), layers.Conv2D(2, 1, activation="softmax")]


CATEGORICAL = losses.CategoricalCrossentropy
SPARSE = losses.SparseCategoricalCrossentropy
BINARY = losses.BinaryCrossentropy

# Layers, loss, shape of the input with its batch.
NETWORKS = {
    "digits": (digits_network, CATEGORICAL(), (6, 8, 8, 1)),
    "deep": (deep_network, SPARSE(), (5, 7, 8, 2)),
    "separable": (separable_network, CATEGORICAL(), (4, 6, 7, 2)),
    "pictures": (pictures_network, SPARSE(), (3, 4, 3, 2)),
    "dense softmax": (dense_network("softmax"), CATEGORICAL(), ROWS),
    "dense logits": (dense_network(None), CATEGORICAL(from_logits=True), ROWS),
    "dense softmax as logits": (dense_network("softmax"), CATEGORICAL(from_logits=True), ROWS),
    "dense sigmoid, not normalised": (dense_network("sigmoid"), CATEGORICAL(), ROWS),
    "dense sparse softmax": (dense_network("softmax"), SPARSE(), ROWS),
    "dense sparse logits": (dense_network(None), SPARSE(from_logits=True), ROWS),
    "dense sparse sigmoid, not normalised": (dense_network("sigmoid"), SPARSE(), ROWS),
    "dense mean squared error": (dense_network(None), losses.MeanSquaredError(), ROWS),
    "dense softmax mean squared error": (dense_network("softmax"), losses.MeanSquaredError(), ROWS),
    "dense binary sigmoid": (dense_network("sigmoid"), BINARY(), ROWS),
    "dense binary one output": (dense_network("sigmoid", 1), BINARY(), ROWS),
    "dense binary logits": (dense_network(None), BINARY(from_logits=True), ROWS),
    "dense binary softmax": (dense_network("softmax"), BINARY(), ROWS),
}


class Trained:
    """A network with weights and a batch of its own; a step of length 1 tells loss and gradient.

    Parameters
    ----------
    name : str
        A key of `NETWORKS`.
    random : numpy.random.Generator
    batch : int, optional
        Default: that of `NETWORKS`.
    """

    def __init__(self, name, random, batch=None):
        build, loss, shape = NETWORKS[name]
        self.model = models.Sequential([layers.Input(shape[1:]), *build()], dtype="float64")
        self.model.compile(optimizers.SGD(1.0), loss)
        self.weights = [self._initial(variable, random) for variable in self.model.variables]
        batch = batch or shape[0]
        self.x = random.uniform(-1, 1, (batch, *shape[1:]))
        output = (batch, *self.model.output_shape[1:])
        if loss.sparse:
            self.targets = random.integers(0, output[-1], output[:-1])
        elif loss.name == "categorical_crossentropy":
            self.targets = np.eye(output[-1])[random.integers(0, output[-1], batch)]
        else:
            self.targets = random.uniform(0, 1, output)

    @staticmethod
    def _initial(variable, random):
        """Uniform, as large as Glorot's; far enough from zero for the kink of an L1 penalty."""
        limit = np.sqrt(3 / max(1, np.prod(variable.shape[:-1])))
        sign = 1 if variable.name in ("gamma", "moving_variance") else random.choice([-1, 1], variable.shape)
        return sign * random.uniform(0.05 * limit, limit, variable.shape)

    def start(self, weights, number=0):
        """Set the weights, and for dropout the number of the step to come."""
        self.model.set_weights(weights)
        for layer in self.model.layers:
            if isinstance(layer, layers.Dropout):
                layer.calls = number

    def step(self, weights, rows=slice(None), number=0):
        """Take a step of training from the given weights; return the loss before it, as training does."""
        self.start(weights, number)
        return self.model.train_on_batch(self.x[rows], self.targets[rows])

    def decisions(self):
        """What all layers decided in the last step."""
        states = self.model._states(len(self.x), training=True)
        pairs = zip(self.model._parts, states.parts, strict=True)
        return [decision for part, state in pairs for decision in decisions_of(part, state, self.model.device)]


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name):
    away_from_kinks(check_network, name)


def check_network(name, random):
    """Compare the gradient of a network's loss by every weight with differences."""
    trained = Trained(name, random)
    loss = trained.step(trained.weights)
    # A step of length 1 without momentum: the gradient is what the weights have lost.
    gradients = [before - after for before, after in zip(trained.weights, trained.model.get_weights(), strict=True)]
    # Rounding errors come from every layer and from the mean over the batch.  Logits are of size 1, so is the loss.
    sums = [np.prod(variable.shape[:-1]) for variable in trained.model.variables]
    terms = sum(sums) + len(trained.x)
    error = allowed_error(abs(loss) + 1, terms)
    for number, variable in enumerate(trained.model.variables):
        if not variable.trainable:
            continue

        def function(point, number=number):
            weights = list(trained.weights)
            weights[number] = point
            return trained.step(weights)

        what = f"{name}, weight {number}, {variable.name}"
        check_slopes(function, trained.decisions, trained.weights[number], gradients[number], random, error, what)


# ---------------------------------------------------------------------------------------------------
# buffers


def spoil(model):
    """Fill what the model may use again with numbers that no result may show: NaN, and 1 among integers."""
    gradients = [variable.gradient for variable in model.trainable_variables]
    for buffer in [*model._arrays.values(), *gradients]:
        garbage = np.full(buffer.shape, np.nan if np.dtype(buffer.dtype).kind == "f" else 1, buffer.dtype)
        model.device.copy(model.device.from_host(garbage), buffer)


def assert_same_weights(first, second):
    """Bit by bit."""
    for one, other in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_depends_on_no_earlier_batch(name, spoiled):
    used, new = (Trained(name, random_stream(name), batch=9) for _ in range(2))
    rows = slice(2, 6)
    used.step(used.weights)
    if spoiled:
        spoil(used.model)
    assert used.step(used.weights, rows) == new.step(new.weights, rows)
    assert_same_weights(used, new)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_smaller_last_batch_is_a_batch_of_its_size(name):
    whole, large, small = (Trained(name, random_stream(name), batch=9) for _ in range(3))
    whole.start(whole.weights)
    history = whole.model.fit(whole.x, whole.targets, batch_size=5, shuffle=False, verbose=0).history
    before = large.step(large.weights, slice(0, 5))
    after = small.step(large.model.get_weights(), slice(5, 9), number=1)
    assert_same_weights(whole, small)
    # A mean over samples, not over batches.
    assert history["loss"] == [pytest.approx((5 * before + 4 * after) / 9, rel=10 * EPS, abs=0)]
