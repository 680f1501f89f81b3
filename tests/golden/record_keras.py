"""Record what Keras computes for the problems in `problems.py`, as outside truth for the tests.

Run with Keras 3.15.1, TensorFlow 2.21.0 (CPU) and NumPy 2.4.6; every file stores the versions that wrote it::

    pip install keras tensorflow-cpu
    python tests/golden/record_keras.py            # all files
    python tests/golden/record_keras.py layers     # one
    python tests/golden/record_keras.py summary    # prints model.summary() of both networks, writes nothing

TensorFlow runs on one thread with deterministic operations, so two runs on one machine give the same bytes.
README.md describes the keys.
"""

import argparse
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # oneDNN picks its summation order by the processor it finds
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import problems
import tensorflow as tf

HERE = Path(__file__).resolve().parent


def use_precision(name):
    """Make `name`, 'float32' or 'float64', the type of all variables, computations and optimiser states."""
    keras.backend.clear_session()
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)


def exact(thing):
    """`thing`, an optimiser or a regulariser, with its numbers made NumPy's where the precision is float64.

    TensorFlow reads a Python float as float32, and Keras's ``ops.cast(0.9, "float64")`` with it: Adam's betas, SGD's
    momentum, weight decay and the factors of penalties would be off by up to 6e-8 of their size.
    """
    if keras.config.floatx() == "float64":
        for name, value in list(vars(thing).items()):
            if isinstance(value, float):
                setattr(thing, name, np.float64(value))
    return thing


def save(name, values):
    """Write the flat dictionary `values` and the versions to ``<name>.npz``."""
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    for package, version in versions.items():
        values[f"versions/{package}"] = np.array(version)
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, **values)
    print(f"{path.name}: {len(values)} arrays, {path.stat().st_size:,} bytes")


def digits_network():
    """The digits network of the lecture."""
    penalty = exact(keras.regularizers.L2(problems.DIGITS_L2))
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(10, (3, 3), activation="relu", kernel_regularizer=penalty),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(50, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dense(10, activation="softmax", kernel_regularizer=penalty),
        ]
    )


def cifar_network():
    """The CIFAR-10 network of the lecture."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(32, (3, 3), activation="relu"),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Conv2D(64, (3, 3), activation="relu"),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Conv2D(64, (3, 3), activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def train(model, network, data, precision):
    """Train `model` as `network` says; the history, the final weights and the first validation predictions."""
    (x, y), (x_validation, y_validation) = data
    weights = problems.initial_weights(network.weight_shapes, network.seed)
    model.set_weights(weights)
    history = model.fit(
        x.astype(precision),
        y,
        batch_size=network.batch_size,
        epochs=network.epochs,
        shuffle=False,
        validation_data=(x_validation.astype(precision), y_validation),
        verbose=0,
    )
    assert {variable.dtype for variable in model.variables} == {precision}
    predictions = model.predict(x_validation[: problems.PREDICTED].astype(precision), verbose=0)
    assert predictions.dtype == precision
    return {key: np.array(values) for key, values in history.history.items()}, model.get_weights(), predictions


def distance(name, results):
    """Print how far the float32 run of a network is from its float64 run."""
    (history, weights, predictions), (history64, weights64, predictions64) = results["float32"], results["float64"]
    print(f"{name}, float32 against float64:")
    for key in history:
        relative = np.abs(history[key] - history64[key]) / np.abs(history64[key])
        print(f"  {key}: {np.round(history64[key], 4)}, largest relative difference {relative.max():.1e}")
    print(f"  predictions: largest difference {np.abs(predictions - predictions64).max():.1e}")
    for place, (single, double) in enumerate(zip(weights, weights64, strict=True)):
        apart = np.abs(single - double)
        by_norm = np.linalg.norm(apart) / np.linalg.norm(double)
        print(f"  weights {place} {double.shape}: by norm {by_norm:.1e}, largest {apart.max():.1e}")


def record_trajectory(name, network, data, build, compile_settings):
    """Train one network in both precisions and gather what is recorded of it."""
    results = {}
    (x, y), (x_validation, y_validation) = data
    values = {
        f"{name}/data_checksum": np.uint32(problems.checksum(x, y, x_validation, y_validation)),
        f"{name}/initial_weights_checksum": np.uint32(
            problems.checksum(*problems.initial_weights(network.weight_shapes, network.seed))
        ),
    }
    for precision in ("float32", "float64"):
        use_precision(precision)
        model = build()
        model.compile(metrics=["accuracy"], jit_compile=False, **compile_settings())
        results[precision] = history, weights, predictions = train(model, network, data, precision)
        for key, series in history.items():
            values[f"{name}/{precision}/history/{key}"] = series
        values[f"{name}/{precision}/predictions"] = predictions
        for place, weight in enumerate(weights):
            values[f"{name}/{precision}/weights/{place}"] = weight
    distance(name, results)
    return values


def record_digits():
    """The digits network's trajectory."""

    def settings():
        return {
            "optimizer": exact(keras.optimizers.SGD(problems.DIGITS_LEARNING_RATE)),
            "loss": "categorical_crossentropy",
        }

    save("digits", record_trajectory("digits", problems.DIGITS, problems.digits(), digits_network, settings))


