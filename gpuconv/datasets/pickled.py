"""Reading the few kinds of things that CIFAR's pickled files hold, without running what a pickle asks for.

A pickle is a program: it names functions and has them called.  Here every name is looked up in a short
list, and behind each stands a function of ours that only writes down what it is given.  Not even NumPy's
own functions run.  Whatever else a file names ends the reading with an error.
"""

import io
import pickle

import numpy as np


class _Recipe:
    """Stands for a function; nothing but being called can be done to it."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("a function is given attributes")


class _Type:
    """Stands for ``numpy.dtype``: its code, such as ``'u1'``."""

    __slots__ = ("code",)

    def __init__(self, code, *_):
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state):
        pass  # Byte order and the like: of no matter to single bytes.


class _Array:
    """Stands for ``numpy.ndarray``: notes shape, type and bytes."""

    __slots__ = ("state",)

    def __init__(self):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def to_numpy(self):
        """The array, if it is one of bytes; its extents must fit its bytes."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise pickle.UnpicklingError("an array without contents")
        _, shape, kind, column_major, content = self.state
        if not isinstance(kind, _Type) or kind.code not in ("u1", "|u1"):
            raise pickle.UnpicklingError("an array of something else than unsigned bytes")
        extents = isinstance(shape, tuple) and all(type(extent) is int and extent >= 0 for extent in shape)
        if not extents or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array that is not an array")
        size = 1
        for extent in shape:
            size *= extent
        if size != len(content):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(content)} bytes")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if column_major else "C")


def _encode(text, encoding):
    # Python 3 writes bytes to protocol 2, which has none, as text to be encoded.
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")


def _no_bytes():
    return b""


_STAND_INS = {
    ("numpy", "ndarray"): lambda *_: _Array(),
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not run")
        return _Recipe(_STAND_INS[module, name])


def _as_text(key):
    return key.decode("latin1") if isinstance(key, bytes) else key


def _as_array(value):
    return value.to_numpy() if isinstance(value, _Array) else value


def read_dictionary(content):
    """Read a pickled dictionary of bytes, text, integers, lists and uint8 arrays.

    Parameters
    ----------
    content : bytes
        The pickle, written by Python 2 or 3.

    Returns
    -------
    dict
        With text keys; arrays as numpy.ndarray.

    Raises
    ------
    ValueError
        If it holds or names anything else, or breaks off; nothing that it names has been called.

    Examples
    --------
    >>> import pickle
    >>> read_dictionary(pickle.dumps({"labels": [3, 1]}, protocol=2))
    {'labels': [3, 1]}
    >>> read_dictionary(pickle.dumps({"run": print}, protocol=2))
    Traceback (most recent call last):
    ...
    ValueError: pickle: expected arrays, lists and text, received something else: it names __builtin__.print, ...
    """
    try:
        read = _Reader(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(read, dict):
            raise pickle.UnpicklingError(f"a {type(read).__name__} instead of a dictionary")
        return {_as_text(key): _as_array(value) for key, value in read.items()}
    except Exception as error:  # A broken pickle may end in almost any error.
        raise ValueError(f"pickle: expected arrays, lists and text, received something else: {error}") from error
