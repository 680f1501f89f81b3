"""Extents and padding of sliding windows against counting, against Keras's rules, and every refusal."""

import re

import numpy as np
import pytest
from gpuconv.kernels.geometry import (
    Geometry,
    as_pair,
    correlation_geometry,
    int32_geometry,
    pooling_geometry,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from support import correlations, explicit_padding, pairs, poolings


def count_positions(extent, before, after, kernel, stride, dilation):
    """How often a window fits: try every place of its first cell."""
    cells = range(-before, extent + after)
    count = 0
    for first in cells[::stride]:
        if all(first + j * dilation in cells for j in range(kernel)):
            count += 1
    return count


def axes(geometry):
    """The numbers of the vertical and of the horizontal axis, in the order of `count_positions`, and the output."""
    g = geometry
    return [
        (g.height, g.pad_top, g.pad_bottom, g.kernel_height, g.stride_height, g.dilation_height, g.out_height),
        (g.width, g.pad_left, g.pad_right, g.kernel_width, g.stride_width, g.dilation_width, g.out_width),
    ]


@given(correlations())
def test_output_extents_are_the_number_of_places_of_the_window(geometry):
    for *axis, out in axes(geometry):
        assert out == count_positions(*axis)


@given(poolings())
def test_output_extents_of_pooling(geometry):
    for *axis, out in axes(geometry):
        assert out == count_positions(*axis)
    assert geometry.groups == geometry.channels == geometry.out_channels
    assert (geometry.dilation_height, geometry.dilation_width) == (1, 1)


@given(poolings())
def test_every_pooling_window_holds_a_real_cell(geometry):
    for extent, before, _, kernel, stride, _, out in axes(geometry):
        for i in range(out):
            assert any(0 <= i * stride - before + j < extent for j in range(kernel))


kernel_sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))
pictures = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3))


