"""Correlations on tensor cores, as PTX executed on the CPU, whose `mma` cuts sums as the hardware was seen to do."""

import numpy as np
import pytest
import reference
from gpuconv.kernels import formulas, precision
from gpuconv.kernels.cuda import product, tiles
from gpuconv.kernels.cuda.instructions import BFLOAT16, TF32, THREE_TF32
from gpuconv.kernels.geometry import correlation_geometry
from kernel_checks import CHECKS, Data
from simt import Counters, Gpu
from test_cuda_ptx import device  # skips this file where NVIDIA's compiler cannot be had

# Two ragged blocks of pixels and of filters in every tile, sums over three cells, and cells beyond the edges.
GEOMETRY = correlation_geometry((1, 12, 12, 32), (1, 3), 132, padding="same")
# Long sums, whose errors add up.
LONG = correlation_geometry((1, 5, 5, 192), 3, 32)
# Short ones, of which a few terms make most.
SHORT = correlation_geometry((1, 4, 4, 64), 1, 32)
# Channels and filters in fours, but no multiple of the depth, in two groups.
GROUPS = correlation_geometry((2, 5, 6, 24), 3, 64, strides=2, padding="same", groups=2)

# How far a factor may be off, and with it a product: see `multiply_fragments`.
ROUNDING = {"float32": 2.0**-20, "tf32": 2 * 2.0**-10, "bf16": 2 * 2.0**-8}
TILES = [("float32", tile) for tile in tiles.THREE_PRODUCT_TILES]
TILES += [("tf32", tile) for tile in tiles.FRAGMENT_TILES] + [("bf16", tiles.FRAGMENT_TILES[1])]


@pytest.fixture
def choose():
    """`set_precision`, undone afterwards."""
    before = precision.get_precision()
    yield precision.set_precision
    precision.set_precision(before)


def correlate(geometry, capability, counters=None, change=np.asarray):
    """A linear correlation of random numbers, how far it is off, and the size of the terms of each sum.

    All numbers are first changed, if `change` says how.
    """
    data = Data(5, np.float32)
    x, filters = change(data.numbers(geometry.input_shape)), change(data.numbers(geometry.filters_shape))
    bias = change(data.numbers(geometry.out_channels))
    with Gpu(capability, counters=counters).installed() as gpu:
        placed = [device.from_host(array) for array in (x, filters, bias, data.garbage(geometry.output_shape))]
        device.correlate2d(*placed[:3], geometry, formulas.LINEAR, 0.0, placed[3])
        y = device.to_host(placed[3])
    assert gpu.launched[0][0] == "correlation_product"
    error = y - reference.correlate2d(x, filters, bias, geometry, reference.LINEAR, 0.0)
    sizes = [np.abs(array).astype(np.float64) for array in (x, filters, bias)]
    return y, error, reference.correlate2d(*sizes, geometry, reference.LINEAR, 0.0)


def within(error, size, choice, geometry):
    """Whether errors are those of the factors, and of cutting as many sums as there are terms."""
    terms = geometry.kernel_height * geometry.kernel_width * geometry.channels // geometry.groups
    return (np.abs(error) <= (ROUNDING[choice] + terms * 2.0**-23) * size).all()


@pytest.mark.parametrize(("choice", "tile"), TILES, ids=lambda part: part if isinstance(part, str) else str(part[:3]))
def test_every_tile(choice, tile, choose, monkeypatch):
    monkeypatch.setattr(tiles, "THREE_PRODUCT_TILES", (tile,))
    monkeypatch.setattr(tiles, "FRAGMENT_TILES", (tile,))
    choose(choice)
    counters = Counters()
    _, error, size = correlate(GEOMETRY, (8, 0), counters)
    assert within(error, size, choice, GEOMETRY)
    assert counters.bank_conflicts() == 0
    assert any(kind.startswith("mma.sync") for kind in counters.warps)
    kinds = {kind for kind in counters.warps if kind.startswith(("ld.", "st.")) and "param" not in kind}
    assert {kind for kind in kinds if "v4" not in kind} <= {"ld.global.nc.f32"}, kinds


