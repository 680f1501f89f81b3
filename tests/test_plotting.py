"""What the pictures hold: curves, cells, tiles and labels, read back from matplotlib's own objects."""

import itertools
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gpuconv import layers, models, plotting


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def drawn(ax):
    """Draw the whole figure, which is when most mistakes show; warnings are errors."""
    ax.figure.canvas.draw()
    return ax


def trained(epochs=3):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 4)), generator.integers(0, 3, 20)
    model = models.Sequential([layers.Dense(3, activation="softmax", input_shape=(4,))])
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    return model.fit(x, y, epochs=epochs, verbose=0, validation_split=0.25)


CALLS = {
    "training_history": lambda **ax: plotting.training_history({"loss": [1.0, 0.5]}, **ax),
    "heatmap": lambda **ax: plotting.heatmap(np.eye(3), **ax),
    "confusion_matrix": lambda **ax: plotting.confusion_matrix([0, 1], [1, 1], **ax),
    "image_grid": lambda **ax: plotting.image_grid(np.ones((5, 4, 4)), list("abcde"), **ax),
    "filters": lambda **ax: plotting.filters(np.ones((3, 3, 3, 5)), **ax),
    "feature_maps": lambda **ax: plotting.feature_maps(np.ones((6, 6, 5)), **ax),
}


@pytest.mark.parametrize("name", CALLS)
def test_axes_are_taken_and_returned(name):
    figure, (left, right) = plt.subplots(1, 2)
    assert CALLS[name](ax=right) is right
    assert not left.has_data()
    assert right.has_data()
    assert plt.get_fignums() == [figure.number]
    drawn(right)
    # Without axes: those of a new figure, whatever stands open.
    ax = CALLS[name]()
    assert ax.figure is not figure
    drawn(ax)
    with pytest.raises(TypeError, match=r"^ax: expected matplotlib axes, received 3"):
        CALLS[name](ax=3)


@pytest.mark.parametrize("name", CALLS)
def test_without_matplotlib_the_command_that_installs_it_is_named(name, monkeypatch):
    for module in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'gpuconv\[plot\]'"):
        CALLS[name]()


def test_importing_does_not_import_matplotlib():
    script = "import sys, gpuconv.plotting; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


# ------------------------------------------------------------------ curves


def test_training_history():
    history = trained()
    ax = drawn(plotting.training_history(history, "accuracy"))
    assert [line.get_label() for line in ax.lines] == ["training", "validation"]
    for line, name in zip(ax.lines, ("accuracy", "val_accuracy"), strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3]
        assert list(line.get_ydata()) == history.history[name]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "accuracy")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]
    # Its dict is as good; one epoch is a dot; loss is the default.
    ax = drawn(plotting.training_history(trained(1).history))
    assert ax.get_ylabel() == "loss"
    assert [line.get_marker() for line in ax.lines] == ["o", "o"]
    ax = plotting.training_history({"loss": [1.0]})
    assert len(ax.lines) == 1


def test_a_continued_training_starts_where_it_was():
    history = trained()
    history.epoch = [5, 6, 7]
    assert plotting.training_history(history).lines[0].get_xdata().tolist() == [6, 7, 8]


# ------------------------------------------------------------------ cells


