"""All stages in order, on a user's data set (`run`) or on generated phantoms (`demo`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.data.phantom import write_phantoms
from tumorgen_cli.pipeline.evaluate import FEATURES, ScoreReport, evaluate_sets
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.pipeline.synthesize import SetReport, synthesize
from tumorgen_cli.pipeline.train import train_stages
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.locks import locked


def run_demo(workspace: Workspace, quick: bool, device: DeviceName, seed: int) -> RunReport:
    """Writes the phantoms into the workspace (the same seed, the same files) and runs `run` on them."""
    console.headline("phantoms")
    cases, healthy = (10, 2) if quick else (20, 4)
    places_root = workspace.root / "phantoms"
    done = places_root / f"seed_{seed}_{cases}"
    with locked(workspace.root, "demo"), console.progress("writing phantoms", cases + healthy) as tick:
        if not done.is_file():
            write_phantoms(places_root, cases, healthy, seed, small=quick, ticker=tick)
            done.touch()
    dataset, hosts = places_root / "Dataset999_PhantomPET", places_root / "healthy"
    return run_all(
        workspace,
        str(dataset),
        hosts,
        8 if quick else 16,
        preset="demo-quick" if quick else "demo",
        device=device,
        seed=seed,
    )


@dataclass(frozen=True)
class RunReport:
    """What `run` made: pairs and their scores."""

    pairs: SetReport
    scores: tuple[ScoreReport, ...]


def run_all(
    workspace: Workspace,
    dataset: str,
    healthy: Path,
    pairs: int = 20,
    judge: Path | None = None,
    tumor_label: str | None = None,
    memory_gib: float | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    device: DeviceName = "auto",
    seed: int | None = None,
    fold: int | None = None,
    features: str = FEATURES[0],
) -> RunReport:
    """Every command in order; each sees for itself what is done."""
    console.headline("1/5 plan")
    plan_dataset(workspace, dataset, tumor_label, device, memory_gib, preset, settings, seed, fold=fold)
    console.headline("2/5 preprocess")
    preprocess_dataset(workspace)
    console.headline("3/5 train")
    train_stages(workspace, "tumorgen", "all", device=device)
    console.headline("4/5 synthesize")
    made = synthesize(workspace, "tumorgen", pairs, healthy, device=device, seed=seed)
    console.headline("5/5 evaluate")
    return RunReport(made, evaluate_sets(workspace, [Path(made.folder)], judge, device, features))
