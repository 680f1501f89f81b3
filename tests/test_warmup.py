"""`gpuconv.warmup`: what it compiles, and that it changes nothing."""

import gc

import numpy as np
import pytest
from gpuconv.kernels import cpu

import gpuconv
from gpuconv import layers, models, optimizers, regularizers, seeds, utils

X = np.random.RandomState(0).rand(6, 6, 6, 1).astype(np.float32)
LABELS = np.arange(6) % 3


def network(optimizer="adam", loss="sparse_categorical_crossentropy"):
    """Every kind of state that training changes: weights, moving means, moments, counts of dropout's draws."""
    utils.set_random_seed(3)
    model = models.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer=regularizers.l2(1e-3)),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )
    if loss is not None:
        model.compile(optimizer, loss, ["accuracy"])
    return model


def trained(model, warm):
    """Weights and history of two trainings, before the second of which a model may be warmed up."""
    utils.set_random_seed(4)
    first = model.fit(X, LABELS, batch_size=4, verbose=0)
    if warm:
        before = seeds.state(), model.optimizer.iterations
        assert gpuconv.warmup(model, batch_size=5) is None
        assert (seeds.state(), model.optimizer.iterations) == before
        assert model.history is first
    second = model.fit(X, LABELS, batch_size=4, verbose=0)
    return [weight.tobytes() for weight in model.get_weights()], first.history, second.history


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_training_goes_on_as_if_nothing_had_been(optimizer):
    assert trained(network(optimizer), warm=True) == trained(network(optimizer), warm=False)


def test_a_new_model_stays_new():
    model, other = network(optimizers.SGD(momentum=0.9)), network(optimizers.SGD(momentum=0.9))
    gpuconv.warmup(model)
    assert model.history is None
    assert model.optimizer.iterations == 0
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        assert one.tobytes() == two.tobytes()
    assert trained(model, warm=False) == trained(other, warm=False)


@pytest.fixture
def used(monkeypatch):
    """Names of the kernels that have been called, whose device then computes as ever."""
    names = set()
    for name in gpuconv.kernels.TABLE:
        kernel = getattr(cpu, name)

        def noting(*arguments, name=name, kernel=kernel):
            names.add(name)
            return kernel(*arguments)

        monkeypatch.setattr(cpu, name, noting)
    return names


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "mse", None])
def test_it_uses_every_kernel_of_training_and_inference(loss, used):
    with gpuconv.use_device("cpu"):
        model = network(loss=loss)
        gpuconv.warmup(model, batch_size=4)
        warmed = set(used)
        used.clear()
        if loss is not None:
            y = LABELS if model.loss.sparse else np.eye(3)[LABELS]
            model.fit(X, y, batch_size=4, validation_split=0.3, verbose=0)
            model.evaluate(X, y, verbose=0)
        model.predict(X, verbose=0)
    assert used
    assert used <= warmed


def test_after_a_failure_the_model_is_what_it_was(monkeypatch):
    model = network()
    model.fit(X, LABELS, verbose=0)
    before = [weight.tobytes() for weight in model.get_weights()]
    collecting = gc.get_threshold()
    monkeypatch.setattr(model, "_evaluate", lambda epoch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gpuconv.warmup(model)
    assert gc.get_threshold() == collecting
    assert [weight.tobytes() for weight in model.get_weights()] == before
    assert model.optimizer.iterations == 1


def test_refusals():
    with pytest.raises(TypeError, match="model: expected a Sequential, received 3"):
        gpuconv.warmup(3)
    with pytest.raises(RuntimeError, match="warmup: expected a model whose input shape is known"):
        gpuconv.warmup(models.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="batch_size: expected"):
        gpuconv.warmup(network(), batch_size=0)
