"""The CIFAR-10 network by gpuconv: ``cifar10_gpuconv.py PICTURES.npz EPOCHS SEED``."""

import json
import sys
import time

import numpy as np

import gpuconv
from gpuconv import callbacks, utils

from .gpuconv import create_network


class Stopwatch(callbacks.Callback):
    """Seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds, self.last = [], time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


if __name__ == "__main__":
    data, epochs, seed = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    x, y = data["x"], data["y"]
    utils.set_random_seed(seed)
    model = create_network("CIFAR-10")
    stopwatch = Stopwatch()
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[stopwatch])
    accuracy = model.evaluate(data["x_test"], data["y_test"], verbose=0)[1]
    library, seconds = f"gpuconv {gpuconv.__version__}", float(np.median(stopwatch.seconds))
    print(json.dumps({"library": library, "seed": seed, "accuracy": accuracy, "seconds_per_epoch": seconds}))
