"""Whatever cannot be used is refused before any work, in one form: ``name: expected ..., received ...``.

Each table maps what is wrong to the value, or to the argument that the message must name and the call
that must raise.  Calls on models must leave weights, layers, optimiser and history as they were.
"""

import re
from contextlib import contextmanager

import numpy as np
import pytest
from gpuconv.kernels import TABLE

import gpuconv
from gpuconv import (
    activations,
    callbacks,
    checks,
    device,
    functional,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
    utils,
)

SAMPLES, CLASSES = 6, 3
X = np.random.RandomState(0).uniform(0, 1, (SAMPLES, 6, 6, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
ONE_HOT = np.eye(CLASSES)[LABELS]
TARGETS = {
    "categorical_crossentropy": ONE_HOT,
    "sparse_categorical_crossentropy": LABELS,
    "binary_crossentropy": ONE_HOT,
    "mean_squared_error": ONE_HOT,
}
RAGGED = [[1.0], [1.0, 2.0]]
NOT_COUNTS = {"zero": 0, "negative": -1, "True": True, "float": 2.0, "string": "2", "list": [2]}
NOT_NUMBERS = {"NaN": np.nan, "infinity": np.inf, "True": True, "string": "0.1", "complex": 1j}


@contextmanager
def refused(name):
    """Assert that the block raises, and that the message names `name`, what was expected and what came."""
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        yield
    message = str(caught.value)
    assert re.match(rf"{re.escape(name)}: expected .+ received .+", message, re.DOTALL), message


def table(rows):
    """Parameters of a test, ``(argument, call)``, from a dictionary of them."""
    return [pytest.param(*row, id=key) for key, row in rows.items()]


def each(values, name, call, prefix=""):
    """Parameters of a test, ``(argument, call)``: `call` with each of `values`, for the argument `name`."""
    return [
        pytest.param(name, lambda *given, value=value: call(*given, value), id=f"{prefix}{name}-{fault}")
        for fault, value in values.items()
    ]


def replaced(array, value, index=2):
    """A float64 copy with one number replaced, late enough that the first sample is in order."""
    array = array.astype(np.float64)
    array.reshape(-1)[-index] = value
    return array


class Idle:
    """A device that has memory and refuses to compute."""

    empty = staticmethod(np.empty)
    zeros = staticmethod(np.zeros)
    from_host = staticmethod(np.asarray)

    def __getattr__(self, name):
        assert name not in TABLE, f"{name} was called before the refusal"
        raise AttributeError(name)


@pytest.fixture
def idle(monkeypatch):
    """From here on a kernel that is called fails the test."""
    monkeypatch.setattr(device, "module", lambda name: Idle())


def trained(loss="categorical_crossentropy", **settings):
    """A small model that has history, moments and steps behind it."""
    model = models.Sequential(
        [
            layers.Conv2D(2, 3, activation="relu", kernel_regularizer="l2", input_shape=X.shape[1:]),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="sigmoid" if loss == "binary_crossentropy" else "softmax"),
        ],
        **settings,
    )
    model.compile(optimizers.SGD(0.01, momentum=0.5), loss, metrics=["accuracy"])
    model.fit(X, TARGETS[loss], batch_size=4, epochs=2, verbose=0)
    return model


def snapshot(model):
    """Everything that a refused call must leave alone."""
    weights = [weight.tobytes() for weight in model.get_weights()]
    optimizer = model.optimizer and (id(model.optimizer), model.optimizer.iterations, model.optimizer.learning_rate)
    history = model.history and (id(model.history), list(model.history.epoch), str(model.history.history))
    structure = [id(layer) for layer in model.layers], [layer.name for layer in model.layers], model.built
    return weights, structure, optimizer, id(model.loss), [id(m) for m in model.metrics], history, model.input_shape


@contextmanager
def untouched(model, name):
    """Assert that the block is refused and changes nothing."""
    before = snapshot(model)
    with refused(name):
        yield
    assert snapshot(model) == before


# ------------------------------------------------------------------ data


WAYS_IN = {
    "fit": ("x", lambda model, x, y: model.fit(x, y, verbose=0)),
    "validation_data": ("validation_data x", lambda model, x, y: model.fit(X, y, verbose=0, validation_data=(x, y))),
    "train_on_batch": ("x", lambda model, x, y: model.train_on_batch(x, y)),
    "evaluate": ("x", lambda model, x, y: model.evaluate(x, y, verbose=0)),
    "predict": ("x", lambda model, x, y: model.predict(x, verbose=0)),
    "call": ("x", lambda model, x, y: model(x)),
}
WAYS_IN_FOR_TARGETS = {
    "fit": ("y", lambda model, y: model.fit(X, y, verbose=0)),
    "validation_data": (
        "validation_data y",
        lambda model, y: model.fit(X, TARGETS[model.loss.name], verbose=0, validation_data=(X, y)),
    ),
    "train_on_batch": ("y", lambda model, y: model.train_on_batch(X, y)),
    "evaluate": ("y", lambda model, y: model.evaluate(X, y, verbose=0)),
}
UNUSABLE_X = {
    "no axis of channels": X[..., 0],
    "flat": X.reshape(SAMPLES, -1),
    "one picture": X[0],
    "one axis too many": X[..., np.newaxis],
    "a number": 3.0,
    "None": None,
    "two channels": np.repeat(X, 2, axis=3),
    "smaller": X[:, 1:],
    "strings": X.astype(str),
    "objects": X.astype(object),
    "complex": X.astype(complex),
    "dates": X.astype(int).astype("datetime64[s]"),
    "ragged": RAGGED,
    "no samples": X[:0],
    "no rows": X[:, :0],
    "NaN": replaced(X, np.nan),
    "infinity": replaced(X, -np.inf),
    "infinite in float32": replaced(X, 1e300),
}
UNUSABLE_Y = {
    "strings": LABELS.astype(str),
    "objects": LABELS.astype(object),
    "complex": LABELS.astype(complex),
    "ragged": RAGGED,
    "None": None,
    "a number": 1,
    "no samples": LABELS[:0],
    "too few": LABELS[:-1],
    "NaN": replaced(LABELS, np.nan),
    "infinity": replaced(LABELS, np.inf),
}
UNUSABLE_ROWS = {
    "class numbers": LABELS,
    "a column of class numbers": LABELS[:, np.newaxis],
    "too few classes": ONE_HOT[:, :-1],
    "too many classes": np.eye(CLASSES + 1)[LABELS],
    "too many samples": np.concatenate([ONE_HOT, ONE_HOT]),
    "NaN in a row": replaced(ONE_HOT, np.nan),
    "infinite in float32": replaced(ONE_HOT, 1e300),
}
UNUSABLE_CLASSES = {
    "one-hot": ONE_HOT,
    "negative": replaced(LABELS, -1),
    "too large": replaced(LABELS, CLASSES),
    "far too large": replaced(LABELS, 1e30),
    "too large for int64": np.full(SAMPLES, 2**64 - 1, np.uint64),
    "fractions": replaced(LABELS, 0.5),
    "fractions in a column": replaced(LABELS[:, np.newaxis], 0.5),
}


@pytest.mark.parametrize("x", [pytest.param(x, id=fault) for fault, x in UNUSABLE_X.items()])
@pytest.mark.parametrize(("name", "call"), table(WAYS_IN))
def test_samples(name, call, x, request):
    model = trained()
    request.getfixturevalue("idle")
    with untouched(model, name):
        call(model, x, ONE_HOT)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        pytest.param(loss, y, id=f"{loss}-{fault}")
        for loss, faults in {
            "categorical_crossentropy": {**UNUSABLE_Y, **UNUSABLE_ROWS},
            "sparse_categorical_crossentropy": {**UNUSABLE_Y, **UNUSABLE_CLASSES},
            "mean_squared_error": {**UNUSABLE_ROWS, "a number": 1},
            "binary_crossentropy": {
                **UNUSABLE_ROWS,
                "above 1": replaced(ONE_HOT, 1.5),
                "below 0": replaced(ONE_HOT, -1),
            },
        }.items()
        for fault, y in faults.items()
    ],
)
@pytest.mark.parametrize(("name", "call"), table(WAYS_IN_FOR_TARGETS))
def test_targets(name, call, loss, y, request):
    model = trained(loss)
    request.getfixturevalue("idle")
    with untouched(model, name):
        call(model, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_numbers_are_looked_at(dtype):
    largest = np.finfo(dtype).max
    fine = np.full((3, 2), largest, dtype)
    assert checks.numeric_array("x", fine) is fine  # although their sum is infinite
    wrongs = [(index, wrong) for wrong in (np.nan, np.inf, -np.inf) for index in np.ndindex(fine.shape)]
    for index, wrong in wrongs:
        given = fine.copy()
        given[index] = wrong
        with pytest.raises(
            ValueError, match=re.escape(f"x: expected finite numbers, received {wrong} at index {index}")
        ):
            checks.numeric_array("x", given)
    # The sum of these is no number.
    with pytest.raises(ValueError, match=re.escape("x: expected finite numbers, received inf at index (0, 0)")):
        checks.numeric_array("x", np.array([[np.inf, -np.inf]], dtype))


def test_differing_numbers_of_samples():
    model = trained()
    with untouched(model, "y"):
        model.fit(X[:-1], ONE_HOT, verbose=0)
    with untouched(model, "validation_data y"):
        model.fit(X, ONE_HOT, validation_data=(X[:2], ONE_HOT[:3]), verbose=0)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        pytest.param(X, ONE_HOT[:-1], "y", id="targets"),
        pytest.param(X[..., 0], ONE_HOT, "Conv2D", id="rank"),
        pytest.param(X[:, :2], ONE_HOT, "kernel_size", id="smaller than the window"),
        pytest.param(X[:, :3, :3], ONE_HOT, "pool_size", id="too small for the second layer"),
    ],
)
def test_a_model_that_knows_no_shape_yet_does_not_take_one_from_refused_data(x, y, name):
    model = models.Sequential(
        [layers.Conv2D(2, 3), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(CLASSES, "softmax")]
    )
    model.compile("sgd", "categorical_crossentropy")
    with untouched(model, name):
        model.fit(x, y, verbose=0)
    assert not any(layer.built for layer in model.layers)
    model.fit(X[:, 1:], ONE_HOT, verbose=0)
    assert model.input_shape == (None, 5, 6, 1)


