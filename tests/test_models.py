"""What `Sequential` promises: Keras's meaning of fit, evaluate and predict, and runs that can be repeated."""

import re
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu.threads import SERIAL_WORK
from test_trajectory import cifar_network, digits_network

import gpuconv
from gpuconv import callbacks, layers, losses, metrics, models, optimizers, regularizers, utils

FACTS = Path(__file__).parent / "golden" / "facts.npz"
SAMPLES, CLASSES = 10, 3
SHAPE = (6, 6, 1)
RANDOM = np.random.RandomState(0)
X = RANDOM.uniform(0, 1, (SAMPLES, *SHAPE)).astype(np.float32)
LABELS = np.arange(SAMPLES) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[LABELS]

SUMMARY = """\
Model: "sequential"
=========================================================
Layer (type)                   Output shape       Param #
---------------------------------------------------------
conv2d (Conv2D)                (None, 6, 6, 10)       100
max_pooling2d (MaxPooling2D)   (None, 3, 3, 10)         0
flatten (Flatten)              (None, 90)               0
dense (Dense)                  (None, 50)           4,550
dense_1 (Dense)                (None, 10)             510
=========================================================
Total params: 5,160 (20.16 KB)
Trainable params: 5,160 (20.16 KB)
Non-trainable params: 0 (0 B)
"""


def network(compiled=True, **settings):
    """A small network with penalties and the lecture's layers; no dropout, so that steps can be compared."""
    model = models.Sequential(
        [
            layers.Conv2D(2, 3, activation="relu", kernel_regularizer="l2", input_shape=SHAPE),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="softmax", kernel_regularizer="l1"),
        ],
        **settings,
    )
    if compiled:
        model.compile(optimizers.SGD(0.1, momentum=0.5), "categorical_crossentropy", metrics=["accuracy"])
    return model


def regression(**settings):
    """Softmax regression: one dense layer."""
    model = models.Sequential([layers.Flatten(input_shape=SHAPE), layers.Dense(CLASSES, "softmax")], **settings)
    model.compile(optimizers.SGD(0.1), "categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, x=X, y=ONE_HOT, **settings):
    """Train silently; return the history's dictionary."""
    return model.fit(x, y, **{"batch_size": 4, "verbose": 0, **settings}).history


def assert_same_weights(model, other):
    """Bitwise."""
    for ours, theirs in zip(_weights(model), _weights(other), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()


def _weights(model):
    return model if isinstance(model, list) else model.get_weights()


# ------------------------------------------------------------------ what fit reports


def test_history_and_weights_by_hand():
    # Softmax regression with an L2 penalty in plain NumPy: batches of 4, 4 and 2.
    rate, penalty, size = 0.5, 0.01, 4
    model = models.Sequential(dtype="float64")
    model.add(layers.Flatten(input_shape=SHAPE))
    model.add(layers.Dense(CLASSES, "softmax", kernel_regularizer=regularizers.L2(penalty)))
    model.compile(optimizers.SGD(rate), "categorical_crossentropy", ["accuracy", "mse"])
    kernel, bias = model.get_weights()
    history = model.fit(X, ONE_HOT, batch_size=size, epochs=3, shuffle=False, verbose=0).history

    rows, expected = X.reshape(SAMPLES, -1).astype(np.float64), {"loss": [], "accuracy": [], "mse": []}
    for _ in range(3):
        sums = dict.fromkeys(expected, 0.0)
        for start in range(0, SAMPLES, size):
            x, t = rows[start : start + size], ONE_HOT[start : start + size]
            powers = np.exp(x @ kernel + bias)
            p = powers / powers.sum(axis=1, keepdims=True)
            loss = -np.log((p * t).sum(axis=1)).mean() + penalty * (kernel**2).sum()
            sums["loss"] += len(x) * loss
            sums["accuracy"] += (p.argmax(axis=1) == t.argmax(axis=1)).sum()
            sums["mse"] += ((p - t) ** 2).mean(axis=1).sum()
            dz = (p - t) / len(x)
            kernel = kernel - rate * (x.T @ dz + 2 * penalty * kernel)
            bias = bias - rate * dz.sum(axis=0)
        for name, total in sums.items():
            expected[name].append(total / SAMPLES)

    assert history.keys() == expected.keys()
    for name, values in history.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-12)
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(model.get_weights()[1], bias, rtol=1e-11, atol=1e-13)


def test_an_epoch_is_its_batches_and_its_values_are_their_weighted_means():
    model, twin = network(), network()
    twin.set_weights(model.get_weights())
    history = fit(model, epochs=2, shuffle=False)
    for epoch in range(2):
        loss = accuracy = 0.0
        for start in range(0, SAMPLES, 4):
            x, y = X[start : start + 4], ONE_HOT[start : start + 4]
            before = twin.evaluate(x, y, verbose=0)
            values = twin.train_on_batch(x, y)
            # The values of a step are those before it.
            np.testing.assert_allclose(values, before, rtol=1e-6)
            loss += len(x) * values[0]
            accuracy += len(x) * values[1]
        np.testing.assert_allclose(history["loss"][epoch], loss / SAMPLES, rtol=1e-6)
        np.testing.assert_allclose(history["accuracy"][epoch], accuracy / SAMPLES, rtol=1e-6)
    assert_same_weights(model, twin)
    assert model.optimizer.iterations == twin.optimizer.iterations == 6


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ["loss"]),
        (["accuracy"], ["loss", "accuracy"]),
        (["acc", "mse"], ["loss", "acc", "mse"]),
        ([metrics.CategoricalAccuracy()], ["loss", "categorical_accuracy"]),
        ([metrics.BinaryAccuracy("sides", threshold=0.3), "mean_squared_error"], None),
    ],
)
@pytest.mark.parametrize("validated", [False, True])
def test_history_has_a_value_an_epoch_for_loss_and_metrics(given, names, validated):
    model = regression()
    model.compile("sgd", "categorical_crossentropy", given)
    result = model.fit(X, ONE_HOT, epochs=3, verbose=0, validation_data=(X, ONE_HOT) if validated else None)
    names = names or ["loss", "sides", "mean_squared_error"]
    expected = names + [f"val_{name}" for name in names] if validated else names
    assert list(result.history) == expected
    assert all(len(values) == 3 and all(type(value) is float for value in values) for values in result.history.values())
    assert result.epoch == [0, 1, 2]
    assert result is model.history
    assert result.model is model


