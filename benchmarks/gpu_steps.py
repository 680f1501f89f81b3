"""How many kernels a step of training launches, and how many must be compiled for a network: counted without a GPU."""

import time

import numpy as np
from cuda_compiling import assemble, launch_of
from simt import Gpu

import gpuconv

from .workers.gpuconv import create_network

NETWORKS = {"digits": (100, (8, 8, 1)), "cifar10": (128, (32, 32, 3))}  # batch, pictures
CAPABILITY = (9, 0)


class Notebook(Gpu):
    """A GPU that notes what it is to launch, and computes nothing: all arrays count as written.

    Attributes
    ----------
    wanted : dict
        Every kernel with its types, as `Launch`, in the order of their first launches.
    """

    def __init__(self, capability=CAPABILITY):
        super().__init__(capability, size=1 << 28)
        self.wanted = {}

    def empty(self, shape, dtype):
        array = super().empty(shape, dtype)
        array._flags()[...] = 3
        return array

    def launch(self, kernel, blocks, threads, *arguments):
        if 0 in blocks:
            return
        self.launched.append(kernel.py_func.__name__)
        cells = [getattr(argument, "_cells", argument) for argument in arguments]
        self.wanted[launch_of(kernel, threads, cells)] = None


def count(network):
    """What a step of training does on the device.

    Returns
    -------
    dict
        ``network``, ``batch``; of one step, found as the difference of epochs of two steps and of one: ``launches``,
        and ``waits`` of the host for the device; ``kernels``: names and numbers of the step's launches;
        ``variants``: kernels that `gpuconv.warmup` compiles, for training and inference.
    """
    batch, shape = NETWORKS[network]
    counts = []
    for steps in (1, 2):
        with Notebook().installed() as gpu:
            model = create_network(network, "cuda")
            x = np.zeros((steps * batch, *shape), np.float32)
            y = np.zeros((steps * batch, 10)) if network == "digits" else np.zeros(steps * batch, np.int32)
            model.fit(x, y, batch_size=batch, verbose=0)
            counts.append((gpu.launched, gpu.waits))
    (one, waits_of_one), (two, waits_of_two) = counts
    names = {name: two.count(name) - one.count(name) for name in dict.fromkeys(two)}
    return {
        "network": network, "batch": batch, "launches": len(two) - len(one), "waits": waits_of_two - waits_of_one,
        "kernels": {name: number for name, number in names.items() if number}, "variants": len(wanted(network)),
    }  # fmt: skip


def wanted(network):
    """What `gpuconv.warmup` launches for a network: a list of `Launch`."""
    batch, _ = NETWORKS[network]
    with Notebook().installed() as gpu:
        gpuconv.warmup(create_network(network, "cuda"), batch)
    return list(gpu.wanted)


def compile_seconds(network):
    """How long the network's kernels take to compile, from Python to machine code.

    In a process that has compiled none of them.
    """
    launches = wanted(network)
    begin = time.perf_counter()
    assemble(tuple(launch.ptx(CAPABILITY) for launch in launches), CAPABILITY)
    return round(time.perf_counter() - begin, 1)
