"""Names from files stay in their folder."""

import pytest

from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.names import check_names, inside, is_safe_name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\..\\b", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    assert not is_safe_name(name)
    with pytest.raises(StateError, match="out of their folder") as caught:
        inside(tmp_path, name, "set.json", "make it again")
    (fault,) = caught.value.faults
    assert (fault.where, fault.found, fault.remedy) == ("set.json", repr(name), "make it again")


@pytest.mark.parametrize("name", ["a", "Case 1.2.840$x", ".hidden", "..a", "naïve_s0001", "x" * 250])
def test_usual_and_unusual_names_are_kept(tmp_path, name):
    assert inside(tmp_path, name, "", "") == tmp_path / name


def test_every_name_is_told_once():
    with pytest.raises(StateError) as caught:
        check_names("p.jsonl", ["../b", "fine", "../a", "../b"], "")
    assert [fault.found for fault in caught.value.faults] == ["'../a'", "'../b'"]
