"""Gradient by input of pictures with few channels, whose vectors are made of pixels.

A product's vectors are columns of C, and those of the gradient by input are the input's channels: of one channel, a
vector of eight has seven numbers too many.  Here pixels are the columns instead, and filter cells the rows::

    cols[(a, b, c), (i, j)] = sum_f filters[a, b, c, f] dz[i, j, f]
    dx[u, v, c]             = sum_{a, b} cols[(a, b, c), (i, j)]            u = i s - p + a d,  v likewise

The product wants dz turned over, f by f, which is done for one panel of pixels at a time and stays in the first-level
cache; the filters are read where they lie.  The sum is one of rows of `cols`, each shifted by its tap, and such a sum
is a product too, with ones and channels that do not mix: `product_lanewise` keeps the sums in registers.

A row of `cols` is a run of lines with zeros between them, as many as the taps reach beyond a line: so a tap's shift is
the same for all places, and vectors may run across the ends of lines::

    0 0 | line i0: 1 2 3 ... n | 0 0 | line i0 + 1: 1 2 3 ... n | 0 0 | ...

With strides, dx falls into phases (see `plan`), each with the taps that reach it: these are sums of their own, from the
same `cols`.  A task is a band of lines of one picture; what bands share of dz they each compute.

What bounds it is the multiplier, as in any product.  dz is read once, dx is written once; `cols` is written and read in
the second-level cache.  Turning dz over costs as much as some ten rows of `cols`: with fewer than a tile's rows, as for
filters of one cell, it is not worth it, and `correlate` goes its usual way.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import njit

from ..formulas import LINEAR
from .compiling import INNER, KERNEL
from .epilogue import multiply_by_slope
from .plan import Tables, phases_by_strides
from .prepared import prepared
from .processor import REGISTER_BYTES, WIDE_ROWS
from .product import lanes, pack_panel, product, product_lanewise
from .threads import WORKERS, share
from .workspace import LINE_BYTES, ones, workspace, zeros

# Bytes of `cols` that a task should have at most, for the second-level cache, and of those that are worth computing:
# a band has at least as many lines as it shares with the next.
COLS_BYTES, MOST_COLS_BYTES = 3 << 17, 1 << 20

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch height width channels "  # of dx
            "source_height source_width source_channels groups group_channels group_targets depth "
            "bands lines first_line cols_lines line margin row_size "  # lines of a band, of its cols; cells of a line
            "pixels panel planes scratch_of_worker "  # where a worker keeps what, behind its cols
            "filter_rows filter_columns panel_rows cols_rows zeros vectors vectors_of_plane phases_end"
        ).split()
    ]
)
PLAN_SIZE = len(PLAN)

# One phase: its lines count from `line` in steps of the stride, its pixels from `column`; at `taps` stand the shifts of
# its taps.
PHASE = np.dtype([(name, np.int64) for name in "line column lines pixels line_step column_step taps depth".split()])


class Plan(NamedTuple):
    """One gradient for one batch size: numbers, phases and tables in one array, as in `plan.Plan`."""

    tables: np.ndarray
    scratch: int  # numbers of scratch memory
    cols_bytes: int  # of one task
    work: int  # multiply-adds of all


@njit(**INNER)
def _numbers_of(tables):
    return tables[:PLAN_SIZE].view(PLAN)[0]


@njit(inline="always")
def _phases_of(tables):
    return tables[PLAN_SIZE : _numbers_of(tables).phases_end].view(PHASE)


def usable(geometry, dtype):
    """Whether a gradient by input is computed here: few channels, enough filters to sum, and cells to fill a tile."""
    g = geometry
    if not g.channels // g.groups < lanes(dtype) <= g.out_channels // g.groups:
        return False
    if g.kernel_height * g.kernel_width * (g.channels // g.groups) < WIDE_ROWS:
        return False
    return _plan(g, dtype).cols_bytes <= MOST_COLS_BYTES


@prepared
def correlate2d_gradient_input(dy, y, filters, geometry, activation, alpha, dx):
    """Gradient by input."""
    plan = _plan(geometry, dx.dtype)
    scratch = workspace(plan.scratch, dx.dtype)
    none = zeros(dx.dtype)
    return _gradient, (dy, y, activation, alpha, filters, dx, plan.tables, plan.work, scratch, none, ones(dx.dtype))


@functools.lru_cache(maxsize=256)
def _plan(geometry, dtype):
    g = geometry
    vertical = phases_by_strides(g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top)
    horizontal = phases_by_strides(g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left)
    wide = lanes(dtype)
    numbers = np.zeros(1, PLAN)
    n = numbers[0]
    n["batch"], n["height"], n["width"], n["channels"] = g.input_shape
    _, n["source_height"], n["source_width"], n["source_channels"] = g.output_shape
    n["groups"], n["group_channels"], n["group_targets"] = g.groups, g.channels // g.groups, g.out_channels // g.groups
    n["depth"] = g.kernel_height * g.kernel_width * n["group_channels"]

    # Zeros between lines: as far as any tap reaches before or behind one.
    shifts = [shift for _, _, taps in vertical for _, shift in taps] or [0]
    n["first_line"] = min(shifts)
    shared = max(shifts) - min(shifts)
    before = max([-shift for _, _, taps in horizontal for _, shift in taps] + [0])
    farthest = max([shift for _, _, taps in horizontal for _, shift in taps] + [0])
    behind = max([cells + shift - g.out_width for _, cells, taps in horizontal for _, shift in taps] + [0])
    most_cells = max(cells for _, cells, _ in horizontal)
    n["margin"] = before
    n["line"] = max(g.out_width + max(before, behind), most_cells)
    line_bytes = int(n["depth"] * n["line"]) * dtype.itemsize
    most_lines = max(cells for _, cells, _ in vertical)
    lines = min(max(COLS_BYTES // line_bytes - shared, shared, 1), most_lines)
    n["bands"] = -(-most_lines // lines)
    lines = n["lines"] = -(-most_lines // n["bands"])
    n["cols_lines"] = lines + shared
    cells = before + n["cols_lines"] * n["line"] + farthest + 2 * wide
    # An odd number of cache lines, lest the rows fall into few sets of the cache.
    cache_line = LINE_BYTES // dtype.itemsize
    n["row_size"] = (-(-cells // cache_line) | 1) * cache_line
    n["pixels"] = n["depth"] * n["row_size"]
    n["panel"] = n["pixels"] + 2 * wide * n["group_targets"]
    n["planes"] = n["panel"] + 2 * wide * n["group_targets"]
    plane = -(-int(lines * n["line"]) // wide) * wide
    n["scratch_of_worker"] = n["planes"] + n["group_channels"] * plane

    records = np.zeros(len(vertical) * len(horizontal), PHASE)
    n["phases_end"] = PLAN_SIZE + records.size * len(PHASE)
    tables = Tables(int(n["phases_end"]))
    axes = ((rows, columns) for rows in vertical for columns in horizontal)
    for record, ((line, most, rows), (column, pixels, columns)) in zip(records, axes, strict=True):
        record["line"], record["lines"], record["line_step"] = line, most, g.stride_height
        record["column"], record["pixels"], record["column_step"] = column, pixels, g.stride_width
        taps = [
            (a * g.kernel_width + b) * n["group_channels"] * n["row_size"]
            + n["margin"] + (i - n["first_line"]) * n["line"] + j
            for a, i in rows
            for b, j in columns
        ]  # fmt: skip
        record["depth"], record["taps"] = len(taps), tables.put(taps)
    n["filter_rows"] = tables.put(np.arange(n["depth"]) * g.out_channels)
    n["filter_columns"] = tables.put(np.arange(n["group_targets"]))
    n["panel_rows"] = tables.put(np.arange(n["group_targets"]) * 2 * wide)
    n["cols_rows"] = tables.put(np.arange(n["depth"]) * n["row_size"])
    n["zeros"] = tables.put(np.zeros(n["depth"]))
    n["vectors"], n["vectors_of_plane"] = tables.put(np.arange(plane // wide) * wide), plane // wide
    return Plan(
        np.concatenate([numbers.view(np.int64), records.view(np.int64), *tables.parts]),
        int(WORKERS * n["scratch_of_worker"]),
        int(n["depth"] * n["row_size"]) * dtype.itemsize,
        g.batch * g.out_height * g.out_width * g.out_channels * int(n["depth"]),
    )


@njit(**KERNEL)
def _gradient(dy, y, activation, alpha, filters, dx, tables, work, scratch, none, ones):
    plan = _numbers_of(tables)
    arguments = (
        dy.reshape(-1), y.reshape(-1), activation, alpha, filters.reshape(-1), dx.reshape(-1),
        tables, scratch, none, ones,
    )  # fmt: skip
    share(_gradient_tasks, arguments, plan.batch * plan.bands, work)


@njit(**INNER)
def _gradient_tasks(first, last, worker, dy, y, activation, alpha, filters, dx, tables, scratch, none, ones):
    plan = _numbers_of(tables)
    own = scratch[worker * plan.scratch_of_worker : (worker + 1) * plan.scratch_of_worker]
    for task in range(first, last):
        picture, band = divmod(task, plan.bands)
        for group in range(plan.groups):
            _make_cols(dy, y, activation, alpha, filters, picture, band, group, own, tables, none)
            for phase in _phases_of(tables):
                _sum_taps(picture, band, group, phase, own, dx, tables, none, ones)


@njit(**INNER)
def _make_cols(dy, y, activation, alpha, filters, picture, band, group, own, tables, none):
    """The product of the filters with a band's pixels, panel after panel, and the zeros around it."""
    plan = _numbers_of(tables)
    lanes = REGISTER_BYTES // dy.itemsize
    lowest, zero = dy.dtype.type(-np.inf), np.intp(0)
    rows = tables[plan.filter_rows : plan.filter_rows + plan.depth]
    columns = tables[plan.filter_columns : plan.filter_columns + plan.group_targets]
    panel_rows = tables[plan.panel_rows : plan.panel_rows + plan.group_targets]
    cols_rows = tables[plan.cols_rows : plan.cols_rows + plan.depth]
    top = band * plan.lines + plan.first_line
    begin = min(max(top, 0), plan.source_height)
    end = max(min(top + plan.cols_lines, plan.source_height), begin)
    place = plan.margin + (begin - top) * plan.line
    # A line's zeros are cells as its pixels are, but for the last one's.
    cells = max((end - begin) * plan.line - (plan.line - plan.source_width), 0)
    origin = (picture * plan.source_height + begin) * plan.source_width
    channels, width = plan.source_channels, plan.group_targets
    for cell in range(0, cells, 2 * lanes):
        count = min(2 * lanes, cells - cell)
        b, b_place, step = dy, (origin + cell) * channels + group * width, channels
        if activation != LINEAR or plan.line > plan.source_width:
            _copy_cells(dy, y, activation, alpha, origin, cell, count, group, own, plan)
            b, b_place, step = own, plan.pixels, width
        pack_panel(b, b_place, step, width, count, bool(1), own, plan.panel)
        product(
            filters, group * width, rows, columns, own, plan.panel, panel_rows, bool(1), zero,
            none, lowest, own, place + cell, cols_rows, zero, 2 * lanes, bool(0), None, zero, zero,
        )  # fmt: skip
    for row in range(plan.depth):
        start = row * plan.row_size
        own[start : start + place] = 0
        own[start + place + cells : start + plan.row_size] = 0


