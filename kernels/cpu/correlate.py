"""2D cross-correlation and its two gradients.

Forward, with ``u = i s - p + a d`` and ``v`` likewise the input cell under filter cell
``(a, b)`` at output ``(i, j)``::

    y[n, i, j, f] = activation( bias[f] + sum_{a, b, c} x[n, u, v, c] filters[a, b, c, f] )

With ``dz = dy * activation'(z)``, the gradients are products with the same (Toeplitz)
view of `x`::

    dfilters[a, b, c, f] = sum_{n, i, j} x[n, u, v, c] dz[n, i, j, f]
    dbias[f]             = sum_{n, i, j} dz[n, i, j, f]
    dx[n, u, v, c]       = sum_{a, b, f} dz[n, i, j, f] filters[a, b, c, f]

Goodfellow, Bengio and Courville, "Deep Learning" (2016), section 9.5.

All three are products of a matrix that only tables of offsets describe (`plan`) with a matrix of numbers (`product`)::

                             rows of A       columns of A         B                    C
    forward                  output pixels   cells of a filter    filters              y
    gradient by input        input pixels    cells of a filter    filters, turned      dx
    gradient by filters      filter cells    output pixels        dz                   dfilters

B is copied into panels first, of which the tile reads one from end to end.  A filter's gradient has few entries, each
the sum over all pixels: the pixels are cut into *slots*, each with sums of its own, which are then added in order.
Where channels and filters are enough for it, each panel of dz is copied when it is its turn (`beside`).

Filters of 3 x 3 or 5 x 5 with many channels are computed with fewer multiplications (`winograd`) where that is
estimated to be faster.  Filters three cells wide whose channels do not mix take fewer loads (`sliding`, and their
gradient by filters `sliding_filters`), and filters of one cell no tables (`pointwise`).
"""

import numpy as np
from numba import njit

from ..formulas import LINEAR, RELU
from . import narrow, pointwise, sliding, sliding_filters, winograd, winograd_input
from .beside import product_beside
from .compiling import INNER, KERNEL
from .epilogue import NO_WINDOW, finish, make_dz
from .parts import over_samples
from .plan import PIXEL_BLOCK, forward_plan, input_gradient_plan, numbers_of, phases_of
from .pool import largest_of_windows
from .prepared import prepared
from .processor import REGISTER_BYTES
from .product import pack_panel, panel_start, product, product_lanewise
from .threads import share
from .vectors import add_narrow_rows, add_rows, copy_and_add_rows, lanes_of
from .views import part
from .workspace import LINE_BYTES, NO_WINNERS, workspace


@prepared
def correlate2d(x, filters, bias, geometry, activation, alpha, y):
    """Forward."""
    return forward(x, filters, bias, geometry, activation, alpha, NO_WINDOW, y, NO_WINNERS)


@prepared
def correlate2d_gradient_input(dy, y, filters, geometry, activation, alpha, dx):
    """Gradient by input: the correlation of dz with the turned filters, for each phase of the strides."""
    return input_gradient(dy, y, NO_WINNERS, filters, geometry, activation, alpha, NO_WINDOW, dx)


@over_samples
def correlate2d_gradient_filters(x, dy, y, geometry, activation, alpha, dfilters, dbias):
    """Gradient by filters and bias."""
    return filters_gradient(x, dy, y, NO_WINNERS, geometry, activation, alpha, NO_WINDOW, dfilters, dbias)


# With a window of max pooling that comes after, y, dy and winner are the pooling's: see `correlate_pool`.


