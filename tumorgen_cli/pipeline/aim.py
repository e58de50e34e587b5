"""What pairs are aimed at: a segmentor's scores on the training cases -> how often each training tumor is drawn."""

from __future__ import annotations

from tumorgen_cli.methods.base import Method, Sampling
from tumorgen_cli.synthesis.aim import Aim, AimSummary, Followed, make_aim
from tumorgen_cli.synthesis.aim_segmentor import score_segmentor
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, PlanError

_NAMED = 3  # strata that are named on the terminal


def find_aim(
    method: Method, hosts: HostOptions, sampling: Sampling, device: DeviceName, keep: bool = True
) -> Aim | None:
    """Learn from the segmentor of `hosts.aim` what to aim at, and say it; None if pairs are not aimed.

    Args:
        method: the method that paints.
        hosts: what is painted into.
        sampling: how the method samples.
        device: where the segmentor predicts training cases of which it has no prediction.
        keep: write the segmentor's scores into the workspace.

    Raises:
        PlanError: a kind of tumor is asked for, too.
        StateError: the segmentor cannot be used.
    """
    if hosts.aim is None:
        return None
    if sampling.kind is not None:
        raise PlanError(
            "Options that do not fit together",
            [Fault("--aim and --kind", "both given", "one of them", "leave one out")],
        )
    workspace, plan = method.workspace, method.plan
    scores = score_segmentor(workspace, plan, hosts.aim, device, keep)
    splits = workspace.splits()
    cases = workspace.fingerprint().of(splits.train).cases
    followed = Followed(method.kinds, not hosts.anywhere and plan.paste.places != "anywhere")
    facts = {case.case: case.tumors for case in cases}
    aim = make_aim(scores, facts, plan.main_channel, followed, splits.patients)
    _tell(aim.summary)
    return aim


def _tell(summary: AimSummary) -> None:
    """Say what the segmentor finds, and what is drawn more often."""
    of_all = f"{summary.found:.0%} of {summary.tumors} training tumors, mean Dice {summary.dice:.2f}"
    found = f"{summary.segmentor} finds {of_all}"
    if not summary.aimed:
        console.warn(
            f"nothing to aim at: {found}, and neither size nor another trait tells which it misses or outlines badly; "
            "all pairs are drawn as the data are"
        )
        return
    rows = sorted(summary.strata, key=lambda row: -row.factor)[:_NAMED]
    shown = ", ".join(f"{row.trait} {row.name} ({row.factor:.1f} times)" for row in rows if row.factor > 1)
    console.note(f"aim: {found}; half of the pairs draw more often: {shown}")
