"""3 x 3 correlations with fewer multiplications, by Winograd's minimal filtering.

A correlation is, per pair of channel and filter, a polynomial product in disguise; and polynomials may be multiplied by
their values at a few points.  For a *tile* of m x m outputs, which see (m + 2) x (m + 2) inputs d, and filters g::

    y = A^T [ (G g G^T) * (B^T d B) ] A          * : position by position

A position is one pair of points, and there the channels are summed up, which is a product of matrices as always, of all
tiles with all filters::

      inputs              V[position][tile][channel]     M[position][tile][filter]           outputs
    +---------+           +-----+                        +-----+                             +-----+
    | d d d d |  B^T d B  | V   | x U[position]    =     | M   |       A^T M A + bias        | y y |
    | d d d d |  ------>  |     |  [channel][filter]     |     |       ------------->        | y y |
    | d d d d |           +-----+                        +-----+                             +-----+
    | d d d d |             16 of them                     16 of them
    +---------+

For m = 2 these are 16 multiplications in place of 36, for m = 4 36 in place of 144.  The transforms only add and
multiply by constants, some tens of operations for each channel of a tile: they pay where filters and channels are many.
Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016).

A task is a block of tiles small enough for V to stay in the second-level cache, of which all filters are computed, one
panel after the other.  Tiles are numbered through all pictures, so that small pictures leave no ragged block.  Where
the last tiles of a line or column reach beyond the target, what lies there is computed and not stored.

The gradient by input is the same correlation of dz, with the filters turned round and padding 2 - pad.  The gradient by
filters goes the way back, with tiles of dz; the sums over all tiles are products too, one for each position::

    dM = A dz A^T        dU = V^T dM        dfilters = G^T dU G

Accuracy: the transforms' sums cancel, the more the larger the tile.  `ERRORS` bounds how far results in float32 are off
the exact ones, relative to the largest of them: an error is as large as the numbers of its tile, also where an output
itself is small.  The points at which polynomials are taken matter: 0, 1, -1, 2, -2, which are mostly used for m = 4,
cost two more binary digits than those below.  Barabasz and others, "Error analysis and improving the accuracy of
Winograd convolution for deep neural networks" (2020).

Special values: a NaN or an infinity in the input may make any output of the tiles that see it NaN; in the direct sum,
only the outputs which see it themselves.  In a filter, either reaches the same outputs in both, but may arrive as NaN.

``GPUCONV_WINOGRAD``, or `set_winograd`, says which tiles are used: ``auto``, 0 for none, 2 or 4.
"""

import functools
import os
from fractions import Fraction

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import LINEAR, RELU
from .epilogue import NO_WINDOW, finish, make_dz
from .pool import largest_of_windows
from .prepared import prepared
from .product import lanes, pack_panel, panel_start, panels, product, steps
from .simd import FUSED, REGISTER_BYTES, WIDE_ROWS, copy_vector
from .threads import WORKERS, share
from .workspace import NO_WINNERS, workspace, zeros

# ------------------------------------------------------------------ the matrices


def _matrices(points):
    """B^T, G and A^T for a filter of three cells: values at the points and, for the highest power, at infinity.

    Row p of B^T is the product of ``x - q`` over the other points q, whose value at p divides row p of G; the last row
    of B^T is the product over all points.
    """
    size = len(points) + 1

    def product_over(others):
        coefficients = [Fraction(1)]
        for point in others:
            shifted, scaled = [Fraction(0), *coefficients], [-point * c for c in coefficients] + [Fraction(0)]
            coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
        return coefficients + [Fraction(0)] * (size - len(coefficients))

    inputs, filters = [], []
    for point in points:
        polynomial = product_over([other for other in points if other != point])
        value = sum(c * point**power for power, c in enumerate(polynomial))
        inputs.append(polynomial)
        filters.append([point**power / value for power in range(3)])
    inputs.append(product_over(points))
    filters.append([Fraction(0), Fraction(0), Fraction(1)])
    outputs = [[*(point**power for point in points), Fraction(power == size - 3)] for power in range(size - 2)]
    return tuple(tuple(tuple(map(float, row)) for row in matrix) for matrix in (inputs, filters, outputs))


