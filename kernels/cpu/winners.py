"""Gradients of few-term filters through max pooling of 2 x 2 cells: each window's winner adds its patch of x.

Three quarters of dz are zeros, each channel's in cells of its own.  So a step here is one channel of one window: the
patch of x that its winner sees, times one number.  The lanes of a vector are cells of the filter, not channels::

    row 0 of the patch   [ x0 x1 x2 .. ]  times dz of the channel in all lanes, added to  [ sums of filter row 0 ]
    row 1                [ x0 x1 x2 .. ]                                                  [ sums of filter row 1 ]
      ...

A *piece* of a filter is what one vector holds of a row, which is ``kernel_width * channels`` numbers long; pieces of a
few channels have their sums in registers.  What a vector holds beyond the row is multiplied too, and not looked at; the
last pictures of x are read from a copy with room behind it.

Windows are cut into *slots* with sums of their own, which are added in order; a slot's sums are completed block by
block, for the sake of their last digits.  For every block dz and the places of the winners' patches come first.

With filters of 3 x 3 cells and one channel, a channel of a window takes three multiply-adds and five loads, which are
the bound.  x, dy, y and winner are read once, if a few lines of x fit into the cache.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import RELU
from . import windows
from .builders import constant, keep_loop, multiply_add, spread
from .compiling import INNER, KERNEL
from .processor import REGISTER_BYTES
from .product import lanes
from .threads import share
from .vectors import lanes_of, vectors_of
from .views import behind, flat, part
from .workspace import workspace

# Windows whose sums are complete before they join the slot's, and slots: at most so many.
WINDOW_BLOCK, MOST_SLOTS = 32, 16

# Channels and pieces of a tile, whose sums fill the registers.  The first is for filters with no more and no longer
# pieces than that, in vectors of so many numbers: short ones cross fewer ends of cache lines.
FEW_CHANNELS, FEW_PIECES, SHORT = 5, 3, 4
CHANNELS, PIECES = 2, 6

# Filters at least, where vectors have as many lanes: fewer are left to the general kernels.
MANY_CHANNELS = 8

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def usable(geometry, activation, window, dtype):
    """Whether this computes the gradient of a correlation, of which only the windows' part is left."""
    enough = geometry.out_channels >= max(FEW_CHANNELS, min(lanes(dtype), MANY_CHANNELS))
    fits = WINDOW_BLOCK * math.prod(geometry.input_shape[1:]) < 1 << 31
    return enough and fits and windows.is_shallow(geometry, activation, window)


class Plan(NamedTuple):
    """Places in x, for one correlation and batch size."""

    corners: np.ndarray  # of the windows of as many pictures as make a task, from the first one
    pieces: np.ndarray  # places in a patch; in whole tiles, which the last piece fills
    terms: np.ndarray  # of each piece, the first
    counts: np.ndarray  # of each piece, how many
    steps: tuple  # from a window's corner to its cell on the right, and to that below
    tile_channels: int
    width: int  # numbers in a piece's vector
    some: int  # channels in a vector of dz
    slots: int


