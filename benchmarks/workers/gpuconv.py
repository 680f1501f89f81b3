"""gpuconv: the kernels of its CPU device by themselves, its models, and its signal functions."""

import gc
import itertools
import tracemalloc

import numba
import numba.extending
import numpy as np
from gpuconv.kernels import cpu
from gpuconv.kernels.formulas import LINEAR, RELU, SIGMOID
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry

import gpuconv
from gpuconv import layers, losses, models, optimizers, regularizers, signal, utils

from . import inputs
from .memory import peak_bytes
from .server import UnsupportedError, serve


def prepare(case):
    """Functions that compute the case: see `server.Prepared`."""
    operation = case["operation"]
    if operation in ("forward", "gradient_input", "gradient_filters"):
        return {"kernel": correlation(case)}
    if operation in ("train", "predict"):
        return network(case)
    if operation == "correlate_image":
        picture, kernel = inputs.image(case)
        return {"signal": lambda: signal.correlate2d(picture, kernel, mode="same")}
    return {"kernel": elementwise(case)}


def correlation(case):
    """A correlation kernel on arrays that exist, made as the library makes them."""
    x, filters, bias, dy = inputs.correlation(case)
    geometry = correlation_geometry(
        x.shape, case["kernel"], case["filters"], case["stride"], case["padding"], case["dilation"], case["groups"]
    )
    y, dx, dfilters, dbias = (cpu.empty(array.shape, array.dtype) for array in (dy, x, filters, bias))

    def forward():
        cpu.correlate2d(x, filters, bias, geometry, LINEAR, 0.0, y)
        return y

    def gradient_input():
        cpu.correlate2d_gradient_input(dy, y, filters, geometry, LINEAR, 0.0, dx)
        return dx

    def gradient_filters():
        cpu.correlate2d_gradient_filters(x, dy, y, geometry, LINEAR, 0.0, dfilters, dbias)
        return dfilters, dbias

    # The gradients read the value of the output.
    forward()
    return {"forward": forward, "gradient_input": gradient_input, "gradient_filters": gradient_filters}[
        case["operation"]
    ]


def elementwise(case):
    """A kernel that memory bounds, on arrays that exist, made as the library makes them."""
    operation, shape = case["operation"], tuple(case["shape"])
    x = inputs.normal(*shape)
    if "pool2d" in operation:
        geometry = pooling_geometry(shape, 2)
        y, dx = cpu.empty(geometry.output_shape, np.float32), cpu.empty(shape, np.float32)
        winner = cpu.empty(geometry.output_shape, geometry.winner_dtype)
        dy = inputs.normal(*geometry.output_shape, seed=1)
        cpu.max_pool2d(x, geometry, y, winner)
        return {
            "max_pool2d": lambda: cpu.max_pool2d(x, geometry, y, winner) or y,
            "max_pool2d_gradient": lambda: cpu.max_pool2d_gradient(dy, winner, geometry, dx) or dx,
            "average_pool2d": lambda: cpu.average_pool2d(x, geometry, y) or y,
            "average_pool2d_gradient": lambda: cpu.average_pool2d_gradient(dy, geometry, dx) or dx,
        }[operation]
    other, out = inputs.normal(*shape, seed=1), cpu.empty(shape, np.float32)
    out[...] = 0  # where `zeros` would leave pages that nobody has written
    steps = itertools.count(1)
    if operation in ("sgd", "adam"):
        moments = cpu.zeros(shape if operation == "adam" else (1,), np.float32)

        def sgd():
            cpu.sgd(other, 1e-3, 0.0, False, 0.0, x, moments)

        def adam():
            cpu.adam(other, 1e-3, 0.9, 0.999, 1e-7, next(steps), 0.0, x, moments, out)

        return sgd if operation == "sgd" else adam
    if operation not in ("relu", "relu_gradient", "sigmoid", "softmax", "dropout"):
        raise UnsupportedError(operation)
    return {
        "dropout": lambda: cpu.dropout(x, 0.5, 1, 0, next(steps), out) or out,
        "relu": lambda: cpu.activate(x, RELU, 0.0, out) or out,
        "relu_gradient": lambda: cpu.activate_gradient(x, other, RELU, 0.0, out) or out,
        "sigmoid": lambda: cpu.activate(x, SIGMOID, 0.0, out) or out,
        "softmax": lambda: cpu.softmax(x, out) or out,
    }[operation]