def test_refused_validation_data_do_not_build():
    model = models.Sequential([layers.Flatten(), layers.Dense(CLASSES, "softmax")])
    model.compile("sgd", "categorical_crossentropy")
    with untouched(model, "validation_data x"):
        model.fit(X, ONE_HOT, validation_data=(X[:, 1:], ONE_HOT), verbose=0)


# ------------------------------------------------------------------ settings of the methods


def fit(name):
    """A call of fit with one setting."""
    return lambda model, value: model.fit(X, ONE_HOT, **{"verbose": 0, name: value})


SETTINGS = [
    *each(NOT_COUNTS, "batch_size", fit("batch_size")),
    *each(NOT_COUNTS, "epochs", fit("epochs")),
    *each(NOT_COUNTS, "validation_batch_size", fit("validation_batch_size")),
    *each({"negative": -1, "True": True, "float": 1.0}, "initial_epoch", fit("initial_epoch")),
    *each({**NOT_NUMBERS, "negative": -0.1, "all": 1.0}, "validation_split", fit("validation_split")),
    *each({"none left": 0.99, "none kept": 1e-20}, "validation_split", fit("validation_split")),
    *each(
        {"a number": 5, "x alone": (X,), "an array": X, "three": (X, ONE_HOT, ONE_HOT)},
        "validation_data",
        fit("validation_data"),
    ),
    *each({"word": "loud", "three": 3, "negative": -1, "None": None}, "verbose", fit("verbose")),
    *each({"number": 5, "class": callbacks.History, "function in a list": [print]}, "callbacks", fit("callbacks")),
    *each({"word": "batch", "number": 2}, "shuffle", fit("shuffle")),
]
OTHER_SETTINGS = [
    *each(NOT_COUNTS, "batch_size", lambda m, v: m.evaluate(X, ONE_HOT, batch_size=v, verbose=0)),
    *each({"word": "loud", "three": 3}, "verbose", lambda m, v: m.evaluate(X, ONE_HOT, verbose=v)),
]
PREDICT_SETTINGS = [
    *each(NOT_COUNTS, "batch_size", lambda m, v: m.predict(X, batch_size=v, verbose=0)),
    *each({"word": "loud", "three": 3}, "verbose", lambda m, v: m.predict(X, verbose=v)),
]


