"""What `run` would do and cost; nothing is written."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.methods.tumorgen.timing import rough_training_seconds
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.plan_summary import Planned, encoded_bytes
from tumorgen_cli.pipeline.preprocess import forecast_preprocessing, learns_from_hosts
from tumorgen_cli.pipeline.synthesize import set_name
from tumorgen_cli.pipeline.training_forecast import forecast_training
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import is_done
from tumorgen_cli.synthesis.forecast import forecast_set
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.jobs import make_jobs
from tumorgen_cli.synthesis.options import HostOptions, QualityOptions, SetOptions
from tumorgen_cli.synthesis.pair import PairInputs
from tumorgen_cli.synthesis.sources import healthy_sources
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import say_count
from tumorgen_cli.system.files import free_bytes


@dataclass(frozen=True)
class StepForecast:
    """What a step of `run` would do.

    Attributes:
        step: name of the step.
        what: what is left to do.
        seconds: expected time; None if it is unknown.
        disk_bytes: what it will take on disk.
    """

    step: str
    what: str
    seconds: float | None
    disk_bytes: int


@dataclass(frozen=True)
class RunForecast:
    """What `run` would do, step by step, and the free space where it would write."""

    steps: tuple[StepForecast, ...]
    free_bytes: int


def forecast_run(
    workspace: Workspace,
    dataset: str,
    hosts: HostOptions,
    wanted: SetOptions,
    options: PlanOptions = PlanOptions(),
    device: DeviceName = "auto",
) -> RunForecast:
    """Say what `run_all` with the same arguments would do and cost; hosts are checked by their headers.

    It is planned in a temporary workspace that shares the preprocessed cases and trainings of this one. The time of the
    training is measured on the cases if they are preprocessed, otherwise on random numbers.
    """
    with tempfile.TemporaryDirectory(prefix="tumorgen_") as folder:
        temporary = workspace.shared_in(Path(folder), with_runs=True)
        planned = plan_dataset(temporary, dataset, options, device)
        steps = [
            StepForecast("plan", say_count(len(planned.fingerprint.cases), "case"), 0.0, 0),
            _forecast_preprocessing(temporary, hosts),
        ]
        ready = all(
            is_done(planned.plan, facts.case, temporary.cases / facts.case) for facts in planned.fingerprint.cases
        )
        steps.append(_forecast_training(temporary, planned, device, measured=ready))
        steps.append(_forecast_pairs(workspace, temporary, hosts, wanted))
    steps.append(StepForecast("evaluate", "the set", None, 0))
    return RunForecast(tuple(steps), free_bytes(workspace.root))


def _forecast_preprocessing(workspace: Workspace, hosts: HostOptions) -> StepForecast:
    found = forecast_preprocessing(workspace, hosts.healthy if learns_from_hosts(workspace) else None)
    return StepForecast("preprocess", say_count(found.scans, "scan"), found.seconds, found.disk_bytes)


def _forecast_training(workspace: Workspace, planned: Planned, device: DeviceName, measured: bool) -> StepForecast:
    if measured:
        left = [each for each in forecast_training(workspace, "tumorgen", "all", device=device).stages if each.steps]
        what = ", ".join(f"{each.stage} {each.steps}" for each in left)
        seconds, size = sum(each.seconds for each in left), sum(each.disk_bytes for each in left)
    else:
        method = find_method("tumorgen")(planned.plan, workspace)
        what = ", ".join(f"{stage} {method.planned_iterations(stage)}" for stage in method.stages)
        seconds, size = rough_training_seconds(planned.plan), encoded_bytes(planned)
    return StepForecast("train", f"{what} steps" if what else "nothing", seconds, size)


def _forecast_pairs(workspace: Workspace, temporary: Workspace, hosts: HostOptions, wanted: SetOptions) -> StepForecast:
    method = find_method("tumorgen")(temporary.plan(), temporary)
    cases = temporary.fingerprint().of(temporary.splits().train).cases
    sources = healthy_sources(method.plan, hosts.healthy, hosts.roi)
    check_sources(sources[: wanted.pairs], None, method.plan, cases)
    name = set_name("tumorgen", hosts, Sampling(), QualityOptions())
    jobs = make_jobs(sources, wanted.pairs, method.plan.seed)
    found = forecast_set(PairInputs(method, cases, Sampling()), jobs, workspace.synthetic(name))
    return StepForecast("synthesize", say_count(found.missing, "pair"), found.seconds, found.disk_bytes)