# A point and its negative stand side by side: their rows differ by signs alone.  All entries of B^T and A^T are exact.
_INPUTS_2, _FILTERS_2, _OUTPUTS_2 = _matrices([Fraction(p) for p in ("0", "1", "-1")])
_INPUTS_4, _FILTERS_4, _OUTPUTS_4 = _matrices([Fraction(p) for p in ("0", "3/4", "-3/4", "3/2", "-3/2")])

# ------------------------------------------------------------------ transforms, for as many channels as a vector holds


def _transform(matrix):
    """The intrinsic for ``Y = M X M^T``, where each entry of the square X is a vector."""

    @intrinsic
    def transform(typing, source, place, line, pixel, target, into, target_line, target_pixel):
        """Entry (i, j) of X is at ``place + i line + j pixel`` of the source, that of Y likewise of the target."""

        def code(context, builder, signature, arguments):
            _write_square(context, builder, signature, arguments, matrix, lambda vector: lambda result: result)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(source, integer, integer, integer, target, integer, integer, integer), code

    return transform


def _transform_and_finish(matrix):
    """The same, with a vector of the bias added to each entry of Y; what is below the floor then becomes it."""

    @intrinsic
    def transform(
        typing, source, place, line, pixel, target, into, target_line, target_pixel, bias, bias_place, floor
    ):  # fmt: skip
        def code(context, builder, signature, arguments):
            def finishing(vector):
                data = context.make_array(bias)(context, builder, arguments[8]).data
                pointer = builder.bitcast(builder.gep(data, [arguments[9]]), vector.as_pointer())
                addend = builder.load(pointer, align=bias.dtype.bitwidth // 8)
                empty, mask = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), vector.count)
                lowest = builder.insert_element(empty, arguments[10], ir.Constant(ir.IntType(32), 0))
                lowest = builder.shuffle_vector(lowest, empty, ir.Constant(mask, None))

                def finish(result):
                    result = builder.fadd(result, addend)
                    return builder.select(builder.fcmp_ordered("<", result, lowest), lowest, result)

                return finish

            _write_square(context, builder, signature, arguments, matrix, finishing)
            return context.get_dummy_value()

        integer = types.intp
        signature = types.void(
            source, integer, integer, integer, target, integer, integer, integer, bias, integer, source.dtype
        )
        return signature, code

    return transform


