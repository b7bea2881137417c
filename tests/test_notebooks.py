"""Every notebook runs from top to bottom, and is stored without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FAST = ("quickstart",)


def test_notebooks_exist_and_carry_no_outputs():
    assert "quickstart" in [p.stem for p in NOTEBOOKS]
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), f"{path.name}: strip the outputs"
            assert cell.get("execution_count") is None, f"{path.name}: strip the counts"


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[] if p.stem in FAST else pytest.mark.slow)
     for p in NOTEBOOKS],
)  # fmt: skip
def test_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JAX_PLATFORMS", os.environ.get("JAX_PLATFORMS", "cpu"))
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    # A picture or a table was shown, not only text.
    kinds = [k for c in notebook.cells for o in c.get("outputs", []) for k in o.get("data", {})]
    assert "text/html" in kinds
