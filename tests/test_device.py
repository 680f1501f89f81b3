"""Choosing a device, what is said where there is none, and arrays that live on a GPU.

Where a GPU is needed, one is made up: a copy of the CPU device that notes what it is asked for.
"""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numba
import numpy as np
import pytest
from gpuconv.kernels import TABLE, cpu
from gpuconv.kernels.cuda import toolkit

import gpuconv
from gpuconv import device, functional, interchange, layers, models

ABSENT = "nothing that answers: pip install something"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nobody has chosen a device yet, and no GPU answers."""
    monkeypatch.setattr(device, "_chosen", None)
    monkeypatch.delenv("GPUCONV_DEVICE", raising=False)
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
    monkeypatch.setattr(device, "cuda_status", lambda: (False, ABSENT))


@pytest.fixture
def gpu(monkeypatch):
    """A GPU answers: the CPU's kernels under another name, which note their calls."""
    made_up = SimpleNamespace(calls=[], describe=lambda: [("CUDA driver", "1.2"), ("GPU", "made up")])

    def noting(name):
        def call(*given):
            made_up.calls.append(name)
            return getattr(cpu, name)(*given)

        return call

    for name in TABLE:
        setattr(made_up, name, noting(name))
    # Unlike the CPU, it has memory of its own.
    made_up.from_host = lambda array: np.array(array, order="C")
    monkeypatch.setattr(device, "cuda_status", lambda: (True, "made up"))
    monkeypatch.setattr(device, "module", lambda name: {"cpu": cpu, "cuda": made_up}[name])
    return made_up


# ------------------------------------------------------------------ the choice


@pytest.mark.parametrize(("value", "expected"), [(None, "cpu"), ("", "cpu"), ("auto", "cpu"), ("cpu", "cpu")])
def test_the_environment_without_a_gpu(value, expected, monkeypatch):
    if value is not None:
        monkeypatch.setenv("GPUCONV_DEVICE", value)
    assert device.current_name() == expected
    assert device.current() is cpu


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("value", "expected"), [(None, "cuda"), ("", "cuda"), ("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")]
)
def test_the_environment_with_a_gpu(value, expected, monkeypatch):
    if value is not None:
        monkeypatch.setenv("GPUCONV_DEVICE", value)
    assert device.current_name() == expected


@pytest.mark.usefixtures("gpu")
def test_the_simulator_is_used_only_when_asked_for(monkeypatch):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert device.current_name() == "cpu"
    assert device.resolve("auto") == "cpu"
    assert device.resolve("cuda") == "cuda"


def test_unknown_names(monkeypatch):
    for name in ("gpu", "CPU", 0, None):
        with pytest.raises(ValueError, match=r"device: expected one of 'auto', 'cpu', 'cuda', received"):
            gpuconv.use_device(name)
    monkeypatch.setenv("GPUCONV_DEVICE", "gpu")
    with pytest.raises(ValueError, match=r"device: expected one of 'auto', 'cpu', 'cuda', received 'gpu'"):
        functional.relu([1.0])


@pytest.mark.usefixtures("gpu")
def test_use_device_as_a_call():
    chosen = gpuconv.use_device("cpu")
    assert device.current_name() == "cpu"
    assert repr(chosen) == "<using device 'cpu'>"
    gpuconv.use_device("cuda")
    assert device.current_name() == "cuda"
    gpuconv.use_device("auto")
    assert device.current_name() == "cuda"


@pytest.mark.usefixtures("gpu")
def test_use_device_in_a_block(monkeypatch):
    monkeypatch.setenv("GPUCONV_DEVICE", "cpu")
    with gpuconv.use_device("cuda"):
        assert device.current_name() == "cuda"
        with gpuconv.use_device("cpu"):
            assert device.current_name() == "cpu"
        assert device.current_name() == "cuda"
        with pytest.raises(KeyError), gpuconv.use_device("cpu"):
            raise KeyError
        assert device.current_name() == "cuda"
    assert device.current_name() == "cpu"


def test_a_refused_choice_changes_nothing():
    gpuconv.use_device("cpu")
    for name in ("cuda", "gpu"):
        with pytest.raises((ValueError, gpuconv.DeviceError)), gpuconv.use_device(name):
            raise AssertionError("never entered")
    assert device._chosen == "cpu"


def test_the_device_of_a_model(gpu, monkeypatch):
    monkeypatch.setenv("GPUCONV_DEVICE", "cuda")
    x = np.ones((2, 3), np.float32)

    def computing(device=None):
        model = models.Sequential([layers.Input((3,)), layers.Dense(2)], device=device)
        assert model.device is None
        model.predict(x, verbose=0)
        return model.device

    assert computing() is gpu
    assert computing("cpu") is cpu
    with gpuconv.use_device("cpu"):
        assert computing() is cpu
        assert computing("auto") is computing("cuda") is gpu


