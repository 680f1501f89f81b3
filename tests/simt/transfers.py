"""Instructions that access memory: loads, stores, atomics, asynchronous copies."""

import numpy as np

from .decoding import decodes
from .errors import MisalignedError, OutOfBoundsError, TrapError
from .memory import WINDOW, space_of
from .program import Address, Symbol, Vector
from .types import DTYPES, UNSIGNED

SPACES = ("param", "shared", "shared::cta", "local", "const", "global")
# How an access is cached and ordered makes no difference in a machine without caches.
HINTS = {
    "weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys", "nc", "ca", "cg", "cs", "lu",
    "cv", "wb", "wt", "L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last",
    "L1::no_allocate", "L2::evict_first", "L2::evict_last", "L2::64B", "L2::128B", "L2::256B",
}  # fmt: skip


def _space_of_instruction(d):
    space = d.one_of(SPACES)
    return "shared" if space == "shared::cta" else space


def _elements(operand):
    return operand.parts if isinstance(operand, Vector) else (operand,)


def _vector(d, operand):
    """The registers of the operand, checked against the modifier that says how many there are."""
    parts = _elements(operand)
    count = {"v2": 2, "v4": 4, None: 1}[d.one_of(("v2", "v4"))]
    if count != len(parts):
        d.refuse(f"{len(parts)} registers")
    return parts


@decodes("ld", "ldu")
def _load(d):
    d.ignore(HINTS)
    space, kind = _space_of_instruction(d), d.type()
    dtype = DTYPES[kind]
    target, source = d.operands
    writes = [d.write(part, kind) for part in _vector(d, target)]
    if space == "param":
        return _load_parameter(d, source, writes, dtype)
    address, known = d.address(source)
    space = space or known

    def load(state, where):
        addresses = address(state, where)
        name = space or generic(state, addresses, where)
        for write, numbers in zip(writes, state.load(name, addresses, where, dtype, len(writes), space), strict=True):
            write(state, where, numbers)

    return load


def _load_parameter(d, source, writes, dtype):
    if not (isinstance(source, Address) and isinstance(source.base, Symbol)):
        d.refuse("a parameter's address")
    _, begin = d.addresses[source.base.name]
    begin += source.offset

    def load(state, where):
        for number, write in enumerate(writes):
            at = begin + number * dtype.itemsize
            write(state, where, state.arguments[at : at + dtype.itemsize].view(dtype)[0])

    return load


@decodes("st")
def _store(d):
    d.ignore(HINTS)
    space, kind = _space_of_instruction(d), d.type()
    if space == "param":
        d.refuse("space .param")
    target, source = d.operands
    reads = [d.read(part, kind) for part in _vector(d, source)]
    address, known = d.address(target)
    space, dtype = space or known, DTYPES[kind]

    def store(state, where):
        addresses = address(state, where)
        name = space or generic(state, addresses, where)
        state.store(name, addresses, where, [read(state, where) for read in reads], dtype, space)

    return store


def generic(state, addresses, where):
    """The space of generic addresses."""
    name = space_of(addresses)
    if name is None:
        raise OutOfBoundsError("the generic addresses of one instruction lie in several spaces", state.lanes[where][0])
    return name


def to_space(name, addresses, known):
    """Addresses within a space: as they are if the instruction names it, else without the space's window."""
    return addresses if known else addresses - WINDOW[name]


# ---------------------------------------------------------------------------------------------------
# atomics

UPDATES = {
    "add": lambda old, new: old + new,
    "and": lambda old, new: old & new,
    "or": lambda old, new: old | new,
    "xor": lambda old, new: old ^ new,
    "exch": lambda old, new: new,
    "min": np.minimum,
    "max": np.maximum,
    "inc": lambda old, limit: np.where(old >= limit, 0, old + 1),
    "dec": lambda old, limit: np.where((old == 0) | (old > limit), limit, old - 1),
}


@decodes("atom", "red")
def _atomic(d):
    d.ignore(HINTS | {"noftz"})
    space, kind = d.one_of(("global", "shared", "shared::cta")), d.type()
    space = "shared" if space == "shared::cta" else space
    operation = d.one_of([*UPDATES, "cas"])
    dtype, returns = DTYPES[kind], d.instruction.opcode == "atom"
    if kind in ("bf16", "f16x2", "bf16x2"):
        d.refuse(f"type .{kind}")
    operands = list(d.operands)
    write = d.write(operands.pop(0), kind) if returns else None
    address, known = d.address(operands.pop(0))
    space = space or known
    reads = [d.read(operand, kind) for operand in operands]
    if len(reads) != (2 if operation == "cas" else 1):
        d.refuse(f"{len(d.operands)} operands")

    def execute(state, where):
        addresses = address(state, where)
        name = space or generic(state, addresses, where)
        values = [np.broadcast_to(read(state, where), addresses.shape) for read in reads]

        def update(memory, places):
            # One lane after another: several may meet in one place.
            old = np.empty(places.shape, dtype)
            for lane, place in enumerate(places):
                old[lane] = memory[place]
                if operation == "cas":
                    if old[lane] == values[0][lane]:
                        memory[place] = values[1][lane]
                else:
                    memory[place] = UPDATES[operation](old[lane], values[0][lane])
            return old

        old = state.atomic(name, addresses, where, dtype, update, space)
        if returns:
            write(state, where, old)

    return execute


