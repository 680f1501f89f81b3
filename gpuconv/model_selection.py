"""Grid search: train one network for every combination of parameters, and compare them."""

import contextlib
import itertools
import random
import threading
import time
import warnings

import numpy as np

from . import checks, models, seeds, utils
from . import device as devices
from .kernels.geometry import is_integer

# A process makes and trains one network at a time, whichever thread asks: random numbers come from one source, and
# the kernels use all threads anyway.
_one_at_a_time = threading.RLock()


class GridSearch:
    """What `grid_search` returns.

    Attributes
    ----------
    parameters : dict
        The grid: for every name its values, in the order of the axes of all arrays here.
    values : dict of numpy.ndarray
        For ``loss`` and every metric, and with ``val_`` in front for the validation data: what the trained networks
        reach, float64, one axis a parameter.
    histories : numpy.ndarray of dict
        The `history` of every training: for every name one value an epoch.
    seconds : numpy.ndarray
        Time of every training, evaluation included.
    monitor : str
        Which of the values says what is best.
    best_index : tuple of int or None
        Place of the best network in the grid; of equals the first, row by row.  None if all values are NaN.
    best_value : float
        NaN if all values are.
    best_parameters : dict or None
    best_model : Sequential or None
        None too if models were not kept.
    models : numpy.ndarray of Sequential
        The trained networks, with None for every one that was not kept.
    seed : int
        Repeats the search, with the same parameters and data.
    """

    def __init__(self, parameters, monitor, seed):
        self.parameters = parameters
        self.monitor = monitor
        self.seed = seed
        shape = self.shape
        self.values = {}
        self.histories, self.models = np.empty(shape, object), np.empty(shape, object)
        self.seconds = np.full(shape, np.nan)
        self.best_index, self.best_value = None, np.nan

    @property
    def shape(self):
        """Number of values of each parameter."""
        return tuple(len(values) for values in self.parameters.values())

    @property
    def best_parameters(self):
        return None if self.best_index is None else self.parameters_at(*self.best_index)

    @property
    def best_model(self):
        return None if self.best_index is None else self.models[self.best_index]

    def parameters_at(self, *place):
        """The parameters at a place of the grid, as a dict."""
        return {name: values[i] for (name, values), i in zip(self.parameters.items(), place, strict=True)}

    def rows(self):
        """One dict a network, in the order of the grid: parameters, values and seconds.

        ``pandas.DataFrame(search.rows())`` makes a data frame of it.
        """
        return [
            {
                **self.parameters_at(*place),
                **{name: float(array[place]) for name, array in self.values.items()},
                "seconds": float(self.seconds[place]),
            }
            for place in np.ndindex(self.shape)
        ]

    def table(self):
        """The same as a text, columns aligned; the best network's line ends in ``best``."""
        rows = self.rows()
        lines = [list(rows[0])] + [[_shown(value) for value in row.values()] for row in rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        if self.best_index is not None:
            lines[1 + np.ravel_multi_index(self.best_index, self.shape)] += "  best"
        return "\n".join(lines)

    def __repr__(self):
        grid = " x ".join(f"{len(values)} {name}" for name, values in self.parameters.items())
        return f"<grid search over {grid}: best {self.monitor} {self.best_value:.4g} for {self.best_parameters}>"

    def _take(self, place, outcome, build, keep):
        """Enter what the training at `place` came to."""
        self.histories[place] = outcome["history"]
        self.seconds[place] = outcome["seconds"]
        for name, value in outcome["values"].items():
            self.values.setdefault(name, np.full(self.shape, np.nan))[place] = value
        value = outcome["values"][self.monitor]
        sign = _sign(self.monitor)
        # Trainings end in any order; of equals the first of the grid is the best one.
        best = not np.isnan(value) and (
            self.best_index is None or (sign * value, place) < (sign * self.best_value, self.best_index)
        )
        if keep == "all" or (keep == "best" and best):
            if keep == "best" and self.best_index is not None:
                self.models[self.best_index] = None
            self.models[place] = build(self.parameters_at(*place), outcome["weights"])
        if best:
            self.best_index, self.best_value = place, value


def grid_search(
    create_model,
    parameters,
    x,
    y,
    validation_data=None,
    batch_size=32,
    epochs=1,
    create_callbacks=None,
    monitor=None,
    keep="best",
    seed=None,
    n_jobs=1,
    backend=None,
    progress=True,
):
    """Train and evaluate one network for every combination of parameters.

    Every network has a seed of its own, which follows from `seed` and its place in the grid alone.  The results are
    bitwise the same for any number of jobs on one kind of device, and a larger grid repeats the results of a
    smaller one where their places agree.  Networks that diverge do not stop the search: their values are what
    `Sequential.evaluate` says, NaN for the loss.

    Parameters
    ----------
    create_model : callable
        ``create_model(**parameters)`` returns a new, compiled `Sequential`.  It is called once for the first
        parameters before all training, to see whether it does, once for every training, and once for every model
        that is kept.
    parameters : dict
        For every name the values to try, such as ``{"eta": np.logspace(-5, 1, 7), "lmbd": [0.0, 1e-4]}``.
    x, y : array_like
        Data to train on, as `Sequential.fit` takes them.
    validation_data : tuple ``(x, y)``, optional
        Evaluated after training: the values with ``val_`` in front.
    batch_size : int, default 32
    epochs : int, default 1
    create_callbacks : callable, optional
        ``create_callbacks()`` returns the callbacks of one network; they see the validation data every epoch.
        Without it the validation data are evaluated once, after training.
    monitor : str, optional
        The value that says which network is best: the largest if it names an accuracy, else the smallest.
        Default: the accuracy if that is a metric, else the loss, of the validation data if there are any.
    keep : {'best', 'all', 'none'}, default 'best'
        Which trained networks to keep.  They are made anew by `create_model` and given the trained weights, so
        their optimisers start afresh.
    seed : int, optional
        Default: the next of the sequence that `utils.set_random_seed` starts.
    n_jobs : int or None, default 1
        How many networks to train at a time, each in a process of its own, by joblib (``pip install
        'gpuconv[parallel]'``).  -1: as many as there are processors.  None: as ``joblib.parallel_config`` says, for a
        Dask or Ray cluster.  1 needs no joblib.
    backend : str, optional
        joblib's backend, default ``'loky'``.  With ``'threading'`` one network trains at a time.
    progress : bool, default True
        Whether to draw a progress bar.

    Returns
    -------
    GridSearch

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, before any training.
    ImportError
        If joblib is needed and missing.

    Notes
    -----
    The random state of the caller (Python's, NumPy's and the library's) is as before when the search ends.

    Processes exchange parameters, data and weights, never models.  `create_model` travels by value if it was defined
    in the main program (joblib uses cloudpickle for that), else by name.

    Examples
    --------
    >>> from gpuconv import layers, models, optimizers
    >>> def create_model(eta):
    ...     model = models.Sequential([layers.Input((1,)), layers.Dense(1, kernel_initializer="zeros")])
    ...     model.compile(optimizers.SGD(eta), "mse")
    ...     return model
    >>> x = np.array([[-1.0], [1.0]])
    >>> search = grid_search(create_model, {"eta": [0.01, 0.5]}, x, 2 * x, epochs=3, seed=0, progress=False)
    >>> search.values["loss"].round(3)
    array([3.543, 0.   ])
    >>> search.best_parameters
    {'eta': 0.5}
    """
    if not callable(create_model):
        raise TypeError(f"create_model: expected a function, received {create_model!r}")
    if create_callbacks is not None and not callable(create_callbacks):
        raise TypeError(f"create_callbacks: expected a function that returns a list, received {create_callbacks!r}")
    parameters = _checked_grid(parameters)
    if validation_data is not None and (not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2):
        raise ValueError("validation_data: expected a tuple (x, y), received something else")
    batch_size = checks.integer("batch_size", batch_size, 1)
    epochs = checks.integer("epochs", epochs, 1)
    checks.choice("keep", keep, ("best", "all", "none"))
    progress = checks.boolean("progress", progress)
    if n_jobs is not None and not is_integer(n_jobs):
        raise TypeError(f"n_jobs: expected an integer or None, received {n_jobs!r}")
    if n_jobs == 0:
        raise ValueError("n_jobs: expected a positive number, -1 for all processors, or None, received 0")
    in_turn = n_jobs == 1 and backend is None
    joblib = None if in_turn else _joblib()
    x = checks.numeric_array("x", x)
    places = list(np.ndindex(*(len(values) for values in parameters.values())))

    if seed is not None:
        seed = checks.integer("seed", seed, 0)

    def build(point, weights=None):
        with _one_at_a_time, _seeded(0):
            model = create_model(**point)
            if not isinstance(model, models.Sequential) or model.optimizer is None:
                raise TypeError(f"create_model: expected a compiled Sequential to come back, received {model!r}")
            if weights is not None:
                if not model.built:
                    model.build(x.shape[1:])
                model.set_weights(weights)
            return model

    first = build({name: values[0] for name, values in parameters.items()})
    monitor = _checked_monitor(monitor, first, validation_data is not None)
    seed = seeds.next_seed() if seed is None else seed

    # What other processes would not know.
    computing = devices.current_name(), devices.get_winograd(), devices.get_precision()
    search = GridSearch(parameters, monitor, seed)
    tasks = (
        (
            place, create_model, search.parameters_at(*place), _seed_of(seed, place), computing,
            (x, y), validation_data, {"batch_size": batch_size, "epochs": epochs}, create_callbacks, keep != "none",
        )
        for place in places
    )  # fmt: skip
    outcomes = itertools.starmap(_train, tasks) if in_turn else _in_parallel(joblib, n_jobs, backend, tasks)
    with _progress_bar(len(places), progress) as bar:
        for place, outcome in outcomes:
            search._take(place, outcome, build, keep)
            bar.set_postfix_str(f"best {monitor} {search.best_value:.4f}", refresh=False)
            bar.update()
    return search


def _train(
    place, create_model, point, seed, computing, data, validation_data, settings, create_callbacks, with_weights
):
    """Train one network; this is what runs in other processes."""
    device, winograd, precision = computing
    with _one_at_a_time, _seeded(seed), devices.use_device(device), _divergence_is_no_error():
        devices.set_winograd(winograd)
        devices.set_precision(precision)
        start = time.perf_counter()
        model = create_model(**point)
        callbacks = create_callbacks() if create_callbacks else None
        seen = validation_data if callbacks else None
        history = model.fit(*data, **settings, verbose=0, callbacks=callbacks, validation_data=seen)
        values = {}
        for prefix, part in (("", data), ("val_", validation_data)):
            if part is not None:
                found = model.evaluate(*part, settings["batch_size"], verbose=0, return_dict=True)
                values.update({prefix + name: value for name, value in found.items()})
        return place, {
            "values": values,
            "history": history.history,
            "weights": model.get_weights() if with_weights else None,
            "seconds": time.perf_counter() - start,
        }


def _in_parallel(joblib, n_jobs, backend, tasks):
    """Outcomes as they come, or all at the end where joblib's backend cannot do that."""
    tasks = [joblib.delayed(_train)(*task) for task in tasks]
    try:
        parallel = joblib.Parallel(n_jobs, backend=backend, return_as="generator_unordered")
    except ValueError:
        parallel = joblib.Parallel(n_jobs, backend=backend)
    return parallel(tasks)


def _joblib():
    try:
        import joblib
    except ImportError:
        raise ImportError(
            "n_jobs: expected joblib for anything but n_jobs=1, received none: pip install 'gpuconv[parallel]'"
        ) from None
    return joblib


@contextlib.contextmanager
def _seeded(seed):
    """Everything random inside the block follows from `seed`; outside nothing has changed."""
    state = random.getstate(), np.random.get_state(), seeds.state()  # noqa: NPY002
    try:
        utils.set_random_seed(seed)
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        seeds.restore(state[2])


def _seed_of(seed, place):
    """The seed of the network at `place`, below 2**32."""
    return int(np.random.SeedSequence(seed, spawn_key=place).generate_state(1)[0])


@contextlib.contextmanager
def _divergence_is_no_error():
    """Overflow and NaN are results here, even where warnings are errors."""
    from numba.core.errors import NumbaWarning

    with np.errstate(all="ignore"), warnings.catch_warnings():
        for category in (RuntimeWarning, NumbaWarning):
            warnings.simplefilter("ignore", category)
        yield


def _checked_grid(parameters):
    if not isinstance(parameters, dict) or not parameters:
        raise TypeError(f"parameters: expected a dict of names with the values to try, received {parameters!r}")
    grid = {}
    for name, values in parameters.items():
        if not isinstance(name, str):
            raise TypeError(f"parameters: expected names, received {name!r}")
        if isinstance(values, str) or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
            raise TypeError(f"parameters: expected a list of values for {name!r}, received {values!r}")
        if np.ndim(values) > 1 and isinstance(values, np.ndarray):
            raise ValueError(f"parameters: expected one axis of values for {name!r}, received shape {values.shape}")
        if len(values) == 0:
            raise ValueError(f"parameters: expected at least one value for {name!r}, received none")
        grid[name] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return grid


def _checked_monitor(monitor, model, with_validation):
    names = ["loss", *(metric.name for metric in model.metrics)]
    if monitor is None:
        return ("val_" if with_validation else "") + ("accuracy" if "accuracy" in names else "loss")
    names += ["val_" + name for name in names] if with_validation else []
    return checks.choice("monitor", monitor, names)


def _sign(monitor):
    """-1 where more is better, as in `callbacks.EarlyStopping`."""
    return -1.0 if "acc" in monitor else 1.0


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _progress_bar(total, wanted):
    from tqdm import tqdm

    return tqdm(total=total, unit="network", disable=not wanted)
