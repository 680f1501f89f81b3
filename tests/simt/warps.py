"""Instructions in which the lanes of a warp work together: shuffles, votes, reductions, matrix products.

Here ``execute(state, where)`` is called when all lanes that the instruction names have arrived.
"""

import numpy as np

from .arithmetic import bfloat_to_float, directed, halves, truncate_to_tf32
from .decoding import decodes
from .errors import BarrierError
from .program import Pair, Vector
from .types import DTYPES

LANES = 32
# Opcode, or opcode and a modifier, of what wants its lanes together.
TOGETHER = {"shfl", "vote", "redux", "match", "ldmatrix", "mma"}


def is_together(instruction):
    """Whether lanes of a warp wait for each other at this instruction."""
    return instruction.opcode in TOGETHER or (instruction.opcode == "bar" and instruction.modifiers[:1] == ("warp",))


def member_mask(instruction, decoding):
    """A function that gives the lanes that each lane says take part; None: all of the warp."""
    if instruction.opcode in ("ldmatrix", "mma"):
        return None
    return decoding.read(instruction.operands[-1], "b32")


def bits_by_warp(lanes, total):
    """For each warp of the machine the mask of those of its lanes that are among `lanes`."""
    present = np.zeros(total, bool)
    present[lanes] = True
    return np.packbits(present.reshape(-1, LANES), axis=1, bitorder="little").view(np.uint32)[:, 0]


@decodes("activemask")
def _active_mask(d):
    d.type()
    write = d.write(0, "b32")

    def execute(state, where):
        lanes = state.lanes[where]
        write(state, where, bits_by_warp(lanes, state.total)[lanes >> 5])

    return execute


@decodes("shfl")
def _shuffle(d):
    d.flag("sync")
    kind, mode = d.type(), d.one_of(("up", "down", "bfly", "idx"))
    target, *_ = d.operands
    target, valid = target if isinstance(target, Pair) else (target, None)
    write, write_valid = d.write(target, kind), valid and d.write(valid, "pred")
    source, distance, clamp = d.read(1, kind), d.read(2, "u32"), d.read(3, "u32")

    def execute(state, where):
        lanes = state.lanes[where]
        lane = lanes & 31
        b, c = (np.int64(read(state, where)) for read in (distance, clamp))
        segment, limit = c >> 8 & 31, c & 31
        highest, lowest = lane & segment | limit & ~segment, lane & segment
        # The index of mode idx keeps the bits of the lane's own segment.
        chosen = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": lowest | b & 31 & ~segment}[mode]
        # For mode up the limit is the lowest lane.
        inside = chosen >= highest if mode == "up" else chosen <= highest
        chosen = np.where(inside, chosen, lane)
        origin = lanes - lane + chosen
        present = np.zeros(state.total, bool)
        present[lanes] = True
        if not present[origin].all():
            wrong = int(np.argmin(present[origin]))
            raise BarrierError(f"a shuffle from lane {int(chosen[wrong])}, which takes no part", int(lanes[wrong]))
        write(state, where, source(state, origin))
        if write_valid:
            write_valid(state, where, inside)

    return execute


@decodes("vote")
def _vote(d):
    d.flag("sync")
    mode = d.one_of(("all", "any", "uni", "ballot"))
    d.types()
    read = d.read(1, "pred")
    write = d.write(0, "b32" if mode == "ballot" else "pred")

    def execute(state, where):
        lanes = state.lanes[where]
        holds = np.broadcast_to(read(state, where), lanes.shape)
        warp = lanes >> 5
        votes, voters = bits_by_warp(lanes[holds], state.total)[warp], bits_by_warp(lanes, state.total)[warp]
        everyone, nobody = votes == voters, votes == 0
        write(state, where, {"ballot": votes, "all": everyone, "any": ~nobody, "uni": everyone | nobody}[mode])

    return execute


@decodes("redux")
def _reduce(d):
    d.flag("sync")
    kind = d.type()
    name = d.one_of(("add", "min", "max", "and", "or", "xor"))
    function = {
        "add": np.add, "min": np.minimum, "max": np.maximum,
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    }[name]  # fmt: skip
    read, write = d.read(1, kind), d.write(0, kind)

    def execute(state, where):
        lanes = state.lanes[where]
        numbers = np.broadcast_to(read(state, where), lanes.shape)
        starts = np.flatnonzero(np.diff(lanes >> 5, prepend=-1))
        totals = function.reduceat(numbers, starts)
        write(state, where, np.repeat(totals, np.diff([*starts, len(lanes)])))

    return execute


@decodes("match")
def _match(d):
    d.flag("sync")
    mode = d.one_of(("any",))
    kind = d.type()
    if mode is None:
        d.refuse("this form")
    read, write = d.read(1, kind), d.write(0, "b32")

    def execute(state, where):
        lanes = state.lanes[where]
        numbers = np.broadcast_to(read(state, where), lanes.shape)
        equal = (numbers[:, None] == numbers) & (lanes[:, None] >> 5 == lanes >> 5)
        write(state, where, (equal * (np.uint32(1) << (lanes & 31).astype(np.uint32))).sum(axis=1, dtype=np.uint32))

    return execute


# ---------------------------------------------------------------------------------------------------
# matrices.  Lane l of a warp holds of each matrix the elements of row (or column) l // 4, at places that
# follow from l % 4.

GROUP, PLACE = np.divmod(np.arange(LANES), 4)


def _whole_warps(state, where):
    """The lanes of the machine as rows of warps."""
    lanes = state.lanes[where]
    return lanes[::LANES, np.newaxis] + np.arange(LANES)


