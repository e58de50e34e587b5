"""The command line: reads options, calls one function, prints, names the next command. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from tumorgen_cli import __version__
from tumorgen_cli.cli.nnunet import downstream, merge, nnunet_setup
from tumorgen_cli.cli.options import (
    DEFAULT_WORK,
    Device,
    Features,
    FoldNumber,
    Hosts,
    Inception,
    Json,
    JudgeFolder,
    Keep,
    Memory,
    MethodName,
    Preset,
    Regions,
    Seed,
    Sets,
    Settings,
    ShardOption,
    TumorLabel,
    UntilPass,
    Work,
    Workers,
    at_work,
    command,
    judge_faults,
    method_names,
    open_workspace,
    parse_shard,
)
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, PlanError, describe_counts

if TYPE_CHECKING:
    from tumorgen_cli.geometry import Box


OTHER_SHARDS = "the same command for the other shards; the last of them finishes the set"
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=("Learn tumors from a small annotated 3D data set, paint new ones (image and mask) into healthy scans."),
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tumorgen {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@command
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller phantoms, shorter training: 3 minutes at most on 2 cores.")
    ] = False,
    work: Work = Path("tumorgen_demo"),
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a phantom PET data set and run everything on it, from plan to report."""
    from tumorgen_cli.pipeline.run import run_demo

    result = run_demo(open_workspace(work), quick, device, seed or 0)
    _show_run(result, as_json)
    console.next_command("open the report above, then: tumorgen run DATASET --healthy DIR")


@app.command()
@command
def plan(
    dataset: Annotated[
        str, typer.Argument(help="Path of an nnU-Net raw data set, or its id or name under $nnUNet_raw.")
    ],
    work: Work = DEFAULT_WORK,
    tumor_label: TumorLabel = None,
    memory: Memory = None,
    preset: Preset = None,
    settings: Settings = None,
    device: Device = "auto",
    workers: Workers = None,
    seed: Seed = None,
    fold: FoldNumber = None,
    as_json: Json = False,
) -> None:
    """Check and fingerprint a data set; decide crop, resize, latent shape, alpha, networks, training."""
    from tumorgen_cli.pipeline import plan as plan_module

    made = plan_module.plan_dataset(
        open_workspace(work), dataset, tumor_label, device, memory, preset, settings or (), seed, workers, fold
    )
    if as_json:
        console.print_json(made)
    else:
        console.table(
            f"Plan of {made.dataset} ({work / 'plan.json'})",
            ("field", "value", "rule", "inputs"),
            plan_module.plan_rows(made),
        )
    console.next_command(f"tumorgen preprocess{at_work(work)}")


@app.command()
@command
def presets(
    name: Annotated[Optional[str], typer.Argument(help="A preset to show.")] = None,
    copy_to: Annotated[Optional[Path], typer.Option("--copy", help="Copy it to this file, to edit.")] = None,
    as_json: Json = False,
) -> None:
    """List, show or copy the presets that come with tumorgen."""
    from tumorgen_cli.planning.presets import preset_names, preset_text
    from tumorgen_cli.system.files import write_text

    if name is None and copy_to is not None:
        raise PlanError(
            "Nothing to copy",
            [Fault("--copy", "no preset named", "a name before it", "tumorgen presets NAME --copy FILE")],
        )
    if name is None:
        firsts = {each: preset_text(each).splitlines()[0].lstrip("# ") for each in preset_names()}
        if as_json:
            console.print_json(firsts)
        else:
            console.table("Presets", ("name", "what"), firsts.items())
        console.next_command("tumorgen plan DATASET --preset NAME")
        return
    text = preset_text(name)
    if copy_to is not None:
        if copy_to.exists():
            raise PlanError(
                "The file exists",
                [Fault(str(copy_to), "a file", "a new name", "choose another name; nothing was written")],
            )
        write_text(copy_to, text)
        console.next_command(f"tumorgen plan DATASET --preset {copy_to}")
        return
    typer.echo(text)
    console.next_command(f"tumorgen plan DATASET --preset {name}")


