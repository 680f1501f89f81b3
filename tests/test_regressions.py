"""Faults that were found after the fact; each test fails on the code that had the fault."""

import numpy as np
import pytest
from gpuconv.kernels import cpu
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry

from gpuconv import callbacks, layers, losses, models, optimizers, utils


def dense_model(optimizer, units=3, loss="mse", metrics=None, **settings):
    """A compiled model of one dense layer on four features."""
    model = models.Sequential([layers.Input((4,)), layers.Dense(units, **settings)])
    model.compile(optimizer, loss, metrics)
    return model


X, Y = np.ones((6, 4)), np.ones((6, 3))


@pytest.mark.parametrize(
    ("optimizer", "setting", "value"),
    [
        (optimizers.SGD(), "momentum", 0.9),
        (optimizers.RMSprop(), "centered", True),
        (optimizers.RMSprop(), "momentum", 0.5),
    ],
    ids=["SGD momentum", "RMSprop centered", "RMSprop momentum"],
)
def test_a_setting_that_needs_a_moment_may_change_between_steps(optimizer, setting, value):
    model = dense_model(optimizer)
    model.fit(X, Y, verbose=0)
    setattr(optimizer, setting, value)
    model.fit(X, Y, verbose=0)
    needed = [moment for moment, used in zip(optimizer._moments, optimizer._used_slots(), strict=True) if used]
    assert all(moment.shape == model._parameters.shape for moment in needed)


def test_a_layer_belongs_to_one_model():
    layer = layers.Dense(3)
    first, second = models.Sequential([layer]), models.Sequential()
    with pytest.raises(ValueError, match=r"layer: expected a new layer, received .*belongs to a model already"):
        second.add(layer)
    assert first.pop() is layer
    second.add(layer)
    assert second.predict(np.ones((2, 5)), verbose=0).shape == (2, 3)


def test_a_popped_layer_keeps_its_weights_where_they_fit():
    model = models.Sequential([layers.Input((4,)), layers.Dense(3, name="top")])
    kernel = model.get_weights()[0]
    top = model.pop()
    model.add(top)
    np.testing.assert_array_equal(model.get_weights()[0], kernel)
    other = models.Sequential([layers.Input((5,))])
    model.pop()
    with pytest.raises(ValueError, match=r"layer: expected one whose weights fit samples of shape \(5,\)"):
        other.add(top)


def relative_error(actual, exact):
    return np.abs(np.asarray(actual, np.float64) / exact - 1).max()


def test_long_float32_sums_keep_their_digits():
    rows = 100_000
    x, dy = np.full((rows, 1), 0.1, np.float32), np.ones((rows, 1), np.float32)
    kernel, bias = np.empty((1, 1), np.float32), np.empty(1, np.float32)
    cpu.dense_gradient_kernel(x, dy, dy, 0, 0.0, kernel, bias)
    assert relative_error(kernel, rows * np.float64(np.float32(0.1))) < 2e-5
    assert relative_error(bias, rows) < 2e-5

    geometry = correlation_geometry((32, 48, 48, 1), 1, 1)
    x, dy = np.full(geometry.input_shape, 0.1, np.float32), np.ones(geometry.output_shape, np.float32)
    filters = np.empty(geometry.filters_shape, np.float32)
    cpu.correlate2d_gradient_filters(x, dy, dy, geometry, 0, 0.0, filters, bias)
    assert relative_error(filters, x.size * np.float64(np.float32(0.1))) < 2e-5

    geometry = pooling_geometry((1, 300, 300, 1), 300)
    mean = np.empty(geometry.output_shape, np.float32)
    cpu.average_pool2d(np.full(geometry.input_shape, 0.1, np.float32), geometry, mean)
    assert relative_error(mean, np.float64(np.float32(0.1))) < 2e-5


def test_accuracy_goes_by_the_shape_of_the_output():
    one_hot = np.eye(10)[np.zeros(6, int)]
    model = dense_model("sgd", 10, "binary_crossentropy", ["accuracy"], activation="sigmoid")
    accuracy = model.evaluate(X, one_hot, verbose=0)[1]
    assert accuracy == np.mean(model.predict(X, verbose=0).argmax(axis=1) == 0)


@pytest.mark.parametrize(
    "optimizer", [optimizers.Adam(epsilon=0), optimizers.RMSprop(epsilon=0)], ids=["Adam", "RMSprop"]
)
def test_penalties_do_not_see_the_gaps_of_the_flat_buffer(optimizer):
    # All gradients are nonzero: only the gap between kernel and bias divides zero by zero.
    model = dense_model(optimizer, kernel_regularizer="l2", bias_regularizer="l2")
    history = model.fit(X, Y + np.arange(3), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_nan_is_the_largest_prediction_as_in_numpy():
    hits = np.empty(2, np.float32)
    predictions = np.array([[1, np.nan, 3], [np.nan, 5, np.nan]], np.float32)
    cpu.sparse_accuracy(predictions, np.array([1, 0], np.int32), hits)
    assert hits.tolist() == [1, 1]
    assert predictions.argmax(axis=1).tolist() == [1, 0]


def test_refusals_leave_a_model_unbuilt():
    model = models.Sequential([layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="validation_split"):
        model.fit(np.ones((1, 2)), np.ones((1, 1)), validation_split=0.5, verbose=0)
    assert not model.built
    for ask in (model.predict, model):
        with pytest.raises(ValueError, match="x: expected numbers within float32"):
            ask(np.full((1, 4), 1e300))
        assert not model.built


def test_a_metric_that_does_not_fit_is_refused_every_time():
    model = dense_model("sgd", metrics=["sparse_categorical_accuracy"])
    for _ in range(2):
        with pytest.raises(ValueError, match="metrics: expected a metric for rows of targets"):
            model.predict(X, verbose=0)


def test_early_stopping_is_refused_before_any_work():
    model = dense_model("sgd")
    before = model.get_weights()
    with pytest.raises(ValueError, match="monitor: expected one of loss, received 'val_loss'; val_ values need"):
        model.fit(X, Y, callbacks=[callbacks.EarlyStopping()], verbose=0)
    assert model.optimizer.iterations == 0
    for weight, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_frozen_layers_are_refused_rather_than_trained():
    layer = layers.Dense(1)
    layer.trainable = True
    with pytest.raises(ValueError, match="trainable: expected True"):
        layer.trainable = False


@pytest.mark.parametrize(
    "name", ["categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy", "mse"]
)
def test_loss_functions_are_those_of_the_classes(name):
    function = getattr(losses, name)
    loss = losses.get(function)
    utils.set_random_seed(0)
    predictions = np.random.default_rng(0).uniform(0.1, 0.9, (5, 3))
    targets = np.array([0, 1, 2, 1, 0]) if loss.sparse else np.eye(3)[[0, 1, 2, 1, 0]]
    assert function(targets, predictions).shape == (5,)
    assert function(targets, predictions).mean() == pytest.approx(loss(targets, predictions), rel=1e-14)
    assert type(losses.get(name)) is type(loss)
    with pytest.raises(TypeError, match=r"loss: expected a loss of gpuconv\.losses"):
        losses.get(losses.Loss)
