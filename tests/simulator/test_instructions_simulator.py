"""The twins of the instructions that kernels call, in the simulator."""

import numpy as np
import pytest
from gpuconv.kernels.cuda import toolkit
from instruction_checks import CHECKS, check_places_that_are_refused
from numba import cuda


def run(kernel, threads, *arrays):
    addresses = [toolkit.address(array) for array in arrays]
    assert all(toolkit.is_aligned(address) for address in addresses)
    toolkit.launch(cuda.jit(kernel), (1,), (threads,), *addresses)


@pytest.mark.parametrize("check", CHECKS)
def test_instructions(check):
    check(run)


def test_places_that_are_refused():
    # What a thread of the simulator raises comes with the thread's number, as an error of the same kind.
    check_places_that_are_refused(run, IndexError, ValueError)


def test_alignment():
    array = np.zeros(8, np.float32)
    assert toolkit.is_aligned(toolkit.address(array, 4))
    assert not toolkit.is_aligned(toolkit.address(array, 2))
