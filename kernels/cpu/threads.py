"""How work is shared among threads.

A kernel is a compiled function over a range of independent tasks, ``body(first, last, ...)``, that runs without
Python's lock.  `share` runs it whole on the calling thread, or cuts the range into parts that several threads take in
turn.  A task writes nothing that another reads and does not depend on how the range was cut, so that results are
bitwise the same for any number of threads.

Numba's own ``parallel=True`` would start threads faster (in microseconds, where `share` takes tens of them), but it
compiles every kernel three to four times over: 14.1 s of processor time for the kernels of the digits example, where
this takes 8.5 s.  And its threads wait for each other in busy loops: with other work on both cores, 100 epochs of the
example took 27 to 82 s instead of 3.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor, wait

from numba import config, get_num_threads

# Multiply-adds, or elements moved, that take about as long as waking the other threads does.
SERIAL_WORK = 1 << 19

# Parts for each thread: several, so that a thread that is held up leaves its share to the others.
PARTS = 4


def share(body, tasks, work, *arguments):
    """Run ``body(first, last, *arguments)`` over the tasks ``0 .. tasks - 1``.

    Parameters
    ----------
    body : compiled function
        Must have been compiled with ``nogil=True``.
    tasks : int
    work : int
        Multiply-adds, or elements moved, of all tasks together.
    """
    threads = min(get_num_threads(), tasks)
    if work < SERIAL_WORK or threads == 1:
        body(0, tasks, *arguments)
        return
    size = -(-tasks // (threads * PARTS))
    # next() of a range's iterator is atomic under Python's lock: every part is taken once.
    starts = iter(range(0, tasks, size))

    def take_parts():
        for first in starts:
            body(first, min(first + size, tasks), *arguments)

    others = [_pool().submit(take_parts) for _ in range(threads - 1)]
    try:
        take_parts()
    finally:
        # After an interruption too, nobody may go on writing: take what is left away and wait.
        for _ in starts:
            pass
        wait(others)
    for other in others:
        other.result()


@functools.cache
def _pool():
    return ThreadPoolExecutor(config.NUMBA_NUM_THREADS, thread_name_prefix="gpuconv")


# A forked process inherits the pool but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
