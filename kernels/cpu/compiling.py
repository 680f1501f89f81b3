"""How the functions of this package are compiled.

Numba makes machine code of every function that it compiles, and copies its LLVM code into each function that calls it,
where all of it is optimised and made machine code again.  Functions that only compiled functions call do without code
of their own here: their callers get them as they were written, and optimise once what they are made of.  The first step
of training takes a third less time so.

Numba's own passes, which are written in Python, take longer than LLVM.  Those that look for what no kernel has are left
out here, a tenth of all: inner functions, array expressions, exceptions with computed arguments, ``with`` blocks.

Of the kernels, which only Python calls, it is the LLVM code that nobody wants: read from the disk, it fills thirty
times the memory of the machine code.

Nobody counts references to arrays.  Python holds those that a kernel is called with until it returns, and kernels make
none: one that tries is not compiled, and neither is a function that returns an array.  Counting is one indivisible step
for each slice and each new name of an array, for which threads that use the same array wait for each other: more than
half of the time of Winograd's transforms.
"""

import llvmlite.binding as llvm
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import IRLegalization

from ..collecting import seldom_collecting


class _InnerLibrary(JITCodeLibrary):
    """A function's LLVM code for its callers; only the place of its environment, which Numba fills, is in memory."""

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalized = True  # or the next line would begin here again
        code = self._get_module_for_linking()
        environments = [str(place) for place in code.global_variables if place.name.startswith("_ZN08NumbaEnv")]
        self._final_module = llvm.parse_assembly("\n".join([f'target triple = "{code.triple}"', *environments]))
        self._final_module.name = code.name
        super()._finalize_final_module()


class _KernelLibrary(JITCodeLibrary):
    """A function's machine code; all that remains of its LLVM code are the names by which Numba knows what there is."""

    def _get_module_for_linking(self):
        names = [f.name for f in self.get_defined_functions() if f.linkage is llvm.Linkage.external]
        # Compiled code that called one would stop there.
        stubs = [f'define void @"{name}"() noinline {{ call void @llvm.trap() unreachable }}' for name in names]
        head = [f'target triple = "{self._final_module.triple}"', "declare void @llvm.trap()"]
        return llvm.parse_assembly("\n".join(head + stubs))


@register_pass(mutates_CFG=False, analysis_only=True)
class _ChooseLibrary(AnalysisPass):
    """Let the passes that follow put the function into the compiler's kind of library."""

    _name = "choose_library"

    def __init__(self):  # abstract in Numba
        super().__init__()

    def run_pass(self, state):
        state.library = state.pipeline.library_class(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return False


# Those of Numba's passes that find nothing in kernels.
_NEEDLESS = {
    "WithLifting",
    "InlineClosureLikes",
    "RewriteDynamicRaises",
    "MakeFunctionToJitFunction",
    "FindLiterallyCalls",
    "LiteralUnroll",
    "LiteralPropagationSubPipelinePass",
    "InlineOverloads",
    "NopythonRewrites",
    "DumpParforDiagnostics",
}


class _Compiler(CompilerBase):
    def define_pipelines(self):
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [each for each in manager.passes if each[0].__name__ not in _NEEDLESS]
        manager.add_pass_after(_ChooseLibrary, IRLegalization)
        manager.finalize()
        return [manager]

    @seldom_collecting()
    def compile_extra(self, func):
        return super().compile_extra(func)


class _InnerCompiler(_Compiler):
    library_class = _InnerLibrary


class _KernelCompiler(_Compiler):
    library_class = _KernelLibrary


# `_nrt` is Numba's run-time for memory: references, and arrays that compiled code makes.
_ALL = {"cache": True, "error_model": "numpy", "_nrt": False}

# Functions that both Python and compiled functions call.
SHARED = {**_ALL, "nogil": True, "no_cfunc_wrapper": True}

# Functions that only compiled functions call: they do without wrappers for Python and C, too, which for many arguments
# take longer to compile than the function itself.
INNER = {**SHARED, "no_cpython_wrapper": True, "pipeline_class": _InnerCompiler}

# Functions that only Python calls.
KERNEL = {**SHARED, "pipeline_class": _KernelCompiler}

# Functions that are called by their address.
CALLBACK = {**_ALL, "pipeline_class": _KernelCompiler}
