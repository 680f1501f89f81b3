"""From rows of measurements to tables, and to the verdict on each target."""

import math
import statistics
from typing import NamedTuple

from . import cases

PEAK_MEMORY = "CIFAR-10, batch 128, training: peak of the process"
STEP_MEMORY = "CIFAR-10, batch 128, training: a step's allocations, in Python and NumPy"
STEP_KERNELS = "CIFAR-10, batch 128, training: kernels of a step whose compiled code allocates"
WARM_START = "digits: start, import, first training step; compiled code on disk"
COLD_START = "digits: start, import, first training step; nothing compiled"

# A step makes small Python objects (tuples, views of arrays, messages to threads) and frees them again.  All arrays
# of this network are larger but the weights of single layers and what its dense layers compute.
BOOKKEEPING_BYTES = 16384

# What memory can do: no peer.
YARDSTICKS = ("numpy",)


class Target(NamedTuple):
    """One target and what became of it; `met` is None where it was not measured, or not all of it."""

    words: str
    threads: int
    figure: str
    met: bool | None


class Rows:
    """Measurements, by section, work, number of threads and library."""

    def __init__(self, rows):
        self.rows = rows
        self._by_key = {(row["section"], row["work"], row["threads"], row["library"]): row for row in rows}

    def get(self, section, work, threads, library="gpuconv"):
        """The row, or None."""
        return self._by_key.get((section, work, threads, library))

    def seconds(self, section, work, threads, library="gpuconv"):
        """The median time, or None."""
        row = self.get(section, work, threads, library)
        return row and row["median_seconds"]

    def ratio(self, section, work, threads, peer):
        """How many times as fast gpuconv is as the peer, or None."""
        own, other = self.seconds(section, work, threads), self.seconds(section, work, threads, peer)
        return other / own if own and other else None

    def fastest_peer(self, section, work, threads):
        """The fastest of the peers and its median time, or None; yardsticks are no peers."""
        times = {
            library: self.seconds(section, work, threads, library)
            for library in cases.SECTIONS[section]
            if library != "gpuconv" and library not in YARDSTICKS
        }
        times = {library: seconds for library, seconds in times.items() if seconds}
        return min(times.items(), key=lambda entry: entry[1]) if times else None

    def works(self, section, threads):
        """Works of a section, in the order in which they were measured."""
        return list(
            dict.fromkeys(row["work"] for row in self.rows if (row["section"], row["threads"]) == (section, threads))
        )

    @property
    def threads(self):
        """Numbers of threads, in the order in which they were measured."""
        return list(dict.fromkeys(row["threads"] for row in self.rows))


def geometric_mean(ratios):
    """The mean of ratios that treats twice as fast and half as fast alike.

    Examples
    --------
    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    return math.exp(statistics.fmean(map(math.log, ratios)))


def find_targets(rows):
    """Every target of the sections that were measured, for every number of threads, decided from the rows.

    Parameters
    ----------
    rows : list of dict

    Returns
    -------
    list of Target
    """
    rows = Rows(rows)
    return [
        target
        for threads in rows.threads
        for section, find in (
            ("correlation", correlation_targets),
            ("training", training_targets),
            ("image", image_targets),
            ("elementwise", elementwise_targets),
            ("memory", memory_targets),
            ("startup", startup_targets),
        )
        if rows.works(section, threads)
        for target in find(rows, threads)
    ]


def least(rows, section, works, threads, peer, bound, words):
    """The target that gpuconv is at least `bound` times as fast as a peer in every one of the works."""
    ratios = {work: rows.ratio(section, work, threads, peer) for work in works}
    measured = {work: ratio for work, ratio in ratios.items() if ratio is not None}
    if not measured:
        return Target(words, threads, "not measured", None)
    worst = min(measured, key=measured.get)
    reached = sum(ratio >= bound for ratio in measured.values())
    figure = f"{reached} of {len(measured)}; least: {measured[worst]:.2f} ({worst})"
    if len(measured) == 1:
        figure = f"{measured[worst]:.2f}"
    if len(measured) < len(works):
        figure += f"; {len(works) - len(measured)} not measured"
    return Target(words, threads, figure, verdict(reached == len(measured), len(measured) == len(works)))


def verdict(met, complete):
    """A target is missed as soon as one figure misses it, but met only by all of them."""
    return False if not met else True if complete else None


def correlation_targets(rows, threads):
    """Every shape, the geometric mean, and the shapes that suit Winograd's algorithm."""
    every = list(cases.correlation_cases())
    works = [case["work"] for case in every]
    yield least(rows, "correlation", works, threads, "torch", 1.0, "correlation: at least PyTorch's speed")
    ratios = [ratio for work in works if (ratio := rows.ratio("correlation", work, threads, "torch"))]
    words = "correlation: 1.5 times PyTorch's speed in the geometric mean"
    if ratios:
        mean = geometric_mean(ratios)
        complete = len(ratios) == len(works)
        # The mean of some says nothing about the mean of all.
        yield Target(words, threads, f"{mean:.2f}, {len(ratios)} of {len(works)}", mean >= 1.5 if complete else None)
    else:
        yield Target(words, threads, "not measured", None)
    suitable = [
        case["work"]
        for case in every
        if (case["kernel"], case["stride"], case["dilation"], case["groups"]) == (3, 1, 1, 1) and case["shape"][3] >= 32
    ]
    words = "correlation: 1.5 times PyTorch's speed for 3x3 filters on 32 channels or more"
    yield least(rows, "correlation", suitable, threads, "torch", 1.5, words)


