"""Where the files of a data set lie, how they are fetched, and how they are told from damaged ones.

`load` looks, in this order, into the folder that the caller names, and nowhere else if one is named; into the
cache folder; into Keras's cache; and only then asks the network.
"""

import gzip
import hashlib
import os
import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20


class DatasetError(RuntimeError):
    """A data set cannot be had; the message says which file is missing or damaged, and what to do."""


@dataclass(frozen=True)
class OfficialFile:
    """A file as its authors publish it.

    Parameters
    ----------
    name : str
        Its path within the folder of the data set.
    checksum : str
        ``'sha256:...'`` or, where only that is published, ``'md5:...'``.
    addresses : tuple of str, default ()
        Where it can be fetched, tried in turn.
    content : str, default ''
        Checksum of what a ``.gz`` file holds: the same content packed anew is the official file too.
    """

    name: str
    checksum: str
    addresses: tuple[str, ...] = ()
    content: str = ""


@dataclass(frozen=True)
class Layout:
    """One of the forms in which a data set is published: its files, and a function that reads their paths."""

    files: tuple[OfficialFile, ...]
    read: Callable


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Parameters
    ----------
    title : str
        Its name for people.
    folder : str
        The name of its folder in a cache.
    layouts : tuple of Layout
        The forms in which it is read; the first is downloaded.
    wanted : str
        What a folder must hold, in words.
    """

    title: str
    folder: str
    layouts: tuple[Layout, ...]
    wanted: str


def cache_folder():
    """Where downloaded files are kept.

    Returns
    -------
    pathlib.Path
        The environment variable ``GPUCONV_HOME``, or else ``gpuconv`` in the user's cache directory.

    Examples
    --------
    >>> import os
    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, GPUCONV_HOME="somewhere"):
    ...     cache_folder().name
    'somewhere'
    """
    if os.environ.get("GPUCONV_HOME"):
        return Path(os.environ["GPUCONV_HOME"]).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gpuconv"


def keras_folder():
    """Keras's own cache of data sets: ``datasets`` in ``KERAS_HOME``, or else in ``~/.keras``."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser() / "datasets"


def checksum(path, algorithm, unpack=False):
    """Checksum of a file, or of what a ``.gz`` file holds, as hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with gzip.open(path) if unpack else open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def difference(official, path):
    """What tells the file at `path` from the official one, as a sentence; None if nothing does."""
    algorithm, wanted = official.checksum.split(":")
    received = checksum(path, algorithm)
    if received == wanted:
        return None
    if official.content:
        content_algorithm, content = official.content.split(":")
        try:
            if checksum(path, content_algorithm, unpack=True) == content:
                return None
        except (OSError, EOFError, zlib.error):
            pass  # Not even a whole .gz file.
    return f"{path}: expected the official file, {algorithm.upper()} {wanted}, received {received}"


def load(data_set, path=None):
    """Find the files of a data set, or fetch them, check them, and read them.

    Parameters
    ----------
    data_set : DataSet
    path : str or path-like, optional
        A folder to take the files from, whatever their checksums.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuples of numpy.ndarray

    Raises
    ------
    DatasetError
        If there are no files and none can be fetched, or if they are damaged.

    Warns
    -----
    UserWarning
        If files in `path` are not the official ones, or if ones in Keras's cache are not and are passed over.
    """
    try:
        if path is not None:
            return _load_from(data_set, path)
        return _load_from_caches(data_set)
    except OSError as error:
        raise DatasetError(f"{data_set.title}: expected readable files, received {error}") from error


def _load_from(data_set, path):
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected a folder's name, received {path!r}")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"path: expected a folder, received {str(folder)!r}, which is none")
    # The data set's own folder comes first: MNIST and Fashion-MNIST use the same file names.
    found = _find(data_set, [folder / data_set.folder, folder])
    if found is None:
        lacking = _first_missing(data_set, [folder / data_set.folder, folder])
        raise DatasetError(f"path: expected {data_set.wanted} in {folder}, received a folder without {lacking}")
    layout, paths = found
    messages = list(filter(None, map(difference, layout.files, paths)))
    if messages:
        others = f" (and {len(messages) - 1} more files)" if len(messages) > 1 else ""
        warnings.warn(f"{messages[0]}{others}; read all the same, because path= names it", stacklevel=4)
    return layout.read(paths)


def _load_from_caches(data_set):
    home = cache_folder() / data_set.folder
    keras = keras_folder()
    for folder in (home, keras / data_set.folder, keras):
        for layout, paths in _complete(data_set, folder):
            messages = [difference(*pair) for pair in zip(layout.files, paths, strict=True)]
            bad = next(filter(None, messages), None)
            if bad is None:
                return layout.read(paths)
            if folder == home:
                raise _damaged(bad, folder)
            warnings.warn(f"{bad}; Keras's copy is passed over", stacklevel=4)

    layout = data_set.layouts[0]
    for official in layout.files:
        place = home / official.name
        if not place.exists():
            _fetch(data_set, official, home)
        elif message := difference(official, place):
            raise _damaged(message, home)
    return layout.read([home / official.name for official in layout.files])


def _damaged(message, folder):
    return DatasetError(
        f"{message}: it is damaged or another one. Delete it and load again; "
        f"to read it all the same, load_data(path={str(folder)!r})"
    )


def _complete(data_set, folder):
    """The layouts of which all files lie in `folder`."""
    for layout in data_set.layouts:
        paths = [folder / official.name for official in layout.files]
        if all(path.is_file() for path in paths):
            yield layout, paths


def _find(data_set, folders):
    return next((found for folder in folders for found in _complete(data_set, folder)), None)


def _first_missing(data_set, folders):
    """The file that is missing from a layout of which others are there, or else the first of all."""
    for folder in folders:
        for layout in data_set.layouts:
            there = [(folder / official.name).is_file() for official in layout.files]
            if any(there):
                return layout.files[there.index(False)].name
    return data_set.layouts[0].files[0].name


def _fetch(data_set, official, folder):
    """Download a file; under its final name it appears only when whole and right."""
    advice = (
        f"Put {official.name}, from {official.addresses[0]}, into {folder}, "
        "or into any folder that load_data(path=...) names"
    )
    try:
        import pooch
    except ImportError:
        raise DatasetError(
            f"{data_set.title}: expected pooch to download it, received no such package: pip install pooch. "
            f"Without it: {advice}"
        ) from None
    failures = []
    for address in official.addresses:
        try:
            # Pooch writes to a temporary file, compares checksums, and only then renames.
            pooch.retrieve(address, official.checksum, fname=official.name, path=folder, progressbar=True)
            return
        except (OSError, ValueError) as error:
            failures.append(f"{address}: {error}")
    raise DatasetError(
        f"{data_set.title}: expected to download {official.name}, received no such file. {advice}. "
        f"What failed: {'; '.join(failures)}"
    )
