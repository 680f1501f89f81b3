"""Small networks' steps in strands: which calls, and that no bit depends on it."""

import itertools
import sys

import numpy as np
import pytest
from gpuconv.kernels import TABLE, cpu
from gpuconv.kernels.cpu import parts, strands
from gpuconv.kernels.formulas import LINEAR, RELU, TANH
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from gpuconv.kernels.repetition import Counter, now

from gpuconv import layers, models, optimizers, utils

BATCH, INPUTS, CLASSES = 53, 12, 5
RANDOM = np.random.default_rng(3)


def numbers(*shape, dtype=np.float32):
    return RANDOM.uniform(-1, 1, shape).astype(dtype)


@pytest.fixture
def threads(monkeypatch):
    """Let steps be arranged for so many threads, whether the team has them or not."""
    return lambda count: monkeypatch.setattr(strands, "get_num_threads", lambda: count)


@pytest.fixture
def arranged(monkeypatch):
    """How many branches the phases have of each repetition that is made during a test."""
    made = []

    def phases_of(calls, lent):
        phases = strands.phases_of(calls, lent)
        made.append([len(branches) for branches in phases])
        return phases

    monkeypatch.setattr(sys.modules["gpuconv.kernels.cpu.repetition"], "phases_of", phases_of)
    return made


def dense_step(batch=BATCH, inputs=INPUTS, units=8):
    """The calls of a step with one layer, its data set, and what it computes."""
    source, order = numbers(4 * batch, inputs), RANDOM.permutation(4 * batch).astype(np.int32)
    x, kernel, bias, y = (
        np.zeros((batch, inputs), np.float32),
        numbers(inputs, units),
        numbers(units),
        numbers(batch, units),
    )
    targets, losses, dy = abs(numbers(batch, units)), numbers(batch), numbers(batch, units)
    dkernel, dbias, dx, totals = np.zeros_like(kernel), np.zeros_like(bias), np.zeros_like(x), np.zeros(8, np.float32)
    calls = [
        (cpu.gather, (source, order, Counter(0, batch), x)),
        (cpu.dense, (x, kernel, bias, RELU, 0.0, y)),
        (cpu.softmax_cross_entropy, (y, targets, 1 / batch, losses, dy)),
        (cpu.dense_gradient_kernel, (x, dy, y, RELU, 0.0, dkernel, dbias)),
        (cpu.dense_gradient_input, (dy, y, kernel, RELU, 0.0, dx)),
        (cpu.sum_into, (losses, Counter(0), totals)),
        (cpu.sgd, (dkernel.reshape(-1), 0.1, 0.0, False, 0.0, kernel.reshape(-1), np.zeros(1, np.float32))),
    ]
    return calls, (source, order, totals), (x, y, losses, dy, dkernel, dbias, dx, kernel, totals)


def sizes(calls, lent=()):
    """How many calls each branch of each phase has."""
    return [[len(branch) for branch in phase] for phase in strands.phases_of(calls, lent)]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_repeated_step_has_the_same_bits(count, threads):
    threads(count)
    calls, lent, results = dense_step()
    before = [array.copy() for array in results]
    for kernel, arguments in calls:
        kernel(*now(arguments))
    repeat = cpu.repetition(calls, lent)
    repeat(2)
    repeated = [array.copy() for array in results]
    for array, old in zip(results, before, strict=True):
        array[...] = old
    for step in range(3):
        for kernel, arguments in calls:
            kernel(*(one + step * one.step if isinstance(one, Counter) else one for one in arguments))
    for array, other in zip(results, repeated, strict=True):
        assert array.tobytes() == other.tobytes()
    # From the first sample again.
    repeat.restart(lent)
    repeat(1)
    np.testing.assert_array_equal(results[0], lent[0][lent[1][:BATCH]])


def test_how_a_step_is_arranged(threads):
    calls, lent, _ = dense_step()
    threads(1)
    # A sum is two parts' sums, and two additions, of kernel and bias.
    assert sizes(calls, lent) == [[10]]
    threads(2)
    assert sizes(calls, lent) == [[5, 5], [], [4]]
    threads(100)
    assert sizes(calls, lent) == [[4, 4, 4], [1, 1], [4]]


