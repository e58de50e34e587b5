"""All stages in order, on a user's data set (`run`) or on generated phantoms (`demo`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.data.phantom import write_phantoms
from tumorgen_cli.evaluation.options import ScoreOptions
from tumorgen_cli.pipeline.evaluate import ScoreReport, evaluate_sets
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.pipeline.synthesize import SetReport, synthesize_pairs
from tumorgen_cli.pipeline.train import train_stages
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.locks import locked


@dataclass(frozen=True)
class RunReport:
    """What a run of all stages made: pairs and their scores."""

    pairs: SetReport
    scores: tuple[ScoreReport, ...]


def run_demo(workspace: Workspace, quick: bool, device: DeviceName, seed: int) -> RunReport:
    """Write phantoms into the workspace and run all stages on them. The same seed gives the same phantoms."""
    console.headline("phantoms")
    cases, healthy = (10, 2) if quick else (20, 4)
    root = workspace.root / "phantoms"
    done = root / f"seed_{seed}_{cases}"
    with locked(workspace.root, "demo"), console.progress("writing phantoms", cases + healthy) as tick:
        if not done.is_file():
            write_phantoms(root, cases, healthy, seed, small=quick, ticker=tick)
            done.touch()
    dataset, hosts = root / "Dataset999_PhantomPET", root / "healthy"
    options = PlanOptions(preset="demo-quick" if quick else "demo", seed=seed)
    return run_all(workspace, str(dataset), hosts, 8 if quick else 16, options, device=device)


def run_all(
    workspace: Workspace,
    dataset: str,
    healthy: Path,
    pairs: int = 20,
    options: PlanOptions = PlanOptions(),
    scoring: ScoreOptions = ScoreOptions(),
    device: DeviceName = "auto",
) -> RunReport:
    """Run every stage in order; each skips what is finished.

    Args:
        workspace: Where everything is written.
        dataset: The nnU-Net raw data set: a path, or an id or name under `$nnUNet_raw`.
        healthy: Folder of scans without tumors to paint into.
        pairs: How many pairs to make.
        options: What the user decides about the plan; the pairs are drawn with its seed, too.
        scoring: What the pairs are scored with.
        device: Where to compute.
    """
    console.headline("1/5 plan")
    plan_dataset(workspace, dataset, options, device)
    console.headline("2/5 preprocess")
    preprocess_dataset(workspace)
    console.headline("3/5 train")
    train_stages(workspace, "tumorgen", "all", device=device)
    console.headline("4/5 synthesize")
    wanted = SetOptions(pairs, seed=options.seed)
    made = synthesize_pairs(workspace, "tumorgen", wanted, HostOptions(healthy), device=device)
    console.headline("5/5 evaluate")
    return RunReport(made, evaluate_sets(workspace, [Path(made.folder)], scoring, device))
