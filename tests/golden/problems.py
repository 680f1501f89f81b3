"""The problems whose solutions `record_keras.py` records, in NumPy alone.

Pictures, initial weights, layer inputs, upstream gradients, loss predictions and optimiser gradients are made here,
so that the recordings hold results only: the recording script and the tests call the same functions.

Everything comes from `numpy.random.RandomState`, whose streams NumPy has frozen, and only from its uniform numbers
and integers.  Those need nothing but exactly rounded arithmetic, while sines, logarithms and normal numbers may
differ in the last bit between machines.  Results are rounded to float32 and then widened, so that float32 and
float64 runs start from the same numbers, and `checksum` tells a test whether its inputs are the recorded ones.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIGITS_FILE = Path(__file__).resolve().parents[2] / "gpuconv" / "data" / "digits.npz"


def stream(seed):
    """A frozen random stream, from an integer or from the name of a case."""
    if isinstance(seed, str):
        seed = zlib.crc32(seed.encode())
    return np.random.RandomState(seed)


def uniform(seed, shape, low=-1.0, high=1.0):
    """Uniform float64 numbers that float32 holds exactly."""
    return stream(seed).uniform(low, high, shape).astype(np.float32).astype(np.float64)


def checksum(*arrays):
    """One CRC-32 over the float64 bytes of all `arrays`, in their order."""
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array, "<f8").tobytes(), total)
    return total


# The two networks


class Network(NamedTuple):
    """How a network is trained in its recording.  Batches are taken in order: ``shuffle=False``."""

    seed: int
    weight_shapes: tuple
    batch_size: int
    epochs: int


DIGITS = Network(
    seed=1998,
    weight_shapes=((3, 3, 1, 10), (10,), (90, 50), (50,), (50, 10), (10,)),
    batch_size=100,
    epochs=3,
)
DIGITS_LEARNING_RATE = 0.1
DIGITS_L2 = 1e-3

CIFAR = Network(
    seed=2009,
    weight_shapes=(
        *((3, 3, 3, 32), (32,), (3, 3, 32, 64), (64,), (3, 3, 64, 64), (64,)),
        *((1024, 64), (64,), (64, 10), (10,)),
    ),
    batch_size=32,
    epochs=3,
)
# Adam divides a gradient by its size: one made of rounding errors alone can move a weight as far as a real one.
# On these pictures that does not happen: after the 15 steps no weight differs by more than 3e-6 between the precisions.

PREDICTED = 20  # validation pictures whose final predictions are recorded
SAMPLING = 17  # of the CIFAR network's weights every 17th is recorded in full precision (16 would meet few filters)


def digits():
    """Training and validation parts of the digits: ``(x, y), (x, y)``.

    Pictures are ink / 16, of shape (count, 8, 8, 1); labels are one-hot.  1,437 pictures train (14 batches of 100 and
    one of 37), the last 360 validate.
    """
    with np.load(DIGITS_FILE) as data:
        pictures = data["images"][..., np.newaxis] / 16.0
        targets = np.eye(10)[data["labels"]]
    return (pictures[:1437], targets[:1437]), (pictures[1437:], targets[1437:])


def cifar_like(count, seed):
    """`count` pictures of 32 x 32 x 3 in [0, 1] and their labels (count, 1), uint8, as CIFAR-10 comes.

    A class is a smooth pattern, the same for every `seed`: a coarse 5 x 5 grid of colours, interpolated
    linearly.  A picture is its class's pattern, a little brighter or darker, plus uniform noise, in 256 steps.
    """
    coarse = stream("classes of cifar_like").uniform(0.15, 0.85, (10, 5, 5, 3))
    place = np.arange(32) / 8.0
    left = place.astype(int)
    weight = (place - left)[:, np.newaxis]
    rows = coarse[:, left] * (1 - weight[:, np.newaxis]) + coarse[:, left + 1] * weight[:, np.newaxis]
    patterns = rows[:, :, left] * (1 - weight) + rows[:, :, left + 1] * weight

    random = stream(seed)
    labels = random.randint(0, 10, (count, 1)).astype(np.uint8)
    brightness = random.uniform(0.8, 1.2, (count, 1, 1, 1))
    noise = random.uniform(-0.15, 0.15, (count, 32, 32, 3))
    pictures = np.clip(patterns[labels[:, 0]] * brightness + noise, 0, 1)
    return np.round(pictures * 255) / 255.0, labels


def cifar():
    """Training and validation parts of the CIFAR-like pictures: ``(x, y), (x, y)``; 160 and 48 of them."""
    return cifar_like(160, seed=1), cifar_like(48, seed=2)


def initial_weights(shapes, seed):
    """Glorot-uniform kernels (HWIO or (in, out)) and small biases that are not zero, float64 arrays in a list."""
    random = stream(seed)
    weights = []
    for shape in shapes:
        if len(shape) == 1:
            limit = 0.05
        else:
            receptive_field = int(np.prod(shape[:-2]))
            limit = np.sqrt(6 / (receptive_field * (shape[-2] + shape[-1])))
        weights.append(random.uniform(-limit, limit, shape).astype(np.float32).astype(np.float64))
    return weights


# Single layers


class LayerCase(NamedTuple):
    """One call of one layer: its Keras class and settings, and the shapes that it meets.

    `weights` maps the names of the layer's weights to their shapes, in Keras's order.
    """

    layer: str
    settings: dict
    input_shape: tuple
    weights: dict = {}  # noqa: RUF012 (never written to)
    training: bool = False


def _convolution(settings, input_shape, kernel, bias=True):
    weights = {"kernel": kernel, "bias": kernel[-1:]} if bias else {"kernel": kernel}
    return LayerCase("Conv2D", settings, input_shape, weights)


def _depthwise(settings, input_shape, kernel):
    return LayerCase("DepthwiseConv2D", settings, input_shape, {"kernel": kernel, "bias": (kernel[-2] * kernel[-1],)})


def _normalization(settings, input_shape, training):
    names = ["gamma", "beta", "moving_mean", "moving_variance"]
    if not settings.get("scale", True):
        names.remove("gamma")
    weights = {name: input_shape[-1:] for name in names}
    return LayerCase("BatchNormalization", settings, input_shape, weights, training)


ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "softmax", "elu", "gelu", "softplus")
EXTREMES = np.array([-1e4, -750, -90, -40, -20, -9, -1, -1e-3, -1e-9, 1e-9, 1e-3, 1, 9, 20, 40, 90, 750, 1e4])
EXTREMES.flags.writeable = False

LAYERS = {
    "conv_valid": _convolution({"filters": 5, "kernel_size": 3}, (2, 7, 9, 3), (3, 3, 3, 5)),
    "conv_valid_strides": _convolution(
        {"filters": 5, "kernel_size": (3, 2), "strides": (2, 3)}, (2, 8, 11, 3), (3, 2, 3, 5)
    ),
    "conv_valid_dilation": _convolution(
        {"filters": 4, "kernel_size": 3, "dilation_rate": (2, 1)}, (2, 9, 7, 3), (3, 3, 3, 4)
    ),
    "conv_same": _convolution({"filters": 5, "kernel_size": 3, "padding": "same"}, (2, 7, 9, 3), (3, 3, 3, 5)),
    "conv_same_even_kernel": _convolution(
        {"filters": 3, "kernel_size": (4, 2), "padding": "same"}, (2, 7, 5, 2), (4, 2, 2, 3)
    ),
    "conv_same_strides": _convolution(
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"}, (2, 7, 10, 3), (3, 3, 3, 5)
    ),
    "conv_same_strides_beyond_kernel": _convolution(
        {"filters": 3, "kernel_size": 2, "strides": 3, "padding": "same"}, (2, 8, 10, 3), (2, 2, 3, 3)
    ),
    "conv_same_dilation": _convolution(
        {"filters": 4, "kernel_size": 3, "dilation_rate": (2, 3), "padding": "same"}, (2, 9, 11, 3), (3, 3, 3, 4)
    ),
    "conv_groups": _convolution(
        {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same"}, (2, 5, 7, 4), (3, 3, 2, 6)
    ),
    "conv_groups_strides": _convolution(
        {"filters": 6, "kernel_size": 3, "groups": 3, "strides": 2}, (2, 7, 9, 6), (3, 3, 2, 6)
    ),
    "conv_pointwise": _convolution({"filters": 7, "kernel_size": 1}, (2, 5, 3, 4), (1, 1, 4, 7)),
    "conv_relu": _convolution({"filters": 5, "kernel_size": 3, "activation": "relu"}, (2, 7, 9, 3), (3, 3, 3, 5)),
    "conv_tanh_no_bias": _convolution(
        {"filters": 5, "kernel_size": 3, "activation": "tanh", "use_bias": False},
        (2, 7, 9, 3),
        (3, 3, 3, 5),
        bias=False,
    ),
    "depthwise_valid": _depthwise({"kernel_size": (3, 2)}, (2, 7, 9, 3), (3, 2, 3, 1)),
    "depthwise_same_strides": _depthwise(
        {"kernel_size": 3, "strides": 2, "padding": "same", "depth_multiplier": 2}, (2, 7, 10, 3), (3, 3, 3, 2)
    ),
    "depthwise_relu": _depthwise(
        {"kernel_size": 3, "padding": "same", "activation": "relu"}, (2, 7, 9, 4), (3, 3, 4, 1)
    ),
    "max_pool_default": LayerCase("MaxPooling2D", {}, (2, 7, 9, 3)),
    "max_pool_valid": LayerCase("MaxPooling2D", {"pool_size": 3, "strides": 2}, (2, 8, 9, 3)),
    "max_pool_same": LayerCase("MaxPooling2D", {"pool_size": 3, "strides": 2, "padding": "same"}, (2, 8, 9, 3)),
    "max_pool_same_oblong": LayerCase(
        "MaxPooling2D", {"pool_size": (2, 3), "strides": (3, 1), "padding": "same"}, (2, 8, 7, 2)
    ),
    "max_pool_ties": LayerCase("MaxPooling2D", {"pool_size": 3, "strides": 2, "padding": "same"}, (2, 9, 10, 2)),
    "average_pool_2": LayerCase("AveragePooling2D", {"pool_size": 2}, (2, 7, 9, 3)),
    "average_pool_valid": LayerCase("AveragePooling2D", {"pool_size": 3, "strides": 2}, (2, 8, 9, 3)),
    "average_pool_same": LayerCase("AveragePooling2D", {"pool_size": 3, "strides": 2, "padding": "same"}, (2, 8, 9, 3)),
    "average_pool_same_oblong": LayerCase(
        "AveragePooling2D", {"pool_size": (2, 3), "strides": (3, 1), "padding": "same"}, (2, 8, 7, 2)
    ),
    "global_average_pool": LayerCase("GlobalAveragePooling2D", {}, (3, 5, 7, 4)),
    "global_average_pool_keepdims": LayerCase("GlobalAveragePooling2D", {"keepdims": True}, (3, 5, 7, 4)),
    "zero_padding_default": LayerCase("ZeroPadding2D", {}, (2, 3, 5, 2)),
    "zero_padding_uneven": LayerCase("ZeroPadding2D", {"padding": ((1, 2), (0, 3))}, (2, 3, 5, 2)),
    "batch_normalization_training": _normalization({}, (4, 3, 5, 3), True),
    "batch_normalization_inference": _normalization({}, (4, 3, 5, 3), False),
    "batch_normalization_training_settings": _normalization({"momentum": 0.9, "epsilon": 1e-5}, (6, 4), True),
    "batch_normalization_training_no_scale": _normalization({"scale": False}, (6, 4), True),
    "dropout_inference": LayerCase("Dropout", {"rate": 0.4}, (3, 5)),
    "dense": LayerCase("Dense", {"units": 4}, (3, 7), {"kernel": (7, 4), "bias": (4,)}),
    "dense_no_bias": LayerCase("Dense", {"units": 4, "use_bias": False}, (3, 7), {"kernel": (7, 4)}),
    "dense_softmax": LayerCase(
        "Dense", {"units": 4, "activation": "softmax"}, (3, 7), {"kernel": (7, 4), "bias": (4,)}
    ),
    "dense_gelu": LayerCase("Dense", {"units": 4, "activation": "gelu"}, (3, 7), {"kernel": (7, 4), "bias": (4,)}),
    "leaky_relu": LayerCase("LeakyReLU", {"negative_slope": 0.25}, (6, 7)),
    "relu_plain": LayerCase("ReLU", {}, (6, 7)),
    "relu_capped": LayerCase("ReLU", {"max_value": 2.0}, (6, 7)),
    "relu_leaky": LayerCase("ReLU", {"negative_slope": 0.125}, (6, 7)),
    "relu_threshold": LayerCase("ReLU", {"threshold": 1.0}, (6, 7)),
    "relu_all": LayerCase("ReLU", {"max_value": 2.0, "negative_slope": 0.125, "threshold": 0.5}, (6, 7)),
    # Exactly at the threshold Keras documents f(x) = x and computes 0, with slope 0; on the cap its slope is 1.
    "relu_all_kinks": LayerCase("ReLU", {"max_value": 2.0, "negative_slope": 0.125, "threshold": 0.5}, (1, 4)),
    "softmax": LayerCase("Softmax", {}, (5, 7)),
    "softmax_pictures": LayerCase("Softmax", {}, (2, 3, 2, 4)),
}
for _name in ACTIVATIONS:
    LAYERS[f"activation_{_name}"] = LayerCase("Activation", {"activation": _name}, (6, 7))
    LAYERS[f"activation_{_name}_extremes"] = LayerCase("Activation", {"activation": _name}, (1, len(EXTREMES)))
    if _name != "softmax":
        LAYERS[f"activation_{_name}_kink"] = LayerCase("Activation", {"activation": _name}, (1, 2))

# TensorFlow holds the default slope 0.2 of leaky_relu and the square root of two in gelu in float32, so even their
# float64 results are good to about 6e-8 of the largest magnitude only.
SINGLE_PRECISION_LAYERS = {name for name in LAYERS if "activation_leaky_relu" in name or "gelu" in name}


def layer_input(name):
    """The input of the layer case `name`: uniform in [-3, 3], or chosen values where the name says so."""
    shape = LAYERS[name].input_shape
    if name.endswith("extremes"):
        return EXTREMES.reshape(shape).copy()
    if name.endswith("kinks"):
        return np.array([[0.0, 0.5, 2.0, -0.0]])
    if name.endswith("kink"):
        return np.array([[0.0, -0.0]])
    if name.endswith("ties"):  # three values only, so that most windows hold their maximum several times
        return stream(name).randint(0, 3, shape).astype(np.float64)
    return uniform(f"{name} input", shape, -3, 3)


def layer_weights(name):
    """The weights of the layer case `name`, by name; uniform in [-1, 1], variances in [0.5, 2]."""
    low_high = {"moving_variance": (0.5, 2.0)}
    return {
        weight: uniform(f"{name} {weight}", shape, *low_high.get(weight, (-1.0, 1.0)))
        for weight, shape in LAYERS[name].weights.items()
    }


def layer_upstream(name, shape):
    """The gradient that arrives at the output, of `shape`, of the layer case `name`."""
    return uniform(f"{name} upstream", shape)


# Losses


class LossCase(NamedTuple):
    """One loss with its settings; `kind` says what its predictions are and `sparse` what its targets are."""

    loss: str
    settings: dict
    kind: str
    sparse: bool = False


# On "sparse_edges" Keras's backends disagree: TensorFlow, which is recorded, clips probabilities and then divides by
# their sum, while the others divide first, as all do in "categorical_edges", the same problem with one-hot targets.
LOSSES = {
    "categorical": LossCase("CategoricalCrossentropy", {}, "probabilities"),
    "categorical_unnormalised": LossCase("CategoricalCrossentropy", {}, "unnormalised"),
    "categorical_edges": LossCase("CategoricalCrossentropy", {}, "edges"),
    "categorical_logits": LossCase("CategoricalCrossentropy", {"from_logits": True}, "logits"),
    "sparse": LossCase("SparseCategoricalCrossentropy", {}, "probabilities", True),
    "sparse_unnormalised": LossCase("SparseCategoricalCrossentropy", {}, "unnormalised", True),
    "sparse_edges": LossCase("SparseCategoricalCrossentropy", {}, "edges", True),
    "sparse_logits": LossCase("SparseCategoricalCrossentropy", {"from_logits": True}, "logits", True),
    "mean_squared_error": LossCase("MeanSquaredError", {}, "logits"),
    "binary": LossCase("BinaryCrossentropy", {}, "unnormalised"),
    "binary_edges": LossCase("BinaryCrossentropy", {}, "edges"),
    "binary_logits": LossCase("BinaryCrossentropy", {"from_logits": True}, "logits"),
}

# Rows of probabilities on, beyond and near the clip at 1e-7 and 1 - 1e-7; each meets the label of its place below.
EDGES = np.array(
    [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0.5, 0.5, 0],
        [1e-9, 1e-6, 0.25, 0.75],
        [5e-8, 1, 0.5, 0.5],
        [1, 1, 0, 1],
        [1 - 5e-8, 5e-8, 0, 0],
        [1 - 1e-6, 1e-6, 0, 0],
    ]
)
EDGE_LABELS = np.array([0, 1, 0, 0, 0, 3, 0, 1])
EDGES.flags.writeable = EDGE_LABELS.flags.writeable = False


def loss_problem(name):
    """Targets and predictions of the loss case `name`.

    Sparse targets are integers (rows,).  Others are (rows, 4): mostly one-hot, then a soft row and one whose sum is
    not one, because formulas that agree on one-hot rows may differ there.  Logits reach from -100 to 100.
    """
    case = LOSSES[name]
    if case.kind == "edges":
        predictions, labels = EDGES.copy(), EDGE_LABELS.copy()
    else:
        labels = stream(f"{case.kind} labels").randint(0, 4, 8)
        predictions = uniform(case.kind, (8, 4), 0.02, 0.98)
        if case.kind == "logits":
            predictions = uniform(case.kind, (8, 4), -4, 4)
            predictions[6] = [100, -100, 20, 0]
            predictions[7] = [-100, -30, 0, 50]
        elif case.kind == "probabilities":
            predictions /= predictions.sum(axis=1, keepdims=True)
    if case.sparse:
        return labels, predictions
    targets = np.eye(4)[labels]
    if case.kind != "edges":
        targets[2] = [0.125, 0.25, 0.125, 0.5]
        targets[3] = [0.5, 0.5, 0.5, 0]
    return targets, predictions


# Optimisers, regularisers, initialisers


class OptimizerCase(NamedTuple):
    """An optimiser's Keras class and its settings."""

    optimizer: str
    settings: dict


