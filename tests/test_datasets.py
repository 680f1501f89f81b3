"""MNIST, Fashion-MNIST and CIFAR-10: read, checked, found and fetched, from tiny archives in their formats.

No test leaves this machine: addresses are those of a server of our own on the loopback interface.
"""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import pickletools
import runpy
import socket
import struct
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv.datasets import DatasetError, cifar10, fashion_mnist, mnist, storage
from gpuconv.datasets.pickled import read_dictionary

EXAMPLES = Path(__file__).parents[1] / "examples"
IDX_FILES = (
    "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
)  # fmt: skip
BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache and a Keras cache of each test's own, and no connection to other machines."""
    connect = socket.socket.connect

    def only_here(self, address):
        assert address[0] in ("127.0.0.1", "localhost"), f"a test wants to reach {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("GPUCONV_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


# ------------------------------------------------------------------ tiny archives


def mnist_arrays(seed=0):
    random = np.random.default_rng(seed)
    return tuple(
        (random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count, np.uint8))
        for count in (12, 5)
    )


def idx(array):
    """The array in the format of MNIST's files."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX_FILES, (array for part in arrays for array in part), strict=True):
        (folder / name).write_bytes(gzip.compress(idx(array), mtime=0))


def cifar_arrays(seed=0):
    random = np.random.default_rng(seed)
    return tuple(
        (random.integers(0, 256, (count, 32, 32, 3), np.uint8), random.integers(0, 10, (count, 1), np.uint8))
        for count in (15, 4)
    )


def cifar_batches(arrays):
    """Planes and labels of the six batches."""
    (x_train, y_train), (x_test, y_test) = arrays
    images = [*np.split(x_train, 5), x_test]
    labels = [*np.split(y_train, 5), y_test]
    return [(x.transpose(0, 3, 1, 2).reshape(len(x), 3072), y[:, 0]) for x, y in zip(images, labels, strict=True)]


def python_files(arrays, protocol=2):
    return {
        name: pickle.dumps(
            {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": planes, b"filenames": [b""]}, protocol
        )
        for name, (planes, labels) in zip(BATCHES, cifar_batches(arrays), strict=True)
    }


def binary_files(arrays):
    return {
        f"{name}.bin": np.concatenate([labels[:, None], planes], axis=1).tobytes()
        for name, (planes, labels) in zip(BATCHES, cifar_batches(arrays), strict=True)
    }


def write_folder(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"readme.html": b"<p>", **files}.items():
            member = tarfile.TarInfo(f"inner/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def adopt(monkeypatch, module, folder, address=None):
    """Make the files in `folder` the official ones of a data set, at an address of ours."""

    def official(file):
        path = folder / file.name
        if not path.is_file():
            return file
        addresses = (f"{address}/{file.name}",) if address else ()
        return replace(file, checksum=f"sha256:{storage.checksum(path, 'sha256')}", content="", addresses=addresses)

    layouts = [replace(layout, files=tuple(map(official, layout.files))) for layout in module.DATA_SET.layouts]
    monkeypatch.setattr(module, "DATA_SET", replace(module.DATA_SET, layouts=tuple(layouts)))


def assert_same(got, expected):
    for got_part, expected_part in zip(got, expected, strict=True):
        for array, wanted in zip(got_part, expected_part, strict=True):
            assert array.dtype == np.uint8
            assert array.flags.c_contiguous
            np.testing.assert_array_equal(array, wanted)


# ------------------------------------------------------------------ a folder that the caller names


@pytest.mark.parametrize("module", [mnist, fashion_mnist])
@pytest.mark.parametrize("inside", [False, True])
def test_idx_files_in_a_folder(tmp_path, module, inside):
    arrays = mnist_arrays()
    write_mnist(tmp_path / module.DATA_SET.folder if inside else tmp_path, arrays)
    with pytest.warns(UserWarning, match=r"expected the official file, SHA256 .*and 3 more files") as caught:
        got = module.load_data(tmp_path)
    assert caught[0].filename == __file__
    assert_same(got, arrays)


def test_the_folder_of_the_data_set_comes_before_its_surroundings(tmp_path):
    write_mnist(tmp_path, mnist_arrays(0))
    write_mnist(tmp_path / "fashion-mnist", mnist_arrays(1))
    with pytest.warns(UserWarning, match="fashion-mnist"):
        assert_same(fashion_mnist.load_data(str(tmp_path)), mnist_arrays(1))


def test_keras_npz(tmp_path):
    (x_train, y_train), (x_test, y_test) = arrays = mnist_arrays()
    np.savez(tmp_path / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    with pytest.warns(UserWarning, match="official"):
        assert_same(mnist.load_data(tmp_path), arrays)


@pytest.mark.parametrize(
    "name",
    ["cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz", "cifar-10-batches-py-target_archive",
     "cifar-10-batches-py/", "cifar-10-batches-py-target/cifar-10-batches-py/", ""],
)  # fmt: skip
def test_python_version(tmp_path, name):
    write = write_folder if name.endswith("/") or not name else write_archive
    write(tmp_path / name, python_files(cifar_arrays()))
    with pytest.warns(UserWarning, match="official"):
        assert_same(cifar10.load_data(tmp_path), cifar_arrays())


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "cifar-10-batches-bin/", ""])
def test_binary_version(tmp_path, name):
    write = write_archive if name.endswith(".gz") else write_folder
    write(tmp_path / "cifar10" / name, binary_files(cifar_arrays()))
    with pytest.warns(UserWarning, match="official"):
        assert_same(cifar10.load_data(tmp_path), cifar_arrays())


def test_official_files_bring_no_warning(tmp_path, monkeypatch):
    write_mnist(tmp_path, mnist_arrays())
    adopt(monkeypatch, mnist, tmp_path)
    assert_same(mnist.load_data(tmp_path), mnist_arrays())


def test_the_official_content_packed_anew_brings_no_warning(tmp_path, monkeypatch):
    write_mnist(tmp_path, mnist_arrays())
    files = [
        replace(file, content=f"sha256:{storage.checksum(tmp_path / file.name, 'sha256', unpack=True)}")
        for file in mnist.DATA_SET.layouts[0].files
    ]
    layout = replace(mnist.DATA_SET.layouts[0], files=tuple(files))
    monkeypatch.setattr(mnist, "DATA_SET", replace(mnist.DATA_SET, layouts=(layout,)))
    assert_same(mnist.load_data(tmp_path), mnist_arrays())


@pytest.mark.parametrize("module", [mnist, fashion_mnist, cifar10])
def test_folders_without_the_data_set(tmp_path, module):
    first = module.DATA_SET.layouts[0].files[0].name
    with pytest.raises(DatasetError, match=rf"path: expected {first}.* received a folder without {first}"):
        module.load_data(tmp_path)
    with pytest.raises(DatasetError, match=r"path: expected a folder, received .*, which is none"):
        module.load_data(tmp_path / "missing")
    with pytest.raises(TypeError, match="path: expected a folder's name, received 3"):
        module.load_data(3)


def test_the_file_that_a_folder_lacks_is_named(tmp_path):
    files = binary_files(cifar_arrays())
    del files["data_batch_4.bin"]
    write_folder(tmp_path / "cifar-10-batches-bin", files)
    with pytest.raises(DatasetError, match=r"received a folder without cifar-10-batches-bin/data_batch_4.bin"):
        cifar10.load_data(tmp_path)


# ------------------------------------------------------------------ caches


@pytest.mark.parametrize("place", ["cache/mnist", "keras/datasets/mnist", "keras/datasets"])
def test_files_in_a_cache_need_no_network(home, monkeypatch, place):
    write_mnist(home / place, mnist_arrays())
    adopt(monkeypatch, mnist, home / place)
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert_same(mnist.load_data(), mnist_arrays())


def test_other_files_in_the_cache_are_refused(home):
    write_mnist(home / "cache" / "mnist", mnist_arrays())
    with pytest.raises(DatasetError, match=r"train-images.*: expected the official file, .* Delete it and load again"):
        mnist.load_data()


def test_other_files_in_the_keras_cache_are_passed_over(home, monkeypatch):
    write_archive(home / "keras" / "datasets" / "cifar-10-batches-py.tar.gz", python_files(cifar_arrays(1)))
    write_folder(home / "keras" / "datasets" / "cifar-10-batches-py", python_files(cifar_arrays()))
    folder = home / "keras" / "datasets"
    files = cifar10.DATA_SET.layouts[1].files
    adopted = tuple(replace(file, checksum=f"md5:{storage.checksum(folder / file.name, 'md5')}") for file in files)
    layouts = (cifar10.DATA_SET.layouts[4], replace(cifar10.DATA_SET.layouts[1], files=adopted))
    monkeypatch.setattr(cifar10, "DATA_SET", replace(cifar10.DATA_SET, layouts=layouts))
    with pytest.warns(UserWarning, match="Keras's copy is passed over"):
        assert_same(cifar10.load_data(), cifar_arrays())


@pytest.mark.parametrize(("platform", "variable"), [("linux", "XDG_CACHE_HOME"), ("win32", "LOCALAPPDATA")])
def test_default_cache_folder(monkeypatch, tmp_path, platform, variable):
    monkeypatch.delenv("GPUCONV_HOME")
    monkeypatch.setenv(variable, str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(storage.sys, "platform", platform)
        given = storage.cache_folder()
        patch.delenv(variable)
        default = storage.cache_folder()
        patch.setattr(storage.sys, "platform", "darwin")
        apple = storage.cache_folder()
    assert given == tmp_path / "gpuconv"
    assert default.is_relative_to(Path.home())
    assert apple == Path.home() / "Library" / "Caches" / "gpuconv"


# ------------------------------------------------------------------ fetching


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Cut(Quiet):
    """Breaks off in the middle of every file."""

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(100))


def serve(folder, handler):
    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))


@pytest.fixture
def server(tmp_path, request):
    folder = tmp_path / "server"
    folder.mkdir()
    with serve(folder, getattr(request, "param", Quiet)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_download(home, monkeypatch, server, capsys):
    folder, address = server
    write_mnist(folder, mnist_arrays())
    adopt(monkeypatch, mnist, folder, address)
    assert_same(mnist.load_data(), mnist_arrays())
    assert "100%" in capsys.readouterr().err
    assert sorted(os.listdir(home / "cache" / "mnist")) == sorted(IDX_FILES)
    for name in IDX_FILES:
        (folder / name).unlink()
    assert_same(mnist.load_data(), mnist_arrays())


def test_only_missing_files_are_fetched(home, monkeypatch, server):
    folder, address = server
    write_mnist(folder, mnist_arrays())
    adopt(monkeypatch, mnist, folder, address)
    write_mnist(home / "cache" / "mnist", mnist_arrays())
    (home / "cache" / "mnist" / IDX_FILES[2]).unlink()
    for name in (IDX_FILES[0], IDX_FILES[1], IDX_FILES[3]):
        (folder / name).unlink()
    assert_same(mnist.load_data(), mnist_arrays())


def test_a_mirror_serves_what_the_first_address_does_not(home, monkeypatch, server):
    folder, address = server
    write_archive(folder / "cifar-10-python.tar.gz", python_files(cifar_arrays()))
    adopt(monkeypatch, cifar10, folder, address)
    (file,) = cifar10.DATA_SET.layouts[0].files
    mirrored = replace(file, addresses=(f"{address}/missing/x.tar.gz", *file.addresses))
    layout = replace(cifar10.DATA_SET.layouts[0], files=(mirrored,))
    monkeypatch.setattr(cifar10, "DATA_SET", replace(cifar10.DATA_SET, layouts=(layout,)))
    assert_same(cifar10.load_data(), cifar_arrays())


def test_a_damaged_file_in_an_incomplete_cache_is_refused(home, monkeypatch, server):
    folder, address = server
    write_mnist(folder, mnist_arrays(0))
    adopt(monkeypatch, mnist, folder, address)
    write_mnist(home / "cache" / "mnist", mnist_arrays(1))
    (home / "cache" / "mnist" / IDX_FILES[3]).unlink()
    with pytest.raises(DatasetError, match=r"train-images.*: expected the official file, .* Delete it and load again"):
        mnist.load_data()


@pytest.mark.parametrize("server", [Cut], indirect=True)
def test_a_download_that_breaks_off_leaves_nothing(home, monkeypatch, server):
    folder, address = server
    write_mnist(folder, mnist_arrays())
    adopt(monkeypatch, mnist, folder, address)
    with pytest.raises(DatasetError, match=r"expected to download train-images.* Put train-images.* into .*cache"):
        mnist.load_data()
    assert os.listdir(home / "cache" / "mnist") == []


def test_a_download_with_another_checksum_leaves_nothing(home, monkeypatch, server):
    folder, address = server
    write_mnist(folder, mnist_arrays(0))
    adopt(monkeypatch, mnist, folder, address)
    write_mnist(folder, mnist_arrays(1))
    with pytest.raises(DatasetError, match="hash"):
        mnist.load_data()
    assert os.listdir(home / "cache" / "mnist") == []


@pytest.mark.parametrize("module", [mnist, fashion_mnist, cifar10])
def test_offline_the_error_says_what_to_put_where(home, monkeypatch, module):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        layout = module.DATA_SET.layouts[0]
        files = tuple(replace(file, addresses=(f"{nobody}/{file.name}",)) for file in layout.files)
        monkeypatch.setattr(module, "DATA_SET", replace(module.DATA_SET, layouts=(replace(layout, files=files),)))
        with pytest.raises(DatasetError) as caught:
            module.load_data()
    message = str(caught.value)
    assert f"Put {files[0].name}, from {nobody}/{files[0].name}, into {home / 'cache'}" in message
    assert "load_data(path=...)" in message


def test_a_cache_that_cannot_be_written(home):
    (home / "cache").write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match=r"expected to download train-images.* Put .* What failed: .*cache"):
        mnist.load_data()


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    write_mnist(tmp_path, mnist_arrays())
    monkeypatch.setattr(storage, "checksum", refuse)
    with pytest.raises(DatasetError, match=r"MNIST: expected readable files, received .*denied.*train-images"):
        mnist.load_data(tmp_path)


def test_without_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DatasetError, match=r"pip install pooch\. Without it: Put cifar-10-python.tar.gz"):
        cifar10.load_data()


def test_every_downloaded_file_has_an_address_and_a_sha256():
    for module in (mnist, fashion_mnist, cifar10):
        for file in module.DATA_SET.layouts[0].files:
            assert file.addresses
            assert file.checksum.startswith("sha256:")
            assert all(address.endswith(file.name) for address in file.addresses)
        for layout in module.DATA_SET.layouts:
            for file in layout.files:
                algorithm, digits = file.checksum.split(":")
                assert len(bytes.fromhex(digits)) == hashlib.new(algorithm).digest_size


# ------------------------------------------------------------------ damaged files


def damaged_mnist(tmp_path, name, content):
    write_mnist(tmp_path, mnist_arrays())
    (tmp_path / name).write_bytes(content)
    with pytest.warns(UserWarning, match="the official file"), pytest.raises(DatasetError) as caught:
        mnist.load_data(tmp_path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "another header"),
        (b"no gzip", "expected a gzip file"),
        (gzip.compress(idx(mnist_arrays()[0][0]))[:-200], "ends or breaks"),
        (gzip.compress(idx(mnist_arrays()[0][0])[:-1]), "expected 9408 bytes after the header, received 9407"),
        (gzip.compress(idx(mnist_arrays()[0][0]) + b"!"), "received more"),
        (gzip.compress(idx(mnist_arrays()[0][1])), "expected an IDX file of pictures"),
        (gzip.compress(idx(np.zeros((12, 27, 28), np.uint8))), r"received an array of shape (12, 27, 28)"),
        (gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 28, 28)), "received 0"),
        (gzip.compress(idx(mnist_arrays()[0][0][:-1])), "expected 11 labels, one for each picture, received 12"),
    ],
)
def test_damaged_idx_files(tmp_path, content, complaint):
    message = damaged_mnist(tmp_path, IDX_FILES[0], content)
    assert complaint in message
    assert "idx" in message


def test_labels_out_of_range(tmp_path):
    message = damaged_mnist(tmp_path, IDX_FILES[3], gzip.compress(idx(np.full(5, 10, np.uint8))))
    assert "expected labels from 0 to 9, received 10" in message


@pytest.mark.parametrize("case", ["no zip", "cut", "pickle", "missing", "floats", "shape"])
def test_damaged_npz(tmp_path, case):
    path = tmp_path / "mnist.npz"
    (x_train, y_train), (x_test, y_test) = mnist_arrays()
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    if case == "pickle":
        arrays["x_train"] = np.array([Bomb(tmp_path / "exploded")], object)
    elif case == "missing":
        del arrays["y_test"]
    elif case == "floats":
        arrays["x_test"] = x_test / 255
    elif case == "shape":
        arrays["x_test"] = x_test[:, :27]
    np.savez(path, **arrays)
    if case == "no zip":
        path.write_bytes(b"nothing")
    elif case == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    with (
        pytest.warns(UserWarning, match="the official file"),
        pytest.raises(DatasetError, match=r"mnist.npz: expected"),
    ):
        mnist.load_data(tmp_path)
    assert not (tmp_path / "exploded").exists()


def damaged_cifar(tmp_path, files, name="cifar-10-python.tar.gz", cut=None):
    path = tmp_path / name
    write_archive(path, files)
    if cut:
        path.write_bytes(cut(path.read_bytes()))
    with pytest.warns(UserWarning, match="the official file"), pytest.raises(DatasetError) as caught:
        cifar10.load_data(tmp_path)
    message = str(caught.value)
    assert name in message
    assert "delete it and fetch it again" in message
    return message


@pytest.mark.parametrize("cut", [lambda _: b"", lambda _: b"no archive", lambda content: content[:-2000]])
@pytest.mark.parametrize(("name", "make"), [("python", python_files), ("binary", binary_files)])
def test_damaged_archives(tmp_path, name, make, cut):
    damaged_cifar(tmp_path, make(cifar_arrays()), f"cifar-10-{name}.tar.gz", cut)


@pytest.mark.parametrize("place", [0.3, 0.9, -6])
def test_a_changed_byte_in_an_archive(tmp_path, place):
    def change(content):
        content = bytearray(content)
        content[place if place < 0 else int(place * len(content))] ^= 0x10
        return bytes(content)

    damaged_cifar(tmp_path, binary_files(cifar_arrays()), "cifar-10-binary.tar.gz", change)


def test_archives_without_a_batch(tmp_path):
    files = python_files(cifar_arrays())
    del files["data_batch_3"]
    assert "expected it to contain data_batch_3" in damaged_cifar(tmp_path, files)


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        ([1, 2], "a list instead of a dictionary"),
        ({}, "expected an array 'data'"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, "rows of 3072 bytes"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}, "something else than unsigned bytes"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "with 2 entries"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "labels from 0 to 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}, "labels from 0 to 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "1"]}, "labels from 0 to 9"),
    ],
)
def test_batches_with_other_contents(tmp_path, batch, complaint):
    files = python_files(cifar_arrays())
    files["data_batch_2"] = pickle.dumps(batch, protocol=2)
    message = damaged_cifar(tmp_path, files)
    assert complaint in message
    assert "data_batch_2" in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "received 0 bytes"), (bytes(3074), "3073 bytes each"), (b"\n" + bytes(3072), "received 10")],
)
def test_binary_batches_with_other_contents(tmp_path, content, complaint):
    files = binary_files(cifar_arrays())
    files["test_batch.bin"] = content
    assert complaint in damaged_cifar(tmp_path, files, "cifar-10-binary.tar.gz")


# ------------------------------------------------------------------ pickles


class Bomb:
    """Its pickle makes a folder when it is read by `pickle.load`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["top", "value", "label"])
