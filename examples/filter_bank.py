"""What hand-made filters do to a picture, and that a convolution is a cross-correlation with the filter turned.

The picture is made by formula: a smooth landscape with a bright disc, a dark square, stripes and noise. A bank of
eight filters (box, Gaussian, Sobel, Laplacian, sharpening) is laid over it in one cross-correlation, as the first
layer of a convolutional network does with filters that it has learnt.

    python examples/filter_bank.py
    python examples/filter_bank.py --size 1024 --output pictures
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import gpuconv
from gpuconv import filters, functional

KERNELS = {
    "box 5 x 5": filters.box(5),
    "Gaussian, sigma 2": filters.gaussian(2.0),
    "Sobel, to the right": filters.sobel(axis=1),
    "Sobel, downwards": filters.sobel(axis=0),
    "Laplacian": filters.laplacian(),
    "Laplacian with diagonals": filters.laplacian(diagonals=True),
    "sharpen": filters.sharpen(),
    "sharpen, amount 3": filters.sharpen(3.0),
}


def make_picture(size):
    """A picture (size, size) from 0 to 1 with edges of every direction, smooth shades, stripes and noise."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    picture = 0.45 + 0.2 * np.sin(3 * x + 1) * np.cos(4 * y)
    picture[(x - 0.24) ** 2 + (y - 0.32) ** 2 < 0.18**2] = 0.95
    picture[(abs(x - 0.62) < 0.13) & (abs(y - 0.36) < 0.13)] = 0.08
    # Stripes that grow finer to the right, tilted a little.
    stripes = y > 0.62
    picture[stripes] = (0.5 + 0.4 * np.sin(60 * (x + 0.4 * x**2 + 0.15 * y)))[stripes]
    picture += np.random.default_rng(0).normal(0, 0.01, picture.shape)
    return np.clip(picture, 0, 1)


def draw_bank(picture, results, path):
    """The picture and what each filter makes of it, with the filter itself in the corner."""
    figure, axes = plt.subplots(3, 3, figsize=(10, 10.6), layout="constrained")
    axes[0, 0].imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_title("the picture")
    for number, (ax, (name, kernel)) in enumerate(zip(axes.flat[1:], KERNELS.items(), strict=True)):
        result = results[..., number]
        if kernel.sum() > 0.5:  # a mean of a kind: a picture again
            ax.imshow(result, cmap="gray", vmin=0, vmax=1)
        else:  # a slope of a kind: red where positive, blue where negative; noise and all, some pixels stand out
            largest = np.quantile(abs(result), 0.99)
            ax.imshow(result, cmap="RdBu_r", vmin=-largest, vmax=largest)
        ax.set_title(name)
        corner = ax.inset_axes((0.78, 0.78, 0.21, 0.21))
        darkest = 1.3 * abs(kernel).max()
        corner.imshow(kernel, cmap="RdBu_r", vmin=-darkest, vmax=darkest)
        corner.set(xticks=[], yticks=[])
    for ax in axes.flat:
        ax.axis("off")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=gpuconv.device.NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side, default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a picture of 64 x 64 pixels")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the picture, default: %(default)s"
    )
    arguments = parser.parse_args()
    gpuconv.use_device(arguments.device)

    picture = make_picture(64 if arguments.quick else arguments.size)
    x = picture[np.newaxis, :, :, np.newaxis].astype(np.float32)
    bank = filters.bank(*KERNELS.values())
    # 'same' takes everything beyond the border for black; to the eye it is better to repeat the border's pixels.
    reach = bank.shape[0] // 2
    x = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")

    results = functional.correlate2d(x, bank)  # compiles, or reads what was compiled
    start = time.perf_counter()
    results = functional.correlate2d(x, bank)
    milliseconds = 1e3 * (time.perf_counter() - start)
    height, width, _, count = bank.shape
    print(f"{count} filters of {height} x {width} over {picture.shape[0]} x {picture.shape[1]}: {milliseconds:.2f} ms")

    turned = functional.convolve2d(x, bank)
    print("largest difference between convolution and cross-correlation, as a share of the filter's largest value:")
    for number, name in enumerate(KERNELS):
        difference = abs(turned[..., number] - results[..., number]).max() / abs(results[..., number]).max()
        print(f"  {name:<26}{difference:.2f}")
    print("Sobel's filters turn into their negatives, the others into themselves.")

    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "filter_bank.png"
    draw_bank(picture, results[0], path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
