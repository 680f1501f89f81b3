"""How work is shared among threads: ``share(body, arguments, tasks, work)``, from compiled code.

A kernel is a compiled function over a range of independent tasks, ``body(first, last, worker, ...)``.  The caller and
the workers of its team take chunks of the range in turn until none is left: single tasks, or equal shares of little
work.  A task writes nothing that another reads, apart from scratch memory of its own worker, and does not depend on how
the range was cut, so that results are bitwise the same for any number of threads.

The workers are threads of Python that live in compiled code, without Python's lock, and wait there: first in a loop
that looks for the next job (a step of training has one every few microseconds), then asleep on a lock.  Starting a job
that way takes less than a microsecond while the workers are awake, and some ten when they must be woken.

    word                meaning
    ----------------    ---------------------------------------------------------------------------
    EPOCH               number of the job; the workers look for a change
    OPEN                how many workers may join the job, by their numbers; 0: none any more
    ACTIVE              workers that have joined and not left
    NEXT                first task that nobody has taken
    BUSY                1 while a caller has the team; another caller does its work alone meanwhile
    BODY ... CHUNK      the job: address of the function, of its arguments, number of tasks, tasks of a chunk
    HELPERS             how many workers a job may have

A worker joins by raising ACTIVE and looking at OPEN *then*; a caller closes by lowering OPEN and looking at ACTIVE
then.  Both are sequentially consistent, so that either the worker sees the door closed or the caller sees the worker:
a job's arguments are never read after `share` has returned.

Numba's own ``parallel=True`` would compile every kernel three to four times over, and the threads of its OpenMP layer
wait in loops that never sleep: with other work on both cores, 100 epochs of the digits example took 27 to 82 s
instead of 3.
"""

import atexit
import ctypes
import os
import platform
import sys
import threading

import numpy as np
from llvmlite import binding, ir
from numba import cfunc, config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiling import CALLBACK, INNER, KERNEL, SHARED

# Multiply-adds that are worth a thread: a kernel with fewer has none but the caller, one with more a helper for each so
# many.  About three microseconds of one core, where waking a helper that still looks for work takes less than one.
SERIAL_WORK = 1 << 17

# Multiply-adds from which on tasks are taken one by one, so that whoever is fast does more.  With fewer, each thread
# takes one run of neighbours: the next kernel then finds in its core's cache what this one has written.
LARGE_WORK = 1 << 22

# How often an idle worker looks before it falls asleep, some tens of nanoseconds each, and how often a thread looks
# for one that should come at once before it gives up its core to it.
LOOKS = 20000
LOOKS_BEFORE_YIELD = 1000

# Places of the words, in cache lines of their own where several threads write them.
LINE = 16
EPOCH, OPEN, ACTIVE, NEXT, BUSY = (place * LINE for place in range(5))
BODY, ARGUMENTS, TASKS, CHUNK, PROCESSOR, HELPERS, STOP = range(5 * LINE, 5 * LINE + 7)
# Each worker's own: its lock, whether it sleeps on it, and room for a bit for each processor that it may run on.
OWN, OWN_WORDS = 6 * LINE, 2 * LINE
LOCK, ASLEEP, PROCESSORS, PROCESSOR_WORDS = 0, 1, LINE, 16

# The words, at one place for the life of the process, which compiled code finds by name: so it need not be handed from
# kernel to kernel, and code compiled by an earlier process finds this one's.
WORKERS = config.NUMBA_NUM_THREADS
_NAME = "gpuconv_team"
_COUNT = OWN + WORKERS * OWN_WORDS
_FOUND = binding.address_of_symbol(_NAME)
if _FOUND:  # this file has been imported under another name before: the team is that module's
    _WORDS = np.ctypeslib.as_array(ctypes.cast(_FOUND, ctypes.POINTER(ctypes.c_int64)), (_COUNT,))
else:
    _WORDS = np.zeros(_COUNT, np.int64)
    binding.add_symbol(_NAME, _WORDS.ctypes.data)

# What runs a job is found by name, too: compiled once, and not once more with every kernel.
_RUN_NAME = "gpuconv_run"
_RUN = types.void(types.intp, types.intp, types.intp, types.intp)
_run_job = types.ExternalFunction(_RUN_NAME, _RUN)

# ------------------------------------------------------------------ words that several threads read and write


def _word(builder, place):
    """Pointer to one word."""
    words = builder.module.globals.get(_NAME)
    if words is None:
        words = ir.GlobalVariable(builder.module, ir.IntType(64), _NAME)
    return builder.gep(words, [place])


@intrinsic
def read(typing, place):
    """The word, not before anything that stands before it."""

    def code(context, builder, signature, arguments):
        return builder.load_atomic(_word(builder, arguments[0]), "seq_cst", 8)

    return types.int64(types.intp), code


