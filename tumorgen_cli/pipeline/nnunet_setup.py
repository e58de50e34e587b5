"""Stage `nnunet-setup`: a workspace and hosts -> the settings with which nnU-Net paints while it trains.

Everything that can be checked before nnU-Net starts is checked here. Reads the workspace and the headers of the hosts.
Writes `WORK/nnunet/tumorgen_METHOD_HASH.json`, which the trainer reads: one file for each choice of options, weights
and hosts. Writes beside it `splits_final.json`: the folds of which the workspace's fold is one, or that fold alone. No
other fold may validate, because the method has learned from its cases.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.hosts import describe_matches
from tumorgen_cli.data.labels import values_of
from tumorgen_cli.data.patients import match_held_out
from tumorgen_cli.data.splits import SPLITS, Splits, find_fold
from tumorgen_cli.judge.find import needed_judge
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.methods.shortfalls import find_shortfalls
from tumorgen_cli.nnunet.on_the_fly.checks import planned_reader_faults
from tumorgen_cli.nnunet.on_the_fly.settings import VARIABLE, Painting
from tumorgen_cli.nnunet.runner import user_folders
from tumorgen_cli.pipeline.aim import find_aim
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.counts import count_faults
from tumorgen_cli.synthesis.forecast import check_voxels
from tumorgen_cli.synthesis.options import (
    HostOptions,
    OnTheFlyOptions,
    QualityOptions,
    faults_of_cases_alone,
    refuse_host_options,
)
from tumorgen_cli.synthesis.painter import find_sources, hash_file_sizes, source_names
from tumorgen_cli.synthesis.pair import PairInputs
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.synthesis.sources import Source, unlabeled_hosts, unlabeled_hosts_fault
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, PlanError, StateError, gather_faults
from tumorgen_cli.system.json_records import hash_value, to_plain, write_json

TRAINER = "nnUNetTrainerTumorGen"


@dataclass(frozen=True)
class Setup:
    """The settings and their file, the fold to train, and the two lines for the job script."""

    painting: Painting
    file: str
    fold: int
    lines: tuple[str, str]


def set_up_nnunet(
    workspace: Workspace,
    method_name: str,
    hosts: HostOptions,
    patches: OnTheFlyOptions = OnTheFlyOptions(),
    quality: QualityOptions = QualityOptions(),
    device: DeviceName = "auto",
    seed: int | None = None,
    folder: Path | None = None,
) -> Setup:
    """Check what painting needs while nnU-Net trains, and write it to `folder` or the workspace's `nnunet`.

    Of `hosts`, `healthy`, `cases` ("train" alone), `roi`, `tumors`, `anywhere`, `trust_units` and `aim` are used.

    Raises:
        StateError: everything that is missing or does not fit: the plan, the method's weights, the hosts, the judge.
    """
    refuse_host_options(hosts, "healthy", "cases", "roi", "tumors", "anywhere", "trust_units", "aim")
    if wrong := faults_of_cases_alone(hosts) + count_faults(hosts.tumors, None):
        raise PlanError("Options that do not apply", wrong)
    plan, splits = workspace.plan(), workspace.splits()
    faults: list[Fault] = []
    method = gather_faults(faults, lambda: open_method(workspace, method_name, device))
    weights = gather_faults(faults, lambda: dict(method.load())) if method is not None else None
    if method is not None and weights is not None:
        for text in find_shortfalls(method):
            console.warn(text)
    quality = replace(quality, judge=_absolute_judge(quality.judge))
    seed = plan.seed if seed is None else seed
    painting = _painting(workspace.root, plan, method_name, hosts, patches, quality, device, seed)
    painting = replace(painting, weights=weights or {}, learned_from=method.learned_from() if method else ())
    sources = gather_faults(faults, lambda: find_sources(workspace, plan, painting))
    dataset = gather_faults(faults, lambda: read_planned_dataset(workspace, plan))
    divided = gather_faults(faults, lambda: find_fold(dataset, splits)) if dataset is not None else None
    faults += planned_reader_faults(dataset.path) if dataset is not None else []
    if hosts.healthy is not None and sources is not None and dataset is not None:
        faults += _held_out_faults(hosts.healthy, sources, dataset, splits)
    if sources is not None and (without := unlabeled_hosts(plan, sources)):
        faults.append(unlabeled_hosts_fault(str(hosts.healthy), without))
    if method is not None and sources is not None and not faults:
        inputs = PairInputs(
            method, workspace.fingerprint().of(splits.train).cases, Sampling(), trust_units=hosts.trust_units
        )
        hosts_once = list(dict.fromkeys(source for source in sources if not source.redraw))
        with console.progress("checking hosts", len(hosts_once)) as tick:
            gather_faults(faults, lambda: check_voxels(inputs, hosts_once, tick))
    if quality.until_pass is not None:
        scans = [source.files for source in sources or ()]
        gather_faults(faults, lambda: needed_judge(workspace, quality.judge, device, scans))
    if faults or method is None or dataset is None or sources is None or divided is None:
        raise StateError("Painting cannot be set up", faults)
    painting = replace(painting, hosts=source_names(sources), hosts_hash=hash_file_sizes(sources))
    if (aim := find_aim(method, hosts, Sampling(), device)) is not None:
        learned = tuple(sorted({*painting.learned_from} | ({*aim.learned_from} & {*dataset.cases})))
        painting = replace(painting, aim=to_plain(aim), learned_from=learned)
    folder = folder or workspace.root / "nnunet"
    # the name holds a hash, so that a job that waits keeps its own file
    path = folder / f"tumorgen_{method_name}_{hash_value(painting)[:6]}.json"
    write_json(path, painting)
    folds, own = divided
    write_json(folder / SPLITS, [{"train": fold.train, "val": fold.test} for fold in folds])
    return Setup(painting, str(path), own, job_lines(path))


def _absolute_judge(judge: Path | None) -> Path | None:
    """The judge's folder as an absolute path; `bundled` is a name, not a path."""
    return judge if judge is None or not judge.exists() else judge.resolve()


