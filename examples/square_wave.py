"""A square wave and its approximations by Fourier series.

Pulses of height 2 and width 0.1, one every 0.2.  More harmonics come closer everywhere but at the jumps, where the sum
overshoots by 9 % of the jump however many there are (Gibbs's phenomenon).

    python examples/square_wave.py
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gpuconv import signal

PERIOD, WIDTH, HEIGHT = 0.2, 0.1, 2.0


def wave(t):
    """The square wave, with a pulse centred on t = 0."""
    return signal.square_wave(t, PERIOD, WIDTH, HEIGHT, delay=-WIDTH / 2)


def draw(f, g, counts, path):
    """The wave with its approximations, its coefficients, and the remaining error."""
    figure, axes = plt.subplot_mosaic(
        [["first", "second"], ["third", "last"], ["coefficients", "error"]], figsize=(10, 9), layout="constrained"
    )
    t = np.linspace(-0.2, 0.3, 4001)
    for name, count in zip(("first", "second", "third", "last"), counts, strict=True):
        ax = axes[name]
        ax.plot(t, wave(t), color="0.6", linewidth=1.5, label="square wave")
        ax.plot(t, signal.fourier_series(t, f[: count + 1], g[: count + 1], PERIOD), color="tab:red", linewidth=1)
        ax.set(ylim=(-0.5, 2.5), xlabel="t", ylabel="F(t)", title=f"harmonics up to n = {count}")

    n = np.arange(1, 20)
    ax = axes["coefficients"]
    ax.stem(n, f[n], basefmt="k-", label="$f_n$, integrated")
    exact = 2 * HEIGHT / (np.pi * n) * np.sin(n * np.pi * WIDTH / PERIOD)
    ax.plot(n, exact, "o", color="tab:orange", markerfacecolor="none", markersize=10, label="$f_n$, by formula")
    ax.set(xlabel="n", ylabel="coefficient", title="only odd cosines are there", xticks=n[::2])
    ax.legend()

    # Parseval: the mean square of what is left out is half the sum of the squares of its coefficients.
    ax = axes["error"]
    n = np.arange(1, len(f))
    energy = HEIGHT**2 * WIDTH / PERIOD - f[0] ** 2 / 4
    left = np.sqrt(np.maximum(energy - np.cumsum(f[1:] ** 2 + g[1:] ** 2) / 2, 0))
    ax.loglog(n, left, label="root mean square")
    ax.loglog(n, HEIGHT / np.pi / np.sqrt(n), "k:", label=r"$2 / (\pi \sqrt{n})$")
    ax.set(xlabel="harmonics up to n", ylabel="error", title="the error falls slowly, because of the jumps")
    ax.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 99 harmonics instead of 499")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the picture, default: %(default)s"
    )
    arguments = parser.parse_args()

    counts = (1, 5, 21, 99 if arguments.quick else 499)
    f, g = signal.fourier_coefficients(lambda t: wave(t).item(), counts[-1], PERIOD)
    t = np.linspace(0, WIDTH, 20_001)
    for count in counts:
        peak = signal.fourier_series(t, f[: count + 1], g[: count + 1], PERIOD).max()
        print(f"up to n = {count:<4} highest value {peak:.4f}, {(peak - HEIGHT) / HEIGHT:.2%} of the jump too high")

    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "square_wave.png"
    draw(f, g, counts, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
