"""The commands that put pairs into nnU-Net's training: merge, downstream, nnunet-setup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tumorgen_cli.cli.options import (
    DEFAULT_WORK,
    Device,
    Hosts,
    Json,
    JudgeFolder,
    Keep,
    MethodName,
    OwnCases,
    Regions,
    Seed,
    UntilPass,
    Work,
    command,
    judge_faults,
    method_names,
    open_workspace,
)
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, PlanError, describe_counts


@command
def merge(
    real: Annotated[
        str, typer.Argument(help="The real nnU-Net raw data set: a path, or its id or name under $nnUNet_raw.")
    ],
    synthetic: Annotated[list[Path], typer.Argument(help="Synthetic sets: their folders, or names in the workspace.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="DIR/DatasetNNN_Name; the name alone goes to $nnUNet_raw, or to WORK/nnunet/nnUNet_raw."
        ),
    ],
    work: Work = DEFAULT_WORK,
    folds: Annotated[
        int,
        typer.Option(
            "--folds",
            help="1: validate on cases no set has learnt from; more: the data set's own if as many, or nnU-Net's.",
            min=1,
        ),
    ] = 1,
    oversample: Annotated[
        int, typer.Option("--oversample", help="How often a real case stands in the training lists.", min=1)
    ] = 1,
    preprocessed: Annotated[
        Optional[Path],
        typer.Option("--preprocessed", help="nnU-Net's preprocessed folder (default: $nnUNet_preprocessed)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put real cases and synthetic pairs into one nnU-Net raw data set, with folds that validate on unseen real cases alone."""
    from tumorgen_cli.nnunet.runner import export_line, user_folders
    from tumorgen_cli.pipeline import merge as merge_module

    made = merge_module.merge(open_workspace(work), real, synthetic, out, folds, oversample, preprocessed)
    if as_json:
        console.print_json({"folder": made.out, "splits": made.splits, "folds": made.folds})
    else:
        rows = []
        for number, f in enumerate(made.folds):
            left_out = describe_counts(f.left_out) or "none"
            rows.append((number, len(f.train), len(f.validation), len(f.pairs), left_out, f"{f.real_share:.0%}"))
        columns = (
            "fold",
            "real, training",
            "real, validation",
            "pairs, training",
            "pairs left out",
            "real share of what is drawn",
        )
        console.table(f"{len(made.real.cases)} real cases and {len(made.pairs)} pairs in {made.out}", columns, rows)
        for path in made.splits:
            console.note(f"folds: {path}")
    empty = ", ".join(str(number) for number, fold in enumerate(made.folds) if not fold.pairs)
    if empty:
        console.warn(f"no pair to learn from in fold {empty}: every pair comes from its validation cases")
    if len(made.splits) == 1:
        console.note("nnU-Net copies the folds into nnUNet_preprocessed when it plans")
    number = int(made.out.name[len("Dataset") :][:3])
    folders = (
        user_folders(work)
        | {"nnUNet_raw": made.out.parent}
        | ({"nnUNet_preprocessed": preprocessed} if preprocessed else {})
    )
    steps = [f"nnUNetv2_plan_and_preprocess -d {number} -c 3d_fullres", f"nnUNetv2_train {number} 3d_fullres 0"]
    console.next_command(" && ".join(filter(None, [export_line(folders), *steps])))


