"""The register tiles of correlations, every family of them, as PTX executed on the CPU.

`test_simt_kernels` runs them through the table on small shapes, which meet few of the tiles; here each is forced on a
problem that crosses its edges, and what a profiler would count is looked at.
"""

import numpy as np
import pytest
import reference
from gpuconv.kernels import formulas
from gpuconv.kernels.cuda import correlate, product, tiles, toolkit
from gpuconv.kernels.cuda.phases import hull_of
from gpuconv.kernels.geometry import correlation_geometry
from kernel_checks import CHECKS, Data
from simt import Counters, Gpu
from test_cuda_ptx import device  # skips this file where NVIDIA's compiler cannot be had

# Two blocks of pixels and of filters in every tile, both ragged; the sums go on over three cells.
QUADS = correlation_geometry((1, 12, 12, 16), (1, 3), 132, padding="same")
RAGGED = correlation_geometry((1, 12, 12, 12), (1, 3), 133, padding="same")
ASYNCHRONOUS, STAGED = (8, 0), (7, 5)


def run(monkeypatch, tile, geometry, capability, counters=None):
    """The output of a correlation in one tile."""
    monkeypatch.setattr(tiles, "REGISTER_TILES", (tile,))
    with Gpu(capability, counters=counters).installed() as gpu:
        case = {"geometry": geometry, "activation": formulas.RELU}
        [y] = CHECKS["correlate2d"](device, Data(3, np.float32), **case)
    [(name, _, threads)] = gpu.launched
    assert name == "correlation_product"
    assert threads == (tile.threads,)
    return y


def test_all_tiles_give_the_same_bits(monkeypatch):
    # The number of multiprocessors decides between tiles, and must not decide about results.
    tile, *others = tiles.REGISTER_TILES
    expected = run(monkeypatch, tile, QUADS, ASYNCHRONOUS)
    for other in others:
        assert run(monkeypatch, other, QUADS, ASYNCHRONOUS).tobytes() == expected.tobytes()
    assert run(monkeypatch, tile, QUADS, STAGED).tobytes() == expected.tobytes()


SINGLY = [(tile, 1, width) for tile in tiles.SCALAR_TILES for width in (1, 4)]
QUADS_OF_PATCHES = [(tile, 4, width) for tile in tiles.REGISTER_TILES for width in (1, 4)]
ON_TENSOR_CORES = [(tile, 4, 4) for tile in (*tiles.THREE_PRODUCT_TILES, *tiles.FRAGMENT_TILES)]


@pytest.mark.parametrize(("tile", "patch_width", "filter_width"), [*SINGLY, *QUADS_OF_PATCHES, *ON_TENSOR_CORES])
def test_threads_fetch_all_of_a_tiles_strips(tile, patch_width, filter_width):
    t = product.layout_of(tile, patch_width, filter_width, whole=False)
    assert t.patch_fetches * t.pixel_step == tile.rows
    assert t.patch_lanes * t.patch_width == tile.depth
    assert t.filter_fetches * t.entry_step == tile.depth
    assert t.filter_lanes * t.filter_width == tile.columns


@pytest.mark.parametrize("tile", tiles.SCALAR_TILES, ids=lambda tile: f"{tile.rows}x{tile.columns}")
def test_channels_one_by_one_and_filters_four_at_a_time(monkeypatch, tile):
    monkeypatch.setattr(tiles, "SCALAR_TILES", (tile,))
    counters = Counters()
    with Gpu(ASYNCHRONOUS, counters=counters).installed() as gpu:
        case = {"geometry": correlation_geometry((2, 9, 11, 3), 3, 4, 1, "same", (2, 3)), "activation": formulas.RELU}
        CHECKS["correlate2d"](device, Data(3, np.float32), **case)
    assert gpu.launched[0][2] == (tile.threads,)
    assert counters.bank_conflicts() == 0


@pytest.mark.parametrize("tile", tiles.REGISTER_TILES, ids=lambda tile: f"{tile.rows}x{tile.columns} of {tile.threads}")
def test_accesses_are_of_four_numbers_and_meet_in_no_bank(monkeypatch, tile):
    counters = Counters()
    run(monkeypatch, tile, QUADS, ASYNCHRONOUS, counters)
    assert counters.bank_conflicts() == 0
    kinds = {kind for kind in counters.warps if kind.startswith(("ld.", "st.", "cp.")) and "param" not in kind}
    # Threads of the largest tile have no registers for four biases at once.
    singly = {"ld.global.nc.f32"} if tile.threads == 256 else set()
    assert all("v4" in kind for kind in kinds - singly if kind.startswith(("ld.", "st."))), kinds
    copies = [kind for kind in kinds if kind.startswith("cp.async")]
    assert copies, kinds


def test_strips_that_pass_through_registers_meet_in_no_bank(monkeypatch):
    counters = Counters()
    run(monkeypatch, tiles.REGISTER_TILES[0], QUADS, STAGED, counters)
    assert counters.bank_conflicts() == 0


