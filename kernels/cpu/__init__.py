"""The CPU device: every name of `gpuconv.kernels.TABLE`, compiled by Numba on first use."""

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

__all__ = [
    "activate",
    "activate_gradient",
    "adam",
    "average_pool2d",
    "average_pool2d_gradient",
    "batch_moments",
    "batch_normalization_gradient",
    "binary_accuracy",
    "binary_cross_entropy",
    "categorical_accuracy",
    "copy",
    "correlate2d",
    "correlate2d_gradient_filters",
    "correlate2d_gradient_input",
    "correlate2d_max_pool2d",
    "correlate2d_max_pool2d_gradient_filters",
    "correlate2d_max_pool2d_gradient_input",
    "correlate_image",
    "crop2d",
    "cross_entropy",
    "dense",
    "dense_gradient_input",
    "dense_gradient_kernel",
    "dropout",
    "empty",
    "from_host",
    "gather",
    "max_pool2d",
    "max_pool2d_gradient",
    "mean_squared_error",
    "moving_average",
    "normalize",
    "put",
    "regularize",
    "relu",
    "relu_gradient",
    "repetition",
    "rmsprop",
    "sgd",
    "sigmoid_binary_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
    "softmax_gradient",
    "sparse_accuracy",
    "sparse_cross_entropy",
    "sparse_softmax_cross_entropy",
    "sum_into",
    "synchronize",
    "to_host",
    "zero_pad2d",
    "zeros",
]
