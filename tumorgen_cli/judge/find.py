"""The choice of the judge that scores a workspace's pairs: the given one, the workspace's own, or the bundled one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.data import channels as channels_module
from tumorgen_cli.nnunet.results import read_learned_cases
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import Fault, StateError, abbreviate_list
from tumorgen_cli.system.json_records import read_record

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


BUNDLED = "bundled"
USEFUL_DICE = 0.4  # the scores of a judge below it on real held-out cases mean little
WEAK_JUDGE = "train it longer with --restart --minutes N, or use the bundled one with --judge bundled"


def needed_judge(workspace: Workspace, folder: Path | None, device: DeviceName) -> Judge:
    """Return the judge of `find_judge`.

    Raises:
        StateError: there is none.
    """
    found = find_judge(workspace, folder, device)
    if found is None:
        remedy = "give --judge DIR, or run `tumorgen train judge`"
        fault = Fault("--judge", "none that fits", "an nnU-Net of this kind of scan", remedy)
        raise StateError("A judge is needed", [fault])
    return found


def find_judge(workspace: Workspace, folder: Path | None, device: DeviceName) -> Judge | None:
    """Load the judge in `folder`; `bundled` stands for the one that comes with the package.

    Without a folder it is the workspace's own judge; else the bundled one if it knows such scans; else None.

    Raises:
        StateError: the workspace's own judge is stale, or the judge cannot be read.
        DataError: the judge does not know the tumor.
    """
    from tumorgen_cli.judge.model import Judge

    plan = workspace.plan()
    own = workspace.judge
    if folder is None and (own / "judge.json").is_file():
        _check_own_judge(workspace, own)
        console.note(f"judge: the workspace's own ({own})")
        folder = own
    tumor_name = plan.tumor_name
    if folder is None or (str(folder) == BUNDLED and not folder.exists()):
        if folder is None and not _suits_bundled_judge([channel.name for channel in plan.channels]):
            console.warn(
                "no judge: agreement is not scored; give --judge DIR or run `tumorgen train judge` "
                "(the bundled judge knows FDG-PET only)"
            )
            return None
        console.note(
            "judge: the bundled one, trained on FDG-PET of sarcomas; for other tumors or scanners train your own "
            "(`tumorgen train judge`)"
        )
        folder, tumor_name = bundled_judge(), "tumor"
    _warn_of_seen_cases(workspace, folder)
    return Judge(folder, find_device(device), tumor_name, plan.precision)


def bundled_judge() -> Path:
    """Return the results folder of the judge that comes with the package; its MODEL_CARD.md describes it."""
    return Path(str(resources.files("tumorgen_cli.judge"))) / "bundled"


def _suits_bundled_judge(channels: Sequence[str]) -> bool:
    """Tell whether scans with these channels are of the kind that the bundled judge was trained on."""
    return len(channels) == 1 and channels_module.is_pet(channels[0]) and "spect" not in channels[0].lower()


def _warn_of_seen_cases(workspace: Workspace, folder: Path) -> None:
    """Warn if the judge may have learned from held-out cases; only their names can tell."""
    learned = read_learned_cases(folder)
    if seen := sorted(set(learned.cases) & set(workspace.splits().test)):
        console.warn(
            f"this judge has learned from {len(seen)} cases of {learned.dataset} that have the same names as held-out "
            f"cases ({abbreviate_list(seen)}): if they are the same cases, its scores on them are too high to serve as "
            "a reference"
        )


def stale_judge_faults(workspace: Workspace) -> list[Fault]:
    """Return why the workspace's own judge is stale: trained on other cases, another data set or another tumor."""
    from tumorgen_cli.judge.card import JudgeRecord

    folder, remedy = workspace.judge, "run `tumorgen train judge --restart`"
    record = read_record(JudgeRecord, folder / "judge.json", remedy)
    plan, train = workspace.plan(), workspace.splits().train
    where, faults = str(folder), []
    if set(record.cases) != set(train):
        expected = f"the {len(train)} training cases of the present splits"
        faults.append(Fault(where, f"trained on {len(record.cases)} cases", expected, remedy))
    if record.fingerprint_hash != plan.fingerprint_hash:
        found = f"trained on {record.dataset} as it was before"
        faults.append(Fault(where, found, "the data set as it was planned", remedy))
    if record.tumor_name != plan.tumor_name:
        faults.append(Fault(where, f"a judge of {record.tumor_name!r}", f"one of {plan.tumor_name!r}", remedy))
    return faults


def _check_own_judge(workspace: Workspace, folder: Path) -> None:
    """Check that the workspace's own judge is up to date; warn if its scores are low.

    Raises:
        StateError: it was trained on other cases, another data set or another tumor.
    """
    from tumorgen_cli.judge.card import JudgeRecord

    faults = stale_judge_faults(workspace)
    if faults:
        raise StateError("The workspace's judge is stale", faults)
    record = read_record(JudgeRecord, folder / "judge.json", "run `tumorgen train judge --restart`")
    if record.held_out and not record.mean_dice >= USEFUL_DICE:
        console.warn(
            f"this judge reaches a DSC of {record.mean_dice:.2f} on real held-out cases: its scores mean little "
            f"({WEAK_JUDGE})"
        )
