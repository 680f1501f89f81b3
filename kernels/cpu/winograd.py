"""Correlations with fewer multiplications, by Winograd's minimal filtering: 3 x 3 and 5 x 5, of stride 1.

A correlation is, per pair of channel and filter, a polynomial product in disguise; and polynomials may be multiplied by
their values at a few points.  For a *tile* of m x m outputs, which see n x n inputs d, and filters g of r x r taps,
with ``n = m + r - 1``::

    y = A^T [ (G g G^T) * (B^T d B) ] A          * : position by position

A position is one pair of points, and there the channels are summed up, which is a product of matrices as always, of all
tiles with all filters::

      inputs              V[position][tile][channel]     M[position][tile][filter]           outputs
    +---------+           +-----+                        +-----+                             +-----+
    | d d d d |  B^T d B  | V   | x U[position]    =     | M   |       A^T M A + bias        | y y |
    | d d d d |  ------>  |     |  [channel][filter]     |     |       ------------->        | y y |
    | d d d d |           +-----+                        +-----+                             +-----+
    | d d d d |            n^2 of them                    n^2 of them
    +---------+

    family (m, r)    multiplications of a tile: here    of the direct sum    times fewer
    (2, 3)                                        16                   36           2.25
    (4, 3)                                        36                  144           4
    (5, 3)                                        49                  225           4.59
    (6, 3)                                        64                  324           5.06
    (2, 5)                                        36                  100           2.78
    (4, 5)                                        64                  400           6.25

The transforms (`transforms`) only add and multiply by constants, some tens of operations for each channel of a tile:
they pay where filters and channels are many.  Lavin and Gray, "Fast algorithms for convolutional neural networks"
(2016).

The cells of a tile lie as far apart as the dilation says (`tiles`).

A task is a block of tiles small enough for V to stay near, of which all filters are computed, one panel after the
other, or, where U is too large for the cache, one position after the other; the multipliers are the bound where
channels are many, the transforms' loads and stores where they are few.
Tiles are numbered through all pictures, so that small pictures leave no ragged block.  Where the last tiles of a line
or column reach beyond the target, what lies there is computed and not stored.

The gradient by input is the same correlation of dz, with the filters turned round and padding ``(r - 1) d - pad``.  The
gradient by filters goes the way back, with tiles of dz; the sums over all tiles are products too, one for each
position::

    dM = A dz A^T        dU = V^T dM        dfilters = G^T dU G

Accuracy: the transforms' sums cancel, the more the larger the tile.  `ERRORS` bounds how far results in float32 are off
the exact ones, relative to the largest of them: an error is as large as the numbers of its tile, also where an output
itself is small.

Special values: a NaN or an infinity in the input may make any output of the tiles that see it NaN; in the direct sum,
only the outputs which see it themselves.  In a filter, either reaches the same outputs in both, but may arrive as NaN.

``GPUCONV_WINOGRAD``, or `set_winograd`, says which tiles are used: ``auto``, 0 for none, or m: 2, 4, 5 or 6.
"""

import functools
import os

import numpy as np
from numba import njit

from ..formulas import LINEAR, RELU
from . import winograd_input
from .compiling import INNER, KERNEL
from .epilogue import NO_WINDOW, finish, make_dz
from .fetching import fetch_to_write
from .pool import largest_of_windows
from .prepared import prepared
from .processor import WIDE_ROWS
from .product import lanes, pack_panel, panel_start, panels
from .stored import MOST_ROWS, multiply_panel, padded_rows
from .threads import WORKERS, share
from .tiles import part_inside, place_of, tile_starts
from .transforms import (
    FAMILIES,
    transform_filter,
    transform_filter_gradient,
    transform_gradient,
    transform_input,
    transform_output,
)
from .vectors import copy_vector, lanes_of
from .workspace import LINE_BYTES, NO_WINNERS, workspace, zeros

# ------------------------------------------------------------------ which tile

# Bounds of the error in float32, relative to the largest output, by family.  With 32 to 128 channels and normally
# distributed numbers it is at most 5.0e-7, 2.4e-6, 1.1e-5, 1.2e-5, 2.3e-6 and 9.3e-6; that of the direct sum, 2.3e-6.
ERRORS = {(2, 3): 2e-6, (4, 3): 1e-5, (5, 3): 3e-5, (6, 3): 4e-5, (2, 5): 1e-5, (4, 5): 4e-5}

