"""Pictures of measurements: how many times as fast gpuconv is, and how its cost grows."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from . import cases
from .report import Rows

COMPARED = ("correlation", "training", "image", "elementwise")


def draw_ratios(rows, path):
    """A dot for each work and peer: times as fast as the peer; a panel for each section and number of threads."""
    rows = Rows(rows)
    sections = [section for section in COMPARED if any(rows.works(section, threads) for threads in rows.threads)]
    if not sections:
        return
    categories = {
        section: list(
            dict.fromkeys(category(section, work) for threads in rows.threads for work in rows.works(section, threads))
        )
        for section in sections
    }
    heights = [len(categories[section]) + 3 for section in sections]
    figure, axes = plt.subplots(
        len(sections), len(rows.threads), squeeze=False, layout="constrained",
        figsize=(6.5 * len(rows.threads), 0.24 * sum(heights) + 1), height_ratios=heights, sharey="row", sharex="row",
    )  # fmt: skip
    for section, line in zip(sections, axes, strict=True):
        peers = [library for library in cases.SECTIONS[section] if library != "gpuconv"]
        for threads, ax in zip(rows.threads, line, strict=True):
            for number, peer in enumerate(peers):
                points = [
                    (ratio, categories[section].index(category(section, work)))
                    for work in rows.works(section, threads)
                    if (ratio := rows.ratio(section, work, threads, peer))
                ]
                if points:
                    ax.scatter(*zip(*points, strict=True), s=16, color=f"C{number}", alpha=0.7, label=peer)
            ax.axvline(1.0, color="black", linewidth=0.8)
            ax.set_xscale("log")
            _plain_ticks(ax.xaxis)
            ax.set_yticks(range(len(categories[section])), categories[section], fontsize=8)
            ax.grid(alpha=0.3)
            ax.set_title(f"{section}, {threads} thread{'s' if threads > 1 else ''}", fontsize=10)
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize=7)
        line[0].invert_yaxis()
        line[-1].set_xlabel("times as fast as the peer")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def category(section, work):
    """Works that share a line: correlations of all shapes."""
    return work.split(", ", 1)[1] if section == "correlation" else work


def draw_growth(rows, path):
    """Time per image as the batch, the picture or the channels grow."""
    rows = [row for row in rows if row["section"] == "growth"]
    if not rows:
        return
    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    titles = {
        "batch": "batch of 32 x 32 pictures, 32 -> 32 channels",
        "side": "side of one picture, 32 -> 32 channels",
        "channels": "channels in and out, 8 pictures of 16 x 16",
    }
    figure, axes = plt.subplots(
        1, len(axes_names), figsize=(5 * len(axes_names), 4), squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes[0], axes_names, strict=True):
        lines = dict.fromkeys((row["library"], row["threads"]) for row in rows if row["axis"] == name)
        for library, threads in lines:
            points = sorted(
                (row["extent"], row["median_seconds"] / row["images"] * 1e3)
                for row in rows
                if (row["axis"], row["library"], row["threads"]) == (name, library, threads)
            )
            ax.plot(
                *zip(*points, strict=True), marker="o", markersize=3, linestyle="-" if threads > 1 else "--",
                color=f"C{cases.SECTIONS['growth'].index(library)}",
                label=f"{library}, {threads} thread{'s' if threads > 1 else ''}",
            )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_yscale("log")
        _plain_ticks(ax.yaxis)
        ax.set(xlabel=titles[name], ylabel="ms per image", title=f"3 x 3 correlation by {name}")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plain_ticks(axis):
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
