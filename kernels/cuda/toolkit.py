"""The one door to CUDA: everything else in this package takes `cuda` from here.

Numba's CUDA target may be absent, broken, or present without a driver, and importing it
can then raise nearly anything.  Here that is turned into a sentence that says what is missing.
All kernels are started by `launch`, all memory comes from `allocate`, and scratch memory from `workspace`, so that
a test can stand in for them and compile the kernels where no GPU is.  Everything happens in the order of the calls,
on one stream of the device's own.
"""

import functools
import importlib.metadata
import threading
import warnings
from types import SimpleNamespace

import numpy as np
from numba import config

try:
    from numba import cuda

    _import_error = ""
except Exception as error:  # not only ImportError: drivers and bindings of other versions fail in their own ways
    cuda = None
    _import_error = f"{type(error).__name__}: {error}"

# NUMBA_ENABLE_CUDASIM=1: kernels run as Python, one Python thread for each CUDA thread.
SIMULATED = bool(config.ENABLE_CUDASIM)

SMALLEST_CAPABILITY = (7, 5)
INSTALL = "pip install 'gpuconv[cuda13]' (or 'gpuconv[cuda12]' for a driver of CUDA 12)"


def launch(kernel, blocks, threads, *arguments):
    """Start `kernel` on a grid of `blocks` blocks of `threads` threads.

    Called as ``toolkit.launch(...)``, so that a test can replace it.

    Parameters
    ----------
    kernel : CUDA kernel
    blocks, threads : tuple of int
        Extents of the grid and of a block.  An empty grid starts nothing: there is nothing to do.
    *arguments
        Device arrays, NumPy scalars (whose type the kernel sees) and 32-bit geometries.
    """
    if 0 in blocks:
        return
    configured = kernel[blocks, threads] if SIMULATED else _configured(kernel, blocks, threads)
    configured(*arguments)


@functools.lru_cache(maxsize=4096)
def _configured(kernel, blocks, threads):
    with warnings.catch_warnings():
        # Numba warns of every grid under 128 blocks; small problems have small grids.
        warnings.filterwarnings("ignore", message=".*Grid size")
        return kernel[blocks, threads, stream()]


# Specialised kernels that did not compile: the generic ones are called at once.
_refused = set()

# What numba-cuda and NVIDIA's libraries raise where code cannot be compiled, linked or loaded: names of exceptions, and
# of the driver's errors.  Names, since numba-cuda has its own classes of those of Numba.
_COMPILERS = {
    "NumbaError", "NvvmError", "nvvmError", "LinkerError", "nvJitLinkError", "NvrtcError", "NvrtcCompilationError",
}  # fmt: skip
_UNLOADABLE = (
    "INVALID_PTX",
    "UNSUPPORTED_PTX_VERSION",
    "NO_BINARY_FOR_GPU",
    "INVALID_IMAGE",
    "LAUNCH_OUT_OF_RESOURCES",
)


def attempt(variant, specialised, generic):
    """Call `specialised`, or `generic` where a kernel of it cannot be compiled for this GPU, with one warning.

    Parameters
    ----------
    variant : str
        Which kernels, for the warning.
    specialised, generic : callable
        Without arguments, for the same result.  Kernels are compiled as they are first launched: what `specialised` had
        launched before, `generic` computes anew.
    """
    if variant not in _refused:
        try:
            specialised()
            return
        except Exception as error:
            if not _cannot_compile(error):
                raise
            _refused.add(variant)
            warnings.warn(
                f"{variant}: expected kernels that compile for this GPU, received {type(error).__name__}: "
                f"{_one_line(error)}; the generic kernels compute instead",
                RuntimeWarning,
                stacklevel=2,
            )
    generic()


def variant(name, geometry):
    """What specialised kernels of a correlation compute, in words, for `attempt`."""
    kernel = f"{geometry.kernel_height} x {geometry.kernel_width}"
    return f"{name}, {kernel} filters, {geometry.channels} to {geometry.out_channels} channels"


def _cannot_compile(error):
    return any(kind.__name__ in _COMPILERS for kind in type(error).__mro__) or any(
        words in str(error) for words in _UNLOADABLE
    )


@functools.cache
def stream():
    """The stream that everything goes through.

    As streams are by default, it waits for the legacy default stream and is waited for by it, so that arrays of
    libraries that work there are read after they are written.  Called as ``toolkit.stream()``, so that a test can
    replace it.
    """
    pool = _pool()
    return cuda.stream() if pool is None else cuda.external_stream(pool.stream.ptr)