def _painting(
    root: Path,
    plan: Plan,
    method_name: str,
    hosts: HostOptions,
    patches: OnTheFlyOptions,
    quality: QualityOptions,
    device: DeviceName,
    seed: int,
) -> Painting:
    """The settings as far as options and plan give them; weights and hosts are added later."""
    healthy, roi = (None if path is None else str(path.resolve()) for path in (hosts.healthy, hosts.roi))
    if hosts.cases == "test":
        fault = Fault("--cases test", "held-out cases", "training cases", "give --cases train")
        raise PlanError("nnU-Net must not see held-out cases", [fault])
    return Painting(
        format=PAIR_FORMAT,
        work=str(root),
        method=method_name,
        healthy=healthy,
        cases=hosts.cases,
        roi=roi,
        tumors=hosts.tumors,
        anywhere=hosts.anywhere,
        trust_units=hosts.trust_units,
        judge=None if quality.judge is None else str(quality.judge),
        keep=quality.keep,
        p_alone=quality.p_alone,
        until_pass=quality.until_pass,
        mixup=patches.mixup,
        probability=patches.probability,
        around=patches.around,
        pool=patches.pool,
        share=patches.share,
        device=device,
        seed=seed,
        plan_hash=plan.hash,
        weights={},
        learned_from=(),
        hosts=(),
        hosts_hash="",
        channels=tuple(channel.name for channel in plan.channels),
        labels=plan.labels,
        tumor=values_of(plan.tumor_label),
        aim=None,
    )


def _held_out_faults(healthy: Path, sources: Sequence[Source], dataset: Dataset, splits: Splits) -> list[Fault]:
    """The fault of hosts that are held-out cases under other names, or of their patients; names alone do not tell."""
    faults: list[Fault] = []
    scans = {source.name: source.files[0] for source in sources if not source.redraw}
    known = gather_faults(faults, lambda: match_held_out(scans, dataset, splits.test, splits.patients)) or {}
    renamed = {name: case for name, case in known.items() if name != case}
    if renamed:
        found = f"held-out cases by other names, or scans of their patients ({describe_matches(renamed)})"
        faults.append(Fault(str(healthy), found, "other scans", "take them out of the folder"))
    return faults


def job_lines(path: Path) -> tuple[str, str]:
    """The two lines for a job script; trainers that `nnUNet_extTrainer` names already are still found."""
    folder = Path(str(resources.files("tumorgen_cli"))) / "nnunet" / "on_the_fly" / "nnunet_trainers"
    named = [part for part in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if part.strip()]
    others = any(Path(part) != folder for part in named)
    first = f"export nnUNet_extTrainer={shlex.quote(str(folder))}" + (
        f"{os.pathsep}$nnUNet_extTrainer" if others else ""
    )
    return first, f"export {VARIABLE}={shlex.quote(str(path))}"


def job_folders(workspace: Workspace) -> dict[str, Path]:
    """nnU-Net's folders for the job, by variable.

    If the user names no folder of raw data sets, it is that of the sets that were merged into the workspace, else that
    of the planned data set.
    """
    folders = user_folders(workspace.root)
    if not os.environ.get("nnUNet_raw") and not any(folders["nnUNet_raw"].glob("Dataset*")):
        folders["nnUNet_raw"] = Path(workspace.plan().dataset_path).parent
    return folders
