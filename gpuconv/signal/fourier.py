"""Fourier series, and what a damped oscillator makes of a periodic force, term by term.

A function with period tau is a sum of harmonics of ``omega = 2 pi / tau``::

    F(t) = f_0 / 2 + sum_{n >= 1} f_n cos(n omega t) + g_n sin(n omega t)

    f_n = (2 / tau) integral over one period of F(t) cos(n omega t),      g_n likewise with sin
"""

import numpy as np

from .. import checks
from .operands import finite_vector


def fourier_coefficients(function, count, period=1.0, tolerance=1e-10):
    """The Fourier coefficients of a periodic function, or of samples of one.

    ``f_n = (2 / tau) integral of F(t) cos(n omega t)`` and ``g_n = (2 / tau) integral of F(t) sin(n omega t)`` over
    one period tau, with ``omega = 2 pi / tau``.

    Parameters
    ----------
    function : callable or array_like, shape (samples,)
        F, called with one time from 0 to `period`, and integrated adaptively (`scipy.integrate.quad_vec`), so that
        it may have jumps.  Or its values at ``t = 0, period / samples, 2 period / samples, ...``: then the integral
        becomes a sum over them, which is exact if F has no harmonics from ``samples - count`` on (others are taken
        for lower ones), and computed by a Fourier transform.
    count : int
        Number of the last harmonic; below half of the number of samples.
    period : float, default 1.0
        Only a callable needs it.
    tolerance : float, default 1e-10
        Of a callable: how far the root of the sum of all squared errors may reach.

    Returns
    -------
    f, g : ndarray, shape (count + 1,), float64
        Of the cosines and of the sines; ``g[0]`` is 0.

    Raises
    ------
    ValueError, TypeError
        If samples or values are not finite, real numbers, if there are too few of them, for a period that is not
        positive, and if the integral does not converge.

    Examples
    --------
    >>> f, g = fourier_coefficients(lambda t: 3 + np.cos(2 * np.pi * t) - 2 * np.sin(4 * np.pi * t), 2)
    >>> f.round(6) + 0, g.round(6) + 0
    (array([6., 1., 0.]), array([ 0.,  0., -2.]))
    >>> f, g = fourier_coefficients([1, 0, -1, 0], 1)
    >>> f, g
    (array([0., 1.]), array([0., 0.]))
    """
    count = checks.integer("count", count, 0)
    period = _positive("period", period)
    if callable(function):
        return _integrate(function, count, period, _positive("tolerance", tolerance))
    samples = _real_vector("function", function)
    if 2 * count >= samples.size:
        raise ValueError(f"count: expected less than half of the {samples.size} samples, received {count}")
    from scipy.fft import rfft

    transform = rfft(samples)[: count + 1] * (2 / samples.size)
    return transform.real.copy(), 0.0 - transform.imag


def _integrate(function, count, period, tolerance):
    from scipy.integrate import quad_vec

    harmonics = np.arange(count + 1) * (2 * np.pi / period)

    def integrand(t):
        value = np.asarray(function(t))
        if value.dtype.kind not in "biuf" or value.size != 1 or not np.isfinite(value).all():
            raise ValueError(f"function: expected one finite, real number, received {value!r} at t = {t}")
        return value.item() * np.concatenate([np.cos(harmonics * t), np.sin(harmonics * t)])

    # Each interval to begin with holds one oscillation of the last harmonic, which no rule can then overlook.
    points = np.linspace(0, period, max(count, 8) + 1)[1:-1]
    allowed = tolerance * period / 2
    # Rounding keeps large integrals from becoming better than `epsrel`; a jump takes some forty more intervals.
    limit = 2000 + 4 * count
    values, error, info = quad_vec(
        integrand, 0, period, epsabs=allowed, epsrel=1e-12, limit=limit, points=points, full_output=True
    )
    if not info.success:
        raise ValueError(
            f"function: expected one whose coefficients converge within {tolerance}, received one with an error of "
            f"{2 * error / period:.2g} after {info.neval} evaluations"
        )
    values *= 2 / period
    return values[: count + 1], values[count + 1 :]


def fourier_series(t, f, g, period=1.0):
    """The sum ``f_0 / 2 + sum_{n >= 1} f_n cos(n omega t) + g_n sin(n omega t)``, with ``omega = 2 pi / period``.

    Parameters
    ----------
    t : array_like of any shape
        Times.
    f, g : array_like, shape (count + 1,)
        Coefficients of the cosines and the sines, as from `fourier_coefficients`; ``g[0]`` has no effect.
    period : float, default 1.0

    Returns
    -------
    ndarray of the shape of `t`, float64

    Raises
    ------
    ValueError, TypeError
        If `f` and `g` differ in length, or any number is not finite and real.

    Examples
    --------
    >>> fourier_series([0.0, 0.25], f=[2.0, 1.0], g=[0.0, 3.0])
    array([2., 4.])
    """
    t = _times(t)
    f, g = _coefficients(f, g)
    omega = 2 * np.pi / _positive("period", period)
    total = np.full(t.shape, f[0] / 2)
    for n in range(1, f.size):
        total += f[n] * np.cos(n * omega * t) + g[n] * np.sin(n * omega * t)
    return total


