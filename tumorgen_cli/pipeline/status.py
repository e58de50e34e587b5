"""What of a workspace is done, what runs, what is outdated, what is next. Writes `contents.json` at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tumorgen_cli.judge.find import read_own_judge
from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.methods.shortfalls import LEAST_TRAINED
from tumorgen_cli.pipeline.hints import DEFAULT_METHOD, command_line, filter_options, quote
from tumorgen_cli.pipeline.submit_state import job_states, queue_of, read_chain, submit_folder
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace, check_planned
from tumorgen_cli.preprocessing.cases import is_done
from tumorgen_cli.synthesis.logs import read_logs
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.synthesis.set_files import LEARNED_FROM_HEALTHY, MODEL
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, StateError, gather_faults, say_count
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import read_fields, to_plain
from tumorgen_cli.system.locks import lock_holder
from tumorgen_cli.training.checkpoints import PROGRESS, read_run

State = Literal["to do", "running", "partly", "done", "outdated"]
_AGAIN = "delete it"
_JOB = "job "  # before the names of submitted jobs


@dataclass(frozen=True)
class Step:
    """One step of the pipeline, its state, and the command for it.

    Attributes:
        name: The step, for example `train flow` or `synthesize tumorgen_scans`.
        state: `outdated`: made from other data, another plan, or weights that have been replaced.
        detail: Numbers, and the reason of the state.
        command: The command that does the step, with placeholders in capitals.
    """

    name: str
    state: State
    detail: str
    command: str


def workspace_status(workspace: Workspace, work: Path | str | None = None) -> list[Step]:
    """Every step of a workspace and its state; stages of other methods than tumorgen once one of them has begun.

    Args:
        workspace: The workspace.
        work: The workspace as the user names it, for the commands. None: its folder.

    Raises:
        StateError: the workspace is a file, or one of its files cannot be read.
    """
    work = workspace.root if work is None else work
    if workspace.root.is_file() or workspace.is_model:
        check_planned(workspace.root)
    running = lock_holder(workspace.root) or ""
    if not workspace.plan_file.is_file():
        state: State = "running" if running.startswith("tumorgen plan") else "to do"
        return [Step("plan", state, "", command_line("plan DATASET", work))]
    plan, splits = workspace.plan(), workspace.splits()
    detail = f"{plan.dataset}: {say_count(len(splits.train), 'case')} to learn from, {len(splits.test)} held out"
    faults: list[Fault] = []
    gather_faults(faults, lambda: read_planned_dataset(workspace, plan))
    state, detail = ("outdated", f"{detail}; the data set: {faults[0].found}") if faults else ("done", detail)
    steps = [Step("plan", state, detail, command_line(f"plan {quote(plan.dataset_path)}", work))]
    cases = [*splits.train, *splits.test]
    ready = sum(is_done(plan, case, workspace.cases / case) for case in cases)
    state = "done" if ready == len(cases) else "partly" if ready else "to do"
    if running.startswith("tumorgen preprocess"):
        state = "running"
    steps.append(Step("preprocess", state, f"{ready} of {len(cases)} cases", command_line("preprocess", work)))
    steps += [*_training_steps(workspace, plan, work, running), *_set_steps(workspace, plan, work)]
    return [*steps, *_job_steps(workspace, work)]


def next_step(steps: Sequence[Step]) -> Step | None:
    """The first step that is not done; None where all are. It may be one that is running.

    Jobs that wait, run, have stopped or are only written come before the steps that they do. Sets that are outdated
    count only if there is no other set.
    """
    jobs = [step for step in steps if step.name.startswith(_JOB)]
    for state in ("running", "partly", "to do"):
        if found := next((step for step in jobs if step.state == state), None):
            return found
    steps = [step for step in steps if step not in jobs]
    sets = [step for step in steps if step.name.startswith(("synthesize", "evaluate"))]
    fresh = [step for step in sets if step.state != "outdated"] or sets
    return next((step for step in steps if step.state != "done" and (step not in sets or step in fresh)), None)


def next_training(workspace: Workspace, method_name: str, work: Path | str) -> str | None:
    """The command for the first stage of a method that is not done; None where all are."""
    method = find_method(method_name)(workspace.plan(), workspace)
    steps = (_stage_step(method, stage, work, False) for stage in method.stages)
    return next((step.command for step in steps if step.state != "done"), None)


def _training_steps(workspace: Workspace, plan: Plan, work: Path | str, running: str) -> list[Step]:
    """The stages, and the judge if there is one."""
    steps: list[Step] = []
    listed: set[Path] = set()  # a stage that methods share is listed once
    for name in METHODS:
        if name != DEFAULT_METHOD and not (workspace.root / "runs" / name).is_dir():
            continue
        method = find_method(name)(plan, workspace)
        fresh = [stage for stage in method.stages if method.folder(stage) not in listed]
        for stage in fresh:
            runs_now = running.startswith(f"tumorgen train {stage},") and _has_begun(method, stage)
            steps.append(_stage_step(method, stage, work, runs_now))
        listed |= {method.folder(stage) for stage in fresh}
    if lock_holder(workspace.judge):
        steps.append(Step("train judge", "running", "", command_line("train judge", work)))
    elif (workspace.judge / "job.json").is_file():
        steps.append(_stopped_judge_step(workspace, work))
    elif (workspace.judge / "judge.json").is_file():
        steps.append(_judge_step(workspace, work))
    return steps


def _has_begun(method: Method, stage: str) -> bool:
    """Whether the running training of a stage of this name is this one: its earlier stages are trained."""
    return all(method.trained(before) for before in method.needed(stage))


def _stage_step(method: Method, stage: str, work: Path | str, runs_now: bool) -> Step:
    """A training stage."""
    folder, name = method.folder(stage), f"train {stage}"
    command = command_line(name, work, method.name)
    progress = method.training_folder(stage) / PROGRESS
    fields = {"inputs_hash": str, "step": int, "iterations": int, "seconds": float}
    begun = read_fields(progress, _AGAIN, **fields) if progress.is_file() else None
    share = "" if begun is None else _share(begun["step"], begun["iterations"])
    if runs_now:
        return Step(name, "running", share + ("" if begun is None else _left(begun)), command)
    if method.trained(stage):
        state, detail = _trained_state(method, stage)
        if begun is None:
            return Step(name, state, detail, command)
        length = (
            "" if begun["iterations"] == method.planned_iterations(stage) else f" --iterations {begun['iterations']}"
        )
        command = command_line(name + length, work, method.name)
        return Step(name, "partly", f"{detail}; then trained further or again: {share}", command)
    if method.outdated(stage):
        reason = "made from other data or healthy scans, another plan or other earlier stages"
        return Step(name, "outdated", reason, command_line(f"{name} --restart", work, method.name))
    return Step(name, "partly" if (folder / "last.pt").is_file() else "to do", share, command)


def _trained_state(method: Method, stage: str) -> tuple[State, str]:
    """The state of a finished stage, and its numbers. A training that was much shorter than planned is not done."""
    if not (method.folder(stage) / "run.json").is_file():
        return "done", "part of an earlier stage"
    run, planned = read_run(method.folder(stage)), method.planned_iterations(stage)
    if run.iterations < LEAST_TRAINED * planned:
        return "partly", f"{_share(run.iterations, planned)}: too short to paint well"
    numbers = "".join(f"; {key} {value:.4g}" for key, value in run.numbers.items())
    return "done", f"{run.iterations} steps in {console.clock(run.seconds)}{numbers}"


def _left(begun: dict[str, Any]) -> str:
    """About how long a running training still takes, by the steps that it has done."""
    step, left = begun["step"], begun["iterations"] - begun["step"]
    return f", about {console.rough_time(begun['seconds'] / step * left)} left" if step and left > 0 else ""


def _share(steps: int, planned: int) -> str:
    """How much of a training is done."""
    return f"{steps} of {planned} steps ({steps / max(planned, 1):.0%})"


def _stopped_judge_step(workspace: Workspace, work: Path | str) -> Step:
    """A training of the judge that was stopped; the command goes on with it."""
    begun = read_fields(workspace.judge / "job.json", _AGAIN, minutes=float)
    again = (workspace.judge / "judge.json").is_file()
    detail = "stopped while it was trained again; the earlier judge is in use" if again else "stopped"
    command = f"train judge --minutes {begun['minutes']:g}{' --restart' * again}"
    return Step("train judge", "partly", detail, command_line(command, work))


def _judge_step(workspace: Workspace, work: Path | str) -> Step:
    """The workspace's own judge."""
    try:
        made = read_own_judge(workspace, workspace.judge)
    except StateError as error:  # it is not used
        return Step("train judge", "outdated", error.faults[0].found, command_line("train judge --restart", work))
    detail = f"{made.minutes:g} minutes, DSC {made.mean_dice:.2f} on held-out cases"
    return Step("train judge", "done", detail, command_line("train judge", work))