def test_validation_values_are_those_of_evaluate_after_the_epoch():
    model = network()
    seen = []

    class Evaluate(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((logs["val_loss"], logs["val_accuracy"]))
            np.testing.assert_allclose(seen[-1], self.model.evaluate(X[:5], ONE_HOT[:5], batch_size=3, verbose=0))

    fit(model, epochs=2, validation_data=(X[:5], ONE_HOT[:5]), validation_batch_size=3, callbacks=[Evaluate()])
    assert len(seen) == 2


def test_validation_changes_nothing_of_the_training():
    runs = []
    for settings in ({}, {"validation_data": (X[:7], ONE_HOT[:7]), "validation_batch_size": 7}):
        utils.set_random_seed(3)
        model = network()
        runs.append((fit(model, epochs=3, **settings)["loss"], model))
    assert runs[0][0] == runs[1][0]
    assert_same_weights(runs[0][1], runs[1][1])


def test_validation_split_takes_the_last_samples_before_shuffling():
    runs = []
    for split in (True, False):
        utils.set_random_seed(1)
        model = network()
        if split:
            history = fit(model, epochs=2, validation_split=0.25)
        else:
            history = fit(model, X[:7], ONE_HOT[:7], epochs=2, validation_data=(X[7:], ONE_HOT[7:]))
        runs.append((history, model))
    assert runs[0][0] == runs[1][0]
    assert_same_weights(runs[0][1], runs[1][1])
    # Data for validation come before a share of the samples.
    assert fit(network(), validation_split=0.5, validation_data=(X, ONE_HOT), callbacks=[Steps(3)])


class Steps(callbacks.Callback):
    """Asserts the number of steps of an epoch."""

    def __init__(self, expected):
        self.expected = expected

    def on_epoch_end(self, epoch, logs=None):
        assert self.model.optimizer.iterations == self.expected * (epoch + 1)


def test_initial_epoch():
    model = network()
    assert model.fit(X, ONE_HOT, epochs=5, initial_epoch=3, verbose=0).epoch == [3, 4]
    before = model.get_weights()
    history = model.fit(X, ONE_HOT, epochs=2, initial_epoch=2, verbose=0)
    assert (history.epoch, history.history) == ([], {})
    assert_same_weights(model, before)


# ------------------------------------------------------------------ evaluate and predict


def test_softmax_is_computed_where_probabilities_are_read(monkeypatch):
    called = []
    softmax = cpu.softmax
    monkeypatch.setattr(cpu, "softmax", lambda *arguments: called.append(arguments) or softmax(*arguments))

    def calls(function):
        called.clear()
        function()
        return len(called)

    for names, wanted in ((["accuracy"], 0), (["accuracy", "mse"], 1), ([], 0)):
        model = network(device="cpu")
        model.compile("sgd", "categorical_crossentropy", names)
        assert calls(lambda model=model: model.train_on_batch(X, ONE_HOT)) == wanted
        before = model.predict(X, batch_size=SAMPLES, verbose=0)
        assert calls(lambda model=model: model.evaluate(X, ONE_HOT, batch_size=SAMPLES, verbose=0)) == wanted
        # Steps without softmax leave nothing behind for those that need it.
        assert calls(lambda model=model: model.predict(X, batch_size=SAMPLES, verbose=0)) == 1
        np.testing.assert_array_equal(model.predict(X, batch_size=SAMPLES, verbose=0), before)
        np.testing.assert_allclose(before.sum(axis=1), 1, rtol=1e-6)


class Predictions(callbacks.Callback):
    """Predictions after every epoch, between steps that are repeated."""

    def __init__(self):
        super().__init__()
        self.all = []

    def on_epoch_end(self, epoch, logs=None):
        self.all.append(self.model.predict(X, batch_size=4, verbose=0))


@pytest.mark.parametrize(
    "top",
    [
        lambda: [layers.Dense(CLASSES, "softmax")],
        lambda: [layers.Dense(CLASSES), layers.Softmax()],
        lambda: [layers.Dense(CLASSES), layers.Activation("softmax")],
    ],
)
@pytest.mark.parametrize(
    ("loss", "y"), [("sparse_categorical_crossentropy", LABELS), ("categorical_crossentropy", ONE_HOT)]
)
def test_training_without_softmax_is_training_with_it(top, loss, y):
    reads_probabilities = metrics.SparseCategoricalAccuracy("shares") if y is LABELS else metrics.MeanSquaredError()
    reads_probabilities.by_order = False
    runs = []
    for names in (["accuracy"], ["accuracy", reads_probabilities]):
        utils.set_random_seed(0)
        model = models.Sequential([layers.Flatten(input_shape=SHAPE), *top()], device="cpu")
        model.compile(optimizers.SGD(0.1), loss, names)
        seen = Predictions()
        history = fit(model, y=y, batch_size=2, epochs=4, validation_data=(X, y), callbacks=[seen])
        runs.append((model, history, seen.all))
    (model, history, predictions), (other, others_history, others_predictions) = runs
    assert model._only_logits
    assert not other._only_logits
    assert_same_weights(model, other)
    assert all(history[name] == others_history[name] for name in history)
    np.testing.assert_array_equal(predictions, others_predictions)
    np.testing.assert_allclose(np.sum(predictions, axis=-1), 1, rtol=1e-6)
    # And the other way about: with another metric the same model computes probabilities again.
    model.compile(optimizers.SGD(0.1), loss, ["accuracy", reads_probabilities])
    assert model.evaluate(X, y, batch_size=4, verbose=0) == other.evaluate(X, y, batch_size=4, verbose=0)


class OwnAccuracy(metrics.CategoricalAccuracy):
    """Looks at the predictions that it is given."""

    def compute(self, device, predictions, targets, values):
        np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-6)
        super().compute(device, predictions, targets, values)


class OwnDense(layers.Dense):
    """Looks at what it returns."""

    def forward(self, x, state, training):
        y = super().forward(x, state, training)
        np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
        return y


@pytest.mark.parametrize(("last", "metric"), [(layers.Dense, OwnAccuracy), (OwnDense, metrics.CategoricalAccuracy)])
def test_subclasses_see_probabilities(last, metric):
    model = models.Sequential([layers.Flatten(input_shape=SHAPE), last(CLASSES, "softmax")], device="cpu")
    model.compile("sgd", "categorical_crossentropy", [metric()])
    fit(model, epochs=2, validation_data=(X, ONE_HOT))
    model.evaluate(X, ONE_HOT, verbose=0)


