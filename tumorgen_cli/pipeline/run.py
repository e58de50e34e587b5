"""All stages in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.evaluation.options import ScoreOptions
from tumorgen_cli.pipeline.evaluate import ScoreReport, evaluate_sets
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.preprocess import learns_from_hosts, preprocess_dataset, preprocess_healthy
from tumorgen_cli.pipeline.synthesize import SetReport, synthesize_pairs
from tumorgen_cli.pipeline.train import StageOptions, train_stages
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.training.loggers import check_logger


@dataclass(frozen=True)
class RunReport:
    """What a run of all stages made: pairs and their scores."""

    pairs: SetReport
    scores: tuple[ScoreReport, ...]


def run_all(
    workspace: Workspace,
    dataset: str,
    hosts: HostOptions,
    wanted: SetOptions,
    options: PlanOptions = PlanOptions(),
    scoring: ScoreOptions = ScoreOptions(),
    device: DeviceName = "auto",
    training: StageOptions = StageOptions(),
) -> RunReport:
    """Run every stage in order; each skips what is finished.

    The hosts are preprocessed to learn from them, unless the training has begun: it would have to begin again. At most
    `MOST_SCANS` are.

    Args:
        workspace: Where everything is written.
        dataset: The nnU-Net raw data set: a path, or an id or name under `$nnUNet_raw`.
        hosts: What is painted into, and where.
        wanted: The set to make.
        options: What the user decides about the plan.
        scoring: What the pairs are scored with.
        device: Where to compute.
        training: The checkpoints that stages start from, and a logger.
    """
    check_logger(training.log)
    console.headline("1/5 plan")
    plan_dataset(workspace, dataset, options, device)
    console.headline("2/5 preprocess")
    preprocess_dataset(workspace)
    if hosts.healthy is not None and learns_from_hosts(workspace):
        preprocess_healthy(workspace, hosts.healthy)
    console.headline("3/5 train")
    train_stages(workspace, "tumorgen", "all", device=device, options=training)
    console.headline("4/5 synthesize")
    made = synthesize_pairs(workspace, "tumorgen", wanted, hosts, device=device)
    console.headline("5/5 evaluate")
    return RunReport(made, evaluate_sets(workspace, [Path(made.folder)], scoring, device))
