"""From an instruction to a function that executes it: what all kinds of instructions share.

A module of instructions registers a decoder for each opcode.  The decoder takes the modifiers that it knows
from a `Decoding`, and returns ``execute(state, where)``, where `where` selects the lanes of the machine that
take part: an array of numbers, or ``slice(None)`` if all do.  A modifier that no decoder took is refused.
"""

import numpy as np

from .errors import UninitialisedError, UnknownPtxError
from .program import Address, Immediate, Negated, Register, Sink, Special, Symbol
from .types import DTYPES, UNSIGNED, bits_of, immediate

DECODERS = {}


def decodes(*opcodes):
    """Register a decoder."""

    def register(function):
        for opcode in opcodes:
            DECODERS[opcode] = function
        return function

    return register


def decode(instruction, addresses):
    """The function that executes an instruction.

    Parameters
    ----------
    instruction : Instruction
    addresses : dict
        The address of every variable of the program, in its own space, and the space.
    """
    if instruction.opcode not in DECODERS:
        raise UnknownPtxError(f"the machine does not know {instruction.opcode!r}: {instruction.text}", instruction.line)
    decoding = Decoding(instruction, addresses)
    try:
        execute = DECODERS[instruction.opcode](decoding)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UnknownPtxError(
            f"the machine does not know this form ({type(error).__name__}: {error}): {instruction.text}",
            instruction.line,
        ) from error
    if decoding.words:
        decoding.refuse(f"modifier .{decoding.words[0]}")
    return execute


class Decoding:
    """An instruction whose modifiers are taken one after another."""

    def __init__(self, instruction, addresses):
        self.instruction, self.addresses = instruction, addresses
        self.words = list(instruction.modifiers)
        self.operands = instruction.operands

    def refuse(self, what):
        raise UnknownPtxError(
            f"the machine does not know {what} of {self.instruction.opcode}: {self.instruction.text}",
            self.instruction.line,
        )

    def flag(self, *words):
        """Whether one of the words is a modifier."""
        return self.one_of(words) is not None

    def one_of(self, words, default=None):
        """The first modifier that is among `words`."""
        for word in self.words:
            if word in words:
                self.words.remove(word)
                return word
        return default

    def ignore(self, words):
        """Take modifiers that make no difference here."""
        self.words = [word for word in self.words if word not in words]

    def types(self):
        """All modifiers that are types."""
        types = [word for word in self.words if word in DTYPES]
        self.words = [word for word in self.words if word not in DTYPES]
        return types

    def type(self):
        """The one modifier that is a type."""
        types = self.types()
        if len(types) != 1:
            self.refuse(f"types {types}")
        return types[0]

    # -- operands

    def read(self, operand, kind):
        """A function ``(state, where)`` that gives the operand as numbers of the type `kind`."""
        dtype = DTYPES[kind]
        if isinstance(operand, int):
            operand = self.operands[operand]
        if isinstance(operand, Immediate):
            number = immediate(operand.text, kind)
            return lambda state, where: number
        if isinstance(operand, Symbol):
            _, address = self.addresses[operand.name]
            number = dtype.type(address)
            return lambda state, where: number
        if isinstance(operand, Special):
            name = operand.name
            return lambda state, where: state.special[name][where].astype(dtype)
        negated = isinstance(operand, Negated)
        register = operand.register if negated else operand
        if not isinstance(register, Register):
            self.refuse(f"operand {operand}")
        number, held = register.number, bits_of(register.type)
        if (held == np.bool_) != (dtype == np.bool_) or dtype.itemsize > held.itemsize:
            self.refuse(f"a register of type .{register.type} read as .{kind}")
        if negated:
            return lambda state, where: ~state.register(number)[where]
        if dtype.itemsize == held.itemsize:
            return lambda state, where: state.register(number)[where].view(dtype)
        narrow = UNSIGNED[dtype.itemsize]
        return lambda state, where: state.register(number)[where].astype(narrow).view(dtype)

    def write(self, operand, kind):
        """A function ``(state, where, numbers)`` that puts numbers of the type `kind` into the operand."""
        dtype = DTYPES[kind]
        if isinstance(operand, int):
            operand = self.operands[operand]
        if isinstance(operand, Sink):
            return lambda state, where, numbers: None
        if not isinstance(operand, Register):
            self.refuse(f"result {operand}")
        number, held = operand.number, bits_of(operand.type)
        if (held == np.bool_) != (dtype == np.bool_) or dtype.itemsize > held.itemsize:
            self.refuse(f"a register of type .{operand.type} written as .{kind}")
        if dtype.itemsize == held.itemsize:

            def put(state, where, numbers):
                state.writable(number, held)[where] = np.asarray(numbers, dtype).view(held)

        else:
            # A signed number keeps its sign in the wider register.
            extended = np.dtype(f"{'i' if dtype.kind == 'i' else 'u'}{held.itemsize}")
            narrow = dtype if dtype.kind == "i" else UNSIGNED[dtype.itemsize]

            def put(state, where, numbers):
                bits = np.asarray(numbers, dtype).view(narrow).astype(extended)
                state.writable(number, held)[where] = bits.view(held)

        return put

    def address(self, operand):
        """A function ``(state, where)`` that gives addresses, and the space that they are known to be of."""
        if isinstance(operand, int):
            operand = self.operands[operand]
        if not isinstance(operand, Address):
            self.refuse(f"address {operand}")
        base, offset = operand.base, np.int64(operand.offset)
        if isinstance(base, Symbol):
            space, address = self.addresses[base.name]
            total = np.int64(address) + offset
            return (lambda state, where: state.spread(total, where)), space
        if isinstance(base, Immediate):
            total = np.int64(int(base.text, 0)) + offset
            return (lambda state, where: state.spread(total, where)), None
        kind = "u32" if bits_of(base.type).itemsize == 4 else "s64"
        read = self.read(base, kind)
        return (lambda state, where: read(state, where).astype(np.int64) + offset), None

    def elementwise(self, function, result, sources):
        """Execute ``function`` on operands 1, 2, ... of the types `sources`; operand 0 is the result."""
        write = self.write(0, result)
        if len(self.operands) != len(sources) + 1:
            self.refuse(f"{len(self.operands)} operands")
        reads = [self.read(number, kind) for number, kind in enumerate(sources, 1)]
        if len(reads) == 1:
            (a,) = reads
            return lambda state, where: write(state, where, function(a(state, where)))
        if len(reads) == 2:
            a, b = reads
            return lambda state, where: write(state, where, function(a(state, where), b(state, where)))
        if len(reads) == 3:
            a, b, c = reads
            return lambda state, where: write(state, where, function(a(state, where), b(state, where), c(state, where)))
        return lambda state, where: write(state, where, function(*(read(state, where) for read in reads)))


def never_written(name):
    return UninitialisedError(f"register {name} is read, but nothing wrote it")
