"""The lecture's two experiments beside the libraries that it is usually run on.

    python -m benchmarks.lecture --peers ~/peers/bin/python --cifar10 FOLDER

1. 49 networks that read digits, 7 learning rates by 7 penalties, 100 epochs each: gpuconv beside Keras on TensorFlow.
2. The CIFAR-10 network, 10 epochs, for several seeds: test accuracy and seconds an epoch, gpuconv beside PyTorch.

Each library trains in a process of its own, one after the other; figures go to ``results/lecture.json`` and ``.md``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from gpuconv import datasets

from .machine import describe

ROOT = Path(__file__).parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, help="Python that has TensorFlow and PyTorch")
    parser.add_argument("--cifar10", type=Path, help="folder that holds CIFAR-10; default: without the second part")
    parser.add_argument("--epochs", type=int, default=10, help="of the second part, default: %(default)s")
    parser.add_argument("--grid-epochs", type=int, default=100, help="of the first part, default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peer-seeds", type=int, nargs="+", help="PyTorch's; default: the same")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    results = {"machine": describe(), "grid": [], "cifar10": []}
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder) / "digits.npz"
        save_digits(digits)
        for library, python in (("gpuconv", sys.executable), ("keras", arguments.peers)):
            results["grid"].append(run(python, f"grid_{library}", digits, arguments.grid_epochs))
        if arguments.cifar10:
            pictures = Path(folder) / "cifar10.npz"
            save_cifar10(arguments.cifar10, pictures)
            peer_seeds = arguments.seeds if arguments.peer_seeds is None else arguments.peer_seeds
            for seed in arguments.seeds:
                results["cifar10"].append(run(sys.executable, "cifar10_gpuconv", pictures, arguments.epochs, seed))
                if seed in peer_seeds:
                    results["cifar10"].append(run(arguments.peers, "cifar10_torch", pictures, arguments.epochs, seed))
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "lecture.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    (arguments.output / "lecture.md").write_text(text)
    print(text)


def save_digits(path):
    """Four fifths to train, one fifth to test, as in examples/digits_grid_search.py."""
    images, labels = datasets.digits.load_data()
    order = np.random.default_rng(0).permutation(len(images))
    x, y = (images[order] / 16.0)[..., np.newaxis].astype(np.float32), np.eye(10, dtype=np.float32)[labels[order]]
    cut = int(0.8 * len(x))
    np.savez(path, x=x[:cut], y=y[:cut], x_test=x[cut:], y_test=y[cut:])


def save_cifar10(folder, path):
    """CIFAR-10 between 0 and 1."""
    (x, y), (x_test, y_test) = datasets.cifar10.load_data(path=folder)
    np.savez(path, x=x / np.float32(255), y=y.ravel(), x_test=x_test / np.float32(255), y_test=y_test.ravel())


def run(python, worker, *arguments):
    """What a worker prints as its last line."""
    command = [python, "-m", f"benchmarks.workers.{worker}", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    result = json.loads(done.stdout.splitlines()[-1])
    print(worker, result, flush=True)
    return result


def table(results):
    """The results as Markdown."""
    lines = [
        "# The lecture's experiments",
        "",
        f"{results['machine']['processor']}, {results['machine']['processors']} processors.",
        "",
    ]
    lines += ["| 49 networks that read digits | seconds | best test accuracy |", "|---|---|---|"]
    lines += [f"| {row['library']} | {row['seconds']:.1f} | {row['best']:.2%} |" for row in results["grid"]]
    if results["cifar10"]:
        lines += ["", "| CIFAR-10 network | seed | test accuracy | seconds an epoch |", "|---|---|---|---|"]
        lines += [
            f"| {row['library']} | {row['seed']} | {row['accuracy']:.2%} | {row['seconds_per_epoch']:.1f} |"
            for row in results["cifar10"]
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
