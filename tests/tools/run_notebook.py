"""Runs launch/colab.ipynb from start to end; with --save it keeps the outputs.

    python tests/tools/run_notebook.py [--save]

Prints the seconds that it took. With LM2_LLAMA set to a folder, the cell of the Llama runs too.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "launch" / "colab.ipynb"
DIGEST = "sources_sha256"  # key of the notebook's metadata


def digest(notebook: dict) -> str:
    """SHA-256 (hex) of the sources of all cells, of which the outputs are."""
    sources = [[cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def run(path: Path, save: bool = False) -> dict:
    """Runs a notebook in a new kernel; returns it with its outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell has raised an error.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(  # with its timing recorded, the file would differ each time
        notebook, timeout=1200, kernel_name="python3", record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}}).execute()
    notebook.metadata[DIGEST] = digest(notebook)
    notebook.metadata["language_info"] = {"name": "python"}
    if save:
        nbformat.write(notebook, path)
    return notebook


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    begun = time.perf_counter()
    run(NOTEBOOK, parser.parse_args().save)
    print(f"{time.perf_counter() - begun:.0f} s")
