"""Multiplying two polynomials is convolving their coefficients, which is a product with a Toeplitz matrix.

The picture shows the matrix of either polynomial, the coefficients of the product, and both sides as functions.

    python examples/polynomial_multiplication.py
    python examples/polynomial_multiplication.py --alpha 1 -2 0.5 --beta 2 0 1 3
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gpuconv import signal


def formula(coefficients):
    """A polynomial in writing."""
    text = ""
    for power, number in enumerate(coefficients):
        if number:
            size = "" if power and abs(number) == 1 else f"{abs(number):g}"
            text += (" \N{MINUS SIGN} " if number < 0 else " + ") + size + ["", "t", f"t$^{{{power}}}$"][min(power, 2)]
    return text.removeprefix(" + ").strip() or "0"


def draw_matrix(ax, matrix, vector, title):
    """The numbers of a matrix and of the vector to its right, coloured by their size."""
    gap = np.full((len(matrix), 2), np.nan)
    gap[: len(vector), 1] = vector
    both = np.hstack([matrix, gap])
    limit = np.nanmax(np.abs(both))
    ax.imshow(both, cmap="RdBu_r", vmin=-1.5 * limit, vmax=1.5 * limit)
    for (row, column), number in np.ndenumerate(both):
        if not np.isnan(number):
            ax.text(column, row, f"{number:g}", ha="center", va="center", color="black" if number else "0.75")
    ax.text(matrix.shape[1], (len(vector) - 1) / 2, "\N{MULTIPLICATION SIGN}", ha="center", va="center", size=14)
    ax.set_title(title)
    ax.axis("off")


def draw(alpha, beta, path):
    """Both forms of the matrix, the product's coefficients, and the polynomials."""
    delta = signal.polynomial_multiply(alpha, beta)
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    draw_matrix(axes[0, 0], signal.toeplitz_matrix(alpha, len(beta)), beta, r"matrix of $\alpha$, vector $\beta$")
    draw_matrix(axes[0, 1], signal.toeplitz_matrix(beta, len(alpha)), alpha, r"matrix of $\beta$, vector $\alpha$")

    ax = axes[1, 0]
    bars = ax.bar(np.arange(len(delta)), delta, color="tab:green")
    ax.bar_label(bars, fmt="%g", padding=2)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.margins(y=0.15)
    ax.set(xlabel="power $l$ of $t$", ylabel=r"coefficient $\delta_l$", title=r"both give $\delta = \alpha * \beta$")

    ax = axes[1, 1]
    t = np.linspace(-1.5, 1.5, 201)
    p, s, z = (np.polynomial.Polynomial(row)(t) for row in (alpha, beta, delta))
    ax.plot(t, p, label="p(t) = " + formula(alpha))
    ax.plot(t, s, label="s(t) = " + formula(beta))
    ax.plot(t, z, linewidth=3, color="tab:green", label=r"z(t), from $\delta$")
    ax.plot(t[::8], (p * s)[::8], "k.", label="p(t) s(t)")
    ax.set(xlabel="t", title="the product as a function")
    ax.legend(fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def compare_costs(n):
    """What the matrix costs that is never needed."""
    w, x = np.random.default_rng(0).uniform(-1, 1, (2, n))
    print(f"\nTwo polynomials of {n} coefficients:")
    for name, multiply, numbers in (
        ("with the matrix", lambda: signal.toeplitz_matrix(w, n) @ x, (2 * n - 1) * n),
        ("toeplitz_multiply", lambda: signal.toeplitz_multiply(w, x), 2 * n - 1),
        ("convolve, direct", lambda: signal.convolve(w, x, method="direct"), 2 * n - 1),
        ("convolve, fft", lambda: signal.convolve(w, x, method="fft"), 2 * n - 1),
    ):
        multiply()
        start = time.perf_counter()
        multiply()
        milliseconds = 1e3 * (time.perf_counter() - start)
        print(f"  {name:<18}{milliseconds:9.2f} ms{numbers * 8 / 1e6:12.2f} MB for its result or matrix")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--alpha", type=float, nargs="+", default=[1, -2, 3], help="coefficients, lowest power first, default: 1 -2 3"
    )
    parser.add_argument("--beta", type=float, nargs="+", default=[2, 1, 0, -1], help="default: 2 1 0 -1")
    parser.add_argument("--quick", action="store_true", help="compare costs for short polynomials only")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder of the picture, default: %(default)s"
    )
    arguments = parser.parse_args()

    delta = signal.polynomial_multiply(arguments.alpha, arguments.beta)
    for name, row in (("alpha", arguments.alpha), ("beta", arguments.beta), ("delta", delta)):
        print(f"{name:<6}", *(f"{number:g}" for number in row))
    compare_costs(200 if arguments.quick else 5000)

    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "polynomial_multiplication.png"
    draw(arguments.alpha, arguments.beta, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
