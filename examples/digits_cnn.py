"""The lecture's convolutional network on 1,797 handwritten digits.

Ten 3 x 3 filters, max pooling, fifty neurons, softmax; L2 penalties, stochastic gradient descent.

    python examples/digits_cnn.py
    python examples/digits_cnn.py --device cuda --epochs 50 --output pictures
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
from gpuconv import callbacks, datasets, layers, models, optimizers, regularizers, utils


class EpochBar(callbacks.Callback):
    """One progress bar over all epochs."""

    def __init__(self, epochs):
        self.bar = tqdm(total=epochs, unit="epoch")

    def on_epoch_end(self, epoch, logs=None):
        self.bar.set_postfix({name: f"{value:.4f}" for name, value in logs.items()}, refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


def load_digits():
    """Pictures (n, 8, 8, 1) with ink from 0 to 1 and labels, shuffled: four fifths to train, one fifth to test."""
    images, labels = datasets.digits.load_data()
    images = images[..., np.newaxis] / 16.0
    order = np.random.default_rng(0).permutation(len(images))
    train, test = np.split(order, [int(0.8 * len(images))])
    return (images[train], labels[train]), (images[test], labels[test])


def create_network(eta, lmbd, device):
    """The network; `eta` is the learning rate, `lmbd` the factor of the L2 penalties."""
    model = models.Sequential(device=device)
    model.add(
        layers.Conv2D(10, (3, 3), activation="relu", input_shape=(8, 8, 1), kernel_regularizer=regularizers.l2(lmbd))
    )
    model.add(layers.MaxPooling2D(pool_size=(2, 2)))
    model.add(layers.Flatten())
    model.add(layers.Dense(50, activation="relu", kernel_regularizer=regularizers.l2(lmbd)))
    model.add(layers.Dense(10, activation="softmax", kernel_regularizer=regularizers.l2(lmbd)))
    model.compile(loss="categorical_crossentropy", optimizer=optimizers.SGD(learning_rate=eta), metrics=["accuracy"])
    return model


def draw_training(history, path):
    """Loss and accuracy of training and test digits, epoch by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        epochs = np.arange(1, len(history[name]) + 1)
        ax.plot(epochs, history[name], label="training")
        ax.plot(epochs, history[f"val_{name}"], label="test")
        ax.set(xlabel="epoch", ylabel=name)
        ax.legend()
    axes[0].set_yscale("log")
    axes[1].set_ylim(0.8, 1.0)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_predictions(images, labels, probabilities, path):
    """A page of test digits: the prediction, its probability, and in red what it should have been.

    All mistakes come first.
    """
    predicted = probabilities.argmax(axis=1)
    page = np.argsort(predicted == labels, kind="stable")[:40]
    figure, axes = plt.subplots(5, 8, figsize=(10, 7.5), layout="constrained")
    for ax, i in zip(axes.flat, page, strict=True):
        ax.imshow(images[i, :, :, 0], cmap="gray_r")
        title = f"{predicted[i]}  ({probabilities[i].max():.0%})"
        right = predicted[i] == labels[i]
        ax.set_title(title if right else f"{title}, is {labels[i]}", color="black" if right else "red", fontsize=9)
        ax.axis("off")
    figure.suptitle(f"{np.count_nonzero(predicted != labels)} of {len(labels)} test digits are misread")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=gpuconv.device.NAMES, default="auto", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--eta", type=float, default=0.1, help="learning rate, default: %(default)s")
    parser.add_argument("--lmbd", type=float, default=1e-4, help="factor of the L2 penalties, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the pictures, default: %(default)s"
    )
    parser.add_argument("--quick", action="store_true", help="ten epochs: too few, but soon done")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs = 10

    utils.set_random_seed(arguments.seed)
    (x_train, labels_train), (x_test, labels_test) = load_digits()
    y_train, y_test = (utils.to_categorical(labels, 10) for labels in (labels_train, labels_test))

    model = create_network(arguments.eta, arguments.lmbd, arguments.device)
    model.summary()

    start = time.perf_counter()
    history = model.fit(
        x_train, y_train, batch_size=100, epochs=arguments.epochs, verbose=0,
        validation_data=(x_test, y_test), callbacks=[EpochBar(arguments.epochs)],
    )  # fmt: skip
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"{seconds:.1f} s for {arguments.epochs} epochs, compilation included")
    print(f"test loss {loss:.4f}, test accuracy {accuracy:.2%}")

    arguments.output.mkdir(parents=True, exist_ok=True)
    curves, page = (arguments.output / f"digits_{name}.png" for name in ("training", "predictions"))
    draw_training(history.history, curves)
    draw_predictions(x_test, labels_test, model.predict(x_test, verbose=0), page)
    print(f"pictures: {curves}, {page}")


if __name__ == "__main__":
    main()
