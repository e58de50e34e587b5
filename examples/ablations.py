"""TumorGen's ablations (its Table 2, and ours) on a data set whose VAE is trained: each row a switch of the plan, each seed a training.

    python examples/ablations.py -w WORK -o OUT --judge DIR --steps 800 --seeds 0 --seeds 1

All rows share the workspace's VAE, those of a seed their encoded windows. Each trains a flow (and a refiner) of its own in
OUT/<row>_<seed>, redraws the held-out cases' tumors and scores them. Run it again after a kill and it goes on. Ends with
the table: OUT/ablations.csv.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Annotated

import typer

from tumorgen_cli.evaluation.evaluate import read_scores
from tumorgen_cli.evaluation.options import ScoreOptions
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.evaluate import evaluate_sets
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.pipeline.train import train_stage
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.system import console
from tumorgen_cli.system.json_records import read_plain, write_json

FLOW = "methods.tumorgen.flow"
ROWS = {
    "whole": [],
    "no BA-PMG": [f"{FLOW}.bapmg=false"],
    "no coarse": [f"{FLOW}.coarse_weight=0"],
    "no fine": [f"{FLOW}.fine_weight=0"],
    "no VMR": ["methods.tumorgen.refiner.enabled=false"],
    "no character": [f"{FLOW}.character=false"],
}


def prepare(base: Workspace, folder: Path, settings: list[str], seed: int) -> Workspace:
    """A workspace with the base's data and VAE, and latents where it has them, planned with other settings."""
    workspace = Workspace(folder)
    plan = base.plan()
    options = PlanOptions(plan.tumor_name, plan.memory_gib, settings=settings, seed=seed, fold=base.splits().fold)
    plan_dataset(workspace, plan.dataset_path, options, plan.device)
    for name in ("cases", "runs/tumorgen/vae", "runs/tumorgen/latents"):
        if (base.root / name).exists():
            copy(base.root / name, folder / name)
    preprocess_dataset(workspace)
    # the VAE does not depend on the rows' switches, and one VAE serves every seed: only what it was made from is renamed
    path = workspace.run("tumorgen", "vae") / "run.json"
    own = find_method("tumorgen")(workspace.plan(), workspace).inputs_hash("vae")
    write_json(path, {**read_plain(path, "train the VAE again"), "inputs_hash": own})
    return workspace


def copy(source: Path, target: Path) -> None:
    """A whole copy or none."""
    if not target.exists():
        half = target.with_name(f"{target.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(source, half)
        half.rename(target)


def main(
    work: Annotated[Path, typer.Option("-w", "--work", help="A workspace whose VAE is trained.")],
    out: Annotated[Path, typer.Option("-o", "--out")],
    judge: Annotated[Path | None, typer.Option(help="An nnU-Net results folder (default: the bundled one).")] = None,
    steps: Annotated[int, typer.Option(help="Of the flow; the refiner gets half as many.")] = 800,
    seeds: Annotated[list[int], typer.Option()] = [0, 1],  # noqa: B006
    pairs: int = 40,
    settings: Annotated[
        list[str],
        typer.Option("--set", help="A field of TumorGen's flow, refiner or sampling for every row: a.b=value."),
    ] = [],  # noqa: B006
) -> None:
    """Trains and scores every row for every seed, then prints the table."""
    if shared := [
        s for s in settings if not s.startswith((f"{FLOW}.", "methods.tumorgen.refiner.", "methods.tumorgen.sampling."))
    ]:
        raise typer.BadParameter(
            f"{', '.join(shared)}: the rows share the workspace's data and VAE", param_hint="--set"
        )
    base = Workspace(work.resolve())
    table = []
    for seed in seeds:
        whole = Workspace(out.resolve() / f"whole_{seed}")
        for row, switches in ROWS.items():
            console.headline(f"{row}, seed {seed}")
            lengths = [f"{FLOW}.iterations={steps}", f"methods.tumorgen.refiner.iterations={steps // 2}"]
            source = base if row == "whole" else whole
            workspace = prepare(
                source, out.resolve() / f"{row.replace(' ', '_')}_{seed}", [*settings, *switches, *lengths], seed
            )
            if row == "no VMR":
                copy(
                    whole.run("tumorgen", "flow"), workspace.run("tumorgen", "flow")
                )  # the same flow, without the refiner
            train_stage(workspace, "tumorgen", "flow")
            train_stage(workspace, "tumorgen", "refiner")
            made = synthesize_pairs(workspace, "tumorgen", SetOptions(pairs, seed=seed), HostOptions(cases="test"))
            evaluate_sets(workspace, [Path(made.folder)], ScoreOptions(judge))
            scores = read_scores(workspace.evaluation(Path(made.folder).name) / "scores.json")
            kernel = next(
                p.whole.value for p in scores.planes if (p.measure, p.place, p.plane) == ("kernel", "tumor", "all")
            )
            ks = max(c.ks for c in scores.comparisons if c.field in ("volume_ml", "mean", "contrast"))
            agreement = [scores.agreement.of(field).synthetic.mean for field in ("dice", "surface_dice")]
            table.append(
                (row, seed, *(f"{v:.4f}" for v in (*agreement, kernel, ks, scores.reader.auc)), made.tally.draws)
            )
    header = ("row", "seed", "DSC", "NSD", "kernel distance", "largest KS of volume, uptake, contrast", "AUC", "draws")
    with (out / "ablations.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *table])
    console.table("Ablations", header, table)


if __name__ == "__main__":
    typer.run(main)
