"""How long a GPU would need for a work, estimated without one.

For every launch of a work, one block from the middle of the grid is executed by `tests/simt`, whose counters tell how
many multiply-adds, instructions and accesses a block makes; so does the machine code, of what stands beside each
multiply-add in the hot loop.  From these follow the cycles that a multiprocessor needs for a block, at least::

    multiply-adds   warps' multiply-adds * 32 / lanes
    issue           warps' instructions / 4                one a cycle from each of four schedulers
    shared memory   passes over the banks

and the time of a launch, whose blocks the multiprocessors share as evenly as whole blocks allow::

    ceil(blocks / multiprocessors) * largest of the three / clock

Estimate of the work: all its launches, or the time in which memory moves each array once, if that is longer; and
workspaces are written and read besides.  Limit: the multiply-adds at the GPU's full rate, or each array once, whichever
is longer.  Not in it: latency, the second-level cache's rate, the time between launches.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from cuda_compiling import disassemble, launch_of
from gpuconv.kernels import TABLE
from gpuconv.kernels import cuda as device
from simt import Counters, Gpu

from . import gpu_code
from .gpu_models import LIMITS, SCHEDULERS, WARP

# Bytes of the machine's memory, of which only what is touched is ever there.
MEMORY = 3 << 30


class Block(NamedTuple):
    """One launch, and what one block of it does.

    Attributes
    ----------
    kernel : str
    blocks, threads : int
    multiply_adds, tensor : int
        Executed by warps; `tensor` counts multiply-adds of matrices.
    instructions : int
        Executed by warps, estimated from PTX and machine code.
    shared_passes, conflicts : int
        Passes over the banks of shared memory; those beyond the fewest.
    load_efficiency, store_efficiency : float
        Share of the sectors of global memory that were needed.
    sector_bytes : int
        Bytes of all sectors touched.
    """

    kernel: str
    blocks: int
    threads: int
    multiply_adds: int
    tensor: int
    instructions: int
    shared_passes: int
    conflicts: int
    load_efficiency: float
    store_efficiency: float
    sector_bytes: int


class Profiler(Gpu):
    """A GPU that runs one block of every launch and counts; its arrays count as written, with zeros.

    Parameters
    ----------
    gpu : gpu_models.Gpu

    Attributes
    ----------
    launches : list of Block
    workspace_bytes : int
    """

    def __init__(self, gpu):
        super().__init__(gpu.capability, size=MEMORY)
        self.multiprocessors = gpu.multiprocessors
        self.launches, self.workspace_bytes = [], 0

    def empty(self, shape, dtype=np.float32):
        array = super().empty(shape, dtype)
        array._flags()[...] = 3
        return array

    def workspace(self, count, dtype):
        array = super().workspace(count, dtype)
        self.workspace_bytes += array.nbytes
        return array

    def launch(self, kernel, blocks, threads, *arguments):
        count = int(np.prod(blocks))
        counters = Counters()
        self.options = {"counters": counters, "only": [count // 2]}
        super().launch(kernel, blocks, threads, *arguments)
        cells = [getattr(argument, "_cells", argument) for argument in arguments]
        (listing,) = disassemble((launch_of(kernel, threads, cells).ptx(self.capability),), self.capability)
        code = gpu_code.figures(listing)
        self.launches.append(describe(kernel.py_func.__name__, count, int(np.prod(threads)), counters, code))


def describe(kernel, blocks, threads, counters, code):
    """The counts of one block as a `Block`."""
    multiply_adds = sum(number for kind, number in counters.warps.items() if kind.startswith("fma."))
    tensor = sum(number * _matrix_size(kind) for kind, number in counters.warps.items() if kind.startswith("mma."))
    products = sum(number for kind, number in counters.warps.items() if kind.startswith("mma.")) or multiply_adds
    # What the PTX executes, moves apart, which become no instructions; or what stands beside the products in the
    # machine code's loop, if that is more.
    instructions = sum(number for kind, number in counters.warps.items() if not kind.startswith(("mov.", "cvta.")))
    in_loop = code["tensor"] or code["multiply_adds"]
    if in_loop:
        instructions = max(instructions, products * code["loop"] // in_loop)
    shared = [entry for key, entry in counters.transfers.items() if key[0] == "shared"]
    return Block(
        kernel, blocks, threads, multiply_adds, tensor, instructions,
        sum(entry.parts for entry in shared), counters.bank_conflicts(),
        _efficiency(counters, "ld"), _efficiency(counters, "st"),
        counters.sector_bytes("ld") + counters.sector_bytes("st"),
    )  # fmt: skip


def _matrix_size(kind):
    """Multiply-adds of one `mma`, from its shape: ``m16n8k8``."""
    (shape,) = (word for word in kind.split(".") if word.startswith("m") and word[1:2].isdigit())
    rows, rest = shape[1:].split("n")
    columns, depth = rest.split("k")
    return int(rows) * int(columns) * int(depth)


def _efficiency(counters, direction):
    entries = [entry for key, entry in counters.transfers.items() if key[:2] == ("global", direction)]
    parts = sum(entry.parts for entry in entries)
    return sum(entry.fewest for entry in entries) / parts if parts else 1.0


def profile(work, gpu):
    """What a work launches on a GPU.

    Returns
    -------
    launches : list of Block
    array_bytes, workspace_bytes : int
    """
    profiler = Profiler(gpu)
    with profiler.installed():
        arguments = work.arguments(profiler.empty)
        getattr(device, work.function)(*arguments)
    # Optimisers read what they change.
    changed = {"parameters", "mean", "mean_square", "velocity"}
    names = TABLE[work.function].split()
    array_bytes = sum(
        argument.nbytes * (2 if name in changed else 1)
        for name, argument in zip(names, arguments, strict=True)
        if hasattr(argument, "nbytes")
    )
    return SimpleNamespace(
        launches=profiler.launches, array_bytes=array_bytes, workspace_bytes=profiler.workspace_bytes
    )


def estimate(work, found, gpu):
    """The row of one work on one GPU.

    Parameters
    ----------
    work : Work
    found : namespace
        Of `profile`.
    gpu : Gpu

    Returns
    -------
    dict
        Times in microseconds; ``ratio`` of `estimate` to `limit`, and ``bound``, what makes the estimate.
    """
    by_multiplying = work.flops / gpu.rate * 1e6
    by_memory = found.array_bytes / gpu.bandwidth * 1e6
    times = {"multiply-adds": 0.0, "issue": 0.0, "shared memory": 0.0}
    total, heaviest, quantisation = 0.0, 0.0, 1.0
    for block in found.launches:
        cycles = block_cycles(block, gpu)
        waves = -(-block.blocks // gpu.multiprocessors)
        time = waves * max(cycles.values()) / gpu.clock * 1e6
        total += time
        times[max(cycles, key=cycles.get)] += time
        if time > heaviest:
            heaviest, quantisation = time, block.blocks / (waves * gpu.multiprocessors)
    workspace = 2 * found.workspace_bytes / gpu.bandwidth * 1e6
    estimated, limit = max(total, by_memory) + workspace, max(by_multiplying, by_memory)
    bound = "memory" if by_memory >= total else max(times, key=times.get)
    if bound != "memory" and quantisation < 0.75:
        bound = "few blocks"
    return {
        "work": work.name, "gpu": gpu.name, "limit_multiply_adds": round(by_multiplying, 2),
        "limit_memory": round(by_memory, 2), "blocks": [block.blocks for block in found.launches],
        "full_waves": round(quantisation, 3), "compute": round(total, 2), "workspace": round(workspace, 2),
        "estimate": round(estimated, 2), "ratio": round(estimated / limit, 2), "bound": bound,
    }  # fmt: skip


def block_cycles(block, gpu):
    """Cycles of a multiprocessor for one block, by what takes them."""
    multiplying = block.multiply_adds * WARP / LIMITS[gpu.capability].lanes
    if block.tensor:
        multiplying += block.tensor / (gpu.tensor / 2 / gpu.multiprocessors / gpu.clock)
    return {
        "multiply-adds": multiplying,
        "issue": block.instructions / SCHEDULERS,
        "shared memory": float(block.shared_passes),
    }