def test_a_malicious_pickle_runs_nothing(tmp_path, protocol, place):
    bomb = Bomb(tmp_path / "exploded")
    batch = {
        "top": bomb,
        "value": {"data": bomb, "labels": []},
        "label": {"data": np.zeros((1, 3072), np.uint8), "labels": [bomb]},
    }[place]
    content = pickle.dumps(batch, protocol)
    with pytest.raises(ValueError, match="pickle: expected"):
        read_dictionary(content)
    assert not bomb.path.exists()
    pickle.loads(content)
    assert bomb.path.exists(), "a bomb that cannot explode shows nothing"


def test_a_malicious_archive_runs_nothing(tmp_path):
    files = python_files(cifar_arrays())
    files["test_batch"] = pickle.dumps(Bomb(tmp_path / "exploded"), 2)
    assert "which is not run" in damaged_cifar(tmp_path, files)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy\nndarray.__reduce__\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(S'x'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"ibuiltins\nexec\n(S'1'\ntR.",
        # A state for a function, a class or an array that was never made.
        b"cnumpy.core.multiarray\n_reconstruct\n}S'__globals__'\nNsb.",
        b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
        b"\x80\x02cnumpy\ndtype\n)\x81.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"c__builtin__\nbytes\n(I1000000000\ntR.",
        b"Pid\n.",
        b"\x82\x01.",
        b"",
        b".",
    ],
)
def test_pickles_that_name_other_things(content):
    with pytest.raises(ValueError, match="pickle: expected"):
        read_dictionary(content)


