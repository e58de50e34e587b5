"""The command line: reads options, calls one function, prints, names the next command. Nothing heavy is imported here."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

import typer

from tumorgen_cli import __version__, console
from tumorgen_cli.errors import Fault, PlanError, TumorgenError

if TYPE_CHECKING:
    from tumorgen_cli.workspace import Workspace

F = TypeVar("F", bound=Callable[..., Any])

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, help=(
    "Learn tumors from a small annotated 3D data set, paint new ones (image and mask) into healthy scans."
))  # fmt: skip

Work = Annotated[Path, typer.Option("-w", "--work", help="Workspace: one folder, one data set.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]
Seed = Annotated[Optional[int], typer.Option("--seed", help="Seed of every random draw (default: the plan's).")]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON on stdout.")]
MethodName = Annotated[str, typer.Option("--method", help="How to paint; the README has the list.")]
Settings = Annotated[Optional[list[str]], typer.Option("--set", help="Set a plan field: a.b=value. Repeatable.")]
Preset = Annotated[Optional[str], typer.Option("--preset", help="A preset's name (see `tumorgen presets`) or YAML file.")]
Memory = Annotated[Optional[float], typer.Option("--memory", help="GiB to plan for (default: what the device has).", min=0.5)]
TumorLabel = Annotated[Optional[str], typer.Option("--tumor-label", help="Name or value of the tumor label.")]
Workers = Annotated[Optional[int], typer.Option("--workers", help="Processes (default: by cores and memory; 0: none).", min=0)]
FoldNumber = Annotated[
    Optional[int],
    typer.Option("--fold", help="Held out: of splits_final.json (else 0), or, without it, of nnU-Net's five (else every fifth case).", min=0),
]
JudgeFolder = Annotated[
    Optional[Path],
    typer.Option("--judge", help="An nnU-Net v2 results folder, or `bundled` (default: the workspace's own, else, for FDG-PET, the bundled one)."),
]
Keep = Annotated[float, typer.Option("--keep", help="Least share of the mask that the judge must find (FreeTumor's P).", min=0.0, max=1.0)]
Features = Annotated[Literal["lite0", "filters", "inception"], typer.Option("--features", help="Feature network; only inception gives FID.")]
Inception = Annotated[Optional[Path], typer.Option("--inception", help="The standard FID weights, if not to be downloaded.", exists=True)]
ShardOption = Annotated[Optional[str], typer.Option("--shard", help="i/n: part i of n of the pairs (default: torchrun's RANK and WORLD_SIZE).")]
DEFAULT_WORK = Path("tumorgen_work")
OTHER_SHARDS = "the same command for the other shards; the last of them finishes the set"


def _command(function: F) -> F:
    """A command: a user's error is told without a traceback (exit 1), time and peak memory go to `commands.jsonl`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        begun = time.monotonic()
        try:
            function(*args, **kwargs)
            _record(function.__name__, kwargs, time.monotonic() - begun)
        except TumorgenError as error:
            console.show_error(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            console.warn("stopped; what was finished is kept, the same command goes on from there")
            raise typer.Exit(130) from None

    return run  # type: ignore[return-value]


def _record(command: str, options: dict[str, Any], seconds: float) -> None:
    """A line of what a command cost, for benchmarks and `status`."""
    from tumorgen_cli.devices import peak_memory_gib
    from tumorgen_cli.files import append_line

    root = options.get("work")
    if not isinstance(root, Path) or not root.is_dir() or command in ("status", "presets"):
        return
    line = {"command": command, "stage": options.get("stage"), "seconds": round(seconds, 1), "peak_memory_gib": round(peak_memory_gib(), 2)}
    append_line(root / "commands.jsonl", json.dumps(line))


def _workspace(work: Path) -> Workspace:
    from tumorgen_cli.workspace import Workspace

    return Workspace(work.resolve())


def _at(work: Path) -> str:
    return "" if work == DEFAULT_WORK else f" -w {work}"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tumorgen {__version__}")
        raise typer.Exit


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass


@app.command()
@_command
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller phantoms, shorter training: 3 minutes at most on 2 cores.")] = False,
    work: Work = Path("tumorgen_demo"),
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a phantom PET data set and run everything on it, from plan to report."""
    from tumorgen_cli.demo import run_demo

    result = run_demo(_workspace(work), quick, device, seed or 0)
    _show_run(result, as_json)
    console.next_command("open the report above, then: tumorgen run DATASET --healthy DIR")


@app.command()
@_command
def plan(
    dataset: Annotated[str, typer.Argument(help="Path of an nnU-Net raw data set, or its id or name under $nnUNet_raw.")],
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
    from tumorgen_cli import pipeline

    made = pipeline.plan_dataset(_workspace(work), dataset, tumor_label, device, memory, preset, settings or (), seed, workers, fold)
    if as_json:
        console.print_json(made)
    else:
        console.table(f"Plan of {made.dataset} ({work / 'plan.json'})", ("field", "value", "rule", "inputs"), pipeline.plan_rows(made))
    console.next_command(f"tumorgen preprocess{_at(work)}")


@app.command()
@_command
def presets(
    name: Annotated[Optional[str], typer.Argument(help="A preset to show.")] = None,
    copy_to: Annotated[Optional[Path], typer.Option("--copy", help="Copy it to this file, to edit.")] = None,
    as_json: Json = False,
) -> None:
    """List, show or copy the presets that come with tumorgen."""
    from tumorgen_cli.files import write_text
    from tumorgen_cli.plan import preset_names, preset_text

    if name is None and copy_to is not None:
        raise PlanError("Nothing to copy", [Fault("--copy", "no preset named", "a name before it", "tumorgen presets NAME --copy FILE")])
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
            raise PlanError("The file exists", [Fault(str(copy_to), "a file", "a new name", "choose another name; nothing was written")])
        write_text(copy_to, text)
        console.next_command(f"tumorgen plan DATASET --preset {copy_to}")
        return
    typer.echo(text)
    console.next_command(f"tumorgen plan DATASET --preset {name}")


@app.command()
@_command
def preprocess(
    work: Work = DEFAULT_WORK,
    healthy: Annotated[
        Optional[Path], typer.Option("--healthy", help="Tumor-free scans too (<case>_0000.nii.gz), for methods that learn from them.", exists=True)
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = None,
) -> None:
    """Bring every case to the working spacing, in parallel; goes on where it stopped."""
    from tumorgen_cli import pipeline

    written = pipeline.preprocess_dataset(_workspace(work), workers)
    console.note(f"{written} cases written")
    if healthy is not None:
        console.note(f"{pipeline.preprocess_healthy(_workspace(work), healthy, workers)} healthy scans written")
    console.next_command(f"tumorgen train all{_at(work)}")


@app.command()
@_command
def train(
    stage: Annotated[str, typer.Argument(help="vae, flow, refiner, or all; a rival's stage; judge: an nnU-Net that scores the pairs.")],
    work: Work = DEFAULT_WORK,
    iterations: Annotated[Optional[int], typer.Option("--iterations", help="Steps in all (default: the plan's).", min=1)] = None,
    init: Annotated[Optional[Path], typer.Option("--init", help="Checkpoint to start the VAE from (MAISI or tumorgen).", exists=True)] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Train anew; the old weights are replaced.")] = False,
    minutes: Annotated[Optional[float], typer.Option("--minutes", help="How long to train a judge (default: 30).", min=0.1)] = None,
    method: Annotated[Optional[str], typer.Option("--method", help="Whose stages (default: the method that has the stage).")] = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Train a stage (or all): resumes by itself; `torchrun` or `accelerate launch` run it on several devices."""
    given = {"--iterations": iterations, "--init": init} if stage == "judge" else {"--minutes": minutes}
    faults = [Fault(option, str(value), f"no such option for {stage}", "leave it out") for option, value in given.items() if value is not None]
    if faults:
        raise PlanError("Options that do not apply", faults)
    if stage == "judge":
        _train_judge(work, 30.0 if minutes is None else minutes, device, seed, restart, as_json)
        return
    from tumorgen_cli.methods import find_method, method_of_stage
    from tumorgen_cli.stages import train_stages

    method = method or method_of_stage(stage)
    runs = train_stages(_workspace(work), method, stage, iterations, device, restart, init, seed)
    if as_json:
        console.print_json(runs)
    stages = find_method(method).stages
    later = stages[stages.index(stage) + 1 :] if stage in stages else ()
    named = "" if method == "tumorgen" else f" --method {method}"
    console.next_command((f"tumorgen train {later[0]}" if later else f"tumorgen synthesize --healthy DIR -n 20{named}") + _at(work))


def _train_judge(work: Path, minutes: float, device: Any, seed: int | None, restart: bool, as_json: bool) -> None:
    from tumorgen_cli import judges, pipeline

    record = pipeline.train_own_judge(_workspace(work), minutes, device, seed, restart)
    if as_json:
        console.print_json(record)
    else:
        rows = [(s.case, *("–" if v is None else f"{v:.3f}" for v in (s.dice, s.surface_dice))) for s in record.held_out]
        title = f"The judge on held-out cases ({record.schedule.epochs} epochs, {console.clock(record.seconds)})"
        rows.append(("mean", f"{record.mean_dice:.3f}", f"{record.mean_surface_dice:.3f}"))
        console.table(title, ("case", "DSC", f"NSD at {record.tolerance_mm} mm"), rows)
    if record.held_out and not record.mean_dice >= judges.USEFUL_DICE:
        console.warn(f"this judge is too weak to score pairs with: {judges.WEAK_JUDGE}")
    console.next_command(f"tumorgen evaluate{_at(work)}")


@app.command()
@_command
def synthesize(
    work: Work = DEFAULT_WORK,
    healthy: Annotated[Optional[Path], typer.Option("--healthy", help="Folder of tumor-free scans (NAME_0000.nii.gz, …).")] = None,
    cases: Annotated[Optional[Literal["test", "train"]], typer.Option("--cases", help="Redraw the tumors of the split's cases instead.")] = None,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Pairs to make in all.", min=1)] = 20,
    out: Annotated[Optional[Path], typer.Option("--out", help="Where to write (default: in the workspace).")] = None,
    box: Annotated[Optional[str], typer.Option("--box", help="x0,y0,z0,x1,y1,z1 in voxels of the host.")] = None,
    roi: Annotated[Optional[Path], typer.Option("--roi", help="Folder of masks to paint in, one per scan.")] = None,
    steps: Annotated[Optional[int], typer.Option("--steps", help="Solver steps (default: the plan's 10).", min=1)] = None,
    solver: Annotated[Optional[str], typer.Option("--solver", help="The plan's, unless given: euler, heun; of difftumor ddpm, ddim.")] = None,
    kind: Annotated[Optional[str], typer.Option("--kind", help="Hard tumors only: low-contrast, necrotic or heterogeneous (tumorgen).")] = None,
    until_pass: Annotated[Optional[int], typer.Option("--until-pass", help="Draw a pair again, so often, until it passes the judge.", min=1)] = None,
    keep: Keep = 0.7,
    judge: JudgeFolder = None,
    shard: ShardOption = None,
    method: MethodName = "tumorgen",
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Paint tumors: writes an nnU-Net raw data set with provenance and previews."""
    from tumorgen_cli import pipeline
    from tumorgen_cli.methods.method import Sampling

    if judge is not None and until_pass is None:
        raise PlanError("An option that does not apply", [Fault("--judge", str(judge), "--until-pass beside it", "add it, or leave both out")])
    if healthy is not None and cases is not None:
        raise PlanError("Two sources", [Fault("--healthy and --cases", "both given", "one of them", "leave one out")])
    report = pipeline.synthesize(
        _workspace(work), method, pairs, healthy, cases, out, _parse_box(box), roi, Sampling(steps, solver, kind), device, seed, until_pass,
        keep, judge, shard=_parse_shard(shard),
    )  # fmt: skip
    _show_set(report, as_json)
    if report.tally.left:
        console.next_command(OTHER_SHARDS)
        return
    if not report.tally.pairs:
        console.warn("no pair passed: lower --keep, raise --until-pass, or train longer")
    following = f"evaluate --synthetic {report.folder}" if report.tally.pairs else f"train all{_at(work)} --iterations N"
    console.next_command(f"tumorgen {following}{_at(work) if report.tally.pairs else ''}")


@app.command("filter")
@_command
def filter_pairs(
    synthetic: Annotated[Path, typer.Argument(help="The set to filter; it stays as it is.")],
    work: Work = DEFAULT_WORK,
    keep: Keep = 0.7,
    judge: JudgeFolder = None,
    out: Annotated[Optional[Path], typer.Option("--out", help="Where the kept pairs go (default: SET_kept beside the set).")] = None,
    shard: ShardOption = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Keep the pairs the judge agrees with, as a set of their own; list the others with the reasons."""
    from tumorgen_cli import pipeline

    found = pipeline.filter_pairs(_workspace(work), synthetic, keep, judge, out, device, _parse_shard(shard))
    if as_json:
        console.print_json(found)
    else:
        rejected = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items()) or "none"
        rows = [("kept", found.kept), ("rejected (see rejected.csv)", rejected), *([("left to other shards", found.left)] if found.left else [])]
        console.table(f"Pairs in {found.folder}", ("what", "number"), rows)
    if found.left:
        console.next_command(OTHER_SHARDS)
        return
    again = f"tumorgen filter {synthetic} --keep {keep / 2:g} --out DIR{_at(work)}"
    console.next_command(f"tumorgen evaluate --synthetic {found.folder}{_at(work)}" if found.kept else again)


@app.command()
@_command
def merge(
    real: Annotated[str, typer.Argument(help="The real nnU-Net raw data set: a path, or its id or name under $nnUNet_raw.")],
    synthetic: Annotated[list[Path], typer.Argument(help="Synthetic sets: their folders, or names in the workspace.")],
    out: Annotated[Path, typer.Option("--out", help="DIR/DatasetNNN_Name; the name alone goes to $nnUNet_raw, or to WORK/nnunet/nnUNet_raw.")],
    work: Work = DEFAULT_WORK,
    folds: Annotated[
        int, typer.Option("--folds", help="1: validate on cases no set has learnt from; more: the data set's own if as many, or nnU-Net's.", min=1)
    ] = 1,
    oversample: Annotated[int, typer.Option("--oversample", help="How often a real case stands in the training lists.", min=1)] = 1,
    preprocessed: Annotated[
        Optional[Path], typer.Option("--preprocessed", help="nnU-Net's preprocessed folder (default: $nnUNet_preprocessed).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put real cases and synthetic pairs into one nnU-Net raw data set, with folds that validate on unseen real cases alone."""
    from tumorgen_cli import pipeline
    from tumorgen_cli.nnunet import export_line, users_folders

    made = pipeline.merge(_workspace(work), real, synthetic, out, folds, oversample, preprocessed)
    if as_json:
        console.print_json({"folder": made.out, "splits": made.splits, "folds": made.folds})
    else:
        rows = []
        for number, f in enumerate(made.folds):
            left_out = ", ".join(f"{count} {reason}" for reason, count in f.left_out.items()) or "none"
            rows.append((number, len(f.train), len(f.validation), len(f.pairs), left_out, f"{f.real_share:.0%}"))
        columns = ("fold", "real, training", "real, validation", "pairs, training", "pairs left out", "real share of what is drawn")
        console.table(f"{len(made.real.cases)} real cases and {len(made.pairs)} pairs in {made.out}", columns, rows)
        for path in made.splits:
            console.note(f"folds: {path}")
    empty = ", ".join(str(number) for number, fold in enumerate(made.folds) if not fold.pairs)
    if empty:
        console.warn(f"no pair to learn from in fold {empty}: every pair comes from its validation cases")
    if len(made.splits) == 1:
        console.note("nnU-Net copies the folds into nnUNet_preprocessed when it plans")
    number = int(made.out.name[len("Dataset") :][:3])
    folders = users_folders(work) | {"nnUNet_raw": made.out.parent} | ({"nnUNet_preprocessed": preprocessed} if preprocessed else {})
    steps = [f"nnUNetv2_plan_and_preprocess -d {number} -c 3d_fullres", f"nnUNetv2_train {number} 3d_fullres 0"]
    console.next_command(" && ".join(filter(None, [export_line(folders), *steps])))


@app.command()
@_command
def evaluate(
    work: Work = DEFAULT_WORK,
    synthetic: Annotated[Optional[list[Path]], typer.Option("--synthetic", help="A set; repeatable (default: every set of the workspace).")] = None,
    judge: JudgeFolder = None,
    features: Features = "lite0",
    inception: Inception = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Score synthetic pairs: agreement with a judge, distances to real slices, a reader test, novelty; writes a report."""
    from tumorgen_cli import pipeline

    reports = pipeline.evaluate_sets(_workspace(work), synthetic or (), judge, device, features, inception, seed)
    _show_scores(reports, as_json)
    console.next_command(f"open {reports[-1].page}, then: tumorgen merge DATASET SET --out Dataset601_Merged{_at(work)}")


@app.command()
@_command
def compare(
    methods: Annotated[str, typer.Option("--methods", help="Names with commas between; the README has the list.")],
    work: Work = DEFAULT_WORK,
    healthy: Annotated[Optional[Path], typer.Option("--healthy", help="Folder of tumor-free scans to paint into.")] = None,
    cases: Annotated[Optional[Literal["test", "train"]], typer.Option("--cases", help="Redraw these cases' own tumors, instead or too.")] = None,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Pairs of each method, on each kind of host.", min=1)] = 20,
    iterations: Annotated[Optional[int], typer.Option("--iterations", help="Steps of every stage that is not trained.", min=1)] = None,
    minutes: Annotated[Optional[float], typer.Option("--minutes", help="Training minutes of every method.", min=0.01)] = None,
    train_on: Annotated[Optional[str], typer.Option("--train-on", help="Learn from tumors in this label alone, or from this data set.")] = None,
    paint_in: Annotated[Optional[str], typer.Option("--paint-in", help="Paint in this label of the --healthy scans, or into this data set.")] = None,
    host_labels: Annotated[Optional[Path], typer.Option("--host-labels", help="Their label files, named as the scans without _0000.")] = None,
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
        faults.append(Fault("--paint-in", "one of --healthy and --host-labels", expected, "add what is missing, or leave both out"))
    elif host_labels is not None and paint_in is None:
        faults.append(Fault("--host-labels", "no --paint-in", "the label to paint in", "add --paint-in LABEL"))
    names = _method_names("--methods", methods, faults)
    from tumorgen_cli.budgets import Budget
    from tumorgen_cli.comparison import Hosts, Scoring, compare_methods
    from tumorgen_cli.comparison_table import RULE, table_rows

    hosts, scoring = Hosts(healthy, cases, paint_in, host_labels), Scoring(judge, features, inception)
    made = compare_methods(_workspace(work), names, pairs, hosts, Budget(iterations, minutes), scoring, device, seed, train_on)
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


def _method_names(option: str, text: str, faults: list[Fault], live: bool = False) -> list[str]:
    """The methods (or arms of `downstream`) that an option names; tells what is wrong with them together with `faults`."""
    from tumorgen_cli.files import unknown_name
    from tumorgen_cli.methods import METHODS

    names, known = [name.strip() for name in text.split(",")], METHODS
    if live:
        known = ("real", *METHODS, *(f"{name}-live" for name in METHODS))
    faults += [unknown_name(option, name, known) for name in dict.fromkeys(names) if name not in known]
    faults += [Fault(f"{option}.{name}", "named twice", "once", "leave one out") for name in known if names.count(name) > 1]
    if faults:
        raise PlanError("Nothing can be compared so", faults)
    return names


@app.command()
@_command
def downstream(
    arms: Annotated[str, typer.Option("--arms", help="real, and methods; with -live painted while nnU-Net trains.")] = "real,tumorgen",
    work: Work = DEFAULT_WORK,
    healthy: Annotated[Optional[Path], typer.Option("--healthy", help="Folder of tumor-free scans to paint into.")] = None,
    cases: Annotated[Optional[Literal["train"]], typer.Option("--cases", help="Redraw the training cases' own tumors, instead or too.")] = None,
    fractions: Annotated[str, typer.Option("--fractions", help="Shares of the real training cases, with commas between.")] = "0.25,0.5,1",
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each arm.", min=1)] = 3,
    minutes: Annotated[float, typer.Option("--minutes", help="Of the first nnU-Net; all others take as many iterations.", min=0.01)] = 60.0,
    ratio: Annotated[int, typer.Option("--ratio", help="Pairs to a real case.", min=1)] = 4,
    real_share: Annotated[float, typer.Option("--real-share", help="Of real cases in what is drawn in training.", min=0.01, max=0.99)] = 0.5,
    jobs: Annotated[Optional[int], typer.Option("--jobs", help="nnU-Nets at a time (default: one per GPU, or one).", min=1)] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train nnU-Nets with and without pairs, alike otherwise, and score them on real held-out cases."""
    faults = []
    named = {name.strip() for name in arms.split(",")}
    if "real" not in named:
        faults.append(Fault(f"--arms {arms}", "no real", "the arm that gains are measured against", "add real"))
    if healthy is None and cases is None and named != {"real"}:
        faults.append(Fault("--healthy", "nothing to paint into", "a folder of scans", "give --healthy DIR, --cases train, or both"))
    try:
        shares = tuple(float(part) for part in fractions.split(","))
    except ValueError:
        shares = ()
        faults.append(Fault("--fractions", fractions, "numbers with commas between", "for example 0.25,0.5,1"))
    names = _method_names("--arms", arms, faults, live=True)
    from tumorgen_cli.downstream import Design, gain_rows, measure_gains

    design = Design(tuple(names), shares, seeds, minutes, ratio, real_share)
    made = measure_gains(_workspace(work), design, healthy, cases, device, jobs)
    if as_json:
        console.print_json(made)
    else:
        title = f"{len(made.result.held_out)} real held-out patients ({made.table})"
        columns = ("real cases", "arm", "DSC [95 % interval]", "gain", "better / worse, p", "NSD", "found", "FP a scan")
        console.table(title, columns, gain_rows(made.result.arms))
    for each in made.result.failures:
        console.warn(f"{each.arm} with {each.cases} real cases failed: {each.reason}")
    console.next_command(f"open {made.page}")


study = typer.Typer(invoke_without_command=True, help="A blind real-or-synthetic study: one page for readers, and its scores.")
app.add_typer(study, name="reader-study")


@study.callback()
def reader_study(
    context: typer.Context,
    synthetic: Annotated[Optional[list[Path]], typer.Option("--synthetic", help="A set; repeatable (default: every set of the workspace).")] = None,
    work: Work = DEFAULT_WORK,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Lesions of each kind.", min=1)] = 20,
    out: Annotated[Optional[Path], typer.Option("--out", help="Where to write (default: in the workspace).")] = None,
    with_mask: Annotated[bool, typer.Option("--with-mask", help="Let readers outline the lesion.")] = False,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Write the page and its key."""
    if context.invoked_subcommand is None:
        _write_study(synthetic=synthetic or [], work=work, pairs=pairs, out=out, with_mask=with_mask, seed=seed, as_json=as_json)


@_command
def _write_study(
    synthetic: list[Path], work: Path, pairs: int, out: Path | None, with_mask: bool, seed: int | None, as_json: bool
) -> None:
    from tumorgen_cli import pipeline

    made = pipeline.make_reader_study(_workspace(work), synthetic, pairs, out, seed, with_mask)
    if as_json:
        console.print_json(made)
    for line in () if as_json else made.notes:
        console.note(line)
    console.next_command(f"send {made.page} to readers (never key.json), then: tumorgen reader-study score ANSWERS... --key {made.key}")


@study.command("score")
@_command
def score_study(
    answers: Annotated[list[Path], typer.Argument(help="The files that readers exported.")],
    key: Annotated[Path, typer.Option("--key", help="The study's key.json.")],
    as_json: Json = False,
) -> None:
    """Sensitivity, specificity and accuracy of the readers, with intervals."""
    from tumorgen_cli import reader_study as room

    scores = room.score_study(answers, key)
    if as_json:
        console.print_json(scores)
        return
    console.table(f"Reader study {scores.study}, {scores.cases} cases", room.SCORE_COLUMNS, room.score_rows(scores))
    console.note(room.SCORE_NOTE)


@app.command()
@_command
def run(
    dataset: Annotated[str, typer.Argument(help="Path of an nnU-Net raw data set, or its id or name under $nnUNet_raw.")],
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
    from tumorgen_cli import pipeline

    result = pipeline.run_all(_workspace(work), dataset, healthy, pairs, judge, tumor_label, memory, preset, settings or (), device, seed, fold)
    _show_run(result, as_json)
    console.next_command(f"tumorgen synthesize --healthy {healthy} -n 100 --out DIR{_at(work)}")


@app.command()
@_command
def status(work: Work = DEFAULT_WORK, as_json: Json = False) -> None:
    """What is done, what is stale, what is next."""
    from tumorgen_cli.status import status as stand

    steps = stand(_workspace(work))
    if as_json:
        console.print_json(steps)
    else:
        console.table(f"Workspace {work}", ("step", "state", "detail"), [(s.name, s.state, s.detail) for s in steps])
    open_steps = [step for step in steps if step.state != "done"]
    console.next_command(open_steps[0].command if open_steps else f"tumorgen synthesize --healthy DIR -n N --out DIR{_at(work)}")


@app.command("nnunet-setup")
@_command
def nnunet_setup(
    work: Work = DEFAULT_WORK,
    healthy: Annotated[Optional[Path], typer.Option("--healthy", help="Folder of tumor-free scans to paint into.")] = None,
    cases: Annotated[Optional[Literal["train"]], typer.Option("--cases", help="Redraw the training cases' own tumors, instead or too.")] = None,
    roi: Annotated[Optional[Path], typer.Option("--roi", help="Folder of masks to paint in, one per scan.")] = None,
    probability: Annotated[float, typer.Option("--probability", help="Of a training patch to be a painted one.", min=0.0, max=1.0)] = 0.5,
    pool: Annotated[int, typer.Option("--pool", help="Painted patches kept at a time.", min=1)] = 32,
    share: Annotated[float, typer.Option("--share", help="Most of its time that the painter is busy.", min=0.01, max=1.0)] = 0.15,
    mixup: Annotated[float, typer.Option("--mixup", help="Share of painted patches mixed up with another.", min=0.0, max=1.0)] = 0.0,
    until_pass: Annotated[Optional[int], typer.Option("--until-pass", help="Draw a pair again, so often, until it passes the judge.", min=1)] = None,
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
        faults.append(Fault("--healthy and --cases", "neither given", "one of them, or both", "give --healthy DIR or --cases train"))
    if roi is not None and healthy is None:
        faults.append(Fault("--roi", str(roi), "--healthy beside it", "leave it out: --cases paints where the tumors are"))
    if judge is not None and until_pass is None:
        faults.append(Fault("--judge", str(judge), "--until-pass beside it", "add it, or leave both out"))
    if faults:
        raise PlanError("Options that do not fit together", faults)
    from tumorgen_cli.nnunet import export_line
    from tumorgen_cli.nnunet_setup import TRAINER, job_folders, set_up

    made = set_up(
        _workspace(work), method, healthy, cases, roi, probability, pool, share, mixup, until_pass, keep, judge, device, seed
    )
    if as_json:
        console.print_json(made)
    for line in () if as_json else made.lines:
        typer.echo(line)
    split = f"copy {Path(made.file).parent / 'splits_final.json'} into $nnUNet_preprocessed/DATASET (not for a merged set, which has its own)"
    exports = export_line(job_folders(_workspace(work)))
    script = "add the two lines to the job script" + f" and, as nnU-Net's folders are not all set, `{exports}`" * bool(exports)
    prepare = "nnUNetv2_plan_and_preprocess, where DATASET is not preprocessed"
    merged = " (of a set merged without --folds: fold 0)" if made.fold else ""
    console.next_command(f"{script}; {prepare}; {split}; then nnUNetv2_train DATASET 3d_fullres {made.fold} -tr {TRAINER}{merged}")


def _parse_box(text: str | None) -> Any:
    if text is None:
        return None
    from tumorgen_cli.records import Box

    try:
        x0, y0, z0, x1, y1, z1 = (int(part) for part in text.split(","))
    except ValueError:
        fault = Fault(f"--box {text}", "not six whole numbers", "x0,y0,z0,x1,y1,z1", "for example --box 40,40,60,60,60,80")
        raise PlanError("The box cannot be read", [fault]) from None
    if x1 <= x0 or y1 <= y0 or z1 <= z0:
        fault = Fault(f"--box {text}", "a stop that is not beyond its start", "x0 < x1, y0 < y1, z0 < z1", "swap the corners")
        raise PlanError("The box has no volume", [fault])
    return Box((x0, y0, z0), (x1, y1, z1))


def _parse_shard(text: str | None) -> Any:
    """What --shard says; without it this process's place among those of torchrun or accelerate, if there are several."""
    from tumorgen_cli.records import Shard

    where = "--shard" if text is not None else "RANK and WORLD_SIZE"
    if text is None:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return None
        rank = os.environ.get("RANK", "")
        text = f"{int(rank) + 1 if rank.isdecimal() else '?'}/{os.environ['WORLD_SIZE']}"
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        fault = Fault(f"{where} {text}", "no part of a whole", "i/n, 1 <= i <= n", "for example --shard 1/8, and so on to --shard 8/8")
        raise PlanError("The shard cannot be read", [fault])
    return Shard(int(number), int(count)) if int(count) > 1 else None


def _show_set(report: Any, as_json: bool) -> None:
    if as_json:
        console.print_json(report)
        return
    tally = report.tally
    rejected = ", ".join(f"{count} {reason}" for reason, count in tally.rejected.items()) or "none"
    rows = [
        ("pairs", tally.pairs), ("made now", tally.made), *([("left to other shards", tally.left)] if tally.left else []),
        ("given up", tally.given_up), ("draws rejected", f"{rejected} of {tally.draws}"),
        ("windows over a scan's edge", tally.padded), ("seconds a pair, file to file", tally.seconds_per_pair),
    ]  # fmt: skip
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


if __name__ == "__main__":
    app()