# What a tile costs in multiply-adds of the direct sum, as measured: its products, of each of n^2 positions, channel and
# filter, whose sums are shorter; its transforms, of each channel of the source and of the target, which n^4 describes
# best; and, once for all tiles, the transform of the filters, of each position, channel and filter.  Gradients by
# filters add to sums in the second-level cache, or beyond; gradients by input by tiles of outputs add up tiles in dx.
FORWARD_COSTS, FILTERS_COSTS, OUTPUTS_COSTS = (1.1, 0.25, 0.3, 30), (1.3, 0.25, 0.25, 60), (1.2, 0.5, 0.3, 30)
COSTS = {None: FORWARD_COSTS, "input": FORWARD_COSTS, "filters": FILTERS_COSTS, "outputs": OUTPUTS_COSTS}

# With fewer channels or filters, the direct sum is left alone.
FEWEST_CHANNELS = 16

# Sides of the tiles' outputs.
TILES = tuple(sorted({tile for tile, _ in FAMILIES}))


def set_winograd(choice):
    """Choose the tiles of 3 x 3 and 5 x 5 correlations.

    Parameters
    ----------
    choice : {'auto', 0, 2, 4, 5, 6}
        The side of a tile's outputs; 0: the direct sum; ``'auto'``: by an estimate of their costs.  Numbers may also be
        given as strings.  Correlations that are not `usable` take the direct sum at any rate, and so do those whose
        filters have no tile of that side, which are those of 5 x 5 for 5 and 6, or max pooling after them windows that
        do not fit in one.
    """
    global _choice
    choices = {str(known): known for known in ("auto", 0, *TILES)}
    if str(choice) not in choices:
        raise ValueError(f"winograd: expected 'auto', 0, 2, 4, 5 or 6, received {choice!r}")
    _choice = choices[str(choice)]


def get_winograd():
    """What `set_winograd` has set, or ``GPUCONV_WINOGRAD`` at the start."""
    return _choice


try:
    set_winograd(os.environ.get("GPUCONV_WINOGRAD") or "auto")
except ValueError as error:
    raise ValueError(f"GPUCONV_WINOGRAD: {error}") from None


def usable(geometry, dtype):
    """Whether a correlation can be computed by tiles."""
    g = geometry
    if g.kernel_height != g.kernel_width or (g.stride_height, g.stride_width, g.groups) != (1, 1, 1):
        return False
    if not tiles_for(g.kernel_height):
        return False
    return min(g.channels, g.out_channels) >= max(FEWEST_CHANNELS, lanes(dtype))


def tiles_for(taps):
    """The sides of the tiles that there are for filters of so many taps."""
    return [tile for tile, known in FAMILIES if known == taps]


def _holds_windows(geometry, tile, window):
    """Whether a tile of outputs is made of whole windows of the max pooling after it, if there is any."""
    if window == NO_WINDOW:
        return True
    together = (geometry.dilation_height, geometry.dilation_width) == (1, 1)
    return together and tile % window[0] == 0 and tile % window[1] == 0


def choose(geometry, dtype, gradient=None, window=NO_WINDOW):
    """The side of the tiles for a correlation or one of its gradients, as `set_winograd` said; 0: the direct sum.

    Parameters
    ----------
    geometry : Geometry
    dtype : dtype
    gradient : {None, 'input', 'filters'}
        None: forward.
    window : tuple of int
        Forward, that of the max pooling after it: a tile is made of whole ones.
    """
    return _choose(geometry, dtype, gradient, window, _choice)


@functools.lru_cache(maxsize=256)
def _choose(geometry, dtype, gradient, window, choice):
    if not usable(geometry, dtype):
        return 0
    tiles = [tile for tile in tiles_for(geometry.kernel_height) if _holds_windows(geometry, tile, window)]
    if choice != "auto":
        return choice if choice in tiles else 0
    costs = {tile: cost(geometry, tile, gradient) for tile in (0, *tiles)}
    if gradient == "filters":
        # The sums of a slot are larger than the gradient: where few slots have room, threads would be idle.
        for tile in tiles:
            points = tile + geometry.kernel_height - 1
            slot_bytes = points**2 * geometry.channels * geometry.out_channels * dtype.itemsize
            if FEWEST_SLOTS * slot_bytes >= SLOTS_BYTES:
                del costs[tile]
    return min(costs, key=costs.get)


def choose_for_input(geometry, dtype):
    """The side of the tiles for the gradient by input, and whether they are tiles of outputs (`winograd_input`)."""
    return _choose_for_input(geometry, dtype, _choice)


