"""Fashion-MNIST: 70,000 pictures of clothes, 28 x 28 pixels, a drop-in replacement for MNIST.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", arXiv:1708.07747 (2017).  MIT licence, copyright Zalando SE.
"""

from . import storage
from .mnist_format import idx_files, read_idx_set

class_names = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip

_MIRRORS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)


# Checksums of each file and of what it holds unpacked.
_FILES = idx_files(
    _MIRRORS,
    (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)

DATA_SET = storage.DataSet(
    "Fashion-MNIST",
    "fashion-mnist",
    (storage.Layout(_FILES, read_idx_set),),
    ", ".join(file.name for file in _FILES),
)


def load_data(path=None):
    """Load Fashion-MNIST; download it (31 MB) if it is neither in the cache nor in Keras's.

    Parameters
    ----------
    path : str or path-like, optional
        A folder that holds the four official ``.gz`` files, itself or in a folder ``fashion-mnist``.
        Nothing is downloaded then; files with other checksums are read with a warning.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuples of numpy.ndarray
        Pictures: uint8, shapes ``(60000, 28, 28)`` and ``(10000, 28, 28)``, from 0 to 255.
        Labels: uint8, shapes ``(60000,)`` and ``(10000,)``; `class_names` says what they mean.

    Raises
    ------
    DatasetError
        If the files are missing and cannot be fetched, or are damaged; it says what to put where.
    TypeError
        If `path` is not a path.

    Examples
    --------
    >>> class_names[9]
    'ankle boot'
    >>> load_data(path="no such folder")
    Traceback (most recent call last):
    ...
    gpuconv.datasets.storage.DatasetError: path: expected a folder, received 'no such folder', which is none
    """
    return storage.load(DATA_SET, path)
