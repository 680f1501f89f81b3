"""Keras, on the backend that KERAS_BACKEND names: `fit` over many batches or step by step, with XLA or without."""

import keras
import numpy as np
from keras import layers, losses, optimizers, regularizers

from . import inputs
from .server import THREADS, serve

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)

# JAX compiles everything with XLA.
JIT_COMPILE = (False, True) if keras.backend.backend() == "tensorflow" else (True,)


def create_network(name, jit_compile=False, steps_per_execution=1):
    """The lecture's networks, compiled as in its programs but for the settings that concern speed."""
    if name == "digits":
        penalty = regularizers.L2(1e-4)
        model = keras.Sequential(
            [
                layers.Input((8, 8, 1)),
                layers.Conv2D(10, 3, activation="relu", kernel_regularizer=penalty),
                layers.MaxPooling2D(2),
                layers.Flatten(),
                layers.Dense(50, activation="relu", kernel_regularizer=penalty),
                layers.Dense(10, activation="softmax", kernel_regularizer=penalty),
            ]
        )
        optimizer, loss = optimizers.SGD(0.1), "categorical_crossentropy"
    else:
        model = keras.Sequential(
            [
                layers.Input((32, 32, 3)),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(2),
                layers.Conv2D(64, 3, activation="relu"),
                layers.MaxPooling2D(2),
                layers.Conv2D(64, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )
        optimizer, loss = "adam", losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer, loss, metrics=["accuracy"], jit_compile=jit_compile, steps_per_execution=steps_per_execution
    )
    return model


def data(case):
    """Pictures and targets as the network's loss wants them."""
    x, labels = inputs.network(case)
    return x, np.eye(10, dtype=np.float32)[labels] if case["network"] == "digits" else labels


def prepare(case):
    """Functions that compute the case: see `server.Prepared`."""
    x, y = data(case)
    batch, steps, network = case["batch"], case["steps"], case["network"]
    parts = [slice(start, start + batch) for start in range(0, len(x), batch)]
    variants = {}
    for jit_compile in JIT_COMPILE:
        name = "XLA" if jit_compile else "graph"
        model = create_network(network, jit_compile)
        several = create_network(network, jit_compile, steps_per_execution=min(steps, 20))
        if case["operation"] == "train":
            calls = {
                "fit": lambda model=model: model.fit(x, y, batch_size=batch, verbose=0),
                "fit, several steps an execution": lambda model=several: model.fit(x, y, batch_size=batch, verbose=0),
                "train_on_batch": lambda model=model: [model.train_on_batch(x[part], y[part]) for part in parts],
            }
        else:
            calls = {
                "predict": lambda model=model: model.predict(x, batch_size=batch, verbose=0),
                "predict, several steps an execution": lambda model=several: model.predict(
                    x, batch_size=batch, verbose=0
                ),
                "predict_on_batch": lambda model=model: [model.predict_on_batch(x[part]) for part in parts],
            }
        for call, function in calls.items():
            variants[f"{call}, {name}"] = without_output(function), steps
    return variants


def without_output(function):
    """Weights are random, so that outputs of libraries have nothing in common to compare."""

    def call():
        function()

    return call


def first_step():
    """One step of training; the caller measures the process."""
    x, y = data(inputs.FIRST_STEP)
    create_network("digits").fit(x, y, batch_size=inputs.FIRST_STEP["batch"], verbose=0)


def versions():
    """Versions by library."""
    backend = keras.backend.backend()
    return {"keras": keras.__version__, backend: __import__(backend).__version__}


if __name__ == "__main__":
    serve(prepare, versions(), first_step=first_step)
