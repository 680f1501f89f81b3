"""Machine code as NVIDIA's disassembler writes it: its loops, and what stands in the one that counts.

The instructions' names are those of the CUDA binary utilities' documentation.
"""

import re
from collections import Counter
from typing import NamedTuple

MULTIPLY_ADDS = ("FFMA", "FFMA2", "DFMA", "HFMA2")
TENSOR = ("HMMA", "DMMA", "HGMMA", "QGMMA", "IMMA")
# Accesses to memory, and the letters that say which.
GLOBAL = {"LDG": "loads", "LDGSTS": "copies", "STG": "stores"}
SHARED = {"LDS": "loads", "LDSM": "loads", "STS": "stores"}
LOCAL = ("LDL", "STL")

_INTEGER = re.compile(
    r"(U?(IMAD|IADD|IADD3|LEA|SHF|LOP3|ISETP|SEL|PLOP3|IABS|IMNMX|PRMT|SGXT|FLO|POPC|BMSK)"
    r"|VIADD|VIMNMX|VIADDMNMX|I2F|F2I|R2P|P2R|I2I|UIADD364|IADD64|LEA3)$"
)
_LABEL = re.compile(r"^\s*(\.L\w*):")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
_BRANCH = re.compile(r"\bBRA\b.*?(\.L\w*)")


class Loop(NamedTuple):
    """A run of instructions that ends with a branch back to its first: places of both in the code."""

    begin: int
    end: int


class Code:
    """The instructions of one kernel.

    Parameters
    ----------
    text : str
        What ``nvdisasm --print-code`` prints for it.

    Attributes
    ----------
    instructions : list of str
        Without what only fills up the end.
    loops : list of Loop
    """

    def __init__(self, text):
        self.instructions, labels = [], {}
        for line in text.splitlines():
            label, instruction = _LABEL.match(line), _INSTRUCTION.match(line)
            if label:
                labels[label[1]] = len(self.instructions)
            elif instruction:
                self.instructions.append(instruction[1])
        self.loops = []
        for place, instruction in enumerate(self.instructions):
            branch = _BRANCH.search(instruction)
            # Code ends with a branch to itself, which nothing reaches.
            if branch and labels.get(branch[1], place) < place:
                self.loops.append(Loop(labels[branch[1]], place))

    @property
    def size(self):
        """Instructions up to the last that does something."""
        return sum(name_of(instruction) != "NOP" for instruction in self.instructions)

    def hot_loop(self):
        """The loop that the kernel spends its time in, as far as the code tells.

        The smallest of those with at least half of the most multiply-adds that any has, tensor cores' before others:
        what stands around it may hold a few more of them.  Where no loop has any, the largest of those that hold no
        other loop.  None where there is no loop.
        """
        if not self.loops:
            return None
        for names in (TENSOR, MULTIPLY_ADDS):
            numbers = {loop: _sum(count(self.inside(loop)), names) for loop in self.loops}
            most = max(numbers.values())
            if most:
                return min((loop for loop in self.loops if 2 * numbers[loop] >= most), key=_length)
        innermost = [loop for loop in self.loops if not any(_holds(loop, other) for other in self.loops)]
        return max(innermost, key=_length)

    def inside(self, loop):
        """Its instructions."""
        return self.instructions[loop.begin : loop.end + 1]


def _length(loop):
    return loop.end - loop.begin


def _holds(loop, other):
    return loop != other and loop.begin <= other.begin and other.end <= loop.end


def name_of(instruction):
    """The name without its guard and its modifiers.

    Examples
    --------
    >>> name_of("@!P0 LDG.E.128.CONSTANT R4, [R2.64]")
    'LDG'
    """
    return opcode_of(instruction).split(".")[0]


def opcode_of(instruction):
    """The name with its modifiers, without its guard."""
    words = instruction.split()
    return words[1] if words[0].startswith("@") else words[0]


def width_of(opcode):
    """How many bits a lane moves, or for matrices of `ldmatrix` how many of them.

    Examples
    --------
    >>> [width_of(opcode) for opcode in ("LDS.128", "LDG.E", "LDG.E.U8", "LDSM.16.M88.4")]
    ['128', '32', '8', 'x4']
    """
    words = opcode.split(".")[1:]
    if opcode.startswith("LDSM"):
        return f"x{words[-1] if words[-1] in ('2', '4') else 1}"
    for word in words:
        if word in ("128", "64"):
            return word
        if word in ("U8", "S8"):
            return "8"
        if word in ("U16", "S16"):
            return "16"
    return "32"


def count(instructions):
    """How often each name occurs."""
    return Counter(map(name_of, instructions))


def is_integer(instruction):
    """Whether it is integer arithmetic: addresses, counters, comparisons; not a move that is written as one."""
    opcode = opcode_of(instruction)
    return bool(_INTEGER.match(opcode.split(".")[0])) and not opcode.startswith(("IMAD.MOV", "UIMAD.MOV"))


def widths(instructions, names):
    """The widths of accesses as text, widest first: ``"8 x 128, 1 x 32"``; empty where there is none."""
    found = Counter(width_of(opcode_of(one)) for one in instructions if name_of(one) in names)
    order = sorted(found.items(), key=lambda item: -int(item[0].lstrip("x")))
    return ", ".join(f"{number} x {width}" for width, number in order)


def narrowest(text):
    """The narrowest width in what `widths` gives, or None.

    Examples
    --------
    >>> narrowest("8 x 128, 1 x 32")
    32
    """
    return int(text.rsplit(" x ", 1)[1].lstrip("x")) if text else None


def figures(text):
    """What the code of one kernel tells, as a dictionary of plain values.

    Parameters
    ----------
    text : str
        What ``nvdisasm --print-code`` prints for it.

    Returns
    -------
    dict
        ``code`` (instructions), ``local`` (accesses to local memory); of the hot loop, zero where there is none:
        ``loop`` (instructions), ``loop_local`` (of them, accesses to local memory), ``multiply_adds`` and ``tensor``
        (their numbers), ``share`` (of both in the loop), ``integers``, ``barriers``; and widths of accesses, as of
        `widths`: ``global_loads``, ``global_copies``, ``global_stores`` of the whole kernel, ``shared_loads`` and
        ``shared_stores`` of the loop.
    """
    code = Code(text)
    hot = code.hot_loop()
    inside = code.inside(hot) if hot else []
    counts = count(inside)
    multiply_adds, tensor = _sum(counts, MULTIPLY_ADDS), _sum(counts, TENSOR)

    def accesses(instructions, names, kind):
        return widths(instructions, [name for name, what in names.items() if what == kind])

    return {
        "code": code.size,
        "local": _sum(count(code.instructions), LOCAL),
        "loop": len(inside),
        "loop_local": _sum(counts, LOCAL),
        "multiply_adds": multiply_adds,
        "tensor": tensor,
        "share": round((multiply_adds + tensor) / len(inside), 4) if inside else 0.0,
        "integers": sum(map(is_integer, inside)),
        "barriers": counts["BAR"],
        "global_loads": accesses(code.instructions, GLOBAL, "loads"),
        "global_copies": accesses(code.instructions, GLOBAL, "copies"),
        "global_stores": accesses(code.instructions, GLOBAL, "stores"),
        "shared_loads": accesses(inside, SHARED, "loads"),
        "shared_stores": accesses(inside, SHARED, "stores"),
    }


def _sum(counts, names):
    return sum(counts[name] for name in names)
