"""The card's figures are of sets that the same weights have painted, as they are now."""

from dataclasses import replace

from support.scores import make_scores

from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.sharing.figures import find_figures
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import none_for_nan, to_plain, write_json


def make_set(work: Workspace, name: str, weights: dict[str, str]) -> None:
    """An evaluated set without pairs."""
    folder = work.synthetic(name)
    folder.mkdir(parents=True)
    (folder / "provenance.jsonl").write_text("")
    write_json(folder / "set.json", {"format": PAIR_FORMAT, "method": "tumorgen", "weights": weights})
    scores = replace(make_scores([0.5, 1.0]), set_hash=hash_file(folder / "provenance.jsonl"))
    write_json(work.evaluation(name) / "scores.json", none_for_nan(to_plain(scores)))


def test_figures_are_of_the_same_weights(tmp_path):
    work = Workspace(tmp_path)
    for name, weights in (("own", {"vae": "a"}), ("other", {"vae": "b"}), ("unscored", {"vae": "a"})):
        make_set(work, name, weights)
    (work.evaluation("unscored") / "scores.json").unlink()
    (found,) = find_figures(work, "tumorgen", {"vae": "a"})
    figures = dict(found.figures)
    assert (found.name, found.pairs) == ("own", 0)
    assert figures["agreement with a judge, DSC"].startswith("0.750")
    assert "between real ones" in figures["kernel distance of slices through tumors"]
    assert find_figures(work, "blended", {"vae": "a"}) == ()


def test_scores_of_another_day_do_not_count(tmp_path, capsys):
    """A set that has changed since, and scores of another version, which is said."""
    work = Workspace(tmp_path)
    make_set(work, "grown", {})
    (work.synthetic("grown") / "provenance.jsonl").write_text("\n")
    make_set(work, "old", {})
    write_json(work.evaluation("old") / "scores.json", {"name": "old"})
    assert find_figures(work, "tumorgen", {}) == ()
    assert "the scores of old are left out of the card" in capsys.readouterr().err
