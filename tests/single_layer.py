"""One layer by itself: its output, and its gradients for any gradient that arrives at the output.

A model wants no gradient by its own input.  So the layer is put in a model of its own, which lends it weights
on the device and buffers, but it is planned, called and asked for all gradients here.
"""

import numpy as np

from gpuconv import layers, models


class SingleLayer:
    """A layer with its buffers.

    Parameters
    ----------
    layer : Layer
        A new one.
    input_shape : tuple of int
        With the batch.
    dtype : {'float64', 'float32'}
    """

    def __init__(self, layer, input_shape, dtype="float64"):
        batch, *sample_shape = input_shape
        self.layer = layer
        self.model = models.Sequential([layers.Input(sample_shape), layer], dtype=dtype)
        self.model._bind()
        self.model._states(batch, training=True)  # from here on the model lends buffers of this batch
        self.state = layer.plan(batch, self.model._allocator("single layer", batch), True, True)

    @property
    def device(self):
        """The device that computes."""
        return self.layer.device

    def forward(self, x, training=True):
        """The output.  Every call is the first step of training, so that a layer drops the same numbers each time."""
        if isinstance(self.layer, layers.Dropout):
            self.layer.calls = 0
        x = self.device.from_host(np.ascontiguousarray(x, self.model.dtype))
        return self.device.to_host(self.layer.forward(x, self.state, training))

    def backward(self, dy):
        """Gradients for the input of the last `forward`: 'input' and the names of the trainable weights."""
        dy = self.device.from_host(np.ascontiguousarray(dy, self.model.dtype))
        dx = self.layer.backward(dy, self.state, True)
        gradients = {"input": self.device.to_host(dx)}
        for variable in self.layer.variables:
            if variable.trainable:
                gradients[variable.name] = self.device.to_host(variable.gradient)
        return gradients
