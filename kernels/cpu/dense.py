"""Dense layers: a matrix product with bias and activation, and its two gradients.

::

    y = activation(x kernel + bias)         dz = dy * activation'(z)
    dx = dz kernel^T        dkernel = x^T dz        dbias = sum of dz over the batch

Goodfellow, Bengio and Courville, "Deep Learning" (2016), algorithm 6.4.

Each is one product (`product`), whose tables say how A is stored::

    A             rows          columns       B                   C
    x             of the batch  inputs        kernel              y
    dz            of the batch  outputs       kernel, turned      dx
    x, turned     inputs        of the batch  dz                  dkernel

Tasks are blocks of rows of C and, where B is large, of columns.  What is large is computed as Goto and van de Geijn do
("Anatomy of high-performance matrix multiplication", 2008): B is copied into panels, of which the part for a block of
the depth stays in the first level's cache while the rows of a task pass by; a task's part of A, whose rows or columns
might share few sets of the caches, is copied block by block.  Sums of several blocks, and those of a C narrower than a
vector, are made in scratch memory of the worker.

BLAS is not used: which way a sum goes there may depend on its number of threads, which is not ours to set.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ..formulas import LINEAR, RELU
from .builders import spread
from .compiling import INNER, KERNEL
from .epilogue import finish, multiply_by_slope
from .parts import over_samples
from .plan import Tables
from .prepared import prepared
from .processor import NARROW_ROWS, REGISTER_BYTES, WIDE_ROWS
from .product import lanes, pack_panel, panel_start, panels, product
from .threads import WORKERS, share
from .vectors import (
    add_part,
    add_vector,
    copy_vector,
    first_lanes,
    lanes_of,
    masked_vectors_of,
    vectors_of,
)
from .views import behind, flat, part, record
from .workspace import workspace, zeros

# From so many rows on, copying B into panels costs less than it saves; so it does for a few tiles' rows, if the rows of
# B have so many bytes and are more than the first level's cache holds.  They are copied so many at a time.
PACKING_ROWS, FEWEST_PACKING_ROWS, WIDE_BYTES, CACHE_BYTES = 192, 2 * WIDE_ROWS, 1 << 10, 1 << 15
PACKED_ROWS = 32

# A larger B than this is cut into groups of panels.  An A that is larger is copied, if a group has so many panels to
# read it.
LARGE_BYTES, FEWEST_PANELS = 1 << 18, 4

# Terms that are added up before they join the total, more or less: a panel of B takes half of the first level's cache,
# and a long sum keeps its last digits.
DEPTH_BLOCK = 256

# A task has so many tiles' rows at most, and there are about so many tasks at least; of a C that is narrower than a
# vector, a task has so many tiles.
MOST_TILES, FEWEST_TASKS, NARROW_TILES = 8, 32, 4

# Which factor of a product is multiplied by the slopes of an activation first, so that it is dz.
NEITHER, A, B = range(3)


@prepared
def dense(x, kernel, bias, activation, alpha, y):
    """Forward."""
    plan = _plan(x.shape[0], x.shape[1], kernel.shape[1], x.shape[1], 1, False, x.dtype)
    scratch = workspace(plan.scratch, x.dtype)
    return _compiled(plan), (
        x, kernel, NEITHER, x, LINEAR, 0.0, bias, activation, alpha, y, bias, plan.tables, plan.zeros, scratch,
    )  # fmt: skip


@prepared
def dense_gradient_input(dy, y, kernel, activation, alpha, dx):
    """Gradient by input."""
    plan = _plan(dy.shape[0], dy.shape[1], kernel.shape[0], dy.shape[1], 1, True, dx.dtype)
    scratch, none = workspace(plan.scratch + dy.size, dx.dtype), plan.zeros
    arguments = dy, kernel, A, y, activation, alpha, none, LINEAR, 0.0, dx, none, plan.tables, none, scratch
    return _compiled(plan), arguments


@over_samples
def dense_gradient_kernel(x, dy, y, activation, alpha, dkernel, dbias):
    """Gradient by kernel and bias."""
    plan = _plan(x.shape[1], x.shape[0], dy.shape[1], 1, x.shape[1], False, x.dtype)
    sums = panels(dy.shape[1], x.dtype) * 2 * lanes(x.dtype)
    scratch, none = workspace(plan.scratch + dy.size + sums, x.dtype), plan.zeros
    arguments = x, dy, B, y, activation, alpha, none, LINEAR, 0.0, dkernel, dbias, plan.tables, none, scratch
    return _compiled(plan), arguments


class _Plan(NamedTuple):
    """One product for one batch size.

    Numbers and tables stand in one array, because every argument of a compiled function costs time: those of PLAN,
    then the tables of rows and columns of A, of rows of B and of C, and those of a task's copy of A and of its sums.
    """

    tables: np.ndarray
    zeros: np.ndarray  # as many as C has columns, and at least a panel of them
    scratch: int  # numbers of scratch memory
    by_blocks: bool  # whether sums, or A, go by way of scratch memory


PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "packing turned "  # whether B is copied into panels; whether it is given turned over
            "row_block row_blocks group "  # rows of a task, blocks of rows, panels of a task
            "depth_block indirect copying "  # terms of a block; whether sums, and A, go by way of scratch memory
            "a_turned copy_width "  # whether A is stored turned over; a tile's rows of its copy, in whole vectors
            "fours "  # whether columns of A and rows of B lie side by side (`product`)
            "rows columns b_rows c_rows copy_rows copy_columns sum_rows "  # where the tables start
            "sums_size scratch_of_worker"
        ).split()
    ]
)
PLAN_SIZE = len(PLAN)


@functools.lru_cache(maxsize=256)
def _plan(rows, depth, width, row_step, column_step, turned, dtype):
    wide = lanes(dtype)
    size = depth * dtype.itemsize
    far = width * dtype.itemsize >= WIDE_BYTES and size * width > CACHE_BYTES
    packing = turned or width < wide or rows >= (FEWEST_PACKING_ROWS if far else PACKING_ROWS)
    tile_rows = WIDE_ROWS if width >= wide else NARROW_ROWS
    tiles = -(-rows // tile_rows)
    blocks = max((depth + DEPTH_BLOCK // 2) // DEPTH_BLOCK, 1)

    numbers = np.zeros(1, PLAN)
    n = numbers[0]
    n["packing"], n["turned"] = packing, turned
    count = panels(width, dtype)
    if width < wide:
        n["row_blocks"], n["group"] = -(-tiles // NARROW_TILES), count
    elif size * width <= LARGE_BYTES:
        n["row_blocks"], n["group"] = max(-(-tiles // MOST_TILES), min(tiles, FEWEST_TASKS)), count
    else:
        n["row_blocks"] = -(-tiles // MOST_TILES)
        n["group"] = -(-count // min(-(-FEWEST_TASKS // n["row_blocks"]), count))
    # The last panel may overlap the one before, which must not be another task's: each applies the activation.
    while n["group"] < count and (count - 1) % n["group"] == 0:
        n["group"] += 1
    n["row_block"] = -(-tiles // n["row_blocks"]) * tile_rows
    n["row_blocks"] = -(-rows // n["row_block"])
    n["depth_block"], n["copy_width"] = -(-depth // blocks), -(-WIDE_ROWS // wide) * wide
    n["copying"] = size * rows > LARGE_BYTES and n["group"] >= FEWEST_PANELS
    n["a_turned"] = row_step == 1
    n["indirect"] = width < wide or blocks > 1
    row, copy_width = np.arange(n["row_block"]), n["copy_width"]
    tables = Tables(PLAN_SIZE)
    n["rows"] = tables.put(np.arange(rows) * row_step)
    n["columns"] = tables.put(np.arange(depth) * column_step)
    n["b_rows"] = tables.put(np.arange(depth) * (2 * wide if packing else width))
    n["fours"] = packing and not n["a_turned"]
    n["c_rows"] = tables.put(np.arange(rows) * width)
    if n["a_turned"]:
        n["copy_rows"] = tables.put(row // WIDE_ROWS * n["depth_block"] * copy_width + row % WIDE_ROWS)
        n["copy_columns"] = tables.put(np.arange(n["depth_block"]) * copy_width)
        copy_size = n["row_block"] // WIDE_ROWS * n["depth_block"] * copy_width
    else:
        copy_size = n["row_block"] * n["depth_block"]
        n["copy_rows"] = tables.put(row * n["depth_block"])
        n["copy_columns"] = tables.put(np.arange(n["depth_block"]))
    n["sum_rows"] = tables.put(row * 2 * wide)
    n["sums_size"] = n["row_block"] * n["group"] * 2 * wide if n["indirect"] else 0
    n["scratch_of_worker"] = n["sums_size"] + (copy_size if n["copying"] else 0)
    packed = count * depth * 2 * wide if packing else 0
    return _Plan(
        np.concatenate([numbers.view(np.int64), *tables.parts]),
        zeros(dtype, width),
        int(packed + WORKERS * n["scratch_of_worker"]),
        bool(n["indirect"] or n["copying"]),
    )


def _compiled(plan):
    """The function that computes a product: small ones need not wait until the other is compiled."""
    return _product_by_blocks if plan.by_blocks else _product


@njit(**KERNEL)
def _product(a, b, sloped, values, slope, slope_alpha, bias, activation, alpha, c, sums, tables, none, scratch):
    """C = A B with bias and activation, for forward and both gradients."""
    a, b, _ = _operands(a, b, sloped, values, slope, slope_alpha, c, sums, tables, scratch)
    arguments = a, b, bias, activation, alpha, c, tables
    share(_product_tasks, arguments, _tasks_of(c, tables), _work_of(a, c))


@njit(**KERNEL)
def _product_by_blocks(
    a, b, sloped, values, slope, slope_alpha, bias, activation, alpha, c, sums, tables, none, scratch
):  # fmt: skip
    """As `_product`, where sums are made, or A is copied, in scratch memory."""
    a, b, rest = _operands(a, b, sloped, values, slope, slope_alpha, c, sums, tables, scratch)
    arguments = a, b, bias, activation, alpha, c, tables, none, rest
    share(_product_tasks_by_blocks, arguments, _tasks_of(c, tables), _work_of(a, c))


@njit(**INNER)
def _operands(a, b, sloped, values, slope, slope_alpha, c, sums, tables, scratch):
    """A and B as the tasks want them, flat, and the rest of the scratch memory.

    Where `sloped` says so, A or B is given as dy, and `values` are the activation's; for B, its rows are added up into
    `sums`.
    """
    plan = record(tables, PLAN)
    lanes, width, rest = lanes_of(c), c.shape[1], scratch
    a, b, values = flat(a), flat(b), flat(values)
    depth = b.size // width
    if sloped == A and slope != LINEAR:
        multiply_by_slope(a, values, np.intp(0), a.size, slope, slope_alpha, scratch, np.intp(0))
        a = part(scratch, np.intp(0), a.size)
        rest = behind(scratch, a.size)
    elif sloped == B:
        if slope != LINEAR:
            multiply_by_slope(b, values, np.intp(0), b.size, slope, slope_alpha, scratch, np.intp(0))
            b = part(scratch, np.intp(0), b.size)
        rest = behind(scratch, b.size)
        _add_rows(b, sums, rest)
    if plan.packing:
        packed = part(rest, np.intp(0), _panels(width, lanes) * depth * 2 * lanes)
        rest = behind(rest, packed.size)
        share(_pack, (b, plan.turned, width, packed), (depth + PACKED_ROWS - 1) // PACKED_ROWS, packed.size)
        return a, packed, rest
    return a, b, rest


@njit(**INNER)
def _tasks_of(c, tables):
    plan = record(tables, PLAN)
    return (_panels(c.shape[1], lanes_of(c)) + plan.group - 1) // plan.group * plan.row_blocks


@njit(**INNER)
def _work_of(a, c):
    return a.size * c.shape[1]


@njit(**INNER)
def _add_rows(dz, dbias, scratch):
    """The sum of dz over the batch, block after block: by vectors, of which the last may overlap the one before."""
    outputs, lanes = dbias.size, lanes_of(dz)
    rows, vectors = dz.size // outputs, (outputs + lanes - 1) // lanes
    block = part(scratch, np.intp(0), vectors * lanes)
    dbias[:] = 0
    for first in range(0, rows, DEPTH_BLOCK):
        block[:] = 0
        for row in range(first, min(first + DEPTH_BLOCK, rows)):
            if outputs < lanes:
                add_part(dz, row * outputs, outputs, block, np.intp(0))
            else:
                for vector in range(vectors):
                    place = row * outputs + min(vector * lanes, outputs - lanes)
                    add_vector(dz, place, block, vector * lanes)
        # What the last vector has of its own stands at its end.
        for f in range(outputs):
            own = f < (vectors - 1) * lanes or outputs < lanes
            dbias[f] += block[f if own else f + vectors * lanes - outputs]


@njit(**INNER)
def _pack(first, last, worker, b, turned, width, packed):
    """Copy B into panels: a task is a block of its rows, so that memory is read page by page."""
    lanes = lanes_of(b)
    panels = _panels(width, lanes)
    depth = packed.size // (panels * 2 * lanes)
    begin, end = first * PACKED_ROWS, min(last * PACKED_ROWS, depth)
    for row in range(begin, end, PACKED_ROWS):
        rows = min(PACKED_ROWS, end - row)
        for panel in range(panels):
            start = panel_start(panel, max(width, lanes), lanes)
            place, step = (start * depth + row, depth) if turned else (row * width + start, width)
            count = min(2 * lanes, width - start)
            pack_panel(b, place, step, rows, count, turned, packed, (panel * depth + row) * 2 * lanes)


@njit(**INNER)
def _next_tasks(task, last, c, tables):
    """The tasks from `task` on of one group of panels: their number, rows, first panel, and columns."""
    plan = record(tables, PLAN)
    (count, width), lanes = c.shape, lanes_of(c)
    group, block = divmod(task, plan.row_blocks)
    blocks = min(plan.row_blocks - block, last - task)
    panel = group * plan.group
    column = panel_start(panel, max(width, lanes), lanes)
    columns = min(plan.group * 2 * lanes, width - column)
    begin, end = block * plan.row_block, min((block + blocks) * plan.row_block, count)
    return blocks, begin, end, panel, column, columns


@njit(**INNER)
def _product_tasks(first, last, worker, a, b, bias, activation, alpha, c, tables):
    plan = record(tables, PLAN)
    a_columns = part(tables, plan.columns, a.size // c.shape[0])
    task = first
    while task < last:
        blocks, begin, end, panel, column, columns = _next_tasks(task, last, c, tables)
        task += blocks
        # All their rows are one, so that a panel of B serves them all.
        a_rows = part(tables, plan.rows + begin, end - begin)
        _product_rows(a, a_rows, a_columns, begin, end, b, panel, column, columns, bias, activation, c, tables)
        _finish(c, begin, end, column, columns, activation, alpha)


@njit(**INNER)
def _product_tasks_by_blocks(first, last, worker, a, b, bias, activation, alpha, c, tables, none, scratch):
    plan = record(tables, PLAN)
    zero, depth = np.intp(0), a.size // c.shape[0]
    sums = part(scratch, worker * plan.scratch_of_worker, plan.sums_size)
    copy = part(scratch, worker * plan.scratch_of_worker + plan.sums_size, plan.scratch_of_worker - plan.sums_size)
    task = first
    while task < last:
        blocks, begin, end, panel, column, columns = _next_tasks(task, last, c, tables)
        task += blocks
        for start in range(begin, end, plan.row_block):
            stop = min(start + plan.row_block, end)
            if plan.indirect:
                _add_blocks(a, start, stop, depth, b, panel, column, tables, none, sums, copy, columns)
                _finish_sums(sums, start, stop, bias, activation, c, column, columns, tables)
            else:
                source, a_rows, a_columns = _part_of_a(a, start, stop, zero, depth, tables, copy)
                _product_rows(
                    source, a_rows, a_columns, start, stop, b, panel, column, columns, bias, activation, c, tables
                )
            _finish(c, start, stop, column, columns, activation, alpha)


@njit(**INNER)
def _place_in_b(panel, column, depth, lanes, plan):
    """Where a panel of B starts, and how far they are apart; see `product`."""
    step = depth * 2 * lanes if plan.packing else 0
    return panel * step if plan.packing else column, step


@njit(**INNER)
def _floor(activation, c):
    """What results below it become."""
    return c.dtype.type(0) if activation == RELU else c.dtype.type(-np.inf)


@njit(**INNER)
def _product_rows(a, a_rows, a_columns, start, stop, b, panel, column, columns, bias, activation, c, tables):
    """Rows ``start .. stop - 1`` of C, and so many columns from `column` on: all terms at once."""
    plan = record(tables, PLAN)
    zero, depth = np.intp(0), a_columns.size
    place, step = _place_in_b(panel, column, depth, lanes_of(c), plan)
    product(
        a, zero, a_rows, a_columns, b, place, part(tables, plan.b_rows, depth), plan.fours != 0, step,
        behind(bias, column), _floor(activation, c), flat(c), column, part(tables, plan.c_rows + start, stop - start),
        zero, columns, bool(0), None, zero, zero,
    )  # fmt: skip


@njit(**INNER)
def _finish(c, start, stop, column, columns, activation, alpha):
    """Apply an activation that the product's tile has not applied."""
    values, width = flat(c), c.shape[1]
    if activation > RELU:
        if columns == width:
            finish(values, start * width, stop * width, activation, alpha)
        else:
            for row in range(start, stop):
                finish(values, row * width + column, row * width + column + columns, activation, alpha)


