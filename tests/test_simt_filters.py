"""Gradients by filters in tiles, as PTX executed on the CPU: tensor cores, chunks of pixels, and the sum over these.

`test_simt_kernels` runs them through the table on shapes that are too small for tensor cores and have few chunks.
"""

import numpy as np
import pytest
import reference
from gpuconv.kernels import formulas
from gpuconv.kernels.cuda import correlate_filters, tiles
from gpuconv.kernels.geometry import correlation_geometry
from kernel_checks import CHECKS, Data
from simt import Counters, Gpu
from test_cuda_ptx import device  # skips this file where NVIDIA's compiler cannot be had

# Two ragged blocks of entries and of filters in every tile, a ragged last strip of pixels, and cells beyond the edges.
GEOMETRY = correlation_geometry((1, 10, 13, 12), (4, 3), 68, padding="same")
CASE = {"geometry": GEOMETRY, "activation": formulas.RELU}


@pytest.mark.parametrize(
    "tile", tiles.FILTER_FRAGMENT_TILES, ids=lambda tile: f"{tile.rows}x{tile.columns} of {tile.threads}"
)
def test_every_tile_on_tensor_cores(tile, monkeypatch):
    monkeypatch.setattr(tiles, "FILTER_FRAGMENT_TILES", (tile,))
    correlate_filters._plan.cache_clear()
    counters = Counters()
    with Gpu((8, 0), counters=counters).installed() as gpu:
        CHECKS["correlate2d_gradient_filters"](device, Data(3, np.float32), **CASE)
    correlate_filters._plan.cache_clear()
    assert gpu.launched[0][2] == (tile.threads,)
    assert any(kind.startswith("mma.sync") for kind in counters.warps)
    assert counters.bank_conflicts() == 0


# Four channels and filters at once, in pictures of fewer pixels than a thread's step; channels one by one; filters one
# by one.
WIDTHS = {
    "wide": correlation_geometry((4, 3, 3, 12), (4, 3), 36, padding="same"),
    "scalar channels": correlation_geometry((1, 5, 7, 3), (5, 3), 36, padding="same"),
    "scalar filters": correlation_geometry((1, 7, 8, 12), 3, 34),
}


@pytest.mark.parametrize(
    ("size", "widths", "capability"),
    [
        ("128x128 by 256", "wide", (8, 6)),
        ("128x64 by 128", "wide", (8, 6)),
        ("128x64 by 128", "wide", (7, 5)),
        ("64x64 by 64", "wide", (8, 6)),
        ("128x32 by 64", "wide", (8, 6)),
        ("192x64 by 192", "wide", (8, 6)),
        ("96x64 by 96", "wide", (8, 6)),
        ("32x32 by 32", "wide", (7, 5)),
        ("128x128 by 256", "scalar channels", (8, 6)),
        ("64x64 by 64", "scalar filters", (7, 5)),
        ("32x32 by 32", "scalar channels", (7, 5)),
        ("32x32 by 64", "scalar channels", (7, 5)),
        ("32x32 by 64", "scalar filters", (8, 6)),
    ],
)
def test_every_tile(size, widths, capability, monkeypatch):
    wide = "FILTER_TILES" if capability < (8, 0) else "FILTER_COPIED_TILES"
    choices = wide if widths == "wide" else "FILTER_SCALAR_TILES"
    [tile] = [tile for tile in getattr(tiles, choices) if f"{tile.rows}x{tile.columns} by {tile.threads}" == size]
    monkeypatch.setattr(tiles, choices, (tile,))
    correlate_filters._plan.cache_clear()
    counters = Counters()
    with Gpu(capability, counters=counters).installed() as gpu:
        case = {"geometry": WIDTHS[widths], "activation": formulas.RELU}
        CHECKS["correlate2d_gradient_filters"](device, Data(3, np.float32), **case)
    correlate_filters._plan.cache_clear()
    assert gpu.launched[0][2] == (tile.threads,)
    assert counters.bank_conflicts() == 0


