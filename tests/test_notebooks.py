"""The notebooks run from top to bottom, and what they are kept with is what such a run leaves.

They are executed with ``GPUCONV_QUICK=1``, which makes their grids smaller and their trainings shorter, in a folder
that goes away afterwards.
"""

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# What a run leaves behind on one machine and is nobody else's business: home folders, temporary ones, installations.
MACHINE_PATH = re.compile(r"(/home/|/Users/|/root/|/tmp/|/work/|/usr/|site-packages|[A-Z]:\\)")

RECORDED = {
    "machine": {"processor": "made up", "caches": {"L1": "32K"}},
    "versions": {"gpuconv": "0", "the other library": "1"},
    "rows": [
        {
            "section": "layers", "work": "3 x 3", "threads": threads, "library": library,
            "median_seconds": seconds, "flops": flops,
        }
        for threads, library, seconds, flops in (
            (1, "gpuconv", 0.002, 1e9), (1, "the other library", 0.005, 1e9), (1, "a third", None, None),
            (2, "gpuconv", 0.001, None), (2, "a third", 0.0005, None), (2, "the other library", 0.001, None),
        )
    ],
}  # fmt: skip


def execute(notebook, folder, monkeypatch):
    """Run all cells in `folder`, in a kernel that knows neither the settings of this user nor another's results."""
    monkeypatch.setenv("GPUCONV_QUICK", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(folder.parent / name.lower()))
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook


def texts(notebook):
    """Everything that the cells have printed or returned as text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield output.get("text", "")
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield content


def pictures(notebook):
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def test_both_notebooks_are_here():
    assert [path.stem for path in NOTEBOOKS] == ["benchmarks", "lecture"]


def test_the_lecture_runs(folder, monkeypatch):
    notebook = execute(read(FOLDER / "lecture.ipynb"), folder, monkeypatch)
    assert pictures(notebook) == pictures(read(FOLDER / "lecture.ipynb"))
    assert "122,570" in "".join(texts(notebook))
    assert not list(folder.iterdir())


def test_the_benchmarks_run_and_show_what_was_recorded(folder, monkeypatch):
    results = folder.parent / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "cpu.json").write_text(json.dumps(RECORDED))
    notebook = execute(read(FOLDER / "benchmarks.ipynb"), folder, monkeypatch)
    text = "".join(texts(notebook))
    # Milliseconds, and the multiple of the library's own time.
    assert "processor made up, caches (L1 32K)" in text
    assert "| 3 x 3 | 1 | 2 | 5 (2.50) |  |" in text
    assert "| 3 x 3 | 2 | 1 | 1 (1.00) | 0.5 (0.50) |" in text
    assert pictures(notebook) == 4


def test_a_cell_that_fails_fails_the_run(folder, monkeypatch):
    cell = nbformat.v4.new_code_cell("assert 1 + 1 == 3")
    with pytest.raises(CellExecutionError, match="AssertionError"):
        execute(nbformat.v4.new_notebook(cells=[cell]), folder, monkeypatch)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_kept_outputs_are_those_of_one_run(path):
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert pictures(notebook) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_kept_file_names_no_machine(path):
    notebook = read(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not [cell.metadata for cell in notebook.cells if cell.metadata]
    kept = [*texts(notebook), *(cell.source for cell in notebook.cells)]
    assert not [found for text in kept for found in MACHINE_PATH.findall(text)]
    assert not [text for text in kept if sys.prefix in text or os.getcwd() in text]
    assert path.stat().st_size < 2_000_000