def square_wave(t, period=1.0, width=None, height=1.0, delay=0.0):
    """A train of rectangular pulses: `height` for a time `width` in each period, else 0.

    ``F(t) = height`` where ``(t - delay) mod period < width``.  With ``delay = -width / 2`` a pulse is centred on
    t = 0, F is even, and its Fourier coefficients are ``f_0 = 2 height width / tau``, ``f_n = (2 height / (n pi))
    sin(n pi width / tau)``, ``g_n = 0``.

    Parameters
    ----------
    t : array_like of any shape
        Times.
    period : float, default 1.0
    width : float in [0, period], optional
        Default: half of the period.
    height : float, default 1.0
    delay : float, default 0.0
        When a pulse begins.

    Returns
    -------
    ndarray of the shape of `t`, float64

    Raises
    ------
    ValueError, TypeError
        For numbers that are not finite and real, or out of range.

    Examples
    --------
    >>> square_wave([0.0, 0.25, 0.5, 0.75, 1.0], height=2)
    array([2., 2., 0., 0., 2.])
    """
    t = _times(t)
    period = _positive("period", period)
    width = period / 2 if width is None else checks.real("width", width, 0.0, period)
    height, delay = checks.real("height", height), checks.real("delay", delay)
    return np.where(np.mod(t - delay, period) < width, height, 0.0)


def oscillator_response(omega, m=1.0, eta=1.0, k=1.0):
    """Amplitude and phase of a damped oscillator under the force ``cos(omega t)``.

    The steady state of ``m x'' + eta x' + k x = cos(omega t)`` is ``D cos(omega t - delta)`` with::

        D     = (1 / m) / sqrt((omega_0**2 - omega**2)**2 + 4 b**2 omega**2)
        delta = atan2(2 b omega, omega_0**2 - omega**2),    b = eta / (2 m),    omega_0**2 = k / m

    atan2 keeps delta between 0 and pi: above the resonance the motion lags by more than a quarter of a period, which
    the arc tangent of the quotient alone does not tell.  For ``sin(omega t)`` amplitude and phase are the same.

    Parameters
    ----------
    omega : array_like of any shape
        Angular frequencies, at least 0.
    m, eta, k : float, default 1.0
        Mass, damping and spring constant, all positive.

    Returns
    -------
    amplitude, delta : ndarray of the shape of `omega`, float64

    Raises
    ------
    ValueError, TypeError
        For numbers that are not finite and real, or out of range.

    Examples
    --------
    >>> amplitude, delta = oscillator_response([0.0, 1.0], eta=0.5)
    >>> amplitude, delta / np.pi
    (array([1., 2.]), array([0. , 0.5]))
    """
    omega = _real_array("omega", omega)
    if (omega < 0).any():
        raise ValueError(f"omega: expected frequencies >= 0, received {omega[omega < 0].flat[0]}")
    m, eta, k = _positive("m", m), _positive("eta", eta), _positive("k", k)
    b, difference = eta / (2 * m), k / m - omega**2
    return (1 / m) / np.hypot(difference, 2 * b * omega), np.arctan2(2 * b * omega, difference)


def driven_oscillator(t, f, g, period=1.0, m=1.0, eta=1.0, k=1.0):
    """The steady state of ``m x'' + eta x' + k x = F(t)`` for a periodic force, by superposition.

    The equation is linear, so that each harmonic of the force makes its own motion, and their sum is the motion for
    the whole force::

        x(t) = f_0 / (2 k) + sum_{n >= 1} D_n (f_n cos(n omega t - delta_n) + g_n sin(n omega t - delta_n))

    with ``omega = 2 pi / period``, and D_n and delta_n the amplitude and phase of `oscillator_response` at
    ``n omega``.  What the oscillator did before dies out as ``exp(-eta t / (2 m))`` and is not part of it.

    Parameters
    ----------
    t : array_like of any shape
        Times.
    f, g : array_like, shape (count + 1,)
        Fourier coefficients of the force, as from `fourier_coefficients`.
    period : float, default 1.0
        Of the force.
    m, eta, k : float, default 1.0
        Mass, damping and spring constant, all positive.

    Returns
    -------
    ndarray of the shape of `t`, float64
        The displacement x.

    Raises
    ------
    ValueError, TypeError
        If `f` and `g` differ in length, for numbers that are not finite and real, or out of range.

    Notes
    -----
    Two slips are common in lecture notes: the spring constant missing from the equation, and the difference of
    squares in D_n not squared.

    Examples
    --------
    A constant force stretches the spring by F / k:

    >>> driven_oscillator([0.0, 1.0], f=[6.0], g=[0.0], k=2.0)
    array([1.5, 1.5])
    """
    t = _times(t)
    f, g = _coefficients(f, g)
    omega = 2 * np.pi / _positive("period", period)
    amplitude, delta = oscillator_response(omega * np.arange(f.size), m, eta, k)
    total = np.full(t.shape, amplitude[0] * f[0] / 2)  # amplitude[0] is 1 / k
    for n in range(1, f.size):
        phase = n * omega * t - delta[n]
        total += amplitude[n] * (f[n] * np.cos(phase) + g[n] * np.sin(phase))
    return total


def _positive(name, value):
    number = checks.real(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a positive number, received {value!r}")
    return number


def _real_array(name, values):
    return np.asarray(checks.numeric_array(name, values), np.float64)


def _times(t):
    return _real_array("t", t)


def _real_vector(name, values):
    array = finite_vector(name, values)
    if array.dtype.kind == "c":
        raise TypeError(f"{name}: expected real numbers, received dtype {array.dtype}")
    return array.astype(np.float64)


def _coefficients(f, g):
    f, g = _real_vector("f", f), _real_vector("g", g)
    if f.size != g.size:
        raise ValueError(f"g: expected {f.size} coefficients, as many as f has, received {g.size}")
    return f, g
