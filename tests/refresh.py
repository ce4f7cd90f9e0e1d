"""Execute notebooks and store their outputs in one normal form: python -m tests.refresh [01 05 ...]

Counts run 1…n, no timings, no version of whoever ran it; cell ids stay. Nothing is written when a cell fails.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from .notebooks import NOTEBOOKS


def normalise(notebook) -> None:
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output["metadata"] = {key: value for key, value in output["metadata"].items() if key == "image/png"}


def refresh(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.nbformat_minor = 5
    normalise(notebook)
    nbformat.validate(notebook)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        nbformat.write(notebook, file)
    os.replace(file.name, path)
    os.chmod(path, 0o644)
    print("executed", path.name)


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for path in NOTEBOOKS:
        if not wanted or path.name[:2] in wanted:
            refresh(path)
