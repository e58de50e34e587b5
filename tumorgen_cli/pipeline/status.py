"""What of a workspace is done, what is stale, what is next. Reads files and writes none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import is_done
from tumorgen_cli.synthesis.logs import read_logs
from tumorgen_cli.system import console
from tumorgen_cli.system.json_records import read_plain


@dataclass(frozen=True)
class Step:
    """One step of the pipeline: its state (done, partly, stale or missing) and the command for it."""

    name: str
    state: str
    detail: str
    command: str


def workspace_status(workspace: Workspace) -> list[Step]:
    """Every step of a workspace and its state; stages of other methods than tumorgen once one of them has begun."""
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
    return [*steps, *_training_steps(workspace, plan, where), *_set_steps(workspace, plan, where)]


def _training_steps(workspace: Workspace, plan: Plan, where: str) -> list[Step]:
    """The stages, and the judge if there is one."""
    steps: list[Step] = []
    listed: set[Path] = set()  # a stage that methods share is listed once
    for name in METHODS:
        method = find_method(name)(plan, workspace)
        if name == METHODS[0] or (workspace.root / "runs" / name).is_dir():
            fresh = [stage for stage in method.stages if method.folder(stage) not in listed]
            steps += [_stage_step(method, stage, where) for stage in fresh]
            listed |= {method.folder(stage) for stage in fresh}
    if (workspace.judge / "judge.json").is_file():
        made = read_plain(workspace.judge / "judge.json", "run `tumorgen train judge --restart`")
        detail = f"{len(made['cases'])} cases, {made['minutes']:g} minutes"
        steps.append(Step("train judge", "done", detail, f"tumorgen train judge {where}"))
    return steps


def _set_steps(workspace: Workspace, plan: Plan, where: str) -> list[Step]:
    """The synthetic sets of the workspace, and whether they are scored."""
    steps = []
    again = f"tumorgen synthesize --healthy DIR -n N {where}"
    for record in sorted(workspace.root.glob("synthetic/*/set.json")):
        folder = record.parent
        pairs = sum(text.count("\n") for text in read_logs(folder, "provenance").values())  # those of shards, too
        stale = read_plain(record, "delete the set")["plan"] != plan.hash
        state = "stale" if stale else "done" if (folder / "dataset.json").is_file() else "partly"
        steps.append(Step(f"synthesize {folder.name}", state, f"{pairs} pairs", again))
        state = "done" if (workspace.evaluation(folder.name) / "scores.json").is_file() else "missing"
        steps.append(Step(f"evaluate {folder.name}", state, "", f"tumorgen evaluate {folder} {where}"))
    return steps or [Step("synthesize", "missing", "", again)]


def _stage_step(method: Method, stage: str, where: str) -> Step:
    """A training stage: done, stale, partly or missing."""
    folder = method.folder(stage)
    command = f"tumorgen train {stage} {where}"
    if method.trained(stage):
        path = folder / "run.json"
        if not path.is_file():
            return Step(f"train {stage}", "done", "part of an earlier stage", command)
        run = read_plain(path, "train the stage again")
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in run["numbers"].items())
        detail = f"{run['iterations']} iterations, {console.clock(run['seconds'])} {numbers}"
        return Step(f"train {stage}", "done", detail, command)
    if (folder / "run.json").is_file():
        return Step(f"train {stage}", "stale", "made from other data, plan or stages", f"{command} --restart")
    return Step(f"train {stage}", "partly" if (folder / "last.pt").is_file() else "missing", "", command)