def test_arrays_that_claim_more_than_they_have():
    planes = np.zeros((2, 3072), np.uint8)
    honest = pickle.dumps({"data": planes}, 2)
    extent = pickle.dumps(3072, 2)[2:-1]
    assert honest.count(extent) == 1
    with pytest.raises(ValueError, match="an array of shape"):
        read_dictionary(honest.replace(extent, pickle.dumps(65000, 2)[2:-1]))


def python2_pickle(planes, labels):
    """The dictionary as Python 2 wrote it: byte strings for text and for the bytes of arrays."""
    raw = planes.tobytes()

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def integer(value):
        return b"J" + struct.pack("<i", value)

    rows, columns = planes.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + integer(0) + b"\x85" + text(b"b") + b"\x87R"
        b"(" + integer(1) + integer(rows) + integer(columns) + b"\x86"
        b"cnumpy\ndtype\n" + text(b"u1") + integer(0) + integer(1) + b"\x87R"
        b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
        b"\x89" + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )
    numbers = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_pickles_of_python_2():
    planes = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    content = python2_pickle(planes, [1, 2, 9])
    assert sum(1 for _ in pickletools.genops(content)) > 20
    np.testing.assert_array_equal(pickle.loads(content, encoding="bytes")[b"data"], planes)
    read = read_dictionary(content)
    assert read["labels"] == [1, 2, 9]
    np.testing.assert_array_equal(read["data"], planes)


