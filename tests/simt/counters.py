"""What a profiler would count."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

SECTOR = 32
BANKS, BANK = 32, 4
# Numbers below 2**SHIFT share an integer with their owner: the machine's memories are smaller.
SHIFT = 36


@dataclass
class Transfers:
    """Requests of one instruction to memory: what they needed, and what would do.

    Attributes
    ----------
    requests : int
        Warps that executed it.
    bytes : int
        Bytes that the lanes asked for.
    parts : int
        Global memory: sectors of 32 bytes touched.  Shared memory: passes over the banks.
    fewest : int
        Sectors, or passes, that so many different bytes need at least.
    """

    requests: int = 0
    bytes: int = 0
    parts: int = 0
    fewest: int = 0

    @property
    def efficiency(self):
        """The share of `parts` that was needed."""
        return self.fewest / self.parts if self.parts else 1.0


@dataclass
class Counters:
    """Counts over all launches that are given the same counters.

    Attributes
    ----------
    lanes : Counter
        For each kind of instruction how many lanes executed it.
    warps : Counter
        How many warps did, each time with one lane or more.
    transfers : dict
        `Transfers` by ``(space, 'ld' or 'st', line of the PTX)``.
    launches : int
    """

    lanes: Counter = field(default_factory=Counter)
    warps: Counter = field(default_factory=Counter)
    transfers: dict = field(default_factory=lambda: defaultdict(Transfers))
    launches: int = 0

    def instruction(self, kind, lanes, warps):
        self.lanes[kind] += lanes
        self.warps[kind] += warps

    def transfer(self, space, direction, line, addresses, size, lanes):
        """Count one access of `size` bytes by each lane."""
        entry = self.transfers[space, direction, line]
        warps = np.asarray(lanes) >> 5
        entry.requests += len(np.unique(warps))
        entry.bytes += size * len(warps)
        if space == "global":
            # An aligned access of at most 32 bytes lies in one sector.
            first = addresses.min()
            entry.parts += len(_pairs(warps, (addresses - first + first % SECTOR) // SECTOR))
            different = np.unique(_pairs(warps, addresses - first) >> SHIFT, return_counts=True)[1]
            entry.fewest += int((-(-different * size // SECTOR)).sum())
        elif space == "shared":
            self._passes(entry, warps, np.asarray(lanes) & 31, addresses, size)

    def _passes(self, entry, warps, lane, addresses, size):
        """128-bit accesses are served by quarters of a warp, 64-bit ones by halves.

        A bank gives one word at a time, to all lanes that want it.
        """
        lanes_at_once = {16: 8, 8: 16}.get(size, 32)
        turns = warps * 4 + lane // lanes_at_once
        words = (addresses[:, None] + np.arange(0, max(size, BANK), BANK)) // BANK
        wanted = _pairs(np.repeat(turns, words.shape[1]), words.ravel())
        turns, words = wanted >> SHIFT, wanted & (1 << SHIFT) - 1
        banks, passes = np.unique(_pairs(turns, words % BANKS, different=False), return_counts=True)
        starts = np.flatnonzero(np.diff(banks >> SHIFT, prepend=-1))
        entry.parts += int(np.maximum.reduceat(passes, starts).sum())
        # As few words a bank as there can be.
        counts = np.unique(turns, return_counts=True)[1]
        entry.fewest += int((-(-counts // BANKS)).sum())

    def bytes_of(self, space, direction):
        """Bytes that all lanes asked for."""
        return sum(entry.bytes for key, entry in self.transfers.items() if key[:2] == (space, direction))

    def sector_bytes(self, direction):
        """Bytes of the sectors of global memory that were touched, each counted once for a request."""
        return SECTOR * sum(entry.parts for key, entry in self.transfers.items() if key[:2] == ("global", direction))

    def bank_conflicts(self):
        """Passes over the banks of shared memory beyond the fewest possible."""
        return sum(entry.parts - entry.fewest for key, entry in self.transfers.items() if key[0] == "shared")


def _pairs(owners, numbers, different=True):
    """Each owner with each of its numbers, as one integer, sorted and (if `different`) without repetitions."""
    keys = owners.astype(np.int64) << SHIFT | numbers
    return np.unique(keys) if different else keys