@functools.lru_cache(maxsize=256)
def _choose_for_input(geometry, dtype, choice):
    tile = _choose(geometry, dtype, "input", NO_WINDOW, choice)
    if not usable(geometry, dtype):
        return 0, False
    sides = tiles_for(geometry.kernel_height)
    if choice != "auto":
        sides = [choice] if choice in sides else []
    costs = {side: cost(geometry, side, "outputs") for side in sides if winograd_input.fits(geometry, side, dtype)}
    if not costs:
        return tile, False
    best = min(costs, key=costs.get)
    return (best, True) if costs[best] < cost(geometry, tile, "input") else (tile, False)


def cost(geometry, tile, gradient=None):
    """Multiply-adds of a direct sum (tile 0), or those which take as long as tiles of this size.

    `gradient` is as in `choose`, or 'outputs': the gradient by input by tiles of outputs.
    """
    g = geometry
    if not tile:
        taps = _taps_inside(g.height, g.kernel_height, g.dilation_height, g.pad_top, g.out_height)
        taps *= _taps_inside(g.width, g.kernel_width, g.dilation_width, g.pad_left, g.out_width)
        return g.batch * taps * g.channels * g.out_channels
    source, target = (g.output_shape, g.input_shape) if gradient == "input" else (g.input_shape, g.output_shape)
    tiles = g.batch * tile_starts(target[1], tile, g.dilation_height).size
    tiles *= tile_starts(target[2], tile, g.dilation_width).size
    if gradient != "filters":
        tiles = -(-tiles // WIDE_ROWS) * WIDE_ROWS
    positions = (tile + g.kernel_height - 1) ** 2
    of_product, of_source, of_target, of_filter = COSTS[gradient]
    products = of_product * g.channels * g.out_channels
    transforms = positions * (of_source * source[3] + of_target * target[3])
    return positions * (tiles * (products + transforms) + of_filter * g.channels * g.out_channels)


def _taps_inside(extent, taps, dilation, pad, outputs):
    """Pairs of an output and a tap on one axis whose input is not padding."""
    shifts = (tap * dilation - pad for tap in range(taps))
    return sum(max(min(outputs, extent - shift) - max(-shift, 0), 0) for shift in shifts)


# ------------------------------------------------------------------ how the work is cut

# Bytes of V and of a panel of M that a task keeps in the second-level cache.
BLOCK_BYTES = 256 * 1024

# Bytes of V and dM of a task of the gradient by filters, and fewest tiles: it reads and writes all sums of a slot.
GRADIENT_BLOCK_BYTES, GRADIENT_TILES = 384 * 1024, 48

# Slots of the gradient by filters: at most so many, with so many tiles each (two are worth having also with fewer), and
# of so many bytes together; where there is no room for so few, the direct sum is left alone.
MOST_SLOTS, SLOT_TILES, SLOTS_BYTES, FEWEST_SLOTS = 16, 192, 1 << 26, 4

# Fewest tiles of a task; twice as many it may have whatever their size, since all of U is read for each task, from
# farther away, for about as long as TILES_OF_FILTERS tiles take.
FEWEST_TILES, TILES_OF_FILTERS = 4 * WIDE_ROWS, 4

# U of so many bytes leaves no room for V and M in the second-level cache.  Tasks may have so many times as many tiles
# then, and go through V and U once, with all panels of a position, instead of through V once for each panel.
FAR_FILTERS_BYTES, FAR_FILTERS_FACTOR = 5 << 19, 3

# A target of so many bytes is far away, and the next tile's lines of it are asked for while a tile is transformed.
FAR_BYTES = 1 << 22

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "family tile taps points positions square "  # m, r, m + r - 1 and its square; side of a tile's cells
            "height width channels first_line first_column "  # of the source, and where its cells for target 0, 0 start
            "dilation_height dilation_width "
            "pool_height pool_width unpool_height unpool_width "  # windows of max pooling on target and source; 0: none
            "target_height target_width targets tile_lines tile_columns tiles "
            "block tasks panels panels_at_once packed_size "  # tiles of a task
            "packed_step input_step product_step "  # from one position of U, V, or M, to the next
            "products cells scratch_of_worker "  # where a worker keeps M, after V, and what it gathers
            "slot_size sum_rows"  # rows of a panel of sums: the channels, and what whole tiles have more
        ).split()
    ]
)


