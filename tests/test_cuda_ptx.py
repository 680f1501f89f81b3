"""Every CUDA kernel compiles and assembles for every supported architecture, without a GPU.

The host functions of `gpuconv.kernels.cuda` run on NumPy arrays up to their launches, which are recorded
instead of made.  Each recorded kernel is then compiled to PTX and looked into: no float32 kernel may do
arithmetic in float64, nothing may be left in local memory, and the assembler must need no spills and no
more registers than a block may have.  `test_gpu_static` assembles the float32 kernels.
"""

import platform
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_arguments import MEMORY
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

from cuda_compiling import Launch, assemble, launches, ptx_of

# Those that `test_gpu_static` assembles for too; the committed table has all that are supported.
CAPABILITIES = ((7, 5), (8, 0), (9, 0), (12, 0))
LAUNCHING = [name for name in TABLE if name not in MEMORY]  # the others allocate and copy: they compile nothing
REGISTERS_OF_BLOCK = 65536

both = pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")


def check(launch, capability, dtype="float32"):
    ptx = launch.ptx(capability)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert "__local_depot" not in ptx, "an array is left in local memory instead of registers"
    if dtype == "float32":
        assert ".f64" not in ptx, "a float32 kernel does arithmetic in float64"


def check_assembled(launches, capability):
    codes = tuple(launch.ptx(capability) for launch in launches)
    for launch, assembled in zip(launches, assemble(codes, capability), strict=True):
        assert assembled.spilled_bytes == 0, assembled.report
        registers = launch.threads * assembled.registers
        assert registers <= REGISTERS_OF_BLOCK, f"{launch.threads} threads, {assembled.registers} registers"


@both
@pytest.mark.parametrize("name", LAUNCHING)
def test_float32_kernels(name, capability):
    assert launches(name, "float32", capability)
    for launch in launches(name, "float32", capability):
        check(launch, capability)


@pytest.mark.parametrize("name", LAUNCHING)
def test_float64_kernels(name):
    # Kept for gradient checks: that they compile is enough to know for one architecture.
    launched = tuple(launches(name, "float64"))
    for launch in launched:
        check(launch, (9, 0), "float64")
    check_assembled(launched, (9, 0))


def test_fused_slopes_stay_in_float32():
    # The kernels of `correlate` are compiled for few activations: here are all of them.
    def kernel(dy, y, activation, alpha, dz):
        i = cuda.grid(1)
        if i < dz.size:
            dz[i] = pixel_gradient(dy, y, i, activation, alpha)

    vector = numba.float32[::1]
    launch = Launch(kernel, (vector, vector, numba.int32, numba.float32, vector), 256)
    assert formulas.LAST_FUSABLE == formulas.SOFTPLUS
    check(launch, (7, 5))
    check_assembled([launch], (7, 5))


def test_lowering_once_is_enough():
    launch = next(iter(launches("correlate2d", "float32")))
    ptx, _ = cuda.compile(
        launch.function, launch.types, device=False, abi="numba", cc=(12, 0), launch_bounds=launch.bounds
    )
    assert without_names(ptx) == without_names(ptx_of(launch.function, launch.types, (12, 0), launch.bounds))


def without_names(ptx):
    """PTX whose symbols, which Numba numbers, are replaced by one name."""
    return re.sub(r"_Z\w+|__static_\w+|_cudapy_\w+", "name", ptx)


def test_host_arrays_reach_the_gpu_with_plain_strides(monkeypatch):
    """NumPy calls an array with a new axis contiguous whatever the axis's stride; Numba reads 0 as a broadcast."""
    copied = []
    placed = SimpleNamespace(copy_to_device=lambda array, stream: copied.append(array.strides))
    monkeypatch.setattr(toolkit, "allocate", lambda shape, dtype: placed)
    monkeypatch.setattr(toolkit, "stream", lambda: None)
    pictures = np.zeros((4, 8, 8), np.float32)[..., np.newaxis]
    assert pictures.strides[-1] == 0
    assert device.from_host(pictures) is placed
    assert copied == [(256, 32, 4, 4)]
