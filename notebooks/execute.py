"""Run the notebooks of this folder and keep what they print and draw.

Nothing of the machine is kept beside that: no times of cells, no version of Python.

    python notebooks/execute.py
    python notebooks/execute.py benchmarks
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(path):
    """Run one notebook from top to bottom in a new kernel, and write it back if no cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    )  # fmt: skip
    client.execute()
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="such as lecture, default: all")
    arguments = parser.parse_args()
    for path in [FOLDER / f"{name}.ipynb" for name in arguments.names] or sorted(FOLDER.glob("*.ipynb")):
        print(path.name, flush=True)
        execute(path)


if __name__ == "__main__":
    main()
