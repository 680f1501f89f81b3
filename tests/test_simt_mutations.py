"""What the machine that executes PTX is worth: of the kernels, every barrier and every comparison that decides
something is dropped in turn, and each time it must be noticed.

A mutant is noticed if the machine refuses it, or if its result is wrong.
"""

import functools

import numpy as np
import pytest
from cuda_cases import CASES, NARROW_STRIDES
from gpuconv.kernels import formulas
from gpuconv.kernels.cuda import tiles
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from kernel_checks import CHECKS, NAN_ONLY, NOT_PROPAGATING, UNPADDED, Data, check_repetition
from simt import Gpu, mutants
from simt.errors import SimtError
from test_cuda_ptx import device  # noqa: F401 (skips this file where NVIDIA's compiler cannot be had)

MODULES = (
    "activation", "correlate", "correlate_filters", "correlate_first", "correlate_pool", "counting", "data",
    "depthwise", "direct", "image", "lanes", "loss", "metric", "narrow", "normalization", "optimizer", "pad", "pool",
    "product", "random", "rows", "slopes", "sums", "vectors",
)  # fmt: skip

# Functions of the table that show what a kernel, or a function that kernels share, does.
SHOWN_BY = {
    "correlation_product": ["correlate2d", "correlate2d_gradient_input"],
    "phase_of": ["correlate2d_gradient_input"],
    "next_place": ["correlate2d"],
    "cells_inside": ["correlate2d"],
    "place_patches": ["correlate2d"],
    "next_stage": ["correlate2d"],
    "stage_before": ["correlate2d"],
    "copy_tile": ["correlate2d"],
    "read_tile": ["correlate2d"],
    "store_tile": ["correlate2d"],
    "sum_splits": ["correlate2d"],
    "prepare_gradient": ["correlate2d_gradient_input"],
    "_advance": ["repetition"],
    "current": ["repetition"],
    "narrow_gradient": ["correlate2d_gradient_input"],
    "fetch_dz": ["correlate2d_gradient_input"],
    "fetch_weights": ["correlate2d_gradient_input"],
    "depthwise_correlation": ["correlate2d"],
    "depthwise_gradient_input": ["correlate2d_gradient_input"],
    "write_run": ["correlate2d"],
    "depthwise_gradient_filters": ["correlate2d_gradient_filters"],
    "read_columns": ["correlate2d"],
    "dz_if": ["correlate2d_gradient_input"],
    "dz4_if": ["correlate2d_gradient_input"],
    "direct_correlation": ["correlate2d"],
    "direct_gradient": ["correlate2d_gradient_input"],
    "seen_from": ["correlate2d_gradient_input"],
    "correlate2d_gradient_filters_kernel": ["correlate2d_gradient_filters"],
    "unpool_kernel": ["correlate2d_max_pool2d_gradient_input"],
    "direct_gradient_filters_kernel": ["correlate2d_gradient_filters"],
    "place_entries": ["correlate2d_gradient_filters"],
    "next_pixel": ["correlate2d_gradient_filters"],
    "copy_patches": ["correlate2d_gradient_filters"],
    "read_patches": ["correlate2d_gradient_filters"],
    "is_inside": ["correlate2d_gradient_filters"],
    "copy_gradients": ["correlate2d_gradient_filters"],
    "read_gradients": ["correlate2d_gradient_filters"],
    "store_sums": ["correlate2d_gradient_filters"],
    "sum_chunks": ["correlate2d_gradient_filters"],
    "correlate_first_kernel": ["correlate2d"],
    "fetch_block": ["correlate2d"],
    "add_bias": ["correlate2d", "correlate2d_max_pool2d"],
    "store_pixels": ["correlate2d"],
    "store_largest": ["correlate2d_max_pool2d"],
    "larger_pixel": ["correlate2d_max_pool2d"],
    "store_filters": ["correlate2d", "correlate2d_max_pool2d"],
    "store_numbers": ["correlate2d_max_pool2d"],
    "sum_pixels_kernel": ["correlate_image"],
    "continued": ["correlate_image"],
    "window_kernel": ["zero_pad2d", "crop2d"],
    "moments_kernel": ["batch_moments"],
    "merge_moments_kernel": ["batch_moments"],
    "merged_squares": ["batch_moments"],
    "column_gradients_kernel": ["batch_normalization_gradient"],
    "add_chunks_kernel": ["batch_normalization_gradient"],
    "input_gradient_kernel": ["batch_normalization_gradient"],
    "mean_loss_kernel": ["mean_squared_error", "sigmoid_binary_cross_entropy"],
    "element_loss": ["mean_squared_error", "binary_cross_entropy", "sigmoid_binary_cross_entropy"],
    "clip_probability": ["cross_entropy", "binary_cross_entropy"],
    "is_clipped": ["cross_entropy", "binary_cross_entropy"],
    "precedes": ["sparse_accuracy", "categorical_accuracy"],
    "largest_column": ["sparse_accuracy"],
    "covering": ["max_pool2d_gradient", "average_pool2d_gradient"],
    "real_cells": ["average_pool2d", "average_pool2d_gradient"],
    "tiled_max_gradient_kernel": ["max_pool2d_gradient"],
    "tiled_average_gradient_kernel": ["average_pool2d_gradient"],
    "sum_kernel": ["sum_into"],
    "sum_of_block": ["sum_into"],
    "sum_of_lanes": ["softmax"],
    "largest_of_lanes": ["softmax"],
    "row_of_lane": ["softmax"],
    "speaks_for_row": ["softmax_cross_entropy", "sparse_accuracy"],
    "read_row": ["softmax"],
    "write_row": ["softmax"],
    "read_part": ["relu"],
    "write_part": ["relu"],
}