@njit(**INNER)
def _add_blocks(a, start, stop, depth, b, panel, column, tables, none, sums, copy, columns):
    """The sums of the rows ``start .. stop - 1`` in panels of their own, block after block of the depth."""
    plan = record(tables, PLAN)
    lanes = lanes_of(a)
    zero, lowest = np.intp(0), a.dtype.type(-np.inf)
    place, step = _place_in_b(panel, column, depth, lanes, plan)
    sum_rows = part(tables, plan.sum_rows, stop - start)
    for begin in range(0, depth, plan.depth_block):
        end = min(begin + plan.depth_block, depth)
        source, a_rows, a_columns = _part_of_a(a, start, stop, begin, end, tables, copy)
        product(
            source, zero, a_rows, a_columns, b, place, part(tables, plan.b_rows + begin, end - begin),
            plan.fours != 0, step,
            none, lowest, sums, zero, sum_rows, plan.row_block * 2 * lanes, max(columns, lanes), begin > 0,
            None, zero, zero,
        )  # fmt: skip


@njit(**INNER)
def _part_of_a(a, start, stop, begin, end, tables, copy):
    """Rows ``start .. stop - 1`` and columns ``begin .. end - 1`` of A: an array, and tables of their places in it."""
    plan = record(tables, PLAN)
    rows, columns = stop - start, end - begin
    if plan.copying:
        if plan.a_turned:
            _copy_turned(a, tables, start, stop, begin, end, copy)
        else:
            for row in range(start, stop):
                origin, place = tables[plan.rows + row] + begin, (row - start) * plan.depth_block
                # Number by number: an array assigned to a slice might overlap it, and would be copied twice.
                for k in range(columns):
                    copy[place + k] = a[origin + k]
        return copy, part(tables, plan.copy_rows, rows), part(tables, plan.copy_columns, columns)
    return a, part(tables, plan.rows + start, rows), part(tables, plan.columns + begin, columns)


