"""gpuconv beside PyTorch on a GPU, measured in one process.

    python -m benchmarks.gpu --output benchmarks/results

Needs a GPU, CuPy and PyTorch.  Kernels are timed on the device: their launches are captured in a graph, which is
replayed between two events, so that neither Python nor the driver is measured.  Training and inference are timed as a
user sees them, by the clock, with everything that the host does.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from pathlib import Path

import cupy
import numpy as np
import torch
from gpuconv.kernels import cuda, precision
from gpuconv.kernels.cuda import tiles, toolkit
from gpuconv.kernels.formulas import LINEAR
from gpuconv.kernels.geometry import correlation_geometry
from torch import nn

import gpuconv

from . import cases, gpu_report, gpu_tiles, gpu_works
from .workers import gpuconv as own_worker
from .workers import inputs
from .workers import torch as torch_worker

# A GPU that has been idle runs slowly for a while.
SAMPLES, SAMPLE_SECONDS, WARM_SECONDS = 15, 0.002, 0.05
# Every version of one shape, and 3x3 layers of the others.
VERSIONS_OF = "128x15x15x32"
NETWORKS = (("digits", 100, 100), ("cifar10", 32, 60), ("cifar10", 128, 30))
# How many of a function's last arrays it reads besides writing them.
UPDATED = {"adam": 3}
# Of one call of `fit`, which copies the pictures to the GPU first.
EPOCHS = 8
# Lists of register tiles, and whether three products on tensor cores are made of them.
FORWARD_TILES = (("REGISTER_TILES", False), ("THREE_PRODUCT_TILES", True))
FILTER_TILES = (("FILTER_COPIED_TILES", False), ("FILTER_FRAGMENT_TILES", True))
FEW_CHANNELS_TILES = (("FILTER_SCALAR_TILES", False),)


def main(arguments=None):
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["limits", "correlation", "operations", "training"])
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=precision.CHOICES)
    parser.add_argument("--work", nargs="+", default=[""], metavar="TEXT", help="only works that contain one of these")
    parser.add_argument("--output", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--compile-only", type=int, nargs=2, metavar=("PART", "PARTS"), help="time nothing")
    arguments = parser.parse_args(arguments)
    torch.backends.cudnn.benchmark = True
    if arguments.compile_only:
        compile_part(*arguments.compile_only, arguments.only)
        return
    results = {"machine": machine(), "rows": []}

    def wanted(work):
        return any(text in work for text in arguments.work)

    def add(section, work, library, seconds, **more):
        row = {"section": section, "work": work, "library": library, "seconds": seconds, **more}
        results["rows"].append(row)
        sys.stdout.write(" ".join(f"{value:.3e}" if isinstance(value, float) else str(value) for value in row.values()))
        sys.stdout.write("\n")
        sys.stdout.flush()
        if arguments.output:
            (arguments.output / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
            (arguments.output / "gpu.md").write_text(gpu_report.markdown(results))

    for section in arguments.only:
        for choice in arguments.precision if section != "limits" else ["float32"]:
            gpuconv.set_precision(choice)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = choice == "tf32"
            SECTIONS[section](lambda *row, **more: add(section, *row, **more, precision=choice), wanted)  # noqa: B023


def machine():
    """GPU, driver and versions."""
    return {
        **dict(toolkit.describe()), "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
        "gpuconv": gpuconv.__version__,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------
# timing


def own_seconds(call):
    """Device time of what `call` launches on gpuconv's stream."""
    call()
    cuda.synchronize()
    with toolkit._pool().stream as stream:
        stream.begin_capture()
        call()
        graph = stream.end_capture()

        def replay(times):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record(stream)
            for _ in range(times):
                graph.launch(stream)
            end.record(stream)
            end.synchronize()
            return cupy.cuda.get_elapsed_time(begin, end) / 1e3 / times

        return median(replay)


def torch_seconds(call):
    """Device time of what `call` launches on PyTorch's stream."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / times

    return median(replay)


def median(replay):
    """The median of several samples, each long enough for the clock."""
    replay(max(1, int(WARM_SECONDS / max(replay(3), 1e-7))))
    times = max(1, int(SAMPLE_SECONDS / max(replay(3), 1e-7)))
    return statistics.median(replay(times) for _ in range(SAMPLES))


def attempt(add, work, library, measure, **more):
    """Add a row, or say why there is none; `measure` is called at once, so that it may use what a loop changes."""
    try:
        add(work, library, measure(), **more)
    except Exception as error:  # the benchmark goes on without this figure
        add(work, library, None, error=f"{type(error).__name__}: {str(error)[:300]}", **more)


def empty(shape, dtype=np.float32):
    """Device array of random numbers."""
    random = np.random.default_rng(0)
    if np.dtype(dtype) == np.uint8:
        return cuda.from_host(random.integers(0, 4, shape, np.uint8))
    return cuda.from_host(random.standard_normal(shape, np.float32))


# ---------------------------------------------------------------------------------------------------
# sections


def limits(add, _wanted):
    """What memory and the multiply-adds can do, as PyTorch reaches it."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    attempt(add, "copy of 1 GiB", "torch", lambda: torch_seconds(lambda: target.copy_(source)), bytes=2 * source.nbytes)
    one = torch.randn(8192, 8192, device="cuda")
    out = torch.empty_like(one)
    attempt(
        add, "product 8192x8192x8192, float32", "torch",
        lambda: torch_seconds(lambda: torch.mm(one, one, out=out)), flops=2 * 8192**3,
    )  # fmt: skip


