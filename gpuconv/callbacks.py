"""Callbacks: what `Sequential.fit` calls between epochs, with Keras's names."""

import numpy as np

from . import checks


class Callback:
    """Base class: override what you need; ``self.model`` is the model in training.

    ``logs`` holds the epoch's values, such as ``{'loss': 0.3, 'val_loss': 0.4}``.
    """

    model = None
    params = None

    def set_params(self, params):
        """Called once before training, with ``epochs``, ``steps`` and ``metrics``, the names that logs will hold."""
        self.params = params

    def set_model(self, model):
        """Called once before training."""
        self.model = model

    def on_train_begin(self, logs=None):
        """Called before the first epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        """Called before each epoch; the first is 0."""

    def on_epoch_end(self, epoch, logs=None):
        """Called after each epoch, validation included."""

    def on_train_end(self, logs=None):
        """Called after the last epoch."""


class History(Callback):
    """What `fit` returns.

    Attributes
    ----------
    epoch : list of int
        The epochs' numbers, from 0.
    history : dict
        For each of ``loss``, the metrics, and both with ``val_`` in front, a list with one
        float an epoch.  Training values are means over the epoch, during which the weights
        change; the loss includes the penalties.
    """

    def __init__(self):
        self.epoch = []
        self.history = {}

    def on_epoch_end(self, epoch, logs=None):
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class EarlyStopping(Callback):
    """Stop when a monitored value has not improved for `patience` epochs.

    Parameters
    ----------
    monitor : str, default 'val_loss'
    min_delta : float, default 0
        Smallest change that counts as an improvement.
    patience : int, default 0
    mode : {'auto', 'min', 'max'}, default 'auto'
        Whether less or more is better; auto: more, for accuracies.
    restore_best_weights : bool, default False
        Whether the model gets back the weights of its best epoch.
    """

    def __init__(self, monitor="val_loss", min_delta=0.0, patience=0, mode="auto", restore_best_weights=False):
        self.monitor = monitor
        self.min_delta = checks.real("min_delta", min_delta, 0.0)
        self.patience = checks.integer("patience", patience, 0)
        checks.choice("mode", mode, ("auto", "min", "max"))
        self.sign = -1.0 if mode == "max" or (mode == "auto" and "acc" in monitor) else 1.0
        self.restore_best_weights = restore_best_weights

    def on_train_begin(self, logs=None):
        names = self.params["metrics"]
        if self.monitor not in names:
            hint = "; val_ values need validation data" if self.monitor.startswith("val_") else ""
            raise ValueError(f"monitor: expected one of {', '.join(names)}, received {self.monitor!r}{hint}")
        self.best = np.inf
        self.best_weights = None
        self.best_epoch = 0
        self.stopped_epoch = 0
        self._waited = 0

    def on_epoch_end(self, epoch, logs=None):
        value = self.sign * logs[self.monitor]
        if value < self.best - self.min_delta:
            self.best, self.best_epoch, self._waited = value, epoch, 0
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            return
        self._waited += 1
        if self._waited >= self.patience:
            self.model.stop_training = True
            self.stopped_epoch = epoch

    def on_train_end(self, logs=None):
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
