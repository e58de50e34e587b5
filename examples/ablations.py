"""What each part of TumorGen is worth: trainings with one switch changed, on a data set whose VAE is trained.

    python examples/ablations.py -w WORK -o OUT --judge DIR --steps 1000 --seeds 0 --seeds 1
    python examples/ablations.py -w PAPER -o OUT --judge DIR --table paper --preset paper --set REFINER.joint=false

The table `ours` changes one of this project's choices in each row, `paper` has the rows of the paper's Table 2. With
`--preset`, WORK is planned with it, too. Each seed is a training of its own. All rows share the VAE of the workspace,
rows with equal training items share their encoded windows, and rows that change only the refiner or the sampling share
the networks before them. Each row redraws the tumors of the held-out cases in OUT/<row>_<seed> and scores them. If the
script is stopped, run it again: it continues. It writes the table, OUT/<table>.csv, and the commit, command and
machine, OUT/origin.txt.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Annotated

import typer
from origin import origin_and_command, write_origin

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

FLOW, REFINER, SAMPLING = (f"methods.tumorgen.{part}" for part in ("flow", "refiner", "sampling"))
TABLES = {
    "paper": {
        "whole": [],
        "no BA-PMG": [f"{FLOW}.bapmg=false"],
        "no coarse": [f"{FLOW}.coarse_weight=0"],
        "no fine": [f"{FLOW}.fine_weight=0"],
        "no VMR": [f"{REFINER}.enabled=false"],
    },
    "ours": {
        "whole": [],
        "plain box weight": [f"{FLOW}.box_weight=1"],
        "four times the mask weight": [f"{FLOW}.mask_weight=4"],
        "mean mask": [f"{FLOW}.mask_coding=mean"],
        "fine over window": [f"{FLOW}.fine_over=window"],
        "context of the scan": [f"{FLOW}.context=scan"],
        "start at noise": [f"{FLOW}.start=noise"],
        "predicts velocity": [f"{FLOW}.predicts=velocity"],
        "no character": [f"{FLOW}.character=false"],
        "no volume": [f"{FLOW}.volume=false"],
        "no healthy items": [f"{FLOW}.healthy_share=0"],
        "refiner of one step": [f"{REFINER}.steps=1"],
        "no refiner": [f"{REFINER}.enabled=false"],
        "no guidance": [f"{SAMPLING}.guidance=1"],
        "guidance 2": [f"{SAMPLING}.guidance=2"],
        "10 steps": [f"{SAMPLING}.steps=10"],
        "no texture": [f"{SAMPLING}.texture=none"],
        "the host's texture": [f"{SAMPLING}.texture=host"],
        "drawn texture": [f"{SAMPLING}.texture=drawn"],
        "whole box": [f"{SAMPLING}.keep_cells=0"],
    },
}


def prepare(base: Workspace, folder: Path, settings: list[str], preset: str | None, seed: int) -> Workspace:
    """Return a workspace with the data, the VAE and the latents (if any) of `base`, planned with other settings."""
    workspace = Workspace(folder)
    plan = base.plan()
    options = PlanOptions(plan.tumor_name, plan.memory_gib, preset, settings, seed, base.splits().fold)
    plan_dataset(workspace, plan.dataset_path, options, plan.device)
    for name in ("cases", "runs/tumorgen/vae", "runs/tumorgen/latents"):
        if (base.root / name).exists():
            copy(base.root / name, folder / name)
    preprocess_dataset(workspace)
    ours, theirs = (p.methods["tumorgen"]["vae"] for p in (workspace.plan(), plan))
    if any(ours[field] != theirs[field] for field in ("downsampling", "latent_channels", "widths", "res_blocks")):
        raise typer.BadParameter(f"plans another VAE than {base.root} has", param_hint="--preset")
    # The VAE does not depend on the switches, and all seeds share it. So only the hash of its inputs is replaced.
    path = workspace.run("tumorgen", "vae") / "run.json"
    own = find_method("tumorgen")(workspace.plan(), workspace).inputs_hash("vae")
    write_json(path, {**read_plain(path, "train the VAE again"), "inputs_hash": own})
    return workspace


def unchanged(switches: list[str]) -> tuple[str, ...]:
    """The stages that a row takes from the row `whole`, which is trained before."""
    if not switches or any(switch.startswith(f"{FLOW}.") for switch in switches):
        return ()
    return ("flow",) if any(switch.startswith(f"{REFINER}.") for switch in switches) else ("flow", "refiner")


def copy(source: Path, target: Path) -> None:
    """Copy a folder completely or not at all; an existing target stays as it is."""
    if not target.exists():
        half = target.with_name(f"{target.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(source, half)
        half.rename(target)


def score_row(workspace: Workspace, judge: Path | None, pairs: int, seed: int) -> tuple[str | int, ...]:
    """Redraw the held-out tumors, score them and return the row's cells from DSC to draws."""
    made = synthesize_pairs(workspace, "tumorgen", SetOptions(pairs, seed=seed), HostOptions(cases="test"))
    evaluate_sets(workspace, [Path(made.folder)], ScoreOptions(judge))
    scores = read_scores(workspace.evaluation(Path(made.folder).name) / "scores.json")
    kernel = next(p.whole.value for p in scores.planes if (p.measure, p.place, p.plane) == ("kernel", "tumor", "all"))
    ks = max(c.ks for c in scores.comparisons if c.field in ("volume_ml", "mean", "contrast"))
    agreement = [scores.agreement.of(field).synthetic.mean for field in ("dice", "surface_dice")]
    return (*(f"{value:.4f}" for value in (*agreement, kernel, ks, scores.reader.auc)), made.tally.draws)


