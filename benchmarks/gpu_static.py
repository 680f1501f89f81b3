"""CUDA kernels without a GPU: what the compiler makes of each, and how long the layers of the examples would take.

``python -m benchmarks.gpu_static`` writes ``results/gpu_static.json`` and ``gpu_static.md``; README.md says what they
hold.  ``tests/test_gpu_static.py`` holds the kernels to the committed table.
"""

import argparse
import importlib.metadata
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

# What compiles and executes CUDA code without a GPU stands beside the tests, which need it too.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from cuda_arguments import MEMORY
from cuda_compiling import assemble, disassemble, launch_of, launches, recording
from gpuconv.kernels import TABLE
from gpuconv.kernels import cuda as device

from . import gpu_code, gpu_estimate, gpu_steps, gpu_tiles, gpu_works
from .gpu_models import GPUS, LIMITS, occupancy

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvcc")
# Figures of a row that must not grow, and that must not shrink.
SMALLER_IS_BETTER = (
    "registers", "spilled_bytes", "stack_bytes", "local", "loop_local", "shared_bytes", "integers", "barriers",
)  # fmt: skip
LARGER_IS_BETTER = ("blocks", "share")
# How many times the limit an estimate should be at most, where multiply-adds are the limit and where memory is.
COMPUTING_AIM, MEMORY_AIM = 1.25, 1.4
WIDTHS = ("global_loads", "global_copies", "global_stores", "shared_loads", "shared_stores")


def main(arguments=None):
    """Compile, execute, estimate, write.  The exit code is 1 if a kernel spills registers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_static", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--only", default="", help="part of the names of kernels and works; prints instead of writing")
    options = parser.parse_args(arguments)
    # First, while nothing is compiled.
    steps = [] if options.only else [step_row(network) for network in gpu_steps.NETWORKS]
    results = {
        "versions": versions(),
        "steps": steps,
        "works": work_rows(options.only),
        "kernels": kernel_rows(list(LIMITS), options.only),
    }
    if options.only:
        sys.stdout.write(markdown(results))
    else:
        write(results, options.output)
    return int(any(row["spilled_bytes"] for row in results["kernels"]))


def versions():
    """Of the programs that make machine code."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def variants(capability, part=""):
    """Every kernel for a compute capability, with the types that it is launched with, by name.

    A kernel is named after the first function of the table, and the first arguments, that launch it: one for each tile
    of `gpu_tiles`, those of `tests/cuda_arguments.py`, then the works of `gpu_works`.

    Returns
    -------
    dict
        From names to `Launch`.
    """
    calls = []
    for tile in gpu_tiles.all_tiles(capability):
        with gpu_tiles.only(tile) as work:
            calls.append((work.function, work.name, launched(work, capability)[0]))
    calls += [(name, description, launch) for name in TABLE if name not in MEMORY
              for launch, description in launches(name, "float32", capability).items()]  # fmt: skip
    calls += [(work.function, work.name, launch) for work in gpu_works.works() for launch in launched(work, capability)]
    found, seen = {}, set()
    for function, description, launch in calls:
        if launch in seen:
            continue
        seen.add(launch)
        name = label = gpu_tiles.row_name(launch.function.__name__, function, description)
        number = 1
        while name in found:
            number += 1
            name = f"{label} {number}"
        found[name] = launch
    return {name: launch for name, launch in found.items() if part in name}


def launched(work, capability):
    """What a work launches on a compute capability."""
    found = {}

    def record(kernel, blocks, threads, *arguments):
        found[launch_of(kernel, threads, arguments)] = None

    with recording(record, capability):
        getattr(device, work.function)(*work.arguments(lambda shape, dtype=np.float32: np.empty(shape, dtype)))
    return tuple(found)


