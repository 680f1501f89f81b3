"""JAX: correlations compiled by XLA.  It takes as many threads as the process may use processors."""

import jax
from jax import lax

from . import inputs
from .server import serve


def prepare(case):
    """Functions that compute the case: see `server.Prepared`."""
    x, filters, bias, dy = map(jax.device_put, inputs.correlation(case))
    pad = (case["padding"], case["padding"])

    def layer(x, filters, bias):
        z = lax.conv_general_dilated(
            x, filters, (case["stride"],) * 2, (pad, pad), rhs_dilation=(case["dilation"],) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=case["groups"],
        )  # fmt: skip
        return z + bias

    def gradient_input(x, filters, bias, dy):
        return jax.vjp(lambda x: layer(x, filters, bias), x)[1](dy)

    def gradient_filters(x, filters, bias, dy):
        return jax.vjp(lambda filters, bias: layer(x, filters, bias), filters, bias)[1](dy)

    function, arguments = {
        "forward": (layer, (x, filters, bias)),
        "gradient_input": (gradient_input, (x, filters, bias, dy)),
        "gradient_filters": (gradient_filters, (x, filters, bias, dy)),
    }[case["operation"]]
    compiled = jax.jit(function)
    return {"jit": lambda: jax.block_until_ready(compiled(*arguments))}


if __name__ == "__main__":
    serve(prepare, {"jax": jax.__version__})
