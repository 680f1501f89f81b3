"""The one source of randomness: a counter from which every random stream draws its seed.

Everything random in the library (initial weights, shuffles, dropout) asks here for a seed
of its own when it is made, so that `gpuconv.utils.set_random_seed` fixes a whole run, on
any device and for any number of threads.
"""

import secrets

import numpy as np

_root = secrets.randbits(64)
_drawn = 0


def set_root(seed):
    """Restart the sequence of seeds from `seed`."""
    global _root, _drawn
    _root = seed
    _drawn = 0


def state():
    """Where the sequence of seeds stands, for `restore`."""
    return _root, _drawn


def restore(state):
    """Go back to where the sequence stood at `state`."""
    global _root, _drawn
    _root, _drawn = state


def next_seed():
    """The next seed of the sequence, an integer below 2**64."""
    global _drawn
    _drawn += 1
    return int(np.random.SeedSequence([_root, _drawn]).generate_state(1, np.uint64)[0])


def generator(seed=None):
    """A NumPy generator over Philox, the counter-based generator that the kernels use too."""
    return np.random.Generator(np.random.Philox(next_seed() if seed is None else seed))