def main(
    work: Annotated[Path, typer.Option("-w", "--work", help="A workspace whose VAE is trained.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the trainings and of the table.")],
    judge: Annotated[Path | None, typer.Option(help="An nnU-Net results folder (default: the bundled one).")] = None,
    steps: Annotated[int, typer.Option(help="Training steps of the flow; the refiner gets half as many.")] = 800,
    seeds: Annotated[list[int], typer.Option(help="Seeds of the trainings.")] = [0, 1],  # noqa: B006 - typer copies it
    pairs: Annotated[int, typer.Option(help="Pairs of each row and seed.")] = 40,
    table: Annotated[str, typer.Option(help="The rows: ours or paper.")] = "ours",
    only: Annotated[list[str], typer.Option("--row", help="A row of the table; default: all.")] = [],  # noqa: B006
    preset: Annotated[str | None, typer.Option(help="The preset of every row; the workspace has it, too.")] = None,
    settings: Annotated[
        list[str],
        typer.Option("--set", help="A field of TumorGen's flow, refiner or sampling for every row: a.b=value."),
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Train and score every row for every seed, then write and print the table."""
    if table not in TABLES or set(only) - set(TABLES[table]):
        raise typer.BadParameter(f"tables: {', '.join(TABLES)}; rows: {', '.join(TABLES.get(table, ()))}")
    own = (f"{FLOW}.", f"{REFINER}.", f"{SAMPLING}.")
    if shared := [setting for setting in settings if not setting.startswith(own)]:
        raise typer.BadParameter(
            f"{', '.join(shared)}: the rows share the workspace's data and VAE", param_hint="--set"
        )
    base, out = Workspace(work.resolve()), out.resolve()
    lengths = [f"{FLOW}.iterations={steps}", f"{REFINER}.iterations={steps // 2}"]
    rows = []
    for seed in seeds:
        whole = Workspace(out / f"whole_{seed}")
        for row, switches in TABLES[table].items():
            if only and row not in ("whole", *only):
                continue
            console.headline(f"{row}, seed {seed}")
            source = base if row == "whole" else whole
            folder = out / f"{row.replace(' ', '_')}_{seed}"
            workspace = prepare(source, folder, [*settings, *switches, *lengths], preset, seed)
            for name in unchanged(switches):
                copy(whole.run("tumorgen", name), workspace.run("tumorgen", name))
            train_stage(workspace, "tumorgen", "flow")
            train_stage(workspace, "tumorgen", "refiner")
            rows.append((row, seed, *score_row(workspace, judge, pairs, seed)))
    header = ("row", "seed", "DSC", "NSD", "kernel distance", "largest KS of volume, uptake, contrast", "AUC", "draws")
    with (out / f"{table}.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    write_origin(out)
    console.table("Ablations", header, rows)
    print(origin_and_command())


if __name__ == "__main__":
    typer.run(main)
