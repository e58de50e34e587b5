"""How the files of a set are read."""

import json

import pytest

from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.synthesis.set_files import read_origin, read_provenance
from tumorgen_cli.system.errors import StateError


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
