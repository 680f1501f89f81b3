"""How much memory a process has used."""

import contextlib
import sys
from pathlib import Path


def peak_bytes():
    """The largest resident set of this process so far."""
    # On Linux ru_maxrss also counts the process that started this one; the kernel's own record does not.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Missing on Windows.
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
