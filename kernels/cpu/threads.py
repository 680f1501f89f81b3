"""How work is shared among threads.

A compiled call costs about half a microsecond, a parallel region a few more, so small
problems run on the calling thread.  Tasks are cut by the problem's shape alone, and a
task writes nothing that another reads: results are bitwise the same for any number of
threads.
"""

# Multiply-adds, or elements moved, below which a parallel region costs more than it saves.
SERIAL_WORK = 1 << 16

# Elements of a flat array that one task handles.
CHUNK = 1 << 14