@pytest.mark.parametrize(("name", "call"), SETTINGS)
def test_settings_of_fit(name, call, request):
    model = trained()
    request.getfixturevalue("idle")
    with untouched(model, name):
        call(model)


@pytest.mark.parametrize(("name", "call"), OTHER_SETTINGS)
def test_settings_of_evaluate(name, call, request):
    model = trained()
    request.getfixturevalue("idle")
    with untouched(model, name):
        call(model)


@pytest.mark.parametrize(("name", "call"), PREDICT_SETTINGS)
def test_settings_of_predict(name, call, request):
    model = trained()
    request.getfixturevalue("idle")
    with untouched(model, name):
        call(model)


def accuracies():
    """Two metrics of one name."""
    return [metrics.CategoricalAccuracy("share"), metrics.BinaryAccuracy("share")]


COMPILE = [
    *each(
        {"misspelt": "sdg", "number": 0.1, "None": None, "a loss": losses.MeanSquaredError()},
        "optimizer",
        lambda m, v: m.compile(v, "mse"),
    ),
    *each(
        {"misspelt": "cross_entropy", "number": 1, "None": None, "function": np.mean, "an optimizer": optimizers.SGD()},
        "loss",
        lambda m, v: m.compile("sgd", v),
    ),
    *each(
        {
            "a string": "accuracy",
            "misspelt": ["acuracy"],
            "number in a list": [1],
            "dictionary": {"accuracy": 1},
            "twice": ["accuracy", "accuracy"],
            "two of one name": accuracies(),
            "named loss": [metrics.BinaryAccuracy("loss")],
        },
        "metrics",
        lambda m, v: m.compile("sgd", "mse", v),
    ),
    pytest.param("optimizer", lambda m: m.compile(trained().optimizer, "mse"), id="optimizer-of another model"),
]


