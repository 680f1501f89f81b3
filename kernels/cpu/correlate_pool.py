"""2D cross-correlation and max pooling after it, and the gradients of both together.

The kernels are those of `correlate` and `winograd`, which are told of the windows, and for sums of few terms those of
`windows`, `pictures`, `winners` and `permuted`.  Of the correlation's output only the cells that windows cover are
computed, and none is stored.  What follows is about the first two.

Forward, a task writes its outputs to scratch memory of its worker, applies the activation there and pools: memory sees
a quarter of the writes of the correlation by itself, for windows of 2 x 2, and none of the pooling's reads.

Backward, the kernels copy the part of dz that they need next to scratch memory anyway.  Here they make it from the
pooling's dy, y and winner (`epilogue.make_dz`): where a cell has won, its activation's value is the pooling's;
elsewhere dz is 0.  Each of the three is read once for every cell of a window, but from the cache.

What bounds them is what bounds the correlations.
"""

from ..geometry import pooled_part
from . import permuted, pictures, windows, winners
from .correlate import filters_gradient, forward, input_gradient
from .parts import over_samples
from .prepared import prepared


@prepared
def correlate2d_max_pool2d(x, filters, bias, geometry, activation, alpha, pool, y, winner):
    """The same bits as from the two kernels, one after the other, unless those take other tiles than this one."""
    part = pooled_part(geometry, pool)
    if pictures.usable(part, activation, _window(pool), x.dtype):
        return pictures.forward(x, filters, bias, part, activation, y, winner)
    if windows.usable(part, activation, _window(pool), x.dtype):
        return windows.forward(x, filters, bias, part, activation, y, winner)
    return forward(x, filters, bias, part, activation, alpha, _window(pool), y, winner)


@prepared
def correlate2d_max_pool2d_gradient_input(dy, y, winner, filters, geometry, activation, alpha, pool, dx):
    """Gradient by the correlation's input."""
    part = pooled_part(geometry, pool)
    return input_gradient(dy, y, winner, filters, part, activation, alpha, _window(pool), dx)


@over_samples
def correlate2d_max_pool2d_gradient_filters(x, dy, y, winner, geometry, activation, alpha, pool, dfilters, dbias):
    """Gradient by the correlation's filters and bias."""
    part = pooled_part(geometry, pool)
    if permuted.usable(part, activation, _window(pool), x.dtype):
        return permuted.filters_gradient(x, dy, y, winner, part, activation, dfilters, dbias)
    if winners.usable(part, activation, _window(pool), x.dtype):
        return winners.filters_gradient(x, dy, y, winner, part, activation, dfilters, dbias)
    return filters_gradient(x, dy, y, winner, part, activation, alpha, _window(pool), dfilters, dbias)


def is_by_windows(x, geometry, activation, pool, **_):
    """Whether `windows` or `pictures` computes a correlation and pooling, given by the names of the arguments."""
    part = pooled_part(geometry, pool)
    return any(module.usable(part, activation, _window(pool), x.dtype) for module in (windows, pictures))


def _window(pool):
    return pool.kernel_height, pool.kernel_width
