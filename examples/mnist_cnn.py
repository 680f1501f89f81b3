"""A small convolutional network reads handwritten digits: MNIST, 70,000 pictures of 28 x 28 pixels.

Two convolutional layers, each followed by max pooling, dropout, softmax; Adam.  MNIST is downloaded once (11 MB),
or read from the folder that --data names.  Fashion-MNIST, with clothes in place of digits, is harder.

    python examples/mnist_cnn.py
    python examples/mnist_cnn.py --data ~/Downloads --quick
    python examples/mnist_cnn.py --fashion
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import gpuconv
from gpuconv import datasets, layers, models, plotting, utils


def load_pictures(data_set, folder, quick):
    """Pictures (n, 28, 28, 1) with ink from 0 to 1, and labels (n,), to train and to test."""
    (x_train, y_train), (x_test, y_test) = data_set.load_data(path=folder)
    if quick:
        x_train, y_train, x_test, y_test = x_train[:512], y_train[:512], x_test[:256], y_test[:256]
    x_train, x_test = (x[..., np.newaxis] / np.float32(255) for x in (x_train, x_test))
    return (x_train, y_train), (x_test, y_test)


def create_network(device):
    """The network, compiled; its output is a probability for each of ten classes."""
    model = models.Sequential(device=device)
    model.add(layers.Conv2D(16, (3, 3), activation="relu", input_shape=(28, 28, 1)))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(32, (3, 3), activation="relu"))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.25))
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def draw_training(history, path):
    """Accuracy and loss of training and test pictures, epoch by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, name in zip(axes, ("accuracy", "loss"), strict=True):
        plotting.training_history(history, name, ax=ax)
        ax.grid(alpha=0.3)
    save(figure, path)


def draw_mistakes(images, labels, probabilities, names, path):
    """The misread test pictures of which the network was surest: what it says, and in brackets what it is."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    if len(wrong) == 0:
        print("no test picture is misread")
        return
    page = wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")][:40]
    titles = [f"{names[predicted[i]]} ({names[labels[i]]})" for i in page]
    ax = plotting.image_grid(images[page], titles, columns=8, cmap="gray_r")
    ax.set_title(f"{len(wrong)} of {len(labels)} test pictures are misread; the surest mistakes:\nread as (is)")
    save(ax.figure, path)


def draw_confusion(labels, probabilities, names, path):
    """How often each class is taken for each."""
    figure, ax = plt.subplots(figsize=(8, 6.5), layout="constrained")
    plotting.confusion_matrix(labels, probabilities, names, ax=ax)
    save(figure, path)


def save(figure, path):
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds the data set, default: download it")
    parser.add_argument("--fashion", action="store_true", help="clothes in place of digits: Fashion-MNIST")
    parser.add_argument("--device", choices=gpuconv.device.NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="512 pictures, 2 epochs at most")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the pictures, default: %(default)s"
    )
    arguments = parser.parse_args()
    epochs = min(arguments.epochs, 2) if arguments.quick else arguments.epochs
    data_set, stem = (datasets.fashion_mnist, "fashion_mnist") if arguments.fashion else (datasets.mnist, "mnist")
    names = data_set.class_names if arguments.fashion else range(10)

    utils.set_random_seed(arguments.seed)
    try:
        (x_train, y_train), (x_test, y_test) = load_pictures(data_set, arguments.data, arguments.quick)
    except datasets.DatasetError as error:
        raise SystemExit(str(error)) from None

    model = create_network(arguments.device)
    model.summary()
    start = time.perf_counter()
    history = model.fit(x_train, y_train, batch_size=64, epochs=epochs, validation_data=(x_test, y_test))
    print(f"{time.perf_counter() - start:.1f} s for {epochs} epochs, compilation included")
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"test loss {loss:.4f}, test accuracy {accuracy:.2%}")

    arguments.output.mkdir(parents=True, exist_ok=True)
    probabilities = model.predict(x_test, verbose=0)
    draw_training(history, arguments.output / f"{stem}_training.png")
    draw_mistakes(x_test, y_test, probabilities, names, arguments.output / f"{stem}_misread.png")
    draw_confusion(y_test, probabilities, names, arguments.output / f"{stem}_confusion.png")


if __name__ == "__main__":
    main()
