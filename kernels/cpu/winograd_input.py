"""The gradient by input as the transpose of Winograd's tiles, for outputs smaller than the input.

The gradient by input is the correlation of dz with the turned filters, which `winograd` computes by tiles of dx.
Where there is little padding dx is larger than dz, and tiles of dz are fewer: 9 of 4 x 4 for a dz of 12 x 12, and 16
for its dx of 14 x 14; a dilation of 2 takes four of 6 x 6 for a dz of 11 x 11, and sixteen for its dx of 15 x 15.
Transposing the forward sum of a tile, ``y = A^T [ U * (B^T d B) ] A``, gives what it adds to
the gradient::

    d += B [ U * (A dz A^T) ] B^T          * : position by position, a product over the filters

Neighbouring tiles' d overlap by the taps but one.  A task has whole pictures to itself and adds their tiles in order,
so that no sum depends on the number of threads.

What bounds it: the products of the positions; beside them, a tile's d is added to dx in the first-level cache.
"""

import functools
import math

import numpy as np
from numba import njit

from .compiling import INNER, KERNEL
from .epilogue import make_dz
from .prepared import prepared
from .processor import WIDE_ROWS
from .product import lanes, pack_panel, panel_start, panels
from .stored import MOST_ROWS, multiply_panel, padded_rows
from .threads import WORKERS, share
from .tiles import part_inside, place_of, tile_starts
from .transforms import FAMILIES, transform_filter, transform_gradient, transform_input_gradient
from .vectors import add_vector, lanes_of
from .workspace import workspace, zeros

# Bytes of a task's transformed tiles and their products, and tasks that there should be, for several threads.  Tasks
# are as large as that allows, since each reads all of U, which may be larger than the second-level cache.
BLOCK_BYTES, FEWEST_TASKS = 512 * 1024, 4

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "family tile taps points positions "  # m, r, m + r - 1 and its square
            "batch height width channels "  # of dz
            "dilation_height dilation_width target_height target_width targets pad_top pad_left "  # of dx
            "tile_lines tile_columns unpool_height unpool_width "  # tiles of a picture; windows of max pooling, 0: none
            "pictures tasks panels packed_step packed_size "  # pictures of a task
            "input_step product_step "  # from one position to the next, before and after the products
            "products cells scratch_of_worker"  # where a worker keeps what, behind its transformed tiles
        ).split()
    ]
)


def fits(geometry, tile, dtype):
    """Whether the tiles of one picture stay in the cache."""
    g = geometry
    lines, columns = _tables(g, tile)
    return (
        lines.size * columns.size * (tile + g.kernel_height - 1) ** 2 * g.out_channels * dtype.itemsize <= BLOCK_BYTES
    )


def _tables(geometry, tile):
    """First lines and columns of the tiles."""
    g = geometry
    return tile_starts(g.out_height, tile, g.dilation_height), tile_starts(g.out_width, tile, g.dilation_width)


