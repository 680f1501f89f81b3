"""A GPU that is not there: stands in for device memory and for launches of `gpuconv.kernels.cuda`.

Inside ``with Gpu((9, 0)).installed():`` the device ``'cuda'`` answers.  Its arrays lie in the machine's memory; what
`toolkit.launch` is given is compiled for the compute capability, its arguments are flattened as Numba does, and
its PTX is executed, with the grid and the block that a GPU would get.
"""

import contextlib
import functools

import numba
import numpy as np
import pytest
from gpuconv.kernels.cuda import toolkit
from gpuconv.kernels.cuda.repetition import graphs

from gpuconv import device as devices

from .errors import SimtError, UninitialisedError
from .machine import Kernel
from .memory import GlobalMemory

# Options of `cuda.jit` that do not change the code.
HARMLESS = {"cache", "device", "inline", "opt", "extensions", "lto", "launch_bounds"}


class DeviceArray:
    """An array in the machine's memory, with what the library uses of Numba's device arrays.

    Parameters
    ----------
    memory : GlobalMemory
    cells : ndarray
        A view of the memory's bytes.
    """

    def __init__(self, memory, cells):
        self._memory, self._cells = memory, cells
        self.shape, self.strides, self.dtype = cells.shape, cells.strides, cells.dtype
        self.size, self.ndim, self.nbytes = cells.size, cells.ndim, cells.nbytes

    @property
    def offset(self):
        """Where in the memory it begins."""
        return self._cells.__array_interface__["data"][0] - self._memory.bytes.__array_interface__["data"][0]

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape, "strides": None, "typestr": self.dtype.str, "version": 3,
            "data": (self._memory.address(self.offset), False),
        }  # fmt: skip

    def reshape(self, *shape):
        """The same numbers in another shape."""
        cells = self._cells.reshape(*shape)
        assert not cells.size or np.shares_memory(cells, self._cells), "reshaped without a copy"
        return DeviceArray(self._memory, cells)

    def __getitem__(self, place):
        return DeviceArray(self._memory, self._cells[place])

    def __len__(self):
        return len(self._cells)

    def _flags(self):
        """What the machine knows of each byte, in the shape of the array."""
        return np.lib.stride_tricks.as_strided(
            self._memory.flags[self.offset :], (*self.shape, self.dtype.itemsize), (*self.strides, 1)
        )

    def copy_to_host(self, stream=None):
        """The numbers, all of which something must have written."""
        if self.size and not (self._flags() & 2).all():
            raise UninitialisedError("the host reads an array that nothing has written, or only in part")
        return self._cells.copy()

    def copy_to_device(self, source, stream=None):
        """Take over the numbers of an array of the same shape, and whether they are written."""
        if self.shape != source.shape or self.dtype != source.dtype:
            raise ValueError(
                f"expected an array like {self.shape} {self.dtype}, received {source.shape} {source.dtype}"
            )
        if isinstance(source, DeviceArray):
            self._cells[...] = source._cells
            self._flags()[...] = source._flags()
        else:
            self._cells[...] = source
            self._flags()[...] = 3


class Gpu:
    """A GPU of a compute capability, made of the machine.

    Parameters
    ----------
    capability : tuple of int
    counters : Counters, optional
    order : {'together', 'warps'}
        As in `Kernel.run`.
    size : int
        Bytes of its memory.
    **options
        More of what `Kernel.run` takes.

    Attributes
    ----------
    multiprocessors : int
        How many it says it has.
    launched : list
        ``(name, blocks, threads)`` of every launch.
    longest : int
        Steps of the longest launch.
    waits : int
        How often the host has waited for it.
    """

    def __init__(self, capability=(9, 0), counters=None, order="together", size=1 << 26, **options):
        self.capability = capability
        self.options = {"counters": counters, "order": order, **options}
        self.memory = GlobalMemory(size)
        self.launched, self.longest, self.waits, self.multiprocessors = [], 0, 0, 132

    def empty(self, shape, dtype):
        """An array that nothing has written."""
        shape = (shape,) if np.ndim(shape) == 0 else tuple(shape)
        dtype = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        offset = self.memory.allocate(count)
        return DeviceArray(self.memory, self.memory.bytes[offset : offset + count].view(dtype).reshape(shape))

    def synchronize(self):
        """Stands in for that of `toolkit.stream`: everything that was called has been done."""
        self.waits += 1

    def workspace(self, count, dtype, purpose=None):
        """Stands in for `toolkit.workspace`: nothing is left from before."""
        return self.empty(count, dtype)

    def launch(self, kernel, blocks, threads, *arguments):
        """Stands in for `toolkit.launch`."""
        if 0 in blocks:
            return
        self.launched.append((kernel.py_func.__name__, blocks, threads))
        unknown = {name for name, value in kernel.targetoptions.items() if value and name not in HARMLESS}
        if unknown:
            raise SimtError(f"options of cuda.jit that are not compiled with: {sorted(unknown)}")
        types = tuple(type_of(argument) for argument in arguments)
        ready = self.kernel(kernel.py_func, types, kernel.targetoptions.get("launch_bounds"))
        flat = [number for argument in arguments for number in flatten(argument)]
        self.longest = max(self.longest, ready.run(self.memory, blocks, threads, flat, **self.options))

    def capture(self, calls):
        """Stands in for `toolkit.capture`: launches are kept, to be made together."""
        launches = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(toolkit, "launch", lambda *arguments: launches.append(arguments))
            calls()

        def launch():
            for arguments in launches:
                self.launch(*arguments)

        return launch

    def kernel(self, function, types, bounds=None):
        """The compiled and parsed kernel."""
        return compiled(function, types, self.capability, bounds)

    @contextlib.contextmanager
    def installed(self):
        """Make this the CUDA device of the library."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(toolkit, "launch", self.launch)
            patch.setattr(toolkit, "workspace", self.workspace)
            patch.setattr(toolkit, "compute_capability", lambda: self.capability)
            patch.setattr(toolkit, "multiprocessors", lambda: self.multiprocessors)
            patch.setattr(toolkit, "allocate", self.empty)
            patch.setattr(toolkit, "capture", self.capture)
            patch.setattr(toolkit, "captures", lambda: True)
            patch.setattr(toolkit, "stream", lambda: self)
            patch.setattr(devices, "cuda_status", lambda: (True, "a machine that executes PTX"))
            graphs.clear()  # those of another machine
            yield self
            graphs.clear()


@functools.lru_cache(maxsize=512)
def compiled(function, types, capability, bounds=None):
    """The kernel for these types, from the same PTX that `test_cuda_ptx` looks into."""
    from cuda_compiling import ptx_of

    return Kernel(ptx_of(function, types, capability, bounds))


def type_of(argument):
    """Numba's type of an argument of a launch."""
    if isinstance(argument, DeviceArray):
        return numba.typeof(argument._cells)
    if isinstance(argument, np.ndarray):
        raise SimtError("an array of the host is passed to a kernel")
    return numba.typeof(argument)


def flatten(argument):
    """An argument as the numbers that a kernel's parameters take, one after another.

    An array becomes two null pointers, its size, the size of an item, its address, its extents and its strides in
    bytes; a tuple the numbers of its items.
    """
    if isinstance(argument, DeviceArray):
        address = argument._memory.address(argument.offset)
        return [0, 0, argument.size, argument.dtype.itemsize, address, *argument.shape, *argument.strides]
    if isinstance(argument, tuple):
        return [number for item in argument for number in flatten(item)]
    return [argument]
