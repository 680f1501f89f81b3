"""49 networks that read digits, by Keras on TensorFlow: ``grid_keras.py DIGITS.npz EPOCHS``."""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np


def create_network(eta, lmbd):
    penalty = keras.regularizers.l2(lmbd)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(10, (3, 3), activation="relu", kernel_regularizer=penalty),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(50, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dense(10, activation="softmax", kernel_regularizer=penalty),
        ]
    )
    model.compile(keras.optimizers.SGD(learning_rate=eta), loss="categorical_crossentropy", metrics=["accuracy"])
    return model


if __name__ == "__main__":
    data, epochs = np.load(sys.argv[1]), int(sys.argv[2])
    values = [10.0**exponent for exponent in range(-5, 2)]
    accuracies = []
    start = time.perf_counter()
    for eta in values:
        for lmbd in values:
            keras.utils.set_random_seed(0)
            keras.backend.clear_session()
            model = create_network(eta, lmbd)
            # Only the last epoch's test accuracy is wanted: evaluated once, which favours Keras.
            model.fit(data["x"], data["y"], batch_size=100, epochs=epochs, verbose=0)
            accuracies.append(model.evaluate(data["x_test"], data["y_test"], verbose=0)[1])
    seconds = time.perf_counter() - start
    library = f"Keras {keras.__version__} on {keras.backend.backend()}"
    print(json.dumps({"library": library, "seconds": seconds, "best": float(max(accuracies))}))
