"""Opens a method of a workspace on a device, after checking the plan and the preprocessed cases."""

from __future__ import annotations

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import is_done
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import Fault, StateError, abbreviate_list, say_count


def check_preprocessed(workspace: Workspace, plan: Plan, splits: Splits) -> None:
    """Check that every case of the splits is preprocessed by this plan; a model has no cases, and needs none.

    Raises:
        StateError: Cases are missing or stale.
    """
    if workspace.is_model:
        return
    missing = [case for case in (*splits.train, *splits.test) if not is_done(plan, case, workspace.cases / case)]
    if missing:
        found = f"{say_count(len(missing), 'case')} missing or made by another plan ({abbreviate_list(missing)})"
        raise StateError(
            "Cases are not preprocessed",
            [Fault(str(workspace.cases), found, "every case", "run `tumorgen preprocess`")],
        )


def check_held_out(method: Method) -> None:
    """Check that a method has not learned from held-out cases, by given weights or as scans without labels.

    Raises:
        StateError: It has.
    """
    seen = sorted({*method.learned_from()} & {*method.workspace.splits().test})
    if seen:
        fault = Fault(
            method.name,
            f"its weights have learned from {say_count(len(seen), 'held-out case')} ({abbreviate_list(seen)})",
            "none",
            f"delete their folders in {method.workspace.unlabeled}, then train anew (--restart), without such weights",
        )
        raise StateError("A method has learned from held-out cases", [fault])


def open_method(workspace: Workspace, name: str, device: DeviceName) -> Method:
    """Open a method of a workspace on a device.

    Raises:
        StateError: The workspace is not planned, or cases are missing or stale.
        PlanError: There is no such method, or the plan does not fit it.
    """
    plan = workspace.plan()
    check_preprocessed(workspace, plan, workspace.splits())
    return find_method(name)(plan, workspace, find_device(device).type)