def create_network(name, device="cpu"):
    """The network of examples/digits_cnn.py or of examples/cifar10_cnn.py, compiled as there."""
    if name == "digits":
        penalty = regularizers.l2(1e-4)
        model = models.Sequential(
            [
                layers.Conv2D(10, (3, 3), activation="relu", input_shape=(8, 8, 1), kernel_regularizer=penalty),
                layers.MaxPooling2D((2, 2)),
                layers.Flatten(),
                layers.Dense(50, activation="relu", kernel_regularizer=penalty),
                layers.Dense(10, activation="softmax", kernel_regularizer=penalty),
            ],
            device=device,
        )
        model.compile(optimizers.SGD(learning_rate=0.1), "categorical_crossentropy", ["accuracy"])
    else:
        model = models.Sequential(
            [
                layers.Conv2D(32, (3, 3), activation="relu", input_shape=(32, 32, 3)),
                layers.MaxPooling2D((2, 2)),
                layers.Conv2D(64, (3, 3), activation="relu"),
                layers.MaxPooling2D((2, 2)),
                layers.Conv2D(64, (3, 3), activation="relu"),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ],
            device=device,
        )
        model.compile("adam", losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    return model


def data(case):
    """Pictures and targets as the network's loss wants them."""
    x, labels = inputs.network(case)
    return x, utils.to_categorical(labels, 10) if case["network"] == "digits" else labels


def network(case):
    """Many steps in one call: the call itself is measured too, but shared by all of them."""
    model, (x, y), batch, steps = create_network(case["network"]), data(case), case["batch"], case["steps"]

    def train():
        model.fit(x, y, batch_size=batch, verbose=0)

    def predict():
        model.predict(x, batch_size=batch, verbose=0)

    return {"fit": (train, steps)} if case["operation"] == "train" else {"predict": (predict, steps)}


def first_step():
    """One step of training; the caller measures the process."""
    x, y = data(inputs.FIRST_STEP)
    create_network("digits").fit(x, y, batch_size=inputs.FIRST_STEP["batch"], verbose=0)


def memory():
    """The peak of a training run, and what its steps allocate, from one optimiser's step to the next."""
    x, y = data(inputs.MEMORY)
    model, batch = create_network(inputs.MEMORY["network"]), inputs.MEMORY["batch"]
    model.fit(x, y, batch_size=batch, epochs=2, verbose=0)
    # Read before tracing, whose own records need memory.
    peak = peak_bytes()

    traced = []

    class Watched(type(model.optimizer)):
        """An optimiser that the library does not know, so that steps are taken one by one and in Python."""

        def step(self, *arguments):
            super().step(*arguments)
            traced.append(tracemalloc.get_traced_memory())
            tracemalloc.reset_peak()

    model.compile(Watched(), model.loss, model.metrics)
    model.fit(x, y, batch_size=batch, verbose=0)
    traced.clear()
    tracemalloc.start()
    model.fit(x, y, batch_size=batch, verbose=0)
    tracemalloc.stop()
    # Between two steps: how far the memory rose above where it was, freed again or not.
    risen = [highest - before for (before, _), (_, highest) in itertools.pairwise(traced)]
    return {"peak_bytes": peak, "step_bytes": int(np.median(risen))}


def allocating_kernels():
    """Names of the kernels of a training step that, as compiled, ask for memory of their own."""
    case = {**inputs.MEMORY, "steps": 1}
    create_network(case["network"]).fit(*data(case), batch_size=case["batch"], verbose=0)
    kernels = [
        thing
        for thing in gc.get_objects()
        if numba.extending.is_jitted(thing) and thing.py_func.__module__.startswith("gpuconv.kernels")
    ]
    return sorted(
        f"{kernel.py_func.__module__}.{kernel.py_func.__name__}"
        for kernel in kernels
        if any("@NRT_MemInfo_alloc" in text or "@NRT_Allocate" in text for text in calls(kernel))
    )


def calls(kernel):
    """The lines of compiled code that call something, for each compiled signature."""
    for signature in kernel.signatures:
        text = kernel.inspect_llvm(signature)
        yield "\n".join(line for line in text.splitlines() if " call " in line or " invoke " in line)


def versions():
    """Versions by library."""
    return {"gpuconv": gpuconv.__version__, "numba": numba.__version__, "numpy": np.__version__}


if __name__ == "__main__":
    serve(prepare, versions(), first_step=first_step, memory=memory, allocating_kernels=allocating_kernels)
