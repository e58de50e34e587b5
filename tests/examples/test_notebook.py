"""The notebooks run from top to bottom."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from support.workspaces import lay_out_demo

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run_cells(notebook):
    """Run the code of a notebook whose packages are installed; return its names."""
    names = {}
    for cell in json.loads((EXAMPLES / notebook).read_text())["cells"]:
        needs = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and all(importlib.util.find_spec(package) for package in needs):
            exec(compile("".join(cell["source"]), notebook, "exec"), names)
    return names


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("TUMORGEN_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(notebook):
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), notebook.name, "exec")


@pytest.mark.slow
@pytest.mark.filterwarnings("default::UserWarning")  # the quick demo's training is short, and tumorgen says so
def test_the_demo_runs_in_a_notebook(empty_folder, capsys):
    names = run_cells("demo.ipynb")
    said = capsys.readouterr().out
    assert "8 pairs in" in said
    assert re.search(r"^done +synthesize tumorgen_healthy +8 pairs", said, re.MULTILINE)
    assert "agreement DSC" in said
    assert names["mask"].any()
    assert 0 < names["changed"].sum() < names["changed"].size / 2
    assert not names["changed"][~names["mask"]].all()
    assert names["tumor"].any()
    assert Path(names["scores"].page).is_file()


@pytest.mark.slow
def test_painting_while_a_network_trains_runs_in_a_notebook(workspace, phantoms, empty_folder, capsys):
    lay_out_demo(workspace, phantoms, empty_folder)  # its method needs no training
    names = run_cells("paint_while_training.ipynb")
    said = capsys.readouterr().out
    counts = [int(count) for found in re.findall(r"tumor voxels: \[(.*)\]", said) for count in found.split(", ")]
    assert 0 < sum(count > 0 for count in counts[:8]) < 8  # of eight samples, about half are painted
    assert said.count("loss ") == 4
    assert names["sample"]["label"].any()
