"""Everything end to end on small phantoms, and that doing it again does nothing."""

import json
import re

import pytest
from support.workspaces import TOY

from tumorgen_cli.pipeline import evaluate, synthesize
from tumorgen_cli.pipeline import run as run_module
from tumorgen_cli.pipeline.status import workspace_status
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, SetOptions


def snapshot(root):
    """Content of every file of the workspace; what says how long something took is left out."""
    return {
        str(p.relative_to(root)): p.stat().st_mtime_ns
        for p in sorted(root.rglob("*"))
        if p.is_file()
        and p.name not in (".lock", "commands.jsonl")
        and "evaluation" not in p.parts
        and p.parent != root
    }


@pytest.mark.slow
def test_run_all_and_again(phantoms, tmp_path):
    workspace = Workspace(tmp_path / "work")

    def run():
        return run_module.run_all(
            workspace,
            str(phantoms.dataset),
            HostOptions(phantoms.healthy),
            SetOptions(4, seed=1),
            PlanOptions(memory_gib=8.0, settings=TOY, seed=1),
            device="cpu",
        )

    first = run()
    assert first.pairs.tally.pairs == first.pairs.tally.made == 4
    (scores,) = first.scores
    rows = dict(scores.rows)
    assert any(name.startswith("frechet distance (lite0)") for name in rows)
    page = (workspace.evaluation("tumorgen_healthy") / "report.html").read_text()
    assert scores.page == str(workspace.evaluation("tumorgen_healthy") / "report.html")
    assert page.count("data:image") >= 3
    assert not re.search(r'(src|href)="http', page)
    assert {(s.name, s.state) for s in workspace_status(workspace)} >= {
        ("plan", "done"),
        ("preprocess", "done"),
        ("train vae", "done"),
        ("train flow", "done"),
        ("train refiner", "done"),
        ("synthesize tumorgen_healthy", "done"),
        ("evaluate tumorgen_healthy", "done"),
    }
    assert all(s.state == "done" for s in workspace_status(workspace))

    before, plan = snapshot(workspace.root), workspace.plan().hash
    numbers = json.loads((workspace.evaluation("tumorgen_healthy") / "scores.json").read_text())
    again = run()
    written_again = {f"synthetic/tumorgen_healthy/{name}" for name in ("dataset.json", "held_out.json")}
    after = snapshot(workspace.root)
    assert {k: v for k, v in after.items() if k not in written_again} == {
        k: v for k, v in before.items() if k not in written_again
    }
    assert workspace.plan().hash == plan
    assert again.pairs.tally.made == 0
    assert again.pairs.tally.pairs == 4
    assert again.scores[0].rows == first.scores[0].rows
    assert json.loads((workspace.evaluation("tumorgen_healthy") / "scores.json").read_text()) == numbers


@pytest.mark.slow
@pytest.mark.parametrize("method", ["copypaste", "syntumor"])
def test_other_methods_go_through_the_same_harness(workspace, phantoms, tmp_path, method):
    made = SetOptions(4, tmp_path / method)
    report = synthesize.synthesize_pairs(workspace, method, made, HostOptions(phantoms.healthy), device="cpu")
    (scores,) = evaluate.evaluate_sets(workspace, [tmp_path / method], device="cpu")
    assert report.tally.pairs == 4
    assert scores.name == method