def test_evaluate_gives_the_loss_first_with_penalties():
    model = network()
    probabilities = model.predict(X, verbose=0).astype(np.float64)
    kernels = [layer.kernel.numpy() for layer in (model.layers[0], model.layers[3])]
    penalty = 0.01 * np.square(kernels[0]).sum() + 0.01 * np.abs(kernels[1]).sum()
    loss = -np.log((probabilities * ONE_HOT).sum(axis=1)).mean() + penalty
    accuracy = (probabilities.argmax(axis=1) == LABELS).mean()
    before = model.get_weights()
    for batch_size in (1, 3, 4, SAMPLES, None, 1000):
        values = model.evaluate(X, ONE_HOT, batch_size=batch_size, verbose=0)
        assert isinstance(values, list)
        np.testing.assert_allclose(values, [loss, accuracy], rtol=1e-6)
    values = model.evaluate(X, ONE_HOT, verbose=0, return_dict=True)
    assert list(values) == ["loss", "accuracy"]
    np.testing.assert_allclose(list(values.values()), [loss, accuracy], rtol=1e-6)
    assert_same_weights(model, before)
    assert model.optimizer.iterations == 0


def test_a_loss_alone_is_a_number():
    model = regression()
    model.compile("sgd", "mse")
    assert type(model.evaluate(X, ONE_HOT, verbose=0)) is float
    assert type(model.train_on_batch(X, ONE_HOT)) is float
    assert list(model.train_on_batch(X, ONE_HOT, return_dict=True)) == ["loss"]


def test_predictions_do_not_depend_on_the_batch_size():
    model = network()
    expected = model.predict(X, batch_size=SAMPLES, verbose=0)
    assert expected.shape == (SAMPLES, CLASSES)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-6)
    for batch_size in (1, 3, None, 1000):
        np.testing.assert_allclose(model.predict(X, batch_size=batch_size, verbose=0), expected, rtol=1e-6)
    np.testing.assert_allclose(model(X), expected, rtol=1e-6)


@pytest.mark.parametrize("top", [layers.Flatten, lambda: layers.Dropout(0.5), lambda: layers.Dense(2)])
def test_predictions_are_the_callers_own(top):
    model = models.Sequential([layers.Input(SHAPE), layers.Flatten(), top()])
    for compute in (lambda x: model.predict(x, verbose=0), model):
        x = X.copy()
        first = compute(x)
        kept = first.copy()
        compute(1 - x)
        assert first.tobytes() == kept.tobytes()
        first[...] = 7
        assert compute(x).tobytes() == kept.tobytes()
        assert x.tobytes() == X.tobytes()


def test_inputs_stay_as_they_are():
    x, y = X.copy(), ONE_HOT.copy()
    x.flags.writeable = y.flags.writeable = False
    model = network()
    fit(model, x, y, epochs=2, validation_data=(x, y))
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model.train_on_batch(x, y)
    assert x.tobytes() == X.tobytes()
    assert y.tobytes() == ONE_HOT.tobytes()


# ------------------------------------------------------------------ what is printed


@pytest.mark.parametrize("verbose", [0, 1, 2, "auto"])
def test_what_fit_prints(verbose, capsys):
    history = network().fit(X, ONE_HOT, epochs=2, verbose=verbose, validation_data=(X, ONE_HOT)).history
    printed = capsys.readouterr()
    assert printed.err == ""
    values = [" - ".join(f"{name}: {value[epoch]:.4f}" for name, value in history.items()) for epoch in (0, 1)]
    if verbose == 0:
        assert printed.out == ""
    elif verbose == 2:
        expected = "".join(rf"Epoch {epoch + 1}/2 - \d+\.\ds - {re.escape(values[epoch])}\n" for epoch in (0, 1))
        assert re.fullmatch(expected, printed.out)
    else:
        for epoch in (0, 1):
            assert f"Epoch {epoch + 1}/2: 100%" in printed.out
            assert values[epoch] in printed.out


@pytest.mark.parametrize(("verbose", "speaks"), [(0, False), (1, True), (2, True), ("auto", True)])
def test_what_evaluate_prints(verbose, speaks, capsys):
    model = network()
    loss, accuracy = model.evaluate(X, ONE_HOT, verbose=verbose)
    expected = f"{SAMPLES} samples - loss: {loss:.4f} - accuracy: {accuracy:.4f}\n" if speaks else ""
    assert capsys.readouterr() == (expected, "")
    model.predict(X, verbose=0)
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------ runs that can be repeated


def random_run(seed, threads=None):
    """A run in which everything random takes part, large enough for several threads; its weights and history."""
    x = np.random.RandomState(0).uniform(0, 1, (64, 10, 10, 2)).astype(np.float32)
    labels = np.arange(64) % CLASSES
    before = gpuconv.get_num_threads()
    try:
        if threads:
            gpuconv.set_num_threads(threads)
        utils.set_random_seed(seed)
        model = models.Sequential()
        model.add(layers.Conv2D(8, 3, padding="same", kernel_regularizer="l2"))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
        model.add(layers.MaxPooling2D())
        model.add(layers.Dropout(0.25))
        model.add(layers.Flatten())
        model.add(layers.Dense(16, activation="relu"))
        model.add(layers.Dropout(0.5))
        model.add(layers.Dense(CLASSES, activation="softmax"))
        model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        history = model.fit(x, labels, batch_size=48, epochs=3, verbose=0, validation_split=0.2).history
    finally:
        gpuconv.set_num_threads(before)
    return model.get_weights(), history


def test_a_seed_fixes_a_run_for_any_number_of_threads():
    # The correlation of a batch is work for several threads.
    assert SERIAL_WORK < 48 * 10 * 10 * (3 * 3 * 2) * 8
    weights, history = random_run(7)
    for threads in (None, 1, 2):
        again, other = random_run(7, threads)
        assert_same_weights(weights, again)
        assert other == history


@pytest.fixture
def recordings(monkeypatch):
    """The number of calls in each repetition that is made during a test, on the CPU."""
    monkeypatch.setenv("GPUCONV_DEVICE", "cpu")
    made, repetition = [], cpu.repetition
    monkeypatch.setattr(cpu, "repetition", lambda calls, lent: made.append(len(calls)) or repetition(calls, lent))
    return made


class UnknownFlatten(layers.Flatten):
    """A layer that is not the library's own, so that every step of its model is taken in Python."""


def many_layers(flatten, optimizer, seed=3):
    """A model of most kinds of layers."""
    utils.set_random_seed(seed)
    model = models.Sequential()
    model.add(layers.Conv2D(4, 3, padding="same", activation="relu", kernel_regularizer="l2"))
    model.add(layers.BatchNormalization())
    model.add(layers.LeakyReLU())
    model.add(layers.MaxPooling2D())
    model.add(layers.ZeroPadding2D(1))
    model.add(layers.DepthwiseConv2D(3, activation="gelu"))
    model.add(layers.AveragePooling2D())
    model.add(layers.Dropout(0.2))
    model.add(flatten())
    model.add(layers.Dense(CLASSES, activation="softmax"))
    model.compile(optimizer, "categorical_crossentropy", ["accuracy", "mse"])
    return model


