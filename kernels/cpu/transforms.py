"""Winograd's transforms: the matrices of every family of tiles, and the vector code that multiplies by them.

A *family* of tiles is a pair ``(m, r)``: the side of a tile's outputs and that of the filters.  `winograd` says what
the transforms are for.  Both factors of a product of polynomials are taken at ``m + r - 1`` points, one of them
infinity, so that families of the same sum share their points, and with them the transform of the inputs.

The points matter for the accuracy: 0, 1, -1, 2, -2, which are mostly used for six, cost two more binary digits than
those below; the eight are the best of all such triples from 3/8 to 5/2 for filters of both sizes, and the mean error of
the seven is within a tenth of the least of all that are made of numbers from 1/4 to 4.  Barabasz and others, "Error
analysis and improving the accuracy of Winograd convolution for deep neural networks" (2020).

An odd point without its negative comes last of the finite ones.  All other rows of B^T have the factor ``x - p`` then,
by which a column is multiplied first (`stages`); what remains are the rows of the points in pairs.
"""

from fractions import Fraction

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .processor import FUSED, REGISTER_BYTES

FAMILIES = (2, 3), (4, 3), (5, 3), (6, 3), (2, 5), (4, 5)

# By their number, infinity included.  A point and its negative stand side by side: their rows differ by signs alone.
# All entries of B^T and A^T are exact.
POINTS = {
    4: ("0", "1", "-1"),
    6: ("0", "3/4", "-3/4", "3/2", "-3/2"),
    7: ("0", "1/2", "-1/2", "1", "-1", "5/2"),
    8: ("0", "1", "-1", "1/2", "-1/2", "2", "-2"),
}

# ------------------------------------------------------------------ the matrices


def matrices(points, taps):
    """B^T, G and A^T for filters of so many taps: values at the points and, for the highest power, at infinity.

    Row p of B^T is the product of ``x - q`` over the other points q, whose value at p divides row p of G; the last row
    of B^T is the product over all points.

    Examples
    --------
    >>> inputs, filters, outputs = matrices([0, 1, -1], 3)
    >>> outputs
    ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, 1.0))
    """
    points = [Fraction(point) for point in points]
    size = len(points) + 1
    highest = size - taps

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
        filters.append([point**power / value for power in range(taps)])
    inputs.append(product_over(points))
    filters.append([Fraction(power == taps - 1) for power in range(taps)])
    outputs = [[*(point**power for point in points), Fraction(power == highest)] for power in range(highest + 1)]
    return tuple(tuple(tuple(map(float, row)) for row in matrix) for matrix in (inputs, filters, outputs))


INPUTS, FILTERS, OUTPUTS = range(3)


def stages(points, taps, kind):
    """One of the matrices as the product of those that a column is multiplied by, the first one last.

    Examples
    --------
    >>> pairs, single = stages([0, 1, -1, 2], 3, INPUTS)
    >>> single[0], single[-1]
    ((-2.0, 1.0, 0.0, 0.0, 0.0), (0.0, -1.0, 0.0, 1.0, 0.0))
    >>> import numpy as np
    >>> np.array_equal(np.array(pairs) @ np.array(single), matrices([0, 1, -1, 2], 3)[INPUTS])
    True
    """
    matrix = matrices(points, taps)[kind]
    if kind != INPUTS or len(points) % 2:
        return (matrix,)
    single = float(Fraction(points[-1]))
    size = len(matrix)
    *finite, infinite = matrices(points[:-1], taps)[INPUTS]
    first = [[-single * (j == i) + (j == i + 1) for j in range(size)] for i in range(size - 1)]
    last = [[*row, 0.0] for row in finite] + [[0.0] * (size - 1) + [1.0], [*infinite, 0.0]]
    return tuple(map(tuple, last)), tuple(map(tuple, [*first, matrix[-2]]))


_STAGES = [
    tuple(stages(POINTS[outputs + taps - 1], taps, kind) for kind in (INPUTS, FILTERS, OUTPUTS))
    for outputs, taps in FAMILIES
]

# ------------------------------------------------------------------ transforms, for as many channels as a vector holds


