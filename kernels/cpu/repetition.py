"""Calls of compiled kernels that are made again and again, without Python in between.

A call from Python takes every array apart into the numbers that compiled code wants, its address, extents and strides;
for small arrays that takes as long as the arithmetic.  A repetition does it once: the numbers of all calls stand in
one table of 64-bit words, and a compiled loop calls the kernels with them::

    entries      kernel 0    kernel 1    ...           addresses of functions that take the address of a call's words
    places       0           93          ...           where each call's words start
    words        [address, extents, strides, number, ... ][ ...

Calls of a small network come in phases and branches (`strands`), which are ranges of these tables: a thread makes the
calls of a branch, and a phase ends when all of its branches have.

What grows from step to step (`Counter`) are single words, and those of an array that is lent are written anew when
another takes its place.  An *entry* is a function of a few instructions for each kernel that hands it the words as
Numba's functions want their arguments: one after the other, arrays as the fields of their structure.  It is made of
LLVM's language directly, in a few milliseconds, since it has nothing to optimise.
"""

import ctypes
import functools
import itertools

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ..repetition import Counter, Lent, counters_of, now
from .compiling import INNER, KERNEL
from .strands import phases_of
from .threads import LARGE_WORK, share

_WORD = ir.IntType(64)
_ENTRY = ir.FunctionType(ir.VoidType(), [_WORD.as_pointer()])


def repetition(calls, lent=()):
    """Make calls again that have been made once: see `gpuconv.kernels.repetition.repetition`.

    All arrays are contiguous and open to writing.
    """
    arranged = phases_of(calls, lent)
    branches = [branch for phase in arranged for branch in phase]
    phase_ends = list(itertools.accumulate(map(len, arranged)))
    branch_ends = list(itertools.accumulate(map(len, branches)))
    calls = [call for branch in branches for call in branch]
    lent_places = {id(array): [] for array in lent}
    entries, places, words, growing = [], [], [], []
    for kernel, arguments in calls:
        entries.append(_entry(kernel, arguments))
        places.append(len(words))
        for argument in arguments:
            if isinstance(argument, Counter):
                growing.append(len(words))
            if id(argument) in lent_places:
                lent_places[id(argument)].append(len(words))
            words += _words(argument)
    tables = (np.array(numbers, np.int64) for numbers in (phase_ends, branch_ends, entries, places, words, growing))
    return _Repetition(calls, lent, list(lent_places.values()), *tables)


class _Repetition:
    """Calls that hold their arrays, but for those lent: the words are only addresses."""

    def __init__(self, calls, lent, lent_places, phase_ends, branch_ends, entries, places, words, growing):
        self._held, self._counters = Lent(calls, lent), counters_of(calls)
        self._lent_places, self._words, self._growing = lent_places, words, growing
        steps = np.array([counter.step for counter in self._counters], np.int64)
        self._table = phase_ends, branch_ends, entries, places, words, growing, steps
        words[growing] += steps

    def restart(self, lent=()):
        self._words[self._growing] = [counter.again() for counter in self._counters]
        for array, places in zip(lent, self._lent_places, strict=True):
            words = _words(array)
            for place in places:
                self._words[place : place + len(words)] = words

    def __call__(self, times):
        _repeat(*self._table, times)


def _words(argument):
    """The 64-bit words of an argument, in the order of Numba's own fields."""
    if isinstance(argument, np.ndarray):
        # NumPy's own ways to tell an address take five times as long; an array of nothing has no buffer.
        address = ctypes.addressof(ctypes.c_char.from_buffer(argument)) if argument.size else 0
        # The first two fields count references: none are counted.
        return [0, 0, argument.size, argument.itemsize, address, *argument.shape, *argument.strides]
    if isinstance(argument, tuple):
        return [word for part in argument for word in _words(part)]
    if isinstance(argument, float):
        return [int(np.float64(argument).view(np.int64))]
    return [0 if argument is None else int(argument)]


# Addresses by kernel and kinds of arguments.
_entries = {}


def _entry(kernel, arguments):
    """The address of the entry of a kernel for such arguments."""
    key = kernel, *[(a.dtype, a.ndim) if isinstance(a, np.ndarray) else type(a) for a in arguments]
    if key not in _entries:
        kinds = tuple(map(kernel.typeof_pyval, now(arguments)))
        kernel.compile(kinds)  # if it has not been called with such arguments yet
        _entries[key] = _make_entry(kernel.overloads[kinds], f"entry_{len(_entries)}")
    return _entries[key]


@functools.cache
def _compiler():
    """LLVM's compiler for this processor, without optimisation."""
    machine = binding.Target.from_default_triple().create_target_machine(opt=0)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)


def _make_entry(compiled, name):
    """Compile an entry: load the words, and call the kernel, whose address is known."""
    convention = cpu_target.target_context.call_conv
    kernel_type = convention.get_function_type(compiled.signature.return_type, compiled.signature.args)
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    module = ir.Module()
    entry = ir.Function(module, _ENTRY, name)
    builder = ir.IRBuilder(entry.append_basic_block())
    # Room for what a kernel returns, which is nothing, and for an exception, which it never raises.
    result, exception, *kinds = kernel_type.args
    values = [builder.alloca(result.pointee), builder.alloca(exception.pointee)]
    for place, kind in enumerate(kinds):
        word = builder.load(builder.gep(entry.args[0], [_WORD(place)]))
        if isinstance(kind, ir.PointerType):
            values.append(builder.inttoptr(word, kind))
        elif isinstance(kind, ir.DoubleType):
            values.append(builder.bitcast(word, kind))
        else:
            values.append(builder.trunc(word, kind) if kind.width < 64 else word)
    builder.call(builder.inttoptr(_WORD(address), kernel_type.as_pointer()), values)
    builder.ret_void()
    _compiler().add_module(binding.parse_assembly(str(module)))
    _compiler().finalize_object()
    return _compiler().get_function_address(name)


@intrinsic
def _call(typing, entry, words, place):
    """Call an entry with the words that start at a place of the table."""

    def code(context, builder, signature, arguments):
        entry, words, place = arguments
        function = builder.inttoptr(entry, _ENTRY.as_pointer())
        data = context.make_array(signature.args[1])(context, builder, words).data
        builder.call(function, [builder.gep(data, [place])])
        return context.get_dummy_value()

    return types.void(types.intp, words, types.intp), code


@njit(**KERNEL)
def _repeat(phase_ends, branch_ends, entries, places, words, growing, steps, times):
    for _ in range(times):
        begin = 0
        for end in phase_ends:
            # Each branch is large: whoever has done one takes the next.
            share(_make_branches, (begin, branch_ends, entries, places, words), end - begin, LARGE_WORK)
            begin = end
        for k in range(growing.size):
            words[growing[k]] += steps[k]


@njit(**INNER)
def _make_branches(first, last, worker, begin, branch_ends, entries, places, words):
    for branch in range(begin + first, begin + last):
        for k in range(branch_ends[branch - 1] if branch else 0, branch_ends[branch]):
            _call(entries[k], words, places[k])