def run_of_many_layers(flatten, optimizer):
    """A run of several epochs and one of two more steps; its weights, histories and steps."""
    x = np.random.RandomState(0).uniform(0, 1, (30, 8, 8, 2)).astype(np.float32)
    labels = np.eye(CLASSES)[np.arange(30) % CLASSES]
    model = many_layers(flatten, optimizer)
    histories = [
        model.fit(x, labels, batch_size=5, epochs=3, verbose=0, validation_split=0.2, validation_batch_size=1).history,
        model.fit(x[:8], labels[:8], batch_size=4, verbose=0).history,
        model.evaluate(x, labels, batch_size=7, verbose=0),
        model.predict(x, batch_size=4, verbose=0).tolist(),
    ]
    return model.get_weights(), histories, optimizer.iterations


each_optimizer = pytest.mark.parametrize(
    "optimizer",
    [
        lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        lambda: optimizers.Adam(0.01),
        lambda: optimizers.RMSprop(0.01, centered=True, momentum=0.5),
    ],
    ids=["SGD", "Adam", "RMSprop"],
)


@each_optimizer
def test_repeated_steps_are_those_taken_in_python(optimizer, recordings):
    weights, histories, steps = run_of_many_layers(layers.Flatten, optimizer())
    # Training and validation once for all epochs, but for the last run's two steps; then evaluation and prediction.
    assert len(recordings) == 4
    again, others, as_many = run_of_many_layers(UnknownFlatten, optimizer())
    assert len(recordings) == 4
    assert_same_weights(weights, again)
    assert others == histories
    assert as_many == steps == 3 * 5 + 2


@each_optimizer
def test_repeated_batches_are_those_taken_in_python(optimizer, recordings):
    def run(flatten):
        model = many_layers(flatten, optimizer())
        random = np.random.RandomState(1)
        values, made = [], []

        def train(steps):
            # Batches of two sizes in turn, some as kernels take them and some not.
            for _ in range(steps):
                for count, order, dtype in ((6, "C", np.float32), (5, "F", np.float64)):
                    x = np.asarray(random.uniform(0, 1, (count, 8, 8, 2)), dtype, order)
                    y = np.eye(CLASSES, dtype=dtype)[random.randint(0, CLASSES, count)]
                    given = x.copy(), y.copy()
                    values.append(model.train_on_batch(x, y))
                    assert (x == given[0]).all()
                    assert (y == given[1]).all()
            made.append(len(recordings))

        train(6)
        model.set_weights([weight / 2 for weight in model.get_weights()])
        model.layers[0].variables[1].assign(np.full(4, 0.25))
        train(2)
        model.optimizer.learning_rate /= 2
        train(3)
        train(2)
        # Its own arrays, and those of a pass over a data set.
        values.append(model.evaluate(x_of_both, y_of_both, batch_size=6, verbose=0))
        values.append(fit(model, x_of_both, y_of_both, batch_size=6, epochs=2)["loss"])
        train(2)
        return model, values, made

    x_of_both = np.random.RandomState(2).uniform(0, 1, (13, 8, 8, 2)).astype(np.float32)
    y_of_both = np.eye(CLASSES)[np.arange(13) % CLASSES]
    model, values, made = run(layers.Flatten)
    # Both sizes are recorded once, and once more after the learning rate has changed, but not for three steps.
    assert made == [2, 2, 2, 4, 5]
    recordings.clear()
    again, others, none = run(UnknownFlatten)
    assert none == [0] * 5
    assert_same_weights(model, again)
    assert others == values
    assert again.optimizer.iterations == model.optimizer.iterations


def test_batches_with_other_settings_each_time_are_not_recorded(recordings):
    runs = []
    for flatten in (layers.Flatten, UnknownFlatten):
        utils.set_random_seed(5)
        model = models.Sequential([layers.Input(X.shape[1:]), flatten(), layers.Dense(CLASSES)])
        model.compile(optimizers.SGD(0.1), "mse")
        for step in range(1, 9):
            model.optimizer.learning_rate = 0.1 / step
            model.train_on_batch(X, ONE_HOT)
        runs.append(model.get_weights())
    assert recordings == []
    assert_same_weights(*runs)


def test_a_recording_serves_later_calls_with_other_data(recordings):
    def run(flatten):
        utils.set_random_seed(5)
        model = models.Sequential([layers.Input(X.shape[1:]), flatten(), layers.Dense(CLASSES, activation="softmax")])
        model.compile(optimizers.Adam(0.01), "categorical_crossentropy", ["accuracy"])
        histories = []
        for count in (SAMPLES, 5, SAMPLES):
            x = X[:count].copy()
            histories.append(model.fit(x, ONE_HOT[:count], batch_size=1, verbose=0).history)
            # The model lets go of what it has seen.
            here = weakref.ref(x)
            del x
            assert here() is None
            histories.append(model.evaluate(X[::-1].copy(), ONE_HOT, batch_size=1, verbose=0))
            histories.append(model.predict(-X[:count], batch_size=1, verbose=0).tolist())
        return model.get_weights(), histories

    weights, histories = run(layers.Flatten)
    # One each of training, evaluation and prediction.
    assert len(recordings) == 3
    again, others = run(UnknownFlatten)
    assert_same_weights(weights, again)
    assert others == histories


def test_steps_are_recorded_anew_after_settings_have_changed(recordings):
    model = network()
    model.add(layers.Dropout(0.5))
    model.compile(optimizers.SGD(0.1, momentum=0.5), "mse")

    def made_by(change):
        change()
        before = len(recordings)
        fit(model, batch_size=1)
        return len(recordings) - before

    assert made_by(lambda: None) == 1
    assert made_by(lambda: None) == 0
    for change in (
        lambda: setattr(model.optimizer, "learning_rate", 0.2),
        lambda: setattr(model.optimizer, "momentum", 0.6),
        lambda: setattr(model.layers[-1], "rate", 0.25),
        # Other moments.
        lambda: model.optimizer.reset(),
        # Arrays for a larger batch.
        lambda: model.predict(np.repeat(X, 9, axis=0), batch_size=9 * SAMPLES, verbose=0),
    ):
        assert made_by(change) == 1
        assert made_by(lambda: None) == 0
    # Scratch memory is each thread's own: once there, and once here again.
    before = len(recordings)
    thread = threading.Thread(target=fit, args=(model,), kwargs={"batch_size": 1})
    thread.start()
    thread.join()
    assert made_by(lambda: None) == 1
    assert len(recordings) == before + 2