@given(
    shape=st.one_of(st.tuples(st.integers(0, 9)), st.tuples(st.integers(0, 4), st.integers(0, 4))),
    order=st.sampled_from("CF"),
    protocol=st.integers(0, 4),
    labels=st.lists(st.integers(-(2**40), 2**40)),
    text=st.binary(max_size=300),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_read_is_what_was_written(shape, order, protocol, labels, text, seed):
    array = np.asarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), order=order)
    read = read_dictionary(pickle.dumps({b"data": array, "labels": labels, b"text": text}, protocol))
    np.testing.assert_array_equal(read["data"], array)
    assert read["labels"] == labels
    assert read["text"] == text


@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_changed_pickle_is_read_or_refused(place, mask):
    content = bytearray(pickle.dumps({"data": np.zeros((1, 4), np.uint8), "labels": [1, 2, 3]}, 2))
    content[int(place * len(content))] ^= mask
    # Any other error than the refusal fails the test.
    with contextlib.suppress(ValueError):
        assert isinstance(read_dictionary(bytes(content)), dict)


# ------------------------------------------------------------------ examples


def run_example(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*expected the official file")
@pytest.mark.parametrize(
    ("name", "write", "options", "pictures"),
    [
        ("cifar10_cnn.py", lambda folder: write_folder(folder, binary_files(cifar_arrays())), (),
         ["cifar10_features.png", "cifar10_pictures.png", "cifar10_training.png"]),
        ("mnist_cnn.py", lambda folder: write_mnist(folder, mnist_arrays()), (),
         ["mnist_confusion.png", "mnist_misread.png", "mnist_training.png"]),
        ("mnist_cnn.py", lambda folder: write_mnist(folder, mnist_arrays()), ("--fashion",),
         ["fashion_mnist_confusion.png", "fashion_mnist_misread.png", "fashion_mnist_training.png"]),
    ],
)  # fmt: skip
def test_examples(tmp_path, monkeypatch, capsys, name, write, options, pictures):
    write(tmp_path / "data")
    output = tmp_path / "pictures"
    run_example(
        monkeypatch, name, "--data", tmp_path / "data", "--quick", "--device", "cpu", "--output", output, *options
    )
    assert sorted(os.listdir(output)) == pictures
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cifar10_cnn.py", "mnist_cnn.py"])
def test_examples_without_data_say_what_is_missing(tmp_path, monkeypatch, name):
    with pytest.raises(SystemExit, match=r"path: expected .* received a folder without"):
        run_example(monkeypatch, name, "--data", tmp_path, "--output", tmp_path / "pictures")
