"""The convolution theorem in numbers: the transform of a convolution is the product of the transforms.

Both sides are computed, compared, and timed: for a noisy signal and a smoothing kernel, and for pictures.

    python examples/convolution_theorem.py
    python examples/convolution_theorem.py --device cuda
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import gpuconv
from gpuconv import signal


def seconds(function):
    """The shortest time of five calls, after one that compiles."""
    function()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_errors(sizes):
    """Errors of the theorem for random signals of growing length, and their bounds, for both types."""
    random = np.random.default_rng(0)
    errors = {}
    for dtype in (np.float32, np.float64):
        results = [signal.convolution_theorem(*random.uniform(-1, 1, (2, n)).astype(dtype)) for n in sizes]
        errors[np.dtype(dtype).name] = [(result.error, result.bound) for result in results]
    return errors


def measure_times(side, kernels):
    """Seconds of direct sums and of transforms for square kernels on one picture, and what 'auto' takes."""
    random = np.random.default_rng(0)
    picture = random.uniform(-1, 1, (side, side)).astype(np.float32)
    times = {"direct": [], "fft": [], "auto": []}
    for cells in tqdm(kernels, unit="kernel"):
        kernel = random.uniform(-1, 1, (cells, cells)).astype(np.float32)
        for method, row in times.items():
            try:
                row.append(seconds(lambda k=kernel, m=method: signal.convolve2d(picture, k, "same", method=m)))
            except gpuconv.DeviceError:  # transforms on CUDA want CuPy
                row.append(np.nan)
    return times


def draw(result, noisy, smooth, errors, sizes, times, kernels, side, path):
    """The two sides for a signal, spectra, errors, times."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    ax = axes[0, 0]
    ax.plot(noisy, color="0.8", label="signal f")
    middle = slice(len(smooth) // 2, len(smooth) // 2 + len(noisy))
    ax.plot(result.direct[middle], linewidth=3, label="f * g as a direct sum")
    ax.plot(result.product[middle], "--", color="tab:red", label="inverse transform of the product")
    ax.set(xlabel="t", title=f"both sides, apart by {result.error:.1e} of the largest possible sum")
    ax.set_ylim(top=3)
    ax.legend(fontsize=9)

    ax = axes[0, 1]
    spectra = [np.abs(np.fft.rfft(row, len(result.direct))) for row in (noisy, smooth, result.direct)]
    labels = (r"$|\hat f|$, the signal", r"$|\hat g|$, the kernel", r"$|\hat f \hat g|$, the convolution")
    for spectrum, label, colour in zip(spectra, labels, ("0.75", "tab:orange", "tab:blue"), strict=True):
        ax.semilogy(spectrum[:150], color=colour, label=label)
    ax.set(xlabel="frequency", ylim=(1e-4, None), title="the kernel lets low frequencies pass")
    ax.legend(fontsize=9, loc="center right")

    ax = axes[1, 0]
    for (name, rows), colour in zip(errors.items(), ("tab:purple", "tab:green"), strict=True):
        error, bound = np.transpose(rows)
        ax.loglog(sizes, error, "o-", color=colour, label=f"error in {name}")
        ax.loglog(sizes, bound, ":", color=colour, label=f"bound in {name}")
    ax.set(xlabel="length of both signals", ylabel=r"error / $\|f\| \|g\|$", title="rounding errors")
    ax.legend(fontsize=9, loc="center right", bbox_to_anchor=(1, 0.6))

    ax = axes[1, 1]
    for (name, row), style in zip(times.items(), ("o-", "s-", "k:"), strict=True):
        ax.loglog(kernels, 1e3 * np.array(row), style, label=name)
    ax.set_xticks(kernels, [str(cells) for cells in kernels])
    ax.minorticks_off()
    ax.set(xlabel="side of the kernel", ylabel="milliseconds", title=f"convolve2d of {side} x {side} pixels")
    ax.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=gpuconv.device.NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="small pictures and short signals")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the picture, default: %(default)s"
    )
    arguments = parser.parse_args()
    gpuconv.use_device(arguments.device)

    t = np.linspace(0, 1, 400)
    noisy = np.sin(4 * np.pi * t) + np.random.default_rng(1).normal(0, 0.4, t.size)
    smooth = np.exp(-(np.linspace(-2.5, 2.5, 41) ** 2))
    smooth /= smooth.sum()
    result = signal.convolution_theorem(noisy, smooth)
    print(f"direct sum and product of transforms differ by {result.error:.2g}, rounding allows {result.bound:.2g}")

    sizes = [4**power for power in range(1, 5 if arguments.quick else 8)]
    errors = measure_errors(sizes)
    side, kernels = (64, [3, 7, 15]) if arguments.quick else (512, [3, 5, 7, 11, 15, 23, 31, 47, 63])
    times = measure_times(side, kernels)
    for cells, *row in zip(kernels, *times.values(), strict=True):
        shown = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in zip(times, row, strict=True))
        print(f"{side} x {side} pixels, {cells} x {cells} kernel: {shown}")

    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "convolution_theorem.png"
    draw(result, noisy, smooth, errors, sizes, times, kernels, side, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