def test_steps_are_recorded_anew_where_a_callback_has_changed_something():
    class Halving(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate /= 2

    runs = []
    for halve in (Halving(), None):
        utils.set_random_seed(2)
        model = network()
        model.compile(optimizers.SGD(0.1), "categorical_crossentropy")
        if halve:
            fit(model, batch_size=2, epochs=3, shuffle=False, callbacks=[halve])
        else:
            for rate in (0.1, 0.05, 0.025):
                model.optimizer.learning_rate = rate
                fit(model, batch_size=2, epochs=1, shuffle=False)
        runs.append(model.get_weights())
    assert_same_weights(*runs)


def test_an_optimizer_of_ones_own_takes_its_steps_in_python():
    class Noted(optimizers.SGD):
        def step(self, *arguments):
            super().step(*arguments)
            noted.append(self.iterations)

    noted = []
    model = network()
    model.compile(Noted(0.1, momentum=0.5), "categorical_crossentropy")
    fit(model, batch_size=1)
    assert noted == list(range(1, SAMPLES + 1))


def test_other_seeds_give_other_runs():
    weights, history = random_run(7)
    again, other = random_run(8)
    assert history["loss"] != other["loss"]
    assert all((ours != theirs).any() for ours, theirs in zip(weights, again, strict=True))


def test_shuffling_goes_through_every_sample_in_a_new_order():
    # With a learning rate of 0 each epoch sees the same model: any order gives the same mean...
    model = regression()
    model.optimizer.learning_rate = 0.0
    losses_of_epochs = fit(model, epochs=3)["loss"]
    np.testing.assert_allclose(losses_of_epochs, model.evaluate(X, ONE_HOT, verbose=0)[0], rtol=1e-6)
    # ...and with another rate the orders show.
    runs = []
    for shuffle in (True, True, False, False):
        utils.set_random_seed(0 if shuffle else 1)
        model = regression()
        model.set_weights([np.zeros((36, CLASSES)), np.zeros(CLASSES)])
        fit(model, shuffle=shuffle, epochs=2, batch_size=1)
        runs.append(model.get_weights())
    assert_same_weights(runs[0], runs[1])
    assert_same_weights(runs[2], runs[3])
    assert (runs[0][0] != runs[2][0]).any()


def test_dropout_works_in_training_only():
    model = models.Sequential([layers.Input((1000,)), layers.Dropout(0.25, seed=5)])
    ones = np.ones((4, 1000), np.float32)
    assert (model.predict(ones, verbose=0) == ones).all()
    assert (model(ones) == ones).all()
    first, second = model(ones, training=True), model(ones, training=True)
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.75], rtol=1e-6)
    # Five standard deviations of 4000 draws.
    assert abs((first == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / first.size)
    assert (first != second).any()
    model.compile("sgd", "mse")
    assert model.evaluate(ones, ones, verbose=0) == 0
    assert model.train_on_batch(ones, ones) > 0


# ------------------------------------------------------------------ structure


@pytest.mark.parametrize("name", ["digits", "cifar"])
def test_structure_is_keras_structure(name):
    model = {"digits": digits_network, "cifar": cifar_network}[name]("float32")
    with np.load(FACTS) as facts:
        prefix = f"facts/{name}"
        assert [layer.name for layer in model.layers] == facts[f"{prefix}/layer_names"].tolist()
        assert [type(layer).__name__ for layer in model.layers] == facts[f"{prefix}/layer_types"].tolist()
        assert [layer.count_params() for layer in model.layers] == facts[f"{prefix}/parameters"].tolist()
        assert model.count_params() == facts[f"{prefix}/total_parameters"]
        for layer in model.layers:
            assert layer.output_shape == tuple(facts[f"{prefix}/output_shape/{layer.name}"])
        # Every line of Keras's table of layers, without its frame.
        lines = []
        model.summary(lines.append)
        ours = [line.split() for line in lines]
        theirs = [line.strip(" │").replace("│", " ").split() for line in str(facts[f"{prefix}/summary"]).splitlines()]
        rows = [row for row in theirs if "(None," in row or "params:" in row]
        assert len(rows) == len(model.layers) + 3
        for row in rows[:-1]:
            assert row in ours


def test_summary_of_the_digits_network(capsys):
    digits_network("float32").summary()
    assert capsys.readouterr().out == SUMMARY


def test_names():
    kinds = [
        layers.Conv2D(2, 3, input_shape=(12, 12, 2)),
        layers.Conv2D(2, 3),
        layers.DepthwiseConv2D(3),
        layers.MaxPooling2D(),
        layers.AveragePooling2D(1),
        layers.ZeroPadding2D(),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.ReLU(),
        layers.LeakyReLU(),
        layers.Activation("tanh"),
        layers.Dropout(0.1),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="dense"),
        layers.Dense(2),
        layers.Softmax(),
    ]
    model = models.Sequential(kinds, name="all")
    assert [layer.name for layer in model.layers] == [
        "conv2d",
        "conv2d_1",
        "depthwise_conv2d",
        "max_pooling2d",
        "average_pooling2d",
        "zero_padding2d",
        "batch_normalization",
        "re_lu",
        "re_lu_1",
        "leaky_re_lu",
        "activation",
        "dropout",
        "global_average_pooling2d",
        "dense",
        "dense_1",
        "softmax",
    ]
    assert model.get_layer("re_lu_1") is model.layers[8]
    assert model.get_layer(index=0) is model.layers[0]
    with pytest.raises(ValueError, match=r"name: expected .* received 'conv'"):
        model.get_layer("conv")
    lines = []
    model.summary(lines.append)
    assert lines[0] == 'Model: "all"'
    # Moving means and variances are not trained.
    assert lines[-1] == "Non-trainable params: 4 (16 B)"
    assert str(model) == "<Sequential 'all', 16 layers>"


def test_three_ways_to_give_the_input_shape():
    results = []
    for way in ("Input", "input_shape", "from data", "build"):
        utils.set_random_seed(2)
        given = {"input_shape": SHAPE} if way == "input_shape" else {}
        model = models.Sequential([layers.Input(SHAPE)] if way == "Input" else [])
        model.add(layers.Conv2D(2, 3, **given))
        model.add(layers.Flatten())
        model.add(layers.Dropout(0.1))
        model.add(layers.Dense(CLASSES, "softmax"))
        model.compile("sgd", "categorical_crossentropy")
        if way == "build":
            model.build(SHAPE)
        assert model.built == (way != "from data")
        results.append((fit(model, epochs=2), model))
        assert model.input_shape == (None, *SHAPE)
    for history, model in results[1:]:
        assert history == results[0][0]
        assert_same_weights(model, results[0][1])


