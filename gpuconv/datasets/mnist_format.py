"""The two file formats of MNIST and of its likes: IDX, and Keras's ``.npz``."""

import gzip
import zipfile
import zlib

import numpy as np

from .storage import DatasetError, OfficialFile

_SIDE = 28
_CLASSES = 10
_ADVICE = "the file is truncated or damaged: delete it and fetch it again"


def idx_files(mirrors, *checksums):
    """The four files of an MNIST, given each one's SHA-256 sums, packed and unpacked."""
    names = (
        "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz",
    )  # fmt: skip
    return tuple(
        OfficialFile(name, f"sha256:{packed}", tuple(mirror + name for mirror in mirrors), f"sha256:{unpacked}")
        for name, (packed, unpacked) in zip(names, checksums, strict=True)
    )


def read_idx(path, dimensions):
    """Read an IDX file of bytes, packed by gzip.

    Two zero bytes, 8 for unsigned bytes, the number of dimensions, each extent as a big-endian 32-bit
    integer, then the elements, last index fastest: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST
    database of handwritten digits".

    Parameters
    ----------
    path : path-like
    dimensions : {1, 3}
        1 for labels, 3 for pictures of 28 x 28 pixels.

    Returns
    -------
    numpy.ndarray
        uint8, shape ``(n,)`` or ``(n, 28, 28)``.

    Raises
    ------
    DatasetError
        If the file holds anything else, less, or more.
    """
    wanted = "pictures of 28 x 28 pixels" if dimensions == 3 else "labels"
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
                raise DatasetError(f"{path}: expected an IDX file of {wanted}, received another header; {_ADVICE}")
            shape = tuple(int(extent) for extent in np.frombuffer(header, ">u4", offset=4))
            if shape[1:] != (_SIDE, _SIDE)[: dimensions - 1]:
                raise DatasetError(f"{path}: expected {wanted}, received an array of shape {shape}")
            count = shape[0] * (_SIDE * _SIDE if dimensions == 3 else 1)
            # Whatever the header claims, memory grows only with what is there.
            content = bytearray()
            while len(content) <= count and (block := file.read(1 << 20)):
                content += block
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path}: expected a gzip file, received one that ends or breaks: {error}; {_ADVICE}"
        ) from error
    if len(content) != count:
        more = "more" if len(content) > count else f"{len(content)}"
        raise DatasetError(f"{path}: expected {count} bytes after the header, received {more}; {_ADVICE}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_idx_set(paths):
    """Read training pictures, training labels, test pictures and test labels from four IDX files."""
    x_train, y_train, x_test, y_test = (
        read_idx(path, dimensions) for path, dimensions in zip(paths, (3, 1, 3, 1), strict=True)
    )
    return _checked(x_train, y_train, paths[1]), _checked(x_test, y_test, paths[3])


def read_npz(paths):
    """Read ``x_train``, ``y_train``, ``x_test``, ``y_test`` from Keras's ``mnist.npz``; pickled objects are refused."""
    (path,) = paths
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (OSError, EOFError, KeyError, TypeError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path}: expected the arrays of mnist.npz, received {error}; {_ADVICE}") from error
    for name, array in arrays.items():
        if array.dtype != np.uint8 or array.ndim != (3 if name[0] == "x" else 1):
            raise DatasetError(f"{path}: expected {name} as bytes, received {array.dtype}, shape {array.shape}")
        if array.shape[1:] not in ((), (_SIDE, _SIDE)):
            raise DatasetError(f"{path}: expected {name} as pictures of 28 x 28 pixels, received shape {array.shape}")
    return tuple(_checked(arrays[f"x_{part}"], arrays[f"y_{part}"], path) for part in ("train", "test"))


def _checked(images, labels, path):
    if len(images) != len(labels):
        raise DatasetError(f"{path}: expected {len(images)} labels, one for each picture, received {len(labels)}")
    if len(labels) and labels.max() >= _CLASSES:
        raise DatasetError(f"{path}: expected labels from 0 to 9, received {labels.max()}; {_ADVICE}")
    return images, labels
