"""Initial weights, with Keras's names, formulas and defaults.

``fan_in`` and ``fan_out`` are the numbers of connections into and out of a unit: for a
filter of shape ``(kernel_height, kernel_width, in, out)`` they are ``kernel_height *
kernel_width * in`` and ``kernel_height * kernel_width * out``.
"""

import math

import numpy as np

from . import checks, seeds


class Initializer:
    """Base class; an initializer is called as ``initializer(shape, dtype)``."""

    def __call__(self, shape, dtype="float32"):
        """Return a new array of the given shape and dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(shape, dtype)")


class Constant(Initializer):
    """Every weight is `value`.

    Examples
    --------
    >>> Constant(2.0)((3,))
    array([2., 2., 2.], dtype=float32)
    """

    def __init__(self, value=0.0):
        self.value = checks.real("value", value)

    def __call__(self, shape, dtype="float32"):
        return np.full(shape, self.value, dtype)


class Zeros(Constant):
    """Every weight is 0, the default of biases."""

    def __init__(self):
        super().__init__(0.0)


class Ones(Constant):
    """Every weight is 1."""

    def __init__(self):
        super().__init__(1.0)


class _Random(Initializer):
    """Draws from a seed of its own, so that one initializer gives one array for a given seed."""

    def __init__(self, seed=None):
        self.seed = None if seed is None else checks.integer("seed", seed, 0)

    def __call__(self, shape, dtype="float32"):
        return self._draw(seeds.generator(self.seed), tuple(shape)).astype(dtype)


class RandomUniform(_Random):
    """Uniform in [minval, maxval)."""

    def __init__(self, minval=-0.05, maxval=0.05, seed=None):
        super().__init__(seed)
        self.minval = checks.real("minval", minval)
        self.maxval = checks.real("maxval", maxval, low=self.minval)

    def _draw(self, generator, shape):
        return generator.uniform(self.minval, self.maxval, shape)


class RandomNormal(_Random):
    """Normal with the given mean and standard deviation."""

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        super().__init__(seed)
        self.mean = checks.real("mean", mean)
        self.stddev = checks.real("stddev", stddev, low=0.0)

    def _draw(self, generator, shape):
        return generator.normal(self.mean, self.stddev, shape)


class TruncatedNormal(RandomNormal):
    """Normal, drawn again while further than two standard deviations from the mean."""

    def _draw(self, generator, shape):
        return self.mean + self.stddev * _truncated_normal(generator, shape)


# Standard deviation of a standard normal variable cut off at two standard deviations.
_TRUNCATED_STDDEV = 0.87962566103423978


def _truncated_normal(generator, shape):
    values = generator.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(np.count_nonzero(outside))
    return values


class VarianceScaling(_Random):
    """Zero mean and variance ``scale / n``, n being one of the fans or their mean.

    Parameters
    ----------
    scale : float, default 1.0
    mode : {'fan_in', 'fan_out', 'fan_avg'}, default 'fan_in'
    distribution : {'truncated_normal', 'untruncated_normal', 'uniform'}
    seed : int, optional
        Default: drawn from the sequence that `gpuconv.utils.set_random_seed` starts.
    """

    def __init__(self, scale=1.0, mode="fan_in", distribution="truncated_normal", seed=None):
        super().__init__(seed)
        self.scale = checks.real("scale", scale, low=0.0)
        self.mode = checks.choice("mode", mode, ("fan_in", "fan_out", "fan_avg"))
        self.distribution = checks.choice(
            "distribution", distribution, ("truncated_normal", "untruncated_normal", "uniform")
        )

    def _draw(self, generator, shape):
        fan_in, fan_out = fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            limit = math.sqrt(3.0 * variance)
            return generator.uniform(-limit, limit, shape)
        if self.distribution == "untruncated_normal":
            return generator.normal(0.0, math.sqrt(variance), shape)
        return math.sqrt(variance) / _TRUNCATED_STDDEV * _truncated_normal(generator, shape)


def fans(shape):
    """``(fan_in, fan_out)`` of a kernel of the given shape.

    Examples
    --------
    >>> fans((3, 3, 16, 32))
    (144, 288)
    """
    if len(shape) < 2:
        count = shape[0] if shape else 1
        return count, count
    receptive_field = math.prod(shape[:-2])
    return receptive_field * shape[-2], receptive_field * shape[-1]


class GlorotUniform(VarianceScaling):
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): Glorot and Bengio (2010).  The default of kernels."""

    def __init__(self, seed=None):
        super().__init__(1.0, "fan_avg", "uniform", seed)


class GlorotNormal(VarianceScaling):
    """Truncated normal of variance 2 / (fan_in + fan_out)."""

    def __init__(self, seed=None):
        super().__init__(1.0, "fan_avg", "truncated_normal", seed)


class HeUniform(VarianceScaling):
    """Uniform in +-sqrt(6 / fan_in): He et al. (2015)."""

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_in", "uniform", seed)


class HeNormal(VarianceScaling):
    """Truncated normal of variance 2 / fan_in: He et al. (2015)."""

    def __init__(self, seed=None):
        super().__init__(2.0, "fan_in", "truncated_normal", seed)


class LecunUniform(VarianceScaling):
    """Uniform in +-sqrt(3 / fan_in)."""

    def __init__(self, seed=None):
        super().__init__(1.0, "fan_in", "uniform", seed)


class LecunNormal(VarianceScaling):
    """Truncated normal of variance 1 / fan_in."""

    def __init__(self, seed=None):
        super().__init__(1.0, "fan_in", "truncated_normal", seed)


# Keras's lowercase aliases.
zeros, ones, constant = Zeros, Ones, Constant
random_uniform, random_normal, truncated_normal = RandomUniform, RandomNormal, TruncatedNormal
variance_scaling = VarianceScaling
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal

_REGISTRY = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "random_uniform": RandomUniform,
    "random_normal": RandomNormal,
    "truncated_normal": TruncatedNormal,
    "variance_scaling": VarianceScaling,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
}


def get(identifier, name="initializer"):
    """Read a Keras identifier: a name such as ``'glorot_uniform'``, a class or an instance."""
    return checks.lookup(name, identifier, _REGISTRY, Initializer)
