"""How a correlation is cut into tasks, and the tables of offsets that make it a product.

Forward and gradient by input are one computation: sums over places of a *source* picture, written to places of a
*target* picture.  Forward, the source is x and the target y.  Backward, the source is dz and the target dx, and the
input cells under output cell i of a filter with stride s are those with ``u + pad = i s + a d``: they fall into s
*phases*, by ``(u + pad) mod s``, and within a phase, with ``u = start + s q``, the taps that reach it are the ``a``
with ``a d = phase (mod s)``, at the output cells ``i = q + shift(a)``.  So each phase is a correlation of stride 1 with
some of the filters' cells, and forward is the case of one phase with all of them.

A task is either several whole small pictures or a band of target lines of one picture.

The places of a phase are sorted into *classes* by the taps that lie inside the picture, so that nothing is multiplied
by the zeros around it, which for a gradient of small pictures are more than half of all, and the source is read where
it is.  The rows of a class are its places in one picture after another, or its part of a band.

Bands of dz, and those of pictures whose outputs are pooled, are copied first, with zeros around them where there is
padding, into scratch memory of the worker, small enough for the second-level cache; a phase is one class then, with
all taps.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import njit

from .beside import TALL
from .compiling import INNER
from .epilogue import NO_WINDOW
from .processor import BESIDE_ROWS, DOUBLE_ROWS
from .product import in_fours, lanes, panels
from .simd import FOUR
from .threads import WORKERS
from .workspace import zeros

# Multiply-adds and target pixels of a task: long enough to be worth taking, short enough for the caches and for
# several threads to have their share.
TASK_WORK, MOST_PIXELS, FEWEST_PIXELS = 1 << 20, 512, 256

# Entries of all tables of a plan's classes: more are not worth their memory, and classes not their trouble.
MOST_ENTRIES = 1 << 20

# Pixels whose dz is copied at a time for the gradient by filters: a panel of them stays in the first-level cache, and
# their sums are complete before they join the slot's, which keeps the last digits of long sums.
PIXEL_BLOCK = 128

# Fewest filters, and rows of a filter's gradient, for which a block's dz is packed.  In dz itself the pixels of a panel
# lie so far apart that they fall into few sets of the first-level cache, and a panel is read for every few rows.
PACKED_WIDTH, PACKED_DEPTH = 64, 64

# Slots of the gradient by filters: at most so many, each with at least so many pixels and multiply-adds.  They depend
# on the shapes alone, so that the order of the sums is always the same.
MOST_SLOTS, SLOT_PIXELS, SLOT_WORK = 16, 256, 1 << 18

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch height width channels "  # of the source
            "target_height target_width target_channels groups group_channels group_targets target_panels lanewise "
            "pictures bands lines tasks "  # pictures and phase lines of a task
            "line_step first_line first_column target_line_step "  # source line and column where a band starts
            "scratch_lines scratch_width "  # of what is copied with zeros around it; 0: nothing is
            "ahead ahead_step "  # from a task's first number to what is fetched for the next, and in which steps
            "copied_lines scratch_size "  # of what is copied when it is multiplied by slopes
            "wide_size scratch_of_worker scratch_of_slot "  # for one worker: of a narrow target, all, of a gradient
            "pool_height pool_width pooled_size "  # windows of max pooling on the target; 0: none
            "unpool_height unpool_width "  # and on dz, where that is the source
            "depth packed_size wide_rows dz_rows dz_panel beside tiles "  # dz_panel: 0 if dz is not packed
            "bias_sums slot_size phases_end"
        ).split()
    ]
)

PLAN_SIZE = len(PLAN)

# One class of one phase: its lines count from `line` in steps of the target, and the phase has `first` lines before.
# Fields named as tables say where in the array of all tables theirs start.
PHASE = np.dtype(
    [(name, np.int64) for name in "first line column lines pixels depth rows columns b_rows fours targets".split()]
)


class Plan(NamedTuple):
    """One correlation for one batch size.

    All its numbers stand in one array, because every argument of a compiled function costs time: those of PLAN, then
    a PHASE for each class, then the tables.  `numbers_of` and `phases_of` give them their names again.
    """

    tables: np.ndarray
    scratch: int  # numbers of scratch memory that the kernel needs
    slots: int  # of the gradient by filters
    zeros: np.ndarray  # as many as there are target channels, and at least a panel of them
    by_lanes: object  # True where channels do not mix, else None, for which Numba leaves out the code for it


@njit(**INNER)
def numbers_of(tables):
    """The plan's own numbers."""
    return tables[:PLAN_SIZE].view(PLAN)[0]


