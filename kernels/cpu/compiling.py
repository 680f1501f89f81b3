"""How the functions of this package are compiled.

Numba makes machine code of every function that it compiles, and copies its LLVM code into each function that calls it,
where all of it is optimised and made machine code again.  Functions that only compiled functions call do without code
of their own here: their callers get them as they were written, and optimise once what they are made of.  The first step
of training takes a third less time so.
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


@register_pass(mutates_CFG=False, analysis_only=True)
class _ChooseLibrary(AnalysisPass):
    """Let the passes that follow put the function into an `_InnerLibrary`."""

    _name = "choose_library"

    def __init__(self):  # abstract in Numba
        super().__init__()

    def run_pass(self, state):
        state.library = _InnerLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return False


class _InnerCompiler(CompilerBase):
    def define_pipelines(self):
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_ChooseLibrary, IRLegalization)
        passes.finalize()
        return [passes]

    @seldom_collecting()
    def compile_extra(self, func):
        return super().compile_extra(func)


# Functions that only compiled functions call: they do without wrappers for Python and C, too, which for many arguments
# take longer to compile than the function itself.
INNER = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _InnerCompiler,
}