def test_all_tiles_of_three_products_give_the_same_bits(monkeypatch):
    results = set()
    for tile in tiles.THREE_PRODUCT_TILES:
        monkeypatch.setattr(tiles, "THREE_PRODUCT_TILES", (tile,))
        y, _, _ = correlate(GEOMETRY, (9, 0))
        results.add(y.tobytes())
    assert len(results) == 1


def test_few_filters_have_a_narrow_tile():
    tile = tiles.register_tile(tiles.THREE_PRODUCT_TILES, 128 * 15 * 15, 32, 1, 64, 132)
    assert (tile.rows, tile.columns) == (128, 32)


def test_few_blocks_have_the_smallest_warps():
    tile = tiles.register_tile(tiles.THREE_PRODUCT_TILES, 128, 64, 16, 1024, 132)
    assert (tile.rows, tile.columns, tile.threads, tile.thread_sums) == (64, 32, 128, 16)


def test_strips_are_deep_where_channels_fill_them():
    for channels, depth in ((64, 32), (48, 16)):
        tile = tiles.register_tile(tiles.FRAGMENT_TILES, 32 * 56 * 56, 64, 1, channels, 132)
        assert (tile.rows, tile.columns, tile.depth) == (64, 64, depth)


@pytest.mark.parametrize("choice", precision.CHOICES)
def test_groups_strides_and_channels_that_fill_no_strip(choice, choose):
    choose(choice)
    _, error, size = correlate(GROUPS, (9, 0))
    assert within(error, size, choice, GROUPS)


@pytest.mark.parametrize("change", [np.asarray, np.abs])
def test_three_products_are_as_accurate_as_float32(change):
    # Compute capability 8.6 multiplies float32 numbers.
    _, exact, size = correlate(LONG, (8, 6), change=change)
    counters = Counters()
    _, error, _ = correlate(LONG, (9, 0), counters, change)
    assert any(kind.startswith("mma.sync") for kind in counters.warps)
    assert np.abs(error / size).max() <= np.abs(exact / size).max()


def test_three_products_hardly_shrink_sums_of_positive_terms():
    # In the mean the left factor loses 7/8 of its last place, and each of two steps of 8 terms half a place of the sum.
    _, error, size = correlate(SHORT, (9, 0), change=np.abs)
    assert -(7 / 8 + 2 / 2) * 2.0**-23 <= (error / size).mean() <= 0


def test_three_products_of_numbers_of_few_bits_are_exact():
    _, error, size = correlate(SHORT, (9, 0), change=lambda numbers: np.round(numbers * 64))
    assert size.max() > 2.0**11
    assert not error.any()


def test_a_choice_of_lower_precision_is_what_one_gets(choose):
    for choice, least in (("tf32", 2.0**-16), ("bf16", 2.0**-13)):
        choose(choice)
        _, error, size = correlate(LONG, (8, 6))
        assert within(error, size, choice, LONG)
        assert np.abs(error / size).max() > least
    # Of compute capability 7.5 there are no such tensor cores.
    _, error, size = correlate(LONG, (7, 5))
    assert within(error, size, "float32", LONG)


@pytest.mark.parametrize("choice", ["tf32", "bf16"])
def test_gradients_by_input(choice, choose):
    # Held to float32's tolerance by its check, which this precision must exceed: so it is in use here as well.
    choose(choice)
    geometry = correlation_geometry((1, 6, 6, 32), 3, 64)
    with Gpu((8, 0)).installed(), pytest.raises(AssertionError, match="elements off"):
        CHECKS["correlate2d_gradient_input"](device, Data(3, np.float32), geometry=geometry, activation=formulas.RELU)


def test_where_tensor_cores_are_used():
    def used(choice="float32", capability=(9, 0), entries=576, filters=64):
        return product.fragments_of(choice, capability, entries, filters)

    assert used() == used(capability=(8, 0)) == THREE_TF32
    assert used(capability=(8, 6)) is used(capability=(12, 0)) is used(capability=(7, 5)) is None
    assert used(entries=27) is used(filters=16) is None
    assert used("tf32", (8, 6)) == used("tf32", entries=36, filters=4) == TF32
    assert used("bf16", (12, 0)) == BFLOAT16
    assert used("tf32", (7, 5)) is used("bf16", (7, 5)) is None
