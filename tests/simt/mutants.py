"""Kernels with one thing dropped: a barrier, or one comparison of a condition.

A net that is worth having notices each of them: the machine refuses the kernel, or its result is wrong.
"""

import ast
import copy
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import pkgutil
import sys

from gpuconv.kernels import cuda as device
from gpuconv.kernels.cuda.repetition import graphs
from gpuconv.kernels.cuda.toolkit import cuda

from .launch import Gpu

# Decorators of functions that kernels share.
INLINE = ("inline", "inline_early")
# The register that switches comparisons off, and what it holds for the first of them: no grid here is so large.
SWITCH, FIRST = "%nctaid.z", 40_000


class WithoutBarrier(Gpu):
    """A GPU on which one barrier of every kernel of a name is not executed."""

    def __init__(self, name, number, **options):
        super().__init__(**options)
        self.name, self.number, self.dropped = name, number, False

    def kernel(self, function, types, bounds=None):
        ready = super().kernel(function, types, bounds)
        barriers = barriers_of(ready)
        if function.__name__ != self.name or self.number >= len(barriers):
            return ready
        self.dropped = True
        return without_step(ready, barriers[self.number])


def barriers_of(kernel):
    """The numbers of the steps that are barriers, of blocks or of warps, or waits for asynchronous copies."""
    return [
        number
        for number, instruction in enumerate(kernel.program.instructions)
        if instruction.opcode in ("bar", "barrier")
        or (instruction.opcode == "cp" and {"wait_group", "wait_all"} & set(instruction.modifiers))
    ]


def without_step(kernel, number):
    """A kernel that does nothing at one step."""
    mutant = copy.copy(kernel)
    _, guard, negated, _ = kernel.steps[number]
    mutant.steps = list(kernel.steps)
    mutant.steps[number] = "plain", guard, negated, lambda state, where: None
    return mutant


class Condition:
    """One comparison in the source of a module of kernels.

    Attributes
    ----------
    module : str
        ``gpuconv.kernels.cuda.<module>``
    number : int
        Which comparison of those that `conditions` gives.
    function, line, text, decision : str, int, str, str
        Where it stands, and all of what is decided by it.
    """

    def __init__(self, module, number, function, line, text, decision):
        self.module, self.number, self.function, self.line, self.text = module, number, function, line, text
        self.decision = decision

    @property
    def places(self):
        """What it can be named by, however many lines stand before it; the longer where the shorter would name two."""
        return {(self.function, self.text), (self.function, self.text, self.decision)}

    def __str__(self):
        return f"{self.module}:{self.line} {self.text}"


def conditions(modules):
    """Every comparison inside of a kernel that an ``if``, a ``while`` or a conditional expression decides by, or that
    gets a name, or is a function's result.
    """
    found = []
    for module in modules:
        for function, decision, comparison in _comparisons(ast.parse(_source(module))):
            texts = map(ast.unparse, (comparison, decision))
            found.append(Condition(module, len(found), function, comparison.lineno, *texts))
    return found


def kernels_with_barriers(modules):
    """Names of the kernels that synchronise the threads of a block, themselves or by a function that they share."""
    functions = [function for module in modules for function in _kernels(ast.parse(_source(module)))]
    shared = [function for function in functions if ast.unparse(function.decorator_list[0]) in INLINE]
    words = {"syncthreads"} | {function.name for function in shared if "syncthreads" in ast.unparse(function)}
    kernels = [function for function in functions if function not in shared]
    return {kernel.name for kernel in kernels if any(word in ast.unparse(kernel) for word in words)}


class WithoutCondition(Gpu):
    """A GPU on which one comparison always holds, for kernels that `switchable` made."""

    def __init__(self, condition, **options):
        super().__init__(special={SWITCH: FIRST + condition.number}, **options)