def test_tensor_cores_are_as_accurate_as_multiply_adds():
    data = Data(5, np.float32)
    g = correlation_geometry((4, 12, 12, 8), 3, 32)
    x, dy = data.numbers(g.input_shape), data.numbers(g.output_shape)
    exact, _ = reference.correlate2d_gradient_filters(x, dy, dy, g, reference.LINEAR, 0.0)
    size, _ = reference.correlate2d_gradient_filters(np.abs(x), np.abs(dy), dy, g, reference.LINEAR, 0.0)
    worst = {}
    for capability in ((8, 6), (9, 0)):
        counters = Counters()
        with Gpu(capability, counters=counters).installed() as gpu:
            gpu.multiprocessors = 1  # sums of many pixels
            placed = [device.from_host(array) for array in (x, dy, data.garbage(g.filters_shape), data.garbage(32))]
            device.correlate2d_gradient_filters(placed[0], placed[1], placed[1], g, formulas.LINEAR, 0.0, *placed[2:])
            worst[capability] = (np.abs(device.to_host(placed[2]) - exact) / size).max()
        assert any(kind.startswith("mma.sync") for kind in counters.warps) == (capability == (9, 0))
    assert worst[9, 0] <= worst[8, 6]


def test_infinities_stay_where_they_are():
    data = Data(7, np.float32)
    g = correlation_geometry((1, 8, 8, 64), 1, 32)
    x, dy = np.abs(data.numbers(g.input_shape)) + 1, np.abs(data.numbers(g.output_shape)) + 1
    x[0, 3, 3, 5], x[0, 7, 7, 40] = np.inf, np.nan
    with Gpu((9, 0)).installed():
        placed = [device.from_host(array) for array in (x, dy, data.garbage(g.filters_shape), data.garbage(32))]
        device.correlate2d_gradient_filters(placed[0], placed[1], placed[1], g, formulas.LINEAR, 0.0, *placed[2:])
        got = device.to_host(placed[2])[0, 0]
    assert not np.isfinite(got[5]).any()
    assert np.isnan(got[40]).all()
    assert np.isfinite(np.delete(got, (5, 40), axis=0)).all()


def test_gradients_that_begin_where_no_vector_may():
    data = Data(3, np.float32)
    g = correlation_geometry((2, 6, 5, 4), 3, 8)
    x, dy = data.numbers(g.input_shape), data.numbers(g.output_shape)

    def gradients(place):
        with Gpu((8, 6)).installed():
            x_there, dy_there = map(device.from_host, (x, dy))
            results = device.empty(g.filters_shape, np.float32), device.empty(place + 8, np.float32)[place:]
            device.correlate2d_gradient_filters(x_there, dy_there, dy_there, g, formulas.LINEAR, 0.0, *results)
            return [device.to_host(result).tobytes() for result in results]

    assert gradients(1) == gradients(0)


@pytest.mark.parametrize("filters", [23, 20], ids=["numbers", "vectors"])
@pytest.mark.parametrize("splits", [1, 7, 33, 300])
def test_the_sum_over_chunks(splits, filters):
    data = Data(2, np.float64)
    sums = [data.numbers((splits, size)) for size in (3 * filters, filters)]
    with Gpu().installed():
        chunk_sums = device.from_host(np.concatenate([part.ravel() for part in sums]))
        dfilters, dbias = (device.from_host(data.garbage(size)) for size in (3 * filters, filters))
        correlate_filters._add_chunks(chunk_sums, splits, dfilters, dbias)
        got = device.to_host(dfilters), device.to_host(dbias)
    for total, part in zip(got, sums, strict=True):
        bound = splits * np.finfo(np.float64).eps * np.abs(part).sum(0)
        assert (np.abs(total - part.sum(0)) <= bound).all()


