from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LONG = {"choose_an_operator", "faster_neural_odes", "first_operator", "pinn_in_ten_minutes", "train_a_stepper"}


@pytest.mark.smoke
@pytest.mark.filterwarnings("default")  # the Jupyter client's own
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG))
        for path in sorted(NOTEBOOKS.glob("*.ipynb"))
    ],
)
def test_notebook_runs_from_top_to_bottom_and_draws(path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel chooses its own, which draws into the notebook
    monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
    if path.stem == "pinn_in_ten_minutes":  # its linear algebra takes longer than its compilation
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