@functools.cache
def switchable(modules):
    """A copy of the CUDA device with a switch for each of `conditions` that lets the comparison always hold.

    So a kernel and all its mutants are compiled at once.  The switch is a special register that no kernel reads.

    Parameters
    ----------
    modules : tuple of str
        Those whose comparisons have switches.
    """
    name = f"{device.__name__}_switchable"
    copy_of_device = _module(name)
    # What uses none of the modules is shared: what has state, and what tests replace.
    for other in _modules_without(modules):
        original = importlib.import_module(f"{device.__name__}.{other}")
        sys.modules[f"{name}.{other}"] = original
        setattr(copy_of_device, other, original)
    sys.meta_path.insert(0, _Finder(name, modules))
    exec(compile(inspect.getsource(device), device.__file__, "exec"), vars(copy_of_device))
    copy_of_device.repetition.__globals__["graphs"] = graphs  # which a GPU forgets when its time is over
    return copy_of_device


def _module(name):
    """A new module that can be imported in place of the device, with nothing in it."""
    spec = importlib.util.spec_from_file_location(name, device.__file__, submodule_search_locations=device.__path__)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules with switches of a copy of the device."""

    def __init__(self, package, modules):
        self.package, self.numbers = package, {module: [] for module in modules}
        for condition in conditions(modules):
            self.numbers[condition.module].append(condition.number)

    def find_spec(self, name, path=None, target=None):
        package, _, module = name.rpartition(".")
        if package != self.package or module not in self.numbers:
            return None
        file = sys.modules[f"{device.__name__}.{module}"].__file__
        loader = _Loader(name, file, module, self.numbers[module])
        return importlib.util.spec_from_file_location(name, file, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads one module with switches, and leaves its bytecode nowhere."""

    def __init__(self, name, file, module, numbers):
        super().__init__(name, file)
        self.module, self.numbers = module, numbers

    def exec_module(self, module):
        module.cuda = cuda  # for the switches
        super().exec_module(module)

    def get_code(self, name):
        tree = ast.parse(_source(self.module))
        comparisons = [comparison for *_, comparison in _comparisons(tree)]
        switch = _Switch({id(one): number for one, number in zip(comparisons, self.numbers, strict=True)})
        return compile(ast.fix_missing_locations(switch.visit(tree)), self.path, "exec")


def _modules_without(modules):
    """Names of the device's modules that import none of some modules, neither themselves nor by others."""
    names = {info.name for info in pkgutil.iter_modules(device.__path__)}
    imported = {name: _imported(name) & names for name in names}
    using, found = set(), set(modules)
    while found:
        using |= found
        found = {name for name in names if imported[name] & found} - using
    return names - using


def _imported(module):
    """Names that a module imports from its own package, and modules there that it imports names from."""
    names = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names |= {node.module} if node.module else {alias.name for alias in node.names}
    return names


def _source(module):
    return inspect.getsource(sys.modules[f"gpuconv.kernels.cuda.{module}"])


def _comparisons(tree):
    """Names of `_kernels`, decisions within, and comparisons within these, in the source's order."""
    seen = set()
    for function in _kernels(tree):
        for node in ast.walk(function):
            decision = _decision(node)
            for part in ast.walk(decision) if decision else ():
                if isinstance(part, ast.Compare) and id(part) not in seen:
                    seen.add(id(part))
                    yield function.name, decision, part


def _decision(node):
    """What a node of the tree decides by, assigns or returns; or None."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        return node.test
    return node.value if isinstance(node, (ast.Assign, ast.Return)) else None


def _kernels(tree):
    """Functions that `cuda.jit`, `inline` or `inline_early` decorate."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and any(map(_is_kernel, function.decorator_list)):
            yield function


def _is_kernel(decorator):
    return "cuda.jit" in ast.unparse(decorator) or ast.unparse(decorator) in INLINE


class _Switch(ast.NodeTransformer):
    """Comparisons become ``(comparison or cuda.gridDim.z == number)``."""

    def __init__(self, numbers):
        self.numbers = numbers

    def visit_Compare(self, node):
        self.generic_visit(node)
        if id(node) not in self.numbers:
            return node
        switch = ast.parse(f"cuda.gridDim.z == {FIRST + self.numbers[id(node)]}", mode="eval").body
        return ast.BoolOp(ast.Or(), [node, switch])
