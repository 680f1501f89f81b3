"""Single layers, losses, optimisers, penalties, initial weights and networks against what Keras computed.

The recordings and how they were made: `tests/golden/README.md`.  They are float64 and good to about 1e-14, so float64
results are held to 1e-12.  float32 results are held to what rounding does to sums of their length.
"""

import math
from pathlib import Path

import numpy as np
import pytest
from golden import problems
from scipy import stats
from single_layer import SingleLayer
from support import tolerance
from test_trajectory import cifar_network, digits_network

from gpuconv import device as devices
from gpuconv import initializers, layers, losses, models, optimizers, regularizers

GOLDEN = Path(__file__).parent / "golden"
DTYPES = ("float64", "float32")


@pytest.fixture(scope="module")
def recorded():
    """All recordings but those of training."""
    values = {}
    for name in ("layers", "formulas", "facts"):
        with np.load(GOLDEN / f"{name}.npz") as file:
            values.update(file)
    return values


def allowed(dtype, terms=1):
    """The relative error that a sum of that many terms may have."""
    return 1e-12 if dtype == "float64" else tolerance(dtype, terms)


def assert_near(actual, expected, relative, what, scale=None):
    """The errors are small beside `scale`, by default the largest number expected."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, what
    scale = np.abs(expected).max() if scale is None else scale
    error = np.abs(np.asarray(actual, np.float64) - expected)
    assert (error <= relative * scale).all(), (
        f"{what}: off by {error.max():.3g}, allowed {relative * np.max(scale):.3g}"
    )


# ---------------------------------------------------------------------------------------------------
# layers


def longest_sum(case, part, output_shape):
    """How many terms one number of a layer's result sums up."""
    if part not in ("output", "input_gradient") or case.layer == "BatchNormalization":
        return math.prod(output_shape[:-1])  # every sample, and every place of it
    if "kernel" in case.weights:
        channels = output_shape[-1] if part == "output" else case.input_shape[-1]
        return math.prod(case.weights["kernel"]) // channels
    if case.layer == "GlobalAveragePooling2D":
        return math.prod(case.input_shape[1:3])
    if "pool_size" in case.settings:
        return int(np.prod(np.broadcast_to(case.settings["pool_size"], 2)))
    return case.input_shape[-1]  # of softmax, the only sum left


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", problems.LAYERS)
def test_layer(name, dtype, recorded):
    case = problems.LAYERS[name]
    x, weights = problems.layer_input(name), problems.layer_weights(name)
    expected = {
        key.removeprefix(f"layers/{name}/"): value
        for key, value in recorded.items()
        if key.startswith(f"layers/{name}/")
    }
    upstream = problems.layer_upstream(name, expected["output"].shape)
    assert problems.checksum(x, *weights.values(), upstream) == expected.pop("checksum")
    if case.layer == "BatchNormalization" and not case.training:
        # Only training asks for gradients here, and there they pass through the moments of the batch.
        expected = {"output": expected["output"]}

    layer = getattr(layers, case.layer)(**case.settings)
    single = SingleLayer(layer, case.input_shape, dtype)
    assert {variable.name: variable.shape for variable in layer.variables} == case.weights
    assert [variable.name for variable in layer.variables] == list(case.weights)  # Keras's order too
    layer.set_weights(list(weights.values()))
    actual = {"output": single.forward(x, case.training)}
    if len(expected) > 1:
        actual |= {f"{part}_gradient": value for part, value in single.backward(upstream).items()}
    if case.training:
        actual |= {f"updated_{v.name}": v.numpy() for v in layer.variables if not v.trainable}

    assert actual.keys() == expected.keys()
    for part, value in expected.items():
        relative = allowed(dtype, longest_sum(case, part, expected["output"].shape))
        if name in problems.SINGLE_PRECISION_LAYERS:
            relative = max(relative, 1e-7)
        # From 1e-9 to 1e4 every number is its own scale.
        scale = np.maximum(np.abs(value), 1) if name.endswith("extremes") else None
        assert actual[part].dtype == dtype
        assert_near(actual[part], value, relative, f"{name} {part}", scale)


