"""How the CPU's kernels are compiled."""

import importlib
import os
import pkgutil
import subprocess
import sys
import types

import pytest
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu.compiling import INNER
from numba import njit
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


INNER_FUNCTION = """
from gpuconv.kernels.cpu.compiling import INNER
from numba import njit

@njit(**INNER)
def doubled(number):
    return number + number
"""

CALLER = """
from inner_function import doubled
from numba import njit

@njit
def caller(number):
    return {times} * doubled(number)

print(caller(21), sum(doubled.stats.cache_hits.values()))
"""


def test_another_process_links_what_one_has_left_on_the_disk(tmp_path):
    (tmp_path / "inner_function.py").write_text(INNER_FUNCTION)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    printed = []
    for times in (2, 3):
        command = [sys.executable, "-c", CALLER.format(times=times)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        printed.append(done.stdout.split())
    assert printed == [["84", "0"], ["126", "1"]]
