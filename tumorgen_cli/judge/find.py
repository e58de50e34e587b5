"""Which judge scores a workspace's pairs: the one given, the workspace's own, or the one that comes along."""

from __future__ import annotations

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
USEFUL_DICE = 0.4  # a judge below it on real held-out cases says little of synthetic ones
WEAK_JUDGE = "train it longer with --restart --minutes N, or take the bundled one with --judge bundled"


def needed_judge(workspace: Workspace, folder: Path | None, device: DeviceName) -> Judge:
    """The judge of `find_judge`.

    Raises:
        StateError: there is none.
    """
    found = find_judge(workspace, folder, device)
    if found is None:
        fault = Fault(
            "--judge",
            "none that fits",
            "an nnU-Net of this kind of scan",
            "give --judge DIR, or run `tumorgen train judge`",
        )
        raise StateError("A judge is needed", [fault])
    return found


def find_judge(workspace: Workspace, folder: Path | None, device: DeviceName) -> Judge | None:
    """The judge in `folder`, or `bundled` for the one that comes along. Without either the workspace's own; else the bundled
    one, where it can see such scans; else none."""
    from tumorgen_cli.judge.model import Judge

    plan = workspace.plan()
    own = workspace.judge
    if folder is None and (own / "judge.json").is_file():
        _check_own_judge(workspace, own)
        console.note(f"judge: the workspace's own ({own})")
        folder = own
    name = plan.tumor_name
    if folder is None or (str(folder) == BUNDLED and not folder.exists()):
        channels = [channel.name for channel in plan.channels]
        if folder is None and not (
            len(channels) == 1 and channels_module.is_pet(channels[0]) and "spect" not in channels[0].lower()
        ):
            console.warn(
                "no judge: agreement is not scored; give --judge DIR or run `tumorgen train judge` (the bundled one sees FDG-PET alone)"
            )
            return None
        console.note(
            "judge: the bundled one, trained on FDG-PET of sarcomas; for other tumors or scanners train your own (`tumorgen train judge`)"
        )
        folder, name = bundled_judge(), "tumor"
    learnt = read_learned_cases(folder)
    if seen := sorted(set(learnt.cases) & set(workspace.splits().test)):
        console.warn(
            f"this judge has learnt from {len(seen)} cases of {learnt.dataset} that bear names of held-out ones ({abbreviate_list(seen)}): if they are the same, "
            "what it reaches there is no ceiling"
        )
    return Judge(folder, find_device(device), name, plan.precision)


def _check_own_judge(workspace: Workspace, folder: Path) -> None:
    from tumorgen_cli.judge.card import JudgeRecord

    remedy = "run `tumorgen train judge --restart`"
    record, plan, train = (
        read_record(JudgeRecord, folder / "judge.json", remedy),
        workspace.plan(),
        workspace.splits().train,
    )
    faults = []
    if set(record.cases) != set(train):
        faults.append(
            Fault(
                str(folder),
                f"trained on {len(record.cases)} cases",
                f"the {len(train)} training cases of the present splits",
                remedy,
            )
        )
    if record.fingerprint_hash != plan.fingerprint_hash:
        faults.append(
            Fault(
                str(folder), f"trained on {record.dataset} as it was before", "the data set as it was planned", remedy
            )
        )
    if record.tumor_name != plan.tumor_name:
        faults.append(Fault(str(folder), f"a judge of {record.tumor_name!r}", f"one of {plan.tumor_name!r}", remedy))
    if faults:
        raise StateError("The workspace's judge is stale", faults)
    if record.held_out and not record.mean_dice >= USEFUL_DICE:
        console.warn(
            f"this judge reaches a DSC of {record.mean_dice:.2f} on real held-out cases: its scores say little ({WEAK_JUDGE})"
        )


def bundled_judge() -> Path:
    """The results folder of the judge that comes with the package; its MODEL_CARD.md says what it is."""
    return Path(str(resources.files("tumorgen_cli.judge"))) / "bundled"
