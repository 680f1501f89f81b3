"""CIFAR-10: 60,000 colour pictures of 32 x 32 pixels in ten classes.

A. Krizhevsky, "Learning multiple layers of features from tiny images", University of Toronto (2009);
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import tarfile
import zlib
from pathlib import PurePosixPath

import numpy as np

from . import storage
from .pickled import read_dictionary
from .storage import DatasetError

class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
# An official batch has 31 MB.
_LARGEST_BATCH = 1 << 27
_ADVICE = "the file is truncated, damaged or not CIFAR-10: delete it and fetch it again"


def load_data(path=None):
    """Load CIFAR-10; download it (170 MB) if it is neither in the cache nor in Keras's.

    Of the python version, whose batches are pickles, nothing is executed: see `gpuconv.datasets.pickled`.

    Parameters
    ----------
    path : str or path-like, optional
        A folder that holds ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``, either of them
        unpacked, or Keras's copy, itself or in a folder ``cifar10``.  Nothing is downloaded then; files
        with other checksums are read with a warning.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuples of numpy.ndarray
        Pictures: uint8, shapes ``(50000, 32, 32, 3)`` and ``(10000, 32, 32, 3)``, red, green and blue from
        0 to 255.  Labels: uint8, shapes ``(50000, 1)`` and ``(10000, 1)``; `class_names` says what they mean.

    Raises
    ------
    DatasetError
        If the files are missing and cannot be fetched, or are damaged; it says what to put where.
    TypeError
        If `path` is not a path.

    Examples
    --------
    >>> class_names[3]
    'cat'
    >>> load_data(path="no such folder")
    Traceback (most recent call last):
    ...
    gpuconv.datasets.storage.DatasetError: path: expected a folder, received 'no such folder', which is none
    """
    return storage.load(DATA_SET, path)


def read_python_batch(content, source):
    """Pictures ``(n, 32, 32, 3)`` and labels ``(n, 1)``, uint8, of a pickled batch.

    Parameters
    ----------
    content : bytes
    source : str
        What an error calls it.
    """
    try:
        batch = read_dictionary(content)
    except ValueError as error:
        raise DatasetError(f"{source}: expected a batch of CIFAR-10; {error}; {_ADVICE}") from error
    planes, labels = batch.get("data"), batch.get("labels")
    if not isinstance(planes, np.ndarray) or planes.shape[1:] != (_PIXELS,):
        raise DatasetError(f"{source}: expected an array 'data' with rows of {_PIXELS} bytes; {_ADVICE}")
    if not isinstance(labels, list) or len(labels) != len(planes):
        raise DatasetError(f"{source}: expected a list 'labels' with {len(planes)} entries; {_ADVICE}")
    if not all(type(label) is int and 0 <= label < len(class_names) for label in labels):
        raise DatasetError(f"{source}: expected labels from 0 to 9, received others; {_ADVICE}")
    return _as_pictures(planes), np.array(labels, np.uint8).reshape(-1, 1)


def read_binary_batch(content, source):
    """Pictures ``(n, 32, 32, 3)`` and labels ``(n, 1)``, uint8, of a batch of the binary version.

    Each record is a label, one byte, and 3072 bytes of pixels: the red plane, the green, the blue.

    Parameters
    ----------
    content : bytes
    source : str
        What an error calls it.
    """
    if not content or len(content) % (1 + _PIXELS):
        raise DatasetError(
            f"{source}: expected records of {1 + _PIXELS} bytes each, received {len(content)} bytes; {_ADVICE}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    labels = records[:, :1].copy()
    if labels.max() >= len(class_names):
        raise DatasetError(f"{source}: expected labels from 0 to 9, received {labels.max()}; {_ADVICE}")
    return _as_pictures(records[:, 1:]), labels


def _as_pictures(planes):
    return np.ascontiguousarray(planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _join(batches):
    training, test = batches[:-1], batches[-1]
    return tuple(np.concatenate(parts) for parts in zip(*training, strict=True)), test


def _read_archive(suffix, read_batch):
    wanted = [name + suffix for name in _BATCHES]

    def read(paths):
        (path,) = paths
        contents = {}
        try:
            # Members are read in passing and never unpacked to disk.
            with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    if name in wanted and member.isfile():
                        if member.size > _LARGEST_BATCH:
                            raise DatasetError(f"{path}: expected {name} of 31 MB, received {member.size} bytes")
                        contents[name] = archive.extractfile(member).read()
                while unpacked.read(1 << 20):  # To the end, where gzip compares its own checksum.
                    pass
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"{path}: expected a .tar.gz archive, received {error}; {_ADVICE}") from error
        if missing := [name for name in wanted if name not in contents]:
            raise DatasetError(f"{path}: expected it to contain {missing[0]}, received an archive without; {_ADVICE}")
        return _join([read_batch(contents[name], f"{path}: {name}") for name in wanted])

    return read


def _read_folder(read_batch):
    def read(paths):
        for path in paths:
            if path.stat().st_size > _LARGEST_BATCH:
                raise DatasetError(f"{path}: expected 31 MB, received {path.stat().st_size} bytes; {_ADVICE}")
        return _join([read_batch(path.read_bytes(), str(path)) for path in paths])

    return read


_ADDRESS = "https://www.cs.toronto.edu/~kriz/"
_PYTHON = "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_BINARY = "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
# For single batches only MD5 sums are published.
_PYTHON_BATCHES = (
    "c99cafc152244af753f735de768cd75f", "d4bba439e000b95fd0a9bffe97cbabec", "54ebc095f3ab1f0389bbae665268c751",
    "634d18415352ddfa80567beed471001a", "482c414d41f54cd18b22e5b47cb7c3cb", "40351d587109b95175f43aff81a1287e",
)  # fmt: skip
_BINARY_BATCHES = (
    "5dd7e06a14cb22eb9f671a540d1b7c25", "5ea93a67294ea407fff1d09f752e9692", "942cd6a4bcdd0dd3c604fbe906cb4421",
    "ae636b3ba5c66a11e91e8cb52e771fcb", "53f37980c15c3d472c316c40844f3f0d", "803d5f7f4d78ea53de84dbe85f74fb6d",
)  # fmt: skip


def _archive(name, checksum, suffix, read_batch, addresses=()):
    return storage.Layout((storage.OfficialFile(name, checksum, addresses),), _read_archive(suffix, read_batch))


def _folder(name, checksums, suffix, read_batch):
    files = (
        storage.OfficialFile(f"{name}{batch}{suffix}", f"md5:{checksum}")
        for batch, checksum in zip(_BATCHES, checksums, strict=True)
    )
    return storage.Layout(tuple(files), _read_folder(read_batch))


DATA_SET = storage.DataSet(
    "CIFAR-10",
    "cifar10",
    (
        _archive("cifar-10-python.tar.gz", _PYTHON, "", read_python_batch, (f"{_ADDRESS}cifar-10-python.tar.gz",)),
        _folder("cifar-10-batches-py/", _PYTHON_BATCHES, "", read_python_batch),
        _archive("cifar-10-binary.tar.gz", _BINARY, ".bin", read_binary_batch),
        _folder("cifar-10-batches-bin/", _BINARY_BATCHES, ".bin", read_binary_batch),
        # Keras's cache: the names of Keras 2, then those of Keras 3.
        _archive("cifar-10-batches-py.tar.gz", _PYTHON, "", read_python_batch),
        _archive("cifar-10-batches-py-target_archive", _PYTHON, "", read_python_batch),
        _folder("cifar-10-batches-py-target/cifar-10-batches-py/", _PYTHON_BATCHES, "", read_python_batch),
        # A folder that is itself the unpacked archive.
        _folder("", _PYTHON_BATCHES, "", read_python_batch),
        _folder("", _BINARY_BATCHES, ".bin", read_binary_batch),
    ),
    "cifar-10-python.tar.gz or cifar-10-binary.tar.gz, or one of them unpacked,",
)
