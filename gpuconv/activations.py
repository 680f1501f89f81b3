"""Activations: the functions that layers apply to their pre-activations ``z``.

An activation whose slope can be had from its value alone is fused into the kernel that
produces ``z`` (see `gpuconv.kernels.formulas`); GELU and softmax run as a pass of their own,
and the layer keeps ``z``.
"""

import math

from . import checks
from .interchange import Borrowed
from .kernels import formulas


class ActivationFunction:
    """An elementwise activation, fused where possible.

    Instances are called with an array and return one of the same kind.

    Examples
    --------
    >>> import numpy as np
    >>> leaky_relu(np.array([-1.0, 2.0]))
    array([-0.2,  2. ])
    """

    def __init__(self, name, code, alpha=0.0):
        self.name = name
        self.code = code
        self.alpha = alpha

    @property
    def fusable(self):
        """Whether the kernel that produces ``z`` can apply the activation at once."""
        return self.code <= formulas.LAST_FUSABLE

    def forward(self, device, z, y):
        """y = activation(z)."""
        device.activate(z, self.code, self.alpha, y)

    def backward(self, device, z, y, dy, dz):
        """dz = dy * activation'(z)."""
        device.activate_gradient(z, dy, self.code, self.alpha, dz)

    def __call__(self, x):
        """The activation of an array of any shape."""
        borrowed = Borrowed(x=x)
        y = borrowed.empty(borrowed.arrays[0].shape)
        self.forward(borrowed.device, borrowed.arrays[0], y)
        return borrowed.give_back(y)

    def __repr__(self):
        return f"<activation {self.name!r}>"


class ClippedRelu(ActivationFunction):
    """Keras's general ReLU, with a leak, a cap and a threshold: not fused.

    `max_value` from there on, ``x`` above `threshold`, ``negative_slope * (x - threshold)`` up
    to it.
    """

    fusable = False

    def __init__(self, name="relu", negative_slope=0.0, max_value=None, threshold=0.0):
        self.name = name
        self.negative_slope = checks.real("negative_slope", negative_slope, low=0.0)
        self.max_value = math.inf if max_value is None else checks.real("max_value", max_value, low=0.0)
        self.threshold = checks.real("threshold", threshold, low=0.0)

    def forward(self, device, z, y):
        device.relu(z, self.negative_slope, self.max_value, self.threshold, y)

    def backward(self, device, z, y, dy, dz):
        device.relu_gradient(z, dy, self.negative_slope, self.max_value, self.threshold, dz)


class SoftmaxFunction(ActivationFunction):
    """``exp(z_j) / sum_k exp(z_k)`` over the last axis: not fused."""

    fusable = False

    def __init__(self):
        self.name = "softmax"

    def forward(self, device, z, y):
        device.softmax(_rows(z), _rows(y))

    def backward(self, device, z, y, dy, dz):
        device.softmax_gradient(_rows(y), _rows(dy), _rows(dz))


def _rows(array):
    """A matrix view whose rows are the last axis."""
    # Not shape[-1]: like kernels, shapes of Numba's simulator take no negative indices.
    return array if len(array.shape) == 2 else array.reshape(-1, array.shape[len(array.shape) - 1])


linear = ActivationFunction("linear", formulas.LINEAR)
relu = ActivationFunction("relu", formulas.RELU)
relu6 = ClippedRelu("relu6", max_value=6.0)
leaky_relu = ActivationFunction("leaky_relu", formulas.LEAKY_RELU, 0.2)
sigmoid = ActivationFunction("sigmoid", formulas.SIGMOID)
tanh = ActivationFunction("tanh", formulas.TANH)
elu = ActivationFunction("elu", formulas.ELU, 1.0)
softplus = ActivationFunction("softplus", formulas.SOFTPLUS)
gelu = ActivationFunction("gelu", formulas.GELU)
softmax = SoftmaxFunction()

_REGISTRY = {
    activation.name: activation
    for activation in (linear, relu, relu6, leaky_relu, sigmoid, tanh, elu, softplus, gelu, softmax)
}


def get(identifier):
    """Read a Keras identifier: None (linear), a name such as ``'relu'``, or an activation of this module.

    Raises
    ------
    ValueError, TypeError
        If there is no such activation.
    """
    if identifier is None:
        return linear
    if isinstance(identifier, ActivationFunction):
        return identifier
    if isinstance(identifier, str):
        checks.choice("activation", identifier, _REGISTRY)
        return _REGISTRY[identifier]
    raise TypeError(f"activation: expected a string or an activation of gpuconv, received {identifier!r}")
