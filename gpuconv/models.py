"""Sequential models: layers in a row, trained by hand-written backprop.

A step of training is: gather a batch, forward through the layers, loss and gradient in one
kernel, backward through the layers, penalties, optimiser.  All of it runs on one device and
nothing waits for it: losses and metrics add up on the device and are read once an epoch
(and, for the progress bar, a few times a second).  From the second step on, the kernels are
called as they were recorded in the first (`recording`), and so are those of evaluation and
prediction.  Recordings are kept with a batch size's arrays, from call to call of `fit` and of
`train_on_batch`, for as long as nobody has set an attribute of a layer, the optimiser or another part.
"""

import contextlib
import functools
import itertools
import operator
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np

from . import callbacks as callback_module
from . import checks, losses, optimizers, seeds
from . import device as devices
from . import metrics as metric_module
from .fusion import parts_of
from .kernels.collecting import seldom_collecting
from .kernels.precision import get_precision
from .kernels.repetition import Counter
from .layers import Input, Layer, assign_all
from .recording import recording

# Parameters start on multiples of 128 bytes in the flat buffer, whatever their number.
_ALIGNMENT = 32

# Seconds between two readings of the loss for the progress bar, and of steps that are taken without Python in between.
_BAR_INTERVAL = 0.5
_REPEATING_SECONDS = 0.05

# Steps on the same arrays and with the same settings below which recording one is not worth its time.
_FEWEST_REPEATED = 4

# Attributes of parts that count steps, which the calls of a step follow by themselves.
_COUNTING = {"iterations", "calls"}