def _write_square(context, builder, signature, arguments, matrix, finishing):
    """Emit the code of a transform; ``finishing(vector_type)`` is a function that each result goes through."""
    pointers = {
        number: context.make_array(signature.args[number])(context, builder, arguments[number]).data
        for number in (0, 4)
    }
    size = signature.args[0].dtype.bitwidth // 8
    vector = ir.VectorType(pointers[0].type.pointee, REGISTER_BYTES // size)
    finish = finishing(vector)

    def entry(number, i, j):
        _, place, line, pixel = arguments[number : number + 4]
        for step, count in ((line, i), (pixel, j)):
            place = builder.add(place, builder.mul(step, ir.Constant(step.type, count)))
        return builder.bitcast(builder.gep(pointers[number], [place]), vector.as_pointer())

    cells = range(len(matrix[0]))
    columns = [_times(builder, matrix, [builder.load(entry(0, i, j), align=size) for i in cells]) for j in cells]
    for i in range(len(matrix)):
        for j, result in enumerate(_times(builder, matrix, [column[i] for column in columns])):
            builder.store(finish(result), entry(4, i, j), align=size)


def _times(builder, matrix, values):
    """A matrix times a column of vectors: only terms that are not zero, and what two rows or columns share once."""
    # Columns of p^i and (-p)^i: sum and difference of their values serve the even and the odd rows.
    even, odd = list(enumerate(values)), list(enumerate(values))
    column = 0
    while column + 1 < len(values):
        if all(row[column] * (-1) ** i == row[column + 1] for i, row in enumerate(matrix)):
            pair = values[column], values[column + 1]
            for terms, operation in ((even, builder.fadd), (odd, builder.fsub)):
                terms[column : column + 2] = [(column, operation(*pair)), None]
            column += 1
        column += 1
    results = []
    while len(results) < len(matrix):
        i = len(results)
        row = matrix[i]
        terms = [(row[term[0]], *term) for term in (odd if i % 2 else even) if term and row[term[0]]]
        if i + 1 < len(matrix) and matrix[i + 1] == tuple(c * (-1) ** j for j, c in enumerate(row)):
            # Rows of p and -p: sum and difference of their even and odd terms.
            parts = [_sum(builder, [(c, value) for c, j, value in terms if j % 2 == parity]) for parity in (0, 1)]
            results += [builder.fadd(*parts), builder.fsub(*parts)]
        else:
            results.append(_sum(builder, [(c, value) for c, _, value in terms]))
    return results


def _sum(builder, terms):
    """Sum of coefficients times vectors, those of coefficient 1 first."""
    (first, total), *rest = sorted(terms, key=lambda term: (term[0] != 1, term[0] != -1))
    vector = total.type

    def constant(number):
        return ir.Constant(vector, [number] * vector.count)

    if first != 1:
        total = builder.fmul(total, constant(first))
    for coefficient, value in rest:
        if coefficient == 1:
            total = builder.fadd(total, value)
        elif coefficient == -1:
            total = builder.fsub(total, value)
        elif FUSED:
            bits = {"float": 32, "double": 64}[str(vector.element)]
            function = ir.FunctionType(vector, [vector] * 3)
            fused = cgutils.get_or_insert_function(builder.module, function, f"llvm.fma.v{vector.count}f{bits}")
            total = builder.call(fused, [value, constant(coefficient), total])
        else:
            total = builder.fadd(total, builder.fmul(value, constant(coefficient)))
    return total


def _turned(matrix):
    return tuple(zip(*matrix, strict=True))


inputs_2, filters_2, outputs_2 = _transform(_INPUTS_2), _transform(_FILTERS_2), _transform_and_finish(_OUTPUTS_2)
inputs_4, filters_4, outputs_4 = _transform(_INPUTS_4), _transform(_FILTERS_4), _transform_and_finish(_OUTPUTS_4)
# The gradients of the last two.
gradients_2, filter_gradients_2 = _transform(_turned(_OUTPUTS_2)), _transform(_turned(_FILTERS_2))
gradients_4, filter_gradients_4 = _transform(_turned(_OUTPUTS_4)), _transform(_turned(_FILTERS_4))

# ------------------------------------------------------------------ which tile

# Bounds of the error in float32, relative to the largest output, for both sizes of tiles.  With 32 to 512 channels and
# normally distributed numbers it is 1.0e-6 and 3.7e-6 at most; that of the direct sum, 2.7e-6.
ERRORS = {2: 2e-6, 4: 1e-5}

# What the parts of a tile cost, in multiply-adds of the direct sum, as measured: for each channel and filter, the
# product, whose sums are shorter; for each channel of the source and of the target, the transforms; and, once for all
# tiles, the transform of the filters.
COSTS = {2: (1.1 * 16, 180, 120, 20), 4: (1.1 * 36, 700, 560, 50)}

# With fewer channels or filters, the direct sum is left alone.
FEWEST_CHANNELS = 16

# A tile must be estimated to take less than this part of the direct sum's time.
WORTHWHILE = 0.85


def set_winograd(choice):
    """Choose the tiles of 3 x 3 correlations.

    Parameters
    ----------
    choice : {'auto', 0, 2, 4}
        The side of a tile's outputs; 0: the direct sum; ``'auto'``: by an estimate of their costs.  Numbers may also be
        given as strings.  Correlations that are not `usable` take the direct sum at any rate.
    """
    global _choice
    choices = {str(known): known for known in ("auto", 0, 2, 4)}
    if str(choice) not in choices:
        raise ValueError(f"winograd: expected 'auto', 0, 2 or 4, received {choice!r}")
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
    steps = g.stride_height, g.stride_width, g.dilation_height, g.dilation_width
    if (g.kernel_height, g.kernel_width) != (3, 3) or steps != (1, 1, 1, 1) or g.groups != 1:
        return False
    return min(g.channels, g.out_channels) >= max(FEWEST_CHANNELS, lanes(dtype))


def holds_windows(tile, window):
    """Whether a tile of outputs is made of whole windows of the max pooling after it, if there is any."""
    return not window[0] or (tile % window[0] == 0 and tile % window[1] == 0)


def choose(geometry, dtype, gradient=None):
    """The tile for a correlation or one of its gradients: 0 (the direct sum), 2 or 4, as `set_winograd` said.

    Parameters
    ----------
    geometry : Geometry
    dtype : dtype
    gradient : {None, 'input', 'filters'}
        None: forward.
    """
    return _choose(geometry, dtype, gradient, _choice)


@functools.lru_cache(maxsize=256)
def _choose(geometry, dtype, gradient, choice):
    if not usable(geometry, dtype):
        return 0
    if choice != "auto":
        return choice
    costs = {tile: cost(geometry, tile, gradient) for tile in (0, 2, 4)}
    if gradient == "filters":
        # The sums of a slot are larger than the gradient: where few slots have room, threads would be idle.
        for tile in (2, 4):
            slot_bytes = (tile + 2) ** 2 * geometry.channels * geometry.out_channels * dtype.itemsize
            if FEWEST_SLOTS * slot_bytes >= SLOTS_BYTES:
                del costs[tile]
    best = min(costs, key=costs.get)
    return best if costs[best] < WORTHWHILE * costs[0] else 0


def cost(geometry, tile, gradient=None):
    """Multiply-adds of a direct sum (tile 0), or those which take as long as tiles of this size."""
    g = geometry
    if not tile:
        taps = _taps_inside(g.height, g.pad_top, g.out_height) * _taps_inside(g.width, g.pad_left, g.out_width)
        return g.batch * taps * g.channels * g.out_channels
    source, target = (g.output_shape, g.input_shape) if gradient == "input" else (g.input_shape, g.output_shape)
    tiles = g.batch * -(-target[1] // tile) * -(-target[2] // tile)
    of_product, of_source, of_target, of_filter = COSTS[tile]
    if gradient == "filters":
        of_target = of_source  # of dz, too, more numbers are made than there were
    else:
        tiles = -(-tiles // WIDE_ROWS) * WIDE_ROWS
    products = g.channels * g.out_channels
    return tiles * (of_product * products + of_source * source[3] + of_target * target[3]) + of_filter * products


def _taps_inside(extent, pad, outputs):
    """Pairs of an output and a tap on one axis whose input is not padding."""
    return sum(max(min(outputs, extent + pad - tap) - max(pad - tap, 0), 0) for tap in range(3))


# ------------------------------------------------------------------ how the work is cut

# Bytes of V and of a panel of M that a task keeps in the second-level cache.
BLOCK_BYTES = 256 * 1024

# Bytes of V and dM of a task of the gradient by filters, and fewest tiles: it reads and writes all sums of a slot.
GRADIENT_BLOCK_BYTES, GRADIENT_TILES = 384 * 1024, 48

# Slots of the gradient by filters: at most so many, with so many tiles each, and of so many bytes together; where there
# is no room for so few, the direct sum is left alone.
MOST_SLOTS, SLOT_TILES, SLOTS_BYTES, FEWEST_SLOTS = 16, 192, 1 << 26, 4

# Blocks that there should be at least, for several threads to have their share, and fewest tiles of a block; where
# there are blocks enough, twice as many, even beyond that size: U is read from farther away, once for each block.
FEWEST_BLOCKS, FEWEST_TILES = 16, 4 * WIDE_ROWS

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "tile square positions "  # m, m + 2, its square
            "height width channels first_line first_column "  # of the source, and where the first tile of it starts
            "target_height target_width targets tile_lines tile_columns tiles "
            "pool_height pool_width unpool_height unpool_width "  # windows on the target, and on the source; 0: none
            "overlap block tasks panels packed_size "  # cells that tiles share with the next, tiles of a task
            "input_step product_step "  # from one position of V, or of M, to the next
            "products cells scratch_of_worker slot_size"  # where a worker keeps M, after V, and what it gathers
        ).split()
    ]
)