# Correlations with few channels, with long sums, of groups, and with sums that blocks share.
SHOWING = (0, 2, 3, 12, -1)

# What these tests cannot notice, and why.
FASTER = "only saves work: what is skipped adds zero"
EQUIVALENT = {
    ("correlation_product", "stage < tiles_left"): FASTER,
    ("correlation_product", "tiles_left > ahead"): FASTER,
    (
        "correlate2d_gradient_filters_kernel",
        "own_filter + e * t.filter_apart < p.group_filters",
    ): "only saves reads: sums past the last filter are not stored",
    ("correlation_product", "tiles_left > 1"): FASTER,
    ("cells_inside", "first_row + a < p.kernel_height"): "patches past the last row meet filters of zero",
    ("seen_from", "moved >= 0"): "to an unsigned division a negative number is a large one",
    ("unpool_kernel", "activation != LINEAR"): "the slope of a linear layer is 1",
    ("narrow_gradient", "f < p.filters"): FASTER,
    (
        "fetch_dz",
        "pixel < t.pixels",
        "(uint32(u) < uint32(p.height)) & (uint32(v) < uint32(p.width)) & (pixel < t.pixels)",
    ): "only saves reads: pixels past the tile are not stored",
    (
        "fetch_weights",
        "entry < t.entries",
        "(entry < t.entries) & (f < p.filters) & (a >= 0) & (b >= 0)",
    ): "only saves reads, as above",
    ("dz_if", "activation != 0"): "the slope of a linear layer is 1",
    ("dz4_if", "activation != 0"): "the slope of a linear layer is 1",
    ("largest_column", "begin + step < end"): "numbers past a row's end repeat the best, which none of them precedes",
    **{
        (kernel, "t.covered > t.chunk"): "only saves reads: the numbers are those that were there"
        for kernel in (
            "softmax_kernel",
            "softmax_gradient_kernel",
            "softmax_cross_entropy_kernel",
            "cross_entropy_kernel",
            "sparse_softmax_cross_entropy_kernel",
        )
    },
    ("regularize_kernel", "absolute != real(0)"): FASTER,
    ("regularize_kernel", "square != real(0)"): FASTER,
}


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    """Grids of one block, which goes over all rows or elements, so that what one round leaves meets the next."""
    monkeypatch.setattr(tiles, "MOST_ROW_BLOCKS", 1)
    monkeypatch.setattr(tiles, "MOST_ELEMENT_BLOCKS", 1)


