"""Layers that a model computes together: when, that it makes no difference, and that nobody sees it."""

import numpy as np
import pytest
import reference
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu import permuted, pictures, windows, winners, winograd_input
from gpuconv.kernels.cpu.epilogue import NO_WINDOW
from gpuconv.kernels.cpu.product import lanes
from gpuconv.kernels.cpu.workspace import NO_WINNERS
from gpuconv.kernels.geometry import correlation_geometry, poolable, pooled_part, pooling_geometry
from kernel_checks import CHECKS, Data
from support import assert_close

import gpuconv
from gpuconv import layers, models, optimizers
from gpuconv.fusion import PooledCorrelation, parts_of

SHAPE = (9, 10, 3)
RANDOM = np.random.default_rng(5)
X, LABELS = RANDOM.uniform(-1, 1, (11, *SHAPE)), RANDOM.integers(0, 4, 11)


class OwnConv2D(layers.Conv2D):
    """A user's layer."""


class OwnMaxPooling2D(layers.MaxPooling2D):
    """A user's layer, which doubles."""

    def forward(self, x, state, training):
        return 2 * super().forward(x, state, training)


def built(*given):
    """The layers, with weights."""
    return models.Sequential([layers.Input(SHAPE), *given]).layers


@pytest.mark.parametrize(
    ("together", "first", "second"),
    [
        (True, layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D()),
        (True, layers.Conv2D(4, 3, padding="same", activation="tanh"), layers.MaxPooling2D((3, 2))),
        (True, layers.DepthwiseConv2D((2, 3), use_bias=False), layers.MaxPooling2D(2, padding="same")),
        (False, layers.Conv2D(4, 3, activation="gelu"), layers.MaxPooling2D()),
        (False, layers.Conv2D(4, 3, activation="softmax"), layers.MaxPooling2D()),
        (False, layers.Conv2D(4, 3), layers.MaxPooling2D(3, strides=2)),
        (False, layers.Conv2D(4, 3), layers.MaxPooling2D(2, padding=1)),
        (False, layers.Conv2D(4, 3), layers.MaxPooling2D(2, strides=3)),
        (False, layers.Conv2D(4, 3), layers.AveragePooling2D()),
        (False, layers.ZeroPadding2D(), layers.MaxPooling2D()),
        (False, OwnConv2D(4, 3), layers.MaxPooling2D()),
        (False, layers.Conv2D(4, 3), OwnMaxPooling2D()),
    ],
)
def test_what_is_computed_together(together, first, second):
    given = built(first, second)
    parts = parts_of(given)
    assert [type(part) for part in parts] == ([PooledCorrelation] if together else [type(first), type(second)])


def test_windows_of_more_cells_than_a_byte_numbers_stay_apart():
    geometry = correlation_geometry((1, 40, 40, 1), 3, 2)
    assert poolable(geometry, pooling_geometry(geometry.output_shape, 16))
    assert not poolable(geometry, pooling_geometry(geometry.output_shape, (16, 17)))


def test_only_covered_cells_are_computed():
    geometry = correlation_geometry((2, 15, 14, 3), 3, 4)
    part = pooled_part(geometry, pooling_geometry(geometry.output_shape, (2, 5)))
    assert part.output_shape == (2, 12, 10, 4)
    assert part.input_shape == geometry.input_shape


def network():
    """Two pairs, of which one leaves cells over, and a dropout between."""
    model = models.Sequential(
        [
            layers.Conv2D(17, 3, padding="same", activation="relu", kernel_regularizer="l2", input_shape=SHAPE),
            layers.MaxPooling2D(),
            layers.Dropout(0.2, seed=3),
            layers.Conv2D(6, 2, activation="elu"),
            layers.MaxPooling2D((1, 3)),
            layers.Flatten(),
            layers.Dense(4),
        ],
        dtype="float64",
    )
    model.compile(optimizers.SGD(0.1), gpuconv.losses.SparseCategoricalCrossentropy(from_logits=True))
    weights = np.random.default_rng(6)
    model.set_weights([weights.uniform(-0.3, 0.3, variable.shape) for variable in model.variables])
    return model