def training_targets(rows, threads):
    """Steps of training and batches of inference."""
    for work, peer, bound in (
        ("digits, batch 100, training step", "torch", 15.0),
        ("digits, batch 100, training step", "keras", 50.0),
        ("CIFAR-10, batch 32, training step", "torch", 2.0),
        ("CIFAR-10, batch 128, training step", "torch", 2.0),
        ("digits, batch 100, inference", "torch", 2.0),
        ("CIFAR-10, batch 32, inference", "torch", 2.0),
        ("CIFAR-10, batch 128, inference", "torch", 2.0),
    ):
        name = {"torch": "PyTorch", "keras": "Keras on TensorFlow"}[peer]
        yield least(rows, "training", [work], threads, peer, bound, f"{work}: {bound:g} times {name}'s speed")


def image_targets(rows, threads):
    """One picture and one kernel."""
    works = [case["work"] for case in cases.image_cases()]
    yield least(rows, "image", works, threads, "opencv", 1.0, "one image: at least OpenCV's speed")
    yield least(rows, "image", works, threads, "scipy.signal", 20.0, "one image: 20 times scipy.signal.correlate2d")


def elementwise_targets(rows, threads):
    """Bytes per second; numpy copies as many bytes as gpuconv moves."""
    works = [case["work"] for case in cases.elementwise_cases()]
    words = "operations that memory bounds: 0.8 of the bytes per second of numpy.copyto"
    yield least(rows, "elementwise", works, threads, "numpy", 0.8, words)


def memory_targets(rows, threads):
    """What a step allocates, and the peak."""
    words = "CIFAR-10, batch 128: a training step allocates no array after the first"
    traced, compiled = (rows.get("memory", work, threads) for work in (STEP_MEMORY, STEP_KERNELS))
    if traced and compiled:
        figure = f"{size(traced['bytes'])} of Python objects or arrays, {compiled['count']} kernels that allocate"
        met = traced["bytes"] <= BOOKKEEPING_BYTES and compiled["count"] == 0
        yield Target(words, threads, figure, met)
    else:
        yield Target(words, threads, "not measured", None)
    words = "CIFAR-10, batch 128: peak memory at most half of PyTorch's"
    own, peer = (rows.get("memory", PEAK_MEMORY, threads, library) for library in ("gpuconv", "torch"))
    if own and peer:
        share = own["bytes"] / peer["bytes"]
        figure = f"{share:.2f}: {size(own['bytes'])}, {size(peer['bytes'])}"
        yield Target(words, threads, figure, share <= 0.5)
    else:
        yield Target(words, threads, "not measured", None)