@functools.lru_cache(maxsize=256)
def plan(geometry, dtype):
    """The places of a correlation, of which only the windows' part is left."""
    g = geometry
    _, (right, below, *_) = windows.places_of(g)
    height, width = g.out_height // 2, g.out_width // 2
    pictures = min(-(-WINDOW_BLOCK // (height * width)), g.batch)
    corners = windows.corners_of(g, pictures)
    tile_channels, rows, vector = FEW_CHANNELS, FEW_PIECES, SHORT
    pieces = _pieces(g, vector)
    if len(pieces) > rows:
        tile_channels, rows, vector = CHANNELS, PIECES, lanes(dtype)
        pieces = _pieces(g, vector)
    pieces += pieces[-1:] * (-len(pieces) % rows)
    tables = [np.array(table, np.int64) for table in (corners, *zip(*pieces, strict=True))]
    slots = min(-(-g.batch // pictures), MOST_SLOTS)
    some = lanes(dtype) if g.out_channels >= lanes(dtype) else lanes(dtype) // 2
    return Plan(*tables, (right, below), tile_channels, vector, some, slots)


def _pieces(g, vector):
    """``(place in the patch, first term, terms)`` of each piece."""
    # Cells side by side are one run of numbers.
    together = g.kernel_width if g.dilation_width == 1 else 1
    length = together * g.channels
    return [
        (
            a * g.dilation_height * g.width * g.channels + b * g.dilation_width * g.channels + start,
            (a * g.kernel_width + b) * g.channels + start,
            min(vector, length - start),
        )
        for a in range(g.kernel_height)
        for b in range(0, g.kernel_width, together)
        for start in range(0, length, vector)
    ]


def filters_gradient(x, dy, y, winner, geometry, activation, dfilters, dbias):
    """The compiled function and its arguments, as `prepared` wants them."""
    corners, pieces, terms, counts, steps, tile_channels, width, some, slots = plan(geometry, x.dtype)
    channels, picture = geometry.out_channels, geometry.height * geometry.width * geometry.channels
    pictures = corners.size // (dy.shape[1] * dy.shape[2])
    sizes = _sums_size(tile_channels, pieces.size * width, channels, some), WINDOW_BLOCK * channels
    scratch = workspace(slots * sum(sizes) + pictures * picture + width, x.dtype)
    patches = workspace(slots * sizes[1], np.dtype(np.int32))
    return _gradient, (
        x, dy, y, winner, activation, corners, pieces, terms, counts, steps, tile_channels, width, some, slots,
        scratch, patches, dfilters, dbias,
    )  # fmt: skip


def _sums_size(tile_channels, size, channels, some):
    """Numbers of a slot's sums: those of the bias in vectors, then `size` for each channel of each tile."""
    return (channels + some - 1) // some * some + (channels + tile_channels - 1) // tile_channels * (
        tile_channels * size
    )


_inner_sums_size = njit(**INNER)(_sums_size)


def _preparation(parts):
    """The intrinsic that prepares a vector of channels, of which so many fill a register."""

    @intrinsic
    def prepare(typing, dy, y, winner, at, step, corners, right, below, limit, dz, patches, into, sums, bias):
        """dz of a vector of channels of some windows, which is added to the bias's sums, and their winners' patches.

        ``dz = dy * activation'(z)``: up to the value `limit` of y the slope is 0, else 1.
        """
        integer = types.intp

        def code(context, builder, signature, arguments):
            _, _, _, at, step, corners, right, below, limit, _, _, into, _, bias = arguments
            kinds = signature.args
            (read_dy, _), (read_y, _), (read_winner, _), (_, write_dz), (_, write_patch), (read_sums, write_sums) = (
                vectors_of(context, builder, kinds[number], arguments[number], like=kinds[0], parts=parts)
                for number in (0, 1, 2, 9, 10, 12)
            )
            corner_table = context.make_array(kinds[5])(context, builder, corners)
            lanes = REGISTER_BYTES // (kinds[0].dtype.bitwidth // 8) // parts
            vector, integers = ir.VectorType(limit.type, lanes), ir.VectorType(_I32, lanes)
            zero, one, none = constant(vector, 0.0), constant(vector, 1.0), constant(integers, 0)
            limits = spread(builder, limit, lanes)

            def everywhere(place):
                return spread(builder, builder.trunc(place, _I32), lanes)

            ways = [(constant(integers, bit), everywhere(way)) for bit, way in ((1, right), (2, below))]
            total = cgutils.alloca_once_value(builder, zero)
            with cgutils.for_range(builder, builder.extract_value(corner_table.shape, 0), intp=_I64) as loop:
                way = builder.mul(loop.index, step)
                place, target = builder.add(at, way), builder.add(into, way)
                flat = builder.fcmp_ordered("<=", read_y(place), limits)
                gradient = builder.fmul(read_dy(place), builder.select(flat, zero, one))
                write_dz(gradient, target)
                builder.store(builder.fadd(builder.load(total), gradient), total)
                cell = builder.zext(read_winner(place), integers)
                patch = everywhere(builder.load(builder.gep(corner_table.data, [loop.index])))
                for bit, way in ways:
                    there = builder.icmp_unsigned("!=", builder.and_(cell, bit), none)
                    patch = builder.add(patch, builder.select(there, way, none))
                write_patch(patch, target)
            write_sums(builder.fadd(read_sums(bias), builder.load(total)), bias)
            return context.get_dummy_value()

        signature = types.void(
            dy, y, winner, integer, integer, corners, integer, integer, dy.dtype, dz, patches, integer, sums, integer
        )
        return signature, code

    return prepare


_prepare, _prepare_half = _preparation(1), _preparation(2)


def _winners_tile(channels, pieces, width=None):
    """The intrinsic for so many channels and pieces, in vectors of `width` numbers; default: as many as they hold."""

    @intrinsic
    def tile(typing, x, origin, places, piece, patches, dz, at, step, count, sums, into, sums_step):
        """Add the patches of some windows' winners to the sums.

        Parameters
        ----------
        x, origin : array, int
            The pictures that the patches are counted in.
        places, piece : array of int64, int
            The pieces' places in a patch, and the first piece.
        patches, dz, at, step, count : array of int32, array, int, int, int
            Where those of the first window's first channel stand, the way to the next window's, and how many there are.
        sums, into, sums_step : array, int, int
            Where those of the first channel are, and the way to the next one's.
        """
        integer = types.intp
        signature = types.void(
            x, integer, places, integer, patches, dz, integer, integer, integer, sums, integer, integer
        )

        def code(context, builder, signature, arguments):
            _, origin, _, piece, _, _, at, step, count, _, into, sums_step = arguments
            x, places, patches, dz, sums = (
                context.make_array(kind)(context, builder, array).data
                for kind, array in zip(signature.args, arguments, strict=True)
                if isinstance(kind, types.Array)
            )
            size = signature.args[0].dtype.bitwidth // 8
            numbers = width or REGISTER_BYTES // size
            vector = ir.VectorType(x.type.pointee, numbers)

            def vector_at(pointer, place):
                return builder.bitcast(builder.gep(pointer, [place]), vector.as_pointer())

            first, first_patch, first_dz = (
                builder.gep(data, [place]) for data, place in ((x, origin), (patches, at), (dz, at))
            )
            piece_numbers = [builder.add(piece, _I64(number)) for number in range(pieces)]
            rows = [builder.gep(first, [builder.load(builder.gep(places, [number]))]) for number in piece_numbers]
            zero = constant(vector, 0.0)
            totals = [[cgutils.alloca_once_value(builder, zero) for _ in rows] for _ in range(channels)]
            with cgutils.for_range(builder, count, intp=_I64) as loop:
                way = builder.mul(loop.index, step)
                for channel, line in enumerate(totals):
                    place = builder.add(way, _I64(channel))
                    patch = builder.sext(builder.load(builder.gep(first_patch, [place])), _I64)
                    gradient = spread(builder, builder.load(builder.gep(first_dz, [place])), numbers)
                    for row, total in zip(rows, line, strict=True):
                        pixels = builder.load(vector_at(row, patch), align=size)
                        builder.store(multiply_add(builder, pixels, gradient, builder.load(total)), total)
                keep_loop(builder)
            for channel, line in enumerate(totals):
                start = builder.add(into, builder.mul(sums_step, _I64(channel)))
                for number, total in zip(piece_numbers, line, strict=True):
                    target = vector_at(sums, builder.add(start, builder.mul(number, _I64(numbers))))
                    result = builder.fadd(builder.load(target, align=size), builder.load(total))
                    builder.store(result, target, align=size)
            return context.get_dummy_value()

        return signature, code

    return tile


_few_pieces_tile = _winners_tile(FEW_CHANNELS, FEW_PIECES, SHORT)
_pieces_tile = _winners_tile(CHANNELS, PIECES)


@njit(**KERNEL)
def _gradient(
    x, dy, y, winner, activation, corners, pieces, terms, counts, steps, tile_channels, width, some, slots,
    scratch, patches, dfilters, dbias,
):  # fmt: skip
    channels = dbias.size
    arguments = (
        x, dy, y, winner, activation, corners, pieces, steps, tile_channels, width, some, slots, scratch, patches,
    )  # fmt: skip
    share(_add_slots, arguments, slots, dy.size * pieces.size * lanes_of(x))
    size = _inner_sums_size(tile_channels, pieces.size * width, channels, some)
    for slot in range(1, slots):
        for place in range(size):
            scratch[place] += scratch[slot * size + place]
    gradient, place = flat(dfilters), 0
    for start in range(0, channels, some):
        shift = min(start, channels - some)
        for channel in range(shift, shift + some):
            dbias[channel] = scratch[place]
            place += 1
    for tile in range(0, channels, tile_channels):
        start = min(tile, channels - tile_channels)
        for channel in range(start, start + tile_channels):
            for piece in range(pieces.size):
                for k in range(counts[piece]):
                    gradient[(terms[piece] + k) * channels + channel] = scratch[place + k]
                place += width


@njit(**INNER)
def _add_slots(
    first, last, worker, x, dy, y, winner, activation, corners, pieces, steps, tile_channels, width, some, slots,
    scratch, patches,
):  # fmt: skip
    right, below = steps
    limit = x.dtype.type(0) if activation == RELU else x.dtype.type(np.nan)
    batch, height, width_of_y, channels = dy.shape
    area = height * width_of_y
    pictures, picture_size = corners.size // area, x.size // batch
    tasks = (batch + pictures - 1) // pictures
    channel_size = pieces.size * width
    size = _inner_sums_size(tile_channels, channel_size, channels, some)
    sources, given, values, winners = flat(x), flat(dy), flat(y), flat(winner)
    dz = behind(scratch, slots * size)
    copy = slots * (size + WINDOW_BLOCK * channels)
    for slot in range(first, last):
        own = slot * WINDOW_BLOCK * channels
        scratch[slot * size : (slot + 1) * size] = 0
        for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
            picture = task * pictures
            count = min(pictures, batch - picture) * area
            pixels, origin = sources, picture * picture_size
            if task == tasks - 1:
                for place in range(x.size - origin):
                    scratch[copy + place] = sources[origin + place]
                for place in range(copy + x.size - origin, copy + x.size - origin + width):
                    scratch[place] = 0
                pixels, origin = scratch, copy
            for begin in range(0, count, WINDOW_BLOCK):
                corner = part(corners, begin, min(WINDOW_BLOCK, count - begin))
                at, into = (picture * area + begin) * channels, slot * size
                for start in range(0, channels, some):
                    shift = min(start, channels - some)
                    if some == lanes_of(x):
                        _prepare(
                            given, values, winners, at + shift, channels, corner, right, below, limit,
                            dz, patches, own + shift, scratch, into,
                        )  # fmt: skip
                    else:
                        _prepare_half(
                            given, values, winners, at + shift, channels, corner, right, below, limit,
                            dz, patches, own + shift, scratch, into,
                        )  # fmt: skip
                    into += some
                for tile in range(0, channels, tile_channels):
                    at = own + min(tile, channels - tile_channels)
                    if tile_channels == FEW_CHANNELS:
                        _few_pieces_tile(
                            pixels, origin, pieces, 0, patches, dz, at, channels, corner.size,
                            scratch, into, channel_size,
                        )  # fmt: skip
                    else:
                        for piece in range(0, pieces.size, PIECES):
                            _pieces_tile(
                                pixels, origin, pieces, piece, patches, dz, at, channels, corner.size,
                                scratch, into, channel_size,
                            )  # fmt: skip
                    into += tile_channels * channel_size