@decodes("ldmatrix")
def _load_matrix(d):
    d.flag("sync"), d.flag("aligned"), d.flag("m8n8"), d.type()
    count = {"x1": 1, "x2": 2, "x4": 4}[d.one_of(("x1", "x2", "x4"))]
    transposed = d.flag("trans")
    if not d.flag("shared", "shared::cta") or len(d.operands[0].parts) != count:
        d.refuse("this form")
    writes = [d.write(part, "b32") for part in d.operands[0].parts]
    address, _ = d.address(1)

    def execute(state, where):
        warps = _whole_warps(state, where)
        addresses = address(state, warps.ravel()).reshape(-1, LANES)
        for matrix, write in enumerate(writes):
            # Lanes 8 m to 8 m + 7 say where the rows of matrix m lie: 8 numbers of 16 bits each.
            rows = warps[:, 8 * matrix : 8 * matrix + 8].ravel()
            words = state.load(
                "shared", addresses[:, 8 * matrix : 8 * matrix + 8].ravel(), rows, np.dtype(np.uint32), 4, "shared"
            )
            words = np.stack(words, axis=-1).reshape(-1, 8, 4)
            if transposed:
                elements = np.ascontiguousarray(words).view(np.uint16).transpose(0, 2, 1)
                words = np.ascontiguousarray(elements).view(np.uint32)
            write(state, warps.ravel(), words[:, GROUP, PLACE].ravel())

    return execute


def _tf32_parts(bits):
    return [truncate_to_tf32(bits)]


def _bfloat_parts(bits):
    return [bfloat_to_float(half) for half in halves(bits)]


def _half_parts(bits):
    return [half.view(np.float16) for half in halves(bits)]


# Shape and type of the factors: how a register is read, and how many numbers it holds.
FACTORS = {
    ("m16n8k4", "tf32"): _tf32_parts,
    ("m16n8k8", "tf32"): _tf32_parts,
    ("m16n8k8", "bf16"): _bfloat_parts,
    ("m16n8k16", "bf16"): _bfloat_parts,
    ("m16n8k8", "f16"): _half_parts,
    ("m16n8k16", "f16"): _half_parts,
}


@decodes("mma")
def _multiply_matrices(d):
    """``D = A B + C``, a warp for each product.

    Products are exact and are added in float64.  The sum is then cut to the type of D, toward zero, as
    measurements of the hardware found (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA
    tensor cores", 2021): a result that only holds with rounding to nearest is no result.
    """
    d.flag("sync"), d.flag("aligned")
    shape = d.words.pop(0)
    layout = d.one_of(("row",)), d.one_of(("col",))
    result, left, right, addend = (word for word in d.words)
    d.words.clear()
    if layout != ("row", "col") or left != right or result != addend or result not in ("f32", "f16"):
        d.refuse("this form")
    if result == "f16" and left != "f16":
        d.refuse("this form")
    split, depth = FACTORS[shape, left], int(shape.split("k")[1])
    packed = 1 if left == "tf32" else 2
    vectors = [operand.parts for operand in d.operands if isinstance(operand, Vector)]
    # A has two blocks of 8 rows, B one of 8 columns; along k a register of all lanes holds 4 or 8 numbers.
    steps = depth // (4 * packed)
    outputs, held = (4, "f32") if result == "f32" else (2, "b32")
    if [len(vector) for vector in vectors] != [outputs, 2 * steps, steps, outputs]:
        d.refuse("registers")
    writes = [d.write(part, held) for part in vectors[0]]
    reads_left, reads_right = ([d.read(part, "b32") for part in vector] for vector in vectors[1:3])
    reads_addend = [d.read(part, held) for part in vectors[3]]

    def execute(state, where):
        warps = _whole_warps(state, where)
        count, lanes = len(warps), warps.ravel()
        a, b = np.zeros((count, 16, depth)), np.zeros((count, depth, 8))
        for number, read in enumerate(reads_left):
            step, upper = divmod(number, 2)
            for part, numbers in enumerate(split(read(state, lanes))):
                k = 4 * packed * step + packed * PLACE + part
                a[:, GROUP + 8 * upper, k] = numbers.reshape(count, LANES)
        for step, read in enumerate(reads_right):
            for part, numbers in enumerate(split(read(state, lanes))):
                b[:, 4 * packed * step + packed * PLACE + part, GROUP] = numbers.reshape(count, LANES)
        c = np.zeros((count, 16, 8))
        for rows, columns, numbers in _fragments([read(state, lanes) for read in reads_addend], result):
            c[:, rows, columns] = numbers.reshape(count, LANES)
        total = a @ b + c
        nearest = total.astype(DTYPES[result])
        cut = directed(nearest, np.where(np.isfinite(total), total - nearest, 0), "rz")
        if result == "f32":
            for number, write in enumerate(writes):
                write(state, lanes, cut[:, GROUP + 8 * (number // 2), 2 * PLACE + number % 2].ravel())
        else:
            bits = np.ascontiguousarray(cut).view(np.uint32)
            for number, write in enumerate(writes):
                write(state, lanes, bits[:, GROUP + 8 * number, PLACE].ravel())

    return execute


def _fragments(registers, kind):
    """Rows, columns and numbers of the 16 x 8 matrix that these registers hold."""
    if kind == "f32":
        for number, numbers in enumerate(registers):
            yield GROUP + 8 * (number // 2), 2 * PLACE + number % 2, numbers
    else:
        for number, bits in enumerate(registers):
            for part, numbers in enumerate(_half_parts(bits)):
                yield GROUP + 8 * number, 2 * PLACE + part, numbers
