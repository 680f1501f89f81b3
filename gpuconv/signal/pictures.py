"""Cross-correlation and convolution of two pictures, with SciPy's signature and results.

Both are one kernel, `gpuconv.kernels` ``correlate_image``: a convolution is a cross-correlation with the kernel
turned by 180 degrees.
"""

import functools
import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .. import checks, interchange
from .. import device as devices
from . import method as methods
from .operands import MODES, pair

# Outputs of a block of Fourier transforms along one axis, unless the kernel is large.
BLOCK = 384

# Of memory: places that differ by a multiple of it are the same to a core that looks for writes under way.
PAGE_BYTES, LINE_BYTES = 4096, 64

BOUNDARIES = {"fill": "fill", "wrap": "wrap", "circular": "wrap", "symm": "symm", "symmetric": "symm"}


def correlate2d(in1, in2, mode="full", boundary="fill", fillvalue=0, method="auto"):
    """The 2D cross-correlation of two pictures.

    ``y[i, j] = sum_{a, b} X[i + a, j + b] conj(in2[a, b])``, where X is `in1`, continued beyond its edges: the
    kernel is laid on the picture as it is, where `convolve2d` turns it by 180 degrees.  It is what layers called
    convolutional compute, on many channels at once: `gpuconv.functional.correlate2d`.

    Parameters
    ----------
    in1 : array_like, shape (height, width)
        The picture: integers, float32, float64, complex64 or complex128, or an array on a GPU (float32, float64).
    in2 : array_like, shape (kernel_height, kernel_width)
        The kernel.
    mode : {'full', 'same', 'valid'}, default 'full'
        'full': every place where kernel and picture overlap, ``height + kernel_height - 1`` rows.  'same': the
        middle of it, with `height` rows.  'valid': the places where the kernel lies within the picture,
        ``height - kernel_height + 1`` rows.  Columns likewise.
    boundary : {'fill', 'wrap', 'symm'}, default 'fill'
        Beyond the edges lie `fillvalue`; the picture again; or its mirror image, the edge pixel repeated.  SciPy's
        longer names 'circular' and 'symmetric' are understood.
    fillvalue : number, default 0
    method : {'auto', 'direct', 'fft'}, default 'auto'
        'direct' adds products.  'fft' multiplies Fourier transforms, block by block where the picture is much larger
        than the kernel (overlap-save on the CPU, `oaconvolve` of CuPy on CUDA); its errors are relative to the largest
        sums.  'auto' estimates the cost: see `gpuconv.signal.method`.

    Returns
    -------
    array
        Of the common dtype of both.  Integers are exact modulo 2**bits, by either method.

    Raises
    ------
    ValueError
        If an array is empty or has not two axes; in mode 'valid', if neither array is at least as large as the other
        in both directions; for unknown names; for a `fillvalue` that the result's dtype does not hold; for integers
        too large for 'fft'.
    TypeError
        For other types, and for a mixture of GPU and host arrays.

    Notes
    -----
    As in SciPy, if in mode 'valid' only `in2` is large enough to contain the other, the two change places and the
    result is turned by 180 degrees.  The conjugate is then taken of `in1`, which acts as the kernel.

    float32 and float64 are computed on the device in use, other dtypes always on the CPU.

    Unlike SciPy, empty arrays are refused.

    See Also
    --------
    convolve2d : The same with the kernel turned.
    gpuconv.functional.correlate2d : Batches of pictures with channels, strides, dilation.

    Examples
    --------
    >>> correlate2d([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[0, 0], [0, 1]], mode="valid")
    array([[5, 6],
           [8, 9]])
    """
    return _combine(in1, in2, mode, boundary, fillvalue, method, turned=False)