def record_cifar():
    """The CIFAR-10 network's trajectory; its weights in full only once and in float32, to keep the file small."""

    def settings():
        return {
            "optimizer": exact(keras.optimizers.Adam()),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        }

    values = record_trajectory("cifar", problems.CIFAR, problems.cifar(), cifar_network, settings)
    for place in range(len(problems.CIFAR.weight_shapes)):
        for precision in ("float32", "float64"):
            weight = values.pop(f"cifar/{precision}/weights/{place}")
            values[f"cifar/{precision}/sampled_weights/{place}"] = weight.ravel()[:: problems.SAMPLING]
            if precision == "float64":
                values[f"cifar/float64/rounded_weights/{place}"] = weight.astype(np.float32)
    save("cifar", values)


def record_layers():
    """Outputs and gradients of single layers, float64."""
    use_precision("float64")
    values = {}
    for name, case in problems.LAYERS.items():
        layer = getattr(keras.layers, case.layer)(**case.settings)
        layer.build(case.input_shape)
        weights = problems.layer_weights(name)
        assert {variable.name: tuple(variable.shape) for variable in layer.weights} == case.weights, name
        layer.set_weights(list(weights.values()))
        x = tf.constant(problems.layer_input(name))
        trained = [variable.value for variable in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=case.training)
        upstream = problems.layer_upstream(name, tuple(y.shape))
        gradients = tape.gradient(y, [x, *trained], output_gradients=tf.constant(upstream))
        names = ["input", *(variable.name for variable in layer.trainable_variables)]
        values[f"layers/{name}/output"] = y.numpy()
        for part, gradient in zip(names, gradients, strict=True):
            values[f"layers/{name}/{part}_gradient"] = gradient.numpy()
        if case.training:
            for variable in layer.non_trainable_variables:
                values[f"layers/{name}/updated_{variable.name}"] = variable.numpy()
        inputs = (problems.layer_input(name), *weights.values(), upstream)
        values[f"layers/{name}/checksum"] = np.uint32(problems.checksum(*inputs))
    assert all(value.dtype == np.float64 for key, value in values.items() if not key.endswith("checksum"))
    save("layers", values)


def loss_values():
    """Losses row by row, their mean, and the gradient of the mean by the predictions."""
    values = {}
    for name, case in problems.LOSSES.items():
        targets, predictions = problems.loss_problem(name)
        loss = getattr(keras.losses, case.loss)
        values[f"losses/{name}/rows"] = loss(reduction=None, **case.settings)(targets, tf.constant(predictions)).numpy()
        predictions = tf.constant(predictions)
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            mean = loss(**case.settings)(targets, predictions)
        values[f"losses/{name}/mean"] = mean.numpy()
        values[f"losses/{name}/gradient"] = tape.gradient(mean, predictions).numpy()
        values[f"losses/{name}/checksum"] = np.uint32(problems.checksum(targets, predictions))
    return values