def correlation_cases():
    """3x3 layers of all shapes, and all versions of one."""
    for case in cases.correlation_cases():
        if ", 3x3, " in case["work"] or case["work"].startswith(VERSIONS_OF):
            yield case


def own_correlation(case):
    """A call of gpuconv."""
    x, filters, bias, dy = map(cuda.from_host, inputs.correlation(case))
    geometry = correlation_geometry(
        x.shape, case["kernel"], case["filters"], case["stride"], case["padding"], case["dilation"], case["groups"]
    )
    y, dx, dfilters, dbias = (cuda.empty(array.shape, np.float32) for array in (dy, x, filters, bias))
    forward = lambda: cuda.correlate2d(x, filters, bias, geometry, LINEAR, 0.0, y)  # noqa: E731
    forward()
    return {
        "forward": forward,
        "gradient_input": lambda: cuda.correlate2d_gradient_input(dy, y, filters, geometry, LINEAR, 0.0, dx),
        "gradient_filters": lambda: cuda.correlate2d_gradient_filters(x, dy, y, geometry, LINEAR, 0.0, dfilters, dbias),
    }[case["operation"]]


def torch_correlation(case, layout):
    """A call of PyTorch, forward or the function that its backward calls."""
    x, filters, bias, dy = inputs.correlation(case)
    x, dy = (torch_worker.pictures(array, layout).cuda() for array in (x, dy))
    bias = torch.from_numpy(bias).cuda()
    filters = torch.from_numpy(filters).permute(3, 2, 0, 1).cuda().contiguous(memory_format=layout)
    stride, padding, dilation = ([case[name]] * 2 for name in ("stride", "padding", "dilation"))
    by_input = case["operation"] == "gradient_input"
    if case["operation"] == "forward":
        return lambda: nn.functional.conv2d(x, filters, bias, stride, padding, dilation, case["groups"])
    return lambda: torch.ops.aten.convolution_backward(
        dy, x, filters, [case["filters"]], stride, padding, dilation, False, [0, 0], case["groups"],
        [by_input, not by_input, not by_input],
    )  # fmt: skip


def correlation(add, wanted):
    """Layers and their gradients."""
    for case in filter(lambda case: wanted(case["work"]), correlation_cases()):
        more = {"flops": case["flops"]}
        attempt(add, case["work"], "gpuconv", lambda: own_seconds(own_correlation(case)), **more)  # noqa: B023
        with torch.inference_mode():
            for name, layout in torch_worker.LAYOUTS.items():
                attempt(
                    add, case["work"], "torch", lambda: torch_seconds(torch_correlation(case, layout)),  # noqa: B023
                    variant=name, **more,
                )  # fmt: skip


def register_tiles(add, wanted):
    """Correlations in the tile that `tiles` chooses, and in every other, with and without three products for one."""
    for case in filter(lambda case: wanted(case["work"]), correlation_cases()):
        call = None
        for name, choices, three_products in tile_choices(case):
            products = "three products" if three_products else "multipliers"
            with gpu_tiles.choosing(name, choices, three_products):
                call = call or own_correlation(case)
                attempt(
                    add, case["work"], "gpuconv", functools.partial(own_seconds, call),
                    products=products, variant=gpu_tiles.size_of(*choices), flops=case["flops"],
                )  # fmt: skip


def tile_choices(case):
    """What a correlation may be computed in: arguments of `gpu_tiles.choosing`.

    First all tiles of a list, then one at a time.
    """
    by_filters, few = case["operation"] == "gradient_filters", case["shape"][-1] < 4
    if case["groups"] > 1 or (few and not by_filters):
        return
    lists = FILTER_TILES if by_filters else FORWARD_TILES
    for name, three_products in FEW_CHANNELS_TILES if few else lists:
        everything = getattr(tiles, name)
        yield name, everything, three_products
        # The largest is not for gradients by input with strides.
        phased = case["operation"] == "gradient_input" and case["stride"] > 1
        for tile in everything:
            if not (phased and tile.threads == 256):
                yield name, (tile,), three_products


def operations(add, wanted):
    """What `gpu_works` lists besides correlations, by the bytes of its arrays."""
    for work in gpu_works.works():
        if work.function.startswith("correlate2d") or not wanted(work.name):
            continue
        sizes = []

        def made(shape, dtype=np.float32):
            array = empty(shape, dtype)
            sizes.append(array.nbytes)  # noqa: B023
            return array

        call_arguments = work.arguments(made)
        moved = sum(sizes) + sum(sizes[len(sizes) - UPDATED.get(work.function, 0) :])
        call = lambda: getattr(cuda, work.function)(*call_arguments)  # noqa: E731, B023
        attempt(add, work.name, "gpuconv", lambda: own_seconds(call), bytes=moved, flops=work.flops)  # noqa: B023


