"""Layers, with Keras's names, arguments and defaults, and backprop written out by hand.

A layer has three parts that a reader can follow on paper:

- `build` makes its weights, once the shape of its input is known;
- `forward` computes ``y`` from ``x``;
- `backward` gets ``dy = dL/dy`` and computes ``dx = dL/dx``, and the gradients of the weights.

Arrays of one batch size (outputs, gradients, what the way back needs) live in a *state*
that `plan` makes once and every step reuses.  Pictures are ``(batch, height, width,
channels)``.
"""

from types import SimpleNamespace

import numpy as np

from . import activations, checks, initializers, regularizers, seeds
from .kernels.formulas import LEAKY_RELU, LINEAR
from .kernels.geometry import as_pair, as_sides, correlation_geometry, is_integer, pooling_geometry
from .kernels.repetition import Counter
from .variable import Variable


class Layer:
    """Base class.

    Parameters
    ----------
    name : str, optional
        Default: the kind of layer and a number, given by the model.
    input_shape : tuple of int, optional
        Shape of one sample, without the batch: stands for an `Input` layer before this one.
    """

    # Number of axes of one sample that the layer takes; None: any.
    rank = None

    # Whether a step of training calls the same kernels with the same arguments as the one before.  Memory is then
    # asked for in `plan` alone.
    repeatable = True

    def __init__(self, name=None, input_shape=None):
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name: expected a string, received {name!r}")
        self.name = name
        self.given_input_shape = None if input_shape is None else _checked_shape("input_shape", input_shape)
        self.input_shape = None
        self.output_shape = None
        self.variables = []
        # Arrays that kernels need where a layer has no weight, such as the zeros of an absent bias.
        self.constants = []
        self.device = None
        # Whether a model has it: two cannot share one.
        self.owned = False

    @property
    def built(self):
        """Whether the weights exist."""
        return self.output_shape is not None

    def build(self, input_shape, dtype="float32"):
        """Make the weights for samples of the given shape, and work out `output_shape`."""
        if self.rank is not None and len(input_shape) != self.rank:
            axes = {1: "(features,)", 3: "(height, width, channels)"}[self.rank]
            hint = "; a Flatten layer goes before a Dense one" if self.rank == 1 else ""
            raise ValueError(
                f"{type(self).__name__}: expected samples of shape {axes}, received {tuple(input_shape)}{hint}"
            )
        self.variables = []
        self.constants = []
        self.output_shape = self._build(tuple(input_shape), np.dtype(dtype))
        self.input_shape = tuple(input_shape)

    def unbuild(self):
        """Forget weights and shapes, as before `build`."""
        self.variables, self.constants = [], []
        self.input_shape = self.output_shape = None

    def _build(self, input_shape, dtype):
        """Make weights; return the output's shape.  By default there are none and the shape stays."""
        return input_shape

    def add_weight(self, name, shape, initializer, dtype, trainable=True, regularizer=None):
        """Make one of the layer's weights."""
        variable = Variable(name, initializer(shape, dtype), trainable, regularizer)
        self.variables.append(variable)
        return variable

    def add_constant(self, name, value):
        """Make an array of numbers that are neither learnt nor counted."""
        variable = Variable(name, value, trainable=False)
        self.constants.append(variable)
        return variable

    def plan(self, batch, array, training, wants_dx):
        """Everything that one batch size needs.

        Parameters
        ----------
        batch : int
        array : callable
            ``array(name, shape, dtype=None)`` returns an array of the device with the batch in
            front, the same one whenever the name is the same; with ``batched=False``, one of
            just that shape.
        training : bool
            Whether `backward` will be called.
        wants_dx : bool
            Whether it will be asked for ``dx``.

        Returns
        -------
        SimpleNamespace
            The state that `forward` and `backward` get.
        """
        return SimpleNamespace(
            y=array("y", self.output_shape),
            dx=array("dx", self.input_shape) if training else None,
            # Whether a step needs an absorbed activation's argument only, and not its value.
            only_z=False,
        )

    def forward(self, x, state, training):
        """Compute and return ``y``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def backward(self, dy, state, wants_dx):
        """Write the gradients of the weights; return ``dx``, or None if it is not wanted."""
        raise NotImplementedError(f"{type(self).__name__} must define backward")

    @property
    def weights(self):
        """All weights, trainable or not."""
        return list(self.variables)

    @property
    def trainable_weights(self):
        """The weights that training changes."""
        return [variable for variable in self.variables if variable.trainable]

    @property
    def trainable(self):
        """True: gpuconv trains every layer, and refuses to be told otherwise rather than ignore it."""
        return True

    @trainable.setter
    def trainable(self, value):
        if value is not True:
            raise ValueError(f"trainable: expected True, since frozen layers are not supported, received {value!r}")

    def repeated(self, times):
        """Take note that the kernels of a step of training were called so many times more, without `forward`."""

    def count_params(self):
        """The number of weights, trainable or not."""
        return sum(variable.size for variable in self.variables)

    def get_weights(self):
        """Copies of the weights as a list of NumPy arrays."""
        return [variable.numpy() for variable in self.variables]

    def set_weights(self, weights):
        """Set all weights from a list of arrays of the same shapes."""
        assign_all(self.variables, weights)

    def __repr__(self):
        return f"<layer {self.name or type(self).__name__}, output shape {self.output_shape}>"


def assign_all(variables, weights):
    """Assign arrays to variables, all or none."""
    if not isinstance(weights, (list, tuple)):
        raise TypeError(f"weights: expected a list of arrays, received {type(weights).__name__}")
    weights = [checks.array_of_numbers("weights", weight) for weight in weights]
    given, expected = [weight.shape for weight in weights], [variable.shape for variable in variables]
    if given != expected:
        raise ValueError(f"weights: expected arrays of shapes {expected}, received {given}")
    for variable, weight in zip(variables, weights, strict=True):
        variable.assign(weight)


class Input(Layer):
    """The shape of one sample, ``(height, width, channels)`` or ``(features,)``; computes nothing.

    Parameters
    ----------
    shape : tuple of int
        Without the batch.
    """

    def __init__(self, shape, name=None):
        super().__init__(name)
        self.shape = self.given_input_shape = _checked_shape("shape", shape)


InputLayer = Input


class ActivatedLayer(Layer):
    """A layer that computes ``z``, linear in its weights, and then ``y = activation(z)``.

    A fusable activation is part of the kernel that computes ``z``, and its slope, which can be
    had from ``y``, part of the kernels that consume ``dy``; ``z`` is then never stored.  Others
    (GELU, softmax) run as a pass of their own.  So does an activation that a loss has absorbed:
    `backward` then receives ``dL/dz``, and the pass is left out where nobody reads ``y``.
    """

    def __init__(self, activation, name, input_shape):
        super().__init__(name, input_shape)
        self.activation = activations.get(activation)
        self.absorbed = False

    @property
    def _fused(self):
        return self.activation.fusable and not self.absorbed

    def plan(self, batch, array, training, wants_dx):
        state = super().plan(batch, array, training, wants_dx)
        if not self._fused:
            state.z = array("z", self.output_shape)
            state.dz = array("dz", self.output_shape) if training else None
        return state

    def _epilogue(self, state):
        """What the forward kernel should apply, and where it should write: (code, alpha, output)."""
        if self._fused:
            return self.activation.code, self.activation.alpha, state.y
        return LINEAR, 0.0, state.z

    def _finish(self, state):
        """The pass after the forward kernel, if there is one; returns y."""
        if not self._fused and not state.only_z:
            self.activation.forward(self.device, state.z, state.y)
        return state.y

    def _incoming(self, dy, state):
        """What the gradient kernels should take: (dy, y, code, alpha)."""
        if self._fused:
            return dy, state.y, self.activation.code, self.activation.alpha
        if self.absorbed:
            return dy, state.z, LINEAR, 0.0
        self.activation.backward(self.device, state.z, state.y, dy, state.dz)
        return state.dz, state.z, LINEAR, 0.0

    def _make_weights(self, kernel_name, shape, units, dtype):
        """The kernel, and a bias of one number a unit: zeros outside the model if there is none."""
        self.kernel = self.add_weight(
            kernel_name, shape, self.kernel_initializer, dtype, regularizer=self.kernel_regularizer
        )
        if self.use_bias:
            self.bias = self.add_weight(
                "bias", (units,), self.bias_initializer, dtype, regularizer=self.bias_regularizer
            )
        else:
            self.bias = self.add_constant("no bias", np.zeros(units, dtype))

    def _weight_arguments(
        self, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel="kernel"
    ):
        self.use_bias = checks.boolean("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer, f"{kernel}_initializer")
        self.bias_initializer = initializers.get(bias_initializer, "bias_initializer")
        self.kernel_regularizer = regularizers.get(kernel_regularizer, f"{kernel}_regularizer")
        self.bias_regularizer = regularizers.get(bias_regularizer, "bias_regularizer")


class Conv2D(ActivatedLayer):
    """2D cross-correlation with learnt filters: ``y = activation(correlate2d(x, kernel) + bias)``.

    Forward, with stride s, dilation d and padding p::

        z[n, i, j, f] = bias[f] + sum_{a, b, c} x[n, i s - p + a d, j s - p + b d, c] kernel[a, b, c, f]

    Backward, with ``dz = dy * activation'(z)``::

        dkernel[a, b, c, f] = sum_{n, i, j} x[n, i s - p + a d, j s - p + b d, c] dz[n, i, j, f]
        dbias[f]            = sum_{n, i, j} dz[n, i, j, f]
        dx[n, u, v, c]      = sum of dz[n, i, j, f] kernel[a, b, c, f] over all (i, j, a, b, f)
                              with u = i s - p + a d and v = j s - p + b d

    Parameters
    ----------
    filters : int
        Number of output channels.
    kernel_size : int or pair of int
        Window height and width.
    strides, dilation_rate : int or pair of int, default 1
    padding : {'valid', 'same', 'full'}, int, pair, or pair of pairs, default 'valid'
        See `gpuconv.kernels.geometry.correlation_geometry`.
    groups : int, default 1
    activation : str or activation, optional
    use_bias : bool, default True
    kernel_initializer : default 'glorot_uniform'
    bias_initializer : default 'zeros'
    kernel_regularizer, bias_regularizer : default None
    name : str, optional
    input_shape : tuple of int, optional
        ``(height, width, channels)``.

    Notes
    -----
    Called Conv2D because every library calls it so; the kernel is not flipped.  Goodfellow,
    Bengio and Courville, "Deep Learning" (2016), equation 9.6.
    """

    rank = 3

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        data_format=None,
        dilation_rate=(1, 1),
        groups=1,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        *,
        name=None,
        input_shape=None,
    ):
        super().__init__(activation, name, input_shape)
        self.filters = checks.integer("filters", filters, 1)
        self.groups = checks.integer("groups", groups, 1)
        self._window_arguments(kernel_size, strides, padding, data_format, dilation_rate)
        self._weight_arguments(use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer)

    def _window_arguments(self, kernel_size, strides, padding, data_format, dilation_rate):
        self.kernel_size = as_pair("kernel_size", kernel_size)
        self.strides = as_pair("strides", strides)
        self.dilation_rate = as_pair("dilation_rate", dilation_rate)
        self.padding = _checked_padding(padding, ("valid", "same", "full"))
        _refuse_channels_first(data_format)

    def _build(self, input_shape, dtype):
        self.geometry = correlation_geometry(
            (1, *input_shape), self.kernel_size, self.filters, self.strides, self.padding, self.dilation_rate,
            self.groups,
        )  # fmt: skip
        self._make_weights("kernel", self.geometry.filters_shape, self.filters, dtype)
        return self.geometry.output_shape[1:]

    def plan(self, batch, array, training, wants_dx):
        state = super().plan(batch, array, training, wants_dx)
        vars(state).update(vars(self.plan_weights(batch)))
        return state

    def plan_weights(self, batch):
        """The part of the state that is no array of a batch."""
        shape = self.geometry.filters_shape
        return SimpleNamespace(
            geometry=self.geometry.for_batch(batch),
            # A depthwise kernel is laid out as the filters of one-channel groups already.
            filters=self.kernel.value.reshape(shape),
            dfilters=self.kernel.gradient.reshape(shape),
        )

    def forward(self, x, state, training):
        state.x = x
        code, alpha, output = self._epilogue(state)
        self.device.correlate2d(x, state.filters, self.bias.value, state.geometry, code, alpha, output)
        return self._finish(state)

    def backward(self, dy, state, wants_dx):
        dy, y, code, alpha = self._incoming(dy, state)
        self.device.correlate2d_gradient_filters(
            state.x, dy, y, state.geometry, code, alpha, state.dfilters, self.bias.gradient
        )
        if not wants_dx:
            return None
        self.device.correlate2d_gradient_input(dy, y, state.filters, state.geometry, code, alpha, state.dx)
        return state.dx


class DepthwiseConv2D(Conv2D):
    """Cross-correlation of each channel with filters of its own.

    ``z[n, i, j, c m + k] = bias[c m + k] + sum_{a, b} x[n, i s - p + a d, j s - p + b d, c]
    kernel[a, b, c, k]`` for ``depth_multiplier`` m: `Conv2D` with as many groups as channels,
    whose backward formulas hold here too.  The kernel has shape ``(kernel_height,
    kernel_width, channels, depth_multiplier)``.

    Parameters
    ----------
    kernel_size, strides, padding, dilation_rate, activation, use_bias : as in `Conv2D`
    depth_multiplier : int, default 1
        Number of filters for each input channel.
    depthwise_initializer : default 'glorot_uniform'
    depthwise_regularizer : default None
    """

    def __init__(
        self,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        depth_multiplier=1,
        data_format=None,
        dilation_rate=(1, 1),
        activation=None,
        use_bias=True,
        depthwise_initializer="glorot_uniform",
        bias_initializer="zeros",
        depthwise_regularizer=None,
        bias_regularizer=None,
        *,
        name=None,
        input_shape=None,
    ):
        ActivatedLayer.__init__(self, activation, name, input_shape)
        self.depth_multiplier = checks.integer("depth_multiplier", depth_multiplier, 1)
        self._window_arguments(kernel_size, strides, padding, data_format, dilation_rate)
        self._weight_arguments(
            use_bias, depthwise_initializer, bias_initializer, depthwise_regularizer, bias_regularizer, "depthwise"
        )

    def _build(self, input_shape, dtype):
        channels = input_shape[2]
        self.geometry = correlation_geometry(
            (1, *input_shape), self.kernel_size, channels * self.depth_multiplier, self.strides, self.padding,
            self.dilation_rate, groups=channels,
        )  # fmt: skip
        self._make_weights(
            "kernel",
            (*self.kernel_size, channels, self.depth_multiplier),
            self.geometry.out_channels,
            dtype,
        )
        return self.geometry.output_shape[1:]


class Dense(ActivatedLayer):
    """Every output sees every input: ``y = activation(x kernel + bias)``.

    Backward, with ``dz = dy * activation'(z)``::

        dkernel = x^T dz        dbias = sum of dz over the batch        dx = dz kernel^T

    Parameters
    ----------
    units : int
        Number of outputs.
    activation : str or activation, optional
    use_bias : bool, default True
    kernel_initializer : default 'glorot_uniform'
        The kernel has shape ``(inputs, units)``.
    bias_initializer : default 'zeros'
    kernel_regularizer, bias_regularizer : default None
    name : str, optional
    input_shape : tuple of int, optional
        ``(features,)``.
    """

    rank = 1

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        *,
        name=None,
        input_shape=None,
    ):
        super().__init__(activation, name, input_shape)
        self.units = checks.integer("units", units, 1)
        self._weight_arguments(use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer)

    def _build(self, input_shape, dtype):
        self._make_weights("kernel", (input_shape[0], self.units), self.units, dtype)
        return (self.units,)

    def forward(self, x, state, training):
        state.x = x
        code, alpha, output = self._epilogue(state)
        self.device.dense(x, self.kernel.value, self.bias.value, code, alpha, output)
        return self._finish(state)

    def backward(self, dy, state, wants_dx):
        dy, y, code, alpha = self._incoming(dy, state)
        self.device.dense_gradient_kernel(state.x, dy, y, code, alpha, self.kernel.gradient, self.bias.gradient)
        if not wants_dx:
            return None
        self.device.dense_gradient_input(dy, y, self.kernel.value, code, alpha, state.dx)
        return state.dx


class _Pooling2D(Layer):
    """What max and average pooling share: a window that slides over each channel by itself."""

    rank = 3

    def __init__(
        self, pool_size=(2, 2), strides=None, padding="valid", data_format=None, *, name=None, input_shape=None
    ):
        super().__init__(name, input_shape)
        self.pool_size = as_pair("pool_size", pool_size)
        self.strides = self.pool_size if strides is None else as_pair("strides", strides)
        self.padding = _checked_padding(padding, ("valid", "same"))
        _refuse_channels_first(data_format)

    def _build(self, input_shape, dtype):
        self.geometry = pooling_geometry((1, *input_shape), self.pool_size, self.strides, self.padding)
        return self.geometry.output_shape[1:]

    def plan(self, batch, array, training, wants_dx):
        state = super().plan(batch, array, training, wants_dx)
        state.geometry = self.geometry.for_batch(batch)
        return state


class MaxPooling2D(_Pooling2D):
    """The largest number of each window; padding is never taken.

    ``y = max over the window``; backward, ``dx`` of a cell is the sum of ``dy`` over the windows
    that it won.  Among equals the first wins.

    Parameters
    ----------
    pool_size : int or pair of int, default (2, 2)
    strides : int or pair of int, optional
        Default: `pool_size`.
    padding : {'valid', 'same'}, int, pair, or pair of pairs, default 'valid'
    """

    def plan(self, batch, array, training, wants_dx):
        state = super().plan(batch, array, training, wants_dx)
        state.winner = array("winner", self.output_shape, self.geometry.winner_dtype)
        return state

    def _build(self, input_shape, dtype):
        if self.pool_size[0] * self.pool_size[1] > 65536:
            raise ValueError(f"pool_size: expected at most 65536 cells, received {self.pool_size}")
        return super()._build(input_shape, dtype)

    def forward(self, x, state, training):
        self.device.max_pool2d(x, state.geometry, state.y, state.winner)
        return state.y

    def backward(self, dy, state, wants_dx):
        if not wants_dx:
            return None
        self.device.max_pool2d_gradient(dy, state.winner, state.geometry, state.dx)
        return state.dx


class AveragePooling2D(_Pooling2D):
    """The mean of each window; padding is not counted.

    ``y = sum over the window / cells``; backward, ``dx`` of a cell is the sum of ``dy / cells``
    over the windows that hold it.

    Parameters
    ----------
    pool_size : int or pair of int, default (2, 2)
    strides : int or pair of int, optional
        Default: `pool_size`.
    padding : {'valid', 'same'}, int, pair, or pair of pairs, default 'valid'
    """

    def forward(self, x, state, training):
        self.device.average_pool2d(x, state.geometry, state.y)
        return state.y

    def backward(self, dy, state, wants_dx):
        if not wants_dx:
            return None
        self.device.average_pool2d_gradient(dy, state.geometry, state.dx)
        return state.dx


class GlobalAveragePooling2D(Layer):
    """The mean of each channel: ``y[n, c] = mean over i, j of x[n, i, j, c]``.

    Backward: ``dx[n, i, j, c] = dy[n, c] / (height width)``.

    Parameters
    ----------
    keepdims : bool, default False
        Whether the output keeps its two axes of length 1.
    """

    rank = 3

    def __init__(self, data_format=None, keepdims=False, *, name=None, input_shape=None):
        super().__init__(name, input_shape)
        _refuse_channels_first(data_format)
        self.keepdims = checks.boolean("keepdims", keepdims)

    def _build(self, input_shape, dtype):
        # Pooling whose one window is the whole picture.
        self.geometry = pooling_geometry((1, *input_shape), input_shape[:2])
        return (1, 1, input_shape[2]) if self.keepdims else (input_shape[2],)

    def plan(self, batch, array, training, wants_dx):
        state = super().plan(batch, array, training, wants_dx)
        state.geometry = self.geometry.for_batch(batch)
        state.pooled = state.y.reshape(state.geometry.output_shape)
        return state

    def forward(self, x, state, training):
        self.device.average_pool2d(x, state.geometry, state.pooled)
        return state.y

    def backward(self, dy, state, wants_dx):
        if not wants_dx:
            return None
        self.device.average_pool2d_gradient(dy.reshape(state.geometry.output_shape), state.geometry, state.dx)
        return state.dx


class ZeroPadding2D(Layer):
    """Zeros around each picture; backward, ``dx`` is the part of ``dy`` that is not padding.

    Parameters
    ----------
    padding : int, pair, or pair of pairs, default (1, 1)
        ``((top, bottom), (left, right))``, ``(vertical, horizontal)`` or one number for all.
    """

    rank = 3

    def __init__(self, padding=(1, 1), data_format=None, *, name=None, input_shape=None):
        super().__init__(name, input_shape)
        _refuse_channels_first(data_format)
        self.padding = as_sides(padding)

    def _build(self, input_shape, dtype):
        height, width, channels = input_shape
        return height + sum(self.padding[0]), width + sum(self.padding[1]), channels

    def forward(self, x, state, training):
        self.device.zero_pad2d(x, self.padding[0][0], self.padding[1][0], state.y)
        return state.y

    def backward(self, dy, state, wants_dx):
        if not wants_dx:
            return None
        self.device.crop2d(dy, self.padding[0][0], self.padding[1][0], state.dx)
        return state.dx


class Flatten(Layer):
    """Each sample as one row, in the order (height, width, channels); nothing moves."""

    def _build(self, input_shape, dtype):
        return (int(np.prod(input_shape)),)

    def plan(self, batch, array, training, wants_dx):
        return SimpleNamespace()

    def forward(self, x, state, training):
        return x.reshape(x.shape[0], *self.output_shape)

    def backward(self, dy, state, wants_dx):
        return dy.reshape(dy.shape[0], *self.input_shape) if wants_dx else None


class Dropout(Layer):
    """In training, each number is zero with probability `rate`, else multiplied by 1 / (1 - rate).

    Outside training nothing happens.  Backward, ``dx`` is ``dy`` under the same mask, which is
    not stored but computed again from its counter: Srivastava et al. (2014); Salmon et al. (2011).

    Parameters
    ----------
    rate : float in [0, 1)
        The probability is the multiple of 2**-16 that is nearest to it, no more than 2**-17 = 0.0000076 away.
    seed : int, optional
        Default: drawn from the sequence that `gpuconv.utils.set_random_seed` starts.
    """

    def __init__(self, rate, seed=None, *, name=None, input_shape=None):
        super().__init__(name, input_shape)
        self.rate = checks.real("rate", rate, 0.0, 1.0, open_high=True)
        self.seed = None if seed is None else checks.integer("seed", seed, 0)
        # The place among the model's layers, so that equal seeds give different masks.
        self.stream = 0
        self.calls = 0

    def _build(self, input_shape, dtype):
        self._key = seeds.next_seed() if self.seed is None else self.seed % 2**64
        return input_shape

    def forward(self, x, state, training):
        state.active = training and self.rate > 0
        if not state.active:
            return x
        state.step = Counter(self.calls, again=lambda: self.calls)
        self.calls += 1
        self.device.dropout(x, self.rate, self._key, self.stream, state.step, state.y)
        return state.y

    def repeated(self, times):
        # Each step draws anew.
        if self.rate > 0:
            self.calls += times

    def backward(self, dy, state, wants_dx):
        if not wants_dx or not state.active:
            return dy if wants_dx else None
        self.device.dropout(dy, self.rate, self._key, self.stream, state.step, state.dx)
        return state.dx


class Activation(Layer):
    """``y = activation(x)``; backward, ``dx = dy * activation'(x)``.

    Parameters
    ----------
    activation : str or activation
        See `gpuconv.activations`.
    """

    def __init__(self, activation, *, name=None, input_shape=None):
        super().__init__(name, input_shape)
        self.activation = activations.get(activation)
        # Whether the loss works on x: `backward` then receives dL/dx.
        self.absorbed = False

    def forward(self, x, state, training):
        state.z = x
        if not state.only_z:
            self.activation.forward(self.device, x, state.y)
        return state.y

    def backward(self, dy, state, wants_dx):
        if not wants_dx:
            return None
        if self.absorbed:
            return dy
        self.activation.backward(self.device, state.z, state.y, dy, state.dx)
        return state.dx


class ReLU(Activation):
    """``max(x, 0)``, or Keras's general form with a cap, a leak and a threshold.

    Parameters
    ----------
    max_value : float >= 0, optional
    negative_slope : float >= 0, default 0
    threshold : float >= 0, default 0
    """

    def __init__(self, max_value=None, negative_slope=0.0, threshold=0.0, *, name=None, input_shape=None):
        super().__init__(
            activations.ClippedRelu("relu", negative_slope, max_value, threshold), name=name, input_shape=input_shape
        )


class LeakyReLU(Activation):
    """``x`` above zero, ``negative_slope * x`` below.

    Parameters
    ----------
    negative_slope : float >= 0, default 0.3
    """

    def __init__(self, negative_slope=0.3, *, name=None, input_shape=None):
        slope = checks.real("negative_slope", negative_slope, low=0.0)
        super().__init__(
            activations.ActivationFunction("leaky_relu", LEAKY_RELU, slope), name=name, input_shape=input_shape
        )


class Softmax(Activation):
    """``exp(x_j) / sum_k exp(x_k)`` over the last axis; backward, ``dx = y * (dy - dy . y)``."""

    def __init__(self, *, name=None, input_shape=None):
        super().__init__("softmax", name=name, input_shape=input_shape)


class BatchNormalization(Layer):
    """Zero mean and unit variance for each channel, then a learnt scale and shift.

    In training, with the batch's mean m and (biased) variance v of each channel, and
    ``z = (x - m) / sqrt(v + epsilon)``::

        y = gamma z + beta
        moving = momentum * moving + (1 - momentum) * batch        (mean and variance)

    and elsewhere with the moving mean and variance.  Backward, over N numbers a channel::

        dbeta = sum dy        dgamma = sum dy z
        dx = gamma / sqrt(v + epsilon) (dy - dbeta / N - z dgamma / N)

    Ioffe and Szegedy (2015).

    Parameters
    ----------
    axis : int, default -1
        Only the last axis, the channels.
    momentum : float in [0, 1], default 0.99
    epsilon : float, default 1e-3
    center, scale : bool, default True
        Whether beta and gamma are learnt; else they are 0 and 1.
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        *,
        name=None,
        input_shape=None,
    ):
        super().__init__(name, input_shape)
        self.axis = axis
        self.momentum = checks.real("momentum", momentum, 0.0, 1.0)
        self.epsilon = checks.real("epsilon", epsilon, 0.0)
        self.center = checks.boolean("center", center)
        self.scale = checks.boolean("scale", scale)
        self.beta_initializer = initializers.get(beta_initializer, "beta_initializer")
        self.gamma_initializer = initializers.get(gamma_initializer, "gamma_initializer")
        self.moving_mean_initializer = initializers.get(moving_mean_initializer, "moving_mean_initializer")
        self.moving_variance_initializer = initializers.get(moving_variance_initializer, "moving_variance_initializer")
        self.beta_regularizer = regularizers.get(beta_regularizer, "beta_regularizer")
        self.gamma_regularizer = regularizers.get(gamma_regularizer, "gamma_regularizer")

    def _build(self, input_shape, dtype):
        if self.axis not in (-1, len(input_shape)):
            raise ValueError(f"axis: expected -1 or {len(input_shape)}, the channels, received {self.axis!r}")
        shape = input_shape[-1:]
        if self.scale:
            self.gamma = self.add_weight(
                "gamma", shape, self.gamma_initializer, dtype, regularizer=self.gamma_regularizer
            )
        else:
            self.gamma = self.add_constant("no gamma", np.ones(shape, dtype))
        if self.center:
            self.beta = self.add_weight("beta", shape, self.beta_initializer, dtype, regularizer=self.beta_regularizer)
        else:
            self.beta = self.add_constant("no beta", np.zeros(shape, dtype))
        self.moving_mean = self.add_weight("moving_mean", shape, self.moving_mean_initializer, dtype, trainable=False)
        self.moving_variance = self.add_weight(
            "moving_variance", shape, self.moving_variance_initializer, dtype, trainable=False
        )
        return input_shape

    def plan(self, batch, array, training, wants_dx):
        # The kernel of the backward pass writes dx in any case.
        state = super().plan(batch, array, training, training)
        channels = self.output_shape[-1]
        state.mean = array("mean", (channels,), batched=False)
        state.variance = array("variance", (channels,), batched=False)
        state.y_rows = state.y.reshape(-1, channels)
        state.dx_rows = state.dx.reshape(-1, channels) if training else None
        return state

    def forward(self, x, state, training):
        state.x_rows = x.reshape(-1, self.output_shape[-1])
        mean, variance = self.moving_mean.value, self.moving_variance.value
        if training:
            mean, variance = state.mean, state.variance
            self.device.batch_moments(state.x_rows, mean, variance)
            self.device.moving_average(mean, self.momentum, self.moving_mean.value)
            self.device.moving_average(variance, self.momentum, self.moving_variance.value)
        self.device.normalize(
            state.x_rows, mean, variance, self.gamma.value, self.beta.value, self.epsilon, state.y_rows
        )
        return state.y

    def backward(self, dy, state, wants_dx):
        self.device.batch_normalization_gradient(
            state.x_rows, state.mean, state.variance, self.gamma.value, dy.reshape(-1, self.output_shape[-1]),
            self.epsilon, state.dx_rows, self.gamma.gradient, self.beta.gradient,
        )  # fmt: skip
        return state.dx if wants_dx else None


# Keras's other names.
Convolution2D = Conv2D
DepthwiseConvolution2D = DepthwiseConv2D
MaxPool2D = MaxPooling2D
AvgPool2D = AveragePooling2D
GlobalAvgPool2D = GlobalAveragePooling2D


def _checked_shape(name, shape):
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not shape or not all(is_integer(extent) and extent >= 1 for extent in shape):
        raise ValueError(f"{name}: expected extents >= 1 without the batch, received {shape!r}")
    return tuple(int(extent) for extent in shape)


def _checked_padding(padding, names):
    if isinstance(padding, str):
        return checks.choice("padding", padding, names)
    return as_sides(padding)


def _refuse_channels_first(data_format):
    if data_format not in (None, "channels_last"):
        raise ValueError(f"data_format: expected 'channels_last', received {data_format!r}; move the channels last")