@pytest.mark.parametrize(("name", "call"), COMPILE)
def test_compile(name, call):
    model = trained()
    with untouched(model, name):
        call(model)
    model.fit(X, ONE_HOT, verbose=0)


@pytest.mark.parametrize(
    ("loss", "metric"),
    [("sparse_categorical_crossentropy", "categorical_accuracy"), ("mse", "sparse_categorical_accuracy")],
)
def test_metrics_that_take_other_targets_than_the_loss(loss, metric):
    model = trained()
    model.compile("sgd", loss, [metric])
    with untouched(model, "metrics"):
        model.fit(X, LABELS if loss.startswith("sparse") else ONE_HOT, verbose=0)


@pytest.mark.parametrize("method", ["fit", "train_on_batch", "evaluate"])
def test_models_that_are_not_compiled(method):
    model = models.Sequential([layers.Flatten(input_shape=X.shape[1:]), layers.Dense(CLASSES)])
    with untouched(model, method):
        getattr(model, method)(X, ONE_HOT)


def test_models_without_layers_or_shape():
    model = models.Sequential()
    with refused("model"):
        model.predict(X)
    with refused("pop"):
        model.pop()
    model.add(layers.Dense(1))
    for method in ("summary", "count_params"):
        with refused(method):
            getattr(model, method)()
    with refused("set_weights"):
        model.set_weights([])


# ------------------------------------------------------------------ weights and layers


def with_last(change):
    """Set weights of which the last was changed."""
    return lambda model: model.set_weights([*model.get_weights()[:-1], change(model.get_weights()[-1])])


WEIGHTS = {
    "one short": ("weights", lambda model: model.set_weights(model.get_weights()[:-1])),
    "one too many": ("weights", lambda model: model.set_weights([*model.get_weights(), np.zeros(3)])),
    "none": ("weights", lambda model: model.set_weights([])),
    "None": ("weights", lambda model: model.set_weights(None)),
    "number": ("weights", lambda model: model.set_weights(3)),
    "turned round": ("weights", lambda model: model.set_weights(model.get_weights()[::-1])),
    "longer": ("weights", with_last(lambda weight: np.zeros(len(weight) + 1))),
    "column": ("weights", with_last(lambda weight: weight[:, np.newaxis])),
    "strings": ("weights", with_last(lambda weight: weight.astype(str))),
    "objects": ("weights", with_last(lambda weight: weight.astype(object))),
    "complex": ("weights", with_last(lambda weight: weight.astype(complex))),
    "ragged": ("weights", with_last(lambda weight: [[0.0], [0.0, 1.0], [0.0]])),
}


@pytest.mark.parametrize(("name", "call"), table(WEIGHTS))
def test_set_weights_sets_all_or_none(name, call):
    model = trained()
    with untouched(model, name):
        call(model)


def test_set_weights_of_a_layer():
    model = trained()
    with untouched(model, "weights"):
        model.layers[0].set_weights([np.ones((3, 3, 1, 2))])
    with untouched(model, "bias"):
        model.layers[0].bias.assign(np.ones(3))
    with untouched(model, "bias"):
        model.layers[0].bias.assign(["a", "b"])