class Sequential:
    """A stack of layers, each fed by the one before.

    Parameters
    ----------
    layers : list of Layer, optional
    name : str, default 'sequential'
    device : {'auto', 'cpu', 'cuda'}, optional
        Default: the device in use whenever the model computes; see `gpuconv.device`.  A model that
        moves to another device takes its weights along; its optimiser starts afresh.
    dtype : {'float32', 'float64'}, default 'float32'

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import layers, models
    >>> model = models.Sequential([layers.Input((2,)), layers.Dense(1, kernel_initializer="ones")])
    >>> model.predict(np.array([[1.0, 2.0]]), verbose=0)
    array([[3.]], dtype=float32)
    """

    def __init__(self, layers=None, name="sequential", device=None, dtype="float32"):
        self.name = name
        self.dtype = np.dtype(checks.choice("dtype", dtype, ("float32", "float64")))
        self._device_name = None if device is None else devices.resolve(device)
        self.device = None
        self.layers = []
        self.optimizer = None
        self.loss = None
        self.metrics = []
        self.stop_training = False
        self.history = None
        self._input = None
        self._parameters = None
        # Whether the loss works on the last layer's argument, and whether nothing else needs the layer's value.
        self._absorbed = self._only_logits = False
        if not isinstance(layers, (list, tuple, type(None))):
            raise TypeError(f"layers: expected a list of layers, received {layers!r}")
        for layer in layers or []:
            self.add(layer)

    # ------------------------------------------------------------------ structure

    def add(self, layer):
        """Put a layer on top; the model is unchanged if the layer does not fit.

        Raises
        ------
        TypeError
            If `layer` is not a layer.
        ValueError
            If it belongs to a model already, or does not fit the output below it.
        """
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: expected a layer, received {layer!r}")
        if layer.owned:
            raise ValueError(f"layer: expected a new layer, received {layer!r}, which belongs to a model already")
        if isinstance(layer, Input):
            if self._input is not None or self.layers:
                raise ValueError("layer: expected Input to come first and once, received it later")
            self._input = layer.shape
            return
        if self.name_is_taken(layer.name):
            raise ValueError(f"layer: expected a name of its own, received {layer.name!r}, which another layer has")
        shape = self._output
        if shape is None and not self.layers:
            shape = layer.given_input_shape
        elif shape is not None and layer.given_input_shape not in (None, shape):
            raise ValueError(f"input_shape: expected {shape}, what comes before, received {layer.given_input_shape}")
        if layer.built and layer.input_shape != shape:
            raise ValueError(
                f"layer: expected one whose weights fit samples of shape {shape}, "
                f"received {layer!r}, made for {layer.input_shape}"
            )
        if shape is not None:
            if not layer.built:
                layer.build(shape, self.dtype)
            self._input = self._input or shape
        layer.name = layer.name or self._new_name(layer)
        self._release()
        layer.owned = True
        self.layers.append(layer)

    def pop(self):
        """Take the top layer off and return it."""
        if not self.layers:
            raise ValueError("pop: expected a model with layers, received one without")
        self._release()
        layer = self.layers.pop()
        layer.owned = False
        return layer

    def build(self, input_shape):
        """Make the weights for samples of the given shape, without the batch.

        Needed only where neither `Input` nor ``input_shape=`` has told; `fit` does it too.
        """
        if self._input is not None:
            if tuple(input_shape) != self._input:
                raise ValueError(f"input_shape: expected {self._input}, received {tuple(input_shape)}")
            return
        with self._nothing_built_if_refused():
            shape = tuple(input_shape)
            for layer in self.layers:
                layer.build(shape, self.dtype)
                shape = layer.output_shape
        self._input = tuple(input_shape)

    @contextlib.contextmanager
    def _nothing_built_if_refused(self):
        """If the block raises, a model that knew no input shape before it knows none after it."""
        deferred = self._input is None
        try:
            yield
        except Exception:
            if deferred:
                self._input = None
                for layer in self.layers:
                    layer.unbuild()
            raise

    @property
    def built(self):
        """Whether all weights exist."""
        return bool(self.layers) and all(layer.built for layer in self.layers)

    @property
    def input_shape(self):
        """``(None, ...)``: None stands for the batch."""
        return None if self._input is None else (None, *self._input)

    @property
    def output_shape(self):
        """``(None, ...)``: None stands for the batch."""
        return None if self._output is None else (None, *self._output)

    @property
    def _output(self):
        """Shape of one sample of the output."""
        return self.layers[-1].output_shape if self.layers else self._input

    def get_layer(self, name=None, index=None):
        """The layer of that name or number."""
        if index is not None:
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"name: expected one of {[layer.name for layer in self.layers]}, received {name!r}")

    def name_is_taken(self, name):
        """Whether a layer has that name."""
        return name is not None and any(layer.name == name for layer in self.layers)

    def _new_name(self, layer):
        stem = _layer_stem(type(layer).__name__)
        name, number = stem, 0
        while self.name_is_taken(name):
            number += 1
            name = f"{stem}_{number}"
        return name

    # ------------------------------------------------------------------ weights

    @property
    def variables(self):
        """All weights, layer by layer."""
        return [variable for layer in self.layers for variable in layer.variables]

    weights = variables

    @property
    def trainable_variables(self):
        """The weights that training changes."""
        return [variable for variable in self.variables if variable.trainable]

    trainable_weights = trainable_variables

    def count_params(self):
        """The number of weights, trainable or not."""
        self._require_built("count_params")
        return sum(variable.size for variable in self.variables)

    def get_weights(self):
        """Copies of all weights as a list of NumPy arrays, layer by layer."""
        return [variable.numpy() for variable in self.variables]

    def set_weights(self, weights):
        """Set all weights from a list like that of `get_weights`; all or none."""
        self._require_built("set_weights")
        assign_all(self.variables, weights)

    def summary(self, print_fn=print):
        """Print layers, output shapes and numbers of weights.

        Parameters
        ----------
        print_fn : callable, default print
            Gets one line at a time.
        """
        self._require_built("summary")
        rows = [("Layer (type)", "Output shape", "Param #")]
        for layer in self.layers:
            shape = ", ".join(map(str, ("None", *layer.output_shape)))
            rows.append((f"{layer.name} ({type(layer).__name__})", f"({shape})", f"{layer.count_params():,}"))
        first, second = (max(len(row[column]) for row in rows) + 3 for column in (0, 1))
        third = max(len(row[2]) for row in rows)
        lines = [f"{a:<{first}}{b:<{second}}{c:>{third}}" for a, b, c in rows]
        rule = max(len(line) for line in lines)
        total = self.count_params()
        trainable = sum(variable.size for variable in self.trainable_variables)
        print_fn(f'Model: "{self.name}"')
        print_fn("=" * rule)
        print_fn(lines[0])
        print_fn("-" * rule)
        for line in lines[1:]:
            print_fn(line)
        print_fn("=" * rule)
        for label, count in (
            ("Total params", total),
            ("Trainable params", trainable),
            ("Non-trainable params", total - trainable),
        ):
            print_fn(f"{label}: {count:,} ({_size(count * self.dtype.itemsize)})")

    # ------------------------------------------------------------------ training

    def compile(self, optimizer="rmsprop", loss=None, metrics=None):
        """Choose optimiser, loss and metrics.

        Parameters
        ----------
        optimizer : str or Optimizer, default 'rmsprop'
        loss : str or Loss
        metrics : list of str or Metric, optional
            ``'accuracy'`` becomes the accuracy that fits loss and output.

        Compiling again starts the optimiser afresh; the weights stay.
        """
        if loss is None:
            raise ValueError("loss: expected a string or a loss, received None")
        optimizer = optimizers.get(optimizer)
        loss = losses.get(loss)
        if metrics is None:
            metrics = []
        if not isinstance(metrics, (list, tuple)):
            raise TypeError(f"metrics: expected a list, received {metrics!r}")
        chosen = [metric_module.get(metric) for metric in metrics]
        if optimizer.owner not in (None, self):
            raise ValueError("optimizer: expected one of its own, received the optimizer of another model")
        names = [metric.name for metric in chosen]
        if len(set(names)) != len(names) or "loss" in names:
            raise ValueError(f"metrics: expected names of their own, received {names}")
        if self.optimizer is not None:
            self.optimizer.owner = None
        optimizer.owner = self
        optimizer.reset()
        self.optimizer, self.loss, self.metrics = optimizer, loss, chosen
        self._release()

    def fit(
        self,
        x,
        y,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        initial_epoch=0,
        validation_batch_size=None,
    ):
        """Train.

        Parameters
        ----------
        x : array_like
            Samples, shape ``(samples, *input_shape)``.
        y : array_like
            Targets: rows as the output's, or class numbers for a sparse loss.
        batch_size : int, default 32
            The last batch of an epoch is smaller if the samples do not divide.
        epochs : int, default 1
            Number of the last epoch, counted from `initial_epoch`.
        verbose : {'auto', 0, 1, 2}
            0: silent.  1 (auto): a progress bar each epoch.  2: a line each epoch.
        callbacks : list of Callback, optional
        validation_split : float in [0, 1), default 0
            This share of the samples, the last ones before shuffling, is kept for validation.
        validation_data : tuple ``(x, y)``, optional
            Evaluated after each epoch; overrides `validation_split`.
        shuffle : bool, default True
            Whether to draw a new order each epoch.
        initial_epoch : int, default 0
        validation_batch_size : int, optional
            Default: `batch_size`.

        Returns
        -------
        History

        Raises
        ------
        RuntimeError
            If the model was not compiled.
        ValueError, TypeError
            If the data do not fit; nothing has changed then.
        MemoryError
            If the device has no room for the data or a batch; weights, optimiser and history are as before.
        """
        self._require_compiled("fit")
        batch_size = checks.integer("batch_size", 32 if batch_size is None else batch_size, 1)
        initial_epoch = checks.integer("initial_epoch", initial_epoch, 0)
        epochs = checks.integer("epochs", epochs, 1)
        verbose = _verbosity(verbose)
        validation_batch_size = checks.integer(
            "validation_batch_size", batch_size if validation_batch_size is None else validation_batch_size, 1
        )
        split = checks.real("validation_split", validation_split, 0.0, 1.0, open_high=True)
        shuffle = checks.boolean("shuffle", shuffle)
        _check_callbacks(callbacks)
        validation = None
        with self._nothing_built_if_refused():
            x, y = self._checked_data(x, y)
            if validation_data is not None:
                if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
                    raise ValueError("validation_data: expected a tuple (x, y), received something else")
                validation = self._checked_data(*validation_data, prefix="validation_data ")
            elif split:
                kept = int(len(x) * (1 - split))
                if kept < 1 or kept == len(x):
                    raise ValueError(
                        f"validation_split: expected samples on both sides, received {split} for {len(x)} samples"
                    )
                x, validation = x[:kept], (x[kept:], y[kept:])
                y = y[:kept]

        self._bind()
        trained = self._epoch(x, y, batch_size)
        validated = validation and self._epoch(*validation, validation_batch_size)
        # All large arrays are made here, so that a device without room for them leaves everything as it is.
        batches = [(min(batch_size, len(x)), True)]
        if validated:
            batches.append((min(validation_batch_size, validated.count), False))
        for batch, training in sorted(batches, reverse=True):
            self._states(batch, training)
        history = self.history = callback_module.History()
        watchers = [history, *(callbacks or [])]
        names = [*self._value_names, *(f"val_{name}" for name in self._value_names if validation)]
        for watcher in watchers:
            watcher.set_model(self)
            watcher.set_params({"epochs": epochs, "steps": -(-len(x) // batch_size), "metrics": names})
        self.stop_training = False
        random = seeds.generator()
        for watcher in watchers:
            watcher.on_train_begin()
        logs = {}
        for epoch in range(initial_epoch, epochs):
            for watcher in watchers:
                watcher.on_epoch_begin(epoch)
            if shuffle:
                self._reorder(trained, random.permutation(len(x)))
            with _Progress(epoch, epochs, -(-len(x) // batch_size), verbose) as progress:
                logs = self._train_epoch(self._step, trained, progress)
                if validated:
                    values = self._evaluate(validated)
                    logs.update({f"val_{name}": value for name, value in values.items()})
                progress.finish(logs)
            for watcher in watchers:
                watcher.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        for watcher in watchers:
            watcher.on_train_end(logs)
        return history

    def train_on_batch(self, x, y, return_dict=False):
        """Take one step on one batch.

        Returns
        -------
        float, list of float, or dict
            The batch's loss before the step, followed by its metrics if there are any.
        """
        self._require_compiled("train_on_batch")
        x, y = self._checked_data(x, y)
        self._bind()
        logs = self._train_epoch(self._learn, self._only_batch(x, y), _Progress(0, 1, 1, 0))
        return _as_keras(logs, return_dict)

    def evaluate(self, x, y, batch_size=None, verbose="auto", return_dict=False):
        """Loss and metrics on a data set, with the weights as they are.

        Returns
        -------
        float, list of float, or dict
            The loss (penalties included), followed by the metrics if there are any.
        """
        self._require_compiled("evaluate")
        batch_size = checks.integer("batch_size", 32 if batch_size is None else batch_size, 1)
        verbose = _verbosity(verbose)
        x, y = self._checked_data(x, y)
        self._bind()
        logs = self._evaluate(self._epoch(x, y, batch_size))
        if verbose:
            sys.stdout.write(f"{len(x)} samples - {_values(logs)}\n")
        return _as_keras(logs, return_dict)

    def predict(self, x, batch_size=None, verbose="auto"):
        """The model's output for each sample, outside training.

        Returns
        -------
        numpy.ndarray
            Shape ``(samples, *output_shape)``.
        """
        batch_size = checks.integer("batch_size", 32 if batch_size is None else batch_size, 1)
        _verbosity(verbose)
        with self._nothing_built_if_refused():
            x = self._checked_input(x, "x")
        self._bind()
        samples, order = self.device.from_host(_rows(x)), self._order(np.arange(len(x)))
        outputs = self.device.empty((len(x), int(np.prod(self._output))), self.dtype)
        epoch = _pass(len(x), batch_size, (samples, order, outputs), samples=samples, order=order, outputs=outputs)
        for _ in self._steps(self._prediction_step, epoch, self._is_prediction_repeatable):
            pass
        return self.device.to_host(outputs).reshape(len(x), *self._output)

    def __call__(self, x, training=False):
        """The model's output for one batch, as a NumPy array; `training` switches dropout on."""
        with self._nothing_built_if_refused():
            x = self._checked_input(x, "x")
        self._bind()
        states = self._states(len(x), training=training)
        return self.device.to_host(self._forward(self.device.from_host(x), states, training))

    # ------------------------------------------------------------------ one pass

    def _forward(self, x, states, training, only_z=False):
        """The model's output; with `only_z`, the last layer leaves out its activation."""
        if self._only_logits:
            states.parts[-1].only_z = only_z
        for part, state in zip(self._parts, states.parts, strict=True):
            x = part.forward(x, state, training)
        return states.parts[-1].z if only_z else x

    def _backward(self, dy, states):
        """Back from the output to the first part that has something to learn."""
        for number in range(len(self._parts) - 1, states.first - 1, -1):
            dy = self._parts[number].backward(dy, states.parts[number], number > states.first)
        return dy

    def _loss_and_metrics(self, device, predictions, states):
        """Losses of a batch, their gradient, and metrics."""
        logits = states.parts[-1].z if self._absorbed else predictions
        rows = states.losses.shape[0]
        self.loss.compute(
            device, logits.reshape(rows, -1), states.targets, self.loss.from_logits or self._absorbed,
            1.0 / rows, states.losses, states.gradient_rows,
        )  # fmt: skip
        for metric, hits in zip(self._resolved_metrics, states.hits, strict=True):
            metric.compute(device, predictions.reshape(rows, -1), states.targets, hits)

    def _penalty(self, device):
        """Add the penalties' gradient to the gradients, and find their value."""
        if self._penalized:
            device.regularize(self._parameters, *self._regions, self._gradients, self._penalty_value)

    def _add_up(self, device, states, place, sums):
        """Put the batch's losses, metrics and penalty, each added up, into place `place` of its row."""
        *totals, penalties = sums
        for values, total in zip((states.losses, *states.hits), totals, strict=True):
            device.sum_into(values, place, total)
        if self._penalized:
            device.sum_into(self._penalty_value, place, penalties)

    def _gather(self, device, data, order, states, start):
        """Copy a batch of samples and targets, from place `start` of the order on."""
        device.gather(data.x, order, start, states.x_rows)
        device.gather(data.y, order, start, states.y_rows)

    def _step(self, device, epoch, states, start, place):
        """One step of training, with the samples from place `start` of the epoch's order on."""
        self._gather(device, epoch.data, epoch.order, states, start)
        self._learn(device, epoch, states, start, place)

    def _learn(self, device, epoch, states, start, place):
        """One step of training, with the samples that have been gathered."""
        predictions = self._forward(states.x, states, training=True, only_z=self._only_logits)
        self._loss_and_metrics(device, predictions, states)
        self._backward(states.gradient, states)
        self._penalty(device)
        self._add_up(device, states, place, epoch.sums)
        if self._parameters.shape[0]:
            self.optimizer.step(device, self._parameters, self._gradients)

    def _evaluation_step(self, device, epoch, states, start, place):
        """Loss and metrics of one batch."""
        self._gather(device, epoch.data, epoch.order, states, start)
        predictions = self._forward(states.x, states, training=False, only_z=self._only_logits)
        self._loss_and_metrics(device, predictions, states)
        self._penalty(device)
        self._add_up(device, states, place, epoch.sums)

    def _prediction_step(self, device, epoch, states, start, place):
        """The outputs of one batch."""
        device.gather(epoch.samples, epoch.order, start, states.x_rows)
        output = self._forward(states.x, states, training=False)
        device.put(output.reshape(states.batch, -1), start, epoch.outputs)

    def _train_epoch(self, step, epoch, progress):
        place = 0
        for some in self._steps(step, epoch, self._is_training_repeatable, training=True):
            place += some
            progress.advance(some, functools.partial(self._read, epoch, place))
        return self._read(epoch, place)

    def _evaluate(self, epoch):
        return self._read(epoch, sum(self._steps(self._evaluation_step, epoch, self._is_evaluation_repeatable)))

    # Whether batches make the same calls: only the library's own parts do all their work in kernels for sure.

    def _is_training_repeatable(self):
        return bool(self._parameters.shape[0]) and _is_own(self.optimizer) and self._is_evaluation_repeatable()

    def _is_evaluation_repeatable(self):
        return self._is_prediction_repeatable() and all(map(_is_repeatable, (self.loss, *self._resolved_metrics)))

    def _is_prediction_repeatable(self):
        return all(map(_is_repeatable, self.layers))

    def _steps(self, step, epoch, repeatable, training=False):
        """Make one pass over the samples of an epoch, in batches; yields after some of them how many they were.

        Parameters
        ----------
        step : method
            ``step(device, epoch, states, start=, place=)`` does what is to be done with the samples from `start` on,
            which make batch number `place`.
        epoch : SimpleNamespace
            From `_pass`.
        repeatable : callable
            Tells whether batches of one size make the same calls, so that those of the first can be repeated.
        training : bool, default False
        """
        place, count, batch_size = 0, epoch.count, epoch.batch_size
        if count >= batch_size:
            for some in self._repeat(step, epoch, repeatable, training):
                place += some
                yield some
        for start in range(place * batch_size, count, batch_size):
            states = self._states(min(batch_size, count - start), training)
            step(self.device, epoch, states, start=start, place=place)
            place += 1
            yield 1

    def _repeat(self, step, epoch, repeatable, training):
        """Batches of one size, of which the first is recorded, once for many passes, and then repeated.

        None, where they are not repeatable, or too few so far.
        """
        left, some = epoch.count // epoch.batch_size, 1
        states, settings = self._states(epoch.batch_size, training), self._settings()
        known = states.recordings.get(step.__name__)
        if known is None or not _same(known.settings, settings):
            if not repeatable():
                return
            known = states.recordings[step.__name__] = SimpleNamespace(settings=settings, repeat=None)
        if epoch.known is not known:
            epoch.known, epoch.taken = known, 0
        epoch.taken += left
        if epoch.taken < _FEWEST_REPEATED:
            return
        if known.repeat:
            known.repeat.restart(epoch.lent)
        else:
            counters = {"start": Counter(0, epoch.batch_size), "place": Counter(0)}
            with recording(self.device, self.layers) as recorder:
                step(recorder, epoch, states, **counters)
            yield 1
            left -= 1
            # With settings as they are now: the first step makes the optimiser's moments.
            known.repeat, known.settings = recorder.repetition(epoch.lent), self._settings()
        while left:
            started = time.perf_counter()
            known.repeat(some)
            if training:
                self.optimizer.iterations += some
                for layer in self.layers:
                    layer.repeated(some)
            yield some
            left -= some
            # Compiled code neither moves the progress bar nor hears Ctrl-C.
            seconds = max(time.perf_counter() - started, 1e-9)
            some = min(max(int(some * _REPEATING_SECONDS / seconds), 1), left)

    def _settings(self):
        """What the calls of a step follow from.

        The attributes of all parts, the precision of products, and the thread, whose scratch memory the calls use.
        """
        parts = [*self.layers, self.optimizer, self.loss, *self.metrics]
        for layer in self.layers:
            parts += [getattr(layer, "activation", None), *layer.variables, *layer.constants]
        attributes = [vars(part).items() for part in parts if part is not None]
        values = [value for some in attributes for name, value in some if name not in _COUNTING]
        return [threading.current_thread(), get_precision(), *parts, *values]

    def _epoch(self, x, y, batch_size):
        """What passes over a data set need: it and the order of its samples, and room for what each batch adds up to.

        All of it is on the device.
        """
        device, count = self.device, len(x)
        data = SimpleNamespace(x=device.from_host(_rows(x)), y=device.from_host(_rows(y)))
        order = self._order(np.arange(count))
        record, sums = self._room(-(-count // batch_size))
        return _pass(
            count, batch_size, (data.x, data.y, order, *sums), data=data, order=order, record=record, sums=sums
        )

    def _only_batch(self, x, y):
        """As `_epoch`, for a batch that is gathered here; what stays from call to call is its arrays."""
        states = self._states(len(x), training=True)
        if states.only is None:
            record, sums = self._room(1)
            states.only = _pass(len(x), len(x), (), record=record, sums=sums)
        for given, rows in ((x, states.x_rows), (y, states.y_rows)):
            self.device.copy(self.device.from_host(_rows(given)), rows)
        return states.only

    def _room(self, steps):
        """One number a step for loss, metrics and penalty: one array, so that it is read at once, and its rows."""
        record = self.device.zeros((2 + len(self._resolved_metrics), steps), self.dtype)
        return record, [record[row] for row in range(record.shape[0])]

    def _order(self, numbers):
        return self.device.from_host(numbers.astype(np.int32))

    def _reorder(self, epoch, order):
        """Let samples come in another order."""
        self.device.copy(self._order(order), epoch.order)

    def _read(self, epoch, steps):
        """Means over the first `steps` batches."""
        count = min(steps * epoch.batch_size, epoch.count)
        record = self.device.to_host(epoch.record)[:, :steps].astype(np.float64)
        *means, penalty = record.sum(axis=1).tolist()
        means = [mean / (count * self._rows_per_sample) for mean in means]
        # Each batch's penalty counts for its samples, of which the last may have fewer.
        missing = steps * epoch.batch_size - count
        means[0] += (penalty * epoch.batch_size - float(record[-1, -1]) * missing) / count
        return dict(zip(self._value_names, means, strict=True))

    def _rehearse(self, batch):
        """Train on a batch of zeros and evaluate, or only predict if there is no loss, and undo it."""
        self._bind()
        x = np.zeros((batch, *self._input), self.dtype)
        with self._undone():
            if self.loss is not None:
                shape, dtype = (self._output[:-1], np.int32) if self.loss.sparse else (self._output, self.dtype)
                epoch = self._epoch(x, np.zeros((batch, *shape), dtype), batch)
                self._train_epoch(self._step, epoch, _Progress(0, 1, 1, 0))
                self._evaluate(epoch)
            self.predict(x, batch, verbose=0)

    @contextlib.contextmanager
    def _undone(self):
        """What a step of training changes is set back at the end of a ``with`` block."""
        weights = self.get_weights()
        # Layers that draw random numbers count their draws.
        draws = [(layer, layer.calls) for layer in self.layers if hasattr(layer, "calls")]
        moments = None if self.optimizer is None else self.optimizer.state(self.device)
        try:
            yield
        finally:
            for variable, weight in zip(self.variables, weights, strict=True):
                variable.assign(weight)
            for layer, calls in draws:
                layer.calls = calls
            if self.optimizer is not None:
                self.optimizer.restore(self.device, moments)

    # ------------------------------------------------------------------ arrays

    def _bind(self):
        """Move the weights to the device, into one flat buffer; does nothing if they are there."""
        name = self._device_name or devices.current_name()
        if self._parameters is not None and self.device is devices.module(name):
            return
        device = devices.module(name)
        if self.loss is not None:
            self._resolve_loss()
        trainable = self.trainable_variables
        # Every variable is a region of the flat buffer, and so is the gap behind it, which has no penalty.
        ends, offsets, factors, size = [], [], [], 0
        for variable in trainable:
            offsets.append(size)
            penalty = variable.regularizer
            factors += [(penalty.l1, penalty.l2) if penalty else (0.0, 0.0), (0.0, 0.0)]
            end = size + variable.size
            size += -(-variable.size // _ALIGNMENT) * _ALIGNMENT
            ends += [end, size]
        parameters, gradients = (device.zeros((size,), self.dtype) for _ in range(2))
        # Until all have moved, none has: should one fail for want of memory, all are moved anew.
        self._parameters = None
        for variable, start, end in zip(trainable, offsets, ends[::2], strict=True):
            variable.bind(device, *(flat[start:end].reshape(variable.shape) for flat in (parameters, gradients)))
        for layer in self.layers:
            for variable in [v for v in layer.variables if not v.trainable] + layer.constants:
                variable.bind(device, *(device.empty(variable.shape, self.dtype) for _ in range(2)))
        for number, layer in enumerate(self.layers):
            layer.device = device
            layer.stream = number
        l1, l2 = np.array(factors, self.dtype).reshape(-1, 2).T
        self._penalized = bool(l1.any() or l2.any())
        self._regions = [device.from_host(np.array(part)) for part in (np.array(ends, np.int32), l1, l2)]
        self._penalty_value = device.zeros((1,), self.dtype)
        self.device, self._parameters, self._gradients = device, parameters, gradients
        self._parts = parts_of(self.layers)
        self._plans, self._arrays, self._capacity = {}, {}, 0
        if self.optimizer is not None:
            self.optimizer.reset()

    def _release(self):
        """Forget the device's buffers, because the layers or the loss change; the weights stay."""
        if self._parameters is not None:
            for layer in self.layers:
                for variable in layer.variables + layer.constants:
                    variable.release()
        self._parameters = None

    def _resolve_loss(self):
        """Let the loss absorb the last activation if it can, and find the metrics that fit."""
        for layer in self.layers:
            if hasattr(layer, "absorbed"):
                layer.absorbed = False
        last = self.layers[-1]
        if hasattr(last, "absorbed"):
            last.absorbed = not self.loss.from_logits and last.activation.name == self.loss.absorbs
        self._absorbed = getattr(last, "absorbed", False)
        shape = self._output
        self._rows_per_sample = int(np.prod(shape[:-1]))
        self._resolved_metrics = [metric_module.resolve(metric, self.loss, shape) for metric in self.metrics]
        self._value_names = ["loss", *(metric.name for metric in self._resolved_metrics)]
        # Softmax keeps the order of logits, up to rounding, of finite numbers: where loss and metrics ask for no more,
        # training does without it.
        by_order = all(_is_own(metric) and metric.by_order for metric in self._resolved_metrics)
        self._only_logits = self._absorbed and last.activation.name == "softmax" and _is_own(last) and by_order

    def _states(self, batch, training):
        """The arrays of one batch size: all are first parts of arrays made for the largest batch."""
        if batch > self._capacity:
            self._capacity = batch
            self._plans, self._arrays = {}, {}
        key = batch, training
        if key not in self._plans:
            try:
                self._plans[key] = self._plan(batch, training)
            except MemoryError:
                # Smaller batches must not ask for the large one's arrays again.
                self._plans, self._arrays, self._capacity = {}, {}, 0
                raise
        return self._plans[key]

    def _plan(self, batch, training):
        first = next((i for i, part in enumerate(self._parts) if _learns(part)), len(self._parts))
        states = SimpleNamespace(batch=batch, first=first, recordings={}, only=None)
        states.parts = [
            part.plan(batch, self._allocator(number, batch), training, training and number > first)
            for number, part in enumerate(self._parts)
        ]
        array = self._allocator("batch", batch)
        states.x = array("x", self._input)
        states.x_rows = states.x.reshape(batch, -1)
        if self.loss is not None:
            rows = batch * self._rows_per_sample
            classes = self._output[-1]
            shape, dtype = (self._output[:-1], np.int32) if self.loss.sparse else (self._output, None)
            states.y_rows = array("targets", (int(np.prod(shape)),), dtype)
            states.targets = states.y_rows.reshape(rows) if self.loss.sparse else states.y_rows.reshape(rows, classes)
            states.losses = array("losses", (self._rows_per_sample,)).reshape(rows)
            states.hits = [
                array(f"hits of metric {number}", (self._rows_per_sample,)).reshape(rows)
                for number in range(len(self._resolved_metrics))
            ]
            states.gradient = array("gradient", self._output)
            states.gradient_rows = states.gradient.reshape(rows, classes)
        return states

    def _allocator(self, owner, batch):
        def array(name, shape, dtype=None, batched=True):
            key = owner, name
            if key not in self._arrays:
                whole = (self._capacity, *shape) if batched else tuple(shape)
                self._arrays[key] = self.device.empty(whole, np.dtype(dtype or self.dtype))
            return self._arrays[key][:batch] if batched else self._arrays[key]

        return array

    # ------------------------------------------------------------------ checks

    def _checked_input(self, x, name):
        x = checks.numeric_array(name, x)
        if not self.layers:
            raise RuntimeError("model: expected at least one layer, received none; use add()")
        if x.ndim < 2:
            raise ValueError(f"{name}: expected an axis of samples and at least one more, received shape {x.shape}")
        if self._input is None:
            self.build(x.shape[1:])
        if x.shape[1:] != self._input:
            hint = ""
            if len(self._input) == x.ndim and self._input[-1] == 1:
                hint = "; add an axis of one channel with x[..., numpy.newaxis]"
            raise ValueError(
                f"{name}: expected shape (samples, {', '.join(map(str, self._input))}), received {x.shape}{hint}"
            )
        return checks.floats(name, x, self.dtype)

    def _checked_data(self, x, y, prefix=""):
        with self._nothing_built_if_refused():
            x = self._checked_input(x, prefix + "x")
            for metric in self.metrics:
                metric_module.resolve(metric, self.loss, self._output)
            return x, self.loss.prepare(prefix + "y", y, len(x), self._output, self.dtype)

    def _require_built(self, what):
        if not self.built:
            raise RuntimeError(
                f"{what}: expected a model whose input shape is known, received one without; "
                "give the first layer input_shape=, or start with Input"
            )

    def _require_compiled(self, what):
        if self.loss is None:
            raise RuntimeError(f"{what}: expected a compiled model, received one without loss; call compile() first")

    def __repr__(self):
        return f"<Sequential {self.name!r}, {len(self.layers)} layers>"


def warmup(model, batch_size=32):
    """Compile every kernel that a model needs, so that its first step is as fast as the others.

    Kernels are compiled when they are first used, which takes seconds, and kept on the disk for the next process.  Here
    they are used on one batch of zeros, for training, if the model is compiled, and for inference, on the device that
    the model computes on.  Weights, optimiser, random numbers and history are afterwards what they were before.  The
    memory for that batch is allocated too, and kept.

    Parameters
    ----------
    model : Sequential
        Whose input shape is known.
    batch_size : int, default 32
        As for `Sequential.fit`: kernels are chosen by the shapes of a batch.

    Raises
    ------
    TypeError
        If `model` is none.
    RuntimeError
        If its input shape is not known.
    MemoryError
        If the device has no room for such a batch.

    Examples
    --------
    >>> import gpuconv
    >>> from gpuconv import layers, models
    >>> model = models.Sequential([layers.Input((4,)), layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> gpuconv.warmup(model, batch_size=8)
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, received {model!r}")
    model._require_built("warmup")
    batch_size = checks.integer("batch_size", batch_size, 1)
    with seldom_collecting():
        model._rehearse(batch_size)


def _pass(count, batch_size, lent, **arrays):
    """A pass over so many samples, in batches; `lent` are those of its arrays that no later one has."""
    return SimpleNamespace(count=count, batch_size=batch_size, lent=lent, known=None, taken=0, **arrays)


def _rows(array):
    """A data set with one row a sample."""
    return np.ascontiguousarray(array).reshape(len(array), -1)


def _is_repeatable(part):
    """Whether a layer, a loss or a metric makes the same calls for every batch."""
    return part.repeatable and _is_own(part)


def _is_own(part):
    """Whether a layer, a loss or a metric is one of this library, and so are its activation's formulas."""
    activation = getattr(part, "activation", None)
    return all(
        type(piece).__module__.startswith(f"{__package__}.") for piece in (part, activation) if piece is not None
    )


def _same(some, others):
    """Whether two lists hold the same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _learns(part):
    """Whether a layer, or a pair of them, has weights that training changes."""
    return any(variable.trainable for variable in part.variables)


def _layer_stem(name):
    """Keras's stem for names: Conv2D -> conv2d, MaxPooling2D -> max_pooling2d, ReLU -> re_lu."""
    stem = name[0].lower()
    for before, letter in itertools.pairwise(name):
        boundary = letter.isupper() and before.islower()
        stem += ("_" if boundary else "") + letter.lower()
    return stem


def _size(count):
    """A number of bytes in words."""
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.2f} {unit}" if unit != "B" else f"{count} B"
        count /= 1024
    return f"{count:.2f} GB"


def _values(logs):
    return " - ".join(f"{name}: {value:.4f}" for name, value in logs.items())


def _as_keras(logs, return_dict):
    if return_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values


def _verbosity(verbose):
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"verbose: expected 'auto', 0, 1 or 2, received {verbose!r}")
    return 1 if verbose == "auto" else verbose


def _check_callbacks(callbacks):
    if not isinstance(callbacks, (list, tuple, type(None))):
        raise TypeError(f"callbacks: expected a list of callbacks, received {callbacks!r}")
    for callback in callbacks or []:
        if not isinstance(callback, callback_module.Callback):
            raise TypeError(f"callbacks: expected a list of callbacks, received one with {callback!r}")


class _Progress:
    """What `fit` prints about one epoch: a bar (1), a line (2) or nothing (0)."""

    def __init__(self, epoch, epochs, steps, verbose):
        self.verbose = verbose
        self._title = f"Epoch {epoch + 1}/{epochs}"
        self._started = time.perf_counter()
        self._read_at = self._started
        self._bar = None
        if verbose == 1:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=steps, desc=self._title, unit="batch", file=sys.stdout)

    def __enter__(self):
        return self

    def advance(self, batches, read):
        """So many more batches; `read` gives the values so far, at the price of waiting for the device."""
        if self._bar is None:
            return
        self._bar.update(batches)
        now = time.perf_counter()
        if now - self._read_at > _BAR_INTERVAL:
            self._read_at = now
            self._bar.set_postfix_str(_values(read()))

    def finish(self, logs):
        """The epoch's values."""
        if self._bar is not None:
            self._bar.set_postfix_str(_values(logs))
        elif self.verbose == 2:
            sys.stdout.write(f"{self._title} - {time.perf_counter() - self._started:.1f}s - {_values(logs)}\n")

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()