def convolve2d(in1, in2, mode="full", boundary="fill", fillvalue=0, method="auto"):
    """The 2D convolution of two pictures.

    ``y[i, j] = sum_{a, b} X[i - a, j - b] in2[a, b]``, where X is `in1`, continued beyond its edges: the kernel is
    turned by 180 degrees before it is laid on the picture, where `correlate2d` takes it as it is.  In exchange,
    convolution commutes: ``convolve2d(a, b) == convolve2d(b, a)``.

    Parameters, errors and result are those of `correlate2d`, but nothing is conjugated, and if in mode 'valid' only
    `in2` is large enough to contain the other, the two simply change places.

    Examples
    --------
    >>> convolve2d([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[0, 0], [0, 1]], mode="valid")
    array([[1, 2],
           [4, 5]])
    """
    return _combine(in1, in2, mode, boundary, fillvalue, method, turned=True)


def _combine(in1, in2, mode, boundary, fillvalue, method, turned):
    """`convolve2d` if the kernel is `turned`, else `correlate2d`."""
    checks.choice("mode", mode, MODES)
    boundary = BOUNDARIES[checks.choice("boundary", boundary, BOUNDARIES)]
    checks.choice("method", method, methods.METHODS)
    on_gpu = interchange.lives_on_gpu(in1) or interchange.lives_on_gpu(in2)
    if on_gpu:
        for name, array in (("in1", in1), ("in2", in2)):
            interchange.shape_of(name, array, 2)
        borrowed = interchange.Borrowed(in1=in1, in2=in2)
        device, dtype = borrowed.device, borrowed.dtype
        x, kernel = borrowed.arrays
    else:
        x, kernel = pair(2, in1=in1, in2=in2)
        dtype = x.dtype
        device = devices.current() if dtype.kind == "f" else devices.module("cpu")
    fillvalue = _fillvalue(fillvalue, dtype)
    swapped = mode == "valid" and _must_swap(x.shape, kernel.shape)
    if swapped:
        x, kernel = kernel, x
    places = [
        _places(extent, cells, mode, boundary, turned) for extent, cells in zip(x.shape, kernel.shape, strict=True)
    ]
    if dtype.kind == "c" and not turned:
        kernel = kernel.conj()
    if swapped and not turned:
        # The result is to be read backwards, which is the result for picture and kernel read backwards.
        places = [np.ascontiguousarray(axis[::-1]) for axis in places]
        turned = True
    if turned:
        # Kernels are small: turning them on the host costs less than a GPU kernel for that would explain.
        host = device.to_host(kernel) if on_gpu else kernel
        kernel = np.ascontiguousarray(host[::-1, ::-1])
        if on_gpu:
            kernel = device.from_host(kernel)

    if not on_gpu:
        x, kernel = device.from_host(x), device.from_host(kernel)
    shape = tuple(axis.size - cells + 1 for axis, cells in zip(places, kernel.shape, strict=True))
    if method == "auto":
        method = _cheaper(device, x, kernel, fillvalue, shape)
    if method == "fft":
        y = _by_fft(device, x, kernel, places, fillvalue, shape, dtype)
    else:
        y = _output(device, x, shape, dtype)
        rows, columns = (device.from_host(axis) for axis in places)
        device.correlate_image(x, rows, columns, fillvalue, kernel, y)
    if on_gpu:
        return borrowed.give_back(y)
    return y if isinstance(y, np.ndarray) else device.to_host(y)


