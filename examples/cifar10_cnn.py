"""The lecture's network on CIFAR-10: 60,000 colour pictures of 32 x 32 pixels, of ten kinds of things.

Three convolutional layers with max pooling between them, then two dense layers; Adam, sparse cross-entropy
from logits.  CIFAR-10 is downloaded once (170 MB), or read from the folder that --data names.

    python examples/cifar10_cnn.py
    python examples/cifar10_cnn.py --data ~/Downloads --epochs 3
    python examples/cifar10_cnn.py --data ~/Downloads --quick
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import gpuconv
from gpuconv import datasets, layers, losses, models, plotting, utils


def load_pictures(folder, quick):
    """Pictures (n, 32, 32, 3) with colours from 0 to 1, and labels (n, 1), to train and to test."""
    (x_train, y_train), (x_test, y_test) = datasets.cifar10.load_data(path=folder)
    if quick:
        x_train, y_train, x_test, y_test = x_train[:512], y_train[:512], x_test[:256], y_test[:256]
    # A float32 divisor keeps the quotient float32, at half of float64's memory.
    return (x_train / np.float32(255), y_train), (x_test / np.float32(255), y_test)


def create_network(device):
    """The network, printed before and after its dense layers.

    From layer to layer pictures become smaller, 32 x 32 to 4 x 4, and channels more, 3 to 64.  The last layer
    has no activation: its ten outputs are logits, and the loss applies the softmax.
    """
    model = models.Sequential(device=device)
    model.add(layers.Conv2D(32, (3, 3), activation="relu", input_shape=(32, 32, 3)))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation="relu"))
    model.summary()

    model.add(layers.Flatten())
    model.add(layers.Dense(64, activation="relu"))
    model.add(layers.Dense(10))
    model.summary()

    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def draw_pictures(images, labels, path):
    """Pictures with the names of their classes."""
    ax = plotting.image_grid(images, [datasets.cifar10.class_names[label] for label in labels.ravel()], columns=5)
    save(ax.figure, path)


def draw_training(history, path):
    """Accuracy and loss of training and test pictures, epoch by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, name in zip(axes, ("accuracy", "loss"), strict=True):
        plotting.training_history(history, name, ax=ax)
        ax.grid(alpha=0.3)
    save(figure, path)


def draw_features(model, image, name, path):
    """A picture, the filters of the first layer, and what they find in the picture."""
    filters = model.layers[0].get_weights()[0]
    # The first layer by itself, with the trained weights.
    first = models.Sequential([layers.Conv2D(32, (3, 3), activation="relu", input_shape=(32, 32, 3))])
    first.set_weights(model.layers[0].get_weights())
    maps = first.predict(image[np.newaxis], verbose=0)

    figure = plt.figure(figsize=(12, 11), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.5), hspace=0.03)
    left, right = above.subplots(1, 2, width_ratios=(1, 2))
    left.imshow(image, interpolation="nearest")
    left.set_title(f"a picture: {name}")
    left.axis("off")
    plotting.filters(filters, columns=8, ax=right)
    right.set_title("the 32 filters of the first layer, 3 x 3 weights for each colour")
    ax = plotting.feature_maps(maps, columns=8, ax=below.subplots())
    ax.set_title("what each filter, in the same place, finds in the picture, after ReLU")
    save(figure, path)


def save(figure, path):
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds CIFAR-10, default: download it")
    parser.add_argument("--device", choices=gpuconv.device.NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="512 pictures, 2 epochs at most")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the pictures, default: %(default)s"
    )
    arguments = parser.parse_args()
    epochs = min(arguments.epochs, 2) if arguments.quick else arguments.epochs

    utils.set_random_seed(arguments.seed)
    try:
        (x_train, y_train), (x_test, y_test) = load_pictures(arguments.data, arguments.quick)
    except datasets.DatasetError as error:
        raise SystemExit(str(error)) from None
    arguments.output.mkdir(parents=True, exist_ok=True)
    draw_pictures(x_train[:25], y_train[:25], arguments.output / "cifar10_pictures.png")

    model = create_network(arguments.device)
    start = time.perf_counter()
    history = model.fit(x_train, y_train, epochs=epochs, validation_data=(x_test, y_test))
    print(f"{time.perf_counter() - start:.1f} s for {epochs} epochs, compilation included")
    draw_training(history, arguments.output / "cifar10_training.png")

    loss, accuracy = model.evaluate(x_test, y_test, verbose=2)
    print(f"test loss {loss:.4f}, test accuracy {accuracy:.2%}")
    name = datasets.cifar10.class_names[y_test[0, 0]]
    draw_features(model, x_test[0], name, arguments.output / "cifar10_features.png")


if __name__ == "__main__":
    main()
