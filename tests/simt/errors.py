"""What the machine refuses, and where it was noticed."""


class SimtError(Exception):
    """A kernel does what it must not, or something that the machine does not know.

    Parameters
    ----------
    message : str
    lane : int, optional
        The lane of the machine that does it, so that block and thread can be named.
    """

    def __init__(self, message, lane=None):
        super().__init__(message)
        self.message, self.lane = message, lane
        self.kernel = self.instruction = self.block = self.thread = None

    def locate(self, kernel, instruction, block=None, thread=None):
        """Add where it happened."""
        self.kernel, self.instruction, self.block, self.thread = kernel, instruction, block, thread
        return self

    def __str__(self):
        parts = [self.message]
        if self.instruction is not None:
            parts.append(f"line {self.instruction.line} of kernel {self.kernel}: {self.instruction.text}")
        if self.block is not None:
            parts.append(f"block {self.block}, thread {self.thread}")
        return "\n  ".join(parts)


class UnknownPtxError(SimtError):
    """PTX that the parser or the machine does not know."""

    def __init__(self, message, line=None):
        super().__init__(message if line is None else f"{message} (line {line})")


class OutOfBoundsError(SimtError):
    """An access outside of every array."""


class MisalignedError(SimtError):
    """An access whose address is not a multiple of its size."""


class UninitialisedError(SimtError):
    """A read of memory, or of a register, that nothing has written."""


class RaceError(SimtError):
    """Two accesses of two threads to one place, at least one a write, with nothing that orders them."""


class BarrierError(SimtError):
    """A barrier that not all threads reach, or a warp's instruction that not all named lanes reach."""


class EndlessError(SimtError):
    """A kernel that is still running after so many steps that it will hardly ever end."""


class TrapError(SimtError):
    """The kernel executed `trap`."""
