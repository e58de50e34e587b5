"""A workspace to change, and nnU-Nets that are trained at once."""

import shutil

import pytest

from tumorgen_cli.evaluation.gains import TrainedNnunet
from tumorgen_cli.metrics.lesions import LesionScore
from tumorgen_cli.metrics.overlap import Verdict
from tumorgen_cli.nnunet.job import Schedule
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies import downstream, downstream_runs
from tumorgen_cli.system.json_records import write_json


@pytest.fixture
def copy(workspace, tmp_path):
    shutil.copytree(workspace.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


@pytest.fixture
def nnunets(monkeypatch):
    """nnU-Nets that are trained at once and find as much of a tumor as they were given cases to learn from."""
    trained = []

    def run_job(data, folder, job, title, variables=None):
        if job.train:
            write_json(folder / "job.json", job)
            write_json(downstream_runs._schedule_file(folder), job.schedule or Schedule(3, len(trained) + 7, 0.5))
            trained.append((folder.name, job))

    def score(task, plan, schedule, kind):
        value = min(1.0, len(set(task.job.train)) / 20)
        verdict, lesions = Verdict(value, value, value, 1, 0, 0), (LesionScore(30.0, True, True, value, value),)
        scans = tuple(
            downstream_runs._scan_score(task, schedule, case.name, verdict, (lesions, ()))
            for case in task.point.data.test
        )
        run = TrainedNnunet(
            task.variant.arm.name,
            task.point.cases,
            task.seed,
            task.pairs,
            task.real_share,
            schedule.epochs * schedule.iterations * 100,
            0.1,
            task.job.inputs_hash,
            scans,
            task.variant.hosts,
            task.point.subset,
            task.variant.painting,
        )
        write_json(task.folder / "run.json", run)
        return run

    monkeypatch.setattr(downstream_runs, "run_job", run_job)
    monkeypatch.setattr(downstream_runs, "_score", score)
    monkeypatch.setattr(downstream, "draw_patients", lambda *_: [])
    return trained