@intrinsic
def write(typing, place, value):
    """Set the word, visible after everything that stands before it."""

    def code(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _word(builder, arguments[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), code


@intrinsic
def add(typing, place, value):
    """Add to the word in one indivisible step; returns what it was."""

    def code(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _word(builder, arguments[0]), arguments[1], "seq_cst")

    return types.int64(types.intp, types.int64), code


@intrinsic
def exchange(typing, place, value):
    """Set the word in one indivisible step; returns what it was."""

    def code(context, builder, signature, arguments):
        return builder.atomic_rmw("xchg", _word(builder, arguments[0]), arguments[1], "seq_cst")

    return types.int64(types.intp, types.int64), code


@intrinsic
def _address(typing, place):
    """The address of the word."""

    def code(context, builder, signature, arguments):
        return builder.ptrtoint(_word(builder, arguments[0]), ir.IntType(64))

    return types.intp(types.intp), code


@intrinsic
def pause(typing):
    """Tell the core that this is a waiting loop."""
    machine = platform.machine().lower()

    def code(context, builder, signature, arguments):
        if machine in ("x86_64", "amd64"):
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):  # hint 1: yield
            function = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            hint = cgutils.get_or_insert_function(builder.module, function, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(ir.IntType(32), 1)])
        return context.get_dummy_value()

    return types.void(), code


_acquire_lock = types.ExternalFunction("PyThread_acquire_lock", types.int32(types.intp, types.int32))
_release_lock = types.ExternalFunction("PyThread_release_lock", types.void(types.intp))
_give_way = types.ExternalFunction("sched_yield", types.int32()) if hasattr(os, "sched_yield") else pause

if sys.platform == "linux":
    _processor = types.ExternalFunction("sched_getcpu", types.int32())
    _get_processors = types.ExternalFunction("sched_getaffinity", types.int32(types.int32, types.intp, types.intp))
    _set_processors = types.ExternalFunction("sched_setaffinity", types.int32(types.int32, types.intp, types.intp))

    @njit(**INNER)
    def _step_aside(own):
        """Move this thread off the caller's processor; `own` is where its set of processors stands.

        Linux may wake a thread on the processor of the one that wakes it, and on some virtual machines leaves it
        there, while another processor idles.
        """
        here = read(PROCESSOR)
        if _processor() != here or here >= 64 * PROCESSOR_WORDS:
            return
        # The set as it is now: somebody may have changed it since the start.
        for word in range(PROCESSOR_WORDS):
            write(own + word, 0)
        if _get_processors(0, 8 * PROCESSOR_WORDS, _address(own)) < 0:
            return
        word, bit = here // 64, np.int64(1) << (here % 64)
        others = read(own + word) & ~bit
        for other in range(PROCESSOR_WORDS):
            if other != word:
                others |= read(own + other)
        if others and read(own + word) & bit:
            write(own + word, read(own + word) & ~bit)
            _set_processors(0, 8 * PROCESSOR_WORDS, _address(own))
            write(own + word, read(own + word) | bit)
            _set_processors(0, 8 * PROCESSOR_WORDS, _address(own))

else:

    @njit(**INNER)
    def _processor():
        return 0

    @njit(**INNER)
    def _step_aside(own):
        pass


# ------------------------------------------------------------------ jobs


@intrinsic
def outline(typing, body, arguments):
    """The addresses of ``body`` behind a uniform signature and of its arguments, which lie in the caller's frame.

    The function at the first address is ``function(arguments_address, first, last, worker)``; the second address is
    good until the caller returns.
    """
    kernel, called_with = body.dispatcher, (types.intp, types.intp, types.intp, *arguments.types)
    kernel.get_call_template(called_with, {})
    compiled = kernel.overloads[called_with]

    def code(context, builder, signature, values):
        i64 = ir.IntType(64)
        frame_type = context.get_value_type(arguments)
        frame = cgutils.alloca_once_value(builder, values[1])
        name = f"outlined.{compiled.fndesc.mangled_name}"
        function_type = ir.FunctionType(ir.VoidType(), [i64] * 4)
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, function_type, name)
            function.linkage = "internal"
            inner = ir.IRBuilder(function.append_basic_block())
            given = inner.load(inner.inttoptr(function.args[0], frame_type.as_pointer()))
            parts = [inner.extract_value(given, index) for index in range(len(arguments.types))]
            target = context.declare_function(builder.module, compiled.fndesc)
            context.active_code_library.add_linking_library(compiled.library)
            # Kernels raise nothing, so that the status says nothing.
            context.call_conv.call_function(
                inner, target, compiled.signature.return_type, compiled.signature.args, [*function.args[1:], *parts]
            )
            inner.ret_void()
        addresses = [builder.ptrtoint(pointer, i64) for pointer in (function, frame)]
        return cgutils.pack_array(builder, addresses)

    return types.UniTuple(types.intp, 2)(body, arguments), code


@intrinsic
def _call(typing, function, arguments, first, last, worker):
    """Call an outlined function."""

    def code(context, builder, signature, values):
        i64 = ir.IntType(64)
        pointer = ir.FunctionType(ir.VoidType(), [i64] * 4).as_pointer()
        builder.call(builder.inttoptr(values[0], pointer), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), code


