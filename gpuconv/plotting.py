"""Pictures of trainings, networks and data, in matplotlib's manner.

Every function draws into the axes that it is given as ``ax``, or else into those of a new
figure, and returns them, so that titles, labels and files are matplotlib's own business::

    ax = plotting.training_history(model.fit(x, y, epochs=10))
    ax.set_title("digits")
    ax.figure.savefig("digits.png")

matplotlib is imported when the first figure is made: ``pip install 'gpuconv[plot]'``.
"""

import math

import numpy as np

from . import checks


def training_history(history, name="loss", ax=None):
    """One value epoch by epoch, and its validation value where there is one.

    Parameters
    ----------
    history : History or dict
        What `Sequential.fit` returns, or its ``history``.
    name : str, default 'loss'
        Which value: ``'loss'`` or a metric such as ``'accuracy'``.
    ax : matplotlib.axes.Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the history holds no value of that name.
    TypeError
        If `history` is something else.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> ax = training_history({"loss": [1.0, 0.5], "val_loss": [1.1, 0.7]})
    >>> [line.get_label() for line in ax.lines]
    ['training', 'validation']
    """
    values = getattr(history, "history", history)
    if not isinstance(values, dict):
        raise TypeError(f"history: expected what fit() returns, or its history, received {history!r}")
    checks.choice("name", name, [key for key in values if not key.startswith("val_")])
    first = getattr(history, "epoch", None) or [0]
    ax = _axes(ax)
    for key, label in ((name, "training"), (f"val_{name}", "validation")):
        if key in values:
            # A single epoch has no line, but a dot.
            marker = "o" if len(values[key]) == 1 else None
            ax.plot(first[0] + 1 + np.arange(len(values[key])), values[key], label=label, marker=marker)
    ax.set(xlabel="epoch", ylabel=name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def heatmap(
    grid, row_labels=None, column_labels=None, annotation="{:.2f}", vmin=None, vmax=None, cmap="viridis", ax=None
):
    """A matrix as coloured cells with their numbers written in, the first row on top.

    Cells that are not finite are grey.

    Parameters
    ----------
    grid : array_like, shape (rows, columns)
        Numbers, such as one of `GridSearch.values`.
    row_labels, column_labels : list, optional
        What to write beside the rows and under the columns.  Default: their numbers.
    annotation : str or None, default '{:.2f}'
        How to write a number, in the manner of `str.format`; None: write none.
    vmin, vmax : float, optional
        The numbers at the ends of the colours.  Default: the smallest and the largest finite one.
    cmap : str, default 'viridis'
    ax : matplotlib.axes.Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError, TypeError
        If the grid is not a matrix of numbers, or the labels do not fit it.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> ax = heatmap([[0.5, 1.0]], ["eta = 0.1"], ["lambda = 0", "lambda = 1"])
    >>> [text.get_text() for text in ax.texts]
    ['0.50', '1.00']
    """
    grid = checks.array_of_numbers("grid", grid)
    if grid.ndim != 2 or grid.size == 0:
        raise ValueError(f"grid: expected two axes, (rows, columns), received shape {grid.shape}")
    row_labels, column_labels = (
        _checked_labels(name, labels, extent)
        for name, labels, extent in zip(
            ("row_labels", "column_labels"), (row_labels, column_labels), grid.shape, strict=True
        )
    )
    if annotation is not None and not isinstance(annotation, str):
        raise TypeError(f"annotation: expected a format such as '{{:.2f}}' or None, received {annotation!r}")
    written = {place: annotation.format(grid[place]) for place in np.ndindex(*grid.shape)} if annotation else {}

    ax = _axes(ax)
    cells = np.ma.masked_invalid(grid.astype(np.float64))
    if cells.mask.all():
        vmin, vmax = vmin or 0.0, vmax or 1.0
    image = ax.imshow(cells, cmap=_with_grey(cmap), vmin=vmin, vmax=vmax, aspect="auto")
    ax.set_xticks(range(grid.shape[1]), column_labels)
    ax.set_yticks(range(grid.shape[0]), row_labels)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax)
    colors = image.cmap(image.norm(cells))
    for (row, column), text in written.items():
        red, green, blue, _ = colors[row, column]
        # Black on bright cells, white on dark ones; weights of ITU-R BT.601.
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        ax.text(column, row, text, ha="center", va="center", color="black" if bright else "white")
    return ax