@functools.lru_cache(maxsize=256)
def _plan(geometry, dtype, tile, window):
    """The numbers of one gradient, where its tiles start, and how much scratch memory it takes."""
    g = geometry
    taps, panel = g.kernel_height, 2 * lanes(dtype)
    lines, columns = _tables(g, tile)
    plan = np.zeros(1, PLAN)
    n = plan[0]
    n["family"] = FAMILIES.index((tile, taps))
    n["tile"], n["taps"], n["points"], n["positions"] = tile, taps, tile + taps - 1, (tile + taps - 1) ** 2
    n["batch"], n["height"], n["width"], n["channels"] = g.output_shape
    _, n["target_height"], n["target_width"], n["targets"] = g.input_shape
    n["dilation_height"], n["dilation_width"] = g.dilation_height, g.dilation_width
    n["pad_top"], n["pad_left"] = g.pad_top, g.pad_left
    n["unpool_height"], n["unpool_width"] = window
    n["tile_lines"], n["tile_columns"] = lines.size, columns.size
    tiles = lines.size * columns.size
    # As many pictures as make whole tiles of the product.
    unit = WIDE_ROWS // math.gcd(tiles, WIDE_ROWS)
    tile_bytes = n["positions"] * (n["channels"] + panel) * dtype.itemsize
    most = min(BLOCK_BYTES // (tiles * tile_bytes), -(-g.batch // FEWEST_TASKS))
    pictures = n["pictures"] = min(max(most // unit, 1) * unit, g.batch)
    n["tasks"] = -(-g.batch // pictures)
    n["panels"] = panels(g.channels, dtype)
    # A line of the cache more, lest all positions of a tile fall into one set of the cache.
    n["packed_step"] = g.out_channels * panel + panel
    n["packed_size"] = n["panels"] * n["positions"] * n["packed_step"]
    block = int(pictures) * tiles
    n["input_step"] = block * n["channels"] + panel
    n["product_step"] = padded_rows(block) * panel + panel
    n["products"] = n["positions"] * n["input_step"]
    n["cells"] = n["products"] + n["positions"] * n["product_step"]
    # Products read whole tiles, also behind the last row.
    behind = MOST_ROWS * n["channels"]
    n["scratch_of_worker"] = n["cells"] + max(tile**2 * n["channels"], n["positions"] * panel) + behind + panel
    scratch_size = int(n["packed_size"] + WORKERS * max(n["scratch_of_worker"], taps**2 * n["packed_step"]))
    return plan, (lines, columns), scratch_size


@prepared
def correlate2d_gradient_input(dy, y, filters, geometry, activation, alpha, dx, tile, window, winner):
    """Gradient by input, by tiles of tile x tile outputs; `window` and `winner` as in `winograd`."""
    plan, tables, scratch_size = _plan(geometry, dx.dtype, tile, window)
    scratch = workspace(scratch_size, dx.dtype)
    return _gradient, (dy, y, winner, activation, alpha, filters, dx, plan, tables, scratch, zeros(dx.dtype))


@njit(**KERNEL)
def _gradient(dy, y, winner, activation, alpha, filters, dx, numbers, tables, scratch, none):
    plan = numbers[0]
    packed, rest = scratch[: plan.packed_size], scratch[plan.packed_size :]
    share(_transform_filters, (filters.reshape(-1), packed, numbers, rest), plan.panels, packed.size)
    tiles = plan.batch * plan.tile_lines * plan.tile_columns
    share(
        _add_pictures,
        (
            dy.reshape(-1), y.reshape(-1), winner.reshape(-1), activation, alpha, packed, dx.reshape(-1),
            numbers, tables, rest, none,
        ),
        plan.tasks,
        tiles * plan.positions * plan.channels * plan.targets,
    )  # fmt: skip


@njit(**INNER)
def _transform_filters(first, last, worker, filters, packed, numbers, scratch):
    """U, turned over: a task is one panel of it, of all positions."""
    plan = numbers[0]
    lanes = lanes_of(packed)
    channels, targets, taps, step = plan.channels, plan.targets, plan.taps, plan.packed_step
    own = worker * taps * taps * step
    for panel in range(first, last):
        start = panel_start(panel, targets, lanes)
        width = min(2 * lanes, targets - start)
        for tap in range(taps * taps):
            place = (tap * targets + start) * channels
            pack_panel(filters, place, channels, channels, width, bool(1), scratch, own + tap * step)
        into = panel * plan.positions * step
        for cell in range(0, channels * 2 * lanes, lanes):
            transform_filter(
                plan.family, scratch, own + cell, taps * step, step, packed, into + cell, plan.points * step, step
            )  # fmt: skip


@njit(**INNER)
def _add_pictures(
    first, last, worker, dy, y, winner, activation, alpha, packed, dx, numbers, tables, scratch, none
):  # fmt: skip
    """dx of some pictures: of all tiles dz transformed, the products, and what they add."""
    plan = numbers[0]
    lanes = lanes_of(dx)
    lowest, zero = dx.dtype.type(-np.inf), dx.dtype.type(0)
    own = worker * plan.scratch_of_worker
    size = plan.target_height * plan.target_width * plan.targets
    for task in range(first, last):
        picture = task * plan.pictures
        pictures = min(plan.pictures, plan.batch - picture)
        of_picture = plan.tile_lines * plan.tile_columns
        tile, count = picture * of_picture, pictures * of_picture
        for number in range(count):
            _transform_tile(dy, y, winner, activation, alpha, tile, number, tables, scratch, own, plan)
        dx[picture * size : (picture + pictures) * size] = zero
        for panel in range(plan.panels):
            start = panel_start(panel, plan.targets, lanes)
            width = min(2 * lanes, plan.targets - start)
            # Columns that the last panel shares with the one before are there already.
            shared = panel * 2 * lanes - start
            for position in range(plan.positions):
                multiply_panel(
                    scratch, own + position * plan.input_step, plan.channels, None, count, plan.channels,
                    packed, (panel * plan.positions + position) * plan.packed_step, none, lowest,
                    scratch, own + plan.products + position * plan.product_step, 2 * lanes, width, bool(0),
                )  # fmt: skip
            for number in range(count):
                _add_tile(dx, tile, number, start, width, shared, tables, scratch, own, plan)


@njit(**INNER)
def _transform_tile(dy, y, winner, activation, alpha, tile, number, tables, scratch, own, plan):
    """``A dz A^T`` of a tile, `number` behind the task's first; beyond the picture dz is 0."""
    lanes = lanes_of(dy)
    channels, m = plan.channels, plan.tile
    window = plan.unpool_height, plan.unpool_width
    picture, first_line, first_column = place_of(tile + number, tables, plan)
    _, lines = part_inside(first_line, plan.dilation_height, m, plan.height)
    _, pixels = part_inside(first_column, plan.dilation_width, m, plan.width)
    gathered = own + plan.cells
    if lines < m or pixels < m:
        scratch[gathered : gathered + m * m * channels] = 0
    at_once = pixels if plan.dilation_width == 1 else 1
    for i in range(lines):
        line = picture * plan.height + first_line + i * plan.dilation_height
        for j in range(0, pixels, at_once):
            pixel = line * plan.width + first_column + j * plan.dilation_width
            place = gathered + (i * m + j) * channels
            make_dz(dy, y, winner, window, plan.width, channels, pixel, at_once, activation, alpha, scratch, place)
    step = plan.input_step
    for lane in range(0, channels, lanes):
        channel = min(lane, channels - lanes)
        transform_gradient(
            plan.family, scratch, gathered + channel, m * channels, channels,
            scratch, own + number * channels + channel, plan.points * step, step,
        )  # fmt: skip


@njit(**INNER)
def _add_tile(dx, tile, number, start, width, shared, tables, scratch, own, plan):
    """Add ``B M B^T`` of a tile to `width` channels of dx from `start` on, but for the first that are `shared`."""
    lanes = lanes_of(dx)
    points, targets, step = plan.points, plan.targets, plan.product_step
    picture, first_line, first_column = place_of(tile + number, tables, plan)
    first_line -= plan.pad_top
    first_column -= plan.pad_left
    top, bottom = part_inside(first_line, plan.dilation_height, points, plan.target_height)
    left, right = part_inside(first_column, plan.dilation_width, points, plan.target_width)
    cells, line, pixel = own + plan.cells, points * 2 * lanes, 2 * lanes
    for lane in range(0, width, lanes):
        shift = min(lane, width - lanes)
        place = own + plan.products + number * 2 * lanes + shift
        transform_input_gradient(
            plan.family, scratch, place, points * step, step, scratch, cells + shift, line, pixel
        )  # fmt: skip
    for i in range(top, bottom):
        target_line = picture * plan.target_height + first_line + i * plan.dilation_height
        for j in range(left, right):
            place = (target_line * plan.target_width + first_column + j * plan.dilation_width) * targets
            cell = cells + i * line + j * pixel
            if shared == 0 and width % lanes == 0:
                for lane in range(0, width, lanes):
                    add_vector(scratch, cell + lane, dx, place + start + lane)
            else:
                for channel in range(shared, width):
                    dx[place + start + channel] += scratch[cell + channel]
