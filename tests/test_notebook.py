"""The notebook is kept without outputs, runs from beginning to end, and shows what its text says."""

import re
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra 'test'")
nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parent.parent / "examples" / "five_minutes.ipynb"


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_its_links_are_there() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    links = [link for cell in notebook.cells for link in re.findall(r"\]\((.+?)\)", cell.source)]
    assert links
    assert all((NOTEBOOK.parent / link).exists() for link in links)


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside other tests, threads that wait for one another are slow
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    before, after = map(int, re.findall(r"(\d+)% before, (\d+)% after", said)[0])
    assert after >= max(before, 50) + 15, "it learns; 50 % are chance"
    assert not list(tmp_path.glob("tmp*/train")), "the data is removed"
