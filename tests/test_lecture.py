"""Programs that make the lecture's calls to Keras, argument for argument, run on gpuconv.

Written for these tests; what the lecture trains for 100 epochs is trained for two here.
"""

import numpy as np
from sklearn.model_selection import train_test_split

from gpuconv import datasets, optimizers, regularizers
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
    assert test_accuracy[3, :4].min() > 0.5 > test_accuracy[0].max()
    assert capsys.readouterr().out.count("accuracy") == 3 * networks.size


def test_what_the_lecture_imports():
    import gpuconv.datasets as data
    from gpuconv import layers, models

    assert models.Sequential is Sequential
    assert layers.Input is Input
    assert data is datasets
