"""Data sets; each has ``load_data()``."""

from . import digits

__all__ = ["digits"]
