"""CUDA kernels on their way to machine code, without a GPU: what is launched, its PTX, what the assembler says of it.

The host functions of `gpuconv.kernels.cuda` run up to their launches, which are recorded instead of made.  Each
recorded kernel is lowered once, turned into PTX for any architecture, and assembled and disassembled by NVIDIA's
own programs, which come as packages.  Everything is kept, so that who asks again does not wait again.
"""

import contextlib
import functools
import importlib.metadata
import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numba
import numba.cuda
import numpy as np
import pytest
from cuda_arguments import cases
from gpuconv.kernels import cuda as device
from gpuconv.kernels.cuda import toolkit
from numba.cuda import dispatcher

# An architecture that all kernels can be lowered for: the LLVM code does not depend on it.
OLDEST = (7, 5)


class Launch(NamedTuple):
    """A kernel with the types it is launched with, the number of threads of a block, and its launch bounds."""

    function: object
    types: tuple
    threads: int
    bounds: tuple | None = None

    def ptx(self, capability):
        """Its PTX for a compute capability."""
        return ptx_of(self.function, self.types, capability, self.bounds)


def launch_of(kernel, threads, arguments):
    """The `Launch` that arguments of `toolkit.launch` make."""
    types = tuple(numba.typeof(argument) for argument in arguments)
    return Launch(kernel.py_func, types, int(np.prod(threads)), kernel.targetoptions.get("launch_bounds"))


@contextlib.contextmanager
def recording(record, capability):
    """Host functions work on NumPy arrays and call ``record(kernel, blocks, threads, *arguments)`` for a launch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolkit, "launch", record)
        patch.setattr(toolkit, "workspace", lambda count, dtype, purpose=None: np.empty(count, dtype))
        patch.setattr(toolkit, "address", address_of)
        patch.setattr(toolkit, "compute_capability", lambda: capability)
        patch.setattr(toolkit, "multiprocessors", lambda: 132)
        yield


def address_of(array, first=0):
    """Stands in for `toolkit.address` with an array of the host."""
    return np.uint64(array.ctypes.data + first * array.itemsize)


def launches(name, dtype, capability=(9, 0)):
    """What the host function `name` launches for the arguments of `cuda_arguments`, without repetitions.

    Returns
    -------
    dict
        From each `Launch` to the description of the arguments that made it first.
    """
    return _launches(name, dtype, min(capability, (8, 0)))  # newer GPUs get what 8.0 gets


@functools.cache
def _launches(name, dtype, capability):
    found = {}

    def record(description, kernel, blocks, threads, *arguments):
        assert all(isinstance(extent, int) for extent in (*blocks, *threads))
        assert all(extent <= 65535 for extent in blocks[1:])
        assert np.prod(threads) <= 1024
        launch = launch_of(kernel, threads, arguments)
        wide = {numba.types.int64, numba.types.float64} - {numba.from_dtype(np.dtype(dtype))}
        assert wide.isdisjoint(launch.types), "a Python number was passed where a NumPy scalar is wanted"
        found.setdefault(launch, description)

    for description, arguments in cases(name, dtype).items():
        with recording(functools.partial(record, description), capability):
            getattr(device, name)(*arguments)
    return found


@functools.cache
def lowered(function, types, bounds=None):
    """The kernel as LLVM code, which is the same for all architectures and takes most of the time.

    `test_cuda_ptx.test_lowering_once_is_enough` holds this shortcut to the public `cuda.compile`.
    """
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error")
        # Device functions that the kernel calls are compiled for the GPU that is there.
        patch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=OLDEST))
        library, _ = numba.cuda.compiler._compile_pyfunc_with_fixup(
            function, types, device=False, abi="numba", cc=OLDEST, launch_bounds=bounds
        )
    return library


@functools.cache
def ptx_of(function, types, capability, bounds=None):
    """The kernel's PTX for a compute capability."""
    return lowered(function, types, bounds).get_asm_str(cc=capability)


class Assembled(NamedTuple):
    """What the assembler says of one kernel."""

    report: str
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int


def assemble(codes, capability):
    """Machine code for a compute capability.

    Parameters
    ----------
    codes : tuple of str
        PTX of one kernel each, of one process, so that no two names are the same.  They become one module: NVIDIA's
        programs need most of their time to start.
    capability : tuple of int

    Returns
    -------
    list of Assembled
    """
    if not codes:
        return []
    reports = _sections(_machine_code(codes, capability)[0], r"Compiling entry function '(\w+)'")
    return [_assembled(reports[name]) for name in _names(codes)]


def disassemble(codes, capability):
    """The machine code that `assemble` makes, as NVIDIA's disassembler writes it.

    Returns
    -------
    list of str
    """
    if not codes:
        return []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernels.cubin"
        target.write_bytes(_machine_code(codes, capability)[1])
        listings = _sections(_run(program("nvdisasm"), "--print-code", target), r"\n//-+ \.text\.(\w+) ")
    return [listings[name] for name in _names(codes)]


@functools.cache
def _machine_code(codes, capability):
    """What the assembler prints, and the module that it makes."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "kernels.ptx", Path(folder) / "kernels.cubin"
        source.write_text(_module(codes))
        architecture = f"-arch=sm_{capability[0]}{capability[1]}"
        reports = _run(program("ptxas"), architecture, "--verbose", "--output-file", target, source)
        return reports, target.read_bytes()


_HEAD_ENDS = ".address_size 64\n"


def _module(codes):
    """The PTX of several kernels as one module."""
    lines = [codes[0].partition(_HEAD_ENDS)[0] + _HEAD_ENDS]
    declared = set()
    for code in codes:
        for line in code.partition(_HEAD_ENDS)[2].splitlines(keepends=True):
            # Numba declares a variable, which nobody reads, for each device function that a kernel calls.
            if line not in declared:
                lines.append(line)
            if line.startswith(".common"):
                declared.add(line)
    return "".join(lines)


def _names(codes):
    return [re.search(r"\.visible \.entry (\w+)", code)[1] for code in codes]


def _sections(text, title):
    """Parts of the text by the names in their titles."""
    parts = re.split(title, text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _assembled(report):
    stack, stores, loads = map(
        int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report).groups()
    )
    shared = re.search(r"(\d+) bytes smem", report)
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    return Assembled(report, registers, stores + loads, stack, int(shared[1]) if shared else 0)


# NVIDIA's programs, and the packages that they come in.
PACKAGES = {"ptxas": "nvidia-cuda-nvcc", "nvdisasm": "nvidia-cuda-nvdisasm"}


@functools.cache
def program(name):
    """The path of a program of NVIDIA's."""
    for file in importlib.metadata.files(PACKAGES[name]):
        if file.name == name:
            return str(Path(file.locate()))
    raise FileNotFoundError(f"{name} in the package {PACKAGES[name]}")


def _run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