def test_a_model_moves_with_its_weights(gpu):
    x, y = np.random.RandomState(0).rand(8, 3), np.eye(2)[[0, 1] * 4]
    model = models.Sequential([layers.Input((3,)), layers.BatchNormalization(), layers.Dense(2, "softmax")])
    model.compile("sgd", "categorical_crossentropy")
    with gpuconv.use_device("cpu"):
        model.fit(x, y, verbose=0)
        weights, expected = model.get_weights(), model.predict(x, verbose=0)
    assert gpu.calls == []
    with gpuconv.use_device("cuda"):
        assert model.predict(x, verbose=0).tobytes() == expected.tobytes()
        assert "dense" in gpu.calls
        model.fit(x, y, verbose=0)
        trained = model.get_weights()
        assert all((ours != theirs).any() for ours, theirs in zip(trained, weights, strict=True))
    gpu.calls.clear()
    with gpuconv.use_device("cpu"):
        assert [weight.tobytes() for weight in model.get_weights()] == [weight.tobytes() for weight in trained]
        model.predict(x, verbose=0)
    assert not {"dense", "normalize"} & set(gpu.calls)


# ------------------------------------------------------------------ what is missing

# Without its cache, and before the fixture puts another in its place.
REAL_STATUS = device.cuda_status.__wrapped__

BROKEN = {
    "no package": ("numba-cuda is not installed", {"find_spec": lambda name: None}),
    "a package that cannot be imported": (
        "numba-cuda cannot be imported (OSError: libcuda)",
        {"cuda": None, "_import_error": "OSError: libcuda"},
    ),
    "no driver": (
        "no NVIDIA driver answers (CUDA_ERROR 100)",
        {"cuda": SimpleNamespace(cuda_error=lambda: "CUDA_ERROR\n 100")},
    ),
    "something else": (
        "no CUDA device answers (ZeroDivisionError: division by zero)",
        {"cuda": SimpleNamespace(cuda_error=lambda: 1 / 0)},
    ),
}


@pytest.mark.parametrize(("missing", "settings"), BROKEN.values(), ids=BROKEN)
def test_the_error_says_what_is_missing_and_what_installs_it(missing, settings, monkeypatch):
    monkeypatch.setattr(device, "cuda_status", REAL_STATUS)
    monkeypatch.setattr(toolkit, "SIMULATED", False)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: name)
    for name, value in settings.items():
        monkeypatch.setattr(device.importlib.util if name == "find_spec" else toolkit, name, value)
    for ask in (
        lambda: gpuconv.use_device("cuda"),
        lambda: models.Sequential(device="cuda"),
        lambda: device.resolve("cuda"),
    ):
        with pytest.raises(gpuconv.DeviceError) as caught:
            ask()
        message = str(caught.value)
        assert message.startswith("device: expected a CUDA GPU for 'cuda', received none: ")
        assert missing in message
        assert "pip install 'gpuconv[cuda13]'" in message
    assert device.current_name() == "cpu"


# ------------------------------------------------------------------ show_config


def shown(capsys):
    """What show_config prints, by name."""
    gpuconv.show_config()
    printed = capsys.readouterr()
    assert printed.err == ""
    return dict(line.split("  ", 1) for line in printed.out.splitlines()), printed.out


def test_show_config_without_a_gpu(capsys):
    rows, text = shown(capsys)
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["gpuconv"] == gpuconv.__version__
    assert rows["NumPy"] == np.__version__
    assert rows["Numba"].startswith(numba.__version__)
    assert rows["CPU threads"] == f"{gpuconv.get_num_threads()} of {os.cpu_count()} processors"
    assert rows["GPUCONV_DEVICE"] == "not set"
    assert rows["CUDA"] == f"not available: {ABSENT}"
    assert rows["device in use"] == "cpu"
    # One column.
    assert len({len(line) - len(line[18:].lstrip()) for line in text.splitlines()}) == 1


@pytest.mark.usefixtures("gpu")
def test_show_config_with_a_gpu(capsys):
    rows, _ = shown(capsys)
    assert rows["GPU"].strip() == "made up"
    assert rows["device in use"].strip() == "cuda"


@pytest.mark.parametrize(("value", "message"), [("cuda", ABSENT), ("gpu", "received 'gpu'")])
def test_show_config_shows_a_device_that_cannot_be_had(value, message, capsys, monkeypatch):
    monkeypatch.setenv("GPUCONV_DEVICE", value)
    rows, _ = shown(capsys)
    assert rows["GPUCONV_DEVICE"].strip() == value
    assert rows["device in use"].strip().startswith("none, device: expected")
    assert rows["device in use"].endswith(message)


# ------------------------------------------------------------------ devices offer the table


def test_the_cpu_offers_every_name_of_the_table():
    assert all(callable(getattr(cpu, name)) for name in TABLE)
    assert device.module("cpu") is cpu


def test_cuda_offers_every_name_of_the_table():
    script = """
from gpuconv import device
from gpuconv.kernels import TABLE
assert device.cuda_status() == (True, "Numba's CUDA simulator")
assert device.current_name() == "cpu"
module = device.module(device.resolve("cuda"))
assert module.__name__ == "gpuconv.kernels.cuda"
print([name for name in TABLE if not callable(getattr(module, name, None))])
"""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# ------------------------------------------------------------------ arrays that live on a GPU


