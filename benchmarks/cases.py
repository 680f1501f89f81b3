"""What is measured: one dictionary of plain values a case, which every worker understands.

``section`` and ``work`` name a case; ``operation`` and the values behind it say what to compute; ``flops`` and
``bytes`` say how much of it there is, or are None where the number means nothing.
"""

# Libraries by section, gpuconv first.  A worker of benchmarks/workers serves each: see `processes.WORKERS`.
SECTIONS = {
    "correlation": ("gpuconv", "torch", "tensorflow", "jax"),
    "training": ("gpuconv", "torch", "keras", "keras-jax"),
    "image": ("gpuconv", "opencv", "scipy.ndimage", "scipy.signal", "scipy.oaconvolve"),
    "elementwise": ("gpuconv", "torch", "numpy"),
    "memory": ("gpuconv", "torch"),
    "startup": ("gpuconv", "torch", "keras"),
    "growth": ("gpuconv", "torch"),
}

# (batch, height, width, channels), filters, padding
SHAPES = [
    ((128, 32, 32, 3), 32, "valid"),
    ((128, 15, 15, 32), 64, "valid"),
    ((128, 6, 6, 64), 64, "valid"),
    ((32, 56, 56, 64), 64, "same"),
    ((16, 28, 28, 128), 128, "same"),
    ((128, 28, 28, 1), 32, "valid"),
]

# name: kernel extent, stride, dilation, whether depthwise
VERSIONS = {
    "3x3": (3, 1, 1, False),
    "5x5": (5, 1, 1, False),
    "1x1": (1, 1, 1, False),
    "3x3 stride 2": (3, 2, 1, False),
    "3x3 dilation 2": (3, 1, 2, False),
    "3x3 depthwise": (3, 1, 1, True),
}

DIRECTIONS = {"forward": "forward", "by input": "gradient_input", "by filters": "gradient_filters"}

IMAGE_KERNELS = (3, 5, 7, 9, 11, 15, 21, 31)

MEBIBYTE = 2**20


def correlation_cases():
    """Forward and both gradients of every version of every shape."""
    for shape, filters, padding in SHAPES:
        for version, (kernel, stride, dilation, depthwise) in VERSIONS.items():
            # A depthwise layer needs channels to keep apart.
            if depthwise and shape[3] < 32:
                continue
            # On every side: what "same" is for stride 1.  For stride 2 libraries differ about "same".
            pad = dilation * (kernel - 1) // 2 if padding == "same" else 0
            count = shape[3] if depthwise else filters
            extents = "x".join(map(str, shape))
            for direction in DIRECTIONS:
                work = f"{extents} -> {count}, {version}, {direction}"
                yield correlation_case(
                    "correlation", work, DIRECTIONS[direction], shape, count, kernel, stride, dilation, pad,
                    groups=shape[3] if depthwise else 1,
                )  # fmt: skip


def correlation_case(
    section, work, operation, shape, filters, kernel=3, stride=1, dilation=1, padding=0, groups=1, **more
):
    """One correlation; its multiplications and additions count as two operations, padding included."""
    reach = (kernel - 1) * dilation + 1
    rows, columns = ((extent + 2 * padding - reach) // stride + 1 for extent in shape[1:3])
    flops = 2 * shape[0] * rows * columns * kernel**2 * (shape[3] // groups) * filters
    return {
        "section": section, "work": work, "operation": operation, "shape": list(shape), "filters": filters,
        "kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding, "groups": groups,
        "flops": flops, "bytes": None, **more,
    }  # fmt: skip


def training_cases(quick):
    """Steps of training and batches of inference; `steps` of them make one call, so that calls cost little."""
    for network, batch, steps in (("digits", 100, 200), ("cifar10", 32, 16), ("cifar10", 128, 8)):
        title = {"digits": "digits", "cifar10": "CIFAR-10"}[network]
        for operation, words in (("train", "training step"), ("predict", "inference")):
            yield {
                "section": "training", "work": f"{title}, batch {batch}, {words}", "operation": operation,
                "network": network, "batch": batch, "steps": steps // 8 if quick else steps,
                "flops": None, "bytes": None,
            }  # fmt: skip


def image_cases(side=2048):
    """One picture with square kernels, zeros beyond its edges."""
    for kernel in IMAGE_KERNELS:
        yield {
            "section": "image", "work": f"{side}x{side}, {kernel}x{kernel}", "operation": "correlate_image",
            "side": side, "kernel": kernel, "flops": 2 * side**2 * kernel**2, "bytes": None,
        }  # fmt: skip


def elementwise_cases(mebibytes=64):
    """Operations that memory bounds: arrays of 64 MiB, and how many bytes must move at least."""
    whole = mebibytes * MEBIBYTE
    # Pooling leaves a quarter; its winners take a byte for each output of four.
    quarter, winners = whole // 4, whole // 16
    pictures = [mebibytes, 128, 128, 16]
    flat = [whole // 4]
    for operation, shape, moved in (
        ("max_pool2d", pictures, whole + quarter + winners),
        ("max_pool2d_gradient", pictures, quarter + winners + whole),
        ("average_pool2d", pictures, whole + quarter),
        ("average_pool2d_gradient", pictures, quarter + whole),
        ("relu", flat, 2 * whole),
        ("relu_gradient", flat, 3 * whole),
        ("sigmoid", flat, 2 * whole),
        ("softmax", [whole // 64, 16], 2 * whole),
        # Half of the numbers; the mask is drawn, not read.
        ("dropout", flat, 2 * whole),
        # Gradient and parameter are read, the parameter is written; Adam has two moments besides.
        ("sgd", flat, 3 * whole),
        ("adam", flat, 7 * whole),
    ):
        yield {
            "section": "elementwise", "work": operation.replace("_gradient", " gradient"), "operation": operation,
            "shape": shape, "flops": None, "bytes": moved,
        }  # fmt: skip


def growth_cases(quick):
    """One layer forward, as the batch, the picture or the channels grow; `images` tells the time per image."""
    exponents = {"batch": range(11), "side": range(3, 10), "channels": range(10)}
    shapes = {
        "batch": lambda extent: ((extent, 32, 32, 32), 32),
        "side": lambda extent: ((1, extent, extent, 32), 32),
        "channels": lambda extent: ((8, 16, 16, extent), extent),
    }
    for axis, shape_of in shapes.items():
        for exponent in exponents[axis][:: 3 if quick else 1]:
            extent = 2**exponent
            shape, filters = shape_of(extent)
            yield correlation_case(
                "growth", f"{axis} {extent}", "forward", shape, filters, padding=1,
                axis=axis, extent=extent, images=shape[0],
            )  # fmt: skip


def timed_cases(section, quick=False):
    """The cases of a section that workers time; memory and start-up are measured in processes of their own."""
    made = {
        "correlation": correlation_cases,
        "training": lambda: training_cases(quick),
        "image": image_cases,
        "elementwise": elementwise_cases,
        "growth": lambda: growth_cases(quick),
    }
    return list(made[section]()) if section in made else []
