"""49 networks that read digits, by gpuconv: ``grid_gpuconv.py DIGITS.npz EPOCHS``."""

import json
import sys
import time

import numpy as np

import gpuconv
from gpuconv import layers, model_selection, models, optimizers, regularizers


def create_network(eta, lmbd):
    penalty = regularizers.l2(lmbd)
    model = models.Sequential(
        [
            layers.Conv2D(10, (3, 3), activation="relu", input_shape=(8, 8, 1), kernel_regularizer=penalty),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(50, activation="relu", kernel_regularizer=penalty),
            layers.Dense(10, activation="softmax", kernel_regularizer=penalty),
        ]
    )
    model.compile(optimizers.SGD(learning_rate=eta), "categorical_crossentropy", ["accuracy"])
    return model


if __name__ == "__main__":
    data, epochs = np.load(sys.argv[1]), int(sys.argv[2])
    values = [10.0**exponent for exponent in range(-5, 2)]
    start = time.perf_counter()
    search = model_selection.grid_search(
        create_network, {"eta": values, "lmbd": values}, data["x"], data["y"],
        validation_data=(data["x_test"], data["y_test"]), batch_size=100, epochs=epochs, seed=0, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    library = f"gpuconv {gpuconv.__version__}"
    print(json.dumps({"library": library, "seconds": seconds, "best": float(search.best_value)}))
