"""Grid search: every network against one trained by hand, the same for any number of jobs, and what diverges."""

import random
import subprocess
import sys
import warnings
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from numba.core.errors import NumbaPerformanceWarning

from gpuconv import callbacks, layers, models, optimizers, regularizers, utils
from gpuconv.model_selection import GridSearch, grid_search

GRID = {"eta": np.array([0.01, 0.3]), "lmbd": [0.0, 1e-3, 0.1]}


def create_model(eta, lmbd):
    model = models.Sequential()
    model.add(layers.Conv2D(2, 3, activation="relu", input_shape=(6, 6, 1), kernel_regularizer=regularizers.l2(lmbd)))
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.25))
    model.add(layers.Dense(3, activation="softmax"))
    model.compile(optimizers.SGD(eta), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def create_line(eta):
    """A line through the origin, which knows its input only when it sees it."""
    model = models.Sequential([layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(optimizers.SGD(eta), "mse")
    return model


def make_data(seed, count):
    """Which third of the picture is brightest?"""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    x = generator.normal(0, 1, (count, 6, 6, 1))
    for picture, label in zip(x, labels, strict=True):
        picture[2 * label : 2 * label + 2] += 1
    return x, labels


DATA, VALIDATION = make_data(0, 60), make_data(1, 30)
LINE = np.array([[-1.0], [1.0]]), np.array([[-2.0], [2.0]])


def search(**settings):
    settings = {"keep": "all", "seed": 3, "progress": False, "epochs": 3, "batch_size": 20, **settings}
    return grid_search(create_model, GRID, *DATA, VALIDATION, **settings)


def line(parameters, **settings):
    return grid_search(create_line, {"eta": parameters}, *LINE, **{"seed": 0, "progress": False, **settings})


@pytest.fixture(scope="module")
def one_by_one():
    return search()


def assert_same(ours, theirs):
    """Bitwise the same, but for the time."""
    assert ours.values.keys() == theirs.values.keys()
    for name, values in ours.values.items():
        np.testing.assert_array_equal(values, theirs.values[name])
    assert ours.histories.tolist() == theirs.histories.tolist()
    assert (ours.best_index, ours.best_value, ours.seed) == (theirs.best_index, theirs.best_value, theirs.seed)
    for mine, yours in zip(ours.models.flat, theirs.models.flat, strict=True):
        for a, b in zip(mine.get_weights(), yours.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_comes_back(one_by_one):
    assert one_by_one.shape == (2, 3)
    assert one_by_one.parameters == {"eta": [0.01, 0.3], "lmbd": [0.0, 1e-3, 0.1]}
    assert set(one_by_one.values) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert one_by_one.monitor == "val_accuracy"
    accuracies = one_by_one.values["val_accuracy"]
    assert one_by_one.best_value == accuracies.max()
    assert one_by_one.best_index == np.unravel_index(accuracies.argmax(), (2, 3))
    assert one_by_one.best_parameters == one_by_one.parameters_at(*one_by_one.best_index)
    assert one_by_one.best_model is one_by_one.models[one_by_one.best_index]
    assert (one_by_one.seconds > 0).all()
    for place in np.ndindex(2, 3):
        history = one_by_one.histories[place]
        assert {name: len(values) for name, values in history.items()} == {"loss": 3, "accuracy": 3}
        # The values are those of the trained networks, which are kept.
        for prefix, data in (("", DATA), ("val_", VALIDATION)):
            found = one_by_one.models[place].evaluate(*data, 20, verbose=0, return_dict=True)
            assert found == {name: one_by_one.values[prefix + name][place] for name in ("loss", "accuracy")}
    assert "best val_accuracy" in repr(one_by_one)


def test_every_network_is_the_one_that_its_seed_gives(one_by_one):
    seeds = set()
    for place in np.ndindex(2, 3):
        seed = int(np.random.SeedSequence(3, spawn_key=place).generate_state(1)[0])
        seeds.add(seed)
        utils.set_random_seed(seed)
        model = create_model(**one_by_one.parameters_at(*place))
        history = model.fit(*DATA, batch_size=20, epochs=3, verbose=0)
        assert history.history == one_by_one.histories[place]
        for ours, theirs in zip(one_by_one.models[place].get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert len(seeds) == 6


@pytest.mark.parametrize("settings", [{"n_jobs": 2}, {"n_jobs": 2, "backend": "threading"}, {"backend": "sequential"}])
def test_results_do_not_depend_on_the_number_of_jobs(one_by_one, settings):
    assert_same(search(**settings), one_by_one)


def test_jobs_as_joblib_says(one_by_one):
    with joblib.parallel_config("threading", n_jobs=2):
        assert_same(search(n_jobs=None), one_by_one)


def test_a_backend_that_returns_all_at_the_end(one_by_one):
    from joblib.parallel import ThreadingBackend, parallel_config

    class AtTheEnd(ThreadingBackend):
        supports_return_generator = False

    with parallel_config(AtTheEnd(), n_jobs=2):
        assert_same(search(n_jobs=None), one_by_one)


def test_a_corner_of_the_grid_gives_the_corner_of_the_results(one_by_one):
    corner = grid_search(
        create_model, {"eta": [0.01], "lmbd": [0.0, 1e-3]}, *DATA, VALIDATION,
        seed=3, epochs=3, batch_size=20, progress=False,
    )  # fmt: skip
    for name, values in corner.values.items():
        np.testing.assert_array_equal(values, one_by_one.values[name][:1, :2])


def test_seeds():
    first, second = search(seed=1), search(seed=2)
    assert (first.values["loss"] != second.values["loss"]).all()
    # Without one: from the sequence that set_random_seed starts.
    utils.set_random_seed(7)
    first, second = search(seed=None), search(seed=None)
    assert first.seed != second.seed
    utils.set_random_seed(7)
    assert_same(search(seed=None), first)
    assert_same(search(seed=first.seed), first)


@pytest.mark.parametrize("settings", [{}, {"n_jobs": 2, "backend": "threading"}])
def test_the_callers_random_state_is_left_alone(settings):
    def draw():
        weights = layers.Dense(3, input_shape=(2,))
        models.Sequential([weights])
        return random.random(), np.random.random(), weights.get_weights()[0].tolist()  # noqa: NPY002

    utils.set_random_seed(5)
    expected = draw()
    utils.set_random_seed(5)
    line([0.1, 0.2], **settings)
    assert draw() == expected


# ------------------------------------------------------------------ divergence


@pytest.mark.parametrize("settings", [{}, {"n_jobs": 2, "backend": "threading"}])
def test_the_search_goes_on_when_networks_diverge(settings):
    found = line([1e30, 0.25, 1e3, 0.1], epochs=20, keep="all", **settings)
    # The second moves to the slope 2 by halves: 2 eta is the share of the way in a step.
    assert not np.isfinite(found.values["loss"][0])
    assert not found.values["loss"][2] < 1
    assert found.values["loss"][1] == pytest.approx(4 * 0.25**20, rel=1e-4)
    assert found.best_index == (1,)
    assert found.best_parameters == {"eta": 0.25}
    assert not np.isfinite(found.models[0].get_weights()[0]).all()


def test_a_diverging_network_of_the_digits_kind():
    found = grid_search(
        create_model, {"eta": [1e10], "lmbd": [10.0]}, *DATA, VALIDATION, epochs=3, seed=0, progress=False, keep="all"
    )
    assert np.isnan(found.values["loss"]).all()
    expected = found.models[0, 0].evaluate(*VALIDATION, verbose=0)[1]
    assert found.values["val_accuracy"][0, 0] == expected


def test_warnings_of_arithmetic_do_not_stop_it():
    def warn(eta):
        warnings.warn("too small a grid", NumbaPerformanceWarning, stacklevel=1)
        np.float64(1e308) * np.float64(1e308)
        np.array([1.0]) / np.array([0.0])
        return create_line(eta)

    def create(eta):
        calls.append(eta)
        # The first call is the check that comes before all training.
        return create_line(eta) if len(calls) == 1 or eta == 0.2 else warn(eta)

    calls = []
    found = grid_search(create, {"eta": [0.1, 0.2]}, *LINE, seed=0, keep="none", progress=False)
    assert np.isfinite(found.values["loss"]).all()


def test_nothing_is_best_if_all_is_nan():
    found = line([1e30, 1e25], epochs=20)
    assert found.best_index is found.best_parameters is found.best_model is None
    assert np.isnan(found.best_value)
    assert found.models.tolist() == [None, None]
    assert "best" not in found.table()


# ------------------------------------------------------------------ what is kept, what is best


def test_what_is_kept(one_by_one):
    best = search(keep="best")
    kept = [place for place in np.ndindex(2, 3) if best.models[place] is not None]
    assert kept == [one_by_one.best_index]
    for ours, theirs in zip(best.best_model.get_weights(), one_by_one.best_model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    none = search(keep="none")
    assert none.best_model is None
    assert none.best_index == one_by_one.best_index
    assert (none.models == None).all()  # noqa: E711 - element by element


def test_what_is_best():
    # Of equals the first, and the smallest loss.
    found = line([0.1, 0.5, 0.5, 0.2], keep="all")
    assert found.monitor == "loss"
    assert found.best_index == (1,)
    assert found.best_value == found.values["loss"].min() == 0
    found = line([0.1, 0.5], validation_data=LINE)
    assert found.monitor == "val_loss"
    assert search(monitor="loss").best_index == np.unravel_index(search().values["loss"].argmin(), (2, 3))
    assert search(monitor="accuracy").best_value == search().values["accuracy"].max()


@pytest.mark.parametrize("keep", ["best", "all"])
def test_the_order_in_which_trainings_end_does_not_matter(keep):
    losses = [3.0, 1.0, np.nan, 1.0, 2.0]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 3, 0, 4, 1]):
        found = GridSearch({"eta": list(range(5))}, "loss", 0)
        for i in order:
            outcome = {"values": {"loss": losses[i]}, "history": {}, "seconds": 1.0, "weights": i}
            found._take((i,), outcome, lambda parameters, weights: (parameters["eta"], weights), keep)
        assert (found.best_index, found.best_value) == ((1,), 1.0)
        np.testing.assert_array_equal(found.values["loss"], losses)
        kept = [(i, i) if keep == "all" or i == 1 else None for i in range(5)]
        assert found.models.tolist() == kept


def test_rows_and_table(one_by_one):
    rows = one_by_one.rows()
    assert [(row["eta"], row["lmbd"]) for row in rows] == [(e, m) for e in (0.01, 0.3) for m in (0.0, 1e-3, 0.1)]
    assert list(rows[0]) == ["eta", "lmbd", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert [row["val_loss"] for row in rows] == one_by_one.values["val_loss"].ravel().tolist()
    lines = one_by_one.table().splitlines()
    assert lines[0].split() == list(rows[0])
    assert len(lines) == 7
    (best,) = [number for number, text in enumerate(lines) if text.endswith("  best")]
    assert np.unravel_index(best - 1, (2, 3)) == one_by_one.best_index


def test_values_of_parameters_may_be_anything():
    def create(optimizer, layer):
        model = models.Sequential([layer(), layers.Dense(1)])
        model.compile(optimizer, "mse")
        return model

    grid = {"optimizer": ("sgd", "adam"), "layer": [layers.Flatten, lambda: layers.Dropout(0.5)]}
    found = grid_search(create, grid, *LINE, seed=0, progress=False)
    assert found.values["loss"].shape == (2, 2)
    assert "adam" in found.table()


def test_callbacks_are_new_for_every_network():
    made = []

    def create_callbacks():
        made.append(callbacks.EarlyStopping(patience=1, monitor="val_loss"))
        return made[-1:]

    found = line([1e-9, 0.5, 0.75], epochs=30, validation_data=LINE, create_callbacks=create_callbacks)
    assert len(made) == 3
    assert len({id(callback.model) for callback in made}) == 3
    lengths = [len(history["val_loss"]) for history in found.histories]
    assert lengths[1] < 30


def test_progress_bar(capsys):
    line([0.1, 0.2], progress=True)
    captured = capsys.readouterr()
    assert "2/2" in captured.err
    assert "best loss" in captured.err
    line([0.1, 0.2])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


# ------------------------------------------------------------------ refusals


def test_joblib_is_needed_for_several_jobs_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    assert line([0.5]).best_value == 0
    for settings in ({"n_jobs": 2}, {"n_jobs": None}, {"backend": "loky"}):
        with pytest.raises(ImportError, match=r"^n_jobs: expected joblib .*pip install 'gpuconv\[parallel\]'"):
            line([0.5], **settings)


def test_importing_imports_neither_joblib_nor_tqdm():
    script = "import sys, gpuconv.model_selection; assert not {'joblib', 'matplotlib', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"create_model": 3}, TypeError, "create_model: expected a function, received 3"),
        ({"create_model": lambda eta: None}, TypeError, "create_model: expected a compiled Sequential"),
        ({"create_model": lambda eta: models.Sequential()}, TypeError, "create_model: expected a compiled"),
        ({"parameters": [1]}, TypeError, "parameters: expected a dict"),
        ({"parameters": {}}, TypeError, "parameters: expected a dict"),
        ({"parameters": {1: [2]}}, TypeError, "parameters: expected names"),
        ({"parameters": {"eta": 0.1}}, TypeError, "parameters: expected a list of values for 'eta'"),
        ({"parameters": {"eta": "ab"}}, TypeError, "parameters: expected a list of values for 'eta'"),
        ({"parameters": {"eta": []}}, ValueError, "parameters: expected at least one value for 'eta'"),
        ({"parameters": {"eta": np.ones((2, 2))}}, ValueError, "parameters: expected one axis of values"),
        ({"validation_data": 3}, ValueError, "validation_data: expected a tuple"),
        ({"batch_size": 0}, ValueError, "batch_size: expected an integer >= 1"),
        ({"epochs": 1.5}, TypeError, "epochs: expected an integer >= 1"),
        ({"create_callbacks": []}, TypeError, "create_callbacks: expected a function"),
        ({"monitor": "accuracy"}, ValueError, "monitor: expected one of 'loss', received 'accuracy'"),
        ({"monitor": "val_loss"}, ValueError, "monitor: expected one of 'loss'"),
        ({"keep": "some"}, ValueError, "keep: expected one of"),
        ({"seed": -1}, ValueError, "seed: expected an integer >= 0"),
        ({"n_jobs": 0}, ValueError, "n_jobs: expected a positive number"),
        ({"n_jobs": 1.0}, TypeError, "n_jobs: expected an integer or None"),
        ({"progress": 1}, TypeError, "progress: expected True or False"),
        ({"x": []}, ValueError, "x: expected at least one sample"),
    ],
)
def test_refusals_come_before_any_training(settings, error, message, monkeypatch):
    monkeypatch.setattr(models.Sequential, "fit", lambda *_, **__: pytest.fail("trained"))
    x, y = LINE
    given = SimpleNamespace(create_model=create_line, parameters={"eta": [0.1]}, x=x, y=y)
    with pytest.raises(error, match=f"^{message}"):
        grid_search(**{**vars(given), "progress": False, **settings})


def test_an_error_in_one_network_reaches_the_caller():
    with pytest.raises(ValueError, match="learning_rate"):
        line([0.1, -1.0])
    with pytest.raises(ValueError, match="y: expected"):
        grid_search(create_line, {"eta": [0.1]}, LINE[0], [[1.0]], progress=False)