@njit(**INNER)
def _copy_turned(a, tables, start, stop, begin, end, copy):
    """A part of a turned A: tile after tile, the columns one after the other with their rows side by side."""
    plan = record(tables, PLAN)
    lanes = lanes_of(a)
    step = plan.copy_width
    for tile in range(start, stop, WIDE_ROWS):
        place = (tile - start) // WIDE_ROWS * plan.depth_block * step
        for k in range(begin, end):
            column = tables[plan.columns + k] + tile
            if column + step <= a.size:
                # What belongs to the next tile is not looked at.
                for lane in range(0, step, lanes):
                    copy_vector(a, column + lane, copy, place + lane)
            else:
                for row in range(min(WIDE_ROWS, stop - tile)):
                    copy[place + row] = a[column + row]
            place += step


@intrinsic
def _finish_part(typing, totals, place, bias, floor, results, into, count):
    """A row of C that is narrower than a vector, from its sums: with the bias, and the floor for what is below it."""

    def code(context, builder, signature, arguments):
        totals, place, bias, floor, results, into, count = arguments
        read, _ = vectors_of(context, builder, signature.args[0], totals)
        lanes = REGISTER_BYTES // (signature.args[0].dtype.bitwidth // 8)
        chosen = first_lanes(builder, count, lanes)
        read_bias, _ = masked_vectors_of(context, builder, signature.args[2], bias, chosen)
        _, write = masked_vectors_of(context, builder, signature.args[4], results, chosen)
        sums = builder.fadd(read(place), read_bias(ir.Constant(place.type, 0), 0.0))
        lowest = spread(builder, floor, lanes)
        write(builder.select(builder.fcmp_ordered("<", sums, lowest), lowest, sums), into)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(totals, integer, bias, totals.dtype, results, integer, integer), code


@njit(**INNER)
def _finish_sums(sums, start, stop, bias, activation, c, first, columns, tables):
    """Rows ``start .. stop - 1`` of C, and so many columns from the first on, from the panels of their sums."""
    row_block = record(tables, PLAN).row_block
    lanes, floor, numbers, width = lanes_of(c), _floor(activation, c), flat(c), c.shape[1]
    if width < lanes:
        for row in range(start, stop):
            _finish_part(sums, (row - start) * 2 * lanes, bias, floor, numbers, row * width, width)
        return
    for panel in range(_panels(columns, lanes)):
        column = panel_start(panel, max(columns, lanes), lanes)
        count = min(2 * lanes, columns - column)
        addends = part(bias, first + column, count)
        for row in range(start, stop):
            results = part(numbers, row * width + first + column, count)
            totals = part(sums, (panel * row_block + row - start) * 2 * lanes, count)
            for f in range(count):
                result = totals[f] + addends[f]
                results[f] = floor if result < floor else result


@njit(**INNER)
def _panels(width, lanes):
    return (width + 2 * lanes - 1) // (2 * lanes)
