"""Programs that make the lecture's calls to Keras, argument for argument, run on gpuconv.

Written for these tests; what the lecture trains for 100 epochs is trained for two here.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from golden.problems import cifar_like
from sklearn.model_selection import train_test_split

import gpuconv
from gpuconv import datasets, layers, models, optimizers, regularizers
from gpuconv.layers import Conv2D, Dense, Flatten, Input, MaxPooling2D
from gpuconv.models import Sequential
from gpuconv.utils import to_categorical


def build_digit_reader(input_shape, receptive_field, n_filters, n_neurons_connected, n_categories, eta, lmbd):
    """The network of the grid search, layer by layer."""
    network = Sequential()
    network.add(
        Conv2D(
            n_filters,
            (receptive_field, receptive_field),
            input_shape=input_shape,
            padding="same",
            activation="relu",
            kernel_regularizer=regularizers.l2(lmbd),
        )
    )
    network.add(MaxPooling2D(pool_size=(2, 2)))
    network.add(Flatten())
    network.add(Dense(n_neurons_connected, activation="relu", kernel_regularizer=regularizers.l2(lmbd)))
    network.add(Dense(n_categories, activation="softmax", kernel_regularizer=regularizers.l2(lmbd)))
    sgd = optimizers.SGD(lr=eta)
    network.compile(loss="categorical_crossentropy", optimizer=sgd, metrics=["accuracy"])
    return network


def test_the_grid_search_over_digits(capsys):
    gpuconv.utils.set_random_seed(2)
    images, labels = datasets.digits.load_data()
    inputs = images[:, :, :, np.newaxis]
    targets = to_categorical(labels)
    x_train, x_test, y_train, y_test = train_test_split(inputs, targets, train_size=0.8, test_size=0.2, random_state=1)
    eta_values = np.logspace(-5, 1, 7)
    lmbd_values = np.logspace(-5, 1, 7)

    networks = np.zeros((len(eta_values), len(lmbd_values)), dtype=object)
    for i, eta in enumerate(eta_values):
        for j, lmbd in enumerate(lmbd_values):
            network = build_digit_reader(x_train.shape[1:4], 3, 10, 50, 10, eta, lmbd)
            # eta = 10 diverges to NaN within two epochs: that is for the heatmap to show, not an error.
            network.fit(x_train, y_train, epochs=2, batch_size=100, verbose=0)
            scores = network.evaluate(x_test, y_test)
            assert len(scores) == 2
            networks[i][j] = network

    train_accuracy = np.zeros(networks.shape)
    test_accuracy = np.zeros(networks.shape)
    for i in range(len(eta_values)):
        for j in range(len(lmbd_values)):
            train_accuracy[i][j] = networks[i][j].evaluate(x_train, y_train)[1]
            test_accuracy[i][j] = networks[i][j].evaluate(x_test, y_test)[1]
    assert ((train_accuracy >= 0) & (train_accuracy <= 1)).all()
    # The learning rates of the middle have learnt something, a tiny one has not.
    assert test_accuracy[3, :4].mean() > 0.5 > test_accuracy[0].max()
    assert capsys.readouterr().out.count("accuracy") == 3 * networks.size


def test_the_cifar_program(monkeypatch, capsys):
    # The data set itself is 170 MB; pictures of its kind stand in.
    parts = [cifar_like(count, seed) for count, seed in ((320, 1), (64, 2))]
    stand_in = tuple((np.round(x * 255).astype(np.uint8), y) for x, y in parts)
    monkeypatch.setattr(datasets.cifar10, "load_data", lambda: stand_in)

    (train_images, train_labels), (test_images, test_labels) = datasets.cifar10.load_data()
    train_images, test_images = train_images / 255.0, test_images / 255.0

    model = models.Sequential()
    model.add(layers.Conv2D(32, (3, 3), activation="relu", input_shape=(32, 32, 3)))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.summary()
    base = capsys.readouterr().out
    assert "(None, 4, 4, 64)" in base
    assert "56,320" in base

    model.add(layers.Flatten())
    model.add(layers.Dense(64, activation="relu"))
    model.add(layers.Dense(10))
    model.summary()
    assert "122,570" in capsys.readouterr().out

    model.compile(
        optimizer="adam",
        loss=gpuconv.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(train_images, train_labels, epochs=4, validation_data=(test_images, test_labels))

    plt.figure()
    plt.plot(history.history["accuracy"], label="accuracy")
    plt.plot(history.history["val_accuracy"], label="val_accuracy")
    plt.legend(loc="lower right")
    plt.close()
    test_loss, test_accuracy = model.evaluate(test_images, test_labels, verbose=2)
    assert [test_loss, test_accuracy] == [history.history[f"val_{name}"][-1] for name in ("loss", "accuracy")]
    assert test_accuracy > 0.5


def test_what_the_lecture_imports():
    import gpuconv.datasets as data

    assert models.Sequential is Sequential
    assert layers.Input is Input
    assert data is datasets
