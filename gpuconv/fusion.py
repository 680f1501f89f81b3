"""Layers that a model computes together: a correlation and the max pooling after it.

The pair's kernels never store what lies between the two, which for the first layer of a network is more than all else.
Nothing of it is to be seen from outside: the model's layers are those that were given, and work by themselves.
"""

from types import SimpleNamespace

from .kernels.geometry import poolable
from .layers import Conv2D, DepthwiseConv2D, MaxPooling2D


class PooledCorrelation:
    """A correlation and the max pooling after it, as one part of a model.

    ``y = max over the windows of activation(z)``; backward, ``dz`` is ``dy * activation'(z)`` at the winners, and 0
    elsewhere, and the gradients are those of `Conv2D`.

    Parameters
    ----------
    correlation : Conv2D
    pooling : MaxPooling2D
    """

    def __init__(self, correlation, pooling):
        self.correlation, self.pooling = correlation, pooling
        self.activation = correlation.activation

    @property
    def variables(self):
        """The weights, as of a layer."""
        return self.correlation.variables

    def plan(self, batch, array, training, wants_dx):
        """As of a layer, and so are `forward` and `backward`."""
        correlation = self.correlation.plan_weights(batch)
        return SimpleNamespace(
            **vars(correlation),
            pool=self.pooling.geometry.for_batch(batch),
            y=array("y", self.pooling.output_shape),
            winner=array("winner", self.pooling.output_shape, self.pooling.geometry.winner_dtype),
            dx=array("dx", self.correlation.input_shape) if wants_dx else None,
        )

    def forward(self, x, state, training):
        """Compute and return ``y``."""
        state.x = x
        self.correlation.device.correlate2d_max_pool2d(
            x, state.filters, self.correlation.bias.value, state.geometry, self.activation.code, self.activation.alpha,
            state.pool, state.y, state.winner,
        )  # fmt: skip
        return state.y

    def backward(self, dy, state, wants_dx):
        """Write the gradients of the weights; return ``dx``, or None if it is not wanted."""
        device, code, alpha = self.correlation.device, self.activation.code, self.activation.alpha
        device.correlate2d_max_pool2d_gradient_filters(
            state.x, dy, state.y, state.winner, state.geometry, code, alpha, state.pool,
            state.dfilters, self.correlation.bias.gradient,
        )  # fmt: skip
        if not wants_dx:
            return None
        device.correlate2d_max_pool2d_gradient_input(
            dy, state.y, state.winner, state.filters, state.geometry, code, alpha, state.pool, state.dx
        )
        return state.dx


def parts_of(layers):
    """The layers of a model, with pairs that can be computed together in place of their two layers.

    Only the library's own layers are known to compute nothing else.
    """
    parts = []
    for layer in layers:
        before = parts[-1] if parts else None
        if _fits(before, layer):
            parts[-1] = PooledCorrelation(before, layer)
        else:
            parts.append(layer)
    return parts


def _fits(layer, following):
    return (
        type(layer) in (Conv2D, DepthwiseConv2D)
        and type(following) is MaxPooling2D
        and layer.activation.fusable
        and poolable(layer.geometry, following.geometry)
    )