@pytest.mark.parametrize(
    "geometry",
    [
        correlation_geometry((1, 6, 6, 8), 3, 12),
        correlation_geometry((1, 6, 6, 3), 3, 12),
        correlation_geometry((1, 3, 3, 32), 3, 12, padding="same"),
    ],
    ids=["tiles", "first layer", "shared sums"],
)
def test_a_bias_that_begins_where_no_vector_may(geometry):
    data = Data(3, np.float32)
    x, filters, bias = map(data.numbers, (geometry.input_shape, geometry.filters_shape, geometry.out_channels))

    def correlated(place):
        with Gpu((8, 6)).installed():
            arrays = [device.from_host(array) for array in (x, filters, np.concatenate([bias[:place], bias]))]
            y = device.empty(geometry.output_shape, np.float32)
            device.correlate2d(*arrays[:2], arrays[2][place:], geometry, formulas.RELU, 0.0, y)
            return device.to_host(y)

    assert correlated(1).tobytes() == correlated(0).tobytes()


@pytest.mark.parametrize("capability", [ASYNCHRONOUS, STAGED], ids=["copied", "staged"])
def test_channels_and_filters_that_are_no_multiples(monkeypatch, capability):
    run(monkeypatch, tiles.REGISTER_TILES[3], RAGGED, capability)


def test_every_tile_is_chosen():
    def chosen(pixels, filters, channels=32, multiprocessors=132):
        tile = tiles.register_tile(tiles.REGISTER_TILES, pixels, filters, 1, channels, multiprocessors)
        return tile.rows, tile.columns, tile.threads

    assert chosen(128 * 56 * 56, 128) == (128, 128, 256)
    assert chosen(128 * 56 * 56, 128, channels=12) == (128, 64, 128)  # its addresses take too many registers
    assert chosen(128 * 56 * 56, 64) == (128, 64, 128)
    assert chosen(128 * 15 * 15, 32) == (128, 32, 64)
    assert chosen(64 * 161, 64, multiprocessors=40) == (64, 64, 64)
    assert chosen(128, 64) == (64, 64, 128)  # few blocks: half the sums for each thread


def test_entries_are_split_by_shapes_alone():
    def split(shape, kernel_size, filters, groups=1):
        return tiles.split(correlation_geometry(shape, kernel_size, filters, padding="same", groups=groups))

    assert split((128, 56, 56, 64), 3, 64) is None  # tiles enough
    assert split((100, 1, 1, 10), 1, 10) is None  # sums too short
    assert split((8, 6, 6, 64), 3, 64) == tiles.Split(3, 1, 0)
    assert split((100, 1, 1, 240), 1, 64) is None  # not worth a second launch
    assert split((100, 1, 1, 256), 1, 64) == tiles.Split(4, 1, 64)
    assert split((100, 1, 1, 576), 1, 64) == tiles.Split(9, 1, 64)
    assert split((128, 56, 56, 16), 7, 64) == tiles.Split(2, 4, 0)  # more cells than a mask has bits


def test_phases_that_a_grid_has_no_room_for():
    def is_suited(strides):
        g = correlation_geometry((1, 4, 5, 9), 1, 12, strides)
        return product.is_suited(hull_of(g), np.float32, g)

    assert is_suited((255, 257))
    assert not is_suited((256, 256))


def test_sums_that_blocks_share_lie_further_apart_than_32_bits_count(monkeypatch):
    g = correlation_geometry((1, 6, 6, 64), 3, 16, padding="same")
    split = tiles.split(g)
    assert split == tiles.Split(3, 1, 0)
    data, apart = Data(3, np.float32), 2**30 + 12
    x, filters = data.numbers(g.input_shape), data.numbers(g.filters_shape)
    p = product.problem_of
    monkeypatch.setattr(product, "problem_of", lambda *arguments: p(*arguments)._replace(y_split=np.int32(apart)))
    with Gpu((8, 6)).installed() as gpu:
        placed = [device.from_host(array) for array in (x, filters, data.garbage(g.output_shape))]
        addresses = [toolkit.address(array) for array in placed]
        launches = []
        monkeypatch.setattr(toolkit, "launch", lambda *launch: launches.append(launch))
        # So far before the output that the last of three blocks writes to it.
        sums = np.uint64(int(addresses[2]) - 4 * 2 * apart)
        product.multiply(*addresses[:2], None, g, formulas.LINEAR, 0, addresses[2], sums)
        blocks = launches[0][1]
        assert blocks == (1, 1, 3)
        gpu.options["only"] = [2]
        gpu.launch(*launches[0])
        got = device.to_host(placed[2])
    filters[:2] = 0  # the last block has the last kernel row
    expected = reference.correlate2d(x, filters, np.zeros(16), g, reference.LINEAR, 0.0)
    size = reference.correlate2d(np.abs(x), np.abs(filters), np.zeros(16), g, reference.LINEAR, 0.0)
    assert (np.abs(got - expected) <= 3 * 64 * 2.0**-24 * size).all()


def test_gradients_that_32_bits_cannot_count_are_not_prepared():
    # Together they are more than 2**31 - 1, one by one they are not.
    dy, few, many = (np.broadcast_to(np.float32(0), count) for count in ((1 << 30, 1), 1 << 20, 1 << 30))
    assert correlate._countable(dy, few)
    assert not correlate._countable(dy, many)
    assert not correlate._countable(np.broadcast_to(np.float32(0), 2**31 - 2), np.float32([1]))  # nor the grid's step