def test_layers_added_after_summary_and_after_training_keep_the_weights():
    model = network()
    fit(model)
    model.summary(lambda line: None)
    before, iterations = model.get_weights(), model.optimizer.iterations
    assert iterations == 3
    model.add(layers.Dense(4, "relu"))
    model.add(layers.Dense(CLASSES, "softmax"))
    assert_same_weights(model.get_weights()[:4], before)
    model.compile(optimizers.SGD(0.1), "categorical_crossentropy")
    twin = models.Sequential(
        [
            layers.Conv2D(2, 3, activation="relu", kernel_regularizer="l2", input_shape=SHAPE),
            layers.MaxPooling2D(),
            layers.Flatten(),
            # Once the loss absorbed this softmax; now it is one like any other.
            layers.Dense(CLASSES, activation="softmax", kernel_regularizer="l1"),
            layers.Dense(4, "relu"),
            layers.Dense(CLASSES, "softmax"),
        ]
    )
    twin.compile(optimizers.SGD(0.1), "categorical_crossentropy")
    twin.set_weights(model.get_weights())
    assert fit(model, shuffle=False, epochs=2) == fit(twin, shuffle=False, epochs=2)
    assert_same_weights(model, twin)


def test_pop():
    model = network()
    fit(model)
    kept = model.get_weights()
    top = model.pop()
    assert isinstance(top, layers.Dense)
    assert [layer.name for layer in model.layers] == ["conv2d", "max_pooling2d", "flatten"]
    assert model.predict(X, verbose=0).shape == (SAMPLES, 8)
    assert_same_weights(model, kept[:2])
    assert_same_weights(top.get_weights(), kept[2:])
    model.add(layers.Dense(CLASSES, "softmax"))
    assert model.layers[-1].name == "dense"
    fit(model)
    assert model.count_params() == 20 + 27
    # Other weights lie in the flat buffer now: moments and steps start anew.
    assert model.optimizer.iterations == 3


def test_weights_round_trip():
    model, other = network(), network()
    fit(model)
    weights = model.get_weights()
    assert [weight.shape for weight in weights] == [(3, 3, 1, 2), (2,), (8, CLASSES), (CLASSES,)]
    other.set_weights(weights)
    assert_same_weights(model, other)
    assert model.predict(X, verbose=0).tobytes() == other.predict(X, verbose=0).tobytes()
    # What was returned and what was given are copies.
    weights[0][...] = 0
    assert_same_weights(model, other)
    other.layers[0].set_weights([np.ones((3, 3, 1, 2)), [1, 2]])
    assert other.layers[0].bias.numpy().tolist() == [1, 2]
    assert other.count_params() == 20 + 27
    assert [variable.name for variable in model.variables] == ["kernel", "bias", "kernel", "bias"]
    assert len(model.trainable_variables) == 4


def test_absent_biases_are_no_weights():
    model = models.Sequential([layers.Input((4,)), layers.Dense(2, use_bias=False)])
    model.compile("sgd", "mse")
    assert model.count_params() == 8
    x = np.ones((3, 4))
    model.fit(x, np.ones((3, 2)), verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), x @ model.get_weights()[0], rtol=1e-6)


# ------------------------------------------------------------------ compile


def test_compiling_again_keeps_weights_and_starts_the_optimizer_anew():
    model = network()
    fit(model)
    before = model.get_weights()
    model.compile("adam", "mse")
    assert model.optimizer.iterations == 0
    assert_same_weights(model, before)
    assert list(fit(model)) == ["loss"]
    assert model.optimizer.iterations == 3
    optimizer = model.optimizer
    model.compile(optimizer, "categorical_crossentropy", ["accuracy"])
    assert model.optimizer is optimizer
    assert optimizer.iterations == 0
    assert list(fit(model)) == ["loss", "accuracy"]


def test_moments_start_anew_with_every_compile():
    model, twin = network(), network()
    fit(model, epochs=2)
    model.compile(optimizers.SGD(0.1, momentum=0.5), "categorical_crossentropy", metrics=["accuracy"])
    twin.set_weights(model.get_weights())
    assert fit(model, shuffle=False) == fit(twin, shuffle=False)
    assert_same_weights(model, twin)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize(("top", "kind"), [("softmax", "Categorical"), ("sigmoid", "Binary")])
def test_absorbed_activations_change_nothing_but_rounding(top, kind, from_logits):
    # With another layer above the activation the loss cannot absorb it; from_logits leaves it to the user.
    loss = {"Categorical": losses.CategoricalCrossentropy, "Binary": losses.BinaryCrossentropy}[kind]
    runs = []
    for absorbed in (True, False):
        utils.set_random_seed(0)
        model = models.Sequential([layers.Flatten(input_shape=SHAPE), layers.Dense(CLASSES)], dtype="float64")
        if not (absorbed and from_logits):
            model.add(layers.Activation(top))
        if not absorbed:
            model.add(layers.Flatten())
        model.compile(optimizers.SGD(0.1), loss(from_logits=absorbed and from_logits))
        runs.append((fit(model, epochs=2, shuffle=False)["loss"], model.get_weights()))
    np.testing.assert_allclose(*(run[0] for run in runs), rtol=1e-12)
    for ours, theirs in zip(*(run[1] for run in runs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_metric_may_serve_several_models(monkeypatch):
    kernel = cpu.mean_squared_error

    def checked(predictions, targets, scale, values, gradient):
        # Kernels trust the arrays that they are given.
        assert (gradient.shape, gradient.dtype) == (predictions.shape, predictions.dtype)
        kernel(predictions, targets, scale, values, gradient)

    monkeypatch.setattr(cpu, "mean_squared_error", checked)
    metric = metrics.MeanSquaredError()
    for units, dtype in ((CLASSES, "float32"), (1, "float32"), (2, "float64"), (CLASSES, "float32")):
        model = models.Sequential([layers.Flatten(input_shape=SHAPE), layers.Dense(units)], dtype=dtype)
        model.compile("sgd", "mse", [metric])
        loss, value = model.evaluate(X, np.ones((SAMPLES, units)), verbose=0)
        assert loss == pytest.approx(value, rel=1e-6)


# ------------------------------------------------------------------ callbacks


def test_when_callbacks_are_called():
    calls = []

    class Watch(callbacks.Callback):
        def on_train_begin(self, logs=None):
            calls.append("train begins")

        def on_epoch_begin(self, epoch, logs=None):
            calls.append(f"{epoch} begins")

        def on_epoch_end(self, epoch, logs=None):
            calls.append((f"{epoch} ends", sorted(logs)))
            self.model.stop_training = epoch == 1

        def on_train_end(self, logs=None):
            calls.append("train ends")

    history = regression().fit(X, ONE_HOT, epochs=5, verbose=0, callbacks=[Watch()], validation_split=0.2)
    names = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert calls == ["train begins", "0 begins", ("0 ends", names), "1 begins", ("1 ends", names), "train ends"]
    assert history.epoch == [0, 1]


def test_the_learning_rate_may_change_between_epochs():
    kept = []

    class Freeze(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(self.model.get_weights())
            self.model.optimizer.learning_rate = 0.0 if epoch == 0 else 0.1

    model = regression()
    fit(model, epochs=3, callbacks=[Freeze()])
    assert_same_weights(kept[0], kept[1])
    assert (kept[1][0] != kept[2][0]).any()


@pytest.mark.parametrize(
    ("settings", "values", "stopped", "best"),
    [
        ({}, [3, 2, 1, 1], 3, 2),
        ({}, [3, 4], 1, 0),
        ({"patience": 2}, [3, 4, 2, 5, 5], 4, 2),
        ({"patience": 2}, [3, 4, 2, 5, 1], None, 4),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6], 1, 0),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.4, 2.0], 2, 1),
        ({"mode": "max"}, [1, 2, 1.5], 2, 1),
        ({"mode": "min"}, [2, 1, 1.5], 2, 1),
        ({"monitor": "val_accuracy"}, [0.1, 0.5, 0.4], 2, 1),
        ({"monitor": "val_accuracy", "mode": "min"}, [0.5, 0.1, 0.4], 2, 1),
        ({"patience": 3}, [3, np.nan, np.nan, np.nan], 3, 0),
    ],
)
@pytest.mark.parametrize("restore", [False, True])
def test_early_stopping(settings, values, stopped, best, restore):
    # A model whose weights are the number of the epoch.
    model = SimpleNamespace(stop_training=False, weights=None)
    model.get_weights = lambda: model.weights
    model.set_weights = lambda weights: setattr(model, "weights", weights)
    stopping = callbacks.EarlyStopping(**settings, restore_best_weights=restore)
    stopping.set_model(model)
    stopping.set_params({"metrics": [stopping.monitor]})
    stopping.on_train_begin()
    for epoch, value in enumerate(values):
        assert not model.stop_training
        model.weights = epoch
        stopping.on_epoch_end(epoch, {stopping.monitor: value})
    stopping.on_train_end()
    assert model.stop_training == (stopped is not None)
    assert stopping.stopped_epoch == (stopped or 0)
    assert stopping.best_epoch == best
    assert model.weights == (best if restore else len(values) - 1)


