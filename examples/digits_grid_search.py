"""Which learning rate, and how much regularisation? 49 networks that read digits, one for each pair of values.

The lecture's network (ten 3 x 3 filters, max pooling, fifty neurons, softmax) is trained for 100 epochs for every
learning rate eta and every factor lambda of its L2 penalties, both from 1e-5 to 10. Two heatmaps show what share of
the training digits and of the test digits each network reads right. The best network is picked by its test accuracy,
which makes that accuracy look a little better than it would be on digits that had no say in the choice.

    python examples/digits_grid_search.py
    python examples/digits_grid_search.py --jobs 2
    python examples/digits_grid_search.py --quick
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import gpuconv
from gpuconv import datasets, layers, model_selection, models, optimizers, plotting, regularizers, utils


def load_digits():
    """Pictures (n, 8, 8, 1) with ink from 0 to 1 and one-hot labels: four fifths to train, one fifth to test."""
    images, labels = datasets.digits.load_data()
    images = images[..., np.newaxis] / 16.0
    order = np.random.default_rng(0).permutation(len(images))
    train, test = np.split(order, [int(0.8 * len(images))])
    targets = utils.to_categorical(labels)
    return (images[train], targets[train]), (images[test], targets[test])


def create_network(eta, lmbd):
    """The network; `eta` is the learning rate, `lmbd` the factor of the L2 penalties."""
    model = models.Sequential()
    model.add(
        layers.Conv2D(10, (3, 3), activation="relu", input_shape=(8, 8, 1), kernel_regularizer=regularizers.l2(lmbd))
    )
    model.add(layers.MaxPooling2D(pool_size=(2, 2)))
    model.add(layers.Flatten())
    model.add(layers.Dense(50, activation="relu", kernel_regularizer=regularizers.l2(lmbd)))
    model.add(layers.Dense(10, activation="softmax", kernel_regularizer=regularizers.l2(lmbd)))
    model.compile(loss="categorical_crossentropy", optimizer=optimizers.SGD(learning_rate=eta), metrics=["accuracy"])
    return model


def draw_accuracies(search, path):
    """Two heatmaps, of training and test accuracy; a frame marks the best network."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained")
    eta, lmbd = ([f"{value:g}" for value in values] for values in search.parameters.values())
    for ax, name, title in zip(axes, ("accuracy", "val_accuracy"), ("Training accuracy", "Test accuracy"), strict=True):
        plotting.heatmap(search.values[name], eta, lmbd, vmin=0.0, vmax=1.0, ax=ax)
        ax.set(title=title, xlabel=r"$\lambda$, factor of the L2 penalties", ylabel=r"$\eta$, learning rate")
        row, column = search.best_index
        ax.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2.5))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=gpuconv.device.NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a smaller grid, and 20 epochs at most")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the picture, default: %(default)s"
    )
    arguments = parser.parse_args()

    gpuconv.use_device(arguments.device)
    (x_train, y_train), test = load_digits()
    exponents = [-3, -1, 1] if arguments.quick else range(-5, 2)
    values = [10.0**exponent for exponent in exponents]
    epochs = min(arguments.epochs, 20) if arguments.quick else arguments.epochs

    start = time.perf_counter()
    search = model_selection.grid_search(
        create_network, {"eta": values, "lmbd": values}, x_train, y_train, validation_data=test,
        batch_size=100, epochs=epochs, seed=arguments.seed, n_jobs=arguments.jobs,
    )  # fmt: skip
    seconds = time.perf_counter() - start

    print(search.table())
    best = search.best_parameters
    print(f"{seconds:.1f} s for {search.models.size} networks of {epochs} epochs, compilation included")
    print(f"best: eta = {best['eta']:g}, lambda = {best['lmbd']:g}, test accuracy {search.best_value:.2%}")

    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "digits_grid_search.png"
    draw_accuracies(search, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
