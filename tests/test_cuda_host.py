"""What the host does around CUDA kernels: which GPU is taken, memory, streams, and what happens when something fails.

Where a driver, a GPU or CuPy is needed, one is made up that fails as it does in practice.
"""

import sys
from types import ModuleType, SimpleNamespace

import numba.core.errors
import numba.cuda.core.errors
import numpy as np
import pytest
from gpuconv.kernels import TABLE, cpu
from gpuconv.kernels.cuda import depthwise, memory, toolkit
from gpuconv.kernels.cuda.counting import _advance
from hypothesis import given
from support import correlations

import gpuconv
from gpuconv import device, layers, models

MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is remembered of other tests, and this is no simulation."""
    monkeypatch.setattr(toolkit, "SIMULATED", False)
    monkeypatch.setattr(toolkit, "_refused", set())
    monkeypatch.setitem(sys.modules, "cupy", None)
    remembering = (toolkit.stream, toolkit._pool, toolkit._configured)
    for function in remembering:
        function.cache_clear()
    yield
    for function in remembering:
        function.cache_clear()


class OutOfMemoryError(Exception):
    """As numba-cuda's driver raises it."""

    def __init__(self):
        super().__init__("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")


class Stream:
    """A stream, which notes what it is asked for."""

    def __init__(self, ptr=7):
        self.ptr, self.entered, self.waits = ptr, 0, 0

    def __enter__(self):
        self.entered += 1
        return self

    def __exit__(self, *exception):
        pass

    def synchronize(self):
        self.waits += 1


class Array:
    """A device array of a made-up GPU."""

    def __init__(self, shape, dtype, stream):
        self.cells, self.stream = np.zeros(shape, dtype), stream

    def copy_to_device(self, source, stream):
        assert stream is toolkit.stream()
        self.cells[...] = getattr(source, "cells", source)

    def copy_to_host(self, stream=None):
        return self.cells.copy()


def working(**changed):
    """Numba's CUDA target with a GPU, but for what is changed."""
    stream = Stream()

    def device_array(shape, dtype, stream=0):
        return Array(shape, dtype, stream)

    def to_device(array):
        placed = Array(array.shape, array.dtype, 0)
        placed.cells[...] = array
        return placed

    parts = {
        "cuda_error": lambda: None,
        "gpus": [0],
        "get_current_device": lambda: SimpleNamespace(compute_capability=(8, 9), name=b"made up"),
        "is_available": lambda: True,
        "cudadrv": SimpleNamespace(driver=SimpleNamespace(get_version=lambda: (13, 0))),
        "runtime": SimpleNamespace(get_version=lambda: (13, 1)),
        "to_device": to_device,
        "device_array": device_array,
        "as_cuda_array": lambda array, sync: SimpleNamespace(array=array, sync=sync),
        "stream": lambda: stream,
        "external_stream": Stream,
        "current_context": lambda: SimpleNamespace(get_memory_info=lambda: (3 * MEBIBYTE, 8 * MEBIBYTE)),
    }
    return SimpleNamespace(**{**parts, **changed})


# ------------------------------------------------------------------ which GPU is taken


def failing(error):
    def call(*arguments, **options):
        raise error

    return call


UNUSABLE = {
    "no GPU": ({"gpus": []}, "the driver finds no CUDA device"),
    "an old GPU": (
        {"get_current_device": lambda: SimpleNamespace(compute_capability=(7, 0), name="Tesla V100")},
        "Tesla V100 has compute capability 7.0, and 7.5 or more is needed",
    ),
    "no compiler": (
        {"is_available": lambda: False},
        "made up answers, but NVIDIA's compiler library NVVM is missing: pip",
    ),
    "an old driver": (
        {"cudadrv": SimpleNamespace(driver=SimpleNamespace(get_version=lambda: (12, 4)))},
        "made up answers, but its driver is of CUDA 12.4, too old for code of the installed compiler of CUDA 13.1: "
        "install a newer driver, or pip install 'gpuconv[cuda13]' (or 'gpuconv[cuda12]' for a driver of CUDA 12)",
    ),
    "a driver that breaks": (
        {"get_current_device": failing(RuntimeError("CUDA_ERROR_UNKNOWN\n (999)"))},
        "no CUDA device answers (RuntimeError: CUDA_ERROR_UNKNOWN (999)): pip install",
    ),
    "memory that forgets": (
        {"to_device": lambda array: Array(array.shape, array.dtype, 0)},
        "made up does not give back what is copied to it",
    ),
}


