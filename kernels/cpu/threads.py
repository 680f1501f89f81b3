"""How work is shared among threads.

A compiled call costs about half a microsecond, a parallel region a few more, so small
problems run on the calling thread.  Tasks are cut by the problem's shape alone, and a
task writes nothing that another reads: results are bitwise the same for any number of
threads.
"""

# Multiply-adds, or elements moved, below which the calling thread works alone.  A parallel region on an
# idle machine pays off earlier, but on a busy one each region waits for the slowest thread to be
# scheduled, which takes milliseconds: the small layers of the digits network slowed down twentyfold.
SERIAL_WORK = 1 << 19

# Elements of a flat array that one task handles.
CHUNK = 1 << 14