ADD = {
    "number": ("layer", lambda model: model.add(3)),
    "class": ("layer", lambda model: model.add(layers.Flatten)),
    "its own": ("layer", lambda model: model.add(model.layers[0])),
    "of another model": ("layer", lambda model: model.add(trained().layers[2])),
    "input": ("layer", lambda model: model.add(layers.Input((3,)))),
    "name that is taken": ("layer", lambda model: model.add(layers.Dense(2, name="conv2d"))),
    "pictures for Conv2D": ("Conv2D", lambda model: model.add(layers.Conv2D(2, 3))),
    "pictures for MaxPooling2D": ("MaxPooling2D", lambda model: model.add(layers.MaxPooling2D())),
    "pictures for AveragePooling2D": ("AveragePooling2D", lambda model: model.add(layers.AveragePooling2D())),
    "pictures for ZeroPadding2D": ("ZeroPadding2D", lambda model: model.add(layers.ZeroPadding2D())),
    "axis": ("axis", lambda model: model.add(layers.BatchNormalization(axis=2))),
}


@pytest.mark.parametrize(("name", "call"), table(ADD))
def test_add_leaves_the_model_as_it_was(name, call):
    model = trained()
    with untouched(model, name):
        call(model)
    model.fit(X, ONE_HOT, verbose=0)


PICTURES = {
    "window too large": ("kernel_size", layers.Conv2D(1, 7)),
    "dilated window too large": ("kernel_size", layers.Conv2D(1, 3, dilation_rate=4)),
    "groups for one channel": ("groups", layers.Conv2D(4, 3, groups=2)),
    "depthwise window too large": ("kernel_size", layers.DepthwiseConv2D(7)),
    "pooling window too large": ("pool_size", layers.MaxPooling2D(7)),
    "pooling only padding": ("padding", layers.AveragePooling2D(2, padding=2)),
    "Dense on pictures": ("Dense", layers.Dense(2)),
    "axis of rows": ("axis", layers.BatchNormalization(axis=1)),
}


@pytest.mark.parametrize(("name", "layer"), table(PICTURES))
def test_layers_that_do_not_fit_pictures(name, layer):
    model = models.Sequential([layers.Input(X.shape[1:])])
    with untouched(model, name):
        model.add(layer)
    # The layer is as new, too.
    assert not layer.built
    assert layer.name is None


def test_input_comes_once_and_first():
    model = models.Sequential([layers.Input((3,))])
    with untouched(model, "layer"):
        model.add(layers.Input((3,)))
    with refused("input_shape"):
        model.build((4,))


# ------------------------------------------------------------------ constructors

NOT_PAIRS = {
    **NOT_COUNTS,
    "zero in a pair": (1, 0),
    "True in a pair": (True, 1),
    "float in a pair": (1, 2.0),
    "three": (1, 1, 1),
    "None in a pair": (None, 1),
}
del NOT_PAIRS["list"]
NOT_PADDING = {"misspelt": "smae", "negative": -1, "float": 1.0, "True": True, "None": None, "three": (1, 1, 1)}
NOT_PADDING_SIDES = {**NOT_PADDING, "sides": ((1, 0), (-1, 0)), "one side": ((1,), (1,))}
NOT_INITIALIZERS = {"misspelt": "glorot", "number": 3, "None": None}
NOT_REGULARIZERS = {"misspelt": "l3", "number": 0.01}
NOT_ACTIVATIONS = {"misspelt": "rellu", "number": 1, "function": np.tanh, "class": activations.ActivationFunction}
NOT_FRACTIONS = {**NOT_NUMBERS, "one": 1, "negative": -0.1}
NOT_BOOLEANS = {"number": 1, "string": "yes", "None": None}
BELOW_ZERO = {**NOT_NUMBERS, "negative": -1e-3}
NOT_SHAPES = {
    "empty": (),
    "with the batch": (None, 8),
    "zero": (8, 0),
    "negative": (-1,),
    "float": (2.0,),
    "True": (True,),
    "string": "ab",
}
FORMATS = {"channels first": "channels_first", "number": 1}


def conv(name):
    """Construct a Conv2D with one setting."""
    return lambda value: layers.Conv2D(**{"filters": 2, "kernel_size": 3, name: value})


def rows(kind, faults, name, *given):
    """Parameters of a test: every fault of one argument of one class."""
    return each(faults, name, lambda value: kind(*given, **{name: value}), f"{kind.__name__}-")


