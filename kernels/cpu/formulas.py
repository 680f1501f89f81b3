"""The shared scalar formulas, compiled for the CPU."""

from numba import njit

from .. import formulas
from .compiling import INNER

_compile = njit(**INNER)

activate = _compile(formulas.activate)
slope_from_value = _compile(formulas.slope_from_value)
slope = _compile(formulas.slope)
clip_relu = _compile(formulas.clip_relu)
clip_relu_slope = _compile(formulas.clip_relu_slope)
philox4x32 = _compile(formulas.philox4x32)