@pytest.mark.parametrize(("changed", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_gpu_that_cannot_be_used(changed, reason, monkeypatch):
    monkeypatch.setattr(toolkit, "cuda", working(**changed))
    answers, found = toolkit.probe()
    assert not answers
    assert found.startswith(reason)
    assert toolkit.describe()[1] == ("CUDA", f"not available: {found}")
    monkeypatch.setattr(device, "cuda_status", toolkit.probe)
    monkeypatch.setattr(device, "_chosen", None)
    monkeypatch.delenv("GPUCONV_DEVICE", raising=False)
    assert device.current_name() == "cpu"
    with pytest.raises(gpuconv.DeviceError) as caught:
        gpuconv.use_device("cuda")
    assert found in str(caught.value)


@pytest.mark.parametrize("runtime", [lambda: (12, 9), lambda: (13, 9), failing(ImportError("no NVRTC"))])
def test_a_gpu_that_can(runtime, monkeypatch):
    # Code of a newer minor version runs; a compiler that does not tell its version is taken as it is.
    monkeypatch.setattr(toolkit, "cuda", working(runtime=SimpleNamespace(get_version=runtime)))
    assert toolkit.probe() == (True, "made up, compute capability 8.9")
    assert ("device memory", "Numba's") in toolkit.describe()


# ------------------------------------------------------------------ streams and memory


def test_everything_goes_through_one_stream(monkeypatch):
    monkeypatch.setattr(toolkit, "cuda", working())
    array = memory.from_host(np.arange(6.0).reshape(2, 3))
    assert array.stream is toolkit.stream() is toolkit.stream()
    other = memory.empty((2, 3), np.float64)
    memory.copy(array, other)
    assert toolkit.stream().waits == 0
    assert memory.to_host(other).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert toolkit.stream().waits == 1
    assert memory.to_host(memory.zeros((2,), np.int32)).tolist() == [0, 0]
    started = []

    class Kernel:
        def __getitem__(self, configuration):
            started.append(configuration)
            return lambda *arguments: started.append(arguments)

    toolkit.launch(Kernel(), (3,), (32,), 1, 2)
    assert started == [((3,), (32,), toolkit.stream()), (1, 2)]
    toolkit.launch(Kernel(), (0,), (32,), 1, 2)
    assert len(started) == 2


def made_up_cupy(monkeypatch, empty):
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(Stream=Stream)
    cupy.empty = empty
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


def test_memory_comes_from_cupy_where_it_works(monkeypatch):
    monkeypatch.setattr(toolkit, "cuda", working())
    made_up_cupy(monkeypatch, np.empty)
    array = toolkit.allocate((2, 3), np.float32)
    assert array.sync is False
    assert (array.array.shape, array.array.dtype) == ((2, 3), np.float32)
    # Numba's stream is the one that the pool's arrays belong to.
    assert toolkit.stream().ptr == toolkit._pool().stream.ptr
    assert toolkit._pool().stream.entered == 2
    assert ("device memory", "CuPy's pool") in toolkit.describe()


def test_memory_comes_from_numba_where_cupy_does_not_work(monkeypatch):
    monkeypatch.setattr(toolkit, "cuda", working())
    made_up_cupy(monkeypatch, failing(RuntimeError("cudaErrorInsufficientDriver")))
    assert isinstance(toolkit.allocate((2,), np.float32), Array)


def test_no_room(monkeypatch):
    expected = (
        "device memory: expected 4.0 MiB for an array of shape (1024, 1024) and type float32, received 3.0 MiB free of "
        "8.0 MiB; make batch_size or the pictures smaller, or free other arrays and models"
    )
    # As Numba's driver says it, and as CuPy's pool does.
    monkeypatch.setattr(toolkit, "cuda", working(device_array=failing(OutOfMemoryError())))
    with pytest.raises(MemoryError) as caught:
        memory.empty((1024, 1024), np.float32)
    assert str(caught.value) == expected
    toolkit._pool.cache_clear()
    room = iter([True])
    made_up_cupy(monkeypatch, lambda shape, dtype: next(room, None) or failing(MemoryError("1,024 bytes"))())
    with pytest.raises(MemoryError) as caught:
        toolkit.workspace(2**20, np.float64)
    assert "expected 8.0 MiB for an array of shape 1048576 and type float64, received 3.0 MiB free" in str(caught.value)


def test_no_room_and_a_driver_that_does_not_even_tell(monkeypatch):
    broken = working(device_array=failing(OutOfMemoryError()), current_context=failing(RuntimeError("lost")))
    monkeypatch.setattr(toolkit, "cuda", broken)
    with pytest.raises(MemoryError, match=r"received no room \(RuntimeError: lost\); make batch_size"):
        memory.empty((4,), np.float32)


def test_other_errors_of_the_driver_are_not_taken_for_want_of_memory(monkeypatch):
    monkeypatch.setattr(toolkit, "cuda", working(device_array=failing(RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS"))))
    with pytest.raises(RuntimeError, match="ILLEGAL_ADDRESS"):
        memory.empty((4,), np.float32)


@pytest.fixture
def small_gpu(monkeypatch):
    """The CPU's kernels under another name, on a device whose arrays may not be larger than `limit` bytes."""
    made_up = SimpleNamespace(limit=1 << 30, **{name: getattr(cpu, name) for name in TABLE})

    def empty(shape, dtype):
        if int(np.prod(shape)) * np.dtype(dtype).itemsize > made_up.limit:
            raise MemoryError("device memory: expected more")
        return cpu.empty(shape, dtype)

    def from_host(array):
        placed = empty(array.shape, array.dtype)
        placed[...] = array
        return placed

    made_up.empty, made_up.from_host = empty, from_host
    made_up.zeros = lambda shape, dtype: from_host(np.zeros(shape, dtype))
    monkeypatch.setattr(device, "cuda_status", lambda: (True, "made up"))
    monkeypatch.setattr(device, "module", lambda name: {"cpu": cpu, "cuda": made_up}[name])
    return made_up


X, Y = np.random.RandomState(0).rand(64, 5), np.eye(2)[np.arange(64) % 2]


def small_model():
    gpuconv.utils.set_random_seed(5)
    model = models.Sequential([layers.Input((5,)), layers.Dense(40, "relu"), layers.Dense(2, "softmax")])
    model.compile("adam", "categorical_crossentropy")
    return model


def test_a_model_outlives_a_batch_without_room(small_gpu):
    with gpuconv.use_device("cuda"):
        model, twin = small_model(), small_model()
        for each in (model, twin):
            gpuconv.utils.set_random_seed(6)
            each.fit(X, Y, batch_size=4, verbose=0)
        history, weights = model.history, [weight.tobytes() for weight in model.get_weights()]
        small_gpu.limit = 4 * 40 * 16  # 16 rows of the widest layer
        for refused in (
            lambda: model.fit(X, Y, batch_size=32, verbose=0),
            lambda: model.fit(X[:8], Y[:8], batch_size=4, validation_data=(X, Y), validation_batch_size=32, verbose=0),
            lambda: model.predict(X, batch_size=32, verbose=0),
            lambda: gpuconv.warmup(model, 32),
        ):
            with pytest.raises(MemoryError, match="device memory"):
                refused()
            assert model.history is history
            assert [weight.tobytes() for weight in model.get_weights()] == weights
        # Smaller batches go on, as if nothing had been.
        for each in (model, twin):
            gpuconv.utils.set_random_seed(7)
            each.fit(X, Y, batch_size=8, verbose=0)
    assert [weight.tobytes() for weight in model.get_weights()] == [weight.tobytes() for weight in twin.get_weights()]


def test_a_model_that_finds_no_room_on_another_device_stays_whole(small_gpu):
    model = small_model()
    with gpuconv.use_device("cpu"):
        model.fit(X, Y, verbose=0)
        expected = model.predict(X, verbose=0)
    copied = []
    from_host = small_gpu.from_host

    def fourth_fails(array):
        copied.append(array)
        if len(copied) == 4:
            raise MemoryError("device memory: expected more")
        return from_host(array)

    small_gpu.from_host = fourth_fails
    with gpuconv.use_device("cuda"), pytest.raises(MemoryError):
        model.predict(X, verbose=0)
    with gpuconv.use_device("cpu"):
        assert model.predict(X, verbose=0).tobytes() == expected.tobytes()
        model.fit(X, Y, verbose=0)
        assert model.predict(X, verbose=0).tobytes() != expected.tobytes()


# ------------------------------------------------------------------ how work is laid out


@given(correlations())
def test_runs_of_a_depthwise_gradient_find_the_columns_that_saw_them(g):
    t, pad_left = depthwise.input_layout_of(g, 1), depthwise.of_dz(g).pad_left
    for v in range(g.width):
        number, r = divmod(v, t.run)
        left = number * (t.run // g.stride_width) - pad_left
        for b in range(g.kernel_width):
            column, rest = divmod(v + g.pad_left - b * g.dilation_width, g.stride_width)
            moved = r + t.reach - b * g.dilation_width
            assert (moved % t.between == 0) == (rest == 0)
            if rest == 0:
                assert 0 <= moved // t.between < t.columns
                assert left + moved // t.between * t.column_step == column


# ------------------------------------------------------------------ kernels that do not compile


@pytest.mark.parametrize("coloured", [False, True])
def test_nobody_is_warned_of_small_grids(coloured, monkeypatch):
    if coloured:  # as on a terminal
        highlight = SimpleNamespace(errmsg=lambda message: f"\033[1m{message}\033[0m")
        monkeypatch.setattr(numba.cuda.core.errors, "termcolor", lambda: highlight)
    # Numba warns once of each grid: no two here are the same.
    blocks = 5 if coloured else 7
    with pytest.warns(numba.cuda.core.errors.NumbaPerformanceWarning, match=f"Grid size {blocks} "):
        _advance[(blocks,), (32,), 0]
    monkeypatch.setattr(toolkit, "stream", lambda: 0)
    assert toolkit._configured(_advance, (blocks + 1,), (32,)).griddim == (blocks + 1, 1, 1)


class NvvmError(Exception):
    """By the name of numba-cuda's."""


COMPILING = {
    "Numba's typing": numba.core.errors.TypingError("no such function"),
    "typing": numba.cuda.core.errors.TypingError("no such function"),
    "NVVM": NvvmError("NVVM_ERROR_COMPILATION"),
    "loading": RuntimeError("[222] Call to cuLinkAddData results in CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
    "registers": RuntimeError("[701] Call to cuLaunchKernel results in CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
}


@pytest.mark.parametrize("error", COMPILING.values(), ids=COMPILING)
def test_a_kernel_that_does_not_compile_gives_way_to_the_generic_one(error):
    calls = []

    def specialised():
        calls.append("specialised")
        raise error

    with pytest.warns(RuntimeWarning, match=f"tiles of 128: expected kernels that compile.*{type(error).__name__}"):
        toolkit.attempt("tiles of 128", specialised, lambda: calls.append("generic"))
    # No second warning, which would be an error here, and no second compilation.
    toolkit.attempt("tiles of 128", specialised, lambda: calls.append("generic"))
    assert calls == ["specialised", "generic", "generic"]
    toolkit.attempt("tiles of 64", lambda: calls.append("another"), lambda: calls.append("generic"))
    assert calls[3:] == ["another"]


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS"), MemoryError("device memory"), ValueError()]
)
def test_other_errors_of_a_kernel_are_errors(error):
    def generic():
        raise AssertionError("called in place of an error")

    with pytest.raises(type(error)):
        toolkit.attempt("tiles of 128", failing(error), generic)
