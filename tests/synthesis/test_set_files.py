"""How the files of a set are read."""

import json

import pytest

from tumorgen_cli.geometry import Box
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT, Provenance
from tumorgen_cli.synthesis.set_files import read_ending, read_origin, read_provenance
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import to_plain


@pytest.mark.parametrize("settings", [{"format": PAIR_FORMAT - 1}, {"method": "toy"}, [1]], ids=["old", "none", "list"])
@pytest.mark.parametrize("read", [read_provenance, read_origin])
def test_a_set_of_another_version_is_refused_as_such(tmp_path, settings, read):
    (tmp_path / "set.json").write_text(json.dumps(settings))
    (tmp_path / "provenance.jsonl").write_text('{"asked": [0, 1]}\n')
    with pytest.raises(StateError, match="another version") as caught:
        read(tmp_path)
    (fault,) = caught.value.faults
    assert fault.where == str(tmp_path / "set.json")
    assert fault.expected.startswith(f"format {PAIR_FORMAT}")
    assert f"delete {tmp_path}" in fault.remedy


@pytest.mark.parametrize("field", ["case", "host", "host_file"])
def test_no_name_in_provenance_leads_out_of_its_folder(tmp_path, field):
    box = Box((0, 0, 0), (2, 2, 2))
    line = Provenance("c", "toy", "h", ("h_0000.nii.gz",), "x", "x", 1, 0, box, box, "p", {}, 1.0, False, {}, {}, {})
    plain = to_plain(line)
    (tmp_path / "provenance.jsonl").write_text(json.dumps(plain) + "\n")
    assert [record.case for record in read_provenance(tmp_path)] == ["c"]
    plain[field] = ["../../h"] if field == "host_file" else "../../h"
    (tmp_path / "provenance.jsonl").write_text(json.dumps(plain) + "\n")
    with pytest.raises(StateError) as caught:
        read_provenance(tmp_path)
    assert [fault.found for fault in caught.value.faults] == ["'../../h'"]


@pytest.mark.parametrize("content", ["[]", "{}", '{"file_ending": "/../../x.nii.gz"}', '{"file_ending": 3}', "no json"])
def test_the_ending_of_a_set_is_one_of_those_that_are_known(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(StateError) as caught:
        read_ending(tmp_path)
    assert str(tmp_path / "dataset.json") in caught.value.faults[0].where
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nrrd"}')
    assert read_ending(tmp_path) == ".nrrd"