class GpuArray:
    """An array that only its GPU can read."""

    def __init__(self, values, dtype="float32"):
        self.memory = np.array(values, dtype)
        self.shape, self.dtype, self.device = self.memory.shape, self.memory.dtype, "cuda:0"

    def __array__(self, *args, **kwargs):
        raise AssertionError("NumPy has read an array of the GPU")


class CupyArray(GpuArray):
    __module__ = "cupy.core"
    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012 (never written to)


class Tensor(GpuArray):
    __module__ = "torch"
    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012 (never written to)


class JaxArray(GpuArray):
    """One that speaks DLPack alone."""

    __module__ = "jaxlib.xla"

    def __dlpack_device__(self):
        return 2, 0

    def __array_namespace__(self):
        return SimpleNamespace(from_dlpack=lambda array: JaxArray(array.memory))


class NumbaArray(GpuArray):
    __module__ = "numba_cuda.numba.cuda"

    def copy_to_host(self):
        return self.memory


KINDS = [CupyArray, Tensor, JaxArray, NumbaArray]


@pytest.fixture
def libraries(gpu, monkeypatch):
    """The libraries that exchange arrays, in which the made-up device's arrays are NumPy's."""
    cupy, torch, cuda = ModuleType("cupy"), ModuleType("torch"), ModuleType("cuda")
    cupy.from_dlpack = lambda array: CupyArray(array.memory)
    cupy.asarray = lambda array: CupyArray(array, array.dtype)
    torch.as_tensor = lambda array, device: SimpleNamespace(memory=array, device=device)
    cuda.as_cuda_array = lambda array: array.memory
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(numba, "cuda", cuda, raising=False)
    return gpu


@pytest.mark.parametrize("kind", [CupyArray, Tensor, JaxArray])
def test_gpu_arrays_are_computed_there_and_come_back_in_kind(kind, libraries):
    gpuconv.use_device("cpu")
    x, filters = np.arange(9.0).reshape(1, 3, 3, 1), np.ones((2, 2, 1, 1))
    y = functional.correlate2d(kind(x), kind(filters), kind([1.0]), activation="relu")
    assert y.memory[0, :, :, 0].tolist() == [[9, 13], [21, 25]]
    assert y.memory.dtype == np.float32
    assert isinstance(y, kind) or (kind is Tensor and y.device == "cuda:0")
    assert libraries.calls == ["empty", "correlate2d", "synchronize"]
    dfilters, dbias = functional.correlate2d_gradient_filters(kind(x), kind(np.ones((1, 2, 2, 1))), 2)
    assert dfilters.memory.ravel().tolist() == [8, 12, 20, 24]
    assert dbias.memory.tolist() == [4]


def test_arrays_of_numba_come_back_as_they_are(libraries):
    array = NumbaArray([1.0, -2.0])
    assert interchange.lives_on_gpu(array)
    assert interchange._as_numba(array) is array
    assert interchange._as_kind_of(array, array) is array


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("kind", KINDS)
def test_mixtures_are_refused(kind):
    matrix, kernel = np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)
    for x, other in ((kind(matrix), kernel), (matrix, kind(kernel)), (matrix.tolist(), kind(kernel))):
        with pytest.raises(TypeError, match="x, kernel: expected all arrays on the GPU or none, received a mixture"):
            functional.dense(x, other)
    with pytest.raises(TypeError, match="x, kernel, bias: expected all arrays on the GPU"):
        functional.dense(matrix, kernel, kind([0.0, 0.0]))


@pytest.mark.usefixtures("libraries")
def test_gpu_arrays_keep_their_type():
    matrix, kernel = np.ones((2, 3)), np.ones((3, 2))
    assert functional.dense(CupyArray(matrix, "float64"), CupyArray(kernel, "float64")).memory.dtype == np.float64
    for first, second in (("float32", "float64"), ("int32", "int32"), ("float16", "float16")):
        with pytest.raises(
            TypeError, match="x, kernel: expected GPU arrays of one dtype, float32 or float64, received"
        ):
            functional.dense(CupyArray(matrix, first), CupyArray(kernel, second))


@pytest.mark.parametrize("kind", KINDS)
def test_gpu_arrays_without_a_gpu_that_answers(kind):
    with pytest.raises(gpuconv.DeviceError, match=ABSENT):
        functional.relu(kind([1.0]))


def test_what_lives_on_a_gpu():
    on_host = SimpleNamespace(__dlpack_device__=lambda: (1, 0))
    assert not any(map(interchange.lives_on_gpu, (np.ones(2), [1.0], 1.0, None, on_host)))
    assert all(interchange.lives_on_gpu(kind([1.0])) for kind in KINDS)


def test_host_arrays_go_to_the_device_in_use_and_come_back(gpu):
    for name in ("cuda", "cpu"):
        gpu.calls.clear()
        with gpuconv.use_device(name):
            y = functional.relu([-1.0, 2.0])
        assert isinstance(y, np.ndarray)
        assert y.tolist() == [0, 2]
        assert ("activate" in gpu.calls) == (name == "cuda")
