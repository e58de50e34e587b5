"""The whole chain through a real SLURM of one node, which the test starts: what came is what one process makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.faults import steady
from support.slurm import Slurm, missing_for_slurm, wait_for
from support.workspaces import TOY

from tumorgen_cli.data.phantom import write_phantoms

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing_for_slurm()), reason=missing_for_slurm())]
PAIRS, SHARDS = 8, 4


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    found = Slurm(tmp_path / "slurm")
    found.start()
    monkeypatch.setenv("SLURM_CONF", str(found.file))
    yield found
    found.stop()


@pytest.fixture
def call(tmp_path):
    """Run a command in a process of its own, as a user does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "nnUNet_raw": "", "nnUNet_preprocessed": ""}

    def run(*words):
        command = [sys.executable, "-m", "tumorgen_cli.cli", *map(str, words), "-w", str(tmp_path / "work")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def contents(folder: Path) -> dict[str, object]:
    """Every image and label by its bytes, and the provenance of every pair without what took time."""
    found: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("imagesTr", "labelsTr")
        for path in sorted((folder / part).iterdir())
    }
    records = [json.loads(line) for line in (folder / "provenance.jsonl").read_text().splitlines()]
    return {**found, "provenance": steady(records)}


def test_a_requeued_task_a_canceled_one_and_a_restarted_controller(slurm, call, tmp_path):
    phantoms = write_phantoms(tmp_path / "data", cases=6, healthy=2, seed=7, small=True)
    settings = [word for setting in TOY for word in ("--set", setting)]
    call("plan", phantoms.dataset, "--memory", 8, "--workers", 0, "--device", "cpu", *settings)
    stages = "preprocess,train,synthesize,filter,merge,downstream"
    judge = ("--judge", "bundled", "--keep", 0, "--p-alone")  # networks of a few steps: whatever they paint passes
    chain = ("--healthy", phantoms.healthy, "-n", PAIRS, "--shards", SHARDS, "--stages", stages, *judge)
    chain += ("--merged", "Dataset700_Merged")
    call("submit", *chain, "--write-only")
    folder = tmp_path / "work" / "submit"
    cluster = folder / "cluster.yaml"
    cluster.write_text(cluster.read_text().replace("sbatch: []", "sbatch: [--cpus-per-task=1, --mem=1500M]"))
    call("submit", "--write-only")
    script = folder / "downstream.sh"  # as a lab edits it: nnU-Nets of seconds
    short = "tumorgen downstream --fractions 1 --seeds 1 --minutes 0.02"
    script.write_text(script.read_text().replace("tumorgen downstream", short))
    assert "running" in call("submit") or "waiting" in call("status")

    def task(number: int) -> str:
        return json.loads((folder / "chain.json").read_text())["tasks"]["synthesize"][str(number)]

    def finished(job: str) -> int:
        return len([*(folder / "done").glob(f"{job}_*")])

    wait_for(lambda: slurm.queue().get(task(1)) == "RUNNING", 600)
    slurm.control("requeue", task(1))
    slurm.cancel(task(SHARDS))
    slurm.restart_controller()
    slurm.control("update", f"JobId={task(1)}", "StartTime=now")  # SLURM waits two minutes before it starts it again
    wait_for(lambda: not {*slurm.queue()} & {task(number) for number in range(1, SHARDS + 1)}, 600)
    wait_for(lambda: finished("synthesize") == SHARDS - 1, 10)
    told = call("status")
    assert re.search(r"job synthesize .*1 stopped", told), told
    assert "Restarts=1" in slurm.control("show", "job", task(1))
    assert finished("filter") == 0
    call("submit")
    wait_for(lambda: not slurm.queue(), 1200)
    wait_for(lambda: finished("downstream") == 1, 10)
    steps = json.loads(call("status", "--json"))
    jobs = {step["name"]: (step["state"], step["detail"]) for step in steps if step["name"].startswith("job ")}
    assert {state for state, _ in jobs.values()} == {"done"}, jobs

    work = tmp_path / "work"
    call("synthesize", "--healthy", phantoms.healthy, "-n", PAIRS, "--out", tmp_path / "one")
    call("filter", tmp_path / "one", *judge, "--out", tmp_path / "one_kept")
    assert contents(work / "synthetic" / "tumorgen_healthy") == contents(tmp_path / "one")
    assert contents(work / "synthetic" / "tumorgen_healthy_kept") == contents(tmp_path / "one_kept")
    assert [*work.rglob("Dataset700_Merged/dataset.json")]
