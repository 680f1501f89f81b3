"""The whole trainer on CUDA, in Numba's simulator, against the CPU device: the same runs, to rounding.

Every CUDA thread is a Python thread here, so the networks and the data are as small as they can be.
"""

import numpy as np
import pytest

from gpuconv import device, layers, losses, metrics, models, optimizers, regularizers, use_device, utils

SHAPE = (6, 6, 1)
CLASSES = 3
RANDOM = np.random.RandomState(0)
X = RANDOM.uniform(0, 1, (5, *SHAPE)).astype(np.float32)
LABELS = np.array([[0], [2], [1], [1], [0]], np.uint8)
ONE_HOT = np.eye(CLASSES)[LABELS[:, 0]]

# Both devices round to float32, in other orders; a step passes rounding errors of a few dozen sums on to the next.
RELATIVE = 1e-5


def lecture_network(name):
    """The lecture's network: penalties, a softmax that the loss absorbs, momentum."""
    model = models.Sequential(device=name)
    penalty = regularizers.L1L2(0.01, 0.01)
    model.add(layers.Conv2D(2, 3, activation="relu", kernel_regularizer=penalty, input_shape=SHAPE))
    model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(CLASSES, activation="softmax"))
    model.compile(optimizers.SGD(0.1, momentum=0.9), "categorical_crossentropy", ["accuracy"])
    return model, ONE_HOT


def deeper_network(name):
    """Everything else: padding, strides, groups, normalization, dropout, average pooling, logits, Adam."""
    model = models.Sequential(device=name)
    model.add(layers.ZeroPadding2D(((0, 1), (1, 0)), input_shape=SHAPE))
    model.add(layers.Conv2D(2, 3, strides=2, padding="same", use_bias=False))
    model.add(layers.BatchNormalization(momentum=0.5))
    model.add(layers.ReLU())
    model.add(layers.Conv2D(2, (2, 1), groups=2, activation="gelu"))
    model.add(layers.Dropout(0.25))
    model.add(layers.AveragePooling2D(2))
    model.add(layers.Flatten())
    model.add(layers.Dense(CLASSES))
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizers.Adam(0.01), loss, ["accuracy"])
    return model, LABELS


def regression(name):
    """Softmax as a pass of its own, squares, and the third optimiser."""
    model = models.Sequential([layers.GlobalAveragePooling2D(input_shape=SHAPE)], device=name)
    model.add(layers.Dense(CLASSES, activation="softmax"))
    model.compile(optimizers.RMSprop(0.01, momentum=0.5, centered=True), "mse", [metrics.CategoricalAccuracy(), "mse"])
    return model, ONE_HOT


def run(make, name):
    """Train, evaluate and predict; return history, weights and predictions."""
    utils.set_random_seed(1)
    model, y = make(name)
    history = model.fit(X, y, batch_size=3, epochs=2, verbose=0, validation_split=0.2).history
    assert model.device is device.module(name)
    numbers = {
        f"{key} of epoch {epoch}": value for key, values in history.items() for epoch, value in enumerate(values)
    }
    evaluated = model.evaluate(X[:2], y[:2], verbose=0, return_dict=True)
    numbers.update({f"evaluated {key}": value for key, value in evaluated.items()})
    return numbers, model.get_weights(), model.predict(X[:3], batch_size=2, verbose=0), model(X[:1])


@pytest.mark.parametrize("make", [lecture_network, deeper_network, regression])
def test_training_is_that_of_the_cpu(make):
    history, weights, predictions, one = run(make, "cuda")
    expected_history, expected_weights, expected_predictions, expected_one = run(make, "cpu")
    assert history.keys() == expected_history.keys()
    for key, values in history.items():
        assert values == pytest.approx(expected_history[key], rel=RELATIVE), key
    for number, (weight, expected) in enumerate(zip(weights, expected_weights, strict=True)):
        assert weight.dtype == expected.dtype == np.float32
        assert np.abs(weight - expected).max() <= RELATIVE * max(np.abs(expected).max(), 0.1), number
    np.testing.assert_allclose(predictions, expected_predictions, rtol=RELATIVE, atol=RELATIVE)
    np.testing.assert_allclose(one, expected_one, rtol=RELATIVE, atol=RELATIVE)


def test_a_model_moves_between_devices():
    model = models.Sequential([layers.Input((4,)), layers.Dense(2, activation="tanh")])
    model.compile(optimizers.SGD(0.1), "mse")
    x, y = X[:2, 0, :4, 0], ONE_HOT[:2, :2]
    with use_device("cuda"):
        on_cuda = model.predict(x, verbose=0)
        model.train_on_batch(x, y)
        weights = model.get_weights()
        assert model.device is device.module("cuda")
    with use_device("cpu"):
        assert [weight.tobytes() for weight in model.get_weights()] == [weight.tobytes() for weight in weights]
        trained = model.predict(x, verbose=0)
        assert model.device is device.module("cpu")
    assert (on_cuda != trained).any()
    with use_device("cuda"):
        np.testing.assert_allclose(model.predict(x, verbose=0), trained, rtol=1e-6)
