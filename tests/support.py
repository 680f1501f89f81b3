"""What several test files share: tolerances, random data, and Hypothesis strategies of drawn shapes."""

import math

import numpy as np
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from hypothesis import strategies as st

FUSABLE = range(7)
ACTIVATIONS = range(8)


def tolerance(dtype, terms=1):
    """How far a result may lie from the exact one, relative to the size of its terms.

    Rounding errors of a sum of n products, in any order, stay below ``lambda * sqrt(n) * eps / 2`` with
    probability ``1 - 2 n exp(-lambda**2 / 2)`` (Higham and Mary, "A new approach to probabilistic rounding
    error analysis", 2019); lambda is 8 here, so one failure by chance in 10**13 / n.  Eight roundings more
    are allowed for what stands around the sum: bias, activation, its slope, a division.
    """
    return (4 * math.sqrt(terms) + 8) * float(np.finfo(dtype).eps)


def assert_close(got, expected, dtype, terms=1, scale=None):
    """Assert ``|got - expected| <= tolerance * scale``, elementwise, NaN and infinities in their places.

    Parameters
    ----------
    got, expected : array_like
        What a kernel computed, and the reference.
    dtype : dtype
        That the kernel computed in.
    terms : int, default 1
        Number of terms that one element sums up.
    scale : array_like, optional
        Size of the terms of each element, the sum of their absolute values; default: ``|expected|``.
        A sum that cancels is far less accurate than its own size suggests, so sums give theirs.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    scale = np.abs(expected) if scale is None else np.maximum(np.abs(scale), np.abs(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    # Below the smallest normal number precision is lost step by step.
    allowed = tolerance(dtype, terms) * np.broadcast_to(scale, expected.shape)[finite] + np.finfo(dtype).tiny
    error = np.abs(got[finite].astype(np.float64) - expected[finite])
    worst = np.argmax(error - allowed) if error.size else 0
    assert not error.size or (error <= allowed).all(), (
        f"{(~(error <= allowed)).sum()} of {error.size} elements off; worst: got {got[finite][worst]!r}, "
        f"expected {expected[finite][worst]!r}, error {error[worst]:.3g}, allowed {allowed[worst]:.3g}"
    )


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def explicit_padding(draw, largest=(3, 3)):
    """``((top, bottom), (left, right))``, each side its own."""
    return tuple((draw(st.integers(0, most)), draw(st.integers(0, most))) for most in largest)


@st.composite
def extents(draw, largest, small=6):
    """Three or more extents of which at most one is large, so that tile edges are crossed at little cost."""
    place = draw(st.integers(0, len(largest) - 1))
    return [draw(st.integers(1, most if axis == place else min(most, small))) for axis, most in enumerate(largest)]


@st.composite
def correlations(draw, largest=(5, 40, 70, 34, 40), small=6, largest_kernel=5):
    """Geometries of cross-correlations; `largest`: batch, height, width, channels, filters, one of them large."""
    kernel_size = draw(st.tuples(st.integers(1, largest_kernel), st.integers(1, largest_kernel)))
    dilation = draw(st.one_of(st.just((1, 1)), pairs))
    strides = draw(st.one_of(st.just((1, 1)), pairs))
    padding = draw(st.one_of(st.sampled_from(["valid", "same", "full"]), explicit_padding()))
    batch, height, width, channels, filters = draw(extents(largest, small))
    kind = draw(st.sampled_from(["plain", "plain", "grouped", "depthwise"]))
    groups = 1
    if kind == "grouped":
        groups = draw(st.integers(2, 3))
        channels, filters = -(-channels // groups) * groups, -(-filters // groups) * groups
    elif kind == "depthwise":
        groups, filters = channels, channels * draw(st.integers(1, 3))
    # The window must fit into the padded picture.
    room = [0, 0]
    if not isinstance(padding, str):
        room = [sum(side) for side in padding]
    if padding in ("same", "full"):
        room = [10**6, 10**6]
    height = max(height, (kernel_size[0] - 1) * dilation[0] + 1 - room[0])
    width = max(width, (kernel_size[1] - 1) * dilation[1] + 1 - room[1])
    return correlation_geometry(
        (batch, height, width, channels), kernel_size, filters, strides, padding, dilation, groups
    )


@st.composite
def poolings(draw, largest=(5, 40, 40, 70), small=6, largest_window=4):
    """Geometries of poolings, windows apart, touching and overlapping."""
    window = draw(st.tuples(st.integers(1, largest_window), st.integers(1, largest_window)))
    strides = draw(st.one_of(st.none(), pairs))
    below = tuple(cells - 1 for cells in window)
    padding = draw(st.one_of(st.sampled_from(["valid", "same"]), explicit_padding(below)))
    batch, height, width, channels = draw(extents(largest, small))
    height, width = max(height, window[0]), max(width, window[1])
    return pooling_geometry((batch, height, width, channels), window, strides, padding)


@st.composite
def matrices(draw, largest=(70, 40), small=6):
    """``(rows, columns)``, at most one of them large."""
    return tuple(draw(extents(largest, small)))


seeds = st.integers(0, 2**32 - 1)


sizes = st.one_of(st.integers(1, 40), st.integers(1, 70_000))
shapes = st.one_of(st.tuples(st.integers(1, 300)), matrices(), st.tuples(*[st.integers(1, 5)] * 3, st.integers(1, 70)))
weight_decays = st.sampled_from([0.0, 0.01])
words = st.integers(0, 2**32 - 1)


def _arguments(**strategies):
    return st.fixed_dictionaries(strategies)


_correlation = _arguments(geometry=correlations(), activation=st.sampled_from(FUSABLE))
_pooled_correlation = _arguments(geometry=correlations(), activation=st.sampled_from(FUSABLE), window=pairs)
_pooling = _arguments(geometry=poolings())
_image = _arguments(
    shape=extents((40, 70)).map(tuple),
    kernel_size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    beyond=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
_padding = _arguments(shape=st.tuples(*[st.integers(1, 9)] * 4), padding=explicit_padding())
_dense = _arguments(shape=extents((70, 70, 70), small=9).map(tuple), activation=st.sampled_from(FUSABLE))
_activation = _arguments(shape=shapes, activation=st.sampled_from(ACTIVATIONS))
_matrix = _arguments(shape=matrices())


@st.composite
def _relu(draw):
    negative_slope, max_value, threshold = draw(
        st.sampled_from([(0.0, np.inf, 0.0), (0.1, 1.5, 0.0), (0.25, 1.0, 0.5)])
    )
    return {
        "shape": draw(shapes),
        "negative_slope": negative_slope,
        "max_value": max_value,
        "threshold": threshold,
    }


@st.composite
def _gather(draw):
    return _rows(draw, "source_rows")


@st.composite
def _put(draw):
    return _rows(draw, "total")


def _rows(draw, name):
    """A batch of rows among all rows, whose number is called `name`."""
    count = draw(st.integers(1, 80))
    start = draw(st.integers(0, count - 1))
    return {
        name: count,
        "features": draw(st.integers(1, 40)),
        "start": start,
        "rows": draw(st.integers(1, count - start)),
        "kind": draw(st.sampled_from([None, np.int32])),
    }


# Functions of the table whose checks in `kernel_checks` take the same cases.
ALIKE = {
    "correlations": ["correlate2d", "correlate2d_gradient_input", "correlate2d_gradient_filters"],
    "pooled_correlations": [
        "correlate2d_max_pool2d", "correlate2d_max_pool2d_gradient_input", "correlate2d_max_pool2d_gradient_filters",
    ],
    "poolings": ["max_pool2d", "max_pool2d_gradient", "average_pool2d", "average_pool2d_gradient"],
    "paddings": ["zero_pad2d", "crop2d"],
    "activations": ["activate", "activate_gradient"],
    "relus": ["relu", "relu_gradient"],
    "denses": ["dense", "dense_gradient_input", "dense_gradient_kernel"],
    "columns": ["batch_moments", "normalize", "batch_normalization_gradient"],
    "matrices": [
        "softmax", "softmax_gradient", "softmax_cross_entropy", "sparse_softmax_cross_entropy", "cross_entropy",
        "sparse_cross_entropy", "mean_squared_error", "binary_cross_entropy", "sigmoid_binary_cross_entropy",
        "sparse_accuracy", "categorical_accuracy", "binary_accuracy",
    ],
}  # fmt: skip


def cases_of(**kinds):
    """The cases of each function in `ALIKE`, from those of its kind."""
    return {name: cases for kind, cases in kinds.items() for name in ALIKE[kind]}


# For every numerical kernel the keyword arguments that its check in `kernel_checks` may be called with.
CASES = {
    **cases_of(
        correlations=_correlation,
        pooled_correlations=_pooled_correlation,
        poolings=_pooling,
        paddings=_padding,
        activations=_activation,
        relus=_relu(),
        denses=_dense,
        # Sums over rows are taken in blocks of rows.
        columns=_arguments(shape=matrices((600, 70))),
        matrices=_matrix,
    ),
    "correlate_image": _image,
    "moving_average": _arguments(size=st.integers(1, 70), momentum=st.sampled_from([0.0, 0.9, 0.99, 0.999])),
    "dropout": _arguments(
        shape=shapes,
        rate=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1 - 2**-20]),
        seed=st.integers(0, 2**64 - 1),
        stream=words,
        step=words,
    ),
    "regularize": _arguments(size=sizes, regions=st.integers(1, 9)),
    "sgd": _arguments(
        size=sizes, momentum=st.sampled_from([0.0, 0.9]), nesterov=st.booleans(), weight_decay=weight_decays
    ),
    "adam": _arguments(size=sizes, step=st.integers(1, 1000), weight_decay=weight_decays),
    "rmsprop": _arguments(
        size=sizes, momentum=st.sampled_from([0.0, 0.9]), centered=st.booleans(), weight_decay=weight_decays
    ),
    "gather": _gather(),
    "put": _put(),
    "sum_into": _arguments(size=sizes, place=st.integers(0, 3)),
}
