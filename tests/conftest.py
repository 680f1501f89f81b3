"""Settings of the whole test run, and the folder `simulator` as part of it.

- One Hypothesis profile: the same examples in every run, no deadlines.
- Numba keeps compiled kernels on disk, but notices only edits of the file that a kernel stands in, not of
  the files that it calls.  Here its cache is named after the content of all kernels.
- The tests in `simulator` need CUDA kernels that run as Python, which is decided by a variable of the
  environment when Numba is imported.  Unless it is set they run in one other process, and are collected,
  selected and reported here like any other test.
- The tests of `test_kernels_cuda.py` need a GPU, and are collected where one answers.
"""

import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
SIMULATOR = TESTS / "simulator"
KERNELS = TESTS.parent / "kernels"

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
# Set in the other process: the file that takes what was collected, and the reports of what ran.
REPORT = os.environ.get("GPUCONV_SIMULATOR_REPORT")

settings.register_profile("gpuconv", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("gpuconv")

# Numba makes and keeps millions of objects for a kernel: as often as Python looks for garbage by default, it spends a
# third of the time of compiling on it.
gc.set_threshold(100_000, 20, 100)

# Programs that need other libraries to record what those compute.
collect_ignore_glob = ["golden/record_*.py"]

# Results must not depend on the number of threads: have two to try, even on one core.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))


def pytest_configure(config):
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = str(cache_folder(config))
    if REPORT:
        config.pluginmanager.register(ReportWriter(config))


def pytest_ignore_collect(collection_path):
    if collection_path.name != "test_kernels_cuda.py":
        return None
    from gpuconv import device  # now that the folder of compiled kernels is set

    return device.resolve("auto") != "cuda"


def cache_folder(config):
    """A folder for compiled kernels that no other version of the kernels shares."""
    content = hashlib.sha256()
    for path in sorted(KERNELS.rglob("*.py")):
        content.update(path.relative_to(KERNELS).as_posix().encode() + b"\0" + path.read_bytes())
    name = f"gpuconv-{content.hexdigest()[:16]}"
    if hasattr(config, "cache"):
        return config.cache.mkdir(name)
    # pytest was told to keep nothing
    folder = tempfile.TemporaryDirectory(prefix=name, ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    return folder.name


class ReportWriter:
    """In the other process: writes one line of JSON for what was collected, and one for every report."""

    def __init__(self, config):
        self.config = config

    def write(self, entry):
        with open(REPORT, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def pytest_collection_finish(self, session):
        self.write([item.nodeid for item in session.items])

    def pytest_runtest_logreport(self, report):
        self.write(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))


def run_with_simulator(config, *arguments):
    """Run pytest on the simulator's tests in a process of its own.

    Returns
    -------
    code : int
        The exit code of the process.
    output : str
        What it printed.
    collected : list of str
        Identifiers of the tests.
    reports : dict
        The reports of every test that ran, by identifier: of its setup, its call and its teardown.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        # Identifiers go through a file: there may be more of them than a command line takes.
        selection = Path(folder) / "arguments.txt"
        selection.write_text("\n".join(arguments), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", f"@{selection}", f"--rootdir={config.rootpath}"]
        if config.inipath:
            command += ["-c", str(config.inipath)]
        command += ["-p", "no:cacheprovider"]
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "GPUCONV_SIMULATOR_REPORT": str(report)}
        process = subprocess.run(
            command,
            cwd=config.rootpath,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else ["[]"]
    collected, *entries = map(json.loads, lines)
    reports = {}
    for entry in entries:
        test = config.hook.pytest_report_from_serializable(config=config, data=entry)
        if test.skipped and isinstance(test.longrepr, list):
            test.longrepr = tuple(test.longrepr)  # JSON has no tuples: (path, line, reason)
        reports.setdefault(test.nodeid, []).append(test)
    return process.returncode, process.stdout, collected, reports


COLLECTED, RUN = pytest.StashKey(), pytest.StashKey()


class SimulatorFile(pytest.File):
    """A file of tests that another process collects."""

    def collect(self):
        stash = self.config.stash
        if COLLECTED not in stash:
            stash[COLLECTED] = run_with_simulator(self.config, "--collect-only", str(SIMULATOR))
        code, output, collected, _ = stash[COLLECTED]
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise self.CollectError(output)
        for nodeid in collected:
            file, _, name = nodeid.partition("::")
            if file == self.nodeid:
                yield SimulatorItem.from_parent(self, name=name)


class SimulatorItem(pytest.Item):
    """One test that another process runs, together with all other selected ones."""

    def reportinfo(self):
        return self.path, None, self.name

    def runtest(self):
        raise AssertionError("runs in the process of the simulator")

    def reports(self):
        """What the other process reported about this test."""
        stash = self.config.stash
        if RUN not in stash:
            selected = [item.nodeid for item in self.session.items if isinstance(item, SimulatorItem)]
            stash[RUN] = run_with_simulator(self.config, *selected)
        code, output, _, reports = stash[RUN]
        mine = reports.get(self.nodeid, [])
        if not mine or mine[-1].when != "teardown":
            crash = f"the simulator's process ended with code {code} during this test or before it:\n{output}"
            mine = [*mine, pytest.TestReport(self.nodeid, self.location, {}, "failed", crash, "call")]
        return mine


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collectors = yield
    if collectors and SIMULATOR in file_path.parents and not SIMULATED:
        return [SimulatorFile.from_parent(parent, path=file_path)] if file_path.name.startswith("test_") else []
    return collectors


def pytest_runtest_protocol(item, nextitem):
    if not isinstance(item, SimulatorItem):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in item.reports():
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # What the test before this one had set up, and the next one does not share.
    item.session._setupstate.teardown_exact(nextitem)
    return True