@njit(inline="always")
def phases_of(tables):
    """Its phases."""
    return tables[PLAN_SIZE : numbers_of(tables).phases_end].view(PHASE)


class Tables:
    """Tables of offsets, laid end to end."""

    def __init__(self, start):
        self.parts, self.length = [], start

    def put(self, table):
        """Append a table; returns where it starts."""
        table = np.ascontiguousarray(table, np.int64).reshape(-1)
        self.parts.append(table)
        self.length += table.size
        return self.length - table.size


@functools.lru_cache(maxsize=256)
def forward_plan(geometry, dtype, sorting=True, window=NO_WINDOW):
    """Source x, target y: one phase.  Without `sorting` into classes it is also the plan of the gradient by filters.

    The `window` of max pooling after the correlation, if there is any, divides the output.
    """
    g = geometry
    vertical = [(0, g.out_height, [(a, a * g.dilation_height - g.pad_top) for a in range(g.kernel_height)])]
    horizontal = [(0, g.out_width, [(b, b * g.dilation_width - g.pad_left) for b in range(g.kernel_width)])]
    strides = g.stride_height, g.stride_width
    phases = vertical, horizontal
    return _plan(g, dtype, g.input_shape, g.output_shape, phases, strides, (1, 1), False, sorting, window)


@functools.lru_cache(maxsize=256)
def input_gradient_plan(geometry, dtype, window=NO_WINDOW):
    """Source dz, target dx: a phase for each remainder by the strides."""
    g = geometry
    phases = (
        phases_by_strides(g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top),
        phases_by_strides(g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left),
    )
    strides = g.stride_height, g.stride_width
    return _plan(g, dtype, g.output_shape, g.input_shape, phases, (1, 1), strides, True, True, window)


