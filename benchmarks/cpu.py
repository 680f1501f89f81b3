"""gpuconv beside other libraries on the CPU, measured in turns in one run.

    python -m benchmarks.cpu --peers ~/peers/bin/python
    python -m benchmarks.cpu --only correlation --quick --threads 1 --work 3x3

Writes cpu.json, cpu.md, cpu.png and cpu_growth.png into the folder that --output names; a run that is quick or
measures only a part writes nothing unless --output is given.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path

from . import cases, machine, pictures, processes, report

RESULTS = Path(__file__).parent / "results"


def main(arguments=None):
    """Measure, print and write; 1 if gpuconv could not compute something, else 0."""
    arguments = parse(arguments)
    libraries = list(dict.fromkeys(library for section in arguments.only for library in cases.SECTIONS[section]))
    if arguments.libraries:
        libraries = [library for library in libraries if library in arguments.libraries]
    pythons = processes.find_pythons(libraries, arguments.peers)
    results = {"machine": machine.describe(), "versions": {}, "quick": arguments.quick, "errors": [], "rows": []}
    for library in libraries:
        if library not in pythons:
            results["errors"].append(f"{library}: not installed for any of the interpreters given")
    for threads in arguments.threads:
        for section in arguments.only:
            measure(section, threads, pythons, arguments, results)
            if arguments.output:
                write(results, arguments.output)
    sys.stdout.write("\n" + report.markdown(results))
    return int(any(error.startswith("gpuconv: ") for error in results["errors"]))


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", nargs="+", default=[], metavar="PYTHON", help="interpreters that have the other libraries"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1], help="default: 2 1")
    parser.add_argument("--only", nargs="+", choices=cases.SECTIONS, metavar="SECTION", help=", ".join(cases.SECTIONS))
    parser.add_argument("--work", nargs="+", default=[""], metavar="TEXT", help="only works that contain one of these")
    parser.add_argument(
        "--libraries", nargs="+", choices=processes.WORKERS, metavar="LIBRARY", help=", ".join(processes.WORKERS)
    )
    parser.add_argument("--quick", action="store_true", help="few and short samples: rough figures, soon")
    parser.add_argument(
        "--output", type=Path, help=f"folder; default for a whole run: {RESULTS.relative_to(processes.ROOT)}"
    )
    arguments = parser.parse_args(arguments)
    whole = not (arguments.only or arguments.libraries or arguments.quick or arguments.work != [""])
    if whole and arguments.output is None:
        arguments.output = RESULTS
    arguments.only = arguments.only or list(cases.SECTIONS)
    return arguments


def measure(section, threads, pythons, arguments, results):
    """Add the rows of one section."""
    pythons = {library: pythons[library] for library in cases.SECTIONS[section] if library in pythons}

    def wanted(work):
        return any(text in work for text in arguments.work)

    def add(work, library, median_seconds=None, fastest_seconds=None, flops=None, moved=None, **more):
        row = {
            "section": section, "work": work, "threads": threads, "library": library,
            "median_seconds": median_seconds, "fastest_seconds": fastest_seconds, "flops": flops, "bytes": moved,
            **more,
        }  # fmt: skip
        results["rows"].append(row)
        show(row)

    def fail(error):
        # Only the first line is kept: what follows is what a process printed, with the paths of this machine.
        results["errors"].append(str(error).splitlines()[0])
        sys.stderr.write(f"{error}\n")

    if section == "memory":
        measure_memory(pythons, threads, wanted, add, fail)
    elif section == "startup":
        measure_startup(pythons, threads, arguments.quick, wanted, add, fail)
    else:
        chosen = [case for case in cases.timed_cases(section, arguments.quick) if wanted(case["work"])]
        measure_cases(chosen, pythons, threads, arguments.quick, add, fail, results["versions"])


def measure_cases(chosen, pythons, threads, quick, add, fail, versions):
    """Time cases, all libraries in turns."""
    if not chosen:
        return
    settings = {"rounds": 3, "sample_seconds": 0.002, "budget": 0.5}
    if not quick:
        settings = {"rounds": 15, "sample_seconds": 0.02, "budget": 4.0}
    with contextlib.ExitStack() as stack:
        running = []
        for library, python in pythons.items():
            try:
                running.append(stack.enter_context(processes.Process(library, python, threads)))
                versions.update(running[-1].versions)
            except processes.WorkerError as error:
                fail(error)
        for case in chosen:
            timed, errors = processes.time_case(case, running, **settings)
            for error in errors:
                first, *others = error.splitlines()
                fail("\n".join([f"{first} ({case['work']}, {threads} threads)", *others]))
            running = [process for process in running if process.alive]
            more = {name: case[name] for name in ("axis", "extent", "images") if name in case}
            for row in timed:
                add(case["work"], flops=case["flops"], moved=case["bytes"], **row, **more)


def measure_memory(pythons, threads, wanted, add, fail):
    """Train in processes of their own, which tell what they used."""
    if not any(map(wanted, (report.PEAK_MEMORY, report.STEP_MEMORY, report.STEP_KERNELS))):
        return
    for library, python in pythons.items():
        try:
            # What a compiler needs is not what training needs: the first process leaves compiled code on the disk.
            processes.run_command(library, python, threads, "memory")
            _, used = processes.run_command(library, python, threads, "memory")
            add(report.PEAK_MEMORY, library, moved=used["peak_bytes"])
            if "step_bytes" in used:
                add(report.STEP_MEMORY, library, moved=used["step_bytes"])
            if library == "gpuconv":
                # Numba shows only code that it compiled in the same process.
                with tempfile.TemporaryDirectory() as folder:
                    _, names = processes.run_command(
                        library, python, threads, "allocating_kernels", NUMBA_CACHE_DIR=folder
                    )
                add(report.STEP_KERNELS, library, count=len(names), variant=", ".join(names))
        except processes.WorkerError as error:
            fail(error)


def measure_startup(pythons, threads, quick, wanted, add, fail):
    """Time whole processes, in turns; gpuconv with compiled kernels on disk, and without."""
    with tempfile.TemporaryDirectory() as folder:

        def start(library, cache):
            return processes.run_command(
                library, pythons[library], threads, "first_step", NUMBA_CACHE_DIR=str(Path(folder) / cache)
            )[0]

        samples = {}
        try:
            if wanted(report.COLD_START) and "gpuconv" in pythons:
                times = [start("gpuconv", f"cold{number}") for number in range(1 if quick else 3)]
                add(report.COLD_START, "gpuconv", statistics.median(times), min(times))
            if wanted(report.WARM_START):
                for turn in range(3 if quick else 10):
                    for library in pythons:
                        seconds = start(library, "warm")
                        # The first start compiles, or reads the library's files from the disk.
                        if turn:
                            samples.setdefault(library, []).append(seconds)
        except processes.WorkerError as error:
            fail(error)
        for library, times in samples.items():
            add(report.WARM_START, library, statistics.median(times), min(times))


def show(row):
    """Print one figure."""
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    figure = f"{report.amount(row):>9} {report.rate(row):>14}"
    sys.stdout.write(f"{row['section']}: {row['work']}, {threads}: {row['library']:<16} {figure}\n")
    sys.stdout.flush()


def write(results, folder):
    """Write results, report and pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "cpu.md").write_text(report.markdown(results), encoding="utf-8")
    pictures.draw_ratios(results["rows"], folder / "cpu.png")
    pictures.draw_growth(results["rows"], folder / "cpu_growth.png")


if __name__ == "__main__":
    sys.exit(main())