@njit(**INNER)
def _copy_cells(dy, y, activation, alpha, origin, cell, count, group, own, plan):
    """A group's dz of some cells of the band that starts at pixel `origin`: zeros behind the end of a line."""
    channels, width = plan.source_channels, plan.group_targets
    place = plan.pixels
    while count > 0:
        line, column = divmod(cell, plan.line)
        if column < plan.source_width:
            run = min(plan.source_width - column, count)
            pixel = origin + line * plan.source_width + column
            # The channels of a single group are those of the pixels, end to end.
            pieces, size = (1, run * channels) if plan.groups == 1 else (run, width)
            for piece in range(pieces):
                start = (pixel + piece) * channels + group * width
                multiply_by_slope(dy, y, start, size, activation, alpha, own, place + piece * size)
        else:
            run = min(plan.line - column, count)
            own[place : place + run * width] = 0
        place += run * width
        cell += run
        count -= run


@njit(**INNER)
def _sum_taps(picture, band, group, phase, own, dx, tables, none, ones):
    """One phase of a band of dx: a plane of sums for each channel, and then pixel by pixel."""
    plan = _numbers_of(tables)
    lanes = REGISTER_BYTES // dx.itemsize
    lowest, zero = dx.dtype.type(-np.inf), np.intp(0)
    lines = min(plan.lines, phase.lines - band * plan.lines)
    if lines <= 0:
        return
    taps = tables[phase.taps : phase.taps + phase.depth]
    no_rows = tables[plan.zeros : plan.zeros + phase.depth]
    count = (lines * plan.line + lanes - 1) // lanes
    vectors = tables[plan.vectors : plan.vectors + count]
    plane = plan.vectors_of_plane * lanes
    channels = plan.group_channels
    for channel in range(channels):
        product_lanewise(
            own, channel * plan.row_size, vectors, taps, ones, zero, no_rows, zero,
            none, lowest, own, plan.planes + channel * plane, vectors, zero, lanes, bool(0),
        )  # fmt: skip
    step = phase.column_step * plan.channels
    for q in range(lines):
        line = picture * plan.height + phase.line + (band * plan.lines + q) * phase.line_step
        start = (line * plan.width + phase.column) * plan.channels + group * channels
        for channel in range(channels):
            place = plan.planes + channel * plane + q * plan.line
            for pixel in range(phase.pixels):
                dx[np.uintp(start + pixel * step + channel)] = own[np.uintp(place + pixel)]
