"""Signals: convolution in one and two dimensions, Toeplitz products, Fourier series, the convolution theorem.

Names and modes are those of `scipy.signal`.  Sequences are computed on the CPU; pictures (`correlate2d`,
`convolve2d`) on the device in use, or where the caller's arrays live.  For batches of pictures with channels see
`gpuconv.functional`.
"""

from .fourier import (
    driven_oscillator,
    fourier_coefficients,
    fourier_series,
    oscillator_response,
    square_wave,
)
from .pictures import convolve2d, correlate2d
from .sequences import convolve, polynomial_multiply, toeplitz_matrix, toeplitz_multiply
from .theorem import ConvolutionTheorem, convolution_theorem

__all__ = [
    "ConvolutionTheorem",
    "convolution_theorem",
    "convolve",
    "convolve2d",
    "correlate2d",
    "driven_oscillator",
    "fourier_coefficients",
    "fourier_series",
    "oscillator_response",
    "polynomial_multiply",
    "square_wave",
    "toeplitz_matrix",
    "toeplitz_multiply",
]