CONSTRUCTORS = [
    *rows(layers.Input, {**NOT_SHAPES, "None": None}, "shape"),
    *each(NOT_COUNTS, "filters", conv("filters")),
    *each(NOT_COUNTS, "groups", conv("groups")),
    *each(NOT_PAIRS, "kernel_size", conv("kernel_size")),
    *each(NOT_PAIRS, "strides", conv("strides")),
    *each(NOT_PAIRS, "dilation_rate", conv("dilation_rate")),
    *each(NOT_PADDING_SIDES, "padding", conv("padding")),
    *each(FORMATS, "data_format", conv("data_format")),
    *each(NOT_ACTIVATIONS, "activation", conv("activation")),
    *each(NOT_BOOLEANS, "use_bias", conv("use_bias")),
    *each(NOT_INITIALIZERS, "kernel_initializer", conv("kernel_initializer")),
    *each(NOT_INITIALIZERS, "bias_initializer", conv("bias_initializer")),
    *each(NOT_REGULARIZERS, "kernel_regularizer", conv("kernel_regularizer")),
    *each(NOT_REGULARIZERS, "bias_regularizer", conv("bias_regularizer")),
    *each(NOT_SHAPES, "input_shape", conv("input_shape")),
    *each({"number": 3}, "name", conv("name")),
    *rows(layers.DepthwiseConv2D, NOT_PAIRS, "kernel_size"),
    *rows(layers.DepthwiseConv2D, NOT_COUNTS, "depth_multiplier", 3),
    *rows(layers.DepthwiseConv2D, NOT_INITIALIZERS, "depthwise_initializer", 3),
    *rows(layers.DepthwiseConv2D, NOT_REGULARIZERS, "depthwise_regularizer", 3),
    *rows(layers.Dense, NOT_COUNTS, "units"),
    *rows(layers.Dense, NOT_ACTIVATIONS, "activation", 3),
    *rows(layers.Dense, NOT_BOOLEANS, "use_bias", 3),
    *rows(layers.Dense, NOT_INITIALIZERS, "kernel_initializer", 3),
    *rows(layers.Dense, NOT_REGULARIZERS, "kernel_regularizer", 3),
    *rows(layers.MaxPooling2D, NOT_PAIRS, "pool_size"),
    *rows(layers.MaxPooling2D, NOT_PAIRS, "strides"),
    *rows(layers.MaxPooling2D, {**NOT_PADDING_SIDES, "full": "full"}, "padding"),
    *rows(layers.MaxPooling2D, FORMATS, "data_format"),
    *rows(layers.AveragePooling2D, NOT_PAIRS, "pool_size"),
    *rows(layers.GlobalAveragePooling2D, FORMATS, "data_format"),
    *rows(layers.GlobalAveragePooling2D, NOT_BOOLEANS, "keepdims"),
    *rows(layers.ZeroPadding2D, {**NOT_PADDING_SIDES, "same": "same"}, "padding"),
    *rows(layers.Dropout, NOT_FRACTIONS, "rate"),
    *rows(layers.Dropout, {"negative": -1, "True": True, "float": 1.0}, "seed", 0.5),
    *rows(layers.Activation, {**NOT_ACTIVATIONS}, "activation"),
    *rows(layers.ReLU, BELOW_ZERO, "max_value"),
    *rows(layers.ReLU, BELOW_ZERO, "negative_slope"),
    *rows(layers.ReLU, BELOW_ZERO, "threshold"),
    *rows(layers.BatchNormalization, {**NOT_NUMBERS, "above 1": 1.1}, "momentum"),
    *rows(layers.BatchNormalization, BELOW_ZERO, "epsilon"),
    *rows(layers.BatchNormalization, NOT_BOOLEANS, "center"),
    *rows(layers.BatchNormalization, NOT_BOOLEANS, "scale"),
    *rows(layers.BatchNormalization, NOT_INITIALIZERS, "gamma_initializer"),
    *rows(layers.BatchNormalization, NOT_INITIALIZERS, "moving_variance_initializer"),
    *rows(layers.BatchNormalization, NOT_REGULARIZERS, "beta_regularizer"),
    *rows(optimizers.SGD, BELOW_ZERO, "learning_rate"),
    *rows(optimizers.SGD, {**NOT_NUMBERS, "above 1": 1.1, "negative": -0.1}, "momentum"),
    *rows(optimizers.SGD, NOT_BOOLEANS, "nesterov"),
    *rows(optimizers.SGD, BELOW_ZERO, "weight_decay"),
    *rows(optimizers.Adam, BELOW_ZERO, "learning_rate"),
    *rows(optimizers.Adam, NOT_FRACTIONS, "beta_1"),
    *rows(optimizers.Adam, NOT_FRACTIONS, "beta_2"),
    *rows(optimizers.Adam, BELOW_ZERO, "epsilon"),
    *rows(optimizers.RMSprop, BELOW_ZERO, "learning_rate"),
    *rows(optimizers.RMSprop, NOT_FRACTIONS, "rho"),
    *rows(optimizers.RMSprop, NOT_BOOLEANS, "centered"),
    *rows(losses.CategoricalCrossentropy, NOT_BOOLEANS, "from_logits"),
    *rows(losses.BinaryCrossentropy, NOT_BOOLEANS, "from_logits"),
    *rows(metrics.BinaryAccuracy, NOT_NUMBERS, "threshold"),
    *rows(regularizers.L1, BELOW_ZERO, "l1"),
    *rows(regularizers.L2, BELOW_ZERO, "l2"),
    *rows(initializers.Constant, NOT_NUMBERS, "value"),
    *rows(initializers.RandomUniform, {**NOT_NUMBERS, "below minval": -1.0}, "maxval"),
    *rows(initializers.RandomNormal, BELOW_ZERO, "stddev"),
    *rows(initializers.VarianceScaling, {"misspelt": "fan"}, "mode"),
    *rows(initializers.VarianceScaling, {"misspelt": "normal"}, "distribution"),
    *rows(initializers.GlorotUniform, {"negative": -1, "True": True, "float": 1.0}, "seed"),
    *rows(callbacks.EarlyStopping, {"negative": -1, "float": 1.0}, "patience"),
    *rows(callbacks.EarlyStopping, BELOW_ZERO, "min_delta"),
    *rows(callbacks.EarlyStopping, {"misspelt": "minimum", "None": None}, "mode"),
    *rows(models.Sequential, {"half": "float16", "integers": "int32", "number": 32}, "dtype"),
    *rows(models.Sequential, {"misspelt": "gpu", "number": 0}, "device"),
    *rows(models.Sequential, {"number": 3, "a layer": layers.Flatten()}, "layers"),
    *each({"misspelt": "gpu", "number": 0, "None": None}, "device", gpuconv.use_device),
    *each({"negative": -1, "2**32": 2**32, "float": 1.0, "True": True}, "seed", utils.set_random_seed),
    *each({"strings": ["a"], "fractions": [0.5], "negative": [-1], "empty": []}, "x", utils.to_categorical),
    *each({"too large": [0, 2]}, "x", lambda v: utils.to_categorical(v, 2)),
    *each(NOT_COUNTS, "num_classes", lambda v: utils.to_categorical([0, 1, 2], v)),
]


