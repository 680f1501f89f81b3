"""One weight array of a layer."""

import numpy as np


class Variable:
    """A named array of weights with its gradient.

    Until its model computes for the first time the value is a NumPy array; then it is a view
    into the flat buffer of all parameters on the model's device, and `gradient` a view into
    the flat buffer of gradients.  Kernels read `value` and write `gradient`.
    """

    def __init__(self, name, value, trainable=True, regularizer=None):
        self.name = name
        self.value = value
        self.gradient = None
        self.trainable = trainable
        self.regularizer = regularizer
        self._device = None

    @property
    def shape(self):
        """Shape of the array."""
        return tuple(self.value.shape)

    @property
    def size(self):
        """Number of weights."""
        return int(np.prod(self.shape))

    @property
    def dtype(self):
        """NumPy dtype of the array."""
        return np.dtype(self.value.dtype)

    def bind(self, device, value, gradient=None):
        """Move the present weights to `value`, an array of `device`, and live there from now on."""
        device.copy(device.from_host(self.numpy()), value)
        self.value, self.gradient, self._device = value, gradient, device

    def release(self):
        """Take the weights back from the device into a NumPy array."""
        self.value, self.gradient, self._device = self.numpy(), None, None

    def numpy(self):
        """A copy of the weights as a NumPy array."""
        return self.value.copy() if self._device is None else self._device.to_host(self.value)

    def assign(self, value):
        """Set the weights to an array of the same shape."""
        value = np.asarray(value)
        if value.dtype.kind not in "biuf":
            raise TypeError(f"{self.name}: expected an array of numbers, received dtype {value.dtype}")
        if value.shape != self.shape:
            raise ValueError(f"{self.name}: expected an array of shape {self.shape}, received {value.shape}")
        value = np.ascontiguousarray(value, self.dtype)
        if self._device is None:
            self.value[...] = value
        else:
            self._device.copy(self._device.from_host(value), self.value)

    def __repr__(self):
        return f"<variable {self.name!r}, shape {self.shape}>"
