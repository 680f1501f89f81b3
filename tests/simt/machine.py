"""The machine: runs one kernel's program for all threads of a grid.

Registers are arrays with one number for each lane.  A lane is a thread; blocks begin on multiples of 32, so that
lane // 32 is the warp, and lanes past the end of a block never live.  Each turn takes the lanes that stand
at the earliest instruction and executes it for all of them at once; lanes that a branch parted meet again where
their ways do.
"""

import numpy as np

from . import scalar, transfers, warps  # noqa: F401 (they register their decoders)
from .decoding import Decoding, decode, never_written
from .errors import BarrierError, EndlessError, SimtError, UnknownPtxError
from .memory import START, Space, Who, align, granule_of
from .program import Immediate, Negated, parse
from .transfers import Copies, to_space
from .types import DTYPES

WARP = 32
# Lanes that are run at once, at most, unless one block has more.
CHUNK = 16384
# Instructions that one chunk may take before the kernel counts as endless.
LIMIT = 20_000_000
ALL = slice(None)


class Kernel:
    """A program, ready to run.

    Parameters
    ----------
    ptx : str
    """

    def __init__(self, ptx):
        self.program = parse(ptx)
        self.name = self.program.name
        self.sizes = dict.fromkeys(("shared", "local", "const", "global"), 0)
        self.addresses, self.constants = {}, []
        for variable in self.program.variables.values():
            offset = align(self.sizes[variable.space], variable.alignment)
            self.addresses[variable.name] = variable.space, START[variable.space] + offset
            self.sizes[variable.space] = offset + variable.size
            if variable.space == "global" and self._is_used(variable.name):
                raise UnknownPtxError(f"the machine places no global variables: {variable.name}")
            if variable.space == "const":
                self.constants.append((offset, variable.contents))
        for name, alignment in self.program.dynamic_shared:
            # All dynamic arrays begin where the static ones end.
            self.sizes["shared"] = align(self.sizes["shared"], max(alignment, 16))
            self.addresses[name] = "shared", START["shared"] + self.sizes["shared"]
        for parameter in self.program.parameters:
            self.addresses[parameter.name] = "param", parameter.offset
        self.steps = [self._step(instruction) for instruction in self.program.instructions]
        self.granules = {space: self._granule(space) for space in ("shared", "global")}

    def _step(self, instruction):
        """An instruction as ``(kind, guard, negated, action)``."""
        guard = instruction.guard
        negated = isinstance(guard, Negated)
        register = None if guard is None else (guard.register if negated else guard).number
        opcode = instruction.opcode
        if opcode == "bra":
            target = instruction.operands[0].name
            if target not in self.program.labels or set(instruction.modifiers) - {"uni"}:
                raise UnknownPtxError(f"no such label: {instruction.text}", instruction.line)
            return "branch", register, negated, self.program.labels[target]
        if opcode in ("ret", "exit"):
            return "exit", register, negated, None
        if warps.is_together(instruction):
            decoding = Decoding(instruction, self.addresses)
            mask = warps.member_mask(instruction, decoding)
            action = None if opcode == "bar" else decode(instruction, self.addresses)
            return "warp", register, negated, (mask, action)
        if opcode in ("bar", "barrier"):
            return "barrier", register, negated, self._barrier(instruction)
        return "plain", register, negated, decode(instruction, self.addresses)

    def _barrier(self, instruction):
        """The number of the barrier."""
        words = tuple(word for word in instruction.modifiers if word not in ("cta", "aligned"))
        if words != ("sync",) or len(instruction.operands) != 1 or not isinstance(instruction.operands[0], Immediate):
            raise UnknownPtxError(f"the machine does not know this barrier: {instruction.text}", instruction.line)
        return int(instruction.operands[0].text)

    def _is_used(self, name):
        """Whether an instruction names the variable; Numba declares one that none does."""
        return any(name in instruction.text for instruction in self.program.instructions)

    def _granule(self, space):
        """How finely accesses to the space are remembered: its narrowest access, at most a word."""
        widths = []
        for instruction in self.program.instructions:
            if instruction.opcode in ("ld", "st", "atom", "red", "ldu"):
                named = {"shared", "global", "local", "param", "const"} & set(instruction.modifiers)
                if not named or space in named:
                    widths += [DTYPES[word].itemsize for word in instruction.modifiers if word in DTYPES]
        return granule_of(widths)

    def run(
        self,
        memory,
        grid,
        block,
        arguments,
        dynamic_shared=0,
        counters=None,
        order="together",
        seed=0,
        limit=LIMIT,
        special=None,
        only=None,
    ):
        """Execute the kernel.

        Parameters
        ----------
        memory : GlobalMemory
        grid, block : tuple of int
            Extents, up to three.
        arguments : sequence of number
            One for each parameter of the program: addresses as integers.
        dynamic_shared : int
            Bytes of shared memory beyond what the program declares.
        counters : Counters, optional
        order : {'together', 'warps'}
            Whether all lanes advance side by side, or one warp, drawn anew each time, until it must wait.
        seed : int
            Of the draws.
        limit : int
            Steps after which the kernel is taken to be endless.
        special : dict, optional
            Numbers that special registers hold instead of their own.
        only : sequence of int, optional
            Numbers of the blocks to run, of all in the grid; the others are left out.

        Returns
        -------
        int
            Steps that the longest chunk took.

        Raises
        ------
        SimtError
        """
        grid, block = ((*extents, 1, 1)[:3] for extents in (grid, block))
        threads = int(np.prod(block))
        if not 0 < threads <= 1024 or min(grid) < 1:
            raise SimtError(f"a grid of {grid} blocks of {block} threads cannot be launched")
        blocks = int(np.prod(grid))
        lanes_of_block = align(threads, WARP)
        at_once = max(1, CHUNK // lanes_of_block)
        buffer = self._argument_buffer(arguments)
        memory.remember(self.granules["global"])
        random = np.random.default_rng(seed) if order == "warps" else None
        chunks = np.arange(blocks) if only is None else np.asarray(only)
        if random is not None:
            chunks = random.permutation(chunks)
        if counters is not None:
            counters.launches += 1
        last, longest = memory.since, 0
        with np.errstate(all="ignore"):
            for begin in range(0, len(chunks), at_once):
                state = State(
                    self, memory, chunks[begin : begin + at_once], grid, block, buffer, dynamic_shared, counters
                )
                for name, number in (special or {}).items():
                    state.special[name] = np.full(state.total, number)
                longest = max(longest, Run(self, state, random, limit).go())
                last = max(last, int(state.epoch.max()))
        # What the next launch does is ordered after all of this.
        memory.since = last + 1
        return longest

    def _argument_buffer(self, arguments):
        parameters = self.program.parameters
        if len(arguments) != len(parameters):
            raise SimtError(f"{self.name} takes {len(parameters)} arguments, received {len(arguments)}")
        buffer = np.zeros(max(1, self.program.parameter_bytes), np.uint8)
        for parameter, argument in zip(parameters, arguments, strict=True):
            dtype = DTYPES[parameter.type]
            if parameter.size != dtype.itemsize:
                raise SimtError(f"parameter {parameter.name} is a structure, which the machine does not pass")
            number = np.array(argument).astype(dtype) if dtype.kind == "f" else _bits(argument, dtype)
            buffer[parameter.offset : parameter.offset + dtype.itemsize] = np.frombuffer(number.tobytes(), np.uint8)
        return buffer


def _bits(number, dtype):
    if isinstance(number, np.generic) and number.dtype.kind == "f":
        raise SimtError(f"a floating number is passed for an integer parameter: {number!r}")
    return np.array(int(number) & ((1 << 8 * dtype.itemsize) - 1), np.uint64).astype(f"u{dtype.itemsize}")


class State:
    """Registers, memory and places of all lanes of a chunk of blocks."""

    def __init__(self, kernel, memory, blocks, grid, block, arguments, dynamic_shared, counters):
        self.kernel, self.counters = kernel, counters
        threads = int(np.prod(block))
        per_block = align(threads, WARP)
        self.per_block, self.blocks, self.grid, self.extents = per_block, blocks, grid, block
        self.total = len(blocks) * per_block
        self.lanes = np.arange(self.total)
        self.arguments = arguments
        self.block_of_lane = np.repeat(np.arange(len(blocks)), per_block)
        self.thread = np.tile(np.arange(per_block), len(blocks))
        self.live = self.thread < threads
        number = blocks[self.block_of_lane]
        self.special = self._special(number, grid, block)
        self.special["%dynamic_smem_size"] = np.full(self.total, dynamic_shared)
        self.special["%total_smem_size"] = np.full(self.total, kernel.sizes["shared"] + dynamic_shared)
        self.values = [None] * len(kernel.program.registers)
        self.spaces = {
            "global": memory,
            "shared": Space("shared", len(blocks), kernel.sizes["shared"] + dynamic_shared, races=True),
            "local": Space("local", self.total, kernel.sizes["local"]) if kernel.sizes["local"] else None,
            "const": self._constants(kernel),
        }
        self.spaces["shared"].remember(kernel.granules["shared"])
        self.copies = Copies(self.total)
        # Who accesses memory, and when: barriers of the block and of the warp passed so far.
        self.number = (number * per_block + self.thread).astype(np.int32)
        self.block_number = number.astype(np.int32)
        self.epoch = np.full(self.total, memory.since, np.int32)
        self.phase = np.zeros(self.total, np.int32)
        self.spaces["shared"].since = memory.since
        self.line = 0

    def _special(self, number, grid, block):
        special = {}
        for axis, name in enumerate("xyz"):
            stride, grid_stride = int(np.prod(block[:axis])), int(np.prod(grid[:axis]))
            special[f"%tid.{name}"] = self.thread // stride % block[axis]
            special[f"%ctaid.{name}"] = number // grid_stride % grid[axis]
            special[f"%ntid.{name}"] = np.full(self.total, block[axis])
            special[f"%nctaid.{name}"] = np.full(self.total, grid[axis])
        lane = self.thread % WARP
        one = np.uint64(1) << lane.astype(np.uint64)
        special["%laneid"], special["%warpid"] = lane, self.thread // WARP
        special["%nwarpid"] = np.full(self.total, self.per_block // WARP)
        special["%lanemask_eq"], special["%lanemask_lt"] = one, one - np.uint64(1)
        special["%lanemask_le"] = (one << np.uint64(1)) - np.uint64(1)
        special["%lanemask_ge"] = np.uint64(0xFFFFFFFF) - special["%lanemask_lt"]
        special["%lanemask_gt"] = np.uint64(0xFFFFFFFF) - special["%lanemask_le"]
        return special

    def _constants(self, kernel):
        if not kernel.sizes["const"]:
            return None
        space = Space("const", 1, kernel.sizes["const"])
        for offset, contents in kernel.constants:
            space.bytes[offset : offset + contents.size] = contents
            space.flags[offset : offset + contents.size] = 3
        return space

    # -- registers

    def register(self, number):
        """The bits of a register, of all lanes."""
        values = self.values[number]
        if values is None:
            raise never_written(self.kernel.program.registers[number][0])
        return values

    def writable(self, number, dtype):
        if self.values[number] is None:
            # What nothing wrote is no number: all bits are set.
            self.values[number] = np.ones(self.total, bool) if dtype == np.bool_ else np.full(
                self.total, np.iinfo(dtype).max, dtype
            )  # fmt: skip
        return self.values[number]

    def spread(self, number, where):
        """A number for each of the lanes."""
        return np.full(self.lanes[where].shape, number)

    # -- memory

    def who(self, where):
        """The lanes as those who access memory."""
        return Who(
            self.lanes[where], self.number[where], self.block_number[where], self.epoch[where], self.phase[where]
        )

    def regions(self, space, where):
        """Which region of the space each lane sees."""
        if space == "shared":
            return self.block_of_lane[where]
        return self.lanes[where] if space == "local" else None

    def _enter(self, name, addresses, where, width, count, known):
        space = self.spaces[name]
        if space is None:
            raise SimtError(f"the kernel has no {name} memory", self.lanes[where][0])
        addresses = to_space(name, addresses, known)
        who = self.who(where)
        return space, addresses, who, space.offsets(addresses, self.regions(name, where), width, count, who)

    def load(self, name, addresses, where, dtype, count, known):
        space, addresses, who, offsets = self._enter(name, addresses, where, dtype.itemsize, count, known)
        self.count_transfer(name, "ld", addresses, dtype.itemsize * count, who.lanes)
        return space.load(offsets, dtype, count, who)

    def store(self, name, addresses, where, numbers, dtype, known):
        space, addresses, who, offsets = self._enter(name, addresses, where, dtype.itemsize, len(numbers), known)
        self.count_transfer(name, "st", addresses, dtype.itemsize * len(numbers), who.lanes)
        space.store(offsets, numbers, dtype, who)

    def atomic(self, name, addresses, where, dtype, update, known):
        space, addresses, who, offsets = self._enter(name, addresses, where, dtype.itemsize, 1, known)
        self.count_transfer(name, "st", addresses, dtype.itemsize, who.lanes)
        return space.atomic(offsets, dtype, who, update)

    def count_transfer(self, space, direction, addresses, size, lanes):
        if self.counters is not None:
            self.counters.transfer(space, direction, self.line, addresses, size, lanes)

    # -- where

    def place(self, lane):
        """Block and thread of a lane, each as three indices."""
        block, thread = (int(self.special[f"%{name}.x"][lane]) for name in ("ctaid", "tid"))
        rest = [[int(self.special[f"%{name}.{axis}"][lane]) for axis in "yz"] for name in ("ctaid", "tid")]
        return (block, *rest[0]), (thread, *rest[1])


class Run:
    """One chunk of blocks on its way through the program."""

    def __init__(self, kernel, state, random, limit):
        self.kernel, self.state, self.random, self.left = kernel, state, random, limit
        self.counter = np.zeros(state.total, np.int32)
        self.waiting = np.zeros(state.total, bool)  # at a barrier of the block
        self.parked = np.zeros(state.total, bool)  # at an instruction that other lanes of the warp have to reach
        self.warp = None

    def go(self):
        """Run all lanes to their ends; the number of steps that it took."""
        begin = self.left
        while self._turn():
            pass
        return begin - self.left

    def _turn(self):
        """Run some lanes until they must stop; False if all have ended."""
        state = self.state
        ready = np.flatnonzero(state.live & ~self.waiting & ~self.parked)
        if not len(ready):
            return self._release()
        if self.random is not None:
            if self.warp is None or not (ready >> 5 == self.warp).any():
                self.warp = self.random.choice(np.unique(ready >> 5))
            ready = ready[ready >> 5 == self.warp]
        counters = self.counter[ready]
        first = int(counters.min())
        here = counters == first
        # Those that stand at `meeting` or before wait there for these to arrive.
        meeting = int(counters[~here].min()) if not here.all() else len(self.kernel.steps)
        group = ready[here]
        where = ALL if len(group) == state.total else group
        step = first
        try:
            self._advance(first, meeting, group, where)
        except SimtError as error:
            step = self.step
            instruction = self.kernel.program.instructions[step]
            if error.instruction is None:
                lane = error.lane if error.lane is not None else int(group[0])
                error.locate(self.kernel.name, instruction, *state.place(lane))
            raise
        return True

    def _advance(self, step, meeting, group, where):
        state, steps, instructions = self.state, self.kernel.steps, self.kernel.program.instructions
        while step < meeting:
            self.step = step
            self.left -= 1
            if self.left < 0:
                raise EndlessError("the kernel does not end", int(group[0]))
            kind, guard, negated, action = steps[step]
            taking = where
            if guard is not None:
                holds = state.register(guard)[where]
                if negated:
                    holds = ~holds
                if not holds.any():
                    taking = None
                elif not holds.all():
                    taking = group[holds]
            if state.counters is not None:
                self._count(instructions[step], taking, group)
            if kind == "plain":
                if taking is not None:
                    action(state, taking)
                step += 1
            elif kind == "branch":
                if taking is None:
                    step += 1
                elif taking is where:
                    step = action
                else:
                    self.counter[group] = step + 1
                    self.counter[taking] = action
                    return
            else:
                self.counter[group] = step + 1
                if taking is not None:
                    if kind == "exit":
                        state.live[taking] = False
                    elif kind == "barrier":
                        self.counter[taking] = step
                        self.waiting[taking] = True
                    else:
                        if self._together(step, taking, *action) and taking is where:
                            step += 1
                            continue
                    return
                step += 1
        self.counter[group] = step
        if step >= len(steps):
            raise BarrierError("the kernel runs past its end", int(group[0]))

    def _count(self, instruction, taking, group):
        self.state.line = instruction.line
        if taking is None:
            return
        lanes = self.state.lanes[taking]
        kind = ".".join((instruction.opcode, *instruction.modifiers))
        self.state.counters.instruction(kind, len(lanes), int(np.count_nonzero(np.diff(lanes >> 5, prepend=-1))))

    def _together(self, step, taking, mask, action):
        """Execute an instruction of whole warps for those that are complete; False if some are not."""
        state = self.state
        if taking is ALL and state.live.all() and (mask is None or np.all(mask(state, ALL) == 0xFFFFFFFF)):
            self._execute_together(action, ALL)
            return True
        lanes = np.union1d(state.lanes[taking], np.flatnonzero(self.parked & (self.counter == step)))
        arrived = warps.bits_by_warp(lanes, state.total)
        alive = warps.bits_by_warp(np.flatnonzero(state.live), state.total)
        named = np.full(len(lanes), 0xFFFFFFFF, np.uint32)
        if mask is not None:
            named = np.broadcast_to(mask(state, lanes), lanes.shape)
            own = named >> (lanes & 31).astype(np.uint32) & np.uint32(1)
            if not own.all():
                raise BarrierError("a lane that the mask does not name", int(lanes[np.argmin(own)]))
        elif (arrived[lanes >> 5] != 0xFFFFFFFF).any() and (alive[lanes >> 5] != 0xFFFFFFFF).any():
            raise BarrierError("an instruction of whole warps, some lanes of which have left", int(lanes[0]))
        missing = (named & alive[lanes >> 5] & ~arrived[lanes >> 5]) != 0
        done, rest = lanes[~missing], lanes[missing]
        if len(done):
            self.parked[done] = False
            self.counter[done] = step + 1
            self._execute_together(action, ALL if len(done) == state.total else done)
        self.parked[rest] = True
        self.counter[rest] = step
        return not len(rest) and len(done) == len(state.lanes[taking])

    def _execute_together(self, action, where):
        if action is None:  # bar.warp.sync
            self.state.phase[where] += 1
        else:
            action(self.state, where)

    def _release(self):
        """Nobody can go on: let pass the blocks that stand at a barrier; False if all lanes have ended."""
        state = self.state
        if not state.live.any():
            return False
        if self.parked.any():
            lane = int(np.argmax(self.parked))
            self._fail("lanes of the warp that the mask names never arrive", lane)
        threads = int(np.prod(state.extents))
        standing = self.waiting.reshape(-1, state.per_block)
        for block in np.flatnonzero(standing.any(axis=1)):
            lanes = block * state.per_block + np.flatnonzero(standing[block])
            if len(lanes) != threads:
                gone = threads - len(lanes)
                self._fail(f"{gone} of {threads} threads of the block end without reaching this barrier", int(lanes[0]))
            at = self.counter[lanes]
            if (at != at[0]).any():
                # Different instructions may be one barrier, but the lanes of a warp must be at the same.
                by_warp = at.reshape(-1, WARP) if threads % WARP == 0 else at[np.newaxis]
                numbers = {self.kernel.steps[int(step)][3] for step in np.unique(at)}
                if (by_warp != by_warp[:, :1]).any() or len(numbers) > 1:
                    lane = int(lanes[np.argmax(at != at[0])])
                    self._fail("threads of the block wait at different barriers", lane)
        released = self.waiting.copy()
        self.waiting[:] = False
        self.counter[released] += 1
        state.epoch[released] += 1
        return True

    def _fail(self, message, lane):
        instruction = self.kernel.program.instructions[int(self.counter[lane])]
        raise BarrierError(message, lane).locate(self.kernel.name, instruction, *self.state.place(lane))
