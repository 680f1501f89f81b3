"""From what `gpu` measured to tables."""


def markdown(results):
    """Tables of every section and precision.

    Parameters
    ----------
    results : dict
        ``machine``: names and values; ``rows``: dictionaries with ``section``, ``work``, ``library``, ``precision``,
        ``seconds`` (None where there is an ``error``), and ``flops``, ``bytes`` and ``variant`` where they mean
        something.

    Returns
    -------
    str

    Examples
    --------
    >>> row = {"section": "operations", "work": "relu", "precision": "float32", "bytes": 8e6}
    >>> rows = [{**row, "library": "gpuconv", "seconds": 4e-6}, {**row, "library": "torch", "seconds": 5e-6}]
    >>> print(markdown({"machine": {"GPU": "made up"}, "rows": rows}))
    # gpuconv on a GPU
    <BLANKLINE>
    GPU made up.
    <BLANKLINE>
    ## operations, float32
    <BLANKLINE>
    | work | gpuconv | PyTorch | times as fast | |
    |---|---:|---:|---:|---:|
    | relu | 4.0 us | 5.0 us | 1.25 | 2.00 TB/s |
    <BLANKLINE>
    """
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = ["# gpuconv on a GPU", "", f"{machine}.", ""]
    groups = {}
    for row in results["rows"]:
        groups.setdefault((row["section"], row["precision"]), []).append(row)
    tiles = groups.pop(("tiles", "float32"), [])
    for (section, precision), rows in groups.items():
        lines += [f"## {section}, {precision}", "", "| work | gpuconv | PyTorch | times as fast | |"]
        lines += ["|---|---:|---:|---:|---:|"]
        for work in dict.fromkeys(row["work"] for row in rows):
            own, peer = (fastest(rows, work, library) for library in ("gpuconv", "torch"))
            ratio = f"{peer['seconds'] / own['seconds']:.2f}" if own and peer else ""
            variant = f" ({peer['variant']})" if peer and "variant" in peer else ""
            lines.append(f"| {work} | {time(own)} | {time(peer)}{variant} | {ratio} | {rate(own or peer)} |")
        lines.append("")
    if tiles:
        lines += ["## register tiles, float32", "", *tile_table(tiles), ""]
    failed = [row for row in results["rows"] if "error" in row]
    if failed:
        lines += ["## Not measured", ""]
        lines += [f"- {row['work']}, {row['library']}: {row['error']}" for row in failed] + [""]
    return "\n".join(lines)


def tile_table(rows):
    """For each correlation the times of the tile that is chosen, and of the fastest.

    Examples
    --------
    >>> row = {"work": "3x3, forward", "products": "multipliers"}
    >>> rows = [{**row, "variant": "chosen", "seconds": 5e-6}, {**row, "variant": "64x64x16 by 128", "seconds": 4e-6}]
    >>> print("\\n".join(tile_table(rows)))
    | work | by | chosen tile | fastest tile | times as fast |
    |---|---|---:|---:|---:|
    | 3x3, forward | multipliers | 5.0 us | 4.0 us (64x64x16 by 128) | 1.25 |
    """
    lines = ["| work | by | chosen tile | fastest tile | times as fast |", "|---|---|---:|---:|---:|"]
    for work, products in dict.fromkeys((row["work"], row["products"]) for row in rows):
        measured = [row for row in rows if (row["work"], row["products"]) == (work, products) and row["seconds"]]
        chosen = next((row for row in measured if row["variant"] == "chosen"), None)
        if chosen:
            best = min(measured, key=lambda row: row["seconds"])
            ratio = chosen["seconds"] / best["seconds"]
            lines.append(f"| {work} | {products} | {time(chosen)} | {time(best)} ({best['variant']}) | {ratio:.2f} |")
    return lines


def fastest(rows, work, library):
    """The library's fastest row for a work, or None."""
    measured = [row for row in rows if (row["work"], row["library"]) == (work, library) and row["seconds"]]
    return min(measured, key=lambda row: row["seconds"], default=None)


def time(row):
    """Microseconds, in words."""
    return f"{1e6 * row['seconds']:.1f} us" if row else "-"


def rate(row):
    """Multiplications and additions, or bytes, in a second."""
    if row and row.get("flops"):
        return f"{row['flops'] / row['seconds'] / 1e12:.1f} TFLOP/s"
    if row and row.get("bytes"):
        return f"{row['bytes'] / row['seconds'] / 1e12:.2f} TB/s"
    return ""