def training(add, wanted):
    """Steps of training and batches of inference, by the clock."""
    for network, batch, steps in NETWORKS:
        case = {"network": network, "batch": batch, "steps": steps}
        work = f"{network}, batch {batch}"
        if not wanted(work):
            continue
        model, (x, y) = own_worker.create_network(network, "cuda"), own_worker.data(case)
        fit = lambda: model.fit(x, y, batch_size=batch, epochs=EPOCHS, verbose=0)  # noqa: E731, B023
        predict = lambda: model.predict(x, batch_size=batch, verbose=0)  # noqa: E731, B023
        attempt(add, f"{work}, training step", "gpuconv", lambda: clock(fit, EPOCHS * steps))  # noqa: B023
        attempt(add, f"{work}, inference", "gpuconv", lambda: clock(predict, steps))  # noqa: B023
        for name, layout in torch_worker.LAYOUTS.items():
            train, graphed, infer = torch_network(case, layout)
            attempt(
                add, f"{work}, training step", "torch", lambda: clock(graphed(), EPOCHS * steps),  # noqa: B023
                variant=f"{name}, CUDA graph",
            )  # fmt: skip
            attempt(add, f"{work}, training step", "torch", lambda: clock(train, EPOCHS * steps), variant=name)  # noqa: B023
            attempt(add, f"{work}, inference", "torch", lambda: clock(infer, steps), variant=name)  # noqa: B023


def clock(call, steps):
    """Seconds of one of the steps that a call makes."""
    call()
    call()
    samples = []
    for _ in range(5):
        begin = time.perf_counter()
        call()
        samples.append((time.perf_counter() - begin) / steps)
    return statistics.median(samples)


def torch_network(case, layout):
    """Epochs of training in a new order, and inference: functions that copy the pictures to the GPU first."""
    x_host, labels_host = inputs.network(case)
    x_host, labels_host = torch_worker.pictures(x_host, layout), torch.from_numpy(labels_host)
    x, labels = x_host.cuda(), labels_host.cuda()
    model = torch_worker.create_network(case["network"], layout).cuda()
    optimizer = torch_worker.create_optimizer(case["network"], model, fused=True)
    loss = nn.CrossEntropyLoss()
    x_batch, labels_batch = torch.empty_like(x[: case["batch"]]), torch.empty_like(labels[: case["batch"]])

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(model(x_batch), labels_batch).backward()
        optimizer.step()

    def graphed():
        """Training whose steps are one graph each, as PyTorch's notes on CUDA graphs say."""
        for group in optimizer.param_groups:
            group["capturable"] = True
        x_batch.copy_(x[: case["batch"]])
        labels_batch.copy_(labels[: case["batch"]])
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            step()

        def replay():
            x.copy_(x_host)
            labels.copy_(labels_host)
            for _ in range(EPOCHS):
                for chosen in torch.randperm(len(x), device="cuda").split(case["batch"]):
                    torch.index_select(x, 0, chosen, out=x_batch)
                    torch.index_select(labels, 0, chosen, out=labels_batch)
                    graph.replay()
            torch.cuda.synchronize()

        return replay

    def train():
        x.copy_(x_host)
        labels.copy_(labels_host)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(x), device="cuda").split(case["batch"]):
                optimizer.zero_grad(set_to_none=True)
                loss(model(x[chosen]), labels[chosen]).backward()
                optimizer.step()
        torch.cuda.synchronize()

    @torch.inference_mode()
    def predict():
        x.copy_(x_host)
        return torch.cat([model(part) for part in x.split(case["batch"])]).cpu()

    return train, graphed, predict


def compile_part(part, parts, sections):
    """Call every kernel that the benchmark times once, as one of so many processes that share the work."""
    calls = [lambda case=case: own_correlation(case)() for case in correlation_cases()]
    calls += [
        lambda work=work: getattr(cuda, work.function)(*work.arguments(empty))
        for work in gpu_works.works()
        if not work.function.startswith("correlate2d")
    ]
    calls += [
        lambda network=network, batch=batch: gpuconv.warmup(own_worker.create_network(network, "cuda"), batch)
        for network, batch, _ in NETWORKS
    ]
    if "tiles" in sections:
        every = dict.fromkeys(choice for case in correlation_cases() for choice in tile_choices(case))
        calls += [lambda choice=choice: compile_tile(choice) for choice in every]
    for call in calls[part::parts]:
        call()
    cuda.synchronize()


def compile_tile(choice):
    """Call every correlation that may be computed in it."""
    with gpu_tiles.choosing(*choice):
        for case in correlation_cases():
            if choice in tile_choices(case):
                own_correlation(case)()


SECTIONS = {
    "limits": limits, "correlation": correlation, "operations": operations, "training": training,
    "tiles": register_tiles,
}  # fmt: skip

if __name__ == "__main__":
    main()
