"""The benchmarks: small cases from the command line to the files, and tables and targets from made-up rows."""

import doctest
import importlib
import json
import sys
from pathlib import Path

import pytest

# The benchmarks are programs of the repository, not part of what is installed.
sys.path.append(str(Path(__file__).parents[1]))
cases, cpu, gpu_report, ports, processes, report = (
    importlib.import_module(f"benchmarks.{name}")
    for name in ("cases", "cpu", "gpu_report", "ports", "processes", "report")
)


def made_up(section, work, library, seconds=None, threads=1, **more):
    """A row as a measurement leaves it."""
    return {
        "section": section, "work": work, "threads": threads, "library": library,
        "median_seconds": seconds, "fastest_seconds": seconds, "flops": None, "bytes": None, **more,
    }  # fmt: skip


def pairs(section, works, peer, ratio, threads=1):
    """Rows in which gpuconv is `ratio` times as fast as the peer in every work."""
    return [
        made_up(section, work, library, seconds, threads)
        for work in works
        for library, seconds in (("gpuconv", 1.0), (peer, ratio))
    ]


def verdicts(rows):
    """Whether targets are met, by the beginning of their words."""
    return {target.words: target.met for target in report.find_targets(rows)}


def correlation_works():
    return [case["work"] for case in cases.correlation_cases()]


def test_small_cases_from_the_command_line_to_the_files(tmp_path, capsys):
    selection = ["--only", "image", "correlation", "--work", "2048x2048, 3x3", "128x6x6x64 -> 64, 1x1, forward"]
    libraries = ["--libraries", "gpuconv", "scipy.ndimage"]
    code = cpu.main([*selection, *libraries, "--quick", "--threads", "1", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "cpu.json").read_text())
    # The workers' outputs were compared: a difference would be an error.
    assert results["errors"] == []
    assert code == 0
    found = [(row["section"], row["library"]) for row in results["rows"]]
    assert found == [("image", "gpuconv"), ("image", "scipy.ndimage"), ("correlation", "gpuconv")]
    for row in results["rows"]:
        assert 0 < row["fastest_seconds"] <= row["median_seconds"]
        assert row["threads"] == 1
    assert results["rows"][0]["flops"] == 2 * 2048**2 * 9
    assert results["rows"][2]["flops"] == 2 * 128 * 36 * 64 * 64
    assert {"gpuconv", "numba", "numpy", "scipy"} <= set(results["versions"])
    assert results["machine"]["processors"] >= 1
    text = (tmp_path / "cpu.md").read_text()
    assert text in capsys.readouterr().out
    assert "| 2048x2048, 3x3 |" in text
    assert (tmp_path / "cpu.png").stat().st_size > 1000
    assert not (tmp_path / "cpu_growth.png").exists()