def _transform(kind, turned=False):
    """The intrinsic for ``Y = M X M^T``, where each entry of the square X is a vector."""

    @intrinsic
    def transform(typing, family, source, place, line, pixel, target, into, target_line, target_pixel):
        """Entry (i, j) of X is at ``place + i line + j pixel`` of the source, that of Y likewise of the target.

        `family` is a number in `FAMILIES`, which says what M is.
        """

        def code(context, builder, signature, arguments):
            _write_squares(context, builder, signature, arguments, kind, turned, lambda vector: lambda result: result)
            return context.get_dummy_value()

        integer = types.intp
        return types.void(integer, source, integer, integer, integer, target, integer, integer, integer), code

    return transform


transform_input, transform_filter = _transform(INPUTS), _transform(FILTERS)
# The gradients of the transforms of outputs, filters and inputs.
transform_gradient, transform_filter_gradient = _transform(OUTPUTS, True), _transform(FILTERS, True)
transform_input_gradient = _transform(INPUTS, True)


@intrinsic
def transform_output(
    typing, family, source, place, line, pixel, target, into, target_line, target_pixel, bias, bias_place, floor
):  # fmt: skip
    """The same, with a vector of the bias added to each entry of Y; what is below the floor then becomes it."""

    def code(context, builder, signature, arguments):
        def finishing(vector):
            data = context.make_array(bias)(context, builder, arguments[9]).data
            pointer = builder.bitcast(builder.gep(data, [arguments[10]]), vector.as_pointer())
            addend = builder.load(pointer, align=bias.dtype.bitwidth // 8)
            empty, mask = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), vector.count)
            lowest = builder.insert_element(empty, arguments[11], ir.Constant(ir.IntType(32), 0))
            lowest = builder.shuffle_vector(lowest, empty, ir.Constant(mask, None))

            def finish(result):
                result = builder.fadd(result, addend)
                return builder.select(builder.fcmp_ordered("<", result, lowest), lowest, result)

            return finish

        _write_squares(context, builder, signature, arguments, OUTPUTS, False, finishing)
        return context.get_dummy_value()

    integer = types.intp
    signature = types.void(
        integer, source, integer, integer, integer, target, integer, integer, integer, bias, integer, source.dtype
    )
    return signature, code


def _write_squares(context, builder, signature, arguments, kind, turned, finishing):
    """Emit a transform of every family, and the choice among them: a kernel is compiled once for all.

    A kernel of one family takes almost as long to compile, since most of it is the same.
    """
    number, end = arguments[0], builder.append_basic_block("transformed")
    choice = builder.switch(number, end)
    for factors in dict.fromkeys(found[kind] for found in _STAGES):
        block = builder.append_basic_block("transform")
        for family, found in enumerate(_STAGES):
            if found[kind] == factors:
                choice.add_case(ir.Constant(number.type, family), block)
        builder.position_at_end(block)
        in_turn = [tuple(zip(*matrix, strict=True)) for matrix in factors] if turned else factors[::-1]
        _write_square(context, builder, signature, arguments, in_turn, finishing)
        builder.branch(end)
    builder.position_at_end(end)


def _write_square(context, builder, signature, arguments, in_turn, finishing):
    """Emit the code of a transform by some matrices; ``finishing(vector_type)`` is what each result goes through."""
    source, target = 1, 5
    pointers = {
        number: context.make_array(signature.args[number])(context, builder, arguments[number]).data
        for number in (source, target)
    }
    size = signature.args[source].dtype.bitwidth // 8
    vector = ir.VectorType(pointers[source].type.pointee, REGISTER_BYTES // size)
    finish = finishing(vector)

    def entry(number, i, j):
        _, place, line, pixel = arguments[number : number + 4]
        for step, count in ((line, i), (pixel, j)):
            place = builder.add(place, builder.mul(step, ir.Constant(step.type, count)))
        return builder.bitcast(builder.gep(pointers[number], [place]), vector.as_pointer())

    def transformed(values):
        for matrix in in_turn:
            values = _times(builder, matrix, values)
        return values

    cells = range(len(in_turn[0][0]))
    columns = [transformed([builder.load(entry(source, i, j), align=size) for i in cells]) for j in cells]
    for i in range(len(columns[0])):
        for j, result in enumerate(transformed([column[i] for column in columns])):
            builder.store(finish(result), entry(target, i, j), align=size)


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
