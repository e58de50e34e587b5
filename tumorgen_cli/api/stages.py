"""The stages of the pipeline as functions. Each reads and writes a workspace and returns a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.api.options import WORK, StrPath, open_workspace, optional_path, with_paths
from tumorgen_cli.data.phantom.options import PhantomOptions
from tumorgen_cli.evaluation.options import ScoreOptions
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions, QualityOptions, SetOptions
from tumorgen_cli.synthesis.shards import Shard

if TYPE_CHECKING:
    from tumorgen_cli.data.phantom import Phantoms
    from tumorgen_cli.evaluation.filter import Filtered
    from tumorgen_cli.methods.base import Sampling
    from tumorgen_cli.pipeline.evaluate import ScoreReport
    from tumorgen_cli.pipeline.nnunet_setup import Setup
    from tumorgen_cli.pipeline.run import RunReport
    from tumorgen_cli.pipeline.status import Step
    from tumorgen_cli.pipeline.synthesize import SetReport
    from tumorgen_cli.planning.plan import Plan
    from tumorgen_cli.synthesis.merge import Merge
    from tumorgen_cli.system.devices import DeviceName
    from tumorgen_cli.training.loggers import LoggerName


@dataclass(frozen=True)
class PreprocessReport:
    """How many cases, and how many scans without tumors, were written now; those that were there are not counted."""

    cases: int
    healthy: int


def plan(
    dataset: StrPath,
    options: PlanOptions = PlanOptions(),
    *,
    work: StrPath = WORK,
    device: DeviceName = "auto",
    workers: int | None = None,
    dry_run: bool = False,
) -> Plan:
    """Check and measure a data set, and decide every number of the pipeline.

    Args:
        dataset: The nnU-Net raw data set: a path, or an id or name under `$nnUNet_raw`.
        options: What you decide; the rules decide the rest.
        work: The workspace.
        device: The device to plan for.
        workers: Processes that read the files. None: by cores and memory; 0: none but this one.
        dry_run: Write nothing.

    Returns:
        The plan, which is also written to `plan.json`.

    Raises:
        DataError: the data set has faults.
        PlanError: a preset, setting or fold that cannot be used.
        StateError: the workspace belongs to another data set.

    Example:
        >>> from tumorgen_cli import api
        >>> dataset = "tumorgen_demo/phantoms/Dataset999_PhantomPET"
        >>> options = api.PlanOptions(preset="demo-quick", memory_gib=8)
        >>> plan = api.plan(dataset, options, work="my_work", device="cpu", workers=0)
        >>> plan.tumor_name, plan.channels[0].name
        ('tumor', 'PET')
    """
    from tumorgen_cli.pipeline.plan import plan_dataset

    return plan_dataset(open_workspace(work), str(dataset), options, device, workers, dry_run).plan


def preprocess(*, work: StrPath = WORK, healthy: StrPath | None = None, workers: int | None = None) -> PreprocessReport:
    """Bring every case to the working grid; cases that are done are kept.

    Args:
        work: The workspace, planned.
        healthy: Folder of scans without tumors, for methods that learn from them.
        workers: Processes. None: by cores and memory; 0: none but this one.

    Raises:
        StateError: there is no plan, or the data set has changed since planning.
        DataError: scans that cannot be read, or cases of the data set among the healthy scans.

    Example:
        >>> from tumorgen_cli import api
        >>> api.preprocess(work="tumorgen_demo", workers=0)
        PreprocessReport(cases=0, healthy=0)
    """
    from tumorgen_cli.pipeline.preprocess import preprocess_dataset, preprocess_healthy

    workspace = open_workspace(work)
    cases = preprocess_dataset(workspace, workers)
    scans = 0 if healthy is None else preprocess_healthy(workspace, Path(healthy), workers)
    return PreprocessReport(cases, scans)


def synthesize(
    hosts: HostOptions,
    pairs: int = 20,
    *,
    method: str = "tumorgen",
    model: str | None = None,
    sampling: Sampling | None = None,
    quality: QualityOptions = QualityOptions(),
    out: StrPath | None = None,
    shard: tuple[int, int] | None = None,
    dry_run: bool = False,
    work: StrPath = WORK,
    device: DeviceName = "auto",
    seed: int | None = None,
) -> SetReport:
    """Paint tumors into scans and write the pairs of image and mask as an nnU-Net raw data set.

    Pairs that are there already are kept, so that the same call with more `pairs` adds to the set.

    Args:
        hosts: What to paint into, and where.
        pairs: How many pairs the set has in all.
        method: The method that paints.
        model: Name of an installed model, which paints instead of a method of the workspace.
        sampling: Steps, solver and kind of tumor. None: as the plan says.
        quality: Which pairs are kept.
        out: Folder of the set. None: a folder of the workspace, named after the method, the hosts and the options.
        shard: `(i, n)`: this process makes part i of n parts. None: all pairs.
        dry_run: Check every host, paint one pair in memory and estimate time and disk; write nothing.
        work: The workspace, with the method trained; with a model, only where the set is written.
        device: Where to compute.
        seed: Seed of every random draw. None: the plan's.

    Raises:
        PlanError: an option that the method does not know, or nothing to paint into.
        DataError: hosts that cannot be used, or no pair that could be painted.
        StateError: a stage is not trained, or `out` holds another set.

    Example:
        >>> from tumorgen_cli import api
        >>> hosts = api.HostOptions(healthy="tumorgen_demo/phantoms/healthy")
        >>> made = api.synthesize(hosts, 2, method="copypaste", work="tumorgen_demo", device="cpu")
        >>> made.tally.pairs
        2
    """
    from tumorgen_cli.methods.base import Sampling
    from tumorgen_cli.pipeline.synthesize import open_model, synthesize_pairs

    made = SetOptions(pairs, optional_path(out), seed, None if shard is None else Shard(*shard), dry_run)
    sampling, quality = sampling or Sampling(), with_paths(quality)
    workspace = open_workspace(work)
    if model is not None:
        workspace, method = open_model(model, method, workspace)
    return synthesize_pairs(workspace, method, made, with_paths(hosts), sampling, quality, device)


def filter_pairs(
    set_folder: StrPath,
    quality: QualityOptions = QualityOptions(),
    *,
    out: StrPath | None = None,
    shard: tuple[int, int] | None = None,
    no_copies: bool = False,
    work: StrPath = WORK,
    device: DeviceName = "auto",
) -> Filtered:
    """Copy the pairs that pass the judge into a set of their own, and list the others with the reasons.

    Args:
        set_folder: The set: a folder, or a name in the workspace. It is not changed.
        quality: The judge, and when a pair passes; `until_pass` has no meaning here.
        out: Folder of the new set. None: the set's folder with `_kept` added to its name.
        shard: `(i, n)`: this process judges part i of n parts. None: all pairs.
        no_copies: Reject also pairs with a tumor that the evaluation of the set calls a copy of a training tumor.
        work: The workspace.
        device: Where the judge computes.

    Raises:
        StateError: no such set, no judge, `out` holds another set, or copies are not known.

    Example:
        >>> from tumorgen_cli import api
        >>> hosts = api.HostOptions(healthy="tumorgen_demo/phantoms/healthy")
        >>> made = api.synthesize(hosts, 2, method="copypaste", work="tumorgen_demo", device="cpu")
        >>> kept = api.filter_pairs(made.folder, api.QualityOptions(keep=0.0), work="tumorgen_demo", device="cpu")
        >>> kept.kept, kept.rejected
        (2, 0)
    """
    from tumorgen_cli.pipeline import filter as stage

    part = None if shard is None else Shard(*shard)
    folder, quality = Path(set_folder), with_paths(quality)
    return stage.filter_pairs(open_workspace(work), folder, quality, optional_path(out), device, part, no_copies)


def evaluate(
    sets: Sequence[StrPath] = (),
    scoring: ScoreOptions = ScoreOptions(),
    *,
    work: StrPath = WORK,
    device: DeviceName = "auto",
    seed: int | None = None,
) -> tuple[ScoreReport, ...]:
    """Score synthetic sets, and write numbers and one HTML page for each.

    Args:
        sets: Folders, or names in the workspace. None given: every finished set of the workspace.
        scoring: The judge and the feature network.
        work: The workspace.
        device: Where to compute.
        seed: Seed of the scores. None: the plan's.

    Raises:
        StateError: no such set, or two sets of one name.
        DataError: a set has faults.

    Example:
        >>> from tumorgen_cli import api
        >>> hosts = api.HostOptions(healthy="tumorgen_demo/phantoms/healthy")
        >>> made = api.synthesize(hosts, 2, method="copypaste", work="tumorgen_demo", device="cpu")
        >>> scoring = api.ScoreOptions(features="filters")
        >>> (report,) = api.evaluate([made.folder], scoring, work="tumorgen_demo", device="cpu")
        >>> report.name
        'copypaste_healthy'
    """
    from tumorgen_cli.pipeline.evaluate import evaluate_sets

    folders = [Path(folder) for folder in sets]
    return evaluate_sets(open_workspace(work), folders, with_paths(scoring), device, seed)


def merge(
    real: StrPath,
    sets: Sequence[StrPath],
    out: StrPath,
    *,
    folds: int = 1,
    oversample: int = 1,
    preprocessed: StrPath | None = None,
    copy: bool = False,
    work: StrPath = WORK,
) -> Merge:
    """Write one nnU-Net raw data set of real cases and synthetic sets, with folds that validate on unseen real cases.

    Args:
        real: The real data set: a path, or an id or name under `$nnUNet_raw`.
        sets: Synthetic sets: folders, or names in the workspace.
        out: `FOLDER/DatasetNNN_Name`. The name alone goes to `$nnUNet_raw`, else to the workspace.
        folds: 1 for one fold whose validation cases no set has learned from; more for the data set's own folds, or
            nnU-Net's.
        oversample: How many times a real case stands in the training list of a fold.
        preprocessed: nnU-Net's preprocessed folder. None: `$nnUNet_preprocessed`.
        copy: Copy images, too. Labels are copies, images are otherwise links where the disk cannot share their blocks.
        work: The workspace in which sets are found by name.

    Raises:
        DataError: everything that is wrong with the data sets, their names, the folds or `out`.
        StateError: there is no such data set or set, or `out` holds something else.

    Example:
        >>> from tumorgen_cli import api
        >>> hosts = api.HostOptions(healthy="tumorgen_demo/phantoms/healthy")
        >>> made = api.synthesize(hosts, 2, method="copypaste", work="tumorgen_demo", device="cpu")
        >>> real = "tumorgen_demo/phantoms/Dataset999_PhantomPET"
        >>> merged = api.merge(real, [made.folder], "raw/Dataset601_Merged", work="tumorgen_demo")
        >>> len(merged.pairs)
        2
    """
    from tumorgen_cli.pipeline.merge import merge_sets

    folders = [Path(folder) for folder in sets]
    workspace, target = open_workspace(work), Path(out)
    return merge_sets(workspace, str(real), folders, target, folds, oversample, optional_path(preprocessed), copy)


def setup_nnunet(
    hosts: HostOptions,
    *,
    method: str = "tumorgen",
    patches: OnTheFlyOptions = OnTheFlyOptions(),
    quality: QualityOptions = QualityOptions(),
    work: StrPath = WORK,
    device: DeviceName = "auto",
    seed: int | None = None,
) -> Setup:
    """Check and write the settings with which nnU-Net paints new tumors while it trains.

    Args:
        hosts: What to paint into: `healthy` (with `roi`), `cases="train"`, or both.
        method: The method that paints.
        patches: How many painted patches nnU-Net sees, and what they may cost.
        quality: Which pairs are kept.
        work: The workspace, with the method trained.
        device: Where the method paints.
        seed: Seed of every random draw. None: the plan's.

    Returns:
        The settings, their file, the fold to train, and the two lines for the job script (`lines`).

    Raises:
        StateError: everything that is missing or does not fit.

    Example:
        >>> from tumorgen_cli import api
        >>> hosts = api.HostOptions(healthy="tumorgen_demo/phantoms/healthy")
        >>> setup = api.setup_nnunet(hosts, method="copypaste", work="tumorgen_demo", device="cpu")
        >>> setup.lines[1].startswith("export TUMORGEN_PAINTING=")
        True
    """
    from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet

    workspace, quality = open_workspace(work), with_paths(quality)
    return set_up_nnunet(workspace, method, with_paths(hosts), patches, quality, device, seed)


def run(
    dataset: StrPath,
    healthy: StrPath,
    pairs: int = 20,
    *,
    options: PlanOptions = PlanOptions(),
    scoring: ScoreOptions = ScoreOptions(),
    skip_suspects: bool = False,
    tumors: int | None = None,
    anywhere: bool = False,
    trust_units: bool = False,
    log: LoggerName | None = None,
    work: StrPath = WORK,
    device: DeviceName = "auto",
) -> RunReport:
    """Plan, preprocess, train, synthesize and evaluate; what is finished is not done again.

    Args:
        dataset: The nnU-Net raw data set: a path, or an id or name under `$nnUNet_raw`.
        healthy: Folder of scans without tumors to paint into.
        pairs: How many pairs to make.
        options: What you decide about the plan.
        scoring: The judge and the feature network.
        skip_suspects: Leave out scans in which a judge marks suspected lesions.
        tumors: Number of tumors in a pair. None: as the plan says, by default as many as patients have.
        anywhere: Paint anywhere in the body, not only where the surroundings look like those of training tumors.
        trust_units: Paint also into scans that look like another unit than the training cases'.
        log: A logger that gets the numbers of the trainings, see `train`.
        work: The workspace.
        device: Where to compute.

    Example:
        >>> from tumorgen_cli import api
        >>> made = api.run("Dataset007_Pancreas", "healthy_scans", pairs=50)  # doctest: +SKIP
        >>> made.scores[0].page  # doctest: +SKIP
        'tumorgen_work/evaluation/tumorgen_healthy_scans/report.html'
    """
    from tumorgen_cli.pipeline.run import run_all
    from tumorgen_cli.pipeline.train import StageOptions
    from tumorgen_cli.synthesis.options import HostOptions, SetOptions

    workspace, scoring = open_workspace(work), with_paths(scoring)
    wanted = SetOptions(pairs, seed=options.seed)
    hosts = HostOptions(
        Path(healthy), skip_suspects=skip_suspects, tumors=tumors, anywhere=anywhere, trust_units=trust_units
    )
    return run_all(workspace, str(dataset), hosts, wanted, options, scoring, device, StageOptions(log=log))


def demo(
    *,
    quick: bool = False,
    phantoms: PhantomOptions = PhantomOptions(),
    work: StrPath = "tumorgen_demo",
    device: DeviceName = "auto",
    seed: int = 0,
) -> RunReport:
    """Write phantoms that look like PET or CT, and run all stages on them.

    Args:
        quick: Fewer phantoms, and training that starts from weights in the package: about 4 minutes of CPU time.
            PET only.
        phantoms: Modality, numbers and size of the phantoms; by default PET, as many as the demo needs.
        work: The workspace.
        device: Where to compute.
        seed: Seed of the phantoms and of every random draw.

    Raises:
        PlanError: phantoms that cannot be drawn.

    Example:
        >>> from tumorgen_cli import api
        >>> made = api.demo(quick=True)  # doctest: +SKIP
        >>> made.pairs.tally.pairs  # doctest: +SKIP
        8
    """
    from tumorgen_cli.pipeline.demo import run_demo

    return run_demo(open_workspace(work), phantoms, quick, device, seed)


def write_phantoms(
    phantoms: PhantomOptions = PhantomOptions(), *, quick: bool = False, work: StrPath = "tumorgen_demo", seed: int = 0
) -> Phantoms:
    """Write the phantoms of a demo, and run nothing.

    Args:
        phantoms: Modality, numbers and size of the phantoms; by default PET, as many as the demo needs.
        quick: As few as the quick demo needs, where no number is given.
        work: The workspace; the phantoms lie in its folder `phantoms`.
        seed: The same seed gives the same phantoms.

    Raises:
        PlanError: phantoms that cannot be drawn.

    Example:
        >>> from tumorgen_cli import api
        >>> options = api.PhantomOptions("ct", cases=1, healthy=1, crop_mm=60)
        >>> api.write_phantoms(options, work="my_phantoms").dataset.name
        'Dataset998_PhantomCT'
    """
    from tumorgen_cli.pipeline.demo import write_demo_phantoms

    return write_demo_phantoms(open_workspace(work), phantoms, quick, seed)


def status(*, work: StrPath = WORK) -> list[Step]:
    """Every step of a workspace, its state (to do, running, partly, done or outdated), and the command for it.

    Args:
        work: The workspace. Nothing is written.

    Example:
        >>> from tumorgen_cli import api
        >>> steps = api.status(work="tumorgen_demo")
        >>> steps[0].name, steps[0].state
        ('plan', 'done')
    """
    from tumorgen_cli.pipeline.status import workspace_status

    return workspace_status(open_workspace(work), work)
