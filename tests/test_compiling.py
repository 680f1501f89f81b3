"""How the CPU's kernels are compiled."""

import importlib
import pkgutil
import types

import pytest
from gpuconv.kernels import cpu
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
