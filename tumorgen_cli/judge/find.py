"""The choice of the judge that scores a workspace's pairs: the given one, the workspace's own, or the bundled one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.data.volumes import read_grid, read_image
from tumorgen_cli.judge.card import JudgeFacts, JudgeRecord, record_facts
from tumorgen_cli.judge.domain import (
    Domain,
    channel_differences,
    fingerprint_levels,
    grid_differences,
    scan_levels,
)
from tumorgen_cli.judge.results_files import OWN_JUDGE, read_judge_record
from tumorgen_cli.nnunet.results import read_learned_cases, results_root
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import Fault, StateError, abbreviate_list, say_count

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


BUNDLED = "bundled"
WEAK_JUDGE = "train it longer (`tumorgen train judge --restart --minutes N` trains the workspace's own)"
_FORCE = "--judge bundled takes the bundled one all the same"
_LEVELS_OF = 3  # scans whose intensities are compared; their headers are compared for all

#: the image files of one scan, one per channel
ScanFiles = tuple[Path, ...]


@dataclass(frozen=True)
class Choice:
    """The judge for some scans.

    Attributes:
        folder: its results folder; None if there is none for them.
        tumor_name: name of the tumor label that it knows.
        title: which judge it is.
        reason: why there is none; empty if there is one.
        differences: how the scans differ from the judge's training scans, as far as these are known.
    """

    folder: Path | None
    tumor_name: str
    title: str = ""
    reason: str = ""
    differences: tuple[str, ...] = ()


def choose_judge(workspace: Workspace, folder: Path | None, scans: Sequence[ScanFiles] = ()) -> Choice:
    """Choose the judge for the scans of a workspace; nothing is loaded.

    Args:
        workspace: the workspace.
        folder: the judge that the user asks for; `bundled` stands for the one that comes with the package. None: the
            workspace's own judge; else the bundled one if the data set and `scans` are like its training scans.
        scans: scans that are to be judged, such as hosts, beside those of the data set.

    Raises:
        StateError: the workspace's own judge is stale, or a judge's record cannot be read.
        DataError: a scan cannot be read.
    """
    plan, own = workspace.plan(), workspace.judge
    if folder is None and (own / "judge.json").is_file():
        record = read_own_judge(workspace, own)
        names = [channel.name for channel in plan.channels]
        found = scan_differences(record.domain, names, scans)
        return Choice(own, plan.tumor_name, f"the workspace's own judge ({own})", differences=found)
    if folder is not None and (str(folder) != BUNDLED or folder.exists()):
        return Choice(folder, plan.tumor_name, f"the judge {folder}")
    bundled = read_judge_record(bundled_judge())
    assert bundled is not None
    found = _data_set_differences(workspace, bundled.domain, scans)
    if folder is None and found:
        reason = f"the bundled judge does not know such scans ({'; '.join(found)})"
        return Choice(None, plan.tumor_name, reason=reason, differences=found)
    return Choice(bundled_judge(), "tumor", "the bundled judge (FDG-PET of sarcomas, phantoms)", differences=found)


def no_judge_words(choice: Choice) -> str:
    """Say why there is no judge, and how to get one."""
    return f"no judge: {choice.reason}; agreement is not scored; {OWN_JUDGE}; {_FORCE}"


def load_judge(workspace: Workspace, choice: Choice, device: DeviceName) -> Judge:
    """Load a judge that was chosen, and say which one it is and what its scores are worth.

    Raises:
        StateError: there is none, or it cannot be read.
        DataError: it does not know the tumor.
    """
    from tumorgen_cli.judge.model import Judge

    if choice.folder is None:
        expected = "an nnU-Net that has learned from such scans"
        fault = Fault("--judge", choice.reason, expected, f"{OWN_JUDGE}; {_FORCE}")
        raise StateError("A judge is needed", [fault])
    judge = Judge(choice.folder, find_device(device), choice.tumor_name, workspace.plan().precision)
    facts = judge_facts(judge, choice.title)
    console.note(f"judge: {facts.words}")
    if facts.caution:
        console.warn(f"{facts.caution}: {WEAK_JUDGE}")
    if choice.differences:
        console.warn(
            f"the scans are unlike those that this judge learned from ({'; '.join(choice.differences)}): its scores "
            "on them may mean nothing"
        )
    _warn_of_seen_cases(workspace, choice.folder)
    return judge


def needed_judge(
    workspace: Workspace, folder: Path | None, device: DeviceName, scans: Sequence[ScanFiles] = ()
) -> Judge:
    """Choose a judge (`choose_judge`) and load it (`load_judge`)."""
    return load_judge(workspace, choose_judge(workspace, folder, scans), device)


def judge_facts(judge: Judge, title: str) -> JudgeFacts:
    """Return how long a judge was trained and what it reaches on held-out cases, as far as its files say."""
    record = read_judge_record(results_root(judge.folder))
    return JudgeFacts(title, judge.iterations) if record is None else record_facts(record, title)


def bundled_judge() -> Path:
    """Return the results folder of the judge that comes with the package; its MODEL_CARD.md describes it."""
    return Path(str(resources.files("tumorgen_cli.judge"))) / BUNDLED


def scan_differences(domain: Domain, names: Sequence[str], scans: Sequence[ScanFiles]) -> tuple[str, ...]:
    """Say how scans differ from a judge's training scans; empty if they do not.

    Args:
        domain: the judge's training scans.
        names: names of the channels.
        scans: the files of the scans. Headers are read of all, voxels of the first few.
    """
    found = grid_differences(domain, [read_grid(files[0]) for files in scans])
    compared = any(level is not None for level in domain.levels)
    for files in scans[:_LEVELS_OF] if compared else ():
        if not found:
            found = channel_differences(domain, names, scan_levels(read_image(files)[0], names))
    return tuple(found)


def _data_set_differences(workspace: Workspace, domain: Domain, scans: Sequence[ScanFiles]) -> tuple[str, ...]:
    """Say how the data set, or else other scans, differ from a judge's training scans."""
    fingerprint = workspace.fingerprint()
    names = [channel.name for channel in fingerprint.channels]
    found = channel_differences(domain, names, fingerprint_levels(fingerprint))
    found += grid_differences(domain, [case.grid for case in fingerprint.cases])
    return tuple(found) or scan_differences(domain, names, scans)


