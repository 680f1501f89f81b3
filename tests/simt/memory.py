"""Memory of the machine, and the checks on every access.

A `Space` is one run of bytes, cut into regions of one size: the shared memory of a block, the local memory
of a thread.  Beside each byte stands whether it may be accessed and whether something has written it.
`Accesses` remembers for each place who touched it last and when, which is what finds races.

Two accesses are ordered if they are of one thread, or of one block with a barrier between them, or of one
warp with a `bar.warp.sync` between them.  Two that are not, of which one writes, are a race, whatever the
order in which the machine happens to run them.
"""

import numpy as np

from .errors import MisalignedError, OutOfBoundsError, RaceError, SimtError, UninitialisedError
from .types import UNSIGNED

# Where the spaces begin.  Addresses of shared, local and constant memory are offsets into their spaces, and
# become generic ones by adding their window (`cvta`); global addresses are generic as they are.
START = {"shared": 1024, "local": 64, "const": 4096, "global": 0x7F00_0000_0000}
WINDOW = {"shared": 0x1000_0000_0000, "local": 0x2000_0000_0000, "const": 0x3000_0000_0000, "global": 0}
WINDOW_SIZE = 0x0100_0000_0000

ACCESSIBLE, WRITTEN = 1, 2
MANY = -1


class Who:
    """The threads that access memory: their number in the grid, block, barriers passed, warp barriers passed."""

    def __init__(self, lanes, thread, block, epoch, phase):
        self.lanes, self.thread, self.block, self.epoch, self.phase = lanes, thread, block, epoch, phase

    def only(self, chosen):
        """Some of them."""
        return Who(*(part[chosen] for part in (self.lanes, self.thread, self.block, self.epoch, self.phase)))


class Accesses:
    """For each place the thread that touched it last, its block, and when.

    A place that several threads touched without order holds `MANY` as its thread, or ``-2 - warp`` if all
    of them are of one warp; as its block `MANY`, if they are of several.

    Parameters
    ----------
    count : int
        Number of places.
    """

    def __init__(self, count):
        # Zeros are pages that are never touched unless needed.  Epochs count from 1.
        self.thread, self.block, self.epoch, self.phase = (np.zeros(count, np.int32) for _ in range(4))

    def unordered(self, places, who, since):
        """Which of these accesses nothing orders after the last ones to their places.

        `since` is the epoch in which the launch began: what is older does not count.
        """
        epoch, thread = self.epoch[places], self.thread[places]
        suspicious = (epoch >= since) & (thread != who.thread)
        # Nearly always there is nothing to suspect, or everything lies before a barrier.
        if suspicious.any():
            suspicious &= ~((self.block[places] == who.block) & (epoch < who.epoch))
            if suspicious.any():
                same_warp = _warp(thread) == who.thread >> 5
                suspicious &= ~(same_warp & (self.phase[places] < who.phase))
        return suspicious

    def add(self, places, who, since):
        """Remember these accesses.

        Returns
        -------
        array of bool
            Those to a place that another thread touches in the same instruction.
        """
        old_thread, old_block, old_epoch = self.thread[places], self.block[places], self.epoch[places]
        stays = (old_epoch >= since) & (old_thread != who.thread)
        stays &= ~((old_block == who.block) & (old_epoch < who.epoch))
        self.thread[places] = who.thread
        self.block[places] = who.block
        self.epoch[places] = who.epoch
        self.phase[places] = who.phase
        shared = self.thread[places] != who.thread
        if stays.any():
            self._widen(places[stays], who, stays, old_thread[stays], old_block[stays])
        if shared.any():
            self._widen(places[shared], who, shared, self.thread[places[shared]], self.block[places[shared]])
        return shared

    def _widen(self, places, who, chosen, other, other_block):
        """These places are touched by the chosen threads and by others: remember that they are several."""
        warp = np.broadcast_to(who.thread >> 5, chosen.shape)[chosen]
        block = np.broadcast_to(who.block, chosen.shape)[chosen]
        several = (_warp(other) != warp) | (_warp(self.thread[places]) != warp)
        self.thread[places] = -2 - warp
        # Written last, so that one lane of another warp decides for all of a place.
        self.thread[places[several]] = MANY
        self.block[places[other_block != block]] = MANY