@njit(**SHARED)
def _wake(worker):
    own = OWN + worker * OWN_WORDS
    if exchange(own + ASLEEP, 0):
        _release_lock(read(own + LOCK))


@njit(**INNER)
def _take_chunks(worker):
    body, arguments, tasks, chunk = read(BODY), read(ARGUMENTS), read(TASKS), read(CHUNK)
    first = add(NEXT, chunk)
    while first < tasks:
        _call(body, arguments, first, min(first + chunk, tasks), worker)
        first = add(NEXT, chunk)


@cfunc(_RUN, **CALLBACK)
def _run(body, arguments, tasks, work):
    """Run an outlined job: every task once, by the caller and by the team; returns when all are done.

    Parameters
    ----------
    body, arguments : int
        From `outline`.
    tasks, work : int
        As for `share`.
    """
    helpers = min(read(HELPERS), min(tasks - 1, work // SERIAL_WORK))
    # Jobs within jobs are told by looking: all threads that write the word would wait for each other.
    if helpers <= 0 or read(BUSY) or exchange(BUSY, 1):
        if tasks > 0:
            _call(body, arguments, 0, tasks, 0)
        return
    chunk = 1 if work >= LARGE_WORK else (tasks + helpers) // (helpers + 1)
    write(BODY, body)
    write(ARGUMENTS, arguments)
    write(TASKS, tasks)
    write(CHUNK, chunk)
    write(PROCESSOR, _processor())
    write(NEXT, 0)
    write(OPEN, helpers)
    add(EPOCH, 1)
    for worker in range(1, helpers + 1):
        _wake(worker)
    _take_chunks(np.intp(0))
    write(OPEN, 0)
    looks = 0
    while read(ACTIVE):
        looks += 1
        if looks < LOOKS_BEFORE_YIELD:
            pause()
        else:
            _give_way()
    write(BUSY, 0)


@njit(**KERNEL)
def _serve(worker):
    """A worker's life: wait for a job, join it, take chunks, leave it."""
    own = OWN + worker * OWN_WORDS
    seen = 0
    while not read(STOP):
        looks = 0
        while read(EPOCH) == seen and not read(STOP):
            looks += 1
            pause()
            if looks == LOOKS:
                looks = 0
                write(own + ASLEEP, 1)
                # A caller that has changed EPOCH by now may have found this worker awake: look again.
                if (read(EPOCH) == seen and not read(STOP)) or not exchange(own + ASLEEP, 0):
                    _acquire_lock(read(own + LOCK), 1)
        seen = read(EPOCH)
        add(ACTIVE, 1)
        if read(OPEN) >= worker:
            _step_aside(own + PROCESSORS)
            _take_chunks(worker)
        add(ACTIVE, -1)


@njit(inline="always")
def share(body, arguments, tasks, work):
    """Run ``body(first, last, worker, *arguments)`` over the tasks ``0 .. tasks - 1``, from compiled code.

    An exception in the body is lost: kernels raise nothing.  The caller must hold the arguments' arrays by names of its
    own, since what the job gets are borrowed references.

    Parameters
    ----------
    body : compiled function
    arguments : tuple
    tasks : int
    work : int
        Multiply-adds, or elements moved, of all tasks together: too few are not shared.
    """
    function, place = outline(body, arguments)
    _run_job(function, place, tasks, work)


# ------------------------------------------------------------------ the team


def _start():
    """Start the workers, as many as the system allows."""
    allocate, acquire = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_acquire_lock
    allocate.restype, acquire.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)
    _WORDS[:] = 0
    for worker in range(1, WORKERS):
        own = _WORDS[OWN + worker * OWN_WORDS :][:OWN_WORDS]
        own[LOCK] = allocate()
        acquire(int(own[LOCK]), 1)  # who acquires it again sleeps until somebody releases it
        thread = threading.Thread(target=_serve, args=(worker,), name=f"gpuconv-{worker}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # a limit on processes: the threads that there are will do
            break
        _workers.append(thread)
    _WORDS[HELPERS] = len(_workers)


def _dismiss():
    """At the process's end: compiled code must not run on while Python takes it down."""
    _WORDS[HELPERS] = 0
    _WORDS[STOP] = 1
    for worker, thread in enumerate(_workers, 1):
        _wake(worker)
        thread.join()


def _start_again():
    """A forked process inherits the words but not the workers."""
    helpers = int(_WORDS[HELPERS])
    _workers.clear()
    _start()
    _WORDS[HELPERS] = min(helpers, len(_workers))


_workers = []
if not _FOUND:
    # Here and not later: in a forked process, another thread's compilation may hold Numba's lock for ever.
    _serve.compile((types.intp,))
    _wake.compile((types.intp,))
    binding.add_symbol(_RUN_NAME, _run.address)
    atexit.register(_dismiss)
    _start()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_start_again)


def get_num_threads():
    """How many threads take part in a kernel: the caller and its helpers."""
    return int(_WORDS[HELPERS]) + 1


def set_num_threads(count):
    """Let at most `count` threads take part in a kernel: from 1 to WORKERS, the caller included."""
    _WORDS[HELPERS] = count - 1