@functools.lru_cache(maxsize=256)
def _plan(geometry, dtype, tile, backward, window=NO_WINDOW):
    """The numbers of one correlation, the tables of its products, and how much scratch memory it takes."""
    g = geometry
    source, target = (g.output_shape, g.input_shape) if backward else (g.input_shape, g.output_shape)
    plan = np.zeros(1, PLAN)
    n = plan[0]
    n["tile"], n["overlap"], n["square"], n["positions"] = tile, 2, tile + 2, (tile + 2) ** 2
    _, n["height"], n["width"], n["channels"] = source
    _, n["target_height"], n["target_width"], n["targets"] = target
    n["first_line"] = g.pad_top - 2 if backward else -g.pad_top
    n["first_column"] = g.pad_left - 2 if backward else -g.pad_left
    n["pool_height"], n["pool_width"] = NO_WINDOW if backward else window
    n["unpool_height"], n["unpool_width"] = window if backward else NO_WINDOW
    n["tile_lines"], n["tile_columns"] = -(-target[1] // tile), -(-target[2] // tile)
    n["tiles"] = g.batch * n["tile_lines"] * n["tile_columns"]
    panel = 2 * lanes(dtype)
    bytes_of_tile = n["positions"] * (n["channels"] + panel) * dtype.itemsize
    most = max(BLOCK_BYTES // bytes_of_tile, 2 * FEWEST_TILES)
    tasks = max(-(-n["tiles"] // most), min(FEWEST_BLOCKS, -(-n["tiles"] // FEWEST_TILES)))
    n["block"] = -(-n["tiles"] // (tasks * WIDE_ROWS)) * WIDE_ROWS
    n["tasks"] = -(-n["tiles"] // n["block"])
    n["panels"] = panels(n["targets"], dtype)
    n["packed_size"] = n["panels"] * n["positions"] * n["channels"] * panel
    # A line of the cache more, lest all positions of a tile fall into one set of the cache.
    n["input_step"] = n["block"] * n["channels"] + panel
    n["product_step"] = n["block"] * panel + panel
    n["products"] = n["positions"] * n["input_step"]
    n["cells"] = n["products"] + n["positions"] * n["product_step"]
    columns = min(n["block"], n["tile_columns"]) * tile + 2
    n["scratch_of_worker"] = n["cells"] + max(n["square"] * columns * n["channels"], tile * tile * panel) + panel
    block, channels = int(n["block"]), int(n["channels"])
    scratch_size = int(n["packed_size"] + WORKERS * max(n["scratch_of_worker"], 9 * channels * panel))
    tables = steps(block, channels), steps(channels, 1), steps(channels, panel), steps(block, panel)
    return plan, tables, scratch_size


@functools.lru_cache(maxsize=256)
def _gradient_plan(geometry, dtype, tile, window):
    """The same for the gradient by filters: one record for x, one for dz."""
    g = geometry
    plan = np.repeat(_plan(geometry, dtype, tile, False)[0], 2)
    panel = 2 * lanes(dtype)
    positions, tiles = int(plan["positions"][0]), int(plan["tiles"][0])
    bytes_of_tile = positions * (g.channels + g.out_channels) * dtype.itemsize
    block = max(GRADIENT_BLOCK_BYTES // bytes_of_tile, GRADIENT_TILES)
    tasks = -(-tiles // block)
    block = -(-tiles // tasks)
    x, dz = plan
    dz["square"], dz["overlap"], dz["first_line"], dz["first_column"] = tile, 0, 0, 0
    _, dz["height"], dz["width"], dz["channels"] = g.output_shape
    dz["unpool_height"], dz["unpool_width"] = window
    for n in plan:
        n["block"], n["tasks"] = block, tasks
        n["input_step"] = block * n["channels"] + panel
        n["slot_size"] = positions * n["panels"] * g.channels * panel + 2 * g.out_channels
    x["products"] = positions * x["input_step"]
    x["cells"] = x["products"] + positions * dz["input_step"]
    columns = min(block, int(x["tile_columns"])) * tile
    gathered = max((tile + 2) * (columns + 2) * g.channels, tile * columns * g.out_channels)
    x["scratch_of_worker"] = x["cells"] + max(gathered, positions * panel) + panel
    slots = max(1, min(MOST_SLOTS, tiles // SLOT_TILES, SLOTS_BYTES // (int(x["slot_size"]) * dtype.itemsize), tasks))
    slots = 1 << (slots.bit_length() - 1)  # a power of two, of which as many threads have equal shares
    scratch_size = int(slots * x["slot_size"] + WORKERS * x["scratch_of_worker"])
    tables = steps(g.channels, 1), steps(block, g.channels), steps(block, g.out_channels), steps(g.channels, panel)
    return plan, tables, slots, scratch_size


@prepared
def correlate2d(x, filters, bias, geometry, activation, alpha, y, tile, window=NO_WINDOW, winner=NO_WINNERS):
    """Forward, by tiles of 2 x 2 or 4 x 4 outputs."""
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
    """Gradient by input, by tiles of 2 x 2 or 4 x 4 inputs."""
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
    """Gradient by filters and bias, by tiles of 2 x 2 or 4 x 4 outputs."""
    plan, tables, slots, scratch_size = _gradient_plan(geometry, x.dtype, tile, window)
    scratch = workspace(scratch_size, x.dtype)
    none = zeros(x.dtype, geometry.out_channels)
    return _gradient_filters, (x, dy, y, winner, activation, alpha, dfilters, dbias, plan, tables, slots, scratch, none)


# ------------------------------------------------------------------ forward and gradient by input


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
def _transform_filters(first, last, worker, filters, turned, packed, numbers, scratch):
    """U: a task is one panel of it, of all positions."""
    plan = numbers[0]
    lanes = REGISTER_BYTES // packed.itemsize
    channels, targets = plan.channels, plan.targets
    row = 2 * lanes
    size = channels * row
    own = worker * 9 * size
    for panel in range(first, last):
        start = panel_start(panel, targets, lanes)
        width = min(row, targets - start)
        for tap in range(9):
            if turned:
                place, step = ((8 - tap) * targets + start) * channels, channels
            else:
                place, step = tap * channels * targets + start, targets
            pack_panel(filters, place, step, channels, width, turned, scratch, own + tap * size)
        into = panel * plan.positions * size
        for place in range(0, size, lanes):
            if plan.tile == 2:
                filters_2(scratch, own + place, 3 * size, size, packed, into + place, 4 * size, size)
            else:
                filters_4(scratch, own + place, 3 * size, size, packed, into + place, 6 * size, size)


@njit(cache=True, nogil=True, error_model="numpy")
def _correlate_blocks(
    first, last, worker, source, values, winner, slope, slope_alpha, packed, bias, activation, alpha, target,
    numbers, tables, scratch, none,
):  # fmt: skip
    """All of the target that some blocks of tiles make."""
    plan = numbers[0]
    lanes = REGISTER_BYTES // source.itemsize
    lowest = source.dtype.type(-np.inf)
    floor = source.dtype.type(0) if activation == RELU else lowest
    own = worker * plan.scratch_of_worker
    rows, columns, b_rows, c_rows = tables
    size = plan.channels * 2 * lanes
    for task in range(first, last):
        tile = task * plan.block
        count = min(plan.block, plan.tiles - tile)
        _transform_inputs(
            source, values, winner, slope, slope_alpha, tile, count, scratch, own, own + plan.cells, none, plan
        )  # fmt: skip
        for panel in range(plan.panels):
            start = panel_start(panel, plan.targets, lanes)
            width = min(2 * lanes, plan.targets - start)
            for position in range(plan.positions):
                product(
                    scratch, own + position * plan.input_step, rows[:count], columns,
                    packed, (panel * plan.positions + position) * size, b_rows, np.intp(0),
                    none, lowest, scratch, own + plan.products + position * plan.product_step, c_rows[:count],
                    np.intp(0), width, bool(0),
                )  # fmt: skip
            if plan.pool_height:
                _pool_outputs(
                    bias, floor, activation, alpha, target, winner, tile, count, start, width, scratch, own, numbers
                )  # fmt: skip
            else:
                _transform_outputs(bias, floor, target, tile, count, start, width, scratch, own, numbers)
        if activation > RELU and not plan.pool_height:
            _finish_outputs(target, tile, count, activation, alpha, numbers)


@njit(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _transform_inputs(source, values, winner, slope, alpha, tile, count, scratch, into, gathered, sums, plan):
    """V of the tiles ``tile .. tile + count - 1``, or of the gradient by filters dM and the sums of dz.

    The tiles of one line are taken together.  Where they reach beyond the source, or it is yet to be multiplied by
    slopes, their cells are gathered first.
    """
    lanes = REGISTER_BYTES // source.itemsize
    channels = plan.channels
    window = plan.unpool_height, plan.unpool_width
    done = 0
    while done < count:
        tile_line, tile_column = divmod(tile + done, plan.tile_columns)
        picture, tile_line = divmod(tile_line, plan.tile_lines)
        run = min(count - done, plan.tile_columns - tile_column)
        first_line = tile_line * plan.tile + plan.first_line
        first_column = tile_column * plan.tile + plan.first_column
        pixels = run * plan.tile + plan.overlap
        inside = slope == LINEAR and not window[0] and first_line >= 0 and first_line + plan.square <= plan.height
        if inside and first_column >= 0 and first_column + pixels <= plan.width:
            cells, line = source, plan.width * channels
            place = (picture * plan.height + first_line) * line + first_column * channels
        else:
            cells, line = scratch, pixels * channels
            place = gathered
            left = min(max(-first_column, 0), pixels)
            right = min(max(plan.width - first_column, left), pixels)
            for row in range(plan.square):
                cell = place + row * line
                if 0 <= first_line + row < plan.height:
                    scratch[cell : cell + left * channels] = 0
                    make_dz(
                        source, values, winner, window, plan.width, channels,
                        (picture * plan.height + first_line + row) * plan.width + first_column + left, right - left,
                        slope, alpha, scratch, cell + left * channels,
                    )  # fmt: skip
                    scratch[cell + right * channels : cell + line] = 0
                else:
                    scratch[cell : cell + line] = 0
        if not plan.overlap:
            for row in range(plan.square):
                for pixel in range(pixels):
                    cell = cells[place + row * line + pixel * channels :][:channels]
                    for channel in range(channels):
                        sums[channel] += cell[channel]
        step = plan.input_step
        for _ in range(run):
            for lane in range(0, channels, lanes):
                channel = min(lane, channels - lanes)
                start, end = place + channel, into + channel
                if plan.tile == 2:
                    if plan.overlap:
                        inputs_2(cells, start, line, channels, scratch, end, 4 * step, step)
                    else:
                        gradients_2(cells, start, line, channels, scratch, end, 4 * step, step)
                elif plan.overlap:
                    inputs_4(cells, start, line, channels, scratch, end, 6 * step, step)
                else:
                    gradients_4(cells, start, line, channels, scratch, end, 6 * step, step)
            place += plan.tile * channels
            into += channels
        done += run


@njit(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _transform_outputs(bias, floor, target, tile, count, start, width, scratch, own, numbers):
    """Outputs of some tiles, of `width` filters from `start` on."""
    plan = numbers[0]
    lanes = REGISTER_BYTES // target.itemsize
    targets = plan.targets
    step = plan.product_step
    m = plan.tile
    for done in range(count):
        tile_line, tile_column = divmod(tile + done, plan.tile_columns)
        picture, tile_line = divmod(tile_line, plan.tile_lines)
        lines = min(m, plan.target_height - tile_line * m)
        pixels = min(m, plan.target_width - tile_column * m)
        place = ((picture * plan.target_height + tile_line * m) * plan.target_width + tile_column * m) * targets + start
        whole = lines == m and pixels == m
        if whole:
            cells, into, line, pixel = target, place, plan.target_width * targets, targets
        else:
            cells, into, line, pixel = scratch, own + plan.cells, m * 2 * lanes, 2 * lanes
        for lane in range(0, width, lanes):
            shift = min(lane, width - lanes)
            m_place = own + plan.products + done * 2 * lanes + shift
            if m == 2:
                outputs_2(
                    scratch, m_place, 4 * step, step, cells, into + shift, line, pixel, bias, start + shift, floor
                )
            else:
                outputs_4(
                    scratch, m_place, 6 * step, step, cells, into + shift, line, pixel, bias, start + shift, floor
                )
            if not whole:
                for i in range(lines):
                    for j in range(pixels):
                        copy_vector(
                            scratch, into + i * line + j * pixel + shift,
                            target, place + (i * plan.target_width + j) * targets + shift,
                        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _pool_outputs(
    bias, floor, activation, alpha, target, winner, tile, count, start, width, scratch, own, numbers
):  # fmt: skip
    """The same with max pooling after it: a tile's outputs stay in the first-level cache."""
    plan = numbers[0]
    lanes = REGISTER_BYTES // target.itemsize
    step, m, pixel = plan.product_step, plan.tile, 2 * lanes
    window = plan.pool_height, plan.pool_width
    pooled_height, pooled_width = plan.target_height // window[0], plan.target_width // window[1]
    cells = own + plan.cells
    for done in range(count):
        tile_line, tile_column = divmod(tile + done, plan.tile_columns)
        picture, tile_line = divmod(tile_line, plan.tile_lines)
        lines = min(m, plan.target_height - tile_line * m) // window[0]
        pixels = min(m, plan.target_width - tile_column * m) // window[1]
        for lane in range(0, width, lanes):
            shift = min(lane, width - lanes)
            m_place = own + plan.products + done * 2 * lanes + shift
            place = cells + shift
            if m == 2:
                outputs_2(
                    scratch, m_place, 4 * step, step, scratch, place, m * pixel, pixel, bias, start + shift, floor
                )
            else:
                outputs_4(
                    scratch, m_place, 6 * step, step, scratch, place, m * pixel, pixel, bias, start + shift, floor
                )
        if activation > RELU:
            finish(scratch, cells, cells + m * m * pixel, activation, alpha)
        for i in range(lines):
            line = picture * pooled_height + tile_line * m // window[0] + i
            place = (line * pooled_width + tile_column * m // window[1]) * plan.targets + start
            largest_of_windows(
                scratch, cells + i * window[0] * m * pixel, m * pixel, pixel, window, pixels, width,
                target, winner, place, plan.targets,
            )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _finish_outputs(target, tile, count, activation, alpha, numbers):
    """Apply the activation to the outputs of some tiles."""
    plan = numbers[0]
    m = plan.tile
    for done in range(count):
        tile_line, tile_column = divmod(tile + done, plan.tile_columns)
        picture, tile_line = divmod(tile_line, plan.tile_lines)
        end_column = min((tile_column + 1) * m, plan.target_width)
        for row in range(tile_line * m, min((tile_line + 1) * m, plan.target_height)):
            line = (picture * plan.target_height + row) * plan.target_width
            finish(
                target, (line + tile_column * m) * plan.targets, (line + end_column) * plan.targets, activation, alpha
            )


# ------------------------------------------------------------------ gradient by filters


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
def _add_slots(first, last, worker, x, dy, y, winner, activation, alpha, sums, numbers, tables, slots, scratch, none):
    """Each slot's sums over its tiles: of all positions panels of V^T dM, then dbias."""
    plan = numbers[0]
    lanes = REGISTER_BYTES // x.itemsize
    lowest = x.dtype.type(-np.inf)
    own = worker * plan.scratch_of_worker
    rows, columns, b_rows, c_rows = tables
    panel = plan.channels * 2 * lanes
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
            _transform_inputs(x, x, winner, np.intp(LINEAR), alpha, tile, count, scratch, own, gathered, none, plan)
            of_task[:] = 0
            _transform_inputs(
                dy, y, winner, activation, alpha, tile, count, scratch, dz, gathered, of_task, numbers[1]
            )  # fmt: skip
            for f in range(plan.targets):
                bias_sums[f] += of_task[f]
            for position in range(plan.positions):
                product(
                    scratch, own + position * plan.input_step, rows, columns[:count],
                    scratch, dz + position * numbers[1].input_step, b_rows[:count], np.intp(0),
                    none, lowest, sums, c + position * plan.panels * panel, c_rows, panel, plan.targets, started,
                )  # fmt: skip
            started = True


@njit(cache=True, nogil=True, error_model="numpy")
def _add_up(first, last, worker, sums, dfilters, dbias, numbers, slots, scratch):
    """Add the slots in order and transform: a task is one channel; the last one is the bias."""
    plan = numbers[0]
    lanes = REGISTER_BYTES // sums.itemsize
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
                    place = slot * plan.slot_size + ((position * plan.panels + panel) * plan.channels + row) * width
                    for lane in range(count):
                        total[position * width + lane] += sums[place + lane]
            step = plan.channels * plan.targets
            for lane in range(0, count, lanes):
                shift = min(lane, count - lanes)
                place, into = own + shift, row * plan.targets + start + shift
                if plan.tile == 2:
                    filter_gradients_2(scratch, place, 4 * width, width, dfilters, into, 3 * step, step)
                else:
                    filter_gradients_4(scratch, place, 6 * width, width, dfilters, into, 3 * step, step)