def optimizer_values():
    """Parameters after each of five steps."""
    parameters, gradients = problems.optimizer_problem()
    values = {"optimizers/checksum": np.uint32(problems.checksum(parameters, gradients))}
    for name, case in problems.OPTIMIZERS.items():
        optimizer = exact(getattr(keras.optimizers, case.optimizer)(**case.settings))
        variable = keras.Variable(parameters)
        optimizer.build([variable])
        steps = []
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient)], [variable])
            steps.append(variable.numpy())
        values[f"optimizers/{name}"] = np.array(steps)
    return values


def regularizer_values():
    """Penalties, and their gradients by the parameters."""
    parameters = tf.constant(problems.regularizer_problem())
    zero = tf.UnconnectedGradients.ZERO  # L1L2 is without effect by default
    values = {"regularizers/checksum": np.uint32(problems.checksum(parameters))}
    for name, (kind, settings) in problems.REGULARIZERS.items():
        regularizer = exact(getattr(keras.regularizers, kind)(**settings))
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            penalty = regularizer(parameters)
        values[f"regularizers/{name}/penalty"] = penalty.numpy()
        values[f"regularizers/{name}/gradient"] = tape.gradient(penalty, parameters, unconnected_gradients=zero).numpy()
    return values


def initializer_values():
    """Mean, standard deviation, least and largest value of a large sample."""
    values = {}
    for name in problems.INITIALIZERS:
        arguments = {} if name in ("Zeros", "Ones") else {"seed": 0}
        for place, shape in problems.INITIALIZER_SHAPES.items():
            sample = getattr(keras.initializers, name)(**arguments)(shape, dtype="float64").numpy()
            facts = [sample.mean(), sample.std(), sample.min(), sample.max()]
            values[f"initializers/{name}/{place}"] = np.array(facts)
    return values


def record_formulas():
    """Losses, optimisers, regularisers and initialisers, float64."""
    use_precision("float64")
    values = {**loss_values(), **optimizer_values(), **regularizer_values(), **initializer_values()}
    wrong = [key for key, value in values.items() if value.dtype != np.float64 and not key.endswith("checksum")]
    assert not wrong, wrong
    save("formulas", values)


def record_facts():
    """Names, output shapes and parameter counts of both networks, each in a session of its own."""
    values = {}
    for name, build in (("digits", digits_network), ("cifar", cifar_network)):
        use_precision("float32")
        model = build()
        model.build()
        values[f"facts/{name}/layer_names"] = np.array([layer.name for layer in model.layers])
        values[f"facts/{name}/layer_types"] = np.array([type(layer).__name__ for layer in model.layers])
        values[f"facts/{name}/parameters"] = np.array([layer.count_params() for layer in model.layers])
        values[f"facts/{name}/total_parameters"] = np.array(model.count_params())
        values[f"facts/{name}/weight_names"] = np.array([weight.path for weight in model.weights])
        for layer in model.layers:
            values[f"facts/{name}/output_shape/{layer.name}"] = np.array(layer.output.shape[1:])
        values[f"facts/{name}/summary"] = np.array(summary(model))
    save("facts", values)


def summary(model):
    """The text of ``model.summary()``."""
    lines = []
    model.summary(print_fn=lines.append, line_length=80)
    return "\n".join(lines)


def print_summaries():
    """Print both networks' summaries."""
    for build in (digits_network, cifar_network):
        use_precision("float32")
        print(summary(build()))


RECORDINGS = {
    "digits": record_digits,
    "cifar": record_cifar,
    "layers": record_layers,
    "formulas": record_formulas,
    "facts": record_facts,
}


def main():
    """Record what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="all", choices=["all", *RECORDINGS, "summary"])
    what = parser.parse_args().what
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    for name, record in RECORDINGS.items():
        if what in (name, "all"):
            record()
    if what == "summary":
        print_summaries()


if __name__ == "__main__":
    main()
