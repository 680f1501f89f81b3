"""Sharing work among threads: every task once, whoever calls, and a process that ends when it should."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from gpuconv.kernels.cpu import threads as team
from gpuconv.kernels.cpu.threads import get_num_threads, set_num_threads, share
from numba import config, njit

ENOUGH = team.SERIAL_WORK * team.WORKERS
TOO_LITTLE = team.SERIAL_WORK - 1
COUNTS = range(1, config.NUMBA_NUM_THREADS + 1)
# Seconds after which something hangs: a failure, not a measurement.
PATIENCE = 120


@njit(nogil=True)
def _count(first, last, worker, runs, workers):
    for task in range(first, last):
        runs[task] += 1
        workers[task] = worker


@njit(nogil=True)
def count(runs, workers, work):
    """Note for each task how often it ran, and on which worker."""
    share(_count, (runs, workers), runs.size, work)


@njit(nogil=True)
def _square(first, last, worker, x, y, rounds):
    for task in range(first, last):
        total = 0.0
        for _ in range(rounds):
            total += x[task] * x[task]
        y[task] = total / rounds


@njit(nogil=True)
def square(x, y, rounds):
    share(_square, (x, y, rounds), x.size, ENOUGH)


@njit(nogil=True)
def _count_rows(first, last, worker, runs, workers):
    for task in range(first, last):
        count(runs[task], workers[task], ENOUGH)


@njit(nogil=True)
def count_rows(runs, workers):
    """Each task shares work again."""
    share(_count_rows, (runs, workers), runs.shape[0], ENOUGH)


@pytest.fixture(autouse=True)
def threads():
    """The number of threads, put back afterwards."""
    before = get_num_threads()
    yield
    set_num_threads(before)


def runs_of(tasks, work=ENOUGH):
    """How often each of so many tasks ran, and who ran it."""
    runs, workers = np.zeros(tasks, np.int64), np.full(tasks, -1)
    count(runs, workers, work)
    return runs, workers


def assert_team_works():
    for count in COUNTS:
        set_num_threads(count)
        runs, workers = runs_of(1000)
        assert (runs == 1).all()
        assert workers.min() >= 0
        assert workers.max() < count


@pytest.mark.parametrize("count", COUNTS)
def test_every_task_runs_once(count):
    set_num_threads(count)
    for tasks in (*range(20), 63, 64, 65, 1000, 100_003):
        for work in (0, TOO_LITTLE, team.SERIAL_WORK, ENOUGH, team.LARGE_WORK):
            runs, workers = runs_of(tasks, work)
            assert (runs == 1).all()
            assert ((workers >= 0) & (workers < count)).all()


def test_many_jobs_one_after_the_other():
    x = np.arange(16.0)
    for number in range(20_000):
        y = np.zeros(16)
        square(x + number % 7, y, 1)
        if not (y == (x + number % 7) ** 2).all():
            pytest.fail(f"job {number}: {y}")


def test_little_work_stays_with_the_caller():
    for _ in range(100):
        _, workers = runs_of(1000, TOO_LITTLE)
        assert (workers == 0).all()


def test_helpers_take_part():
    # One job may be over before a helper gets a core on a busy machine; a thousand are not.
    everybody, seen = set(range(get_num_threads())), set()
    for _ in range(1000):
        _, workers = runs_of(1_000_000)
        seen.update(workers)
        if seen == everybody:
            break
    assert seen == everybody


def test_set_num_threads():
    for count in COUNTS:
        set_num_threads(count)
        assert get_num_threads() == count
    set_num_threads(1)
    for _ in range(100):
        _, workers = runs_of(10_000)
        assert (workers == 0).all()


def test_callers_in_several_threads():
    failures = []

    def call(number):
        x, y = np.arange(50.0) + number, np.zeros(50)
        for _ in range(500):
            y[:] = -1
            square(x, y, 20)
            if not np.allclose(y, x * x):
                failures.append((number, y.copy()))
                return

    callers = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
        assert not caller.is_alive()
    assert failures == []
    assert_team_works()


@pytest.mark.parametrize("count", COUNTS)
def test_shared_within_shared(count):
    set_num_threads(count)
    for _ in range(200):
        runs, workers = np.zeros((20, 30), np.int64), np.full((20, 30), -1)
        count_rows(runs, workers)
        assert (runs == 1).all()
        # A job within a job runs where it was met, so nobody but its caller works on it.
        assert (workers == 0).all()
    assert_team_works()


def test_exceptions_of_python_in_between():
    for _ in range(20):
        runs, _ = runs_of(1000)
        with pytest.raises(ZeroDivisionError):
            int(runs[0]) // 0
        # Nor does a call leave anything behind that is refused before it gets to compiled code.
        with pytest.raises(TypeError):
            count(np.zeros(5, np.int64))
    assert_team_works()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_fork():
    runs_of(1000)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens, the child must not go on with the tests.
        answer = b"failed"
        try:
            os.close(reading)
            assert_team_works()
            answer = b"works"
        finally:
            os.write(writing, answer)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"works"
    assert os.waitpid(child, 0)[1] == 0
    assert_team_works()


PROGRAM = """
import time
import numpy as np
from gpuconv.kernels import cpu

x = np.ones(1 << 20, np.float32)
y = np.zeros_like(x)
cpu.relu(x, 0.0, 6.0, 0.0, y)
assert (y == 1).all()
time.sleep({pause})
{end}
"""


@pytest.mark.parametrize("pause", [0, 0.5], ids=["awake", "asleep"])
@pytest.mark.parametrize(
    ("end", "code"), [("print('done')", 0), ("raise SystemExit(3)", 3)], ids=["falls off its end", "exits"]
)
def test_process_ends(pause, end, code):
    program = PROGRAM.format(pause=pause, end=end)
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False, encoding="utf-8"
    )
    assert process.stderr == ""
    assert process.returncode == code
