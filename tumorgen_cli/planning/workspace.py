"""The workspace: where each command's files lie, and whether they belong together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import REPLAN, Plan, read_plan
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.json_records import read_record


@dataclass(frozen=True)
class Workspace:
    """One workspace, one data set."""

    root: Path

    @property
    def plan_file(self) -> Path:
        return self.root / "plan.json"

    @property
    def fingerprint_file(self) -> Path:
        return self.root / "fingerprint.json"

    @property
    def splits_file(self) -> Path:
        return self.root / "splits.json"

    @property
    def cases(self) -> Path:
        return self.root / "cases"

    @property
    def unlabelled(self) -> Path:
        """Tumor-free scans without labels, preprocessed as the cases are."""
        return self.root / "unlabelled"

    @property
    def healthy_file(self) -> Path:
        """Where the unlabelled scans were read."""
        return self.root / "healthy.json"

    @property
    def judge(self) -> Path:
        """The workspace's own judge."""
        return self.root / "judge"

    def run(self, method: str, stage: str) -> Path:
        """The folder of a training stage."""
        return self.root / "runs" / method / stage

    def synthetic(self, name: str) -> Path:
        return self.root / "synthetic" / name

    def evaluation(self, name: str) -> Path:
        return self.root / "evaluation" / name

    def plan(self) -> Plan:
        """The plan, checked against the fingerprint beside it.

        Raises:
            StateError: no plan, another schema, or made from another fingerprint.
        """
        plan = read_plan(self.plan_file)
        found = self.fingerprint().content_hash
        if found != plan.fingerprint_hash:
            fault = Fault(str(self.plan_file), f"made from fingerprint {plan.fingerprint_hash}", found, REPLAN)
            raise StateError("The plan is stale", [fault])
        return plan

    def fingerprint(self) -> Fingerprint:
        return read_record(Fingerprint, self.fingerprint_file, REPLAN)

    def splits(self) -> Splits:
        return read_record(Splits, self.splits_file, REPLAN)
