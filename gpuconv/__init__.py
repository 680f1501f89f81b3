"""gpuconv: convolutional neural networks in readable Numba kernels, on CPU and CUDA.

Keras's names for models, layers, losses and the rest; the arithmetic stands in
`gpuconv.kernels`, written to be read.  Importing compiles nothing: kernels are compiled
when first used, and kept on disk.
"""

__version__ = "0.1.0"

from . import (
    activations,
    callbacks,
    datasets,
    device,
    filters,
    functional,
    initializers,
    layers,
    losses,
    metrics,
    model_selection,
    models,
    optimizers,
    plotting,
    regularizers,
    signal,
    utils,
)
from .device import (
    DeviceError,
    get_num_threads,
    get_precision,
    get_winograd,
    set_num_threads,
    set_precision,
    set_winograd,
    show_config,
    use_device,
)
from .layers import Input
from .models import Sequential, warmup

__all__ = [
    "DeviceError",
    "Input",
    "Sequential",
    "activations",
    "callbacks",
    "datasets",
    "device",
    "filters",
    "functional",
    "get_num_threads",
    "get_precision",
    "get_winograd",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "model_selection",
    "models",
    "optimizers",
    "plotting",
    "regularizers",
    "set_num_threads",
    "set_precision",
    "set_winograd",
    "show_config",
    "signal",
    "use_device",
    "utils",
    "warmup",
]
