"""The notebook runs from its first cell to its last, and is shipped without outputs."""

from pathlib import Path

import pytest

from tests.bucket_fixtures import copy_to, gs_bucket

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "pixelbert_colab.ipynb"


def test_another_image_needs_one_cell_only():
    """All that is said of an image is said where its path is."""
    nbformat = pytest.importorskip("nbformat")
    cells = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    (named,) = [number for number, source in enumerate(cells) if 'IMAGE = ""' in source]
    for source in cells[named + 1 :]:
        assert "scene" not in source and "caption" not in source


def test_a_checkpoint_in_a_bucket_is_loaded(saved_run, monkeypatch):
    """The same cell, with gs:// for the path of the run; it shows how to sign in."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    install, load = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    assert "auth.authenticate_user()" in load.source
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.delenv("JAX_NUMPY_RANK_PROMOTION", raising=False)
    with gs_bucket() as bucket:
        load.source = load.source.replace("runs/quickstart", copy_to(f"{bucket}/run", saved_run))
        notebook.cells = [install, load]
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for output in load.outputs if output.get("name") == "stdout")
    assert printed.startswith("gs://bucket/run/checkpoints/0, step 0\ntask pretraining: it can match")


def test_the_notebook_runs(saved_run, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    (named,) = [cell for cell in cells if 'CHECKPOINT = "runs/quickstart"' in cell.source]
    named.source = named.source.replace("runs/quickstart", str(saved_run))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    monkeypatch.delenv("JAX_NUMPY_RANK_PROMOTION", raising=False)  # as a user has it
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = ["".join(o.get("text", "") for o in cell.outputs) for cell in cells]
    drawn = sum("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs)
    assert drawn == 2
    assert "step 0\ntask pretraining: it can match, rank, fill_mask" in printed[1]
    assert "2 layers of width 32" in printed[1]
    assert printed[3].count("\n") == 3 and "[MASK]" in printed[4] and "right:" in printed[4]
    assert printed[5] == ""
    assert "pixels      float32   (1, 36, 32)" in printed[7]
    # The probability from the arrays is the predictor's.
    assert float(printed[7].split()[-1]) == pytest.approx(float(printed[3].split()[0]), abs=6e-4)