def calls(name):
    """Calls of a function: its cases, and one with NaN and one with infinities where results are then determined.

    Of the correlations, which take long to compile, a few cases are enough.
    """
    if name == "repetition":
        return [({}, ())]
    cases = [(case, ()) for case in CASES[name]]
    if name.startswith("correlate2d"):
        shown = {
            "correlate2d": [*SHOWING, 1, 4, 7, -2, -3],
            "correlate2d_gradient_input": [*SHOWING, 6, 10, -15, -14],
            "correlate2d_gradient_filters": [0, 5, 6, 8, 9, 10],
            "correlate2d_max_pool2d": [0, -1],
        }
        cases = [cases[number] for number in shown.get(name, [0])]
    if name == "correlate2d_gradient_input":
        # More outputs than weights.
        cases.append(({"geometry": correlation_geometry((2, 6, 5, 9), 1, 5), "activation": formulas.RELU}, ()))
        # Four weights for each thread, and some more.
        cases.append(({"geometry": correlation_geometry((1, 5, 6, 4), 5, 8), "activation": formulas.LINEAR}, ()))
        # Infinities beside pixels that have fewer cells, or none.
        cases.extend((case, (np.inf,) * 8) for case in NARROW_STRIDES[:2])
    special = {**CASES[name][0], **(UNPADDED if name.startswith("correlate2d") and "gradient" in name else {})}
    if name not in NOT_PROPAGATING:
        cases.append((special, (np.nan,) * 8))
        if name not in NAN_ONLY:
            cases.append((special, (-np.inf,) * 3))
    if name == "correlate2d_gradient_filters":
        # NaN beside the last pixels of a line, where no window begins.
        geometry = correlation_geometry((1, 3, 7, 32), 3, 32, groups=32)
        cases.append(({**special, "geometry": geometry}, (np.nan,) * 8))
    if name == "max_pool2d":
        # Windows of several NaN, and padded ones of nothing but infinities.
        cases.append((special, (np.nan,) * 100))
        cases.append(({"geometry": pooling_geometry((1, 3, 3, 1), 2, 1, ((1, 0), (1, 0)))}, (-np.inf,) * 200))
    return cases


def is_noticed(gpu, name):
    """Whether one of the calls is refused, or gives a wrong result."""
    offered = mutants.switchable(MODULES)
    for number, (case, special) in enumerate(calls(name)):
        try:
            with gpu.installed():
                if name == "repetition":
                    check_repetition(offered)
                else:
                    CHECKS[name](offered, Data(number, np.float32, special), **case)
        except (SimtError, AssertionError):
            return True
    return False


# Strips pass through registers where copies cannot be asynchronous: that is a loop of its own.
OLDER, NEWER = (7, 5), (9, 0)
ARCHITECTURES = dict.fromkeys(("correlate_filters", "product"), (NEWER, OLDER))


@functools.cache
def steps(name, capability=NEWER):
    """How long the kernels that a function launches run; and that they, as they are, are not noticed."""
    gpu = Listening(capability)
    assert not is_noticed(gpu, name), name
    return gpu


class Listening(Gpu):
    """A GPU that remembers how many barriers each kernel has."""

    def __init__(self, capability):
        super().__init__(capability)
        self.barriers = {}

    def kernel(self, function, types, bounds=None):
        ready = super().kernel(function, types, bounds)
        count = len(mutants.barriers_of(ready))
        self.barriers[function.__name__] = max(count, self.barriers.get(function.__name__, 0))
        return ready


def limit(name, capability=NEWER):
    """Steps after which a mutant will not end any more."""
    return 4 * steps(name, capability).longest


# What synchronises the threads of its blocks.
SYNCHRONISING = [
    "correlate2d", "correlate2d_gradient_input", "correlate2d_gradient_filters", "batch_moments",
    "batch_normalization_gradient", "regularize", "repetition", "sum_into",
]  # fmt: skip


@pytest.mark.parametrize("name", SYNCHRONISING)
def test_every_barrier_is_missed(name):
    dropped = 0
    for kernel, count in steps(name).barriers.items():
        for number in range(count):
            gpu = mutants.WithoutBarrier(kernel, number, limit=limit(name))
            assert is_noticed(gpu, name), f"barrier {number} of {kernel} can be dropped"
            assert gpu.dropped
            dropped += 1
    assert dropped


def test_no_kernel_with_barriers_is_left_out():
    wanted = mutants.kernels_with_barriers(MODULES)
    found = {kernel for name in SYNCHRONISING for kernel, count in steps(name).barriers.items() if count}
    assert wanted == found


CONDITIONS = mutants.conditions(MODULES)


def shown_by(condition):
    """Functions of the table that show what a comparison is good for."""
    return SHOWN_BY.get(condition.function, [condition.function.removesuffix("_kernel")])


@pytest.mark.parametrize(
    "condition", [condition for condition in CONDITIONS if not condition.places & EQUIVALENT.keys()], ids=str
)
def test_every_comparison_is_missed(condition):
    noticed = (
        is_noticed(mutants.WithoutCondition(condition, limit=limit(name, capability), capability=capability), name)
        for capability in ARCHITECTURES.get(condition.module, (NEWER,))
        for name in shown_by(condition)
    )
    assert any(noticed), "it can be dropped"


def test_what_cannot_be_missed_is_still_there():
    assert EQUIVALENT.keys() <= {place for condition in CONDITIONS for place in condition.places}