# ---------------------------------------------------------------------------------------------------
# losses


# float32 has few numbers as near to 1 as 1 - 1e-7 and 1 - 1e-6: edges are for float64.
LOSS_RUNS = [
    (name, dtype) for name in problems.LOSSES for dtype in DTYPES if dtype == "float64" or not name.endswith("edges")
]


@pytest.mark.parametrize(("name", "dtype"), LOSS_RUNS)
def test_loss(name, dtype, recorded):
    case = problems.LOSSES[name]
    targets, predictions = problems.loss_problem(name)
    assert problems.checksum(targets, predictions) == recorded[f"losses/{name}/checksum"]
    # TensorFlow clips before it divides by the sum, here and in the dense loss the division comes first.
    source = "categorical_edges" if name == "sparse_edges" else name
    rows, classes = predictions.shape

    loss = getattr(losses, case.loss)(**case.settings)
    device = devices.current()
    predictions = predictions.astype(dtype)
    values = device.empty((rows,), np.dtype(dtype))
    gradient = device.empty((rows, classes), np.dtype(dtype))
    prepared = loss.prepare("targets", targets, rows, (classes,), dtype)
    arrays = device.from_host(predictions), device.from_host(prepared)
    loss.compute(device, *arrays, loss.from_logits, 1 / rows, values, gradient)

    relative = allowed(dtype, classes)
    if name == "binary_edges":
        # Keras clips p to 1 - 1e-7 and then takes 1 - p, a difference that rounding changes by eps / 2.
        relative = np.finfo(np.float64).eps / 2 / 1e-7
    assert_near(device.to_host(values), recorded[f"losses/{source}/rows"], relative, "losses")
    assert_near(device.to_host(gradient), recorded[f"losses/{source}/gradient"], relative, "gradient")
    mean = recorded[f"losses/{source}/mean"]
    relative = max(relative, allowed(dtype, classes * rows))
    assert loss(targets, predictions) == pytest.approx(mean, rel=relative, abs=0)