def _set_steps(workspace: Workspace, plan: Plan, work: Path | str) -> list[Step]:
    """The synthetic sets of the workspace, and whether they are scored."""
    steps = []
    for path in sorted(workspace.root.glob("synthetic/*/set.json")):
        folder = path.parent
        made = read_fields(path, f"delete {folder}")
        pairs, lost = (_count_lines(folder, log) for log in ("provenance", "given_up"))
        # an installed model does not change with the workspace
        reason = "" if MODEL in made else _outdated(workspace, plan, made)
        if lock_holder(folder):
            state: State = "running"
        else:
            state = "outdated" if reason else "done" if (folder / "dataset.json").is_file() else "partly"
        detail = say_count(pairs, "pair") + (f", {lost} given up" if lost else "") + (f"; {reason}" if reason else "")
        steps.append(Step(f"synthesize {folder.name}", state, detail, _set_command(folder, made, state, work)))
        steps.append(_evaluation_step(workspace, folder, state, work))
    return steps or [Step("synthesize", "to do", "", command_line("synthesize --healthy DIR -n 20", work))]


def _job_steps(workspace: Workspace, work: Path | str) -> list[Step]:
    """The jobs of `submit`: running if tasks wait or run, partly done if tasks have stopped."""
    folder = submit_folder(workspace)
    chain = read_chain(folder)
    if chain is None:
        return []
    try:
        queue = queue_of(chain)  # before the marks of finished tasks are looked for
    except StateError as error:
        return [Step(f"{_JOB}queue", "running", f"not known: {error.faults[0].found}", command_line("status", work))]
    here, steps = bool(lock_holder(folder)), []
    for each in job_states(folder, chain, queue):
        state: State = "done" if each.is_done else "partly" if each.stopped or each.done else "to do"
        if not each.is_done and (each.queued or here):
            state, here = "running", False  # on this machine one job runs at a time
        steps.append(Step(f"{_JOB}{each.job.name}", state, each.detail, command_line("submit", work)))
    return steps