@functools.cache
def _pool():
    """CuPy's memory pool, or None where CuPy is missing or does not work.

    The pool keeps the arrays of each stream apart: ours come from a stream that CuPy has made.
    """
    if SIMULATED:
        return None
    try:
        import cupy

        pool = SimpleNamespace(stream=cupy.cuda.Stream(), empty=cupy.empty)
        with pool.stream:
            pool.empty(1, np.uint8)
    except Exception:  # of another CUDA version, without its libraries, ...: Numba has memory of its own
        return None
    return pool


def allocate(shape, dtype):
    """A device array with unspecified contents, from CuPy's pool if there is CuPy: Numba asks the driver each time.

    Called as ``toolkit.allocate(...)``, so that a test can replace it.

    Raises
    ------
    MemoryError
        If the device has no room; the message says how much was asked for and how much is free.
    """
    pool = _pool()
    try:
        if pool is None:
            return cuda.device_array(shape, dtype, stream=stream())
        with pool.stream:
            array = pool.empty(shape, dtype)
            return cuda.as_cuda_array(array, sync=False)
    except Exception as error:
        if not (isinstance(error, MemoryError) or "OUT_OF_MEMORY" in str(error)):
            raise
        raise MemoryError(_out_of_memory(shape, dtype)) from error


def _out_of_memory(shape, dtype):
    wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    try:
        free, total = cuda.current_context().get_memory_info()
        room = f"{_mebibytes(free)} free of {_mebibytes(total)}"
    except Exception as error:  # a driver that cannot even say this
        room = f"no room ({type(error).__name__}: {_one_line(error)})"
    return (
        f"device memory: expected {_mebibytes(wanted)} for an array of shape {shape} and type {np.dtype(dtype)}, "
        f"received {room}; make batch_size or the pictures smaller, or free other arrays and models"
    )


def captures():
    """Whether launches can be captured: by the streams of CuPy, where there is CuPy.

    Called as ``toolkit.captures()``, so that a test can replace it.
    """
    return _pool() is not None


def capture(calls):
    """What ``calls()`` launches, as a function that launches it again, as one graph.

    Called as ``toolkit.capture(...)``, so that a test can replace it.

    Parameters
    ----------
    calls : callable
        Without arguments.  Its kernels have been launched before, so that nothing is compiled or loaded meanwhile, and
        all memory is there.

    Returns
    -------
    callable
    """
    with _pool().stream as stream:
        stream.begin_capture()
        try:
            calls()
        finally:
            graph = stream.end_capture()
    return functools.partial(graph.launch, stream)


def _mebibytes(size):
    return f"{size / 2**20:.1f} MiB"


def bounds(threads, blocks):
    """Options of `cuda.jit`: at most so many threads a block, and registers for so many blocks at once."""
    return {} if SIMULATED else {"launch_bounds": (threads, blocks)}


_workspaces = threading.local()


def workspace(count, dtype, purpose="sums"):
    """Scratch memory of at least `count` elements, kept and handed out again by the next call.

    The launches of one thread follow each other, so that one buffer for each thread, type and purpose is enough:
    what must outlive a call of another kernel of the table has a purpose of its own.
    Called as ``toolkit.workspace(...)``, so that a test can replace it.
    """
    dtype = np.dtype(dtype)
    name = f"{purpose} {dtype.name}"
    buffer = getattr(_workspaces, name, None)
    if buffer is None or buffer.size < count:
        buffer = allocate(count, dtype)
        setattr(_workspaces, name, buffer)
    return buffer


def workspaces():
    """All scratch memory that this thread has been given so far."""
    return list(vars(_workspaces).values())


def flat(array):
    """The contiguous array as one axis, without a copy."""
    return array if array.ndim == 1 else array.reshape(array.size)


def address(array, first=0):
    """Where number `first` of a contiguous array lies: an argument of a kernel that works on addresses.

    One 64-bit number, where an array would be unpacked at every launch; an `Address` in the simulator.  The caller
    keeps the array alive.  Called as ``toolkit.address(...)``, so that a test can replace it.
    """
    if SIMULATED:
        cells = array.reshape(array.size)
        return Address(getattr(cells, "_ary", cells), first)
    begin, _ = array.__cuda_array_interface__["data"]
    return np.uint64(begin + first * array.dtype.itemsize)


class Address:
    """A place in an array: what an address is in the simulator, which stays within its array."""

    __slots__ = ("array", "place")

    def __init__(self, array, place=0):
        self.array, self.place = array, place

    def moved(self, count):
        """The address `count` numbers further on."""
        return Address(self.array, self.place + count)

    def cells(self, count):
        """The view of `count` numbers from here on, all of which must lie in the array.

        Raises
        ------
        IndexError
            If they do not.
        ValueError
            If they do not lie at a multiple of their size.
        """
        if not 0 <= self.place <= self.array.size - count:
            raise IndexError(f"address: expected {count} numbers among {self.array.size}, received place {self.place}")
        size = count * self.array.itemsize
        if (self.array.ctypes.data + self.place * self.array.itemsize) % size:
            raise ValueError(f"address: expected a multiple of {size} bytes, received place {self.place}")
        return self.array[self.place : self.place + count]