def _warp(thread):
    """The warp of remembered threads: -1 where they are of several."""
    return np.where(thread >= 0, thread >> 5, np.where(thread == MANY, -1, -2 - thread))


class Space:
    """Bytes in regions of one size, with what is known of each.

    Parameters
    ----------
    name : {'global', 'shared', 'local', 'const'}
    regions : int
        How many there are.
    size : int
        Bytes of each.
    races : bool
        Whether accesses by several threads are checked against each other.
    """

    def __init__(self, name, regions, size, races=False):
        self.name, self.size, self.start = name, size, START[name]
        self.stride = -(-size // 16) * 16
        self.bytes = np.zeros(regions * self.stride, np.uint8)
        self.flags = np.zeros(regions * self.stride, np.uint8)
        if name != "global":
            self.flags.reshape(regions, -1)[:, :size] = ACCESSIBLE
        self.races = races
        # The epoch in which the launch began, and how many bytes one remembered place has.
        self.since, self.granule = 1, 4
        self._kept = {}

    def remember(self, granule):
        """Prepare for a launch whose narrowest access has `granule` bytes."""
        if not self.races:
            return
        self.granule = granule
        count = self.bytes.size // granule
        if granule not in self._kept:
            self._kept[granule] = (*(Accesses(count) for _ in range(3)), np.zeros(count, bool))
        self._reads, self._writes, self._atomics, self._flying = self._kept[granule]
        # Few kernels have these: the others need not look.
        self._atomic = self._asynchronous = False

    # -- accesses: addresses are those of the space, `where` the region of each

    def offsets(self, addresses, regions, width, count, who):
        """Places in `bytes`, after the checks of alignment and bounds."""
        size = width * count
        within = np.asarray(addresses).astype(np.int64) - self.start
        wrong = within & (size - 1) if size & (size - 1) == 0 else within % width
        if np.any(wrong):
            lane = int(np.argmax(wrong != 0))
            raise MisalignedError(
                f"{self.name} address {_hex(addresses, lane)} is not a multiple of {size}", who.lanes[lane]
            )
        outside = (within < 0) | (within > self.size - size)
        if np.any(outside):
            lane = int(np.argmax(outside))
            raise OutOfBoundsError(
                f"{self.name} address {_hex(addresses, lane)} lies outside of its {self.size} bytes", who.lanes[lane]
            )
        return within if regions is None else within + regions * self.stride

    def _flagged(self, offsets, width, wanted, who):
        """Raise unless all bytes of these accesses have the flags `wanted`."""
        pattern = _every_byte(wanted, width)
        found = self.flags.view(UNSIGNED[width])[offsets // width] & pattern
        if (found == pattern).all():
            return
        lane = int(np.argmax(found != pattern))
        accessible = _every_byte(ACCESSIBLE, width)
        at = f"{self.name} memory, byte {int(offsets[lane])}"
        if found[lane] & accessible != accessible:
            raise OutOfBoundsError(f"an access outside of every array: {at}", who.lanes[lane])
        raise UninitialisedError(f"a read of what nothing has written: {at}", who.lanes[lane])

    def load(self, offsets, dtype, count, who):
        """`count` neighbouring numbers for each offset, as a list of arrays."""
        width = dtype.itemsize
        numbers = []
        for part in range(count):
            at = offsets + part * width
            self._flagged(at, width, ACCESSIBLE | WRITTEN, who)
            numbers.append(self.bytes.view(dtype)[at // width])
        if self.races:
            self._check_read(offsets, width * count, who)
        return numbers

    def store(self, offsets, numbers, dtype, who):
        """Neighbouring numbers for each offset, from a list of arrays."""
        width = dtype.itemsize
        if self.name == "const":
            raise OutOfBoundsError("constant memory cannot be written", who.lanes[0])
        for part, number in enumerate(numbers):
            at = offsets + part * width
            self._flagged(at, width, ACCESSIBLE, who)
            self.bytes.view(dtype)[at // width] = number
            self.flags.view(UNSIGNED[width])[at // width] = _every_byte(ACCESSIBLE | WRITTEN, width)
        if self.races:
            self._check_write(offsets, width * len(numbers), who)

    def atomic(self, offsets, dtype, who, update):
        """Read, change and write: ``update(view, indices)`` gives the old numbers."""
        width = dtype.itemsize
        self._flagged(offsets, width, ACCESSIBLE | WRITTEN, who)
        if self.races:
            places = self._places(offsets, width)
            self._raise(self._reads.unordered(places, who, self.since), who, "an atomic access after a read")
            self._raise(self._writes.unordered(places, who, self.since), who, "an atomic access after a write")
            self._atomic = True
            self._atomics.add(places, who, self.since)
        return update(self.bytes.view(dtype), offsets // width)

    def begin_flight(self, offsets, size, who):
        """Asynchronous copies to these places are on their way: nobody may touch them until they arrive."""
        places = self._places(offsets, size)
        self._check_write(offsets, size, who)
        self._asynchronous = True
        if self._flying[places].any():
            raise RaceError("an asynchronous copy to a place that another is on its way to", who.lanes[0])
        self._flying[places] = True

    def land(self, offsets, contents, who):
        """Asynchronous copies arrive: `contents` has a row of bytes for each."""
        size = contents.shape[1]
        self._flying[self._places(offsets, size)] = False
        at = offsets[:, None] + np.arange(size)
        self.bytes[at] = contents
        self.flags[at] = ACCESSIBLE | WRITTEN
        self._check_write(offsets, size, who)

    # -- races

    def _places(self, offsets, size):
        """Places of each access, as rows: one column for each access."""
        count = max(1, size // self.granule)
        return offsets // self.granule + np.arange(count)[:, None]

    def _check_read(self, offsets, size, who):
        places = self._places(offsets, size)
        self._raise(self._writes.unordered(places, who, self.since), who, "a read after a write")
        self._check_others(places, who)
        self._reads.add(places, who, self.since)

    def _check_write(self, offsets, size, who):
        places = self._places(offsets, size)
        self._raise(self._reads.unordered(places, who, self.since), who, "a write after a read")
        self._raise(self._writes.unordered(places, who, self.since), who, "a write after a write")
        self._check_others(places, who)
        self._raise(self._writes.add(places, who, self.since), who, "two writes in one instruction")

    def _check_others(self, places, who):
        if self._asynchronous:
            self._raise(self._flying[places], who, "an access to a place that an asynchronous copy is on its way to")
        if self._atomic:
            self._raise(self._atomics.unordered(places, who, self.since), who, "an access after an atomic one")

    def _raise(self, wrong, who, what):
        if wrong.any():
            _, lane = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            raise RaceError(f"{what} of {self.name} memory by another thread, with no barrier between", who.lanes[lane])


def _hex(addresses, lane):
    return hex(int(np.atleast_1d(addresses)[lane]))


def _every_byte(flags, width):
    return UNSIGNED[width].type(int.from_bytes(bytes([flags]) * width, "little"))


class GlobalMemory(Space):
    """The device's memory: arrays are cut from it one after another, with gaps that belong to none.

    Parameters
    ----------
    size : int
        Bytes.  Only what is used is really taken from the system.
    """

    GAP = 256

    def __init__(self, size=1 << 26):
        super().__init__("global", 1, size, races=True)
        self.end = self.GAP

    def allocate(self, count):
        """The offset of `count` new bytes."""
        offset = self.end
        self.end = -(-(offset + count) // self.GAP) * self.GAP + self.GAP
        if self.end > self.size:
            raise SimtError(f"the machine's memory of {self.size} bytes is used up: make it with more")
        self.flags[offset : offset + count] = ACCESSIBLE
        return offset

    def address(self, offset):
        return self.start + offset

    def fill(self, offset, contents):
        """Write bytes from the host."""
        self.bytes[offset : offset + contents.size] = contents
        self.flags[offset : offset + contents.size] = ACCESSIBLE | WRITTEN


def space_of(addresses):
    """The space that generic addresses lie in, if it is one for all, else None."""
    for name, window in WINDOW.items():
        if name == "global":
            continue
        inside = (addresses >= window) & (addresses < window + WINDOW_SIZE)
        if inside.all():
            return name
        if inside.any():
            return None
    return "global"


def granule_of(widths):
    """How many bytes a remembered place has: at most a word, at most the narrowest access."""
    return min([4, *widths]) if widths else 4


def align(offset, alignment):
    """The next multiple of the alignment."""
    return -(-offset // alignment) * alignment
