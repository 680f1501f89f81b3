"""The CUDA device: every function of `gpuconv.kernels.TABLE`, on arrays of Numba's CUDA target.

Importing this package never fails for want of CUDA: `probe` says whether a device answers, and the
functions of the table are there only if Numba's CUDA target is.
"""

# ruff: noqa: F401 (the names are imported to be offered here)

from .toolkit import cuda as _cuda
from .toolkit import describe, probe

if _cuda is not None:
    from .activation import activate, activate_gradient, relu, relu_gradient, softmax, softmax_gradient
    from .correlate import correlate2d, correlate2d_gradient_filters, correlate2d_gradient_input
    from .correlate_pool import (
        correlate2d_max_pool2d,
        correlate2d_max_pool2d_gradient_filters,
        correlate2d_max_pool2d_gradient_input,
    )
    from .data import gather, put, sum_into
    from .dense import dense, dense_gradient_input, dense_gradient_kernel
    from .image import correlate_image
    from .loss import (
        binary_cross_entropy,
        cross_entropy,
        mean_squared_error,
        sigmoid_binary_cross_entropy,
        softmax_cross_entropy,
        sparse_cross_entropy,
        sparse_softmax_cross_entropy,
    )
    from .memory import copy, empty, from_host, synchronize, to_host, zeros
    from .metric import binary_accuracy, categorical_accuracy, sparse_accuracy
    from .normalization import batch_moments, batch_normalization_gradient, moving_average, normalize
    from .optimizer import adam, regularize, rmsprop, sgd
    from .pad import crop2d, zero_pad2d
    from .pool import average_pool2d, average_pool2d_gradient, max_pool2d, max_pool2d_gradient
    from .random import dropout
    from .repetition import repetition
