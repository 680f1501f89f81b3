"""Which device computes, how it is chosen, and what is missing if it cannot be had.

A device is a module that offers every name of `gpuconv.kernels.TABLE`.  Adding one means
adding such a module to `_MODULES`; nothing else in the library asks which device it has.

The choice, first match wins:

1. ``Sequential(..., device=name)``, for that model;
2. ``gpuconv.use_device(name)``, for everything that follows, or inside a ``with`` block;
3. the environment variable ``GPUCONV_DEVICE``;
4. ``auto``: CUDA if a GPU of compute capability 7.5 or higher answers, else the CPU.
"""

import importlib.util
import os
import platform
import sys
from functools import cache

from . import checks
from .kernels import precision

_MODULES = {"cpu": "gpuconv.kernels.cpu", "cuda": "gpuconv.kernels.cuda"}
NAMES = ("auto", *_MODULES)

_chosen = None


class DeviceError(RuntimeError):
    """The device that was asked for cannot be used; the message says what is missing."""


class use_device:  # noqa: N801 - used as a function
    """Choose the device for what follows, or for a ``with`` block, in all threads of the process.

    Parameters
    ----------
    name : {'auto', 'cpu', 'cuda'}
        ``'auto'`` takes CUDA where a supported GPU answers, else the CPU.

    Raises
    ------
    ValueError
        If the name is unknown.
    DeviceError
        If the device cannot be used here; the message says what is missing.

    Examples
    --------
    >>> import gpuconv
    >>> with gpuconv.use_device("cpu"):
    ...     gpuconv.device.current_name()
    'cpu'
    """

    def __init__(self, name):
        global _chosen
        name = resolve(name)
        self.name = name
        self._previous = _chosen
        _chosen = name

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        global _chosen
        _chosen = self._previous

    def __repr__(self):
        return f"<using device {self.name!r}>"


def current_name():
    """The name of the device that computes now: ``'cpu'`` or ``'cuda'``."""
    return resolve(_chosen or os.environ.get("GPUCONV_DEVICE") or "auto")


def resolve(name):
    """Turn ``'auto'`` into the name of a device, and refuse one that cannot be used."""
    checks.choice("device", name, NAMES)
    if name == "auto":
        return "cuda" if not _simulated() and cuda_status()[0] else "cpu"
    if name == "cuda":
        answers, reason = cuda_status()
        if not answers:
            raise DeviceError(f"device: expected a CUDA GPU for 'cuda', received none: {reason}")
    return name


@cache
def module(name):
    """The module of kernels and memory functions of the device called `name`."""
    return importlib.import_module(_MODULES[name])


def current():
    """The module of the device that computes now."""
    return module(current_name())


@cache
def cuda_status():
    """Whether CUDA can be used here, and why not."""
    if not _simulated() and importlib.util.find_spec("numba_cuda") is None:
        # Numba has an old CUDA target of its own, which is not even looked at: importing it takes a second.
        return False, "the package numba-cuda is not installed: pip install 'gpuconv[cuda13]' (or 'gpuconv[cuda12]')"
    return importlib.import_module("gpuconv.kernels.cuda.toolkit").probe()