@command
def downstream(
    arms: Annotated[
        str, typer.Option("--arms", help="real, and methods; with -live painted while nnU-Net trains.")
    ] = "real,tumorgen",
    work: Work = DEFAULT_WORK,
    healthy: Hosts = None,
    cases: OwnCases = None,
    fractions: Annotated[
        str, typer.Option("--fractions", help="Shares of the real training cases, with commas between.")
    ] = "0.25,0.5,1",
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each arm.", min=1)] = 3,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Of the first nnU-Net; all others take as many iterations.", min=0.01)
    ] = 60.0,
    ratio: Annotated[int, typer.Option("--ratio", help="Pairs to a real case.", min=1)] = 4,
    real_share: Annotated[
        float, typer.Option("--real-share", help="Of real cases in what is drawn in training.", min=0.01, max=0.99)
    ] = 0.5,
    jobs: Annotated[
        Optional[int], typer.Option("--jobs", help="nnU-Nets at a time (default: one per GPU, or one).", min=1)
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train nnU-Nets with and without pairs, alike otherwise, and score them on real held-out cases."""
    faults = []
    named = {name.strip() for name in arms.split(",")}
    if "real" not in named:
        faults.append(Fault(f"--arms {arms}", "no real", "the arm that gains are measured against", "add real"))
    if healthy is None and cases is None and named != {"real"}:
        faults.append(
            Fault(
                "--healthy", "nothing to paint into", "a folder of scans", "give --healthy DIR, --cases train, or both"
            )
        )
    try:
        shares = tuple(float(part) for part in fractions.split(","))
    except ValueError:
        shares = ()
        faults.append(Fault("--fractions", fractions, "numbers with commas between", "for example 0.25,0.5,1"))
    names = method_names("--arms", arms, faults, live=True)
    from tumorgen_cli.evaluation.gains import Design
    from tumorgen_cli.studies.downstream import gain_rows, measure_gains

    design = Design(tuple(names), shares, seeds, minutes, ratio, real_share)
    made = measure_gains(open_workspace(work), design, healthy, cases, device, jobs)
    if as_json:
        console.print_json(made)
    else:
        title = f"{len(made.result.held_out)} real held-out patients ({made.table})"
        columns = ("real cases", "arm", "DSC [95 % interval]", "gain", "better / worse, p", "NSD", "found", "FP a scan")
        console.table(title, columns, gain_rows(made.result.arms))
    for each in made.result.failures:
        console.warn(f"{each.arm} with {each.cases} real cases failed: {each.reason}")
    console.next_command(f"open {made.page}")


@command
def nnunet_setup(
    work: Work = DEFAULT_WORK,
    healthy: Hosts = None,
    cases: OwnCases = None,
    roi: Regions = None,
    probability: Annotated[
        float, typer.Option("--probability", help="Of a training patch to be a painted one.", min=0.0, max=1.0)
    ] = 0.5,
    pool: Annotated[int, typer.Option("--pool", help="Painted patches kept at a time.", min=1)] = 32,
    share: Annotated[
        float, typer.Option("--share", help="Most of its time that the painter is busy.", min=0.01, max=1.0)
    ] = 0.15,
    mixup: Annotated[
        float, typer.Option("--mixup", help="Share of painted patches mixed up with another.", min=0.0, max=1.0)
    ] = 0.0,
    until_pass: UntilPass = None,
    keep: Keep = 0.7,
    judge: JudgeFolder = None,
    method: MethodName = "tumorgen",
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Print two lines for a job script, with which nnU-Net paints new tumors while it trains."""
    faults = []
    if healthy is None and cases is None:
        faults.append(
            Fault(
                "--healthy and --cases", "neither given", "one of them, or both", "give --healthy DIR or --cases train"
            )
        )
    if roi is not None and healthy is None:
        faults.append(
            Fault("--roi", str(roi), "--healthy beside it", "leave it out: --cases paints where the tumors are")
        )
    faults += judge_faults(judge, until_pass)
    if faults:
        raise PlanError("Options that do not fit together", faults)
    from tumorgen_cli.nnunet.runner import export_line
    from tumorgen_cli.pipeline.nnunet_setup import TRAINER, job_folders, set_up

    made = set_up(
        open_workspace(work),
        method,
        healthy,
        cases,
        roi,
        probability,
        pool,
        share,
        mixup,
        until_pass,
        keep,
        judge,
        device,
        seed,
    )
    if as_json:
        console.print_json(made)
    for line in () if as_json else made.lines:
        typer.echo(line)
    split = f"copy {Path(made.file).parent / 'splits_final.json'} into $nnUNet_preprocessed/DATASET (not for a merged set, which has its own)"
    exports = export_line(job_folders(open_workspace(work)))
    script = "add the two lines to the job script" + f" and, as nnU-Net's folders are not all set, `{exports}`" * bool(
        exports
    )
    prepare = "nnUNetv2_plan_and_preprocess, where DATASET is not preprocessed"
    merged = " (of a set merged without --folds: fold 0)" if made.fold else ""
    console.next_command(
        f"{script}; {prepare}; {split}; then nnUNetv2_train DATASET 3d_fullres {made.fold} -tr {TRAINER}{merged}"
    )
