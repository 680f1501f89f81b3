"""Every CUDA kernel compiles and assembles for every supported architecture, without a GPU.

The host functions of `gpuconv.kernels.cuda` run on NumPy arrays up to their launches, which are recorded
instead of made.  Each recorded kernel is then compiled to PTX and looked into: no float32 kernel may do
arithmetic in float64, nothing may be left in local memory, and the assembler must need no spills and no
more registers than a block may have.
"""

import functools
import importlib.metadata
import platform
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cuda_arguments import MEMORY, cases
from gpuconv.kernels import TABLE, formulas

if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
    pytest.skip("NVIDIA publishes its compiler for Linux on x86-64 and aarch64 only", allow_module_level=True)

import numba
from gpuconv.kernels import cuda as device
from gpuconv.kernels.cuda import toolkit
from gpuconv.kernels.cuda.formulas import pixel_gradient
from numba import cuda

if toolkit.SIMULATED:
    pytest.skip("the simulator compiles nothing: unset NUMBA_ENABLE_CUDASIM", allow_module_level=True)

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
ASSEMBLED = ((7, 5), (8, 0), (9, 0), (12, 0))
LAUNCHING = [name for name in TABLE if name not in MEMORY]  # the others allocate and copy: they compile nothing
REGISTERS_OF_BLOCK = 65536

both = pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")


class Launch(NamedTuple):
    """A kernel with the types it is launched with, the number of threads of a block, and its launch bounds."""

    function: object
    types: tuple
    threads: int
    bounds: tuple | None = None


def launches(name, dtype, capability=(9, 0)):
    """What the host function `name` launches for the arguments of `cuda_arguments`, without repetitions."""
    return _launches(name, dtype, min(capability, (8, 0)))  # newer GPUs get what 8.0 gets


@functools.cache
def _launches(name, dtype, capability):
    found = {}

    def record(kernel, blocks, threads, *arguments):
        assert all(isinstance(extent, int) for extent in (*blocks, *threads))
        assert all(extent <= 65535 for extent in blocks[1:])
        assert np.prod(threads) <= 1024
        types = tuple(numba.typeof(argument) for argument in arguments)
        wide = {numba.types.int64, numba.types.float64} - {numba.from_dtype(np.dtype(dtype))}
        assert wide.isdisjoint(types), "a Python number was passed where a NumPy scalar is wanted"
        bounds = kernel.targetoptions.get("launch_bounds")
        found[Launch(kernel.py_func, types, int(np.prod(threads)), bounds)] = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolkit, "launch", record)
        patch.setattr(toolkit, "workspace", np.empty)
        patch.setattr(toolkit, "address", address_of)
        patch.setattr(toolkit, "compute_capability", lambda: capability)
        patch.setattr(toolkit, "multiprocessors", lambda: 132)
        for arguments in cases(name, dtype).values():
            getattr(device, name)(*arguments)
    return tuple(found)


def address_of(array, first=0):
    """Stands in for `toolkit.address` with an array of the host."""
    return np.uint64(array.ctypes.data + first * array.itemsize)


@functools.cache
def lowered(function, types, bounds=None):
    """The kernel as LLVM code, which is the same for all architectures and takes most of the time.

    `test_lowering_once_is_enough` holds this shortcut to the public `cuda.compile`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        library, _ = numba.cuda.compiler._compile_pyfunc_with_fixup(
            function, types, device=False, abi="numba", cc=CAPABILITIES[0], launch_bounds=bounds
        )
    return library


@functools.cache
def ptx_of(function, types, capability, bounds=None):
    return lowered(function, types, bounds).get_asm_str(cc=capability)


@functools.cache
def assembler():
    """The path of ptxas in NVIDIA's package."""
    for file in importlib.metadata.files("nvidia-cuda-nvcc"):
        if file.name == "ptxas":
            return str(Path(file.locate()))
    raise FileNotFoundError("ptxas in the package nvidia-cuda-nvcc")


@functools.cache
def assemble(ptx, capability, folder):
    """What ptxas has to say about the resources of the one kernel in `ptx`."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    architecture = f"-arch=sm_{capability[0]}{capability[1]}"
    command = [assembler(), architecture, "--verbose", "--output-file", str(folder / "kernel.cubin"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def check(launch, capability, folder, dtype="float32"):
    ptx = ptx_of(launch.function, launch.types, capability, launch.bounds)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert "__local_depot" not in ptx, "an array is left in local memory instead of registers"
    if dtype == "float32":
        assert ".f64" not in ptx, "a float32 kernel does arithmetic in float64"
    if capability in ASSEMBLED:
        report = assemble(ptx, capability, folder)
        assert "0 bytes spill stores, 0 bytes spill loads" in report, report
        registers = int(re.search(r"Used (\d+) registers", report)[1])
        assert launch.threads * registers <= REGISTERS_OF_BLOCK, f"{launch.threads} threads, {registers} registers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ptx")


@both
@pytest.mark.parametrize("name", LAUNCHING)
def test_float32_kernels(name, capability, folder):
    assert launches(name, "float32", capability)
    for launch in launches(name, "float32", capability):
        check(launch, capability, folder)


@pytest.mark.parametrize("name", LAUNCHING)
def test_float64_kernels(name, folder):
    # Kept for gradient checks: that they compile is enough to know for one architecture.
    for launch in launches(name, "float64"):
        check(launch, (9, 0), folder, "float64")


def test_fused_slopes_stay_in_float32(folder):
    # The kernels of `correlate` are compiled for few activations: here are all of them.
    def kernel(dy, y, activation, alpha, dz):
        i = cuda.grid(1)
        if i < dz.size:
            dz[i] = pixel_gradient(dy, y, i, activation, alpha)

    vector = numba.float32[::1]
    launch = Launch(kernel, (vector, vector, numba.int32, numba.float32, vector), 256)
    assert formulas.LAST_FUSABLE == formulas.SOFTPLUS
    check(launch, (7, 5), folder)


def test_lowering_once_is_enough():
    launch = launches("correlate2d", "float32")[0]
    ptx, _ = cuda.compile(
        launch.function, launch.types, device=False, abi="numba", cc=(12, 0), launch_bounds=launch.bounds
    )
    assert without_names(ptx) == without_names(ptx_of(launch.function, launch.types, (12, 0), launch.bounds))


def without_names(ptx):
    """PTX whose symbols, which Numba numbers, are replaced by one name."""
    return re.sub(r"_Z\w+|__static_\w+|_cudapy_\w+", "name", ptx)


def test_host_arrays_reach_the_gpu_with_plain_strides(monkeypatch):
    """NumPy calls an array with a new axis contiguous whatever the axis's stride; Numba reads 0 as a broadcast."""
    monkeypatch.setattr(cuda, "to_device", lambda array: array)
    pictures = np.zeros((4, 8, 8), np.float32)[..., np.newaxis]
    assert pictures.strides[-1] == 0
    assert device.from_host(pictures).strides == (256, 32, 4, 4)
