"""PyTorch, in the layout of memory that suits it better, channels first or last, with fused optimisers or not."""

import torch
import torch.nn.functional
from torch import nn

from . import inputs
from .memory import peak_bytes
from .server import THREADS, serve

LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}

torch.set_num_threads(THREADS)
torch.set_num_interop_threads(1)


def prepare(case):
    """Functions that compute the case: see `server.Prepared`."""
    operation = case["operation"]
    if operation in ("forward", "gradient_input", "gradient_filters"):
        return {name: correlation(case, layout) for name, layout in LAYOUTS.items()}
    if operation == "train":
        return {
            f"{name}, fused={fused}": (training(case, layout, fused), case["steps"])
            for name, layout in LAYOUTS.items()
            for fused in (False, True)
        }
    if operation == "predict":
        return {name: (inference(case, layout), case["steps"]) for name, layout in LAYOUTS.items()}
    if "pool2d" in operation:
        return {name: pooling(case, layout) for name, layout in LAYOUTS.items()}
    return elementwise(case)


def pictures(array, layout):
    """A tensor N, C, H, W in the given layout of memory."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=layout)


def correlation(case, layout):
    """Forward by `conv2d`, gradients by the function that its own backward calls, without recording anything."""
    x, filters, bias, dy = inputs.correlation(case)
    x, dy, bias = pictures(x, layout), pictures(dy, layout), torch.from_numpy(bias)
    filters = torch.from_numpy(filters).permute(3, 2, 0, 1).contiguous(memory_format=layout)
    stride, padding, dilation = ([case[name]] * 2 for name in ("stride", "padding", "dilation"))

    def gradients(by_input):
        return torch.ops.aten.convolution_backward(
            dy, x, filters, [case["filters"]], stride, padding, dilation, False, [0, 0], case["groups"],
            [by_input, not by_input, not by_input],
        )  # fmt: skip

    @torch.inference_mode()
    def forward():
        return nn.functional.conv2d(x, filters, bias, stride, padding, dilation, case["groups"])

    @torch.inference_mode()
    def gradient_input():
        return gradients(True)[0]

    @torch.inference_mode()
    def gradient_filters():
        return gradients(False)[1:]

    return {"forward": forward, "gradient_input": gradient_input, "gradient_filters": gradient_filters}[
        case["operation"]
    ]


def create_network(name, layout):
    """The lecture's networks; the softmax is part of the loss."""
    if name == "digits":
        model = nn.Sequential(
            nn.Conv2d(1, 10, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(90, 50), nn.ReLU(), nn.Linear(50, 10),
        )  # fmt: skip
    else:
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    return model.to(memory_format=layout)


def create_optimizer(name, model, fused):
    """SGD with the derivative of 1e-4 |kernel|^2 for the digits, Adam for CIFAR-10."""
    if name != "digits":
        return torch.optim.Adam(model.parameters(), fused=fused)
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    return torch.optim.SGD(
        [{"params": kernels, "weight_decay": 2e-4}, {"params": biases, "weight_decay": 0.0}], lr=0.1, fused=fused
    )


def training(case, layout, fused):
    """An epoch in a new order.  It computes neither metrics nor the loss of the epoch, which gpuconv and Keras do."""
    x, labels = inputs.network(case)
    x, labels = pictures(x, layout), torch.from_numpy(labels)
    model = create_network(case["network"], layout)
    optimizer = create_optimizer(case["network"], model, fused)
    loss = nn.CrossEntropyLoss()

    def train():
        for chosen in torch.randperm(len(x)).split(case["batch"]):
            optimizer.zero_grad(set_to_none=True)
            loss(model(x[chosen]), labels[chosen]).backward()
            optimizer.step()

    return train


def inference(case, layout):
    """The outputs for all pictures, in one array."""
    x = pictures(inputs.network(case)[0], layout)
    model = create_network(case["network"], layout).eval()
    outputs = torch.empty(len(x), 10)

    @torch.inference_mode()
    def predict():
        for start in range(0, len(x), case["batch"]):
            outputs[start : start + case["batch"]] = model(x[start : start + case["batch"]])

    return predict


def pooling(case, layout):
    """Pooling of 2x2 windows, and the functions that its own backward calls, into arrays that exist."""
    shape = case["shape"]
    x = pictures(inputs.normal(*shape), layout)
    dy = pictures(inputs.normal(shape[0], shape[1] // 2, shape[2] // 2, shape[3], seed=1), layout)
    y, dx = torch.empty_like(dy), torch.empty_like(x)
    window, nothing, every = [2, 2], [0, 0], [1, 1]
    winners = nn.functional.max_pool2d(x, 2, return_indices=True)[1]
    aten = torch.ops.aten
    return torch.inference_mode()(
        {
            "max_pool2d": lambda: aten.max_pool2d_with_indices.out(x, window, window, out=y, indices=winners)[0],
            "max_pool2d_gradient": lambda: aten.max_pool2d_with_indices_backward.grad_input(
                dy, x, window, window, nothing, every, False, winners, grad_input=dx
            ),
            "average_pool2d": lambda: aten.avg_pool2d.out(x, window, window, out=y),
            "average_pool2d_gradient": lambda: aten.avg_pool2d_backward.grad_input(
                dy, x, window, window, nothing, False, True, None, grad_input=dx
            ),
        }[case["operation"]]
    )


def elementwise(case):
    """Functions that memory bounds, into arrays that exist."""
    operation = case["operation"]
    x, other = (torch.from_numpy(inputs.normal(*case["shape"], seed=seed)) for seed in (0, 1))
    out = torch.empty_like(x)
    if operation in ("sgd", "adam"):
        variants = {}
        for fused in (False, True):
            parameter = nn.Parameter(x.clone())
            parameter.grad = other
            optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[operation]([parameter], lr=1e-3, fused=fused)
            variants[f"fused={fused}"] = lambda optimizer=optimizer: optimizer.step() and None
        return variants
    functions = {
        "relu": {
            "clamp": lambda: torch.clamp(x, min=0, out=out),
            "relu": lambda: torch.ops.aten.relu.out(x, out=out),
        },
        "relu_gradient": {
            "threshold": lambda: torch.ops.aten.threshold_backward.grad_input(other, x, 0, grad_input=out)
        },
        "sigmoid": {"sigmoid": lambda: torch.sigmoid(x, out=out)},
        "softmax": {"softmax": lambda: torch.softmax(x, 1, out=out)},
        # The only one without a version that writes into an array.
        "dropout": {"dropout": lambda: nn.functional.dropout(x, 0.5)},
    }[operation]
    return {name: torch.inference_mode()(function) for name, function in functions.items()}


def first_step():
    """One step of training; the caller measures the process."""
    training(inputs.FIRST_STEP, torch.contiguous_format, fused=False)()


def memory():
    """The peak of a training run; what its steps allocate cannot be seen from Python."""
    train = training(inputs.MEMORY, torch.channels_last, fused=True)
    for _ in range(2):
        train()
    return {"peak_bytes": peak_bytes()}


if __name__ == "__main__":
    serve(prepare, {"torch": torch.__version__}, first_step=first_step, memory=memory)
