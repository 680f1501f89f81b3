"""A machine that executes PTX: CUDA kernels, compiled as for a GPU, run and checked on the CPU.

A kernel that was never run is not known to work, and the tests run where there is no GPU.  Numba's simulator runs
a kernel's Python source; it sees neither what the compiler makes of it nor races, and knows no shuffles, no
asynchronous copies and no tensor cores.  So here the PTX itself is executed::

    with Gpu((9, 0)).installed():           # the device 'cuda', compute capability 9.0
        model.fit(x, y)                     # every launch compiles for sm_90 and executes the PTX

    kernel = Kernel(ptx)                    # or PTX of any origin
    kernel.run(GlobalMemory(), grid, block, arguments)

How it works
------------
`program` parses PTX and refuses what it does not know, with the line.  `machine` decodes each instruction once
into a function, and holds each register as an array with one number for each *lane*, that is for each thread of many
blocks.  A turn takes the lanes that stand at the earliest instruction, and executes instruction after instruction
for all of them at once, in NumPy, until they branch apart, meet others, or wait.  So divergent lanes meet again where
their ways do, and a kernel of many threads costs little more than one of few.

========================  ==========================================================================
`program`                 the parser: kernels, parameters, variables, instructions, labels
`decoding`                from an instruction to a function: operands, types, modifiers
`scalar`, `arithmetic`    what a thread computes for itself, with the rounding that the hardware has
`transfers`, `memory`     loads, stores, atomics, asynchronous copies; spaces, bounds, races
`warps`                   shuffles, votes, `ldmatrix`, `mma`
`machine`                 registers, control flow, barriers
`counters`                what a profiler would count
`launch`                  stands in for device memory and for `toolkit.launch`
`snippets`, `mutants`     for the tests: hand-written PTX; kernels with one thing dropped
========================  ==========================================================================

What is checked, on every run
-----------------------------
- Every address: inside of an array, a multiple of the access's size.  Between arrays lie gaps.
- Every read: of something that was written.  New device arrays, workspaces, shared and local memory hold nothing.
- Races.  For each word (or byte, if the kernel accesses bytes) it is remembered who read and who wrote it last, and how
  many barriers that thread's block had passed.  Two accesses, one of which writes, must be of one thread, or have
  a barrier of their block, or of their warp, between them; those of two blocks are never ordered within a
  launch.  This does not depend on the order in which the lanes happen to run, which hides most missing barriers.
  Two threads that write the same number to one place race as well.  Atomic accesses race with plain ones only; that
  they can be used to order others (a counter of finished blocks) is not known here.
- Asynchronous copies: nobody may touch their target from the copy to the wait that lets it arrive, and nobody
  else but the thread that waited until the next barrier.
- Barriers: all threads of the block must reach them, and lanes of one warp at the same instruction.
- `shfl`, `vote`, `mma` and their like: every lane that the mask names must arrive, and none is read that does not.

An error names the kernel, the line of the PTX, the block and the thread.

What is not the hardware
------------------------
- Time.  `Counters` counts instructions, sectors, bank conflicts and bytes, from which time can be estimated.
- Functions that the hardware only approximates (`ex2.approx`, `rcp.approx`, ...) are rounded to nearest, which
  is within the documented bounds but not the same bits.  So are NaNs: their signs and payloads are NumPy's.
- `mma` adds in float64 and cuts the sum to float32, toward zero; the hardware's order of additions is not documented.
- Weak memory.  What one thread writes, others see at once; whoever relies on that without a barrier is caught as
  a race instead.  Threads advance in some fair order, but spinning on memory that another thread is to write is not
  supported: it races.
- The PTX is what NVVM makes for the compute capability; `ptxas` still stands between it and machine code.
"""

from .counters import Counters
from .launch import Gpu
from .machine import Kernel
from .memory import GlobalMemory

__all__ = ["Counters", "GlobalMemory", "Gpu", "Kernel"]
