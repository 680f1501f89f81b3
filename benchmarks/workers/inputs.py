"""Inputs of the cases: NumPy arrays from fixed seeds, the same for every library.

Axes are N, H, W, C for pictures and kernel height, kernel width, channels, filters for filters.
"""

import numpy as np


def normal(*shape, seed=0):
    """Random numbers around zero, float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def correlation(case):
    """Pictures, filters, bias, and the gradient by the output."""
    batch, height, width, channels = case["shape"]
    kernel, filters = case["kernel"], case["filters"]
    reach = (kernel - 1) * case["dilation"] + 1
    rows, columns = ((extent + 2 * case["padding"] - reach) // case["stride"] + 1 for extent in (height, width))
    return (
        normal(batch, height, width, channels),
        normal(kernel, kernel, channels // case["groups"], filters, seed=1),
        normal(filters, seed=2),
        normal(batch, rows, columns, filters, seed=3),
    )


def image(case):
    """A picture and a kernel."""
    return normal(case["side"], case["side"]), normal(case["kernel"], case["kernel"], seed=1)


def network(case):
    """Pictures and labels for the steps of one call; random, since the time does not depend on what they show."""
    count = case["batch"] * case["steps"]
    shape = (8, 8, 1) if case["network"] == "digits" else (32, 32, 3)
    random = np.random.default_rng(0)
    return random.random((count, *shape), np.float32), random.integers(0, 10, count)


# What start-up and memory are measured with.
FIRST_STEP = {"network": "digits", "batch": 100, "steps": 1}
MEMORY = {"network": "cifar10", "batch": 128, "steps": 10}