def test_heatmap():
    grid = np.array([[0.0, 0.25, 1.0], [0.5, np.nan, np.inf]])
    ax = drawn(plotting.heatmap(grid, ["a", "b"], [1, 2, 3]))
    assert texts(ax) == ["0.00", "0.25", "1.00", "0.50", "nan", "inf"]
    assert [text.get_position() for text in ax.texts] == [(c, r) for r in range(2) for c in range(3)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3"]
    (image,) = ax.images
    assert image.get_clim() == (0, 1)
    np.testing.assert_array_equal(image.get_array().mask, ~np.isfinite(grid))
    # The first row is on top; writing is light on dark cells and dark on bright ones, grey among them.
    assert ax.get_ylim() == (1.5, -0.5)
    assert [text.get_color() for text in ax.texts] == ["white", "white", "black", "white", "black", "black"]


def test_heatmap_settings():
    ax = drawn(plotting.heatmap([[1, 2]], annotation=None, vmin=0, vmax=10, cmap="magma"))
    assert texts(ax) == []
    assert ax.images[0].get_clim() == (0, 10)
    assert ax.images[0].cmap.name == "magma"
    assert texts(plotting.heatmap([[1, 2]], annotation="{:d}")) == ["1", "2"]
    drawn(plotting.heatmap([[np.nan]]))


def test_confusion_matrix():
    labels, predictions = [0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 0, 2]
    expected = [[2, 1, 0], [0, 1, 0], [1, 0, 1]]
    ax = drawn(plotting.confusion_matrix(labels, predictions, ["ant", "bee", "butterfly"]))
    assert ax.images[0].get_array().tolist() == expected
    assert texts(ax) == list("210010101")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    # Labels as Keras has them, predictions as a model gives them.
    ax = plotting.confusion_matrix(np.array(labels)[:, np.newaxis], np.eye(3)[predictions])
    assert ax.images[0].get_array().tolist() == expected
    ax = plotting.confusion_matrix(labels, predictions, normalize=True)
    np.testing.assert_allclose(ax.images[0].get_array().sum(axis=1), 1)
    # A class that never occurs has a row of its own, of zeros.
    ax = drawn(plotting.confusion_matrix([0], [0], ["a", "b"], normalize=True))
    assert texts(ax) == ["1.00", "0.00", "0.00", "0.00"]


# ------------------------------------------------------------------ tiles


def assert_tiles(ax, count, columns):
    """Tiles stand in rows, do not overlap, and lie within the axes."""
    drawn(ax)
    boxes = [image.get_extent() for image in ax.images]
    assert len(boxes) == count
    for number, (left, right, bottom, top) in enumerate(boxes):
        if number % columns:
            assert left > boxes[number - 1][1]
            assert top == boxes[number - 1][3]
        elif number:
            assert left == boxes[0][0]
            assert top > boxes[number - 1][2]
        assert ax.get_xlim()[0] < left < right < ax.get_xlim()[1]
        assert ax.get_ylim()[1] < top < bottom < ax.get_ylim()[0]
    # One picture is as wide for its height as its pixels are.
    height, width = ax.images[0].get_array().shape[:2]
    left, right, bottom, top = boxes[0]
    assert (bottom - top) / (right - left) == pytest.approx(height / width)


@pytest.mark.parametrize(("count", "columns", "expected"), [(1, None, 1), (5, None, 3), (7, 4, 4), (2, 9, 2)])
def test_grids_of_pictures(count, columns, expected):
    images = np.random.default_rng(0).uniform(size=(count, 4, 6))
    labels = [f"a rather long label {i}" for i in range(count)]
    ax = plotting.image_grid(images, labels, columns, colors=["red"] * count)
    assert_tiles(ax, count, expected)
    assert texts(ax) == labels
    assert {text.get_color() for text in ax.texts} == {"red"}
    # Labels in a row do not run into each other.
    boxes = [text.get_window_extent() for text in ax.texts]
    for number, (before, after) in enumerate(itertools.pairwise(boxes), 1):
        assert number % expected == 0 or before.x1 < after.x0
    for image, given in zip(ax.images, images, strict=True):
        np.testing.assert_array_equal(image.get_array(), given)
        assert image.get_clim() == (images.min(), images.max())


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32"])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_kinds_of_pictures(dtype, channels):
    images = np.random.default_rng(0).integers(0, 2, (4, 5, 5, *channels)).astype(dtype)
    if dtype == "bool" and channels in ((3,), (4,)):
        images = images.astype("uint8") * 255
    ax = plotting.image_grid(images)
    assert_tiles(ax, 4, 2)
    assert texts(ax) == []


def test_filters():
    weights = np.random.default_rng(0).normal(size=(3, 2, 4, 10))
    for ax, channel in ((plotting.filters(weights, columns=5), 0), (plotting.filters(weights, 2, columns=5), 2)):
        assert_tiles(ax, 10, 5)
        largest = abs(weights[:, :, channel]).max()
        for number, image in enumerate(ax.images):
            np.testing.assert_array_equal(image.get_array(), weights[:, :, channel, number])
            assert image.get_clim() == (-largest, largest)
    # Three channels are colours, unless one of them is asked for.
    weights = weights[:, :, :3]
    for number, image in enumerate(plotting.filters(weights).images):
        one = weights[..., number]
        np.testing.assert_allclose(image.get_array(), (one - one.min()) / (one.max() - one.min()))
    assert plotting.filters(weights, channel=1).images[0].get_array().shape == (3, 2)
    # What diverged is drawn too, grey.
    weights[0, 0, 0, 0] = np.nan
    weights[0, 0, 0, 1] = np.inf
    weights[..., 2] = np.nan
    drawn(plotting.filters(weights))
    drawn(plotting.filters(weights, 0))
    drawn(plotting.filters(np.zeros((3, 3, 1, 2))))


def test_feature_maps():
    maps = np.random.default_rng(0).normal(size=(6, 4, 5))
    ax = plotting.feature_maps(maps)
    assert_tiles(ax, 5, 3)
    for number, image in enumerate(ax.images):
        np.testing.assert_array_equal(image.get_array(), maps[..., number])
        assert image.get_clim() == (maps[..., number].min(), maps[..., number].max())
    ax = plotting.feature_maps(maps[np.newaxis], one_scale=True)
    assert {image.get_clim() for image in ax.images} == {(maps.min(), maps.max())}


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plotting.training_history([1.0]), TypeError, "history: expected what fit"),
        (lambda: plotting.training_history({"loss": [1.0]}, "accuracy"), ValueError, "name: expected one of 'loss'"),
        (lambda: plotting.heatmap([1, 2]), ValueError, "grid: expected two axes"),
        (lambda: plotting.heatmap(np.ones((0, 2))), ValueError, "grid: expected two axes"),
        (lambda: plotting.heatmap([["a"]]), TypeError, "grid: expected numbers"),
        (lambda: plotting.heatmap([[1, 2]], ["a", "b"]), ValueError, "row_labels: expected 1 entries, received 2"),
        (lambda: plotting.heatmap([[1, 2]], None, ["a"]), ValueError, "column_labels: expected 2 entries, received 1"),
        (lambda: plotting.heatmap([[1]], annotation=2), TypeError, "annotation: expected a format"),
        (lambda: plotting.confusion_matrix([0, 1], [0]), ValueError, "predictions: expected one for each of 2"),
        (lambda: plotting.confusion_matrix([0.5], [0]), ValueError, "labels: expected class numbers"),
        (lambda: plotting.confusion_matrix([0], [-1]), ValueError, "predictions: expected class numbers"),
        (lambda: plotting.confusion_matrix([0], [np.nan]), ValueError, "predictions: expected class numbers"),
        (lambda: plotting.confusion_matrix(np.eye(2), [0, 1]), ValueError, "labels: expected class numbers of shape"),
        (lambda: plotting.confusion_matrix([0, 2], [0, 1], ["a"]), ValueError, "class_names: expected 3 entries"),
        (lambda: plotting.confusion_matrix([0], [0], normalize=1), TypeError, "normalize: expected True or False"),
        (lambda: plotting.image_grid(np.ones((4, 4))), ValueError, "images: expected .* received shape"),
        (lambda: plotting.image_grid(np.ones((2, 4, 4, 2))), ValueError, "images: expected .* received shape"),
        (lambda: plotting.image_grid(np.ones((2, 4, 4)), ["a"]), ValueError, "labels: expected 2 entries"),
        (lambda: plotting.image_grid(np.ones((1, 4, 4)), ["a"], colors=[]), ValueError, "colors: expected 1 entries"),
        (lambda: plotting.image_grid(np.ones((1, 4, 4)), columns=0), ValueError, "columns: expected an integer >= 1"),
        (lambda: plotting.filters(np.ones((3, 3))), ValueError, "filters: expected four axes"),
        (
            lambda: plotting.filters(np.ones((3, 3, 2, 2)), channel=2),
            ValueError,
            "channel: expected an integer below",
        ),
        (lambda: plotting.feature_maps(np.ones((2, 4, 4, 3))), ValueError, "maps: expected .* of one picture"),
        (lambda: plotting.feature_maps(np.ones((4, 4, 3)), one_scale=1), TypeError, "one_scale: expected True or"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
    assert plt.get_fignums() == []
