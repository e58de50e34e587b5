"""The card of a set: seven criteria, with figures where they are known, and what is not known."""

from support.scores import make_scores
from support.sets import SPLITS

from tumorgen_cli.evaluation.set_card import FILE, set_card, write_card
from tumorgen_cli.synthesis.set_files import SHORTFALLS
from tumorgen_cli.system.json_records import write_json

CRITERIA = ("Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Comprehension", "Consistency")


def section(card, name):
    return card.split(f"## {name}")[1].split("\n## ")[0]


def test_a_card_has_seven_criteria(plan, synthetic):
    """Before the evaluation, what is measured beside real tumors is not known, and the card says so."""
    log = synthetic / "provenance.jsonl"
    log.write_text(log.read_text().replace('"method": "toy"', '"method": "copypaste"'))
    card = set_card(synthetic, plan, None)
    assert [line[3:].split(":")[0] for line in card.splitlines() if line.startswith("## ")] == list(CRITERIA)
    for name in ("Congruence", "Coverage", "Constraint", "Compliance", "Consistency"):
        assert "Not measured. `tumorgen evaluate` measures it" in section(card, name)
    assert "3 pairs with 3 tumors in 2 hosts" in section(card, "Completeness")
    assert "copypaste: Ghiasi" in section(card, "Comprehension")
    assert "Nothing is known to be too weak" in section(card, "Comprehension")
    write_json(synthetic / SHORTFALLS, ["vae was trained for 4 steps"])
    assert "Too weak about the weights: vae was trained for 4 steps." in set_card(synthetic, plan, None)


def test_a_card_has_the_figures_of_the_evaluation(plan, synthetic, tmp_path):
    scores = make_scores([0.5, 0.75, 1.0])
    beside = tmp_path / "evaluation"
    path = write_card(synthetic, plan, scores, beside)
    card = path.read_text()
    assert path == synthetic / FILE
    assert (beside / FILE).read_text() == card
    assert "Not measured" not in card
    volume = next(row for row in scores.comparisons if row.field == "volume_ml")
    figures = f"median {volume.synthetic.median:.3g}, of training tumors {volume.training.median:.3g}"
    assert f"volume: {figures}; KS distance {volume.ks:.3g}" in section(card, "Congruence")
    assert "DSC of a judge with the masks: 0.750" in section(card, "Constraint")
    assert scores.reader.reason in section(card, "Congruence")
    assert "Near-copies of training tumors" in section(card, "Compliance")
    without = set_card(synthetic, plan, make_scores([0.5], judge=""))
    assert "no judge: it does not know such scans" in section(without, "Constraint")
    assert all(case not in card for case in (*SPLITS.train, *SPLITS.test))
