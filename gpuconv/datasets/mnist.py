"""MNIST: 70,000 handwritten digits of 28 x 28 pixels.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86 (1998) 2278-2324.
"""

from . import storage
from .mnist_format import idx_files, read_idx_set, read_npz

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")


# Checksums of each file and of what it holds unpacked.
_FILES = idx_files(
    _MIRRORS,
    (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)
_NPZ = storage.OfficialFile("mnist.npz", "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1")

DATA_SET = storage.DataSet(
    "MNIST",
    "mnist",
    (storage.Layout(_FILES, read_idx_set), storage.Layout((_NPZ,), read_npz)),
    f"{', '.join(file.name for file in _FILES)}, or else mnist.npz",
)


def load_data(path=None):
    """Load MNIST; download it (11 MB) if it is neither in the cache nor in Keras's.

    Parameters
    ----------
    path : str or path-like, optional
        A folder that holds the four official ``.gz`` files or Keras's ``mnist.npz``, itself or in a folder
        ``mnist``.  Nothing is downloaded then; files with other checksums are read with a warning.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuples of numpy.ndarray
        Pictures: uint8, shapes ``(60000, 28, 28)`` and ``(10000, 28, 28)``, ink from 0 to 255.
        Labels: uint8, shapes ``(60000,)`` and ``(10000,)``, the digit drawn.

    Raises
    ------
    DatasetError
        If the files are missing and cannot be fetched, or are damaged; it says what to put where.
    TypeError
        If `path` is not a path.

    Examples
    --------
    >>> load_data(path="no such folder")
    Traceback (most recent call last):
    ...
    gpuconv.datasets.storage.DatasetError: path: expected a folder, received 'no such folder', which is none
    """
    return storage.load(DATA_SET, path)
