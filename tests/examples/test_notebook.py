"""The notebook runs from top to bottom in the folder of a demo."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from support.workspaces import lay_out_demo

NOTEBOOK = Path(__file__).parents[2] / "examples" / "paint_while_training.ipynb"


def test_the_notebook_is_kept_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_notebook_runs(workspace, phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("TUMORGEN_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    lay_out_demo(workspace, phantoms, tmp_path)  # its method needs no training
    names = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        needs = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and all(importlib.util.find_spec(package) for package in needs):
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    said = capsys.readouterr().out
    counts = [int(count) for found in re.findall(r"tumor voxels: \[(.*)\]", said) for count in found.split(", ")]
    assert 0 < sum(count > 0 for count in counts[:8]) < 8  # of eight samples, about half are painted
    assert said.count("loss ") == 4
    assert names["sample"]["label"].any()
