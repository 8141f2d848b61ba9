"""docs/notebook.ipynb, as a user runs it."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_notebook_trains_compares_and_predicts(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(list((tmp_path / "logs" / "train" / "runs").iterdir())) == 6
    answer = next(cell for cell in notebook.cells if "predictor(" in cell.source).outputs[-1]["data"]["text/plain"]
    assert answer.startswith("([") and "'Business':" in answer


def test_the_notebook_is_kept_without_what_it_printed() -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