def is_aligned(address):
    """Whether four float32 numbers at a time can be accessed from an address on."""
    if SIMULATED:
        address = address.array.ctypes.data + address.place * address.array.itemsize
    return address % 16 == 0


def compute_capability():
    """The compute capability of the current device, as a pair; that of the oldest with all features if simulated.

    Called as ``toolkit.compute_capability()``, so that a test can replace it.
    """
    return (8, 0) if SIMULATED else tuple(cuda.get_current_device().compute_capability)


def multiprocessors():
    """How many multiprocessors the current device has; a few if simulated.

    Called as ``toolkit.multiprocessors()``, so that a test can replace it.
    """
    return 4 if SIMULATED else cuda.get_current_device().MULTIPROCESSOR_COUNT


def probe():
    """Whether a CUDA device answers and is supported, and if not, what is missing.

    Returns
    -------
    answers : bool
    reason : str
        What was found, or what is missing and the command that installs it.  Never raises.
    """
    try:
        return _probe()
    except Exception as error:  # a driver, a device or bindings that fail in their own way: say so
        return False, f"no CUDA device answers ({type(error).__name__}: {_one_line(error)}): {INSTALL}"


def _probe():
    if SIMULATED and cuda is not None:
        return True, "Numba's CUDA simulator"
    if cuda is None:
        return False, f"the package numba-cuda cannot be imported ({_import_error}): {INSTALL}"
    problem = cuda.cuda_error()
    if problem:
        return False, f"no NVIDIA driver answers ({_one_line(problem)}): install NVIDIA's driver, then {INSTALL}"
    if len(cuda.gpus) == 0:
        return False, "the driver finds no CUDA device (see nvidia-smi and CUDA_VISIBLE_DEVICES)"
    device = cuda.get_current_device()
    capability, name = tuple(device.compute_capability), _text(device.name)
    if capability < SMALLEST_CAPABILITY:
        return False, (
            f"{name} has compute capability {_dotted(capability)}, and {_dotted(SMALLEST_CAPABILITY)} or more is needed"
        )
    if not cuda.is_available():
        return False, f"{name} answers, but NVIDIA's compiler library NVVM is missing: {INSTALL}"
    driver, compiler = cuda.cudadrv.driver.get_version(), _compiler_version()
    # Within one major version newer code runs on older drivers.
    if compiler and driver[0] < compiler[0]:
        return False, (
            f"{name} answers, but its driver is of CUDA {_dotted(driver)}, too old for code of the installed compiler "
            f"of CUDA {_dotted(compiler)}: install a newer driver, or {INSTALL}"
        )
    message = np.arange(4, dtype=np.float32)
    if not np.array_equal(cuda.to_device(message).copy_to_host(), message):
        return False, f"{name} does not give back what is copied to it"
    return True, f"{name}, compute capability {_dotted(capability)}"


def _compiler_version():
    """The CUDA version of the installed compiler, or None where it does not tell."""
    try:
        return tuple(cuda.runtime.get_version())
    except Exception:  # kernels do without the library that tells
        return None


def describe():
    """What is known about CUDA here.

    Returns
    -------
    list of (str, str)
        Names and values, for showing.  Never raises.
    """
    if SIMULATED and cuda is not None:
        return [("CUDA", "simulator (NUMBA_ENABLE_CUDASIM=1)")]
    rows = [("numba-cuda", _version("numba-cuda"))]
    answers, reason = probe()
    if not answers:
        return [*rows, ("CUDA", f"not available: {reason}")]
    try:
        rows.append(("CUDA driver", _dotted(cuda.cudadrv.driver.get_version())))
        rows.append(("device memory", "Numba's" if _pool() is None else "CuPy's pool"))
        device = cuda.get_current_device()
        rows.append(("GPU", _text(device.name)))
        rows.append(("compute capability", _dotted(device.compute_capability)))
    except Exception as error:  # showing what is there must not fail
        rows.append(("CUDA", f"{type(error).__name__}: {_one_line(error)}"))
    return rows


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _dotted(numbers):
    return ".".join(str(number) for number in numbers)


def _text(name):
    return name.decode() if isinstance(name, bytes) else str(name)


def _one_line(problem):
    return " ".join(str(problem).split())