def forward(x, filters, bias, geometry, activation, alpha, window, y, winner):
    """The compiled function and its arguments, as `prepared` wants them."""
    tile = winograd.choose(geometry, x.dtype, window=window)
    if tile:
        return winograd.correlate2d.prepare(x, filters, bias, geometry, activation, alpha, y, tile, window, winner)
    if window == NO_WINDOW and sliding.usable(geometry, x.dtype):
        return sliding.correlate2d.prepare(x, filters, bias, geometry, activation, alpha, y)
    if window == NO_WINDOW and pointwise.usable(geometry):
        return pointwise.correlate2d.prepare(x, filters, bias, geometry, activation, alpha, y)
    plan = forward_plan(geometry, x.dtype, window=window)
    scratch = workspace(plan.scratch, x.dtype)
    return _correlate, (
        x, x, winner, LINEAR, 0.0, filters, False, bias, activation, alpha, y, plan.tables, scratch, plan.zeros,
        plan.by_lanes,
    )  # fmt: skip


def input_gradient(dy, y, winner, filters, geometry, activation, alpha, window, dx):
    """The same for the gradient by input."""
    tile, of_outputs = winograd.choose_for_input(geometry, dx.dtype)
    if of_outputs:
        return winograd_input.correlate2d_gradient_input.prepare(
            dy, y, filters, geometry, activation, alpha, dx, tile, window, winner
        )
    if tile:
        return winograd.correlate2d_gradient_input.prepare(
            dy, y, filters, geometry, activation, alpha, dx, tile, window, winner
        )
    special = None if window != NO_WINDOW else _special_for_input(geometry, dx.dtype)
    if special:
        return special.correlate2d_gradient_input.prepare(dy, y, filters, geometry, activation, alpha, dx)
    plan = input_gradient_plan(geometry, dx.dtype, window)
    scratch = workspace(plan.scratch, dx.dtype)
    none = plan.zeros
    return _correlate, (
        dy, y, winner, activation, alpha, filters, True, none, LINEAR, 0.0, dx, plan.tables, scratch, none,
        plan.by_lanes,
    )  # fmt: skip


def _special_for_input(geometry, dtype):
    """The module that computes such a gradient by input best without pooling, if it is not this one."""
    if sliding.usable(geometry, dtype):
        return sliding
    if pointwise.usable(geometry):
        return pointwise
    return narrow if narrow.usable(geometry, dtype) else None


def filters_gradient(x, dy, y, winner, geometry, activation, alpha, window, dfilters, dbias):
    """The same for the gradient by filters."""
    tile = winograd.choose(geometry, x.dtype, "filters")
    if tile:
        return winograd.correlate2d_gradient_filters.prepare(
            x, dy, y, geometry, activation, alpha, dfilters, dbias, tile, window, winner
        )
    if sliding_filters.usable(geometry, x.dtype):
        return sliding_filters.filters_gradient(x, dy, y, winner, geometry, activation, alpha, window, dfilters, dbias)
    plan = forward_plan(geometry, x.dtype, False, window)
    scratch = workspace(plan.scratch, x.dtype)
    return _correlate_gradient_filters, (
        x, dy, y, winner, activation, alpha, dfilters, dbias, plan.tables, plan.slots, scratch, plan.zeros,
        plan.by_lanes,
    )  # fmt: skip


# ------------------------------------------------------------------ forward and gradient by input


@njit(**KERNEL)
def _correlate(
    source, values, winner, slope, slope_alpha, filters, turned, bias, activation, alpha, target,
    tables, scratch, none, lanewise,
):  # fmt: skip
    """Target from source: both directions.

    `values` gives the slopes by which the source is multiplied first.  With max pooling, `winner` belongs to the target
    forward, and to the source backward.
    """
    plan = numbers_of(tables)
    packed, rest = scratch[: plan.packed_size], scratch[plan.packed_size :]
    panels = plan.groups * plan.target_panels
    share(_pack_filters, (filters.reshape(-1), turned, packed, tables), panels, packed.size)
    work = plan.batch * plan.target_height * plan.target_width * filters.size
    share(
        _correlate_tasks,
        (
            source.reshape(-1), values.reshape(-1), winner.reshape(-1), slope, slope_alpha, packed, bias,
            activation, alpha, target.reshape(-1), tables, rest, none, lanewise, turned,
        ),
        plan.tasks,
        work,
    )  # fmt: skip