def _simulated():
    """Whether Numba simulates CUDA: good for tests, never what 'auto' should pick."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "1"


def get_num_threads():
    """How many threads a kernel of the CPU may use.

    Examples
    --------
    >>> import gpuconv
    >>> gpuconv.get_num_threads() >= 1
    True
    """
    return importlib.import_module("gpuconv.kernels.cpu.threads").get_num_threads()


def set_num_threads(count):
    """Let kernels of the CPU use at most `count` threads.  Results do not depend on it, bit by bit.

    Parameters
    ----------
    count : int
        From 1 to the number at the start, which is that of the processors, or the environment variable
        ``NUMBA_NUM_THREADS`` where it is set.

    Raises
    ------
    TypeError, ValueError
        If `count` is not such an integer.

    Examples
    --------
    >>> import gpuconv
    >>> before = gpuconv.get_num_threads()
    >>> gpuconv.set_num_threads(1)
    >>> gpuconv.get_num_threads()
    1
    >>> gpuconv.set_num_threads(before)
    """
    threads = importlib.import_module("gpuconv.kernels.cpu.threads")
    count = checks.integer("count", count, 1)
    if count > threads.WORKERS:
        raise ValueError(
            f"count: expected at most {threads.WORKERS} threads, received {count}; "
            "set NUMBA_NUM_THREADS before the start for more"
        )
    threads.set_num_threads(count)


def get_winograd():
    """What `set_winograd` has set, or ``GPUCONV_WINOGRAD`` at the start: ``'auto'``, 0, 2, 4, 5 or 6.

    Examples
    --------
    >>> import gpuconv
    >>> gpuconv.get_winograd()
    'auto'
    """
    return importlib.import_module("gpuconv.kernels.cpu.winograd").get_winograd()


def set_winograd(choice):
    """Choose how the CPU computes 3 x 3 and 5 x 5 correlations of many channels, from the next call or epoch on.

    Winograd's tiles need fewer multiplications than the direct sum; their results in float32 are within 4e-5 of the
    largest output (1e-5 with tiles of 2, and with those of 4 for 3 x 3 filters), and a NaN or an infinity reaches all
    outputs of the tiles that see it.  There are tiles for correlations of stride 1 without groups, of any dilation.
    Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016).

    Parameters
    ----------
    choice : {'auto', 0, 2, 4, 5, 6}
        The side of a tile's outputs; 0: the direct sum, always; ``'auto'``, the default: by an estimate of their costs.
        5 x 5 filters have no tiles of 5 and 6 and are computed directly then.

    Raises
    ------
    ValueError
        If `choice` is none of these.

    Examples
    --------
    >>> import gpuconv
    >>> gpuconv.set_winograd(0)
    >>> gpuconv.set_winograd("auto")
    """
    importlib.import_module("gpuconv.kernels.cpu.winograd").set_winograd(choice)


def get_precision():
    """What `set_precision` has set, or ``GPUCONV_PRECISION`` at the start: ``'float32'``, ``'tf32'`` or ``'bf16'``.

    Examples
    --------
    >>> import gpuconv
    >>> gpuconv.get_precision()
    'float32'
    """
    return precision.get_precision()


def set_precision(choice):
    """Choose how exactly CUDA multiplies float32 numbers in correlations and dense layers, from the next call on.

    Parameters
    ----------
    choice : {'float32', 'tf32', 'bf16'}
        ``'float32'``, the default: with the accuracy of float32, by multiply-adds or, where these are slower, on tensor
        cores in three products.  ``'tf32'``: factors are cut to 10 bits of fraction, an error of up to 2**-10 in each.
        ``'bf16'``: they are rounded to 7 bits, up to 2**-8.  Sums are float32 in any case.  Gradients by filters, and
        problems that tensor cores are not used for (compute capability 7.5; fewer than four channels or filters a
        group, or no multiple of four), keep the accuracy of float32; the CPU does not look at this.

    Raises
    ------
    ValueError
        If `choice` is none of these.

    Examples
    --------
    >>> import gpuconv
    >>> gpuconv.set_precision("tf32")
    >>> gpuconv.set_precision("float32")
    """
    precision.set_precision(choice)


def show_config():
    """Print versions, threads and devices: what to send along with a question.

    Examples
    --------
    >>> import gpuconv
    >>> gpuconv.show_config()  # doctest: +ELLIPSIS
    gpuconv ...
    """
    import llvmlite
    import numba
    import numpy
    import scipy

    from . import __version__

    rows = [
        ("gpuconv", __version__),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("NumPy", numpy.__version__),
        ("SciPy", scipy.__version__),
        ("Numba", f"{numba.__version__} (llvmlite {llvmlite.__version__})"),
        ("CPU threads", f"{get_num_threads()} of {os.cpu_count()} processors"),
        ("GPUCONV_DEVICE", os.environ.get("GPUCONV_DEVICE", "not set")),
        ("Winograd tiles", get_winograd()),
        ("precision on CUDA", get_precision()),
    ]
    answers, reason = cuda_status()
    if answers:
        rows += module("cuda").describe()
    else:
        rows.append(("CUDA", f"not available: {reason}"))
    try:
        rows.append(("device in use", current_name()))
    except (DeviceError, ValueError) as error:  # one that was asked for and cannot be had: the rest is still to see
        rows.append(("device in use", f"none, {error}"))
    width = max(len(name) for name, _ in rows)
    sys.stdout.write("".join(f"{name:<{width}}  {value}\n" for name, value in rows))