@pytest.mark.parametrize(("name", "call"), CONSTRUCTORS)
def test_constructors(name, call):
    with refused(name):
        call()


@pytest.mark.parametrize("learning_rate", [-1.0, np.nan, "0.1", None, True])
def test_learning_rate_of_a_model_in_use(learning_rate):
    model = trained()
    with untouched(model, "learning_rate"):
        model.optimizer.learning_rate = learning_rate


def test_losses_called_alone():
    loss = losses.SparseCategoricalCrossentropy()
    with refused("y_pred"):
        loss([0], [0.5])
    with refused("y_pred"):
        loss([0], [["a"]])
    with refused("y_true"):
        loss([0, 1], [[0.5, 0.5]])
    with refused("y_true"):
        loss([2], [[0.5, 0.5]])
    with refused("y_true"):
        losses.BinaryCrossentropy()([[2.0]], [[0.5]])


# ------------------------------------------------------------------ functional

FILTERS, DY = np.ones((3, 3, 1, 2)), np.ones((SAMPLES, 4, 4, 2))
MATRIX, KERNEL = np.ones((4, 3)), np.ones((3, 2))
UNUSABLE_OPERANDS = {
    "strings": X.astype(str),
    "objects": X.astype(object),
    "complex": X.astype(complex),
    "ragged": RAGGED,
    "None": None,
    "empty": X[:0],
    "no channels": X[..., :0],
    "rank 3": X[..., 0],
    "number": 1.0,
}
FUNCTIONAL = [
    *each(UNUSABLE_OPERANDS, "x", lambda v: functional.correlate2d(v, FILTERS)),
    *each(UNUSABLE_OPERANDS, "x", lambda v: functional.correlate2d_gradient_filters(v, DY, 3)),
    *each(UNUSABLE_OPERANDS, "x", functional.max_pool2d),
    *each(UNUSABLE_OPERANDS, "x", functional.average_pool2d),
    *each(
        {"channels": np.ones((3, 3, 2, 2)), "rank": np.ones((3, 3, 1)), "strings": FILTERS.astype(str), "None": None},
        "filters",
        lambda v: functional.correlate2d(X, v),
    ),
    *each(
        {"length": np.ones(3), "rank": np.ones((1, 2)), "number": 1.0, "complex": np.ones(2, complex)},
        "bias",
        lambda v: functional.correlate2d(X, FILTERS, v),
    ),
    *each(NOT_PAIRS, "strides", lambda v: functional.correlate2d(X, FILTERS, strides=v)),
    *each(NOT_PADDING_SIDES, "padding", lambda v: functional.correlate2d(X, FILTERS, padding=v)),
    *each(NOT_PAIRS, "dilation_rate", lambda v: functional.correlate2d(X, FILTERS, dilation_rate=v)),
    *each({**NOT_COUNTS, "two": 2}, "groups", lambda v: functional.correlate2d(X, FILTERS, groups=v)),
    *each(NOT_ACTIVATIONS, "activation", lambda v: functional.correlate2d(X, FILTERS, activation=v)),
    pytest.param("kernel_size", lambda: functional.correlate2d(X, np.ones((7, 7, 1, 1))), id="filters-too large"),
    *each(
        {"shape": DY[:, 1:], "rank": DY[0], "complex": DY.astype(complex)},
        "dy",
        lambda v: functional.correlate2d_gradient_input(v, FILTERS, X.shape),
    ),
    *each(
        {"three": (6, 6, 1), "number": 6, "zero": (6, 0, 6, 1), "None": None},
        "input_shape",
        lambda v: functional.correlate2d_gradient_input(DY, FILTERS, v),
    ),
    *each({"shape": DY[:, 1:], "rank": DY[0]}, "dy", lambda v: functional.correlate2d_gradient_filters(X, v, 3)),
    *each({**NOT_PAIRS, "large": 7}, "kernel_size", lambda v: functional.correlate2d_gradient_filters(X, DY, v)),
    *each({**NOT_PAIRS, "large": 7}, "pool_size", lambda v: functional.max_pool2d(X, v)),
    *each(NOT_PAIRS, "strides", lambda v: functional.max_pool2d(X, 2, v)),
    *each({**NOT_PADDING_SIDES, "full": "full", "window": 2}, "padding", lambda v: functional.max_pool2d(X, 2, 2, v)),
    *each({"rank": MATRIX[0], "strings": MATRIX.astype(str)}, "x", lambda v: functional.dense(v, KERNEL)),
    *each({"rows": KERNEL.T, "rank": KERNEL[0]}, "kernel", lambda v: functional.dense(MATRIX, v)),
    *each({"length": np.ones(3)}, "bias", lambda v: functional.dense(MATRIX, KERNEL, v)),
    *each(NOT_ACTIVATIONS, "activation", lambda v: functional.dense(MATRIX, KERNEL, activation=v)),
    *each(NOT_ACTIVATIONS, "activation", lambda v: functional.activate(X, v)),
    *each({"strings": ["a"], "empty": [], "ragged": RAGGED}, "x", functional.relu),
    *each({"strings": ["a"], "empty": [], "ragged": RAGGED}, "x", functional.softmax),
    *each(NOT_FRACTIONS, "rate", lambda v: functional.dropout(X, v)),
    *each({"negative": -1, "True": True, "float": 1.0}, "seed", lambda v: functional.dropout(X, 0.5, v)),
]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("name", "call"), FUNCTIONAL)
def test_functional(name, call):
    with refused(name):
        call()


# ------------------------------------------------------------------ CUDA where there is none

needs_no_gpu = pytest.mark.skipif(device.cuda_status()[0], reason="a GPU answers here")


@contextmanager
def of_kind(kind):
    """Assert what kind of error the block raises, and let it pass."""
    with pytest.raises(kind) as caught:
        yield
    raise caught.value


@needs_no_gpu
@pytest.mark.parametrize("ask", [gpuconv.use_device, lambda name: models.Sequential(device=name)])
def test_asking_for_cuda_without_a_gpu(ask):
    model = trained()
    with untouched(model, "device"), of_kind(gpuconv.DeviceError):
        ask("cuda")


@needs_no_gpu
def test_the_environment_asks_for_cuda_without_a_gpu(monkeypatch):
    model = trained()
    monkeypatch.setenv("GPUCONV_DEVICE", "cuda")
    for compute in (lambda: model.fit(X, ONE_HOT, verbose=0), lambda: model.predict(X), lambda: functional.relu(X)):
        with untouched(model, "device"), of_kind(gpuconv.DeviceError):
            compute()