def _count_lines(folder: Path, log: str) -> int:
    """The number of finished lines of a set's log, those of shards included."""
    return sum(text.count("\n") for text in read_logs(folder, log).values())


def _set_command(folder: Path, made: dict[str, Any], state: State, work: Path | str) -> str:
    """The command for a set: the same one again, or one that makes a new set beside an outdated one."""
    out = folder.with_name(f"{folder.name}_2") if state == "outdated" else folder
    if made.get("command") != "filter":
        painter = f" --model {quote(made[MODEL])}" if MODEL in made else ""
        words = f"synthesize --healthy DIR -n 20 --out {quote(out)}{painter}"
        return command_line(words, work, None if painter else made.get("method"))
    source = Path(made["filtered_from"])
    named = source.name if source.parent == folder.parent else source
    options = filter_options(made["keep"], made["beside"] is None, made.get("copies") is not None)
    return command_line(f"filter {quote(named)}{options} --out {quote(out)}", work)


def _outdated(workspace: Workspace, plan: Plan, made: dict[str, Any]) -> str:
    """Why a set would come out differently today; empty if it would not. `made` is the content of its set.json."""
    if made.get("command") == "filter":
        return _outdated_filtered(workspace, plan, made)
    if made.get("method") not in METHODS or made.get("format") != PAIR_FORMAT:
        return "made by another version of tumorgen"
    method = find_method(made["method"])(plan, workspace)
    if made.get("plan") != method.plan_hash:
        return "painted by another plan"
    if made.get("learned_from") != [*method.learned_from()]:
        return "learned from other cases"
    if made.get(LEARNED_FROM_HEALTHY, []) != to_plain(method.learned_from_healthy()):
        return "learned from other healthy scans"
    weights = made.get("weights", {})
    replaced = [
        stage
        for stage in method.stages
        if stage in weights and (not method.trained(stage) or method.weights_hash(stage) != weights[stage])
    ]
    return f"painted with weights that were replaced ({', '.join(replaced)})" if replaced else ""


def _outdated_filtered(workspace: Workspace, plan: Plan, made: dict[str, Any]) -> str:
    """The same for a set of pairs that were taken from another set."""
    source = Path(made["filtered_from"])
    if not (source / "set.json").is_file() or not (source / "provenance.jsonl").is_file():
        return "the set that it was taken from is gone"
    if hash_file(source / "provenance.jsonl") != made["provenance"]:
        return "the set that it was taken from has changed"
    return _outdated(workspace, plan, read_fields(source / "set.json", f"delete {source}"))


def _evaluation_step(workspace: Workspace, folder: Path, made: State, work: Path | str) -> Step:
    """The scores of a set. Scores of a set that is outdated, or has other pairs by now, are outdated."""
    name, out = f"evaluate {folder.name}", workspace.evaluation(folder.name)
    command = command_line(f"evaluate {quote(folder.name)}", work)
    if lock_holder(out):
        return Step(name, "running", "", command)
    if not (out / "scores.json").is_file():
        return Step(name, "to do", "", command)
    scored = read_fields(out / "scores.json", "run `tumorgen evaluate` again", set_hash=str)
    log = folder / "provenance.jsonl"
    if made == "outdated":
        return Step(name, "outdated", "of an outdated set", command)
    if not log.is_file() or scored["set_hash"] != hash_file(log):
        return Step(name, "partly", "the set has other pairs by now", command)
    return Step(name, "done", "", command)
