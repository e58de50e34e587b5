"""Stage `preprocess`: raw cases -> cases on the working grid."""

from __future__ import annotations

from pathlib import Path

from tumorgen_cli.data.checks import read_header
from tumorgen_cli.data.hosts import describe_matches, find_hosts, match_cases
from tumorgen_cli.data.workers import choose_preprocessing_workers
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.preprocess import preprocess
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.system.json_records import read_record, write_json
from tumorgen_cli.system.locks import locked


def preprocess_dataset(workspace: Workspace, workers: int | None = None) -> int:
    """Preprocess every case of the plan that is not done; return how many were written."""
    plan, splits = workspace.plan(), workspace.splits()
    dataset = read_planned_dataset(workspace, plan)
    facts = {case.case: case for case in workspace.fingerprint().cases}
    cases = [*splits.train, *splits.test]
    jobs = [(case, dataset.image_files(case), dataset.label_file(case)) for case in cases]
    if workers is None:
        workers = choose_preprocessing_workers([facts[case].grid for case in cases], len(plan.channels))
    with locked(workspace.root, "preprocess"), console.progress("preprocessing", len(jobs)) as tick:
        return preprocess(plan, jobs, workspace.cases, workers, tick)


def preprocess_healthy(workspace: Workspace, healthy: Path, workers: int | None = None) -> int:
    """Preprocess the healthy scans of a folder, for methods that learn from them; return how many were written.

    Scans are known by name: a scan that is there already is not preprocessed again.

    Raises:
        DataError: scans that cannot be read, or that are cases of the data set, under whatever name.
    """
    plan, splits = workspace.plan(), workspace.splits()
    hosts = find_hosts(healthy, [channel.name for channel in plan.channels], plan.file_ending)
    dataset = read_planned_dataset(workspace, plan)
    known = match_cases({host.case: host.files[0] for host in hosts}, dataset, [*splits.train, *splits.test])
    if known:
        found = f"{len(known)} of the data set's own cases, or scans of their names ({describe_matches(known)})"
        remedy = "remove them, or rename what is another scan: held-out cases teach nothing"
        fault = Fault(str(healthy), found, "other scans", remedy)
        raise DataError("Labeled cases are among the healthy scans", [fault])
    grids = [grid for host in hosts if (grid := read_header(host.files[0], [])) is not None]
    count = choose_preprocessing_workers(grids, len(plan.channels)) if workers is None else workers
    with locked(workspace.root, "preprocess"), console.progress("preprocessing healthy scans", len(hosts)) as tick:
        written = preprocess(plan, [(host.case, host.files, None) for host in hosts], workspace.unlabeled, count, tick)
    write_json(workspace.healthy_file, sorted({*map(str, healthy_folders(workspace)), str(healthy.resolve())}))
    return written


def healthy_folders(workspace: Workspace) -> list[Path]:
    """The folders of healthy scans that the methods of a workspace learn from."""
    if not workspace.healthy_file.is_file():
        return []
    remedy = "run `tumorgen preprocess --healthy DIR` again"
    return [Path(folder) for folder in read_record(tuple[str, ...], workspace.healthy_file, remedy)]
