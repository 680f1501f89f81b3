"""The CIFAR-10 network by PyTorch: ``cifar10_torch.py PICTURES.npz EPOCHS SEED``."""

import json
import os
import sys
import time

import numpy as np
import torch
from torch import nn

if __name__ == "__main__":
    data, epochs, seed = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(seed)
    x, x_test = (torch.from_numpy(data[name]).permute(0, 3, 1, 2) for name in ("x", "x_test"))
    y, y_test = (torch.from_numpy(data[name].astype(np.int64)) for name in ("y", "y_test"))
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        for part in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            loss_of(model(x[part]), y[part]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    with torch.inference_mode():
        hits = sum(
            (model(a).argmax(1) == b).sum().item() for a, b in zip(x_test.split(500), y_test.split(500), strict=True)
        )
    result = {"library": f"PyTorch {torch.__version__}", "seed": seed, "accuracy": hits / len(x_test)}
    print(json.dumps({**result, "seconds_per_epoch": float(np.median(seconds))}))
