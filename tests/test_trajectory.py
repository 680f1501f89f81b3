"""Training follows Keras: the lecture's two networks, from the same weights, batch by batch in the same order.

The recordings and how they were made: `tests/golden/README.md`.
"""

from pathlib import Path

import numpy as np
import pytest
from golden import problems

from gpuconv import layers, losses, models, optimizers, regularizers

GOLDEN = Path(__file__).parent / "golden"

# float64 runs do the same sums in another order; float32 runs are held to the recorded float64 one,
# from which Keras's own float32 runs differ by up to 7e-6.
RELATIVE = {"float64": 1e-9, "float32": 1e-4}


def digits_network(dtype):
    """Ten 3 x 3 filters, pool, fifty neurons, softmax, with L2 penalties: see `digits_cnn.py`."""
    penalty = regularizers.l2(problems.DIGITS_L2)
    model = models.Sequential(dtype=dtype)
    model.add(layers.Conv2D(10, (3, 3), input_shape=(8, 8, 1), activation="relu", kernel_regularizer=penalty))
    model.add(layers.MaxPooling2D(pool_size=(2, 2)))
    model.add(layers.Flatten())
    model.add(layers.Dense(50, activation="relu", kernel_regularizer=penalty))
    model.add(layers.Dense(10, activation="softmax", kernel_regularizer=penalty))
    sgd = optimizers.SGD(lr=problems.DIGITS_LEARNING_RATE)
    model.compile(loss="categorical_crossentropy", optimizer=sgd, metrics=["accuracy"])
    return model


def cifar_network(dtype):
    """Three correlations and two dense layers, trained by Adam on logits."""
    model = models.Sequential(dtype=dtype)
    model.add(layers.Conv2D(32, (3, 3), activation="relu", input_shape=(32, 32, 3)))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.add(layers.Flatten())
    model.add(layers.Dense(64, activation="relu"))
    model.add(layers.Dense(10))
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def follow(model, network, data):
    """Train as the recording did; return history, final weights and the first predictions."""
    (x, y), validation = data
    model.set_weights(problems.initial_weights(network.weight_shapes, network.seed))
    history = model.fit(
        x, y, batch_size=network.batch_size, epochs=network.epochs, shuffle=False, validation_data=validation, verbose=0
    ).history
    return history, model.get_weights(), model.predict(validation[0][: problems.PREDICTED], verbose=0)


def assert_near(actual, expected, relative, what):
    """The largest difference is small beside the largest number."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.abs(actual - expected).max() <= relative * np.abs(expected).max(), what


@pytest.fixture(scope="module")
def recorded():
    """All recordings of both networks."""
    values = {}
    for name in ("digits", "cifar"):
        with np.load(GOLDEN / f"{name}.npz") as file:
            values.update(file)
    return values


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["digits", "cifar"])
def test_follows_keras(name, dtype, recorded):
    network = {"digits": problems.DIGITS, "cifar": problems.CIFAR}[name]
    model = {"digits": digits_network, "cifar": cifar_network}[name](dtype)
    data = {"digits": problems.digits, "cifar": problems.cifar}[name]()
    weights = problems.initial_weights(network.weight_shapes, network.seed)
    assert problems.checksum(*data[0], *data[1]) == recorded[f"{name}/data_checksum"]
    assert problems.checksum(*weights) == recorded[f"{name}/initial_weights_checksum"]

    history, final, predictions = follow(model, network, data)

    relative = RELATIVE[dtype]
    for key, values in history.items():
        assert_near(values, recorded[f"{name}/float64/history/{key}"], relative, key)
    assert_near(predictions, recorded[f"{name}/float64/predictions"], relative, "predictions")
    for number, weight in enumerate(final):
        if name == "digits":
            assert_near(weight, recorded[f"digits/float64/weights/{number}"], relative, f"weight {number}")
        else:
            sampled = recorded[f"cifar/float64/sampled_weights/{number}"]
            assert_near(weight.ravel()[:: problems.SAMPLING], sampled, relative, f"sampled weight {number}")
            rounded = recorded[f"cifar/float64/rounded_weights/{number}"]
            assert_near(weight, rounded, max(relative, 1e-7), f"weight {number}")