def _output(device, x, shape, dtype):
    """Memory for the sums; on the CPU, it starts with a line of memory, half a page away from where the picture does.

    A core that reads where it has just written must wait for that, and of two places it compares no more than where in
    a page they are.  NumPy lets all large arrays start at the same place of a page, and many pictures' lines are whole
    pages.
    """
    count = math.prod(shape)
    if not isinstance(x, np.ndarray) or count * dtype.itemsize < 16 * PAGE_BYTES:
        return device.empty(shape, dtype)
    memory = device.empty((count + PAGE_BYTES // dtype.itemsize,), dtype)
    half_a_page_away = (x.ctypes.data + PAGE_BYTES // 2) // LINE_BYTES * LINE_BYTES
    start = (half_a_page_away - memory.ctypes.data) % PAGE_BYTES // dtype.itemsize
    return memory[start : start + count].reshape(shape)


def _fillvalue(value, dtype):
    """The number beyond the edges, in the dtype of the result."""

    def refused(error):
        return error(f"fillvalue: expected one number that {dtype} can hold, received {value!r}")

    number = np.asarray(value)
    if number.dtype.kind not in "biufc":
        raise refused(TypeError)
    if number.size != 1:
        raise refused(ValueError)
    number = number.item()
    if dtype.kind != "c":
        if isinstance(number, complex) and number.imag != 0:
            raise refused(ValueError)
        number = number.real
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        # The fraction is cut off, as SciPy does; the comparison is false for NaN.
        if not limits.min <= number <= limits.max:
            raise refused(ValueError)
        number = int(number)
    with np.errstate(over="ignore"):
        return dtype.type(number)


def _must_swap(picture, kernel):
    """Whether only the kernel is large enough to contain the other array, in mode 'valid'."""
    if all(extent >= cells for extent, cells in zip(picture, kernel, strict=True)):
        return False
    if all(extent <= cells for extent, cells in zip(picture, kernel, strict=True)):
        return True
    raise ValueError(
        "in1, in2: expected one of them to be at least as large as the other in both directions, for mode 'valid', "
        f"received shapes {tuple(picture)} and {tuple(kernel)}"
    )


@functools.lru_cache(maxsize=64)
def _places(extent, cells, mode, boundary, turned):
    """For each row (or column) of the continued picture the row of the picture that lies there, -1 for none.

    The same array for the same arguments: not to be changed.
    """
    # How far the kernel reaches beyond the first pixel and the last; its middle is its cell (cells - 1) // 2.
    before, after = {
        "valid": (0, 0),
        "full": (cells - 1, cells - 1),
        "same": (cells // 2, (cells - 1) // 2) if turned else ((cells - 1) // 2, cells // 2),
    }[mode]
    places = np.arange(-before, extent + after)
    if boundary == "wrap":
        places %= extent
    elif boundary == "symm":
        places %= 2 * extent
        places = np.minimum(places, 2 * extent - 1 - places)
    else:
        places[(places < 0) | (places >= extent)] = -1
    return places.astype(np.int32)


def _cheaper(device, x, kernel, fillvalue, shape):
    """The method by the estimate of `gpuconv.signal.method`."""
    dtype = fillvalue.dtype
    if dtype.kind in "iu" or not _prefers_fft(device, shape, kernel.shape, dtype):
        return "direct"
    try:
        library, _ = _toolbox(device)
    except devices.DeviceError:
        return "direct"
    transforms = _transforms(device, shape, kernel.shape, dtype)
    if transforms is None:
        transformed = _extended_size(shape, kernel.shape)
    else:
        transformed = transforms.block_size(shape, kernel.shape, dtype)
    x, kernel = library.asarray(x), library.asarray(kernel)
    return "fft" if methods.stays_finite(library, x, kernel, transformed, fillvalue) else "direct"


@functools.lru_cache(maxsize=256)
def _prefers_fft(device, outputs, cells, dtype):
    """Whether transforms are estimated to cost less."""
    transforms = _transforms(device, outputs, cells, dtype)
    if transforms is not None:
        return math.prod(outputs) * math.prod(cells) > transforms.cost(outputs, cells, dtype)
    return methods.prefers_fft(2, math.prod(outputs), math.prod(cells), _extended_size(outputs, cells), dtype)


def _extended_size(outputs, cells):
    """Pixels of the picture continued beyond its edges."""
    return math.prod(count + reach - 1 for count, reach in zip(outputs, cells, strict=True))


def _by_fft(device, x, kernel, places, fillvalue, shape, dtype):
    """The sums of `correlate_image`, by Fourier transforms; an array of the device."""
    transforms = _transforms(device, shape, kernel.shape, dtype)
    if transforms is not None:
        y = device.empty(shape, dtype)
        transforms.correlate_image(x, *places, fillvalue, kernel, y)
        return y
    library, oaconvolve = _toolbox(device)
    if oaconvolve is None:
        return _by_blocks(x, kernel, places, fillvalue, dtype)
    x, kernel = library.asarray(x), library.asarray(kernel)
    rows, columns = (library.asarray(axis) for axis in places)
    extended = x[rows[:, np.newaxis], columns]
    extended[rows < 0] = fillvalue
    extended[:, columns < 0] = fillvalue
    y = oaconvolve(extended, kernel[::-1, ::-1], mode="valid")
    from numba import cuda

    return cuda.as_cuda_array(library.ascontiguousarray(y))


def _transforms(device, outputs, cells, dtype):
    """The CPU's kernel of Fourier transforms; None where there is none for such pictures."""
    if device is not devices.module("cpu"):
        return None
    from ..kernels.cpu import fourier

    return fourier if fourier.usable(outputs, cells, dtype) else None


def _by_blocks(x, kernel, places, fillvalue, dtype):
    """`_by_fft` on the CPU by SciPy's transforms, block by block (overlap-save), for any type and size.

    The product of two transforms belongs to the convolution of two periodic pictures.  What the period spoils are the
    first rows and columns of a block, as many as the kernel has but one; the rest is kept.  A block reads its part of
    the continued picture, which is never made as a whole.
    """
    from scipy import fft

    real = dtype.kind != "c"
    forward, backward = (fft.rfft2, fft.irfft2) if real else (fft.fft2, fft.ifft2)
    reach = [cells - 1 for cells in kernel.shape]
    outputs = [axis.size - more for axis, more in zip(places, reach, strict=True)]
    parts = [_part(count, cells) for count, cells in zip(outputs, kernel.shape, strict=True)]
    period = [fft.next_fast_len(part + more, real) for part, more in zip(parts, reach, strict=True)]
    factor = forward(kernel[::-1, ::-1], period)
    y = np.empty(outputs, dtype)

    def compute(corner):
        i, j = corner
        rows, columns = (
            axis[first : first + part + more]
            for axis, first, part, more in zip(places, corner, parts, reach, strict=True)
        )
        block = x[rows].take(columns, axis=1)
        block[rows < 0] = fillvalue
        block[:, columns < 0] = fillvalue
        product = forward(block, period)
        product *= factor
        sums = backward(product, period, overwrite_x=True)[reach[0] : rows.size, reach[1] : columns.size]
        if dtype.kind in "iu":
            sums = methods.integers_from(sums, dtype, methods.rounding_bound(block, kernel, block.size))
        y[i : i + parts[0], j : j + parts[1]] = sums

    corners = list(itertools.product(*(range(0, count, part) for count, part in zip(outputs, parts, strict=True))))
    threads = min(devices.get_num_threads(), len(corners))
    if threads == 1:
        for corner in corners:
            compute(corner)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(compute, corners))  # taking the results raises what a thread has raised
    return y


def _part(outputs, cells):
    """Outputs of a block along one axis: many beside what the kernel reaches beyond them, few enough for the caches."""
    blocks = -(-outputs // max(BLOCK, 4 * cells))
    return -(-outputs // blocks)


def _toolbox(device):
    """The array library of a device, and its overlap-add convolution; None on the CPU, which has `_by_blocks`."""
    if device is devices.module("cpu"):
        return np, None
    try:
        import cupy
        from cupyx.scipy.signal import oaconvolve
    except ImportError:
        raise devices.DeviceError(
            "method: expected 'auto' or 'direct' on CUDA without the package cupy, received 'fft'"
        ) from None
    return cupy, oaconvolve
