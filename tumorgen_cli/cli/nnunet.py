"""The commands that put pairs into the training of nnU-Net: merge, nnunet-setup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tumorgen_cli import api
from tumorgen_cli.cli.commands import command, planned_command
from tumorgen_cli.cli.options import (
    Aim,
    Anywhere,
    Device,
    Healthy,
    Json,
    JudgeFolder,
    Keep,
    MethodOption,
    PAlone,
    Regions,
    Seed,
    TrainingCases,
    TrustUnits,
    TumorCount,
    UntilPass,
    Work,
    refuse,
)
from tumorgen_cli.pipeline.hints import DEFAULT_WORK
from tumorgen_cli.synthesis.options import host_faults, judge_faults
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import describe_counts, say_count

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.nnunet_setup import Setup
    from tumorgen_cli.synthesis.merge import Merge

_PATCHES = "Painting while nnU-Net trains"


@command
def merge(
    real: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="The real nnU-Net raw data set: a path, or an id or name under $nnUNet_raw."
        ),
    ],
    sets: Annotated[
        list[Path], typer.Argument(metavar="SETS", help="Synthetic sets: folders, or names in the workspace.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="FOLDER/DatasetNNN_Name; the name alone goes to $nnUNet_raw, else to WORK/nnunet/nnUNet_raw."
        ),
    ],
    folds: Annotated[
        int,
        typer.Option(
            "--folds",
            help="1: validate on cases that no set has learned from; more: the data set's own folds, or nnU-Net's.",
            min=1,
        ),
    ] = 1,
    oversample: Annotated[
        int, typer.Option("--oversample", help="How many times a real case stands in the training lists.", min=1)
    ] = 1,
    preprocessed: Annotated[
        Optional[Path],
        typer.Option("--preprocessed", help="nnU-Net's preprocessed folder. Default: $nnUNet_preprocessed."),
    ] = None,
    copy: Annotated[
        bool,
        typer.Option("--copy", metavar="", help="Copy images instead of linking to them. Labels are always copied."),
    ] = False,
    work: Work = DEFAULT_WORK,
    as_json: Json = False,
) -> None:
    """Put real cases and pairs into one nnU-Net raw data set, with folds that validate only on unseen real cases."""
    options = {"folds": folds, "oversample": oversample}
    made = api.merge(real, sets, out, **options, preprocessed=preprocessed, copy=copy, work=work)
    if as_json:
        console.print_json({"folder": made.out, "splits": made.splits, "folds": made.folds})
    else:
        _show_merge(made)
    empty = ", ".join(str(number) for number, fold in enumerate(made.folds) if not fold.pairs)
    if empty:
        console.warn(f"no pair to learn from in fold {empty}: every pair comes from its validation cases")
    if len(made.splits) == 1:
        console.note("nnU-Net copies the folds into nnUNet_preprocessed when it plans")
    console.next_command(_training_commands(made, work, preprocessed))


def _show_merge(made: Merge) -> None:
    """Print what each fold holds."""
    columns = ("fold", "real, training", "real, validation", "pairs, training", "pairs left out", "share of real draws")
    rows = [
        (
            number,
            len(fold.train),
            len(fold.validation),
            len(fold.pairs),
            describe_counts(fold.left_out) or "none",
            f"{fold.real_share:.0%}",
        )
        for number, fold in enumerate(made.folds)
    ]
    cases, pairs = say_count(len(made.real.cases), "real case"), say_count(len(made.pairs), "pair")
    console.table(f"{cases} and {pairs} in {made.out}", columns, rows)
    for path in made.splits:
        console.note(f"folds: {path}")


def _training_commands(made: Merge, work: Path, preprocessed: Path | None) -> str:
    """The shell commands with which nnU-Net learns from a merged data set."""
    from tumorgen_cli.nnunet.runner import export_line, user_folders

    number = int(made.out.name[len("Dataset") :][:3])
    folders = user_folders(work) | {"nnUNet_raw": made.out.parent}
    folders |= {"nnUNet_preprocessed": preprocessed} if preprocessed else {}
    steps = [f"nnUNetv2_plan_and_preprocess -d {number} -c 3d_fullres", f"nnUNetv2_train {number} 3d_fullres 0"]
    return " && ".join(filter(None, [export_line(folders), *steps]))


@planned_command
def nnunet_setup(
    healthy: Healthy = None,
    cases: TrainingCases = None,
    roi: Regions = None,
    tumors: TumorCount = None,
    anywhere: Anywhere = False,
    aim: Aim = None,
    probability: Annotated[
        float,
        typer.Option(
            "--probability",
            help="Probability that a training patch is a painted one.",
            min=0.0,
            max=1.0,
            rich_help_panel=_PATCHES,
        ),
    ] = 0.5,
    around: Annotated[
        Optional[float],
        typer.Option(
            "--around",
            metavar="SHARE",
            help="Share of painted patches that are cut around a tumor, the others elsewhere in the painted scan. "
            "Default: as many show a tumor as of the real patches.",
            min=0.0,
            max=1.0,
            rich_help_panel=_PATCHES,
        ),
    ] = None,
    pool: Annotated[
        int, typer.Option("--pool", help="Painted patches that are kept at a time.", min=1, rich_help_panel=_PATCHES)
    ] = 32,
    share: Annotated[
        float,
        typer.Option(
            "--share",
            help="Largest share of its time that the painter computes.",
            min=0.01,
            max=1.0,
            rich_help_panel=_PATCHES,
        ),
    ] = 0.15,
    mixup: Annotated[
        float,
        typer.Option(
            "--mixup",
            help="Share of painted patches into which a box of another is pasted.",
            min=0.0,
            max=1.0,
            rich_help_panel=_PATCHES,
        ),
    ] = 0.0,
    method: MethodOption = "tumorgen",
    until_pass: UntilPass = None,
    keep: Keep = 0.7,
    p_alone: PAlone = False,
    judge: JudgeFolder = None,
    trust_units: TrustUnits = False,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Print two lines for a job script with which nnU-Net paints new tumors while it trains."""
    # Long: a command's parameters are its options
    hosts = api.HostOptions(healthy, cases, roi, tumors=tumors, anywhere=anywhere, trust_units=trust_units, aim=aim)
    quality = api.QualityOptions(until_pass, keep, judge, p_alone)
    refuse("Options that do not fit together", host_faults(hosts, both=True) + judge_faults(quality))
    made = api.setup_nnunet(
        hosts,
        method=method,
        patches=api.OnTheFlyOptions(probability, pool, share, mixup, around),
        quality=quality,
        work=work,
        device=device,
        seed=seed,
    )
    if as_json:
        console.print_json(made)
    else:
        for line in made.lines:
            typer.echo(line)
    console.next_command(_setup_steps(made, work))


def _setup_steps(made: Setup, work: Path) -> str:
    """What to do with the two lines."""
    from tumorgen_cli.nnunet.runner import export_line
    from tumorgen_cli.pipeline.nnunet_setup import TRAINER, job_folders
    from tumorgen_cli.planning.workspace import Workspace

    exports = export_line(job_folders(Workspace(work.resolve())))
    script = "add the two lines to the job script"
    script += f" and, because not all of nnU-Net's folders are set, `{exports}`" if exports else ""
    splits = Path(made.file).parent / "splits_final.json"
    copy = f"copy {splits} into $nnUNet_preprocessed/DATASET (not for a merged set, which has its own)"
    merged = " (of a set merged without --folds: fold 0)" if made.fold else ""
    train = f"nnUNetv2_train DATASET 3d_fullres {made.fold} -tr {TRAINER}{merged}"
    return f"{script}; nnUNetv2_plan_and_preprocess, if DATASET is not preprocessed; {copy}; then {train}"
