"""What GPUs can do: limits of each compute capability, and the figures of some products.

Limits: NVIDIA, "CUDA C++ Programming Guide", technical specifications per compute capability.  Products: NVIDIA's
architecture papers, named beside each, and for memory their data sheets.
"""

from typing import NamedTuple

REGISTERS = 65536  # of a multiprocessor, of every capability here
WARP, SCHEDULERS = 32, 4


class Limits(NamedTuple):
    """What one multiprocessor holds, and how many float32 multiply-adds it does in a cycle."""

    warps: int
    blocks: int
    shared_bytes: int
    lanes: int
    reserved_bytes: int = 1024  # of shared memory, by the system, for each block


LIMITS = {
    (7, 5): Limits(32, 16, 64 << 10, 64, 0),
    (8, 0): Limits(64, 32, 164 << 10, 64),
    (8, 6): Limits(48, 16, 100 << 10, 128),
    (8, 9): Limits(48, 24, 100 << 10, 128),
    (9, 0): Limits(64, 32, 228 << 10, 128),
    (10, 0): Limits(64, 32, 228 << 10, 128),
    (12, 0): Limits(48, 24, 100 << 10, 128),
}


class Gpu(NamedTuple):
    """A product.  `tensor` is its dense TF32 rate in operations a second, 0 where it has none."""

    name: str
    capability: tuple
    multiprocessors: int
    clock: float
    tensor: float
    bandwidth: float
    source: str

    @property
    def rate(self):
        """Float32 operations a second, a multiply-add being two, without tensor cores."""
        return 2 * self.multiprocessors * LIMITS[self.capability].lanes * self.clock


GPUS = [
    Gpu("T4", (7, 5), 40, 1.59e9, 0, 320e9, "NVIDIA Turing GPU Architecture, 2018"),
    Gpu("A100 80 GB", (8, 0), 108, 1.41e9, 156e12, 2039e9, "NVIDIA A100 Tensor Core GPU Architecture, 2020"),
    Gpu("H100 SXM", (9, 0), 132, 1.98e9, 494.7e12, 3350e9, "NVIDIA H100 Tensor Core GPU Architecture, 2022"),
]


def occupancy(capability, threads, registers, shared_bytes):
    """How many blocks a multiprocessor holds at once, and what keeps it from holding more.

    Registers are handed out to warps in units of 256, shared memory in units of 128 bytes (256 for 7.5).

    Returns
    -------
    blocks : int
    by : str
        ``'registers'``, ``'shared memory'``, ``'warps'`` or ``'blocks'``.

    Examples
    --------
    >>> occupancy((9, 0), 256, 128, 0)
    (2, 'registers')
    >>> occupancy((8, 6), 256, 32, 40000)
    (2, 'shared memory')
    """
    limits = LIMITS[capability]
    warps = -(-threads // WARP)
    found = {
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": REGISTERS // (_multiple(registers * WARP, 256) * warps),
    }
    if shared_bytes:
        unit = 256 if capability < (8, 0) else 128
        found["shared memory"] = limits.shared_bytes // (_multiple(shared_bytes, unit) + limits.reserved_bytes)
    by = min(found, key=found.get)
    return found[by], by


def _multiple(number, unit):
    return -(-number // unit) * unit
