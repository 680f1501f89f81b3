"""How often Python looks for garbage while Numba compiles."""

import contextlib
import gc


@contextlib.contextmanager
def seldom_collecting():
    """Look for garbage less often: to compile is to make millions of objects that stay.

    Looking for garbage among them takes a quarter of the time.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