OPTIMIZERS = {
    "sgd_default": OptimizerCase("SGD", {}),
    "sgd": OptimizerCase("SGD", {"learning_rate": 0.1}),
    "sgd_momentum": OptimizerCase("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    "sgd_nesterov": OptimizerCase("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd_weight_decay": OptimizerCase("SGD", {"learning_rate": 0.1, "weight_decay": 0.25}),
    "sgd_all": OptimizerCase("SGD", {"learning_rate": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.25}),
    "adam_default": OptimizerCase("Adam", {}),
    "adam": OptimizerCase("Adam", {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    "adam_weight_decay": OptimizerCase("Adam", {"learning_rate": 0.05, "weight_decay": 0.25}),
    "rmsprop_default": OptimizerCase("RMSprop", {}),
    "rmsprop_momentum": OptimizerCase("RMSprop", {"learning_rate": 0.05, "momentum": 0.9}),
    "rmsprop_centered": OptimizerCase("RMSprop", {"learning_rate": 0.05, "centered": True}),
    "rmsprop_all": OptimizerCase(
        "RMSprop",
        {"learning_rate": 0.05, "rho": 0.8, "momentum": 0.5, "epsilon": 1e-3, "centered": True, "weight_decay": 0.25},
    ),
}


def optimizer_problem():
    """Parameters (8,) and the gradients (5, 8) of five steps.

    One parameter's gradients are always zero, one's are tiny, one's are large and one's change sign at every step.
    """
    parameters = uniform("parameters", 8)
    gradients = uniform("gradients", (5, 8))
    gradients[:, 0] = 0
    gradients[:, 1] *= 1e-6
    gradients[:, 2] *= 1e3
    gradients[:, 3] = np.abs(gradients[:, 3]) * [1, -1, 1, -1, 1]
    return parameters, gradients


REGULARIZERS = {
    "L1_default": ("L1", {}),
    "L2_default": ("L2", {}),
    "L1L2_default": ("L1L2", {}),
    "L1": ("L1", {"l1": 0.3}),
    "L2": ("L2", {"l2": 0.2}),
    "L1L2": ("L1L2", {"l1": 0.3, "l2": 0.2}),
}


def regularizer_problem():
    """Parameters (3, 5) with an exact zero among them."""
    parameters = uniform("regularised", (3, 5))
    parameters[1, 2] = 0
    return parameters


# Initialisers are random, so facts are recorded, not values; the two shapes have different fans.
INITIALIZERS = (
    "GlorotUniform",
    "GlorotNormal",
    "HeUniform",
    "HeNormal",
    "LecunUniform",
    "LecunNormal",
    "RandomUniform",
    "RandomNormal",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "Ones",
)
INITIALIZER_SHAPES = {"conv": (3, 3, 64, 160), "dense": (300, 700)}
