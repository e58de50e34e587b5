"""What a workspace reads is checked before it is used."""

import json
import shutil

import pytest

from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import StateError


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("splits.json", lambda plain: {**plain, "test": ["../../home"]}),
        ("plan.json", lambda plain: {**plain, "file_ending": "/../../home.nii.gz"}),
        ("plan.json", lambda plain: {**plain, "dataset": "../home"}),
        ("fingerprint.json", lambda plain: {**plain, "cases": [{**plain["cases"][0], "case": ".."}]}),
    ],
    ids=["splits", "ending", "dataset", "fingerprint"],
)
def test_names_that_lead_out_of_their_folder_are_refused(workspace, tmp_path, name, change):
    own = Workspace(tmp_path)
    for path in (workspace.plan_file, workspace.splits_file, workspace.fingerprint_file):
        shutil.copyfile(path, tmp_path / path.name)
    (own.plan(), own.splits(), own.fingerprint())
    path = tmp_path / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(StateError, match="lead out") as caught:
        (own.splits(), own.plan(), own.fingerprint())
    assert str(path) in caught.value.faults[0].where
