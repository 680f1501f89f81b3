"""Arguments of every check of `kernel_checks` for compiled CUDA kernels.

Shapes cross the edges of the tiles that a GPU gets (`gpuconv.kernels.cuda.tiles`).
"""

import numpy as np
from cuda_arguments import _CORRELATIONS, _LAYERS, _POOLS
from gpuconv.kernels import formulas
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from reference import philox4x32
from support import cases_of

# The same variants that are compiled for `test_cuda_ptx`, and a problem of several blocks each way.
CORRELATIONS = [{"geometry": geometry, "activation": activation} for geometry, activation in _CORRELATIONS.values()]
# The first with fewer filters than a thread has sums of.
CORRELATIONS[0] = {"geometry": correlation_geometry((2, 6, 5, 3), 3, 3, padding="same"), "activation": formulas.RELU}
# Pictures of few channels of several blocks each way, and depthwise ones of more than a block's channels.
CORRELATIONS.append({"geometry": correlation_geometry((1, 18, 34, 1), 3, 4), "activation": formulas.RELU})
MANY_CHANNELS = correlation_geometry((1, 7, 5, 132), 3, 132, padding="same", groups=132)
CORRELATIONS.append({"geometry": MANY_CHANNELS, "activation": formulas.LINEAR})
# Groups of few channels, whose last pixels nobody sees.
CORRELATIONS.append({"geometry": correlation_geometry((1, 5, 4, 4), 2, 6, 2, groups=2), "activation": formulas.LINEAR})
SEVERAL_BLOCKS = correlation_geometry((2, 9, 8, 5), 3, 70, padding="same")
CORRELATIONS.append({"geometry": SEVERAL_BLOCKS, "activation": formulas.TANH})
# A first layer whose channels are read and whose filters are written four at a time, which leave a part of the block's
# unused.
FOUR_CHANNELS = correlation_geometry((1, 7, 8, 4), 3, 12, padding="same")
CORRELATIONS.append({"geometry": FOUR_CHANNELS, "activation": formulas.LINEAR})
# Sums long enough for several blocks to share them, of which one has fewer kernel rows.
SHARED_SUMS = {"geometry": correlation_geometry((1, 3, 3, 18), (5, 3), 5, padding="same"), "activation": formulas.RELU}
CORRELATIONS.append(SHARED_SUMS)
_DEPTHWISE = [_CORRELATIONS["depthwise, vectors"], _CORRELATIONS["depthwise, strides"]]
# Depthwise gradients by input: pixels of every remainder by the strides; padding larger than the window, so that some
# outputs saw nothing; pixels that nobody saw; strides longer than a run; dilation.
DEPTHWISE_STRIDES = [
    {"geometry": correlation_geometry(shape, kernel, shape[3], strides, padding, dilation, shape[3]), "activation": one}
    for shape, kernel, strides, padding, dilation, one in (
        ((2, 8, 9, 8), 3, 2, "same", 1, formulas.RELU),
        ((1, 5, 6, 4), (2, 3), 2, ((3, 0), (4, 3)), 1, formulas.LINEAR),
        ((1, 7, 9, 3), (3, 1), (3, 2), "valid", 1, formulas.TANH),
        ((1, 7, 12, 4), 2, 5, ((0, 1), (2, 0)), 1, formulas.LINEAR),
        ((1, 9, 11, 4), 3, (2, 3), 2, (2, 1), formulas.LINEAR),
        ((1, 9, 11, 2), 3, (3, 2), 1, (2, 3), formulas.RELU),
        ((1, 7, 10, 4), 3, 1, "same", (2, 3), formulas.LINEAR),
    )
]
# The same of few channels: phases with two rows or columns of cells, with one and with none.
NARROW_STRIDES = [
    {"geometry": correlation_geometry((1, 7, 9, 2), 3, 8, 2, "same"), "activation": formulas.RELU},
    {"geometry": correlation_geometry((1, 7, 6, 3), (1, 3), 5, 2), "activation": formulas.LINEAR},
    {
        "geometry": correlation_geometry((1, 6, 9, 1), (4, 2), 6, (2, 3), ((5, 0), (1, 4))),
        "activation": formulas.LINEAR,
    },
]
POOLINGS = [{"geometry": geometry} for geometry in _POOLS.values()]
# Windows side by side that leave a column over.
POOLINGS.append({"geometry": pooling_geometry((1, 4, 5, 4), 2)})
PADDINGS = [
    {"shape": (2, 3, 4, 3), "padding": ((1, 2), (3, 1))},
    {"shape": (2, 2, 3, 8), "padding": ((0, 1), (2, 0))},
]
DENSES = [{"shape": layer[:3], "activation": layer[3]} for layer in _LAYERS.values()]
DENSES.append({"shape": (70, 33, 67), "activation": formulas.TANH})
ACTIVATIONS = [{"shape": (7, 41), "activation": number} for number in range(8)]
# Rates that are rounded past the first element's number and not, and one that drops everything.
_NUMBER = philox4x32((0, 0, 2, 3), (1, 0))[0] % 2**16
RATES = [(_NUMBER + 0.4) / 2**16, (_NUMBER + 0.6) / 2**16, 1 - 2**-17]
RELUS = [{"shape": (2, 3, 49), "negative_slope": 0.25, "max_value": 1.0, "threshold": 0.5}]
# Windows that leave cells over, and one that is as large as the picture.
POOLED_CORRELATIONS = [
    {"geometry": correlation_geometry((2, 6, 5, 3), 3, 3, padding="same"), "activation": formulas.RELU},
    {"geometry": correlation_geometry((1, 9, 8, 2), (3, 2), 3, (2, 1)), "activation": formulas.TANH, "window": (3, 2)},
    {"geometry": correlation_geometry((1, 7, 8, 1), 3, 12), "activation": formulas.RELU},
]
# Several rows on one warp, a row in vectors and longer than the registers of a warp, a single number.
MATRICES = [{"shape": shape} for shape in ((35, 3), (2, 516), (1, 1))]
# Several numbers and vectors on each lane, lanes without any, in one chunk and in two.
MORE_MATRICES = [*MATRICES, *({"shape": shape} for shape in ((3, 41), (5, 20), (2, 513)))]
# Numbers, one block; vectors, several blocks each way with ragged ends; several blocks of rows and a ragged warp.
COLUMNS = [{"shape": shape} for shape in ((37, 5), (291, 36), (260, 5))]
SIZES = [{"size": 303}, {"size": 3}]
CASES = {
    **cases_of(
        correlations=CORRELATIONS,
        pooled_correlations=POOLED_CORRELATIONS,
        poolings=POOLINGS,
        paddings=PADDINGS,
        activations=ACTIVATIONS,
        relus=RELUS,
        denses=DENSES,
        columns=COLUMNS,
        matrices=MATRICES,
    ),
    # Then sums that blocks share and a thread adds four at a time.
    "correlate2d": [
        *CORRELATIONS,
        {"geometry": correlation_geometry((1, 3, 3, 20), (5, 3), 12, padding="same"), "activation": formulas.RELU},
    ],
    **dict.fromkeys(("softmax", "sparse_softmax_cross_entropy", "sparse_accuracy"), MORE_MATRICES),
    # Then phases that blocks share, of which some have fewer kernel rows and some none; phases that nobody saw, before
    # dilated ones; and groups whose filters are turned four at a time.
    "correlate2d_gradient_input": [
        *CORRELATIONS,
        *DEPTHWISE_STRIDES,
        *NARROW_STRIDES,
        {"geometry": correlation_geometry((1, 4, 5, 9), 3, 64, 2, padding="same"), "activation": formulas.RELU},
        {"geometry": correlation_geometry((1, 5, 4, 9), 1, 256, 2), "activation": formulas.LINEAR},
        {"geometry": correlation_geometry((1, 8, 9, 9), 3, 4, 2, 1, dilation=4), "activation": formulas.LINEAR},
        {"geometry": correlation_geometry((1, 5, 4, 16), 3, 16, 2, groups=2), "activation": formulas.RELU},
    ],
    # The geometries that matter to it, for few kernels, which take long to compile.  Then several blocks of entries and
    # pixels enough for several chunks; channels and filters four at a time; a thread for each weight, several chunks.
    "correlate2d_gradient_filters": [
        *CORRELATIONS[:2],
        *CORRELATIONS[3:5],
        {"geometry": SEVERAL_BLOCKS, "activation": formulas.TANH},
        {"geometry": correlation_geometry((2, 13, 12, 2), 5, 3, padding="same"), "activation": formulas.RELU},
        {"geometry": correlation_geometry((2, 6, 5, 4), 3, 8, padding="same"), "activation": formulas.RELU},
        *({"geometry": geometry, "activation": activation} for geometry, activation in _DEPTHWISE),
        {"geometry": MANY_CHANNELS, "activation": formulas.LINEAR},
        {"geometry": correlation_geometry((1, 13, 11, 2), 3, 4, padding="same", groups=2), "activation": formulas.RELU},
    ],
    "correlate_image": [
        {"shape": (12, 24), "kernel_size": (2, 3), "beyond": (2, 3)},
        {"shape": (5, 18), "kernel_size": (3, 4), "beyond": (2, 1)},
        {"shape": (1, 3), "kernel_size": (3, 5), "beyond": (0, 0)},
    ],
    "moving_average": [{**size, "momentum": 0.999} for size in SIZES],
    "dropout": [
        {"shape": (1037,), "rate": 0.3, "seed": 2**63 + 5, "stream": 2, "step": 2**32 - 1},
        {"shape": (3, 5), "rate": 0.0, "seed": 0, "stream": 0, "step": 0},
        *({"shape": (130,), "rate": rate, "seed": 1, "stream": 2, "step": 3} for rate in RATES),
    ],
    "regularize": [
        {"size": 303, "regions": 4},
        {"size": 9, "regions": 1},
        {"size": 9, "regions": 0},
        {"size": 20_000, "regions": 3},
    ],
    "sgd": [
        {"size": 303, "momentum": 0.0, "nesterov": False, "weight_decay": 0.01},
        {"size": 9, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
        {"size": 9, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
    "adam": [{"size": 303, "step": 1, "weight_decay": 0.0}, {"size": 9, "step": 40, "weight_decay": 0.01}],
    "rmsprop": [
        {"size": 303, "momentum": 0.0, "centered": False, "weight_decay": 0.0},
        {"size": 9, "momentum": 0.9, "centered": True, "weight_decay": 0.01},
    ],
    "gather": [
        {"source_rows": 12, "features": 37, "start": 3, "rows": 8},
        {"source_rows": 5, "features": 1, "start": 0, "rows": 5, "kind": np.int32},
        {"source_rows": 5, "features": 12, "start": 1, "rows": 3},
        {"source_rows": 5, "features": 16, "start": 1, "rows": 3, "kind": np.uint8},
    ],
    "put": [
        {"total": 12, "features": 37, "start": 3, "rows": 8},
        {"total": 5, "features": 12, "start": 2, "rows": 3},
        {"total": 5, "features": 1, "start": 0, "rows": 5, "kind": np.int32},
    ],
    "sum_into": [{"size": 303, "place": 1}, {"size": 5, "place": 0}, {"size": 20_003, "place": 1}],
}
