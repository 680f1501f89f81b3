"""The parser: PTX text becomes a program of instructions whose operands are resolved.

What it does not know it refuses, with the line.
"""

import re
from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from .errors import UnknownPtxError
from .types import DTYPES, immediate

IDENTIFIER = r"[A-Za-z_$%][\w$]*"
NUMBER = r"[+-]?(?:0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|\d+\.\d*(?:[eE][+-]?\d+)?|\d+U?)"
AXES = [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
LANES = [f"%lanemask_{relation}" for relation in ("eq", "lt", "le", "gt", "ge")]
SPECIAL = {*AXES, *LANES, "%laneid", "%warpid", "%nwarpid", "%dynamic_smem_size", "%total_smem_size"}


class Register(NamedTuple):
    """A register, by its number in the program."""

    number: int
    type: str


class Negated(NamedTuple):
    """A predicate register, negated."""

    register: Register


class Immediate(NamedTuple):
    """A literal; the instruction says of what type."""

    text: str


class Special(NamedTuple):
    """A register that the hardware fills, as the thread's index."""

    name: str


class Symbol(NamedTuple):
    """A label, a parameter or a variable."""

    name: str


class Address(NamedTuple):
    """``[base + offset]``."""

    base: object
    offset: int


class Vector(NamedTuple):
    """``{a, b, ...}``."""

    parts: tuple


class Pair(NamedTuple):
    """``a|b``: two results."""

    first: object
    second: object


class Sink(NamedTuple):
    """``_``: a result that nobody wants."""


class Instruction(NamedTuple):
    """One instruction: `opcode` is its first word, `modifiers` the words after it."""

    guard: object
    opcode: str
    modifiers: tuple
    operands: tuple
    line: int
    text: str


class Variable(NamedTuple):
    """Memory that the program declares; `contents` is None where it is not initialised."""

    name: str
    space: str
    alignment: int
    size: int
    contents: object


class Parameter(NamedTuple):
    """One argument of the kernel, at `offset` bytes of the argument buffer."""

    name: str
    type: str
    offset: int
    size: int


class Program(NamedTuple):
    """One kernel."""

    name: str
    target: str
    parameters: tuple
    parameter_bytes: int
    registers: tuple
    variables: dict
    dynamic_shared: tuple
    labels: dict
    instructions: tuple


def parse(ptx):
    """Read the PTX of one kernel.

    Parameters
    ----------
    ptx : str

    Returns
    -------
    Program

    Raises
    ------
    UnknownPtxError
        Naming the line that it does not know.
    """
    return _Parser(ptx).program()


def _blank_comments(ptx):
    """The text with comments and line information replaced by spaces, so that line numbers stay."""
    return re.sub(
        r"//[^\n]*|/\*.*?\*/|^[ \t]*\.(?:loc|file)\b[^\n]*",
        lambda match: re.sub(r"[^\n]", " ", match[0]),
        ptx,
        flags=re.DOTALL | re.MULTILINE,
    )


class _Parser:
    MODULE = re.compile(
        r"\s*(?:(?P<directive>\.(?:version|target|address_size)\b[^\n]*)"
        r"|(?P<head>(?:\.(?:visible|weak|extern)\s+)*\.(?P<kind>entry|func)\b[^{;]*)(?P<open>[{;])"
        r"|(?P<declaration>\.[^;{]*(?:\{[^}]*\})?[^;{]*);)"
    )
    BODY = re.compile(
        r"\s*(?:(?P<open>\{)|(?P<close>\})|(?P<label>[\w$]+)\s*:(?!:)"
        r"|(?P<statement>[^;{}]*(?:\{[^{}]*\}[^;{}]*)*);)"
    )
    HEAD = re.compile(r"\.entry\s+([\w$]+)\s*(?:\((.*?)\))?\s*((?:\.\w+[^.()]*)*)$", re.DOTALL)
    PARAMETER = re.compile(
        r"\.param\s+(?:\.align\s+(?P<alignment>\d+)\s+)?\.(?P<type>\w+)\s+"
        r"(?:\.ptr\s*(?:\.\w+\s*)*(?:\.align\s+\d+\s+)?)?(?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?$"
    )
    VARIABLE = re.compile(
        r"(?P<linkage>(?:\.(?:visible|weak|extern|common)\s+)*)\.(?P<space>global|const|shared|local)\s+"
        r"(?:\.align\s+(?P<alignment>\d+)\s+)?\.(?P<type>\w+)\s+(?P<name>[\w$]+)"
        r"(?P<count>\[\d*\])?(?:\s*=\s*(?P<contents>.*))?$",
        re.DOTALL,
    )

    def __init__(self, ptx):
        self.text = _blank_comments(ptx)
        self.newlines = [match.start() for match in re.finditer("\n", self.text)]
        self.target = ""
        self.variables, self.dynamic = {}, []
        self.registers, self.scopes = [], [{}]
        self.labels, self.instructions = {}, []

    def line(self, place):
        return bisect_right(self.newlines, place) + 1

    def refuse(self, what, place):
        raise UnknownPtxError(f"the parser does not know {what!r}", self.line(place))

    def program(self):
        place, kernel = 0, None
        while self.text[place:].strip():
            match = self.MODULE.match(self.text, place)
            if match is None:
                rest = self.text[place:].lstrip()
                self.refuse(rest.split("\n")[0], len(self.text) - len(rest))
            start = match.end() - len(match[0].lstrip())
            place = match.end()
            if match["directive"]:
                if match["directive"].startswith(".target"):
                    self.target = match["directive"].split()[1].rstrip(",")
            elif match["declaration"]:
                self.declare_variable(match["declaration"], start)
            else:
                if match["kind"] == "func" or match["open"] == ";":
                    self.refuse(match["head"].split("(")[0].strip(), start)
                if kernel is not None:
                    raise UnknownPtxError("one kernel for each program is expected, here is another", self.line(start))
                kernel = self.head(match["head"], start)
                place = self.body(place)
        if kernel is None:
            raise UnknownPtxError("there is no kernel in this PTX")
        name, parameters, size = kernel
        return Program(
            name, self.target, parameters, size, tuple(self.registers), self.variables, tuple(self.dynamic),
            self.labels, tuple(self.instructions),
        )  # fmt: skip

    def head(self, text, place):
        """Name, parameters and size of the argument buffer."""
        match = self.HEAD.search(" ".join(text.split()))
        if match is None:
            self.refuse(text, place)
        for directive in re.findall(r"\.(\w+)", match[3]):
            if directive not in ("maxntid", "minnctapersm", "reqntid", "maxnreg"):
                self.refuse(f".{directive}", place)
        parameters, offset = [], 0
        for declaration in filter(None, map(str.strip, (match[2] or "").split(","))):
            found = self.PARAMETER.match(declaration)
            if found is None or found["type"] not in DTYPES:
                self.refuse(declaration, place)
            width = DTYPES[found["type"]].itemsize
            alignment, size = int(found["alignment"] or width), width * int(found["count"] or 1)
            offset = -(-offset // alignment) * alignment
            parameters.append(Parameter(found["name"], found["type"], offset, size))
            offset += size
        return match[1], tuple(parameters), offset

    def declare_variable(self, text, place):
        text = " ".join(text.split())
        match = self.VARIABLE.match(text)
        if match is None or match["type"] not in DTYPES:
            self.refuse(text, place)
        dtype, name, space = DTYPES[match["type"]], match["name"], match["space"]
        if "extern" in match["linkage"]:
            if space != "shared" or match["count"] != "[]":
                self.refuse(text, place)
            self.dynamic.append((name, int(match["alignment"] or dtype.itemsize)))
            return
        count = int(match["count"][1:-1]) if match["count"] else 1
        contents = None
        if match["contents"]:
            numbers = [part.strip() for part in match["contents"].strip("{} ").split(",")]
            contents = np.zeros(count, dtype)
            contents[: len(numbers)] = [immediate(number, match["type"]) for number in numbers]
            contents = contents.view(np.uint8)
        elif space in ("global", "const"):
            contents = np.zeros(count * dtype.itemsize, np.uint8)
        alignment = int(match["alignment"] or dtype.itemsize)
        self.variables[name] = Variable(name, space, alignment, count * dtype.itemsize, contents)

    def body(self, place):
        while self.scopes:
            match = self.BODY.match(self.text, place)
            if match is None:
                self.refuse(self.text[place:].strip().split("\n")[0], place)
            start = match.end() - len(match[0].lstrip())
            place = match.end()
            if match["open"]:
                self.scopes.append({})
            elif match["close"]:
                self.scopes.pop()
            elif match["label"]:
                self.labels[match["label"]] = len(self.instructions)
            elif match["statement"]:
                self.statement(" ".join(match["statement"].split()), start)
        return place

    def statement(self, text, place):
        if text.startswith(".reg"):
            self.declare_registers(text, place)
        elif text.startswith((".local", ".shared")):
            self.declare_variable(text, place)
        elif text.startswith("."):
            if not text.startswith(".pragma"):
                self.refuse(text, place)
        else:
            self.instruction(text, place)

    def declare_registers(self, text, place):
        match = re.match(r"\.reg\s+\.(\w+)\s+(.*)$", text)
        if match is None or match[1] not in DTYPES:
            self.refuse(text, place)
        for name in match[2].split(","):
            found = re.match(rf"({IDENTIFIER})(?:<(\d+)>)?$", name.strip())
            if found is None:
                self.refuse(text, place)
            names = [f"{found[1]}{number}" for number in range(int(found[2]))] if found[2] else [found[1]]
            for one in names:
                self.scopes[-1][one] = Register(len(self.registers), match[1])
                self.registers.append((one, match[1]))

    def instruction(self, text, place):
        match = re.match(r"(?:@(!?)([\w$%]+)\s+)?([a-z]\w*)((?:\.[\w:]+)*)(?:\s+(.*))?$", text)
        if match is None:
            self.refuse(text, place)
        guard = None
        if match[2]:
            guard = self.register(match[2])
            if guard is None or guard.type != "pred":
                self.refuse(text, place)
            guard = Negated(guard) if match[1] else guard
        operands = tuple(self.operand(part, place) for part in _split(match[5] or ""))
        modifiers = tuple(match[4].split(".")[1:])
        self.instructions.append(Instruction(guard, match[3], modifiers, operands, self.line(place), text))

    def register(self, name):
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def operand(self, text, place):
        register = self.register(text)
        if register is not None:
            return register
        if text == "_":
            return Sink()
        if text.startswith("{") and text.endswith("}"):
            return Vector(tuple(self.operand(part, place) for part in _split(text[1:-1])))
        if text.startswith("[") and text.endswith("]"):
            return self.address(text[1:-1].replace(" ", ""), place)
        if text.startswith("!") and self.register(text[1:]):
            return Negated(self.register(text[1:]))
        if "|" in text:
            first, second = text.split("|")
            return Pair(self.operand(first.strip(), place), self.operand(second.strip(), place))
        if text in SPECIAL:
            return Special(text)
        if re.fullmatch(NUMBER, text):
            return Immediate(text)
        if re.fullmatch(r"[A-Za-z_$][\w$]*", text):
            return Symbol(text)
        return self.refuse(text, place)

    def address(self, text, place):
        match = re.match(r"([^+]+?)(?:\+(-?\w+))?$", text)
        if match is None:
            self.refuse(text, place)
        return Address(self.operand(match[1], place), int(match[2] or "0", 0))


def _split(text):
    """Operands, parted by commas outside of brackets and braces."""
    parts = re.findall(r"(?:[^,{}\[\]]|\{[^}]*\}|\[[^\]]*\])+", text)
    return [part.strip() for part in parts]