def phases_by_strides(extent, kernel, stride, dilation, pad):
    """``(start, cells, [(a, shift), ...])`` of each phase of one axis."""
    found = []
    for phase in range(stride):
        start = (phase - pad) % stride
        cells = -(-(extent - start) // stride)
        taps = [(a, (start + pad - a * dilation) // stride) for a in range(kernel) if a * dilation % stride == phase]
        if cells > 0:
            found.append((start, cells, taps))
    return found


def _classes(phases, extent, step, target_step):
    """Phases of one axis, cut where the set of taps that lie inside the source changes."""
    found = []
    for start, cells, taps in phases:
        inside = [[(a, i) for a, i in taps if 0 <= q * step + i < extent] for q in range(cells)]
        first = 0
        for q in range(1, cells + 1):
            if q == cells or inside[q] != inside[first]:
                shifted = [(a, i + first * step) for a, i in inside[first]]
                found.append((start + first * target_step, q - first, shifted, first))
                first = q
    return found


def _taps(classes):
    """Taps of all classes of one axis."""
    return sum(len(taps) for _, _, taps, _ in classes)


def _reaches_beyond(phases, extent, step):
    """Whether any tap of one axis lies outside the source."""
    return any(i < 0 or (cells - 1) * step + i >= extent for _, cells, taps in phases for _, i in taps)


def _turns(records, pictures, lines):
    """Turns of the loops of tiles of two panels, with four columns each, in a task's products."""
    rows = pictures * np.minimum(records["lines"], lines) * records["pixels"]
    return int((-(-rows // DOUBLE_ROWS) * (records["depth"] // FOUR)).sum()) if DOUBLE_ROWS else 0


def _plan(g, dtype, source_shape, target_shape, phases, step, target_step, sloped, sorting, window):
    batch, height, width, channels = source_shape
    _, target_height, target_width, target_channels = target_shape
    groups, group_channels, group_targets = g.groups, channels // g.groups, target_channels // g.groups
    # Two vectors of one panel must not overlap: their sums are not loaded together, as those of a wide tile are.
    vector = lanes(dtype)
    lanewise = group_channels == group_targets == 1 and (channels == vector or channels >= 2 * vector)
    if lanewise:
        groups, group_targets = 1, target_channels

    most_lines, most_pixels = (max(cells for _, cells, _ in axis) for axis in phases)
    count = len(phases[0]) * len(phases[1])
    work = max(g.kernel_height * g.kernel_width // count, 1) * group_channels * target_channels
    wanted = min(max(TASK_WORK // (work * count), FEWEST_PIXELS), MOST_PIXELS)
    area = most_lines * most_pixels
    whole = area <= MOST_PIXELS
    pictures = min(-(-wanted // area), batch) if whole else 1
    pictures = -(-batch // -(-batch // pictures))  # about as many in every task
    lines = most_lines if whole else max(1, wanted // most_pixels)
    if window[0] and not (whole or sloped):
        lines = max(lines // window[0], 1) * window[0]
    bands = -(-most_lines // lines)

    numbers = np.zeros(1, PLAN)
    n = numbers[0]
    n["batch"], n["height"], n["width"], n["channels"] = source_shape
    n["target_height"], n["target_width"], n["target_channels"] = target_shape[1:]
    n["groups"], n["group_channels"], n["group_targets"] = groups, group_channels, group_targets
    n["lanewise"] = lanewise
    n["target_panels"] = panels(group_targets, dtype)
    n["pictures"], n["bands"], n["lines"], n["tasks"] = pictures, bands, lines, -(-batch // pictures) * bands
    n["line_step"], n["target_line_step"] = step[0], target_step[0]
    # dz is the source of the gradient by input; the gradient by filters makes it of the target.
    n["unpool_height"], n["unpool_width"] = window if sloped or not sorting else NO_WINDOW
    n["pool_height"], n["pool_width"] = window if sorting and not sloped else NO_WINDOW
    source_lines, source_width = height, width
    shifts = [[i for _, _, taps in axis for _, i in taps] or [0] for axis in phases]
    classes = [_classes(*axis) for axis in zip(phases, (height, width), step, target_step, strict=True)]
    entries = group_channels * _taps(classes[0]) * _taps(classes[1])
    padded = any(_reaches_beyond(*axis) for axis in zip(phases, (height, width), step, strict=True))
    phases = [[(*phase, 0) for phase in axis] for axis in phases]
    # Bands of dz are copied as it is, and what is to be pooled is made in bands of whole windows.
    if sorting and (whole or (not sloped and window == NO_WINDOW)) and entries <= MOST_ENTRIES:
        phases = classes
        copied_lines = height
    elif padded:
        n["first_line"], n["first_column"] = (min(axis) for axis in shifts)
        source_lines = (lines - 1) * step[0] + max(shifts[0]) - min(shifts[0]) + 1
        source_width = (most_pixels - 1) * step[1] + max(shifts[1]) - min(shifts[1]) + 1
        copied_lines = source_lines
        n["scratch_lines"], n["scratch_width"] = source_lines, source_width
    else:
        copied_lines = (lines - 1) * step[0] + max(shifts[0]) + 1
    if sloped or n["scratch_lines"]:
        n["copied_lines"] = copied_lines
        n["scratch_size"] = pictures * copied_lines * source_width * channels

    records = np.zeros(len(phases[0]) * len(phases[1]), PHASE)
    n["phases_end"] = PLAN_SIZE + records.size * len(PHASE)
    tables = Tables(int(n["phases_end"]))
    picture = np.arange(pictures, dtype=np.int64)[:, np.newaxis, np.newaxis]
    axes = ((vertical, horizontal) for vertical in phases[0] for horizontal in phases[1])
    for record, ((line, most, rows, first), (column, pixels, columns, _)) in zip(records, axes, strict=True):
        record["first"] = first
        record["line"], record["column"], record["lines"], record["pixels"] = line, column, most, pixels
        q, r = np.arange(min(lines, most), dtype=np.int64)[:, np.newaxis], np.arange(pixels, dtype=np.int64)
        record["rows"] = tables.put(((picture * source_lines + q * step[0]) * source_width + r * step[1]) * channels)
        record["targets"] = tables.put(
            ((picture * target_height + q * target_step[0]) * target_width + r * target_step[1]) * target_channels
        )
        taps = np.array(
            [
                ((i - n["first_line"]) * source_width + j - n["first_column"], a * g.kernel_width + b)
                for a, i in rows
                for b, j in columns
            ],
            np.int64,
        ).reshape(-1, 2)
        channel = np.arange(group_channels, dtype=np.int64)
        record["depth"] = len(taps) * group_channels
        columns = (taps[:, :1] * channels + channel).reshape(-1)
        b_rows = ((taps[:, 1:] * group_channels + channel) * 2 * lanes(dtype)).reshape(-1)
        record["columns"], record["b_rows"] = tables.put(columns), tables.put(b_rows)
        record["fours"] = in_fours(columns, b_rows, dtype)
    if sorting:
        # Fetched for the next task are, forward, the lines of x that this one has not read, and backward those of dx.
        line, reach, fresh = width * channels, (lines - 1) * step[0] + max(shifts[0]) + 1, lines * step[0]
        if sloped:
            line, reach, fresh = target_width * target_channels, lines * target_step[0], lines * target_step[0]
        if whole:
            reach = fresh = target_height if sloped else height
        n["ahead"] = pictures * reach * line
        turns = groups * (group_targets // (4 * lanes(dtype))) * _turns(records, pictures, lines)
        n["ahead_step"] = -(-pictures * fresh * line // turns) if turns else 0
    panel_size = n["target_panels"] * 2 * lanes(dtype)
    rows = pictures * lines * most_pixels
    n["depth"] = g.kernel_height * g.kernel_width * group_channels
    n["wide_rows"] = tables.put(np.arange(max(rows, n["depth"])) * 2 * lanes(dtype))
    reused = n["depth"] >= PACKED_DEPTH and target_channels >= PACKED_WIDTH
    # Whole fours of rows of the filters' gradient, and whole panels of dz: see `beside`.
    n["beside"] = bool(BESIDE_ROWS) and group_channels % FOUR == 0 and group_targets % (2 * lanes(dtype)) == 0
    packed_dz = n["beside"] or group_targets < lanes(dtype) or (reused and not lanewise)
    n["dz_panel"] = PIXEL_BLOCK * 2 * lanes(dtype) if packed_dz else 0
    n["dz_rows"] = tables.put(np.arange(PIXEL_BLOCK) * (2 * lanes(dtype) if packed_dz else target_channels))
    n["packed_size"] = groups * n["depth"] * panel_size
    n["wide_size"] = rows * 2 * lanes(dtype) if group_targets < lanes(dtype) else 0
    n["pooled_size"] = rows * target_channels if n["pool_height"] else 0
    n["scratch_of_worker"] = n["scratch_size"] + n["wide_size"] + n["pooled_size"]
    dz_size = PIXEL_BLOCK * target_channels + groups * n["target_panels"] * n["dz_panel"]
    n["scratch_of_slot"] = n["scratch_size"] + dz_size
    n["tiles"] = groups * n["target_panels"] * -(-n["depth"] // TALL)
    n["bias_sums"] = groups * n["depth"] * panel_size
    n["slot_size"] = n["bias_sums"] + -(-target_channels // lanes(dtype)) * lanes(dtype)
    slots = 0
    scratch = n["packed_size"] + WORKERS * n["scratch_of_worker"]
    if not sorting:
        pixels = batch * target_height * target_width
        slots = max(1, min(MOST_SLOTS, pixels // SLOT_PIXELS, pixels * n["slot_size"] // SLOT_WORK, n["tasks"]))
        scratch = slots * n["slot_size"] + WORKERS * n["scratch_of_slot"]
    return Plan(
        np.concatenate([numbers.view(np.int64), records.view(np.int64), *tables.parts]),
        int(scratch),
        int(slots),
        zeros(dtype, target_channels),
        True if lanewise else None,
    )
