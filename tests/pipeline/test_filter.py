"""The stage `filter`: what is refused before a set is read."""

import pytest

from tumorgen_cli.evaluation import filter as filtering
from tumorgen_cli.pipeline.filter import filter_pairs
from tumorgen_cli.system.errors import StateError


def test_a_folder_of_others_is_refused_before_the_set_is_read(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(filtering, "synthetic_cases", lambda *_: pytest.fail("the set was read"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "provenance.jsonl").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match="not empty"):
        filter_pairs(workspace, tmp_path / "set", out=tmp_path / "out", device="cpu")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
