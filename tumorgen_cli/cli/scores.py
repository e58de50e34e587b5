"""The commands that score: evaluate, compare, reader-study make, reader-study score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tumorgen_cli import api
from tumorgen_cli.api.options import open_workspace
from tumorgen_cli.cli.commands import command, planned_command
from tumorgen_cli.cli.options import (
    Anywhere,
    Cases,
    Device,
    Features,
    Healthy,
    Inception,
    Json,
    JudgeFolder,
    Seed,
    Sets,
    TrustUnits,
    TumorCount,
    Work,
    method_names,
)
from tumorgen_cli.cli.printing import show_scores
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line, quote
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, say_count


@planned_command
def evaluate(
    sets: Sets = None,
    judge: JudgeFolder = None,
    features: Features = "lite0",
    inception: Inception = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Score sets: agreement with a judge, distances to real slices, reader test, near-copies; write a page for each."""
    scoring = api.ScoreOptions(judge, features, inception)
    reports = api.evaluate(sets or (), scoring, work=work, device=device, seed=seed)
    if as_json:
        console.print_json(reports)
    else:
        show_scores(reports)
    scored = " ".join(quote(each) for each in sets or [Path(reports[-1].name)])
    dataset = quote(open_workspace(work).plan().dataset_path)
    merge = command_line(f"merge {dataset} {scored} --out Dataset601_Merged", work)
    console.next_command(f"open {reports[-1].page}, then: {merge}")


@planned_command
def compare(
    methods: Annotated[
        str, typer.Option("--methods", metavar="A,B,...", help="Names of methods, with commas between.")
    ],
    healthy: Healthy = None,
    cases: Cases = None,
    pairs: Annotated[
        int, typer.Option("-n", "--pairs", help="Pairs of each method, on each kind of hosts.", min=1)
    ] = 20,
    iterations: Annotated[
        Optional[int], typer.Option("--iterations", help="Training steps of every stage that is not trained.", min=1)
    ] = None,
    minutes: Annotated[
        Optional[float], typer.Option("--minutes", help="Training minutes of every method.", min=0.01)
    ] = None,
    train_on: Annotated[
        Optional[str],
        typer.Option(
            "--train-on", help="Learn only from tumors in this label of the data set, or from another data set."
        ),
    ] = None,
    paint_in: Annotated[
        Optional[str],
        typer.Option("--paint-in", help="Paint in this label of the --healthy scans, or into another data set."),
    ] = None,
    host_labels: Annotated[
        Optional[Path],
        typer.Option("--host-labels", help="Folder of the scans' label files, named as the scans without _0000."),
    ] = None,
    tumors: TumorCount = None,
    anywhere: Anywhere = False,
    trust_units: TrustUnits = False,
    judge: JudgeFolder = None,
    features: Features = "lite0",
    inception: Inception = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Compare methods: train what is not trained, paint into the same places, score; write one table and one page."""
    # Long: a command's parameters are its options
    faults = []
    if healthy is None and cases is None and paint_in is None:
        expected = "a folder of scans, or the data set's own cases"
        faults.append(Fault("--healthy", "nothing to paint into", expected, "give --healthy DIR or --cases test"))
    if iterations is not None and minutes is not None:
        faults.append(Fault("--iterations and --minutes", "both given", "one of them, or neither", "leave one out"))
    if (healthy is None) != (host_labels is None) and (paint_in or host_labels) is not None:
        expected = "--healthy, --host-labels and a label, or a data set alone"
        remedy = "add what is missing, or leave both out"
        faults.append(Fault("--paint-in", "one of --healthy and --host-labels", expected, remedy))
    elif host_labels is not None and paint_in is None:
        faults.append(Fault("--host-labels", "no --paint-in", "the label to paint in", "add --paint-in LABEL"))
    names = method_names("--methods", methods, faults)
    made = api.compare(
        names,
        api.HostOptions(
            healthy,
            cases,
            paint_in=paint_in,
            host_labels=host_labels,
            tumors=tumors,
            anywhere=anywhere,
            trust_units=trust_units,
        ),
        pairs,
        iterations=iterations,
        minutes=minutes,
        train_on=train_on,
        scoring=api.ScoreOptions(judge, features, inception),
        work=work,
        device=device,
        seed=seed,
    )
    if as_json:
        console.print_json(made)
    else:
        from tumorgen_cli.evaluation.comparison import RULE, table_rows

        for each in made.comparison.tables:
            done = [entry.method for entry in each.entries if not entry.failure]
            title = f"{each.hosts}: {say_count(each.pairs, 'pair')} per method ({made.table})"
            console.table(title, ("measure [95 % interval]", "real", *done), table_rows(each, made.comparison))
            for entry in each.entries:
                if entry.failure:
                    console.warn(f"{entry.method} failed on {each.hosts}: {entry.failure}")
        console.note(f"* {RULE}")
    console.next_command(f"open {made.page}")


@planned_command
def make_study(
    sets: Sets = None,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Number of lesions of each kind.", min=1)] = 20,
    out: Annotated[Optional[Path], typer.Option("--out", help="Where to write. Default: in the workspace.")] = None,
    with_mask: Annotated[
        bool, typer.Option("--with-mask", metavar="", help="Let readers show the outline of the lesion.")
    ] = False,
    work: Work = DEFAULT_WORK,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Write the page on which readers tell real from synthetic lesions, and its key."""
    made = api.make_reader_study(sets or (), pairs, out=out, with_mask=with_mask, work=work, seed=seed)
    if as_json:
        console.print_json(made)
    else:
        for line in made.notes:
            console.note(line)
    score = f"tumorgen reader-study score ANSWERS... --key {quote(made.key)}"
    console.next_command(f"send {made.page} to readers (never key.json), then: {score}")


@command
def score_study(
    answers: Annotated[
        list[Path], typer.Argument(metavar="ANSWERS", help="The files that readers exported from the page.")
    ],
    key: Annotated[Path, typer.Option("--key", help="The key.json of the study.")],
    as_json: Json = False,
) -> None:
    """Score the readers: sensitivity, specificity, accuracy and AUC, with intervals."""
    scores = api.score_reader_study(answers, key)
    if as_json:
        console.print_json(scores)
        return
    from tumorgen_cli.studies.reader_scores import SCORE_COLUMNS, SCORE_NOTE, score_rows

    console.table(f"Reader study {scores.study}, {say_count(scores.cases, 'case')}", SCORE_COLUMNS, score_rows(scores))
    console.note(SCORE_NOTE)
