"""What of a workspace is done, what is stale, what is next. Reads, never writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import is_done
from tumorgen_cli.synthesis.shards import read_logs
from tumorgen_cli.system import console
from tumorgen_cli.system.json_records import read_plain


@dataclass(frozen=True)
class Step:
    """One step of the pipeline: done, stale or missing; the command for it."""

    name: str
    state: str
    detail: str
    command: str


def status(workspace: Workspace) -> list[Step]:
    """Every step of a workspace and how it stands, rivals' stages once one is begun."""
    where = f"-w {workspace.root}"
    if not workspace.plan_file.is_file():
        return [Step("plan", "missing", "", f"tumorgen plan DATASET {where}")]
    plan, splits = workspace.plan(), workspace.splits()
    detail = f"{plan.dataset}: {len(splits.train)} to learn from, {len(splits.test)} held out"
    steps = [Step("plan", "done", detail, f"tumorgen plan {plan.dataset_path} {where}")]
    cases = [*splits.train, *splits.test]
    ready = sum(is_done(plan, case, workspace.cases / case) for case in cases)
    state = "done" if ready == len(cases) else "missing" if not ready else "partly"
    steps.append(Step("preprocess", state, f"{ready} of {len(cases)} cases", f"tumorgen preprocess {where}"))
    told: set[Path] = set()  # a stage that methods share is told once
    for name in METHODS:
        method = find_method(name)(plan, workspace)
        if name == METHODS[0] or (workspace.root / "runs" / name).is_dir():
            fresh = [stage for stage in method.stages if method.folder(stage) not in told]
            steps += [_stage_step(method, stage, where) for stage in fresh]
            told |= {method.folder(stage) for stage in fresh}
    if (workspace.judge / "judge.json").is_file():
        made = read_plain(workspace.judge / "judge.json", "run `tumorgen train judge --restart`")
        steps.append(
            Step(
                "train judge",
                "done",
                f"{len(made['cases'])} cases, {made['minutes']:g} minutes",
                f"tumorgen train judge {where}",
            )
        )
    for folder in sorted(workspace.root.glob("synthetic/*/set.json")):
        lines = sum(text.count("\n") for text in read_logs(folder.parent, "provenance").values())  # of shards, too
        done = (folder.parent / "dataset.json").is_file()
        stale = read_plain(folder, "delete the set")["plan"] != plan.hash
        state = "stale" if stale else "done" if done else "partly"
        steps.append(
            Step(
                f"synthesize {folder.parent.name}",
                state,
                f"{lines} pairs",
                f"tumorgen synthesize --healthy DIR -n N {where}",
            )
        )
        scores = workspace.evaluation(folder.parent.name) / "scores.json"
        state = "done" if scores.is_file() else "missing"
        steps.append(
            Step(f"evaluate {folder.parent.name}", state, "", f"tumorgen evaluate --synthetic {folder.parent} {where}")
        )
    if not list(workspace.root.glob("synthetic/*/set.json")):
        steps.append(Step("synthesize", "missing", "", f"tumorgen synthesize --healthy DIR -n N {where}"))
    return steps


def _stage_step(method: Method, stage: str, where: str) -> Step:
    folder = method.folder(stage)
    command = f"tumorgen train {stage} {where}"
    if method.trained(stage):
        path = folder / "run.json"
        if not path.is_file():
            return Step(f"train {stage}", "done", "part of an earlier stage", command)
        run = read_plain(path, "train the stage again")
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in run["numbers"].items())
        return Step(
            f"train {stage}",
            "done",
            f"{run['iterations']} iterations, {console.clock(run['seconds'])} {numbers}",
            command,
        )
    if (folder / "run.json").is_file():
        return Step(f"train {stage}", "stale", "made from other data, plan or stages", f"{command} --restart")
    return Step(f"train {stage}", "partly" if (folder / "last.pt").is_file() else "missing", "", command)