@app.command()
@command
def preprocess(
    work: Work = DEFAULT_WORK,
    healthy: Annotated[
        Optional[Path],
        typer.Option(
            "--healthy",
            help="Tumor-free scans too (<case>_0000.nii.gz), for methods that learn from them.",
            exists=True,
        ),
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = None,
) -> None:
    """Bring every case to the working spacing, in parallel; goes on where it stopped."""
    from tumorgen_cli.pipeline import preprocess as preprocess_module

    written = preprocess_module.preprocess_dataset(open_workspace(work), workers)
    console.note(f"{written} cases written")
    if healthy is not None:
        console.note(
            f"{preprocess_module.preprocess_healthy(open_workspace(work), healthy, workers)} healthy scans written"
        )
    console.next_command(f"tumorgen train all{at_work(work)}")


@app.command()
@command
def train(
    stage: Annotated[
        str,
        typer.Argument(help="vae, flow, refiner, or all; a rival's stage; judge: an nnU-Net that scores the pairs."),
    ],
    work: Work = DEFAULT_WORK,
    iterations: Annotated[
        Optional[int], typer.Option("--iterations", help="Steps in all (default: the plan's).", min=1)
    ] = None,
    init: Annotated[
        Optional[Path],
        typer.Option("--init", help="Checkpoint to start the VAE from (MAISI or tumorgen).", exists=True),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Train anew; the old weights are replaced.")] = False,
    minutes: Annotated[
        Optional[float], typer.Option("--minutes", help="How long to train a judge (default: 30).", min=0.1)
    ] = None,
    method: Annotated[
        Optional[str], typer.Option("--method", help="Whose stages (default: the method that has the stage).")
    ] = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Train a stage (or all): resumes by itself; `torchrun` or `accelerate launch` run it on several devices."""
    given = {"--iterations": iterations, "--init": init} if stage == "judge" else {"--minutes": minutes}
    faults = [
        Fault(option, str(value), f"no such option for {stage}", "leave it out")
        for option, value in given.items()
        if value is not None
    ]
    if faults:
        raise PlanError("Options that do not apply", faults)
    if stage == "judge":
        _train_judge(work, 30.0 if minutes is None else minutes, device, seed, restart, as_json)
        return
    from tumorgen_cli.methods.registry import find_method, method_of_stage
    from tumorgen_cli.pipeline.train import train_stages

    method = method or method_of_stage(stage)
    runs = train_stages(open_workspace(work), method, stage, iterations, device, restart, init, seed)
    if as_json:
        console.print_json(runs)
    stages = find_method(method).stages
    later = stages[stages.index(stage) + 1 :] if stage in stages else ()
    named = "" if method == "tumorgen" else f" --method {method}"
    console.next_command(
        (f"tumorgen train {later[0]}" if later else f"tumorgen synthesize --healthy DIR -n 20{named}") + at_work(work)
    )


def _train_judge(work: Path, minutes: float, device: Any, seed: int | None, restart: bool, as_json: bool) -> None:
    from tumorgen_cli.judge import find
    from tumorgen_cli.pipeline import train

    record = train.train_own_judge(open_workspace(work), minutes, device, seed, restart)
    if as_json:
        console.print_json(record)
    else:
        rows = [
            (s.case, *("–" if v is None else f"{v:.3f}" for v in (s.dice, s.surface_dice))) for s in record.held_out
        ]
        title = f"The judge on held-out cases ({record.schedule.epochs} epochs, {console.clock(record.seconds)})"
        rows.append(("mean", f"{record.mean_dice:.3f}", f"{record.mean_surface_dice:.3f}"))
        console.table(title, ("case", "DSC", f"NSD at {record.tolerance_mm} mm"), rows)
    if record.held_out and not record.mean_dice >= find.USEFUL_DICE:
        console.warn(f"this judge is too weak to score pairs with: {find.WEAK_JUDGE}")
    console.next_command(f"tumorgen evaluate{at_work(work)}")


@app.command()
@command
def synthesize(
    work: Work = DEFAULT_WORK,
    healthy: Annotated[
        Optional[Path], typer.Option("--healthy", help="Folder of tumor-free scans (NAME_0000.nii.gz, …).")
    ] = None,
    cases: Annotated[
        Optional[Literal["test", "train"]],
        typer.Option("--cases", help="Redraw the tumors of the split's cases instead."),
    ] = None,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Pairs to make in all.", min=1)] = 20,
    out: Annotated[Optional[Path], typer.Option("--out", help="Where to write (default: in the workspace).")] = None,
    box: Annotated[Optional[str], typer.Option("--box", help="x0,y0,z0,x1,y1,z1 in voxels of the host.")] = None,
    roi: Regions = None,
    steps: Annotated[
        Optional[int], typer.Option("--steps", help="Solver steps (default: the plan's 10).", min=1)
    ] = None,
    solver: Annotated[
        Optional[str], typer.Option("--solver", help="The plan's, unless given: euler, heun; of difftumor ddpm, ddim.")
    ] = None,
    kind: Annotated[
        Optional[str],
        typer.Option("--kind", help="Hard tumors only: low-contrast, necrotic or heterogeneous (tumorgen)."),
    ] = None,
    until_pass: UntilPass = None,
    keep: Keep = 0.7,
    judge: JudgeFolder = None,
    shard: ShardOption = None,
    method: MethodName = "tumorgen",
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Paint tumors: writes an nnU-Net raw data set with provenance and previews."""
    from tumorgen_cli.methods.base import Sampling
    from tumorgen_cli.pipeline import synthesize as synthesize_module

    if faults := judge_faults(judge, until_pass):
        raise PlanError("An option that does not apply", faults)
    if healthy is not None and cases is not None:
        raise PlanError("Two sources", [Fault("--healthy and --cases", "both given", "one of them", "leave one out")])
    report = synthesize_module.synthesize(
        open_workspace(work),
        method,
        pairs,
        healthy,
        cases,
        out,
        _parse_box(box),
        roi,
        Sampling(steps, solver, kind),
        device,
        seed,
        until_pass,
        keep,
        judge,
        shard=parse_shard(shard),
    )
    _show_set(report, as_json)
    if report.tally.left:
        console.next_command(OTHER_SHARDS)
        return
    if not report.tally.pairs:
        console.warn("no pair passed: lower --keep, raise --until-pass, or train longer")
    following = (
        f"evaluate --synthetic {report.folder}" if report.tally.pairs else f"train all{at_work(work)} --iterations N"
    )
    console.next_command(f"tumorgen {following}{at_work(work) if report.tally.pairs else ''}")


def _parse_box(text: str | None) -> Box | None:
    """What --box says."""
    if text is None:
        return None
    from tumorgen_cli.geometry import Box

    try:
        x0, y0, z0, x1, y1, z1 = (int(part) for part in text.split(","))
    except ValueError:
        fault = Fault(
            f"--box {text}", "not six whole numbers", "x0,y0,z0,x1,y1,z1", "for example --box 40,40,60,60,60,80"
        )
        raise PlanError("The box cannot be read", [fault]) from None
    if x1 <= x0 or y1 <= y0 or z1 <= z0:
        fault = Fault(
            f"--box {text}", "a stop that is not beyond its start", "x0 < x1, y0 < y1, z0 < z1", "swap the corners"
        )
        raise PlanError("The box has no volume", [fault])
    return Box((x0, y0, z0), (x1, y1, z1))


@app.command("filter")
@command
def filter_pairs(
    synthetic: Annotated[Path, typer.Argument(help="The set to filter; it stays as it is.")],
    work: Work = DEFAULT_WORK,
    keep: Keep = 0.7,
    judge: JudgeFolder = None,
    out: Annotated[
        Optional[Path], typer.Option("--out", help="Where the kept pairs go (default: SET_kept beside the set).")
    ] = None,
    shard: ShardOption = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Keep the pairs the judge agrees with, as a set of their own; list the others with the reasons."""
    from tumorgen_cli.pipeline import evaluate

    found = evaluate.filter_pairs(open_workspace(work), synthetic, keep, judge, out, device, parse_shard(shard))
    if as_json:
        console.print_json(found)
    else:
        rejected = describe_counts(found.reasons) or "none"
        rows = [
            ("kept", found.kept),
            ("rejected (see rejected.csv)", rejected),
            *([("left to other shards", found.left)] if found.left else []),
        ]
        console.table(f"Pairs in {found.folder}", ("what", "number"), rows)
    if found.left:
        console.next_command(OTHER_SHARDS)
        return
    again = f"tumorgen filter {synthetic} --keep {keep / 2:g} --out DIR{at_work(work)}"
    console.next_command(f"tumorgen evaluate --synthetic {found.folder}{at_work(work)}" if found.kept else again)


app.command()(merge)  # where it stands is its place in --help


@app.command()
@command
def evaluate(
    work: Work = DEFAULT_WORK,
    synthetic: Sets = None,
    judge: JudgeFolder = None,
    features: Features = "lite0",
    inception: Inception = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Score synthetic pairs: agreement with a judge, distances to real slices, a reader test, novelty; writes a report."""
    from tumorgen_cli.pipeline import evaluate as evaluate_module

    reports = evaluate_module.evaluate_sets(
        open_workspace(work), synthetic or (), judge, device, features, inception, seed
    )
    _show_scores(reports, as_json)
    console.next_command(
        f"open {reports[-1].page}, then: tumorgen merge DATASET SET --out Dataset601_Merged{at_work(work)}"
    )


@app.command()
@command
def compare(
    methods: Annotated[str, typer.Option("--methods", help="Names with commas between; the README has the list.")],
    work: Work = DEFAULT_WORK,
    healthy: Hosts = None,
    cases: Annotated[
        Optional[Literal["test", "train"]],
        typer.Option("--cases", help="Redraw these cases' own tumors, instead or too."),
    ] = None,
    pairs: Annotated[
        int, typer.Option("-n", "--pairs", help="Pairs of each method, on each kind of host.", min=1)
    ] = 20,
    iterations: Annotated[
        Optional[int], typer.Option("--iterations", help="Steps of every stage that is not trained.", min=1)
    ] = None,
    minutes: Annotated[
        Optional[float], typer.Option("--minutes", help="Training minutes of every method.", min=0.01)
    ] = None,
    train_on: Annotated[
        Optional[str], typer.Option("--train-on", help="Learn from tumors in this label alone, or from this data set.")
    ] = None,
    paint_in: Annotated[
        Optional[str],
        typer.Option("--paint-in", help="Paint in this label of the --healthy scans, or into this data set."),
    ] = None,
    host_labels: Annotated[
        Optional[Path], typer.Option("--host-labels", help="Their label files, named as the scans without _0000.")
    ] = None,
    judge: JudgeFolder = None,
    features: Features = "lite0",
    inception: Inception = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Train what is not trained, paint into the same places with every method, score; writes one table and one page."""
    faults = []
    if healthy is None and cases is None and paint_in is None:
        expected = "a folder of scans, or the data set's own cases"
        faults.append(Fault("--healthy", "nothing to paint into", expected, "give --healthy DIR or --cases test"))
    if iterations is not None and minutes is not None:
        faults.append(Fault("--iterations and --minutes", "both given", "one of them, or neither", "leave one out"))
    if (healthy is None) != (host_labels is None) and (paint_in or host_labels) is not None:
        expected = "--healthy, --host-labels and a label, or a data set alone"
        faults.append(
            Fault(
                "--paint-in", "one of --healthy and --host-labels", expected, "add what is missing, or leave both out"
            )
        )
    elif host_labels is not None and paint_in is None:
        faults.append(Fault("--host-labels", "no --paint-in", "the label to paint in", "add --paint-in LABEL"))
    names = method_names("--methods", methods, faults)
    from tumorgen_cli.evaluation.comparison import RULE, table_rows
    from tumorgen_cli.studies.comparison import Hosts, Scoring, compare_methods
    from tumorgen_cli.studies.training_length import TrainingLength

    hosts, scoring = Hosts(healthy, cases, paint_in, host_labels), Scoring(judge, features, inception)
    made = compare_methods(
        open_workspace(work), names, pairs, hosts, TrainingLength(iterations, minutes), scoring, device, seed, train_on
    )
    if as_json:
        console.print_json(made)
    for each in () if as_json else made.comparison.tables:
        done = [entry.method for entry in each.entries if not entry.failure]
        title = f"{each.hosts}: {each.pairs} pairs a method ({made.table})"
        console.table(title, ("measure [95 % interval]", "real", *done), table_rows(each, made.comparison))
        for entry in each.entries:
            if entry.failure:
                console.warn(f"{entry.method} failed on {each.hosts}: {entry.failure}")
    if not as_json:
        console.note(f"* {RULE}")
    console.next_command(f"open {made.page}")


app.command()(downstream)
study = typer.Typer(
    invoke_without_command=True, help="A blind real-or-synthetic study: one page for readers, and its scores."
)
app.add_typer(study, name="reader-study")


@study.callback()
def reader_study(
    context: typer.Context,
    synthetic: Sets = None,
    work: Work = DEFAULT_WORK,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Lesions of each kind.", min=1)] = 20,
    out: Annotated[Optional[Path], typer.Option("--out", help="Where to write (default: in the workspace).")] = None,
    with_mask: Annotated[bool, typer.Option("--with-mask", help="Let readers outline the lesion.")] = False,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Write the page and its key."""
    if context.invoked_subcommand is None:
        _write_study(
            synthetic=synthetic or [], work=work, pairs=pairs, out=out, with_mask=with_mask, seed=seed, as_json=as_json
        )


@command
def _write_study(
    synthetic: list[Path], work: Path, pairs: int, out: Path | None, with_mask: bool, seed: int | None, as_json: bool
) -> None:
    from tumorgen_cli.studies import reader_study

    made = reader_study.make_reader_study(open_workspace(work), synthetic, pairs, out, seed, with_mask)
    if as_json:
        console.print_json(made)
    for line in () if as_json else made.notes:
        console.note(line)
    console.next_command(
        f"send {made.page} to readers (never key.json), then: tumorgen reader-study score ANSWERS... --key {made.key}"
    )


@study.command("score")
@command
def score_study(
    answers: Annotated[list[Path], typer.Argument(help="The files that readers exported.")],
    key: Annotated[Path, typer.Option("--key", help="The study's key.json.")],
    as_json: Json = False,
) -> None:
    """Sensitivity, specificity and accuracy of the readers, with intervals."""
    from tumorgen_cli.studies import reader_study as room

    scores = room.score_study(answers, key)
    if as_json:
        console.print_json(scores)
        return
    console.table(f"Reader study {scores.study}, {scores.cases} cases", room.SCORE_COLUMNS, room.score_rows(scores))
    console.note(room.SCORE_NOTE)


@app.command()
@command
def run(
    dataset: Annotated[
        str, typer.Argument(help="Path of an nnU-Net raw data set, or its id or name under $nnUNet_raw.")
    ],
    healthy: Annotated[Path, typer.Option("--healthy", help="Folder of tumor-free scans.")],
    work: Work = DEFAULT_WORK,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Pairs to make.", min=1)] = 20,
    judge: JudgeFolder = None,
    tumor_label: TumorLabel = None,
    memory: Memory = None,
    preset: Preset = None,
    settings: Settings = None,
    device: Device = "auto",
    seed: Seed = None,
    fold: FoldNumber = None,
    as_json: Json = False,
) -> None:
    """Plan, preprocess, train, synthesize, evaluate; run it again and it goes on where it stopped."""
    from tumorgen_cli.pipeline import run as run_module

    result = run_module.run_all(
        open_workspace(work),
        dataset,
        healthy,
        pairs,
        judge,
        tumor_label,
        memory,
        preset,
        settings or (),
        device,
        seed,
        fold,
    )
    _show_run(result, as_json)
    console.next_command(f"tumorgen synthesize --healthy {healthy} -n 100 --out DIR{at_work(work)}")


@app.command()
@command
def status(work: Work = DEFAULT_WORK, as_json: Json = False) -> None:
    """What is done, what is stale, what is next."""
    from tumorgen_cli.pipeline.status import status as stand

    steps = stand(open_workspace(work))
    if as_json:
        console.print_json(steps)
    else:
        console.table(f"Workspace {work}", ("step", "state", "detail"), [(s.name, s.state, s.detail) for s in steps])
    open_steps = [step for step in steps if step.state != "done"]
    console.next_command(
        open_steps[0].command if open_steps else f"tumorgen synthesize --healthy DIR -n N --out DIR{at_work(work)}"
    )


app.command("nnunet-setup")(nnunet_setup)


def _show_set(report: Any, as_json: bool) -> None:
    if as_json:
        console.print_json(report)
        return
    tally = report.tally
    rejected = describe_counts(tally.rejected) or "none"
    rows = [
        ("pairs", tally.pairs),
        ("made now", tally.made),
        *([("left to other shards", tally.left)] if tally.left else []),
        ("given up", tally.given_up),
        ("draws rejected", f"{rejected} of {tally.draws}"),
        ("windows over a scan's edge", tally.padded),
        ("seconds a pair, file to file", tally.seconds_per_pair),
    ]
    console.table(f"Pairs in {report.folder}", ("what", "number"), rows)


def _show_scores(reports: Any, as_json: bool) -> None:
    if as_json:
        console.print_json(reports)
        return
    for report in reports:
        console.table(f"Scores of {report.name} ({report.page})", ("what", "value"), report.rows)


def _show_run(result: Any, as_json: bool) -> None:
    if as_json:
        console.print_json(result)
        return
    _show_set(result.pairs, False)
    _show_scores(result.scores, False)