def test_models_with_pairs_and_without_are_the_same(monkeypatch):
    together, apart = network(), network()
    predictions = together.predict(X, batch_size=4, verbose=0)
    history = together.fit(X, LABELS, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert sum(isinstance(part, PooledCorrelation) for part in together._parts) == 2
    monkeypatch.setattr(models, "parts_of", list)
    np.testing.assert_array_equal(predictions, apart.predict(X, batch_size=4, verbose=0))
    expected = apart.fit(X, LABELS, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert not any(isinstance(part, PooledCorrelation) for part in apart._parts)
    # The sums over pixels leave out those that no window covers, and so come in another order.
    np.testing.assert_allclose(history, expected, rtol=1e-11)
    for one, other in zip(together.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_layers_of_a_pair_work_by_themselves():
    model = network()
    model.predict(X, verbose=0)
    y = X
    for number, layer in enumerate(model.layers[:2]):
        state = layer.plan(len(X), model._allocator(f"alone {number}", len(X)), True, True)
        y = layer.forward(y, state, False)
        assert y.shape[1:] == layer.output_shape
    geometry, pool = (layer.geometry.for_batch(len(X)) for layer in model.layers[:2])
    weights = model.get_weights()[:2]
    z = reference.correlate2d(X, *weights, geometry, reference.RELU, 0.0)
    sizes = reference.correlate2d(*map(np.abs, (X, *weights)), geometry, reference.LINEAR, 0.0)
    expected, scale = (reference.max_pool2d(cells, pool)[0] for cells in (z, sizes))
    assert_close(y, expected, np.float64, 28, scale)


def test_the_unpooled_activation_is_not_stored():
    model = network()
    model.fit(X, LABELS, batch_size=4, verbose=0)
    largest = max(array[0].size for (owner, _), array in model._arrays.items() if owner in (0, 1))
    assert largest < np.prod(model.layers[0].output_shape)


@pytest.mark.parametrize(("dtype", "tile"), [(np.float32, 4), (np.float32, 5), (np.float64, 4)])
@pytest.mark.parametrize(
    ("shape", "filters", "padding", "dilation"),
    [
        ((3, 15, 14, 17), 20, "valid", 1),
        ((7, 6, 6, 33), 17, ((0, 1), (2, 0)), 1),
        ((1, 9, 3, 28), 16, "same", 1),
        ((13, 3, 5, 16), 16, "full", 1),
        ((3, 15, 16, 17), 20, "valid", 2),
        ((2, 4, 14, 16), 17, "same", (2, 3)),
        ((5, 7, 2, 16), 16, "full", (1, 2)),
    ],
)
def test_gradients_by_tiles_of_outputs(shape, filters, padding, dilation, tile, dtype):
    g = correlation_geometry(shape, 3, filters, padding=padding, dilation=dilation)
    random = np.random.default_rng(1)
    dy, y, weights = (
        random.uniform(-1, 1, extents).astype(dtype) for extents in (g.output_shape, g.output_shape, g.filters_shape)
    )
    results = []
    before = gpuconv.get_num_threads()
    for threads in (1, 2):
        gpuconv.set_num_threads(threads)
        dx = np.full(g.input_shape, np.nan, dtype)
        winograd_input.correlate2d_gradient_input(
            dy, y, weights, g, reference.TANH, 0.0, dx, tile, NO_WINDOW, NO_WINNERS
        )  # fmt: skip
        results.append(dx)
    gpuconv.set_num_threads(before)
    np.testing.assert_array_equal(*results)
    expected = reference.correlate2d_gradient_input(dy, y, weights, g, reference.TANH, 0.0)
    assert_close(results[0], expected, dtype, 9 * filters, np.abs(expected).max() * np.ones_like(expected))


def test_tiles_of_outputs_are_taken_where_they_are_fewer():
    choose = cpu.correlate.winograd.choose_for_input
    small = correlation_geometry((128, 6, 6, 64), 3, 64)
    assert choose(small, np.dtype(np.float32)) == (4, True)
    # Interleaved, its outputs are four pictures of 6 x 6 or less.
    dilated = correlation_geometry((128, 15, 15, 32), 3, 64, dilation=2)
    assert choose(dilated, np.dtype(np.float32)) == (6, True)
    large = correlation_geometry((2, 112, 112, 64), 3, 64, padding="same")
    assert not choose(large, np.dtype(np.float32))[1]


POOLED = ["correlate2d_max_pool2d", "correlate2d_max_pool2d_gradient_filters"]

# Channels beside one and two vectors; rows of the filters that are a part of a vector, one, and more; pieces for one
# tile and for more; blocks of windows that are pictures, parts of one, and several; cells that no window covers.
SHALLOW = [
    correlation_geometry((13, 8, 8, 1), 3, 10),
    correlation_geometry((3, 23, 22, 3), 3, 33),
    correlation_geometry((2, 41, 36, 1), 3, 25),
    correlation_geometry((2, 21, 40, 1), (2, 5), 17, (1, 2), "valid", (3, 1)),
    correlation_geometry((1, 5, 6, 32), 1, 24, 2),
    correlation_geometry((200, 3, 3, 2), (1, 2), 16),
    correlation_geometry((5, 9, 12, 1), 3, 9, dilation=(1, 2)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("geometry", SHALLOW, ids=str)
def test_windows_in_registers(geometry, name, dtype):
    pool = pooling_geometry(geometry.output_shape, 2)
    part = pooled_part(geometry, pool)
    before = gpuconv.get_num_threads()
    for activation in (reference.LINEAR, reference.RELU):
        # Fewer channels than a vector has lanes are left to `pictures`, if there are enough of those.
        assert geometry.out_channels < lanes(dtype) or windows.usable(part, activation, (2, 2), np.dtype(dtype))
        assert winners.usable(part, activation, (2, 2), np.dtype(dtype))
        results = []
        for threads in (1, 2):
            gpuconv.set_num_threads(threads)
            results.append(CHECKS[name](cpu, Data(1, dtype), geometry, activation))
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)
    gpuconv.set_num_threads(before)


# As many pictures as vectors hold, and some more; pixels that fill vectors, and some more; windows for several turns.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "filters"), [((16, 8, 8, 1), 19), ((19, 9, 11, 1), 23), ((21, 16, 16, 1), 18)])
def test_pictures_as_lanes(shape, filters, dtype):
    geometry = correlation_geometry(shape, 3, filters)
    pool = pooling_geometry(geometry.output_shape, 2)
    part, data = pooled_part(geometry, pool), Data(1, dtype)
    x, weights, bias = data.numbers(shape), data.numbers((3, 3, 1, filters)), data.numbers(filters)
    x[1, 2, 3], x[2, 4, 4], x[3] = np.nan, np.inf, 0
    before = gpuconv.get_num_threads()
    for activation in (reference.LINEAR, reference.RELU):
        results = []
        for module, threads in ((windows, 1), (pictures, 1), (pictures, 2)):
            gpuconv.set_num_threads(threads)
            y, winner = np.zeros(pool.output_shape, dtype), np.full(pool.output_shape, 9, np.uint8)
            compiled, arguments = module.forward(x, weights, bias, part, activation, y, winner)
            compiled(*arguments)
            results.append((y.tobytes(), winner.tobytes()))
        assert results[0] == results[1] == results[2]
        assert np.isnan(y).any()
        assert winner.max() == 3
    gpuconv.set_num_threads(before)


# Fewer channels than a vector has lanes; turns of as many windows, of which the last overlaps the one before.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize(("shape", "fewer"), [((16, 12, 10, 1), 2), ((19, 16, 16, 1), 1), ((33, 9, 11, 1), 1)])
def test_fewer_channels_than_lanes(shape, fewer, name, dtype):
    geometry = correlation_geometry(shape, 3, lanes(dtype) - fewer)
    part = pooled_part(geometry, pooling_geometry(geometry.output_shape, 2))
    assert pictures.usable(part, reference.RELU, (2, 2), np.dtype(dtype))
    for activation in (reference.LINEAR, reference.RELU):
        CHECKS[name](cpu, Data(1, dtype), geometry, activation)


# Channels of one and of two vectors, and between; windows for one block and for more; NaN that wins.
@pytest.mark.skipif(permuted.PERMUTE is None, reason="no instruction that picks numbers by their places is known")
@pytest.mark.parametrize(("shape", "filters"), [((16, 8, 8, 1), 16), ((19, 9, 11, 1), 23), ((3, 16, 17, 1), 32)])
def test_permuted_pixels_give_the_same_bits(shape, filters):
    geometry = correlation_geometry(shape, 3, filters)
    pool = pooling_geometry(geometry.output_shape, 2)
    part, data = pooled_part(geometry, pool), Data(1, np.float32)
    x, weights, bias, dy = (data.numbers(n) for n in (shape, (3, 3, 1, filters), filters, pool.output_shape))
    before = gpuconv.get_num_threads()
    for special in (0.5, np.inf, np.nan):
        x[1, 2, 3], dy[1, 0, 1, 2] = special, special
        for activation in (reference.LINEAR, reference.RELU):
            assert permuted.usable(part, activation, (2, 2), np.dtype(np.float32))
            y, winner = np.zeros(pool.output_shape, np.float32), np.zeros(pool.output_shape, np.uint8)
            cpu.correlate2d_max_pool2d(x, weights, bias, geometry, activation, 0.0, pool, y, winner)
            results = []
            for module, threads in ((winners, 1), (permuted, 1), (permuted, 2)):
                gpuconv.set_num_threads(threads)
                dfilters, dbias = np.full_like(weights, 7), np.full_like(bias, 7)
                compiled, arguments = module.filters_gradient(x, dy, y, winner, part, activation, dfilters, dbias)
                compiled(*arguments)
                results.append((dfilters, dbias))
            for result in results[1:]:
                for one, other in zip(results[0], result, strict=True):
                    np.testing.assert_array_equal(one, other)
            assert np.isfinite(results[0][0]).all() == np.isfinite(special)
    gpuconv.set_num_threads(before)


def test_what_permuted_pixels_are_for():
    def usable(shape=(4, 8, 8, 1), filters=16, size=3, dtype=np.float32, **settings):
        geometry = correlation_geometry(shape, size, filters, **settings)
        part = pooled_part(geometry, pooling_geometry(geometry.output_shape, 2))
        return permuted.usable(part, reference.RELU, (2, 2), np.dtype(dtype))

    assert usable() == (permuted.PERMUTE is not None)
    assert not usable(dtype=np.float64)
    assert not usable((4, 8, 8, 2))
    assert not usable(size=2)
    assert not usable(padding="same")


def test_what_pictures_as_lanes_are_for():
    wide = lanes(np.float32)

    def usable(shape=(2 * wide, 8, 8, 1), filters=wide + 1, size=3, **settings):
        geometry = correlation_geometry(shape, size, filters, **settings)
        part = pooled_part(geometry, pooling_geometry(geometry.output_shape, 2))
        return pictures.usable(part, reference.RELU, (2, 2), np.dtype(np.float32))

    assert usable()
    assert usable((wide, 16, 16, 1))
    assert not usable((wide - 1, 8, 8, 1))
    assert not usable((wide, 17, 16, 1))
    assert not usable((wide, 8, 8, 2))
    assert not usable(filters=2 * wide)
    assert not usable(size=2)
    assert not usable(strides=2)


def test_what_windows_in_registers_are_for():
    def usable(geometry, activation=reference.RELU, window=(2, 2), dtype=np.float32):
        pool = pooling_geometry(geometry.output_shape, window)
        return windows.usable(pooled_part(geometry, pool), activation, window, np.dtype(dtype))

    shape = (4, 10, 10, 3)
    assert usable(correlation_geometry(shape, 3, 64))
    assert usable(correlation_geometry(shape, 3, 64), reference.LINEAR)
    assert not usable(correlation_geometry(shape, 3, 64), reference.TANH)
    assert not usable(correlation_geometry(shape, 3, 64), window=(2, 1))
    assert not usable(correlation_geometry(shape, 4, 64))
    assert not usable(correlation_geometry(shape, 3, 3))
    assert not usable(correlation_geometry(shape, 3, 66, groups=3))
    assert not usable(correlation_geometry(shape, 3, 64, padding="same"))
    # Places of patches have 32 bits.
    assert not winners.usable(correlation_geometry((1, 8192, 8192, 1), 3, 64), reference.RELU, (2, 2), np.float32)
    # Padding that no window reaches is none.
    assert usable(correlation_geometry(shape, 3, 64, padding=((0, 1), (0, 1))))
    assert not usable(correlation_geometry(shape, 3, 64, padding=((0, 2), (0, 1))))
    assert not usable(correlation_geometry(shape, 3, 64, padding=((0, 1), (0, 2))))
    assert not usable(correlation_geometry(shape, 3, 64, padding=((1, 0), (0, 0))))
    assert not usable(correlation_geometry(shape, 3, 64, padding=((0, 0), (1, 0))))