def startup_targets(rows, threads):
    """Warm and cold starts."""
    words = "digits: first training step of a new process, compiled code on disk, sooner than PyTorch's"
    yield least(rows, "startup", [WARM_START], threads, "torch", 1.0, words)
    words = "digits: first training step of a new process that compiles everything, within 20 s"
    seconds = rows.seconds("startup", COLD_START, threads)
    figure = f"{seconds:.1f} s" if seconds else "not measured"
    yield Target(words, threads, figure, seconds < 20.0 if seconds else None)


def duration(seconds):
    """A time in a unit that suits it.

    Examples
    --------
    >>> duration(0.00123)
    '1.23 ms'
    """
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def size(count):
    """A number of bytes in a unit that suits it.

    Examples
    --------
    >>> size(3 * 2**20)
    '3 MiB'
    """
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def rate(row):
    """Operations or bytes per second, or nothing."""
    if row is None or not row["median_seconds"]:
        return ""
    if row["flops"]:
        return f"{row['flops'] / row['median_seconds'] / 1e9:.3g} GFLOP/s"
    if row["bytes"]:
        return f"{row['bytes'] / row['median_seconds'] / 1e9:.3g} GB/s"
    return ""


def amount(row):
    """What was measured: a time, or in section 'memory' bytes or a number of kernels."""
    if row is None:
        return ""
    if row["median_seconds"]:
        return duration(row["median_seconds"])
    return str(row["count"]) if "count" in row else size(row["bytes"])


def markdown(results):
    """The whole report: machine, targets, and a table for every section and number of threads.

    Parameters
    ----------
    results : dict
        With ``machine``, ``versions``, ``rows`` and ``errors``.

    Returns
    -------
    str
    """
    rows = Rows(results["rows"])
    machine = {**results["machine"], "caches": ", ".join(f"{k} {v}" for k, v in results["machine"]["caches"].items())}
    lines = ["# gpuconv beside other libraries, on the CPU", ""]
    if results["quick"]:
        lines += ["**A quick run: few samples, and rough figures.**", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    if results["versions"]:
        lines.append("- " + ", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items())))
    lines.append("")
    lines += [
        "Median times, float32; each library in its fastest variant. A ratio is the time of the fastest peer over",
        "that of gpuconv: 2 means that gpuconv is twice as fast. `benchmarks/README.md` says how it is measured.",
        "",
        "## Targets",
        "",
    ]
    words = {True: "met", False: "not met", None: "open"}
    lines += table(
        ["target", "threads", "figure", ""],
        [[target.words, target.threads, target.figure, words[target.met]] for target in find_targets(rows.rows)],
    )
    for section in cases.SECTIONS:
        for threads in rows.threads:
            if rows.works(section, threads):
                lines += ["", f"## {section}, {threads} thread{'s' if threads > 1 else ''}", ""]
                lines += section_table(rows, section, threads)
    if results["errors"]:
        lines += ["", "## Not measured", "", *(f"- {error.splitlines()[0]}" for error in results["errors"])]
    return "\n".join(lines) + "\n"


def section_table(rows, section, threads):
    """Lines of the table of one section: a work in each, and geometric means below."""
    works = rows.works(section, threads)
    libraries = [
        library
        for library in cases.SECTIONS[section]
        if any(rows.get(section, work, threads, library) for work in works)
    ]
    body = []
    for work in works:
        own, fastest = rows.get(section, work, threads), rows.fastest_peer(section, work, threads)
        ratio = f"{fastest[1] / own['median_seconds']:.2f}" if fastest and own and own["median_seconds"] else ""
        times = [amount(rows.get(section, work, threads, library)) for library in libraries]
        body.append([work, *times, rate(own), ratio])
    means = []
    for library in libraries:
        ratios = [ratio for work in works if (ratio := rows.ratio(section, work, threads, library))]
        means.append(f"{geometric_mean(ratios):.2f}" if ratios and library != "gpuconv" else "")
    overall = [
        fastest[1] / own
        for work in works
        if (fastest := rows.fastest_peer(section, work, threads)) and (own := rows.seconds(section, work, threads))
    ]
    if any(means):
        mean = f"{geometric_mean(overall):.2f}" if overall else ""
        body.append(["**geometric mean of ratios**", *means, "", mean])
    return table(["work", *libraries, "rate of gpuconv", "ratio"], body)


def table(head, body):
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