def test_growth_is_drawn(tmp_path):
    rows = [
        made_up("growth", f"batch {n}", library, n * 1e-3, threads, axis="batch", extent=n, images=n)
        for n in (1, 2, 4)
        for library in ("gpuconv", "torch")
        for threads in (2, 1)
    ]
    importlib.import_module("benchmarks.pictures").draw_growth(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000


@pytest.mark.parametrize(("section", "library"), [("image", "scipy.ndimage"), ("elementwise", "numpy")])
def test_a_worker_says_why_it_cannot_compute(section, library):
    case = {**cases.timed_cases(section)[0], "side": -1, "bytes": None}
    with processes.Process(library, sys.executable, 1) as process:
        with pytest.raises(processes.WorkerError, match=f"{library}: (Value|Type)Error: "):
            process.ask(case, 1, 0.0)
        # and goes on
        small = {"section": "image", "side": 8, "kernel": 3, "bytes": 64, "operation": "correlate_image"}
        answer = process.ask(small, 2, 0.0)
    (samples,) = answer["seconds"].values()
    assert len(samples) == 2
    assert min(samples) > 0


class Forgetful:
    """In place of a worker process: answers a number of requests, then ends."""

    def __init__(self, library, seconds, answers):
        self.library, self.seconds, self.answers = library, seconds, answers

    def ask(self, case, repeats, sample_seconds):
        self.answers -= 1
        if self.answers < 0:
            raise processes.WorkerError(f"{self.library}: the process ended")
        return {"seconds": {name: [value] * repeats for name, value in self.seconds.items()}, "checksum": None}


def test_the_fastest_variant_counts_and_a_worker_that_ends_does_not():
    steady = Forgetful("gpuconv", {"plain": 3.0, "better": 2.0}, 100)
    for answers in (0, 1, 2, 3):
        rows, errors = processes.time_case({}, [steady, Forgetful("torch", {"plain": 1.0}, answers)], 4, 0.0, 10.0)
        assert rows == [{"library": "gpuconv", "median_seconds": 2.0, "fastest_seconds": 2.0, "variant": "better"}]
        assert errors == ["torch: the process ended"]


def test_a_library_out_of_budget_gets_two_turns():
    slow = Forgetful("gpuconv", {"plain": 1.0}, 3)
    assert processes.time_case({}, [slow], 9, 0.0, budget=0.0) == (
        [{"library": "gpuconv", "median_seconds": 1.0, "fastest_seconds": 1.0, "variant": "plain"}],
        [],
    )
    assert slow.answers == 0


def test_libraries_that_compute_something_else_are_named():
    agree = {"gpuconv": [1.0, 2.0], "torch": [1.0001, 2.0], "numpy": None}
    assert processes.disagreements(agree) == []
    (message,) = processes.disagreements({**agree, "jax": [1.0, 2.01]})
    assert message.startswith("jax: computed something else than gpuconv")
    assert processes.disagreements({"gpuconv": [1.0], "torch": [float("nan")]})


def test_an_interpreter_is_found_for_each_library():
    found = processes.find_pythons(["gpuconv", "scipy.signal"], [])
    assert found == {"gpuconv": sys.executable, "scipy.signal": sys.executable}


def test_every_library_has_a_worker_and_every_worker_a_file():
    for libraries in cases.SECTIONS.values():
        assert libraries[0] == "gpuconv"
        for library in libraries:
            module = processes.WORKERS[library].module
            assert (Path(processes.__file__).parent / "workers" / f"{module}.py").is_file()


def test_works_have_names_of_their_own():
    for section in cases.SECTIONS:
        works = [case["work"] for case in cases.timed_cases(section)]
        assert len(set(works)) == len(works)
    # six shapes in six versions, but depthwise only the four of many channels, three directions
    assert len(correlation_works()) == (6 * 5 + 4) * 3


def test_a_correlation_target_needs_every_work():
    works = correlation_works()
    assert verdicts(pairs("correlation", works, "torch", 1.6)) == {
        "correlation: at least PyTorch's speed": True,
        "correlation: 1.5 times PyTorch's speed in the geometric mean": True,
        "correlation: 1.5 times PyTorch's speed for 3x3 filters on 32 channels or more": True,
    }
    # all but one: nothing is known yet
    assert set(verdicts(pairs("correlation", works[1:], "torch", 1.6)).values()) == {None, True}
    assert verdicts(pairs("correlation", works[1:], "torch", 1.6))["correlation: at least PyTorch's speed"] is None
    # one slower than the peer: the mean is met all the same
    rows = pairs("correlation", works[1:], "torch", 1.6) + pairs("correlation", works[:1], "torch", 0.9)
    assert list(verdicts(rows).values()) == [False, True, True]
    # as fast as the peer everywhere
    assert list(verdicts(pairs("correlation", works, "torch", 1.0)).values()) == [True, False, False]


@pytest.mark.parametrize(
    ("peer", "bound", "work"),
    [
        ("torch", 15, "digits, batch 100, training step"),
        ("keras", 50, "digits, batch 100, training step"),
        ("torch", 2, "CIFAR-10, batch 32, training step"),
        ("torch", 2, "CIFAR-10, batch 128, training step"),
        ("torch", 2, "digits, batch 100, inference"),
    ],
)
def test_training_targets(peer, bound, work):
    assert work in [case["work"] for case in cases.training_cases(quick=False)]
    for ratio, met in ((1.01 * bound, True), (0.99 * bound, False)):
        targets = report.find_targets(pairs("training", [work], peer, ratio))
        assert [target.met for target in targets if target.met is not None] == [met]
        (target,) = (target for target in targets if target.met is met)
        assert target.figure == f"{ratio:.2f}"
        assert target.words.startswith(f"{work}: {bound} times")


def test_image_and_elementwise_targets():
    images = [case["work"] for case in cases.image_cases()]
    rows = pairs("image", images, "opencv", 1.1)
    rows += [made_up("image", work, "scipy.signal", 19.0) for work in images]
    assert list(verdicts(rows).values()) == [True, False]
    moved = [case["work"] for case in cases.elementwise_cases()]
    assert list(verdicts(pairs("elementwise", moved, "numpy", 0.81)).values()) == [True]
    assert list(verdicts(pairs("elementwise", moved, "numpy", 0.79)).values()) == [False]


@pytest.mark.parametrize(
    ("step", "kernels", "peak", "expected"), [(9000, 0, 50, [True, True]), (9000, 1, 51, [False, False])]
)
def test_memory_targets(step, kernels, peak, expected):
    rows = [
        made_up("memory", report.STEP_MEMORY, "gpuconv", bytes=step),
        made_up("memory", report.STEP_KERNELS, "gpuconv", count=kernels),
        made_up("memory", report.PEAK_MEMORY, "gpuconv", bytes=peak),
        made_up("memory", report.PEAK_MEMORY, "torch", bytes=100),
    ]
    assert list(verdicts(rows).values()) == expected
    rows[0]["bytes"] = 2**20
    assert list(verdicts(rows).values()) == [False, expected[1]]
    assert list(verdicts(rows[2:3]).values()) == [None, None]


def test_startup_targets():
    rows = pairs("startup", [report.WARM_START], "torch", 1.5)
    assert list(verdicts(rows).values()) == [True, None]
    rows.append(made_up("startup", report.COLD_START, "gpuconv", 20.5))
    assert list(verdicts(rows).values()) == [True, False]


def test_the_report_shows_times_rates_ratios_and_means():
    rows = [
        made_up("image", "2048x2048, 3x3", "gpuconv", 2e-3, flops=4e6),
        made_up("image", "2048x2048, 3x3", "opencv", 1e-3, flops=4e6),
        made_up("image", "2048x2048, 3x3", "scipy.signal", 1.0, flops=4e6),
        made_up("image", "2048x2048, 5x5", "gpuconv", 2e-3, flops=4e6),
        made_up("image", "2048x2048, 5x5", "opencv", 16e-3, flops=4e6),
        # copying is a yardstick, and no peer
        made_up("elementwise", "relu", "gpuconv", 1e-3, bytes=5e6),
        made_up("elementwise", "relu", "numpy", 0.5e-3, bytes=5e6),
        made_up("elementwise", "relu", "torch", 3e-3, bytes=5e6),
        made_up("memory", report.PEAK_MEMORY, "gpuconv", bytes=2**20),
    ]
    results = {"machine": {"processor": "abacus", "caches": {"L1": "1K"}}, "versions": {"gpuconv": "1"}}
    text = report.markdown({**results, "quick": False, "errors": ["torch: broken\nin many lines"], "rows": rows})
    assert "| 2048x2048, 3x3 | 2 ms | 1 ms | 1 s | 2 GFLOP/s | 0.50 |" in text
    assert "| 2048x2048, 5x5 | 2 ms | 16 ms |  | 2 GFLOP/s | 8.00 |" in text
    assert "| **geometric mean of ratios** |  | 2.00 | 500.00 |  | 2.00 |" in text
    assert "| relu | 1 ms | 3 ms | 500 us | 5 GB/s | 3.00 |" in text
    assert f"| {report.PEAK_MEMORY} | 1 MiB |" in text
    assert "- torch: broken\n" in text
    assert "- processor: abacus" in text


def test_examples_in_docstrings():
    result = doctest.testmod(report)
    assert result.attempted >= 3
    assert result.failed == 0


def test_tables_of_a_gpu():
    row = {"section": "operations", "work": "relu", "precision": "float32", "bytes": 8e6}
    rows = [
        {**row, "library": "gpuconv", "seconds": 4e-6},
        {**row, "library": "torch", "seconds": 6e-6, "variant": "slow"},
        {**row, "library": "torch", "seconds": 5e-6, "variant": "quick"},
        {**row, "work": "softmax", "library": "gpuconv", "seconds": None, "error": "no room"},
        {**row, "section": "correlation", "precision": "tf32", "library": "torch", "seconds": 1e-6, "flops": 5e6},
    ]
    lines = gpu_report.markdown({"machine": {"GPU": "made up"}, "rows": rows}).splitlines()
    assert "| relu | 4.0 us | 5.0 us (quick) | 1.25 | 2.00 TB/s |" in lines
    assert "| softmax | - | - |  |  |" in lines
    assert "- softmax, gpuconv: no room" in lines
    table = lines[lines.index("## correlation, tf32") :]
    assert "| relu | - | 1.0 us |  | 5.0 TFLOP/s |" in table


CODE = """
kernel:
\tvmovups\t(%rdi), %ymm0
.LBB0_1:
\tvfmadd231ps\t%ymm1, %ymm0, %ymm2
\tvfmadd231ps\t%ymm1, %ymm0, %ymm3
\taddq\t$8, %rax
\tjne\t.LBB0_1
\tretq
.LBB0_2:
\tvaddps\t%ymm1, %ymm2, %ymm3
\tvaddps\t%ymm1, %ymm4, %ymm5
\tvaddps\t%ymm1, %ymm6, %ymm7
\tjmp\t.LBB0_2
"""

ANALYSED = """Iterations:        200
Instructions:      800
Total Cycles:      420

Resources:
[0]   - LoadUnit
[1]   - Multiplier

Resource pressure per iteration:
[0]    [1]
 -     1.50

"""


def test_the_loop_that_multiplies_counts():
    assert len(list(ports.loops(CODE))) == 2
    lines = ports.longest(CODE)
    assert lines.startswith(".LBB0_1:")
    assert lines.endswith("jne\t.LBB0_1\n")
    loop = ports.loop_of(lines, ANALYSED)
    assert loop == (4, 2, 2.1, "Multiplier 1.5")
    assert "| made up | 4 | 2 | 2.1 | 48% | Multiplier 1.5 |" in ports.table({"made up": loop}, "abacus")
