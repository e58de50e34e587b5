"""A folder belongs to the command that began it."""

import json

import pytest

from tumorgen_cli.system.claims import check_claim, claim_folder, refuse_other_files
from tumorgen_cli.system.errors import StateError

OURS = {"command": "filter", "keep": 0.7}


def claim(folder, identity=OURS, begun=True):
    claim_folder(folder, "set.json", identity, lambda: begun)
    return json.loads((folder / "set.json").read_text())


def test_a_new_or_empty_folder_is_claimed_and_known_again(tmp_path):
    assert claim(tmp_path / "new") == OURS
    (tmp_path / "empty").mkdir()
    for name in (".lock", ".DS_Store"):  # of the command that claims it, and of a file manager
        (tmp_path / "empty" / name).touch()
    assert claim(tmp_path / "empty") == OURS
    assert claim(tmp_path / "empty") == OURS


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"thesis.tex": "years of work"}, "1 other files or folders, the first thesis.tex"),
        ({"set.json": '{"command": "synthesize", "seed": 1}', "x": ""}, "a folder that `tumorgen synthesize` made"),
        ({"set.json": '{"command": "filter", "keep": 0.5}'}, "made with other keep"),
        ({"set.json": '{"seed": 1}'}, "another set.json"),
        ({"set.json": "[1]"}, "another set.json"),
    ],
)
def test_what_others_made_stays_and_the_remedies_work(tmp_path, content, found):
    folder = tmp_path / "out"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(StateError) as caught:
        claim(folder)
    (fault,) = caught.value.faults
    assert (fault.where, fault.found) == (str(folder), found)
    assert "--out" in fault.remedy
    assert {path.name: path.read_text() for path in folder.iterdir()} == content
    assert claim(tmp_path / "other") == OURS  # choose another folder
    folder.rename(tmp_path / "away")  # or move this one away
    assert claim(folder) == OURS


def test_a_claim_that_nothing_followed_may_be_put_right(tmp_path):
    """By the same command alone."""
    claim(tmp_path, {**OURS, "keep": 0.5}, begun=False)
    assert claim(tmp_path, begun=False) == OURS
    with pytest.raises(StateError):
        claim(tmp_path, {"command": "merge"}, begun=False)


def test_what_is_known_so_far_is_compared_before_the_rest_is_known(tmp_path):
    claim(tmp_path, {**OURS, "judge": "a"})
    for known in ({"command": "filter"}, OURS):
        check_claim(tmp_path, "set.json", known, lambda: True, whole=False)
    for known, whole in ((OURS, True), ({**OURS, "keep": 0.5}, False), ({"command": "merge"}, False)):
        with pytest.raises(StateError, match="another set"):
            check_claim(tmp_path, "set.json", known, lambda: True, whole)
    assert json.loads((tmp_path / "set.json").read_text()) == {**OURS, "judge": "a"}


def test_other_files_are_refused_where_the_record_comes_later(tmp_path):
    refuse_other_files(tmp_path / "new", "key.json")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StateError, match="not empty"):
        refuse_other_files(tmp_path, "key.json")
    (tmp_path / "key.json").touch()
    refuse_other_files(tmp_path, "key.json")
