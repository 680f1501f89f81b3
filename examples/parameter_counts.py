"""How many numbers a network has to learn: dense networks beside convolutional ones.

A million samples of sound and ten thousand hidden neurons make ten billion weights; a picture of 128 x 128 pixels in
three colours needs 49,152 for every single neuron. Convolutional networks for the same inputs make do with ten or
twenty thousand in all, because a filter sees a small window and is used at every place.

    python examples/parameter_counts.py
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gpuconv import layers, models
from gpuconv.utils import count_correlation_parameters, count_dense_parameters


def count_one_neuron():
    """Weights of one neuron that sees a whole picture, and of one filter of 3 x 3 pixels: (name, dense, filter)."""
    return [
        (f"{height} x {width} x {channels}",
         count_dense_parameters(height * width * channels, 1, use_bias=False),
         count_correlation_parameters((3, 3), channels, 1, use_bias=False))
        for height, width, channels in ((28, 28, 1), (128, 128, 1), (128, 128, 3))
    ]  # fmt: skip


def create_sound_network():
    """Is it a human voice? A million samples in, one number out; sound is a picture one pixel high."""
    return models.Sequential([
        layers.Conv2D(16, (1, 64), strides=(1, 16), activation="relu", input_shape=(1, 10**6, 1)),
        layers.MaxPooling2D((1, 8)),
        layers.Conv2D(32, (1, 16), strides=(1, 4), activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip


def create_picture_network():
    """Which of ten classes? 128 x 128 pixels in three colours in, ten probabilities out."""
    return models.Sequential([
        layers.Conv2D(32, (3, 3), activation="relu", input_shape=(128, 128, 3)),
        layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="softmax"),
    ])  # fmt: skip


def count_networks():
    """All parameters of two dense networks and of convolutional ones for the same inputs: (name, dense, other)."""
    return [
        ("sound, 1,000,000 samples\n10,000 hidden neurons, 1 output",
         count_dense_parameters(10**6, 10**4, 1), create_sound_network().count_params()),
        ("picture, 128 x 128 x 3\n1,000 hidden neurons, 10 outputs",
         count_dense_parameters(128 * 128 * 3, 1000, 10), create_picture_network().count_params()),
    ]  # fmt: skip


def draw_bars(ax, counts, labels, title):
    """Two bars for every row of `counts`, their numbers behind them, on a logarithmic scale."""
    for side, color, column, label in ((-0.2, "tab:red", 1, labels[0]), (0.2, "tab:blue", 2, labels[1])):
        places = [row + side for row in range(len(counts))]
        bars = ax.barh(places, [row[column] for row in counts], height=0.36, color=color, label=label)
        ax.bar_label(bars, [f"{row[column]:,}" for row in counts], padding=4)
    ax.set_yticks(range(len(counts)), [row[0] for row in counts])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlim(1, 500 * max(row[1] for row in counts))
    ax.set_xlabel("parameters")
    ax.set_title(title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="changes nothing: counting is quick")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the picture, default: %(default)s"
    )
    arguments = parser.parse_args()

    neurons, networks = count_one_neuron(), count_networks()
    print(f"{'weights of one neuron':<44}{'dense':>16}{'3 x 3 filter':>16}")
    for name, dense, other in neurons:
        print(f"{name:<44}{dense:>16,}{other:>16,}")
    print(f"\n{'parameters of a network':<44}{'dense':>16}{'convolutional':>16}")
    for name, dense, other in networks:
        print(f"{name.splitlines()[0]:<44}{dense:>16,}{other:>16,}")

    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "parameter_counts.png"
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    draw_bars(axes[0], neurons, ("dense: sees the whole picture", "3 x 3 filter"), "Weights of one neuron")
    draw_bars(axes[1], networks, ("dense network", "convolutional network"), "Parameters of a whole network")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"\npicture: {path}")


if __name__ == "__main__":
    main()
