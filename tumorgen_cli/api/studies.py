"""Studies as functions: comparisons of methods, nnU-Nets with and without pairs, studies with readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.api.options import WORK, StrPath, open_workspace, optional_path, with_paths
from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.evaluation.options import ScoreOptions
from tumorgen_cli.synthesis.options import HostOptions

if TYPE_CHECKING:
    from tumorgen_cli.studies.comparison import ComparisonReport
    from tumorgen_cli.studies.downstream import DownstreamReport
    from tumorgen_cli.studies.downstream_forecast import StudyForecast
    from tumorgen_cli.studies.downstream_pilot import PilotReport
    from tumorgen_cli.studies.reader_scores import StudyScores
    from tumorgen_cli.studies.reader_study import Study
    from tumorgen_cli.system.devices import DeviceName


def compare(
    methods: Sequence[str],
    hosts: HostOptions,
    pairs: int = 20,
    *,
    iterations: int | None = None,
    minutes: float | None = None,
    train_on: str | None = None,
    scoring: ScoreOptions = ScoreOptions(),
    work: StrPath = WORK,
    device: DeviceName = "auto",
    seed: int | None = None,
) -> ComparisonReport:
    """Train what is not trained, paint into the same places with every method, score, and write one table and one page.

    Args:
        methods: Names of the methods.
        hosts: What to paint into: `healthy`, `cases`, both, or `paint_in`.
        pairs: How many pairs each method paints into each kind of hosts.
        iterations: Training steps of every stage that is not trained. None: as the plan says.
        minutes: Training time of every method, instead of `iterations`.
        train_on: Learn from the tumors in this label alone, or from this data set.
        scoring: The judge and the feature network.
        work: The workspace, planned and preprocessed.
        device: Where to compute.
        seed: Seed of every random draw. None: the plan's.

    Raises:
        PlanError: there is nothing to learn from or to paint into.
        DataError: hosts that cannot be used.
        StateError: no method made a set.

    Example:
        >>> from tumorgen_cli import api
        >>> hosts = api.HostOptions(healthy="tumorgen_demo/phantoms/healthy")
        >>> scoring = api.ScoreOptions(features="filters")
        >>> options = {"scoring": scoring, "work": "tumorgen_demo", "device": "cpu"}
        >>> made = api.compare(["copypaste", "syntumor"], hosts, 2, **options)
        >>> [entry.method for entry in made.comparison.tables[0].entries]
        ['copypaste', 'syntumor']
    """
    from tumorgen_cli.studies.comparison import ComparisonDesign, compare_methods
    from tumorgen_cli.studies.training_length import TrainingLength

    design = ComparisonDesign(tuple(methods), pairs, TrainingLength(iterations, minutes), seed, train_on)
    return compare_methods(open_workspace(work), design, with_paths(hosts), with_paths(scoring), device)


def downstream(
    hosts: HostOptions,
    design: Design = Design(),
    *,
    jobs: int | None = None,
    work: StrPath = WORK,
    device: DeviceName = "auto",
) -> DownstreamReport:
    """Train nnU-Nets with and without pairs, equal in everything else, and score them on real held-out cases.

    Args:
        hosts: What to paint into: `healthy`, `cases="train"`, or both, which then get half of the pairs each.
        design: What is compared. The arm `empty`, which it has by default, needs `healthy`.
        jobs: Trainings at a time. None: one per GPU, or one.
        work: The workspace, planned and preprocessed.
        device: Where to train.

    Raises:
        PlanError: no case is held out, or the fractions leave no case to learn from.
        DataError: hosts or cases that cannot be used, or held-out cases among the hosts.
        StateError: no training was made.

    Example:
        >>> from tumorgen_cli import api
        >>> design = api.Design(arms=("real", "tumorgen"), fractions=(1.0,), seeds=1)
        >>> made = api.downstream(api.HostOptions(cases="train"), design, work="tumorgen_demo")  # doctest: +SKIP
        >>> made.page  # doctest: +SKIP
        'tumorgen_demo/downstream/downstream.html'
    """
    from tumorgen_cli.studies.downstream import measure_gains

    return measure_gains(open_workspace(work), design, with_paths(hosts), device, jobs)


def forecast_downstream(
    hosts: HostOptions,
    design: Design = Design(),
    *,
    jobs: int | None = None,
    work: StrPath = WORK,
    device: DeviceName = "auto",
) -> StudyForecast:
    """Say what `downstream` with the same arguments would do: trainings, hours and disk space. Nothing is written.

    Args:
        hosts: What to paint into.
        design: What is compared.
        jobs: Trainings at a time. None: one per GPU, or one.
        work: The workspace, planned and preprocessed.
        device: Where to train.

    Raises:
        PlanError: no case is held out, or the fractions leave no case to learn from.
        DataError: hosts or cases that cannot be used, or held-out cases among the hosts.

    Example:
        >>> from tumorgen_cli import api
        >>> design = api.Design(arms=("real", "copypaste"), fractions=(1.0,), seeds=3, minutes=20)
        >>> hosts = api.HostOptions(cases="train")
        >>> found = api.forecast_downstream(hosts, design, work="tumorgen_demo", device="cpu")
        >>> found.hours  # two arms, three seeds, twenty minutes each
        2.0
    """
    from tumorgen_cli.studies.downstream_forecast import forecast_gains

    return forecast_gains(open_workspace(work), design, with_paths(hosts), device, jobs)


def pilot_downstream(
    design: Design = Design(),
    longest: float | None = None,
    *,
    jobs: int | None = None,
    work: StrPath = WORK,
    device: DeviceName = "auto",
) -> PilotReport:
    """Find the length of training at which the number of real cases matters: without that, no gain can be seen.

    nnU-Nets learn from real cases alone, from the smallest share of the design and from four times as many cases. The
    length is doubled from `design.minutes` on. What the pilot trains is not trained again by `downstream`.

    Args:
        design: The design of the experiment; of its arms only `real` is trained.
        longest: The longest length in minutes. None: 16 times the first one.
        jobs: Trainings at a time. None: one per GPU, or one.
        work: The workspace, planned and preprocessed.
        device: Where to train.

    Raises:
        PlanError: no case is held out, or there are too few cases.
        StateError: no training was made.

    Example:
        >>> from tumorgen_cli import api
        >>> design = api.Design(fractions=(0.25,), minutes=10)
        >>> found = api.pilot_downstream(design, work="tumorgen_demo")  # doctest: +SKIP
        >>> found.found.minutes  # doctest: +SKIP
        40
    """
    from tumorgen_cli.studies.downstream_pilot import run_pilot

    return run_pilot(open_workspace(work), design, longest, device, jobs)


def make_reader_study(
    sets: Sequence[StrPath] = (),
    pairs: int = 20,
    *,
    out: StrPath | None = None,
    with_mask: bool = False,
    work: StrPath = WORK,
    seed: int | None = None,
) -> Study:
    """Write a page on which readers tell real from synthetic lesions, and its key.

    Args:
        sets: Folders, or names in the workspace. None given: every finished set of the workspace.
        pairs: How many lesions of each kind the page shows.
        out: Where to write. None: `reader_study` of the workspace.
        with_mask: Readers can show the outline of the lesion.
        work: The workspace.
        seed: Seed of the choice and the order. None: the plan's.

    Raises:
        DataError: too few lesions of a kind.
        StateError: no such set, or `out` holds the key of another study.

    Example:
        >>> from tumorgen_cli import api
        >>> hosts = api.HostOptions(healthy="tumorgen_demo/phantoms/healthy")
        >>> made = api.synthesize(hosts, 2, method="copypaste", work="tumorgen_demo", device="cpu")
        >>> study = api.make_reader_study([made.folder], 2, work="tumorgen_demo")
        >>> study.cases
        4
    """
    from tumorgen_cli.studies import reader_study

    workspace, folders = open_workspace(work), [Path(folder) for folder in sets]
    return reader_study.make_reader_study(workspace, folders, pairs, optional_path(out), seed, with_mask)


def score_reader_study(answers: Sequence[StrPath], key: StrPath) -> StudyScores:
    """Score the answers of readers: sensitivity, specificity, accuracy and AUC, with intervals.

    Args:
        answers: The files that the readers exported from the page.
        key: The `key.json` of the study.

    Raises:
        DataError: everything that is wrong with the files.

    Example:
        >>> from tumorgen_cli import api
        >>> scores = api.score_reader_study(["anna.json"], "reader_study/key.json")  # doctest: +SKIP
        >>> scores.pooled.accuracy.value  # doctest: +SKIP
        0.55
    """
    from tumorgen_cli.studies.reader_scores import score_study

    return score_study([Path(path) for path in answers], Path(key))
