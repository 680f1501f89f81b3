"""Worker processes: one a library, of which only the one whose turn it is may run.

A library's threads may go on looking for work for a while after a computation ends.  Where the system can stop a
process (signal SIGSTOP), workers are stopped except during their turn, so that they cannot take time from others.
"""

import contextlib
import hashlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Worker(NamedTuple):
    """How to start the worker of a library: its module, the packages it needs, and variables of the environment."""

    module: str
    packages: tuple
    environment: dict


WORKERS = {
    "gpuconv": Worker("gpuconv", ("gpuconv", "numba"), {"GPUCONV_DEVICE": "cpu"}),
    "numpy": Worker("numpy", ("numpy",), {}),
    "torch": Worker("torch", ("torch",), {}),
    "tensorflow": Worker("tensorflow", ("tensorflow",), {}),
    "jax": Worker("jax", ("jax",), {}),
    "keras": Worker("keras", ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
    "keras-jax": Worker("keras", ("keras", "jax"), {"KERAS_BACKEND": "jax"}),
    "opencv": Worker("opencv", ("cv2",), {}),
    "scipy.ndimage": Worker("scipy", ("scipy",), {}),
    "scipy.signal": Worker("scipy", ("scipy",), {}),
    "scipy.oaconvolve": Worker("scipy", ("scipy",), {}),
}

# Large arrays that a library frees are kept for its next ones (glibc).  By default each one is a new mapping, whose
# pages the system must clear one by one: up to half of the time of operations that memory bounds.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}

# Variables from which libraries of threads read how many they may use, each when it is loaded.
THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerError(RuntimeError):
    """A worker ended, or could not compute a case."""


def find_pythons(libraries, peers):
    """The first interpreter that has a library, of the peers' and then this one; gpuconv's own is always this one.

    Returns
    -------
    dict
        Paths by library; libraries that no interpreter has are left out.
    """
    names = sorted({package for library in libraries for package in WORKERS[library].packages})
    program = (
        "import importlib.util, json, sys;"
        "print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))"
    )
    available = {}
    for python in dict.fromkeys([*peers, sys.executable]):
        output = subprocess.run([python, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, check=True)
        available[python] = set(json.loads(output.stdout))
    found = {}
    for library in libraries:
        candidates = [sys.executable] if library in ("gpuconv", "numpy") else available
        for python in candidates:
            if available[python].issuperset(WORKERS[library].packages):
                found[library] = python
                break
    return found


def environment(library, threads, **more):
    """The variables that a library's process is started with."""
    variables = {**os.environ, **WORKERS[library].environment}
    variables.update({name: str(threads) for name in THREAD_VARIABLES})
    variables.update(
        BENCHMARK_THREADS=str(threads), BENCHMARK_LIBRARY=library, TF_CPP_MIN_LOG_LEVEL="2", CUDA_VISIBLE_DEVICES=""
    )
    if library == "gpuconv":
        variables.setdefault("NUMBA_CACHE_DIR", str(cache_folder()))
    variables.update(more)
    return variables


def cache_folder():
    """A folder of compiled kernels for the kernels as they are; Numba notices only some of their changes."""
    content = hashlib.sha256()
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        content.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "gpuconv" / f"benchmarks-{content.hexdigest()[:16]}"


@contextlib.contextmanager
def processors(threads):
    """Processes that are started in this block may use only the first processors, one for each thread."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Process:
    """The running worker of one library.

    Parameters
    ----------
    library : str
    python : str
        Path of an interpreter that has the library.
    threads : int
    """

    def __init__(self, library, python, threads):
        self.library = library
        self._log = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 - close() closes it
        with processors(threads):
            self._process = subprocess.Popen(
                [python, "-m", f"benchmarks.workers.{WORKERS[library].module}"],
                cwd=ROOT, env=environment(library, threads, **KEEP_FREED_MEMORY), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            )  # fmt: skip
        try:
            self.versions = self._read()["versions"]
        except WorkerError:
            self.close()
            raise
        self._signal("SIGSTOP")

    def ask(self, case, repeats, sample_seconds):
        """Times of a case and its checksum: see `workers.server`.

        Raises
        ------
        WorkerError
            If the worker ended, or could not compute the case.
        """
        self._signal("SIGCONT")
        try:
            request = {"case": case, "repeats": repeats, "sample_seconds": sample_seconds}
            with contextlib.suppress(BrokenPipeError):  # reading finds out why
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            answer = self._read()
        finally:
            self._signal("SIGSTOP")
        if "error" in answer:
            raise WorkerError(f"{self.library}: {answer['error']}")
        return answer

    @property
    def alive(self):
        """Whether the process can be asked."""
        return self._process.poll() is None

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise WorkerError(f"{self.library}: the process ended; its last words:\n{self._log.read()[-2000:]}")
        return json.loads(line)

    def _signal(self, name):
        # None where the system has no such signal, or the process has ended.
        if hasattr(signal, name) and self._process.poll() is None:
            self._process.send_signal(getattr(signal, name))

    def close(self):
        """End the process."""
        self._signal("SIGCONT")
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(BrokenPipeError):
                file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def time_case(case, processes, rounds, sample_seconds, budget):
    """Time one case in all libraries, in turns.

    Parameters
    ----------
    case : dict
    processes : list of Process
    rounds : int
        Turns of each library; the order of the libraries is turned round every time.
    sample_seconds : float
        The least that one sample lasts.
    budget : float
        Seconds after which a library gets no more turns, but two it gets.

    Returns
    -------
    rows : list of dict
        Median and fastest time of each library's fastest variant.
    errors : list of str
    """
    errors, checksums, samples, spent = [], {}, {}, {}
    running = []
    for process in processes:
        try:
            checksums[process.library] = process.ask(case, 0, sample_seconds)["checksum"]
        except WorkerError as error:
            errors.append(str(error))
            continue
        running.append(process)
        samples[process.library], spent[process.library] = {}, 0.0
    errors += disagreements(checksums)
    for turn in range(rounds):
        for process in running[:: 1 if turn % 2 else -1]:
            if spent[process.library] > (budget if turn >= 2 else sys.float_info.max):
                continue
            started = time.perf_counter()
            try:
                answer = process.ask(case, 1, sample_seconds)
            except WorkerError as error:
                errors.append(str(error))
                # No more turns, and what it had measured does not count.
                spent[process.library] = math.inf
                samples[process.library] = {}
                continue
            spent[process.library] += time.perf_counter() - started
            for variant, seconds in answer["seconds"].items():
                samples[process.library].setdefault(variant, []).extend(seconds)
    rows = []
    for library, variants in samples.items():
        if not variants:
            continue
        medians = {variant: statistics.median(seconds) for variant, seconds in variants.items()}
        best = min(medians, key=medians.get)
        rows.append({"library": library, "median_seconds": medians[best], "fastest_seconds": min(variants[best])})
        rows[-1]["variant"] = best
    return rows, errors


def disagreements(checksums, tolerance=1e-3):
    """What to say about libraries that computed something else than gpuconv, or than the first one."""
    given = {library: checksum for library, checksum in checksums.items() if checksum is not None}
    if len(given) < 2:
        return []
    first, expected = next(iter(given.items()))
    return [
        f"{library}: computed something else than {first}: mean magnitudes {checksum}, {expected}"
        for library, checksum in given.items()
        if len(checksum) != len(expected)
        # "not <=", so that NaN differs from everything
        or any(not abs(a - b) <= tolerance * abs(b) for a, b in zip(checksum, expected, strict=True))
    ]


def run_command(library, python, threads, command, **variables):
    """Run a worker's command in a process of its own.

    Returns
    -------
    seconds : float
        From the start of the process to its end.
    answer : object
        What the command returned.
    """
    with processors(threads):
        started = time.perf_counter()
        process = subprocess.run(
            [python, "-m", f"benchmarks.workers.{WORKERS[library].module}", command],
            cwd=ROOT, env=environment(library, threads, **variables), capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    if process.returncode:
        raise WorkerError(f"{library}: {command} failed:\n{process.stderr[-2000:]}")
    return seconds, json.loads(process.stdout.splitlines()[-1])