@njit(**INNER)
def _pack_filters(first, last, worker, filters, turned, packed, tables):
    """Copy the filters into panels: a task is one panel of one group."""
    plan = numbers_of(tables)
    lanes = REGISTER_BYTES // packed.itemsize
    channels, targets = plan.group_channels, plan.group_targets
    turned = turned and not plan.lanewise
    outputs = plan.groups * (channels if turned else targets)
    for task in range(first, last):
        group, panel = divmod(task, plan.target_panels)
        start = panel_start(panel, max(targets, lanes), lanes)
        width = min(2 * lanes, targets - start)
        place = task * plan.depth * 2 * lanes
        for tap in range(plan.depth // channels):
            origin = (tap * targets + start) * outputs + group * channels
            if not turned:
                origin = tap * channels * outputs + group * targets + start
            pack_panel(filters, origin, outputs, channels, width, turned, packed, place)
            place += channels * 2 * lanes


@njit(**INNER)
def _correlate_tasks(
    first, last, worker, source, values, winner, slope, slope_alpha, packed, bias, activation, alpha, target,
    tables, scratch, none, lanewise, backward,
):  # fmt: skip
    plan = numbers_of(tables)
    window, unpooled = (plan.pool_height, plan.pool_width), (plan.unpool_height, plan.unpool_width)
    lanes = lanes_of(source)
    lowest = source.dtype.type(-np.inf)
    floor = source.dtype.type(0) if activation == RELU else lowest
    own = worker * plan.scratch_of_worker
    wide = own + plan.scratch_size
    between = wide + plan.wide_size
    width = plan.group_targets
    line_size = plan.target_width * plan.target_channels
    for task in range(first, last):
        chunk, band = divmod(task, plan.bands)
        picture = chunk * plan.pictures
        pictures = min(plan.pictures, plan.batch - picture)
        line = picture * plan.height + band * plan.lines * plan.line_step
        if plan.scratch_lines:
            _copy_part(
                source, values, winner, unpooled, slope, slope_alpha, picture, pictures, band, scratch, own, plan
            )  # fmt: skip
            a, a_origin = scratch, own
        else:
            a, a_origin = source, line * plan.width * plan.channels
            if slope != LINEAR or unpooled[0]:
                end = min(line + pictures * plan.copied_lines, plan.batch * plan.height)
                make_dz(
                    source, values, winner, unpooled, plan.width, plan.channels, line * plan.width,
                    (end - line) * plan.width, slope, slope_alpha, scratch, own,
                )  # fmt: skip
                a, a_origin = scratch, own
        # What is to be pooled is written to scratch memory, which starts with the first line of the task.
        first_line = picture * plan.target_height + band * plan.lines * plan.target_line_step
        cells, cells_origin = target, first_line * line_size
        if window[0]:
            cells, cells_origin = scratch, between
        fetched, ahead = source, line * plan.width * plan.channels + plan.ahead
        if backward:
            fetched, ahead = target, cells_origin + plan.ahead
        for phase in phases_of(tables):
            # The part of its lines that lies in the band, and how much farther down it begins than a band does.
            begin = max(band * plan.lines - phase.first, 0)
            lines = min((band + 1) * plan.lines - phase.first, phase.lines) - begin
            if lines <= 0:
                continue
            down = begin - band * plan.lines
            count = pictures * lines * phase.pixels
            rows = part(tables, phase.rows, count)
            columns = part(tables, phase.columns, phase.depth)
            places = part(tables, phase.targets, count)
            a_place = a_origin + down * plan.line_step * (plan.scratch_width or plan.width) * plan.channels
            target_line = phase.line + down * plan.target_line_step
            origin = cells_origin + target_line * line_size + phase.column * plan.target_channels
            b_rows, fours = part(tables, phase.b_rows, phase.depth), phase.fours != 0
            panel = plan.depth * 2 * lanes
            for group in range(plan.groups):
                b = group * plan.target_panels * panel
                shift = group * width
                if lanewise is not None:
                    product_lanewise(
                        a, a_place, rows, columns, packed, b, b_rows, panel,
                        bias, floor, cells, origin, places, np.intp(0), width, bool(0),
                    )  # fmt: skip
                elif width >= lanes:
                    ahead = product(
                        a, a_place + group * plan.group_channels, rows, columns, packed, b, b_rows, fours, panel,
                        part(bias, shift, width), floor, cells, origin + shift, places, np.intp(0), width, bool(0),
                        fetched, ahead, plan.ahead_step,
                    )  # fmt: skip
                else:
                    product(
                        a, a_place + group * plan.group_channels, rows, columns, packed, b, b_rows, fours, panel,
                        none, lowest, scratch, wide, part(tables, plan.wide_rows, count), np.intp(0), lanes, bool(0),
                        fetched, ahead, np.intp(0),
                    )  # fmt: skip
                    for row in range(count):
                        for f in range(width):
                            result = scratch[wide + row * 2 * lanes + f] + bias[shift + f]
                            cells[origin + places[row] + shift + f] = floor if result < floor else result
        lines = pictures * min(plan.lines * plan.target_line_step, plan.target_height - band * plan.lines)
        if activation > RELU:
            finish(cells, cells_origin, cells_origin + lines * line_size, activation, alpha)
        if window[0]:
            for line in range(lines // window[0]):
                largest_of_windows(
                    cells, cells_origin + line * window[0] * line_size, line_size, plan.target_channels, window,
                    plan.target_width // window[1], plan.target_channels,
                    target, winner, (first_line // window[0] + line) * (line_size // window[1]), plan.target_channels,
                )  # fmt: skip


@njit(**INNER)
def _copy_part(source, values, winner, window, slope, alpha, picture, pictures, band, scratch, own, plan):
    """A task's part of the source, times the slopes of an activation, with zeros around it."""
    channels = plan.channels
    line_size = plan.scratch_width * channels
    left = min(max(-plan.first_column, 0), plan.scratch_width)
    first_column = max(plan.first_column, 0)
    inside = max(min(plan.width - first_column, plan.scratch_width - left), 0)
    place = own
    for n in range(picture, picture + pictures):
        first_line = band * plan.lines * plan.line_step + plan.first_line
        for line in range(first_line, first_line + plan.scratch_lines):
            if 0 <= line < plan.height:
                part(scratch, place, left * channels)[:] = 0
                make_dz(
                    source, values, winner, window, plan.width, channels,
                    (n * plan.height + line) * plan.width + first_column, inside,
                    slope, alpha, scratch, place + left * channels,
                )  # fmt: skip
                rest = (left + inside) * channels
                part(scratch, place + rest, line_size - rest)[:] = 0
            else:
                part(scratch, place, line_size)[:] = 0
            place += line_size


# ------------------------------------------------------------------ gradient by filters


@njit(**KERNEL)
def _correlate_gradient_filters(
    x, dy, y, winner, activation, alpha, dfilters, dbias, tables, slots, scratch, none, lanewise
):
    plan = numbers_of(tables)
    sums, rest = scratch[: slots * plan.slot_size], scratch[slots * plan.slot_size :]
    work = plan.batch * plan.target_height * plan.target_width * dfilters.size
    share(
        _add_slots,
        (
            x.reshape(-1), dy.reshape(-1), y.reshape(-1), winner.reshape(-1), activation, alpha, sums,
            tables, slots, rest, none, lanewise,
        ),
        slots,
        work,
    )  # fmt: skip
    share(_add_up, (sums, dfilters.reshape(-1), dbias, tables, slots), plan.depth + 1, slots * plan.slot_size)


@njit(**INNER)
def _add_slots(first, last, worker, x, dy, y, winner, activation, alpha, sums, tables, slots, scratch, none, lanewise):
    """Each slot's sums over its pixels: panels of dfilters, then dbias."""
    plan, phase = numbers_of(tables), phases_of(tables)[0]
    lanes = REGISTER_BYTES // x.itemsize
    lowest = x.dtype.type(-np.inf)
    no_window, zero = (np.int64(0), np.int64(0)), np.intp(0)
    own = worker * plan.scratch_of_slot
    dz = own + plan.scratch_size
    packed_dz = dz + PIXEL_BLOCK * plan.target_channels
    window = plan.unpool_height, plan.unpool_width
    width = max(plan.group_targets, lanes)
    c_panel = plan.depth * 2 * lanes
    c_group = plan.target_panels * c_panel
    columns = tables[phase.columns : phase.columns + plan.depth]
    places = tables[plan.wide_rows : plan.wide_rows + plan.depth]
    dz_rows = tables[plan.dz_rows : plan.dz_rows + PIXEL_BLOCK]
    for slot in range(first, last):
        c = slot * plan.slot_size
        started = False
        for task in range(slot * plan.tasks // slots, (slot + 1) * plan.tasks // slots):
            part, band = divmod(task, plan.bands)
            picture = part * plan.pictures
            pictures = min(plan.pictures, plan.batch - picture)
            count = pictures * min(plan.lines, plan.target_height - band * plan.lines) * plan.target_width
            rows = tables[phase.rows : phase.rows + count]
            if plan.scratch_lines:
                _copy_part(
                    x, x, winner, no_window, np.int64(LINEAR), alpha, picture, pictures, band, scratch, own, plan
                )  # fmt: skip
                a, a_origin = scratch, own
            else:
                line = picture * plan.height + band * plan.lines * plan.line_step
                a, a_origin = x, line * plan.width * plan.channels
            pixel = (picture * plan.target_height + band * plan.lines) * plan.target_width
            blocks = (count + PIXEL_BLOCK - 1) // PIXEL_BLOCK
            for block in range(blocks):
                begin, end = block * count // blocks, (block + 1) * count // blocks
                given, given_origin = scratch, dz
                if plan.dz_panel and activation == LINEAR and not window[0]:
                    given, given_origin = dy, (pixel + begin) * plan.target_channels
                else:
                    make_dz(
                        dy, y, winner, window, plan.target_width, plan.target_channels, pixel + begin, end - begin,
                        activation, alpha, scratch, dz,
                    )  # fmt: skip
                if plan.beside:
                    _add_block_beside(
                        a, a_origin, columns, rows[begin:end], given, given_origin, scratch, packed_dz,
                        sums, c, started,
                        x, pixel + begin + (count if plan.scratch_lines else end - begin), dy, pixel + end, plan,
                    )  # fmt: skip
                    started = True
                    continue
                _sum_up(given, given_origin, end - begin, sums, c + plan.bias_sums, started, plan)
                if plan.dz_panel:
                    _pack_dz(given, given_origin, end - begin, scratch, packed_dz, plan)
                for group in range(plan.groups):
                    b = dz + group * plan.group_targets
                    if plan.dz_panel:
                        b = packed_dz + group * plan.target_panels * plan.dz_panel
                    if lanewise is not None:
                        product_lanewise(
                            a, a_origin, columns, rows[begin:end], scratch, b, dz_rows, zero,
                            none, lowest, sums, c, places, c_panel, width, started,
                        )  # fmt: skip
                    else:
                        product(
                            a, a_origin + group * plan.group_channels, columns, rows[begin:end],
                            scratch, b, dz_rows, bool(0), plan.dz_panel,
                            none, lowest, sums, c + group * c_group, places, c_panel, width, started,
                            None, zero, zero,
                        )  # fmt: skip
                started = True


@njit(**INNER)
def _add_block_beside(
    a, a_origin, columns, rows, dz, dz_origin, packed, into, sums, c, add, x, x_pixel, dy, dy_pixel, plan
):  # fmt: skip
    """What the pixels of a block give to their slot's sums, by panels of dz; see `beside`."""
    lanes = lanes_of(x)
    x_place, x_step = _ahead(x, x_pixel, rows.size, plan)
    dy_place, dy_step = _ahead(dy, dy_pixel, rows.size, plan)
    bias_sums = c + plan.bias_sums
    for group in range(plan.groups):
        for _ in range(plan.target_panels):
            for lane in range(0, 2 * lanes, lanes):
                copy_and_add_rows(
                    dz, dz_origin + lane, plan.target_channels, rows.size, packed, into + lane, 2 * lanes,
                    sums, bias_sums + lane, add,
                )  # fmt: skip
            x_place, dy_place = product_beside(
                a, a_origin + group * plan.group_channels, columns, rows, packed, into, sums, c, add,
                x, x_place, x_step, dy, dy_place, dy_step,
            )  # fmt: skip
            dz_origin += 2 * lanes
            bias_sums += 2 * lanes
            c += plan.depth * 2 * lanes


@njit(**INNER)
def _ahead(x, pixel, count, plan):
    """Where the part of x (or dy) begins that belongs to `count` pixels, and in which steps it is to be fetched."""
    pixels = plan.batch * plan.target_height * plan.target_width
    numbers = x.size * count // pixels
    return x.size * pixel // pixels, min(numbers // (plan.tiles * count) + 1, LINE_BYTES // x.itemsize)


@njit(**INNER)
def _sum_up(dz, place, count, sums, into, add, plan):
    """The sums of dz over some pixels, which are the bias' gradient."""
    channels, lanes = plan.target_channels, lanes_of(dz)
    whole = channels - channels % lanes
    for f in range(0, whole, lanes):
        add_rows(dz, place + f, channels, count, lanes, sums, into + f, add)
    if whole < channels:
        add_narrow_rows(dz, place + whole, channels, count, channels - whole, sums, into + whole, add)


@njit(**INNER)
def _pack_dz(dz, place, count, packed, into, plan):
    """Copy dz of some pixels into panels of each group."""
    lanes = lanes_of(dz)
    width = plan.group_targets
    for group in range(plan.groups):
        for panel in range(plan.target_panels):
            start = panel_start(panel, max(width, lanes), lanes)
            pack_panel(
                dz, place + group * width + start, plan.target_channels, count, min(2 * lanes, width - start), bool(0),
                packed, into,
            )  # fmt: skip
            into += plan.dz_panel


@njit(**INNER)
def _add_up(first, last, worker, sums, dfilters, dbias, tables, slots):
    """Add the slots in order: a task is one row of the filters' gradient; the last one is the bias."""
    plan = numbers_of(tables)
    lanes = REGISTER_BYTES // sums.itemsize
    panel_size = plan.depth * 2 * lanes
    outputs = plan.groups * plan.group_targets
    for row in range(first, last):
        if row == plan.depth:
            dbias[:] = 0
            for slot in range(slots):
                origin = slot * plan.slot_size + plan.bias_sums
                for f in range(outputs):
                    dbias[f] += sums[origin + f]
            continue
        for group in range(plan.groups):
            for panel in range(plan.target_panels):
                start = panel_start(panel, max(plan.group_targets, lanes), lanes)
                width = min(2 * lanes, plan.group_targets - start)
                place = (group * plan.target_panels + panel) * panel_size + row * 2 * lanes
                into = row * outputs + group * plan.group_targets + start
                gradient = dfilters[into : into + width]
                gradient[:] = 0
                for slot in range(slots):
                    part = sums[place + slot * plan.slot_size : place + slot * plan.slot_size + width]
                    for lane in range(width):
                        gradient[lane] += part[lane]