def confusion_matrix(labels, predictions, class_names=None, normalize=False, ax=None):
    """How often each class, one a row, is taken for each class, one a column.

    Parameters
    ----------
    labels : array_like of int, shape (samples,) or (samples, 1)
        The true class numbers.
    predictions : array_like, shape (samples,) or (samples, classes)
        Predicted class numbers, or what `Sequential.predict` returns, whose largest column counts.
    class_names : list, optional
        Default: the class numbers.
    normalize : bool, default False
        Whether to draw shares of each row instead of numbers of samples.
    ax : matplotlib.axes.Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError, TypeError
        If labels and predictions do not fit each other or are no class numbers.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> ax = confusion_matrix([0, 0, 1], [0, 1, 1], ["cat", "dog"])
    >>> [text.get_text() for text in ax.texts]
    ['1', '1', '0', '1']
    """
    labels, predictions = checks.numeric_array("labels", labels), checks.array_of_numbers("predictions", predictions)
    classes = 0
    if predictions.ndim == 2 and predictions.shape[1] > 1:
        classes = predictions.shape[1]
        predictions = predictions.argmax(axis=1)
    labels, predictions = (_class_numbers(*given) for given in (("labels", labels), ("predictions", predictions)))
    if len(labels) != len(predictions):
        raise ValueError(f"predictions: expected one for each of {len(labels)} labels, received {len(predictions)}")
    normalize = checks.boolean("normalize", normalize)
    classes = max(classes, int(labels.max()) + 1, int(predictions.max()) + 1, len(class_names or ()))
    class_names = _checked_labels("class_names", class_names, classes)

    counts = np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)
    if normalize:
        # A class without samples has no shares: 0 / 1.
        ax = heatmap(
            counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), class_names, class_names,
            vmin=0.0, vmax=1.0, cmap="Blues", ax=ax,
        )  # fmt: skip
    else:
        ax = heatmap(counts, class_names, class_names, annotation="{:d}", vmin=0, cmap="Blues", ax=ax)
    ax.set(xlabel="predicted", ylabel="true")
    if any(len(str(name)) > 3 for name in class_names):
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    return ax


def image_grid(images, labels=None, columns=None, colors=None, cmap="gray", ax=None):
    """Pictures in rows, each with its label above it.

    Parameters
    ----------
    images : array_like, shape (pictures, height, width), or with 1, 3 or 4 channels behind
        Colours from 0 to 1, or integers from 0 to 255.  Grey pictures are drawn from their smallest to
        their largest number, all on one scale.
    labels : list, optional
        One for each picture.
    columns : int, optional
        Default: as many as make the grid about square.
    colors : list of str, optional
        The colour of each label.  Default: matplotlib's colour for text.
    cmap : str, default 'gray'
        For pictures without colours.
    ax : matplotlib.axes.Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError, TypeError
        If these are not pictures, or labels do not fit them.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> from gpuconv import datasets
    >>> images, labels = datasets.digits.load_data()
    >>> ax = image_grid(images[:6], labels[:6], columns=3)
    >>> len(ax.images), [text.get_text() for text in ax.texts]
    (6, ['0', '1', '2', '3', '4', '5'])
    """
    images = checks.array_of_numbers("images", images)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.size == 0 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (3, 4)):
        raise ValueError(
            "images: expected (pictures, height, width), or with 1, 3 or 4 channels behind, "
            f"received shape {images.shape}"
        )
    labels = None if labels is None else _checked_labels("labels", labels, len(images))
    colors = None if colors is None else _checked_labels("colors", colors, len(images))
    scale = [_finite_range(images)] * len(images)
    return _tiles(images, scale, labels, columns, colors, cmap, ax)


def filters(filters, channel=None, columns=None, ax=None):
    """The filters of a convolutional layer.

    Filters over three channels are drawn in colours, each from its smallest to its largest weight.  Others are drawn
    for one input channel, all on one scale: zero is white, positive weights are red and negative ones blue.

    Parameters
    ----------
    filters : array_like, shape (kernel_height, kernel_width, in_channels, out_channels)
        Such as ``model.layers[0].get_weights()[0]``.
    channel : int, optional
        The input channel to draw.  Default: colours if there are three channels, else the first.
    columns : int, optional
        Default: as many as make the grid about square.
    ax : matplotlib.axes.Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError, TypeError
        If these are not filters, or there is no such channel.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> len(filters(np.ones((3, 3, 1, 10))).images)
    10
    """
    filters = checks.array_of_numbers("filters", filters)
    if filters.ndim != 4 or filters.size == 0:
        raise ValueError(
            "filters: expected four axes, (kernel_height, kernel_width, in_channels, out_channels), "
            f"received shape {filters.shape}"
        )
    pictures = np.moveaxis(filters.astype(np.float64), 3, 0)
    if channel is None and filters.shape[2] == 3:
        pictures = np.stack([_as_colors(picture) for picture in pictures])
        return _tiles(pictures, [None] * len(pictures), None, columns, None, None, ax)
    channel = checks.integer("channel", 0 if channel is None else channel, 0)
    if channel >= filters.shape[2]:
        raise ValueError(f"channel: expected an integer below {filters.shape[2]}, received {channel}")
    pictures = pictures[..., channel]
    largest = max(map(abs, _finite_range(pictures))) or 1.0
    return _tiles(pictures, [(-largest, largest)] * len(pictures), None, columns, None, "RdBu_r", ax)


