"""A damped oscillator under a square wave: the principle of superposition.

The force is cut into its harmonics, each harmonic makes a motion that is known, and these are added up.  Beside that
runs a numerical solution of ``m x'' + eta x' + k x = F(t)`` from rest, which after a while does the same.

    python examples/driven_oscillator.py
    python examples/driven_oscillator.py --eta 0.1 --period 5
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from scipy.integrate import solve_ivp

from gpuconv import signal


def solve(t, force_at, m, eta, k, period):
    """The motion from rest, half a period at a time, so that no step crosses a jump of the force."""
    x, state, half = np.zeros_like(t), [0.0, 0.0], period / 2
    for number in range(int(np.ceil(t[-1] / half - 1e-9))):
        start, end = number * half, (number + 1) * half
        force = force_at(start + half / 2)

        def motion(_, state, force=force):
            return [state[1], (force - eta * state[1] - k * state[0]) / m]

        solution = solve_ivp(motion, (start, end), state, "DOP853", rtol=1e-10, atol=1e-12, dense_output=True)
        here = (t >= start) & (t <= end)
        x[here] = solution.sol(t[here])[0]
        state = solution.y[:, -1]
    return x


def draw(t, force, numeric, steady, harmonics, resonance, path):
    """Force, both motions, their difference, and what each harmonic becomes."""
    period, m, eta, k, n, force_size, size = harmonics
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    ax = axes[0, 0]
    ax.plot(t, force, color="0.75", label="force F(t)")
    ax.plot(t, numeric, label="x(t) from rest, numerically")
    ax.plot(t, steady, "--", color="tab:red", label="steady state, by superposition")
    ax.set(xlabel="t", xlim=(0, 4 * period), title="the motion settles down")
    ax.set_ylim(top=1.6 * numeric.max())
    ax.legend(loc="upper right", fontsize=9)

    ax = axes[0, 1]
    last = t >= t[-1] - 2 * period
    ax.plot(t[last], force[last], color="0.75", label="force F(t)")
    ax.plot(t[last], numeric[last], linewidth=3, label="numerically")
    ax.plot(t[last], steady[last], "--", color="tab:red", label="by superposition")
    ax.set(xlabel="t", title="two periods after the transient")
    ax.set_ylim(top=1.6 * numeric.max())
    ax.legend(loc="upper right", fontsize=9)

    ax = axes[1, 0]
    ax.semilogy(t, np.abs(numeric - steady), linewidth=1, label="|numerically \N{MINUS SIGN} steady state|")
    envelope = np.abs(numeric - steady)[: len(t) // 20].max() * np.exp(-eta * t / (2 * m))
    ax.semilogy(t, envelope, "k:", label=r"$\propto e^{-\eta t / 2 m}$")
    ax.set(xlabel="t", ylim=(1e-8, None), title="what the start leaves dies out; missing harmonics remain")
    ax.legend()

    ax = axes[1, 1]
    omega, amplitude = resonance
    ax.semilogy(omega, amplitude, color="tab:green", label="response $D(\\omega)$ to a force of 1")
    ax.semilogy(2 * np.pi / period * n, force_size, "o", color="0.5", label="harmonics of the force")
    ax.semilogy(2 * np.pi / period * n, size, "o", color="tab:red", label="harmonics of the motion")
    ax.axvline(np.sqrt(k / m), color="0.7", linewidth=1, linestyle="--")
    ax.text(np.sqrt(k / m), ax.get_ylim()[0] * 1.5, r" $\omega_0$", color="0.4")
    ax.set(xlabel=r"angular frequency $\omega$", title="each harmonic times its response")
    ax.legend(fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", type=float, default=1.0, help="mass, default: %(default)s")
    parser.add_argument("--eta", type=float, default=0.3, help="damping, default: %(default)s")
    parser.add_argument("--k", type=float, default=1.0, help="spring constant, default: %(default)s")
    parser.add_argument("--period", type=float, default=19.0, help="of the force, default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="15 harmonics instead of 199")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the picture, default: %(default)s"
    )
    arguments = parser.parse_args()
    m, eta, k, period = arguments.m, arguments.eta, arguments.k, arguments.period
    count = 15 if arguments.quick else 199

    def force_at(t):
        return signal.square_wave(t, period)

    f, g = signal.fourier_coefficients(lambda t: force_at(t).item(), count, period)
    # Until exp(-eta t / (2 m)) is 1e-10, at least ten periods.
    periods = max(10, int(np.ceil(23 * 2 * m / eta / period)) + 2)
    t = np.linspace(0, periods * period, 200 * periods + 1)
    numeric = solve(t, force_at, m, eta, k, period)
    steady = signal.driven_oscillator(t, f, g, period, m, eta, k)
    last = t >= t[-1] - 2 * period
    error = np.abs(numeric - steady)[last].max() / np.abs(steady).max()
    print(f"{count} harmonics, {periods} periods: in the last two, superposition and the numerical solution differ by")
    print(f"{error:.2g} of the largest displacement; harmonics that are left out make up for it")

    n = np.flatnonzero(np.hypot(f, g) > 1e-6)
    n = n[(n > 0) & (n <= 15)]
    amplitude, _ = signal.oscillator_response(2 * np.pi / period * n, m, eta, k)
    force_size = np.hypot(f, g)[n]
    omega = np.linspace(0.01, 2 * np.pi / period * (n[-1] + 1), 500)
    resonance = omega, signal.oscillator_response(omega, m, eta, k)[0]
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "driven_oscillator.png"
    draw(t, force_at(t), numeric, steady, (period, m, eta, k, n, force_size, force_size * amplitude), resonance, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
