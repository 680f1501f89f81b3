"""TensorFlow: correlations in compiled graphs, with XLA and without, in its own layout N, H, W, C."""

import tensorflow as tf

from . import inputs
from .server import THREADS, serve

tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(THREADS)


def prepare(case):
    """Functions that compute the case: see `server.Prepared`."""
    return {name: correlation(case, jit_compile) for name, jit_compile in (("graph", False), ("XLA", True))}


def correlation(case, jit_compile):
    """The gradients are those that TensorFlow derives; a linear layer's forward pass falls out of their graphs."""
    x, filters, bias, dy = map(tf.constant, inputs.correlation(case))
    stride, dilation, pad = case["stride"], case["dilation"], case["padding"]
    padding = [[0, 0], [pad, pad], [pad, pad], [0, 0]] if pad else "VALID"
    depthwise = case["groups"] > 1
    if depthwise:
        # Channels and filters of a channel, in this order.
        filters = tf.transpose(filters, (0, 1, 3, 2))

    def layer(x, filters, bias):
        if depthwise:
            z = tf.nn.depthwise_conv2d(x, filters, [1, stride, stride, 1], padding, dilations=[dilation, dilation])
        else:
            z = tf.nn.conv2d(x, filters, stride, padding, dilations=dilation)
        return tf.nn.bias_add(z, bias)

    def gradients(*names):
        @tf.function(jit_compile=jit_compile)
        def compute(x, filters, bias, dy):
            arguments = {"x": x, "filters": filters, "bias": bias}
            with tf.GradientTape() as tape:
                tape.watch([arguments[name] for name in names])
                z = layer(x, filters, bias)
            return tape.gradient(z, [arguments[name] for name in names], output_gradients=dy)

        return lambda: compute(x, filters, bias, dy)

    forward = tf.function(layer, jit_compile=jit_compile)
    return {
        "forward": lambda: forward(x, filters, bias),
        "gradient_input": gradients("x"),
        "gradient_filters": gradients("filters", "bias"),
    }[case["operation"]]


if __name__ == "__main__":
    serve(prepare, {"tensorflow": tf.__version__})
