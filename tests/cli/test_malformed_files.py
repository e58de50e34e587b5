"""Every JSON file of a workspace, replaced by something else: one clear error, never a traceback."""

import shutil

import pytest
from support.command_line import call

from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training.stage import StageRun

TEXTS = ("[]", "3", "null", "{}", '{"a": ', "[[1]]", '{"plan": 3, "cases": 3, "weights": [1], "step": "x"}')
#: files that count as missing or outdated where they cannot be read: the next command makes them again
MADE_AGAIN = ("cases/Phantom_000/case.json", "judge/judge.json")


@pytest.fixture(scope="module")
def place(workspace, phantoms, tmp_path_factory):
    """A workspace with a set of one pair, and records of trainings that never ran."""
    work = tmp_path_factory.mktemp("malformed") / "work"
    shutil.copytree(workspace.root, work)
    hosts = ("--healthy", phantoms.healthy, "-n", 1, "--method", "syntumor", "--box", "10,10,10,24,24,22")
    call("synthesize", *hosts, "--out", work / "synthetic" / "s", "--device", "cpu", "-w", work)
    method = find_method("tumorgen")(Workspace(work).plan(), Workspace(work))
    run = StageRun("vae", method.inputs_hash("vae"), 4, 4, 1.0, "cpu", 1, 1.0, "x")
    write_json(method.folder("vae") / "run.json", run)
    progress = {"inputs_hash": "x", "step": 1, "iterations": 4, "seconds": 1.0}
    write_json(method.folder("flow") / "progress.json", progress)
    write_json(work / "evaluation" / "s" / "scores.json", {"set_hash": "x"})
    write_json(work / "judge" / "judge.json", {})
    return work


@pytest.mark.parametrize(
    ("file", "commands"),
    [
        ("plan.json", ("status", "merge", "preprocess")),
        ("fingerprint.json", ("status", "preprocess")),
        ("splits.json", ("status", "preprocess")),
        ("cases/Phantom_000/case.json", ("status",)),
        ("runs/tumorgen/vae/run.json", ("status",)),
        ("runs/tumorgen/flow/progress.json", ("status",)),
        ("synthetic/s/set.json", ("status", "merge")),
        ("synthetic/s/dataset.json", ("merge", "evaluate")),
        ("synthetic/s/held_out.json", ("merge",)),
        ("synthetic/s/provenance.jsonl", ("status", "merge", "evaluate")),
        ("evaluation/s/scores.json", ("status",)),
        ("judge/judge.json", ("status",)),
    ],
)
def test_a_malformed_file_is_one_clear_error(place, phantoms, tmp_path, file, commands):
    out = ("--out", tmp_path / "Dataset601_Merged")
    words = {
        "status": ("status", "-w", place),
        "preprocess": ("preprocess", "-w", place, "--workers", 0),
        "merge": ("merge", phantoms.dataset, "s", *out, "-w", place),
        "evaluate": ("evaluate", "s", "-w", place, "--features", "filters", "--device", "cpu"),
    }
    good = (place / file).read_bytes()
    refused = 0
    for command in commands:
        for text in TEXTS:
            (place / file).write_text(text)
            result = call(*words[command], code=None)  # checks that there is no traceback
            (place / file).write_bytes(good)
            refused += result.exit_code == 1
            assert result.exit_code == 0 or "remedy:" in result.stderr
            shutil.rmtree(tmp_path / "Dataset601_Merged", ignore_errors=True)
    assert refused == 0 if file in MADE_AGAIN else refused >= len(TEXTS) - 2
