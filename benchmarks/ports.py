"""What a core's units allow: loops in which kernels of the CPU spend their time, as `llvm-mca` schedules them.

    python -m benchmarks.ports

needs `llvm-mca`, which comes with LLVM, writes `results/cpu_ports.md`, and takes half a minute.  The analyser knows how
many cycles each instruction keeps which unit of the processor busy, and what each one waits for; it takes all memory to
be in the first-level cache, and knows nothing of other threads.  Where a loop reaches its cycles, only fewer
instructions make it faster; where it needs many more, memory does.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding
import numpy as np
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu import activation, fourier, image, random, windows
from gpuconv.kernels.cpu.dense import _product_by_blocks
from gpuconv.kernels.cpu.elementary import sigmoid
from gpuconv.kernels.formulas import LINEAR, RELU
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from numba import njit

ROUNDS = 200
VECTOR = re.compile(r"%[yz]mm\d")
MULTIPLY_ADD = re.compile(r"\tvfn?madd\d+p[sd]\t")

# Vector multiply-adds that a core of today's desktop and server processors begins in a cycle.
MULTIPLY_ADDS_A_CYCLE = 2

# For Zen 3, LLVM 14 has a multiply-add of 256 bits keep its unit for two cycles, which tiles of products disprove.
SAME_UNITS = {"znver3": "znver2"}


class Loop(NamedTuple):
    """A loop of vector instructions.

    Parameters
    ----------
    instructions, multiply_adds : int
        Of a turn; multiply-adds of vectors.
    cycles : float
        That a turn takes, each waiting for what it needs of the one before.
    units : str
        The busiest ones, and their cycles in a turn.
    """

    instructions: int
    multiply_adds: int
    cycles: float
    units: str


@njit(error_model="numpy")
def _sigmoids(x, y):
    """The loop that `activate` has for this formula, without those for others."""
    for i in range(x.size):
        y[i] = sigmoid(x[i])


def works():
    """Name, a call that compiles the kernel, and the compiled function."""
    generator = np.random.default_rng(0)

    def normal(*shape):
        return generator.normal(size=shape).astype(np.float32)

    matrix, weights, bias = normal(256, 1024), normal(1024, 64), normal(64)
    y = np.empty((256, 64), np.float32)
    yield "dense 256x1024 -> 64", lambda: cpu.dense(matrix, weights, bias, LINEAR, 0.0, y), _product_by_blocks

    digits = correlation_geometry((100, 8, 8, 1), (3, 3), 10)
    x, filters, few = normal(100, 8, 8, 1), normal(3, 3, 1, 10), normal(10)
    pooling = pooling_geometry((100, 6, 6, 10), (2, 2), (2, 2))
    pooled, winner = np.empty((100, 3, 3, 10), np.float32), np.empty((100, 3, 3, 10), np.uint8)
    yield (
        "digits: correlation, ReLU, max pooling",
        lambda: cpu.correlate2d_max_pool2d(x, filters, few, digits, RELU, 0.0, pooling, pooled, winner),
        windows._correlate_small,
    )
    rows = normal(1024, 16)
    result = np.empty_like(rows)
    # Of its loops the one with most multiply-adds takes two rows at a time.
    yield "softmax, two rows of less than a vector", lambda: cpu.softmax(rows, result), activation.softmax
    yield "sigmoid", lambda: _sigmoids(rows.reshape(-1), result.reshape(-1)), _sigmoids
    yield "dropout", lambda: cpu.dropout(rows, 0.5, 1, 2, 3, result), random._dropout
    picture, sums = normal(256, 256), np.empty((254, 254), np.float32)
    places = np.arange(256, dtype=np.int32)
    for extent, module in ((3, image), (31, fourier)):
        count = 256 - extent + 1
        kernel, target = normal(extent, extent), sums[:count, :count].copy()
        yield (
            f"picture, {extent}x{extent}",
            lambda module=module, kernel=kernel, target=target: module.correlate_image(
                picture, places, places, np.float32(0), kernel, target
            ),
            module._correlate,
        )


def machine_code(call, function):
    """Assembler code of a kernel, made anew: what is read from the disk has none."""
    call()
    function.recompile()
    return "\n".join(compiled.library.get_asm_str() for compiled in function.overloads.values())


def loops(code):
    """Lines of the innermost loops, each from its label to its jump back."""
    for block in re.split(r"\n(?=\.LBB\w+:)", code):
        end = re.search(rf"\n\tj\w+\t{re.escape(block.split(':')[0])}\n", block)
        if end:
            yield block[: end.end()]


def analyse(lines, processor):
    """The `Loop` of assembler lines."""
    run = subprocess.run(
        ["llvm-mca", f"-mcpu={processor}", f"-iterations={ROUNDS}"],
        input=lines, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return loop_of(lines, run.stdout)


def loop_of(lines, report):
    """The `Loop` that a report on these lines describes."""
    cycles = int(re.search(r"Total Cycles:\s+(\d+)", report)[1]) / ROUNDS
    names = dict(re.findall(r"\[([\d.]+)\]\s+- (\w+)", report))
    table = re.search(r"Resource pressure per iteration:\n(.*)\n(.*)\n", report)
    busy = zip(re.findall(r"\[([\d.]+)\]", table[1]), table[2].split(), strict=True)
    busiest = sorted(((float(part), names[unit]) for unit, part in busy if part != "-"), reverse=True)[:4]
    instructions = int(re.search(r"Instructions:\s+(\d+)", report)[1]) // ROUNDS
    units = ", ".join(f"{name} {part:.1f}" for part, name in busiest)
    return Loop(instructions, len(MULTIPLY_ADD.findall(lines)), cycles, units)


def longest(code):
    """The innermost loop with most multiply-adds, or with most vectors where there are none."""
    return max(loops(code), key=lambda lines: (len(MULTIPLY_ADD.findall(lines)), len(VECTOR.findall(lines))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    host = llvmlite.binding.get_host_cpu_name()
    parser.add_argument("--processor", default=SAME_UNITS.get(host, host), help="default: %(default)s")
    arguments = parser.parse_args()
    if not shutil.which("llvm-mca"):
        sys.exit("llvm-mca: expected it on the PATH; it comes with LLVM")
    processor = arguments.processor
    found = {name: analyse(longest(machine_code(call, function)), processor) for name, call, function in works()}
    text = table(found, processor)
    (arguments.output / "cpu_ports.md").write_text(text, encoding="utf-8")
    print(text)


def table(found, processor):
    """The loops as a table in Markdown."""
    lines = [
        "# Loops of the CPU's kernels, as llvm-mca schedules them",
        "",
        f"For {processor}; of each kernel the innermost loop with most multiply-adds, or most vectors.  Peak: "
        f"{MULTIPLY_ADDS_A_CYCLE} multiply-adds of vectors a cycle.",
        "",
        "| kernel | instructions | multiply-adds | cycles | of the peak | busiest units, cycles |",
        "|---|---|---|---|---|---|",
    ]
    for name, loop in found.items():
        share = loop.multiply_adds / (MULTIPLY_ADDS_A_CYCLE * loop.cycles)
        numbers = f"{loop.instructions} | {loop.multiply_adds} | {loop.cycles:.1f} | {share:.0%}"
        lines.append(f"| {name} | {numbers} | {loop.units} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