def feature_maps(maps, columns=None, one_scale=False, cmap="viridis", ax=None):
    """What a layer makes of one picture, channel by channel.

    Parameters
    ----------
    maps : array_like, shape (height, width, channels) or (1, height, width, channels)
    columns : int, optional
        Default: as many as make the grid about square.
    one_scale : bool, default False
        Whether all channels share one scale of colours.  Else each has its own, from its smallest to
        its largest number.
    cmap : str, default 'viridis'
    ax : matplotlib.axes.Axes, optional
        Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError, TypeError
        If these are not the maps of one picture.
    ImportError
        If there is no matplotlib.

    Examples
    --------
    >>> len(feature_maps(np.ones((1, 6, 6, 10)), columns=5).images)
    10
    """
    maps = checks.array_of_numbers("maps", maps)
    if maps.ndim == 4 and maps.shape[0] == 1:
        maps = maps[0]
    if maps.ndim != 3 or maps.size == 0:
        raise ValueError(f"maps: expected (height, width, channels) of one picture, received shape {maps.shape}")
    one_scale = checks.boolean("one_scale", one_scale)
    pictures = np.moveaxis(maps, 2, 0)
    scales = [_finite_range(maps if one_scale else picture) for picture in pictures]
    return _tiles(pictures, scales, None, columns, None, cmap, ax)


def _tiles(pictures, scales, labels, columns, colors, cmap, ax):
    """Pictures of one size side by side in one pair of axes, with labels above them."""
    count, height, width = pictures.shape[:3]
    columns = math.ceil(math.sqrt(count)) if columns is None else min(checks.integer("columns", columns, 1), count)
    rows = math.ceil(count / columns)
    # A tile's picture is one unit wide; the gaps leave room for the labels.
    tall = height / width
    step_x = 1.08
    step_y = tall + (0.3 if labels else 0.08)
    size = min(1.0, 10 / columns)
    ax = _axes(ax, (step_x * columns * size + 0.2, step_y * rows * size + 0.2))
    cmap = cmap and _with_grey(cmap)
    if labels:
        # Letters are about 0.6 times as wide as they are high: the longest label must fit above its picture.
        points = 72 * ax.get_window_extent().width / ax.figure.dpi / columns
        fontsize = np.clip(points / (0.6 * max(1, *(len(str(label)) for label in labels))), 4, 9)
    for number, (picture, scale) in enumerate(zip(pictures, scales, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * step_x, row * step_y
        low, high = scale or (None, None)
        ax.imshow(
            picture, cmap=cmap, vmin=low, vmax=high, extent=(left, left + 1, top + tall, top), interpolation="nearest"
        )
        if labels:
            text = ax.text(left + 0.5, top - 0.03, str(labels[number]), ha="center", va="bottom", fontsize=fontsize)
            if colors:
                text.set_color(colors[number])
    ax.set_xlim(-0.04, columns * step_x - 0.04)
    ax.set_ylim(rows * step_y - (step_y - tall) + 0.04, -0.25 if labels else -0.04)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def _axes(ax, size=None):
    """The axes to draw into."""
    if ax is None:
        return _pyplot().subplots(figsize=size, layout="constrained")[1]
    if not (hasattr(ax, "imshow") and hasattr(ax, "figure")):
        raise TypeError(f"ax: expected matplotlib axes, received {ax!r}")
    return ax


def _pyplot():
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("matplotlib: expected for pictures, received none: pip install 'gpuconv[plot]'") from None
    return plt


def _with_grey(cmap):
    """A colour map whose colour for NaN is grey."""
    import matplotlib

    return (matplotlib.colormaps[cmap] if isinstance(cmap, str) else cmap).with_extremes(bad="0.7")


def _finite_range(array):
    """The smallest and the largest finite number; (0, 1) if there is none."""
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _as_colors(picture):
    """Numbers moved to [0, 1], from the smallest finite one to the largest; grey where they are not finite."""
    low, high = _finite_range(picture)
    finite = np.isfinite(picture)
    return np.where(finite, (np.where(finite, picture, low) - low) / ((high - low) or 1.0), 0.7)


def _checked_labels(name, labels, count):
    labels = list(range(count)) if labels is None else list(labels)
    if len(labels) != count:
        raise ValueError(f"{name}: expected {count} entries, received {len(labels)}")
    return labels


def _class_numbers(name, values):
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name}: expected class numbers of shape (samples,), received shape {values.shape}")
    numbers = values.astype(np.int64) if np.isfinite(values).all() else values
    if not np.array_equal(numbers, values) or numbers.dtype != np.int64 or numbers.min() < 0:
        raise ValueError(f"{name}: expected class numbers, 0 or greater, received other numbers")
    return numbers