# Every place of x is below 2**31, but not where windows begin, behind the padding.
PADDED = correlation_geometry((1, 26754, 26754, 3), 5, 8, strides=2, padding="full")
COUNTABLE = [
    correlation_geometry((1, 26754, 26754, 3), 5, 8, strides=2),
    correlation_geometry((128, 56, 56, 64), 3, 64, padding="same"),
    correlation_geometry((64, 1, 1, 4096), 1, 4096),
    correlation_geometry((1, 1, 1, 1), 1, 1),
]
UNCOUNTABLE = [
    PADDED,
    correlation_geometry((1, 1, 1, 8), 1, 8, padding=((1 << 29, 0), (0, 0)), strides=1 << 20),
    correlation_geometry((1, 8192, 8192, 24), (8192, 8192), 8),  # the picture after the last
    correlation_geometry((1, 8192, 8192, 8), 1, 32),  # the last pixels of dy
]


@pytest.mark.parametrize("geometry", COUNTABLE + UNCOUNTABLE, ids=lambda g: "x".join(map(str, g.input_shape)))
def test_what_32_bits_count(geometry):
    assert correlate_filters._countable(geometry) == (geometry in COUNTABLE)


def test_every_tile_is_chosen():
    def chosen(choices, entries, filters, pixels=128 * 56 * 56, multiprocessors=84):
        layers = tiles.blocks_for(pixels, tiles.SMALLEST_CHUNK)
        tile = tiles.filter_tile(choices, entries, filters, layers, multiprocessors)
        return tile.rows, tile.columns, tile.threads

    copied = tiles.FILTER_COPIED_TILES
    assert chosen(copied, 9 * 64, 64) == (192, 64, 192)
    assert chosen(copied, 9 * 32, 64) == (96, 64, 96)
    assert chosen(copied, 64, 64) == (64, 64, 64)
    assert chosen(copied, 128, 32) == (128, 32, 64)
    assert chosen(copied, 1024, 64) == (128, 64, 128)
    assert chosen(copied, 1024, 128) == (128, 128, 256)
    # So few pixels that most of a GPU would have nothing to do: tiles of fewer sums for each thread.
    assert chosen(copied, 1024, 64, pixels=128) == (32, 32, 32)
    fragments = tiles.FILTER_FRAGMENT_TILES
    assert chosen(fragments, 1024, 64, multiprocessors=132) == (128, 64, 128)
    assert chosen(fragments, 576, 64, multiprocessors=132) == (64, 64, 64)
    assert chosen(fragments, 1024, 64, 128, multiprocessors=132) == (64, 64, 128)
    assert chosen(fragments, 64, 32, multiprocessors=132) == (64, 32, 32)


def test_chunks_fill_whole_rounds():
    # 9 tiles, 6 of them at once on each of 132 multiprocessors: one round of 792 blocks.
    assert tiles.filter_chunks(128 * 56 * 56, 9, 792) == (88, 4576)
    # Pixels for fewer blocks than a GPU holds.
    assert tiles.filter_chunks(1280, 1, 792) == (10, 128)
    # More tiles than it holds: 3 chunks of 500 tiles make 2 rounds, where 1 would leave a third of the GPU idle.
    count, chunk = tiles.filter_chunks(100_000, 500, 792)
    assert count == 3
    assert count * chunk >= 100_000 > (count - 1) * chunk


def test_blocks_that_a_gpu_holds():
    tile = next(tile for tile in tiles.FILTER_TILES if (tile.rows, tile.columns) == (64, 64))
    assert tiles.resident_blocks(tile, 20480, (9, 0), 132) == 6 * 132  # by registers
    assert tiles.resident_blocks(tile, 20480, (8, 6), 84) == 4 * 84  # by shared memory
    assert tiles.resident_blocks(tile, 16384, (8, 6), 84) == 5 * 84
    assert tiles.resident_blocks(tile, 16384, (7, 5), 40) == 4 * 40
