"""The machine that measured, in words that name no particular computer."""

import os
import platform
from pathlib import Path

import llvmlite.binding


def describe():
    """Processor, cores, caches and operating system.

    Returns
    -------
    dict
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "compiled for": llvmlite.binding.get_host_cpu_name(),
        "processors": available,
        "caches": caches(),
        "system": system(),
    }


def processor():
    """The model, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def caches():
    """Size by level and kind, for one core."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size"))
        sizes[f"L{level} {kind.lower()}"] = size
    return sizes


def system():
    """The operating system and its version."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.platform(terse=True)
    return f"{name}, {platform.system()} {platform.release().split('-')[0]}"
