"""Optimisers, with Keras's names, defaults and formulas.

Every parameter of a model lies in one flat buffer and every gradient in another, so that a
step is one kernel for the whole model.  ``g`` is the gradient of the mean loss.
"""

from . import checks
from .kernels.repetition import Counter


class Optimizer:
    """Base class: settings, the number of steps taken, and the moments over the flat buffer.

    `weight_decay` is the decoupled kind (Loshchilov and Hutter, 2019): before each step,
    ``p -= learning_rate * weight_decay * p``.
    """

    def __init__(self, learning_rate, weight_decay, lr, name):
        # Older scripts write lr=, and so does the lecture.
        self.learning_rate = learning_rate if lr is None else lr
        self.weight_decay = 0.0 if weight_decay is None else checks.real("weight_decay", weight_decay, low=0.0)
        self.name = name
        # The one model whose moments these are.
        self.owner = None
        self.reset()

    @property
    def learning_rate(self):
        """Length of a step; may be set between epochs, in a callback for example."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self._learning_rate = checks.real("learning_rate", value, low=0.0)

    def reset(self):
        """Forget moments and steps, as before the first one."""
        self.iterations = 0
        self._moments = None

    def step(self, device, parameters, gradients):
        """Take one step: change `parameters` in place."""
        if self._moments is None:
            self._moments = [device.zeros((1,), parameters.dtype) for _ in self._used_slots()]
        for slot, used in enumerate(self._used_slots()):
            # A setting that starts to use a moment, momentum for example, may change between two steps.
            if used and self._moments[slot].shape != parameters.shape:
                self._moments[slot] = device.zeros(parameters.shape, parameters.dtype)
        self.iterations += 1
        self._apply(device, parameters, gradients)

    def state(self, device):
        """Steps and moments as they are, for `restore`."""
        return self.iterations, self._moments and [device.to_host(moment) for moment in self._moments]

    def restore(self, device, state):
        """Go back to where steps and moments stood at `state`."""
        self.iterations, moments = state
        self._moments = moments and [device.from_host(moment) for moment in moments]

    def _used_slots(self):
        """Whether each of the kernel's moment buffers is used with these settings."""
        raise NotImplementedError(f"{type(self).__name__} must define _used_slots")

    def _apply(self, device, parameters, gradients):
        raise NotImplementedError(f"{type(self).__name__} must define _apply")

    def __repr__(self):
        return f"<optimizer {self.name!r}, learning_rate={self.learning_rate}, {self.iterations} steps>"


class SGD(Optimizer):
    """Stochastic gradient descent: ``p -= learning_rate * g``.

    With momentum: ``v = momentum * v - learning_rate * g`` and ``p += v``, or, after Nesterov,
    ``p += momentum * v - learning_rate * g``.

    Parameters
    ----------
    learning_rate : float, default 0.01
    momentum : float in [0, 1], default 0
    nesterov : bool, default False
    weight_decay : float, optional
    lr : float, optional
        Another name for `learning_rate`.
    """

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=None, name="SGD", *, lr=None):
        self.momentum = checks.real("momentum", momentum, 0.0, 1.0)
        self.nesterov = checks.boolean("nesterov", nesterov)
        super().__init__(learning_rate, weight_decay, lr, name)

    def _used_slots(self):
        return (self.momentum > 0,)

    def _apply(self, device, parameters, gradients):
        device.sgd(
            gradients, self.learning_rate, self.momentum, self.nesterov, self.weight_decay, parameters, *self._moments
        )


class Adam(Optimizer):
    """Adam: Kingma and Ba (2015), in the form that precedes their section 2.1.

    ``m += (1 - beta_1)(g - m)``, ``s += (1 - beta_2)(g^2 - s)`` and, at step t, ``p -=
    learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(s) + epsilon)``.

    Parameters
    ----------
    learning_rate : float, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float, default 1e-7
    weight_decay : float, optional
    lr : float, optional
        Another name for `learning_rate`.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        weight_decay=None,
        name="adam",
        *,
        lr=None,
    ):
        self.beta_1 = checks.real("beta_1", beta_1, 0.0, 1.0, open_high=True)
        self.beta_2 = checks.real("beta_2", beta_2, 0.0, 1.0, open_high=True)
        self.epsilon = checks.real("epsilon", epsilon, 0.0)
        super().__init__(learning_rate, weight_decay, lr, name)

    def _used_slots(self):
        return True, True

    def _apply(self, device, parameters, gradients):
        device.adam(
            gradients, self.learning_rate, self.beta_1, self.beta_2, self.epsilon,
            Counter(self.iterations, again=lambda: self.iterations + 1), self.weight_decay, parameters, *self._moments,
        )  # fmt: skip


class RMSprop(Optimizer):
    """RMSprop: Hinton (2012), ``s = rho s + (1 - rho) g^2`` and ``p -= learning_rate g / sqrt(s + epsilon)``.

    Parameters
    ----------
    learning_rate : float, default 0.001
    rho : float in [0, 1), default 0.9
    momentum : float in [0, 1], default 0
        The step is ``v = momentum v + learning_rate g / sqrt(...)`` instead.
    epsilon : float, default 1e-7
    centered : bool, default False
        Subtract the square of the gradient's moving mean from s.
    weight_decay : float, optional
    lr : float, optional
        Another name for `learning_rate`.
    """

    def __init__(
        self,
        learning_rate=0.001,
        rho=0.9,
        momentum=0.0,
        epsilon=1e-7,
        centered=False,
        weight_decay=None,
        name="rmsprop",
        *,
        lr=None,
    ):
        self.rho = checks.real("rho", rho, 0.0, 1.0, open_high=True)
        self.momentum = checks.real("momentum", momentum, 0.0, 1.0)
        self.epsilon = checks.real("epsilon", epsilon, 0.0)
        self.centered = checks.boolean("centered", centered)
        super().__init__(learning_rate, weight_decay, lr, name)

    def _used_slots(self):
        return self.centered, True, self.momentum > 0

    def _apply(self, device, parameters, gradients):
        device.rmsprop(
            gradients, self.learning_rate, self.rho, self.momentum, self.epsilon, self.centered,
            self.weight_decay, parameters, *self._moments,
        )  # fmt: skip


_REGISTRY = {"sgd": SGD, "SGD": SGD, "adam": Adam, "Adam": Adam, "rmsprop": RMSprop, "RMSprop": RMSprop}


def get(identifier):
    """Read a Keras identifier: a name such as ``'adam'``, a class or an instance."""
    return checks.lookup("optimizer", identifier, _REGISTRY, Optimizer)