def _warn_of_seen_cases(workspace: Workspace, folder: Path) -> None:
    """Warn if the judge may have learned from held-out cases; only their names can tell."""
    learned = read_learned_cases(folder)
    if seen := sorted(set(learned.cases) & set(workspace.splits().test)):
        console.warn(
            f"this judge has learned from {say_count(len(seen), 'case')} of {learned.dataset} with the same names as "
            f"held-out cases ({abbreviate_list(seen)}): if they are the same cases, its scores on them are too high to "
            "serve as a reference"
        )


def read_own_judge(workspace: Workspace, folder: Path) -> JudgeRecord:
    """Read the record of the workspace's own judge and check that it is up to date.

    Raises:
        StateError: it was trained on other cases, another data set or another tumor.
    """
    remedy = "run `tumorgen train judge --restart`"
    record = read_judge_record(folder)
    assert record is not None
    plan, train = workspace.plan(), workspace.splits().train
    where, faults = str(folder), []
    if set(record.cases) != set(train):
        expected = f"the {say_count(len(train), 'training case')} of the present splits"
        faults.append(Fault(where, f"trained on {say_count(len(record.cases), 'case')}", expected, remedy))
    if record.fingerprint_hash != plan.fingerprint_hash:
        found = f"trained on {record.dataset} as it was before"
        faults.append(Fault(where, found, "the data set as it was planned", remedy))
    if record.tumor_name != plan.tumor_name:
        faults.append(Fault(where, f"a judge of {record.tumor_name!r}", f"one of {plan.tumor_name!r}", remedy))
    if faults:
        raise StateError("The workspace's judge is stale", faults)
    return record
