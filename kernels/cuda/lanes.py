"""Numbers of other threads: neighbouring threads of a warp, its *lanes*, hand them to each other in registers.

`exchange` is the instruction, a shuffle; all threads of a block must come to it together, since its twin in the
simulator, which knows no shuffles, has barriers.  The sums made of it halve the distance in each step.  Both partners
of an exchange add the same two numbers, so that all lanes end with the same bits, in an order that only their number
decides.
"""

import threading

from .formulas import inline, larger
from .toolkit import SIMULATED, cuda

if SIMULATED:
    _numbers = {}

    def exchange(value, distance):
        """The number of the thread whose place in the warp differs in the bit `distance`."""
        thread = threading.current_thread()
        _numbers[thread.thread_id] = value
        thread.syncthreads()
        other = _numbers[thread.thread_id ^ distance]
        thread.syncthreads()
        return other

else:

    @inline
    def exchange(value, distance):
        return cuda.shfl_xor_sync(0xFFFFFFFF, value, distance)


@inline
def sum_of_lanes(value, lanes):
    """The sum over `lanes` neighbouring threads, a power of two of them."""
    distance = lanes >> 1
    while distance > 0:
        value += exchange(value, distance)
        distance >>= 1
    return value


@inline
def largest_of_lanes(value, lanes):
    """The largest number of `lanes` neighbouring threads; NaN if one of them has it."""
    distance = lanes >> 1
    while distance > 0:
        value = larger(value, exchange(value, distance))
        distance >>= 1
    return value
