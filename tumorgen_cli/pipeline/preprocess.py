"""Stage `preprocess`: raw cases -> cases on the working grid."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.data.checks import read_header
from tumorgen_cli.data.contents import Contents, hash_paths, same_content
from tumorgen_cli.data.hosts import Host, find_hosts, match_cases
from tumorgen_cli.data.patients import scans_of_same_patients
from tumorgen_cli.data.workers import choose_preprocessing_workers
from tumorgen_cli.geometry import Grid
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.plan_summary import preprocessed_bytes
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import read_case_record
from tumorgen_cli.preprocessing.healthy import MOST_SCANS, choose_evenly, twins_fault
from tumorgen_cli.preprocessing.preprocess import Job, is_current, preprocess, preprocess_case
from tumorgen_cli.preprocessing.sublabels import learn_sublabels
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, StateError, say_count
from tumorgen_cli.system.files import free_bytes
from tumorgen_cli.system.json_records import read_record, write_json
from tumorgen_cli.system.locks import locked


@dataclass(frozen=True)
class PreprocessForecast:
    """What is left to preprocess.

    Attributes:
        scans: cases and healthy scans that are left.
        disk_bytes: what they will take on disk.
        free_bytes: free space where they will be.
        seconds: expected time; 0 if nothing is left.
    """

    scans: int
    disk_bytes: int
    free_bytes: int
    seconds: float

    def __str__(self) -> str:
        if not self.scans:
            return "nothing is left to preprocess"
        return (
            f"{say_count(self.scans, 'scan')} to preprocess: about {console.rough_time(self.seconds)}, "
            f"{console.size(self.disk_bytes)} on disk; {console.size(self.free_bytes)} are free"
        )


@dataclass(frozen=True)
class _Scans:
    """Scans to preprocess, their grids by case, and the folder with a subfolder for each."""

    plan: Plan
    jobs: list[Job]
    grids: dict[str, Grid]
    folder: Path

    def left(self) -> list[Job]:
        """The scans that are not preprocessed."""
        return [job for job in self.jobs if not is_current(self.plan, job, self.folder / job[0])]


def preprocess_dataset(workspace: Workspace, workers: int | None = None) -> int:
    """Preprocess every case of the plan that is not done; return how many were written.

    If the tumor has several labels, the rule by which painted tumors get them is learned from the training cases.
    """
    written = _preprocess(workspace, _find_cases(workspace), "preprocessing", workers)
    rule = learn_sublabels(workspace, workspace.plan(), workspace.splits().train)
    if rule is not None:
        console.note(str(rule))
    return written


def preprocess_healthy(workspace: Workspace, healthy: Path, workers: int | None = None) -> int:
    """Preprocess the healthy scans of a folder, for methods that learn from them; return how many were written.

    Of more than `MOST_SCANS` scans as many are taken, at even distances in the order of their names. A scan that is
    there already is preprocessed again if its files have changed.

    Raises:
        DataError: scans that cannot be read, that are cases of the data set, under whatever name, or of a held-out
            patient, or that have the name of another scan from an earlier folder.
    """
    written = _preprocess(workspace, _find_healthy(workspace, healthy), "preprocessing healthy scans", workers)
    write_json(workspace.healthy_file, sorted({*map(str, healthy_folders(workspace)), str(healthy.resolve())}))
    return written


def _preprocess(workspace: Workspace, scans: _Scans, title: str, workers: int | None) -> int:
    if workers is None:
        workers = choose_preprocessing_workers(list(scans.grids.values()), len(scans.plan.channels))
    needed = preprocessed_bytes(scans.plan, [scans.grids[job[0]] for job in scans.left() if job[0] in scans.grids])
    free = free_bytes(workspace.root)
    if needed > free:
        there = f"where {workspace.root} is, {console.size(free)} are free"
        console.warn(f"the preprocessed scans need about {console.size(needed)}; {there}")
    with locked(workspace.root, "preprocess"), console.progress(title, len(scans.jobs)) as tick:
        return preprocess(scans.plan, scans.jobs, scans.folder, workers, tick)


def learns_from_hosts(workspace: Workspace, method_name: str = "tumorgen") -> bool:
    """Whether a run of all stages preprocesses its hosts, so that the method learns from them.

    It does if the plan has a share for scans without labels in a stage that learns from them directly, unless the first
    such training has begun or is finished.
    """
    method = find_method(method_name)(workspace.plan(), workspace)
    learning = [each for each in method.stages if method.healthy_share(each)]
    begun = (method.training_folder(each) / name for each in learning for name in ("run.json", "last.pt"))
    return bool(learning) and not any(path.is_file() for path in begun)


def forecast_preprocessing(
    workspace: Workspace, healthy: Path | None = None, workers: int | None = None
) -> PreprocessForecast:
    """Estimate what is left to preprocess; one scan is preprocessed in a temporary folder for that.

    Args:
        workspace: The workspace, planned; it is not changed.
        healthy: Folder of healthy scans, if they are to be preprocessed too.
        workers: Number of processes, as for `preprocess_dataset`.
    """
    found = [_find_cases(workspace), *([] if healthy is None else [_find_healthy(workspace, healthy)])]
    left = [(scans.grids[job[0]], job) for scans in found for job in scans.left() if job[0] in scans.grids]
    free = free_bytes(workspace.root)
    if not left:
        return PreprocessForecast(0, 0, free, 0.0)
    plan, grids = found[0].plan, [grid for grid, _ in left]
    count = choose_preprocessing_workers(grids, len(plan.channels)) if workers is None else workers
    voxels = [math.prod(grid.shape) for grid in grids]
    typical = sorted(range(len(left)), key=voxels.__getitem__)[len(left) // 2]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tumorgen_") as folder:
        case, images, label = left[typical][1]
        preprocess_case(plan, case, images, label, Path(folder) / case)
    seconds = (time.monotonic() - begun) * sum(voxels) / voxels[typical] / max(1, min(count, len(left)))
    return PreprocessForecast(len(left), preprocessed_bytes(plan, grids), free, round(seconds, 3))


def _find_cases(workspace: Workspace) -> _Scans:
    """The cases of the plan."""
    plan, splits = workspace.plan(), workspace.splits()
    dataset, facts = read_planned_dataset(workspace, plan), {case.case: case for case in workspace.fingerprint().cases}
    cases = [*splits.train, *splits.test]
    jobs: list[Job] = [(case, dataset.image_files(case), dataset.label_file(case)) for case in cases]
    return _Scans(plan, jobs, {case: facts[case].grid for case in cases}, workspace.cases)


def _find_healthy(workspace: Workspace, healthy: Path) -> _Scans:
    """The healthy scans of a folder to learn from; at most `MOST_SCANS`.

    Raises:
        DataError: scans that cannot be read, that are cases of the data set, under whatever name, or of a held-out
            patient, or that have the name of another scan from an earlier folder.
    """
    plan, splits = workspace.plan(), workspace.splits()
    hosts = find_hosts(healthy, [channel.name for channel in plan.channels], plan.file_ending)
    if len(hosts) > MOST_SCANS:
        console.note(f"{healthy}: {MOST_SCANS} of {len(hosts)} scans are learned from, at even distances by name")
    hosts = tuple(choose_evenly(hosts, MOST_SCANS))
    grids = {host.case: grid for host in hosts if (grid := read_header(host.files[0], [])) is not None}
    found = _Scans(plan, [(host.case, host.files, None) for host in hosts], grids, workspace.unlabeled)
    faults = _same_name_faults(workspace, healthy, hosts)
    new = {case: images[0] for case, images, _ in found.left()}
    dataset = read_planned_dataset(workspace, plan)
    known = scans_of_same_patients(new, splits.test, splits.patients)
    known |= match_cases(new, dataset, [*splits.train, *splits.test])
    if known:
        faults.append(twins_fault(str(healthy), known))
    if faults:
        raise DataError("The healthy scans cannot be learned from", faults)
    return found


def _same_name_faults(workspace: Workspace, healthy: Path, hosts: Sequence[Host]) -> list[Fault]:
    """The faults of scans that have the name of a preprocessed scan from another folder, and other files."""
    faults = []
    for host in hosts:
        known: Contents = {}
        with contextlib.suppress(StateError):  # there is none, or it is damaged and made again
            known = read_case_record(workspace.unlabeled / host.case).files
        elsewhere = [Path(name).parent for name in known if Path(name) not in {path.resolve() for path in host.files}]
        if elsewhere and elsewhere[0].is_dir() and not same_content(known, hash_paths(host.files, known)):
            found = f"{host.case}, the name of another scan in {elsewhere[0]}"
            remedy = f"rename it, or delete {workspace.unlabeled / host.case} to learn from this one instead"
            faults.append(Fault(str(healthy), found, "a name of its own", remedy))
    return faults


def healthy_folders(workspace: Workspace) -> list[Path]:
    """The folders of healthy scans that the methods of a workspace learn from."""
    if not workspace.healthy_file.is_file():
        return []
    remedy = "delete it, then run `tumorgen preprocess --healthy DIR` again for each folder"
    return [Path(folder) for folder in read_record(tuple[str, ...], workspace.healthy_file, remedy)]