def test_large_sums_are_not_in_parts(threads):
    threads(2)
    calls, lent, _ = dense_step(inputs=parts.MOST_BYTES // BATCH // 4)
    assert sizes(calls, lent) == [[4, 4], [1], [2]]


def test_strands_do_not_write_what_another_reads(threads):
    threads(2)
    calls, lent, _ = dense_step()
    gather, (dense, (x, kernel, *others)), loss, (of_kernel, given), *_ = calls
    into_kernel = of_kernel, (*given[:5], kernel, given[6])
    assert sizes([gather, (dense, (x, kernel, *others)), loss, into_kernel], lent) == [[3, 3], [1, 1], [2]]


def test_strands_have_all_samples(threads):
    threads(3)
    for batch in range(48, 120):
        array = np.zeros((batch, 2), np.float32)
        ends = strands._strands([strands._known(cpu.put, (array, 0, np.zeros((9, 2))))], ())
        assert len(ends) == 3
        assert [*range(batch)] == [i for first, end in ends for i in range(first, end)]
        assert max(end - first for first, end in ends) <= batch / 3 + parts.VECTOR


def test_calls_that_must_wait_do(threads):
    threads(2)
    calls, lent, (x, *_) = dense_step()
    gather, dense, loss, *others = calls
    # Of these activations nothing is known: they may write what the layer reads.
    activate = cpu.activate, (x, RELU, 0.0, numbers(BATCH, 3))
    assert sizes([gather, activate, dense, loss, *others], lent) == [[1, 1], [], [10]]
    assert sizes([gather, dense, activate, loss], lent) == [[3, 3], [], [1]]
    gradient = cpu.activate_gradient, (x, numbers(BATCH, 3), RELU, 0.0, numbers(BATCH, 3))
    assert sizes([gather, gradient, dense], lent) == [[1, 1], [], [2]]
    # One sum over samples reads what another has written.
    (of_kernel, given), further = others[0], numbers(BATCH, 3)
    again = of_kernel, (further, given[1], given[2], LINEAR, 0.0, numbers(3, 8), given[6])
    apart = of_kernel, (further, given[1], given[2], LINEAR, 0.0, numbers(3, 8), numbers(8))
    assert sizes([gather, dense, loss, others[0], again], lent) == [[4, 4], [], [6]]
    assert sizes([gather, dense, loss, others[0], apart], lent) == [[5, 5], [], [4]]


def pooled(channels, filters):
    """A correlation of pictures of 8 x 8 cells, with pooling."""
    shape = BATCH, 8, 8, channels
    geometry = correlation_geometry(shape, (3, 3), filters, 1, "valid", 1, 1)
    pool = pooling_geometry(geometry.output_shape, 2)
    y, winner = (np.zeros(pool.output_shape, dtype) for dtype in (np.float32, np.uint8))
    arguments = (
        numbers(*shape),
        numbers(3, 3, channels, filters),
        numbers(filters),
        geometry,
        RELU,
        0.0,
        pool,
        y,
        winner,
    )
    return cpu.correlate2d_max_pool2d, arguments


def test_what_is_not_cut(threads):
    threads(2)
    memory = numbers(2 * BATCH * INPUTS)
    x, kernel, y = numbers(BATCH, INPUTS), numbers(INPUTS, 9), numbers(BATCH, 9)
    in_the_same_memory = memory[: y.size].reshape(y.shape), memory[4 : 4 + x.size].reshape(x.shape)
    layer = cpu.dense, (x, kernel, kernel[0], RELU, 0.0, y)
    cases = [
        dense_step(batch=2 * parts.FEWEST_SAMPLES - 1)[0],
        dense_step(inputs=strands.MOST_BYTES // BATCH)[0],
        [(cpu.dense, (in_the_same_memory[1], kernel, kernel[0], RELU, 0.0, in_the_same_memory[0]))],
        [layer, (cpu.put, (numbers(BATCH + 1, 2), 0, numbers(99, 2)))],
        [
            (cpu.dense, (x, kernel, kernel[0], RELU, 0.0, y)),
            (cpu.dense, (numbers(BATCH, BATCH), x, x[0], RELU, 0.0, y)),
        ],
        [pooled(16, 32)],
        [],
    ]
    for calls in cases:
        assert sizes(calls) == [[len(calls)]]
    assert sizes([pooled(1, 10)]) == [[1, 1], [], [0]]


KERNELS = {
    "gather": (numbers(99, 7), RANDOM.permutation(99).astype(np.int32), 20, numbers(BATCH, 7)),
    "put": (numbers(BATCH, 7), 20, numbers(99, 7)),
    "correlate2d_max_pool2d": pooled(1, 10)[1],
    "dense": (numbers(BATCH, 400), numbers(400, 50), numbers(50), TANH, 0.0, numbers(BATCH, 50)),
    "dense_gradient_input": (
        numbers(BATCH, 10), numbers(BATCH, 10), numbers(20, 10), TANH, 0.0, numbers(BATCH, 20)
    ),
    "softmax_cross_entropy": (numbers(BATCH, 10), numbers(BATCH, 10), 0.1, numbers(BATCH), numbers(BATCH, 10)),
    "sparse_softmax_cross_entropy": (
        numbers(BATCH, 10), RANDOM.integers(0, 10, BATCH, np.int32), 0.1, numbers(BATCH), numbers(BATCH, 10)
    ),
    "categorical_accuracy": (numbers(BATCH, 10), numbers(BATCH, 10), numbers(BATCH)),
    "sparse_accuracy": (numbers(BATCH, 10), RANDOM.integers(0, 10, BATCH, np.int32), numbers(BATCH)),
}  # fmt: skip


@pytest.mark.parametrize("name", strands.BY_SAMPLES)
def test_kernels_compute_a_strand_as_in_the_whole(name):
    kernel, arguments = getattr(cpu, name), KERNELS[name]
    call = strands._known(kernel, arguments)
    assert call.places
    kernel(*arguments)
    wanted = [array.copy() for array in call.written]
    for array in call.written:
        array[...] = 0
    begun = [array.tobytes() for array in call.arrays if not any(array is one for one in call.written)]
    for first, end in itertools.pairwise([0, 16, 40, BATCH]):
        part, given = call.strand(first, end)
        part(*given)
    for array, other in zip(call.written, wanted, strict=True):
        if name != "put":
            assert array.tobytes() == other.tobytes()
    if name == "put":
        np.testing.assert_array_equal(call.written[0][20 : 20 + BATCH], arguments[0])
    assert begun == [array.tobytes() for array in call.arrays if not any(array is one for one in call.written)]


def test_every_listed_kernel_is_of_the_table():
    for name, (samples, outputs) in strands.BY_SAMPLES.items():
        assert set(samples.split()) <= set(TABLE[name].split())
        assert set(TABLE[name].split()[-outputs:]) - set(samples.split()) <= {"rows"}
    sums = [name for name in TABLE if hasattr(getattr(cpu, name), "split")]
    assert sums == [name for name in TABLE if TABLE[name].split()[-2:] in (["dfilters", "dbias"], ["dkernel", "dbias"])]


def test_a_strand_may_need_a_kernel_that_the_whole_does_not(threads):
    # All samples are copied for want of room in the caches, half of them are not.
    threads(2)
    x, kernel, bias, y = numbers(256, 300), numbers(300, 128), numbers(128), numbers(256, 128)
    call = cpu.dense, (x, kernel, bias, LINEAR, 0.0, y)
    ((whole,),), ((strand, _), *_) = ([[cpu.dense.prepare(*call[1])]]), strands.phases_of([call])
    assert whole[0] is not strand[0][0]
    cpu.dense(*call[1])
    wanted = y.copy()
    y[:] = 0
    cpu.repetition([call])(1)
    assert y.tobytes() == wanted.tobytes()


def train():
    """A small network's weights and history after some steps, and what it predicts."""
    utils.set_random_seed(1)
    model = models.Sequential()
    model.add(layers.Conv2D(10, 3, activation="relu", kernel_regularizer="l2"))
    model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(30, activation="tanh"))
    model.add(layers.Dense(CLASSES, activation="softmax"))
    model.compile(optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", ["accuracy"])
    x, labels = np.random.default_rng(0).uniform(0, 1, (12 * BATCH + 3, 8, 8, 1)), np.arange(12 * BATCH + 3) % CLASSES
    history = model.fit(x, labels, batch_size=BATCH, epochs=2, verbose=0, validation_split=0.3).history
    return [weight.tobytes() for weight in model.get_weights()], history, model.predict(x, BATCH, verbose=0).tobytes()


def test_networks_are_the_same_in_strands(threads, arranged, monkeypatch):
    monkeypatch.setenv("GPUCONV_DEVICE", "cpu")
    runs = []
    for count in (1, 2, 3):
        threads(count)
        arranged.clear()
        runs.append(train())
        # Training, validation and prediction.
        wanted = [[1]] * 3 if count == 1 else [[count, 0 if count == 2 else 6, 1], [count, 0, 1], [count, 0, 1]]
        assert arranged == wanted
    assert runs[0] == runs[1] == runs[2]