@given(pictures, kernel_sizes, pairs, pairs)
def test_same_is_keras_same(picture, kernel_size, strides, dilation):
    geometry = correlation_geometry(picture, kernel_size, 1, strides, "same", dilation)
    for extent, before, after, kernel, stride, spacing, out in axes(geometry):
        reach = (kernel - 1) * spacing + 1
        assert out == -(-extent // stride)
        assert before + after == max(0, (out - 1) * stride + reach - extent)
        assert after - before in (0, 1)  # the odd cell at the bottom and right


@given(pictures, kernel_sizes, pairs, pairs)
def test_valid_is_keras_valid(picture, kernel_size, strides, dilation):
    reaches = [(kernel - 1) * spacing + 1 for kernel, spacing in zip(kernel_size, dilation, strict=True)]
    assume(reaches[0] <= picture[1] and reaches[1] <= picture[2])
    geometry = correlation_geometry(picture, kernel_size, 1, strides, "valid", dilation)
    assert (geometry.pad_top, geometry.pad_bottom, geometry.pad_left, geometry.pad_right) == (0, 0, 0, 0)
    for axis, reach in zip(axes(geometry), reaches, strict=True):
        extent, stride, out = axis[0], axis[4], axis[6]
        assert out == (extent - reach) // stride + 1


@given(pictures, kernel_sizes, pairs)
def test_full_is_every_overlap(picture, kernel_size, dilation):
    geometry = correlation_geometry(picture, kernel_size, 1, 1, "full", dilation)
    for extent, _, _, kernel, _, spacing, out in axes(geometry):
        assert out == extent + (kernel - 1) * spacing


@given(pictures, pairs, explicit_padding((2, 2)))
def test_explicit_padding_stands_as_given(picture, kernel_size, padding):
    height, width = picture[1] + sum(padding[0]), picture[2] + sum(padding[1])
    assume(kernel_size[0] <= height and kernel_size[1] <= width)
    geometry = correlation_geometry(picture, kernel_size, 1, padding=padding)
    assert ((geometry.pad_top, geometry.pad_bottom), (geometry.pad_left, geometry.pad_right)) == padding


@pytest.mark.parametrize(
    ("padding", "sides"),
    [
        (2, (2, 2, 2, 2)),
        ((1, 2), (1, 1, 2, 2)),
        ([1, 2], (1, 1, 2, 2)),
        (((0, 1), (2, 3)), (0, 1, 2, 3)),
        ([[0, 1], [2, 3]], (0, 1, 2, 3)),
        (np.int64(1), (1, 1, 1, 1)),
    ],
)
def test_forms_of_padding(padding, sides):
    g = correlation_geometry((1, 9, 9, 1), 3, 1, padding=padding)
    assert (g.pad_top, g.pad_bottom, g.pad_left, g.pad_right) == sides


def test_shapes():
    geometry = correlation_geometry((5, 9, 8, 6), (3, 2), 4, (2, 1), groups=2)
    assert geometry.input_shape == (5, 9, 8, 6)
    assert geometry.output_shape == (5, 4, 7, 4)
    assert geometry.filters_shape == (3, 2, 3, 4)
    assert geometry.for_batch(7).input_shape == (7, 9, 8, 6)
    assert geometry.for_batch(7).for_batch(5) == geometry


def test_all_numbers_are_pythons_integers():
    geometry = correlation_geometry(
        np.array([1, 9, 9, 2]), np.int32(3), np.int64(4), (np.int32(2), 1), np.uint8(1), groups=np.int64(2)
    )
    assert {type(extent) for extent in geometry} == {int}


def test_pooling_windows_touch_unless_told_otherwise():
    geometry = pooling_geometry((1, 9, 9, 2), (2, 3))
    assert (geometry.stride_height, geometry.stride_width) == (2, 3)
    assert pooling_geometry((1, 9, 9, 2), (2, 3), 1).output_shape == (1, 8, 7, 2)


# ---------------------------------------------------------------------------------------------------
# refusals name the argument, what was expected and what was received

PICTURE = (1, 5, 4, 6)
REFUSALS = [
    (TypeError, "strides: expected an integer or a pair of integers, received 1.5", {"strides": 1.5}),
    (TypeError, "strides: expected an integer or a pair of integers, received (1, 2, 3)", {"strides": (1, 2, 3)}),
    (TypeError, "strides: expected an integer or a pair of integers, received True", {"strides": True}),
    (TypeError, "strides: expected an integer or a pair of integers, received None", {"strides": None}),
    (TypeError, "kernel_size: expected an integer or a pair of integers, received '3'", {"kernel_size": "3"}),
    (ValueError, "kernel_size: expected integers >= 1, received (0, 3)", {"kernel_size": (0, 3)}),
    (ValueError, "strides: expected integers >= 1, received (2, 0)", {"strides": (2, 0)}),
    (ValueError, "dilation: expected integers >= 1, received -1", {"dilation": -1}),
    (ValueError, "padding: expected integers >= 0, received (0, -1)", {"padding": ((0, 0), (0, -1))}),
    (ValueError, "padding: expected integers >= 0, received -2", {"padding": -2}),
    (TypeError, "padding: expected an integer or a pair of integers, received (1, 2, 3)", {"padding": (1, 2, 3)}),
    (ValueError, "padding: expected 'valid', 'same', 'full' or integers, received 'SAME'", {"padding": "SAME"}),
    (ValueError, "out_channels: expected an integer >= 1, received 0", {"out_channels": 0}),
    (ValueError, "out_channels: expected an integer >= 1, received 2.0", {"out_channels": 2.0}),
    (ValueError, "groups: expected an integer >= 1, received False", {"groups": False}),
    (
        ValueError,
        "groups: expected a divisor of the input channels and of the number of filters, "
        "received 4 for 6 input channels and 8 filters",
        {"groups": 4},
    ),
    (
        ValueError,
        "groups: expected a divisor of the input channels and of the number of filters, "
        "received 3 for 6 input channels and 8 filters",
        {"groups": 3},
    ),
    (
        ValueError,
        "kernel_size: expected a window that fits into the padded input, received a window reaching over 3 x 5 cells "
        "for an input of 5 x 4 with padding ((0, 0), (0, 0))",
        {"kernel_size": (3, 3), "dilation": (1, 2)},
    ),
    (
        ValueError,
        "input_shape: expected four extents >= 1, (batch, height, width, channels), received (5, 4, 6)",
        {"input_shape": (5, 4, 6)},
    ),
    (
        ValueError,
        "input_shape: expected four extents >= 1, (batch, height, width, channels), received (0, 5, 4, 6)",
        {"input_shape": (0, 5, 4, 6)},
    ),
    (
        ValueError,
        "input_shape: expected four extents >= 1, (batch, height, width, channels), received (1, 5.0, 4, 6)",
        {"input_shape": (1, 5.0, 4, 6)},
    ),
]


@pytest.mark.parametrize(("error", "message", "changed"), REFUSALS)
def test_refused_correlations(error, message, changed):
    arguments = {"input_shape": PICTURE, "kernel_size": 3, "out_channels": 8, **changed}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        correlation_geometry(**arguments)


POOLING_REFUSALS = [
    (TypeError, "pool_size: expected an integer or a pair of integers, received 2.0", {"pool_size": 2.0}),
    (ValueError, "pool_size: expected integers >= 1, received 0", {"pool_size": 0}),
    (ValueError, "strides: expected integers >= 1, received 0", {"strides": 0}),
    (
        ValueError,
        "padding: expected 'valid', 'same' or explicit padding for pooling, received 'full'",
        {"padding": "full"},
    ),
    (
        ValueError,
        "padding: expected less than pool_size, so that every window holds a real cell, "
        "received ((0, 2), (0, 0)) with pool_size (2, 2)",
        {"padding": ((0, 2), (0, 0))},
    ),
    (
        ValueError,
        "padding: expected less than pool_size, so that every window holds a real cell, "
        "received 1 with pool_size (3, 1)",
        {"pool_size": (3, 1), "padding": 1},
    ),
    (
        ValueError,
        "pool_size: expected a window that fits into the padded input, received a window reaching over 6 x 6 cells "
        "for an input of 5 x 4 with padding ((0, 0), (0, 0))",
        {"pool_size": 6},
    ),
    (
        ValueError,
        "input_shape: expected four extents >= 1, (batch, height, width, channels), received (5, 4)",
        {"input_shape": (5, 4)},
    ),
]


@pytest.mark.parametrize(("error", "message", "changed"), POOLING_REFUSALS)
def test_refused_poolings(error, message, changed):
    arguments = {"input_shape": PICTURE, "pool_size": 2, **changed}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        pooling_geometry(**arguments)


def test_as_pair():
    assert as_pair("strides", [2, 3]) == (2, 3)
    assert as_pair("padding", 0, smallest=0) == (0, 0)


# ---------------------------------------------------------------------------------------------------
# 32-bit geometries


def test_int32_geometry():
    geometry = correlation_geometry((5, 9, 8, 6), (3, 2), 4, (2, 1), groups=2)
    narrow = int32_geometry(geometry)
    assert isinstance(narrow, Geometry)
    assert narrow == geometry
    assert {type(extent) for extent in narrow} == {np.int32}


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (
            correlation_geometry((1 << 15, 256, 256, 1), 3, 1, 8),
            "input_shape: expected at most 2**31 - 1 elements on CUDA, whose kernels index with 32 bits, "
            "received (32768, 256, 256, 1) with 2147483648; use smaller batches",
        ),
        (
            correlation_geometry((1 << 15, 256, 256, 1), 1, 2, 2),
            "input_shape: expected at most 2**31 - 1 elements",
        ),
        (
            correlation_geometry((1 << 10, 64, 64, 1), 1, 512),
            "output_shape: expected at most 2**31 - 1 elements",
        ),
        (
            correlation_geometry((1, 1, 1, 1 << 16), 1, 1 << 15),
            "filters_shape: expected at most 2**31 - 1 elements",
        ),
        # Products that 64 bits would wrap around to 0.
        (
            correlation_geometry((1 << 32, 1 << 16, 1 << 16, 1), 1, 1),
            "input_shape: expected at most 2**31 - 1 elements",
        ),
    ],
)
def test_int32_geometry_refuses_what_32_bits_cannot_index(geometry, message):
    with pytest.raises(OverflowError, match=f"^{re.escape(message)}"):
        int32_geometry(geometry)


def test_int32_geometry_takes_the_largest_array():
    geometry = correlation_geometry((1, 1, 2**31 - 1, 1), 1, 1)
    assert int32_geometry(geometry).width == 2**31 - 1
