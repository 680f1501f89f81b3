"""How the CPU's kernels are compiled."""

import importlib
import os
import pkgutil
import subprocess
import sys
import types

import llvmlite.binding
import numpy as np
import pytest
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu import compiling
from gpuconv.kernels.cpu.compiling import INNER, KERNEL
from numba import njit
from numba.core import compiler
from numba.core.errors import TypingError
from numba.core.registry import CPUDispatcher

MODULES = [module.name for module in pkgutil.iter_modules(cpu.__path__)]


def names_in(code):
    """Global names that a function uses, those of the functions within it included."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(names_in, inner))


@pytest.mark.parametrize("name", MODULES)
def test_python_calls_no_function_that_has_no_wrapper_for_it(name):
    # Such a call would crash the process.
    module = importlib.import_module(f"gpuconv.kernels.cpu.{name}")
    for function in vars(module).values():
        function = getattr(function, "prepare", function)
        if not isinstance(function, types.FunctionType) or function.__module__ != module.__name__:
            continue
        for used in names_in(function.__code__):
            called = vars(module).get(used)
            if isinstance(called, CPUDispatcher):
                assert not called.targetoptions.get("no_cpython_wrapper"), f"{function.__name__} calls {used}"


@pytest.mark.parametrize("name", MODULES)
def test_compiled_code_calls_no_kernel(name):
    # Such a call would crash the process.
    module = importlib.import_module(f"gpuconv.kernels.cpu.{name}")
    for function in vars(module).values():
        if not isinstance(function, CPUDispatcher) or function.py_func.__module__ != module.__name__:
            continue
        for used in names_in(function.py_func.__code__):
            called = vars(module).get(used)
            if isinstance(called, CPUDispatcher):
                assert called.targetoptions.get("pipeline_class") is not KERNEL["pipeline_class"], (
                    f"{function.__name__} calls {used}"
                )


@pytest.mark.parametrize("name", MODULES)
def test_all_functions_are_compiled_without_references(name):
    # One that counts them would give back one that a view from another has not taken.
    module = importlib.import_module(f"gpuconv.kernels.cpu.{name}")
    for function in vars(module).values():
        if isinstance(function, CPUDispatcher) and function.targetoptions.get("inline") != "always":
            assert function.targetoptions["_nrt"] is False, function.__name__


def test_compiled_code_counts_no_references():
    def sums_of_halves(numbers, others, sums):
        for k in range(sums.size):
            half = numbers[k:] if k % 2 else others[:k]
            sums[k] = half.sum()

    def counts(options):
        function = njit(**{**options, "cache": False})(sums_of_halves)
        function(np.arange(9.0), np.arange(9.0), np.zeros(9))
        ((_, code),) = function.inspect_asm().items()
        return code.count("NRT_")

    assert counts(KERNEL) == 0 < counts({})


def test_kernels_make_no_arrays():
    @njit(**{**KERNEL, "cache": False})
    def copied(numbers):
        return np.zeros(numbers.size)

    with pytest.raises(TypingError, match="array"):
        copied(np.zeros(3))


def test_passes_that_are_left_out_are_numbas():
    # One that goes by another name would be run again, unnoticed.
    state = compiler.StateDict(flags=compiler.Flags(), func_ir=None)
    passes = compiler.DefaultPassBuilder.define_nopython_pipeline(state).passes
    assert {each.__name__ for each, _ in passes} >= compiling._NEEDLESS


def test_functions_for_compiled_code_alone_have_no_machine_code():
    @njit(**{**INNER, "cache": False})
    def doubled(number):
        return number + number

    @njit
    def caller(number):
        return doubled(number)

    assert caller(21) == 42
    (compiled,) = doubled.overloads.values()
    assert compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name) == 0


def test_kernels_leave_no_code_for_linking():
    @njit(**{**KERNEL, "cache": False})
    def doubled(numbers):
        for k in range(numbers.size):
            numbers[k] += numbers[k]

    numbers = np.arange(5.0)
    doubled(numbers)
    np.testing.assert_array_equal(numbers, 2 * np.arange(5))
    (compiled,) = doubled.overloads.values()
    _, _, (_, code) = compiled.library.serialize_using_object_code()
    left = {
        function.name: [instruction.opcode for block in function.blocks for instruction in block.instructions]
        for function in llvmlite.binding.parse_bitcode(code).functions
        if not function.is_declaration
    }
    assert compiled.fndesc.llvm_func_name in left
    assert all(opcodes == ["call", "unreachable"] for opcodes in left.values())


FUNCTIONS = """
from gpuconv.kernels.cpu.compiling import INNER, KERNEL
from numba import njit

@njit(**INNER)
def doubled(number):
    return number + number

@njit(**KERNEL)
def quadrupled(number):
    return 2 * doubled(number)
"""

CALLER = """
from functions import doubled
from numba import njit

@njit
def caller(number):
    return {times} * doubled(number)

print(caller(21), sum(doubled.stats.cache_hits.values()))
"""

KERNEL_CALLER = """
from functions import quadrupled

print(quadrupled({number}), sum(quadrupled.stats.cache_hits.values()))
"""


def printed(program, folder):
    """What a process prints that finds `FUNCTIONS` in a folder, and leaves compiled code there."""
    functions = folder / "functions.py"
    if not functions.exists():  # Numba before 0.68 takes a file written again for another
        functions.write_text(FUNCTIONS)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


def test_another_process_links_what_one_has_left_on_the_disk(tmp_path):
    assert [printed(CALLER.format(times=times), tmp_path) for times in (2, 3)] == [["84", "0"], ["126", "1"]]


def test_another_process_calls_the_kernel_that_one_has_left_on_the_disk(tmp_path):
    calls = [printed(KERNEL_CALLER.format(number=number), tmp_path) for number in (2, 3)]
    assert calls == [["8", "0"], ["12", "1"]]
