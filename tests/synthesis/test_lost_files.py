"""A pair that lost a file is made again by the command that the remedy names, and is the same."""

import pytest
from support.pairs import paint, records

from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.pipeline.merge import merge_sets
from tumorgen_cli.system.errors import DataError, StateError


@pytest.mark.parametrize("pattern", ["labelsTr/*_s0001.nii.gz", "imagesTr/*_s0000_0000.nii.gz"])
def test_the_remedy_makes_the_lost_pair_again(workspace, phantoms, tmp_path, pattern):
    folder, out = tmp_path / "set", tmp_path / "Dataset601_Merged"
    paint(workspace, phantoms, folder, pairs=2)
    before = {path: path.read_bytes() for path in folder.glob("*Tr/*")}
    lines = records(folder)
    (lost,) = folder.glob(pattern)
    lost.unlink()
    for use, error in (
        (lambda: synthetic_cases(workspace.plan(), folder), StateError),
        (lambda: merge_sets(workspace, str(phantoms.dataset), [folder], out), DataError),
    ):
        with pytest.raises(error) as caught:
            use()
        (fault,) = caught.value.faults
        assert fault.where == str(lost)
        assert fault.remedy == "run the same `tumorgen synthesize` command again; it makes what is missing"
    assert paint(workspace, phantoms, folder, pairs=2).tally.made == 1  # the remedy
    assert {path: path.read_bytes() for path in folder.glob("*Tr/*")} == before
    assert sorted(records(folder), key=lambda line: line["case"]) == sorted(lines, key=lambda line: line["case"])
    assert len(merge_sets(workspace, str(phantoms.dataset), [folder], out).pairs) == 2