def test_early_stopping_in_training():
    model = regression()
    model.optimizer.learning_rate = 0.0
    stopping = callbacks.EarlyStopping(patience=2)
    for _ in range(2):  # the second run begins anew
        history = model.fit(X, ONE_HOT, epochs=20, verbose=0, validation_split=0.3, callbacks=[stopping])
        assert history.epoch == [0, 1, 2]


class Worsen(callbacks.Callback):
    """Spoils the weights after some epoch; remembers them as they were."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.kept = self.model.get_weights()
            self.model.set_weights([10 * weight[..., ::-1] for weight in self.kept])


def test_early_stopping_restores_the_best_weights():
    x, y = separable()
    model = regression()
    worsen = Worsen()
    stopping = callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)
    history = fit(model, x, y, epochs=9, callbacks=[stopping, worsen])
    assert stopping.stopped_epoch == 2
    assert len(history["loss"]) == 3
    assert_same_weights(model, worsen.kept)


def test_a_monitor_that_there_is_not():
    with pytest.raises(ValueError, match="monitor: expected one of loss, accuracy, received 'val_loss'"):
        fit(regression(), callbacks=[callbacks.EarlyStopping()])


def test_an_interrupt_leaves_weights_and_history():
    class Interrupt(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    utils.set_random_seed(4)
    model = network()
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=5, callbacks=[Interrupt()])
    assert model.history.epoch == [0, 1]
    assert len(model.history.history["loss"]) == 2
    utils.set_random_seed(4)
    twin = network()
    assert fit(twin, epochs=2) == model.history.history
    assert_same_weights(model, twin)
    fit(model)
    assert model.history.epoch == [0]


# ------------------------------------------------------------------ kinds of data


def test_labels_of_several_kinds():
    histories = []
    for labels in (
        LABELS,
        LABELS[:, np.newaxis],
        LABELS[:, np.newaxis].astype(np.uint8),
        LABELS.astype(float),
        LABELS.tolist(),
    ):
        utils.set_random_seed(0)
        model = network()
        model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
        histories.append(fit(model, y=labels, epochs=2))
    utils.set_random_seed(0)
    model = network()
    model.compile("sgd", "categorical_crossentropy", ["accuracy"])
    histories.append(fit(model, epochs=2))
    for history in histories[:-1]:
        assert history == histories[0]
    np.testing.assert_allclose(histories[0]["loss"], histories[-1]["loss"], rtol=1e-6)
    assert histories[0]["accuracy"] == histories[-1]["accuracy"]


def test_pictures_of_several_kinds():
    pictures = np.random.RandomState(0).randint(0, 2, X.shape)
    expected = None
    for kind in (np.float32, np.float64, np.uint8, np.int64, bool, np.float16):
        utils.set_random_seed(0)
        model = network()
        history = fit(model, pictures.astype(kind))
        expected = expected or history
        assert history == expected
    # Memory of other orders, too.
    utils.set_random_seed(0)
    assert fit(network(), np.asfortranarray(pictures.astype(np.float32))) == expected
    utils.set_random_seed(0)
    assert fit(network(), np.repeat(pictures, 2, axis=1)[:, ::2]) == expected


def test_targets_of_one_output():
    y = (LABELS > 0).astype(int)
    results = []
    for targets in (y, y[:, np.newaxis], y.astype(bool)):
        utils.set_random_seed(0)
        model = models.Sequential([layers.Flatten(input_shape=SHAPE), layers.Dense(1, "sigmoid")])
        model.compile("sgd", "binary_crossentropy", ["accuracy"])
        results.append(fit(model, y=targets, epochs=2))
    assert results[0] == results[1] == results[2]


def test_outputs_that_are_pictures():
    # One class for each pixel; a row of the loss is a pixel.
    labels = (X[..., 0] > 0.5).astype(np.uint8)
    model = models.Sequential([layers.Conv2D(2, 1, activation="softmax", input_shape=SHAPE)])
    model.compile(optimizers.SGD(5.0), "sparse_categorical_crossentropy", ["accuracy"])
    history = fit(model, y=labels[..., np.newaxis], epochs=40)
    assert history["loss"][0] < 2 * np.log(2)
    assert history["accuracy"][-1] > 0.9
    probabilities = model.predict(X, verbose=0)
    expected = -np.log(np.take_along_axis(probabilities, labels[..., np.newaxis].astype(int), axis=3)).mean()
    assert model.evaluate(X, labels, verbose=0)[0] == pytest.approx(expected, rel=1e-5)


def test_float64():
    model = network(dtype="float64")
    fit(model, validation_split=0.2)
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype("float64")}
    assert model.predict(X, verbose=0).dtype == np.float64
    assert network().predict(X.astype(np.float64), verbose=0).dtype == np.float32


def test_a_model_without_weights():
    model = models.Sequential([layers.Input(SHAPE), layers.GlobalAveragePooling2D()])
    model.compile("sgd", "mse")
    means = X.mean(axis=(1, 2))
    assert fit(model, y=means)["loss"][0] == pytest.approx(0, abs=1e-12)
    assert model.count_params() == 0


# ------------------------------------------------------------------ learning


def separable():
    """Pictures whose class is the third of the rows that is bright: a line apart from each other."""
    labels = np.arange(24) % CLASSES
    x = np.random.RandomState(1).uniform(0, 0.2, (24, *SHAPE)).astype(np.float32)
    for number, label in enumerate(labels):
        x[number, 2 * label : 2 * label + 2] += 0.8
    return x, np.eye(CLASSES)[labels]


OPTIMIZERS = {
    "SGD": lambda: optimizers.SGD(0.5),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "Nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "weight decay": lambda: optimizers.SGD(0.5, weight_decay=1e-3),
    "Adam": lambda: optimizers.Adam(0.02),
    "RMSprop": lambda: optimizers.RMSprop(0.01),
    "centered RMSprop": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
}
LOSSES = {
    "categorical": ("softmax", losses.CategoricalCrossentropy()),
    "categorical from logits": (None, losses.CategoricalCrossentropy(from_logits=True)),
    "sparse": ("softmax", losses.SparseCategoricalCrossentropy()),
    "sparse from logits": (None, losses.SparseCategoricalCrossentropy(from_logits=True)),
    "binary": ("sigmoid", losses.BinaryCrossentropy()),
    "binary from logits": (None, losses.BinaryCrossentropy(from_logits=True)),
    "squares": (None, losses.MeanSquaredError()),
    "squares of probabilities": ("softmax", losses.MeanSquaredError()),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_optimizer_learns_with_every_loss(optimizer, loss):
    utils.set_random_seed(0)
    x, y = separable()
    activation, loss = LOSSES[loss]
    model = models.Sequential([layers.Flatten(input_shape=SHAPE), layers.Dense(CLASSES, activation)])
    model.compile(OPTIMIZERS[optimizer](), loss)
    history = fit(model, x, y.argmax(axis=1) if loss.sparse else y, epochs=40, batch_size=8)
    assert history["loss"][-1] < history["loss"][0]
    assert (model.predict(x, verbose=0).argmax(axis=1) == y.argmax(axis=1)).all()


def test_a_network_of_every_layer_learns():
    utils.set_random_seed(0)
    x, y = separable()
    model = models.Sequential(
        [
            layers.ZeroPadding2D(1, input_shape=SHAPE),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.5),
            layers.ReLU(max_value=6),
            layers.DepthwiseConv2D(3, padding="same", activation="gelu"),
            layers.AveragePooling2D((2, 2)),
            layers.Conv2D(6, (1, 1), activation="leaky_relu", kernel_regularizer=regularizers.L1L2(1e-5, 1e-4)),
            layers.LeakyReLU(),
            layers.Dropout(0.1),
            layers.MaxPooling2D((1, 3)),
            layers.Flatten(),
            layers.Dense(CLASSES),
            layers.Softmax(),
        ]
    )
    model.compile(optimizers.Adam(0.01), "categorical_crossentropy", ["accuracy"])
    history = fit(model, x, y, epochs=40, batch_size=8)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert model.evaluate(x, y, verbose=0)[1] == 1


# ------------------------------------------------------------------ memory


def test_steps_after_the_first_make_no_arrays(monkeypatch):
    monkeypatch.setenv("GPUCONV_DEVICE", "cpu")
    made, at_step = [], []
    for name in ("empty", "zeros", "from_host", "to_host"):
        call = getattr(cpu, name)
        monkeypatch.setattr(cpu, name, lambda *given, call=call, name=name: made.append(name) or call(*given))
    step = cpu.adam
    monkeypatch.setattr(cpu, "adam", lambda *given: at_step.append(len(made)) or step(*given))
    model = models.Sequential(
        [
            layers.Conv2D(2, 3, activation="gelu", kernel_regularizer="l2", input_shape=SHAPE),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.MaxPooling2D(),
            # Steps are taken in Python, where their calls are counted.
            UnknownFlatten(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", "categorical_crossentropy", ["accuracy", "mse"])
    fit(model, epochs=3, validation_data=(X, ONE_HOT))
    # Batches of 4, 4 and 2 in each epoch.
    assert len(at_step) == 9
    first, second, third = at_step[0:3], at_step[3:6], at_step[6:9]
    for epoch in (first, second, third):
        assert epoch[0] == epoch[1] == epoch[2]
    # Between epochs an order goes to the device, new sums start there and others are read.
    assert third[0] - second[0] == second[0] - first[0]
    assert "empty" not in made[first[0] :]


def test_a_layer_that_names_another_input_is_refused():
    model = models.Sequential([layers.Input((8, 8, 1))])
    with pytest.raises(ValueError, match=r"input_shape: expected \(8, 8, 1\).*received \(28, 28, 1\)"):
        model.add(layers.Conv2D(2, 3, input_shape=(28, 28, 1)))
    assert model.layers == []


def test_an_optimizer_that_was_replaced_is_free():
    old = optimizers.SGD()
    first, second = (models.Sequential([layers.Input((2,)), layers.Dense(1)]) for _ in range(2))
    first.compile(old, "mse")
    first.compile("adam", "mse")
    second.compile(old, "mse")
    assert second.optimizer is old


class NumpyLoss(losses.Loss):
    """A loss of a user's own, which computes in NumPy."""

    kernel = logits_kernel = "mean_squared_error"
    calls = 0

    def compute(self, device, predictions, targets, from_logits, scale, losses, gradient):
        self.calls += 1
        losses[:] = ((predictions - targets) ** 2).mean(axis=1)
        gradient[:] = scale * 2 / predictions.shape[1] * (predictions - targets)


def test_losses_of_others_are_called_every_step(monkeypatch):
    monkeypatch.setenv("GPUCONV_DEVICE", "cpu")
    x, y = np.random.RandomState(0).uniform(-1, 1, (2, 24, 3)).astype(np.float32)
    histories = []
    for loss in ("mse", NumpyLoss()):
        utils.set_random_seed(1)
        model = models.Sequential([layers.Dense(3, input_shape=(3,))])
        model.compile(optimizers.SGD(0.1), loss)
        histories.append(model.fit(x, y, batch_size=4, epochs=2, verbose=0).history["loss"])
    assert model.loss.calls == 12
    np.testing.assert_allclose(*histories, rtol=1e-5)