# ---------------------------------------------------------------------------------------------------
# optimisers, penalties, initial weights


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", problems.OPTIMIZERS)
def test_optimizer(name, dtype, recorded):
    case = problems.OPTIMIZERS[name]
    parameters, gradients = problems.optimizer_problem()
    assert problems.checksum(parameters, gradients) == recorded["optimizers/checksum"]
    expected = recorded[f"optimizers/{name}"]

    optimizer = getattr(optimizers, case.optimizer)(**case.settings)
    device = devices.current()
    current = device.from_host(parameters.astype(dtype))
    steps = []
    for gradient in gradients:
        optimizer.step(device, current, device.from_host(gradient.astype(dtype)))
        steps.append(device.to_host(current))

    # A parameter is a sum too: of where it started and of its steps, whose sizes differ by a factor of 10^9.
    path = np.concatenate([parameters[np.newaxis], expected])
    scale = np.abs(parameters) + np.abs(np.diff(path, axis=0)).sum(axis=0)
    assert_near(np.array(steps), expected, allowed(dtype, len(steps)), name, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", problems.REGULARIZERS)
def test_regularizer(name, dtype, recorded):
    kind, settings = problems.REGULARIZERS[name]
    parameters = problems.regularizer_problem()
    assert problems.checksum(parameters) == recorded["regularizers/checksum"]
    penalty, gradient = (recorded[f"regularizers/{name}/{part}"] for part in ("penalty", "gradient"))
    # Keras's L1, unlike its L2 and L1L2, makes its factor a number of float32 at once.
    exact = 1e-7 if kind == "L1" else 1e-12
    regularizer = getattr(regularizers, kind)(**settings)
    assert regularizer(parameters) == pytest.approx(float(penalty), rel=exact, abs=0)

    # A model that is right already, without a bias: its loss and its step are those of the penalty.
    layer = layers.Dense(5, use_bias=False, kernel_regularizer=regularizer)
    model = models.Sequential([layers.Input((3,)), layer], dtype=dtype)
    layer.set_weights([parameters])
    model.compile(optimizers.SGD(1.0), "mse")
    loss = model.train_on_batch(np.zeros((1, 3)), np.zeros((1, 5)))
    relative = max(exact, allowed(dtype, parameters.size))
    assert loss == pytest.approx(float(penalty), rel=relative, abs=0)
    assert_near(layer.get_weights()[0], parameters - gradient, relative, "a step of length 1")


@pytest.mark.parametrize("place", problems.INITIALIZER_SHAPES)
@pytest.mark.parametrize("name", problems.INITIALIZERS)
def test_initializer(name, place, recorded):
    shape = problems.INITIALIZER_SHAPES[place]
    mean, deviation, least, largest = recorded[f"initializers/{name}/{place}"]
    if name in ("Zeros", "Ones"):
        assert (getattr(initializers, name)()(shape) == mean).all()
        return
    sample = getattr(initializers, name)(seed=1)(shape, "float64")
    count = sample.size
    assert sample.shape == shape
    # Two samples of one distribution, Keras's and ours: moments differ by less than five times their standard
    # error, which for the standard deviation of a distribution with tails no heavier than normal is at most this.
    assert abs(sample.mean() - mean) < 5 * deviation * math.sqrt(2 / count)
    assert abs(sample.std() - deviation) < 5 * deviation * math.sqrt(2 / (2 * count))
    if name == "RandomNormal":
        # Few numbers lie beyond the largest, in the distribution, but not next to none.
        for extreme in (-sample.min(), sample.max()):
            assert 1e-8 < count * stats.norm.sf(extreme / deviation) < 20
    else:
        # A distribution cut off at +-limit: of the mass below it, 20 numbers' worth holds one but for a chance of
        # exp(-20).  The density there is at least that of a normal distribution cut at two standard deviations.
        density = 2 * stats.norm.pdf(2) / (1 - 2 * stats.norm.sf(2))
        gap = 20 / (count * density)
        assert sample.max() == pytest.approx(largest, rel=gap, abs=0)
        assert sample.min() == pytest.approx(least, rel=gap, abs=0)


# ---------------------------------------------------------------------------------------------------
# networks


@pytest.mark.parametrize("name", ["digits", "cifar"])
def test_network(name, recorded):
    model = {"digits": digits_network, "cifar": cifar_network}[name]("float32")
    facts = {
        key.removeprefix(f"facts/{name}/"): value for key, value in recorded.items() if key.startswith(f"facts/{name}/")
    }
    assert [layer.name for layer in model.layers] == list(facts["layer_names"])
    assert [type(layer).__name__ for layer in model.layers] == list(facts["layer_types"])
    assert [layer.count_params() for layer in model.layers] == list(facts["parameters"])
    assert model.count_params() == facts["total_parameters"]
    for layer in model.layers:
        assert layer.output_shape == tuple(facts[f"output_shape/{layer.name}"])
    names = [f"{model.name}/{layer.name}/{weight.name}" for layer in model.layers for weight in layer.variables]
    assert names == list(facts["weight_names"])
    network = {"digits": problems.DIGITS, "cifar": problems.CIFAR}[name]
    assert [weight.shape for weight in model.get_weights()] == list(network.weight_shapes)

    lines = []
    model.summary(print_fn=lines.append)
    totals = [line.strip() for line in str(facts["summary"]).splitlines() if " params: " in line]
    assert len(totals) == 3
    for line, total in zip(lines[-3:], totals, strict=True):
        assert line.split(" (")[0] == total.split(" (")[0]  # Keras writes "0.00 B" for our "0 B"
