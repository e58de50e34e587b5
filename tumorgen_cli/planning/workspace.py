"""The workspace: where the files of each command are, and whether they belong together."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import REPLAN, Plan, read_plan
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.json_records import read_record
from tumorgen_cli.system.names import check_names


def model_fault(root: Path) -> Fault:
    """The fault of an installed model where a data set is needed."""
    remedy = "paint with it by its name (`tumorgen synthesize --model NAME --healthy DIR`), or name another workspace"
    return Fault(str(root), "an installed model", "a workspace with its data set", remedy)


def check_planned(root: Path) -> None:
    """Check that a folder is a planned workspace, and no installed model, which is only read.

    Raises:
        StateError: it is not.
    """
    if Workspace(root).is_model:
        raise StateError("A model has no data set", [model_fault(root)])
    if not (root / "plan.json").is_file():
        found = "a file" if root.is_file() else "no plan.json" if root.is_dir() else "no such folder"
        raise StateError("There is no plan", [Fault(str(root), found, "a planned workspace", REPLAN)])


@dataclass(frozen=True)
class Workspace:
    """The folder of the work on one data set, or of an installed model: a workspace without scans.

    Attributes:
        root: the folder.
        results: where synthetic sets and their evaluations are written; None: in the folder. A model is only read.
    """

    root: Path
    results: Path | None = None

    @property
    def model_file(self) -> Path:
        """The record of a model; only a model has one."""
        return self.root / "model.json"

    @property
    def is_model(self) -> bool:
        """Whether this is a model that was given away without its data set."""
        return self.model_file.is_file()

    @property
    def donors_file(self) -> Path:
        """The masks of training tumors that a model draws from, if they were given with it."""
        return self.root / "donors.safetensors"

    @property
    def plan_file(self) -> Path:
        """The plan."""
        return self.root / "plan.json"

    @property
    def fingerprint_file(self) -> Path:
        """The fingerprint of the data set."""
        return self.root / "fingerprint.json"

    @property
    def contents_file(self) -> Path:
        """The content of the data set's files as they were planned with, by hashes."""
        return self.root / "contents.json"

    @property
    def splits_file(self) -> Path:
        """The training cases and the held-out cases."""
        return self.root / "splits.json"

    @property
    def cases(self) -> Path:
        """The folder of the preprocessed cases."""
        return self.root / "cases"

    @property
    def unlabeled(self) -> Path:
        """The folder of preprocessed tumor-free scans without labels."""
        return self.root / "unlabeled"

    @property
    def sublabels_file(self) -> Path:
        """The rule by which painted tumors get sub-labels, if the data set's tumor has several labels."""
        return self.root / "sublabels.json"

    @property
    def healthy_file(self) -> Path:
        """The file that lists the folders from which the unlabeled scans were read."""
        return self.root / "healthy.json"

    @property
    def judge(self) -> Path:
        """The folder of the judge that was trained in this workspace."""
        return self.root / "judge"

    def run(self, method: str, stage: str) -> Path:
        """The folder of a training stage."""
        return self.root / "runs" / method / stage

    def synthetic(self, name: str) -> Path:
        """The folder of a synthetic set."""
        return (self.results or self.root) / "synthetic" / name

    def evaluation(self, name: str) -> Path:
        """The folder of the evaluation of a synthetic set."""
        return (self.results or self.root) / "evaluation" / name

    def plan(self) -> Plan:
        """Read the plan and check that it was made from the fingerprint of this workspace.

        Raises:
            StateError: there is no plan, it has another schema, or it was made from another fingerprint.
        """
        plan = read_plan(self.plan_file)
        found = self.fingerprint().content_hash
        if found != plan.fingerprint_hash:
            fault = Fault(str(self.plan_file), f"made from fingerprint {plan.fingerprint_hash}", found, REPLAN)
            raise StateError("The plan is stale", [fault])
        return plan

    def fingerprint(self) -> Fingerprint:
        """Read the fingerprint."""
        fingerprint = read_record(Fingerprint, self.fingerprint_file, REPLAN)
        check_names(str(self.fingerprint_file), [case.case for case in fingerprint.cases], REPLAN)
        return fingerprint

    def splits(self) -> Splits:
        """Read the splits."""
        splits = read_record(Splits, self.splits_file, REPLAN)
        check_names(str(self.splits_file), [*splits.train, *splits.test], REPLAN)
        return splits

    def shared_in(self, folder: Path, *, with_runs: bool = False) -> Workspace:
        """Lay out a temporary workspace that shares the preprocessed scans of this one.

        Args:
            folder: An empty folder. It gets copies of the plan's files, as far as they are there, and links to the
                folders of preprocessed scans.
            with_runs: Whether it shares the training stages, too.
        """
        files = (self.plan_file, self.fingerprint_file, self.contents_file, self.splits_file)
        for path in filter(Path.is_file, files):
            shutil.copyfile(path, folder / path.name)
        folders = (self.cases, self.unlabeled, *([self.root / "runs"] if with_runs else []))
        for path in filter(Path.is_dir, folders):
            (folder / path.name).symlink_to(path.resolve())
        return Workspace(folder)