# ---------------------------------------------------------------------------------------------------
# asynchronous copies: started in groups, there only after a wait


@decodes("cp")
def _copy(d):
    if not d.flag("async"):
        d.refuse("this form")
    if d.flag("commit_group"):
        return lambda state, where: state.copies.commit(where)
    if d.flag("wait_all"):
        return lambda state, where: state.copies.wait(state, where, None)
    if d.flag("wait_group"):
        most = int(d.operands[0].text)
        return lambda state, where: state.copies.wait(state, where, most)
    once = d.one_of(("ca", "cg"))
    d.ignore(HINTS)
    if once is None or not d.flag("shared", "shared::cta") or not d.flag("global"):
        d.refuse("this form")
    target, source, size, *rest = d.operands
    size = int(size.text)
    if size not in ((16,) if once == "cg" else (4, 8, 16)) or len(rest) > 1:
        d.refuse(f"{size} bytes")
    to, _ = d.address(target)
    origin, _ = d.address(source)
    used = d.read(rest[0], "u32") if rest else None

    def execute(state, where):
        targets, sources = to(state, where), origin(state, where)
        counts = np.full(targets.shape, size) if used is None else np.broadcast_to(used(state, where), targets.shape)
        if (counts > size).any():
            raise OutOfBoundsError(f"an asynchronous copy of more than {size} bytes", state.lanes[where][0])
        state.copies.start(state, where, targets, sources, size, counts.astype(np.int64))

    return execute


class Copies:
    """The asynchronous copies of a chunk of blocks that have been started and not yet waited for."""

    def __init__(self, lanes):
        self.committed = np.zeros(lanes, np.int64)
        self.flying = []

    def start(self, state, where, targets, sources, size, counts):
        """Read the sources, and let nobody touch the targets until the copies are waited for.

        What lies beyond ``counts`` bytes of a copy is filled with zeros, and its source is not looked at.
        """
        who = state.who(where)
        shared, memory = state.spaces["shared"], state.spaces["global"]
        offsets = shared.offsets(targets, state.regions("shared", where), size, 1, who)
        contents = np.zeros((len(offsets), size), np.uint8)
        for count in np.unique(counts[counts > 0]):
            chosen = np.flatnonzero(counts == count)
            some = who.only(chosen)
            if (sources[chosen] % size).any():
                raise MisalignedError(
                    f"a copy of {size} bytes from an address that is no multiple of it", some.lanes[0]
                )
            width = next(width for width in (8, 4, 2, 1) if count % width == 0)
            places = memory.offsets(sources[chosen], None, width, 1, some)
            words = memory.load(places, UNSIGNED[width], int(count) // width, some)
            contents[chosen, :count] = np.stack(words, axis=1).view(np.uint8)
            state.count_transfer("global", "ld", sources[chosen], int(count), some.lanes)
        shared.begin_flight(offsets, size, who)
        state.count_transfer("shared", "st", targets, size, who.lanes)
        self.flying.append((who.lanes, self.committed[who.lanes], offsets, contents))

    def commit(self, where):
        """What was started since the last commit becomes a group."""
        self.committed[where] += 1

    def wait(self, state, where, most):
        """Let copies arrive, all but those of the last `most` groups; of None also what is in no group yet."""
        waiting = np.zeros(len(self.committed), bool)
        waiting[where] = True
        still = []
        for lanes, group, offsets, contents in self.flying:
            done = waiting[lanes]
            if most is not None:
                done &= group < self.committed[lanes] - most
            if done.any():
                state.spaces["shared"].land(offsets[done], contents[done], state.who(lanes[done]))
            if not done.all():
                left = ~done
                still.append((lanes[left], group[left], offsets[left], contents[left]))
        self.flying = still


# ---------------------------------------------------------------------------------------------------
# no effect here


@decodes("membar", "fence", "prefetch", "prefetchu")
def _nothing(d):
    # Memory is one and is written in order; fences order nothing that a barrier does not.
    d.words.clear()
    return lambda state, where: None


@decodes("trap")
def _trap(d):
    def execute(state, where):
        raise TrapError("the kernel gave up", state.lanes[where][0])

    return execute
