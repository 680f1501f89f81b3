"""The instructions that kernels call, as PTX executed on the CPU."""

from types import SimpleNamespace

import pytest
from instruction_checks import CHECKS, check_places_that_are_refused
from simt import Gpu
from simt.errors import MisalignedError, OutOfBoundsError
from test_cuda_ptx import device, toolkit  # skips this file where NVIDIA's compiler cannot be had


def run(kernel, threads, *arrays):
    gpu = Gpu((8, 0))
    with gpu.installed():
        placed = [device.from_host(array) for array in arrays]
        addresses = [toolkit.address(array) for array in placed]
        assert all(toolkit.is_aligned(address) for address in addresses)
        gpu.launch(SimpleNamespace(py_func=kernel, targetoptions={}), (1,), (threads,), *addresses)
        for array, cells in zip(arrays, placed, strict=True):
            array[...] = device.to_host(cells)


@pytest.mark.parametrize("check", CHECKS)
def test_instructions(check):
    check(run)


def test_places_that_are_refused():
    check_places_that_are_refused(run, OutOfBoundsError, MisalignedError)