def kernel_rows(capabilities, part=""):
    """Figures of each kernel for each compute capability.

    Parameters
    ----------
    capabilities : list of tuple
    part : str
        Of the kernels' names as of `variants`: the others are left out.

    Returns
    -------
    list of dict
    """
    named = [variants(capability, part) for capability in capabilities]
    # Numba's compiler takes one kernel at a time; NVIDIA's programs run for two architectures at a time.
    codes = [
        tuple(launch.ptx(capability) for launch in kernels.values())
        for capability, kernels in zip(capabilities, named, strict=True)
    ]
    with ThreadPoolExecutor(2) as pool:
        assembled = list(pool.map(assemble, codes, capabilities))
        listings = list(pool.map(disassemble, codes, capabilities))
    rows = [
        kernel_row(name, capability, launch.threads, one, listing)
        for capability, kernels, *both in zip(capabilities, named, assembled, listings, strict=True)
        for (name, launch), one, listing in zip(kernels.items(), *both, strict=True)
    ]
    order = list(dict.fromkeys(row["kernel"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["kernel"]))


def kernel_row(name, capability, threads, assembled, listing):
    """The figures of one kernel, from what the assembler says and from its machine code."""
    blocks, by = occupancy(capability, threads, assembled.registers, assembled.shared_bytes)
    return {
        "kernel": name, "architecture": f"sm_{capability[0]}{capability[1]}", "threads": threads,
        "registers": assembled.registers, "spilled_bytes": assembled.spilled_bytes,
        "stack_bytes": assembled.stack_bytes, "shared_bytes": assembled.shared_bytes, "blocks": blocks,
        "blocks_limited_by": by, **gpu_code.figures(listing),
    }  # fmt: skip


def work_rows(part=""):
    """The estimate of each work for each GPU, and the counts that it stands on."""
    rows = []
    for work in gpu_works.works():
        if part in work.name:
            for gpu in GPUS:
                found = gpu_estimate.profile(work, gpu)
                row = gpu_estimate.estimate(work, found, gpu)
                rows.append({**row, "launches": [block._asdict() for block in found.launches]})
    return rows


def step_row(network):
    """Launches of a step, and what compiling takes."""
    return {"compile_seconds": gpu_steps.compile_seconds(network), **gpu_steps.count(network)}


def worse(row, committed, slack=0.0):
    """In which figures a row is worse than the committed one.

    Parameters
    ----------
    row, committed : dict
        As of `kernel_rows`.
    slack : float
        By which share a figure may be worse: for other versions of the compiler.

    Returns
    -------
    list of str
    """
    found = [name for name in SMALLER_IS_BETTER if row[name] > committed[name] * (1 + slack)] + [
        name for name in LARGER_IS_BETTER if row[name] < committed[name] * (1 - slack)
    ]
    for name in WIDTHS:
        own, before = (gpu_code.narrowest(figures[name]) for figures in (row, committed))
        if own is not None and before is not None and own < before:
            found.append(name)
    return [f"{name}: {committed[name]} before, now {row[name]}" for name in found]


def write(results, folder):
    """Write table and report, one row a line, so that differences can be read."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f'"versions": {json.dumps(results["versions"])}']
    for name in ("steps", "works", "kernels"):
        rows = ",\n ".join(json.dumps(row) for row in results[name])
        parts.append(f'"{name}": [\n {rows}\n]')
    (folder / "gpu_static.json").write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    (folder / "gpu_static.md").write_text(markdown(results), encoding="utf-8")


def markdown(results):
    """The report."""
    lines = ["# CUDA kernels, seen without a GPU", ""]
    lines += ["Compiled by " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."]
    lines += ["", "## Steps of training", "", *step_table(results["steps"])]
    lines += ["", "## Tiles", "", *tile_table(results["kernels"])]
    lines += ["", "## Layers", "", *work_table(results["works"])]
    lines += ["", "## What one block does", "", *block_table(results["works"])]
    lines += ["", "## Kernels", "", *kernel_table(results["kernels"])]
    return "\n".join(lines) + "\n"


def step_table(rows):
    """Launches and variants of the networks."""
    yield (
        "Launches of one step, waits of the host for the device in it, kernels that `gpuconv.warmup` compiles, and the "
        "seconds which that took where the table was made (machine code for sm_90; digits came first)."
    )
    yield ""
    yield "| network | batch | launches | waits | kernels compiled | seconds |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['network']} | {row['batch']} | {row['launches']} | {row['waits']} | {row['variants']} "
            f"| {row['compile_seconds']} |"
        )


def tile_table(rows):
    """Shares of multiply-adds in hot loops, beside what is aimed at."""
    names = [f"sm_{major}{minor}" for major, minor in LIMITS]
    yield "How many % of the hot loop's instructions are multiply-adds (FFMA, or HMMA on tensor cores) / registers."
    yield "The most integer instructions, and barriers, for each strip of terms on any architecture."
    yield ""
    yield "| kernel | aim | " + " | ".join(names) + " | integers | barriers |"
    yield "|---" * (len(names) + 4) + "|"
    found = {(row["kernel"], row["architecture"]): row for row in rows}
    for kernel, aim in gpu_tiles.aims().items():
        own = [found.get((kernel, name)) for name in names]
        if any(own):
            figures = " | ".join(f"{100 * row['share']:.1f} / {row['registers']}" if row else "" for row in own)
            most = " | ".join(str(max(row[name] for row in own if row)) for name in ("integers", "barriers"))
            yield f"| {kernel} | {'' if aim is None else f'{100 * aim:.0f}'} | {figures} | {most} |"


def work_table(rows):
    """Limits and estimates in microseconds."""
    yield "Microseconds. Limits: every multiply-add at the GPU's full float32 rate; every array once through memory."
    yield ""
    yield "| work | GPU | multiply-adds | memory | estimate | estimate / limit | aim | bound by | filled waves |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        aim = COMPUTING_AIM if row["limit_multiply_adds"] > row["limit_memory"] else MEMORY_AIM
        yield (
            f"| {row['work']} | {row['gpu']} | {row['limit_multiply_adds']:.1f} | {row['limit_memory']:.1f} "
            f"| {row['estimate']:.1f} | {row['ratio']:.2f} | {aim} | {row['bound']} | {row['full_waves']:.0%} |"
        )
    yield ""
    yield "| GPU | architecture | multiprocessors | clock, GHz | float32, TFLOP/s | memory, GB/s | source |"
    yield "|---|---|---|---|---|---|---|"
    for gpu in GPUS:
        yield (
            f"| {gpu.name} | sm_{gpu.capability[0]}{gpu.capability[1]} | {gpu.multiprocessors} | {gpu.clock / 1e9:.3g} "
            f"| {gpu.rate / 1e12:.1f} | {gpu.bandwidth / 1e9:.0f} | {gpu.source} |"
        )


def block_table(rows):
    """Counts of the executed blocks, for one GPU."""
    yield f"One block from the middle of the grid, executed from the PTX of {GPUS[1].name}'s architecture."
    yield ""
    yield (
        "| work | kernel | blocks | threads | warps' multiply-adds | warps' instructions | passes over banks "
        "| conflicts | sectors needed, loads | stores |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        for block in row["launches"] if row["gpu"] == GPUS[1].name else ():
            yield (
                f"| {row['work']} | {block['kernel']} | {block['blocks']} | {block['threads']} "
                f"| {block['multiply_adds']} | {block['instructions']:.0f} | {block['shared_passes']} "
                f"| {block['conflicts']} | {block['load_efficiency']:.0%} | {block['store_efficiency']:.0%} |"
            )


def kernel_table(rows):
    """Figures of the kernels: those with products on every architecture, the others on one."""
    yield "Kernels whose hot loop is made of multiply-adds on every architecture, the others on sm_90."
    yield ""
    yield (
        "| kernel | | threads | registers | spilled | shared bytes | blocks, limited by | loop: multiply-adds "
        "| integers | barriers | shared loads | stores | global loads | copies | stores |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    heavy = {row["kernel"] for row in rows if row["share"] > 0.15}
    for row in rows:
        if row["kernel"] not in heavy and row["architecture"] != "sm_90":
            continue
        products = row["multiply_adds"] + row["tensor"]
        share = f"{products} of {row['loop']}, {row['share']:.1%}" if row["loop"] else "no loop"
        yield (
            f"| {row['kernel']} | {row['architecture']} | {row['threads']} | {row['registers']} "
            f"| {row['spilled_bytes']} | {row['shared_bytes']} | {row['blocks']}, {row['blocks_limited_by']} | {share} "
            f"| {row['integers']} | {row['barriers']} | {row['shared_loads']} | {row['shared_stores']} "
            f"| {row['global_loads']} | {row['global_copies']} | {row['global_stores']} |"
        )


if __name__ == "__main__":
    sys.exit(main())