def _block(tiles, bytes_of_tile, factor):
    """Tiles of a task: as many as the cache holds, or somewhat fewer if no thread then waits for the others' last."""
    most = max(BLOCK_BYTES // bytes_of_tile, 2 * FEWEST_TILES * factor)
    blocks = range(FEWEST_TILES, most + 1, WIDE_ROWS)
    return min(blocks, key=lambda block: -(-tiles // (block * WORKERS)) * (block + TILES_OF_FILTERS * factor))


@functools.lru_cache(maxsize=256)
def _plan(geometry, dtype, tile, backward, window=NO_WINDOW):
    """The numbers of one correlation, where its tiles start, and how much scratch memory it takes."""
    g = geometry
    taps = g.kernel_height
    source, target = (g.output_shape, g.input_shape) if backward else (g.input_shape, g.output_shape)
    reach_height, reach_width = (taps - 1) * g.dilation_height, (taps - 1) * g.dilation_width
    lines = tile_starts(target[1], tile, g.dilation_height)
    columns = tile_starts(target[2], tile, g.dilation_width)
    plan = np.zeros(1, PLAN)
    n = plan[0]
    n["family"] = FAMILIES.index((tile, taps))
    n["tile"], n["taps"], n["points"], n["positions"] = tile, taps, tile + taps - 1, (tile + taps - 1) ** 2
    n["square"] = n["points"]
    _, n["height"], n["width"], n["channels"] = source
    _, n["target_height"], n["target_width"], n["targets"] = target
    n["first_line"] = g.pad_top - reach_height if backward else -g.pad_top
    n["first_column"] = g.pad_left - reach_width if backward else -g.pad_left
    n["dilation_height"], n["dilation_width"] = g.dilation_height, g.dilation_width
    n["pool_height"], n["pool_width"] = NO_WINDOW if backward else window
    n["unpool_height"], n["unpool_width"] = window if backward else NO_WINDOW
    n["tile_lines"], n["tile_columns"] = lines.size, columns.size
    n["tiles"] = g.batch * lines.size * columns.size
    panel = 2 * lanes(dtype)
    far = n["positions"] * g.channels * g.out_channels * dtype.itemsize > FAR_FILTERS_BYTES
    bytes_of_tile = int(n["positions"] * (n["channels"] + panel)) * dtype.itemsize
    n["block"] = _block(int(n["tiles"]), bytes_of_tile, FAR_FILTERS_FACTOR if far else 1)
    n["tasks"] = -(-n["tiles"] // n["block"])
    n["panels"] = panels(n["targets"], dtype)
    n["panels_at_once"] = n["panels"] if far else 1
    # A line of the cache more, lest all positions of a tile fall into one set of the cache.
    n["packed_step"] = n["channels"] * panel + panel
    n["packed_size"] = n["panels"] * n["positions"] * n["packed_step"]
    n["input_step"] = n["block"] * n["channels"] + panel
    n["product_step"] = padded_rows(int(n["block"])) * panel + panel
    n["products"] = n["positions"] * n["input_step"]
    n["cells"] = n["products"] + n["panels_at_once"] * n["positions"] * n["product_step"]
    # Products read whole tiles of V, also behind its last row.
    behind = MOST_ROWS * n["channels"]
    n["scratch_of_worker"] = n["cells"] + max(n["positions"] * n["channels"], tile * tile * panel) + behind + panel
    scratch_size = int(n["packed_size"] + WORKERS * max(n["scratch_of_worker"], taps**2 * n["packed_step"]))
    return plan, (lines, columns), scratch_size


@functools.lru_cache(maxsize=256)
def _gradient_plan(geometry, dtype, tile, window):
    """The same for the gradient by filters: one record for x, one for dz."""
    g = geometry
    plan, tables, _ = _plan(geometry, dtype, tile, False)
    plan = np.repeat(plan, 2)
    panel = 2 * lanes(dtype)
    positions, tiles = int(plan["positions"][0]), int(plan["tiles"][0])
    bytes_of_tile = positions * (g.channels + g.out_channels) * dtype.itemsize
    block = max(GRADIENT_BLOCK_BYTES // bytes_of_tile, GRADIENT_TILES)
    slot_size = positions * int(plan["panels"][0]) * padded_rows(g.channels) * panel + 2 * g.out_channels
    slots = max(tiles // SLOT_TILES, min(tiles // GRADIENT_TILES, 2))
    slots = max(1, min(slots, MOST_SLOTS, SLOTS_BYTES // (slot_size * dtype.itemsize)))
    slots = 1 << (slots.bit_length() - 1)  # a power of two, of which as many threads have equal shares
    block = -(-tiles // (-(-tiles // (block * slots)) * slots))
    x, dz = plan
    dz["square"], dz["first_line"], dz["first_column"] = tile, 0, 0
    _, dz["height"], dz["width"], dz["channels"] = g.output_shape
    dz["unpool_height"], dz["unpool_width"] = window
    for n in plan:
        n["block"], n["tasks"], n["slot_size"] = block, -(-tiles // block), slot_size
        n["sum_rows"] = padded_rows(g.channels)
    x["input_step"] = block * g.channels + panel
    dz["input_step"] = block * dz["panels"] * panel + panel
    x["products"] = positions * x["input_step"]
    x["cells"] = x["products"] + positions * dz["input_step"]
    gathered = max(positions * g.channels, tile**2 * g.out_channels)
    x["scratch_of_worker"] = x["cells"] + max(gathered, positions * panel) + panel
    scratch_size = int(slots * slot_size + WORKERS * x["scratch_of_worker"])
    return plan, tables, slots, scratch_size


@prepared
def correlate2d(x, filters, bias, geometry, activation, alpha, y, tile, window=NO_WINDOW, winner=NO_WINNERS):
    """Forward, by tiles of tile x tile outputs."""
    plan, tables, scratch_size = _plan(geometry, x.dtype, tile, False, window)
    scratch = workspace(scratch_size, x.dtype)
    none = zeros(x.dtype)
    return _correlate, (
        x, x, winner, LINEAR, 0.0, filters, False, bias, activation, alpha, y, plan, tables, scratch, none
    )  # fmt: skip


@prepared
def correlate2d_gradient_input(
    dy, y, filters, geometry, activation, alpha, dx, tile, window=NO_WINDOW, winner=NO_WINNERS
):
    """Gradient by input, by tiles of tile x tile inputs."""
    plan, tables, scratch_size = _plan(geometry, dx.dtype, tile, True, window)
    scratch = workspace(scratch_size, dx.dtype)
    none = zeros(dx.dtype, geometry.channels)
    return _correlate, (
        dy, y, winner, activation, alpha, filters, True, none, LINEAR, 0.0, dx, plan, tables, scratch, none
    )  # fmt: skip


@prepared
def correlate2d_gradient_filters(
    x, dy, y, geometry, activation, alpha, dfilters, dbias, tile, window=NO_WINDOW, winner=NO_WINNERS
):
    """Gradient by filters and bias, by tiles of tile x tile outputs."""
    plan, tables, slots, scratch_size = _gradient_plan(geometry, x.dtype, tile, window)
    scratch = workspace(scratch_size, x.dtype)
    none = zeros(x.dtype, geometry.out_channels)
    return _gradient_filters, (x, dy, y, winner, activation, alpha, dfilters, dbias, plan, tables, slots, scratch, none)


# ------------------------------------------------------------------ forward and gradient by input


@njit(**KERNEL)
def _correlate(
    source, values, winner, slope, slope_alpha, filters, turned, bias, activation, alpha, target,
    numbers, tables, scratch, none,
):  # fmt: skip
    """Target from source: both directions.  `values` gives the slopes by which the source is multiplied first."""
    plan = numbers[0]
    packed, rest = scratch[: plan.packed_size], scratch[plan.packed_size :]
    share(_transform_filters, (filters.reshape(-1), turned, packed, numbers, rest), plan.panels, packed.size)
    share(
        _correlate_blocks,
        (
            source.reshape(-1), values.reshape(-1), winner.reshape(-1), slope, slope_alpha, packed, bias,
            activation, alpha, target.reshape(-1), numbers, tables, rest, none,
        ),
        plan.tasks,
        plan.tiles * plan.positions * plan.channels * plan.targets,
    )  # fmt: skip


@njit(**INNER)
def _transform_filters(first, last, worker, filters, turned, packed, numbers, scratch):
    """U: a task is one panel of it, of all positions."""
    plan = numbers[0]
    lanes = lanes_of(packed)
    channels, targets, taps, step = plan.channels, plan.targets, plan.taps, plan.packed_step
    row = 2 * lanes
    own = worker * taps * taps * step
    for panel in range(first, last):
        start = panel_start(panel, targets, lanes)
        width = min(row, targets - start)
        for tap in range(taps * taps):
            if turned:
                place, filter_step = ((taps * taps - 1 - tap) * targets + start) * channels, channels
            else:
                place, filter_step = tap * channels * targets + start, targets
            pack_panel(filters, place, filter_step, channels, width, turned, scratch, own + tap * step)
        into = panel * plan.positions * step
        for cell in range(0, channels * row, lanes):
            transform_filter(
                plan.family, scratch, own + cell, taps * step, step, packed, into + cell, plan.points * step, step
            )  # fmt: skip


@njit(**INNER)
def _correlate_blocks(
    first, last, worker, source, values, winner, slope, slope_alpha, packed, bias, activation, alpha, target,
    numbers, tables, scratch, none,
):  # fmt: skip
    """All of the target that some blocks of tiles make."""
    plan = numbers[0]
    lanes = lanes_of(source)
    lowest = source.dtype.type(-np.inf)
    floor = source.dtype.type(0) if activation == RELU else lowest
    own = worker * plan.scratch_of_worker
    for task in range(first, last):
        tile = task * plan.block
        count = min(plan.block, plan.tiles - tile)
        _transform_inputs(
            source, values, winner, slope, slope_alpha, tile, count, tables, scratch, own, own + plan.cells, None, plan
        )  # fmt: skip
        for first_panel in range(0, plan.panels, plan.panels_at_once):
            some_panels = range(first_panel, first_panel + plan.panels_at_once)
            for position in range(plan.positions):
                for panel in some_panels:
                    products = own + plan.products + (panel - first_panel) * plan.positions * plan.product_step
                    multiply_panel(
                        scratch, own + position * plan.input_step, plan.channels, None, count, plan.channels,
                        packed, (panel * plan.positions + position) * plan.packed_step, none, lowest,
                        scratch, products + position * plan.product_step, 2 * lanes,
                        min(2 * lanes, plan.targets - panel_start(panel, plan.targets, lanes)), bool(0),
                    )  # fmt: skip
            for panel in some_panels:
                start = panel_start(panel, plan.targets, lanes)
                width = min(2 * lanes, plan.targets - start)
                products = own + plan.products + (panel - first_panel) * plan.positions * plan.product_step
                if plan.pool_height:
                    _pool_outputs(
                        bias, floor, activation, alpha, target, winner, tile, count, start, width, tables, scratch,
                        products, own + plan.cells, plan,
                    )  # fmt: skip
                else:
                    _transform_outputs(
                        bias, floor, target, tile, count, start, width, tables, scratch, products, own + plan.cells,
                        plan,
                    )  # fmt: skip
        if activation > RELU and not plan.pool_height:
            _finish_outputs(target, tile, count, activation, alpha, tables, plan)


@njit(**INNER)
def _transform_inputs(source, values, winner, slope, alpha, tile, count, tables, scratch, into, gathered, sums, plan):
    """V of the tiles ``tile .. tile + count - 1``, or, where there are sums of dz to be made as well, dM.

    The cells of a tile that reaches beyond the source, or is yet to be multiplied by slopes, are gathered first.
    """
    lanes = lanes_of(source)
    channels, square = plan.channels, plan.square
    window = plan.unpool_height, plan.unpool_width
    step = plan.input_step
    for number in range(tile, tile + count):
        picture, first_line, first_column = place_of(number, tables, plan)
        first_line += plan.first_line
        first_column += plan.first_column
        top, bottom = part_inside(first_line, plan.dilation_height, square, plan.height)
        left, right = part_inside(first_column, plan.dilation_width, square, plan.width)
        start = ((picture * plan.height + first_line) * plan.width + first_column) * channels
        source_line, source_pixel = plan.dilation_height * plan.width * channels, plan.dilation_width * channels
        if slope == LINEAR and not window[0] and bottom - top == square and right - left == square:
            cells, place, line, pixel = source, start, source_line, source_pixel
        else:
            cells, place, line, pixel = scratch, gathered, square * channels, channels
            if bottom - top < square or right - left < square:
                scratch[gathered : gathered + square * line] = 0
            at_once = right - left if plan.dilation_width == 1 else 1
            for i in range(top, bottom):
                for j in range(left, right, max(at_once, 1)):
                    pixel_line = picture * plan.height + first_line + i * plan.dilation_height
                    make_dz(
                        source, values, winner, window, plan.width, channels,
                        pixel_line * plan.width + first_column + j * plan.dilation_width, at_once,
                        slope, alpha, scratch, gathered + i * line + j * pixel,
                    )  # fmt: skip
        if sums is not None:
            for i in range(top, bottom):
                for j in range(left, right):
                    cell = cells[place + i * line + j * pixel :][:channels]
                    for channel in range(channels):
                        sums[channel] += cell[channel]
        if sums is None:
            for lane in range(0, channels, lanes):
                channel = min(lane, channels - lanes)
                transform_input(
                    plan.family, cells, place + channel, line, pixel, scratch, into + channel, plan.points * step, step
                )
            into += channels
        else:
            for panel in range(plan.panels):
                channel = panel_start(panel, channels, lanes)
                row = into + panel * plan.block * 2 * lanes
                for lane in range(0, min(2 * lanes, channels - channel), lanes):
                    shift = min(lane, channels - channel - lanes)
                    transform_gradient(
                        plan.family, cells, place + channel + shift, line, pixel,
                        scratch, row + shift, plan.points * step, step,
                    )  # fmt: skip
            into += 2 * lanes


@njit(**INNER)
def _transform_outputs(bias, floor, target, tile, count, start, width, tables, scratch, products, cells, plan):
    """Outputs of some tiles, of `width` filters from `start` on, as far as they lie inside the target.

    M starts at `products` of the scratch memory, and the outputs of a tile that are not all inside go to `cells` first.
    """
    lanes = lanes_of(target)
    m, targets, step = plan.tile, plan.targets, plan.product_step
    target_line, target_pixel = plan.dilation_height * plan.target_width * targets, plan.dilation_width * targets
    far = target.size * target.itemsize >= FAR_BYTES
    for number in range(tile, tile + count):
        picture, first_line, first_column = place_of(number, tables, plan)
        _, lines = part_inside(first_line, plan.dilation_height, m, plan.target_height)
        _, pixels = part_inside(first_column, plan.dilation_width, m, plan.target_width)
        place = ((picture * plan.target_height + first_line) * plan.target_width + first_column) * targets + start
        if far and number + 1 < tile + count:
            _fetch_outputs(target, number + 1, start, width, tables, plan)
        whole = lines == m and pixels == m
        if whole:
            outputs, into, line, pixel = target, place, target_line, target_pixel
        else:
            outputs, into, line, pixel = scratch, cells, m * 2 * lanes, 2 * lanes
        for lane in range(0, width, lanes):
            shift = min(lane, width - lanes)
            transform_output(
                plan.family, scratch, products + shift, plan.points * step, step,
                outputs, into + shift, line, pixel, bias, start + shift, floor,
            )  # fmt: skip
            if not whole:
                for i in range(lines):
                    for j in range(pixels):
                        copy_vector(
                            scratch, into + i * line + j * pixel + shift,
                            target, place + i * target_line + j * target_pixel + shift,
                        )  # fmt: skip
        products += 2 * lanes


@njit(**INNER)
def _fetch_outputs(target, tile, start, width, tables, plan):
    """Ask for the lines that the outputs of a tile are written to."""
    picture, first_line, first_column = place_of(tile, tables, plan)
    for i in range(plan.tile):
        line = picture * plan.target_height + first_line + i * plan.dilation_height
        for j in range(plan.tile):
            place = (line * plan.target_width + first_column + j * plan.dilation_width) * plan.targets + start
            for cell in range(place, place + width, LINE_BYTES // target.itemsize):
                fetch_to_write(target, cell)


@njit(**INNER)
def _pool_outputs(
    bias, floor, activation, alpha, target, winner, tile, count, start, width, tables, scratch, products, cells, plan
):  # fmt: skip
    """The same with max pooling after it: a tile's outputs stay in the first-level cache."""
    lanes = lanes_of(target)
    m, step, pixel = plan.tile, plan.product_step, 2 * lanes
    line = m * pixel
    window = plan.pool_height, plan.pool_width
    pooled_height, pooled_width = plan.target_height // window[0], plan.target_width // window[1]
    for number in range(tile, tile + count):
        for lane in range(0, width, lanes):
            shift = min(lane, width - lanes)
            transform_output(
                plan.family, scratch, products + shift, plan.points * step, step,
                scratch, cells + shift, line, pixel, bias, start + shift, floor,
            )  # fmt: skip
        if activation > RELU:
            finish(scratch, cells, cells + m * line, activation, alpha)
        picture, first_line, first_column = place_of(number, tables, plan)
        i, j = first_line // window[0], first_column // window[1]
        place = ((picture * pooled_height + i) * pooled_width + j) * plan.targets + start
        for row in range(min(m // window[0], pooled_height - i)):
            largest_of_windows(
                scratch, cells + row * window[0] * line, line, pixel, window, min(m // window[1], pooled_width - j),
                width, target, winner, place + row * pooled_width * plan.targets, plan.targets,
            )  # fmt: skip
        products += 2 * lanes


@njit(**INNER)
def _finish_outputs(target, tile, count, activation, alpha, tables, plan):
    """Apply the activation to the outputs of some tiles."""
    for number in range(tile, tile + count):
        picture, first_line, first_column = place_of(number, tables, plan)
        _, lines = part_inside(first_line, plan.dilation_height, plan.tile, plan.target_height)
        _, pixels = part_inside(first_column, plan.dilation_width, plan.tile, plan.target_width)
        for i in range(lines):
            line = picture * plan.target_height + first_line + i * plan.dilation_height
            for j in range(pixels):
                pixel = line * plan.target_width + first_column + j * plan.dilation_width
                finish(target, pixel * plan.targets, (pixel + 1) * plan.targets, activation, alpha)


# ------------------------------------------------------------------ gradient by filters


@njit(**KERNEL)
def _gradient_filters(x, dy, y, winner, activation, alpha, dfilters, dbias, numbers, tables, slots, scratch, none):
    plan = numbers[0]
    sums, rest = scratch[: slots * plan.slot_size], scratch[slots * plan.slot_size :]
    share(
        _add_slots,
        (
            x.reshape(-1), dy.reshape(-1), y.reshape(-1), winner.reshape(-1), activation, alpha, sums,
            numbers, tables, slots, rest, none,
        ),
        slots,
        plan.tiles * plan.positions * dfilters.size,
    )  # fmt: skip
    share(_add_up, (sums, dfilters.reshape(-1), dbias, numbers, slots, rest), plan.channels + 1, slots * plan.slot_size)


@njit(**INNER)
def _add_slots(first, last, worker, x, dy, y, winner, activation, alpha, sums, numbers, tables, slots, scratch, none):
    """Each slot's sums over its tiles: of all positions panels of V^T dM, then dbias."""
    plan = numbers[0]
    lanes = lanes_of(x)
    lowest = x.dtype.type(-np.inf)
    own = worker * plan.scratch_of_worker
    panel_size = plan.sum_rows * 2 * lanes
    for slot in range(first, last):
        c = slot * plan.slot_size
        # The bias's sums of a task join those of the slot, so that no chain of additions is long.
        end = c + plan.slot_size
        of_task, bias_sums = sums[end - 2 * plan.targets : end - plan.targets], sums[end - plan.targets : end]
        bias_sums[:] = 0
        started = False
        for task in range(slot * plan.tasks // slots, (slot + 1) * plan.tasks // slots):
            tile = task * plan.block
            count = min(plan.block, plan.tiles - tile)
            dz, gathered = own + plan.products, own + plan.cells
            _transform_inputs(
                x, x, winner, np.intp(LINEAR), alpha, tile, count, tables, scratch, own, gathered, None, plan
            )  # fmt: skip
            of_task[:] = 0
            _transform_inputs(
                dy, y, winner, activation, alpha, tile, count, tables, scratch, dz, gathered, of_task, numbers[1]
            )  # fmt: skip
            for f in range(plan.targets):
                bias_sums[f] += of_task[f]
            for position in range(plan.positions):
                v, dm = own + position * plan.input_step, dz + position * numbers[1].input_step
                for panel in range(plan.panels):
                    width = min(2 * lanes, plan.targets - panel_start(panel, plan.targets, lanes))
                    multiply_panel(
                        scratch, v, np.intp(1), plan.channels, plan.channels, count,
                        scratch, dm + panel * plan.block * 2 * lanes, none, lowest,
                        sums, c + (position * plan.panels + panel) * panel_size, 2 * lanes, width, started,
                    )  # fmt: skip
            started = True


@njit(**INNER)
def _add_up(first, last, worker, sums, dfilters, dbias, numbers, slots, scratch):
    """Add the slots in order and transform: a task is one channel; the last one is the bias."""
    plan = numbers[0]
    lanes = lanes_of(sums)
    width = 2 * lanes
    own = worker * plan.scratch_of_worker
    total = scratch[own : own + plan.positions * width]
    for row in range(first, last):
        if row == plan.channels:
            dbias[:] = 0
            for slot in range(slots):
                origin = (slot + 1) * plan.slot_size - dbias.size
                for f in range(dbias.size):
                    dbias[f] += sums[origin + f]
            continue
        for panel in range(plan.panels):
            start = panel_start(panel, plan.targets, lanes)
            count = min(width, plan.targets - start)
            total[:] = 0
            for slot in range(slots):
                for position in range(plan.positions):
                    place = slot * plan.slot_size + ((position * plan.panels + panel) * plan.sum_rows + row) * width
                    for lane in range(count):
                        total[position * width + lane] += sums[place + lane]
            step = plan.channels * plan.targets
            for lane in range(0, count, lanes):
                shift = min(lane, count - lanes)
                transform_filter_gradient(
                    plan.family, scratch, own + shift, plan.points * width, width,
                    dfilters, row * plan.targets + start + shift, plan.taps * step, step,
                )  # fmt: skip
